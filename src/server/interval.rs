//! Intervals as MySQL's conditions.

use std::fmt::Write as _;

use super::quoted;
use crate::interval::{BoundValue, Interval};
use crate::schema::ColumnType;

/// The condition that holds for the rows of an interval and no others.
///
/// Values are written so that MySQL compares them with the column's in the column's own type, and exactly. Text is compared by its bytes in UTF-8: a
/// destination could not repeat what a collation finds equal, or less.
pub(crate) fn condition(interval: &Interval) -> String {
    let column = interval.column();
    let name = quoted(column.name());
    let compared = match column.column_type() {
        ColumnType::Text { .. } => format!("CAST(CONVERT({name} USING utf8mb4) AS BINARY)"),
        _ if column.is_text_as_bytes() => format!("CAST({name} AS BINARY)"),
        _ => name.clone(),
    };
    let mut conditions = vec![format!("{name} IS NOT NULL")];
    if matches!(column.column_type(), ColumnType::Date | ColumnType::DateTime { .. } | ColumnType::Timestamp { .. }) {
        // Some destinations have NULL in their place.
        conditions.push(format!("DAYOFYEAR({name}) IS NOT NULL"));
    }
    for (bound, operators) in [(interval.start(), [">", ">="]), (interval.end(), ["<", "<="])] {
        if let Some(bound) = bound {
            conditions.push(format!("{compared} {} {}", operators[usize::from(bound.is_inclusive)], literal(&bound.value)));
        }
    }
    conditions.join(" AND ")
}

fn literal(value: &BoundValue) -> String {
    match value {
        BoundValue::Int(number) => number.to_string(),
        BoundValue::UInt(number) => number.to_string(),
        // With an exponent it is a DOUBLE and no DECIMAL. MySQL compares a FLOAT as the DOUBLE of the same value.
        BoundValue::Float(number) => format!("{:e}", f64::from(*number)),
        BoundValue::Double(number) => format!("{number:e}"),
        BoundValue::Decimal(digits) => digits.clone(),
        BoundValue::Date(date) => format!("DATE'{}'", date.date_text()),
        BoundValue::DateTime(at) | BoundValue::Timestamp(at) => format!("TIMESTAMP'{}'", at.text(6)),
        BoundValue::Time(time) => format!("TIME'{}'", time.text(6)),
        BoundValue::Text(text) => hexadecimal(text.as_bytes()),
        BoundValue::Bytes(bytes) => hexadecimal(bytes),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2 + 3);
    text.push_str("x'");
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\'');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Column, Table};

    fn of(column_type: ColumnType, start: Option<&str>, end: Option<&str>) -> String {
        let table = Table::new("t", vec![Column::new("a`b", column_type, true)]);
        condition(&Interval::of(&table, "a`b", start, end).unwrap())
    }

    #[test]
    fn each_type_is_compared_as_itself() {
        for (column_type, start, expected) in [
            (ColumnType::Int { bits: 64, unsigned: true }, "18446744073709551615", "`a``b` >= 18446744073709551615"),
            (ColumnType::Decimal { precision: 65, scale: 2 }, "-1.5", "`a``b` >= -1.50"),
            (ColumnType::Float, "3.99", "`a``b` >= 3.990000009536743e0"),
            (ColumnType::Double, "1e300", "`a``b` >= 1e300"),
            (ColumnType::Time { fraction: 0 }, "-838:59:59", "`a``b` >= TIME'-838:59:59.000000'"),
            (ColumnType::Binary { fixed: None }, "a'", "`a``b` >= x'6127'"),
            (ColumnType::Text { length: None }, "ü", "CAST(CONVERT(`a``b` USING utf8mb4) AS BINARY) >= x'c3bc'"),
        ] {
            assert_eq!(of(column_type, Some(start), None), format!("`a``b` IS NOT NULL AND {expected}"));
        }
    }

    #[test]
    fn moments_leave_out_what_no_calendar_has() {
        assert_eq!(
            of(ColumnType::DateTime { fraction: 3 }, Some("2024-02-29"), Some("2024-02-29T12:00:00.0005")),
            "`a``b` IS NOT NULL AND DAYOFYEAR(`a``b`) IS NOT NULL AND `a``b` >= TIMESTAMP'2024-02-29 00:00:00.000000' \
             AND `a``b` <= TIMESTAMP'2024-02-29 12:00:00.000000'"
        );
        assert_eq!(of(ColumnType::Int { bits: 8, unsigned: false }, None, None), "`a``b` IS NOT NULL");
    }
}
