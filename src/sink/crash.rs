//! Every step of a commit is one at which a run may end. Here it does: at each of them in turn, by an error, by an error after the step was done
//! after all, by a connection that is dead from then on, and by SIGKILL. Whatever was the case, the destination then holds what it held
//! before or what it was to hold afterwards, row by row and with the positions that go with them; and the same work done once more leads
//! to the latter. What that is, a replay of the changes into a [`Model`] says.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::merge::Deletes;
use super::{Destination, Nulled, Sink, StoredColumn, qualified, quoted};
use crate::batch::{Batch, ColumnData};
use crate::change::{Change, ChangeBatch, Checkpoint, CopyPhase, DELETED_COLUMN, LSN_COLUMN, Op, Sequence, TableChanges};
use crate::position::{LastPk, ShardGtid, Vgtid};
use crate::schema::{Column, ColumnType, Table, TableName};
use crate::value::{DateTime, ValueRef, ZeroDates};
use crate::{Error, ErrorKind, Result};

// ---- the destination that fails ----

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The step fails, and is not done.
    Refused,
    /// The step is done, and reported as failed.
    AnswerLost,
    /// Neither this step nor any other is done.
    Dead,
    /// The process ends before the step.
    Killed,
}

/// Counts the steps of a destination, and fails at one of them.
struct Faulty {
    inner: Box<dyn Destination>,
    /// Steps until the fault; `None` for a fault that never comes.
    left: Option<usize>,
    fault: Fault,
    is_dead: bool,
    /// Opening a DuckDB database takes too long to fail at those, too.
    reads_are_steps: bool,
    steps: Arc<AtomicUsize>,
}

impl Faulty {
    fn step<T>(&mut self, work: impl FnOnce(&mut dyn Destination) -> Result<T>) -> Result<T> {
        let failure = || Error::new(ErrorKind::Sink, "this step fails");
        if self.is_dead {
            return Err(failure());
        }
        self.steps.fetch_add(1, Ordering::SeqCst);
        match &mut self.left {
            Some(0) => {}
            Some(left) => {
                *left -= 1;
                return work(&mut *self.inner);
            }
            None => return work(&mut *self.inner),
        }
        self.left = None;
        match self.fault {
            Fault::Refused => {}
            Fault::AnswerLost => drop(work(&mut *self.inner)?),
            Fault::Dead => self.is_dead = true,
            Fault::Killed => {
                println!("\n{AT_THE_STEP}");
                loop {
                    std::thread::park();
                }
            }
        }
        Err(failure())
    }

    /// A step that changes nothing.
    fn read<T>(&mut self, work: impl FnOnce(&mut dyn Destination) -> Result<T>) -> Result<T> {
        match self.reads_are_steps || self.is_dead {
            true => self.step(work),
            false => work(&mut *self.inner),
        }
    }
}

/// What a child prints once it is to be killed.
const AT_THE_STEP: &str = "at the step";

impl Destination for Faulty {
    fn begin(&mut self) -> Result<()> {
        self.step(|inner| inner.begin())
    }

    fn commit(&mut self) -> Result<()> {
        self.step(|inner| inner.commit())
    }

    fn rollback(&mut self) -> Result<()> {
        self.step(|inner| inner.rollback())
    }

    fn execute(&mut self, sql: &str) -> Result<u64> {
        self.step(|inner| inner.execute(sql))
    }

    fn query_text(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.read(|inner| inner.query_text(sql))
    }

    fn append(&mut self, table: &TableName, batch: &Batch) -> Result<Nulled> {
        self.step(|inner| inner.append(table, batch))
    }

    fn stored_columns(&mut self, table: &TableName) -> Result<Option<Vec<StoredColumn>>> {
        self.read(|inner| inner.stored_columns(table))
    }

    fn declared(&self, column_type: &ColumnType) -> String {
        self.inner.declared(column_type)
    }

    fn table_suffix(&self) -> &'static str {
        self.inner.table_suffix()
    }

    fn create_schema(&mut self, table: &TableName) -> Result<()> {
        self.read(|inner| inner.create_schema(table))
    }

    fn set_zero_dates(&mut self, policy: ZeroDates) {
        self.inner.set_zero_dates(policy);
    }

    fn rows_per_part(&self) -> Option<usize> {
        // A few, so that a whole copy has parts.
        self.inner.rows_per_part().map(|_| 4)
    }

    fn wants_key(&self) -> bool {
        self.inner.wants_key()
    }

    fn timestamp_literal(&self, at: DateTime) -> String {
        self.inner.timestamp_literal(at)
    }

    fn default_literal(&self, column_type: &ColumnType, text: &str) -> Result<String> {
        self.inner.default_literal(column_type, text)
    }

    fn takes(&self, stored: &str, declared: &str) -> bool {
        self.inner.takes(stored, declared)
    }

    fn widens(&self, stored: &str, declared: &str) -> bool {
        self.inner.widens(stored, declared)
    }

    fn change_type(&mut self, name: &TableName, column: &Column) -> Result<()> {
        self.step(|inner| inner.change_type(name, column))
    }

    fn alters_written_tables(&self) -> bool {
        self.inner.alters_written_tables()
    }

    fn add_column(&mut self, name: &TableName, column: &Column, default: Option<&str>) -> Result<()> {
        self.step(|inner| inner.add_column(name, column, default))
    }
}

