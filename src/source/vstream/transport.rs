//! The connection to vtgate's gRPC port, and blocking calls over it.
//!
//! grpc core has no TLS library built in: it works on one end of a socket pair, and the [pump](super::pump) moves bytes between the other end and
//! the server, through rustls where TLS is wanted. A channel lives as long as its connection; it never connects again by itself, so that what
//! comes after a failure is decided above.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, Once, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_core::Stream as _;
use grpcio::{
    CallOption, ChannelBuilder, Client, ClientSStreamReceiver, EnvBuilder, GrpcSlice, Marshaller, MessageReader, Metadata, MetadataBuilder,
    Method, MethodType,
};
#[cfg(test)]
use protobuf::Message as _;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::proto::VStreamRequest;
#[cfg(test)]
use super::proto::VStreamResponse;
use super::pump::{End, Greeting, Pump};
use super::{handover, status};
use crate::cancel::{Cancel, TICK};
use crate::tls::{self, Tls, TlsFiles};
use crate::{Error, ErrorKind, Result};

/// Where vtgate's gRPC port is, how to reach it and who asks.
#[derive(Clone)]
pub(crate) struct Endpoint {
    /// A name or an address; an IPv6 address may stand in brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// [`Tls::Preferred`] is refused: gRPC cannot ask a server whether it speaks TLS.
    pub(crate) tls: Tls,
    pub(crate) tls_files: TlsFiles,
    /// Sent as `authorization: Basic` (PlanetScale) and as `username` and `password` (vtgate's static authentication).
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    /// For all of name resolution, TCP, TLS and the server's first answer.
    pub(crate) connect_timeout: Duration,
    /// A message above this ends the stream with [`ErrorKind::Limit`].
    pub(crate) max_message_bytes: usize,
    /// Send the password in plain text to another machine. Asked for by name: `grpc_credentials=plaintext`.
    pub(crate) plaintext_credentials: bool,
    /// It has answered as a vtgate before: whoever closes without an answer, or answers otherwise, is that vtgate on its way down or up, or
    /// what stands before it, and not a port that was named by mistake.
    pub(crate) proven: bool,
}

impl Endpoint {
    fn bare_host(&self) -> &str {
        self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&self.host)
    }

    /// `host:port`, for messages and as gRPC's authority.
    fn server(&self) -> String {
        match self.bare_host() {
            host if host.contains(':') => format!("[{host}]:{}", self.port),
            host => format!("{host}:{}", self.port),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("server", &self.server())
            .field("tls", &self.tls)
            .field("tls_files", &self.tls_files)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("connect_timeout", &self.connect_timeout)
            .field("max_message_bytes", &self.max_message_bytes)
            .field("plaintext_credentials", &self.plaintext_credentials)
            .field("proven", &self.proven)
            .finish()
    }
}

/// The one method that is called. A response is handed over as the message's bytes.
const VSTREAM: Method<VStreamRequest, Vec<u8>> = Method {
    ty: MethodType::ServerStreaming,
    name: "/vtgateservice.Vitess/VStream",
    req_mar: Marshaller { ser: grpcio::pb_ser, de: grpcio::pb_de },
    resp_mar: Marshaller { ser: put_bytes, de: take_bytes },
};

fn put_bytes(bytes: &Vec<u8>, slice: &mut GrpcSlice) -> grpcio::Result<()> {
    *slice = GrpcSlice::from(bytes.as_slice());
    Ok(())
}

fn take_bytes(mut reader: MessageReader) -> grpcio::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut reader, &mut bytes).map_err(|error| grpcio::Error::Codec(error.into()))?;
    Ok(bytes)
}

/// Reads a message with the generated code.
#[cfg(test)]
fn decode(message: &[u8]) -> Result<VStreamResponse> {
    VStreamResponse::parse_from_bytes(message)
        .map_err(|error| Error::protocol("vtgate sent a message that is not a VStreamResponse").with_cause(error))
}

/// A connection to vtgate. Streams that were opened on it keep it alive; the last of them to go closes it and ends its threads, which takes
/// milliseconds. Open a stream soon: servers ping idle connections, and nothing here answers before a stream is open.
pub(crate) struct Channel {
    link: Arc<Link>,
}

