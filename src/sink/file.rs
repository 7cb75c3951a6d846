//! A database file that rows are written to.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::checkpoint::{self, StoredPosition};
#[cfg(feature = "duckdb")]
use super::duckdb;
use super::merge::FileMerge;
#[cfg(feature = "sqlite")]
use super::sqlite;
use super::store::{LoadPlan, Loading, Merging, Store};
use super::{Deletes, Destination, StoredColumn, Written, append_counted, begin, check_name, lease, staging_name};
use crate::batch::Batch;
use crate::ingest::Strategy;
use crate::options::SinkOptions;
use crate::policy::{ChangedByName, ChangedValues, OutOfRange, ZeroDates};
use crate::schema::{Table, TableName};
use crate::{Error, ErrorKind, Result};

/// A DuckDB or SQLite database.
pub(super) struct File {
    destination: Box<dyn Destination>,
    /// What was found of the tables whose positions were read, for the merge that follows.
    known: BTreeMap<TableName, checkpoint::Known>,
    // Given back after the database is closed.
    _lease: Option<lease::Lease>,
}

impl File {
    pub(super) fn open(options: &SinkOptions) -> Result<Self> {
        let (kind, path, is_built) = match options {
            SinkOptions::DuckDb(options) => ("DuckDB", options.path(), cfg!(feature = "duckdb")),
            SinkOptions::Sqlite(options) => ("SQLite", options.path(), cfg!(feature = "sqlite")),
        };
        let not_built = || Error::new(ErrorKind::Unsupported, format!("built without the feature `{}`", kind.to_lowercase()));
        if !is_built {
            return Err(not_built());
        }
        // A database in memory is nobody else's.
        let in_memory = path == Path::new(":memory:");
        let path = if in_memory { path.to_owned() } else { lease::resolve(kind, path)? };
        let lease = if in_memory { None } else { Some(lease::Lease::take(&path)?) };
        let destination: Result<Box<dyn Destination>> = match options {
            #[cfg(feature = "duckdb")]
            SinkOptions::DuckDb(options) => duckdb::DuckDb::open(options, &path).map(|opened| Box::new(opened) as _),
            #[cfg(feature = "sqlite")]
            SinkOptions::Sqlite(options) => sqlite::Sqlite::open(options, &path).map(|opened| Box::new(opened) as _),
            #[cfg(not(all(feature = "duckdb", feature = "sqlite")))]
            _ => Err(not_built()),
        };
        Ok(Self { destination: destination?, known: BTreeMap::new(), _lease: lease })
    }

    #[cfg(test)]
    pub(super) fn around(destination: Box<dyn Destination>) -> Self {
        Self { destination, known: BTreeMap::new(), _lease: None }
    }

    fn replace(&mut self, name: &TableName, table: &Arc<Table>) -> Result<FileLoad<'_>> {
        let staging = staging_name(name);
        let destination = &mut *self.destination;
        begin(destination)?;
        let mut load = FileLoad::new(destination, name, table, Some(staging.clone()));
        load.attempt(|load| {
            load.destination.create_schema(name)?;
            load.destination.drop_if_exists(&staging)?;
            load.destination.create(&staging, table, false)?;
            if load.destination.rows_per_part().is_some() {
                load.destination.commit()?;
                begin(load.destination)?;
            }
            Ok(())
        })?;
        Ok(load)
    }

    fn append(&mut self, name: &TableName, table: &Arc<Table>) -> Result<FileLoad<'_>> {
        let destination = &mut *self.destination;
        begin(destination)?;
        let mut load = FileLoad::new(destination, name, table, None);
        load.attempt(|load| {
            load.destination.create_schema(name)?;
            match load.destination.stored_columns(name)? {
                None => load.destination.create(name, table, false),
                Some(stored) => compare(load.destination, name, table, &stored),
            }
        })?;
        Ok(load)
    }
}

impl Store for File {
    fn set_zero_dates(&mut self, policy: ZeroDates) {
        self.destination.set_zero_dates(policy);
    }

    fn set_out_of_range(&mut self, policy: OutOfRange) {
        self.destination.set_out_of_range(policy);
    }

    fn check_name(&self, name: &TableName) -> Result<()> {
        check_name(&*self.destination, name)
    }

    fn load<'a>(&'a mut self, name: &TableName, table: &Arc<Table>, plan: &LoadPlan) -> Result<Box<dyn Loading + 'a>> {
        match plan.strategy {
            Strategy::Append => Ok(Box::new(self.append(name, table)?)),
            _ => Ok(Box::new(self.replace(name, table)?)),
        }
    }

    fn resume(&mut self, name: &TableName, source_table: &str) -> Result<(Option<StoredPosition>, Option<String>)> {
        let found = checkpoint::read(&mut *self.destination, name, source_table)?;
        self.known.insert(name.clone(), found.known);
        Ok((found.position, found.note))
    }

    fn merge<'a>(&'a mut self, deletes: Deletes) -> Result<Box<dyn Merging + 'a>> {
        let known = std::mem::take(&mut self.known);
        Ok(Box::new(FileMerge::begin(&mut *self.destination, deletes, known)?))
    }

    #[cfg(test)]
    fn destination_for_tests(&mut self) -> &mut dyn Destination {
        &mut *self.destination
    }

    #[cfg(test)]
    fn stored_in(&self) -> &dyn Destination {
        &*self.destination
    }
}

