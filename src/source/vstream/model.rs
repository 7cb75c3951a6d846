//! A random history of a small database, captured by the machine in runs that are killed and cut off, and compared with the history.
//!
//! The database has one to four shards with a binlog each, which are resharded and whose servers change; [`Call`] serves it as vtgate does, with the protocol's oddities; [`Runner`] does
//! what the blocking loop does, without I/O; a [`Model`] of a destination, or SQLite, takes the batches. After every batch that is complete,
//! each table has to hold what the source held at the position of the table's checkpoint, row by row.
//!
//! `INGEST_MODEL_HISTORIES` says how many histories are tried, and `INGEST_MODEL_SEED` with which the first begins. One that fails prints its
//! seed and all its events.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "counts of shards, rows and keys here are a few dozen at most"
)]

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use crate::ErrorKind;
use crate::change::{Change, ChangeBatch, Checkpoint, CopyPhase, Op, TableChanges};
use crate::gtid::GtidSet;
use crate::policy::MalformedText;
use crate::position::{LastPk, Lsn, ServerShard, ShardGtid, Vgtid, judge};
use crate::schema::{Column, ColumnType, Table};
use crate::source::vstream::agenda::{Agenda, Next, Resume};
use crate::source::vstream::event::{encode, read_response};
use crate::source::vstream::machine::{Machine, Plan};
use crate::value::{DateTime, ValueRef};

const KEYSPACE: &str = "ks";
/// The key, a value, and what ADD COLUMN may add.
const COLUMNS: [&str; 4] = ["id", "v", "c2", "c3"];

/// SplitMix64: small, and good for every seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

// ---- the source ----

/// The values of the columns that a row has, in the order of [`COLUMNS`].
type Row = Vec<Option<i64>>;
/// Rows by their keys.
type Rows = BTreeMap<i64, Row>;

#[derive(Clone, Default)]
struct Content {
    rows: Rows,
    columns: usize,
}

/// Before and after.
type Images = (Option<Row>, Option<Row>);

#[derive(Clone)]
enum Logged {
    /// Changes of tables, by their indexes: before and after.
    Rows(Vec<(usize, Option<Row>, Option<Row>)>),
    /// The same, in a transaction that ends without a VGTID.
    Silent(Vec<(usize, Option<Row>, Option<Row>)>),
    /// A statement and the table that it concerns.
    Ddl(usize, String),
    Other,
    /// The end of a shard that was resharded, and which reshard that was.
    Journal(usize),
}

struct Shard {
    name: String,
    number: usize,
    /// The quarters of the keys that it holds.
    quarters: Range<usize>,
    /// After how many transactions another server took over.
    reparents: Vec<usize>,
    /// Entry `n - 1` is the transaction with GTID `n`.
    log: Vec<Logged>,
    /// What each table holds after each transaction; the first is that of the empty log.
    states: Vec<Rc<Vec<Content>>>,
}

impl Shard {
    fn len(&self) -> usize {
        self.log.len()
    }

    fn content(&self, table: usize, at: usize) -> &Content {
        &self.states[at][table]
    }

    /// Without the end of a shard that was resharded.
    fn open_len(&self) -> usize {
        self.len() - usize::from(matches!(self.log.last(), Some(Logged::Journal(_))))
    }

    fn gtid(&self, at: usize) -> String {
        let starts = std::iter::once(0).chain(self.reparents.iter().copied());
        let ends = self.reparents.iter().copied().chain([usize::MAX]);
        let servers = starts
            .zip(ends)
            .enumerate()
            .filter(|(_, (start, _))| *start < at)
            .map(|(server, (start, end))| format!("0a000000-0000-0000-{server:04x}-{:012x}:1-{}", self.number, at.min(end) - start));
        format!("MySQL56/{}", servers.collect::<Vec<_>>().join(","))
    }

    fn append(&mut self, entry: Logged, change: impl FnOnce(&mut Vec<Content>)) {
        let mut state = self.states.last().map(|state| (**state).clone()).unwrap_or_default();
        change(&mut state);
        self.states.push(Rc::new(state));
        self.log.push(entry);
    }
}

/// The transactions in a GTID's text, which are always the first ones of each server.
fn count(gtid: &str) -> usize {
    gtid.split(',').filter_map(|server| server.rsplit(['-', ':']).next()?.parse::<usize>().ok()).sum()
}

/// Which quarter of the keys a key is of.
fn quarter(key: i64) -> usize {
    key.rem_euclid(4) as usize
}

fn shard_name(quarters: &Range<usize>) -> String {
    let bound = |at: usize| ["", "40", "80", "c0", ""][at];
    format!("{}-{}", bound(quarters.start), bound(quarters.end))
}

struct Reshard {
    old: Vec<usize>,
    /// The new shards, which begin after their first transaction.
    new: Vec<usize>,
}

struct Database {
    /// Those that serve and those that did.
    shards: Vec<Shard>,
    serving: Vec<usize>,
    reshards: Vec<Reshard>,
    tables: usize,
    values: i64,
}

fn table_name(table: usize) -> String {
    format!("t{table}")
}

impl Database {
    fn new(random: &mut Random) -> Self {
        let bounds: &[usize] = match random.below(3) {
            0 => &[0, 4],
            1 => &[0, 2, 4],
            _ => &[0, 1, 2, 4],
        };
        let tables = 1 + random.below(3);
        let mut database = Self { shards: Vec::new(), serving: Vec::new(), reshards: Vec::new(), tables, values: 0 };
        for bounds in bounds.windows(2) {
            let empty = vec![Content { rows: Rows::new(), columns: 2 }; tables];
            let number = database.add_shard(bounds[0]..bounds[1], empty);
            database.serving.push(number);
        }
        for _ in 0..random.below(8) {
            database.transaction(random);
        }
        database
    }

