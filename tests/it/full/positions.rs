//! Positions that were good until something happened to the servers.

use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, PositionFault, TableState};

use super::run::run_batches;
use crate::capture::fixture::{BOTH, COLUMNS, Destination, Kind, create, insert, insert_large};
use crate::capture::positions::assert_refused;
use crate::support::cluster::{Keyspace, in_peace};
use crate::support::servers::{vitess, vitess_full};

#[test]
fn binary_logs_that_are_purged_on_the_tablet_in_use_are_found_out_and_another_tablet_still_has_them() {
    let _peace = in_peace("purged");
    let keyspace = Keyspace::new("purged", "0", 2);
    let server = keyspace.server;
    let [primary, replica] = [0, 1].map(|index| &keyspace.tablets[index]);
    let uri = keyspace.uri();
    let on_replica = format!("{uri}&tablet_type=replica");
    let mut conn = create(server, "purged", "t");
    create(server, "purged", "interrupted");
    insert(&mut conn, "t", 0..50, 0);
    insert_large(&mut conn, "interrupted", 0..6_000);
    let options = IngestOptions::new().with_tables(["t"]);
    let interrupted_options = IngestOptions::new().with_tables(["interrupted"]);
    let destinations = BOTH.map(Destination::new);
    let interrupted = Destination::new(Kind::Sqlite);
    for destination in &destinations {
        destination.capture_all(&uri, &options);
    }
    assert!(!run_batches(&interrupted, &uri, &["interrupted".to_owned()], 1).unwrap().caught_up);
    insert(&mut conn, "t", 50..60, 0);
    conn.query_drop("delete from interrupted where id in (5, 5995)").unwrap();
    server.control("purge", &[primary]);
    insert(&mut conn, "t", 60..70, 0);
    for destination in &destinations {
        assert_refused(destination, &uri, "t", &options, PositionFault::Purged);
        destination.capture_all(&on_replica, &options);
        destination.assert_equals(&mut conn, "t");
    }
    assert_refused(&interrupted, &uri, "interrupted", &interrupted_options, PositionFault::Purged);

    insert(&mut conn, "t", 70..80, 0);
    server.control("purge", &[primary, replica]);
    for destination in &destinations {
        assert_refused(destination, &uri, "t", &options, PositionFault::Purged);
        assert_refused(destination, &on_replica, "t", &options, PositionFault::Purged);
        destination.capture_all(&uri, &options.clone().with_full_refresh(true));
        destination.assert_equals(&mut conn, "t");
    }
    interrupted.capture_all(&uri, &interrupted_options.with_full_refresh(true));
    interrupted.assert_equals(&mut conn, "interrupted");
}

#[test]
fn a_replica_that_is_behind_the_position_that_its_primary_told_is_waited_for() {
    let _peace = in_peace("behind");
    let keyspace = Keyspace::new("behind", "0", 2);
    let server = keyspace.server;
    let replica = &keyspace.tablets[1];
    let uri = keyspace.uri();
    let on_replica = |limit: &str| format!("{uri}&tablet_type=replica&retry_timeout={limit}");
    let mut conn = create(server, "behind", "t");
    insert(&mut conn, "t", 0..50, 0);
    let options = IngestOptions::new().with_tables(["t"]);
    let destination = Destination::new(Kind::Sqlite);
    destination.capture_all(&uri, &options);
    // It goes on, some seconds late, so that Vitess finds nothing wrong with it.
    for statement in ["stop replica sql_thread", "change replication source to source_delay = 30", "start replica sql_thread"] {
        server.on_tablet(replica, statement);
    }
    insert(&mut conn, "t", 50..60, 0);
    conn.query_drop("delete from t where id = 7").unwrap();
    let changed = Instant::now();
    destination.capture_all(&uri, &options);
    assert_refused(&destination, &on_replica("1s"), "t", &options, PositionFault::Ahead);
    assert!(changed.elapsed() < Duration::from_secs(30), "the replica was not behind any more");
    destination.capture_all(&on_replica("120s"), &options);
    assert!(changed.elapsed() > Duration::from_secs(20), "{:?}", changed.elapsed());
    destination.assert_equals(&mut conn, "t");
}

