//! Each strategy into each kind of server, compared row by row.

use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, Sink, Source, Strategy, VerifyOptions, verify};

use super::{
    ALL, COLUMNS, PLAIN, Place, SHARDED, UNSHARDED, assert_same, content, insert, load_all, printed, refused, run, source, source_uri,
};
use crate::support::files::connected;
use crate::support::servers::{claim, mysql, route, unroute};

fn options(table: &str, strategy: Strategy) -> IngestOptions {
    IngestOptions::new().with_tables([table]).with_strategy(strategy)
}

/// A name for each place, since two of them are on one server.
fn name(base: &str, place: Place) -> String {
    format!("{base}_{}", place.database)
}

#[test]
fn replace_makes_the_table_and_replaces_it() {
    for place in ALL {
        let table = name("into_replace", place);
        let mut conn = source(&table, 0..23_456);
        place.drop_table(&table);
        let report = load_all(&source_uri(), &place.uri(), &options(&table, Strategy::Replace));
        assert_eq!(report.tables[0].rows_inserted, 23_456);
        assert_same(&content(&mut conn, &table), &content(&mut place.conn(), &table), place.name);
        // Fewer rows, and others.
        run(&mut conn, &format!("delete from {table} where id % 3 = 0"));
        run(&mut conn, &format!("update {table} set name = 'changed' where id % 7 = 0"));
        load_all(&source_uri(), &place.uri(), &options(&table, Strategy::Replace));
        assert_same(&content(&mut conn, &table), &content(&mut place.conn(), &table), place.name);
        let left: Vec<String> =
            place.tables().into_iter().filter(|name| name.starts_with("_ingest_") && name.contains("into_replace")).collect();
        assert!(left.is_empty(), "{left:?}");
        place.drop_table(&table);
    }
}

#[test]
fn append_adds_rows_and_makes_the_table() {
    for place in ALL {
        let table = name("into_append", place);
        let mut conn = source(&table, 0..5_000);
        place.drop_table(&table);
        load_all(&source_uri(), &place.uri(), &options(&table, Strategy::Append));
        let first = content(&mut conn, &table);
        run(&mut conn, &format!("delete from {table}"));
        insert(&mut conn, &table, 5_000..12_000, 1);
        load_all(&source_uri(), &place.uri(), &options(&table, Strategy::Append));
        let expected = [first, content(&mut conn, &table)].concat();
        assert_same(&expected, &content(&mut place.conn(), &table), place.name);
        place.drop_table(&table);
    }
}

#[test]
fn merge_puts_rows_in_the_place_of_those_with_their_key() {
    for place in ALL {
        let table = name("into_merge", place);
        let mut conn = source(&table, 0..8_000);
        place.drop_table(&table);
        load_all(&source_uri(), &place.uri(), &options(&table, Strategy::Merge));
        run(&mut conn, &format!("delete from {table} where id < 2000"));
        run(&mut conn, &format!("update {table} set name = 'changed', note = null where id % 2 = 0"));
        insert(&mut conn, &table, 8_000..9_000, 1);
        let report = load_all(&source_uri(), &place.uri(), &options(&table, Strategy::Merge));
        assert_eq!((report.tables[0].rows_inserted, report.tables[0].rows_updated), (1_000, 6_000), "{}", place.name);
        let mut expected = content(&mut conn, &table);
        let old = source(&format!("{table}_old"), 0..2_000);
        expected.splice(0..0, content(&mut { old }, &format!("{table}_old")));
        assert_same(&expected, &content(&mut place.conn(), &table), place.name);
        place.drop_table(&table);
    }
}

#[test]
fn truncate_and_insert_keeps_the_table_and_what_belongs_to_it() {
    for place in ALL {
        let table = name("into_truncate", place);
        let mut conn = source(&table, 0..3_000);
        let mut there = place.make(&table, &format!("{COLUMNS}, twice bigint generated always as (id * 2) stored, key by_name (name)"));
        run(&mut there, &format!("insert into {table} (id, name) values (1, 'old'), (99999, 'old')"));
        let report = load_all(&source_uri(), &place.uri(), &options(&table, Strategy::TruncateInsert));
        assert_eq!((report.tables[0].rows_inserted, report.tables[0].rows_deleted), (3_000, 2), "{}", place.name);
        assert_same(&content(&mut conn, &table), &content(&mut there, &table), place.name);
        let sql = format!("select count(*) from {table} where twice = id * 2");
        assert_eq!(there.query_first::<u64, _>(sql).unwrap(), Some(3_000));
        place.drop_table(&table);
    }
}

