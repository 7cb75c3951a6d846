//! Whole tables, from real servers into both destinations.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use planetscale_ingest::{
    Cancel, ErrorKind, IngestOptions, Report, ServerKind, Sink, Source, SourceOptions, Strategy, TableName, TableState, Tls, ZeroDates,
    ingest,
};

#[cfg(feature = "duckdb")]
use crate::support::files::duckdb_rows;
use crate::support::files::{Files, connected, printed, sqlite_rows};
use crate::support::names::{NAMES, at_source, columns, create, in_commerce, in_mysql, in_sql};
use crate::support::proxy::{Fault, Proxy, Way};
use crate::support::servers::{Server, mysql, route, unroute, vitess, vitess_secure};

/// The values of the first table that a policy has changed, by column.
fn changed(report: &Report) -> Vec<(&str, u64)> {
    report.tables[0].changed_values.iter().map(|changed| (changed.column.as_str(), changed.values)).collect()
}

fn copy(source_uri: &str, dest_uri: &str, options: &IngestOptions) -> Report {
    let source = Source::open(source_uri).unwrap();
    ingest(&source, &mut Sink::open(dest_uri).unwrap(), options).unwrap()
}

fn copied(source_uri: &str, dest_uri: &str, table: &str) -> Report {
    let report = copy(source_uri, dest_uri, &IngestOptions::new().with_tables([table]));
    assert!(report.is_complete(), "{report:?}");
    report
}

/// Fills a table with as many rows, ids counting from 1.
fn fill(conn: &mut mysql::Conn, table: &str, columns: &str, row: impl Fn(u64) -> String, rows: u64) {
    conn.query_drop(format!("drop table if exists `{table}`")).unwrap();
    conn.query_drop(format!("create table `{table}` (id bigint not null primary key, {columns})")).unwrap();
    let values: Vec<String> = (1..=rows).map(|id| format!("({id}, {})", row(id))).collect();
    let names: Vec<&str> = columns.split(", ").filter_map(|column| column.split(' ').next()).collect();
    for part in values.chunks(2_000) {
        conn.query_drop(format!("insert into `{table}` (id, {}) values {}", names.join(", "), part.join(","))).unwrap();
    }
}

#[derive(Clone, Copy)]
enum Compare {
    /// The same text.
    Text,
    /// The same 64-bit number.
    Double,
    /// The same 32-bit number.
    Float,
}

