//! The thread between the server's socket and grpc core's: it encrypts and decrypts, and it knows why a connection ended.
//!
//! Plain text goes through it too. grpc core would say `Socket closed` of every failure and wait for ever for a server that never answers; here
//! the reason is at hand, the first answer has a deadline, and the first bytes tell a gRPC port from another one.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use rustls::ClientConnection;

use super::handover::{Readiness, wait};
use crate::Result;
use crate::cancel::{Cancel, TICK};

/// How long grpc core may take to close its end, and the server to take the last bytes, once we let go of a connection.
const FAREWELL: Duration = Duration::from_millis(250);

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// grpc core closed its end: we hung up.
    Ours,
    /// The server closed the connection; `answered` tells whether it had sent anything before.
    Closed { answered: bool },
    /// Nothing came in time after the connection was made.
    Silent,
    /// The first bytes were not those of a gRPC server.
    Foreign(Greeting),
    /// The socket failed.
    Broken(io::Error),
    /// The TLS session failed; `answered` tells whether the server had sent anything before.
    Tls { error: rustls::Error, answered: bool },
}

/// What kind of server the first bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greeting {
    /// A SETTINGS frame, with which every HTTP/2 server begins.
    Http2,
    Http1,
    Tls,
    Mysql,
    Unknown,
}

/// The size of an HTTP/2 frame's header: that much has to be seen for a verdict.
const FRAME_HEADER: usize = 9;

impl Greeting {
    pub(super) fn of(bytes: &[u8]) -> Self {
        match bytes {
            // Length (a multiple of 6), type SETTINGS, flags, stream 0.
            [a, b, c, 4, _, 0, 0, 0, 0, ..] if u32::from_be_bytes([0, *a, *b, *c]).is_multiple_of(6) => Self::Http2,
            [0x14..=0x17, 3, ..] => Self::Tls,
            // A packet of sequence 0: protocol version 10, or an error such as "too many connections".
            [_, _, 0, 0, 0x0a | 0xff, ..] => Self::Mysql,
            _ if bytes.starts_with(b"HTTP/1.") => Self::Http1,
            _ => Self::Unknown,
        }
    }

    /// Whether so few bytes may be the beginning of an HTTP/2 server's first frame.
    fn may_become_http2(bytes: &[u8]) -> bool {
        bytes.len() < FRAME_HEADER && bytes.get(3).is_none_or(|kind| *kind == 4) && bytes.iter().skip(5).all(|stream| *stream == 0)
    }
}

/// The running thread. Dropping it ends the thread and waits for it, which takes milliseconds.
pub(super) struct Pump {
    progress: Arc<Progress>,
    /// The pump's end of the socket pair once more, to wake the thread.
    socket: UnixStream,
    thread: Option<JoinHandle<()>>,
}

/// What the thread tells.
#[derive(Default)]
struct Progress {
    state: Mutex<State>,
    changed: Condvar,
    /// Bytes that the server has sent.
    received: AtomicU64,
}

#[derive(Default)]
struct State {
    answered: bool,
    end: Option<End>,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

impl Pump {
    /// Starts to move bytes between `tcp` (encrypted by `tls`, whose handshake is over) and `socket`, the other end of which is grpc core's. The
    /// server has to begin its answer before `answer_by`.
    pub(super) fn start(tcp: TcpStream, tls: Option<ClientConnection>, socket: UnixStream, answer_by: Instant) -> io::Result<Self> {
        tcp.set_nonblocking(true)?;
        socket.set_nonblocking(true)?;
        let waker = socket.try_clone()?;
        let progress = Arc::new(Progress::default());
        let told = Arc::clone(&progress);
        let thread = Builder::new().name("ingest-grpc-pump".into()).spawn(move || {
            let mut link = Link {
                tcp,
                tls: tls.map(|connection| Session { connection, wire: Buffer::new() }),
                socket,
                up: Buffer::new(),
                down: Buffer::new(),
                server_is_done: false,
                grpc_is_done: false,
                ours_until: None,
                answer_by: Some(answer_by),
                progress: told,
            };
            let end = link.run();
            // The reason stands before the sockets close: whoever sees the connection gone can read why.
            link.progress.tell(|state| state.end = Some(end));
            // Dropping is not enough: the handle that wakes this thread keeps the socket open.
            let _ = link.socket.shutdown(Shutdown::Both);
        })?;
        Ok(Self { progress, socket: waker, thread: Some(thread) })
    }

