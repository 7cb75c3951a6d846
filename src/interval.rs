//! Which rows of a table to move, by the values of one column.

use std::cmp::Ordering;

use crate::batch::{Batch, ColumnData};
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

/// Where a text that a user wrote lies: the nearest value of the column that is not beyond it, and on which side of that it is.
type Nearest = (BoundValue, Ordering);

impl BoundValue {
    /// Reads what a user writes for a value of the column's type: as MySQL prints it. A `T` may stand between date and time, `Z` or `+00:00` after them, and
    /// a date alone is its midnight. A number or a moment that lies between two values of the column, or beyond all, is allowed: the result says how it
    /// compares with the value beside it.
    ///
    /// # Errors
    /// `Config` if the text is none of the type, or values of the type have no order.
    pub(crate) fn parse(column: &Column, text: &str) -> Result<Nearest> {
        let wrong = |what: &str| {
            let message = format!("`{text}` is not {what}, of which column `{}` ({}) is", column.name(), column.column_type());
            Error::config(message).with_column(column.name())
        };
        let exact = |value| (value, Ordering::Equal);
        match column.column_type() {
            ColumnType::Int { .. } | ColumnType::Year => whole(column.column_type(), text).ok_or_else(|| wrong("a whole number")),
            ColumnType::Decimal { precision, scale } => {
                decimal(text, usize::from(*precision), usize::from(*scale)).ok_or_else(|| wrong("a decimal number"))
            }
            ColumnType::Float => number(text).map(|value| exact(Self::Float(value))).ok_or_else(|| wrong("a number")),
            ColumnType::Double => number(text).map(|value| exact(Self::Double(value))).ok_or_else(|| wrong("a number")),
            ColumnType::Date => {
                let at = moment(text).ok_or_else(|| wrong("a date"))?;
                let day = at.truncated_to_day();
                Ok((Self::Date(day), at.cmp(&day)))
            }
            ColumnType::DateTime { fraction } => {
                let at = moment(text).ok_or_else(|| wrong("a date and time"))?;
                let kept = at.truncated(*fraction);
                Ok((Self::DateTime(kept), at.cmp(&kept)))
            }
            ColumnType::Timestamp { fraction } => {
                let at = moment(text).ok_or_else(|| wrong("a date and time"))?;
                let kept = at.truncated(*fraction);
                Ok((Self::Timestamp(kept), at.cmp(&kept)))
            }
            ColumnType::Time { fraction } => {
                let time = Time::parse(text.as_bytes()).ok_or_else(|| wrong("a time"))?;
                let kept = time.truncated(*fraction);
                Ok((Self::Time(kept), time.cmp(&kept)))
            }
            ColumnType::Text { .. } => Ok(exact(Self::Text(text.to_owned()))),
            ColumnType::Binary { .. } => Ok(exact(Self::Bytes(text.as_bytes().to_vec()))),
            other => {
                let message = format!("column `{}` is {other}, whose values have no order that an interval could follow", column.name());
                Err(Error::config(message).with_column(column.name()))
            }
        }
    }

