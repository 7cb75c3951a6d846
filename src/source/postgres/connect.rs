//! Connections to PostgreSQL.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::message::{self, Complaint, Parts};
use crate::cancel::Cancel;
use crate::options::{SourceOptions, is_loopback};
use crate::source::patience::connect_within;
use crate::source::rows::Interrupt;
use crate::tls::{self, Names, Tls, TlsFiles};
use crate::{Error, ErrorKind, Result};

/// Bytes that are asked for at a time.
const CHUNK: usize = 256 << 10;

/// What a session needs: texts of dates, intervals and numbers in one form whatever the server's settings are, no limit on a long read, and an error
/// where a policy would leave rows out.
const SESSION: &str = "SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; SET extra_float_digits = 3; \
                       SET bytea_output = 'hex'; SET xmloption = 'content'; SET statement_timeout = 0; SET lock_timeout = 0; \
                       SET idle_in_transaction_session_timeout = 0; SET row_security = off; SET standard_conforming_strings = on; \
                       SET default_transaction_read_only = on";

/// A connection that is logged in.
pub(super) struct Connection {
    channel: Channel,
    socket: TcpStream,
    /// What came and was not taken yet.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    version: String,
    read_timeout: Duration,
}

enum Channel {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Channel {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(bytes),
            Self::Tls(stream) => stream.read(bytes),
        }
    }
}

impl Channel {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }
}

/// A message from the server; the body lies in the connection's buffer.
struct Message {
    tag: u8,
    start: usize,
    end: usize,
}

impl Connection {
    /// Connects and logs in, all within the options' connect time limit.
    pub(super) fn open(options: &SourceOptions, cancel: &Cancel) -> Result<Self> {
        let options = options.clone();
        let place = place(&options).to_string();
        let broken = format!("the login at {place} broke off");
        connect_within((options.connect_timeout(), cancel), (&place, &broken), move || Self::attempt(&options))
    }

    fn attempt(options: &SourceOptions) -> Result<Self> {
        let place = place(options);
        let socket = dial(options, &place)?;
        let refused = |cause| Error::new(ErrorKind::Connect, "the socket takes no time limit").with_cause(cause);
        let limit = Some(options.connect_timeout());
        socket.set_read_timeout(limit).and_then(|()| socket.set_write_timeout(limit)).map_err(refused)?;
        let _ = socket.set_nodelay(true);
        let channel = secure(socket.try_clone().map_err(refused)?, options, &place)?;
        let read_timeout = options.read_timeout();
        let mut connection = Self { channel, socket, buffer: vec![0; CHUNK], start: 0, end: 0, version: String::new(), read_timeout };
        connection.log_in(options, &place).map_err(|error| at(error, &place))?;
        let limit = Some(read_timeout);
        connection.socket.set_read_timeout(limit).and_then(|()| connection.socket.set_write_timeout(limit)).map_err(refused)?;
        connection.query(SESSION, "the session cannot be set up")?;
        Ok(connection)
    }

    /// What `server_version` says.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Ends what the connection waits for, from another thread.
    pub(super) fn interrupt(&self) -> Option<Interrupt> {
        let socket = self.socket.try_clone().ok()?;
        // Only the reading half: a server that waits for room to send learns of the end by what it sends after the close.
        Some(Box::new(move || drop(socket.shutdown(Shutdown::Read))))
    }

