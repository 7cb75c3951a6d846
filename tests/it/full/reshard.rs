//! Shards that are split while and between runs.

use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, PositionFault};

use super::run::{Follower, Held, run_batches};
use crate::capture::fixture::{BOTH, Destination, Kind, Random, change, create, insert, insert_large};
use crate::capture::positions::assert_refused;
use crate::support::cluster::{Keyspace, Reshard, in_peace};

#[test]
fn a_reshard_is_followed_by_a_stream_and_by_the_next_run_and_is_named_when_the_old_shards_are_gone() {
    let _peace = in_peace("sharded_split");
    let keyspace = Keyspace::new("sharded_split", "-80,80-", 1);
    let (server, uri) = (keyspace.server, keyspace.uri());
    let mut conn = create(server, "sharded_split", "t");
    create(server, "sharded_split", "large");
    insert(&mut conn, "t", 0..1_000, 0);
    insert_large(&mut conn, "large", 0..6_000);
    let options = IngestOptions::new().with_tables(["t"]);
    let copying = IngestOptions::new().with_tables(["large"]);
    let mut random = Random::new(5);
    let mut generation = 1;
    let mut change_some = |conn: &mut mysql::Conn| {
        for _ in 0..20 {
            change(conn, "t", &mut random, generation, false);
            generation += 1;
        }
    };
    let between = BOTH.map(Destination::new);
    let after = BOTH.map(Destination::new);
    for destination in between.iter().chain(&after) {
        destination.capture_all(&uri, &options);
    }
    let interrupted = Destination::new(Kind::Sqlite);
    assert!(!run_batches(&interrupted, &uri, &["large".to_owned()], 1).unwrap().caught_up);
    let held_at = Destination::new(Kind::Sqlite);
    let held = Held::start(&held_at, &uri, &copying);
    held.wait();
    let live = BOTH.map(Destination::new);
    let mut followers: Vec<Follower> = live.iter().map(|destination| Follower::start(destination, &uri, &options)).collect();
    followers.iter_mut().for_each(|follower| follower.wait_beyond(999));

    change_some(&mut conn);
    keyspace.reshard("-80", "-40,40-80", Reshard::Switch);
    // Rows on both sides of what was copied, on shards that are no more.
    conn.query_drop("delete from large where id in (1, 2, 3, 5990, 5991, 5992)").unwrap();
    change_some(&mut conn);
    for destination in &between {
        for _ in 0..2 {
            destination.capture_all(&uri, &options);
            destination.assert_equals(&mut conn, "t");
            change_some(&mut conn);
        }
    }
    let report = interrupted.capture_all(&uri, &copying);
    assert!(report.tables[0].notes.iter().any(|note| note.contains("copied anew") && note.contains("resharded")), "{report:?}");
    interrupted.assert_equals(&mut conn, "large");
    // One that was in the middle of its copy goes to its end, and the next run is where the source is.
    held.release();
    let report = held.outcome().unwrap();
    assert!(report.is_complete(), "{report:?}");
    held_at.capture_all(&uri, &copying);
    held_at.assert_equals(&mut conn, "large");

    keyspace.reshard("-80", "-40,40-80", Reshard::Complete);
    change_some(&mut conn);
    for destination in &after {
        assert_refused(destination, &uri, "t", &options, PositionFault::Shards);
        let error = destination.capture(&uri, &options).unwrap_err().to_string();
        assert!(["`-80`, `80-`", "`-40`, `40-80`, `80-`"].iter().all(|shards| error.contains(shards)), "{error}");
        destination.capture_all(&uri, &options.clone().with_full_refresh(true));
        destination.assert_equals(&mut conn, "t");
    }
    // What went over to the new shards in time does not need the old ones.
    for destination in &between {
        destination.capture_all(&uri, &options);
        destination.assert_equals(&mut conn, "t");
    }
    for (follower, destination) in followers.iter_mut().zip(&live) {
        let rows = follower.rows();
        change_some(&mut conn);
        follower.wait_beyond(rows);
        assert!(destination.path.exists());
    }
    for (follower, destination) in followers.into_iter().zip(&live) {
        follower.end().unwrap();
        destination.capture_all(&uri, &options);
        destination.assert_equals(&mut conn, "t");
    }
}
