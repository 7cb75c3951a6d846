//! From a source into a destination: what most users call.

mod batch;
#[cfg(feature = "vstream")]
mod capture;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::policy::{MalformedText, OutOfRange, ZeroDates};
use crate::report::{Report, peak_memory_bytes};
use crate::schema::{Table, TableName};
use crate::sink::Sink;
use crate::source::Source;
use crate::{Error, ErrorKind, Result};

/// How rows get into a destination's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Strategy {
    /// The table is built anew beside the old one and takes its place at the end.
    Replace,
    /// Rows are added to those that are there.
    Append,
    /// Rows replace those with the same primary key, and are added where there are none.
    Merge,
    /// Rows of an interval of the incremental key are deleted, and those that the source has of it are added.
    DeleteInsert,
    /// All rows are deleted, and those of the source are added; the table itself stays, with its keys, indexes and grants.
    TruncateInsert,
}

/// What to move, and how. The defaults move every table and replace those at the destination.
#[derive(Clone, Default)]
pub struct IngestOptions {
    tables: Vec<String>,
    dest_table: Option<TableName>,
    dest_schema: Option<String>,
    strategy: Option<Strategy>,
    primary_key: Vec<String>,
    incremental_key: Option<String>,
    interval_start: Option<String>,
    interval_end: Option<String>,
    full_refresh: bool,
    hard_delete: bool,
    zero_dates: ZeroDates,
    malformed_text: MalformedText,
    out_of_range: OutOfRange,
    progress: Option<ProgressCallback>,
    cancel: Cancel,
}

type ProgressCallback = Arc<dyn Fn(&Progress<'_>) + Send + Sync>;

/// How far a run is. Passed to the callback of [`IngestOptions::with_progress`] after every batch.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The table that is being worked on, at the source.
    pub table: &'a str,
    /// Its place among the tables of the run, from 0.
    pub table_index: usize,
    /// The number of tables of the run.
    pub tables: usize,
    /// Rows and changes read of this table so far.
    pub rows: u64,
    /// Memory that their values took, in bytes.
    pub bytes: u64,
    /// Since the run began.
    pub elapsed: Duration,
}

impl Strategy {
    /// The name that the command line takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::Append => "append",
            Self::Merge => "merge",
            Self::DeleteInsert => "delete+insert",
            Self::TruncateInsert => "truncate+insert",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl IngestOptions {
    /// Every table, replaced.
    pub fn new() -> Self {
        Self::default()
    }

    /// The tables to move, by their exact names. Default: all base tables of the database.
    #[must_use]
    pub fn with_tables<S: Into<String>>(mut self, tables: impl IntoIterator<Item = S>) -> Self {
        self.tables = tables.into_iter().map(Into::into).collect();
        self
    }

    /// The destination's table, for a run of one table. Default: the source's name.
    #[must_use]
    pub fn with_dest_table(mut self, table: TableName) -> Self {
        self.dest_table = Some(table);
        self
    }

    /// The destination's schema for tables that keep their names. Default: that of the source's URI, else the destination's own default.
    #[must_use]
    pub fn with_dest_schema(mut self, schema: impl Into<String>) -> Self {
        self.dest_schema = Some(schema.into());
        self
    }

    /// How rows get into the table. Default: [`Strategy::Replace`] for whole tables, [`Strategy::Merge`] for change capture.
    #[must_use]
    pub fn with_strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = Some(strategy);
        self
    }

    /// The columns that identify a row, in place of the source's primary key.
    ///
    /// At the source they have to be unique together and never NULL, though nothing there may see to it: with change capture, of rows with the same
    /// values in them the one that changed last is kept, and NULL is an error; where whole tables are merged, both are errors.
    #[must_use]
    pub fn with_primary_key<S: Into<String>>(mut self, columns: impl IntoIterator<Item = S>) -> Self {
        self.primary_key = columns.into_iter().map(Into::into).collect();
        self
    }

    /// The column by whose values rows are chosen: those of the interval, if one is given; otherwise [`Strategy::Append`], [`Strategy::Merge`] and
    /// [`Strategy::DeleteInsert`] begin at the greatest value that the destination has.
    ///
    /// `Merge` and `DeleteInsert` bring rows with that very value again, so that none is missed that came later with an equal one; `Append` does not, as
    /// they would be there twice. Without a table or rows at the destination, everything comes. NULL lies in no interval, nor do dates that no calendar
    /// has. Text is compared by its bytes in UTF-8, at the source as at the destination, whatever its collation.
    #[must_use]
    pub fn with_incremental_key(mut self, column: impl Into<String>) -> Self {
        self.incremental_key = Some(column.into());
        self
    }

