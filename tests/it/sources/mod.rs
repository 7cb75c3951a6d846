//! Sources that are not MySQL. Files need no server.

mod duckdb;
#[cfg(feature = "postgres")]
mod postgres;
mod sqlite;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use mysql::prelude::Queryable;
use planetscale_ingest::{
    ColumnType, ErrorKind, IngestOptions, MalformedText, Report, Sink, Source, Strategy, TableState, ValueRef, VerifyOptions, VerifyState,
    ZeroDates, ingest, verify,
};

/// A type of a database, the column type that it becomes, values of it by hand, an expression of random ones (what it is of, the database's tests say),
/// and how a value `v` is printed there as this crate does.
struct Type {
    declared: &'static str,
    column_type: &'static str,
    edges: &'static [&'static str],
    random: &'static str,
    printed: &'static str,
}

const fn ty(
    declared: &'static str,
    column_type: &'static str,
    edges: &'static [&'static str],
    random: &'static str,
    printed: &'static str,
) -> Type {
    Type { declared, column_type, edges, random, printed }
}

/// A URI of a file.
fn uri(scheme: &str, path: &Path) -> String {
    format!("{scheme}://{}", path.display())
}

/// A value of a batch, as its source prints it: dates and times with as many digits as their column has.
fn printed(value: ValueRef<'_>, column_type: &ColumnType) -> Option<String> {
    Some(match (value, column_type) {
        (ValueRef::Null, _) => return None,
        (ValueRef::DateTime(at), ColumnType::DateTime { fraction }) | (ValueRef::Timestamp(at), ColumnType::Timestamp { fraction }) => {
            at.text(*fraction)
        }
        (ValueRef::Time(time), ColumnType::Time { fraction }) => time.text(*fraction),
        (ValueRef::Bit(bytes), ColumnType::Bit { width }) => {
            let number = bytes.iter().fold(0_u64, |number, &byte| number << 8 | u64::from(byte));
            let width = usize::from(*width);
            format!("{number:0width$b}")
        }
        (other, _) => other.to_string(),
    })
}

/// All rows of a table, printed.
fn read(source: &Source, table: &str) -> Vec<Vec<Option<String>>> {
    let mut rows = Vec::new();
    for batch in source.rows(table).unwrap() {
        let batch = batch.unwrap();
        let types: Vec<ColumnType> = batch.table().columns().iter().map(|column| column.column_type().clone()).collect();
        rows.extend(batch.rows().map(|row| row.values().zip(&types).map(|(value, column_type)| printed(value, column_type)).collect()));
    }
    rows
}

/// The error that a table cannot be read for.
#[track_caller]
fn refused(source: &Source, table: &str) -> planetscale_ingest::Error {
    let rows = source.rows(table).and_then(|rows| rows.collect::<Result<Vec<_>, _>>());
    rows.expect_err("the table is read, though it should not be")
}

/// Moves tables, and expects them to be complete.
#[track_caller]
fn moved(source: &str, destination: &str, options: &IngestOptions) -> Report {
    let source = Source::open(source).unwrap();
    let mut sink = Sink::open(destination).unwrap();
    let report = ingest(&source, &mut sink, options).unwrap();
    for table in &report.tables {
        assert_eq!(table.state, TableState::Complete, "{}", table.source);
    }
    report
}

/// The types of a table's columns, by name.
fn types(source: &Source, table: &str) -> BTreeMap<String, String> {
    let table = source.table(table).unwrap();
    table.columns().iter().map(|column| (column.name().to_owned(), column.column_type().to_string())).collect()
}

/// A cell in a form in which it does not matter which database it comes from.
fn common(cell: &Option<String>, column_type: &str) -> Option<String> {
    let cell = cell.as_ref()?;
    Some(match column_type {
        "boolean" => cell.replace("true", "1").replace("false", "0"),
        "float" => cell.parse::<f32>().unwrap().to_string(),
        "double" => cell.parse::<f64>().unwrap().to_string(),
        _ if column_type.starts_with("bit(") && cell.len() == column_type[4..column_type.len() - 1].parse::<usize>().unwrap() => {
            u64::from_str_radix(cell, 2).unwrap().to_string()
        }
        _ if ["datetime", "timestamp", "time("].iter().any(|name| column_type.starts_with(name)) && cell.contains('.') => {
            cell.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => cell.clone(),
    })
}

#[test]
fn a_file_is_not_moved_into_itself() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.db");
    rusqlite::Connection::open(&file).unwrap().execute_batch("create table t (a integer primary key)").unwrap();
    let link = folder.path().join("link.db");
    std::fs::hard_link(&file, &link).ok();
    let source = Source::open(&uri("sqlite", &file)).unwrap();
    let mut sink = Sink::open(&uri("sqlite", &folder.path().join(".").join("x.db"))).unwrap();
    let error = ingest(&source, &mut sink, &IngestOptions::new()).unwrap_err();
    assert_eq!(error.kind(), planetscale_ingest::ErrorKind::Config);
}

