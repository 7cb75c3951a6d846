//! Brings what has changed since the last run, and compares both sides: `incremental SOURCE_URI DEST_URI TABLE COLUMN`, with a source like
//! `mysql://user:password@host:port/database`, and a column that grows with every change, such as `updated_at`.

use std::process::ExitCode;

use planetscale_ingest::{IngestOptions, Result, Sink, Source, Strategy, VerifyOptions, ingest, verify};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source_uri, dest_uri, table, column] = arguments.as_slice() else {
        eprintln!("usage: incremental mysql://user:password@host:port/database DEST_URI TABLE COLUMN");
        return ExitCode::from(2);
    };
    match merge(source_uri, dest_uri, table, column) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("incremental: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn merge(source_uri: &str, dest_uri: &str, table: &str, column: &str) -> Result<bool> {
    let source = Source::open(source_uri)?;
    let mut sink = Sink::open(dest_uri)?;
    let options = IngestOptions::new().with_tables([table]).with_strategy(Strategy::Merge).with_incremental_key(column);
    let report = ingest(&source, &mut sink, &options)?;
    for table in &report.tables {
        println!("{}: {} rows are new, {} have changed, {:?}", table.source, table.rows_inserted, table.rows_updated, table.state);
    }
    // A merge does not hear of rows that were deleted at the source, nor of changes that left the column as it was.
    let verified = verify(&source, &mut sink, &VerifyOptions::new(options).with_max_keys(10))?;
    for table in &verified.tables {
        println!("{}: {} rows here, {} there, {:?}", table.source, table.source_rows, table.destination_rows, table.state);
        for (what, keys) in [("missing", &table.missing), ("extra", &table.extra), ("different", &table.different)] {
            keys.iter().for_each(|key| println!("{what}: {}", key.join(", ")));
        }
    }
    Ok(report.is_complete() && verified.is_equal())
}
