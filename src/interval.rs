//! Which rows of a table to move, by the values of one column.

use crate::schema::{Column, ColumnType, Table};
use crate::value::{DateTime, Time, ValueRef};
use crate::{Error, ErrorKind, Result};

/// Rows whose value in one column lies between two bounds. NULL lies in no interval, not even in one without bounds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Interval {
    /// The column, as the table names it.
    column: Column,
    start: Option<Bound>,
    end: Option<Bound>,
}

/// Where an interval begins or ends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bound {
    pub(crate) value: BoundValue,
    /// Whether rows with the value itself are in the interval.
    pub(crate) is_inclusive: bool,
}

/// A value that owns what it holds, of a type that has an order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum BoundValue {
    Int(i64),
    UInt(u64),
    Float(f32),
    Double(f64),
    /// Digits, with an optional minus and point.
    Decimal(String),
    Date(DateTime),
    DateTime(DateTime),
    /// In UTC.
    Timestamp(DateTime),
    Time(Time),
    Text(String),
    Bytes(Vec<u8>),
}

impl BoundValue {
    /// Reads what a user writes for a value of the column's type: as MySQL prints it. A `T` may stand between date and time, `Z` or `+00:00` after them, and
    /// a date alone is its midnight.
    ///
    /// # Errors
    /// `Config` if the text is none of the type, or values of the type have no order.
    pub(crate) fn parse(column: &Column, text: &str) -> Result<Self> {
        let wrong = |what: &str| {
            let message = format!("`{text}` is not {what}, of which column `{}` ({}) is", column.name(), column.column_type());
            Error::config(message).with_column(column.name())
        };
        match column.column_type() {
            ColumnType::Int { bits: 64, unsigned: true } => text.parse().map(Self::UInt).map_err(|_| wrong("a whole number")),
            ColumnType::Int { .. } | ColumnType::Year => text.parse().map(Self::Int).map_err(|_| wrong("a whole number")),
            ColumnType::Decimal { .. } => match is_decimal(text) {
                true => Ok(Self::Decimal(text.to_owned())),
                false => Err(wrong("a decimal number")),
            },
            ColumnType::Float => number(text).map(Self::Float).ok_or_else(|| wrong("a number")),
            ColumnType::Double => number(text).map(Self::Double).ok_or_else(|| wrong("a number")),
            ColumnType::Date => moment(text).filter(is_midnight).map(Self::Date).ok_or_else(|| wrong("a date")),
            ColumnType::DateTime { .. } => moment(text).map(Self::DateTime).ok_or_else(|| wrong("a date and time")),
            ColumnType::Timestamp { .. } => moment(text).map(Self::Timestamp).ok_or_else(|| wrong("a date and time")),
            ColumnType::Time { .. } => Time::parse(text.as_bytes()).map(Self::Time).ok_or_else(|| wrong("a time")),
            ColumnType::Text { .. } => Ok(Self::Text(text.to_owned())),
            ColumnType::Binary { .. } => Ok(Self::Bytes(text.as_bytes().to_vec())),
            other => {
                let message = format!("column `{}` is {other}, whose values have no order that an interval could follow", column.name());
                Err(Error::config(message).with_column(column.name()))
            }
        }
    }

    /// A copy of a value; `None` if it is NULL or of a type without an order.
    pub(crate) fn of(value: ValueRef<'_>) -> Option<Self> {
        Some(match value {
            ValueRef::Int(number) => Self::Int(number),
            ValueRef::UInt(number) => Self::UInt(number),
            ValueRef::Float(number) => Self::Float(number),
            ValueRef::Double(number) => Self::Double(number),
            ValueRef::Decimal(text) => Self::Decimal(text.to_owned()),
            ValueRef::Date(date) => Self::Date(date),
            ValueRef::DateTime(at) => Self::DateTime(at),
            ValueRef::Timestamp(at) => Self::Timestamp(at),
            ValueRef::Time(time) => Self::Time(time),
            ValueRef::Text(text) => Self::Text(text.to_owned()),
            ValueRef::Bytes(bytes) => Self::Bytes(bytes.to_vec()),
            _ => return None,
        })
    }
}

