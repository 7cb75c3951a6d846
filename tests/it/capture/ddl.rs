//! Changes of the tables themselves.

use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, TableState};

use super::fixture::{BOTH, Destination, Kind, binary_logs_stay, create, create_with, insert};
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

/// Cells of a table by its `id`, as MySQL prints them.
fn at_source(conn: &mut mysql::Conn, sql: &str) -> Vec<Vec<Option<String>>> {
    let rows: Vec<mysql::Row> = conn.query(sql).unwrap();
    let text = |value: mysql::Value| match value {
        mysql::Value::NULL => None,
        mysql::Value::Bytes(bytes) => Some(String::from_utf8(bytes).unwrap()),
        other => panic!("{other:?}"),
    };
    rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect()).collect()
}

#[test]
fn a_new_column_whose_default_is_implicit_or_changed_since_has_what_older_rows_hold() {
    let _logs = binary_logs_stay();
    let server = vitess();
    let cases: [&[&str]; 10] = [
        &["add column c tinyint not null"],
        &["add column c varchar(5) not null"],
        &["add column c enum('x','y') not null"],
        &["add column c decimal(5,2) not null"],
        &["add column c double not null"],
        &["add column c int not null default 5", "alter column c drop default"],
        &["add column c int default 5", "alter c set default 7"],
        &["add column c int", "alter c set default 7"],
        &["add column c int not null default 5", "modify c int not null"],
        &["add column c bigint not null auto_increment, add unique key (c)"],
    ];
    for (number, statements) in cases.into_iter().enumerate() {
        for shown in [false, true] {
            let table = format!("defaulted_{number}_{shown}");
            let mut conn = create(server, "commerce", &table);
            insert(&mut conn, &table, 0..20, 0);
            let destinations = BOTH.map(Destination::new);
            let options = IngestOptions::new().with_tables([&table]);
            for destination in &destinations {
                destination.capture_all(&server.cdc_uri("commerce"), &options);
            }
            for statement in statements {
                conn.query_drop(format!("alter table {table} {statement}")).unwrap();
                wait_for_column(&mut conn, &table, "c");
                if shown {
                    conn.query_drop(format!("update {table} set name = concat(name, '!') where id = 3")).unwrap();
                }
            }
            let sql = format!("select id, c from {table} order by id");
            let expected = at_source(&mut conn, &sql);
            for destination in &destinations {
                destination.capture_all(&server.cdc_uri("commerce"), &options);
                let kind = destination.kind;
                let found = destination.query(&format!("select id, cast(c as varchar) from {table} where not _cdc_deleted order by id"));
                let number =
                    |cell: &Option<String>| cell.as_deref().map(|text| text.parse::<f64>().map_or(text.to_owned(), |n| n.to_string()));
                let plain = |rows: &[Vec<Option<String>>]| rows.iter().map(|row| row.iter().map(number).collect()).collect::<Vec<Vec<_>>>();
                assert_eq!(plain(&found), plain(&expected), "{kind:?} {statements:?} {shown}");
                destination.assert_equals(&mut conn, &table);
            }
        }
    }
}

#[test]
fn rows_that_come_and_go_with_partitions_are_found_by_a_new_copy() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for statement in
        ["drop partition p0", "truncate partition p0, p1", "exchange partition p1 with table exchanged_with without validation"]
    {
        for kind in BOTH {
            let mut other = create(server, "commerce", "exchanged_with");
            insert(&mut other, "exchanged_with", 12..15, 5);
            let mut conn = create(server, "commerce", "partitioned");
            conn.query_drop(
                "alter table partitioned partition by range (id) (partition p0 values less than (10), partition p1 values less than (20), \
                 partition p2 values less than maxvalue)",
            )
            .unwrap();
            insert(&mut conn, "partitioned", 0..30, 0);
            let destination = Destination::new(kind);
            let options = IngestOptions::new().with_tables(["partitioned", "exchanged_with"]);
            destination.capture_all(&server.cdc_uri("commerce"), &options);
            conn.query_drop("update partitioned set name = 'before' where id = 5").unwrap();
            conn.query_drop(format!("alter table partitioned {statement}")).unwrap();
            conn.query_drop("update partitioned set name = 'after' where id = 25").unwrap();
            let report = destination.capture_all(&server.cdc_uri("commerce"), &options);
            destination.assert_equals(&mut conn, "partitioned");
            destination.assert_equals(&mut conn, "exchanged_with");
            let is_told = |notes: &[String]| notes.iter().any(|note| note.contains("partitions or tablespaces"));
            let told: Vec<bool> = report.tables.iter().map(|table| is_told(&table.notes)).collect();
            assert_eq!(told, [true, statement.starts_with("exchange")], "{statement}: {report:?}");
            // Adding one is no reason.
            conn.query_drop("alter table partitioned reorganize partition p2 into (partition p2 values less than (40), partition p3 values less than maxvalue)")
                .unwrap();
            let report = destination.capture_all(&server.cdc_uri("commerce"), &options);
            assert_eq!(report.tables[0].notes, [""; 0]);
        }
    }
}

