//! URIs, read into [`SourceOptions`] and [`SinkOptions`] through their setters.
//!
//! No error quotes a part of a URI but a parameter's name, and that only once it is certain that it is none of the password: whoever
//! writes a password with `/`, `?` or `#` in it unencoded moves a piece of it to where host, port or parameters are expected.

mod parameters;

use std::net::Ipv6Addr;

use self::parameters::{Parameters, Role, decode, parse_number, parse_port};
use crate::error::{Error, Result};
use crate::options::{
    CaptureMode, CaptureOptions, DuckDbOptions, EnumType, GrpcCredentials, MySqlOptions, SinkOptions, SourceOptions, SqliteOptions,
    TabletType, TimeType, Workload,
};
use crate::place::SqliteTypes;
use crate::tls::Tls;

impl SourceOptions {
    /// Reads a URI: `mysql://user:password@host:port/database` for tables, `mysql+cdc://…` for tables and their changes; `sqlite:///path.db` and
    /// `duckdb:///path.duckdb` for tables of a file, whose path is all that follows `://`, as in [`SinkOptions::from_uri`].
    ///
    /// The port is 3306 if left out. User, password, database and the parameters' values may be percent-encoded, and have to be where
    /// they contain `%`, `#`, `?`, `/`, `@`, `&` or, in the user, `:`. A `+` is a plus sign. Durations have a unit (`500ms`, `10s`, `2m`,
    /// `1h`); sizes are bytes or have one (`64MiB`; `KiB` and `GiB` too).
    ///
    /// | Parameter | Values | Default |
    /// | --- | --- | --- |
    /// | `tls` | `true` (or `verify`), `skip-verify`, `preferred`, `false` | `preferred`; `true` with `tls_ca` or `tls_cert` |
    /// | `tls_ca` | PEM file of the authorities to trust | the system's |
    /// | `tls_cert`, `tls_key` | PEM files of the client; both or neither | none |
    /// | `connect_timeout` | 1ms to 24h | `10s` |
    /// | `read_timeout` | 1ms to 24h | `5m` |
    /// | `retry_timeout` | 1ms to 24h | `2m` |
    ///
    /// Only for `mysql+cdc://`:
    ///
    /// | Parameter | Values | Default |
    /// | --- | --- | --- |
    /// | `grpc_port` | vtgate's gRPC port | none: has to be given |
    /// | `grpc_host` | host name or IP address | the host |
    /// | `grpc_tls` | `true`, `skip-verify`, `false` | as `tls`; for `preferred`: `false` on this machine, else `true` |
    /// | `grpc_credentials` | `protected`, `plaintext` (send the password unencrypted) | `protected` |
    /// | `mode` | `batch`, `stream` | `batch` |
    /// | `dest_schema` | schema of the destination | the destination's own |
    /// | `tablet_type` | `primary`, `replica`, `rdonly` | `primary` |
    /// | `cells` | names, with commas | vtgate's own |
    /// | `shards` | names, with commas | all |
    /// | `workload` | `olap`, `oltp` | `olap` |
    /// | `max_message_bytes` | 1MiB to 2147483647 | `64MiB` |
    /// | `no_progress_timeout` | 1ms to 24h | `5m` |
    ///
    /// `postgresql://` (or `postgres://`) takes the three time limits above, and:
    ///
    /// | Parameter | Values | Default |
    /// | --- | --- | --- |
    /// | `sslmode` | `disable`, `prefer`, `require`, `verify-ca`, `verify-full` | `prefer`; `verify-full` with `sslrootcert` or `sslcert` |
    /// | `sslrootcert` | PEM file of the authorities to trust | the system's |
    /// | `sslcert`, `sslkey` | PEM files of the client; both or neither | none |
    /// | `application_name` | what the server shows of the session | `planetscale-ingest` |
    /// | `options` | settings of the session, as in `-c search_path=sales` | none |
    /// | `schema` | whose tables are listed | those of `search_path` |
    /// | `interval_type` | `time`, `text` | `text` |
    ///
    /// Only for files:
    ///
    /// | Parameter | For | Values | Default |
    /// | --- | --- | --- | --- |
    /// | `busy_timeout` | `sqlite` | 1ms to 24h | `5s` |
    /// | `types` | `sqlite` | `declared`, `text` | `declared` |
    /// | `memory_limit` | `duckdb` | bytes, or with a unit as in `256MiB`; at least `1MiB` | `128MiB` |
    /// | `schema` | `duckdb` | whose tables are listed | `main` |
    /// | `interval_type` | `duckdb` | `time`, `text` | `time` |
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config): the URI cannot be read; a parameter is unknown, repeated, empty or out of range; parameters
    /// contradict each other. The text names the parameter and never holds the password, even if that is why the URI cannot be read.
    pub fn from_uri(uri: &str) -> Result<Self> {
        let (scheme, rest) = split_scheme(uri, SOURCES)?;
        let is_capture = match scheme {
            "mysql" | "postgresql" => false,
            "mysql+cdc" => true,
            "duckdb" | "sqlite" => return Self::from_file_uri(scheme, rest),
            _ => return Err(unknown_scheme(SOURCES)),
        };
        let (mut options, mut parameters) = Self::of_server(rest, Role::Source, scheme)?;
        if is_capture {
            options = options.with_capture(CaptureOptions::from_parameters(&mut parameters)?);
        }
        options.check()?;
        Ok(options)
    }

    /// Reads what follows `://`, but for the parameters that only one use of a server has.
    fn of_server(rest: &str, role: Role, scheme: &str) -> Result<(Self, Parameters)> {
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        // A password with one of these three in it ends the authority early, and the `@` that follows it is now here. From here on
        // nothing can be a piece of the password.
        if rest.contains('@') {
            return Err(Error::config(
                "the URI has an `@` after its host: in user and password write `/` as %2F, `?` as %3F, `#` as %23; elsewhere write `@` as %40",
            ));
        }
        let (path, query) = split_query(rest)?;

        let (login, address) = authority.rsplit_once('@').map_or((None, authority), |(login, address)| (Some(login), address));
        let (host, port) = split_address(address)?;
        let database = path.strip_prefix('/').unwrap_or_default();
        if database.contains('/') {
            return Err(Error::config("the database must not contain a `/`: write %2F if it is part of the name"));
        }
        let database = decode("the database", database)?;
        let is_postgres = scheme == "postgresql";
        let mut options = if is_postgres { Self::postgres(host, database) } else { Self::new(host, database) };
        if let Some(port) = port {
            options = options.with_port(port);
        }
        if let Some(login) = login {
            let (user, password) = login.split_once(':').map_or((login, ""), |(user, password)| (user, password));
            if !user.is_empty() {
                options = options.with_user(decode("the user", user)?);
            }
            if !password.is_empty() {
                options = options.with_password(decode("the password", password)?);
            }
        }

        let mut parameters = Parameters::parse(query, role, scheme)?;
        if is_postgres {
            options = options.with_postgres_parameters(&mut parameters)?;
        }
        if let Some(tls) = parameters.tls("tls", "`true`, `skip-verify`, `preferred` or `false`")? {
            options = options.with_tls(tls);
        }
        if let Some(file) = parameters.take("tls_ca") {
            options = options.with_tls_ca(file);
        }
        if let Some((certificate, key)) = parameters.certificate("tls_cert", "tls_key")? {
            options = options.with_client_certificate(certificate, key);
        }
        if let Some(timeout) = parameters.duration("connect_timeout")? {
            options = options.with_connect_timeout(timeout);
        }
        if let Some(timeout) = parameters.duration("read_timeout")? {
            options = options.with_read_timeout(timeout);
        }
        if let Some(timeout) = parameters.duration("retry_timeout")? {
            options = options.with_retry_timeout(timeout);
        }
        Ok((options, parameters))
    }
}

