//! Changes of tables: what change capture yields and what a merge takes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::batch::{Batch, ColumnData, Row};
use crate::position::{Lsn, Vgtid};
use crate::schema::{Column, ColumnType, Table};
use crate::sink::Put;
use crate::value::DateTime;
use crate::{Error, PositionFault, Result};

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// The row is new, or was read by the snapshot; the columns hold the after image.
    Insert,
    /// The row has changed, but not its key; the columns hold the after image.
    Update,
    /// The row is gone; the columns hold the before image, of which only the key is certain.
    Delete,
}

/// Where a row stands in the stream: the order of `(ordinal, row)` is the order of the changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Sequence {
    pub(crate) ordinal: u64,
    pub(crate) row: u32,
}

impl Sequence {
    /// The largest row number within one ordinal; a commit with more rows takes the next ordinal.
    pub(crate) const LAST_ROW: u32 = Lsn::MAX_ROW;

    pub(crate) fn next(self) -> Result<Self> {
        if self.row < Self::LAST_ROW {
            return Ok(Self { row: self.row + 1, ..self });
        }
        match self.ordinal.checked_add(1) {
            Some(ordinal) => Ok(Self { ordinal, row: 0 }),
            None => Err(Error::protocol("the stream has more commits than an ordinal of 64 bits can count")),
        }
    }
}

/// Changes of one table, in the stream's order.
#[derive(Debug, Clone)]
pub struct TableChanges {
    rows: Batch,
    ops: Vec<Op>,
    sequences: Vec<Sequence>,
    committed_at: Vec<DateTime>,
    /// The position that the last row carries.
    payload: Option<Arc<str>>,
    /// Columns that a row image did not carry: the stored value stays.
    absent: BTreeMap<usize, Vec<usize>>,
    /// Rows and columns whose value the stream does not carry exactly, in order.
    inexact: Vec<(usize, usize)>,
}

impl TableChanges {
    pub(crate) fn new(table: Arc<Table>) -> Self {
        Self {
            rows: Batch::new(table),
            ops: Vec::new(),
            sequences: Vec::new(),
            committed_at: Vec::new(),
            payload: None,
            absent: BTreeMap::new(),
            inexact: Vec::new(),
        }
    }

    /// The table that was changed, under the source's name.
    pub fn table(&self) -> &Arc<Table> {
        self.rows.table()
    }

    /// The row images, one for each change.
    pub fn rows(&self) -> &Batch {
        &self.rows
    }