/// A declared type, values as SQL writes them, and how each side is made to print them: `?` is the column.
type Case = (&'static str, &'static [&'static str], &'static str, &'static str, &'static str, Compare);

const CASES: &[Case] = {
    use Compare::{Double, Float, Text};
    &[
        ("tinyint", &["-128", "127", "0"], "?", "?", "?", Text),
        ("tinyint unsigned", &["255", "0"], "?", "?", "?", Text),
        ("tinyint(1)", &["1", "-5"], "?", "?", "?", Text),
        ("smallint", &["-32768", "32767"], "?", "?", "?", Text),
        ("smallint unsigned", &["65535"], "?", "?", "?", Text),
        ("mediumint", &["-8388608", "8388607"], "?", "?", "?", Text),
        ("mediumint unsigned", &["16777215"], "?", "?", "?", Text),
        ("int", &["-2147483648", "2147483647"], "?", "?", "?", Text),
        ("int unsigned", &["4294967295"], "?", "?", "?", Text),
        ("int(8) unsigned zerofill", &["42", "0"], "?+0", "?", "?", Text),
        ("bigint", &["-9223372036854775808", "9223372036854775807"], "?", "?", "?", Text),
        ("bigint unsigned", &["18446744073709551615", "9223372036854775808", "9223372036854775807", "0"], "?", "?", "?", Text),
        ("decimal(4,2)", &["-99.99", "99.99", "0.05", "0"], "?", "?", "?", Text),
        ("decimal(9,3)", &["-999999.999", "0.001"], "?", "?", "?", Text),
        ("decimal(18,4)", &["-99999999999999.9999", "99999999999999.9999"], "?", "?", "?", Text),
        ("decimal(38,10)", &["-9999999999999999999999999999.9999999999", "0.0000000001"], "?", "?", "?", Text),
        (
            "decimal(65,30)",
            &["-99999999999999999999999999999999999.999999999999999999999999999999", "0.000000000000000000000000000001"],
            "?",
            "?",
            "?",
            Text,
        ),
        ("decimal(65,0)", &["99999999999999999999999999999999999999999999999999999999999999999"], "?", "?", "?", Text),
        ("decimal(10,2) zerofill", &["1.5"], "?+0", "?", "?", Text),
        ("float", &["3.99", "16777216", "-0.1", "3.402823e38", "1.1754944e-38"], "? * 1E0", "?", "?", Float),
        ("double", &["1.7976931348623157e308", "2.2250738585072014e-308", "0.1", "-1e0 * 0"], "?", "?", "?", Double),
        ("bit(1)", &["b'1'", "b'0'"], "?+0", "?", "cast(cast(? as varchar) as integer)", Text),
        ("bit(9)", &["b'100000001'"], "lpad(bin(?+0), 9, '0')", "case ? when 257 then '100000001' end", "?", Text),
        ("bit(64)", &["0xFFFFFFFFFFFFFFFE", "1"], "?+0", "?", "cast(cast(? as ubigint) as varchar)", Text),
        ("year", &["1901", "2155", "0"], "?+0", "?", "?", Text),
        ("date", &["'1000-01-01'", "'9999-12-31'", "'2024-02-29'"], "?", "?", "?", Text),
        ("datetime", &["'9999-12-31 23:59:59'", "'1000-01-01 00:00:00'"], "?", "?", "strftime(?, '%Y-%m-%d %H:%M:%S')", Text),
        ("datetime(6)", &["'2024-02-29 12:34:56.000001'"], "?", "?", "strftime(?, '%Y-%m-%d %H:%M:%S.%f')", Text),
        (
            "timestamp(3) null",
            &["'2038-01-19 03:14:07.999'", "'1970-01-01 00:00:01.001'"],
            "?",
            "?",
            "strftime(make_timestamp(epoch_us(?)), '%Y-%m-%d %H:%M:%S.%g')",
            Text,
        ),
        (
            "time",
            &["'838:59:59'", "'-838:59:59'", "'-00:00:01'"],
            "cast(time_to_sec(?) * 1000000 as signed)",
            "case ? when '838:59:59' then 3020399000000 when '-838:59:59' then -3020399000000 when '-00:00:01' then -1000000 end",
            "epoch_us(?)",
            Text,
        ),
        (
            "time(6)",
            &["'-838:59:58.900001'", "'00:00:00.000001'"],
            "?",
            "?",
            "case epoch_us(?) when -3020398900001 then '-838:59:58.900001' when 1 then '00:00:00.000001' end",
            Text,
        ),
        ("char(10)", &["'blank '", "''", "'ü☃🎉'"], "?", "?", "?", Text),
        ("varchar(100)", &["'thirteen bytes and more'", "'twelve bytes'", "'trailing '"], "?", "?", "?", Text),
        ("varchar(20) character set latin1", &["'ü€'"], "?", "?", "?", Text),
        ("varchar(20) character set utf16", &["'ü🎉'"], "?", "?", "?", Text),
        ("varchar(20) collate utf8mb4_bin", &["'B'"], "?", "?", "?", Text),
        ("longtext", &["repeat('long text ', 100000)"], "?", "?", "?", Text),
        ("binary(4)", &["0x01", "0x00FF00FF"], "hex(?)", "case when ? is not null then hex(?) end", "hex(?)", Text),
        ("varbinary(20)", &["0x00FF", "''"], "hex(?)", "case when ? is not null then hex(?) end", "hex(?)", Text),
        (
            "longblob",
            &["repeat(0x00FE, 100000)"],
            "sha2(?, 256)",
            "case hex(?) when replace(hex(zeroblob(100000)), '00', '00FE') then 1 end",
            "sha256(?)",
            Text,
        ),
        ("enum('a','b,c','it''s','')", &["'b,c'", "'it''s'", "''", "'a'"], "?", "?", "?", Text),
        ("set('x','y','z')", &["'z,x'", "''"], "?", "?", "?", Text),
        ("json", &["'{\"b\": [1, null, \"ü\"], \"a\": 1.5}'", "'null'", "'\"text\"'"], "?", "?", "?", Text),
        ("point", &["st_geomfromtext('POINT(1 2)', 4326)"], "hex(?)", "case when ? is not null then hex(?) end", "hex(?)", Text),
        (
            "geometry",
            &["st_geomfromtext('GEOMETRYCOLLECTION(POINT(1 2))')"],
            "hex(?)",
            "case when ? is not null then hex(?) end",
            "hex(?)",
            Text,
        ),
    ]
};

/// A table with a column for each case, a row of NULLs, and rows that hold the cases' values.
fn make_cases(conn: &mut mysql::Conn, table: &str) -> usize {
    let columns: Vec<String> = CASES.iter().enumerate().map(|(index, case)| format!("c{index} {}", case.0)).collect();
    conn.query_drop(format!("drop table if exists {table}")).unwrap();
    conn.query_drop(format!(
        "create table {table} (id int primary key, {}, computed bigint generated always as (id * 2) stored, hidden int invisible default 5)",
        columns.join(", ")
    ))
    .unwrap();
    conn.query_drop(format!("insert into {table} (id) values (0)")).unwrap();
    let rows = CASES.iter().map(|case| case.1.len()).max().unwrap();
    for row in 0..rows {
        let values: Vec<&str> = CASES.iter().map(|case| case.1[row % case.1.len()]).collect();
        let names: Vec<String> = (0..CASES.len()).map(|index| format!("c{index}")).collect();
        conn.query_drop(format!("insert into {table} (id, {}) values ({}, {})", names.join(", "), row + 1, values.join(", "))).unwrap();
    }
    rows + 1
}

/// The type of a column of all cases.
fn declared_of(column: &str) -> Option<&'static str> {
    CASES.get(column.strip_prefix('c')?.parse::<usize>().ok()?).map(|case| case.0)
}

