//! Change capture: one thread reads, the caller's writes.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::{IngestOptions, Progress, Strategy, chosen};
use crate::cancel::Cancel;
use crate::change::{Change, ChangeBatch, Op};
use crate::report::{Report, TableReport, TableState};
use crate::schema::{Table, TableName};
use crate::sink::{Deletes, Merge, Sink};
use crate::source::Source;
use crate::source::vstream::run::{CaptureRequest, Changes, require_vitess};
use crate::{Error, ErrorKind, Result};

/// Batches that wait between the thread that reads and the one that writes.
const WAITING: usize = 1;
/// How often the callback hears of a run in which nothing happens.
const TICK: Duration = Duration::from_millis(500);

/// A captured table and the account of it.
struct Account {
    table: Table,
    target: TableName,
    report: TableReport,
    /// A copy on top of what is stored has begun and not ended.
    is_copied_anew: bool,
}

/// Captures the changes of the tables that the options name.
pub(super) fn capture(source: &Source, sink: &mut Sink, options: &IngestOptions, begun: Instant) -> Result<Report> {
    check(options)?;
    require_vitess(source)?;
    let mut accounts = accounts(source, options)?;
    let deletes = if options.hard_delete() { Deletes::Hard } else { Deletes::Soft };
    // Nothing is written before every position has been judged.
    let mut request = CaptureRequest::new();
    let mut refused = None;
    for account in accounts.iter_mut().filter(|account| !account.is_failed()) {
        let stored = match options.full_refresh() {
            true => None,
            false => match sink.resume(&account.target, account.table.name()) {
                Ok((stored, note)) => {
                    account.report.notes.extend(note);
                    stored
                }
                Err(error) if error.kind() == ErrorKind::Sink => return Err(error),
                // What is wrong with one table does not keep the others from being captured.
                Err(error) => {
                    account.report.state = TableState::Failed { error: format!("{error:#}") };
                    refused.get_or_insert(error);
                    continue;
                }
            },
        };
        request = request.with_table(account.table.clone(), stored);
    }
    if let Some(error) = refused.filter(|_| accounts.iter().all(Account::is_failed)) {
        return Err(error);
    }
    let cancel = options.cancel().child();
    let changes = Changes::start(source, request, cancel.clone())?;
    for (table, note) in changes.notes() {
        if let Some(account) = accounts.iter_mut().find(|account| account.table.name() == table) {
            account.report.notes.push(note.to_owned());
        }
    }
    let mut merge = sink.merge(deletes)?;
    for table in changes.tables() {
        if let Some(account) = accounts.iter().find(|account| account.table.name() == table.name()) {
            merge.add_table(table, &account.target, options.full_refresh())?;
        }
    }
    let outcome = pump(changes, &mut merge, &mut accounts, options, &cancel, begun);
    let mut report = Report::default();
    let (caught_up, error) = match outcome {
        Ok(caught_up) => (caught_up, None),
        Err(Failure { caught_up, error }) if error.kind() == ErrorKind::Cancelled => (caught_up, None),
        // Nothing is worth a report if nothing was stored.
        Err(Failure { error, .. }) if accounts.iter().all(|account| account.report.position.is_none()) => return Err(error),
        Err(Failure { error, .. }) => (false, Some(format!("{error:#}"))),
    };
    for account in accounts {
        let caught_up = caught_up && !account.is_copied_anew;
        let mut entry = account.report;
        entry.nulled_dates = merge.nulled_dates(&entry.source);
        entry.elapsed = begun.elapsed();
        if !matches!(entry.state, TableState::Failed { .. }) {
            entry.state = match &error {
                Some(error) => TableState::Failed { error: error.clone() },
                None if caught_up => TableState::Complete,
                None => TableState::Partial,
            };
        }
        report.tables.push(entry);
    }
    Ok(report)
}

fn check(options: &IngestOptions) -> Result<()> {
    match options.strategy() {
        None | Some(Strategy::Merge) => Ok(()),
        Some(other) => {
            let name = if other == Strategy::Append { "append" } else { "replace" };
            Err(Error::config(format!("change capture merges: the strategy `{name}` is for whole tables; use full_refresh to begin anew")))
        }
    }
}

/// The tables to capture. One without a key fails by itself, unless it is all there is.
fn accounts(source: &Source, options: &IngestOptions) -> Result<Vec<Account>> {
    let tables = chosen(source, options)?;
    let count = tables.len();
    let schema = source.options().capture().and_then(|capture| capture.dest_schema());
    let mut accounts = Vec::with_capacity(count);
    let mut first_error = None;
    for table in tables {
        let table = Table::clone(&table);
        let target = options.destination_of(table.name(), count, schema)?;
        if let Some(other) = accounts.iter().find(|other: &&Account| same_name(&other.target, &target)) {
            let message = format!("tables `{}` and `{}` would both become `{target}`", other.table.name(), table.name());
            return Err(Error::new(ErrorKind::Conflict, message).with_table(&target));
        }
        let mut report = TableReport::new(table.name(), target.to_string());
        if table.primary_key().is_empty() {
            let message = format!("table `{}` has no primary key: name the columns that identify a row (--primary-key)", table.name());
            let error = Error::new(ErrorKind::Schema, message).with_table(table.name());
            report.state = TableState::Failed { error: error.to_string() };
            first_error.get_or_insert(error);
        }
        accounts.push(Account { table, target, report, is_copied_anew: false });
    }
    match first_error {
        Some(error) if accounts.iter().all(Account::is_failed) => Err(error),
        _ => Ok(accounts),
    }
}

