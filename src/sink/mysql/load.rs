//! Whole tables, and parts of them, into MySQL and Vitess.

use std::sync::Arc;
use std::time::Instant;

use super::chunk::Gatherer;
use super::encode::{Bounds, literal};
use super::pool::{Finished, Pool, Writing};
use super::session::Fault;
use super::table::{DestTable, look_up, qualified, same};
use super::target::other_key;
use super::types::{self, Purpose};
use super::{Made, MySql, beside, document, infile};
use crate::batch::Batch;
use crate::ingest::Strategy;
use crate::policy::{ChangedByName, ChangedValues, ZeroDates};
use crate::schema::{Column, ColumnType, Table, TableName};
use crate::server::{condition, quoted};
use crate::sink::store::{Left, LoadPlan, Loading};
use crate::sink::{Written, change_of_replaced};
use crate::{Error, ErrorKind, Result};

/// Rows that are deleted at a time where there is no transaction for all.
const DELETED_AT_ONCE: usize = 5_000;

/// Rows on their way into one table.
pub(super) struct MySqlLoad<'a> {
    store: &'a mut MySql,
    target: TableName,
    table: Arc<Table>,
    /// Where the rows go until they are all there.
    staging: Option<TableName>,
    /// What is deleted ahead of the first row.
    delete: Option<Delete>,
    /// Columns of documents that another server than MySQL may have kept in another way.
    documents: Vec<usize>,
    writing: Writing,
    gatherer: Gatherer,
    pool: Option<Pool>,
    written: Written,
    changed: ChangedByName,
    is_committed: bool,
}

/// Rows to be deleted chunk by chunk.
struct Delete {
    condition: Option<String>,
    key: Vec<Column>,
}

impl<'a> MySqlLoad<'a> {
    pub(super) fn begin(store: &'a mut MySql, name: &TableName, table: &Arc<Table>, plan: &LoadPlan) -> Result<Self> {
        store.require_keyspace(name)?;
        let existing = store.look_up(name)?;
        if plan.strategy == Strategy::Replace && existing.is_some() {
            store.require_no_references(name)?;
        }
        if existing.is_some() && matches!(plan.strategy, Strategy::Replace | Strategy::TruncateInsert | Strategy::DeleteInsert) {
            store.require_no_cascades(name, plan.strategy != Strategy::DeleteInsert)?;
        }
        if plan.strategy == Strategy::Replace && !store.is_sharded {
            let staging = beside(name, "new");
            match store.stage(&staging, &beside(name, "old"), table, Purpose::Load)? {
                Made::Made => {
                    let Some(stored) = look_up(&mut store.session, &staging)? else {
                        return Err(Error::new(ErrorKind::Sink, format!("table `{staging}` was made, but is not there")));
                    };
                    return Self::new(store, name, table, plan, &stored, Some(staging));
                }
                // What is there is kept, and what is missing is refused by its own name.
                Made::Refused(_) => {}
            }
        }
        let stored = match existing {
            Some(stored) => stored,
            None => {
                if plan.strategy == Strategy::Merge {
                    types::require_indexable_key(table)?;
                }
                if let Made::Refused(error) = store.make(name, table, Purpose::Load)? {
                    return Err(error);
                }
                let made = store.look_up(name)?;
                made.ok_or_else(|| Error::new(ErrorKind::Sink, format!("table `{name}` was made, but is not there")))?
            }
        };
        Self::new(store, name, table, plan, &stored, None)
    }

