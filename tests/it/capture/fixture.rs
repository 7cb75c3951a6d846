//! Tables to capture, destinations to capture them into, and the comparison of both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use mysql::Conn;
use mysql::prelude::Queryable;
use planetscale_ingest::{Error, IngestOptions, Report, Sink, Source, TableState, ingest};
use tempfile::TempDir;

use crate::support::quick_folder;
use crate::support::servers::{Server, claim, once_tablets_know, route};

/// Purging binary logs takes the positions of all tests that run at the time.
static BINARY_LOGS: RwLock<()> = RwLock::new(());

pub fn binary_logs_stay() -> RwLockReadGuard<'static, ()> {
    BINARY_LOGS.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

pub fn binary_logs_may_go() -> RwLockWriteGuard<'static, ()> {
    BINARY_LOGS.write().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    DuckDb,
}

pub const BOTH: [Kind; 2] = [Kind::Sqlite, Kind::DuckDb];

/// The columns that every test table has.
pub const COLUMNS: &str = "id bigint not null primary key, name varchar(200), amount decimal(12,2), note text, happened datetime(6)";

/// A new table; in a keyspace of several shards its rows are on all of them.
pub fn create(server: &Server, keyspace: &str, table: &str) -> Conn {
    create_with(server, keyspace, table, COLUMNS)
}

/// A new table with columns of its own, of which one is `id`.
pub fn create_with(server: &Server, keyspace: &str, table: &str, columns: &str) -> Conn {
    claim(server, keyspace, table);
    let mut conn = server.conn();
    conn.query_drop(format!("use `{keyspace}`")).unwrap();
    conn.query_drop(format!("drop table if exists `{table}`")).unwrap();
    conn.query_drop(format!("create table `{table}` ({columns})")).unwrap();
    if is_sharded(keyspace) {
        route(&mut conn, keyspace, table, "by_hash(id)");
    }
    conn
}

/// The keyspaces of the tests that have several shards: there a key, which says on which shard its row is, may not change.
fn is_sharded(keyspace: &str) -> bool {
    keyspace == "customer" || keyspace.starts_with("sharded_")
}

/// Adds rows with the ids of a range; what they hold follows from id and generation.
pub fn insert(conn: &mut Conn, table: &str, ids: std::ops::Range<u64>, generation: u64) {
    for chunk in ids.collect::<Vec<_>>().chunks(500) {
        let rows: Vec<String> = chunk.iter().map(|id| row(*id, generation)).collect();
        conn.query_drop(format!("insert into `{table}` (id, name, amount, note, happened) values {}", rows.join(","))).unwrap();
    }
}

/// Adds rows of four kilobytes and more.
pub fn insert_large(conn: &mut Conn, table: &str, ids: std::ops::Range<u64>) {
    for chunk in ids.collect::<Vec<_>>().chunks(500) {
        let rows: Vec<String> =
            chunk.iter().map(|id| format!("({id}, 'large {id}', {id}.25, repeat(char(97 + {id} % 26), 4000))")).collect();
        conn.query_drop(format!("insert into `{table}` (id, name, amount, note) values {}", rows.join(","))).unwrap();
    }
}

fn row(id: u64, generation: u64) -> String {
    let note = match (id + generation) % 5 {
        0 => "null".to_owned(),
        1 => "''".to_owned(),
        _ => format!("'note {id}.{generation} ünïcødé ''quoted'''"),
    };
    let cents = (id * 37 + generation * 11) % 10_000;
    let sign = if id.is_multiple_of(3) { "-" } else { "" };
    let (second, micros) = (id % 60, (id * 7919 + generation) % 1_000_000);
    format!(
        "({id}, 'name {id} {generation}', {sign}{}.{:02}, {note}, '2024-02-29 12:30:{second:02}.{micros:06}')",
        cents / 100,
        cents % 100
    )
}

/// Pseudo-random numbers that a seed repeats.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// One random transaction: inserts, updates, deletes and key changes of a few rows.
pub fn change(conn: &mut Conn, table: &str, random: &mut Random, generation: u64, may_move_keys: bool) {
    try_change(conn, table, random, generation, may_move_keys).unwrap();
}

