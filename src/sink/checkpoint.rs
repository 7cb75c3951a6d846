//! Where a destination stands: the greatest `_cdc_lsn` of a table, and the table of checkpoints beside it.
//!
//! `_ingest_checkpoint` lies in the destination's default schema and has a row for each captured table. It is written in the transaction of the
//! rows that it speaks of. Its `position` is the text of a [`Checkpoint`]; the position there is newer than that of the rows whenever the
//! stream went on without touching the table.
//!
//! Beside the position it says what the table held and which columns it had, so that the next run notices if somebody else has emptied,
//! altered or replaced the table: a position speaks of rows that have to be there. These facts cost nothing to keep, since every statement
//! says how many rows it concerned, and are compared in the one scan that looks for the greatest `_cdc_lsn` anyway.
//!
//! What is found is judged here for every kind of destination; the statements are those of files. Where rows and position cannot be stored in one
//! transaction, a checkpoint without a number of rows says that rows beyond its position may be there.

use std::collections::BTreeMap;

use super::{Destination, StoredColumn, is_deleted, literal, qualified, quoted};
use crate::change::{Checkpoint, CopyPhase, DELETED_COLUMN, LSN_COLUMN};
use crate::position::{Lsn, ShardGtid, Vgtid};
use crate::schema::{ColumnType, TableName};
use crate::{Error, ErrorKind, PositionFault, Result};

pub(crate) const CHECKPOINT_TABLE: &str = "_ingest_checkpoint";

/// The columns that the table of checkpoints has always had, all of them text.
const FIRST_COLUMNS: [&str; 4] = ["dest_table", "source_table", "position", "updated_at"];
/// Rows that are not marked as deleted, and rows that are: numbers.
const COUNT_COLUMNS: [&str; 2] = ["live_rows", "deleted_rows"];
/// The greatest `_cdc_lsn` of the rows that are not deleted, the columns, and the run that wrote all this: text.
const TEXT_COLUMNS: [&str; 3] = ["last_lsn", "stored_columns", "written_by"];

/// As much of an `_cdc_lsn` as tells one from another: ordinal and row, without the position.
pub(super) const LSN_HEAD: usize = "00000000000000000000:000000".len();

/// What a destination table says of its position.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPosition {
    /// What to resume from.
    pub(crate) checkpoint: Checkpoint,
    /// The position that the rows themselves carry, where the checkpoint's is newer: it has to be of the same history.
    pub(crate) of_rows: Option<Lsn>,
    /// The columns that the destination has of those at the source, where that is known.
    pub(crate) columns: Option<Vec<String>>,
}

impl From<Checkpoint> for StoredPosition {
    fn from(checkpoint: Checkpoint) -> Self {
        Self { checkpoint, of_rows: None, columns: None }
    }
}

impl StoredPosition {
    /// What to resume from.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
}

/// What a table holds, kept up with every statement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// Rows that are not marked as deleted.
    pub(super) live: u64,
    /// Rows that are. Somebody may remove those: it is not an error if there are fewer.
    pub(super) deleted: u64,
    /// The beginning of the greatest `_cdc_lsn` of the live rows. `None` where that row may have been deleted since: to find the next one would
    /// take a scan.
    pub(super) last_lsn: Option<String>,
}

impl Content {
    /// Rows are gone from the table, of which `deleted` were marked already.
    pub(super) fn remove(&mut self, rows: u64, deleted: u64) {
        let live = rows.saturating_sub(deleted);
        self.live = self.live.saturating_sub(live);
        self.deleted = self.deleted.saturating_sub(deleted);
        if live > 0 {
            self.last_lsn = None;
        }
    }

    /// Rows are marked as deleted, of which `again` were so already.
    pub(super) fn mark(&mut self, rows: u64, again: u64) {
        let marked = rows.saturating_sub(again);
        self.remove(marked, 0);
        self.deleted += marked;
    }

    /// Rows are added; `last` is the greatest `_cdc_lsn` of the live ones, which no stored one exceeds.
    pub(super) fn add(&mut self, live: u64, deleted: u64, last: Option<String>) {
        self.live += live;
        self.deleted += deleted;
        if let Some(last) = last {
            self.last_lsn = last.get(..LSN_HEAD).map(str::to_owned);
        }
    }
}

