//! The blocking loop behind [`Changes`]: it moves bytes between vtgate and the machine.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use protobuf::{Message as _, MessageField};

use crate::cancel::Cancel;
use crate::change::{Change, ChangeBatch, CopyPhase};
use crate::gtid::GtidSet;
use crate::options::{CaptureMode, CaptureOptions, GrpcCredentials, SourceOptions, TabletType};
use crate::position::{ServerShard, Vgtid, judge};
use crate::schema::{Column, ColumnType, Table};
use crate::sink::checkpoint::StoredPosition;
use crate::source::Source;
use crate::source::mysql::Connection;
use crate::source::vstream::event::{EventKind, read_response};
use crate::source::vstream::machine::{Machine, Plan, PlannedTable, Stop, nothing_copied};
use crate::source::vstream::shape::Shape;
use crate::source::vstream::transport::{Channel, Endpoint, Received, Stream};
use crate::source::vstream::{proto, server};
use crate::tls::TlsFiles;
use crate::value::DateTime;
use crate::{Error, ErrorKind, PositionFault, Result};

/// Bytes of row images after which committed changes are handed out.
const BATCH_BYTES: usize = 16 << 20;
/// Committed changes are handed out at least this often where a run goes on for ever.
const STREAM_INTERVAL: Duration = Duration::from_secs(1);
/// And this often where it ends by itself, so that an interruption costs little.
const BATCH_INTERVAL: Duration = Duration::from_secs(10);
/// An open transaction larger than this is handed out in pieces.
const TRANSACTION_BYTES: usize = 48 << 20;
/// How long a wait lasts at most before cancellation is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often vtgate proves that the link lives while it has nothing to send.
const HEARTBEAT_SECONDS: u32 = 5;
/// Reconnections in a row that bring no new position.
const ATTEMPTS: u32 = 5;

/// Which tables to capture, and from where.
#[derive(Debug, Clone, Default)]
pub struct CaptureRequest {
    tables: Vec<(Table, Option<StoredPosition>)>,
    ordinal: u64,
    mode: Option<CaptureMode>,
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
    plan: Plan,
    stop: BTreeMap<String, GtidSet>,
    to_copy: VecDeque<Follow>,
    copied: Vec<Follow>,
    running: Option<Running>,
    /// The tables as the server declared them when the run began. A destination may lack columns that were added since it was written: those
    /// show in the stream when their time comes, or else at its end.
    declared: BTreeMap<String, Table>,
    /// What is known of the columns of each table and shard.
    shapes: BTreeMap<(String, String), Shape>,
    /// Whether tables that are behind others were brought level since the last copy.
    levelled: bool,
    caught_up: bool,
    ended: bool,
}

/// A table between two machines.
struct Follow {
    table: Arc<Table>,
    position: Vgtid,
    phase: CopyPhase,
}

/// Tables, and the position to bring them to.
type Behind = (Vec<PlannedTable>, BTreeMap<String, GtidSet>);

impl Follow {
    fn planned(self) -> PlannedTable {
        PlannedTable { table: self.table, position: self.position }
    }
}

struct Running {
    machine: Machine,
    stream: Option<Stream>,
    /// Whether reaching the machine's end means that every table has caught up.
    is_last: bool,
    last_taken: Instant,
    last_progress: Instant,
    heard: bool,
    failures: u32,
    /// A batch that has to wait for the one before it.
    waiting: VecDeque<ChangeBatch>,
}

