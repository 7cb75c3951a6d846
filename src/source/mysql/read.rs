//! Reading a table whole.

use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mysql::prelude::{Protocol, Queryable};
use mysql::{QueryResult, Value};

use super::decode;
use crate::batch::Batch;
use crate::cancel::Cancel;
use crate::interval::Interval;
use crate::policy::MalformedText;
use crate::queue::{self, Receiver, Sender};
use crate::schema::{Column, ColumnType, Table};
use crate::server::{Connection, Interrupter, condition, query_error, quoted};
use crate::source::charset::Charset;
use crate::{Error, ErrorKind, Result};

/// A batch is handed over when its values take this many bytes; only a row that is larger by itself makes a batch larger.
const BATCH_BYTES: usize = 4 << 20;

/// Bytes of batches that wait for the caller. One more batch is being filled and one is being worked on.
const WAITING_BYTES: usize = 48 << 20;

/// How often a wait looks whether it was cancelled.
const CANCEL_INTERVAL: Duration = Duration::from_millis(100);

/// The rows of one table, in batches, in the server's order.
///
/// All rows are of one statement, so on one MySQL server they are the table at one moment; of a sharded keyspace each shard is read at its
/// own moment. Rows are read ahead by a thread of their own: up to 56 MiB, or three rows if those are larger. `next` blocks until a
/// batch is there, at most five minutes without a sign of life from the server. After an error there is nothing more. `None` comes
/// only after the last row arrived; a connection that breaks is an error. Dropping the iterator closes the connection and ends
/// the thread.
#[must_use = "an iterator that is not used reads nothing"]
pub struct Rows {
    table: Arc<Table>,
    batches: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
    interrupter: Option<Interrupter>,
}

impl Rows {
    pub(crate) fn start(
        mut connection: Connection,
        table: Arc<Table>,
        interval: Option<&Interval>,
        malformed: MalformedText,
    ) -> Result<Self> {
        let table = if malformed == MalformedText::Bytes { Arc::new(Table::clone(&table).with_text_as_bytes()) } else { table };
        if table.columns().is_empty() {
            return Err(Error::new(ErrorKind::Schema, format!("table `{}` has no columns", table.name())).with_table(table.name()));
        }
        let interrupter = connection.interrupter();
        let (sender, batches) = queue::bounded(WAITING_BYTES);
        let read = Arc::clone(&table);
        let condition = interval.map(|interval| format!(" WHERE {}", condition(interval))).unwrap_or_default();
        let thread = thread::Builder::new()
            .name("ingest-read".to_owned())
            .spawn(move || {
                if let Err(error) = read_table(&mut connection, &read, &condition, malformed, &sender) {
                    // The iterator may be gone; then nobody wants to know.
                    let _ = sender.send(Err(error.with_table(read.name())), 0);
                }
            })
            .map_err(|cause| Error::new(ErrorKind::Source, "no thread can be started to read on").with_cause(cause))?;
        Ok(Self { table, batches: Some(batches), thread: Some(thread), interrupter })
    }

    /// The table as it was when reading began.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Like `next`, but ends with an error soon after `cancel` was called.
    pub(crate) fn next_unless(&mut self, cancel: &Cancel) -> Option<Result<Batch>> {
        loop {
            if let Err(cancelled) = cancel.check() {
                self.close();
                return Some(Err(cancelled.with_table(self.table.name())));
            }
            let received = self.batches.as_ref()?.recv_timeout(CANCEL_INTERVAL);
            match received {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(batch) => return self.fuse(Some(batch)),
                Err(RecvTimeoutError::Disconnected) => return self.fuse(None),
            }
        }
    }

    /// Passes on what came, and after an error or the end nothing more.
    fn fuse(&mut self, received: Option<Result<Batch>>) -> Option<Result<Batch>> {
        match received {
            Some(Ok(batch)) => Some(Ok(batch)),
            Some(Err(error)) => {
                self.close();
                Some(Err(error))
            }
            None if self.close() => None,
            None => Some(Err(Error::protocol("the server broke MySQL's protocol").with_table(self.table.name()))),
        }
    }

    /// Ends thread and connection; whether the thread ended by itself and not by a panic of the client library.
    fn close(&mut self) -> bool {
        // In this order: a thread that waits for room ends when the receiver is gone, one that waits for the server when the socket is.
        self.batches = None;
        if let Some(interrupter) = self.interrupter.take() {
            interrupter.interrupt();
        }
        self.thread.take().is_none_or(|thread| thread.join().is_ok())
    }
}