fn try_change(conn: &mut Conn, table: &str, random: &mut Random, generation: u64, may_move_keys: bool) -> mysql::Result<()> {
    conn.query_drop("begin")?;
    for _ in 0..=random.below(6) {
        let id = random.below(2_000);
        match random.below(if may_move_keys { 10 } else { 9 }) {
            0..=2 => {
                let values = row(id, generation);
                conn.query_drop(format!(
                    "insert into `{table}` (id, name, amount, note, happened) values {values} on duplicate key update name = values(name), \
                     amount = values(amount), note = values(note), happened = values(happened)"
                ))?;
            }
            3..=6 => {
                conn.query_drop(format!(
                    "update `{table}` set name = 'changed {generation}', note = null where id between {id} and {}",
                    id + 9
                ))?;
            }
            7..=8 => conn.query_drop(format!("delete from `{table}` where id = {id}"))?,
            _ => {
                let new = 1_000_000 + generation * 100 + random.below(100);
                // The new key may be taken.
                let _ = conn.query_drop(format!("update `{table}` set id = {new} where id = {id}"));
            }
        }
    }
    conn.query_drop("commit")
}

/// Changes tables until it is dropped; [`Writer::pause`] keeps it still for as long as the guard lives.
pub struct Writer {
    running: Arc<AtomicBool>,
    turn: Arc<Mutex<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    /// Every statement has to succeed.
    pub fn start(server: &'static Server, keyspace: &'static str, tables: Vec<String>, seed: u64) -> Self {
        Self::start_with(server, keyspace, tables, seed, |error| panic!("the writer: {error}"))
    }

    /// Where a statement fails, it connects anew and goes on.
    pub fn start_through_faults(server: &'static Server, keyspace: &'static str, tables: Vec<String>, seed: u64) -> Self {
        Self::start_with(server, keyspace, tables, seed, |_| {})
    }

    fn start_with(
        server: &'static Server,
        keyspace: &'static str,
        tables: Vec<String>,
        seed: u64,
        on_error: impl Fn(mysql::Error) + Send + 'static,
    ) -> Self {
        let running = Arc::new(AtomicBool::new(true));
        let turn = Arc::new(Mutex::new(()));
        let (is_running, its_turn) = (Arc::clone(&running), Arc::clone(&turn));
        let thread = std::thread::spawn(move || {
            let mut random = Random::new(seed);
            let mut generation = 1;
            let mut connected = None;
            while is_running.load(Ordering::SeqCst) {
                // Changes without a pause would take the processor from those who follow them.
                std::thread::sleep(Duration::from_millis(2));
                let _turn = its_turn.lock().unwrap();
                let table = &tables[usize::try_from(random.below(tables.len() as u64)).unwrap()];
                let outcome = match &mut connected {
                    None => server.connect().and_then(|mut conn| {
                        conn.query_drop(format!("use `{keyspace}`"))?;
                        connected = Some(conn);
                        Ok(())
                    }),
                    Some(conn) => try_change(conn, table, &mut random, generation, !is_sharded(keyspace)),
                };
                generation += 1;
                if let Err(error) = outcome {
                    connected = None;
                    on_error(error);
                }
            }
        });
        Self { running, turn, thread: Some(thread) }
    }

