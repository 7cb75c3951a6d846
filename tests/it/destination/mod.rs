//! What may befall a destination: no space, no permission, other programs, and people who change what a run has left.

mod altered;
mod disk;
mod lease;
mod refused;

use std::process::{Command, Output};

use crate::capture::fixture::{Destination, Kind};
use crate::support::program;

/// The example program, which moves `table` from `source` to `destination` and prints a report.
fn ingest(source: &str, destination: &Destination, table: &str) -> Vec<String> {
    let program = program("ingest").to_str().unwrap().to_owned();
    let arguments =
        ["--source-uri", source, "--dest-uri", &destination.uri(), "--source-table", table, "--progress", "off", "--report", "json"];
    std::iter::once(program).chain(arguments.map(str::to_owned)).collect()
}

/// Runs a program; what came of it.
fn run(command: &[String]) -> Output {
    Command::new(&command[0]).args(&command[1..]).output().unwrap()
}

/// The report that a program printed.
fn report(output: &[u8]) -> serde_json::Value {
    let text = String::from_utf8_lossy(output);
    serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What is wrong, in a report of one table or of none.
fn error_of(report: &serde_json::Value) -> &str {
    report["error"].as_str().or_else(|| report["tables"][0]["error"].as_str()).unwrap_or_else(|| panic!("no error in {report}"))
}

/// Everything that a destination holds, but for when it was written.
fn content(destination: &Destination) -> Vec<(String, Vec<Vec<Option<String>>>)> {
    let list = match destination.kind {
        Kind::Sqlite => "select name from sqlite_schema where type = 'table' order by 1",
        Kind::DuckDb => "select table_name from duckdb_tables() order by 1",
    };
    let tables = destination.query(list).into_iter().flatten().flatten();
    tables
        .map(|table| {
            let columns = if table == "_ingest_checkpoint" { "dest_table, position, live_rows" } else { "*" };
            let rows = destination.query(&format!("select {columns} from \"{table}\" order by 1"));
            (table, rows)
        })
        .collect()
}
