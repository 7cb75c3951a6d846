//! A MySQL server as small as it can be: it greets, checks a password, and answers statements from a script, in text and binary rows.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use mysql_common::scramble::scramble_native;

use super::tls::Acceptor;

pub type OnQuery = dyn Fn(&str) -> Answer + Send + Sync;

/// The answer to a statement.
pub enum Answer {
    Rows {
        columns: Vec<Column>,
        rows: Vec<Vec<Option<Vec<u8>>>>,
    },
    Done {
        affected: u64,
    },
    Failed {
        code: u16,
        state: &'static str,
        text: String,
    },
    /// Nothing, until the client leaves.
    Never,
    /// What any server answers: OK to SET, USE and transactions, values of a few variables, else an error that names the statement.
    Unscripted,
}

/// A result column: MySQL's number of its type, its collation and its flags.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub kind: u8,
    pub collation: u16,
    pub flags: u16,
}

const UNSIGNED: u16 = 32;

impl Column {
    pub fn text(name: &str) -> Self {
        Self { name: name.into(), kind: 0xfd, collation: 255, flags: 0 }
    }

    pub fn bytes(name: &str) -> Self {
        Self { name: name.into(), kind: 0xfd, collation: 63, flags: 128 }
    }

    pub fn int(name: &str) -> Self {
        Self { name: name.into(), kind: 0x08, collation: 63, flags: 0 }
    }

    pub fn unsigned(name: &str) -> Self {
        Self { flags: UNSIGNED, ..Self::int(name) }
    }

    pub fn double(name: &str) -> Self {
        Self { name: name.into(), kind: 0x05, collation: 63, flags: 0 }
    }
}

impl Answer {
    /// Rows from texts; `None` is NULL.
    pub fn rows(columns: &[Column], rows: &[&[Option<&str>]]) -> Self {
        let cell = |cell: &Option<&str>| cell.map(|text| text.as_bytes().to_vec());
        Self::Rows { columns: columns.to_vec(), rows: rows.iter().map(|row| row.iter().map(cell).collect()).collect() }
    }

    /// One text.
    pub fn value(name: &str, value: &str) -> Self {
        Self::rows(&[Column::text(name)], &[&[Some(value)]])
    }

    pub fn failed(code: u16, state: &'static str, text: &str) -> Self {
        Self::Failed { code, state, text: text.into() }
    }
}

fn unscripted(statement: &str) -> Answer {
    let lower = statement.trim().to_ascii_lowercase();
    if ["set ", "use ", "begin", "start transaction", "commit", "rollback"].iter().any(|start| lower.starts_with(start)) {
        return Answer::Done { affected: 0 };
    }
    if let Some(names) = lower.strip_prefix("select @@") {
        let names: Vec<_> = names.split(',').map(|name| name.trim().trim_start_matches("@@")).collect();
        let values: Vec<_> = names.iter().map(|name| variable(name)).collect();
        if values.iter().all(Option::is_some) {
            let columns: Vec<_> = names.iter().map(|name| Column::text(&format!("@@{name}"))).collect();
            return Answer::rows(&columns, &[&values]);
        }
    }
    Answer::Failed { code: 1105, state: "HY000", text: format!("unscripted statement: {statement}") }
}

fn variable(name: &str) -> Option<&'static str> {
    Some(match name.rsplit('.').next()? {
        "max_allowed_packet" => "67108864",
        "wait_timeout" => "28800",
        "version" => "8.4.6-Vitess",
        "version_comment" => "scripted",
        "time_zone" => "+00:00",
        "sql_mode" => "STRICT_TRANS_TABLES",
        "socket" => "/nowhere/mysql.sock",
        _ => return None,
    })
}

/// The listening server.
pub struct Front {
    pub port: u16,
    statements: Arc<Mutex<Vec<String>>>,
    _acceptor: Acceptor,
}