    /// A shard with these rows and one transaction in its binlog.
    fn add_shard(&mut self, quarters: Range<usize>, content: Vec<Content>) -> usize {
        let number = self.shards.len();
        // The one shard of an unsharded keyspace has a name of its own.
        let name = if quarters == (0..4) && number == 0 { "0".into() } else { shard_name(&quarters) };
        let states = vec![Rc::new(content)];
        let mut shard = Shard { name, number, quarters, reparents: Vec::new(), log: Vec::new(), states };
        shard.append(Logged::Other, |_| ());
        self.shards.push(shard);
        number
    }

    /// Splits a shard into two, or merges two. The old ones end, and their rows go on in the new ones.
    fn reshard(&mut self, random: &mut Random) {
        let at = random.below(self.serving.len());
        let one = self.shards[self.serving[at]].quarters.clone();
        let (old, new) = match self.serving.get(at + 1) {
            Some(&next) if random.percent(50) => {
                (vec![self.serving[at], next], std::iter::once(one.start..self.shards[next].quarters.end).collect())
            }
            _ if one.len() > 1 => {
                let middle = one.start + 1 + random.below(one.len() - 1);
                (vec![self.serving[at]], vec![one.start..middle, middle..one.end])
            }
            _ => return,
        };
        // A name that comes again would be another shard's under the same name.
        if new.iter().any(|quarters| self.shards.iter().any(|shard| shard.name == shard_name(quarters))) {
            return;
        }
        let mut content = vec![Content::default(); self.tables];
        for &shard in &old {
            let last = Rc::clone(&self.shards[shard].states[self.shards[shard].len()]);
            for (into, from) in content.iter_mut().zip(last.iter()) {
                into.columns = from.columns;
                into.rows.extend(from.rows.clone());
            }
        }
        let mut numbers = Vec::new();
        for quarters in new {
            let mut part = content.clone();
            part.iter_mut().for_each(|table| table.rows.retain(|key, _| quarters.contains(&quarter(*key))));
            numbers.push(self.add_shard(quarters, part));
        }
        for &shard in &old {
            self.shards[shard].append(Logged::Journal(self.reshards.len()), |_| ());
        }
        self.serving.splice(at..at + old.len(), numbers.clone());
        self.reshards.push(Reshard { old, new: numbers });
    }

    fn value(&mut self, random: &mut Random) -> Option<i64> {
        self.values += 1;
        (!random.percent(15)).then_some(self.values)
    }

    /// One thing that happens.
    fn happen(&mut self, random: &mut Random) {
        match random.below(100) {
            0..=2 => {
                let table = random.below(self.tables);
                self.on_all_shards(random, format!("truncate table `{}`", table_name(table)), table, |_, content| content.rows.clear());
            }
            3..=4 => {
                // The cut-over of an online DDL: another table takes the place of this one.
                let table = random.below(self.tables);
                let name = table_name(table);
                let value = self.value(random);
                let keep = random.below(3) as i64;
                let statement = format!("rename table {name} to _old, _new to {name}");
                self.on_all_shards(random, statement, table, |_, content| {
                    content.rows.retain(|key, _| key % 3 != keep);
                    content.rows.values_mut().for_each(|row| row[1] = value);
                });
            }
            5..=8 => {
                let table = random.below(self.tables);
                let first = &self.shards[self.serving[0]];
                let columns = first.content(table, first.len()).columns;
                if columns < COLUMNS.len() {
                    let statement = format!("alter table {} add column {} bigint", table_name(table), COLUMNS[columns]);
                    self.on_all_shards(random, statement, table, |_, content| {
                        content.columns += 1;
                        content.rows.values_mut().for_each(|row| row.push(None));
                    });
                }
            }
            9..=12 => {
                let shard = self.serving[random.below(self.serving.len())];
                self.shards[shard].append(Logged::Other, |_| ());
            }
            13..=15 => self.reshard(random),
            16..=18 => {
                let shard = self.serving[random.below(self.serving.len())];
                let shard = &mut self.shards[shard];
                shard.reparents.push(shard.len());
                // The new primary's first transaction: two servers of no transaction each would be one.
                shard.append(Logged::Other, |_| ());
            }
            _ => self.transaction(random),
        }
    }

    /// Runs a statement on each shard in its own time.
    fn on_all_shards(&mut self, random: &mut Random, statement: String, table: usize, change: impl Fn(usize, &mut Content)) {
        for shard in self.serving.clone() {
            let entry = Logged::Ddl(table, statement.clone());
            self.shards[shard].append(entry, |state| change(shard, &mut state[table]));
            if random.percent(30) {
                self.transaction(random);
            }
        }
    }

    /// A transaction on one shard.
    fn transaction(&mut self, random: &mut Random) {
        let at = self.serving[random.below(self.serving.len())];
        let quarters = self.shards[at].quarters.clone();
        let key_of = |random: &mut Random| (random.below(6) * 4 + quarters.start + random.below(quarters.len())) as i64;
        let mut state: Vec<Content> = self.shards[at].states.last().map(|state| (**state).clone()).unwrap_or_default();
        let mut changes = Vec::new();
        for _ in 0..random.below(5) {
            let table = random.below(self.tables);
            // The shards divide the keys.
            let (key, other) = (key_of(random), key_of(random));
            let columns = state[table].columns;
            let values: Row = (1..columns).map(|_| self.value(random)).collect();
            let made = |key: i64| std::iter::once(Some(key)).chain(values.iter().copied()).collect::<Row>();
            let rows = &mut state[table].rows;
            match (rows.get(&key).cloned(), random.below(4)) {
                (None, _) => {
                    rows.insert(key, made(key));
                    changes.push((table, None, Some(made(key))));
                }
                (Some(before), 0) => {
                    rows.remove(&key);
                    changes.push((table, Some(before), None));
                }
                (Some(before), 1) if !rows.contains_key(&other) => {
                    rows.remove(&key);
                    rows.insert(other, made(other));
                    changes.push((table, Some(before), Some(made(other))));
                }
                (Some(before), _) => {
                    rows.insert(key, made(key));
                    changes.push((table, Some(before), Some(made(key))));
                }
            }
        }
        let silent = random.percent(8);
        let entry = if silent { Logged::Silent(changes) } else { Logged::Rows(changes) };
        self.shards[at].append(entry, |into| *into = state);
        if silent {
            // Nobody hears of its position before the next transaction.
            self.shards[at].append(Logged::Other, |_| ());
        }
    }

