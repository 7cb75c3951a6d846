//! What follows the `?` of a URI, and how numbers, durations and sizes are written there.

use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};
use crate::place::IntervalType;
use crate::tls::Tls;

/// What a URI is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Source,
    Sink,
}

/// Every parameter of a source, and the schemes that take it.
const SOURCE_PARAMETERS: &[Known] = &[
    ("tls", &["mysql", "mysql+cdc"]),
    ("tls_ca", &["mysql", "mysql+cdc"]),
    ("tls_cert", &["mysql", "mysql+cdc"]),
    ("tls_key", &["mysql", "mysql+cdc"]),
    ("connect_timeout", &["mysql", "mysql+cdc", "postgresql"]),
    ("read_timeout", &["mysql", "mysql+cdc", "postgresql"]),
    ("retry_timeout", &["mysql", "mysql+cdc", "postgresql"]),
    ("grpc_port", &["mysql+cdc"]),
    ("grpc_host", &["mysql+cdc"]),
    ("grpc_tls", &["mysql+cdc"]),
    ("grpc_credentials", &["mysql+cdc"]),
    ("mode", &["mysql+cdc"]),
    ("dest_schema", &["mysql+cdc"]),
    ("tablet_type", &["mysql+cdc"]),
    ("cells", &["mysql+cdc"]),
    ("shards", &["mysql+cdc"]),
    ("workload", &["mysql+cdc"]),
    ("max_message_bytes", &["mysql+cdc"]),
    ("no_progress_timeout", &["mysql+cdc"]),
    ("sslmode", &["postgresql"]),
    ("sslrootcert", &["postgresql"]),
    ("sslcert", &["postgresql"]),
    ("sslkey", &["postgresql"]),
    ("application_name", &["postgresql"]),
    ("options", &["postgresql"]),
    ("schema", &["postgresql", "duckdb"]),
    ("interval_type", &["postgresql", "duckdb"]),
    ("memory_limit", &["duckdb"]),
    ("busy_timeout", &["sqlite"]),
    ("types", &["sqlite"]),
];

/// Every parameter of a destination, and the schemes that take it.
const SINK_PARAMETERS: &[Known] = &[
    ("tls", &["mysql"]),
    ("tls_ca", &["mysql"]),
    ("tls_cert", &["mysql"]),
    ("tls_key", &["mysql"]),
    ("connect_timeout", &["mysql"]),
    ("read_timeout", &["mysql"]),
    ("retry_timeout", &["mysql"]),
    ("memory_limit", &["duckdb"]),
    ("threads", &["duckdb"]),
    ("time_type", &["duckdb"]),
    ("enum_type", &["duckdb"]),
    ("busy_timeout", &["sqlite"]),
    ("connections", &["mysql"]),
];

type Known = (&'static str, &'static [&'static str]);

impl Role {
    fn parameters(self) -> &'static [Known] {
        match self {
            Self::Source => SOURCE_PARAMETERS,
            Self::Sink => SINK_PARAMETERS,
        }
    }
}

/// How other tools call what is meant, in lower case and without hyphens and underscores.
const FOREIGN: [(&str, &str); 19] = [
    ("sslmode", "tls"),
    ("usessl", "tls"),
    ("requiressl", "tls"),
    ("verifyservercertificate", "tls"),
    ("ssl", "tls"),
    ("sslaccept", "tls"),
    ("tlsmode", "tls"),
    ("sslca", "tls_ca"),
    ("sslcafile", "tls_ca"),
    ("sslrootcert", "tls_ca"),
    ("sslcert", "tls_cert"),
    ("sslkey", "tls_key"),
    ("timeout", "connect_timeout"),
    ("grpcssl", "grpc_tls"),
    ("shard", "shards"),
    ("cell", "cells"),
    ("schema", "dest_schema"),
    ("tablet", "tablet_type"),
    ("maxmessagesize", "max_message_bytes"),
];

/// A query's parameters, decoded; the known ones only, each at most once, none empty.
pub(super) struct Parameters(Vec<(&'static str, String)>);

impl Parameters {
    pub(super) fn parse(query: Option<&str>, role: Role, scheme: &str) -> Result<Self> {
        let mut parameters = Self(Vec::new());
        for pair in query.into_iter().flat_map(|query| query.split('&')) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = known(name, role, scheme)?;
            if parameters.0.iter().any(|(before, _)| *before == name) {
                return Err(Error::config(format!("`{name}` is given twice")));
            }
            if value.is_empty() {
                return Err(Error::config(format!("`{name}` has no value")));
            }
            parameters.0.push((name, decode(&format!("`{name}`"), value)?));
        }
        Ok(parameters)
    }

    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| *known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// With what the message offers, as not every connection can do all.
    pub(super) fn tls(&mut self, name: &str, choices: &str) -> Result<Option<Tls>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        Tls::from_parameter(&value).map(Some).ok_or_else(|| Error::config(format!("`{name}` must be {choices}")))
    }

    /// The files of a certificate and of its key: both or neither.
    pub(super) fn certificate(&mut self, certificate: &str, key: &str) -> Result<Option<(String, String)>> {
        match (self.take(certificate), self.take(key)) {
            (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
            (Some(_), None) => Err(Error::config(format!("`{certificate}` needs `{key}`, the file of its private key"))),
            (None, Some(_)) => Err(Error::config(format!("`{key}` needs `{certificate}`, the file of its certificate"))),
            (None, None) => Ok(None),
        }
    }

    pub(super) fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match choices.iter().find(|(spelling, _)| *spelling == value) {
            Some((_, choice)) => Ok(Some(*choice)),
            None => {
                let spellings: Vec<_> = choices.iter().map(|(spelling, _)| format!("`{spelling}`")).collect();
                Err(Error::config(format!("`{name}` must be {}", alternatives(&spellings, "or"))))
            }
        }
    }

    pub(super) fn duration(&mut self, name: &str) -> Result<Option<Duration>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        parse_duration(&value)
            .map(Some)
            .ok_or_else(|| Error::config(format!("`{name}` must be a number with a unit, as in `500ms`, `10s`, `2m` or `1h`")))
    }

    pub(super) fn interval_type(&mut self) -> Result<Option<IntervalType>> {
        self.choice("interval_type", &[("time", IntervalType::Time), ("text", IntervalType::Text)])
    }

    pub(super) fn size(&mut self, name: &str) -> Result<Option<u64>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        parse_size(&value)
            .map(Some)
            .ok_or_else(|| Error::config(format!("`{name}` must be a number of bytes, or of `KiB`, `MiB` or `GiB`, as in `64MiB`")))
    }
}