impl SourceOptions {
    /// What only PostgreSQL has, under the names that its own library has for it.
    fn with_postgres_parameters(mut self, parameters: &mut Parameters) -> Result<Self> {
        let modes = [
            ("disable", Tls::Off),
            ("prefer", Tls::Preferred),
            ("require", Tls::DangerSkipVerify),
            ("verify-ca", Tls::VerifyIssuer),
            ("verify-full", Tls::Verify),
        ];
        let mode = parameters.choice("sslmode", &modes)?;
        if let Some(file) = parameters.take("sslrootcert") {
            self = self.with_tls_ca(file);
        }
        self = match mode {
            // As PostgreSQL's own library does: whoever names an authority wants it looked at.
            Some(Tls::DangerSkipVerify) if self.tls_ca().is_some() => self.with_tls(Tls::VerifyIssuer),
            Some(mode) => self.with_tls(mode),
            None => self,
        };
        if let Some((certificate, key)) = parameters.certificate("sslcert", "sslkey")? {
            self = self.with_client_certificate(certificate, key);
        }
        if let Some(schema) = parameters.take("schema") {
            self = self.with_schema(schema);
        }
        if let Some(interval_type) = parameters.interval_type()? {
            self = self.with_interval_type(interval_type);
        }
        if let Some(name) = parameters.take("application_name") {
            self = self.with_application_name(name);
        }
        if let Some(options) = parameters.take("options") {
            self = self.with_session_options(options);
        }
        Ok(self)
    }

