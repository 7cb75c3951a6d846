//! Snapshot, stream and resume.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use planetscale_ingest::{Cancel, IngestOptions, Sink, Source, TableName, ingest};

use super::fixture::{BOTH, Destination, Kind, Writer, binary_logs_stay, create, insert};
use crate::support::servers::{vitess, vitess_secure};

/// A copy and five incremental runs while a writer keeps changing the tables, over TLS with a password.
fn follow_a_writer(keyspace: &'static str, tables: &[&str], kind: Kind) {
    let _logs = binary_logs_stay();
    let server = vitess_secure();
    let names: Vec<String> = tables.iter().map(|table| format!("{table}_{kind:?}").to_lowercase()).collect();
    let mut conn = server.conn();
    for name in &names {
        conn = create(server, keyspace, name);
        insert(&mut conn, name, 0..1_500, 0);
    }
    let destination = Destination::new(kind);
    let options = IngestOptions::new().with_tables(names.clone());
    let uri = server.cdc_uri(keyspace);
    let writer = Writer::start(server, keyspace, names.clone(), 7);
    for _ in 0..6 {
        destination.capture_all(&uri, &options);
        let paused = writer.pause();
        // What the writer did after the first run's stop position.
        destination.capture_all(&uri, &options);
        for name in &names {
            destination.assert_equals(&mut conn, name);
        }
        drop(paused);
    }
}

#[test]
fn three_tables_of_an_unsharded_keyspace_follow_a_writer_into_sqlite() {
    follow_a_writer("commerce", &["follow_a", "follow_b", "follow_c"], Kind::Sqlite);
}

#[test]
fn three_tables_of_an_unsharded_keyspace_follow_a_writer_into_duckdb() {
    follow_a_writer("commerce", &["follow_a", "follow_b", "follow_c"], Kind::DuckDb);
}

#[test]
fn a_table_on_two_shards_follows_a_writer_into_sqlite() {
    follow_a_writer("customer", &["follow"], Kind::Sqlite);
}

#[test]
fn a_table_on_two_shards_follows_a_writer_into_duckdb() {
    follow_a_writer("customer", &["follow"], Kind::DuckDb);
}

#[test]
fn deleted_rows_stay_marked_with_their_values_or_go() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for kind in BOTH {
        for hard in [false, true] {
            let table = format!("deletes_{kind:?}_{hard}").to_lowercase();
            let mut conn = create(server, "commerce", &table);
            insert(&mut conn, &table, 1..6, 0);
            let destination = Destination::new(kind);
            let options = IngestOptions::new().with_tables([&table]).with_hard_delete(hard);
            destination.capture_all(&server.cdc_uri("commerce"), &options);
            let name = destination.cell(&format!("select name from {table} where id = 2"));
            conn.query_drop(format!("delete from {table} where id = 2")).unwrap();
            // A row that comes and goes between two runs.
            conn.query_drop(format!("insert into {table} (id, name) values (9, 'short')")).unwrap();
            conn.query_drop(format!("delete from {table} where id = 9")).unwrap();
            let report = destination.capture_all(&server.cdc_uri("commerce"), &options);
            assert_eq!((report.tables[0].rows_deleted, report.tables[0].rows_inserted), (2, 1));
            let left = destination.query(&format!("select id, name from {table} where _cdc_deleted order by id"));
            let expected = if hard { vec![] } else { vec![vec![Some("2".into()), name], vec![Some("9".into()), Some("short".into())]] };
            assert_eq!(left, expected, "{kind:?}");
            destination.assert_equals(&mut conn, &table);
        }
    }
}

