//! Change capture: one thread reads, the caller's writes.

use std::collections::BTreeMap;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use super::{IngestOptions, Progress, Strategy, chosen, destinations_of};
use crate::cancel::Cancel;
use crate::change::{Change, ChangeBatch, Op};
use crate::options::{CaptureMode, CaptureOptions};
use crate::queue;
use crate::report::{Report, TableReport, TableState};
use crate::schema::{Table, TableName};
use crate::sink::{Deletes, Merge, Sink};
use crate::source::Source;
use crate::source::vstream::run::{CaptureRequest, Changes, check_table, require_vitess};
use crate::{Error, ErrorKind, Result};

/// Bytes of batches that wait between the thread that reads and the one that writes.
const WAITING_BYTES: usize = 32 << 20;
/// How long a batch that is written may wait to be committed with the next ones: where readers wait for it, and where only the run's end counts.
const HELD_IN_STREAM: Duration = Duration::from_secs(1);
const HELD_IN_BATCH: Duration = Duration::from_secs(5);
/// How often the callback hears of a run in which nothing happens.
const TICK: Duration = Duration::from_millis(500);

/// A captured table and the account of it.
struct Account {
    table: Table,
    target: TableName,
    report: TableReport,
    /// A copy on top of what is stored has begun and not ended.
    is_copied_anew: bool,
    /// What is written and not durable yet.
    held: Tally,
}

/// What batches bring for one table.
#[derive(Default)]
struct Tally {
    rows_read: u64,
    bytes: u64,
    inserted: u64,
    updated: u64,
    deleted: u64,
    position: Option<String>,
    notes: Vec<String>,
    is_copied_anew: Option<bool>,
    ended: Option<String>,
}

