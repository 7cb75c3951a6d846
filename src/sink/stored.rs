//! What a database file holds, as values of the source's types again, and in the order of those values.

use std::sync::Arc;

use super::{Destination, StoredColumn, quoted};
use crate::batch::{Batch, ColumnData, Values};
use crate::schema::{Column, ColumnType, Table, TableName};
use crate::value::{DateTime, Time};
use crate::{Error, ErrorKind, Result};

/// A batch is passed on when it has this many rows or bytes.
const BATCH_ROWS: usize = 8_192;
const BATCH_BYTES: usize = 4 << 20;

/// A value as a destination has it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stored<'a> {
    Null,
    /// A whole number; of a date the days, of a moment the microseconds since 1970, of a time its microseconds.
    Int(i64),
    Real(f64),
    Text(&'a [u8]),
    /// Bits as the digits 0 and 1.
    Bits(&'a [u8]),
    Bytes(&'a [u8]),
}

/// Gathers rows that are read into batches.
pub(super) struct Gather<'a> {
    batch: Batch,
    bytes: usize,
    take: &'a mut dyn FnMut(Batch) -> Result<()>,
}

impl<'a> Gather<'a> {
    pub(super) fn new(table: &Arc<Table>, take: &'a mut dyn FnMut(Batch) -> Result<()>) -> Self {
        Self { batch: Batch::new(Arc::clone(table)), bytes: 0, take }
    }

    /// Adds a row, whose values `value` knows by their column.
    pub(super) fn row<'v>(&mut self, value: impl Fn(usize) -> Result<Stored<'v>>) -> Result<()> {
        let table = Arc::clone(self.batch.table());
        let bytes = &mut self.bytes;
        self.batch.push_row(|columns| {
            for (index, (into, column)) in columns.iter_mut().zip(table.columns()).enumerate() {
                let value = value(index)?;
                *bytes += match value {
                    Stored::Text(bytes) | Stored::Bytes(bytes) | Stored::Bits(bytes) => bytes.len() + 8,
                    _ => 8,
                };
                push(into, column.column_type(), value).map_err(|error| error.with_column(column.name()))?;
            }
            Ok(())
        })?;
        if self.batch.len() >= BATCH_ROWS || self.bytes >= BATCH_BYTES {
            self.pass_on()?;
        }
        Ok(())
    }

    /// Passes on what is left.
    pub(super) fn finish(mut self) -> Result<()> {
        if self.batch.is_empty() { Ok(()) } else { self.pass_on() }
    }

    fn pass_on(&mut self) -> Result<()> {
        self.bytes = 0;
        let next = Batch::with_capacity_of(&self.batch);
        (self.take)(std::mem::replace(&mut self.batch, next))
    }
}

