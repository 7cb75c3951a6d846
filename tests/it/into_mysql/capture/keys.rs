//! Keys and vindexes: a row is there once, whatever becomes of what says which it is and where it lies.

use super::*;
use crate::capture::fixture::binary_logs_stay;
use crate::support::servers::route;

fn compare(captured: &mut Captured, columns: &str) {
    let (table, copy) = (captured.table.clone(), captured.copy.clone());
    let mut expected = printed(&mut captured.at_source, &format!("select {columns} from `{table}`"));
    let mut found = printed(&mut captured.there, &format!("select {columns} from `{copy}` where not _cdc_deleted"));
    expected.sort();
    found.sort();
    assert_eq!(found, expected, "{}", captured.place.name);
}

#[test]
fn keys_that_differ_by_case_accents_or_spaces_are_one_row_that_is_spelled_anew() {
    let _logs = binary_logs_stay();
    for place in ALL {
        for hard in [false, true] {
            let columns = "k varchar(40) collate utf8mb4_0900_ai_ci not null primary key, v int";
            let mut captured = Captured::new_with(place, &format!("case_{hard}"), columns).hard(hard);
            captured.at_source("insert into {t} values ('a', 1), ('b', 2), ('ü', 3), ('c', 4), ('d', 5), ('e', 6)");
            captured.run_all();
            compare(&mut captured, "hex(k), v");
            captured.at_source("update {t} set k = 'A' where k = 'a'; update {t} set k = 'U' where k = 'ü'");
            captured.at_source("delete from {t} where k = 'b'; insert into {t} values ('B', 20); update {t} set v = 21 where k = 'B'");
            // Back and forth within one run.
            captured.at_source(
                "update {t} set k = 'C' where k = 'c'; update {t} set k = 'c' where k = 'C'; update {t} set k = 'Ç' where k = 'c'",
            );
            captured.at_source("delete from {t} where k = 'd'; insert into {t} values ('D', 50); delete from {t} where k = 'D'");
            captured.at_source("delete from {t} where k = 'e'; insert into {t} values ('E', 60); delete from {t} where k = 'E'; insert into {t} values ('e', 61)");
            captured.run_all();
            compare(&mut captured, "hex(k), v");
            captured.run_all();
            let twice = captured.cell("select count(*) from {t} where not _cdc_deleted");
            assert_eq!(twice.as_deref(), Some("5"), "{}", place.name);
        }
    }
}

#[test]
fn changed_keys_move_their_rows_between_shards() {
    let _logs = binary_logs_stay();
    for place in ALL {
        for hard in [false, true] {
            let mut captured = Captured::new(place, &format!("moved_{hard}"), 0..100).hard(hard);
            captured.run_all();
            captured.at_source("update {t} set id = id + 1000 where id < 50");
            captured.at_source("update {t} set id = 5 where id = 1007; update {t} set name = 'moved' where id = 5");
            captured.run_all();
            captured.assert_equals();
            captured.run_all();
        }
    }
}

#[test]
fn a_row_whose_vindex_column_changes_moves_to_its_shard() {
    let _logs = binary_logs_stay();
    for hard in [false, true] {
        let columns = "id bigint not null primary key, owner bigint not null, v varchar(20)";
        let mut captured = Captured::new_with(SHARDED, &format!("owner_{hard}"), columns).hard(hard);
        let copy = captured.copy.clone();
        run(
            &mut captured.there,
            &format!(
                "create table `{copy}` (id bigint not null primary key, owner bigint not null, v varchar(20), _cdc_lsn mediumtext collate ascii_bin, \
                 _cdc_deleted tinyint(1), _cdc_synced_at datetime(6))"
            ),
        );
        route(&mut captured.there, "customer", &copy, "by_hash(owner)");
        once_known("the table", || {
            mysql::prelude::Queryable::query_drop(&mut captured.there, format!("select owner from `{copy}` limit 1"))
        });
        let rows: Vec<String> = (0..40).map(|id| format!("({id}, {}, 'v{id}')", id % 4)).collect();
        captured.at_source(&format!("insert into {{t}} values {}", rows.join(", ")));
        captured.run_all();
        compare(&mut captured, "id, owner, v");
        captured.at_source("update {t} set owner = owner + 10 where id < 30; update {t} set v = 'again' where id < 10");
        captured.run_all();
        compare(&mut captured, "id, owner, v");
        assert_eq!(captured.cell("select count(*) from {t}").as_deref(), Some("40"));
        captured.at_source("delete from {t} where id < 3");
        captured.run_all();
        compare(&mut captured, "id, owner, v");
        captured.run_all();
    }
}