    /// Where the interval of the incremental key begins, inclusive, as MySQL prints the value: `42`, `2024-02-29`, `2024-02-29 12:00:00.5`.
    /// Default: as [`IngestOptions::with_incremental_key`] says.
    ///
    /// A moment may have a `T` in its middle and a `Z` at its end; one of a `TIMESTAMP` is in UTC.
    #[must_use]
    pub fn with_interval_start(mut self, value: impl Into<String>) -> Self {
        self.interval_start = Some(value.into());
        self
    }

    /// Where the interval of the incremental key ends, inclusive. Default: at the greatest value.
    #[must_use]
    pub fn with_interval_end(mut self, value: impl Into<String>) -> Self {
        self.interval_end = Some(value.into());
        self
    }

    /// Whether to forget what the destination has and build it anew, whatever the strategy. Default: no.
    #[must_use]
    pub fn with_full_refresh(mut self, full_refresh: bool) -> Self {
        self.full_refresh = full_refresh;
        self
    }

    /// Whether change capture removes deleted rows, instead of marking them. Default: no.
    #[must_use]
    pub fn with_hard_delete(mut self, hard_delete: bool) -> Self {
        self.hard_delete = hard_delete;
        self
    }

    /// What becomes of dates that no calendar has. Default: [`ZeroDates::Null`].
    #[must_use]
    pub fn with_zero_dates(mut self, zero_dates: ZeroDates) -> Self {
        self.zero_dates = zero_dates;
        self
    }

    /// What becomes of bytes that are no text of their column's character set. Default: [`MalformedText::Error`].
    #[must_use]
    pub fn with_malformed_text(mut self, malformed_text: MalformedText) -> Self {
        self.malformed_text = malformed_text;
        self
    }

    /// What becomes of numbers that SQLite's do not hold. Default: [`OutOfRange::Mixed`].
    #[must_use]
    pub fn with_out_of_range(mut self, out_of_range: OutOfRange) -> Self {
        self.out_of_range = out_of_range;
        self
    }

    /// A function that is called after every batch, on the thread that called [`ingest`]. Default: none.
    #[must_use]
    pub fn with_progress(mut self, progress: impl Fn(&Progress<'_>) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(progress));
        self
    }

    /// A handle that ends the run from outside. Default: one that nobody has.
    #[must_use]
    pub fn with_cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }

    /// The tables to move; empty for all.
    pub fn tables(&self) -> &[String] {
        &self.tables
    }

    /// The destination's table, for a run of one table.
    pub fn dest_table(&self) -> Option<&TableName> {
        self.dest_table.as_ref()
    }

    /// The destination's schema for tables that keep their names.
    pub fn dest_schema(&self) -> Option<&str> {
        self.dest_schema.as_deref()
    }

    /// How rows get into the table, if it was set.
    pub fn strategy(&self) -> Option<Strategy> {
        self.strategy
    }

    /// The columns that identify a row; empty for the source's primary key.
    pub fn primary_key(&self) -> &[String] {
        &self.primary_key
    }

    /// The column by whose values rows are chosen, if one is named.
    pub fn incremental_key(&self) -> Option<&str> {
        self.incremental_key.as_deref()
    }

    /// Where the interval begins, if it was said.
    pub fn interval_start(&self) -> Option<&str> {
        self.interval_start.as_deref()
    }

    /// Where the interval ends, if it was said.
    pub fn interval_end(&self) -> Option<&str> {
        self.interval_end.as_deref()
    }

    /// Whether to forget what the destination has.
    pub fn full_refresh(&self) -> bool {
        self.full_refresh
    }

    /// Whether change capture removes deleted rows.
    pub fn hard_delete(&self) -> bool {
        self.hard_delete
    }

    /// What becomes of dates that no calendar has.
    pub fn zero_dates(&self) -> ZeroDates {
        self.zero_dates
    }

    /// What becomes of bytes that are no text of their column's character set.
    pub fn malformed_text(&self) -> MalformedText {
        self.malformed_text
    }

    /// What becomes of numbers that SQLite's do not hold.
    pub fn out_of_range(&self) -> OutOfRange {
        self.out_of_range
    }

    /// The handle that ends the run from outside.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    pub(crate) fn report_progress(&self, progress: &Progress<'_>) {
        if let Some(callback) = &self.progress {
            callback(progress);
        }
    }

    /// The table with the columns that its rows have, where text is read as bytes.
    pub(crate) fn as_read(&self, table: &Table) -> Table {
        match self.malformed_text {
            MalformedText::Bytes => table.clone().with_text_as_bytes(),
            _ => table.clone(),
        }
    }

    /// Where the rows of a source's table go.
    ///
    /// # Errors
    /// `Config` if several tables are to become one.
    pub(crate) fn destination_of(&self, table: &str, tables: usize, default_schema: Option<&str>) -> Result<TableName> {
        match (&self.dest_table, self.dest_schema.as_deref().or(default_schema)) {
            (Some(name), _) if tables > 1 => {
                Err(Error::config(format!("{tables} tables cannot all become `{name}`; name one source table")))
            }
            (Some(name), Some(schema)) if name.schema().is_none() => Ok(name.clone().in_schema(schema)),
            (Some(name), Some(schema)) if name.schema() != Some(schema) => {
                Err(Error::config(format!("the destination's table `{name}` contradicts its schema `{schema}`")))
            }
            (Some(name), _) => Ok(name.clone()),
            (None, Some(schema)) => Ok(TableName::new(table).in_schema(schema)),
            (None, None) => Ok(TableName::new(table)),
        }
    }
}

