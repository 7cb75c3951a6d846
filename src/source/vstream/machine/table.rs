//! One table of a machine: its changes that wait to be handed out, and how far it follows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{Plan, Scratch, Transaction};
use crate::change::{Change, Checkpoint, Op, TableChanges};
use crate::gtid::GtidSet;
use crate::position::{ShardGtid, Vgtid};
use crate::schema::{Column, ColumnType, Table};
use crate::source::vstream::ddl::Alteration;
use crate::source::vstream::decode::{self, FieldPlan};
use crate::source::vstream::event::{FieldEvent, RowChange, RowImage};
use crate::source::vstream::shape::Shape;
use crate::value::DateTime;
use crate::{Error, ErrorKind, Result};

pub(super) struct TableState {
    pub(super) table: Arc<Table>,
    pub(super) own: Vgtid,
    /// Shards on which the table is ahead of the stream, with the GTID set that it holds.
    pub(super) ahead: BTreeMap<String, GtidSet>,
    pub(super) segments: Vec<Change>,
    /// How many segments, and how many rows of the last of them, are committed.
    pub(super) committed: Mark,
    pub(super) state: Following,
    /// For each shard, what is known of its columns.
    pub(super) shapes: HashMap<String, Shape>,
    /// Columns that it did not have when the machine began.
    pub(super) grown: Vec<usize>,
    /// Shards from which rows came without one of these columns, after another shard had shown it.
    pub(super) lagging: BTreeSet<String>,
    /// Columns that statements have added, in lower case, and whether rows that were there got a value in them.
    pub(super) added: BTreeMap<String, bool>,
    /// Columns that new rows came without.
    pub(super) omitted: BTreeSet<usize>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) segments: usize,
    pub(super) rows: usize,
}

pub(super) enum Following {
    Yes,
    /// The table needs a new copy on top of the old, whose first ordinal is this.
    Recopy {
        from: u64,
    },
    /// The table has ended; it stays where it was.
    Ended(Checkpoint),
}

/// Why a table is copied anew whose rows had the wrong columns.
pub(super) const MISLABELLED: &str = "its columns were moved, and the server reads older changes by the new ones";

/// Why a table is copied anew in which values may look otherwise now.
const OTHER_BYTES: &str = "text that is stored as bytes was declared anew, which can give all of it other bytes";
const DECLARED_ANEW: &str = "one of its columns was declared anew, which can change the digits or the length of all its values";

/// Why a table is copied anew of whose older changes the tablet knows the values no more.
const MISREAD: &str = "members or a character set of its columns were declared anew, and the server reads older changes by the new ones";

/// Why a table is copied anew that has a new column.
const OTHER_DEFAULT: &str = "the default of a new column was changed, which does not tell any more what older rows hold in it";

/// Why a table is copied anew that lost or got rows without a change of each.
pub(super) const ROWS_MOVED: &str = "a statement took rows out of it or put them in by partitions or tablespaces, which tells nobody which";

