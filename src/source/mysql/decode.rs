//! Values of the MySQL protocol into columns.
//!
//! A prepared statement's rows carry numbers and dates in binary; everything else, and every value of a plain query, comes as the text
//! that MySQL prints. Both are taken for every type, by the declared type and never by what the value looks like.

use mysql::Value;

use crate::batch::ColumnData;
use crate::policy::MalformedText;
use crate::schema::ColumnType;
use crate::server::kind_of;
use crate::source::charset::Charset;
use crate::value::{DateTime, Time};
use crate::{Error, Result};

/// In which form the bytes of a text come, and what becomes of those that are none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TextForm {
    pub(crate) charset: Charset,
    pub(crate) malformed: MalformedText,
}

/// Appends one value of a column of the given type.
///
/// # Errors
/// `Decode`, without the value.
pub(crate) fn push(column: &mut ColumnData, column_type: &ColumnType, value: &Value, text: TextForm, scratch: &mut String) -> Result<()> {
    match (column_type, value) {
        (_, Value::NULL) => {
            column.push_null();
            Ok(())
        }
        (ColumnType::Int { .. } | ColumnType::Year | ColumnType::Boolean, Value::Int(number)) => column.push_int(*number),
        (ColumnType::Int { .. } | ColumnType::Year | ColumnType::Boolean, Value::UInt(number)) => column.push_uint(*number),
        (ColumnType::Float, Value::Float(number)) => column.push_float(*number),
        (ColumnType::Float, Value::Double(number)) => column.push_float(narrowed(*number)?),
        (ColumnType::Double, Value::Double(number)) => column.push_double(*number),
        (
            ColumnType::Date | ColumnType::DateTime { .. } | ColumnType::Timestamp { .. },
            &Value::Date(year, month, day, hour, minute, second, micros),
        ) => {
            let date = DateTime::new(year, month, day, hour, minute, second, micros).ok_or_else(|| unreadable(column_type))?;
            column.push_datetime(date)
        }
        (ColumnType::Time { .. }, &Value::Time(negative, days, hours, minutes, seconds, micros)) => {
            let seconds = i64::from(days) * 86_400 + i64::from(hours) * 3600 + i64::from(minutes) * 60 + i64::from(seconds);
            let span = seconds * 1_000_000 + i64::from(micros);
            column.push_time(Time::from_micros(if negative { -span } else { span }).ok_or_else(|| unreadable(column_type))?)
        }
        (ColumnType::Text { .. }, Value::Bytes(bytes)) => {
            let (text, is_replaced) = text.charset.read(bytes, text.malformed, scratch)?;
            if is_replaced { column.push_replaced_text(text) } else { column.push_text(text) }
        }
        (_, Value::Bytes(bytes)) => push_text(column, column_type, bytes),
        (_, other) => Err(Error::decode(format!("the server sent a {} where {column_type} was declared", kind_of(other)))),
    }
}

/// Appends one value in the form in which MySQL prints it; types that hold bytes take them as they are.
///
/// # Errors
/// `Decode`, without the value.
fn push_text(column: &mut ColumnData, column_type: &ColumnType, bytes: &[u8]) -> Result<()> {
    match column_type {
        ColumnType::Text { .. } | ColumnType::Enum { .. } | ColumnType::Set { .. } | ColumnType::Json => {
            column.push_text(std::str::from_utf8(bytes).map_err(|_| Error::decode("the server sent text that is not UTF-8"))?)
        }
        ColumnType::Binary { .. } | ColumnType::Geometry | ColumnType::Vector => column.push_bytes(bytes),
        ColumnType::Bit { width } => {
            if bytes.len() != usize::from(*width).div_ceil(8) {
                return Err(unreadable(column_type));
            }
            column.push_bytes(bytes)
        }
        ColumnType::Decimal { scale, .. } => push_decimal(column, column_type, *scale, bytes),
        ColumnType::Int { bits: 64, unsigned: true } => column.push_uint(parsed(column_type, bytes)?),
        ColumnType::Int { .. } | ColumnType::Year | ColumnType::Boolean => column.push_int(parsed(column_type, bytes)?),
        ColumnType::Float => column.push_float(narrowed(finite(column_type, bytes)?)?),
        ColumnType::Double => column.push_double(finite(column_type, bytes)?),
        ColumnType::Date | ColumnType::DateTime { .. } | ColumnType::Timestamp { .. } => {
            column.push_datetime(DateTime::parse(bytes).ok_or_else(|| unreadable(column_type))?)
        }
        ColumnType::Time { .. } => column.push_time(Time::parse(bytes).ok_or_else(|| unreadable(column_type))?),
    }
}

