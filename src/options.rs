//! What a source and a destination are opened with. [`crate::uri`] fills these in from a URI, through the same setters.

mod capture;
mod sink;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::capture::{CaptureMode, CaptureOptions, GrpcCredentials, TabletType, Workload};
pub use self::sink::{DuckDbOptions, EnumType, MySqlOptions, SinkOptions, SqliteOptions, TimeType};
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

/// Beyond this a deadline is a typing error, and far beyond it adding one to the time overflows.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
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
    /// very first connection, and the first to vtgate's gRPC port, has three attempts within half a second, however long this is. Refusals, such as of a
    /// password, are final.
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

    /// What change capture contradicts of the rest.
    fn check_capture(&self, capture: &CaptureOptions) -> Result<()> {
        capture.check()?;
        // MySQL connections to Vitess take `keyspace:shard@tablet_type`; a stream takes its parts.
        if self.database.contains(['@', ':', '/']) {
            return Err(Error::config(
                "for change capture the database must be a keyspace alone: `tablet_type` and `shards` choose tablets and shards",
            ));
        }
        let tls = self.grpc_tls();
        let is_exposed = tls == Some(Tls::Off) && self.grpc_host().is_some_and(|host| !is_loopback(host));
        match capture.grpc_credentials() {
            GrpcCredentials::Protected if is_exposed && self.user.is_some() => Err(Error::config(
                "user and password would cross the network unencrypted to vtgate's gRPC port: set `grpc_tls=true`, \
                 or `grpc_credentials=plaintext` if that is meant",
            )),
            GrpcCredentials::DangerPlaintext if tls != Some(Tls::Off) => Err(Error::config(
                "`grpc_credentials=plaintext` contradicts `grpc_tls`, which is on: set `grpc_tls=false` too, or leave it out",
            )),
            _ => Ok(()),
        }
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

pub(crate) fn check_timeout(name: &str, timeout: Duration) -> Result<()> {
    if timeout < Duration::from_millis(1) || timeout > MAX_TIMEOUT {
        return Err(Error::config(format!("`{name}` must be from 1ms to 24h")));
    }
    Ok(())
}
