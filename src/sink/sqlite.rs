//! SQLite.
//!
//! Tables are STRICT, so that a column holds what it declares. Numbers that SQLite's do not hold exactly are text ([`OutOfRange`]), dates and times are text
//! as MySQL prints them; dates sort like the days do. The one loss: SQLite stores a floating-point zero without its sign.

use std::path::Path;
use std::sync::Arc;

use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, OpenFlags};

use super::stored::{Gather, Stored};
use super::{Destination, StoredColumn, binary_default, bit_default, has_words, literal, qualified, quoted, require_stored};
use crate::batch::Batch;
use crate::libsqlite;
use crate::options::SqliteOptions;
use crate::policy::{Changed, OutOfRange, ValueChange, ZeroDates};
use crate::schema::{Column, ColumnType, Table, TableName};
use crate::value::{DateTime, ValueRef};
use crate::{Error, ErrorKind, Result};

/// An SQLite database.
pub(super) struct Sqlite {
    connection: Connection,
    /// The file, as the user named it.
    path: String,
    policies: Policies,
}

#[derive(Debug, Clone, Copy, Default)]
struct Policies {
    zero_dates: ZeroDates,
    out_of_range: OutOfRange,
}

impl Sqlite {
    /// Opens the file at `path`, which is where the options' path leads.
    pub(super) fn open(options: &SqliteOptions, path: &Path) -> Result<Self> {
        let shown = options.path().display().to_string();
        let attempted = format!("the SQLite file `{shown}` cannot be opened");
        // Without URI names: a path may hold a question mark.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(|cause| sqlite_error(cause, &attempted))?;
        connection.busy_timeout(options.busy_timeout()).map_err(|cause| sqlite_error(cause, &attempted))?;
        // A view on a table must not keep the table from being replaced. A journal of up to a gigabyte would be kept after a load.
        let pragmas = "PRAGMA legacy_alter_table = ON; PRAGMA journal_size_limit = 16777216; PRAGMA foreign_keys = OFF;";
        connection.execute_batch(pragmas).map_err(|cause| sqlite_error(cause, &attempted))?;
        // The file is not looked at before the first statement, and one that may not be written to is opened for reading.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(|cause| sqlite_error(cause, &attempted))?;
        connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK").map_err(|cause| sqlite_error(cause, &attempted))?;
        // One table is loaded at a time, and its rows come in no useful order: a small cache does.
        connection.execute_batch("PRAGMA cache_size = -32768").map_err(|cause| sqlite_error(cause, &attempted))?;
        Ok(Self { connection, path: shown, policies: Policies::default() })
    }

    fn failed(&self, attempted: &str) -> impl Fn(rusqlite::Error) -> Error {
        let attempted = format!("`{}`: {attempted}", self.path);
        move |cause| sqlite_error(cause, &attempted)
    }
}

impl Destination for Sqlite {
    fn begin(&mut self) -> Result<()> {
        // At once, since a transaction that began as a reader cannot wait for a writer.
        self.connection.execute_batch("BEGIN IMMEDIATE").map_err(self.failed("no transaction can be begun"))
    }

    fn commit(&mut self) -> Result<()> {
        self.connection.execute_batch("COMMIT").map_err(self.failed("the transaction cannot be committed"))
    }

    fn rollback(&mut self) -> Result<()> {
        // Some failures end the transaction by themselves.
        if self.connection.is_autocommit() {
            return Ok(());
        }
        self.connection.execute_batch("ROLLBACK").map_err(self.failed("the transaction cannot be rolled back"))
    }

    fn execute(&mut self, sql: &str) -> Result<u64> {
        self.connection.execute_batch(sql).map_err(self.failed("a statement failed"))?;
        Ok(self.connection.changes())
    }

    fn query_text(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let failed = self.failed("a query failed");
        let mut statement = self.connection.prepare(sql).map_err(&failed)?;
        let columns = statement.column_count();
        let mut rows = statement.query([]).map_err(&failed)?;
        let mut result = Vec::new();
        while let Some(row) = rows.next().map_err(&failed)? {
            let mut cells = Vec::with_capacity(columns);
            for column in 0..columns {
                cells.push(match row.get_ref(column).map_err(&failed)? {
                    rusqlite::types::ValueRef::Null => None,
                    rusqlite::types::ValueRef::Integer(number) => Some(number.to_string()),
                    rusqlite::types::ValueRef::Real(number) => Some(number.to_string()),
                    rusqlite::types::ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
                    rusqlite::types::ValueRef::Blob(_) => {
                        return Err(Error::new(ErrorKind::Sink, "a query returned bytes instead of text"));
                    }
                });
            }
            result.push(cells);
        }
        Ok(result)
    }

