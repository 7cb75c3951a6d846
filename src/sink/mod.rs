//! Where rows go.
//!
//! # The contract
//!
//! A destination is a database file that one process writes at a time. What follows holds for every kind of it; the trait
//! [`Destination`] is what each kind performs, and everything above it is written once.
//!
//! **Transactions.** `begin` opens one, and until `commit` returned `Ok` nothing of what was done since is visible to anybody else, nor
//! is there after a crash. A `commit` that returned an error may have happened nevertheless: whoever goes on asks the checkpoint. `rollback`
//! undoes all since `begin`; it also ends a transaction that a failed statement broke. Statements between `begin` and `commit` see each
//! other's work. There are no nested ones: `begin` within a transaction is an error.
//!
//! **Rows.** `append` takes a batch into the open transaction and matches columns by name. A table may have columns that the batch lacks; they become
//! NULL. Values are stored exactly, or the call fails and names the column (the caller adds the table, as a staging table's name helps nobody); the only other outcome is what
//! the policies of [`crate::policy`] say, and `append` returns how many values they changed. A failed `append` leaves the transaction to be rolled back. An empty batch is
//! allowed and does nothing. `append` may hold rows back in memory; `execute`, `query_text`, `commit` and the rest of the methods
//! see them nevertheless.
//!
//! **Tables.** `declared` is the type in which a destination stores a column, spelled as `stored_columns` returns it, so that the two can be
//! compared as text. `create`, `add_column`, `change_type`, `drop_if_exists` and `rename` belong to the open transaction like rows do. A table
//! that was altered can be written to in the same transaction; whether one that was written to can be altered, `alters_written_tables` says.
//!
//! **One at a time.** An open [`Sink`] holds the lease of its file (`lease`), so that a second run is refused before it reads a position. Change
//! capture compares the checkpoints with what it last knew of them in every transaction, for places where locks do not reach.
//!
//! **Loads.** [`Sink::replace`] and [`Sink::append`] bring whole tables. Rows become visible all at once, in [`Load::commit`]; a load that is
//! dropped, or whose process is killed, leaves the table as it was. A replacing load fills a staging table beside the old
//! one, named by [`staging_name`], and swaps them in one transaction; the next load of the same table removes what an interrupted one left
//! behind. After an error a load refuses everything but being dropped.

pub(crate) mod checkpoint;
#[cfg(test)]
#[cfg(all(unix, any(feature = "sqlite", feature = "duckdb")))]
mod crash;
#[cfg(feature = "duckdb")]
mod duckdb;
mod file;
mod frontier;
mod lease;
mod load;
mod merge;
mod mysql;
mod reduce;
#[cfg(feature = "sqlite")]
mod sqlite;
mod store;
mod stored;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

pub use self::merge::Deletes;
pub(crate) use self::reduce::Put;
pub(crate) use self::store::{Highest, Left, LoadPlan};
use self::store::{Loading, Merging, Store};

use crate::batch::{Batch, Values};
use crate::change::ChangeBatch;
use crate::ingest::Strategy;
use crate::options::{SinkOptions, SourceOptions};
use crate::policy::{Changed, ChangedByName, ChangedValues, OutOfRange, ValueChange, ZeroDates};
use crate::schema::{Column, ColumnType, Table, TableName};
use crate::value::DateTime;
use crate::{Error, ErrorKind, Result};

/// What each kind of destination performs; the module's text is its contract.
pub(crate) trait Destination: Send {
    fn begin(&mut self) -> Result<()>;
    fn commit(&mut self) -> Result<()>;
    fn rollback(&mut self) -> Result<()>;

    /// Runs statements that return no rows; the number of rows that the last one changed.
    fn execute(&mut self, sql: &str) -> Result<u64>;

    /// The same for a statement that looks at about `rows` rows.
    fn execute_over(&mut self, _rows: u64, sql: &str) -> Result<u64> {
        self.execute(sql)
    }

    /// A transaction may be about so many tables.
    fn expect_tables(&mut self, _tables: usize) -> Result<()> {
        Ok(())
    }