/// Keys in an interval, from each kind of file, against those that are expected.
fn keys_between(source: &Source, table: &str, column: &str, start: Option<&str>, end: Option<&str>) -> Vec<i64> {
    let table = Arc::new(source.table(table).unwrap());
    let mut keys: Vec<i64> = Vec::new();
    for batch in source.rows_between(table, column, start, end).unwrap() {
        let batch = batch.unwrap();
        keys.extend(batch.rows().map(|row| match row.value(0) {
            ValueRef::Int(key) => key,
            other => panic!("{other:?}"),
        }));
    }
    keys.sort_unstable();
    keys
}

/// A column, a start and an end, and the keys of the rows between.
type Between = (&'static str, Option<&'static str>, Option<&'static str>, &'static [i64]);

/// Rows 1 to 6; in row 5 all is NULL, and in row 6 the date is one that MySQL does not have where that can be.
const INTERVALS: &[Between] = &[
    ("n", Some("-5"), Some("7"), &[1, 2]),
    ("n", Some("8"), None, &[3, 4, 6]),
    ("n", None, None, &[1, 2, 3, 4, 6]),
    ("c", Some("0.005"), Some("9.99"), &[2, 3]),
    ("c", None, Some("-0.01"), &[1, 6]),
    ("f", Some("0.1"), Some("1e300"), &[2, 3]),
    ("day", Some("2024-01-01"), Some("2024-02-29"), &[1, 2]),
    ("day", Some("2024-02-29"), None, &[2, 3, 4]),
    ("moment", Some("2024-01-01 00:00:00.5"), Some("2024-01-01 00:00:01"), &[2, 3]),
    ("moment", None, Some("2024-01-01"), &[1]),
    ("txt", Some("B"), Some("a"), &[2, 3]),
    ("txt", Some("b"), None, &[4, 6]),
];

const ROWS: &str =
    "(1, -5, -0.01, 0, '2024-01-01', '2024-01-01 00:00:00', 'A'), (2, 7, 0.01, 0.1, '2024-02-29', '2024-01-01 00:00:00.5', 'B'),
    (3, 8, 9.99, 1e300, '2024-03-01', '2024-01-01 00:00:01', 'a'), (4, 9, 10, 2e300, '9999-12-31', '2024-01-01 00:00:01.000001', 'b'),
    (5, null, null, null, null, null, null)";

#[test]
fn intervals_of_files_are_the_same_whatever_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let (sqlite, duckdb) = (folder.path().join("x.db"), folder.path().join("x.duckdb"));
    let columns = "id integer primary key, n bigint, c decimal(10,2), f double, day date, moment timestamp, txt varchar";
    rusqlite::Connection::open(&sqlite)
        .unwrap()
        .execute_batch(&format!(
            "create table t ({columns} collate nocase); insert into t values {ROWS}; insert into t values (6, 10, -7, -1, null, null, 'ü')"
        ))
        .unwrap();
    ::duckdb::Connection::open(&duckdb)
        .unwrap()
        .execute_batch(&format!(
            "create table t ({columns} collate nocase); insert into t values {ROWS};
             insert into t values (6, 10, -7, -1, 'infinity', '-infinity', 'ü')"
        ))
        .unwrap();
    for (scheme, path) in [("sqlite", &sqlite), ("duckdb", &duckdb)] {
        let source = Source::open(&uri(scheme, path)).unwrap();
        for (column, start, end, expected) in INTERVALS {
            assert_eq!(keys_between(&source, "t", column, *start, *end), *expected, "{scheme}: {column} from {start:?} to {end:?}");
        }
    }
}

