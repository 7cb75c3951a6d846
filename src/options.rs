//! What a source and a destination are opened with. [`crate::uri`] fills these in from a URI, through the same setters.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::place::{SourcePlace, Special};
use crate::tls::Tls;

/// How to reach a source: MySQL, or anything that speaks its protocol, and with [`CaptureOptions`] vtgate's VStream beside it; or PostgreSQL, by
/// [`SourceOptions::postgres`]; or a file, by [`SourceOptions::sqlite`] and [`SourceOptions::duckdb`].
///
/// `Debug` hides the password, and no error holds it.
///
/// ```
/// use planetscale_ingest::{CaptureOptions, SourceOptions, Tls};
///
/// let options = SourceOptions::new("db.example", "shop").with_user("reader").with_password("p@ss").with_tls(Tls::Verify);
/// assert_eq!(options, SourceOptions::from_uri("mysql://reader:p%40ss@db.example/shop?tls=true")?);
///
/// let capture = options.with_capture(CaptureOptions::new(15991));
/// assert_eq!(capture, SourceOptions::from_uri("mysql+cdc://reader:p%40ss@db.example/shop?tls=true&grpc_port=15991")?);
/// # Ok::<(), planetscale_ingest::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct SourceOptions {
    pub(crate) place: SourcePlace,
    pub(crate) special: Special,
    host: String,
    port: u16,
    user: Option<String>,
    password: Option<String>,
    database: String,
    tls: Option<Tls>,
    tls_ca: Option<PathBuf>,
    client_certificate: Option<(PathBuf, PathBuf)>,
    connect_timeout: Duration,
    read_timeout: Duration,
    retry_timeout: Duration,
    capture: Option<CaptureOptions>,
}

/// How changes are captured: where vtgate's gRPC port is, and what to ask it for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureOptions {
    grpc_port: u16,
    grpc_host: Option<String>,
    grpc_tls: Option<Tls>,
    grpc_credentials: GrpcCredentials,
    mode: CaptureMode,
    dest_schema: Option<String>,
    tablet_type: TabletType,
    cells: Vec<String>,
    shards: Vec<String>,
    workload: Workload,
    max_message_bytes: u64,
    no_progress_timeout: Duration,
}

/// When a capture ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum CaptureMode {
    /// When it has caught up with the position at which the source stood when the run began. In a URI: `batch`.
    #[default]
    Batch,
    /// When it is cancelled. In a URI: `stream`.
    Stream,
}

/// Which of a shard's tablets are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum TabletType {
    /// The one that takes writes: never behind. In a URI: `primary`.
    #[default]
    Primary,
    /// One that could become the primary. In a URI: `replica`.
    Replica,
    /// One that is kept for reading in bulk. In a URI: `rdonly`.
    Rdonly,
}

/// As what vtgate treats the queries of the MySQL connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Workload {
    /// Results stream, and no cap on rows applies. In a URI: `olap`.
    #[default]
    Olap,
    /// Results are collected first, up to vtgate's cap on rows. In a URI: `oltp`.
    Oltp,
}

/// Over which gRPC connections user and password are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum GrpcCredentials {
    /// Over TLS, and to this machine itself.
    #[default]
    Protected,
    /// Over any, so that everyone on the way can read them. In a URI: `plaintext`.
    DangerPlaintext,
}

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

/// Beyond this a deadline is a typing error, and far beyond it adding one to the time overflows.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// A single packet of a copy is 250,000 bytes and more.
const MIN_MESSAGE_BYTES: u64 = 1 << 20;
/// What gRPC can count.
const MAX_MESSAGE_BYTES: u64 = 2_147_483_647;
/// DuckDB refuses to start with less.
const MIN_MEMORY_LIMIT_BYTES: u64 = 1 << 20;
const MAX_THREADS: u16 = 1024;
/// Each holds a statement that is being written.
const MAX_CONNECTIONS: u8 = 16;

impl SourceOptions {
    /// A database (in Vitess: a keyspace) on a host name or IP address.
    pub fn new(host: impl Into<String>, database: impl Into<String>) -> Self {
        Self {
            place: SourcePlace::MySql,
            special: Special::default(),
            host: host.into(),
            port: 3306,
            user: None,
            password: None,
            database: database.into(),
            tls: None,
            tls_ca: None,
            client_certificate: None,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(5 * 60),
            retry_timeout: Duration::from_secs(2 * 60),
            capture: None,
        }
    }