    fn new(
        store: &'a mut MySql,
        name: &TableName,
        table: &Arc<Table>,
        plan: &LoadPlan,
        stored: &DestTable,
        staging: Option<TableName>,
    ) -> Result<Self> {
        let columns = matching(name, table, stored, store.zero_dates)?;
        let key_names: Vec<String> = table.primary_key().iter().map(|&index| table.columns()[index].name().to_owned()).collect();
        let has_key = !key_names.is_empty() && stored.has_key(&key_names);
        if plan.strategy == Strategy::Merge && !has_key {
            let message = format!(
                "`{name}` in the destination has no primary or unique key of the columns {} that is never NULL, by which rows could be merged",
                key_names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
            );
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        let whole = stored.require_whole_key(name, table);
        let has_key = has_key && whole.is_ok();
        if plan.strategy == Strategy::Merge {
            whole?;
        }
        let other = other_key(stored, table);
        if let Some(other) = other.filter(|_| plan.strategy == Strategy::Merge) {
            let message = format!(
                "`{name}` in the destination has another unique key, `{other}`: a row that has it in common with a row of another key would take \
                 the place of that one; make it an index that is not unique, or choose another strategy than `merge`"
            );
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        let mut key_of_source = table.primary_key().iter().map(|&index| &table.columns()[index]);
        let confused = key_of_source.find_map(|column| stored.column(column.name()).filter(|found| types::confuses(found, column)));
        if let Some(confused) = confused.filter(|_| plan.strategy == Strategy::Merge) {
            let message = format!(
                "column `{name}.{}` is {} in the destination, to which keys may be the same that are two at the source: give it the collation \
                 utf8mb4_0900_bin, or choose another strategy than `merge`",
                confused.name,
                confused.full_type()
            );
            return Err(Error::new(ErrorKind::Conflict, message).with_column(&confused.name));
        }
        let into = qualified(staging.as_ref().unwrap_or(name));
        let names: Vec<String> = columns.iter().map(|&(index, _)| quoted(table.columns()[index].name())).collect();
        let upsert = upsert_suffix(table, &columns, stored);
        let is_plain = !store.session.is_vitess();
        let is_emptied = matches!(plan.strategy, Strategy::Replace | Strategy::TruncateInsert) && staging.is_none();
        let where_clause = match plan.strategy {
            Strategy::DeleteInsert => plan.interval.as_ref().map(condition),
            _ => None,
        };
        let is_deleting = is_emptied || plan.strategy == Strategy::DeleteInsert;
        let delete_all = || match &where_clause {
            Some(condition) => format!("DELETE FROM {into} WHERE {condition}"),
            None => format!("DELETE FROM {into}"),
        };
        let transaction = (is_plain && staging.is_none()).then(|| is_deleting.then(delete_all).into_iter().collect());
        let delete = (is_deleting && transaction.is_none()).then(|| Delete { condition: where_clause.clone(), key: key_columns(stored) });
        let is_merge = plan.strategy == Strategy::Merge;
        let is_document = |&index: &usize| {
            let column = &table.columns()[index];
            document::is_of_other_source(column)
                && stored.column(column.name()).is_some_and(|found| found.column_type.as_ref() == Some(&ColumnType::Json))
        };
        let documents = (0..table.columns().len()).filter(is_document).collect();
        // What is in the table comes from this load alone, or is the same row: it may be written twice.
        let may_repeat = is_merge || (has_key && other.is_none() && confused.is_none() && (staging.is_some() || is_deleting));
        let list: Vec<String> = key_names.iter().map(|name| quoted(name)).collect();
        let tuple = if list.len() == 1 { list.concat() } else { format!("({})", list.join(", ")) };
        // A row with another value of a vindex lies in another shard, where no key tells of it.
        let is_key = |name: &String| key_names.iter().any(|key| same(key, name));
        let moves = !stored.vindex_columns.iter().all(is_key);
        let needs_count = is_merge || (has_key && staging.is_none());
        let writing = Writing {
            insert: format!("INSERT INTO {into} ({}) VALUES ", names.join(", ")),
            load: (store.takes_files && !is_merge).then(|| infile::statement(&into, table, &columns, stored)),
            suffix: if is_merge { upsert.clone() } else { String::new() },
            repeat_suffix: may_repeat.then_some(upsert),
            count: needs_count.then(|| format!("SELECT count(*) FROM {into} WHERE {tuple} IN (")),
            delete: (is_merge && moves).then(|| format!("DELETE FROM {into} WHERE {tuple} IN (")),
            is_upsert: is_merge,
            transaction,
            undoes_on_timeout: store.undoes_on_timeout,
            is_sharded: store.is_sharded,
            table: name.to_string(),
            names: stored.names(),
        };
        let key = if needs_count {
            table.primary_key().iter().map(|&index| (index, Bounds { is_key: true, ..Bounds::default() })).collect()
        } else {
            Vec::new()
        };
        Ok(Self {
            store,
            target: name.clone(),
            table: Arc::clone(table),
            staging,
            delete,
            documents,
            writing,
            gatherer: match is_merge {
                true => Gatherer::new(columns, key).refusing_repeated_keys(table),
                false => Gatherer::new(columns, key),
            },
            pool: None,
            written: Written::default(),
            changed: ChangedByName::default(),
            is_committed: false,
        })
    }

    /// The connections that write, once there is something to be written.
    fn pool(&mut self) -> Result<&Pool> {
        if self.pool.is_none() {
            if let Some(delete) = self.delete.take() {
                self.written.deleted = self.store.delete_in_parts(&self.target, &delete)?;
            }
            let options = &self.store.options;
            self.pool = Some(Pool::start(options.server(), options.connections(), self.writing.clone(), Arc::clone(&self.store.limits))?);
        }
        self.pool.as_ref().ok_or_else(|| Error::new(ErrorKind::Sink, "no connection writes"))
    }

    fn take(&mut self, batch: &Batch) -> Result<()> {
        if **batch.table() != *self.table {
            return Err(Error::config(format!("rows of table `{}` were given to a load of `{}`", batch.table().name(), self.target)));
        }
        for &index in &self.documents {
            document::require_kept(batch, index).map_err(|error| error.with_table(&self.target))?;
        }
        self.pool()?;
        let Some(pool) = &self.pool else { return Ok(()) };
        self.gatherer.take(batch, &self.store.limits, |chunk| pool.write(chunk))?;
        self.written.rows += batch.len() as u64;
        self.written.bytes += batch.bytes() as u64;
        for (column, data) in batch.table().columns().iter().zip(batch.columns()) {
            if !data.replaced().is_empty() {
                self.changed.add(column.name(), change_of_replaced(data.values()), data.replaced().len() as u64);
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.store.lease.check()?;
        self.pool()?;
        if let Some(rest) = self.gatherer.rest()? {
            self.pool()?.write(rest)?;
        }
        let Finished { repeated, replaced, deleted } = match &mut self.pool {
            Some(pool) => pool.finish()?,
            None => Finished::default(),
        };
        self.written.updated = replaced;
        self.written.inserted = self.written.rows.saturating_sub(replaced);
        self.written.deleted += deleted;
        if let Some(staging) = self.staging.clone() {
            self.store.session.revive()?;
            // vtgate may give up counting a large table, so that it is asked only if rows could be there twice.
            if repeated > 0 || !self.store.session.is_vitess() {
                self.store.require_rows(&staging, self.written.rows)?;
            }
            self.store.lease.check()?;
            self.store.swap(&staging, &self.target)?;
        }
        Ok(())
    }

    /// Says how far a load came that does not become visible at once.
    fn with_progress(&self, error: Error) -> Error {
        let is_visible = self.staging.is_none() && self.writing.transaction.is_none();
        let stored = self.pool.as_ref().map_or(0, Pool::stored);
        if !is_visible || (stored == 0 && self.written.rows == 0) {
            return error;
        }
        let message = format!("{error}; of the rows for `{}`, {stored} are stored", self.target);
        let column = error.column().map(str::to_owned);
        let told = Error::new(error.kind(), message).with_cause(error);
        match column {
            Some(column) => told.with_column(column),
            None => told,
        }
    }
}

/// The columns that are written, with what their stored ones hold less.
///
/// # Errors
/// `Conflict` if the stored table cannot take the rows.
pub(super) fn matching(name: &TableName, table: &Table, stored: &DestTable, zero_dates: ZeroDates) -> Result<Vec<(usize, Bounds)>> {
    let conflict = |column: &str, message: String| Error::new(ErrorKind::Conflict, message).with_column(column);
    let mut columns = Vec::with_capacity(table.columns().len());
    for (index, column) in table.columns().iter().enumerate() {
        let Some(found) = stored.column(column.name()) else {
            let at_source = column.declared().map_or_else(|| column.column_type().to_string(), str::to_owned);
            let message = format!("`{name}` in the destination has no column `{}`, which is {at_source} at the source", column.name());
            return Err(conflict(column.name(), message));
        };
        let is_key = table.primary_key().contains(&index);
        if found.is_generated {
            continue;
        }
        match types::holds(found, column, is_key) {
            Ok(bounds) => {
                let is_never_null = !found.is_nullable;
                columns.push((index, Bounds { no_zero_dates: zero_dates == ZeroDates::Error, is_never_null, ..bounds }));
            }
            Err(why) => {
                let at_source = column.declared().map_or_else(|| column.column_type().to_string(), str::to_owned);
                let why = if why.is_empty() { "which does not hold every value of it".to_owned() } else { why };
                let message = format!(
                    "column `{name}.{}` is {} in the destination, {why}; at the source it is {at_source}",
                    column.name(),
                    found.full_type()
                );
                return Err(conflict(column.name(), message));
            }
        }
    }
    if columns.is_empty() {
        return Err(Error::new(ErrorKind::Conflict, format!("every column of `{name}` in the destination is a generated one")));
    }
    let is_fed = |column: &str| table.column_index(column).is_some();
    if let Some(extra) = stored.columns.iter().find(|column| !column.has_default && !column.is_generated && !is_fed(&column.name)) {
        let message = format!(
            "column `{name}.{}` in the destination is NOT NULL and has no default, and the source has no such column: give it a default",
            extra.name
        );
        return Err(conflict(&extra.name, message));
    }
    Ok(columns)
}

/// What makes rows with a key that is there take its place: all columns but those that say where the row lies.
fn upsert_suffix(table: &Table, columns: &[(usize, Bounds)], stored: &DestTable) -> String {
    let is_of_vindex = |name: &str| stored.vindex_columns.iter().any(|column| same(column, name));
    let set: Vec<String> = columns
        .iter()
        .filter(|(index, _)| !table.primary_key().contains(index) && !is_of_vindex(table.columns()[*index].name()))
        .map(|&(index, _)| quoted(table.columns()[index].name()))
        .map(|name| format!("{name} = VALUES({name})"))
        .collect();
    match (set.is_empty(), table.primary_key().iter().map(|&index| quoted(table.columns()[index].name())).next()) {
        (false, _) => format!(" ON DUPLICATE KEY UPDATE {}", set.join(", ")),
        // Of a table that is all key, a row that is there is the same row.
        (true, _) if !stored.vindex_columns.is_empty() => String::new(),
        (true, Some(key)) => format!(" ON DUPLICATE KEY UPDATE {key} = VALUES({key})"),
        (true, None) => String::new(),
    }
}

/// The columns by which single rows are deleted.
pub(super) fn key_columns(stored: &DestTable) -> Vec<Column> {
    let Some(primary) = stored.unique.iter().find(|key| key.name == "PRIMARY") else { return Vec::new() };
    let found = primary.columns.iter().filter_map(|name| stored.column(name));
    found.filter_map(|column| Some(Column::new(&column.name, column.column_type.clone()?, false))).collect()
}

impl MySql {
    /// Another keyspace may be spread in another way, of which nothing is known here.
    fn require_keyspace(&self, name: &TableName) -> Result<()> {
        match name.schema() {
            Some(schema) if self.session.is_vitess() && schema != self.keyspace() => {
                let message = format!(
                    "`{name}` is in another keyspace than `{}`, which the destination's URI names: name that one there",
                    self.keyspace()
                );
                Err(Error::config(message).with_table(name))
            }
            _ => Ok(()),
        }
    }

    /// Foreign keys of other tables would follow the old table, and keep it from being dropped.
    pub(super) fn require_no_references(&mut self, name: &TableName) -> Result<()> {
        let found = self.references(name)?;
        let Some((other, _)) = found.iter().find(|(table, _)| !same(table, name.name())) else { return Ok(()) };
        let message =
            format!("foreign keys of `{other}` refer to `{name}`, so it cannot be replaced by another table: choose `merge`, or drop them");
        Err(Error::new(ErrorKind::Conflict, message))
    }

    /// Rows that are deleted and stored again would take those with them that refer to them. Where all rows of the table go, its own do so in any case.
    pub(super) fn require_no_cascades(&mut self, name: &TableName, is_of_all: bool) -> Result<()> {
        let found = self.references(name)?;
        let changes =
            |(table, rule): &&(String, String)| matches!(rule.as_str(), "CASCADE" | "SET NULL") && !(is_of_all && same(table, name.name()));
        let Some((other, rule)) = found.iter().find(changes) else { return Ok(()) };
        let message = format!(
            "a foreign key of `{other}` refers to `{name}` with ON DELETE {rule}: to delete rows and store them again would change `{other}` too: \
             choose `merge`, or drop the foreign key"
        );
        Err(Error::new(ErrorKind::Conflict, message))
    }

    /// The tables whose foreign keys refer to a table, with what becomes of their rows.
    fn references(&mut self, name: &TableName) -> Result<Vec<(String, String)>> {
        let schema = name.schema().map_or_else(|| "database()".to_owned(), literal);
        let sql = format!(
            "SELECT IF(constraint_schema = {schema}, table_name, concat(constraint_schema, '.', table_name)), delete_rule \
             FROM information_schema.referential_constraints \
             WHERE unique_constraint_schema = {schema} AND referenced_table_name = {}",
            literal(name.name())
        );
        // vtgate of some versions does not pass the question on; there nothing is swapped where foreign keys are managed by it.
        let rows = match self.session.query(&sql) {
            Ok(rows) => rows,
            Err(error) if self.session.is_vitess() => {
                log::debug!("{error:#}");
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        let pair = |row: Vec<Option<String>>| <[Option<String>; 2]>::try_from(row).ok();
        Ok(rows.into_iter().filter_map(pair).filter_map(|[table, rule]| Some((table?, rule.unwrap_or_default()))).collect())
    }

    /// Makes a staging table, in place of what an interrupted load left behind.
    pub(super) fn stage(&mut self, staging: &TableName, old: &TableName, table: &Table, purpose: Purpose) -> Result<Made> {
        for left in [staging, old] {
            match self.drop_if_exists(left) {
                Ok(()) => {}
                Err(failure) if failure.fault == Fault::NoDdl => return self.make(staging, table, purpose),
                Err(failure) => return Err(failure.error),
            }
        }
        self.make(staging, table, purpose)
    }

    fn require_rows(&mut self, name: &TableName, rows: u64) -> Result<()> {
        let found = self.session.query(&format!("SELECT count(*) FROM {}", qualified(name)))?.into_iter().flatten().flatten().next();
        match found.and_then(|found| found.parse::<u64>().ok()) {
            Some(found) if found == rows => Ok(()),
            found => {
                let message = format!(
                    "{rows} rows were written to `{name}`, but {} are stored there: two may have the same key, or the server has dropped some",
                    found.unwrap_or(0)
                );
                Err(Error::new(ErrorKind::Sink, message))
            }
        }
    }

    /// Puts a staging table in the place of the table, in one step.
    pub(super) fn swap(&mut self, staging: &TableName, name: &TableName) -> Result<()> {
        let old = beside(name, "old");
        let attempted = format!("`{staging}` cannot take the place of `{name}`");
        let mut retry = self.session.retry();
        loop {
            let began = Instant::now();
            self.session.revive()?;
            let has_old = look_up(&mut self.session, name)?.is_some();
            if look_up(&mut self.session, staging)?.is_none() && has_old {
                // The answer to the statement was lost, and not the statement.
                break;
            }
            let aside = if has_old { format!("{} TO {}, ", qualified(name), qualified(&old)) } else { String::new() };
            let sql = format!("RENAME TABLE {aside}{} TO {}", qualified(staging), qualified(name));
            let failure = match self.session.try_execute(&sql, &attempted, &[]) {
                Ok(_) => break,
                Err(failure) => failure,
            };
            if !failure.fault.is_passing() {
                return Err(failure.error);
            }
            self.session.recover(&mut retry, began, failure)?;
        }
        if let Err(failure) = self.drop_if_exists(&old) {
            // The next load of the same table removes it.
            log::warn!("`{old}`, which `{name}` has replaced, is left behind: {:#}", failure.error);
        }
        Ok(())
    }

    /// Deletes rows in transactions that are short.
    fn delete_in_parts(&mut self, name: &TableName, delete: &Delete) -> Result<u64> {
        let mut gone = 0;
        let table = qualified(name);
        let condition = delete.condition.as_ref().map(|condition| format!(" WHERE {condition}")).unwrap_or_default();
        let attempted = format!("rows of `{name}` cannot be deleted");
        let (mut rows, mut retry) = (DELETED_AT_ONCE, self.session.retry());
        loop {
            let began = Instant::now();
            // vtgate does not limit what is deleted in several shards unless it tracks the schema.
            let deleted = if self.is_sharded && !delete.key.is_empty() {
                self.delete_keys(&table, &condition, &delete.key, rows, &attempted)
            } else {
                self.session.try_execute(&format!("DELETE FROM {table}{condition} LIMIT {rows}"), &attempted, &[])
            };
            let failure = match deleted {
                Ok(0) => return Ok(gone),
                Ok(deleted) => {
                    gone += deleted;
                    retry.succeeded();
                    continue;
                }
                Err(failure) => failure,
            };
            match failure.fault {
                Fault::TooMuch if rows > 1 => rows /= 2,
                // Rows that are gone already are not found again.
                fault if fault.may_pass() => {
                    self.session.recover(&mut retry, began, failure)?;
                    if fault != Fault::Full {
                        rows = (rows / 2).max(1);
                    }
                }
                _ => return Err(failure.error),
            }
        }
    }

    fn delete_keys(
        &mut self,
        table: &str,
        condition: &str,
        key: &[Column],
        rows: usize,
        attempted: &str,
    ) -> Result<u64, super::session::Failure> {
        let from = format!("{table}{condition}");
        let Some(among) = self.session.keys_among(key, &from, rows, attempted)? else { return Ok(0) };
        let sql = format!("DELETE FROM {table} WHERE {}", among.condition);
        match self.session.try_execute(&sql, attempted, &[])? {
            // They would be found for ever.
            0 => {
                let error = Error::new(ErrorKind::Sink, format!("{attempted}: the server does not find them by their keys"));
                Err(super::session::Failure { fault: Fault::Other, error })
            }
            deleted => Ok(deleted),
        }
    }
}

impl Loading for MySqlLoad<'_> {
    fn write(&mut self, batch: &Batch) -> Result<()> {
        let result = self.take(batch);
        result.map_err(|error| self.with_progress(error))
    }

    fn commit(mut self: Box<Self>) -> Result<Written> {
        let result = self.finish();
        result.map_err(|error| self.with_progress(error))?;
        self.is_committed = true;
        Ok(self.written)
    }

    fn abandon(mut self: Box<Self>) -> Left {
        let is_visible = self.staging.is_none() && self.writing.transaction.is_none();
        let stored = self.pool.as_mut().map_or(0, Pool::stop);
        match is_visible {
            true => Left { stored, deleted: self.written.deleted },
            false => Left::default(),
        }
    }

    fn changed_values(&self) -> Vec<ChangedValues> {
        self.changed.list()
    }
}

impl Drop for MySqlLoad<'_> {
    fn drop(&mut self) {
        // Whatever is under way ends before its table goes.
        self.pool = None;
        if self.is_committed {
            return;
        }
        if let Some(staging) = self.staging.clone()
            && let Err(failure) = self.store.drop_if_exists(&staging)
        {
            // The next load of the same table removes it.
            log::warn!("the load of `{}` could not be undone: {:#}", self.target, failure.error);
        }
    }
}
