//! Entry points for the fuzz targets in `fuzz/`; not part of the API.
//!
//! An entry point takes the fuzzer's bytes and panics if a property does not hold. To add one: a function here, its line in [`TARGETS`], a
//! file of two lines in `fuzz/fuzz_targets/`, its `[[bin]]` in `fuzz/Cargo.toml`, and seeds in `fuzz/corpus/<name>/`, each named after
//! what it shows. The test below replays every seed, and fails for a target or corpus that is not in the list.
//!
//! To run one for a minute, without nightly and sanitizer (this crate has no unsafe code to sanitize here):
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run -s none uri -- -max_total_time=60`.

use crate::gtid::GtidSet;
use crate::options::{SinkOptions, SourceOptions};
use crate::position::{Lsn, ServerShard, Vgtid, judge};
use crate::wire::{Field, PackedVarints, Reader, zigzag};
use crate::{ErrorKind, PositionFault};

/// What runs a target once.
pub type Target = fn(&[u8]);

/// Every entry point with the name of its target and corpus.
pub const TARGETS: &[(&str, Target)] = &[("gtid_set", gtid_set), ("position", position), ("uri", uri), ("wire", wire)];

/// A URI, read as source and as destination: neither what is printed of the options nor of the error shows the password.
pub fn uri(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    match SourceOptions::from_uri(text) {
        Ok(options) => {
            if options.password().is_some() {
                let another = options.clone().with_password("another");
                assert_eq!(format!("{options:?}"), format!("{another:?}"), "Debug depends on the password");
            }
            // A grpc_host that is derived is as good as one that is given, and an encrypted connection is one for both.
            assert_eq!(options.capture().is_some(), options.grpc_host().is_some());
            assert_eq!(options.capture().is_some(), options.grpc_tls().is_some());
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Config);
            let shown = format!("{error:?}");
            for secret in secrets(text) {
                assert!(!shown.contains(secret), "the error shows a piece of the password: {shown}");
            }
        }
    }
    if let Err(error) = SinkOptions::from_uri(text) {
        assert!(matches!(error.kind(), ErrorKind::Config | ErrorKind::Unsupported));
    }
}

/// What could be a piece of a password: the words between the login's colon and the last `@`. Only long ones that stand nowhere else in the
/// URI and cannot be a word of ours, which has no digit and capital letter in it.
fn secrets(uri: &str) -> impl Iterator<Item = &str> {
    let login = uri.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')).map_or("", |(login, _)| login);
    let password = login.split_once(':').map_or("", |(_, password)| password);
    password.split(|c: char| !c.is_ascii_alphanumeric()).filter(move |word| {
        word.len() >= 6
            && word.bytes().any(|byte| byte.is_ascii_digit())
            && word.bytes().any(|byte| byte.is_ascii_uppercase())
            && uri.matches(word).count() == 1
    })
}

/// A stored position, as the text of a `_cdc_lsn` or as the bytes of a VGTID: what is read prints and reads as the same, and a server with
/// just that history can be resumed from.
pub fn position(input: &[u8]) {
    if let Ok(vgtid) = Vgtid::decode(input) {
        assert_eq!(Vgtid::decode(&vgtid.encode()).ok().as_ref(), Some(&vgtid), "encode and decode");
        judge_by_itself(&vgtid);
    }
    let Ok(text) = str::from_utf8(input) else { return };
    match Lsn::parse(text) {
        Ok(lsn) => {
            let printed = lsn.to_string();
            assert_eq!(Lsn::parse(&printed).ok().as_ref(), Some(&lsn), "parse, print, parse");
            for next in [lsn.next_row(), lsn.next_ordinal()].into_iter().flatten() {
                assert!(next > lsn && next.to_string() > printed, "the next one is not greater");
            }
            lsn.payload().into_iter().for_each(judge_by_itself);
        }
        Err(error) => assert_eq!(error.position_fault(), Some(PositionFault::Unreadable)),
    }
}

fn judge_by_itself(vgtid: &Vgtid) {
    let Some(first) = vgtid.shards().first() else { return };
    let server: Vec<_> = vgtid
        .shards()
        .iter()
        .map(|shard| {
            let history = shard.gtid_set().unwrap_or_default();
            ServerShard { shard: shard.shard().into(), executed: history.clone(), purged: history }
        })
        .collect();
    if let Err(error) = judge(vgtid, first.keyspace(), &server) {
        assert!(matches!(error.position_fault(), Some(PositionFault::Unreadable | PositionFault::Keyspace)), "{error:?}");
    }
}

/// Two GTID sets with a `|` between them, or one: they print and read as the same, and obey the laws of sets.
pub fn gtid_set(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let (left, right) = text.split_once('|').unwrap_or((text, ""));
    let (Ok(left), Ok(right)) = (GtidSet::parse(left), GtidSet::parse(right)) else { return };
    let mut both = left.clone();
    both.union(&right);
    let (rest, other) = (left.subtract(&right), right.subtract(&left));
    for set in [&left, &right, &both, &rest, &other] {
        for text in [set.to_string(), set.to_vitess()] {
            assert_eq!(GtidSet::parse(&text).ok().as_ref(), Some(set), "parse, print, parse");
        }
        assert!(both.contains(set) && set.subtract(set).is_empty());
        assert_eq!(set.is_empty(), set.sources().next().is_none());
    }
    assert_eq!(left.contains(&right), other.is_empty());
    assert_eq!(right.contains(&left), rest.is_empty());
    assert_eq!(both.subtract(&right), rest);
    // Taking away what is common leaves the rest again, and the parts make up the whole.
    let common = left.subtract(&rest);
    assert_eq!(common, right.subtract(&other));
    assert_eq!(left.subtract(&common), rest);
    let mut whole = rest;
    whole.union(&common);
    assert_eq!(whole, left);
}

/// A protobuf message: all that it holds lies within it, and the reader ends.
pub fn wire(input: &[u8]) {
    let mut reader = Reader::new(input);
    let mut held = 0;
    while let Ok(Some((number, field))) = reader.next() {
        assert!((1..1 << 29).contains(&number));
        held += match field {
            Field::Varint(value) => {
                // Zigzag sends the sign to the lowest bit.
                assert_eq!(zigzag(value) < 0, value % 2 == 1);
                2
            }
            Field::Fixed64(_) => 9,
            Field::Fixed32(_) => 5,
            Field::Bytes(bytes) => {
                assert!(PackedVarints::new(bytes).count() <= bytes.len());
                bytes.len() + 2
            }
        };
    }
    assert!(held <= input.len(), "more was read than is there");
    assert!(matches!(reader.next(), Ok(None)), "a reader that ended goes on");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The names in a folder of `fuzz/`, without extension.
    fn names(folder: &str) -> BTreeSet<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder);
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn every_target_has_an_entry_point_and_seeds() {
        let listed: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names("fuzz_targets"), listed);
        assert_eq!(names("corpus"), listed);
    }

    #[test]
    fn every_seed_holds_its_properties() {
        for (name, target) in TARGETS {
            let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
            let mut count = 0;
            for seed in fs::read_dir(&corpus).unwrap() {
                let seed = seed.unwrap().path();
                // Shown only if the seed fails.
                println!("{}", seed.display());
                target(&fs::read(&seed).unwrap());
                count += 1;
            }
            assert!(count > 0, "{} is empty", corpus.display());
        }
    }
}
