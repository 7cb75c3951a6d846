//! Positions that cannot be resumed from: each fails the run, by its kind, before anything is written.

use std::process::Command;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use planetscale_ingest::{ErrorKind, IngestOptions, Lsn, PositionFault, ShardGtid, Sink, TableName, Vgtid};

use super::fixture::{BOTH, Destination, Kind, binary_logs_may_go, binary_logs_stay, create, insert};
use crate::support::program;
use crate::support::servers::{Server, vitess};

const FOREIGN: &str = "MySQL56/11111111-2222-3333-4444-555555555555:1-5";

fn captured(server: &Server, kind: Kind, keyspace: &str, table: &str) -> (Destination, mysql::Conn, IngestOptions) {
    let mut conn = create(server, keyspace, table);
    insert(&mut conn, table, 0..20, 0);
    let destination = Destination::new(kind);
    let options = IngestOptions::new().with_tables([table]);
    destination.capture_all(&server.cdc_uri(keyspace), &options);
    insert(&mut conn, table, 20..30, 0);
    (destination, conn, options)
}

/// The greatest position of a table and that of its checkpoint become `text`, with their own ordinal.
fn forge(destination: &Destination, table: &str, payload: &str) {
    let ordinal = "00000000000000009000:000000";
    destination.execute(&format!("update {table} set _cdc_lsn = '{ordinal}:{payload}' where id = 5"));
}

fn payload(shards: Vec<ShardGtid>) -> String {
    Lsn::new(0).with_payload(Vgtid::new(shards)).to_string()[28..].to_owned()
}

fn executed(conn: &mut mysql::Conn) -> String {
    conn.query_first::<String, _>("select @@global.gtid_executed").unwrap().unwrap().replace('\n', "")
}

/// The run fails by `fault` within seconds, and the destination is as it was.
pub fn assert_refused(destination: &Destination, uri: &str, table: &str, options: &IngestOptions, fault: PositionFault) {
    let content = |destination: &Destination| {
        let mut rows = destination.query(&format!("select * from {table} order by id"));
        rows.extend(destination.query("select * from _ingest_checkpoint order by 1"));
        rows
    };
    let before = content(destination);
    let begun = Instant::now();
    let error = destination.capture(uri, options).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(error.kind(), ErrorKind::Position(fault), "{error:?}");
    assert!(format!("{error:#}").contains("full_refresh"), "{error:?}");
    assert_eq!(content(destination), before);
    let status = Command::new(program("ingest"))
        .args(["--source-uri", uri, "--dest-uri", &destination.uri(), "--source-table", table, "--progress", "off"])
        .output()
        .unwrap();
    assert!(!status.status.success());
    assert_eq!(content(destination), before);
}

#[test]
fn positions_that_no_server_could_serve_are_refused() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for kind in BOTH {
        let table = format!("refused_{kind:?}").to_lowercase();
        let (destination, mut conn, options) = captured(server, kind, "commerce", &table);
        let own = executed(&mut conn);
        let uuid = own.split(':').next().unwrap().to_owned();
        let shard = |keyspace: &str, shard: &str, gtid: &str| ShardGtid::new(keyspace, shard, gtid);
        let cases = [
            ("not base64 !".to_owned(), PositionFault::Unreadable),
            ("AAAA".to_owned(), PositionFault::Unreadable),
            (payload(vec![shard("commerce", "0", "nonsense")]), PositionFault::Unreadable),
            (payload(vec![shard("elsewhere", "0", &format!("MySQL56/{own}"))]), PositionFault::Keyspace),
            (payload(vec![shard("commerce", "-80", &format!("MySQL56/{own}"))]), PositionFault::Shards),
            (payload(vec![shard("commerce", "0", &format!("MySQL56/{uuid}:1-99999999"))]), PositionFault::Ahead),
            (payload(vec![shard("commerce", "0", FOREIGN)]), PositionFault::Foreign),
        ];
        for (payload, fault) in cases {
            forge(&destination, &table, &payload);
            assert_refused(&destination, &server.cdc_uri("commerce"), &table, &options, fault);
        }
        // A full refresh is the way out.
        destination.capture_all(&server.cdc_uri("commerce"), &options.clone().with_full_refresh(true));
        destination.assert_equals(&mut conn, &table);
    }
}

#[test]
fn a_damaged_checkpoint_is_refused() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for kind in BOTH {
        let table = format!("damaged_{kind:?}").to_lowercase();
        let (destination, _, options) = captured(server, kind, "commerce", &table);
        let good = destination.cell("select position from _ingest_checkpoint").unwrap();
        for damaged in
            ["", "copied", "copied 1:2:3", "moved 00000000000000000002:000000:AAAA", &good.replace("copied", "copying done"), &good[..60]]
        {
            destination.execute(&format!("update _ingest_checkpoint set position = '{damaged}'"));
            assert_refused(&destination, &server.cdc_uri("commerce"), &table, &options, PositionFault::Unreadable);
        }
    }
}