    fn append(&mut self, table: &TableName, batch: &Batch) -> Result<Changed> {
        let columns = batch.table().columns();
        let names: Vec<String> = columns.iter().map(|column| quoted(column.name())).collect();
        let marks = vec!["?"; columns.len()];
        let sql = format!("INSERT INTO {} ({}) VALUES ({})", qualified(table), names.join(", "), marks.join(", "));
        let failed = self.failed("rows cannot be written");
        let mut statement = self.connection.prepare_cached(&sql).map_err(&failed)?;
        let is_mixed = |column: &Column| is_large_number(column.column_type()) && self.policies.out_of_range == OutOfRange::Mixed;
        let mixed: Vec<bool> = columns.iter().map(is_mixed).collect();
        let mut changed = Changed::default();
        for row in 0..batch.len() {
            for (index, column) in columns.iter().enumerate() {
                let value = stored(batch.value(row, index), column.column_type(), self.policies)
                    .map_err(|error| error.with_column(column.name()))?;
                if mixed[index]
                    && let ToSqlOutput::Owned(rusqlite::types::Value::Text(_)) = value
                {
                    changed.add(index, ValueChange::NumberAsText, 1);
                }
                statement.raw_bind_parameter(index + 1, value).map_err(&failed)?;
            }
            let stored = statement.raw_execute().map_err(&failed)?;
            require_stored(table, stored as u64, 1)?;
        }
        Ok(changed)
    }

    fn stored_columns(&mut self, table: &TableName) -> Result<Option<Vec<StoredColumn>>> {
        refuse_schema(table)?;
        let failed = self.failed("a table's columns cannot be read");
        // Looked for first, as the names of some functions stand for tables that have columns too.
        let mut exists =
            self.connection.prepare_cached("SELECT 1 FROM main.sqlite_schema WHERE name = ? COLLATE NOCASE LIMIT 1").map_err(&failed)?;
        if !exists.exists([table.name()]).map_err(&failed)? {
            return Ok(None);
        }
        let mut statement = self.connection.prepare(&format!("PRAGMA main.table_info({})", quoted(table.name()))).map_err(&failed)?;
        let columns = statement
            .query_map([], |row| Ok(StoredColumn { name: row.get("name")?, declared_type: row.get("type")? }))
            .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
            .map_err(&failed)?;
        Ok((!columns.is_empty()).then_some(columns))
    }