#[test]
fn keys_of_several_columns_are_merged() {
    let _logs = binary_logs_stay();
    for place in ALL {
        for hard in [false, true] {
            let columns = "a int not null, b varchar(20) not null, d date not null, v int, primary key (b, a, d)";
            let mut captured = Captured::new_with(place, &format!("composite_{hard}"), columns).hard(hard);
            let rows: Vec<String> =
                (0..60).map(|id| format!("({}, 'k''{}', '2024-01-{:02}', {id})", id % 5, id % 7, id % 28 + 1)).collect();
            captured.at_source(&format!("insert ignore into {{t}} values {}", rows.join(", ")));
            captured.run_all();
            compare(&mut captured, "a, b, d, v");
            captured.at_source("delete from {t} where a = 3; update {t} set v = v + 1 where a = 1; update {t} set a = 9 where a = 4");
            captured.run_all();
            compare(&mut captured, "a, b, d, v");
            captured.run_all();
        }
    }
}

/// Such a key takes texts that begin alike for one. It is refused before anything changes, and a full refresh makes another.
#[test]
fn keys_of_the_beginnings_of_texts_are_refused_and_made_anew() {
    let _logs = binary_logs_stay();
    for place in ALL {
        let table = format!("captured_cut_{}", place.database);
        let copy = format!("{table}_there");
        let mut conn = create_with(vitess(), "commerce", &table, "id varchar(60) collate utf8mb4_0900_bin not null primary key, v int");
        run(&mut conn, &format!("insert into {table} values ('abc1', 1), ('abc2', 2), ('b', 3)"));
        let mut there = place.conn();
        claim((place.server)(), place.database, &copy);
        forget(&mut there, &copy);
        let ours = "_cdc_lsn mediumtext collate ascii_bin, _cdc_deleted tinyint(1), _cdc_synced_at datetime(6)";
        let columns = format!("id varchar(60) collate utf8mb4_0900_bin not null, v int, {ours}, primary key (id(3))");
        run(&mut there, &format!("create table {copy} ({columns})"));
        let options = IngestOptions::new().with_tables([&table]).with_dest_table(TableName::new(&copy));
        let error = capture(&place.uri(), &options).unwrap_err().to_string();
        assert!(error.contains("is of the beginning of `id` only"), "{}: {error}", place.name);
        complete(capture(&place.uri(), &options.clone().with_full_refresh(true)), place);
        run(&mut conn, &format!("update {table} set v = v + 10 where id <> 'b'"));
        run(&mut conn, &format!("delete from {table} where id = 'b'"));
        complete(capture(&place.uri(), &options), place);
        let mut found = printed(&mut there, &format!("select id, v from {copy} where not _cdc_deleted"));
        found.sort();
        let rows = [("abc1", "11"), ("abc2", "12")].map(|(id, v)| vec![Some(id.to_owned()), Some(v.to_owned())]);
        assert_eq!(found, rows, "{}", place.name);
        // A text that can only be in a key with its beginning is none that rows are told apart by.
        forget(&mut there, &copy);
        run(&mut conn, &format!("alter table {table} modify id text collate utf8mb4_0900_bin not null, drop primary key"));
        let named = options.with_primary_key(["id"]);
        let error = capture(&place.uri(), &named).unwrap_err().to_string();
        assert!(error.contains("could only have a key of the beginning of it"), "{}: {error}", place.name);
        assert!(!place.tables().contains(&copy), "{}", place.name);
        run(&mut conn, &format!("drop table {table}"));
    }
}
