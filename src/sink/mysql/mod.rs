//! MySQL, and Vitess and PlanetScale, which are recognised by what the server says of itself.
//!
//! **What is atomic.** MySQL has transactions, so that a load becomes visible at once: a replacing one fills a staging table in committed chunks on several
//! connections and swaps it in by one `RENAME TABLE`; the others are one transaction. Vitess ends long transactions, and has none over several shards, so
//! that there rows become visible chunk by chunk and an error says how many are stored; only where an unsharded keyspace lets tables be made does a replacing
//! load swap there too.
//!
//! **Tables that cannot be made.** Where the server lets nobody change tables by statements (a branch with safe migrations), or not this user, a table that is
//! there is kept: its rows are deleted and inserted. One that is missing is an error that holds the statements to deploy.
//!
//! **Statements.** Rows go in by multi-row `INSERT`s of about a thousand rows or a mebibyte, divided where the server says that it was too much. `LOAD DATA
//! LOCAL` is no faster, needs a setting of the server, and Vitess does not have it.

mod checkpoint;
mod chunk;
mod document;
mod encode;
mod infile;
mod lease;
mod load;
mod merge;
mod pool;
mod rows;
mod session;
mod stored;
mod table;
mod target;
mod types;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use self::chunk::Limits;
use self::encode::literal;
use self::lease::Lease;
use self::session::{Failure, Fault, Session};
use self::table::{DestTable, qualified, same};
use self::types::Purpose;
use super::checkpoint::StoredPosition;
use super::store::{Highest, LoadPlan, Loading, Merging, Store};
use super::{Deletes, OWN_PREFIX};
use crate::batch::Batch;
use crate::options::{MySqlOptions, SourceOptions};
use crate::place::SourcePlace;
use crate::policy::{OutOfRange, ZeroDates};
use crate::schema::{Column, ColumnType, Table, TableName};
use crate::server::quoted;
use crate::{Error, ErrorKind, Result};

/// The longest name of a table.
const LONGEST_NAME: usize = 64;

/// A database of MySQL, or a keyspace of Vitess.
pub(super) struct MySql {
    session: Session,
    options: MySqlOptions,
    zero_dates: ZeroDates,
    limits: Arc<Limits>,
    is_sharded: bool,
    /// Whether the server reads rows like a file. vtgate does not.
    takes_files: bool,
    /// Whether a wait for a lock that took too long undoes the whole transaction, and not the statement only.
    undoes_on_timeout: bool,
    lease: Lease,
    /// What was found when positions were read, for the merge that follows.
    known: BTreeMap<TableName, checkpoint::Looked>,
    /// Whether that source is the same server as this, once it was asked.
    is_one_server: Option<((String, u16), bool)>,
}

/// What came of making a table.
enum Made {
    Made,
    /// Nobody, or not this user, may make one.
    Refused(Error),
}

impl MySql {
    pub(super) fn open(options: &MySqlOptions) -> Result<Self> {
        let lease = Lease::open(options.server())?;
        let mut session = Session::open(options.server())?;
        let most = session.query("SELECT @@max_allowed_packet")?.into_iter().flatten().flatten().next();
        let most = most.and_then(|most| most.parse().ok()).unwrap_or(1 << 20);
        let is_sharded = session.is_vitess() && is_sharded(&mut session, options.server().database())?;
        let takes_files = !session.is_vitess() && session.query("SELECT @@GLOBAL.local_infile")?.concat() == [Some("1".to_owned())];
        let undoes_on_timeout = !session.is_vitess() && session.has_setting("innodb_rollback_on_timeout")?;
        Ok(Self {
            session,
            takes_files,
            undoes_on_timeout,
            options: options.clone(),
            zero_dates: ZeroDates::default(),
            limits: Arc::new(Limits::new(most)),
            is_sharded,
            lease,
            known: BTreeMap::new(),
            is_one_server: None,
        })
    }

    fn server(&self) -> &SourceOptions {
        self.options.server()
    }

    fn keyspace(&self) -> String {
        keyspace_of(self.server()).to_owned()
    }

    /// Looks a table up, with its vindexes.
    fn look_up(&mut self, name: &TableName) -> Result<Option<DestTable>> {
        let Some(mut found) = table::look_up(&mut self.session, name)? else { return Ok(None) };
        if self.is_sharded {
            let keyspace = self.keyspace();
            found.vindex_columns = match table::vindex_columns(&mut self.session, &keyspace, name)? {
                Some(columns) => columns,
                None => self.route_existing(name, &found)?,
            };
        }
        Ok(Some(found))
    }

