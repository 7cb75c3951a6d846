//! The table of checkpoints on a server, and how far a table has been captured.
//!
//! It has the same columns as in a file, and what is found in it is judged alike. Where rows cannot be stored in one transaction with their position, the
//! checkpoint is marked before the first of them: it has no number of rows then, and no position if there was none. Whatever ends the run before the next
//! position is stored, the run after it begins at the old position, and writes the same rows once more.

use std::collections::BTreeMap;
use std::time::Instant;

use super::encode::literal;
use super::session::{Failure, Session, pause};
use super::table::{DestTable, look_up, qualified};
use super::types::Purpose;
use super::{Made, MySql, beside};
use crate::change::{Checkpoint, CopyPhase, DELETED_COLUMN, LSN_COLUMN};
use crate::schema::{Column, ColumnType, Table, TableName};
use crate::server::quoted;
use crate::sink::StoredColumn;
use crate::sink::checkpoint::{
    CHECKPOINT_TABLE, Content, Fence, Found, Known, OwnColumn, Recorded, Scan, judge, number, print_columns, recorded_name,
};
use crate::{Error, ErrorKind, Result};

const COLUMNS: [&str; 9] =
    ["dest_table", "source_table", "position", "updated_at", "live_rows", "deleted_rows", "last_lsn", "stored_columns", "written_by"];

/// What a look at a table has found on a server.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) found: Found,
    pub(super) notice: Notice,
}

/// What is to be done about what was found before anything is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Notice {
    #[default]
    None,
    /// The first rows of a copy were stored, and no position yet: they go.
    Empty,
    /// A table that was built anew has taken its place, and its checkpoint has not.
    Rename,
}

fn checkpoint_table() -> TableName {
    TableName::new(CHECKPOINT_TABLE)
}

fn definition() -> Result<Table> {
    let text = |name: &str, declared: &str, collation: &str| {
        let column = Column::new(name, ColumnType::Text { length: None }, true);
        column.with_declared(Some(declared.to_owned())).with_collation(Some(collation.to_owned()))
    };
    let number = |name: &str| Column::new(name, ColumnType::Int { bits: 64, unsigned: false }, true);
    let long = |name: &str| text(name, "longtext", "utf8mb4_bin");
    let columns = vec![
        text("dest_table", "varchar(255)", "utf8mb4_bin"),
        long("source_table"),
        long("position"),
        long("updated_at"),
        number("live_rows"),
        number("deleted_rows"),
        long("last_lsn"),
        long("stored_columns"),
        long("written_by"),
    ];
    Table::new(CHECKPOINT_TABLE, columns).with_primary_key(&["dest_table"])
}

/// Whether there is a table of checkpoints that can be asked.
fn is_there(store: &mut MySql) -> Result<bool> {
    let Some(found) = store.look_up(&checkpoint_table())? else { return Ok(false) };
    if store.session.is_vitess() {
        // Another run may have made it this moment.
        store.session.wait_until_known(&format!("SELECT 1 FROM {} LIMIT 1", table()), "the table of checkpoints cannot be asked")?;
    }
    match COLUMNS.iter().find(|column| found.column(column).is_none()) {
        None => Ok(true),
        Some(missing) => {
            let message = format!(
                "the table `{CHECKPOINT_TABLE}` in the destination has no column `{missing}`: somebody else has changed it; \
                 drop it, and tables are resumed from the positions of their rows, or rebuild them with full_refresh"
            );
            Err(Error::new(ErrorKind::Conflict, message).with_column(missing))
        }
    }
}

/// Makes the table of checkpoints if it is not there.
///
/// # Errors
/// `Sink` with the statements to deploy, if the server lets nobody make one.
pub(super) fn create(store: &mut MySql) -> Result<()> {
    if is_there(store)? {
        return Ok(());
    }
    match store.make(&checkpoint_table(), &definition()?, Purpose::Checkpoints)? {
        Made::Made => Ok(()),
        Made::Refused(error) => Err(error),
    }
}