#[test]
fn changes_older_than_a_declaration_are_not_read_by_it() {
    let _logs = binary_logs_stay();
    let server = vitess();
    let cases = [
        ("e enum('a','b'), s varchar(20)", "update {} set e = 'a' where id < 5", "modify e enum('x','a','b')"),
        ("e set('a','b'), s varchar(20)", "update {} set e = 'a' where id < 5", "modify e set('x','a','b')"),
        ("e varchar(3), s varchar(20) character set utf8mb4", "update {} set s = 'übrig' where id < 5", "convert to character set latin1"),
        (
            "e varchar(3), s varchar(20) character set utf8mb4",
            "update {} set s = 'übrig' where id < 5",
            "modify s varchar(20) character set latin1",
        ),
        (
            "e enum('ä','b') character set latin1, s varchar(20)",
            "update {} set e = 'ä' where id < 5",
            "modify e enum('ä','b') character set utf8mb4",
        ),
        ("e varchar(3), s varchar(20)", "update {} set s = 'x  ' where id < 5", "modify s char(20)"),
        (
            "e varchar(3), s varchar(20) as (concat(e, '1')) stored",
            "update {} set e = 'c' where id < 5",
            "modify s varchar(20) as (concat(e, '2')) stored",
        ),
    ];
    for (number, (columns, change, alteration)) in cases.into_iter().enumerate() {
        let table = format!("redeclared_{number}");
        let mut conn = create_with(server, "commerce", &table, &format!("id bigint not null primary key, {columns}"));
        conn.query_drop(format!(
            "insert into {table} (id, e) values {}",
            (0..20).map(|id| format!("({id}, 'b')")).collect::<Vec<_>>().join(",")
        ))
        .unwrap();
        let destinations = BOTH.map(Destination::new);
        let options = IngestOptions::new().with_tables([&table]);
        for destination in &destinations {
            destination.capture_all(&server.cdc_uri("commerce"), &options);
        }
        conn.query_drop(change.replace("{}", &table)).unwrap();
        conn.query_drop(format!("alter table {table} {alteration}")).unwrap();
        let sql = format!("select id, e, s from {table} order by id");
        let expected = at_source(&mut conn, &sql);
        assert_ne!(expected[4][1..], expected[5][1..]);
        for destination in &destinations {
            destination.capture_all(&server.cdc_uri("commerce"), &options);
            let found = destination.query(&format!("select id, e, s from {table} where not _cdc_deleted order by id"));
            assert_eq!(found, expected, "{:?} {columns}: {alteration}", destination.kind);
        }
    }
}

#[test]
fn what_a_foreign_key_deletes_arrives_where_the_server_logs_it() {
    let _logs = binary_logs_stay();
    let server = vitess();
    let mut conn = server.conn();
    conn.query_drop("use commerce").unwrap();
    conn.query_drop("drop table if exists cascade_child").unwrap();
    create(server, "commerce", "cascade_parent");
    let columns = "id bigint not null primary key, parent bigint, name varchar(200), amount decimal(12,2), note text, happened datetime(6), \
                   constraint cascade_up foreign key (parent) references cascade_parent (id) on delete cascade";
    create_with(server, "commerce", "cascade_child", columns);
    insert(&mut conn, "cascade_parent", 0..5, 0);
    conn.query_drop("insert into cascade_child (id, parent) values (1, 1), (2, 2), (3, 1)").unwrap();
    let destination = Destination::new(Kind::Sqlite);
    let options = IngestOptions::new().with_tables(["cascade_parent", "cascade_child"]);
    destination.capture_all(&server.cdc_uri("commerce"), &options);
    conn.query_drop("delete from cascade_parent where id = 1").unwrap();
    let report = destination.capture_all(&server.cdc_uri("commerce"), &options);
    let logs: Option<(String, String)> = conn.query_first("show variables like 'innodb_native_foreign_keys'").unwrap();
    let note = report.tables[1].notes.iter().find(|note| note.contains("`cascade_up`"));
    if logs.is_some_and(|(_, value)| value == "OFF") {
        destination.assert_equals(&mut conn, "cascade_child");
        assert_eq!(note, None);
    } else {
        assert!(note.is_some(), "{:?}", report.tables[1].notes);
    }
}
