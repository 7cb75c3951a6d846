//! What each kind of sink performs: one that is a file, through [`Destination`](super::Destination), or a server.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

#[cfg(test)]
use super::Destination;
use super::checkpoint::StoredPosition;
use super::{Deletes, Written};
use crate::batch::Batch;
use crate::change::ChangeBatch;
use crate::ingest::Strategy;
use crate::interval::{BoundValue, Interval};
use crate::options::SourceOptions;
use crate::policy::{ChangedValues, OutOfRange, ZeroDates};
use crate::schema::{Column, Table, TableName};
use crate::{Error, ErrorKind, Result};

/// How rows get into a table.
#[derive(Debug, Clone)]
pub(crate) struct LoadPlan {
    pub(crate) strategy: Strategy,
    /// The rows that come: all that the source has of the interval, and no others. `DeleteInsert` deletes those of it.
    pub(crate) interval: Option<Interval>,
}

impl LoadPlan {
    pub(crate) fn of(strategy: Strategy) -> Self {
        Self { strategy, interval: None }
    }

    /// Refuses a table whose rows cannot get in this way, wherever they go.
    pub(super) fn check(&self, table: &Table) -> Result<()> {
        if self.strategy == Strategy::Merge && table.primary_key().is_empty() {
            let message = format!("table `{}` has no primary key to merge by: name the columns that identify a row", table.name());
            return Err(Error::new(ErrorKind::Schema, message).with_table(table.name()));
        }
        Ok(())
    }
}

/// The greatest stored value of a column.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Highest {
    /// There is no table, or none of its rows is left.
    NoRows,
    /// There are rows, and none has a value that an interval could begin at: all are NULL, or dates that no calendar has.
    NoValue,
    Value(BoundValue),
}

/// What is behind a [`Sink`](super::Sink), which documents the methods.
pub(crate) trait Store: Send {
    /// The file, where it is one.
    fn path(&self) -> Option<&Path> {
        None
    }
    fn set_zero_dates(&mut self, policy: ZeroDates);
    fn set_out_of_range(&mut self, policy: OutOfRange);
    fn check_name(&self, name: &TableName) -> Result<()>;

    /// Whether a name stands for a table of this database of a source. Files are compared as a whole.
    fn is_source(&mut self, _name: &TableName, _table: &str, _source: &SourceOptions) -> Result<bool> {
        Ok(false)
    }
    fn load<'a>(&'a mut self, name: &TableName, table: &Arc<Table>, plan: &LoadPlan) -> Result<Box<dyn Loading + 'a>>;

    /// The greatest stored value of a column of the source, by its value and not by the form in which it is stored; of text by its bytes in UTF-8.
    ///
    /// # Errors
    /// `Conflict` if the table has no such column, or one whose type is not that of the source.
    fn highest(&mut self, name: &TableName, column: &Column) -> Result<Highest>;

    /// Passes on the rows of a stored table in no order, with the columns of `table` and in the source's types; none that is marked as deleted.
    ///
    /// # Errors
    /// `Conflict` if there is no such table, or it has no such column; that of `take`.
    fn read(&mut self, name: &TableName, table: &Arc<Table>, take: &mut dyn FnMut(Batch) -> Result<()>) -> Result<()>;

    /// Rows of the source as [`Store::read`] returns them once they are stored: what the policies and the destination's types make of them.
    fn as_stored(&mut self, name: &TableName, batch: Batch) -> Result<Batch>;

    fn resume(&mut self, name: &TableName, source_table: &str) -> Result<(Option<StoredPosition>, Option<String>)>;
    fn merge<'a>(&'a mut self, deletes: Deletes) -> Result<Box<dyn Merging + 'a>>;
    #[cfg(test)]
    fn destination_for_tests(&mut self) -> &mut dyn Destination;
    #[cfg(test)]
    fn stored_in(&self) -> &dyn Destination;
}

/// What a load leaves in the table where it ends without a commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Rows that are stored.
    pub(crate) stored: u64,
    /// Rows that were there before, and are not any more.
    pub(crate) deleted: u64,
}

impl Left {
    pub(crate) fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// What is behind a [`Load`](super::Load), which asks for nothing more after an error. One that is dropped without a commit leaves the table as it was, as far as the destination can.
pub(crate) trait Loading {
    fn write(&mut self, batch: &Batch) -> Result<()>;
    fn commit(self: Box<Self>) -> Result<Written>;
    /// Ends the load without a commit. Nothing is left of it, if the destination can undo it.
    fn abandon(self: Box<Self>) -> Left {
        Left::default()
    }
    fn changed_values(&self) -> Vec<ChangedValues>;
}

/// What is behind a [`Merge`](super::Merge), which undoes what is not durable after an error, and then writes no more.
pub(crate) trait Merging {
    fn add_table(&mut self, table: &Table, name: &TableName, rebuild: bool) -> Result<()>;
    fn write(&mut self, batch: &ChangeBatch) -> Result<()>;
    fn hold(&mut self, batch: &ChangeBatch) -> Result<bool>;
    fn held_since(&self) -> Option<Instant>;
    fn release(&mut self) -> Result<()>;
    /// Undoes what is not durable.
    fn undo(&mut self);
    fn changed_values(&self, source_table: &str) -> Vec<ChangedValues>;

    /// Whether a table is built anew.
    fn is_rebuilding(&self) -> bool;
    /// Whether anything was taken that is not durable yet.
    fn is_writing(&self) -> bool;
    fn finish_rebuild(&mut self) -> Result<()>;
    #[cfg(test)]
    fn destination_for_tests(&mut self) -> &mut dyn Destination;
}
