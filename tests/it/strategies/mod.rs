//! Whole tables by each strategy, from real servers into both destinations, with sources that change between the runs.

mod interval;
mod keys;
mod refused;
mod stored;
mod tables;
mod verify;

use mysql::Conn;
use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, Report, Sink, Source, Strategy, TableReport, TableState, ingest};

use crate::support::files::{Files, connected, printed};
use crate::support::servers::{claim, mysql};

type Rows = Vec<Vec<Option<String>>>;

/// A table of MySQL for one test, and the destinations that it goes to.
struct Case {
    conn: Conn,
    table: &'static str,
    files: Files,
}

impl Case {
    /// Makes the table anew; `columns` is what stands between the parentheses.
    fn new(table: &'static str, columns: &str) -> Self {
        claim(mysql(), "commerce", table);
        let mut conn = connected(mysql(), "commerce");
        conn.query_drop(format!("drop table if exists {table}")).unwrap();
        conn.query_drop(format!("create table {table} ({columns})")).unwrap();
        Self { conn, table, files: Files::new() }
    }

    fn sql(&mut self, sql: &str) {
        self.conn.query_drop(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// A run for each destination.
    fn run(&self, options: &IngestOptions) -> Vec<TableReport> {
        self.reports(options).into_iter().map(complete).collect()
    }

    /// A run for each destination that fails; what it says.
    fn errors(&self, options: &IngestOptions) -> Vec<String> {
        let error = |mut report: Report| match report.tables.remove(0).state {
            TableState::Failed { error } => error,
            other => panic!("{other:?}"),
        };
        self.reports(options).into_iter().map(error).collect()
    }

    fn reports(&self, options: &IngestOptions) -> Vec<Report> {
        let source = Source::open(&mysql().uri("commerce")).unwrap();
        let options = options.clone().with_tables([self.table]);
        self.files.uris().iter().map(|uri| ingest(&source, &mut Sink::open(uri).unwrap(), &options).unwrap()).collect()
    }

    /// What each destination has is what MySQL prints.
    fn check(&mut self, at_source: &str, at_destination: &str) {
        let expected = printed(&mut self.conn, at_source);
        for found in self.files.each(at_destination) {
            assert_same(self.table, &expected, &found);
        }
    }

    /// The same of all rows, whose columns are numbers and text.
    fn check_all(&mut self, columns: &str) {
        let sql = format!("select {columns} from {} order by 1, 2", self.table);
        self.check(&sql, &sql);
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        // Not worth a second panic: the next run of the test makes it anew.
        let _ = self.conn.query_drop(format!("drop table if exists {}", self.table));
    }
}

fn assert_same(what: &str, expected: &Rows, found: &Rows) {
    for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
        assert_eq!(found, expected, "{what}: row {index}");
    }
    assert_eq!(found.len(), expected.len(), "{what}");
}

fn complete(mut report: Report) -> TableReport {
    assert!(report.is_complete(), "{report:?}");
    report.tables.remove(0)
}

fn by(strategy: Strategy) -> IngestOptions {
    IngestOptions::new().with_strategy(strategy)
}

/// Rows inserted, updated and deleted.
fn counts(report: &TableReport) -> (u64, u64, u64) {
    (report.rows_inserted, report.rows_updated, report.rows_deleted)
}