impl Front {
    pub fn start(on_query: Arc<OnQuery>, credentials: Option<(String, String)>) -> Self {
        let statements = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&statements);
        let acceptor = Acceptor::start("scripted-mysql", move |stream| {
            let session = Session { wire: Wire { stream, sequence: 0 }, on_query: &*on_query, statements: &seen, prepared: Vec::new() };
            // Clients leave as they like.
            let _ = session.run(credentials.as_ref());
        });
        Self { port: acceptor.port, statements, _acceptor: acceptor }
    }

    pub fn statements(&self) -> Vec<String> {
        self.statements.lock().unwrap().clone()
    }
}

/// Packets.
struct Wire {
    stream: TcpStream,
    sequence: u8,
}

const LONGEST: usize = 0xff_ffff;

impl Wire {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut packet = Vec::new();
        loop {
            let mut header = [0; 4];
            self.stream.read_exact(&mut header)?;
            let length = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
            self.sequence = header[3].wrapping_add(1);
            let start = packet.len();
            packet.resize(start + length, 0);
            self.stream.read_exact(&mut packet[start..])?;
            if length < LONGEST {
                return Ok(packet);
            }
        }
    }

    fn write(&mut self, packet: &[u8]) -> io::Result<()> {
        let mut out = Vec::with_capacity(packet.len() + 8);
        let mut parts: Vec<_> = packet.chunks(LONGEST).collect();
        if packet.len().is_multiple_of(LONGEST) {
            parts.push(&[]);
        }
        for part in parts {
            out.extend_from_slice(&u32::try_from(part.len()).unwrap().to_le_bytes()[..3]);
            out.push(self.sequence);
            self.sequence = self.sequence.wrapping_add(1);
            out.extend_from_slice(part);
        }
        self.stream.write_all(&out)
    }
}

// Capabilities.
const CONNECT_WITH_DB: u32 = 0x8;
const PLUGIN_AUTH: u32 = 0x8_0000;
const LENENC_AUTH: u32 = 0x20_0000;
/// LONG_PASSWORD, FOUND_ROWS, LONG_FLAG, CONNECT_WITH_DB, PROTOCOL_41, TRANSACTIONS, SECURE_CONNECTION, MULTI_RESULTS, PS_MULTI_RESULTS,
/// PLUGIN_AUTH, CONNECT_ATTRS, LENENC_AUTH. Without DEPRECATE_EOF, so the old packets end each list.
const CAPABILITIES: u32 =
    0x1 | 0x2 | 0x4 | CONNECT_WITH_DB | 0x200 | 0x2000 | 0x8000 | 0x2_0000 | 0x4_0000 | PLUGIN_AUTH | 0x10_0000 | LENENC_AUTH;
const AUTOCOMMIT: u16 = 2;
const PLUGIN: &[u8] = b"mysql_native_password\0";
/// Fixed: this server has nothing to protect.
const NONCE: &[u8; 20] = b"scripted-vtgate-nonc";

struct Session<'a> {
    wire: Wire,
    on_query: &'a OnQuery,
    statements: &'a Mutex<Vec<String>>,
    prepared: Vec<Prepared>,
}

struct Prepared {
    /// The statement between the question marks.
    parts: Vec<String>,
    /// The types that the parameters were last bound with.
    types: Vec<u16>,
}