/// The parameter of this name, or an error with the way to the right one.
fn known(name: &str, role: Role, scheme: &str) -> Result<&'static str> {
    let parameters = role.parameters();
    let found = parameters.iter().find(|(known, _)| *known == name);
    if let Some((known, schemes)) = found
        && schemes.contains(&scheme)
    {
        return Ok(known);
    }
    let plain: String = name.chars().filter(|c| !matches!(c, '_' | '-')).map(|c| c.to_ascii_lowercase()).collect();
    let meant = FOREIGN
        .iter()
        .find_map(|(foreign, known)| (*foreign == plain).then_some(*known))
        .or_else(|| parameters.iter().find_map(|(known, _)| (known.replace('_', "") == plain).then_some(*known)))
        .filter(|meant| parameters.iter().any(|(known, schemes)| known == meant && schemes.contains(&scheme)));
    if let (Some((known, schemes)), None) = (found, meant) {
        let theirs: Vec<_> = schemes.iter().map(|scheme| format!("`{scheme}://`")).collect();
        let message = format!("`{known}` is a parameter of {}, not of `{scheme}://`", alternatives(&theirs, "and"));
        return Err(Error::config(format!("{message}; {}", list_of_known(role, scheme))));
    }
    if name.is_empty() {
        return Err(Error::config(format!("there is a parameter without a name; {}", list_of_known(role, scheme))));
    }
    let is_name = name.len() <= 40 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    let shown = if is_name { format!("unknown parameter `{name}`") } else { "an unknown parameter".into() };
    let hint = meant.map_or_else(String::new, |meant| format!(": it is called `{meant}` here"));
    Err(Error::config(format!("{shown}{hint}; {}", list_of_known(role, scheme))))
}

fn list_of_known(role: Role, scheme: &str) -> String {
    let parameters = role.parameters().iter().filter(|(_, schemes)| schemes.contains(&scheme));
    let known: Vec<_> = parameters.map(|(known, _)| format!("`{known}`")).collect();
    match known.as_slice() {
        [one] => format!("`{scheme}://` knows {one}"),
        known => format!("`{scheme}://` knows {}", alternatives(known, "and")),
    }
}

/// `a`, `b` or `c`.
fn alternatives(names: &[String], word: &str) -> String {
    match names {
        [first @ .., last] if !first.is_empty() => format!("{} {word} {last}", first.join(", ")),
        names => names.concat(),
    }
}

pub(super) fn decode(what: &str, text: &str) -> Result<String> {
    let is_encoded = text.bytes().enumerate().filter(|(_, byte)| *byte == b'%').all(|(at, _)| {
        let digits = text.as_bytes().get(at + 1..at + 3);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if !is_encoded {
        return Err(Error::config(format!("{what} has a `%` without two hexadecimal digits after it: write `%` as %25")));
    }
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        // Not as the cause: what it says of the bytes is nothing to anyone, and the bytes may be a password's.
        Err(_) => Err(Error::config(format!("{what} is not UTF-8 once it is percent-decoded"))),
    }
}

pub(super) fn parse_port(text: &str) -> Option<u16> {
    parse_number(text).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
}

/// Decimal digits only; `str::parse` alone would take a plus sign.
pub(super) fn parse_number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let number = parse_number(number)?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(60 * 60).map(Duration::from_secs),
        _ => None,
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number = parse_number(number)?;
    match unit {
        "" => Some(number),
        "KiB" => number.checked_mul(1 << 10),
        "MiB" => number.checked_mul(1 << 20),
        "GiB" => number.checked_mul(1 << 30),
        _ => None,
    }
}
