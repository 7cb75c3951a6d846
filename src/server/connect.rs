//! Connections to MySQL and to vtgate.

use std::borrow::Cow;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mysql::prelude::Queryable;
use mysql::{Conn, DriverError, Opts, OptsBuilder, SslOpts};

use crate::cancel::Cancel;
use crate::options::{CaptureOptions, SourceOptions, Workload};
use crate::source::patience::connect_within;
use crate::source::server::ServerKind;
use crate::tls::Tls;
use crate::{Error, ErrorKind, Result};

/// No packet is larger than a gibibyte, whatever the server's own limit.
const MAX_PACKET: usize = 1 << 30;

/// A connection whose session is set up: UTC, `utf8mb4`, strict, each statement a transaction, rows without a limit, and on Vitess the workload: `olap`,
/// which lifts the cap on rows and streams results of any size, unless the options say otherwise.
pub(crate) struct Connection {
    conn: Conn,
    socket: Option<TcpStream>,
    server: ServerKind,
    connect_timeout: Duration,
    read_timeout: Duration,
    /// The statement that sets it.
    workload: &'static str,
}

impl Connection {
    /// Connects and sets the session up, all within the options' connect time limit.
    pub(crate) fn open(options: &SourceOptions, cancel: &Cancel) -> Result<Self> {
        let options = options.clone();
        let place = Place::of(&options).to_string();
        let broken = format!("{place} broke MySQL's protocol while connecting");
        connect_within((options.connect_timeout(), cancel), (&place, &broken), move || Self::attempt(&options))
    }

    fn attempt(options: &SourceOptions) -> Result<Self> {
        let place = Place::of(options);
        let mut conn = dial(options, &place)?;
        let server = recognise(&mut conn).map_err(|cause| query_error(cause, "cannot ask the server for its version"))?;
        #[cfg(unix)]
        let socket = super::socket::duplicate(&conn).ok();
        #[cfg(not(unix))]
        let socket: Option<TcpStream> = None;
        let (connect_timeout, read_timeout) = (options.connect_timeout(), options.read_timeout());
        let workload = match options.capture().map(CaptureOptions::workload) {
            Some(Workload::Oltp) => "SET workload = 'oltp'",
            _ => "SET workload = 'olap'",
        };
        let mut connection = Self { conn, socket, server, connect_timeout, read_timeout, workload };
        connection.set_up_session()?;
        connection.limit_silence(read_timeout)?;
        Ok(connection)
    }