impl Interval {
    /// The rows of a table whose column is between the bounds that were given, both inclusive.
    ///
    /// # Errors
    /// `Schema` if there is no such column; `Config` if a bound is no value of it, or the column has no order.
    pub(crate) fn of(table: &Table, column: &str, start: Option<&str>, end: Option<&str>) -> Result<Self> {
        let Some(found) = table.column_index(column).and_then(|index| table.columns().get(index)) else {
            let message = format!("table `{}` has no column `{column}` to be its incremental key", table.name());
            return Err(Error::new(ErrorKind::Schema, message).with_table(table.name()).with_column(column));
        };
        let bound = |text: &str| BoundValue::parse(found, text).map(|value| Bound { value, is_inclusive: true });
        // Also of a column without bounds, so that one without an order is refused before anything is read.
        let (start, end) = (start.map(bound).transpose()?, end.map(bound).transpose()?);
        if matches!(found.column_type(), ColumnType::Json | ColumnType::Geometry | ColumnType::Vector | ColumnType::Bit { .. })
            || matches!(found.column_type(), ColumnType::Enum { .. } | ColumnType::Set { .. } | ColumnType::Boolean)
        {
            BoundValue::parse(found, "")?;
        }
        Ok(Self { column: found.clone(), start, end })
    }

    /// The same interval, beginning elsewhere.
    #[must_use]
    pub(crate) fn starting_at(mut self, start: Bound) -> Self {
        self.start = Some(start);
        self
    }

    /// The column whose values are compared.
    pub(crate) fn column(&self) -> &Column {
        &self.column
    }

    /// Where it begins; `None` with the least value.
    pub(crate) fn start(&self) -> Option<&Bound> {
        self.start.as_ref()
    }

    /// Where it ends; `None` with the greatest value.
    pub(crate) fn end(&self) -> Option<&Bound> {
        self.end.as_ref()
    }
}

fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    [whole, fraction].iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A number that is neither infinite nor none at all: MySQL has no others.
fn number<T: std::str::FromStr + Into<f64> + Copy>(text: &str) -> Option<T> {
    text.parse().ok().filter(|&number: &T| number.into().is_finite())
}

fn is_midnight(at: &DateTime) -> bool {
    (at.hour(), at.minute(), at.second(), at.micros()) == (0, 0, 0, 0)
}

fn moment(text: &str) -> Option<DateTime> {
    let text = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00")).unwrap_or(text);
    let mut text = text.replacen('T', " ", 1);
    if text.len() == "2024-01-01".len() {
        text.push_str(" 00:00:00");
    }
    DateTime::parse(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(column_type: ColumnType, text: &str) -> Result<BoundValue> {
        BoundValue::parse(&Column::new("c", column_type, true), text)
    }

    #[test]
    fn bounds_are_read_as_values_of_the_columns_type() {
        let day = DateTime::from_date(2024, 2, 29).unwrap();
        let noon = DateTime::new(2024, 2, 29, 12, 0, 0, 500_000).unwrap();
        let datetime = ColumnType::DateTime { fraction: 6 };
        assert_eq!(parsed(ColumnType::Int { bits: 64, unsigned: true }, "18446744073709551615").unwrap(), BoundValue::UInt(u64::MAX));
        assert_eq!(parsed(ColumnType::Int { bits: 32, unsigned: false }, "-7").unwrap(), BoundValue::Int(-7));
        assert_eq!(parsed(ColumnType::Date, "2024-02-29").unwrap(), BoundValue::Date(day));
        assert_eq!(parsed(datetime.clone(), "2024-02-29").unwrap(), BoundValue::DateTime(day));
        assert_eq!(parsed(datetime.clone(), "2024-02-29 12:00:00.5").unwrap(), BoundValue::DateTime(noon));
        assert_eq!(parsed(datetime, "2024-02-29T12:00:00.5Z").unwrap(), BoundValue::DateTime(noon));
        assert_eq!(parsed(ColumnType::Decimal { precision: 5, scale: 2 }, "-1.5").unwrap(), BoundValue::Decimal("-1.5".to_owned()));
    }

    #[test]
    fn text_that_is_no_value_is_refused_by_name() {
        for (column_type, text) in [
            (ColumnType::Int { bits: 32, unsigned: false }, "1 OR 1=1"),
            (ColumnType::Date, "2024-02-29 12:00:00"),
            (ColumnType::Date, "yesterday"),
            (ColumnType::Decimal { precision: 5, scale: 2 }, "1e5"),
            (ColumnType::Double, "NaN"),
            (ColumnType::Json, "{}"),
        ] {
            let error = parsed(column_type, text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains("`c`"), "{error}");
        }
    }
}