/// Refuses a stored table that cannot take the rows of `table`.
fn compare(destination: &dyn Destination, name: &TableName, table: &Table, stored: &[StoredColumn]) -> Result<()> {
    for column in table.columns() {
        let expected = destination.declared(column.column_type());
        let conflict = |message: String| Err(Error::new(ErrorKind::Conflict, message).with_table(name).with_column(column.name()));
        match stored.iter().find(|stored| stored.name.to_lowercase() == column.name().to_lowercase()) {
            None => {
                return conflict(format!(
                    "`{name}` in the destination has no column `{}`, which is {} at the source",
                    column.name(),
                    column.column_type()
                ));
            }
            Some(found) if found.declared_type != expected => {
                return conflict(format!(
                    "column `{name}.{}` is {} in the destination, but {} at the source, which is stored as {expected}",
                    column.name(),
                    found.declared_type,
                    column.column_type()
                ));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Rows on their way into one table.
///
/// Nothing is durable before [`Load::commit`]. After an error every call fails, and dropping the load undoes it.
pub(super) struct FileLoad<'a> {
    destination: &'a mut dyn Destination,
    target: TableName,
    staging: Option<TableName>,
    table: Arc<Table>,
    written: Written,
    uncommitted: usize,
    changed: ChangedByName,
    state: LoadState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LoadState {
    Open,
    Poisoned,
    Committed,
}

impl<'a> FileLoad<'a> {
    fn new(destination: &'a mut dyn Destination, target: &TableName, table: &Arc<Table>, staging: Option<TableName>) -> Self {
        Self {
            destination,
            target: target.clone(),
            staging,
            table: Arc::clone(table),
            written: Written::default(),
            uncommitted: 0,
            changed: ChangedByName::default(),
            state: LoadState::Open,
        }
    }

    fn take(&mut self, batch: &Batch) -> Result<()> {
        if **batch.table() != *self.table {
            return Err(Error::config(format!("rows of table `{}` were given to a load of `{}`", batch.table().name(), self.target)));
        }
        let into = self.staging.as_ref().unwrap_or(&self.target);
        append_counted(self.destination, into, batch, &mut self.changed)?;
        self.written.rows += batch.len() as u64;
        self.written.bytes += batch.bytes() as u64;
        self.uncommitted += batch.len();
        if self.staging.is_some()
            && let Some(part) = self.destination.rows_per_part()
            && self.uncommitted >= part
        {
            self.destination.commit()?;
            begin(&mut *self.destination)?;
            self.uncommitted = 0;
        }
        Ok(())
    }

    /// Performs a step. A failure poisons the load.
    fn attempt<T>(&mut self, step: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.state != LoadState::Open {
            return Err(Error::new(ErrorKind::Sink, format!("the load of `{}` failed before", self.target)).with_table(&self.target));
        }
        let result = step(self).map_err(|error| error.with_table(&self.target));
        if result.is_err() {
            self.state = LoadState::Poisoned;
        }
        result
    }
}

impl Loading for FileLoad<'_> {
    fn write(&mut self, batch: &Batch) -> Result<()> {
        self.attempt(|load| load.take(batch))
    }

    fn commit(mut self: Box<Self>) -> Result<Written> {
        self.attempt(|load| {
            if let Some(staging) = load.staging.clone() {
                if load.destination.rows_per_part().is_some() {
                    load.destination.commit()?;
                    begin(load.destination)?;
                }
                load.destination.drop_if_exists(&load.target)?;
                load.destination.rename(&staging, load.target.name())?;
            }
            load.destination.commit()
        })?;
        self.state = LoadState::Committed;
        Ok(self.written)
    }

    fn changed_values(&self) -> Vec<ChangedValues> {
        self.changed.list()
    }
}

impl Drop for FileLoad<'_> {
    fn drop(&mut self) {
        if self.state == LoadState::Committed {
            return;
        }
        let undo = |load: &mut Self| {
            load.destination.rollback()?;
            if let Some(staging) = load.staging.clone()
                && load.destination.rows_per_part().is_some()
            {
                begin(load.destination)?;
                load.destination.drop_if_exists(&staging)?;
                load.destination.commit()?;
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = undo(self) {
            // The next load of the same table removes the staging table.
            log::warn!("the load of `{}` could not be undone: {error:#}", self.target);
        }
    }
}