    /// What happened to each row.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The changes one by one: what happened, and the row's image.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Op, Row<'_>)> {
        self.ops.iter().copied().zip(self.rows.rows())
    }

    /// The number of changes.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// When the change at `row` was committed, in UTC, to the second; for rows of the snapshot, when the snapshot was read.
    ///
    /// # Panics
    /// If `row` is out of range.
    pub fn committed_at(&self, row: usize) -> DateTime {
        self.committed_at[row]
    }

    /// The text that stands in `_cdc_lsn` for the change at `row`.
    ///
    /// # Panics
    /// If `row` is out of range.
    pub fn lsn(&self, row: usize) -> String {
        let mut text = String::with_capacity(32);
        write_lsn(&mut text, self.sequences[row], self.payload_of(row));
        text
    }

    /// Columns whose value the change at `row` did not carry; a destination keeps what it holds.
    pub fn absent(&self, row: usize) -> &[usize] {
        self.absent.get(&row).map_or(&[], Vec::as_slice)
    }

    fn payload_of(&self, row: usize) -> Option<&str> {
        self.payload.as_deref().filter(|_| row + 1 == self.ops.len())
    }

    /// Says of the last row that the values of some columns are not what the source holds.
    pub(crate) fn note_inexact(&mut self, columns: &[usize]) {
        let Some(row) = self.ops.len().checked_sub(1) else { return };
        self.inexact.extend(columns.iter().map(|&column| (row, column)));
    }

    pub(crate) fn take_inexact(&mut self) -> Vec<(usize, usize)> {
        std::mem::take(&mut self.inexact)
    }

    /// Puts other values into some rows of a column: by row, where they lie in `values`.
    pub(crate) fn replace(&mut self, column: usize, values: &ColumnData, rows: &BTreeMap<usize, usize>) -> Result<()> {
        self.rows.replace(column, values, rows)
    }

    pub(crate) fn has_absent(&self) -> bool {
        !self.absent.is_empty()
    }

    /// Memory that the changes take, in bytes.
    pub fn bytes(&self) -> usize {
        self.rows.bytes() + self.ops.len() * (1 + 16 + 8) + self.payload.as_ref().map_or(0, |payload| payload.len())
    }

    pub(crate) fn push(
        &mut self,
        op: Op,
        sequence: Sequence,
        absent: Vec<usize>,
        fill: impl FnOnce(&mut [ColumnData]) -> Result<()>,
    ) -> Result<()> {
        self.rows.push_row(fill)?;
        if !absent.is_empty() {
            self.absent.insert(self.ops.len(), absent);
        }
        self.ops.push(op);
        self.sequences.push(sequence);
        self.committed_at.push(DateTime::default());
        Ok(())
    }

    /// Completes the rows from `from` on with what is known at their commit only.
    pub(crate) fn commit(&mut self, from: usize, at: DateTime) {
        self.committed_at[from..].fill(at);
    }

    /// Says on the last row where the stream is once all of them are applied.
    pub(crate) fn set_payload(&mut self, payload: Option<Arc<str>>) {
        self.payload = payload;
    }

    pub(crate) fn truncate(&mut self, rows: usize) {
        self.rows.truncate(rows);
        self.ops.truncate(rows);
        self.sequences.truncate(rows);
        self.committed_at.truncate(rows);
        self.absent.split_off(&rows);
        self.inexact.truncate(self.inexact.partition_point(|&(row, _)| row < rows));
    }

    /// Splits off the rows from `at` on.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        let indexes: Vec<usize> = (at..self.len()).collect();
        let rest = Self {
            rows: self.rows.gather(&indexes),
            ops: self.ops[at..].to_vec(),
            sequences: self.sequences[at..].to_vec(),
            committed_at: self.committed_at[at..].to_vec(),
            payload: None,
            absent: self.absent.range(at..).map(|(row, columns)| (row - at, columns.clone())).collect(),
            inexact: self.inexact.iter().filter(|&&(row, _)| row >= at).map(|&(row, column)| (row - at, column)).collect(),
        };
        self.truncate(at);
        rest
    }

    /// The chosen rows as the destination stores them: the table's columns, then `_cdc_lsn`, `_cdc_deleted`, `_cdc_synced_at`.
    pub(crate) fn to_stored(&self, stored: &Arc<Table>, puts: &[Put]) -> Result<Batch> {
        let [mut lsns, mut deleted, mut synced] = bookkeeping_columns().map(|column| ColumnData::new(column.column_type()));
        let mut text = String::with_capacity(64);
        for &Put { last, .. } in puts {
            text.clear();
            write_lsn(&mut text, self.sequences[last], self.payload_of(last));
            lsns.push_text(&text)?;
            deleted.push_int(i64::from(self.ops[last] == Op::Delete))?;
            synced.push_datetime(self.committed_at[last])?;
        }
        let images: Vec<usize> = puts.iter().map(|put| put.image).collect();
        let batch = self.rows.gather(&images);
        batch.with_columns(Arc::clone(stored), vec![lsns, deleted, synced])
    }
}

/// The column with the position of a row's last change.
pub(crate) const LSN_COLUMN: &str = "_cdc_lsn";
/// The column that says whether the row is deleted at the source.
pub(crate) const DELETED_COLUMN: &str = "_cdc_deleted";
/// The column with the time of a row's last change.
pub(crate) const SYNCED_AT_COLUMN: &str = "_cdc_synced_at";