#[test]
fn delete_and_insert_changes_nothing_beyond_the_interval() {
    for place in ALL {
        let table = name("into_interval", place);
        let mut conn = source(&table, 0..6_000);
        place.drop_table(&table);
        load_all(&source_uri(), &place.uri(), &options(&table, Strategy::Replace));
        let before = content(&mut conn, &table);
        run(&mut conn, &format!("update {table} set name = 'changed' where true"));
        run(&mut conn, &format!("delete from {table} where id between 3000 and 3500"));
        let interval =
            options(&table, Strategy::DeleteInsert).with_incremental_key("id").with_interval_start("1000").with_interval_end("3999");
        let report = load_all(&source_uri(), &place.uri(), &interval);
        assert_eq!((report.tables[0].rows_inserted, report.tables[0].rows_deleted), (2_499, 3_000), "{}", place.name);
        let after = content(&mut conn, &table);
        let id = |row: &&Vec<Option<String>>| row[0].as_ref().unwrap().parse::<u64>().unwrap();
        let is_inside = |row: &&Vec<Option<String>>| (1_000..4_000).contains(&id(row));
        let mut expected: Vec<_> = before.iter().filter(|row| !is_inside(row)).chain(after.iter().filter(is_inside)).cloned().collect();
        expected.sort_by_key(|row| id(&row));
        assert_same(&expected, &content(&mut place.conn(), &table), place.name);
        place.drop_table(&table);
    }
}

#[test]
fn a_run_without_an_interval_begins_at_the_highest_key_that_is_stored() {
    for place in ALL {
        let table = name("into_highest", place);
        let mut conn = source(&table, 0..1_000);
        place.drop_table(&table);
        let more = options(&table, Strategy::Append).with_incremental_key("id");
        load_all(&source_uri(), &place.uri(), &more);
        insert(&mut conn, &table, 1_000..1_500, 0);
        let report = load_all(&source_uri(), &place.uri(), &more);
        assert_eq!(report.tables[0].rows_inserted, 500, "{}", place.name);
        assert_same(&content(&mut conn, &table), &content(&mut place.conn(), &table), place.name);
        place.drop_table(&table);
    }
}

#[test]
fn what_an_interrupted_load_left_is_removed_by_the_next() {
    for place in [PLAIN, UNSHARDED] {
        let table = name("into_left", place);
        let mut conn = source(&table, 0..100);
        let mut there = place.make(&format!("_ingest_new_{table}"), "x int");
        run(&mut there, &format!("drop table if exists _ingest_old_{table}"));
        run(&mut there, &format!("create table _ingest_old_{table} (x int)"));
        load_all(&source_uri(), &place.uri(), &options(&table, Strategy::Replace));
        assert_same(&content(&mut conn, &table), &content(&mut there, &table), place.name);
        let left: Vec<String> =
            place.tables().into_iter().filter(|name| name.starts_with("_ingest_") && name.contains("into_left")).collect();
        assert!(left.is_empty(), "{left:?}");
        place.drop_table(&table);
    }
}

#[test]
fn tables_without_a_key_are_replaced_and_appended_to() {
    let table = "into_keyless";
    let mut conn = source(table, 0..3_000);
    run(&mut conn, &format!("alter table {table} drop primary key"));
    insert(&mut conn, table, 0..10, 0);
    for place in [PLAIN, UNSHARDED] {
        place.drop_table(table);
        let there = |place: Place| if place.database == "commerce" { "into_keyless_there" } else { table };
        let options = |strategy| {
            let name = planetscale_ingest::TableName::new(there(place));
            options(table, strategy).with_dest_table(name)
        };
        place.drop_table(there(place));
        load_all(&source_uri(), &place.uri(), &options(Strategy::Replace));
        let sql = |table: &str| format!("select id, name, hex(note), count(*) from {table} group by 1, 2, 3 order by 1");
        assert_same(&printed(&mut conn, &sql(table)), &printed(&mut place.conn(), &sql(there(place))), place.name);
        load_all(&source_uri(), &place.uri(), &options(Strategy::Append));
        let twice = format!("select count(*) from {}", there(place));
        assert_eq!(place.conn().query_first::<u64, _>(twice).unwrap(), Some(6_020));
        place.drop_table(there(place));
    }
}

