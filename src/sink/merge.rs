//! Changes into tables, by primary key.
//!
//! The same steps for every kind of destination, in one transaction with the checkpoint:
//!
//! 1. Nobody else has written since: the checkpoints are what this run has read or written last.
//! 2. Tables that have new columns at the source are altered. That comes before any row, since not every destination alters a table whose rows were
//!    changed in the same transaction; rows from before the change are brought to the new form.
//! 3. Of the changes to one key only the last counts; the row that it leaves is the last image that came for the key.
//! 4. The keys go into a temporary table, but for those beyond all that are stored. Stored rows with one of them are deleted, and the new rows
//!    are appended. No index is needed for that, which is what makes it fast in DuckDB.
//! 5. A soft delete without an image marks the stored row. A delete of a key that is not there does nothing: a copy under way may send it.
//! 6. A row that came in part (`binlog_row_image=noblob`) updates the columns that it has.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Instant;

use super::checkpoint::{Content, Fence, Known, OwnColumn};
use super::frontier::{FirstKey, Frontier};
use super::reduce::{Put, Reduced, key_batch, reduce};
use super::store::Merging;
use super::stored::find;
use super::{
    Collated, Destination, StoredColumn, append_counted, begin, check_name, checkpoint, count, is_deleted, literal, make_temporary,
    qualified, quoted, require_stored, staging_name,
};
use crate::batch::Batch;
use crate::change::{
    Change, ChangeBatch, Checkpoint, DELETED_COLUMN, LSN_COLUMN, Op, SYNCED_AT_COLUMN, TableChanges, bookkeeping_columns, stored_table,
};
use crate::policy::{ChangedByName, ChangedValues};
use crate::schema::{Column, Table, TableName};
use crate::value::DateTime;
use crate::{Error, ErrorKind, Result};

/// Bytes of row images after which a commit is due even if a destination would gather more rows, where those are wide: of narrow ones so many
/// take no more room than is at hand.
const BYTES_PER_COMMIT: usize = 64 << 20;
const WIDE_ROW: usize = 1024;

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

/// Writes change batches into a database file, each with the positions that it reaches in one transaction.
pub(super) struct FileMerge<'a> {
    destination: &'a mut dyn Destination,
    deletes: Deletes,
    targets: BTreeMap<String, Target>,
    /// What was found when positions were read.
    known: BTreeMap<TableName, Known>,
    /// What marks the checkpoints that this run writes.
    run: String,
    open: Option<Open>,
}

/// The open transaction.
struct Open {
    since: Instant,
    /// Whether what was written ends where a batch does, and could be committed. If not, it is a part of a transaction at the source.
    is_complete: bool,
    rows: usize,
    bytes: usize,
    /// The positions that are reached, by the source's table.
    checkpoints: BTreeMap<String, Checkpoint>,
}

struct Target {
    name: TableName,
    /// The table as it is at the source, with the columns of ours.
    stored: Arc<Table>,
    /// The columns that runs have made, as the destination has them. They may be wider than those of the source.
    columns: Vec<OwnColumn>,
    /// How they are compared.
    collated: Collated,
    /// Where the rows go while the table is built anew.
    building: Option<TableName>,
    content: Content,
    /// `None` where it has to be read from the table first.
    frontier: Option<Frontier>,
    fence: Option<Fence>,
    /// Columns that the table has already, though the rows that are written now come from before they were added: one entry for each change
    /// of the table that is still to come.
    coming: VecDeque<Vec<(Column, Option<String>)>>,
    /// Rows were written in the open transaction.
    written: bool,
    /// Values that policies have changed: those that are durable, and those of the open transaction.
    changed: ChangedByName,
    changing: ChangedByName,
}

impl Target {
    fn new(name: &TableName, stored: Arc<Table>, columns: Vec<OwnColumn>) -> Self {
        Self {
            name: name.clone(),
            stored,
            columns,
            collated: Collated::default(),
            building: None,
            content: Content::default(),
            frontier: Some(Frontier::Empty),
            fence: None,
            coming: VecDeque::new(),
            written: false,
            changed: ChangedByName::default(),
            changing: ChangedByName::default(),
        }
    }