/// What a checkpoint's row says of who wrote it: as long as it stays the same, nobody else has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fence {
    pub(super) position: String,
    pub(super) written_by: Option<String>,
}

/// A row of the table of checkpoints.
pub(super) struct Recorded {
    pub(super) source_table: String,
    pub(super) fence: Fence,
    pub(super) content: Option<Content>,
    pub(super) columns: Option<String>,
    /// Rows beyond the position may be stored, though perhaps not all of them.
    pub(super) is_unfinished: bool,
}

/// What a look at a table has found: beside the position, what it takes to write to the table.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) position: Option<StoredPosition>,
    /// What a reader of the report should know.
    pub(super) note: Option<String>,
    pub(super) known: Known,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) fence: Option<Fence>,
    pub(super) content: Content,
    /// The columns that runs have made, where that was recorded; others are somebody else's.
    pub(super) columns: Option<Vec<OwnColumn>>,
    /// A run ended amid what it wrote beyond the position.
    pub(super) is_unfinished: bool,
}

/// A column that a run has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OwnColumn {
    pub(super) stored: StoredColumn,
    /// Whether the source has it. One that was dropped there stays with its old values; if it is added again, it is a new one.
    pub(super) is_at_source: bool,
}

/// What marks a column that the source does not have any more.
const DROPPED: &str = " (dropped at the source)";
/// What follows the type of a column that is being given another, where that takes effect ahead of the position.
pub(super) const CHANGING: &str = " (changing)";

/// Reads how far a table has been captured. There is no position if it has to be copied first: it does not exist, or is empty and was never
/// captured.
///
/// # Errors
/// `Position` with `Unreadable`, or with `Missing` if there are rows that nobody says the position of; `Conflict` if the rows are of
/// another source table, or the table is not what the checkpoint speaks of.
pub(super) fn read(destination: &mut dyn Destination, name: &TableName, source_table: &str) -> Result<Found> {
    look(destination, name, source_table).map_err(|error| error.with_table(name))
}

fn look(destination: &mut dyn Destination, name: &TableName, source_table: &str) -> Result<Found> {
    let recorded = recorded(destination, name)?;
    let stored = destination.stored_columns(name)?;
    let has_rows = match &stored {
        Some(_) => !destination.query_text(&format!("SELECT 1 FROM {} LIMIT 1", qualified(name)))?.is_empty(),
        None => false,
    };
    judge((name, source_table), recorded.as_ref(), stored, has_rows, |stored| scan(destination, name, stored))
}