    fn table(&self, table: usize) -> Table {
        let shard = &self.shards[self.serving[0]];
        let columns = &COLUMNS[..shard.content(table, shard.len()).columns];
        let bigint = || ColumnType::Int { bits: 64, unsigned: false };
        let columns = columns.iter().map(|name| Column::new(*name, bigint(), true)).collect();
        Table::new(table_name(table), columns).with_primary_key(&["id"]).unwrap()
    }

    /// What the serving shards say of themselves.
    fn histories(&self) -> Vec<ServerShard> {
        let serving = self.serving.iter().map(|&number| &self.shards[number]);
        let executed = |shard: &Shard| GtidSet::parse(&shard.gtid(shard.len())).unwrap();
        serving.map(|shard| ServerShard { shard: shard.name.clone(), executed: executed(shard), purged: GtidSet::default() }).collect()
    }

    fn executed(&self) -> BTreeMap<String, GtidSet> {
        self.histories().into_iter().map(|history| (history.shard, history.executed)).collect()
    }

    fn shard(&self, name: &str) -> Option<&Shard> {
        self.shards.iter().find(|shard| shard.name == name)
    }
}

// ---- vtgate ----

enum Serving {
    /// Changes from the shard's position on. `copy` is what has to be copied once it has caught up.
    Stream { copy: Option<Option<i64>> },
    /// Rows of the snapshot after this key; `begun` once the first packet was sent.
    Copy { after: Option<i64>, begun: bool },
    /// The table's end was sent, COPY_COMPLETED was not.
    Copied,
}

struct ShardCall {
    /// Which shard of the database.
    number: usize,
    at: usize,
    serving: Serving,
    copies: bool,
    /// The columns that the last FIELD of each table told.
    fields: BTreeMap<usize, usize>,
}

/// One call of VStream.
struct Call {
    shards: Vec<ShardCall>,
    /// What VGTID events say.
    reported: Vec<ShardGtid>,
    tables: Vec<usize>,
    /// Servers that leave BEGIN out between the packets of a copy.
    leaves_begin_out: bool,
}

type Events = Vec<(String, Vec<u8>)>;

impl Call {
    fn new(database: &Database, from: &Vgtid, tables: Vec<usize>, random: &mut Random) -> Result<Self, String> {
        let mut shards = Vec::new();
        for entry in from.shards() {
            let shard = database.shard(entry.shard()).ok_or("the request is for a shard that never was")?;
            let at = count(entry.gtid());
            let last_pk = entry.last_pks().first().map(|last| {
                let key = last.last_pk().and_then(|key| std::str::from_utf8(key).ok()).and_then(|key| key.parse::<i64>().ok());
                key.ok_or("a last PK was not returned whole")
            });
            let serving = match (entry.gtid(), last_pk.transpose()?) {
                ("", after) => Serving::Copy { after, begun: false },
                (_, Some(after)) => Serving::Stream { copy: Some(Some(after)) },
                (_, None) => Serving::Stream { copy: None },
            };
            let copies = !matches!(serving, Serving::Stream { copy: None });
            shards.push(ShardCall { number: shard.number, at, serving, copies, fields: BTreeMap::new() });
        }
        Ok(Self { shards, reported: from.shards().to_vec(), tables, leaves_begin_out: random.percent(20) })
    }

    /// What one shard sends next, up to where vtgate lets another shard go first; nothing if all have nothing to send.
    fn next(&mut self, database: &Database, random: &mut Random) -> Events {
        let start = random.below(self.shards.len());
        for offset in 0..self.shards.len() {
            let shard = (start + offset) % self.shards.len();
            let mut events = self.step(database, shard, random);
            if !events.is_empty() {
                let at = random.below(events.len() + 1);
                if random.percent(15) {
                    events.insert(at, ("HEARTBEAT".into(), encode::event(encode::HEARTBEAT, 1, "", "", None)));
                }
                return events;
            }
        }
        Vec::new()
    }

    fn step(&mut self, database: &Database, shard: usize, random: &mut Random) -> Events {
        let source = &database.shards[self.shards[shard].number];
        if let (Serving::Stream { .. }, Some(Logged::Journal(reshard))) =
            (&self.shards[shard].serving, source.log.get(self.shards[shard].at))
        {
            return self.switch(database, &database.reshards[*reshard], random);
        }
        match self.shards[shard].serving {
            Serving::Stream { copy } if self.shards[shard].at == source.len() => match copy {
                None if random.percent(10) => self.unchanged(source),
                None => Vec::new(),
                Some(after) => {
                    self.shards[shard].serving = Serving::Copy { after, begun: false };
                    self.step(database, shard, random)
                }
            },
            Serving::Stream { .. } => self.logged(database, shard, random),
            Serving::Copy { after, begun } => self.packet(source, shard, after, begun, random),
            Serving::Copied => {
                self.shards[shard].serving = Serving::Stream { copy: None };
                let all = self.shards.iter().all(|shard| shard.copies && matches!(shard.serving, Serving::Stream { copy: None }));
                let mut events = vec![simple(encode::COPY_COMPLETED, &source.name)];
                if all {
                    events.push(("COPY_COMPLETED".into(), encode::event(encode::COPY_COMPLETED, 0, "", "", None)));
                }
                events
            }
        }
    }

