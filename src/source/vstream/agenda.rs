//! Which machine runs next, with which tables, up to where. No I/O.
//!
//! ```text
//!   tables on shards that were      ─▶  copies, one  ─▶  tables that are   ─▶  the stream of all   ─▶  in mode=stream:
//!   resharded, over to the new ones     table each       behind others         to the stop position    again, without an end
//! ```
//!
//! A table that has to be copied anew goes back to the copies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::change::{Change, ChangeBatch, Checkpoint, CopyPhase};
use crate::gtid::GtidSet;
use crate::position::{Fit, ShardGtid, Vgtid, set_of};
use crate::schema::Table;
use crate::source::vstream::machine::{Machine, Plan, PlannedTable, Stop, nothing_copied};
use crate::{Error, Result};

pub(crate) struct Agenda {
    /// Its shards are those that serve.
    plan: Plan,
    /// What each of them has to reach.
    stop: BTreeMap<String, GtidSet>,
    /// Whether the stream goes on after the stop position.
    goes_on: bool,
    to_copy: VecDeque<Follow>,
    copied: Vec<Follow>,
    /// What is known before anything is read.
    ready: Vec<(Change, Checkpoint)>,
    /// Whether tables that are behind others were brought level since the last copy.
    levelled: bool,
    caught_up: bool,
}

/// Tables, and the position to bring them to.
type Behind = (Vec<PlannedTable>, BTreeMap<String, GtidSet>);

/// A table between two machines.
struct Follow {
    table: Arc<Table>,
    position: Vgtid,
    phase: CopyPhase,
}

/// How a table that was captured before goes on.
pub(crate) enum Resume {
    From(Checkpoint),
    /// It is copied on top of what is stored, for this reason.
    Anew(&'static str),
}

impl Resume {
    /// From a checkpoint that was judged.
    pub(crate) fn of(checkpoint: Checkpoint, fit: Fit) -> Self {
        match (&checkpoint.phase, fit) {
            // vtgate forgets the last PKs when it goes over to other shards.
            (CopyPhase::Copying { .. }, Fit::Resharded) => Self::Anew("the keyspace was resharded before its copy was complete"),
            _ => Self::From(checkpoint),
        }
    }
}

/// A machine to be fed.
pub(crate) struct Next {
    pub(crate) machine: Machine,
    /// Whether its end means that every table has caught up.
    pub(crate) is_last: bool,
}

impl Agenda {
    pub(crate) fn new(plan: Plan, stop: BTreeMap<String, GtidSet>, goes_on: bool) -> Self {
        Self { plan, stop, goes_on, to_copy: VecDeque::new(), copied: Vec::new(), ready: Vec::new(), levelled: false, caught_up: false }
    }

    /// Adds a table that is new, or that was captured before.
    pub(crate) fn add(&mut self, table: Arc<Table>, resume: Option<Resume>) {
        let nothing_copied = nothing_copied(&self.plan.keyspace, &self.plan.shards);
        match resume {
            None => self.push(Follow { table, position: nothing_copied, phase: CopyPhase::Copying { done: Vec::new(), sweep: None } }),
            Some(Resume::From(Checkpoint { position, phase, .. })) => self.push(Follow { table, position, phase }),
            Some(Resume::Anew(reason)) => {
                // What is stored of it so far goes, unless the new copy brings it again.
                let phase = CopyPhase::Copying { done: Vec::new(), sweep: Some(self.plan.ordinal.saturating_add(1)) };
                let checkpoint = Checkpoint {
                    table: table.name().to_owned(),
                    phase: phase.clone(),
                    position: nothing_copied.clone(),
                    ordinal: self.plan.ordinal,
                };
                self.ready.push((Change::CopiedAnew { table: Arc::clone(&table), reason: reason.to_owned() }, checkpoint));
                self.push(Follow { table, position: nothing_copied, phase });
            }
        }
    }

    fn push(&mut self, follow: Follow) {
        match follow.phase {
            CopyPhase::Copied => self.copied.push(follow),
            CopyPhase::Copying { .. } => self.to_copy.push_back(follow),
        }
    }

    /// The tables that no machine has at the time.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Table> {
        self.to_copy.iter().chain(&self.copied).map(|follow| &*follow.table)
    }

    /// The shards that serve.
    pub(crate) fn shards(&self) -> &[String] {
        &self.plan.shards
    }

    /// What has to be written before anything is read.
    pub(crate) fn take_ready(&mut self) -> Option<ChangeBatch> {
        if self.ready.is_empty() {
            return None;
        }
        let (changes, checkpoints) = self.ready.drain(..).unzip();
        Some(ChangeBatch { changes, checkpoints, complete: true, caught_up: false })
    }

