//! What a destination has: tables, their columns and keys, and in a sharded keyspace the vindexes that say where rows go.

use super::encode::literal;
use super::session::Session;
use crate::schema::{Column, ColumnType, Table, TableName};
use crate::server::quoted;
use crate::{Error, ErrorKind, Result};

/// A column as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DestColumn {
    pub(super) name: String,
    /// `COLUMN_TYPE`.
    pub(super) declared: String,
    pub(super) column_type: Option<ColumnType>,
    pub(super) collation: Option<String>,
    pub(super) is_nullable: bool,
    /// The server computes it.
    pub(super) is_generated: bool,
    /// It gets a value by itself.
    pub(super) has_default: bool,
    /// Rows that do not say its value do not have it in common: it counts by itself, or is NULL.
    pub(super) sets_apart: bool,
    /// Any update of the row gives it the time of day, unless that says what it is to be.
    pub(super) follows_updates: bool,
    pub(super) comment: String,
}

impl DestColumn {
    pub(super) fn new(name: impl Into<String>, declared: impl Into<String>, collation: Option<String>) -> Self {
        let declared = declared.into();
        Self {
            name: name.into(),
            column_type: ColumnType::parse(&declared).ok(),
            declared,
            collation,
            is_nullable: true,
            is_generated: false,
            has_default: true,
            sets_apart: true,
            follows_updates: false,
            comment: String::new(),
        }
    }

    /// Type and collation.
    pub(super) fn full_type(&self) -> String {
        match &self.collation {
            Some(collation) => format!("{} COLLATE {collation}", self.declared),
            None => self.declared.clone(),
        }
    }
}

/// A unique key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UniqueKey {
    pub(super) name: String,
    pub(super) columns: Vec<String>,
    /// For each of these, of how many of its characters, or bytes, it is; `None`: of all of them.
    pub(super) prefixes: Vec<Option<u32>>,
    /// It looks at expressions too, which are none of the columns.
    pub(super) has_expression: bool,
}

impl UniqueKey {
    /// Whether it holds a column of the source's key, and tells its values apart as that does.
    pub(super) fn tells_apart(&self, column: &Column) -> bool {
        let part = self.columns.iter().position(|name| same(name, column.name()));
        part.is_some_and(|part| match (self.prefixes[part], column.key_prefix()) {
            (None, _) => true,
            (Some(own), source) => source.is_some_and(|source| source <= own),
        })
    }
}

/// A table that is there.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DestTable {
    pub(super) columns: Vec<DestColumn>,
    pub(super) unique: Vec<UniqueKey>,
    /// Columns of any vindex.
    pub(super) vindex_columns: Vec<String>,
}

impl DestTable {
    pub(super) fn column(&self, name: &str) -> Option<&DestColumn> {
        find(&self.columns, name, |column| &column.name)
    }

    /// Names that an error may repeat after the server.
    pub(super) fn names(&self) -> Vec<String> {
        let columns = self.columns.iter().map(|column| column.name.clone());
        columns.chain(self.unique.iter().map(|key| key.name.clone())).collect()
    }

    /// Whether these columns are a key that no two rows share and that is never NULL.
    pub(super) fn has_key(&self, columns: &[String]) -> bool {
        self.keys_of(columns).next().is_some()
    }

    /// Refuses keys of the beginnings of values only, to which rows that are two at the source can be one.
    ///
    /// # Errors
    /// `Conflict` if every key of the source's columns is of that kind, unless the source's own key is of no more of the values.
    pub(super) fn require_whole_key(&self, name: &TableName, table: &Table) -> Result<()> {
        let key: Vec<&Column> = table.primary_key().iter().map(|&index| &table.columns()[index]).collect();
        let names: Vec<String> = key.iter().map(|column| column.name().to_owned()).collect();
        let mut cut = None;
        for unique in self.keys_of(&names) {
            match key.iter().find(|column| !unique.tells_apart(column)) {
                Some(column) => cut = cut.or(Some((unique, column.name()))),
                None => return Ok(()),
            }
        }
        let Some((unique, column)) = cut else { return Ok(()) };
        let message = format!(
            "the key `{}` of `{name}` in the destination is of the beginning of `{column}` only, so that rows which are two at the source would be one: \
             it has to be of whole values",
            unique.name
        );
        Err(Error::new(ErrorKind::Conflict, message).with_column(column))
    }

    fn keys_of(&self, columns: &[String]) -> impl Iterator<Item = &UniqueKey> {
        let is_same = |key: &&UniqueKey| {
            let is_column = |column: &String| columns.iter().any(|other| same(column, other));
            !key.has_expression && key.columns.len() == columns.len() && key.columns.iter().all(is_column)
        };
        let is_never_null = |key: &&UniqueKey| key.columns.iter().all(|name| self.column(name).is_some_and(|column| !column.is_nullable));
        self.unique.iter().filter(is_same).filter(is_never_null)
    }
}

/// Whether two names are one without regard to case, as those of columns are to MySQL.
pub(super) fn same(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

fn find<'a, T>(all: &'a [T], name: &str, name_of: impl Fn(&T) -> &String) -> Option<&'a T> {
    let name = name.to_lowercase();
    all.iter().find(|one| name_of(one).to_lowercase() == name)
}

/// A table's name as statements take it.
pub(super) fn qualified(name: &TableName) -> String {
    match name.schema() {
        Some(schema) => format!("{}.{}", quoted(schema), quoted(name.name())),
        None => quoted(name.name()),
    }
}

fn in_schema(name: &TableName) -> String {
    let schema = name.schema().map_or_else(|| "database()".to_owned(), literal);
    format!("table_schema = {schema} AND table_name = {}", literal(name.name()))
}

