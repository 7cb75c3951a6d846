//! Times loading a table of 15 columns into MySQL, beside the server's own `INSERT … SELECT`, and merging changes into a table that is there:
//!
//! ```text
//! cargo run --release --features duckdb,postgres --example time_load -- mysql://user:password@host:port/database [rows] [runs] [folder] [postgresql://…]
//! ```
//!
//! The tables `time_load_<rows>` (the rows) and `time_load_changes_<rows>` (a tenth of them, with other values, spread over all) are made in that
//! database, and in PostgreSQL's if one is named, where they are not there; a DuckDB file with the rows lies in the folder. Then, each in a process
//! of its own, so that each has its own CPU time and peak memory: `insert select`, the rows into a new table by the server alone; `mysql to mysql`,
//! `duckdb to mysql` and `postgresql to mysql`, the rows into a new table by this crate; `merge into mysql` and `merge into duckdb`, the changes into
//! a table with all rows, by primary key, which is filled before the clock starts.
//!
//! What bounds the merges is measured beside them: `drain changes`, the same query by the `mysql` crate, rows only counted; `upsert in mysql`, the
//! server's own `INSERT … SELECT … ON DUPLICATE KEY UPDATE`; `merge in duckdb`, DuckDB's own `DELETE` and `INSERT … SELECT` with the commit and the
//! closing of the file, the changes already being in a temporary table.

mod timing;

use std::env;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, Report, Sink, Source, Strategy, TableName, ingest};
use timing::{
    COLUMNS, Measured, Outcome, PART, connect, cpu_seconds, in_child, insert_rows, peak_mib, print_heads, print_line, print_ratio,
};

fn main() -> Outcome<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [uri, rest @ ..] = arguments.as_slice() else {
        return Err("usage: time_load URI [rows] [runs] [folder] [postgresql URI]".into());
    };
    if let [what, rows, folder, postgresql, child] = rest
        && child == "--child"
    {
        Bench { mysql: uri, postgresql, rows: rows.parse()?, folder: folder.into() }.measure(what)?.print();
        return Ok(());
    }
    let rows: u64 = rest.first().map_or(Ok(1_000_000), |text| text.parse())?;
    let runs: usize = rest.get(1).map_or(Ok(5), |text| text.parse())?;
    let folder = rest.get(2).map_or_else(env::temp_dir, Into::into);
    let postgresql = rest.get(3).map_or("", String::as_str);
    let bench = Bench { mysql: uri, postgresql, rows, folder };
    bench.prepare()?;
    let server: Option<(String, u64, bool)> = connect(uri)?.query_first("SELECT @@version, @@innodb_buffer_pool_size, @@local_infile")?;
    let (version, pool, takes_files) = server.ok_or("the server does not tell its version")?;
    println!("{rows} rows, {runs} runs, MySQL {version}, median (least to most)");
    println!("innodb_buffer_pool_size {} MiB, local_infile {}", pool >> 20, if takes_files { "on" } else { "off" });
    print_heads();
    let mut kinds = vec!["insert select", "mysql to mysql", "duckdb to mysql"];
    if !postgresql.is_empty() {
        kinds.push("postgresql to mysql");
    }
    kinds.extend(["drain changes", "upsert in mysql", "merge into mysql", "merge in duckdb", "merge into duckdb"]);
    // In turn, so that what else the machine does falls on all alike.
    let mut all: Vec<Vec<Measured>> = vec![Vec::new(); kinds.len()];
    for _ in 0..runs {
        for (kind, measured) in kinds.iter().zip(&mut all) {
            measured.push(in_child(&[uri, kind, &rows.to_string(), &bench.folder.to_string_lossy(), postgresql, "--child"])?);
        }
    }
    for (kind, measured) in kinds.iter().zip(&all) {
        print_line(kind, bench.rows_of(kind), measured);
    }
    let of = |wanted: &str| kinds.iter().position(|kind| *kind == wanted).map(|at| &all[at]);
    for (whole, part) in [
        ("mysql to mysql", "insert select"),
        ("duckdb to mysql", "insert select"),
        ("postgresql to mysql", "insert select"),
        ("postgresql to mysql", "mysql to mysql"),
        ("merge into mysql", "upsert in mysql"),
        ("merge into duckdb", "merge in duckdb"),
    ] {
        if let (Some(whole_runs), Some(part_runs)) = (of(whole), of(part)) {
            print_ratio(&format!("{whole} / {part}"), whole_runs, part_runs);
        }
    }
    Ok(())
}

/// Where the rows go in MySQL.
const TARGET: &str = "time_load_target";

