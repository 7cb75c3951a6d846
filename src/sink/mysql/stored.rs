//! What a destination holds, as values of the source's types again.

use std::sync::Arc;

use super::MySql;
use super::session::as_sink;
use super::table::{DestTable, qualified};
use crate::batch::Batch;
use crate::change::DELETED_COLUMN;
use crate::interval::BoundValue;
use crate::schema::{Column, ColumnType, Table, TableName};
use crate::server::quoted;
use crate::sink::store::Highest;
use crate::source::mysql::read_stored;
use crate::{Error, ErrorKind, Result};

/// The greatest value of a column; of text by its bytes.
pub(super) fn highest(store: &mut MySql, name: &TableName, column: &Column) -> Result<Highest> {
    let Some(stored) = store.look_up(name)? else { return Ok(Highest::NoRows) };
    let table = Arc::new(Table::new(name.name(), vec![column.clone()]));
    let found = as_there(name, &table, &stored)?;
    let quoted_name = quoted(column.name());
    let is_date = matches!(column.column_type(), ColumnType::Date | ColumnType::DateTime { .. } | ColumnType::Timestamp { .. });
    let condition = match is_date {
        true => format!("{quoted_name} IS NOT NULL AND DAYOFYEAR({quoted_name}) IS NOT NULL"),
        false => format!("{quoted_name} IS NOT NULL"),
    };
    let order = match column.column_type() {
        ColumnType::Text { .. } => format!("CAST(CONVERT({quoted_name} USING utf8mb4) AS BINARY)"),
        _ => quoted_name,
    };
    let from = format!("{} WHERE {condition} ORDER BY {order} DESC LIMIT 1", qualified(name));
    let mut greatest = None;
    read_stored(store.session.connection(), (&table, &found), &from, &mut |batch| {
        greatest = batch.rows().next().and_then(|row| BoundValue::of(row.value(0)));
        Ok(())
    })
    .map_err(as_sink)?;
    if let Some(greatest) = greatest {
        return Ok(Highest::Value(greatest));
    }
    let has_rows = !store.session.query(&format!("SELECT 1 FROM {} LIMIT 1", qualified(name)))?.is_empty();
    Ok(if has_rows { Highest::NoValue } else { Highest::NoRows })
}

/// Passes on the rows that are not marked as deleted.
pub(super) fn read(store: &mut MySql, name: &TableName, table: &Arc<Table>, take: &mut dyn FnMut(Batch) -> Result<()>) -> Result<()> {
    let stored = require(store, name)?;
    let found = as_there(name, table, &stored)?;
    let is_captured = stored.column(DELETED_COLUMN).is_some() && table.column_index(DELETED_COLUMN).is_none();
    let rest = if is_captured { format!(" WHERE NOT coalesce({}, 1 = 0)", quoted(DELETED_COLUMN)) } else { String::new() };
    // Of any number of rows, on Vitess.
    let is_vitess = store.session.is_vitess();
    if is_vitess {
        store.session.execute("SET workload = 'olap'", "rows cannot be read")?;
    }
    let result = read_stored(store.session.connection(), (table, &found), &format!("{}{rest}", qualified(name)), take).map_err(as_sink);
    if is_vitess {
        store.session.execute("SET workload = 'oltp'", "rows cannot be read")?;
    }
    result
}

/// Rows as they come back: every column holds them as they are.
pub(super) fn as_stored(store: &mut MySql, name: &TableName, batch: Batch) -> Result<Batch> {
    let stored = require(store, name)?;
    as_there(name, batch.table(), &stored)?;
    Ok(batch)
}

fn require(store: &mut MySql, name: &TableName) -> Result<DestTable> {
    let found = store.look_up(name)?;
    found.ok_or_else(|| Error::new(ErrorKind::Conflict, format!("there is no table `{name}` in the destination")))
}

/// The same table, with the collations that its columns have there.
fn as_there(name: &TableName, table: &Table, stored: &DestTable) -> Result<Table> {
    let mut columns = Vec::with_capacity(table.columns().len());
    for column in table.columns() {
        let Some(found) = stored.column(column.name()) else {
            let message = format!("`{name}` in the destination has no column `{}`", column.name());
            return Err(Error::new(ErrorKind::Conflict, message).with_column(column.name()));
        };
        if super::types::holds(found, column, false).is_err() {
            let message = format!(
                "column `{name}.{}` is {} in the destination, but {} at the source",
                column.name(),
                found.full_type(),
                column.column_type()
            );
            return Err(Error::new(ErrorKind::Conflict, message).with_column(column.name()));
        }
        columns.push(column.clone().with_collation(found.collation.clone()));
    }
    Ok(Table::new(table.name(), columns))
}
