//! Changes into tables, by primary key.
//!
//! The same steps for every kind of destination, in one transaction with the checkpoint:
//!
//! 1. Of the changes to one key only the last counts; the row that it leaves is the last image that came for the key.
//! 2. The keys go into a temporary table. Stored rows with one of them are deleted, and the new rows are appended. No index is needed for that,
//!    which is what makes it fast in DuckDB.
//! 3. A soft delete without an image marks the stored row. A delete of a key that is not there does nothing: a copy under way may send it.
//! 4. A row that came in part (`binlog_row_image=noblob`) updates the columns that it has.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use super::{Destination, Nulled, Sink, checkpoint, compare, literal, qualified, quoted, staging_name};
use crate::batch::{Batch, ColumnData, Values};
use crate::change::{
    Change, ChangeBatch, DELETED_COLUMN, LSN_COLUMN, Op, SYNCED_AT_COLUMN, TableChanges, bookkeeping_columns, stored_table,
};
use crate::schema::{Column, Table, TableName};
use crate::value::DateTime;
use crate::{Error, ErrorKind, Result};

/// Rows that are handed to a destination at a time.
const PART_ROWS: usize = 16_384;

/// What becomes of a row that is deleted at the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Deletes {
    /// It stays, with `_cdc_deleted` true and its last values.
    #[default]
    Soft,
    /// It is removed.
    Hard,
}

/// Writes change batches. Each complete batch is one transaction, with the positions that it reaches.
///
/// Dropped in the middle of a transaction that comes in pieces, it undoes the pieces. After an error it refuses everything.
#[must_use = "changes are written by `write`"]
pub struct Merge<'a> {
    destination: &'a mut dyn Destination,
    deletes: Deletes,
    targets: BTreeMap<String, Target>,
    /// A transaction is open, because what was written so far is a part of one at the source.
    open: bool,
    poisoned: bool,
}

struct Target {
    name: TableName,
    /// The table as it is stored.
    stored: Arc<Table>,
    /// Where the rows go while the table is built anew.
    building: Option<TableName>,
    nulled: BTreeMap<String, u64>,
}

impl Target {
    fn current(&self) -> &TableName {
        self.building.as_ref().unwrap_or(&self.name)
    }
}

impl Sink {
    /// How far a table has been captured; `None` if it has to be copied first.
    ///
    /// # Errors
    /// `Position` if the stored position cannot be read or there are rows without one; `Conflict` if the rows are of another source table.
    pub fn position(&mut self, name: &TableName, source_table: &str) -> Result<Option<checkpoint::StoredPosition>> {
        checkpoint::read(&mut *self.destination, name, source_table)
    }

    /// Begins to write changes.
    ///
    /// # Errors
    /// `Sink` if the destination cannot write.
    pub fn merge(&mut self, deletes: Deletes) -> Result<Merge<'_>> {
        let destination = &mut *self.destination;
        in_transaction(destination, checkpoint::create)?;
        Ok(Merge { destination, deletes, targets: BTreeMap::new(), open: false, poisoned: false })
    }
}

fn in_transaction<T>(destination: &mut dyn Destination, work: impl FnOnce(&mut dyn Destination) -> Result<T>) -> Result<T> {
    destination.begin()?;
    let result = work(destination).and_then(|done| destination.commit().map(|()| done));
    if result.is_err()
        && let Err(error) = destination.rollback()
    {
        log::warn!("a transaction that failed could not be rolled back: {error:#}");
    }
    result
}

