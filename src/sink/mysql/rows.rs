//! Statements that bring the changes of one table.
//!
//! Each says itself that it concerns older rows only, by `_cdc_lsn`, so that all of them can be repeated in their order.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::time::Instant;

use super::MySql;
use super::checkpoint::{content, is_deleted};
use super::chunk::{Chunk, Gatherer};
use super::encode::{Bounds, RowWriter, literal};
use super::is_loose;
use super::load::key_columns;
use super::session::{Failure, Fault};
use super::table::qualified;
use super::target::Target;
use crate::batch::{Batch, Values};
use crate::change::{Change, DELETED_COLUMN, LSN_COLUMN, Op, SYNCED_AT_COLUMN, TableChanges};
use crate::policy::{ChangedByName, ValueChange};
use crate::server::quoted;
use crate::sink::Deletes;
use crate::sink::checkpoint::LSN_HEAD;
use crate::sink::reduce::{Put, Reduced, reduce};
use crate::value::DateTime;
use crate::{Error, ErrorKind, Result};

/// Rows that are put into the form of statements at a time.
const PART_ROWS: usize = 4_096;
/// Rows that one statement marks as deleted: it compares each with each.
const MARKED_AT_ONCE: usize = 200;
/// Rows that one statement deletes.
const DELETED_AT_ONCE: usize = 1_000;
/// Rows that are deleted at a time where it is not said which.
const SWEPT_AT_ONCE: usize = 5_000;

/// What came of the changes of a table that are being written.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// How many rows there are has to be counted.
    pub(super) is_unsure: bool,
    /// Rows that changed in part and were not there. They are deleted later in what comes once more, or the table is not what its position says.
    pub(super) missing: BTreeSet<Vec<u8>>,
    pub(super) changing: ChangedByName,
}

/// How statements are run.
pub(super) struct Apply<'a> {
    pub(super) store: &'a mut MySql,
    pub(super) deletes: Deletes,
    /// Each statement is a transaction, and is tried again. Else all are in one.
    pub(super) is_apart: bool,
}

/// Condition for rows that are older than a change.
fn is_older(lsn: &str) -> String {
    let column = quoted(LSN_COLUMN);
    format!("({column} IS NULL OR {column} < {})", literal(lsn.get(..LSN_HEAD).unwrap_or(lsn)))
}