/// The columns that a destination of change capture has beside the table's own.
pub(crate) fn bookkeeping_columns() -> [Column; 3] {
    [
        Column::new(LSN_COLUMN, ColumnType::Text { length: None }, true),
        Column::new(DELETED_COLUMN, ColumnType::Boolean, true),
        Column::new(SYNCED_AT_COLUMN, ColumnType::Timestamp { fraction: 6 }, true),
    ]
}

/// The table as a destination of change capture stores it.
pub(crate) fn stored_table(table: &Table) -> Table {
    table.clone().with_columns(bookkeeping_columns())
}

/// Prints `_cdc_lsn`: see [`Lsn`]. Written out by hand because it runs once for each row.
pub(crate) fn write_lsn(text: &mut String, sequence: Sequence, payload: Option<&str>) {
    let mut digits = *b"00000000000000000000:000000:";
    let mut ordinal = sequence.ordinal;
    for digit in digits[..20].iter_mut().rev() {
        *digit += (ordinal % 10).to_le_bytes()[0];
        ordinal /= 10;
    }
    let mut row = sequence.row;
    for digit in digits[21..27].iter_mut().rev() {
        *digit += (row % 10).to_le_bytes()[0];
        row /= 10;
    }
    text.push_str(std::str::from_utf8(&digits).unwrap_or_default());
    text.push_str(payload.unwrap_or("-"));
}

/// One thing that happened to a table.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Change {
    /// Rows were inserted, updated or deleted.
    Rows(TableChanges),
    /// Every row that was there before is gone: `TRUNCATE`.
    Truncated {
        /// The table, under the source's name.
        table: Arc<Table>,
        /// The text that stands in `_cdc_lsn` for this change.
        lsn: String,
        /// When it was committed, in UTC.
        at: DateTime,
    },
    /// A new copy of the table is complete: rows whose `_cdc_lsn` is smaller than `before` do not exist at the source any more.
    Swept {
        /// The table, under the source's name.
        table: Arc<Table>,
        /// The first position of the new copy.
        before: String,
        /// The text that stands in `_cdc_lsn` for this change.
        lsn: String,
        /// When the copy was complete, in UTC.
        at: DateTime,
    },
    /// The table has columns that it did not have before; the rows that follow carry them.
    Columns {
        /// The table as it is from here on.
        table: Arc<Table>,
        /// For each new column, the value that rows written before hold: as MySQL prints it, or `None` for NULL.
        added: Vec<(Column, Option<String>)>,
    },
    /// The table is copied once more, on top of what is stored; [`Change::Swept`] says when that is done.
    CopiedAnew {
        /// The table, under the source's name.
        table: Arc<Table>,
        /// Why its changes could not be followed.
        reason: String,
    },
    /// The table cannot be followed any further; its checkpoint stays where it was before.
    Ended {
        /// The table, under the source's name.
        table: Arc<Table>,
        /// Why: for DROP and RENAME it names the statement.
        error: Arc<Error>,
    },
}

impl Change {
    /// The table that was changed, under the source's name.
    pub fn table(&self) -> &Arc<Table> {
        match self {
            Self::Rows(changes) => changes.table(),
            Self::Truncated { table, .. }
            | Self::Swept { table, .. }
            | Self::Columns { table, .. }
            | Self::CopiedAnew { table, .. }
            | Self::Ended { table, .. } => table,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Rows(changes) => changes.bytes(),
            _ => 256,
        }
    }

    /// The number of changes of rows.
    pub(crate) fn rows(&self) -> usize {
        match self {
            Self::Rows(changes) => changes.len(),
            _ => 0,
        }
    }
}

/// How far one table has come: what the next run resumes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    pub(crate) table: String,
    pub(crate) phase: CopyPhase,
    pub(crate) position: Vgtid,
    /// The ordinal of the last commit that this covers, whether it touched the table or not.
    pub(crate) ordinal: u64,
}

