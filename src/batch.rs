//! Rows in columns: what sources yield and sinks take.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::schema::{ColumnType, Table};
use crate::value::{DateTime, Time, ValueRef};
use crate::{Error, Result};

/// Some rows of one table, column by column.
///
/// The columns stand in the order of [`Batch::table`] and are equally long. Sources bound a batch by bytes, so its number of rows varies.
#[derive(Debug, Clone)]
pub struct Batch {
    table: Arc<Table>,
    columns: Vec<ColumnData>,
    rows: usize,
}

impl Batch {
    /// An empty batch to be filled.
    pub(crate) fn new(table: Arc<Table>) -> Self {
        let columns = table.columns().iter().map(|column| ColumnData::new(column.column_type())).collect();
        Self { table, columns, rows: 0 }
    }

    /// An empty batch of the same table, with room for about as much as `full` holds.
    pub(crate) fn with_capacity_of(full: &Self) -> Self {
        let mut batch = Self::new(Arc::clone(&full.table));
        for (column, full) in batch.columns.iter_mut().zip(&full.columns) {
            column.reserve_as(full);
        }
        batch
    }

    /// The table whose rows these are.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The columns, in the table's order.
    pub fn columns(&self) -> &[ColumnData] {
        &self.columns
    }

    /// Memory that the values take, in bytes.
    pub fn bytes(&self) -> usize {
        self.columns.iter().map(ColumnData::bytes).sum()
    }

    /// The value of one column in one row.
    ///
    /// # Panics
    /// If `row` or `column` is out of range.
    pub fn value(&self, row: usize, column: usize) -> ValueRef<'_> {
        self.columns[column].value(row, self.table.columns()[column].column_type())
    }

    /// The rows one after the other, for those who iterate.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Row<'_>> {
        (0..self.rows).map(|index| Row { batch: self, index })
    }

    /// Gives out the columns to push one value into each, and counts the row when that succeeded; otherwise the half-filled row is removed.
    pub(crate) fn push_row(&mut self, fill: impl FnOnce(&mut [ColumnData]) -> Result<()>) -> Result<()> {
        let result = fill(&mut self.columns).and_then(|()| {
            let expected = self.rows + 1;
            match self.columns.iter().position(|column| column.len() != expected) {
                None => Ok(()),
                Some(column) => Err(Error::decode(format!("row has no value for column `{}`", self.table.columns()[column].name()))),
            }
        });
        match result {
            Ok(()) => self.rows += 1,
            Err(_) => self.truncate(self.rows),
        }
        result
    }

    /// Gives out the columns to push `count` values into each, and counts the rows when that succeeded; otherwise none of them is there.
    #[cfg(feature = "duckdb")]
    pub(crate) fn push_rows(&mut self, count: usize, fill: impl FnOnce(&mut [ColumnData]) -> Result<()>) -> Result<()> {
        let expected = self.rows + count;
        let result = fill(&mut self.columns).and_then(|()| match self.columns.iter().position(|column| column.len() != expected) {
            None => Ok(()),
            Some(column) => Err(Error::decode(format!("rows have no value for column `{}`", self.table.columns()[column].name()))),
        });
        match result {
            Ok(()) => self.rows = expected,
            Err(_) => self.truncate(self.rows),
        }
        result
    }

    /// Removes all rows from `rows` on.
    pub(crate) fn truncate(&mut self, rows: usize) {
        for column in &mut self.columns {
            column.truncate(rows);
        }
        self.rows = rows;
    }

    /// Puts other values into some rows of a column: by row, where they lie in `values`.
    pub(crate) fn replace(&mut self, column: usize, values: &ColumnData, rows: &BTreeMap<usize, usize>) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut replaced = ColumnData::new(self.table.columns()[column].column_type());
        let old = &self.columns[column];
        for row in 0..self.rows {
            match rows.get(&row) {
                Some(&at) => replaced.push_from(values, at)?,
                None => replaced.push_from(old, row)?,
            }
        }
        self.columns[column] = replaced;
        Ok(())
    }

    /// The chosen rows, in the given order.
    pub(crate) fn gather(&self, rows: &[usize]) -> Self {
        Self { table: Arc::clone(&self.table), columns: self.columns.iter().map(|column| column.gather(rows)).collect(), rows: rows.len() }
    }

    /// The same rows with more columns at the end; `table` names them all. Where it has more columns than the rows, those between are NULL.
    pub(crate) fn with_columns(self, table: Arc<Table>, more: Vec<ColumnData>) -> Result<Self> {
        let Self { mut columns, rows, .. } = self;
        let width = table.columns().len();
        while columns.len() + more.len() < width {
            let mut missing = ColumnData::new(table.columns()[columns.len()].column_type());
            (0..rows).for_each(|_| missing.push_null());
            columns.push(missing);
        }
        columns.extend(more);
        if columns.len() != width || columns.iter().any(|column| column.len() != rows) {
            return Err(Error::protocol(format!("rows of table `{}` do not have its columns", table.name())));
        }
        Ok(Self { table, columns, rows })
    }
}