    /// Goes over to new shards once all old ones have come to their end. Only the VGTIDs tell; last PKs are forgotten.
    fn switch(&mut self, database: &Database, reshard: &Reshard, random: &mut Random) -> Events {
        let is_old = |call: &ShardCall| reshard.old.contains(&call.number);
        let at_end =
            |call: &ShardCall| matches!(call.serving, Serving::Stream { .. }) && call.at == database.shards[call.number].open_len();
        // One of them may come out of another reshard that the call has yet to go over.
        if self.shards.iter().filter(|call| is_old(call) && at_end(call)).count() < reshard.old.len() {
            return Vec::new();
        }
        self.shards.retain(|call| !is_old(call));
        self.reported.retain(|entry| !reshard.old.iter().any(|&old| database.shards[old].name == entry.shard()));
        for &number in &reshard.new {
            let shard = &database.shards[number];
            self.reported.push(ShardGtid::new(KEYSPACE, &shard.name, shard.gtid(1)));
            let serving = Serving::Stream { copy: None };
            self.shards.push(ShardCall { number, at: 1, serving, copies: false, fields: BTreeMap::new() });
        }
        let first = reshard.new[random.below(reshard.new.len())];
        self.unchanged(&database.shards[first])
    }

    /// An empty transaction that moves nothing.
    fn unchanged(&self, source: &Shard) -> Events {
        vec![simple(encode::BEGIN, &source.name), self.vgtid(source), simple(encode::COMMIT, &source.name)]
    }

    fn vgtid(&self, source: &Shard) -> (String, Vec<u8>) {
        let name = self.reported.iter().map(|at| format!("{} {}{}", at.shard(), count(at.gtid()), shown_last_pk(at)));
        let text = format!("VGTID {} [{}]", source.name, name.collect::<Vec<_>>().join(", "));
        let vgtid = Vgtid::new(self.reported.clone());
        (text, encode::vgtid(KEYSPACE, &source.name, &vgtid))
    }

    fn report(&mut self, source: &Shard, shard: usize, last_pk: Option<Option<i64>>) -> (String, Vec<u8>) {
        let at = self.shards[shard].at;
        let Some(entry) = self.reported.iter_mut().find(|entry| entry.shard() == source.name) else { return simple(0, "") };
        let kept = entry.last_pks().to_vec();
        let table = table_name(self.tables[0]);
        let last_pks = match last_pk {
            None => kept,
            Some(None) => Vec::new(),
            Some(Some(key)) => vec![LastPk::new(table, Some(key.to_string().into_bytes()))],
        };
        *entry = ShardGtid::new(KEYSPACE, &source.name, source.gtid(at)).with_last_pks(last_pks);
        self.vgtid(source)
    }

    /// The next packet of a copy, or its end.
    fn packet(&mut self, source: &Shard, shard: usize, after: Option<i64>, begun: bool, random: &mut Random) -> Events {
        let table = self.tables[0];
        let mut events = Vec::new();
        if !begun {
            // The snapshot is taken now, and its position stays that of the shard until the copy is complete.
            self.shards[shard].at = source.open_len();
            self.shards[shard].fields.clear();
            events.push(simple(encode::BEGIN, &source.name));
            events.push(self.field(source, shard, table));
            events.push(self.report(source, shard, None));
        }
        let content = source.content(table, self.shards[shard].at);
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let rows: Vec<&Row> =
            content.rows.range((from, std::ops::Bound::Unbounded)).map(|(_, row)| row).take(1 + random.below(4)).collect();
        if rows.is_empty() {
            // Also where a BEGIN came before: that one stays without an end.
            events.push(simple(encode::BEGIN, &source.name));
            events.push(self.report(source, shard, Some(None)));
            events.push(simple(encode::COMMIT, &source.name));
            self.shards[shard].serving = Serving::Copied;
            self.shards[shard].fields.clear();
            return events;
        }
        if begun && !self.leaves_begin_out {
            events.push(simple(encode::BEGIN, &source.name));
        }
        let last = rows.last().and_then(|row| row[0]);
        for row in rows {
            events.push(rows_event(&source.name, source.number, table, 0, &[(None, Some(row.clone()))]));
        }
        events.push(self.report(source, shard, Some(last)));
        events.push(simple(encode::COMMIT, &source.name));
        self.shards[shard].serving = Serving::Copy { after: last, begun: true };
        events
    }

    fn field(&mut self, source: &Shard, shard: usize, table: usize) -> (String, Vec<u8>) {
        let columns = source.content(table, self.shards[shard].at).columns;
        self.shards[shard].fields.insert(table, columns);
        let columns: Vec<(&str, u64, &str)> = order(source.number, columns).map(|column| (COLUMNS[column], 63, "bigint")).collect();
        let names: Vec<&str> = columns.iter().map(|column| column.0).collect();
        let text = format!("FIELD {} t{table} ({})", source.name, names.join(", "));
        (text, encode::field(KEYSPACE, &source.name, &table_name(table), &columns))
    }

    /// The next transaction of the binlog.
    fn logged(&mut self, database: &Database, shard: usize, random: &mut Random) -> Events {
        let source = &database.shards[self.shards[shard].number];
        let time = 1_700_000_000 + self.shards[shard].at as u64;
        let entry = &source.log[self.shards[shard].at];
        self.shards[shard].at += 1;
        match entry {
            Logged::Rows(changes) | Logged::Silent(changes) => {
                let mut events = Vec::new();
                if random.percent(6) {
                    // A catch-up that was cancelled within a transaction, which then comes whole.
                    events.push(simple(encode::BEGIN, &source.name));
                    let some = random.below(changes.len() + 1);
                    self.changes(source, shard, &changes[..some], time, random, &mut events);
                }
                events.push(simple(encode::BEGIN, &source.name));
                self.changes(source, shard, changes, time, random, &mut events);
                if matches!(entry, Logged::Rows(_)) {
                    events.push(self.report(source, shard, None));
                }
                events.push((format!("COMMIT {}", source.name), encode::event(encode::COMMIT, time, KEYSPACE, &source.name, None)));
                events
            }
            Logged::Ddl(table, statement) => {
                let vgtid = self.report(source, shard, None);
                let last = match self.tables.contains(table) {
                    true => (format!("DDL {} {statement}", source.name), encode::ddl(KEYSPACE, &source.name, time, statement)),
                    false => simple(encode::OTHER, &source.name),
                };
                vec![vgtid, last]
            }
            // The call goes over to other shards there.
            Logged::Journal(_) => Vec::new(),
            Logged::Other => vec![self.report(source, shard, None), simple(encode::OTHER, &source.name)],
        }
    }