// ---- the source ----

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    #[cfg(feature = "sqlite")]
    Sqlite,
    #[cfg(feature = "duckdb")]
    DuckDb,
}

impl Kind {
    fn open(self, path: &Path) -> Result<Sink> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite => Sink::open(&format!("sqlite://{}", path.display())),
            #[cfg(feature = "duckdb")]
            Self::DuckDb => Sink::open(&format!("duckdb://{}?threads=1", path.display())),
        }
    }

    /// To open a DuckDB database takes dozens of milliseconds.
    fn is_quick(self) -> bool {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite => true,
            #[cfg(feature = "duckdb")]
            Self::DuckDb => false,
        }
    }
}

/// The tables at the source in the forms that they take.
fn shape(name: &str, wide: bool, more: &[&str]) -> Arc<Table> {
    let text = ColumnType::Text { length: None };
    let bits = if wide { 64 } else { 32 };
    let mut columns = vec![
        Column::new("id", ColumnType::Int { bits: 32, unsigned: false }, false),
        Column::new("v", text.clone(), true),
        Column::new("n", ColumnType::Int { bits, unsigned: false }, true),
    ];
    columns.extend(more.iter().map(|name| Column::new(*name, text.clone(), true)));
    Arc::new(Table::new(name, columns).with_primary_key(&["id"]).unwrap())
}

type Values = Vec<Option<String>>;

fn row(op: Op, id: i64, values: &[&str]) -> (Op, i64, Values) {
    let value = |text: &&str| (*text != "-").then(|| (*text).to_owned());
    (op, id, values.iter().map(value).collect())
}

fn put(id: i64, values: &[&str]) -> (Op, i64, Values) {
    row(Op::Insert, id, values)
}

fn delete(id: i64) -> (Op, i64, Values) {
    row(Op::Delete, id, &[])
}

/// Makes batches, and remembers what the source holds after each.
struct Script {
    ordinal: u64,
    next: u32,
    /// Changes of the batch that is being made.
    changes: Vec<Change>,
    batches: Vec<Vec<ChangeBatch>>,
    copying: BTreeMap<String, CopyPhase>,
}

impl Script {
    fn new() -> Self {
        Self { ordinal: 1, next: 0, changes: Vec::new(), batches: vec![Vec::new()], copying: BTreeMap::new() }
    }

    fn sequence(&mut self) -> Sequence {
        self.next += 1;
        Sequence { ordinal: self.ordinal, row: self.next - 1 }
    }

    fn rows(&mut self, table: &Arc<Table>, rows: impl IntoIterator<Item = (Op, i64, Values)>) {
        self.rows_without(table, &[], rows);
    }

    /// Rows that came without some of their columns.
    fn rows_without(&mut self, table: &Arc<Table>, absent: &[usize], rows: impl IntoIterator<Item = (Op, i64, Values)>) {
        let mut changes = TableChanges::new(Arc::clone(table));
        for (op, id, values) in rows {
            let sequence = self.sequence();
            let fill = |columns: &mut [ColumnData]| {
                columns[0].push_int(id)?;
                for (index, column) in columns.iter_mut().enumerate().skip(1) {
                    match values.get(index - 1).and_then(Option::as_ref) {
                        None => column.push_null(),
                        Some(text) if index == 2 => column.push_int(text.parse().unwrap())?,
                        Some(text) => column.push_text(text)?,
                    }
                }
                Ok(())
            };
            changes.push(op, sequence, absent.to_vec(), fill).unwrap();
        }
        // A transaction's last row carries the position; here every run of rows is one.
        changes.commit(0, DateTime::from_unix_micros(1_700_000_000_000_000).unwrap(), Some(&self.payload()));
        self.changes.push(Change::Rows(changes));
    }

    fn lsn(&mut self) -> String {
        let Sequence { ordinal, row } = self.sequence();
        format!("{ordinal:020}:{row:06}:-")
    }

    fn columns(&mut self, table: &Arc<Table>, added: &[(&str, Option<&str>)]) {
        let added = added.iter().map(|(name, default)| {
            let column = table.columns()[table.column_index(name).unwrap()].clone();
            (column, default.map(str::to_owned))
        });
        self.changes.push(Change::Columns { table: Arc::clone(table), added: added.collect() });
    }

    fn truncate(&mut self, table: &Arc<Table>) {
        let (lsn, at) = (self.lsn(), DateTime::from_unix_micros(1_700_000_001_000_000).unwrap());
        self.changes.push(Change::Truncated { table: Arc::clone(table), lsn, at });
    }

    fn sweep(&mut self, table: &Arc<Table>, before: u64) {
        let (lsn, at) = (self.lsn(), DateTime::from_unix_micros(1_700_000_002_000_000).unwrap());
        self.changes.push(Change::Swept { table: Arc::clone(table), before: format!("{before:020}:000000:"), lsn, at });
    }

