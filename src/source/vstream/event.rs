//! VStream's events, read straight from the bytes of a `vtgate.VStreamResponse`.
//!
//! The messages are those of `proto/vtgate.proto`. A walker over the bytes costs half of what generated code does for rows, because nothing
//! is copied: an event borrows from the response. Every length that the server states is checked against the bytes that are there.

use crate::position::Vgtid;
use crate::wire::{Field, PackedVarints, Reader, zigzag};
use crate::{Error, Result};

/// An event and where it comes from.
#[derive(Debug, Clone)]
pub(crate) struct Event<'a> {
    pub(crate) kind: EventKind<'a>,
    /// Seconds since 1970 at which the server logged it; 0 for rows of the copy phase.
    pub(crate) timestamp: i64,
    /// Seconds since 1970 at which the tablet sent it; 0 if it does not say.
    pub(crate) sent: i64,
    pub(crate) keyspace: &'a str,
    pub(crate) shard: &'a str,
    /// The tablet says that it holds the stream back.
    pub(crate) throttled: bool,
}

/// The events under the protocol's names (`binlogdata.VEventType`).
#[derive(Debug, Clone)]
pub(crate) enum EventKind<'a> {
    Begin,
    Commit,
    Rollback,
    Field(FieldEvent),
    Row(RowEvent<'a>),
    Vgtid(Vgtid),
    Ddl(&'a str),
    /// A row change in statement format; the name of its event type.
    Statement(&'static str),
    Other,
    Heartbeat,
    CopyCompleted,
    Journal,
    /// Events that carry nothing for a client: VERSION, SAVEPOINT, and GTID and LASTPK, which vtgate turns into VGTID.
    Nothing,
    Unknown(u64),
}

impl EventKind<'_> {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Begin => "BEGIN",
            Self::Commit => "COMMIT",
            Self::Rollback => "ROLLBACK",
            Self::Field(_) => "FIELD",
            Self::Row(_) => "ROW",
            Self::Vgtid(_) => "VGTID",
            Self::Ddl(_) => "DDL",
            Self::Statement(name) => name,
            Self::Other => "OTHER",
            Self::Heartbeat => "HEARTBEAT",
            Self::CopyCompleted => "COPY_COMPLETED",
            Self::Journal => "JOURNAL",
            Self::Nothing => "VERSION or SAVEPOINT",
            Self::Unknown(_) => "an unknown event",
        }
    }
}

/// The columns that the following rows of a table have, on one shard.
#[derive(Debug, Clone, Default)]
pub(crate) struct FieldEvent {
    /// As sent: usually with `keyspace.` before it.
    pub(crate) table: String,
    pub(crate) keyspace: String,
    pub(crate) shard: String,
    pub(crate) fields: Vec<FieldColumn>,
    /// Whether ENUM and SET come as strings; before Vitess 20 the stream sent an index and a mask.
    pub(crate) enum_set_string_values: bool,
    pub(crate) is_internal_table: bool,
}

/// One column of a FIELD event (`query.Field`).
#[derive(Debug, Clone, Default)]
pub(crate) struct FieldColumn {
    pub(crate) name: String,
    /// `query.Type`.
    pub(crate) wire_type: u64,
    /// The column's collation id; 63 is binary.
    pub(crate) charset: u64,
    pub(crate) column_length: u64,
    pub(crate) decimals: u64,
    pub(crate) flags: u64,
    /// As `information_schema.columns.column_type` has it; empty from some sources.
    pub(crate) column_type: String,
}

/// Changed rows of one table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowEvent<'a> {
    /// As sent: usually with `keyspace.` before it.
    pub(crate) table: &'a str,
    pub(crate) keyspace: &'a str,
    pub(crate) shard: &'a str,
    pub(crate) is_internal_table: bool,
    message: &'a [u8],
}