    fn changes(
        &mut self,
        source: &Shard,
        shard: usize,
        changes: &[(usize, Option<Row>, Option<Row>)],
        time: u64,
        random: &mut Random,
        events: &mut Events,
    ) {
        let mut rows: Vec<(usize, Vec<Images>)> = Vec::new();
        for (table, before, after) in changes.iter().filter(|(table, ..)| self.tables.contains(table)) {
            match rows.last_mut() {
                Some((last, images)) if last == table && random.percent(50) => images.push((before.clone(), after.clone())),
                _ => rows.push((*table, vec![(before.clone(), after.clone())])),
            }
        }
        for (table, images) in rows {
            let columns = source.content(table, self.shards[shard].at).columns;
            if self.shards[shard].fields.get(&table) != Some(&columns) || random.percent(10) {
                let field = self.field(source, shard, table);
                events.push(field);
            }
            events.push(rows_event(&source.name, source.number, table, time, &images));
        }
    }
}

fn shown_last_pk(at: &ShardGtid) -> String {
    at.last_pks().first().and_then(LastPk::last_pk).map(|key| format!(" after {}", String::from_utf8_lossy(key))).unwrap_or_default()
}

fn simple(kind: u64, shard: &str) -> (String, Vec<u8>) {
    let name = match kind {
        encode::BEGIN => "BEGIN",
        encode::COMMIT => "COMMIT",
        encode::OTHER => "OTHER",
        _ => "COPY_COMPLETED",
    };
    (format!("{name} {shard}"), encode::event(kind, 0, KEYSPACE, shard, None))
}

/// Every second shard has its columns the other way round.
fn order(shard: usize, columns: usize) -> impl Iterator<Item = usize> {
    (0..columns).map(move |column| if shard % 2 == 1 { columns - 1 - column } else { column })
}

fn rows_event(name: &str, shard: usize, table: usize, time: u64, images: &[Images]) -> (String, Vec<u8>) {
    let image = |row: &Option<Row>| -> Option<Vec<Option<Vec<u8>>>> {
        let row = row.as_ref()?;
        Some(order(shard, row.len()).map(|column| row[column].map(|value| value.to_string().into_bytes())).collect())
    };
    let owned: Vec<_> = images.iter().map(|(before, after)| (image(before), image(after))).collect();
    let slices: Vec<_> = owned.iter().map(|(before, after)| (slices(before.as_ref()), slices(after.as_ref()))).collect();
    let changes: Vec<_> = slices.iter().map(|(before, after)| (before.as_deref(), after.as_deref())).collect();
    let mut text = format!("ROW {name} t{table}");
    for (before, after) in images {
        let _ = write!(text, " {before:?} -> {after:?}");
    }
    (text, encode::row(KEYSPACE, name, &table_name(table), time, &changes))
}

fn slices(image: Option<&Vec<Option<Vec<u8>>>>) -> Option<Vec<Option<&[u8]>>> {
    image.map(|values| values.iter().map(Option::as_deref).collect())
}

// ---- the destination ----

#[derive(Clone)]
struct StoredRow {
    values: [Option<i64>; COLUMNS.len()],
    deleted: bool,
    lsn: String,
}

#[derive(Clone, Default)]
struct Stored {
    rows: BTreeMap<i64, StoredRow>,
    /// As text, like a real destination.
    checkpoint: Option<String>,
}

/// A destination as it is documented: what is complete becomes visible at once with its checkpoints.
struct Model {
    hard: bool,
    visible: BTreeMap<String, Stored>,
    /// With the pieces of a transaction that is not complete.
    open: BTreeMap<String, Stored>,
    /// The greatest position of each table's changes.
    last: BTreeMap<String, (u64, u32)>,
}

fn column_number(name: &str) -> usize {
    COLUMNS.iter().position(|column| *column == name).unwrap_or(0)
}

fn number(value: ValueRef<'_>) -> Option<i64> {
    match value {
        ValueRef::Int(number) => Some(number),
        _ => None,
    }
}

impl Model {
    fn new(hard: bool) -> Self {
        Self { hard, visible: BTreeMap::new(), open: BTreeMap::new(), last: BTreeMap::new() }
    }

    fn write(&mut self, batch: &ChangeBatch) -> Result<(), String> {
        for change in batch.changes() {
            self.apply(change)?;
        }
        if batch.is_complete() {
            for checkpoint in batch.checkpoints() {
                let stored = self.open.entry(checkpoint.table().to_owned()).or_default();
                if let Some(before) = &stored.checkpoint {
                    goes_on(&Checkpoint::parse(checkpoint.table(), before).map_err(|error| format!("{error:?}"))?, checkpoint)?;
                }
                stored.checkpoint = Some(checkpoint.to_string());
            }
            self.visible = self.open.clone();
        } else if !batch.checkpoints().is_empty() {
            return Err("a piece of a transaction came with a checkpoint".into());
        }
        Ok(())
    }

    /// What was not complete is gone.
    fn undo(&mut self) {
        self.open = self.visible.clone();
        self.last.clear();
        for (name, stored) in &self.visible {
            let greatest = stored.rows.values().map(|row| row.lsn.as_str()).max();
            let ordinal =
                stored.checkpoint.as_deref().and_then(|text| Checkpoint::parse(name.as_str(), text).ok()).map_or(0, |at| at.ordinal);
            let of_rows = greatest.and_then(|text| Lsn::parse(text).ok()).map_or((0, 0), |lsn| (lsn.ordinal(), lsn.row()));
            self.last.insert(name.clone(), of_rows.max((ordinal, 0)));
        }
    }

