//! Values of DuckDB's vectors into columns.

use std::fmt::Write;

use crate::batch::ColumnData;
use crate::libduckdb::read::{DataChunk, Logical};
use crate::libduckdb::{HugeInt, Interval};
use crate::place::IntervalType;
use crate::policy::ZeroDates;
use crate::schema::ColumnType;
use crate::source::{not_finite, push_moment};
use crate::value::{DateTime, Time};
use crate::{Error, Result};

/// What a column is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// In DuckDB's own form, by its type.
    Native,
    /// As text, of which DuckDB makes it.
    Text,
    /// As JSON, of which DuckDB makes it.
    Json,
}

/// How a column is read. `width` is that of all its bits.
pub(super) fn plan(logical: &Logical, width: Option<u8>, interval_type: IntervalType) -> (Form, ColumnType) {
    let native = |column_type: ColumnType| (Form::Native, column_type);
    let text = (Form::Text, ColumnType::Text { length: None });
    match logical {
        Logical::Boolean => native(ColumnType::Boolean),
        Logical::Int { bits, unsigned } => native(ColumnType::Int { bits: *bits, unsigned: *unsigned }),
        Logical::HugeInt | Logical::UHugeInt => native(ColumnType::Decimal { precision: 39, scale: 0 }),
        Logical::Float => native(ColumnType::Float),
        Logical::Double => native(ColumnType::Double),
        // MySQL has no more digits after the point.
        Logical::Decimal { width, scale, .. } if *scale <= 30 => native(ColumnType::Decimal { precision: *width, scale: *scale }),
        Logical::Date => native(ColumnType::Date),
        Logical::Time => native(ColumnType::Time { fraction: 6 }),
        Logical::TimestampSeconds => native(ColumnType::DateTime { fraction: 0 }),
        Logical::TimestampMillis => native(ColumnType::DateTime { fraction: 3 }),
        Logical::Timestamp | Logical::TimestampNanos => native(ColumnType::DateTime { fraction: 6 }),
        Logical::TimestampTz => native(ColumnType::Timestamp { fraction: 6 }),
        Logical::Interval if interval_type == IntervalType::Time => native(ColumnType::Time { fraction: 6 }),
        Logical::Uuid => native(ColumnType::Text { length: Some(36) }),
        Logical::Varchar => text,
        Logical::Json => native(ColumnType::Json),
        Logical::Blob => native(ColumnType::Binary { fixed: None }),
        Logical::Bit => width.map_or(text, |width| native(ColumnType::Bit { width })),
        Logical::Enum { members, .. } => native(ColumnType::Enum { members: members.clone() }),
        Logical::Nested => (Form::Json, ColumnType::Json),
        Logical::Decimal { .. } | Logical::Interval | Logical::Other => text,
    }
}

/// Appends a column of a chunk; returns about how many bytes it takes.
///
/// # Errors
/// `Decode`, without the value.
pub(super) fn fill(
    column: &mut ColumnData,
    chunk: &DataChunk<'_>,
    index: usize,
    logical: &Logical,
    form: Form,
    zero_dates: ZeroDates,
) -> Result<usize> {
    match (form, logical) {
        (Form::Native, logical) => native(column, chunk, index, logical, zero_dates),
        (Form::Text, Logical::Varchar) => strings(column, chunk, index),
        (Form::Json, Logical::Json | Logical::Varchar) => strings(column, chunk, index),
        _ => Err(Error::protocol("DuckDB answers with another type than was asked for")),
    }
}

