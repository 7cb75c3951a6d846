//! Large transactions, large rows and many tables, within a limit of memory.

use std::fmt::Write as _;
use std::process::Command;

use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, TableState};
use serde_json::Value;

use crate::capture::fixture::{BOTH, Destination, create, create_with};
use crate::support::cluster::{Keyspace, in_peace};
use crate::support::program;
use crate::support::servers::vitess_full;

/// What a run may have resident at most, whatever it reads.
const MEMORY: u64 = 500 << 20;

/// Runs as processes of their own, so that their memory can be told; they have to be complete.
fn run_both(destinations: &[Destination; 2], uri: &str, tables: Option<&str>) -> [Value; 2] {
    std::thread::scope(|scope| {
        let running = destinations.each_ref().map(|to| scope.spawn(move || run(to, uri, tables)));
        running.map(|thread| thread.join().unwrap())
    })
}

fn run(destination: &Destination, uri: &str, tables: Option<&str>) -> Value {
    let mut command = Command::new(program("ingest"));
    command.args(["--source-uri", uri, "--dest-uri", &destination.uri(), "--report", "json", "--progress", "off"]);
    if let Some(tables) = tables {
        command.args(["--source-table", tables]);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {said}", destination.kind);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["state"], "complete", "{report}");
    let peak = report["peak_memory_bytes"].as_u64().unwrap();
    assert!(peak < MEMORY, "{:?}: {peak} bytes", destination.kind);
    report
}

#[test]
fn a_transaction_of_a_million_rows_arrives_whole_within_the_memory_limit() {
    const ROWS: u64 = 1_000_000;
    let _peace = in_peace("commerce");
    let server = vitess_full();
    let uri = server.cdc_uri("commerce");
    let table = "size_transaction";
    create_with(server, "commerce", table, "id bigint not null primary key, name varchar(50), n bigint");
    let destinations = BOTH.map(Destination::new);
    run_both(&destinations, &uri, Some(table));
    // Past vttablet, which takes 10,000 rows at a time.
    let tablet = server.primary_of("commerce", "0");
    let insert = format!(
        "insert into {table} with recursive ids as (select 1 as id union all select id + 1 from ids where id < {ROWS}) \
         select id, concat('name ', id), id * 7 % 1000003 from ids"
    );
    let on_tablet = |sql: &str| {
        server.on_tablet(&tablet, &format!("use vt_commerce; set session cte_max_recursion_depth = {ROWS}; {sql}"));
    };
    let check = |destination: &Destination, sql: &str, expected: u64| {
        let found = destination.cell(&format!("select count(distinct id) from {table} where {sql}"));
        assert_eq!(found, Some(expected.to_string()), "{:?}: {sql}", destination.kind);
    };
    let all_of_it = "not _cdc_deleted and name = 'name ' || id and n = id * 7 % 1000003";
    on_tablet(&insert);
    for (destination, report) in destinations.iter().zip(run_both(&destinations, &uri, Some(table))) {
        assert_eq!(report["tables"][0]["rows_inserted"], ROWS);
        check(destination, all_of_it, ROWS);
        check(destination, "true", ROWS);
    }
    on_tablet(&format!("begin; update {table} set name = 'even' where id % 2 = 0; delete from {table} where id % 5 = 0; commit"));
    run_both(&destinations, &uri, Some(table));
    for destination in &destinations {
        check(destination, &format!("{all_of_it} and id % 2 = 1 and id % 5 <> 0"), ROWS * 2 / 5);
        check(destination, "not _cdc_deleted and name = 'even' and id % 2 = 0 and id % 5 <> 0", ROWS * 2 / 5);
        check(destination, "_cdc_deleted and id % 5 = 0", ROWS / 5);
    }
    server.exec(&format!("drop table commerce.{table}"));
}

#[test]
fn rows_of_ten_megabytes_are_copied_and_streamed_within_the_memory_limit() {
    let _peace = in_peace("commerce");
    let server = vitess_full();
    let uri = server.cdc_uri("commerce");
    let table = "size_rows";
    let mut conn = create(server, "commerce", table);
    conn.query_drop(format!("alter table {table} modify note longtext")).unwrap();
    let large = |id: u32, letter: &str| format!("({id}, repeat('{letter}ß', 5000000))");
    for id in 0..4 {
        conn.query_drop(format!("insert into {table} (id, note) values {}", large(id, "k"))).unwrap();
    }
    let destinations = BOTH.map(Destination::new);
    run_both(&destinations, &uri, Some(table));
    for destination in &destinations {
        destination.assert_equals(&mut conn, table);
    }
    for id in 4..8 {
        conn.query_drop(format!("insert into {table} (id, note) values {}", large(id, "s"))).unwrap();
    }
    conn.query_drop(format!("delete from {table} where id = 1")).unwrap();
    run_both(&destinations, &uri, Some(table));
    for destination in &destinations {
        destination.assert_equals(&mut conn, table);
    }
    server.exec(&format!("drop table commerce.{table}"));
}

#[test]
fn a_row_beyond_the_servers_own_limit_is_an_error_that_names_table_limit_and_flag() {
    let _peace = in_peace("oversized");
    let keyspace = Keyspace::new("oversized", "0", 1);
    let (server, uri) = (keyspace.server, keyspace.uri());
    for kind in BOTH {
        for (name, streamed) in [("copied", false), ("streamed", true)] {
            let table = format!("oversized_{name}_{kind:?}").to_lowercase();
            let mut conn = create(server, "oversized", &table);
            conn.query_drop(format!("alter table {table} modify note longtext")).unwrap();
            conn.query_drop(format!("insert into {table} (id, name) values (1, 'small')")).unwrap();
            let options = IngestOptions::new().with_tables([&table]);
            let destination = Destination::new(kind);
            if streamed {
                destination.capture_all(&uri, &options);
            }
            server
                .on_tablet(&keyspace.tablets[0], &format!("insert into vt_oversized.{table} (id, note) values (2, repeat('x', 20000000))"));
            // vtgate asks the tablet for the row again and again, and sends heartbeats meanwhile.
            let error = match destination.capture(&format!("{uri}&no_progress_timeout=4s"), &options) {
                Err(error) => error.to_string(),
                Ok(report) => match &report.tables[0].state {
                    TableState::Failed { error } => error.clone(),
                    state => panic!("{state:?}"),
                },
            };
            for word in [table.as_str(), "16777216", "--grpc-max-message-size"] {
                assert!(error.contains(word), "{error}");
            }
        }
    }
}

#[test]
fn five_hundred_tables_are_captured_within_the_memory_limit() {
    const TABLES: u64 = 500;
    let _peace = in_peace("many");
    let keyspace = Keyspace::new("many", "0", 1);
    let uri = keyspace.uri();
    let mut sql = "use vt_many; ".to_owned();
    for number in 0..TABLES {
        write!(sql, "create table t{number} (id bigint not null primary key, name varchar(50)); insert into t{number} values ").unwrap();
        let rows: Vec<String> = (0..5).map(|id| format!("({id}, 'row {id} of {number}')")).collect();
        write!(sql, "{}; ", rows.join(", ")).unwrap();
    }
    keyspace.server.on_tablet(&keyspace.tablets[0], &sql);
    keyspace.server.control("vtctl", &["ReloadSchemaKeyspace", "--include-primary", "many"]);
    let destinations = BOTH.map(Destination::new);
    for report in run_both(&destinations, &uri, None) {
        assert_eq!(report["tables"].as_array().unwrap().len() as u64, TABLES);
    }
    let mut sql = "use vt_many; ".to_owned();
    for number in 0..TABLES {
        write!(sql, "update t{number} set name = 'changed' where id = 2; delete from t{number} where id = 3; ").unwrap();
    }
    keyspace.server.on_tablet(&keyspace.tablets[0], &sql);
    run_both(&destinations, &uri, None);
    for destination in &destinations {
        let selects: Vec<String> =
            (0..TABLES).map(|number| format!("select {number} as t, id, name from t{number} where not _cdc_deleted")).collect();
        let mut found = Vec::new();
        for part in selects.chunks(100) {
            found.extend(destination.query(&format!("select * from ({}) as u order by t, id", part.join(" union all "))));
        }
        let expected: Vec<Vec<Option<String>>> = (0..TABLES)
            .flat_map(|number| {
                [0, 1, 2, 4].map(|id| {
                    let name = if id == 2 { "changed".to_owned() } else { format!("row {id} of {number}") };
                    vec![Some(number.to_string()), Some(id.to_string()), Some(name)]
                })
            })
            .collect();
        assert!(found == expected, "{:?}: {} rows", destination.kind, found.len());
    }
}
