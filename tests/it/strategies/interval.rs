//! Intervals of keys of each type, and where runs without one begin.

use mysql::prelude::Queryable;
use planetscale_ingest::{Source, Strategy, ValueRef};
use std::sync::Arc;

use super::{Case, by, counts};
use crate::support::files::{duckdb_rows, printed, sqlite_rows};
use crate::support::servers::mysql;

/// A type, values in their order as SQL writes them, and an interval from the second to the third as options write it.
struct Kind {
    name: &'static str,
    column_type: &'static str,
    values: [&'static str; 5],
    start: &'static str,
    end: &'static str,
}

const fn kind(name: &'static str, column_type: &'static str, values: [&'static str; 5], start: &'static str, end: &'static str) -> Kind {
    Kind { name, column_type, values, start, end }
}

/// Numbers and times as text would be in another order.
const KINDS: &[Kind] = &[
    kind("int", "int", ["-10", "-9", "9", "10", "100"], "-9", "9"),
    kind(
        "unsigned",
        "bigint unsigned",
        ["9", "10", "9223372036854775808", "10000000000000000000", "18446744073709551615"],
        "10",
        "9223372036854775808",
    ),
    kind("decimal", "decimal(20,4)", ["-10.5", "-9.5", "9.5", "10.25", "100.0001"], "-9.5", "9.5000"),
    kind("wide", "decimal(65,30)", ["-10.5", "-9.5", "0", "9.000000000000000000000000000001", "10"], "-9.5", "-0"),
    kind(
        "date",
        "date",
        ["'0999-12-31'", "'2024-02-28'", "'2024-02-29'", "'2024-03-01'", "'9999-12-31'"],
        "2024-02-28",
        "2024-02-29T23:00:00",
    ),
    kind(
        "datetime",
        "datetime(6)",
        ["'1000-01-01'", "'2024-02-29 11:59:59.999999'", "'2024-02-29 12:00:00'", "'2024-02-29 12:00:00.000001'", "'2024-03-01'"],
        "2024-02-29T11:59:59.999999Z",
        "2024-02-29 12:00:00",
    ),
    kind(
        "second",
        "datetime",
        ["'1000-01-01'", "'2024-02-29 11:59:59'", "'2024-02-29 12:00:00'", "'2024-02-29 12:00:01'", "'2024-03-01'"],
        "2024-02-29 11:59:58.5",
        "2024-02-29 12:00:00.999",
    ),
    kind(
        "timestamp",
        "timestamp(3) null",
        ["'1970-01-02'", "'2024-02-29 11:59:59.999'", "'2024-02-29 12:00:00'", "'2024-02-29 12:00:00.001'", "'2038-01-01'"],
        "2024-02-29 11:59:59.999",
        "2024-02-29 12:00:00.000+00:00",
    ),
    kind("time", "time(2)", ["'-838:59:59'", "'-10:00:00'", "'-09:00:00.5'", "'09:00:00'", "'100:00:00'"], "-10:00:00", "-09:00:00.5"),
    kind("year", "year", ["1901", "1999", "2024", "2025", "2155"], "1999", "2024"),
    kind("text", "varchar(20)", ["'A'", "'B'", "'a'", "'b'", "'é'"], "B", "a"),
    kind("latin", "varchar(20) character set latin1", ["'A'", "'B '", "'a'", "'b'", "'é'"], "B", "a"),
    kind("binary", "varbinary(20)", ["x'00'", "x'41'", "x'4100'", "x'42'", "x'ff'"], "A", "A\0"),
    kind("float", "float", ["-1e30", "-3.99", "0.1", "0.2", "16777216"], "-3.99", "0.1"),
    kind("double", "double", ["-1e300", "-0.3", "0.30000000000000004", "1e22", "1e300"], "-0.3", "0.30000000000000004"),
];

/// Two rows for each value, ids counting from 1.
fn fill(case: &mut Case, kind: &Kind, values: &[&str], first: u64) {
    for (at, value) in (0_u64..).zip(values.iter().flat_map(|value| [value, value])) {
        let sql = format!("insert into {} values ({}, {value}, 'old')", case.table, first + at);
        case.conn.query_drop(&sql).unwrap_or_else(|error| panic!("{}: {sql}: {error}", kind.name));
    }
}

fn new(prefix: &str, kind: &Kind) -> Case {
    let table: &'static str = format!("st_{prefix}_{}", kind.name).leak();
    Case::new(table, &format!("id int primary key, k {}, note varchar(9)", kind.column_type))
}

#[test]
fn an_interval_is_the_same_at_the_source_and_at_the_destination() {
    for kind in KINDS {
        let mut case = new("interval", kind);
        fill(&mut case, kind, &kind.values, 1);
        let table = case.table;
        case.run(&by(Strategy::Replace));
        // The second and the third value: ids 3 to 6. All are changed, and all but these stay as they were there.
        case.sql(&format!("update {table} set note = 'new'"));
        case.sql(&format!("delete from {table} where id = 4"));
        let options = by(Strategy::DeleteInsert).with_incremental_key("K").with_interval_start(kind.start).with_interval_end(kind.end);
        for report in case.run(&options) {
            assert_eq!(counts(&report), (3, 0, 4), "{}", kind.name);
        }
        let expected: Vec<Vec<Option<String>>> =
            [(1, "old"), (2, "old"), (3, "new"), (5, "new"), (6, "new"), (7, "old"), (8, "old"), (9, "old"), (10, "old")]
                .iter()
                .map(|(id, note)| vec![Some(id.to_string()), Some((*note).to_owned())])
                .collect();
        for found in case.files.each(&format!("select id, note from {table} order by id")) {
            super::assert_same(kind.name, &expected, &found);
        }
        // The public reader takes the same rows.
        let source = Source::open(&mysql().uri("commerce")).unwrap();
        let rows = source.rows_between(Arc::new(source.table(table).unwrap()), "k", Some(kind.start), Some(kind.end)).unwrap();
        let mut ids: Vec<String> =
            rows.flat_map(|batch| batch.unwrap().rows().map(|row| row.get("id").unwrap().to_string()).collect::<Vec<_>>()).collect();
        ids.sort();
        assert_eq!(ids, ["3", "5", "6"], "{}", kind.name);
    }
}

#[test]
fn runs_begin_at_the_greatest_value_whatever_its_type() {
    for kind in KINDS {
        for (strategy, at_equal) in [(Strategy::Append, false), (Strategy::Merge, true), (Strategy::DeleteInsert, true)] {
            let mut case = new("begin", kind);
            let table = case.table;
            fill(&mut case, kind, &kind.values[..3], 1);
            // What is NULL comes at first only.
            case.sql(&format!("insert into {table} values (100, null, 'old')"));
            let options = by(strategy).with_incremental_key("k");
            for report in case.run(&options) {
                assert_eq!(counts(&report), (7, 0, 0), "{}", kind.name);
            }
            let equal = if at_equal { 2 } else { 0 };
            for report in case.run(&options) {
                assert_eq!(report.rows_read, equal, "{} {strategy}", kind.name);
            }
            fill(&mut case, kind, &kind.values[3..], 7);
            // One that came late with the greatest value that was there.
            case.sql(&format!("insert into {table} values (50, {}, 'late'), (101, null, 'late')", kind.values[2]));
            for report in case.run(&options) {
                assert_eq!(report.rows_read, 4 + equal + u64::from(at_equal), "{} {strategy}", kind.name);
            }
            let late = if at_equal { "id <> 101" } else { "note <> 'late'" };
            let sql = format!("select id, note from {table} where {late} order by id");
            let expected = printed(&mut case.conn, &sql);
            for found in case.files.each(&format!("select id, note from {table} order by id")) {
                super::assert_same(&format!("{} {strategy}", kind.name), &expected, &found);
            }
        }
    }
}

#[test]
fn dates_that_no_calendar_has_and_nulls_are_in_no_interval() {
    let mut case = Case::new("st_zero", "id int primary key, k date, note varchar(9)");
    case.sql("set sql_mode = 'allow_invalid_dates'");
    case.sql(
        "insert into st_zero values (1, '2024-02-28', 'old'), (2, '0000-00-00', 'old'), (3, '2024-03-00', 'old'), (4, '2024-02-30', 'old'), \
         (5, null, 'old'), (6, '2024-00-01', 'old')",
    );
    case.run(&by(Strategy::Append).with_incremental_key("k"));
    for report in case.run(&by(Strategy::Append).with_incremental_key("k")) {
        assert_eq!(counts(&report), (0, 0, 0));
    }
    case.sql("update st_zero set note = 'new'");
    for report in
        case.run(&by(Strategy::DeleteInsert).with_incremental_key("k").with_interval_end("2025-01-01").with_interval_start("0001-01-01"))
    {
        assert_eq!(counts(&report), (1, 0, 1));
    }
    let rows = "select id, case when id = 1 then 'new' else 'old' end from st_zero order by id";
    case.check(rows, "select id, note from st_zero order by id");
    // Without any date that a calendar has there is no greatest one, and what is there is not brought again.
    case.sql("delete from st_zero where id = 1");
    case.run(&by(Strategy::Replace));
    for strategy in [Strategy::Append, Strategy::DeleteInsert] {
        for report in case.run(&by(strategy).with_incremental_key("k")) {
            assert_eq!(counts(&report), (0, 0, 0));
        }
    }
}

#[test]
fn all_forms_of_storing_have_the_same_order() {
    use planetscale_ingest::{IngestOptions, OutOfRange, Sink, ZeroDates, ingest};
    let mut case = Case::new("st_forms", "id int primary key, u bigint unsigned, d date, t time(1), at timestamp(6) null");
    case.sql(
        "insert into st_forms values (1, 9, '2024-01-09', '-100:00:00', '2024-01-09'), (2, 10, '2024-01-10', '09:00:00', '2024-01-10'), \
         (3, 9223372036854775807, '2024-02-01', '100:00:00.5', '2024-02-01 00:00:00.000001')",
    );
    let uris: Vec<String> =
        case.files.uris().into_iter().map(|uri| if uri.starts_with("duckdb") { uri + "?time_type=text" } else { uri }).collect();
    let source = Source::open(&mysql().uri("commerce")).unwrap();
    let common = IngestOptions::new().with_tables(["st_forms"]).with_zero_dates(ZeroDates::Text).with_out_of_range(OutOfRange::Text);
    for key in ["u", "d", "t", "at"] {
        for uri in &uris {
            let mut sink = Sink::open(uri).unwrap();
            ingest(&source, &mut sink, &common).unwrap();
            let options = common.clone().with_incremental_key(key).with_strategy(Strategy::DeleteInsert);
            let report = ingest(&source, &mut sink, &options).unwrap();
            assert_eq!((report.tables[0].rows_inserted, report.tables[0].rows_deleted), (1, 1), "{key} {uri}: {report:?}");
        }
        assert_eq!(sqlite_rows(&case.files.sqlite(), "select count(*) from st_forms"), [[Some("3".to_owned())]]);
        assert_eq!(duckdb_rows(&case.files.duckdb(), "select count(*) from st_forms"), [[Some("3".to_owned())]]);
    }
}

#[test]
fn text_that_is_stored_as_bytes_is_a_key_too() {
    use planetscale_ingest::MalformedText;
    let mut case = Case::new("st_bytes", "id int primary key, k varchar(9) character set latin1, note varchar(9)");
    case.sql("insert into st_bytes values (1, 'a', 'x'), (2, 'ü', 'x')");
    let options = by(Strategy::DeleteInsert).with_incremental_key("k").with_malformed_text(MalformedText::Bytes);
    case.run(&options);
    case.sql("insert into st_bytes values (3, 'þ', 'x')");
    for report in case.run(&options) {
        assert_eq!(counts(&report), (2, 0, 1));
    }
    let hex = "select id, hex(k) from st_bytes order by id";
    case.check(hex, hex);
}

#[test]
fn dates_that_are_stored_as_text_are_keys_beside_text_that_is_stored_as_bytes() {
    use planetscale_ingest::{MalformedText, ZeroDates};
    let mut case = Case::new("st_texts", "id int primary key, k datetime(3), note varchar(9)");
    case.sql("insert into st_texts values (1, '2024-01-01', 'x'), (2, '2024-01-02 00:00:00.5', 'x')");
    let options = by(Strategy::DeleteInsert).with_incremental_key("k").with_malformed_text(MalformedText::Bytes);
    let options = options.with_zero_dates(ZeroDates::Text);
    case.run(&options);
    case.sql("insert into st_texts values (3, '2024-01-02 00:00:00.501', 'x')");
    for report in case.run(&options) {
        assert_eq!(counts(&report), (2, 0, 1));
    }
    case.check("select id, k from st_texts order by id", "select id, k from st_texts order by id");
}

#[test]
fn an_interval_without_bounds_leaves_out_nulls_only() {
    let mut case = Case::new("st_between", "id int primary key, k int");
    case.sql("insert into st_between values (1, null), (2, 5)");
    let source = Source::open(&mysql().uri("commerce")).unwrap();
    let mut rows = source.rows_between(Arc::new(source.table("st_between").unwrap()), "k", None, None).unwrap();
    let batch = rows.next().unwrap().unwrap();
    assert_eq!((batch.len(), batch.value(0, 0)), (1, ValueRef::Int(2)));
    assert!(rows.next().is_none());
}

#[test]
fn sources_that_are_files_bring_the_rows_of_an_interval_only() {
    use planetscale_ingest::{IngestOptions, Sink, VerifyOptions, ingest, verify};
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("from.db");
    let connection = rusqlite::Connection::open(&from).unwrap();
    connection.execute_batch("create table f (id integer primary key, k text, note text) strict; begin").unwrap();
    for id in 0..30_000 {
        connection.execute("insert into f values (?, ?, ?)", (id, format!("{:05}", id / 2), "old".repeat(100))).unwrap();
    }
    connection.execute_batch("commit").unwrap();
    let source = Source::open(&format!("sqlite://{}", from.display())).unwrap();
    let to = folder.path().join("to.duckdb");
    let mut sink = Sink::open(&format!("duckdb://{}", to.display())).unwrap();
    let options = IngestOptions::new().with_tables(["f"]);
    let mut run = |options: &IngestOptions| super::complete(ingest(&source, &mut sink, options).unwrap());
    run(&options);
    connection.execute_batch("update f set note = 'new' where k between '14000' and '14999'; delete from f where id = 29000").unwrap();
    let options = options.with_strategy(Strategy::DeleteInsert).with_incremental_key("k");
    let interval = options.clone().with_interval_start("14000").with_interval_end("14999");
    assert_eq!(counts(&run(&interval)), (1_999, 0, 2_000));
    connection.execute_batch("insert into f values (40000, '14999', 'late'), (40001, '15000', 'late')").unwrap();
    assert_eq!(counts(&run(&options)), (4, 0, 2));
    assert!(verify(&source, &mut sink, &VerifyOptions::new(IngestOptions::new().with_tables(["f"]))).unwrap().is_equal());
}
