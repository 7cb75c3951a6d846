//! Changes into tables of a server, by primary key.
//!
//! Batches are gathered until they are worth a transaction, and written in one of two ways:
//!
//! **Together** with the position, in one short transaction, which is repeated from its beginning if a deadlock or a broken connection ends it. That is
//! how MySQL and unsharded keyspaces are written to. A transaction at the source that does not fit into memory is one transaction in MySQL too.
//!
//! **Apart**: the checkpoint is marked, the rows are written in transactions of one statement each, and then the position. That is how sharded keyspaces
//! are written to, which have no transaction over several shards; and what Vitess would not let be one: the pieces of a large transaction, a sweep through
//! a whole table, and whatever it has said to be too much. Tables are altered between such statements, since MySQL ends a transaction for that. Whatever is
//! left of a run that ended amid them comes once more, with greater positions, so that it ends as it would have.
//!
//! A table that is built anew is built beside the old one and takes its place by one `RENAME TABLE`. Its checkpoint follows a moment later; a run that
//! finds that undone does it. In a sharded keyspace, and where nobody may make tables, a full refresh empties the table and fills it again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::checkpoint::{self, Looked, Notice, Writer};
use super::rows::{Apply, Progress, not_there};
use super::session::{Failure, Fault, pause};
use super::target::{Shape, Target, Told, captured_table, columns_while, steps};
use super::types::{self, Purpose};
use super::{Made, MySql, beside};
use crate::change::{Change, ChangeBatch, Checkpoint};
use crate::policy::ChangedValues;
use crate::schema::{Column, Table, TableName};
use crate::sink::Deletes;
use crate::sink::checkpoint::{Content, Fence, OwnColumn, recorded_name};
use crate::sink::merge::{check_source, interfered, now_text, run_name};
use crate::sink::store::{Merging, Store};
use crate::{Error, ErrorKind, Result};

/// Changes that are worth a transaction, and bytes of them.
const GROUP_ROWS: usize = 5_000;
const GROUP_BYTES: usize = 8 << 20;

/// Writes change batches into a database of a server.
pub(super) struct MySqlMerge<'a> {
    store: &'a mut MySql,
    deletes: Deletes,
    targets: BTreeMap<String, Target>,
    /// What was found when positions were read.
    known: BTreeMap<TableName, Looked>,
    /// What marks the checkpoints that this run writes.
    run: String,
    /// What waits to be written.
    group: Group,
    /// A transaction is open, with pieces of one at the source.
    is_open: bool,
    /// Pieces of a transaction at the source were written without one.
    is_amid: bool,
}

/// Batches that are written at once.
#[derive(Default)]
struct Group {
    batches: Vec<ChangeBatch>,
    since: Option<Instant>,
    rows: usize,
    bytes: usize,
}

impl Group {
    fn is_complete(&self) -> bool {
        self.batches.last().is_none_or(ChangeBatch::is_complete)
    }

    fn is_caught_up(&self) -> bool {
        self.batches.iter().any(ChangeBatch::is_caught_up)
    }

    fn changes(&self) -> impl Iterator<Item = &Change> {
        self.batches.iter().flat_map(ChangeBatch::changes)
    }

    /// The positions that are reached, by the source's table.
    fn checkpoints(&self) -> BTreeMap<&str, &Checkpoint> {
        let all = self.batches.iter().flat_map(ChangeBatch::checkpoints);
        all.map(|checkpoint| (checkpoint.table(), checkpoint)).collect()
    }

    fn alters(&self) -> bool {
        self.changes().any(|change| matches!(change, Change::Columns { .. }))
    }

    fn sweeps(&self) -> bool {
        self.changes().any(|change| matches!(change, Change::Truncated { .. } | Change::Swept { .. }))
    }
}

/// What was written of each table, until it is durable.
#[derive(Default)]
struct Writing {
    progress: BTreeMap<String, Progress>,
    fences: Vec<(String, Fence)>,
    /// All that a run before has written beyond its position came once more.
    is_caught_up: bool,
}

impl<'a> MySqlMerge<'a> {
    pub(super) fn begin(store: &'a mut MySql, deletes: Deletes, known: BTreeMap<TableName, Looked>) -> Result<Self> {
        checkpoint::create(store)?;
        Ok(Self {
            store,
            deletes,
            targets: BTreeMap::new(),
            known,
            run: run_name(),
            group: Group::default(),
            is_open: false,
            is_amid: false,
        })
    }
}

