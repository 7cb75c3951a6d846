//! Bytes that are no text of their column's character set. MySQL takes codes that a character set does not assign, and shows a question mark for each.

use mysql::Conn;
use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, MalformedText, OutOfRange, Report, TableState, ValueChange};

use super::{changed, declared, error_of};
use crate::capture::fixture::{BOTH, Destination, Kind, binary_logs_stay, create_with};
use crate::support::servers::{Server, mysql, vitess, wait_for_column};

/// Columns, and for each of them codes that are none, the same as text, and such as are.
const COLUMNS: [(&str, &str, &str, &str, &str); 11] = [
    ("g", "varchar(20) character set gbk", "_gbk 0x61A2A062FEFE", "a\u{fffd}b\u{fffd}", "_gbk 0xC4E3"),
    ("s", "varchar(20) character set sjis", "_sjis 0x6181ad628740", "a\u{fffd}b\u{fffd}", "_sjis 0x835C"),
    ("b", "varchar(20) character set big5", "_big5 0x61F9FE", "a\u{fffd}", "_big5 0xA741"),
    ("k", "varchar(20) character set euckr", "_euckr 0xC9A162", "\u{fffd}b", "_euckr 0xB0A1"),
    ("j", "varchar(20) character set ujis", "_ujis 0xADA1", "\u{fffd}", "_ujis 0xA4A2"),
    ("n", "text character set gb2312", "_gb2312 0xA2A141", "\u{fffd}A", "_gb2312 0xC4E3"),
    ("c", "varchar(20) character set cp1250", "_cp1250 0x8141", "\u{fffd}A", "_cp1250 0x8A"),
    // Nothing is amiss in these.
    ("u", "varchar(20)", "'ü☃'", "ü☃", "'🎉 '"),
    ("l", "char(9) character set latin1", "_latin1 0x81FC80", "\u{81}ü€", "'it''s'"),
    ("w", "char(9) character set utf16", "'ab '", "ab", "'🎉'"),
    ("m", "tinytext character set utf8mb3", "'ü☃'", "ü☃", "''"),
];

fn make(server: &Server, keyspace: &str, table: &str) -> Conn {
    let columns: Vec<String> = COLUMNS.iter().map(|(name, declared, ..)| format!("{name} {declared}")).collect();
    let conn = create_with(server, keyspace, table, &format!("id int primary key, {}", columns.join(", ")));
    insert(conn, table, 0)
}

/// A row of bad codes, one of good ones, one of NULL.
fn insert(mut conn: Conn, table: &str, from: u32) -> Conn {
    conn.query_drop("set names utf8mb4").unwrap();
    let bad: Vec<&str> = COLUMNS.iter().map(|column| column.2).collect();
    let good: Vec<&str> = COLUMNS.iter().map(|column| column.4).collect();
    let nulls = ["null"; COLUMNS.len()];
    let rows = [bad, good, nulls.to_vec()];
    let rows: Vec<String> = rows.iter().zip(from + 1..).map(|(row, id)| format!("({id}, {})", row.join(", "))).collect();
    let names: Vec<&str> = COLUMNS.iter().map(|column| column.0).collect();
    conn.query_drop(format!("insert into {table} (id, {}) values {}", names.join(", "), rows.join(", "))).unwrap();
    conn
}

/// What MySQL holds of a column, as hexadecimal digits of its bytes.
fn bytes_at_source(conn: &mut Conn, table: &str, column: &str) -> Vec<Vec<Option<String>>> {
    let rows: Vec<(String, Option<String>)> =
        conn.query(format!("select cast(id as char), hex({column}) from {table} order by id")).unwrap();
    rows.into_iter().map(|(id, bytes)| vec![Some(id), bytes]).collect()
}

fn text_at_source(conn: &mut Conn, table: &str, column: &str, id: u32) -> Option<String> {
    conn.query_first(format!("select convert({column} using utf8mb4) from {table} where id = {id}")).unwrap().unwrap()
}

