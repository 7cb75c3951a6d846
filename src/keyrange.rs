//! Which shards another set of shards can have been split or merged into.

use std::collections::BTreeSet;

/// Whether shards that are only in `old` hold the same keyspace IDs as those that are only in `new`, so that the ones can have become the others by
/// a reshard. Not if the sets are the same.
pub(crate) fn is_reshard(old: &BTreeSet<&str>, new: &BTreeSet<&str>) -> bool {
    let gone = covered(old.difference(new));
    gone.is_some() && gone == covered(new.difference(old))
}

/// The keyspace IDs from the first bound up to the second, which is left out; no second bound is the end of all.
type KeyRange = (Vec<u8>, Option<Vec<u8>>);

/// What shards hold together, as disjoint ranges in order. `None` for no shards, for names that are none of a shard, and for ranges that overlap.
fn covered<'a>(shards: impl Iterator<Item = &'a &'a str>) -> Option<Vec<KeyRange>> {
    let mut ranges = shards.map(|shard| parse(shard)).collect::<Option<Vec<_>>>()?;
    ranges.sort();
    let mut joined: Vec<KeyRange> = Vec::with_capacity(ranges.len());
    for (start, end) in ranges {
        match joined.last_mut() {
            Some((_, last)) => match last {
                None => return None,
                Some(last) if *last > start => return None,
                Some(bound) if *bound == start => *last = end,
                Some(_) => joined.push((start, end)),
            },
            None => joined.push((start, end)),
        }
    }
    (!joined.is_empty()).then_some(joined)
}

/// `-80`, `40-80`, `80-`, and `-` for all. A name without `-`, as `0`, is that of the one shard of an unsharded keyspace (Vitess's
/// `IsShardUsingRangeBasedSharding` looks for nothing else).
fn parse(shard: &str) -> Option<KeyRange> {
    let (start, end) = shard.split_once('-').unwrap_or_default();
    let (start, end) = (bound(start)?, bound(end)?);
    let end = (!end.is_empty()).then_some(end);
    end.as_ref().is_none_or(|end| start < *end).then_some((start, end))
}

/// Hexadecimal digits; `80` and `8000` are the same place.
fn bound(digits: &str) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let byte = |pair: &[u8]| {
        std::str::from_utf8(pair).ok().filter(|pair| !pair.starts_with('+')).and_then(|pair| u8::from_str_radix(pair, 16).ok())
    };
    let mut bytes = digits.as_bytes().chunks(2).map(byte).collect::<Option<Vec<u8>>>()?;
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reshard(old: &[&str], new: &[&str]) -> bool {
        is_reshard(&old.iter().copied().collect(), &new.iter().copied().collect())
    }

    #[test]
    fn shards_that_hold_the_same_keys_are_a_reshard() {
        assert!(reshard(&["-80", "80-"], &["-40", "40-80", "80-"]));
        assert!(reshard(&["-40", "40-80", "80-"], &["-80", "80-"]));
        assert!(reshard(&["-80", "80-"], &["-40", "40-"]));
        assert!(reshard(&["0"], &["-80", "80-"]));
        assert!(reshard(&["-"], &["-8000", "80-"]));
        assert!(reshard(&["-40", "40-80", "80-c0", "c0-"], &["-4000", "4000-80", "80-c0", "c0-"]));
        assert!(reshard(&["-40", "40-80", "80-c0", "c0-"], &["-80", "80-"]));
    }

    #[test]
    fn shards_that_hold_other_keys_are_none() {
        for (old, new) in [
            (&["-80", "80-"][..], &["-80", "80-"][..]),
            (&["-80"], &["-40"]),
            (&["-80"], &["-80", "80-"]),
            (&["-80", "80-"], &["-80"]),
            (&["-80"], &[]),
            (&["-80", "80-"], &["-60", "40-"]),
            (&["-80"], &["-8x"]),
            (&["-80"], &["-8"]),
            (&["-80"], &["-+8"]),
            (&["80-40"], &["80-60", "60-40"]),
        ] {
            assert!(!reshard(old, new), "{old:?} {new:?}");
        }
    }
}
