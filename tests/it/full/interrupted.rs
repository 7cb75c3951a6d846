//! Copies that are interrupted anywhere go on from their last key, with rows behind and ahead of it changed and deleted meanwhile.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use mysql::prelude::Queryable;
use planetscale_ingest::IngestOptions;

use super::run::{run_batches, stir};
use crate::capture::fixture::{BOTH, Destination, create, insert, insert_large};
use crate::support::cluster::in_peace;
use crate::support::program;
use crate::support::servers::vitess_full;

/// At most so many changes does [`stir`] make.
const STIRRED: u64 = 100;

fn count(destination: &Destination, table: &str) -> u64 {
    destination.cell(&format!("select count(*) from {table}")).unwrap().parse().unwrap()
}

/// After so many rows of four kilobytes a part of them is committed in any destination.
const COMMITTED: u64 = 21_000;

/// Starts a run of its own and kills it when its first rows are committed.
fn kill_after_first_rows(destination: &Destination, uri: &str, table: &str) {
    let mut child = Command::new(program("ingest"))
        .args(["--source-uri", uri, "--dest-uri", &destination.uri(), "--source-table", table, "--progress", "json"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let rows = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok().and_then(|progress| progress["rows"].as_u64());
    let said: Vec<String> = lines.map_while(Result::ok).take_while(|line| rows(line).is_none_or(|rows| rows < COMMITTED)).collect();
    assert!(child.try_wait().unwrap().is_none(), "the run ended: {said:?}");
    child.kill().unwrap();
    child.wait().unwrap();
}

fn killed_within_a_large_table(keyspace: &'static str) {
    const ROWS: u64 = 60_000;
    let _peace = in_peace(keyspace);
    let server = vitess_full();
    let uri = server.cdc_uri(keyspace);
    let table = "interrupted_large";
    let mut conn = create(server, keyspace, table);
    insert_large(&mut conn, table, 0..ROWS);
    let destinations = BOTH.map(Destination::new);
    for generation in 0..2 {
        for destination in &destinations {
            let before = destination.path.exists().then(|| count(destination, table));
            kill_after_first_rows(destination, &uri, table);
            let after = count(destination, table);
            assert!(before.unwrap_or(0) < after && after < ROWS, "{before:?} {after}");
        }
        stir(&mut conn, table, ROWS, generation);
    }
    for destination in &destinations {
        let stored = count(destination, table);
        let report = destination.capture_all(&uri, &IngestOptions::new().with_tables([table]));
        let report = &report.tables[0];
        assert!(report.rows_read <= ROWS - stored + 2 * STIRRED, "{stored} were stored: {report:?}");
        assert!(report.notes.is_empty(), "{report:?}");
        destination.assert_equals(&mut conn, table);
    }
    conn.query_drop(format!("drop table {table}")).unwrap();
}

#[test]
fn a_copy_that_is_killed_twice_within_a_large_table_goes_on_from_its_last_key() {
    killed_within_a_large_table("commerce");
}

#[test]
fn a_copy_of_two_shards_that_is_killed_twice_within_a_large_table_goes_on_from_its_last_keys() {
    killed_within_a_large_table("customer");
}

#[test]
fn a_copy_of_many_tables_that_ends_after_each_of_them_copies_none_twice() {
    const TABLES: u64 = 8;
    const ROWS: u64 = 2_500;
    let server = vitess_full();
    for keyspace in ["commerce", "customer"] {
        let _peace = in_peace(keyspace);
        let uri = server.cdc_uri(keyspace);
        let tables: Vec<String> = (0..TABLES).map(|number| format!("interrupted_many_{number}")).collect();
        let mut conn = server.conn();
        for table in &tables {
            conn = create(server, keyspace, table);
            insert(&mut conn, table, 0..ROWS, 0);
        }
        let destinations = BOTH.map(Destination::new);
        let mut read = [0; 2];
        // One run for each copy, and a few that bring the tables to one position. They may overtake each other in that for as long as each run ends
        // after its first batch, so those runs need not come to an end.
        let generations = TABLES + 3;
        for generation in 0..generations {
            for (destination, read) in destinations.iter().zip(&mut read) {
                *read += run_batches(destination, &uri, &tables, 1).unwrap().rows;
                let copied = destination.cell("select count(*) from _ingest_checkpoint where position like 'copied %'").unwrap();
                assert_eq!(copied, (generation + 1).min(TABLES).to_string(), "{keyspace}, run {generation}");
            }
            for table in &tables {
                stir(&mut conn, table, ROWS, generation);
            }
        }
        for (destination, read) in destinations.iter().zip(read) {
            assert!(read <= TABLES * (ROWS + generations * STIRRED), "{keyspace}: {read}");
            destination.capture_all(&uri, &IngestOptions::new().with_tables(&tables));
            for table in &tables {
                destination.assert_equals(&mut conn, table);
            }
        }
    }
}

/// The last row alone fills a batch, so that one ends exactly between it and COPY_COMPLETED.
#[test]
fn a_copy_that_ends_between_the_last_row_and_its_completion_reads_no_row_again() {
    const ROWS: u64 = 2_000;
    let server = vitess_full();
    for keyspace in ["commerce", "customer"] {
        let _peace = in_peace(keyspace);
        let uri = server.cdc_uri(keyspace);
        let table = "interrupted_at_the_end";
        let mut conn = create(server, keyspace, table);
        conn.query_drop(format!("alter table {table} modify note longtext")).unwrap();
        insert_large(&mut conn, table, 0..ROWS);
        // On either shard the row with the greatest key.
        conn.query_drop(format!("insert into {table} (id, note) values ({}, repeat('z', 14000000))", u64::from(u32::MAX))).unwrap();
        let destinations = BOTH.map(Destination::new);
        for destination in &destinations {
            assert!(!run_batches(destination, &uri, &[table.to_owned()], 1).unwrap().caught_up);
            let stored = count(destination, table);
            let position = destination.cell("select position from _ingest_checkpoint").unwrap();
            assert!(position.starts_with("copying "), "{position}");
            assert!(keyspace == "customer" || stored == ROWS + 1, "{stored}");
        }
        stir(&mut conn, table, ROWS, 0);
        for destination in &destinations {
            let stored = count(destination, table);
            let report = destination.capture_all(&uri, &IngestOptions::new().with_tables([table]));
            let report = &report.tables[0];
            assert!(report.rows_read <= ROWS + 1 - stored + STIRRED, "{keyspace}: {stored} were stored, {}", report.rows_read);
            assert!(report.notes.is_empty(), "{report:?}");
            destination.assert_equals(&mut conn, table);
        }
        conn.query_drop(format!("drop table {table}")).unwrap();
    }
}
