//! Rows of a table into a database file, as a strategy says.
//!
//! Everything that changes what others see happens in one transaction, which [`Loading::commit`] ends:
//!
//! - A table that is built anew is filled beside the old one and takes its place.
//! - Rows that are added go into the table itself; what is to be deleted before is deleted in the same transaction.
//! - Rows that are merged go into a temporary table first. The stored rows with one of their keys are deleted and the new ones inserted, which needs
//!   no index, and tells how many there were.

use std::sync::Arc;

use super::store::{LoadPlan, Loading};
use super::stored::{self, Order, misfit};
use super::{
    Collated, Destination, StoredColumn, Written, append_counted, begin, count, make_temporary, qualified, quoted, require_stored,
    staging_name,
};
use crate::batch::Batch;
use crate::ingest::Strategy;
use crate::interval::Interval;
use crate::policy::{ChangedByName, ChangedValues};
use crate::schema::{Column, ColumnType, Table, TableName};
use crate::{Error, ErrorKind, Result};

/// Temporary tables: rows to be merged, values of columns that only the destination has, and the bounds of an interval.
const STAGED: &str = "_ingest_staged";
const CARRIED: &str = "_ingest_carried";
const BOUNDS: &str = "_ingest_bounds";

/// Where rows go until the load is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// Into a table beside the target, which takes its place.
    Beside(TableName),
    /// Into the target itself.
    Straight,
    /// Into a temporary table, from which they are merged into the target.
    Staged(TableName),
}

/// Rows on their way into one table.
///
/// Nothing is visible before the commit, and dropping the load without one undoes it.
pub(super) struct FileLoad<'a> {
    destination: &'a mut dyn Destination,
    target: TableName,
    table: Arc<Table>,
    way: Way,
    /// Whether no two rows may have the same key.
    is_keyed: bool,
    written: Written,
    uncommitted: usize,
    changed: ChangedByName,
    is_committed: bool,
}

impl<'a> FileLoad<'a> {
    pub(super) fn begin(destination: &'a mut dyn Destination, name: &TableName, table: &Arc<Table>, plan: &LoadPlan) -> Result<Self> {
        let is_keyed = plan.strategy == Strategy::Merge;
        begin(destination)?;
        let mut load = Self {
            destination,
            target: name.clone(),
            table: Arc::clone(table),
            way: Way::Straight,
            is_keyed,
            written: Written::default(),
            uncommitted: 0,
            changed: ChangedByName::default(),
            is_committed: false,
        };
        load.prepare(plan).map_err(|error| error.with_table(name))?;
        Ok(load)
    }

    fn prepare(&mut self, plan: &LoadPlan) -> Result<()> {
        self.destination.create_schema(&self.target)?;
        // What a load left here that was killed.
        self.destination.drop_if_exists(&staging_name(&self.target))?;
        let stored = match plan.strategy {
            Strategy::Replace => None,
            _ => self.destination.stored_columns(&self.target)?,
        };
        let Some(stored) = stored else {
            let is_built_beside = plan.strategy == Strategy::Replace || self.is_keyed && !self.destination.wants_key();
            if is_built_beside {
                let staging = staging_name(&self.target);
                self.destination.create(&staging, &self.table, false)?;
                self.way = Way::Beside(staging);
                return self.commit_part();
            }
            self.destination.create(&self.target, &self.table, self.is_keyed)?;
            // Into a temporary table even so: one with a key would refuse a row that repeats one, without saying which table it comes from.
            return if self.is_keyed { self.stage() } else { Ok(()) };
        };
        compare(self.destination, &self.target, &self.table, &stored)?;
        self.destination.require_keeping(&self.target)?;
        if plan.strategy != Strategy::TruncateInsert {
            require_same_forms(self.destination, &self.target, &self.table)?;
        }
        if plan.strategy == Strategy::Append {
            return Ok(());
        }
        if let Some(column) = stored.first() {
            self.destination.take_up(&self.target, &column.name)?;
        }
        match plan.strategy {
            Strategy::TruncateInsert => self.written.deleted = delete(self.destination, &self.target, None)?,
            Strategy::DeleteInsert => self.written.deleted = delete(self.destination, &self.target, plan.interval.as_ref())?,
            _ => self.stage()?,
        }
        Ok(())
    }

    fn stage(&mut self) -> Result<()> {
        let staged = TableName::new(STAGED);
        make_temporary(self.destination, &staged, &self.table)?;
        self.way = Way::Staged(staged);
        Ok(())
    }

