//! What a run did.

use std::time::Duration;

use crate::policy::ChangedValues;

/// What a run did, table by table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The tables in the order in which they were worked on.
    pub tables: Vec<TableReport>,
    /// How long the run took.
    pub elapsed: Duration,
    /// The most memory that the process has had resident so far, in bytes; `None` where the system does not tell.
    pub peak_memory_bytes: Option<u64>,
}

impl Report {
    /// Whether every table is complete.
    pub fn is_complete(&self) -> bool {
        self.tables.iter().all(|table| table.state == TableState::Complete)
    }
}

/// What a run did with one table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableReport {
    /// The table at the source.
    pub source: String,
    /// The table at the destination.
    pub destination: String,
    /// Rows and changes that the source sent.
    pub rows_read: u64,
    /// Rows that are new at the destination.
    pub rows_inserted: u64,
    /// Rows that were there before and have new values.
    pub rows_updated: u64,
    /// Rows that were removed, or marked as deleted.
    pub rows_deleted: u64,
    /// Memory that the values took on the way, in bytes.
    pub bytes: u64,
    /// How far the changes of the table have been followed; `None` for a table that was only copied.
    pub position: Option<String>,
    /// Whether the destination has all that the source had.
    pub state: TableState,
    /// Values that are stored as something else than the source holds, by a policy that says so; by column, and empty where there are none.
    pub changed_values: Vec<ChangedValues>,
    /// What a reader should know beside the figures: that the table was copied anew, and why.
    pub notes: Vec<String>,
    /// How long the table took.
    pub elapsed: Duration,
}

impl TableReport {
    pub(crate) fn new(source: impl Into<String>, destination: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            destination: destination.into(),
            rows_read: 0,
            rows_inserted: 0,
            rows_updated: 0,
            rows_deleted: 0,
            bytes: 0,
            position: None,
            state: TableState::Partial,
            changed_values: Vec::new(),
            notes: Vec::new(),
            elapsed: Duration::ZERO,
        }
    }
}

/// How a table stands at the end of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TableState {
    /// The destination has all that the source had when the run began.
    Complete,
    /// The run ended before that. What is stored is consistent, and the next run goes on.
    Partial,
    /// The table could not be worked on.
    Failed {
        /// The error and its causes.
        error: String,
    },
}

/// The most memory that this process has had resident, in bytes.
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    // Linux says it in the unit that it names; other systems are not asked.
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