    /// Runs a query with a small result.
    fn query_text(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>>;

    /// Takes rows into the open transaction.
    fn append(&mut self, table: &TableName, batch: &Batch) -> Result<Changed>;

    /// Passes on rows of a table in the types of `table`, whose columns are `stored` there. What is in `rest` follows the table's name in the query.
    fn read(
        &mut self,
        name: &TableName,
        table: &Arc<Table>,
        stored: &[StoredColumn],
        rest: &str,
        take: &mut dyn FnMut(Batch) -> Result<()>,
    ) -> Result<()>;

    /// A table's name with all that is needed to tell it from every other.
    fn located(&self, name: &TableName) -> TableName {
        name.clone()
    }

    /// The columns of a table in their order, `None` if there is no such table.
    fn stored_columns(&mut self, table: &TableName) -> Result<Option<Vec<StoredColumn>>>;

    /// The type in which values of `column_type` are stored.
    fn declared(&self, column_type: &ColumnType) -> String;

    /// The type in which values of `column_type` lie in a temporary table, on their way to where they are stored.
    fn declared_temporarily(&self, column_type: &ColumnType) -> String {
        self.declared(column_type)
    }

    /// Refuses a table that was there before if its declaration lets it drop rows for the sake of others without saying so.
    fn require_keeping(&mut self, _name: &TableName) -> Result<()> {
        Ok(())
    }

    /// What follows a column of text in a comparison so that it is one of bytes; `None` if no column of the table has another collation by its declaration.
    ///
    /// It is not written where nothing calls for it: SQLite looks up no key of several columns in an index then.
    fn byte_collation(&mut self, _name: &TableName) -> Result<Option<&'static str>> {
        Ok(None)
    }

    /// The type of a column of a temporary table that holds all values of a stored column, whose type is `stored`, as they are.
    fn carried(&self, stored: &str) -> String {
        stored.to_owned()
    }