    fn take(&mut self, batch: &Batch) -> Result<()> {
        if **batch.table() != *self.table {
            return Err(Error::config(format!("rows of table `{}` were given to a load of `{}`", batch.table().name(), self.target)));
        }
        if self.is_keyed {
            let null = self.table.primary_key().iter().find(|&&index| batch.columns()[index].null_count() > 0);
            if let Some(&index) = null {
                return Err(null_key(&self.table, Some(self.table.columns()[index].name())));
            }
        }
        let into = match &self.way {
            Way::Beside(table) | Way::Staged(table) => table,
            Way::Straight => &self.target,
        };
        append_counted(self.destination, into, batch, &mut self.changed)?;
        self.written.rows += batch.len() as u64;
        self.written.bytes += batch.bytes() as u64;
        self.uncommitted += batch.len();
        if self.destination.rows_per_part().is_some_and(|part| self.uncommitted >= part) {
            self.commit_part()?;
        }
        Ok(())
    }

    /// Makes a part of the rows durable where nobody sees them, if the destination wants that.
    fn commit_part(&mut self) -> Result<()> {
        if matches!(self.way, Way::Beside(_)) && self.destination.rows_per_part().is_some() {
            self.destination.commit()?;
            begin(self.destination)?;
            self.uncommitted = 0;
        }
        Ok(())
    }

    /// The last step before the rows are visible.
    fn conclude(&mut self) -> Result<()> {
        match self.way.clone() {
            Way::Straight => self.written.inserted = self.written.rows,
            Way::Beside(staging) => {
                self.commit_part()?;
                if self.is_keyed {
                    require_keys(self.destination, &staging, &self.table)?;
                }
                self.written.inserted = self.written.rows;
                self.destination.drop_if_exists(&self.target)?;
                self.destination.rename(&staging, self.target.name())?;
            }
            Way::Staged(staged) => {
                require_keys(self.destination, &staged, &self.table)?;
                self.written.updated = merge(self.destination, &self.target, &staged, &self.table, self.written.rows)?;
                self.written.inserted = self.written.rows.saturating_sub(self.written.updated);
            }
        }
        self.destination.commit()
    }

    fn undo(&mut self) -> Result<()> {
        self.destination.rollback()?;
        if let Way::Beside(staging) = self.way.clone()
            && self.destination.rows_per_part().is_some()
        {
            begin(self.destination)?;
            self.destination.drop_if_exists(&staging)?;
            self.destination.commit()?;
        }
        Ok(())
    }
}

impl Loading for FileLoad<'_> {
    fn write(&mut self, batch: &Batch) -> Result<()> {
        self.take(batch)
    }

    fn commit(mut self: Box<Self>) -> Result<Written> {
        self.conclude()?;
        self.is_committed = true;
        Ok(self.written)
    }

    fn changed_values(&self) -> Vec<ChangedValues> {
        self.changed.list()
    }
}

impl Drop for FileLoad<'_> {
    fn drop(&mut self) {
        if self.is_committed {
            return;
        }
        if let Err(error) = self.undo() {
            // The next load of the same table removes the staging table.
            log::warn!("the load of `{}` could not be undone: {error:#}", self.target);
        }
    }
}

/// Refuses a stored table that cannot take the rows of `table`.
fn compare(destination: &dyn Destination, name: &TableName, table: &Table, stored: &[StoredColumn]) -> Result<()> {
    for column in table.columns() {
        let declared = destination.declared(column.column_type());
        match stored::find(stored, column.name()) {
            Some(found) if found.declared_type == declared => {}
            found => return Err(misfit(name, column, found, &declared)),
        }
    }
    Ok(())
}

/// In how many rows of a stored table a value is looked for.
const LOOKED_AT: usize = 100_000;

