//! The binary format of PostgreSQL's `COPY`: a signature, flags, rows of fields with their lengths, and a trailer.

use std::ops::Range;

use crate::{Error, Result};

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// Cuts a stream of bytes, which may come in pieces of any size, into rows.
pub(crate) struct CopyReader {
    /// What came of something that is not complete yet.
    pending: Vec<u8>,
    state: State,
    /// Of each row.
    fields: Vec<Field>,
}

/// Where a field lies in the bytes of its row; `None` is NULL.
type Field = Option<Range<usize>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Rows,
    Done,
}

/// The fields of a row.
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    fields: &'a [Field],
}

impl<'a> Fields<'a> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<&'a [u8]>> {
        let Self { bytes, fields } = *self;
        fields.iter().map(|field| field.clone().and_then(|range| bytes.get(range)))
    }

    /// How many bytes the values take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

impl CopyReader {
    /// For rows of so many fields.
    pub(crate) fn new(width: usize) -> Self {
        Self { pending: Vec::new(), state: State::Header, fields: vec![None; width] }
    }

    /// Takes bytes, and hands out the rows that are complete with them.
    ///
    /// # Errors
    /// `Protocol` if they are none of the format; that of `row`.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut row: impl FnMut(Fields<'_>) -> Result<()>) -> Result<()> {
        if self.state == State::Done && !bytes.is_empty() {
            return Err(Error::protocol("more comes behind the end of the copy"));
        }
        if self.pending.is_empty() {
            let taken = self.take(bytes, &mut row)?;
            self.pending.extend_from_slice(&bytes[taken..]);
            return Ok(());
        }
        let mut pending = std::mem::take(&mut self.pending);
        pending.extend_from_slice(bytes);
        let taken = self.take(&pending, &mut row)?;
        pending.drain(..taken);
        self.pending = pending;
        Ok(())
    }

    /// # Errors
    /// `Protocol` if the trailer has not come.
    pub(crate) fn finish(&self) -> Result<()> {
        match self.state {
            // The trailer itself stays: two bytes.
            State::Done if self.pending.len() == 2 => Ok(()),
            State::Done => Err(Error::protocol("more comes behind the end of the copy")),
            _ => Err(Error::protocol("the copy ends before it is complete")),
        }
    }

    /// Hands out what is complete; how many bytes that was.
    fn take(&mut self, bytes: &[u8], row: &mut impl FnMut(Fields<'_>) -> Result<()>) -> Result<usize> {
        let mut taken = 0;
        loop {
            let rest = &bytes[taken..];
            let length = match self.state {
                State::Header => header(rest)?,
                State::Rows => self.row(rest)?,
                State::Done => None,
            };
            let Some(length) = length else { break };
            taken += length;
            match self.state {
                State::Header => self.state = State::Rows,
                _ => row(Fields { bytes: &rest[..length], fields: &self.fields })?,
            }
        }
        Ok(taken)
    }

    /// Finds the fields of the row at the front; `None` if it is not complete, or the trailer.
    fn row(&mut self, bytes: &[u8]) -> Result<Option<usize>> {
        let Some((count, _)) = bytes.split_first_chunk::<2>() else { return Ok(None) };
        let count = i16::from_be_bytes(*count);
        if count == -1 {
            self.state = State::Done;
            return Ok(None);
        }
        if usize::try_from(count) != Ok(self.fields.len()) {
            return Err(Error::protocol(format!("a row has {count} values for {} columns", self.fields.len())));
        }
        let mut at = 2;
        for field in &mut self.fields {
            let Some(length) = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()) else { return Ok(None) };
            let length = i32::from_be_bytes(*length);
            at += 4;
            *field = match usize::try_from(length) {
                Ok(length) => {
                    if bytes.len() - at < length {
                        return Ok(None);
                    }
                    at += length;
                    Some(at - length..at)
                }
                Err(_) if length == -1 => None,
                Err(_) => return Err(Error::protocol("a value has a negative length")),
            };
        }
        Ok(Some(at))
    }
}

/// The length of the header; `None` if it is not complete.
fn header(bytes: &[u8]) -> Result<Option<usize>> {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] != SIGNATURE[..known] {
        return Err(Error::protocol("what the server copies is not in binary format"));
    }
    let Some((flags, rest)) = bytes.get(SIGNATURE.len()..).and_then(|rest| rest.split_first_chunk::<4>()) else { return Ok(None) };
    // The upper half is for what a reader has to know of.
    if u32::from_be_bytes(*flags) >> 16 != 0 {
        return Err(Error::protocol("what the server copies is in a format that is not known"));
    }
    let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > 1 << 20 {
        return Err(Error::protocol("what the server copies has a header that is not known"));
    }
    Ok((rest.len() >= length).then(|| SIGNATURE.len() + 8 + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(rows: &[&[Option<&[u8]>]]) -> Vec<u8> {
        let mut bytes = [&SIGNATURE[..], &[0; 8]].concat();
        for row in rows {
            bytes.extend(i16::try_from(row.len()).unwrap().to_be_bytes());
            for value in *row {
                let length = value.map_or(-1, |value| i32::try_from(value.len()).unwrap());
                bytes.extend(length.to_be_bytes());
                bytes.extend_from_slice(value.unwrap_or_default());
            }
        }
        bytes.extend([0xff, 0xff]);
        bytes
    }

    fn read(bytes: &[u8], piece: usize) -> Result<Vec<Vec<Option<Vec<u8>>>>> {
        let mut rows = Vec::new();
        let mut reader = CopyReader::new(2);
        for piece in bytes.chunks(piece) {
            reader.feed(piece, |fields| {
                rows.push(fields.iter().map(|field| field.map(<[u8]>::to_vec)).collect());
                Ok(())
            })?;
        }
        reader.finish().map(|()| rows)
    }

    #[test]
    fn rows_are_the_same_in_pieces_of_every_size() {
        let bytes = copied(&[&[Some(b"a"), None], &[None, Some(b"")], &[Some(b"longer than the rest"), Some(b"\xff\xff\xff\xff")]]);
        let whole = read(&bytes, bytes.len()).unwrap();
        assert_eq!(whole.len(), 3);
        for piece in 1..bytes.len() {
            assert_eq!(read(&bytes, piece).unwrap(), whole, "{piece}");
        }
    }

    #[test]
    fn what_is_cut_or_too_long_is_refused() {
        let bytes = copied(&[&[Some(b"a"), None]]);
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length], 7).is_err(), "{length}");
        }
        assert!(read(&[&bytes[..], b"x"].concat(), 1).is_err());
        assert!(read(&[&bytes[..], b"x"].concat(), 100).is_err());
        assert!(read(&copied(&[&[Some(b"a")]]), 100).is_err());
        let mut negative = copied(&[&[None, None]]);
        negative[21..25].copy_from_slice(&(-2_i32).to_be_bytes());
        assert!(read(&negative, 100).is_err());
    }
}
