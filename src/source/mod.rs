//! Where rows come from.

pub(crate) mod charset;
#[cfg(feature = "duckdb")]
mod duckdb;
#[cfg(any(feature = "sqlite", feature = "duckdb", feature = "postgres"))]
pub(crate) mod filter;
pub(crate) mod mysql;
pub(crate) mod patience;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
pub(crate) mod rows;
pub(crate) mod server;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(feature = "vstream", feature = "_fuzzing", test))]
pub(crate) mod vstream;

use std::sync::Arc;

use self::mysql::{Connection, MySql};
use self::rows::Rows;
use self::server::ServerKind;
use crate::batch::ColumnData;
use crate::cancel::Cancel;
use crate::ingest::IngestOptions;
use crate::interval::Interval;
use crate::options::SourceOptions;
use crate::place::SourcePlace;
use crate::policy::{MalformedText, ZeroDates};
use crate::schema::{Column, ColumnType, Table};
use crate::value::DateTime;
use crate::{Error, ErrorKind, Result};

/// A database that rows are read from: MySQL, PlanetScale or Vitess, PostgreSQL, or an SQLite or DuckDB file.
///
/// Of a server it keeps one connection between calls; each reading of a table has its own. Once it is open, a connection that fails or breaks is
/// made anew and the question asked again, with growing pauses and for as long as [`SourceOptions::with_retry_timeout`] says.
pub struct Source {
    options: SourceOptions,
    kind: Kind,
}

enum Kind {
    /// By its own type, since change capture has more to ask.
    MySql(Box<MySql>),
    #[cfg(any(feature = "sqlite", feature = "duckdb", feature = "postgres"))]
    Other(Box<dyn Origin>),
}

/// What is behind a [`Source`], which documents the methods.
pub(crate) trait Origin: Send + Sync {
    fn server(&self) -> &ServerKind;
    fn tables(&self, cancel: &Cancel) -> Result<Vec<Table>>;
    fn table(&self, name: &str, cancel: &Cancel) -> Result<Table>;
    fn rows(&self, table: Arc<Table>, reading: &Reading, cancel: &Cancel) -> Result<Rows>;
}

/// How the rows of a table are read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading {
    pub(crate) malformed_text: MalformedText,
    /// For what is no value of a [`DateTime`](crate::DateTime). Those that are, but that no calendar has, concern destinations only.
    pub(crate) zero_dates: ZeroDates,
    /// Only the rows of it.
    pub(crate) interval: Option<Interval>,
}

impl Source {
    /// Opens what a URI names: `mysql://user:password@host:port/database`, `postgresql://…`, `sqlite:///path.db`, `duckdb:///path.duckdb`.
    ///
    /// # Errors
    /// `Config` for the URI itself; `Connect`, `Tls`, `Auth`, `Timeout` or `Schema` (no such database) for the connection, all within the
    /// connect time limit. A connection that fails is not tried again. `Source` for a file that is not there, or not a database of that kind;
    /// `Unsupported` without the feature that it needs.
    pub fn open(uri: &str) -> Result<Self> {
        Self::open_with(&SourceOptions::from_uri(uri)?)
    }

