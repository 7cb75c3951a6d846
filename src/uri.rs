//! URIs, read into [`SourceOptions`] and [`SinkOptions`] through their setters.
//!
//! No error quotes a part of a URI but a parameter's name, and that only once it is certain that it is none of the password: whoever
//! writes a password with `/`, `?` or `#` in it unencoded moves a piece of it to where host, port or parameters are expected.

use std::net::Ipv6Addr;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};
use crate::options::{
    CaptureMode, CaptureOptions, DuckDbOptions, EnumType, GrpcCredentials, MySqlOptions, SinkOptions, SourceOptions, SqliteOptions,
    TabletType, TimeType, Workload,
};
use crate::place::{IntervalType, SqliteTypes};
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

/// What a URI is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Source,
    Sink,
}

/// Every parameter of a source, and the schemes that take it.
const SOURCE_PARAMETERS: &[Known] = &[
    ("tls", &["mysql", "mysql+cdc"]),
    ("tls_ca", &["mysql", "mysql+cdc"]),
    ("tls_cert", &["mysql", "mysql+cdc"]),
    ("tls_key", &["mysql", "mysql+cdc"]),
    ("connect_timeout", &["mysql", "mysql+cdc", "postgresql"]),
    ("read_timeout", &["mysql", "mysql+cdc", "postgresql"]),
    ("retry_timeout", &["mysql", "mysql+cdc", "postgresql"]),
    ("grpc_port", &["mysql+cdc"]),
    ("grpc_host", &["mysql+cdc"]),
    ("grpc_tls", &["mysql+cdc"]),
    ("grpc_credentials", &["mysql+cdc"]),
    ("mode", &["mysql+cdc"]),
    ("dest_schema", &["mysql+cdc"]),
    ("tablet_type", &["mysql+cdc"]),
    ("cells", &["mysql+cdc"]),
    ("shards", &["mysql+cdc"]),
    ("workload", &["mysql+cdc"]),
    ("max_message_bytes", &["mysql+cdc"]),
    ("no_progress_timeout", &["mysql+cdc"]),
    ("sslmode", &["postgresql"]),
    ("sslrootcert", &["postgresql"]),
    ("sslcert", &["postgresql"]),
    ("sslkey", &["postgresql"]),
    ("application_name", &["postgresql"]),
    ("options", &["postgresql"]),
    ("schema", &["postgresql", "duckdb"]),
    ("interval_type", &["postgresql", "duckdb"]),
    ("memory_limit", &["duckdb"]),
    ("busy_timeout", &["sqlite"]),
    ("types", &["sqlite"]),
];

/// Every parameter of a destination, and the schemes that take it.
const SINK_PARAMETERS: &[Known] = &[
    ("tls", &["mysql"]),
    ("tls_ca", &["mysql"]),
    ("tls_cert", &["mysql"]),
    ("tls_key", &["mysql"]),
    ("connect_timeout", &["mysql"]),
    ("read_timeout", &["mysql"]),
    ("retry_timeout", &["mysql"]),
    ("memory_limit", &["duckdb"]),
    ("threads", &["duckdb"]),
    ("time_type", &["duckdb"]),
    ("enum_type", &["duckdb"]),
    ("busy_timeout", &["sqlite"]),
    ("connections", &["mysql"]),
];

type Known = (&'static str, &'static [&'static str]);

impl Role {
    fn parameters(self) -> &'static [Known] {
        match self {
            Self::Source => SOURCE_PARAMETERS,
            Self::Sink => SINK_PARAMETERS,
        }
    }
}

/// How other tools call what is meant, in lower case and without hyphens and underscores.
const FOREIGN: [(&str, &str); 19] = [
    ("sslmode", "tls"),
    ("usessl", "tls"),
    ("requiressl", "tls"),
    ("verifyservercertificate", "tls"),
    ("ssl", "tls"),
    ("sslaccept", "tls"),
    ("tlsmode", "tls"),
    ("sslca", "tls_ca"),
    ("sslcafile", "tls_ca"),
    ("sslrootcert", "tls_ca"),
    ("sslcert", "tls_cert"),
    ("sslkey", "tls_key"),
    ("timeout", "connect_timeout"),
    ("grpcssl", "grpc_tls"),
    ("shard", "shards"),
    ("cell", "cells"),
    ("schema", "dest_schema"),
    ("tablet", "tablet_type"),
    ("maxmessagesize", "max_message_bytes"),
];

/// A query's parameters, decoded; the known ones only, each at most once, none empty.
struct Parameters(Vec<(&'static str, String)>);

impl Parameters {
    fn parse(query: Option<&str>, role: Role, scheme: &str) -> Result<Self> {
        let mut parameters = Self(Vec::new());
        for pair in query.into_iter().flat_map(|query| query.split('&')) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = known(name, role, scheme)?;
            if parameters.0.iter().any(|(before, _)| *before == name) {
                return Err(Error::config(format!("`{name}` is given twice")));
            }
            if value.is_empty() {
                return Err(Error::config(format!("`{name}` has no value")));
            }
            parameters.0.push((name, decode(&format!("`{name}`"), value)?));
        }
        Ok(parameters)
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| *known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// With what the message offers, as not every connection can do all.
    fn tls(&mut self, name: &str, choices: &str) -> Result<Option<Tls>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        Tls::from_parameter(&value).map(Some).ok_or_else(|| Error::config(format!("`{name}` must be {choices}")))
    }

    /// The files of a certificate and of its key: both or neither.
    fn certificate(&mut self, certificate: &str, key: &str) -> Result<Option<(String, String)>> {
        match (self.take(certificate), self.take(key)) {
            (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
            (Some(_), None) => Err(Error::config(format!("`{certificate}` needs `{key}`, the file of its private key"))),
            (None, Some(_)) => Err(Error::config(format!("`{key}` needs `{certificate}`, the file of its certificate"))),
            (None, None) => Ok(None),
        }
    }

    fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match choices.iter().find(|(spelling, _)| *spelling == value) {
            Some((_, choice)) => Ok(Some(*choice)),
            None => {
                let spellings: Vec<_> = choices.iter().map(|(spelling, _)| format!("`{spelling}`")).collect();
                Err(Error::config(format!("`{name}` must be {}", alternatives(&spellings, "or"))))
            }
        }
    }

    fn duration(&mut self, name: &str) -> Result<Option<Duration>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        parse_duration(&value)
            .map(Some)
            .ok_or_else(|| Error::config(format!("`{name}` must be a number with a unit, as in `500ms`, `10s`, `2m` or `1h`")))
    }

    fn interval_type(&mut self) -> Result<Option<IntervalType>> {
        self.choice("interval_type", &[("time", IntervalType::Time), ("text", IntervalType::Text)])
    }

    fn size(&mut self, name: &str) -> Result<Option<u64>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        parse_size(&value)
            .map(Some)
            .ok_or_else(|| Error::config(format!("`{name}` must be a number of bytes, or of `KiB`, `MiB` or `GiB`, as in `64MiB`")))
    }
}

