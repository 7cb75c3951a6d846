//! DuckDB files as the origin of rows.
//!
//! | DuckDB | [`ColumnType`] |
//! | --- | --- |
//! | `BOOLEAN` | `Boolean` |
//! | `TINYINT` to `BIGINT`, `UTINYINT` to `UBIGINT` | `Int` |
//! | `HUGEINT`, `UHUGEINT` | `Decimal`, 39 digits |
//! | `DECIMAL(p,s)` with up to 30 digits after the point | `Decimal` |
//! | `FLOAT`, `DOUBLE` | `Float`, `Double`; infinite ones, and those that are no numbers, are errors |
//! | `DATE` | `Date` |
//! | `TIMESTAMP`, `TIMESTAMP_S`, `TIMESTAMP_MS`, `TIMESTAMP_NS` | `DateTime` with 6, 0, 3 and 6 digits; a moment between two microseconds is an error |
//! | `TIMESTAMP WITH TIME ZONE` | `Timestamp` |
//! | `TIME` | `Time` |
//! | `INTERVAL` | `Time`, or `Text` by [`IntervalType`] |
//! | `BIT` | `Bit` if all values of the column have the same width, up to 64; else `Text` |
//! | `VARCHAR` | `Text` |
//! | `UUID` | `Text`, 36 characters |
//! | `BLOB` | `Binary` |
//! | `ENUM` | `Enum` |
//! | `JSON`; lists, arrays, structs, maps, unions and variants | `Json`, nested ones as DuckDB's `to_json` writes them |
//! | all others | `Text`, as DuckDB prints them |

mod decode;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use self::decode::Form;
use super::filter::{self, Filter};
use super::rows::{Interrupt, Outlet, Rows};
use super::server::ServerKind;
use super::{Origin, Reading, no_such_table, quoted, same_columns};
use crate::cancel::Cancel;
use crate::interval::{BoundValue, Interval};
use crate::libduckdb::read::Logical;
use crate::libduckdb::{self, Connection, Failure, FailureKind};
use crate::options::SourceOptions;
use crate::place::IntervalType;
use crate::schema::{Column, ColumnType, Table};
use crate::{Error, ErrorKind, Result};

/// A DuckDB file, open as long as the source is: DuckDB would open it anew for seconds if its log is long.
pub(super) struct DuckDb {
    connection: Mutex<Connection>,
    file: File,
    server: ServerKind,
}

#[derive(Debug, Clone)]
struct File {
    path: PathBuf,
    memory_limit_bytes: u64,
    /// What DuckDB calls the database. A schema may have the same name, and DuckDB takes a name before a table's for either.
    database: String,
    /// The schema of tables that are named without one.
    schema: String,
    interval_type: IntervalType,
}

/// A column of the file, and how it is asked for and read.
struct Described {
    column: Column,
    form: Form,
    /// What stands for it in a SELECT.
    selected: String,
    /// Whether DuckDB compares its values with literals of the column's type, whatever these are.
    is_comparable: bool,
}

impl DuckDb {
    pub(super) fn open(options: &SourceOptions) -> Result<Self> {
        let mut file = File {
            path: options.path().map(PathBuf::from).unwrap_or_default(),
            memory_limit_bytes: options.memory_limit_bytes(),
            database: String::new(),
            schema: options.schema().unwrap_or("main").to_owned(),
            interval_type: options.interval_type(),
        };
        let connection = file.open()?;
        let database = file.ask(&connection, "SELECT current_database()", "the file cannot be read")?;
        file.database = database.into_iter().flatten().next().unwrap_or_default();
        let found =
            format!("SELECT 1 FROM duckdb_schemas() WHERE database_name = current_database() AND schema_name = {}", literal(&file.schema));
        if file.ask(&connection, &found, "the schemas cannot be listed")?.is_empty() {
            return Err(Error::new(ErrorKind::Schema, format!("`{}` has no schema `{}`", file.shown(), file.schema)));
        }
        Ok(Self { connection: Mutex::new(connection), file, server: ServerKind::DuckDb { version: libduckdb::version() } })
    }

