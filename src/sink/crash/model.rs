//! What a destination has to hold: the changes, one by one, into maps.

use std::collections::BTreeMap;

use super::script::Values;
use crate::change::{Change, ChangeBatch, DELETED_COLUMN, LSN_COLUMN, Op};
use crate::schema::{Table, TableName};
use crate::sink::{Deletes, Sink, qualified, quoted};
use crate::value::ValueRef;

/// What a table holds: its columns, its rows by key, and how far it has been captured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) columns: Vec<String>,
    pub(super) rows: BTreeMap<i64, StoredRow>,
    pub(super) position: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredRow {
    /// Without the key.
    pub(super) values: Values,
    pub(super) deleted: bool,
    pub(super) lsn: String,
}

pub(super) type State = BTreeMap<String, Stored>;

/// Changes one by one into maps.
#[derive(Clone)]
pub(super) struct Model {
    deletes: Deletes,
    pub(super) state: State,
}

impl Model {
    pub(super) fn new(deletes: Deletes) -> Self {
        Self { deletes, state: State::new() }
    }

    pub(super) fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            let table = self.state.entry(change.table().name().to_owned()).or_default();
            apply(table, change, self.deletes);
        }
    }

    pub(super) fn write(&mut self, batches: &[ChangeBatch]) {
        for batch in batches {
            self.apply(batch.changes());
            for checkpoint in batch.checkpoints() {
                self.state.entry(checkpoint.table().to_owned()).or_default().position = checkpoint.to_string();
            }
        }
    }
}

fn names(table: &Table) -> Vec<String> {
    table.columns().iter().skip(1).map(|column| column.name().to_owned()).collect()
}

fn apply(stored: &mut Stored, change: &Change, deletes: Deletes) {
    let delete = |stored: &mut Stored, which: &dyn Fn(i64, &StoredRow) -> bool, lsn: &str| match deletes {
        Deletes::Hard => stored.rows.retain(|key, row| !which(*key, row)),
        Deletes::Soft => {
            for (_, row) in stored.rows.iter_mut().filter(|(key, row)| which(**key, row)) {
                (row.deleted, row.lsn) = (true, lsn.to_owned());
            }
        }
    };
    match change {
        Change::Rows(changes) => {
            if stored.columns.is_empty() {
                stored.columns = names(changes.table());
            }
            assert_eq!(stored.columns, names(changes.table()), "rows come in the form that the table has");
            for index in 0..changes.len() {
                let value = |column: usize| match changes.rows().value(index, column) {
                    ValueRef::Null => None,
                    ValueRef::Int(number) => Some(number.to_string()),
                    ValueRef::Text(text) => Some(text.to_owned()),
                    other => panic!("{other:?}"),
                };
                let (key, lsn) = (value(0).unwrap().parse().unwrap(), changes.lsn(index));
                if changes.ops()[index] == Op::Delete {
                    delete(stored, &|row, _| row == key, &lsn);
                    continue;
                }
                let mut values: Values = (1..=stored.columns.len()).map(value).collect();
                for &absent in changes.absent(index) {
                    values[absent - 1] = stored.rows[&key].values[absent - 1].clone();
                }
                stored.rows.insert(key, StoredRow { values, deleted: false, lsn });
            }
        }
        Change::Truncated { lsn, .. } => delete(stored, &|_, row| !row.deleted || deletes == Deletes::Hard, lsn),
        Change::Swept { before, lsn, .. } => {
            delete(stored, &|_, row| row.lsn < *before && (!row.deleted || deletes == Deletes::Hard), lsn);
        }
        Change::Columns { table, added } => {
            for row in stored.rows.values_mut() {
                row.values.extend(added.iter().map(|(_, default)| default.clone()));
            }
            stored.columns = names(table);
        }
        Change::CopiedAnew { .. } => {}
        Change::Ended { .. } => panic!("no table ends here"),
    }
}

/// What a destination holds, in the model's terms.
pub(super) fn look(sink: &mut Sink) -> State {
    let destination = sink.destination_for_tests();
    let mut state = State::new();
    for name in ["a", "b"] {
        let table = TableName::new(name);
        let Some(columns) = destination.stored_columns(&table).unwrap() else { continue };
        let columns: Vec<String> =
            columns.into_iter().map(|column| column.name).filter(|name| name != "id" && !name.starts_with("_cdc_")).collect();
        let list: Vec<String> = columns.iter().map(|name| format!("CAST({} AS VARCHAR)", quoted(name))).collect();
        let deleted = quoted(DELETED_COLUMN);
        let sql = format!(
            "SELECT id, {}, CASE WHEN {deleted} THEN 1 ELSE 0 END, {} FROM {}",
            list.join(", "),
            quoted(LSN_COLUMN),
            qualified(&table)
        );
        let mut rows = BTreeMap::new();
        for mut cells in destination.query_text(&sql).unwrap() {
            let lsn = cells.pop().flatten().unwrap();
            let deleted = cells.pop().flatten().unwrap() == "1";
            let key = cells.remove(0).unwrap().parse().unwrap();
            assert!(rows.insert(key, StoredRow { values: cells, deleted, lsn }).is_none(), "`{name}` holds the key {key} twice");
        }
        let sql = format!("SELECT position FROM _ingest_checkpoint WHERE dest_table = '{name}'");
        let position = match destination.stored_columns(&TableName::new("_ingest_checkpoint")).unwrap() {
            Some(_) => destination.query_text(&sql).unwrap().into_iter().flatten().next().flatten().unwrap_or_default(),
            None => String::new(),
        };
        // A table that was made and not yet written to is as good as none.
        if !rows.is_empty() || !position.is_empty() {
            state.insert(name.to_owned(), Stored { columns, rows, position });
        }
    }
    state
}
