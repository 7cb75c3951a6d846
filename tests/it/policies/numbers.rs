//! Numbers beyond SQLite's, and dates that no calendar has.

use mysql::Conn;
use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, OutOfRange, ValueChange, ZeroDates};

use super::{changed, declared, error_of};
use crate::capture::fixture::{BOTH, Destination, Kind, binary_logs_stay, create_with};
use crate::support::servers::{mysql, vitess};

const NUMBERS: &str = "k bigint unsigned primary key, id int, n bigint unsigned, b bit(64), t text";

const ROWS: &str = "(1, 1, 0, 0, 'x'), (9223372036854775807, 2, 9223372036854775807, 9223372036854775807, 'x'), \
                    (9223372036854775808, 3, 9223372036854775808, 9223372036854775808, 'x'), \
                    (18446744073709551615, 4, 18446744073709551615, 18446744073709551615, 'x'), \
                    (18446744073709551614, 5, null, null, 'x')";

fn numbers(conn: &mut Conn, table: &str) -> Vec<Vec<Option<String>>> {
    type Row = (String, String, Option<String>, Option<String>);
    let sql = format!("select cast(id as char), cast(k as char), cast(n as char), cast(b + 0 as char) from {table} order by id");
    let rows: Vec<Row> = conn.query(sql).unwrap();
    rows.into_iter().map(|(id, k, n, b)| vec![Some(id), Some(k), n, b]).collect()
}

fn with(table: &str, policy: OutOfRange) -> IngestOptions {
    IngestOptions::new().with_tables([table]).with_out_of_range(policy)
}

/// The types in which SQLite holds the values of a column, by the rows' ids.
fn kinds(destination: &Destination, table: &str, column: &str) -> Vec<String> {
    let rows = destination.query(&format!("select typeof({column}) from {table} order by id"));
    rows.into_iter().map(|mut row| row.remove(0).unwrap()).collect()
}

#[test]
fn large_numbers_in_sqlite_are_mixed_and_counted_or_refused_or_text_for_all_rows() {
    let table = "large_numbers";
    let mut conn = create_with(mysql(), "commerce", table, NUMBERS);
    conn.query_drop(format!("insert into {table} values {ROWS}")).unwrap();
    let source = mysql().uri("commerce");
    let destination = Destination::new(Kind::Sqlite);
    let all = format!("select id, k, n, b from {table} order by id");

    let report = destination.capture_all(&source, &with(table, OutOfRange::Mixed));
    let as_text = ValueChange::NumberAsText;
    assert_eq!(changed(&report), [("b", as_text, 2), ("k", as_text, 3), ("n", as_text, 2)]);
    assert_eq!(destination.query(&all), numbers(&mut conn, table));
    assert_eq!(kinds(&destination, table, "n"), ["integer", "integer", "text", "text", "null"]);

    let error = error_of(&destination, &source, &with(table, OutOfRange::Error));
    assert!(error.contains("column `k`") && error.contains("beyond 2^63 - 1") && !error.contains("922"), "{error}");
    conn.query_drop(format!("delete from {table} where id > 2")).unwrap();
    destination.capture_all(&source, &with(table, OutOfRange::Error));
    assert!(declared(&destination, table).iter().all(|(column, declared)| column == "t" || declared == "INTEGER"));
    assert_eq!(destination.query(&all), numbers(&mut conn, table));

    let report = destination.capture_all(&source, &with(table, OutOfRange::Text));
    assert_eq!(changed(&report), []);
    assert_eq!(destination.query(&all), numbers(&mut conn, table));
    assert_eq!([kinds(&destination, table, "n"), kinds(&destination, table, "b")].concat(), ["text"; 4]);

    // What the README says of their order.
    conn.query_drop(format!("insert into {table} values (10, 6, 10, 10, 'x'), (10000000000000000000, 7, 10000000000000000000, 1, 'x')"))
        .unwrap();
    conn.query_drop(format!("insert into {table} values (9223372036854775808, 3, 9223372036854775808, 1, 'x')")).unwrap();
    for policy in [OutOfRange::Mixed, OutOfRange::Text] {
        destination.capture_all(&source, &with(table, policy));
        let found = destination.query(&format!("select id from {table} order by length(n), n"));
        let expected: Vec<Vec<Option<String>>> =
            conn.query_map(format!("select id from {table} order by n"), |id: i64| vec![Some(id.to_string())]).unwrap();
        assert_eq!(found, expected, "{policy:?}");
    }
    // DuckDB holds them all.
    let destination = Destination::new(Kind::DuckDb);
    for policy in [OutOfRange::Mixed, OutOfRange::Error, OutOfRange::Text] {
        assert_eq!(changed(&destination.capture_all(&source, &with(table, policy))), []);
        assert_eq!(
            destination.cell(&format!("select typeof(n) || ' ' || n from {table} order by n desc")).as_deref(),
            Some("UBIGINT 10000000000000000000")
        );
    }
    conn.query_drop(format!("drop table {table}")).unwrap();
}