    /// Waits for the server's first bytes. `false`: the connection has ended instead, and [`Pump::end`] says why. Bounded by the deadline that
    /// [`Pump::start`] was given.
    ///
    /// # Errors
    /// `Cancelled`.
    pub(super) fn wait_for_answer(&self, cancel: &Cancel) -> Result<bool> {
        let mut state = self.progress.lock();
        while !state.answered && state.end.is_none() {
            cancel.check()?;
            state = self.progress.changed.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(state.answered)
    }

    /// How many bytes the server has sent so far.
    pub(super) fn received(&self) -> u64 {
        self.progress.received.load(Ordering::Relaxed)
    }

    /// Hands what ended the connection to `read`, or `None` while it stands.
    pub(super) fn end<T>(&self, read: impl FnOnce(Option<&End>) -> T) -> T {
        read(self.progress.lock().end.as_ref())
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        // By now grpc core is closing its end, so that the server hears of a cancelled call. If it does not come to that, our end is closed.
        let waiting = |state: &mut State| state.end.is_none();
        let waited = self.progress.changed.wait_timeout_while(self.progress.lock(), FAREWELL, waiting);
        if waited.unwrap_or_else(PoisonError::into_inner).1.timed_out() {
            // An error means that the socket is closed already.
            let _ = self.socket.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            // The thread does not panic; if it did, there would be nothing to clean up.
            let _ = thread.join();
        }
    }
}

/// Bytes on their way: filled when empty, or to see more of the beginning; then drained. Never grows.
struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    fn new() -> Self {
        Self { bytes: vec![0; 64 * 1024].into_boxed_slice(), start: 0, end: 0 }
    }

    fn content(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// `Ok(None)`: nothing there yet. `Ok(Some(0))`: nothing will come any more.
    fn fill(&mut self, mut from: impl Read) -> io::Result<Option<usize>> {
        if self.is_empty() {
            self.clear();
        }
        match ready(from.read(&mut self.bytes[self.end..]))? {
            Some(count) => {
                self.end += count;
                Ok(Some(count))
            }
            None => Ok(None),
        }
    }

    /// Writes as much as is taken.
    fn drain(&mut self, mut to: impl Write) -> io::Result<()> {
        while !self.is_empty() {
            match ready(to.write(self.content()))? {
                Some(count) if count > 0 => self.start += count,
                _ => break,
            }
        }
        Ok(())
    }
}

/// Turns "not now" into `None`.
fn ready<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}

struct Link {
    tcp: TcpStream,
    tls: Option<Session>,
    socket: UnixStream,
    /// From grpc core to the server.
    up: Buffer,
    /// From the server to grpc core.
    down: Buffer,
    server_is_done: bool,
    /// grpc core has closed its end, and all that it wrote is read.
    grpc_is_done: bool,
    /// Set when grpc core has closed its end: until when the server may take what is left.
    ours_until: Option<Instant>,
    /// Set until the server has answered: when it is too late.
    answer_by: Option<Instant>,
    progress: Arc<Progress>,
}

struct Session {
    connection: ClientConnection,
    /// What came off the wire and is not decrypted yet. rustls by itself would ask the socket for 4 KB at a time.
    wire: Buffer,
}

impl Session {
    /// Reads what has come of a connection that is broken, in its order, for the alert that may end it. Content has no reader any more.
    fn last_alert(&mut self, mut tcp: &TcpStream) -> Option<rustls::Error> {
        let Self { connection, wire } = self;
        loop {
            // What stands in `wire` came before what the socket still holds: a record that is left out makes all that follow undecipherable.
            if wire.is_empty() && !matches!(wire.fill(&mut tcp), Ok(Some(1..))) {
                return None;
            }
            let mut bytes = wire.content();
            wire.start += connection.read_tls(&mut bytes).ok()?;
            if let Err(error) = connection.process_new_packets() {
                return Some(error);
            }
            // Its room is needed. That nothing is left, and that the server has ended the session, are both said by an error or an end.
            let _ = io::copy(&mut connection.reader(), &mut io::sink());
        }
    }
}

impl Link {
    fn run(&mut self) -> End {
        let mut at_server = Readiness::default();
        let mut at_grpc = Readiness::default();
        loop {
            if let Err(end) = self.step(at_server, at_grpc) {
                return end;
            }
            let outgoing = !self.up.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.connection.wants_write());
            let leaving = self.ours_until.is_some();
            if leaving && self.grpc_is_done && !outgoing {
                self.hang_up();
                return End::Ours;
            }
            let deadline = self.ours_until.or(self.answer_by);
            let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if timeout.is_some_and(|timeout| timeout.is_zero()) {
                return match Greeting::of(self.down.content()) {
                    _ if leaving => End::Ours,
                    _ if self.down.is_empty() => End::Silent,
                    greeting => End::Foreign(greeting),
                };
            }
            let judging = self.answer_by.is_some();
            let wanted_of_server =
                Readiness { read: !leaving && !self.server_is_done && (self.down.is_empty() || judging), write: outgoing };
            let wanted_of_grpc = Readiness { read: !self.grpc_is_done && self.up.is_empty(), write: !self.down.is_empty() && !judging };
            match wait([(self.tcp.as_fd(), wanted_of_server), (self.socket.as_fd(), wanted_of_grpc)], timeout) {
                Ok([server, grpc]) => (at_server, at_grpc) = (server, grpc),
                Err(error) => return End::Broken(error),
            }
        }
    }