    /// The next machine; `None` if there is nothing left to do.
    pub(crate) fn next(&mut self) -> Result<Option<Next>> {
        let resharded = self.take_resharded();
        if let Some(first) = resharded.first() {
            // First of all, since nobody knows how long the old shards stay.
            let shards = first.position.shards().iter().map(|shard| shard.shard().to_owned()).collect();
            let plan = Plan { shards, ..self.plan.clone() };
            let machine = Machine::stream(plan, resharded.into_iter().map(PlannedTable::from).collect(), Some(self.stop.clone()))?;
            return Ok(Some(Next { machine, is_last: false }));
        }
        if let Some(follow) = self.to_copy.pop_front() {
            let CopyPhase::Copying { done, sweep } = follow.phase else {
                return Err(Error::protocol("a table that was copied is to be copied again"));
            };
            let machine = Machine::copy(self.plan.clone(), follow.table, follow.position, done, sweep);
            return Ok(Some(Next { machine, is_last: false }));
        }
        if self.copied.is_empty() || (self.caught_up && !self.goes_on) {
            return Ok(None);
        }
        if let Some((behind, stop)) = self.behind()? {
            let machine = Machine::stream(self.plan.clone(), behind, Some(stop))?;
            return Ok(Some(Next { machine, is_last: false }));
        }
        let stop: Stop = (!self.caught_up).then(|| self.stop.clone());
        let machine = Machine::stream(self.plan.clone(), self.copied.drain(..).map(PlannedTable::from).collect(), stop)?;
        Ok(Some(Next { machine, is_last: true }))
    }

    /// Tables that stand on other shards than those that serve, if there are any: those that stand on the same.
    fn take_resharded(&mut self) -> Vec<Follow> {
        let serving = set_of(&self.plan.shards);
        let Some(first) = self.copied.iter().find(|follow| follow.position.shard_names() != serving) else { return Vec::new() };
        let shards: BTreeSet<String> = first.position.shard_names().into_iter().map(str::to_owned).collect();
        self.copied.extract_if(.., |follow| follow.position.shard_names().iter().eq(shards.iter())).collect()
    }

    /// The tables that have not come as far as others, and how far those have. They are streamed by themselves first: a stream of all
    /// tables would begin at the oldest position, and what is older than a table's copy need not be readable by its columns of today.
    fn behind(&mut self) -> Result<Option<Behind>> {
        if std::mem::replace(&mut self.levelled, true) {
            return Ok(None);
        }
        let mut furthest: BTreeMap<String, GtidSet> = BTreeMap::new();
        for at in self.copied.iter().flat_map(|follow| follow.position.shards()) {
            furthest.entry(at.shard().to_owned()).or_default().union(&at.gtid_set()?);
        }
        let is_behind = |follow: &Follow| {
            let reached = |at: &ShardGtid| at.gtid_set().is_ok_and(|own| furthest.get(at.shard()).is_none_or(|far| own.contains(far)));
            !follow.position.shards().iter().all(reached)
        };
        let (behind, level): (Vec<Follow>, Vec<Follow>) = self.copied.drain(..).partition(is_behind);
        // Where each is ahead of another somewhere, the stream sorts it out.
        if behind.is_empty() || level.is_empty() {
            self.copied.extend(behind.into_iter().chain(level));
            return Ok(None);
        }
        self.copied = level;
        Ok(Some((behind.into_iter().map(PlannedTable::from).collect(), furthest)))
    }

    /// Notes where the tables of a machine that has ended stand; `batch` is the last that it handed out. If it went over to other shards, those:
    /// the stop position has to be read anew, for [`Agenda::stop_at`].
    pub(crate) fn finish(&mut self, machine: Machine, is_last: bool, batch: &mut ChangeBatch) -> Option<Vec<String>> {
        self.plan.ordinal = machine.ordinal();
        let went_over = machine.went_over().then(|| machine.shards().to_vec());
        if let Some(shards) = &went_over {
            self.plan.shards.clone_from(shards);
        }
        let mut recopied = false;
        for (table, checkpoint) in machine.into_checkpoints() {
            let Some(checkpoint) = checkpoint else { continue };
            let seen = batch.changes.iter().rev().find(|change| change.table().name() == table.name());
            let table = seen.map_or(table, |change| Arc::clone(change.table()));
            let mut follow = Follow { table, position: checkpoint.position, phase: checkpoint.phase };
            if let CopyPhase::Copying { .. } = follow.phase {
                // It begins on the shards that serve, wherever the stream that gave it up was.
                follow.position = nothing_copied(&self.plan.keyspace, &self.plan.shards);
                recopied = true;
                self.levelled = false;
            }
            self.push(follow);
        }
        if is_last && !recopied {
            self.caught_up = true;
            batch.caught_up = true;
        }
        went_over.filter(|_| self.goes_on || !self.caught_up)
    }

    /// The shards that serve have to reach another stop position.
    pub(crate) fn stop_at(&mut self, stop: BTreeMap<String, GtidSet>) {
        self.stop = stop;
    }
}

impl From<Follow> for PlannedTable {
    fn from(follow: Follow) -> Self {
        Self { table: follow.table, position: follow.position }
    }
}