/// Pushes a stored value as one of the source's type.
fn push(into: &mut ColumnData, column_type: &ColumnType, value: Stored<'_>) -> Result<()> {
    let unknown = || Error::new(ErrorKind::Conflict, format!("a value is stored in another form than {column_type} is"));
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| unknown());
    match (column_type, value) {
        (_, Stored::Null) => {
            into.push_null();
            Ok(())
        }
        (ColumnType::Boolean | ColumnType::Int { .. } | ColumnType::Year, Stored::Int(number)) => into.push_int(number),
        (ColumnType::Boolean | ColumnType::Int { .. } | ColumnType::Year, Stored::Text(digits)) => {
            let digits = text(digits)?;
            match (digits.parse(), digits.parse()) {
                (Ok(number), _) => into.push_int(number),
                (_, Ok(number)) => into.push_uint(number),
                _ => Err(unknown()),
            }
        }
        (ColumnType::Bit { width }, Stored::Int(number)) => push_bits(into, *width, u64::try_from(number).map_err(|_| unknown())?),
        (ColumnType::Bit { width }, Stored::Text(digits)) => push_bits(into, *width, text(digits)?.parse().map_err(|_| unknown())?),
        (ColumnType::Bit { width }, Stored::Bits(digits)) => {
            push_bits(into, *width, u64::from_str_radix(text(digits)?, 2).map_err(|_| unknown())?)
        }
        // By way of its shortest decimal form, in which it was stored.
        (ColumnType::Float, Stored::Real(number)) => into.push_float(number.to_string().parse().map_err(|_| unknown())?),
        (ColumnType::Float, Stored::Text(digits)) => into.push_float(text(digits)?.parse().map_err(|_| unknown())?),
        (ColumnType::Double, Stored::Real(number)) => into.push_double(number),
        (ColumnType::Double, Stored::Text(digits)) => into.push_double(text(digits)?.parse().map_err(|_| unknown())?),
        (ColumnType::Date, Stored::Int(days)) => {
            let micros = days.checked_mul(86_400_000_000).ok_or_else(unknown)?;
            into.push_datetime(DateTime::from_unix_micros(micros).ok_or_else(unknown)?)
        }
        (ColumnType::DateTime { .. } | ColumnType::Timestamp { .. }, Stored::Int(micros)) => {
            into.push_datetime(DateTime::from_unix_micros(micros).ok_or_else(unknown)?)
        }
        (ColumnType::Date | ColumnType::DateTime { .. } | ColumnType::Timestamp { .. }, Stored::Text(date)) => {
            into.push_datetime(DateTime::parse(date).ok_or_else(unknown)?)
        }
        (ColumnType::Time { .. }, Stored::Int(micros)) => into.push_time(Time::from_micros(micros).ok_or_else(unknown)?),
        (ColumnType::Time { .. }, Stored::Text(time)) => into.push_time(Time::parse(time).ok_or_else(unknown)?),
        (
            ColumnType::Decimal { .. } | ColumnType::Text { .. } | ColumnType::Enum { .. } | ColumnType::Set { .. } | ColumnType::Json,
            Stored::Text(value),
        ) => into.push_text(text(value)?),
        (ColumnType::Binary { .. } | ColumnType::Geometry | ColumnType::Vector, Stored::Bytes(bytes)) => into.push_bytes(bytes),
        _ => Err(unknown()),
    }
}

fn push_bits(into: &mut ColumnData, width: u8, bits: u64) -> Result<()> {
    let bytes = usize::from(width.div_ceil(8)).min(8);
    into.push_bytes(&bits.to_be_bytes()[8 - bytes..])
}

/// The stored column of a name; names do not regard case in DuckDB and SQLite.
pub(super) fn find<'a>(columns: &'a [StoredColumn], name: &str) -> Option<&'a StoredColumn> {
    let name = name.to_lowercase();
    columns.iter().find(|column| column.name.to_lowercase() == name)
}

/// The stored columns that hold those of a table, in that order.
///
/// # Errors
/// `Conflict` if there is no such table, or one of the columns is missing or of a type that does not hold the source's.
pub(super) fn columns_of(destination: &mut dyn Destination, name: &TableName, table: &Table) -> Result<Vec<StoredColumn>> {
    let Some(stored) = destination.stored_columns(name)? else {
        return Err(Error::new(ErrorKind::Conflict, format!("there is no table `{name}` in the destination")).with_table(name));
    };
    let held = |column: &Column| {
        let declared = destination.declared(column.column_type());
        match find(&stored, column.name()) {
            Some(found) if destination.takes(&found.declared_type, &declared) || destination.appends(&found.declared_type, &declared) => {
                Ok(found.clone())
            }
            found => Err(misfit(name, column, found, &declared)),
        }
    };
    table.columns().iter().map(held).collect()
}

/// What is wrong with the stored column, or that there is none.
pub(super) fn misfit(name: &TableName, column: &Column, found: Option<&StoredColumn>, declared: &str) -> Error {
    let (source, column_type) = (column.name(), column.column_type());
    let message = match found {
        None => format!("`{name}` in the destination has no column `{source}`, which is {column_type} at the source"),
        Some(StoredColumn { declared_type, .. }) => format!(
            "column `{name}.{source}` is {declared_type} in the destination, but {column_type} at the source, which is stored as {declared}"
        ),
    };
    Error::new(ErrorKind::Conflict, message).with_table(name).with_column(source)
}

