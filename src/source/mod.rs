//! Where rows come from.

pub(crate) mod mysql;
#[cfg(any(feature = "vstream", feature = "_fuzzing", test))]
pub(crate) mod vstream;

use std::sync::{Arc, Mutex, PoisonError};

use self::mysql::{Connection, Rows, ServerKind};
use crate::options::SourceOptions;
use crate::schema::Table;
use crate::{ErrorKind, Result};

/// A MySQL, PlanetScale or Vitess database that rows are read from.
///
/// It keeps one connection between calls; each reading of a table has its own.
pub struct Source {
    options: SourceOptions,
    server: ServerKind,
    idle: Mutex<Option<Connection>>,
}

impl Source {
    /// Connects to what a URI names: `mysql://user:password@host:port/database`.
    ///
    /// # Errors
    /// `Config` for the URI itself; `Connect`, `Tls`, `Auth`, `Timeout` or `Schema` (no such database) for the connection, all within the
    /// connect time limit.
    pub fn open(uri: &str) -> Result<Self> {
        Self::open_with(&SourceOptions::from_uri(uri)?)
    }

    /// Connects as the options say.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn open_with(options: &SourceOptions) -> Result<Self> {
        let connection = Connection::open(options)?;
        let server = connection.server().clone();
        Ok(Self { options: options.clone(), server, idle: Mutex::new(Some(connection)) })
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
        self.with_connection(mysql::tables)
    }

    /// One base table by its exact name.
    ///
    /// # Errors
    /// As [`Source::tables`]; `Schema` if there is no such table.
    pub fn table(&self, name: &str) -> Result<Table> {
        self.with_connection(|connection| mysql::table(connection, name))
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
        let connection = match self.take_idle() {
            Some(connection) => connection,
            None => Connection::open(&self.options)?,
        };
        Rows::start(connection, table)
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

    pub(crate) fn with_connection<T>(&self, work: impl Fn(&mut Connection) -> Result<T>) -> Result<T> {
        if let Some(mut connection) = self.take_idle() {
            match work(&mut connection) {
                // Servers close connections that were idle for long.
                Err(error) if error.kind() == ErrorKind::Connect => {}
                result => {
                    self.keep(connection);
                    return result;
                }
            }
        }
        let mut connection = Connection::open(&self.options)?;
        let result = work(&mut connection);
        self.keep(connection);
        result
    }

    fn take_idle(&self) -> Option<Connection> {
        let connection = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        connection.and_then(Connection::if_alive)
    }

    fn keep(&self, connection: Connection) {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("options", &self.options).field("server", &self.server).finish_non_exhaustive()
    }
}
