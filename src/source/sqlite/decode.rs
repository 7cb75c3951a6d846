//! Values of SQLite, by what their column was declared as.
//!
//! | Declared | [`ColumnType`] | Values that it takes |
//! | --- | --- | --- |
//! | `BOOLEAN`, `BOOL` | `Boolean` | 0 and 1 |
//! | `DATE` | `Date` | text `YYYY-MM-DD` |
//! | `DATETIME`, `TIMESTAMP` | `DateTime`, six digits | text `YYYY-MM-DD hh:mm:ss` with up to six digits after a point; `T` between; a date alone |
//! | `TIME` | `Time`, six digits | text `[-]hh:mm:ss` with up to six digits |
//! | `DECIMAL(p,s)`, `NUMERIC(p,s)` up to `(65,30)` | `Decimal` | numbers, and text that is one, of that many digits |
//! | `JSON` | `Json` | text that is JSON |
//! | has `INT` in it | `Int`, 64 bits | whole numbers |
//! | has `CHAR`, `CLOB` or `TEXT` in it | `Text` | text; a declared length is nothing to SQLite, and so is none here |
//! | has `BLOB` in it | `Binary` | blobs, and text as its bytes |
//! | has `REAL`, `FLOA` or `DOUB` in it | `Double` | numbers that are finite |
//! | anything else, and nothing | `Text` | text, and finite numbers in their shortest form |

use rusqlite::types::ValueRef;

use crate::batch::ColumnData;
use crate::place::SqliteTypes;
use crate::policy::{MalformedText, ZeroDates};
use crate::schema::ColumnType;
use crate::source::charset::Charset;
use crate::source::{Reading, decimal};
use crate::value::{DateTime, Time};
use crate::{Error, Result};

/// How the values of a column are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Boolean,
    Int,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    Date,
    DateTime,
    Time,
    Json,
    Text,
    Blob,
    /// Text, and numbers as text.
    Any,
}

impl Form {
    /// By what stands behind a column's name.
    pub(super) fn declared(declared: &str, types: SqliteTypes) -> Self {
        let upper = declared.trim().to_ascii_uppercase();
        let (name, arguments) = upper.split_once('(').map_or((upper.as_str(), ""), |(name, rest)| (name, rest));
        let is_blob = !upper.contains("INT") && ["CHAR", "CLOB", "TEXT"].iter().all(|word| !upper.contains(word)) && upper.contains("BLOB");
        if types == SqliteTypes::Text && !is_blob {
            return Self::Any;
        }
        let has = |words: &[&str]| words.iter().any(|word| upper.contains(word));
        match name.trim() {
            "BOOLEAN" | "BOOL" => Self::Boolean,
            "DATE" => Self::Date,
            "DATETIME" | "TIMESTAMP" => Self::DateTime,
            "TIME" => Self::Time,
            "JSON" => Self::Json,
            "DECIMAL" | "NUMERIC" | "DEC" => digits_of(arguments).unwrap_or(Self::Any),
            // In SQLite's own order.
            _ if has(&["INT"]) => Self::Int,
            _ if has(&["CHAR", "CLOB", "TEXT"]) => Self::Text,
            _ if has(&["BLOB"]) => Self::Blob,
            _ if has(&["REAL", "FLOA", "DOUB"]) => Self::Double,
            _ => Self::Any,
        }
    }

    /// The declared type of a column that is read as text, unless SQLite itself would make text of all its numbers.
    pub(super) fn printed(self, declared: &str) -> Option<String> {
        let upper = declared.to_ascii_uppercase();
        let is_text = !upper.contains("INT") && ["CHAR", "CLOB", "TEXT"].iter().any(|word| upper.contains(word));
        let shown = if declared.trim().is_empty() { "of no type" } else { declared.trim() };
        (self == Self::Any && !is_text).then(|| shown.to_owned())
    }

    /// The same, where a policy wants another.
    pub(super) fn of(self, reading: &Reading) -> Self {
        match self {
            Self::Date | Self::DateTime if reading.zero_dates == ZeroDates::Text => Self::Any,
            other => other,
        }
    }

    pub(super) fn column_type(self) -> ColumnType {
        match self {
            Self::Boolean => ColumnType::Boolean,
            Self::Int => ColumnType::Int { bits: 64, unsigned: false },
            Self::Double => ColumnType::Double,
            Self::Decimal { precision, scale } => ColumnType::Decimal { precision, scale },
            Self::Date => ColumnType::Date,
            Self::DateTime => ColumnType::DateTime { fraction: 6 },
            Self::Time => ColumnType::Time { fraction: 6 },
            Self::Json => ColumnType::Json,
            Self::Text | Self::Any => ColumnType::Text { length: None },
            Self::Blob => ColumnType::Binary { fixed: None },
        }
    }
}

