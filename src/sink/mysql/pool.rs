//! Connections that write chunks side by side, each on a thread of its own.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::chunk::{Chunk, Limits};
use super::session::{Failure, Fault, Session, pause};
use crate::options::SourceOptions;
use crate::queue::{self, Receiver, Sender};
use crate::{Error, ErrorKind, Result};

/// Bytes of chunks that wait for a connection.
const WAITING_BYTES: usize = 16 << 20;
/// How often a statement that the server ended is tried again as it is, before it is taken for too much.
const SAME_AGAIN: u32 = 3;

/// How rows are written.
#[derive(Debug, Clone)]
pub(super) struct Writing {
    /// What stands before the rows, up to `VALUES `.
    pub(super) insert: String,
    /// `LOAD DATA LOCAL INFILE …`, where the server takes rows in this way and nothing follows them.
    pub(super) load: Option<String>,
    /// What follows them: nothing, or `ON DUPLICATE KEY UPDATE …`.
    pub(super) suffix: String,
    /// What follows them where the same rows may be there already, if that is allowed to be so.
    pub(super) repeat_suffix: Option<String>,
    /// `SELECT count(*) FROM … WHERE … IN (`, to find out whether rows are there.
    pub(super) count: Option<String>,
    /// `DELETE FROM … WHERE … IN (`, ahead of rows that may lie in another shard than those whose place they take.
    pub(super) delete: Option<String>,
    /// Whether a repeated row does not count as one row more.
    pub(super) is_upsert: bool,
    /// All in one transaction, which begins with these statements; else each statement is one.
    pub(super) transaction: Option<Vec<String>>,
    /// Whether a wait for a lock that took too long undoes the whole transaction, as a deadlock does.
    pub(super) undoes_on_timeout: bool,
    /// Whether a statement can be carried out in one place and fail in another.
    pub(super) is_sharded: bool,
    pub(super) table: String,
    /// Names that errors may repeat after the server.
    pub(super) names: Vec<String>,
}

/// What came of all chunks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Finished {
    /// Rows that were written once more after a connection broke.
    pub(super) repeated: u64,
    /// Rows that took the place of others.
    pub(super) replaced: u64,
    /// Rows that were deleted as the transaction began.
    pub(super) deleted: u64,
}

/// Connections that take chunks.
pub(super) struct Pool {
    chunks: Option<Sender<Chunk>>,
    workers: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
}

struct Shared {
    writing: Writing,
    limits: Arc<Limits>,
    receiver: Mutex<Receiver<Chunk>>,
    failed: Mutex<Option<Error>>,
    is_failed: AtomicBool,
    /// Whether rows are loaded like a file where they can be.
    is_loading: AtomicBool,
    /// Rows whose statement has succeeded.
    stored: AtomicU64,
    /// Rows that were written once more after a connection broke.
    repeated: AtomicU64,
    /// Rows that took the place of others.
    replaced: AtomicU64,
    /// Rows that were deleted as the transaction began.
    deleted: AtomicU64,
    /// Whether the transaction is to be committed.
    is_wanted: AtomicBool,
}

/// The rows that were written last in a transaction.
struct Last {
    chunk: Chunk,
    /// How many of them took the place of others.
    replaced: u64,
}

impl Pool {
    pub(super) fn start(options: &SourceOptions, connections: u8, writing: Writing, limits: Arc<Limits>) -> Result<Self> {
        let (sender, receiver) = queue::bounded(WAITING_BYTES);
        let shared = Arc::new(Shared {
            is_loading: AtomicBool::new(true),
            writing,
            limits,
            receiver: Mutex::new(receiver),
            failed: Mutex::new(None),
            is_failed: AtomicBool::new(false),
            stored: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            replaced: AtomicU64::new(0),
            deleted: AtomicU64::new(0),
            is_wanted: AtomicBool::new(false),
        });
        let mut pool = Self { chunks: Some(sender), workers: Vec::new(), shared };
        let connections = if pool.shared.writing.transaction.is_some() { 1 } else { connections };
        for _ in 0..connections {
            let session = Session::open(options)?;
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new().name("ingest-write".to_owned()).spawn(move || shared.work(session));
            pool.workers
                .push(worker.map_err(|cause| Error::new(ErrorKind::Sink, "no thread can be started to write on").with_cause(cause))?);
        }
        Ok(pool)
    }