    fn position(&self, table: Option<&str>) -> Vgtid {
        let gtid = format!("MySQL56/0a000000-0000-0000-0000-000000000001:1-{}", self.ordinal);
        let last_pks = table.filter(|table| self.copying.contains_key(*table)).map(|table| LastPk::new(table, Some(vec![1])));
        Vgtid::new(vec![ShardGtid::new("ks", "0", gtid).with_last_pks(last_pks.into_iter().collect())])
    }

    fn payload(&self) -> Arc<str> {
        crate::position::Lsn::new(0).with_payload(self.position(None)).to_string()[28..].into()
    }

    fn piece(&mut self) {
        let changes = std::mem::take(&mut self.changes);
        let piece = ChangeBatch { changes, checkpoints: Vec::new(), complete: false, caught_up: false };
        self.batches.last_mut().unwrap().push(piece);
    }

    /// Ends a batch, after which these tables have got this far.
    fn commit(&mut self, tables: &[&str]) {
        let checkpoint = |table: &&str| Checkpoint {
            table: (*table).to_owned(),
            phase: self.copying.get(*table).cloned().unwrap_or(CopyPhase::Copied),
            position: self.position(Some(table)),
            ordinal: self.ordinal,
        };
        let checkpoints = tables.iter().map(checkpoint).collect();
        let changes = std::mem::take(&mut self.changes);
        self.batches.last_mut().unwrap().push(ChangeBatch { changes, checkpoints, complete: true, caught_up: false });
        self.batches.push(Vec::new());
        (self.ordinal, self.next) = (self.ordinal + 1, 0);
    }
}

/// Everything that can happen to two tables, in batches that are written one after the other; each is what comes in pieces, or whole.
fn history() -> Vec<Vec<ChangeBatch>> {
    let (a, b) = (shape("a", false, &[]), shape("b", false, &[]));
    let copying = |sweep| CopyPhase::Copying { done: Vec::new(), sweep };
    let mut script = Script::new();
    // The copies, one of them in two batches.
    script.copying.insert("a".into(), copying(None));
    script.rows(&a, (1..6).map(|id| put(id, &["copied", "1"])));
    script.commit(&["a"]);
    script.copying.clear();
    script.rows(&a, (6..9).map(|id| put(id, &["copied", "-"])));
    script.commit(&["a"]);
    script.rows(&b, (1..9).map(|id| put(id, &["copied", "2"])));
    script.commit(&["b"]);
    // A transaction on both tables: inserts, updates, deletes, a key that changes, keys that change twice.
    script.rows(&a, [row(Op::Update, 1, &["new", "10"]), delete(2), put(20, &["added", "3"]), delete(3), put(30, &["moved", "1"])]);
    script.rows(&a, [put(21, &["came", "4"]), delete(21), delete(4), put(4, &["back", "5"]), delete(77)]);
    script.rows(&b, [delete(1), row(Op::Update, 2, &["new", "-"]), put(20, &["added", "3"])]);
    script.commit(&["a", "b"]);
    // One that comes in pieces.
    script.rows(&a, [put(40, &["piece", "1"]), delete(5)]);
    script.rows(&b, [row(Op::Update, 3, &["piece", "1"])]);
    script.piece();
    script.rows(&a, [row(Op::Update, 40, &["piece", "2"]), delete(20)]);
    script.piece();
    script.rows(&b, [delete(4), put(41, &["piece", "3"])]);
    script.commit(&["a", "b"]);
    // Nothing, but the positions move.
    script.commit(&["a", "b"]);
    // New columns, with rows of both tables before and after.
    let grown = shape("a", false, &["c", "e"]);
    script.rows(&a, [row(Op::Update, 6, &["before", "6"]), delete(7), put(50, &["before", "7"])]);
    script.rows(&b, [put(51, &["beside", "1"]), delete(5)]);
    script.columns(&grown, &[("c", Some("it's 5")), ("e", None)]);
    script.rows(&grown, [put(52, &["after", "8", "own", "own"]), row(Op::Update, 1, &["after", "9", "-", "e"])]);
    script.commit(&["a", "b"]);
    // A wider type, twice altered in one batch with what comes before.
    let (wide, wider) = (shape("b", true, &[]), shape("b", true, &["c"]));
    script.rows(&b, [put(60, &["narrow", "2147483647"]), delete(6)]);
    script.columns(&wide, &[]);
    script.rows(&wide, [put(61, &["wide", "2147483648"]), row(Op::Update, 60, &["wide", "-9000000000"])]);
    script.columns(&wider, &[("c", Some("x"))]);
    script.rows(&wider, [put(62, &["wide", "5000000000", "y"])]);
    script.commit(&["a", "b"]);
    // New columns in the middle of what comes in pieces, after deletes from the same table.
    let grown_again = shape("a", false, &["c", "e", "g"]);
    script.rows(&grown, [delete(50), row(Op::Update, 6, &["in pieces", "1", "c", "-"])]);
    script.rows(&wider, [delete(62)]);
    script.piece();
    script.rows(&grown, [put(70, &["old", "1", "c", "e"])]);
    script.columns(&grown_again, &[("g", Some("seven"))]);
    script.rows(&grown_again, [put(71, &["new", "1", "c", "e", "own"])]);
    script.commit(&["a", "b"]);
    // Rows that came in part.
    script.rows_without(&grown_again, &[1, 3], [row(Op::Update, 71, &["-", "99", "-", "part", "part"])]);
    script.rows(&wider, [row(Op::Update, 61, &["whole", "1", "-"])]);
    script.commit(&["a", "b"]);
    // TRUNCATE, with rows before and after it.
    script.rows(&grown_again, [put(80, &["gone", "1", "-", "-", "-"])]);
    script.truncate(&grown_again);
    script.rows(&grown_again, [put(81, &["stays", "1", "-", "-", "-"]), put(71, &["again", "2", "-", "-", "-"])]);
    script.commit(&["a", "b"]);
    // A new copy on top of the old rows, in two batches.
    let sweep = script.ordinal + 1;
    script.copying.insert("b".into(), copying(Some(sweep)));
    script.changes.push(Change::CopiedAnew { table: Arc::clone(&wider), reason: "so".into() });
    script.commit(&["a", "b"]);
    script.rows(&wider, [put(2, &["anew", "1", "-"]), put(90, &["anew", "2", "-"])]);
    script.commit(&["b"]);
    script.copying.clear();
    script.rows(&wider, [put(61, &["anew", "3", "-"])]);
    script.sweep(&wider, sweep);
    script.commit(&["b"]);
    script.rows(&grown_again, [delete(81)]);
    script.rows(&wider, [delete(2)]);
    script.commit(&["a", "b"]);
    script.batches.pop();
    script.batches
}

