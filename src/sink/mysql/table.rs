//! What a destination has: tables, their columns and keys, and in a sharded keyspace the vindexes that say where rows go.

use super::encode::literal;
use super::session::Session;
use crate::schema::{ColumnType, TableName};
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
    /// It looks at expressions too, which are none of the columns.
    pub(super) has_expression: bool,
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
        let same = |one: &str, other: &str| one.to_lowercase() == other.to_lowercase();
        let is_same = |key: &&UniqueKey| {
            let is_column = |column: &String| columns.iter().any(|other| same(column, other));
            !key.has_expression && key.columns.len() == columns.len() && key.columns.iter().all(is_column)
        };
        let is_never_null = |key: &UniqueKey| key.columns.iter().all(|name| self.column(name).is_some_and(|column| !column.is_nullable));
        // A key of the beginnings of texts tells fewer rows apart, so that those of the columns are apart too; but not the other way round.
        self.unique.iter().filter(is_same).any(is_never_null)
    }
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
        "SELECT table_name, seq_in_index, index_name, column_name FROM information_schema.statistics WHERE {condition} AND non_unique = 0"
    );
    let mut parts: Vec<(u32, String, Option<String>)> = session.query(&keys)?.into_iter().filter_map(|row| part_of(row, spelled)).collect();
    parts.sort_by_key(|(at, ..)| *at);
    let mut unique: Vec<UniqueKey> = Vec::new();
    for (_, key, column) in parts {
        if !unique.iter().any(|known| known.name == key) {
            unique.push(UniqueKey { name: key.clone(), columns: Vec::new(), has_expression: false });
        }
        if let Some(known) = unique.iter_mut().find(|known| known.name == key) {
            // Of an expression no column is named.
            known.has_expression |= column.is_none();
            known.columns.extend(column);
        }
    }
    Ok(Some(DestTable { columns: columns.into_iter().map(|(_, column)| column).collect(), unique, vindex_columns: Vec::new() }))
}

fn regards_case(session: &mut Session) -> bool {
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
    let column = DestColumn {
        is_nullable,
        // DEFAULT_GENERATED marks an expression as default, not a generated column.
        is_generated: says("GENERATED"),
        has_default: is_nullable || default.is_some() || says("AUTO_INCREMENT") || says("DEFAULT_GENERATED"),
        follows_updates: extra.contains("ON UPDATE"),
        comment: comment.unwrap_or_default(),
        ..DestColumn::new(name?, declared?, collation)
    };
    Some((at?.parse().ok()?, column))
}

fn part_of(row: Vec<Option<String>>, table: &str) -> Option<(u32, String, Option<String>)> {
    let [of, at, key, column] = <[Option<String>; 4]>::try_from(row).ok()?;
    (of.as_deref() == Some(table)).then_some(())?;
    Some((at?.parse().ok()?, key?, column))
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
