//! Sums over rows, and the keys in those that differ.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher as _, Hash as _, Hasher, RandomState};

use super::Key;
use crate::batch::{Batch, Row};
use crate::value::ValueRef;

/// So many that one with a difference has few rows: of a million rows there are 15 in each.
const CHUNKS: usize = 1 << 16;

/// Keys that are looked at one by one hold no more than this; what differs beyond is not listed.
const MAX_SUSPECTS: u64 = 1 << 18;
const MAX_BYTES: usize = 64 << 20;

/// Hashes of rows and keys, the same for both sides of a comparison and other ones in the next.
pub(super) struct Digest(RandomState);

impl Digest {
    pub(super) fn new() -> Self {
        Self(RandomState::new())
    }

    fn of<'v>(&self, values: impl Iterator<Item = ValueRef<'v>>) -> u64 {
        let mut hasher = self.0.build_hasher();
        values.for_each(|value| hash_value(value, &mut hasher));
        hasher.finish()
    }

    /// The chunk of a row, by its key or, without one, by all of it.
    fn chunk_of(&self, key: &[usize], row: Row<'_>) -> usize {
        let hash = match key {
            [] => self.of(row.values()),
            _ => self.of(key.iter().map(|&column| row.value(column))),
        };
        // The remainder is below the number of chunks.
        usize::try_from(hash % CHUNKS as u64).unwrap_or(0)
    }
}

