//! Which rows of a source lie in an interval.
//!
//! A source is asked for them by a condition that leaves out none, and may let others through: how text, numbers and moments are compared differs from
//! one source to the next. Here each row is looked at, so that an interval is the same of all.

use std::cmp::Ordering;

use crate::batch::Batch;
use crate::interval::{Bound, BoundValue, Interval};
use crate::schema::Table;
use crate::value::{DateTime, ValueRef};

/// The rows of an interval.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    interval: Interval,
    /// Where the table has the interval's column.
    column: usize,
}

impl Filter {
    /// `None` if all rows are wanted.
    pub(crate) fn of(table: &Table, interval: Option<&Interval>) -> Option<Self> {
        let interval = interval?;
        let column = table.column_index(interval.column().name())?;
        Some(Self { interval: interval.clone(), column })
    }

    /// Whether a row lies in the interval.
    pub(crate) fn keeps(&self, batch: &Batch, row: usize) -> bool {
        let Some(value) = self.value(batch.value(row, self.column)) else { return false };
        let lies = |bound: Option<&Bound>, beyond: Ordering| {
            bound.is_none_or(|bound| match value.order(&bound.value) {
                Some(Ordering::Equal) => bound.is_inclusive,
                Some(order) => order == beyond,
                None => false,
            })
        };
        lies(self.interval.start(), Ordering::Greater) && lies(self.interval.end(), Ordering::Less)
    }

    /// NULL lies in no interval, and neither does a date that no calendar has.
    fn value(&self, value: ValueRef<'_>) -> Option<BoundValue> {
        use crate::ColumnType::{Date, DateTime as Moment, Timestamp};
        let is_date = matches!(self.interval.column().column_type(), Date | Moment { .. } | Timestamp { .. });
        let value = match value {
            // Where text is read as bytes.
            ValueRef::Bytes(bytes) if !matches!(self.interval.column().column_type(), crate::ColumnType::Binary { .. }) => {
                ValueRef::Text(std::str::from_utf8(bytes).ok()?)
            }
            value => value,
        };
        match (value, self.interval.column().column_type()) {
            // Where dates are read as text.
            (ValueRef::Text(text), Date) => calendar(text).map(BoundValue::Date),
            (ValueRef::Text(text), Moment { .. }) => calendar(text).map(BoundValue::DateTime),
            (ValueRef::Text(text), Timestamp { .. }) => calendar(text.strip_suffix("+00").unwrap_or(text)).map(BoundValue::Timestamp),
            (ValueRef::Date(at) | ValueRef::DateTime(at) | ValueRef::Timestamp(at), _) if is_date && at.unix_days().is_none() => None,
            (value, _) => BoundValue::of(value),
        }
    }
}

fn calendar(text: &str) -> Option<DateTime> {
    DateTime::parse(text.as_bytes()).filter(|at| at.unix_days().is_some())
}

/// A condition that holds for all rows of an interval, and for few others. `literal` writes a value that the source compares with `column` as this crate
/// does; where it cannot, that end is left open.
pub(crate) fn condition(interval: &Interval, column: &str, literal: impl Fn(&BoundValue) -> Option<String>) -> String {
    let mut condition = format!(" WHERE {column} IS NOT NULL");
    for (bound, operator) in [(interval.start(), ">="), (interval.end(), "<=")] {
        if let Some(literal) = bound.and_then(|bound| literal(&bound.value)) {
            condition.push_str(&format!(" AND {column} {operator} {literal}"));
        }
    }
    condition
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::schema::{Column, ColumnType};

    fn kept(column_type: ColumnType, read_as: ColumnType, start: &str, end: &str, texts: &[&str]) -> Vec<bool> {
        let declared = Table::new("t", vec![Column::new("k", column_type, true)]);
        let interval = Interval::of(&declared, "k", Some(start), Some(end)).unwrap();
        let table = Arc::new(Table::new("t", vec![Column::new("k", read_as, true)]));
        let filter = Filter::of(&table, Some(&interval)).unwrap();
        let mut batch = Batch::new(table);
        for text in texts {
            batch
                .push_row(|columns| match *text {
                    "NULL" => {
                        columns[0].push_null();
                        Ok(())
                    }
                    text => columns[0].push_text(text),
                })
                .unwrap();
        }
        (0..batch.len()).map(|row| filter.keeps(&batch, row)).collect()
    }

    #[test]
    fn rows_are_compared_by_the_declared_type_also_where_they_come_as_text() {
        let text = ColumnType::Text { length: None };
        let decimal = ColumnType::Decimal { precision: 5, scale: 2 };
        assert_eq!(
            kept(decimal.clone(), decimal, "-1", "10.005", &["-1.00", "-1.01", "9.99", "10.00", "10.01", "NULL"]),
            [true, false, true, true, false, false]
        );
        let dates = ["2024-01-01", "2024-02-30", "infinity", "2024-01-03", "NULL"];
        assert_eq!(kept(ColumnType::Date, text.clone(), "2024-01-01", "2024-01-02", &dates), [true, false, false, false, false]);
        let moments = ["2024-01-01 00:00:00+00", "2024-01-01 00:00:00.5+00", "0044-03-15 10:00:00 BC"];
        assert_eq!(kept(ColumnType::Timestamp { fraction: 6 }, text.clone(), "2024-01-01", "2024-01-01", &moments), [true, false, false]);
        assert_eq!(kept(text.clone(), text, "a", "b", &["a", "ä", "b", "B", "ba"]), [true, false, true, false, false]);
    }
}