fn check_cases(server: &Server, database: &str) {
    let mut conn = connected(server, database);
    let rows = make_cases(&mut conn, "every_type");
    let files = Files::new();
    for uri in files.uris() {
        let report = copied(&server.uri(database), &uri, "every_type");
        assert_eq!((report.tables[0].rows_read, report.tables[0].rows_inserted), (rows as u64, rows as u64));
        // Of these types SQLite holds large numbers as text.
        let large = |column: &str| (["bigint unsigned", "bit(64)"].iter()).any(|name| Some(*name) == declared_of(column));
        assert!(changed(&report).iter().all(|(column, _)| uri.starts_with("sqlite") && large(column)), "{report:?}");
    }
    for (index, (declared, _, oracle, sqlite, duckdb, compare)) in CASES.iter().enumerate() {
        let column = format!("c{index}");
        let query = |expression: &str| format!("select {} as value from every_type order by id", expression.replace('?', &column));
        let expected = printed(&mut conn, &query(oracle));
        assert_eq!(expected.len(), rows);
        let found = [
            ("SQLite", sqlite_rows(&files.sqlite(), &query(sqlite))),
            #[cfg(feature = "duckdb")]
            ("DuckDB", duckdb_rows(&files.duckdb(), &query(duckdb))),
        ];
        #[cfg(not(feature = "duckdb"))]
        let _ = duckdb;
        for (destination, found) in found {
            for (expected, found) in expected.iter().zip(&found) {
                let (expected, found) = (expected[0].clone(), found[0].clone());
                let number = |text: &Option<String>| text.as_ref().map(|text| text.parse::<f64>().unwrap());
                #[allow(clippy::cast_possible_truncation)]
                let same = match compare {
                    // The only value of the column: its hash stands for it on one side, and it was compared on the other.
                    Compare::Text if *declared == "longblob" && destination == "SQLite" => expected.is_some() == found.is_some(),
                    Compare::Text => expected == found,
                    // SQLite stores no negative zero.
                    Compare::Double if destination == "SQLite" => number(&expected) == number(&found),
                    Compare::Double => number(&expected).map(f64::to_bits) == number(&found).map(f64::to_bits),
                    Compare::Float => number(&expected).map(|wide| wide as f32) == number(&found).map(|wide| wide as f32),
                };
                assert!(same, "{destination}, {declared}: {found:?} is not {expected:?}");
            }
        }
    }
    for found in files.each("select computed, hidden from every_type where id = 2") {
        assert_eq!(found, [[Some("4".into()), Some("5".into())]]);
    }
    conn.query_drop("drop table every_type").unwrap();
}

