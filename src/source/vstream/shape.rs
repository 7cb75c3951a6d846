//! Whether the tablet read a row's columns by the right names.
//!
//! A tablet that does not track schemas reads old changes by the table's columns of today: it compares types only, in order. So after a
//! column was moved, or one was dropped and another one of its type added, older changes come with values under wrong names, and nothing
//! in the event says so. What gives it away is a FIELD event that shows a change of the table before the statement that made it.
//!
//! The members of an ENUM or SET and the character set of a text are those of today too. There it is the time that gives it away: of a FIELD
//! event that was sent before the statement was run they were still the old ones.

use std::collections::BTreeMap;

use crate::source::charset::Charset;
use crate::source::vstream::ddl::{Alteration, Place};
use crate::source::vstream::event::FieldEvent;

/// The columns of one table on one shard, in their order, as the FIELD events have shown them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    /// `None` until they are known.
    columns: Option<Vec<String>>,
    /// A statement has changed them since; the next FIELD event shows how.
    altered: bool,
    /// Changes of rows have come since the last such statement.
    rows: bool,
    /// What the last FIELD event says of each column: its declared type, and the id of its collation.
    declared: BTreeMap<String, (String, u64)>,
    /// When it was sent, in seconds since 1970; 0 if that is not known.
    sent: i64,
}

impl Shape {
    /// The columns as they are at the position.
    pub(crate) fn new<S: AsRef<str>>(columns: impl IntoIterator<Item = S>) -> Self {
        Self { columns: Some(lowercase(columns)), ..Self::default() }
    }

    /// Takes the columns of a FIELD event. `false` if they have changed though no statement came that changes them.
    pub(crate) fn on_field<S: AsRef<str>>(&mut self, columns: impl IntoIterator<Item = S>) -> bool {
        let columns = lowercase(columns);
        // Of a change that is older than a column at the end, the tablet names the columns that it has.
        let expected = self.altered || self.columns.as_ref().is_none_or(|known| known.starts_with(&columns));
        self.columns = Some(columns);
        self.altered = false;
        expected
    }

    /// Takes what a FIELD event, sent at this time, says of the columns' types.
    pub(crate) fn declare(&mut self, field: &FieldEvent, sent: i64) {
        let declared = field.fields.iter().map(|column| (column.name.to_lowercase(), (column.column_type.to_lowercase(), column.charset)));
        (self.declared, self.sent) = (declared.collect(), sent);
    }

