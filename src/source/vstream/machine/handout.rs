//! What a machine hands out: batches of what is committed, pieces of what is not yet, and where each table stands.

use std::sync::Arc;

use super::table::{Following, Mark, TableState};
use super::{Machine, Phase};
use crate::change::{Change, ChangeBatch, Checkpoint, CopyPhase};
use crate::position::{Lsn, Vgtid};
use crate::schema::Table;

impl Machine {
    /// Hands out what is committed; `None` if nothing was since the last time.
    pub(crate) fn take(&mut self) -> Option<ChangeBatch> {
        if !self.committed_anything {
            return None;
        }
        self.committed_anything = false;
        // Only the last row that is handed out of a table carries the position: all are written at once, and a VGTID of a large keyspace is larger
        // than a thousand rows.
        let mut shared = None;
        let mut changes = Vec::new();
        for index in 0..self.tables.len() {
            let mut taken = self.tables[index].take_committed();
            let last = taken.iter_mut().rev().find_map(|change| match change {
                Change::Rows(rows) => Some(rows),
                _ => None,
            });
            if let Some(rows) = last {
                let state = &self.tables[index];
                let payload = match &state.state {
                    Following::Yes if state.ahead.is_empty() => {
                        shared.get_or_insert_with(|| payload(&self.safe_position(&self.position))).clone()
                    }
                    Following::Yes => payload(&state.position(&self.position)),
                    Following::Ended(at) => payload(&at.position),
                    // No position of the old copy is one to go on from.
                    Following::Recopy { .. } => None,
                };
                rows.set_payload(payload);
            }
            changes.append(&mut taken);
        }
        self.buffered = self.tables.iter().flat_map(|state| &state.segments).map(Change::bytes).sum();
        Some(ChangeBatch { changes, checkpoints: self.checkpoints(), complete: true, caught_up: false })
    }

    /// Hands out what is committed, at the machine's end, where there may be nothing.
    pub(crate) fn take_all(&mut self) -> ChangeBatch {
        self.committed_anything = true;
        self.take().unwrap_or_else(|| ChangeBatch { changes: Vec::new(), checkpoints: Vec::new(), complete: true, caught_up: false })
    }

    /// Where each table stands at the machine's end; `None` for one that has ended.
    pub(crate) fn into_checkpoints(self) -> Vec<(Arc<Table>, Option<Checkpoint>)> {
        let checkpoints = self.checkpoints();
        let followed = |state: TableState, checkpoint| {
            let checkpoint = (!matches!(state.state, Following::Ended(_))).then_some(checkpoint);
            (state.table, checkpoint)
        };
        self.tables.into_iter().zip(checkpoints).map(|(state, checkpoint)| followed(state, checkpoint)).collect()
    }

    /// Hands out a piece of the open transaction if that has grown beyond the limit. Everything committed has to be taken before.
    pub(crate) fn take_piece(&mut self) -> Option<ChangeBatch> {
        if self.buffered <= self.plan.transaction_bytes || self.committed_anything {
            return None;
        }
        let transaction = self.transaction.as_mut()?;
        let mut changes = Vec::new();
        // What a table that is ahead of the stream has got already is known only when the transaction's VGTID comes: it waits.
        for state in self.tables.iter_mut().filter(|state| state.ahead.is_empty()) {
            changes.append(&mut state.segments);
            state.committed = Mark::default();
        }
        if changes.is_empty() {
            return None;
        }
        for change in &mut changes {
            if let Change::Rows(rows) = change {
                rows.commit(0, transaction.at);
            }
        }
        transaction.in_pieces = true;
        self.buffered = self.tables.iter().flat_map(|state| &state.segments).map(Change::bytes).sum();
        Some(ChangeBatch { changes, checkpoints: Vec::new(), complete: false, caught_up: false })
    }

    pub(super) fn checkpoints(&self) -> Vec<Checkpoint> {
        self.tables.iter().map(|state| self.checkpoint_of(state)).collect()
    }

    pub(super) fn checkpoint_of(&self, state: &TableState) -> Checkpoint {
        let (phase, position, ordinal) = match &state.state {
            Following::Ended(at) => return at.clone(),
            Following::Recopy { from } => {
                (CopyPhase::Copying { done: Vec::new(), sweep: Some(*from) }, self.nothing_copied(), self.ordinal)
            }
            Following::Yes => match &self.phase {
                Phase::Copy { done, sweep, .. } if !self.finished => {
                    let phase = CopyPhase::Copying { done: done.iter().cloned().collect(), sweep: *sweep };
                    (phase, self.safe_position(&self.position), self.ordinal)
                }
                Phase::Copy { .. } => (CopyPhase::Copied, self.safe_position(&self.position), self.ordinal),
                Phase::Stream { .. } => (CopyPhase::Copied, state.position(&self.position), self.ordinal),
            },
        };
        Checkpoint { table: state.table.name().to_owned(), phase, position, ordinal }
    }
}

/// The VGTID as the last part of a `_cdc_lsn`; `None` where there is no position to resume from yet.
fn payload(position: &Vgtid) -> Option<Arc<str>> {
    let text = Lsn::new(0).with_payload(position.clone()).to_string();
    text.get(28..).filter(|payload| *payload != "-").map(Arc::from)
}
