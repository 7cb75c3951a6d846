//! Iterates over the changes of a table oneself: `capture_changes SOURCE_URI TABLE FILE`.
//!
//! `FILE` keeps how far the table has come, in place of a destination. The first run prints every row, later ones what has changed since.

use std::path::Path;
use std::process::ExitCode;

use planetscale_ingest::{Cancel, CaptureRequest, Change, Checkpoint, Source};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source_uri, table, file] = arguments.as_slice() else {
        eprintln!("usage: capture_changes mysql+cdc://user:password@host:port/database?grpc_port=… TABLE FILE");
        return ExitCode::from(2);
    };
    match capture(source_uri, table, Path::new(file)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("capture_changes: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn capture(source_uri: &str, table: &str, file: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let stored = file.exists().then(|| std::fs::read_to_string(file)).transpose()?;
    let resume = stored.map(|text| Checkpoint::parse(table, &text)).transpose()?;
    let source = Source::open(source_uri)?;
    let request = CaptureRequest::new().with_table(source.table(table)?, resume);
    let mut caught_up = false;
    for batch in source.changes(request, Cancel::new())? {
        let batch = batch?;
        for change in batch.changes() {
            match change {
                Change::Rows(rows) => {
                    for (op, row) in rows.iter() {
                        let values: Vec<String> = row.values().map(|value| value.to_string()).collect();
                        println!("{op:?} {}", values.join(", "));
                    }
                }
                Change::Truncated { .. } => println!("every row was deleted"),
                Change::Columns { added, .. } => println!("{} new columns", added.len()),
                Change::Swept { before, .. } => println!("rows printed under a position before {before} are gone"),
                Change::Ended { error, .. } => return Err(error.to_string().into()),
                other => println!("more has happened to {}", other.table().name()),
            }
        }
        // What was printed must not come again, and what was not must: so this follows each complete batch.
        if let ([checkpoint], true) = (batch.checkpoints(), batch.is_complete()) {
            std::fs::write(file, checkpoint.to_string())?;
        }
        caught_up |= batch.is_caught_up();
    }
    println!("{}", if caught_up { "caught up" } else { "ended early" });
    Ok(())
}
