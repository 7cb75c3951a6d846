//! A table that changes are merged into: what it is like, and how it is brought to what the source's is.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::checkpoint::own_columns;
use super::encode::{Bounds, literal};
use super::load::matching;
use super::session::Fault;
use super::table::{DestColumn, DestTable, qualified, same};
use super::types;
use super::{MySql, is_loose};
use crate::change::{DELETED_COLUMN, LSN_COLUMN, SYNCED_AT_COLUMN, bookkeeping_columns};
use crate::policy::ChangedByName;
use crate::schema::{Column, ColumnType, Table, TableName};
use crate::server::quoted;
use crate::sink::StoredColumn;
use crate::sink::checkpoint::{CHANGING, Content, Fence, OwnColumn};
use crate::{Error, ErrorKind, Result};

/// Where changes of one table go.
pub(super) struct Target {
    pub(super) name: TableName,
    /// Where the rows go while the table is built anew beside the old one.
    pub(super) building: Option<TableName>,
    /// The table as it is at the source, with the columns of ours.
    pub(super) stored: Arc<Table>,
    pub(super) shape: Shape,
    /// The columns that runs have made, as the destination has them.
    pub(super) columns: Vec<OwnColumn>,
    pub(super) content: Content,
    pub(super) fence: Option<Fence>,
    /// Rows beyond the position may be stored.
    pub(super) is_marked: bool,
    /// The run before ended amid rows beyond the position, which come once more.
    pub(super) is_repeating: bool,
    /// Rows that changed in part and were not there, of what comes once more.
    pub(super) missing: BTreeSet<Vec<u8>>,
    /// How many rows there are has to be counted.
    pub(super) is_unsure: bool,
    /// Values that policies have changed.
    pub(super) changed: ChangedByName,
}

impl Target {
    pub(super) fn new(name: &TableName, stored: Arc<Table>, shape: Shape) -> Self {
        let columns = own_columns(&shape.found, &stored, |_| false);
        Self {
            name: name.clone(),
            building: None,
            stored,
            shape,
            columns,
            content: Content::default(),
            fence: None,
            is_marked: false,
            is_repeating: false,
            missing: BTreeSet::new(),
            is_unsure: false,
            changed: ChangedByName::default(),
        }
    }

    /// Where the rows go now.
    pub(super) fn current(&self) -> &TableName {
        self.building.as_ref().unwrap_or(&self.name)
    }

    pub(super) fn has_own(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.columns.iter().any(|column| column.stored.name.to_lowercase() == name)
    }
}

/// The columns as a checkpoint lists them while some of them become another type.
pub(super) fn columns_while(columns: &[OwnColumn], steps: &[Step]) -> Vec<OwnColumn> {
    let is_changing = |name: &str| steps.iter().any(|step| matches!(step, Step::Retype(column) if same(column.name(), name)));
    let column = |OwnColumn { stored, is_at_source }: &OwnColumn| {
        let mark = if is_changing(&stored.name) { CHANGING } else { "" };
        let declared_type = format!("{}{mark}", stored.declared_type);
        OwnColumn { stored: StoredColumn { name: stored.name.clone(), declared_type }, is_at_source: *is_at_source }
    };
    columns.iter().map(column).collect()
}

/// How rows are written to a table as it is.
pub(super) struct Shape {
    pub(super) found: DestTable,
    /// The columns that are written, by their place in the table of the source with the columns of ours.
    pub(super) columns: Vec<(usize, Bounds)>,
    pub(super) key: Vec<(usize, Bounds)>,
    /// The names of the key's columns in quotation marks, in parentheses if there are several.
    pub(super) tuple: String,
    /// Texts that differ can be one key: the destination keeps the collation, so that `a` and `A` are the same row.
    pub(super) is_loose: bool,
    /// Columns that say on which shard a row is, and can differ between two versions of one row.
    pub(super) moving: Vec<usize>,
    /// Columns of the source that the server would change with any update of their row.
    pub(super) following: Vec<usize>,
    /// Names that errors may repeat after the server.
    pub(super) names: Vec<String>,
}

