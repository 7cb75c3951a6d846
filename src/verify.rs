//! Whether a destination holds what its source does.
//!
//! Both sides are read once, row by row, and each row is put into one of many chunks by a hash of its key; of a chunk only the number of rows and the
//! sum of their hashes is kept. Chunks of keys in their order would need an order that both sides share, which collations and numbers that are stored
//! as text do not have. Where chunks differ, both sides are read again, and the keys in them compared. So memory does not grow with the table.
//!
//! Values are compared as they are stored: rows of the source are first made what the policies and the destination's types make of them.

mod chunks;

use std::sync::Arc;
use std::time::{Duration, Instant};

use self::chunks::{Chunks, Differences, Digest, Rounds, Suspects};
use crate::batch::Batch;
use crate::change::{LSN_COLUMN, bookkeeping_columns};
use crate::ingest::{IngestOptions, chosen, destinations_of, ingest};
use crate::options::{CaptureMode, CaptureOptions};
use crate::report::TableState;
use crate::schema::{Table, TableName};
use crate::sink::Sink;
use crate::source::{Reading, Source};
use crate::{Error, ErrorKind, Result};

/// Keys that are listed of a table, if the options do not say.
const MAX_KEYS: usize = 100;

/// How often rows that change are looked at before nothing is said of them.
const ROUNDS: usize = 5;

/// How often the reading of a table is begun anew at most after the connection broke.
const RESTARTS: usize = 2;

/// What to compare.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    ingest: IngestOptions,
    max_keys: usize,
}

impl VerifyOptions {
    /// The tables that a run with these options moves, in the form in which it stores them. Where they name an interval with a start or an end, the rows
    /// of that interval are compared, otherwise all.
    pub fn new(ingest: IngestOptions) -> Self {
        Self { ingest, max_keys: MAX_KEYS }
    }

    /// How many keys of each kind to list of a table at most. Default: 100.
    #[must_use]
    pub fn with_max_keys(mut self, max_keys: usize) -> Self {
        self.max_keys = max_keys;
        self
    }

    /// The run whose tables are compared.
    pub fn ingest(&self) -> &IngestOptions {
        &self.ingest
    }

    /// How many keys of each kind are listed of a table at most.
    pub fn max_keys(&self) -> usize {
        self.max_keys
    }
}

/// What a comparison found, table by table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// The tables in the order in which they were compared.
    pub tables: Vec<TableVerification>,
    /// How long it took.
    pub elapsed: Duration,
}

impl VerifyReport {
    /// Whether every table was compared and is the same on both sides.
    pub fn is_equal(&self) -> bool {
        self.tables.iter().all(|table| table.state == VerifyState::Equal)
    }
}

/// The values of a row's key, in the key's order, as text.
type Key = Vec<String>;

/// What a comparison found of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableVerification {
    /// The table at the source.
    pub source: String,
    /// The table at the destination.
    pub destination: String,
    /// Rows that the source has.
    pub source_rows: u64,
    /// Rows that the destination has; those that are marked as deleted do not count.
    pub destination_rows: u64,
    /// Keys of rows that the source has and the destination has not: of each the values as text, in the order of the key's columns.
    pub missing: Vec<Vec<String>>,
    /// Keys of rows that the destination has and the source has not, or that it has more than once.
    pub extra: Vec<Vec<String>>,
    /// Keys of rows whose other values differ.
    pub different: Vec<Vec<String>>,
    /// Whether there are more differences than are listed. Those of a table without a primary key cannot be.
    pub has_more: bool,
    /// The position of change capture at which the destination was.
    pub position: Option<String>,
    /// What it comes to.
    pub state: VerifyState,
    /// What a reader should know beside the figures.
    pub notes: Vec<String>,
    /// How long the table took.
    pub elapsed: Duration,
}

/// What the comparison of a table comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum VerifyState {
    /// Both sides have the same rows.
    Equal,
    /// They have not.
    Different,
    /// It could not be compared.
    Failed {
        /// The error and its causes.
        error: String,
    },
}

impl TableVerification {
    fn new(table: &Table, target: &TableName) -> Self {
        Self {
            source: table.name().to_owned(),
            destination: target.to_string(),
            source_rows: 0,
            destination_rows: 0,
            missing: Vec::new(),
            extra: Vec::new(),
            different: Vec::new(),
            has_more: false,
            position: None,
            state: VerifyState::Equal,
            notes: Vec::new(),
            elapsed: Duration::ZERO,
        }
    }
}