#[test]
fn large_numbers_as_keys_are_found_again() {
    let _stay = binary_logs_stay();
    let source = vitess().cdc_uri("commerce");
    for (kind, policy) in [(Kind::Sqlite, OutOfRange::Mixed), (Kind::Sqlite, OutOfRange::Text), (Kind::DuckDb, OutOfRange::Error)] {
        let table = "large_keys";
        let mut conn = create_with(vitess(), "commerce", table, NUMBERS);
        conn.query_drop(format!("insert into {table} (k, id, n, b, t) values {ROWS}")).unwrap();
        let destination = Destination::new(kind);
        let options = with(table, policy);
        let all = match kind {
            Kind::Sqlite => format!("select id, k, n, b from {table} where not _cdc_deleted order by id"),
            Kind::DuckDb => format!("select id, k, n, cast(b as ubigint) from {table} where not _cdc_deleted order by id"),
        };
        destination.capture_all(&source, &options);
        assert_eq!(destination.query(&all), numbers(&mut conn, table), "{kind:?} {policy:?}");
        // In runs of their own: as floating-point numbers all of these keys are one or two.
        for statement in [
            format!("update {table} set n = 18446744073709551613 where k = 18446744073709551614"),
            format!("update {table} set n = 5, b = 5 where k = 18446744073709551615"),
            format!("insert into {table} (k, id, n) values (9223372036854775809, 6, 9223372036854775809)"),
            format!("delete from {table} where k = 9223372036854775808"),
        ] {
            conn.query_drop(statement).unwrap();
            destination.capture_all(&source, &options);
            assert_eq!(destination.query(&all), numbers(&mut conn, table), "{kind:?} {policy:?}");
        }
        if kind == Kind::Sqlite {
            let other = if policy == OutOfRange::Mixed { OutOfRange::Text } else { OutOfRange::Mixed };
            let error = error_of(&destination, &source, &with(table, other));
            assert!(error.contains("`large_keys.k` is") && error.contains("full_refresh"), "{error}");
            destination.capture_all(&source, &with(table, other).with_full_refresh(true));
            assert_eq!(destination.query(&all), numbers(&mut conn, table), "{kind:?} {policy:?}");
        }
        conn.query_drop(format!("drop table {table}")).unwrap();
    }
}

#[test]
fn dates_that_become_null_are_counted_once_for_each_row_that_is_written() {
    let _stay = binary_logs_stay();
    let source = vitess().cdc_uri("commerce");
    let table = "counted_dates";
    for kind in BOTH {
        let mut conn = create_with(vitess(), "commerce", table, "id int primary key, d date, at datetime");
        conn.query_drop("set sql_mode = ''").unwrap();
        conn.query_drop(format!("insert into {table} (id, d, at) values (1, 0, 0), (2, '2016-07-00', '2024-01-02'), (3, null, 0)"))
            .unwrap();
        let destination = Destination::new(kind);
        let options = IngestOptions::new().with_tables([table]);
        let null = ValueChange::ZeroDateToNull;
        let expected = |counts: &[(&'static str, u64)]| match kind {
            Kind::Sqlite => Vec::new(),
            Kind::DuckDb => counts.iter().map(|&(column, count)| (column, null, count)).collect::<Vec<_>>(),
        };
        assert_eq!(changed(&destination.capture_all(&source, &options)), expected(&[("at", 2), ("d", 2)]));
        for day in ["2016-00-00", "2016-05-00", "2016-06-00", "2016-07-00"] {
            conn.query_drop(format!("update {table} set d = '{day}' where id = 3")).unwrap();
        }
        conn.query_drop(format!("insert into {table} (id, d) values (4, 0)")).unwrap();
        conn.query_drop(format!("update {table} set d = '2024-01-02' where id = 4")).unwrap();
        assert_eq!(changed(&destination.capture_all(&source, &options)), expected(&[("at", 1), ("d", 1)]));
        assert_eq!(changed(&destination.capture_all(&source, &options)), []);

        let text = options.clone().with_zero_dates(ZeroDates::Text);
        if kind == Kind::DuckDb {
            let error = error_of(&destination, &source, &text);
            assert!(error.contains("`counted_dates.d` is DATE in the destination") && error.contains("full_refresh"), "{error}");
        }
        let report = destination.capture_all(&source, &text.with_full_refresh(true));
        assert_eq!(changed(&report), []);
        assert_eq!(destination.cell(&format!("select d from {table} where id = 3")).as_deref(), Some("2016-07-00"));
        conn.query_drop(format!("drop table {table}")).unwrap();
    }
}