/// One row of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    batch: &'a Batch,
    index: usize,
}

impl<'a> Row<'a> {
    /// The value of the column at `column`.
    ///
    /// # Panics
    /// If there is no such column.
    pub fn value(&self, column: usize) -> ValueRef<'a> {
        self.batch.value(self.index, column)
    }

    /// The values in the order of the columns.
    pub fn values(&self) -> impl ExactSizeIterator<Item = ValueRef<'a>> {
        let Self { batch, index } = *self;
        (0..batch.columns.len()).map(move |column| batch.value(index, column))
    }

    /// The value of the named column; `None` if there is no such column.
    pub fn get(&self, name: &str) -> Option<ValueRef<'a>> {
        self.batch.table().column_index(name).map(|column| self.value(column))
    }
}

/// The values of one column.
#[derive(Debug, Clone)]
pub struct ColumnData {
    valid: Validity,
    values: Values,
    /// Rows in which parts of a text were replaced, or a date became NULL, in order.
    replaced: Vec<usize>,
}

/// The values themselves. A NULL takes the place of a value: zero, or no bytes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Values {
    /// `Boolean` (0 or 1), `Int` but for `BIGINT UNSIGNED`, `Year`.
    Int(Vec<i64>),
    /// `BIGINT UNSIGNED`.
    UInt(Vec<u64>),
    /// `Float`.
    Float(Vec<f32>),
    /// `Double`.
    Double(Vec<f64>),
    /// `Date`, `DateTime` and `Timestamp`.
    DateTime(Vec<DateTime>),
    /// `Time`, in microseconds.
    Time(Vec<i64>),
    /// `Text`, `Decimal`, `Enum`, `Set`, `Json`: UTF-8.
    Text(VarLen),
    /// `Binary`, `Bit`, `Geometry`, `Vector`.
    Bytes(VarLen),
}

impl ColumnData {
    pub(crate) fn new(column_type: &ColumnType) -> Self {
        let values = match column_type {
            ColumnType::Int { bits: 64, unsigned: true } => Values::UInt(Vec::new()),
            ColumnType::Boolean | ColumnType::Int { .. } | ColumnType::Year => Values::Int(Vec::new()),
            ColumnType::Float => Values::Float(Vec::new()),
            ColumnType::Double => Values::Double(Vec::new()),
            ColumnType::Date | ColumnType::DateTime { .. } | ColumnType::Timestamp { .. } => Values::DateTime(Vec::new()),
            ColumnType::Time { .. } => Values::Time(Vec::new()),
            ColumnType::Decimal { .. } | ColumnType::Text { .. } | ColumnType::Enum { .. } | ColumnType::Set { .. } | ColumnType::Json => {
                Values::Text(VarLen::default())
            }
            ColumnType::Binary { .. } | ColumnType::Bit { .. } | ColumnType::Geometry | ColumnType::Vector => {
                Values::Bytes(VarLen::default())
            }
        };
        Self { valid: Validity::default(), values, replaced: Vec::new() }
    }