/// One change of a row: insert has no before image, delete no after image.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RowChange<'a> {
    pub(crate) before: Option<&'a [u8]>,
    pub(crate) after: Option<&'a [u8]>,
    /// Which columns the after image holds, in the table's order; all of them where this is absent.
    pub(crate) data_columns: Option<Bitmap<'a>>,
    /// Which JSON columns hold an expression instead of a document, counted among the JSON columns.
    pub(crate) json_partial_values: Option<Bitmap<'a>>,
}

/// A set of column numbers, least significant bit first.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bitmap<'a> {
    pub(crate) count: u64,
    cols: &'a [u8],
}

impl Bitmap<'_> {
    pub(crate) fn contains(self, column: usize) -> bool {
        self.cols.get(column / 8).is_some_and(|byte| byte & (1 << (column % 8)) != 0)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.cols.iter().all(|&byte| byte == 0)
    }
}

/// Calls `each` for every event of a response, in order, until it fails.
pub(crate) fn read_response<'a>(response: &'a [u8], mut each: impl FnMut(Event<'a>) -> Result<()>) -> Result<()> {
    let mut reader = Reader::new(response);
    while let Some((number, field)) = reader.next()? {
        if let (1, Field::Bytes(message)) = (number, field) {
            each(read_event(message)?)?;
        }
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| Error::protocol("an event holds a name that is not UTF-8"))
}

fn read_event(message: &[u8]) -> Result<Event<'_>> {
    let mut event_type = 0;
    let mut event = Event { kind: EventKind::Nothing, timestamp: 0, sent: 0, keyspace: "", shard: "", throttled: false };
    let (mut row, mut field_event, mut vgtid) = (None, None, None);
    let mut statement = "";
    let mut reader = Reader::new(message);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Varint(value)) => event_type = value,
            (2, Field::Varint(value)) => event.timestamp = i64::try_from(value).unwrap_or(0),
            (4, Field::Bytes(bytes)) => statement = std::str::from_utf8(bytes).unwrap_or_default(),
            (5, Field::Bytes(bytes)) => row = Some(bytes),
            (6, Field::Bytes(bytes)) => field_event = Some(bytes),
            (7, Field::Bytes(bytes)) => vgtid = Some(bytes),
            // In nanoseconds.
            (20, Field::Varint(value)) => event.sent = i64::try_from(value / 1_000_000_000).unwrap_or(0),
            (22, Field::Bytes(bytes)) => event.keyspace = text(bytes)?,
            (23, Field::Bytes(bytes)) => event.shard = text(bytes)?,
            (24, Field::Varint(value)) => event.throttled = value != 0,
            _ => {}
        }
    }
    let missing = |name: &str| Error::protocol(format!("a {name} event came without its content"));
    event.kind = match event_type {
        2 => EventKind::Begin,
        3 => EventKind::Commit,
        4 => EventKind::Rollback,
        5 => EventKind::Ddl(statement),
        6 => EventKind::Statement("INSERT"),
        7 => EventKind::Statement("REPLACE"),
        8 => EventKind::Statement("UPDATE"),
        9 => EventKind::Statement("DELETE"),
        10 | 11 => EventKind::Other,
        12 => EventKind::Row(read_row_event(row.ok_or_else(|| missing("ROW"))?)?),
        13 => EventKind::Field(read_field_event(field_event.ok_or_else(|| missing("FIELD"))?)?),
        14 => EventKind::Heartbeat,
        15 => EventKind::Vgtid(Vgtid::decode(vgtid.ok_or_else(|| missing("VGTID"))?)?),
        16 => EventKind::Journal,
        1 | 17 | 18 | 19 => EventKind::Nothing,
        20 => EventKind::CopyCompleted,
        other => EventKind::Unknown(other),
    };
    // Older servers leave these off the event itself.
    let inner = match &event.kind {
        EventKind::Row(row) => (row.keyspace, row.shard),
        _ => ("", ""),
    };
    if event.keyspace.is_empty() {
        event.keyspace = inner.0;
    }
    if event.shard.is_empty() {
        event.shard = inner.1;
    }
    Ok(event)
}