    /// What follows the column list of `CREATE TABLE`.
    fn table_suffix(&self) -> &'static str {
        ""
    }

    /// What a table's name may not begin with, whatever the case of its letters.
    fn reserved_prefix(&self) -> Option<&'static str> {
        None
    }

    /// Makes the schema of a table if it is not there.
    ///
    /// # Errors
    /// `Config` if the destination has no schemas and one is named.
    fn create_schema(&mut self, table: &TableName) -> Result<()>;

    /// The policy for dates that the destination's types cannot hold. It holds for what is declared and appended from now on.
    fn set_zero_dates(&mut self, policy: ZeroDates);

    /// The same for numbers that the destination's types cannot hold, if there are any.
    fn set_out_of_range(&mut self, _policy: OutOfRange) {}

    /// How many rows a replacing load may commit at a time to its staging table, if one transaction for all would take too much memory.
    fn rows_per_part(&self) -> Option<usize> {
        None
    }

    /// How many rows a merge should gather at least for one commit, if many small ones cost much more; `None` if each batch is to have its own.
    fn rows_per_commit(&self) -> Option<usize> {
        None
    }

    /// Whether a table that changes are merged into gets its primary key declared. DuckDB is faster without an index, SQLite with one.
    fn wants_key(&self) -> bool {
        false
    }

    /// A moment as a literal of the type that `TIMESTAMP(6)` is stored in.
    fn timestamp_literal(&self, at: DateTime) -> String {
        literal(&at.text(6))
    }

    /// The value that MySQL prints as `text` as a literal of the stored type.
    ///
    /// # Errors
    /// `Unsupported` if there is no such literal.
    fn default_literal(&self, column_type: &ColumnType, text: &str) -> Result<String>;

    /// Whether a column of type `stored` holds every value of `declared` as it is.
    fn takes(&self, stored: &str, declared: &str) -> bool {
        stored == declared
    }

    /// Whether `append` puts values of `declared` into a column of type `stored`.
    fn appends(&self, stored: &str, declared: &str) -> bool {
        stored == declared
    }

    /// Whether a column of type `stored` can become one that takes `declared`, with all its values.
    fn widens(&self, _stored: &str, _declared: &str) -> bool {
        false
    }

    /// Gives a column the type that it has now at the source, which is a wider one.
    fn change_type(&mut self, name: &TableName, column: &Column) -> Result<()> {
        let declared = self.declared(column.column_type());
        self.execute(&format!("ALTER TABLE {} ALTER COLUMN {} TYPE {declared}", qualified(name), quoted(column.name()))).map(drop)
    }

    /// Is told of a table that was there before, one of whose columns is `column`, ahead of the first change to it.
    fn take_up(&mut self, _name: &TableName, _column: &str) -> Result<()> {
        Ok(())
    }

    /// Whether a table can be altered in a transaction that has changed its rows.
    fn alters_written_tables(&self) -> bool {
        true
    }

    /// Makes a table with the columns of `table`; `with_key` also declares its primary key.
    fn create(&mut self, name: &TableName, table: &Table, with_key: bool) -> Result<()> {
        let mut parts: Vec<String> =
            table.columns().iter().map(|column| format!("{} {}", quoted(column.name()), self.declared(column.column_type()))).collect();
        if with_key && !table.primary_key().is_empty() {
            let key: Vec<String> = table.primary_key().iter().map(|&index| quoted(table.columns()[index].name())).collect();
            parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
        }
        let suffix = self.table_suffix();
        self.execute(&format!("CREATE TABLE {} ({}){suffix}", qualified(name), parts.join(", "))).map(drop)
    }

    /// Adds a column; rows that are there get `default`, which is what MySQL prints for the value, or NULL.
    fn add_column(&mut self, name: &TableName, column: &Column, default: Option<&str>) -> Result<()> {
        let declared = self.declared(column.column_type());
        self.execute(&format!("ALTER TABLE {} ADD COLUMN {} {declared}", qualified(name), quoted(column.name())))?;
        if let Some(default) = default {
            let value = self.default_literal(column.column_type(), default)?;
            self.execute(&format!("UPDATE {} SET {} = {value}", qualified(name), quoted(column.name())))?;
        }
        Ok(())
    }

    fn drop_if_exists(&mut self, name: &TableName) -> Result<()> {
        // Without a table of the name, something of the destination's own may answer to it, such as `json_each` or `pg_class`, and may not be dropped.
        match self.stored_columns(name)? {
            Some(_) => self.execute(&format!("DROP TABLE {}", qualified(name))).map(drop),
            None => Ok(()),
        }
    }

    /// Renames a table within its schema.
    fn rename(&mut self, from: &TableName, to: &str) -> Result<()> {
        self.execute(&format!("ALTER TABLE {} RENAME TO {}", qualified(from), quoted(to))).map(drop)
    }
}

/// A column as the destination has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredColumn {
    pub(crate) name: String,
    pub(crate) declared_type: String,
}

/// How the columns of a stored table are compared: text by its bytes, whatever collation somebody has declared there.
#[derive(Debug, Clone, Default)]
struct Collated {
    collation: Option<&'static str>,
    /// The names of columns of text, in small letters.
    text: BTreeSet<String>,
}

impl Collated {
    fn of(destination: &mut dyn Destination, name: &TableName, stored: &[StoredColumn]) -> Result<Self> {
        let text = stored.iter().filter(|column| matches!(column.declared_type.as_str(), "TEXT" | "VARCHAR"));
        let text: BTreeSet<String> = text.map(|column| column.name.to_lowercase()).collect();
        Ok(Self { collation: if text.is_empty() { None } else { destination.byte_collation(name)? }, text })
    }

    /// What follows a column in a comparison.
    fn collation(&self, column: &str) -> &'static str {
        self.collation.filter(|_| self.text.contains(&column.to_lowercase())).unwrap_or_default()
    }

    /// A column as it stands in a comparison.
    fn column(&self, column: &str) -> String {
        format!("{}{}", quoted(column), self.collation(column))
    }
}

