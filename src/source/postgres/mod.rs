//! PostgreSQL as the origin of rows: `COPY … TO STDOUT` in binary, one statement for each table, so that it is the table at one moment.

mod connect;
pub(crate) mod copy;
mod decode;
mod message;
mod types;

use std::sync::{Arc, Mutex, PoisonError};

use self::connect::Connection;
use self::copy::{CopyReader, Fields};
use self::types::{Asked, Class, Form, PgType};
use super::filter::{self, Filter};
use super::patience::{Patience, unless};
use super::rows::{Outlet, Rows};
use super::server::ServerKind;
use super::{Origin, Reading, no_such_table, quoted, same_columns};
use crate::batch::Batch;
use crate::cancel::Cancel;
use crate::interval::{BoundValue, Interval};
use crate::options::SourceOptions;
use crate::place::IntervalType;
use crate::policy::ZeroDates;
use crate::retry::first_connection;
use crate::schema::{Column, ColumnType, Table};
use crate::{Error, ErrorKind, Result};

/// What is said of a thread that died of a panic.
const BROKEN: &str = "PostgreSQL's protocol was broken";

/// Where the base tables are: neither views nor parts of other tables, and nothing that ends with its session.
const BASE: &str = "pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'";

/// A PostgreSQL server, with one connection that is kept between calls; each reading of a table has its own.
pub(super) struct Postgres {
    options: SourceOptions,
    server: ServerKind,
    idle: Mutex<Option<Connection>>,
    patience: Patience,
}

/// A table of the server.
struct Found {
    oid: String,
    schema: String,
    name: String,
    /// It has parts, which hold its rows.
    is_partitioned: bool,
}

/// A column of the server, and how it is asked for and read.
struct Described {
    column: Column,
    form: Form,
    asked: Asked,
}

impl Postgres {
    pub(super) fn open(options: &SourceOptions, cancel: &Cancel) -> Result<Self> {
        let connection = first_connection(cancel, || Connection::open(options, cancel))?;
        let server = ServerKind::Postgres { version: connection.version().to_owned() };
        let patience = Patience::new("PostgreSQL", options.retry_timeout());
        Ok(Self { options: options.clone(), server, idle: Mutex::new(Some(connection)), patience })
    }

    /// Asks the server something, and asks again where the connection fails or breaks.
    fn with_connection<T: Send>(&self, cancel: &Cancel, work: impl Fn(&mut Connection) -> Result<T> + Sync) -> Result<T> {
        let ask = |mut connection: Connection| -> Result<T> {
            let (answer, connection) = unless(cancel, connection.interrupt(), BROKEN, || Ok((work(&mut connection)?, connection)))?;
            *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
            Ok(answer)
        };
        self.patience.persist(cancel, || {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(connection) = idle {
                match ask(connection) {
                    // Servers close connections that were idle for long.
                    Err(error) if error.is_transient() => {}
                    result => return result,
                }
            }
            ask(Connection::open(&self.options, cancel)?)
        })
    }

    fn interval_type(&self) -> IntervalType {
        self.options.interval_type()
    }

    /// The schemas in which a table without one is looked up.
    fn schemas(&self, connection: &mut Connection) -> Result<Vec<String>> {
        let (sql, missing) = match self.options.schema() {
            Some(schema) => {
                let sql = format!("SELECT nspname FROM pg_catalog.pg_namespace WHERE nspname = {}", literal(schema));
                (sql, format!("database `{}` has no schema `{schema}`", self.options.database()))
            }
            None => {
                let sql = "SELECT unnest(pg_catalog.current_schemas(false))".to_owned();
                (sql, format!("no schema of the `search_path` is in database `{}`", self.options.database()))
            }
        };
        let schemas: Vec<String> = connection.query(&sql, "the schemas cannot be listed")?.into_iter().flatten().flatten().collect();
        if schemas.is_empty() { Err(Error::new(ErrorKind::Schema, missing)) } else { Ok(schemas) }
    }

    fn find(&self, connection: &mut Connection, name: &str) -> Result<Found> {
        for schema in self.schemas(connection)? {
            if let Some(found) = found_in(connection, &schema, Some(name))?.pop() {
                return Ok(found);
            }
        }
        if let Some((schema, table)) = name.split_once('.')
            && let Some(found) = found_in(connection, schema, Some(table))?.pop()
        {
            return Ok(found);
        }
        Err(no_such_table(name))
    }
}

impl Origin for Postgres {
    fn server(&self) -> &ServerKind {
        &self.server
    }