fn with(table: &str, policy: MalformedText) -> IngestOptions {
    IngestOptions::new().with_tables([table]).with_malformed_text(policy)
}

const BAD: [&str; 7] = ["g", "s", "b", "k", "j", "n", "c"];

/// Whole rows with bad codes at the destination, whichever way they came.
fn assert_replaced(conn: &mut Conn, destination: &Destination, table: &str, from: u32) {
    for (column, _, _, replaced, _) in COLUMNS {
        let rows = destination.query(&format!("select {column} from {table} where id > {from} order by id"));
        let good = text_at_source(conn, table, column, from + 2);
        assert_eq!(rows, [[Some(replaced.to_owned())], [good], [None]], "{:?} {column}", destination.kind);
    }
}

fn assert_bytes(conn: &mut Conn, destination: &Destination, table: &str, condition: &str) {
    for (column, ..) in COLUMNS {
        let found = destination.query(&format!("select id, hex({column}) from {table} {condition} order by id"));
        // SQLite shows NULL as no digits.
        let found: Vec<Vec<Option<String>>> =
            found.into_iter().map(|row| row.into_iter().map(|cell| cell.filter(|digits| !digits.is_empty())).collect()).collect();
        let mut expected = bytes_at_source(conn, table, column);
        expected.iter_mut().flatten().for_each(|cell| *cell = cell.take().filter(|digits| !digits.is_empty()));
        assert_eq!(found, expected, "{:?} {column}", destination.kind);
    }
    for (column, declared) in declared(destination, table) {
        if COLUMNS.iter().any(|known| known.0 == column) {
            assert_eq!(declared, "BLOB", "{:?} {column}", destination.kind);
        }
    }
}

fn check_whole_copies(server: &Server, keyspace: &str, table: &str) {
    let mut conn = make(server, keyspace, table);
    let source = server.uri(keyspace);
    for kind in BOTH {
        let destination = Destination::new(kind);
        let error = error_of(&destination, &source, &with(table, MalformedText::Error));
        assert!(error.contains("column `g`") && error.contains("not valid in its character set"), "{error}");
        let report = destination.capture_all(&source, &with(table, MalformedText::Replace));
        let mut expected = BAD.map(|column| (column, ValueChange::TextReplaced, 1));
        expected.sort();
        assert_eq!(changed(&report), expected);
        assert_replaced(&mut conn, &destination, table, 0);
        let report = destination.capture_all(&source, &with(table, MalformedText::Bytes));
        assert_eq!(changed(&report), []);
        assert_bytes(&mut conn, &destination, table, "");
    }
    conn.query_drop(format!("drop table {table}")).unwrap();
}

#[test]
fn a_whole_copy_from_mysql_refuses_what_is_no_text_or_replaces_it_or_takes_the_bytes() {
    check_whole_copies(mysql(), "commerce", "no_text_mysql");
}

#[test]
fn a_whole_copy_through_vtgate_refuses_what_is_no_text_or_replaces_it_or_takes_the_bytes() {
    check_whole_copies(vitess(), "commerce", "no_text_vtgate");
    check_whole_copies(vitess(), "customer", "no_text_sharded");
}

#[test]
fn capture_refuses_what_is_no_text_in_copy_and_stream() {
    let _stay = binary_logs_stay();
    let table = "no_text_refused";
    let source = vitess().cdc_uri("commerce");
    for kind in BOTH {
        let mut conn = make(vitess(), "commerce", table);
        let destination = Destination::new(kind);
        let error = error_of(&destination, &source, &with(table, MalformedText::Error));
        assert!(error.contains("column `g`") && error.contains("not valid in its character set"), "{error}");
        conn.query_drop(format!("delete from {table} where id % 3 = 1")).unwrap();
        let destination = Destination::new(kind);
        destination.capture_all(&source, &with(table, MalformedText::Error));
        conn.query_drop(format!("insert into {table} (id, s) values (1, _sjis 0x8740)")).unwrap();
        let error = error_of(&destination, &source, &with(table, MalformedText::Error));
        assert!(error.contains("column `s`") && error.contains("not valid in its character set"), "{error}");
        assert_eq!(destination.cell(&format!("select count(*) from {table}")).as_deref(), Some("2"));
        conn.query_drop(format!("drop table {table}")).unwrap();
    }
}

