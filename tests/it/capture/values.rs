//! Values in copy and stream: see [`crate::values`].

use mysql::prelude::Queryable;
use planetscale_ingest::IngestOptions;

use super::fixture::{Destination, Kind, binary_logs_stay};
use crate::support::servers::vitess;
use crate::values::{self, Tables};

fn check(kind: Kind, prefix: &str) {
    let _stay = binary_logs_stay();
    let source = vitess().cdc_uri("commerce");
    let mut tables = Tables::create(vitess(), "commerce", prefix);
    let destination = Destination::new(kind);
    let options = IngestOptions::new().with_tables(tables.names());
    let held = |table: &str, of: values::Kind| match kind {
        Kind::Sqlite => values::in_sqlite(&destination.path, table, of, "where not _cdc_deleted"),
        Kind::DuckDb => values::in_duckdb(&destination.path, table, of, "where not _cdc_deleted"),
    };
    let in_duckdb = kind == Kind::DuckDb;
    destination.capture_all(&source, &options);
    let mut wrong = tables.differences("copy", &held, in_duckdb);
    // The same values as new rows.
    tables.insert(100_000);
    destination.capture_all(&source, &options);
    wrong.extend(tables.differences("stream of inserts", &held, in_duckdb));
    // Each of them to and from the others, NULL among them.
    for (table, of) in &tables.types {
        let rows = of.values.len() + 1;
        let sql = format!("update {table} as a join {table} as b on b.id = 100000 + a.id % {rows} + 1 set a.v = b.v where a.id < 100000");
        tables.conn.query_drop(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        tables.conn.query_drop(format!("update {table} set v = null where id > 100000")).unwrap();
    }
    destination.capture_all(&source, &options);
    wrong.extend(tables.differences("stream of updates", &held, in_duckdb));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    tables.drop();
}

#[test]
fn copy_and_stream_into_sqlite_hold_what_mysql_says() {
    check(Kind::Sqlite, "values_sqlite");
}

#[test]
fn copy_and_stream_into_duckdb_hold_what_mysql_says() {
    check(Kind::DuckDb, "values_duckdb");
}