    fn orders(&mut self, table: &str, lsn: &str) -> Result<(), String> {
        let lsn = Lsn::parse(lsn).map_err(|error| format!("{error:?}"))?;
        let at = (lsn.ordinal(), lsn.row());
        match self.last.insert(table.to_owned(), at) {
            Some(before) if before >= at => Err(format!("`{table}`: {at:?} follows {before:?}")),
            _ => Ok(()),
        }
    }

    fn apply(&mut self, change: &Change) -> Result<(), String> {
        let name = change.table().name().to_owned();
        match change {
            Change::Rows(changes) => {
                for row in 0..changes.len() {
                    self.orders(&name, &changes.lsn(row))?;
                }
                let stored = self.open.entry(name).or_default();
                for row in 0..changes.len() {
                    put(stored, changes, row, self.hard)?;
                }
            }
            Change::Truncated { lsn, .. } => {
                self.orders(&name, lsn)?;
                self.delete(&name, lsn, |_| true);
            }
            Change::Swept { before, lsn, .. } => {
                self.orders(&name, lsn)?;
                self.delete(&name, lsn, |row| row.lsn < *before);
            }
            // New columns are NULL in the rows that are there.
            Change::Columns { .. } | Change::CopiedAnew { .. } => {}
            Change::Ended { error, .. } => return Err(format!("`{name}` ended: {error:?}")),
        }
        Ok(())
    }

    fn delete(&mut self, table: &str, lsn: &str, which: impl Fn(&StoredRow) -> bool) {
        let stored = self.open.entry(table.to_owned()).or_default();
        if self.hard {
            stored.rows.retain(|_, row| !which(row));
        } else {
            for row in stored.rows.values_mut().filter(|row| !row.deleted && which(row)) {
                (row.deleted, row.lsn) = (true, lsn.to_owned());
            }
        }
    }
}

fn put(stored: &mut Stored, changes: &TableChanges, row: usize, hard: bool) -> Result<(), String> {
    let mut values = [None; COLUMNS.len()];
    for (index, column) in changes.table().columns().iter().enumerate() {
        values[column_number(column.name())] = number(changes.rows().value(row, index));
    }
    let key = values[0].ok_or("a row has no key")?;
    let lsn = changes.lsn(row);
    match (changes.ops()[row], hard) {
        (Op::Delete, true) => {
            stored.rows.remove(&key);
        }
        (Op::Delete, false) => {
            if let Some(row) = stored.rows.get_mut(&key) {
                (row.deleted, row.lsn) = (true, lsn);
            }
        }
        _ => {
            stored.rows.insert(key, StoredRow { values, deleted: false, lsn });
        }
    }
    Ok(())
}

/// A checkpoint never goes back on a shard, unless the table is copied anew.
fn goes_on(before: &Checkpoint, after: &Checkpoint) -> Result<(), String> {
    let is_new_copy = match (&before.phase, &after.phase) {
        (_, CopyPhase::Copied) => false,
        (CopyPhase::Copied, CopyPhase::Copying { .. }) => true,
        (CopyPhase::Copying { sweep: before, .. }, CopyPhase::Copying { sweep: after, .. }) => before != after,
    };
    if after.ordinal < before.ordinal {
        return Err(format!("the ordinal of `{}` went from {} to {}", after.table, before.ordinal, after.ordinal));
    }
    if is_new_copy {
        return Ok(());
    }
    for shard in before.position().shards() {
        // A shard that was resharded is gone.
        let Some(now) = after.position().get(KEYSPACE, shard.shard()).map(ShardGtid::gtid) else { continue };
        if count(now) < count(shard.gtid()) {
            return Err(format!("the checkpoint of `{}` went from `{}` to `{now}`", after.table, shard.gtid()));
        }
    }
    Ok(())
}

// ---- the loop around the machine ----

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    CaughtUp,
    Killed,
}

struct Runner<'a> {
    database: &'a mut Database,
    random: &'a mut Random,
    /// What happened, if somebody wants to read it.
    trace: &'a mut Option<String>,
    /// Events until the process is killed.
    killed_in: Option<usize>,
    transaction_bytes: usize,
    /// How much the source may still change during the run.
    changes_left: usize,
}