/// Compares tables of a destination with those of the source.
///
/// The rows of a table at the source are those of one statement: one moment of a MySQL server, and of each shard of a sharded keyspace. What changes
/// there after the last run is a difference.
///
/// With a source for change capture in batch mode, the source may be in use meanwhile. Tables that differ are caught up with between a look at the rows of
/// the source and one at those of the destination, again and again until it is clear of each row that it was the same at the source all the while, which
/// its stored version tells. So what is listed, and the number of rows, hold for the position that the report names. Of rows that change whenever they
/// are looked at, a note tells the number.
///
/// # Errors
/// As [`ingest`]; `Cancelled`. What is wrong with one table stands in the report.
pub fn verify(source: &Source, sink: &mut Sink, options: &VerifyOptions) -> Result<VerifyReport> {
    let begun = Instant::now();
    sink.set_zero_dates(options.ingest.zero_dates());
    sink.set_out_of_range(options.ingest.out_of_range());
    let tables = chosen(source, &options.ingest)?;
    let capture = source.options().capture();
    let targets = destinations_of(&tables, &options.ingest, capture.and_then(CaptureOptions::dest_schema))?;
    let is_captured = capture.is_some_and(|capture| capture.mode() == CaptureMode::Batch);
    let mut report = VerifyReport::default();
    for (table, target) in tables.iter().zip(&targets) {
        let table_begun = Instant::now();
        let compared = reading_of(source, &options.ingest, table).and_then(|reading| {
            let sides = Sides { source, options: &options.ingest, table, target, reading: &reading };
            compare(&sides, sink, options.max_keys, is_captured)
        });
        let mut entry = match compared {
            Ok(entry) => entry,
            Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
            Err(error) => failed(table, target, &error),
        };
        if capture.is_some() {
            // Without one there is nothing to say.
            entry.position = sink.position(target, table.name()).ok().flatten().map(|position| position.checkpoint().lsn().to_string());
        }
        entry.elapsed = table_begun.elapsed();
        report.tables.push(entry);
    }
    report.elapsed = begun.elapsed();
    Ok(report)
}

fn failed(table: &Table, target: &TableName, error: &Error) -> TableVerification {
    TableVerification { state: VerifyState::Failed { error: format!("{error:#}") }, ..TableVerification::new(table, target) }
}

/// Brings a captured table to where the source is now; `false`, with a note, if it is not captured any further. What is found of it then stands all the
/// same: it may be one that somebody has changed.
fn catch_up(sides: &Sides<'_>, sink: &mut Sink, entry: &mut TableVerification) -> Result<bool> {
    let run = sides.options.clone().with_tables([sides.table.name()]).with_full_refresh(false);
    let report = ingest(sides.source, sink, &run);
    sides.options.cancel().check()?;
    let state = report.map(|report| report.tables.into_iter().next().map(|table| table.state));
    let why = match state {
        Ok(Some(TableState::Complete)) => return Ok(true),
        Ok(Some(TableState::Failed { error })) => error,
        Ok(_) => "the run did not reach its end".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    entry.notes.push(format!("compared without what the source has changed since the last run: {why}"));
    Ok(false)
}

/// How the rows of the source are read: only those of the interval that the options name by its start or its end.
fn reading_of(source: &Source, options: &IngestOptions, table: &Table) -> Result<Reading> {
    let mut reading = Reading { malformed_text: options.malformed_text(), zero_dates: options.zero_dates(), interval: None };
    let (start, end) = (options.interval_start(), options.interval_end());
    if let Some(key) = options.incremental_key().filter(|_| start.is_some() || end.is_some()) {
        reading.interval = Some(source.interval(table, options, key)?);
    }
    Ok(reading)
}

/// Compares one table.
fn compare(sides: &Sides<'_>, sink: &mut Sink, max_keys: usize, is_captured: bool) -> Result<TableVerification> {
    let mut entry = TableVerification::new(sides.table, sides.target);
    let digest = Digest::new();
    let mut differing = sum_up(sides, sink, &digest, &mut entry)?;
    if differing.is_empty() {
        return Ok(entry);
    }
    if sides.table.primary_key().is_empty() {
        (entry.state, entry.has_more) = (VerifyState::Different, true);
        entry.notes.push("without a primary key it cannot be said which rows differ".to_owned());
        return Ok(entry);
    }
    let found = if is_captured {
        let can_catch_up = catch_up(sides, sink, &mut entry)?;
        if can_catch_up {
            // What the source has changed since the last run can be more than there is room to look at.
            differing = sum_up(sides, sink, &digest, &mut entry)?;
        }
        match differing.is_empty() {
            true => Differences::default(),
            false => differences_at_one_position(sides, sink, &digest, &differing, can_catch_up, &mut entry)?,
        }
    } else {
        differences(sides, sink, &digest, &differing)?
    };
    let Differences { missing, extra, different, is_partial } = found;
    if !(missing.is_empty() && extra.is_empty() && different.is_empty() && !is_partial) {
        entry.state = VerifyState::Different;
    } else if !is_captured {
        entry.notes.push("what differed at first was the same when it was looked at again: the source is being changed".to_owned());
    }
    entry.has_more = is_partial;
    for (into, mut keys) in [(&mut entry.missing, missing), (&mut entry.extra, extra), (&mut entry.different, different)] {
        keys.sort_unstable();
        entry.has_more |= keys.len() > max_keys;
        keys.truncate(max_keys);
        *into = keys;
    }
    Ok(entry)
}

/// Reads both sides, and returns the chunks that differ, with the rows in them on both sides.
fn sum_up(sides: &Sides<'_>, sink: &mut Sink, digest: &Digest, entry: &mut TableVerification) -> Result<Vec<(usize, u64)>> {
    let (at_source, read) = sides.read_source(sink, Chunks::default, |chunks, batch| chunks.add(digest, batch))?;
    let mut stored = Chunks::default();
    sides.read_stored(sink, &read, &mut |batch| stored.add(digest, batch))?;
    (entry.source_rows, entry.destination_rows) = (at_source.rows(), stored.rows());
    Ok(at_source.differing(&stored))
}

/// The keys in chunks that differ, as both sides have them now.
fn differences(sides: &Sides<'_>, sink: &mut Sink, digest: &Digest, differing: &[(usize, u64)]) -> Result<Differences> {
    let (mut suspects, read) = sides.read_source(sink, || Suspects::new(differing), |suspects, batch| suspects.expect(digest, batch))?;
    sides.read_stored(sink, &read, &mut |batch| suspects.find(digest, batch, read.columns().len()))?;
    let mut rounds = Rounds::default();
    rounds.take(suspects, true);
    Ok(rounds.into_differences())
}

/// The keys in chunks that differed, at a position that the destination is brought to; and the numbers of rows there.
fn differences_at_one_position(
    sides: &Sides<'_>,
    sink: &mut Sink,
    digest: &Digest,
    differing: &[(usize, u64)],
    mut can_catch_up: bool,
    entry: &mut TableVerification,
) -> Result<Differences> {
    let mut rounds = Rounds::default();
    let mut only = None;
    for _ in 0..ROUNDS {
        let chosen = || match &only {
            None => Suspects::new(differing),
            Some(keys) => Suspects::new(differing).only(Clone::clone(keys)),
        };
        let (mut suspects, read) = sides.read_source(sink, chosen, |suspects, batch| suspects.expect(digest, batch))?;
        if can_catch_up {
            can_catch_up = catch_up(sides, sink, entry)?;
        }
        let width = read.columns().len();
        let versioned = match can_catch_up {
            true => Arc::new((*read).clone().with_columns(bookkeeping_columns().into_iter().filter(|column| column.name() == LSN_COLUMN))),
            false => read,
        };
        let mut rows = 0;
        sides.read_stored(sink, &versioned, &mut |batch| {
            rows += batch.len() as u64;
            suspects.find(digest, batch, width);
        })?;
        suspects.begin_again();
        // If the connection breaks, what was seen of a row before stays true of a moment in between.
        sides.read_source(sink, || (), |(), batch| suspects.look_again(digest, batch))?;
        rounds.take(suspects, !can_catch_up);
        entry.destination_rows = rows;
        let open = rounds.open();
        if open.is_empty() || !can_catch_up {
            break;
        }
        only = Some(open);
    }
    let changing = rounds.open().len();
    if changing > 0 {
        entry.notes.push(format!("{changing} rows changed at the source whenever they were looked at, and were not compared"));
    }
    let found = rounds.into_differences();
    if can_catch_up && !found.is_partial {
        // As many as it had at the position, and not a moment before or after.
        entry.source_rows = (entry.destination_rows + found.missing.len() as u64).saturating_sub(found.extra.len() as u64);
    }
    Ok(found)
}

/// The two tables that are compared.
struct Sides<'a> {
    source: &'a Source,
    options: &'a IngestOptions,
    table: &'a Arc<Table>,
    target: &'a TableName,
    reading: &'a Reading,
}

