//! The blocking loop behind [`Changes`]: it moves bytes between vtgate and the machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protobuf::{Message as _, MessageField};

use crate::cancel::{Cancel, TICK};
use crate::change::{Change, ChangeBatch, bookkeeping_columns};
use crate::gtid::GtidSet;
use crate::options::{CaptureMode, CaptureOptions, GrpcCredentials, SourceOptions, TabletType};
use crate::policy::MalformedText;
use crate::position::{ServerShard, Vgtid, judge, list, set_of};
use crate::retry::{Retry, first_connection};
use crate::schema::{Column, ColumnType, Table};
use crate::sink::checkpoint::StoredPosition;
use crate::source::Source;
use crate::source::charset::Charset;
use crate::source::mysql::{Connection, quoted};
use crate::source::vstream::agenda::{Agenda, Next, Resume};
use crate::source::vstream::event::{EventKind, read_response};
use crate::source::vstream::exact;
use crate::source::vstream::machine::{Machine, Plan};
use crate::source::vstream::serving::{Inquiry, Serving};
use crate::source::vstream::shape::Shape;
use crate::source::vstream::transport::{Channel, Endpoint, Received, Stream};
use crate::source::vstream::watch::{Brought, Watch};
use crate::source::vstream::{proto, server, status};
use crate::tls::TlsFiles;
use crate::value::{DateTime, ValueRef};
use crate::{Error, ErrorKind, PositionFault, Result};

/// Bytes of row images after which committed changes are handed out.
const BATCH_BYTES: usize = 16 << 20;
/// Committed changes are handed out at least this often where a run goes on for ever.
const STREAM_INTERVAL: Duration = Duration::from_secs(1);
/// And this often where it ends by itself, so that an interruption costs little.
const BATCH_INTERVAL: Duration = Duration::from_secs(10);
/// An open transaction larger than this is handed out in pieces.
const TRANSACTION_BYTES: usize = 48 << 20;
/// How often vtgate proves that the link lives while it has nothing to send.
pub(super) const HEARTBEAT_SECONDS: u32 = 5;
/// A connection on which six heartbeats are missing is dead.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// How often in a row an error is tried again of which nobody knows whether that can help.
const UNKNOWN_ERRORS: u32 = 3;

/// Which tables to capture, and from where.
#[derive(Debug, Clone, Default)]
pub struct CaptureRequest {
    tables: Vec<(Table, Option<StoredPosition>)>,
    ordinal: u64,
    mode: Option<CaptureMode>,
    malformed_text: MalformedText,
}

impl CaptureRequest {
    /// A request for no table yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a table. Without a position it is copied first; with one, its copy or its stream goes on from there.
    ///
    /// A position is what [`Sink::position`](crate::Sink::position) found, or a [`Checkpoint`](crate::Checkpoint) that the caller kept.
    #[must_use]
    pub fn with_table(mut self, table: Table, resume: Option<impl Into<StoredPosition>>) -> Self {
        let resume: Option<StoredPosition> = resume.map(Into::into);
        self.ordinal = self.ordinal.max(resume.as_ref().map_or(0, |stored| stored.checkpoint.ordinal));
        self.tables.push((table, resume));
        self
    }

    /// When to end. Default: as the source's options say.
    #[must_use]
    pub fn with_mode(mut self, mode: CaptureMode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// What becomes of bytes that are no text of their column's character set. With [`MalformedText::Bytes`] the tables of the batches have columns of
    /// bytes in place of those of text. Default: [`MalformedText::Error`].
    #[must_use]
    pub fn with_malformed_text(mut self, malformed_text: MalformedText) -> Self {
        self.malformed_text = malformed_text;
        self
    }

    /// The greatest ordinal that the destination holds; those of the run are greater. Default: the greatest of the checkpoints.
    #[must_use]
    pub fn with_ordinal(mut self, ordinal: u64) -> Self {
        self.ordinal = self.ordinal.max(ordinal);
        self
    }
}

/// Changes of tables, batch by batch: the snapshot of those that are new, then what happened since.
///
/// Each call of [`next`](Iterator::next) blocks until a batch is full, a time has passed, or the run has caught up. `None` follows an error
/// as well as the end, so `None` alone proves nothing: [`ChangeBatch::is_caught_up`] does. With [`CaptureMode::Stream`] the run goes on
/// until it is cancelled.
///
/// It holds at most two batches of about 16 MB of row images; transactions beyond 48 MB come in pieces.
pub struct Changes<'a> {
    endpoint: Endpoint,
    capture: CaptureOptions,
    mode: CaptureMode,
    source: &'a Source,
    cancel: Cancel,
    keyspace: String,
    agenda: Agenda,
    running: Option<Running>,
    /// The tables as the server declared them when the run began. A destination may lack columns that were added since it was written: those
    /// show in the stream when their time comes, or else at its end.
    declared: Arc<BTreeMap<String, Table>>,
    /// What is known of the columns of each table and shard.
    shapes: BTreeMap<(String, String), Shape>,
    /// What is to be said of tables, by their names.
    notes: Vec<(String, String)>,
    /// One for the whole run: what ends a row of failures is a new position, in whatever machine.
    retry: Retry,
    /// Errors in that row of which nobody knows whether trying again can help.
    unknown_errors: u32,
    /// A position was resumed from of which the server did not tell whether it can be.
    unchecked: bool,
    /// What ends the run, once what was committed before is handed out.
    failed: Option<Error>,
    ended: bool,
}

