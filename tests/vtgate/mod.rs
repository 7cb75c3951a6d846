//! A vtgate in this process, which does what a script says: a real gRPC server, with TLS if wanted, and a MySQL front beside it.
//!
//! For what a real vtgate cannot be made to do, and for an example that runs without one. Included by path, so nothing of it is in the library.
// Each program that includes this needs another part of it, and stops at what it did not expect.
#![allow(dead_code, unused_imports, unreachable_pub, missing_docs, clippy::unwrap_used)]

pub mod events;
pub mod mysql;
pub mod shop;
pub mod tls;

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io::Read as _;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::JoinHandle;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_sink::Sink as _;
use grpcio::{
    Environment, GrpcSlice, Marshaller, MessageReader, Method, MethodType, RpcStatus, RpcStatusCode, Server, ServerBuilder,
    ServerCredentials, ServerStreamingSink, ServiceBuilder, WriteFlags,
};
use protobuf::Message as _;

use self::proto::{VEvent, VStreamRequest, VStreamResponse};

/// The protocol's messages, generated like the library's own.
#[allow(clippy::all, clippy::pedantic)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/proto/mod.rs"));
    pub use vtgate::*;
}

type OnStream = dyn Fn(&Request, &mut Responder) -> Ending + Send + Sync;

/// What a server does.
pub struct Script {
    on_stream: Arc<OnStream>,
    on_query: Arc<mysql::OnQuery>,
    identity: Option<tls::Identity>,
    credentials: Option<Credentials>,
}

/// User and password, and where gRPC calls have to carry them. MySQL has its own way.
#[derive(Clone)]
struct Credentials {
    user: String,
    password: String,
    scheme: Scheme,
}

#[derive(Clone, Copy)]
enum Scheme {
    /// vtgate's static authentication: `username` and `password`.
    Static,
    /// HTTP's: `authorization`.
    Basic,
}

impl Script {
    /// Answers every VStream with `on_stream`, each call on a thread of its own, so that it may block. MySQL statements are answered as
    /// [`mysql::Answer::Unscripted`].
    pub fn new(on_stream: impl Fn(&Request, &mut Responder) -> Ending + Send + Sync + 'static) -> Self {
        Self { on_stream: Arc::new(on_stream), on_query: Arc::new(|_| mysql::Answer::Unscripted), identity: None, credentials: None }
    }

    /// Answers MySQL statements. Prepared ones arrive with their parameters put in.
    pub fn on_query(mut self, on_query: impl Fn(&str) -> mysql::Answer + Send + Sync + 'static) -> Self {
        self.on_query = Arc::new(on_query);
        self
    }

    /// Looks at each MySQL statement first; what it answers is the answer.
    pub fn before_query(mut self, first: impl Fn(&str) -> Option<mysql::Answer> + Send + Sync + 'static) -> Self {
        let then = self.on_query;
        self.on_query = Arc::new(move |statement| first(statement).unwrap_or_else(|| then(statement)));
        self
    }

    /// Serves gRPC over TLS. MySQL stays plain.
    pub fn tls(mut self, identity: tls::Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Demands user and password on both ports, with vtgate's answers if they are wrong.
    pub fn credentials(self, user: &str, password: &str) -> Self {
        self.demanding(user, password, Scheme::Static)
    }

    /// Demands user and password on both ports, of gRPC as HTTP has it: `authorization: Basic`, and nothing else.
    pub fn basic(self, user: &str, password: &str) -> Self {
        self.demanding(user, password, Scheme::Basic)
    }

    fn demanding(mut self, user: &str, password: &str, scheme: Scheme) -> Self {
        self.credentials = Some(Credentials { user: user.into(), password: password.into(), scheme });
        self
    }
}

/// A VStream call.
pub struct Request {
    pub message: VStreamRequest,
    /// The call's metadata: credentials, user agent.
    pub metadata: BTreeMap<String, String>,
    /// How many calls came before it.
    pub number: usize,
}

/// How a call ends.
pub enum Ending {
    Ok,
    /// A gRPC code (1 to 16) and its text.
    Status(i32, String),
}

impl Ending {
    pub fn status(code: i32, text: &str) -> Self {
        Self::Status(code, text.into())
    }
}

/// What a script answers a call with.
pub struct Responder {
    sink: ServerStreamingSink<Vec<u8>>,
    stop: Arc<Stop>,
    /// The call is over; the sink must not be asked again.
    gone: bool,
}

/// The client has cancelled, or the server is going down.
#[derive(Debug)]
pub struct Gone;

impl Responder {
    /// Sends one response. Blocks while the client does not read.
    pub fn send(&mut self, events: impl IntoIterator<Item = VEvent>) -> Result<(), Gone> {
        let response = VStreamResponse { events: events.into_iter().collect(), ..Default::default() };
        self.send_bytes(response.write_to_bytes().unwrap())
    }

