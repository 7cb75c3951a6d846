//! A network that fails: a proxy on this machine that passes bytes on, and cuts, resets, stalls, delays, trickles or garbles them as it is told.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::SockRef;

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// Everything passes.
    None,
    /// It is accepted and closed at once, before anything is read.
    Refuse,
    /// After so many bytes, both ends see the end of the connection.
    Cut { way: Way, after: u64 },
    /// After so many bytes, both ends are told that it broke (RST).
    Reset { way: Way, after: u64 },
    /// After so many bytes, nothing passes any more, in neither direction, and nobody is told.
    Stall { way: Way, after: u64 },
    /// After so many bytes, one bit of the next byte arrives as another; everything else passes.
    Flip { way: Way, after: u64 },
    /// So many bytes pass at a time, with a pause before each.
    Trickle { bytes: usize, pause: Duration },
}

/// Which bytes are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    FromServer,
    FromClient,
}

/// Tells what happens to a connection, by how many came before it and how many bytes the server has sent over those.
type Plan = dyn Fn(usize, u64) -> Fault + Send + Sync;

/// A running proxy. Dropping it closes all connections.
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    target: (String, u16),
    plan: Mutex<Arc<Plan>>,
    stop: AtomicBool,
    connections: AtomicUsize,
    from_server: AtomicU64,
    from_client: AtomicU64,
    /// Bytes of each connection from the server and from the client.
    counts: Mutex<BTreeMap<usize, [u64; 2]>>,
    /// Weak, since a connection is closed when its last handle is: what is reset must not be held open here.
    open: Mutex<Vec<[Weak<TcpStream>; 2]>>,
    /// How many connections have met their fault.
    met: Mutex<usize>,
    changed: Condvar,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1.
    pub fn start(target: (&str, u16), plan: impl Fn(usize, u64) -> Fault + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            target: (target.0.to_owned(), target.1),
            plan: Mutex::new(Arc::new(plan)),
            stop: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            from_server: AtomicU64::new(0),
            from_client: AtomicU64::new(0),
            counts: Mutex::default(),
            open: Mutex::default(),
            met: Mutex::new(0),
            changed: Condvar::new(),
        });
        let ours = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("proxy".into()).spawn(move || {
            let mut threads = Vec::new();
            for client in listener.incoming() {
                if ours.stop.load(Ordering::SeqCst) {
                    break;
                }
                let client = client.unwrap();
                let number = ours.connections.fetch_add(1, Ordering::SeqCst);
                let plan = Arc::clone(&ours.plan.lock().unwrap());
                let fault = plan(number, ours.from_server.load(Ordering::SeqCst));
                if fault == Fault::Refuse {
                    let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
                    drop(client);
                    ours.met();
                    continue;
                }
                let Ok(server) = TcpStream::connect((ours.target.0.as_str(), ours.target.1)) else { continue };
                let (client, server) = (Arc::new(client), Arc::new(server));
                ours.open.lock().unwrap().push([Arc::downgrade(&client), Arc::downgrade(&server)]);
                let shared = Arc::clone(&ours);
                threads.push(std::thread::spawn(move || shared.pass(number, &client, &server, fault)));
            }
            ours.close();
            for thread in threads {
                let _ = thread.join();
            }
        });
        Self { port, shared, thread: Some(thread.unwrap()) }
    }

    /// What happens to connections from now on; those that are open keep their fault.
    pub fn set(&self, plan: impl Fn(usize, u64) -> Fault + Send + Sync + 'static) {
        *self.shared.plan.lock().unwrap() = Arc::new(plan);
    }

    /// Ends the connections that are open.
    pub fn close(&self) {
        self.shared.close();
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many bytes the server has sent, over all connections.
    pub fn server_bytes(&self) -> u64 {
        self.shared.from_server.load(Ordering::SeqCst)
    }

    /// How many bytes clients have sent, over all connections.
    pub fn client_bytes(&self) -> u64 {
        self.shared.from_client.load(Ordering::SeqCst)
    }

    /// How many bytes of a connection have passed, by how many connections came before it.
    pub fn bytes_of(&self, connection: usize, way: Way) -> u64 {
        self.shared.counts.lock().unwrap().get(&connection).map_or(0, |counts| counts[way as usize])
    }

    /// How many connections have met their fault.
    pub fn faults(&self) -> usize {
        *self.shared.met.lock().unwrap()
    }

    /// Waits until so many connections have met their fault.
    #[track_caller]
    pub fn wait_for_faults(&self, count: usize) {
        let met = self.shared.met.lock().unwrap();
        let limit = Duration::from_secs(60);
        let waited = self.shared.changed.wait_timeout_while(met, limit, |met| *met < count).unwrap();
        assert!(!waited.1.timed_out(), "{} of {count} faults were met", waited.0);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the thread, which then closes what is open.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().unwrap().join();
    }
}

