//! What a destination holds, as values of the source's types again.

use std::sync::Arc;

use super::session::as_sink;
use super::table::{DestTable, qualified};
use super::{MySql, document};
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
    let There { table: found, forms, .. } = as_there(name, &table, &stored)?;
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
    read_stored(store.session.connection(), (&table, &found), (&forms, &from), &mut |batch| {
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
    let There { table: found, forms, wider } = as_there(name, table, &stored)?;
    let is_captured = stored.column(DELETED_COLUMN).is_some() && table.column_index(DELETED_COLUMN).is_none();
    let rest = if is_captured { format!(" WHERE NOT coalesce({}, 1 = 0)", quoted(DELETED_COLUMN)) } else { String::new() };
    require_no_others(store, name, &wider)?;
    // Of any number of rows, on Vitess.
    let is_vitess = store.session.is_vitess();
    if is_vitess {
        store.session.execute("SET workload = 'olap'", "rows cannot be read")?;
    }
    let from = format!("{}{rest}", qualified(name));
    let mut take = |batch: Batch| take(document::canonical_batch(batch)?);
    let result = read_stored(store.session.connection(), (table, &found), (&forms, &from), &mut take).map_err(as_sink);
    if is_vitess {
        store.session.execute("SET workload = 'oltp'", "rows cannot be read")?;
    }
    result
}

/// Rows as they come back: every column holds them as they are, but for documents.
pub(super) fn as_stored(store: &mut MySql, name: &TableName, batch: Batch) -> Result<Batch> {
    let stored = require(store, name)?;
    as_there(name, batch.table(), &stored)?;
    document::canonical_batch(batch)
}

fn require(store: &mut MySql, name: &TableName) -> Result<DestTable> {
    let found = store.look_up(name)?;
    found.ok_or_else(|| Error::new(ErrorKind::Conflict, format!("there is no table `{name}` in the destination")))
}

/// A table as it is in the destination, and how its values are read.
struct There {
    /// With the collations that its columns have there.
    table: Table,
    /// For each column, what is asked for where that is not the column itself.
    forms: Vec<Option<String>>,
    /// Columns that can hold values which the source's type does not have, each with the condition for one.
    wider: Vec<(String, String)>,
}

fn as_there(name: &TableName, table: &Table, stored: &DestTable) -> Result<There> {
    let mut there = There { table: Table::new(table.name(), Vec::new()), forms: Vec::new(), wider: Vec::new() };
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
        let narrowed = found.column_type.as_ref().and_then(|found| narrowed(found, column));
        if let Some((_, other)) = &narrowed {
            there.wider.push((column.name().to_owned(), other.clone()));
        }
        there.forms.push(narrowed.map(|(form, _)| form));
        columns.push(column.clone().with_collation(found.collation.clone()));
    }
    there.table = there.table.with_columns(columns);
    Ok(there)
}

/// How a column that is wider than the source's is asked for as that has it; and the condition for values which that cannot have.
fn narrowed(found: &ColumnType, column: &Column) -> Option<(String, String)> {
    use ColumnType as T;
    let name = quoted(column.name());
    let cast = |to: &str| {
        let form = format!("CAST({name} AS {to})");
        let other = format!("{name} <> {form}");
        Some((form, other))
    };
    match (found, column.column_type()) {
        (T::Decimal { precision, scale }, T::Decimal { scale: narrow, .. }) if scale != narrow => {
            cast(&format!("DECIMAL({},{narrow})", precision - scale + narrow))
        }
        (T::Decimal { .. } | T::Double, T::Int { unsigned: true, .. }) => cast("UNSIGNED"),
        (T::Decimal { .. } | T::Double, T::Int { .. } | T::Boolean) => cast("SIGNED"),
        (T::DateTime { .. }, T::Date) => cast("DATE"),
        (T::Bit { width }, T::Bit { width: narrow }) if width == narrow => None,
        (T::Bit { .. } | T::Int { .. }, T::Bit { width }) => {
            let form = format!("UNHEX(LPAD(HEX({name} + 0), {}, '0'))", 2 * usize::from(*width).div_ceil(8));
            let other = format!("{name} + 0 < 0 OR {name} + 0 > {}", u64::MAX >> (64 - u32::from(*width).clamp(1, 64)));
            Some((form, other))
        }
        (T::Bit { .. }, T::Boolean) => Some((format!("{name} + 0"), format!("{name} + 0 > 127"))),
        _ => None,
    }
}

/// Refuses a table in which somebody has stored values that no row of the source can have. Not with the workload `olap`, in which vtgate (v0.23.3) ends
/// the connection where LIMIT cuts rows of several shards off.
fn require_no_others(store: &mut MySql, name: &TableName, wider: &[(String, String)]) -> Result<()> {
    for (column, other) in wider {
        if !store.session.query(&format!("SELECT 1 FROM {} WHERE {other} LIMIT 1", qualified(name)))?.is_empty() {
            let message = format!("column `{name}.{column}` in the destination holds values that its type at the source does not have");
            return Err(Error::new(ErrorKind::Conflict, message).with_column(column));
        }
    }
    Ok(())
}
