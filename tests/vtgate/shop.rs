//! A small shop's database behind a scripted vtgate: keyspace `shop` with the one shard `0`.
//!
//! It is a model in memory. It answers what the library asks over MySQL, and plays the copy phase and the stream as a real vtgate does, event by
//! event. Each transaction has a GTID, and the log of them serves as the binary log.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::events::{Shard, all_copied, column, heartbeat, key, row};
use super::mysql::{self, Answer};
use super::proto::{Field, RowChange, VEvent};
use super::{Ending, Gone, Request, Responder, Script, Vtgate};

const UUID: &str = "5a0b0c0d-1111-11ef-8a2b-0242ac120002";
const USER: &str = "reader";
const PASSWORD: &str = "secret";
/// So small that a table takes several, which a real one does from 250,000 bytes on.
const ROWS_IN_A_PACKET: usize = 2;
/// How often a stream with nothing to send says that it lives.
const HEARTBEAT: Duration = Duration::from_millis(100);

/// Every table: its name, and its columns with their types. The first column is the primary key.
const TABLES: [(&str, &[(&str, &str)]); 3] = [
    ("customers", &[("id", "int unsigned"), ("name", "varchar(60)"), ("email", "varchar(120)"), ("joined", "date")]),
    (
        "orders",
        &[
            ("id", "bigint"),
            ("customer_id", "int unsigned"),
            ("sku", "varchar(16)"),
            ("quantity", "int"),
            ("state", "enum('new','paid','sent')"),
            ("placed_at", "datetime"),
        ],
    ),
    ("products", &[("sku", "varchar(16)"), ("name", "varchar(60)"), ("price", "decimal(8,2)"), ("stock", "int")]),
];

/// A running server with the shop's database.
pub struct Shop {
    pub server: Vtgate,
    database: Arc<Database>,
}

struct Database {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Rows in the order of their keys.
    tables: BTreeMap<&'static str, Vec<Row>>,
    /// The transaction with GTID 1 comes first.
    log: Vec<Transaction>,
}

/// A value for each column; `None` is NULL.
type Row = Vec<Option<String>>;

#[derive(Clone)]
struct Transaction {
    /// In seconds since 1970.
    at: i64,
    changes: Vec<Change>,
}

#[derive(Clone)]
struct Change {
    table: &'static str,
    before: Option<Row>,
    after: Option<Row>,
}

impl Shop {
    /// Starts with a few rows in each table.
    pub fn start() -> Self {
        let database = Arc::new(Database { state: Mutex::default(), changed: Condvar::new() });
        let (streams, queries) = (Arc::clone(&database), Arc::clone(&database));
        let script = Script::new(move |request, responder| match streams.serve(request, responder) {
            Ok(never) => match never {},
            Err(Refused::Gone) => Ending::Ok,
            Err(Refused::Status(code, text)) => Ending::status(code, &text),
        })
        .on_query(move |statement| queries.answer(statement))
        .credentials(USER, PASSWORD);
        let shop = Self { server: Vtgate::start(script), database };
        shop.commit(|shop| {
            shop.insert("products", [("sku", "TEA-1"), ("name", "Green tea"), ("price", "4.50"), ("stock", "120")]);
            shop.insert("products", [("sku", "TEA-2"), ("name", "Black tea"), ("price", "3.90"), ("stock", "80")]);
            shop.insert("products", [("sku", "POT-1"), ("name", "Teapot"), ("price", "29.00"), ("stock", "12")]);
        });
        shop.commit(|shop| {
            shop.insert("customers", [("id", "1"), ("name", "Ada"), ("email", "ada@shop.example"), ("joined", "2024-02-29")]);
            shop.insert("customers", [("id", "2"), ("name", "Grace"), ("joined", "2024-05-01")]);
            shop.insert("customers", [("id", "3"), ("name", "Jürgen"), ("email", "jürgen@shop.example"), ("joined", "2025-11-30")]);
        });
        shop.commit(|shop| {
            for (id, customer, sku, quantity, state, at) in [
                ("1001", "1", "TEA-1", "2", "sent", "2026-01-05 09:30:00"),
                ("1002", "2", "POT-1", "1", "paid", "2026-01-05 11:12:13"),
                ("1003", "1", "TEA-2", "5", "new", "2026-01-06 18:00:00"),
            ] {
                shop.insert(
                    "orders",
                    [("id", id), ("customer_id", customer), ("sku", sku), ("quantity", quantity), ("state", state), ("placed_at", at)],
                );
            }
        });
        shop
    }