    fn byte_collation(&mut self, name: &TableName) -> Result<Option<&'static str>> {
        let sql = declaration(&self.connection, name).map_err(self.failed("a table's declaration cannot be read"))?;
        Ok(has_words(&sql, &["collate"]).then_some(" COLLATE BINARY"))
    }

    fn require_keeping(&mut self, name: &TableName) -> Result<()> {
        let sql = declaration(&self.connection, name).map_err(self.failed("a table's declaration cannot be read"))?;
        if !has_words(&sql, &["on", "conflict", "replace"]) {
            return Ok(());
        }
        let message =
            format!("`{name}` in the destination replaces rows by others without saying so: its declaration has an ON CONFLICT REPLACE");
        Err(Error::new(ErrorKind::Conflict, message).with_table(name))
    }

    fn read(
        &mut self,
        name: &TableName,
        table: &Arc<Table>,
        stored: &[StoredColumn],
        rest: &str,
        take: &mut dyn FnMut(Batch) -> Result<()>,
    ) -> Result<()> {
        use rusqlite::types::ValueRef as Sql;
        let failed = self.failed("rows cannot be read");
        let names: Vec<String> = stored.iter().map(|column| quoted(&column.name)).collect();
        let sql = format!("SELECT {} FROM {} {rest}", names.join(", "), qualified(name));
        let mut statement = self.connection.prepare(&sql).map_err(&failed)?;
        let mut rows = statement.query([]).map_err(&failed)?;
        let mut gather = Gather::new(table, take);
        while let Some(row) = rows.next().map_err(&failed)? {
            gather.row(|column| {
                Ok(match row.get_ref(column).map_err(&failed)? {
                    Sql::Null => Stored::Null,
                    Sql::Integer(number) => Stored::Int(number),
                    Sql::Real(number) => Stored::Real(number),
                    Sql::Text(text) => Stored::Text(text),
                    Sql::Blob(bytes) => Stored::Bytes(bytes),
                })
            })?;
        }
        gather.finish()
    }

    fn declared(&self, column_type: &ColumnType) -> String {
        match column_type {
            large if is_large_number(large) => match self.policies.out_of_range {
                OutOfRange::Mixed => "ANY",
                OutOfRange::Error => "INTEGER",
                OutOfRange::Text => "TEXT",
            },
            ColumnType::Boolean | ColumnType::Int { .. } | ColumnType::Year | ColumnType::Bit { .. } => "INTEGER",
            ColumnType::Float | ColumnType::Double => "REAL",
            ColumnType::Decimal { .. }
            | ColumnType::Date
            | ColumnType::DateTime { .. }
            | ColumnType::Timestamp { .. }
            | ColumnType::Time { .. }
            | ColumnType::Text { .. }
            | ColumnType::Enum { .. }
            | ColumnType::Set { .. }
            | ColumnType::Json => "TEXT",
            ColumnType::Binary { .. } | ColumnType::Geometry | ColumnType::Vector => "BLOB",
        }
        .to_owned()
    }

    fn carried(&self, _stored: &str) -> String {
        // A table of somebody else's may declare anything, which a STRICT one does not take, and hold values of any kind.
        "ANY".to_owned()
    }

    fn reserved_prefix(&self) -> Option<&'static str> {
        Some("sqlite_")
    }

    fn wants_key(&self) -> bool {
        true
    }

    fn default_literal(&self, column_type: &ColumnType, text: &str) -> Result<String> {
        Ok(match self.declared(column_type).as_str() {
            "TEXT" if matches!(column_type, ColumnType::Bit { .. }) => literal(&bit_default(text)?.to_string()),
            "TEXT" => literal(text),
            "BLOB" => format!("x{}", literal(&binary_default(text))),
            "REAL" => format!("CAST({} AS REAL)", literal(text)),
            _ => match column_type {
                ColumnType::Bit { .. } => bit_default(text)?.to_string(),
                _ => match text.parse::<i64>() {
                    Ok(number) => number.to_string(),
                    Err(_) => literal(text),
                },
            },
        })
    }

    fn table_suffix(&self) -> &'static str {
        " STRICT"
    }

    fn create_schema(&mut self, table: &TableName) -> Result<()> {
        refuse_schema(table)
    }

    fn set_zero_dates(&mut self, policy: ZeroDates) {
        self.policies.zero_dates = policy;
    }

    fn set_out_of_range(&mut self, policy: OutOfRange) {
        self.policies.out_of_range = policy;
    }
}

/// The statement that has made a table; empty if there is no such table.
fn declaration(connection: &Connection, table: &TableName) -> rusqlite::Result<String> {
    let mut statement =
        connection.prepare_cached("SELECT sql FROM main.sqlite_schema WHERE type = 'table' AND name = ? COLLATE NOCASE LIMIT 1")?;
    let found = statement.query_map([table.name()], |row| row.get::<_, Option<String>>(0))?.next().transpose()?;
    Ok(found.flatten().unwrap_or_default())
}

fn refuse_schema(table: &TableName) -> Result<()> {
    match table.schema() {
        None => Ok(()),
        Some(schema) => {
            Err(Error::config(format!("SQLite has no schemas, but table `{}` is wanted in schema `{schema}`", table.name()))
                .with_table(table))
        }
    }
}

/// Whether numbers of the type may lie beyond 2^63 - 1.
fn is_large_number(column_type: &ColumnType) -> bool {
    matches!(column_type, ColumnType::Int { bits: 64, unsigned: true } | ColumnType::Bit { width: 64 })
}