    fn from_file_uri(scheme: &'static str, rest: &str) -> Result<Self> {
        let (path, query) = split_query(rest)?;
        let path = decode("the source's path", path)?;
        let mut parameters = Parameters::parse(query, Role::Source, scheme)?;
        let mut options = if scheme == "duckdb" { Self::duckdb(path) } else { Self::sqlite(path) };
        if let Some(timeout) = parameters.duration("busy_timeout")? {
            options = options.with_busy_timeout(timeout);
        }
        if let Some(types) = parameters.choice("types", &[("declared", SqliteTypes::Declared), ("text", SqliteTypes::Text)])? {
            options = options.with_sqlite_types(types);
        }
        if let Some(bytes) = parameters.size("memory_limit")? {
            options = options.with_memory_limit_bytes(bytes);
        }
        if let Some(schema) = parameters.take("schema") {
            options = options.with_schema(schema);
        }
        if let Some(interval_type) = parameters.interval_type()? {
            options = options.with_interval_type(interval_type);
        }
        options.check()?;
        Ok(options)
    }
}

impl CaptureOptions {
    fn from_parameters(parameters: &mut Parameters) -> Result<Self> {
        let port = parameters.take("grpc_port").ok_or_else(|| {
            Error::config(
                "grpc_port is missing: change capture needs vtgate's gRPC port, which differs from the MySQL port and cannot be derived from it",
            )
        })?;
        let port = parse_port(&port).ok_or_else(|| Error::config("`grpc_port` must be a number from 1 to 65535"))?;
        let mut options = Self::new(port);
        if let Some(host) = parameters.take("grpc_host") {
            let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).filter(|host| is_ipv6(host));
            options = options.with_grpc_host(address.unwrap_or(&host));
        }
        if let Some(tls) = parameters.tls("grpc_tls", "`true`, `skip-verify` or `false`")? {
            options = options.with_grpc_tls(tls);
        }
        let credentials = [("protected", GrpcCredentials::Protected), ("plaintext", GrpcCredentials::DangerPlaintext)];
        if let Some(credentials) = parameters.choice("grpc_credentials", &credentials)? {
            options = options.with_grpc_credentials(credentials);
        }
        if let Some(mode) = parameters.choice("mode", &[("batch", CaptureMode::Batch), ("stream", CaptureMode::Stream)])? {
            options = options.with_mode(mode);
        }
        if let Some(schema) = parameters.take("dest_schema") {
            options = options.with_dest_schema(schema);
        }
        let tablets = [("primary", TabletType::Primary), ("replica", TabletType::Replica), ("rdonly", TabletType::Rdonly)];
        if let Some(tablet_type) = parameters.choice("tablet_type", &tablets)? {
            options = options.with_tablet_type(tablet_type);
        }
        if let Some(cells) = parameters.take("cells") {
            options = options.with_cells(cells.split(','));
        }
        if let Some(shards) = parameters.take("shards") {
            options = options.with_shards(shards.split(','));
        }
        if let Some(workload) = parameters.choice("workload", &[("olap", Workload::Olap), ("oltp", Workload::Oltp)])? {
            options = options.with_workload(workload);
        }
        if let Some(bytes) = parameters.size("max_message_bytes")? {
            options = options.with_max_message_bytes(bytes);
        }
        if let Some(timeout) = parameters.duration("no_progress_timeout")? {
            options = options.with_no_progress_timeout(timeout);
        }
        Ok(options)
    }
}