/// Columns, each with its type, of whose values the text has another order are refused as keys of intervals, and `keys` are taken. Columns of `dates` are
/// taken as long as they are not read as text.
#[track_caller]
fn assert_no_keys(source: &Source, table: &str, columns: &[(&str, &str)], keys: &[&str], dates: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = Sink::open(&uri("sqlite", &folder.path().join("copy.db"))).unwrap();
    let mut run = |options: &IngestOptions| match ingest(source, &mut sink, options).unwrap().tables.remove(0).state {
        TableState::Complete => None,
        TableState::Failed { error } => Some(error),
        other => panic!("{other:?}"),
    };
    let options = IngestOptions::new().with_tables([table]);
    for (column, column_type) in columns {
        for options in [
            options.clone().with_strategy(Strategy::Append),
            options.clone().with_strategy(Strategy::DeleteInsert).with_interval_start("1"),
            options.clone().with_interval_end("1"),
        ] {
            let error = run(&options.with_incremental_key(*column)).unwrap_or_else(|| panic!("{column} is taken"));
            let expected = format!("column `{column}` is {column_type} at the source, whose values are read as text");
            assert!(error.contains(&expected), "{column}: {error}");
        }
        let described = Arc::new(source.table(table).unwrap());
        let error = source.rows_between(described, column, Some("1"), None).unwrap_err();
        assert_eq!((error.kind(), error.column()), (ErrorKind::Config, Some(*column)), "{error}");
    }
    for key in keys {
        assert_eq!(run(&options.clone().with_strategy(Strategy::Append).with_incremental_key(*key)), None, "{key}");
    }
    for key in dates {
        let options = options.clone().with_strategy(Strategy::DeleteInsert).with_incremental_key(*key);
        for options in [options.clone(), options.clone().with_interval_start("2024-01-01"), options.clone().with_full_refresh(true)] {
            assert_eq!(run(&options), None, "{key}");
            for malformed_text in [MalformedText::Error, MalformedText::Bytes] {
                let options = options.clone().with_zero_dates(ZeroDates::Text).with_malformed_text(malformed_text);
                let error = run(&options).unwrap_or_else(|| panic!("{key} is taken"));
                assert!(error.contains("`incremental_key`") && error.contains("`zero_dates`"), "{key}: {error}");
            }
        }
        let interval = options.with_zero_dates(ZeroDates::Text).with_interval_start("2024-01-01");
        let report = verify(source, &mut Sink::open("sqlite://:memory:").unwrap(), &VerifyOptions::new(interval)).unwrap();
        let VerifyState::Failed { error } = &report.tables[0].state else { panic!("{report:?}") };
        assert!(error.contains("`zero_dates`"), "{key}: {error}");
    }
}

#[test]
fn what_is_read_as_text_that_has_another_order_is_no_incremental_key() {
    let folder = tempfile::tempdir().unwrap();
    let (sqlite, duckdb) = (folder.path().join("x.db"), folder.path().join("x.duckdb"));
    rusqlite::Connection::open(&sqlite)
        .unwrap()
        .execute_batch(
            "create table t (id integer primary key, n numeric, d decimal, wide decimal(80,2), untyped, note text, name varchar(9), c decimal(9,2),
                 day date, at datetime);
             insert into t values (1, 99, 99, 99, 99, 'a', 'a', 99, '2024-01-01', '2024-01-01 00:00:00')",
        )
        .unwrap();
    ::duckdb::Connection::open(&duckdb)
        .unwrap()
        .execute_batch(
            "create table t (id integer primary key, wide decimal(38,31), big bignum, span interval, zoned timetz, note varchar, u uuid, huge hugeint,
                 day date, made timestamp, seen timestamptz);
             insert into t values (1, 99, 99, interval 9 days, '01:00:00+00', 'a', uuid(), 99, '2024-01-01', '2024-01-01', '2024-01-01 00:00:00+00')",
        )
        .unwrap();
    let plain = Source::open(&uri("sqlite", &sqlite)).unwrap();
    let columns = [("n", "numeric"), ("d", "decimal"), ("wide", "decimal(80,2)"), ("untyped", "of no type")];
    assert_no_keys(&plain, "t", &columns, &["id", "note", "name", "c"], &["day", "at"]);
    let text = Source::open(&(uri("sqlite", &sqlite) + "?types=text")).unwrap();
    assert_no_keys(&text, "t", &[("id", "INTEGER"), ("n", "numeric"), ("c", "decimal(9,2)"), ("at", "datetime")], &["note", "name"], &[]);
    let source = Source::open(&(uri("duckdb", &duckdb) + "?interval_type=text")).unwrap();
    let columns = [("wide", "DECIMAL(38,31)"), ("big", "BIGNUM"), ("span", "INTERVAL"), ("zoned", "TIME WITH TIME ZONE")];
    assert_no_keys(&source, "t", &columns, &["id", "note", "u", "huge"], &["day", "made", "seen"]);
}