/// Copies of both tables with other rows, for a full refresh.
fn refreshed() -> Vec<Vec<ChangeBatch>> {
    let (a, b) = (shape("a", false, &["c"]), shape("b", false, &[]));
    let mut script = Script::new();
    script.ordinal = 1_000;
    script.rows(&a, (100..105).map(|id| put(id, &["refreshed", "1", "c"])));
    script.commit(&["a"]);
    script.rows(&b, (100..103).map(|id| put(id, &["refreshed", "2"])));
    script.commit(&["b"]);
    script.rows(&b, [delete(100)]);
    script.commit(&["a", "b"]);
    script.batches.pop();
    script.batches
}

// ---- the model ----

/// What a table holds: its columns, its rows by key, and how far it has been captured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Stored {
    columns: Vec<String>,
    rows: BTreeMap<i64, StoredRow>,
    position: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct StoredRow {
    /// Without the key.
    values: Values,
    deleted: bool,
    lsn: String,
}

type State = BTreeMap<String, Stored>;

/// Changes one by one into maps.
#[derive(Clone)]
struct Model {
    deletes: Deletes,
    state: State,
}

impl Model {
    fn write(&mut self, batches: &[ChangeBatch]) {
        for batch in batches {
            for change in batch.changes() {
                let table = self.state.entry(change.table().name().to_owned()).or_default();
                apply(table, change, self.deletes);
            }
            for checkpoint in batch.checkpoints() {
                self.state.entry(checkpoint.table().to_owned()).or_default().position = checkpoint.to_string();
            }
        }
    }
}

fn names(table: &Table) -> Vec<String> {
    table.columns().iter().skip(1).map(|column| column.name().to_owned()).collect()
}

fn apply(stored: &mut Stored, change: &Change, deletes: Deletes) {
    let delete = |stored: &mut Stored, which: &dyn Fn(i64, &StoredRow) -> bool, lsn: &str| match deletes {
        Deletes::Hard => stored.rows.retain(|key, row| !which(*key, row)),
        Deletes::Soft => {
            for (_, row) in stored.rows.iter_mut().filter(|(key, row)| which(**key, row)) {
                (row.deleted, row.lsn) = (true, lsn.to_owned());
            }
        }
    };
    match change {
        Change::Rows(changes) => {
            if stored.columns.is_empty() {
                stored.columns = names(changes.table());
            }
            assert_eq!(stored.columns, names(changes.table()), "rows come in the form that the table has");
            for index in 0..changes.len() {
                let value = |column: usize| match changes.rows().value(index, column) {
                    ValueRef::Null => None,
                    ValueRef::Int(number) => Some(number.to_string()),
                    ValueRef::Text(text) => Some(text.to_owned()),
                    other => panic!("{other:?}"),
                };
                let (key, lsn) = (value(0).unwrap().parse().unwrap(), changes.lsn(index));
                if changes.ops()[index] == Op::Delete {
                    delete(stored, &|row, _| row == key, &lsn);
                    continue;
                }
                let mut values: Values = (1..=stored.columns.len()).map(value).collect();
                for &absent in changes.absent(index) {
                    values[absent - 1] = stored.rows[&key].values[absent - 1].clone();
                }
                stored.rows.insert(key, StoredRow { values, deleted: false, lsn });
            }
        }
        Change::Truncated { lsn, .. } => delete(stored, &|_, row| !row.deleted || deletes == Deletes::Hard, lsn),
        Change::Swept { before, lsn, .. } => {
            delete(stored, &|_, row| row.lsn < *before && (!row.deleted || deletes == Deletes::Hard), lsn);
        }
        Change::Columns { table, added } => {
            for row in stored.rows.values_mut() {
                row.values.extend(added.iter().map(|(_, default)| default.clone()));
            }
            stored.columns = names(table);
        }
        Change::CopiedAnew { .. } => {}
        Change::Ended { .. } => panic!("no table ends here"),
    }
}