    /// The order of two values of one column; `None` if they are of different kinds.
    pub(crate) fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(one), Self::Int(other)) => Some(one.cmp(other)),
            (Self::UInt(one), Self::UInt(other)) => Some(one.cmp(other)),
            (Self::Float(one), Self::Float(other)) => one.partial_cmp(other),
            (Self::Double(one), Self::Double(other)) => one.partial_cmp(other),
            (Self::Decimal(one), Self::Decimal(other)) => Some(order_of_decimals(one, other)),
            (Self::Date(one), Self::Date(other))
            | (Self::DateTime(one), Self::DateTime(other))
            | (Self::Timestamp(one), Self::Timestamp(other)) => Some(one.cmp(other)),
            (Self::Time(one), Self::Time(other)) => Some(one.cmp(other)),
            (Self::Text(one), Self::Text(other)) => Some(one.as_bytes().cmp(other.as_bytes())),
            (Self::Bytes(one), Self::Bytes(other)) => Some(one.cmp(other)),
            _ => None,
        }
    }

    /// Puts the value into a column of a batch.
    pub(crate) fn push_to(&self, column: &mut ColumnData) -> Result<()> {
        match self {
            Self::Int(number) => column.push_int(*number),
            Self::UInt(number) => column.push_uint(*number),
            Self::Float(number) => column.push_float(*number),
            Self::Double(number) => column.push_double(*number),
            Self::Decimal(text) | Self::Text(text) => column.push_text(text),
            Self::Date(at) | Self::DateTime(at) | Self::Timestamp(at) => column.push_datetime(*at),
            Self::Time(time) => column.push_time(*time),
            Self::Bytes(bytes) => column.push_bytes(bytes),
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
    /// `Schema` if there is no such column; `Config` if a bound is no value of it, the start lies after the end, or the column has no order, or another
    /// than what is read of it.
    pub(crate) fn of(table: &Table, column: &str, start: Option<&str>, end: Option<&str>) -> Result<Self> {
        let Some(found) = table.column(column) else {
            let message = format!("table `{}` has no column `{column}` to be its incremental key", table.name());
            return Err(Error::new(ErrorKind::Schema, message).with_table(table.name()).with_column(column));
        };
        if let Some(printed) = found.printed() {
            let message = format!(
                "column `{}` is {printed} at the source, whose values are read as text: that has another order than they have, so no interval can \
                 follow it",
                found.name()
            );
            return Err(Error::config(message).with_table(table.name()).with_column(found.name()));
        }
        if start.is_none() && end.is_none() && !has_order(found.column_type()) {
            // Refused in the same words as with a bound, before anything is read.
            BoundValue::parse(found, "")?;
        }
        let bound = |text: &str, inclusive_beside: Ordering, option: &str| {
            let (value, side) = BoundValue::parse(found, text).map_err(|error| {
                Error::config(format!("`{option}` cannot be taken")).with_table(table.name()).with_column(column).with_cause(error)
            })?;
            Ok::<_, Error>(Bound { value, is_inclusive: side == Ordering::Equal || side == inclusive_beside })
        };
        // The value beside a start that lies below it is in the interval, and beside an end that lies above it.
        let start = start.map(|text| bound(text, Ordering::Less, "interval_start")).transpose()?;
        let end = end.map(|text| bound(text, Ordering::Greater, "interval_end")).transpose()?;
        if let (Some(start), Some(end)) = (&start, &end)
            && start.value.order(&end.value) == Some(Ordering::Greater)
        {
            let message = format!("`interval_start` lies after `interval_end`: no value of `{}.{column}` is between them", table.name());
            return Err(Error::config(message).with_table(table.name()).with_column(column));
        }
        Ok(Self { column: found.clone(), start, end })
    }

    /// The same interval, beginning elsewhere.
    #[must_use]
    pub(crate) fn starting_at(mut self, start: Bound) -> Self {
        self.start = Some(start);
        self
    }

    /// Whether a value of the column, as it is stored, lies in the interval.
    pub(crate) fn contains(&self, value: ValueRef<'_>) -> bool {
        let Some(value) = BoundValue::of(value) else { return false };
        let is_moment = match value {
            BoundValue::Date(at) | BoundValue::DateTime(at) | BoundValue::Timestamp(at) => at.unix_days().is_some(),
            _ => true,
        };
        let is_within = |bound: &Option<Bound>, side: Ordering| {
            bound.as_ref().is_none_or(|bound| {
                value.order(&bound.value).is_some_and(|order| order == side || order == Ordering::Equal && bound.is_inclusive)
            })
        };
        is_moment && is_within(&self.start, Ordering::Greater) && is_within(&self.end, Ordering::Less)
    }

    /// The rows of a batch whose value in the column at `column` lies in the interval.
    pub(crate) fn only(&self, batch: &Batch, column: usize) -> Batch {
        let within: Vec<usize> = (0..batch.len()).filter(|&row| self.contains(batch.value(row, column))).collect();
        batch.gather(&within)
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

/// Whether values of a type have one that is the same at the source and at every destination.
fn has_order(column_type: &ColumnType) -> bool {
    !matches!(
        column_type,
        ColumnType::Json
            | ColumnType::Geometry
            | ColumnType::Vector
            | ColumnType::Bit { .. }
            | ColumnType::Enum { .. }
            | ColumnType::Set { .. }
            | ColumnType::Boolean
    )
}

/// A whole number, or the end of the type's range that it lies beyond.
fn whole(column_type: &ColumnType, text: &str) -> Option<Nearest> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Digits without end are beyond every type.
    let beyond = if negative { i128::MIN } else { i128::MAX };
    let number: i128 = text.parse().unwrap_or(beyond);
    let (least, greatest) = match column_type {
        ColumnType::Int { bits, unsigned: true } => (0, (1_i128 << bits) - 1),
        ColumnType::Int { bits, unsigned: false } => (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1),
        _ => (0, 2155),
    };
    let kept = number.clamp(least, greatest);
    let value = match column_type {
        ColumnType::Int { bits: 64, unsigned: true } => BoundValue::UInt(u64::try_from(kept).ok()?),
        _ => BoundValue::Int(i64::try_from(kept).ok()?),
    };
    Some((value, number.cmp(&kept)))
}

/// A decimal number with the digits that the column has, or the end of the column's range that it lies beyond.
fn decimal(text: &str, precision: usize, scale: usize) -> Option<Nearest> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    if [whole, fraction].iter().any(|part| part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit())) {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    let places = precision.checked_sub(scale)?;
    let (whole, fraction, is_cut) = if whole.len() > places {
        ("9".repeat(places), "9".repeat(scale), true)
    } else {
        let kept = fraction.get(..scale).unwrap_or(fraction);
        let is_cut = fraction[kept.len()..].bytes().any(|byte| byte != b'0');
        (whole.to_owned(), format!("{kept:0<scale$}"), is_cut)
    };
    let is_zero = whole.bytes().chain(fraction.bytes()).all(|byte| byte == b'0');
    let sign = if negative && !is_zero { "-" } else { "" };
    let whole = if whole.is_empty() { "0" } else { &whole };
    let number = if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") };
    let side = match (is_cut, negative) {
        (false, _) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (true, true) => Ordering::Less,
    };
    Some((BoundValue::Decimal(number), side))
}

/// The order of two decimals with the same number of digits after the point and no zeros in front.
fn order_of_decimals(one: &str, other: &str) -> Ordering {
    let size = |text: &str| (text.len(), text.to_owned());
    match (one.strip_prefix('-'), other.strip_prefix('-')) {
        (Some(one), Some(other)) => size(other).cmp(&size(one)),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => size(one).cmp(&size(other)),
    }
}

/// A number that is neither infinite nor none at all: MySQL has no others.
fn number<T: std::str::FromStr + Into<f64> + Copy>(text: &str) -> Option<T> {
    text.parse().ok().filter(|&number: &T| number.into().is_finite())
}

/// A moment that a calendar has.
fn moment(text: &str) -> Option<DateTime> {
    let text = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00")).unwrap_or(text);
    let mut text = text.replacen('T', " ", 1);
    if text.len() == "2024-01-01".len() {
        text.push_str(" 00:00:00");
    }
    DateTime::parse(text.as_bytes()).filter(|at| at.unix_days().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(column_type: ColumnType, text: &str) -> Result<Nearest> {
        BoundValue::parse(&Column::new("c", column_type, true), text)
    }

    const SIGNED: ColumnType = ColumnType::Int { bits: 32, unsigned: false };
    const UNSIGNED: ColumnType = ColumnType::Int { bits: 64, unsigned: true };
    const DECIMAL: ColumnType = ColumnType::Decimal { precision: 5, scale: 2 };

    #[test]
    fn bounds_are_read_as_values_of_the_columns_type() {
        let day = DateTime::from_date(2024, 2, 29).unwrap();
        let noon = DateTime::new(2024, 2, 29, 12, 0, 0, 500_000).unwrap();
        let datetime = ColumnType::DateTime { fraction: 6 };
        for (column_type, text, expected) in [
            (UNSIGNED, "18446744073709551615", BoundValue::UInt(u64::MAX)),
            (SIGNED, "-7", BoundValue::Int(-7)),
            (ColumnType::Date, "2024-02-29", BoundValue::Date(day)),
            (datetime.clone(), "2024-02-29", BoundValue::DateTime(day)),
            (datetime.clone(), "2024-02-29 12:00:00.5", BoundValue::DateTime(noon)),
            (datetime, "2024-02-29T12:00:00.5Z", BoundValue::DateTime(noon)),
            (DECIMAL, "-1.5", BoundValue::Decimal("-1.50".to_owned())),
            (DECIMAL, "-000.000", BoundValue::Decimal("0.00".to_owned())),
            (ColumnType::Decimal { precision: 3, scale: 0 }, "7.0", BoundValue::Decimal("7".to_owned())),
        ] {
            assert_eq!(parsed(column_type, text).unwrap(), (expected, Ordering::Equal), "{text}");
        }
    }

    #[test]
    fn what_lies_between_two_values_or_beyond_all_says_on_which_side() {
        let second = DateTime::new(2024, 2, 29, 23, 59, 59, 0).unwrap();
        let day = DateTime::from_date(2024, 2, 29).unwrap();
        for (column_type, text, expected, side) in [
            (SIGNED, "9999999999", BoundValue::Int(i32::MAX.into()), Ordering::Greater),
            (SIGNED, "-99999999999999999999999999999999999999999999", BoundValue::Int(i32::MIN.into()), Ordering::Less),
            (UNSIGNED, "-1", BoundValue::UInt(0), Ordering::Less),
            (DECIMAL, "1.555", BoundValue::Decimal("1.55".to_owned()), Ordering::Greater),
            (DECIMAL, "-1.555", BoundValue::Decimal("-1.55".to_owned()), Ordering::Less),
            (DECIMAL, "12345", BoundValue::Decimal("999.99".to_owned()), Ordering::Greater),
            (ColumnType::Date, "2024-02-29 12:00:00", BoundValue::Date(day), Ordering::Greater),
            (ColumnType::DateTime { fraction: 0 }, "2024-02-29 23:59:59.999", BoundValue::DateTime(second), Ordering::Greater),
            (ColumnType::Time { fraction: 0 }, "-00:00:01.5", BoundValue::Time(Time::parse(b"-00:00:01").unwrap()), Ordering::Less),
        ] {
            assert_eq!(parsed(column_type, text).unwrap(), (expected, side), "{text}");
        }
    }

    #[test]
    fn a_bound_beside_a_value_includes_it_only_from_the_outside() {
        let table = Table::new("t", vec![Column::new("c", DECIMAL, true)]);
        let bounds = |start: &str, end: &str| {
            let interval = Interval::of(&table, "C", Some(start), Some(end)).unwrap();
            (interval.start().unwrap().is_inclusive, interval.end().unwrap().is_inclusive)
        };
        assert_eq!(bounds("1.55", "1.56"), (true, true));
        // 1.55 lies below 1.555 and so outside; -1.55 lies above -1.555 and so inside.
        assert_eq!(bounds("1.555", "1.565"), (false, true));
        assert_eq!(bounds("-1.555", "-1.545"), (true, false));
    }

    #[test]
    fn an_interval_contains_what_lies_between_its_bounds() {
        let table = Table::new("t", vec![Column::new("c", DECIMAL, true), Column::new("d", ColumnType::Date, true)]);
        let interval = Interval::of(&table, "c", Some("-1.555"), Some("10")).unwrap();
        for (value, expected) in [("-1.56", false), ("-1.55", true), ("9.00", true), ("10.00", true), ("10.01", false), ("100.00", false)] {
            assert_eq!(interval.contains(ValueRef::Decimal(value)), expected, "{value}");
        }
        assert!(!interval.contains(ValueRef::Null));
        let dates = Interval::of(&table, "d", None, None).unwrap();
        assert!(dates.contains(ValueRef::Date(DateTime::from_date(2024, 2, 29).unwrap())));
        assert!(!dates.contains(ValueRef::Date(DateTime::from_date(2024, 2, 30).unwrap())));
        assert!(!dates.contains(ValueRef::Null));
    }

    #[test]
    fn values_are_ordered_as_numbers() {
        let ascending = ["-12.00", "-9.99", "-0.01", "0.00", "0.10", "9.99", "12.00"];
        for (at, one) in ascending.iter().enumerate() {
            for (other_at, other) in ascending.iter().enumerate() {
                assert_eq!(order_of_decimals(one, other), at.cmp(&other_at), "{one} {other}");
            }
        }
    }

    #[test]
    fn an_interval_that_ends_before_it_starts_is_refused() {
        let table = Table::new("t", vec![Column::new("c", SIGNED, true)]);
        let error = Interval::of(&table, "c", Some("10"), Some("9")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("`interval_start`"), "{error}");
        assert!(Interval::of(&table, "c", Some("9"), Some("9")).is_ok());
        assert_eq!(Interval::of(&table, "d", None, None).unwrap_err().kind(), ErrorKind::Schema);
    }

    #[test]
    fn text_that_is_no_value_is_refused_by_name() {
        for (column_type, text) in [
            (SIGNED, "1 OR 1=1"),
            (SIGNED, "-"),
            (SIGNED, "+1"),
            (ColumnType::Date, "yesterday"),
            (ColumnType::Date, "2024-02-30"),
            (ColumnType::DateTime { fraction: 0 }, "0000-00-00 00:00:00"),
            (DECIMAL, "1e5"),
            (DECIMAL, "."),
            (ColumnType::Double, "NaN"),
            (ColumnType::Json, "{}"),
        ] {
            let error = parsed(column_type, text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains("`c`"), "{error}");
        }
    }
}