impl fmt::Debug for IngestOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IngestOptions")
            .field("tables", &self.tables)
            .field("dest_table", &self.dest_table)
            .field("dest_schema", &self.dest_schema)
            .field("strategy", &self.strategy)
            .field("primary_key", &self.primary_key)
            .field("incremental_key", &self.incremental_key)
            .field("interval_start", &self.interval_start)
            .field("interval_end", &self.interval_end)
            .field("full_refresh", &self.full_refresh)
            .field("hard_delete", &self.hard_delete)
            .field("zero_dates", &self.zero_dates)
            .field("malformed_text", &self.malformed_text)
            .field("out_of_range", &self.out_of_range)
            .field("progress", &self.progress.is_some())
            .field("cancel", &self.cancel)
            .finish()
    }
}

/// Moves tables from a source into a destination: whole for a `mysql://` source, and by change capture for a `mysql+cdc://` one.
///
/// Tables are worked on one after the other. One that fails does not keep the others from being moved: its error stands in the report. Only
/// what concerns the whole run is an error of this function.
///
/// # Errors
/// `Config` if the options contradict each other or the source; `Schema` if a table that was named does not exist; those of the
/// connection. `Cancelled` only if it was cancelled before any table was worked on; later, a run that was cancelled reports what it did, with
/// tables that are not complete.
pub fn ingest(source: &Source, sink: &mut Sink, options: &IngestOptions) -> Result<Report> {
    let begun = Instant::now();
    if source.options().path().is_some_and(|path| sink.is_file(path)) {
        return Err(Error::config("source and destination are the same file"));
    }
    sink.set_zero_dates(options.zero_dates);
    sink.set_out_of_range(options.out_of_range);
    let mut report = match source.options().capture() {
        None => batch::copy_tables(source, sink, options, begun)?,
        #[cfg(feature = "vstream")]
        Some(_) => capture::capture(source, sink, options, begun)?,
        #[cfg(not(feature = "vstream"))]
        Some(_) => return Err(crate::Error::new(crate::ErrorKind::Unsupported, "built without the feature `vstream`")),
    };
    report.elapsed = begun.elapsed();
    report.peak_memory_bytes = peak_memory_bytes();
    Ok(report)
}

/// The tables that were named, in that order, or all.
pub(crate) fn chosen(source: &Source, options: &IngestOptions) -> Result<Vec<Arc<Table>>> {
    let tables = if options.tables().is_empty() {
        let tables = source.tables_unless(options.cancel())?;
        if tables.is_empty() {
            let database = source.options().shown_database();
            return Err(Error::new(ErrorKind::Schema, format!("database `{database}` has no tables that the user may see")));
        }
        tables
    } else {
        let mut tables: Vec<Table> = Vec::with_capacity(options.tables().len());
        for name in options.tables() {
            if tables.iter().any(|table| table.name() == name) {
                return Err(Error::config(format!("table `{name}` is named twice")));
            }
            tables.push(source.table_unless(name, options.cancel())?);
        }
        tables
    };
    tables
        .into_iter()
        .map(|table| if options.primary_key().is_empty() { Ok(table) } else { table.with_primary_key(options.primary_key()) }.map(Arc::new))
        .collect()
}

/// Where the rows of each table go.
///
/// # Errors
/// `Config` if several tables are to become one that was named, and `Conflict` if the names of two are the same for a destination.
pub(crate) fn destinations_of(tables: &[Arc<Table>], options: &IngestOptions, default_schema: Option<&str>) -> Result<Vec<TableName>> {
    let mut targets = Vec::with_capacity(tables.len());
    let mut taken: BTreeMap<String, &str> = BTreeMap::new();
    for table in tables {
        let target = options.destination_of(table.name(), tables.len(), default_schema)?;
        // All are in one schema. DuckDB and SQLite do not regard the case of letters, of which MySQL may have two tables.
        if let Some(other) = taken.insert(target.name().to_lowercase(), table.name()) {
            let message = format!(
                "tables `{other}` and `{}` would both become `{target}`, as the destination does not regard the case of names: move them one \
                 at a time, with a destination table for each",
                table.name()
            );
            return Err(Error::new(ErrorKind::Conflict, message).with_table(table.name()));
        }
        targets.push(target);
    }
    Ok(targets)
}