impl Session<'_> {
    fn run(mut self, credentials: Option<&(String, String)>) -> io::Result<()> {
        if !self.greet(credentials)? {
            return Ok(());
        }
        loop {
            self.wire.sequence = 0;
            let packet = self.wire.read()?;
            let Some((command, rest)) = packet.split_first() else { return Ok(()) };
            match command {
                // QUIT
                0x01 => return Ok(()),
                // INIT_DB, PING, STMT_RESET, RESET_CONNECTION
                0x02 | 0x0e | 0x1a | 0x1f => self.ok(0)?,
                // QUERY
                0x03 => {
                    let answer = self.ask(&String::from_utf8_lossy(rest));
                    self.answer(answer, false)?;
                }
                // STMT_PREPARE
                0x16 => self.prepare(&String::from_utf8_lossy(rest))?,
                // STMT_EXECUTE
                0x17 => {
                    let answer = match self.bind(rest) {
                        Some(statement) => self.ask(&statement),
                        None => Answer::failed(1210, "HY000", "parameters of this kind are not understood here"),
                    };
                    self.answer(answer, true)?;
                }
                // STMT_CLOSE has no answer.
                0x19 => {}
                _ => self.error(1047, "08S01", "unknown command")?,
            }
        }
    }

    fn greet(&mut self, credentials: Option<&(String, String)>) -> io::Result<bool> {
        let mut greeting = vec![10];
        greeting.extend_from_slice(b"8.4.6-Vitess\0");
        greeting.extend_from_slice(&1_u32.to_le_bytes());
        greeting.extend_from_slice(&NONCE[..8]);
        greeting.push(0);
        let capabilities = CAPABILITIES.to_le_bytes();
        greeting.extend_from_slice(&capabilities[..2]);
        greeting.push(255);
        greeting.extend_from_slice(&AUTOCOMMIT.to_le_bytes());
        greeting.extend_from_slice(&capabilities[2..]);
        greeting.push(21);
        greeting.extend_from_slice(&[0; 10]);
        greeting.extend_from_slice(&NONCE[8..]);
        greeting.push(0);
        greeting.extend_from_slice(PLUGIN);
        self.wire.write(&greeting)?;

        let response = self.wire.read()?;
        let mut at = Cursor(&response);
        let flags = u32::try_from(at.int(4).unwrap_or_default()).unwrap_or_default();
        at.take(4 + 1 + 23);
        let user = String::from_utf8_lossy(at.until_nul().unwrap_or_default()).into_owned();
        let mut proof = at.lenenc_bytes().unwrap_or_default().to_vec();
        if flags & CONNECT_WITH_DB != 0 {
            at.until_nul();
        }
        let plugin = if flags & PLUGIN_AUTH == 0 { PLUGIN } else { at.until_nul().unwrap_or_default() };
        if credentials.is_some() && plugin != &PLUGIN[..PLUGIN.len() - 1] && plugin != PLUGIN {
            let mut switch = vec![0xfe];
            switch.extend_from_slice(PLUGIN);
            switch.extend_from_slice(NONCE);
            switch.push(0);
            self.wire.write(&switch)?;
            proof = self.wire.read()?;
        }
        let known = credentials.is_none_or(|(name, password)| {
            let expected = scramble_native(NONCE, password.as_bytes()).map(Vec::from).unwrap_or_default();
            *name == user && expected == proof
        });
        if known {
            self.ok(0)?
        } else {
            self.error(1045, "28000", &format!("Access denied for user '{user}'"))?
        }
        Ok(known)
    }

    fn ask(&self, statement: &str) -> Answer {
        self.statements.lock().unwrap().push(statement.to_owned());
        match (self.on_query)(statement) {
            Answer::Unscripted => unscripted(statement),
            answer => answer,
        }
    }

    fn answer(&mut self, answer: Answer, binary: bool) -> io::Result<()> {
        let (columns, rows) = match answer {
            Answer::Rows { columns, rows } => (columns, rows),
            Answer::Done { affected } => return self.ok(affected),
            Answer::Failed { code, state, text } => return self.error(code, state, &text),
            Answer::Never => {
                // What comes instead of patience is the end of the connection.
                let _ = self.wire.read();
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Answer::Unscripted => unreachable!("answered before"),
        };
        let mut count = Vec::new();
        put_lenenc(&mut count, columns.len());
        self.wire.write(&count)?;
        for column in &columns {
            self.definition(column)?;
        }
        self.eof()?;
        for row in rows {
            assert_eq!(row.len(), columns.len(), "a scripted row has as many cells as there are columns");
            let mut packet = Vec::new();
            if binary {
                put_binary_row(&mut packet, &columns, &row);
            } else {
                for cell in &row {
                    match cell {
                        Some(cell) => put_lenenc_bytes(&mut packet, cell),
                        None => packet.push(0xfb),
                    }
                }
            }
            self.wire.write(&packet)?;
        }
        self.eof()
    }

    fn prepare(&mut self, statement: &str) -> io::Result<()> {
        let parts = split_at_parameters(statement);
        let parameters = parts.len() - 1;
        self.prepared.push(Prepared { parts, types: Vec::new() });
        let mut packet = vec![0];
        packet.extend_from_slice(&u32::try_from(self.prepared.len()).unwrap().to_le_bytes());
        // No columns yet: only the handler knows them, and it is asked at each execution, which tells them.
        packet.extend_from_slice(&0_u16.to_le_bytes());
        packet.extend_from_slice(&u16::try_from(parameters).unwrap().to_le_bytes());
        packet.extend_from_slice(&[0, 0, 0]);
        self.wire.write(&packet)?;
        if parameters > 0 {
            for _ in 0..parameters {
                self.definition(&Column::text("?"))?;
            }
            self.eof()?;
        }
        Ok(())
    }

    /// The prepared statement with its parameters put in as literals.
    fn bind(&mut self, packet: &[u8]) -> Option<String> {
        let mut at = Cursor(packet);
        let number = usize::try_from(at.int(4)?).ok()?;
        at.take(1 + 4)?;
        let prepared = self.prepared.get_mut(number.checked_sub(1)?)?;
        let count = prepared.parts.len() - 1;
        let mut statement = prepared.parts[0].clone();
        if count == 0 {
            return Some(statement);
        }
        let nulls = at.take(count.div_ceil(8))?;
        if at.int(1)? == 1 {
            prepared.types = (0..count).map(|_| at.int(2).and_then(|kind| u16::try_from(kind).ok())).collect::<Option<_>>()?;
        }
        for (i, kind) in prepared.types.iter().enumerate() {
            if nulls[i / 8] & (1 << (i % 8)) != 0 {
                statement.push_str("NULL");
            } else {
                let unsigned = kind & 0x8000 != 0;
                let integer = |value: u64, bits: u32| {
                    // Sign extension by shifting up and down again.
                    if unsigned { value.to_string() } else { ((value << (64 - bits)).cast_signed() >> (64 - bits)).to_string() }
                };
                match kind & 0xff {
                    0x01 => statement.push_str(&integer(at.int(1)?, 8)),
                    0x02 => statement.push_str(&integer(at.int(2)?, 16)),
                    0x03 => statement.push_str(&integer(at.int(4)?, 32)),
                    0x08 => statement.push_str(&integer(at.int(8)?, 64)),
                    0x05 => statement.push_str(&f64::from_bits(at.int(8)?).to_string()),
                    0x06 => statement.push_str("NULL"),
                    0x0f | 0xf5..=0xfe => {
                        let text = String::from_utf8_lossy(at.lenenc_bytes()?).replace('\\', "\\\\").replace('\'', "''");
                        statement.push_str(&format!("'{text}'"));
                    }
                    _ => return None,
                }
            }
            statement.push_str(&prepared.parts[i + 1]);
        }
        Some(statement)
    }

    fn definition(&mut self, column: &Column) -> io::Result<()> {
        let mut packet = Vec::new();
        for text in ["def", "", "", "", &column.name, &column.name] {
            put_lenenc_bytes(&mut packet, text.as_bytes());
        }
        packet.push(12);
        packet.extend_from_slice(&column.collation.to_le_bytes());
        packet.extend_from_slice(&1024_u32.to_le_bytes());
        packet.push(column.kind);
        packet.extend_from_slice(&column.flags.to_le_bytes());
        // 31: a number of decimals that is not fixed.
        packet.extend_from_slice(&[31, 0, 0]);
        self.wire.write(&packet)
    }

    fn ok(&mut self, affected: u64) -> io::Result<()> {
        let mut packet = vec![0];
        put_lenenc(&mut packet, usize::try_from(affected).unwrap());
        packet.push(0);
        packet.extend_from_slice(&AUTOCOMMIT.to_le_bytes());
        packet.extend_from_slice(&[0, 0]);
        self.wire.write(&packet)
    }

    fn eof(&mut self) -> io::Result<()> {
        let status = AUTOCOMMIT.to_le_bytes();
        self.wire.write(&[0xfe, 0, 0, status[0], status[1]])
    }

    fn error(&mut self, code: u16, state: &str, text: &str) -> io::Result<()> {
        let mut packet = vec![0xff];
        packet.extend_from_slice(&code.to_le_bytes());
        packet.push(b'#');
        packet.extend_from_slice(state.as_bytes());
        packet.extend_from_slice(text.as_bytes());
        self.wire.write(&packet)
    }
}