/// Appends a batch, and counts the values in it that are not what the source holds.
fn append_counted(destination: &mut dyn Destination, table: &TableName, batch: &Batch, changed: &mut ChangedByName) -> Result<()> {
    let columns = batch.table().columns();
    for (column, change, values) in destination.append(table, batch)?.iter() {
        changed.add(columns[column].name(), change, values);
    }
    for (column, data) in columns.iter().zip(batch.columns()) {
        if !data.replaced().is_empty() {
            changed.add(column.name(), change_of_replaced(data.values()), data.replaced().len() as u64);
        }
    }
    Ok(())
}

/// What was done to values that the source's reader replaced.
fn change_of_replaced(values: &Values) -> ValueChange {
    match values {
        Values::DateTime(_) => ValueChange::DateOutOfRangeToNull,
        _ => ValueChange::TextReplaced,
    }
}

/// An identifier as SQL takes it, whatever it holds.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string as SQL takes it.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The number of a bit column's default, which MySQL prints as `b'101'`.
fn bit_default(text: &str) -> Result<u64> {
    let digits = text.strip_prefix("b'").and_then(|rest| rest.strip_suffix('\''));
    let number = digits.and_then(|digits| u64::from_str_radix(digits, 2).ok());
    number.ok_or_else(|| Error::new(ErrorKind::Unsupported, "the default of a bit column cannot be read"))
}

/// The bytes of a binary column's default as hexadecimal digits: MySQL prints it as `0x6162`.
fn binary_default(text: &str) -> String {
    match text.strip_prefix("0x") {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => digits.to_owned(),
        _ => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// A table's name as SQL takes it.
pub(crate) fn qualified(table: &TableName) -> String {
    let parts = [table.database(), table.schema(), Some(table.name())];
    parts.into_iter().flatten().map(quoted).collect::<Vec<_>>().join(".")
}

/// Whether a row is marked as deleted. SQLite's `TRUE` is a column where the table has one of that name.
fn is_deleted() -> String {
    format!("coalesce({}, 1 = 0)", quoted(crate::change::DELETED_COLUMN))
}

/// What the names of tables that this crate makes for itself begin with.
const OWN_PREFIX: &str = "_ingest_";

/// Refuses a name that a destination, or this crate in it, keeps for itself.
fn check_name(destination: &dyn Destination, name: &TableName) -> Result<()> {
    let begins_with = |prefix: &str| name.name().get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let message = match destination.reserved_prefix().filter(|prefix| begins_with(prefix)) {
        Some(prefix) => format!("the destination keeps names that begin with `{prefix}` for itself, so no table can be called `{name}`"),
        None if begins_with(OWN_PREFIX) => {
            format!(
                "names that begin with `{OWN_PREFIX}` are those of tables that a run makes for itself, so no other can be called `{name}`"
            )
        }
        None => return Ok(()),
    };
    Err(Error::new(ErrorKind::Unsupported, format!("{message}: choose another destination table")).with_table(name))
}

/// Where the new copy of a table is built.
pub(crate) fn staging_name(table: &TableName) -> TableName {
    table.sibling(format!("_ingest_new_{}", table.name()))
}

/// Refuses a statement that stored fewer rows than it was given: a trigger or a conflict clause of somebody's may ignore them.
fn require_stored(name: &TableName, stored: u64, given: u64) -> Result<()> {
    if stored == given {
        return Ok(());
    }
    let message =
        format!("`{name}` in the destination ignores rows that are written to it: a trigger or a conflict clause of that table does so");
    Err(Error::new(ErrorKind::Sink, message).with_table(name))
}

/// Whether a statement has these words one after the other, whatever their case. What stands in strings, quoted names and comments does not count.
fn has_words(sql: &str, wanted: &[&str]) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut rest, mut found) = (sql, 0);
    while let Some(first) = rest.chars().next() {
        let behind = |end: &str, from: usize| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
        let (length, word) = match first {
            _ if first.is_whitespace() => (first.len_utf8(), Some("")),
            _ if rest.starts_with("--") => (behind("\n", 2), Some("")),
            _ if rest.starts_with("/*") => (behind("*/", 2), Some("")),
            // One that is doubled reads as two strings.
            '\'' | '"' | '`' => (behind(&first.to_string(), 1), None),
            '[' => (behind("]", 1), None),
            _ if is_word(first) => {
                let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                (length, rest.get(..length))
            }
            _ => (first.len_utf8(), None),
        };
        let is = |at: usize| wanted.get(at).zip(word).is_some_and(|(wanted, word)| word.eq_ignore_ascii_case(wanted));
        found = match word {
            Some("") => found,
            _ if is(found) => found + 1,
            _ => usize::from(is(0)),
        };
        if found == wanted.len() {
            return true;
        }
        rest = &rest[length..];
    }
    false
}