impl Shape {
    /// # Errors
    /// `Conflict` if the stored table cannot take the rows, or has other keys than the source says of it.
    pub(super) fn of(store: &MySql, name: &TableName, stored: &Table, found: DestTable) -> Result<Self> {
        let columns = matching(name, stored, &found, store.zero_dates)?;
        let key_names: Vec<String> = stored.primary_key().iter().map(|&index| stored.columns()[index].name().to_owned()).collect();
        if !found.has_key(&key_names) {
            let message = format!(
                "`{name}` in the destination has no primary or unique key of the columns {} that is never NULL, by which rows could be merged",
                key_names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
            );
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        found.require_whole_key(name, stored)?;
        if let Some(other) = other_key(&found, stored) {
            let message = format!(
                "`{name}` in the destination has another unique key, `{other}`: rows that are marked as deleted, and rows that exchange \
                 values, would be in each other's way; make it an index that is not unique"
            );
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        let bounds = |&index: &usize| (index, Bounds { is_key: true, ..Bounds::default() });
        let list: Vec<String> = key_names.iter().map(|name| quoted(name)).collect();
        let tuple = if list.len() == 1 { list.concat() } else { format!("({})", list.join(", ")) };
        let loose = |index: &usize| is_loose(&stored.columns()[*index]);
        let is_of_vindex = |name: &str| found.vindex_columns.iter().any(|column| same(column, name));
        let moving = (0..stored.columns().len())
            .filter(|index| is_of_vindex(stored.columns()[*index].name()))
            .filter(|index| !stored.primary_key().contains(index) || loose(index))
            .collect();
        let follows = |name: &str| found.column(name).is_some_and(|column| column.follows_updates) && !is_of_vindex(name);
        let following = columns.iter().map(|&(index, _)| index).filter(|&index| follows(stored.columns()[index].name())).collect();
        Ok(Self {
            following,
            columns,
            key: stored.primary_key().iter().map(bounds).collect(),
            tuple,
            is_loose: stored.primary_key().iter().any(loose),
            moving,
            names: found.names(),
            found,
        })
    }

    /// What an update sets beside what it is about: the columns that are to stay as they are, without those of `set`.
    pub(super) fn kept(&self, stored: &Table, set: &[usize]) -> String {
        let kept = self.following.iter().filter(|index| !set.contains(index)).map(|&index| quoted(stored.columns()[index].name()));
        kept.map(|name| format!(", {name} = {name}")).collect()
    }

    /// What follows the rows of an `INSERT`: a row that is there becomes the new one, unless it is newer. `_cdc_lsn`, which says so, comes last.
    pub(super) fn upsert_suffix(&self, stored: &Table) -> String {
        let lsn = quoted(LSN_COLUMN);
        let is_of_vindex = |name: &str| self.found.vindex_columns.iter().any(|column| same(column, name));
        let set = self.columns.iter().filter_map(|&(index, _)| {
            let column = &stored.columns()[index];
            let is_key = stored.primary_key().contains(&index);
            let is_kept = is_of_vindex(column.name()) || (is_key && !is_loose(column)) || column.name() == LSN_COLUMN;
            (!is_kept).then(|| quoted(column.name()))
        });
        let set = set.chain([lsn.clone()]).map(|name| format!("{name} = IF(VALUES({lsn}) < {lsn}, {name}, VALUES({name}))"));
        format!(" ON DUPLICATE KEY UPDATE {}", set.collect::<Vec<_>>().join(", "))
    }
}

/// A unique key beside that of the source by which two rows could meet.
pub(super) fn other_key<'a>(found: &'a DestTable, stored: &Table) -> Option<&'a str> {
    let key: Vec<&Column> = stored.primary_key().iter().map(|&index| &stored.columns()[index]).collect();
    let other = found.unique.iter().find(|unique| {
        // One that holds all of the key tells apart whatever that does.
        let is_wider = key.iter().all(|column| unique.tells_apart(column));
        // What the server computes follows from what is written.
        let sets_apart = |name: &String| {
            stored.column_index(name).is_none() && found.column(name).is_some_and(|column| column.sets_apart && !column.is_generated)
        };
        !is_wider && !unique.columns.iter().any(sets_apart)
    });
    other.map(|unique| unique.name.as_str())
}

/// The table as a server stores it: the source's columns, and those of ours.
pub(super) fn captured_table(table: &Table) -> Table {
    // The order of positions is that of their bytes; one with a VGTID of many shards can be long.
    let ours = bookkeeping_columns().map(|column| match column.name() == LSN_COLUMN {
        true => column.with_declared(Some("mediumtext".to_owned())).with_collation(Some("ascii_bin".to_owned())),
        false => column,
    });
    table.clone().with_columns(ours)
}