    /// The number of values, NULLs included.
    pub fn len(&self) -> usize {
        self.valid.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.valid.len == 0
    }

    /// Whether the value at `row` is not NULL. A row out of range is NULL.
    pub fn is_valid(&self, row: usize) -> bool {
        self.valid.get(row)
    }

    /// The number of NULLs.
    pub fn null_count(&self) -> usize {
        self.valid.nulls
    }

    /// One bit for each value, least significant first, set where the value is not NULL.
    pub fn validity(&self) -> &[u64] {
        &self.valid.words
    }

    /// The values.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// The rows, in order, that do not have what the source holds: parts of a text were replaced by
    /// [`MalformedText::Replace`](crate::MalformedText::Replace), or a date that is no [`DateTime`] became NULL by
    /// [`ZeroDates::Null`](crate::ZeroDates::Null).
    pub fn replaced(&self) -> &[usize] {
        &self.replaced
    }

    pub(crate) fn bytes(&self) -> usize {
        let values = match &self.values {
            Values::Int(values) => values.len() * 8,
            Values::UInt(values) => values.len() * 8,
            Values::Float(values) => values.len() * 4,
            Values::Double(values) => values.len() * 8,
            Values::DateTime(values) => values.len() * 8,
            Values::Time(values) => values.len() * 8,
            Values::Text(values) | Values::Bytes(values) => values.data.len() + values.ends.len() * 8,
        };
        values + self.valid.words.len() * 8
    }