    /// Sends any bytes as a response.
    pub fn send_bytes(&mut self, message: Vec<u8>) -> Result<(), Gone> {
        if self.gone {
            return Err(Gone);
        }
        let mut sink = Pin::new(&mut self.sink);
        let sent = block_on(poll_fn(|cx| sink.as_mut().poll_ready(cx)))
            .and_then(|()| sink.as_mut().start_send((message, WriteFlags::default())))
            .and_then(|()| block_on(poll_fn(|cx| sink.as_mut().poll_flush(cx))));
        sent.map_err(|_| {
            self.gone = true;
            Gone
        })
    }

    /// Sends nothing until the client has cancelled or the server goes down.
    pub fn stall(&mut self) -> Gone {
        let mut sink = Pin::new(&mut self.sink);
        if !self.gone {
            let (gone, stop) = (&mut self.gone, &self.stop);
            block_on(poll_fn(|cx| {
                // The sink wakes us when the call is over; being ready to send is no news.
                *gone = matches!(sink.as_mut().poll_ready(cx), Poll::Ready(Err(_)));
                if *gone || stop.is_set(cx.waker()) { Poll::Ready(()) } else { Poll::Pending }
            }));
        }
        Gone
    }

    fn end(mut self, ending: Ending) {
        if self.gone {
            return;
        }
        // What the client does not want to hear any more is not an error of the script.
        let _ = match ending {
            Ending::Ok => block_on(poll_fn(|cx| Pin::new(&mut self.sink).poll_close(cx))),
            Ending::Status(code, text) => block_on(self.sink.fail(RpcStatus::with_message(RpcStatusCode::from(code), text))),
        };
    }
}

/// Tells stalled calls that the server goes down.
#[derive(Default)]
struct Stop {
    set: AtomicBool,
    sleepers: Mutex<Vec<Waker>>,
}

impl Stop {
    fn is_set(&self, sleeper: &Waker) -> bool {
        self.sleepers.lock().unwrap().push(sleeper.clone());
        self.set.load(Ordering::SeqCst)
    }

    fn set(&self) {
        self.set.store(true, Ordering::SeqCst);
        self.sleepers.lock().unwrap().drain(..).for_each(Waker::wake);
    }
}

/// A running server. Dropping it ends all calls and connections.
pub struct Vtgate {
    pub grpc_port: u16,
    pub mysql_port: u16,
    seen: Arc<Seen>,
    stop: Arc<Stop>,
    calls: Arc<Mutex<Vec<JoinHandle<()>>>>,
    server: Option<Server>,
    _tls: Option<tls::Front>,
    mysql: mysql::Front,
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<VStreamRequest>>,
    ended: Mutex<usize>,
    changed: Condvar,
}

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
    reader.read_to_end(&mut bytes).map_err(|error| grpcio::Error::Codec(error.into()))?;
    Ok(bytes)
}