/// Captures the changes of the tables that the options name.
pub(super) fn capture(source: &Source, sink: &mut Sink, options: &IngestOptions, begun: Instant) -> Result<Report> {
    check(options)?;
    require_vitess(source)?;
    let mut accounts = accounts(source, sink, options)?;
    let deletes = if options.hard_delete() { Deletes::Hard } else { Deletes::Soft };
    let cancel = options.cancel().child();
    let mut notes = Vec::new();
    let (changes, mut merge) = loop {
        let request = resume(sink, &mut accounts, options, &mut notes)?;
        let changes = Changes::start(source, request, cancel.clone())?;
        for (table, note) in changes.notes() {
            note_once(&mut notes, table, note);
        }
        // Nothing is written before every position has been judged.
        let mut merge = sink.merge(deletes)?;
        let mut refused = None;
        for table in changes.tables() {
            let Some(account) = accounts.iter_mut().find(|account| account.table.name() == table.name()) else { continue };
            match merge.add_table(table, &account.target, options.full_refresh()) {
                Ok(()) => {}
                Err(error) if is_of_one_table(&error) => {
                    account.fail(&error);
                    refused = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match refused {
            None => break (changes, merge),
            Some(error) if accounts.iter().all(Account::is_failed) => return Err(error),
            // The stream is made anew, without the tables that nobody takes the changes of.
            Some(_) => {}
        }
    };
    for account in &mut accounts {
        let own = notes.iter().filter(|(table, _)| table == account.table.name());
        account.report.notes.extend(own.map(|(_, note)| note.clone()));
    }
    let held_at_most = match source.options().capture().map(CaptureOptions::mode) {
        Some(CaptureMode::Stream) => HELD_IN_STREAM,
        _ => HELD_IN_BATCH,
    };
    let outcome = pump(changes, &mut merge, &mut accounts, options, &cancel, (begun, held_at_most));
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
        entry.changed_values = merge.changed_values(&entry.source);
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

/// Adds what is to be said of a table. What was said at an attempt before counts: that may have been acted upon.
fn note_once(notes: &mut Vec<(String, String)>, table: &str, note: &str) {
    if !notes.iter().any(|(of, said)| of == table && said == note) {
        notes.push((table.to_owned(), note.to_owned()));
    }
}

/// Where the tables stand that have not failed; what is to be said of them goes to `notes`, with their names at the source.
fn resume(sink: &mut Sink, accounts: &mut [Account], options: &IngestOptions, notes: &mut Vec<(String, String)>) -> Result<CaptureRequest> {
    let mut request = CaptureRequest::new().with_malformed_text(options.malformed_text());
    let mut refused = None;
    for account in accounts.iter_mut().filter(|account| !account.is_failed()) {
        let table = account.table.name();
        let stored = match options.full_refresh() {
            true => None,
            false => match sink.resume(&account.target, table) {
                Ok((stored, note)) => {
                    if let Some(note) = note {
                        note_once(notes, table, &note);
                    }
                    stored
                }
                Err(error) if !is_of_one_table(&error) => return Err(error),
                Err(error) => {
                    account.fail(&error);
                    refused = Some(error);
                    continue;
                }
            },
        };
        request = request.with_table(account.table.clone(), stored);
    }
    match refused {
        Some(error) if accounts.iter().all(Account::is_failed) => Err(error),
        _ => Ok(request),
    }
}

/// Whether other tables can be captured all the same: what is wrong is neither the destination itself, nor that another run writes there, with which this
/// one is not to share the tables.
fn is_of_one_table(error: &Error) -> bool {
    let is_of_all = matches!(error.kind(), ErrorKind::Sink | ErrorKind::Cancelled | ErrorKind::Auth | ErrorKind::Tls);
    !error.is_transient() && !is_of_all && !error.is_of_run()
}

fn check(options: &IngestOptions) -> Result<()> {
    if let Some(other) = options.strategy().filter(|&strategy| strategy != Strategy::Merge) {
        return Err(Error::config(format!(
            "change capture merges: the strategy `{other}` is for whole tables; use full_refresh to begin anew"
        )));
    }
    let intervals = [
        ("incremental_key", options.incremental_key()),
        ("interval_start", options.interval_start()),
        ("interval_end", options.interval_end()),
    ];
    match intervals.iter().find(|(_, value)| value.is_some()) {
        Some((option, _)) => Err(Error::config(format!("`{option}` is for whole tables: change capture resumes from its position"))),
        None => Ok(()),
    }
}

/// The tables to capture. One that cannot be captured fails by itself, unless it is all there is.
fn accounts(source: &Source, sink: &mut Sink, options: &IngestOptions) -> Result<Vec<Account>> {
    let tables = chosen(source, options)?;
    let schema = source.options().capture().and_then(|capture| capture.dest_schema());
    let targets = destinations_of(&tables, options, schema)?;
    let mut accounts = Vec::with_capacity(tables.len());
    let mut first_error = None;
    for (table, target) in tables.into_iter().zip(targets) {
        let table = Table::clone(&table);
        let mut report = TableReport::new(table.name(), target.to_string());
        let checked = check_table(&table).and_then(|()| sink.check_name(&target));
        if let Err(error) = checked.and_then(|()| sink.check_not_source(&target, table.name(), source.options())) {
            report.state = TableState::Failed { error: format!("{error:#}") };
            first_error.get_or_insert(error);
        }
        accounts.push(Account { table, target, report, is_copied_anew: false, held: Tally::default() });
    }
    match first_error {
        Some(error) if accounts.iter().all(Account::is_failed) => Err(error),
        _ => Ok(accounts),
    }
}

impl Account {
    fn fail(&mut self, error: &Error) {
        self.report.state = TableState::Failed { error: format!("{error:#}") };
    }

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
    (begun, held_at_most): (Instant, Duration),
) -> Result<bool, Failure> {
    let (sender, receiver) = queue::bounded::<Result<ChangeBatch>>(WAITING_BYTES);
    std::thread::scope(|scope| {
        let reader = std::thread::Builder::new().name("ingest-vstream".to_owned()).spawn_scoped(scope, move || {
            for item in changes {
                let bytes = item.as_ref().map_or(0, ChangeBatch::bytes);
                // Nobody listens any more after an error on the other side.
                if sender.send(item, bytes).is_err() {
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
            // How long what is written and not durable may still wait.
            let left = merge.held_since().map(|since| held_at_most.saturating_sub(since.elapsed()));
            if left.is_some_and(|left| left.is_zero()) {
                if let Err(error) = merge.release() {
                    break Err(error);
                }
                settle(accounts);
                continue;
            }
            let batch = match receiver.recv_timeout(left.map_or(TICK, |left| left.min(TICK))) {
                Ok(Ok(batch)) => batch,
                Ok(Err(error)) => break Err(error),
                Err(RecvTimeoutError::Timeout) => {
                    tell(accounts, None, options, begun);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break Ok(()),
            };
            // What waits here is read again by the next run, which is quicker than to write it.
            let written = options.cancel().check().and_then(|()| merge.hold(&batch));
            let is_last = batch.is_caught_up() && !caught_up;
            let written = written.and_then(|is_durable| match is_last {
                true => merge.release().map(|()| true),
                false => Ok(is_durable),
            });
            match written {
                Ok(is_durable) => {
                    account(accounts, &batch);
                    if is_durable {
                        settle(accounts);
                    }
                }
                Err(error) => break Err(error),
            }
            if is_last {
                caught_up = true;
                if let Err(error) = merge.finish_rebuild() {
                    caught_up = false;
                    break Err(error);
                }
            }
            tell(accounts, Some(&batch), options, begun);
        };
        // What was written before the stream broke, or the run was cancelled, is kept. If writing itself failed, nothing is left to be made durable.
        let result = match merge.is_holding().then(|| merge.release()) {
            Some(Err(error)) => result.and(Err(error)),
            Some(Ok(())) => {
                settle(accounts);
                result
            }
            None => result,
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

/// Adds a written batch to what is held of the accounts.
fn account(accounts: &mut [Account], batch: &ChangeBatch) {
    let mut by_name: BTreeMap<&str, &mut Tally> = BTreeMap::new();
    for account in accounts {
        by_name.insert(account.table.name(), &mut account.held);
    }
    for change in batch.changes() {
        let Some(held) = by_name.get_mut(change.table().name()) else { continue };
        match change {
            Change::Rows(rows) => {
                held.rows_read += rows.len() as u64;
                held.bytes += rows.rows().bytes() as u64;
                for op in rows.ops() {
                    match op {
                        Op::Insert => held.inserted += 1,
                        Op::Update => held.updated += 1,
                        Op::Delete => held.deleted += 1,
                    }
                }
            }
            Change::CopiedAnew { reason, .. } => {
                held.notes.push(format!("copied anew: {reason}"));
                held.is_copied_anew = Some(true);
            }
            Change::Swept { .. } => held.is_copied_anew = Some(false),
            Change::Ended { error, .. } => held.ended = Some(format!("{error:#}")),
            _ => {}
        }
    }
    for checkpoint in batch.checkpoints() {
        if let Some(held) = by_name.get_mut(checkpoint.table()) {
            held.position = Some(checkpoint.lsn().to_string());
        }
    }
}

/// Reports what was held, since it is durable now.
fn settle(accounts: &mut [Account]) {
    for account in accounts {
        let held = std::mem::take(&mut account.held);
        let report = &mut account.report;
        report.rows_read += held.rows_read;
        report.bytes += held.bytes;
        report.rows_inserted += held.inserted;
        report.rows_updated += held.updated;
        report.rows_deleted += held.deleted;
        report.position = held.position.or(report.position.take());
        report.notes.extend(held.notes);
        account.is_copied_anew = held.is_copied_anew.unwrap_or(account.is_copied_anew);
        if let Some(error) = held.ended {
            report.state = TableState::Failed { error };
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
                rows: account.report.rows_read + account.held.rows_read,
                bytes: account.report.bytes + account.held.bytes,
                elapsed: begun.elapsed(),
            });
        }
    }
}
