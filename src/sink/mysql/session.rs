//! A connection that writes, and what its failures mean.

use std::io::Write as _;
use std::time::{Duration, Instant};

use mysql::LocalInfileHandler;
use mysql::prelude::Queryable;

use super::encode::{literal, push_printed};
use crate::cancel::Cancel;
use crate::options::SourceOptions;
use crate::retry::{Retry, first_connection};
use crate::schema::Column;
use crate::server::{Connection, is_tablet_away, query_error, quoted};
use crate::{Error, ErrorKind, Result};

/// Zero and partial dates are stored as they are, and zero in a column that counts by itself stays zero; everything else that would be changed is an error.
const SQL_MODE: &str = "SET sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO'";

/// A connection that writes.
pub(super) struct Session {
    connection: Connection,
    options: SourceOptions,
}

/// What the failure of a statement means for whoever sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The connection broke: whether the statement was carried out is not known.
    Lost,
    /// The statement was not carried out, and the same one may be in a moment.
    Busy,
    /// The same, since the server has no room at the moment, whatever the size of the statement: its pools are full, or it throttles.
    Full,
    /// The same, since others hold locks; of a transaction only the statement is undone.
    Locked,
    /// Fewer rows in a statement, or shorter transactions, would pass.
    TooMuch,
    /// The server does not let this user, or anybody, change tables.
    NoDdl,
    /// vtgate does not know the table or column, which it may in a moment if that is new.
    Unknown,
    /// Two rows have the same key.
    Duplicate,
    Other,
}

impl Fault {
    /// Whether the same statement may pass in a moment, if repeating it does no harm.
    pub(super) fn may_pass(self) -> bool {
        self.is_passing() || self == Self::Unknown
    }

    /// The same for a table that the server is known to know.
    pub(super) fn is_passing(self) -> bool {
        matches!(self, Self::Lost | Self::Busy | Self::Full | Self::Locked)
    }
}

/// A statement that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) fault: Fault,
    pub(super) error: Error,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { fault: Fault::Other, error }
    }
}

/// Some rows, by their keys.
pub(super) struct Among {
    pub(super) rows: u64,
    /// What these rows meet, and no others.
    pub(super) condition: String,
}

/// Waits until what failed may be tried again, and returns why it failed.
///
/// # Errors
/// The failure, if it was tried again for long enough.
pub(super) fn pause(retry: &mut Retry, began: Instant, failure: Failure) -> Result<Failure, Failure> {
    if retry.pause(began, &Cancel::new())? { Ok(failure) } else { Err(failure) }
}

impl Session {
    /// The first one for a purpose.
    pub(super) fn open(options: &SourceOptions) -> Result<Self> {
        first_connection(&Cancel::new(), || Self::connect(options))
    }

    fn connect(options: &SourceOptions) -> Result<Self> {
        let mut connection = Connection::open(options, &Cancel::new())?;
        let refused = |cause| Error::from(failure(cause, "the session cannot be set up to write", &[]));
        let vitess = connection.server().is_vitess();
        let conn = connection.conn();
        conn.query_drop(SQL_MODE).map_err(refused)?;
        if vitess {
            // Transactions are not for `olap`.
            conn.query_drop("SET workload = 'oltp'").map_err(refused)?;
        }
        Ok(Self { connection, options: options.clone() })
    }

    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    pub(super) fn is_vitess(&self) -> bool {
        self.connection.server().is_vitess()
    }

    /// Makes the connection anew if the server has closed it, as many do with one that is idle for long.
    pub(super) fn revive(&mut self) -> Result<()> {
        match self.connection.conn().ping() {
            Ok(()) => Ok(()),
            Err(_) => self.reconnect(),
        }
    }

    /// Makes the connection anew, for as long as the options say.
    pub(super) fn reconnect(&mut self) -> Result<()> {
        let mut retry = Retry::new(self.options.retry_timeout());
        loop {
            let began = Instant::now();
            match Self::connect(&self.options) {
                Ok(session) => {
                    *self = session;
                    return Ok(());
                }
                Err(error) if error.is_transient() && retry.pause(began, &Cancel::new())? => {}
                Err(error) => return Err(as_sink(error)),
            }
        }
    }

