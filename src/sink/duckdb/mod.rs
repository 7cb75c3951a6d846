//! DuckDB.

mod write;

use std::path::Path;
use std::sync::Arc;

use super::stored::{Gather, Stored};
use super::{Destination, StoredColumn, binary_default, bit_default, has_words, literal, qualified, quoted};
use crate::batch::Batch;
use crate::libduckdb::append::Appender;
use crate::libduckdb::{Connection, Failure, FailureKind};
use crate::options::{DuckDbOptions, EnumType, TimeType};
use crate::policy::{Changed, ZeroDates};
use crate::schema::{Column, ColumnType, Table, TableName};
use crate::value::DateTime;
use crate::{Error, ErrorKind, Result};

/// DuckDB's own memory, if the options set none. It would otherwise take four fifths of the machine's.
const MEMORY_LIMIT: u64 = 160 << 20;

/// What a transaction takes of it for each table that it writes to (measured: 370 KB), and what is left for all else.
const MEMORY_PER_TABLE: u64 = 384 << 10;
const MEMORY_BESIDE_TABLES: u64 = 112 << 20;

/// DuckDB stores rows in groups of this many.
const ROW_GROUP: usize = 122_880;

/// How many commits there are between two looks at what deleted rows take.
const COMMITS_BETWEEN_LOOKS: u32 = 1_000;

/// Rows that a statement looks at before more threads than one do it.
const ROWS_FOR_THREADS: u64 = 8 * ROW_GROUP as u64;

/// A DuckDB database.
pub(super) struct DuckDb {
    appender: Option<Open>,
    connection: Connection,
    /// The file, as the user named it.
    path: String,
    /// What DuckDB calls the database, and the schema of tables that are named without one.
    database: String,
    schema: String,
    has_json: bool,
    forms: Forms,
    enum_type: EnumType,
    /// For statements that look at many rows.
    threads: usize,
    /// DuckDB's own memory, where it is ours to choose.
    memory: Option<u64>,
    /// Since the last look at what deleted rows take.
    commits: u32,
}

/// The types of values for which there is a choice, as far as it concerns how they are written.
#[derive(Debug, Clone, Copy)]
struct Forms {
    zero_dates: ZeroDates,
    time_type: TimeType,
}

/// The table that was appended to last.
struct Open {
    table: TableName,
    columns: Vec<String>,
    appender: Appender,
}