    fn value(&self, row: usize, column_type: &ColumnType) -> ValueRef<'_> {
        assert!(row < self.len(), "row {row} of {}", self.len());
        if !self.valid.get(row) {
            return ValueRef::Null;
        }
        match &self.values {
            Values::Int(values) if matches!(column_type, ColumnType::Boolean) => ValueRef::Boolean(values[row] != 0),
            Values::Int(values) => ValueRef::Int(values[row]),
            Values::UInt(values) => ValueRef::UInt(values[row]),
            Values::Float(values) => ValueRef::Float(values[row]),
            Values::Double(values) => ValueRef::Double(values[row]),
            Values::DateTime(values) => match column_type {
                ColumnType::Date => ValueRef::Date(values[row]),
                ColumnType::Timestamp { .. } => ValueRef::Timestamp(values[row]),
                _ => ValueRef::DateTime(values[row]),
            },
            Values::Time(values) => Time::from_micros(values[row]).map_or(ValueRef::Null, ValueRef::Time),
            Values::Text(values) => {
                let text = values.text(row);
                match column_type {
                    ColumnType::Decimal { .. } => ValueRef::Decimal(text),
                    ColumnType::Json => ValueRef::Json(text),
                    _ => ValueRef::Text(text),
                }
            }
            Values::Bytes(values) => match column_type {
                ColumnType::Bit { .. } => ValueRef::Bit(values.get(row)),
                _ => ValueRef::Bytes(values.get(row)),
            },
        }
    }

    pub(crate) fn push_null(&mut self) {
        self.valid.push(false);
        match &mut self.values {
            Values::Int(values) => values.push(0),
            Values::UInt(values) => values.push(0),
            Values::Float(values) => values.push(0.0),
            Values::Double(values) => values.push(0.0),
            Values::DateTime(values) => values.push(DateTime::default()),
            Values::Time(values) => values.push(0),
            Values::Text(values) | Values::Bytes(values) => values.push(&[]),
        }
    }

    fn reserve_as(&mut self, full: &Self) {
        let rows = full.len() + full.len() / 8;
        match (&mut self.values, &full.values) {
            (Values::Int(values), _) => values.reserve(rows),
            (Values::UInt(values), _) => values.reserve(rows),
            (Values::Float(values), _) => values.reserve(rows),
            (Values::Double(values), _) => values.reserve(rows),
            (Values::DateTime(values), _) => values.reserve(rows),
            (Values::Time(values), _) => values.reserve(rows),
            (Values::Text(values) | Values::Bytes(values), Values::Text(full) | Values::Bytes(full)) => {
                values.ends.reserve(rows);
                values.data.reserve(full.data.len() + full.data.len() / 8);
            }
            (Values::Text(_) | Values::Bytes(_), _) => {}
        }
    }

    fn mismatch(&self, found: &str) -> Error {
        let expected = match &self.values {
            Values::Int(_) => "a whole number",
            Values::UInt(_) => "an unsigned number",
            Values::Float(_) | Values::Double(_) => "a floating-point number",
            Values::DateTime(_) => "a date",
            Values::Time(_) => "a time",
            Values::Text(_) => "text",
            Values::Bytes(_) => "bytes",
        };
        Error::decode(format!("the server sent {found} where {expected} was declared"))
    }

    pub(crate) fn push_int(&mut self, value: i64) -> Result<()> {
        match &mut self.values {
            Values::Int(values) => values.push(value),
            Values::UInt(values) => match u64::try_from(value) {
                Ok(value) => values.push(value),
                Err(_) => return Err(self.mismatch("a negative number")),
            },
            _ => return Err(self.mismatch("a whole number")),
        }
        self.valid.push(true);
        Ok(())
    }

    pub(crate) fn push_uint(&mut self, value: u64) -> Result<()> {
        match &mut self.values {
            Values::UInt(values) => values.push(value),
            Values::Int(values) => match i64::try_from(value) {
                Ok(value) => values.push(value),
                Err(_) => return Err(self.mismatch("a number beyond its range")),
            },
            _ => return Err(self.mismatch("an unsigned number")),
        }
        self.valid.push(true);
        Ok(())
    }

    pub(crate) fn push_float(&mut self, value: f32) -> Result<()> {
        let Values::Float(values) = &mut self.values else { return Err(self.mismatch("a 32-bit float")) };
        values.push(value);
        self.valid.push(true);
        Ok(())
    }

    pub(crate) fn push_double(&mut self, value: f64) -> Result<()> {
        let Values::Double(values) = &mut self.values else { return Err(self.mismatch("a 64-bit float")) };
        values.push(value);
        self.valid.push(true);
        Ok(())
    }

    pub(crate) fn push_datetime(&mut self, value: DateTime) -> Result<()> {
        let Values::DateTime(values) = &mut self.values else { return Err(self.mismatch("a date")) };
        values.push(value);
        self.valid.push(true);
        Ok(())
    }

    pub(crate) fn push_time(&mut self, value: Time) -> Result<()> {
        let Values::Time(values) = &mut self.values else { return Err(self.mismatch("a time")) };
        values.push(value.micros());
        self.valid.push(true);
        Ok(())
    }

    pub(crate) fn push_text(&mut self, value: &str) -> Result<()> {
        let Values::Text(values) = &mut self.values else { return Err(self.mismatch("text")) };
        values.push(value.as_bytes());
        self.valid.push(true);
        Ok(())
    }

    /// Pushes a text of which parts were replaced.
    pub(crate) fn push_replaced_text(&mut self, value: &str) -> Result<()> {
        self.push_text(value)?;
        self.replaced.push(self.valid.len - 1);
        Ok(())
    }

    /// Pushes NULL in the place of a date that is no [`DateTime`].
    pub(crate) fn push_nulled_date(&mut self) {
        self.push_null();
        self.replaced.push(self.valid.len - 1);
    }

    pub(crate) fn push_bytes(&mut self, value: &[u8]) -> Result<()> {
        let Values::Bytes(values) = &mut self.values else { return Err(self.mismatch("bytes")) };
        values.push(value);
        self.valid.push(true);
        Ok(())
    }

    /// Pushes the value at `row` of a column of the same type.
    pub(crate) fn push_from(&mut self, other: &Self, row: usize) -> Result<()> {
        let is_replaced = other.replaced.binary_search(&row).is_ok();
        if !other.valid.get(row) {
            if is_replaced {
                self.push_nulled_date()
            } else {
                self.push_null()
            }
            return Ok(());
        }
        match (&mut self.values, &other.values) {
            (Values::Int(into), Values::Int(from)) => into.push(from[row]),
            (Values::UInt(into), Values::UInt(from)) => into.push(from[row]),
            (Values::Float(into), Values::Float(from)) => into.push(from[row]),
            (Values::Double(into), Values::Double(from)) => into.push(from[row]),
            (Values::DateTime(into), Values::DateTime(from)) => into.push(from[row]),
            (Values::Time(into), Values::Time(from)) => into.push(from[row]),
            (Values::Text(into), Values::Text(from)) | (Values::Bytes(into), Values::Bytes(from)) => into.push(from.get(row)),
            _ => return Err(self.mismatch("a value of another column")),
        }
        self.valid.push(true);
        if is_replaced {
            self.replaced.push(self.valid.len - 1);
        }
        Ok(())
    }

    fn truncate(&mut self, rows: usize) {
        self.valid.truncate(rows);
        self.replaced.truncate(self.replaced.partition_point(|&row| row < rows));
        match &mut self.values {
            Values::Int(values) => values.truncate(rows),
            Values::UInt(values) => values.truncate(rows),
            Values::Float(values) => values.truncate(rows),
            Values::Double(values) => values.truncate(rows),
            Values::DateTime(values) => values.truncate(rows),
            Values::Time(values) => values.truncate(rows),
            Values::Text(values) | Values::Bytes(values) => values.truncate(rows),
        }
    }

    fn gather(&self, rows: &[usize]) -> Self {
        let mut valid = Validity::default();
        for &row in rows {
            valid.push(self.valid.get(row));
        }
        let values = match &self.values {
            Values::Int(values) => Values::Int(rows.iter().map(|&row| values[row]).collect()),
            Values::UInt(values) => Values::UInt(rows.iter().map(|&row| values[row]).collect()),
            Values::Float(values) => Values::Float(rows.iter().map(|&row| values[row]).collect()),
            Values::Double(values) => Values::Double(rows.iter().map(|&row| values[row]).collect()),
            Values::DateTime(values) => Values::DateTime(rows.iter().map(|&row| values[row]).collect()),
            Values::Time(values) => Values::Time(rows.iter().map(|&row| values[row]).collect()),
            Values::Text(values) => Values::Text(values.gather(rows)),
            Values::Bytes(values) => Values::Bytes(values.gather(rows)),
        };
        let replaced = match self.replaced.is_empty() {
            true => Vec::new(),
            false => (0..rows.len()).filter(|&at| self.replaced.binary_search(&rows[at]).is_ok()).collect(),
        };
        Self { valid, values, replaced }
    }
}

