//! Values that VStream does not carry exactly, asked for from MySQL.
//!
//! | Value | What comes | Seen on |
//! | --- | --- | --- |
//! | `FLOAT`, copy | six digits | v0.23.3 |
//! | `SET` with 64 members, stream | the last member is missing | v0.23.3 |
//! | `ENUM` and `SET` whose members hold characters beyond utf8mb3, stream | question marks, which is how MySQL declares them | MySQL 9.7.4 |
//! | JSON with a TIME or with binary data, stream | see [`super::json`] | v0.23.3 |
//!
//! The present value of the row takes the place of the one that came, if it is one that would have come as that: else the row has changed since,
//! and its change is yet to come, with a value that is asked for in turn. A row that is gone is one whose end is yet to come.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

use crate::batch::{Batch, ColumnData};
use crate::cancel::Cancel;
use crate::change::TableChanges;
use crate::schema::{ColumnType, Table};
use crate::source::Source;
use crate::source::mysql::{quoted, read_some};
use crate::source::vstream::decode::SET_MEMBERS;
use crate::source::vstream::json::{self, Fidelity};
use crate::value::ValueRef;
use crate::{Error, ErrorKind, Result};

/// Rows that one statement asks for.
const KEYS_PER_STATEMENT: usize = 500;

/// Puts the exact values into the rows.
///
/// # Errors
/// `Cancelled`, or what keeps the connection from being made; `Unsupported` for a document that came damaged and cannot be asked for. Other values that
/// cannot be asked for, since their key cannot be written in SQL or the table at the source has other columns by now, stay as they came.
pub(super) fn complete(source: &Source, cancel: &Cancel, changes: &mut TableChanges) -> Result<()> {
    let inexact = changes.take_inexact();
    if inexact.is_empty() {
        return Ok(());
    }
    let table = Arc::clone(changes.table());
    let at_table = |error: Error| error.with_table(table.name());
    let columns: BTreeSet<usize> = inexact.iter().map(|&(_, column)| column).collect();
    let question = Question::new(&table, changes.rows(), &inexact, &columns);
    let mut found: BTreeMap<usize, Exact> =
        columns.iter().map(|&column| (column, Exact::new(table.columns()[column].column_type()))).collect();
    let mut unanswered = question.unaskable;
    for keys in question.keys.chunks(KEYS_PER_STATEMENT) {
        let condition = condition(&question.wanted, keys);
        let answer = match source.with_connection(cancel, |connection| read_some(connection, &question.wanted, &condition)) {
            Ok(answer) => answer,
            Err(error) if matches!(error.kind(), ErrorKind::Source | ErrorKind::Schema) => {
                log::warn!("`{}`: values that the stream does not carry exactly cannot be asked for: {error:#}", table.name());
                unanswered = true;
                break;
            }
            Err(error) => return Err(at_table(error)),
        };
        question.take_from(&answer, changes.rows(), &mut found)?;
    }
    for (column, mut exact) in found {
        for &(row, _) in inexact.iter().filter(|&&(_, of)| of == column) {
            if exact.rows.contains_key(&row) || !is_broken(changes.rows().value(row, column)) {
                continue;
            }
            if unanswered {
                let message = "the server sent a JSON document that is damaged, and it cannot be asked for by its key";
                return Err(at_table(Error::new(ErrorKind::Unsupported, message)).with_column(table.columns()[column].name()));
            }
            // The row is gone by now, and the change that says so is yet to come.
            exact.take_text(row, "null")?;
        }
        changes.replace(column, &exact.values, &exact.rows)?;
    }
    Ok(())
}

/// What is asked, and for which rows.
struct Question<'a> {
    /// The key's columns, then those in doubt.
    wanted: Arc<Table>,
    /// Each column of `wanted` as a column of the changed table.
    columns: Vec<usize>,
    in_doubt: &'a [(usize, usize)],
    keys: Vec<String>,
    rows_of: HashMap<String, Vec<usize>>,
    unaskable: bool,
}

impl<'a> Question<'a> {
    fn new(table: &Table, rows: &Batch, in_doubt: &'a [(usize, usize)], columns: &BTreeSet<usize>) -> Self {
        let key = table.primary_key();
        let columns: Vec<usize> = key.iter().chain(columns).copied().collect();
        let wanted = Arc::new(table.with_columns_at(&columns));
        let mut question = Self { wanted, columns, in_doubt, keys: Vec::new(), rows_of: HashMap::new(), unaskable: false };
        let mut last = None;
        for &(row, _) in in_doubt {
            if last.replace(row) == Some(row) {
                continue;
            }
            let Some(text) = key_text(rows, row, key) else {
                question.unaskable = true;
                continue;
            };
            let rows = question.rows_of.entry(text.clone()).or_default();
            if rows.is_empty() {
                question.keys.push(text);
            }
            rows.push(row);
        }
        question
    }