/// Rows of the source as they are once they are read back from columns of these declared types.
pub(super) fn normalised(mut batch: Batch, declared: &[&str]) -> Result<Batch> {
    for (index, declared) in declared.iter().enumerate() {
        let column = &batch.columns()[index];
        let changed: Vec<usize> = match (column.values(), *declared) {
            // Dates that no calendar has are NULL there.
            (Values::DateTime(dates), "DATE" | "TIMESTAMP" | "TIMESTAMP WITH TIME ZONE") => {
                (0..dates.len()).filter(|&row| column.is_valid(row) && dates[row].unix_days().is_none()).collect()
            }
            // SQLite stores zero without its sign.
            (Values::Float(numbers), "REAL") => (0..numbers.len()).filter(|&row| is_minus_zero(numbers[row].into())).collect(),
            (Values::Double(numbers), "REAL") => (0..numbers.len()).filter(|&row| is_minus_zero(numbers[row])).collect(),
            _ => Vec::new(),
        };
        if changed.is_empty() {
            continue;
        }
        let mut value = ColumnData::new(batch.table().columns()[index].column_type());
        match column.values() {
            Values::Float(_) => value.push_float(0.0)?,
            Values::Double(_) => value.push_double(0.0)?,
            _ => value.push_null(),
        }
        batch.replace(index, &value, &changed.into_iter().map(|row| (row, 0)).collect())?;
    }
    Ok(batch)
}

fn is_minus_zero(number: f64) -> bool {
    number == 0.0 && number.is_sign_negative()
}

/// How the stored values of a column are compared so that the order is that of the source's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// As the destination does.
    Own,
    /// Text, or text beside numbers, with the digits of a number or a time: those with more are further from zero.
    Digits,
    /// Text with dates, of which those that no calendar has are left out.
    Dates,
}

impl Order {
    pub(super) fn of(column_type: &ColumnType, stored: &str) -> Self {
        let is_text = matches!(stored, "TEXT" | "VARCHAR" | "ANY");
        match column_type {
            ColumnType::Decimal { .. } | ColumnType::Time { .. } | ColumnType::Int { .. } if is_text => Self::Digits,
            ColumnType::Date | ColumnType::DateTime { .. } | ColumnType::Timestamp { .. } if is_text => Self::Dates,
            _ => Self::Own,
        }
    }

    /// Whether a value takes part in the order, as SQL.
    pub(super) fn is_ordered(self, column: &str) -> String {
        let column = quoted(column);
        match self {
            Self::Own | Self::Digits => format!("{column} IS NOT NULL"),
            Self::Dates => {
                let (year, month, day) = (
                    format!("CAST(substr({column}, 1, 4) AS INTEGER)"),
                    format!("substr({column}, 6, 2)"),
                    format!("substr({column}, 9, 2)"),
                );
                let is_leap = format!("{year} % 4 = 0 AND ({year} % 100 <> 0 OR {year} % 400 = 0)");
                format!(
                    "{column} IS NOT NULL AND {month} <> '00' AND {day} <> '00' AND {day} <= CASE WHEN {month} IN ('04', '06', '09', '11') THEN '30' \
                     WHEN {month} <> '02' THEN '31' WHEN {is_leap} THEN '29' ELSE '28' END"
                )
            }
        }
    }

    /// What follows `ORDER BY` so that the greatest value of a column, as SQL, comes first.
    pub(super) fn descending(self, column: &str) -> String {
        match self {
            Self::Own | Self::Dates => format!("{column} DESC"),
            Self::Digits => format!("{0} DESC, CASE WHEN {0} < 0 THEN {column} END, {column} DESC", signed_length(column)),
        }
    }

    /// A comparison of a column with an expression of the same form, both as SQL. `operator` is one of `<`, `<=`, `>` and `>=`.
    pub(super) fn compared(self, column: &str, operator: &str, with: &str) -> String {
        let Self::Digits = self else { return format!("{column} {operator} {with}") };
        let (one, other) = (signed_length(column), signed_length(with));
        let strictly = operator.trim_end_matches('=');
        let back = if strictly == "<" { operator.replace('<', ">") } else { operator.replace('>', "<") };
        format!(
            "({one} {strictly} {other} OR {one} = {other} AND CASE WHEN {one} < 0 THEN {column} {back} {with} ELSE {column} {operator} {with} END)"
        )
    }
}

/// The number of digits, below zero for negative numbers.
fn signed_length(value: &str) -> String {
    format!("(CASE WHEN {value} LIKE '-%' THEN -length({value}) ELSE length({value}) END)")
}
