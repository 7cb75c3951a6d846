//! DuckDB.

mod library;
mod write;

use self::library::{Appender, Connection, Failure, FailureKind};
use super::{Destination, Nulled, StoredColumn, binary_default, bit_default, literal, qualified, quoted};
use crate::batch::Batch;
use crate::options::DuckDbOptions;
use crate::schema::{Column, ColumnType, TableName};
use crate::value::{DateTime, ZeroDates};
use crate::{Error, ErrorKind, Result};

/// DuckDB's own memory, if the options set none. It would otherwise take four fifths of the machine's.
const MEMORY_LIMIT: u64 = 160 << 20;

/// DuckDB stores rows in groups of this many.
const ROW_GROUP: usize = 122_880;

/// A DuckDB database.
pub(super) struct DuckDb {
    appender: Option<Open>,
    connection: Connection,
    has_json: bool,
    zero_dates: ZeroDates,
}

/// The table that was appended to last.
struct Open {
    table: TableName,
    columns: Vec<String>,
    appender: Appender,
}

impl DuckDb {
    pub(super) fn open(options: &DuckDbOptions) -> Result<Self> {
        let path = options.path();
        let shown = path.display();
        let name = path.to_str().ok_or_else(|| Error::config(format!("the path of the DuckDB file is not UTF-8: `{shown}`")))?;
        let mut settings = vec![
            ("memory_limit", format!("{}B", options.memory_limit_bytes().unwrap_or(MEMORY_LIMIT))),
            // Nothing is fetched from the network on somebody's behalf.
            ("autoinstall_known_extensions", "false".to_owned()),
            ("autoload_known_extensions", "false".to_owned()),
        ];
        if let Some(threads) = options.threads() {
            settings.push(("threads", threads.to_string()));
        }
        let connection = Connection::open(name, &settings).map_err(|failure| {
            let missing = path.parent().is_some_and(|folder| !folder.as_os_str().is_empty() && !folder.is_dir());
            let reason = match &failure.message {
                _ if missing => ": its folder does not exist",
                text if text.contains("Conflicting lock") || text.contains("being used by another process") => {
                    ": another process holds it open"
                }
                text if text.contains("Permission denied") || text.contains("ead-only") => ": it may not be written to",
                text if text.contains("not a valid DuckDB database") => ": it is not a DuckDB database",
                _ => "",
            };
            Error::new(ErrorKind::Sink, format!("the DuckDB file `{shown}` cannot be opened{reason}")).with_cause(failure.message)
        })?;
        let mut database = Self { appender: None, connection, has_json: false, zero_dates: ZeroDates::default() };
        let json = database.query_text("SELECT 1 FROM duckdb_extensions() WHERE extension_name = 'json' AND loaded")?;
        database.has_json = !json.is_empty();
        Ok(database)
    }

    /// Makes sure that statements see what was appended.
    fn flush(&mut self) -> Result<()> {
        match &mut self.appender {
            Some(open) => open.appender.flush().map_err(|failure| duckdb_error(failure, "rows cannot be written")),
            None => Ok(()),
        }
    }

    fn run(&mut self, sql: &str, attempted: &str) -> Result<u64> {
        self.connection.execute(sql).map_err(|failure| duckdb_error(failure, attempted))
    }
}

impl Destination for DuckDb {
    fn begin(&mut self) -> Result<()> {
        self.run("BEGIN TRANSACTION", "no transaction can be begun").map(drop)
    }

    fn commit(&mut self) -> Result<()> {
        self.flush()?;
        // It knows the table as it was in this transaction.
        self.appender = None;
        self.run("COMMIT", "the transaction cannot be committed").map(drop)
    }

    fn rollback(&mut self) -> Result<()> {
        if let Some(open) = self.appender.take() {
            open.appender.discard();
        }
        match self.connection.execute("ROLLBACK") {
            Ok(_) => Ok(()),
            // A commit that failed has ended the transaction.
            Err(failure) if failure.message.contains("no transaction is active") => Ok(()),
            Err(failure) => Err(duckdb_error(failure, "the transaction cannot be rolled back")),
        }
    }

    fn execute(&mut self, sql: &str) -> Result<u64> {
        self.flush()?;
        // The statement may change the table that the appender knows.
        self.appender = None;
        self.run(sql, "a statement failed")
    }

    fn query_text(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.flush()?;
        self.connection.query_text(sql).map_err(|failure| duckdb_error(failure, "a query failed"))
    }

    fn append(&mut self, table: &TableName, batch: &Batch) -> Result<Nulled> {
        let columns = batch.table().columns();
        let same = |open: &Open| open.table == *table && open.columns.iter().eq(columns.iter().map(|column| column.name()));
        if !self.appender.as_ref().is_some_and(same) {
            self.flush()?;
            let names: Vec<&str> = columns.iter().map(|column| column.name()).collect();
            let appender = self
                .connection
                .appender(table.schema(), table.name(), &names)
                .map_err(|failure| duckdb_error(failure, "rows cannot be written"))?;
            let columns = names.into_iter().map(str::to_owned).collect();
            self.appender = Some(Open { table: table.clone(), columns, appender });
        }
        let Some(open) = &mut self.appender else { return Ok(Nulled::default()) };
        let nulled = write::batch(&mut open.appender, batch, self.zero_dates)?;
        self.flush()?;
        Ok(nulled)
    }

