//! PlanetScale's front, as far as it is known: TLS and HTTP Basic on one gRPC port, a shard called `-`, cells of its own, and statements of
//! Vitess refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use planetscale_ingest::{ErrorKind, PositionFault};

use super::stage::{Change, Destination, KEYSPACE, Stage, asked, copied, copy_rows, error_of, fields, gtid, is_copy, transaction_of, uri};
use crate::vtgate::events::{Shard, all_copied, heartbeat};
use crate::vtgate::proto::VEvent;
use crate::vtgate::tls::Authority;
use crate::vtgate::{Ending, Gone, Request, Responder, Vtgate};

const CELL: &str = "planetscale_operator_default";
const USER: &str = "u1234";
const PASSWORD: &str = "pscale_pw_x:y/z";

/// What the front refuses.
const REFUSED: [&str; 3] = ["SHOW VITESS", "SELECT @@global", "USE"];

fn dash() -> Shard {
    Shard::new(KEYSPACE, "-")
}

struct Front {
    server: Vtgate,
    ca: tempfile::TempDir,
}

impl Front {
    fn start(stage: &Stage, on_stream: impl Fn(&Request, &mut Responder) -> Result<Ending, Gone> + Send + Sync + 'static) -> Self {
        let authority = Authority::new("front");
        let ca = tempfile::tempdir().unwrap();
        std::fs::write(ca.path().join("ca.pem"), &authority.pem).unwrap();
        let script = stage.script(on_stream).tls(authority.issue(&["127.0.0.1"])).basic(USER, PASSWORD);
        Self { server: Vtgate::start(script), ca }
    }

    /// Serves all that was executed by the time of each call.
    fn serving(stage: &Stage) -> Self {
        let history = Arc::clone(&stage.history);
        Self::start(stage, move |request, responder| {
            let executed = history.lock().unwrap().0;
            serve(request, executed, responder)
        })
    }

    /// MySQL is plain here, where it is TLS there: that side has nothing of PlanetScale's own.
    fn uri(&self, password: &str, more: &str) -> String {
        let Vtgate { mysql_port, grpc_port, .. } = self.server;
        let password = percent_encoding::utf8_percent_encode(password, percent_encoding::NON_ALPHANUMERIC);
        let ca = self.ca.path().join("ca.pem");
        format!(
            "mysql+cdc://{USER}:{password}@127.0.0.1:{mysql_port}/{KEYSPACE}?grpc_port={grpc_port}&tls=false&grpc_tls=true&tls_ca={}&cells={CELL}{more}",
            ca.display()
        )
    }
}

/// A stream from `current`: at first the word itself comes back, then where the shards are.
fn tell_where(request: &Request, shards: &[Shard], executed: u32, responder: &mut Responder) -> Result<(), Gone> {
    let named: Vec<&str> = request.message.vgtid.shard_gtids.iter().map(|at| at.shard.as_str()).collect();
    assert!(named == [""] || named == shards.iter().map(|shard| shard.shard.as_str()).collect::<Vec<_>>(), "{named:?}");
    for reported in 1..=shards.len() {
        let at = |(number, shard): (usize, &Shard)| shard.gtid(if number < reported { gtid(executed) } else { "current".into() }.as_str());
        let position = shards.iter().enumerate().map(at).collect();
        responder.send([heartbeat()])?;
        responder.send([shards[reported - 1].vgtid_of(position), shards[reported - 1].other()])?;
    }
    responder.stall();
    Ok(())
}

fn is_peek(request: &Request) -> bool {
    request.message.vgtid.shard_gtids.iter().all(|at| at.gtid == "current")
}

fn change(changes: &[Change<'_>], number: u32) -> Vec<VEvent> {
    transaction_of(&dash(), changes, dash().vgtid(&gtid(number)))
}

/// Copies, then sends the transactions that the position lacks.
fn serve(request: &Request, executed: u32, responder: &mut Responder) -> Result<Ending, Gone> {
    let flags = &request.message.flags;
    assert_eq!(flags.cells, CELL);
    if is_peek(request) {
        tell_where(request, &[dash()], executed, responder)?;
    } else if is_copy(&request.message) {
        let shard = dash();
        responder.send(copied([shard.begin(), shard.field("t", &fields()), shard.vgtid(&gtid(executed))]))?;
        responder.send(copy_rows(&shard, &[(1, "one"), (2, "two")], executed))?;
        responder.send(copied([shard.begin(), shard.vgtid(&gtid(executed)), shard.commit(), shard.copy_completed(), all_copied()]))?;
    } else {
        let after: u32 = asked(&request.message, "-").gtid.rsplit('-').next().unwrap().parse().unwrap();
        for number in after + 1..=executed {
            responder.send(change(&[(None, Some((i64::from(number), "new")))], number))?;
        }
        responder.stall();
    }
    Ok(Ending::Ok)
}

#[test]
fn tls_and_basic_on_one_port_and_a_shard_called_dash_are_captured() {
    // Vitess's own statements work here.
    let stage = Stage::new(3).shards(&["-"]);
    let front = Front::serving(&stage);
    let destination = Destination::new();
    let report = destination.capture_all(&front.uri(PASSWORD, ""));
    assert!(report.tables[0].notes.is_empty());
    stage.history.lock().unwrap().0 = 5;
    destination.capture_all(&front.uri(PASSWORD, ""));
    assert_eq!(destination.rows(), ["1 one", "2 two", "4 new", "5 new"]);

    let wrong = destination.capture(&front.uri("pscale_pw_wrong", "")).unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Auth);
    assert!(!format!("{wrong:#} {wrong:?}").contains("pscale_pw"), "{wrong:?}");
}