#[test]
fn capture_replaces_what_is_no_text_and_counts_what_it_writes() {
    let _stay = binary_logs_stay();
    let source = vitess().cdc_uri("commerce");
    for kind in BOTH {
        let table = "no_text_replaced";
        let mut conn = make(vitess(), "commerce", table);
        let destination = Destination::new(kind);
        let options = with(table, MalformedText::Replace);
        let mut expected = BAD.map(|column| (column, ValueChange::TextReplaced, 1));
        expected.sort();
        assert_eq!(changed(&destination.capture_all(&source, &options)), expected, "the copy into {kind:?}");
        assert_replaced(&mut conn, &destination, table, 0);
        conn = insert(conn, table, 3);
        assert_eq!(changed(&destination.capture_all(&source, &options)), expected, "the stream into {kind:?}");
        assert_replaced(&mut conn, &destination, table, 3);
        // Three changes to one row in one batch: only the last is written.
        for code in ["0xA2A0", "0xFEFE", "0x61A2A0A2A0"] {
            conn.query_drop(format!("update {table} set g = _gbk {code}, s = 'x', b = null, k = '', j = '', n = '', c = '' where id = 4"))
                .unwrap();
        }
        let report = destination.capture_all(&source, &options);
        assert_eq!(changed(&report), [("g", ValueChange::TextReplaced, 1)]);
        assert_eq!(destination.cell(&format!("select g from {table} where id = 4")).as_deref(), Some("a\u{fffd}\u{fffd}"));
        // And none of what is replaced within the batch by what is text.
        for code in ["0xA2A0", "0x61"] {
            conn.query_drop(format!("update {table} set g = _gbk {code} where id = 4")).unwrap();
        }
        assert_eq!(changed(&destination.capture_all(&source, &options)), []);
        conn.query_drop(format!("drop table {table}")).unwrap();
    }
}

#[test]
fn capture_takes_the_bytes_of_all_rows_alike() {
    let _stay = binary_logs_stay();
    let source = vitess().cdc_uri("commerce");
    for kind in BOTH {
        let table = "no_text_bytes";
        let mut conn = make(vitess(), "commerce", table);
        let destination = Destination::new(kind);
        let options = with(table, MalformedText::Bytes);
        destination.capture_all(&source, &options);
        assert_bytes(&mut conn, &destination, table, "where not _cdc_deleted");
        conn = insert(conn, table, 3);
        conn.query_drop(format!("update {table} set s = _sjis 0x8740, u = 'ü', w = 'ü' where id = 2")).unwrap();
        conn.query_drop(format!("delete from {table} where id = 1")).unwrap();
        assert_eq!(changed(&destination.capture_all(&source, &options)), []);
        assert_bytes(&mut conn, &destination, table, "where not _cdc_deleted");

        // The other form is not mixed into it.
        conn.query_drop(format!("update {table} set g = 'x' where id = 2")).unwrap();
        let error = error_of(&destination, &source, &with(table, MalformedText::Replace));
        assert!(error.contains("`no_text_bytes.g` is BLOB in the destination") && error.contains("keep the options"), "{error}");
        assert_eq!(destination.cell(&format!("select hex(g) from {table} where id = 2")).as_deref(), Some("C4E3"));
        destination.capture_all(&source, &with(table, MalformedText::Replace).with_full_refresh(true));
        assert_eq!(destination.cell(&format!("select g from {table} where id = 2")).as_deref(), Some("x"));
        let error = error_of(&destination, &source, &options);
        assert!(error.contains("but the bytes of text (BLOB)") && error.contains("full_refresh"), "{error}");
        conn.query_drop(format!("drop table {table}")).unwrap();
    }
}