    /// The port of the MySQL protocol. Default: 3306.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Default: none, which is the anonymous user.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Default: none. The same user and password serve both connections of a capture.
    #[must_use]
    pub fn with_password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// How the MySQL connection is secured. Default: [`Tls::Preferred`]; with [`with_tls_ca`](Self::with_tls_ca) or
    /// [`with_client_certificate`](Self::with_client_certificate) [`Tls::Verify`], since either shows that TLS is meant.
    #[must_use]
    pub fn with_tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// A file with the certificates, in PEM form, of the only authorities to trust, for both connections. Default: the system's.
    #[must_use]
    pub fn with_tls_ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.tls_ca = Some(file.into());
        self
    }

    /// Files with the client's certificate chain and its private key, in PEM form, for both connections. Default: none.
    #[must_use]
    pub fn with_client_certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.client_certificate = Some((certificate.into(), key.into()));
        self
    }

    /// How long each connection may take until it is ready, TLS and login included; up to 24 hours. Default: 10 s.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long the MySQL server may send nothing while an answer is awaited, before that is an error; up to 24 hours. Default: 5 minutes.
    #[must_use]
    pub fn with_read_timeout(mut self, timeout: Duration) -> Self {
        self.read_timeout = timeout;
        self
    }

    /// How long connections that fail or break are tried again, with growing pauses; up to 24 hours. Default: 2 minutes.
    ///
    /// The time counts from the first failure since something was achieved: an answer of the MySQL server, a new position of the stream. The
    /// very first connection, and the first to vtgate's gRPC port, is tried once. Refusals, such as of a password, are final.
    #[must_use]
    pub fn with_retry_timeout(mut self, timeout: Duration) -> Self {
        self.retry_timeout = timeout;
        self
    }

    /// Captures changes, beside reading tables. Default: tables only.
    #[must_use]
    pub fn with_capture(mut self, capture: CaptureOptions) -> Self {
        self.capture = Some(capture);
        self
    }

    /// The host name or IP address of the MySQL protocol; IPv6 without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port of the MySQL protocol.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The user, `None` for the anonymous one.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The password.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The database, in Vitess the keyspace.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// How the MySQL connection is secured, after the defaults.
    pub fn tls(&self) -> Tls {
        self.tls.unwrap_or(if self.tls_ca.is_some() || self.client_certificate.is_some() { Tls::Verify } else { Tls::Preferred })
    }

    /// The file with the authorities to trust, `None` for the system's.
    pub fn tls_ca(&self) -> Option<&Path> {
        self.tls_ca.as_deref()
    }

    /// The file with the client's certificate chain.
    pub fn tls_cert(&self) -> Option<&Path> {
        self.client_certificate.as_ref().map(|(certificate, _)| certificate.as_path())
    }

    /// The file with the client's private key.
    pub fn tls_key(&self) -> Option<&Path> {
        self.client_certificate.as_ref().map(|(_, key)| key.as_path())
    }

    /// How long each connection may take until it is ready.
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// How long the MySQL server may send nothing while an answer is awaited.
    pub fn read_timeout(&self) -> Duration {
        self.read_timeout
    }

    /// How long connections that fail or break are tried again.
    pub fn retry_timeout(&self) -> Duration {
        self.retry_timeout
    }

    /// How changes are captured, `None` if only tables are read.
    pub fn capture(&self) -> Option<&CaptureOptions> {
        self.capture.as_ref()
    }

    /// The host of vtgate's gRPC port, after the defaults; `None` if only tables are read.
    pub fn grpc_host(&self) -> Option<&str> {
        self.capture.as_ref().map(|capture| capture.grpc_host.as_deref().unwrap_or(&self.host))
    }

    /// How the gRPC connection is secured, after the defaults and never [`Tls::Preferred`]; `None` if only tables are read.
    ///
    /// Where nothing is set for it, it is as the MySQL connection. [`Tls::Preferred`], which gRPC has no way to negotiate, becomes
    /// [`Tls::Off`] if the host is this machine (`localhost`, 127.0.0.0/8, `::1`), else [`Tls::Verify`].
    pub fn grpc_tls(&self) -> Option<Tls> {
        let host = self.grpc_host()?;
        let set = self.capture.as_ref()?.grpc_tls;
        Some(match set.unwrap_or(self.tls()) {
            Tls::Preferred if is_loopback(host) => Tls::Off,
            Tls::Preferred => Tls::Verify,
            tls => tls,
        })
    }

    /// Refuses what contradicts itself. Setters cannot, as they know neither what follows nor what is left at its default.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config), naming the URI's parameter.
    pub(crate) fn check(&self) -> Result<()> {
        self.check_special()?;
        if self.is_file() {
            return Ok(());
        }
        check_host("the host", &self.host)?;
        check_text("the database", &self.database)?;
        if self.port == 0 {
            return Err(Error::config("the port must be a number from 1 to 65535"));
        }
        match (self.user.as_deref(), &self.password) {
            (Some(""), _) => return Err(Error::config("the user is empty")),
            (Some(user), _) => check_text("the user", user)?,
            (None, Some(_)) => return Err(Error::config("there is a password, but no user")),
            (None, None) => {}
        }
        check_timeout("connect_timeout", self.connect_timeout)?;
        check_timeout("read_timeout", self.read_timeout)?;
        check_timeout("retry_timeout", self.retry_timeout)?;
        if let Some(capture) = &self.capture {
            self.check_capture(capture)?;
        }
        let connections = [Some(self.tls()), self.grpc_tls()];
        let verifies = |tls: &Option<Tls>| matches!(tls, Some(Tls::Verify | Tls::VerifyIssuer));
        if self.tls_ca.is_some() && !connections.iter().any(verifies) {
            if self.place == SourcePlace::Postgres {
                return Err(Error::config("`sslrootcert` contradicts `sslmode`, which does not verify the server's certificate"));
            }
            return Err(Error::config("`tls_ca` contradicts `tls`: only `tls=true` verifies the server's certificate"));
        }
        if self.client_certificate.is_some() && connections.iter().flatten().all(|tls| *tls == Tls::Off) {
            if self.place == SourcePlace::Postgres {
                return Err(Error::config("`sslcert` and `sslkey` contradict `sslmode=disable`"));
            }
            return Err(Error::config("`tls_cert` and `tls_key` contradict `tls=false`"));
        }
        Ok(())
    }

    fn check_capture(&self, capture: &CaptureOptions) -> Result<()> {
        if capture.grpc_port == 0 {
            return Err(Error::config("`grpc_port` must be a number from 1 to 65535"));
        }
        if let Some(host) = &capture.grpc_host {
            check_host("`grpc_host`", host)?;
        }
        if capture.grpc_tls == Some(Tls::Preferred) {
            return Err(Error::config(
                "`grpc_tls` must be `true`, `skip-verify` or `false`: gRPC cannot negotiate, so nothing can be preferred",
            ));
        }
        // MySQL connections to Vitess take `keyspace:shard@tablet_type`; a stream takes its parts.
        if self.database.contains(['@', ':', '/']) {
            return Err(Error::config(
                "for change capture the database must be a keyspace alone: `tablet_type` and `shards` choose tablets and shards",
            ));
        }
        let tls = self.grpc_tls();
        let is_exposed = tls == Some(Tls::Off) && self.grpc_host().is_some_and(|host| !is_loopback(host));
        match capture.grpc_credentials {
            GrpcCredentials::Protected if is_exposed && self.user.is_some() => Err(Error::config(
                "user and password would cross the network unencrypted to vtgate's gRPC port: set `grpc_tls=true`, \
                 or `grpc_credentials=plaintext` if that is meant",
            )),
            GrpcCredentials::DangerPlaintext if tls != Some(Tls::Off) => Err(Error::config(
                "`grpc_credentials=plaintext` contradicts `grpc_tls`, which is on: set `grpc_tls=false` too, or leave it out",
            )),
            _ => Ok(()),
        }?;
        if let Some(schema) = &capture.dest_schema {
            check_text("`dest_schema`", schema)?;
        }
        for (name, list) in [("cells", &capture.cells), ("shards", &capture.shards)] {
            check_list(name, list)?;
        }
        if !(MIN_MESSAGE_BYTES..=MAX_MESSAGE_BYTES).contains(&capture.max_message_bytes) {
            return Err(Error::config("`max_message_bytes` must be from 1MiB to 2147483647"));
        }
        check_timeout("no_progress_timeout", capture.no_progress_timeout)
    }
}