/// Appends a decimal with exactly one digit before the point where MySQL pads with zeros or leaves the zero out.
fn push_decimal(column: &mut ColumnData, column_type: &ColumnType, scale: u8, bytes: &[u8]) -> Result<()> {
    let text = std::str::from_utf8(bytes).map_err(|_| unreadable(column_type))?;
    let (sign, unsigned) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if unsigned.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() != usize::from(scale) {
        return Err(unreadable(column_type));
    }
    if whole == "0" || (!whole.is_empty() && !whole.starts_with('0')) {
        return column.push_text(text);
    }
    let whole = whole.trim_start_matches('0');
    let (whole, point) = (if whole.is_empty() { "0" } else { whole }, if scale > 0 { "." } else { "" });
    column.push_text(&[sign, whole, point, fraction].concat())
}

fn parsed<T: std::str::FromStr>(column_type: &ColumnType, bytes: &[u8]) -> Result<T> {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).ok_or_else(|| unreadable(column_type))
}

/// A number as MySQL has them: neither infinite nor none.
fn finite(column_type: &ColumnType, bytes: &[u8]) -> Result<f64> {
    parsed(column_type, bytes).and_then(|number: f64| if number.is_finite() { Ok(number) } else { Err(unreadable(column_type)) })
}

/// The 32-bit number that stands in a 64-bit one.
fn narrowed(wide: f64) -> Result<f32> {
    // Compared below, so a number that does not fit is found.
    #[allow(clippy::cast_possible_truncation)]
    let narrow = wide as f32;
    if f64::from(narrow) == wide {
        Ok(narrow)
    } else {
        Err(Error::decode("the server sent a 64-bit float where a 32-bit one was declared"))
    }
}

fn unreadable(column_type: &ColumnType) -> Error {
    Error::decode(format!("the server sent a value that is no {column_type}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::ValueRef;
    use crate::{Column, Table};
    use std::sync::Arc;

    fn decoded(declared: &str, value: Value) -> Result<String> {
        let column_type = ColumnType::parse(declared)?;
        let table = Arc::new(Table::new("t", vec![Column::new("c", column_type.clone(), true)]));
        let mut batch = crate::Batch::new(table);
        batch.push_row(|columns| {
            push(
                &mut columns[0],
                &column_type,
                &value,
                TextForm { charset: Charset::Utf8, malformed: MalformedText::Error },
                &mut String::new(),
            )
        })?;
        Ok(match batch.value(0, 0) {
            ValueRef::Decimal(text) => text.to_owned(),
            other => format!("{other:?}"),
        })
    }

    fn text(text: &str) -> Value {
        Value::Bytes(text.as_bytes().to_vec())
    }

    #[test]
    fn text_and_binary_forms_decode_to_the_same_value() {
        for (declared, printed, binary) in [
            ("int", "-7", Value::Int(-7)),
            ("int(8) unsigned zerofill", "00000042", Value::UInt(42)),
            ("bigint unsigned", "18446744073709551615", Value::UInt(u64::MAX)),
            ("double", "1e100", Value::Double(1e100)),
            ("float", "16777216", Value::Float(16_777_216.0)),
            ("float", "3.990000009536743", Value::Float(3.99)),
            ("date", "0000-00-00", Value::Date(0, 0, 0, 0, 0, 0, 0)),
            ("datetime(3)", "2024-01-02 03:04:05.006", Value::Date(2024, 1, 2, 3, 4, 5, 6000)),
            ("time(6)", "-838:59:58.900001", Value::Time(true, 34, 22, 59, 58, 900_001)),
        ] {
            assert_eq!(decoded(declared, text(printed)).unwrap(), decoded(declared, binary).unwrap(), "{declared}");
        }
    }

    #[test]
    fn decimals_have_one_form() {
        for (declared, printed, expected) in [
            ("decimal(10,2)", "0.50", "0.50"),
            ("decimal(10,2)", ".50", "0.50"),
            ("decimal(10,2)", "-.50", "-0.50"),
            ("decimal(10,2) zerofill", "00000012.50", "12.50"),
            ("decimal(10,0)", "0", "0"),
            ("decimal(10,0) zerofill", "0000000000", "0"),
            ("decimal(65,0)", "-99999999999999999999999999999999999999999999999999999999999999999", ""),
        ] {
            let expected = if expected.is_empty() { printed } else { expected };
            assert_eq!(decoded(declared, text(printed)).unwrap(), expected);
        }
        for printed in ["", "-", ".", "1.5", "1.555", "1e5", "1.5x", "+1.50", "NaN"] {
            assert!(decoded("decimal(10,2)", text(printed)).is_err(), "{printed}");
        }
    }

    #[test]
    fn values_that_do_not_fit_their_type_are_errors() {
        for (declared, value) in [
            ("int", text("x")),
            ("int", Value::Double(1.0)),
            ("bigint unsigned", Value::Int(-1)),
            ("bigint", Value::UInt(u64::MAX)),
            ("varchar(5)", Value::Bytes(vec![0xff])),
            ("bit(9)", Value::Bytes(vec![1])),
            ("date", text("yesterday")),
            ("time", Value::Time(false, 35, 0, 0, 0, 0)),
            ("float", Value::Double(0.1)),
            ("double", text("1e999")),
            ("double", text("nan")),
            ("json", Value::Int(1)),
        ] {
            assert!(decoded(declared, value).is_err(), "{declared}");
        }
    }
}