/// Makes a temporary table anew.
fn make_temporary(destination: &mut dyn Destination, name: &TableName, table: &Table) -> Result<()> {
    let declared = |column: &Column| format!("{} {}", quoted(column.name()), destination.declared_temporarily(column.column_type()));
    let columns: Vec<String> = table.columns().iter().map(declared).collect();
    // Without what follows the columns SQLite would take `ANY` for a kind of number, and round those that it holds as text.
    let suffix = destination.table_suffix();
    destination.execute(&format!("DROP TABLE IF EXISTS {}", qualified(name)))?;
    destination.execute(&format!("CREATE TEMP TABLE {} ({}){suffix}", qualified(name), columns.join(", "))).map(drop)
}

fn count(destination: &mut dyn Destination, sql: &str) -> Result<u64> {
    let cell = destination.query_text(sql)?.into_iter().flatten().next().flatten();
    cell.and_then(|cell| cell.parse().ok()).ok_or_else(|| Error::new(ErrorKind::Sink, "a count is not a number"))
}

/// Opens a transaction. One that opened and was reported as failed would be in the way of the next.
fn begin(destination: &mut dyn Destination) -> Result<()> {
    let result = destination.begin();
    if result.is_err()
        && let Err(error) = destination.rollback()
    {
        log::warn!("a transaction that could not be begun could not be rolled back: {error:#}");
    }
    result
}

/// A database that rows are written to: a DuckDB or SQLite file, or a database of MySQL, Vitess or PlanetScale.
///
/// While a file is open, no other `Sink` can be opened on the same file, in this process or another: a lock on a file beside it, as in
/// `shop.db-ingest`, sees to that. Whoever only reads the database is not concerned. The lock ends with the process, whatever ends that.
pub struct Sink {
    store: Box<dyn Store>,
}

impl Sink {
    /// Opens what a URI names: `duckdb:///path.duckdb` or `sqlite:///path.db`, whose file is made if it is not there, or
    /// `mysql://user:password@host:port/database`, which is there.
    ///
    /// # Errors
    /// `Config` for the URI itself; `Unsupported` if the crate was built without this kind of destination; `Conflict` if another run has the file
    /// open; `Sink` if it cannot be opened for writing, with the reason: no such folder, locked by another process, read-only, not a database.
    pub fn open(uri: &str) -> Result<Self> {
        Self::open_with(&SinkOptions::from_uri(uri)?)
    }

    /// Opens a destination as the options say.
    ///
    /// # Errors
    /// As [`Sink::open`].
    pub fn open_with(options: &SinkOptions) -> Result<Self> {
        options.check()?;
        Ok(Self {
            store: match options {
                SinkOptions::MySql(options) => Box::new(mysql::MySql::open(options)?),
                _ => Box::new(file::File::open(options)?),
            },
        })
    }

    /// Whether what is written goes to that file.
    pub(crate) fn is_file(&self, path: &Path) -> bool {
        let same = |own: &Path| Some(std::fs::canonicalize(own).ok()? == std::fs::canonicalize(path).ok()?);
        self.store.path().and_then(same).unwrap_or(false)
    }

