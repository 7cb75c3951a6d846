//! Which shards serve, and what their tablets have executed: asked over MySQL, or else found by a stream.
//!
//! A front before vtgate may refuse the statements. A VStream from `current` then tells the shards and where each of them is, so that there is a
//! stop position; what the binary logs no longer hold stays unknown, and with it whether a stored position can be resumed from.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use protobuf::MessageField;

use super::event::{EventKind, read_response};
use super::proto;
use super::run::{HEARTBEAT_SECONDS, tablet_number};
use super::server;
use super::shape::Shape;
use super::transport::{Channel, Endpoint, Received};
use crate::cancel::{Cancel, TICK};
use crate::gtid::GtidSet;
use crate::options::{CaptureOptions, TabletType};
use crate::position::{ServerShard, Vgtid, judge};
use crate::retry::{Retry, first_connection};
use crate::schema::Table;
use crate::source::Source;
use crate::{Error, ErrorKind, PositionFault, Result, StoredPosition};

/// The serving shards that are to be read.
pub(super) struct Serving {
    pub(super) shards: Vec<ServerShard>,
    /// What the binary logs no longer hold is not known.
    pub(super) unchecked: bool,
}

/// Whom to ask.
pub(super) struct Inquiry<'a> {
    pub(super) source: &'a Source,
    pub(super) endpoint: &'a Endpoint,
    pub(super) capture: &'a CaptureOptions,
    pub(super) keyspace: &'a str,
    pub(super) cancel: &'a Cancel,
}

