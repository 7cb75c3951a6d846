//! Vitess as PlanetScale runs it: statements do not change tables, transactions end after five seconds, and a statement touches 10,000 rows.

use std::fs;
use std::sync::OnceLock;

use planetscale_ingest::{IngestOptions, Strategy, TableName};

use super::{COLUMNS, assert_same, connected, content, insert, load_all, refused, run, source, source_uri};
use crate::support::servers::{Server, cluster};

/// The name by which it is started and ended.
const NAME: &str = "strict";

/// Ends the servers, whatever came of the test.
struct Strict(Server);

impl Strict {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let table = format!("create table there ({COLUMNS}); create table there_too ({COLUMNS});");
        for (keyspace, vschema) in [
            ("commerce", r#"{"tables": {"there": {}, "there_too": {}}}"#),
            (
                "customer",
                r#"{"sharded": true, "vindexes": {"by_hash": {"type": "hash"}}, "tables": {
                    "there": {"column_vindexes": [{"column": "id", "name": "by_hash"}]},
                    "there_too": {"column_vindexes": [{"column": "id", "name": "by_hash"}]}}}"#,
            ),
        ] {
            fs::create_dir(folder.path().join(keyspace)).unwrap();
            fs::write(folder.path().join(keyspace).join("schema.sql"), table.replace("; ", ";\n")).unwrap();
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
}
