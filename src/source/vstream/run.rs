//! The blocking loop behind [`Changes`]: it moves bytes between vtgate and the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use protobuf::{Message as _, MessageField};

use crate::cancel::Cancel;
use crate::change::{Change, ChangeBatch};
use crate::gtid::GtidSet;
use crate::options::{CaptureMode, CaptureOptions, GrpcCredentials, SourceOptions, TabletType};
use crate::position::{ServerShard, judge, list};
use crate::schema::{Column, Table};
use crate::sink::checkpoint::StoredPosition;
use crate::source::Source;
use crate::source::vstream::agenda::{Agenda, Next};
use crate::source::vstream::event::{EventKind, read_response};
use crate::source::vstream::machine::{Machine, Plan};
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
    keyspace: String,
    agenda: Agenda,
    running: Option<Running>,
    /// The tables as the server declared them when the run began. A destination may lack columns that were added since it was written: those
    /// show in the stream when their time comes, or else at its end.
    declared: BTreeMap<String, Table>,
    ended: bool,
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
        let plan = Plan { keyspace: keyspace.clone(), shards, ordinal: request.ordinal, now: now()?, transaction_bytes: TRANSACTION_BYTES };
        let mode = request.mode.unwrap_or(capture.mode());
        let mut agenda = Agenda::new(plan, stop_position(&serving), mode == CaptureMode::Stream);
        let mut declared = BTreeMap::new();
        for (table, resume) in request.tables {
            check_table(&table)?;
            declared.insert(table.name().to_owned(), table.clone());
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
            let table = columns.map_or(table.clone(), |columns| table.restricted_to(&columns));
            agenda.add(Arc::new(table), Some((checkpoint, fit)));
        }
        Ok(Self { endpoint, capture, mode, source, cancel, keyspace, agenda, running: None, declared, ended: false })
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

    /// Starts the next machine. `false` if there is nothing left to do.
    fn begin(&mut self) -> Result<bool> {
        let Some(Next { machine, is_last }) = self.agenda.next()? else { return Ok(false) };
        let now = Instant::now();
        self.running = Some(Running { machine, stream: None, is_last, last_taken: now, last_progress: now, heard: false, failures: 0 });
        Ok(true)
    }

    /// Takes the last batch out of a machine that has ended, and notes where its tables stand.
    fn finish(&mut self) -> Result<ChangeBatch> {
        let Some(running) = self.running.take() else { return Err(Error::protocol("no stream is running")) };
        let Running { mut machine, stream, is_last, .. } = running;
        // The call ends before the batch is written, so that no tablet waits for a destination.
        drop(stream);
        let mut batch = machine.take_all();
        let mut appended = if is_last { self.columns_not_seen(&machine) } else { Vec::new() };
        batch.changes.append(&mut appended);
        for table in self.complete_columns(&mut batch)? {
            batch.checkpoints = machine.copy_anew_by_name(&table, COMPUTED);
            batch.changes.extend(machine.take_all().changes);
        }
        if let Some(shards) = self.agenda.finish(machine, is_last, &mut batch) {
            // A reshard within this run: the next machine goes to where the new shards are now.
            let tablet_type = self.capture.tablet_type();
            let serving = self.source.with_connection(|connection| server::histories(connection, &self.keyspace, &shards, tablet_type))?;
            self.agenda.stop_at(stop_position(&serving));
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
            let request = request(&self.keyspace, &self.capture, &running.machine)?;
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
        if failed.position_fault() == Some(PositionFault::Shards) {
            return Err(self.shards_are_gone(failed));
        }
        if !failed.is_transient() {
            return Err(failed);
        }
        running.machine.connection_lost()?;
        self.back_off(failed)
    }

    /// Names the shards of the position and those that serve where vtgate names one at most.
    fn shards_are_gone(&self, cause: Error) -> Error {
        let keyspace = &self.keyspace;
        let old = self.running.as_ref().map_or(self.agenda.shards(), |running| running.machine.shards());
        let old: BTreeSet<&str> = old.iter().map(String::as_str).collect();
        let serving = self.source.with_connection(|connection| server::shards(connection, keyspace)).unwrap_or_default();
        let new: BTreeSet<&str> = serving.iter().map(String::as_str).collect();
        let message = format!(
            "cannot resume: the stored position is of the shards {}, which keyspace `{keyspace}` does not have any more; it has {}; rebuild the \
             table with full_refresh",
            list(&old),
            list(&new)
        );
        Error::position_fault_of(PositionFault::Shards, message).with_cause(cause)
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
        let keyspace = &self.keyspace;
        let (shards, tablet_type) = (running.machine.shards(), self.capture.tablet_type());
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
        let message = format!(
            "no event came for {seconds} s although shard {} has more to send: {link}, so the tablet is throttled or stalled",
            behind.join(", ")
        );
        Err(Error::new(ErrorKind::Timeout, message).with_shard(behind[0]))
    }

    /// Asks for what rows written before a new column hold in it. Tables where only the server can compute that are named.
    fn complete_columns(&self, batch: &mut ChangeBatch) -> Result<Vec<String>> {
        let mut computed = Vec::new();
        for change in &mut batch.changes {
            let Change::Columns { table, added } = change else { continue };
            for (column, default) in added {
                let keyspace = &self.keyspace;
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

fn request(keyspace: &str, capture: &CaptureOptions, machine: &Machine) -> Result<proto::VStreamRequest> {
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
    log::debug!("VStream of {} tables in keyspace `{keyspace}`", machine.tables().count());
    Ok(request)
}
