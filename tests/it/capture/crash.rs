//! Killed at any moment, a run leaves what the next one completes.

use std::process::{Command, Stdio};
use std::time::Duration;

use planetscale_ingest::IngestOptions;

use super::fixture::{Destination, Kind, Random, binary_logs_stay, change, create, insert};
use crate::support::program;
use crate::support::servers::vitess_secure;

/// Twenty kills at random moments of copy and stream, with changes in between.
fn survive_kills(kind: Kind, keyspace: &str, seed: u64) {
    let _logs = binary_logs_stay();
    let server = vitess_secure();
    let tables = ["killed_a", "killed_b"].map(|name| format!("{name}_{kind:?}").to_lowercase());
    let mut conn = server.conn();
    for table in &tables {
        conn = create(server, keyspace, table);
        insert(&mut conn, table, 0..4_000, 0);
    }
    let destination = Destination::new(kind);
    let mut random = Random::new(seed);
    let mut killed = 0;
    let mut generation = 1;
    while killed < 20 {
        let mut child = Command::new(program("ingest"))
            .args(["--source-uri", &server.cdc_uri(keyspace), "--dest-uri", &destination.uri()])
            .args(["--source-table", &tables.join(","), "--progress", "off"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The writer goes on while the run does, for as long as the run may live.
        let moment = std::time::Instant::now() + Duration::from_millis(10 + random.below(350));
        while std::time::Instant::now() < moment {
            let table = &tables[usize::try_from(random.below(2)).unwrap()];
            change(&mut conn, table, &mut random, generation, keyspace == "commerce");
            generation += 1;
        }
        if child.try_wait().unwrap().is_none() {
            killed += 1;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    destination.capture_all(&server.cdc_uri(keyspace), &IngestOptions::new().with_tables(tables.clone()));
    for table in &tables {
        destination.assert_equals(&mut conn, table);
    }
}

#[test]
fn twenty_kills_lose_and_double_nothing_in_sqlite() {
    survive_kills(Kind::Sqlite, "commerce", 11);
}

#[test]
fn twenty_kills_lose_and_double_nothing_in_duckdb() {
    survive_kills(Kind::DuckDb, "commerce", 12);
}

#[test]
fn twenty_kills_lose_and_double_nothing_of_two_shards_in_sqlite() {
    survive_kills(Kind::Sqlite, "customer", 13);
}

#[test]
fn twenty_kills_lose_and_double_nothing_of_two_shards_in_duckdb() {
    survive_kills(Kind::DuckDb, "customer", 14);
}