#[test]
fn every_type_of_mysql_arrives_as_mysql_prints_it() {
    check_cases(mysql(), "commerce");
}

#[test]
fn every_type_arrives_through_vtgate_as_mysql_prints_it() {
    check_cases(vitess(), "commerce");
}

#[test]
fn tables_longer_than_vtgates_row_cap_arrive_whole_from_one_shard_and_from_two() {
    let server = vitess();
    let files = Files::new();
    for keyspace in ["commerce", "customer"] {
        let mut conn = connected(server, keyspace);
        conn.query_drop("create table if not exists long_table (id bigint not null primary key, name varchar(20))").unwrap();
        if keyspace == "customer" {
            route(&mut conn, "customer", "long_table", "by_hash(id)");
        }
        fill(&mut conn, "long_table", "name varchar(20)", |id| format!("'name {id}'"), 20_000);
        let source = Source::open(&server.uri(keyspace)).unwrap();
        assert!(matches!(source.server(), ServerKind::Vitess { .. }));
        for uri in files.uris() {
            assert_eq!(copied(&server.uri(keyspace), &uri, "long_table").tables[0].rows_read, 20_000);
        }
        for found in files.each("select count(*), count(distinct name), sum(id) from long_table where name = 'name ' || id") {
            assert_eq!(found, [[Some("20000".into()), Some("20000".into()), Some("200010000".into())]]);
        }
        if keyspace == "customer" {
            unroute(&mut conn, "alter vschema drop table customer.long_table");
        }
        conn.query_drop("drop table long_table").unwrap();
    }
}

#[test]
fn a_load_that_is_dropped_leaves_the_old_table_and_nothing_else() {
    let server = mysql();
    let mut conn = connected(server, "commerce");
    fill(&mut conn, "dropped_load", "name varchar(20)", |id| format!("'old {id}'"), 100);
    let files = Files::new();
    for uri in files.uris() {
        copied(&server.uri("commerce"), &uri, "dropped_load");
        let source = Source::open(&server.uri("commerce")).unwrap();
        conn.query_drop("update dropped_load set name = 'new'").unwrap();
        let mut sink = Sink::open(&uri).unwrap();
        let table = Arc::new(source.table("dropped_load").unwrap());
        let name = TableName::new("dropped_load");
        for append in [false, true] {
            let mut load = if append { sink.append(&name, &table) } else { sink.replace(&name, &table) }.unwrap();
            for batch in source.rows_of(Arc::clone(&table)).unwrap() {
                load.write(&batch.unwrap()).unwrap();
            }
            drop(load);
        }
        conn.query_drop("update dropped_load set name = concat('old ', id)").unwrap();
    }
    for found in files.each("select count(*) from dropped_load where name = 'old ' || id") {
        assert_eq!(found, [[Some("100".into())]]);
    }
    assert!(files.tables().iter().all(|tables| *tables == ["dropped_load"]), "{:?}", files.tables());
    conn.query_drop("drop table dropped_load").unwrap();
}

#[test]
fn a_killed_run_leaves_the_old_table_and_the_next_run_clears_up() {
    let server = mysql();
    let mut conn = connected(server, "commerce");
    fill(&mut conn, "killed_run", "filler varchar(1000)", |id| format!("repeat('x{id}', 100)"), 30_000);
    let files = Files::new();
    let program = std::env::current_exe().unwrap().parent().unwrap().with_file_name("examples").join("ingest");
    for uri in files.uris() {
        copied(&server.uri("commerce"), &uri, "killed_run");
        conn.query_drop("insert into killed_run values (0, 'new')").unwrap();
        // It cannot end by itself: nothing more comes after a third.
        let proxy = Proxy::start((&server.mysql_host, server.mysql_port), |_, _| Fault::Stall { way: Way::FromServer, after: 5_000_000 });
        let through = server.uri("commerce").replacen(&format!(":{}/", server.mysql_port), &format!(":{}/", proxy.port), 1);
        let arguments = ["--source-uri", &through, "--dest-uri", &uri, "--source-table", "killed_run", "--progress", "json"];
        let mut child = Command::new(&program).args(arguments).stderr(Stdio::piped()).spawn().unwrap();
        // The first line comes when the first of a dozen batches was written.
        let mut line = String::new();
        BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("\"rows\""), "{line}");
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        let counted = |files: &Files| {
            let sql = "select count(*) from killed_run";
            #[cfg(feature = "duckdb")]
            if uri.starts_with("duckdb") {
                return duckdb_rows(&files.duckdb(), sql);
            }
            sqlite_rows(&files.sqlite(), sql)
        };
        assert_eq!(counted(&files), [[Some("30000".into())]]);
        copied(&server.uri("commerce"), &uri, "killed_run");
        assert_eq!(counted(&files), [[Some("30001".into())]]);
        conn.query_drop("delete from killed_run where id = 0").unwrap();
    }
    assert!(files.tables().iter().all(|tables| *tables == ["killed_run"]), "{:?}", files.tables());
    conn.query_drop("drop table killed_run").unwrap();
}

