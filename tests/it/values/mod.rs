//! Every value as MySQL says that it is, whichever way it came and wherever it lies.
//!
//! `VALUES_ROWS` is how many values each type has (default 1000), `VALUES_SEED` what the random ones follow from (default 1).

mod charsets;
mod types;

use std::collections::BTreeSet;
use std::path::Path;

use mysql::Conn;
use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, Sink, Source, ingest};

pub use self::types::{Kind, Type};
use crate::support::servers::{Server, mysql, vitess};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// The values of a column by the ids of their rows.
pub type Held = Vec<(i64, Option<String>)>;

/// Tables of one type each, filled, by their names.
pub struct Tables {
    pub conn: Conn,
    pub types: Vec<(String, Type)>,
}

impl Tables {
    /// Makes them anew, with the ids of their rows from 1 on and a row of NULL behind.
    pub fn create(server: &Server, database: &str, prefix: &str) -> Self {
        let mut conn = server.conn();
        for statement in [&format!("use `{database}`"), "set names utf8mb4", "set time_zone = '+00:00'", "set sql_mode = ''"] {
            conn.query_drop(statement).unwrap();
        }
        let rows = usize::try_from(setting("VALUES_ROWS", 1000)).unwrap();
        let types = types::all(rows, setting("VALUES_SEED", 1));
        let types: Vec<_> = types.into_iter().enumerate().map(|(at, of)| (format!("{prefix}_{at}"), of)).collect();
        for (table, of) in &types {
            conn.query_drop(format!("drop table if exists {table}")).unwrap();
            let sql = format!("create table {table} (id bigint primary key, v {})", of.declared);
            conn.query_drop(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        let mut tables = Self { conn, types };
        tables.insert(0);
        tables
    }

    /// Inserts all values, the first with the id after `from`.
    pub fn insert(&mut self, from: usize) {
        for (table, of) in &self.types {
            let mut rows: Vec<String> = of.values.iter().enumerate().map(|(at, value)| format!("({}, {value})", from + at + 1)).collect();
            rows.push(format!("({}, null)", from + of.values.len() + 1));
            for part in rows.chunks(200) {
                let sql = format!("insert into {table} (id, v) values {}", part.join(","));
                self.conn.query_drop(&sql).unwrap_or_else(|error| panic!("{}: {error}", sql.chars().take(300).collect::<String>()));
            }
        }
    }

    pub fn drop(mut self) {
        for (table, _) in &self.types {
            self.conn.query_drop(format!("drop table {table}")).unwrap();
        }
    }

    pub fn names(&self) -> Vec<String> {
        self.types.iter().map(|(table, _)| table.clone()).collect()
    }

    /// Compares each table with what MySQL says, and names what differs.
    pub fn differences(&mut self, phase: &str, destination: &dyn Fn(&str, Kind) -> Held, in_duckdb: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        for (table, of) in &self.types {
            let sql = format!("select id, {} from {table} order by id", of.kind.oracle());
            let expected: Vec<(i64, Option<String>)> = self.conn.query(sql).unwrap();
            let found = destination(table, of.kind);
            if expected.len() != found.len() {
                wrong.push(format!("{phase}, {}: {} rows, expected {}", of.declared, found.len(), expected.len()));
            }
            let differ = expected
                .iter()
                .zip(&found)
                .filter(|((id, said), (found_id, value))| id != found_id || !agree(of.kind, said.as_deref(), value.as_deref(), in_duckdb));
            for ((id, said), (_, value)) in differ.take(3) {
                wrong.push(format!("{phase}, {}: row {id} is {value:?}, MySQL says {said:?}", of.declared));
            }
        }
        wrong
    }
}

/// Whether a destination holds what MySQL says.
fn agree(kind: Kind, said: Option<&str>, found: Option<&str>, in_duckdb: bool) -> bool {
    let Some(said) = said else { return found.is_none() };
    let is_no_day = || said.get(4..7) == Some("-00") || said.get(7..10) == Some("-00");
    match kind {
        Kind::Date | Kind::DateTime(_) | Kind::Timestamp(_) if in_duckdb && is_no_day() => found.is_none(),
        // The year before the first one is 1 BC for DuckDB.
        Kind::Date if in_duckdb && said == "0000-01-01" => found == Some("0001-01-01 (BC)"),
        // DuckDB prints no zero before the point where the type has no digits there.
        Kind::Decimal if in_duckdb => found
            .map(|found| found.replace("-.", "-0."))
            .is_some_and(|found| found.trim_start_matches('0') == said.trim_start_matches('0') || found == said),
        Kind::DateTime(fraction) | Kind::Timestamp(fraction) if in_duckdb => {
            // DuckDB always prints six digits.
            let padded = if fraction == 0 { format!("{said}.000000") } else { format!("{said}{}", "0".repeat(6 - usize::from(fraction))) };
            found == Some(padded.as_str())
        }
        Kind::Time(_) if in_duckdb => found == Some(micros(said).to_string().as_str()),
        Kind::Float => {
            // The comparison is that of 32-bit numbers.
            #[allow(clippy::cast_possible_truncation)]
            let narrow = |text: &str| text.parse::<f64>().unwrap() as f32;
            found.is_some_and(
                |found| if in_duckdb { narrow(found).to_bits() == narrow(said).to_bits() } else { narrow(found) == narrow(said) },
            )
        }
        Kind::Double => found.is_some_and(|found| {
            let [found, said] = [found, said].map(|text| text.parse::<f64>().unwrap());
            // SQLite stores no negative zero.
            if in_duckdb { found.to_bits() == said.to_bits() } else { found == said }
        }),
        Kind::Bit(width) => {
            let padded = format!("{said:0>width$}", width = usize::from(width));
            let bits = |number: &str| format!("{:0width$b}", number.parse::<u64>().unwrap(), width = usize::from(width));
            found.is_some_and(|found| if in_duckdb { found == padded } else { bits(found) == padded })
        }
        _ => found == Some(said),
    }
}

/// A time as MySQL prints it, in microseconds.
fn micros(said: &str) -> i64 {
    let (sign, text) = said.strip_prefix('-').map_or((1, said), |rest| (-1, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = whole.split(':').fold(0, |seconds, part| seconds * 60 + part.parse::<i64>().unwrap());
    sign * (seconds * 1_000_000 + format!("{fraction:0<6}").parse::<i64>().unwrap())
}

pub fn in_sqlite(file: &Path, table: &str, kind: Kind, condition: &str) -> Vec<(i64, Option<String>)> {
    use rusqlite::types::ValueRef;
    let connection = rusqlite::Connection::open(file).unwrap();
    let mut statement = connection.prepare(&format!("select id, v from {table} {condition} order by id")).unwrap();
    let rows = statement.query_map([], |row| {
        let value = match row.get_ref(1)? {
            ValueRef::Null => None,
            ValueRef::Integer(number) => Some(number.to_string()),
            ValueRef::Real(number) => Some(format!("{number:e}")),
            ValueRef::Text(text) if kind == Kind::Text => Some(hex(text)),
            ValueRef::Text(text) => Some(String::from_utf8(text.to_vec()).unwrap()),
            ValueRef::Blob(bytes) if kind == Kind::Bytes => Some(hex(bytes)),
            ValueRef::Blob(_) => Some("a blob where none belongs".to_owned()),
        };
        Ok((row.get(0)?, value))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

pub fn in_duckdb(file: &Path, table: &str, kind: Kind, condition: &str) -> Vec<(i64, Option<String>)> {
    let connection = duckdb::Connection::open(file).unwrap();
    let mut statement = connection.prepare(&format!("select id, {} from {table} {condition} order by id", kind.duckdb())).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Copies whole tables, compares them, and takes them back.
fn check_batch(server: &Server, database: &str, prefix: &str) {
    let mut tables = Tables::create(server, database, prefix);
    let folder = tempfile::tempdir().unwrap();
    let [sqlite, duckdb] = ["a.db", "a.duckdb"].map(|name| folder.path().join(name));
    let options = IngestOptions::new().with_tables(tables.names());
    for uri in [format!("sqlite://{}", sqlite.display()), format!("duckdb://{}", duckdb.display())] {
        let source = Source::open(&server.uri(database)).unwrap();
        let report = ingest(&source, &mut Sink::open(&uri).unwrap(), &options).unwrap();
        let failed: Vec<_> = report.tables.iter().filter(|table| table.state != planetscale_ingest::TableState::Complete).collect();
        assert!(failed.is_empty(), "{failed:#?}");
    }
    let mut wrong = tables.differences("batch into SQLite", &|table, kind| in_sqlite(&sqlite, table, kind, ""), false);
    wrong.extend(tables.differences("batch into DuckDB", &|table, kind| in_duckdb(&duckdb, table, kind, ""), true));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // vtgate knows no CHECKSUM TABLE.
    if server.grpc.is_none() {
        take_all_back(&mut tables, &sqlite, &duckdb);
    }
    tables.drop();
}

fn take_all_back(tables: &mut Tables, sqlite: &Path, duckdb: &Path) {
    let Tables { conn, types } = tables;
    for (table, of) in types.iter() {
        keep_what_comes_back(conn, table, of);
        let ids: Vec<i64> = conn.query(format!("select id from {table}")).unwrap();
        let ids: BTreeSet<i64> = ids.into_iter().collect();
        for from_duckdb in [false, true] {
            let rows = if from_duckdb { in_duckdb(duckdb, table, of.kind, "") } else { in_sqlite(sqlite, table, of.kind, "") };
            let rows: Vec<_> = rows.into_iter().filter(|(id, _)| ids.contains(id)).collect();
            take_back(conn, table, of, &rows, from_duckdb);
        }
    }
}

/// Deletes the rows whose mapping the docs do not call exact: dates that no calendar has, the negative zero, ENUM's error value, JSON with types that
/// JSON does not have.
fn keep_what_comes_back(conn: &mut Conn, table: &str, of: &Type) {
    let lossy = match of.kind {
        Kind::Date | Kind::DateTime(_) | Kind::Timestamp(_) => "year(v) = 0 or month(v) = 0 or day(v) = 0",
        Kind::Float | Kind::Double => "v = 0",
        Kind::Text if of.declared.starts_with("enum") => "v + 0 = 0",
        Kind::Json => "json_contains_path(v, 'one', '$.date', '$.decimal', '$.bytes')",
        _ => return,
    };
    conn.query_drop(format!("delete from {table} where {lossy}")).unwrap();
}

/// Loads what a destination holds into a table like the first one, and compares the two by MySQL's own checksum.
fn take_back(conn: &mut Conn, table: &str, of: &Type, rows: &[(i64, Option<String>)], from_duckdb: bool) {
    conn.query_drop(format!("drop table if exists {table}_back")).unwrap();
    conn.query_drop(format!("create table {table}_back (id bigint primary key, v {})", of.declared)).unwrap();
    let rows: Vec<String> = rows
        .iter()
        .map(|(id, value)| format!("({id}, {})", value.as_ref().map_or("null".into(), |value| in_sql(of.kind, value, from_duckdb))))
        .collect();
    for part in rows.chunks(200) {
        let sql = format!("insert into {table}_back (id, v) values {}", part.join(","));
        conn.query_drop(&sql).unwrap_or_else(|error| panic!("{}: {error}", sql.chars().take(300).collect::<String>()));
    }
    let sums: Vec<(String, Option<u64>)> = conn.query(format!("checksum table {table}, {table}_back")).unwrap();
    assert_eq!(sums.len(), 2);
    assert!(sums[0].1.is_some(), "{table} has no checksum");
    assert_eq!(sums[0].1, sums[1].1, "{} from {}", of.declared, if from_duckdb { "DuckDB" } else { "SQLite" });
    conn.query_drop(format!("drop table {table}_back")).unwrap();
}

/// What [`in_sqlite`] or [`in_duckdb`] read, as SQL writes it.
fn in_sql(kind: Kind, value: &str, from_duckdb: bool) -> String {
    let of_hex = |prefix: &str, hex: &str| if hex.is_empty() { "''".to_owned() } else { format!("{prefix}0x{hex}") };
    match kind {
        Kind::Int | Kind::Decimal | Kind::Float | Kind::Double => value.to_owned(),
        Kind::Bit(_) if from_duckdb => format!("b'{value}'"),
        Kind::Bit(_) => value.to_owned(),
        Kind::Time(_) if from_duckdb => {
            let micros: i64 = value.parse().unwrap();
            let (sign, micros) = (if micros < 0 { "-" } else { "" }, micros.unsigned_abs());
            let seconds = micros / 1_000_000;
            format!("'{sign}{}:{:02}:{:02}.{:06}'", seconds / 3600, seconds / 60 % 60, seconds % 60, micros % 1_000_000)
        }
        Kind::Date | Kind::DateTime(_) | Kind::Timestamp(_) | Kind::Time(_) => format!("'{value}'"),
        Kind::Text => of_hex("_utf8mb4 ", value),
        Kind::Json => of_hex("_utf8mb4 ", &hex(value.as_bytes())),
        Kind::Bytes => of_hex("", value),
    }
}

#[test]
fn a_whole_copy_from_mysql_holds_what_mysql_says() {
    check_batch(mysql(), "commerce", "values_batch");
}

#[test]
fn a_whole_copy_through_vtgate_holds_what_mysql_says() {
    check_batch(vitess(), "commerce", "values_batch");
}