impl Default for SourceOptions {
    /// The database `mysql` on `localhost`.
    fn default() -> Self {
        Self::new("localhost", "mysql")
    }
}

impl fmt::Debug for SourceOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceOptions")
            .field("place", &self.place)
            .field("special", &self.special)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| format_args!("_")))
            .field("database", &self.database)
            .field("tls", &self.tls)
            .field("tls_ca", &self.tls_ca)
            .field("client_certificate", &self.client_certificate)
            .field("connect_timeout", &self.connect_timeout)
            .field("read_timeout", &self.read_timeout)
            .field("retry_timeout", &self.retry_timeout)
            .field("capture", &self.capture)
            .finish()
    }
}

impl CaptureOptions {
    /// By vtgate's gRPC port. It has no default, since it differs from the MySQL port and from one installation to the next.
    pub fn new(grpc_port: u16) -> Self {
        Self {
            grpc_port,
            grpc_host: None,
            grpc_tls: None,
            grpc_credentials: GrpcCredentials::default(),
            mode: CaptureMode::default(),
            dest_schema: None,
            tablet_type: TabletType::default(),
            cells: Vec::new(),
            shards: Vec::new(),
            workload: Workload::default(),
            max_message_bytes: 64 << 20,
            no_progress_timeout: Duration::from_secs(5 * 60),
        }
    }