    /// Takes those values of an answer that come as what came.
    fn take_from(&self, answer: &Batch, changed: &Batch, found: &mut BTreeMap<usize, Exact>) -> Result<()> {
        let key: Vec<usize> = (0..self.wanted.primary_key().len()).collect();
        for at in 0..answer.len() {
            let rows = key_text(answer, at, &key).and_then(|text| self.rows_of.get(&text));
            for &row in rows.into_iter().flatten() {
                for (index, &column) in self.columns.iter().enumerate().skip(key.len()) {
                    let column_type = changed.table().columns()[column].column_type();
                    if self.in_doubt.binary_search(&(row, column)).is_ok()
                        && comes_as(column_type, answer.value(at, index), changed.value(row, column))
                        && let Some(exact) = found.get_mut(&column)
                    {
                        exact.take(row, &answer.columns()[index], at)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Exact values of one column, and which rows they are for.
struct Exact {
    values: ColumnData,
    rows: BTreeMap<usize, usize>,
}

impl Exact {
    fn new(column_type: &ColumnType) -> Self {
        Self { values: ColumnData::new(column_type), rows: BTreeMap::new() }
    }

    fn take(&mut self, row: usize, from: &ColumnData, at: usize) -> Result<()> {
        self.rows.insert(row, self.values.len());
        self.values.push_from(from, at)
    }

    fn take_text(&mut self, row: usize, text: &str) -> Result<()> {
        self.rows.insert(row, self.values.len());
        self.values.push_text(text)
    }
}

/// Whether the value `present` comes as `streamed`.
fn comes_as(column_type: &ColumnType, present: ValueRef<'_>, streamed: ValueRef<'_>) -> bool {
    match (column_type, present, streamed) {
        (ColumnType::Float, ValueRef::Float(present), ValueRef::Float(streamed)) => {
            present == streamed || six_digits(present) == Some(streamed)
        }
        (ColumnType::Enum { .. }, ValueRef::Text(present), ValueRef::Text(streamed)) => shown(present) == streamed,
        (ColumnType::Set { members }, ValueRef::Text(present), ValueRef::Text(streamed)) => {
            let last = members.get(SET_MEMBERS - 1);
            let kept: Vec<&str> = present.split(',').filter(|member| Some(*member) != last.map(String::as_str)).collect();
            let present = shown(present);
            present == streamed || shown(&kept.join(",")) == streamed
        }
        (ColumnType::Json, ValueRef::Json(present), ValueRef::Json(streamed)) => {
            is_broken(ValueRef::Json(streamed)) || json::is_streamed_from(streamed, present)
        }
        _ => false,
    }
}

/// A number as MySQL prints it: with six digits.
fn six_digits(number: f32) -> Option<f32> {
    format!("{:.5e}", f64::from(number)).parse().ok()
}

/// A member as MySQL declares it, in utf8mb3.
fn shown(member: &str) -> String {
    member.chars().map(|character| if u32::from(character) > 0xffff { '?' } else { character }).collect()
}

fn is_broken(value: ValueRef<'_>) -> bool {
    matches!(value, ValueRef::Json(text) if json::as_mysql_prints(text, &mut String::new()) == Fidelity::Broken)
}

/// The key of a row as SQL writes it; `None` for types whose values SQL does not find again by what it writes.
fn key_text(batch: &Batch, row: usize, key: &[usize]) -> Option<String> {
    let mut text = String::new();
    for (index, &column) in key.iter().enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        match batch.value(row, column) {
            ValueRef::Text("") | ValueRef::Bytes([]) => text.push_str("''"),
            // In hexadecimal nothing needs to be escaped.
            ValueRef::Text(value) => write!(text, "_utf8mb4 {}", ValueRef::Bytes(value.as_bytes())).ok()?,
            value @ (ValueRef::Int(_) | ValueRef::UInt(_) | ValueRef::Decimal(_) | ValueRef::Bytes(_) | ValueRef::Bit(_)) => {
                write!(text, "{value}").ok()?;
            }
            ValueRef::Date(date) => write!(text, "'{}'", date.date_text()).ok()?,
            ValueRef::DateTime(at) | ValueRef::Timestamp(at) => write!(text, "'{}'", at.text(6)).ok()?,
            ValueRef::Time(time) => write!(text, "'{}'", time.text(6)).ok()?,
            _ => return None,
        }
    }
    Some(text)
}

/// `` (`a`, `b`) IN ((1, 2), (3, 4)) ``
fn condition(wanted: &Table, keys: &[String]) -> String {
    let names: Vec<String> = wanted.primary_key().iter().map(|&index| quoted(wanted.columns()[index].name())).collect();
    match names.as_slice() {
        [name] => format!("{name} IN ({})", keys.join(", ")),
        names => format!("({}) IN (({}))", names.join(", "), keys.join("), (")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_known_by_the_six_digits_that_mysql_prints() {
        for (present, streamed, expected) in [
            (16_777_216.0, 16_777_200.0, true),
            (3.99, 3.99, true),
            (0.1, 0.2, false),
            (1.175_494_4e-38, 1.175_49e-38, true),
            (-11932.02, -11932.0, true),
        ] {
            let comes_as = comes_as(&ColumnType::Float, ValueRef::Float(present), ValueRef::Float(streamed));
            assert_eq!(comes_as, expected, "{present}");
        }
    }

    #[test]
    fn a_set_is_known_without_its_last_member() {
        let members: Vec<String> = (1..=64).map(|at| format!("m{at}")).collect();
        let set = ColumnType::Set { members: members.clone() };
        assert!(comes_as(&set, ValueRef::Text("m1,m64"), ValueRef::Text("m1")));
        assert!(comes_as(&set, ValueRef::Text("m64"), ValueRef::Text("")));
        assert!(comes_as(&set, ValueRef::Text("m1,m2"), ValueRef::Text("m1,m2")));
        assert!(!comes_as(&set, ValueRef::Text("m2,m64"), ValueRef::Text("m1")));
        let one = ColumnType::Enum { members: vec!["?".into()] };
        assert!(comes_as(&one, ValueRef::Text("🎉"), ValueRef::Text("?")));
        assert!(!comes_as(&one, ValueRef::Text("é"), ValueRef::Text("?")));
    }
}