/// A change to a table in the destination. Each can be repeated.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Add {
        column: Column,
        default: Option<String>,
    },
    Retype(Column),
    /// A column that was dropped at the source, and has come again.
    Reset {
        column: Column,
        default: Option<String>,
    },
}

impl Step {
    pub(super) fn column(&self) -> &Column {
        match self {
            Self::Add { column, .. } | Self::Retype(column) | Self::Reset { column, .. } => column,
        }
    }

    /// The statements that perform it. A default is for the rows that are there, and goes afterwards: of later rows a column without a value is NULL.
    fn statements(&self, table: &str, is_key: bool) -> Result<Vec<String>> {
        let column = self.column();
        let (name, declared) = (quoted(column.name()), types::declared(column, is_key, false));
        let with_default = |default: &Option<String>| match default {
            Some(default) => default_literal(column.column_type(), default).map(|value| format!(" DEFAULT {value}")),
            None => Ok(String::new()),
        };
        let null = if is_key { "NOT NULL" } else { "NULL" };
        let forget =
            |default: &Option<String>| default.as_ref().map(|_| format!("ALTER TABLE {table} ALTER COLUMN {name} SET DEFAULT NULL"));
        Ok(match self {
            Self::Add { default, .. } => {
                let add = format!("ALTER TABLE {table} ADD COLUMN {name} {declared} NULL{}", with_default(default)?);
                [add].into_iter().chain(forget(default)).collect()
            }
            Self::Retype(_) => vec![format!("ALTER TABLE {table} MODIFY COLUMN {name} {declared} {null}")],
            Self::Reset { default, .. } => {
                let again = format!("ALTER TABLE {table} DROP COLUMN {name}, ADD COLUMN {name} {declared} NULL{}", with_default(default)?);
                [again].into_iter().chain(forget(default)).collect()
            }
        })
    }
}

/// A value as MySQL prints it in a column's default, as statements write it.
fn default_literal(column_type: &ColumnType, text: &str) -> Result<String> {
    Ok(match column_type {
        ColumnType::Int { .. } | ColumnType::Year | ColumnType::Decimal { .. } | ColumnType::Float | ColumnType::Double
            if text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte)) && !text.is_empty() =>
        {
            text.to_owned()
        }
        ColumnType::Bit { .. } => crate::sink::bit_default(text)?.to_string(),
        ColumnType::Binary { .. } => match crate::sink::binary_default(text) {
            digits if digits.is_empty() => "''".to_owned(),
            digits => format!("0x{digits}"),
        },
        // Columns of these types have expressions as defaults, with an evaluated value here.
        ColumnType::Text { length: None } | ColumnType::Json | ColumnType::Geometry | ColumnType::Vector => format!("({})", literal(text)),
        _ => literal(text),
    })
}

/// What the stream tells of a change of a table.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    /// Columns that are new, with what rows from before hold in them.
    pub(super) added: &'a [(Column, Option<String>)],
    /// A run that ended may have begun to follow it.
    pub(super) is_repeating: bool,
}

/// What the stored table needs to take rows of the source's. Before the stream has told of a change, no column may be missing.
///
/// # Errors
/// `SchemaChange` if a column cannot become what it is at the source; `Conflict` if there is a column that no run has made.
pub(super) fn steps(
    name: &TableName,
    stored: &Table,
    found: &DestTable,
    told: Option<Told<'_>>,
    is_own: impl Fn(&str) -> bool,
) -> Result<Vec<Step>> {
    let Told { added, is_repeating } = told.unwrap_or(Told { added: &[], is_repeating: false });
    let mut steps = Vec::new();
    for (index, column) in stored.columns().iter().enumerate() {
        let new = added.iter().find(|(added, _)| added.name() == column.name());
        let default = || new.and_then(|(_, default)| default.clone());
        let is_key = stored.primary_key().contains(&index);
        match found.column(column.name()) {
            None if told.is_some() => steps.push(Step::Add { column: column.clone(), default: default() }),
            None => return Err(missing(name, column)),
            Some(there) if there.is_generated => {}
            Some(_) if new.is_some() && !is_own(column.name()) && !is_repeating => {
                let message = format!(
                    "`{name}` has a new column `{0}` at the source, but somebody else has added one of that name to it in the destination: \
                     drop or rename that one",
                    column.name()
                );
                return Err(Error::new(ErrorKind::Conflict, message).with_column(column.name()));
            }
            // What it is to hold beyond what it was made with comes once more.
            Some(_) if new.is_some() && is_own(column.name()) => steps.push(Step::Reset { column: column.clone(), default: default() }),
            Some(there) if types::holds(there, column, is_key).is_ok() => {}
            Some(there) if widens(there, column, is_key) => steps.push(Step::Retype(column.clone())),
            Some(there) => return Err(narrower(name, there, column)),
        }
    }
    Ok(steps)
}

