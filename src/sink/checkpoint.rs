//! Where a destination stands: the greatest `_cdc_lsn` of a table, and the table of checkpoints beside it.
//!
//! `_ingest_checkpoint` lies in the destination's default schema and has a row for each captured table. It is written in the transaction of the
//! rows that it speaks of. Its `position` is the text of a [`Checkpoint`]; the position there is newer than that of the rows whenever the
//! stream went on without touching the table.

use super::{Destination, literal, qualified, quoted};
use crate::change::{Checkpoint, CopyPhase, LSN_COLUMN};
use crate::position::Lsn;
use crate::schema::{ColumnType, TableName};
use crate::{Error, ErrorKind, PositionFault, Result};

pub(crate) const CHECKPOINT_TABLE: &str = "_ingest_checkpoint";

/// What a destination table says of its position.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPosition {
    /// What to resume from.
    pub(crate) checkpoint: Checkpoint,
    /// The position that the rows themselves carry, where the checkpoint's is newer: it has to be of the same history.
    pub(crate) of_rows: Option<Lsn>,
    /// The columns that the destination has, where that is known.
    pub(crate) columns: Option<Vec<String>>,
}

impl From<Checkpoint> for StoredPosition {
    fn from(checkpoint: Checkpoint) -> Self {
        Self { checkpoint, of_rows: None, columns: None }
    }
}

impl StoredPosition {
    /// What to resume from.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
}

/// Reads how far a table has been captured. `None` if it has to be copied first: it does not exist, or is empty and was never captured.
///
/// # Errors
/// `Position` with `Unreadable`, or with `Missing` if there are rows that nobody says the position of; `Conflict` if the rows are of
/// another source table.
pub(crate) fn read(destination: &mut dyn Destination, name: &TableName, source_table: &str) -> Result<Option<StoredPosition>> {
    let at_table = |error: Error| error.with_table(name);
    let Some(columns) = destination.stored_columns(name)? else { return Ok(None) };
    let names = Some(columns.iter().map(|column| column.name.clone()).collect());
    let has_rows = !destination.query_text(&format!("SELECT 1 FROM {} LIMIT 1", qualified(name)))?.is_empty();
    let missing = || {
        let message =
            format!("`{name}` has rows, but no position to resume from: rebuild it with full_refresh, or choose another destination table");
        Error::position_fault_of(PositionFault::Missing, message).with_table(name)
    };
    if !columns.iter().any(|column| column.name == LSN_COLUMN) {
        return if has_rows { Err(missing()) } else { Ok(None) };
    }
    // Both in one scan: SQLite reads the whole table for it.
    let lsn = quoted(LSN_COLUMN);
    let sql = format!("SELECT max({lsn}), max(CASE WHEN {lsn} NOT LIKE '%:-' THEN {lsn} END) FROM {}", qualified(name));
    let mut greatest = destination.query_text(&sql)?.into_iter().flatten().map(|text| {
        let lsn = text.map(|text| Lsn::parse(&text)).transpose();
        lsn.map_err(at_table)
    });
    let last = greatest.next().transpose()?.flatten();
    let with_payload = greatest.next().transpose()?.flatten();
    drop(greatest);
    let stored = stored(destination, name, source_table).map_err(at_table)?;
    let last_ordinal = last.as_ref().map_or(0, Lsn::ordinal);
    match (stored, with_payload) {
        (Some(mut checkpoint), of_rows) => {
            let newer_rows = of_rows.as_ref().is_some_and(|rows| rows.ordinal() > checkpoint.ordinal);
            match of_rows {
                Some(rows) if newer_rows => {
                    let ordinal = last_ordinal.max(rows.ordinal());
                    Ok(from_lsn(rows, source_table, ordinal).map(|checkpoint| StoredPosition { checkpoint, of_rows: None, columns: names }))
                }
                of_rows => {
                    checkpoint.ordinal = checkpoint.ordinal.max(last_ordinal);
                    Ok(Some(StoredPosition { checkpoint, of_rows, columns: names }))
                }
            }
        }
        (None, Some(rows)) => {
            Ok(from_lsn(rows, source_table, last_ordinal).map(|checkpoint| StoredPosition { checkpoint, of_rows: None, columns: names }))
        }
        (None, None) if has_rows => Err(missing()),
        (None, None) => Ok(None),
    }
}

