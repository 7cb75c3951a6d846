//! Positions in a VStream: what they consist of, how they are stored, and whether a server can resume from one.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::error::{Error, ErrorKind, PositionFault, Result};
use crate::gtid::{FLAVOUR, GtidSet};
use crate::keyrange::is_reshard;
use crate::wire::{Field, Reader, Writer};

/// A VGTID: one GTID set for each shard of a keyspace, with the last PKs of the tables that are being copied.
///
/// The message `binlogdata.VGtid` of Vitess's `proto/binlogdata.proto`. Shards keep the order in which the server sent them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Vgtid {
    shards: Vec<ShardGtid>,
}

/// How far one shard has been read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ShardGtid {
    keyspace: String,
    shard: String,
    gtid: String,
    last_pks: Vec<LastPk>,
}

/// How far one table has been copied: the primary key of the last row that was sent.
///
/// `Debug` prints how long the key is, not the key, because a primary key is a value of a row.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LastPk {
    table: String,
    last_pk: Option<Vec<u8>>,
}

impl Vgtid {
    /// A VGTID of these shards.
    pub fn new(shards: Vec<ShardGtid>) -> Self {
        Self { shards }
    }

    /// The shards, in the order in which the server sent them.
    pub fn shards(&self) -> &[ShardGtid] {
        &self.shards
    }

    /// Takes the shards out.
    pub fn into_shards(self) -> Vec<ShardGtid> {
        self.shards
    }

    /// The names of the shards.
    pub(crate) fn shard_names(&self) -> BTreeSet<&str> {
        self.shards.iter().map(ShardGtid::shard).collect()
    }

    /// Where one shard stands.
    pub fn get(&self, keyspace: &str, shard: &str) -> Option<&ShardGtid> {
        self.shards.iter().find(|at| at.keyspace == keyspace && at.shard == shard)
    }

    /// Reads the protobuf message `binlogdata.VGtid`. Fields that this crate does not know are left out.
    ///
    /// # Errors
    /// [`Protocol`](ErrorKind::Protocol) if the bytes are not such a message.
    pub fn decode(message: &[u8]) -> Result<Self> {
        let mut shards = Vec::new();
        let mut reader = Reader::new(message);
        while let Some((number, field)) = reader.next()? {
            if number == 1 {
                shards.push(ShardGtid::decode(bytes(field)?)?);
            }
        }
        Ok(Self { shards })
    }

    /// Writes the protobuf message `binlogdata.VGtid`.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        for shard in &self.shards {
            writer.bytes_field(1, &shard.encode());
        }
        writer.finish()
    }
}

impl FromIterator<ShardGtid> for Vgtid {
    fn from_iter<I: IntoIterator<Item = ShardGtid>>(shards: I) -> Self {
        Self::new(shards.into_iter().collect())
    }
}

impl ShardGtid {
    /// A shard at a GTID set as the server writes it: `MySQL56/…`, or empty where the copy has yet to begin, or `current`.
    pub fn new(keyspace: impl Into<String>, shard: impl Into<String>, gtid: impl Into<String>) -> Self {
        Self { keyspace: keyspace.into(), shard: shard.into(), gtid: gtid.into(), last_pks: Vec::new() }
    }

    /// Replaces the last PKs. Default: none, which means that no copy is under way.
    #[must_use]
    pub fn with_last_pks(mut self, last_pks: Vec<LastPk>) -> Self {
        self.last_pks = last_pks;
        self
    }

    /// The keyspace, as in `commerce`.
    pub fn keyspace(&self) -> &str {
        &self.keyspace
    }

    /// The shard, as in `-80`, `80-` or `0`.
    pub fn shard(&self) -> &str {
        &self.shard
    }

    /// The GTID set's text as the server sent it; [`gtid_set`](Self::gtid_set) reads it.
    ///
    /// Empty where the copy has yet to begin: a resume from there copies from the start. `current` where a stream that was asked to begin
    /// at the present has not reported yet: a resume from there would lose what happened in between.
    pub fn gtid(&self) -> &str {
        &self.gtid
    }

    /// Reads [`gtid`](Self::gtid). Empty text is the empty set.
    ///
    /// # Errors
    /// [`Position`](ErrorKind::Position) with [`Unreadable`](PositionFault::Unreadable), also for `current`, which names no transactions.
    pub fn gtid_set(&self) -> Result<GtidSet> {
        GtidSet::parse(&self.gtid).map_err(|error| error.with_shard(&self.shard))
    }

    /// How far each table is copied; a table that is finished or not begun has no entry.
    pub fn last_pks(&self) -> &[LastPk] {
        &self.last_pks
    }

