//! Batches into DuckDB's data chunks.

use std::ops::Range;

use super::{Forms, duckdb_error};
use crate::batch::{Batch, ColumnData, Values, VarLen};
use crate::libduckdb::append::{Appender, Chunk};
use crate::libduckdb::{Failure, FailureKind, Fixed, HugeInt, Interval};
use crate::options::TimeType;
use crate::policy::{Changed, ValueChange, ZeroDates};
use crate::schema::ColumnType;
use crate::value::{DateTime, Time};
use crate::{Error, ErrorKind, Result};

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure.kind {
            FailureKind::Member => Error::new(ErrorKind::Sink, failure.message),
            _ => duckdb_error(failure, "rows cannot be written"),
        }
    }
}

/// Appends all rows of a batch.
pub(super) fn batch(appender: &mut Appender, batch: &Batch, forms: Forms) -> Result<Changed> {
    let mut changed = Changed::default();
    let columns = batch.table().columns();
    // What DuckDB stores in a form that the batch does not hold is rendered first, since chunks only borrow.
    let rendered: Vec<Option<VarLen>> =
        columns.iter().zip(batch.columns()).map(|(column, data)| rendered(data, column.column_type(), forms)).collect();
    let step = appender.capacity();
    for start in (0..batch.len()).step_by(step) {
        let rows = start..batch.len().min(start + step);
        appender.append(rows.len(), |chunk| {
            for (index, (column, data)) in columns.iter().zip(batch.columns()).enumerate() {
                let in_column = |error: Error| error.with_column(column.name());
                if data.null_count() > 0 {
                    mark_nulls(chunk.validity(index), data, &rows);
                }
                let count = match &rendered[index] {
                    Some(strings) => chunk.strings(index, strings.range(rows.clone())).map(|()| 0).map_err(Error::from),
                    None => fill(chunk, index, data, column.column_type(), rows.clone(), forms.zero_dates),
                };
                changed.add(index, ValueChange::ZeroDateToNull, count.map_err(in_column)?);
            }
            Ok::<(), Error>(())
        })?;
    }
    Ok(changed)
}

fn mark_nulls(mask: &mut [u64], data: &ColumnData, rows: &Range<usize>) {
    let words = data.validity();
    let (word, shift) = (rows.start / 64, rows.start % 64);
    for (index, into) in mask.iter_mut().enumerate() {
        let low = words.get(word + index).copied().unwrap_or(0) >> shift;
        let high = if shift == 0 { 0 } else { words.get(word + index + 1).copied().unwrap_or(0) << (64 - shift) };
        *into = low | high;
    }
}

/// Strings that have to be made for a column: dates and times as text, bits in DuckDB's own form.
fn rendered(data: &ColumnData, column_type: &ColumnType, forms: Forms) -> Option<VarLen> {
    match (data.values(), column_type) {
        (Values::DateTime(dates), _) if forms.zero_dates == ZeroDates::Text => {
            let mut strings = VarLen::default();
            for &date in dates {
                let text = match column_type {
                    ColumnType::DateTime { fraction } | ColumnType::Timestamp { fraction } => date.text(*fraction),
                    _ => date.date_text(),
                };
                strings.push(text.as_bytes());
            }
            Some(strings)
        }
        (Values::Time(times), ColumnType::Time { fraction }) if forms.time_type == TimeType::Text => {
            let mut strings = VarLen::default();
            for &micros in times {
                strings.push(Time::from_micros(micros).map(|time| time.text(*fraction)).unwrap_or_default().as_bytes());
            }
            Some(strings)
        }
        (Values::Bytes(bits), ColumnType::Bit { width }) => {
            // A byte that counts the unused bits at the front, then the bits, the unused ones set.
            let unused = (8 - width % 8) % 8;
            let mut strings = VarLen::default();
            let mut bytes = Vec::with_capacity(9);
            for row in 0..bits.len() {
                bytes.clear();
                bytes.push(unused);
                bytes.extend_from_slice(bits.get(row));
                if let Some(first) = bytes.get_mut(1) {
                    *first |= !(0xff_u8 >> unused);
                }
                strings.push(&bytes);
            }
            Some(strings)
        }
        _ => None,
    }
}

