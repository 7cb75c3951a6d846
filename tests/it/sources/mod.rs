//! Sources that are not MySQL. Files need no server.

mod duckdb;
#[cfg(feature = "postgres")]
mod postgres;
mod sqlite;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use planetscale_ingest::{ColumnType, IngestOptions, MalformedText, Report, Sink, Source, TableState, ValueRef, ingest};

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