struct Running {
    machine: Machine,
    stream: Option<Stream>,
    /// Whether reaching the machine's end means that every table has caught up.
    is_last: bool,
    last_taken: Instant,
    watch: Watch,
}

impl<'a> Changes<'a> {
    /// Judges the checkpoints and reads the stop position; nothing is streamed yet.
    pub(crate) fn start(source: &'a Source, mut request: CaptureRequest, cancel: Cancel) -> Result<Self> {
        let malformed_text = request.malformed_text;
        if malformed_text == MalformedText::Bytes {
            request.tables = request.tables.into_iter().map(|(table, resume)| (table.with_text_as_bytes(), resume)).collect();
        }
        let options = source.options().clone();
        let capture = options.capture().cloned().ok_or_else(|| {
            Error::config("grpc_port is missing: change capture needs vtgate's gRPC port, which differs from the MySQL port")
        })?;
        require_vitess(source)?;
        if request.tables.is_empty() {
            return Err(Error::config("no table was named to be captured"));
        }
        let mut endpoint = endpoint(&options, &capture)?;
        let keyspace = keyspace_of(options.database()).to_owned();
        let inquiry = Inquiry { source, endpoint: &endpoint, capture: &capture, keyspace: &keyspace, cancel: &cancel };
        let Serving { shards: serving, unchecked } = inquiry.serving_beyond(&request.tables)?;
        let cascades = if unchecked { BTreeMap::new() } else { inquiry.cascades()? };
        endpoint.proven = unchecked;
        let shards: Vec<String> = serving.iter().map(|shard| shard.shard.clone()).collect();
        let declared = request.tables.iter().map(|(table, _)| (table.name().to_owned(), table.clone())).collect();
        let declared: Arc<BTreeMap<String, Table>> = Arc::new(declared);
        let plan = Plan {
            keyspace: keyspace.clone(),
            shards,
            ordinal: request.ordinal,
            now: now()?,
            transaction_bytes: TRANSACTION_BYTES,
            declared: Arc::clone(&declared),
            malformed_text,
        };
        let mode = request.mode.unwrap_or(capture.mode());
        let mut agenda = Agenda::new(plan, stop_position(&serving), mode == CaptureMode::Stream);
        let (mut notes, mut resumed) = (Vec::new(), Vec::new());
        for (table, resume) in request.tables {
            check_table(&table)?;
            if let Some(constraint) = cascades.get(table.name()) {
                notes.push((table.name().to_owned(), format!("its foreign key `{constraint}` {CASCADES}")));
            }
            let Some(StoredPosition { checkpoint, of_rows, columns }) = resume else {
                agenda.add(Arc::new(table), None);
                continue;
            };
            let at_table = |error: Error| error.with_table(table.name());
            let fit = judge(&checkpoint.position, &keyspace, &serving).map_err(at_table)?;
            if let Some(of_rows) = of_rows.as_ref().and_then(|lsn| lsn.payload())
                && let Err(error) = judge(of_rows, &keyspace, &serving)
                // It may be old, since nothing has happened to the table, but it has to be of the same history.
                && !matches!(error.position_fault(), Some(PositionFault::Purged | PositionFault::Shards))
            {
                return Err(at_table(error));
            }
            if unchecked {
                notes.push((table.name().to_owned(), UNCHECKED.to_owned()));
            }
            let resume = match stuck(&checkpoint.position, &table) {
                None => Resume::of(checkpoint, fit),
                Some(reason) => Resume::Anew(reason),
            };
            let table = columns.map_or(table.clone(), |columns| table.restricted_to(&columns));
            resumed.push(table.name().to_owned());
            agenda.add(Arc::new(table), Some(resume));
        }
        let mut changes = Self {
            endpoint,
            capture,
            mode,
            source,
            cancel,
            keyspace,
            agenda,
            running: None,
            declared,
            shapes: BTreeMap::new(),
            unchecked: unchecked && !resumed.is_empty(),
            notes,
            retry: Retry::new(options.retry_timeout()),
            unknown_errors: 0,
            failed: None,
            ended: false,
        };
        if !resumed.is_empty() {
            changes.shapes = changes.inquiry().shapes(changes.agenda.shards(), &resumed)?;
        }
        Ok(changes)
    }