impl Inquiry<'_> {
    /// Asks over MySQL; where the server refuses the statements, reads the beginning of a stream.
    pub(super) fn serving(&self) -> Result<Serving> {
        let Self { source, capture, keyspace, cancel, .. } = *self;
        let asked_for = capture.shards();
        let named = source.with_connection(cancel, |connection| server::shards(connection, keyspace));
        let (shards, refusal) = match named {
            Ok(serving) => (chosen(keyspace, serving, asked_for)?, None),
            Err(refusal) if is_refusal(&refusal) => (asked_for.to_vec(), Some(refusal)),
            Err(error) => return Err(error),
        };
        let refusal = match refusal {
            Some(refusal) => refusal,
            None => match self.histories(&shards) {
                Ok(shards) => return Ok(Serving { shards, unchecked: false }),
                Err(refusal) if is_refusal(&refusal) => refusal,
                Err(error) => return Err(error),
            },
        };
        log::warn!("the server's history is read from a stream: {refusal:#}");
        Ok(Serving { shards: self.peek(&shards)?, unchecked: true })
    }

    /// The same, once it serves what the tables hold. A replica may be behind another one, or behind the primary, that an earlier run has read; the wait
    /// for it ends with `retry_timeout`, and the position is judged by what there is then.
    pub(super) fn serving_beyond(&self, tables: &[(Table, Option<StoredPosition>)]) -> Result<Serving> {
        let mut retry = Retry::new(self.source.options().retry_timeout());
        loop {
            let began = Instant::now();
            let serving = self.serving()?;
            if self.capture.tablet_type() == TabletType::Primary {
                return Ok(serving);
            }
            let is_beyond = |position: &Vgtid| {
                let fault = judge(position, self.keyspace, &serving.shards).err().and_then(|error| error.position_fault());
                matches!(fault, Some(PositionFault::Ahead | PositionFault::Foreign))
            };
            let behind = tables.iter().any(|(_, stored)| stored.as_ref().is_some_and(|stored| is_beyond(&stored.checkpoint.position)));
            if !behind || !retry.pause(began, self.cancel)? {
                return Ok(serving);
            }
            log::info!("a {} is behind the stored position", server::name_of(self.capture.tablet_type()));
        }
    }

    /// What these shards have executed by now.
    pub(super) fn executed(&self, shards: &[String]) -> Result<Vec<ServerShard>> {
        match self.histories(shards) {
            Err(refusal) if is_refusal(&refusal) => self.peek(shards),
            result => result,
        }
    }

    /// The columns of tables whose changes are to be followed, as they are now. A server that does not tell them is believed.
    pub(super) fn shapes(&self, shards: &[String], tables: &[String]) -> Result<BTreeMap<(String, String), Shape>> {
        let Self { source, capture, keyspace, cancel, .. } = *self;
        let mut shapes = BTreeMap::new();
        for shard in shards {
            let told = source.with_connection(cancel, |connection| server::columns(connection, keyspace, shard, capture.tablet_type()));
            let mut columns = match told {
                Ok(columns) => columns,
                Err(refusal) if is_refusal(&refusal) => continue,
                Err(error) => return Err(error),
            };
            for table in tables {
                if let Some(columns) = columns.remove(table) {
                    shapes.insert((table.clone(), shard.clone()), Shape::new(columns));
                }
            }
        }
        Ok(shapes)
    }

    /// Tables whose rows foreign keys change or delete where the binary log does not hold it, with the name of one such key. A server that does not tell is
    /// believed to have none.
    pub(super) fn cascades(&self) -> Result<BTreeMap<String, String>> {
        match self.source.with_connection(self.cancel, |connection| server::cascades(connection, self.keyspace)) {
            Err(refusal) if is_refusal(&refusal) => Ok(BTreeMap::new()),
            result => result,
        }
    }

    /// What the server says of its throttler, if it says anything.
    pub(super) fn throttler(&self) -> Option<String> {
        self.source.with_connection(self.cancel, |connection| server::throttler(connection, self.keyspace)).ok().flatten()
    }

    fn histories(&self, shards: &[String]) -> Result<Vec<ServerShard>> {
        let Self { source, capture, keyspace, cancel, .. } = *self;
        source.with_connection(cancel, |connection| server::histories(connection, keyspace, shards, capture.tablet_type()))
    }

    /// Streams from `current` until every shard has said where it is. No shards means all that serve.
    fn peek(&self, shards: &[String]) -> Result<Vec<ServerShard>> {
        if !self.endpoint.proven {
            return first_connection(self.cancel, || self.peek_once(shards));
        }
        let mut retry = Retry::new(self.source.options().retry_timeout());
        loop {
            let began = Instant::now();
            let error = match self.peek_once(shards) {
                Err(error) if error.is_transient() => error,
                result => return result,
            };
            if !retry.pause(began, self.cancel)? {
                return Err(error);
            }
        }
    }

    fn peek_once(&self, shards: &[String]) -> Result<Vec<ServerShard>> {
        let limit = self.capture.no_progress_timeout();
        let deadline = Instant::now() + limit;
        let mut stream = Channel::connect(self.endpoint, self.cancel)?.vstream(&self.request(shards))?;
        loop {
            self.cancel.check()?;
            match stream.receive(Instant::now() + TICK)? {
                Received::Message(message) => {
                    let mut found = None;
                    read_response(&message, |event| {
                        if let EventKind::Vgtid(vgtid) = &event.kind {
                            found = self.executed_by(vgtid)?;
                        }
                        Ok(())
                    })?;
                    if let Some(found) = found {
                        return Ok(found);
                    }
                }
                Received::TimedOut if Instant::now() >= deadline => return Err(self.silent(limit)),
                Received::TimedOut => {}
                Received::Ended => {
                    let message = format!("vtgate ended the stream before it said where keyspace `{}` is", self.keyspace);
                    return Err(Error::new(ErrorKind::Connect, message));
                }
            }
        }
    }

    fn silent(&self, limit: Duration) -> Error {
        let message = format!("vtgate did not say within {limit:?} where the shards of keyspace `{}` are", self.keyspace);
        Error::new(ErrorKind::Timeout, message)
    }

    /// `None` while one of the shards has not reported: its GTID is still the word that was sent.
    fn executed_by(&self, vgtid: &Vgtid) -> Result<Option<Vec<ServerShard>>> {
        if vgtid.shards().iter().any(|shard| shard.shard().is_empty() || matches!(shard.gtid(), "" | "current")) {
            return Ok(None);
        }
        let mut shards = Vec::with_capacity(vgtid.shards().len());
        for shard in vgtid.shards() {
            if shard.keyspace() != self.keyspace {
                let message = format!("a stream of keyspace `{}` brought a VGTID of keyspace `{}`", self.keyspace, shard.keyspace());
                return Err(Error::protocol(message));
            }
            let shard_name = shard.shard().to_owned();
            shards.push(ServerShard { shard: shard_name, executed: shard.gtid_set()?, purged: GtidSet::default() });
        }
        Ok(Some(shards))
    }

    fn request(&self, shards: &[String]) -> proto::VStreamRequest {
        let at = |shard: &str| proto::ShardGtid {
            keyspace: self.keyspace.to_owned(),
            shard: shard.to_owned(),
            gtid: "current".to_owned(),
            ..Default::default()
        };
        let shard_gtids = if shards.is_empty() { vec![at("")] } else { shards.iter().map(|shard| at(shard)).collect() };
        let mut request = proto::VStreamRequest::new();
        request.tablet_type = tablet_number(self.capture.tablet_type());
        request.vgtid = MessageField::some(proto::VGtid { shard_gtids, ..Default::default() });
        // A name that no table has: only positions are wanted. Where a position is given, the server does not look for the table.
        let rule = proto::Rule { match_: NOTHING.to_owned(), filter: format!("select * from `{NOTHING}`"), ..Default::default() };
        request.filter = MessageField::some(proto::Filter { rules: vec![rule], ..Default::default() });
        let flags =
            proto::VStreamFlags { heartbeat_interval: HEARTBEAT_SECONDS, cells: self.capture.cells().join(","), ..Default::default() };
        request.flags = MessageField::some(flags);
        request
    }
}

/// What no table is called.
const NOTHING: &str = "_ingest_nothing";

/// Whether the server understood and declined, as opposed to a connection or an answer that failed.
fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Source | ErrorKind::Unsupported)
}

fn chosen(keyspace: &str, serving: Vec<String>, asked_for: &[String]) -> Result<Vec<String>> {
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