/// What a destination holds, in the model's terms.
fn look(sink: &mut Sink) -> State {
    let destination = &mut *sink.destination;
    let mut state = State::new();
    for name in ["a", "b"] {
        let table = TableName::new(name);
        let Some(columns) = destination.stored_columns(&table).unwrap() else { continue };
        let columns: Vec<String> =
            columns.into_iter().map(|column| column.name).filter(|name| name != "id" && !name.starts_with("_cdc_")).collect();
        let list: Vec<String> = columns.iter().map(|name| format!("CAST({} AS VARCHAR)", quoted(name))).collect();
        let deleted = quoted(DELETED_COLUMN);
        let sql = format!(
            "SELECT id, {}, CASE WHEN {deleted} THEN 1 ELSE 0 END, {} FROM {}",
            list.join(", "),
            quoted(LSN_COLUMN),
            qualified(&table)
        );
        let mut rows = BTreeMap::new();
        for mut cells in destination.query_text(&sql).unwrap() {
            let lsn = cells.pop().flatten().unwrap();
            let deleted = cells.pop().flatten().unwrap() == "1";
            let key = cells.remove(0).unwrap().parse().unwrap();
            assert!(rows.insert(key, StoredRow { values: cells, deleted, lsn }).is_none(), "`{name}` holds the key {key} twice");
        }
        let sql = format!("SELECT position FROM _ingest_checkpoint WHERE dest_table = '{name}'");
        let position = match destination.stored_columns(&TableName::new("_ingest_checkpoint")).unwrap() {
            Some(_) => destination.query_text(&sql).unwrap().into_iter().flatten().next().flatten().unwrap_or_default(),
            None => String::new(),
        };
        // A table that was made and not yet written to is as good as none.
        if !rows.is_empty() || !position.is_empty() {
            state.insert(name.to_owned(), Stored { columns, rows, position });
        }
    }
    state
}

// ---- the work ----

/// Work on a destination that can be done again after any failure.
#[derive(Debug, Clone, Copy)]
enum Work {
    /// Writes the batch of the history with this number.
    Batch(usize, Deletes),
    /// Builds both tables anew.
    Refresh(Deletes),
    /// Replaces table `a` by rows of a generation.
    Replace(i64),
    /// Adds rows of a generation to table `a`.
    Append(i64),
}

impl Work {
    fn perform(self, sink: &mut Sink) -> Result<()> {
        match self {
            Self::Batch(number, deletes) => write_batch(sink, &history(), number, deletes),
            Self::Refresh(deletes) => refresh(sink, deletes),
            Self::Replace(generation) | Self::Append(generation) => {
                let table = loaded_table();
                let mut load = match self {
                    Self::Replace(_) => sink.replace(&TableName::new("a"), &table)?,
                    _ => sink.append(&TableName::new("a"), &table)?,
                };
                let ids: Vec<i64> = loaded(generation).into_keys().collect();
                for ids in ids.chunks(3) {
                    let mut batch = Batch::new(Arc::clone(&table));
                    for &id in ids {
                        batch.push_row(|columns| {
                            columns[0].push_int(id)?;
                            columns[1].push_text("loaded")?;
                            columns[2].push_null();
                            columns[3].push_text("lsn")?;
                            columns[4].push_text("f")
                        })?;
                    }
                    load.write(&batch)?;
                }
                load.commit().map(drop)
            }
        }
    }
}

/// A table that looks like a captured one.
fn loaded_table() -> Arc<Table> {
    shape("a", false, &[LSN_COLUMN, DELETED_COLUMN])
}

fn loaded(generation: i64) -> BTreeMap<i64, StoredRow> {
    let row = StoredRow { values: vec![Some("loaded".into()), None], deleted: false, lsn: "lsn".into() };
    (0..13).map(|id| (generation * 100 + id, row.clone())).collect()
}

/// The tables as the source declares them in the end.
fn declared(name: &str) -> Table {
    let table = if name == "a" { shape("a", false, &["c", "e", "g"]) } else { shape("b", true, &["c"]) };
    Table::clone(&table)
}

