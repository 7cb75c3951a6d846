//! A database file that rows are written to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::{self, StoredPosition};
#[cfg(feature = "duckdb")]
use super::duckdb;
use super::load::FileLoad;
use super::merge::FileMerge;
#[cfg(feature = "sqlite")]
use super::sqlite;
use super::store::{Highest, LoadPlan, Loading, Merging, Store};
use super::stored::{self, Order};
use super::{Collated, Deletes, Destination, check_name, count, is_deleted, lease, qualified};
use crate::batch::Batch;
use crate::change::DELETED_COLUMN;
use crate::interval::BoundValue;
use crate::options::SinkOptions;
use crate::policy::{OutOfRange, ZeroDates};
use crate::schema::{Column, Table, TableName};
use crate::{Error, ErrorKind, Result};

/// A DuckDB or SQLite database.
pub(super) struct File {
    destination: Box<dyn Destination>,
    /// Where it lies; in memory it lies nowhere.
    path: Option<PathBuf>,
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
            SinkOptions::MySql(_) => return Err(Error::config("a server is no file")),
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
            _ => Err(not_built()),
        };
        let path = (!in_memory).then_some(path);
        Ok(Self { destination: destination?, path, known: BTreeMap::new(), _lease: lease })
    }

    #[cfg(test)]
    pub(super) fn around(destination: Box<dyn Destination>) -> Self {
        Self { destination, path: None, known: BTreeMap::new(), _lease: None }
    }
}

impl Store for File {
    fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

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
        let name = &self.destination.located(name);
        Ok(Box::new(FileLoad::begin(&mut *self.destination, name, table, plan)?))
    }

    fn highest(&mut self, name: &TableName, column: &Column) -> Result<Highest> {
        let name = &self.destination.located(name);
        if self.destination.stored_columns(name)?.is_none() {
            return Ok(Highest::NoRows);
        }
        let table = Arc::new(Table::new(name.name(), vec![column.clone()]));
        let stored = stored::columns_of(&mut *self.destination, name, &table)?;
        let order = stored.first().map_or(Order::Own, |stored| Order::of(column.column_type(), &stored.declared_type));
        let compared = Collated::of(&mut *self.destination, name, &stored)?.column(column.name());
        let rest = format!("WHERE {} ORDER BY {} LIMIT 1", order.is_ordered(column.name()), order.descending(&compared));
        let mut greatest = None;
        self.destination.read(name, &table, &stored, &rest, &mut |batch| {
            greatest = batch.rows().next().and_then(|row| BoundValue::of(row.value(0)));
            Ok(())
        })?;
        if let Some(greatest) = greatest {
            return Ok(Highest::Value(greatest));
        }
        Ok(match count(&mut *self.destination, &format!("SELECT count(*) FROM {}", qualified(name)))? {
            0 => Highest::NoRows,
            _ => Highest::NoValue,
        })
    }

    fn read(&mut self, name: &TableName, table: &Arc<Table>, take: &mut dyn FnMut(Batch) -> Result<()>) -> Result<()> {
        let name = &self.destination.located(name);
        let destination = &mut *self.destination;
        let stored = stored::columns_of(destination, name, table)?;
        let is_captured = destination.stored_columns(name)?.is_some_and(|columns| stored::find(&columns, DELETED_COLUMN).is_some());
        let is_ours = is_captured && table.column_index(DELETED_COLUMN).is_none();
        let rest = if is_ours { format!("WHERE NOT {}", is_deleted()) } else { String::new() };
        let expected = count(destination, &format!("SELECT count(*) FROM {} {rest}", qualified(name)))?;
        let mut rows = 0;
        destination.read(name, table, &stored, &rest, &mut |batch| {
            rows += batch.len() as u64;
            take(batch)
        })?;
        // A result that ends early looks like one that is complete.
        if rows != expected {
            let message = format!("`{name}` has {expected} rows in the destination, but {rows} could be read");
            return Err(Error::new(ErrorKind::Sink, message).with_table(name));
        }
        Ok(())
    }

    fn as_stored(&mut self, name: &TableName, batch: Batch) -> Result<Batch> {
        let name = &self.destination.located(name);
        let stored = stored::columns_of(&mut *self.destination, name, batch.table())?;
        let declared: Vec<&str> = stored.iter().map(|column| column.declared_type.as_str()).collect();
        stored::normalised(batch, &declared)
    }

    fn resume(&mut self, name: &TableName, source_table: &str) -> Result<(Option<StoredPosition>, Option<String>)> {
        let name = &self.destination.located(name);
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