#[test]
fn a_position_that_was_edited_at_any_byte_is_unreadable_or_says_the_same() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for kind in BOTH {
        let table = format!("edited_{kind:?}").to_lowercase();
        let (destination, mut conn, options) = captured(server, kind, "customer", &table);
        let first = destination.cell(&format!("select max(_cdc_lsn) from {table}")).unwrap();
        destination.capture_all(&server.cdc_uri("customer"), &options);
        let position = || {
            let mut sink = Sink::open(&destination.uri()).unwrap();
            sink.position(&TableName::new(&table), &table).map(|stored| stored.unwrap().checkpoint().position().clone())
        };
        let edited = |text: &str, at: usize| {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'1' { b'0' } else { b'1' };
            String::from_utf8(bytes).unwrap()
        };
        // The text does not depend on where it is stored, and DuckDB takes long to open.
        let step = if kind == Kind::Sqlite { 1 } else { 11 };
        let good = destination.cell("select position from _ingest_checkpoint").unwrap();
        for at in (0..good.len()).step_by(step) {
            destination.execute(&format!("update _ingest_checkpoint set position = '{}'", edited(&good, at)));
            assert_eq!(position().unwrap_err().position_fault(), Some(PositionFault::Unreadable), "{kind:?} {at}");
        }
        // Without a checkpoint, by the rows alone. A smaller number leaves the position before it as the greatest.
        destination.execute("drop table _ingest_checkpoint");
        let last = destination.cell(&format!("select max(_cdc_lsn) from {table} where _cdc_lsn not like '%:-'")).unwrap();
        let says = |lsn: &str| lsn.parse::<Lsn>().unwrap().into_payload().unwrap();
        assert_ne!(says(&first), says(&last));
        for at in (0..last.len()).step_by(step) {
            let damaged = edited(&last, at);
            destination.execute(&format!("update {table} set _cdc_lsn = '{damaged}' where _cdc_lsn = '{last}'"));
            match position() {
                Ok(found) => assert!([says(&first), says(&last)].contains(&found), "{kind:?} {at}"),
                Err(error) => assert_eq!(error.position_fault(), Some(PositionFault::Unreadable), "{kind:?} {at}"),
            }
            destination.execute(&format!("update {table} set _cdc_lsn = '{last}' where _cdc_lsn = '{damaged}'"));
        }
        destination.capture_all(&server.cdc_uri("customer"), &options);
        destination.assert_equals(&mut conn, &table);
    }
}

#[test]
fn rows_without_any_position_are_not_merged_upon() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for kind in BOTH {
        let table = format!("unknown_{kind:?}").to_lowercase();
        let (destination, _, options) = captured(server, kind, "commerce", &table);
        destination.execute(&format!("update {table} set _cdc_lsn = null; delete from _ingest_checkpoint"));
        assert_refused(&destination, &server.cdc_uri("commerce"), &table, &options, PositionFault::Missing);
    }
}

#[test]
fn a_table_resumes_from_its_rows_when_the_checkpoint_is_lost() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for keyspace in ["commerce", "customer"] {
        for kind in BOTH {
            let table = format!("lost_{kind:?}").to_lowercase();
            let (destination, mut conn, options) = captured(server, kind, keyspace, &table);
            destination.capture_all(&server.cdc_uri(keyspace), &options);
            destination.execute("drop table _ingest_checkpoint");
            conn.query_drop(format!("delete from {table} where id < 5")).unwrap();
            conn.query_drop(format!("update {table} set name = 'resumed' where id = 25")).unwrap();
            let report = destination.capture_all(&server.cdc_uri(keyspace), &options);
            assert_eq!(report.tables[0].rows_deleted, 5);
            assert!(report.tables[0].rows_inserted < 20, "the table was copied anew");
            destination.assert_equals(&mut conn, &table);
        }
    }
}

#[test]
fn a_table_with_the_position_on_every_row_resumes() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for kind in BOTH {
        let table = format!("older_{kind:?}").to_lowercase();
        let (destination, mut conn, options) = captured(server, kind, "commerce", &table);
        // As an older tool leaves it: no table of checkpoints, and every row with the whole position.
        let position = destination.cell("select substr(position, 8, length(position) - 16) from _ingest_checkpoint").unwrap();
        destination.execute(&format!("update {table} set _cdc_lsn = '{position}'; drop table _ingest_checkpoint"));
        let report = destination.capture_all(&server.cdc_uri("commerce"), &options);
        assert_eq!(report.tables[0].rows_inserted, 10);
        destination.assert_equals(&mut conn, &table);
    }
}

#[test]
fn a_purged_position_is_refused_and_a_checkpoint_that_moved_on_is_not() {
    let _logs = binary_logs_may_go();
    let server = vitess();
    for kind in BOTH {
        let table = format!("purged_{kind:?}").to_lowercase();
        let (destination, mut conn, options) = captured(server, kind, "commerce", &table);
        // Another destination goes on with a table that nothing happens to; its rows keep their old position.
        let quiet = format!("quiet_{kind:?}").to_lowercase();
        let (follower, mut quiet_conn, quiet_options) = captured(server, kind, "commerce", &quiet);
        follower.capture_all(&server.cdc_uri("commerce"), &quiet_options);
        insert(&mut conn, &table, 30..40, 0);
        follower.capture_all(&server.cdc_uri("commerce"), &quiet_options);
        server.control("purge", &[]);
        assert_refused(&destination, &server.cdc_uri("commerce"), &table, &options, PositionFault::Purged);
        insert(&mut quiet_conn, &quiet, 40..45, 0);
        follower.capture_all(&server.cdc_uri("commerce"), &quiet_options);
        follower.assert_equals(&mut quiet_conn, &quiet);
        destination.capture_all(&server.cdc_uri("commerce"), &options.clone().with_full_refresh(true));
        destination.assert_equals(&mut conn, &table);
    }
}