    /// Sets how long the server may stay silent in the middle of an answer.
    fn limit_silence(&self, limit: Duration) -> Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let refused = |cause| Error::new(ErrorKind::Connect, "the socket takes no time limit").with_cause(cause);
        socket.set_read_timeout(Some(limit)).map_err(refused)
    }

    fn set_up_session(&mut self) -> Result<()> {
        // PAD_CHAR_TO_FULL_LENGTH must be off, else CHAR values come with blanks that nobody stored; the rest of the mode only concerns
        // writes. Where a server's sessions begin without `autocommit`, rows that nobody commits are gone with the connection.
        let mut needed = vec![
            "SET NAMES utf8mb4",
            "SET time_zone = '+00:00'",
            "SET sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
            "SET autocommit = 1",
        ];
        if self.server.is_vitess() {
            needed.push(self.workload);
        }
        let set_up_by = |statement| format!("the session cannot be set up by `{statement}`");
        for statement in needed {
            self.conn.query_drop(statement).map_err(|cause| query_error(cause, set_up_by(statement)))?;
        }
        if !self.server.is_vitess() {
            // A reader that waits for its destination must not be cut off, a long read is no mistake, no answer is to end before its last row, which
            // nobody would notice, and COMMIT begins no other transaction. Not every server has all of them.
            for statement in [
                "SET SESSION net_write_timeout = 3600",
                "SET SESSION max_execution_time = 0",
                "SET SESSION sql_select_limit = 18446744073709551615",
                "SET SESSION completion_type = 'NO_CHAIN'",
            ] {
                match self.conn.query_drop(statement) {
                    Err(refusal @ mysql::Error::MySqlError(_)) => {
                        log::debug!("{}", query_error(refusal, format!("the server does not take `{statement}`")));
                    }
                    result => result.map_err(|cause| query_error(cause, set_up_by(statement)))?,
                }
            }
        }
        Ok(())
    }

    /// On Vitess, sets the workload for statements that take one only, until [`Connection::reset_workload`].
    #[cfg(feature = "vstream")]
    pub(crate) fn set_oltp(&mut self) -> Result<()> {
        self.execute("SET workload = 'oltp'")
    }

    /// Sets the workload that the options say.
    #[cfg(feature = "vstream")]
    pub(crate) fn reset_workload(&mut self) -> Result<()> {
        self.execute(self.workload)
    }

    /// The connection, if the server still answers on it, within the connect time limit: an idle one may have been forgotten on the way.
    pub(crate) fn if_alive(mut self) -> Option<Self> {
        self.limit_silence(self.connect_timeout.min(self.read_timeout)).ok()?;
        self.conn.ping().ok()?;
        self.limit_silence(self.read_timeout).ok()?;
        Some(self)
    }

    pub(crate) fn server(&self) -> &ServerKind {
        &self.server
    }

    /// All rows of a small result, as text.
    pub(crate) fn query(&mut self, sql: &str, parameters: &[&str]) -> Result<Vec<Vec<Option<String>>>> {
        let failed = |cause| query_error(cause, "a query about the schema failed");
        let parameters: Vec<mysql::Value> = parameters.iter().map(|text| mysql::Value::from(*text)).collect();
        // In the binary protocol numbers and times would not be text.
        let rows: Vec<mysql::Row> = match parameters.is_empty() {
            true => self.conn.query(sql).map_err(failed)?,
            false => self.conn.exec(sql, mysql::Params::Positional(parameters)).map_err(failed)?,
        };
        rows.into_iter()
            .map(|row| row.unwrap_raw().into_iter().map(|value| text_of(value.unwrap_or(mysql::Value::NULL))).collect())
            .collect()
    }

    /// Runs a statement that returns no rows.
    #[cfg(feature = "vstream")]
    pub(crate) fn execute(&mut self, sql: &str) -> Result<()> {
        self.conn.query_drop(sql).map_err(|cause| query_error(cause, "a statement about the session failed"))
    }

    pub(crate) fn conn(&mut self) -> &mut Conn {
        &mut self.conn
    }

    /// How many rows the last statement changed.
    pub(crate) fn affected_rows(&self) -> u64 {
        self.conn.affected_rows()
    }

    /// What the server told beside the number of rows that the last statement changed.
    pub(crate) fn info(&self) -> String {
        self.conn.info_str().into_owned()
    }

    /// A handle by which another thread can end what this connection waits for.
    pub(crate) fn interrupter(&self) -> Option<Interrupter> {
        self.socket.as_ref().and_then(|socket| socket.try_clone().ok()).map(Interrupter)
    }
}

/// Ends whatever a connection waits for, by closing it.
pub(crate) struct Interrupter(TcpStream);

impl Interrupter {
    pub(crate) fn interrupt(&self) {
        // Only the reading half. A server that waits for room to send learns of the end by what it sends after the close, and the packet that
        // closes both halves at once would tell it that there is no room: it would wait for a minute, holding locks on the table.
        // An error means that the connection is closed already.
        let _ = self.0.shutdown(Shutdown::Read);
    }
}

fn text_of(value: mysql::Value) -> Result<Option<String>> {
    Ok(match value {
        mysql::Value::NULL => None,
        mysql::Value::Bytes(bytes) => Some(
            String::from_utf8(bytes)
                .map_err(|_| Error::new(ErrorKind::Source, "the server names something in bytes that are not UTF-8"))?,
        ),
        mysql::Value::Int(number) => Some(number.to_string()),
        mysql::Value::UInt(number) => Some(number.to_string()),
        mysql::Value::Float(number) => Some(number.to_string()),
        mysql::Value::Double(number) => Some(number.to_string()),
        other => {
            return Err(Error::new(ErrorKind::Source, format!("the server answers with a {} where text was expected", kind_of(&other))));
        }
    })
}

