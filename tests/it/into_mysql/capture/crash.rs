//! Killed at any moment, a run leaves what the next one completes.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use planetscale_ingest::ErrorKind;

use super::*;
use crate::capture::fixture::{Random, binary_logs_stay, change};
use crate::support::program;
use crate::support::proxy::{Fault, Proxy, Way};

/// Twenty kills at random moments of copy and stream, with changes in between.
fn survive_kills(place: Place, seed: u64) {
    let _logs = binary_logs_stay();
    let mut captured = Captured::new(place, "killed", 0..4_000);
    let mut conn = vitess().conn();
    run(&mut conn, "use commerce");
    let (mut random, mut killed, mut generation) = (Random::new(seed), 0, 1);
    while killed < 20 {
        let mut child = Command::new(program("ingest"))
            .args(["--source-uri", &vitess().cdc_uri("commerce"), "--dest-uri", &place.uri(), "--source-table", &captured.table])
            .args(["--dest-table", &captured.copy, "--progress", "off"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let moment = Instant::now() + Duration::from_millis(50 + random.below(700));
        while Instant::now() < moment {
            change(&mut conn, &captured.table, &mut random, generation, true);
            generation += 1;
        }
        if child.try_wait().unwrap().is_none() {
            killed += 1;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    completed_after_a_crash(&captured);
    captured.assert_equals();
    captured.run_all();
}

/// The server may hold the lock of a killed client for a moment longer, or carry out a last statement of it.
#[track_caller]
fn completed_after_a_crash(captured: &Captured) {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        match captured.run() {
            Err(error) if error.kind() == ErrorKind::Conflict && Instant::now() < until => {
                let said = error.to_string();
                assert!(said.contains("in use by another run") || said.contains("somebody else has changed the position"), "{said}");
                std::thread::sleep(Duration::from_millis(100));
            }
            report => {
                complete(report, captured.place);
                return;
            }
        }
    }
}

#[test]
fn twenty_kills_lose_and_double_nothing_in_mysql() {
    survive_kills(PLAIN, 41);
}

#[test]
fn twenty_kills_lose_and_double_nothing_in_an_unsharded_keyspace() {
    survive_kills(UNSHARDED, 42);
}

#[test]
fn twenty_kills_lose_and_double_nothing_in_a_sharded_keyspace() {
    survive_kills(SHARDED, 43);
}

/// The connections to the destination break after so many bytes that the client has sent; each time a little later.
fn survive_broken_connections(place: Place, refresh: bool) {
    let _logs = binary_logs_stay();
    let mut captured = Captured::new(place, &format!("broken_{refresh}"), 0..30);
    let server = (place.server)();
    let proxy = Proxy::start((&server.mysql_host, server.mysql_port), |_, _| Fault::None);
    // Nobody tries again: what is left is the next run's.
    let uri = place.uri().replacen(&format!(":{}/", server.mysql_port), &format!(":{}/", proxy.port), 1) + "&retry_timeout=1ms";
    captured.run_all();
    let (mut after, mut failed, mut rounds) = (200, 0, 0);
    let options = captured.options.clone().with_full_refresh(refresh);
    loop {
        rounds += 1;
        captured.at_source(&format!(
            "insert into {{t}} (id, name) values ({0}, 'new'); update {{t}} set name = 'round {rounds}' where id < 10; delete from {{t}} where id = {1}",
            1_000 + rounds,
            10 + rounds % 15
        ));
        let limit = after;
        proxy.set(move |_, _| Fault::Cut { way: Way::FromClient, after: limit });
        let report = load(&vitess().cdc_uri("commerce"), &uri, &options);
        let is_whole = report.is_ok_and(|report| report.is_complete());
        completed_after_a_crash(&captured);
        captured.assert_equals();
        if is_whole {
            break;
        }
        failed += 1;
        // What a run sends grows too, with the rows that each round adds.
        after += 150 + after / 40;
        assert!(rounds < 200, "it never ends");
    }
    assert!(failed > 10, "{failed} runs failed");
}

#[test]
fn a_connection_that_breaks_anywhere_loses_and_doubles_nothing_in_mysql() {
    survive_broken_connections(PLAIN, false);
}

#[test]
fn a_connection_that_breaks_anywhere_loses_and_doubles_nothing_in_a_sharded_keyspace() {
    survive_broken_connections(SHARDED, false);
}

#[test]
fn a_full_refresh_whose_connection_breaks_anywhere_leaves_the_old_table_or_the_new() {
    survive_broken_connections(PLAIN, true);
}

/// A run whose connections break now and then, and that tries again itself, ends as if they had not.
#[test]
fn a_run_makes_broken_connections_anew() {
    let _logs = binary_logs_stay();
    for place in ALL {
        let mut captured = Captured::new(place, "anew", 0..6_000);
        let server = (place.server)();
        let proxy = Proxy::start((&server.mysql_host, server.mysql_port), |number, _| match number {
            // The first of each connection: the one that holds the lock, and the one that writes.
            0 => Fault::None,
            number if number < 6 => Fault::Cut { way: Way::FromClient, after: 60_000 * number as u64 },
            _ => Fault::None,
        });
        let uri = place.uri().replacen(&format!(":{}/", server.mysql_port), &format!(":{}/", proxy.port), 1);
        complete(load(&vitess().cdc_uri("commerce"), &uri, &captured.options), place);
        assert!(proxy.faults() > 0, "{}", place.name);
        captured.assert_equals();
        captured.run_all();
        let keyspace_copy = captured.copy.clone();
        let counted = captured.cell("select count(*) from {t} where not _cdc_deleted");
        assert_eq!(captured.cell(&format!("select live_rows from _ingest_checkpoint where dest_table = '{keyspace_copy}'")), counted);
    }
}