    /// Makes a table for the rows of another.
    fn make(&mut self, name: &TableName, table: &Table, purpose: Purpose) -> Result<Made> {
        let create = types::create_table(&qualified(name), table, purpose);
        let route = if self.is_sharded { Some(self.route(name, table)?) } else { None };
        let attempted = format!("table `{name}` cannot be made");
        for statement in std::iter::once(&create).chain(&route) {
            let done = match Some(statement) == route.as_ref() {
                true => self.tell_vtgate(statement, &attempted),
                false => self.session.try_execute(statement, &attempted, &[]).map(|_| ()),
            };
            match done {
                Ok(()) => {}
                Err(failure) if purpose == Purpose::Checkpoints && failure.error.to_string().contains("error 1050 ") => {}
                Err(failure) if failure.fault == Fault::NoDdl || Some(statement) == route.as_ref() => {
                    let missing: Vec<&str> = [Some(&create).filter(|_| statement == &create), route.as_ref()]
                        .into_iter()
                        .flatten()
                        .map(String::as_str)
                        .collect();
                    let message = format!("{}; deploy it by: {};", failure.error, missing.join("; "));
                    // Without the table of checkpoints nothing can be captured; without another one, all but that.
                    let kind = if purpose == Purpose::Checkpoints { ErrorKind::Sink } else { ErrorKind::Unsupported };
                    return Ok(Made::Refused(Error::new(kind, message).with_table(name)));
                }
                Err(failure) => return Err(failure.error.with_table(name)),
            }
        }
        if self.session.is_vitess() {
            self.wait_until_known(name, route.as_deref(), &attempted)?;
        }
        Ok(Made::Made)
    }

    /// Changes the vschema; that others change it at the same time passes.
    fn tell_vtgate(&mut self, route: &str, attempted: &str) -> Result<(), Failure> {
        let mut retry = self.session.retry();
        loop {
            let began = Instant::now();
            match self.session.try_execute(route, attempted, &[]) {
                Ok(_) => return Ok(()),
                // It has it from before.
                Err(failure) if failure.error.to_string().contains("error 1815 ") => return Ok(()),
                Err(failure) if failure.fault.is_passing() => drop(self.session.recover(&mut retry, began, failure)?),
                Err(failure) => return Err(failure),
            }
        }
    }

    /// vtgate knows of a new table a moment after that is there. A vschema that somebody else changes at the same time can lose our change, so that
    /// is repeated. It may read from a table whose rows it does not know how to spread.
    fn wait_until_known(&mut self, name: &TableName, route: Option<&str>, attempted: &str) -> Result<()> {
        let sql = format!("SELECT 1 FROM {} LIMIT 1", qualified(name));
        if let Some(route) = route {
            let keyspace = self.keyspace();
            for _ in 0..ROUTE_ATTEMPTS {
                let until = Instant::now() + ROUTE_PAUSE;
                while Instant::now() < until {
                    let knows = self.session.wait_until_known_for(ROUTE_PAUSE, &sql, attempted).is_ok();
                    if knows && matches!(table::vindex_columns(&mut self.session, &keyspace, name), Ok(Some(_))) {
                        return Ok(());
                    }
                    thread::sleep(KNOWN_PAUSE);
                }
                // Where it is not lost, the server says that it is there.
                self.tell_vtgate(route, attempted).map_err(|failure| failure.error.with_table(name))?;
            }
        }
        self.session.wait_until_known(&sql, attempted).map_err(|error| error.with_table(name))
    }

    /// Tells vtgate of a table that it has not been told of: a run that was killed has made it. Returns the column by which its rows are spread.
    fn route_existing(&mut self, name: &TableName, found: &DestTable) -> Result<Vec<String>> {
        let key = found.unique.iter().find(|key| key.name == "PRIMARY").and_then(|key| key.columns.first());
        let (column, column_type) = key
            .and_then(|key| found.column(key))
            .and_then(|column| Some((column, column.column_type.as_ref()?)))
            .ok_or_else(|| without_key(name))?;
        let route = self.route_by(name, &column.name, column_type, column.collation.as_deref());
        let attempted = format!("vtgate cannot be told how the rows of `{name}` are spread over the shards");
        if let Err(failure) = self.tell_vtgate(&route, &attempted) {
            let message = format!("{}; deploy it by: {route};", failure.error);
            return Err(Error::new(ErrorKind::Unsupported, message).with_table(name));
        }
        self.wait_until_known(name, Some(&route), &attempted)?;
        Ok(vec![column.name.clone()])
    }