/// `p,s)` or `p)` of a decimal that MySQL has too.
fn digits_of(arguments: &str) -> Option<Form> {
    let (precision, scale) = {
        let inner = arguments.strip_suffix(')')?;
        inner.split_once(',').unwrap_or((inner, "0"))
    };
    let (precision, scale) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    ((1..=65).contains(&precision) && scale <= 30 && scale <= precision).then_some(Form::Decimal { precision, scale })
}

/// Appends one value; returns about how many bytes it takes.
///
/// # Errors
/// `Decode`, without the value.
pub(super) fn push(
    column: &mut ColumnData,
    column_type: &ColumnType,
    form: Form,
    value: ValueRef<'_>,
    malformed: MalformedText,
    scratch: &mut String,
) -> Result<usize> {
    match (form, value) {
        (_, ValueRef::Null) => {
            column.push_null();
            return Ok(1);
        }
        (Form::Boolean, ValueRef::Integer(number @ (0 | 1))) => column.push_int(number)?,
        (Form::Int, ValueRef::Integer(number)) => column.push_int(number)?,
        (Form::Double, ValueRef::Real(number)) if number.is_finite() => column.push_double(number)?,
        (Form::Decimal { precision, scale }, value) => {
            let text = match value {
                ValueRef::Integer(number) => decimal(&number.to_string(), precision, scale),
                ValueRef::Real(number) if number.is_finite() => decimal(&number.to_string(), precision, scale),
                ValueRef::Text(text) => std::str::from_utf8(text).ok().and_then(|text| decimal(text, precision, scale)),
                _ => None,
            };
            column.push_text(&text.ok_or_else(|| none_of(&column_type.to_string()))?)?;
        }
        (Form::Date, ValueRef::Text(text)) if text.len() == 10 => column.push_datetime(moment(text, column_type)?)?,
        (Form::DateTime, ValueRef::Text(text)) => column.push_datetime(moment(text, column_type)?)?,
        (Form::Time, ValueRef::Text(text)) => column.push_time(Time::parse(text).ok_or_else(|| none_of(&column_type.to_string()))?)?,
        (Form::Json, ValueRef::Text(text)) => column.push_text(std::str::from_utf8(text).map_err(|_| none_of("JSON"))?)?,
        (Form::Text | Form::Any, ValueRef::Text(text)) => return push_text(column, column_type, text, malformed, scratch),
        (Form::Any, ValueRef::Integer(number)) => {
            return push_text(column, column_type, number.to_string().as_bytes(), malformed, scratch);
        }
        // With a point or an exponent, so that it stays what it was.
        (Form::Any, ValueRef::Real(number)) if number.is_finite() => {
            return push_text(column, column_type, format!("{number:?}").as_bytes(), malformed, scratch);
        }
        (Form::Blob, ValueRef::Blob(bytes) | ValueRef::Text(bytes)) => {
            column.push_bytes(bytes)?;
            return Ok(9 + bytes.len());
        }
        (form, ValueRef::Real(number)) if !number.is_finite() => {
            let what = if number.is_nan() { "not a number" } else { "infinite" };
            let declared = if form == Form::Any { "a number" } else { "a value" };
            return Err(Error::decode(format!("{declared} is {what}, which MySQL does not have")));
        }
        (_, other) => {
            let message =
                format!("a value is {} where {column_type} is declared; `types=text` reads every value that is no blob", kind_of(other));
            return Err(Error::decode(message));
        }
    }
    Ok(9 + match value {
        ValueRef::Text(text) => text.len(),
        _ => 0,
    })
}

fn push_text(
    column: &mut ColumnData,
    column_type: &ColumnType,
    bytes: &[u8],
    malformed: MalformedText,
    scratch: &mut String,
) -> Result<usize> {
    if matches!(column_type, ColumnType::Binary { .. }) {
        column.push_bytes(bytes)?;
    } else {
        let (text, is_replaced) = Charset::Utf8.read(bytes, malformed, scratch)?;
        if is_replaced { column.push_replaced_text(text)? } else { column.push_text(text)? }
    }
    Ok(9 + bytes.len())
}

fn moment(text: &[u8], column_type: &ColumnType) -> Result<DateTime> {
    DateTime::parse(text).ok_or_else(|| none_of(&column_type.to_string()))
}

/// That a value is none of what its column is declared as.
pub(super) fn none_of(declared: &str) -> Error {
    Error::decode(format!("a value is no {declared}, though the column is declared so; `types=text` reads every value that is no blob"))
}