/// The parameter of this name, or an error with the way to the right one.
fn known(name: &str, role: Role, scheme: &str) -> Result<&'static str> {
    let parameters = role.parameters();
    let found = parameters.iter().find(|(known, _)| *known == name);
    if let Some((known, schemes)) = found
        && schemes.contains(&scheme)
    {
        return Ok(known);
    }
    let plain: String = name.chars().filter(|c| !matches!(c, '_' | '-')).map(|c| c.to_ascii_lowercase()).collect();
    let meant = FOREIGN
        .iter()
        .find_map(|(foreign, known)| (*foreign == plain).then_some(*known))
        .or_else(|| parameters.iter().find_map(|(known, _)| (known.replace('_', "") == plain).then_some(*known)))
        .filter(|meant| parameters.iter().any(|(known, schemes)| known == meant && schemes.contains(&scheme)));
    if let (Some((known, schemes)), None) = (found, meant) {
        let theirs: Vec<_> = schemes.iter().map(|scheme| format!("`{scheme}://`")).collect();
        let message = format!("`{known}` is a parameter of {}, not of `{scheme}://`", alternatives(&theirs, "and"));
        return Err(Error::config(format!("{message}; {}", list_of_known(role, scheme))));
    }
    if name.is_empty() {
        return Err(Error::config(format!("there is a parameter without a name; {}", list_of_known(role, scheme))));
    }
    let is_name = name.len() <= 40 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    let shown = if is_name { format!("unknown parameter `{name}`") } else { "an unknown parameter".into() };
    let hint = meant.map_or_else(String::new, |meant| format!(": it is called `{meant}` here"));
    Err(Error::config(format!("{shown}{hint}; {}", list_of_known(role, scheme))))
}

fn list_of_known(role: Role, scheme: &str) -> String {
    let parameters = role.parameters().iter().filter(|(_, schemes)| schemes.contains(&scheme));
    let known: Vec<_> = parameters.map(|(known, _)| format!("`{known}`")).collect();
    match known.as_slice() {
        [one] => format!("`{scheme}://` knows {one}"),
        known => format!("`{scheme}://` knows {}", alternatives(known, "and")),
    }
}

/// `a`, `b` or `c`.
fn alternatives(names: &[String], word: &str) -> String {
    match names {
        [first @ .., last] if !first.is_empty() => format!("{} {word} {last}", first.join(", ")),
        names => names.concat(),
    }
}

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

