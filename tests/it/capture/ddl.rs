//! Changes of the tables themselves.

use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, TableState};

use super::fixture::{BOTH, Destination, Kind, binary_logs_stay, create, insert};
use crate::support::servers::{vitess, wait_for_column};

#[test]
fn truncate_deletes_the_rows_softly_or_hard_and_later_rows_arrive() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for keyspace in ["commerce", "customer"] {
        for kind in BOTH {
            for hard in [false, true] {
                let table = format!("truncated_{kind:?}_{hard}").to_lowercase();
                let mut conn = create(server, keyspace, &table);
                insert(&mut conn, &table, 0..40, 0);
                let destination = Destination::new(kind);
                let options = IngestOptions::new().with_tables([&table]).with_hard_delete(hard);
                destination.capture_all(&server.cdc_uri(keyspace), &options);
                insert(&mut conn, &table, 40..50, 0);
                conn.query_drop(format!("truncate table {table}")).unwrap();
                insert(&mut conn, &table, 45..60, 1);
                destination.capture_all(&server.cdc_uri(keyspace), &options);
                destination.assert_equals(&mut conn, &table);
                let deleted = destination.cell(&format!("select count(*) from {table} where _cdc_deleted"));
                let count: usize = deleted.unwrap().parse().unwrap();
                // Of the rows that never were in the destination, a sharded table's new copy knows nothing.
                let expected = if hard { 0..=0 } else { 40..=45 };
                assert!(expected.contains(&count), "{keyspace} {kind:?} {count}");
                // And the next run goes on from there.
                conn.query_drop(format!("delete from {table} where id = 50")).unwrap();
                destination.capture_all(&server.cdc_uri(keyspace), &options);
                destination.assert_equals(&mut conn, &table);
            }
        }
    }
}

#[test]
fn drop_and_rename_end_the_table_and_name_the_statement_while_others_go_on() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for kind in BOTH {
        for (statement, keyword) in [("drop table {}", "drop table"), ("rename table {} to renamed_away", "rename")] {
            let [stays, goes] = ["stays", "goes"].map(|name| format!("ends_{name}_{kind:?}").to_lowercase());
            let mut conn = create(server, "commerce", &stays);
            create(server, "commerce", &goes);
            conn.query_drop("drop table if exists renamed_away").unwrap();
            insert(&mut conn, &goes, 0..10, 0);
            insert(&mut conn, &stays, 0..10, 0);
            let destination = Destination::new(kind);
            let options = IngestOptions::new().with_tables([&stays, &goes]);
            destination.capture_all(&server.cdc_uri("commerce"), &options);
            insert(&mut conn, &goes, 10..15, 0);
            conn.query_drop(statement.replace("{}", &goes)).unwrap();
            // The table has to be there again for the run to begin at all.
            create(server, "commerce", &goes);
            insert(&mut conn, &stays, 10..20, 0);
            let report = destination.capture(&server.cdc_uri("commerce"), &options).unwrap();
            assert!(!report.is_complete());
            assert_eq!(report.tables[0].state, TableState::Complete);
            let TableState::Failed { error } = &report.tables[1].state else { panic!("{:?}", report.tables[1].state) };
            assert!(error.to_lowercase().contains(keyword) && error.contains(&goes), "{error}");
            destination.assert_equals(&mut conn, &stays);
            // What came before the statement is there.
            assert_eq!(destination.rows(&goes).len(), 15);
        }
    }
}

