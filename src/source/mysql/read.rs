//! Reading a table whole.

use std::sync::Arc;

use mysql::prelude::{Protocol, Queryable};
use mysql::{QueryResult, Value};

use super::decode;
use super::origin::{BROKEN, interrupt_of};
use crate::batch::Batch;
use crate::policy::MalformedText;
use crate::schema::{Column, ColumnType, Table};
use crate::server::{Connection, condition, query_error, quoted};
use crate::source::Reading;
use crate::source::charset::Charset;
use crate::source::rows::{BATCH_BYTES, Outlet, Rows};
use crate::{Error, Result};

/// Reads the rows of a table over a connection of its own.
pub(crate) fn rows(mut connection: Connection, table: Arc<Table>, reading: &Reading) -> Result<Rows> {
    let malformed = reading.malformed_text;
    let table = if malformed == MalformedText::Bytes { Arc::new(Table::clone(&table).with_text_as_bytes()) } else { table };
    let condition = reading.interval.as_ref().map(|interval| format!(" WHERE {}", condition(interval))).unwrap_or_default();
    let interrupt = interrupt_of(&connection);
    let read = Arc::clone(&table);
    Rows::start(table, interrupt, BROKEN, move |outlet| read_table(&mut connection, &read, &condition, malformed, outlet))
}

fn read_table(
    connection: &mut Connection,
    table: &Arc<Table>,
    condition: &str,
    malformed: MalformedText,
    outlet: &mut Outlet,
) -> Result<()> {
    let forms = Forms::of(table, malformed);
    let vitess = connection.server().is_vitess();
    let sql = select(table, vitess) + condition;
    let failed = |cause| query_error(cause, format!("table `{}` cannot be read", table.name()));
    let conn = connection.conn();
    if vitess {
        // vtgate has rows as text and, asked for the binary protocol, encodes some types so that they cannot be read.
        return pass_on(conn.query_iter(sql).map_err(failed)?, table, &forms, outlet);
    }
    // A prepared statement's rows are binary, which saves both ends a third of their time, and FLOAT its digits.
    let statement = conn.prep(sql).map_err(failed)?;
    pass_on(conn.exec_iter(&statement, ()).map_err(failed)?, table, &forms, outlet)
}

/// Passes on the rows of a stored table, with the columns and types of `table`. `stored` has the same columns with the collations that they have there, `from`
/// is what follows FROM, and `forms_asked` has for each column what is asked for in its place.
pub(crate) fn read_stored(
    connection: &mut Connection,
    (table, stored): (&Arc<Table>, &Table),
    (forms_asked, from): (&[Option<String>], &str),
    take: &mut dyn FnMut(Batch) -> Result<()>,
) -> Result<()> {
    let forms = Forms::of(stored, MalformedText::Error);
    let vitess = connection.server().is_vitess();
    let own = columns_of(stored, vitess);
    let asked: Vec<&str> = own.iter().zip(forms_asked).map(|(own, asked)| asked.as_ref().unwrap_or(own).as_str()).collect();
    let sql = format!("SELECT {} FROM {from}", asked.join(", "));
    let failed = |cause| query_error(cause, "stored rows cannot be read");
    let conn = connection.conn();
    if vitess {
        return each_batch(conn.query_iter(sql).map_err(failed)?, table, &forms, take);
    }
    let statement = conn.prep(sql).map_err(failed)?;
    each_batch(conn.exec_iter(&statement, ()).map_err(failed)?, table, &forms, take)
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
fn pass_on<P: Protocol>(rows: QueryResult<'_, '_, '_, P>, table: &Arc<Table>, forms: &Forms, outlet: &mut Outlet) -> Result<()> {
    let mut scratch = String::new();
    for row in rows {
        let row = row.map_err(|cause| query_error(cause, format!("table `{}` cannot be read to its end", table.name())))?;
        let bytes = push_row(outlet.batch(), table, forms, &row, &mut scratch)?;
        if outlet.filled(bytes).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Decodes a result into batches for whoever takes them.
fn each_batch<P: Protocol>(
    rows: QueryResult<'_, '_, '_, P>,
    table: &Arc<Table>,
    forms: &Forms,
    take: &mut dyn FnMut(Batch) -> Result<()>,
) -> Result<()> {
    let (mut batch, mut scratch) = (Batch::new(Arc::clone(table)), String::new());
    let mut bytes = 0;
    for row in rows {
        let row = row.map_err(|cause| query_error(cause, format!("table `{}` cannot be read to its end", table.name())))?;
        bytes += push_row(&mut batch, table, forms, &row, &mut scratch)?;
        if bytes >= BATCH_BYTES {
            bytes = 0;
            let next = Batch::with_capacity_of(&batch);
            take(std::mem::replace(&mut batch, next))?;
        }
    }
    if batch.is_empty() { Ok(()) } else { take(batch) }
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
    columns_of(table, vitess).join(", ")
}

fn columns_of(table: &Table, vitess: bool) -> Vec<String> {
    table
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
        .collect()
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