#[test]
fn positions_sort_like_the_stream_and_the_last_row_that_is_written_at_once_carries_the_vgtid() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for kind in BOTH {
        let table = format!("lsn_{kind:?}").to_lowercase();
        let mut conn = create(server, "commerce", &table);
        insert(&mut conn, &table, 1..4, 0);
        let destination = Destination::new(kind);
        let options = IngestOptions::new().with_tables([&table]);
        destination.capture_all(&server.cdc_uri("commerce"), &options);
        conn.query_drop(format!("insert into {table} (id) values (5), (6), (7)")).unwrap();
        conn.query_drop(format!("update {table} set name = 'x' where id = 1")).unwrap();
        destination.capture_all(&server.cdc_uri("commerce"), &options);
        let rows = destination.query(&format!("select id, _cdc_lsn from {table} order by _cdc_lsn"));
        let ids: Vec<&str> = rows.iter().map(|row| row[0].as_deref().unwrap()).collect();
        assert_eq!(ids, ["2", "3", "5", "6", "7", "1"]);
        for row in &rows {
            let (id, lsn) = (row[0].as_deref().unwrap(), row[1].as_deref().unwrap());
            let lsn = planetscale_ingest::Lsn::parse(lsn).unwrap();
            assert_eq!(lsn.payload().is_some(), ["3", "1"].contains(&id), "row {id}");
        }
    }
}

#[test]
fn a_run_with_nothing_to_do_is_quick_and_moves_the_checkpoint_past_other_tables_changes() {
    let _logs = binary_logs_stay();
    let server = vitess();
    let mut other = create(server, "commerce", "busy_neighbour");
    for kind in BOTH {
        let table = format!("idle_{kind:?}").to_lowercase();
        let mut conn = create(server, "commerce", &table);
        insert(&mut conn, &table, 0..10, 0);
        let destination = Destination::new(kind);
        let options = IngestOptions::new().with_tables([&table]);
        destination.capture_all(&server.cdc_uri("commerce"), &options);
        let position = "select position from _ingest_checkpoint";
        let before = destination.cell(position);
        insert(&mut other, "busy_neighbour", if kind == Kind::Sqlite { 0..10 } else { 10..20 }, 0);
        let begun = Instant::now();
        let report = destination.capture_all(&server.cdc_uri("commerce"), &options);
        // It waits for nothing: neither for a heartbeat (5 s) nor for the next change.
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert_eq!(report.tables[0].rows_read, 0);
        assert_ne!(destination.cell(position), before);
        destination.assert_equals(&mut conn, &table);
    }
}

#[test]
fn a_new_table_is_copied_in_the_run_in_which_the_others_resume() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for kind in BOTH {
        let [old, new] = ["old", "new"].map(|name| format!("joins_{name}_{kind:?}").to_lowercase());
        let mut conn = create(server, "commerce", &old);
        insert(&mut conn, &old, 0..200, 0);
        let destination = Destination::new(kind);
        destination.capture_all(&server.cdc_uri("commerce"), &IngestOptions::new().with_tables([&old]));
        create(server, "commerce", &new);
        insert(&mut conn, &new, 0..300, 1);
        conn.query_drop(format!("delete from {old} where id < 50")).unwrap();
        conn.query_drop(format!("update {old} set id = id + 1000 where id between 60 and 69")).unwrap();
        let both = IngestOptions::new().with_tables([&old, &new]);
        let report = destination.capture_all(&server.cdc_uri("commerce"), &both);
        assert_eq!(report.tables[1].rows_inserted, 300);
        for table in [&old, &new] {
            destination.assert_equals(&mut conn, table);
        }
        assert_eq!(destination.cell(&format!("select count(*) from {old} where _cdc_deleted")).as_deref(), Some("60"));
        // Both end at one position, so the next run has nothing to skip for either.
        let positions = destination.query("select distinct substr(position, 36, length(position) - 44) from _ingest_checkpoint");
        assert_eq!(positions.len(), 1, "{positions:?}");
    }
}

#[test]
fn without_a_list_every_table_of_the_keyspace_comes_into_the_schema_that_was_named() {
    let _logs = binary_logs_stay();
    let server = vitess();
    let mut conn = create(server, "customer", "everything");
    insert(&mut conn, "everything", 0..100, 0);
    let destination = Destination::new(Kind::DuckDb);
    let uri = format!("{}&dest_schema=shop", server.cdc_uri("customer"));
    let report = destination.capture(&uri, &IngestOptions::new()).unwrap();
    let captured: Vec<&str> = report.tables.iter().map(|table| table.source.as_str()).collect();
    for table in ["customer", "purchase", "everything"] {
        assert!(captured.contains(&table), "{captured:?}");
    }
    assert!(report.tables.iter().all(|table| table.destination.starts_with("shop.")));
    assert_eq!(destination.cell("select count(*) from shop.everything").as_deref(), Some("100"));
}