/// Values of varying length, one after the other.
#[derive(Debug, Clone, Default)]
pub struct VarLen {
    data: Vec<u8>,
    /// Where each value ends; it begins where the one before ends.
    ends: Vec<usize>,
}

impl VarLen {
    /// The bytes of the value at `row`.
    ///
    /// # Panics
    /// If `row` is out of range.
    pub fn get(&self, row: usize) -> &[u8] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.data[start..self.ends[row]]
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The values of some rows, one after the other.
    #[cfg(feature = "duckdb")]
    pub(crate) fn range(&self, rows: std::ops::Range<usize>) -> impl ExactSizeIterator<Item = &[u8]> {
        let mut start = if rows.start == 0 { 0 } else { self.ends[rows.start - 1] };
        self.ends[rows].iter().map(move |&end| &self.data[std::mem::replace(&mut start, end)..end])
    }

    /// The value at `row` of a column of text. What is pushed there is UTF-8, so nothing is ever replaced.
    fn text(&self, row: usize) -> &str {
        std::str::from_utf8(self.get(row)).unwrap_or_default()
    }

    pub(crate) fn push(&mut self, value: &[u8]) {
        self.data.extend_from_slice(value);
        self.ends.push(self.data.len());
    }

    fn truncate(&mut self, rows: usize) {
        if rows < self.ends.len() {
            self.data.truncate(if rows == 0 { 0 } else { self.ends[rows - 1] });
            self.ends.truncate(rows);
        }
    }

