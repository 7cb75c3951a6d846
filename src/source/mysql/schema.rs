//! What tables there are, from `information_schema`.
//!
//! Vitess refuses joins over `information_schema`, so each query reads one of its tables and the joining is done here.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::schema::{Column, ColumnType, Table};
use crate::server::Connection;
use crate::{Error, ErrorKind, Result};

const TABLES: &str = "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = database()";
const COLUMNS: &str = "SELECT table_name, ordinal_position, column_name, column_type, is_nullable, extra, collation_name \
                       FROM information_schema.columns WHERE table_schema = database()";
const KEYS: &str = "SELECT table_name, seq_in_index, column_name, sub_part \
                    FROM information_schema.statistics WHERE table_schema = database() AND index_name = 'PRIMARY'";

/// Every base table of the connection's database, by name, without views and without what tools for online schema changes leave behind.
///
/// # Errors
/// `Schema` if a column has a type that cannot be mapped.
pub(crate) fn tables(connection: &mut Connection) -> Result<Vec<Table>> {
    let names = base_tables(connection.query(TABLES, &[])?)?;
    let columns = connection.query(COLUMNS, &[])?;
    let keys = connection.query(KEYS, &[])?;
    let shown: Vec<&String> = names.iter().filter(|name| !is_internal(name, &names) && !crate::source::is_own(name)).collect();
    assemble(&shown, columns, keys)
}

/// One base table by its exact name, an internal one too.
///
/// # Errors
/// `Schema` if there is no such base table, or a column has a type that cannot be mapped.
pub(crate) fn table(connection: &mut Connection, name: &str) -> Result<Table> {
    // Compared here and not by the server, whose comparison of names depends on its file system.
    let names = base_tables(connection.query(TABLES, &[])?)?;
    let Some(found) = names.get(name) else {
        return Err(Error::new(ErrorKind::Schema, format!("the source has no base table `{name}`")).with_table(name));
    };
    let only = |sql: &str| format!("{sql} AND table_name = ?");
    let columns = connection.query(&only(COLUMNS), &[name])?;
    let keys = connection.query(&only(KEYS), &[name])?;
    let table = assemble(&[found], columns, keys)?.pop();
    table.ok_or_else(|| Error::new(ErrorKind::Schema, format!("the source has no base table `{name}`")).with_table(name))
}

fn base_tables(rows: Vec<Vec<Option<String>>>) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for row in rows {
        let [name, kind] = cells(row)?;
        if kind == "BASE TABLE" || kind == "SYSTEM VERSIONED" {
            names.insert(name);
        }
    }
    Ok(names)
}

fn assemble(names: &[&String], columns: Vec<Vec<Option<String>>>, keys: Vec<Vec<Option<String>>>) -> Result<Vec<Table>> {
    let wanted: BTreeSet<&str> = names.iter().map(|name| name.as_str()).collect();
    let mut columns_of: HashMap<String, BTreeMap<u32, Column>> = HashMap::new();
    for row in columns {
        let [table, ordinal, name, declared, nullable, extra, collation] = cells(row)?;
        if !wanted.contains(table.as_str()) {
            continue;
        }
        let column_type = ColumnType::parse(&declared).map_err(|error| error.with_table(&table).with_column(&name))?;
        // DEFAULT_GENERATED marks an expression as default, not a generated column.
        let generated = extra.to_ascii_uppercase().split(' ').any(|word| word == "GENERATED");
        let column = Column::new(name, column_type, nullable == "YES")
            .generated(generated)
            .with_collation((!collation.is_empty()).then_some(collation))
            .with_declared(Some(declared));
        columns_of.entry(table).or_default().insert(ordinal_of(&ordinal)?, column);
    }
    let mut key_of: HashMap<String, BTreeMap<u32, (String, Option<u32>)>> = HashMap::new();
    for row in keys {
        let [table, ordinal, column, prefix] = cells(row)?;
        key_of.entry(table).or_default().insert(ordinal_of(&ordinal)?, (column, prefix.parse().ok()));
    }
    let mut tables = Vec::with_capacity(names.len());
    for &name in names {
        let Some(columns) = columns_of.remove(name) else {
            return Err(Error::new(ErrorKind::Schema, format!("the user may not see the columns of table `{name}`")).with_table(name));
        };
        let (key, prefixes): (Vec<String>, Vec<Option<u32>>) = key_of.remove(name).unwrap_or_default().into_values().unzip();
        let with_prefix = |column: Column| match key.iter().position(|part| part == column.name()) {
            Some(part) => column.with_key_prefix(prefixes[part]),
            None => column,
        };
        tables.push(Table::new(name, columns.into_values().map(with_prefix).collect()).with_primary_key(&key)?);
    }
    Ok(tables)
}

