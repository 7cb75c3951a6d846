//! Sums over rows, and the keys in those that differ.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
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

/// Rows of the chunks that differ, first as the source has them, then as the destination does and, where the source is being changed, as it has them then.
pub(super) struct Suspects {
    chunks: BTreeSet<usize>,
    /// The only keys to look at, if there are some.
    only: Option<HashSet<Key>>,
    /// By the key's text.
    rows: HashMap<Key, Sight>,
    /// Keys that the destination has more than once.
    repeated: Vec<Key>,
    bytes: usize,
    is_partial: bool,
}

/// The hashes of a row wherever there is one.
#[derive(Debug, Clone, Copy)]
struct Sight {
    chunk: usize,
    before: Option<u64>,
    stored: Option<u64>,
    /// Which change has brought the stored row, where that is known.
    version: Option<u64>,
    after: Option<u64>,
}

impl Sight {
    /// Either what was there before the destination was looked at, or after: then it has changed, and the destination has that already.
    fn is_same(&self) -> bool {
        self.stored == self.before || self.stored == self.after
    }

    fn add_to(&self, found: &mut Differences, key: Key) {
        let into = match (self.before, self.stored) {
            (Some(_), None) => &mut found.missing,
            (None, _) => &mut found.extra,
            (Some(_), Some(_)) => &mut found.different,
        };
        into.push(key);
    }
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
        Self { chunks, only: None, rows: HashMap::new(), repeated: Vec::new(), bytes: 0, is_partial }
    }

    /// Takes only these keys, which are in the chunks.
    pub(super) fn only(self, keys: Vec<Key>) -> Self {
        Self { only: Some(keys.into_iter().collect()), ..self }
    }

    /// Takes rows of the source.
    pub(super) fn expect(&mut self, digest: &Digest, batch: &Batch) {
        for row in batch.rows() {
            if let Some((chunk, key)) = self.suspect(digest, batch, row) {
                self.bytes += size_of(&key);
                let hash = Some(digest.of(row.values()));
                self.rows.insert(key, Sight { chunk, before: hash, stored: None, version: None, after: hash });
                if self.bytes > MAX_BYTES && self.chunks.len() > 1 {
                    self.shrink();
                }
            }
        }
    }

    /// Takes rows of the destination, once those of the source are all there. What they have beyond `width` columns tells their version.
    pub(super) fn find(&mut self, digest: &Digest, batch: &Batch, width: usize) {
        for row in batch.rows() {
            let Some((chunk, key)) = self.suspect(digest, batch, row) else { continue };
            let stored = Some(digest.of(row.values().take(width)));
            let version = (width < row.values().len()).then(|| digest.of(row.values().skip(width)));
            let size = size_of(&key);
            let has_room = self.bytes + size <= 2 * MAX_BYTES;
            match self.rows.entry(key) {
                Entry::Occupied(mut sight) if sight.get().stored.is_none() => {
                    (sight.get_mut().stored, sight.get_mut().version) = (stored, version);
                    continue;
                }
                _ if !has_room => {
                    self.is_partial = true;
                    continue;
                }
                Entry::Occupied(sight) => self.repeated.push(sight.key().clone()),
                Entry::Vacant(place) => drop(place.insert(Sight { chunk, before: None, stored, version, after: None })),
            }
            self.bytes += size;
        }
    }

    /// Forgets the rows that are the same, and what the source has of the others now: [`Suspects::look_again`] is to take all its rows once more.
    pub(super) fn begin_again(&mut self) {
        self.rows.retain(|_, sight| sight.before != sight.stored);
        self.rows.values_mut().for_each(|sight| sight.after = None);
    }

    /// Takes rows of the source, which may have changed since.
    pub(super) fn look_again(&mut self, digest: &Digest, batch: &Batch) {
        for row in batch.rows() {
            let Some((_, key)) = self.suspect(digest, batch, row) else { continue };
            if let Some(sight) = self.rows.get_mut(&key) {
                sight.after = Some(digest.of(row.values()));
            }
        }
    }

    /// The chunk and the key of a row, if it is to be looked at.
    fn suspect(&self, digest: &Digest, batch: &Batch, row: Row<'_>) -> Option<(usize, Key)> {
        let columns = batch.table().primary_key();
        let chunk = digest.chunk_of(columns, row);
        if !self.chunks.contains(&chunk) {
            return None;
        }
        let key: Key = columns.iter().map(|&column| row.value(column).to_string()).collect();
        self.only.as_ref().is_none_or(|only| only.contains(&key)).then_some((chunk, key))
    }

    /// Leaves half of the chunks.
    fn shrink(&mut self) {
        let middle = self.chunks.iter().nth(self.chunks.len() / 2).copied().unwrap_or(0);
        self.chunks.split_off(&middle);
        self.rows.retain(|_, sight| sight.chunk < middle);
        self.bytes = self.rows.keys().map(size_of).sum();
        self.is_partial = true;
    }
}

