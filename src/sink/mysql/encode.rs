//! Values as MySQL's statements write them.
//!
//! Text is quoted, bytes are hexadecimal: a statement is UTF-8, and vtgate reads both as what they are. A double is written with all digits that tell it
//! from its neighbours, a FLOAT as the double that it is, so that the server comes to the same bits.

use crate::batch::{Batch, ColumnData, Values, VarLen};
use crate::schema::{Column, ColumnType};
use crate::value::{DateTime, Time};
use crate::{Error, ErrorKind, Result};

/// What a stored column holds less of than the rows that come might bring.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Bounds {
    /// Characters at most.
    pub(super) chars: Option<u32>,
    /// Bytes at most.
    pub(super) bytes: Option<u64>,
    /// Spaces at the end of a text would be gone.
    pub(super) trims: bool,
    /// NULL is refused before the server is asked: the column belongs to the key.
    pub(super) is_key: bool,
    /// So is it where the column is NOT NULL: a server would store a time or a number of its own in some of these.
    pub(super) is_never_null: bool,
    /// Dates that no calendar has are refused.
    pub(super) no_zero_dates: bool,
    /// What a `FLOAT` with a number of digits ends at: the 32-bit number beside it may lie beyond.
    pub(super) most: Option<f64>,
}

/// Writes one row of a batch after the other.
pub(super) struct RowWriter<'a> {
    cells: Vec<Cell<'a>>,
}

struct Cell<'a> {
    column: &'a Column,
    data: &'a ColumnData,
    form: Form<'a>,
    bounds: Bounds,
}