    fn with_connection<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        work(&self.connection.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Origin for DuckDb {
    fn server(&self) -> &ServerKind {
        &self.server
    }

    fn tables(&self, cancel: &Cancel) -> Result<Vec<Table>> {
        self.with_connection(|connection| {
            let mut tables = Vec::new();
            for name in self.file.names(connection, &self.file.schema)? {
                cancel.check()?;
                if !super::is_own(&name) {
                    tables.push(self.file.table(connection, &self.file.schema, &name)?);
                }
            }
            Ok(tables)
        })
    }

    fn table(&self, name: &str, _: &Cancel) -> Result<Table> {
        self.with_connection(|connection| {
            if self.file.names(connection, &self.file.schema)?.iter().any(|found| found == name) {
                return self.file.table(connection, &self.file.schema, name);
            }
            if let Some((schema, table)) = name.split_once('.')
                && self.file.names(connection, schema)?.iter().any(|found| found == table)
            {
                return self.file.table(connection, schema, table).map(|table| table.in_schema(Some(schema.to_owned())));
            }
            Err(no_such_table(name))
        })
    }

    fn rows(&self, table: Arc<Table>, reading: &Reading, _: &Cancel) -> Result<Rows> {
        // Another connection of the same file, so that several tables can be read at a time.
        let (connection, found) = self.with_connection(|shared| {
            let connection = shared.another().map_err(|failure| self.file.failed(failure, "no connection can be made"))?;
            self.file.set_up(&connection)?;
            let schema = table.schema().unwrap_or(&self.file.schema);
            let found = self.file.columns(&connection, schema, table.name())?;
            Ok((connection, found))
        })?;
        let order = same_columns(&table, &found.iter().map(|described| &described.column).collect::<Vec<_>>())?;
        let described: Vec<&Described> = order.iter().filter_map(|&index| found.get(index)).collect();
        let selected: Vec<String> = described.iter().map(|described| described.selected(reading)).collect();
        let schema = table.schema().unwrap_or(&self.file.schema);
        let condition = reading.interval.as_ref().map(|interval| self::condition(interval, &found)).unwrap_or_default();
        let sql = format!("SELECT {} FROM {}{condition}", selected.join(", "), self.file.place(schema, table.name()));
        let forms: Vec<Form> = described.iter().map(|described| described.form_of(reading)).collect();
        let table = Arc::new(super::as_read(&table, reading));
        let interrupter = connection.interrupter();
        let interrupt: Interrupt = Box::new(move || interrupter.interrupt());
        let (file, reading, read) = (self.file.clone(), reading.clone(), Arc::clone(&table));
        Rows::start(table, Some(interrupt), "DuckDB cannot be used", move |outlet| {
            read_rows(&connection, &sql, &read, &forms, &reading, outlet, &file)
        })
    }
}

impl Described {
    /// What stands for the column in a SELECT, where dates may have to come as text.
    fn selected(&self, reading: &Reading) -> String {
        match self.form_of(reading) {
            Form::Text if self.form != Form::Text => format!("CAST({} AS VARCHAR)", quoted(self.column.name())),
            _ => self.selected.clone(),
        }
    }

    fn form_of(&self, reading: &Reading) -> Form {
        let is_date = matches!(self.column.column_type(), ColumnType::Date | ColumnType::DateTime { .. } | ColumnType::Timestamp { .. });
        if is_date && reading.zero_dates == crate::ZeroDates::Text { Form::Text } else { self.form }
    }
}

/// The rows of an interval, and maybe some more.
fn condition(interval: &Interval, columns: &[Described]) -> String {
    let column = interval.column();
    let is_comparable = columns.iter().any(|described| described.column.name() == column.name() && described.is_comparable);
    filter::condition(interval, &quoted(column.name()), |bound| {
        let text = match (bound, column.column_type()) {
            _ if !is_comparable => return None,
            (BoundValue::Int(number), _) => number.to_string(),
            (BoundValue::UInt(number), _) => number.to_string(),
            (BoundValue::Float(number), _) => format!("CAST('{:e}' AS DOUBLE)", f64::from(*number)),
            (BoundValue::Double(number), _) => format!("CAST('{number:e}' AS DOUBLE)"),
            (BoundValue::Decimal(digits), ColumnType::Decimal { precision, scale }) => {
                format!("CAST('{digits}' AS DECIMAL({precision},{scale}))")
            }
            // DuckDB reads the year 0 in another way.
            (BoundValue::Date(at), _) if at.year() > 0 => format!("DATE '{}'", at.date_text()),
            (BoundValue::DateTime(at), _) if at.year() > 0 => format!("TIMESTAMP '{}'", at.text(6)),
            (BoundValue::Timestamp(at), _) if at.year() > 0 => format!("TIMESTAMPTZ '{}+00'", at.text(6)),
            _ => return None,
        };
        Some(text)
    })
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
    let failed = |failure| file.failed(failure, &format!("table `{}` cannot be read", table.name()));
    let mut stream = connection.stream(sql).map_err(failed)?;
    let logical = stream.columns().to_vec();
    let filter = Filter::of(table, reading.interval.as_ref());
    while let Some(chunk) = stream.next().map_err(failed)? {
        let (mut bytes, start) = (0, outlet.batch().len());
        outlet.batch().push_rows(chunk.rows(), |columns| {
            for (index, ((column, declared), form)) in columns.iter_mut().zip(table.columns()).zip(forms).enumerate() {
                bytes += decode::fill(column, &chunk, index, &logical[index], *form, reading.zero_dates)
                    .map_err(|error| error.with_column(declared.name()))?;
            }
            Ok(())
        })?;
        if let Some(filter) = &filter {
            outlet.keep(start, filter);
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

    fn open(&self) -> Result<Connection> {
        let attempted = format!("the DuckDB file `{}` cannot be opened", self.shown());
        if !self.path.exists() {
            return Err(Error::new(ErrorKind::Source, format!("{attempted}: it is not there")));
        }
        let path =
            self.path.to_str().ok_or_else(|| Error::config(format!("the path of the DuckDB file is not UTF-8: `{}`", self.shown())))?;
        let settings = [
            ("memory_limit", format!("{}B", self.memory_limit_bytes)),
            // Nothing is fetched from the network on somebody's behalf.
            ("autoinstall_known_extensions", "false".to_owned()),
            ("autoload_known_extensions", "false".to_owned()),
            // The rows are taken one chunk after the other, and in the order in which they lie in the file.
            ("threads", "1".to_owned()),
        ];
        let connection = Connection::open_to_read(path, &settings).map_err(|failure| {
            let reason = match failure.message.as_str() {
                text if text.contains("Conflicting lock") || text.contains("being used by another process") => {
                    ": another process writes to it"
                }
                text if text.contains("Permission denied") => ": it may not be read",
                text if text.contains("not a valid DuckDB database") || text.contains("sqlite_scanner") => ": it is not a DuckDB database",
                text if text.contains("Could not read enough bytes") => ": it is cut short",
                _ => "",
            };
            Error::new(ErrorKind::Source, format!("{attempted}{reason}")).with_cause(failure.message)
        })?;
        let kind = "SELECT type FROM duckdb_databases() WHERE database_name = current_database()";
        let kind = self.ask(&connection, kind, "the file cannot be read")?.into_iter().flatten().next().unwrap_or_default();
        if kind != "duckdb" {
            return Err(Error::new(ErrorKind::Source, format!("{attempted}: it is not a DuckDB database, but one of {kind}")));
        }
        self.set_up(&connection)?;
        Ok(connection)
    }

    fn set_up(&self, connection: &Connection) -> Result<()> {
        // Moments are printed in UTC. Without the extension that knows zones they are in any case, and this is refused.
        if let Err(failure) = connection.execute("SET TimeZone = 'UTC'") {
            log::debug!("DuckDB takes no time zone: {}", failure.message);
        }
        Ok(())
    }

    fn ask(&self, connection: &Connection, sql: &str, attempted: &str) -> Result<Vec<Vec<String>>> {
        let rows = connection.query_text(sql).map_err(|failure| self.failed(failure, attempted))?;
        Ok(rows.into_iter().map(|row| row.into_iter().map(Option::unwrap_or_default).collect()).collect())
    }

    /// A table as SQL names it.
    fn place(&self, schema: &str, table: &str) -> String {
        [self.database.as_str(), schema, table].map(quoted).join(".")
    }

    /// The base tables of a schema.
    fn names(&self, connection: &Connection, schema: &str) -> Result<Vec<String>> {
        let sql = format!(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database() AND NOT internal AND NOT temporary AND schema_name = {} \
             ORDER BY table_name",
            literal(schema)
        );
        Ok(self.ask(connection, &sql, "the tables cannot be listed")?.into_iter().flatten().collect())
    }

    fn table(&self, connection: &Connection, schema: &str, name: &str) -> Result<Table> {
        let columns = self.columns(connection, schema, name)?;
        let sql = format!(
            "SELECT unnest(constraint_column_names) FROM duckdb_constraints() WHERE database_name = current_database() \
             AND constraint_type = 'PRIMARY KEY' AND schema_name = {} AND table_name = {}",
            literal(schema),
            literal(name)
        );
        let key: Vec<String> = self.ask(connection, &sql, "the keys cannot be listed")?.into_iter().flatten().collect();
        Table::new(name, columns.into_iter().map(|described| described.column).collect()).with_primary_key(&key)
    }

    fn columns(&self, connection: &Connection, schema: &str, table: &str) -> Result<Vec<Described>> {
        let attempted = format!("the columns of table `{table}` cannot be listed");
        let sql = format!(
            "SELECT column_name, is_nullable, data_type FROM duckdb_columns() WHERE database_name = current_database() AND schema_name = {} AND table_name = {} \
             ORDER BY column_index",
            literal(schema),
            literal(table)
        );
        let named = self.ask(connection, &sql, &attempted)?;
        if named.is_empty() {
            return Err(no_such_table(table));
        }
        let names: Vec<String> = named.iter().filter_map(|row| row.first()).map(|name| quoted(name)).collect();
        let place = self.place(schema, table);
        let sql = format!("SELECT {} FROM {place} LIMIT 0", names.join(", "));
        let types = connection.stream(&sql).map_err(|failure| self.failed(failure, &attempted))?.columns().to_vec();
        let mut columns = Vec::with_capacity(named.len());
        for ((row, logical), selected) in named.into_iter().zip(types).zip(names) {
            let [name, nullable, data_type] =
                <[String; 3]>::try_from(row).map_err(|_| Error::protocol("DuckDB answers with other columns than were asked for"))?;
            let width = if logical == Logical::Bit { self.bit_width(connection, &place, &selected)? } else { None };
            let (form, column_type) = decode::plan(&logical, width, self.interval_type);
            let selected = match (form, &logical) {
                (Form::Json, Logical::Nested) => format!("to_json({selected})"),
                (Form::Text, Logical::Varchar) => selected,
                (Form::Text, _) => format!("CAST({selected} AS VARCHAR)"),
                _ => selected,
            };
            let is_comparable = matches!(
                logical,
                Logical::Int { .. }
                    | Logical::Float
                    | Logical::Double
                    | Logical::Decimal { .. }
                    | Logical::Date
                    | Logical::Timestamp
                    | Logical::TimestampTz
            );
            let is_printed = form == Form::Text && logical != Logical::Varchar;
            let column = Column::new(name, column_type, nullable != "false").printed_of(is_printed.then_some(data_type));
            columns.push(Described { column, form, selected, is_comparable });
        }
        Ok(columns)
    }

    /// The width that all values of a column of bits have. DuckDB does not declare one.
    fn bit_width(&self, connection: &Connection, place: &str, column: &str) -> Result<Option<u8>> {
        let sql = format!("SELECT min(bit_length({column})), max(bit_length({column})) FROM {place}");
        let widths: Vec<String> = self.ask(connection, &sql, "a column of bits cannot be measured")?.into_iter().flatten().collect();
        Ok(match widths.as_slice() {
            [least, most] if least == most => least.parse().ok().filter(|width| (1..=64).contains(width)),
            _ => None,
        })
    }

    fn failed(&self, failure: Failure, attempted: &str) -> Error {
        let reason = match failure.kind {
            FailureKind::File => ": the file cannot be read",
            FailureKind::Memory => ": DuckDB's memory limit does not suffice",
            FailureKind::Value => ": DuckDB refuses a value or the statement",
            _ => "",
        };
        let error = Error::new(ErrorKind::Source, format!("`{}`: {attempted}{reason}", self.shown()));
        match failure.kind {
            // What DuckDB says about values quotes them.
            FailureKind::Value | FailureKind::Constraint => error,
            _ => error.with_cause(failure.message),
        }
    }
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
