//! What happens at the source, as batches of changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::batch::ColumnData;
use crate::change::{Change, ChangeBatch, Checkpoint, CopyPhase, Op, Sequence, TableChanges};
use crate::position::{LastPk, ShardGtid, Vgtid};
use crate::schema::{Column, ColumnType, Table};
use crate::value::DateTime;

/// The tables at the source in the forms that they take.
pub(super) fn shape(name: &str, wide: bool, more: &[&str]) -> Arc<Table> {
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

pub(super) type Values = Vec<Option<String>>;

pub(super) fn row(op: Op, id: i64, values: &[&str]) -> (Op, i64, Values) {
    let value = |text: &&str| (*text != "-").then(|| (*text).to_owned());
    (op, id, values.iter().map(value).collect())
}

pub(super) fn put(id: i64, values: &[&str]) -> (Op, i64, Values) {
    row(Op::Insert, id, values)
}

pub(super) fn delete(id: i64) -> (Op, i64, Values) {
    row(Op::Delete, id, &[])
}

/// Makes batches, and remembers what the source holds after each.
pub(super) struct Script {
    pub(super) ordinal: u64,
    next: u32,
    /// Changes of the batch that is being made.
    pub(super) changes: Vec<Change>,
    pub(super) batches: Vec<Vec<ChangeBatch>>,
    pub(super) copying: BTreeMap<String, CopyPhase>,
}

impl Script {
    pub(super) fn new() -> Self {
        Self { ordinal: 1, next: 0, changes: Vec::new(), batches: vec![Vec::new()], copying: BTreeMap::new() }
    }

    fn sequence(&mut self) -> Sequence {
        self.next += 1;
        Sequence { ordinal: self.ordinal, row: self.next - 1 }
    }

    pub(super) fn rows(&mut self, table: &Arc<Table>, rows: impl IntoIterator<Item = (Op, i64, Values)>) {
        self.rows_without(table, &[], rows);
    }

    /// Rows that came without some of their columns.
    pub(super) fn rows_without(&mut self, table: &Arc<Table>, absent: &[usize], rows: impl IntoIterator<Item = (Op, i64, Values)>) {
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
        changes.commit(0, DateTime::from_unix_micros(1_700_000_000_000_000).unwrap());
        changes.set_payload(Some(self.payload()));
        self.changes.push(Change::Rows(changes));
    }

    fn lsn(&mut self) -> String {
        let Sequence { ordinal, row } = self.sequence();
        format!("{ordinal:020}:{row:06}:-")
    }

    pub(super) fn columns(&mut self, table: &Arc<Table>, added: &[(&str, Option<&str>)]) {
        let added = added.iter().map(|(name, default)| {
            let column = table.columns()[table.column_index(name).unwrap()].clone();
            (column, default.map(str::to_owned))
        });
        self.changes.push(Change::Columns { table: Arc::clone(table), added: added.collect() });
    }

    pub(super) fn truncate(&mut self, table: &Arc<Table>) {
        let (lsn, at) = (self.lsn(), DateTime::from_unix_micros(1_700_000_001_000_000).unwrap());
        self.changes.push(Change::Truncated { table: Arc::clone(table), lsn, at });
    }

    pub(super) fn sweep(&mut self, table: &Arc<Table>, before: u64) {
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

    pub(super) fn piece(&mut self) {
        let changes = std::mem::take(&mut self.changes);
        let piece = ChangeBatch { changes, checkpoints: Vec::new(), complete: false, caught_up: false };
        self.batches.last_mut().unwrap().push(piece);
    }

    /// Ends a batch, after which these tables have got this far.
    pub(super) fn commit(&mut self, tables: &[&str]) {
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
pub(super) fn history() -> Vec<Vec<ChangeBatch>> {
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
pub(super) fn refreshed() -> Vec<Vec<ChangeBatch>> {
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