/// A checkpoint from what a row carries. Positions of a copy say which shards are complete: those with a GTID and without a last PK.
fn from_lsn(lsn: Lsn, source_table: &str, ordinal: u64) -> Option<Checkpoint> {
    let position = lsn.into_payload()?;
    let is_done = |shard: &&crate::position::ShardGtid| !shard.gtid().is_empty() && shard.last_pks().is_empty();
    let done: Vec<String> = position.shards().iter().filter(is_done).map(|shard| shard.shard().to_owned()).collect();
    let phase = if done.len() == position.shards().len() { CopyPhase::Copied } else { CopyPhase::Copying { done, sweep: None } };
    Some(Checkpoint { table: source_table.to_owned(), phase, position, ordinal })
}

fn stored(destination: &mut dyn Destination, name: &TableName, source_table: &str) -> Result<Option<Checkpoint>> {
    let table = TableName::new(CHECKPOINT_TABLE);
    if destination.stored_columns(&table)?.is_none() {
        return Ok(None);
    }
    let sql = format!("SELECT source_table, position FROM {} WHERE dest_table = {}", qualified(&table), literal(&name.to_string()));
    let Some(row) = destination.query_text(&sql)?.into_iter().next() else { return Ok(None) };
    let mut cells = row.into_iter().map(Option::unwrap_or_default);
    let (source, text) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
    if source != source_table {
        let message = format!("`{name}` was filled from table `{source}`, not from `{source_table}`: rebuild it with full_refresh");
        return Err(Error::new(ErrorKind::Conflict, message));
    }
    Checkpoint::parse(source_table, &text).map(Some)
}

/// Makes the table of checkpoints if it is not there.
pub(crate) fn create(destination: &mut dyn Destination) -> Result<()> {
    let text = destination.declared(&ColumnType::Text { length: None });
    let suffix = destination.table_suffix();
    let columns = ["dest_table", "source_table", "position", "updated_at"].map(|name| format!("{name} {text}")).join(", ");
    let sql = format!("CREATE TABLE IF NOT EXISTS {} ({columns}){suffix}", qualified(&TableName::new(CHECKPOINT_TABLE)));
    destination.execute(&sql).map(drop)
}

/// Stores how far a table has come, in the open transaction.
pub(crate) fn write(destination: &mut dyn Destination, name: &TableName, checkpoint: &Checkpoint, now: &str) -> Result<()> {
    remove(destination, name)?;
    let values = [&name.to_string(), checkpoint.table(), &checkpoint.to_string(), now].map(literal).join(", ");
    destination.execute(&format!("INSERT INTO {} VALUES ({values})", qualified(&TableName::new(CHECKPOINT_TABLE)))).map(drop)
}

/// Forgets a table, in the open transaction.
pub(crate) fn remove(destination: &mut dyn Destination, name: &TableName) -> Result<()> {
    let sql = format!("DELETE FROM {} WHERE dest_table = {}", qualified(&TableName::new(CHECKPOINT_TABLE)), literal(&name.to_string()));
    destination.execute(&sql).map(drop)
}

/// Gives a table's checkpoint to another name, in the open transaction.
pub(crate) fn rename(destination: &mut dyn Destination, from: &TableName, to: &TableName) -> Result<()> {
    remove(destination, to)?;
    let sql = format!(
        "UPDATE {} SET dest_table = {} WHERE dest_table = {}",
        qualified(&TableName::new(CHECKPOINT_TABLE)),
        literal(&to.to_string()),
        literal(&from.to_string())
    );
    destination.execute(&sql).map(drop)
}