fn hash_value(value: ValueRef<'_>, hasher: &mut impl Hasher) {
    std::mem::discriminant(&value).hash(hasher);
    match value {
        ValueRef::Null => {}
        ValueRef::Boolean(value) => value.hash(hasher),
        ValueRef::Int(number) => number.hash(hasher),
        ValueRef::UInt(number) => number.hash(hasher),
        ValueRef::Float(number) => number.to_bits().hash(hasher),
        ValueRef::Double(number) => number.to_bits().hash(hasher),
        ValueRef::Decimal(text) | ValueRef::Text(text) | ValueRef::Json(text) => text.hash(hasher),
        ValueRef::Date(at) | ValueRef::DateTime(at) | ValueRef::Timestamp(at) => at.hash(hasher),
        ValueRef::Time(time) => time.hash(hasher),
        ValueRef::Bytes(bytes) | ValueRef::Bit(bytes) => bytes.hash(hasher),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Chunk {
    rows: u64,
    sum: u64,
}

/// One side of a table, summed up.
pub(super) struct Chunks(Vec<Chunk>);

impl Default for Chunks {
    fn default() -> Self {
        Self(vec![Chunk::default(); CHUNKS])
    }
}

impl Chunks {
    pub(super) fn add(&mut self, digest: &Digest, batch: &Batch) {
        for row in batch.rows() {
            let chunk = &mut self.0[digest.chunk_of(batch.table().primary_key(), row)];
            chunk.rows += 1;
            // A sum and not an exclusive or, in which two equal rows would not show.
            chunk.sum = chunk.sum.wrapping_add(digest.of(row.values()));
        }
    }

    pub(super) fn rows(&self) -> u64 {
        self.0.iter().map(|chunk| chunk.rows).sum()
    }

    /// The chunks that differ, with the rows in them on both sides.
    pub(super) fn differing(&self, other: &Self) -> Vec<(usize, u64)> {
        let pairs = self.0.iter().zip(&other.0).enumerate();
        pairs.filter(|(_, (one, other))| one != other).map(|(index, (one, other))| (index, one.rows + other.rows)).collect()
    }
}

/// Rows of the chunks that differ.
pub(super) struct Suspects {
    chunks: BTreeSet<usize>,
    /// By the key's text: its chunk, and the hash of the row at the source.
    expected: HashMap<Key, (usize, u64)>,
    found: Differences,
    bytes: usize,
}

/// Keys of rows that differ.
#[derive(Default)]
pub(super) struct Differences {
    pub(super) missing: Vec<Key>,
    pub(super) extra: Vec<Key>,
    pub(super) different: Vec<Key>,
    /// Whether there are, or may be, others.
    pub(super) is_partial: bool,
}

impl Suspects {
    /// Takes as many of the chunks as there is room for.
    pub(super) fn new(differing: &[(usize, u64)]) -> Self {
        let mut rows = 0;
        let mut chunks = BTreeSet::new();
        for &(chunk, of_chunk) in differing {
            rows += of_chunk;
            if rows > MAX_SUSPECTS && !chunks.is_empty() {
                break;
            }
            chunks.insert(chunk);
        }
        let is_partial = chunks.len() < differing.len();
        Self { chunks, expected: HashMap::new(), found: Differences { is_partial, ..Differences::default() }, bytes: 0 }
    }

    /// Takes rows of the source.
    pub(super) fn expect(&mut self, digest: &Digest, batch: &Batch) {
        for row in batch.rows() {
            if let Some((chunk, key)) = self.suspect(digest, batch, row) {
                self.bytes += size_of(&key);
                self.expected.insert(key, (chunk, digest.of(row.values())));
                if self.bytes > MAX_BYTES && self.chunks.len() > 1 {
                    self.shrink();
                }
            }
        }
    }

    /// Takes rows of the destination, once those of the source are all there.
    pub(super) fn find(&mut self, digest: &Digest, batch: &Batch) {
        for row in batch.rows() {
            let Some((_, key)) = self.suspect(digest, batch, row) else { continue };
            let into = match self.expected.remove(&key) {
                // A key that is there twice is found only once.
                None => &mut self.found.extra,
                Some((_, expected)) if expected != digest.of(row.values()) => &mut self.found.different,
                Some(_) => continue,
            };
            self.bytes += size_of(&key);
            if self.bytes > 2 * MAX_BYTES {
                self.found.is_partial = true;
            } else {
                into.push(key);
            }
        }
    }

    /// What differs; the keys that were expected and not found are missing.
    pub(super) fn into_differences(self) -> Differences {
        Differences { missing: self.expected.into_keys().collect(), ..self.found }
    }

    /// The chunk and the key of a row, if it is in one of the chunks.
    fn suspect(&self, digest: &Digest, batch: &Batch, row: Row<'_>) -> Option<(usize, Key)> {
        let columns = batch.table().primary_key();
        let chunk = digest.chunk_of(columns, row);
        self.chunks.contains(&chunk).then(|| (chunk, columns.iter().map(|&column| row.value(column).to_string()).collect()))
    }

    /// Leaves half of the chunks.
    fn shrink(&mut self) {
        let middle = self.chunks.iter().nth(self.chunks.len() / 2).copied().unwrap_or(0);
        self.chunks.split_off(&middle);
        self.expected.retain(|_, (chunk, _)| *chunk < middle);
        self.bytes = self.expected.keys().map(size_of).sum();
        self.found.is_partial = true;
    }
}

/// About how much memory a key takes.
fn size_of(key: &Key) -> usize {
    key.iter().map(|part| part.len() + 24).sum::<usize>() + 64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::schema::{Column, ColumnType, Table};

    fn batch(rows: &[(i64, &str)]) -> Batch {
        let columns = vec![
            Column::new("id", ColumnType::Int { bits: 64, unsigned: false }, false),
            Column::new("note", ColumnType::Text { length: None }, true),
        ];
        let mut batch = Batch::new(Arc::new(Table::new("t", columns).with_primary_key(&["id"]).unwrap()));
        for (id, note) in rows {
            batch
                .push_row(|columns| {
                    columns[0].push_int(*id)?;
                    columns[1].push_text(note)
                })
                .unwrap();
        }
        batch
    }

    /// Missing, extra and different keys.
    fn differences(source: &[(i64, &str)], stored: &[(i64, &str)]) -> [Vec<String>; 3] {
        let digest = Digest::new();
        let (mut one, mut other) = (Chunks::default(), Chunks::default());
        one.add(&digest, &batch(source));
        other.add(&digest, &batch(stored));
        assert_eq!((one.rows(), other.rows()), (source.len() as u64, stored.len() as u64));
        let differing = one.differing(&other);
        let mut suspects = Suspects::new(&differing);
        suspects.expect(&digest, &batch(source));
        suspects.find(&digest, &batch(stored));
        let Differences { missing, extra, different, is_partial } = suspects.into_differences();
        assert!(!is_partial);
        [missing, extra, different].map(|keys| {
            let mut keys: Vec<String> = keys.into_iter().map(|key| key.join(",")).collect();
            keys.sort();
            keys
        })
    }

    #[test]
    fn rows_in_any_order_are_the_same() {
        assert_eq!(differences(&[(1, "a"), (2, "b"), (3, "c")], &[(3, "c"), (1, "a"), (2, "b")]), [[""; 0], [""; 0], [""; 0]]);
    }

    #[test]
    fn each_kind_of_difference_is_found_by_its_key() {
        let source = [(1, "a"), (2, "b"), (3, "c"), (4, "d")];
        let found = differences(&source, &[(1, "a"), (3, "C"), (4, "d"), (4, "d"), (5, "e")]);
        assert_eq!(found, [vec!["2"], vec!["4", "5"], vec!["3"]].map(|keys| keys.into_iter().map(str::to_owned).collect::<Vec<_>>()));
    }

    #[test]
    fn values_that_change_places_show() {
        assert_eq!(differences(&[(1, "a"), (2, "b")], &[(1, "b"), (2, "a")])[2], ["1", "2"]);
    }

    #[test]
    fn chunks_without_room_are_left_out_and_said_to_be() {
        let suspects = Suspects::new(&[(7, MAX_SUSPECTS), (9, 1)]);
        assert_eq!(suspects.chunks, BTreeSet::from([7]));
        assert!(suspects.found.is_partial);
        let mut suspects = Suspects::new(&[(1, 1), (5, 1), (9, 1)]);
        suspects.expected = (0..10).map(|chunk| (vec![chunk.to_string()], (chunk, 0))).collect();
        suspects.shrink();
        assert_eq!(suspects.chunks, BTreeSet::from([1]));
        assert!(suspects.expected.values().all(|(chunk, _)| *chunk < 5));
    }
}