impl<'a> Changes<'a> {
    /// Judges the checkpoints and reads the stop position; nothing is streamed yet.
    pub(crate) fn start(source: &'a Source, request: CaptureRequest, cancel: Cancel) -> Result<Self> {
        let options = source.options().clone();
        let capture = options.capture().cloned().ok_or_else(|| {
            Error::config("grpc_port is missing: change capture needs vtgate's gRPC port, which differs from the MySQL port")
        })?;
        require_vitess(source)?;
        if request.tables.is_empty() {
            return Err(Error::config("no table was named to be captured"));
        }
        let endpoint = endpoint(&options, &capture)?;
        let keyspace = keyspace_of(options.database()).to_owned();
        let tablet_type = capture.tablet_type();
        let serving = source.with_connection(|connection| {
            let serving = server::shards(connection, &keyspace)?;
            let chosen = chosen_shards(&keyspace, serving, capture.shards())?;
            server::histories(connection, &keyspace, &chosen, tablet_type)
        })?;
        let shards: Vec<String> = serving.iter().map(|shard| shard.shard.clone()).collect();
        let (mut to_copy, mut copied) = (VecDeque::new(), Vec::new());
        let mut declared = BTreeMap::new();
        for (table, resume) in request.tables {
            check_table(&table)?;
            declared.insert(table.name().to_owned(), table.clone());
            let follow = match resume {
                None => Follow {
                    table: Arc::new(table),
                    position: nothing_copied(&keyspace, &shards),
                    phase: CopyPhase::Copying { done: Vec::new(), sweep: None },
                },
                Some(StoredPosition { checkpoint, of_rows, columns }) => {
                    let at_table = |error: Error| error.with_table(table.name());
                    judge(&checkpoint.position, &keyspace, &serving).map_err(at_table)?;
                    if let Some(of_rows) = of_rows.as_ref().and_then(|lsn| lsn.payload()) {
                        // It may be old, since nothing has happened to the table, but it has to be of the same history.
                        let outdated = |error: &Error| error.position_fault() == Some(PositionFault::Purged);
                        judge(of_rows, &keyspace, &serving)
                            .or_else(|error| if outdated(&error) { Ok(()) } else { Err(error) })
                            .map_err(at_table)?;
                    }
                    let table = columns.map_or(table.clone(), |columns| table.restricted_to(&columns));
                    Follow { table: Arc::new(table), position: checkpoint.position, phase: checkpoint.phase }
                }
            };
            match follow.phase {
                CopyPhase::Copied => copied.push(follow),
                CopyPhase::Copying { .. } => to_copy.push_back(follow),
            }
        }
        let shapes = if copied.is_empty() {
            BTreeMap::new()
        } else {
            source.with_connection(|connection| shapes(connection, &keyspace, &shards, tablet_type, &copied))?
        };
        let now = now()?;
        let plan = Plan { keyspace, shards, ordinal: request.ordinal, now, transaction_bytes: TRANSACTION_BYTES };
        let stop = stop_position(&serving);
        let mode = request.mode.unwrap_or(capture.mode());
        Ok(Self {
            endpoint,
            capture,
            mode,
            source,
            cancel,
            plan,
            stop,
            to_copy,
            copied,
            running: None,
            declared,
            shapes,
            levelled: false,
            caught_up: false,
            ended: false,
        })
    }

