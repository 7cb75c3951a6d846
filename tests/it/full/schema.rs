//! Changes of the tables themselves, between runs and while a run streams.

use std::time::{Duration, Instant};

use mysql::Conn;
use mysql::prelude::Queryable;
use planetscale_ingest::{Error, IngestOptions, Report, TableState};

use super::run::{Follower, PATIENCE};
use crate::capture::fixture::{BOTH, Destination, Kind, create_with};
use crate::support::cluster::in_peace;
use crate::support::servers::{once_known, vitess_full};
use Outcome::{Anew, Follows, FollowsOneShard, FollowsOrRefused, Refused};

const COLUMNS: &str = "id bigint not null primary key, a varchar(20), b varchar(20), n int, k int not null default 5";
const FIRST_ROWS: &str =
    "insert into {} (id, a, b, n) values (1, 'a1', 'b1', 1), (2, 'a2', 'b2', 2), (3, 'old a3', 'old b3', 3), (4, 'a4', 'b4', 4)";
/// What happens to rows between the last run and the change of the table.
const MORE_ROWS: [&str; 3] = [
    "insert into {} (id, a, b, n) values (10, 'a10', 'b10', 10), (11, 'a11', 'b11', 11)",
    "update {} set b = 'b2.2' where id = 2",
    "delete from {} where id = 4",
];

struct Case {
    name: &'static str,
    change: &'static [&'static str],
    /// Adds rows and changes older ones once the table is changed.
    then: &'static [&'static str],
    /// What becomes of it between two runs.
    between: Outcome,
    /// What becomes of it while a run streams.
    live: Outcome,
}

/// In every case but the last, the destination equals the source afterwards.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    Follows,
    /// Where there are two shards, which change one after the other, the table may be copied anew.
    FollowsOneShard,
    /// The table is copied anew, and the report says so.
    Anew,
    /// As the destination is able to.
    FollowsOrRefused(&'static [&'static str]),
    /// By an error with these words, and `full_refresh` is the way out.
    Refused(&'static [&'static str]),
}