impl Merge<'_> {
    /// Says where the changes of a table go. The table is made if it is not there.
    ///
    /// With `rebuild`, the rows go into a new table beside it, which takes its place in [`Merge::finish_rebuild`].
    ///
    /// # Errors
    /// `Conflict` if the stored table lacks a column or has one of another type; `Schema` if the table has no primary key or a column of
    /// ours.
    pub fn add_table(&mut self, table: &Table, name: &TableName, rebuild: bool) -> Result<()> {
        if table.primary_key().is_empty() {
            return Err(Error::new(ErrorKind::Schema, format!("table `{}` has no primary key", table.name())).with_table(table.name()));
        }
        for ours in [LSN_COLUMN, DELETED_COLUMN, SYNCED_AT_COLUMN] {
            if table.column_index(ours).is_some() {
                let message = format!("table `{}` has a column `{ours}` itself, which change capture needs for its own", table.name());
                return Err(Error::new(ErrorKind::Schema, message).with_table(table.name()).with_column(ours));
            }
        }
        let stored = Arc::new(stored_table(table));
        let building = rebuild.then(|| staging_name(name));
        in_transaction(self.destination, |destination| {
            destination.create_schema(name)?;
            let with_key = destination.wants_key();
            if let Some(building) = &building {
                // What an interrupted rebuild left behind.
                destination.drop_if_exists(building)?;
                checkpoint::remove(destination, building)?;
                return destination.create(building, &stored, with_key);
            }
            match destination.stored_columns(name)? {
                None => {
                    checkpoint::remove(destination, name)?;
                    destination.create(name, &stored, with_key)
                }
                Some(found) => {
                    for column in stored.columns() {
                        let declared = destination.declared(column.column_type());
                        let same = found.iter().find(|found| found.name.to_lowercase() == column.name().to_lowercase());
                        if let Some(found) = same.filter(|found| found.declared_type != declared) {
                            destination
                                .change_type(name, column, &found.declared_type)
                                .map_err(|error| error.with_column(column.name()))?;
                        }
                    }
                    let found = destination.stored_columns(name)?.unwrap_or_default();
                    compare(destination, name, &stored, &found)
                }
            }
        })
        .map_err(|error| error.with_table(name))?;
        let target = Target { name: name.clone(), stored, building, nulled: BTreeMap::new() };
        self.targets.insert(table.name().to_owned(), target);
        Ok(())
    }

    /// Writes a batch. If it is complete, it is durable when this returns, together with the positions that it reaches.
    ///
    /// # Errors
    /// `Sink` if the destination cannot write or a value does not fit; `SchemaChange` if a column cannot become what it is now at the source.
    /// Nothing of the batch is stored then, nor of the pieces before it.
    pub fn write(&mut self, batch: &ChangeBatch) -> Result<()> {
        if self.poisoned {
            return Err(Error::new(ErrorKind::Sink, "writing changes failed before"));
        }
        let result = self.take(batch);
        if result.is_err() {
            self.poisoned = true;
            self.undo();
        }
        result
    }

    fn undo(&mut self) {
        if self.open {
            self.open = false;
            if let Err(error) = self.destination.rollback() {
                log::warn!("a transaction that failed could not be rolled back: {error:#}");
            }
        }
    }

    fn begin(&mut self) -> Result<()> {
        if !self.open {
            self.destination.begin()?;
            self.open = true;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        self.destination.commit()?;
        self.open = false;
        Ok(())
    }

    fn take(&mut self, batch: &ChangeBatch) -> Result<()> {
        self.begin()?;
        for change in batch.changes() {
            self.apply(change).map_err(|error| error.with_table(change.table().name()))?;
        }
        if batch.is_complete() {
            let now = now_text();
            for checkpoint in batch.checkpoints() {
                let target = self.target(checkpoint.table())?.current().clone();
                checkpoint::write(self.destination, &target, checkpoint, &now)?;
            }
            self.commit()?;
        }
        Ok(())
    }

    fn target(&self, table: &str) -> Result<&Target> {
        self.targets.get(table).ok_or_else(|| Error::config(format!("nobody said where changes of table `{table}` go")))
    }

    fn apply(&mut self, change: &Change) -> Result<()> {
        let source = change.table().name();
        match change {
            Change::Rows(changes) => self.rows(changes),
            Change::Truncated { lsn, at, .. } => {
                let condition = format!("{} IS NOT TRUE", quoted(DELETED_COLUMN));
                self.delete_where(source, "TRUE", &condition, lsn, *at)
            }
            Change::Swept { before, lsn, at, .. } => {
                let column = quoted(LSN_COLUMN);
                let old = format!("({column} IS NULL OR {column} < {})", literal(before));
                let condition = format!("{old} AND {} IS NOT TRUE", quoted(DELETED_COLUMN));
                self.delete_where(source, &old, &condition, lsn, *at)
            }
            Change::Columns { table, added } => self.columns(table, added),
            Change::CopiedAnew { .. } | Change::Ended { .. } => Ok(()),
        }
    }

    /// Deletes rows as chosen; `soft` leaves out those that are marked already.
    fn delete_where(&mut self, source: &str, hard: &str, soft: &str, lsn: &str, at: DateTime) -> Result<()> {
        let name = qualified(self.target(source)?.current());
        let sql = match self.deletes {
            Deletes::Hard => format!("DELETE FROM {name} WHERE {hard}"),
            Deletes::Soft => format!(
                "UPDATE {name} SET {} = {}, {} = TRUE, {} = {} WHERE {soft}",
                quoted(LSN_COLUMN),
                literal(lsn),
                quoted(DELETED_COLUMN),
                quoted(SYNCED_AT_COLUMN),
                self.destination.timestamp_literal(at)
            ),
        };
        self.destination.execute(&sql).map(drop)
    }

    /// Follows a change of the table's columns. A table that is altered cannot be written to in the same transaction everywhere, so what came
    /// before is committed first, where it is not a part of a transaction at the source; written again after a crash, it does no harm.
    fn columns(&mut self, table: &Arc<Table>, added: &[(Column, Option<String>)]) -> Result<()> {
        self.commit()?;
        let target = self.target(table.name())?;
        let name = target.current().clone();
        let stored = Arc::new(stored_table(table));
        let found = self.destination.stored_columns(&name)?.unwrap_or_default();
        for column in stored.columns() {
            // One transaction each: DuckDB 1.5 fails at the commit of some that alter a table twice. What a crash leaves is found and
            // completed by the next run.
            let declared = self.destination.declared(column.column_type());
            match found.iter().find(|found| found.name.to_lowercase() == column.name().to_lowercase()) {
                None => {
                    let default = added.iter().find(|(added, _)| added.name() == column.name());
                    let default = default.and_then(|(_, default)| default.as_deref());
                    in_transaction(self.destination, |destination| destination.add_column(&name, column, default))?;
                }
                Some(found) if found.declared_type != declared => {
                    in_transaction(self.destination, |destination| destination.change_type(&name, column, &found.declared_type))
                        .map_err(|error| error.with_table(&name).with_column(column.name()))?;
                }
                Some(_) => {}
            }
        }
        if let Some(target) = self.targets.get_mut(table.name()) {
            target.stored = stored;
        }
        self.begin()
    }

    fn rows(&mut self, changes: &TableChanges) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        if !changes.has_absent() {
            return self.merge_run(changes, 0..changes.len());
        }
        // Rows that came in part need what is stored, so they divide the others.
        let mut start = 0;
        while start < changes.len() {
            let absent = changes.absent(start);
            let end = (start + 1..changes.len()).find(|&row| changes.absent(row) != absent || !absent.is_empty()).unwrap_or(changes.len());
            if absent.is_empty() {
                self.merge_run(changes, start..end)?
            } else {
                self.update_part(changes, start)?
            }
            start = end;
        }
        Ok(())
    }

    /// Merges complete rows.
    fn merge_run(&mut self, changes: &TableChanges, rows: std::ops::Range<usize>) -> Result<()> {
        let Reduced { puts, marks } = reduce(changes, rows, self.deletes)?;
        let target = self.target(changes.table().name())?;
        let (name, stored) = (target.current().clone(), Arc::clone(&target.stored));
        // The keys of rows to be put or removed, and those of rows to be marked, with what marks them.
        let keys = key_batch(changes, &stored, &puts, &marks)?;
        let key_table = TableName::new("_ingest_keys");
        let declared: Vec<String> = keys
            .table()
            .columns()
            .iter()
            .map(|column| format!("{} {}", quoted(column.name()), self.destination.declared(column.column_type())))
            .collect();
        self.destination.execute(&format!("DROP TABLE IF EXISTS {}", qualified(&key_table)))?;
        self.destination.execute(&format!("CREATE TEMP TABLE {} ({})", qualified(&key_table), declared.join(", ")))?;
        self.destination.append(&key_table, &keys)?;
        let key: Vec<String> = stored.primary_key().iter().map(|&index| quoted(stored.columns()[index].name())).collect();
        let (into, from) = (qualified(&name), qualified(&key_table));
        let is_mark = quoted(DELETED_COLUMN);
        let removed = match self.deletes {
            Deletes::Soft => format!(" WHERE NOT {is_mark}"),
            Deletes::Hard => String::new(),
        };
        let list = key.join(", ");
        let tuple = if key.len() == 1 { list.clone() } else { format!("({list})") };
        self.destination.execute(&format!("DELETE FROM {into} WHERE {tuple} IN (SELECT {list} FROM {from}{removed})"))?;
        if self.deletes == Deletes::Soft && !marks.is_empty() {
            let set: Vec<String> =
                [LSN_COLUMN, DELETED_COLUMN, SYNCED_AT_COLUMN].iter().map(|column| format!("{0} = marks.{0}", quoted(column))).collect();
            let same: Vec<String> = key.iter().map(|column| format!("{into}.{column} = marks.{column}")).collect();
            let sql = format!("UPDATE {into} SET {} FROM {from} AS marks WHERE {} AND marks.{is_mark}", set.join(", "), same.join(" AND "));
            self.destination.execute(&sql)?;
        }
        // In parts, because each part is a copy of its rows.
        for part in puts.chunks(PART_ROWS) {
            let batch = changes.to_stored(&stored, part)?;
            let nulled = self.destination.append(&name, &batch)?;
            self.count_nulled(changes.table().name(), &stored, &nulled);
        }
        Ok(())
    }

    /// Updates one row by the columns that came.
    fn update_part(&mut self, changes: &TableChanges, row: usize) -> Result<()> {
        let target = self.target(changes.table().name())?;
        let (name, stored) = (target.current().clone(), Arc::clone(&target.stored));
        let part = TableName::new("_ingest_part");
        let declared: Vec<String> = stored
            .columns()
            .iter()
            .map(|column| format!("{} {}", quoted(column.name()), self.destination.declared(column.column_type())))
            .collect();
        self.destination.execute(&format!("DROP TABLE IF EXISTS {}", qualified(&part)))?;
        self.destination.execute(&format!("CREATE TEMP TABLE {} ({})", qualified(&part), declared.join(", ")))?;
        let batch = changes.to_stored(&stored, &[Put { image: row, last: row }])?;
        let nulled = self.destination.append(&part, &batch)?;
        let absent = changes.absent(row);
        let is_key = |index: &usize| stored.primary_key().contains(index);
        let present = (0..stored.columns().len()).filter(|index| !absent.contains(index) && !is_key(index));
        let set: Vec<String> = present.map(|index| format!("{0} = part.{0}", quoted(stored.columns()[index].name()))).collect();
        let into = qualified(&name);
        let same: Vec<String> =
            stored.primary_key().iter().map(|&index| format!("{into}.{0} = part.{0}", quoted(stored.columns()[index].name()))).collect();
        let sql = format!("UPDATE {into} SET {} FROM {} AS part WHERE {}", set.join(", "), qualified(&part), same.join(" AND "));
        if self.destination.execute(&sql)? == 0 {
            let message = format!("a row of `{name}` changed in part, but is not in the destination: rebuild it with full_refresh");
            return Err(Error::new(ErrorKind::Conflict, message).with_table(&name));
        }
        self.count_nulled(changes.table().name(), &stored, &nulled);
        Ok(())
    }

    fn count_nulled(&mut self, source: &str, stored: &Table, nulled: &Nulled) {
        if let Some(target) = self.targets.get_mut(source) {
            for (column, count) in nulled.iter() {
                *target.nulled.entry(stored.columns()[column].name().to_owned()).or_default() += count;
            }
        }
    }

    /// Dates of a table that became NULL, by column.
    pub(crate) fn nulled_dates(&self, source_table: &str) -> BTreeMap<String, u64> {
        self.targets.get(source_table).map(|target| target.nulled.clone()).unwrap_or_default()
    }

    /// Puts tables that were built anew in the place of the old ones, all in one transaction with their checkpoints.
    ///
    /// # Errors
    /// `Sink` if the destination cannot write; the old tables are then as they were.
    pub fn finish_rebuild(&mut self) -> Result<()> {
        let finished: Vec<(TableName, TableName)> =
            self.targets.values().filter_map(|target| Some((target.building.clone()?, target.name.clone()))).collect();
        if finished.is_empty() {
            return Ok(());
        }
        in_transaction(self.destination, |destination| {
            for (building, name) in &finished {
                destination.drop_if_exists(name)?;
                destination.rename(building, name.name())?;
                checkpoint::rename(destination, building, name)?;
            }
            Ok(())
        })?;
        for target in self.targets.values_mut() {
            target.building = None;
        }
        Ok(())
    }
}

