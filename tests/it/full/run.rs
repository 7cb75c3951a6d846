//! Runs that are held at a point, followed for a while, or taken batch by batch.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mysql::Conn;
use mysql::prelude::Queryable;
use planetscale_ingest::{Cancel, CaptureRequest, Change, Deletes, Error, IngestOptions, Report, Sink, Source, TableName, ingest};

use crate::capture::fixture::Destination;

/// How long anything may take that a test waits for. Vitess itself takes 30 seconds to find a tablet again.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A run that goes on until it is ended, on a thread of its own.
pub struct Follower {
    cancel: Cancel,
    rows: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<Report, Error>>>,
}

impl Follower {
    pub fn start(destination: &Destination, uri: &str, options: &IngestOptions) -> Self {
        let cancel = Cancel::new();
        let rows = Arc::new(AtomicU64::new(0));
        let counted: Arc<Mutex<std::collections::BTreeMap<usize, u64>>> = Arc::default();
        let total = Arc::clone(&rows);
        let options = options.clone().with_cancel(cancel.clone()).with_progress(move |progress| {
            let mut counted = counted.lock().unwrap();
            counted.insert(progress.table_index, progress.rows);
            total.store(counted.values().sum(), Ordering::SeqCst);
        });
        let (uri, sink) = (format!("{uri}&mode=stream"), destination.uri());
        let thread = std::thread::spawn(move || {
            let source = Source::open(&uri)?;
            let mut sink = Sink::open(&sink)?;
            ingest(&source, &mut sink, &options)
        });
        Self { cancel, rows, thread: Some(thread) }
    }

    /// How many rows and changes it has written.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::SeqCst)
    }

    /// Waits until rows arrive that were not there when it was called.
    pub fn wait_for_more(&mut self) {
        self.wait_beyond(self.rows());
    }

    /// Waits until it has written more rows than those.
    pub fn wait_beyond(&mut self, rows: u64) {
        let begun = Instant::now();
        while self.rows() <= rows {
            if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
                panic!("the run ended: {:?}", self.thread.take().unwrap().join().unwrap());
            }
            assert!(begun.elapsed() < PATIENCE, "no row came for {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the run as a user would.
    pub fn end(mut self) -> Result<Report, Error> {
        self.cancel.cancel();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// A run that stands still after its first rows until it is released: vtgate and the tablet are in the middle of a copy then.
pub struct Held {
    arrived: Receiver<()>,
    release: Sender<()>,
    thread: JoinHandle<Result<Report, Error>>,
}

impl Held {
    pub fn start(destination: &Destination, uri: &str, options: &IngestOptions) -> Self {
        let (at_rows, arrived) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let released = Mutex::new(Some(released));
        let options = options.clone().with_progress(move |progress| {
            if progress.rows > 0
                && let Some(released) = released.lock().unwrap().take()
            {
                let _ = at_rows.send(());
                // Also when the test is over.
                let _ = released.recv_timeout(PATIENCE);
            }
        });
        let (uri, sink) = (uri.to_owned(), destination.uri());
        let thread = std::thread::spawn(move || {
            let source = Source::open(&uri)?;
            let mut sink = Sink::open(&sink)?;
            ingest(&source, &mut sink, &options)
        });
        Self { arrived, release, thread }
    }

    /// Waits until its first rows are written.
    pub fn wait(&self) {
        assert!(self.arrived.recv_timeout(PATIENCE).is_ok(), "no rows came");
        assert!(!self.thread.is_finished());
    }

    /// Lets it go on.
    pub fn release(&self) {
        let _ = self.release.send(());
    }

    /// Waits for its end.
    pub fn outcome(self) -> Result<Report, Error> {
        self.thread.join().unwrap()
    }
}

/// What a run has done until it was ended.
pub struct Done {
    pub caught_up: bool,
    /// Rows and changes that were written.
    pub rows: u64,
}

/// Runs until `batches` batches are written, as if the process had been killed then.
pub fn run_batches(destination: &Destination, uri: &str, tables: &[String], batches: usize) -> Result<Done, Error> {
    let source = Source::open(uri)?;
    let mut sink = Sink::open(&destination.uri())?;
    let mut request = CaptureRequest::new();
    for table in tables {
        let stored = sink.position(&TableName::new(table), table)?;
        request = request.with_table(source.table(table)?, stored);
    }
    let changes = source.changes(request, Cancel::new())?;
    let mut merge = sink.merge(Deletes::Soft)?;
    for table in changes.tables() {
        merge.add_table(table, &TableName::new(table.name()), false)?;
    }
    let mut done = Done { caught_up: false, rows: 0 };
    for batch in changes.take(batches) {
        let batch = batch?;
        merge.write(&batch)?;
        done.caught_up = batch.is_caught_up();
        for change in batch.changes() {
            if let Change::Rows(rows) = change {
                done.rows += rows.len() as u64;
            }
        }
    }
    Ok(done)
}

/// Changes a few rows at either end of a table with the ids below `rows`, and in its middle: behind and ahead of any last key.
pub fn stir(conn: &mut Conn, table: &str, rows: u64, generation: u64) {
    let at = generation * 40;
    for start in [0, rows / 2, rows - 1_000].map(|start| start + at) {
        conn.query_drop(format!("update `{table}` set name = 'stirred {generation}' where id between {start} and {}", start + 9)).unwrap();
        conn.query_drop(format!("delete from `{table}` where id between {} and {}", start + 10, start + 14)).unwrap();
        conn.query_drop(format!("insert into `{table}` (id, name) values ({}, 'back')", start + 12)).unwrap();
    }
    let new = rows + at;
    conn.query_drop(format!("insert into `{table}` (id, name) values ({new}, 'new'), ({}, 'new and gone')", new + 1)).unwrap();
    conn.query_drop(format!("delete from `{table}` where id = {}", new + 1)).unwrap();
}
