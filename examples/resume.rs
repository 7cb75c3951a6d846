//! Captures tables into a file, twice: `resume SOURCE_URI DEST_URI [TABLE…]`.
//!
//! The first run copies what the destination does not have. The second finds the stored positions and reads only what has changed since;
//! so does every later start of this program, also after it was interrupted.

use std::process::ExitCode;

use planetscale_ingest::{IngestOptions, Report, Result, Sink, Source, TableState, ingest};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source_uri, dest_uri, tables @ ..] = arguments.as_slice() else {
        eprintln!("usage: resume mysql+cdc://user:password@host:port/database?grpc_port=… DEST_URI [TABLE…]");
        return ExitCode::from(2);
    };
    for run in ["first", "second"] {
        match capture(source_uri, dest_uri, tables) {
            Ok(report) => {
                print(run, &report);
                if !report.is_complete() {
                    return ExitCode::FAILURE;
                }
            }
            Err(error) => {
                eprintln!("resume: {error:#}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// Without tables, all of the database are captured.
fn capture(source_uri: &str, dest_uri: &str, tables: &[String]) -> Result<Report> {
    let source = Source::open(source_uri)?;
    let mut sink = Sink::open(dest_uri)?;
    ingest(&source, &mut sink, &IngestOptions::new().with_tables(tables))
}

fn print(run: &str, report: &Report) {
    println!("{run} run, {} ms", report.elapsed.as_millis());
    for table in &report.tables {
        println!("  {}: {} rows and changes read", table.source, table.rows_read);
        if let TableState::Failed { error } = &table.state {
            eprintln!("resume: {}: {error}", table.source);
        }
    }
}