impl Merging for MySqlMerge<'_> {
    fn add_table(&mut self, table: &Table, name: &TableName, rebuild: bool) -> Result<()> {
        self.store.check_name(name)?;
        check_source(table)?;
        self.store.lease.take(name)?;
        let stored = Arc::new(captured_table(table));
        let target = match rebuild {
            true => self.rebuild(table.name(), name, &stored),
            false => self.take_up(table.name(), name, &stored),
        };
        let target = target.map_err(|error| error.with_table(name))?;
        self.targets.insert(table.name().to_owned(), target);
        Ok(())
    }

    fn write(&mut self, batch: &ChangeBatch) -> Result<()> {
        self.hold(batch)?;
        if self.held_since().is_some() { self.flush() } else { Ok(()) }
    }

    fn hold(&mut self, batch: &ChangeBatch) -> Result<bool> {
        self.store.lease.check()?;
        for change in batch.changes() {
            target_of(&mut self.targets, change.table().name())?;
        }
        let alters = batch.changes().iter().any(|change| matches!(change, Change::Columns { .. }));
        if self.held_since().is_some() && (alters || !batch.is_complete()) {
            // A transaction that comes in pieces can be undone alone.
            self.flush()?;
        }
        let group = &mut self.group;
        group.since.get_or_insert_with(Instant::now);
        group.rows += batch.changes().iter().map(Change::rows).sum::<usize>();
        group.bytes += batch.bytes();
        group.batches.push(batch.clone());
        let is_large = group.rows >= GROUP_ROWS || group.bytes >= GROUP_BYTES;
        if is_large || alters || ((self.is_open || self.is_amid) && batch.is_complete()) {
            self.flush()?;
        }
        Ok(!self.is_writing())
    }

    fn held_since(&self) -> Option<Instant> {
        self.group.since.filter(|_| self.group.is_complete())
    }

    fn release(&mut self) -> Result<()> {
        self.flush()
    }

    fn undo(&mut self) {
        self.group = Group::default();
        if std::mem::take(&mut self.is_open)
            && let Err(error) = self.store.session.execute("ROLLBACK", "a transaction that failed could not be rolled back")
        {
            // The server does that when the connection closes.
            log::debug!("{error:#}");
        }
    }

    fn is_rebuilding(&self) -> bool {
        self.targets.values().any(|target| target.building.is_some())
    }

    fn is_writing(&self) -> bool {
        !self.group.batches.is_empty() || self.is_open || self.is_amid
    }

    #[cfg(test)]
    fn destination_for_tests(&mut self) -> &mut dyn crate::sink::Destination {
        unimplemented!("tests of files only")
    }

    fn changed_values(&self, source_table: &str) -> Vec<ChangedValues> {
        self.targets.get(source_table).map(|target| target.changed.list()).unwrap_or_default()
    }

    fn finish_rebuild(&mut self) -> Result<()> {
        let is_built = |target: &&Target| target.building.is_some();
        self.store.lease.check()?;
        let built: Vec<&Target> = self.targets.values().filter(is_built).collect();
        let found = checkpoint::fences(&mut self.store.session, built.iter().map(|target| target.current()), false)?;
        if let Some(target) = built.iter().find(|target| found.get(&recorded_name(target.current())) != target.fence.as_ref()) {
            return Err(interfered(target.current()));
        }
        for target in self.targets.values_mut() {
            let Some(building) = target.building.clone() else { continue };
            self.store.swap(&building, &target.name)?;
            checkpoint::rename(&mut self.store.session, &building, &target.name)?;
            target.building = None;
        }
        Ok(())
    }
}

