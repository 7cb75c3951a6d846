//! Rows of one statement.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::encode::{Bounds, RowWriter};
use crate::batch::Batch;
use crate::schema::Table;
use crate::{Error, ErrorKind, Result};

/// Rows of a statement to begin with: more are not faster, and what is lost with a failed one is more.
const ROWS: usize = 1_000;
/// Bytes of a statement after which it takes no more rows.
const BYTES: usize = 1 << 20;
/// No statement is larger, whatever the server takes.
const MOST_BYTES: usize = 64 << 20;
/// What a statement has beside its rows.
const MARGIN: usize = 64 << 10;

/// How much a statement takes, by what the server has said so far.
#[derive(Debug)]
pub(super) struct Limits {
    rows: AtomicUsize,
    most_bytes: usize,
}

impl Limits {
    /// By the server's `max_allowed_packet`.
    pub(super) fn new(max_allowed_packet: usize) -> Self {
        let most_bytes = max_allowed_packet.clamp(MARGIN, MOST_BYTES) - MARGIN / 2;
        Self { rows: AtomicUsize::new(ROWS), most_bytes }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    /// A statement of so many rows was too much.
    pub(super) fn shrink(&self, rows: usize) {
        self.rows.fetch_min((rows / 2).max(1), Ordering::Relaxed);
    }
}

/// Rows as a statement writes them, each in parentheses.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    rows: String,
    /// Where each row ends; a comma follows.
    ends: Vec<usize>,
    /// The keys in parentheses, where they may have to be looked for.
    keys: String,
    key_ends: Vec<usize>,
}

impl Chunk {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.rows.len() + self.keys.len() + self.ends.len() * 16
    }

    /// The rows of a range, with commas between.
    pub(super) fn rows(&self, range: &Range<usize>) -> &str {
        slice(&self.rows, &self.ends, range)
    }

    /// The keys of a range, with commas between.
    pub(super) fn keys(&self, range: &Range<usize>) -> Option<&str> {
        (self.key_ends.len() == self.ends.len()).then(|| slice(&self.keys, &self.key_ends, range))
    }
}

fn slice<'a>(text: &'a str, ends: &[usize], range: &Range<usize>) -> &'a str {
    let start = match range.start {
        0 => 0,
        start => ends.get(start - 1).map_or(text.len(), |end| end + 1),
    };
    let end = range.end.checked_sub(1).and_then(|last| ends.get(last)).copied().unwrap_or(start);
    text.get(start..end).unwrap_or_default()
}

/// Keys are compared with those that came before up to this number, which takes 40 MB.
const MOST_SEEN: usize = 2_000_000;

/// The keys that have come, by their hashes.
#[derive(Debug)]
struct Seen {
    hasher: RandomState,
    hashes: HashSet<u64>,
    /// What it is an error to have twice.
    message: String,
}

/// Gathers rows into chunks.
#[derive(Debug)]
pub(super) struct Gatherer {
    seen: Option<Seen>,
    rows: Vec<u8>,
    ends: Vec<usize>,
    keys: Vec<u8>,
    key_ends: Vec<usize>,
    columns: Vec<(usize, Bounds)>,
    key: Vec<(usize, Bounds)>,
}

impl Gatherer {
    /// `columns` are those that are written, `key` those by which rows are looked for, if any.
    pub(super) fn new(columns: Vec<(usize, Bounds)>, key: Vec<(usize, Bounds)>) -> Self {
        Self { seen: None, rows: Vec::new(), ends: Vec::new(), keys: Vec::new(), key_ends: Vec::new(), columns, key }
    }

    /// Refuses a key that comes twice: which of the two rows would stay is nobody's choice.
    pub(super) fn refusing_repeated_keys(mut self, table: &Table) -> Self {
        let names: Vec<String> = table.primary_key().iter().map(|&index| format!("`{}`", table.columns()[index].name())).collect();
        let message = format!(
            "table `{}` has rows with the same values in {}, which are to identify a row: name columns that do, or use another strategy than `merge`",
            table.name(),
            names.join(", ")
        );
        self.seen = Some(Seen { hasher: RandomState::new(), hashes: HashSet::new(), message });
        self
    }

