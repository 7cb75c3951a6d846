//! The rows of one table, on their way from the thread that reads them.

use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::batch::Batch;
use crate::cancel::Cancel;
use crate::interval::Interval;
use crate::queue::{self, Closed, Receiver, Sender};
use crate::schema::Table;
#[cfg(any(feature = "sqlite", feature = "duckdb", feature = "postgres"))]
use crate::source::filter::Filter;
use crate::{Error, ErrorKind, Result};

/// A batch is handed over when its values take this many bytes; only a row that is larger by itself makes a batch larger.
pub(crate) const BATCH_BYTES: usize = 4 << 20;

/// Bytes of batches that wait for the caller. One more batch is being filled and one is being worked on.
const WAITING_BYTES: usize = 48 << 20;

/// How often a wait looks whether it was cancelled.
const CANCEL_INTERVAL: Duration = Duration::from_millis(100);

/// Ends what the thread that reads waits for.
pub(crate) type Interrupt = Box<dyn FnOnce() + Send>;

/// The rows of one table, in batches, in the source's order.
///
/// All rows are of one statement, so they are the table at one moment; of a sharded keyspace each shard is read at its own moment. Rows are
/// read ahead by a thread of their own: up to 56 MiB, or three rows if those are larger. `next` blocks until a batch is there, at most the
/// read time limit without a sign of life from a server. After an error there is nothing more. `None` comes only after the last row arrived;
/// a connection that breaks is an error. Dropping the iterator closes the connection and ends the thread.
#[must_use = "an iterator that is not used reads nothing"]
pub struct Rows {
    table: Arc<Table>,
    batches: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
    interrupt: Option<Interrupt>,
    /// What is said of a thread that died of a panic.
    broken: &'static str,
    /// Only these rows are passed on, by the values of the column at that place.
    within: Option<(Interval, usize)>,
}

impl Rows {
    /// Lets `read` send the rows of a table from a thread of its own. `interrupt` ends whatever it waits for; a panic of a library that it uses is
    /// an error that says `broken`.
    pub(crate) fn start(
        table: Arc<Table>,
        interrupt: Option<Interrupt>,
        broken: &'static str,
        read: impl FnOnce(&mut Outlet) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        if table.columns().is_empty() {
            return Err(Error::new(ErrorKind::Schema, format!("table `{}` has no columns", table.name())).with_table(table.name()));
        }
        let (sender, batches) = queue::bounded(WAITING_BYTES);
        let mut outlet = Outlet { batch: Batch::new(Arc::clone(&table)), bytes: 0, sender };
        let name = table.name().to_owned();
        let thread = thread::Builder::new()
            .name("ingest-read".to_owned())
            .spawn(move || {
                if let Err(error) = read(&mut outlet).and_then(|()| outlet.hand_over()) {
                    // The iterator may be gone; then nobody wants to know.
                    let _ = outlet.sender.send(Err(error.with_table(name)), 0);
                }
            })
            .map_err(|cause| Error::new(ErrorKind::Source, "no thread can be started to read on").with_cause(cause))?;
        Ok(Self { table, batches: Some(batches), thread: Some(thread), interrupt, broken, within: None })
    }

    /// Only the rows of an interval, for a source that does not choose them itself.
    pub(crate) fn within(mut self, interval: Interval) -> Result<Self> {
        let column = interval.column().name();
        let Some(index) = self.table.column_index(column) else {
            let message = format!("table `{}` has no column `{column}` to be its incremental key", self.table.name());
            return Err(Error::new(ErrorKind::Schema, message).with_table(self.table.name()).with_column(column));
        };
        self.within = Some((interval, index));
        Ok(self)
    }

    /// The table as it was when reading began.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Like `next`, but ends with an error soon after `cancel` was called.
    pub(crate) fn next_unless(&mut self, cancel: &Cancel) -> Option<Result<Batch>> {
        loop {
            if let Err(cancelled) = cancel.check() {
                self.close();
                return Some(Err(cancelled.with_table(self.table.name())));
            }
            let received = self.batches.as_ref()?.recv_timeout(CANCEL_INTERVAL);
            match received {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(batch) => match self.fuse(Some(batch)) {
                    // None of its rows is in the interval.
                    Some(Ok(batch)) if batch.is_empty() => {}
                    passed_on => return passed_on,
                },
                Err(RecvTimeoutError::Disconnected) => return self.fuse(None),
            }
        }
    }

    /// Passes on what came, and after an error or the end nothing more.
    fn fuse(&mut self, received: Option<Result<Batch>>) -> Option<Result<Batch>> {
        match received {
            Some(Ok(batch)) => Some(Ok(match &self.within {
                Some((interval, column)) => interval.only(&batch, *column),
                None => batch,
            })),
            Some(Err(error)) => {
                self.close();
                Some(Err(error))
            }
            None if self.close() => None,
            None => Some(Err(Error::protocol(self.broken).with_table(self.table.name()))),
        }
    }

    /// Ends thread and connection; whether the thread ended by itself and not by a panic of a library.
    fn close(&mut self) -> bool {
        // In this order: a thread that waits for room ends when the receiver is gone, one that waits for the source when it is interrupted.
        self.batches = None;
        if let Some(interrupt) = self.interrupt.take() {
            interrupt();
        }
        self.thread.take().is_none_or(|thread| thread.join().is_ok())
    }
}

impl Iterator for Rows {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let received = self.batches.as_ref()?.recv();
            match self.fuse(received) {
                Some(Ok(batch)) if batch.is_empty() => {}
                passed_on => return passed_on,
            }
        }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows").field("table", &self.table.name()).finish_non_exhaustive()
    }
}

/// Collects rows into batches, for whoever waits for them.
pub(crate) struct Outlet {
    batch: Batch,
    /// About how many its values take.
    bytes: usize,
    sender: Sender<Result<Batch>>,
}

impl Outlet {
    /// The batch that is being filled.
    pub(crate) fn batch(&mut self) -> &mut Batch {
        &mut self.batch
    }

    /// Takes out those rows, from `start` on, that are none of an interval.
    #[cfg(any(feature = "sqlite", feature = "duckdb", feature = "postgres"))]
    pub(crate) fn keep(&mut self, start: usize, filter: &Filter) {
        let batch = &self.batch;
        let is_kept: Vec<usize> = (start..batch.len()).filter(|&row| filter.keeps(batch, row)).collect();
        if is_kept.len() == batch.len() - start {
            return;
        }
        if is_kept.is_empty() {
            self.batch.truncate(start);
            return;
        }
        let rows: Vec<usize> = (0..start).chain(is_kept).collect();
        self.batch = batch.gather(&rows);
    }

    /// Counts what was filled in, and passes the batch on once it is full; whether anybody wants more.
    pub(crate) fn filled(&mut self, bytes: usize) -> Result<(), Closed> {
        self.bytes += bytes;
        if self.bytes < BATCH_BYTES {
            return Ok(());
        }
        self.bytes = 0;
        let next = Batch::with_capacity_of(&self.batch);
        let full = std::mem::replace(&mut self.batch, next);
        let size = full.bytes();
        self.sender.send(Ok(full), size)
    }

    /// Passes on what is left.
    fn hand_over(&mut self) -> Result<()> {
        if !self.batch.is_empty() {
            let next = Batch::new(Arc::clone(self.batch.table()));
            let last = std::mem::replace(&mut self.batch, next);
            let size = last.bytes();
            // Without a receiver there is nothing left to do.
            let _ = self.sender.send(Ok(last), size);
        }
        Ok(())
    }
}
