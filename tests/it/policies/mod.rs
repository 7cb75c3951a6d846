//! What becomes of values that are no text, that no calendar has, or that a destination's types do not hold; and what is counted of it.

mod forms;
mod numbers;
mod text;
mod types;

use planetscale_ingest::{IngestOptions, Report, TableState, ValueChange};

use crate::capture::fixture::{Destination, Kind};

/// The values of the first table that policies have changed.
fn changed(report: &Report) -> Vec<(&str, ValueChange, u64)> {
    report.tables[0].changed_values.iter().map(|changed| (changed.column.as_str(), changed.change, changed.values)).collect()
}

/// Why the first table of a run failed, or the run itself.
fn error_of(destination: &Destination, source: &str, options: &IngestOptions) -> String {
    match destination.capture(source, options) {
        Ok(report) => match &report.tables[0].state {
            TableState::Failed { error } => error.clone(),
            state => panic!("{:?}: {state:?}", destination.kind),
        },
        Err(error) => format!("{error:#}"),
    }
}

/// The types that columns were declared with at the destination.
fn declared(destination: &Destination, table: &str) -> Vec<(String, String)> {
    let sql = match destination.kind {
        Kind::Sqlite => format!("select name, type from pragma_table_info('{table}')"),
        Kind::DuckDb => format!("select column_name, data_type from duckdb_columns() where table_name = '{table}' order by column_index"),
    };
    destination.query(&sql).into_iter().map(|row| (row[0].clone().unwrap(), row[1].clone().unwrap())).collect()
}