impl MySqlMerge<'_> {
    /// Makes a table that is not there.
    fn make(&mut self, name: &TableName, stored: &Arc<Table>) -> Result<Target> {
        types::require_indexable_key(stored)?;
        checkpoint::remove(&mut self.store.session, name)?;
        if let Made::Refused(error) = self.store.make(name, stored, Purpose::Capture)? {
            return Err(error);
        }
        Ok(Target::new(name, Arc::clone(stored), self.store.shape(name, stored)?))
    }

    /// Begins to build a table anew.
    fn rebuild(&mut self, source_table: &str, name: &TableName, stored: &Arc<Table>) -> Result<Target> {
        // One that was built anew before may have taken the place of the old one, and its checkpoint not: it is the one that is there.
        if let Ok(Looked { notice: Notice::Rename, .. }) = checkpoint::read(self.store, name, source_table) {
            checkpoint::rename(&mut self.store.session, &beside(name, "new"), name)?;
        }
        let Some(found) = self.store.look_up(name)? else {
            if self.store.is_sharded {
                return self.make(name, stored);
            }
            return match self.build(name, stored)? {
                Ok(target) => Ok(target),
                Err(_) => self.make(name, stored),
            };
        };
        self.store.require_no_references(name)?;
        if !self.store.is_sharded
            && let Ok(target) = self.build(name, stored)?
        {
            return Ok(target);
        }
        let shape = match Shape::of(self.store, name, stored, found) {
            Ok(shape) => shape,
            // It does not fit, and nothing of it is to stay.
            Err(misfit) => {
                return match self.store.drop_if_exists(name) {
                    Ok(()) => self.make(name, stored),
                    Err(_) => Err(misfit),
                };
            }
        };
        self.emptied(source_table, Target::new(name, Arc::clone(stored), shape))
    }

    /// Makes the table beside the old one; the reason if the server lets nobody do so.
    fn build(&mut self, name: &TableName, stored: &Arc<Table>) -> Result<Result<Target, Error>> {
        types::require_indexable_key(stored)?;
        let building = beside(name, "new");
        // Before the table, so that it never seems to be that of the new one.
        checkpoint::remove(&mut self.store.session, &building)?;
        match self.store.stage(&building, &beside(name, "old"), stored, Purpose::Capture)? {
            Made::Made => {
                let target = Target::new(name, Arc::clone(stored), self.store.shape(&building, stored)?);
                Ok(Ok(Target { building: Some(building), ..target }))
            }
            Made::Refused(error) => Ok(Err(error)),
        }
    }

    /// Deletes what a table holds, and its position first.
    fn emptied(&mut self, source_table: &str, target: Target) -> Result<Target> {
        self.store.require_no_cascades(&target.name, true)?;
        let now = now_text();
        let writer = Writer { run: &self.run, now: &now };
        checkpoint::run(&mut self.store.session, &writer.forget(&target.name, source_table))?;
        let mut apply = Apply { store: self.store, deletes: self.deletes, is_apart: true };
        apply.empty(&target)?;
        let fence = Fence { position: String::new(), written_by: Some(self.run.clone()) };
        Ok(Target { fence: Some(fence), is_marked: true, ..target })
    }

    /// Takes on a table that is there, or makes it.
    fn take_up(&mut self, source_table: &str, name: &TableName, stored: &Arc<Table>) -> Result<Target> {
        let looked = self.known.remove(name);
        let Some(found) = self.store.look_up(name)? else { return self.make(name, stored) };
        let fence = checkpoint::fence(&mut self.store.session, name)?;
        if looked.as_ref().is_some_and(|looked| looked.found.known.fence != fence) {
            return Err(interfered(name));
        }
        let Looked { found: looked, notice } = match looked {
            Some(looked) => looked,
            None => {
                let mut looked = Looked::default();
                looked.found.known.content = checkpoint::content(self.store, name)?;
                looked
            }
        };
        let known = looked.known;
        let is_own = |column: &str| match &known.columns {
            Some(columns) => columns.iter().any(|own| own.stored.name.to_lowercase() == column.to_lowercase()),
            // A table that no run has recorded the columns of is taken to have been made by one altogether.
            None => found.column(column).is_some(),
        };
        let columns = checkpoint::own_columns(&found, stored, is_own);
        let steps = steps(name, stored, &found, None, |_| true)?;
        let fence = match (notice, fence, &looked.position) {
            (Notice::Rename, _, _) => {
                checkpoint::rename(&mut self.store.session, &beside(name, "new"), name)?;
                checkpoint::fence(&mut self.store.session, name)?
            }
            (_, None, Some(position)) => {
                // Rows that are written ahead of the next position may not leave a table behind of which no checkpoint speaks.
                let now = now_text();
                let writer = Writer { run: &self.run, now: &now };
                let (sql, fence) = writer.write(name, &position.checkpoint, &known.content, &columns);
                checkpoint::run(&mut self.store.session, &sql)?;
                Some(fence)
            }
            (_, fence, _) => fence,
        };
        let is_altered = !steps.is_empty();
        let (fence, shape) = match is_altered {
            false => (fence, Shape::of(self.store, name, stored, found.clone())?),
            true => {
                let fence = self.mark(source_table, name, fence.as_ref(), &columns_while(&columns, &steps))?;
                self.store.alter(name, stored, &steps)?;
                (Some(fence), self.store.shape(name, stored)?)
            }
        };
        let target = Target::new(name, Arc::clone(stored), shape);
        let target = Target {
            columns: checkpoint::own_columns(&target.shape.found, stored, is_own),
            content: known.content.clone(),
            fence,
            is_marked: is_altered || known.is_unfinished,
            is_repeating: known.is_unfinished,
            // A statement of the run before may still have been under way in vtgate when the rows were counted.
            is_unsure: known.is_unfinished,
            ..target
        };
        match notice {
            Notice::Empty => self.emptied(source_table, Target { content: Content::default(), is_repeating: false, ..target }),
            _ => Ok(target),
        }
    }

    /// Marks a checkpoint: rows beyond its position may be stored from here on.
    fn mark(&mut self, source_table: &str, name: &TableName, fence: Option<&Fence>, columns: &[OwnColumn]) -> Result<Fence> {
        let now = now_text();
        let sql = Writer { run: &self.run, now: &now }.mark(name, source_table, fence, columns);
        let position = fence.map(|fence| fence.position.clone()).unwrap_or_default();
        let marked = Fence { position, written_by: Some(self.run.clone()) };
        let done = match self.with_patience(|merge| checkpoint::run(&mut merge.store.session, &sql)) {
            Ok(rows) => rows > 0,
            Err(failure) if failure.fault == Fault::Duplicate => false,
            Err(failure) => return Err(failure.error),
        };
        // The answer to a statement that was carried out may have been lost.
        if !done && checkpoint::fence(&mut self.store.session, name)?.as_ref() != Some(&marked) {
            return Err(interfered(name));
        }
        Ok(marked)
    }

    /// Repeats what is a transaction by itself.
    fn with_patience<T>(&mut self, attempt: impl Fn(&mut Self) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut retry = self.store.session.retry();
        loop {
            let began = Instant::now();
            let failure = match attempt(self) {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            // In an open transaction what went before would be gone.
            if self.is_open || !failure.fault.may_pass() {
                return Err(failure);
            }
            self.store.session.recover(&mut retry, began, failure)?;
        }
    }

    /// Writes what waits.
    fn flush(&mut self) -> Result<()> {
        self.store.lease.check()?;
        let group = std::mem::take(&mut self.group);
        let is_vitess = self.store.session.is_vitess();
        let is_divided = is_vitess && (!group.is_complete() || group.sweeps());
        if self.store.is_sharded || self.is_amid || group.alters() || is_divided {
            self.apart(&group)
        } else if self.is_open || !group.is_complete() {
            self.piece(&group)
        } else {
            self.together(&group)
        }
    }

    /// Writes a group and its positions in one transaction.
    fn together(&mut self, group: &Group) -> Result<()> {
        let mut retry = self.store.session.retry();
        loop {
            let began = Instant::now();
            let before = self.contents();
            let mut writing = Writing::default();
            let failure = match self.try_together(group, &mut writing) {
                Ok(()) => {
                    self.settle(writing);
                    return Ok(());
                }
                Err(failure) => failure,
            };
            let after = self.contents();
            self.restore(before);
            match failure.fault {
                fault if fault.is_passing() => {}
                Fault::TooMuch => {
                    self.is_open = true;
                    self.undo();
                    return self.apart(group);
                }
                _ => {
                    self.is_open = true;
                    self.undo();
                    return Err(failure.error);
                }
            }
            let failure = pause(&mut retry, began, failure)?;
            // Ends the transaction too.
            self.store.session.reconnect()?;
            if failure.fault == Fault::Lost && self.is_stored(&writing)? {
                self.restore(after);
                self.settle(writing);
                return Ok(());
            }
        }
    }

    fn try_together(&mut self, group: &Group, writing: &mut Writing) -> Result<(), Failure> {
        checkpoint::run(&mut self.store.session, "BEGIN")?;
        self.require_own_checkpoints(true)?;
        self.apply(group, writing, false)?;
        self.write_checkpoints(group, writing)?;
        checkpoint::run(&mut self.store.session, "COMMIT").map(drop)
    }

    /// Whether the positions are there, and with them all that was written in their transaction.
    fn is_stored(&mut self, writing: &Writing) -> Result<bool> {
        let is_new = |(table, fence): &&(String, Fence)| self.targets.get(table).is_some_and(|target| target.fence.as_ref() != Some(fence));
        let Some((table, fence)) = writing.fences.iter().find(is_new).cloned() else { return Ok(false) };
        let Some(target) = self.targets.get(&table) else { return Ok(false) };
        Ok(checkpoint::fence(&mut self.store.session, target.current())? == Some(fence))
    }

    /// Writes a piece of a large transaction.
    fn piece(&mut self, group: &Group) -> Result<()> {
        let mut writing = Writing::default();
        if !self.is_open {
            checkpoint::run(&mut self.store.session, "BEGIN")?;
            self.is_open = true;
            self.require_own_checkpoints(true)?;
        }
        self.apply(group, &mut writing, false)?;
        if group.is_complete() {
            self.write_checkpoints(group, &mut writing)?;
            checkpoint::run(&mut self.store.session, "COMMIT")?;
            self.is_open = false;
        }
        self.settle(writing);
        Ok(())
    }

    /// Writes rows first, and the positions afterwards.
    fn apart(&mut self, group: &Group) -> Result<()> {
        let concerned: Vec<String> = match self.is_open {
            true => self.targets.keys().cloned().collect(),
            false => group.changes().map(|change| change.table().name().to_owned()).collect(),
        };
        for table in concerned {
            let target = target_of(&mut self.targets, &table)?;
            if target.is_marked {
                continue;
            }
            let (name, fence, columns) = (target.current().clone(), target.fence.clone(), target.columns.clone());
            let fence = self.mark(&table, &name, fence.as_ref(), &columns)?;
            let target = target_of(&mut self.targets, &table)?;
            (target.fence, target.is_marked) = (Some(fence), true);
        }
        if std::mem::take(&mut self.is_open) {
            checkpoint::run(&mut self.store.session, "COMMIT")?;
        }
        self.is_amid = true;
        let mut writing = Writing::default();
        self.apply(group, &mut writing, true)?;
        if group.is_complete() {
            self.require_own_checkpoints(false)?;
            self.write_checkpoints(group, &mut writing)?;
            self.is_amid = false;
        }
        self.settle(writing);
        Ok(())
    }

    fn apply(&mut self, group: &Group, writing: &mut Writing, is_apart: bool) -> Result<(), Failure> {
        for change in group.changes() {
            let table = change.table().name();
            if let Change::Columns { table, added } = change {
                self.alter(table, added).map_err(|error| error.with_table(table.name()))?;
            }
            let target = target_of(&mut self.targets, table)?;
            let progress = match writing.progress.get_mut(table) {
                Some(progress) => progress,
                None => {
                    let missing = target.missing.clone();
                    writing.progress.entry(table.to_owned()).or_insert(Progress { missing, ..Progress::default() })
                }
            };
            let mut apply = Apply { store: self.store, deletes: self.deletes, is_apart };
            apply.change(target, progress, change).map_err(|Failure { fault, error }| Failure { fault, error: error.with_table(table) })?;
        }
        if group.is_caught_up() {
            for (table, target) in &self.targets {
                let missing = writing.progress.get(table).map_or(&target.missing, |progress| &progress.missing);
                if !missing.is_empty() {
                    return Err(not_there(target).into());
                }
            }
        }
        Ok(())
    }

    /// Follows a change of a table's columns.
    fn alter(&mut self, table: &Arc<Table>, added: &[(Column, Option<String>)]) -> Result<()> {
        let stored = Arc::new(captured_table(table));
        let target = target_of(&mut self.targets, table.name())?;
        let name = target.current().clone();
        let Some(found) = self.store.look_up(&name)? else {
            return Err(Error::new(ErrorKind::Sink, format!("table `{name}` is not there any more")));
        };
        let is_own = |column: &str| target.has_own(column);
        let steps = steps(&name, &stored, &found, Some(Told { added, is_repeating: target.is_repeating }), is_own)?;
        if !steps.is_empty() {
            let (fence, columns) = (target.fence.clone(), columns_while(&target.columns, &steps));
            let fence = self.mark(table.name(), &name, fence.as_ref(), &columns)?;
            target_of(&mut self.targets, table.name())?.fence = Some(fence);
            self.store.alter(&name, &stored, &steps)?;
        }
        let shape = self.store.shape(&name, &stored)?;
        let target = target_of(&mut self.targets, table.name())?;
        target.columns = checkpoint::own_columns(&shape.found, &stored, |column| target.has_own(column));
        (target.shape, target.stored) = (shape, stored);
        Ok(())
    }

    /// Two runs that write to the same tables in turn would lose changes: each would store a position that speaks of the other's rows. The lease
    /// keeps them apart; this does so if a server has lost it.
    fn require_own_checkpoints(&mut self, is_in_transaction: bool) -> Result<(), Failure> {
        if self.targets.is_empty() {
            return Ok(());
        }
        let fences = checkpoint::fences(&mut self.store.session, self.targets.values().map(Target::current), is_in_transaction)?;
        match self.targets.values().find(|target| fences.get(&recorded_name(target.current())) != target.fence.as_ref()) {
            None => Ok(()),
            Some(target) => Err(interfered(&target.name).into()),
        }
    }

    fn write_checkpoints(&mut self, group: &Group, writing: &mut Writing) -> Result<(), Failure> {
        let now = now_text();
        let run = self.run.clone();
        let is_apart = self.is_amid;
        for (table, checkpoint) in group.checkpoints() {
            let target = target_of(&mut self.targets, table)?;
            let progress = writing.progress.get(table);
            let is_repeated = target.is_repeating && group.is_caught_up();
            if target.is_unsure || is_repeated || progress.is_some_and(|progress| progress.is_unsure) {
                target.content = checkpoint::content(self.store, &target.current().clone())?;
            }
            // What is missing has to come first, or the next run has to say so.
            if progress.map_or(&target.missing, |progress| &progress.missing).is_empty() {
                let writer = Writer { run: &run, now: &now };
                let (sql, fence) = writer.write(target.current(), checkpoint, &target.content, &target.columns);
                match is_apart {
                    true => self.with_patience(|merge| checkpoint::run(&mut merge.store.session, &sql))?,
                    false => checkpoint::run(&mut self.store.session, &sql)?,
                };
                writing.fences.push((table.to_owned(), fence));
            }
        }
        writing.is_caught_up = group.is_caught_up();
        Ok(())
    }

    fn contents(&self) -> BTreeMap<String, Content> {
        self.targets.iter().map(|(table, target)| (table.clone(), target.content.clone())).collect()
    }

    fn restore(&mut self, contents: BTreeMap<String, Content>) {
        for (table, content) in contents {
            if let Some(target) = self.targets.get_mut(&table) {
                target.content = content;
            }
        }
    }

    /// Takes note of what was written.
    fn settle(&mut self, writing: Writing) {
        if writing.is_caught_up {
            self.targets.values_mut().for_each(|target| target.is_repeating = false);
        }
        for (table, mut progress) in writing.progress {
            if let Some(target) = self.targets.get_mut(&table) {
                target.changed.take_all(&mut progress.changing);
                target.missing = progress.missing;
                target.is_unsure |= progress.is_unsure;
            }
        }
        for (table, fence) in writing.fences {
            if let Some(target) = self.targets.get_mut(&table) {
                (target.fence, target.is_marked, target.is_unsure) = (Some(fence), false, false);
            }
        }
    }
}

impl Drop for MySqlMerge<'_> {
    fn drop(&mut self) {
        self.undo();
    }
}

fn target_of<'a>(targets: &'a mut BTreeMap<String, Target>, table: &str) -> Result<&'a mut Target> {
    targets.get_mut(table).ok_or_else(|| Error::config(format!("nobody said where changes of table `{table}` go")))
}