pub(super) enum Effect {
    Truncate,
    /// With the reason.
    Recopy(&'static str),
    End(&'static str),
}

impl TableState {
    /// Takes a FIELD event: the table grows by the columns that are new.
    pub(super) fn replan(&mut self, field: &FieldEvent, before: Option<&FieldPlan>, plan: &Plan) -> Result<FieldPlan> {
        let declared = plan.declared.get(self.table.name());
        let difference = decode::compare(field, &self.table, declared, plan.malformed_text)?;
        if !difference.added.is_empty() || !difference.retyped.is_empty() {
            let mut table = Table::clone(&self.table);
            for (index, column_type) in difference.retyped {
                let old = &self.table.columns()[index];
                table = table.with_column_type(index, column_type.clone());
                if !old.column_type().is_stored_like(&column_type) {
                    let message = format!(
                        "column `{}.{}` changed from {} to {column_type}: rebuild the table with full_refresh",
                        self.table.name(),
                        old.name(),
                        old.column_type()
                    );
                    return Err(Error::new(ErrorKind::SchemaChange, message).with_table(self.table.name()).with_column(old.name()));
                }
            }
            let before = table.columns().len();
            self.table = Arc::new(table.with_columns(difference.added.iter().cloned()));
            self.grown.extend(before..self.table.columns().len());
            let added = difference.added.into_iter().map(|column| (column, None)).collect();
            self.segments.push(Change::Columns { table: Arc::clone(&self.table), added });
        }
        FieldPlan::new(field, &self.table, before, declared, plan.malformed_text)
    }

    /// What an ALTER TABLE means for the table; `at` is when it was run, in seconds since 1970.
    pub(super) fn altered(&mut self, shard: &str, alterations: &[Alteration], at: i64) -> Option<Effect> {
        let shape = self.shapes.entry(shard.to_owned()).or_default();
        let misread = alterations.iter().any(|alteration| shape.is_misread(alteration, at));
        // Of what it was before only a FIELD event tells.
        let was_char = |column: &str| shape.was(column, "char", at);
        let becomes_char = alterations.iter().any(|alteration| match alteration {
            Alteration::Modify { column, definition, .. } => {
                definition.is_any(&["char", "character", "nchar", "national"]) && !was_char(column)
            }
            _ => false,
        });
        let trusted = shape.on_alter(alterations);
        let other_default = alterations.iter().any(|alteration| self.changes_default(alteration));
        for alteration in alterations {
            if let Alteration::Add { column, has_value, .. } = alteration {
                self.added.insert(column.to_lowercase(), *has_value);
            }
        }
        let is_key = |names: &[String]| {
            let key: Vec<String> =
                self.table.primary_key().iter().map(|&index| self.table.columns()[index].name().to_lowercase()).collect();
            names.len() == key.len() && names.iter().all(|name| key.contains(&name.to_lowercase()))
        };
        if alterations.iter().any(|alteration| matches!(alteration, Alteration::Key(names) if !is_key(names))) {
            return Some(Effect::End("given another primary key"));
        }
        // Rows that do not change keep their value, which nobody sends again under the new name.
        if alterations.iter().any(|alteration| matches!(alteration, Alteration::Rename { .. })) {
            return Some(Effect::Recopy("one of its columns has a new name"));
        }
        if alterations.iter().any(|alteration| matches!(alteration, Alteration::Rows { .. })) {
            return Some(Effect::Recopy(ROWS_MOVED));
        }
        if !trusted {
            return Some(Effect::Recopy(MISLABELLED));
        }
        if misread {
            return Some(Effect::Recopy(MISREAD));
        }
        if other_default {
            return Some(Effect::Recopy(OTHER_DEFAULT));
        }
        // Rows that do not change get other digits or bytes by the statement, which nobody sends; and in a key they would not be found any more. What the
        // column was before is not known where the run began after the statement.
        let is_rewritten = |alteration: &Alteration| match alteration {
            Alteration::Modify { column, definition, .. } => self.table.column(column).is_some_and(|column| {
                definition.is_generated()
                    || definition.is_any(&["binary", "bit", "datetime", "timestamp", "float", "double", "real", "json"])
                    || matches!(
                        column.column_type(),
                        ColumnType::Decimal { .. }
                            | ColumnType::DateTime { .. }
                            | ColumnType::Timestamp { .. }
                            | ColumnType::Time { .. }
                            | ColumnType::Bit { .. }
                            | ColumnType::Float
                            | ColumnType::Double
                            | ColumnType::Binary { fixed: Some(_) }
                    )
            }),
            _ => false,
        };
        // The statement need not name a character set to change it: that of the table is taken then.
        let other_bytes = |alteration: &Alteration| match alteration {
            Alteration::Modify { column, .. } => self.table.column(column).is_some_and(Column::is_text_as_bytes),
            Alteration::Convert => self.table.columns().iter().any(Column::is_text_as_bytes),
            _ => false,
        };
        if alterations.iter().any(other_bytes) {
            return Some(Effect::Recopy(OTHER_BYTES));
        }
        if becomes_char || alterations.iter().any(is_rewritten) {
            return Some(Effect::Recopy(DECLARED_ANEW));
        }
        // The value of older rows went to all of them when the first shard showed the column; those that came later from this shard lack it.
        let is_stale = |alteration: &Alteration| match alteration {
            Alteration::Add { column, has_value, .. } => self
                .table
                .column_index(column)
                .is_some_and(|index| !self.grown.contains(&index) || *has_value && self.lagging.contains(shard)),
            _ => false,
        };
        alterations.iter().any(is_stale).then_some(Effect::Recopy("it was given a column that it had before, or has on another shard"))
    }

    /// Whether it changes the default of a column that is new: what older rows hold in that is asked for by its default.
    fn changes_default(&self, alteration: &Alteration) -> bool {
        let (column, has_value) = match alteration {
            Alteration::Default(column) => (column, true),
            Alteration::Modify { column, definition, .. } => (column, definition.has_value()),
            _ => return false,
        };
        let had_value = self.added.get(&column.to_lowercase()).copied();
        let has_grown = self.table.column_index(column).is_some_and(|index| self.grown.contains(&index));
        match had_value {
            Some(had_value) => has_value || had_value,
            None => has_grown,
        }
    }

    pub(super) fn rows(&mut self) -> Option<&mut TableChanges> {
        if !matches!(self.segments.last(), Some(Change::Rows(rows)) if Arc::ptr_eq(rows.table(), &self.table)) {
            self.segments.push(Change::Rows(TableChanges::new(Arc::clone(&self.table))));
        }
        match self.segments.last_mut() {
            Some(Change::Rows(rows)) => Some(rows),
            _ => None,
        }
    }

    pub(super) fn push(
        &mut self,
        plan: &FieldPlan,
        change: &RowChange<'_>,
        from_copy: bool,
        transaction: &mut Transaction,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let width = plan.width();
        let before = change.before.map(|image| scratch.before.read(image, width)).transpose()?;
        let after = change.after.map(|image| scratch.after.read(image, width)).transpose()?;
        if change.json_partial_values.is_some_and(|partial| !partial.is_empty()) {
            let message = "the binlog holds parts of JSON documents: binlog_row_value_options must be empty";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let mut absent = match (change.data_columns, after) {
            (Some(present), Some(_)) => plan.absent(|field| present.contains(field)),
            _ => Vec::new(),
        };
        if !absent.is_empty() {
            // With NOBLOB these are TEXT and BLOB only: of an update, those that stay as they are; of a new row, those that are NULL.
            let is_blob = |&index: &usize| {
                let column = self.table.columns().get(index);
                column.is_some_and(|column| matches!(column.column_type(), ColumnType::Text { .. } | ColumnType::Binary { .. }))
            };
            if self.table.primary_key().iter().any(|key| absent.contains(key)) || before.is_none() && !absent.iter().all(is_blob) {
                let message = "the binlog holds only some columns of a row: binlog_row_image must be FULL or NOBLOB for every session";
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            if before.is_none() {
                self.omitted.extend(std::mem::take(&mut absent));
            }
        }
        let Some(rows) = self.rows() else { return Ok(()) };
        let Scratch { before: before_image, after: after_image, text, inexact } = scratch;
        let mut emit = |op: Op, image: &RowImage, values: &[u8], absent: Vec<usize>| -> Result<()> {
            plan.check_key(image, values)?;
            let sequence = transaction.next;
            inexact.clear();
            rows.push(op, sequence, absent, |columns| plan.push(columns, image, values, from_copy, text, inexact))?;
            // Of a row that is gone nothing can be asked, and only the key matters.
            if op != Op::Delete && !inexact.is_empty() {
                rows.note_inexact(inexact);
            }
            transaction.next = sequence.next()?;
            Ok(())
        };
        match (before, after) {
            (None, Some(after)) => emit(Op::Insert, after_image, after, absent),
            (Some(before), None) => emit(Op::Delete, before_image, before, Vec::new()),
            (Some(before), Some(after)) => {
                if plan.same_key((before_image, before), (after_image, after)) {
                    emit(Op::Update, after_image, after, absent)
                } else {
                    emit(Op::Delete, before_image, before, Vec::new())?;
                    if !absent.is_empty() {
                        let message =
                            "an update of a key does not carry all columns (binlog_row_image=noblob): rebuild the table with full_refresh";
                        return Err(Error::new(ErrorKind::Unsupported, message));
                    }
                    emit(Op::Insert, after_image, after, absent)
                }
            }
            (None, None) => Err(Error::protocol("a row change has neither a before nor an after image")),
        }
    }

    pub(super) fn mark(&self) -> Mark {
        let rows = match self.segments.last() {
            Some(Change::Rows(rows)) => rows.len(),
            _ => 0,
        };
        Mark { segments: self.segments.len(), rows }
    }

    pub(super) fn discard(&mut self) {
        let Mark { segments, rows } = self.committed;
        // New columns stay: the FIELD event that brought them holds beyond its transaction.
        let mut position = 0;
        self.segments.retain(|change| {
            position += 1;
            position <= segments || matches!(change, Change::Columns { .. })
        });
        if let Some(Change::Rows(last)) = segments.checked_sub(1).and_then(|last| self.segments.get_mut(last)) {
            last.truncate(rows);
        }
    }

    pub(super) fn commit(&mut self, at: DateTime) {
        let Mark { segments, rows } = self.committed;
        let first = segments.saturating_sub(1);
        for (index, change) in self.segments.iter_mut().enumerate().skip(first) {
            let Change::Rows(changes) = change else { continue };
            let from = if segments > 0 && index == first { rows } else { 0 };
            changes.commit(from, at);
        }
        self.committed = self.mark();
    }

    pub(super) fn push_committed(&mut self, change: Change) {
        self.segments.push(change);
        self.committed = self.mark();
    }

    /// Takes out what is committed and leaves what is not.
    pub(super) fn take_committed(&mut self) -> Vec<Change> {
        let Mark { segments, rows } = self.committed;
        let mut open = self.segments.split_off(segments);
        let mut taken = std::mem::take(&mut self.segments);
        if let Some(Change::Rows(last)) = taken.last_mut()
            && last.len() > rows
        {
            open.insert(0, Change::Rows(last.split_off(rows)));
        }
        self.segments = open;
        self.committed = Mark::default();
        taken.retain(|change| !matches!(change, Change::Rows(rows) if rows.is_empty()));
        taken
    }

    /// Where it stays is `at`.
    pub(super) fn end(&mut self, error: Error, at: Checkpoint) {
        self.discard();
        let table = Arc::clone(&self.table);
        self.push_committed(Change::Ended { table, error: Arc::new(error) });
        self.state = Following::Ended(at);
    }

    /// How far the table is when the stream is at `stream`: on shards where it is ahead, its own position.
    pub(super) fn position(&self, stream: &Vgtid) -> Vgtid {
        if self.ahead.is_empty() {
            return stream.clone();
        }
        let choose = |shard: &ShardGtid| match self.own.get(shard.keyspace(), shard.shard()) {
            Some(own) if self.ahead.contains_key(shard.shard()) => own.clone(),
            _ => shard.clone(),
        };
        Vgtid::new(stream.shards().iter().map(choose).collect())
    }
}