    /// Whether the rows that came before a statement, which was run `at` this time, may have been read by what it makes of their values.
    pub(crate) fn is_misread(&self, alteration: &Alteration, at: i64) -> bool {
        if !self.rows || self.sent == 0 || self.sent < at {
            return false;
        }
        let is_text = |declared: &str| {
            ["char", "varchar", "tinytext", "text", "mediumtext", "longtext"].iter().any(|text| declared.starts_with(text))
        };
        let has_members = |declared: &str| declared.starts_with("enum") || declared.starts_with("set");
        match alteration {
            Alteration::Convert => self.declared.values().any(|(declared, _)| is_text(declared) || has_members(declared)),
            Alteration::Modify { column, definition, .. } => match self.declared.get(&column.to_lowercase()) {
                Some((declared, _)) if has_members(declared) => definition.declares(declared),
                // Bytes of another character set are seldom valid UTF-8; and then that is an error.
                Some((declared, charset)) if is_text(declared) => {
                    definition.names_charset() || !Charset::of(*charset).is_ok_and(|charset| charset == Charset::Utf8)
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// Whether a column is known to have had this type before a statement that was run `at` this time.
    pub(crate) fn was(&self, column: &str, declared_type: &str, at: i64) -> bool {
        self.sent != 0
            && self.sent < at
            && self.declared.get(&column.to_lowercase()).is_some_and(|(declared, _)| declared.starts_with(declared_type))
    }

    pub(crate) fn on_row(&mut self) {
        self.rows = true;
    }

    /// Takes a statement. `false` if the rows that came before it already had the columns that it makes.
    pub(crate) fn on_alter(&mut self, alterations: &[Alteration]) -> bool {
        let mut telling = alterations.iter().filter_map(|alteration| self.shows(alteration)).peekable();
        let too_early = self.rows && telling.peek().is_some() && telling.all(|shown| shown);
        self.altered |= alterations.iter().any(Alteration::is_of_columns);
        self.rows &= !self.altered;
        !too_early
    }

    /// Whether the known columns are as the alteration leaves them; `None` if they tell nothing.
    fn shows(&self, alteration: &Alteration) -> Option<bool> {
        let columns = self.columns.as_ref()?;
        let at = |name: &str| columns.iter().position(|column| *column == name.to_lowercase());
        let is_at = |column: &str, place: &Place| match place {
            Place::First => Some(at(column) == Some(0)),
            Place::After(other) => Some(at(column).is_some() && at(column) == at(other).map(|other| other + 1)),
            Place::Unchanged => None,
        };
        match alteration {
            Alteration::Add { column, .. } => Some(at(column).is_some()),
            Alteration::Drop(column) => Some(at(column).is_none()),
            Alteration::Rename { from, to, .. } => Some(at(from).is_none() && at(to).is_some()),
            Alteration::Modify { column, place, .. } => is_at(column, place),
            Alteration::Default(_) | Alteration::Convert | Alteration::Rows { .. } | Alteration::Key(_) => None,
        }
    }
}

fn lowercase<S: AsRef<str>>(columns: impl IntoIterator<Item = S>) -> Vec<String> {
    columns.into_iter().map(|name| name.as_ref().to_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::vstream::ddl::Ddl;
    use crate::source::vstream::event::FieldColumn;

    fn alter(statement: &str) -> Vec<Alteration> {
        match Ddl::parse(&format!("alter table t {statement}")) {
            Ddl::Alter(_, alterations) => alterations,
            other => panic!("{statement}: {other:?}"),
        }
    }

    /// Rows by the columns `before`, then the statement.
    fn is_trusted(before: &str, statement: &str) -> bool {
        let mut shape = Shape::default();
        assert!(shape.on_field(before.split(' ')));
        shape.on_row();
        shape.on_alter(&alter(statement))
    }

    #[test]
    fn rows_that_come_with_the_columns_before_the_statement_are_trusted() {
        assert!(is_trusted("id a b", "modify b varchar(20) after id"));
        assert!(is_trusted("id a b", "add c int"));
        assert!(is_trusted("id a b", "add c int first"));
        assert!(is_trusted("id a b", "drop a"));
        assert!(is_trusted("id a b", "drop a, add c int after id"));
        assert!(is_trusted("id a b", "rename column a to c"));
        // Where a column stays is not told by a statement that widens it.
        assert!(is_trusted("id a b", "modify a bigint"));
        assert!(is_trusted("id a b", "add index i (a)"));
    }

    #[test]
    fn rows_that_come_with_the_columns_after_the_statement_are_not() {
        assert!(!is_trusted("id b a", "modify b varchar(20) after id"));
        assert!(!is_trusted("b id a", "modify B varchar(20) first"));
        assert!(!is_trusted("id c a", "add C int after id"));
        assert!(!is_trusted("id c b", "drop a, add c int after id"));
        assert!(!is_trusted("id c b", "change a c int"));
    }

    #[test]
    fn a_statement_without_rows_before_it_tells_nothing() {
        let mut shape = Shape::new(["id", "b", "a"]);
        assert!(shape.on_alter(&alter("modify b int after id")));
        assert!(shape.on_field(["id", "x"]));
    }

    #[test]
    fn members_and_character_sets_are_those_of_the_time_at_which_the_field_event_was_sent() {
        let column = |name: &str, column_type: &str, charset| FieldColumn {
            name: name.into(),
            column_type: column_type.into(),
            charset,
            ..FieldColumn::default()
        };
        let fields =
            vec![column("e", "enum('x','a')", 255), column("s", "varchar(20)", 8), column("t", "text", 255), column("n", "int", 63)];
        let field = FieldEvent { fields, ..FieldEvent::default() };
        let misread = |statement: &str, sent: i64| {
            let mut shape = Shape::default();
            shape.declare(&field, sent);
            let is_misread = |shape: &Shape| alter(statement).iter().any(|alteration| shape.is_misread(alteration, 100));
            assert!(!is_misread(&shape), "no row came before: {statement}");
            shape.on_row();
            is_misread(&shape)
        };
        for statement in [
            "modify E enum('x','a') not null",
            "modify s varchar(20)",
            "modify t text character set utf8mb4",
            "convert to character set utf8mb4",
        ] {
            assert!(misread(statement, 100) && misread(statement, 101), "{statement}");
            // Sent before the statement was run, or nobody knows when.
            assert!(!misread(statement, 99) && !misread(statement, 0), "{statement}");
        }
        for statement in
            ["modify e enum('x','a','b')", "modify t mediumtext", "modify n bigint", "modify absent enum('x')", "add index i (s)"]
        {
            assert!(!misread(statement, 100), "{statement}");
        }
    }

    #[test]
    fn columns_that_change_without_a_statement_are_not_trusted() {
        let mut shape = Shape::new(["id", "a", "b"]);
        assert!(shape.on_field(["ID", "a", "b"]));
        assert!(shape.on_field(["id", "a"]));
        assert!(!shape.on_field(["id", "b", "a"]));
        let mut shape = Shape::new(["id", "a", "b"]);
        assert!(shape.on_alter(&alter("add c int after id")));
        assert!(shape.on_field(["id", "c", "a", "b"]));
        assert!(!shape.on_field(["id", "a", "b"]));
    }
}