impl Vtgate {
    /// Starts a server on free ports of 127.0.0.1.
    pub fn start(script: Script) -> Self {
        let seen = Arc::new(Seen::default());
        let stop = Arc::new(Stop::default());
        let calls = Arc::new(Mutex::new(Vec::<JoinHandle<()>>::new()));
        let Script { on_stream, on_query, identity, credentials } = script;
        let login = credentials.as_ref().map(|credentials| (credentials.user.clone(), credentials.password.clone()));
        let mysql = mysql::Front::start(on_query, login);
        let service = {
            let (seen, stop, calls) = (Arc::clone(&seen), Arc::clone(&stop), Arc::clone(&calls));
            ServiceBuilder::new().add_server_streaming_handler(&VSTREAM, move |context, message: VStreamRequest, sink| {
                let metadata: BTreeMap<String, String> = context
                    .request_headers()
                    .iter()
                    .map(|(key, value)| (key.to_owned(), String::from_utf8_lossy(value).into_owned()))
                    .collect();
                let number = {
                    let mut requests = seen.requests.lock().unwrap();
                    requests.push(message.clone());
                    seen.changed.notify_all();
                    requests.len() - 1
                };
                let refusal = credentials.as_ref().and_then(|credentials| credentials.refusal(&metadata));
                let (seen, on_stream) = (Arc::clone(&seen), Arc::clone(&on_stream));
                let mut responder = Responder { sink, stop: Arc::clone(&stop), gone: false };
                let call = std::thread::Builder::new().name("scripted-vstream".into()).spawn(move || {
                    let request = Request { message, metadata, number };
                    let ending = refusal.unwrap_or_else(|| on_stream(&request, &mut responder));
                    responder.end(ending);
                    *seen.ended.lock().unwrap() += 1;
                    seen.changed.notify_all();
                });
                let mut calls = calls.lock().unwrap();
                calls.retain(|call| !call.is_finished());
                calls.push(call.unwrap());
            })
        };
        let environment = Arc::new(Environment::new(1));
        let mut server = ServerBuilder::new(environment).register_service(service.build()).build().unwrap();
        let inner = server.add_listening_port("127.0.0.1:0", ServerCredentials::insecure()).unwrap();
        server.start();
        let tls = identity.map(|identity| tls::Front::start(&identity, inner));
        let grpc_port = tls.as_ref().map_or(inner, |front| front.port);
        Self { grpc_port, mysql_port: mysql.port, seen, stop, calls, server: Some(server), _tls: tls, mysql }
    }

    /// The VStream requests so far.
    pub fn requests(&self) -> Vec<VStreamRequest> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// The MySQL statements so far.
    pub fn statements(&self) -> Vec<String> {
        self.mysql.statements()
    }

    /// Waits until `count` calls have ended, as the server sees it. `false`: not within ten seconds.
    pub fn wait_for_ended_calls(&self, count: usize) -> bool {
        let ended = self.seen.ended.lock().unwrap();
        let limit = std::time::Duration::from_secs(10);
        !self.seen.changed.wait_timeout_while(ended, limit, |ended| *ended < count).unwrap().1.timed_out()
    }
}

impl Drop for Vtgate {
    fn drop(&mut self) {
        self.stop.set();
        // Ends the calls: those that are sending hear that the client is gone.
        self.server = None;
        for call in self.calls.lock().unwrap().drain(..) {
            // A script that panicked has said so already.
            let _ = call.join();
        }
    }
}

impl Credentials {
    /// How a call is refused that does not carry them.
    fn refusal(&self, metadata: &BTreeMap<String, String>) -> Option<Ending> {
        let Self { user, password, scheme } = self;
        match scheme {
            Scheme::Static => match (metadata.get("username"), metadata.get("password")) {
                (Some(name), Some(word)) if name == user && word == password => None,
                (Some(name), Some(_)) => Some(Ending::Status(7, format!("auth failure: caller {name:?} provided invalid credentials"))),
                _ => Some(Ending::status(16, "username and password must be provided")),
            },
            Scheme::Basic => {
                let expected = format!("Basic {}", BASE64.encode(format!("{user}:{password}")));
                (metadata.get("authorization") != Some(&expected)).then(|| Ending::status(16, "unauthenticated"))
            }
        }
    }
}

/// Runs a future on this thread.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Signal(Mutex<bool>, Condvar);
    impl Wake for Signal {
        fn wake(self: Arc<Self>) {
            *self.0.lock().unwrap() = true;
            self.1.notify_one();
        }
    }
    let signal = Arc::new(Signal(Mutex::new(false), Condvar::new()));
    let waker = Waker::from(Arc::clone(&signal));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        *signal.1.wait_while(signal.0.lock().unwrap(), |woken| !*woken).unwrap() = false;
    }
}