impl SinkOptions {
    /// Reads a URI: `duckdb://` or `sqlite://`, then the path of the database file; or `mysql://user:password@host:port/database`, as for a source.
    ///
    /// The path is all that follows `://`: `duckdb:///data/shop.duckdb` is `/data/shop.duckdb`, `duckdb://shop.duckdb` is `shop.duckdb` in
    /// the working directory, and `duckdb://:memory:` a database that ends with the connection. In it `%`, `?` and `#` have to be
    /// percent-encoded.
    ///
    /// | Parameter | For | Values | Default |
    /// | --- | --- | --- | --- |
    /// | `memory_limit` | `duckdb` | bytes, or with a unit as in `256MiB`; at least `1MiB` | `160MiB`; more for a run that captures over 128 tables: 384 KiB for each |
    /// | `threads` | `duckdb` | 1 to 1024 | one per core |
    /// | `time_type` | `duckdb` | `interval`, `text` | `interval` |
    /// | `enum_type` | `duckdb` | `varchar`, `enum` | `varchar` |
    /// | `busy_timeout` | `sqlite` | 1ms to 24h | `5s` |
    /// | `connections` | `mysql` | 1 to 16 that write side by side where order does not matter | 2 |
    ///
    /// `mysql://` also takes the parameters of a source: `tls`, `tls_ca`, `tls_cert`, `tls_key`, `connect_timeout`, `read_timeout`, `retry_timeout`.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config): the URI cannot be read; a parameter is unknown, repeated, empty or out of range. No text holds a
    /// password.
    pub fn from_uri(uri: &str) -> Result<Self> {
        let (scheme, rest) = split_scheme(uri, SINKS)?;
        match scheme {
            "duckdb" | "sqlite" => {}
            "mysql" => {
                let (server, mut parameters) = SourceOptions::of_server(rest, Role::Sink, scheme)?;
                let mut options = MySqlOptions::of_server(server);
                if let Some(connections) = parameters.take("connections") {
                    let connections = parse_number(&connections).and_then(|connections| u8::try_from(connections).ok());
                    let wrong = || Error::config("`connections` must be a number from 1 to 16");
                    options = options.with_connections(connections.ok_or_else(wrong)?);
                }
                let options = Self::from(options);
                options.check()?;
                return Ok(options);
            }
            "mysql+cdc" | "postgresql" => {
                return Err(Error::config(format!("`{scheme}://` is a source; the scheme of a destination is {SINKS}")));
            }
            _ => return Err(unknown_scheme(SINKS)),
        }
        let (path, query) = split_query(rest)?;
        let path = decode("the destination's path", path)?;
        let mut parameters = Parameters::parse(query, Role::Sink, scheme)?;
        let options = if scheme == "duckdb" {
            let mut options = DuckDbOptions::new(path);
            if let Some(bytes) = parameters.size("memory_limit")? {
                options = options.with_memory_limit_bytes(bytes);
            }
            if let Some(threads) = parameters.take("threads") {
                let threads = parse_number(&threads).and_then(|threads| u16::try_from(threads).ok());
                options = options.with_threads(threads.ok_or_else(|| Error::config("`threads` must be a number from 1 to 1024"))?);
            }
            if let Some(time_type) = parameters.choice("time_type", &[("interval", TimeType::Interval), ("text", TimeType::Text)])? {
                options = options.with_time_type(time_type);
            }
            if let Some(enum_type) = parameters.choice("enum_type", &[("varchar", EnumType::Varchar), ("enum", EnumType::Enum)])? {
                options = options.with_enum_type(enum_type);
            }
            Self::from(options)
        } else {
            let mut options = SqliteOptions::new(path);
            if let Some(timeout) = parameters.duration("busy_timeout")? {
                options = options.with_busy_timeout(timeout);
            }
            Self::from(options)
        };
        options.check()?;
        Ok(options)
    }
}

const SOURCES: &str = "`mysql://`, `mysql+cdc://`, `postgresql://`, `sqlite://` or `duckdb://`";
const SINKS: &str = "`duckdb://`, `sqlite://` or `mysql://`";

/// The scheme in lower case, `""` if it is none of ours, and what follows `://`.
fn split_scheme<'a>(uri: &'a str, expected: &str) -> Result<(&'static str, &'a str)> {
    let (scheme, rest) =
        uri.split_once("://").ok_or_else(|| Error::config(format!("this is not a URI: it has to begin with {expected}")))?;
    let scheme = if scheme.eq_ignore_ascii_case("postgres") { "postgresql" } else { scheme };
    let known = ["mysql", "mysql+cdc", "postgresql", "duckdb", "sqlite"].into_iter().find(|known| known.eq_ignore_ascii_case(scheme));
    Ok((known.unwrap_or_default(), rest))
}

fn unknown_scheme(expected: &str) -> Error {
    Error::config(format!("the URI's scheme is unknown: expected {expected}"))
}

/// The path, and what follows the first `?`.
fn split_query(rest: &str) -> Result<(&str, Option<&str>)> {
    if rest.contains('#') {
        return Err(Error::config("the URI has a `#`: write it as %23"));
    }
    Ok(rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query))))
}

/// Host and port; the host without the brackets of an IPv6 address.
fn split_address(address: &str) -> Result<(&str, Option<u16>)> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest
                .split_once(']')
                .filter(|(host, _)| is_ipv6(host))
                .ok_or_else(|| Error::config("after the host's `[` there has to be an IPv6 address, and then a `]`"))?;
            if port.is_empty() {
                (host, None)
            } else {
                let port =
                    port.strip_prefix(':').ok_or_else(|| Error::config("between the host's `]` and the port there has to be a `:`"))?;
                (host, Some(port))
            }
        }
        None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err(Error::config("the host is missing: `mysql://user:password@host:port/database`"));
    }
    // What stands here can be the beginning of a password, if the URI has no login and no `@`: not quoted.
    let port = port.map(|port| parse_port(port).ok_or_else(|| Error::config("the port must be a number from 1 to 65535"))).transpose()?;
    Ok((host, port))
}

fn is_ipv6(host: &str) -> bool {
    host.parse::<Ipv6Addr>().is_ok()
}

#[cfg(test)]
mod tests;