impl Sides<'_> {
    /// Gathers the rows of the source as they are once they are stored, and returns the table in the form in which they come. If the connection breaks,
    /// what was gathered is forgotten, and all is read again.
    fn read_source<T>(&self, sink: &mut Sink, new: impl Fn() -> T, mut gather: impl FnMut(&mut T, &Batch)) -> Result<(T, Arc<Table>)> {
        let mut restarts = 0;
        loop {
            let mut gathered = new();
            match self.read_source_once(sink, &mut |batch| gather(&mut gathered, batch)) {
                Err(error) if error.kind() == ErrorKind::Connect && restarts < RESTARTS => {
                    log::warn!("table `{}` is read anew: {error:#}", self.table.name());
                    restarts += 1;
                }
                result => return result.map(|table| (gathered, table)),
            }
        }
    }

    fn read_source_once(&self, sink: &mut Sink, take: &mut dyn FnMut(&Batch)) -> Result<Arc<Table>> {
        let cancel = self.options.cancel();
        let mut rows = self.source.rows_unless(Arc::clone(self.table), self.reading, cancel)?;
        let table = Arc::clone(rows.table());
        while let Some(batch) = rows.next_unless(cancel) {
            take(&sink.as_stored(self.target, batch?)?);
        }
        Ok(table)
    }

    fn read_stored(&self, sink: &mut Sink, table: &Arc<Table>, take: &mut dyn FnMut(&Batch)) -> Result<()> {
        let interval = self.reading.interval.as_ref();
        let key = interval.and_then(|interval| table.column_index(interval.column().name()));
        sink.read(self.target, table, &mut |batch| {
            self.options.cancel().check()?;
            match interval.zip(key) {
                None => take(&batch),
                Some((interval, key)) => take(&interval.only(&batch, key)),
            }
            Ok(())
        })
    }
}