    fn current(&self) -> &TableName {
        self.building.as_ref().unwrap_or(&self.name)
    }

    fn column(&self, name: &str) -> Option<&StoredColumn> {
        let name = name.to_lowercase();
        self.columns.iter().map(|column| &column.stored).find(|column| column.name.to_lowercase() == name)
    }
}

fn in_transaction<T>(destination: &mut dyn Destination, work: impl FnOnce(&mut dyn Destination) -> Result<T>) -> Result<T> {
    begin(destination)?;
    let result = work(destination).and_then(|done| destination.commit().map(|()| done));
    if result.is_err()
        && let Err(error) = destination.rollback()
    {
        log::warn!("a transaction that failed could not be rolled back: {error:#}");
    }
    result
}

impl<'a> FileMerge<'a> {
    pub(super) fn begin(destination: &'a mut dyn Destination, deletes: Deletes, known: BTreeMap<TableName, Known>) -> Result<Self> {
        in_transaction(destination, checkpoint::create)?;
        Ok(Self { destination, deletes, targets: BTreeMap::new(), known, run: run_name(), open: None })
    }
}

impl Merging for FileMerge<'_> {
    fn add_table(&mut self, table: &Table, name: &TableName, rebuild: bool) -> Result<()> {
        check_name(self.destination, name)?;
        check_source(table)?;
        let name = &self.destination.located(name);
        let stored = Arc::new(stored_table(table));
        let known = self.known.remove(name);
        let target = in_transaction(self.destination, |destination| {
            destination.create_schema(name)?;
            if rebuild {
                let building = staging_name(name);
                // What an interrupted rebuild left behind.
                destination.drop_if_exists(&building)?;
                let mut target = make(destination, &building, &stored)?;
                (target.name, target.building) = (name.clone(), Some(building));
                return Ok(target);
            }
            match destination.stored_columns(name)? {
                None => make(destination, name, &stored),
                Some(found) => adopt(destination, name, &stored, &found, known),
            }
        })
        .map_err(|error| error.with_table(name))?;
        self.targets.insert(table.name().to_owned(), target);
        self.destination.expect_tables(self.targets.len())
    }

    fn write(&mut self, batch: &ChangeBatch) -> Result<()> {
        self.take(batch)?;
        if batch.is_complete() { self.commit() } else { Ok(()) }
    }

    fn hold(&mut self, batch: &ChangeBatch) -> Result<bool> {
        let alters = batch.changes().iter().any(|change| matches!(change, Change::Columns { .. }));
        if self.held_since().is_some() && (alters || !batch.is_complete()) {
            // A transaction that comes in pieces can be undone alone, and tables are altered before any row is written.
            self.commit()?;
        }
        self.take(batch)?;
        let limit = self.destination.rows_per_commit();
        let is_large = |open: &Open| open.bytes >= BYTES_PER_COMMIT && open.bytes / WIDE_ROW >= open.rows;
        let is_due = |open: &Open| open.is_complete && limit.is_none_or(|limit| open.rows >= limit || is_large(open));
        if self.open.as_ref().is_some_and(is_due) {
            self.commit()?;
        }
        Ok(self.open.is_none())
    }

    fn held_since(&self) -> Option<Instant> {
        self.open.as_ref().filter(|open| open.is_complete).map(|open| open.since)
    }

    fn release(&mut self) -> Result<()> {
        self.commit()
    }

    fn undo(&mut self) {
        self.targets.values_mut().for_each(|target| target.changing.clear());
        if self.open.take().is_some()
            && let Err(error) = self.destination.rollback()
        {
            log::warn!("a transaction that failed could not be rolled back: {error:#}");
        }
    }

    fn is_rebuilding(&self) -> bool {
        self.targets.values().any(|target| target.building.is_some())
    }

    fn is_writing(&self) -> bool {
        self.open.is_some()
    }

    #[cfg(test)]
    fn destination_for_tests(&mut self) -> &mut dyn Destination {
        self.destination
    }

    fn changed_values(&self, source_table: &str) -> Vec<ChangedValues> {
        self.targets.get(source_table).map(|target| target.changed.list()).unwrap_or_default()
    }

    fn finish_rebuild(&mut self) -> Result<()> {
        let finished: Vec<(TableName, TableName)> =
            self.targets.values().filter_map(|target| Some((target.building.clone()?, target.name.clone()))).collect();
        let fences: BTreeMap<String, Option<Fence>> =
            self.targets.values().map(|target| (checkpoint::recorded_name(target.current()), target.fence.clone())).collect();
        in_transaction(self.destination, |destination| {
            let found = checkpoint::fences(destination, finished.iter().map(|(building, _)| building))?;
            for (building, name) in &finished {
                let building_name = checkpoint::recorded_name(building);
                let own = fences.get(&building_name).and_then(Option::as_ref);
                if found.get(&building_name) != own {
                    return Err(interfered(building));
                }
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

impl FileMerge<'_> {
    fn take(&mut self, batch: &ChangeBatch) -> Result<()> {
        if self.open.is_none() {
            begin(self.destination)?;
            self.open = Some(Open { since: Instant::now(), is_complete: false, rows: 0, bytes: 0, checkpoints: BTreeMap::new() });
            self.require_own_checkpoints()?;
        }
        for change in batch.changes() {
            if let Change::Columns { table, added } = change {
                self.alter(table, added).map_err(|error| error.with_table(table.name()))?;
            }
        }
        for change in batch.changes() {
            self.apply(change).map_err(|error| error.with_table(change.table().name()))?;
        }
        if let Some(open) = &mut self.open {
            open.is_complete = batch.is_complete();
            open.rows += batch.changes().iter().map(Change::rows).sum::<usize>();
            open.bytes += batch.bytes();
            open.checkpoints.extend(batch.checkpoints().iter().map(|checkpoint| (checkpoint.table().to_owned(), checkpoint.clone())));
        }
        Ok(())
    }

    /// Commits the open transaction, with the positions that it reaches.
    fn commit(&mut self) -> Result<()> {
        let now = now_text();
        for checkpoint in self.open.iter().flat_map(|open| open.checkpoints.values()) {
            let target = target_of(&mut self.targets, checkpoint.table())?;
            let (name, at) = (target.current(), (self.run.as_str(), now.as_str()));
            let fence = checkpoint::write(self.destination, name, checkpoint, &target.content, &target.columns, at)?;
            target.fence = Some(fence);
        }
        self.destination.commit()?;
        self.open = None;
        for target in self.targets.values_mut() {
            target.written = false;
            target.changed.take_all(&mut target.changing);
        }
        Ok(())
    }

    /// Two runs that write to the same tables in turn would lose changes: each would store a position that speaks of the other's rows. The lease
    /// keeps them apart where the operating system's locks reach; this does so everywhere else.
    fn require_own_checkpoints(&mut self) -> Result<()> {
        if self.targets.is_empty() {
            return Ok(());
        }
        let fences = checkpoint::fences(self.destination, self.targets.values().map(Target::current))?;
        match self.targets.values().find(|target| fences.get(&checkpoint::recorded_name(target.current())) != target.fence.as_ref()) {
            None => Ok(()),
            Some(target) => Err(interfered(&target.name)),
        }
    }

    fn apply(&mut self, change: &Change) -> Result<()> {
        let source = change.table().name();
        match change {
            Change::Rows(changes) => self.rows(changes),
            Change::Truncated { lsn, at, .. } => self.delete_where(source, "1 = 1", &format!("NOT {}", is_deleted()), lsn, *at),
            Change::Swept { before, lsn, at, .. } => {
                let column = quoted(LSN_COLUMN);
                let old = format!("({column} IS NULL OR {column} < {})", literal(before));
                let condition = format!("{old} AND NOT {}", is_deleted());
                self.delete_where(source, &old, &condition, lsn, *at)
            }
            Change::Columns { .. } => {
                target_of(&mut self.targets, source)?.coming.pop_front();
                Ok(())
            }
            Change::CopiedAnew { .. } | Change::Ended { .. } => Ok(()),
        }
    }

    /// Deletes rows as chosen; `soft` leaves out those that are marked already.
    fn delete_where(&mut self, source: &str, hard: &str, soft: &str, lsn: &str, at: DateTime) -> Result<()> {
        let target = target_of(&mut self.targets, source)?;
        let name = qualified(target.current());
        let sql = match self.deletes {
            Deletes::Hard => format!("DELETE FROM {name} WHERE {hard}"),
            Deletes::Soft => format!(
                "UPDATE {name} SET {} = {}, {} = (1 = 1), {} = {} WHERE {soft}",
                quoted(LSN_COLUMN),
                literal(lsn),
                quoted(DELETED_COLUMN),
                quoted(SYNCED_AT_COLUMN),
                self.destination.timestamp_literal(at)
            ),
        };
        target.written = true;
        self.destination.execute(&sql)?;
        // The statement looked at every row too.
        target.content = checkpoint::content(self.destination, target.current())?;
        target.frontier = None;
        Ok(())
    }

    /// Follows a change of a table's columns, ahead of the rows of the batch.
    fn alter(&mut self, table: &Arc<Table>, added: &[(Column, Option<String>)]) -> Result<()> {
        let target = target_of(&mut self.targets, table.name())?;
        let name = target.current().clone();
        let stored = Arc::new(stored_table(table));
        let found = self.destination.stored_columns(&name)?.unwrap_or_default();
        let mut steps = Vec::new();
        for column in stored.columns() {
            let declared = self.destination.declared(column.column_type());
            let default = || added.iter().find(|(added, _)| added.name() == column.name()).and_then(|(_, default)| default.as_deref());
            match find(&found, column.name()) {
                None => steps.push(Step::Add { column, default: default() }),
                Some(_) if target.column(column.name()).is_none() => {
                    let message = format!(
                        "`{}` has a new column `{}` at the source, but somebody else has added one of that name to it in the destination: \
                         drop or rename that one",
                        target.name,
                        column.name()
                    );
                    return Err(Error::new(ErrorKind::Conflict, message).with_column(column.name()));
                }
                Some(found) if !self.destination.takes(&found.declared_type, &declared) => {
                    require_wider(self.destination, &target.name, column, &found.declared_type)?;
                    steps.push(Step::Retype(column));
                }
                // It was dropped at the source, and stayed here with its old values.
                Some(_) if added.iter().any(|(added, _)| added.name() == column.name()) => {
                    steps.push(Step::Reset { column, default: default() })
                }
                Some(_) => {}
            }
        }
        let (resets, alterations): (Vec<Step<'_>>, Vec<Step<'_>>) = steps.into_iter().partition(|step| matches!(step, Step::Reset { .. }));
        if target.written && !alterations.is_empty() && !self.destination.alters_written_tables() {
            remake(self.destination, &name, &found, &alterations)?;
        } else {
            alterations.iter().try_for_each(|step| step.take(self.destination, &name))?;
        }
        for step in resets {
            target.written = true;
            step.take(self.destination, &name)?;
        }
        target.columns = own_columns(self.destination, &name, &stored, |column| target.column(column).is_some())?;
        checkpoint::write_columns(self.destination, &name, &target.columns)?;
        target.frontier = None;
        target.stored = stored;
        target.coming.push_back(added.to_vec());
        Ok(())
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
        let target = target_of(&mut self.targets, changes.table().name())?;
        let destination = &mut *self.destination;
        target.written = true;
        let shape = shape_of(target, changes);
        let first = shape.primary_key().first().copied().unwrap_or_default();
        let (values, first_type) = (&changes.rows().columns()[first], shape.columns()[first].column_type());
        let first_key = |row: usize| FirstKey::of(values, first_type, row);
        let mut frontier = match target.frontier.take() {
            Some(frontier) => frontier,
            None => Frontier::read(destination, target.current(), &target.stored, &target.collated)?,
        };
        let old_puts: Vec<Put> = puts.iter().copied().filter(|put| !frontier.is_before(first_key(put.image))).collect();
        let old_marks: Vec<usize> = marks.into_iter().filter(|&row| !frontier.is_before(first_key(row))).collect();
        if !old_puts.is_empty() || !old_marks.is_empty() {
            clear(destination, target, &key_batch(changes, &shape, &old_puts, &old_marks)?, self.deletes, !old_marks.is_empty())?;
        }
        puts.iter().for_each(|put| frontier.advance(first_key(put.image)));
        target.frontier = Some(frontier);
        let is_live = |put: &&Put| changes.ops()[put.last] != Op::Delete;
        let live = puts.iter().filter(is_live).count() as u64;
        let last = puts.iter().filter(is_live).map(|put| put.last).max().map(|last| changes.lsn(last));
        target.content.add(live, puts.len() as u64 - live, last);
        // In parts, because each part is a copy of its rows.
        for part in puts.chunks(PART_ROWS) {
            let batch = changes.to_stored(&shape, part)?;
            if fits(destination, target, &shape) {
                let name = target.building.as_ref().unwrap_or(&target.name);
                append_keyed(destination, name, &batch, &shape, &mut target.changing)?;
            } else {
                append_converted(destination, target, &batch)?;
            }
        }
        Ok(())
    }

    /// Updates one row by the columns that came.
    fn update_part(&mut self, changes: &TableChanges, row: usize) -> Result<()> {
        let target = target_of(&mut self.targets, changes.table().name())?;
        let destination = &mut *self.destination;
        target.written = true;
        let (name, shape) = (target.current().clone(), shape_of(target, changes));
        let part = TableName::new("_ingest_part");
        make_temporary(destination, &part, &shape)?;
        let batch = changes.to_stored(&shape, &[Put { image: row, last: row }])?;
        let mut changed = ChangedByName::default();
        append_keyed(destination, &part, &batch, &shape, &mut changed)?;
        let absent = changes.absent(row);
        let is_key = |index: &usize| shape.primary_key().contains(index);
        let present: Vec<&str> = (0..shape.columns().len())
            .filter(|index| !absent.contains(index) && !is_key(index))
            .map(|index| shape.columns()[index].name())
            .collect();
        changed.retain(|column| present.contains(&column));
        target.changing.take_all(&mut changed);
        let (into, from) = (qualified(&name), qualified(&part));
        let set: Vec<String> = present.iter().map(|column| format!("{0} = {from}.{0}", quoted(column))).collect();
        let key = shape.primary_key().iter().map(|&index| shape.columns()[index].name());
        let same: Vec<String> =
            key.map(|column| format!("{into}.{} = {from}.{}", target.collated.column(column), quoted(column))).collect();
        let same = same.join(" AND ");
        let deleted = quoted(DELETED_COLUMN);
        let revived = match target.content.deleted {
            0 => 0,
            _ => count(destination, &format!("SELECT count(*) FROM {into}, {from} WHERE {same} AND {into}.{deleted}"))?,
        };
        if destination.execute(&format!("UPDATE {into} SET {} FROM {from} WHERE {same}", set.join(", ")))? == 0 {
            let message = format!("a row of `{name}` changed in part, but is not in the destination: rebuild it with full_refresh");
            return Err(Error::new(ErrorKind::Conflict, message).with_table(&name));
        }
        target.content.remove(revived, revived);
        target.content.add(revived, 0, Some(changes.lsn(row)));
        Ok(())
    }
}

impl Drop for FileMerge<'_> {
    fn drop(&mut self) {
        self.undo();
    }
}

/// Refuses a table of the source that changes cannot be merged of.
pub(super) fn check_source(table: &Table) -> Result<()> {
    if table.primary_key().is_empty() {
        return Err(Error::new(ErrorKind::Schema, format!("table `{}` has no primary key", table.name())).with_table(table.name()));
    }
    match [LSN_COLUMN, DELETED_COLUMN, SYNCED_AT_COLUMN].into_iter().find(|ours| table.column_index(ours).is_some()) {
        Some(ours) => {
            let message = format!("table `{}` has a column `{ours}` itself, which change capture needs for its own", table.name());
            Err(Error::new(ErrorKind::Schema, message).with_table(table.name()).with_column(ours))
        }
        None => Ok(()),
    }
}

fn target_of<'a>(targets: &'a mut BTreeMap<String, Target>, table: &str) -> Result<&'a mut Target> {
    targets.get_mut(table).ok_or_else(|| Error::config(format!("nobody said where changes of table `{table}` go")))
}