    /// What is to be known of tables beside their changes: the table, and a sentence. Known before the first batch.
    pub fn notes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.notes.iter().map(|(table, note)| (table.as_str(), note.as_str()))
    }

    /// The tables as they are known before the first batch: those that are resumed without the columns that their destination lacks.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        self.agenda.tables()
    }

    fn step(&mut self) -> Result<Option<ChangeBatch>> {
        if let Some(batch) = self.agenda.take_ready() {
            return Ok(Some(batch));
        }
        loop {
            self.cancel.check()?;
            let Some(running) = &mut self.running else {
                if !self.begin()? {
                    return Ok(None);
                }
                continue;
            };
            if running.machine.is_finished() {
                return self.finish().map(Some);
            }
            let interval = if self.mode == CaptureMode::Stream { STREAM_INTERVAL } else { BATCH_INTERVAL };
            let due = running.last_taken + interval;
            if running.machine.buffered_bytes() >= BATCH_BYTES || Instant::now() >= due {
                running.last_taken = Instant::now();
                let omitted = running.machine.take_omitted();
                if let Err(error) = self.check_omitted(omitted) {
                    // Nothing of what was committed may be handed out any more: it has NULL where the source has a value.
                    self.running = None;
                    return Err(error);
                }
                let Some(running) = &mut self.running else { continue };
                if let Some(mut batch) = running.machine.take().or_else(|| running.machine.take_piece()) {
                    self.complete_values(&mut batch)?;
                    let computed = self.complete_columns(&mut batch)?;
                    if let Some(running) = &mut self.running {
                        for table in computed {
                            let checkpoints = running.machine.copy_anew_by_name(&table, COMPUTED);
                            if batch.complete {
                                batch.checkpoints = checkpoints;
                            }
                        }
                    }
                    return Ok(Some(batch));
                }
            }
            self.receive()?;
        }
    }

    /// What was committed before an error and is not handed out yet.
    fn committed(&mut self) -> Option<ChangeBatch> {
        let running = self.running.as_mut()?;
        running.stream = None;
        // Of a transaction that was handed out in part nothing may be kept.
        running.machine.connection_lost().ok()?;
        let omitted = running.machine.take_omitted();
        self.check_omitted(omitted).ok()?;
        let mut batch = self.running.as_mut()?.machine.take()?;
        self.complete_values(&mut batch).ok()?;
        self.complete_columns(&mut batch).ok().filter(Vec::is_empty)?;
        Some(batch)
    }

    /// Starts the next machine. `false` if there is nothing left to do.
    fn begin(&mut self) -> Result<bool> {
        let Some(Next { mut machine, is_last }) = self.agenda.next()? else { return Ok(false) };
        for ((table, shard), shape) in &self.shapes {
            machine.expect(table, shard, shape.clone());
        }
        let watch = Watch::new(machine.resume_from());
        self.running = Some(Running { machine, stream: None, is_last, last_taken: Instant::now(), watch });
        Ok(true)
    }

    /// Takes the last batch out of a machine that has ended, and notes where its tables stand.
    fn finish(&mut self) -> Result<ChangeBatch> {
        let Some(running) = self.running.take() else { return Err(Error::protocol("no stream is running")) };
        let Running { mut machine, stream, is_last, mut watch, .. } = running;
        self.note_progress(&machine, &mut watch);
        // The call ends before the batch is written, so that no tablet waits for a destination.
        drop(stream);
        self.check_omitted(machine.take_omitted())?;
        let mut batch = machine.take_all();
        self.complete_values(&mut batch)?;
        let mut appended = if is_last { self.columns_not_seen(&machine) } else { Vec::new() };
        batch.changes.append(&mut appended);
        for table in self.complete_columns(&mut batch)? {
            batch.checkpoints = machine.copy_anew_by_name(&table, COMPUTED);
            batch.changes.extend(machine.take_all().changes);
        }
        for (table, shard, shape) in machine.shapes() {
            self.shapes.insert((table.to_owned(), shard.to_owned()), shape.clone());
        }
        if let Some(shards) = self.agenda.finish(machine, is_last, &mut batch) {
            // A reshard within this run: what comes next goes to where the new shards are now.
            let stop = stop_position(&self.inquiry().executed(&shards)?);
            self.agenda.stop_at(stop);
        }
        Ok(batch)
    }

    fn inquiry(&self) -> Inquiry<'_> {
        let Self { source, endpoint, capture, keyspace, cancel, .. } = self;
        Inquiry { source, endpoint, capture, keyspace, cancel }
    }

    /// Columns that were declared when the run began and that no row has shown: the stop position is not older than the declarations, so
    /// all rows that are there were written before.
    fn columns_not_seen(&self, machine: &Machine) -> Vec<Change> {
        let mut changes = Vec::new();
        for table in machine.tables() {
            let Some(declared) = self.declared.get(table.name()) else { continue };
            let is_new = |column: &&Column| table.column_index(column.name()).is_none();
            let added: Vec<Column> = declared.columns().iter().filter(is_new).cloned().collect();
            if !added.is_empty() {
                let table = Arc::new(Table::clone(table).with_columns(added.clone()));
                changes.push(Change::Columns { table, added: added.into_iter().map(|column| (column, None)).collect() });
            }
        }
        changes
    }

    /// Receives one message, reconnecting where that may help.
    fn receive(&mut self) -> Result<()> {
        let began = Instant::now();
        let Some(running) = &mut self.running else { return Ok(()) };
        let Some(stream) = &mut running.stream else {
            let position = running.machine.resume_from();
            // A position has last PKs in a copy only, which is of one table.
            let stuck = running.machine.tables().find_map(|table| Some((table.name().to_owned(), stuck(&position, table)?)));
            if let Some((table, reason)) = stuck {
                running.machine.copy_anew_by_name(&table, reason);
                return Ok(());
            }
            let request = request(&self.capture, &running.machine, &position)?;
            let connect = || Channel::connect(&self.endpoint, &self.cancel).and_then(|channel| channel.vstream(&request));
            let connected = if self.endpoint.proven { connect() } else { first_connection(&self.cancel, connect) };
            match connected {
                Ok(stream) => {
                    running.stream = Some(stream);
                    running.watch.connected();
                    self.endpoint.proven = true;
                    return Ok(());
                }
                Err(error) if !self.endpoint.proven => return Err(error),
                Err(error) => return self.broke(began, error),
            }
        };
        let received = stream.receive(began + TICK);
        let received_bytes = stream.received_bytes();
        let failed = match received {
            Ok(Received::Message(message)) => {
                let Running { machine, watch, .. } = running;
                let mut brought = Brought::Message;
                read_response(&message, |event| {
                    if matches!(event.kind, EventKind::Row(_)) {
                        brought = Brought::Rows;
                    }
                    if event.throttled {
                        watch.note_throttled();
                    }
                    machine.on_event(&event)
                })?;
                watch.waited(began.elapsed(), brought, received_bytes);
                return self.check_progress();
            }
            Ok(Received::TimedOut) => {
                running.watch.waited(began.elapsed(), Brought::Nothing, received_bytes);
                if running.watch.silent() < SILENCE_LIMIT {
                    return self.check_progress();
                }
                let message = format!("vtgate has sent nothing for {} s, not even its heartbeats", SILENCE_LIMIT.as_secs());
                let silent_since = began.checked_sub(SILENCE_LIMIT).unwrap_or(began);
                return self.broke(silent_since, Error::new(ErrorKind::Timeout, message));
            }
            Ok(Received::Ended) => Error::new(ErrorKind::Connect, "vtgate ended the stream before the stop position was reached"),
            Err(error) => error,
        };
        self.broke(began, failed)
    }

    /// After a failure of what began at `began`: waits until it is to be tried again, or gives up.
    fn broke(&mut self, began: Instant, error: Error) -> Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        running.stream = None;
        // The tablet has the table's columns of today only, and these do not fit what the binary log holds of it.
        let unreadable = error.table().filter(|_| error.kind() == ErrorKind::SchemaChange);
        if let Some(table) = unreadable.filter(|table| running.machine.tables().any(|followed| followed.name() == *table)) {
            let lost = running.machine.connection_lost();
            if lost.is_ok() {
                running.machine.copy_anew_by_name(table, UNREADABLE);
            }
            self.running = Some(running);
            return lost;
        }
        // vtgate has one code for whatever it does not know, and its tablets have many ways to say that they are about to restart.
        let is_unknown = error.kind() == ErrorKind::Source;
        let is_unnoticed = status::is_unnoticed(&error) && running.machine.tables().all(|table| self.is_there(table));
        if !error.is_transient() && !is_unknown && !is_unnoticed {
            let error = match error.position_fault() {
                Some(PositionFault::Shards) => self.shards_are_gone(running.machine.shards(), error),
                _ => error,
            };
            self.running = Some(running);
            return Err(error);
        }
        let lost = running.machine.connection_lost();
        self.note_progress(&running.machine, &mut running.watch);
        self.running = Some(running);
        lost?;
        self.unknown_errors += u32::from(is_unknown);
        let until = match self.retry.failed(began, Instant::now()) {
            Some(until) if self.unknown_errors <= UNKNOWN_ERRORS => until,
            _ => return Err(self.given_up(error)),
        };
        let failures = self.retry.failures();
        log::warn!("the stream broke and is resumed from the last commit (failure {failures} without a new position): {error:#}");
        self.cancel.wait_until(until)
    }

    /// Whether the server has a table, which its tablets may not have noticed yet.
    fn is_there(&self, table: &Table) -> bool {
        !matches!(self.source.table_unless(table.name(), &self.cancel), Err(error) if error.kind() == ErrorKind::Schema)
    }

    /// Names the shards of the position and those that serve, where vtgate names one at most.
    fn shards_are_gone(&self, old: &[String], cause: Error) -> Error {
        let keyspace = &self.keyspace;
        let serving = self.source.with_connection(&self.cancel, |connection| server::shards(connection, keyspace)).unwrap_or_default();
        let message = format!(
            "cannot resume: the stored position is of the shards {}, which keyspace `{keyspace}` does not have any more; it has {}; rebuild the \
             table with full_refresh",
            list(&set_of(old)),
            list(&set_of(&serving))
        );
        Error::position_fault_of(PositionFault::Shards, message).with_cause(cause)
    }

    /// Looks whether the stream has come further. That ends a row of failures, if it is a position from which the stream can go on.
    fn note_progress(&mut self, machine: &Machine, watch: &mut Watch) -> bool {
        let position = machine.resume_from();
        let is_safe = machine.tables().all(|table| stuck(&position, table).is_none());
        let moved = watch.look(position);
        if moved && is_safe {
            self.retry.succeeded();
            self.unknown_errors = 0;
        }
        moved
    }

    fn given_up(&self, last: Error) -> Error {
        let (failures, limit) = (self.retry.failures(), self.retry.limit());
        let mut message = match self.unknown_errors {
            0..=UNKNOWN_ERRORS => format!("the stream broke {failures} times without a new position, for {limit:?} (`retry_timeout`)"),
            _ => format!("the stream broke {failures} times without a new position"),
        };
        if self.unchecked {
            message = format!("{message}; {UNCHECKED}");
        }
        Error::new(last.kind(), message).with_cause(last)
    }

    /// Ends a stream that stands still for longer than the limit, unless the server has nothing more to send.
    fn check_progress(&mut self) -> Result<()> {
        let limit = self.capture.no_progress_timeout();
        let Some(mut running) = self.running.take() else { return Ok(()) };
        let is_late = running.watch.still() >= limit;
        let moved = (is_late || running.watch.is_due()) && self.note_progress(&running.machine, &mut running.watch);
        let running = self.running.insert(running);
        if moved || !is_late {
            return Ok(());
        }
        let (old, new) = (set_of(running.machine.shards()), set_of(self.agenda.shards()));
        if !running.machine.went_over() && old != new {
            let message = format!(
                "the stream of the shards {} did not go over to {} within {limit:?} (`no_progress_timeout`): the old ones have nothing more \
                 to send; rebuild the tables with full_refresh",
                list(&old),
                list(&new)
            );
            return Err(Error::position_fault_of(PositionFault::Shards, message));
        }
        let position = running.machine.resume_from();
        let keyspace = &self.keyspace;
        let inquiry = Inquiry { source: self.source, endpoint: &self.endpoint, capture: &self.capture, keyspace, cancel: &self.cancel };
        let mut behind = Vec::new();
        for shard in inquiry.executed(running.machine.shards())? {
            let at = position.get(keyspace, &shard.shard).map(|at| at.gtid_set()).transpose()?.unwrap_or_default();
            if !at.contains(&shard.executed) {
                behind.push(shard.shard);
            }
        }
        // A copy is never idle: its end is yet to come.
        if running.is_last && behind.is_empty() {
            running.watch.is_idle();
            return Ok(());
        }
        let throttled = match running.watch.was_throttled() {
            true => Some("its tablet says that it is throttled".to_owned()),
            false => inquiry.throttler(),
        };
        let what = match running.machine.tables().next() {
            Some(table) if !running.is_last => format!("the copy of `{}` is not complete", table.name()),
            _ => format!("shard {} has more to send", behind.join(", ")),
        };
        let why = throttled.unwrap_or_else(|| {
            let too_large = may_be_too_large(running.machine.tables()).unwrap_or_default();
            format!("vtgate still sends heartbeats, so the tablet is stalled{too_large}")
        });
        let mut message =
            format!("the stream brought neither a new position nor a row for {limit:?} (`no_progress_timeout`), although {what}: {why}");
        if self.unchecked {
            message = format!("{message}; {UNCHECKED}");
        }
        let error = Error::new(ErrorKind::Timeout, message);
        Err(match behind.first() {
            Some(shard) => error.with_shard(shard),
            None => error,
        })
    }

    /// New rows that come without a column have NULL in it, if the sessions that write them log blobs only where they need to. A session that
    /// logs the columns of its statement only leaves others out as well.
    fn check_omitted(&self, omitted: Vec<(Arc<Table>, String)>) -> Result<()> {
        for (table, column) in omitted {
            let keyspace = &self.keyspace;
            let ask = |connection: &mut Connection| server::default_of(connection, keyspace, table.name(), &column);
            let default = self.source.with_connection(&self.cancel, ask);
            match default {
                Ok(None) => {}
                Err(error) if error.kind() != ErrorKind::Unsupported => return Err(error),
                Ok(Some(_)) | Err(_) => {
                    let message = format!(
                        "the binlog leaves `{column}` out of new rows of `{}`, whose default is not NULL: binlog_row_image must be FULL or \
                         NOBLOB for every session",
                        table.name()
                    );
                    return Err(Error::new(ErrorKind::Unsupported, message).with_table(table.name()).with_column(&column));
                }
            }
        }
        Ok(())
    }

    /// Asks for the values that the stream does not carry exactly.
    fn complete_values(&self, batch: &mut ChangeBatch) -> Result<()> {
        for change in &mut batch.changes {
            if let Change::Rows(rows) = change {
                exact::complete(self.source, &self.cancel, rows)?;
            }
        }
        Ok(())
    }

    /// Asks for what rows written before a new column hold in it. Tables where only the server can compute that are named.
    fn complete_columns(&self, batch: &mut ChangeBatch) -> Result<Vec<String>> {
        let mut computed = Vec::new();
        for change in &mut batch.changes {
            let Change::Columns { table, added } = change else { continue };
            for (column, default) in added {
                let keyspace = &self.keyspace;
                let ask = |connection: &mut _| server::default_of(connection, keyspace, table.name(), column.name());
                let found = self.source.with_connection(&self.cancel, ask);
                match found {
                    Ok(Some(text)) if column.is_text_as_bytes() => match default_bytes(column, &text) {
                        Some(bytes) => *default = Some(bytes),
                        None => computed.push(table.name().to_owned()),
                    },
                    Ok(found) => *default = found,
                    Err(error) if error.kind() == ErrorKind::Unsupported => computed.push(table.name().to_owned()),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(computed)
    }
}

/// A default of text as that of a column of bytes: in hexadecimal, if its bytes in the column's character set are known here.
fn default_bytes(column: &Column, text: &str) -> Option<String> {
    let charset = Charset::named(column.collation()?).ok()?;
    (charset == Charset::Utf8 || text.is_ascii() && charset.holds_ascii()).then(|| ValueRef::Bytes(text.as_bytes()).to_string())
}

/// Why an interrupted copy cannot go on.
const NO_FIELDS: &str = "the server sent its last primary keys without their fields, so the interrupted copy could not go on";

/// What is said of a foreign key with CASCADE or SET NULL.
const CASCADES: &str =
    "changes or deletes rows when others do, which this server does not log (MySQL before 9.6): those changes do not arrive";

/// What is said of a position of which the server does not tell whether it can be resumed from.
const UNCHECKED: &str = "the server refused to tell its history, so whether the binary logs still hold what follows the stored position could \
                         not be checked: if it stands still, rebuild the table with full_refresh";

/// Why a copy that is interrupted anywhere begins anew.
const NO_ORDER: &str = "its key has a column that can be NULL, or of a type that the server compares otherwise than it sorts, so the interrupted copy \
                        could not go on";

/// Why the copy of a table cannot go on from a position, if it cannot.
///
/// A last PK without its fields is refused by newer servers, and misread by some. After a good one a tablet asks MySQL for the rows with greater keys, in
/// the order of the key; but it writes an ENUM as text, which MySQL compares by its letters and sorts by its index, and SET, BIT and FLOAT have similar
/// troubles. Measured on v0.23.3: rows are left out, without an error. Of a table without a primary key all columns are the key, and nothing is greater
/// than NULL.
fn stuck(position: &Vgtid, table: &Table) -> Option<&'static str> {
    let is_ordered = |column: &String| {
        let column = table.column(column).filter(|column| !column.is_nullable());
        column.is_some_and(|column| match column.column_type() {
            ColumnType::Int { .. }
            | ColumnType::Year
            | ColumnType::Decimal { .. }
            | ColumnType::Double
            | ColumnType::Date
            | ColumnType::DateTime { .. }
            | ColumnType::Timestamp { .. }
            | ColumnType::Time { .. }
            | ColumnType::Text { .. }
            | ColumnType::Binary { .. } => true,
            ColumnType::Boolean
            | ColumnType::Float
            | ColumnType::Bit { .. }
            | ColumnType::Enum { .. }
            | ColumnType::Set { .. }
            | ColumnType::Json
            | ColumnType::Geometry
            | ColumnType::Vector => false,
        })
    };
    position.shards().iter().flat_map(|shard| shard.last_pks()).find_map(|last_pk| {
        let columns = last_pk.columns();
        if columns.is_empty() {
            return Some(NO_FIELDS);
        }
        (!columns.iter().all(is_ordered)).then_some(NO_ORDER)
    })
}

/// A tablet that cannot send a row to vtgate, because it is too large, is asked for it again and again, and the client hears of nothing.
fn may_be_too_large<'a>(tables: impl Iterator<Item = &'a Arc<Table>>) -> Option<String> {
    let can_be = |table: &&Arc<Table>| {
        let large = [ColumnType::Text { length: None }, ColumnType::Binary { fixed: None }, ColumnType::Json];
        table.columns().iter().any(|column| large.contains(column.column_type()))
    };
    let tables: Vec<String> = tables.filter(can_be).map(|table| format!("`{}`", table.name())).collect();
    let named = tables.get(..tables.len().min(5))?.join(", ");
    let more = if tables.len() > 5 { ", ..." } else { "" };
    (!tables.is_empty()).then(|| {
        format!(
            "; or a row of {named}{more} is larger than vttablet sends: --grpc-max-message-size of vttablet and vtgate, 16777216 bytes unless \
             raised"
        )
    })
}