impl Apply<'_> {
    pub(super) fn change(&mut self, target: &mut Target, progress: &mut Progress, change: &Change) -> Result<(), Failure> {
        match change {
            Change::Rows(changes) => self.rows(target, progress, changes),
            Change::Truncated { lsn, at, .. } => self.delete_where(target, &is_older(lsn), lsn, *at),
            Change::Swept { before, lsn, at, .. } => {
                let column = quoted(LSN_COLUMN);
                self.delete_where(target, &format!("({column} IS NULL OR {column} < {})", literal(before)), lsn, *at)
            }
            Change::Columns { .. } | Change::CopiedAnew { .. } | Change::Ended { .. } => Ok(()),
        }
    }

    /// Runs a statement; how many rows it changed.
    fn run(&mut self, target: &Target, progress: &mut Progress, sql: &str) -> Result<u64, Failure> {
        let attempted = format!("changes cannot be written to `{}`", target.current());
        if !self.is_apart {
            return self.store.session.try_execute(sql, &attempted, &target.shape.names);
        }
        let mut retry = self.store.session.retry();
        loop {
            let began = Instant::now();
            let failure = match self.store.session.try_execute(sql, &attempted, &target.shape.names) {
                Ok(affected) => return Ok(affected),
                Err(failure) => failure,
            };
            if !failure.fault.may_pass() {
                return Err(failure);
            }
            self.store.session.recover(&mut retry, began, failure)?;
            // It may have been carried out, on one shard at least.
            progress.is_unsure = true;
        }
    }

    fn count(&mut self, sql: &str) -> Result<u64, Failure> {
        let mut retry = self.store.session.retry();
        loop {
            let began = Instant::now();
            let failure = match self.store.session.try_count(sql, "rows cannot be counted") {
                Ok(number) => {
                    return number.ok_or_else(|| Error::new(ErrorKind::Sink, "a count is not a number").into());
                }
                Err(failure) => failure,
            };
            if !self.is_apart || !failure.fault.may_pass() {
                return Err(failure);
            }
            self.store.session.recover(&mut retry, began, failure)?;
        }
    }

    /// How many of the rows with these keys are marked as deleted. Without such rows in the table there is nothing to ask.
    fn marked_among(&mut self, target: &Target, keys: &str, and: &str) -> Result<u64, Failure> {
        if target.content.deleted == 0 {
            return Ok(0);
        }
        let (table, tuple) = (qualified(target.current()), &target.shape.tuple);
        self.count(&format!("SELECT count(*) FROM {table} WHERE {} AND {tuple} IN ({keys}){and}", is_deleted()))
    }

    fn rows(&mut self, target: &mut Target, progress: &mut Progress, changes: &TableChanges) -> Result<(), Failure> {
        // Rows that came in part need what is stored, so they divide the others.
        let mut start = 0;
        while start < changes.len() {
            let absent = changes.absent(start);
            if !absent.is_empty() {
                self.update_part(target, progress, changes, start)?;
                start += 1;
                continue;
            }
            let end = match changes.has_absent() {
                true => (start + 1..changes.len()).find(|&row| !changes.absent(row).is_empty()).unwrap_or(changes.len()),
                false => changes.len(),
            };
            for rows in segments(target, changes, start..end) {
                self.merge_run(target, progress, changes, rows)?;
            }
            start = end;
        }
        Ok(())
    }

    /// Merges complete rows.
    fn merge_run(
        &mut self,
        target: &mut Target,
        progress: &mut Progress,
        changes: &TableChanges,
        rows: Range<usize>,
    ) -> Result<(), Failure> {
        let Reduced { puts, marks } = reduce(changes, rows, self.deletes)?;
        if !progress.missing.is_empty() {
            let writer = key_writer(changes);
            for row in puts.iter().map(|put| put.image).chain(marks.iter().copied()) {
                progress.missing.remove(&key_text(&writer, row)?);
            }
        }
        match self.deletes {
            Deletes::Soft => marks.chunks(MARKED_AT_ONCE).try_for_each(|part| self.mark(target, progress, changes, part))?,
            Deletes::Hard => marks.chunks(DELETED_AT_ONCE).try_for_each(|part| self.delete(target, progress, changes, part))?,
        }
        let (mut replaced, mut revived) = (0, 0);
        for part in puts.chunks(PART_ROWS) {
            let batch = changes.to_stored(&target.stored, part)?;
            let mut gatherer = Gatherer::new(target.shape.columns.clone(), target.shape.key.clone());
            let mut chunks = Vec::new();
            gatherer.take(&batch, &self.store.limits, |chunk| {
                chunks.push(chunk);
                Ok(())
            })?;
            chunks.extend(gatherer.rest()?);
            let mut first = 0;
            for chunk in &chunks {
                let (found, marked) = self.put(target, progress, (&batch, first), chunk)?;
                replaced += found;
                revived += marked;
                first += chunk.len();
            }
            for (column, data) in batch.table().columns().iter().zip(batch.columns()) {
                if !data.replaced().is_empty() {
                    progress.changing.add(column.name(), ValueChange::TextReplaced, data.replaced().len() as u64);
                }
            }
        }
        let is_live = |put: &&Put| changes.ops()[put.last] != Op::Delete;
        let live = puts.iter().filter(is_live).count() as u64;
        let last = puts.iter().filter(is_live).map(|put| put.last).max().map(|last| changes.lsn(last));
        target.content.remove(replaced, revived);
        target.content.add(live, puts.len() as u64 - live, last);
        Ok(())
    }

    /// Stores the rows of a chunk, which begin in a batch at `first`: how many took the place of others, and how many of those were marked as deleted.
    fn put(
        &mut self,
        target: &mut Target,
        progress: &mut Progress,
        (batch, first): (&Batch, usize),
        chunk: &Chunk,
    ) -> Result<(u64, u64), Failure> {
        let (table, suffix) = (qualified(target.current()), target.shape.upsert_suffix(&target.stored));
        let names: Vec<String> = target.shape.columns.iter().map(|&(index, _)| quoted(target.stored.columns()[index].name())).collect();
        let insert = format!("INSERT INTO {table} ({}) VALUES ", names.join(", "));
        let (mut replaced, mut revived) = (0, 0);
        let mut parts: Vec<Range<usize>> = std::iter::once(0..chunk.len()).collect();
        while let Some(part) = parts.pop() {
            let rows = part.len() as u64;
            let keys = chunk.keys(&part).unwrap_or_default();
            if !target.shape.moving.is_empty() {
                self.clear_strays(target, progress, batch, (first + part.start)..(first + part.end), keys)?;
            }
            let marked = self.marked_among(target, keys, "")?;
            let affected = match self.run(target, progress, &[&insert, chunk.rows(&part), &suffix].concat()) {
                Ok(affected) => affected,
                Err(failure) if failure.fault == Fault::TooMuch && self.is_apart && part.len() > 1 => {
                    let middle = part.start + part.len() / 2;
                    self.store.limits.shrink(part.len());
                    parts.push(middle..part.end);
                    parts.push(part.start..middle);
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            if affected < rows {
                // A row that has the same version already does not count as changed; one that is stored nowhere neither.
                progress.is_unsure = true;
                let found = self.count(&format!("SELECT count(*) FROM {table} WHERE {} IN ({keys})", target.shape.tuple))?;
                if found != rows {
                    let message = format!("the server took {rows} rows for `{}`, but has stored {found} of them", target.current());
                    return Err(Error::new(ErrorKind::Sink, message).into());
                }
            }
            replaced += affected.saturating_sub(rows).min(rows);
            revived += marked;
        }
        Ok((replaced, revived))
    }

    /// Deletes the stored versions of rows that lie on another shard than the new ones, or whose key is spelled in another way.
    fn clear_strays(
        &mut self,
        target: &mut Target,
        progress: &mut Progress,
        batch: &Batch,
        rows: Range<usize>,
        keys: &str,
    ) -> Result<(), Failure> {
        let of_key = target.shape.key.iter().copied();
        let columns: Vec<(usize, Bounds)> = of_key.chain(target.shape.moving.iter().map(|&index| (index, Bounds::default()))).collect();
        let names: Vec<String> = columns
            .iter()
            .enumerate()
            .map(|(at, &(index, _))| {
                let column = &target.stored.columns()[index];
                match at >= target.shape.key.len() && is_loose(column) {
                    true => format!("CAST(CONVERT({} USING utf8mb4) AS BINARY)", quoted(column.name())),
                    false => quoted(column.name()),
                }
            })
            .collect();
        let writer = RowWriter::new(batch, &columns);
        let mut same = Vec::new();
        for row in rows {
            if !same.is_empty() {
                same.push(b',');
            }
            writer.push(&mut same, row)?;
            same.push(b')');
        }
        let same = text(same)?;
        let elsewhere = format!(" AND ({}) NOT IN ({same})", names.join(", "));
        let marked = self.marked_among(target, keys, &elsewhere)?;
        let sql = format!("DELETE FROM {} WHERE {} IN ({keys}){elsewhere}", qualified(target.current()), target.shape.tuple);
        let gone = self.run(target, progress, &sql)?;
        target.content.remove(gone, marked);
        Ok(())
    }

    /// Marks stored rows as deleted. A key that is not there is left out: a copy under way may send it.
    fn mark(&mut self, target: &mut Target, progress: &mut Progress, changes: &TableChanges, rows: &[usize]) -> Result<(), Failure> {
        let (keys, newest) = keys_of(changes, rows)?;
        let (table, tuple) = (qualified(target.current()), &target.shape.tuple);
        let case = |column: &str, value: &dyn Fn(usize) -> String| {
            let when: Vec<String> =
                rows.iter().zip(&keys).map(|(&row, key)| format!("WHEN {tuple} = {key} THEN {}", literal(&value(row)))).collect();
            format!("{0} = CASE {1} ELSE {0} END", quoted(column), when.join(" "))
        };
        let first = rows.first().map(|&row| changes.committed_at(row));
        let synced = match first {
            Some(at) if rows.iter().all(|&row| changes.committed_at(row) == at) => {
                format!("{} = {}", quoted(SYNCED_AT_COLUMN), literal(&at.text(6)))
            }
            _ => case(SYNCED_AT_COLUMN, &|row| changes.committed_at(row).text(6)),
        };
        let list = keys.join(",");
        let again = self.marked_among(target, &list, "")?;
        let sql = format!(
            "UPDATE {table} SET {synced}, {} = 1, {}{} WHERE {tuple} IN ({list}) AND {}",
            quoted(DELETED_COLUMN),
            case(LSN_COLUMN, &|row| changes.lsn(row)),
            target.shape.kept(&target.stored, &[]),
            is_older(&newest)
        );
        let marked = self.run(target, progress, &sql)?;
        target.content.mark(marked, again);
        Ok(())
    }

    /// Deletes stored rows.
    fn delete(&mut self, target: &mut Target, progress: &mut Progress, changes: &TableChanges, rows: &[usize]) -> Result<(), Failure> {
        let (keys, newest) = keys_of(changes, rows)?;
        let list = keys.join(",");
        let marked = self.marked_among(target, &list, "")?;
        let (table, tuple) = (qualified(target.current()), &target.shape.tuple);
        let gone = self.run(target, progress, &format!("DELETE FROM {table} WHERE {tuple} IN ({list}) AND {}", is_older(&newest)))?;
        target.content.remove(gone, marked);
        Ok(())
    }

    /// Updates one row by the columns that came.
    fn update_part(&mut self, target: &mut Target, progress: &mut Progress, changes: &TableChanges, row: usize) -> Result<(), Failure> {
        let batch = changes.to_stored(&target.stored, &[Put { image: row, last: row }])?;
        let key = key_text(&key_writer(changes), row)?;
        let key = text(key)?;
        let absent = changes.absent(row);
        let (mut set, mut whole) = (Vec::new(), format!("{} = {key}", target.shape.tuple));
        let mut set_columns = Vec::new();
        for &(index, bounds) in &target.shape.columns {
            if absent.contains(&index) || target.stored.primary_key().contains(&index) {
                continue;
            }
            let mut value = Vec::new();
            RowWriter::new(&batch, &[(index, bounds)]).push(&mut value, 0)?;
            value.push(b')');
            let (name, value) = (quoted(target.stored.columns()[index].name()), text(value)?);
            // Where the row lies cannot be changed by what is a part of it.
            match target.shape.moving.contains(&index) {
                true => whole.push_str(&format!(" AND {name} = {value}")),
                false => {
                    set.push(format!("{name} = {value}"));
                    set_columns.push(index);
                }
            }
            let replaced = batch.columns()[index].replaced().len() as u64;
            if replaced > 0 {
                progress.changing.add(target.stored.columns()[index].name(), ValueChange::TextReplaced, replaced);
            }
        }
        let revived = self.marked_among(target, &key, "")?;
        let table = qualified(target.current());
        let kept = target.shape.kept(&target.stored, &set_columns);
        let sql = format!("UPDATE {table} SET {}{kept} WHERE {whole} AND {}", set.join(", "), is_older(&changes.lsn(row)));
        if self.run(target, progress, &sql)? == 0 {
            let stored = self.count(&format!("SELECT count(*) FROM {table} WHERE {whole}"))?;
            if stored > 0 {
                progress.is_unsure = true;
            } else if target.is_repeating {
                progress.missing.insert(key.into_bytes());
                return Ok(());
            } else {
                return Err(not_there(target).into());
            }
        }
        target.content.remove(revived, revived);
        target.content.add(revived, 0, Some(changes.lsn(row)));
        Ok(())
    }

    /// Deletes rows as chosen.
    fn delete_where(&mut self, target: &mut Target, condition: &str, lsn: &str, at: DateTime) -> Result<(), Failure> {
        let table = qualified(target.current());
        let (verb, condition) = match self.deletes {
            Deletes::Hard => (format!("DELETE FROM {table}"), condition.to_owned()),
            Deletes::Soft => (
                format!(
                    "UPDATE {table} SET {} = 1, {} = {}, {} = {}{}",
                    quoted(DELETED_COLUMN),
                    quoted(SYNCED_AT_COLUMN),
                    literal(&at.text(6)),
                    quoted(LSN_COLUMN),
                    literal(lsn),
                    target.shape.kept(&target.stored, &[])
                ),
                format!("{condition} AND NOT {}", is_deleted()),
            ),
        };
        self.everywhere(target, &verb, &condition)?;
        target.content = content(self.store, target.current())?;
        Ok(())
    }

    /// Deletes all rows.
    pub(super) fn empty(&mut self, target: &Target) -> Result<(), Failure> {
        self.everywhere(target, &format!("DELETE FROM {}", qualified(target.current())), "1 = 1")
    }

    /// Performs on all rows of a condition what makes them leave it, in parts if there is no transaction for all.
    fn everywhere(&mut self, target: &Target, verb: &str, condition: &str) -> Result<(), Failure> {
        // Counted anew afterwards.
        let mut progress = Progress::default();
        if !self.is_apart {
            return self.run(target, &mut progress, &format!("{verb} WHERE {condition}")).map(drop);
        }
        let mut rows = SWEPT_AT_ONCE;
        loop {
            let done = match self.store.is_sharded {
                // vtgate does not limit what is changed in several shards unless it tracks the schema.
                true => self.by_keys(target, &mut progress, (verb, condition), rows),
                false => self.run(target, &mut progress, &format!("{verb} WHERE {condition} LIMIT {rows}")),
            };
            match done {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(failure) if failure.fault == Fault::TooMuch && rows > 1 => rows /= 2,
                Err(failure) => return Err(failure),
            }
        }
    }

    fn by_keys(&mut self, target: &Target, progress: &mut Progress, (verb, condition): (&str, &str), rows: usize) -> Result<u64, Failure> {
        let key = key_columns(&target.shape.found);
        let from = format!("{} WHERE {condition}", qualified(target.current()));
        let attempted = format!("rows of `{}` cannot be read", target.current());
        let Some(among) = self.store.session.keys_among(&key, &from, rows, &attempted)? else { return Ok(0) };
        let affected = self.run(target, progress, &format!("{verb} WHERE {} AND {condition}", among.condition))?;
        if affected == 0 && !progress.is_unsure {
            // They would be found for ever.
            let message = format!("rows of `{}` cannot be changed: the server does not find them by their keys", target.current());
            return Err(Error::new(ErrorKind::Sink, message).into());
        }
        progress.is_unsure = false;
        Ok(among.rows)
    }
}

/// A row that changed in part has to be there.
pub(super) fn not_there(target: &Target) -> Error {
    let name = target.current();
    let message = format!("a row of `{name}` changed in part, but is not in the destination: rebuild it with full_refresh");
    Error::new(ErrorKind::Conflict, message).with_table(name)
}

fn text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| Error::decode("a text is not UTF-8"))
}