pub(super) fn interfered(name: &TableName) -> Error {
    let message = format!(
        "somebody else has changed the position of `{name}` in `{}` since this run has read or written it: nothing was written since; \
         let one run write at a time",
        checkpoint::CHECKPOINT_TABLE
    );
    Error::new(ErrorKind::Conflict, message).with_table(name).of_run()
}

/// Makes a table that is not there.
fn make(destination: &mut dyn Destination, name: &TableName, stored: &Arc<Table>) -> Result<Target> {
    checkpoint::remove(destination, name)?;
    let with_key = destination.wants_key();
    destination.create(name, stored, with_key)?;
    let columns = own_columns(destination, name, stored, |_| false)?;
    Ok(Target::new(name, Arc::clone(stored), columns))
}

/// Takes on a table that is there.
fn adopt(
    destination: &mut dyn Destination,
    name: &TableName,
    stored: &Arc<Table>,
    found: &[StoredColumn],
    known: Option<Known>,
) -> Result<Target> {
    let fence = checkpoint::fences(destination, [name].into_iter())?.remove(&checkpoint::recorded_name(name));
    let known = match known {
        Some(known) if known.fence != fence => return Err(interfered(name)),
        Some(known) => known,
        None => Known { content: checkpoint::content(destination, name)?, ..Known::default() },
    };
    for column in stored.columns() {
        let declared = destination.declared(column.column_type());
        match find(found, column.name()) {
            Some(found) if destination.takes(&found.declared_type, &declared) => {}
            Some(found) => {
                require_wider(destination, name, column, &found.declared_type)?;
                Step::Retype(column).take(destination, name)?;
            }
            None => {
                let is_ours = bookkeeping_columns().iter().any(|ours| ours.name() == column.name());
                let what = if is_ours {
                    "which change capture keeps for its own".to_owned()
                } else {
                    format!("which is {} at the source", column.column_type())
                };
                let message =
                    format!("`{name}` in the destination has no column `{}`, {what}: rebuild it with full_refresh", column.name());
                return Err(Error::new(ErrorKind::Conflict, message).with_column(column.name()));
            }
        }
    }
    destination.require_keeping(name)?;
    destination.take_up(name, LSN_COLUMN)?;
    // A table that no run has recorded the columns of is taken to have been made by one altogether.
    let is_own = |column: &str| match &known.columns {
        Some(columns) => columns.iter().any(|own| own.stored.name.to_lowercase() == column.to_lowercase()),
        None => find(found, column).is_some(),
    };
    let columns = own_columns(destination, name, stored, is_own)?;
    if known.columns.as_ref() != Some(&columns) {
        checkpoint::write_columns(destination, name, &columns)?;
    }
    let collated = Collated::of(destination, name, found)?;
    let target = Target::new(name, Arc::clone(stored), columns);
    Ok(Target { content: known.content, fence, frontier: None, collated, ..target })
}