struct Bench<'a> {
    mysql: &'a str,
    /// Empty without one.
    postgresql: &'a str,
    rows: u64,
    folder: PathBuf,
}

impl Bench<'_> {
    fn table(&self) -> String {
        format!("time_load_{}", self.rows)
    }

    fn changes_table(&self) -> String {
        format!("time_load_changes_{}", self.rows)
    }

    fn changes(&self) -> u64 {
        self.rows / 10
    }

    /// Rows that a measurement moves.
    fn rows_of(&self, kind: &str) -> u64 {
        if ["merge", "upsert", "drain"].iter().any(|of_changes| kind.starts_with(of_changes)) { self.changes() } else { self.rows }
    }

    /// The DuckDB file with the rows.
    fn file(&self) -> PathBuf {
        self.folder.join(format!("{}.duckdb", self.table()))
    }

    fn prepare(&self) -> Outcome<()> {
        let mut conn = connect(self.mysql)?;
        let (table, changes) = (self.table(), self.changes_table());
        conn.query_drop(format!("CREATE TABLE IF NOT EXISTS {table} ({COLUMNS})"))?;
        let mut count: u64 = conn.query_first(format!("SELECT COALESCE(MAX(id), 0) FROM {table}"))?.unwrap_or(0);
        while count < self.rows {
            conn.query_drop(insert_rows(&table, count))?;
            count += PART as u64;
        }
        conn.query_drop(format!("DELETE FROM {table} WHERE id > {}", self.rows))?;
        conn.query_drop(format!("CREATE TABLE IF NOT EXISTS {changes} LIKE {table}"))?;
        let there: u64 = conn.query_first(format!("SELECT COUNT(*) FROM {changes}"))?.unwrap_or(0);
        if there != self.changes() {
            conn.query_drop(format!("TRUNCATE TABLE {changes}"))?;
            conn.query_drop(format!("INSERT INTO {changes} SELECT * FROM {table} WHERE id % 10 = 3"))?;
            conn.query_drop(format!(
                "UPDATE {changes} SET small_str = 'changed', regular_int = regular_int + 1, large_str = REVERSE(large_str)"
            ))?;
        }
        if !self.file().exists() {
            self.copy((self.mysql, &table), (&duckdb(&self.file()), &table), Strategy::Replace)?;
        }
        self.prepare_postgresql()
    }

    /// Fills PostgreSQL's table with the text that MySQL prints of each value, by `psql` or what the variable `PSQL` names.
    fn prepare_postgresql(&self) -> Outcome<()> {
        if self.postgresql.is_empty() {
            return Ok(());
        }
        let table = self.table();
        let psql = |statement: &str| {
            let mut psql = Command::new(env::var_os("PSQL").unwrap_or_else(|| "psql".into()));
            psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement, self.postgresql]);
            psql
        };
        let columns = COLUMNS
            .replace("DOUBLE", "DOUBLE PRECISION")
            .replace("DATETIME(6)", "TIMESTAMP")
            .replace("bool_val BOOLEAN", "bool_val SMALLINT");
        let create = format!("SET client_min_messages = error; CREATE TABLE IF NOT EXISTS {table} ({columns})");
        let there = psql(&format!("{create}; SELECT count(*) FROM {table}")).output()?;
        if !there.status.success() {
            return Err(format!("psql: {}", String::from_utf8_lossy(&there.stderr)).into());
        }
        if String::from_utf8_lossy(&there.stdout).trim() == self.rows.to_string() {
            return Ok(());
        }
        let mut copy = psql(&format!("TRUNCATE {table}; COPY {table} FROM STDIN")).stdin(Stdio::piped()).spawn()?;
        let mut writer = BufWriter::new(copy.stdin.take().ok_or("psql takes no input")?);
        let mut conn = connect(self.mysql)?;
        for row in conn.query_iter(format!("SELECT * FROM {table}"))? {
            let values = row?.unwrap().into_iter().map(|value| match value {
                mysql::Value::Bytes(text) => String::from_utf8_lossy(&text).replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n"),
                _ => "\\N".to_owned(),
            });
            writeln!(writer, "{}", values.collect::<Vec<_>>().join("\t"))?;
        }
        writer.into_inner()?.flush()?;
        if copy.wait()?.success() { Ok(()) } else { Err("psql did not take the rows".into()) }
    }

    fn measure(&self, kind: &str) -> Outcome<Measured> {
        let (table, changes) = (self.table(), self.changes_table());
        let scratch = self.folder.join(format!("time_load_{}.duckdb", std::process::id()));
        let mut conn = connect(self.mysql)?;
        // A merge within DuckDB finds the changes in the file's memory.
        let mut file = None;
        let drop_target = format!("DROP TABLE IF EXISTS {TARGET}");
        conn.query_drop(&drop_target)?;
        let fill = format!("INSERT INTO {TARGET} SELECT * FROM {table}");
        match kind {
            "insert select" => conn.query_drop(format!("CREATE TABLE {TARGET} LIKE {table}"))?,
            "merge into mysql" | "upsert in mysql" => {
                conn.query_drop(format!("CREATE TABLE {TARGET} LIKE {table}"))?;
                conn.query_drop(&fill)?;
            }
            "merge into duckdb" => drop(std::fs::copy(self.file(), &scratch)?),
            "merge in duckdb" => {
                std::fs::copy(self.file(), &scratch)?;
                let opened = duckdb::Connection::open(&scratch)?;
                // As the crate sets them: the whole table is not to be written anew for some rows.
                opened.execute_batch("SET max_vacuum_tasks = 0; SET checkpoint_threshold = '256MiB'")?;
                opened.execute_batch(&format!(
                    "CREATE TEMP TABLE changes AS SELECT * REPLACE ('changed' AS small_str, regular_int + 1 AS regular_int, \
                     reverse(large_str) AS large_str) FROM {table} WHERE id % 10 = 3"
                ))?;
                file = Some(opened);
            }
            _ => {}
        }
        let (begun, cpu) = (Instant::now(), cpu_seconds()?);
        let count = match kind {
            "insert select" => {
                conn.query_drop(&fill)?;
                conn.affected_rows()
            }
            "drain changes" => conn.query_iter(format!("SELECT * FROM {changes}"))?.try_fold(0, |rows, row| row.map(|_| rows + 1))?,
            "upsert in mysql" => {
                let columns = COLUMNS.split(", ").filter_map(|column| column.split(' ').next()).skip(1);
                let set: Vec<String> = columns.map(|name| format!("{name} = VALUES({name})")).collect();
                conn.query_drop(format!("INSERT INTO {TARGET} SELECT * FROM {changes} ON DUPLICATE KEY UPDATE {}", set.join(", ")))?;
                // Two for each row that took another's place.
                conn.affected_rows() / 2
            }
            "merge in duckdb" => {
                let opened = file.take().ok_or("no file is open")?;
                opened.execute_batch("BEGIN")?;
                let count = opened.execute(&format!("DELETE FROM {table} WHERE id IN (SELECT id FROM changes)"), [])?;
                opened.execute(&format!("INSERT INTO {table} SELECT * FROM changes"), [])?;
                opened.execute_batch("COMMIT")?;
                opened.close().map_err(|(_, error)| error)?;
                count as u64
            }
            "mysql to mysql" | "duckdb to mysql" | "postgresql to mysql" => {
                let from = match kind {
                    "mysql to mysql" => self.mysql.to_owned(),
                    "duckdb to mysql" => duckdb(&self.file()),
                    _ => self.postgresql.to_owned(),
                };
                let report = self.copy((&from, &table), (self.mysql, TARGET), Strategy::Replace)?;
                report.tables.iter().map(|table| table.rows_inserted).sum()
            }
            "merge into mysql" | "merge into duckdb" => {
                let file = duckdb(&scratch);
                let into = if kind.ends_with("mysql") { (self.mysql, TARGET) } else { (file.as_str(), table.as_str()) };
                let report = self.copy((self.mysql, &changes), into, Strategy::Merge)?;
                report.tables.iter().map(|table| table.rows_updated).sum()
            }
            other => return Err(format!("nothing is called {other}").into()),
        };
        let measured = Measured { seconds: begun.elapsed().as_secs_f64(), cpu_seconds: cpu_seconds()? - cpu, peak_mib: peak_mib()? };
        conn.query_drop(&drop_target)?;
        let _ = std::fs::remove_file(&scratch);
        let expected = self.rows_of(kind);
        if count == expected { Ok(measured) } else { Err(format!("{kind} wrote {count} of {expected} rows").into()) }
    }

    fn copy(&self, (source, table): (&str, &str), (sink, target): (&str, &str), strategy: Strategy) -> Outcome<Report> {
        let (source, mut sink) = (Source::open(source)?, Sink::open(sink)?);
        let options = IngestOptions::new().with_tables([table]).with_dest_table(TableName::new(target)).with_strategy(strategy);
        let report = ingest(&source, &mut sink, &options)?;
        if report.is_complete() { Ok(report) } else { Err(format!("{report:?}").into()) }
    }
}

fn duckdb(file: &Path) -> String {
    format!("duckdb://{}", file.display())
}
