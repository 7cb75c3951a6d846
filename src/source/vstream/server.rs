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

fn name_of(tablet_type: TabletType) -> &'static str {
    match tablet_type {
        TabletType::Primary => "primary",
        TabletType::Replica => "replica",
        TabletType::Rdonly => "rdonly",
    }
}

/// The constant that rows written before a column was added hold in it.
///
/// `Ok(None)` is NULL. An error of kind `Unsupported` says that it is not a constant.
pub(crate) fn default_of(connection: &mut Connection, keyspace: &str, table: &str, column: &str) -> Result<Option<String>> {
    target(connection, keyspace)?;
    let sql = "SELECT column_default, extra FROM information_schema.columns \
               WHERE table_schema = database() AND table_name = ? AND column_name = ?";
    let Some(row) = connection.query(sql, &[table, column])?.into_iter().next() else {
        // Dropped again already: what its rows held is of no use to anybody.
        return Ok(None);
    };
    let mut cells = row.into_iter();
    let default = cells.next().flatten();
    let extra = cells.next().flatten().unwrap_or_default().to_ascii_uppercase();
    if extra.split(' ').any(|word| word == "DEFAULT_GENERATED" || word == "GENERATED") {
        let message = format!("the values of column `{table}.{column}` in older rows are computed by the server");
        return Err(Error::new(ErrorKind::Unsupported, message).with_table(table).with_column(column));
    }
    Ok(default)
}