    /// The database as a source of whole tables.
    pub fn uri(&self) -> String {
        format!("mysql://{USER}:{PASSWORD}@127.0.0.1:{}/shop?tls=false", self.server.mysql_port)
    }

    /// The database as a source of changes.
    pub fn cdc_uri(&self) -> String {
        let Vtgate { mysql_port, grpc_port, .. } = self.server;
        format!("mysql+cdc://{USER}:{PASSWORD}@127.0.0.1:{mysql_port}/shop?grpc_port={grpc_port}&tls=false")
    }

    /// Changes rows in one transaction.
    pub fn commit(&self, change: impl FnOnce(&mut Changes<'_>)) {
        let mut state = self.database.state.lock().unwrap();
        let mut changes = Changes { tables: &mut state.tables, changes: Vec::new() };
        change(&mut changes);
        let changes = changes.changes;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        state.log.push(Transaction { at: i64::try_from(since.as_secs()).unwrap(), changes });
        self.database.changed.notify_all();
    }
}

/// The changes of one transaction.
pub struct Changes<'a> {
    tables: &'a mut BTreeMap<&'static str, Vec<Row>>,
    changes: Vec<Change>,
}

impl Changes<'_> {
    /// Adds a row; columns that are not named are NULL.
    pub fn insert<const N: usize>(&mut self, table: &str, values: [(&str, &str); N]) {
        let mut row = vec![None; columns(table).len()];
        for (name, value) in values {
            row[position(table, name)] = Some(value.to_owned());
        }
        self.apply(table, None, Some(row));
    }

    /// Sets one column of the row with this key. The column may be the key itself.
    pub fn update(&mut self, table: &str, key: &str, column: &str, value: &str) {
        let before = self.find(table, key);
        let mut after = before.clone();
        after[position(table, column)] = Some(value.to_owned());
        self.apply(table, Some(before), Some(after));
    }

    /// Removes the row with this key.
    pub fn delete(&mut self, table: &str, key: &str) {
        let before = self.find(table, key);
        self.apply(table, Some(before), None);
    }

    fn find(&self, table: &str, key: &str) -> Row {
        let rows = self.tables.get(table).map(Vec::as_slice).unwrap_or_default();
        rows.iter().find(|row| row[0].as_deref() == Some(key)).unwrap_or_else(|| panic!("{table} has no row {key}")).clone()
    }

    fn apply(&mut self, table: &str, before: Option<Row>, after: Option<Row>) {
        let table = TABLES.iter().find(|(name, _)| *name == table).unwrap().0;
        let rows = self.tables.entry(table).or_default();
        if let Some(before) = &before {
            rows.retain(|row| row != before);
        }
        if let Some(after) = &after {
            let at = rows.partition_point(|row| sort_key(row) < sort_key(after));
            rows.insert(at, after.clone());
        }
        self.changes.push(Change { table, before, after });
    }
}

fn columns(table: &str) -> &'static [(&'static str, &'static str)] {
    TABLES.iter().find(|(name, _)| *name == table).unwrap_or_else(|| panic!("no table {table}")).1
}

fn position(table: &str, column: &str) -> usize {
    columns(table).iter().position(|(name, _)| *name == column).unwrap_or_else(|| panic!("{table} has no column {column}"))
}

/// Numbers by their value, before texts.
fn sort_key(row: &Row) -> (i64, &str) {
    let text = row[0].as_deref().unwrap_or_default();
    (text.parse().unwrap_or(i64::MAX), text)
}

/// The GTID set of the first `count` transactions.
fn gtids(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => format!("{UUID}:1"),
        count => format!("{UUID}:1-{count}"),
    }
}

/// How many transactions a stored position holds.
fn count_of(gtid: &str) -> Option<usize> {
    gtid.strip_prefix("MySQL56/")?.strip_prefix(UUID)?.rsplit([':', '-']).next()?.parse().ok()
}

/// A row as MySQL sends it.
type Cells = Vec<Option<Vec<u8>>>;