    fn tables(&self, cancel: &Cancel) -> Result<Vec<Table>> {
        self.with_connection(cancel, |connection| {
            let mut tables: Vec<Table> = Vec::new();
            for schema in self.schemas(connection)? {
                for found in found_in(connection, &schema, None)? {
                    // What the first schema of the path has hides what the others have.
                    if !super::is_own(&found.name) && tables.iter().all(|table| table.name() != found.name) {
                        tables.push(table(connection, &found, self.interval_type())?);
                    }
                }
            }
            tables.sort_by(|one, other| one.name().cmp(other.name()));
            Ok(tables)
        })
    }

    fn table(&self, name: &str, cancel: &Cancel) -> Result<Table> {
        self.with_connection(cancel, |connection| {
            let found = self.find(connection, name)?;
            table(connection, &found, self.interval_type())
        })
    }

    fn rows(&self, table: Arc<Table>, reading: &Reading, cancel: &Cancel) -> Result<Rows> {
        let (connection, sql, forms) = self.patience.persist(cancel, || {
            let mut connection = Connection::open(&self.options, cancel)?;
            unless(cancel, connection.interrupt(), BROKEN, || {
                let (sql, forms) = self.begin(&mut connection, &table, reading)?;
                Ok((connection, sql, forms))
            })
        })?;
        let table = Arc::new(super::as_read(&table, reading));
        let (read, reading) = (Arc::clone(&table), reading.clone());
        let interrupt = connection.interrupt();
        Rows::start(table, interrupt, BROKEN, move |outlet| read_rows(connection, &sql, &read, &forms, &reading, outlet))
    }
}

impl Postgres {
    /// Makes sure that the table stays as it is until it is read, and says how to.
    fn begin(&self, connection: &mut Connection, table: &Table, reading: &Reading) -> Result<(String, Vec<Form>)> {
        let schema = table.schema().unwrap_or("public");
        let attempted = format!("table `{}` cannot be read", table.name());
        let place = format!("{}.{}", quoted(schema), quoted(table.name()));
        connection.query("BEGIN READ ONLY", &attempted)?;
        // It waits for nobody but those who change the table's definition, and keeps nobody else from anything.
        connection
            .query(&format!("LOCK TABLE ONLY {place} IN ACCESS SHARE MODE"), &attempted)
            .map_err(|error| error.with_table(table.name()))?;
        let Some(found) = found_in(connection, schema, Some(table.name()))?.pop() else { return Err(no_such_table(table.name())) };
        let described = columns(connection, &found, self.interval_type())?;
        let order = same_columns(table, &described.iter().map(|described| &described.column).collect::<Vec<_>>())?;
        let chosen: Vec<&Described> = order.iter().filter_map(|&index| described.get(index)).collect();
        let selected: Vec<String> = chosen.iter().map(|described| described.read(reading).1.expression(described.column.name())).collect();
        let only = if found.is_partitioned { "" } else { "ONLY " };
        let condition = reading.interval.as_ref().map(|interval| self::condition(interval, &described)).unwrap_or_default();
        let sql = format!("COPY (SELECT {} FROM {only}{place}{condition}) TO STDOUT (FORMAT binary)", selected.join(", "));
        Ok((sql, chosen.iter().map(|described| described.read(reading).0).collect()))
    }
}

impl Described {
    /// How the column is read, where a policy may want dates as text.
    fn read(&self, reading: &Reading) -> (Form, Asked) {
        let is_date = matches!(self.column.column_type(), ColumnType::Date | ColumnType::DateTime { .. } | ColumnType::Timestamp { .. });
        match is_date && reading.zero_dates == ZeroDates::Text {
            true => (Form::Text, Asked::AsText),
            false => (self.form, self.asked),
        }
    }
}

/// The rows of an interval, and maybe some more.
fn condition(interval: &Interval, columns: &[Described]) -> String {
    let name = interval.column().name();
    let is_comparable = columns.iter().any(|described| described.column.name() == name && described.asked == Asked::AsItIs);
    filter::condition(interval, &quoted(name), |bound| {
        Some(match bound {
            _ if !is_comparable => return None,
            BoundValue::Int(number) => number.to_string(),
            BoundValue::Decimal(digits) => digits.clone(),
            BoundValue::Float(number) => format!("'{:e}'::pg_catalog.float8", f64::from(*number)),
            BoundValue::Double(number) => format!("'{number:e}'::pg_catalog.float8"),
            // PostgreSQL has no year 0.
            BoundValue::Date(at) if at.year() > 0 => format!("DATE '{}'", at.date_text()),
            BoundValue::DateTime(at) if at.year() > 0 => format!("TIMESTAMP '{}'", at.text(6)),
            BoundValue::Timestamp(at) if at.year() > 0 => format!("TIMESTAMPTZ '{}+00'", at.text(6)),
            _ => return None,
        })
    })
}

