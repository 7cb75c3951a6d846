//! Moves tables from the command line: `ingest --source-uri mysql://… --dest-uri duckdb:///shop.duckdb --source-table orders`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use lexopt::prelude::*;
use planetscale_ingest::{
    Cancel, IngestOptions, MalformedText, OutOfRange, Progress, Report, Sink, Source, SourceOptions, Strategy, TableName, TableState,
    TableVerification, VerifyOptions, VerifyReport, VerifyState, ZeroDates, ingest, verify,
};
use serde_json::json;

const USAGE: &str = "\
usage: ingest --source-uri URI --dest-uri URI [options]

  --source-uri URI           mysql://user:password@host:port/database, or mysql+cdc://…?grpc_port=… for change capture;
                             postgresql://user:password@host:port/database, duckdb:///path.duckdb, sqlite:///path.db
  --dest-uri URI             duckdb:///path.duckdb, sqlite:///path.db or mysql://user:password@host:port/database
  --source-table A[,B…]      tables to move (default: all)
  --dest-table X             the destination's table, for one source table; X may be schema.table
  --incremental-strategy S   replace, append, merge, delete+insert or truncate+insert (default: replace; for change capture merge)
  --primary-key C[,D…]       columns that identify a row (default: the source's primary key)
  --incremental-key C        column whose values choose the rows; without an interval those from the destination's greatest value on
  --interval-start V         least value of it, inclusive
  --interval-end V           greatest value of it, inclusive
  --hard-delete              remove deleted rows instead of marking them
  --full-refresh             build the destination's tables anew
  --zero-dates P             null, error or text (default: null)
  --malformed-text P         error, replace or bytes (default: error)
  --out-of-range P           of numbers beyond SQLite's: mixed, error or text (default: mixed)
  --verify                   compare the tables with the source afterwards
  --verify-only              compare them, and move nothing
  --progress M               auto, plain, json or off (default: auto)
  --report json              print a report on standard output; its state is complete, partial or failed, which it also is
                             where a table was compared and is not the same, or could not be compared

The exit status is 0 only if every table is complete and, where they are compared, the same as at the source.
";

struct Arguments {
    source_uri: String,
    dest_uri: String,
    options: IngestOptions,
    progress: Mode,
    report: bool,
    moves: bool,
    verifies: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Bar,
    Plain,
    Json,
    Off,
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ingest: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok((report, verified)) => {
            for table in &report.tables {
                match &table.state {
                    TableState::Complete => {}
                    TableState::Failed { error } => eprintln!("ingest: {}: {error}", table.source),
                    _ => eprintln!("ingest: {}: not complete", table.source),
                }
            }
            let done = match arguments.report {
                true => println(&as_json(&report, verified.as_ref()).to_string()),
                false => summary(&arguments, &report),
            };
            verified.iter().for_each(show_differences);
            let is_equal = verified.is_none_or(|verified| verified.is_equal());
            if report.is_complete() && is_equal && done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("ingest: {error:#}");
            if arguments.report {
                println(&json!({"state": "failed", "error": format!("{error:#}"), "tables": []}).to_string());
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> planetscale_ingest::Result<(Report, Option<VerifyReport>)> {
    let cancel = Cancel::new();
    let interrupted = cancel.clone();
    // The first interrupt ends the run in order, the second at once.
    let handler = ctrlc::set_handler(move || {
        if interrupted.is_cancelled() {
            std::process::exit(130);
        }
        interrupted.cancel();
    });
    if let Err(error) = handler {
        eprintln!("ingest: interrupts end the run at once: {error}");
    }
    let source = Source::open_unless(&SourceOptions::from_uri(&arguments.source_uri)?, &cancel)?;
    let mut sink = Sink::open(&arguments.dest_uri)?;
    let display = Display::new(arguments.progress);
    let options = arguments.options.clone().with_cancel(cancel).with_progress(move |progress| display.show(progress));
    let report = if arguments.moves { ingest(&source, &mut sink, &options)? } else { Report::default() };
    // What is not complete is not the same.
    let verified = match arguments.verifies && report.is_complete() {
        true => Some(verify(&source, &mut sink, &VerifyOptions::new(options))?),
        false => None,
    };
    Ok((report, verified))
}

fn arguments() -> Result<Option<Arguments>, lexopt::Error> {
    let (mut source_uri, mut dest_uri, mut report) = (None, None, false);
    let (mut progress, mut moves, mut verifies) = (None, true, false);
    let mut options = IngestOptions::new();
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("source-uri") => source_uri = Some(parser.value()?.string()?),
            Long("dest-uri") => dest_uri = Some(parser.value()?.string()?),
            Long("source-table") => options = options.with_tables(list(&mut parser)?),
            Long("dest-table") => {
                let name = TableName::parse(&parser.value()?.string()?).map_err(|error| error.to_string())?;
                options = options.with_dest_table(name);
            }
            Long("incremental-strategy") => {
                options = options.with_strategy(choice(
                    &mut parser,
                    &[Strategy::Replace, Strategy::Append, Strategy::Merge, Strategy::DeleteInsert, Strategy::TruncateInsert]
                        .map(|strategy| (strategy.name(), strategy)),
                )?);
            }
            Long("primary-key") => options = options.with_primary_key(list(&mut parser)?),
            Long("incremental-key") => options = options.with_incremental_key(parser.value()?.string()?),
            Long("interval-start") => options = options.with_interval_start(parser.value()?.string()?),
            Long("interval-end") => options = options.with_interval_end(parser.value()?.string()?),
            Long("hard-delete") => options = options.with_hard_delete(true),
            Long("full-refresh") => options = options.with_full_refresh(true),
            Long("zero-dates") => {
                let policies = [("null", ZeroDates::Null), ("error", ZeroDates::Error), ("text", ZeroDates::Text)];
                options = options.with_zero_dates(choice(&mut parser, &policies)?);
            }
            Long("malformed-text") => {
                let policies = [("error", MalformedText::Error), ("replace", MalformedText::Replace), ("bytes", MalformedText::Bytes)];
                options = options.with_malformed_text(choice(&mut parser, &policies)?);
            }
            Long("out-of-range") => {
                let policies = [("mixed", OutOfRange::Mixed), ("error", OutOfRange::Error), ("text", OutOfRange::Text)];
                options = options.with_out_of_range(choice(&mut parser, &policies)?);
            }
            Long("progress") => {
                let modes = [("auto", None), ("plain", Some(Mode::Plain)), ("json", Some(Mode::Json)), ("off", Some(Mode::Off))];
                progress = choice(&mut parser, &modes)?;
            }
            Long("verify") => verifies = true,
            Long("verify-only") => (moves, verifies) = (false, true),
            Long("report") => report = choice(&mut parser, &[("json", true)])?,
            Long("help") | Short('h') => {
                print!("{USAGE}");
                return Ok(None);
            }
            other => return Err(other.unexpected()),
        }
    }
    let terminal = std::io::stderr().is_terminal();
    Ok(Some(Arguments {
        source_uri: source_uri.ok_or("--source-uri is missing")?,
        dest_uri: dest_uri.ok_or("--dest-uri is missing")?,
        options,
        progress: progress.unwrap_or(if terminal { Mode::Bar } else { Mode::Plain }),
        report,
        moves,
        verifies,
    }))
}

/// Names separated by commas.
fn list(parser: &mut lexopt::Parser) -> Result<Vec<String>, lexopt::Error> {
    Ok(parser.value()?.string()?.split(',').map(|name| name.trim().to_owned()).collect())
}

fn choice<T: Copy>(parser: &mut lexopt::Parser, choices: &[(&str, T)]) -> Result<T, lexopt::Error> {
    let value = parser.value()?.string()?;
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    match choices.iter().find(|(name, _)| *name == value) {
        Some((_, chosen)) => Ok(*chosen),
        None => Err(format!("`{value}` is none of {}", names.join(", ")).into()),
    }
}

/// Shows how far the run is, on standard error.
struct Display {
    mode: Mode,
    bar: ProgressBar,
    last: Mutex<Option<(usize, Instant)>>,
}

impl Display {
    fn new(mode: Mode) -> Self {
        let bar = if mode == Mode::Bar { ProgressBar::no_length() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        Self { mode, bar, last: Mutex::new(None) }
    }

    fn show(&self, progress: &Progress<'_>) {
        // A line a second is enough, and one for each new table.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = Duration::from_millis(match self.mode {
            Mode::Bar => 100,
            Mode::Json => 250,
            _ => 1000,
        });
        if self.mode == Mode::Off || last.is_some_and(|(table, at)| table == progress.table_index && at.elapsed() < pause) {
            return;
        }
        *last = Some((progress.table_index, Instant::now()));
        let place = format!("{}/{}", progress.table_index + 1, progress.tables);
        let text = format!("{place} {}: {} rows, {}", progress.table, HumanCount(progress.rows), HumanBytes(progress.bytes));
        match self.mode {
            Mode::Bar => {
                self.bar.set_message(text);
                self.bar.tick();
            }
            Mode::Plain => eprintln!("{text}"),
            Mode::Json => {
                let line = json!({"table": progress.table, "table_index": progress.table_index, "tables": progress.tables,
                    "rows": progress.rows, "bytes": progress.bytes, "seconds": progress.elapsed.as_secs_f64()});
                eprintln!("{line}");
            }
            Mode::Off => {}
        }
    }
}

fn summary(arguments: &Arguments, report: &Report) -> bool {
    if arguments.progress != Mode::Off {
        for table in &report.tables {
            let (read, written) = (HumanCount(table.rows_read), HumanCount(table.rows_inserted + table.rows_updated));
            let seconds = table.elapsed.as_secs_f64();
            for note in &table.notes {
                eprintln!("{}: {note}", table.source);
            }
            for changed in &table.changed_values {
                eprintln!("{}.{}: {} {}", table.source, changed.column, HumanCount(changed.values), changed.change);
            }
            eprintln!("{} -> {}: {read} rows read, {written} written, {seconds:.1} s", table.source, table.destination);
        }
    }
    true
}

/// What differs, on standard error.
fn show_differences(verified: &VerifyReport) {
    for table in &verified.tables {
        let rows =
            format!("{} rows at the source, {} at the destination", HumanCount(table.source_rows), HumanCount(table.destination_rows));
        match &table.state {
            VerifyState::Equal => eprintln!("{} = {}: {rows}", table.source, table.destination),
            VerifyState::Failed { error } => eprintln!("ingest: {} cannot be compared: {error}", table.source),
            _ => eprintln!("ingest: {} and {} differ: {rows}", table.source, table.destination),
        }
        for (what, keys) in differences(table) {
            keys.iter().for_each(|key| eprintln!("  {what}: {}", key.join(", ")));
        }
        if table.has_more {
            eprintln!("  and there are others");
        }
        for note in &table.notes {
            eprintln!("{}: {note}", table.source);
        }
    }
}

fn differences(table: &TableVerification) -> [(&'static str, &[Vec<String>]); 3] {
    [("missing", table.missing.as_slice()), ("extra", &table.extra), ("different", &table.different)]
}

fn verified_as_json(verified: &VerifyReport) -> serde_json::Value {
    let table = |table: &TableVerification| {
        let (state, error) = match &table.state {
            VerifyState::Equal => ("equal", None),
            VerifyState::Failed { error } => ("failed", Some(error)),
            _ => ("different", None),
        };
        json!({"source": table.source, "destination": table.destination, "source_rows": table.source_rows,
            "destination_rows": table.destination_rows, "missing": table.missing, "extra": table.extra, "different": table.different,
            "has_more": table.has_more, "position": table.position, "state": state, "error": error, "notes": table.notes,
            "seconds": table.elapsed.as_secs_f64()})
    };
    verified.tables.iter().map(table).collect()
}

fn as_json(report: &Report, verified: Option<&VerifyReport>) -> serde_json::Value {
    let tables: Vec<serde_json::Value> = report
        .tables
        .iter()
        .map(|table| {
            let (state, error) = match &table.state {
                TableState::Complete => ("complete", None),
                TableState::Failed { error } => ("failed", Some(error)),
                _ => ("partial", None),
            };
            let changed: Vec<serde_json::Value> = table
                .changed_values
                .iter()
                .map(|changed| json!({"column": changed.column, "change": changed.change.name(), "values": changed.values}))
                .collect();
            json!({"source": table.source, "destination": table.destination, "rows_read": table.rows_read,
                "rows_inserted": table.rows_inserted, "rows_updated": table.rows_updated, "rows_deleted": table.rows_deleted,
                "bytes": table.bytes, "position": table.position, "state": state, "error": error,
                "changed_values": changed, "notes": table.notes, "seconds": table.elapsed.as_secs_f64()})
        })
        .collect();
    let has_failed = report.tables.iter().any(|table| matches!(table.state, TableState::Failed { .. }));
    // Also where nothing was moved, and so nothing is incomplete.
    let differs = verified.is_some_and(|verified| !verified.is_equal());
    let state = if has_failed || differs {
        "failed"
    } else if report.is_complete() {
        "complete"
    } else {
        "partial"
    };
    json!({"state": state, "tables": tables, "seconds": report.elapsed.as_secs_f64(), "peak_memory_bytes": report.peak_memory_bytes,
        "verified": verified.map(verified_as_json)})
}

/// Prints to standard output; whether that was possible.
fn println(text: &str) -> bool {
    writeln!(std::io::stdout(), "{text}").is_ok()
}