/// The columns of a table, as they are stored now, that are of the source or were made by a run before.
fn own_columns(
    destination: &mut dyn Destination,
    name: &TableName,
    table: &Table,
    is_own: impl Fn(&str) -> bool,
) -> Result<Vec<OwnColumn>> {
    let stored = destination.stored_columns(name)?.unwrap_or_default().into_iter();
    let columns = stored.map(|stored| OwnColumn { is_at_source: table.column_index(&stored.name).is_some(), stored });
    Ok(columns.filter(|column| column.is_at_source || is_own(&column.stored.name)).collect())
}

/// Refuses a column whose stored values might not survive the type that it has at the source now.
fn require_wider(destination: &dyn Destination, name: &TableName, column: &Column, stored: &str) -> Result<()> {
    let declared = destination.declared(column.column_type());
    if destination.widens(stored, &declared) {
        return Ok(());
    }
    let what = match column.is_text_as_bytes() {
        true => "the bytes of text".to_owned(),
        false => column.column_type().to_string(),
    };
    let message = format!(
        "column `{name}.{}` is {stored} in the destination, but {what} ({declared}) at the source now: rebuild the table with full_refresh, or \
         keep the options that it was made with",
        column.name()
    );
    Err(Error::new(ErrorKind::SchemaChange, message).with_column(column.name()))
}

