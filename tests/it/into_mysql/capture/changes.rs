//! Snapshot, stream and resume; deletes, and changes of the tables themselves.

use planetscale_ingest::IngestOptions;

use super::*;
use crate::capture::fixture::{Writer, binary_logs_stay, create};
use crate::support::servers::wait_for_column;

/// A copy and incremental runs while a writer keeps changing the tables.
fn follow_a_writer(place: Place, keyspace: &'static str, seed: u64) {
    let _logs = binary_logs_stay();
    let names: Vec<String> = ["a", "b"].map(|name| format!("into_follow_{name}_{keyspace}_{}", place.database)).to_vec();
    let mut conn = vitess().conn();
    let mut there = place.conn();
    for name in &names {
        conn = create(vitess(), keyspace, name);
        insert(&mut conn, name, 0..1_500, 0);
    }
    let writer = Writer::start(vitess(), keyspace, names.clone(), seed);
    // Into a keyspace on the same server a table goes by another name.
    let copies: Vec<(String, String)> = names.iter().map(|name| (name.clone(), format!("{name}_copy"))).collect();
    for (_, copy) in &copies {
        forget(&mut there, copy);
    }
    for _ in 0..5 {
        let capture = || {
            for (name, copy) in &copies {
                let options = IngestOptions::new().with_tables([name]).with_dest_table(TableName::new(copy));
                complete(load(&vitess().cdc_uri(keyspace), &place.uri(), &options), place);
            }
        };
        capture();
        let paused = writer.pause();
        // What the writer did after the stop position.
        capture();
        for (name, copy) in &copies {
            assert_rows(&source_rows(&mut conn, name), &rows(&mut there, copy), place.name);
        }
        drop(paused);
    }
}

#[test]
fn an_unsharded_keyspace_follows_a_writer_into_mysql() {
    follow_a_writer(PLAIN, "commerce", 31);
}

#[test]
fn an_unsharded_keyspace_follows_a_writer_into_itself_by_other_names() {
    follow_a_writer(UNSHARDED, "commerce", 32);
}

#[test]
fn an_unsharded_keyspace_follows_a_writer_into_a_sharded_one() {
    follow_a_writer(SHARDED, "commerce", 33);
}

#[test]
fn a_sharded_keyspace_follows_a_writer_into_an_unsharded_one() {
    follow_a_writer(UNSHARDED, "customer", 34);
}

#[test]
fn tables_that_keep_their_names_are_captured_together() {
    let _logs = binary_logs_stay();
    let names = ["into_two_a", "into_two_b"];
    let mut there = PLAIN.conn();
    let mut conn = vitess().conn();
    for name in names {
        forget(&mut there, name);
        conn = create(vitess(), "commerce", name);
        insert(&mut conn, name, 0..300, 0);
    }
    let options = IngestOptions::new().with_tables(names);
    for generation in 1..3 {
        complete(load(&vitess().cdc_uri("commerce"), &PLAIN.uri(), &options), PLAIN);
        for name in names {
            assert_rows(&source_rows(&mut conn, name), &rows(&mut there, name), PLAIN.name);
            run(&mut conn, &format!("update {name} set name = 'g{generation}' where id % 3 = 0"));
            run(&mut conn, &format!("delete from {name} where id % 7 = {generation}"));
        }
    }
    let kept =
        printed(&mut there, "select dest_table, source_table, live_rows from _ingest_checkpoint where dest_table like 'into\\_two\\__'");
    assert_eq!(kept.len(), 2, "{kept:?}");
}

#[test]
fn a_table_that_does_not_fit_its_destination_ends_alone() {
    let _logs = binary_logs_stay();
    let other = "id bigint not null primary key, name date, what_is_this int not null".to_owned();
    let ours = "_cdc_lsn mediumtext collate ascii_bin, _cdc_deleted tinyint(1), _cdc_synced_at datetime(6)";
    let keyless = format!("{}, {ours}", COLUMNS.replace(" primary key", ""));
    for (place, columns) in [(PLAIN, &other), (SHARDED, &other), (PLAIN, &keyless)] {
        let names = ["a", "b", "c"].map(|name| format!("into_unfit_{}_{name}", place.database));
        let mut there = place.conn();
        let mut conns = names.each_ref().map(|name| create(vitess(), "commerce", name));
        for (conn, name) in conns.iter_mut().zip(&names) {
            forget(&mut there, name);
            insert(conn, name, 0..300, 0);
        }
        let unfit = &names[1];
        place.make(unfit, columns);
        let options = IngestOptions::new().with_tables(&names);
        for generation in 1..3 {
            run(&mut conns[0], &format!("update {} set name = 'g{generation}' where id % 3 = 0", names[0]));
            let report = load(&vitess().cdc_uri("commerce"), &place.uri(), &options).unwrap();
            for (index, entry) in report.tables.iter().enumerate() {
                match (&entry.state, index) {
                    (TableState::Failed { error }, 1) => assert!(error.contains(unfit.as_str()), "{}: {error}", place.name),
                    (TableState::Complete, 0 | 2) => {
                        assert_rows(&source_rows(&mut conns[index], &names[index]), &rows(&mut there, &names[index]), place.name);
                    }
                    (state, _) => panic!("{}: {}: {state:?}", place.name, names[index]),
                }
            }
            assert_eq!(printed(&mut there, &format!("select count(*) from {unfit}")), [[Some("0".to_owned())]]);
        }
        place.drop_table(unfit);
        complete(load(&vitess().cdc_uri("commerce"), &place.uri(), &options), place);
        for (conn, name) in conns.iter_mut().zip(&names) {
            assert_rows(&source_rows(conn, name), &rows(&mut there, name), place.name);
        }
    }
}