    fn log_in(&mut self, options: &SourceOptions, place: &str) -> Result<()> {
        let user = options.user().unwrap_or_default();
        let mut parameters = vec![
            ("user", user),
            ("database", options.database()),
            ("client_encoding", "UTF8"),
            ("application_name", options.application_name()),
        ];
        if let Some(settings) = options.session_options() {
            parameters.push(("options", settings));
        }
        self.send(&message::startup(&parameters))?;
        let password = options.password().unwrap_or_default();
        let mut scram = None;
        loop {
            let message = self.receive()?;
            let body = &self.buffer[message.start..message.end];
            match message.tag {
                b'R' => {
                    let mut parts = Parts(body);
                    let kind = parts.i32()?;
                    let needed = || match options.password() {
                        Some(_) => Ok(()),
                        None => Err(Error::new(ErrorKind::Auth, format!("{place} wants a password"))),
                    };
                    let answer = match kind {
                        0 | 12 => {
                            if let (12, Some(scram)) = (kind, &mut scram) {
                                finish(scram, parts.0, place)?;
                            }
                            continue;
                        }
                        3 => {
                            needed()?;
                            let is_verified = matches!(options.tls(), Tls::Verify | Tls::VerifyIssuer);
                            if !is_verified && !is_loopback(options.host()) {
                                let message =
                                    format!("{place} wants the password in clear text: set `sslmode=verify-full`, so that only it sees it");
                                return Err(Error::new(ErrorKind::Auth, message));
                            }
                            message::text(b'p', password)
                        }
                        5 => {
                            needed()?;
                            let salt = parts.bytes(4)?;
                            message::text(b'p', &md5_hash(user.as_bytes(), password.as_bytes(), [salt[0], salt[1], salt[2], salt[3]]))
                        }
                        10 => {
                            needed()?;
                            let mut mechanisms = std::iter::from_fn(|| parts.text().ok().filter(|name| !name.is_empty()));
                            if !mechanisms.any(|name| name == SCRAM_SHA_256) {
                                let message = format!("{place} offers no way to log in that is known here");
                                return Err(Error::new(ErrorKind::Unsupported, message));
                            }
                            let begun = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
                            let answer = message::sasl_initial(SCRAM_SHA_256, begun.message());
                            scram = Some(begun);
                            answer
                        }
                        11 => {
                            let Some(scram) = &mut scram else { return Err(Error::protocol("the login continues before it began")) };
                            // The cause could quote what the password was turned into.
                            scram.update(parts.0).map_err(|_| Error::protocol("the login's answer cannot be read"))?;
                            message::framed(b'p', scram.message())
                        }
                        _ => {
                            let message = format!("{place} wants another way to log in than with a password");
                            return Err(Error::new(ErrorKind::Unsupported, message));
                        }
                    };
                    self.send(&answer)?;
                }
                b'S' => {
                    let mut parts = Parts(body);
                    if parts.text()? == "server_version" {
                        self.version = parts.text()?.to_owned();
                    }
                }
                b'E' => return Err(Complaint::read(body).into_error(&format!("no login at {place}"))),
                b'Z' => return Ok(()),
                // Keys of cancellation, notices, and which version of the protocol is spoken.
                b'K' | b'N' | b'v' => {}
                _ => return Err(unexpected(message.tag)),
            }
        }
    }

    /// Runs statements; the rows of the last one that has some, as text.
    pub(super) fn query(&mut self, sql: &str, attempted: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.send(&message::text(b'Q', sql))?;
        let (mut rows, mut complaint) = (Vec::new(), None);
        loop {
            let message = self.receive()?;
            let body = &self.buffer[message.start..message.end];
            match message.tag {
                b'T' => rows.clear(),
                b'D' => rows.push(message::data_row(body)?),
                b'E' => {
                    let error = Complaint::read(body).into_error(attempted);
                    // After these nothing more comes.
                    if error.kind() == ErrorKind::Connect {
                        return Err(error);
                    }
                    complaint = Some(error);
                }
                b'Z' => return complaint.map_or(Ok(rows), Err),
                b'C' | b'N' | b'S' | b'I' | b'A' => {}
                _ => return Err(unexpected(message.tag)),
            }
        }
    }

    /// Begins to copy out what a statement says.
    pub(super) fn copy_out(&mut self, sql: &str, attempted: &str) -> Result<()> {
        self.send(&message::text(b'Q', sql))?;
        loop {
            let message = self.receive()?;
            let body = &self.buffer[message.start..message.end];
            match message.tag {
                b'H' => return Ok(()),
                b'E' => return Err(Complaint::read(body).into_error(attempted)),
                b'N' | b'S' | b'A' => {}
                _ => return Err(unexpected(message.tag)),
            }
        }
    }

