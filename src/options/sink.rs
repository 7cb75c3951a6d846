//! What a destination is opened with.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{SourceOptions, check_path, check_timeout};
use crate::error::{Error, Result};
use crate::tls::Tls;

/// Which destination, and how to open it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SinkOptions {
    /// A DuckDB database.
    DuckDb(DuckDbOptions),
    /// An SQLite database.
    Sqlite(SqliteOptions),
    /// A database of MySQL, or a keyspace of Vitess or PlanetScale.
    MySql(MySqlOptions),
}

/// How to open a DuckDB database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DuckDbOptions {
    path: PathBuf,
    memory_limit_bytes: Option<u64>,
    threads: Option<u16>,
    time_type: TimeType,
    enum_type: EnumType,
}

/// How DuckDB stores `TIME`, which in MySQL goes from -838:59:59 to 838:59:59. DuckDB's own `TIME` ends after 24 hours.
///
/// A table that was made with the other choice is refused, since a column would hold two forms; `full_refresh` and the strategy `replace` make it anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum TimeType {
    /// As `INTERVAL`, in microseconds. In a URI: `interval`.
    #[default]
    Interval,
    /// As `VARCHAR`, the text that MySQL prints. It does not sort by value. In a URI: `text`.
    Text,
}

/// How DuckDB stores `ENUM`.
///
/// Change capture goes on with a table that was made with the other choice: a column that is `VARCHAR` stays so, since it holds every member; one that
/// is an `ENUM` becomes `VARCHAR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum EnumType {
    /// As `VARCHAR`. In a URI: `varchar`.
    #[default]
    Varchar,
    /// As DuckDB's `ENUM`, with the members in MySQL's order, so that it sorts alike. Before them stands the empty string, which MySQL stores in the place
    /// of a value that is no member, unless that is a member itself. In a URI: `enum`.
    ///
    /// When the source changes the members, the type is replaced: those that the source has no more come last, for the rows that still have them. A
    /// column is `VARCHAR` if one of its members has a question mark: MySQL shows one for each character beyond utf8mb3, so what the member is cannot be
    /// known.
    Enum,
}

/// How to open an SQLite database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteOptions {
    path: PathBuf,
    busy_timeout: Duration,
}

/// How to write to a database of MySQL, or to a keyspace of Vitess or PlanetScale.
///
/// `Debug` hides the password, and no error holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MySqlOptions {
    /// Boxed, since it is several times as large as what the other destinations need.
    server: Box<SourceOptions>,
    connections: u8,
}

/// DuckDB refuses to start with less.
const MIN_MEMORY_LIMIT_BYTES: u64 = 1 << 20;
const MAX_THREADS: u16 = 1024;
/// Each holds a statement that is being written.
const MAX_CONNECTIONS: u8 = 16;

impl SinkOptions {
    /// Refuses what is out of range.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config), naming the URI's parameter.
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Self::DuckDb(options) => {
                check_path("the destination's path", &options.path)?;
                if options.memory_limit_bytes.is_some_and(|bytes| bytes < MIN_MEMORY_LIMIT_BYTES) {
                    return Err(Error::config("`memory_limit` must be at least 1MiB"));
                }
                if options.threads.is_some_and(|threads| !(1..=MAX_THREADS).contains(&threads)) {
                    return Err(Error::config("`threads` must be a number from 1 to 1024"));
                }
                Ok(())
            }
            Self::Sqlite(options) => {
                check_path("the destination's path", &options.path)?;
                check_timeout("busy_timeout", options.busy_timeout)
            }
            Self::MySql(options) => {
                options.server.check()?;
                if !(1..=MAX_CONNECTIONS).contains(&options.connections) {
                    return Err(Error::config("`connections` must be a number from 1 to 16"));
                }
                Ok(())
            }
        }
    }
}

impl DuckDbOptions {
    /// A database file, which is made if it is not there; `:memory:` is a database that ends with the connection.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let (time_type, enum_type) = (TimeType::default(), EnumType::default());
        Self { path: path.into(), memory_limit_bytes: None, threads: None, time_type, enum_type }
    }

    /// How much memory DuckDB may use before it spills to disk, 1 MiB or more. Default: 160 MiB, and 384 KiB for each
    /// table of a run that captures over 128.
    #[must_use]
    pub fn with_memory_limit_bytes(mut self, bytes: u64) -> Self {
        self.memory_limit_bytes = Some(bytes);
        self
    }

    /// How many threads DuckDB may use to find keys in a large table, 1 to 1024. Default: one per core. Everything else takes one.
    #[must_use]
    pub fn with_threads(mut self, threads: u16) -> Self {
        self.threads = Some(threads);
        self
    }

    /// How `TIME` is stored. Default: [`TimeType::Interval`].
    #[must_use]
    pub fn with_time_type(mut self, time_type: TimeType) -> Self {
        self.time_type = time_type;
        self
    }

    /// How `ENUM` is stored. Default: [`EnumType::Varchar`].
    #[must_use]
    pub fn with_enum_type(mut self, enum_type: EnumType) -> Self {
        self.enum_type = enum_type;
        self
    }

    /// The database file, or `:memory:`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How `TIME` is stored.
    pub fn time_type(&self) -> TimeType {
        self.time_type
    }

    /// How `ENUM` is stored.
    pub fn enum_type(&self) -> EnumType {
        self.enum_type
    }

    /// How much memory DuckDB may use.
    pub fn memory_limit_bytes(&self) -> Option<u64> {
        self.memory_limit_bytes
    }

    /// How many threads DuckDB may use.
    pub fn threads(&self) -> Option<u16> {
        self.threads
    }
}

