//! Change capture from Vitess into MySQL, and into unsharded and sharded keyspaces.

mod changes;
mod crash;
mod keys;
mod positions;

use std::time::{Duration, Instant};

use mysql::Conn;
use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, Report, Result, TableName, TableState};

use super::{ALL, PLAIN, Place, SHARDED, UNSHARDED, load, printed, run};
use crate::capture::fixture::{COLUMNS, Rows, assert_rows, by_id, create_with, insert, source_rows};
use crate::support::servers::{claim, once_known, once_tablets_know, vitess};

/// A table of the unsharded keyspace that is captured into a place, by another name.
struct Captured {
    place: Place,
    at_source: Conn,
    there: Conn,
    table: String,
    copy: String,
    options: IngestOptions,
}

impl Captured {
    /// A new table, with rows of some ids, that has not been captured yet.
    fn new(place: Place, name: &str, ids: std::ops::Range<u64>) -> Self {
        let captured = Self::new_with(place, name, COLUMNS);
        let mut conn = vitess().conn();
        run(&mut conn, "use commerce");
        insert(&mut conn, &captured.table, ids, 0);
        captured
    }

    fn new_with(place: Place, name: &str, columns: &str) -> Self {
        let table = format!("captured_{name}_{}", place.database);
        let copy = format!("{table}_copy");
        let at_source = create_with(vitess(), "commerce", &table, columns);
        let mut there = place.conn();
        claim((place.server)(), place.database, &copy);
        forget(&mut there, &copy);
        let options = IngestOptions::new().with_tables([&table]).with_dest_table(TableName::new(&copy));
        Self { place, at_source, there, table, copy, options }
    }

    fn hard(mut self, hard: bool) -> Self {
        self.options = self.options.with_hard_delete(hard);
        self
    }

    /// Runs statements at the source, where `{t}` is the table.
    #[track_caller]
    fn at_source(&mut self, statements: &str) {
        for statement in statements.split("; ") {
            let sql = statement.replace("{t}", &self.table);
            once_known(&sql, || self.at_source.query_drop(&sql));
        }
    }

    /// Runs statements at the destination, where `{t}` is the table.
    #[track_caller]
    fn there(&mut self, statements: &str) {
        for statement in statements.split("; ") {
            run(&mut self.there, &statement.replace("{t}", &self.copy));
        }
    }

    fn run(&self) -> Result<Report> {
        self.run_with(&self.options)
    }

    fn run_with(&self, options: &IngestOptions) -> Result<Report> {
        capture(&self.place.uri(), options)
    }

    #[track_caller]
    fn run_all(&self) -> Report {
        complete(self.run(), self.place)
    }

    #[track_caller]
    fn refresh(&self) -> Report {
        complete(self.run_with(&self.options.clone().with_full_refresh(true)), self.place)
    }

    #[track_caller]
    fn assert_equals(&mut self) {
        assert_rows(&source_rows(&mut self.at_source, &self.table), &rows(&mut self.there, &self.copy), self.place.name);
    }

    /// The first cell of a query about the destination, where `{t}` is the table.
    fn cell(&mut self, sql: &str) -> Option<String> {
        printed(&mut self.there, &sql.replace("{t}", &self.copy)).into_iter().flatten().next().flatten()
    }

    /// All that the destination holds of the table, and its position.
    fn content(&mut self) -> Vec<Vec<Vec<Option<String>>>> {
        let copy = self.copy.clone();
        let rows =
            self.cell(&format!("select count(*) from information_schema.tables where table_name = '{copy}' and table_schema = database()"));
        let mut content = Vec::new();
        if rows.as_deref() != Some("0") {
            // vtgate does not merge sorted rows of columns that it has not been told of, and asks for a dropped one until it hears of that.
            let sql = format!("select * from `{copy}`");
            let until = Instant::now() + Duration::from_secs(60);
            while self.there.query_drop(&sql).is_err() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(50));
            }
            let mut rows = printed(&mut self.there, &sql);
            rows.sort();
            content.push(rows);
        }
        content.push(printed(&mut self.there, &format!("select position, live_rows from _ingest_checkpoint where dest_table = '{copy}'")));
        content
    }
}

/// Captures tables of the unsharded keyspace.
fn capture(destination: &str, options: &IngestOptions) -> Result<Report> {
    let source = vitess().cdc_uri("commerce");
    once_tablets_know(&source, || load(&source, destination, options))
}

/// Nothing of an earlier run of the tests is left.
fn forget(there: &mut Conn, copy: &str) {
    run(there, &format!("drop table if exists `{copy}`"));
    run(there, &format!("drop table if exists `_ingest_new_{copy}`"));
    let _ = there.query_drop(format!("delete from _ingest_checkpoint where dest_table in ('{copy}', '_ingest_new_{copy}')"));
}

#[track_caller]
fn complete(report: Result<Report>, place: Place) -> Report {
    let report = report.unwrap_or_else(|error| panic!("{}: {error:?}", place.name));
    for table in &report.tables {
        assert_eq!(table.state, TableState::Complete, "{} {}", place.name, table.source);
    }
    report
}

/// The rows of a captured table that are not deleted, as MySQL prints them.
fn rows(there: &mut Conn, copy: &str) -> Rows {
    let of_vitess = there.query_drop("set workload = 'olap'").is_ok();
    let sql = format!("select id, name, cast(amount as char), note, cast(happened as char) from `{copy}` where not _cdc_deleted");
    let printed = printed(there, &sql);
    if of_vitess {
        run(there, "set workload = 'oltp'");
    }
    by_id(printed, copy)
}