    /// The tables as they are known before the first batch: those that are resumed without the columns that their destination lacks.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        self.to_copy.iter().chain(&self.copied).map(|follow| &*follow.table)
    }

    fn step(&mut self) -> Result<Option<ChangeBatch>> {
        loop {
            self.cancel.check()?;
            let Some(running) = &mut self.running else {
                if !self.begin()? {
                    return Ok(None);
                }
                continue;
            };
            if let Some(batch) = running.waiting.pop_front() {
                return Ok(Some(batch));
            }
            if running.machine.is_finished() {
                return self.finish().map(Some);
            }
            let interval = if self.mode == CaptureMode::Stream { STREAM_INTERVAL } else { BATCH_INTERVAL };
            let due = running.last_taken + interval;
            if running.machine.buffered_bytes() >= BATCH_BYTES || Instant::now() >= due {
                running.last_taken = Instant::now();
                let omitted = running.machine.take_omitted();
                self.check_omitted(omitted)?;
                let Some(running) = &mut self.running else { continue };
                if let Some(mut batch) = running.machine.take().or_else(|| running.machine.take_piece()) {
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

    /// Starts the next machine: a copy while a table needs one, else the stream of all. `false` if there is nothing left to do.
    fn begin(&mut self) -> Result<bool> {
        let (mut machine, is_last) = if let Some(follow) = self.to_copy.pop_front() {
            let CopyPhase::Copying { done, sweep } = follow.phase else {
                return Err(Error::protocol("a table that was copied is to be copied again"));
            };
            (Machine::copy(self.plan.clone(), follow.table, follow.position, done, sweep), false)
        } else if self.copied.is_empty() || (self.caught_up && self.mode == CaptureMode::Batch) {
            return Ok(false);
        } else if let Some((behind, stop)) = self.behind()? {
            (Machine::stream(self.plan.clone(), behind, Some(stop))?, false)
        } else {
            let planned = self.copied.drain(..).map(Follow::planned).collect();
            let stop: Stop = (!self.caught_up).then(|| self.stop.clone());
            (Machine::stream(self.plan.clone(), planned, stop)?, true)
        };
        for ((table, shard), shape) in &self.shapes {
            machine.expect(table, shard, shape.clone());
        }
        let now = Instant::now();
        self.running = Some(Running {
            machine,
            stream: None,
            is_last,
            last_taken: now,
            last_progress: now,
            heard: false,
            failures: 0,
            waiting: VecDeque::new(),
        });
        Ok(true)
    }

    /// The tables that have not come as far as others, and how far those have. They are streamed by themselves first: a stream of all
    /// tables would begin at the oldest position, and what is older than a table's copy need not be readable by its columns of today.
    fn behind(&mut self) -> Result<Option<Behind>> {
        if std::mem::replace(&mut self.levelled, true) {
            return Ok(None);
        }
        let mut furthest: BTreeMap<String, GtidSet> = BTreeMap::new();
        for follow in &self.copied {
            for at in follow.position.shards() {
                furthest.entry(at.shard().to_owned()).or_default().union(&at.gtid_set()?);
            }
        }
        let mut level = Vec::new();
        let mut behind = Vec::new();
        for follow in self.copied.drain(..) {
            let mut is_behind = false;
            for at in follow.position.shards() {
                is_behind |= furthest.get(at.shard()).is_some_and(|furthest| !at.gtid_set().is_ok_and(|own| own.contains(furthest)));
            }
            if is_behind { behind.push(follow) } else { level.push(follow) }
        }
        // Where each is ahead of another somewhere, the stream sorts it out.
        if behind.is_empty() || level.is_empty() {
            self.copied = behind.into_iter().chain(level).collect();
            return Ok(None);
        }
        self.copied = level;
        Ok(Some((behind.into_iter().map(Follow::planned).collect(), furthest)))
    }

    /// Takes the last batch out of a machine that has ended, and notes where its tables stand.
    fn finish(&mut self) -> Result<ChangeBatch> {
        let Some(running) = self.running.take() else { return Err(Error::protocol("no stream is running")) };
        let Running { mut machine, stream, is_last, .. } = running;
        // The call ends before the batch is written, so that no tablet waits for a destination.
        drop(stream);
        self.check_omitted(machine.take_omitted())?;
        let mut batch = machine.take_all();
        let mut appended = if is_last { self.columns_not_seen(&machine) } else { Vec::new() };
        batch.changes.append(&mut appended);
        for table in self.complete_columns(&mut batch)? {
            batch.checkpoints = machine.copy_anew_by_name(&table, COMPUTED);
            batch.changes.extend(machine.take_all().changes);
        }
        self.plan.ordinal = machine.ordinal();
        for (table, shard, shape) in machine.shapes() {
            self.shapes.insert((table.to_owned(), shard.to_owned()), shape.clone());
        }
        let mut recopied = false;
        for (table, checkpoint) in machine.into_checkpoints() {
            let Some(checkpoint) = checkpoint else { continue };
            let seen = batch.changes.iter().rev().find(|change| change.table().name() == table.name());
            let table = seen.map_or(table, |change| Arc::clone(change.table()));
            let follow = Follow { table, position: checkpoint.position, phase: checkpoint.phase };
            match follow.phase {
                CopyPhase::Copied => self.copied.push(follow),
                CopyPhase::Copying { .. } => {
                    recopied = true;
                    self.levelled = false;
                    self.to_copy.push_back(follow);
                }
            }
        }
        if is_last && !recopied {
            self.caught_up = true;
            batch.caught_up = true;
        }
        Ok(batch)
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
        let Some(running) = &mut self.running else { return Ok(()) };
        let Some(stream) = &mut running.stream else {
            let request = request(&self.plan, &self.capture, &running.machine)?;
            let connected = Channel::connect(&self.endpoint).and_then(|channel| channel.vstream(&request));
            match connected {
                Ok(stream) => {
                    running.stream = Some(stream);
                    running.last_progress = Instant::now();
                    running.heard = false;
                    return Ok(());
                }
                // The first connection of a machine fails at once: what is wrong with it is seldom cured by waiting.
                Err(error) if running.failures == 0 => return Err(error),
                Err(error) => return self.back_off(error),
            }
        };
        let failed = match stream.receive(Instant::now() + TICK) {
            Ok(Received::Message(message)) => {
                let machine = &mut running.machine;
                let mut progress = false;
                read_response(&message, |event| {
                    progress |= !matches!(event.kind, EventKind::Heartbeat);
                    machine.on_event(&event)
                })?;
                running.heard = true;
                if progress {
                    running.last_progress = Instant::now();
                    running.failures = 0;
                }
                return Ok(());
            }
            Ok(Received::TimedOut) => {
                let limit = self.capture.no_progress_timeout();
                if running.last_progress.elapsed() < limit {
                    return Ok(());
                }
                return self.no_progress(limit);
            }
            Ok(Received::Ended) => Error::new(ErrorKind::Connect, "vtgate ended the stream before the stop position was reached"),
            Err(error) => error,
        };
        running.stream = None;
        // The tablet has the table's columns of today only, and these do not fit what the binary log holds of it.
        let unreadable = failed.table().filter(|_| failed.kind() == ErrorKind::SchemaChange);
        if let Some(table) = unreadable.filter(|table| running.machine.tables().any(|followed| followed.name() == *table)) {
            running.machine.connection_lost()?;
            running.machine.copy_anew_by_name(table, UNREADABLE);
            return Ok(());
        }
        if !failed.is_transient() {
            return Err(failed);
        }
        running.machine.connection_lost()?;
        self.back_off(failed)
    }

    /// Waits before the next attempt, longer each time; gives up with the error after the last.
    fn back_off(&mut self, error: Error) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        running.failures += 1;
        if running.failures > ATTEMPTS {
            return Err(error);
        }
        log::warn!("the stream broke and is resumed from the last commit (attempt {} of {ATTEMPTS}): {error:#}", running.failures);
        let until = Instant::now() + Duration::from_millis(250 << running.failures.min(6));
        self.cancel.wait_until(until)
    }

    /// Nothing but heartbeats for longer than the limit: tells an idle server from one that holds something back.
    fn no_progress(&mut self, limit: Duration) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let keyspace = &self.plan.keyspace;
        let (shards, tablet_type) = (&self.plan.shards, self.capture.tablet_type());
        let serving = self.source.with_connection(|connection| server::histories(connection, keyspace, shards, tablet_type))?;
        let position = running.machine.resume_from();
        let mut behind = Vec::new();
        for shard in &serving {
            let at = position.get(keyspace, &shard.shard).map(|at| at.gtid_set()).transpose()?.unwrap_or_default();
            if !at.contains(&shard.executed) {
                behind.push(shard.shard.as_str());
            }
        }
        if behind.is_empty() {
            running.last_progress = Instant::now();
            return Ok(());
        }
        let seconds = limit.as_secs();
        let link = if running.heard { "vtgate still sends heartbeats" } else { "vtgate sends nothing at all" };
        let mut message = format!(
            "no event came for {seconds} s although shard {} has more to send: {link}, so the tablet is throttled or stalled",
            behind.join(", ")
        );
        if let Some(tables) = may_be_too_large(running.machine.tables()) {
            message += &tables;
        }
        Err(Error::new(ErrorKind::Timeout, message).with_shard(behind[0]))
    }

    /// New rows that come without a column have NULL in it, if the sessions that write them log blobs only where they need to. A session that
    /// logs the columns of its statement only leaves others out as well.
    fn check_omitted(&self, omitted: Vec<(Arc<Table>, String)>) -> Result<()> {
        for (table, column) in omitted {
            let keyspace = &self.plan.keyspace;
            let default = self.source.with_connection(|connection| server::default_of(connection, keyspace, table.name(), &column));
            match default {
                Ok(None) => {}
                Err(error) if error.kind() != ErrorKind::Unsupported => return Err(error),
                Ok(Some(_)) | Err(_) => {
                    let message = format!(
                        "the binlog leaves `{column}` out of new rows of `{}`, whose default is not NULL: binlog_row_image must be FULL or NOBLOB for every session",
                        table.name()
                    );
                    return Err(Error::new(ErrorKind::Unsupported, message).with_table(table.name()).with_column(&column));
                }
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
                let keyspace = &self.plan.keyspace;
                let found = self.source.with_connection(|connection| server::default_of(connection, keyspace, table.name(), column.name()));
                match found {
                    Ok(found) => *default = found,
                    Err(error) if error.kind() == ErrorKind::Unsupported => computed.push(table.name().to_owned()),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(computed)
    }
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
        let item = self.step().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        if self.ended {
            self.running = None;
        }
        item
    }
}

impl std::fmt::Debug for Changes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").field("keyspace", &self.plan.keyspace).field("mode", &self.mode).finish_non_exhaustive()
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

fn chosen_shards(keyspace: &str, serving: Vec<String>, asked_for: &[String]) -> Result<Vec<String>> {
    if asked_for.is_empty() {
        return Ok(serving);
    }
    match asked_for.iter().find(|shard| !serving.contains(shard)) {
        None => Ok(asked_for.to_vec()),
        Some(shard) => {
            let message = format!("keyspace `{keyspace}` serves no shard `{shard}`; it serves {}", serving.join(", "));
            Err(Error::config(message).with_shard(shard))
        }
    }
}

fn check_table(table: &Table) -> Result<()> {
    if table.primary_key().is_empty() {
        let name = table.name();
        let message = format!("table `{name}` has no primary key: name the columns that identify a row with --primary-key");
        return Err(Error::new(ErrorKind::Schema, message).with_table(name));
    }
    // Measured on v0.23.3: `UnescapeID err: no outer backticks found in the identifier`, however the rule quotes the name.
    if table.name().contains('`') {
        let message = format!("vttablet cannot stream a table with a backtick in its name: `{}`", table.name());
        return Err(Error::new(ErrorKind::Unsupported, message).with_table(table.name()));
    }
    Ok(())
}

/// The columns of tables whose changes are to be followed, as they are now. A server that does not tell them is believed.
fn shapes(
    connection: &mut Connection,
    keyspace: &str,
    shards: &[String],
    tablet_type: TabletType,
    tables: &[Follow],
) -> Result<BTreeMap<(String, String), Shape>> {
    let mut shapes = BTreeMap::new();
    for shard in shards {
        let columns = server::columns(connection, keyspace, shard, tablet_type)?;
        for table in tables.iter().map(|follow| follow.table.name()) {
            if let Some(columns) = columns.get(table) {
                shapes.insert((table.to_owned(), shard.clone()), Shape::new(columns));
            }
        }
    }
    Ok(shapes)
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
    })
}

fn request(plan: &Plan, capture: &CaptureOptions, machine: &Machine) -> Result<proto::VStreamRequest> {
    let vgtid = proto::VGtid::parse_from_bytes(&machine.resume_from().encode())
        .map_err(|cause| Error::protocol("a position cannot be written as a VGTID").with_cause(cause))?;
    let mut request = proto::VStreamRequest::new();
    request.tablet_type = match capture.tablet_type() {
        TabletType::Primary => 1,
        TabletType::Replica => 2,
        TabletType::Rdonly => 3,
    };
    request.vgtid = MessageField::some(vgtid);
    let mut filter = proto::Filter::new();
    for table in machine.tables() {
        let mut rule = proto::Rule::new();
        rule.match_ = table.name().to_owned();
        // With an empty filter the copy works and the stream then fails at its first change.
        rule.filter = format!("select * from `{}`", table.name().replace('`', "``"));
        filter.rules.push(rule);
    }
    request.filter = MessageField::some(filter);
    let mut flags = proto::VStreamFlags::new();
    flags.heartbeat_interval = HEARTBEAT_SECONDS;
    flags.cells = capture.cells().join(",");
    request.flags = MessageField::some(flags);
    log::debug!("VStream of {} tables in keyspace `{}`", machine.tables().count(), plan.keyspace);
    Ok(request)
}
