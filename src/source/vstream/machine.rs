//! Change capture as a machine that is fed: events in, change batches out. No socket, no clock, no thread.
//!
//! ```text
//!   copy machine (one table, all shards)           stream machine (all tables)
//!
//!   Copying ── COPY_COMPLETED of every shard       Streaming ── every shard's GTID set holds the stop position
//!      │                 │                             │                       │
//!      │                 ▼                             │                       ▼
//!      └── re-copy ─▶ Finished                         └── re-copy ───────▶ Finished
//! ```
//!
//! A table is copied by a stream of its own, because a VGTID at the boundary of two tables forgets those that were not begun. Afterwards one
//! stream serves all tables, from the oldest of their positions; a transaction that a table's own position already holds is left out for
//! that table. So every table ends a run at the same VGTID.
//!
//! A reshard is followed: the VGTID names other shards from one event on, of the same keys. In the copy it discards the last PKs, so that the table
//! is copied anew.
//!
//! Rows count from BEGIN to COMMIT. What stands between is dropped when a new BEGIN comes, when the connection breaks, and when the table
//! has it already.

mod handout;
mod table;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use self::table::{Effect, Following, MISLABELLED, Mark, ROWS_MOVED, TableState};
use crate::change::{Change, Checkpoint, Sequence, write_lsn};
use crate::gtid::GtidSet;
use crate::keyrange::is_reshard;
use crate::policy::MalformedText;
use crate::position::{Lsn, ShardGtid, Vgtid, list, set_of};
use crate::schema::Table;
use crate::source::vstream::ddl::Ddl;
use crate::source::vstream::decode::{self, FieldPlan};
use crate::source::vstream::event::{Event, EventKind, FieldEvent, RowEvent, RowImage};
use crate::source::vstream::shape::Shape;
use crate::value::DateTime;
use crate::{Error, ErrorKind, PositionFault, Result};

/// What a machine is to read.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) keyspace: String,
    /// The shards of the position, which every VGTID lists until a reshard replaces some of them.
    pub(crate) shards: Vec<String>,
    /// The greatest ordinal used so far.
    pub(crate) ordinal: u64,
    /// What rows of the snapshot get as their time; events of the copy phase have none.
    pub(crate) now: DateTime,
    /// Above this many buffered bytes an open transaction is handed out in pieces.
    pub(crate) transaction_bytes: usize,
    /// The tables as information_schema declared them when the run began.
    pub(crate) declared: Arc<BTreeMap<String, Table>>,
    /// What becomes of bytes that are no text. The tables have to be those that it makes of them.
    pub(crate) malformed_text: MalformedText,
}

/// A table and how far it has come.
#[derive(Debug, Clone)]
pub(crate) struct PlannedTable {
    pub(crate) table: Arc<Table>,
    pub(crate) position: Vgtid,
}

/// The stop position: what the GTID set of each shard that served when it was read has to hold. A shard without an entry was resharded before, and
/// has to be replaced by those that have one. `None` goes on for ever.
pub(crate) type Stop = Option<BTreeMap<String, GtidSet>>;

pub(crate) struct Machine {
    plan: Plan,
    tables: Vec<TableState>,
    phase: Phase,
    /// What was last committed, as the server sent it.
    position: Vgtid,
    transaction: Option<Transaction>,
    /// The VGTID that the next COMMIT, DDL or OTHER makes good.
    seen: Option<(Vgtid, String)>,
    /// For each table, how its rows of each shard are read.
    plans: Vec<HashMap<String, FieldPlan>>,
    /// Tables by their bare names.
    index: HashMap<String, usize>,
    ordinal: u64,
    went_over: bool,
    finished: bool,
    /// Bytes of row images taken in since the last batch went out.
    buffered: usize,
    committed_anything: bool,
    scratch: Scratch,
}

enum Phase {
    Copy {
        done: BTreeSet<String>,
        /// For each shard that is not done, the last VGTID entry from which its copy can go on.
        kept: BTreeMap<String, ShardGtid>,
        sweep: Option<u64>,
    },
    Stream {
        stop: Stop,
        reached: BTreeSet<String>,
        /// Shards that took the place of others after the stop position was read.
        joined: BTreeSet<String>,
    },
}

struct Transaction {
    /// Where the next row stands.
    next: Sequence,
    /// Pieces were handed out already.
    in_pieces: bool,
    /// When it began; its commit, which says so exactly, is not there yet when a piece goes out.
    at: DateTime,
}

#[derive(Default)]
struct Scratch {
    before: RowImage,
    after: RowImage,
    text: String,
    inexact: Vec<usize>,
}