/// Why a stream ends.
enum Refused {
    Gone,
    Status(i32, String),
}

impl From<Gone> for Refused {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

// MySQL.
impl Database {
    fn answer(&self, statement: &str) -> Answer {
        let state = self.state.lock().unwrap();
        // Of information_schema, either all tables are asked for or one.
        let only = statement.rsplit_once("table_name = ").map(|(_, name)| name.trim_matches('\''));
        let tables = TABLES.iter().filter(|(name, _)| only.is_none_or(|only| only == *name));
        let text = |value: &str| Some(value.as_bytes().to_vec());
        let (names, rows): (&[&str], Vec<Cells>) = if statement == "SHOW VITESS_SHARDS" {
            (&["Shards"], vec![vec![text("shop/0")]])
        } else if statement == "SELECT @@global.gtid_executed, @@global.gtid_purged" {
            (&["gtid_executed", "gtid_purged"], vec![vec![text(&gtids(state.log.len())), text("")]])
        } else if statement.contains("FROM information_schema.tables") {
            (&["table_name", "table_type"], tables.map(|(name, _)| vec![text(name), text("BASE TABLE")]).collect())
        } else if statement.contains("FROM information_schema.columns") {
            let row = |table: &str, at: usize| {
                let (name, column_type) = columns(table)[at];
                let nullable = if at == 0 { "NO" } else { "YES" };
                vec![text(table), text(&(at + 1).to_string()), text(name), text(column_type), text(nullable), text(""), None]
            };
            (
                &["table_name", "ordinal_position", "column_name", "column_type", "is_nullable", "extra", "collation_name"],
                tables.flat_map(|(table, columns)| (0..columns.len()).map(move |at| row(table, at))).collect(),
            )
        } else if statement.contains("FROM information_schema.statistics") {
            let rows = tables.map(|(table, columns)| vec![text(table), text("1"), text(columns[0].0), None]).collect();
            (&["table_name", "seq_in_index", "column_name", "sub_part"], rows)
        } else {
            return rows_of(&state, statement).unwrap_or(Answer::Unscripted);
        };
        Answer::Rows { columns: names.iter().map(|name| mysql::Column::text(name)).collect(), rows }
    }
}

/// The answer to ``SELECT `a`, `b`, … FROM `table` `` with all of the table's columns in their order.
fn rows_of(state: &State, statement: &str) -> Option<Answer> {
    let (_, table) = statement.strip_prefix("SELECT `")?.rsplit_once(" FROM `")?;
    let (table, columns) = TABLES.iter().find(|(name, _)| Some(*name) == table.strip_suffix('`'))?;
    let rows = state.tables.get(table).map(Vec::as_slice).unwrap_or_default();
    let cells = |row: &Row| row.iter().map(|cell| cell.as_ref().map(|cell| cell.as_bytes().to_vec())).collect();
    Some(Answer::Rows {
        columns: columns.iter().map(|(name, _)| mysql::Column::text(name)).collect(),
        rows: rows.iter().map(cells).collect(),
    })
}

// VStream.
impl Database {
    fn serve(&self, request: &Request, out: &mut Responder) -> Result<Infallible, Refused> {
        let shard = Shard::new("shop", "0");
        let tables: BTreeSet<&'static str> = TABLES
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| request.message.filter.rules.iter().any(|rule| rule.match_ == *name))
            .collect();
        let Some(from) = request.message.vgtid.shard_gtids.first() else {
            return Err(Refused::Status(3, "vgtid must have at least one value".into()));
        };
        let mut sent = match (from.gtid.as_str(), count_of(&from.gtid)) {
            ("", _) => None,
            (_, Some(count)) => Some(count),
            (_, None) => return Err(Refused::Status(13, format!("could not decode position: {}", from.gtid))),
        };
        if sent.is_none() || !from.table_p_ks.is_empty() {
            let last = from.table_p_ks.first().and_then(|last| last.lastpk.rows.first());
            let last = last.map(|row| String::from_utf8_lossy(&row.values).into_owned());
            sent = Some(self.copy(&shard, &tables, sent, last, out)?);
        }
        let mut sent = sent.unwrap_or_default();
        let mut fields = BTreeSet::new();
        loop {
            let transactions = self.after(sent);
            if transactions.is_empty() {
                out.send([heartbeat()])?;
            }
            for transaction in transactions {
                sent += 1;
                out.send(transaction_events(&shard, &tables, &transaction, sent, &mut fields))?;
            }
        }
    }