fn key_writer(changes: &TableChanges) -> RowWriter<'_> {
    let key = changes.table().primary_key().iter().map(|&index| (index, Bounds { is_key: true, ..Bounds::default() }));
    RowWriter::new(changes.rows(), &key.collect::<Vec<_>>())
}

fn key_text(writer: &RowWriter<'_>, row: usize) -> Result<Vec<u8>> {
    let mut key = Vec::new();
    writer.push(&mut key, row)?;
    key.push(b')');
    Ok(key)
}

/// The keys of some rows as statements write them, and the newest position.
fn keys_of(changes: &TableChanges, rows: &[usize]) -> Result<(Vec<String>, String)> {
    let writer = key_writer(changes);
    let keys = rows.iter().map(|&row| key_text(&writer, row).and_then(text)).collect::<Result<Vec<_>>>()?;
    let newest = rows.iter().max().map(|&row| changes.lsn(row)).unwrap_or_default();
    Ok((keys, newest))
}

/// Divides rows so that in no part a deleted key comes again in another spelling: to the destination it is the same key, and what is done to it has to
/// happen in order.
fn segments(target: &Target, changes: &TableChanges, rows: Range<usize>) -> Vec<Range<usize>> {
    if !target.shape.is_loose || changes.ops()[rows.clone()].iter().all(|op| *op != Op::Delete) {
        return vec![rows];
    }
    let mut segments = Vec::new();
    let mut start = rows.start;
    // The deleted keys, by what all spellings have in common; `None` for spellings of which nothing is known.
    let mut deleted: HashMap<Option<Vec<u8>>, Vec<u8>> = HashMap::new();
    for row in rows.clone() {
        let (exact, folded) = spelled(changes, row);
        if changes.ops()[row] == Op::Delete {
            deleted.insert(folded, exact);
            continue;
        }
        let is_other = match &folded {
            None => deleted.values().any(|other| *other != exact),
            Some(_) => deleted.get(&folded).is_some_and(|other| *other != exact) || deleted.get(&None).is_some_and(|other| *other != exact),
        };
        if is_other {
            segments.push(start..row);
            start = row;
            deleted.clear();
        }
    }
    segments.push(start..rows.end);
    segments
}

