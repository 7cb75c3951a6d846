//! SQLite files as the origin of rows.
//!
//! SQLite stores numbers, texts and blobs, and lets a column hold any of them unless its table is STRICT. So the type of a column is what was
//! declared, and a value that is none of it is an error; see [`decode`].

mod decode;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use self::decode::Form;
use super::filter::{self, Filter};
use super::quoted;
use super::rows::{Interrupt, Outlet, Rows};
use super::server::ServerKind;
use super::{Origin, Reading, no_such_table, same_columns};
use crate::cancel::Cancel;
use crate::interval::BoundValue;
use crate::libsqlite;
use crate::options::SourceOptions;
use crate::place::SqliteTypes;
use crate::schema::{Column, Table};
use crate::{Error, ErrorKind, Result};

/// How long to wait before a locked file is tried again.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// An SQLite file. Each call opens it anew, so that nothing is locked in between.
pub(super) struct Sqlite {
    file: File,
    server: ServerKind,
}

#[derive(Debug, Clone)]
struct File {
    path: PathBuf,
    busy_timeout: Duration,
    types: SqliteTypes,
}

/// A column of the file, and how its values are read.
struct Described {
    column: Column,
    form: Form,
}

impl Sqlite {
    pub(super) fn open(options: &SourceOptions, cancel: &Cancel) -> Result<Self> {
        let path = options.path().map(PathBuf::from).unwrap_or_default();
        let file = File { path, busy_timeout: options.busy_timeout(), types: options.sqlite_types() };
        file.begin(cancel)?;
        Ok(Self { file, server: ServerKind::Sqlite { version: rusqlite::version().to_owned() } })
    }
}

impl Origin for Sqlite {
    fn server(&self) -> &ServerKind {
        &self.server
    }

    fn tables(&self, cancel: &Cancel) -> Result<Vec<Table>> {
        let connection = self.file.begin(cancel)?;
        let names = self.file.names(&connection)?;
        let shown = names.iter().filter(|name| !super::is_own(name));
        shown.map(|name| table_of(name, self.file.columns(&connection, name)?)).collect()
    }

    fn table(&self, name: &str, cancel: &Cancel) -> Result<Table> {
        let connection = self.file.begin(cancel)?;
        if !self.file.names(&connection)?.iter().any(|found| found == name) {
            return Err(no_such_table(name));
        }
        table_of(name, self.file.columns(&connection, name)?)
    }

    fn rows(&self, table: Arc<Table>, reading: &Reading, cancel: &Cancel) -> Result<Rows> {
        let connection = self.file.begin(cancel)?;
        // In the same transaction as the rows: what is compared here holds for them.
        let found = self.file.columns(&connection, table.name())?;
        let columns: Vec<&Column> = found.iter().map(|(described, _)| &described.column).collect();
        let order = same_columns(&table, &columns)?;
        let forms: Vec<Form> =
            order.iter().filter_map(|&index| found.get(index)).map(|(described, _)| described.form.of(reading)).collect();
        let table = Arc::new(super::as_read(&table, reading));
        let mut sql = select(&table, &forms);
        if let Some(interval) = &reading.interval {
            let is_number = *interval.column().column_type() == Form::Int.column_type();
            // Of all other types SQLite has several forms, or compares in another way.
            sql.push_str(&filter::condition(interval, &quoted(interval.column().name()), |bound| match bound {
                BoundValue::Int(number) if is_number => Some(number.to_string()),
                _ => None,
            }));
        }
        let handle = connection.get_interrupt_handle();
        let interrupt: Interrupt = Box::new(move || handle.interrupt());
        let (file, reading) = (self.file.clone(), reading.clone());
        let read = Arc::clone(&table);
        Rows::start(table, Some(interrupt), "SQLite cannot be used", move |outlet| {
            read_rows(&connection, &sql, &read, &forms, &reading, outlet, &file)
        })
    }
}

fn table_of(name: &str, columns: Vec<(Described, u32)>) -> Result<Table> {
    let mut key: Vec<(u32, String)> =
        columns.iter().filter(|(_, key)| *key > 0).map(|(described, key)| (*key, described.column.name().to_owned())).collect();
    key.sort_unstable();
    let key: Vec<String> = key.into_iter().map(|(_, name)| name).collect();
    Table::new(name, columns.into_iter().map(|(described, _)| described.column).collect()).with_primary_key(&key)
}

/// Names every column, and after them says of each that is declared as JSON whether it is.
fn select(table: &Table, forms: &[Form]) -> String {
    let names: Vec<String> = table.columns().iter().map(|column| quoted(column.name())).collect();
    let checks = names.iter().zip(forms).filter(|(_, form)| **form == Form::Json).map(|(name, _)| format!("json_valid({name})"));
    let selected: Vec<String> = names.iter().cloned().chain(checks).collect();
    format!("SELECT {} FROM main.{}", selected.join(", "), quoted(table.name()))
}