#[test]
fn new_columns_appear_with_the_value_that_older_rows_have() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for keyspace in ["commerce", "customer"] {
        for kind in BOTH {
            let table = format!("grows_{kind:?}").to_lowercase();
            let mut conn = create(server, keyspace, &table);
            insert(&mut conn, &table, 0..20, 0);
            let destination = Destination::new(kind);
            let options = IngestOptions::new().with_tables([&table]);
            destination.capture_all(&server.cdc_uri(keyspace), &options);
            conn.query_drop(format!("update {table} set name = 'before' where id = 1")).unwrap();
            conn.query_drop(format!("alter table {table} add column grade int not null default 7 after id, add column extra varchar(10)"))
                .unwrap();
            wait_for_column(&mut conn, &table, "extra");
            conn.query_drop(format!("insert into {table} (id, grade, extra) values (100, 9, 'x')")).unwrap();
            conn.query_drop(format!("update {table} set grade = 8 where id = 2")).unwrap();
            destination.capture_all(&server.cdc_uri(keyspace), &options);
            destination.assert_equals(&mut conn, &table);
            let check = |conn: &mut mysql::Conn| {
                let expected: Vec<(i64, i64, Option<String>)> =
                    conn.query(format!("select id, grade, extra from {table} order by id")).unwrap();
                let found: Vec<(i64, i64, Option<String>)> = destination
                    .query(&format!("select id, grade, extra from {table} order by id"))
                    .into_iter()
                    .map(|row| (row[0].as_deref().unwrap().parse().unwrap(), row[1].as_deref().unwrap().parse().unwrap(), row[2].clone()))
                    .collect();
                assert_eq!(found, expected, "{keyspace} {kind:?}");
            };
            check(&mut conn);
            // A column that no row shows yet.
            conn.query_drop(format!("alter table {table} add column quiet varchar(10) not null default 'hush'")).unwrap();
            wait_for_column(&mut conn, &table, "quiet");
            destination.capture_all(&server.cdc_uri(keyspace), &options);
            let quiet = destination.query(&format!("select distinct quiet from {table}"));
            assert_eq!(quiet, [[Some("hush".to_owned())]], "{keyspace} {kind:?}");
            check(&mut conn);
        }
    }
}

#[test]
fn a_widened_column_is_widened_and_one_that_means_something_else_is_an_error() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for kind in BOTH {
        let table = format!("widens_{kind:?}").to_lowercase();
        let mut conn = create(server, "commerce", &table);
        conn.query_drop(format!("alter table {table} add column small int")).unwrap();
        wait_for_column(&mut conn, &table, "small");
        insert(&mut conn, &table, 0..5, 0);
        let destination = Destination::new(kind);
        let options = IngestOptions::new().with_tables([&table]);
        destination.capture_all(&server.cdc_uri("commerce"), &options);
        conn.query_drop(format!("alter table {table} modify small bigint")).unwrap();
        conn.query_drop(format!("update {table} set small = 5000000000 where id = 1")).unwrap();
        destination.capture_all(&server.cdc_uri("commerce"), &options);
        assert_eq!(destination.cell(&format!("select small from {table} where id = 1")).as_deref(), Some("5000000000"));
        conn.query_drop(format!("alter table {table} modify small varchar(20)")).unwrap();
        let error = destination.capture(&server.cdc_uri("commerce"), &options).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("small")
                && said.contains("bigint") | said.contains("BIGINT") | said.contains("INTEGER")
                && said.contains("varchar"),
            "{said}"
        );
        assert_eq!(destination.cell(&format!("select count(*) from {table}")).as_deref(), Some("5"));
    }
}

#[test]
fn two_shards_may_send_the_columns_in_different_order() {
    let _logs = binary_logs_stay();
    let server = vitess();
    let table = "disordered";
    let mut conn = create(server, "customer", table);
    insert(&mut conn, table, 0..100, 0);
    let mut one = server.conn();
    one.query_drop("use `customer:-80`").unwrap();
    one.query_drop(format!("alter table {table} modify note text after id")).unwrap();
    let destination = Destination::new(Kind::Sqlite);
    let options = IngestOptions::new().with_tables([table]);
    destination.capture_all(&server.cdc_uri("customer"), &options);
    conn.query_drop(format!("update {table} set note = 'again' where id < 50")).unwrap();
    destination.capture_all(&server.cdc_uri("customer"), &options);
    let found = destination.rows(table);
    // Through vtgate the columns of such a table are named, so that the order does not matter.
    assert_eq!(found, super::fixture::source_rows(&mut conn, table));
}
