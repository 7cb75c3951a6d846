//! Streams that bring nothing new: idle ones go on, the others end with an error that tells why.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use planetscale_ingest::{Cancel, TableState};

use super::stage::{Destination, Stage, begin_copy, copy, copy_rows, error_of, is_copy, shard, transaction, uri};
use crate::vtgate::events::heartbeat;
use crate::vtgate::mysql::{self, Answer};
use crate::vtgate::proto::VEvent;
use crate::vtgate::{Ending, Gone, Responder};

const BEAT: Duration = Duration::from_millis(50);

/// Sends heartbeats for as long as somebody listens.
fn beat(responder: &mut Responder, event: &VEvent) -> Result<Ending, Gone> {
    loop {
        responder.send([event.clone()])?;
        std::thread::sleep(BEAT);
    }
}

/// The error of a run whose stream brings heartbeats only, though there is more.
fn standstill(other: fn(&str) -> Answer, event: VEvent) -> String {
    let stage = Stage::new(1).answering(other);
    let server = stage.start(move |request, responder| {
        if is_copy(&request.message) {
            copy(responder, &[(1, "one")], 1)?;
            return Ok(Ending::Ok);
        }
        beat(responder, &event)
    });
    let destination = Destination::new();
    destination.capture_all(&uri(&server, ""));
    stage.history.lock().unwrap().0 = 2;
    let begun = Instant::now();
    let error = error_of(destination.capture(&uri(&server, "&no_progress_timeout=500ms")), "t");
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(500) && took < Duration::from_secs(4), "{took:?}");
    assert!(
        error.contains("neither a new position nor a row for 500ms (`no_progress_timeout`), although shard 0 has more to send"),
        "{error}"
    );
    assert_eq!(destination.rows(), ["1 one"]);
    error
}

fn unscripted(_: &str) -> Answer {
    Answer::Unscripted
}

#[test]
fn a_stalled_stream_is_an_error_that_says_so() {
    let error = standstill(unscripted, heartbeat());
    assert!(error.contains("vtgate still sends heartbeats, so the tablet is stalled"), "{error}");
}

#[test]
fn a_throttled_stream_is_told_from_a_stalled_one_where_the_server_tells() {
    fn throttler(app: &str, enabled: &str, statement: &str) -> Answer {
        let columns = |names: &[&str]| names.iter().map(|name| mysql::Column::text(name)).collect::<Vec<_>>();
        match statement {
            "SHOW VITESS_THROTTLER STATUS" => {
                Answer::rows(&columns(&["shard", "enabled", "threshold", "query"]), &[&[Some("0"), Some(enabled), Some("5"), Some("")]])
            }
            "SHOW VITESS_THROTTLED_APPS" => Answer::rows(
                &columns(&["app", "expire_at", "ratio"]),
                &[
                    &[Some("always-throttled-app"), Some("2036-11-21 10:22:39"), Some("1")],
                    &[Some(app), Some("2036-11-21 10:22:39"), Some("1")],
                ],
            ),
            _ => Answer::Unscripted,
        }
    }
    let error = standstill(|statement| throttler("vstreamer", "1", statement), heartbeat());
    assert!(error.contains("the tablets' throttler holds `vstreamer` back"), "{error}");
    let error = standstill(|statement| throttler("online-ddl", "1", statement), heartbeat());
    assert!(error.contains("the tablets' throttler is on and may hold it back"), "{error}");
    let error = standstill(|statement| throttler("vstreamer", "0", statement), heartbeat());
    assert!(error.contains("the tablet is stalled"), "{error}");
    let told = VEvent { throttled: true, throttled_reason: "lag".into(), ..heartbeat() };
    let error = standstill(unscripted, told);
    assert!(error.contains("its tablet says that it is throttled"), "{error}");
}