/// Reads how far a table has been captured, and writes nothing.
///
/// # Errors
/// As for files.
pub(super) fn read(store: &mut MySql, name: &TableName, source_table: &str) -> Result<Looked> {
    let building = beside(name, "new");
    let mut rows = recorded(store, &[name, &building])?;
    let (own, of_building) = (rows.remove(&recorded_name(name)), rows.remove(&recorded_name(&building)));
    let found = store.look_up(name)?;
    let Some(found) = found else {
        return Ok(Looked { found: judge((name, source_table), own.as_ref(), None, false, |_| unread())?, notice: Notice::None });
    };
    let stored = stored_columns(&found);
    let table = qualified(name);
    let has_rows = !store.session.query(&format!("SELECT 1 FROM {table} LIMIT 1"))?.is_empty();
    if let Some(recorded) = of_building
        && look_up(&mut store.session, &building)?.is_none()
    {
        let scan = scan(store, name, &found);
        let judged = scan.and_then(|scan| judge((name, source_table), Some(&recorded), Some(stored.clone()), has_rows, |_| Ok(scan)));
        let is_copied = |found: &Found| found.position.as_ref().is_some_and(|position| position.checkpoint.phase == CopyPhase::Copied);
        if let Ok(mut judged) = judged
            && recorded.content.is_some()
            && is_copied(&judged)
        {
            judged.known.fence = own.map(|own| own.fence);
            return Ok(Looked { found: judged, notice: Notice::Rename });
        }
    }
    if let Some(recorded) = own.as_ref().filter(|recorded| recorded.is_unfinished && recorded.fence.position.is_empty()) {
        if recorded.source_table != source_table {
            let message = format!(
                "`{name}` was filled from table `{}`, not from `{source_table}`: rebuild it with full_refresh",
                recorded.source_table
            );
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        let note = "copied anew: its copy was interrupted before a position was stored".to_owned();
        let known = Known { fence: Some(recorded.fence.clone()), is_unfinished: true, ..Known::default() };
        return Ok(Looked { found: Found { position: None, note: Some(note), known }, notice: Notice::Empty });
    }
    let judged = judge((name, source_table), own.as_ref(), Some(stored), has_rows, |_| scan(store, name, &found))?;
    Ok(Looked { found: judged, notice: Notice::None })
}

fn unread<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Sink, "a table that is not there was looked through"))
}

/// The columns of a table as a checkpoint names them.
pub(super) fn stored_columns(table: &DestTable) -> Vec<StoredColumn> {
    let column = |column: &super::table::DestColumn| StoredColumn { name: column.name.clone(), declared_type: column.full_type() };
    table.columns.iter().map(column).collect()
}

/// The columns of a table that are of the source or were made by a run before.
pub(super) fn own_columns(found: &DestTable, table: &Table, is_own: impl Fn(&str) -> bool) -> Vec<OwnColumn> {
    let columns = stored_columns(found).into_iter();
    let columns = columns.map(|stored| OwnColumn { is_at_source: table.column_index(&stored.name).is_some(), stored });
    columns.filter(|column| column.is_at_source || is_own(&column.stored.name)).collect()
}

/// Looks through a table.
pub(super) fn scan(store: &mut MySql, name: &TableName, found: &DestTable) -> Result<Scan> {
    let lsn = quoted(LSN_COLUMN);
    // An older tool's table may lack the column.
    let deleted = if found.column(DELETED_COLUMN).is_some() { is_deleted() } else { "1 = 0".to_owned() };
    let sql = format!(
        "SELECT count(*), count(CASE WHEN {deleted} THEN 1 END), max({lsn}), max(CASE WHEN {lsn} NOT LIKE '%:-' THEN {lsn} END), \
         max(CASE WHEN NOT {deleted} THEN {lsn} END) FROM {}",
        qualified(name)
    );
    Scan::of(store.session.query(&sql)?.into_iter().flatten())
}

