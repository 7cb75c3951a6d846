//! Settings of a server, of which none may change what is stored.

use std::time::Duration;

use planetscale_ingest::{IngestOptions, Strategy, TableName};

use super::{COLUMNS, PLAIN, assert_same, connected, content, insert, load_all, refused, run, source, source_uri};
use crate::support::files::Files;
use crate::support::servers::Own;

fn options(table: &str, strategy: Strategy) -> IngestOptions {
    IngestOptions::new().with_tables([table]).with_strategy(strategy)
}

#[test]
fn sessions_that_begin_without_autocommit_and_with_few_rows_lose_none() {
    let table = "into_settings";
    let mut conn = source(table, 0..3_000);
    let expected = content(&mut conn, table);
    let server = Own::start("settings", 190);
    let (there, mut own) = (server.0.uri("commerce"), connected(&server.0, "commerce"));
    for setting in ["autocommit = 0", "sql_select_limit = 1000", "local_infile = 0", "completion_type = 'CHAIN'"] {
        run(&mut own, &format!("set global {setting}"));
    }
    for strategy in [Strategy::Replace, Strategy::Append, Strategy::Merge, Strategy::TruncateInsert] {
        run(&mut own, &format!("drop table if exists {table}"));
        load_all(&source_uri(), &there, &options(table, strategy));
        assert_same(&expected, &content(&mut own, table), &format!("{strategy:?}"));
    }
    // The other way round, its rows are read.
    let files = Files::new();
    for uri in files.uris() {
        let report = load_all(&there, &uri, &options(table, Strategy::Replace));
        assert_eq!(report.tables[0].rows_inserted, 3_000);
    }
    let back = "into_settings_back";
    PLAIN.drop_table(back);
    load_all(&there, &PLAIN.uri(), &options(table, Strategy::Replace).with_dest_table(TableName::new(back)));
    assert_same(&expected, &content(&mut PLAIN.conn(), back), "back");
    PLAIN.drop_table(back);
}

/// With `innodb_rollback_on_timeout` a statement that has waited too long for a lock takes all that came before it in the transaction with it.
#[test]
fn a_wait_that_undoes_the_whole_transaction_leaves_the_table_as_it_was() {
    let table = "into_timeout";
    let mut conn = source(table, 0..3_000);
    let server = Own::start("timeout", 170);
    run(&mut connected(&server.0, "commerce"), "set persist_only innodb_rollback_on_timeout = on");
    server.0.control("restart", &["mysqld"]);
    let there = server.0.uri("commerce");
    let [mut own, mut other] = [(), ()].map(|()| connected(&server.0, "commerce"));
    run(&mut own, "set global innodb_lock_wait_timeout = 1");
    run(&mut own, &format!("create table {table} ({COLUMNS})"));
    insert(&mut own, table, 5_000..5_010, 1);
    let before = content(&mut own, table);
    for local_infile in [0, 1] {
        run(&mut own, &format!("set global local_infile = {local_infile}"));
        for strategy in [Strategy::Append, Strategy::Merge] {
            // The third statement comes to it.
            run(&mut other, "begin");
            run(&mut other, &format!("select * from {table} where id = 2500 for update"));
            let error = refused(&source_uri(), &there, &options(table, strategy));
            let expected =
                format!("another transaction holds the rows locked: error 1205 (HY000); nothing of the transaction is kept, and `{table}`");
            assert!(error.contains(&expected), "{local_infile} {strategy:?}: {error}");
            run(&mut other, "rollback");
            assert_same(&before, &content(&mut own, table), &format!("{local_infile} {strategy:?}"));
        }
    }
    // What comes first is repeated.
    run(&mut other, "begin");
    run(&mut other, &format!("select * from {table} where id = 5000 for update"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(3));
            run(&mut other, "rollback");
        });
        let report = load_all(&source_uri(), &there, &options(table, Strategy::TruncateInsert));
        assert_eq!((report.tables[0].rows_inserted, report.tables[0].rows_deleted), (3_000, 10));
    });
    assert_same(&content(&mut conn, table), &content(&mut own, table), "once it is free");
}