/// What follows from a table's checkpoint, its columns (`None` if there is no table), and a scan of its rows.
pub(super) fn judge(
    (name, source_table): (&TableName, &str),
    recorded: Option<&Recorded>,
    stored: Option<Vec<StoredColumn>>,
    has_rows: bool,
    scan: impl FnOnce(&[StoredColumn]) -> Result<Scan>,
) -> Result<Found> {
    let fence = recorded.map(|recorded| recorded.fence.clone());
    let Some(stored) = stored else {
        let note = recorded.is_some().then(|| "copied anew: the destination had a checkpoint of the table, but not the table".to_owned());
        return Ok(Found { position: None, note, known: Known { fence, ..Known::default() } });
    };
    let columns = recorded.and_then(|recorded| recorded.columns.as_deref()).map(parse_columns).transpose()?;
    if let Some(columns) = &columns {
        require_columns(name, columns, &stored)?;
    }
    let missing = || {
        let message =
            format!("`{name}` has rows, but no position to resume from: rebuild it with full_refresh, or choose another destination table");
        Error::position_fault_of(PositionFault::Missing, message)
    };
    if !has(&stored, LSN_COLUMN) {
        return if has_rows { Err(missing()) } else { Ok(Found { known: Known { fence, ..Known::default() }, ..Found::default() }) };
    }
    let checkpoint = match recorded {
        Some(recorded) if recorded.source_table != source_table => {
            let other = &recorded.source_table;
            let message = format!("`{name}` was filled from table `{other}`, not from `{source_table}`: rebuild it with full_refresh");
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        Some(recorded) => Some(Checkpoint::parse(source_table, &recorded.fence.position)?),
        None => None,
    };
    let is_unfinished = recorded.is_some_and(|recorded| recorded.is_unfinished);
    let Scan { content, last, with_payload } = scan(&stored)?;
    let last_ordinal = last.as_ref().map_or(0, Lsn::ordinal);
    // Of rows that are stored ahead of their position, the last may be there without some before it.
    let newer = |checkpoint: &Checkpoint| !is_unfinished && with_payload.as_ref().is_some_and(|rows| rows.ordinal() > checkpoint.ordinal);
    let (resumed, of_rows, note) = match (checkpoint, with_payload.clone()) {
        (Some(mut checkpoint), of_rows) if !newer(&checkpoint) => {
            if let Some(expected) = recorded.and_then(|recorded| recorded.content.as_ref()) {
                require_content(name, expected, &content)?;
            }
            checkpoint.ordinal = checkpoint.ordinal.max(last_ordinal);
            (Some(checkpoint), of_rows, None)
        }
        (checkpoint, Some(rows)) => {
            let (resumed, note) = from_rows(rows, source_table, last_ordinal, checkpoint.as_ref()).ok_or_else(missing)?;
            (Some(resumed), None, Some(note))
        }
        (_, None) if has_rows => return Err(missing()),
        (_, None) => (None, None, None),
    };
    let names = match &columns {
        Some(columns) => columns.iter().filter(|column| column.is_at_source).map(|column| column.stored.name.clone()).collect(),
        None => stored.iter().map(|column| column.name.clone()).collect(),
    };
    let position = resumed.map(|checkpoint| StoredPosition { checkpoint, of_rows, columns: Some(names) });
    Ok(Found { position, note, known: Known { fence, content, columns, is_unfinished } })
}

fn has(columns: &[StoredColumn], name: &str) -> bool {
    columns.iter().any(|column| column.name.eq_ignore_ascii_case(name))
}

/// What one scan of a table tells.
pub(super) struct Scan {
    pub(super) content: Content,
    /// The greatest position of a row.
    last: Option<Lsn>,
    /// The greatest that holds a VGTID.
    with_payload: Option<Lsn>,
}

impl Scan {
    /// From the number of rows and of those that are deleted, the greatest position, the greatest with a VGTID, and the greatest of a row that is not
    /// deleted.
    pub(super) fn of(cells: impl IntoIterator<Item = Option<String>>) -> Result<Self> {
        let mut cells = cells.into_iter();
        let mut next = || cells.next().flatten();
        let (rows, deleted, last, with_payload, live) = (next(), next(), next(), next(), next());
        let deleted = number(deleted);
        let head = live.and_then(|lsn| lsn.get(..LSN_HEAD).map(str::to_owned));
        let content = Content { live: number(rows).saturating_sub(deleted), deleted, last_lsn: head };
        let parsed = |text: Option<String>| text.map(|text| Lsn::parse(&text)).transpose();
        Ok(Self { content, last: parsed(last)?, with_payload: parsed(with_payload)? })
    }
}

/// All in one scan: SQLite reads the whole table for it.
fn scan(destination: &mut dyn Destination, name: &TableName, stored: &[StoredColumn]) -> Result<Scan> {
    let lsn = quoted(LSN_COLUMN);
    // An older tool's table may lack the column.
    let deleted = if has(stored, DELETED_COLUMN) { is_deleted() } else { "1 = 0".to_owned() };
    let sql = format!(
        "SELECT count(*), count(CASE WHEN {deleted} THEN 1 END), max({lsn}), max(CASE WHEN {lsn} NOT LIKE '%:-' THEN {lsn} END), \
         max(CASE WHEN NOT ({deleted}) THEN {lsn} END) FROM {}",
        qualified(name)
    );
    Scan::of(destination.query_text(&sql)?.into_iter().flatten())
}

pub(super) fn number(cell: Option<String>) -> u64 {
    cell.and_then(|cell| cell.parse().ok()).unwrap_or(0)
}

/// Counts a table's rows anew.
pub(super) fn content(destination: &mut dyn Destination, name: &TableName) -> Result<Content> {
    match destination.stored_columns(name)? {
        Some(stored) if has(&stored, LSN_COLUMN) => Ok(scan(destination, name, &stored)?.content),
        _ => Ok(Content::default()),
    }
}

/// Refuses a table that lost columns, or has them with another type, since a run wrote to it.
fn require_columns(name: &TableName, recorded: &[OwnColumn], stored: &[StoredColumn]) -> Result<()> {
    for OwnColumn { stored: column, .. } in recorded {
        let found = stored.iter().find(|found| found.name.to_lowercase() == column.name.to_lowercase());
        let what = match found {
            None => "is gone from the destination".to_owned(),
            Some(_) if column.declared_type.ends_with(CHANGING) => continue,
            Some(found) if found.declared_type != column.declared_type => {
                format!("was {} when it was last written, and is {} now", column.declared_type, found.declared_type)
            }
            Some(_) => continue,
        };
        let message = format!("column `{name}.{}` {what}: somebody else has changed the table; rebuild it with full_refresh", column.name);
        return Err(Error::new(ErrorKind::Conflict, message).with_column(&column.name));
    }
    Ok(())
}

/// Refuses a table that does not hold what it held when its checkpoint was written: what follows that position would be merged into a part.
fn require_content(name: &TableName, recorded: &Content, found: &Content) -> Result<()> {
    let way_out = "somebody else has changed it, and what it lacks would not come again; rebuild it with full_refresh";
    if recorded.live != found.live {
        let (live, expected) = (found.live, recorded.live);
        let message = format!("`{name}` holds {live} rows, but held {expected} when its position was stored: {way_out}");
        return Err(Error::new(ErrorKind::Conflict, message));
    }
    match (&recorded.last_lsn, &found.last_lsn) {
        (Some(expected), found) if found.as_ref() != Some(expected) && recorded.live > 0 => {
            let found = found.as_deref().unwrap_or("none");
            let message = format!("the last change in `{name}` is {found}, but was {expected} when its position was stored: {way_out}");
            Err(Error::new(ErrorKind::Conflict, message))
        }
        _ => Ok(()),
    }
}

/// A checkpoint from what a row carries, for a table without one or with an older one. Positions of a copy say which shards are complete:
/// those with a GTID and without a last PK.
fn from_rows(lsn: Lsn, source_table: &str, ordinal: u64, older: Option<&Checkpoint>) -> Option<(Checkpoint, String)> {
    let ordinal = ordinal.max(lsn.ordinal());
    let position = lsn.into_payload()?;
    let is_done = |shard: &&ShardGtid| !shard.gtid().is_empty() && shard.last_pks().is_empty();
    let done: Vec<String> = position.shards().iter().filter(is_done).map(|shard| shard.shard().to_owned()).collect();
    let is_copied = done.len() == position.shards().len();
    let why = match older {
        None => "the destination has no checkpoint of it",
        Some(_) => "they are newer than its checkpoint",
    };
    let older_sweep = match older.map(|older| &older.phase) {
        Some(CopyPhase::Copying { sweep, .. }) => Some(*sweep),
        _ => None,
    };
    let (phase, position, note) = match older_sweep {
        None | Some(None) if is_copied => (CopyPhase::Copied, position, format!("resumed from the positions of its rows: {why}")),
        Some(sweep) if !is_copied => {
            (CopyPhase::Copying { done, sweep }, position, format!("its copy goes on from the positions of its rows: {why}"))
        }
        // Rows do not say whether a copy was the first, or on top of older rows of which some are gone at the source.
        _ => {
            let begin = position.shards().iter().map(|shard| ShardGtid::new(shard.keyspace(), shard.shard(), ""));
            let phase = CopyPhase::Copying { done: Vec::new(), sweep: Some(ordinal.saturating_add(1)) };
            (phase, begin.collect::<Vgtid>(), format!("copied anew: its copy was interrupted, and {why}"))
        }
    };
    Some((Checkpoint { table: source_table.to_owned(), phase, position, ordinal }, note))
}

fn checkpoint_table() -> TableName {
    TableName::new(CHECKPOINT_TABLE)
}

/// Which columns the table of checkpoints has, `None` if there is no such table.
///
/// # Errors
/// `Conflict` if it lacks one without which it says nothing.
fn checkpoint_columns(destination: &mut dyn Destination) -> Result<Option<Vec<StoredColumn>>> {
    let Some(columns) = destination.stored_columns(&checkpoint_table())? else { return Ok(None) };
    match FIRST_COLUMNS.iter().find(|column| !has(&columns, column)) {
        None => Ok(Some(columns)),
        Some(missing) => {
            let message = format!(
                "the table `{CHECKPOINT_TABLE}` in the destination has no column `{missing}`: somebody else has changed it; \
                 drop it, and tables are resumed from the positions of their rows, or rebuild them with full_refresh"
            );
            Err(Error::new(ErrorKind::Conflict, message).with_column(missing))
        }
    }
}

fn recorded(destination: &mut dyn Destination, name: &TableName) -> Result<Option<Recorded>> {
    let Some(columns) = checkpoint_columns(destination)? else { return Ok(None) };
    // Made by an earlier version, it may lack the later columns.
    let later = COUNT_COLUMNS.iter().chain(&TEXT_COLUMNS).map(|column| if has(&columns, column) { column } else { "NULL" });
    let chosen: Vec<&str> = ["source_table", "position"].into_iter().chain(later).collect();
    let sql = format!("SELECT {} FROM {} WHERE {}", chosen.join(", "), qualified(&checkpoint_table()), is_of(name));
    let mut rows = destination.query_text(&sql)?.into_iter();
    let Some(row) = rows.next() else { return Ok(None) };
    if rows.next().is_some() {
        let message = format!(
            "`{CHECKPOINT_TABLE}` has several rows for `{name}`: somebody else has changed it; rebuild the table with full_refresh"
        );
        return Err(Error::new(ErrorKind::Conflict, message));
    }
    let mut cells = row.into_iter();
    let mut next = || cells.next().flatten();
    let (source_table, position) = (next().unwrap_or_default(), next().unwrap_or_default());
    let (live, deleted, last_lsn, columns, written_by) = (next(), next(), next(), next(), next());
    let content = live.map(|live| Content { live: number(Some(live)), deleted: number(deleted), last_lsn });
    Ok(Some(Recorded { source_table, fence: Fence { position, written_by }, content, columns, is_unfinished: false }))
}

fn is_of(name: &TableName) -> String {
    format!("dest_table = {}", literal(&recorded_name(name)))
}

/// What the table of checkpoints calls a table: `table` or `schema.table`, and with a dot within a name as SQL would have it, since a table `a.b` is not
/// the table `b` in a schema `a`.
pub(super) fn recorded_name(name: &TableName) -> String {
    let is_plain = |part: &str| !part.contains(['.', '"']);
    if is_plain(name.name()) && name.schema().is_none_or(is_plain) { name.to_string() } else { qualified(&name.clone().in_database(None)) }
}

/// What the rows of these tables say of who wrote them; tables without one are left out.
pub(super) fn fences<'a>(destination: &mut dyn Destination, names: impl Iterator<Item = &'a TableName>) -> Result<BTreeMap<String, Fence>> {
    let names: Vec<String> = names.map(|name| literal(&recorded_name(name))).collect();
    let sql = format!(
        "SELECT dest_table, position, written_by FROM {} WHERE dest_table IN ({})",
        qualified(&checkpoint_table()),
        names.join(", ")
    );
    let rows = destination.query_text(&sql)?.into_iter().map(|row| {
        let mut cells = row.into_iter();
        let mut next = || cells.next().flatten();
        let (name, position, written_by) = (next().unwrap_or_default(), next().unwrap_or_default(), next());
        (name, Fence { position, written_by })
    });
    Ok(rows.collect())
}

