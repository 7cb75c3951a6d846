//! Whole tables.

use std::sync::Arc;
use std::time::Instant;

use super::{IngestOptions, Progress, Strategy, chosen, destinations_of};
use crate::interval::Bound;
use crate::report::{Report, TableReport, TableState};
use crate::schema::{Table, TableName};
use crate::sink::{Highest, Left, LoadPlan, Sink};
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
    let strategy = options.strategy().unwrap_or(Strategy::Replace);
    let interval = [("interval_start", options.interval_start()), ("interval_end", options.interval_end())];
    let given = interval.iter().find(|(_, bound)| bound.is_some()).map(|(option, _)| *option);
    if options.incremental_key().is_none() {
        if let Some(option) = given {
            return Err(Error::config(format!("`{option}` needs an `incremental_key`: the column whose values it speaks of")));
        }
        if strategy == Strategy::DeleteInsert {
            return Err(Error::config(
                "the strategy `delete+insert` needs an `incremental_key`: the column whose interval is deleted and inserted",
            ));
        }
    } else if given.is_none() && !options.full_refresh() && matches!(strategy, Strategy::Replace | Strategy::TruncateInsert) {
        return Err(Error::config(format!(
            "`incremental_key` makes no difference to the strategy `{strategy}`, which brings all rows: choose `append`, `merge` or \
             `delete+insert`, or give `interval_start` or `interval_end`"
        )));
    }
    Ok(())
}

/// How the rows of a table get in, and which of them come.
fn plan(source: &Source, sink: &mut Sink, options: &IngestOptions, table: &Table, target: &TableName) -> Result<LoadPlan> {
    let strategy = match options.full_refresh() {
        true => Strategy::Replace,
        false => options.strategy().unwrap_or(Strategy::Replace),
    };
    let Some(key) = options.incremental_key() else { return Ok(LoadPlan::of(strategy)) };
    let interval = source.interval(table, options, key)?;
    let is_bounded = interval.start().is_some() || interval.end().is_some();
    let interval = match strategy {
        Strategy::Append | Strategy::Merge | Strategy::DeleteInsert if interval.start().is_none() => {
            match sink.highest(target, interval.column())? {
                Highest::NoRows => is_bounded.then_some(interval),
                // Rows that are in no interval are there already.
                Highest::NoValue => Some(interval),
                Highest::Value(value) => Some(interval.starting_at(Bound { value, is_inclusive: strategy != Strategy::Append })),
            }
        }
        _ => is_bounded.then_some(interval),
    };
    Ok(LoadPlan { strategy, interval })
}

/// How often a table is begun anew at most after the connection broke within it. Where rows become visible before it is complete, `append` does not begin
/// anew: they would be there twice.
const RESTARTS: usize = 2;

/// A copy that broke off.
struct Broken {
    error: Error,
    /// What it has changed already.
    left: Left,
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self { error, left: Left::default() }
    }
}

/// What a copy that broke off leaves, as its error says.
fn leaving(left: Left, target: &TableName) -> String {
    let deleted = if left.deleted > 0 { format!(", and {} that were there are deleted", left.deleted) } else { String::new() };
    match left.is_nothing() {
        true => format!("`{target}` is as it was"),
        false => format!("`{target}` is not as it was: {} rows of the source are stored{deleted}", left.stored),
    }
}

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
    sink.check_name(target)?;
    sink.check_not_source(target, table.name(), source.options())?;
    let mut reading = Reading { malformed_text: options.malformed_text(), zero_dates: options.zero_dates(), interval: None };
    let plan = plan(source, sink, options, table, target)?;
    reading.interval.clone_from(&plan.interval);
    // Of the attempts so far.
    let mut left = Left::default();
    let broken = |error: Error, left: Left| match left.is_nothing() {
        true => error,
        false => {
            let message = format!("the copy of table `{}` broke off; {}", table.name(), leaving(left, target));
            Error::new(error.kind(), message).with_cause(error)
        }
    };
    loop {
        options.cancel().check().map_err(|error| broken(error, left))?;
        let rows = source.rows_unless(Arc::clone(table), &reading, options.cancel()).map_err(|error| broken(error, left))?;
        let error = match copy_rows(rows, sink, options, &plan, target, entry, &progress) {
            Ok(()) => return Ok(()),
            Err(Broken { error, left: now }) => {
                if !now.is_nothing() {
                    left = now;
                }
                error
            }
        };
        // No destination fails with this kind. A server that is silent for the whole read time limit is not given another such time.
        if error.kind() == ErrorKind::Cancelled && !left.is_nothing() {
            entry.notes.push(leaving(left, target));
        }
        if error.kind() != ErrorKind::Connect || (plan.strategy == Strategy::Append && left.stored > 0) {
            return Err(broken(error, left));
        }
        if entry.notes.len() >= RESTARTS {
            let message = format!("table `{}` broke off in each of {} attempts; {}", table.name(), RESTARTS + 1, leaving(left, target));
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
    plan: &LoadPlan,
    target: &TableName,
    entry: &mut TableReport,
    progress: &impl Fn(&TableReport),
) -> Result<(), Broken> {
    let table = Arc::clone(rows.table());
    let mut load = sink.load(target, &table, plan)?;
    while let Some(batch) = rows.next_unless(options.cancel()) {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return Err(Broken { error, left: load.abandon() }),
        };
        load.write(&batch)?;
        entry.rows_read += batch.len() as u64;
        entry.bytes += batch.bytes() as u64;
        progress(entry);
    }
    let changed_values = load.changed_values();
    let written = load.commit()?;
    (entry.rows_inserted, entry.rows_updated, entry.rows_deleted) = (written.inserted, written.updated, written.deleted);
    entry.changed_values = changed_values;
    Ok(())
}