impl Drop for Merge<'_> {
    fn drop(&mut self) {
        self.undo();
    }
}

impl std::fmt::Debug for Merge<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Merge").field("deletes", &self.deletes).field("poisoned", &self.poisoned).finish_non_exhaustive()
    }
}

fn now_text() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok();
    let micros = since.and_then(|since| i64::try_from(since.as_micros()).ok());
    micros.and_then(DateTime::from_unix_micros).map(|now| now.text(6)).unwrap_or_default()
}

/// A row to be stored: the image of one change, and the position, time and deletion of the key's last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Put {
    pub(crate) image: usize,
    pub(crate) last: usize,
}

struct Reduced {
    puts: Vec<Put>,
    /// Deletes of keys that no image came for.
    marks: Vec<usize>,
}

/// What a key has come to within a batch.
struct Outcome {
    image: Option<usize>,
    last: usize,
}

/// Leaves the last change of each key.
fn reduce(changes: &TableChanges, rows: std::ops::Range<usize>, deletes: Deletes) -> Result<Reduced> {
    let key: Vec<&ColumnData> = changes.table().primary_key().iter().map(|&index| &changes.rows().columns()[index]).collect();
    let hasher = RandomState::new();
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(rows.len());
    // By the hash of the key; the rare others with the same hash stand in the same list.
    let mut index: HashMap<u64, Vec<u32>> = HashMap::with_capacity(rows.len());
    let mut text = Vec::with_capacity(64);
    for row in rows {
        text.clear();
        for column in &key {
            push_key(&mut text, column, row)?;
        }
        let found = index.entry(hasher.hash_one(&text)).or_default();
        let same = |&&at: &&u32| key.iter().all(|column| same_value(column, outcomes[at as usize].last, row));
        let image = (changes.ops()[row] != Op::Delete).then_some(row);
        match found.iter().find(same).copied() {
            Some(at) => {
                let outcome = &mut outcomes[at as usize];
                // A deleted row keeps its last image, so that a soft delete leaves what was there.
                outcome.image = image.or(outcome.image);
                outcome.last = row;
            }
            None => {
                let at = u32::try_from(outcomes.len()).map_err(|_| Error::new(ErrorKind::Limit, "a batch has more than 2^32 rows"))?;
                found.push(at);
                outcomes.push(Outcome { image, last: row });
            }
        }
    }
    let mut reduced = Reduced { puts: Vec::with_capacity(outcomes.len()), marks: Vec::new() };
    for Outcome { image, last } in outcomes {
        let deleted = changes.ops()[last] == Op::Delete;
        match image {
            Some(image) if !deleted || deletes == Deletes::Soft => reduced.puts.push(Put { image, last }),
            _ => reduced.marks.push(last),
        }
    }
    Ok(reduced)
}