impl Machine {
    /// A machine that copies one table.
    ///
    /// `position` is what an interrupted copy was last at, with the shards in `done` complete; or every shard with an empty GTID.
    pub(crate) fn copy(plan: Plan, table: Arc<Table>, position: Vgtid, done: Vec<String>, sweep: Option<u64>) -> Self {
        let done: BTreeSet<String> = done.into_iter().collect();
        let kept =
            position.shards().iter().filter(|shard| !done.contains(shard.shard())).map(|at| (at.shard().to_owned(), at.clone())).collect();
        let planned = PlannedTable { table, position: Vgtid::default() };
        Self::new(plan, vec![planned], position, Phase::Copy { done, kept, sweep })
    }

    /// A machine that streams changes of tables whose copies are complete, from the oldest of their positions.
    pub(crate) fn stream(plan: Plan, tables: Vec<PlannedTable>, stop: Stop) -> Result<Self> {
        let position = oldest(&plan, &tables)?;
        let mut stop = stop;
        if let Some(stop) = &mut stop {
            // Every table has to end at the same VGTID, so the stream goes at least as far as the furthest of them.
            for shard in tables.iter().flat_map(|table| table.position.shards()) {
                if let Some(stop) = stop.get_mut(shard.shard()) {
                    stop.union(&shard.gtid_set()?);
                }
            }
        }
        let phase = Phase::Stream { stop, reached: BTreeSet::new(), joined: BTreeSet::new() };
        let mut machine = Self::new(plan, tables, position, phase);
        for state in &mut machine.tables {
            for shard in state.own.shards() {
                let own = shard.gtid_set()?;
                let start = machine.position.get(shard.keyspace(), shard.shard()).map(ShardGtid::gtid_set).transpose()?.unwrap_or_default();
                if !start.contains(&own) {
                    state.ahead.insert(shard.shard().to_owned(), own);
                }
            }
        }
        let start = machine.position.clone();
        for shard in start.shards() {
            machine.note_reached(shard)?;
        }
        machine.finish_if_reached();
        Ok(machine)
    }

    fn new(plan: Plan, tables: Vec<PlannedTable>, position: Vgtid, phase: Phase) -> Self {
        let index: HashMap<String, usize> =
            tables.iter().enumerate().map(|(index, planned)| (planned.table.name().to_owned(), index)).collect();
        let plans = tables.iter().map(|_| HashMap::new()).collect();
        let tables = tables
            .into_iter()
            .map(|planned| TableState {
                table: planned.table,
                own: planned.position,
                ahead: BTreeMap::new(),
                segments: Vec::new(),
                committed: Mark::default(),
                state: Following::Yes,
                shapes: HashMap::new(),
                grown: Vec::new(),
                lagging: BTreeSet::new(),
                added: BTreeMap::new(),
                omitted: BTreeSet::new(),
            })
            .collect();
        Self {
            ordinal: plan.ordinal,
            plan,
            tables,
            phase,
            position,
            transaction: None,
            seen: None,
            plans,
            index,
            went_over: false,
            finished: false,
            buffered: 0,
            committed_anything: false,
            scratch: Scratch::default(),
        }
    }

    /// Where a new connection has to begin so that nothing is missed and nothing that was handed out comes again but as a repeat.
    pub(crate) fn resume_from(&self) -> Vgtid {
        self.safe_position(&self.position)
    }