fn kind_of(value: ValueRef<'_>) -> &'static str {
    match value {
        ValueRef::Null => "NULL",
        ValueRef::Integer(_) => "a whole number",
        ValueRef::Real(_) => "a floating-point number",
        ValueRef::Text(_) => "text",
        ValueRef::Blob(_) => "a blob",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(declared: &str, value: ValueRef<'_>) -> Result<String> {
        let form = Form::declared(declared, SqliteTypes::Declared);
        let table = std::sync::Arc::new(crate::Table::new("t", vec![crate::Column::new("c", form.column_type(), true)]));
        let mut batch = crate::Batch::new(table);
        let column_type = form.column_type();
        let mut scratch = String::new();
        batch.push_row(|columns| push(&mut columns[0], &column_type, form, value, MalformedText::Error, &mut scratch).map(drop))?;
        Ok(batch.value(0, 0).to_string())
    }

    #[test]
    fn declared_types_are_read_as_sqlite_understands_them() {
        let decimal = Form::Decimal { precision: 10, scale: 2 };
        for (declared, form) in [
            ("INTEGER", Form::Int),
            ("unsigned big int", Form::Int),
            ("varchar(20)", Form::Text),
            ("NATIVE CHARACTER(70)", Form::Text),
            ("BLOB", Form::Blob),
            ("double precision", Form::Double),
            ("decimal(10,2)", decimal),
            ("NUMERIC( 10 , 2 )", decimal),
            ("DECIMAL(80,2)", Form::Any),
            ("NUMERIC", Form::Any),
            ("datetime", Form::DateTime),
            ("TIMESTAMP WITH TIME ZONE", Form::Any),
            ("", Form::Any),
            ("ANY", Form::Any),
        ] {
            assert_eq!(Form::declared(declared, SqliteTypes::Declared), form, "{declared}");
        }
        assert_eq!(Form::declared("INTEGER", SqliteTypes::Text), Form::Any);
        assert_eq!(Form::declared("BLOB", SqliteTypes::Text), Form::Blob);
    }

    #[test]
    fn values_are_read_by_the_declared_type() {
        for (declared, value, expected) in [
            ("INT", ValueRef::Integer(i64::MIN), "-9223372036854775808"),
            ("BOOL", ValueRef::Integer(1), "true"),
            ("DECIMAL(10,2)", ValueRef::Integer(7), "7.00"),
            ("DECIMAL(10,2)", ValueRef::Real(-0.5), "-0.50"),
            ("DECIMAL(10,2)", ValueRef::Text(b"12345678.9"), "12345678.90"),
            ("DECIMAL(30,0)", ValueRef::Real(1e20), "100000000000000000000"),
            ("DATE", ValueRef::Text(b"0000-00-00"), "0000-00-00"),
            ("DATETIME", ValueRef::Text(b"2024-02-29T01:02:03.5"), "2024-02-29 01:02:03.500000"),
            ("TIME", ValueRef::Text(b"-838:59:59"), "-838:59:59"),
            ("", ValueRef::Integer(3), "3"),
            ("", ValueRef::Real(3.0), "3.0"),
            ("", ValueRef::Real(1e100), "1e100"),
            ("", ValueRef::Real(0.1), "0.1"),
            ("BLOB", ValueRef::Text(b"ab"), "0x6162"),
        ] {
            assert_eq!(read(declared, value).unwrap(), expected, "{declared}");
        }
    }

    #[test]
    fn values_of_another_type_are_refused() {
        for (declared, value) in [
            ("INT", ValueRef::Real(1.5)),
            ("INT", ValueRef::Text(b"secret")),
            ("BOOL", ValueRef::Integer(2)),
            ("REAL", ValueRef::Real(f64::INFINITY)),
            ("", ValueRef::Real(f64::NEG_INFINITY)),
            ("", ValueRef::Blob(b"secret")),
            ("DECIMAL(5,2)", ValueRef::Real(0.125)),
            ("DECIMAL(5,2)", ValueRef::Integer(1000)),
            ("DECIMAL(5,2)", ValueRef::Text(b"secret")),
            ("DATE", ValueRef::Text(b"2024-02-29 00:00:00")),
            ("DATE", ValueRef::Integer(1_700_000_000)),
            ("DATETIME", ValueRef::Text(b"2024-02-29 01:02:03Z")),
            ("TIME", ValueRef::Text(b"24")),
            ("TEXT", ValueRef::Blob(b"secret")),
            ("TEXT", ValueRef::Text(&[0xff])),
            ("BLOB", ValueRef::Integer(1)),
        ] {
            let error = read(declared, value).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