/// Writes one column; the number of dates that became NULL.
fn fill<'b>(
    chunk: &mut Chunk<'_, 'b>,
    index: usize,
    data: &'b ColumnData,
    column_type: &ColumnType,
    rows: Range<usize>,
    zero_dates: ZeroDates,
) -> Result<u64> {
    match (data.values(), column_type) {
        (Values::Int(values), column_type) => {
            let values = &values[rows];
            match column_type {
                ColumnType::Boolean => narrow(chunk, index, values, |value| u8::try_from(value).ok().filter(|&value| value <= 1)),
                ColumnType::Int { bits: 8, unsigned: false } => narrow(chunk, index, values, |value| i8::try_from(value).ok()),
                ColumnType::Int { bits: 8, unsigned: true } => narrow(chunk, index, values, |value| u8::try_from(value).ok()),
                ColumnType::Int { bits: 16, unsigned: true } => narrow(chunk, index, values, |value| u16::try_from(value).ok()),
                ColumnType::Year | ColumnType::Int { bits: 16, .. } => narrow(chunk, index, values, |value| i16::try_from(value).ok()),
                ColumnType::Int { bits: 24 | 32, unsigned: false } => narrow(chunk, index, values, |value| i32::try_from(value).ok()),
                ColumnType::Int { bits: 24 | 32, unsigned: true } => narrow(chunk, index, values, |value| u32::try_from(value).ok()),
                _ => narrow(chunk, index, values, Some),
            }?;
        }
        (Values::UInt(values), _) => narrow(chunk, index, &values[rows], Some)?,
        (Values::Float(values), _) => narrow(chunk, index, &values[rows], Some)?,
        (Values::Double(values), _) => narrow(chunk, index, &values[rows], Some)?,
        (Values::Time(values), _) => narrow(chunk, index, &values[rows], |micros| Some(Interval::from_micros(micros)))?,
        (Values::DateTime(values), ColumnType::Date) => {
            return dates(chunk, index, data, &values[rows.clone()], rows.start, zero_dates, DateTime::unix_days);
        }
        (Values::DateTime(values), _) => {
            return dates(chunk, index, data, &values[rows.clone()], rows.start, zero_dates, DateTime::unix_micros);
        }
        (Values::Text(values), ColumnType::Decimal { precision, .. }) if *precision <= 38 => {
            let digits = values.range(rows);
            match precision {
                0..=4 => narrow_from(chunk, index, digits, |text| decimal(text).and_then(|number| i16::try_from(number).ok()))?,
                5..=9 => narrow_from(chunk, index, digits, |text| decimal(text).and_then(|number| i32::try_from(number).ok()))?,
                10..=18 => narrow_from(chunk, index, digits, decimal)?,
                _ => narrow_from(chunk, index, digits, |text| wide_decimal(text).map(HugeInt::from))?,
            }
        }
        (Values::Text(values), ColumnType::Enum { .. }) if chunk.is_enum(index) => {
            let values = values.range(rows.clone()).zip(rows).map(|(value, row)| data.is_valid(row).then_some(value));
            chunk.members(index, values)?
        }
        (Values::Text(values) | Values::Bytes(values), _) => chunk.strings(index, values.range(rows))?,
    }
    Ok(0)
}

fn narrow<V: Copy, T: Fixed>(chunk: &mut Chunk<'_, '_>, index: usize, values: &[V], convert: impl Fn(V) -> Option<T>) -> Result<()> {
    narrow_from(chunk, index, values.iter().copied(), convert)
}

fn narrow_from<V, T: Fixed>(
    chunk: &mut Chunk<'_, '_>,
    index: usize,
    values: impl Iterator<Item = V>,
    convert: impl Fn(V) -> Option<T>,
) -> Result<()> {
    for (place, value) in chunk.fixed(index).iter_mut().zip(values) {
        place.write(convert(value).ok_or_else(|| Error::new(ErrorKind::Sink, "a value is outside the range of its type"))?);
    }
    Ok(())
}

/// Writes moments; those that no calendar has become NULL or an error.
fn dates<T: Fixed + Default>(
    chunk: &mut Chunk<'_, '_>,
    index: usize,
    data: &ColumnData,
    values: &[DateTime],
    start: usize,
    zero_dates: ZeroDates,
    convert: impl Fn(DateTime) -> Option<T>,
) -> Result<u64> {
    let mut impossible = Vec::new();
    for (row, (place, &value)) in chunk.fixed(index).iter_mut().zip(values).enumerate() {
        place.write(convert(value).unwrap_or_else(|| {
            // A NULL has the place of a zero date.
            if data.is_valid(start + row) {
                impossible.push(row);
            }
            T::default()
        }));
    }
    if !impossible.is_empty() {
        if zero_dates == ZeroDates::Error {
            return Err(Error::new(ErrorKind::Sink, "a date has a month or a day that no calendar has"));
        }
        let mask = chunk.validity(index);
        for row in &impossible {
            mask[row / 64] &= !(1 << (row % 64));
        }
    }
    Ok(impossible.len() as u64)
}

/// The digits of a decimal of at most 18 of them, without the point. An empty text, which stands for NULL, is zero.
fn decimal(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let mut number = 0_i64;
    for &byte in digits {
        if byte != b'.' {
            number = number.checked_mul(10)?.checked_add(i64::from(byte.wrapping_sub(b'0')))?;
        }
    }
    Some(if negative { -number } else { number })
}

/// The same for up to 38 digits.
fn wide_decimal(text: &[u8]) -> Option<i128> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let mut number = 0_i128;
    for &byte in digits {
        if byte != b'.' {
            number = number.checked_mul(10)?.checked_add(i128::from(byte.wrapping_sub(b'0')))?;
        }
    }
    Some(if negative { -number } else { number })
}
