//! One run at a time for a table: a lock of the server's own, which a client that crashed gives back with its connection.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::encode::literal;
use super::session::Session;
use crate::options::SourceOptions;
use crate::schema::TableName;
use crate::{Error, ErrorKind, Result};

/// vtgate ends the connection that holds a lock once nothing was asked on it for a while.
const BEAT: Duration = Duration::from_secs(4);
/// The longest name of a lock.
const LONGEST: usize = 64;

/// The right to write to the tables that were taken, until it is dropped.
pub(super) struct Lease {
    /// The connection to which the locks belong.
    session: Arc<Mutex<Session>>,
    database: String,
    taken: BTreeSet<String>,
    is_lost: Arc<AtomicBool>,
    /// Gone when the lease is given back.
    end: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Lease {
    pub(super) fn open(options: &SourceOptions) -> Result<Self> {
        Ok(Self {
            session: Arc::new(Mutex::new(Session::open(options)?)),
            database: options.database().to_owned(),
            taken: BTreeSet::new(),
            is_lost: Arc::default(),
            end: None,
            thread: None,
        })
    }

    /// Takes the lease of a table, which may yet have to be made.
    ///
    /// # Errors
    /// `Conflict` if another run holds it.
    pub(super) fn take(&mut self, table: &TableName) -> Result<()> {
        self.check()?;
        let name = lock_name(table.schema().unwrap_or(&self.database), table.name());
        if self.taken.contains(&name) {
            return Ok(());
        }
        let sql = format!("SELECT GET_LOCK({}, 0)", literal(&name));
        let answer = lock(&self.session).try_query(&sql, "no lock can be taken in the destination");
        match answer {
            Ok(rows) if rows.first().and_then(|row| row.first()) == Some(&Some(b"1".to_vec())) => {}
            Ok(_) => {
                let message = format!("`{table}` is in use by another run: one can write at a time, so wait for its end, or end it");
                return Err(Error::new(ErrorKind::Conflict, message).with_table(table).of_run());
            }
            Err(failure) => {
                // What the checkpoints say is compared before each commit nevertheless.
                log::warn!("nothing keeps two runs from writing to `{table}` at once: {:#}", failure.error);
                return Ok(());
            }
        }
        self.taken.insert(name.clone());
        if self.thread.is_none() { self.keep(&name) } else { Ok(()) }
    }

    /// Asks something on the connection now and then. If one lock is lost, so are all.
    fn keep(&mut self, name: &str) -> Result<()> {
        let (end, ended) = mpsc::sync_channel::<()>(0);
        let (session, is_lost) = (Arc::clone(&self.session), Arc::clone(&self.is_lost));
        let beat = match lock(&session).is_vitess() {
            true => "SELECT 1".to_owned(),
            false => format!("SELECT IS_USED_LOCK({}) = CONNECTION_ID()", literal(name)),
        };
        let thread = thread::Builder::new().name("ingest-lease".to_owned()).spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(BEAT) {
                let answer = lock(&session).query(&beat);
                if !answer.is_ok_and(|rows| rows.first().and_then(|row| row.first()) == Some(&Some("1".to_owned()))) {
                    is_lost.store(true, Ordering::SeqCst);
                    return;
                }
            }
        });
        self.thread =
            Some(thread.map_err(|cause| Error::new(ErrorKind::Sink, "no thread can be started to hold a lock on").with_cause(cause))?);
        self.end = Some(end);
        Ok(())
    }

    /// # Errors
    /// `Conflict` if it has been lost, so that another run may have begun.
    pub(super) fn check(&self) -> Result<()> {
        if !self.is_lost.load(Ordering::SeqCst) {
            return Ok(());
        }
        let message =
            format!("the connection that holds locks in database `{}` broke, and another run may have begun: run again", self.database);
        Err(Error::new(ErrorKind::Conflict, message).of_run())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            // It ends by itself in any case.
            let _ = thread.join();
        }
        // The server gives them back with the connection too, but a moment later.
        for name in &self.taken {
            if let Err(error) = lock(&self.session).query(&format!("SELECT RELEASE_LOCK({})", literal(name))) {
                log::debug!("{error:#}");
                return;
            }
        }
    }
}

fn lock(session: &Mutex<Session>) -> MutexGuard<'_, Session> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names of locks are those of a whole server, and short.
fn lock_name(database: &str, table: &str) -> String {
    let sum = crc32fast::hash(format!("{database}\0{table}").as_bytes());
    let mut name = "ingest:".to_owned();
    for letter in database.chars().chain(".".chars()).chain(table.chars()) {
        if name.len() + letter.len_utf8() > LONGEST - 9 {
            break;
        }
        name.push(letter);
    }
    format!("{name}:{sum:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_locks_are_short_and_differ_with_the_table() {
        assert!(lock_name("shop", "orders").starts_with("ingest:shop.orders:"));
        let (one, other) = (lock_name("shop", &"ü".repeat(64)), lock_name("shop", &format!("{}a", "ü".repeat(63))));
        assert!(one.len() <= LONGEST && other.len() <= LONGEST && one != other, "{one} {other}");
        assert_ne!(lock_name("a", "b.c"), lock_name("a.b", "c"));
    }
}