#[test]
fn a_row_whose_vindex_column_has_changed_moves_to_its_shard() {
    let table = "into_moved";
    let mut conn = source(table, 0..2_000);
    let mut there = SHARDED.conn();
    run(&mut there, &format!("drop table if exists {table}"));
    run(&mut there, &format!("create table {table} ({COLUMNS})"));
    let _ = there.query_drop(format!("alter vschema on customer.{table} drop vindex by_hash"));
    route(&mut there, "customer", table, "by_name(name) using xxhash");
    load_all(&source_uri(), &SHARDED.uri(), &options(table, Strategy::Merge));
    run(&mut conn, &format!("update {table} set name = concat('other ', id) where id % 3 = 0"));
    let report = load_all(&source_uri(), &SHARDED.uri(), &options(table, Strategy::Merge));
    assert_eq!((report.tables[0].rows_inserted, report.tables[0].rows_updated), (0, 2_000));
    assert_same(&content(&mut conn, table), &content(&mut there, table), "by name");
    SHARDED.drop_table(table);
    unroute(&mut there, &format!("alter vschema on customer.{table} drop vindex by_name"));
}

#[test]
fn a_table_to_which_foreign_keys_refer_is_not_replaced() {
    let table = "into_referred";
    let mut conn = source(table, 0..10);
    let mut there = PLAIN.conn();
    run(&mut there, "drop table if exists into_referring");
    let mut there = PLAIN.make(table, COLUMNS);
    run(&mut there, &format!("create table into_referring (id bigint primary key, foreign key (id) references {table} (id))"));
    let error = refused(&source_uri(), &PLAIN.uri(), &options(table, Strategy::Replace));
    assert!(error.contains("foreign keys of `into_referring` refer to"), "{error}");
    load_all(&source_uri(), &PLAIN.uri(), &options(table, Strategy::Merge));
    assert_same(&content(&mut conn, table), &content(&mut there, table), "merge");
    load_all(&source_uri(), &PLAIN.uri(), &options(table, Strategy::TruncateInsert));
    assert_same(&content(&mut conn, table), &content(&mut there, table), "truncate+insert");
    run(&mut there, "drop table into_referring");
    PLAIN.drop_table(table);
}

/// Rows that are deleted and come again would take those with them that refer to them.
#[test]
fn rows_are_not_deleted_where_foreign_keys_would_change_other_tables() {
    let table = "into_cascading";
    let mut conn = source(table, 0..10);
    let interval = |options: IngestOptions| options.with_incremental_key("id").with_interval_start("3");
    for (rule, said) in [("cascade", "CASCADE"), ("set null", "SET NULL")] {
        run(&mut PLAIN.conn(), "drop table if exists into_cascaded");
        let mut there = PLAIN.make(table, COLUMNS);
        load_all(&source_uri(), &PLAIN.uri(), &options(table, Strategy::Merge));
        let referring = format!("id int primary key, of_id bigint, foreign key (of_id) references {table} (id) on delete {rule}");
        run(&mut there, &format!("create table into_cascaded ({referring})"));
        run(&mut there, "insert into into_cascaded values (1, 4), (2, 4), (3, 5)");
        let before = printed(&mut there, "select * from into_cascaded order by id");
        for options in [options(table, Strategy::TruncateInsert), interval(options(table, Strategy::DeleteInsert))] {
            let error = refused(&source_uri(), &PLAIN.uri(), &options);
            assert!(error.contains("a foreign key of `into_cascaded` refers to") && error.contains(said), "{error}");
        }
        load_all(&source_uri(), &PLAIN.uri(), &options(table, Strategy::Merge));
        assert_eq!(printed(&mut there, "select * from into_cascaded order by id"), before);
        assert_same(&content(&mut conn, table), &content(&mut there, table), rule);
        run(&mut there, "drop table into_cascaded");
    }
    // Within the table, all of it can go, and a part of it not.
    let mut there =
        PLAIN.make(table, &format!("{COLUMNS}, parent bigint null, foreign key (parent) references {table} (id) on delete cascade"));
    load_all(&source_uri(), &PLAIN.uri(), &options(table, Strategy::TruncateInsert));
    let error = refused(&source_uri(), &PLAIN.uri(), &interval(options(table, Strategy::DeleteInsert)));
    assert!(error.contains("a foreign key of `into_cascading` refers to"), "{error}");
    assert_same(&content(&mut conn, table), &content(&mut there, table), "within");
    PLAIN.drop_table(table);
}

