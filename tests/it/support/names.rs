//! Tables with odd names.
//!
//! MySQL itself takes no characters beyond U+FFFF, and no blanks at the end (`Incorrect table name`); Vitess no table `dual`, which it leaves without
//! its quotes.

use std::sync::{Mutex, MutexGuard};

use mysql::Conn;
use mysql::prelude::Queryable;

/// Names that MySQL, Vitess and both destinations take, each for a table and its key.
pub const NAMES: [&str; 53] = [
    "two words",
    "double\"quote",
    "\"",
    "single'quote",
    "'",
    "☃ snow.man",
    "Ünï",
    "select",
    "order by",
    "null",
    "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
    "per%cent",
    "%",
    "_",
    "back\\slash",
    "\\",
    " leading",
    "a.b",
    ".",
    "commerce.x",
    "marks",
    "part",
    "rowid",
    "oid",
    "semi;colon",
    "q?mark",
    "#hash",
    "-- dash",
    "1digit",
    "12",
    "new\nline",
    "(paren",
    "a,b",
    "a=b",
    "@at",
    "@@global",
    ":colon",
    "$1",
    "{}",
    "*",
    "main",
    "temp",
    "sqlite",
    "excluded",
    "json_each",
    "pragma_table_info",
    "dbstat",
    "duckdb_tables",
    "pg_class",
    "information_schema",
    "sql/ite",
    "_cdc_lsn",
    "true",
];

/// In Vitess the names are those of one test at a time.
pub fn in_commerce() -> MutexGuard<'static, ()> {
    static NAMES_IN_COMMERCE: Mutex<()> = Mutex::new(());
    NAMES_IN_COMMERCE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Columns beside the key.
const COLUMNS: [&str; 8] = ["rowid", "oid", "_rowid_", "@at", "True", "false", "a\"b'c`d\\e.f%", "select"];

pub fn in_mysql(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

pub fn in_sql(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The columns of a table: the key, called like it where that can be, and numbers.
pub fn columns(table: &str) -> Vec<&str> {
    let key = if table == "_cdc_lsn" { "key" } else { table };
    std::iter::once(key).chain(COLUMNS.into_iter().filter(|column| !column.eq_ignore_ascii_case(table))).collect()
}

/// Makes a table with two rows.
pub fn create(conn: &mut Conn, table: &str) {
    let columns: Vec<String> = columns(table).into_iter().map(in_mysql).collect();
    let table = in_mysql(table);
    let values = |row: usize| (0..columns.len()).map(|at| (row * 10 + at).to_string()).collect::<Vec<_>>().join(", ");
    for sql in [
        format!("drop table if exists {table}"),
        format!("create table {table} ({} int, primary key ({}))", columns.join(" int, "), columns[0]),
        format!("insert into {table} ({}) values ({}), ({})", columns.join(", "), values(1), values(2)),
    ] {
        conn.query_drop(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

pub fn at_source(conn: &mut Conn, table: &str) -> Vec<Vec<String>> {
    let columns: Vec<String> = columns(table).into_iter().map(in_mysql).collect();
    let rows: Vec<mysql::Row> = conn.query(format!("select {} from {} order by 1", columns.join(", "), in_mysql(table))).unwrap();
    rows.into_iter().map(|row| row.unwrap().into_iter().map(|value| value.as_sql(true).replace('\'', "")).collect()).collect()
}