/// A change to a table in the destination.
enum Step<'a> {
    Add { column: &'a Column, default: Option<&'a str> },
    Retype(&'a Column),
    Reset { column: &'a Column, default: Option<&'a str> },
}

impl Step<'_> {
    fn take(&self, destination: &mut dyn Destination, name: &TableName) -> Result<()> {
        let (column, result) = match self {
            Self::Add { column, default } => (column, destination.add_column(name, column, *default)),
            Self::Retype(column) => (column, destination.change_type(name, column)),
            Self::Reset { column, default } => {
                let value =
                    default.map_or_else(|| Ok("NULL".to_owned()), |default| destination.default_literal(column.column_type(), default))?;
                let sql = format!("UPDATE {} SET {} = {value}", qualified(name), quoted(column.name()));
                (column, destination.execute(&sql).map(drop))
            }
        };
        result.map_err(|error| error.with_column(column.name()))
    }
}

/// Changes a table by way of another: for a destination that cannot alter one whose rows the open transaction has changed. It is a copy of the
/// whole table, but rare: only a transaction that comes in pieces has written rows before the columns of the batch are looked at.
fn remake(destination: &mut dyn Destination, name: &TableName, found: &[StoredColumn], steps: &[Step<'_>]) -> Result<()> {
    let new = name.sibling(format!("_ingest_altered_{}", name.name()));
    let columns: Vec<String> = found.iter().map(|column| format!("{} {}", quoted(&column.name), column.declared_type)).collect();
    let suffix = destination.table_suffix();
    destination.execute(&format!("CREATE TABLE {} ({}){suffix}", qualified(&new), columns.join(", ")))?;
    // Without rows it is altered like one with them.
    steps.iter().try_for_each(|step| step.take(destination, &new))?;
    let mut names: Vec<String> = found.iter().map(|column| quoted(&column.name)).collect();
    let mut values = names.clone();
    for step in steps {
        if let Step::Add { column, default: Some(default) } = step {
            names.push(quoted(column.name()));
            values.push(destination.default_literal(column.column_type(), default)?);
        }
    }
    let (into, from) = (qualified(&new), qualified(name));
    destination.execute(&format!("INSERT INTO {into} ({}) SELECT {} FROM {from}", names.join(", "), values.join(", ")))?;
    destination.drop_if_exists(name)?;
    destination.rename(&new, name.name())
}

/// The form in which rows come: that of the table as it is, or as it was before the columns that are still to come.
fn shape_of(target: &Target, changes: &TableChanges) -> Arc<Table> {
    match target.coming.is_empty() {
        true => Arc::clone(&target.stored),
        false => Arc::new(stored_table(changes.table())),
    }
}

/// Whether rows of this form can be appended as they are.
fn fits(destination: &dyn Destination, target: &Target, shape: &Table) -> bool {
    let same = |column: &Column| {
        target
            .column(column.name())
            .is_some_and(|found| destination.appends(&found.declared_type, &destination.declared(column.column_type())))
    };
    target.coming.is_empty() && shape.columns().iter().all(same)
}

/// Appends rows, and refuses those whose key the destination cannot hold: they would not be found again, and the next change would double them.
fn append_keyed(
    destination: &mut dyn Destination,
    name: &TableName,
    batch: &Batch,
    table: &Table,
    changing: &mut ChangedByName,
) -> Result<()> {
    let mut changed = ChangedByName::default();
    append_counted(destination, name, batch, &mut changed)?;
    let key = table.primary_key().iter().map(|&index| table.columns()[index].name());
    if let Some(column) = changed.nulled(key) {
        let message = format!(
            "key column `{column}` of table `{}` has dates that are stored as NULL, by which their rows would not be found again: set \
             zero_dates=text, or name other columns that identify a row (--primary-key)",
            table.name()
        );
        return Err(Error::new(ErrorKind::Schema, message).with_table(table.name()).with_column(column));
    }
    changing.take_all(&mut changed);
    Ok(())
}

/// Deletes the stored rows that have one of the keys, or marks them as deleted, as the batch of keys says.
fn clear(destination: &mut dyn Destination, target: &mut Target, keys: &Batch, deletes: Deletes, has_marks: bool) -> Result<()> {
    let key_table = TableName::new("_ingest_keys");
    make_temporary(destination, &key_table, keys.table())?;
    append_keyed(destination, &key_table, keys, &target.stored, &mut ChangedByName::default())?;
    let key: Vec<&str> = target.stored.primary_key().iter().map(|&index| target.stored.columns()[index].name()).collect();
    let (into, from) = (qualified(target.current()), qualified(&key_table));
    let is_mark = quoted(DELETED_COLUMN);
    let removed = match deletes {
        Deletes::Soft => format!(" WHERE NOT {is_mark}"),
        Deletes::Hard => String::new(),
    };
    let list = key.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", ");
    let compared = key.iter().map(|column| target.collated.column(column)).collect::<Vec<_>>().join(", ");
    let tuple = if key.len() == 1 { compared } else { format!("({compared})") };
    let is_marking = deletes == Deletes::Soft && has_marks;
    // How many of the rows concerned are marked already; without such rows in the table there is nothing to ask.
    let (mut gone_again, mut marked_again) = (0, 0);
    if target.content.deleted > 0 {
        let among = |which: &str| format!("SELECT count(*) FROM {into} WHERE {is_mark} AND {tuple} IN (SELECT {list} FROM {from}{which})");
        gone_again = count(destination, &among(&removed))?;
        if is_marking {
            marked_again = count(destination, &among(&format!(" WHERE {is_mark}")))?;
        }
    }
    let rows = target.content.live + target.content.deleted;
    let gone = destination.execute_over(rows, &format!("DELETE FROM {into} WHERE {tuple} IN (SELECT {list} FROM {from}{removed})"))?;
    target.content.remove(gone, gone_again);
    if is_marking {
        let set: Vec<String> =
            [LSN_COLUMN, DELETED_COLUMN, SYNCED_AT_COLUMN].iter().map(|column| format!("{0} = {from}.{0}", quoted(column))).collect();
        // Without aliases: a table of the source may be called whatever they were.
        let same = |column: &&str| format!("{into}.{} = {from}.{}", target.collated.column(column), quoted(column));
        let same: Vec<String> = key.iter().map(same).collect();
        let sql = format!("UPDATE {into} SET {} FROM {from} WHERE {} AND {from}.{is_mark}", set.join(", "), same.join(" AND "));
        let marked = destination.execute_over(rows, &sql)?;
        target.content.mark(marked, marked_again);
    }
    Ok(())
}