    /// Takes the rows of a batch and hands over those chunks that are full.
    pub(super) fn take(&mut self, batch: &Batch, limits: &Limits, mut full: impl FnMut(Chunk) -> Result<()>) -> Result<()> {
        let (writer, key_writer) = (RowWriter::new(batch, &self.columns), RowWriter::new(batch, &self.key));
        for row in 0..batch.len() {
            let before = self.rows.len();
            if before > 0 {
                self.rows.push(b',');
            }
            writer.push(&mut self.rows, row)?;
            self.rows.push(b')');
            if self.rows.len() - before > limits.most_bytes {
                let message =
                    format!("a row takes more than {} bytes, which is more than the server takes in a statement", limits.most_bytes);
                return Err(Error::new(ErrorKind::Limit, message));
            }
            if self.rows.len() > limits.most_bytes {
                let last = self.rows.split_off(before);
                full(self.chunk()?)?;
                // Without the comma.
                self.rows.extend_from_slice(&last[1..]);
            }
            self.ends.push(self.rows.len());
            if !self.key.is_empty() {
                if !self.keys.is_empty() {
                    self.keys.push(b',');
                }
                let before = self.keys.len();
                key_writer.push(&mut self.keys, row)?;
                self.keys.push(b')');
                if let Some(seen) = &mut self.seen
                    && seen.hashes.len() < MOST_SEEN
                    && !seen.hashes.insert(seen.hasher.hash_one(&self.keys[before..]))
                {
                    return Err(Error::new(ErrorKind::Schema, seen.message.clone()));
                }
                self.key_ends.push(self.keys.len());
            }
            if self.rows.len() >= BYTES || self.ends.len() >= limits.rows() {
                full(self.chunk()?)?;
            }
        }
        Ok(())
    }

    /// What is left.
    pub(super) fn rest(&mut self) -> Result<Option<Chunk>> {
        if self.ends.is_empty() { Ok(None) } else { self.chunk().map(Some) }
    }

    fn chunk(&mut self) -> Result<Chunk> {
        let text = |bytes: &mut Vec<u8>| {
            let next = Vec::with_capacity(bytes.len());
            String::from_utf8(std::mem::replace(bytes, next)).map_err(|_| Error::decode("a text is not UTF-8"))
        };
        let (rows, keys) = (text(&mut self.rows)?, text(&mut self.keys)?);
        Ok(Chunk { rows, ends: std::mem::take(&mut self.ends), keys, key_ends: std::mem::take(&mut self.key_ends) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::schema::{Column, ColumnType};

    fn batch(values: &[&str]) -> Batch {
        let columns = vec![
            Column::new("id", ColumnType::Int { bits: 32, unsigned: false }, false),
            Column::new("v", ColumnType::Text { length: None }, true),
        ];
        let mut batch = Batch::new(Arc::new(Table::new("t", columns)));
        for (row, value) in (0..).zip(values) {
            batch.push_row(|columns| columns[0].push_int(row).and_then(|()| columns[1].push_text(value))).unwrap();
        }
        batch
    }

    fn gatherer() -> Gatherer {
        let free = |index| (index, Bounds::default());
        Gatherer::new(vec![free(0), free(1)], vec![free(0)])
    }

    #[test]
    fn chunks_end_at_the_number_of_rows_and_can_be_divided() {
        let limits = Limits::new(1 << 20);
        limits.shrink(6);
        let (mut gatherer, mut chunks) = (gatherer(), Vec::new());
        gatherer
            .take(&batch(&["a", "b", "c", "d"]), &limits, |chunk| {
                chunks.push(chunk);
                Ok(())
            })
            .unwrap();
        chunks.extend(gatherer.rest().unwrap());
        assert_eq!(chunks.iter().map(Chunk::len).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(chunks[0].rows(&(0..3)), "(0,'a'),(1,'b'),(2,'c')");
        assert_eq!(chunks[0].rows(&(1..3)), "(1,'b'),(2,'c')");
        assert_eq!(chunks[0].keys(&(0..2)), Some("(0),(1)"));
        assert_eq!(chunks[1].rows(&(0..1)), "(3,'d')");
        assert!(gatherer.rest().unwrap().is_none());
    }

    #[test]
    fn no_statement_is_larger_than_the_server_takes() {
        let limits = Limits::new(MARGIN);
        let long = "x".repeat(20_000);
        let (mut gatherer, mut chunks) = (gatherer(), Vec::new());
        gatherer
            .take(&batch(&[&long, &long, "a"]), &limits, |chunk| {
                chunks.push(chunk);
                Ok(())
            })
            .unwrap();
        chunks.extend(gatherer.rest().unwrap());
        assert_eq!(chunks.iter().map(Chunk::len).collect::<Vec<_>>(), [1, 2]);
        assert!(chunks.iter().all(|chunk| chunk.rows(&(0..chunk.len())).len() <= limits.most_bytes));
        let error = gatherer.take(&batch(&["x".repeat(40_000).as_str()]), &limits, |_| Ok(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
    }
}
