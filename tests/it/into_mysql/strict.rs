//! Vitess as PlanetScale runs it: statements do not change tables, transactions end after five seconds, and a statement touches 10,000 rows.

use std::fs;
use std::sync::OnceLock;

use planetscale_ingest::{IngestOptions, Strategy, TableName, TableState};

use super::{COLUMNS, assert_same, connected, content, insert, load, load_all, printed, refused, run, source, source_uri};
use crate::capture::fixture;
use crate::support::servers::{Server, cluster, vitess, wait_for_column};

/// The columns of a table that is captured, and those that change capture has for its own.
const FIXTURE_COLUMNS: &str = fixture::COLUMNS;
const OURS: &str = "_cdc_lsn mediumtext collate ascii_bin, _cdc_deleted tinyint(1), _cdc_synced_at datetime(6)";
const CHECKPOINT: &str = "dest_table varchar(255) collate utf8mb4_bin not null primary key, source_table longtext, position longtext, updated_at longtext, \
    live_rows bigint, deleted_rows bigint, last_lsn longtext, stored_columns longtext, written_by longtext";

/// The name by which it is started and ended.
const NAME: &str = "strict";

/// Ends the servers, whatever came of the test.
struct Strict(Server);

impl Strict {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let table = format!("create table there ({COLUMNS}); create table there_too ({COLUMNS});");
        let captured = format!(
            "create table captured ({FIXTURE_COLUMNS}, {OURS}); create table into_strict_one ({FIXTURE_COLUMNS}, {OURS}); \
             create table _ingest_checkpoint ({CHECKPOINT});"
        );
        for (keyspace, vschema) in [
            ("commerce", r#"{"tables": {"there": {}, "there_too": {}}}"#),
            (
                "customer",
                r#"{"sharded": true, "vindexes": {"by_hash": {"type": "hash"}, "by_text": {"type": "xxhash"}}, "tables": {
                    "captured": {"column_vindexes": [{"column": "id", "name": "by_hash"}]},
                    "into_strict_one": {"column_vindexes": [{"column": "id", "name": "by_hash"}]},
                    "_ingest_checkpoint": {"column_vindexes": [{"column": "dest_table", "name": "by_text"}]},
                    "there": {"column_vindexes": [{"column": "id", "name": "by_hash"}]},
                    "there_too": {"column_vindexes": [{"column": "id", "name": "by_hash"}]}}}"#,
            ),
        ] {
            fs::create_dir(folder.path().join(keyspace)).unwrap();
            let tables = if keyspace == "customer" { format!("{table} {captured}") } else { table.clone() };
            fs::write(folder.path().join(keyspace).join("schema.sql"), tables.replace("; ", ";\n")).unwrap();
            fs::write(folder.path().join(keyspace).join("vschema.json"), vschema).unwrap();
        }
        let base: u16 = std::env::var("SERVERS_BASE_PORT").ok().and_then(|base| base.parse().ok()).unwrap_or(15_300);
        let (base, schema) = ((base + 400).to_string(), folder.path().to_str().unwrap());
        let _ = cluster(&["down", NAME]);
        cluster(&[
            "up",
            NAME,
            "--topology",
            "test",
            "--base-port",
            &base,
            "--schema",
            schema,
            "--vtgate-flags=--enable-direct-ddl=false",
            "--tablet-flags=--queryserver-config-transaction-timeout=5s --queryserver-config-max-result-size=10000",
        ])
        .unwrap();
        Self(Server::find(NAME.to_owned()))
    }
}

impl Drop for Strict {
    fn drop(&mut self) {
        let _ = cluster(&["down", NAME]);
    }
}

#[test]
fn every_strategy_works_without_changing_tables_and_within_the_limits() {
    static STRICT: OnceLock<()> = OnceLock::new();
    assert!(STRICT.set(()).is_ok(), "one test uses the name");
    let strict = Strict::start();
    let table = "into_strict";
    let options = |strategy| IngestOptions::new().with_tables([table]).with_strategy(strategy).with_dest_table(TableName::new("there"));
    for keyspace in ["commerce", "customer"] {
        let mut conn = source(table, 0..35_000);
        let uri = strict.0.uri(keyspace);
        let mut there = connected(&strict.0, keyspace);
        insert(&mut there, "there", 100_000..101_000, 0);
        load_all(&source_uri(), &uri, &options(Strategy::Replace));
        assert_same(&content(&mut conn, table), &content(&mut there, "there"), keyspace);
        // More rows than a statement may touch are there already.
        run(&mut conn, &format!("update {table} set name = 'changed' where id % 2 = 0"));
        load_all(&source_uri(), &uri, &options(Strategy::TruncateInsert));
        assert_same(&content(&mut conn, table), &content(&mut there, "there"), keyspace);
        run(&mut conn, &format!("update {table} set note = 'again' where id < 20000"));
        load_all(&source_uri(), &uri, &options(Strategy::Merge));
        assert_same(&content(&mut conn, table), &content(&mut there, "there"), keyspace);
        run(&mut conn, &format!("delete from {table} where id between 5000 and 20000"));
        load_all(&source_uri(), &uri, &options(Strategy::DeleteInsert).with_incremental_key("id").with_interval_start("4000"));
        assert_same(&content(&mut conn, table), &content(&mut there, "there"), keyspace);
        let appended = options(Strategy::Append).with_dest_table(TableName::new("there_too"));
        load_all(&source_uri(), &uri, &appended);
        assert_same(&content(&mut conn, table), &content(&mut there, "there_too"), keyspace);
        // A missing table is to be deployed.
        let missing = options(Strategy::Replace).with_dest_table(TableName::new("missing"));
        let error = refused(&source_uri(), &uri, &missing);
        assert!(error.contains("deploy it by: CREATE TABLE `missing` (`id` bigint NOT NULL, "), "{error}");
        let route = "ALTER VSCHEMA ON `customer`.`missing` ADD VINDEX `by_hash`(`id`) USING hash";
        assert_eq!(error.contains(route), keyspace == "customer", "{error}");
    }
    capture(&strict.0);
}