    fn gather(&self, rows: &[usize]) -> Self {
        let mut gathered = Self { data: Vec::new(), ends: Vec::with_capacity(rows.len()) };
        for &row in rows {
            gathered.push(self.get(row));
        }
        gathered
    }
}

#[derive(Debug, Clone, Default)]
struct Validity {
    words: Vec<u64>,
    len: usize,
    nulls: usize,
}

impl Validity {
    fn push(&mut self, valid: bool) {
        let bit = self.len % 64;
        if bit == 0 {
            self.words.push(0);
        }
        if valid {
            // A word was pushed above if the last one was full.
            if let Some(word) = self.words.last_mut() {
                *word |= 1 << bit;
            }
        } else {
            self.nulls += 1;
        }
        self.len += 1;
    }

    fn get(&self, row: usize) -> bool {
        row < self.len && self.words[row / 64] & (1 << (row % 64)) != 0
    }

    fn truncate(&mut self, rows: usize) {
        if rows >= self.len {
            return;
        }
        self.len = rows;
        self.words.truncate(rows.div_ceil(64));
        if !rows.is_multiple_of(64)
            && let Some(word) = self.words.last_mut()
        {
            *word &= (1 << (rows % 64)) - 1;
        }
        let valid: usize = self.words.iter().map(|word| word.count_ones() as usize).sum();
        self.nulls = rows - valid;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Column;

    fn table() -> Arc<Table> {
        Arc::new(Table::new(
            "t",
            vec![
                Column::new("id", ColumnType::Int { bits: 64, unsigned: true }, false),
                Column::new("name", ColumnType::Text { length: None }, true),
            ],
        ))
    }

    fn push(batch: &mut Batch, id: u64, name: Option<&str>) {
        batch
            .push_row(|columns| {
                columns[0].push_uint(id)?;
                match name {
                    Some(name) => columns[1].push_text(name),
                    None => {
                        columns[1].push_null();
                        Ok(())
                    }
                }
            })
            .unwrap();
    }

    #[test]
    fn a_row_that_fails_half_way_leaves_nothing_behind() {
        let mut batch = Batch::new(table());
        push(&mut batch, 1, Some("one"));
        assert!(batch.push_row(|columns| columns[0].push_uint(2)).is_err());
        assert!(batch.push_row(|columns| columns[0].push_text("two")).is_err());
        push(&mut batch, u64::MAX, None);
        assert_eq!(batch.len(), 2);
        assert_eq!(batch.value(1, 0), ValueRef::UInt(u64::MAX));
        assert_eq!(batch.value(1, 1), ValueRef::Null);
        assert_eq!(batch.value(0, 1), ValueRef::Text("one"));
    }

    #[test]
    fn truncating_anywhere_equals_never_having_pushed() {
        for kept in [0, 1, 63, 64, 65, 130] {
            let mut batch = Batch::new(table());
            for id in 0..200 {
                push(&mut batch, id, (id % 3 != 0).then_some("x"));
            }
            batch.truncate(kept);
            let nulls = (0..kept).filter(|id| id % 3 == 0).count();
            assert_eq!(batch.columns()[1].null_count(), nulls);
            push(&mut batch, 7, Some("y"));
            assert_eq!(batch.value(kept, 1), ValueRef::Text("y"));
            assert_eq!(batch.columns()[1].validity().len(), (kept + 1).div_ceil(64));
        }
    }

    #[test]
    fn gathered_rows_stand_in_the_order_asked_for() {
        let mut batch = Batch::new(table());
        for (id, name) in [(1, Some("a")), (2, None), (3, Some("c"))] {
            push(&mut batch, id, name);
        }
        let gathered = batch.gather(&[2, 1, 2]);
        let names: Vec<_> = gathered.rows().map(|row| row.get("NAME").unwrap()).collect();
        assert_eq!(names, [ValueRef::Text("c"), ValueRef::Null, ValueRef::Text("c")]);
    }
}