#[test]
fn appending_twice_doubles_and_appending_other_columns_is_refused() {
    let server = mysql();
    let mut conn = connected(server, "commerce");
    fill(&mut conn, "appended", "name varchar(20)", |id| format!("'name {id}'"), 10);
    let files = Files::new();
    let append = IngestOptions::new().with_tables(["appended"]).with_strategy(Strategy::Append);
    for uri in files.uris() {
        for _ in 0..2 {
            let report = copy(&server.uri("commerce"), &uri, &append);
            assert!(report.is_complete(), "{report:?}");
        }
    }
    conn.query_drop("update appended set name = '1'").unwrap();
    conn.query_drop("alter table appended modify name int").unwrap();
    for (uri, stored) in files.uris().iter().zip(["TEXT", "VARCHAR"]) {
        let report = copy(&server.uri("commerce"), uri, &append);
        let TableState::Failed { error } = &report.tables[0].state else { panic!("{report:?}") };
        assert!(error.contains("`appended.name`") && error.contains(stored) && error.contains("INTEGER"), "{error}");
    }
    conn.query_drop("alter table appended drop column name, add column other int").unwrap();
    for uri in files.uris() {
        let report = copy(&server.uri("commerce"), &uri, &append);
        let TableState::Failed { error } = &report.tables[0].state else { panic!("{report:?}") };
        assert!(error.contains("has no column `other`"), "{error}");
    }
    for found in files.each("select count(*), count(distinct id) from appended") {
        assert_eq!(found, [[Some("20".into()), Some("10".into())]]);
    }
    conn.query_drop("drop table appended").unwrap();
}

#[test]
fn zero_dates_become_null_and_are_counted_or_are_refused_or_are_text() {
    let server = mysql();
    let mut conn = connected(server, "commerce");
    conn.query_drop("drop table if exists zero_dates").unwrap();
    conn.query_drop("create table zero_dates (id int primary key, d date, dt datetime(3), ts timestamp null, t time)").unwrap();
    conn.query_drop("insert into zero_dates values (1, 0, '2016-00-07 01:02:03.004', 0, 0), (2, '2016-07-00', 0, null, null), (3, '2024-01-02', null, null, null)")
        .unwrap();
    let files = Files::new();
    let with = |policy| IngestOptions::new().with_tables(["zero_dates"]).with_zero_dates(policy);
    for uri in files.uris() {
        let report = copy(&server.uri("commerce"), &uri, &with(ZeroDates::Error));
        let TableState::Failed { error } = &report.tables[0].state else { panic!("{report:?}") };
        assert!(error.contains("column `d`") && error.contains("table `zero_dates`") && !error.contains("0000"), "{error}");

        let report = copy(&server.uri("commerce"), &uri, &with(ZeroDates::Null));
        assert!(report.is_complete());
        let counted = changed(&report);
        // SQLite stores dates as text, which holds them all.
        let expected: &[(&str, u64)] = if uri.starts_with("duckdb") { &[("d", 2), ("dt", 2), ("ts", 1)] } else { &[] };
        assert_eq!(counted, expected);
    }
    #[cfg(feature = "duckdb")]
    {
        let found = duckdb_rows(&files.duckdb(), "select d, dt, ts from zero_dates order by id");
        assert_eq!(found, [[None, None, None], [None, None, None], [Some("2024-01-02".into()), None, None]]);
        let report = copy(&server.uri("commerce"), &files.uris()[1], &with(ZeroDates::Text));
        assert!(report.is_complete() && report.tables[0].changed_values.is_empty());
    }
    for found in files.each("select d, dt, ts from zero_dates order by id") {
        assert_eq!(found[0], [Some("0000-00-00".into()), Some("2016-00-07 01:02:03.004".into()), Some("0000-00-00 00:00:00".into())]);
        assert_eq!(found[1], [Some("2016-07-00".into()), Some("0000-00-00 00:00:00.000".into()), None]);
    }
    conn.query_drop("drop table zero_dates").unwrap();
}