/// What a value is, without the value.
pub(crate) fn kind_of(value: &mysql::Value) -> &'static str {
    match value {
        mysql::Value::NULL => "NULL",
        mysql::Value::Bytes(_) => "string",
        mysql::Value::Int(_) | mysql::Value::UInt(_) => "whole number",
        mysql::Value::Float(_) | mysql::Value::Double(_) => "floating-point number",
        mysql::Value::Date(..) => "date",
        mysql::Value::Time(..) => "time",
    }
}

fn recognise(conn: &mut Conn) -> mysql::Result<ServerKind> {
    let (version, comment): (Option<String>, Option<String>) = conn.query_first("SELECT @@version, @@version_comment")?.unwrap_or_default();
    let (version, comment) = (version.unwrap_or_default(), comment.unwrap_or_default());
    let named = [&version, &comment].iter().any(|text| text.to_ascii_lowercase().contains("vitess"));
    // vtgate can be told to present another version, but only Vitess knows this statement; MySQL answers with a syntax error.
    let vitess = named
        || match conn.query_drop("SHOW VITESS_SHARDS") {
            Ok(()) => true,
            Err(mysql::Error::MySqlError(_)) => false,
            Err(other) => return Err(other),
        };
    Ok(if vitess { ServerKind::Vitess { version, comment } } else { ServerKind::MySql { version } })
}

/// The server as errors name it.
struct Place {
    address: String,
    host: String,
    user: String,
    database: String,
}