/// Columns of the destination that hold more than those of the source are read back as the source has them.
#[test]
fn a_table_with_wider_columns_is_gone_on_from_and_verified() {
    const NARROW: &str = "id int not null primary key, amount decimal(10,2), whole int, small int unsigned, double_of smallint, bits bit(9), some bit(9), \
                          wide bit(9), day date, at datetime, big bigint unsigned";
    const WIDE: &str = "id bigint not null primary key, amount decimal(14,4), whole decimal(12,1), small decimal(20,0), double_of double, bits bit(20), \
                        some smallint, wide bigint unsigned, day datetime(3), at datetime(6), big decimal(30,5)";
    for place in ALL {
        let table = name("into_wider", place);
        claim(mysql(), "commerce", &table);
        let mut conn = connected(mysql(), "commerce");
        run(&mut conn, &format!("drop table if exists {table}"));
        run(&mut conn, &format!("create table {table} ({NARROW})"));
        let mut there = place.make(&table, WIDE);
        let rows = |least: u64, more: &str| {
            format!(
                "insert into {table} values ({least}, -1.5, -7, 4294967295, -32768, b'100000001', b'111111111', b'0', '2024-02-29', \
                 '2024-02-29 01:02:03', 18446744073709551615), ({least} + 1, {more}, 5, 1, 2, b'1', b'1', b'111111111', '1000-01-01', \
                 '9999-12-31 23:59:59', 0), ({least} + 2, null, null, null, null, null, null, null, null, null, null)"
            )
        };
        let source = Source::open(&source_uri()).unwrap();
        let mut sink = Sink::open(&place.uri()).unwrap();
        for (least, more) in [(1, "7.25"), (11, "9.75")] {
            run(&mut conn, &rows(least, more));
            if least > 1 {
                run(&mut conn, &format!("update {table} set amount = 8 where id = {least}"));
            }
            let by_amount = options(&table, Strategy::Append).with_incremental_key("amount");
            let inserted = load_all(&source_uri(), &place.uri(), &by_amount).tables[0].rows_inserted;
            // Later runs do not bring what has no amount.
            assert_eq!(inserted, if least == 1 { 3 } else { 2 }, "{}", place.name);
        }
        load_all(&source_uri(), &place.uri(), &options(&table, Strategy::Merge));
        let checked = VerifyOptions::new(options(&table, Strategy::Merge));
        let found = verify(&source, &mut sink, &checked).unwrap();
        assert!(found.is_equal() && found.tables[0].destination_rows == 6, "{}: {found:?}", place.name);
        run(&mut there, &format!("update {table} set bits = 7, day = '2000-01-01' where id = 2"));
        let found = verify(&source, &mut sink, &checked).unwrap();
        assert_eq!(found.tables[0].different, [["2"]], "{}: {found:?}", place.name);
        // What the source cannot have is said to be there.
        for (column, value) in [
            ("amount", "1.0001"),
            ("whole", "0.5"),
            ("double_of", "1e300"),
            ("bits", "512"),
            ("some", "-1"),
            ("wide", "512"),
            ("day", "now()"),
            ("big", "1e20"),
        ] {
            let before = printed(&mut there, &format!("select {column} + 0 from {table} where id = 1"));
            run(&mut there, &format!("update {table} set {column} = {value} where id = 1"));
            let error = verify(&source, &mut sink, &checked).map(|found| found.tables[0].state.clone());
            let said = format!("{error:?}");
            assert!(
                said.contains(column) && said.contains("holds values that its type at the source does not have"),
                "{}: {said}",
                place.name
            );
            let before = before[0][0].clone().unwrap();
            let before = if column == "day" { "'2024-02-29'".to_owned() } else { before };
            run(&mut there, &format!("update {table} set {column} = {before} where id = 1"));
        }
        place.drop_table(&table);
    }
}

#[test]
fn what_was_loaded_verifies_and_what_was_changed_is_found() {
    for place in ALL {
        let table = name("into_verified", place);
        let _source = source(&table, 0..9_000);
        place.drop_table(&table);
        let options = options(&table, Strategy::Replace);
        load_all(&source_uri(), &place.uri(), &options);
        let check = || {
            let (source, mut sink) = (Source::open(&source_uri()).unwrap(), Sink::open(&place.uri()).unwrap());
            verify(&source, &mut sink, &VerifyOptions::new(options.clone())).unwrap()
        };
        let report = check();
        assert!(report.is_equal(), "{}: {report:?}", place.name);
        run(&mut place.conn(), &format!("update {table} set note = 'changed' where id = 4711"));
        let report = check();
        assert!(!report.is_equal() && format!("{report:?}").contains("4711"), "{}: {report:?}", place.name);
        place.drop_table(&table);
    }
}