    /// What becomes of dates that no calendar has. Default: [`ZeroDates::Null`].
    pub fn set_zero_dates(&mut self, policy: ZeroDates) {
        self.store.set_zero_dates(policy);
    }

    /// What becomes of numbers that SQLite's do not hold. Default: [`OutOfRange::Mixed`].
    pub fn set_out_of_range(&mut self, policy: OutOfRange) {
        self.store.set_out_of_range(policy);
    }

    /// Refuses a name that the destination, or a run in it, keeps for itself.
    pub(crate) fn check_name(&self, name: &TableName) -> Result<()> {
        self.store.check_name(name)
    }

    /// Refuses to move a table into itself.
    pub(crate) fn check_not_source(&mut self, name: &TableName, table: &str, source: &SourceOptions) -> Result<()> {
        if !self.store.is_source(name, table, source)? {
            return Ok(());
        }
        let message = format!("table `{table}` would be its own destination: choose another destination table, or another database");
        Err(Error::config(message).with_table(table))
    }

    /// The greatest stored value of a column of the source.
    pub(crate) fn highest(&mut self, name: &TableName, column: &Column) -> Result<Highest> {
        self.store.highest(name, column)
    }

    /// Passes on the rows of a stored table, in no order and in the source's types.
    pub(crate) fn read(&mut self, name: &TableName, table: &Arc<Table>, take: &mut dyn FnMut(Batch) -> Result<()>) -> Result<()> {
        self.store.read(name, table, take)
    }

    /// Rows of the source as they are once they are stored.
    pub(crate) fn as_stored(&mut self, name: &TableName, batch: Batch) -> Result<Batch> {
        self.store.as_stored(name, batch)
    }

    /// Begins to bring rows into a table as a plan says.
    pub(crate) fn load(&mut self, name: &TableName, table: &Arc<Table>, plan: &LoadPlan) -> Result<Load<'_>> {
        self.check_name(name)?;
        plan.check(table)?;
        let loading = self.store.load(name, table, plan)?;
        Ok(Load { loading, target: name.clone(), is_poisoned: false })
    }

    /// Begins to replace a table: rows go into a new table beside it, which takes its place when the load is committed. Columns, keys,
    /// indexes and grants of the old one go with it.
    ///
    /// # Errors
    /// `Unsupported` for a name that the destination, or a run in it, keeps for itself; `Sink` if the destination cannot write.
    pub fn replace(&mut self, name: &TableName, table: &Arc<Table>) -> Result<Load<'_>> {
        self.load(name, table, &LoadPlan::of(Strategy::Replace))
    }

    /// Begins to add rows to a table, which is made if it is not there. They become visible when the load is committed.
    ///
    /// # Errors
    /// `Conflict` if the table lacks a column or has one of another type: nothing was written. `Unsupported` for a name that the destination, or a run
    /// in it, keeps for itself. `Sink` if the destination cannot write.
    pub fn append(&mut self, name: &TableName, table: &Arc<Table>) -> Result<Load<'_>> {
        self.load(name, table, &LoadPlan::of(Strategy::Append))
    }

    /// How far a table has been captured; `None` if it has to be copied first.
    ///
    /// # Errors
    /// `Position` if the stored position cannot be read or there are rows without one; `Conflict` if the rows are of another source table, or if
    /// somebody else has emptied or changed the table since its position was stored.
    pub fn position(&mut self, name: &TableName, source_table: &str) -> Result<Option<checkpoint::StoredPosition>> {
        self.resume(name, source_table).map(|(position, _)| position)
    }

    /// The same, with what a reader of the report should know of it.
    pub(crate) fn resume(&mut self, name: &TableName, source_table: &str) -> Result<(Option<checkpoint::StoredPosition>, Option<String>)> {
        self.store.resume(name, source_table)
    }

    /// Begins to write changes.
    ///
    /// # Errors
    /// `Sink` if the destination cannot write.
    pub fn merge(&mut self, deletes: Deletes) -> Result<Merge<'_>> {
        Ok(Merge { merging: self.store.merge(deletes)?, is_poisoned: false })
    }

    #[cfg(test)]
    fn destination_for_tests(&mut self) -> &mut dyn Destination {
        self.store.destination_for_tests()
    }

    #[cfg(test)]
    fn stored_in(&self) -> &dyn Destination {
        self.store.stored_in()
    }
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}