/// Rounds of looking at the source, catching up with it, looking at the destination and at the source once more, until it is clear which rows differ.
///
/// A row of a source in use can change between two looks, and back. Whether it has is told by the stored row: if that has the same version in two
/// rounds, nothing has come for it between them, so the source had one and the same row all the while, and has been looked at meanwhile. Of a row that is
/// not stored there is no version; it is missing if the source has the same in several rounds.
#[derive(Default)]
pub(super) struct Rounds {
    found: Differences,
    /// Rows of which it is not clear yet: what was seen of them last, and in how many rounds that was the same.
    open: HashMap<Key, (Sight, u32)>,
}

/// Rounds in which a row has to look the same before it is said to differ: one that is stored, and one that is not.
const STORED_ROUNDS: u32 = 2;
const MISSING_ROUNDS: u32 = 3;

impl Rounds {
    /// Takes what a round has seen; `is_last_word` if nothing else can be learned from another.
    pub(super) fn take(&mut self, suspects: Suspects, is_last_word: bool) {
        self.found.is_partial |= suspects.is_partial;
        let before = std::mem::take(&mut self.open);
        // The first round looks at all keys, the others at some of them once more.
        if suspects.only.is_none() {
            self.found.extra.extend(suspects.repeated);
        }
        for (key, sight) in suspects.rows {
            if sight.is_same() {
                continue;
            }
            let seen = |sight: &Sight| (sight.before, sight.stored, sight.version, sight.after);
            let is_still = sight.before == sight.after;
            let rounds = match before.get(&key) {
                _ if !is_still => 0,
                Some((last, rounds)) if seen(last) == seen(&sight) => rounds + 1,
                _ => 1,
            };
            let needed = if sight.stored.is_some() { STORED_ROUNDS } else { MISSING_ROUNDS };
            if rounds >= needed || is_still && is_last_word {
                sight.add_to(&mut self.found, key);
            } else {
                self.open.insert(key, (sight, rounds));
            }
        }
    }

    /// The keys to look at in the next round; none if all is clear.
    pub(super) fn open(&self) -> Vec<Key> {
        self.open.keys().cloned().collect()
    }