/// Makes the table of checkpoints if it is not there, and adds the columns that an earlier version did not have.
pub(super) fn create(destination: &mut dyn Destination) -> Result<()> {
    let text = destination.declared(&ColumnType::Text { length: None });
    let count = destination.declared(&ColumnType::Int { bits: 64, unsigned: false });
    let all = FIRST_COLUMNS.map(|name| (name, &text)).into_iter().chain(COUNT_COLUMNS.map(|name| (name, &count)));
    let all = all.chain(TEXT_COLUMNS.map(|name| (name, &text)));
    match checkpoint_columns(destination)? {
        None => {
            let columns: Vec<String> = all.map(|(name, declared)| format!("{name} {declared}")).collect();
            let suffix = destination.table_suffix();
            let sql = format!("CREATE TABLE {} ({}){suffix}", qualified(&checkpoint_table()), columns.join(", "));
            destination.execute(&sql).map(drop)
        }
        Some(stored) => {
            let missing: Vec<_> = all.filter(|(name, _)| !has(&stored, name)).collect();
            missing.into_iter().try_for_each(|(name, declared)| {
                destination.execute(&format!("ALTER TABLE {} ADD COLUMN {name} {declared}", qualified(&checkpoint_table()))).map(drop)
            })
        }
    }
}

/// Stores how far a table has come, in the open transaction.
pub(super) fn write(
    destination: &mut dyn Destination,
    name: &TableName,
    checkpoint: &Checkpoint,
    content: &Content,
    columns: &[OwnColumn],
    (run, now): (&str, &str),
) -> Result<Fence> {
    let fence = Fence { position: checkpoint.to_string(), written_by: Some(run.to_owned()) };
    let mut values = vec![
        ("source_table", literal(checkpoint.table())),
        ("position", literal(&fence.position)),
        ("updated_at", literal(now)),
        ("live_rows", content.live.to_string()),
        ("deleted_rows", content.deleted.to_string()),
        ("last_lsn", content.last_lsn.as_deref().map_or_else(|| "NULL".to_owned(), literal)),
        ("written_by", literal(run)),
    ];
    let set: Vec<String> = values.iter().map(|(column, value)| format!("{column} = {value}")).collect();
    let table = qualified(&checkpoint_table());
    if destination.execute(&format!("UPDATE {table} SET {} WHERE {}", set.join(", "), is_of(name)))? == 0 {
        values.push(("dest_table", literal(&recorded_name(name))));
        values.push(("stored_columns", literal(&print_columns(columns))));
        let (columns, values): (Vec<&str>, Vec<String>) = values.into_iter().unzip();
        destination.execute(&format!("INSERT INTO {table} ({}) VALUES ({})", columns.join(", "), values.join(", ")))?;
    }
    Ok(fence)
}

