//! Cancellation ends a run within a second in whatever it waits for, keeps what is committed, and leaves neither a thread nor a call.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use planetscale_ingest::{Cancel, Error, ErrorKind, IngestOptions, Report, Sink, Source, SourceOptions, TableState, ingest};

use super::stage::{Destination, Stage, begin_copy, copy, copy_rows, is_copy, shard, transaction, uri};
use crate::support::alone::{is_alone, thread_count, wait_for_threads_to_end};
use crate::support::proxy::{Fault, Proxy, Way};
use crate::vtgate::events::heartbeat;
use crate::vtgate::mysql::Answer;
use crate::vtgate::{Ending, Vtgate};

const LIMIT: Duration = Duration::from_secs(1);
/// Connections that nobody answers are given up after this by whoever is left alone with them.
const CONNECT: &str = "&connect_timeout=3s";
const STALL: Fault = Fault::Stall { way: Way::FromServer, after: 0 };

/// Where a run is when it is cancelled.
struct Phase {
    name: &'static str,
    /// Whether the destination has the copied rows before, so that this run streams.
    copied: bool,
    more: &'static str,
    /// Whether MySQL, and whether gRPC, goes through a proxy that stalls.
    stalls: (bool, bool),
    /// What the destination has at the end.
    rows: &'static [&'static str],
    /// The statement that is not answered.
    unanswered: Option<&'static str>,
}

const ROWS: &[&str] = &["1 one", "2 two"];

const PHASES: [Phase; 11] = [
    Phase { name: "connecting", copied: false, more: CONNECT, stalls: (true, false), rows: &[], unanswered: None },
    Phase {
        name: "in the TLS handshake with MySQL",
        copied: false,
        more: "&connect_timeout=3s&tls=skip-verify",
        stalls: (true, false),
        rows: &[],
        unanswered: None,
    },
    Phase {
        name: "reading the schema",
        copied: false,
        more: "",
        stalls: (false, false),
        rows: &[],
        unanswered: Some("information_schema.columns"),
    },
    Phase { name: "reading the history", copied: true, more: "", stalls: (false, false), rows: ROWS, unanswered: Some("gtid_executed") },
    Phase { name: "waiting for gRPC's answer", copied: true, more: CONNECT, stalls: (false, true), rows: ROWS, unanswered: None },
    Phase {
        name: "in the TLS handshake with vtgate",
        copied: true,
        more: "&connect_timeout=3s&grpc_tls=skip-verify",
        stalls: (false, true),
        rows: ROWS,
        unanswered: None,
    },
    Phase { name: "copying", copied: false, more: "&mode=stream", stalls: (false, false), rows: &["1 one"], unanswered: None },
    Phase { name: "between tables", copied: false, more: "", stalls: (false, false), rows: ROWS, unanswered: None },
    Phase { name: "idle", copied: true, more: "&mode=stream", stalls: (false, false), rows: &["1 one", "2 changed"], unanswered: None },
    Phase { name: "silent", copied: true, more: "&mode=stream", stalls: (false, false), rows: ROWS, unanswered: None },
    Phase { name: "pausing before the next attempt", copied: true, more: "", stalls: (false, false), rows: ROWS, unanswered: None },
];

