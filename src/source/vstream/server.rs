//! What vtgate says of a keyspace over its MySQL connection: shards, histories, defaults.
//!
//! vtgate answers a position that it cannot serve with heartbeats for a minute and a half and then with another cause, so what a stream
//! could find out by itself is asked for before.

use std::collections::BTreeMap;

use crate::gtid::GtidSet;
use crate::options::TabletType;
use crate::position::ServerShard;
use crate::source::mysql::{Connection, quoted};
use crate::{Error, ErrorKind, Result};

/// The serving shards of a keyspace, in vtgate's order.
pub(crate) fn shards(connection: &mut Connection, keyspace: &str) -> Result<Vec<String>> {
    // LIKE takes `_` and `%` for wildcards, so the names are compared here.
    let rows = connection.query("SHOW VITESS_SHARDS", &[])?;
    let shards: Vec<String> = rows
        .into_iter()
        .filter_map(|row| row.into_iter().next().flatten())
        .filter_map(|name| name.rsplit_once('/').filter(|(of, _)| *of == keyspace).map(|(_, shard)| shard.to_owned()))
        .collect();
    if shards.is_empty() {
        return Err(Error::new(ErrorKind::Schema, format!("the server serves no shard of a keyspace `{keyspace}`")));
    }
    Ok(shards)
}

/// What the tablets of each shard have executed, and what their binary logs no longer hold.
pub(crate) fn histories(
    connection: &mut Connection,
    keyspace: &str,
    shards: &[String],
    tablet_type: TabletType,
) -> Result<Vec<ServerShard>> {
    let tablet = name_of(tablet_type);
    let mut histories = Vec::with_capacity(shards.len());
    for shard in shards {
        let target = format!("{keyspace}:{shard}@{tablet}");
        let history = history(connection, &target).map_err(|error| error.with_shard(shard))?;
        histories.push(ServerShard { shard: shard.clone(), executed: history.0, purged: history.1 });
    }
    target(connection, keyspace)?;
    Ok(histories)
}

fn history(connection: &mut Connection, shard: &str) -> Result<(GtidSet, GtidSet)> {
    target(connection, shard)?;
    let rows = connection.query("SELECT @@global.gtid_executed, @@global.gtid_purged", &[])?;
    let mut cells = rows.into_iter().next().unwrap_or_default().into_iter();
    let mut set = |name: &str| -> Result<GtidSet> {
        let text = cells.next().flatten().ok_or_else(|| Error::protocol(format!("the server does not tell its {name}")))?;
        GtidSet::parse(&text)
    };
    Ok((set("gtid_executed")?, set("gtid_purged")?))
}

fn target(connection: &mut Connection, name: &str) -> Result<()> {
    connection.execute(&format!("USE {}", quoted(name)))
}

/// What the keyspace's tablets say of their throttler; `None` if it is off, or if the server does not tell.
pub(crate) fn throttler(connection: &mut Connection, keyspace: &str) -> Result<Option<String>> {
    target(connection, keyspace)?;
    // Measured on v0.23.3: `UNKNOWN not allowed for streaming` with the workload that lifts the cap on rows.
    connection.set_oltp()?;
    // Columns `shard`, `enabled`, `threshold`, `query`; and `app`, `expire_at`, `ratio`.
    let answers = ["SHOW VITESS_THROTTLER STATUS", "SHOW VITESS_THROTTLED_APPS"].map(|sql| connection.query(sql, &[]).unwrap_or_default());
    connection.reset_workload()?;
    let [states, apps] = answers;
    if !states.iter().any(|row| row.get(1).is_some_and(|enabled| enabled.as_deref() == Some("1"))) {
        return Ok(None);
    }
    // A stream is checked under several names, as in `vreplication:vstreamer`.
    let is_ours = |app: &String| app.split(':').any(|part| STREAMING_APPS.contains(&part));
    let throttled: Vec<String> = apps.into_iter().filter_map(|row| row.into_iter().next().flatten()).filter(is_ours).collect();
    Ok(Some(match throttled.as_slice() {
        [] => "the tablets' throttler is on and may hold it back".to_owned(),
        apps => format!("the tablets' throttler holds `{}` back", apps.join("`, `")),
    }))
}

/// What vttablet's throttler calls the streams that serve a VStream, alone or with others.
const STREAMING_APPS: &[&str] = &["all", "vstreamer", "rowstreamer", "vreplication"];

