//! One run at a time.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use planetscale_ingest::{Cancel, ErrorKind, IngestOptions, Sink, Source, TableState, ingest as run_here};

use super::{error_of, ingest, report, run};
use crate::capture::fixture::{BOTH, Destination, Kind, binary_logs_stay, create, insert};
use crate::support::servers::vitess;

/// The file that is locked for a database.
fn lease_of(database: &Path) -> PathBuf {
    let mut name = database.file_name().unwrap().to_owned();
    name.push("-ingest");
    database.with_file_name(name)
}

/// Waits for something that has to come about.
#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A run that goes on until it is killed, once it holds the lease.
fn follow(source: &str, destination: &Destination, table: &str) -> Child {
    let command = ingest(&format!("{source}&mode=stream"), destination, table);
    let child = Command::new(&command[0]).args(&command[1..]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let id = child.id().to_string();
    let lease = lease_of(&destination.path);
    wait_until("the lease is taken", || std::fs::read_to_string(&lease).is_ok_and(|holder| holder.trim() == id));
    child
}

#[test]
fn a_second_sink_on_a_file_is_refused_as_long_as_the_first_lives() {
    for kind in BOTH {
        let destination = Destination::new(kind);
        let first = Sink::open(&destination.uri()).unwrap();
        let error = Sink::open(&destination.uri()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
        assert!(error.to_string().contains("another run in this process"), "{error:?}");
        assert!(error.to_string().contains(destination.path.to_str().unwrap()), "{error:?}");
        drop(first);
        drop(Sink::open(&destination.uri()).unwrap());
        assert!(!lease_of(&destination.path).exists());
        // Databases in memory are as many as there are sinks.
        let scheme = destination.uri().split("://").next().unwrap().to_owned();
        let memory = [Sink::open(&format!("{scheme}://:memory:")), Sink::open(&format!("{scheme}://:memory:"))];
        assert!(memory.iter().all(Result::is_ok), "{memory:?}");
        assert!(!Path::new(":memory:-ingest").exists());
    }
}

#[test]
fn a_second_run_is_refused_until_the_first_is_killed() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for kind in BOTH {
        let table = format!("leased_{kind:?}").to_lowercase();
        let mut conn = create(server, "commerce", &table);
        insert(&mut conn, &table, 0..50, 0);
        let source = server.cdc_uri("commerce");
        let destination = Destination::new(kind);
        let mut first = follow(&source, &destination, &table);
        let output = run(&ingest(&source, &destination, &table));
        let refused = report(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{refused}");
        let expected = format!("in use by another run (process {})", first.id());
        assert!(error_of(&refused).contains(&expected), "{refused}");
        // Those who read take no part in this.
        if kind == Kind::Sqlite {
            wait_until("the copy is there", || {
                destination.query("select 1 from sqlite_schema where name = '_ingest_checkpoint'").len() == 1
                    && destination.query("select 1 from _ingest_checkpoint where position like 'copied %'").len() == 1
            });
            destination.assert_equals(&mut conn, &table);
        }
        first.kill().unwrap();
        first.wait().unwrap();
        // The file that it left means nothing.
        assert!(lease_of(&destination.path).exists());
        insert(&mut conn, &table, 50..60, 0);
        destination.capture_all(&source, &IngestOptions::new().with_tables([&table]));
        destination.assert_equals(&mut conn, &table);
        assert!(!lease_of(&destination.path).exists());
    }
}

#[test]
fn a_run_stops_before_it_writes_where_another_has_written_since() {
    let _logs = binary_logs_stay();
    let server = vitess();
    let table = "fenced";
    let mut conn = create(server, "commerce", table);
    insert(&mut conn, table, 0..50, 0);
    let destination = Destination::new(Kind::Sqlite);
    let options = IngestOptions::new().with_tables([table]);
    let cancel = Cancel::new();
    let outcome = std::thread::scope(|scope| {
        let follower = scope.spawn(|| {
            let source = Source::open(&format!("{}&mode=stream", server.cdc_uri("commerce"))).unwrap();
            let mut sink = Sink::open(&destination.uri()).unwrap();
            run_here(&source, &mut sink, &options.clone().with_cancel(cancel.clone()))
        });
        wait_until("the copy is there", || {
            destination.path.exists()
                && destination.query("select 1 from sqlite_schema where name = '_ingest_checkpoint'").len() == 1
                && destination.query("select 1 from _ingest_checkpoint where position like 'copied %'").len() == 1
        });
        // As on a file system whose locks do not reach the other machine.
        std::fs::remove_file(lease_of(&destination.path)).unwrap();
        insert(&mut conn, table, 50..60, 0);
        let other = destination.capture(&server.cdc_uri("commerce"), &options);
        // One of the two has written first, and that one goes on.
        if other.is_ok_and(|report| report.is_complete()) {
            conn.query_drop(format!("delete from {table} where id < 5")).unwrap();
        } else {
            cancel.cancel();
        }
        follower.join().unwrap()
    });
    let report = outcome.unwrap();
    if let TableState::Failed { error } = &report.tables[0].state {
        assert!(error.contains("somebody else has changed the position of `fenced`"), "{error}");
        // Nothing of what the refused run read has been written.
        assert_eq!(destination.rows(table).len(), 60);
    } else {
        assert!(cancel.is_cancelled(), "{report:?}");
    }
    destination.capture_all(&server.cdc_uri("commerce"), &options);
    destination.assert_equals(&mut conn, table);
}

#[test]
fn every_path_to_a_file_is_the_same_destination() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for kind in BOTH {
        let table = format!("linked_{kind:?}").to_lowercase();
        let mut conn = create(server, "commerce", &table);
        insert(&mut conn, &table, 0..20, 0);
        let destination = Destination::new(kind);
        let link = destination.path.with_file_name("link");
        // It leads to nothing yet.
        std::os::unix::fs::symlink(&destination.path, &link).unwrap();
        let scheme = destination.uri().split("://").next().unwrap().to_owned();
        let by_link = format!("{scheme}://{}", link.display());
        let source = server.cdc_uri("commerce");
        let command = |uri: &str| {
            let mut command = ingest(&source, &destination, &table);
            let at = command.iter().position(|argument| *argument == destination.uri()).unwrap();
            command[at] = uri.to_owned();
            command
        };
        // Killed, so that DuckDB leaves its log to the next one, which comes by another path.
        let mut first = Command::new(&command("")[0])
            .args(&command(&by_link)[1..])
            .args(["--source-uri", &format!("{source}&mode=stream")])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until("the lease is taken", || lease_of(&destination.path).exists());
        let refused = run(&command(&destination.uri()));
        assert!(error_of(&report(&refused.stdout)).contains("in use by another run"));
        first.kill().unwrap();
        first.wait().unwrap();
        let mut complaint = String::new();
        first.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
        assert_eq!(complaint, "");
        for (uri, more) in [(destination.uri(), 20..25), (by_link, 25..30)] {
            insert(&mut conn, &table, more, 0);
            let output = run(&command(&uri));
            assert_eq!(report(&output.stdout)["state"], "complete");
        }
        destination.assert_equals(&mut conn, &table);
    }
}
