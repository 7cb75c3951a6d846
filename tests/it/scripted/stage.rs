//! What the scripted servers have in common: a keyspace with small tables, as MySQL tells of it, and short ways to play a copy and a stream.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use planetscale_ingest::{Cancel, Error, IngestOptions, Report, Sink, Source, TableState, ingest};
use tempfile::TempDir;

use crate::support::quick_folder;
use crate::vtgate::events::{Shard, all_copied, column, key, row};
use crate::vtgate::mysql::{self, Answer};
use crate::vtgate::proto::{Field, RowChange, ShardGtid, VEvent, VStreamRequest};
use crate::vtgate::{Ending, Gone, Request, Responder, Script, Vtgate};

pub const KEYSPACE: &str = "shop";
const UUID: &str = "5a0b0c0d-1111-11ef-8a2b-0242ac120002";

/// The GTID set of the first `count` transactions, as a VGTID has it.
pub fn gtid(count: u32) -> String {
    match count {
        0 => "MySQL56/".into(),
        count => format!("MySQL56/{UUID}:1-{count}"),
    }
}

/// A keyspace: its shards, which share one history, and its tables. The first column of a table is its key.
pub struct Stage {
    pub shards: Vec<&'static str>,
    pub tables: Vec<(&'static str, Vec<(&'static str, &'static str)>)>,
    /// How many transactions were executed, and how many of the first of them are purged.
    pub history: Arc<Mutex<(u32, u32)>>,
    /// Statements that begin with one of these are refused.
    pub refused: Vec<&'static str>,
    /// What is answered otherwise than [`answer`] would.
    pub other: fn(&str) -> Answer,
}

impl Stage {
    /// One shard `0` with the table `t (id bigint, name varchar(20))`, after `executed` transactions.
    pub fn new(executed: u32) -> Self {
        Self {
            shards: vec!["0"],
            tables: vec![("t", vec![("id", "bigint"), ("name", "varchar(20)")])],
            history: Arc::new(Mutex::new((executed, 0))),
            refused: Vec::new(),
            other: |_| Answer::Unscripted,
        }
    }

