//! A MySQL or Vitess server as the origin of rows.

use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use super::connect::{Connection, Interrupter};
use super::{read, schema};
use crate::cancel::Cancel;
use crate::options::SourceOptions;
use crate::retry::Retry;
use crate::schema::Table;
use crate::source::rows::Rows;
use crate::source::server::ServerKind;
use crate::source::{Origin, Reading};
use crate::{Error, ErrorKind, Result};

/// A server, with one connection that is kept between calls; each reading of a table has its own.
pub(crate) struct MySql {
    options: SourceOptions,
    server: ServerKind,
    idle: Mutex<Option<Connection>>,
    /// One for all calls, so that a server that is gone for good costs the time limit once, and not once for each table.
    retry: Mutex<Retry>,
}

impl Origin for MySql {
    fn server(&self) -> &ServerKind {
        &self.server
    }

    fn tables(&self, cancel: &Cancel) -> Result<Vec<Table>> {
        self.with_connection(cancel, schema::tables)
    }

    fn table(&self, name: &str, cancel: &Cancel) -> Result<Table> {
        self.with_connection(cancel, |connection| schema::table(connection, name))
    }

    fn rows(&self, table: Arc<Table>, reading: &Reading, cancel: &Cancel) -> Result<Rows> {
        let connection = self.persist(cancel, || {
            let connection = match self.take_idle() {
                Some(connection) => unless(cancel, connection.interrupter(), || Ok(connection.if_alive()))?,
                None => None,
            };
            connection.map_or_else(|| Connection::open(&self.options, cancel), Ok)
        })?;
        read::rows(connection, table, reading.malformed_text)
    }
}

impl MySql {
    pub(crate) fn open(options: &SourceOptions, cancel: &Cancel) -> Result<Self> {
        let connection = Connection::open(options, cancel)?;
        let server = connection.server().clone();
        let retry = Mutex::new(Retry::new(options.retry_timeout()));
        Ok(Self { options: options.clone(), server, idle: Mutex::new(Some(connection)), retry })
    }

    /// Asks the server something, and asks again where the connection fails or breaks.
    pub(crate) fn with_connection<T: Send>(&self, cancel: &Cancel, work: impl Fn(&mut Connection) -> Result<T> + Sync) -> Result<T> {
        self.persist(cancel, || {
            if let Some(connection) = self.take_idle() {
                match self.ask(cancel, connection, &work) {
                    // Servers close connections that were idle for long.
                    Err(error) if error.kind() == ErrorKind::Connect => {}
                    result => return result,
                }
            }
            self.ask(cancel, Connection::open(&self.options, cancel)?, &work)
        })
    }

    fn ask<T: Send>(&self, cancel: &Cancel, connection: Connection, work: &(impl Fn(&mut Connection) -> Result<T> + Sync)) -> Result<T> {
        let (answer, connection) = unless(cancel, connection.interrupter(), || {
            let broke = || Error::new(ErrorKind::Connect, "the server closed an idle connection");
            let mut connection = connection.if_alive().ok_or_else(broke)?;
            Ok((work(&mut connection)?, connection))
        })?;
        // Only from here on: one on which something failed may be set to another target than this database.
        *self.lock_idle() = Some(connection);
        Ok(answer)
    }

    /// Makes an attempt, and others while that may help.
    fn persist<T>(&self, cancel: &Cancel, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        loop {
            let began = Instant::now();
            let error = match attempt() {
                Err(error) if error.is_transient() => error,
                result => {
                    if !matches!(&result, Err(error) if error.kind() == ErrorKind::Cancelled) {
                        self.lock_retry().succeeded();
                    }
                    return result;
                }
            };
            let mut retry = self.lock_retry();
            let Some(until) = retry.failed(began, Instant::now()) else {
                return Err(if retry.failures() > 1 { given_up(&retry, error) } else { error });
            };
            log::warn!("the MySQL server is asked again (attempt {}): {error:#}", retry.failures() + 1);
            drop(retry);
            cancel.wait_until(until)?;
        }
    }

    fn take_idle(&self) -> Option<Connection> {
        self.lock_idle().take()
    }

    fn lock_idle(&self) -> MutexGuard<'_, Option<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_retry(&self) -> MutexGuard<'_, Retry> {
        self.retry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn given_up(retry: &Retry, last: Error) -> Error {
    let message =
        format!("the MySQL server could not be asked, in {} attempts within {:?} (`retry_timeout`)", retry.failures(), retry.limit());
    Error::new(last.kind(), message).with_cause(last)
}

/// Does what waits for a server, on a thread of its own, so that the wait can be cancelled: the connection is closed then, which ends the
/// thread.
fn unless<T: Send>(cancel: &Cancel, interrupter: Option<Interrupter>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let (sender, answer) = sync_channel(1);
        let thread = thread::Builder::new().name("ingest-ask".to_owned()).spawn_scoped(scope, move || {
            // Nobody listens any more after a cancellation.
            let _ = sender.send(work());
        });
        let thread =
            thread.map_err(|cause| Error::new(ErrorKind::Source, "no thread can be started to ask the server on").with_cause(cause))?;
        let awaited = cancel.wait_for(&answer, None);
        if let (Err(_), Some(interrupter)) = (&awaited, interrupter) {
            interrupter.interrupt();
        }
        // A thread that died of a panic has sent nothing: the client library indexes into packets.
        let _ = thread.join();
        awaited?.unwrap_or_else(|_| Err(Error::protocol("the server broke MySQL's protocol")))
    })
}