struct Link {
    /// `None` only in `drop`.
    client: Option<Client>,
    pump: Pump,
    server: String,
    credentials: Option<Metadata>,
    max_message_bytes: usize,
    tls: bool,
    proven: bool,
}

impl Drop for Link {
    fn drop(&mut self) {
        // The channel goes first and closes its end of the socket pair; the pump sees that, says farewell to the server and ends.
        self.client = None;
    }
}

impl Channel {
    /// Connects and waits for the server's first bytes, so that whoever answers is known to be a gRPC server.
    ///
    /// Blocks for at most the endpoint's `connect_timeout`.
    ///
    /// # Errors
    ///
    /// `Config` before anything is sent; `Connect`, `Timeout`, `Tls` and `Auth` (a client certificate) each with a sentence of its own;
    /// `Cancelled`.
    pub(crate) fn connect(endpoint: &Endpoint, cancel: &Cancel) -> Result<Self> {
        let deadline = Instant::now() + endpoint.connect_timeout;
        let server = endpoint.server();
        if endpoint.tls == Tls::Preferred {
            return Err(Error::config(
                "`grpc_tls=preferred` is not possible: gRPC cannot ask whether the server speaks TLS; use `true` or `false`",
            ));
        }
        let config = tls::client_config(endpoint.tls, &endpoint.tls_files, &[b"h2"], tls::Names::TLS)?;
        let credentials = credentials(endpoint)?;
        let exposed = config.is_none() && credentials.is_some() && !endpoint.plaintext_credentials;
        let mut tcp = reach(endpoint, exposed, deadline, cancel)?;
        let tls = match config {
            None => None,
            Some(config) => {
                let name = ServerName::try_from(endpoint.bare_host().to_owned()).map_err(|error| {
                    Error::config(format!("`{}` is not a host name that a certificate could be for", endpoint.host)).with_cause(error)
                })?;
                let mut connection =
                    ClientConnection::new(config, name).map_err(|error| tls::explain(error, &server, "grpc_tls", tls::Names::TLS))?;
                shake_hands(endpoint, &mut tcp, &mut connection, deadline, cancel)?;
                Some(connection)
            }
        };
        let uses_tls = tls.is_some();
        let local = |error: io::Error| Error::new(ErrorKind::Connect, "a socket pair for gRPC cannot be set up").with_cause(error);
        let (ours, for_grpc) = UnixStream::pair().map_err(local)?;
        let pump = Pump::start(tcp, tls, ours, deadline).map_err(local)?;

        redirect_log();
        // A polling thread of its own per connection: it ends with the connection.
        let environment = Arc::new(EnvBuilder::new().cq_count(1).name_prefix("ingest-grpc").build());
        let builder = ChannelBuilder::new(environment)
            .default_authority(server.as_str())
            .primary_user_agent(concat!("planetscale-ingest/", env!("CARGO_PKG_VERSION")))
            .max_receive_message_len(i32::try_from(endpoint.max_message_bytes).unwrap_or(i32::MAX))
            // vtgate takes pings more often than every 10 s, or without a stream, for an attack and closes.
            .keepalive_time(Duration::from_secs(30))
            .keepalive_timeout(Duration::from_secs(20))
            .keepalive_permit_without_calls(false)
            .http2_max_pings_without_data(0)
            .http2_min_sent_ping_interval_without_data(Duration::from_secs(30));
        let client = Client::new(handover::channel(builder, &server, for_grpc));
        let link = Arc::new(Link {
            client: Some(client),
            pump,
            server,
            credentials,
            max_message_bytes: endpoint.max_message_bytes,
            tls: uses_tls,
            proven: endpoint.proven,
        });
        if !link.pump.wait_for_answer(cancel)? {
            return Err(link.reason().unwrap_or_else(|| Error::new(ErrorKind::Connect, format!("`{}` cannot be reached", link.server))));
        }
        Ok(Self { link })
    }

    /// Sends a request and returns at once; errors of the server come from [`Stream::receive`].
    pub(crate) fn vstream(&self, request: &VStreamRequest) -> Result<Stream> {
        let mut option = CallOption::default();
        if let Some(credentials) = &self.link.credentials {
            option = option.headers(credentials.clone());
        }
        let client = self.link.client.as_ref().ok_or_else(|| Error::new(ErrorKind::Connect, "the channel is closed"))?;
        let receiver = client.server_streaming(&VSTREAM, request, option).map_err(|error| self.link.explain(error))?;
        let signal = Arc::new(Signal::default());
        Ok(Stream { receiver: Some(receiver), waker: Waker::from(Arc::clone(&signal)), signal, link: Arc::clone(&self.link) })
    }
}