/// Stores which columns a table has, in the open transaction; [`write`] does so for a table that has no checkpoint yet.
pub(super) fn write_columns(destination: &mut dyn Destination, name: &TableName, columns: &[OwnColumn]) -> Result<()> {
    let columns = literal(&print_columns(columns));
    destination
        .execute(&format!("UPDATE {} SET stored_columns = {columns} WHERE {}", qualified(&checkpoint_table()), is_of(name)))
        .map(drop)
}

/// Forgets a table, in the open transaction.
pub(super) fn remove(destination: &mut dyn Destination, name: &TableName) -> Result<()> {
    destination.execute(&format!("DELETE FROM {} WHERE {}", qualified(&checkpoint_table()), is_of(name))).map(drop)
}

/// Gives a table's checkpoint to another name, in the open transaction.
pub(super) fn rename(destination: &mut dyn Destination, from: &TableName, to: &TableName) -> Result<()> {
    remove(destination, to)?;
    let sql = format!("UPDATE {} SET dest_table = {} WHERE {}", qualified(&checkpoint_table()), literal(&recorded_name(to)), is_of(from));
    destination.execute(&sql).map(drop)
}

/// Columns as they stand in `CREATE TABLE`: `"id" BIGINT, "name" VARCHAR`.
pub(super) fn print_columns(columns: &[OwnColumn]) -> String {
    let print = |OwnColumn { stored, is_at_source }: &OwnColumn| {
        let dropped = if *is_at_source { "" } else { DROPPED };
        format!("{} {}{dropped}", quoted(&stored.name), stored.declared_type)
    };
    columns.iter().map(print).collect::<Vec<_>>().join(", ")
}

