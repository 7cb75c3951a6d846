//! Times copying a table of 15 columns out of MySQL, beside what its two halves cost alone:
//!
//! ```text
//! cargo run --release --no-default-features --features sqlite,duckdb --example time_copy -- mysql://user:password@host:port/database [rows] [runs] [folder]
//! ```
//!
//! The table `time_copy_<rows>` is made in that database if it is not there. Then, each in a process of its own, so that each has its own CPU
//! time and peak memory: `drain`, the same query over the same connection by the `mysql` crate, rows only counted; `writer`, the rows
//! already in memory, into a new file; `insert loop`, the same by the barest use of SQLite; `whole`, all of it by this crate.

mod timing;

use std::env;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use mysql::prelude::Queryable;
use planetscale_ingest::{Batch, IngestOptions, Sink, Source, TableName, ValueRef, ingest};
use timing::{COLUMNS, Measured, Outcome, ROW, connect, cpu_seconds, in_child, peak_mib, print_heads, print_line, print_ratio};

fn main() -> Outcome<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [uri, rest @ ..] = arguments.as_slice() else { return Err("usage: time_copy URI [rows] [runs] [folder]".into()) };
    if let [what, rows, folder, child] = rest
        && child == "--child"
    {
        measure(uri, what, rows.parse()?, Path::new(folder))?.print();
        return Ok(());
    }
    let rows: u64 = rest.first().map_or(Ok(1_000_000), |text| text.parse())?;
    let runs: usize = rest.get(1).map_or(Ok(5), |text| text.parse())?;
    let folder = rest.get(2).map_or_else(env::temp_dir, Into::into);
    make_table(uri, rows)?;
    let version: Option<String> = connect(uri)?.query_first("SELECT @@version")?;
    println!("{rows} rows, {runs} runs, MySQL {}, median (least to most)", version.unwrap_or_default());
    print_heads();
    let mut kinds = vec!["drain"];
    // What holds all rows in memory is left out where there are too many.
    if rows <= 2_000_000 {
        kinds.extend(["writer duckdb", "writer sqlite", "insert loop sqlite"]);
    }
    kinds.extend(["whole duckdb", "whole sqlite"]);
    // In turn, so that what else the machine does falls on all alike.
    let mut all: Vec<Vec<Measured>> = vec![Vec::new(); kinds.len()];
    for _ in 0..runs {
        for (kind, measured) in kinds.iter().zip(&mut all) {
            measured.push(in_child(&[uri, kind, &rows.to_string(), &folder.to_string_lossy(), "--child"])?);
        }
    }
    for (kind, measured) in kinds.iter().zip(&all) {
        print_line(kind, rows, measured);
    }
    for (whole, part) in [
        ("whole duckdb", "drain"),
        ("whole duckdb", "writer duckdb"),
        ("whole sqlite", "insert loop sqlite"),
        ("writer sqlite", "insert loop sqlite"),
        ("whole sqlite", "drain"),
    ] {
        let of = |wanted: &str| kinds.iter().position(|kind| *kind == wanted).map(|at| &all[at]);
        if let (Some(whole_runs), Some(part_runs)) = (of(whole), of(part)) {
            print_ratio(&format!("{whole} / {part}"), whole_runs, part_runs);
        }
    }
    Ok(())
}

