//! Entry points for the fuzz targets in `fuzz/`; not part of the API.
//!
//! An entry point takes the fuzzer's bytes and panics if a property does not hold. To add one: a function here, its line in [`TARGETS`], a
//! file of two lines in `fuzz/fuzz_targets/`, its `[[bin]]` in `fuzz/Cargo.toml`, and seeds in `fuzz/corpus/<name>/`, each named after
//! what it shows. The test below replays every seed, and fails for a target or corpus that is not in the list.
//!
//! To run one for a minute, without nightly and sanitizer (this crate has no unsafe code to sanitize here):
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run -s none uri -- -max_total_time=60`.

use std::sync::Arc;

use crate::batch::Batch;
use crate::change::{Change, ChangeBatch};
use crate::gtid::GtidSet;
use crate::options::{SinkOptions, SourceOptions};
use crate::policy::MalformedText;
use crate::position::{LastPk, Lsn, ServerShard, ShardGtid, Vgtid, judge};
use crate::schema::{Column, ColumnType, Table};
use crate::source::charset::Charset;
use crate::source::mysql::{TextForm, push};
use crate::source::vstream::decode::{self, FieldPlan};
use crate::source::vstream::event::{EventKind, FieldColumn, FieldEvent, RowImage, encode, read_response};
use crate::source::vstream::machine::{Machine, Plan, PlannedTable, nothing_copied};
use crate::value::{DateTime, ValueRef};
use crate::wire::{Field, PackedVarints, Reader, zigzag};
use crate::{Error, ErrorKind, PositionFault, Result};

/// What runs a target once.
pub type Target = fn(&[u8]);

/// Every entry point with the name of its target and corpus.
pub const TARGETS: &[(&str, Target)] = &[
    #[cfg(feature = "postgres")]
    ("copy", copy),
    ("events", events),
    ("gtid_set", gtid_set),
    ("position", position),
    ("row_images", row_images),
    ("uri", uri),
    ("values", values),
    ("wire", wire),
];

/// A copy out of PostgreSQL: how many columns, a byte for the type of each, one for the size of the pieces, and the copy.
///
/// In pieces it brings the same rows and the same error as at once, and values count for as many bytes as they take.
#[cfg(feature = "postgres")]
pub fn copy(input: &[u8]) {
    use crate::source::postgres::copied;

    const ANY: i32 = -1;
    // An oid and a modifier, as the catalogue has them.
    const TYPES: [(u32, i32); 28] = [
        (16, ANY),
        (17, ANY),
        (19, ANY),
        (20, ANY),
        (21, ANY),
        (23, ANY),
        (25, ANY),
        (26, ANY),
        (114, ANY),
        (700, ANY),
        (701, ANY),
        (790, ANY),
        (1042, 10),
        (1043, 24),
        (1082, ANY),
        (1083, 3),
        (1114, ANY),
        (1184, 0),
        (1186, ANY),
        (1560, 1),
        (1560, 11),
        (1560, 64),
        // numeric, numeric(10,2), numeric(65,30), numeric(3,-3)
        (1700, ANY),
        (1700, (10 << 16 | 2) + 4),
        (1700, (65 << 16 | 30) + 4),
        (1700, (3 << 16 | 0x7fd) + 4),
        (2950, ANY),
        (3802, ANY),
    ];
    let [count, input @ ..] = input else { return };
    let Some((types, [piece, bytes @ ..])) = input.split_at_checked(usize::from(count % 8)) else { return };
    let types: Vec<_> = types.iter().map(|&choice| TYPES[usize::from(choice) % TYPES.len()]).collect();
    let (rows, error) = copied(&types, bytes, bytes.len());
    if let Some(error) = &error {
        assert!(matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Decode), "{error:?}");
    }
    let (again, error_again) = copied(&types, bytes, usize::from(*piece));
    assert_eq!(rows, again);
    let said = |error: Option<Error>| error.map(|error| format!("{error:#}"));
    assert_eq!(said(error), said(error_again));
}

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
            assert_hidden(&error, text);
        }
    }
    match SinkOptions::from_uri(text) {
        Ok(SinkOptions::MySql(options)) if options.server().password().is_some() => {
            let another = options.server().clone().with_password("another");
            assert_eq!(format!("{:?}", options.server()), format!("{another:?}"), "Debug depends on the password");
        }
        Ok(_) => {}
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::Config | ErrorKind::Unsupported));
            assert_hidden(&error, text);
        }
    }
}

fn assert_hidden(error: &Error, uri: &str) {
    let shown = format!("{error:?}");
    for secret in secrets(uri) {
        assert!(!shown.contains(secret), "the error shows a piece of the password: {shown}");
    }
}

/// What could be a piece of a password: the words between the login's colon and the last `@`. Only long ones that stand nowhere else in the
/// URI and cannot be a word of ours, which has no digit and capital letter in it.
fn secrets(uri: &str) -> impl Iterator<Item = &str> {
    // A file has no login, and its parameters may be shown.
    let is_file = |scheme: &str| ["duckdb", "sqlite"].iter().any(|kind| scheme.eq_ignore_ascii_case(kind));
    let server = uri.split_once("://").filter(|(scheme, _)| !is_file(scheme));
    let login = server.and_then(|(_, rest)| rest.rsplit_once('@')).map_or("", |(login, _)| login);
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

const SHARDS: [&str; 2] = ["-80", "80-"];

/// Events into a machine. The first byte chooses the copy or the stream and how little memory there is; with its highest bit the rest is one
/// response as it comes, without it each byte is an event of one of two shards, so that the fuzzer finds its way past the walker.
///
/// Only what had its COMMIT is handed out as complete, positions of rows increase, and no checkpoint goes back on a shard.
pub fn events(input: &[u8]) {
    let Some((&mode, input)) = input.split_first() else { return };
    let columns = ["id", "v"].map(|name| Column::new(name, ColumnType::Int { bits: 64, unsigned: false }, true));
    let Ok(table) = Table::new("t", columns.into()).with_primary_key(&["id"]) else { return };
    let table = Arc::new(table);
    let shards: Vec<String> = SHARDS.map(str::to_owned).into();
    let plan = Plan {
        keyspace: "ks".into(),
        shards: shards.clone(),
        ordinal: 7,
        now: DateTime::default(),
        transaction_bytes: if mode & 2 == 0 { 1 << 20 } else { 8 },
        declared: Arc::default(),
        malformed_text: MalformedText::default(),
    };
    let mut machine = if mode & 1 == 0 {
        Machine::copy(plan, table, nothing_copied("ks", &shards), Vec::new(), (mode & 4 != 0).then_some(8))
    } else {
        let position: Vgtid = SHARDS.iter().map(|shard| ShardGtid::new("ks", *shard, gtid(1))).collect();
        match Machine::stream(plan, vec![PlannedTable { table, position }], None) {
            Ok(machine) => machine,
            Err(_) => return,
        }
    };
    let mut watch = Watch::default();
    if mode & 0x80 != 0 {
        watch.feed(&mut machine, input);
        return;
    }
    let mut executed = [1, 1];
    for &byte in input.iter().take(512) {
        let response = encode::response(&[event(byte, &mut executed)]);
        if !watch.feed(&mut machine, &response) {
            return;
        }
    }
}

fn gtid(last: u64) -> String {
    format!("MySQL56/0a000000-0000-0000-0000-000000000001:1-{last}")
}

/// The event that a byte stands for: the kind, the shard, and what it carries.
fn event(byte: u8, executed: &mut [u64; 2]) -> Vec<u8> {
    let at = usize::from(byte >> 4 & 1);
    let (shard, choice) = (SHARDS[at], byte >> 5);
    let number = [b'0' + choice];
    let value: Option<&[u8]> = Some(&number);
    let row = |before: Option<encode::Image<'_>>, after: Option<encode::Image<'_>>| {
        encode::row("ks", shard, "t", u64::from(choice), &[(before, after)])
    };
    let simple = |kind| encode::event(kind, u64::from(choice), "ks", shard, None);
    match byte & 15 {
        0 => simple(encode::BEGIN),
        1 => simple(encode::COMMIT),
        2 => encode::field("ks", shard, "t", &[("id", 63, "bigint"), ("v", 63, "bigint")]),
        3 => encode::field("ks", shard, "t", &[("v", 63, "bigint"), ("c", 63, "bigint"), ("id", 63, "bigint")]),
        4 => row(None, Some(&[value, None])),
        5 => row(Some(&[value, None]), None),
        6 => row(Some(&[value, None]), Some(&[Some(b"7"), value])),
        7 => row(None, Some(&[value, None, value])),
        8 | 9 => {
            executed[at] += u64::from(choice);
            let entry = |index: usize| {
                let last_pks = match byte & 1 == 1 && index == at {
                    true => vec![LastPk::new("t", Some(number.to_vec()))],
                    false => Vec::new(),
                };
                ShardGtid::new("ks", SHARDS[index], gtid(executed[index])).with_last_pks(last_pks)
            };
            let resharded = |name: &str| ShardGtid::new("ks", name, gtid(1));
            match choice {
                7 => encode::vgtid("ks", "-40", &[resharded("-40"), resharded("40-80"), entry(1)].into_iter().collect()),
                _ => encode::vgtid("ks", shard, &[entry(0), entry(1)].into_iter().collect()),
            }
        }
        10 => encode::event(encode::HEARTBEAT, 1, "", "", None),
        11 => simple(encode::OTHER),
        12 => simple(encode::COPY_COMPLETED),
        13 => encode::event(encode::COPY_COMPLETED, 0, "", "", None),
        14 => {
            let statements = ["truncate table t", "drop table t", "rename table t to u", "rename table u to t", "alter table t add x int"];
            encode::ddl("ks", shard, 1, statements[usize::from(choice) % statements.len()])
        }
        _ => encode::event(u64::from(choice) + 4, 1, "ks", shard, None),
    }
}

/// What is known of a machine from outside.
#[derive(Default)]
struct Watch {
    open: bool,
    in_pieces: bool,
    rows_since_commit: usize,
    greatest: Option<(u64, u32)>,
    executed: [GtidSet; 2],
}

impl Watch {
    /// Feeds a response; `false` if it was refused.
    fn feed(&mut self, machine: &mut Machine, response: &[u8]) -> bool {
        let result = read_response(response, |event| {
            machine.on_event(&event)?;
            match event.kind {
                EventKind::Begin => (self.open, self.rows_since_commit) = (true, 0),
                EventKind::Row(row) => row.changes(|_| {
                    self.rows_since_commit += 2;
                    Ok(())
                })?,
                EventKind::Commit => (self.open, self.in_pieces, self.rows_since_commit) = (false, false, 0),
                EventKind::Rollback | EventKind::CopyCompleted => {
                    // A machine that has ended ignores what comes.
                    assert!(!self.in_pieces || machine.is_finished(), "a transaction that was handed out in pieces was taken back");
                    (self.open, self.rows_since_commit) = (false, 0);
                }
                _ => {}
            }
            let before = machine.buffered_bytes();
            if let Some(batch) = machine.take() {
                self.check(&batch, machine);
                // What is left is the open transaction's.
                assert!(self.open || self.rows_since_commit > 0 || machine.buffered_bytes() <= before.max(4096));
            }
            if let Some(piece) = machine.take_piece() {
                assert!(!piece.is_complete() && piece.checkpoints().is_empty(), "a piece claims to be a commit");
                self.in_pieces = true;
                self.check(&piece, machine);
            }
            Ok(())
        });
        result.is_ok()
    }

    fn check(&mut self, batch: &ChangeBatch, machine: &Machine) {
        for change in batch.changes() {
            let Change::Rows(rows) = change else { continue };
            assert!(batch.is_complete() || rows.len() <= self.rows_since_commit, "a piece has more rows than its transaction");
            for row in 0..rows.len() {
                let Ok(lsn) = Lsn::parse(&rows.lsn(row)) else { panic!("a position does not parse") };
                let at = (lsn.ordinal(), lsn.row());
                assert!(self.greatest < Some(at), "positions do not increase");
                self.greatest = Some(at);
                if batch.is_complete() && self.open && !self.in_pieces {
                    assert!(lsn.ordinal() <= machine.ordinal(), "a row of the open transaction was handed out");
                }
            }
        }
        for checkpoint in batch.checkpoints() {
            // A copy that begins anew begins with nothing.
            for (shard, executed) in SHARDS.iter().zip(&mut self.executed) {
                let Some(now) = checkpoint.position().get("ks", shard).and_then(|at| at.gtid_set().ok()) else { continue };
                let begins_anew = now.is_empty() && !checkpoint.is_copied();
                // Only a server that goes back itself may be followed back, and the raw bytes may be such a server.
                assert!(begins_anew || now.contains(executed) || executed.contains(&now), "a checkpoint went elsewhere");
                *executed = now;
            }
        }
    }
}

/// A row image by its FIELD event: a byte that chooses the column's type, one for its collation, then a `query.Row`.
///
/// What is decoded has one value for each column; an error does not show a value.
pub fn row_images(input: &[u8]) {
    const TYPES: [&str; 16] = [
        "bigint",
        "bigint unsigned",
        "tinyint(1)",
        "decimal(10,2)",
        "float",
        "double",
        "bit(12)",
        "date",
        "datetime(3)",
        "time(6)",
        "year",
        "enum('a','it''s')",
        "set('a','b','c')",
        "varchar(20)",
        "binary(4)",
        "json",
    ];
    let [choice, collation, flags, message @ ..] = input else { return };
    let declared = TYPES[usize::from(choice % 16)];
    let field = encode::field("ks", "0", "t", &[("id", 63, "varbinary(20)"), ("v", u64::from(*collation), declared)]);
    let response = encode::response(&[field]);
    let read = read_response(&response, |event| {
        let EventKind::Field(mut field) = event.kind else { return Ok(()) };
        field.enum_set_string_values = flags & 1 == 0;
        let table = Table::new("t", Vec::new());
        let added = decode::compare(&field, &table, None, MalformedText::Replace)?.added;
        let table = table.with_columns(added).with_primary_key(&["id"])?;
        let plan = FieldPlan::new(&field, &table, None, None, MalformedText::Replace)?;
        let mut image = RowImage::default();
        let values = image.read(message, plan.width())?;
        assert!(values.len() <= message.len());
        let mut batch = Batch::new(Arc::new(table));
        let pushed = batch.push_row(|columns| plan.push(columns, &image, values, flags & 2 != 0, &mut String::new(), &mut Vec::new()));
        for column in batch.columns() {
            assert_eq!(column.len(), usize::from(pushed.is_ok()), "a column has not as many values as the batch has rows");
        }
        if let (Err(error), Some(value)) = (&pushed, image.get(values, 1).and_then(|value| str::from_utf8(value).ok())) {
            // Words of ours have no digits in them.
            let shown = format!("{error:#}");
            let is_word = value.len() >= 4 && value.bytes().any(|byte| byte.is_ascii_digit());
            assert!(!is_word || !shown.contains(value), "the error shows the value: {shown}");
        }
        if pushed.is_ok()
            && let Some(once) = printed(batch.value(0, 1))
        {
            let again = decoded_again(declared, &once);
            assert!(again.as_ref().is_ok_and(|again| again.as_ref() == Some(&once)), "{declared}: {once:?} decodes to {again:?}");
        }
        Ok(())
    });
    if let Err(error) = read {
        assert!(matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Unsupported), "{error:?}");
    }
}

/// A value in the form in which MySQL sends it; `None` for NULL.
fn printed(value: ValueRef<'_>) -> Option<Vec<u8>> {
    match value {
        ValueRef::Null => None,
        ValueRef::Bytes(bytes) | ValueRef::Bit(bytes) => Some(bytes.to_vec()),
        ValueRef::DateTime(at) | ValueRef::Timestamp(at) => Some(at.text(6).into_bytes()),
        ValueRef::Time(time) => Some(time.text(6).into_bytes()),
        // With all its digits: vtgate is asked for a FLOAT as the DOUBLE that it is.
        ValueRef::Float(number) => Some(f64::from(number).to_string().into_bytes()),
        value => Some(value.to_string().into_bytes()),
    }
}

/// What the copy's decoder makes of a printed value, printed.
fn decoded_again(declared: &str, text: &[u8]) -> Result<Option<Vec<u8>>> {
    const UTF8MB4: u64 = 255;
    let field = FieldColumn { name: "v".into(), charset: UTF8MB4, column_type: declared.into(), ..FieldColumn::default() };
    let event = FieldEvent { table: "t".into(), fields: vec![field], enum_set_string_values: true, ..FieldEvent::default() };
    let table = Table::new("t", vec![Column::new("v", ColumnType::parse(declared)?, true)]);
    let plan = FieldPlan::new(&event, &table, None, None, MalformedText::Error)?;
    let message = encode::image(&[Some(text)]);
    let mut image = RowImage::default();
    let values = image.read(&message, 1)?;
    let mut batch = Batch::new(Arc::new(table));
    batch.push_row(|columns| plan.push(columns, &image, values, true, &mut String::new(), &mut Vec::new()))?;
    Ok(printed(batch.value(0, 0)))
}

/// A value of MySQL's own protocol, as text: a byte that chooses the type, then the value.
///
/// What is decoded prints to a text that decodes to the same.
pub fn values(input: &[u8]) {
    const TYPES: [&str; 20] = [
        "tinyint",
        "bigint",
        "bigint unsigned",
        "int zerofill",
        "decimal(10,2)",
        "decimal(65,30)",
        "decimal(5,0)",
        "float",
        "double",
        "bit(12)",
        "date",
        "datetime(3)",
        "timestamp(6)",
        "time(6)",
        "year",
        "enum('a','it''s')",
        "set('a','b','c')",
        "varchar(20)",
        "binary(4)",
        "json",
    ];
    let [choice, text @ ..] = input else { return };
    let Ok(declared) = ColumnType::parse(TYPES[usize::from(choice % 20)]) else { return };
    let decode = |text: &[u8]| {
        let table = Arc::new(Table::new("t", vec![Column::new("v", declared.clone(), true)]));
        let mut batch = Batch::new(table);
        let value = mysql::Value::Bytes(text.to_vec());
        let form = TextForm { charset: Charset::Utf8, malformed: MalformedText::Error };
        let pushed = batch.push_row(|columns| push(&mut columns[0], &declared, &value, form, &mut String::new()));
        pushed.map(|()| printed(batch.value(0, 0)))
    };
    if let Ok(Some(once)) = decode(text) {
        let again = decode(&once);
        assert!(again.as_ref().is_ok_and(|again| again.as_ref() == Some(&once)), "{declared}: {once:?} decodes to {again:?}");
    }
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
        // Some need a feature.
        let without = ["copy"].into_iter().filter(|_| cfg!(not(feature = "postgres")));
        let listed: BTreeSet<_> = TARGETS.iter().map(|(name, _)| *name).chain(without).map(str::to_owned).collect();
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