    /// The tables that a request has to name.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.tables.iter().filter(|state| matches!(state.state, Following::Yes)).map(|state| &state.table)
    }

    /// The shards that the position is of now.
    pub(crate) fn shards(&self) -> &[String] {
        &self.plan.shards
    }

    /// Whether these have taken the place of others that served when the run began.
    pub(crate) fn went_over(&self) -> bool {
        self.went_over
    }

    /// Says which columns a table has on a shard at the position from which the machine begins.
    pub(crate) fn expect(&mut self, table: &str, shard: &str, shape: Shape) {
        if let Some(state) = self.index.get(table).and_then(|&index| self.tables.get_mut(index)) {
            state.shapes.insert(shard.to_owned(), shape);
        }
    }

    /// What is known of the columns of each table and shard.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = (&str, &str, &Shape)> {
        self.tables.iter().flat_map(|state| state.shapes.iter().map(|(shard, shape)| (state.table.name(), shard.as_str(), shape)))
    }

    /// Tables, and columns that new rows of theirs came without since this was asked last: their default has to be NULL.
    pub(crate) fn take_omitted(&mut self) -> Vec<(Arc<Table>, String)> {
        let mut omitted = Vec::new();
        for state in &mut self.tables {
            for index in std::mem::take(&mut state.omitted) {
                omitted.extend(state.table.columns().get(index).map(|column| (Arc::clone(&state.table), column.name().to_owned())));
            }
        }
        omitted
    }

    /// Whether everything that was asked for has come; events are ignored from then on.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    /// The greatest ordinal used.
    pub(crate) fn ordinal(&self) -> u64 {
        self.ordinal
    }

    /// Bytes of row images that wait to be taken.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.buffered
    }

    /// Forgets what a broken connection left open. An error if pieces of the open transaction were handed out already, since those could
    /// only be taken back by the destination.
    pub(crate) fn connection_lost(&mut self) -> Result<()> {
        if self.transaction.as_ref().is_some_and(|transaction| transaction.in_pieces) {
            let message = "the connection broke within a transaction that is larger than the memory allowed; run again to resume before it";
            return Err(Error::new(ErrorKind::Connect, message));
        }
        self.discard();
        self.seen = None;
        self.plans.iter_mut().for_each(HashMap::clear);
        Ok(())
    }

    /// Takes in one event.
    ///
    /// # Errors
    /// With the table and the column that they concern, the shard, and the GTID set up to which everything of it is committed.
    pub(crate) fn on_event(&mut self, event: &Event<'_>) -> Result<()> {
        if self.finished {
            return Ok(());
        }
        self.take_in(event).map_err(|error| self.placed(error, event.shard))
    }

    /// Says of an error where it came about. The position is that without last PKs, which are values of rows.
    #[cold]
    fn placed(&self, error: Error, shard: &str) -> Error {
        if shard.is_empty() {
            return error;
        }
        let error = error.with_shard(shard);
        match self.position.get(&self.plan.keyspace, shard).map(ShardGtid::gtid).filter(|gtid| !gtid.is_empty()) {
            Some(gtid) => error.with_position(gtid),
            None => error,
        }
    }

    fn take_in(&mut self, event: &Event<'_>) -> Result<()> {
        if !event.keyspace.is_empty() && event.keyspace != self.plan.keyspace {
            return Err(self.violation(event, "it is of another keyspace"));
        }
        match &event.kind {
            EventKind::Heartbeat | EventKind::Nothing | EventKind::Journal => Ok(()),
            EventKind::Begin => {
                // A BEGIN within a transaction is legal: an empty table's copy and an interrupted catch-up have one.
                if self.transaction.as_ref().is_some_and(|transaction| transaction.in_pieces) {
                    return Err(self.violation(event, "the transaction before it had no end"));
                }
                self.discard();
                self.transaction = Some(self.new_transaction(event)?);
                Ok(())
            }
            EventKind::Field(field) => self.on_field(event, field),
            EventKind::Row(row) => self.on_row(event, row),
            EventKind::Vgtid(vgtid) => self.on_vgtid(event, vgtid),
            EventKind::Commit => {
                if self.transaction.is_none() && !self.is_copy() {
                    return Err(self.violation(event, "no transaction is open"));
                }
                self.commit(event)
            }
            EventKind::Rollback => {
                if self.transaction.as_ref().is_some_and(|transaction| transaction.in_pieces) {
                    return Err(self.violation(event, "parts of the transaction were handed out already"));
                }
                self.discard();
                self.seen = None;
                Ok(())
            }
            EventKind::Ddl(statement) => self.on_ddl(event, statement),
            EventKind::Other => match &self.transaction {
                Some(_) => Ok(()),
                None => self.commit(event),
            },
            EventKind::Statement(_) => {
                let message = format!(
                    "the binlog of shard `{}` holds {} statements instead of rows: binlog_format must be ROW",
                    event.shard,
                    event.kind.name()
                );
                Err(Error::new(ErrorKind::Unsupported, message).with_shard(event.shard))
            }
            EventKind::CopyCompleted => self.on_copy_completed(event),
            EventKind::Unknown(number) => Err(self.violation(event, &format!("its type is {number}"))),
        }
    }

    fn is_copy(&self) -> bool {
        matches!(self.phase, Phase::Copy { .. })
    }

    #[cold]
    fn violation(&self, event: &Event<'_>, what: &str) -> Error {
        let state = match (&self.phase, &self.transaction) {
            (Phase::Copy { .. }, _) => "the copy phase",
            (Phase::Stream { .. }, Some(_)) => "a transaction of the stream",
            (Phase::Stream { .. }, None) => "the stream, between transactions",
        };
        let message = format!("{} came in {state}, and {what} (keyspace `{}`, shard `{}`)", event.kind.name(), event.keyspace, event.shard);
        Error::protocol(message).with_shard(event.shard)
    }

    fn new_transaction(&self, event: &Event<'_>) -> Result<Transaction> {
        Ok(Transaction { next: Sequence { ordinal: self.next_ordinal()?, row: 0 }, in_pieces: false, at: self.time_of(event)? })
    }

    /// When the server logged an event; events of the copy phase have no time and get the run's.
    fn time_of(&self, event: &Event<'_>) -> Result<DateTime> {
        if event.timestamp <= 0 {
            return Ok(self.plan.now);
        }
        let time = event.timestamp.checked_mul(1_000_000).and_then(DateTime::from_unix_micros);
        time.ok_or_else(|| self.violation(event, "its time is beyond the calendar"))
    }

    fn next_ordinal(&self) -> Result<u64> {
        Ok(Lsn::new(self.ordinal).next_ordinal()?.ordinal())
    }

    /// Drops the rows of the open transaction.
    fn discard(&mut self) {
        self.transaction = None;
        for state in &mut self.tables {
            state.discard();
        }
    }

    /// The table that an event names, by its index. `None` for a table that is not followed any more, and for tables of Vitess itself.
    fn find(&self, event: &Event<'_>, name: &str, internal: bool) -> Result<Option<usize>> {
        let bare = match name.strip_prefix(self.plan.keyspace.as_str()).and_then(|rest| rest.strip_prefix('.')) {
            Some(rest) => rest,
            None => name,
        };
        match self.index.get(bare).or_else(|| self.index.get(name)).copied() {
            Some(index) => Ok(matches!(self.tables[index].state, Following::Yes).then_some(index)),
            None if internal => Ok(None),
            None => Err(self.violation(event, &format!("table `{bare}` was not asked for"))),
        }
    }

    fn on_field(&mut self, event: &Event<'_>, field: &FieldEvent) -> Result<()> {
        let Some(index) = self.find(event, &field.table, field.is_internal_table)? else { return Ok(()) };
        let shard = if field.shard.is_empty() { event.shard } else { &field.shard };
        let state = &mut self.tables[index];
        let shape = state.shapes.entry(shard.to_owned()).or_default();
        shape.declare(field, event.sent);
        // Changes that the table has already got are not looked at.
        if !decode::has_lost_track(field) && !state.ahead.contains_key(shard) {
            let expected = shape.on_field(field.fields.iter().map(|column| &column.name));
            if !expected && !self.is_copy() {
                self.copy_anew(index, MISLABELLED);
                return Ok(());
            }
        }
        let planned = self.tables[index].replan(field, self.plans[index].get(shard), &self.plan);
        match planned {
            Ok(plan) => {
                let plans = &mut self.plans[index];
                plans.insert(shard.to_owned(), plan);
                // Another shard may send its rows by its older FIELD for a while: its plan knows nothing of the new columns.
                let width = self.tables[index].table.columns().len();
                plans.values_mut().for_each(|plan| plan.widen(width));
                Ok(())
            }
            Err(error) if self.is_copy() => Err(error.with_shard(shard)),
            Err(error) if error.kind() == ErrorKind::Protocol => Err(error.with_shard(shard)),
            Err(error) if decode::has_lost_track(field) => {
                log::warn!("{error:#}");
                self.copy_anew(index, "the server no longer knows the columns that older changes of it had");
                Ok(())
            }
            Err(error) => {
                let error = self.placed(error, shard);
                self.end_table(index, error);
                Ok(())
            }
        }
    }

    /// Gives a table up to a new copy on top of what is stored: what that copy does not bring is gone at the source.
    fn copy_anew(&mut self, index: usize, reason: &str) {
        // Pieces of a transaction that does not come to its end here belong to the old copy: what the new one does not bring of them goes.
        if let Some(transaction) = self.transaction.as_ref().filter(|transaction| transaction.in_pieces) {
            self.ordinal = self.ordinal.max(transaction.next.ordinal);
        }
        let from = self.ordinal.saturating_add(1);
        let state = &mut self.tables[index];
        state.discard();
        let table = Arc::clone(&state.table);
        state.push_committed(Change::CopiedAnew { table, reason: reason.to_owned() });
        state.state = Following::Recopy { from };
        self.committed_anything = true;
        self.finish_if_reached();
    }

    /// The same by the table's name, once what was committed has been taken out: the checkpoints that go with that.
    pub(crate) fn copy_anew_by_name(&mut self, table: &str, reason: &str) -> Vec<Checkpoint> {
        if let Some(index) = self.index.get(table).copied() {
            self.copy_anew(index, reason);
        }
        self.checkpoints()
    }

    fn on_row(&mut self, event: &Event<'_>, row: &RowEvent<'_>) -> Result<()> {
        if self.transaction.is_none() {
            if !self.is_copy() {
                return Err(self.violation(event, "no transaction is open"));
            }
            // Older servers leave BEGIN out in the copy of a large table.
            self.transaction = Some(self.new_transaction(event)?);
        }
        let Some(index) = self.find(event, row.table, row.is_internal_table)? else { return Ok(()) };
        let Some(plan) = self.plans[index].get(event.shard) else {
            return Err(self.violation(event, &format!("table `{}` had no FIELD event before it", self.tables[index].table.name())));
        };
        let Some(transaction) = &mut self.transaction else { return Ok(()) };
        let state = &mut self.tables[index];
        let scratch = &mut self.scratch;
        // Rows of the copy have no time.
        let from_copy = event.timestamp == 0;
        if !from_copy && let Some(shape) = state.shapes.get_mut(event.shard) {
            shape.on_row();
        }
        if state.grown.iter().any(|&column| plan.lacks(column)) && !state.lagging.contains(event.shard) {
            state.lagging.insert(event.shard.to_owned());
        }
        let mut bytes = 0;
        let result = row.changes(|change| {
            bytes += change.before.map_or(0, <[u8]>::len) + change.after.map_or(0, <[u8]>::len);
            state.push(plan, &change, from_copy, transaction, scratch)
        });
        self.buffered += bytes;
        if let Err(error) = result {
            return Err(error.with_table(self.tables[index].table.name()).with_shard(event.shard));
        }
        if self.buffered > self.plan.transaction_bytes.saturating_mul(4) {
            let waiting = &self.tables[index];
            if waiting.ahead.contains_key(event.shard) {
                let message = format!(
                    "a transaction of more than {} bytes changes `{}`, which may hold it already: capture the table by itself, or rebuild it with full_refresh",
                    self.plan.transaction_bytes.saturating_mul(4),
                    waiting.table.name()
                );
                return Err(Error::new(ErrorKind::Limit, message).with_table(waiting.table.name()).with_shard(event.shard));
            }
        }
        Ok(())
    }

    fn on_vgtid(&mut self, event: &Event<'_>, vgtid: &Vgtid) -> Result<()> {
        if let Some(other) = vgtid.shards().iter().find(|shard| shard.keyspace() != self.plan.keyspace) {
            return Err(self.violation(event, &format!("it is of keyspace `{}`", other.keyspace())));
        }
        // Taken over by the COMMIT: a connection that breaks before it goes on from the old shards.
        if !self.has_shards_of(vgtid) {
            let sent = vgtid.shard_names();
            if sent.len() < vgtid.shards().len() {
                return Err(self.violation(event, "it names a shard twice"));
            }
            let before = set_of(&self.plan.shards);
            if !is_reshard(&before, &sent) {
                let message = format!(
                    "the shards of keyspace `{}` changed while they were read, to others that do not hold the same keys: they were {}, and are {}; \
                     rebuild the tables with full_refresh",
                    self.plan.keyspace,
                    list(&before),
                    list(&sent)
                );
                return Err(Error::position_fault_of(PositionFault::Shards, message));
            }
        }
        let moved = match event.shard {
            "" => self.moved_shard(vgtid),
            shard => shard.to_owned(),
        };
        self.seen = Some((vgtid.clone(), moved));
        Ok(())
    }

    /// Whether a VGTID is of the same shards as the position, and names each once.
    fn has_shards_of(&self, vgtid: &Vgtid) -> bool {
        let shards = &self.plan.shards;
        // vtgate keeps their order, so that the way around is seldom taken.
        vgtid.shards().iter().map(ShardGtid::shard).eq(shards)
            || (vgtid.shards().len() == shards.len() && shards.iter().all(|shard| vgtid.shards().iter().any(|at| at.shard() == shard)))
    }

    /// Which shard a VGTID without a shard of its own speaks of: the first that differs from the last position.
    fn moved_shard(&self, vgtid: &Vgtid) -> String {
        let differs = |shard: &&ShardGtid| self.position.get(shard.keyspace(), shard.shard()) != Some(shard);
        let shard = vgtid.shards().iter().find(differs).or_else(|| vgtid.shards().first());
        shard.map(|shard| shard.shard().to_owned()).unwrap_or_default()
    }

    /// Makes good what came since the last commit: COMMIT, and OTHER or DDL outside a transaction.
    fn commit(&mut self, event: &Event<'_>) -> Result<()> {
        let transaction = self.transaction.take();
        // A COMMIT without a VGTID keeps the old position: the next one covers it.
        let seen = self.seen.take();
        let at = self.time_of(event)?;
        let mut resharded = None;
        if let Some((vgtid, shard)) = &seen {
            resharded = self.take_over_shards(vgtid)?;
            if let Some(entry) = vgtid.get(&self.plan.keyspace, shard) {
                self.skip_what_tables_have(entry)?;
                self.note_reached(entry)?;
                self.keep(entry);
            }
            self.position = vgtid.clone();
        } else {
            // A table that is ahead of the stream is so by one VGTID at least, and the transactions before the next VGTID belong to it: the
            // table has them, and what it holds of their rows may be newer.
            self.tables.iter_mut().filter(|state| state.ahead.contains_key(event.shard)).for_each(TableState::discard);
        }
        let last = transaction.map_or(0, |transaction| transaction.next.ordinal);
        self.ordinal = self.next_ordinal()?.max(last);
        self.tables.iter_mut().for_each(|state| state.commit(at));
        self.committed_anything = true;
        if let (true, Some(change)) = (self.is_copy(), resharded) {
            self.copy_anew(0, &format!("the keyspace was resharded during its copy, {change}"));
        }
        self.finish_if_reached();
        Ok(())
    }

    /// Takes over the shards of a VGTID where a reshard replaced some; says which by which.
    ///
    /// The new ones begin where the old ones end, so a table that was ahead of the stream on an old shard is so no more.
    fn take_over_shards(&mut self, vgtid: &Vgtid) -> Result<Option<String>> {
        if self.has_shards_of(vgtid) {
            return Ok(None);
        }
        let sent = vgtid.shard_names();
        let before = self.plan.shards.clone();
        let before = set_of(&before);
        let gone: BTreeSet<&str> = before.difference(&sent).copied().collect();
        let new: BTreeSet<&str> = sent.difference(&before).copied().collect();
        let change = format!("from {} to {}", list(&gone), list(&new));
        log::info!("keyspace `{}` was resharded {change}", self.plan.keyspace);
        for &shard in &gone {
            self.plans.iter_mut().for_each(|plans| drop(plans.remove(shard)));
            self.tables.iter_mut().for_each(|state| drop(state.ahead.remove(shard)));
        }
        self.plan.shards = vgtid.shards().iter().map(|entry| entry.shard().to_owned()).collect();
        // Else the reshard is older than the stop position, and others may have followed it.
        let is_recent = match &self.phase {
            Phase::Stream { stop: Some(stop), joined, .. } => gone.iter().all(|shard| stop.contains_key(*shard) || joined.contains(*shard)),
            _ => true,
        };
        if is_recent {
            self.went_over = true;
            if let Phase::Stream { joined, .. } = &mut self.phase {
                joined.extend(new.iter().map(|shard| (*shard).to_owned()));
            }
        }
        for entry in vgtid.shards().iter().filter(|entry| new.contains(entry.shard())) {
            self.note_reached(entry)?;
        }
        Ok(Some(change))
    }

    /// Drops the open transaction's rows of tables that hold it already, by the GTIDs that it adds to the stream's.
    fn skip_what_tables_have(&mut self, entry: &ShardGtid) -> Result<()> {
        if self.tables.iter().all(|state| !state.ahead.contains_key(entry.shard())) {
            return Ok(());
        }
        let stream = entry.gtid_set()?;
        let before = self.position.get(entry.keyspace(), entry.shard()).map(ShardGtid::gtid_set).transpose()?.unwrap_or_default();
        let added = stream.subtract(&before);
        for state in &mut self.tables {
            let Some(own) = state.ahead.get(entry.shard()) else { continue };
            let has_it = own.contains(if added.is_empty() { &stream } else { &added });
            // Once the stream holds all that the table does, it is the stream that leads.
            let overtaken = stream.contains(own);
            if has_it {
                state.discard();
            }
            if overtaken {
                state.ahead.remove(entry.shard());
            }
        }
        Ok(())
    }

    fn note_reached(&mut self, entry: &ShardGtid) -> Result<()> {
        let Phase::Stream { stop: Some(stop), reached, joined } = &mut self.phase else { return Ok(()) };
        if reached.contains(entry.shard()) {
            return Ok(());
        }
        let reached_now = match stop.get(entry.shard()) {
            Some(stop) => entry.gtid_set()?.contains(stop),
            // All of the shard that it replaced was read, and more than that was not asked for.
            None => joined.contains(entry.shard()),
        };
        if reached_now {
            reached.insert(entry.shard().to_owned());
        }
        Ok(())
    }

    fn finish_if_reached(&mut self) {
        let nobody_left = self.tables.iter().all(|state| !matches!(state.state, Following::Yes));
        let recopy = self.tables.iter().any(|state| matches!(state.state, Following::Recopy { .. }));
        if let Phase::Stream { stop, reached, .. } = &self.phase {
            let all_reached = stop.is_some() && self.plan.shards.iter().all(|shard| reached.contains(shard));
            self.finished |= all_reached || nobody_left || recopy;
        } else {
            self.finished |= recopy || nobody_left;
        }
    }

    /// In the copy, remembers from where the moved shard can go on. A shard's entry without last PK means "streaming" to the server: it
    /// comes before the first rows and after the last ones, when COPY_COMPLETED has not been sent yet, and must not be stored then.
    fn keep(&mut self, entry: &ShardGtid) {
        if let Phase::Copy { done, kept, .. } = &mut self.phase
            && !done.contains(entry.shard())
            && !entry.last_pks().is_empty()
        {
            kept.insert(entry.shard().to_owned(), entry.clone());
        }
    }

    /// The position that may be stored for what is committed.
    fn safe_position(&self, position: &Vgtid) -> Vgtid {
        let Phase::Copy { done, kept, .. } = &self.phase else { return position.clone() };
        let shards = self.plan.shards.iter().map(|shard| match kept.get(shard) {
            Some(kept) if !done.contains(shard) => kept.clone(),
            _ if done.contains(shard) => position
                .get(&self.plan.keyspace, shard)
                .cloned()
                .unwrap_or_else(|| ShardGtid::new(&self.plan.keyspace, shard, ""))
                .with_last_pks(Vec::new()),
            // Nothing of this shard was committed: its copy begins anew.
            _ => ShardGtid::new(&self.plan.keyspace, shard, ""),
        });
        Vgtid::new(shards.collect())
    }

    fn on_copy_completed(&mut self, event: &Event<'_>) -> Result<()> {
        let Phase::Copy { done, .. } = &mut self.phase else {
            return Err(self.violation(event, "nothing was to be copied"));
        };
        if event.shard.is_empty() {
            // vtgate sends this once more without a shard when the last one is done.
            if let Some(missing) = self.plan.shards.iter().find(|shard| !done.contains(*shard)) {
                let missing = missing.clone();
                return Err(self.violation(event, &format!("that of shard `{missing}` has not come")));
            }
            return Ok(());
        }
        if !self.plan.shards.iter().any(|shard| shard == event.shard) {
            return Err(self.violation(event, "there is no such shard in the request"));
        }
        if self.transaction.as_ref().is_some_and(|transaction| transaction.in_pieces) {
            return Err(self.violation(event, "the transaction before it had no end"));
        }
        done.insert(event.shard.to_owned());
        let all_done = self.plan.shards.iter().all(|shard| done.contains(shard));
        self.discard();
        self.seen = None;
        let unknown =
            |shard: &&String| self.position.get(&self.plan.keyspace, shard).is_none_or(|at| at.gtid().is_empty() || at.gtid() == "current");
        if let Some(shard) = self.plan.shards.iter().filter(|shard| *shard == event.shard).find(unknown) {
            let shard = shard.clone();
            return Err(self.violation(event, &format!("no GTID of shard `{shard}` came before it")));
        }
        self.committed_anything = true;
        if all_done {
            if let Phase::Copy { sweep: Some(before), .. } = &self.phase {
                let mut before_text = String::new();
                write_lsn(&mut before_text, Sequence { ordinal: *before, row: 0 }, Some(""));
                self.ordinal = self.next_ordinal()?;
                let lsn = lsn_text(Sequence { ordinal: self.ordinal, row: 0 });
                let (table, at) = (Arc::clone(&self.tables[0].table), self.plan.now);
                self.tables[0].push_committed(Change::Swept { table, before: before_text, lsn, at });
            }
            self.finished = true;
        }
        Ok(())
    }

    fn on_ddl(&mut self, event: &Event<'_>, statement: &str) -> Result<()> {
        if self.transaction.is_some() {
            return Err(self.violation(event, "a transaction is open"));
        }
        let ddl = Ddl::parse(statement);
        let entry = self.seen.as_ref().and_then(|(vgtid, shard)| vgtid.get(&self.plan.keyspace, shard)).cloned();
        let mut concerned = Vec::new();
        for index in 0..self.tables.len() {
            let state = &self.tables[index];
            if !matches!(state.state, Following::Yes) {
                continue;
            }
            let already_there = match (state.ahead.get(event.shard), &entry) {
                (Some(own), Some(entry)) => own.contains(&entry.gtid_set()?),
                _ => false,
            };
            let name = state.table.name().to_owned();
            let effect = match &ddl {
                Ddl::Alter(table, alterations) if *table == name && !already_there => {
                    match self.tables[index].altered(event.shard, alterations, event.timestamp) {
                        Some(effect) => effect,
                        None => continue,
                    }
                }
                Ddl::Alter(_, alterations) if alterations.iter().any(|alteration| alteration.exchanges_with(&name)) => {
                    Effect::Recopy(ROWS_MOVED)
                }
                Ddl::Truncate(table) if *table == name => Effect::Truncate,
                // DROP DATABASE does not show: it comes as an OTHER.
                Ddl::Create(table) if *table == name => Effect::End("made anew"),
                Ddl::Drop(tables) if tables.contains(&name) => Effect::End("dropped"),
                Ddl::Rename(pairs) => match (pairs.iter().any(|(from, _)| *from == name), pairs.iter().any(|(_, to)| *to == name)) {
                    // Another table takes this one's place in the same statement: the cut-over of an online DDL, or a swap by hand.
                    (_, true) => Effect::Recopy("another table took its place under the same name"),
                    (true, false) => Effect::End("renamed"),
                    (false, false) => continue,
                },
                _ => continue,
            };
            if !already_there {
                concerned.push((index, effect));
            }
        }
        // The position before the statement is where an ended table stays.
        let before = concerned.iter().map(|&(index, _)| self.checkpoint_of(&self.tables[index])).collect::<Vec<_>>();
        self.commit(event)?;
        let at = self.time_of(event)?;
        for ((index, effect), before) in concerned.into_iter().zip(before) {
            let state = &mut self.tables[index];
            let name = state.table.name().to_owned();
            match effect {
                Effect::Truncate if self.plan.shards.len() == 1 => {
                    let lsn = lsn_text(Sequence { ordinal: self.ordinal, row: 0 });
                    let table = Arc::clone(&state.table);
                    state.push_committed(Change::Truncated { table, lsn, at });
                }
                // Each shard truncates in its own time, and a stored row does not say which shard it came from: the table is copied anew,
                // which is quick now that it is small, and what the copy does not bring is deleted.
                Effect::Truncate => self.copy_anew(index, "one shard after the other truncated it"),
                Effect::Recopy(reason) => self.copy_anew(index, reason),
                Effect::End(how) => {
                    let shown: String = statement.chars().take(200).collect();
                    let message = format!(
                        "`{name}` was {how} at the source by `{shown}`: what was captured before is kept, and full_refresh takes what is there now"
                    );
                    let error = Error::new(ErrorKind::SchemaChange, message).with_table(&name).with_shard(event.shard);
                    let error =
                        match before.position.get(&self.plan.keyspace, event.shard).map(ShardGtid::gtid).filter(|gtid| !gtid.is_empty()) {
                            Some(gtid) => error.with_position(gtid),
                            None => error,
                        };
                    self.tables[index].end(error, before);
                }
            }
        }
        self.finish_if_reached();
        Ok(())
    }

    fn end_table(&mut self, index: usize, error: Error) {
        let at = self.checkpoint_of(&self.tables[index]);
        self.tables[index].end(error, at);
        self.finish_if_reached();
    }

    fn nothing_copied(&self) -> Vgtid {
        nothing_copied(&self.plan.keyspace, &self.plan.shards)
    }
}