impl Link {
    /// The pump's reason for the end of the connection, if it has ended and not at our own wish.
    fn reason(&self) -> Option<Error> {
        let server = &self.server;
        self.pump.end(|end| {
            let (kind, sentence) = match end? {
                End::Ours => return None,
                End::Tls { error, answered } => {
                    let explain = if *answered || self.proven { tls::explain_broken } else { tls::explain };
                    return Some(explain(error.clone(), server, "grpc_tls", tls::Names::TLS));
                }
                End::Closed { answered: true } => (ErrorKind::Connect, format!("`{server}` closed the connection")),
                End::Closed { answered: false } if self.proven => {
                    (ErrorKind::Connect, format!("`{server}` closed the connection without an answer"))
                }
                End::Foreign(_) if self.proven => {
                    (ErrorKind::Connect, format!("`{server}` does not answer as a gRPC server, as it did before"))
                }
                End::Closed { answered: false } if self.tls => {
                    (ErrorKind::Connect, format!("`{server}` closed the connection after the TLS handshake, without an answer"))
                }
                End::Closed { answered: false } => (
                    ErrorKind::Tls,
                    format!("`{server}` closed the connection without an answer to plain text: if it is a TLS port, set `grpc_tls=true`"),
                ),
                End::Silent => {
                    (ErrorKind::Timeout, format!("`{server}` accepted the connection and sent nothing within the connect time limit"))
                }
                End::Foreign(Greeting::Tls) => (ErrorKind::Tls, format!("`{server}` answers TLS: set `grpc_tls=true`")),
                End::Foreign(Greeting::Mysql) => (
                    ErrorKind::Config,
                    format!("`{server}` answers as a MySQL server: `grpc_port` must be vtgate's gRPC port, which differs from its MySQL port"),
                ),
                End::Foreign(Greeting::Http1) => (
                    ErrorKind::Config,
                    format!("`{server}` answers HTTP/1, not gRPC: `grpc_port` must be vtgate's gRPC port; if it is a TLS port, set `grpc_tls=true`"),
                ),
                End::Foreign(_) => {
                    (ErrorKind::Config, format!("`{server}` does not answer as a gRPC server: `grpc_port` must be vtgate's gRPC port"))
                }
                End::Broken(error) => {
                    let cause = io::Error::new(error.kind(), error.to_string());
                    return Some(Error::new(ErrorKind::Connect, format!("the connection to `{server}` broke")).with_cause(cause));
                }
            };
            Some(Error::new(kind, sentence))
        })
    }

    /// Joins gRPC's status with the pump's reason: grpc core knows only that its socket was closed.
    fn explain(&self, error: grpcio::Error) -> Error {
        match error {
            grpcio::Error::RpcFailure(found) => {
                let (code, text) = (found.code(), found.message());
                let of_connection = || status::is_about_the_connection(code, text).then(|| self.reason()).flatten();
                status::by_text(code, text, self.max_message_bytes).or_else(of_connection).unwrap_or_else(|| status::by_code(code, text))
            }
            // Text of our own libraries: no value can be in it.
            other => match self.reason() {
                Some(reason) => reason,
                None => Error::new(ErrorKind::Connect, format!("the call to `{}` failed", self.server)).with_cause(other),
            },
        }
    }
}

/// What [`Stream::receive`] brought.
#[derive(Debug)]
pub(crate) enum Received {
    /// The bytes of a VStreamResponse.
    Message(Vec<u8>),
    /// Nothing until the deadline; the stream goes on.
    TimedOut,
    /// The server ended the stream without an error. Also what follows an error.
    Ended,
}

/// A running VStream. Dropping it cancels the call.
pub(crate) struct Stream {
    /// `None` after the end. Stands before `link`, so that it is dropped first.
    receiver: Option<ClientSStreamReceiver<Vec<u8>>>,
    waker: Waker,
    signal: Arc<Signal>,
    link: Arc<Link>,
}