fn push_key(text: &mut Vec<u8>, column: &ColumnData, row: usize) -> Result<()> {
    match column.values() {
        Values::Int(values) => text.extend_from_slice(&values[row].to_le_bytes()),
        Values::UInt(values) => text.extend_from_slice(&values[row].to_le_bytes()),
        Values::Time(values) => text.extend_from_slice(&values[row].to_le_bytes()),
        Values::Float(values) => text.extend_from_slice(&values[row].to_le_bytes()),
        Values::Double(values) => text.extend_from_slice(&values[row].to_le_bytes()),
        Values::DateTime(values) => text.extend_from_slice(values[row].text(6).as_bytes()),
        Values::Text(values) | Values::Bytes(values) => {
            let value = values.get(row);
            text.extend_from_slice(&value.len().to_le_bytes());
            text.extend_from_slice(value);
        }
    }
    if column.is_valid(row) { Ok(()) } else { Err(Error::protocol("a change has NULL in its primary key")) }
}

fn same_value(column: &ColumnData, one: usize, other: usize) -> bool {
    match column.values() {
        Values::Int(values) | Values::Time(values) => values[one] == values[other],
        Values::UInt(values) => values[one] == values[other],
        Values::Float(values) => values[one].to_bits() == values[other].to_bits(),
        Values::Double(values) => values[one].to_bits() == values[other].to_bits(),
        Values::DateTime(values) => values[one] == values[other],
        Values::Text(values) | Values::Bytes(values) => values.get(one) == values.get(other),
    }
}