    /// The statement that tells vtgate by which column the rows of a table are spread over the shards: by the first of the key.
    fn route(&mut self, name: &TableName, table: &Table) -> Result<String> {
        let column = table.primary_key().first().map(|&index| &table.columns()[index]).ok_or_else(|| without_key(name))?;
        Ok(self.route_by(name, column.name(), column.column_type(), column.collation()))
    }

    fn route_by(&mut self, name: &TableName, column: &str, column_type: &ColumnType, collation: Option<&str>) -> String {
        let ignores_case = collation.is_some_and(|collation| !collation.ends_with("_bin") && collation != "binary");
        let kind = match column_type {
            ColumnType::Int { .. } => "hash",
            // Rows that are the same to the key's collation have to come to the same shard.
            ColumnType::Text { .. } if ignores_case => "unicode_loose_xxhash",
            _ => "xxhash",
        };
        let keyspace = self.keyspace();
        let vindexes = self.session.query("SHOW VSCHEMA VINDEXES").unwrap_or_default();
        let has_kind = |row: &&Vec<Option<String>>| row.get(2).is_some_and(|found| found.as_deref() == Some(kind));
        let existing = vindexes.iter().find(has_kind).and_then(|row| row.get(1).cloned().flatten());
        let vindex = existing.unwrap_or_else(|| kind.to_owned());
        let keyspace = quoted(name.schema().unwrap_or(&keyspace));
        format!("ALTER VSCHEMA ON {keyspace}.{} ADD VINDEX {}({}) USING {kind}", quoted(name.name()), quoted(&vindex), quoted(column))
    }

    fn drop_if_exists(&mut self, name: &TableName) -> Result<(), session::Failure> {
        let attempted = format!("table `{name}` cannot be dropped");
        self.session.try_execute(&format!("DROP TABLE IF EXISTS {}", qualified(name)), &attempted, &[]).map(drop)
    }
}

/// How long vtgate may take to know of a table that it was told of, before it is told again, and how often.
const KNOWN_PAUSE: Duration = Duration::from_millis(50);
const ROUTE_PAUSE: Duration = Duration::from_secs(5);
const ROUTE_ATTEMPTS: usize = 4;

fn without_key(name: &TableName) -> Error {
    let message =
        format!("nothing says how the rows of `{name}` are to be spread over the shards, as it has no primary key: make it, with a vindex");
    Error::new(ErrorKind::Schema, message).with_table(name)
}

/// The database without the shard and the tablet type that vtgate takes behind it.
fn keyspace_of(options: &SourceOptions) -> &str {
    options.database().split([':', '@']).next().unwrap_or_default()
}

/// Whether the keyspace has several shards, or is of the kind that can have them.
fn is_sharded(session: &mut Session, database: &str) -> Result<bool> {
    let keyspace = database.split([':', '@']).next().unwrap_or_default();
    if let Ok(rows) = session.query("SHOW VSCHEMA KEYSPACES")
        && let Some(row) = rows.iter().find(|row| row.first().is_some_and(|name| name.as_deref() == Some(keyspace)))
    {
        return Ok(row.get(1).is_some_and(|sharded| sharded.as_deref() == Some("true")));
    }
    let prefix = format!("{keyspace}/");
    let shards = session.query("SHOW VITESS_SHARDS")?.into_iter().flatten().flatten();
    Ok(shards.filter(|shard| shard.starts_with(&prefix)).count() > 1)
}

/// A table beside another, by a name that is never too long.
fn beside(name: &TableName, what: &str) -> TableName {
    let whole = format!("{OWN_PREFIX}{what}_{}", name.name());
    if whole.chars().count() <= LONGEST_NAME {
        return name.sibling(whole);
    }
    let kept: String = whole.chars().take(LONGEST_NAME - 9).collect();
    name.sibling(format!("{kept}_{:08x}", crc32fast::hash(name.name().as_bytes())))
}

impl Store for MySql {
    fn set_zero_dates(&mut self, policy: ZeroDates) {
        self.zero_dates = policy;
    }

    fn set_out_of_range(&mut self, _policy: OutOfRange) {}

    fn check_name(&self, name: &TableName) -> Result<()> {
        let refuse = |why: &str| {
            let message = format!("MySQL has no table that is called `{name}`: {why}: choose another destination table");
            Err(Error::new(ErrorKind::Unsupported, message).with_table(name))
        };
        let text = name.name();
        if text.get(..OWN_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(OWN_PREFIX)) {
            return refuse(&format!("names that begin with `{OWN_PREFIX}` are those of tables that a run makes for itself"));
        }
        if text.is_empty() || text.chars().count() > LONGEST_NAME {
            return refuse("names have 1 to 64 characters");
        }
        if text.ends_with(' ') || text.chars().any(|letter| letter == '\0' || letter > '\u{ffff}') {
            return refuse("names do not end with a space, nor hold a NUL or characters beyond U+FFFF");
        }
        Ok(())
    }