/// Why a table is copied once more whose older changes no longer fit its columns.
const UNREADABLE: &str = "its columns were changed, and the server cannot read older changes by the new ones";

/// Why a table with such a new column is copied once more.
const COMPUTED: &str = "it has a new column whose values the server computes";

impl Iterator for Changes<'_> {
    type Item = Result<ChangeBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = match self.failed.take() {
            Some(error) => Some(Err(error)),
            None => self.step().transpose(),
        };
        let item = match item {
            // Who cancels wants an end, and reads the rest again.
            Some(Err(error)) if error.kind() != ErrorKind::Cancelled => match self.committed() {
                Some(batch) => {
                    self.failed = Some(error);
                    Some(Ok(batch))
                }
                None => Some(Err(error)),
            },
            item => item,
        };
        self.ended = !matches!(item, Some(Ok(_)));
        if self.ended {
            self.running = None;
        }
        item
    }
}

impl std::fmt::Debug for Changes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").field("keyspace", &self.keyspace).field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// Only vtgate has a stream of changes.
pub(crate) fn require_vitess(source: &Source) -> Result<()> {
    if source.server().is_vitess() {
        return Ok(());
    }
    let message = format!("change capture needs Vitess or PlanetScale, but the server is MySQL ({})", source.server().version());
    Err(Error::new(ErrorKind::Unsupported, message))
}