impl Runner<'_> {
    fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = self.trace.as_mut() {
            trace.push_str(&text());
            trace.push('\n');
        }
    }

    /// Captures tables that stand at these checkpoints.
    fn run(
        &mut self,
        tables: Vec<(Table, Option<Checkpoint>)>,
        write: &mut dyn FnMut(&Database, &ChangeBatch) -> Result<(), String>,
    ) -> Result<End, String> {
        let serving = self.database.histories();
        let ordinal = tables.iter().filter_map(|(_, at)| at.as_ref()).map(|at| at.ordinal).max().unwrap_or(0);
        let plan = Plan {
            keyspace: KEYSPACE.into(),
            shards: serving.iter().map(|shard| shard.shard.clone()).collect(),
            ordinal,
            now: DateTime::default(),
            transaction_bytes: self.transaction_bytes,
            declared: Arc::default(),
            malformed_text: MalformedText::default(),
        };
        let stop = self.database.executed();
        let mut agenda = Agenda::new(plan, stop.clone(), false);
        for (table, at) in tables {
            let judged = at.map(|at| judge(&at.position, KEYSPACE, &serving).map(|fit| Resume::of(at, fit)));
            agenda.add(Arc::new(table), judged.transpose().map_err(|error| format!("{error:?}"))?);
        }
        if let Some(batch) = agenda.take_ready() {
            self.hand_over(&batch, write)?;
        }
        while let Some(Next { mut machine, is_last }) = agenda.next().map_err(|error| format!("{error:?}"))? {
            let tables: Vec<&str> = machine.tables().map(|table| table.name()).collect();
            self.note(|| format!("-- a machine for {} from {:?}", tables.join(", "), machine.shards()));
            if self.feed(&mut machine, write)? == End::Killed {
                return Ok(End::Killed);
            }
            let mut batch = machine.take_all();
            if let Some(shards) = agenda.finish(machine, is_last, &mut batch) {
                let executed = |name: &String| {
                    let shard = self.database.shard(name).ok_or("the machine went over to a shard that never was")?;
                    let set = GtidSet::parse(&shard.gtid(shard.open_len())).map_err(|error| format!("{error:?}"))?;
                    Ok::<_, String>((name.clone(), set))
                };
                let stop = shards.iter().map(executed).collect::<Result<_, _>>()?;
                agenda.stop_at(stop);
            }
            self.hand_over(&batch, write)?;
            if batch.is_caught_up() {
                for checkpoint in batch.checkpoints() {
                    // Of a shard that is gone, all was read.
                    for at in checkpoint.position().shards().iter().filter(|at| stop.contains_key(at.shard())) {
                        if !at.gtid_set().is_ok_and(|set| set.contains(&stop[at.shard()])) {
                            return Err(format!(
                                "{} did not reach the stop position {stop:?} at {:?}",
                                checkpoint.table(),
                                checkpoint.position()
                            ));
                        }
                    }
                    if checkpoint.position() != batch.checkpoints()[0].position() {
                        return Err(format!("{} ends elsewhere than the others", checkpoint.table()));
                    }
                }
                return Ok(End::CaughtUp);
            }
        }
        Err("the run ended before it had caught up".into())
    }

    fn hand_over(
        &mut self,
        batch: &ChangeBatch,
        write: &mut dyn FnMut(&Database, &ChangeBatch) -> Result<(), String>,
    ) -> Result<(), String> {
        self.note(|| {
            let checkpoints: Vec<String> = batch.checkpoints().iter().map(shown).collect();
            format!("   => {} changes, complete {}, {}", batch.changes().len(), batch.is_complete(), checkpoints.join("; "))
        });
        write(self.database, batch)
    }

    /// Feeds a machine until it ends.
    fn feed(&mut self, machine: &mut Machine, write: &mut dyn FnMut(&Database, &ChangeBatch) -> Result<(), String>) -> Result<End, String> {
        let mut call: Option<Call> = None;
        let mut waiting: VecDeque<(String, Vec<u8>)> = VecDeque::new();
        while !machine.is_finished() {
            if self.random.percent(30) {
                if let Some(batch) = machine.take() {
                    self.hand_over(&batch, write)?;
                } else if let Some(piece) = machine.take_piece() {
                    self.hand_over(&piece, write)?;
                }
            }
            let calling = match &mut call {
                Some(calling) => calling,
                None => {
                    let tables = machine.tables().map(|table| table.name()[1..].parse().unwrap_or(0)).collect();
                    let calling = Call::new(self.database, &machine.resume_from(), tables, self.random)?;
                    if let Some(trace) = self.trace.as_mut() {
                        let _ = writeln!(trace, "   connected: {}", calling.vgtid(&self.database.shards[calling.shards[0].number]).0);
                    }
                    call.insert(calling)
                }
            };
            if waiting.is_empty() {
                if self.changes_left > 0 && self.random.percent(10) {
                    self.changes_left -= 1;
                    self.database.happen(self.random);
                }
                waiting.extend(calling.next(self.database, self.random));
                if waiting.is_empty() {
                    return Err("the server has nothing more to send, and the machine wants more".into());
                }
            }
            // A response takes some of the events; only those up to a fault arrive.
            let size = 1 + self.random.below(waiting.len());
            let arriving = size.min(self.killed_in.unwrap_or(size));
            let events: Events = waiting.drain(..size).take(arriving).collect();
            for (text, _) in &events {
                self.note(|| format!("   {text}"));
            }
            let response = encode::response(&events.into_iter().map(|(_, event)| event).collect::<Vec<_>>());
            let fed = read_response(&response, |event| machine.on_event(&event));
            if let Err(error) = fed {
                // A transaction in pieces can only be taken back by the destination.
                let in_pieces =
                    self.transaction_bytes < 1 << 20 && (error.kind() == ErrorKind::Limit || error.to_string().contains("had no end"));
                self.note(|| format!("-- {error:?}"));
                return if in_pieces { Ok(End::Killed) } else { Err(format!("{error:?}")) };
            }
            if let Some(left) = &mut self.killed_in {
                *left -= arriving;
                if *left == 0 {
                    self.note(|| "-- killed".into());
                    return Ok(End::Killed);
                }
            }
            if self.random.percent(3) {
                self.note(|| "-- the connection broke".into());
                (call, waiting) = (None, VecDeque::new());
                if machine.connection_lost().is_err() {
                    self.note(|| "-- in a transaction in pieces".into());
                    return Ok(End::Killed);
                }
            }
        }
        Ok(End::CaughtUp)
    }
}

fn shown(checkpoint: &Checkpoint) -> String {
    let shards = checkpoint.position().shards().iter().map(|at| format!("{} {}{}", at.shard(), count(at.gtid()), shown_last_pk(at)));
    let phase = match &checkpoint.phase {
        CopyPhase::Copied => "copied".to_owned(),
        CopyPhase::Copying { done, sweep } => format!("copying, done {done:?}, sweep {sweep:?}"),
    };
    format!("{} {phase} [{}] #{}", checkpoint.table, shards.collect::<Vec<_>>().join(", "), checkpoint.ordinal)
}

// ---- the comparison ----