fn measure(uri: &str, kind: &str, rows: u64, folder: &Path) -> Outcome<Measured> {
    let table = format!("time_copy_{rows}");
    let file = folder.join(format!("time_copy_{}", std::process::id()));
    let dest = |scheme: &str| format!("{scheme}://{}", file.display());
    let (begun, cpu, count) = match kind {
        "drain" => {
            let mut conn = connect(uri)?;
            let (begun, cpu) = (Instant::now(), cpu_seconds()?);
            let names: Vec<&str> = COLUMNS.split(", ").filter_map(|column| column.split(' ').next()).collect();
            let statement = conn.prep(format!("SELECT {} FROM {table}", names.join(", ")))?;
            let mut count = 0;
            for row in conn.exec_iter(&statement, ())? {
                row?;
                count += 1;
            }
            (begun, cpu, count)
        }
        "writer duckdb" | "writer sqlite" => {
            let batches = in_memory(uri, &table)?;
            let mut sink = Sink::open(&dest(kind.trim_start_matches("writer ")))?;
            let (begun, cpu) = (Instant::now(), cpu_seconds()?);
            let Some(first) = batches.first() else { return Err("the table is empty".into()) };
            let mut load = sink.replace(&TableName::new(&table), first.table())?;
            for batch in &batches {
                load.write(batch)?;
            }
            (begun, cpu, load.commit()?.rows)
        }
        "insert loop sqlite" => {
            let batches = in_memory(uri, &table)?;
            let (begun, cpu) = (Instant::now(), cpu_seconds()?);
            (begun, cpu, insert_loop(&file, &table, &batches)?)
        }
        "whole duckdb" | "whole sqlite" => {
            let (begun, cpu) = (Instant::now(), cpu_seconds()?);
            let source = Source::open(uri)?;
            let mut sink = Sink::open(&dest(kind.trim_start_matches("whole ")))?;
            let report = ingest(&source, &mut sink, &IngestOptions::new().with_tables([table.as_str()]))?;
            if !report.is_complete() {
                return Err(format!("{report:?}").into());
            }
            (begun, cpu, report.tables.iter().map(|table| table.rows_inserted).sum())
        }
        other => return Err(format!("nothing is called {other}").into()),
    };
    let measured = Measured { seconds: begun.elapsed().as_secs_f64(), cpu_seconds: cpu_seconds()? - cpu, peak_mib: peak_mib()? };
    let _ = std::fs::remove_file(&file);
    if count == rows { Ok(measured) } else { Err(format!("{kind} saw {count} of {rows} rows").into()) }
}

fn in_memory(uri: &str, table: &str) -> Outcome<Vec<Batch>> {
    let source = Source::open(uri)?;
    Ok(source.rows_of(Arc::new(source.table(table)?))?.collect::<Result<_, _>>()?)
}

/// One transaction, one prepared statement, one call for each row.
fn insert_loop(file: &Path, table: &str, batches: &[Batch]) -> Outcome<u64> {
    let mut connection = rusqlite::Connection::open(file)?;
    let transaction = connection.transaction()?;
    let columns = COLUMNS.split(", ").filter_map(|column| column.split(' ').next());
    transaction.execute_batch(&format!("CREATE TABLE {table} ({})", columns.clone().collect::<Vec<_>>().join(", ")))?;
    let mut statement = transaction.prepare(&format!("INSERT INTO {table} VALUES ({})", vec!["?"; columns.count()].join(", ")))?;
    let mut count = 0;
    for row in batches.iter().flat_map(Batch::rows) {
        for column in 0..15 {
            match row.value(column) {
                ValueRef::Null => statement.raw_bind_parameter(column + 1, rusqlite::types::Null)?,
                ValueRef::Int(number) => statement.raw_bind_parameter(column + 1, number)?,
                ValueRef::Double(number) => statement.raw_bind_parameter(column + 1, number)?,
                ValueRef::Decimal(text) | ValueRef::Text(text) | ValueRef::Json(text) => statement.raw_bind_parameter(column + 1, text)?,
                ValueRef::Date(date) => statement.raw_bind_parameter(column + 1, date.date_text())?,
                ValueRef::DateTime(date) => statement.raw_bind_parameter(column + 1, date.text(6))?,
                _ => return Err("the table has no such column".into()),
            }
        }
        count += statement.raw_execute()? as u64;
    }
    drop(statement);
    transaction.commit()?;
    Ok(count)
}

fn make_table(uri: &str, rows: u64) -> Outcome<()> {
    let table = format!("time_copy_{rows}");
    let mut conn = connect(uri)?;
    conn.query_drop(format!("CREATE TABLE IF NOT EXISTS {table} ({COLUMNS})"))?;
    let mut count: u64 = conn.query_first(format!("SELECT COALESCE(MAX(id), 0) FROM {table}"))?.unwrap_or(0);
    while count < rows {
        let part = (rows - count).min(20_000);
        conn.query_drop(format!("SET cte_max_recursion_depth = {}", part + 1))?;
        conn.query_drop(format!(
            "INSERT INTO {table} WITH RECURSIVE s (n) AS (SELECT {} UNION ALL SELECT n + 1 FROM s WHERE n < {}) SELECT {ROW} FROM s",
            count + 1,
            count + part
        ))?;
        count += part;
    }
    Ok(())
}