impl Default for DuckDbOptions {
    /// In memory.
    fn default() -> Self {
        Self::new(":memory:")
    }
}

impl SqliteOptions {
    /// A database file, which is made if it is not there; `:memory:` is a database that ends with the connection.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), busy_timeout: Duration::from_secs(5) }
    }

    /// How long to wait for a lock that another connection holds; up to 24 hours. Default: 5 s.
    #[must_use]
    pub fn with_busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// The database file, or `:memory:`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How long to wait for a lock that another connection holds.
    pub fn busy_timeout(&self) -> Duration {
        self.busy_timeout
    }
}

impl Default for SqliteOptions {
    /// In memory.
    fn default() -> Self {
        Self::new(":memory:")
    }
}

impl MySqlOptions {
    /// A database (in Vitess: a keyspace) on a host name or IP address.
    pub fn new(host: impl Into<String>, database: impl Into<String>) -> Self {
        Self::of_server(SourceOptions::new(host, database))
    }

    pub(crate) fn of_server(server: SourceOptions) -> Self {
        Self { server: Box::new(server), connections: 2 }
    }

    fn map(self, change: impl FnOnce(SourceOptions) -> SourceOptions) -> Self {
        Self { server: Box::new(change(*self.server)), ..self }
    }

    /// The port of the MySQL protocol. Default: 3306.
    #[must_use]
    pub fn with_port(self, port: u16) -> Self {
        self.map(|server| server.with_port(port))
    }

    /// Default: none, which is the anonymous user.
    #[must_use]
    pub fn with_user(self, user: impl Into<String>) -> Self {
        self.map(|server| server.with_user(user))
    }

    /// Default: none.
    #[must_use]
    pub fn with_password(self, password: impl Into<String>) -> Self {
        self.map(|server| server.with_password(password))
    }

    /// How the connection is secured; see [`SourceOptions::with_tls`].
    #[must_use]
    pub fn with_tls(self, tls: Tls) -> Self {
        self.map(|server| server.with_tls(tls))
    }

    /// A file with the certificates, in PEM form, of the only authorities to trust. Default: the system's.
    #[must_use]
    pub fn with_tls_ca(self, file: impl Into<PathBuf>) -> Self {
        self.map(|server| server.with_tls_ca(file))
    }

    /// Files with the client's certificate chain and its private key, in PEM form. Default: none.
    #[must_use]
    pub fn with_client_certificate(self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.map(|server| server.with_client_certificate(certificate, key))
    }

    /// How long each connection may take until it is ready, TLS and login included; up to 24 hours. Default: 10 s.
    #[must_use]
    pub fn with_connect_timeout(self, timeout: Duration) -> Self {
        self.map(|server| server.with_connect_timeout(timeout))
    }

    /// How long the server may take to answer a statement; up to 24 hours. Default: 5 minutes.
    #[must_use]
    pub fn with_read_timeout(self, timeout: Duration) -> Self {
        self.map(|server| server.with_read_timeout(timeout))
    }

    /// How long a statement that can be repeated is tried again where the connection broke or the server was busy; up to 24 hours. Default: 2 minutes.
    #[must_use]
    pub fn with_retry_timeout(self, timeout: Duration) -> Self {
        self.map(|server| server.with_retry_timeout(timeout))
    }

    /// How many connections write side by side where the order of rows does not matter, 1 to 16. Default: 2.
    #[must_use]
    pub fn with_connections(mut self, connections: u8) -> Self {
        self.connections = connections;
        self
    }

    /// How many connections write side by side.
    pub fn connections(&self) -> u8 {
        self.connections
    }

    /// How the server is reached.
    pub fn server(&self) -> &SourceOptions {
        &self.server
    }
}

impl From<DuckDbOptions> for SinkOptions {
    fn from(options: DuckDbOptions) -> Self {
        Self::DuckDb(options)
    }
}

impl From<MySqlOptions> for SinkOptions {
    fn from(options: MySqlOptions) -> Self {
        Self::MySql(options)
    }
}

impl From<SqliteOptions> for SinkOptions {
    fn from(options: SqliteOptions) -> Self {
        Self::Sqlite(options)
    }
}