/// Compares a table with the source at the position of its checkpoint: `rows` are those that are not deleted, with their `_cdc_lsn`.
fn compare(database: &Database, table: usize, checkpoint: &Checkpoint, rows: &BTreeMap<i64, StoredRow>) -> Result<(), String> {
    let copying = match &checkpoint.phase {
        CopyPhase::Copied => None,
        CopyPhase::Copying { done, sweep } => Some((done, *sweep)),
    };
    let mut quarters: Vec<usize> = Vec::new();
    for at in checkpoint.position().shards() {
        let Some(shard) = database.shard(at.shard()) else { return Err("a checkpoint names a shard that never was".into()) };
        quarters.extend(shard.quarters.clone());
        let position = count(at.gtid());
        // The change after the position may be there already if its transaction said nothing of its own position.
        if shard.log.get(position).is_some_and(|entry| matches!(entry, Logged::Silent(_))) {
            continue;
        }
        let is_done = copying.is_none_or(|(done, _)| done.contains(&shard.name));
        // Of a shard that is being copied, what the last PK says.
        let until = match at.last_pks().first().and_then(LastPk::last_pk) {
            _ if is_done => i64::MAX,
            Some(key) => std::str::from_utf8(key).ok().and_then(|key| key.parse().ok()).unwrap_or(i64::MIN),
            None => i64::MIN,
        };
        let sweep = copying.and_then(|(_, sweep)| sweep).map(|sweep| format!("{sweep:020}:"));
        let content = shard.content(table, position);
        let expected = content.rows.iter().filter(|(key, _)| **key <= until);
        let found = rows.iter().filter(|(key, row)| {
            let waits_for_sweep = sweep.as_ref().is_some_and(|sweep| row.lsn < *sweep);
            !row.deleted && !waits_for_sweep && **key <= until && shard.quarters.contains(&quarter(**key))
        });
        let expected: Vec<(i64, Row)> = expected.map(|(key, row)| (*key, row.clone())).collect();
        let found: Vec<(i64, Row)> = found.map(|(key, row)| (*key, row.values[..content.columns].to_vec())).collect();
        if expected != found {
            return Err(format!(
                "t{table} on {} at {position}{}: the source had {expected:?}, the destination has {found:?}",
                shard.name,
                shown_last_pk(at)
            ));
        }
    }
    quarters.sort_unstable();
    if quarters != [0, 1, 2, 3] {
        return Err(format!("the shards of a checkpoint hold the quarters {quarters:?} of the keys"));
    }
    Ok(())
}

/// One history. With `trace`, everything that happens is told.
fn history(seed: u64, trace: &mut Option<String>) -> Result<(), String> {
    let mut random = Random(seed);
    let mut database = Database::new(&mut random);
    let mut model = Model::new(random.percent(30));
    let mut captured = 1 + random.below(database.tables);
    // Some have so little memory that transactions come in pieces.
    let mut transaction_bytes = if random.percent(20) { 4 + random.below(30) } else { 1 << 30 };
    for run in 0..3 + random.below(3) {
        if run > 0 {
            captured = (captured + random.below(2)).min(database.tables);
            for _ in 0..random.below(6) {
                database.happen(&mut random);
            }
        }
        let mut attempts = random.below(3);
        loop {
            let killed_in = (attempts > 0).then(|| 1 + random.below(40));
            if attempts == 0 {
                transaction_bytes = 1 << 30;
            }
            attempts = attempts.saturating_sub(1);
            model.undo();
            if let Some(trace) = trace {
                let _ = writeln!(trace, "---- run {run}, killed in {killed_in:?}");
            }
            let mut tables = Vec::new();
            for table in 0..captured {
                let name = table_name(table);
                let stored = model.open.entry(name.clone()).or_default();
                let declared = database.table(table);
                let checkpoint = stored.checkpoint.as_deref().map(|text| Checkpoint::parse(name, text));
                tables.push((declared, checkpoint.transpose().map_err(|error| format!("{error:?}"))?));
            }
            let changes_left = random.below(4);
            let mut runner = Runner { database: &mut database, random: &mut random, trace, killed_in, transaction_bytes, changes_left };
            let end = runner.run(tables, &mut |database, batch| {
                model.write(batch)?;
                if !batch.is_complete() {
                    return Ok(());
                }
                for checkpoint in batch.checkpoints() {
                    let table = checkpoint.table()[1..].parse().unwrap_or(0);
                    compare(database, table, checkpoint, &model.visible[checkpoint.table()].rows)?;
                }
                Ok(())
            })?;
            if end == End::CaughtUp {
                break;
            }
        }
    }
    Ok(())
}

fn histories(default: u64) -> std::ops::Range<u64> {
    let read = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first: u64 = read("INGEST_MODEL_SEED").unwrap_or(1);
    first..first + read("INGEST_MODEL_HISTORIES").unwrap_or(default)
}

#[test]
fn every_history_ends_with_the_rows_of_the_source() {
    let seeds = histories(10_000);
    let middle = seeds.start + (seeds.end - seeds.start) / 2;
    let failed: Vec<u64> = std::thread::scope(|scope| {
        let parts = [seeds.start..middle, middle..seeds.end];
        let threads = parts.map(|part| scope.spawn(move || first_failure(part)));
        threads.into_iter().filter_map(|thread| thread.join().expect("failures are caught")).collect()
    });
    if let Some(&seed) = failed.first() {
        let mut trace = Some(String::new());
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| history(seed, &mut trace)));
        let reason = match outcome {
            Ok(result) => result.err().unwrap_or_default(),
            Err(_) => "it panicked".into(),
        };
        panic!(
            "history {seed} failed; INGEST_MODEL_SEED={seed} INGEST_MODEL_HISTORIES=1 repeats it\n{}{reason}",
            trace.unwrap_or_default()
        );
    }
}

fn first_failure(mut seeds: std::ops::Range<u64>) -> Option<u64> {
    seeds.find(|&seed| !matches!(std::panic::catch_unwind(|| history(seed, &mut None)), Ok(Ok(()))))
}