    /// As [`pause`], and makes the connection anew if that broke.
    pub(super) fn recover(&mut self, retry: &mut Retry, began: Instant, failure: Failure) -> Result<Failure, Failure> {
        let failure = pause(retry, began, failure)?;
        if failure.fault == Fault::Lost {
            self.reconnect()?;
        }
        Ok(failure)
    }

    pub(super) fn retry(&self) -> Retry {
        Retry::new(self.options.retry_timeout())
    }

    /// Runs a statement that returns no rows; how many it changed. `names` are those of columns and keys that an error may repeat after the server.
    pub(super) fn try_execute(&mut self, sql: &str, attempted: &str, names: &[String]) -> Result<u64, Failure> {
        match self.connection.conn().query_drop(sql) {
            Ok(()) => Ok(self.connection.affected_rows()),
            Err(cause) => Err(failure(cause, attempted, names)),
        }
    }

    /// Runs `LOAD DATA LOCAL INFILE` with a text in place of the file; how many rows were stored, and how many warnings there are.
    pub(super) fn try_load(&mut self, sql: &str, text: &str, attempted: &str, names: &[String]) -> Result<(u64, u16), Failure> {
        let text = text.to_owned();
        let conn = self.connection.conn();
        // For this statement only: a server may ask for a file whenever it likes.
        conn.set_local_infile_handler(Some(LocalInfileHandler::new(move |_, file| file.write_all(text.as_bytes()))));
        let loaded = conn.query_drop(sql);
        conn.set_local_infile_handler(None);
        match loaded {
            Ok(()) => Ok((conn.affected_rows(), conn.warnings())),
            Err(cause) => Err(failure(cause, attempted, names)),
        }
    }

    /// How many of the rows of an `INSERT … ON DUPLICATE KEY UPDATE`, which has just changed so many, were there before, as MySQL tells.
    pub(super) fn replaced(&self, rows: u64, affected: u64) -> Option<u64> {
        let info = self.connection.info();
        // Of one row there is nothing told. A row that is new counts once, one that was changed twice, one that stays as it was not at all.
        let changed = if rows == 1 { affected / 2 } else { duplicates(&info)? };
        rows.checked_sub(affected.checked_sub(changed * 2)?)
    }

    pub(super) fn execute(&mut self, sql: &str, attempted: &str) -> Result<u64> {
        Ok(self.try_execute(sql, attempted, &[])?)
    }