#[test]
fn a_server_that_was_put_back_from_an_older_backup_is_found_out() {
    let _peace = in_peace("restored");
    let keyspace = Keyspace::new("restored", "0", 1);
    let server = keyspace.server;
    let tablet = &keyspace.tablets[0];
    let uri = keyspace.uri();
    let options = IngestOptions::new().with_tables(["t"]);
    let mut conn = create(server, "restored", "t");
    insert(&mut conn, "t", 0..50, 0);
    server.control("save", &[tablet]);
    let destinations = BOTH.map(Destination::new);
    let mut conn = server.conn();
    conn.query_drop("use restored").unwrap();
    insert(&mut conn, "t", 50..60, 0);
    for id in 60..70 {
        insert(&mut conn, "t", id..id + 1, 0);
    }
    for destination in &destinations {
        destination.capture_all(&uri, &options);
    }

    server.control("restore", &[tablet]);
    for destination in &destinations {
        assert_refused(destination, &uri, "t", &options, PositionFault::Ahead);
    }
    // A backup that is restored in order comes up under a new identity, and goes on.
    server.control("restore", &[tablet, "--new-uuid"]);
    let mut conn = server.conn();
    conn.query_drop("use restored").unwrap();
    for id in 100..120 {
        insert(&mut conn, "t", id..id + 1, 1);
    }
    for destination in &destinations {
        assert_refused(destination, &uri, "t", &options, PositionFault::Ahead);
        destination.capture_all(&uri, &options.clone().with_full_refresh(true));
        destination.assert_equals(&mut conn, "t");
    }
}

#[test]
fn another_database_at_the_same_address_is_found_out() {
    let _peace = in_peace("commerce");
    let [first, second] = [vitess(), vitess_full()];
    for kind in BOTH {
        let table = format!("elsewhere_{kind:?}").to_lowercase();
        let options = IngestOptions::new().with_tables([&table]);
        let destination = Destination::new(kind);
        for server in [first, second] {
            let mut conn = create(server, "commerce", &table);
            insert(&mut conn, &table, 0..30, 0);
        }
        destination.capture_all(&first.cdc_uri("commerce"), &options);
        assert_refused(&destination, &second.cdc_uri("commerce"), &table, &options, PositionFault::Foreign);
    }
}

#[test]
fn a_keyspace_that_was_emptied_and_made_anew_is_found_out() {
    let _peace = in_peace("emptied");
    let options = IngestOptions::new().with_tables(["t"]);
    let destinations = BOTH.map(Destination::new);
    let fill = |keyspace: &Keyspace, generation| {
        let mut conn = create(keyspace.server, "emptied", "t");
        insert(&mut conn, "t", 0..30, generation);
        conn
    };
    let first = Keyspace::new("emptied", "0", 1);
    fill(&first, 0);
    for destination in &destinations {
        destination.capture_all(&first.uri(), &options);
    }
    drop(first);
    let second = Keyspace::new("emptied", "0", 1);
    let mut conn = fill(&second, 1);
    for destination in &destinations {
        assert_refused(destination, &second.uri(), "t", &options, PositionFault::Foreign);
        destination.capture_all(&second.uri(), &options.clone().with_full_refresh(true));
        destination.assert_equals(&mut conn, "t");
    }

    // On the same server. The stream does not tell of DROP DATABASE.
    let anew = format!(
        "drop database vt_emptied; create database vt_emptied; use vt_emptied; create table t ({COLUMNS}); \
         insert into t (id) values (5), (500)"
    );
    second.server.on_tablet(&second.tablets[0], &anew);
    second.server.control("vtctl", &["ReloadSchemaKeyspace", "emptied"]);
    for destination in &destinations {
        let report = destination.capture(&second.uri(), &options).unwrap();
        let TableState::Failed { error } = &report.tables[0].state else { panic!("{report:?}") };
        assert!(error.contains("made anew") && error.contains("full_refresh"), "{error}");
        destination.capture_all(&second.uri(), &options.clone().with_full_refresh(true));
        destination.assert_equals(&mut conn, "t");
    }
}