/// The cells of a row of a query with `N` columns, in which NULL means the same as nothing.
fn cells<const N: usize>(row: Vec<Option<String>>) -> Result<[String; N]> {
    let row: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
    row.try_into().map_err(|_| Error::protocol("information_schema answers with another number of columns than was asked for"))
}

fn ordinal_of(text: &str) -> Result<u32> {
    text.parse().map_err(|_| Error::protocol("information_schema gives a position that is not a number"))
}

/// Whether the table belongs to Vitess or to a tool that changes schemas online.
///
/// Vitess's names are its own. Those of gh-ost and pt-online-schema-change are told from a user's only by the table beside them that
/// is being changed.
fn is_internal(name: &str, all: &BTreeSet<String>) -> bool {
    if name.starts_with("_vt_") || is_vitess_online_ddl(name) {
        return true;
    }
    let Some(rest) = name.strip_prefix('_') else { return false };
    ["_gho", "_ghc", "_del", "_new", "_old"].iter().any(|suffix| {
        rest.strip_suffix(suffix).is_some_and(|base| {
            let base = base.trim_start_matches('_');
            // gh-ost can put the time into the name of the table that it replaced.
            let untimed = base.rsplit_once('_').filter(|(_, time)| time.len() == 14 && time.bytes().all(|byte| byte.is_ascii_digit()));
            all.contains(base) || untimed.is_some_and(|(base, _)| all.contains(base))
        })
    })
}

/// `_<32 hexadecimal digits or a UUID with underscores>_<14 digits>_<vrepl|gho|ghc|del|new>`, as Vitess called them before version 18.
fn is_vitess_online_ddl(name: &str) -> bool {
    let Some(rest) = name.strip_prefix('_') else { return false };
    let Some((rest, kind)) = rest.rsplit_once('_') else { return false };
    let Some((uuid, time)) = rest.rsplit_once('_') else { return false };
    let digits = uuid.bytes().filter(|&byte| byte != b'_');
    ["vrepl", "gho", "ghc", "del", "new"].contains(&kind)
        && time.len() == 14
        && time.bytes().all(|byte| byte.is_ascii_digit())
        && digits.clone().count() == 32
        && digits.clone().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<Option<String>>> {
        rows.iter().map(|row| row.iter().map(|cell| Some((*cell).to_owned())).collect()).collect()
    }

    #[test]
    fn keys_keep_their_own_order_and_columns_theirs() {
        let columns = rows(&[
            &["t", "2", "b", "int", "NO", "", ""],
            &["t", "10", "d", "int", "YES", "STORED GENERATED", ""],
            &["t", "1", "a", "int", "NO", "DEFAULT_GENERATED on update CURRENT_TIMESTAMP", "utf8mb4_bin"],
            &["u", "1", "x", "hologram", "NO", "", ""],
        ]);
        let keys = rows(&[&["t", "2", "a", "20"], &["t", "1", "b", ""]]);
        let tables = assemble(&[&"t".to_owned()], columns, keys).unwrap();
        let names: Vec<&str> = tables[0].columns().iter().map(Column::name).collect();
        assert_eq!(names, ["a", "b", "d"]);
        assert_eq!(tables[0].primary_key(), [1, 0]);
        assert_eq!(tables[0].columns().iter().map(Column::key_prefix).collect::<Vec<_>>(), [Some(20), None, None]);
        assert_eq!(tables[0].columns().iter().map(Column::is_generated).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(tables[0].columns().iter().map(Column::collation).collect::<Vec<_>>(), [Some("utf8mb4_bin"), None, None]);
    }

    #[test]
    fn tables_of_tools_are_hidden_and_tables_that_only_look_alike_are_not() {
        let all: BTreeSet<String> = ["orders", "_orders_gho", "__orders_new", "_orders_20240102030405_del", "_budget_new", "_vt", "a_del"]
            .into_iter()
            .map(str::to_owned)
            .collect();
        let hidden: Vec<&str> = all.iter().filter(|name| is_internal(name, &all)).map(String::as_str).collect();
        assert_eq!(hidden, ["__orders_new", "_orders_20240102030405_del", "_orders_gho"]);
        for name in [
            "_vt_HOLD_6ace8bcef73211ea87e9f875a4d24e90_20200915120410",
            "_vt_hld_6ace8bcef73211ea87e9f875a4d24e90_20200915120410_",
            "_6ace8bce_f732_11ea_87e9_f875a4d24e90_20200915120410_vrepl",
        ] {
            assert!(is_internal(name, &all), "{name}");
        }
    }
}