fn native(column: &mut ColumnData, chunk: &DataChunk<'_>, index: usize, logical: &Logical, zero_dates: ZeroDates) -> Result<usize> {
    match logical {
        Logical::Boolean => each(column, chunk.fixed::<u8>(index), |column, value| column.push_int(i64::from(value != 0))),
        Logical::Int { bits: 8, unsigned: false } => each(column, chunk.fixed::<i8>(index), |column, value| column.push_int(value.into())),
        Logical::Int { bits: 16, unsigned: false } => {
            each(column, chunk.fixed::<i16>(index), |column, value| column.push_int(value.into()))
        }
        Logical::Int { bits: 32, unsigned: false } => {
            each(column, chunk.fixed::<i32>(index), |column, value| column.push_int(value.into()))
        }
        Logical::Int { unsigned: false, .. } => each(column, chunk.fixed::<i64>(index), ColumnData::push_int),
        Logical::Int { bits: 8, unsigned: true } => each(column, chunk.fixed::<u8>(index), |column, value| column.push_int(value.into())),
        Logical::Int { bits: 16, unsigned: true } => each(column, chunk.fixed::<u16>(index), |column, value| column.push_int(value.into())),
        Logical::Int { bits: 32, unsigned: true } => each(column, chunk.fixed::<u32>(index), |column, value| column.push_int(value.into())),
        Logical::Int { .. } => each(column, chunk.fixed::<u64>(index), ColumnData::push_uint),
        Logical::HugeInt => decimals(column, chunk.fixed::<HugeInt>(index).map(|value| value.map(HugeInt::signed)), 0),
        Logical::UHugeInt => {
            let mut text = String::new();
            each(column, chunk.fixed::<HugeInt>(index), |column, value| {
                text.clear();
                // Writing to a string cannot fail.
                let _ = write!(text, "{}", value.unsigned());
                column.push_text(&text)
            })
        }
        Logical::Float => each(column, chunk.fixed::<f32>(index), |column, value| match value.is_finite() {
            true => column.push_float(value),
            false => Err(not_finite(value.is_nan())),
        }),
        Logical::Double => each(column, chunk.fixed::<f64>(index), |column, value| match value.is_finite() {
            true => column.push_double(value),
            false => Err(not_finite(value.is_nan())),
        }),
        Logical::Decimal { scale, bits: 16, .. } => decimals(column, chunk.fixed::<i16>(index).map(|value| value.map(i128::from)), *scale),
        Logical::Decimal { scale, bits: 32, .. } => decimals(column, chunk.fixed::<i32>(index).map(|value| value.map(i128::from)), *scale),
        Logical::Decimal { scale, bits: 64, .. } => decimals(column, chunk.fixed::<i64>(index).map(|value| value.map(i128::from)), *scale),
        Logical::Decimal { scale, .. } => decimals(column, chunk.fixed::<HugeInt>(index).map(|value| value.map(HugeInt::signed)), *scale),
        Logical::Date => each(column, chunk.fixed::<i32>(index), |column, days| {
            let micros = i64::from(days).checked_mul(86_400_000_000);
            push_moment(column, micros.and_then(DateTime::from_unix_micros), zero_dates)
        }),
        Logical::Time => each(column, chunk.fixed::<i64>(index), |column, micros| {
            column.push_time(Time::from_micros(micros).ok_or_else(|| Error::decode("a time is beyond those that MySQL has"))?)
        }),
        Logical::Timestamp | Logical::TimestampTz => moments(column, chunk, index, zero_dates, Some),
        Logical::TimestampSeconds => moments(column, chunk, index, zero_dates, |seconds| seconds.checked_mul(1_000_000)),
        Logical::TimestampMillis => moments(column, chunk, index, zero_dates, |millis| millis.checked_mul(1_000)),
        Logical::TimestampNanos => each(column, chunk.fixed::<i64>(index), |column, nanos| {
            // Infinity is the largest number, and its negative.
            if nanos.rem_euclid(1_000) != 0 && nanos.unsigned_abs() < i64::MAX.unsigned_abs() {
                return Err(Error::decode(
                    "a moment lies between two microseconds, which is more than MySQL has; `zero_dates=text` reads all digits",
                ));
            }
            let micros = (nanos.unsigned_abs() < i64::MAX.unsigned_abs()).then(|| nanos.div_euclid(1_000));
            push_moment(column, micros.and_then(DateTime::from_unix_micros), zero_dates)
        }),
        Logical::Interval => each(column, chunk.fixed::<Interval>(index), |column, interval| {
            let time = interval.as_micros().and_then(Time::from_micros);
            let refused = "an interval has months or days, or is longer than MySQL's TIME; `interval_type=text` reads it";
            column.push_time(time.ok_or_else(|| Error::decode(refused))?)
        }),
        Logical::Uuid => {
            let mut text = String::new();
            each(column, chunk.fixed::<HugeInt>(index), |column, value| {
                // Stored with the first bit inverted, so that it sorts.
                let digits = value.unsigned() ^ 1 << 127;
                text.clear();
                let _ = write!(text, "{digits:032x}");
                for at in [8, 13, 18, 23] {
                    text.insert(at, '-');
                }
                column.push_text(&text)
            })
        }
        Logical::Varchar | Logical::Json | Logical::Blob => strings(column, chunk, index),
        Logical::Bit => bits(column, chunk, index),
        Logical::Enum { members, bits: 8 } => each(column, chunk.fixed::<u8>(index), |column, at| push_member(column, members, at.into())),
        Logical::Enum { members, bits: 16 } => {
            each(column, chunk.fixed::<u16>(index), |column, at| push_member(column, members, at.into()))
        }
        Logical::Enum { members, .. } => each(column, chunk.fixed::<u32>(index), |column, at| push_member(column, members, u64::from(at))),
        Logical::Nested | Logical::Other => Err(Error::protocol("DuckDB answers with another type than was asked for")),
    }
}