/// Where a type ends that another column follows. Only within the strings of an ENUM a type has quotation marks.
fn end_of_type(text: &str) -> Option<usize> {
    let mut is_in_string = false;
    text.char_indices().find_map(|(at, character)| {
        is_in_string ^= character == '\'';
        (!is_in_string && text[at..].starts_with(", \"")).then_some(at)
    })
}

fn parse_columns(text: &str) -> Result<Vec<OwnColumn>> {
    let damaged = || {
        let message = format!("the columns in `{CHECKPOINT_TABLE}` cannot be read: rebuild the table with full_refresh");
        Error::new(ErrorKind::Conflict, message)
    };
    let mut columns = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        rest = rest.strip_prefix('"').ok_or_else(damaged)?;
        let mut name = String::new();
        loop {
            let (before, after) = rest.split_once('"').ok_or_else(damaged)?;
            name.push_str(before);
            match after.strip_prefix('"') {
                Some(after) => {
                    name.push('"');
                    rest = after;
                }
                None => {
                    rest = after;
                    break;
                }
            }
        }
        rest = rest.strip_prefix(' ').ok_or_else(damaged)?;
        let (declared_type, after) = match end_of_type(rest) {
            Some(end) => (rest.get(..end).ok_or_else(damaged)?, Some(())),
            None => (rest, None),
        };
        let (declared, is_at_source) = declared_type.strip_suffix(DROPPED).map_or((declared_type, true), |declared| (declared, false));
        columns.push(OwnColumn { stored: StoredColumn { name, declared_type: declared.to_owned() }, is_at_source });
        rest = match after {
            Some(_) => &rest[declared_type.len() + 2..],
            None => "",
        };
    }
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::LastPk;

    #[test]
    fn columns_print_and_parse_whatever_their_names() {
        let names = ["id", "a \"quoted\" one", "\"", "", "with, comma", ", \"", "line\nbreak"];
        let types = ["BIGINT", "DECIMAL(10,2)", "TIMESTAMP WITH TIME ZONE"];
        let columns: Vec<OwnColumn> = names
            .iter()
            .zip(types.iter().cycle())
            .map(|(name, declared)| StoredColumn { name: (*name).to_owned(), declared_type: (*declared).to_owned() })
            .map(|stored| OwnColumn { is_at_source: stored.name.len() % 2 == 0, stored })
            .collect();
        assert_eq!(parse_columns(&print_columns(&columns)).unwrap(), columns);
        assert_eq!(parse_columns("").unwrap(), []);
        for damaged in ["id BIGINT", "\"id", "\"id\"", "\"id\"BIGINT", "\"id\" BIGINT, \"x"] {
            assert_eq!(parse_columns(damaged).unwrap_err().kind(), ErrorKind::Conflict, "{damaged}");
        }
    }

    fn position(shards: &[(&str, Option<u8>)]) -> Vgtid {
        let gtid = "MySQL56/0a000000-0000-0000-0000-000000000001:1-9";
        let shard = |(name, last_pk): &(&str, Option<u8>)| {
            let last_pks = last_pk.map(|key| LastPk::new("t", Some(vec![key])));
            ShardGtid::new("ks", *name, gtid).with_last_pks(last_pks.into_iter().collect())
        };
        shards.iter().map(shard).collect()
    }

    #[test]
    fn rows_say_what_to_resume_from_and_a_copy_of_unknown_kind_begins_anew() {
        let (copied, copying) = (position(&[("-80", None), ("80-", None)]), position(&[("-80", None), ("80-", Some(7))]));
        let checkpoint = |phase: CopyPhase| Checkpoint { table: "t".into(), phase, position: copied.clone(), ordinal: 3 };
        let on_top = |sweep| checkpoint(CopyPhase::Copying { done: Vec::new(), sweep });
        let goes_on = |sweep| CopyPhase::Copying { done: vec!["-80".into()], sweep };
        let anew = CopyPhase::Copying { done: Vec::new(), sweep: Some(13) };
        for (rows, older, expected) in [
            (&copied, None, CopyPhase::Copied),
            (&copied, Some(checkpoint(CopyPhase::Copied)), CopyPhase::Copied),
            (&copied, Some(on_top(None)), CopyPhase::Copied),
            // Whether what such a copy did not bring was deleted, nobody knows.
            (&copied, Some(on_top(Some(2))), anew.clone()),
            (&copying, None, anew.clone()),
            (&copying, Some(checkpoint(CopyPhase::Copied)), anew.clone()),
            (&copying, Some(on_top(None)), goes_on(None)),
            (&copying, Some(on_top(Some(2))), goes_on(Some(2))),
        ] {
            let lsn = Lsn::new(9).with_payload(rows.clone());
            let (resumed, note) = from_rows(lsn, "t", 12, older.as_ref()).unwrap();
            assert_eq!((&resumed.phase, resumed.ordinal), (&expected, 12), "{older:?}");
            if expected == anew {
                assert!(resumed.position.shards().iter().all(|shard| shard.gtid().is_empty() && shard.last_pks().is_empty()));
                assert!(note.starts_with("copied anew: "), "{note}");
            } else {
                assert_eq!(resumed.position, *rows);
            }
        }
        assert_eq!(from_rows(Lsn::new(9), "t", 12, None), None);
    }
}