    fn decode(message: &[u8]) -> Result<Self> {
        let mut shard = Self::default();
        let mut reader = Reader::new(message);
        while let Some((number, field)) = reader.next()? {
            match number {
                1 => shard.keyspace = text(field)?,
                2 => shard.shard = text(field)?,
                3 => shard.gtid = text(field)?,
                4 => shard.last_pks.push(LastPk::decode(bytes(field)?)?),
                _ => {}
            }
        }
        Ok(shard)
    }

    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        // The protocol leaves empty text out.
        for (number, text) in [(1, &self.keyspace), (2, &self.shard), (3, &self.gtid)] {
            if !text.is_empty() {
                writer.bytes_field(number, text.as_bytes());
            }
        }
        for last_pk in &self.last_pks {
            writer.bytes_field(4, &last_pk.encode());
        }
        writer.finish()
    }
}

impl LastPk {
    /// A table's bare name, without keyspace, and the message `query.QueryResult` that the server sent for it.
    ///
    /// The message has to be whole, with its fields: servers from v21 on refuse one without them. `None` asks for a copy from the start.
    pub fn new(table: impl Into<String>, last_pk: Option<Vec<u8>>) -> Self {
        Self { table: table.into(), last_pk }
    }

    /// The table's bare name.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The encoded `query.QueryResult`, as the server sent it.
    pub fn last_pk(&self) -> Option<&[u8]> {
        self.last_pk.as_deref()
    }

    /// The names of the columns that it has values of. None if the server did not send the fields with it: older servers did not, and newer ones refuse
    /// such a last PK, so nothing goes on from it.
    pub(crate) fn columns(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut reader = Reader::new(self.last_pk.as_deref().unwrap_or_default());
        while let Ok(Some((number, field))) = reader.next() {
            if let (1, Field::Bytes(column)) = (number, field) {
                let mut name = String::new();
                let mut reader = Reader::new(column);
                while let Ok(Some((number, field))) = reader.next() {
                    if let (1, Field::Bytes(bytes)) = (number, field) {
                        name = String::from_utf8_lossy(bytes).into_owned();
                    }
                }
                names.push(name);
            }
        }
        names
    }

    fn decode(message: &[u8]) -> Result<Self> {
        let mut last_pk = Self::new(String::new(), None);
        let mut reader = Reader::new(message);
        while let Some((number, field)) = reader.next()? {
            match number {
                1 => last_pk.table = text(field)?,
                // A nested message that comes in parts is the parts one after the other.
                3 => last_pk.last_pk.get_or_insert_default().extend_from_slice(bytes(field)?),
                _ => {}
            }
        }
        Ok(last_pk)
    }

    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        if !self.table.is_empty() {
            writer.bytes_field(1, self.table.as_bytes());
        }
        if let Some(last_pk) = &self.last_pk {
            writer.bytes_field(3, last_pk);
        }
        writer.finish()
    }
}

impl fmt::Debug for LastPk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.last_pk.as_ref().map(Vec::len);
        f.debug_struct("LastPk").field("table", &self.table).field("last_pk_bytes", &bytes).finish()
    }
}

/// What stands in the column `_cdc_lsn`: text whose order is the order of the stream.
///
/// A 20-digit ordinal (of the commit), `:`, a 6-digit row number within it, `:`, and the payload: the [`Vgtid`] with a checksum, as base64url
/// without padding, on the last row of those that were written at once, `-` on the others. For example `00000000000000000042:000001:-`. The
/// order of this type is the order of the texts. A payload without checksum is read as well.
///
/// While a table is being copied, the payload holds the last PK, which is a value of a row: treat the text as data. `Debug` leaves it out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lsn {
    ordinal: u64,
    row: u32,
    payload: Option<Vgtid>,
}

impl Lsn {
    /// The greatest row number. A commit with more rows goes on under the next ordinal.
    pub const MAX_ROW: u32 = 999_999;

    /// The first row of the commit with this ordinal, without payload.
    pub fn new(ordinal: u64) -> Self {
        Self { ordinal, row: 0, payload: None }
    }

    /// Attaches the VGTID that includes the commit. Default: none. A VGTID without shards names no position and is left out.
    #[must_use]
    pub fn with_payload(mut self, payload: Vgtid) -> Self {
        self.payload = Some(payload).filter(|vgtid| !vgtid.shards.is_empty());
        self
    }

    /// Which commit, counted on from the greatest ordinal in the table.
    pub fn ordinal(&self) -> u64 {
        self.ordinal
    }

    /// Which row within the ordinal, 0 to [`MAX_ROW`](Self::MAX_ROW).
    pub fn row(&self) -> u32 {
        self.row
    }

    /// The position after the commit, on its last row.
    pub fn payload(&self) -> Option<&Vgtid> {
        self.payload.as_ref()
    }

    /// Takes the position out.
    pub fn into_payload(self) -> Option<Vgtid> {
        self.payload
    }