    /// The host name or IP address of vtgate's gRPC port. Default: the host of the MySQL connection.
    #[must_use]
    pub fn with_grpc_host(mut self, host: impl Into<String>) -> Self {
        self.grpc_host = Some(host.into());
        self
    }

    /// How the gRPC connection is secured; [`Tls::Preferred`] is refused. Default: see [`SourceOptions::grpc_tls`].
    #[must_use]
    pub fn with_grpc_tls(mut self, tls: Tls) -> Self {
        self.grpc_tls = Some(tls);
        self
    }

    /// Over which gRPC connections user and password are sent. Default: [`GrpcCredentials::Protected`].
    #[must_use]
    pub fn with_grpc_credentials(mut self, credentials: GrpcCredentials) -> Self {
        self.grpc_credentials = credentials;
        self
    }

    /// When the capture ends. Default: [`CaptureMode::Batch`].
    #[must_use]
    pub fn with_mode(mut self, mode: CaptureMode) -> Self {
        self.mode = mode;
        self
    }

    /// The schema of the destination in which several tables keep their names. Default: the destination's own default.
    #[must_use]
    pub fn with_dest_schema(mut self, schema: impl Into<String>) -> Self {
        self.dest_schema = Some(schema.into());
        self
    }

    /// Which of a shard's tablets are read. Default: [`TabletType::Primary`].
    #[must_use]
    pub fn with_tablet_type(mut self, tablet_type: TabletType) -> Self {
        self.tablet_type = tablet_type;
        self
    }

    /// The cells in which to look for tablets. Default, and with an empty list: vtgate's own.
    #[must_use]
    pub fn with_cells<S: Into<String>>(mut self, cells: impl IntoIterator<Item = S>) -> Self {
        self.cells = cells.into_iter().map(Into::into).collect();
        self
    }

    /// The shards to read, as in `-80`. Default, and with an empty list: all that serve.
    #[must_use]
    pub fn with_shards<S: Into<String>>(mut self, shards: impl IntoIterator<Item = S>) -> Self {
        self.shards = shards.into_iter().map(Into::into).collect();
        self
    }

    /// As what vtgate treats the queries of the MySQL connection. Default: [`Workload::Olap`].
    #[must_use]
    pub fn with_workload(mut self, workload: Workload) -> Self {
        self.workload = workload;
        self
    }