/// The server writes all rows anew, and tells nobody of it.
#[test]
fn bytes_of_another_character_set_are_those_of_all_rows() {
    let _stay = binary_logs_stay();
    let source = vitess().cdc_uri("commerce");
    for kind in BOTH {
        let table = "no_text_converted";
        let mut conn = create_with(vitess(), "commerce", table, "id int primary key, v varchar(9), w varchar(9)");
        conn.query_drop(format!("alter table {table} convert to character set latin1")).unwrap();
        conn.query_drop("set names utf8mb4").unwrap();
        conn.query_drop(format!("insert into {table} values (1, 'ü', 'ä'), (2, 'é', 'ö')")).unwrap();
        let destination = Destination::new(kind);
        let options = with(table, MalformedText::Bytes);
        destination.capture_all(&source, &options);
        for (statement, id) in [("modify v varchar(9) character set utf8mb4", 3), ("convert to character set utf8mb4", 4)] {
            conn.query_drop(format!("alter table {table} {statement}")).unwrap();
            conn.query_drop(format!("insert into {table} values ({id}, 'ß', 'ß')")).unwrap();
            let report = destination.capture_all(&source, &options);
            assert!(report.tables[0].notes.iter().any(|note| note.starts_with("copied anew")), "{kind:?} {statement}: {report:?}");
            for column in ["v", "w"] {
                let found = destination.query(&format!("select id, hex({column}) from {table} where not _cdc_deleted order by id"));
                assert_eq!(found, bytes_at_source(&mut conn, table, column), "{kind:?} {statement} {column}");
            }
        }
        conn.query_drop(format!("drop table {table}")).unwrap();
    }
}

#[test]
fn new_columns_of_text_hold_bytes_too_with_the_defaults_of_older_rows() {
    let _stay = binary_logs_stay();
    let source = vitess().cdc_uri("commerce");
    for kind in BOTH {
        let table = "no_text_added";
        let mut conn = create_with(vitess(), "commerce", table, "id int primary key, v varchar(9)");
        conn.query_drop("set names utf8mb4").unwrap();
        conn.query_drop(format!("insert into {table} values (1, 'a')")).unwrap();
        let destination = Destination::new(kind);
        let options = with(table, MalformedText::Bytes);
        destination.capture_all(&source, &options);
        for column in [
            "a varchar(9) not null default '0xü'",
            "b varchar(9) character set gbk default '0x61'",
            "c varchar(9) character set gbk default '你'",
            "d varchar(9) character set utf16 default 'a'",
            "e text",
        ] {
            conn.query_drop(format!("alter table {table} add column {column}")).unwrap();
            wait_for_column(&mut conn, table, &column[..1]);
            conn.query_drop(format!("insert into {table} (id, v) select max(id) + 1, 'x' from {table} as t")).unwrap();
            destination.capture_all(&source, &options);
        }
        for column in ["v", "a", "b", "c", "d", "e"] {
            let found = destination.query(&format!("select id, nullif(hex({column}), '') from {table} order by id"));
            assert_eq!(found, bytes_at_source(&mut conn, table, column), "{kind:?} {column}");
        }
        conn.query_drop(format!("drop table {table}")).unwrap();
    }
}