/// Resumes both tables and writes what is missing up to the batch with this number, as a run does.
fn write_batch(sink: &mut Sink, history: &[Vec<ChangeBatch>], number: usize, deletes: Deletes) -> Result<()> {
    let concerned: BTreeSet<&str> = history[..=number]
        .iter()
        .flatten()
        .flat_map(|batch| batch.checkpoints().iter().map(Checkpoint::table).collect::<Vec<_>>())
        .collect();
    let mut resumed = Vec::new();
    let mut reached = 0;
    for name in concerned {
        let stored = sink.position(&TableName::new(name), name)?;
        reached = reached.max(stored.as_ref().map_or(0, |stored| stored.checkpoint().ordinal));
        let table = match stored.and_then(|stored| stored.columns) {
            Some(columns) => declared(name).restricted_to(&columns),
            None => Table::clone(&shape(name, false, &[])),
        };
        resumed.push(table);
    }
    let mut merge = sink.merge(deletes)?;
    for table in &resumed {
        merge.add_table(table, &TableName::new(table.name()), false)?;
    }
    for batches in &history[..=number] {
        if batches.iter().any(|batch| batch.checkpoints().iter().any(|checkpoint| checkpoint.ordinal <= reached)) {
            continue;
        }
        let mut batches = batches.clone();
        // Where the first rows come in an older form than the server declares, the machine says so first.
        for table in &resumed {
            let first = batches.iter().flat_map(ChangeBatch::changes).find(|change| change.table().name() == table.name());
            if let Some(Change::Rows(rows)) = first
                && **rows.table() != *table
            {
                let change = Change::Columns { table: Arc::clone(rows.table()), added: Vec::new() };
                batches[0].changes.insert(0, change);
            }
        }
        for batch in &batches {
            merge.write(batch)?;
        }
        break;
    }
    Ok(())
}

fn refresh(sink: &mut Sink, deletes: Deletes) -> Result<()> {
    let mut merge = sink.merge(deletes)?;
    for table in [shape("a", false, &["c"]), shape("b", false, &[])] {
        merge.add_table(&table, &TableName::new(table.name()), true)?;
    }
    for batch in refreshed().iter().flatten() {
        merge.write(batch)?;
    }
    merge.finish_rebuild()
}

// ---- the exploration ----

fn faulty(kind: Kind, path: &Path, at: Option<usize>, fault: Fault) -> (Sink, Arc<AtomicUsize>) {
    let mut sink = kind.open(path).unwrap();
    let steps = Arc::default();
    let inner = std::mem::replace(&mut sink.destination, Box::new(Nowhere));
    let reads_are_steps = kind.is_quick() && fault != Fault::Killed;
    sink.destination = Box::new(Faulty { inner, left: at, fault, is_dead: false, reads_are_steps, steps: Arc::clone(&steps) });
    (sink, steps)
}

/// Stands in while a destination is wrapped.
struct Nowhere;

impl Destination for Nowhere {
    fn begin(&mut self) -> Result<()> {
        unreachable!()
    }
    fn commit(&mut self) -> Result<()> {
        unreachable!()
    }
    fn rollback(&mut self) -> Result<()> {
        unreachable!()
    }
    fn execute(&mut self, _: &str) -> Result<u64> {
        unreachable!()
    }
    fn query_text(&mut self, _: &str) -> Result<Vec<Vec<Option<String>>>> {
        unreachable!()
    }
    fn append(&mut self, _: &TableName, _: &Batch) -> Result<Nulled> {
        unreachable!()
    }
    fn stored_columns(&mut self, _: &TableName) -> Result<Option<Vec<StoredColumn>>> {
        unreachable!()
    }
    fn declared(&self, _: &ColumnType) -> String {
        unreachable!()
    }
    fn create_schema(&mut self, _: &TableName) -> Result<()> {
        unreachable!()
    }
    fn set_zero_dates(&mut self, _: ZeroDates) {}
    fn default_literal(&self, _: &ColumnType, _: &str) -> Result<String> {
        unreachable!()
    }
}

/// A folder in memory where there is one: what is tested here is not the disk.
fn folder() -> TempDir {
    match Path::new("/dev/shm") {
        shm if shm.is_dir() => tempfile::tempdir_in(shm).or_else(|_| tempfile::tempdir()).unwrap(),
        _ => tempfile::tempdir().unwrap(),
    }
}

/// A destination's files.
struct Files {
    folder: TempDir,
}

impl Files {
    fn empty() -> Self {
        Self { folder: folder() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("d")
    }

    fn copy(&self) -> Self {
        let copy = Self::empty();
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.folder.path().join(entry.file_name())).unwrap();
        }
        copy
    }
}

/// Ends the work at each of its steps, and does it once more afterwards. Returns what the work leaves.
fn explore(kind: Kind, base: &Files, work: Work, before: &State, after: &State, faults: &[Fault]) -> Files {
    let done = base.copy();
    let (mut sink, steps) = faulty(kind, &done.path(), None, *faults.first().unwrap_or(&Fault::Refused));
    work.perform(&mut sink).unwrap_or_else(|error| panic!("{kind:?} {work:?}: {error:?}"));
    drop(sink);
    assert_state(&mut kind.open(&done.path()).unwrap(), after, &|| format!("{kind:?} {work:?}"));
    for at in 0..steps.load(Ordering::SeqCst) {
        for fault in faults_at(kind, faults, at) {
            let context = || format!("{kind:?} {work:?}, step {at}, {fault:?}");
            let files = base.copy();
            let mut sink = match fault {
                Fault::Killed => {
                    kill(kind, &files, work, at);
                    None
                }
                _ => {
                    let (mut sink, _) = faulty(kind, &files.path(), Some(at), fault);
                    assert!(work.perform(&mut sink).is_err(), "{}: the failure was not reported", context());
                    // One that lives goes on; whatever the other had open ends with it.
                    Some(sink).filter(|_| fault != Fault::Dead)
                }
            };
            let sink = sink.get_or_insert_with(|| kind.open(&files.path()).unwrap_or_else(|error| panic!("{}: {error:?}", context())));
            let found = look(sink);
            assert!(found == *before || found == *after, "{}: halfway\n{found:#?}\nbefore {before:#?}\nafter {after:#?}", context());
            // Rows that were added are there, whatever was reported.
            if !(matches!(work, Work::Append(_)) && found == *after) {
                work.perform(sink).unwrap_or_else(|error| panic!("{}, and once more: {error:?}", context()));
            }
            assert_state(sink, after, &context);
        }
    }
    done
}

