//! Where rows come from.

pub(crate) mod charset;
pub(crate) mod mysql;
#[cfg(any(feature = "vstream", feature = "_fuzzing", test))]
pub(crate) mod vstream;

use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use self::mysql::{Connection, Interrupter, Rows, ServerKind};
use crate::cancel::Cancel;
use crate::interval::Interval;
use crate::options::SourceOptions;
use crate::policy::MalformedText;
use crate::retry::Retry;
use crate::schema::Table;
use crate::{Error, ErrorKind, Result};

/// A MySQL, PlanetScale or Vitess database that rows are read from.
///
/// It keeps one connection between calls; each reading of a table has its own. Once it is open, a connection that fails or breaks is made anew
/// and the question asked again, with growing pauses and for as long as [`SourceOptions::with_retry_timeout`] says.
pub struct Source {
    options: SourceOptions,
    server: ServerKind,
    idle: Mutex<Option<Connection>>,
    /// One for all calls, so that a server that is gone for good costs the time limit once, and not once for each table.
    retry: Mutex<Retry>,
}

impl Source {
    /// Connects to what a URI names: `mysql://user:password@host:port/database`.
    ///
    /// # Errors
    /// `Config` for the URI itself; `Connect`, `Tls`, `Auth`, `Timeout` or `Schema` (no such database) for the connection, all within the
    /// connect time limit. A connection that fails is not tried again.
    pub fn open(uri: &str) -> Result<Self> {
        Self::open_with(&SourceOptions::from_uri(uri)?)
    }

    /// Connects as the options say.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn open_with(options: &SourceOptions) -> Result<Self> {
        Self::open_unless(options, &Cancel::new())
    }

    /// Connects as the options say, unless it is cancelled meanwhile.
    ///
    /// # Errors
    /// As [`Source::open`]; `Cancelled`.
    pub fn open_unless(options: &SourceOptions, cancel: &Cancel) -> Result<Self> {
        options.check()?;
        let connection = Connection::open(options, cancel)?;
        let server = connection.server().clone();
        let retry = Mutex::new(Retry::new(options.retry_timeout()));
        Ok(Self { options: options.clone(), server, idle: Mutex::new(Some(connection)), retry })
    }

    /// What the server says it is.
    pub fn server(&self) -> &ServerKind {
        &self.server
    }

    /// The options that it was opened with.
    pub fn options(&self) -> &SourceOptions {
        &self.options
    }

    /// Every base table of the database, by name: no views, no tables of Vitess itself, none that a tool for online schema changes left.
    ///
    /// # Errors
    /// `Source`, `Connect` or `Timeout` if the server does not answer; `Schema` if a column has a type that cannot be mapped.
    pub fn tables(&self) -> Result<Vec<Table>> {
        self.tables_unless(&Cancel::new())
    }

    pub(crate) fn tables_unless(&self, cancel: &Cancel) -> Result<Vec<Table>> {
        self.with_connection(cancel, mysql::tables)
    }

    /// One base table by its exact name.
    ///
    /// # Errors
    /// As [`Source::tables`]; `Schema` if there is no such table.
    pub fn table(&self, name: &str) -> Result<Table> {
        self.table_unless(name, &Cancel::new())
    }

    pub(crate) fn table_unless(&self, name: &str, cancel: &Cancel) -> Result<Table> {
        self.with_connection(cancel, |connection| mysql::table(connection, name))
    }

    /// Reads all rows of a table, in batches.
    ///
    /// # Errors
    /// As [`Source::table`], and those of connecting.
    pub fn rows(&self, name: &str) -> Result<Rows> {
        self.rows_of(Arc::new(self.table(name)?))
    }

    /// Reads all rows of a table that [`Source::tables`] described, with the columns that it had then.
    ///
    /// # Errors
    /// Those of connecting; a column that is gone shows when the first batch is asked for.
    pub fn rows_of(&self, table: Arc<Table>) -> Result<Rows> {
        self.rows_with(table, MalformedText::default())
    }

    /// Reads all rows of a table, with a choice of what becomes of bytes that are no text of their column's character set. With
    /// [`MalformedText::Bytes`] the table of the batches has columns of bytes in place of those of text.
    ///
    /// # Errors
    /// As [`Source::rows_of`].
    pub fn rows_with(&self, table: Arc<Table>, malformed_text: MalformedText) -> Result<Rows> {
        self.rows_unless(table, None, malformed_text, &Cancel::new())
    }

    /// Reads the rows of a table whose value in `column` lies between two values, both included, as MySQL prints such values. Without one of them the
    /// interval goes to that end. NULL lies in no interval, nor do dates that no calendar has; text is compared by its bytes in UTF-8.
    ///
    /// # Errors
    /// As [`Source::rows_of`]; `Schema` if there is no such column; `Config` if `start` or `end` is no value of it, or it has no order.
    pub fn rows_between(&self, table: Arc<Table>, column: &str, start: Option<&str>, end: Option<&str>) -> Result<Rows> {
        let interval = Interval::of(&table, column, start, end)?;
        self.rows_unless(table, Some(&interval), MalformedText::default(), &Cancel::new())
    }

    pub(crate) fn rows_unless(
        &self,
        table: Arc<Table>,
        interval: Option<&Interval>,
        malformed_text: MalformedText,
        cancel: &Cancel,
    ) -> Result<Rows> {
        let connection = self.persist(cancel, || {
            let connection = match self.take_idle() {
                Some(connection) => unless(cancel, connection.interrupter(), || Ok(connection.if_alive()))?,
                None => None,
            };
            connection.map_or_else(|| Connection::open(&self.options, cancel), Ok)
        })?;
        Rows::start(connection, table, interval, malformed_text)
    }

    /// Captures changes of tables, as a URI `mysql+cdc://…` says.
    ///
    /// Blocks while the positions are compared with what the server still has; nothing is streamed before the first call of `next`.
    ///
    /// # Errors
    /// `Config` if the source was not opened for change capture; `Unsupported` if the server is not Vitess; `Position` if one of the positions
    /// cannot be resumed from; `Schema` if a table has no primary key.
    #[cfg(feature = "vstream")]
    pub fn changes(&self, request: vstream::run::CaptureRequest, cancel: crate::Cancel) -> Result<vstream::run::Changes<'_>> {
        vstream::run::Changes::start(self, request, cancel)
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

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("options", &self.options).field("server", &self.server).finish_non_exhaustive()
    }
}