/// Counts a table's rows anew.
pub(super) fn content(store: &mut MySql, name: &TableName) -> Result<Content> {
    match store.look_up(name)? {
        Some(found) if found.column(LSN_COLUMN).is_some() => Ok(scan(store, name, &found)?.content),
        _ => Ok(Content::default()),
    }
}

/// Whether a row is marked as deleted.
pub(super) fn is_deleted() -> String {
    format!("coalesce({}, 1 = 0)", quoted(DELETED_COLUMN))
}

fn is_of(name: &TableName) -> String {
    format!("dest_table = {}", literal(&recorded_name(name)))
}

fn recorded(store: &mut MySql, names: &[&TableName]) -> Result<BTreeMap<String, Recorded>> {
    if !is_there(store)? {
        return Ok(BTreeMap::new());
    }
    let list: Vec<String> = names.iter().map(|name| literal(&recorded_name(name))).collect();
    let sql = format!("SELECT {} FROM {} WHERE dest_table IN ({})", COLUMNS.join(", "), table(), list.join(", "));
    let row = |row: Vec<Option<String>>| {
        let mut cells = row.into_iter();
        let mut next = || cells.next().flatten();
        let (name, source_table, position) = (next().unwrap_or_default(), next().unwrap_or_default(), next().unwrap_or_default());
        let _updated_at = next();
        let (live, deleted, last_lsn, columns, written_by) = (next(), next(), next(), next(), next());
        let is_unfinished = live.is_none();
        let content = live.map(|live| Content { live: number(Some(live)), deleted: number(deleted), last_lsn });
        (name, Recorded { source_table, fence: Fence { position, written_by }, content, columns, is_unfinished })
    };
    Ok(store.session.query(&sql)?.into_iter().map(row).collect())
}

fn table() -> String {
    qualified(&checkpoint_table())
}

/// What a statement about checkpoints is called in errors.
const ATTEMPTED: &str = "the position cannot be stored in `_ingest_checkpoint`";

/// What the rows of these tables say of who wrote them. Within a transaction nobody changes them until its end.
pub(super) fn fences<'a>(
    session: &mut Session,
    names: impl IntoIterator<Item = &'a TableName>,
    is_in_transaction: bool,
) -> Result<BTreeMap<String, Fence>, Failure> {
    let names: Vec<String> = names.into_iter().map(|name| literal(&recorded_name(name))).collect();
    let lock = if is_in_transaction { " FOR UPDATE" } else { "" };
    let sql = format!(
        "SELECT dest_table, position, written_by FROM {} WHERE dest_table IN ({}) ORDER BY dest_table{lock}",
        table(),
        names.join(", ")
    );
    let text = |cell: Option<Vec<u8>>| cell.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let rows = session.try_query(&sql, "the positions in `_ingest_checkpoint` cannot be read")?.into_iter().map(|row| {
        let mut cells = row.into_iter().map(text);
        let mut next = || cells.next().flatten();
        let (name, position, written_by) = (next().unwrap_or_default(), next().unwrap_or_default(), next());
        (name, Fence { position, written_by })
    });
    Ok(rows.collect())
}

pub(super) fn fence(session: &mut Session, name: &TableName) -> Result<Option<Fence>, Failure> {
    Ok(fences(session, [name], false)?.remove(&recorded_name(name)))
}

/// What a run writes into a checkpoint beside the position.
pub(super) struct Writer<'a> {
    pub(super) run: &'a str,
    pub(super) now: &'a str,
}