    /// Hands a chunk over, once there is room for it.
    ///
    /// # Errors
    /// That of a connection that has failed.
    pub(super) fn write(&self, chunk: Chunk) -> Result<()> {
        if self.shared.is_failed.load(Ordering::SeqCst) {
            return Err(self.shared.take_error());
        }
        let bytes = chunk.bytes();
        let sent = self.chunks.as_ref().is_some_and(|chunks| chunks.send(chunk, bytes).is_ok());
        if sent { Ok(()) } else { Err(self.shared.take_error()) }
    }

    /// Waits until all is written, and commits it.
    pub(super) fn finish(&mut self) -> Result<Finished> {
        self.shared.is_wanted.store(true, Ordering::SeqCst);
        self.join();
        if self.shared.is_failed.load(Ordering::SeqCst) {
            return Err(self.shared.take_error());
        }
        let [repeated, replaced, deleted] =
            [&self.shared.repeated, &self.shared.replaced, &self.shared.deleted].map(|count| count.load(Ordering::SeqCst));
        Ok(Finished { repeated, replaced, deleted })
    }

    /// Rows whose statements have succeeded.
    pub(super) fn stored(&self) -> u64 {
        self.shared.stored.load(Ordering::SeqCst)
    }

    /// Writes nothing more, and returns how many rows are stored once what is under way has ended.
    pub(super) fn stop(&mut self) -> u64 {
        self.shared.is_failed.store(true, Ordering::SeqCst);
        self.join();
        self.stored()
    }

    fn join(&mut self) {
        self.chunks = None;
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                self.shared.fail(Error::protocol("the server broke MySQL's protocol"));
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if !self.workers.is_empty() {
            // What waits is not written any more.
            self.stop();
        }
    }
}