impl DuckDb {
    /// Opens the file at `path`, which is where the options' path leads.
    pub(super) fn open(options: &DuckDbOptions, path: &Path) -> Result<Self> {
        let shown = options.path().display();
        let name = path.to_str().ok_or_else(|| Error::config(format!("the path of the DuckDB file is not UTF-8: `{shown}`")))?;
        let settings = [
            ("memory_limit", format!("{}B", options.memory_limit_bytes().unwrap_or(MEMORY_LIMIT))),
            // Nothing is fetched from the network on somebody's behalf.
            ("autoinstall_known_extensions", "false".to_owned()),
            ("autoload_known_extensions", "false".to_owned()),
            // With DuckDB's own 16 MB each few batches of a copy would be followed by a checkpoint that compresses the last group of rows once
            // more. Measured with 300,000 rows: a third less CPU time, and a file smaller by a third.
            ("checkpoint_threshold", "256MiB".to_owned()),
            // See `tidy`.
            ("max_vacuum_tasks", "0".to_owned()),
            // Rows are compressed by the thread that appends them in any case. With more threads the one that commits hands that to another and
            // waits for it in a loop: measured with 1,000,000 rows, a third more CPU time for nothing.
            ("threads", "1".to_owned()),
        ];
        let refused = |failure: Failure| {
            let reason = match failure.message.as_str() {
                text if is_full(text) => ": the disk is full",
                text if is_too_large(text) => ": a limit on the size of files was reached",
                text if text.contains("Conflicting lock") || text.contains("being used by another process") => {
                    ": another process holds it open"
                }
                text if text.contains("Permission denied") || text.contains("ead-only") => ": it may not be written to",
                // DuckDB knows SQLite's files, and would write to them by an extension.
                text if text.contains("not a valid DuckDB database") || text.contains("sqlite_scanner") => ": it is not a DuckDB database",
                text if text.contains("Could not read enough bytes") => ": it is cut short",
                _ => "",
            };
            Error::new(ErrorKind::Sink, format!("the DuckDB file `{shown}` cannot be opened{reason}")).with_cause(failure.message)
        };
        if name != ":memory:" && !path.exists() {
            make_file(path, &settings).map_err(refused)?;
        }
        let connection = Connection::open(name, &settings).map_err(refused)?;
        let about = "SELECT current_database(), current_schema(), \
                     (SELECT count(*) FROM duckdb_extensions() WHERE extension_name = 'json' AND loaded), \
                     (SELECT type FROM duckdb_databases() WHERE database_name = current_database())";
        let about = connection.query_text(about).map_err(|failure| failed(&shown.to_string(), failure, "the file cannot be read"))?;
        let mut cells = about.into_iter().flatten().map(Option::unwrap_or_default);
        let mut next = || cells.next().unwrap_or_default();
        let (database, schema, has_json, kind) = (next(), next(), next() == "1", next());
        if kind != "duckdb" {
            let message = format!("the DuckDB file `{shown}` cannot be opened: it is not a DuckDB database, but one of {kind}");
            return Err(Error::new(ErrorKind::Sink, message));
        }
        let threads = options.threads().map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
        let forms = Forms { zero_dates: ZeroDates::default(), time_type: options.time_type() };
        let enum_type = options.enum_type();
        let memory = options.memory_limit_bytes().is_none().then_some(MEMORY_LIMIT);
        Ok(Self {
            appender: None,
            connection,
            path: shown.to_string(),
            database,
            schema,
            has_json,
            forms,
            enum_type,
            threads,
            memory,
            commits: 0,
        })
    }

    /// Makes sure that statements see what was appended.
    fn flush(&mut self) -> Result<()> {
        match &mut self.appender {
            Some(open) => open.appender.flush().map_err(|failure| failed(&self.path, failure, "rows cannot be written")),
            None => Ok(()),
        }
    }

    /// A default as a string that DuckDB reads as the column's type. With an expression in its place, even a cast, DuckDB 1.5 fails to commit when
    /// the table is altered once more and then written to.
    fn default_text(&self, column_type: &ColumnType, text: &str) -> Result<String> {
        Ok(match column_type {
            ColumnType::Bit { width } => {
                let width = usize::from(*width);
                format!("'{:0width$b}'", bit_default(text)?)
            }
            ColumnType::Binary { .. } => {
                let digits = binary_default(text);
                let bytes: Vec<String> = digits.as_bytes().chunks(2).map(|byte| format!("\\x{}", String::from_utf8_lossy(byte))).collect();
                literal(&bytes.concat())
            }
            ColumnType::Timestamp { .. } if self.declared(column_type) != "VARCHAR" => literal(&format!("{text}+00")),
            _ => literal(text),
        })
    }