/// The columns of a shard's tables, in their order, by the tables' names.
pub(crate) fn columns(
    connection: &mut Connection,
    keyspace: &str,
    shard: &str,
    tablet_type: TabletType,
) -> Result<BTreeMap<String, Vec<String>>> {
    target(connection, &format!("{keyspace}:{shard}@{}", name_of(tablet_type)))?;
    let sql = "SELECT table_name, ordinal_position, column_name FROM information_schema.columns WHERE table_schema = database() \
               ORDER BY table_name, ordinal_position";
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in connection.query(sql, &[])? {
        let mut cells = row.into_iter();
        if let (Some(Some(table)), Some(Some(column))) = (cells.next(), cells.nth(1)) {
            tables.entry(table).or_default().push(column);
        }
    }
    target(connection, keyspace)?;
    Ok(tables)
}

pub(crate) fn name_of(tablet_type: TabletType) -> &'static str {
    match tablet_type {
        TabletType::Primary => "primary",
        TabletType::Replica => "replica",
        TabletType::Rdonly => "rdonly",
    }
}

/// Tables of which InnoDB itself changes or deletes rows for a foreign key, with the name of one such key. It logs nothing of it. MySQL 9.6 and newer do it
/// above the engine, and log it, unless `innodb_native_foreign_keys` is on; older ones do not know that variable (reference manual, "FOREIGN KEY
/// Constraints").
pub(crate) fn cascades(connection: &mut Connection, keyspace: &str) -> Result<BTreeMap<String, String>> {
    target(connection, keyspace)?;
    let sql = "SELECT table_name, constraint_name, delete_rule, update_rule FROM information_schema.referential_constraints \
               WHERE constraint_schema = database()";
    let mut tables = BTreeMap::new();
    for row in connection.query(sql, &[])? {
        let [Some(table), Some(constraint), on_delete, on_update] = row.as_slice() else { continue };
        let acts = |rule: &Option<String>| rule.as_deref().is_some_and(|rule| matches!(rule, "CASCADE" | "SET NULL" | "SET DEFAULT"));
        if acts(on_delete) || acts(on_update) {
            tables.insert(table.clone(), constraint.clone());
        }
    }
    if tables.is_empty() {
        return Ok(tables);
    }
    let variable = connection.query("SHOW VARIABLES LIKE 'innodb_native_foreign_keys'", &[])?;
    let is_logged = variable.first().and_then(|row| row.get(1)).is_some_and(|value| value.as_deref() == Some("OFF"));
    Ok(if is_logged { BTreeMap::new() } else { tables })
}

/// The constant that rows written before a column was added hold in it.
///
/// `Ok(None)` is NULL. An error of kind `Unsupported` says that it is not a constant, or not one that is known here. Of a column that is NOT NULL and has no
/// default they hold what MySQL calls the implicit default (reference manual, "Data Type Default Values").
pub(crate) fn default_of(connection: &mut Connection, keyspace: &str, table: &str, column: &str) -> Result<Option<String>> {
    target(connection, keyspace)?;
    let sql = "SELECT column_default, extra, is_nullable, data_type FROM information_schema.columns \
               WHERE table_schema = database() AND table_name = ? AND column_name = ?";
    let Some(row) = connection.query(sql, &[table, column])?.into_iter().next() else {
        // Dropped again already: what its rows held is of no use to anybody.
        return Ok(None);
    };
    let mut cells = row.into_iter();
    let default = cells.next().flatten();
    let extra = cells.next().flatten().unwrap_or_default().to_ascii_uppercase();
    let is_nullable = cells.next().flatten().is_none_or(|nullable| !nullable.eq_ignore_ascii_case("NO"));
    let data_type = cells.next().flatten().unwrap_or_default().to_ascii_lowercase();
    let implicit = match data_type.as_str() {
        _ if default.is_some() || is_nullable => None,
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" => Some("0"),
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => Some(""),
        _ => None,
    };
    let is_unknown = default.is_none() && !is_nullable && implicit.is_none();
    if is_unknown || extra.split(' ').any(|word| matches!(word, "DEFAULT_GENERATED" | "GENERATED" | "AUTO_INCREMENT")) {
        let message = format!("the values of column `{table}.{column}` in older rows are computed by the server");
        return Err(Error::new(ErrorKind::Unsupported, message).with_table(table).with_column(column));
    }
    Ok(default.or_else(|| implicit.map(str::to_owned)))
}
