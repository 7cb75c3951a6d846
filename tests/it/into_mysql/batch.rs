//! Each strategy into each kind of server, compared row by row.

use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, Sink, Source, Strategy, VerifyOptions, verify};

use super::{
    ALL, COLUMNS, PLAIN, Place, SHARDED, UNSHARDED, assert_same, content, insert, load_all, printed, refused, run, source, source_uri,
};

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
    let _ = there.query_drop(format!("alter vschema on customer.{table} add vindex by_name(name) using xxhash"));
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while there.query_drop(format!("select 1 from {table} limit 1")).is_err() && std::time::Instant::now() < until {}
    load_all(&source_uri(), &SHARDED.uri(), &options(table, Strategy::Merge));
    run(&mut conn, &format!("update {table} set name = concat('other ', id) where id % 3 = 0"));
    let report = load_all(&source_uri(), &SHARDED.uri(), &options(table, Strategy::Merge));
    assert_eq!((report.tables[0].rows_inserted, report.tables[0].rows_updated), (0, 2_000));
    assert_same(&content(&mut conn, table), &content(&mut there, table), "by name");
    SHARDED.drop_table(table);
    run(&mut there, &format!("alter vschema on customer.{table} drop vindex by_name"));
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
    run(&mut there, "drop table into_referring");
    PLAIN.drop_table(table);
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