fn read_row_event(message: &[u8]) -> Result<RowEvent<'_>> {
    let mut event = RowEvent { table: "", keyspace: "", shard: "", is_internal_table: false, message };
    let mut reader = Reader::new(message);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Bytes(bytes)) => event.table = text(bytes)?,
            (3, Field::Bytes(bytes)) => event.keyspace = text(bytes)?,
            (4, Field::Bytes(bytes)) => event.shard = text(bytes)?,
            (6, Field::Varint(value)) => event.is_internal_table = value != 0,
            _ => {}
        }
    }
    Ok(event)
}

impl<'a> RowEvent<'a> {
    /// Calls `each` for every row change, in order, until it fails.
    pub(crate) fn changes(&self, mut each: impl FnMut(RowChange<'a>) -> Result<()>) -> Result<()> {
        let mut reader = Reader::new(self.message);
        while let Some((number, field)) = reader.next()? {
            if let (2, Field::Bytes(message)) = (number, field) {
                each(read_row_change(message)?)?;
            }
        }
        Ok(())
    }
}

fn read_row_change(message: &[u8]) -> Result<RowChange<'_>> {
    let mut change = RowChange::default();
    let mut reader = Reader::new(message);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Bytes(bytes)) => change.before = Some(bytes),
            (2, Field::Bytes(bytes)) => change.after = Some(bytes),
            (3, Field::Bytes(bytes)) => change.data_columns = Some(read_bitmap(bytes)?),
            (4, Field::Bytes(bytes)) => change.json_partial_values = Some(read_bitmap(bytes)?),
            _ => {}
        }
    }
    Ok(change)
}

fn read_bitmap(message: &[u8]) -> Result<Bitmap<'_>> {
    let mut bitmap = Bitmap::default();
    let mut reader = Reader::new(message);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Varint(value)) => bitmap.count = value,
            (2, Field::Bytes(bytes)) => bitmap.cols = bytes,
            _ => {}
        }
    }
    Ok(bitmap)
}

/// A row image cut into its values, with an allocation that is used again for the next row.
#[derive(Debug, Default)]
pub(crate) struct RowImage {
    /// Where each value lies; `None` is NULL or absent.
    spans: Vec<Option<(usize, usize)>>,
}

impl RowImage {
    /// Reads a `query.Row` of exactly `columns` values; the values are then taken from the returned bytes by [`RowImage::get`].
    pub(crate) fn read<'a>(&mut self, message: &'a [u8], columns: usize) -> Result<&'a [u8]> {
        self.spans.clear();
        let mut values: &[u8] = &[];
        let mut end = 0_usize;
        let mut reader = Reader::new(message);
        while let Some((number, field)) = reader.next()? {
            match (number, field) {
                (1, Field::Bytes(packed)) => {
                    for length in PackedVarints::new(packed) {
                        self.push(zigzag(length?), &mut end)?;
                    }
                }
                (1, Field::Varint(length)) => self.push(zigzag(length), &mut end)?,
                (2, Field::Bytes(bytes)) => values = bytes,
                _ => {}
            }
        }
        if end != values.len() {
            return Err(Error::protocol(format!("a row states {end} bytes of values and carries {}", values.len())));
        }
        if self.spans.len() != columns {
            return Err(Error::protocol(format!("a row has {} values where its FIELD event has {columns} columns", self.spans.len())));
        }
        Ok(values)
    }

    fn push(&mut self, length: i64, end: &mut usize) -> Result<()> {
        self.spans.push(match length {
            -1 => None,
            length => {
                let start = *end;
                let length = usize::try_from(length).map_err(|_| Error::protocol("a row states a negative length"))?;
                *end = start.checked_add(length).ok_or_else(|| Error::protocol("a row states lengths beyond all memory"))?;
                Some((start, *end))
            }
        });
        Ok(())
    }

    /// The value of a column; `None` is NULL, or absent from a partial image.
    pub(crate) fn get<'a>(&self, values: &'a [u8], column: usize) -> Option<&'a [u8]> {
        let (start, end) = self.spans.get(column).copied().flatten()?;
        values.get(start..end)
    }
}

