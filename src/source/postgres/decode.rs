//! Values in PostgreSQL's binary form into columns.

use std::fmt::Write;

use super::types::Form;
use crate::batch::ColumnData;
use crate::policy::{MalformedText, ZeroDates};
use crate::source::charset::Charset;
use crate::source::{Reading, decimal, not_finite, push_moment};
use crate::value::{DateTime, Time};
use crate::{Error, Result};

/// Days and microseconds from 1970 to 2000, where PostgreSQL begins to count.
const EPOCH_DAYS: i64 = 10_957;
const EPOCH_MICROS: i64 = EPOCH_DAYS * 86_400_000_000;

/// The sign of a `numeric`, where it is none of a number.
const NAN: u16 = 0xc000;
const INFINITY: u16 = 0xd000;
const NEGATIVE_INFINITY: u16 = 0xf000;
const NEGATIVE: u16 = 0x4000;

/// Appends one value.
///
/// # Errors
/// `Decode`, without the value.
pub(super) fn push(column: &mut ColumnData, form: Form, value: Option<&[u8]>, reading: &Reading, scratch: &mut String) -> Result<()> {
    let Some(bytes) = value else {
        column.push_null();
        return Ok(());
    };
    match form {
        Form::Boolean => match bytes {
            [0] => column.push_int(0),
            [1] => column.push_int(1),
            _ => Err(malformed()),
        },
        Form::Int2 => column.push_int(i16::from_be_bytes(exactly(bytes)?).into()),
        Form::Int4 => column.push_int(i32::from_be_bytes(exactly(bytes)?).into()),
        Form::Int8 => column.push_int(i64::from_be_bytes(exactly(bytes)?)),
        Form::Oid => column.push_int(u32::from_be_bytes(exactly(bytes)?).into()),
        Form::Float4 => match f32::from_be_bytes(exactly(bytes)?) {
            number if number.is_finite() => column.push_float(number),
            number => Err(not_finite(number.is_nan())),
        },
        Form::Float8 => match f64::from_be_bytes(exactly(bytes)?) {
            number if number.is_finite() => column.push_double(number),
            number => Err(not_finite(number.is_nan())),
        },
        Form::Numeric { precision, scale } => {
            let digits = numeric(bytes, scratch)?;
            // Sign, zero and point are none of the digits.
            if digits == usize::from(scale) && scratch.len() <= usize::from(precision) + 3 {
                return column.push_text(scratch);
            }
            let fitted =
                decimal(scratch, precision, scale).ok_or_else(|| Error::decode("a number has more digits than its column declares"))?;
            column.push_text(&fitted)
        }
        Form::Digits => {
            numeric(bytes, scratch)?;
            push_text(column, scratch.as_bytes(), MalformedText::Error, &mut String::new())
        }
        Form::Text => push_text(column, bytes, reading.malformed_text, scratch),
        Form::Padded => push_text(column, without_blanks(bytes), reading.malformed_text, scratch),
        Form::Bytes => column.push_bytes(bytes),
        Form::Date => {
            let days = i64::from(i32::from_be_bytes(exactly(bytes)?)) + EPOCH_DAYS;
            push_since_christ(column, days.checked_mul(86_400_000_000), reading.zero_dates)
        }
        Form::Moment => push_since_christ(column, i64::from_be_bytes(exactly(bytes)?).checked_add(EPOCH_MICROS), reading.zero_dates),
        Form::Time => {
            let time = Time::from_micros(i64::from_be_bytes(exactly(bytes)?));
            column.push_time(time.ok_or_else(malformed)?)
        }
        Form::Interval => {
            let [micros @ .., a, b, c, d, e, f, g, h]: [u8; 16] = exactly(bytes)?;
            let time = if [a, b, c, d, e, f, g, h] == [0; 8] { Time::from_micros(i64::from_be_bytes(micros)) } else { None };
            let refused = "an interval has months or days, or is longer than MySQL's TIME; `interval_type=text` reads it";
            column.push_time(time.ok_or_else(|| Error::decode(refused))?)
        }
        Form::Uuid => {
            let number = u128::from_be_bytes(exactly(bytes)?);
            scratch.clear();
            // Writing to a string cannot fail.
            let _ = write!(scratch, "{number:032x}");
            for at in [8, 13, 18, 23] {
                scratch.insert(at, '-');
            }
            push_text(column, scratch.as_bytes(), MalformedText::Error, &mut String::new())
        }
        Form::Jsonb => match bytes {
            [1, text @ ..] => push_text(column, text, MalformedText::Error, scratch),
            _ => Err(malformed()),
        },
        Form::Bit { width } => {
            let [length, bits] = [bytes.get(..4), bytes.get(4..)].map(Option::unwrap_or_default);
            let count = usize::from(width).div_ceil(8);
            if i32::from_be_bytes(exactly(length)?) != i32::from(width) || bits.len() != count {
                return Err(malformed());
            }
            // The first bit is the uppermost here; MySQL has the last one lowest.
            let number = bits.iter().fold(0_u64, |number, &byte| number << 8 | u64::from(byte)) >> (count * 8 - usize::from(width));
            column.push_bytes(&number.to_be_bytes()[8 - count..])
        }
    }
}