    /// The next row of the same commit, without payload: after row 999,999 row 0 of the next ordinal.
    ///
    /// # Errors
    /// [`Limit`](ErrorKind::Limit) if there is no next ordinal.
    pub fn next_row(&self) -> Result<Self> {
        if self.row < Self::MAX_ROW { Ok(Self { ordinal: self.ordinal, row: self.row + 1, payload: None }) } else { self.next_ordinal() }
    }

    /// The first row of the next commit, without payload.
    ///
    /// # Errors
    /// [`Limit`](ErrorKind::Limit) if there is no next ordinal.
    pub fn next_ordinal(&self) -> Result<Self> {
        let ordinal = self.ordinal.checked_add(1).ok_or_else(|| {
            Error::new(
                ErrorKind::Limit,
                "the ordinals of `_cdc_lsn` are used up: the stored one is damaged; rebuild the table with full_refresh",
            )
        })?;
        Ok(Self::new(ordinal))
    }

    /// Reads the text of a `_cdc_lsn`.
    ///
    /// # Errors
    /// [`Position`](ErrorKind::Position) with [`Unreadable`](PositionFault::Unreadable).
    pub fn parse(text: &str) -> Result<Self> {
        fn unreadable(what: &str) -> Error {
            let message = format!("the position in `_cdc_lsn` cannot be read: {what}; rebuild the table with full_refresh");
            Error::position_fault_of(PositionFault::Unreadable, message)
        }
        let mut parts = text.splitn(3, ':');
        let (Some(ordinal), Some(row), Some(payload)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(unreadable("it does not have the three parts ordinal, row and payload"));
        };
        let ordinal = parse_digits(ordinal, 20).ok_or_else(|| unreadable("its ordinal is not a number of 20 digits below 2^64"))?;
        let row = parse_digits(row, 6)
            .and_then(|row| u32::try_from(row).ok())
            .ok_or_else(|| unreadable("its row is not a number of 6 digits"))?;
        let payload = match payload {
            "-" => None,
            "" => return Err(unreadable("its payload is empty, which is neither `-` nor a VGTID")),
            encoded => {
                let message = BASE64_URL_SAFE_NO_PAD
                    .decode(encoded)
                    // The decoder's own error quotes a byte of the payload.
                    .map_err(|_| unreadable("its payload is neither `-` nor base64url without padding"))?;
                let message =
                    without_checksum(&message).ok_or_else(|| unreadable("its payload does not have the checksum that it names"))?;
                let vgtid = Vgtid::decode(message).map_err(|error| unreadable("its payload is not a VGTID").with_cause(error))?;
                if vgtid.shards.is_empty() {
                    return Err(unreadable("its payload is a VGTID without shards"));
                }
                Some(vgtid)
            }
        };
        Ok(Self { ordinal, row, payload })
    }

    fn payload_text(&self) -> Option<String> {
        self.payload.as_ref().map(|vgtid| BASE64_URL_SAFE_NO_PAD.encode(with_checksum(&vgtid.encode())))
    }
}

/// The field of a stored VGTID that holds the CRC-32 of all that follows it. Vitess knows no such field and skips it; a number from 50,000 on is
/// nobody's but an organisation's own.
///
/// It stands first, so that no base64 letter holds bits of the field's key and of the VGTID at once: whoever changes a letter changes a
/// checksum that is still found, or nothing that matters.
const CHECKSUM_FIELD: u32 = 50_000;

fn with_checksum(vgtid: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.bytes_field(CHECKSUM_FIELD, &crc32fast::hash(vgtid).to_le_bytes());
    let mut message = writer.finish();
    message.extend_from_slice(vgtid);
    message
}

/// The VGTID after its checksum, or all of a message that has none, as other tools write it; `None` if the checksum is another's.
fn without_checksum(message: &[u8]) -> Option<&[u8]> {
    let empty = with_checksum(&[]);
    let Some((head, vgtid)) = message.split_at_checked(empty.len()) else { return Some(message) };
    let (key, sum) = head.split_at(empty.len() - 4);
    if key != &empty[..key.len()] {
        return Some(message);
    }
    (sum == crc32fast::hash(vgtid).to_le_bytes()).then_some(vgtid)
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}:{:06}:", self.ordinal, self.row)?;
        f.write_str(self.payload_text().as_deref().unwrap_or("-"))
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl Ord for Lsn {
    fn cmp(&self, other: &Self) -> Ordering {
        // Encoding is only for two payloads at the same row, which one table does not have. None sorts first, as `-` does: the texts of
        // all VGTIDs begin with the letters of the checksum's key.
        (self.ordinal, self.row)
            .cmp(&(other.ordinal, other.row))
            .then_with(|| if self.payload == other.payload { Ordering::Equal } else { self.payload_text().cmp(&other.payload_text()) })
    }
}

