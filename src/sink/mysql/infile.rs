//! Rows as a file that MySQL reads from this end (`LOAD DATA LOCAL INFILE`), which is not a file but the rows of a statement as they are.
//!
//! What a statement would refuse is a warning here, or a row that is left out: the server takes `LOCAL` for `IGNORE`. So whoever loads counts warnings
//! and rows, undoes what is odd, and lets a statement say what is wrong. MySQL's manual, "LOAD DATA Statement".

use super::encode::Bounds;
use super::table::DestTable;
use crate::schema::{ColumnType, Table};
use crate::server::quoted;

/// The statement that takes rows in parentheses, with commas between, as [`RowWriter`](super::encode::RowWriter) writes them.
pub(super) fn statement(into: &str, table: &Table, columns: &[(usize, Bounds)], stored: &DestTable) -> String {
    let mut places = Vec::with_capacity(columns.len());
    let mut set = Vec::new();
    for (at, &(index, _)) in columns.iter().enumerate() {
        let column = &table.columns()[index];
        let name = quoted(column.name());
        let found = stored.column(column.name()).and_then(|found| found.column_type.as_ref());
        // Values come as texts, of which these columns make something else than of numbers; hexadecimal digits are none of a text.
        let expression = match (column.column_type(), found) {
            (ColumnType::Binary { .. } | ColumnType::Geometry | ColumnType::Vector, _) => format!("UNHEX(SUBSTR(@v{at}, 3))"),
            (_, Some(ColumnType::Bit { .. } | ColumnType::Year)) => format!("CAST(@v{at} AS UNSIGNED)"),
            _ => {
                places.push(name);
                continue;
            }
        };
        places.push(format!("@v{at}"));
        set.push(format!("{name} = {expression}"));
    }
    let set = if set.is_empty() { String::new() } else { format!(" SET {}", set.join(", ")) };
    format!(
        "LOAD DATA LOCAL INFILE 'rows' INTO TABLE {into} CHARACTER SET utf8mb4 \
         FIELDS TERMINATED BY ',' OPTIONALLY ENCLOSED BY '\\'' ESCAPED BY '\\\\' LINES STARTING BY '(' TERMINATED BY ')' ({}){set}",
        places.join(", ")
    )
}
