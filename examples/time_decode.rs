//! Times what it takes to read each type, in the three ways in which values come:
//!
//! ```text
//! cargo run --release --example time_decode -- mysql+cdc://user@host:port/keyspace?grpc_port=… [rows] [runs]
//! ```
//!
//! The keyspace must be unsharded. For each type a table of an `id` and one column is made there, `time_decode_<number>`, with 100,000 rows if
//! nothing else is said. Measured, each in a process of its own: `batch`, the table read whole; `copy`, its snapshot by VStream; `stream`, as
//! many rows that were added since. Nothing is stored. Rows a second hold the server's time too; CPU is this process's alone.

mod timing;

use std::env;
use std::sync::Arc;
use std::time::Instant;

use mysql::prelude::Queryable;
use planetscale_ingest::{Cancel, CaptureRequest, Change, Checkpoint, Source};
use timing::{Measured, Outcome, connect, cpu_seconds, in_child, peak_mib, spread};

/// A type, and its value for each number `n`.
const TYPES: [(&str, &str); 22] = [
    ("tinyint", "n % 128"),
    ("bigint", "n * 1000003"),
    ("bigint unsigned", "18446744073709551615 - n"),
    ("int(10) zerofill", "n"),
    ("year", "1901 + n % 200"),
    ("decimal(18,4)", "n / 10000 - 5"),
    ("decimal(65,30)", "n / 10000 - 5"),
    ("float", "n / 7.0e0"),
    ("double", "n / 7.0e0"),
    ("bit(24)", "n"),
    ("date", "'2015-01-01' + interval n % 3650 day"),
    ("datetime(6)", "'2015-01-01' + interval n * 61 second"),
    ("timestamp(3) null", "'2015-01-01' + interval n * 61 second"),
    ("time(6)", "sec_to_time(n % 3000000 / 1000)"),
    ("varchar(100)", "concat('user', n, '@example.com')"),
    ("varchar(100) character set latin1", "concat('usér', n, '@example.com')"),
    ("varchar(100) character set gbk", "concat('汉字', n, '@example.com')"),
    ("varbinary(100)", "unhex(sha2(n, 256))"),
    ("enum('a','b','c','d')", "1 + n % 4"),
    ("set('a','b','c','d')", "n % 16"),
    ("json", "json_object('id', n, 'tags', json_array('a', n % 10), 'score', n % 1000 / 10)"),
    ("point", "point(n, n + 1)"),
];

fn main() -> Outcome<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [uri, rest @ ..] = arguments.as_slice() else { return Err("usage: time_decode URI [rows] [runs]".into()) };
    if let [what, table, rows, child] = rest
        && child == "--child"
    {
        measure(uri, what, table, rows.parse()?)?.print();
        return Ok(());
    }
    let rows: u64 = rest.first().map_or(Ok(100_000), |text| text.parse())?;
    let runs: usize = rest.get(1).map_or(Ok(3), |text| text.parse())?;
    let version: Option<String> = connect(uri)?.query_first("SELECT @@version")?;
    println!("{rows} rows, {runs} runs, {}: thousand rows/s, and in brackets CPU ns a row; medians", version.unwrap_or_default());
    println!("{:<36}{:>18}{:>18}{:>18}", "", "batch", "copy", "stream");
    for (number, (declared, value)) in TYPES.iter().enumerate() {
        let table = format!("time_decode_{number}");
        make_table(uri, &table, declared, value, rows)?;
        print!("{declared:<36}");
        for what in ["batch", "copy", "stream"] {
            let mut measured = Vec::new();
            for _ in 0..runs {
                measured.push(in_child(&[uri, what, &table, &rows.to_string(), "--child"])?);
            }
            let (_, seconds, _) = spread(&measured, |run| run.seconds);
            let (_, cpu, _) = spread(&measured, |run| run.cpu_seconds);
            print!("{:>18}", format!("{:.0} ({:.0})", rows as f64 / seconds / 1e3, cpu * 1e9 / rows as f64));
        }
        println!();
        connect(uri)?.query_drop(format!("DROP TABLE {table}"))?;
    }
    Ok(())
}

fn measure(uri: &str, what: &str, table: &str, rows: u64) -> Outcome<Measured> {
    let source = Source::open(uri)?;
    let (mut begun, mut cpu) = (Instant::now(), cpu_seconds()?);
    let mut count = 0;
    if what == "batch" {
        for batch in source.rows_of(Arc::new(source.table(table)?))? {
            count += batch?.len() as u64;
        }
    } else {
        let (copied, checkpoint) = capture(&source, table, None)?;
        count = copied;
        if what == "stream" {
            double(uri, table, rows)?;
            (begun, cpu) = (Instant::now(), cpu_seconds()?);
            count = capture(&source, table, checkpoint)?.0;
        }
    }
    let measured = Measured { seconds: begun.elapsed().as_secs_f64(), cpu_seconds: cpu_seconds()? - cpu, peak_mib: peak_mib()? };
    let mut conn = connect(uri)?;
    for from in (0..rows).step_by(PART) {
        conn.query_drop(format!("DELETE FROM {table} WHERE id BETWEEN {} AND {}", rows + from + 1, rows + from + PART as u64))?;
    }
    if count == rows { Ok(measured) } else { Err(format!("{what} of {table} saw {count} of {rows} rows").into()) }
}

/// Captures until there is nothing more, and counts the rows.
fn capture(source: &Source, table: &str, from: Option<Checkpoint>) -> Outcome<(u64, Option<Checkpoint>)> {
    let request = CaptureRequest::new().with_table(source.table(table)?, from);
    let (mut count, mut last) = (0, None);
    for batch in source.changes(request, Cancel::new())? {
        let batch = batch?;
        for change in batch.changes() {
            if let Change::Rows(rows) = change {
                count += rows.len() as u64;
            }
        }
        last = batch.checkpoints().last().cloned().or(last);
    }
    Ok((count, last))
}

/// Rows that one statement adds; vtgate takes no more than 10,000.
const PART: usize = 5_000;

fn make_table(uri: &str, table: &str, declared: &str, value: &str, rows: u64) -> Outcome<()> {
    let mut conn = connect(uri)?;
    conn.query_drop("SET sql_mode = ''")?;
    conn.query_drop(format!("DROP TABLE IF EXISTS {table}"))?;
    conn.query_drop(format!("CREATE TABLE {table} (id BIGINT PRIMARY KEY, v {declared})"))?;
    let digit = "(SELECT 0 d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 \
                 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)";
    for from in (0..rows).step_by(PART) {
        let n = format!("{from} + 1 + a.d + 10 * b.d + 100 * c.d + 1000 * e.d");
        conn.query_drop(format!(
            "INSERT INTO {table} (id, v) SELECT n, {value} FROM (SELECT {n} AS n FROM {digit} a, {digit} b, {digit} c, \
             (SELECT 0 d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4) e) AS s WHERE n <= {rows}"
        ))?;
    }
    Ok(())
}

/// Adds each row once more.
fn double(uri: &str, table: &str, rows: u64) -> Outcome<()> {
    let mut conn = connect(uri)?;
    for from in (0..rows).step_by(PART) {
        let (first, last) = (from + 1, from + PART as u64);
        conn.query_drop(format!(
            "INSERT INTO {table} (id, v) SELECT id + {rows}, v FROM {table} WHERE id BETWEEN {first} AND {last} AND id <= {rows}"
        ))?;
    }
    Ok(())
}
