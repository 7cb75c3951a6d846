//! Times copying a table of 15 columns out of MySQL, beside what its two halves cost alone:
//!
//! ```text
//! cargo run --release --no-default-features --features sqlite,duckdb --example time_copy -- mysql://user:password@host:port/database [rows] [runs] [folder]
//! ```
//!
//! The table `time_copy_<rows>` is made in that database if it is not there. Then, each in a process of its own, so that each has its own CPU
//! time and peak memory: `drain`, the same query over the same connection by the `mysql` crate, rows only counted; `writer`, the rows
//! already in memory, into a new file; `insert loop`, the same by the barest use of SQLite; `whole`, all of it by this crate.

use std::env;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use mysql::prelude::Queryable;
use planetscale_ingest::{Batch, IngestOptions, Sink, Source, TableName, ValueRef, ingest};
use url::Url;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const COLUMNS: &str = "id INT PRIMARY KEY, small_str VARCHAR(20), medium_str VARCHAR(100), large_str VARCHAR(500), tiny_int SMALLINT, \
    regular_int INT, big_int BIGINT, float_val DOUBLE, decimal_val DECIMAL(18,4), bool_val BOOLEAN, date_val DATE, ts_val DATETIME(6), \
    ts_tz_val DATETIME(6), json_val JSON, extra_text TEXT";

/// One row for each number `n`; three columns are NULL in every seventeenth.
const ROW: &str = "n, CONCAT('name ', n % 5000), CONCAT('user', n, '@example-', n % 977, '.com ', MD5(n)), \
    CONCAT('Order ', n, ' of customer ', n * 7 % 100003, ' goes to ', MD5(n + 1), ' by way of ', \
        SUBSTRING('the old harbour, where ships wait for the tide and the clerks count barrels, sacks and crates until the evening bell rings \
over the roofs; nobody there hurries, since what is counted twice is right, and what is right is paid for at the end of the month', \
        1 + n % 40, 150)), \
    n % 30000, n * 3 % 1000000007, n * 1000003, n / 7.0, (n % 100000000) / 100 + 0.0001, n % 2, \
    IF(n % 17 = 0, NULL, '2015-01-01' + INTERVAL n % 3650 DAY), IF(n % 17 = 0, NULL, '2015-01-01' + INTERVAL n * 61 SECOND + INTERVAL n % 1000000 MICROSECOND), \
    '2020-02-02' + INTERVAL n * 37 SECOND, JSON_OBJECT('id', n, 'tags', JSON_ARRAY('a', n % 10), 'score', n % 1000 / 10), \
    IF(n % 17 = 0, NULL, CONCAT('note ', MD5(n * 3), ' ', REPEAT('x', n % 20)))";

/// What one measured process says of itself.
#[derive(Clone, Copy)]
struct Measured {
    seconds: f64,
    cpu_seconds: f64,
    peak_mib: f64,
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [uri, rest @ ..] = arguments.as_slice() else { return Err("usage: time_copy URI [rows] [runs] [folder]".into()) };
    if let [what, rows, folder, child] = rest
        && child == "--child"
    {
        let measured = measure(uri, what, rows.parse()?, Path::new(folder))?;
        println!("{} {} {}", measured.seconds, measured.cpu_seconds, measured.peak_mib);
        return Ok(());
    }
    let rows: u64 = rest.first().map_or(Ok(1_000_000), |text| text.parse())?;
    let runs: usize = rest.get(1).map_or(Ok(5), |text| text.parse())?;
    let folder = rest.get(2).map_or_else(env::temp_dir, Into::into);
    make_table(uri, rows)?;
    let version: Option<String> = connect(uri)?.query_first("SELECT @@version")?;
    println!("{rows} rows, {runs} runs, MySQL {}, median (least to most)", version.unwrap_or_default());
    println!("{:<22}{:>28}{:>26}{:>12}", "", "rows/s", "CPU s per million", "peak MiB");
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
            measured.push(in_child(uri, kind, rows, &folder)?);
        }
    }
    for (kind, measured) in kinds.iter().zip(&all) {
        let rate = spread(measured, |run| rows as f64 / run.seconds);
        let cpu = spread(measured, |run| run.cpu_seconds * 1e6 / rows as f64);
        let peak = spread(measured, |run| run.peak_mib);
        let rate_text = format!("{:.0} ({:.0} to {:.0})", rate.1, rate.0, rate.2);
        let cpu_text = format!("{:.2} ({:.2} to {:.2})", cpu.1, cpu.0, cpu.2);
        println!("{kind:<22}{rate_text:>28}{cpu_text:>26}{:>12.0}", peak.2);
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
            let ratios: Vec<f64> = whole_runs.iter().zip(part_runs).map(|(whole, part)| part.seconds / whole.seconds).collect();
            let (least, median, most) = spread(&ratios, |ratio| *ratio);
            println!("{whole} / {part}: {median:.2} ({least:.2} to {most:.2})");
        }
    }
    Ok(())
}

/// Least, median and most.
fn spread<T>(measured: &[T], value: impl Fn(&T) -> f64) -> (f64, f64, f64) {
    let mut values: Vec<f64> = measured.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    (values[0], values[values.len() / 2], values[values.len() - 1])
}

fn in_child(uri: &str, kind: &str, rows: u64, folder: &Path) -> Outcome<Measured> {
    let output = Command::new(env::current_exe()?).args([uri, kind, &rows.to_string()]).arg(folder).arg("--child").output()?;
    if !output.status.success() {
        return Err(format!("{kind}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let text = String::from_utf8(output.stdout)?;
    let numbers: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [seconds, cpu_seconds, peak_mib] = numbers[..] else { return Err("a measured process printed something else".into()) };
    Ok(Measured { seconds, cpu_seconds, peak_mib })
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

/// A connection as bare as can be, over TCP like the crate's.
fn connect(uri: &str) -> Outcome<mysql::Conn> {
    let url = Url::parse(uri)?;
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8().map(std::borrow::Cow::into_owned);
    let options = mysql::OptsBuilder::new()
        .ip_or_hostname(url.host_str())
        .tcp_port(url.port().unwrap_or(3306))
        .user(Some(decode(url.username())?))
        .pass(url.password().map(decode).transpose()?)
        .db_name(Some(url.path().trim_start_matches('/')))
        .prefer_socket(false);
    Ok(mysql::Conn::new(options)?)
}

/// User and system time of all threads of this process.
fn cpu_seconds() -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field can hold blanks, but ends with the last parenthesis.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = [11, 12].iter().filter_map(|&at| fields.get(at)?.parse::<f64>().ok()).sum();
    Ok(ticks / 100.0)
}

fn peak_mib() -> Outcome<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("the system does not tell the peak memory")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<f64>()? / 1024.0)
}
