//! Tables of the size at which parts, groups of rows and queues count, compared row by row.

use mysql::Conn;
use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, Sink, Source, ingest};

use crate::capture::fixture::{BOTH, Destination, Kind};
use crate::support::servers::{mysql, vitess};

#[path = "../../examples/timing/mod.rs"]
mod timing;

/// Rows that are compared at a time; vtgate answers with no more than it is allowed to.
const CHUNK: usize = 5_000;

/// Neither server takes a recursive query or this many rows everywhere: digits make the numbers.
fn fill(conn: &mut Conn, table: &str, rows: u64) {
    conn.query_drop(format!("drop table if exists {table}")).unwrap();
    conn.query_drop(format!("create table {table} ({})", timing::COLUMNS)).unwrap();
    let names: Vec<&str> = timing::COLUMNS.split(", ").filter_map(|column| column.split_whitespace().next()).collect();
    let digit = "(select 0 d union all select 1 union all select 2 union all select 3 union all select 4 union all select 5 union all select 6 \
                 union all select 7 union all select 8 union all select 9)";
    let half = "(select 0 d union all select 1 union all select 2 union all select 3 union all select 4)";
    for start in (0..rows).step_by(5_000) {
        let numbers =
            format!("select {start} + 1 + a.d + 10 * b.d + 100 * c.d + 1000 * e.d as n from {digit} a, {digit} b, {digit} c, {half} e");
        let row = timing::ROW;
        conn.query_drop(format!("insert into {table} ({}) select {row} from ({numbers}) as s", names.join(", "))).unwrap();
    }
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

#[test]
fn a_million_rows_of_mysql_arrive_one_like_the_other() {
    const ROWS: u64 = 1_000_000;
    let server = mysql();
    let mut conn = server.conn();
    conn.query_drop("use commerce").unwrap();
    fill(&mut conn, "large_whole", ROWS);
    for kind in BOTH {
        let destination = Destination::new(kind);
        let source = Source::open(&server.uri("commerce")).unwrap();
        let mut sink = Sink::open(&destination.uri()).unwrap();
        let report = ingest(&source, &mut sink, &IngestOptions::new().with_tables(["large_whole"])).unwrap();
        assert!(report.is_complete(), "{report:?}");
        assert_eq!((report.tables[0].rows_read, report.tables[0].rows_inserted), (ROWS, ROWS));
        drop(sink);
        assert_equals(&mut conn, &destination, "large_whole", ROWS);
    }
    conn.query_drop("drop table large_whole").unwrap();
}

#[test]
fn three_hundred_thousand_rows_of_vitess_arrive_one_like_the_other_whole_and_captured() {
    const ROWS: u64 = 300_000;
    let server = vitess();
    let mut conn = server.conn();
    conn.query_drop("use commerce").unwrap();
    fill(&mut conn, "large_captured", ROWS);
    for kind in BOTH {
        for uri in [server.uri("commerce"), server.cdc_uri("commerce")] {
            let destination = Destination::new(kind);
            let report = destination.capture_all(&uri, &IngestOptions::new().with_tables(["large_captured"]));
            assert_eq!(report.tables[0].rows_read, ROWS);
            assert_equals(&mut conn, &destination, "large_captured", ROWS);
        }
    }
    conn.query_drop("drop table large_captured").unwrap();
}