/// Changes go into tables that are there, and those that are missing are to be deployed.
fn capture(strict: &Server) {
    let server = vitess();
    let table = "into_strict_captured";
    let mut conn = fixture::create(server, "commerce", table);
    fixture::insert(&mut conn, table, 0..12_000, 0);
    let to = |name: &str| IngestOptions::new().with_tables([table]).with_dest_table(TableName::new(name));
    let error = refused(&server.cdc_uri("commerce"), &strict.uri("commerce"), &to("captured"));
    assert!(error.contains("deploy it by: CREATE TABLE `_ingest_checkpoint` (`dest_table` varchar(255)"), "{error}");
    let error = refused(&server.cdc_uri("commerce"), &strict.uri("customer"), &to("missing_too"));
    let deploy = "ADD VINDEX `by_hash`(`id`) USING hash";
    assert!(error.contains("deploy it by: CREATE TABLE `missing_too` (`id` bigint NOT NULL, ") && error.contains(deploy), "{error}");
    // One that is missing does not keep another from being captured.
    let both = ["into_strict_one", "into_strict_two"];
    let mut conns = both.map(|name| fixture::create(server, "commerce", name));
    both.iter().zip(&mut conns).for_each(|(name, conn)| fixture::insert(conn, name, 0..10, 0));
    let report = load(&server.cdc_uri("commerce"), &strict.uri("customer"), &IngestOptions::new().with_tables(both)).unwrap();
    assert_eq!((&report.tables[0].state, report.tables[0].rows_inserted), (&TableState::Complete, 10));
    let TableState::Failed { error } = &report.tables[1].state else { panic!("{report:?}") };
    assert!(error.contains("deploy it by: CREATE TABLE `into_strict_two` ("), "{error}");
    let mut there = connected(strict, "customer");
    let mut follow = |options: &IngestOptions| {
        load_all(&server.cdc_uri("commerce"), &strict.uri("customer"), options);
        let columns = "id, name, cast(amount as char), note, cast(happened as char)";
        for conn in [&mut conn, &mut there] {
            run(conn, "set workload = 'olap'");
        }
        let mut expected = printed(&mut conn, &format!("select {columns} from {table}"));
        let mut found = printed(&mut there, &format!("select {columns} from captured where not _cdc_deleted"));
        for conn in [&mut conn, &mut there] {
            run(conn, "set workload = 'oltp'");
        }
        expected.sort();
        found.sort();
        assert_same(&expected, &found, "captured");
    };
    follow(&to("captured"));
    run(&mut fixture_conn(server), &format!("update {table} set name = 'all', note = repeat('n', 2000) where id < 9000"));
    follow(&to("captured"));
    run(&mut fixture_conn(server), &format!("truncate table {table}"));
    run(&mut fixture_conn(server), &format!("insert into {table} (id, name) values (1, 'one'), (2, 'two')"));
    follow(&to("captured"));
    // What the server does not let be added is said, and found once it is there: here, once it is gone at the source.
    run(&mut fixture_conn(server), &format!("alter table {table} add column more int"));
    wait_for_column(&mut fixture_conn(server), table, "more");
    run(&mut fixture_conn(server), &format!("insert into {table} (id, more) values (3, 3)"));
    let error = refused(&server.cdc_uri("commerce"), &strict.uri("customer"), &to("captured"));
    assert!(error.contains("deploy it by: ALTER TABLE `captured` ADD COLUMN `more` int NULL"), "{error}");
    // A full refresh empties the table and fills it again, as far as its columns go.
    run(&mut fixture_conn(server), &format!("alter table {table} drop column more"));
    follow(&to("captured").with_full_refresh(true));
}

fn fixture_conn(server: &Server) -> mysql::Conn {
    connected(server, "commerce")
}