    fn stored_columns(&mut self, table: &TableName) -> Result<Option<Vec<StoredColumn>>> {
        let schema = table.schema().map_or_else(|| "current_schema()".to_owned(), literal);
        let sql = format!(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = current_database() \
             AND lower(schema_name) = lower({schema}) AND lower(table_name) = lower({}) ORDER BY column_index",
            literal(table.name())
        );
        let rows = self.query_text(&sql)?;
        let columns: Vec<StoredColumn> = rows
            .into_iter()
            .map(|row| {
                let mut cells = row.into_iter().map(Option::unwrap_or_default);
                StoredColumn { name: cells.next().unwrap_or_default(), declared_type: cells.next().unwrap_or_default() }
            })
            .collect();
        Ok((!columns.is_empty()).then_some(columns))
    }

    fn declared(&self, column_type: &ColumnType) -> String {
        let as_text = self.zero_dates == ZeroDates::Text;
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
            // DuckDB's TIME ends after 24 hours.
            ColumnType::Time { .. } => "INTERVAL",
            ColumnType::Binary { .. } | ColumnType::Geometry | ColumnType::Vector => "BLOB",
            ColumnType::Json if self.has_json => "JSON",
            ColumnType::Decimal { .. }
            | ColumnType::Date
            | ColumnType::DateTime { .. }
            | ColumnType::Timestamp { .. }
            | ColumnType::Text { .. }
            | ColumnType::Enum { .. }
            | ColumnType::Set { .. }
            | ColumnType::Json => "VARCHAR",
        }
        .to_owned()
    }

    fn timestamp_literal(&self, at: DateTime) -> String {
        let text = literal(&at.text(6));
        if self.zero_dates == ZeroDates::Text {
            text
        } else {
            format!("CAST({} AS TIMESTAMP WITH TIME ZONE)", literal(&format!("{}+00", at.text(6))))
        }
    }

    fn default_literal(&self, column_type: &ColumnType, text: &str) -> Result<String> {
        let declared = self.declared(column_type);
        Ok(match column_type {
            ColumnType::Bit { width } => {
                let width = usize::from(*width);
                format!("CAST('{:0width$b}' AS BIT)", bit_default(text)?)
            }
            ColumnType::Binary { .. } => format!("unhex({})", literal(&binary_default(text))),
            ColumnType::Timestamp { .. } if declared != "VARCHAR" => format!("CAST({} AS {declared})", literal(&format!("{text}+00"))),
            _ => format!("CAST({} AS {declared})", literal(text)),
        })
    }

    fn add_column(&mut self, name: &TableName, column: &Column, default: Option<&str>) -> Result<()> {
        // DuckDB cannot update a table in the transaction that has altered it, so the value comes as the column's default.
        let default = default.map(|default| self.default_literal(column.column_type(), default)).transpose()?;
        let default = default.map(|value| format!(" DEFAULT {value}")).unwrap_or_default();
        let declared = self.declared(column.column_type());
        self.execute(&format!("ALTER TABLE {} ADD COLUMN {} {declared}{default}", qualified(name), quoted(column.name()))).map(drop)
    }

    fn change_type(&mut self, name: &TableName, column: &Column, stored: &str) -> Result<()> {
        let declared = self.declared(column.column_type());
        if !widens(stored, &declared) {
            let message = format!(
                "column `{name}.{}` is {stored} in the destination, but {} ({declared}) at the source now: rebuild the table with full_refresh",
                column.name(),
                column.column_type()
            );
            return Err(Error::new(ErrorKind::SchemaChange, message));
        }
        self.execute(&format!("ALTER TABLE {} ALTER COLUMN {} TYPE {declared}", qualified(name), quoted(column.name()))).map(drop)
    }

    fn create_schema(&mut self, table: &TableName) -> Result<()> {
        match table.schema() {
            Some(schema) => self.execute(&format!("CREATE SCHEMA IF NOT EXISTS {}", super::quoted(schema))).map(drop),
            None => Ok(()),
        }
    }

    fn set_zero_dates(&mut self, policy: ZeroDates) {
        self.zero_dates = policy;
    }

    fn rows_per_part(&self) -> Option<usize> {
        Some(4 * ROW_GROUP)
    }
}

fn duckdb_error(failure: Failure, attempted: &str) -> Error {
    let disk = failure.message.contains("No space left") || failure.message.contains("ENOSPC");
    let reason = match failure.kind {
        FailureKind::File if disk => ": the disk is full",
        FailureKind::File => ": the file cannot be read or written",
        FailureKind::Memory => ": DuckDB's memory limit does not suffice",
        FailureKind::Value => ": DuckDB refuses a value or the statement",
        FailureKind::Other => "",
    };
    let error = Error::new(ErrorKind::Sink, format!("{attempted}{reason}"));
    match failure.kind {
        // What DuckDB says about values quotes them.
        FailureKind::Value => error,
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
        _ => from == "FLOAT" && to == "DOUBLE",
    }
}
