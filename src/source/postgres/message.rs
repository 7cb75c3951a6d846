//! Messages of PostgreSQL's protocol, version 3: those that are needed to log in, to ask something and to copy a table out.
//!
//! Behind the very first one, each is a letter and a length that counts itself. Nothing here reads or writes.

use crate::{Error, ErrorKind, Result};

/// The longest message that is taken. A row has a gibibyte at most.
pub(super) const MAX_MESSAGE: usize = (1 << 30) + (1 << 20);

/// Asks for TLS, before anything else. The answer is one letter.
pub(super) const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// The first message: who wants what.
pub(super) fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = vec![0, 3, 0, 0];
    for (name, value) in parameters {
        for text in [name, value] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
    }
    body.push(0);
    with_length(&body)
}

/// A message of one text.
pub(super) fn text(tag: u8, text: &str) -> Vec<u8> {
    framed(tag, &[text.as_bytes(), &[0]].concat())
}

/// A login that begins with a mechanism's name.
pub(super) fn sasl_initial(mechanism: &str, data: &[u8]) -> Vec<u8> {
    // A message of a login is far below this length.
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    framed(b'p', &[mechanism.as_bytes(), &[0], &length.to_be_bytes(), data].concat())
}

/// A message of bytes.
pub(super) fn framed(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend(with_length(body));
    message
}

fn with_length(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), body].concat()
}

/// Letter and length of the body of the message that these five bytes begin.
pub(super) fn head(bytes: [u8; 5]) -> Result<(u8, usize)> {
    let [tag, length @ ..] = bytes;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    let body = length.checked_sub(4).filter(|&body| body <= MAX_MESSAGE && tag.is_ascii_alphanumeric());
    body.map(|body| (tag, body)).ok_or_else(|| Error::protocol("what came is no message of PostgreSQL's protocol"))
}

/// Reads a message's parts from its front.
pub(super) struct Parts<'a>(pub(super) &'a [u8]);

impl<'a> Parts<'a> {
    fn broken() -> Error {
        Error::protocol("the server sent a message that ends too early")
    }

    pub(super) fn bytes(&mut self, length: usize) -> Result<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(length).ok_or_else(Self::broken)?;
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    pub(super) fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub(super) fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// Up to the next NUL.
    pub(super) fn text(&mut self) -> Result<&'a str> {
        let end = self.0.iter().position(|&byte| byte == 0).ok_or_else(Self::broken)?;
        let text = self.bytes(end)?;
        self.bytes(1)?;
        std::str::from_utf8(text).map_err(|_| Error::protocol("the server sent text that is not UTF-8"))
    }
}

/// The cells of a row of a query, as text.
pub(super) fn data_row(body: &[u8]) -> Result<Vec<Option<String>>> {
    let mut parts = Parts(body);
    let count = parts.i16()?;
    let mut cells = Vec::new();
    for _ in 0..count {
        cells.push(match usize::try_from(parts.i32()?) {
            Err(_) => None,
            Ok(length) => {
                let text = std::str::from_utf8(parts.bytes(length)?);
                Some(text.map_err(|_| Error::protocol("the server names something in bytes that are not UTF-8"))?.to_owned())
            }
        });
    }
    Ok(cells)
}

/// What a server's complaint says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Complaint {
    /// Five characters, of which the first two are the class.
    pub(super) code: String,
    message: String,
}

impl Complaint {
    pub(super) fn read(body: &[u8]) -> Self {
        let mut complaint = Self::default();
        for field in body.split(|&byte| byte == 0) {
            let Some((kind, text)) = field.split_first() else { continue };
            let text = String::from_utf8_lossy(text);
            match kind {
                b'C' => complaint.code = text.chars().filter(char::is_ascii_alphanumeric).take(5).collect(),
                // One line is enough, and the detail of a complaint is left out: it quotes rows.
                b'M' => complaint.message = text.chars().take(200).collect(),
                _ => {}
            }
        }
        complaint
    }

    /// An error with the server's words, where those cannot quote a value.
    pub(super) fn into_error(self, attempted: &str) -> Error {
        let class = self.code.get(..2).unwrap_or_default();
        let (kind, reason) = match (class, self.code.as_str()) {
            (_, "28P01") => (ErrorKind::Auth, ": the server refuses user or password"),
            ("28", _) => (ErrorKind::Auth, ": the server does not let the user in this way"),
            ("3D", _) => (ErrorKind::Schema, ": there is no such database"),
            (_, "42501") => (ErrorKind::Source, ": the user may not read it"),
            (_, "42P01" | "42703" | "3F000") => (ErrorKind::Schema, ": the table or a column of it is not there"),
            (_, "57014") => (ErrorKind::Source, ": the statement was cancelled"),
            (_, "57P01" | "57P02" | "57P03") => (ErrorKind::Connect, ": the server is shutting down or starting up"),
            ("08", _) => (ErrorKind::Connect, ": the connection broke"),
            ("53", _) => (ErrorKind::Connect, ": the server has no room for this"),
            _ => (ErrorKind::Source, ""),
        };
        let error = Error::new(kind, format!("{attempted}{reason}"));
        match class {
            // These are about names, rights, limits and the server itself; all others may quote values.
            "08" | "28" | "3D" | "3F" | "42" | "53" | "55" | "57" | "58" => error.with_cause(format!("{} ({})", self.message, self.code)),
            _ => error.with_cause(format!("the server says {}", self.code)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_length_that_they_say() {
        assert_eq!(startup(&[("user", "ü")]), b"\0\0\0\x11\0\x03\0\0user\0\xc3\xbc\0\0");
        assert_eq!(text(b'Q', "x"), b"Q\0\0\0\x06x\0");
        assert_eq!(sasl_initial("S", b"ab"), b"p\0\0\0\x0cS\0\0\0\0\x02ab");
        assert_eq!(head(*b"Z\0\0\0\x05").unwrap(), (b'Z', 1));
        for wrong in [*b"Z\0\0\0\x03", *b"Z\xff\0\0\0", *b"\0\0\0\0\x05"] {
            assert!(head(wrong).is_err());
        }
    }

    #[test]
    fn rows_that_end_too_early_are_refused() {
        let row = b"\0\x03\0\0\0\x01a\xff\xff\xff\xff\0\0\0\0";
        assert_eq!(data_row(row).unwrap(), [Some("a".to_owned()), None, Some(String::new())]);
        for length in 0..row.len() {
            assert!(data_row(&row[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn complaints_that_may_quote_values_are_cut() {
        let quoting = Complaint::read(b"SERROR\0C22P02\0Minvalid input syntax for type integer: \"secret\"\0Dsecret\0\0");
        assert!(!format!("{:#}", quoting.into_error("it failed")).contains("secret"));
        let naming = Complaint::read(b"SFATAL\0C3D000\0Mdatabase \"shop\" does not exist\0\0").into_error("it failed");
        assert_eq!(naming.kind(), ErrorKind::Schema);
        assert!(format!("{naming:#}").contains("shop"));
    }
}
