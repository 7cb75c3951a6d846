//! The protobuf wire format over byte slices: enough to walk a message without generated code, and to write a small one.
//!
//! Row events are read with this on the hot path: a walker over the bytes costs half of what generated code does, because it copies
//! nothing and skips what it does not know. Nothing here recurses. A caller that opens a nested message does so by making another
//! [`Reader`] over a [`Field::Bytes`], so the depth is what the caller's code spells out and not what a server sends.

use crate::error::{Error, Result};

/// One field's payload. What the number means, and with it the type, is the caller's knowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field<'a> {
    /// Wire type 0: integers, booleans, enums; `sint` types need [`zigzag`] on top.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 5.
    Fixed32(u32),
    /// Wire type 2: text, bytes, nested messages, packed repeated numbers.
    Bytes(&'a [u8]),
}

/// Walks the fields of one message in the order in which they were sent.
///
/// Every length is checked against the bytes that are there. A field that the caller does not know is skipped by ignoring it.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field with its number, `None` at the end of the message.
    ///
    /// # Errors
    /// [`Protocol`](crate::ErrorKind::Protocol) if the bytes are not a message. The reader is at its end then: a loop that goes on
    /// after an error stops at once.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Field<'a>)>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        match read_field(self.rest) {
            Ok((number, field, rest)) => {
                self.rest = rest;
                Ok(Some((number, field)))
            }
            Err(fault) => {
                self.rest = &[];
                Err(fault.into())
            }
        }
    }
}

/// Undoes the zigzag encoding of `sint32` and `sint64`, in which small negative numbers stay short.
#[inline]
#[allow(clippy::cast_possible_wrap)] // A reinterpretation of the bits: after the shift the value fits, and 0 or -1 is the sign.
pub(crate) fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// The numbers of a packed repeated field. After an error it ends.
#[derive(Debug, Clone)]
pub(crate) struct PackedVarints<'a> {
    rest: &'a [u8],
}

impl<'a> PackedVarints<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl Iterator for PackedVarints<'_> {
    type Item = Result<u64>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match read_varint(self.rest) {
            Ok((value, rest)) => {
                self.rest = rest;
                Some(Ok(value))
            }
            Err(fault) => {
                self.rest = &[];
                Some(Err(fault.into()))
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.rest.len().div_ceil(MAX_VARINT_LEN), Some(self.rest.len()))
    }
}

/// Appends fields to a message.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    message: Vec<u8>,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    #[cfg(any(test, feature = "_fuzzing"))]
    pub(crate) fn varint_field(&mut self, number: u32, value: u64) {
        self.varint(u64::from(number) << 3 | VARINT);
        self.varint(value);
    }

    /// Text, bytes, or a nested message that another writer finished.
    pub(crate) fn bytes_field(&mut self, number: u32, value: &[u8]) {
        self.varint(u64::from(number) << 3 | LENGTH_DELIMITED);
        // A slice is never longer than isize::MAX.
        self.varint(value.len() as u64);
        self.message.extend_from_slice(value);
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.message
    }

    #[allow(clippy::cast_possible_truncation)] // The low seven bits are what one byte carries.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.message.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.message.push(value as u8);
    }
}

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FIXED32: u64 = 5;

/// Ten bytes of seven bits hold 64 bits.
const MAX_VARINT_LEN: usize = 10;
const MAX_FIELD_NUMBER: u64 = (1 << 29) - 1;

/// One byte wide, so that the results on the hot path stay small; the sentence is made only when it is needed.
#[derive(Clone, Copy)]
enum Fault {
    Ends,
    LongVarint,
    FieldNumber,
    WireType,
}

impl From<Fault> for Error {
    #[cold]
    fn from(fault: Fault) -> Self {
        Error::protocol(match fault {
            Fault::Ends => "a protobuf message ends in the middle of a field",
            Fault::LongVarint => "a number in a protobuf message is wider than 64 bits",
            Fault::FieldNumber => "a protobuf message holds an impossible field number",
            Fault::WireType => "a protobuf message holds a field of an unknown wire type",
        })
    }
}

#[inline]
fn read_field(bytes: &[u8]) -> Result<(u32, Field<'_>, &[u8]), Fault> {
    let (key, rest) = read_varint(bytes)?;
    let number = match key >> 3 {
        0 => return Err(Fault::FieldNumber),
        number if number > MAX_FIELD_NUMBER => return Err(Fault::FieldNumber),
        #[allow(clippy::cast_possible_truncation)] // Below 2^29.
        number => number as u32,
    };
    match key & 7 {
        LENGTH_DELIMITED => {
            let (length, rest) = read_varint(rest)?;
            let (value, rest) = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length)).ok_or(Fault::Ends)?;
            Ok((number, Field::Bytes(value), rest))
        }
        VARINT => {
            let (value, rest) = read_varint(rest)?;
            Ok((number, Field::Varint(value), rest))
        }
        FIXED64 => {
            let (value, rest) = rest.split_first_chunk().ok_or(Fault::Ends)?;
            Ok((number, Field::Fixed64(u64::from_le_bytes(*value)), rest))
        }
        FIXED32 => {
            let (value, rest) = rest.split_first_chunk().ok_or(Fault::Ends)?;
            Ok((number, Field::Fixed32(u32::from_le_bytes(*value)), rest))
        }
        // Groups (3 and 4) were never used by Vitess.
        _ => Err(Fault::WireType),
    }
}