/// SQLite, which is quick to open, ends in each way at every step; DuckDB in one way after the other.
fn faults_at(kind: Kind, faults: &[Fault], at: usize) -> Vec<Fault> {
    match kind.is_quick() {
        true => faults.to_vec(),
        false => faults.iter().copied().cycle().skip(at).take(1).collect(),
    }
}

fn assert_state(sink: &mut Sink, expected: &State, context: &dyn Fn() -> String) {
    let found = look(sink);
    assert!(found == *expected, "{}: found {found:#?}\nexpected {expected:#?}", context());
    // What the checkpoints say of the tables is so, or resuming is refused.
    for (name, stored) in expected.iter().filter(|(_, stored)| !stored.position.is_empty()) {
        let position = sink.position(&TableName::new(name), name).unwrap_or_else(|error| panic!("{}: {error:?}", context()));
        assert_eq!(position.map(|position| position.checkpoint().to_string()).as_ref(), Some(&stored.position), "{}", context());
    }
}

/// What tells a child what to do: a process of the same tests, in which the test that started it ends elsewhere.
const TOLD: &str = "INGEST_CRASH";

fn kill(kind: Kind, files: &Files, work: Work, at: usize) {
    let told = format!("{kind:?}|{work:?}|{at}|{}", files.path().display());
    let test = format!("sink::crash::{}::sigkill_at_any_step_leaves_what_was_or_what_is_to_be", format!("{kind:?}").to_lowercase());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([&test, "--exact", "--nocapture", "--test-threads=1"])
        .env(TOLD, told)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reached = lines.map_while(std::result::Result::ok).any(|line| line == AT_THE_STEP);
    // By SIGKILL, while it stands at the step.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(reached, "{kind:?} {work:?}: the child ended before step {at}");
}

/// Works until it is killed, in a child; `false` elsewhere.
fn is_killed() -> bool {
    let Ok(told) = std::env::var(TOLD) else { return false };
    let [kind, work, at, path] = told.splitn(4, '|').collect::<Vec<_>>().try_into().unwrap();
    let kind = KINDS.into_iter().find(|known| format!("{known:?}") == kind).unwrap();
    let works = (0..history().len()).map(|number| Work::Batch(number, Deletes::Soft));
    let mut works = works.chain([Work::Refresh(Deletes::Soft), Work::Replace(1), Work::Append(1)]);
    let work = works.find(|known| format!("{known:?}") == work).unwrap();
    let (mut sink, _) = faulty(kind, Path::new(path), Some(at.parse().unwrap()), Fault::Killed);
    work.perform(&mut sink).unwrap();
    true
}

const KINDS: [Kind; cfg!(feature = "sqlite") as usize + cfg!(feature = "duckdb") as usize] = [
    #[cfg(feature = "sqlite")]
    Kind::Sqlite,
    #[cfg(feature = "duckdb")]
    Kind::DuckDb,
];

/// The whole history, batch by batch, then a full refresh, a whole copy, and rows added to it.
fn end_everywhere(kind: Kind, deletes: Deletes, faults: &[Fault]) {
    let mut files = Files::empty();
    let mut model = Model { deletes, state: State::new() };
    for (number, batches) in history().iter().enumerate() {
        let before = model.state.clone();
        model.write(batches);
        files = explore(kind, &files, Work::Batch(number, deletes), &before, &model.state, faults);
    }
    let before = model.state;
    let mut model = Model { deletes, state: State::new() };
    refreshed().iter().for_each(|batches| model.write(batches));
    explore(kind, &files, Work::Refresh(deletes), &before, &model.state, faults);
}

/// The same by SIGKILL.
fn kill_everywhere(kind: Kind) {
    if !is_killed() {
        end_everywhere(kind, Deletes::Soft, &[Fault::Killed]);
    }
}

/// A whole copy that takes the place of another, and one that is added to it.
fn end_loads(kind: Kind) {
    let state = |rows| State::from([("a".to_owned(), Stored { columns: vec!["v".into(), "n".into()], rows, position: String::new() })]);
    let both: BTreeMap<_, _> = loaded(0).into_iter().chain(loaded(1)).collect();
    let base = explore(kind, &Files::empty(), Work::Replace(0), &State::new(), &state(loaded(0)), &[]);
    for faults in [&IN_PROCESS[..], &[Fault::Killed]] {
        explore(kind, &base, Work::Replace(1), &state(loaded(0)), &state(loaded(1)), faults);
        explore(kind, &base, Work::Append(1), &state(loaded(0)), &state(both.clone()), faults);
    }
}