/// The position of a copy that has not begun.
pub(crate) fn nothing_copied(keyspace: &str, shards: &[String]) -> Vgtid {
    Vgtid::new(shards.iter().map(|shard| ShardGtid::new(keyspace, shard, "")).collect())
}

/// The `_cdc_lsn` of a change that concerns any number of rows: it would cost too much to repeat the position on each.
fn lsn_text(sequence: Sequence) -> String {
    let mut text = String::new();
    write_lsn(&mut text, sequence, None);
    text
}

/// For each shard the transactions that every table holds: nothing that a table lacks is before it.
fn oldest(plan: &Plan, tables: &[PlannedTable]) -> Result<Vgtid> {
    let mut shards = Vec::with_capacity(plan.shards.len());
    for shard in &plan.shards {
        let mut common: Option<GtidSet> = None;
        for table in tables {
            let entry = table.position.get(&plan.keyspace, shard).ok_or_else(|| {
                let message =
                    format!("the stored position of `{}` does not know shard `{shard}`; rebuild it with full_refresh", table.table.name());
                Error::position_fault_of(PositionFault::Shards, message).with_table(table.table.name()).with_shard(shard)
            })?;
            let own = entry.gtid_set()?;
            common = Some(match common {
                None => own,
                Some(common) => common.subtract(&common.subtract(&own)),
            });
        }
        let text = common.map(|set| set.to_vitess()).unwrap_or_default();
        shards.push(ShardGtid::new(&plan.keyspace, shard, text));
    }
    Ok(Vgtid::new(shards))
}