    /// All rows of a small result about the schema, as text.
    pub(super) fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let mut retry = Retry::new(UNSETTLED);
        loop {
            let began = Instant::now();
            match self.connection.query(sql, &[]) {
                // vtgate has been seen to answer so, seldom, while it takes in other changes of the schema.
                Err(error) if self.is_vitess() && error.to_string().contains("error 1105 ") && retry.pause(began, &Cancel::new())? => {}
                result => return result.map_err(as_sink),
            }
        }
    }

    /// Whether a setting of the server, which not every one has, is on.
    pub(super) fn has_setting(&mut self, name: &str) -> Result<bool> {
        let said = self.query(&format!("SHOW GLOBAL VARIABLES LIKE {}", literal(name)))?;
        Ok(said.first().and_then(|row| row.get(1)).is_some_and(|value| matches!(value.as_deref(), Some("ON" | "1"))))
    }

    pub(super) fn try_query(&mut self, sql: &str, attempted: &str) -> Result<Vec<Vec<Option<Vec<u8>>>>, Failure> {
        let rows: Vec<mysql::Row> = self.connection.conn().query(sql).map_err(|cause| failure(cause, attempted, &[]))?;
        let cell = |value: mysql::Value| match value {
            mysql::Value::NULL => None,
            mysql::Value::Bytes(bytes) => Some(bytes),
            // The text protocol has nothing else.
            other => Some(other.as_sql(true).trim_matches('\'').as_bytes().to_vec()),
        };
        Ok(rows.into_iter().map(|row| row.unwrap().into_iter().map(cell).collect()).collect())
    }

    /// The number that a query answers with, `None` if it is none.
    pub(super) fn try_count(&mut self, sql: &str, attempted: &str) -> Result<Option<u64>, Failure> {
        let cell = self.try_query(sql, attempted)?.into_iter().flatten().flatten().next();
        Ok(cell.and_then(|cell| String::from_utf8_lossy(&cell).parse().ok()))
    }

    /// The keys of up to `rows` rows, as a condition that they meet; `None` if there are none. `from` is what follows FROM.
    pub(super) fn keys_among(&mut self, key: &[Column], from: &str, rows: usize, attempted: &str) -> Result<Option<Among>, Failure> {
        let list = key.iter().map(|column| quoted(column.name())).collect::<Vec<_>>().join(", ");
        let found = self.try_query(&format!("SELECT {list} FROM {from} LIMIT {rows}"), attempted)?;
        if found.is_empty() {
            return Ok(None);
        }
        let mut values = Vec::new();
        for row in &found {
            values.extend_from_slice(if values.is_empty() { b"(" } else { b",(" });
            for (at, (column, cell)) in key.iter().zip(row).enumerate() {
                if at > 0 {
                    values.push(b',');
                }
                push_printed(&mut values, column.column_type(), cell.as_deref().unwrap_or_default());
            }
            values.push(b')');
        }
        let tuple = if key.len() == 1 { list } else { format!("({list})") };
        let values = String::from_utf8(values).map_err(|_| Error::decode("a text is not UTF-8"))?;
        Ok(Some(Among { rows: found.len() as u64, condition: format!("{tuple} IN ({values})") }))
    }

    /// Asks again while vtgate does not know yet of what was made a moment ago.
    pub(super) fn wait_until_known(&mut self, sql: &str, attempted: &str) -> Result<()> {
        self.wait_until_known_for(self.options.retry_timeout(), sql, attempted)
    }

    pub(super) fn wait_until_known_for(&mut self, limit: Duration, sql: &str, attempted: &str) -> Result<()> {
        let mut retry = Retry::new(limit);
        loop {
            let began = Instant::now();
            match self.try_query(sql, attempted) {
                Ok(_) => return Ok(()),
                Err(failure) if matches!(failure.fault, Fault::Unknown | Fault::Busy | Fault::Full) => {
                    drop(pause(&mut retry, began, failure)?)
                }
                Err(failure) => return Err(failure.error),
            }
        }
    }
}

/// The second number of `Records: 1000  Duplicates: 500  Warnings: 0`, whatever the words are: rows that were changed.
fn duplicates(info: &str) -> Option<u64> {
    info.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty()).nth(1)?.parse().ok()
}

/// The error of a destination. A source would be read anew after one that may pass.
pub(super) fn as_sink(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Connect | ErrorKind::Timeout | ErrorKind::Source => Error::new(ErrorKind::Sink, error.to_string()).with_cause(error),
        _ => error,
    }
}

/// How long vtgate may answer questions about its schema with an error that says nothing.
const UNSETTLED: Duration = Duration::from_secs(10);

/// What vtgate says where a limit of its own, or of a tablet, was reached by one statement or transaction.
const TOO_MUCH: [&str; 4] = ["ow count exceeded", "DeadlineExceeded", "exceeded timeout", "message larger than max"];

/// What vtgate says where something has run out that has nothing to do with one statement.
const FULL: [&str; 2] = ["ResourceExhausted", "RESOURCE_EXHAUSTED"];

/// What vtgate says where it does not know a table or a column, or not yet.
const UNKNOWN: [&str; 5] = ["not found", "schema tracking required", "VT05004", "VT05005", "VT03019"];

/// What vtgate says where two have changed the same vschema at once.
const STALE: [&str; 1] = ["version was stale"];