#[test]
fn what_this_crate_has_written_comes_back_as_it_was() {
    const TABLE: &str = "source_back";
    let server = crate::support::servers::mysql();
    let mut conn = server.conn();
    for sql in [
        "use commerce".to_owned(),
        format!("drop table if exists {TABLE}"),
        format!(
            "create table {TABLE} (id int primary key, a tinyint unsigned, b bigint unsigned, c decimal(18,4), d decimal(65,30), e float, f double,
                 g bit(12), h date, i datetime(3), j timestamp(6) null, k time(6), l year, m varchar(20), n varbinary(20), o enum('x','it''s'),
                 p set('x','y'), q json, r point, s bit(64), t smallint, u mediumint)"
        ),
        format!(
            "insert into {TABLE} values
             (1, 255, 18446744073709551615, -99999999999999.9999, -1.5, 3.99, -1e300, b'100000000001', '0001-01-01', '9999-12-31 23:59:59.999',
                 '2038-01-19 03:14:07.999999', '-838:59:59.000000', 2155, 'ü☃', x'00ff', 'it''s', 'x,y', '{{\"a\": [1, null]}}', point(1, 2),
                 0xffffffffffffffff, -32768, 8388607),
             (2, 0, 0, 0, 0, 0, 0, 0, '2024-02-29', '1000-01-01', '1970-01-01 00:00:01', '838:59:59.0', 0, '', '', 'x', '', '[]', point(-1, 0), 0, 0, 0),
             (3, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null)"
        ),
    ] {
        conn.query_drop(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    let from = Source::open(&server.uri("commerce")).unwrap();
    let (expected, declared) = (read(&from, TABLE), from.table(TABLE).unwrap());
    let folder = tempfile::tempdir().unwrap();
    for (scheme, more) in [("duckdb", ""), ("duckdb", "?enum_type=enum"), ("sqlite", "")] {
        let file = uri(scheme, &folder.path().join(format!("copy.{scheme}{}", more.len())));
        moved(&server.uri("commerce"), &format!("{file}{more}"), &IngestOptions::new().with_tables([TABLE]));
        let copy = Source::open(&file).unwrap();
        assert_eq!(copy.tables().unwrap().len(), 1);
        let mut found = read(&copy, TABLE);
        found.sort();
        for (found, expected) in found.iter().zip(&expected) {
            for ((found, expected), column) in found.iter().zip(expected).zip(declared.columns()) {
                let column_type = column.column_type().to_string();
                let [found, expected] = [found, expected].map(|cell| common(cell, &column_type));
                assert_eq!(found, expected, "{scheme}{more}: {}", column.name());
            }
        }
        assert_eq!(found.len(), expected.len());
    }
    conn.query_drop(format!("drop table {TABLE}")).unwrap();
}

#[test]
fn a_source_without_change_capture_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.db");
    rusqlite::Connection::open(&file).unwrap().execute_batch("create table t (a integer primary key)").unwrap();
    let source = Source::open(&uri("sqlite", &file)).unwrap();
    assert_eq!(source.server().version(), rusqlite::version());
    assert!(!source.server().is_vitess());
    #[cfg(feature = "vstream")]
    {
        let nothing: Option<planetscale_ingest::StoredPosition> = None;
        let request = planetscale_ingest::CaptureRequest::new().with_table(source.table("t").unwrap(), nothing);
        let error = source.changes(request, planetscale_ingest::Cancel::new()).unwrap_err();
        assert_eq!(error.kind(), planetscale_ingest::ErrorKind::Unsupported);
        assert!(error.to_string().contains("the source is SQLite"), "{error}");
    }
    let bytes = source.rows_with(Arc::new(source.table("t").unwrap()), MalformedText::Bytes).unwrap();
    assert_eq!(bytes.count(), 0);
}