fn missing(name: &TableName, column: &Column) -> Error {
    let is_ours = [LSN_COLUMN, DELETED_COLUMN, SYNCED_AT_COLUMN].contains(&column.name());
    let what = match is_ours {
        true => "which change capture keeps for its own".to_owned(),
        false => format!("which is {} at the source", column.column_type()),
    };
    let message = format!("`{name}` in the destination has no column `{}`, {what}: rebuild it with full_refresh", column.name());
    Error::new(ErrorKind::Conflict, message).with_column(column.name())
}

/// Whether all that a stored column can hold is held by one of the type that it has at the source.
fn widens(there: &DestColumn, column: &Column, is_key: bool) -> bool {
    let Some(stored_type) = there.column_type.clone() else { return false };
    let declared = match column.declared() {
        Some(declared) => declared.to_owned(),
        None => types::declared(&column.clone().with_collation(None), is_key, false),
    };
    let wider = DestColumn::new(column.name(), declared, column.collation().map(str::to_owned).or_else(|| there.collation.clone()));
    let now = Column::new(&there.name, stored_type, true).with_declared(Some(there.declared.clone()));
    let bounds = types::holds(&wider, &now.with_collation(there.collation.clone()), is_key);
    // What is longer than the new type holds could be there already.
    bounds.is_ok_and(|bounds| Bounds { is_key: false, ..bounds } == Bounds::default())
}

fn narrower(name: &TableName, there: &DestColumn, column: &Column) -> Error {
    let what = match column.is_text_as_bytes() {
        true => "the bytes of text".to_owned(),
        false => column.declared().map_or_else(|| column.column_type().to_string(), str::to_owned),
    };
    let message = format!(
        "column `{name}.{}` is {} in the destination, but {what} at the source now: rebuild the table with full_refresh, or keep the options \
         that it was made with",
        column.name(),
        there.full_type()
    );
    Error::new(ErrorKind::SchemaChange, message).with_column(column.name())
}

impl MySql {
    /// Alters a table. What fails can be repeated: a step that was taken does not come again, or changes nothing.
    ///
    /// # Errors
    /// `Unsupported` with the statements to deploy, if the server lets nobody alter tables.
    pub(super) fn alter(&mut self, name: &TableName, stored: &Table, steps: &[Step]) -> Result<()> {
        let table = qualified(name);
        for step in steps {
            let column = step.column();
            let is_key = stored.column_index(column.name()).is_some_and(|index| stored.primary_key().contains(&index));
            let statements = step.statements(&table, is_key)?;
            let attempted = format!("column `{name}.{}` cannot be brought to what it is at the source", column.name());
            let names = [column.name().to_owned()];
            for statement in &statements {
                if let Err(failure) = self.session.try_execute(statement, &attempted, &names) {
                    let error = match failure.fault {
                        Fault::NoDdl => {
                            let message = format!("{}; deploy it by: {};", failure.error, statements.join("; "));
                            Error::new(ErrorKind::Unsupported, message).with_cause(failure.error)
                        }
                        _ => failure.error,
                    };
                    return Err(error.with_table(name).with_column(column.name()));
                }
            }
            if self.session.is_vitess() {
                // It knows of a new column a moment after that is there.
                let sql = format!("SELECT {} FROM {table} LIMIT 1", quoted(column.name()));
                self.session.wait_until_known(&sql, &attempted).map_err(|error| error.with_table(name))?;
            }
        }
        Ok(())
    }

    /// Looks up how rows are written to a table that is there.
    pub(super) fn shape(&mut self, name: &TableName, stored: &Table) -> Result<Shape> {
        let found = self.look_up(name)?;
        let found = found.ok_or_else(|| Error::new(ErrorKind::Sink, format!("table `{name}` was there, but is not any more")))?;
        Shape::of(self, name, stored, found)
    }
}