/// Appends rows whose types are narrower than the stored ones, or that come from before a column was added and so get what rows of their age
/// have in it.
fn append_converted(destination: &mut dyn Destination, target: &mut Target, batch: &Batch) -> Result<()> {
    let rows = TableName::new("_ingest_rows");
    make_temporary(destination, &rows, batch.table())?;
    append_keyed(destination, &rows, batch, batch.table(), &mut target.changing)?;
    let mut names: Vec<String> = batch.table().columns().iter().map(|column| quoted(column.name())).collect();
    let mut values = names.clone();
    for (column, default) in target.coming.iter().flatten() {
        if let Some(default) = default {
            names.push(quoted(column.name()));
            values.push(destination.default_literal(column.column_type(), default)?);
        }
    }
    let (into, from) = (qualified(target.current()), qualified(&rows));
    let stored = destination.execute(&format!("INSERT INTO {into} ({}) SELECT {} FROM {from}", names.join(", "), values.join(", ")))?;
    require_stored(target.current(), stored, batch.len() as u64)
}

pub(super) fn now_text() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok();
    let micros = since.and_then(|since| i64::try_from(since.as_micros()).ok());
    micros.and_then(DateTime::from_unix_micros).map(|now| now.text(6)).unwrap_or_default()
}

/// A name that no other run has: the moment, the process, and a random number.
pub(super) fn run_name() -> String {
    format!("{} {} {:016x}", now_text(), std::process::id(), RandomState::new().hash_one(0))
}