fn read_field_event(message: &[u8]) -> Result<FieldEvent> {
    let mut event = FieldEvent::default();
    let mut reader = Reader::new(message);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Bytes(bytes)) => text(bytes)?.clone_into(&mut event.table),
            (2, Field::Bytes(bytes)) => event.fields.push(read_field_column(bytes)?),
            (3, Field::Bytes(bytes)) => text(bytes)?.clone_into(&mut event.keyspace),
            (4, Field::Bytes(bytes)) => text(bytes)?.clone_into(&mut event.shard),
            (25, Field::Varint(value)) => event.enum_set_string_values = value != 0,
            (26, Field::Varint(value)) => event.is_internal_table = value != 0,
            _ => {}
        }
    }
    Ok(event)
}

fn read_field_column(message: &[u8]) -> Result<FieldColumn> {
    let mut column = FieldColumn::default();
    let mut reader = Reader::new(message);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Bytes(bytes)) => text(bytes)?.clone_into(&mut column.name),
            (2, Field::Varint(value)) => column.wire_type = value,
            (7, Field::Varint(value)) => column.column_length = value,
            (8, Field::Varint(value)) => column.charset = value,
            (9, Field::Varint(value)) => column.decimals = value,
            (10, Field::Varint(value)) => column.flags = value,
            (11, Field::Bytes(bytes)) => text(bytes)?.clone_into(&mut column.column_type),
            _ => {}
        }
    }
    Ok(column)
}

/// Writes responses as a server does; for tests and fuzzers.
#[cfg(any(test, feature = "_fuzzing"))]
pub(crate) mod encode {
    use crate::position::Vgtid;
    use crate::wire::Writer;

    pub(crate) const BEGIN: u64 = 2;
    pub(crate) const COMMIT: u64 = 3;
    pub(crate) const DDL: u64 = 5;
    pub(crate) const OTHER: u64 = 11;
    pub(crate) const ROW: u64 = 12;
    pub(crate) const FIELD: u64 = 13;
    pub(crate) const HEARTBEAT: u64 = 14;
    pub(crate) const VGTID: u64 = 15;
    pub(crate) const COPY_COMPLETED: u64 = 20;