    /// Lets the next checkpoints bring the rows of several groups together, if deleted ones take a quarter of a large table.
    ///
    /// By itself DuckDB does that whenever three groups fit into two or so: measured with 100,000 rows in the place of others all over a table of
    /// 1,000,000, a checkpoint of 3.5 s instead of 0.3 s, in each run. A group of which no row is left goes in any case.
    fn tidy(&mut self) {
        self.commits = 0;
        let waste = || -> Result<bool, Failure> {
            // Its estimate counts deleted rows.
            let sql = format!(
                "SELECT schema_name, table_name, estimated_size FROM duckdb_tables() \
                 WHERE database_name = current_database() AND NOT temporary AND estimated_size > {}",
                2 * ROW_GROUP
            );
            for row in self.connection.query_text(&sql)? {
                let [Some(schema), Some(table), Some(stored)] = row.as_slice() else { continue };
                let sql = format!("SELECT count(*) FROM {}.{}.{}", quoted(&self.database), quoted(schema), quoted(table));
                let live = self.connection.query_text(&sql)?.into_iter().flatten().flatten().next();
                let [stored, live] =
                    [Some(stored), live.as_ref()].map(|count| count.and_then(|count| count.parse::<u64>().ok()).unwrap_or(0));
                if stored.saturating_sub(live) > stored / 4 {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        let tasks = waste().map(|is_much| if is_much { 100 } else { 0 });
        // What it takes is all that is at stake.
        if let Err(failure) = tasks.and_then(|tasks| self.connection.execute(&format!("SET max_vacuum_tasks = {tasks}"))) {
            log::debug!("`{}`: what deleted rows take cannot be told: {}", self.path, failure.message);
        }
    }

    fn run(&mut self, sql: &str, attempted: &str) -> Result<u64> {
        self.connection.execute(sql).map_err(|failure| failed(&self.path, failure, attempted))
    }
}

impl Drop for DuckDb {
    fn drop(&mut self) {
        // A checkpoint follows.
        if self.commits > 0 {
            self.appender = None;
            self.tidy();
        }
    }
}

fn failed(path: &str, failure: Failure, attempted: &str) -> Error {
    duckdb_error(failure, &format!("`{path}`: {attempted}"))
}

impl Destination for DuckDb {
    fn begin(&mut self) -> Result<()> {
        self.run("BEGIN TRANSACTION", "no transaction can be begun").map(drop)
    }

    fn commit(&mut self) -> Result<()> {
        self.flush()?;
        // It knows the table as it was in this transaction.
        self.appender = None;
        self.run("COMMIT", "the transaction cannot be committed")?;
        self.commits += 1;
        if self.commits >= COMMITS_BETWEEN_LOOKS {
            self.tidy();
        }
        Ok(())
    }

    fn rollback(&mut self) -> Result<()> {
        if let Some(open) = self.appender.take() {
            open.appender.discard();
        }
        match self.connection.execute("ROLLBACK") {
            Ok(_) => Ok(()),
            // A commit that failed has ended the transaction.
            Err(failure) if failure.message.contains("no transaction is active") => Ok(()),
            Err(failure) => Err(failed(&self.path, failure, "the transaction cannot be rolled back")),
        }
    }

    fn execute(&mut self, sql: &str) -> Result<u64> {
        self.flush()?;
        // The statement may change the table that the appender knows.
        self.appender = None;
        self.run(sql, "a statement failed")
    }

    fn execute_over(&mut self, rows: u64, sql: &str) -> Result<u64> {
        // A thread takes a group of rows at a time; for a few of them none is worth being started.
        if self.threads == 1 || rows < ROWS_FOR_THREADS {
            return self.execute(sql);
        }
        self.run(&format!("SET threads = {}", self.threads), "threads cannot be started")?;
        // After a failure nothing more is written, and the transaction refuses other statements.
        let changed = self.execute(sql)?;
        self.run("SET threads = 1", "threads cannot be ended").map(|_| changed)
    }

    fn expect_tables(&mut self, tables: usize) -> Result<()> {
        let wanted = MEMORY_BESIDE_TABLES.saturating_add(MEMORY_PER_TABLE.saturating_mul(tables as u64));
        if self.memory.is_some_and(|memory| memory < wanted) {
            // Not for each table once more.
            let wanted = wanted.next_multiple_of(16 << 20);
            self.run(&format!("SET memory_limit = '{wanted}B'"), "the limit of memory cannot be set")?;
            self.memory = Some(wanted);
        }
        Ok(())
    }

    fn query_text(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.flush()?;
        self.connection.query_text(sql).map_err(|failure| failed(&self.path, failure, "a query failed"))
    }

    fn append(&mut self, table: &TableName, batch: &Batch) -> Result<Changed> {
        let columns = batch.table().columns();
        let same = |open: &Open| open.table == *table && open.columns.iter().eq(columns.iter().map(|column| column.name()));
        if !self.appender.as_ref().is_some_and(same) {
            self.flush()?;
            let names: Vec<&str> = columns.iter().map(|column| column.name()).collect();
            let appender = self
                .connection
                .appender(table.database(), table.schema(), table.name(), &names)
                .map_err(|failure| failed(&self.path, failure, "rows cannot be written"))?;
            let columns = names.into_iter().map(str::to_owned).collect();
            self.appender = Some(Open { table: table.clone(), columns, appender });
        }
        let Some(open) = &mut self.appender else { return Ok(Changed::default()) };
        let changed = write::batch(&mut open.appender, batch, self.forms)?;
        self.flush()?;
        Ok(changed)
    }

    fn located(&self, name: &TableName) -> TableName {
        // A schema may be called like the database, and DuckDB takes a name before a table's for either.
        name.clone().in_database(name.schema().map(|_| self.database.as_str()))
    }

    fn stored_columns(&mut self, table: &TableName) -> Result<Option<Vec<StoredColumn>>> {
        self.flush()?;
        // With the database's name, since DuckDB has views of its own that go by a name alone. Looking a table up among all columns of the
        // database would take ten times as long.
        let schema = table.schema().unwrap_or(&self.schema);
        let sql = format!("DESCRIBE {}.{}.{}", quoted(&self.database), quoted(schema), quoted(table.name()));
        match self.connection.query_text(&sql) {
            Ok(rows) => Ok(Some(rows.into_iter().map(stored_column).collect())),
            Err(failure) if failure.kind == FailureKind::Missing => Ok(None),
            Err(failure) => Err(failed(&self.path, failure, "a table's columns cannot be read").with_table(table)),
        }
    }

    fn byte_collation(&mut self, name: &TableName) -> Result<Option<&'static str>> {
        let sql = format!(
            "SELECT sql FROM duckdb_tables() WHERE database_name = {} AND lower(schema_name) = lower({}) AND lower(table_name) = lower({})",
            literal(&self.database),
            literal(name.schema().unwrap_or(&self.schema)),
            literal(name.name())
        );
        let declared = self.query_text(&sql)?.into_iter().flatten().flatten();
        // In quotes, as `binary` is a word of the grammar.
        Ok(declared.into_iter().any(|sql| has_words(&sql, &["collate"])).then_some(" COLLATE \"binary\""))
    }

    fn read(
        &mut self,
        name: &TableName,
        table: &Arc<Table>,
        stored: &[StoredColumn],
        rest: &str,
        take: &mut dyn FnMut(Batch) -> Result<()>,
    ) -> Result<()> {
        self.flush()?;
        let (selected, forms): (Vec<String>, Vec<Form>) = stored.iter().map(selected).unzip();
        let sql = format!("SELECT {} FROM {} {rest}", selected.join(", "), qualified(name));
        let mut gather = Gather::new(table, take);
        let path = &self.path;
        let failed = |failure| failed(path, failure, "rows cannot be read");
        self.connection
            .rows(&sql, stored.len(), |row| {
                gather
                    .row(|column| match (row[column], forms[column]) {
                        (None, _) => Ok(Stored::Null),
                        (Some(digits), Form::Number) => {
                            let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
                            number
                                .map(Stored::Int)
                                .ok_or_else(|| Error::new(ErrorKind::Sink, "a number that DuckDB printed cannot be read"))
                        }
                        (Some(text), Form::Text) => Ok(Stored::Text(text)),
                        (Some(digits), Form::Bits) => Ok(Stored::Bits(digits)),
                        (Some(bytes), Form::Bytes) => Ok(Stored::Bytes(bytes)),
                    })
                    .map_err(Broken::Row)
            })
            .map_err(|broken| match broken {
                Broken::DuckDb(failure) => failed(failure),
                Broken::Row(error) => error,
            })?;
        gather.finish()
    }

    fn declared(&self, column_type: &ColumnType) -> String {
        let as_text = self.forms.zero_dates == ZeroDates::Text;
        match column_type {
            ColumnType::Boolean => "BOOLEAN",
            ColumnType::Int { bits: 8, unsigned: false } => "TINYINT",
            ColumnType::Int { bits: 8, unsigned: true } => "UTINYINT",
            ColumnType::Int { bits: 16, unsigned: false } | ColumnType::Year => "SMALLINT",
            ColumnType::Int { bits: 16, unsigned: true } => "USMALLINT",
            ColumnType::Int { bits: 24 | 32, unsigned: false } => "INTEGER",
            ColumnType::Int { bits: 24 | 32, unsigned: true } => "UINTEGER",
            ColumnType::Int { unsigned: false, .. } => "BIGINT",
            ColumnType::Int { unsigned: true, .. } => "UBIGINT",
            ColumnType::Decimal { precision, scale } if *precision <= 38 => return format!("DECIMAL({precision},{scale})"),
            ColumnType::Float => "FLOAT",
            ColumnType::Double => "DOUBLE",
            ColumnType::Bit { .. } => "BIT",
            ColumnType::Date if !as_text => "DATE",
            ColumnType::DateTime { .. } if !as_text => "TIMESTAMP",
            ColumnType::Timestamp { .. } if !as_text => "TIMESTAMP WITH TIME ZONE",
            ColumnType::Time { .. } if self.forms.time_type == TimeType::Interval => "INTERVAL",
            ColumnType::Enum { members } if self.enum_type == EnumType::Enum => {
                return enum_of(members).unwrap_or_else(|| "VARCHAR".into());
            }
            ColumnType::Binary { .. } | ColumnType::Geometry | ColumnType::Vector => "BLOB",
            ColumnType::Json if self.has_json => "JSON",
            ColumnType::Decimal { .. }
            | ColumnType::Date
            | ColumnType::DateTime { .. }
            | ColumnType::Timestamp { .. }
            | ColumnType::Time { .. }
            | ColumnType::Text { .. }
            | ColumnType::Enum { .. }
            | ColumnType::Set { .. }
            | ColumnType::Json => "VARCHAR",
        }
        .to_owned()
    }

    fn timestamp_literal(&self, at: DateTime) -> String {
        let text = literal(&at.text(6));
        if self.forms.zero_dates == ZeroDates::Text {
            text
        } else {
            format!("CAST({} AS TIMESTAMP WITH TIME ZONE)", literal(&format!("{}+00", at.text(6))))
        }
    }

    fn default_literal(&self, column_type: &ColumnType, text: &str) -> Result<String> {
        Ok(format!("CAST({} AS {})", self.default_text(column_type, text)?, self.declared(column_type)))
    }

    fn add_column(&mut self, name: &TableName, column: &Column, default: Option<&str>) -> Result<()> {
        // As the column's default the value costs next to nothing, however many rows there are. Later rows bring their own: one that has no such
        // column any more has NULL in it.
        let declared = self.declared(column.column_type());
        let (table, quoted) = (qualified(name), quoted(column.name()));
        let Some(default) = default else {
            return self.execute(&format!("ALTER TABLE {table} ADD COLUMN {quoted} {declared}")).map(drop);
        };
        let value = self.default_text(column.column_type(), default)?;
        self.execute(&format!("ALTER TABLE {table} ADD COLUMN {quoted} {declared} DEFAULT {value}"))?;
        self.execute(&format!("ALTER TABLE {table} ALTER COLUMN {quoted} DROP DEFAULT")).map(drop)
    }

    fn declared_temporarily(&self, column_type: &ColumnType) -> String {
        match column_type {
            // A change may be older than the members, and what it holds still be one of those that are stored.
            ColumnType::Enum { .. } => "VARCHAR".to_owned(),
            _ => self.declared(column_type),
        }
    }

    fn takes(&self, stored: &str, declared: &str) -> bool {
        match (members_of(stored), members_of(declared)) {
            // More members than that do no harm, but another order would.
            (Some(stored), Some(declared)) => is_subsequence(&declared, &stored),
            _ => stored == declared || widens(declared, stored),
        }
    }

    fn appends(&self, stored: &str, declared: &str) -> bool {
        let is_enum = members_of(declared).is_some();
        stored == declared || is_enum && (stored == "VARCHAR" || members_of(stored).is_some())
    }

    fn change_type(&mut self, name: &TableName, column: &Column) -> Result<()> {
        let mut declared = self.declared(column.column_type());
        if let Some(mut members) = members_of(&declared) {
            let stored = self.stored_columns(name)?.unwrap_or_default();
            let stored = stored.iter().find(|stored| stored.name.to_lowercase() == column.name().to_lowercase());
            let stored = stored.and_then(|stored| members_of(&stored.declared_type)).unwrap_or_default();
            // For the rows that still have them.
            let gone: Vec<String> = stored.into_iter().filter(|member| !members.contains(member)).collect();
            members.extend(gone);
            declared = enum_type(&members);
        }
        self.execute(&format!("ALTER TABLE {} ALTER COLUMN {} TYPE {declared}", qualified(name), quoted(column.name()))).map(drop)
    }

    fn widens(&self, stored: &str, declared: &str) -> bool {
        widens(stored, declared)
    }

    fn take_up(&mut self, name: &TableName, column: &str) -> Result<()> {
        // DuckDB 1.5 loads a unique index at the first INSERT, and has forgotten by then which rows the transaction deleted: it takes those that
        // replace them for duplicates.
        let (table, column) = (qualified(name), quoted(column));
        self.execute(&format!("INSERT INTO {table} ({column}) SELECT {column} FROM {table} WHERE 1 = 0")).map(drop)
    }

    fn alters_written_tables(&self) -> bool {
        // DuckDB 1.5 alters it, and then fails to commit: `another transaction has altered this table`.
        false
    }

    fn create_schema(&mut self, table: &TableName) -> Result<()> {
        match table.schema() {
            Some(schema) => {
                let (database, schema) = (quoted(&self.database), quoted(schema));
                self.execute(&format!("CREATE SCHEMA IF NOT EXISTS {database}.{schema}")).map(drop)
            }
            None => Ok(()),
        }
    }

    fn set_zero_dates(&mut self, policy: ZeroDates) {
        self.forms.zero_dates = policy;
    }

    fn rows_per_part(&self) -> Option<usize> {
        Some(4 * ROW_GROUP)
    }

    fn rows_per_commit(&self) -> Option<usize> {
        // A whole group is compressed into its place by the thread that appends. Of smaller parts the rows go into the log first, and from there into
        // the file at the end, when nothing else is left to do; and then groups that are not full are put together, which compresses them again.
        self.rows_per_part()
    }
}

/// Why reading ended early.
enum Broken {
    DuckDb(Failure),
    Row(Error),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::DuckDb(failure)
    }
}

/// In which form a column's values are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The digits of a whole number.
    Number,
    Text,
    Bits,
    Bytes,
}