    /// Moves what can be moved without waiting. Afterwards the session holds nothing that could go on while `down` is empty.
    fn step(&mut self, at_server: Readiness, at_grpc: Readiness) -> Result<(), End> {
        if at_server.read {
            let into = self.tls.as_mut().map_or(&mut self.down, |tls| &mut tls.wire);
            match into.fill(&self.tcp) {
                Ok(read) => {
                    self.server_is_done |= read == Some(0);
                    self.progress.received.fetch_add(read.unwrap_or_default() as u64, Ordering::Relaxed);
                }
                Err(error) => return Err(self.broken(error)),
            }
        }
        loop {
            self.judge()?;
            if self.ours_until.is_some() {
                self.down.clear();
            } else if self.answer_by.is_none() && self.down.drain(&self.socket).is_err() {
                self.leave();
            }
            if !self.decrypt()? {
                break;
            }
        }
        if at_grpc.read {
            match self.up.fill(&self.socket) {
                Ok(None) => {}
                Ok(Some(count)) if count > 0 => {}
                Ok(_) | Err(_) => {
                    self.grpc_is_done = true;
                    self.leave();
                }
            }
        }
        self.send()?;
        // Nothing of what the server said is left: only now its end is the connection's.
        if self.server_is_done && self.down.is_empty() && self.ours_until.is_none() {
            return Err(End::Closed { answered: self.answer_by.is_none() });
        }
        Ok(())
    }

    /// Decrypts some of what came, if the last of it is on its way. `false`: there is nothing to do now.
    fn decrypt(&mut self) -> Result<bool, End> {
        let Some(Session { connection, wire }) = &mut self.tls else { return Ok(false) };
        if !self.down.is_empty() && self.answer_by.is_none() {
            return Ok(false);
        }
        match self.down.fill(connection.reader()) {
            Ok(Some(0)) => {
                self.server_is_done = true;
                return Ok(false);
            }
            Ok(Some(_)) => return Ok(true),
            Ok(None) => {}
            Err(error) => return Err(End::Broken(error)),
        }
        if wire.is_empty() {
            return Ok(false);
        }
        let mut bytes = wire.content();
        let taken = connection.read_tls(&mut bytes).map_err(End::Broken)?;
        wire.start += taken;
        if let Err(error) = connection.process_new_packets() {
            // The alert that tells the server why; if it cannot be sent, it is not missed.
            let _ = connection.write_tls(&mut self.tcp);
            return Err(End::Tls { error, answered: self.answer_by.is_none() });
        }
        Ok(true)
    }