/// All tables of a database, which are named by nobody.
fn check_names(server: &Server, database: &str, in_database: bool) {
    let mut conn = connected(server, database);
    // The source of `capture::names` refuses the backtick in change capture only.
    let names: Vec<&str> = NAMES.into_iter().chain(["back`tick", "/slash"]).collect();
    names.iter().for_each(|name| create(&mut conn, name));
    let files = Files::new();
    let options = if in_database { IngestOptions::new() } else { IngestOptions::new().with_tables(names.clone()) };
    for uri in files.uris() {
        // The second time there is a table to be replaced.
        for _ in 0..2 {
            let report = copy(&server.uri(database), &uri, &options);
            assert!(report.is_complete(), "{report:?}");
            assert_eq!(report.tables.len(), names.len());
        }
        let append = options.clone().with_strategy(Strategy::Append);
        assert!(copy(&server.uri(database), &uri, &append).is_complete());
    }
    for name in names {
        let columns: Vec<String> = columns(name).into_iter().map(in_sql).collect();
        let sql = format!("select distinct {} from {} order by 1", columns.join(", "), in_sql(name));
        let expected = at_source(&mut conn, name);
        for found in files.each(&sql) {
            let found: Vec<Vec<String>> = found.into_iter().map(|row| row.into_iter().map(Option::unwrap).collect()).collect();
            assert_eq!(found, expected, "{name:?}");
        }
        conn.query_drop(format!("drop table {}", in_mysql(name))).unwrap();
    }
}

#[test]
fn names_may_hold_anything_and_be_as_long_as_mysql_allows() {
    let server = mysql();
    // A database whose name needs quotes, too.
    server.conn().query_drop("drop database if exists `odd-names`").unwrap();
    server.conn().query_drop("create database `odd-names`").unwrap();
    check_names(server, "odd-names", true);
    server.conn().query_drop("drop database `odd-names`").unwrap();
}

#[test]
fn names_may_hold_anything_that_vtgate_allows() {
    let _names = in_commerce();
    check_names(vitess(), "commerce", false);
}

#[test]
fn names_that_a_destination_cannot_take_are_refused_before_anything_is_written() {
    let server = mysql();
    server.conn().query_drop("drop database if exists odd_case").unwrap();
    server.conn().query_drop("create database odd_case").unwrap();
    let mut conn = connected(server, "odd_case");
    for name in ["_ingest_new_plain", "sqlite_x", "plain"] {
        create(&mut conn, name);
    }
    let files = Files::new();
    for uri in files.uris() {
        for _ in 0..2 {
            let report = copy(&server.uri("odd_case"), &uri, &IngestOptions::new());
            let failed: Vec<&str> =
                report.tables.iter().filter(|table| table.state != TableState::Complete).map(|table| &*table.source).collect();
            let expected: &[&str] = if uri.starts_with("sqlite") { &["sqlite_x"] } else { &[] };
            assert_eq!(failed, expected, "{report:?}");
            // What a run left there is none of the tables, unless it is named.
            assert!(report.tables.iter().all(|table| table.source != "_ingest_new_plain"), "{report:?}");
            let source = Source::open(&server.uri("odd_case")).unwrap();
            let named = IngestOptions::new().with_tables(["_ingest_new_plain", "plain"]);
            let report = ingest(&source, &mut Sink::open(&uri).unwrap(), &named).unwrap();
            let TableState::Failed { error } = &report.tables[0].state else { panic!("{report:?}") };
            assert!(error.contains("`_ingest_new_plain`") && report.tables[1].state == TableState::Complete, "{report:?}");
        }
    }
    for name in ["Plain", "PLAIN2"] {
        create(&mut conn, name);
    }
    let files = Files::new();
    for uri in files.uris() {
        let source = Source::open(&server.uri("odd_case")).unwrap();
        let error = ingest(&source, &mut Sink::open(&uri).unwrap(), &IngestOptions::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("`Plain`") && error.to_string().contains("`plain`"), "{error}");
    }
    assert!(files.tables().iter().all(Vec::is_empty), "{:?}", files.tables());
    server.conn().query_drop("drop database odd_case").unwrap();
}