    pub fn shards(mut self, shards: &[&'static str]) -> Self {
        self.shards = shards.to_vec();
        self
    }

    pub fn table(mut self, name: &'static str, columns: &[(&'static str, &'static str)]) -> Self {
        self.tables = vec![(name, columns.to_vec())];
        self
    }

    pub fn refusing(mut self, statements: &[&'static str]) -> Self {
        self.refused = statements.to_vec();
        self
    }

    pub fn answering(mut self, other: fn(&str) -> Answer) -> Self {
        self.other = other;
        self
    }

    /// The server that streams as it is told.
    pub fn script(&self, on_stream: impl Fn(&Request, &mut Responder) -> Result<Ending, Gone> + Send + Sync + 'static) -> Script {
        let (shards, tables, history) = (self.shards.clone(), self.tables.clone(), Arc::clone(&self.history));
        let (refused, other) = (self.refused.clone(), self.other);
        Script::new(move |request, responder| on_stream(request, responder).unwrap_or(Ending::Ok)).on_query(move |statement| {
            if refused.iter().any(|start| statement.starts_with(start)) {
                return Answer::failed(1105, "HY000", "this statement is not allowed here");
            }
            let (executed, purged) = *history.lock().unwrap();
            match other(statement) {
                Answer::Unscripted => answer(&shards, &tables, executed, purged, statement).unwrap_or(Answer::Unscripted),
                scripted => scripted,
            }
        })
    }

    pub fn start(&self, on_stream: impl Fn(&Request, &mut Responder) -> Result<Ending, Gone> + Send + Sync + 'static) -> Vtgate {
        Vtgate::start(self.script(on_stream))
    }
}

/// Rows as MySQL sends them.
type Rows = Vec<Vec<Option<Vec<u8>>>>;

fn answer(shards: &[&str], tables: &[(&str, Vec<(&str, &str)>)], executed: u32, purged: u32, statement: &str) -> Option<Answer> {
    let text = |value: &str| Some(value.as_bytes().to_vec());
    let set = |count: u32| text(gtid(count).strip_prefix("MySQL56/").unwrap());
    let only = statement.rsplit_once("table_name = ").map(|(_, name)| name.trim_matches('\''));
    let tables = tables.iter().filter(|(name, _)| only.is_none_or(|only| only == *name));
    let (names, rows): (&[&str], Rows) = if statement == "SHOW VITESS_SHARDS" {
        (&["Shards"], shards.iter().map(|shard| vec![text(&format!("{KEYSPACE}/{shard}"))]).collect())
    } else if statement == "SELECT @@global.gtid_executed, @@global.gtid_purged" {
        (&["executed", "purged"], vec![vec![set(executed), set(purged)]])
    } else if statement.contains("FROM information_schema.tables") {
        (&["table_name", "table_type"], tables.map(|(name, _)| vec![text(name), text("BASE TABLE")]).collect())
    } else if statement.contains("FROM information_schema.columns") {
        let row = |table: &str, at: usize, (name, declared): (&str, &str)| {
            let nullable = if at == 0 { "NO" } else { "YES" };
            vec![text(table), text(&(at + 1).to_string()), text(name), text(declared), text(nullable), text(""), None]
        };
        (
            &["table_name", "ordinal_position", "column_name", "column_type", "is_nullable", "extra", "collation_name"],
            tables.flat_map(|(table, columns)| columns.iter().enumerate().map(move |(at, column)| row(table, at, *column))).collect(),
        )
    } else if statement.contains("FROM information_schema.statistics") {
        let rows = tables.map(|(table, columns)| vec![text(table), text("1"), text(columns[0].0), None]).collect();
        (&["table_name", "seq_in_index", "column_name", "sub_part"], rows)
    } else {
        return None;
    };
    Some(Answer::Rows { columns: names.iter().map(|name| mysql::Column::text(name)).collect(), rows })
}

/// The URI of change capture, with more parameters.
pub fn uri(server: &Vtgate, more: &str) -> String {
    let Vtgate { mysql_port, grpc_port, .. } = server;
    format!("mysql+cdc://127.0.0.1:{mysql_port}/{KEYSPACE}?grpc_port={grpc_port}&tls=false{more}")
}

/// The one shard of a keyspace that has one.
pub fn shard() -> Shard {
    Shard::new(KEYSPACE, "0")
}

/// The columns of `t`.
pub fn fields() -> Vec<Field> {
    vec![key("id", "bigint"), column("name", "varchar(20)")]
}

/// What the request says of a shard.
pub fn asked<'a>(request: &'a VStreamRequest, shard: &str) -> &'a ShardGtid {
    request.vgtid.shard_gtids.iter().find(|at| at.shard == shard).unwrap()
}

/// Whether the request is to copy, from the start or from a last PK.
pub fn is_copy(request: &VStreamRequest) -> bool {
    request.vgtid.shard_gtids.iter().any(|at| at.gtid.is_empty() || !at.table_p_ks.is_empty())
}

/// The key of the last row, for a copy that goes on.
pub fn last_pk(request: &VStreamRequest, shard: &str) -> Option<i64> {
    let last = &asked(request, shard).table_p_ks.first()?.lastpk;
    std::str::from_utf8(&last.rows.first()?.values).ok()?.parse().ok()
}

/// Events of the copy have no time.
pub fn copied(events: impl IntoIterator<Item = VEvent>) -> Vec<VEvent> {
    events.into_iter().map(|event| VEvent { timestamp: 0, ..event }).collect()
}

/// The beginning of a copy of `t`.
pub fn begin_copy(shard: &Shard, at: u32) -> Vec<VEvent> {
    copied([shard.begin(), shard.field("t", &fields()), shard.vgtid(&gtid(at))])
}

/// Rows of `t` up to a commit that says how far the copy is.
pub fn copy_rows(shard: &Shard, rows: &[(i64, &str)], at: u32) -> Vec<VEvent> {
    let texts: Vec<(String, &str)> = rows.iter().map(|(id, name)| (id.to_string(), *name)).collect();
    let mut events: Vec<VEvent> = texts.iter().map(|(id, name)| shard.row_insert("t", &[Some(id), Some(name)])).collect();
    let last = texts.last().map(|(id, _)| id.as_str());
    let position = shard.gtid_copying(&gtid(at), "t", &fields()[..1], &[last]);
    events.extend([shard.vgtid_of(vec![position]), shard.commit()]);
    copied(events)
}

/// The end of the copy of a keyspace with one shard.
pub fn end_copy(shard: &Shard, at: u32) -> Vec<VEvent> {
    copied([shard.begin(), shard.vgtid(&gtid(at)), shard.commit(), shard.copy_completed(), all_copied()])
}

/// A whole copy of `t`.
pub fn copy(responder: &mut Responder, rows: &[(i64, &str)], at: u32) -> Result<(), Gone> {
    responder.send(begin_copy(&shard(), at))?;
    if !rows.is_empty() {
        responder.send(copy_rows(&shard(), rows, at))?;
    }
    responder.send(end_copy(&shard(), at))
}

/// The same events, for a table that is called otherwise.
pub fn renamed(mut events: Vec<VEvent>, name: &str) -> Vec<VEvent> {
    for event in &mut events {
        event.field_event.as_mut().into_iter().for_each(|field| field.table_name = name.to_owned());
        event.row_event.as_mut().into_iter().for_each(|row| row.table_name = name.to_owned());
    }
    events
}

/// A change of `t`: the row before and after.
pub type Change<'a> = (Option<(i64, &'a str)>, Option<(i64, &'a str)>);

/// A transaction of `t`, with its FIELD event, which makes `number` the last that was executed.
pub fn transaction(shard: &Shard, changes: &[Change<'_>], number: u32) -> Vec<VEvent> {
    transaction_of(shard, changes, shard.vgtid(&gtid(number)))
}

pub fn transaction_of(shard: &Shard, changes: &[Change<'_>], vgtid: VEvent) -> Vec<VEvent> {
    let image = |image: &Option<(i64, &str)>| image.map(|(id, name)| row(&[Some(&id.to_string()), Some(name)])).into();
    let change = |(before, after): &Change<'_>| RowChange { before: image(before), after: image(after), ..Default::default() };
    vec![shard.begin(), shard.field("t", &fields()), shard.rows("t", changes.iter().map(change).collect()), vgtid, shard.commit()]
}

/// An SQLite file to capture into.
pub struct Destination {
    folder: TempDir,
}

impl Destination {
    pub fn new() -> Self {
        Self { folder: quick_folder() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("a.db")
    }

    pub fn uri(&self) -> String {
        format!("sqlite://{}", self.path().display())
    }

    /// Captures, and is cancelled if it does not end: nothing here takes so long.
    pub fn capture(&self, source: &str) -> Result<Report, Error> {
        let cancel = Cancel::new();
        let late = cancel.clone();
        let (ended, waiting) = mpsc::channel::<()>();
        let watchdog = std::thread::spawn(move || {
            if waiting.recv_timeout(Duration::from_secs(90)) == Err(mpsc::RecvTimeoutError::Timeout) {
                late.cancel();
            }
        });
        let result = self.capture_unless(source, &cancel);
        drop(ended);
        watchdog.join().unwrap();
        assert!(!cancel.is_cancelled(), "the run did not end by itself");
        result
    }

    pub fn capture_unless(&self, source: &str, cancel: &Cancel) -> Result<Report, Error> {
        let source = Source::open(source)?;
        let mut sink = Sink::open(&self.uri())?;
        ingest(&source, &mut sink, &IngestOptions::new().with_cancel(cancel.clone()))
    }

    /// Captures and expects every table to be complete.
    #[track_caller]
    pub fn capture_all(&self, source: &str) -> Report {
        let report = self.capture(source).unwrap();
        for table in &report.tables {
            assert_eq!(table.state, TableState::Complete, "{}", table.source);
        }
        report
    }

    /// The rows of a query, their cells joined by spaces.
    pub fn query(&self, sql: &str) -> Vec<String> {
        let connection = rusqlite::Connection::open(self.path()).unwrap();
        let mut statement = connection.prepare(sql).unwrap();
        let width = statement.column_count();
        let row = |row: &rusqlite::Row<'_>| {
            let cell = |at: usize| {
                Ok(match row.get::<_, rusqlite::types::Value>(at)? {
                    rusqlite::types::Value::Null => "NULL".to_owned(),
                    rusqlite::types::Value::Integer(number) => number.to_string(),
                    rusqlite::types::Value::Real(number) => number.to_string(),
                    rusqlite::types::Value::Text(text) => text,
                    rusqlite::types::Value::Blob(bytes) => format!("{bytes:?}"),
                })
            };
            (0..width).map(cell).collect::<rusqlite::Result<Vec<_>>>().map(|cells| cells.join(" "))
        };
        let rows = statement.query_map([], row).unwrap();
        rows.map(Result::unwrap).collect()
    }

    /// The rows of `t` that are not deleted, as `id name`; none if there is no such table yet.
    pub fn rows(&self) -> Vec<String> {
        if self.query("SELECT 1 FROM sqlite_schema WHERE name = 't'").is_empty() {
            return Vec::new();
        }
        self.query("SELECT id, name FROM t WHERE NOT _cdc_deleted ORDER BY id")
    }
}

/// The error that a report gives for a table.
#[track_caller]
pub fn failure_of<'a>(report: &'a Report, table: &str) -> &'a str {
    let entry = report.tables.iter().find(|entry| entry.source == table).unwrap();
    match &entry.state {
        TableState::Failed { error } => error,
        other => panic!("{table} is {other:?}"),
    }
}

/// The error of a run, whether it reports tables or not.
#[track_caller]
pub fn error_of(result: Result<Report, Error>, table: &str) -> String {
    match result {
        Ok(report) => failure_of(&report, table).to_owned(),
        Err(error) => format!("{error:#}"),
    }
}