/// A database named `keyspace@replica` or `keyspace:shard@replica` chooses tablets for MySQL; the stream has options of its own for that.
pub(crate) fn keyspace_of(database: &str) -> &str {
    let without_tablet = database.split_once('@').map_or(database, |(name, _)| name);
    without_tablet.split_once(':').map_or(without_tablet, |(name, _)| name)
}

/// Refuses a table whose changes cannot be captured, whatever it holds.
///
/// # Errors
/// `Schema` or `Unsupported`, with the table and where it has one the column.
pub(crate) fn check_table(table: &Table) -> Result<()> {
    let name = table.name();
    if table.primary_key().is_empty() {
        let message = format!("table `{name}` has no primary key: name the columns that identify a row (--primary-key)");
        return Err(Error::new(ErrorKind::Schema, message).with_table(name));
    }
    for column in bookkeeping_columns() {
        if let Some(own) = table.column(column.name()) {
            let message = format!("table `{name}` has a column `{}` itself, which change capture needs for its own", own.name());
            return Err(Error::new(ErrorKind::Schema, message).with_table(name).with_column(own.name()));
        }
    }
    // Measured on v0.23.3: `UnescapeID err: no outer backticks found in the identifier`, however the rule quotes the name.
    if name.contains('`') {
        let message = format!("vttablet cannot stream a table with a backtick in its name: `{name}`");
        return Err(Error::new(ErrorKind::Unsupported, message).with_table(name));
    }
    // Whatever stands behind it is a pattern for a tablet, which sends the tables that it matches.
    if name.starts_with('/') {
        let message = format!("vttablet takes a table name that begins with a slash for a pattern: `{name}`");
        return Err(Error::new(ErrorKind::Unsupported, message).with_table(name));
    }
    let mut key = table.primary_key().iter().map(|&index| &table.columns()[index]);
    if let Some(column) = key.find(|column| *column.column_type() == ColumnType::Float) {
        let message = format!(
            "key column `{}` of table `{name}` is a FLOAT, of which VStream's copy carries six digits only: rows whose keys differ in later ones \
             would become one; make it a DOUBLE, or name other columns that identify a row (--primary-key)",
            column.name()
        );
        return Err(Error::new(ErrorKind::Unsupported, message).with_table(name).with_column(column.name()));
    }
    Ok(())
}