const CASES: &[Case] = &[
    Case {
        name: "added_last",
        change: &["alter table {} add column c varchar(20) not null default 'dflt'"],
        then: &["insert into {} (id, a, b, n, c) values (90, 'a90', 'b90', 90, 'c90')", "update {} set c = 'c3' where id = 3"],
        between: FollowsOneShard,
        live: FollowsOneShard,
    },
    Case {
        name: "added_within",
        change: &["alter table {} add column c varchar(20) not null default 'dflt' after id"],
        then: &["insert into {} (id, a, b, n, c) values (90, 'a90', 'b90', 90, 'c90')", "update {} set c = 'c3' where id = 3"],
        between: Anew,
        live: FollowsOneShard,
    },
    Case {
        name: "dropped",
        change: &["alter table {} drop column a"],
        then: &["insert into {} (id, b, n) values (90, 'b90', 90)", "update {} set b = 'b3' where id = 3"],
        between: Anew,
        live: Follows,
    },
    Case {
        name: "dropped_last",
        change: &["alter table {} drop column k"],
        then: &["insert into {} (id, b, n) values (90, 'b90', 90)", "update {} set b = 'b3' where id = 3"],
        between: Anew,
        live: Follows,
    },
    Case {
        name: "renamed_column",
        change: &["alter table {} rename column a to aa"],
        then: &["insert into {} (id, aa, b, n) values (90, 'a90', 'b90', 90)", "update {} set b = 'b3' where id = 3"],
        between: Anew,
        live: Anew,
    },
    Case {
        name: "widened",
        change: &["alter table {} modify n bigint, modify a varchar(300)"],
        then: &["insert into {} (id, a, b, n) values (90, repeat('a', 200), 'b90', 5000000000)"],
        between: Follows,
        live: Follows,
    },
    Case {
        name: "narrowed",
        change: &["alter table {} modify n smallint, modify a varchar(10)"],
        then: &["insert into {} (id, a, b, n) values (90, 'a90', 'b90', 90)"],
        between: FollowsOrRefused(&["`n`", "SMALLINT"]),
        live: FollowsOrRefused(&["`n`", "SMALLINT"]),
    },
    Case {
        name: "reordered",
        change: &["alter table {} modify b varchar(20) after id"],
        then: &["insert into {} (id, a, b, n) values (90, 'a90', 'b90', 90)", "update {} set b = 'b3' where id = 3"],
        between: Anew,
        live: Follows,
    },
    Case {
        name: "replaced_column",
        change: &["alter table {} drop column a, add column c varchar(20) after id"],
        then: &["insert into {} (id, c, b, n) values (90, 'c90', 'b90', 90)", "update {} set b = 'b3' where id = 3"],
        between: Anew,
        live: Follows,
    },
    Case {
        name: "key_changed",
        change: &["alter table {} drop primary key, add primary key (id, k)"],
        then: &["insert into {} (id, a, b, n, k) values (90, 'a90', 'b90', 90, 1), (90, 'a91', 'b91', 91, 2)"],
        between: FollowsOrRefused(&["key_changed"]),
        live: Refused(&["another primary key", "add primary key (id, k)"]),
    },
    Case {
        name: "retyped",
        change: &["alter table {} modify n varchar(30)"],
        then: &["insert into {} (id, a, b, n) values (90, 'a90', 'b90', 'ninety')"],
        between: Refused(&["`n`", "varchar(30)"]),
        live: Refused(&["`n`", "int", "varchar(30)"]),
    },
    Case {
        name: "truncated",
        change: &["truncate table {}"],
        then: &["insert into {} (id, a, b, n) values (3, 'a3', 'b3', 3), (90, 'a90', 'b90', 90)"],
        between: FollowsOneShard,
        live: FollowsOneShard,
    },
    Case {
        name: "made_anew",
        change: &[
            "drop table {}",
            "create table {} (id bigint not null primary key, a varchar(20), b varchar(20), n int, k int not null default 5)",
        ],
        then: &["insert into {} (id, a, b, n) values (3, 'a3', 'b3', 3), (90, 'a90', 'b90', 90)"],
        between: Refused(&["DROP TABLE"]),
        live: Refused(&["DROP TABLE"]),
    },
    Case {
        name: "swapped",
        change: &[
            "drop table if exists {}_new, {}_old",
            "create table {}_new (id bigint not null primary key, a varchar(20), b varchar(20), n int, k int not null default 5)",
            "insert into {}_new (id, a, b, n) values (3, 'a3', 'b3', 3), (80, 'a80', 'b80', 80)",
            "rename table {} to {}_old, {}_new to {}",
        ],
        then: &["insert into {} (id, a, b, n) values (90, 'a90', 'b90', 90)"],
        between: Anew,
        live: Anew,
    },
    Case {
        name: "indexed",
        change: &["alter table {} add index by_a (a), comment 'with an index'"],
        then: &["insert into {} (id, a, b, n) values (90, 'a90', 'b90', 90)", "update {} set b = 'b3' where id = 3"],
        between: Follows,
        live: Follows,
    },
];

fn execute(conn: &mut Conn, statements: &[&str], table: &str) {
    for statement in statements {
        let sql = statement.replace("{}", table);
        once_known(&sql, || conn.query_drop(&sql));
    }
}

/// The rows with the columns that the source has now, as text, on both sides.
fn assert_equals(conn: &mut Conn, destination: &Destination, table: &str) {
    let columns: Vec<String> = conn.query_map(format!("show columns from {table}"), |row: mysql::Row| row.get(0).unwrap()).unwrap();
    let cast = |kind: &str| columns.iter().map(|name| format!("cast({name} as {kind})")).collect::<Vec<_>>().join(", ");
    let sql = format!("select {} from {table}", cast("char"));
    let source: Vec<mysql::Row> = once_known(&sql, || conn.query(&sql));
    let mut source: Vec<Vec<Option<String>>> =
        source.into_iter().map(|row| (0..columns.len()).map(|cell| row.get(cell).unwrap()).collect()).collect();
    let mut found = destination.query(&format!("select {} from {table} where not _cdc_deleted", cast("varchar")));
    source.sort();
    found.sort();
    assert_eq!(found, source, "{:?} {table} {columns:?}", destination.kind);
}

/// What the outcome of a run says of one table: how many notes, or the error.
fn outcome_of(outcome: &Result<Report, Error>, table: &str) -> Result<Vec<String>, String> {
    match outcome {
        Err(error) => Err(format!("{error:#}")),
        Ok(report) => {
            let report = report.tables.iter().find(|report| report.source == table).unwrap();
            match &report.state {
                TableState::Failed { error } => Err(error.clone()),
                _ => Ok(report.notes.clone()),
            }
        }
    }
}