#[test]
fn an_empty_table_arrives_with_its_columns() {
    let server = mysql();
    let mut conn = connected(server, "commerce");
    conn.query_drop("create table if not exists empty_table (id int primary key, name text)").unwrap();
    let files = Files::new();
    for uri in files.uris() {
        assert_eq!(copied(&server.uri("commerce"), &uri, "empty_table").tables[0].rows_read, 0);
    }
    for found in files.each("select count(*), count(id), count(name) from empty_table") {
        assert_eq!(found, [[Some("0".into()), Some("0".into()), Some("0".into())]]);
    }
    conn.query_drop("drop table empty_table").unwrap();
}

#[test]
fn all_tables_are_base_tables_and_a_missing_one_is_an_error() {
    let server = vitess();
    let source = Source::open(&server.uri("commerce")).unwrap();
    let names: Vec<String> = source.tables().unwrap().iter().map(|table| table.name().to_owned()).collect();
    assert!(names.contains(&"product".to_owned()), "{names:?}");
    assert!(names.iter().all(|name| !name.starts_with("_vt_")), "{names:?}");
    let product = source.table("product").unwrap();
    assert_eq!(product.primary_key().iter().map(|&index| product.columns()[index].name()).collect::<Vec<_>>(), ["sku"]);
    assert_eq!(source.table("no_such_table").unwrap_err().kind(), ErrorKind::Schema);
    let error = source.table("produc_").unwrap_err();
    assert_eq!((error.kind(), error.table()), (ErrorKind::Schema, Some("produc_")));
}

#[test]
fn dropping_the_rows_or_cancelling_ends_reading_at_once() {
    let server = mysql();
    let mut conn = connected(server, "commerce");
    fill(&mut conn, "ended_early", "filler varchar(1000)", |id| format!("repeat('x{id}', 100)"), 30_000);
    let source = Source::open(&server.uri("commerce")).unwrap();
    let mut rows = source.rows("ended_early").unwrap();
    assert!(rows.next().unwrap().unwrap().len() < 30_000);
    let begun = Instant::now();
    drop(rows);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());

    let files = Files::new();
    for uri in files.uris() {
        let cancel = Cancel::new();
        let from_callback = cancel.clone();
        let options = IngestOptions::new().with_tables(["ended_early"]).with_cancel(cancel).with_progress(move |progress| {
            if progress.rows > 0 {
                from_callback.cancel()
            }
        });
        let begun = Instant::now();
        let report = copy(&server.uri("commerce"), &uri, &options);
        assert_eq!(report.tables[0].state, TableState::Partial);
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    assert!(files.tables().iter().all(Vec::is_empty), "{:?}", files.tables());
    conn.query_drop("drop table ended_early").unwrap();
}

fn refusal(options: &SourceOptions) -> (ErrorKind, String) {
    let begun = Instant::now();
    let error = Source::open_with(options).map(|source| source.server().clone()).unwrap_err();
    assert!(begun.elapsed() < options.connect_timeout() + Duration::from_secs(1), "{:?}", begun.elapsed());
    for text in [format!("{error:#}"), format!("{error:?}")] {
        assert!(!text.contains("p@ss") && !text.contains("wrong-secret"), "{text}");
    }
    (error.kind(), format!("{error:#}"))
}

fn options(server: &Server, tls: Tls) -> SourceOptions {
    let options = SourceOptions::new(&server.mysql_host, "commerce").with_port(server.mysql_port).with_user(&server.user).with_tls(tls);
    if server.password.is_empty() { options } else { options.with_password(&server.password) }
}