    /// The transactions after the first `count`; none if there is none for a while.
    fn after(&self, count: usize) -> Vec<Transaction> {
        let state = self.state.lock().unwrap();
        let (state, _) = self.changed.wait_timeout_while(state, HEARTBEAT, |state| state.log.len() <= count).unwrap();
        state.log.get(count..).unwrap_or_default().to_vec()
    }

    /// Plays the copy phase, table by table; what has been sent is then the first so many transactions.
    fn copy(
        &self,
        shard: &Shard,
        tables: &BTreeSet<&'static str>,
        caught_up: Option<usize>,
        mut last: Option<String>,
        out: &mut Responder,
    ) -> Result<usize, Refused> {
        let mut sent = caught_up;
        for &table in tables {
            let (rows, count, missed) = {
                let state = self.state.lock().unwrap();
                let missed = sent.map_or_else(Vec::new, |sent| state.log.get(sent..).unwrap_or_default().to_vec());
                (state.tables.get(table).cloned().unwrap_or_default(), state.log.len(), missed)
            };
            // What happened before this table's snapshot.
            let mut fields = BTreeSet::new();
            for (at, transaction) in (sent.unwrap_or_default() + 1..).zip(missed) {
                out.send(transaction_events(shard, tables, &transaction, at, &mut fields))?;
            }
            sent = Some(count);
            let gtid = format!("MySQL56/{}", gtids(count));
            let key_field = &field_list(table)[..1];
            let copied = |event: VEvent| VEvent { timestamp: 0, ..event };
            out.send([copied(shard.begin()), copied(shard.field(table, &field_list(table)))])?;
            out.send([copied(shard.vgtid(&gtid))])?;
            let after = last.take().map(|last| vec![Some(last)]);
            let rows: Vec<&Row> = rows.iter().filter(|row| after.as_ref().is_none_or(|last| sort_key(row) > sort_key(last))).collect();
            for (number, packet) in rows.chunks(ROWS_IN_A_PACKET).enumerate() {
                let begin = (number > 0).then(|| shard.begin());
                let images = packet.iter().map(|row| shard.row_insert(table, &cells(row)));
                let at = shard.gtid_copying(&gtid, table, key_field, &cells(packet[packet.len() - 1])[..1]);
                let end = [shard.vgtid_of(vec![at]), shard.commit()];
                out.send(begin.into_iter().chain(images).chain(end).map(copied))?;
            }
            out.send([shard.begin(), shard.vgtid(&gtid), shard.commit()].map(copied))?;
        }
        out.send([VEvent { timestamp: 0, ..shard.copy_completed() }])?;
        out.send([all_copied()])?;
        Ok(sent.unwrap_or_default())
    }
}

/// A transaction as the stream sends it: an empty one if it touches none of the tables.
fn transaction_events(
    shard: &Shard,
    tables: &BTreeSet<&'static str>,
    transaction: &Transaction,
    number: usize,
    fields: &mut BTreeSet<&'static str>,
) -> Vec<VEvent> {
    let mut events = vec![shard.begin()];
    for change in transaction.changes.iter().filter(|change| tables.contains(change.table)) {
        if fields.insert(change.table) {
            events.push(shard.field(change.table, &field_list(change.table)));
        }
        let image = |image: &Option<Row>| image.as_ref().map(|image| row(&cells(image))).into();
        let change_of_row = RowChange { before: image(&change.before), after: image(&change.after), ..Default::default() };
        events.push(shard.rows(change.table, vec![change_of_row]));
    }
    events.extend([shard.vgtid(&format!("MySQL56/{}", gtids(number))), shard.commit()]);
    events.into_iter().map(|event| VEvent { timestamp: transaction.at, ..event }).collect()
}

fn field_list(table: &str) -> Vec<Field> {
    let field =
        |(at, (name, column_type)): (usize, &(&str, &str))| if at == 0 { key(name, column_type) } else { column(name, column_type) };
    columns(table).iter().enumerate().map(field).collect()
}

fn cells(row: &Row) -> Vec<Option<&str>> {
    row.iter().map(Option::as_deref).collect()
}