impl PartialOrd for Lsn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A serving shard and what its server says of its history.
#[derive(Debug, Clone)]
pub(crate) struct ServerShard {
    pub(crate) shard: String,
    /// `@@global.gtid_executed`.
    pub(crate) executed: GtidSet,
    /// `@@global.gtid_purged`: what the binary logs no longer hold.
    pub(crate) purged: GtidSet,
}

/// Judges whether `keyspace`, whose serving shards are `server`, can resume from `stored` without a gap.
///
/// The client has to do this: vtgate answers a position that is purged, ahead or of a foreign history with heartbeats, and after 90 s with
/// an error that names another cause. A shard whose GTID is empty has yet to begin its copy, so any history will do for it.
///
/// # Errors
/// [`Position`](ErrorKind::Position), with the fault that is found first, in the order of [`PositionFault`], except that a foreign history
/// is found before one that is ahead and that before a purged one.
pub(crate) fn judge(stored: &Vgtid, keyspace: &str, server: &[ServerShard]) -> Result<Fit> {
    let fault = |fault, message: String| Error::position_fault_of(fault, message + WAY_OUT);
    if stored.shards.is_empty() {
        return Err(fault(PositionFault::Unreadable, "cannot resume: the stored position holds no shards".into()));
    }
    if let Some(other) = stored.shards.iter().find(|shard| shard.keyspace != keyspace) {
        let message = format!("cannot resume in keyspace `{keyspace}`: the stored position belongs to keyspace `{}`", other.keyspace);
        return Err(fault(PositionFault::Keyspace, message));
    }
    let old = stored.shard_names();
    if old.len() < stored.shards.len() {
        return Err(fault(PositionFault::Unreadable, "cannot resume: the stored position names a shard twice".into()));
    }
    let new: BTreeSet<_> = server.iter().map(|shard| shard.shard.as_str()).collect();
    if old != new && !is_reshard(&old, &new) {
        let message =
            format!("cannot resume: the stored position is of the shards {}, but the serving shards are {}", list(&old), list(&new));
        return Err(fault(PositionFault::Shards, message));
    }
    // All are read before any is compared: what a text means does not depend on the server.
    let mut sets = Vec::with_capacity(stored.shards.len());
    for shard in stored.shards.iter().filter(|shard| !shard.gtid.is_empty()) {
        let set = parse_stored(shard).map_err(|cause| {
            fault(PositionFault::Unreadable, format!("cannot resume on shard `{}`: its stored GTID set cannot be read", shard.shard))
                .with_shard(&shard.shard)
                .with_cause(cause)
        })?;
        sets.push((shard, set));
    }
    for (shard, set) in sets {
        let name = &shard.shard;
        let Some(server) = server.iter().find(|server| server.shard == *name) else { continue };
        judge_shard(&set, server)
            .map_err(|(kind, what)| fault(kind, format!("cannot resume on shard `{name}`: {what}")).with_shard(name))?;
    }
    Ok(if old == new { Fit::Same } else { Fit::Resharded })
}

/// How the shards of a position that can be resumed from are related to those that serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// They are the same.
    Same,
    /// They were split or merged into those that serve. vtgate goes on from such a position, and over to the new shards, as long as the old ones
    /// are still there; their history cannot be compared, since their tablets refuse queries.
    Resharded,
}

const WAY_OUT: &str = "; rebuild the table with full_refresh";

fn judge_shard(stored: &GtidSet, server: &ServerShard) -> Result<(), (PositionFault, String)> {
    let missing = stored.subtract(&server.executed);
    let foreign = missing.of_servers_unknown_to(&server.executed);
    if !foreign.is_empty() {
        let what = format!("the stored position holds {} of a server whose changes this one has never had", foreign.abbreviated());
        return Err((PositionFault::Foreign, what));
    }
    if !missing.is_empty() {
        let what = format!("the stored position holds {}, which the server has not executed", missing.abbreviated());
        return Err((PositionFault::Ahead, what));
    }
    let lost = server.purged.subtract(stored);
    if !lost.is_empty() {
        return Err((PositionFault::Purged, format!("the binlog no longer holds {}", lost.abbreviated())));
    }
    Ok(())
}

/// Stricter than [`GtidSet::parse`], by what the server takes: a flavour with an empty set, or none, it refuses.
fn parse_stored(shard: &ShardGtid) -> Result<GtidSet> {
    let unreadable = |what: &str| Error::position_fault_of(PositionFault::Unreadable, what);
    if shard.gtid == "current" {
        return Err(unreadable("`current` names no transactions: the shard had not reported when the position was stored"));
    }
    let set = GtidSet::parse(&shard.gtid)?;
    if !shard.gtid.starts_with(FLAVOUR) {
        return Err(unreadable("the GTID set has no flavour: expected `MySQL56/`"));
    }
    if set.is_empty() {
        return Err(unreadable("the GTID set holds no transactions"));
    }
    Ok(set)
}