    /// Looks at the first bytes.
    fn judge(&mut self) -> Result<(), End> {
        let seen = self.down.content();
        if self.answer_by.is_none() || seen.is_empty() || seen.len() < FRAME_HEADER && !self.server_is_done {
            return Ok(());
        }
        match Greeting::of(seen) {
            Greeting::Http2 => {
                self.progress.tell(|state| state.answered = true);
                self.answer_by = None;
                Ok(())
            }
            // The connection broke before all of its header was there.
            Greeting::Unknown if Greeting::may_become_http2(seen) => Err(End::Closed { answered: false }),
            other => Err(End::Foreign(other)),
        }
    }

    /// Puts bytes on the wire.
    fn send(&mut self) -> Result<(), End> {
        let Some(Session { connection, .. }) = &mut self.tls else {
            return self.up.drain(&self.tcp).map_err(|error| self.broken(error));
        };
        loop {
            // The session takes only so much before it is written out.
            self.up.drain(connection.writer()).map_err(End::Broken)?;
            if !connection.wants_write() {
                return Ok(());
            }
            match ready(connection.write_tls(&mut self.tcp)) {
                Ok(Some(count)) if count > 0 => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    /// What a failed read or write of the server's socket means.
    fn broken(&mut self, error: io::Error) -> End {
        // The server may have said why before it closed: in an alert that is still to be read.
        if let Some(error) = self.tls.as_mut().and_then(|session| session.last_alert(&self.tcp)) {
            return End::Tls { error, answered: self.answer_by.is_none() };
        }
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset if self.answer_by.is_some() => End::Closed { answered: false },
            _ => End::Broken(error),
        }
    }

    /// grpc core is gone: what the server still sends has no reader. What grpc core wrote last, such as the cancellation of a call, is still sent.
    fn leave(&mut self) {
        self.down.clear();
        self.ours_until.get_or_insert_with(|| Instant::now() + FAREWELL);
    }

    fn hang_up(&mut self) {
        // A courtesy: the server sees the end of the socket in any case.
        if let Some(Session { connection, .. }) = &mut self.tls {
            connection.send_close_notify();
            let _ = connection.write_tls(&mut self.tcp);
        }
        let _ = self.tcp.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::source::vstream::scripted::tls::Authority;
    use crate::tls::{Names, Tls, TlsFiles, client_config};

    #[test]
    fn first_bytes_tell_what_kind_of_server_answers() {
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0x40, 0];
        assert_eq!(Greeting::of(&settings), Greeting::Http2);
        assert_eq!(Greeting::of(&[0, 0, 0, 4, 0, 0, 0, 0, 0]), Greeting::Http2);
        assert_eq!(Greeting::of(&[0x15, 3, 3, 0, 2, 2, 10]), Greeting::Tls);
        assert_eq!(Greeting::of(b"\x4a\x00\x00\x00\x0a8.4.6"), Greeting::Mysql);
        assert_eq!(Greeting::of(b"HTTP/1.1 400 Bad Request\r\n"), Greeting::Http1);
        assert_eq!(Greeting::of(b"SSH-2.0-x"), Greeting::Unknown);
        assert_eq!(Greeting::of(&[]), Greeting::Unknown);
        assert_eq!(Greeting::of(&[0, 0, 6, 4]), Greeting::Unknown);
    }

    fn started(answer_within: Duration) -> (Pump, TcpStream, UnixStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let (ours, grpc) = UnixStream::pair().unwrap();
        let pump = Pump::start(tcp, None, ours, Instant::now() + answer_within).unwrap();
        (pump, server, grpc)
    }

    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

    #[test]
    fn bytes_pass_in_both_directions_in_order_and_the_server_may_close() {
        let (pump, mut server, mut grpc) = started(Duration::from_secs(10));
        grpc.write_all(b"preface").unwrap();
        let mut seen = [0; 7];
        server.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"preface");
        // In two parts, so that the verdict has to wait for the second.
        server.write_all(&SETTINGS[..4]).unwrap();
        server.write_all(&SETTINGS[4..]).unwrap();
        assert!(pump.wait_for_answer(&Cancel::new()).unwrap());
        // More than all the buffers between hold, and nobody reads yet.
        let sent: Vec<u8> = (0..4_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
        let copy = sent.clone();
        let writer = std::thread::spawn(move || server.write_all(&copy));
        let mut received = vec![0; SETTINGS.len() + sent.len()];
        grpc.read_exact(&mut received).unwrap();
        assert!(received[..9] == SETTINGS && received[9..] == sent);
        writer.join().unwrap().unwrap();
        assert_eq!(grpc.read(&mut seen).unwrap(), 0);
        pump.end(|end| assert!(matches!(end, Some(End::Closed { answered: true })), "{end:?}"));
        assert_eq!(pump.received(), (SETTINGS.len() + sent.len()) as u64);
    }

    /// A server's side and a client's side of a session, after the handshake.
    fn secured() -> (rustls::StreamOwned<rustls::ServerConnection, TcpStream>, ClientConnection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let config = Authority::new("one").issue(&["127.0.0.1"]).config();
        let mut server = rustls::StreamOwned::new(rustls::ServerConnection::new(Arc::new(config)).unwrap(), server);
        let shaking = std::thread::spawn(move || {
            server.conn.complete_io(&mut server.sock).unwrap();
            server
        });
        let config = client_config(Tls::DangerSkipVerify, &TlsFiles::default(), &[b"h2"], Names::TLS).unwrap().unwrap();
        let mut client = ClientConnection::new(config, "127.0.0.1".try_into().unwrap()).unwrap();
        client.complete_io(&mut tcp).unwrap();
        (shaking.join().unwrap(), client, tcp)
    }

    /// A server that sends until nobody reads any more, says its `last_words` and breaks the connection, which a write finds out.
    fn broken_while_full(last_words: impl FnOnce(&mut rustls::ServerConnection)) -> End {
        let (mut server, client, tcp) = secured();
        let (ours, mut grpc) = UnixStream::pair().unwrap();
        let pump = Pump::start(tcp, Some(client), ours, Instant::now() + Duration::from_secs(10)).unwrap();
        let mut send = |content: &[u8]| {
            let mut wire = Vec::new();
            server.conn.writer().write_all(content).unwrap();
            while server.conn.wants_write() {
                server.conn.write_tls(&mut wire).unwrap();
            }
            server.sock.write_all(&wire).unwrap();
            wire.len() as u64
        };
        let mut sent = pump.received() + send(&SETTINGS);
        assert!(pump.wait_for_answer(&Cancel::new()).unwrap());
        // The last part stays in the connection, where there is room for it: what is sent to one that is full would be lost with it.
        let mut is_full = false;
        while !is_full {
            sent += send(&[7; 3 * 16 * 1024]);
            let until = Instant::now() + Duration::from_millis(200);
            while pump.received() < sent && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            is_full = pump.received() < sent;
            assert!(sent < 2_000_000, "{} of {sent}", pump.received());
        }
        last_words(&mut server.conn);
        while server.conn.wants_write() {
            server.conn.write_tls(&mut server.sock).unwrap();
        }
        socket2::SockRef::from(&server.sock).set_linger(Some(Duration::ZERO)).unwrap();
        drop(server);
        grpc.write_all(b"who reads this?").unwrap();
        let mut state = pump.progress.lock();
        while state.end.is_none() {
            state = pump.progress.changed.wait(state).unwrap();
        }
        let end = state.end.take().unwrap();
        drop(state);
        drop(grpc);
        end
    }

    #[test]
    fn a_connection_that_breaks_with_records_to_be_decrypted_is_broken_and_not_undecipherable() {
        let end = broken_while_full(|_| {});
        assert!(matches!(end, End::Broken(_)), "{end:?}");
    }

    #[test]
    fn the_alert_behind_what_nobody_has_read_yet_is_why_a_connection_broke() {
        let end = broken_while_full(|server| {
            // A record that the client has not made: the server answers with an alert.
            let foreign = [&[0x17, 3, 3, 0, 32][..], &[0; 32]].concat();
            server.read_tls(&mut &foreign[..]).unwrap();
            server.process_new_packets().unwrap_err();
        });
        let End::Tls { error: rustls::Error::AlertReceived(alert), answered: true } = end else { panic!("{end:?}") };
        assert_eq!(alert, rustls::AlertDescription::BadRecordMac);
    }

    #[test]
    fn waiting_for_an_answer_ends_when_cancelled() {
        let (pump, _server, _grpc) = started(Duration::from_secs(60));
        let cancel = Cancel::new();
        cancel.cancel();
        assert_eq!(pump.wait_for_answer(&cancel).unwrap_err().kind(), crate::ErrorKind::Cancelled);
    }

    #[test]
    fn a_silent_server_ends_the_wait_at_the_deadline() {
        let (pump, _server, _grpc) = started(Duration::from_millis(50));
        assert!(!pump.wait_for_answer(&Cancel::new()).unwrap());
        pump.end(|end| assert!(matches!(end, Some(End::Silent)), "{end:?}"));
    }

    #[test]
    fn a_server_that_closes_or_speaks_another_protocol_is_told_apart() {
        let (pump, server, _grpc) = started(Duration::from_secs(10));
        drop(server);
        assert!(!pump.wait_for_answer(&Cancel::new()).unwrap());
        pump.end(|end| assert!(matches!(end, Some(End::Closed { answered: false })), "{end:?}"));

        let (pump, mut server, _grpc) = started(Duration::from_secs(10));
        server.write_all(&[0x15, 3, 3, 0, 2, 2, 10]).unwrap();
        drop(server);
        assert!(!pump.wait_for_answer(&Cancel::new()).unwrap());
        pump.end(|end| assert!(matches!(end, Some(End::Foreign(Greeting::Tls))), "{end:?}"));

        for count in 1..FRAME_HEADER {
            let (pump, mut server, _grpc) = started(Duration::from_secs(10));
            server.write_all(&SETTINGS[..count]).unwrap();
            drop(server);
            assert!(!pump.wait_for_answer(&Cancel::new()).unwrap());
            pump.end(|end| assert!(matches!(end, Some(End::Closed { answered: false })), "{count}: {end:?}"));
        }

        let (pump, mut server, _grpc) = started(Duration::from_secs(10));
        server.write_all(b"SSH-").unwrap();
        drop(server);
        assert!(!pump.wait_for_answer(&Cancel::new()).unwrap());
        pump.end(|end| assert!(matches!(end, Some(End::Foreign(Greeting::Unknown))), "{end:?}"));

        // Too short for a verdict, and nothing follows: the deadline decides.
        let (pump, mut server, _grpc) = started(Duration::from_secs(1));
        server.write_all(b"SSH").unwrap();
        assert!(!pump.wait_for_answer(&Cancel::new()).unwrap());
        pump.end(|end| assert!(matches!(end, Some(End::Foreign(Greeting::Unknown))), "{end:?}"));
    }

    #[test]
    fn closing_our_end_sends_what_is_left_and_ends_the_thread() {
        let (pump, mut server, mut grpc) = started(Duration::from_secs(10));
        server.write_all(&SETTINGS).unwrap();
        assert!(pump.wait_for_answer(&Cancel::new()).unwrap());
        grpc.write_all(b"last words").unwrap();
        drop(grpc);
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"last words");
        drop(pump);
    }

    #[test]
    fn dropping_ends_the_thread_even_if_the_other_end_stays_open() {
        let (pump, mut server, _grpc) = started(Duration::from_secs(10));
        server.write_all(&SETTINGS).unwrap();
        assert!(pump.wait_for_answer(&Cancel::new()).unwrap());
        let begun = Instant::now();
        drop(pump);
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
}
