//! MySQL, and unsharded and sharded keyspaces of Vitess, as destinations.

mod bad_input;
mod batch;
mod capture;
mod lost;
mod settings;
mod strict;
mod types;

use std::sync::RwLock;

use mysql::Conn;
use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, Report, Result, Sink, Source, TableState, ingest};

use crate::support::files::{connected, printed};
use crate::support::servers::{Server, claim, mysql, route, vitess};

/// The columns that every table has.
const COLUMNS: &str =
    "id bigint not null primary key, name varchar(200), amount decimal(12,2), note text, happened datetime(6), bits bit(9)";

/// A place that rows go to.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    server: fn() -> &'static Server,
    database: &'static str,
    pub(crate) name: &'static str,
}

/// Who changes how the MySQL server is set holds it alone; others hold it where what is sent depends on that.
static GLOBAL_SETTINGS: RwLock<()> = RwLock::new(());

/// A database of its own, so that tables can have the names that they have at the source.
pub(crate) const PLAIN: Place = Place { server: mysql, database: "into_mysql", name: "MySQL" };
pub(crate) const UNSHARDED: Place = Place { server: vitess, database: "commerce", name: "Vitess, unsharded" };
pub(crate) const SHARDED: Place = Place { server: vitess, database: "customer", name: "Vitess, sharded" };
pub(crate) const ALL: [Place; 3] = [PLAIN, UNSHARDED, SHARDED];

impl Place {
    pub(crate) fn conn(self) -> Conn {
        if self.database == PLAIN.database {
            mysql().exec("create database if not exists into_mysql");
        }
        connected((self.server)(), self.database)
    }

    pub(crate) fn uri(self) -> String {
        self.conn();
        (self.server)().uri(self.database)
    }

    pub(crate) fn is_sharded(self) -> bool {
        self.database == SHARDED.database
    }

    /// A table without rows, made by hand.
    pub(crate) fn make(self, table: &str, columns: &str) -> Conn {
        claim((self.server)(), self.database, table);
        let mut conn = self.conn();
        run(&mut conn, &format!("drop table if exists `{table}`"));
        run(&mut conn, &format!("create table `{table}` ({columns})"));
        if self.is_sharded() {
            route(&mut conn, "customer", table, "by_hash(id)");
        }
        conn
    }

    pub(crate) fn drop_table(self, table: &str) {
        claim((self.server)(), self.database, table);
        run(&mut self.conn(), &format!("drop table if exists `{table}`"));
    }

    fn tables(self) -> Vec<String> {
        self.conn().query("show tables").unwrap()
    }
}

#[track_caller]
fn run(conn: &mut Conn, sql: &str) {
    conn.query_drop(sql).unwrap_or_else(|error| panic!("{}: {error}", sql.chars().take(200).collect::<String>()));
}

/// A table of the plain server with rows of the ids.
fn source(table: &str, ids: std::ops::Range<u64>) -> Conn {
    claim(mysql(), "commerce", table);
    let mut conn = connected(mysql(), "commerce");
    run(&mut conn, &format!("drop table if exists `{table}`"));
    run(&mut conn, &format!("create table `{table}` ({COLUMNS})"));
    insert(&mut conn, table, ids, 0);
    conn
}

/// Rows that follow from id and generation.
fn insert(conn: &mut Conn, table: &str, ids: std::ops::Range<u64>, generation: u64) {
    for part in ids.collect::<Vec<_>>().chunks(2_000) {
        let rows: Vec<String> = part
            .iter()
            .map(|id| {
                let note = match id % 5 {
                    0 => "null".to_owned(),
                    1 => "''".to_owned(),
                    _ => format!("'note {id}.{generation} ünïcødé ☃🎉 ''quoted'' back\\\\slash \\0 end '"),
                };
                let sign = if id % 3 == 0 { "-" } else { "" };
                let at = format!("'2024-02-29 12:{:02}:{:02}.{:06}'", id / 60 % 60, id % 60, id * 7919 % 1_000_000);
                format!("({id}, 'name {id} {generation}', {sign}{}.{:02}, {note}, {at}, {})", id * 37 % 1000, id % 100, id % 512)
            })
            .collect();
        run(conn, &format!("insert into `{table}` (id, name, amount, note, happened, bits) values {}", rows.join(",")));
    }
}

type Rows = Vec<Vec<Option<String>>>;

/// The rows of a table of [`COLUMNS`], by id.
#[track_caller]
fn content(conn: &mut Conn, table: &str) -> Rows {
    let of_vitess = conn.query_drop("set workload = 'olap'").is_ok();
    let rows = printed(conn, &format!("select id, name, amount, hex(note), happened, bits + 0 from `{table}` order by id"));
    if of_vitess {
        run(conn, "set workload = 'oltp'");
    }
    rows
}

#[track_caller]
fn assert_same(expected: &Rows, found: &Rows, what: &str) {
    let differing = expected.iter().zip(found).find(|(one, other)| one != other);
    assert!(
        expected.len() == found.len() && differing.is_none(),
        "{what}: {} rows at the source, {} at the destination, first difference {differing:?}",
        expected.len(),
        found.len()
    );
}

fn load(source: &str, destination: &str, options: &IngestOptions) -> Result<Report> {
    ingest(&Source::open(source)?, &mut Sink::open(destination)?, options)
}

/// Copies, and expects every table to be complete.
#[track_caller]
fn load_all(source: &str, destination: &str, options: &IngestOptions) -> Report {
    let report = load(source, destination, options).unwrap();
    let failed: Vec<_> = report.tables.iter().filter(|table| table.state != TableState::Complete).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    report
}

/// The error of the first table of a run.
#[track_caller]
fn refused(source: &str, destination: &str, options: &IngestOptions) -> String {
    match load(source, destination, options) {
        Err(error) => format!("{error:#}"),
        Ok(report) => match &report.tables[0].state {
            TableState::Failed { error } => error.clone(),
            other => panic!("{other:?}"),
        },
    }
}

fn source_uri() -> String {
    mysql().uri("commerce")
}