    /// The largest message to take from vtgate, from 1 MiB to 2,147,483,647 bytes; a larger one is an error. Default: 64 MiB.
    #[must_use]
    pub fn with_max_message_bytes(mut self, bytes: u64) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// How long a stream may stand still, with neither a new position nor a row, while the server has more to send; up to 24 hours. Then
    /// that is an error, which tells a throttled server from a stalled one. Default: 5 minutes: a tablet that restarts is silent for half a
    /// minute, and vtgate looks for another one for 90 s.
    ///
    /// A stream that is idle since nothing happens goes on. One that does not even bring vtgate's heartbeats for half a minute is taken for a
    /// dead connection and made anew, see [`SourceOptions::with_retry_timeout`].
    #[must_use]
    pub fn with_no_progress_timeout(mut self, timeout: Duration) -> Self {
        self.no_progress_timeout = timeout;
        self
    }

    /// vtgate's gRPC port.
    pub fn grpc_port(&self) -> u16 {
        self.grpc_port
    }

    /// Over which gRPC connections user and password are sent.
    pub fn grpc_credentials(&self) -> GrpcCredentials {
        self.grpc_credentials
    }

    /// When the capture ends.
    pub fn mode(&self) -> CaptureMode {
        self.mode
    }

    /// The destination's schema for tables that keep their names, `None` for its default.
    pub fn dest_schema(&self) -> Option<&str> {
        self.dest_schema.as_deref()
    }

    /// Which of a shard's tablets are read.
    pub fn tablet_type(&self) -> TabletType {
        self.tablet_type
    }

    /// The cells in which to look for tablets; empty for vtgate's own.
    pub fn cells(&self) -> &[String] {
        &self.cells
    }

    /// The shards to read; empty for all that serve.
    pub fn shards(&self) -> &[String] {
        &self.shards
    }

    /// As what vtgate treats the queries of the MySQL connection.
    pub fn workload(&self) -> Workload {
        self.workload
    }

    /// The largest message to take from vtgate.
    pub fn max_message_bytes(&self) -> u64 {
        self.max_message_bytes
    }

    /// How long a stream may stand still.
    pub fn no_progress_timeout(&self) -> Duration {
        self.no_progress_timeout
    }
}

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

/// Whether what is sent to this host stays on the machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
}

/// A host name or an IP address. Names of other scripts have to come in their ASCII form, as certificates hold it.
fn check_host(what: &str, host: &str) -> Result<()> {
    let is_name = |host: &str| {
        let host = host.as_bytes();
        host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(byte)) && host.first().is_some_and(u8::is_ascii_alphanumeric)
    };
    if is_name(host) || host.parse::<IpAddr>().is_ok() {
        Ok(())
    } else {
        Err(Error::config(format!("{what} must be a host name or an IP address, in ASCII letters")))
    }
}

/// MySQL's protocol ends names at a NUL, and so would send another name than it was given.
pub(crate) fn check_text(what: &str, text: &str) -> Result<()> {
    match text {
        "" => Err(Error::config(format!("{what} is missing"))),
        text if text.contains('\0') => Err(Error::config(format!("{what} must not contain a NUL"))),
        _ => Ok(()),
    }
}

pub(crate) fn check_path(what: &str, path: &Path) -> Result<()> {
    match path.to_str() {
        None => Err(Error::config(format!("{what} must be UTF-8"))),
        Some(path) if path.ends_with('/') => Err(Error::config(format!("{what} must name a file, or be `:memory:`"))),
        Some(path) => check_text(what, path),
    }
}

fn check_list(name: &str, list: &[String]) -> Result<()> {
    let mut sorted: Vec<_> = list.iter().collect();
    sorted.sort_unstable();
    // vtgate takes the cells as one text with commas.
    if list.iter().any(|entry| entry.is_empty() || entry.contains([',', '\0'])) {
        return Err(Error::config(format!("`{name}` has an empty or malformed entry")));
    }
    if sorted.windows(2).any(|pair| pair.first() == pair.last()) {
        return Err(Error::config(format!("`{name}` names one of its entries twice")));
    }
    Ok(())
}

pub(crate) fn check_timeout(name: &str, timeout: Duration) -> Result<()> {
    if timeout < Duration::from_millis(1) || timeout > MAX_TIMEOUT {
        return Err(Error::config(format!("`{name}` must be from 1ms to 24h")));
    }
    Ok(())
}