impl Shared {
    fn fail(&self, error: Error) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.is_failed.store(true, Ordering::SeqCst);
    }

    fn take_error(&self) -> Error {
        let taken = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.unwrap_or_else(|| Error::new(ErrorKind::Sink, format!("writing to `{}` failed before", self.writing.table)))
    }

    fn next(&self) -> Option<Chunk> {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner).recv()
    }

    fn work(&self, mut session: Session) {
        let transaction = self.writing.transaction.as_deref();
        if let Some(first) = transaction
            && let Err(error) = self.begin(&mut session, first)
        {
            self.fail(error);
        }
        let mut last = None;
        // After a failure the rest is taken all the same, so that nobody waits for room.
        while let Some(chunk) = self.next() {
            let before = self.replaced.load(Ordering::SeqCst);
            if !self.is_failed.load(Ordering::SeqCst)
                && let Err(error) = self.write(&mut session, &chunk)
            {
                self.fail(error);
            }
            if transaction.is_some() {
                let replaced = self.replaced.load(Ordering::SeqCst) - before;
                last = Some(Last { chunk, replaced });
            }
        }
        if transaction.is_some() {
            let is_wanted = self.is_wanted.load(Ordering::SeqCst) && !self.is_failed.load(Ordering::SeqCst);
            let end = if is_wanted {
                self.commit(&mut session, last.as_ref())
            } else {
                session.execute("ROLLBACK", "rows cannot be undone").map(drop)
            };
            match end {
                Err(error) if is_wanted => self.fail(error),
                // The server undoes what is not committed when the connection closes.
                Err(error) => log::debug!("{error:#}"),
                Ok(()) => {}
            }
        }
    }

    /// Begins the transaction, and begins it anew if its first statements are undone with it.
    fn begin(&self, session: &mut Session, first: &[String]) -> Result<()> {
        let mut retry = session.retry();
        loop {
            let began = Instant::now();
            match self.try_begin(session, first) {
                Ok(deleted) => {
                    self.deleted.fetch_add(deleted, Ordering::SeqCst);
                    return Ok(());
                }
                Err(failure) if matches!(failure.fault, Fault::Busy | Fault::Full | Fault::Locked) => {
                    drop(pause(&mut retry, began, failure)?)
                }
                Err(failure) => return Err(failure.error),
            }
            session.execute("ROLLBACK", "rows cannot be undone")?;
        }
    }

    fn try_begin(&self, session: &mut Session, first: &[String]) -> Result<u64, Failure> {
        session.try_execute("BEGIN", &format!("no transaction can be begun to write to `{}`", self.writing.table), &[])?;
        let attempted = format!("rows of `{}` cannot be deleted", self.writing.table);
        let mut deleted = 0;
        for statement in first {
            deleted += session.try_execute(statement, &attempted, &self.writing.names)?;
        }
        Ok(deleted)
    }

    fn commit(&self, session: &mut Session, last: Option<&Last>) -> Result<()> {
        let table = &self.writing.table;
        let failure = match session.try_execute("COMMIT", &format!("rows of `{table}` cannot be committed"), &[]) {
            Ok(_) => return Ok(()),
            Err(failure) if failure.fault == Fault::Lost => failure,
            Err(failure) => return Err(failure.error),
        };
        let is_committed = self.is_committed(session, last).unwrap_or_else(|error| {
            log::debug!("{error:#}");
            None
        });
        let outcome = match is_committed {
            Some(true) => return Ok(()),
            Some(false) => "none of them is stored".to_owned(),
            None => format!("either all {} are stored or none", self.stored.load(Ordering::SeqCst)),
        };
        let message = format!("the connection broke while rows were committed to `{table}`: {outcome}");
        Err(Error::new(ErrorKind::Sink, message).with_cause(failure.error))
    }

    /// Whether a transaction was carried out whose end was not heard of, by the rows that were written last; `None` if they do not tell.
    fn is_committed(&self, session: &mut Session, last: Option<&Last>) -> Result<Option<bool>> {
        let Some((Last { chunk, replaced }, count)) = last.zip(self.writing.count.as_ref()) else { return Ok(None) };
        let all = 0..chunk.len();
        let Some(keys) = chunk.keys(&all) else { return Ok(None) };
        session.reconnect()?;
        // With a lock, so that a server that has not ended the transaction yet does so first.
        let sql = format!("{count}{keys}) LOCK IN SHARE MODE");
        let found = session.try_count(&sql, &format!("rows of `{}` cannot be looked for", self.writing.table))?;
        let rows = chunk.len() as u64;
        // Were they there before, they do not tell.
        let are_new = match self.writing.is_upsert {
            true => *replaced < rows,
            false => self.deleted.load(Ordering::SeqCst) == 0,
        };
        Ok(match found {
            Some(found) if found < rows => Some(false),
            Some(_) if are_new => Some(true),
            _ => None,
        })
    }

    /// Repeats a statement in a transaction that had to wait too long for a lock, where nothing but the statement is undone then.
    fn with_patience(&self, session: &mut Session, attempt: impl Fn(&mut Session) -> Result<u64, Failure>) -> Result<u64> {
        let mut retry = session.retry();
        loop {
            let began = Instant::now();
            let failure = match attempt(session) {
                Ok(affected) => return Ok(affected),
                Err(failure) => failure,
            };
            // A deadlock undoes the whole transaction.
            if failure.fault != Fault::Locked || self.writing.undoes_on_timeout {
                return Err(self.undone(failure));
            }
            pause(&mut retry, began, failure)?;
        }
    }

    /// The error of a statement that ends the transaction. Its rows have come and gone, so that it cannot be begun anew here.
    fn undone(&self, failure: Failure) -> Error {
        if !matches!(failure.fault, Fault::Busy | Fault::Locked) {
            return failure.error;
        }
        let message = format!("{}; nothing of the transaction is kept, and `{}` is as it was", failure.error, self.writing.table);
        Error::new(failure.error.kind(), message).with_cause(failure.error)
    }

    /// Writes a chunk, in parts if it is too much at once.
    fn write(&self, session: &mut Session, chunk: &Chunk) -> Result<()> {
        let attempted = format!("rows cannot be written to `{}`", self.writing.table);
        let mut parts = Vec::from_iter(std::iter::once(0..chunk.len()));
        while let Some(part) = parts.pop() {
            let is_told = self.writing.transaction.is_some();
            let mut replaced = if self.writing.is_upsert && !is_told { self.count(session, chunk, &part)? } else { None };
            if is_told {
                if !self.load(session, chunk, &part, &attempted).map_err(|failure| self.undone(failure))? {
                    let sql = self.statement(chunk, &part, &self.writing.suffix);
                    let affected = self.with_patience(session, |session| session.try_execute(&sql, &attempted, &self.writing.names))?;
                    self.check(affected, &part)?;
                    if self.writing.is_upsert {
                        replaced = session.replaced(part.len() as u64, affected);
                    }
                }
            } else if !self.write_part(session, chunk, &part, &attempted)? {
                let middle = part.start + part.len() / 2;
                self.limits.shrink(part.len());
                parts.push(middle..part.end);
                parts.push(part.start..middle);
                continue;
            }
            self.stored.fetch_add(part.len() as u64, Ordering::SeqCst);
            self.replaced.fetch_add(replaced.unwrap_or(0), Ordering::SeqCst);
        }
        Ok(())
    }

    fn statement(&self, chunk: &Chunk, part: &Range<usize>, suffix: &str) -> String {
        [&self.writing.insert, chunk.rows(part), suffix].concat()
    }

    /// Loads the rows of a part like a file, which spares the server the reading of a statement; whether they are stored. What is odd is undone, and
    /// left to a statement, as all that follows.
    fn load(&self, session: &mut Session, chunk: &Chunk, part: &Range<usize>, attempted: &str) -> Result<bool, Failure> {
        let Some(sql) = self.writing.load.as_ref().filter(|_| self.is_loading.load(Ordering::SeqCst)) else { return Ok(false) };
        let (begin, end, undo) = match self.writing.transaction {
            Some(_) => ("SAVEPOINT ingest_rows", "RELEASE SAVEPOINT ingest_rows", "ROLLBACK TO SAVEPOINT ingest_rows"),
            None => ("BEGIN", "COMMIT", "ROLLBACK"),
        };
        session.try_execute(begin, attempted, &[])?;
        let failure = match session.try_load(sql, chunk.rows(part), attempted, &self.writing.names) {
            Ok((stored, 0)) if stored == part.len() as u64 => {
                session.try_execute(end, attempted, &[])?;
                return Ok(true);
            }
            Ok((stored, warnings)) => {
                log::debug!("{stored} of {} rows were loaded into `{}`, with {warnings} warnings", part.len(), self.writing.table);
                None
            }
            Err(failure) if failure.fault == Fault::Lost => return Err(failure),
            Err(failure) => {
                log::debug!("{:#}", failure.error);
                Some(failure)
            }
        };
        self.is_loading.store(false, Ordering::SeqCst);
        // Where the whole transaction was undone, as by a deadlock, there is no such savepoint.
        match (session.try_execute(undo, attempted, &[]), failure) {
            (Ok(_), _) => Ok(false),
            (Err(_), Some(failure)) => Err(failure),
            (Err(failure), None) => Err(failure),
        }
    }

    /// Rows that a server says it took, but stored nowhere.
    fn check(&self, affected: u64, part: &Range<usize>) -> Result<()> {
        let rows = part.len() as u64;
        let is_right = if self.writing.is_upsert { affected <= rows * 2 } else { affected == rows };
        if is_right { Ok(()) } else { Err(self.not_stored(rows, affected)) }
    }

    fn not_stored(&self, rows: u64, stored: u64) -> Error {
        let message = format!("the server took {rows} rows for `{}`, but has stored {stored} of them", self.writing.table);
        Error::new(ErrorKind::Sink, message)
    }

    /// How many of the rows of a part are there, where that can be asked.
    fn count(&self, session: &mut Session, chunk: &Chunk, part: &Range<usize>) -> Result<Option<u64>> {
        let (Some(count), Some(keys)) = (&self.writing.count, chunk.keys(part)) else { return Ok(None) };
        let (sql, attempted) = (format!("{count}{keys})"), format!("rows of `{}` cannot be looked for", self.writing.table));
        let mut retry = session.retry();
        loop {
            let began = Instant::now();
            let failure = match session.try_count(&sql, &attempted) {
                Ok(found) => return Ok(found),
                Err(failure) => failure,
            };
            if self.writing.transaction.is_some() || !failure.fault.may_pass() {
                return Err(failure.error);
            }
            session.recover(&mut retry, began, failure)?;
        }
    }

    /// Deletes the rows whose place the rows of a part take, where no statement does both.
    fn clear(&self, session: &mut Session, chunk: &Chunk, part: &Range<usize>, attempted: &str) -> Result<(), Failure> {
        match (&self.writing.delete, chunk.keys(part)) {
            (Some(delete), Some(keys)) => session.try_execute(&format!("{delete}{keys})"), attempted, &self.writing.names).map(drop),
            _ => Ok(()),
        }
    }

    /// Writes some rows in one statement, which is a transaction; `false` if they are too many for one.
    fn write_part(&self, session: &mut Session, chunk: &Chunk, part: &Range<usize>, attempted: &str) -> Result<bool> {
        let mut retry = session.retry();
        let (mut same, mut is_repeated, mut suffix) = (0, false, &self.writing.suffix);
        loop {
            let began = Instant::now();
            let loaded = if is_repeated { Ok(false) } else { self.load(session, chunk, part, attempted) };
            if let Ok(true) = loaded {
                return Ok(true);
            }
            let cleared = loaded.and_then(|_| self.clear(session, chunk, part, attempted));
            let written = cleared.and_then(|()| session.try_execute(&self.statement(chunk, part, suffix), attempted, &self.writing.names));
            let failure = match written {
                Ok(affected) => {
                    if !is_repeated {
                        self.check(affected, part)?;
                    }
                    // An upsert that changes nothing is told from one that stores nothing by looking.
                    if (self.writing.is_upsert || is_repeated)
                        && affected < part.len() as u64
                        && let Some(found) = self.count(session, chunk, part)?
                        && found != part.len() as u64
                    {
                        return Err(self.not_stored(part.len() as u64, found));
                    }
                    if is_repeated {
                        self.repeated.fetch_add(part.len() as u64, Ordering::SeqCst);
                    }
                    return Ok(true);
                }
                Err(failure) => failure,
            };
            match failure.fault {
                Fault::TooMuch if part.len() > 1 => return Ok(false),
                Fault::TooMuch | Fault::Duplicate | Fault::NoDdl | Fault::Other => return Err(failure.error),
                Fault::Busy | Fault::Locked if part.len() > 1 && same >= SAME_AGAIN => return Ok(false),
                Fault::Busy | Fault::Full | Fault::Locked | Fault::Unknown | Fault::Lost => {}
            }
            same += 1;
            let failure = session.recover(&mut retry, began, failure)?;
            if failure.fault == Fault::Unknown {
                continue;
            }
            // A statement over several shards may have been carried out in one of them.
            if let Some(repeat) = &self.writing.repeat_suffix {
                (suffix, is_repeated) = (repeat, true);
                continue;
            }
            match self.count(session, chunk, part)? {
                Some(found) if found == part.len() as u64 && failure.fault == Fault::Lost => return Ok(true),
                Some(0) => {}
                _ if failure.fault != Fault::Lost && !session.is_vitess() => {}
                // It was not begun at all in the one shard that there is.
                _ if failure.fault == Fault::Full && !self.writing.is_sharded => {}
                _ => {
                    let stored = self.stored.load(Ordering::SeqCst);
                    let message = format!(
                        "{attempted}: the connection broke, and of the {} rows that were under way some may be stored, beside {stored} that are",
                        part.len()
                    );
                    return Err(Error::new(ErrorKind::Sink, message).with_cause(failure.error));
                }
            }
        }
    }
}
