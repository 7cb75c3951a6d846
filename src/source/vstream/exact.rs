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
use crate::source::mysql::read_some;
use crate::source::vstream::decode::SET_MEMBERS;
use crate::source::vstream::json::{self, Fidelity};
use crate::value::ValueRef;
use crate::{Error, ErrorKind, Result};

/// Rows that one statement asks for.
const KEYS_PER_STATEMENT: usize = 500;

/// Puts the exact values into the rows.
///
/// # Errors
/// `Cancelled`, or what keeps the connection from being made. Where the table at the source does not have the columns any more, the values
/// stay as they are.
pub(super) fn complete(source: &Source, cancel: &Cancel, changes: &mut TableChanges) -> Result<()> {
    let inexact = changes.take_inexact();
    if inexact.is_empty() {
        return Ok(());
    }
    let table = Arc::clone(changes.table());
    let at_table = |error: Error| error.with_table(table.name());
    let columns: BTreeSet<usize> = inexact.iter().map(|&(_, column)| column).collect();
    // The key columns first, so that their indexes are known.
    let asked: Vec<usize> = table.primary_key().iter().copied().chain(columns.iter().copied()).collect();
    let wanted = Arc::new(table.with_columns_at(&asked));
    let mut rows_of: HashMap<String, Vec<usize>> = HashMap::new();
    let mut keys = Vec::new();
    for row in inexact.iter().map(|&(row, _)| row).collect::<BTreeSet<_>>() {
        let Some(key) = key_text(changes.rows(), row, table.primary_key()) else {
            log::warn!("`{}`: rows with such a key cannot be asked for", table.name());
            break;
        };
        let rows = rows_of.entry(key.clone()).or_default();
        if rows.is_empty() {
            keys.push(key);
        }
        rows.push(row);
    }
    let in_doubt: BTreeSet<(usize, usize)> = inexact.iter().copied().collect();
    let mut found: BTreeMap<usize, Exact> =
        columns.iter().map(|&column| (column, Exact::new(table.columns()[column].column_type()))).collect();
    let key_columns: Vec<usize> = (0..table.primary_key().len()).collect();
    for keys in keys.chunks(KEYS_PER_STATEMENT) {
        let condition = condition(&wanted, keys);
        let answer = source.with_connection(cancel, |connection| read_some(connection, &wanted, &condition));
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if matches!(error.kind(), ErrorKind::Source | ErrorKind::Schema) => {
                log::warn!("`{}`: values that the stream does not carry exactly cannot be asked for: {error:#}", table.name());
                break;
            }
            Err(error) => return Err(at_table(error)),
        };
        for (row, column, at) in matches(changes.rows(), &answer, &key_columns, &rows_of, &asked, &in_doubt) {
            if let Some(exact) = found.get_mut(&column) {
                exact.take(row, answer.columns().get(at.1), at.0)?;
            }
        }
    }
    for (column, mut exact) in found {
        if matches!(table.columns()[column].column_type(), ColumnType::Json) {
            let broken = inexact
                .iter()
                .filter(|&&(row, of)| of == column && !exact.rows.contains_key(&row) && is_broken(changes.rows().value(row, column)));
            for &(row, _) in broken.collect::<Vec<_>>() {
                exact.take_text(row, "null")?;
            }
        }
        changes.replace(column, &exact.values, &exact.rows)?;
    }
    Ok(())
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

    fn take(&mut self, row: usize, from: Option<&ColumnData>, at: usize) -> Result<()> {
        let Some(from) = from else { return Ok(()) };
        self.rows.insert(row, self.values.len());
        self.values.push_from(from, at)
    }

    fn take_text(&mut self, row: usize, text: &str) -> Result<()> {
        self.rows.insert(row, self.values.len());
        self.values.push_text(text)
    }
}

/// The values to take: the row and column they are for, and the row and column of the answer.
fn matches<'a>(
    changed: &'a Batch,
    answer: &'a Batch,
    key_columns: &'a [usize],
    rows_of: &'a HashMap<String, Vec<usize>>,
    asked: &'a [usize],
    in_doubt: &'a BTreeSet<(usize, usize)>,
) -> impl Iterator<Item = (usize, usize, (usize, usize))> + 'a {
    (0..answer.len()).flat_map(move |at| {
        let rows = key_text(answer, at, key_columns).and_then(|key| rows_of.get(&key)).map_or(&[][..], Vec::as_slice);
        rows.iter().flat_map(move |&row| {
            let values = asked.iter().enumerate().skip(key_columns.len());
            values.filter_map(move |(index, &column)| {
                let column_type = changed.table().columns()[column].column_type();
                let comes_as =
                    in_doubt.contains(&(row, column)) && comes_as(column_type, answer.value(at, index), changed.value(row, column));
                comes_as.then_some((row, column, (at, index)))
            })
        })
    })
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
        let hex = |text: &mut String, bytes: &[u8]| bytes.iter().try_for_each(|byte| write!(text, "{byte:02x}"));
        match batch.value(row, column) {
            ValueRef::Int(number) => write!(text, "{number}").ok()?,
            ValueRef::UInt(number) => write!(text, "{number}").ok()?,
            ValueRef::Decimal(number) => text.push_str(number),
            ValueRef::Text("") | ValueRef::Bytes([]) => text.push_str("''"),
            // In hexadecimal nothing needs to be escaped.
            ValueRef::Text(value) => {
                text.push_str("_utf8mb4 0x");
                hex(&mut text, value.as_bytes()).ok()?;
            }
            ValueRef::Bytes(value) | ValueRef::Bit(value) => {
                text.push_str("0x");
                hex(&mut text, value).ok()?;
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
    let names: Vec<String> =
        wanted.primary_key().iter().map(|&index| format!("`{}`", wanted.columns()[index].name().replace('`', "``"))).collect();
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