/// Refuses a stored table in whose columns of text numbers or moments have more or fewer digits after the point than those that come: the same value would
/// be there in two forms, and none would be found by the other.
fn require_same_forms(destination: &mut dyn Destination, name: &TableName, table: &Table) -> Result<()> {
    let fraction = |column: &Column| match column.column_type() {
        ColumnType::Decimal { scale, .. } => Some(usize::from(*scale)),
        ColumnType::DateTime { fraction } | ColumnType::Timestamp { fraction } | ColumnType::Time { fraction } => {
            Some(usize::from(*fraction))
        }
        _ => None,
    };
    let is_text = |column: &&Column| matches!(destination.declared(column.column_type()).as_str(), "TEXT" | "VARCHAR");
    let columns: Vec<(&Column, usize)> =
        table.columns().iter().filter(is_text).filter_map(|column| Some((column, fraction(column)?))).collect();
    if columns.is_empty() {
        return Ok(());
    }
    // One value tells: a run never leaves two forms in a column. It is not looked for in all of a large table, where there may be none.
    let from = qualified(name);
    let any = |(column, _): &(&Column, usize)| {
        format!("(SELECT {0} FROM (SELECT {0} FROM {from} LIMIT {LOOKED_AT}) WHERE {0} IS NOT NULL LIMIT 1)", quoted(column.name()))
    };
    let sql = format!("SELECT {}", columns.iter().map(any).collect::<Vec<_>>().join(", "));
    for ((column, expected), stored) in columns.into_iter().zip(destination.query_text(&sql)?.into_iter().flatten()) {
        let Some(stored) = stored else { continue };
        let fraction = stored.split_once('.').map_or("", |(_, fraction)| fraction);
        if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
            continue;
        }
        let found = fraction.len();
        if found != expected {
            let message = format!(
                "column `{name}.{}` has values with {found} digits after the point in the destination, but is {} at the source, of which {expected} are \
                 stored: the same value would be there in two forms; make the table anew by the strategy `replace`, or with full_refresh",
                column.name(),
                column.column_type()
            );
            return Err(Error::new(ErrorKind::Conflict, message).with_table(name).with_column(column.name()));
        }
    }
    Ok(())
}

/// Deletes the rows of an interval, or all; returns how many there were.
fn delete(destination: &mut dyn Destination, name: &TableName, interval: Option<&Interval>) -> Result<u64> {
    let Some(interval) = interval else {
        return destination.execute(&format!("DELETE FROM {}", qualified(name)));
    };
    let column = interval.column();
    let order = Order::of(column.column_type(), &destination.declared(column.column_type()));
    let stored = destination.stored_columns(name)?.unwrap_or_default();
    let compared = Collated::of(destination, name, &stored)?.column(column.name());
    let mut conditions = vec![order.is_ordered(column.name())];
    if interval.start().is_some() || interval.end().is_some() {
        // As rows of a table of the column's type, so that they have the very form in which its values are stored.
        let bounds = TableName::new(BOUNDS);
        let (start, end) = ("start", "end");
        let columns = [start, end].map(|name| Column::new(name, column.column_type().clone(), true));
        let table = Arc::new(Table::new(BOUNDS, columns.to_vec()));
        make_temporary(destination, &bounds, &table)?;
        let mut batch = Batch::new(table);
        batch.push_row(|columns| {
            for (into, bound) in columns.iter_mut().zip([interval.start(), interval.end()]) {
                match bound {
                    Some(bound) => bound.value.push_to(into)?,
                    None => into.push_null(),
                }
            }
            Ok(())
        })?;
        destination.append(&bounds, &batch)?;
        for (bound, name, operators) in [(interval.start(), start, [">", ">="]), (interval.end(), end, ["<", "<="])] {
            if let Some(bound) = bound {
                let operator = operators[usize::from(bound.is_inclusive)];
                let value = format!("(SELECT {} FROM {})", quoted(name), qualified(&bounds));
                conditions.push(order.compared(&compared, operator, &value));
            }
        }
    }
    destination.execute(&format!("DELETE FROM {} WHERE {}", qualified(name), conditions.join(" AND ")))
}

/// The columns of the key as SQL names them, and as it lists them.
fn key_of(table: &Table) -> (Vec<String>, String) {
    let key: Vec<String> = table.primary_key().iter().map(|&index| quoted(table.columns()[index].name())).collect();
    let list = key.join(", ");
    (key, list)
}

fn key_names(table: &Table) -> String {
    table.primary_key().iter().map(|&index| format!("`{}`", table.columns()[index].name())).collect::<Vec<_>>().join(", ")
}

fn repeated_key(table: &Table) -> Error {
    let message = format!(
        "table `{}` has rows with the same values in {}, which are to identify a row: name columns that do, or use another strategy than `merge`",
        table.name(),
        key_names(table)
    );
    Error::new(ErrorKind::Schema, message).with_table(table.name())
}

fn null_key(table: &Table, column: Option<&str>) -> Error {
    let found = match column {
        Some(column) => format!("has NULL in `{column}`"),
        None => "has values that are stored as NULL".to_owned(),
    };
    let message = format!("table `{}` {found}, so rows cannot be merged by {}", table.name(), key_names(table));
    let error = Error::new(ErrorKind::Schema, message).with_table(table.name());
    match column {
        Some(column) => error.with_column(column),
        None => error,
    }
}