/// A key, and what is the same for all keys that some collation might take for it; `None` if that is not known.
fn spelled(changes: &TableChanges, row: usize) -> (Vec<u8>, Option<Vec<u8>>) {
    let (mut exact, mut folded) = (Vec::new(), Some(Vec::new()));
    for &index in changes.table().primary_key() {
        let data = &changes.rows().columns()[index];
        let mut value = Vec::new();
        match data.values() {
            Values::Int(values) | Values::Time(values) => value.extend_from_slice(&values[row].to_le_bytes()),
            Values::UInt(values) => value.extend_from_slice(&values[row].to_le_bytes()),
            Values::Float(values) => value.extend_from_slice(&values[row].to_le_bytes()),
            Values::Double(values) => value.extend_from_slice(&values[row].to_le_bytes()),
            Values::DateTime(values) => value.extend_from_slice(values[row].text(6).as_bytes()),
            Values::Text(values) | Values::Bytes(values) => value.extend_from_slice(values.get(row)),
        }
        exact.extend_from_slice(&value.len().to_le_bytes());
        exact.extend_from_slice(&value);
        let value = if is_loose(&changes.table().columns()[index]) { fold(&value) } else { Some(value) };
        folded = folded.zip(value).map(|(mut folded, value)| {
            folded.extend_from_slice(&value.len().to_le_bytes());
            folded.extend_from_slice(&value);
            folded
        });
    }
    (exact, folded)
}

/// What a text has in common with all that a collation might take for it. Letters that are the same in some language count as one; of what is not
/// ASCII nothing is known.
fn fold(text: &[u8]) -> Option<Vec<u8>> {
    let letter = |byte: &u8| {
        Some(match byte.to_ascii_lowercase() {
            b'w' => b'v',
            b'y' | b'j' => b'i',
            other if other == b' ' || other.is_ascii_graphic() => other,
            _ => return None,
        })
    };
    let mut folded = text.iter().map(letter).collect::<Option<Vec<u8>>>()?;
    while folded.last() == Some(&b' ') {
        folded.pop();
    }
    Some(folded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_key_have_something_in_common() {
        for (one, other) in [("a", "A"), ("Wert", "vert"), ("a", "a  "), ("x y", "X I"), ("", " ")] {
            assert_eq!(fold(one.as_bytes()), fold(other.as_bytes()), "{one} {other}");
            assert!(fold(one.as_bytes()).is_some());
        }
        assert_ne!(fold(b"a"), fold(b"b"));
        for unknown in ["ä", "a\u{1}", "ss\u{df}"] {
            assert_eq!(fold(unknown.as_bytes()), None);
        }
    }
}