    fn is_source(&mut self, name: &TableName, table: &str, source: &SourceOptions) -> Result<bool> {
        let keyspace = self.keyspace();
        let (schema, source_schema) = (name.schema().unwrap_or(&keyspace), keyspace_of(source));
        if source.place() != SourcePlace::MySql || !same(schema, source_schema) || !same(name.name(), table) {
            return Ok(false);
        }
        if (schema, name.name()) != (source_schema, table) && table::regards_case(&mut self.session) {
            return Ok(false);
        }
        let own = self.server();
        if own.port() == source.port() && same(own.host(), source.host()) {
            return Ok(true);
        }
        let server = (source.host().to_lowercase(), source.port());
        if let Some((asked, answer)) = &self.is_one_server
            && *asked == server
        {
            return Ok(*answer);
        }
        let answer = is_one_server(own, source)?;
        self.is_one_server = Some((server, answer));
        Ok(answer)
    }

    fn load<'a>(&'a mut self, name: &TableName, table: &Arc<Table>, plan: &LoadPlan) -> Result<Box<dyn Loading + 'a>> {
        self.lease.take(name)?;
        self.session.revive()?;
        let load = load::MySqlLoad::begin(self, name, table, plan).map_err(|error| error.with_table(name))?;
        Ok(Box::new(load))
    }

    fn highest(&mut self, name: &TableName, column: &Column) -> Result<Highest> {
        stored::highest(self, name, column).map_err(|error| error.with_table(name))
    }

    fn read(&mut self, name: &TableName, table: &Arc<Table>, take: &mut dyn FnMut(Batch) -> Result<()>) -> Result<()> {
        stored::read(self, name, table, take).map_err(|error| error.with_table(name))
    }

    fn as_stored(&mut self, name: &TableName, batch: Batch) -> Result<Batch> {
        stored::as_stored(self, name, batch).map_err(|error| error.with_table(name))
    }

    fn resume(&mut self, name: &TableName, source_table: &str) -> Result<(Option<StoredPosition>, Option<String>)> {
        self.lease.take(name)?;
        let looked = checkpoint::read(self, name, source_table).map_err(|error| error.with_table(name))?;
        let answer = (looked.found.position.clone(), looked.found.note.clone());
        self.known.insert(name.clone(), looked);
        Ok(answer)
    }

    fn merge<'a>(&'a mut self, deletes: Deletes) -> Result<Box<dyn Merging + 'a>> {
        let known = std::mem::take(&mut self.known);
        Ok(Box::new(merge::MySqlMerge::begin(self, deletes, known)?))
    }

    #[cfg(test)]
    fn destination_for_tests(&mut self) -> &mut dyn super::Destination {
        unimplemented!("for tests of files")
    }

    #[cfg(test)]
    fn stored_in(&self) -> &dyn super::Destination {
        unimplemented!("for tests of files")
    }
}

/// Whether two addresses are those of one server: hosts have many names, but a lock is seen by all who are connected to it.
fn is_one_server(own: &SourceOptions, source: &SourceOptions) -> Result<bool> {
    let probe = literal(&format!("ingest:same:{:016x}", RandomState::new().hash_one(source.port())));
    // With its connection the lock is given back.
    let holder = Session::open(own).and_then(|mut here| {
        here.query(&format!("SELECT GET_LOCK({probe}, 0)"))?;
        Session::open(source)?.query(&format!("SELECT IS_USED_LOCK({probe})"))
    });
    match holder {
        Ok(rows) => Ok(rows.into_iter().flatten().flatten().next().is_some()),
        Err(refusal) => {
            log::warn!("it cannot be found out whether source and destination are one server: {refusal:#}");
            Ok(false)
        }
    }
}

/// Whether texts that differ can be the same to a column's collation, as `a` and `A` are to most, and `a` with and without spaces at its end to nearly all.
fn is_loose(column: &Column) -> bool {
    matches!(column.column_type(), ColumnType::Text { .. }) && column.collation().is_some_and(|collation| collation != "utf8mb4_0900_bin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_beside_others_have_names_that_are_short_and_differ() {
        assert_eq!(beside(&TableName::new("t"), "new").name(), "_ingest_new_t");
        let (one, other) = (TableName::new("ü".repeat(64)), TableName::new(format!("{}a", "ü".repeat(63))));
        let (one, other) = (beside(&one, "new"), beside(&other, "new"));
        assert!(one != other && one.name().chars().count() <= LONGEST_NAME);
    }
}