impl Stream {
    /// Waits for the next message until `deadline`; one that is already there is delivered even after it.
    ///
    /// grpc core reads one message ahead; more wait at the server.
    ///
    /// # Errors
    ///
    /// What the server or the connection says. An error ends the stream. Messages that were not received yet are lost then: grpc core drops
    /// them.
    pub(crate) fn receive(&mut self, deadline: Instant) -> Result<Received> {
        loop {
            let Some(receiver) = &mut self.receiver else { return Ok(Received::Ended) };
            let mut context = Context::from_waker(&self.waker);
            match Pin::new(receiver).poll_next(&mut context) {
                Poll::Ready(Some(Ok(message))) => return Ok(Received::Message(message)),
                Poll::Ready(Some(Err(error))) => {
                    self.receiver = None;
                    return Err(self.link.explain(error));
                }
                Poll::Ready(None) => {
                    self.receiver = None;
                    return Ok(Received::Ended);
                }
                Poll::Pending => {
                    if !self.signal.wait(deadline) {
                        return Ok(Received::TimedOut);
                    }
                }
            }
        }
    }

    /// How many bytes the server has sent on this connection, those of unfinished messages included.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.link.pump.received()
    }
}

/// Where [`Stream::receive`] sleeps. Not `thread::park`, whose token the program may use itself.
#[derive(Default)]
struct Signal {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    /// Waits for a wake-up. `false`: the deadline passed first.
    fn wait(&self, deadline: Instant) -> bool {
        let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if *woken {
                *woken = false;
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            woken = self.changed.wait_timeout(woken, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }
}

/// The metadata that says who asks.
fn credentials(endpoint: &Endpoint) -> Result<Option<Metadata>> {
    let Some(user) = &endpoint.user else { return Ok(None) };
    let password = endpoint.password.as_deref().unwrap_or_default();
    let refused = |_| Error::config("the user or the password cannot be sent as gRPC metadata");
    let mut metadata = MetadataBuilder::with_capacity(3);
    metadata.add_str("authorization", &format!("Basic {}", BASE64.encode(format!("{user}:{password}")))).map_err(refused)?;
    // Metadata is printable ASCII. Other letters pass in the encoded form only, which vtgate's static authentication does not read.
    let printable = |text: &str| text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if printable(user) && printable(password) {
        metadata.add_str("username", user).and_then(|metadata| metadata.add_str("password", password)).map_err(refused)?;
    }
    Ok(Some(metadata.build()))
}

fn timed_out(endpoint: &Endpoint, what: &str) -> Error {
    Error::new(
        ErrorKind::Timeout,
        format!("{what} `{}` took longer than the connect time limit of {:?}", endpoint.server(), endpoint.connect_timeout),
    )
}

/// Resolves the host's name and makes the TCP connection. `exposed` says that a password is to go over it in plain text.
fn reach(endpoint: &Endpoint, exposed: bool, deadline: Instant, cancel: &Cancel) -> Result<TcpStream> {
    // The system's resolver takes no time limit, and neither it nor a connection that is being made can be interrupted. What comes too late
    // finishes alone: the thread ends with the time limit, or when the resolver does.
    let (sender, reached) = sync_channel(1);
    let to = endpoint.clone();
    std::thread::Builder::new()
        .name("ingest-reach".into())
        .spawn(move || {
            let reached = resolve(&to).and_then(|addresses| {
                if exposed && !addresses.iter().all(|address| address.ip().is_loopback()) {
                    let server = to.server();
                    return Err(Error::config(format!(
                        "the password would go to `{server}` in plain text: set `grpc_tls=true`, or allow it with `grpc_credentials=plaintext`"
                    )));
                }
                dial(&to, &addresses, deadline)
            });
            sender.send(reached)
        })
        .map_err(|error| Error::new(ErrorKind::Connect, "no thread can be started to connect on").with_cause(error))?;
    match cancel.wait_for(&reached, Some(deadline))? {
        Ok(reached) => reached,
        Err(RecvTimeoutError::Timeout) => Err(timed_out(endpoint, "resolving or reaching")),
        Err(RecvTimeoutError::Disconnected) => Err(Error::new(ErrorKind::Connect, format!("`{}` cannot be reached", endpoint.server()))),
    }
}

fn resolve(endpoint: &Endpoint) -> Result<Vec<SocketAddr>> {
    let host = endpoint.bare_host();
    let unknown = |error: io::Error| Error::new(ErrorKind::Connect, format!("the name `{host}` cannot be resolved")).with_cause(error);
    let addresses: Vec<_> = (host, endpoint.port).to_socket_addrs().map_err(unknown)?.collect();
    if addresses.is_empty() { Err(unknown(io::ErrorKind::NotFound.into())) } else { Ok(addresses) }
}

fn dial(endpoint: &Endpoint, addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream> {
    let server = endpoint.server();
    let mut last = None;
    for (i, address) in addresses.iter().enumerate() {
        // Each address gets its share of the time, so that a dead first one does not hide a living second one.
        let addresses_left = u32::try_from(addresses.len() - i).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / addresses_left;
        if share.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(address, share) {
            Ok(tcp) => {
                // Without it small frames wait for acknowledgements. A kernel that refuses leaves a slower connection.
                let _ = tcp.set_nodelay(true);
                return Ok(tcp);
            }
            Err(error) => last = Some(error),
        }
    }
    let Some(error) = last else { return Err(timed_out(endpoint, "connecting to")) };
    Err(match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => timed_out(endpoint, "connecting to"),
        io::ErrorKind::ConnectionRefused => {
            Error::new(ErrorKind::Connect, format!("`{server}` refuses the connection: nothing listens there"))
        }
        _ => Error::new(ErrorKind::Connect, format!("`{server}` cannot be reached")),
    }
    .with_cause(error))
}

/// The TLS handshake, on this thread.
fn shake_hands(
    endpoint: &Endpoint,
    tcp: &mut TcpStream,
    connection: &mut ClientConnection,
    deadline: Instant,
    cancel: &Cancel,
) -> Result<()> {
    let server = endpoint.server();
    let failed = |error: io::Error| match error.kind() {
        _ if endpoint.proven => {
            Error::new(ErrorKind::Connect, format!("the connection to `{server}` broke during the TLS handshake")).with_cause(error)
        }
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Error::new(
            ErrorKind::Tls,
            format!("`{server}` closed the connection during the TLS handshake: if it is a plain port, set `grpc_tls=false`"),
        ),
        _ => Error::new(ErrorKind::Connect, format!("the connection to `{server}` broke during the TLS handshake")).with_cause(error),
    };
    let late = |error: &io::Error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted);
    while connection.is_handshaking() || connection.wants_write() {
        cancel.check()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(timed_out(endpoint, "the TLS handshake with"));
        }
        let slice = Some(left.min(TICK));
        tcp.set_read_timeout(slice).and_then(|()| tcp.set_write_timeout(slice)).map_err(failed)?;
        let moved =
            if connection.wants_write() { connection.write_tls(tcp).map(|_| true) } else { connection.read_tls(tcp).map(|n| n > 0) };
        match moved {
            Ok(true) => {}
            Ok(false) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
            Err(error) if late(&error) => continue,
            Err(error) => return Err(failed(error)),
        }
        if let Err(error) = connection.process_new_packets() {
            // The alert that tells the server why; if it cannot be sent, it is not missed.
            let _ = connection.write_tls(tcp);
            let explain = if endpoint.proven { tls::explain_broken } else { tls::explain };
            return Err(explain(error, &server, "grpc_tls", tls::Names::TLS));
        }
    }
    match connection.alpn_protocol() {
        Some(b"h2") => Ok(()),
        _ => Err(Error::new(ErrorKind::Tls, format!("`{server}` speaks TLS but does not agree on HTTP/2: this is not a gRPC port"))),
    }
}

/// Sends grpc core's own messages to the `log` crate; by default they go to standard error, which is the program's.
fn redirect_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let level = log::max_level();
        if level == log::LevelFilter::Off {
            // With logging off grpcio would leave grpc core's own logger in place. A level for an instant makes it install its own, which asks
            // for the level at each message.
            log::set_max_level(log::LevelFilter::Error);
            grpcio::redirect_log();
            log::set_max_level(level);
        } else {
            grpcio::redirect_log();
        }
    });
}

#[cfg(test)]
mod tests;