impl Iterator for Rows {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let received = self.batches.as_ref()?.recv();
        self.fuse(received)
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows").field("table", &self.table.name()).finish_non_exhaustive()
    }
}

fn read_table(
    connection: &mut Connection,
    table: &Arc<Table>,
    condition: &str,
    malformed: MalformedText,
    sender: &Sender<Result<Batch>>,
) -> Result<()> {
    let forms = Forms::of(table, malformed);
    let vitess = connection.server().is_vitess();
    let sql = select(table, vitess) + condition;
    let failed = |cause| query_error(cause, format!("table `{}` cannot be read", table.name()));
    let conn = connection.conn();
    if vitess {
        // vtgate has rows as text and, asked for the binary protocol, encodes some types so that they cannot be read.
        return pass_on(conn.query_iter(sql).map_err(failed)?, table, &forms, sender);
    }
    // A prepared statement's rows are binary, which saves both ends a third of their time, and FLOAT its digits.
    let statement = conn.prep(sql).map_err(failed)?;
    pass_on(conn.exec_iter(&statement, ()).map_err(failed)?, table, &forms, sender)
}

/// Passes on the rows of a stored table, with the columns and types of `table`. `stored` has the same columns with the collations that they have there, `from`
/// is what follows FROM.
pub(crate) fn read_stored(
    connection: &mut Connection,
    (table, stored): (&Arc<Table>, &Table),
    from: &str,
    take: &mut dyn FnMut(Batch) -> Result<()>,
) -> Result<()> {
    let forms = Forms::of(stored, MalformedText::Error);
    let vitess = connection.server().is_vitess();
    let sql = format!("SELECT {} FROM {from}", selected(stored, vitess));
    let failed = |cause| query_error(cause, "stored rows cannot be read");
    let conn = connection.conn();
    if vitess {
        return each_batch(conn.query_iter(sql).map_err(failed)?, table, &forms, &mut |batch| take(batch).map(|()| true));
    }
    let statement = conn.prep(sql).map_err(failed)?;
    each_batch(conn.exec_iter(&statement, ()).map_err(failed)?, table, &forms, &mut |batch| take(batch).map(|()| true))
}

/// The rows of a table of which a condition holds.
#[cfg(feature = "vstream")]
pub(crate) fn read_some(connection: &mut Connection, table: &Arc<Table>, condition: &str) -> Result<Batch> {
    let vitess = connection.server().is_vitess();
    let sql = format!("{} WHERE {condition}", select(table, vitess));
    let rows = connection.conn().query_iter(sql).map_err(|cause| query_error(cause, "rows cannot be asked for"))?;
    let forms = Forms::of(table, MalformedText::Error);
    let (mut all, mut scratch) = (Batch::new(Arc::clone(table)), String::new());
    for row in rows {
        let row = row.map_err(|cause| query_error(cause, "rows cannot be asked for"))?;
        push_row(&mut all, table, &forms, &row, &mut scratch)?;
    }
    Ok(all)
}

/// Decodes a row; returns about how many bytes it takes.
fn push_row(batch: &mut Batch, table: &Table, forms: &Forms, row: &mysql::Row, scratch: &mut String) -> Result<usize> {
    if row.len() != table.columns().len() {
        return Err(Error::protocol(format!("a row has {} values for {} columns", row.len(), table.columns().len())));
    }
    let mut bytes = 0;
    batch.push_row(|columns| {
        for (index, ((column, declared), charset)) in columns.iter_mut().zip(table.columns()).zip(&forms.charsets).enumerate() {
            // A value is absent only after it was taken out of the row, which nobody did.
            let value = row.as_ref(index).unwrap_or(&Value::NULL);
            bytes += 9;
            if let Value::Bytes(value) = value {
                bytes += value.len();
            }
            let text = decode::TextForm { charset: charset.unwrap_or(Charset::Utf8), malformed: forms.malformed };
            decode::push(column, declared.column_type(), value, text, scratch).map_err(|error| error.with_column(declared.name()))?;
        }
        Ok(())
    })?;
    Ok(bytes)
}

/// Decodes a result into batches for whoever waits for them.
fn pass_on<P: Protocol>(rows: QueryResult<'_, '_, '_, P>, table: &Arc<Table>, forms: &Forms, sender: &Sender<Result<Batch>>) -> Result<()> {
    // Without a receiver there is nothing left to do.
    each_batch(rows, table, forms, &mut |batch| {
        let size = batch.bytes();
        Ok(sender.send(Ok(batch), size).is_ok())
    })
}

