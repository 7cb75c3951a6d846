//! What a batch of changes comes to: of the changes to one key only the last counts.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use super::Deletes;
use super::frontier::FirstKey;
use crate::batch::{Batch, ColumnData, Values};
use crate::change::{Op, TableChanges, bookkeeping_columns};
use crate::schema::{Column, Table};
use crate::{Error, ErrorKind, Result};

/// A row to be stored: the image of one change, and the position, time and deletion of the key's last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Put {
    pub(crate) image: usize,
    pub(crate) last: usize,
}

pub(super) struct Reduced {
    pub(super) puts: Vec<Put>,
    /// Deletes of keys that no image came for.
    pub(super) marks: Vec<usize>,
}

/// What a key has come to within a batch.
struct Outcome {
    image: Option<usize>,
    last: usize,
    /// Another key with the same hash.
    next: Option<u32>,
}

/// Leaves the last change of each key.
pub(super) fn reduce(changes: &TableChanges, rows: std::ops::Range<usize>, deletes: Deletes) -> Result<Reduced> {
    let key: Vec<&ColumnData> = changes.table().primary_key().iter().map(|&index| &changes.rows().columns()[index]).collect();
    let image = |row: usize| (changes.ops()[row] != Op::Delete).then_some(row);
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(rows.len());
    if is_ascending(changes, &key, rows.clone()) {
        outcomes.extend(rows.map(|row| Outcome { image: image(row), last: row, next: None }));
    } else {
        let hasher = RandomState::new();
        // The first key with each hash.
        let mut index: HashMap<u64, u32> = HashMap::with_capacity(rows.len());
        let mut text = Vec::with_capacity(64);
        for row in rows {
            text.clear();
            for column in &key {
                push_key(&mut text, column, row)?;
            }
            let new = u32::try_from(outcomes.len()).map_err(|_| Error::new(ErrorKind::Limit, "a batch has more than 2^32 rows"))?;
            let first = *index.entry(hasher.hash_one(&text)).or_insert(new);
            let same = |at: u32| key.iter().all(|column| same_value(column, outcomes[at as usize].last, row));
            let next = |at: u32| outcomes.get(at as usize).and_then(|outcome| outcome.next);
            let found = std::iter::successors((first != new).then_some(first), |&at| next(at)).find(|&at| same(at));
            if let Some(at) = found {
                let outcome = &mut outcomes[at as usize];
                // A deleted row keeps its last image, so that a soft delete leaves what was there.
                outcome.image = image(row).or(outcome.image);
                outcome.last = row;
                continue;
            }
            let mut outcome = Outcome { image: image(row), last: row, next: None };
            if let Some(first) = outcomes.get_mut(first as usize) {
                outcome.next = first.next.replace(new);
            }
            outcomes.push(outcome);
        }
    }
    let mut reduced = Reduced { puts: Vec::with_capacity(outcomes.len()), marks: Vec::new() };
    for Outcome { image, last, .. } in outcomes {
        let deleted = changes.ops()[last] == Op::Delete;
        match image {
            Some(image) if !deleted || deletes == Deletes::Soft => reduced.puts.push(Put { image, last }),
            _ => reduced.marks.push(last),
        }
    }
    Ok(reduced)
}

/// Whether each row's key is greater than the one before, as in a copy: then no key is there twice.
fn is_ascending(changes: &TableChanges, key: &[&ColumnData], mut rows: std::ops::Range<usize>) -> bool {
    let table = changes.table();
    let (Some(&column), Some(&index)) = (key.first(), table.primary_key().first()) else { return false };
    // A NULL is found by who looks at each key.
    if key.iter().any(|column| column.null_count() > 0) {
        return false;
    }
    let first_key = |row| FirstKey::of(column, table.columns()[index].column_type(), row);
    let Some(start) = rows.next() else { return true };
    let mut before = first_key(start);
    rows.all(|row| {
        let key = first_key(row);
        std::mem::replace(&mut before, key).order(key) == Some(std::cmp::Ordering::Less)
    })
}

fn push_key(text: &mut Vec<u8>, column: &ColumnData, row: usize) -> Result<()> {
    match column.values() {
        Values::Int(values) => text.extend_from_slice(&values[row].to_le_bytes()),
        Values::UInt(values) => text.extend_from_slice(&values[row].to_le_bytes()),
        Values::Time(values) => text.extend_from_slice(&values[row].to_le_bytes()),
        // Zero has no sign in a key: neither the source nor the destinations have two rows with both.
        Values::Float(values) => text.extend_from_slice(&(values[row] + 0.0).to_le_bytes()),
        Values::Double(values) => text.extend_from_slice(&(values[row] + 0.0).to_le_bytes()),
        Values::DateTime(values) => text.extend_from_slice(values[row].text(6).as_bytes()),
        Values::Text(values) | Values::Bytes(values) => {
            let value = values.get(row);
            text.extend_from_slice(&value.len().to_le_bytes());
            text.extend_from_slice(value);
        }
    }
    if column.is_valid(row) { Ok(()) } else { Err(Error::protocol("a change has NULL in its primary key")) }
}

fn same_value(column: &ColumnData, one: usize, other: usize) -> bool {
    match column.values() {
        Values::Int(values) | Values::Time(values) => values[one] == values[other],
        Values::UInt(values) => values[one] == values[other],
        Values::Float(values) => values[one] == values[other],
        Values::Double(values) => values[one] == values[other],
        Values::DateTime(values) => values[one] == values[other],
        Values::Text(values) | Values::Bytes(values) => values.get(one) == values.get(other),
    }
}

/// The keys that a merge concerns, with the bookkeeping of those that are marked as deleted.
pub(super) fn key_batch(changes: &TableChanges, stored: &Table, puts: &[Put], marks: &[usize]) -> Result<Batch> {
    let key = changes.table().primary_key();
    let columns: Vec<Column> = key.iter().map(|&index| stored.columns()[index].clone()).chain(bookkeeping_columns()).collect();
    let mut batch = Batch::new(Arc::new(Table::new("_ingest_keys", columns)));
    let width = key.len();
    let rows = puts.iter().map(|put| (put.image, false)).chain(marks.iter().map(|&row| (row, true)));
    for (row, is_mark) in rows {
        batch.push_row(|columns| {
            for (into, &index) in columns.iter_mut().zip(key) {
                into.push_from(&changes.rows().columns()[index], row)?;
            }
            match &mut columns[width..] {
                [lsn, deleted, at] => {
                    deleted.push_int(i64::from(is_mark))?;
                    if is_mark {
                        lsn.push_text(&changes.lsn(row))?;
                        at.push_datetime(changes.committed_at(row))
                    } else {
                        lsn.push_null();
                        at.push_null();
                        Ok(())
                    }
                }
                _ => Err(Error::protocol("a batch of keys has the wrong columns")),
            }
        })?;
    }
    Ok(batch)
}