/// Looks a table up.
///
/// # Errors
/// `Conflict` if there is a view of the name.
pub(super) fn look_up(session: &mut Session, name: &TableName) -> Result<Option<DestTable>> {
    // Whether the server regards the case of letters here depends on its file system; where it does not, neither does this.
    let sql = format!("SELECT table_name, table_type FROM information_schema.tables WHERE {}", in_schema(name));
    let found: Vec<(String, String)> = session.query(&sql)?.into_iter().filter_map(pair).collect();
    let exact = found.iter().find(|(found, _)| found == name.name());
    let Some((spelled, kind)) = exact.or_else(|| found.first().filter(|_| !regards_case(session))) else { return Ok(None) };
    if kind != "BASE TABLE" && kind != "SYSTEM VERSIONED" {
        let message = format!("`{name}` in the destination is no table, but a {}: choose another destination table", kind.to_lowercase());
        return Err(Error::new(ErrorKind::Conflict, message));
    }
    let condition = in_schema(name);
    let columns = format!(
        "SELECT table_name, ordinal_position, column_name, column_type, is_nullable, column_default, extra, collation_name, column_comment \
         FROM information_schema.columns WHERE {condition}"
    );
    let mut columns: Vec<(u32, DestColumn)> = session.query(&columns)?.into_iter().filter_map(|row| column_of(row, spelled)).collect();
    columns.sort_by_key(|(at, _)| *at);
    let keys = format!(
        "SELECT table_name, seq_in_index, index_name, column_name, sub_part FROM information_schema.statistics WHERE {condition} AND non_unique = 0"
    );
    let mut parts: Vec<Part> = session.query(&keys)?.into_iter().filter_map(|row| part_of(row, spelled)).collect();
    parts.sort_by_key(|part| part.at);
    let mut unique: Vec<UniqueKey> = Vec::new();
    for Part { key, column, prefix, .. } in parts {
        if !unique.iter().any(|known| known.name == key) {
            unique.push(UniqueKey { name: key.clone(), columns: Vec::new(), prefixes: Vec::new(), has_expression: false });
        }
        if let Some(known) = unique.iter_mut().find(|known| known.name == key) {
            match column {
                Some(column) => {
                    known.columns.push(column);
                    known.prefixes.push(prefix);
                }
                // Of an expression no column is named.
                None => known.has_expression = true,
            }
        }
    }
    Ok(Some(DestTable { columns: columns.into_iter().map(|(_, column)| column).collect(), unique, vindex_columns: Vec::new() }))
}

pub(super) fn regards_case(session: &mut Session) -> bool {
    let said = session.query("SELECT @@lower_case_table_names");
    said.ok().and_then(|rows| rows.into_iter().flatten().flatten().next()).is_none_or(|value| value == "0")
}

fn pair(row: Vec<Option<String>>) -> Option<(String, String)> {
    let [first, second] = <[Option<String>; 2]>::try_from(row).ok()?;
    Some((first?, second.unwrap_or_default()))
}

fn column_of(row: Vec<Option<String>>, table: &str) -> Option<(u32, DestColumn)> {
    let [of, at, name, declared, nullable, default, extra, collation, comment] = <[Option<String>; 9]>::try_from(row).ok()?;
    if of.as_deref() != Some(table) {
        return None;
    }
    let extra = extra.unwrap_or_default().to_ascii_uppercase();
    let is_nullable = nullable.as_deref() == Some("YES");
    let says = |word: &str| extra.split(' ').any(|found| found == word);
    let is_counted = says("AUTO_INCREMENT");
    let is_random = says("DEFAULT_GENERATED") && default.as_ref().is_some_and(|default| default.to_ascii_lowercase().contains("uuid()"));
    let column = DestColumn {
        is_nullable,
        // DEFAULT_GENERATED marks an expression as default, not a generated column.
        is_generated: says("GENERATED"),
        has_default: is_nullable || default.is_some() || is_counted || says("DEFAULT_GENERATED"),
        sets_apart: is_counted || is_random || (is_nullable && default.is_none()),
        follows_updates: extra.contains("ON UPDATE"),
        comment: comment.unwrap_or_default(),
        ..DestColumn::new(name?, declared?, collation)
    };
    Some((at?.parse().ok()?, column))
}

/// A part of a unique key.
struct Part {
    at: u32,
    key: String,
    column: Option<String>,
    prefix: Option<u32>,
}

fn part_of(row: Vec<Option<String>>, table: &str) -> Option<Part> {
    let [of, at, key, column, prefix] = <[Option<String>; 5]>::try_from(row).ok()?;
    (of.as_deref() == Some(table)).then_some(())?;
    Some(Part { at: at?.parse().ok()?, key: key?, column, prefix: prefix.and_then(|prefix| prefix.parse().ok()) })
}

/// The columns of a table's vindexes; `None` if vtgate has not been told of the table.
pub(super) fn vindex_columns(session: &mut Session, keyspace: &str, name: &TableName) -> Result<Option<Vec<String>>> {
    let sql = format!("SHOW VSCHEMA VINDEXES ON {}.{}", quoted(name.schema().unwrap_or(keyspace)), quoted(name.name()));
    let attempted = format!("cannot ask vtgate for the vindexes of `{name}`");
    let rows = match session.try_query(&sql, &attempted) {
        Ok(rows) => rows,
        Err(failure) if failure.fault == super::session::Fault::Unknown => return Ok(None),
        Err(failure) => return Err(failure.error),
    };
    let first = rows.into_iter().filter_map(|row| row.into_iter().next().flatten());
    Ok(Some(first.flat_map(|cell| String::from_utf8_lossy(&cell).split(", ").map(str::to_owned).collect::<Vec<_>>()).collect()))
}
