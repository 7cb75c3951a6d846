//! Copies a table: `copy_table SOURCE_URI DEST_URI TABLE`, with a source like `mysql://user:password@host:port/database`.
//!
//! Uses the two halves themselves, so that there is a place to look at the rows on their way; `ingest` does the same in one call.

use std::process::ExitCode;
use std::sync::Arc;

use planetscale_ingest::{Result, Sink, Source, TableName, Written};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source_uri, dest_uri, table] = arguments.as_slice() else {
        eprintln!("usage: copy_table mysql://user:password@host:port/database DEST_URI TABLE");
        return ExitCode::from(2);
    };
    match copy(source_uri, dest_uri, table) {
        Ok(written) => {
            println!("{table}: {} rows", written.rows);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("copy_table: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn copy(source_uri: &str, dest_uri: &str, name: &str) -> Result<Written> {
    let source = Source::open(source_uri)?;
    let mut sink = Sink::open(dest_uri)?;
    let table = Arc::new(source.table(name)?);
    for column in table.columns() {
        println!("{}: {}", column.name(), column.column_type());
    }
    let mut load = sink.replace(&TableName::new(name), &table)?;
    for batch in source.rows_of(table)? {
        let batch = batch?;
        if let Some(row) = batch.rows().next() {
            let values: Vec<String> = row.values().map(|value| value.to_string()).collect();
            println!("{} rows, the first is {}", batch.len(), values.join(", "));
        }
        load.write(&batch)?;
    }
    // Without this, also after an error above, the destination stays as it was.
    load.commit()
}
