//! What becomes of values that a destination's type cannot hold as they are.
//!
//! Each policy either stores a whole column in a form that holds every value, or refuses the value, or changes it and counts that: see
//! [`ChangedValues`].

use std::collections::BTreeMap;
use std::fmt;

/// What becomes of dates that no calendar has: `0000-00-00`, `2016-07-00`, 30 February.
///
/// Of sources that are not MySQL, this is also about dates that MySQL does not have: those before Christ, beyond the year 9999, and infinite ones.
/// They become NULL ([`ValueChange::DateOutOfRangeToNull`]) or an error when they are read, or columns of dates are read as the text that the source
/// prints.
///
/// SQLite stores dates as text and so can hold them all; there only [`ZeroDates::Error`] makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ZeroDates {
    /// They become NULL, and are counted: [`ValueChange::ZeroDateToNull`].
    #[default]
    Null,
    /// They are an error that names table and column.
    Error,
    /// Columns of dates are stored as text, exactly as MySQL prints them.
    Text,
}

/// What becomes of bytes in a column of text (`CHAR`, `VARCHAR`, `TINYTEXT` to `LONGTEXT`) that are no text of its character set: malformed ones,
/// and codes that the character set does not assign. MySQL takes the latter, and shows a question mark for each when it converts them.
///
/// `ENUM`, `SET` and `JSON` are not concerned: MySQL itself makes sure that they are text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum MalformedText {
    /// They are an error that names table and column.
    #[default]
    Error,
    /// Each malformed part becomes one U+FFFD, and the values concerned are counted: [`ValueChange::TextReplaced`]. In change capture they are an error
    /// in a column of the primary key, where two keys could become one.
    Replace,
    /// Columns of text hold bytes (`BLOB`), for all rows alike: those that the source stores, in the column's own character set, with nothing converted.
    /// Of a `CHAR` these are without the spaces at its end. Nothing is looked at, so nothing is refused.
    Bytes,
}

/// What becomes of numbers beyond 2^63 - 1 in SQLite, whose whole numbers end there: `BIGINT UNSIGNED` and `BIT(64)`.
///
/// DuckDB's types hold every value of MySQL's, but for dates ([`ZeroDates`]); there this makes no difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum OutOfRange {
    /// The column is declared as `ANY`. Such numbers are stored as text, all others as whole numbers; they are counted:
    /// [`ValueChange::NumberAsText`].
    #[default]
    Mixed,
    /// The column is an `INTEGER`, and such numbers are an error that names table and column.
    Error,
    /// The column is `TEXT`, for all rows alike.
    Text,
}

/// How a policy has changed a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ValueChange {
    /// A date that no calendar has became NULL, by [`ZeroDates::Null`].
    ZeroDateToNull,
    /// A date that is no [`DateTime`](crate::DateTime), as MySQL has none before the year 0, beyond 9999, or infinite, became NULL, by [`ZeroDates::Null`].
    DateOutOfRangeToNull,
    /// Parts of a text became U+FFFD, by [`MalformedText::Replace`].
    TextReplaced,
    /// A number was stored as text in a column that holds others as numbers, by [`OutOfRange::Mixed`].
    NumberAsText,
}

impl ValueChange {
    /// A name for machines: `zero_date_to_null`, `date_out_of_range_to_null`, `text_replaced`, `number_as_text`.
    pub fn name(self) -> &'static str {
        match self {
            Self::ZeroDateToNull => "zero_date_to_null",
            Self::DateOutOfRangeToNull => "date_out_of_range_to_null",
            Self::TextReplaced => "text_replaced",
            Self::NumberAsText => "number_as_text",
        }
    }
}

impl fmt::Display for ValueChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroDateToNull => "dates that no calendar has became NULL",
            Self::DateOutOfRangeToNull => "dates beyond the years that MySQL has became NULL",
            Self::TextReplaced => "texts had bytes that are none of their character set, which became U+FFFD",
            Self::NumberAsText => "numbers beyond SQLite's became text",
        })
    }
}

/// How many values of a column a policy has changed.
///
/// A value counts each time that it is written. Of the changes to one key that come in one batch only the last is written, so the others do not count,
/// nor does what was undone with a transaction that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChangedValues {
    /// The column at the source.
    pub column: String,
    /// What became of the values.
    pub change: ValueChange,
    /// How many.
    pub values: u64,
}

/// Values that were changed, by the column's index in a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changed(BTreeMap<(usize, ValueChange), u64>);

impl Changed {
    pub(crate) fn add(&mut self, column: usize, change: ValueChange, values: u64) {
        if values > 0 {
            *self.0.entry((column, change)).or_default() += values;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, ValueChange, u64)> {
        self.0.iter().map(|(&(column, change), &values)| (column, change, values))
    }
}

/// The same by the column's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ChangedByName(BTreeMap<(String, ValueChange), u64>);

impl ChangedByName {
    pub(crate) fn add(&mut self, column: &str, change: ValueChange, values: u64) {
        *self.0.entry((column.to_owned(), change)).or_default() += values;
    }

    pub(crate) fn take_all(&mut self, other: &mut Self) {
        for ((column, change), values) in std::mem::take(&mut other.0) {
            *self.0.entry((column, change)).or_default() += values;
        }
    }

    /// A column of these in which values have become NULL.
    pub(crate) fn nulled<'a>(&self, columns: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
        let is_nulled = |column: &str, change: ValueChange| self.0.contains_key(&(column.to_owned(), change));
        columns.into_iter().find(|column| {
            [ValueChange::ZeroDateToNull, ValueChange::DateOutOfRangeToNull].into_iter().any(|change| is_nulled(column, change))
        })
    }

    /// Leaves out other columns.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.0.retain(|(column, _), _| is_kept(column));
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn list(&self) -> Vec<ChangedValues> {
        self.0.iter().map(|((column, change), &values)| ChangedValues { column: column.clone(), change: *change, values }).collect()
    }
}