impl Checkpoint {
    /// The table, under the source's name.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The VGTID to resume from, with the last PKs of a copy that is under way.
    pub fn position(&self) -> &Vgtid {
        &self.position
    }

    /// Whether the table's copy is complete.
    pub fn is_copied(&self) -> bool {
        matches!(self.phase, CopyPhase::Copied)
    }

    /// The position as the text of an `_cdc_lsn`.
    pub fn lsn(&self) -> Lsn {
        Lsn::new(self.ordinal).with_payload(self.position.clone())
    }
}

impl std::fmt::Display for Checkpoint {
    /// `copied`, or `copying` with what that needs to go on, the position as in `_cdc_lsn`, and a checksum of all that and the table's name.
    /// [`Checkpoint::parse`] reads it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let phase = match &self.phase {
            CopyPhase::Copied => "copied".to_owned(),
            CopyPhase::Copying { done, sweep: None } => format!("copying done={}", done.join(",")),
            CopyPhase::Copying { done, sweep: Some(sweep) } => format!("copying done={} sweep={sweep}", done.join(",")),
        };
        let text = format!("{phase} {}", self.lsn());
        write!(f, "{text} {:08x}", checksum(&self.table, &text))
    }
}

/// What a checkpoint ends with: a damaged one could pass for another, and a shard that it calls copied would never be.
fn checksum(table: &str, text: &str) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(table.as_bytes());
    hasher.update(b"\0");
    hasher.update(text.as_bytes());
    hasher.finalize()
}

impl Checkpoint {
    /// Reads what `Display` prints.
    ///
    /// # Errors
    /// `Position` with `Unreadable`.
    pub fn parse(table: impl Into<String>, text: &str) -> Result<Self> {
        let table = table.into();
        let unreadable = |what: &str| {
            let message = format!("the checkpoint of `{table}` cannot be read: {what}; rebuild the table with full_refresh");
            Error::position_fault_of(PositionFault::Unreadable, message).with_table(&table)
        };
        let (text, sum) = text.rsplit_once(' ').ok_or_else(|| unreadable("it has no checksum"))?;
        if sum != format!("{:08x}", checksum(&table, text)) {
            return Err(unreadable("its checksum is another's"));
        }
        let (phase, lsn) = text.rsplit_once(' ').ok_or_else(|| unreadable("it has no position"))?;
        let lsn = Lsn::parse(lsn).map_err(|cause| unreadable("its position is damaged").with_cause(cause))?;
        let ordinal = lsn.ordinal();
        let position = lsn.into_payload().ok_or_else(|| unreadable("its position is empty"))?;
        let phase = match phase.split(' ').collect::<Vec<_>>().as_slice() {
            ["copied"] => CopyPhase::Copied,
            ["copying", done, rest @ ..] => {
                let done = done.strip_prefix("done=").ok_or_else(|| unreadable("it does not say which shards are copied"))?;
                let sweep = match rest {
                    [] => None,
                    [sweep] => {
                        let number = sweep.strip_prefix("sweep=").and_then(|number| number.parse().ok());
                        Some(number.ok_or_else(|| unreadable("its `sweep` is not a number"))?)
                    }
                    _ => return Err(unreadable("it says too much")),
                };
                let done = done.split(',').filter(|shard| !shard.is_empty()).map(str::to_owned).collect();
                CopyPhase::Copying { done, sweep }
            }
            _ => return Err(unreadable("it begins with neither `copied` nor `copying`")),
        };
        Ok(Self { table, phase, position, ordinal })
    }
}

/// Whether a table is still being copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CopyPhase {
    /// Shards in `done` have sent all their rows. `sweep` is the first ordinal of a copy on top of older rows: what it does not touch is
    /// gone at the source.
    Copying {
        done: Vec<String>,
        sweep: Option<u64>,
    },
    Copied,
}