#[test]
fn transactions_that_move_no_position_are_no_progress() {
    let stage = Stage::new(1);
    let server = stage.start(|request, responder| {
        if is_copy(&request.message) {
            copy(responder, &[(1, "one")], 1)?;
            return Ok(Ending::Ok);
        }
        loop {
            // The same again and again, which the position has already.
            responder.send([shard().begin(), shard().vgtid(&super::stage::gtid(1)), shard().commit()])?;
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let destination = Destination::new();
    destination.capture_all(&uri(&server, ""));
    stage.history.lock().unwrap().0 = 2;
    let error = error_of(destination.capture(&uri(&server, "&no_progress_timeout=500ms")), "t");
    assert!(error.contains("neither a new position nor a row"), "{error}");
}

#[test]
fn a_copy_that_stands_still_is_never_idle() {
    let stage = Stage::new(1);
    let server = stage.start(|_, responder| {
        responder.send(begin_copy(&shard(), 1))?;
        responder.send(copy_rows(&shard(), &[(1, "one")], 1))?;
        // The position holds all that was executed; only the end of the copy does not come.
        beat(responder, &heartbeat())
    });
    let destination = Destination::new();
    let error = error_of(destination.capture(&uri(&server, "&no_progress_timeout=500ms")), "t");
    assert!(error.contains("although the copy of `t` is not complete"), "{error}");
    assert_eq!(destination.rows(), ["1 one"]);
}

#[test]
fn an_idle_stream_goes_on_and_takes_what_comes_then() {
    let stage = Stage::new(1);
    let (go, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    let history = Arc::clone(&stage.history);
    let server = stage.start(move |request, responder| {
        if is_copy(&request.message) {
            copy(responder, &[(1, "one")], 1)?;
            return Ok(Ending::Ok);
        }
        let wait = wait.lock().unwrap();
        while wait.recv_timeout(BEAT).is_err() {
            responder.send([heartbeat()])?;
        }
        history.lock().unwrap().0 = 2;
        responder.send(transaction(&shard(), &[(Some((1, "one")), Some((1, "changed")))], 2))?;
        beat(responder, &heartbeat())
    });
    let destination = Destination::new();
    destination.capture_all(&uri(&server, ""));
    let cancel = Cancel::new();
    let source = uri(&server, "&mode=stream&no_progress_timeout=300ms");
    std::thread::scope(|scope| {
        let run = scope.spawn(|| destination.capture_unless(&source, &cancel));
        let asked = || server.statements().iter().filter(|statement| statement.contains("gtid_executed")).count();
        let before = asked();
        let until = Instant::now() + Duration::from_secs(30);
        // It has asked several times whether there is more, and gone on.
        while asked() < before + 4 {
            assert!(Instant::now() < until && !run.is_finished(), "the stream did not go on");
            std::thread::sleep(BEAT);
        }
        go.send(()).unwrap();
        while destination.rows() != ["1 changed"] {
            assert!(Instant::now() < until && !run.is_finished(), "the change did not come");
            std::thread::sleep(BEAT);
        }
        cancel.cancel();
        let report = run.join().unwrap().unwrap();
        assert_eq!(report.tables[0].state, TableState::Complete);
    });
    assert_eq!(server.requests().len(), 2);
}

/// Takes half a minute: six heartbeats have to be missing.
#[test]
fn a_connection_on_which_nothing_comes_at_all_is_made_anew_long_before_the_standstill_is_an_error() {
    let stage = Stage::new(2);
    let silent = Arc::new(AtomicBool::new(true));
    let is_silent = Arc::clone(&silent);
    let server = stage.start(move |request, responder| {
        if is_copy(&request.message) {
            copy(responder, &[(1, "one")], 1)?;
            return Ok(Ending::Ok);
        }
        if is_silent.swap(false, Ordering::SeqCst) {
            responder.stall();
            // An answer after the client gave up reaches nobody.
            assert!(responder.send(transaction(&shard(), &[(None, Some((9, "too late")))], 2)).is_err());
            return Ok(Ending::Ok);
        }
        responder.send(transaction(&shard(), &[(None, Some((2, "two")))], 2))?;
        responder.stall();
        Ok(Ending::Ok)
    });
    let destination = Destination::new();
    let begun = Instant::now();
    destination.capture_all(&uri(&server, ""));
    let took = begun.elapsed();
    assert_eq!(destination.rows(), ["1 one", "2 two"]);
    assert_eq!(server.requests().len(), 3);
    assert!(took > Duration::from_secs(29) && took < Duration::from_secs(45), "{took:?}");
}