/// Refuses staged rows that their keys do not tell apart.
fn require_keys(destination: &mut dyn Destination, staged: &TableName, table: &Table) -> Result<()> {
    let (key, list) = key_of(table);
    let from = qualified(staged);
    let nulls: Vec<String> = key.iter().map(|column| format!("{column} IS NULL")).collect();
    // Nothing in the source is: dates that no calendar has become NULL in DuckDB.
    if count(destination, &format!("SELECT count(*) FROM {from} WHERE {}", nulls.join(" OR ")))? > 0 {
        return Err(null_key(table, None));
    }
    let repeated = format!("SELECT count(*) FROM (SELECT {list} FROM {from} GROUP BY {list} HAVING count(*) > 1)");
    if count(destination, &repeated)? > 0 {
        return Err(repeated_key(table));
    }
    Ok(())
}

/// Puts staged rows, of which there are `given`, in the place of the stored ones with the same keys, and adds the others; returns how many were replaced.
fn merge(destination: &mut dyn Destination, target: &TableName, staged: &TableName, table: &Table, given: u64) -> Result<u64> {
    let (key, list) = key_of(table);
    let (into, from) = (qualified(target), qualified(staged));
    let stored = destination.stored_columns(target)?.unwrap_or_default();
    let collated = Collated::of(destination, target, &stored)?;
    let compared: Vec<String> = table.primary_key().iter().map(|&index| collated.column(table.columns()[index].name())).collect();
    let compared = compared.join(", ");
    let tuple = if key.len() == 1 { compared.clone() } else { format!("({compared})") };
    let matching = format!("{tuple} IN (SELECT {list} FROM {from})");
    let rows = count(destination, &format!("SELECT count(*) FROM {into}"))?;
    let repeated = format!("SELECT count(*) FROM (SELECT 1 FROM {into} WHERE {matching} GROUP BY {compared} HAVING count(*) > 1)");
    if count(destination, &repeated)? > 0 {
        let message = format!(
            "`{target}` in the destination has several rows with the same values in {}, so it cannot be said which one to update: rebuild it with \
             full_refresh",
            key_names(table)
        );
        return Err(Error::new(ErrorKind::Conflict, message).with_table(target));
    }
    let names: Vec<String> = table.columns().iter().map(|column| quoted(column.name())).collect();
    // Columns that only the destination has keep their values.
    let extra: Vec<&StoredColumn> = stored.iter().filter(|column| table.column_index(&column.name).is_none()).collect();
    let carried = TableName::new(CARRIED);
    if !extra.is_empty() {
        let is_key = |column: &&StoredColumn| table.column_index(&column.name).is_some_and(|index| table.primary_key().contains(&index));
        let kept: Vec<&StoredColumn> = stored.iter().filter(is_key).chain(extra.iter().copied()).collect();
        carry(destination, &carried, &kept, &into, &matching)?;
    }
    let updated = destination.execute_over(rows, &format!("DELETE FROM {into} WHERE {matching}"))?;
    let (mut columns, mut values, mut source) = (names.clone(), qualified_by(&from, &names), from.clone());
    if !extra.is_empty() {
        let kept = qualified(&carried);
        let extra: Vec<String> = extra.iter().map(|column| quoted(&column.name)).collect();
        values.extend(qualified_by(&kept, &extra));
        columns.extend(extra);
        let same: Vec<String> = key.iter().map(|column| format!("{kept}.{column} = {from}.{column}")).collect();
        source = format!("{from} LEFT JOIN {kept} ON {}", same.join(" AND "));
    }
    let stored = destination.execute(&format!("INSERT INTO {into} ({}) SELECT {} FROM {source}", columns.join(", "), values.join(", ")))?;
    require_stored(target, stored, given)?;
    for temporary in [staged, &carried] {
        destination.execute(&format!("DROP TABLE IF EXISTS {}", qualified(temporary)))?;
    }
    Ok(updated)
}

fn qualified_by(table: &str, columns: &[String]) -> Vec<String> {
    columns.iter().map(|column| format!("{table}.{column}")).collect()
}

/// Copies some columns of the matching rows into a temporary table.
fn carry(destination: &mut dyn Destination, into: &TableName, columns: &[&StoredColumn], from: &str, matching: &str) -> Result<()> {
    let declared: Vec<String> =
        columns.iter().map(|column| format!("{} {}", quoted(&column.name), destination.carried(&column.declared_type))).collect();
    let names: Vec<String> = columns.iter().map(|column| quoted(&column.name)).collect();
    let (into, suffix, names) = (qualified(into), destination.table_suffix(), names.join(", "));
    destination.execute(&format!("DROP TABLE IF EXISTS {into}"))?;
    destination.execute(&format!("CREATE TEMP TABLE {into} ({}){suffix}", declared.join(", ")))?;
    destination.execute(&format!("INSERT INTO {into} ({names}) SELECT {names} FROM {from} WHERE {matching}")).map(drop)
}