/// The expression for a stored column that has strings or bytes in place of its values, all of which it tells apart.
fn selected(column: &StoredColumn) -> (String, Form) {
    let name = quoted(&column.name);
    match column.declared_type.as_str() {
        "VARCHAR" => (name, Form::Text),
        "BLOB" => (name, Form::Bytes),
        "BIT" => (format!("CAST({name} AS VARCHAR)"), Form::Bits),
        // As numbers, since DuckDB prints years before 1 in a form of its own, and moments in the session's time zone.
        "DATE" => (format!("CAST({name} - DATE '1970-01-01' AS VARCHAR)"), Form::Number),
        "TIMESTAMP" | "TIMESTAMP WITH TIME ZONE" | "INTERVAL" => (format!("CAST(epoch_us({name}) AS VARCHAR)"), Form::Number),
        "BOOLEAN" => (format!("CAST(CAST({name} AS TINYINT) AS VARCHAR)"), Form::Number),
        _ => (format!("CAST({name} AS VARCHAR)"), Form::Text),
    }
}

/// A row of `DESCRIBE`.
fn stored_column(row: Vec<Option<String>>) -> StoredColumn {
    let mut cells = row.into_iter().map(Option::unwrap_or_default);
    StoredColumn { name: cells.next().unwrap_or_default(), declared_type: cells.next().unwrap_or_default() }
}