/// Whether a statement is to be left without an answer, and how to tell that it came.
type Unanswered = Arc<Mutex<Option<(&'static str, Sender<()>)>>>;

/// The server, in the phase `name`; it sends a word when the phase is reached.
fn serve(name: &'static str, history: &Arc<Mutex<(u32, u32)>>, reached: Sender<()>, unanswered: Unanswered) -> Vtgate {
    let mut stage = Stage::new(1);
    stage.history = Arc::clone(history);
    if name == "between tables" {
        stage.tables.push(("u", stage.tables[0].1.clone()));
    }
    let reached = Mutex::new(reached);
    let script = stage.script(move |request, responder| {
        let reach = || reached.lock().unwrap().send(()).unwrap();
        let table = &request.message.filter.rules[0].match_;
        let copies = is_copy(&request.message);
        match name {
            "copying" => {
                responder.send(begin_copy(&shard(), 1))?;
                responder.send(copy_rows(&shard(), &[(1, "one")], 1))?;
                responder.send([heartbeat()])?;
                reach();
                responder.stall();
            }
            "between tables" if table == "u" => {
                reach();
                responder.stall();
            }
            _ if copies => {
                copy(responder, &[(1, "one"), (2, "two")], 1)?;
            }
            "idle" => {
                responder.send(transaction(&shard(), &[(Some((2, "two")), Some((2, "changed")))], 2))?;
                reach();
                loop {
                    responder.send([heartbeat()])?;
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            "pausing before the next attempt" => {
                // The sixth pause is longer than what cancellation may take.
                if request.number == 6 {
                    reach();
                }
            }
            _ => {
                reach();
                responder.stall();
            }
        }
        Ok(Ending::Ok)
    });
    Vtgate::start(script.before_query(move |statement| {
        let unanswered = unanswered.lock().unwrap().clone();
        let (_, reached) = unanswered.filter(|(fragment, _)| statement.contains(fragment))?;
        reached.send(()).unwrap();
        Some(Answer::Never)
    }))
}

fn run(source: &str, destination: &Destination, cancel: &Cancel) -> Result<Report, Error> {
    let source = Source::open_unless(&SourceOptions::from_uri(source)?, cancel)?;
    let mut sink = Sink::open(&destination.uri())?;
    ingest(&source, &mut sink, &IngestOptions::new().with_cancel(cancel.clone()))
}

#[test]
fn every_phase_ends_within_a_second_of_being_cancelled() {
    if !is_alone("scripted::cancel::every_phase_ends_within_a_second_of_being_cancelled") {
        return;
    }
    for phase in PHASES {
        let name = phase.name;
        let (sender, reached) = channel();
        let unanswered = Unanswered::default();
        let history = Arc::new(Mutex::new((1, 0)));
        let server = serve(name, &history, sender.clone(), Arc::clone(&unanswered));
        let destination = Destination::new();
        if phase.copied {
            // The copy's own position is the stop position.
            assert!(run(&uri(&server, ""), &destination, &Cancel::new()).unwrap().is_complete(), "{name}");
            history.lock().unwrap().0 = 2;
        }
        let mysql = Proxy::start(("127.0.0.1", server.mysql_port), |_, _| STALL);
        let grpc = Proxy::start(("127.0.0.1", server.grpc_port), |_, _| STALL);
        *unanswered.lock().unwrap() = phase.unanswered.map(|fragment| (fragment, sender));
        let mut source = uri(&server, phase.more);
        if phase.more.contains("&tls=") {
            source = source.replace("&tls=false", "").replace("tls=false&", "");
        }
        if phase.stalls.0 {
            source = source.replace(&format!(":{}/", server.mysql_port), &format!(":{}/", mysql.port));
        }
        if phase.stalls.1 {
            source = source.replace(&format!("grpc_port={}", server.grpc_port), &format!("grpc_port={}", grpc.port));
        }
        let before = (thread_count(), server.requests().len());
        let cancel = Cancel::new();
        let (result, took) = std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                let result = run(&source, &destination, &cancel);
                (result, Instant::now())
            });
            match (phase.stalls.0, phase.stalls.1) {
                (false, false) => reached.recv_timeout(Duration::from_secs(20)).unwrap(),
                // The proxy stalls once the client's first bytes, or its connection, are there.
                (is_mysql, _) => (if is_mysql { &mysql } else { &grpc }).wait_for_faults(1),
            }
            // What is committed is what the destination has.
            let until = Instant::now() + Duration::from_secs(20);
            while !phase.rows.is_empty() && destination.rows() != phase.rows {
                assert!(Instant::now() < until, "{name}: {:?}", destination.rows());
                std::thread::sleep(Duration::from_millis(10));
            }
            assert!(!run.is_finished(), "{name}");
            let cancelled = Instant::now();
            cancel.cancel();
            let (result, ended) = run.join().unwrap();
            (result, ended.saturating_duration_since(cancelled))
        });
        assert!(took < LIMIT, "{name}: {took:?}");
        match result {
            Ok(report) => {
                assert!(!report.is_complete() || name == "idle", "{name}");
                let failed = report.tables.iter().find(|table| matches!(table.state, TableState::Failed { .. }));
                assert!(failed.is_none(), "{name}: {failed:?}");
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled, "{name}: {error:?}"),
        }
        if !phase.rows.is_empty() {
            assert_eq!(destination.rows(), phase.rows, "{name}");
        }
        // The server has seen all calls end.
        assert!(server.wait_for_ended_calls(server.requests().len()), "{name}");
        drop((mysql, grpc));
        // A connection that was being made ends with its own time limit.
        wait_for_threads_to_end(before.0, Duration::from_secs(5));
        println!("{name}: {took:?}");
    }
}