#[test]
fn each_mode_of_tls_connects_where_it_can_and_says_why_where_it_cannot() {
    let server = mysql();
    let files = server.tls.as_ref().unwrap();
    let verified = options(server, Tls::Verify).with_tls_ca(&files.ca);
    for works in [verified.clone(), options(server, Tls::DangerSkipVerify), options(server, Tls::Preferred), options(server, Tls::Off)] {
        Source::open_with(&works).unwrap();
    }
    let cases = [
        (options(server, Tls::Verify), "`tls_ca`"),
        (options(server, Tls::Verify).with_tls_ca(&files.other_ca), "`tls_ca`"),
        (options(vitess(), Tls::Verify), "does not offer TLS"),
        (options(vitess_secure(), Tls::Off), "tls=true"),
    ];
    for (options, expected) in cases {
        let (kind, message) = refusal(&options);
        assert_eq!(kind, ErrorKind::Tls, "{message}");
        assert!(message.contains(expected), "{message}");
    }
    // The same server under a name that its certificate does not have.
    let other_name = SourceOptions::new("::ffff:127.0.0.1", "commerce")
        .with_port(server.mysql_port)
        .with_user(&server.user)
        .with_password(&server.password)
        .with_tls_ca(&files.ca);
    let (kind, message) = refusal(&other_name);
    assert_eq!(kind, ErrorKind::Tls, "{message}");
    assert!(message.contains("host name"), "{message}");
    Source::open_with(&options(vitess(), Tls::Preferred)).unwrap();
    let secure = vitess_secure();
    Source::open_with(&options(secure, Tls::Verify).with_tls_ca(&secure.tls.as_ref().unwrap().ca)).unwrap();
}

#[test]
fn refused_users_and_unreachable_servers_have_errors_of_their_own() {
    for server in [mysql(), vitess_secure()] {
        let (kind, message) = refusal(&options(server, Tls::DangerSkipVerify).with_password("wrong-secret"));
        assert_eq!(kind, ErrorKind::Auth, "{message}");
        assert!(message.contains(&format!("user `{}`", server.user)), "{message}");
    }
    let (kind, message) = refusal(&SourceOptions::new("no-such-host.invalid", "commerce").with_user("app"));
    assert_eq!(kind, ErrorKind::Connect, "{message}");
    assert!(message.contains("cannot be resolved"), "{message}");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let silent =
        SourceOptions::new("127.0.0.1", "commerce").with_port(port).with_user("app").with_connect_timeout(Duration::from_millis(300));
    let (kind, message) = refusal(&silent);
    assert_eq!(kind, ErrorKind::Timeout, "{message}");
    drop(listener);
    let (kind, message) = refusal(&silent);
    assert_eq!(kind, ErrorKind::Connect, "{message}");
    assert!(message.contains("refuses connections"), "{message}");

    let unknown = SourceOptions::new(&mysql().mysql_host, "no_such_database")
        .with_port(mysql().mysql_port)
        .with_user(&mysql().user)
        .with_password(&mysql().password);
    let (kind, message) = refusal(&unknown);
    assert_eq!(kind, ErrorKind::Schema, "{message}");
    assert!(message.contains("`no_such_database`"), "{message}");
}

#[test]
fn destinations_that_cannot_be_written_say_why() {
    let files = Files::new();
    let opened = |uri: &str| Sink::open(uri).map(drop).map_err(|error| (error.kind(), format!("{error:#}")));
    for uri in files.uris() {
        let (kind, message) = opened(&uri.replace("/copy.", "/missing/copy.")).unwrap_err();
        assert_eq!(kind, ErrorKind::Sink);
        assert!(message.contains("folder"), "{message}");
        let (_, path) = uri.split_once("://").unwrap();
        std::fs::write(
            path,
            "this is a text and no database, long enough to fill what a header of a database file would fill: ".repeat(50),
        )
        .unwrap();
        let (kind, message) = opened(&uri).unwrap_err();
        assert_eq!(kind, ErrorKind::Sink);
        assert!(message.contains("it is not a"), "{message}");
    }

    let files = Files::new();
    let holder = rusqlite::Connection::open(files.sqlite()).unwrap();
    holder.execute_batch("create table t (id); begin exclusive").unwrap();
    let (kind, message) = opened(&format!("{}?busy_timeout=100ms", files.uris()[0])).unwrap_err();
    assert_eq!(kind, ErrorKind::Sink);
    assert!(message.contains("locked"), "{message}");
}