/// Makes a database that is not there. DuckDB does so in several steps, and after a crash or on a full disk leaves a file that it refuses to open
/// from then on; so the file is made elsewhere and put in place whole.
fn make_file(path: &Path, settings: &[(&str, String)]) -> Result<(), Failure> {
    let beside = |suffix: &str| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(suffix);
        path.with_file_name(name)
    };
    let new = beside("-ingest-new");
    let failed = |cause: std::io::Error| Failure { kind: FailureKind::File, message: cause.to_string() };
    let remove = |path: &Path| match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => Err(failed(cause)),
        _ => Ok(()),
    };
    // What a run left that ended in here.
    remove(&new)?;
    let name = new.to_str().ok_or_else(|| Failure { kind: FailureKind::File, message: "its path is not UTF-8".to_owned() })?;
    let made = Connection::open(name, settings).and_then(|connection| {
        drop(connection);
        // DuckDB's log of a database that somebody has removed: the new one is none of its business.
        remove(&beside(".wal"))?;
        std::fs::File::open(&new).and_then(|file| file.sync_all()).and_then(|()| std::fs::rename(&new, path)).map_err(failed)?;
        // Without its name a database that has commits would be taken for one that was never made. Not every system syncs folders.
        if let Some(folder) = path.parent() {
            let _ = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
        }
        Ok(())
    });
    if made.is_err() {
        // Nothing is lost if it stays.
        let _ = remove(&new);
    }
    made
}

