//! Tables that MoveTables takes to another keyspace.

use planetscale_ingest::{ErrorKind, IngestOptions, TableState};

use super::run::Follower;
use crate::capture::fixture::{BOTH, Destination, create, insert};
use crate::support::cluster::{Keyspace, in_peace};

/// The stream stays with the old keyspace, which Vitess keeps up to date until the move is completed, and drops the table from then.
#[test]
fn a_table_that_moves_away_is_followed_until_it_is_gone_and_then_named() {
    let _peace = in_peace("left");
    let [from, to] = [Keyspace::new("left", "0", 1), Keyspace::new("taken", "0", 1)];
    let server = from.server;
    let uri = from.uri();
    let mut conn = create(server, "left", "moved");
    create(server, "left", "stays");
    for table in ["moved", "stays"] {
        insert(&mut conn, table, 0..200, 0);
    }
    let options = IngestOptions::new().with_tables(["moved", "stays"]);
    let destinations = BOTH.map(Destination::new);
    let [between, live] = &destinations;
    between.capture_all(&uri, &options);
    live.capture_all(&uri, &options);
    let mut run = Follower::start(live, &uri, &options);
    let workflow = |action: &[&str]| {
        let mut arguments = vec!["MoveTables", "--workflow", "away", "--target-keyspace", to.name];
        arguments.extend(action);
        server.control("vtctl", &arguments)
    };
    workflow(&["create", "--source-keyspace", "left", "--tables", "moved", "--tablet-types", "PRIMARY", "--auto-start"]);
    // SwitchTraffic itself waits until the target has caught up.
    let before = run.rows();
    insert(&mut conn, "moved", 200..300, 0);
    run.wait_beyond(before);
    workflow(&["SwitchTraffic"]);
    let before = run.rows();
    insert(&mut conn, "moved", 300..400, 0);
    run.wait_beyond(before);
    between.capture_all(&uri, &options);
    between.assert_equals(&mut conn, "moved");

    let before = run.rows();
    workflow(&["Complete"]);
    insert(&mut conn, "stays", 200..220, 0);
    run.wait_beyond(before);
    let report = run.end().unwrap();
    let state = |table: &str| &report.tables.iter().find(|report| report.source == table).unwrap().state;
    let TableState::Failed { error } = state("moved") else { panic!("{report:?}") };
    assert!(error.contains("`moved` was dropped at the source"), "{error}");
    assert_eq!(*state("stays"), TableState::Complete);
    live.assert_equals(&mut conn, "stays");
    for destination in &destinations {
        let error = destination.capture(&uri, &options).unwrap_err();
        assert_eq!((error.kind(), error.table()), (ErrorKind::Schema, Some("moved")), "{error:?}");
        destination.capture_all(&uri, &IngestOptions::new().with_tables(["stays"]));
        destination.assert_equals(&mut conn, "stays");
        assert_eq!(destination.rows("moved").len(), 400);
    }
}