fn stop_position(serving: &[ServerShard]) -> BTreeMap<String, GtidSet> {
    serving.iter().map(|shard| (shard.shard.clone(), shard.executed.clone())).collect()
}

fn now() -> Result<DateTime> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok();
    let micros = since.and_then(|since| i64::try_from(since.as_micros()).ok());
    micros.and_then(DateTime::from_unix_micros).ok_or_else(|| Error::config("the clock of this machine is beyond the calendar"))
}

fn endpoint(options: &SourceOptions, capture: &CaptureOptions) -> Result<Endpoint> {
    let missing = || Error::config("grpc_port is missing: change capture needs vtgate's gRPC port, which differs from the MySQL port");
    let path = |path: Option<&std::path::Path>| path.map(std::path::Path::to_path_buf);
    let max_message_bytes = usize::try_from(capture.max_message_bytes())
        .map_err(|_| Error::config("`max_message_bytes` is more than this machine can address"))?;
    Ok(Endpoint {
        host: options.grpc_host().ok_or_else(missing)?.to_owned(),
        port: capture.grpc_port(),
        tls: options.grpc_tls().ok_or_else(missing)?,
        tls_files: TlsFiles { ca: path(options.tls_ca()), cert: path(options.tls_cert()), key: path(options.tls_key()) },
        user: options.user().map(str::to_owned),
        password: options.password().map(str::to_owned),
        connect_timeout: options.connect_timeout(),
        max_message_bytes,
        plaintext_credentials: capture.grpc_credentials() == GrpcCredentials::DangerPlaintext,
        proven: false,
    })
}