fn check(conn: &mut Conn, destination: &Destination, uri: &str, table: &str, expected: Outcome, outcome: &Result<Report, Error>) {
    let said = outcome_of(outcome, table);
    let context = format!("{:?} {table}: {said:?}", destination.kind);
    match (expected, &said) {
        (Follows, Ok(notes)) => assert!(notes.is_empty(), "{context}"),
        (FollowsOneShard, Ok(notes)) => assert!(notes.is_empty() || uri.contains("/customer"), "{context}"),
        (Anew, Ok(notes)) => assert!(!notes.is_empty() && notes.iter().all(|note| note.starts_with("copied anew: ")), "{context}"),
        (FollowsOrRefused(_), Ok(_)) => {}
        (Refused(words) | FollowsOrRefused(words), Err(error)) => {
            assert!(words.iter().all(|word| error.contains(word)), "{context}");
            destination.capture_all(uri, &IngestOptions::new().with_tables([table]).with_full_refresh(true));
        }
        _ => panic!("{context}, but {expected:?} was expected"),
    }
    assert_equals(conn, destination, table);
}

fn between_runs(keyspace: &str, kind: Kind) {
    let _peace = in_peace(keyspace);
    let server = vitess_full();
    let uri = server.cdc_uri(keyspace);
    for case in CASES {
        if keyspace == "customer" && case.name == "swapped" {
            // A table of a new name would have to be routed first.
            continue;
        }
        let destination = Destination::new(kind);
        let table = format!("between_{kind:?}_{}", case.name).to_lowercase();
        let mut conn = create_with(server, keyspace, &table, COLUMNS);
        execute(&mut conn, &[FIRST_ROWS], &table);
        let options = IngestOptions::new().with_tables([&table]);
        destination.capture_all(&uri, &options);
        execute(&mut conn, &MORE_ROWS, &table);
        execute(&mut conn, case.change, &table);
        execute(&mut conn, case.then, &table);
        let outcome = destination.capture(&uri, &options);
        check(&mut conn, &destination, &uri, &table, case.between, &outcome);
        // And on it goes from there.
        execute(&mut conn, &["delete from {} where id in (3, 90)"], &table);
        assert!(destination.capture_all(&uri, &options).tables[0].notes.is_empty(), "{}", case.name);
        assert_equals(&mut conn, &destination, &table);
    }
}

#[test]
fn a_table_that_changes_between_runs_is_followed_or_copied_anew_or_refused_into_sqlite() {
    between_runs("commerce", Kind::Sqlite);
}

#[test]
fn a_table_that_changes_between_runs_is_followed_or_copied_anew_or_refused_into_duckdb() {
    between_runs("commerce", Kind::DuckDb);
}

#[test]
fn a_table_of_two_shards_that_changes_between_runs_is_followed_or_copied_anew_or_refused() {
    between_runs("customer", Kind::Sqlite);
}

/// One run streams them all, so that what ends one table has to leave the others alone.
fn while_a_run_streams(keyspace: &str) {
    let _peace = in_peace(keyspace);
    let server = vitess_full();
    let uri = server.cdc_uri(keyspace);
    let cases: Vec<&Case> = CASES
        .iter()
        .filter(|case| !matches!(case.live, FollowsOrRefused(_)) && (keyspace == "commerce" || case.name != "swapped"))
        .collect();
    let tables: Vec<String> = cases.iter().map(|case| format!("live_{}", case.name)).chain(["live_marker".to_owned()]).collect();
    let mut conn = server.conn();
    for table in &tables {
        conn = create_with(server, keyspace, table, COLUMNS);
        execute(&mut conn, &[FIRST_ROWS], table);
    }
    let options = IngestOptions::new().with_tables(&tables);
    let destinations = BOTH.map(Destination::new);
    let mut runs = destinations.each_ref().map(|to| {
        to.capture_all(&uri, &options);
        Follower::start(to, &uri, &options)
    });
    let mut marks = 100;
    let mut pass = |conn: &mut Conn, runs: &mut [Follower]| {
        let before: Vec<u64> = runs.iter().map(Follower::rows).collect();
        // On both shards, where there are two.
        let values: Vec<String> = (marks..marks + 8).map(|id| format!("({id})")).collect();
        marks += 8;
        conn.query_drop(format!("insert into live_marker (id) values {}", values.join(","))).unwrap();
        for (run, before) in runs.iter_mut().zip(before) {
            run.wait_beyond(before);
        }
    };
    for (case, table) in cases.iter().zip(&tables) {
        execute(&mut conn, &MORE_ROWS, table);
        pass(&mut conn, &mut runs);
        execute(&mut conn, case.change, table);
        execute(&mut conn, case.then, table);
        pass(&mut conn, &mut runs);
    }
    for (run, destination) in runs.into_iter().zip(&destinations) {
        let outcome = run.end();
        // What was still to come when it was ended.
        let ended = |table: &&String| outcome_of(&outcome, table).is_err();
        destination.capture_all(&uri, &IngestOptions::new().with_tables(tables.iter().filter(|table| !ended(table)).cloned()));
        for (case, table) in cases.iter().zip(&tables) {
            check(&mut conn, destination, &uri, table, case.live, &outcome);
        }
        assert_equals(&mut conn, destination, "live_marker");
    }
}

