//! Follows changes until Ctrl-C: `until_cancelled SOURCE_URI DEST_URI [TABLE…]`, where the source's URI says `mode=stream`.
//!
//! What is committed stays, and the next start goes on from there.

use std::process::ExitCode;

use planetscale_ingest::{Cancel, CaptureMode, Error, IngestOptions, Sink, Source, SourceOptions, TableState, ingest};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source_uri, dest_uri, tables @ ..] = arguments.as_slice() else {
        eprintln!("usage: until_cancelled mysql+cdc://user:password@host:port/database?grpc_port=…&mode=stream DEST_URI [TABLE…]");
        return ExitCode::from(2);
    };
    match follow(source_uri, dest_uri, tables) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("until_cancelled: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn follow(source_uri: &str, dest_uri: &str, tables: &[String]) -> Result<ExitCode, Error> {
    let cancel = Cancel::new();
    let interrupted = cancel.clone();
    if let Err(error) = ctrlc::set_handler(move || interrupted.cancel()) {
        eprintln!("until_cancelled: Ctrl-C ends the run without a report: {error}");
    }
    let source = Source::open_unless(&SourceOptions::from_uri(source_uri)?, &cancel)?;
    if source.options().capture().is_none_or(|capture| capture.mode() != CaptureMode::Stream) {
        eprintln!("until_cancelled: without `mode=stream` the run ends by itself");
    }
    let mut sink = Sink::open(dest_uri)?;
    let options = IngestOptions::new()
        .with_tables(tables)
        .with_progress(|progress| println!("{}: {} rows and changes stored", progress.table, progress.rows))
        .with_cancel(cancel);
    let report = ingest(&source, &mut sink, &options)?;
    for table in &report.tables {
        // Complete: every table has all that the source had when the run began. Cancelling before that leaves it partial.
        println!("{}: {:?}", table.source, table.state);
    }
    let failed = report.tables.iter().any(|table| matches!(table.state, TableState::Failed { .. }));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