/// What servers say where tables can only be changed by other ways than statements.
const NO_DDL: [&str; 5] = ["direct DDL", "DDL is disabled", "DDL is not allowed", "DDL statement is not", "direct ddl"];

fn fault_of(refusal: &mysql::MySqlError) -> Fault {
    let says = |fragments: &[&str]| fragments.iter().any(|fragment| refusal.message.contains(fragment));
    match refusal.code {
        1153 | 3024 => Fault::TooMuch,
        1203 if says(&TOO_MUCH) => Fault::TooMuch,
        1203 => Fault::Full,
        1205 => Fault::Locked,
        1213 | 1040 => Fault::Busy,
        1053 | 1077 | 1079 | 2006 | 2013 => Fault::Lost,
        1062 | 1586 => Fault::Duplicate,
        1044 | 1142 | 1227 | 1370 => Fault::NoDdl,
        _ if is_tablet_away(refusal) || says(&STALE) => Fault::Busy,
        _ if says(&NO_DDL) => Fault::NoDdl,
        1317 | 1105 | 1815 if says(&TOO_MUCH) => Fault::TooMuch,
        1317 | 1105 | 1815 if says(&FULL) => Fault::Full,
        1317 => Fault::Busy,
        1054 | 1105 | 1146 if says(&UNKNOWN) => Fault::Unknown,
        _ => Fault::Other,
    }
}

/// What a refusal means to somebody who writes; the rest is as for a reader.
fn meaning(code: u16) -> Option<&'static str> {
    Some(match code {
        1048 => "NULL in a column that cannot be NULL",
        1062 | 1586 => "two rows have the same key",
        1153 => "a row is larger than `max_allowed_packet` of the server",
        1205 => "another transaction holds the rows locked",
        1213 => "another transaction locked the same rows in another order",
        1264 => "a number is out of the column's range",
        1265 | 1366 | 1292 | 1411 => "a value is none of the column's type",
        1290 | 1792 | 1836 => "the server is read-only",
        1364 => "a column without a default gets no value",
        1406 => "a value is too long for the column",
        1416 => "a spatial value is none",
        1451 | 1452 => "a foreign key of the table is violated",
        3140 => "a text is no JSON document",
        3819 => "a check constraint of the table is violated",
        1118 => "its rows would be larger than the server allows",
        1071 => "its key would be larger than the server allows",
        1113 => "it has no columns",
        1114 => "the server's disk is full",
        1030 => "the server's storage engine failed",
        1059 => "a name is too long",
        1103 => "the name is none that the server takes",
        1166 => "a column has a name that the server does not take",
        1049 => "there is no such database",
        _ => return None,
    })
}

/// The server's own text can quote values, and vtgate's quotes whole statements: of it only the numbers are passed on, and names that are known.
pub(super) fn failure(cause: mysql::Error, attempted: &str, names: &[String]) -> Failure {
    match cause {
        mysql::Error::MySqlError(refusal) => {
            let fault = fault_of(&refusal);
            let column = named(&refusal.message, "column '", names);
            let key = named(&refusal.message, "for key '", names);
            let place = match (&column, &key) {
                (Some(column), _) => format!(" (column `{column}`)"),
                (None, Some(key)) => format!(" (key `{key}`)"),
                (None, None) => String::new(),
            };
            let error = match meaning(refusal.code) {
                Some(meaning) => {
                    let message = format!("{attempted}: {meaning}{place}: error {} ({})", refusal.code, refusal.state);
                    Error::new(if fault == Fault::TooMuch { ErrorKind::Limit } else { ErrorKind::Sink }, message)
                }
                None if fault == Fault::NoDdl && !matches!(refusal.code, 1044 | 1142 | 1227 | 1370) => {
                    let message = format!("{attempted}: the server does not let statements change tables: error {}", refusal.code);
                    Error::new(ErrorKind::Sink, message)
                }
                None if fault == Fault::TooMuch => {
                    let message = format!("{attempted}: a limit of the server was reached: error {} ({})", refusal.code, refusal.state);
                    Error::new(ErrorKind::Limit, message)
                }
                None => as_sink(query_error(mysql::Error::MySqlError(refusal), attempted)),
            };
            let error = match column {
                Some(column) => error.with_column(column),
                None => error,
            };
            Failure { fault, error }
        }
        cause => {
            let error = query_error(cause, attempted);
            let fault = if error.is_transient() || error.kind() == ErrorKind::Protocol { Fault::Lost } else { Fault::Other };
            Failure { fault, error: as_sink(error) }
        }
    }
}

