//! Tables of the size at which parts, groups of rows and queues count, compared row by row.

use mysql::Conn;
use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, Sink, Source, VerifyOptions, VerifyState, verify};

use crate::capture::fixture::{BOTH, Destination, Kind, binary_logs_stay, create_with};
use crate::support::servers::{Server, mysql, vitess};

#[path = "../../examples/timing/mod.rs"]
mod timing;

/// Rows that are added and compared at a time; vtgate takes and gives no more than it is allowed to.
const CHUNK: usize = timing::PART;

/// A new table with so many rows.
fn filled(server: &Server, table: &str, rows: u64) -> Conn {
    let mut conn = create_with(server, "commerce", table, timing::COLUMNS);
    for count in (0..rows).step_by(CHUNK) {
        conn.query_drop(timing::insert_rows(table, count)).unwrap();
    }
    conn
}

/// Compares every value of every row, as text; numbers in binary as what their text reads as.
fn assert_equals(conn: &mut Conn, destination: &Destination, table: &str, rows: u64) {
    let there = "id, small_str, medium_str, large_str, tiny_int, regular_int, big_int, float_val, decimal_val, bool_val, date_val, ts_val, ts_tz_val, \
                 json_val, extra_text";
    let mut here = there.to_owned();
    if destination.kind == Kind::DuckDb {
        here = here.replace("bool_val", "cast(bool_val as integer)");
        for moment in ["ts_val", "ts_tz_val"] {
            here = here.replace(moment, &format!("strftime({moment}, '%Y-%m-%d %H:%M:%S.%f')"));
        }
    }
    let mut compared = 0;
    for start in (1..=rows).step_by(CHUNK) {
        let range = format!("from {table} where id between {start} and {} order by id", start + CHUNK as u64 - 1);
        let expected: Vec<mysql::Row> = conn.query(format!("select {there} {range}")).unwrap();
        let found = destination.query(&format!("select {here} {range}"));
        assert_eq!(found.len(), expected.len(), "{:?} {range}", destination.kind);
        for (found, expected) in found.iter().zip(&expected) {
            for (cell, found) in found.iter().enumerate() {
                let expected: Option<String> = expected.get(cell).unwrap();
                let number = |text: &Option<String>| text.as_deref().map(|text| text.parse::<f64>().unwrap().to_bits());
                let is_equal = if cell == 7 { number(found) == number(&expected) } else { *found == expected };
                assert!(is_equal, "{:?} {table}: {found:?} for {expected:?}", destination.kind);
            }
        }
        compared += found.len() as u64;
    }
    assert_eq!(compared, rows);
    assert_eq!(destination.cell(&format!("select count(*) from {table}")), Some(rows.to_string()));
}

/// Copies, or captures, all rows into both kinds of destination.
fn assert_arrive(conn: &mut Conn, uri: &str, table: &str, rows: u64) {
    for kind in BOTH {
        let destination = Destination::new(kind);
        let report = destination.capture_all(uri, &IngestOptions::new().with_tables([table]));
        assert_eq!((report.tables[0].rows_read, report.tables[0].rows_inserted), (rows, rows));
        assert_equals(conn, &destination, table, rows);
    }
}

#[test]
fn a_million_rows_of_mysql_arrive_one_like_the_other() {
    const ROWS: u64 = 1_000_000;
    let server = mysql();
    let mut conn = filled(server, "large_whole", ROWS);
    assert_arrive(&mut conn, &server.uri("commerce"), "large_whole", ROWS);
    conn.query_drop("drop table large_whole").unwrap();
}

#[test]
fn three_hundred_thousand_rows_of_vitess_arrive_one_like_the_other_whole_and_captured() {
    const ROWS: u64 = 300_000;
    let server = vitess();
    let mut conn = filled(server, "large_captured", ROWS);
    for uri in [server.uri("commerce"), server.cdc_uri("commerce")] {
        assert_arrive(&mut conn, &uri, "large_captured", ROWS);
    }
    conn.query_drop("drop table large_captured").unwrap();
}

/// More rows have changed since the last run than a comparison looks at one by one.
#[test]
fn a_destination_that_is_far_behind_is_caught_up_with_before_it_is_compared() {
    const ROWS: usize = 300_000;
    let table = "large_behind";
    let _logs = binary_logs_stay();
    let server = vitess();
    let mut conn = create_with(server, "commerce", table, "id bigint not null primary key, note varchar(20)");
    let ids: Vec<String> = (0..ROWS).map(|id| format!("({id})")).collect();
    for part in ids.chunks(CHUNK) {
        conn.query_drop(format!("insert into {table} (id) values {}", part.join(","))).unwrap();
    }
    let destination = Destination::new(Kind::Sqlite);
    let options = IngestOptions::new().with_tables([table]);
    destination.capture_all(&server.cdc_uri("commerce"), &options);
    for start in (0..ROWS).step_by(CHUNK) {
        conn.query_drop(format!("update {table} set note = 'later' where id between {start} and {}", start + CHUNK - 1)).unwrap();
    }
    let source = Source::open(&server.cdc_uri("commerce")).unwrap();
    let mut sink = Sink::open(&destination.uri()).unwrap();
    let found = verify(&source, &mut sink, &VerifyOptions::new(options)).unwrap().tables.remove(0);
    assert_eq!((&found.state, found.source_rows, found.destination_rows), (&VerifyState::Equal, 300_000, 300_000), "{found:?}");
    assert!(!found.has_more && found.notes.is_empty(), "{found:?}");
    assert_eq!(destination.cell(&format!("select count(*) from {table} where note = 'later'")), Some(ROWS.to_string()));
    conn.query_drop(format!("drop table {table}")).unwrap();
}