/// Nearly all keys and lengths of a row event are one byte, hence the split.
#[inline]
fn read_varint(bytes: &[u8]) -> Result<(u64, &[u8]), Fault> {
    match bytes.split_first() {
        Some((&first, rest)) if first < 0x80 => Ok((u64::from(first), rest)),
        _ => read_long_varint(bytes),
    }
}

fn read_long_varint(bytes: &[u8]) -> Result<(u64, &[u8]), Fault> {
    let mut value = 0;
    for (at, &byte) in bytes.iter().enumerate().take(MAX_VARINT_LEN) {
        // The tenth byte has room for the 64th bit only.
        if at == MAX_VARINT_LEN - 1 && byte > 1 {
            return Err(Fault::LongVarint);
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return Ok((value, bytes.get(at + 1..).unwrap_or_default()));
        }
    }
    Err(Fault::Ends)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ErrorKind;

    fn fields(message: &[u8]) -> Result<Vec<(u32, Field<'_>)>> {
        let mut reader = Reader::new(message);
        let mut fields = Vec::new();
        while let Some(field) = reader.next()? {
            fields.push(field);
        }
        Ok(fields)
    }

    #[test]
    fn every_wire_type_is_read() {
        let message = [
            0x08, 0x96, 0x01, // 1: varint 150
            0x12, 0x02, b'h', b'i', // 2: bytes
            0x19, 1, 0, 0, 0, 0, 0, 0, 0x80, // 3: fixed64
            0x25, 2, 0, 0, 0, // 4: fixed32
            0xf8, 0xff, 0xff, 0xff, 0x0f, 0x00, // the greatest field number
        ];
        assert_eq!(
            fields(&message).unwrap(),
            [
                (1, Field::Varint(150)),
                (2, Field::Bytes(b"hi")),
                (3, Field::Fixed64(0x8000_0000_0000_0001)),
                (4, Field::Fixed32(2)),
                (536_870_911, Field::Varint(0)),
            ]
        );
    }

    #[test]
    fn broken_messages_are_errors_and_end_the_reader() {
        let cases: [(&[u8], &str); 12] = [
            (&[0x08], "ends"),
            (&[0x08, 0x80], "ends"),
            (&[0x80], "ends"),
            (&[0x12, 0x02, b'h'], "ends"),
            (&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], "ends"),
            (&[0x19, 0, 0, 0, 0, 0, 0, 0], "ends"),
            (&[0x25, 0, 0, 0], "ends"),
            (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], "64 bits"),
            (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], "64 bits"),
            (&[0x00, 0x00], "field number"),
            (&[0xf8, 0xff, 0xff, 0xff, 0x1f, 0x00], "field number"),
            (&[0x0b], "wire type"),
        ];
        for (message, fragment) in cases {
            let mut reader = Reader::new(message);
            let error = reader.next().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol);
            assert!(error.to_string().contains(fragment), "{message:x?}: {error}");
            assert!(reader.next().unwrap().is_none());
        }
    }

    #[test]
    fn zigzag_covers_the_whole_range() {
        let cases = [(0, 0), (1, -1), (2, 1), (3, -2), (u64::MAX - 1, i64::MAX), (u64::MAX, i64::MIN)];
        for (encoded, decoded) in cases {
            assert_eq!(zigzag(encoded), decoded);
        }
    }

    #[test]
    fn packed_numbers_end_after_an_error() {
        let numbers: Vec<_> = PackedVarints::new(&[0x01, 0x80, 0x01, 0x00]).map(Result::unwrap).collect();
        assert_eq!(numbers, [1, 128, 0]);
        let mut broken = PackedVarints::new(&[0x05, 0x80]);
        assert_eq!(broken.next().unwrap().unwrap(), 5);
        assert!(broken.next().unwrap().is_err());
        assert!(broken.next().is_none());
    }

    proptest! {
        #[test]
        fn what_the_writer_wrote_the_reader_reads(
            expected in prop::collection::vec((1..=536_870_911u32, prop_oneof![any::<u64>().prop_map(Ok), any::<Vec<u8>>().prop_map(Err)]), 0..20)
        ) {
            let mut writer = Writer::new();
            for (number, field) in &expected {
                match field {
                    Ok(value) => writer.varint_field(*number, *value),
                    Err(bytes) => writer.bytes_field(*number, bytes),
                }
            }
            let message = writer.finish();
            let read = fields(&message).unwrap();
            let expected: Vec<_> = expected
                .iter()
                .map(|(number, field)| (*number, field.as_ref().map_or_else(|bytes| Field::Bytes(bytes), |value| Field::Varint(*value))))
                .collect();
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn any_bytes_are_read_or_refused(message: Vec<u8>) {
            let read = fields(&message);
            if let Ok(fields) = read {
                let held: usize = fields.iter().map(|(_, field)| if let Field::Bytes(bytes) = field { bytes.len() } else { 0 }).sum();
                prop_assert!(held <= message.len());
            }
            prop_assert!(PackedVarints::new(&message).count() <= message.len());
        }
    }
}