/// Names of tables do not regard case in DuckDB and SQLite.
fn same_name(one: &TableName, other: &TableName) -> bool {
    one.to_string().to_lowercase() == other.to_string().to_lowercase()
}

impl Account {
    fn is_failed(&self) -> bool {
        matches!(self.report.state, TableState::Failed { .. })
    }
}

struct Failure {
    /// Whether every table had reached the stop position before.
    caught_up: bool,
    error: Error,
}

/// Writes what the other thread reads, until the end or the first error; whether every table has caught up.
fn pump(
    changes: Changes<'_>,
    merge: &mut Merge<'_>,
    accounts: &mut [Account],
    options: &IngestOptions,
    cancel: &Cancel,
    begun: Instant,
) -> Result<bool, Failure> {
    let (sender, receiver) = mpsc::sync_channel::<Result<ChangeBatch>>(WAITING);
    std::thread::scope(|scope| {
        let reader = std::thread::Builder::new().name("ingest-vstream".to_owned()).spawn_scoped(scope, move || {
            for item in changes {
                // Nobody listens any more after an error on the other side.
                if sender.send(item).is_err() {
                    return;
                }
            }
        });
        if let Err(cause) = reader {
            let error = Error::new(ErrorKind::Source, "no thread can be started to read on").with_cause(cause);
            return Err(Failure { caught_up: false, error });
        }
        let mut caught_up = false;
        let result = loop {
            let batch = match receiver.recv_timeout(TICK) {
                Ok(Ok(batch)) => batch,
                Ok(Err(error)) => break Err(error),
                Err(RecvTimeoutError::Timeout) => {
                    tell(accounts, None, options, begun);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break Ok(()),
            };
            // What waits here is read again by the next run, which is quicker than to write it.
            if let Err(error) = options.cancel().check().and_then(|()| merge.write(&batch)) {
                break Err(error);
            }
            account(accounts, &batch);
            if batch.is_caught_up() && !caught_up {
                caught_up = true;
                if let Err(error) = merge.finish_rebuild() {
                    caught_up = false;
                    break Err(error);
                }
            }
            tell(accounts, Some(&batch), options, begun);
        };
        // The thread may wait for vtgate; it looks at this several times a second.
        cancel.cancel();
        drop(receiver);
        match result {
            Ok(()) if caught_up => Ok(true),
            Ok(()) => Err(Failure { caught_up, error: Error::protocol("the stream ended before the stop position was reached") }),
            Err(error) => Err(Failure { caught_up, error }),
        }
    })
}

/// Adds a written batch to the accounts.
fn account(accounts: &mut [Account], batch: &ChangeBatch) {
    let mut by_name: BTreeMap<String, &mut Account> = BTreeMap::new();
    for account in accounts {
        by_name.insert(account.table.name().to_owned(), account);
    }
    for change in batch.changes() {
        let Some(account) = by_name.get_mut(change.table().name()) else { continue };
        let report = &mut account.report;
        match change {
            Change::Rows(rows) => {
                report.rows_read += rows.len() as u64;
                report.bytes += rows.rows().bytes() as u64;
                for op in rows.ops() {
                    match op {
                        Op::Insert => report.rows_inserted += 1,
                        Op::Update => report.rows_updated += 1,
                        Op::Delete => report.rows_deleted += 1,
                    }
                }
            }
            Change::CopiedAnew { reason, .. } => {
                report.notes.push(format!("copied anew: {reason}"));
                account.is_copied_anew = true;
            }
            Change::Swept { .. } => account.is_copied_anew = false,
            Change::Ended { error, .. } => report.state = TableState::Failed { error: format!("{error:#}") },
            _ => {}
        }
    }
    for checkpoint in batch.checkpoints() {
        if let Some(account) = by_name.get_mut(checkpoint.table()) {
            account.report.position = Some(checkpoint.lsn().to_string());
        }
    }
}

/// Calls the progress callback for each table of a batch, or for the first table to say that time passes.
fn tell(accounts: &[Account], batch: Option<&ChangeBatch>, options: &IngestOptions, begun: Instant) {
    let tables = accounts.len();
    for (index, account) in accounts.iter().enumerate() {
        let concerned = match batch {
            Some(batch) => batch.changes().iter().any(|change| change.table().name() == account.table.name()),
            None => index == 0,
        };
        if concerned {
            options.report_progress(&Progress {
                table: account.table.name(),
                table_index: index,
                tables,
                rows: account.report.rows_read,
                bytes: account.report.bytes,
                elapsed: begun.elapsed(),
            });
        }
    }
}