impl Place {
    fn of(options: &SourceOptions) -> Self {
        Self {
            address: if options.host().contains(':') {
                format!("[{}]:{}", options.host(), options.port())
            } else {
                format!("{}:{}", options.host(), options.port())
            },
            host: options.host().to_owned(),
            user: options.user().unwrap_or_default().to_owned(),
            database: options.database().to_owned(),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`", self.address)
    }
}

fn dial(options: &SourceOptions, place: &Place) -> Result<Conn> {
    let addresses: Vec<SocketAddr> = (options.host(), options.port())
        .to_socket_addrs()
        .map_err(|cause| Error::new(ErrorKind::Connect, format!("the host name `{}` cannot be resolved", place.host)).with_cause(cause))?
        .collect();
    // The client library gives up at the first address that refuses, unless it is told the local address: then it tries all of that
    // family. A server on 127.0.0.1 only would otherwise not be found as `localhost`.
    let mut families: Vec<bool> = Vec::new();
    for address in &addresses {
        if !families.contains(&address.is_ipv4()) {
            families.push(address.is_ipv4());
        }
    }
    let mut last = Error::new(ErrorKind::Connect, format!("the host name `{}` has no address", place.host));
    for ipv4 in families {
        let local = if ipv4 { SocketAddr::from(([0; 4], 0)) } else { SocketAddr::from(([0_u16; 8], 0)) };
        match dial_from(options, place, local) {
            Ok(conn) => return Ok(conn),
            // Only a server that was never reached may be reachable in another way.
            Err(Refused::Unreached(error)) => last = error,
            Err(Refused::Final(error)) => return Err(error),
        }
    }
    Err(last)
}

enum Refused {
    Unreached(Error),
    Final(Error),
}

fn dial_from(options: &SourceOptions, place: &Place, local: SocketAddr) -> Result<Conn, Refused> {
    let ssl = ssl_options(options).map_err(Refused::Final)?;
    match dial_once(options, local, ssl) {
        Ok(conn) => Ok(conn),
        // A server that has no TLS says so before anything was sent. Only then `preferred` goes on without.
        Err(mysql::Error::DriverError(DriverError::TlsNotSupported)) if options.tls() == Tls::Preferred => {
            dial_once(options, local, None).map_err(|error| Refused::of(error, place, true))
        }
        Err(error) => Err(Refused::of(error, place, options.tls() == Tls::Off)),
    }
}

impl Refused {
    fn of(error: mysql::Error, place: &Place, plain: bool) -> Self {
        let unreached = matches!(&error, mysql::Error::DriverError(DriverError::CouldNotConnect(_) | DriverError::ConnectTimeout));
        let error = connect_error(error, place, plain);
        if unreached { Self::Unreached(error) } else { Self::Final(error) }
    }
}

fn dial_once(options: &SourceOptions, local: SocketAddr, ssl: Option<SslOpts>) -> mysql::Result<Conn> {
    let limit = options.connect_timeout();
    let builder = OptsBuilder::new()
        .ip_or_hostname(Some(options.host()))
        .tcp_port(options.port())
        .bind_address(Some(local))
        .user(options.user())
        .pass(options.password())
        .db_name(Some(options.database()))
        // A connection to this machine would otherwise go on over the server's Unix socket, past TLS and past vtgate.
        .prefer_socket(false)
        .tcp_connect_timeout(Some(limit))
        .read_timeout(Some(limit))
        .write_timeout(Some(options.read_timeout()))
        .tcp_keepalive_time_ms(Some(30_000))
        .max_allowed_packet(Some(MAX_PACKET))
        // A server may see a password in clear text only if it has proved that it is the one that was meant.
        .enable_cleartext_plugin(options.tls() == Tls::Verify)
        .ssl_opts(ssl);
    Conn::new(Opts::from(builder))
}

fn ssl_options(options: &SourceOptions) -> Result<Option<SslOpts>> {
    let verify = match options.tls() {
        Tls::Off => return Ok(None),
        Tls::Verify | Tls::VerifyIssuer => true,
        Tls::DangerSkipVerify | Tls::Preferred => false,
    };
    // The client library asks for the process's default provider, and panics where two are compiled in and none was chosen.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut ssl = SslOpts::default().with_danger_accept_invalid_certs(!verify);
    match options.tls_ca() {
        Some(file) => {
            check_readable("tls_ca", file)?;
            ssl = ssl.with_root_cert_path(Some(file.to_owned()));
        }
        // The client library knows the public authorities itself; the system's file adds those of the owner of the machine.
        None if verify => {
            if let Some(bundle) = system_roots() {
                ssl = ssl.with_root_cert_path(Some(bundle));
            }
        }
        None => {}
    }
    if let (Some(certificate), Some(key)) = (options.tls_cert(), options.tls_key()) {
        check_readable("tls_cert", certificate)?;
        check_readable("tls_key", key)?;
        let identity = mysql::ClientIdentity::new(Cow::from(certificate.to_owned()), Cow::from(key.to_owned()));
        ssl = ssl.with_client_identity(Some(identity));
    }
    Ok(Some(ssl))
}

fn check_readable(option: &str, file: &Path) -> Result<()> {
    match std::fs::read(file) {
        Ok(_) => Ok(()),
        Err(cause) => Err(Error::config(format!("`{option}` names a file that cannot be read: `{}`", file.display())).with_cause(cause)),
    }
}

/// The file in which the system keeps the authorities that it trusts: `SSL_CERT_FILE`, else where the common systems have it.
fn system_roots() -> Option<PathBuf> {
    const PLACES: [&str; 6] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
        "/usr/local/share/certs/ca-root-nss.crt",
    ];
    let chosen = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    chosen.into_iter().chain(PLACES.iter().map(PathBuf::from)).find(|path| path.is_file())
}

fn connect_error(error: mysql::Error, place: &Place, plain: bool) -> Error {
    use mysql::Error as E;
    match error {
        E::DriverError(DriverError::ConnectTimeout) => Error::new(ErrorKind::Timeout, format!("{place} does not answer")),
        E::DriverError(DriverError::CouldNotConnect(detail)) => {
            let (text, kind) = detail.map_or_else(|| (String::new(), io::ErrorKind::Other), |(_, text, kind)| (text, kind));
            match kind {
                io::ErrorKind::ConnectionRefused => {
                    Error::new(ErrorKind::Connect, format!("{place} refuses connections: no server listens there"))
                }
                _ => Error::new(ErrorKind::Connect, format!("{place} cannot be reached")).with_cause(text),
            }
        }
        E::DriverError(DriverError::TlsNotSupported) => {
            Error::new(ErrorKind::Tls, format!("{place} does not offer TLS; `tls=false` connects without"))
        }
        E::DriverError(DriverError::UnknownAuthPlugin(plugin)) => {
            Error::new(ErrorKind::Auth, format!("{place} wants the user to prove itself by `{plugin}`, which is not supported"))
        }
        E::DriverError(DriverError::CleartextPluginDisabled) => {
            Error::new(ErrorKind::Auth, format!("{place} wants the password in clear text, which is given only with `tls=true`"))
        }
        E::DriverError(DriverError::OldMysqlPasswordDisabled) => {
            Error::new(ErrorKind::Auth, format!("{place} wants the password in the form of MySQL 4.0, which is not supported"))
        }
        E::MySqlError(refusal) => refusal_error(&refusal, place, plain),
        E::TlsError(mysql::error::tls::TlsError::Tls(cause)) => tls_error(cause, place),
        E::TlsError(cause) => Error::new(ErrorKind::Tls, format!("TLS cannot be set up for {place}")).with_cause(cause),
        error => match io_cause(&error) {
            Some(cause) => match tls_cause(cause) {
                Some(tls) => tls_error(tls.clone(), place),
                None if is_timeout(cause) => {
                    Error::new(ErrorKind::Timeout, format!("{place} accepts connections but does not say that it is a MySQL server"))
                }
                None => Error::new(ErrorKind::Connect, format!("{place} closed the connection")).with_cause(cause.to_string()),
            },
            None => Error::protocol(format!("what listens at {place} does not speak MySQL's protocol")),
        },
    }
}

/// The failure of the socket below an error. The type between the two cannot be named.
fn io_cause(error: &mysql::Error) -> Option<&io::Error> {
    match error {
        mysql::Error::IoError(cause) => Some(cause),
        mysql::Error::CodecError(codec) => std::error::Error::source(codec)?.downcast_ref(),
        _ => None,
    }
}

fn is_timeout(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// What the server says when it refuses a connection. Its own text is left out; the number says as much.
fn refusal_error(refusal: &mysql::MySqlError, place: &Place, plain: bool) -> Error {
    let Place { user, database, .. } = place;
    let code = refusal.code;
    match code {
        1045 | 1698 => Error::new(ErrorKind::Auth, format!("{place} refuses user `{user}`: wrong user or password (error {code})")),
        1044 => Error::new(ErrorKind::Auth, format!("user `{user}` may not use database `{database}` at {place} (error {code})")),
        1129 | 1130 => Error::new(ErrorKind::Auth, format!("{place} refuses connections from this host (error {code})")),
        1049 => Error::new(ErrorKind::Schema, format!("{place} has no database `{database}` (error {code})")),
        1040 => Error::new(ErrorKind::Connect, format!("{place} has no connection left (error {code})")),
        3159 => Error::new(ErrorKind::Tls, format!("{place} demands TLS; set `tls=true` (error {code})")),
        // vtgate has one number for everything that has none of MySQL's.
        1105 if plain && refusal.message.contains("insecure") => {
            Error::new(ErrorKind::Tls, format!("{place} refuses the connection without TLS; set `tls=true` (error {code})"))
        }
        _ => Error::new(ErrorKind::Connect, format!("{place} refuses the connection with error {code} ({})", refusal.state)),
    }
}

fn tls_cause(cause: &io::Error) -> Option<&rustls::Error> {
    cause.get_ref().and_then(|inner| inner.downcast_ref())
}

fn tls_error(cause: rustls::Error, place: &Place) -> Error {
    use rustls::{AlertDescription, CertificateError};
    let host = &place.host;
    let message = match &cause {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            format!("the certificate of {place} is signed by an authority that is not trusted; `tls_ca` names a file with another one")
        }
        rustls::Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
            format!("the certificate of {place} is not for the host name `{host}`")
        }
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            format!("the certificate of {place} has expired")
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired | AlertDescription::BadCertificate) => {
            return Error::new(
                ErrorKind::Auth,
                format!("{place} demands a client certificate that it trusts; see `tls_cert` and `tls_key`"),
            )
            .with_cause(cause);
        }
        rustls::Error::InvalidMessage(_) => format!("{place} answers TLS with something else"),
        _ => format!("TLS with {place} fails"),
    };
    Error::new(ErrorKind::Tls, message).with_cause(cause)
}

/// What vtgate says where it is a tablet that fails, and not the statement: another attempt may find it back, or another one in its place.
/// These have one number with all else that has none in MySQL.
const TABLET_AWAY: &[&str] = &[
    "no healthy tablet available",
    "is either down or nonexistent",
    "is not serving",
    "NOT_SERVING",
    "SHUTTING_DOWN",
    "reparent operation in progress",
    "wrong tablet type",
    "connection refused",
    "code = Unavailable",
    "Code: UNAVAILABLE",
    "errno 2002",
    "errno 2003",
    "errno 2006",
    "errno 2013",
];

pub(crate) fn is_tablet_away(refusal: &mysql::MySqlError) -> bool {
    TABLET_AWAY.iter().any(|fragment| refusal.message.contains(fragment))
}

/// An error of a statement. The server's own text can quote values, so only its number is passed on.
pub(crate) fn query_error(error: mysql::Error, attempted: impl Into<String>) -> Error {
    let attempted = attempted.into();
    match error {
        mysql::Error::MySqlError(refusal) => {
            let code = refusal.code;
            if is_tablet_away(&refusal) {
                let message = format!("{attempted}: vtgate has no tablet that answers: error {code} ({})", refusal.state);
                return Error::new(ErrorKind::Connect, message);
            }
            let meaning = match code {
                1040 | 1203 => "the server has no connection left: ",
                1044 | 1142 | 1143 | 1227 | 1370 => "the user lacks a privilege: ",
                1046 => "no database is chosen: ",
                1049 => "the database does not exist: ",
                1054 => "a column does not exist any more: ",
                1053 | 1077 | 1079 => "the server is shutting down: ",
                1064 => "the server does not know the statement: ",
                1105 => "the server gives no number of its own: ",
                1146 => "the table does not exist any more: ",
                1205 | 3024 => "the server's time limit was reached: ",
                1290 => "an option of the server forbids it: ",
                1317 => "the server ended the statement: ",
                _ => "",
            };
            let kind = if matches!(code, 1040 | 1053 | 1077 | 1079 | 1203) { ErrorKind::Connect } else { ErrorKind::Source };
            Error::new(kind, format!("{attempted}: {meaning}error {code} ({})", refusal.state))
        }
        error => match io_cause(&error) {
            Some(cause) if is_timeout(cause) => {
                Error::new(ErrorKind::Timeout, format!("{attempted}: the server sent nothing within the limit of `read_timeout`"))
            }
            Some(cause) => Error::new(ErrorKind::Connect, format!("{attempted}: the connection broke")).with_cause(cause.to_string()),
            None => Error::protocol(format!("{attempted}: the server broke MySQL's protocol")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: u16, message: &str) -> Error {
        let refusal = mysql::MySqlError { state: "HY000".into(), code, message: message.into() };
        query_error(mysql::Error::MySqlError(refusal), "a statement failed")
    }

    #[test]
    fn a_tablet_that_is_away_may_come_back_and_what_the_server_quotes_is_not_passed_on() {
        for text in [
            "target: commerce.0.primary: no healthy tablet available for 'keyspace:\"commerce\" shard:\"0\" tablet_type:PRIMARY' hunter2",
            "target: commerce.0.primary: vttablet: rpc error: code = Unavailable desc = hunter2",
            "target: commerce.0.primary: primary is not serving, there may be a reparent operation in progress: hunter2",
        ] {
            let error = answered(1105, text);
            assert!(error.is_transient() && !format!("{error:?}").contains("hunter2"), "{error:?}");
            assert_eq!(error.to_string(), "a statement failed: vtgate has no tablet that answers: error 1105 (HY000)");
        }
        let error = answered(1105, "unsupported: hunter2");
        assert!(!error.is_transient() && !format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}