    /// Connects as the options say.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn open_with(options: &SourceOptions) -> Result<Self> {
        Self::open_unless(options, &Cancel::new())
    }

    /// Connects as the options say, unless it is cancelled meanwhile.
    ///
    /// # Errors
    /// As [`Source::open`]; `Cancelled`.
    pub fn open_unless(options: &SourceOptions, cancel: &Cancel) -> Result<Self> {
        options.check()?;
        let kind = match options.place() {
            SourcePlace::MySql => Kind::MySql(Box::new(MySql::open(options, cancel)?)),
            #[cfg(feature = "sqlite")]
            SourcePlace::Sqlite => Kind::Other(Box::new(sqlite::Sqlite::open(options, cancel)?)),
            #[cfg(not(feature = "sqlite"))]
            SourcePlace::Sqlite => return Err(built_without("sqlite")),
            #[cfg(feature = "duckdb")]
            SourcePlace::DuckDb => Kind::Other(Box::new(duckdb::DuckDb::open(options)?)),
            #[cfg(not(feature = "duckdb"))]
            SourcePlace::DuckDb => return Err(built_without("duckdb")),
            #[cfg(feature = "postgres")]
            SourcePlace::Postgres => Kind::Other(Box::new(postgres::Postgres::open(options, cancel)?)),
            #[cfg(not(feature = "postgres"))]
            SourcePlace::Postgres => return Err(built_without("postgres")),
        };
        Ok(Self { options: options.clone(), kind })
    }

    /// The rows of a table that options choose by the values of a column.
    ///
    /// # Errors
    /// As [`Interval::of`]; `Config` if the column's dates are read as the text that the source prints: a destination holds them in that form, and looks
    /// for the interval's bounds in MySQL's.
    pub(crate) fn interval(&self, table: &Table, options: &IngestOptions, key: &str) -> Result<Interval> {
        let interval = Interval::of(&options.as_read(table), key, options.interval_start(), options.interval_end())?;
        let is_date = is_date(interval.column().column_type());
        if is_date && options.zero_dates() == ZeroDates::Text && !matches!(self.kind, Kind::MySql(_)) {
            let message = format!(
                "column `{}` is {} at the source, whose dates are read as the text that {} prints with `zero_dates` as `text`: so it cannot be the \
                 `incremental_key`",
                interval.column().name(),
                interval.column().column_type(),
                self.server().name()
            );
            return Err(Error::config(message).with_table(table.name()).with_column(interval.column().name()));
        }
        Ok(interval)
    }

    fn origin(&self) -> &dyn Origin {
        match &self.kind {
            Kind::MySql(mysql) => mysql.as_ref(),
            #[cfg(any(feature = "sqlite", feature = "duckdb", feature = "postgres"))]
            Kind::Other(origin) => origin.as_ref(),
        }
    }

    /// What the server says it is, or of what kind the file is.
    pub fn server(&self) -> &ServerKind {
        self.origin().server()
    }

    /// The options that it was opened with.
    pub fn options(&self) -> &SourceOptions {
        &self.options
    }

    /// Every base table of the database, by name: no views, no tables of Vitess or of the file's format, none that a tool for online schema changes
    /// or this crate left. Where there are schemas, those of the default one.
    ///
    /// # Errors
    /// `Source`, `Connect` or `Timeout` if the server does not answer; `Schema` if a column has a type that cannot be mapped.
    pub fn tables(&self) -> Result<Vec<Table>> {
        self.tables_unless(&Cancel::new())
    }

    pub(crate) fn tables_unless(&self, cancel: &Cancel) -> Result<Vec<Table>> {
        self.origin().tables(cancel)
    }

    /// One base table by its exact name. Where there are schemas, `schema.table` is one of another schema than the default one, unless the default
    /// one has a table of that very name.
    ///
    /// # Errors
    /// As [`Source::tables`]; `Schema` if there is no such table.
    pub fn table(&self, name: &str) -> Result<Table> {
        self.table_unless(name, &Cancel::new())
    }

    pub(crate) fn table_unless(&self, name: &str, cancel: &Cancel) -> Result<Table> {
        self.origin().table(name, cancel)
    }

    /// Reads all rows of a table, in batches.
    ///
    /// # Errors
    /// As [`Source::table`], and those of connecting.
    pub fn rows(&self, name: &str) -> Result<Rows> {
        self.rows_of(Arc::new(self.table(name)?))
    }

    /// Reads all rows of a table that [`Source::tables`] described, with the columns that it had then.
    ///
    /// # Errors
    /// Those of connecting; a column that is gone shows when the first batch is asked for.
    pub fn rows_of(&self, table: Arc<Table>) -> Result<Rows> {
        self.rows_with(table, MalformedText::default())
    }

    /// Reads all rows of a table, with a choice of what becomes of bytes that are no text of their column's character set. With
    /// [`MalformedText::Bytes`] the table of the batches has columns of bytes in place of those of text.
    ///
    /// # Errors
    /// As [`Source::rows_of`].
    pub fn rows_with(&self, table: Arc<Table>, malformed_text: MalformedText) -> Result<Rows> {
        self.rows_unless(table, &Reading { malformed_text, ..Reading::default() }, &Cancel::new())
    }

    /// Reads the rows of a table whose value in `column` lies between two values, both included, as MySQL prints such values. Without one of them the
    /// interval goes to that end. NULL lies in no interval, nor do dates that no calendar has; text is compared by its bytes in UTF-8.
    ///
    /// # Errors
    /// As [`Source::rows_of`]; `Schema` if there is no such column; `Config` if `start` or `end` is no value of it, or it has no order.
    pub fn rows_between(&self, table: Arc<Table>, column: &str, start: Option<&str>, end: Option<&str>) -> Result<Rows> {
        let interval = Some(Interval::of(&table, column, start, end)?);
        self.rows_unless(table, &Reading { interval, ..Reading::default() }, &Cancel::new())
    }

    pub(crate) fn rows_unless(&self, table: Arc<Table>, reading: &Reading, cancel: &Cancel) -> Result<Rows> {
        self.origin().rows(table, reading, cancel)
    }

    /// Captures changes of tables, as a URI `mysql+cdc://…` says.
    ///
    /// Blocks while the positions are compared with what the server still has; nothing is streamed before the first call of `next`.
    ///
    /// # Errors
    /// `Config` if the source was not opened for change capture; `Unsupported` if the server is not Vitess; `Position` if one of the positions
    /// cannot be resumed from; `Schema` if a table has no primary key.
    #[cfg(feature = "vstream")]
    pub fn changes(&self, request: vstream::run::CaptureRequest, cancel: crate::Cancel) -> Result<vstream::run::Changes<'_>> {
        if !matches!(self.kind, Kind::MySql(_)) {
            let message = format!("change capture needs Vitess or PlanetScale, but the source is {}", self.server().name());
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        vstream::run::Changes::start(self, request, cancel)
    }

    /// Asks a MySQL server something, and asks again where the connection fails or breaks.
    pub(crate) fn with_connection<T: Send>(&self, cancel: &Cancel, work: impl Fn(&mut Connection) -> Result<T> + Sync) -> Result<T> {
        match &self.kind {
            Kind::MySql(mysql) => mysql.with_connection(cancel, work),
            #[cfg(any(feature = "sqlite", feature = "duckdb", feature = "postgres"))]
            Kind::Other(_) => Err(Error::new(ErrorKind::Unsupported, "change capture needs Vitess or PlanetScale")),
        }
    }
}