#[test]
fn where_statements_are_refused_a_stream_tells_the_shards_and_the_stop_position() {
    // Each alone, and all of them.
    for refused in [&REFUSED[..], &REFUSED[..1], &REFUSED[1..2], &REFUSED[2..]] {
        let stage = Stage::new(3).shards(&["-"]).refusing(refused);
        let front = Front::serving(&stage);
        let destination = Destination::new();
        let report = destination.capture_all(&front.uri(PASSWORD, ""));
        // A first copy has no position that would have to be checked.
        assert!(report.tables[0].notes.is_empty(), "{:?}", report.tables[0].notes);
        stage.history.lock().unwrap().0 = 5;
        let report = destination.capture_all(&front.uri(PASSWORD, ""));
        assert_eq!(destination.rows(), ["1 one", "2 two", "4 new", "5 new"], "{refused:?}");
        let notes = &report.tables[0].notes;
        assert!(notes.iter().any(|note| note.contains("could not be checked")), "{notes:?}");
        // With nothing new, the run ends by comparing; the stream that tells where the shards are is closed.
        let before = front.server.requests().len();
        destination.capture_all(&front.uri(PASSWORD, ""));
        assert_eq!(front.server.requests().len(), before + 1);
        assert!(front.server.wait_for_ended_calls(before + 1));
    }
}

#[test]
fn a_position_that_is_ahead_or_foreign_is_found_even_where_statements_are_refused() {
    let stage = Stage::new(9).shards(&["-"]).refusing(&REFUSED);
    let front = Front::serving(&stage);
    let destination = Destination::new();
    destination.capture_all(&front.uri(PASSWORD, ""));
    // The server was restored from a backup.
    stage.history.lock().unwrap().0 = 4;
    let error = destination.capture(&front.uri(PASSWORD, "")).unwrap_err();
    assert_eq!(error.position_fault(), Some(PositionFault::Ahead), "{error:?}");
    assert_eq!(destination.rows(), ["1 one", "2 two"]);
}

#[test]
fn a_position_that_is_purged_where_statements_are_refused_ends_in_time_and_says_what_may_be() {
    let stage = Stage::new(3).shards(&["-"]).refusing(&REFUSED);
    let history = Arc::clone(&stage.history);
    let purged = Arc::new(AtomicBool::new(false));
    let is_purged = Arc::clone(&purged);
    let front = Front::start(&stage, move |request, responder| {
        let executed = history.lock().unwrap().0;
        if is_purged.load(Ordering::SeqCst) && !is_peek(request) {
            // Heartbeats for 90 s, here for less, and then another cause.
            for _ in 0..5 {
                responder.send([heartbeat()])?;
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            let text = "failed to find a PRIMARY tablet for VStream in shop/- within the x cell(s): context has expired";
            return Ok(Ending::status(1, text));
        }
        serve(request, executed, responder)
    });
    let destination = Destination::new();
    destination.capture_all(&front.uri(PASSWORD, ""));
    stage.history.lock().unwrap().0 = 5;
    purged.store(true, Ordering::SeqCst);
    for (limits, expected) in
        [("&retry_timeout=1s", "vtgate finds no tablet to stream from"), ("&no_progress_timeout=700ms", "neither a new position nor a row")]
    {
        let error = error_of(destination.capture(&front.uri(PASSWORD, limits)), "t");
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("could not be checked") && error.contains("full_refresh"), "{error}");
    }
    assert_eq!(destination.rows(), ["1 one", "2 two"]);
}

#[test]
fn several_shards_are_found_by_a_stream_and_asked_for_by_name() {
    let shards = ["-80", "80-"].map(|name| Shard::new(KEYSPACE, name));
    let stage = Stage::new(3).shards(&["-80", "80-"]).refusing(&REFUSED);
    let ours = shards.clone();
    let server = stage.start(move |request, responder| {
        if is_peek(request) {
            let asked: Vec<&str> = request.message.vgtid.shard_gtids.iter().map(|at| at.shard.as_str()).collect();
            let told: Vec<Shard> = ours.iter().filter(|shard| asked == [""] || asked.contains(&shard.shard.as_str())).cloned().collect();
            tell_where(request, &told, 3, responder)?;
            return Ok(Ending::Ok);
        }
        for at in &request.message.vgtid.shard_gtids {
            let shard = ours.iter().find(|shard| shard.shard == at.shard).unwrap();
            let others = request.message.vgtid.shard_gtids.iter().map(|other| match other.shard <= at.shard {
                true => ours.iter().find(|shard| shard.shard == other.shard).unwrap().gtid(&gtid(3)),
                false => other.clone(),
            });
            responder.send(copied([shard.begin(), shard.field("t", &fields()), shard.vgtid_of(others.collect()), shard.commit()]))?;
            responder.send(copied([shard.copy_completed()]))?;
        }
        Ok(Ending::Ok)
    });
    for (more, expected) in [("", vec!["-80", "80-"]), ("&shards=80-", vec!["80-"])] {
        let before = server.requests().len();
        Destination::new().capture_all(&uri(&server, more));
        let copied = &server.requests()[before + 1];
        let names: Vec<&str> = copied.vgtid.shard_gtids.iter().map(|at| at.shard.as_str()).collect();
        assert_eq!(names, expected);
    }
}
