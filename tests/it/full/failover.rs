//! Processes of the cluster die or change their roles, in the middle of copies and of streams, while a writer goes on.

use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, Report, TableState};

use super::run::{Follower, Held, stir};
use crate::capture::fixture::{BOTH, Destination, Writer, create, insert, insert_large};
use crate::support::cluster::{Alone, alone};
use crate::support::servers::{Server, vitess_full};

/// So many that a copy is still under way when its first batch is written.
const COPIED: u64 = 16_000;

fn assert_complete(report: &Report, what: &str) {
    for table in &report.tables {
        assert_eq!(table.state, TableState::Complete, "{what}: {table:?}");
        assert_eq!(table.notes, Vec::<String>::new(), "{what}");
    }
}

/// Two runs stream one table and two are in the middle of the copy of another when the fault happens. None of them ends by it.
fn survive(name: &str, keyspace: &'static str, fault: impl FnOnce(&Server), mend: impl FnOnce(&Server)) {
    let _alone = alone(if name == "gate_killed" { Alone::Everywhere } else { Alone::In(keyspace) });
    let server = vitess_full();
    let [streamed, copied] = ["streamed", "copied"].map(|role| format!("{name}_{role}"));
    let mut conn = create(server, keyspace, &streamed);
    insert(&mut conn, &streamed, 0..1_000, 0);
    create(server, keyspace, &copied);
    insert_large(&mut conn, &copied, 0..COPIED);
    // A replica learns of new tables once a minute, in Vitess's own configuration once in half an hour, also when it becomes the primary.
    server.control("vtctl", &["ReloadSchemaKeyspace", keyspace]);
    let uri = server.cdc_uri(keyspace);
    let stream_options = IngestOptions::new().with_tables([&streamed]);
    let copy_options = IngestOptions::new().with_tables([&copied]);
    let streams = BOTH.map(Destination::new);
    let copies = BOTH.map(Destination::new);

    let writer = Writer::start_through_faults(server, keyspace, vec![streamed.clone()], 5);
    let mut following: Vec<Follower> = streams.iter().map(|to| Follower::start(to, &uri, &stream_options)).collect();
    let copying: Vec<Held> = copies.iter().map(|to| Held::start(to, &uri, &copy_options)).collect();
    copying.iter().for_each(Held::wait);
    for _ in 0..2 {
        following.iter_mut().for_each(Follower::wait_for_more);
    }

    stir(&mut conn, &copied, COPIED, 1);
    fault(server);
    // A tablet whose mysqld died does not serve again before every stream on it has ended, and a stream that nobody reads does not end.
    copying.iter().for_each(Held::release);
    mend(server);

    for (held, to) in copying.into_iter().zip(&copies) {
        let report = held.outcome().unwrap_or_else(|error| panic!("{:?}: {error:#}", to.kind));
        assert_complete(&report, name);
        // A copy that began anew would have read a part of them twice.
        assert!(report.tables[0].rows_read < COPIED + 200, "{name}: {report:?}");
    }
    following.iter_mut().for_each(Follower::wait_for_more);
    for run in following {
        assert_complete(&run.end().unwrap(), name);
    }
    drop(writer);
    let mut conn = server.conn();
    conn.query_drop(format!("use `{keyspace}`")).unwrap();
    stir(&mut conn, &copied, COPIED, 2);
    for (destinations, table, options) in [(&streams, &streamed, &stream_options), (&copies, &copied, &copy_options)] {
        for destination in destinations {
            assert_complete(&destination.capture_all(&uri, options), name);
            destination.assert_equals(&mut conn, table);
        }
    }
    conn.query_drop(format!("drop table {copied}")).unwrap();
}

#[test]
fn a_planned_reparent_is_survived() {
    let reparent = |server: &Server| {
        server.control("reparent", &["--shard", "commerce/0"]);
    };
    survive("reparented", "commerce", reparent, |_| {});
}

#[test]
fn a_killed_primary_vttablet_is_survived() {
    let tablet = |server: &Server| format!("vttablet-{}", server.primary_of("customer", "-80"));
    survive("tablet_killed", "customer", |server| server.kill(&tablet(server)), |server| server.restart(&tablet(server)));
}

#[test]
fn an_emergency_reparent_from_a_dead_primary_is_survived() {
    let dead = std::cell::OnceCell::new();
    let die = |server: &Server| {
        let tablet = dead.get_or_init(|| format!("vttablet-{}", server.primary_of("commerce", "0")));
        server.kill(tablet);
        server.control("reparent", &["--shard", "commerce/0", "--emergency"]);
    };
    survive("emergency", "commerce", die, |server| server.restart(dead.get().unwrap()));
}

#[test]
fn a_killed_vtgate_is_survived() {
    survive("gate_killed", "customer", |server| server.kill("vtgate"), |server| server.restart("vtgate"));
}

#[test]
fn a_restarted_mysqld_is_survived() {
    let mysqld = |server: &Server| format!("mysqld-{}", server.primary_of("commerce", "0"));
    survive("mysqld_restarted", "commerce", |server| server.stop(&mysqld(server)), |server| server.restart(&mysqld(server)));
}

#[test]
fn a_killed_mysqld_is_survived() {
    let mysqld = |server: &Server| format!("mysqld-{}", server.primary_of("customer", "80-"));
    survive("mysqld_killed", "customer", |server| server.kill(&mysqld(server)), |server| server.restart(&mysqld(server)));
}