/// Decodes a result into batches, for as long as somebody wants them.
fn each_batch<P: Protocol>(
    rows: QueryResult<'_, '_, '_, P>,
    table: &Arc<Table>,
    forms: &Forms,
    take: &mut dyn FnMut(Batch) -> Result<bool>,
) -> Result<()> {
    let (mut batch, mut scratch) = (Batch::new(Arc::clone(table)), String::new());
    let mut bytes = 0;
    for row in rows {
        let row = row.map_err(|cause| query_error(cause, format!("table `{}` cannot be read to its end", table.name())))?;
        bytes += push_row(&mut batch, table, forms, &row, &mut scratch)?;
        if bytes >= BATCH_BYTES {
            bytes = 0;
            let next = Batch::with_capacity_of(&batch);
            if !take(std::mem::replace(&mut batch, next))? {
                return Ok(());
            }
        }
    }
    if !batch.is_empty() {
        take(batch)?;
    }
    Ok(())
}

/// In which form text comes.
struct Forms {
    /// The character sets of columns whose bytes are asked for, where a server that converts would hide what it cannot; by the table's columns.
    charsets: Vec<Option<Charset>>,
    malformed: MalformedText,
}

impl Forms {
    fn of(table: &Table, malformed: MalformedText) -> Self {
        Self { charsets: table.columns().iter().map(charset_of_bytes).collect(), malformed }
    }
}

/// The character set of a column of text that the server would not convert exactly. Where this side does not know the character set, the server has
/// to.
fn charset_of_bytes(column: &Column) -> Option<Charset> {
    if !matches!(column.column_type(), ColumnType::Text { .. }) {
        return None;
    }
    let declared = column.collation()?;
    let charset = Charset::named(declared).ok()?;
    // A server converts utf8mb3 and ascii too, though no letter becomes another.
    let is_result_set = declared.starts_with("utf8mb4");
    (!is_result_set && (charset == Charset::Utf8 || !charset.is_converted_exactly())).then_some(charset)
}

/// Names every column, since `*` leaves out invisible ones.
fn select(table: &Table, vitess: bool) -> String {
    format!("SELECT {} FROM {}", selected(table, vitess), quoted(table.name()))
}

fn selected(table: &Table, vitess: bool) -> String {
    let columns: Vec<String> = table
        .columns()
        .iter()
        .map(|column| {
            let name = quoted(column.name());
            match column.column_type() {
                // vtgate has rows as text from MySQL, and MySQL prints six digits of a FLOAT. As a DOUBLE it prints all that it takes.
                ColumnType::Float if vitess => format!("{name} * 1E0 AS {name}"),
                _ if column.is_text_as_bytes() || charset_of_bytes(column).is_some() => format!("CAST({name} AS BINARY) AS {name}"),
                _ => name,
            }
        })
        .collect();
    columns.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_floats_widened_for_vtgate() {
        let columns =
            vec![Column::new("a`b", ColumnType::Float, true), Column::new("key", ColumnType::Int { bits: 8, unsigned: false }, true)];
        let table = Table::new("or`der", columns);
        assert_eq!(select(&table, false), "SELECT `a``b`, `key` FROM `or``der`");
        assert_eq!(select(&table, true), "SELECT `a``b` * 1E0 AS `a``b`, `key` FROM `or``der`");
    }

    #[test]
    fn bytes_are_asked_for_where_a_server_that_converts_would_hide_something() {
        let text = |collation: &str| Column::new("c", ColumnType::Text { length: None }, true).with_collation(Some(collation.to_owned()));
        let asked = |column: Column| select(&Table::new("t", vec![column]), true);
        for collation in ["utf8mb4_0900_ai_ci", "latin1_swedish_ci", "unheard_of_ci"] {
            assert_eq!(asked(text(collation)), "SELECT `c` FROM `t`", "{collation}");
        }
        for collation in ["gbk_chinese_ci", "utf16_bin", "cp1250_general_ci", "utf8mb3_bin", "utf8_general_ci", "ascii_bin"] {
            assert_eq!(asked(text(collation)), "SELECT CAST(`c` AS BINARY) AS `c` FROM `t`", "{collation}");
        }
        assert_eq!(asked(text("utf8mb4_bin").into_bytes()), "SELECT CAST(`c` AS BINARY) AS `c` FROM `t`");
    }
}