impl Shared {
    fn close(&self) {
        for end in self.open.lock().unwrap().drain(..).flatten().filter_map(|end| end.upgrade()) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    fn met(&self) {
        *self.met.lock().unwrap() += 1;
        self.changed.notify_all();
    }

    fn pass(&self, number: usize, client: &TcpStream, server: &TcpStream, fault: Fault) {
        let state = AtomicU8::new(PASSING);
        std::thread::scope(|scope| {
            scope.spawn(|| self.direction((number, Way::FromClient), client, server, fault, &state));
            self.direction((number, Way::FromServer), server, client, fault, &state);
        });
    }

    fn direction(&self, (number, way): (usize, Way), from: &TcpStream, to: &TcpStream, fault: Fault, state: &AtomicU8) {
        let total = if way == Way::FromServer { &self.from_server } else { &self.from_client };
        let (step, pause) = match fault {
            Fault::Trickle { bytes, pause } => (bytes, pause),
            _ => (64 * 1024, Duration::ZERO),
        };
        let mut left = match fault {
            Fault::Cut { way: counted, after }
            | Fault::Reset { way: counted, after }
            | Fault::Stall { way: counted, after }
            | Fault::Flip { way: counted, after } => (counted == way).then_some(after),
            Fault::None | Fault::Refuse | Fault::Trickle { .. } => None,
        };
        let mut flips = false;
        let mut bytes = vec![0; step];
        loop {
            if left == Some(0) {
                if matches!(fault, Fault::Flip { .. }) {
                    self.met();
                    flips = true;
                } else {
                    self.meet(fault, from, to, state);
                }
                left = None;
            }
            let wanted = left.map_or(step, |left| step.min(usize::try_from(left).unwrap_or(step)));
            let count = match (&mut &*from).read(&mut bytes[..wanted]) {
                Ok(count) if count > 0 => count,
                _ => break,
            };
            if state.load(Ordering::SeqCst) != PASSING {
                // What comes now is swallowed: to its sender the other end seems alive, and does not answer.
                continue;
            }
            if std::mem::take(&mut flips) {
                bytes[0] ^= 0x10;
            }
            std::thread::sleep(pause);
            total.fetch_add(count as u64, Ordering::SeqCst);
            self.counts.lock().unwrap().entry(number).or_default()[way as usize] += count as u64;
            if (&mut &*to).write_all(&bytes[..count]).is_err() {
                break;
            }
            left = left.map(|left| left - count as u64);
        }
        // Of a connection that stalls nobody hears anything, not even its end.
        if matches!(state.load(Ordering::SeqCst), PASSING | CUT) {
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        }
    }

    fn meet(&self, fault: Fault, from: &TcpStream, to: &TcpStream, state: &AtomicU8) {
        let now = match fault {
            Fault::Stall { .. } => STALLED,
            Fault::Reset { .. } => RESETTING,
            _ => CUT,
        };
        state.store(now, Ordering::SeqCst);
        // Before anybody can notice it.
        self.met();
        for socket in [from, to] {
            let _ = match now {
                CUT => socket.shutdown(Shutdown::Both),
                RESETTING => {
                    // With this, closing it tells the other end that the connection broke. It is closed when both directions have ended, which
                    // the next call wakes them to without sending anything.
                    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
                    socket.shutdown(Shutdown::Read)
                }
                _ => Ok(()),
            };
        }
    }
}

const PASSING: u8 = 0;
const STALLED: u8 = 1;
const RESETTING: u8 = 2;
const CUT: u8 = 3;

#[test]
fn the_proxy_cuts_resets_stalls_and_flips_where_it_is_told() {
    // The other end sends 100 bytes, and then what it receives.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            std::thread::spawn(move || {
                let _ = connection.write_all(&[7; 100]);
                let mut echo = connection.try_clone().unwrap();
                let _ = std::io::copy(&mut connection, &mut echo);
            });
        }
    });
    let way = Way::FromServer;
    let connect = |fault: Fault| {
        let proxy = Proxy::start(("127.0.0.1", target), move |_, _| fault);
        let client = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (proxy, client)
    };
    let heard = |client: &mut TcpStream| {
        let mut heard = Vec::new();
        let end = client.read_to_end(&mut heard);
        (heard.len(), end.map_err(|error| error.kind()))
    };

    let (proxy, mut client) = connect(Fault::Cut { way, after: 60 });
    assert_eq!(heard(&mut client), (60, Ok(60)));
    assert_eq!((proxy.server_bytes(), proxy.faults()), (60, 1));

    let (proxy, mut client) = connect(Fault::Reset { way, after: 60 });
    proxy.wait_for_faults(1);
    assert_eq!(heard(&mut client).1, Err(std::io::ErrorKind::ConnectionReset));

    let (proxy, mut client) = connect(Fault::Stall { way, after: 60 });
    proxy.wait_for_faults(1);
    client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert_eq!(heard(&mut client), (60, Err(std::io::ErrorKind::WouldBlock)));
    client.write_all(&[1; 10]).unwrap();
    assert_eq!(heard(&mut client), (0, Err(std::io::ErrorKind::WouldBlock)));
    assert_eq!(proxy.server_bytes(), 60);

    let (proxy, mut client) = connect(Fault::Flip { way, after: 60 });
    let mut all = [0; 100];
    client.read_exact(&mut all).unwrap();
    assert_eq!((all[59], all[60], all[61], proxy.faults()), (7, 7 ^ 0x10, 7, 1));

    let (_proxy, mut client) = connect(Fault::Cut { way: Way::FromClient, after: 5 });
    client.write_all(&[1; 10]).unwrap();
    assert!(heard(&mut client).1.is_ok());

    let (proxy, mut client) = connect(Fault::Trickle { bytes: 7, pause: Duration::from_millis(1) });
    let mut all = [0; 100];
    client.read_exact(&mut all).unwrap();
    assert_eq!((all, proxy.connections()), ([7; 100], 1));

    let (_proxy, mut client) = connect(Fault::Refuse);
    assert_eq!(heard(&mut client).1, Err(std::io::ErrorKind::ConnectionReset));
}