/// Pushes values one by one.
fn each<T>(
    column: &mut ColumnData,
    values: impl Iterator<Item = Option<T>>,
    mut push: impl FnMut(&mut ColumnData, T) -> Result<()>,
) -> Result<usize> {
    let mut count = 0;
    for value in values {
        count += 1;
        match value {
            Some(value) => push(column, value)?,
            None => column.push_null(),
        }
    }
    Ok(9 * count)
}

fn moments(
    column: &mut ColumnData,
    chunk: &DataChunk<'_>,
    index: usize,
    zero_dates: ZeroDates,
    micros: impl Fn(i64) -> Option<i64>,
) -> Result<usize> {
    each(column, chunk.fixed::<i64>(index), |column, value| {
        push_moment(column, micros(value).and_then(DateTime::from_unix_micros), zero_dates)
    })
}

fn decimals(column: &mut ColumnData, values: impl Iterator<Item = Option<i128>>, scale: u8) -> Result<usize> {
    let mut text = String::new();
    let mut bytes = 0;
    each(column, values, |column, value| {
        text.clear();
        decimal_text(value, scale.into(), &mut text);
        bytes += text.len();
        column.push_text(&text)
    })
    .map(|count| count + bytes)
}

/// Writes a number of so many digits after the point.
fn decimal_text(value: i128, scale: usize, text: &mut String) {
    let sign = usize::from(value < 0);
    // Writing to a string cannot fail. Most numbers have 64 bits, which are written much faster.
    let _ = match i64::try_from(value) {
        Ok(short) => write!(text, "{short}"),
        Err(_) => write!(text, "{value}"),
    };
    if scale > 0 {
        let digits = text.len() - sign;
        if digits <= scale {
            text.insert_str(sign, &"0".repeat(scale + 1 - digits));
        }
        text.insert(text.len() - scale, '.');
    }
}

fn strings(column: &mut ColumnData, chunk: &DataChunk<'_>, index: usize) -> Result<usize> {
    let mut bytes = 0;
    let is_text = matches!(column.values(), crate::Values::Text(_));
    each(column, chunk.strings(index), |column, value| {
        bytes += value.len();
        if is_text {
            column.push_text(std::str::from_utf8(value).map_err(|_| Error::decode("DuckDB holds text that is not UTF-8"))?)
        } else {
            column.push_bytes(value)
        }
    })
    .map(|count| count + bytes)
}

fn bits(column: &mut ColumnData, chunk: &DataChunk<'_>, index: usize) -> Result<usize> {
    let mut bytes = Vec::with_capacity(8);
    each(column, chunk.strings(index), |column, value| {
        let [unused @ 0..=7, bits @ ..] = value else { return Err(Error::decode("DuckDB holds bits that cannot be read")) };
        bytes.clear();
        bytes.extend_from_slice(bits);
        // DuckDB sets the unused ones.
        if let Some(first) = bytes.first_mut() {
            *first &= 0xff >> unused;
        }
        column.push_bytes(&bytes)
    })
}

fn push_member(column: &mut ColumnData, members: &[String], index: u64) -> Result<()> {
    let member = usize::try_from(index).ok().and_then(|index| members.get(index));
    column.push_text(member.ok_or_else(|| Error::decode("a value is no member of the column's ENUM"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_have_a_digit_before_the_point_and_all_after_it() {
        for (value, scale, expected) in [
            (0, 0, "0"),
            (0, 2, "0.00"),
            (5, 2, "0.05"),
            (-5, 2, "-0.05"),
            (-12345, 2, "-123.45"),
            (100, 2, "1.00"),
            (i128::MIN, 0, "-170141183460469231731687303715884105728"),
            (i128::MAX, 38, "1.70141183460469231731687303715884105727"),
        ] {
            let mut text = String::new();
            decimal_text(value, scale, &mut text);
            assert_eq!(text, expected);
        }
    }
}