#[test]
fn deleted_rows_stay_marked_with_their_values_or_go() {
    let _logs = binary_logs_stay();
    for place in ALL {
        for hard in [false, true] {
            let mut captured = Captured::new(place, &format!("deletes_{hard}"), 1..6).hard(hard);
            captured.run_all();
            let name = captured.cell("select name from {t} where id = 2");
            captured
                .at_source("delete from {t} where id = 2; insert into {t} (id, name) values (9, 'short'); delete from {t} where id = 9");
            let report = captured.run_all();
            assert_eq!((report.tables[0].rows_deleted, report.tables[0].rows_inserted), (2, 1));
            let copy = captured.copy.clone();
            let left = printed(&mut captured.there, &format!("select id, name from `{copy}` where _cdc_deleted order by id"));
            let expected = if hard { vec![] } else { vec![vec![Some("2".into()), name], vec![Some("9".into()), Some("short".into())]] };
            assert_eq!(left, expected, "{}", place.name);
            captured.assert_equals();
            // Rows that come again, and a position that says how many there are.
            captured.at_source("insert into {t} (id, name) values (2, 'again')");
            captured.run_all();
            captured.assert_equals();
            captured.run_all();
            let counted = captured.cell("select count(*) from {t} where not _cdc_deleted");
            assert_eq!(captured.cell(&format!("select live_rows from _ingest_checkpoint where dest_table = '{copy}'")), counted);
            let marked = captured.cell("select count(*) from {t} where _cdc_deleted");
            assert_eq!(captured.cell(&format!("select deleted_rows from _ingest_checkpoint where dest_table = '{copy}'")), marked);
        }
    }
}

/// In the destination a column can be such that any update of its row gives it the time of day.
#[test]
fn rows_that_are_marked_as_deleted_keep_the_times_that_they_had() {
    let _logs = binary_logs_stay();
    for place in ALL {
        let mut captured = Captured::new(place, "on_update", 1..20);
        captured.run_all();
        captured.there("alter table {t} modify happened datetime(6) null on update current_timestamp(6)");
        let copy = captured.copy.clone();
        let times = format!("select id, cast(happened as char) from `{copy}` order by id");
        let before = printed(&mut captured.there, &times);
        captured.at_source("delete from {t} where id in (2, 7, 9)");
        captured.run_all();
        assert_eq!(captured.cell("select count(*) from {t} where _cdc_deleted").as_deref(), Some("3"));
        assert_eq!(printed(&mut captured.there, &times), before, "{}", place.name);
        captured.at_source("truncate table {t}");
        captured.run_all();
        assert_eq!(captured.cell("select count(*) from {t} where _cdc_deleted").as_deref(), Some("19"));
        assert_eq!(printed(&mut captured.there, &times), before, "{}", place.name);
    }
}

#[test]
fn many_deletes_of_one_transaction_keep_their_order() {
    let _logs = binary_logs_stay();
    for place in ALL {
        let mut captured = Captured::new(place, "many_deletes", 0..1_000);
        captured.run_all();
        captured.at_source("delete from {t} where id % 2 = 0");
        captured.run_all();
        captured.assert_equals();
        let copy = captured.copy.clone();
        let lsns = printed(&mut captured.there, &format!("select count(*), count(distinct _cdc_lsn) from `{copy}` where _cdc_deleted"));
        assert_eq!(lsns, [[Some("500".to_owned()), Some("500".to_owned())]], "{}", place.name);
    }
}

#[test]
fn truncate_deletes_the_rows_softly_or_hard_and_later_rows_arrive() {
    let _logs = binary_logs_stay();
    for place in ALL {
        for hard in [false, true] {
            let mut captured = Captured::new(place, &format!("truncated_{hard}"), 0..40).hard(hard);
            captured.run_all();
            let table = captured.table.clone();
            insert(&mut captured.at_source, &table, 40..50, 0);
            captured.at_source("truncate table {t}");
            insert(&mut captured.at_source, &table, 45..60, 1);
            captured.run_all();
            captured.assert_equals();
            let deleted = captured.cell("select count(*) from {t} where _cdc_deleted");
            assert_eq!(deleted.as_deref(), Some(if hard { "0" } else { "45" }), "{}", place.name);
            captured.at_source("delete from {t} where id = 50");
            captured.run_all();
            captured.assert_equals();
        }
    }
}