    /// The next bytes of what is copied out; `None` once all are there.
    pub(super) fn copied(&mut self, attempted: &str) -> Result<Option<&[u8]>> {
        loop {
            let message = self.receive()?;
            match message.tag {
                b'd' => return Ok(Some(&self.buffer[message.start..message.end])),
                b'E' => return Err(Complaint::read(&self.buffer[message.start..message.end]).into_error(attempted)),
                // The copy is complete only when the statement is.
                b'Z' => return Ok(None),
                b'c' | b'C' | b'N' | b'S' | b'A' => {}
                _ => return Err(unexpected(message.tag)),
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.channel.send(bytes).map_err(|cause| self.broken(cause))
    }

    fn receive(&mut self) -> Result<Message> {
        let mut head = [0; 5];
        self.fill(head.len())?;
        head.copy_from_slice(&self.buffer[self.start..self.start + 5]);
        let (tag, length) = message::head(head)?;
        self.fill(5 + length)?;
        let start = self.start + 5;
        self.start = start + length;
        Ok(Message { tag, start, end: self.start })
    }

    /// Reads until so many bytes are there.
    fn fill(&mut self, wanted: usize) -> Result<()> {
        while self.end - self.start < wanted {
            if self.start > 0 && self.start + wanted.max(CHUNK / 2) > self.buffer.len() {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            if self.end == self.buffer.len() {
                // Grows with what comes, not with what a length promises.
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
            match self.channel.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(Error::new(ErrorKind::Connect, "the server closed the connection")),
                Ok(count) => self.end += count,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(self.broken(cause)),
            }
        }
        Ok(())
    }

    fn broken(&self, cause: io::Error) -> Error {
        match cause.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Error::new(ErrorKind::Timeout, format!("the server sent nothing for {:?} (`read_timeout`)", self.read_timeout))
            }
            _ => Error::new(ErrorKind::Connect, "the connection broke").with_cause(cause),
        }
    }
}

/// The server has to prove that it knows the password too.
fn finish(scram: &mut ScramSha256, body: &[u8], place: &str) -> Result<()> {
    scram.finish(body).map_err(|_| Error::new(ErrorKind::Auth, format!("{place} does not know the password that it asks for")))
}

fn unexpected(tag: u8) -> Error {
    Error::protocol(format!("the server sent a message `{}` that was not expected", tag.escape_ascii()))
}

/// Says where a connection failed.
fn at(error: Error, place: &str) -> Error {
    if error.to_string().contains(place) { error } else { Error::new(error.kind(), format!("no login at {place}")).with_cause(error) }
}

/// The server as errors name it.
fn place(options: &SourceOptions) -> String {
    match options.host().contains(':') {
        true => format!("`[{}]:{}`", options.host(), options.port()),
        false => format!("`{}:{}`", options.host(), options.port()),
    }
}

fn dial(options: &SourceOptions, place: &str) -> Result<TcpStream> {
    let addresses = (options.host(), options.port()).to_socket_addrs().map_err(|cause| {
        Error::new(ErrorKind::Connect, format!("the host name `{}` cannot be resolved", options.host())).with_cause(cause)
    })?;
    let mut last = Error::new(ErrorKind::Connect, format!("the host name `{}` has no address", options.host()));
    for address in addresses {
        match TcpStream::connect_timeout(&address, options.connect_timeout()) {
            Ok(socket) => return Ok(socket),
            Err(cause) => last = Error::new(ErrorKind::Connect, format!("{place} cannot be reached")).with_cause(cause),
        }
    }
    Err(last)
}

/// Agrees on TLS as the options say.
fn secure(mut socket: TcpStream, options: &SourceOptions, place: &str) -> Result<Channel> {
    let path = |file: Option<&Path>| file.map(Path::to_owned);
    let files = TlsFiles { ca: path(options.tls_ca()), cert: path(options.tls_cert()), key: path(options.tls_key()) };
    let Some(config) = tls::client_config(options.tls(), &files, &[], Names::SSL)? else { return Ok(Channel::Plain(socket)) };
    let broken =
        |cause| Error::new(ErrorKind::Connect, format!("{place} closed the connection, or is no PostgreSQL server")).with_cause(cause);
    let mut answer = [0];
    socket.write_all(&message::SSL_REQUEST).and_then(|()| socket.read_exact(&mut answer)).map_err(broken)?;
    match answer[0] {
        b'S' => {}
        b'N' if options.tls() == Tls::Preferred => return Ok(Channel::Plain(socket)),
        b'N' => return Err(Error::new(ErrorKind::Tls, format!("{place} offers no TLS: `sslmode=disable` goes without"))),
        _ => return Err(Error::protocol(format!("{place} is no PostgreSQL server"))),
    }
    let name = ServerName::try_from(options.host().to_owned())
        .map_err(|cause| Error::config(format!("`{}` cannot be the name in a certificate", options.host())).with_cause(cause))?;
    let server = place.trim_matches('`');
    let failed = |error| tls::explain(error, server, "sslmode", Names::SSL);
    let mut connection = ClientConnection::new(Arc::clone(&config), name).map_err(failed)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).map_err(|cause| {
            let explained = cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).cloned();
            explained.map_or_else(|| broken(cause), failed)
        })?;
    }
    Ok(Channel::Tls(Box::new(StreamOwned::new(connection, socket))))
}