/// The one of the known names that a message has after `before`. A value that the message quotes can hold anything, so what is not known is not repeated.
fn named(message: &str, before: &str, names: &[String]) -> Option<String> {
    let places = message.match_indices(before).map(|(at, found)| &message[at + found.len()..]);
    places.filter_map(|rest| rest.split('\'').next()).find_map(|found| {
        // Keys are named with their table.
        let bare = found.rsplit_once('.').map_or(found, |(_, key)| key);
        names.iter().find(|name| name.as_str() == found || name.as_str() == bare).cloned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, message: &str) -> Failure {
        let refusal = mysql::MySqlError { state: "HY000".into(), code, message: message.into() };
        failure(mysql::Error::MySqlError(refusal), "rows cannot be written", &["v".to_owned(), "PRIMARY".to_owned()])
    }

    #[test]
    fn faults_are_told_apart_by_number_and_by_what_vtgate_says() {
        for (code, message, fault) in [
            (1153, "Got a packet bigger than 'max_allowed_packet' bytes", Fault::TooMuch),
            (1317, "target: commerce.0.primary: vttablet: rpc error: code = Aborted desc = row count exceeded 10000", Fault::TooMuch),
            (1317, "Query execution was interrupted", Fault::Busy),
            (1203, "vttablet: rpc error: code = ResourceExhausted desc = query pool wait limit exceeded", Fault::Full),
            (1203, "target: c.0.primary: vttablet: rpc error: code = ResourceExhausted desc = Throttled", Fault::Full),
            (1203, "rpc error: code = ResourceExhausted desc = grpc: received message larger than max (17 vs. 16)", Fault::TooMuch),
            (1203, "in-memory row count exceeded allowed limit of 300000", Fault::TooMuch),
            (1105, "rpc error: code = ResourceExhausted desc = transaction pool connection limit exceeded", Fault::Full),
            (1105, "rpc error: code = ResourceExhausted desc = grpc: trying to send message larger than max", Fault::TooMuch),
            (1205, "Lock wait timeout exceeded", Fault::Locked),
            (1213, "Deadlock found", Fault::Busy),
            (1105, "target: c.0.primary: no healthy tablet available", Fault::Busy),
            (1105, "table pr2 not found", Fault::Unknown),
            (1142, "CREATE command denied to user", Fault::NoDdl),
            (1062, "Duplicate entry '1' for key 't.PRIMARY'", Fault::Duplicate),
            (1406, "Data too long for column 'v' at row 1", Fault::Other),
        ] {
            assert_eq!(refused(code, message).fault, fault, "{message}");
        }
    }

    #[test]
    fn changed_rows_are_told_in_any_language() {
        assert_eq!(duplicates("Records: 1000  Duplicates: 500  Warnings: 0"), Some(500));
        assert_eq!(duplicates("Datensätze: 2  Duplikate: 1  Warnungen: 0"), Some(1));
        assert_eq!(duplicates(""), None);
    }

    #[test]
    fn errors_name_columns_and_keys_and_quote_no_values() {
        let error = refused(1062, "Duplicate entry 'hunter2' for key 't.PRIMARY'").error;
        assert_eq!(error.to_string(), "rows cannot be written: two rows have the same key (key `PRIMARY`): error 1062 (HY000)");
        let error = refused(1366, "Incorrect integer value: 'for column 'hunter2'' for column 'v' at row 1 BindVars: {hunter2}").error;
        assert_eq!(error.column(), Some("v"));
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        let error = refused(1105, "unsupported: hunter2").error;
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}