fn read_rows(
    connection: &Connection,
    sql: &str,
    table: &Table,
    forms: &[Form],
    reading: &Reading,
    outlet: &mut Outlet,
    file: &File,
) -> Result<()> {
    let failed = |cause| file.failed(cause, &format!("table `{}` cannot be read", table.name()));
    let mut statement = connection.prepare(sql).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    let mut scratch = String::new();
    let filter = Filter::of(table, reading.interval.as_ref());
    while let Some(row) = rows.next().map_err(failed)? {
        let mut bytes = 0;
        outlet.batch().push_row(|columns| {
            let mut check = forms.len();
            for (index, ((column, declared), form)) in columns.iter_mut().zip(table.columns()).zip(forms).enumerate() {
                let value = row.get_ref(index).map_err(failed)?;
                let in_column = |error: Error| error.with_column(declared.name());
                if *form == Form::Json {
                    if row.get::<_, Option<bool>>(check).map_err(failed)? == Some(false) {
                        return Err(in_column(decode::none_of("JSON")));
                    }
                    check += 1;
                }
                bytes +=
                    decode::push(column, declared.column_type(), *form, value, reading.malformed_text, &mut scratch).map_err(in_column)?;
            }
            Ok(())
        })?;
        if let Some(filter) = &filter {
            let last = outlet.batch().len() - 1;
            outlet.keep(last, filter);
        }
        if outlet.filled(bytes).is_err() {
            break;
        }
    }
    Ok(())
}

impl File {
    fn shown(&self) -> String {
        self.path.display().to_string()
    }

    /// Opens the file and begins to read: from here on nobody else's lock keeps it from being read.
    fn begin(&self, cancel: &Cancel) -> Result<Connection> {
        let attempted = format!("the SQLite file `{}` cannot be opened", self.shown());
        if !self.path.exists() {
            return Err(Error::new(ErrorKind::Source, format!("{attempted}: it is not there")));
        }
        let failed = |cause| sqlite_error(cause, &attempted);
        // Without URI names: a path may hold a question mark.
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags).map_err(failed)?;
        // SQLite's own wait cannot be cancelled.
        connection.busy_timeout(Duration::ZERO).map_err(failed)?;
        connection.execute_batch("BEGIN").map_err(failed)?;
        let until = Instant::now() + self.busy_timeout;
        loop {
            // The file is not looked at before the first statement.
            match connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())) {
                Ok(()) => return Ok(connection),
                Err(cause) if is_busy(&cause) && Instant::now() < until => cancel.wait_until(Instant::now() + LOCK_PAUSE)?,
                Err(cause) => return Err(failed(cause)),
            }
        }
    }

    /// The tables that hold rows themselves: neither views nor what modules present, and none of SQLite's own.
    fn names(&self, connection: &Connection) -> Result<Vec<String>> {
        let failed = |cause| self.failed(cause, "the tables cannot be listed");
        let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
        let mut statement = connection.prepare(sql).map_err(failed)?;
        statement.query_map([], |row| row.get(0)).and_then(Iterator::collect).map_err(failed)
    }

    /// The columns of a table, each with its place in the primary key, from 1; none if there is no such table.
    fn columns(&self, connection: &Connection, table: &str) -> Result<Vec<(Described, u32)>> {
        let failed = |cause| self.failed(cause, &format!("the columns of table `{table}` cannot be listed"));
        // Hidden columns of modules (1) are none of the table's; generated ones are 2 and 3.
        let sql = "SELECT name, type, \"notnull\", pk, hidden FROM pragma_table_xinfo(?1, 'main') WHERE hidden <> 1 ORDER BY cid";
        let mut statement = connection.prepare(sql).map_err(failed)?;
        let cells = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?));
        let found: Vec<(String, String, bool, u32, i64)> =
            statement.query_map([table], cells).and_then(Iterator::collect).map_err(failed)?;
        let keys = found.iter().filter(|(_, _, _, key, _)| *key > 0).count();
        let columns = found.into_iter().map(|(name, declared, not_null, key, hidden)| {
            let form = Form::declared(&declared, self.types);
            // Only the row's own number is never NULL by itself; SQLite lets NULL into other keys.
            let is_row_number = key > 0 && keys == 1 && declared.eq_ignore_ascii_case("INTEGER");
            let column = Column::new(name, form.column_type(), !not_null && !is_row_number).generated(hidden > 1);
            let column = column.printed_of(form.printed(&declared));
            (Described { column, form }, key)
        });
        Ok(columns.collect())
    }

    fn failed(&self, cause: rusqlite::Error, attempted: &str) -> Error {
        sqlite_error(cause, &format!("`{}`: {attempted}", self.shown()))
    }
}

fn is_busy(cause: &rusqlite::Error) -> bool {
    matches!(cause.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn sqlite_error(cause: rusqlite::Error, attempted: &str) -> Error {
    let reason = match cause.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ": another connection holds it locked",
        Some(ErrorCode::ReadOnly) => {
            ": what a writer left half-way has to be undone first, which needs write access: open it once with SQLite"
        }
        Some(ErrorCode::SystemIoFailure) => ": the disk cannot be read",
        Some(ErrorCode::CannotOpen) => ": it is no file, or may not be read, or is in WAL mode in a folder that may not be written to",
        Some(ErrorCode::NotADatabase) => ": it is not an SQLite database",
        Some(ErrorCode::DatabaseCorrupt) => ": the file is damaged",
        Some(ErrorCode::PermissionDenied) => ": permission denied",
        Some(ErrorCode::OperationInterrupted) => ": it was interrupted",
        _ => "",
    };
    Error::new(ErrorKind::Source, format!("{attempted}{reason}")).with_cause(libsqlite::said(cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::ColumnType;

    #[test]
    fn json_is_checked_behind_the_columns() {
        let columns = ["a", "b\"c", "d"].map(|name| Column::new(name, ColumnType::Text { length: None }, true));
        let table = Table::new("t\"", columns.to_vec());
        let sql = select(&table, &[Form::Text, Form::Json, Form::Blob]);
        assert_eq!(sql, "SELECT \"a\", \"b\"\"c\", \"d\", json_valid(\"b\"\"c\") FROM main.\"t\"\"\"");
    }
}