#[test]
fn columns_are_added_with_their_defaults_widened_and_dropped() {
    let _logs = binary_logs_stay();
    for place in ALL {
        let mut captured = Captured::new(place, "columns", 0..20);
        captured.at_source("alter table {t} add column small tinyint, add column goes varchar(5)");
        let table = captured.table.clone();
        wait_for_column(&mut captured.at_source, &table, "goes");
        captured.at_source("update {t} set small = id, goes = 'x'");
        captured.run_all();
        captured.at_source("update {t} set name = 'before' where id < 5");
        captured.at_source("alter table {t} add column more int not null default 7 after id, add column txt varchar(20) default 'it''s'");
        wait_for_column(&mut captured.at_source, &table, "txt");
        captured.at_source("insert into {t} (id, more, txt) values (100, 1, 'new'); update {t} set more = 8 where id = 3");
        captured.at_source("alter table {t} modify column small bigint");
        captured.at_source("update {t} set small = 5000000000 where id = 4");
        captured.run_all();
        let compare = |captured: &mut Captured, columns: &str| {
            let (table, copy) = (captured.table.clone(), captured.copy.clone());
            let expected = printed(&mut captured.at_source, &format!("select {columns} from `{table}` order by id"));
            let found = printed(&mut captured.there, &format!("select {columns} from `{copy}` where not _cdc_deleted order by id"));
            assert_eq!(found, expected, "{}", place.name);
        };
        compare(&mut captured, "id, more, txt, small, goes, name");
        let copy = captured.copy.clone();
        let kind = captured.cell(&format!(
            "select column_type from information_schema.columns where table_name = '{copy}' and column_name = 'small' and table_schema = database()"
        ));
        assert_eq!(kind.as_deref(), Some("bigint"));
        // A dropped column stays with what it held, and is another one if it comes again.
        captured.at_source("alter table {t} drop column goes");
        captured.at_source("insert into {t} (id, more) values (101, 2)");
        captured.run_all();
        compare(&mut captured, "id, more, txt, small, name");
        assert_eq!(captured.cell("select goes from {t} where id = 1").as_deref(), Some("x"));
        captured.at_source("alter table {t} add column goes varchar(5) default 'y'");
        wait_for_column(&mut captured.at_source, &table, "goes");
        captured.at_source("insert into {t} (id, more, goes) values (102, 3, 'z')");
        captured.run_all();
        compare(&mut captured, "id, more, txt, small, goes, name");
        captured.run_all();
    }
}

#[test]
fn a_full_refresh_leaves_what_the_source_holds_and_the_next_run_goes_on() {
    let _logs = binary_logs_stay();
    for place in ALL {
        let mut captured = Captured::new(place, "refreshed", 0..50);
        captured.run_all();
        captured.at_source("delete from {t} where id < 5; update {t} set name = 'new' where id > 40");
        captured.there("delete from {t} where id = 11; update {t} set name = 'by hand' where id = 12");
        captured.refresh();
        captured.assert_equals();
        assert_eq!(captured.cell("select count(*) from {t} where _cdc_deleted").as_deref(), Some("0"), "{}", place.name);
        captured.at_source("update {t} set name = 'later' where id = 20");
        captured.run_all();
        captured.assert_equals();
        let copy = captured.copy.clone();
        let left = captured.cell(&format!(
            "select count(*) from information_schema.tables where table_schema = database() and table_name in ('_ingest_new_{copy}', '_ingest_old_{copy}')"
        ));
        assert_eq!(left.as_deref(), Some("0"), "{}", place.name);
    }
}

#[test]
fn large_transactions_arrive_whole() {
    let _logs = binary_logs_stay();
    for place in ALL {
        let mut captured = Captured::new(place, "large", 0..9_000);
        captured.run_all();
        captured.at_source("update {t} set name = 'all at once', note = repeat('n', 3000)");
        captured.run_all();
        captured.assert_equals();
    }
}

#[test]
fn a_table_is_not_captured_into_itself() {
    let _logs = binary_logs_stay();
    let mut captured = Captured::new(UNSHARDED, "itself", 0..10);
    let table = captured.table.clone();
    for refresh in [false, true] {
        for name in [TableName::new(&table), TableName::new(&table).in_schema("commerce")] {
            let options = IngestOptions::new().with_tables([&table]).with_dest_table(name).with_full_refresh(refresh);
            let error = captured.run_with(&options).unwrap_err().to_string();
            assert!(error.contains("would be its own destination") && error.contains(&table), "{error}");
        }
    }
    assert_eq!(source_rows(&mut captured.at_source, &table).len(), 10);
    // The same name in another keyspace is another table.
    let mut there = SHARDED.conn();
    forget(&mut there, &table);
    let options = IngestOptions::new().with_tables([&table]);
    complete(load(&vitess().cdc_uri("commerce"), &SHARDED.uri(), &options), SHARDED);
    assert_rows(&source_rows(&mut captured.at_source, &table), &rows(&mut there, &table), SHARDED.name);
}