/// Somebody else writes between two batches of a run.
fn interfere(kind: Kind) {
    for statement in [
        "UPDATE _ingest_checkpoint SET written_by = 'another' WHERE dest_table = 'b'",
        "UPDATE _ingest_checkpoint SET position = 'copied elsewhere' WHERE dest_table = 'b'",
        "DELETE FROM _ingest_checkpoint WHERE dest_table = 'b'",
    ] {
        let files = Files::empty();
        let history = history();
        let mut sink = kind.open(&files.path()).unwrap();
        let mut merge = sink.merge(Deletes::Soft).unwrap();
        for name in ["a", "b"] {
            merge.add_table(&shape(name, false, &[]), &TableName::new(name), false).unwrap();
        }
        history[..4].iter().flatten().for_each(|batch| merge.write(batch).unwrap());
        merge.destination_for_tests().execute(statement).unwrap();
        // In the middle of a transaction that comes in pieces, too.
        let error = merge.write(&history[4][0]).unwrap_err();
        assert_eq!((error.kind(), error.table()), (ErrorKind::Conflict, Some("b")), "{error:?}");
        assert!(merge.write(&history[4][1]).is_err(), "a run that was refused goes on");
        drop(merge);
        let mut model = Model { deletes: Deletes::Soft, state: State::new() };
        history[..4].iter().for_each(|batches| model.write(batches));
        let rows = |state: State| state.into_iter().map(|(name, stored)| (name, stored.rows)).collect::<Vec<_>>();
        assert_eq!(rows(look(&mut sink)), rows(model.state), "{statement}");
    }
    // Between the reading of a position and the first batch.
    let files = Files::empty();
    write_batch(&mut kind.open(&files.path()).unwrap(), &history(), 0, Deletes::Soft).unwrap();
    let mut sink = kind.open(&files.path()).unwrap();
    assert!(sink.position(&TableName::new("a"), "a").unwrap().is_some());
    sink.destination.execute("UPDATE _ingest_checkpoint SET written_by = 'another'").unwrap();
    let mut merge = sink.merge(Deletes::Soft).unwrap();
    let error = merge.add_table(&shape("a", false, &[]), &TableName::new("a"), false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    drop(merge);
    // While tables are built anew.
    let mut merge = sink.merge(Deletes::Soft).unwrap();
    for table in [shape("a", false, &["c"]), shape("b", false, &[])] {
        merge.add_table(&table, &TableName::new(table.name()), true).unwrap();
    }
    refreshed().iter().flatten().for_each(|batch| merge.write(batch).unwrap());
    merge
        .destination_for_tests()
        .execute("UPDATE _ingest_checkpoint SET written_by = 'another' WHERE dest_table = '_ingest_new_b'")
        .unwrap();
    assert_eq!(merge.finish_rebuild().unwrap_err().kind(), ErrorKind::Conflict);
    drop(merge);
    let mut model = Model { deletes: Deletes::Soft, state: State::new() };
    model.write(&history()[0]);
    assert_eq!(look(&mut sink), model.state);
}

const IN_PROCESS: [Fault; 3] = [Fault::Refused, Fault::AnswerLost, Fault::Dead];

#[cfg(feature = "sqlite")]
mod sqlite {
    use super::*;

    #[test]
    fn a_failure_at_any_step_leaves_what_was_or_what_is_to_be_with_soft_deletes() {
        end_everywhere(Kind::Sqlite, Deletes::Soft, &IN_PROCESS);
    }

    #[test]
    fn a_failure_at_any_step_leaves_what_was_or_what_is_to_be_with_hard_deletes() {
        end_everywhere(Kind::Sqlite, Deletes::Hard, &IN_PROCESS);
    }

    #[test]
    fn sigkill_at_any_step_leaves_what_was_or_what_is_to_be() {
        kill_everywhere(Kind::Sqlite);
    }

    #[test]
    fn a_whole_copy_that_ends_at_any_step_leaves_the_table_as_it_was() {
        end_loads(Kind::Sqlite);
    }

    #[test]
    fn a_run_stops_before_it_writes_when_a_checkpoint_is_another_than_it_knows() {
        interfere(Kind::Sqlite);
    }
}

#[cfg(feature = "duckdb")]
mod duckdb {
    use super::*;

    #[test]
    fn a_failure_at_any_step_leaves_what_was_or_what_is_to_be_with_soft_deletes() {
        end_everywhere(Kind::DuckDb, Deletes::Soft, &IN_PROCESS);
    }

    #[test]
    fn a_failure_at_any_step_leaves_what_was_or_what_is_to_be_with_hard_deletes() {
        end_everywhere(Kind::DuckDb, Deletes::Hard, &[Fault::AnswerLost, Fault::Dead, Fault::Refused]);
    }

    #[test]
    fn sigkill_at_any_step_leaves_what_was_or_what_is_to_be() {
        kill_everywhere(Kind::DuckDb);
    }

    #[test]
    fn a_whole_copy_that_ends_at_any_step_leaves_the_table_as_it_was() {
        end_loads(Kind::DuckDb);
    }

    #[test]
    fn a_run_stops_before_it_writes_when_a_checkpoint_is_another_than_it_knows() {
        interfere(Kind::DuckDb);
    }
}