    pub fn pause(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.running.store(false, Ordering::SeqCst);
        if let Some(Err(panic)) = self.thread.take().map(std::thread::JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

pub type Rows = BTreeMap<i64, Vec<Option<String>>>;

/// What the source holds, as MySQL prints it.
pub fn source_rows(conn: &mut Conn, table: &str) -> Rows {
    conn.query_drop("set workload = 'olap'").unwrap();
    type Row = (i64, Option<String>, Option<String>, Option<String>, Option<String>);
    let rows: Vec<Row> = conn.query(format!("select id, name, cast(amount as char), note, cast(happened as char) from `{table}`")).unwrap();
    conn.query_drop("set workload = 'oltp'").unwrap();
    rows.into_iter().map(|(id, name, amount, note, happened)| (id, vec![name, amount, note, happened])).collect()
}

/// A destination in a folder of its own.
pub struct Destination {
    pub kind: Kind,
    pub path: PathBuf,
    _folder: TempDir,
}

impl Destination {
    pub fn new(kind: Kind) -> Self {
        Self::within(kind, tempfile::tempdir().unwrap())
    }

    /// In memory where there is such a place: to write a disk's cache out takes as long as others are writing.
    pub fn quick(kind: Kind) -> Self {
        Self::within(kind, quick_folder())
    }

    fn within(kind: Kind, folder: TempDir) -> Self {
        let path = folder.path().join(if kind == Kind::Sqlite { "a.db" } else { "a.duckdb" });
        Self { kind, path, _folder: folder }
    }

    pub fn uri(&self) -> String {
        let scheme = if self.kind == Kind::Sqlite { "sqlite" } else { "duckdb" };
        format!("{scheme}://{}", self.path.display())
    }

    /// Captures until the run has caught up.
    pub fn capture(&self, source: &str, options: &IngestOptions) -> Result<Report, Error> {
        once_tablets_know(source, || {
            let source = Source::open(source)?;
            let mut sink = Sink::open(&self.uri())?;
            ingest(&source, &mut sink, options)
        })
    }

    /// Captures and expects every table to be complete.
    pub fn capture_all(&self, source: &str, options: &IngestOptions) -> Report {
        let report = self.capture(source, options).unwrap();
        for table in &report.tables {
            assert_eq!(table.state, TableState::Complete, "{:?} {}", self.kind, table.source);
        }
        report
    }

    /// Runs a query; all cells as text.
    pub fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        match self.kind {
            Kind::Sqlite => query_sqlite(&self.path, sql),
            Kind::DuckDb => query_duckdb(&self.path, sql),
        }
    }

    pub fn execute(&self, sql: &str) {
        match self.kind {
            Kind::Sqlite => rusqlite::Connection::open(&self.path).unwrap().execute_batch(sql).unwrap(),
            Kind::DuckDb => duckdb::Connection::open(&self.path).unwrap().execute_batch(sql).unwrap(),
        }
    }

    pub fn cell(&self, sql: &str) -> Option<String> {
        self.query(sql).into_iter().flatten().next().flatten()
    }

    /// The rows that are not deleted, in the form of [`source_rows`].
    pub fn rows(&self, table: &str) -> Rows {
        let happened = match self.kind {
            Kind::Sqlite => "happened",
            Kind::DuckDb => "strftime(happened, '%Y-%m-%d %H:%M:%S.%f')",
        };
        let sql = format!("select id, name, cast(amount as varchar), note, {happened} from \"{table}\" where not _cdc_deleted");
        by_id(self.query(&sql), &format!("{:?} `{table}`", self.kind))
    }

    /// Compares a table with the source, row by row.
    pub fn assert_equals(&self, conn: &mut Conn, table: &str) {
        assert_rows(&source_rows(conn, table), &self.rows(table), &format!("{:?} `{table}`", self.kind));
    }
}

/// Rows by their first column.
#[track_caller]
pub fn by_id(rows: Vec<Vec<Option<String>>>, what: &str) -> Rows {
    let count = rows.len();
    let mut by_id = Rows::new();
    for mut row in rows {
        let id = row.remove(0).unwrap().parse().unwrap();
        by_id.insert(id, row);
    }
    assert_eq!(by_id.len(), count, "{what} holds a key twice");
    by_id
}

/// Compares a destination with the source, row by row.
#[track_caller]
pub fn assert_rows(expected: &Rows, found: &Rows, what: &str) {
    let differing: Vec<_> = expected
        .keys()
        .chain(found.keys())
        .filter(|id| expected.get(id) != found.get(id))
        .take(3)
        .map(|id| (id, expected.get(id), found.get(id)))
        .collect();
    let (there, here) = (expected.len(), found.len());
    assert!(differing.is_empty(), "{what}: {there} rows at the source, {here} at the destination; first differences {differing:?}");
}

fn query_sqlite(path: &Path, sql: &str) -> Vec<Vec<Option<String>>> {
    let connection = rusqlite::Connection::open(path).unwrap();
    let mut statement = connection.prepare(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let width = statement.column_count();
    let mut rows = statement.query([]).unwrap();
    let mut all = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let cell = |index| match row.get_ref(index).unwrap() {
            rusqlite::types::ValueRef::Null => None,
            rusqlite::types::ValueRef::Integer(number) => Some(number.to_string()),
            rusqlite::types::ValueRef::Real(number) => Some(number.to_string()),
            rusqlite::types::ValueRef::Text(text) | rusqlite::types::ValueRef::Blob(text) => {
                Some(String::from_utf8(text.to_vec()).unwrap())
            }
        };
        all.push((0..width).map(cell).collect());
    }
    all
}

fn query_duckdb(path: &Path, sql: &str) -> Vec<Vec<Option<String>>> {
    let connection = duckdb::Connection::open(path).unwrap();
    let described: Vec<String> = {
        let mut statement = connection.prepare(&format!("describe {sql}")).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let names = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
        names.collect::<Result<_, _>>().unwrap()
    };
    let cells: Vec<String> = (1..=described.len()).map(|index| format!("cast(c{index} as varchar)")).collect();
    let names: Vec<String> = (1..=described.len()).map(|index| format!("c{index}")).collect();
    let sql = format!("select {} from ({sql}) as t({})", cells.join(", "), names.join(", "));
    let mut statement = connection.prepare(&sql).unwrap();
    let rows = statement.query_map([], |row| (0..names.len()).map(|index| row.get(index)).collect()).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}