/// Cuts a statement at the question marks that stand outside of quotes.
fn split_at_parameters(statement: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quote = None;
    for c in statement.chars() {
        match (quote, c) {
            (None, '?') => {
                parts.push(String::new());
                continue;
            }
            (None, '\'' | '"' | '`') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts
}

fn put_lenenc(packet: &mut Vec<u8>, number: usize) {
    let bytes = u64::try_from(number).unwrap().to_le_bytes();
    match number {
        0..=250 => packet.push(bytes[0]),
        251..=0xffff => {
            packet.push(0xfc);
            packet.extend_from_slice(&bytes[..2]);
        }
        0x1_0000..=0xff_ffff => {
            packet.push(0xfd);
            packet.extend_from_slice(&bytes[..3]);
        }
        _ => {
            packet.push(0xfe);
            packet.extend_from_slice(&bytes);
        }
    }
}

fn put_lenenc_bytes(packet: &mut Vec<u8>, bytes: &[u8]) {
    put_lenenc(packet, bytes.len());
    packet.extend_from_slice(bytes);
}

/// Numbers in their own form, all else as text. Times, which have a form of their own too, are not served.
fn put_binary_row(packet: &mut Vec<u8>, columns: &[Column], row: &[Option<Vec<u8>>]) {
    packet.push(0);
    let start = packet.len();
    packet.resize(start + (columns.len() + 2).div_ceil(8), 0);
    for (i, (column, cell)) in columns.iter().zip(row).enumerate() {
        let Some(cell) = cell else {
            packet[start + (i + 2) / 8] |= 1 << ((i + 2) % 8);
            continue;
        };
        let number = || std::str::from_utf8(cell).unwrap();
        let integer =
            || number().parse::<i64>().map(|n| n.to_le_bytes()).or_else(|_| number().parse::<u64>().map(|n| n.to_le_bytes())).unwrap();
        match column.kind {
            0x01 => packet.extend_from_slice(&integer()[..1]),
            0x02 | 0x0d => packet.extend_from_slice(&integer()[..2]),
            0x03 | 0x09 => packet.extend_from_slice(&integer()[..4]),
            0x08 => packet.extend_from_slice(&integer()),
            0x04 => packet.extend_from_slice(&number().parse::<f32>().unwrap().to_le_bytes()),
            0x05 => packet.extend_from_slice(&number().parse::<f64>().unwrap().to_le_bytes()),
            0x07 | 0x0a | 0x0b | 0x0c => panic!("times in binary rows are not scripted"),
            _ => put_lenenc_bytes(packet, cell),
        }
    }
}

/// Reads a packet from the front; `None` at its end.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn int(&mut self, bytes: usize) -> Option<u64> {
        let mut number = [0; 8];
        number[..bytes].copy_from_slice(self.take(bytes)?);
        Some(u64::from_le_bytes(number))
    }

    fn until_nul(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        let taken = self.take(end);
        self.take(1);
        taken
    }

    fn lenenc_bytes(&mut self) -> Option<&'a [u8]> {
        let length = match self.int(1)? {
            0xfc => self.int(2)?,
            0xfd => self.int(3)?,
            0xfe => self.int(8)?,
            short => short,
        };
        self.take(usize::try_from(length).ok()?)
    }
}