    pub(super) fn into_differences(self) -> Differences {
        self.found
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
        suspects.find(&digest, &batch(stored), 2);
        let mut rounds = Rounds::default();
        rounds.take(suspects, true);
        assert!(rounds.open().is_empty());
        let Differences { missing, extra, different, is_partial } = rounds.into_differences();
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

    /// One round as a key is seen in it: at the source, at the destination with a version, and at the source again.
    type Round<'a> = (Option<&'a str>, Option<(&'a str, &'a str)>, Option<&'a str>);

    /// What rounds say of a key, `changing` if it is not clear.
    fn judged(rounds: &[Round<'_>], can_catch_up: bool) -> String {
        let digest = Digest::new();
        let at_source = |value: Option<&str>| batch(&value.map(|value| (1, value)).into_iter().collect::<Vec<_>>());
        let all: Vec<(usize, u64)> = (0..CHUNKS).map(|chunk| (chunk, 0)).collect();
        let mut judged = Rounds::default();
        for (before, stored, after) in rounds {
            let mut suspects = Suspects::new(&all);
            suspects.expect(&digest, &at_source(*before));
            if let Some((value, version)) = stored {
                let columns = vec![Column::new("version", ColumnType::Text { length: None }, true)];
                let table = Arc::new((**at_source(None).table()).clone().with_columns(columns));
                let mut batch = Batch::new(table);
                let push = |columns: &mut [crate::batch::ColumnData]| {
                    columns[0].push_int(1)?;
                    columns[1].push_text(value)?;
                    columns[2].push_text(version)
                };
                batch.push_row(push).unwrap();
                suspects.find(&digest, &batch, 2);
            }
            suspects.begin_again();
            suspects.look_again(&digest, &at_source(*after));
            judged.take(suspects, !can_catch_up);
        }
        let open = judged.open();
        let found = judged.into_differences();
        let lists = [("missing", found.missing), ("extra", found.extra), ("different", found.different), ("changing", open)];
        lists.iter().filter(|(_, keys)| !keys.is_empty()).map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_row_that_changes_meanwhile_is_judged_by_what_it_was_and_became() {
        let (a, b, c) = (Some("a"), Some("b"), Some("c"));
        let (stored_a, stored_b) = (Some(("a", "1")), Some(("b", "2")));
        for (before, stored, after, expected) in [
            (a, stored_a, b, ""),
            (a, stored_b, b, ""),
            (a, None, None, ""),
            (None, stored_a, a, ""),
            (a, stored_a, None, ""),
            (None, None, a, ""),
            (a, stored_b, a, "different"),
            (a, None, a, "missing"),
            (None, stored_a, None, "extra"),
            (a, stored_b, c, "changing"),
            (a, stored_b, None, "changing"),
            (a, None, b, "changing"),
            (None, stored_a, b, "changing"),
        ] {
            // Without more to learn, a row that does not change is judged at once; of one that does, nothing is said.
            assert_eq!(judged(&[(before, stored, after)], false), expected, "{before:?} {stored:?} {after:?}");
        }
        // One that has changed, and back, is not said to differ.
        for (rounds, expected) in [
            (&[(a, stored_b, a)][..], "changing"),
            (&[(a, stored_b, a), (a, stored_b, a)], "different"),
            (&[(a, stored_b, a), (a, Some(("b", "3")), a)], "changing"),
            (&[(a, stored_b, a), (a, Some(("b", "3")), a), (a, Some(("b", "3")), a)], "different"),
            (&[(a, stored_b, a), (a, Some(("a", "3")), a)], ""),
            (&[(None, stored_b, None)], "changing"),
            (&[(None, stored_b, None), (None, None, None)], ""),
            (&[(None, stored_b, None), (None, stored_b, None)], "extra"),
            (&[(a, None, a), (a, None, a)], "changing"),
            (&[(a, None, a), (b, None, b), (b, None, b)], "changing"),
            (&[(a, None, a), (a, None, a), (a, None, a)], "missing"),
            (&[(a, stored_b, c), (c, stored_b, c), (c, stored_b, c)], "different"),
        ] {
            assert_eq!(judged(rounds, true), expected, "{rounds:?}");
        }
    }

    #[test]
    fn a_key_that_is_stored_twice_is_one_too_many() {
        assert_eq!(
            differences(&[(1, "a")], &[(1, "a"), (1, "a")]),
            [vec![""; 0], vec!["1"], vec![""; 0]].map(|keys| keys.into_iter().map(str::to_owned).collect::<Vec<_>>())
        );
    }

    #[test]
    fn values_that_change_places_show() {
        assert_eq!(differences(&[(1, "a"), (2, "b")], &[(1, "b"), (2, "a")])[2], ["1", "2"]);
    }

    #[test]
    fn chunks_without_room_are_left_out_and_said_to_be() {
        let suspects = Suspects::new(&[(7, MAX_SUSPECTS), (9, 1)]);
        assert_eq!(suspects.chunks, BTreeSet::from([7]));
        assert!(suspects.is_partial);
        let mut suspects = Suspects::new(&[(1, 1), (5, 1), (9, 1)]);
        let sight = |chunk| Sight { chunk, before: Some(0), stored: None, version: None, after: Some(0) };
        suspects.rows = (0..10).map(|chunk| (vec![chunk.to_string()], sight(chunk))).collect();
        suspects.shrink();
        assert_eq!(suspects.chunks, BTreeSet::from([1]));
        assert!(suspects.rows.values().all(|sight| sight.chunk < 5));
    }
}