fn read_rows(mut connection: Connection, sql: &str, table: &Table, forms: &[Form], reading: &Reading, outlet: &mut Outlet) -> Result<()> {
    connection.copy_out(sql, &format!("table `{}` cannot be read", table.name()))?;
    let attempted = format!("table `{}` cannot be read to its end", table.name());
    let mut copy = CopyReader::new(forms.len());
    let mut scratch = String::new();
    let mut is_wanted = true;
    let filter = Filter::of(table, reading.interval.as_ref());
    while let Some(bytes) = connection.copied(&attempted)? {
        copy.feed(bytes, |fields| {
            let filled = push_row(outlet.batch(), table, forms, &fields, reading, &mut scratch)?;
            if let Some(filter) = &filter {
                let last = outlet.batch().len() - 1;
                outlet.keep(last, filter);
            }
            is_wanted = outlet.filled(filled).is_ok();
            Ok(())
        })?;
        if !is_wanted {
            return Ok(());
        }
    }
    copy.finish()
}

/// Appends a row; about how many bytes its values take.
fn push_row(
    batch: &mut Batch,
    table: &Table,
    forms: &[Form],
    fields: &Fields<'_>,
    reading: &Reading,
    scratch: &mut String,
) -> Result<usize> {
    // The digits of a `numeric` may be 131,072 for six bytes that come; nothing else is much longer than what comes.
    let before = forms.contains(&Form::Digits).then(|| batch.bytes());
    batch.push_row(|columns| {
        for (((column, declared), form), value) in columns.iter_mut().zip(table.columns()).zip(forms).zip(fields.iter()) {
            decode::push(column, *form, value, reading, scratch).map_err(|error| error.with_column(declared.name()))?;
        }
        Ok(())
    })?;
    let came = fields.bytes() + forms.len() * 5;
    Ok(before.map_or(came, |before| came.max(batch.bytes() - before)))
}

/// For the fuzzer: the rows of a copy of columns of such types, each an oid and a modifier, that comes in pieces of that size; and what the error
/// was after them.
#[cfg(any(feature = "_fuzzing", test))]
pub(crate) fn copied(types: &[(u32, i32)], bytes: &[u8], piece: usize) -> (Vec<Vec<String>>, Option<Error>) {
    let plans = types.iter().map(|&(oid, modifier)| types::plan(&PgType { oid, modifier, class: Class::Base }, 2, IntervalType::Time));
    let (columns, forms): (Vec<Column>, Vec<Form>) =
        plans.enumerate().map(|(at, (column_type, form, _))| (Column::new(format!("c{at}"), column_type, true), form)).unzip();
    let table = Arc::new(Table::new("t", columns));
    let mut rows = Vec::new();
    let mut copy = CopyReader::new(forms.len());
    let read = bytes.chunks(piece.max(1)).try_for_each(|bytes| {
        copy.feed(bytes, |fields| {
            let mut batch = Batch::new(Arc::clone(&table));
            let filled = push_row(&mut batch, &table, &forms, &fields, &Reading::default(), &mut String::new())?;
            // A value and its length count; what the batch has beside that is of one size for each column.
            assert!(batch.bytes() <= filled + forms.len() * 96, "{} bytes count as {filled}", batch.bytes());
            rows.push((0..forms.len()).map(|column| batch.value(0, column).to_string()).collect());
            Ok(())
        })
    });
    (rows, read.and_then(|()| copy.finish()).err())
}

/// The base tables of a schema, or the one of that name.
fn found_in(connection: &mut Connection, schema: &str, name: Option<&str>) -> Result<Vec<Found>> {
    let only = name.map_or_else(String::new, |name| format!(" AND c.relname = {}", literal(name)));
    let sql = format!("SELECT c.oid, c.relname, c.relkind FROM {BASE} AND n.nspname = {}{only} ORDER BY c.relname", literal(schema));
    let rows = connection.query(&sql, "the tables cannot be listed")?;
    rows.into_iter()
        .map(|row| {
            let [oid, name, kind] = cells(row)?;
            Ok(Found { oid, schema: schema.to_owned(), name, is_partitioned: kind == "p" })
        })
        .collect()
}