#[test]
fn a_transaction_larger_than_the_memory_for_one_arrives_whole() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for kind in BOTH {
        let table = format!("large_{kind:?}").to_lowercase();
        let mut conn = create(server, "commerce", &table);
        conn.query_drop(format!("alter table {table} modify note mediumtext")).unwrap();
        insert(&mut conn, &table, 0..3_000, 0);
        let destination = Destination::new(kind);
        let options = IngestOptions::new().with_tables([&table]);
        destination.capture_all(&server.cdc_uri("commerce"), &options);
        // 90 MB of after images and as much again of before images, in one transaction.
        conn.query_drop("begin").unwrap();
        for start in (0..3_000).step_by(300) {
            conn.query_drop(format!(
                "update {table} set note = repeat(char(65 + id % 26), 30000) where id between {start} and {}",
                start + 299
            ))
            .unwrap();
        }
        conn.query_drop(format!("delete from {table} where id % 7 = 0")).unwrap();
        conn.query_drop("commit").unwrap();
        let report = destination.capture_all(&server.cdc_uri("commerce"), &options);
        assert!(report.tables[0].bytes > 80 << 20, "{}", report.tables[0].bytes);
        destination.assert_equals(&mut conn, &table);
        conn.query_drop(format!("drop table {table}")).unwrap();
    }
}

#[test]
fn a_stream_goes_on_until_it_is_cancelled_and_keeps_what_it_committed() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for kind in BOTH {
        let table = format!("endless_{kind:?}").to_lowercase();
        let mut conn = create(server, "commerce", &table);
        insert(&mut conn, &table, 0..10, 0);
        let destination = Destination::quick(kind);
        let cancel = Cancel::new();
        let (seen, rows) = mpsc::channel();
        let options = IngestOptions::new().with_tables([&table]).with_cancel(cancel.clone()).with_progress(move |progress| {
            let _ = seen.send(progress.rows);
        });
        let uri = format!("{}&mode=stream", server.cdc_uri("commerce"));
        let (sink_uri, run) = (destination.uri(), uri.clone());
        let thread = std::thread::spawn(move || {
            let source = Source::open(&run).unwrap();
            let mut sink = Sink::open(&sink_uri).unwrap();
            ingest(&source, &mut sink, &options)
        });
        let wait_for = |count: u64| while rows.recv_timeout(Duration::from_secs(20)).unwrap() < count {};
        wait_for(10);
        insert(&mut conn, &table, 10..20, 0);
        wait_for(20);
        cancel.cancel();
        let begun = Instant::now();
        let report = thread.join().unwrap().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert!(report.is_complete());
        destination.assert_equals(&mut conn, &table);
    }
}

#[test]
fn a_full_refresh_takes_the_place_of_the_old_table_when_it_is_complete() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for kind in BOTH {
        let table = format!("refresh_{kind:?}").to_lowercase();
        let mut conn = create(server, "commerce", &table);
        insert(&mut conn, &table, 0..50, 0);
        let destination = Destination::new(kind);
        let options = IngestOptions::new().with_tables([&table]).with_dest_table(TableName::new("refreshed"));
        destination.capture_all(&server.cdc_uri("commerce"), &options);
        destination.execute("update refreshed set name = 'damaged'; delete from refreshed where id = 7");
        destination.capture_all(&server.cdc_uri("commerce"), &options.clone().with_full_refresh(true));
        assert_eq!(destination.rows("refreshed"), super::fixture::source_rows(&mut conn, &table));
        // And it resumes from the new copy.
        conn.query_drop(format!("delete from {table} where id = 3")).unwrap();
        let report = destination.capture_all(&server.cdc_uri("commerce"), &options);
        assert_eq!((report.tables[0].rows_read, report.tables[0].rows_deleted), (1, 1));
        assert_eq!(destination.rows("refreshed"), super::fixture::source_rows(&mut conn, &table));
    }
}