fn is_full(message: &str) -> bool {
    message.contains("No space left") || message.contains("ENOSPC") || message.contains("Disk quota exceeded")
}

fn is_too_large(message: &str) -> bool {
    message.contains("File too large")
}

fn duckdb_error(failure: Failure, attempted: &str) -> Error {
    let reason = match failure.kind {
        _ if is_full(&failure.message) => ": the disk is full",
        _ if is_too_large(&failure.message) => ": a limit on the size of files was reached",
        FailureKind::File => ": the file cannot be read or written",
        FailureKind::Memory => ": DuckDB's memory limit does not suffice",
        FailureKind::Value => ": DuckDB refuses a value or the statement",
        FailureKind::Constraint => ": a constraint or an index of the table refuses a row",
        FailureKind::Member | FailureKind::Missing | FailureKind::Other => "",
    };
    let error = Error::new(ErrorKind::Sink, format!("{attempted}{reason}"));
    match failure.kind {
        // What DuckDB says about values quotes them.
        FailureKind::Value | FailureKind::Constraint => error,
        _ => error.with_cause(failure.message),
    }
}

/// Whether every value of one type is a value of the other.
fn widens(from: &str, to: &str) -> bool {
    /// Digits that a whole number of the type may have below zero and above, as powers of two.
    fn range(name: &str) -> Option<(u32, u32)> {
        Some(match name {
            "TINYINT" => (7, 7),
            "SMALLINT" => (15, 15),
            "INTEGER" => (31, 31),
            "BIGINT" => (63, 63),
            "UTINYINT" => (0, 8),
            "USMALLINT" => (0, 16),
            "UINTEGER" => (0, 32),
            "UBIGINT" => (0, 64),
            _ => return None,
        })
    }
    fn decimal(name: &str) -> Option<(u32, u32)> {
        let (precision, scale) = name.strip_prefix("DECIMAL(")?.strip_suffix(')')?.split_once(',')?;
        let (precision, scale): (u32, u32) = (precision.parse().ok()?, scale.parse().ok()?);
        Some((precision.checked_sub(scale)?, scale))
    }
    match (range(from), range(to), decimal(from), decimal(to)) {
        (Some(from), Some(to), _, _) => from.0 <= to.0 && from.1 <= to.1,
        (_, _, Some(from), Some(to)) => from.0 <= to.0 && from.1 <= to.1,
        _ if members_of(from).is_some() => to == "VARCHAR" || members_of(to).is_some(),
        _ => from == "FLOAT" && to == "DOUBLE",
    }
}