fn decode(what: &str, text: &str) -> Result<String> {
    let is_encoded = text.bytes().enumerate().filter(|(_, byte)| *byte == b'%').all(|(at, _)| {
        let digits = text.as_bytes().get(at + 1..at + 3);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if !is_encoded {
        return Err(Error::config(format!("{what} has a `%` without two hexadecimal digits after it: write `%` as %25")));
    }
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        // Not as the cause: what it says of the bytes is nothing to anyone, and the bytes may be a password's.
        Err(_) => Err(Error::config(format!("{what} is not UTF-8 once it is percent-decoded"))),
    }
}

fn parse_port(text: &str) -> Option<u16> {
    parse_number(text).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
}

/// Decimal digits only; `str::parse` alone would take a plus sign.
fn parse_number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let number = parse_number(number)?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(60 * 60).map(Duration::from_secs),
        _ => None,
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number = parse_number(number)?;
    match unit {
        "" => Some(number),
        "KiB" => number.checked_mul(1 << 10),
        "MiB" => number.checked_mul(1 << 20),
        "GiB" => number.checked_mul(1 << 30),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::ErrorKind;

    fn shop() -> SourceOptions {
        SourceOptions::new("h", "shop")
    }

    fn capture() -> CaptureOptions {
        CaptureOptions::new(15991)
    }

    #[test]
    fn mysql_uris_set_what_they_say() {
        let cases = [
            ("mysql://h/shop", shop()),
            ("MySQL://h/shop", shop()),
            ("mysql://h:3307/shop", shop().with_port(3307)),
            ("mysql://h:65535/shop", shop().with_port(65535)),
            ("mysql://@h/shop", shop()),
            ("mysql://u@h/shop", shop().with_user("u")),
            ("mysql://u:@h/shop", shop().with_user("u")),
            ("mysql://u:p@h/shop", shop().with_user("u").with_password("p")),
            ("mysql://u:p:q@h/shop", shop().with_user("u").with_password("p:q")),
            ("mysql://u:p@q@h/shop", shop().with_user("u").with_password("p@q")),
            ("mysql://u%3Av%40:p%40ss%3Aw%2Frd@h/shop", shop().with_user("u:v@").with_password("p@ss:w/rd")),
            ("mysql://u:a+b%2bc%25@h/shop", shop().with_user("u").with_password("a+b+c%")),
            ("mysql://%C3%BC:p\u{fc}@h/shop", shop().with_user("\u{fc}").with_password("p\u{fc}")),
            ("mysql://db-1.example_x/shop", SourceOptions::new("db-1.example_x", "shop")),
            ("mysql://127.0.0.1/shop", SourceOptions::new("127.0.0.1", "shop")),
            ("mysql://[::1]/shop", SourceOptions::new("::1", "shop")),
            ("mysql://u@[2001:db8::7]:3307/shop", SourceOptions::new("2001:db8::7", "shop").with_port(3307).with_user("u")),
            ("mysql://h/shop%2F1", SourceOptions::new("h", "shop/1")),
            ("mysql://h/ks:-80%40replica", SourceOptions::new("h", "ks:-80@replica")),
            ("mysql://h/shop?tls=true", shop().with_tls(Tls::Verify)),
            ("mysql://h/shop?tls=verify", shop().with_tls(Tls::Verify)),
            ("mysql://h/shop?tls=skip-verify", shop().with_tls(Tls::DangerSkipVerify)),
            ("mysql://h/shop?tls=preferred", shop().with_tls(Tls::Preferred)),
            ("mysql://h/shop?tls=false", shop().with_tls(Tls::Off)),
            ("mysql://h/shop?tls_ca=/etc/ca%20%26%201.pem", shop().with_tls_ca("/etc/ca & 1.pem")),
            ("mysql://h/shop?tls_key=k&tls_cert=c", shop().with_client_certificate("c", "k")),
            (
                "mysql://h/shop?tls=skip-verify&tls_key=k&tls_cert=c",
                shop().with_tls(Tls::DangerSkipVerify).with_client_certificate("c", "k"),
            ),
            ("mysql://h/shop?connect_timeout=500ms", shop().with_connect_timeout(Duration::from_millis(500))),
            ("mysql://h/shop?connect_timeout=2m", shop().with_connect_timeout(Duration::from_secs(120))),
            ("mysql://h/shop?connect_timeout=24h", shop().with_connect_timeout(Duration::from_secs(86_400))),
            ("mysql://h/shop?read_timeout=30s", shop().with_read_timeout(Duration::from_secs(30))),
            ("mysql://h/shop?retry_timeout=1ms", shop().with_retry_timeout(Duration::from_millis(1))),
        ];
        for (uri, expected) in cases {
            assert_eq!(SourceOptions::from_uri(uri).unwrap_or_else(|error| panic!("{uri}: {error}")), expected, "{uri}");
        }
    }

    #[test]
    fn postgres_uris_set_what_they_say() {
        let shop = || SourceOptions::postgres("h", "shop").with_user("u");
        let cases = [
            ("postgresql://u@h/shop", shop()),
            ("POSTGRES://u@h:5433/shop", shop().with_port(5433)),
            ("postgresql://u:p%40ss%3Aw%2Frd@h/shop?sslmode=disable", shop().with_password("p@ss:w/rd").with_tls(Tls::Off)),
            ("postgresql://u@h/shop?sslmode=prefer", shop().with_tls(Tls::Preferred)),
            ("postgresql://u@h/shop?sslmode=require", shop().with_tls(Tls::DangerSkipVerify)),
            ("postgresql://u@h/shop?sslmode=require&sslrootcert=ca.pem", shop().with_tls(Tls::VerifyIssuer).with_tls_ca("ca.pem")),
            ("postgresql://u@h/shop?sslmode=verify-ca&sslrootcert=ca.pem", shop().with_tls(Tls::VerifyIssuer).with_tls_ca("ca.pem")),
            (
                "postgresql://u@h/shop?sslmode=verify-full&sslcert=c&sslkey=k",
                shop().with_tls(Tls::Verify).with_client_certificate("c", "k"),
            ),
            ("postgresql://u@h/shop?schema=a&interval_type=time", shop().with_schema("a").with_interval_type(IntervalType::Time)),
            (
                "postgresql://u@h/shop?application_name=x&options=-c%20search_path%3Da,b",
                shop().with_application_name("x").with_session_options("-c search_path=a,b"),
            ),
            ("postgresql://u@h/shop?connect_timeout=3s", shop().with_connect_timeout(Duration::from_secs(3))),
        ];
        for (uri, expected) in cases {
            assert_eq!(SourceOptions::from_uri(uri).unwrap_or_else(|error| panic!("{uri}: {error}")), expected, "{uri}");
        }
        let default = SourceOptions::from_uri("postgresql://u@h/shop?sslrootcert=ca.pem").unwrap();
        assert_eq!(default.tls(), Tls::Verify);
        assert_eq!(SinkOptions::from_uri("postgres://u@h/shop").unwrap_err().kind(), ErrorKind::Config);
    }

    #[test]
    fn file_uris_set_what_they_say() {
        let cases = [
            ("sqlite:///data/shop.db", SourceOptions::sqlite("/data/shop.db")),
            ("SQLite://shop%3F.db", SourceOptions::sqlite("shop?.db")),
            (
                "sqlite://shop.db?busy_timeout=1m&types=text",
                SourceOptions::sqlite("shop.db").with_busy_timeout(Duration::from_secs(60)).with_sqlite_types(SqliteTypes::Text),
            ),
            ("duckdb:///data/shop.duckdb", SourceOptions::duckdb("/data/shop.duckdb")),
            (
                "duckdb://x?schema=a%20b&memory_limit=1GiB&interval_type=text",
                SourceOptions::duckdb("x").with_schema("a b").with_memory_limit_bytes(1 << 30).with_interval_type(IntervalType::Text),
            ),
        ];
        for (uri, expected) in cases {
            assert_eq!(SourceOptions::from_uri(uri).unwrap_or_else(|error| panic!("{uri}: {error}")), expected, "{uri}");
        }
        let wrong = SourceOptions::sqlite("x").with_schema("main").check().unwrap_err();
        assert!(wrong.to_string().contains("`schema` is set for a source that does not have it"), "{wrong}");
    }

    #[test]
    fn capture_uris_set_what_they_say() {
        let cases = [
            ("", capture()),
            ("&grpc_host=g.example", capture().with_grpc_host("g.example")),
            ("&grpc_host=[::1]", capture().with_grpc_host("::1")),
            ("&grpc_host=::1", capture().with_grpc_host("::1")),
            ("&grpc_tls=true", capture().with_grpc_tls(Tls::Verify)),
            ("&grpc_tls=skip-verify", capture().with_grpc_tls(Tls::DangerSkipVerify)),
            ("&grpc_tls=false", capture().with_grpc_tls(Tls::Off)),
            (
                "&grpc_tls=false&grpc_credentials=plaintext",
                capture().with_grpc_tls(Tls::Off).with_grpc_credentials(GrpcCredentials::DangerPlaintext),
            ),
            ("&grpc_credentials=protected", capture()),
            ("&mode=batch", capture()),
            ("&mode=stream", capture().with_mode(CaptureMode::Stream)),
            ("&dest_schema=raw%20shop", capture().with_dest_schema("raw shop")),
            ("&tablet_type=primary", capture()),
            ("&tablet_type=replica", capture().with_tablet_type(TabletType::Replica)),
            ("&tablet_type=rdonly", capture().with_tablet_type(TabletType::Rdonly)),
            ("&cells=zone1", capture().with_cells(["zone1"])),
            ("&cells=zone1,zone2", capture().with_cells(["zone1", "zone2"])),
            ("&shards=-80,80-", capture().with_shards(["-80", "80-"])),
            ("&workload=olap", capture()),
            ("&workload=oltp", capture().with_workload(Workload::Oltp)),
            ("&max_message_bytes=2000000", capture().with_max_message_bytes(2_000_000)),
            ("&max_message_bytes=1024KiB", capture().with_max_message_bytes(1 << 20)),
            ("&max_message_bytes=16MiB", capture().with_max_message_bytes(16 << 20)),
            ("&max_message_bytes=1GiB", capture().with_max_message_bytes(1 << 30)),
            ("&max_message_bytes=2147483647", capture().with_max_message_bytes(2_147_483_647)),
            ("&no_progress_timeout=90s", capture().with_no_progress_timeout(Duration::from_secs(90))),
        ];
        for (parameters, expected) in cases {
            let uri = format!("mysql+cdc://h/shop?grpc_port=15991{parameters}");
            let options = SourceOptions::from_uri(&uri).unwrap_or_else(|error| panic!("{uri}: {error}"));
            assert_eq!(options, shop().with_capture(expected), "{uri}");
        }
    }

    #[test]
    fn getters_return_what_was_set_and_the_documented_defaults() {
        let options = SourceOptions::from_uri("mysql+cdc://u:p@h/shop?grpc_port=15991").unwrap();
        assert_eq!((options.host(), options.port(), options.database()), ("h", 3306, "shop"));
        assert_eq!((options.user(), options.password()), (Some("u"), Some("p")));
        assert_eq!((options.tls(), options.grpc_tls(), options.grpc_host()), (Tls::Preferred, Some(Tls::Verify), Some("h")));
        assert_eq!((options.tls_ca(), options.tls_cert(), options.tls_key()), (None, None, None));
        assert_eq!(options.connect_timeout(), Duration::from_secs(10));
        assert_eq!((options.read_timeout(), options.retry_timeout()), (Duration::from_secs(300), Duration::from_secs(120)));
        let capture = options.capture().unwrap();
        assert_eq!((capture.grpc_port(), capture.grpc_credentials()), (15991, GrpcCredentials::Protected));
        assert_eq!((capture.mode(), capture.tablet_type(), capture.workload()), (CaptureMode::Batch, TabletType::Primary, Workload::Olap));
        assert_eq!((capture.dest_schema(), capture.cells().len(), capture.shards().len()), (None, 0, 0));
        assert_eq!((capture.max_message_bytes(), capture.no_progress_timeout()), (64 << 20, Duration::from_secs(300)));

        let tables = SourceOptions::from_uri("mysql://h/shop?tls_ca=a&tls_cert=b&tls_key=c").unwrap();
        assert_eq!(
            (tables.tls_ca(), tables.tls_cert(), tables.tls_key()),
            (Some(Path::new("a")), Some(Path::new("b")), Some(Path::new("c")))
        );
        assert_eq!((tables.tls(), tables.grpc_tls(), tables.grpc_host(), tables.capture()), (Tls::Verify, None, None, None));
    }

    #[test]
    fn grpc_is_secured_as_the_mysql_connection_unless_told_otherwise() {
        use Tls::{DangerSkipVerify, Off, Preferred, Verify};
        let cases = [
            ("h", "", Preferred, Verify),
            ("localhost", "", Preferred, Off),
            ("LocalHost", "", Preferred, Off),
            ("127.0.0.1", "", Preferred, Off),
            ("127.8.9.10", "", Preferred, Off),
            ("[::1]", "", Preferred, Off),
            ("[::ffff:127.0.0.1]", "", Preferred, Off),
            ("localhost.example", "", Preferred, Verify),
            ("128.0.0.1", "", Preferred, Verify),
            ("h", "&tls=preferred", Preferred, Verify),
            ("localhost", "&tls=preferred", Preferred, Off),
            ("localhost", "&tls=true", Verify, Verify),
            ("localhost", "&tls_ca=ca.pem", Verify, Verify),
            ("localhost", "&tls_cert=c&tls_key=k", Verify, Verify),
            ("h", "&tls=skip-verify", DangerSkipVerify, DangerSkipVerify),
            ("localhost", "&tls=false", Off, Off),
            ("h", "&tls=false&grpc_credentials=plaintext", Off, Off),
            ("h", "&tls=false&grpc_tls=true&tls_ca=ca.pem", Off, Verify),
            ("h", "&tls=preferred&tls_ca=ca.pem", Preferred, Verify),
            ("localhost", "&tls=true&grpc_tls=false&tls_ca=ca.pem", Verify, Off),
            // The host that counts is the one of the gRPC port.
            ("localhost", "&grpc_host=g.example", Preferred, Verify),
            ("h", "&grpc_host=127.0.0.1", Preferred, Off),
        ];
        for (host, parameters, tls, grpc_tls) in cases {
            let uri = format!("mysql+cdc://u:p@{host}/shop?grpc_port=15991{parameters}");
            let options = SourceOptions::from_uri(&uri).unwrap_or_else(|error| panic!("{uri}: {error}"));
            assert_eq!((options.tls(), options.grpc_tls()), (tls, Some(grpc_tls)), "{uri}");
        }
    }

    #[test]
    fn source_uris_that_are_wrong_say_what_is_wrong() {
        let cases = [
            ("", "not a URI"),
            ("h/shop", "not a URI: it has to begin with `mysql://`, `mysql+cdc://`, `postgresql://`, `sqlite://` or `duckdb://`"),
            ("mysql:/h/shop", "not a URI"),
            ("://h/shop", "scheme is unknown: expected `mysql://`, `mysql+cdc://`, `postgresql://`, `sqlite://` or `duckdb://`"),
            ("postgresq://h/shop", "scheme is unknown"),
            ("postgres://h/shop", "the user is missing"),
            ("postgresql://u@h", "the database is missing"),
            ("postgresql://u@h/shop?sslmode=allow", "`sslmode` must be `disable`, `prefer`, `require`, `verify-ca` or `verify-full`"),
            ("postgresql://u@h/shop?sslmode=prefer&sslrootcert=ca.pem", "`sslrootcert` contradicts `sslmode`"),
            ("postgresql://u@h/shop?sslmode=disable&sslcert=c&sslkey=k", "contradict `sslmode=disable`"),
            ("postgresql://u@h/shop?sslcert=c", "`sslcert` needs `sslkey`"),
            (
                "postgresql://u@h/shop?tls=true",
                "`tls` is a parameter of `mysql://` and `mysql+cdc://`, not of `postgresql://`; `postgresql://` knows",
            ),
            ("postgresql://u@h/shop?target_session_attrs=any", "unknown parameter `target_session_attrs`"),
            ("postgresql://u@h/shop?grpc_port=1", "`grpc_port` is a parameter of `mysql+cdc://`"),
            ("postgresql://u:p/w@h/shop", "`@` after its host"),
            ("mysql+cdcx://h/shop", "scheme is unknown"),
            ("duckdb://", "the source's path is missing"),
            ("duckdb:///folder/", "must name a file"),
            ("sqlite://:memory:", "`:memory:` is empty"),
            ("sqlite:///x.db?threads=1", "unknown parameter `threads`; `sqlite://` knows `busy_timeout` and `types`"),
            ("sqlite:///x.db?types=strict", "`types` must be `declared` or `text`"),
            ("sqlite:///x.db?busy_timeout=25h", "`busy_timeout` must be from 1ms to 24h"),
            ("sqlite:///x.db?schema=main", "`schema` is a parameter of `postgresql://` and `duckdb://`, not of `sqlite://`"),
            ("duckdb:///x.duckdb?memory_limit=1KiB", "`memory_limit` must be at least 1MiB"),
            ("duckdb:///x.duckdb?interval_type=varchar", "`interval_type` must be `time` or `text`"),
            ("mysql://", "host is missing"),
            ("mysql:///shop", "host is missing"),
            ("mysql://:3306/shop", "host is missing"),
            ("mysql://u:p@/shop", "host is missing"),
            ("mysql://h", "database is missing"),
            ("mysql://h/", "database is missing"),
            ("mysql://h?tls=true", "database is missing"),
            ("mysql://h/shop/", "must not contain a `/`"),
            ("mysql://h/shop/orders", "must not contain a `/`"),
            ("mysql://h/shop%00", "must not contain a NUL"),
            ("mysql://u%00@h/shop", "must not contain a NUL"),
            ("mysql://h/sh%op", "the database has a `%`"),
            ("mysql://u%:p@h/shop", "the user has a `%`"),
            ("mysql://u:p%4@h/shop", "the password has a `%`"),
            ("mysql://u:p%zz@h/shop", "the password has a `%`"),
            ("mysql://u:p%ff@h/shop", "the password is not UTF-8"),
            ("mysql://:p@h/shop", "a password, but no user"),
            ("mysql://h:/shop", "port must be"),
            ("mysql://h:0/shop", "port must be"),
            ("mysql://h:70000/shop", "port must be a number from 1 to 65535"),
            ("mysql://h:+1/shop", "port must be"),
            ("mysql://h:mysql/shop", "port must be"),
            ("mysql://2001:db8::7/shop", "port must be"),
            ("mysql://[::1/shop", "IPv6"),
            ("mysql://[h]/shop", "IPv6"),
            ("mysql://[::1]x/shop", "has to be a `:`"),
            ("mysql://[::1]:x/shop", "port must be"),
            ("mysql://h h/shop", "host name or an IP address"),
            ("mysql://-h/shop", "host name or an IP address"),
            ("mysql://h%41/shop", "host name or an IP address"),
            ("mysql://h\u{fc}/shop", "host name or an IP address"),
            ("mysql://h/shop#x", "has a `#`"),
            ("mysql://u:p/w@h/shop", "`@` after its host"),
            ("mysql://h/ks@replica", "`@` after its host"),
            ("mysql://h/shop?", "parameter without a name"),
            ("mysql://h/shop?tls=true&", "parameter without a name"),
            ("mysql://h/shop?=true", "parameter without a name"),
            ("mysql://h/shop?tls", "`tls` has no value"),
            ("mysql://h/shop?tls=", "`tls` has no value"),
            ("mysql://h/shop?tls_ca=%", "`tls_ca` has a `%`"),
            ("mysql://h/shop?tls=true&tls=true", "`tls` is given twice"),
            ("mysql://h/shop?tls=yes", "`tls` must be `true`, `skip-verify`, `preferred` or `false`"),
            ("mysql://h/shop?TLS=true", "it is called `tls` here"),
            ("mysql://h/shop?sslmode=require", "unknown parameter `sslmode`: it is called `tls` here"),
            ("mysql://h/shop?ssl-mode=REQUIRED", "unknown parameter `ssl-mode`: it is called `tls` here"),
            ("mysql://h/shop?useSSL=true", "unknown parameter `useSSL`: it is called `tls` here"),
            ("mysql://h/shop?sslrootcert=x", "it is called `tls_ca` here"),
            ("mysql://h/shop?ssl_ca=x", "it is called `tls_ca` here"),
            ("mysql://h/shop?connectTimeout=10", "it is called `connect_timeout` here"),
            ("mysql://h/shop?shard=0", "unknown parameter `shard`; `mysql://` knows"),
            (
                "mysql://h/shop?colour=red",
                "unknown parameter `colour`; `mysql://` knows `tls`, `tls_ca`, `tls_cert`, `tls_key`, `connect_timeout`, `read_timeout` and \
                 `retry_timeout`",
            ),
            ("mysql://h/shop?co%20lour=red", "an unknown parameter; "),
            ("mysql://h/shop?grpc_port=15991", "`grpc_port` is a parameter of `mysql+cdc://`, not of `mysql://`"),
            ("mysql://h/shop?mode=batch", "`mode` is a parameter of `mysql+cdc://`"),
            ("mysql://h/shop?threads=1", "unknown parameter `threads`"),
            ("mysql://h/shop?tls=false&tls_ca=x", "`tls_ca` contradicts `tls`"),
            ("mysql://h/shop?tls=preferred&tls_ca=x", "`tls_ca` contradicts `tls`"),
            ("mysql://h/shop?tls=skip-verify&tls_ca=x", "`tls_ca` contradicts `tls`"),
            ("mysql://h/shop?tls=false&tls_cert=x&tls_key=y", "contradict `tls=false`"),
            ("mysql://h/shop?tls_cert=x", "`tls_cert` needs `tls_key`"),
            ("mysql://h/shop?tls_key=x", "`tls_key` needs `tls_cert`"),
            ("mysql://h/shop?connect_timeout=10", "a number with a unit"),
            ("mysql://h/shop?connect_timeout=s", "a number with a unit"),
            ("mysql://h/shop?connect_timeout=-1s", "a number with a unit"),
            ("mysql://h/shop?connect_timeout=1.5s", "a number with a unit"),
            ("mysql://h/shop?connect_timeout=10sec", "a number with a unit"),
            ("mysql://h/shop?connect_timeout=99999999999999999999s", "a number with a unit"),
            ("mysql://h/shop?connect_timeout=18446744073709551615h", "a number with a unit"),
            ("mysql://h/shop?connect_timeout=0s", "from 1ms to 24h"),
            ("mysql://h/shop?connect_timeout=18446744073709551615s", "from 1ms to 24h"),
            ("mysql://h/shop?read_timeout=25h", "`read_timeout` must be from 1ms to 24h"),
            ("mysql://h/shop?retry_timeout=0s", "`retry_timeout` must be from 1ms to 24h"),
            ("mysql+cdc://h/shop", "grpc_port is missing: change capture needs vtgate's gRPC port, which differs from the MySQL port"),
            ("mysql+cdc://h/shop?mode=stream", "grpc_port is missing"),
        ];
        for (uri, fragment) in cases {
            let error = SourceOptions::from_uri(uri).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{uri}");
            assert!(error.to_string().contains(fragment), "{uri}: {error}");
        }
    }

    #[test]
    fn capture_parameters_that_are_wrong_say_what_is_wrong() {
        let cases = [
            ("grpc_port=0", "`grpc_port` must be a number from 1 to 65535"),
            ("grpc_port=65536", "`grpc_port` must be"),
            ("grpc_port=x", "`grpc_port` must be"),
            ("grpc_port=1&grpc_port=1", "`grpc_port` is given twice"),
            ("grpc_port=1&grpc_host=a%20b", "`grpc_host` must be a host name"),
            ("grpc_port=1&grpc_host=[h]", "`grpc_host` must be a host name"),
            ("grpc_port=1&grpc_tls=preferred", "nothing can be preferred"),
            ("grpc_port=1&grpc_tls=on", "`grpc_tls` must be `true`, `skip-verify` or `false`"),
            ("grpc_port=1&grpc_credentials=none", "`grpc_credentials` must be `protected` or `plaintext`"),
            ("grpc_port=1&grpc_credentials=plaintext", "contradicts `grpc_tls`"),
            ("grpc_port=1&grpc_credentials=plaintext&grpc_tls=true", "contradicts `grpc_tls`"),
            ("grpc_port=1&grpc_tls=false", "would cross the network unencrypted"),
            ("grpc_port=1&tls=false", "would cross the network unencrypted"),
            ("grpc_port=1&mode=once", "`mode` must be `batch` or `stream`"),
            ("grpc_port=1&tablet_type=master", "`tablet_type` must be `primary`, `replica` or `rdonly`"),
            ("grpc_port=1&workload=dba", "`workload` must be `olap` or `oltp`"),
            ("grpc_port=1&shards=-80,,80-", "`shards` has an empty or malformed entry"),
            ("grpc_port=1&shards=,", "`shards` has an empty"),
            ("grpc_port=1&shards=0,0", "`shards` names one of its entries twice"),
            ("grpc_port=1&cells=a,", "`cells` has an empty"),
            ("grpc_port=1&dest_schema=%00", "`dest_schema` must not contain a NUL"),
            ("grpc_port=1&max_message_bytes=1", "`max_message_bytes` must be from 1MiB"),
            ("grpc_port=1&max_message_bytes=2GiB", "`max_message_bytes` must be from 1MiB to 2147483647"),
            ("grpc_port=1&max_message_bytes=64MB", "`KiB`, `MiB` or `GiB`"),
            ("grpc_port=1&max_message_bytes=18446744073709551615KiB", "`KiB`, `MiB` or `GiB`"),
            ("grpc_port=1&max_message_bytes=MiB", "`KiB`, `MiB` or `GiB`"),
            ("grpc_port=1&no_progress_timeout=25h", "`no_progress_timeout` must be from 1ms to 24h"),
            ("grpc_port=1&grpc-port=1", "it is called `grpc_port` here"),
            ("grpc_port=1&busy_timeout=1s", "`busy_timeout` is a parameter of `sqlite://`, not of `mysql+cdc://`"),
            ("grpc_port=1&tls=false&grpc_tls=skip-verify&tls_ca=x", "`tls_ca` contradicts"),
        ];
        for (parameters, fragment) in cases {
            let error = SourceOptions::from_uri(&format!("mysql+cdc://u:p@h/shop?{parameters}")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{parameters}");
            assert!(error.to_string().contains(fragment), "{parameters}: {error}");
        }
        for database in ["shop%40replica", "shop:-80", "shop%2F0"] {
            let error = SourceOptions::from_uri(&format!("mysql+cdc://h/{database}?grpc_port=1")).unwrap_err();
            assert!(error.to_string().contains("keyspace alone"), "{database}: {error}");
        }
    }

    #[test]
    fn sink_uris_set_what_they_say() {
        let duckdb = |path| DuckDbOptions::new(path);
        let sqlite = |path| SqliteOptions::new(path);
        let cases: [(&str, SinkOptions); 13] = [
            ("duckdb:///data/shop.duckdb", duckdb("/data/shop.duckdb").into()),
            ("duckdb://shop.duckdb", duckdb("shop.duckdb").into()),
            ("DuckDB://data/shop.duckdb", duckdb("data/shop.duckdb").into()),
            ("duckdb://:memory:", DuckDbOptions::default().into()),
            ("duckdb:///a%20b%3Fc%23d%25", duckdb("/a b?c#d%").into()),
            ("duckdb:///a@b", duckdb("/a@b").into()),
            ("duckdb:///x?memory_limit=256MiB&threads=2", duckdb("/x").with_memory_limit_bytes(256 << 20).with_threads(2).into()),
            (
                "duckdb:///x?time_type=text&enum_type=enum",
                duckdb("/x").with_time_type(TimeType::Text).with_enum_type(EnumType::Enum).into(),
            ),
            ("duckdb:///x?time_type=interval&enum_type=varchar", duckdb("/x").into()),
            ("sqlite:///data/shop.db", sqlite("/data/shop.db").into()),
            ("sqlite://shop.db", sqlite("shop.db").into()),
            ("sqlite://:memory:", SqliteOptions::default().into()),
            ("sqlite:///x?busy_timeout=250ms", sqlite("/x").with_busy_timeout(Duration::from_millis(250)).into()),
        ];
        for (uri, expected) in cases {
            assert_eq!(SinkOptions::from_uri(uri).unwrap_or_else(|error| panic!("{uri}: {error}")), expected, "{uri}");
        }
        let defaults = (duckdb("x").memory_limit_bytes(), duckdb("x").threads(), sqlite("x").busy_timeout());
        assert_eq!(defaults, (None, None, Duration::from_secs(5)));
        assert_eq!((duckdb("x").path(), sqlite("y").path()), (Path::new("x"), Path::new("y")));
    }

    #[test]
    fn sink_uris_that_are_wrong_say_what_is_wrong() {
        let cases = [
            ("", "not a URI: it has to begin with `duckdb://`, `sqlite://` or `mysql://`"),
            ("/data/shop.duckdb", "not a URI"),
            ("duckdb:/data/shop.duckdb", "not a URI"),
            ("file:///x", "scheme is unknown: expected `duckdb://`, `sqlite://` or `mysql://`"),
            ("mysql+cdc://h/shop?grpc_port=1", "`mysql+cdc://` is a source"),
            ("duckdb://", "path is missing"),
            ("duckdb://?threads=1", "path is missing"),
            ("duckdb:///", "must name a file"),
            ("sqlite://data/", "must name a file"),
            ("sqlite://a%00b", "NUL"),
            ("duckdb:///a%2", "path has a `%`"),
            ("duckdb:///a%ff", "not UTF-8"),
            ("duckdb:///a#b", "has a `#`"),
            ("duckdb:///x?threads=0", "`threads` must be a number from 1 to 1024"),
            ("duckdb:///x?threads=1025", "`threads` must be"),
            ("duckdb:///x?threads=99999", "`threads` must be"),
            ("duckdb:///x?threads=two", "`threads` must be"),
            ("duckdb:///x?time_type=TIME", "`time_type` must be `interval` or `text`"),
            ("duckdb:///x?enum_type=int", "`enum_type` must be `varchar` or `enum`"),
            ("duckdb:///x?memory_limit=1", "at least 1MiB"),
            ("duckdb:///x?memory_limit=1GB", "as in `64MiB`"),
            ("duckdb:///x?busy_timeout=1s", "`busy_timeout` is a parameter of `sqlite://`, not of `duckdb://`"),
            ("duckdb:///x?memory-limit=1GiB", "it is called `memory_limit` here"),
            (
                "duckdb:///x?access_mode=read",
                "unknown parameter `access_mode`; `duckdb://` knows `memory_limit`, `threads`, `time_type` and `enum_type`",
            ),
            ("sqlite:///x?threads=1", "`threads` is a parameter of `duckdb://`, not of `sqlite://`; `sqlite://` knows `busy_timeout`"),
            ("sqlite:///x?busy_timeout=0s", "`busy_timeout` must be from 1ms to 24h"),
            ("sqlite:///x?busy_timeout=1s&busy_timeout=1s", "`busy_timeout` is given twice"),
        ];
        for (uri, fragment) in cases {
            let error = SinkOptions::from_uri(uri).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{uri}");
            assert!(error.to_string().contains(fragment), "{uri}: {error}");
        }
    }

    #[test]
    fn a_mysql_destination_takes_what_a_source_does_and_its_own() {
        let options = |uri: &str| SinkOptions::from_uri(uri);
        let expected = MySqlOptions::new("h", "shop").with_port(3307).with_user("u").with_password("p@").with_tls(Tls::Verify);
        assert_eq!(options("mysql://u:p%40@h:3307/shop?tls=true&connections=4").unwrap(), expected.with_connections(4).into());
        for (uri, fragment) in [
            ("mysql://h/shop?connections=0", "`connections` must be a number from 1 to 16"),
            ("mysql://h/shop?connections=17", "`connections` must be a number from 1 to 16"),
            ("mysql://h/shop?threads=1", "`threads` is a parameter of `duckdb://`, not of `mysql://`"),
            ("mysql://h/shop?grpc_port=1", "unknown parameter `grpc_port`"),
            ("mysql://h/", "the database is missing"),
            ("mysql://h:0/shop", "the port"),
        ] {
            let error = options(uri).unwrap_err();
            assert!(error.kind() == ErrorKind::Config && error.to_string().contains(fragment), "{uri}: {error}");
        }
        let error = SourceOptions::from_uri("mysql://h/shop?connections=2").unwrap_err();
        assert!(error.to_string().contains("unknown parameter `connections`"), "{error}");
    }

    /// Every character with a meaning in URIs, around words that stand in no message.
    const PASSWORD: &str = "zqxa:zqxb/zqxc?zqxd#zqxe[zqxf]zqxg@zqxh!zqxi$zqxj&zqxk'zqxl(zqxm)zqxn*zqxo+zqxp,zqxq;zqxr=zqxs%zqxt zqxu";

    fn assert_hidden(uri: &str) {
        let shown = match SourceOptions::from_uri(uri) {
            Ok(options) => format!("{options:?} {options:#?}"),
            Err(error) => format!("{error} {error:?} {error:#}"),
        };
        let shown = match SinkOptions::from_uri(uri) {
            Ok(options) => format!("{shown} {options:?}"),
            Err(error) => format!("{shown} {error} {error:?} {error:#}"),
        };
        assert!(!shown.contains("zqx"), "{uri}: {shown}");
    }

    fn encoded(password: &str) -> String {
        percent_encoding::utf8_percent_encode(password, percent_encoding::NON_ALPHANUMERIC).to_string()
    }

    #[test]
    fn a_password_of_metacharacters_arrives_whole() {
        let uri = format!("mysql://u:{}@h/shop", encoded(PASSWORD));
        let options = SourceOptions::from_uri(&uri).unwrap();
        assert_eq!(options.password(), Some(PASSWORD));
        assert!(format!("{options:?}").contains("password: Some(_)"));
        assert_hidden(&uri);
    }

    #[test]
    fn no_error_shows_a_password_however_it_breaks_the_uri() {
        let mut passwords = vec![PASSWORD.to_owned(), encoded(PASSWORD)];
        // Each character alone, in the middle and at the ends: each moves another piece of the password to another place.
        for c in ":/?#[]@!$&'()*+,;=% \"<>\\^`{|}~\0\n".chars() {
            for password in [
                format!("zqxa{c}zqxb"),
                format!("{c}zqxa"),
                format!("zqxa{c}"),
                format!("7{c}zqxa=zqxb{c}zqxc=1"),
                format!("1/x?zqxa{c}=1"),
            ] {
                passwords.push(password);
            }
        }
        for password in &passwords {
            for scheme in ["mysql", "mysql+cdc", "postgres", ""] {
                for tail in
                    ["@h/shop", "@h:3306/shop?tls=true", "@h:bad/shop", "@h", "@h/shop?zq=1", "@/shop", "@h/shop?grpc_port=1&tls=false"]
                {
                    assert_hidden(&format!("{scheme}://u:{password}{tail}"));
                }
                assert_hidden(&format!("{scheme}:u:{password}@h/shop"));
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(uri in "((mysql(\\+cdc)?|duckdb|sqlite)://)?\\PC{0,60}") {
            let _ = (SourceOptions::from_uri(&uri), SinkOptions::from_uri(&uri));
        }

        #[test]
        fn nothing_like_a_uri_panics(
            uri in "(mysql|mysql\\+cdc|duckdb|sqlite)://([a-z%:@]{0,6}@)?[a-z0-9:.\\[\\]]{0,8}(/[a-z%0-9]{0,4})?(\\?(tls|grpc_port|shards|mode|threads|connect_timeout|max_message_bytes|=|&|[0-9a-zA-Z%]){0,9})?"
        ) {
            let _ = (SourceOptions::from_uri(&uri), SinkOptions::from_uri(&uri));
        }

        #[test]
        fn passwords_are_never_shown(parts in prop::collection::vec("[:/?#@&=%\\[\\] +]{0,2}zqx[a-z]", 1..5), tail in "(@h(:[0-9x]{1,2})?(/shop)?(\\?tls=[a-z]{1,5})?)?") {
            let password = parts.concat();
            // Without an `@` there is no password, only an address.
            prop_assume!(tail.contains('@'));
            assert_hidden(&format!("mysql://u:{password}{tail}"));
            assert_hidden(&format!("mysql+cdc://u:{password}{tail}"));
            assert_hidden(&format!("mysql://u:{}{tail}", encoded(&password)));
        }

        #[test]
        fn any_login_arrives_whole(user in "[^\\x00]{1,12}", password in ".{1,12}", database in "[^\\x00]{1,12}") {
            let uri = format!("mysql://{}:{}@h/{}", encoded(&user), encoded(&password), encoded(&database));
            let options = SourceOptions::from_uri(&uri).unwrap();
            prop_assert_eq!(options, SourceOptions::new("h", database).with_user(user).with_password(password));
        }
    }
}