    pub(crate) fn event(event_type: u64, timestamp: u64, keyspace: &str, shard: &str, content: Option<(u32, &[u8])>) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.varint_field(1, event_type);
        writer.varint_field(2, timestamp);
        if let Some((number, content)) = content {
            writer.bytes_field(number, content);
        }
        writer.bytes_field(22, keyspace.as_bytes());
        writer.bytes_field(23, shard.as_bytes());
        writer.finish()
    }

    pub(crate) fn response(events: &[Vec<u8>]) -> Vec<u8> {
        let mut writer = Writer::new();
        for event in events {
            writer.bytes_field(1, event);
        }
        writer.finish()
    }

    /// `columns` are name, collation id and declared type.
    pub(crate) fn field(keyspace: &str, shard: &str, table: &str, columns: &[(&str, u64, &str)]) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.bytes_field(1, format!("{keyspace}.{table}").as_bytes());
        for (name, charset, declared) in columns {
            let mut column = Writer::new();
            column.bytes_field(1, name.as_bytes());
            column.varint_field(8, *charset);
            column.bytes_field(11, declared.as_bytes());
            writer.bytes_field(2, &column.finish());
        }
        writer.bytes_field(3, keyspace.as_bytes());
        writer.bytes_field(4, shard.as_bytes());
        writer.varint_field(25, 1);
        event(FIELD, 0, keyspace, shard, Some((6, &writer.finish())))
    }

    pub(crate) type Image<'a> = &'a [Option<&'a [u8]>];

    pub(crate) fn row(
        keyspace: &str,
        shard: &str,
        table: &str,
        timestamp: u64,
        changes: &[(Option<Image<'_>>, Option<Image<'_>>)],
    ) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.bytes_field(1, format!("{keyspace}.{table}").as_bytes());
        for (before, after) in changes {
            let mut change = Writer::new();
            for (number, image) in [(1, before), (2, after)] {
                if let Some(image) = image {
                    change.bytes_field(number, &self::image(image));
                }
            }
            writer.bytes_field(2, &change.finish());
        }
        writer.bytes_field(3, keyspace.as_bytes());
        writer.bytes_field(4, shard.as_bytes());
        event(ROW, timestamp, keyspace, shard, Some((5, &writer.finish())))
    }

    pub(crate) fn image(values: Image<'_>) -> Vec<u8> {
        let mut lengths = Vec::new();
        let mut bytes = Vec::new();
        for value in values {
            // Zigzag of -1 is 1, of a length its double.
            let mut length = value.map_or(1, |value| value.len() as u64 * 2);
            while length >= 0x80 {
                lengths.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
                length >>= 7;
            }
            lengths.push(u8::try_from(length).unwrap_or(0));
            bytes.extend_from_slice(value.unwrap_or_default());
        }
        let mut writer = Writer::new();
        writer.bytes_field(1, &lengths);
        writer.bytes_field(2, &bytes);
        writer.finish()
    }

    pub(crate) fn vgtid(keyspace: &str, shard: &str, vgtid: &Vgtid) -> Vec<u8> {
        event(VGTID, 0, keyspace, shard, Some((7, &vgtid.encode())))
    }

    pub(crate) fn ddl(keyspace: &str, shard: &str, timestamp: u64, statement: &str) -> Vec<u8> {
        event(DDL, timestamp, keyspace, shard, Some((4, statement.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_cut_into_its_values_with_null_and_empty_kept_apart() {
        let message = encode::image(&[Some(b"1"), None, Some(b""), Some(&[b'x'; 300])]);
        let mut image = RowImage::default();
        let values = image.read(&message, 4).unwrap();
        assert_eq!(image.get(values, 0), Some(&b"1"[..]));
        assert_eq!(image.get(values, 1), None);
        assert_eq!(image.get(values, 2), Some(&b""[..]));
        assert_eq!(image.get(values, 3).map(<[u8]>::len), Some(300));
    }

    #[test]
    fn a_row_whose_lengths_disagree_with_its_bytes_is_refused() {
        let mut image = RowImage::default();
        // One value of 5 bytes is stated, 4 are there.
        assert!(image.read(&[0x0a, 1, 10, 0x12, 4, b'a', b'b', b'c', b'd'], 1).is_err());
        // -2 is not a length.
        assert!(image.read(&[0x0a, 1, 3], 1).is_err());
        // Fewer and more values than columns.
        let message = encode::image(&[Some(b"1")]);
        assert!(image.read(&message, 2).is_err());
        assert!(image.read(&message, 0).is_err());
    }

    #[test]
    fn events_carry_their_shard_and_time() {
        let response = encode::response(&[
            encode::event(encode::BEGIN, 7, "ks", "-80", None),
            encode::row("ks", "-80", "t", 7, &[(None, Some(&[Some(b"1")]))]),
            encode::ddl("ks", "-80", 8, "truncate table t"),
        ]);
        let mut seen = Vec::new();
        read_response(&response, |event| {
            seen.push((event.kind.name(), event.timestamp, event.keyspace.to_owned(), event.shard.to_owned()));
            Ok(())
        })
        .unwrap();
        let expected = [("BEGIN", 7), ("ROW", 7), ("DDL", 8)].map(|(name, time)| (name, time, "ks".to_owned(), "-80".to_owned()));
        assert_eq!(seen, expected);
    }
}