fn stored<'a>(value: ValueRef<'a>, column_type: &ColumnType, policies: Policies) -> Result<ToSqlOutput<'a>> {
    use rusqlite::types::{Value, ValueRef as Sql};
    let date = |date: DateTime, text: String| {
        if policies.zero_dates == ZeroDates::Error && date.unix_days().is_none() {
            return Err(Error::new(ErrorKind::Sink, "a date has a month or a day that no calendar has"));
        }
        Ok(ToSqlOutput::Owned(Value::Text(text)))
    };
    let as_text = || is_large_number(column_type) && policies.out_of_range == OutOfRange::Text;
    let unsigned = |number: u64| match i64::try_from(number) {
        Ok(number) if !as_text() => Ok(ToSqlOutput::Owned(Value::Integer(number))),
        Err(_) if policies.out_of_range == OutOfRange::Error => {
            Err(Error::new(ErrorKind::Sink, "a number is beyond 2^63 - 1, where SQLite's end (out_of_range)"))
        }
        _ => Ok(ToSqlOutput::Owned(Value::Text(number.to_string()))),
    };
    Ok(match (value, column_type) {
        (ValueRef::Null, _) => ToSqlOutput::Owned(Value::Null),
        (ValueRef::Boolean(value), _) => ToSqlOutput::Owned(Value::Integer(i64::from(value))),
        (ValueRef::Int(number), _) => ToSqlOutput::Owned(Value::Integer(number)),
        (ValueRef::UInt(number), _) => unsigned(number)?,
        // By way of its shortest decimal form, so that 3.99 stays 3.99.
        (ValueRef::Float(number), _) => ToSqlOutput::Owned(Value::Real(number.to_string().parse().unwrap_or_else(|_| f64::from(number)))),
        (ValueRef::Double(number), _) => ToSqlOutput::Owned(Value::Real(number)),
        (ValueRef::Bit(bytes), _) => unsigned(bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))?,
        (ValueRef::Decimal(text) | ValueRef::Text(text) | ValueRef::Json(text), _) => ToSqlOutput::Borrowed(Sql::Text(text.as_bytes())),
        (ValueRef::Bytes(bytes), _) => ToSqlOutput::Borrowed(Sql::Blob(bytes)),
        (ValueRef::Date(value), _) => date(value, value.date_text())?,
        (ValueRef::DateTime(value), ColumnType::DateTime { fraction })
        | (ValueRef::Timestamp(value), ColumnType::Timestamp { fraction }) => date(value, value.text(*fraction))?,
        (ValueRef::DateTime(value) | ValueRef::Timestamp(value), _) => date(value, value.text(6))?,
        (ValueRef::Time(value), ColumnType::Time { fraction }) => ToSqlOutput::Owned(Value::Text(value.text(*fraction))),
        (ValueRef::Time(value), _) => ToSqlOutput::Owned(Value::Text(value.text(6))),
    })
}

fn is_write_failure(cause: &rusqlite::Error) -> bool {
    use rusqlite::ffi;
    let code = cause.sqlite_error().map(|error| error.extended_code);
    let failures = [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_IOERR_DIR_FSYNC, ffi::SQLITE_IOERR_TRUNCATE];
    code.is_some_and(|code| failures.contains(&code))
}

fn sqlite_error(cause: rusqlite::Error, attempted: &str) -> Error {
    use rusqlite::ErrorCode;
    let reason = match cause.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ": another connection holds it locked",
        Some(ErrorCode::ReadOnly) => ": the file is read-only",
        Some(ErrorCode::DiskFull) => ": the disk is full",
        // SQLite keeps the system's reason to itself: it is one of these.
        Some(ErrorCode::SystemIoFailure) if is_write_failure(&cause) => {
            ": the disk is full, or broken, or a limit on the size of files was reached"
        }
        Some(ErrorCode::SystemIoFailure) => ": the disk cannot be read",
        Some(ErrorCode::CannotOpen) => ": its folder is missing or may not be written to",
        Some(ErrorCode::NotADatabase) => ": it is not an SQLite database",
        Some(ErrorCode::DatabaseCorrupt) => ": the file is damaged",
        Some(ErrorCode::PermissionDenied) => ": permission denied",
        Some(ErrorCode::ConstraintViolation) => ": a constraint or an index of the table refuses a row",
        Some(ErrorCode::TooBig) => ": a value is larger than SQLite takes",
        _ => "",
    };
    Error::new(ErrorKind::Sink, format!("{attempted}{reason}")).with_cause(libsqlite::said(cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_keep_their_shortest_decimal_form() {
        for (number, expected) in [(3.99_f32, 3.99_f64), (0.1, 0.1), (16_777_216.0, 16_777_216.0), (f32::MIN_POSITIVE, 1.175_494_4e-38)] {
            let ToSqlOutput::Owned(rusqlite::types::Value::Real(stored)) =
                stored(ValueRef::Float(number), &ColumnType::Float, Policies::default()).unwrap()
            else {
                panic!()
            };
            assert_eq!(stored.to_bits(), expected.to_bits());
        }
    }
}