#[test]
fn tables_that_change_while_a_run_streams_are_followed_or_copied_anew_or_ended_alone() {
    while_a_run_streams("commerce");
}

#[test]
fn tables_of_two_shards_that_change_while_a_run_streams_are_followed_or_copied_anew_or_ended_alone() {
    while_a_run_streams("customer");
}

/// Both shards get the same change, hours apart as it were, with rows of both before, between and after.
#[test]
fn shards_whose_tables_differ_for_a_while_are_followed_or_copied_anew() {
    let _peace = in_peace("customer");
    let server = vitess_full();
    let uri = server.cdc_uri("customer");
    let changes = [
        ("added", "alter table {} add column c varchar(20) not null default 'dflt'"),
        ("nullable", "alter table {} add column c varchar(20) after a"),
        ("dropped", "alter table {} drop column a"),
        ("renamed", "alter table {} rename column a to aa"),
        ("reordered", "alter table {} modify b varchar(20) after id"),
        ("widened", "alter table {} modify n bigint"),
    ];
    for (name, change) in changes {
        let table = format!("apart_{name}");
        let mut conn = create_with(server, "customer", &table, COLUMNS);
        let mut shards = ["-80", "80-"].map(|shard| {
            let mut conn = server.conn();
            conn.query_drop(format!("use `customer:{shard}`")).unwrap();
            conn
        });
        let more = |conn: &mut Conn, from: u64| {
            let rows: Vec<String> = (from..from + 10).map(|id| format!("({id}, 'b{id}', {id})")).collect();
            execute(conn, &[&format!("insert into {{}} (id, b, n) values {}", rows.join(", "))], &table);
            execute(conn, &[&format!("update {{}} set b = 'again' where id between {} and {}", from - 7, from - 3)], &table);
        };
        more(&mut conn, 10);
        let options = IngestOptions::new().with_tables([&table]);
        let [batch, streamed] = BOTH.map(Destination::new);
        for destination in [&batch, &streamed] {
            destination.capture_all(&uri, &options);
        }
        let mut run = Follower::start(&streamed, &uri, &options);
        for (index, shard) in shards.iter_mut().enumerate() {
            let from = 20 + 20 * index as u64;
            let before = run.rows();
            more(&mut conn, from);
            run.wait_beyond(before);
            execute(shard, &[change], &table);
            more(&mut conn, from + 10);
            if index == 0 {
                batch.capture_all(&uri, &options);
            }
        }
        run.end().unwrap();
        for destination in [&batch, &streamed] {
            destination.capture_all(&uri, &options);
            assert_equals(&mut conn, destination, &table);
        }
    }
}

#[test]
fn a_column_that_is_dropped_and_added_again_has_none_of_its_old_values() {
    let _peace = in_peace("commerce");
    let server = vitess_full();
    let uri = server.cdc_uri("commerce");
    for kind in BOTH {
        let table = format!("column_returns_{kind:?}").to_lowercase();
        let mut conn = create_with(server, "commerce", &table, COLUMNS);
        execute(&mut conn, &[FIRST_ROWS], &table);
        let destination = Destination::new(kind);
        let options = IngestOptions::new().with_tables([&table]);
        destination.capture_all(&uri, &options);
        execute(&mut conn, &["alter table {} drop column b", "insert into {} (id, a) values (30, 'a30')"], &table);
        destination.capture_all(&uri, &options);
        execute(&mut conn, &["alter table {} add column b varchar(20)", "insert into {} (id, b) values (40, 'b40')"], &table);
        destination.capture_all(&uri, &options);
        assert_equals(&mut conn, &destination, &table);
    }
}