/// What a load made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Written {
    /// Rows stored: those that are new, and those that took the place of others.
    pub rows: u64,
    /// Rows that are new: not there before, or after all that were there had been deleted.
    pub inserted: u64,
    /// Rows that were there before by their key, and have the values of those that came.
    pub updated: u64,
    /// Rows that were deleted before the new ones came.
    pub deleted: u64,
    /// Memory that their values took on the way, in bytes.
    pub bytes: u64,
}

/// Rows on their way into one table.
///
/// Nothing is durable before [`Load::commit`]. After an error every call fails, and dropping the load undoes it.
#[must_use = "a load that is dropped is undone; `commit` makes its rows durable"]
pub struct Load<'a> {
    loading: Box<dyn Loading + 'a>,
    target: TableName,
    is_poisoned: bool,
}

impl Load<'_> {
    /// Takes rows of the table that the load was begun with.
    ///
    /// # Errors
    /// `Sink` if the destination cannot write or a value does not fit; `Config` if the rows are another table's.
    pub fn write(&mut self, batch: &Batch) -> Result<()> {
        self.require_sound()?;
        let result = self.loading.write(batch);
        self.is_poisoned = result.is_err();
        result.map_err(|error| error.with_table(&self.target))
    }

    /// Makes the rows durable and visible, all at once.
    ///
    /// # Errors
    /// `Sink` if the destination cannot write; the table is then as it was.
    pub fn commit(self) -> Result<Written> {
        self.require_sound()?;
        self.loading.commit().map_err(|error| error.with_table(&self.target))
    }

    /// Ends the load without a commit, and tells what is left of it where that could not be undone.
    pub(crate) fn abandon(self) -> Left {
        self.loading.abandon()
    }

    fn require_sound(&self) -> Result<()> {
        match self.is_poisoned {
            true => Err(Error::new(ErrorKind::Sink, format!("the load of `{}` failed before", self.target)).with_table(&self.target)),
            false => Ok(()),
        }
    }

    /// The values so far that a policy has changed.
    pub fn changed_values(&self) -> Vec<ChangedValues> {
        self.loading.changed_values()
    }
}

impl std::fmt::Debug for Load<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Load").finish_non_exhaustive()
    }
}

/// Writes change batches. Each complete batch is one transaction, with the positions that it reaches.
///
/// Dropped in the middle of a transaction that comes in pieces, it undoes the pieces. After an error it refuses everything.
#[must_use = "changes are written by `write`"]
pub struct Merge<'a> {
    merging: Box<dyn Merging + 'a>,
    is_poisoned: bool,
}