enum Form<'a> {
    Int(&'a [i64]),
    UInt(&'a [u64]),
    Float(&'a [f32]),
    Double(&'a [f64]),
    Date(&'a [DateTime]),
    DateTime(&'a [DateTime], u8),
    Time(&'a [i64], u8),
    Decimal(&'a VarLen),
    Text(&'a VarLen),
    Bits(&'a VarLen),
    Bytes(&'a VarLen),
}

impl<'a> RowWriter<'a> {
    /// Writes the chosen columns, in the given order.
    pub(super) fn new(batch: &'a Batch, columns: &[(usize, Bounds)]) -> Self {
        let cell = |&(index, bounds): &(usize, Bounds)| {
            let (column, data) = (&batch.table().columns()[index], &batch.columns()[index]);
            Cell { column, data, form: Form::of(data.values(), column.column_type()), bounds }
        };
        Self { cells: columns.iter().map(cell).collect() }
    }

    /// Appends `(1, 'a', NULL`, without the parenthesis at the end.
    ///
    /// # Errors
    /// `Sink`, naming the column, if a value cannot be stored as it is.
    pub(super) fn push(&self, into: &mut Vec<u8>, row: usize) -> Result<()> {
        into.push(b'(');
        for (at, cell) in self.cells.iter().enumerate() {
            if at > 0 {
                into.push(b',');
            }
            cell.push(into, row)?;
        }
        Ok(())
    }
}

impl<'a> Form<'a> {
    fn of(values: &'a Values, column_type: &ColumnType) -> Self {
        match (values, column_type) {
            (Values::Int(values), _) => Self::Int(values),
            (Values::UInt(values), _) => Self::UInt(values),
            (Values::Float(values), _) => Self::Float(values),
            (Values::Double(values), _) => Self::Double(values),
            (Values::DateTime(values), ColumnType::Date) => Self::Date(values),
            (Values::DateTime(values), ColumnType::DateTime { fraction } | ColumnType::Timestamp { fraction }) => {
                Self::DateTime(values, *fraction)
            }
            (Values::DateTime(values), _) => Self::DateTime(values, 6),
            (Values::Time(values), ColumnType::Time { fraction }) => Self::Time(values, *fraction),
            (Values::Time(values), _) => Self::Time(values, 6),
            (Values::Text(values), ColumnType::Decimal { .. }) => Self::Decimal(values),
            (Values::Text(values), _) => Self::Text(values),
            (Values::Bytes(values), ColumnType::Bit { .. }) => Self::Bits(values),
            (Values::Bytes(values), _) => Self::Bytes(values),
        }
    }
}

impl Cell<'_> {
    fn refused(&self, message: &str) -> Error {
        Error::new(ErrorKind::Sink, format!("column `{}`: {message}", self.column.name())).with_column(self.column.name())
    }

    fn push(&self, into: &mut Vec<u8>, row: usize) -> Result<()> {
        if !self.data.is_valid(row) {
            if self.bounds.is_key {
                return Err(self.refused("NULL in the key, which cannot be NULL in the destination"));
            }
            if self.bounds.is_never_null {
                return Err(self.refused("NULL, but the column is NOT NULL in the destination"));
            }
            into.extend_from_slice(b"NULL");
            return Ok(());
        }
        match &self.form {
            Form::Int(values) => push_int(into, values[row]),
            Form::UInt(values) => push_uint(into, values[row]),
            Form::Float(values) => push_double(into, self.within(values[row].into())).ok_or_else(|| self.not_finite())?,
            Form::Double(values) => push_double(into, values[row]).ok_or_else(|| self.not_finite())?,
            Form::Date(values) => self.push_date(into, values[row], &values[row].date_text())?,
            Form::DateTime(values, fraction) => self.push_date(into, values[row], &values[row].text(*fraction))?,
            Form::Time(values, fraction) => {
                let time = Time::from_micros(values[row]).ok_or_else(|| self.refused("a time is out of range"))?;
                push_quoted(into, time.text(*fraction).as_bytes());
            }
            Form::Decimal(values) => into.extend_from_slice(values.get(row)),
            Form::Text(values) => {
                let text = values.get(row);
                self.check_text(text)?;
                push_quoted(into, text);
            }
            Form::Bits(values) => push_uint(into, values.get(row).iter().fold(0, |number, &byte| number << 8 | u64::from(byte))),
            Form::Bytes(values) => {
                let bytes = values.get(row);
                if self.bounds.bytes.is_some_and(|most| bytes.len() as u64 > most) {
                    return Err(self.refused("a value is too long"));
                }
                push_hex(into, bytes);
            }
        }
        Ok(())
    }

    fn within(&self, number: f64) -> f64 {
        match self.bounds.most {
            // The distance of two 32-bit numbers is less than a millionth of them.
            Some(most) if number.abs() > most && number.abs() < most * 1.000_001 => most.copysign(number),
            _ => number,
        }
    }

    fn not_finite(&self) -> Error {
        self.refused("a number is infinite or none at all, which MySQL has not")
    }

    fn push_date(&self, into: &mut Vec<u8>, at: DateTime, text: &str) -> Result<()> {
        if self.bounds.no_zero_dates && at.unix_days().is_none() {
            return Err(self.refused("a date has a month or a day that no calendar has"));
        }
        push_quoted(into, text.as_bytes());
        Ok(())
    }

    /// A server cuts spaces off the end of a text that is too long, even where everything else that is too long is an error.
    fn check_text(&self, text: &[u8]) -> Result<()> {
        let Bounds { chars, bytes, trims, .. } = self.bounds;
        let is_longer = |most: u32| text.len() > most as usize && text.iter().filter(|&&byte| byte & 0xc0 != 0x80).count() > most as usize;
        if chars.is_some_and(is_longer) || bytes.is_some_and(|most| text.len() as u64 > most) {
            return Err(self.refused("a text is too long"));
        }
        if trims && text.last() == Some(&b' ') {
            return Err(self.refused("a text ends with spaces, which CHAR does not keep"));
        }
        Ok(())
    }
}

pub(super) fn push_int(into: &mut Vec<u8>, number: i64) {
    if number < 0 {
        into.push(b'-');
    }
    push_uint(into, number.unsigned_abs());
}

pub(super) fn push_uint(into: &mut Vec<u8>, mut number: u64) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10).to_le_bytes()[0];
        number /= 10;
        if number == 0 {
            break;
        }
    }
    into.extend_from_slice(&digits[at..]);
}

fn push_double(into: &mut Vec<u8>, number: f64) -> Option<()> {
    use std::io::Write as _;
    // With an exponent, so that no server takes it for a decimal. Nothing that is written into memory fails.
    number.is_finite().then(|| write!(into, "{number:e}").ok()).flatten()
}

/// A string in quotation marks. The session's mode has backslashes as escapes.
pub(super) fn push_quoted(into: &mut Vec<u8>, text: &[u8]) {
    into.push(b'\'');
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\'' | b'\\' | 0)) {
        into.extend_from_slice(&rest[..at]);
        into.extend_from_slice(match rest[at] {
            b'\'' => b"\\'",
            b'\\' => b"\\\\",
            _ => b"\\0",
        });
        rest = &rest[at + 1..];
    }
    into.extend_from_slice(rest);
    into.push(b'\'');
}

/// A string as statements write it.
pub(super) fn literal(text: &str) -> String {
    let mut into = Vec::with_capacity(text.len() + 2);
    push_quoted(&mut into, text.as_bytes());
    // Only ASCII was put in between.
    String::from_utf8(into).unwrap_or_default()
}

pub(super) fn push_hex(into: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    if bytes.is_empty() {
        into.extend_from_slice(b"''");
        return;
    }
    into.reserve(bytes.len() * 2 + 2);
    into.extend_from_slice(b"0x");
    for &byte in bytes {
        into.push(DIGITS[usize::from(byte >> 4)]);
        into.push(DIGITS[usize::from(byte & 15)]);
    }
}

/// A value of a key as the server printed it, as statements write it.
pub(super) fn push_printed(into: &mut Vec<u8>, column_type: &ColumnType, printed: &[u8]) {
    match column_type {
        ColumnType::Int { .. } | ColumnType::Year | ColumnType::Decimal { .. } | ColumnType::Boolean => into.extend_from_slice(printed),
        ColumnType::Float | ColumnType::Double => into.extend_from_slice(printed),
        ColumnType::Bit { .. } | ColumnType::Binary { .. } | ColumnType::Geometry | ColumnType::Vector => push_hex(into, printed),
        _ => push_quoted(into, printed),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::schema::Table;

    fn written(column_type: ColumnType, bounds: Bounds, fill: impl Fn(&mut ColumnData) -> Result<()>) -> Result<String> {
        let table = Arc::new(Table::new("t", vec![Column::new("c", column_type, true)]));
        let mut batch = Batch::new(table);
        batch.push_row(|columns| fill(&mut columns[0]))?;
        let mut into = Vec::new();
        RowWriter::new(&batch, &[(0, bounds)]).push(&mut into, 0)?;
        Ok(String::from_utf8(into).unwrap())
    }

    #[test]
    fn values_are_written_with_all_that_they_are() {
        let free = Bounds::default();
        let text = || ColumnType::Text { length: None };
        let int = |bits, unsigned| ColumnType::Int { bits, unsigned };
        for (expected, result) in [
            ("(-9223372036854775808", written(int(64, false), free, |column| column.push_int(i64::MIN))),
            ("(18446744073709551615", written(int(64, true), free, |column| column.push_uint(u64::MAX))),
            ("(0", written(int(8, false), free, |column| column.push_int(0))),
            ("(3.990000009536743e0", written(ColumnType::Float, free, |column| column.push_float(3.99))),
            ("(-0e0", written(ColumnType::Double, free, |column| column.push_double(-0.0))),
            ("(5e-324", written(ColumnType::Double, free, |column| column.push_double(5e-324))),
            (
                r"('it\'s \\ \0 ü",
                written(text(), free, |column| column.push_text("it's \\ \0 ü")).map(|text| text[..text.len() - 1].to_owned()),
            ),
            ("(0x00FF27", written(ColumnType::Binary { fixed: None }, free, |column| column.push_bytes(&[0, 255, 39]))),
            ("(''", written(ColumnType::Binary { fixed: None }, free, |column| column.push_bytes(&[]))),
            ("(257", written(ColumnType::Bit { width: 9 }, free, |column| column.push_bytes(&[1, 1]))),
            ("('0000-00-00'", written(ColumnType::Date, free, |column| column.push_datetime(DateTime::default()))),
            (
                "(NULL",
                written(text(), free, |column| {
                    column.push_null();
                    Ok(())
                }),
            ),
        ] {
            assert_eq!(result.unwrap(), expected);
        }
    }

    #[test]
    fn what_the_stored_column_would_change_is_refused_by_name() {
        let text = || ColumnType::Text { length: None };
        let push = |text: &'static str| move |column: &mut ColumnData| column.push_text(text);
        let bounds = Bounds { chars: Some(3), trims: true, ..Bounds::default() };
        assert!(written(text(), bounds, push("üüü")).is_ok());
        for (bounds, value) in [(bounds, "abc "), (bounds, "abcd"), (bounds, "q "), (Bounds { bytes: Some(3), ..Bounds::default() }, "üü")]
        {
            let error = written(text(), bounds, push(value)).unwrap_err();
            assert_eq!(error.column(), Some("c"));
            assert!(!format!("{error:?}").contains(value), "{error:?}");
        }
        let null = written(text(), Bounds { is_key: true, ..Bounds::default() }, |column| {
            column.push_null();
            Ok(())
        });
        assert!(null.unwrap_err().to_string().contains("`c`"));
        let null = written(text(), Bounds { is_never_null: true, ..Bounds::default() }, |column| {
            column.push_null();
            Ok(())
        });
        assert_eq!(null.unwrap_err().to_string(), "column `c`: NULL, but the column is NOT NULL in the destination");
        let date = written(ColumnType::Date, Bounds { no_zero_dates: true, ..Bounds::default() }, |column| {
            column.push_datetime(DateTime::default())
        });
        assert!(date.is_err());
        assert!(written(ColumnType::Double, Bounds::default(), |column| column.push_double(f64::NAN)).is_err());
    }
}