/// The type for the members of an ENUM; `None` if they cannot be known or named.
fn enum_of(members: &[String]) -> Option<String> {
    // MySQL declares a character beyond utf8mb3 as a question mark.
    if members.iter().any(|member| member.contains(['?', '\0'])) {
        return None;
    }
    // What MySQL stores in the place of a value that is no member comes before all that are.
    let no_member = (!members.iter().any(String::is_empty)).then(String::new);
    Some(enum_type(&no_member.into_iter().chain(members.iter().cloned()).collect::<Vec<_>>()))
}

/// Whether the one list is the other with some left out.
fn is_subsequence(list: &[String], of: &[String]) -> bool {
    let mut rest = of.iter();
    list.iter().all(|entry| rest.any(|other| other == entry))
}

/// As DESCRIBE spells it.
fn enum_type(members: &[String]) -> String {
    let members: Vec<String> = members.iter().map(|member| literal(member)).collect();
    format!("ENUM({})", members.join(", "))
}

/// The members of an ENUM type; `None` if it is another type.
fn members_of(declared: &str) -> Option<Vec<String>> {
    let mut rest = declared.strip_prefix("ENUM(")?.strip_suffix(')')?;
    let mut members = Vec::new();
    while !rest.is_empty() {
        rest = rest.strip_prefix('\'')?;
        let mut member = String::new();
        loop {
            let (before, after) = rest.split_once('\'')?;
            member.push_str(before);
            let quote = after.strip_prefix('\'');
            rest = quote.unwrap_or(after);
            if quote.is_none() {
                break;
            }
            member.push('\'');
        }
        members.push(member);
        rest = rest.strip_prefix(", ").unwrap_or(rest);
    }
    Some(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_enums_are_read_as_they_are_printed() {
        for members in [vec!["a"], vec!["", "it's", "b, 'c'", "d)", "''", "ü"]] {
            let members: Vec<String> = members.into_iter().map(str::to_owned).collect();
            assert_eq!(members_of(&enum_type(&members)), Some(members));
        }
        assert_eq!(members_of("VARCHAR"), None);
        assert_eq!(members_of("ENUM('a' 'b"), None);
        assert_eq!(enum_of(&["b".into(), "a".into()]).as_deref(), Some("ENUM('', 'b', 'a')"));
        assert_eq!(enum_of(&["b".into(), String::new()]).as_deref(), Some("ENUM('b', '')"));
        assert_eq!(enum_of(&["a".into(), "?".into()]), None);
    }

    #[test]
    fn deleted_rows_are_put_up_with_until_they_are_a_quarter_of_a_large_table() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.duckdb");
        let stored = |deleted: &str| {
            let mut file = DuckDb::open(&DuckDbOptions::new(&path), &path).unwrap();
            file.begin().unwrap();
            file.execute(deleted).unwrap();
            file.commit().unwrap();
            drop(file);
            let mut file = DuckDb::open(&DuckDbOptions::new(&path), &path).unwrap();
            file.query_text("SELECT estimated_size, (SELECT count(*) FROM t) FROM duckdb_tables() WHERE table_name = 't'").unwrap()
        };
        let rows = |stored: u32, live: u32| vec![vec![Some(stored.to_string()), Some(live.to_string())]];
        assert_eq!(stored("CREATE TABLE t AS SELECT range AS id FROM range(500000)"), rows(500_000, 500_000));
        assert_eq!(stored("DELETE FROM t WHERE id % 10 = 3"), rows(500_000, 450_000));
        assert_eq!(stored("DELETE FROM t WHERE id % 2 = 0"), rows(200_000, 200_000));
    }

    #[test]
    fn memory_grows_with_the_number_of_tables_where_nobody_has_limited_it() {
        let limit = |options: DuckDbOptions, tables: usize| {
            let mut file = DuckDb::open(&options, Path::new(":memory:")).unwrap();
            file.expect_tables(tables).unwrap();
            file.query_text("SELECT current_setting('memory_limit')").unwrap().concat().remove(0).unwrap()
        };
        assert_eq!(limit(DuckDbOptions::new(":memory:"), 128), "160.0 MiB");
        assert_eq!(limit(DuckDbOptions::new(":memory:"), 500), "304.0 MiB");
        assert_eq!(limit(DuckDbOptions::new(":memory:").with_memory_limit_bytes(64 << 20), 500), "64.0 MiB");
    }
}