/// The protocol's number of a tablet type.
pub(super) fn tablet_number(tablet_type: TabletType) -> i32 {
    match tablet_type {
        TabletType::Primary => 1,
        TabletType::Replica => 2,
        TabletType::Rdonly => 3,
    }
}

fn request(capture: &CaptureOptions, machine: &Machine, position: &Vgtid) -> Result<proto::VStreamRequest> {
    let vgtid = proto::VGtid::parse_from_bytes(&position.encode())
        .map_err(|cause| Error::protocol("a position cannot be written as a VGTID").with_cause(cause))?;
    let mut request = proto::VStreamRequest::new();
    request.tablet_type = tablet_number(capture.tablet_type());
    request.vgtid = MessageField::some(vgtid);
    let mut filter = proto::Filter::new();
    for table in machine.tables() {
        let mut rule = proto::Rule::new();
        rule.match_ = table.name().to_owned();
        // With an empty filter the copy works and the stream then fails at its first change.
        rule.filter = format!("select * from {}", quoted(table.name()));
        filter.rules.push(rule);
    }
    request.filter = MessageField::some(filter);
    let mut flags = proto::VStreamFlags::new();
    flags.heartbeat_interval = HEARTBEAT_SECONDS;
    flags.cells = capture.cells().join(",");
    request.flags = MessageField::some(flags);
    log::debug!("VStream of {} tables", machine.tables().count());
    Ok(request)
}