impl Merge<'_> {
    /// Says where the changes of a table go. The table is made if it is not there.
    ///
    /// With `rebuild`, the rows go into a new table beside it, which takes its place in [`Merge::finish_rebuild`].
    ///
    /// # Errors
    /// `Conflict` if the stored table lacks a column or has one of another type, or if another run has written to it since its position was
    /// read; `Schema` if the table has no primary key or a column of ours; `Unsupported` for a name that the destination, or a run in it, keeps for
    /// itself.
    pub fn add_table(&mut self, table: &Table, name: &TableName, rebuild: bool) -> Result<()> {
        self.merging.add_table(table, name, rebuild)
    }

    /// Writes a batch. If it is complete, it is durable when this returns, together with the positions that it reaches.
    ///
    /// # Errors
    /// `Sink` if the destination cannot write or a value does not fit; `SchemaChange` if a column cannot become what it is now at the source;
    /// `Conflict` if somebody else has written to the destination since the last batch. Nothing of the batch is stored then, nor of the
    /// pieces before it.
    pub fn write(&mut self, batch: &ChangeBatch) -> Result<()> {
        self.attempt(|merging| merging.write(batch))
    }

    /// Writes a batch, but may leave it to a later call to make it durable, with others: few large commits cost much less than many small ones.
    /// Whether it and all before it are durable.
    ///
    /// # Errors
    /// As [`Merge::write`]; of what is not durable yet nothing is stored then.
    pub(crate) fn hold(&mut self, batch: &ChangeBatch) -> Result<bool> {
        self.attempt(|merging| merging.hold(batch))
    }

    /// Since when there are batches that are not durable yet and could be made so.
    pub(crate) fn held_since(&self) -> Option<Instant> {
        self.merging.held_since()
    }

    /// Whether there are any.
    pub(crate) fn is_holding(&self) -> bool {
        self.held_since().is_some()
    }

    /// Makes everything durable that [`Merge::hold`] left.
    ///
    /// # Errors
    /// `Sink` if the destination cannot write; nothing of it is stored then.
    pub(crate) fn release(&mut self) -> Result<()> {
        if self.is_holding() { self.attempt(|merging| merging.release()) } else { Ok(()) }
    }

    /// Values of a table that policies have changed, as far as they are durable.
    pub fn changed_values(&self, source_table: &str) -> Vec<ChangedValues> {
        self.merging.changed_values(source_table)
    }

    /// Puts tables that were built anew in the place of the old ones, all in one transaction with their checkpoints.
    ///
    /// # Errors
    /// `Sink` if the destination cannot write, and `Conflict` if somebody else has written to the new tables; the old tables are then as they
    /// were.
    pub fn finish_rebuild(&mut self) -> Result<()> {
        if !self.merging.is_rebuilding() {
            return Ok(());
        }
        if self.is_poisoned || self.merging.is_writing() {
            return Err(Error::new(ErrorKind::Sink, "writing changes failed before, so tables that were built anew are not complete"));
        }
        self.merging.finish_rebuild()
    }

    /// Performs a step. A failure undoes what is not durable and poisons the merge.
    fn attempt<T>(&mut self, step: impl FnOnce(&mut dyn Merging) -> Result<T>) -> Result<T> {
        if self.is_poisoned {
            return Err(Error::new(ErrorKind::Sink, "writing changes failed before"));
        }
        let result = step(&mut *self.merging);
        if result.is_err() {
            self.is_poisoned = true;
            self.merging.undo();
        }
        result
    }

    #[cfg(test)]
    fn destination_for_tests(&mut self) -> &mut dyn Destination {
        self.merging.destination_for_tests()
    }
}

impl std::fmt::Debug for Merge<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Merge").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_statement_are_found_outside_of_strings_names_and_comments() {
        let wanted = ["on", "conflict", "replace"];
        for sql in ["a INT ON conflict Replace)", "on on conflict\n/* or not */ -- at all\nreplace", "'it''s' on conflict replace,"] {
            assert!(has_words(sql, &wanted), "{sql}");
        }
        for sql in
            ["'on conflict replace'", "\"on conflict replace\"", "[on conflict replace] `on conflict replace`", "-- on conflict replace"]
        {
            assert!(!has_words(sql, &wanted), "{sql}");
        }
        for sql in [
            "on conflict, replace",
            "on conflict ignore replace",
            "conflict replace",
            "/* on conflict replace",
            "on conflict_ replace",
            "'",
        ] {
            assert!(!has_words(sql, &wanted), "{sql}");
        }
    }

    #[test]
    fn identifiers_and_strings_are_quoted_whatever_they_hold() {
        assert_eq!(quoted(r#"a"b"#), r#""a""b""#);
        assert_eq!(literal("it's"), "'it''s'");
        let name = TableName::new("t.u").in_schema("s");
        assert_eq!(qualified(&name), r#""s"."t.u""#);
        assert_eq!(qualified(&name.in_database(Some("d")).sibling("v")), r#""d"."s"."v""#);
    }
}