/// A piece of the stream that is to be written in one transaction.
#[derive(Debug, Clone)]
pub struct ChangeBatch {
    pub(crate) changes: Vec<Change>,
    pub(crate) checkpoints: Vec<Checkpoint>,
    pub(crate) complete: bool,
    pub(crate) caught_up: bool,
}

impl ChangeBatch {
    /// What happened, table by table; the changes of one table are in the stream's order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// How far every table has come once this batch is written.
    pub fn checkpoints(&self) -> &[Checkpoint] {
        &self.checkpoints
    }

    /// Whether the batch ends with a commit. A transaction that is larger than the memory allowed comes in several batches, of which only
    /// the last is complete: nothing before it may become visible.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether every table has reached the stop position of the run; only the last batch says so.
    pub fn is_caught_up(&self) -> bool {
        self.caught_up
    }

    /// Memory that the changes take, in bytes.
    pub fn bytes(&self) -> usize {
        self.changes.iter().map(Change::bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{LastPk, ShardGtid};

    #[test]
    fn lsn_text_has_fixed_width_numbers() {
        let mut text = String::new();
        write_lsn(&mut text, Sequence { ordinal: 42, row: 7 }, None);
        assert_eq!(text, "00000000000000000042:000007:-");
        text.clear();
        write_lsn(&mut text, Sequence { ordinal: u64::MAX, row: 999_999 }, Some("abc"));
        assert_eq!(text, "18446744073709551615:999999:abc");
    }

    #[test]
    fn a_checkpoint_with_any_letter_changed_is_unreadable_or_the_same() {
        let shard = |name: &str| ShardGtid::new("ks", name, "MySQL56/8bc65c84-3fe4-11ed-a912-257f0fcdd6c9:1-29");
        let last_pk = LastPk::new("t", Some(vec![10, 5, 1, 2, 3, 4, 5]));
        let position: Vgtid = [shard("-80"), shard("80-").with_last_pks(vec![last_pk])].into_iter().collect();
        let phases = [CopyPhase::Copied, CopyPhase::Copying { done: vec!["-80".into()], sweep: Some(7) }];
        for phase in phases {
            let checkpoint = Checkpoint { table: "t".into(), phase, position: position.clone(), ordinal: 9 };
            let text = checkpoint.to_string();
            assert_eq!(Checkpoint::parse("t", &text).unwrap(), checkpoint);
            assert!(Checkpoint::parse("u", &text).is_err(), "another table's");
            for at in 0..text.len() {
                for letter in "0aAz-:= _/".chars().filter(|letter| !text[at..].starts_with(*letter)) {
                    let mut damaged = text.clone();
                    damaged.replace_range(at..=at, &letter.to_string());
                    let fault = Checkpoint::parse("t", &damaged).unwrap_err().position_fault();
                    assert_eq!(fault, Some(PositionFault::Unreadable), "{damaged}");
                }
            }
            // The position alone, as a row carries it: its number may have changed, not what it says.
            let text = checkpoint.lsn().to_string();
            for at in 28..text.len() {
                for letter in ('!'..='~').filter(|letter| !text[at..].starts_with(*letter)) {
                    let mut damaged = text.clone();
                    damaged.replace_range(at..=at, &letter.to_string());
                    match Lsn::parse(&damaged) {
                        Ok(lsn) => assert_eq!(lsn.payload(), Some(&position), "{damaged}"),
                        Err(error) => assert_eq!(error.position_fault(), Some(PositionFault::Unreadable)),
                    }
                }
            }
        }
    }

    #[test]
    fn a_commit_with_more_rows_takes_the_next_ordinal() {
        let last = Sequence { ordinal: 1, row: Sequence::LAST_ROW };
        assert_eq!(last.next().unwrap(), Sequence { ordinal: 2, row: 0 });
        assert!(Sequence { ordinal: u64::MAX, row: Sequence::LAST_ROW }.next().is_err());
    }
}
