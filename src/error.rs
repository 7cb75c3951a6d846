//! One error type for the whole crate.

use std::error::Error as StdError;
use std::fmt;

/// The result of nearly everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Cause = Box<dyn StdError + Send + Sync + 'static>;

/// What went wrong, in a sentence, with what was being worked on where that is known.
///
/// `Display` prints the sentence; [`source`](StdError::source) is the cause; `{:#}` prints the whole chain. No text of an error holds a
/// password or a value of a row.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    table: Option<String>,
    column: Option<String>,
    shard: Option<String>,
    position: Option<String>,
    cause: Option<Cause>,
    /// It is about more than its table: another run writes to the destination.
    is_of_run: bool,
}

/// What a caller would branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A URI or an option is wrong, or two of them contradict each other. Nothing was contacted.
    Config,
    /// A server cannot be reached, or the connection broke. Trying again may help.
    Connect,
    /// TLS could not be agreed on: unknown issuer, wrong host name, one side plain and the other not.
    Tls,
    /// The server refused the user, the password or the client certificate.
    Auth,
    /// The source's tables are not what was asked for: no such table, no primary key, a column that cannot be mapped.
    Schema,
    /// Something that this crate or the server does not do.
    Unsupported,
    /// A value that the server sent does not fit its declared type.
    Decode,
    /// The stored position cannot be resumed from; [`Error::position_fault`] says why.
    Position(PositionFault),
    /// The server broke the protocol.
    Protocol,
    /// The captured table was dropped or renamed at the source, or changed in a way that cannot be followed.
    SchemaChange,
    /// The destination is not in the state that was expected of it: another run writes to it, or somebody has changed what a run left there.
    Conflict,
    /// The destination failed to read or write.
    Sink,
    /// The source failed to read.
    Source,
    /// A limit was reached: a message, row or transaction is larger than allowed.
    Limit,
    /// Nothing came for longer than a deadline.
    Timeout,
    /// The caller cancelled.
    Cancelled,
}

/// Why a stored position cannot be resumed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PositionFault {
    /// The text does not parse.
    Unreadable,
    /// It belongs to another keyspace.
    Keyspace,
    /// Its shards are not those that serve.
    Shards,
    /// Transactions that follow it are gone from the binary logs.
    Purged,
    /// It holds transactions that the server has not executed yet.
    Ahead,
    /// It holds transactions of servers that this server has never replicated from.
    Foreign,
    /// There are rows in the destination, but no position.
    Missing,
}

#[allow(dead_code, reason = "some constructors and places serve only some features")]
impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            table: None,
            column: None,
            shard: None,
            position: None,
            cause: None,
            is_of_run: false,
        }))
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Protocol, message)
    }

    pub(crate) fn decode(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Decode, message)
    }

    pub(crate) fn position_fault_of(fault: PositionFault, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Position(fault), message)
    }

    #[must_use]
    pub(crate) fn with_cause(mut self, cause: impl Into<Cause>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    #[must_use]
    pub(crate) fn with_table(mut self, table: impl fmt::Display) -> Self {
        self.0.table.get_or_insert_with(|| table.to_string());
        self
    }

    /// Says that the whole run is to end, and not the work on one table.
    #[must_use]
    pub(crate) fn of_run(mut self) -> Self {
        self.0.is_of_run = true;
        self
    }

    pub(crate) fn is_of_run(&self) -> bool {
        self.0.is_of_run
    }

    #[must_use]
    pub(crate) fn with_column(mut self, column: impl fmt::Display) -> Self {
        self.0.column.get_or_insert_with(|| column.to_string());
        self
    }

    #[must_use]
    pub(crate) fn with_shard(mut self, shard: impl fmt::Display) -> Self {
        self.0.shard.get_or_insert_with(|| shard.to_string());
        self
    }

    #[must_use]
    pub(crate) fn with_position(mut self, position: impl fmt::Display) -> Self {
        self.0.position.get_or_insert_with(|| position.to_string());
        self
    }

    /// What a caller would branch on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Why a stored position cannot be resumed from, where that is the error.
    pub fn position_fault(&self) -> Option<PositionFault> {
        match self.0.kind {
            ErrorKind::Position(fault) => Some(fault),
            _ => None,
        }
    }

    /// The table that was being worked on.
    pub fn table(&self) -> Option<&str> {
        self.0.table.as_deref()
    }

    /// The column that was being worked on.
    pub fn column(&self) -> Option<&str> {
        self.0.column.as_deref()
    }

    /// The shard that was being worked on.
    pub fn shard(&self) -> Option<&str> {
        self.0.shard.as_deref()
    }

    /// The position that was being worked on.
    pub fn position(&self) -> Option<&str> {
        self.0.position.as_deref()
    }

    /// Whether the same call may succeed later without anything being changed: connections that break and deadlines that pass.
    pub fn is_transient(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Connect | ErrorKind::Timeout)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        // Places are appended only where the sentence does not name them already.
        let places = [("table", &self.0.table), ("column", &self.0.column), ("shard", &self.0.shard), ("position", &self.0.position)];
        for (what, place) in places {
            if let Some(place) = place
                && !self.0.message.contains(&format!("`{place}`"))
            {
                write!(f, "; {what} `{place}`")?;
            }
        }
        if f.alternate() {
            let mut cause = self.source();
            while let Some(at) = cause {
                write!(f, ": {at}")?;
                cause = at.source();
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The chain on one line, so that `fn main() -> Result<()>` prints well.
        write!(f, "{:?}: {:#}", self.0.kind, self)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_one_word_wide() {
        assert_eq!(std::mem::size_of::<Error>(), std::mem::size_of::<usize>());
    }

    #[test]
    fn alternate_display_prints_the_chain_and_plain_display_does_not() {
        let error = Error::config("`tls` must be a mode").with_cause(std::io::Error::other("because")).with_table("orders");
        assert_eq!(error.to_string(), "`tls` must be a mode; table `orders`");
        assert_eq!(format!("{error:#}"), "`tls` must be a mode; table `orders`: because");
    }
}
