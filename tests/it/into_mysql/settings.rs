//! Settings of a server, of which none may change what is stored.

use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, Strategy, TableName};

use super::{COLUMNS, assert_same, connected, content, insert, load_all, run, source, source_uri};
use crate::support::files::Files;
use crate::support::servers::{Own, mysql};

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
    let options = |strategy| IngestOptions::new().with_tables([table]).with_strategy(strategy);
    for strategy in [Strategy::Replace, Strategy::Append, Strategy::Merge, Strategy::TruncateInsert] {
        run(&mut own, &format!("drop table if exists {table}"));
        load_all(&source_uri(), &there, &options(strategy));
        assert_same(&expected, &content(&mut own, table), &format!("{strategy:?}"));
    }
    // The other way round, its rows are read.
    let files = Files::new();
    for uri in files.uris() {
        let report = load_all(&there, &uri, &options(Strategy::Replace));
        assert_eq!(report.tables[0].rows_inserted, 3_000);
    }
    let back = "into_settings_back";
    super::PLAIN.drop_table(back);
    load_all(&there, &super::PLAIN.uri(), &options(Strategy::Replace).with_dest_table(TableName::new(back)));
    assert_same(&expected, &content(&mut super::PLAIN.conn(), back), "back");
    super::PLAIN.drop_table(back);
}
