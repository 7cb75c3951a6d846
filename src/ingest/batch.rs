//! Whole tables.

use std::sync::Arc;
use std::time::Instant;

use super::{IngestOptions, Progress, Strategy, chosen, destinations_of};
use crate::report::{Report, TableReport, TableState};
use crate::schema::{Table, TableName};
use crate::sink::Sink;
use crate::source::rows::Rows;
use crate::source::{Reading, Source};
use crate::{Error, ErrorKind, Result};

/// Copies the tables that the options name.
pub(super) fn copy_tables(source: &Source, sink: &mut Sink, options: &IngestOptions, begun: Instant) -> Result<Report> {
    check(options)?;
    let tables = chosen(source, options)?;
    let targets = destinations_of(&tables, options, None)?;
    let mut report = Report::default();
    for (index, (table, target)) in tables.iter().zip(&targets).enumerate() {
        let table_begun = Instant::now();
        let mut entry = TableReport::new(table.name(), target.to_string());
        let progress = |entry: &TableReport| {
            options.report_progress(&Progress {
                table: table.name(),
                table_index: index,
                tables: tables.len(),
                rows: entry.rows_read,
                bytes: entry.bytes,
                elapsed: begun.elapsed(),
            });
        };
        entry.state = match copy_table(source, sink, options, table, target, &mut entry, progress) {
            Ok(()) => TableState::Complete,
            Err(error) if error.kind() == ErrorKind::Cancelled => TableState::Partial,
            Err(error) => TableState::Failed { error: format!("{error:#}") },
        };
        entry.elapsed = table_begun.elapsed();
        report.tables.push(entry);
    }
    Ok(report)
}

fn check(options: &IngestOptions) -> Result<()> {
    if options.hard_delete() {
        return Err(Error::config("`hard_delete` is for change capture; a whole copy has no deleted rows"));
    }
    if options.strategy() == Some(Strategy::Merge) {
        return Err(Error::new(ErrorKind::Unsupported, "a whole copy can replace or append; `merge` is for change capture"));
    }
    if options.full_refresh() && options.strategy() == Some(Strategy::Append) {
        return Err(Error::config("`full_refresh` contradicts the strategy `append`"));
    }
    Ok(())
}

/// How often a table is begun anew at most after the connection broke within it. Nothing of it is visible before it is complete.
const RESTARTS: usize = 2;

/// Copies one table, keeping the account as it goes.
fn copy_table(
    source: &Source,
    sink: &mut Sink,
    options: &IngestOptions,
    table: &Arc<Table>,
    target: &TableName,
    entry: &mut TableReport,
    progress: impl Fn(&TableReport),
) -> Result<()> {
    let reading = Reading { malformed_text: options.malformed_text(), zero_dates: options.zero_dates() };
    loop {
        options.cancel().check()?;
        let rows = source.rows_unless(Arc::clone(table), &reading, options.cancel())?;
        let error = match copy_rows(rows, sink, options, target, entry, &progress) {
            // No destination fails with this kind. A server that is silent for the whole read time limit is not given another such time.
            Err(error) if error.kind() == ErrorKind::Connect => error,
            result => return result,
        };
        if entry.notes.len() >= RESTARTS {
            let message = format!("table `{}` broke off in each of {} attempts; `{target}` is as it was", table.name(), RESTARTS + 1);
            return Err(Error::new(error.kind(), message).with_cause(error));
        }
        log::warn!("the copy of table `{}` is begun anew: {error:#}", table.name());
        entry.notes.push(format!("begun anew after {} rows: the connection broke", entry.rows_read));
        (entry.rows_read, entry.bytes) = (0, 0);
    }
}

fn copy_rows(
    mut rows: Rows,
    sink: &mut Sink,
    options: &IngestOptions,
    target: &TableName,
    entry: &mut TableReport,
    progress: &impl Fn(&TableReport),
) -> Result<()> {
    let table = Arc::clone(rows.table());
    let mut load = match options.strategy() {
        Some(Strategy::Append) => sink.append(target, &table)?,
        _ => sink.replace(target, &table)?,
    };
    while let Some(batch) = rows.next_unless(options.cancel()) {
        let batch = batch?;
        load.write(&batch)?;
        entry.rows_read += batch.len() as u64;
        entry.bytes += batch.bytes() as u64;
        progress(entry);
    }
    let changed_values = load.changed_values();
    let written = load.commit()?;
    entry.rows_inserted = written.rows;
    entry.changed_values = changed_values;
    Ok(())
}