/// Without the blanks at the end, which PostgreSQL takes for none of a `char(n)`.
fn without_blanks(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|&byte| byte != b' ').map_or(0, |last| last + 1);
    &text[..end]
}

fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| malformed())
}

fn malformed() -> Error {
    Error::decode("the server sent a value that is none of its type")
}

/// MySQL has a year 0, but PostgreSQL prints it as one before Christ.
fn push_since_christ(column: &mut ColumnData, micros: Option<i64>, zero_dates: ZeroDates) -> Result<()> {
    let moment = micros.and_then(DateTime::from_unix_micros).filter(|moment| moment.year() > 0);
    push_moment(column, moment, zero_dates)
}

fn push_text(column: &mut ColumnData, bytes: &[u8], policy: MalformedText, scratch: &mut String) -> Result<()> {
    if matches!(column.values(), crate::Values::Bytes(_)) {
        return column.push_bytes(bytes);
    }
    let (text, is_replaced) = Charset::Utf8.read(bytes, policy, scratch)?;
    if is_replaced { column.push_replaced_text(text) } else { column.push_text(text) }
}

/// Writes a `numeric` as PostgreSQL prints it; how many digits are behind the point.
fn numeric(bytes: &[u8], text: &mut String) -> Result<usize> {
    let (head, digits) = bytes.split_first_chunk::<8>().ok_or_else(malformed)?;
    let [count, weight, sign, scale] = [0, 2, 4, 6].map(|at| u16::from_be_bytes([head[at], head[at + 1]]));
    let negative = match sign {
        0 => false,
        NEGATIVE => true,
        NAN => return Err(not_finite(true)),
        INFINITY | NEGATIVE_INFINITY => return Err(not_finite(false)),
        _ => return Err(malformed()),
    };
    if digits.len() != usize::from(count) * 2 || scale > 0x3fff {
        return Err(malformed());
    }
    let mut groups = Vec::with_capacity(usize::from(count));
    for group in digits.chunks_exact(2) {
        let group = u16::from_be_bytes([group[0], group[1]]);
        if group > 9999 {
            return Err(malformed());
        }
        groups.push(group);
    }
    // Groups of four digits; the weight is how many more than one stand before the point.
    let before = i32::from(i16::from_be_bytes(weight.to_be_bytes())) + 1;
    let group_at = |at: i32| usize::try_from(at).ok().and_then(|at| groups.get(at)).copied().unwrap_or(0);
    text.clear();
    if negative && groups.iter().any(|&group| group != 0) {
        text.push('-');
    }
    if before <= 0 {
        text.push('0');
    }
    let mut leading = true;
    for at in 0..before {
        // Writing to a string cannot fail.
        let _ = if leading { write!(text, "{}", group_at(at)) } else { write!(text, "{:04}", group_at(at)) };
        // A server sends no group of zeros in front, but none is worse than one too many.
        leading = leading && group_at(at) == 0;
        if leading && at + 1 < before {
            text.pop();
        }
    }
    let scale = usize::from(scale);
    if scale > 0 {
        text.push('.');
        let from = text.len();
        let mut at = before;
        while text.len() - from < scale {
            let _ = write!(text, "{:04}", group_at(at));
            at += 1;
        }
        text.truncate(from + scale);
    }
    Ok(scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Column, ColumnType, Table};

    fn numeric_of(weight: i16, sign: u16, scale: u16, groups: &[u16]) -> Result<String> {
        let mut bytes = Vec::new();
        bytes.extend(u16::try_from(groups.len()).unwrap().to_be_bytes());
        bytes.extend(weight.to_be_bytes());
        bytes.extend(sign.to_be_bytes());
        bytes.extend(scale.to_be_bytes());
        groups.iter().for_each(|group| bytes.extend(group.to_be_bytes()));
        let mut text = String::new();
        numeric(&bytes, &mut text).map(|_| text)
    }

    #[test]
    fn numbers_are_written_with_their_scale() {
        for (weight, sign, scale, groups, expected) in [
            (0, 0, 0, &[][..], "0"),
            (0, 0, 2, &[], "0.00"),
            (0, 0, 2, &[1, 5000], "1.50"),
            (0, NEGATIVE, 1, &[1, 5000], "-1.5"),
            (-1, 0, 4, &[12], "0.0012"),
            (-2, 0, 8, &[12], "0.00000012"),
            (1, 0, 0, &[1, 2], "10002"),
            (2, 0, 0, &[1], "100000000"),
            (1, 0, 3, &[12, 3456, 7890], "123456.789"),
            (1, 0, 0, &[0, 7], "7"),
        ] {
            assert_eq!(numeric_of(weight, sign, scale, groups).unwrap(), expected);
        }
        for (weight, sign, scale, groups) in
            [(0, NAN, 0, &[][..]), (0, INFINITY, 0, &[]), (0, 1, 0, &[]), (0, 0, 0x4000, &[]), (0, 0, 0, &[10_000])]
        {
            assert!(numeric_of(weight, sign, scale, groups).is_err());
        }
        assert!(numeric(&[0, 1, 0, 0, 0, 0, 0, 0], &mut String::new()).is_err());
    }

    #[test]
    fn values_of_a_wrong_length_are_refused() {
        let forms = [
            (Form::Boolean, ColumnType::Boolean, 1),
            (Form::Int2, ColumnType::Int { bits: 16, unsigned: false }, 2),
            (Form::Int8, ColumnType::Int { bits: 64, unsigned: false }, 8),
            (Form::Oid, ColumnType::Int { bits: 32, unsigned: true }, 4),
            (Form::Float8, ColumnType::Double, 8),
            (Form::Date, ColumnType::Date, 4),
            (Form::Moment, ColumnType::DateTime { fraction: 6 }, 8),
            (Form::Interval, ColumnType::Time { fraction: 6 }, 16),
            (Form::Uuid, ColumnType::Text { length: Some(36) }, 16),
        ];
        for (form, column_type, length) in forms {
            for found in 0..20 {
                let mut batch = crate::Batch::new(std::sync::Arc::new(Table::new("t", vec![Column::new("c", column_type.clone(), true)])));
                let bytes = vec![0; found];
                let pushed = batch.push_row(|columns| push(&mut columns[0], form, Some(&bytes), &Reading::default(), &mut String::new()));
                assert_eq!(pushed.is_ok(), found == length, "{form:?} of {found}");
            }
        }
    }

    #[test]
    fn bits_are_moved_to_the_low_end() {
        let mut batch =
            crate::Batch::new(std::sync::Arc::new(Table::new("t", vec![Column::new("c", ColumnType::Bit { width: 11 }, true)])));
        let bytes = [0, 0, 0, 11, 0b1000_0000, 0b0110_0000];
        batch
            .push_row(|columns| push(&mut columns[0], Form::Bit { width: 11 }, Some(&bytes), &Reading::default(), &mut String::new()))
            .unwrap();
        assert_eq!(batch.value(0, 0), crate::ValueRef::Bit(&[0b100, 0b0000_0011]));
    }
}