/// The keys that a merge concerns, with the bookkeeping of those that are marked as deleted.
fn key_batch(changes: &TableChanges, stored: &Table, puts: &[Put], marks: &[usize]) -> Result<Batch> {
    let key = changes.table().primary_key();
    let columns: Vec<Column> = key.iter().map(|&index| stored.columns()[index].clone()).chain(bookkeeping_columns()).collect();
    let mut batch = Batch::new(Arc::new(Table::new("_ingest_keys", columns)));
    let width = key.len();
    let rows = puts.iter().map(|put| (put.image, false)).chain(marks.iter().map(|&row| (row, true)));
    for (row, is_mark) in rows {
        batch.push_row(|columns| {
            for (into, &index) in columns.iter_mut().zip(key) {
                into.push_from(&changes.rows().columns()[index], row)?;
            }
            match &mut columns[width..] {
                [lsn, deleted, at] => {
                    deleted.push_int(i64::from(is_mark))?;
                    if is_mark {
                        lsn.push_text(&changes.lsn(row))?;
                        at.push_datetime(changes.committed_at(row))
                    } else {
                        lsn.push_null();
                        at.push_null();
                        Ok(())
                    }
                }
                _ => Err(Error::protocol("a batch of keys has the wrong columns")),
            }
        })?;
    }
    Ok(batch)
}