/// Names of shards as a set: their order says nothing.
pub(crate) fn set_of(shards: &[String]) -> BTreeSet<&str> {
    shards.iter().map(String::as_str).collect()
}

/// Names of shards for a message; a large keyspace has hundreds.
pub(crate) fn list(shards: &BTreeSet<&str>) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<_> = shards.iter().take(SHOWN).map(|shard| format!("`{shard}`")).collect();
    match shards.len().saturating_sub(SHOWN) {
        _ if shards.is_empty() => "(none)".into(),
        0 => shown.join(", "),
        hidden => format!("{} and {hidden} more", shown.join(", ")),
    }
}

/// Exactly `width` decimal digits.
fn parse_digits(text: &str, width: usize) -> Option<u64> {
    // `str::parse` alone would take a leading plus sign.
    (text.len() == width && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

fn bytes(field: Field<'_>) -> Result<&[u8]> {
    match field {
        Field::Bytes(bytes) => Ok(bytes),
        Field::Varint(_) | Field::Fixed64(_) | Field::Fixed32(_) => {
            Err(Error::protocol("a VGTID has a number where text or a message belongs"))
        }
    }
}

fn text(field: Field<'_>) -> Result<String> {
    let text = std::str::from_utf8(bytes(field)?);
    // The decoder's own error says where the text breaks, and nothing of what it says.
    text.map(String::from).map_err(|error| Error::protocol("a VGTID has text that is not UTF-8").with_cause(error))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gtid::tests::set;

    /// `shard gtid`, in keyspace `shop`; `A` and `B` are servers.
    fn stored(shards: &[(&str, &str)]) -> Vgtid {
        let gtid = |text: &str| match text.strip_prefix("MySQL56/") {
            Some(text) => set(text).to_vitess(),
            None => text.to_owned(),
        };
        shards.iter().map(|(shard, text)| ShardGtid::new("shop", *shard, gtid(text))).collect()
    }

    fn server(shards: &[(&str, &str, &str)]) -> Vec<ServerShard> {
        shards
            .iter()
            .map(|(shard, executed, purged)| ServerShard { shard: (*shard).into(), executed: set(executed), purged: set(purged) })
            .collect()
    }

    #[test]
    fn positions_that_lose_nothing_are_resumed_from() {
        let one = |gtid, executed, purged| (stored(&[("0", gtid)]), server(&[("0", executed, purged)]));
        let cases = [
            one("MySQL56/A:1-5", "A:1-5", ""),
            one("MySQL56/A:1-5", "A:1-9,B:1", ""),
            // Exactly at the end of what is purged.
            one("MySQL56/A:1-5", "A:1-9", "A:1-5"),
            one("MySQL56/A:1-5", "A:1-9", "A:1-4"),
            one("MySQL56/A:1-5:blue:1", "A:1-9:blue:1-2", "A:1-4:blue:1"),
            // After a failover the position has the old server's transactions and the new one's.
            one("MySQL56/A:1-5,B:1", "A:1-5,B:1-3", "A:1-3"),
            // Not begun: nothing that could be lost.
            one("", "A:1-9", "A:1-8"),
            (stored(&[("80-", ""), ("-80", "MySQL56/A:1")]), server(&[("-80", "A:1-2", ""), ("80-", "B:1-9", "B:1-9")])),
        ];
        for (stored, server) in cases {
            let fit = judge(&stored, "shop", &server).unwrap_or_else(|error| panic!("{stored:?}: {error}"));
            assert_eq!(fit, Fit::Same);
        }
    }

    #[test]
    fn a_position_of_shards_that_were_resharded_is_compared_where_shards_still_serve() {
        let split = server(&[("-40", "A:1-9", "A:1-9"), ("40-80", "A:1", ""), ("80-", "B:1-9", "B:1-5")]);
        for gtid in ["MySQL56/B:1-5", "MySQL56/B:1-9", ""] {
            assert_eq!(judge(&stored(&[("-80", "MySQL56/A:1-5"), ("80-", gtid)]), "shop", &split).unwrap(), Fit::Resharded);
        }
        for (gtid, fault) in [("MySQL56/B:1-4", PositionFault::Purged), ("MySQL56/B:1-10", PositionFault::Ahead)] {
            let error = judge(&stored(&[("-80", "MySQL56/A:1-5"), ("80-", gtid)]), "shop", &split).unwrap_err();
            assert_eq!((error.position_fault(), error.shard()), (Some(fault), Some("80-")));
        }
        let merged = server(&[("0", "A:1-9", "")]);
        assert_eq!(judge(&stored(&[("-80", "MySQL56/A:1"), ("80-", "MySQL56/B:1")]), "shop", &merged).unwrap(), Fit::Resharded);
    }

    #[test]
    fn positions_that_would_lose_changes_are_refused_by_kind() {
        use PositionFault::{Ahead, Foreign, Purged, Shards, Unreadable};
        const A: &str = "0a000000-0000-0000-0000-000000000001";
        const B: &str = "b0000000-0000-0000-0000-000000000002";
        let two = server(&[("-80", "A:1-9", "A:1-3"), ("80-", "A:1-9,B:1-9", "")]);
        type Case = (&'static [(&'static str, &'static str)], PositionFault, Option<&'static str>, &'static [&'static str]);
        let cases: [Case; 17] = [
            (&[], Unreadable, None, &["holds no shards"]),
            (&[("-80", ""), ("80-", ""), ("-80", "")], Unreadable, None, &["names a shard twice"]),
            (&[("-40", "MySQL56/A:1-5")], Shards, None, &["of the shards `-40`, but the serving shards are `-80`, `80-`"]),
            (&[("80-", "MySQL56/A:1-5")], Shards, None, &["of the shards `80-`, but"]),
            (&[("-80", ""), ("80-", ""), ("0", "")], Shards, None, &["of the shards `-80`, `0`, `80-`, but"]),
            (&[("-80", "current"), ("80-", "")], Unreadable, Some("-80"), &["`current` names no transactions"]),
            (&[("-80", "rubbish"), ("80-", "")], Unreadable, Some("-80"), &["malformed server UUID"]),
            (&[("-80", "MariaDB/0-1-2"), ("80-", "")], Unreadable, Some("-80"), &["flavour `MariaDB`"]),
            (&[("-80", ""), ("80-", "MySQL56/")], Unreadable, Some("80-"), &["holds no transactions"]),
            (&[("-80", ""), ("80-", " ")], Unreadable, Some("80-"), &["no flavour"]),
            // Before the comparison of any shard.
            (&[("-80", "MySQL56/A:1-99"), ("80-", "rubbish")], Unreadable, Some("80-"), &["malformed"]),
            (&[("-80", "MySQL56/A:1-10"), ("80-", "")], Ahead, Some("-80"), &[A, ":10`, which the server has not executed"]),
            (&[("-80", "MySQL56/A:1-5,B:4"), ("80-", "")], Foreign, Some("-80"), &[B, ":4` of a server"]),
            // Foreign in part and ahead in part: the history is the stronger fact.
            (&[("-80", "MySQL56/A:1-10,B:4"), ("80-", "")], Foreign, Some("-80"), &[B]),
            (&[("-80", "MySQL56/A:1-2"), ("80-", "")], Purged, Some("-80"), &["the binlog no longer holds", A, ":3`"]),
            (&[("-80", "MySQL56/A:2-5"), ("80-", "")], Purged, Some("-80"), &["the binlog no longer holds", A, ":1`"]),
            (&[("-80", "MySQL56/A:1-5"), ("80-", "MySQL56/B:10")], Ahead, Some("80-"), &[B, ":10`"]),
        ];
        for (shards, fault, shard, fragments) in cases {
            let error = judge(&stored(shards), "shop", &two).unwrap_err();
            assert_eq!(error.position_fault(), Some(fault), "{shards:?}: {error}");
            assert_eq!(error.shard(), shard, "{shards:?}");
            let text = format!("{error:#}");
            for fragment in fragments.iter().chain(&["cannot resume", "full_refresh"]) {
                assert!(text.contains(fragment), "{shards:?}: {text}");
            }
        }
    }

    #[test]
    fn a_stored_gtid_set_without_flavour_is_unreadable_to_the_server() {
        let bare = Vgtid::new(vec![ShardGtid::new("shop", "0", set("A:1").to_string())]);
        let error = judge(&bare, "shop", &server(&[("0", "A:1-9", "")])).unwrap_err();
        assert_eq!(error.position_fault(), Some(PositionFault::Unreadable));
        assert!(format!("{error:#}").contains("expected `MySQL56/`"));
    }

    #[test]
    fn another_keyspace_is_named_before_its_shards() {
        let error = judge(&stored(&[("0", "MySQL56/A:1")]), "museum", &server(&[("-80", "A:1", "")])).unwrap_err();
        assert_eq!(error.position_fault(), Some(PositionFault::Keyspace));
        assert_eq!(
            error.to_string(),
            "cannot resume in keyspace `museum`: the stored position belongs to keyspace `shop`; rebuild the table with full_refresh"
        );
    }

    #[test]
    fn purged_transactions_are_named_in_one_sentence() {
        let error = judge(&stored(&[("-80", "MySQL56/A:1-2")]), "shop", &server(&[("-80", "A:1-30", "A:1:3:5:7-9:11:13-20")])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot resume on shard `-80`: the binlog no longer holds `0a000000-0000-0000-0000-000000000001:3:5:7-9:11` \
             and 1 more interval; rebuild the table with full_refresh"
        );
    }

    #[test]
    fn many_shards_are_counted_in_the_message() {
        let names: Vec<_> = (0..10).map(|at| at.to_string()).collect();
        let stored: Vgtid = names.iter().map(|name| ShardGtid::new("shop", name, "")).collect();
        let error = judge(&stored, "shop", &[]).unwrap_err();
        assert!(
            error.to_string().contains("`0`, `1`, `2`, `3`, `4`, `5`, `6`, `7` and 2 more, but the serving shards are (none)"),
            "{error}"
        );
    }

    #[test]
    fn a_vgtid_is_read_as_vitess_encodes_it() {
        let message = b"\x0a\x28\x0a\x08customer\x12\x03-80\x1a\x09MySQL56/x\x22\x0c\x0a\x04cust\x1a\x04\x22\x02\x0a\x00";
        let vgtid = Vgtid::decode(message).unwrap();
        let shard = vgtid.get("customer", "-80").unwrap();
        assert_eq!((shard.keyspace(), shard.shard(), shard.gtid()), ("customer", "-80", "MySQL56/x"));
        assert_eq!(shard.last_pks(), [LastPk::new("cust", Some(b"\x22\x02\x0a\x00".to_vec()))]);
        assert_eq!(vgtid.encode(), message);
        assert!(vgtid.get("customer", "80-").is_none() && vgtid.get("commerce", "-80").is_none());
    }

    #[test]
    fn unknown_fields_of_a_vgtid_are_left_out() {
        let message = b"\x0a\x0d\x0a\x01k\x12\x010\xa0\x06\x01\x22\x02\x50\x01\x98\x06\x07";
        let vgtid = Vgtid::decode(message).unwrap();
        assert_eq!(vgtid, Vgtid::new(vec![ShardGtid::new("k", "0", "").with_last_pks(vec![LastPk::new("", None)])]));
    }

    #[test]
    fn broken_vgtids_are_protocol_errors() {
        let cases: [(&[u8], &str); 4] = [
            (b"\x08\x01", "a number where text or a message belongs"),
            (b"\x0a\x02\x08\x01", "a number where text or a message belongs"),
            (b"\x0a\x03\x0a\x01\xff", "not UTF-8"),
            (b"\x0a\x03\x0a\x02k", "ends in the middle"),
        ];
        for (message, fragment) in cases {
            let error = Vgtid::decode(message).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol);
            assert!(error.to_string().contains(fragment), "{error}");
        }
    }

    #[test]
    fn debug_shows_no_primary_key() {
        let vgtid = Vgtid::new(vec![ShardGtid::new("k", "0", "").with_last_pks(vec![LastPk::new("t", Some(b"secret key".to_vec()))])]);
        let text = format!("{:?}", Lsn::new(1).with_payload(vgtid));
        assert!(text.contains("last_pk_bytes: Some(10)"), "{text}");
        assert!(!text.contains("secret") && !text.contains("115"), "{text}");
    }

    #[test]
    fn lsns_print_as_they_are_stored() {
        assert_eq!(Lsn::new(42).next_row().unwrap().to_string(), "00000000000000000042:000001:-");
        assert_eq!(Lsn::new(u64::MAX).to_string(), "18446744073709551615:000000:-");
        let text = Lsn::new(7).with_payload(Vgtid::new(vec![ShardGtid::new("k", "0", "")])).to_string();
        assert_eq!(text, "00000000000000000007:000000:grUYBLz6jscKBgoBaxIBMA");
        // As other tools write it, without a checksum.
        for text in [&text, "00000000000000000007:000000:CgYKAWsSATA"] {
            assert_eq!(Lsn::parse(text).unwrap().into_payload().unwrap().shards()[0].keyspace(), "k");
        }
        assert!(Lsn::parse(&text.replace("BLz6", "BLz7")).unwrap_err().to_string().contains("checksum"));
    }

    #[test]
    fn a_vgtid_without_shards_is_no_payload() {
        assert_eq!(Lsn::new(7).with_payload(Vgtid::default()), Lsn::new(7));
    }

    #[test]
    fn damaged_lsns_are_refused_by_name() {
        let cases = [
            ("", "three parts"),
            ("00000000000000000001:000000", "three parts"),
            ("0000000000000000001:000000:-", "20 digits"),
            ("000000000000000000001:000000:-", "20 digits"),
            ("18446744073709551616:000000:-", "20 digits"),
            ("+0000000000000000001:000000:-", "20 digits"),
            ("0000000000000000000x:000000:-", "20 digits"),
            ("00000000000000000001:00000:-", "6 digits"),
            ("00000000000000000001:+00000:-", "6 digits"),
            ("00000000000000000001:1000000:-", "6 digits"),
            ("00000000000000000001:000000:", "payload is empty"),
            ("00000000000000000001:000000:--", "base64url"),
            ("00000000000000000001:000000:-:-", "base64url"),
            ("00000000000000000001:000000:CgYKAWsSATA=", "base64url"),
            ("00000000000000000001:000000:CgYKAWsSATB", "base64url"),
            ("00000000000000000001:000000:CgYKAWsSAT+", "base64url"),
            ("00000000000000000001:000000:CgYKAWsSA", "base64url"),
            ("00000000000000000001:000000:CgYKAWsS", "not a VGTID"),
            ("00000000000000000001:000000:EAE", "without shards"),
        ];
        for (text, fragment) in cases {
            let error = Lsn::parse(text).unwrap_err();
            assert_eq!(error.position_fault(), Some(PositionFault::Unreadable), "{text:?}");
            let message = error.to_string();
            assert!(message.contains(fragment) && message.contains("full_refresh"), "{text:?}: {message}");
            assert!(text.is_empty() || !format!("{error:#}").contains(text), "{text:?}: {message}");
        }
    }

    #[test]
    fn rows_go_on_under_the_next_ordinal_and_never_wrap() {
        let last = Lsn::parse("00000000000000000001:999999:-").unwrap();
        assert_eq!(last.next_row().unwrap().to_string(), "00000000000000000002:000000:-");
        let end = Lsn::parse("18446744073709551615:999999:-").unwrap();
        assert_eq!(end.next_row().unwrap_err().kind(), ErrorKind::Limit);
        assert_eq!(end.next_ordinal().unwrap_err().kind(), ErrorKind::Limit);
        assert_eq!(Lsn::new(u64::MAX).next_row().unwrap().row(), 1);
    }

    fn vgtids() -> impl Strategy<Value = Vgtid> {
        let last_pk = (".{0,4}", prop::option::of(any::<Vec<u8>>())).prop_map(|(table, last_pk)| LastPk::new(table, last_pk));
        let shard = (".{0,4}", ".{0,4}", ".{0,12}", prop::collection::vec(last_pk, 0..3))
            .prop_map(|(keyspace, shard, gtid, last_pks)| ShardGtid::new(keyspace, shard, gtid).with_last_pks(last_pks));
        prop::collection::vec(shard, 0..4).prop_map(Vgtid::new)
    }

    fn lsns() -> impl Strategy<Value = Lsn> {
        let ordinal = prop_oneof![0..3u64, Just(9), Just(10), any::<u64>(), Just(u64::MAX)];
        (ordinal, prop_oneof![0..3u32, 0..=Lsn::MAX_ROW], prop::option::of(vgtids())).prop_map(|(ordinal, row, payload)| {
            let lsn = Lsn { ordinal, row, payload: None };
            match payload {
                Some(payload) => lsn.with_payload(payload),
                None => lsn,
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(vgtid in vgtids()) {
            prop_assert_eq!(Vgtid::decode(&vgtid.encode()).unwrap(), vgtid);
        }

        #[test]
        fn any_bytes_are_a_vgtid_or_refused(message: Vec<u8>) {
            if let Ok(vgtid) = Vgtid::decode(&message) {
                prop_assert_eq!(Vgtid::decode(&vgtid.encode()).unwrap(), vgtid);
            }
        }

        #[test]
        fn what_is_printed_is_parsed(lsn in lsns()) {
            prop_assert_eq!(Lsn::parse(&lsn.to_string()).unwrap(), lsn);
        }

        #[test]
        fn the_order_is_the_order_of_the_texts(left in lsns(), right in lsns()) {
            prop_assert_eq!(left.cmp(&right), left.to_string().cmp(&right.to_string()));
            prop_assert_eq!(left == right, left.to_string() == right.to_string());
        }

        #[test]
        fn what_comes_next_is_greater(lsn in lsns()) {
            for next in [lsn.next_row(), lsn.next_ordinal()].into_iter().flatten() {
                prop_assert!(next > lsn);
                prop_assert!(next.to_string() > lsn.to_string());
            }
        }

        #[test]
        fn any_text_is_an_lsn_or_refused(text in "([0-9]{20}:[0-9]{6}:)?[A-Za-z0-9_-]{0,20}|\\PC{0,60}") {
            if let Ok(lsn) = Lsn::parse(&text) {
                prop_assert_eq!(Lsn::parse(&lsn.to_string()).unwrap(), lsn);
            }
        }
    }
}
