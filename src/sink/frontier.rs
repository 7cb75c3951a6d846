//! How far the keys of a table reach. A row with a key beyond is new, so nothing stored has to be looked for and deleted before it is appended: a
//! copy brings its rows in the order of the key, and most tables grow at the end of theirs.
//!
//! Only the first column of the key is looked at, in the order of numbers or bytes. Which order the source has does not matter: what counts is
//! that no stored value is greater.

use std::cmp::Ordering;

use super::{Collated, Destination, qualified, quoted};
use crate::Result;
use crate::batch::{ColumnData, Values};
use crate::schema::{ColumnType, Table, TableName};

/// The greatest value in the first column of a table's key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Frontier {
    /// Nothing is known, or the values have no order here.
    #[default]
    Unknown,
    /// There are no rows.
    Empty,
    Number(i128),
    Bytes(Vec<u8>),
}

/// A value of the first column of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FirstKey<'a> {
    /// Without an order here.
    Other,
    Number(i128),
    Bytes(&'a [u8]),
}

impl<'a> FirstKey<'a> {
    pub(super) fn of(column: &'a ColumnData, column_type: &ColumnType, row: usize) -> Self {
        match (column.values(), is_bytes(column_type)) {
            (Values::Int(values), _) => Self::Number(values[row].into()),
            (Values::UInt(values), _) => Self::Number(values[row].into()),
            (Values::Text(values) | Values::Bytes(values), true) => Self::Bytes(values.get(row)),
            _ => Self::Other,
        }
    }

    /// The order of two values of one column; `None` if it has none.
    pub(super) fn order(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Number(one), Self::Number(other)) => Some(one.cmp(&other)),
            (Self::Bytes(one), Self::Bytes(other)) => Some(one.cmp(other)),
            _ => None,
        }
    }
}

/// Whether destinations store a type as what it is here and order it by its bytes.
fn is_bytes(column_type: &ColumnType) -> bool {
    matches!(column_type, ColumnType::Text { .. } | ColumnType::Binary { .. } | ColumnType::Enum { .. } | ColumnType::Set { .. })
}

impl Frontier {
    /// Asks a table that may have rows.
    pub(super) fn read(destination: &mut dyn Destination, name: &TableName, table: &Table, collated: &Collated) -> Result<Self> {
        let Some(column) = table.primary_key().first().map(|&index| &table.columns()[index]) else { return Ok(Self::Unknown) };
        if !collated.collation(column.name()).is_empty() {
            // The greatest would be that of another order.
            return Ok(Self::Unknown);
        }
        let is_bytes = is_bytes(column.column_type());
        let greatest = match column.column_type() {
            // Not in the order of the members.
            ColumnType::Enum { .. } => format!("hex(max(CAST({} AS VARCHAR)))", quoted(column.name())),
            // As hexadecimal digits, which come whole whatever the bytes are.
            _ if is_bytes => format!("hex(max({}))", quoted(column.name())),
            // SQLite has large numbers without a sign as text.
            ColumnType::Int { bits: 64, unsigned: true } => return Ok(Self::Unknown),
            ColumnType::Int { .. } | ColumnType::Year => format!("max({})", quoted(column.name())),
            _ => return Ok(Self::Unknown),
        };
        let greatest =
            destination.query_text(&format!("SELECT {greatest} FROM {}", qualified(name)))?.into_iter().flatten().next().flatten();
        Ok(match greatest {
            // A key is not NULL.
            None => Self::Empty,
            Some(text) if is_bytes => unhex(&text).map_or(Self::Unknown, Self::Bytes),
            Some(text) => text.parse().map_or(Self::Unknown, Self::Number),
        })
    }

    /// Whether no stored row has this value, nor a greater one.
    pub(super) fn is_before(&self, key: FirstKey<'_>) -> bool {
        match (self, key) {
            (Self::Empty, _) => true,
            (Self::Number(greatest), FirstKey::Number(key)) => key > *greatest,
            (Self::Bytes(greatest), FirstKey::Bytes(key)) => key > greatest.as_slice(),
            _ => false,
        }
    }

    /// A row with this value is stored.
    pub(super) fn advance(&mut self, key: FirstKey<'_>) {
        match (&mut *self, key) {
            (Self::Number(greatest), FirstKey::Number(key)) => *greatest = key.max(*greatest),
            (Self::Bytes(greatest), FirstKey::Bytes(key)) => {
                if key > greatest.as_slice() {
                    greatest.clear();
                    greatest.extend_from_slice(key);
                }
            }
            (Self::Empty, FirstKey::Number(key)) => *self = Self::Number(key),
            (Self::Empty, FirstKey::Bytes(key)) => *self = Self::Bytes(key.to_vec()),
            _ => *self = Self::Unknown,
        }
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_greater_than_all_that_is_stored_is_new() {
        let mut frontier = Frontier::Empty;
        assert!(frontier.is_before(FirstKey::Number(-5)));
        for (key, is_new) in [(3, true), (2, false), (3, false), (4, true), (i128::from(u64::MAX), true), (4, false)] {
            assert_eq!(frontier.is_before(FirstKey::Number(key)), is_new, "{key}");
            frontier.advance(FirstKey::Number(key));
        }
        let mut frontier = Frontier::Empty;
        for (key, is_new) in [("b", true), ("B", false), ("ba", true), ("c", true), ("", false), ("ä", true)] {
            assert_eq!(frontier.is_before(FirstKey::Bytes(key.as_bytes())), is_new, "{key}");
            frontier.advance(FirstKey::Bytes(key.as_bytes()));
        }
    }

    #[test]
    fn what_has_no_order_is_never_new_once_there_are_rows() {
        let mut frontier = Frontier::Empty;
        assert!(frontier.is_before(FirstKey::Other));
        frontier.advance(FirstKey::Other);
        assert_eq!(frontier, Frontier::Unknown);
        assert!(!frontier.is_before(FirstKey::Number(1)));
        // A column that became another type.
        let mut frontier = Frontier::Number(1);
        assert!(!frontier.is_before(FirstKey::Bytes(b"2")));
        frontier.advance(FirstKey::Bytes(b"2"));
        assert_eq!(frontier, Frontier::Unknown);
    }

    #[test]
    fn hexadecimal_digits_are_read() {
        assert_eq!(unhex("00FFa1"), Some(vec![0, 0xff, 0xa1]));
        assert_eq!(unhex(""), Some(Vec::new()));
        assert_eq!(unhex("0"), None);
        assert_eq!(unhex("0g"), None);
    }
}