/// A name as standard SQL takes it, whatever it holds.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Whether this crate keeps its account in a table of that name, beside those that it has written.
fn is_own(name: &str) -> bool {
    name.starts_with("_ingest_")
}

fn no_such_table(name: &str) -> Error {
    Error::new(ErrorKind::Schema, format!("the source has no base table `{name}`")).with_table(name)
}

/// Where each column of a table that was described before is among those that it has now.
///
/// # Errors
/// `Schema` if one is gone or has another type.
fn same_columns(table: &Table, now: &[&Column]) -> Result<Vec<usize>> {
    let changed = |column: &Column, what: &str| {
        let message = format!("column `{}` of table `{}` {what} since the table was looked at", column.name(), table.name());
        Error::new(ErrorKind::Schema, message).with_table(table.name()).with_column(column.name())
    };
    table
        .columns()
        .iter()
        .map(|column| {
            let index = now.iter().position(|now| now.name() == column.name()).ok_or_else(|| changed(column, "is gone"))?;
            if now[index].column_type() == column.column_type() { Ok(index) } else { Err(changed(column, "has changed its type")) }
        })
        .collect()
}

fn is_date(column_type: &ColumnType) -> bool {
    matches!(column_type, ColumnType::Date | ColumnType::DateTime { .. } | ColumnType::Timestamp { .. })
}

/// The table as its rows come: with other types where a policy wants them.
fn as_read(table: &Table, reading: &Reading) -> Table {
    let mut read = table.clone();
    if reading.zero_dates == ZeroDates::Text {
        for (index, column) in table.columns().iter().enumerate() {
            if is_date(column.column_type()) {
                read = read.with_column_type(index, ColumnType::Text { length: None });
            }
        }
    }
    if reading.malformed_text == MalformedText::Bytes { read.with_text_as_bytes() } else { read }
}

/// Appends a date or a moment; `None` is one that MySQL does not have.
fn push_moment(column: &mut ColumnData, moment: Option<DateTime>, zero_dates: ZeroDates) -> Result<()> {
    match (moment, zero_dates) {
        (Some(moment), _) => column.push_datetime(moment),
        (None, ZeroDates::Null) => {
            column.push_nulled_date();
            Ok(())
        }
        (None, _) => {
            let message = "a date is before Christ, beyond the year 9999, or infinite, which MySQL does not have; `zero_dates` says what becomes of it";
            Err(Error::decode(message))
        }
    }
}

fn not_finite(is_nan: bool) -> Error {
    let what = if is_nan { "not a number" } else { "infinite" };
    Error::decode(format!("a value is {what}, which MySQL does not have"))
}

/// A decimal with as many digits after the point as its column has, one before it at least, and no zeros in front; `None` if the text is no number or has
/// more digits.
fn decimal(text: &str, precision: u8, scale: u8) -> Option<String> {
    let (sign, unsigned) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    let scale = usize::from(scale);
    if whole.len() > usize::from(precision) - scale || fraction.len() > scale {
        return None;
    }
    let sign = if whole.is_empty() && fraction.is_empty() { "" } else { sign };
    let (whole, point) = (if whole.is_empty() { "0" } else { whole }, if scale > 0 { "." } else { "" });
    Some(format!("{sign}{whole}{point}{fraction:0<scale$}"))
}

#[cfg(not(all(feature = "sqlite", feature = "duckdb", feature = "postgres")))]
fn built_without(feature: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("built without the feature `{feature}`, which this source needs"))
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("options", &self.options).field("server", self.server()).finish_non_exhaustive()
    }
}