impl Writer<'_> {
    /// The statement that says of a table that rows beyond its position may be stored from here on; `None` in place of a fence stands for a table without
    /// a checkpoint. It changes no row if somebody else has written there since.
    pub(super) fn mark(&self, name: &TableName, source_table: &str, fence: Option<&Fence>, columns: &[OwnColumn]) -> String {
        let (run, now, columns) = (literal(self.run), literal(self.now), literal(&print_columns(columns)));
        let Some(fence) = fence else {
            return format!(
                "INSERT INTO {} (dest_table, source_table, position, updated_at, stored_columns, written_by) \
                 VALUES ({}, {}, '', {now}, {columns}, {run})",
                table(),
                literal(&recorded_name(name)),
                literal(source_table)
            );
        };
        let by = match &fence.written_by {
            Some(by) => format!("written_by = {}", literal(by)),
            None => "written_by IS NULL".to_owned(),
        };
        format!(
            "UPDATE {} SET live_rows = NULL, deleted_rows = NULL, last_lsn = NULL, updated_at = {now}, stored_columns = {columns}, \
             written_by = {run} WHERE {} AND position = {} AND {by}",
            table(),
            is_of(name),
            literal(&fence.position)
        )
    }

    /// The statement that forgets a position, since the rows go that it speaks of.
    pub(super) fn forget(&self, name: &TableName, source_table: &str) -> String {
        let values = [("source_table", literal(source_table)), ("position", "''".to_owned()), ("updated_at", literal(self.now))];
        let nulls = ["live_rows", "deleted_rows", "last_lsn", "stored_columns"].map(|column| (column, "NULL".to_owned()));
        upsert(name, values.into_iter().chain(nulls).chain([("written_by", literal(self.run))]))
    }

    /// The statement that stores how far a table has come.
    pub(super) fn write(&self, name: &TableName, checkpoint: &Checkpoint, content: &Content, columns: &[OwnColumn]) -> (String, Fence) {
        let fence = Fence { position: checkpoint.to_string(), written_by: Some(self.run.to_owned()) };
        let values = [
            ("source_table", literal(checkpoint.table())),
            ("position", literal(&fence.position)),
            ("updated_at", literal(self.now)),
            ("live_rows", content.live.to_string()),
            ("deleted_rows", content.deleted.to_string()),
            ("last_lsn", content.last_lsn.as_deref().map_or_else(|| "NULL".to_owned(), literal)),
            ("stored_columns", literal(&print_columns(columns))),
            ("written_by", literal(self.run)),
        ];
        (upsert(name, values), fence)
    }
}

fn upsert(name: &TableName, values: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let (columns, values): (Vec<&str>, Vec<String>) = values.into_iter().unzip();
    let set: Vec<String> = columns.iter().map(|column| format!("{column} = VALUES({column})")).collect();
    format!(
        "INSERT INTO {} (dest_table, {}) VALUES ({}, {}) ON DUPLICATE KEY UPDATE {}",
        table(),
        columns.join(", "),
        literal(&recorded_name(name)),
        values.join(", "),
        set.join(", ")
    )
}

/// Runs a statement about checkpoints.
pub(super) fn run(session: &mut Session, sql: &str) -> Result<u64, Failure> {
    session.try_execute(sql, ATTEMPTED, &[])
}

/// Forgets a table.
pub(super) fn remove(session: &mut Session, name: &TableName) -> Result<()> {
    Ok(run(session, &format!("DELETE FROM {} WHERE {}", table(), is_of(name))).map(drop)?)
}

/// Gives a table's checkpoint to another name, in a transaction of its own. It may be repeated.
pub(super) fn rename(session: &mut Session, from: &TableName, to: &TableName) -> Result<()> {
    let mut retry = session.retry();
    loop {
        let began = Instant::now();
        let failure = match try_rename(session, from, to) {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        if !failure.fault.is_passing() {
            return Err(failure.error);
        }
        pause(&mut retry, began, failure)?;
        // Ends the transaction too.
        session.reconnect()?;
    }
}

fn try_rename(session: &mut Session, from: &TableName, to: &TableName) -> Result<(), Failure> {
    run(session, "BEGIN")?;
    if !fences(session, [from], true)?.is_empty() {
        run(session, &format!("DELETE FROM {} WHERE {}", table(), is_of(to)))?;
        run(session, &format!("UPDATE {} SET dest_table = {} WHERE {}", table(), literal(&recorded_name(to)), is_of(from)))?;
    }
    run(session, "COMMIT").map(drop)
}