fn table(connection: &mut Connection, found: &Found, interval_type: IntervalType) -> Result<Table> {
    let columns = columns(connection, found, interval_type)?;
    // Columns that the index only includes follow those of the key. Servers before PostgreSQL 11 have none, nor the number of the others, for which
    // `to_jsonb` has NULL then.
    let sql = format!(
        "SELECT a.attname FROM pg_catalog.pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, place) \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
         WHERE i.indrelid = {} AND i.indisprimary \
         AND k.place <= coalesce((pg_catalog.to_jsonb(i) ->> 'indnkeyatts')::pg_catalog.int2, i.indnatts) ORDER BY k.place",
        found.oid
    );
    let key = connection.query(&sql, &format!("the key of table `{}` cannot be read", found.name))?;
    let key: Vec<String> = key.into_iter().flatten().flatten().collect();
    let columns = columns.into_iter().map(|described| described.column).collect();
    Table::new(&found.name, columns).in_schema(Some(found.schema.clone())).with_primary_key(&key)
}

fn columns(connection: &mut Connection, found: &Found, interval_type: IntervalType) -> Result<Vec<Described>> {
    let attempted = format!("the columns of table `{}` cannot be listed", found.name);
    // Domains may be made of domains; what is asked of the last one's base type holds for all of them. Through `to_jsonb` a column of the catalogue
    // may be missing: older servers generate no columns.
    let sql = format!(
        "WITH RECURSIVE behind(attnum, oid, modifier, not_null) AS (\
           SELECT a.attnum, a.atttypid, a.atttypmod, a.attnotnull FROM pg_catalog.pg_attribute a \
           WHERE a.attrelid = {} AND a.attnum > 0 AND NOT a.attisdropped \
           UNION ALL SELECT b.attnum, t.typbasetype, CASE WHEN b.modifier = -1 THEN t.typtypmod ELSE b.modifier END, b.not_null OR t.typnotnull \
           FROM behind b JOIN pg_catalog.pg_type t ON t.oid = b.oid AND t.typtype = 'd') \
         SELECT a.attname, t.oid, b.modifier, b.not_null, t.typtype, t.typcategory, pg_catalog.to_jsonb(a) ->> 'attgenerated', \
         pg_catalog.format_type(t.oid, NULL) \
         FROM behind b JOIN pg_catalog.pg_type t ON t.oid = b.oid AND t.typtype <> 'd' \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = {} AND a.attnum = b.attnum ORDER BY a.attnum",
        found.oid, found.oid
    );
    let rows = connection.query(&sql, &attempted)?;
    let mut money_scale = None;
    let mut described = Vec::with_capacity(rows.len());
    for row in rows {
        let [name, oid, modifier, not_null, kind, category, generated, type_name] = cells(row)?;
        let number = |text: &str| text.parse().map_err(|_| Error::protocol("the catalogue has a number that is none"));
        let class = match (kind.as_str(), category.as_str()) {
            ("e", _) => Class::Enum(labels(connection, &oid, &attempted)?),
            ("c", _) | (_, "A") => Class::Nested,
            _ => Class::Base,
        };
        let pg = PgType {
            oid: oid.parse().map_err(|_| Error::protocol("the catalogue has an oid that is none"))?,
            modifier: number(&modifier)?,
            class,
        };
        if pg.oid == 790 && money_scale.is_none() {
            let scale = connection.query("SELECT pg_catalog.scale('1'::money::numeric)", &attempted)?;
            money_scale = scale.into_iter().flatten().flatten().next().and_then(|scale| scale.parse().ok());
        }
        let (column_type, form, asked) = types::plan(&pg, money_scale.unwrap_or(2), interval_type);
        // Strings (S) of extensions, such as `citext`, are asked for as text, which they are.
        let is_printed =
            form == Form::Digits || form == Form::Text && asked != Asked::AsItIs && column_type != ColumnType::Json && category != "S";
        let column = Column::new(name, column_type, not_null != "t").generated(!generated.is_empty());
        let column = column.printed_of(is_printed.then_some(type_name));
        described.push(Described { column, form, asked });
    }
    Ok(described)
}

fn labels(connection: &mut Connection, oid: &str, attempted: &str) -> Result<Vec<String>> {
    let sql = format!("SELECT enumlabel FROM pg_catalog.pg_enum WHERE enumtypid = {oid} ORDER BY enumsortorder");
    Ok(connection.query(&sql, attempted)?.into_iter().flatten().flatten().collect())
}

/// The cells of a row of a query with `N` columns, in which NULL means the same as nothing.
fn cells<const N: usize>(row: Vec<Option<String>>) -> Result<[String; N]> {
    let row: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
    row.try_into().map_err(|_| Error::protocol("the catalogue answers with another number of columns than was asked for"))
}

/// A text as PostgreSQL's statements take it; backslashes are none to it in this session.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