/// What happened to a table before it was captured may be unreadable, and is of no interest.
#[test]
fn a_table_that_joins_brings_no_trouble_from_before_its_copy() {
    let _peace = in_peace("commerce");
    let server = vitess_full();
    let uri = server.cdc_uri("commerce");
    for kind in BOTH {
        let tables = ["old", "new"].map(|name| format!("trouble_{name}_{kind:?}").to_lowercase());
        let [old, new] = &tables;
        let mut conn = create_with(server, "commerce", old, COLUMNS);
        create_with(server, "commerce", new, COLUMNS);
        execute(&mut conn, &[FIRST_ROWS], old);
        let destination = Destination::new(kind);
        destination.capture_all(&uri, &IngestOptions::new().with_tables([old]));
        execute(&mut conn, &[FIRST_ROWS, "alter table {} drop column a"], new);
        execute(&mut conn, &MORE_ROWS, old);
        let report = destination.capture_all(&uri, &IngestOptions::new().with_tables(&tables));
        assert!(report.tables.iter().all(|table| table.notes.is_empty()), "{report:?}");
        execute(&mut conn, &["insert into {} (id, b) values (50, 'b50')"], new);
        destination.capture_all(&uri, &IngestOptions::new().with_tables(&tables));
        for table in &tables {
            assert_equals(&mut conn, &destination, table);
        }
    }
}

/// Vitess's own online DDL: it copies the table beside and lets the new one take its place.
#[test]
fn an_online_ddl_is_followed_by_a_new_copy() {
    let _peace = in_peace("commerce");
    let server = vitess_full();
    let uri = server.cdc_uri("commerce");
    let tables = ["online_between".to_owned(), "online_live".to_owned()];
    let mut conn = server.conn();
    for table in &tables {
        conn = create_with(server, "commerce", table, COLUMNS);
        execute(&mut conn, &[FIRST_ROWS], table);
    }
    let [between, live] = BOTH.map(Destination::new);
    let options = [&tables[0], &tables[1]].map(|table| IngestOptions::new().with_tables([table]));
    between.capture_all(&uri, &options[0]);
    live.capture_all(&uri, &options[1]);
    let mut run = Follower::start(&live, &uri, &options[1]);
    let before = run.rows();
    tables.iter().for_each(|table| execute(&mut conn, &MORE_ROWS, table));
    run.wait_beyond(before);
    conn.query_drop("set @@ddl_strategy = 'vitess'").unwrap();
    let migrations: Vec<String> = tables
        .iter()
        .map(|table| {
            let sql =
                format!("alter table {table} drop column a, add column c varchar(20) not null default 'dflt' after id, modify n bigint");
            conn.query_first(sql).unwrap().unwrap()
        })
        .collect();
    conn.query_drop("set @@ddl_strategy = 'direct'").unwrap();
    let begun = Instant::now();
    for migration in &migrations {
        loop {
            let row: mysql::Row = conn.query_first(format!("show vitess_migrations like '{migration}'")).unwrap().unwrap();
            let status: String = row.get("migration_status").unwrap();
            assert!(status != "failed" && status != "cancelled", "{row:?}");
            if status == "complete" {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{row:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    let before = run.rows();
    let rest = ["insert into {} (id, b, n, c) values (90, 'b90', 5000000000, 'c90')", "update {} set b = 'b3' where id = 3"];
    tables.iter().for_each(|table| execute(&mut conn, &rest, table));
    run.wait_beyond(before);
    let followed = outcome_of(&run.end(), &tables[1]).unwrap();
    let resumed = outcome_of(&Ok(between.capture_all(&uri, &options[0])), &tables[0]).unwrap();
    live.capture_all(&uri, &options[1]);
    for (notes, destination, table) in [(followed, &live, &tables[1]), (resumed, &between, &tables[0])] {
        assert_eq!(notes, ["copied anew: another table took its place under the same name"]);
        assert_equals(&mut conn, destination, table);
    }
}