#[test]
fn keys_that_are_no_text_are_told_apart_by_their_bytes_and_never_replaced() {
    let _stay = binary_logs_stay();
    let table = "no_text_keys";
    let mut conn = create_with(vitess(), "commerce", table, "id int, k varchar(9) character set gbk collate gbk_bin primary key, v float");
    conn.query_drop(format!("insert into {table} values (1, _gbk 0xA2A0, 0.1), (2, _gbk 0xFEFE, 16777216), (3, 'a', 3)")).unwrap();
    let source = vitess().cdc_uri("commerce");
    for kind in BOTH {
        let destination = Destination::new(kind);
        let error = error_of(&destination, &source, &with(table, MalformedText::Replace));
        assert!(error.contains("column `k`") && error.contains("could become that of another row"), "{error}");
        let destination = Destination::new(kind);
        let options = with(table, MalformedText::Bytes);
        destination.capture_all(&source, &options);
        conn.query_drop(format!("update {table} set id = 20 where k = _gbk 0xFEFE")).unwrap();
        conn.query_drop(format!("delete from {table} where k = _gbk 0xA2A0")).unwrap();
        conn.query_drop(format!("insert into {table} values (4, _gbk 0xA2A1, 4), (5, _gbk 0x61FEFE, 16777217)")).unwrap();
        destination.capture_all(&source, &options);
        let rows: Vec<(String, String, String)> = conn
            .query(format!("select cast(id as char), hex(k), cast(cast(v as decimal(20, 1)) as char) from {table} order by id"))
            .unwrap();
        let expected: Vec<Vec<Option<String>>> = rows.into_iter().map(|(id, k, v)| vec![Some(id), Some(k), Some(v)]).collect();
        let number = if kind == Kind::Sqlite { "printf('%.1f', v)" } else { "cast(v as decimal(20, 1))" };
        let found = destination.query(&format!("select id, hex(k), {number} from {table} where not _cdc_deleted order by id"));
        assert_eq!(found, expected, "{kind:?}");
        conn.query_drop(format!("delete from {table}")).unwrap();
        conn.query_drop(format!("insert into {table} values (1, _gbk 0xA2A0, 0.1), (2, _gbk 0xFEFE, 16777216), (3, 'a', 3)")).unwrap();
    }
    conn.query_drop(format!("drop table {table}")).unwrap();
}

#[test]
fn what_is_undone_with_a_transaction_is_not_counted() {
    let _stay = binary_logs_stay();
    let source = vitess().cdc_uri("commerce");
    let tables = ["undone_a", "undone_b"];
    let mut conn = create_with(vitess(), "commerce", tables[0], "id int primary key, g varchar(9) character set gbk");
    create_with(vitess(), "commerce", tables[1], "id int primary key, n bigint unsigned");
    let destination = Destination::new(Kind::Sqlite);
    let options = IngestOptions::new().with_tables(tables).with_malformed_text(MalformedText::Replace).with_out_of_range(OutOfRange::Error);
    destination.capture_all(&source, &options);
    conn.query_drop("insert into undone_a (id, g) values (1, _gbk 0xA2A0)").unwrap();
    conn.query_drop("insert into undone_b (id, n) values (1, 9223372036854775808)").unwrap();
    let counted = |report: &Report| -> Vec<u64> {
        report.tables.iter().map(|table| table.changed_values.iter().map(|changed| changed.values).sum()).collect()
    };
    // A table that is copied meanwhile, so that there is something to report.
    create_with(vitess(), "commerce", "undone_c", "id int primary key, g varchar(9) character set gbk");
    conn.query_drop("insert into undone_c (id, g) values (1, _gbk 0xA2A0)").unwrap();
    let options = options.with_tables(["undone_a", "undone_b", "undone_c"]);
    let report = destination.capture(&source, &options).unwrap();
    assert!(matches!(&report.tables[1].state, TableState::Failed { error } if error.contains("2^63")), "{report:?}");
    assert_eq!(counted(&report), [0, 0, 1], "{report:?}");
    assert_eq!(destination.cell("select count(*) from undone_a").as_deref(), Some("0"));
    // The same change once more, without the table that is in its way.
    assert_eq!(counted(&destination.capture_all(&source, &options.with_tables(["undone_a", "undone_c"]))), [1, 0]);
    assert_eq!(destination.cell("select g from undone_a").as_deref(), Some("\u{fffd}"));
    ["undone_a", "undone_b", "undone_c"].iter().for_each(|table| conn.query_drop(format!("drop table {table}")).unwrap());
}
