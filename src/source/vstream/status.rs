//! What a gRPC status of vtgate means: one table.
//!
//! vtgate's texts quote the statement that failed with its bound values, so no error holds more of them than the fragment by which it was
//! recognised and a MySQL error number.

use grpcio::RpcStatusCode as Code;

use crate::{Error, ErrorKind, PositionFault};

/// The parameter that bounds a message.
pub(super) const MESSAGE_LIMIT: &str = "max_message_bytes";

struct Meaning {
    fragments: &'static [&'static str],
    kind: ErrorKind,
    sentence: &'static str,
}

const NO_SUCH_TABLE: &str = "the tablet knows no such table: a replica may take minutes to notice a new one";

/// Whether a tablet has not noticed a table yet, or there is none.
pub(super) fn is_unnoticed(error: &Error) -> bool {
    error.kind() == ErrorKind::Schema && error.to_string().starts_with(NO_SUCH_TABLE)
}

/// Read from the top: the first fragment that the text holds decides. Errors of a tablet arrive as UNKNOWN whatever they were, so the text says
/// more than the code.
const MEANINGS: &[Meaning] = &[
    Meaning {
        fragments: &["purged required binary logs", "errno 1236", "Could not find first log file"],
        kind: ErrorKind::Position(PositionFault::Purged),
        sentence: "the binary logs no longer hold the transactions that follow the position",
    },
    Meaning {
        fragments: &["unknown GTIDSet flavor", "could not decode position", "invalid MySQL 5.6 GTID set", "invalid interval"],
        kind: ErrorKind::Position(PositionFault::Unreadable),
        sentence: "the server cannot read the position",
    },
    Meaning {
        fragments: &["shard provided in VGTID"],
        kind: ErrorKind::Position(PositionFault::Shards),
        sentence: "the position names a shard that the keyspace does not have (any more)",
    },
    Meaning {
        fragments: &["not all journaling participants"],
        kind: ErrorKind::Position(PositionFault::Shards),
        sentence: "shards were split or merged, and not all that took part are in the stream",
    },
    // Where the sets are compared before streaming, this is a tablet that lags behind after a failover.
    Meaning { fragments: &["GTIDSet Mismatch"], kind: ErrorKind::Connect, sentence: "no tablet has reached the position" },
    Meaning { fragments: &["is not present in the database"], kind: ErrorKind::Schema, sentence: NO_SUCH_TABLE },
    Meaning {
        fragments: &["needs a position or a table to copy"],
        kind: ErrorKind::Schema,
        sentence: "there is nothing to stream: the tables do not exist, or the position holds no transaction",
    },
    Meaning {
        fragments: &["node doesn't exist", "No partition found"],
        kind: ErrorKind::Schema,
        sentence: "there is no such keyspace, or it has no tablets of this type",
    },
    Meaning {
        fragments: &["cannot determine table columns", "unknown table", "not found in table", "does not have valid string values"],
        kind: ErrorKind::SchemaChange,
        sentence: "the table's columns are no longer those of the binary log",
    },
    Meaning {
        fragments: &["unexpected statement type"],
        kind: ErrorKind::Unsupported,
        sentence: "the binary log holds a statement that Vitess cannot read",
    },
    Meaning {
        fragments: &["minimal binlog_row_image", "partial row image"],
        kind: ErrorKind::Unsupported,
        sentence: "the source's binlog_row_image leaves out columns that are needed",
    },
    Meaning {
        fragments: &["context has expired", "failed to find a"],
        kind: ErrorKind::Connect,
        sentence: "vtgate finds no tablet to stream from: none of this type serves, all lag, or none has the position",
    },
    Meaning {
        fragments: &[
            "is either down or nonexistent",
            "failed to get tablet connection to",
            "no healthy tablet",
            "connection refused",
            "errno 2002",
            "errno 2003",
            "errno 2006",
            "errno 2013",
        ],
        kind: ErrorKind::Connect,
        sentence: "vtgate lost its tablet",
    },
    Meaning {
        fragments: &["failed to determine if keyspace", "fetch error"],
        kind: ErrorKind::Connect,
        sentence: "vtgate cannot read its topology",
    },
    Meaning {
        fragments: &["wrong tablet type", "VStreamer is not open", "does not match expected"],
        kind: ErrorKind::Connect,
        sentence: "the tablet changed its role",
    },
    Meaning { fragments: &["errno 3024"], kind: ErrorKind::Connect, sentence: "a copy cycle reached its time limit" },
    Meaning {
        fragments: &["username and password must be provided"],
        kind: ErrorKind::Auth,
        sentence: "the server asks for a user and a password",
    },
    Meaning {
        fragments: &["auth failure", "provided invalid credentials"],
        kind: ErrorKind::Auth,
        sentence: "the server refuses the user or the password",
    },
    Meaning {
        fragments: &["client certificate not authorized", "not connected via TLS"],
        kind: ErrorKind::Auth,
        sentence: "the server refuses the client certificate: check `tls_cert` and `tls_key`",
    },
    Meaning { fragments: &["unexpected EOF", "EOF"], kind: ErrorKind::Connect, sentence: "a connection behind vtgate broke" },
];

/// What the text tells, if it is one that we know.
pub(super) fn by_text(code: Code, text: &str, max_message_bytes: usize) -> Option<Error> {
    // Ours says "Received message", a server's "trying to send" or "received message".
    if code == Code::RESOURCE_EXHAUSTED && text.contains("larger than max") {
        return Some(if text.contains("trying to send") {
            Error::new(
                ErrorKind::Limit,
                format!("a message is larger than the server sends: raise vtgate's --grpc-max-message-size ({})", said(code, text)),
            )
        } else {
            Error::new(
                ErrorKind::Limit,
                format!("a message is larger than {max_message_bytes} bytes: raise `{MESSAGE_LIMIT}` ({})", said(code, text)),
            )
        });
    }
    MEANINGS.iter().find_map(|meaning| {
        let fragment = meaning.fragments.iter().find(|fragment| text.contains(**fragment))?;
        let error = Error::new(meaning.kind, format!("{}; vtgate answered {}: `{fragment}`", meaning.sentence, said(code, text)));
        Some(match table_of(text) {
            Some(table) if meaning.kind == ErrorKind::SchemaChange => error.with_table(table),
            _ => error,
        })
    })
}

/// The table whose changes a tablet cannot read: `cannot determine table columns for t: event has …`.
fn table_of(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("cannot determine table columns for ")?;
    let (table, _) = rest.split_once(": event has")?;
    // MySQL's own limit for a name.
    (table.chars().count() <= 64).then_some(table)
}

/// What the code alone tells.
pub(super) fn by_code(code: Code, text: &str) -> Error {
    let (kind, sentence) = match code {
        Code::UNIMPLEMENTED => (
            ErrorKind::Unsupported,
            "this port does not serve vtgate's VStream: `grpc_port` must be vtgate's gRPC port, and its --service-map must list grpc-vtgateservice",
        ),
        Code::UNAUTHENTICATED => (ErrorKind::Auth, "the server does not know the user, or asks for one"),
        Code::PERMISSION_DENIED => (ErrorKind::Auth, "the server refuses the user or the password"),
        Code::RESOURCE_EXHAUSTED => (ErrorKind::Limit, "the server reached one of its limits"),
        Code::UNAVAILABLE | Code::CANCELLED | Code::ABORTED | Code::NOT_FOUND | Code::FAILED_PRECONDITION => {
            (ErrorKind::Connect, "the stream broke")
        }
        Code::DEADLINE_EXCEEDED => (ErrorKind::Timeout, "the server's time limit for the stream is over"),
        Code::UNKNOWN | Code::INTERNAL | Code::INVALID_ARGUMENT => (ErrorKind::Source, "the server ended the stream with an error"),
        _ => (ErrorKind::Protocol, "the server ended the stream in a way that is not known"),
    };
    Error::new(kind, format!("{sentence}; vtgate answered {}", said(code, text)))
}

/// Whether a status comes from our own end's gRPC library, which noticed that the connection is gone, and not from the server.
pub(super) fn is_about_the_connection(code: Code, text: &str) -> bool {
    const LOCAL: &[&str] = &[
        "Socket closed",
        "Stream removed",
        "Endpoint closing",
        "Transport closed",
        "Connection reset",
        "Broken pipe",
        "recvmsg",
        "GOAWAY",
    ];
    code == Code::UNAVAILABLE || matches!(code, Code::UNKNOWN | Code::INTERNAL) && LOCAL.iter().any(|local| text.contains(local))
}

/// The code by its name, and MySQL's error number if the text holds one.
fn said(code: Code, text: &str) -> String {
    let name = format!("{code:?}");
    let name = name.split_once('-').map_or(name.as_str(), |(_, name)| name);
    let number = text.split_once("errno ").map(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default());
    match number {
        Some(number) if (1..=5).contains(&number.len()) => format!("{name} (MySQL error {number})"),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(code: Code, text: &str) -> Error {
        by_text(code, text, 1000).unwrap_or_else(|| by_code(code, text))
    }

    /// Texts as servers sent them, and what they mean.
    #[test]
    fn known_texts_have_their_kinds() {
        use ErrorKind::*;
        use PositionFault::*;
        let cases = [
            (
                Code::UNKNOWN,
                "target: customer.-80.primary: vttablet: rpc error: code = Unknown desc = stream (at source tablet) error @ 8bc6:1-29: Cannot \
                 replicate because the source purged required binary logs. Replicate the missing transactions from elsewhere (errno 1236) \
                 (sqlstate HY000)",
                Position(Purged),
            ),
            (Code::INTERNAL, "could not decode position: parse error: unknown GTIDSet flavor \"\"", Position(Unreadable)),
            (
                Code::FAILED_PRECONDITION,
                "failed to determine if keyspace customer is sharded: shard provided in VGTID, -80, not found in the customer keyspace",
                Position(Shards),
            ),
            (Code::INTERNAL, "not all journaling participants are in the stream: journal: id:1", Position(Shards)),
            (Code::UNKNOWN, "GTIDSet Mismatch: requested source position:x, current target vrep position: y", Connect),
            (
                Code::UNKNOWN,
                "persistent error in vstream for commerce/0 on tablet zone1-1; giving up: table nope is not present in the database",
                Schema,
            ),
            (Code::UNKNOWN, "stream (at source tablet) error @ : stream needs a position or a table to copy", Schema),
            (Code::UNKNOWN, "failed to determine if keyspace nope: keyspace nope fetch error: node doesn't exist: keyspaces/nope", Schema),
            (Code::UNKNOWN, "topo: keyspace x fetch error: deadline exceeded", Connect),
            (Code::UNKNOWN, "cannot determine table columns for t: event has [..], schema has [..]", SchemaChange),
            (Code::UNKNOWN, "column c not found in table t", SchemaChange),
            (Code::UNKNOWN, "unexpected statement type x in row-based replication", Unsupported),
            (Code::INTERNAL, "minimal binlog_row_image is not supported by Vitess VReplication", Unsupported),
            (
                Code::CANCELLED,
                "error starting stream from shard GTID keyspace:\"customer\" shard:\"-80\": failed to find a PRIMARY tablet for VStream in \
                 customer/-80 within the zone1 cell(s): context has expired",
                Connect,
            ),
            (Code::NOT_FOUND, "tablet: cell:\"zone1\" uid:100 is either down or nonexistent", Connect),
            (
                Code::UNKNOWN,
                "persistent error … giving up: net.Dial(mysql.sock): connect: connection refused (errno 2002) (sqlstate HY000)",
                Connect,
            ),
            (Code::FAILED_PRECONDITION, "wrong tablet type: PRIMARY, want: REPLICA or []", Connect),
            (Code::UNKNOWN, "Query execution was interrupted, maximum statement execution time exceeded (errno 3024)", Connect),
            (Code::UNAUTHENTICATED, "username and password must be provided", Auth),
            (Code::PERMISSION_DENIED, "auth failure: caller \"app\" provided invalid credentials", Auth),
            (Code::UNAUTHENTICATED, "client certificate not authorized", Auth),
            (Code::RESOURCE_EXHAUSTED, "grpc: trying to send message larger than max (17000000 vs. 16777216)", Limit),
            (Code::RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max (5000 vs. 1000)", Limit),
            (Code::UNIMPLEMENTED, "unknown service vtgateservice.Vitess", Unsupported),
            (Code::UNAVAILABLE, "Socket closed", Connect),
            (Code::DEADLINE_EXCEEDED, "", Timeout),
            (Code::UNKNOWN, "something new", Source),
            (Code::DATA_LOSS, "", Protocol),
        ];
        for (code, text, kind) in cases {
            assert_eq!(classify(code, text).kind(), kind, "{text}");
        }
    }

    #[test]
    fn the_table_that_a_tablet_cannot_read_is_named() {
        let error =
            classify(Code::UNKNOWN, "vttablet: cannot determine table columns for or ders: event has [265], schema has [name:\"id\"]");
        assert_eq!((error.kind(), error.table()), (ErrorKind::SchemaChange, Some("or ders")));
        assert_eq!(classify(Code::UNKNOWN, "cannot determine table columns").table(), None);
    }

    #[test]
    fn limits_name_the_setting_that_raises_them() {
        let ours = classify(Code::RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max (5000 vs. 1000)").to_string();
        assert_eq!(ours, "a message is larger than 1000 bytes: raise `max_message_bytes` (RESOURCE_EXHAUSTED)");
        let theirs = classify(Code::RESOURCE_EXHAUSTED, "trying to send message larger than max (17000000 vs. 16777216)").to_string();
        assert!(theirs.contains("--grpc-max-message-size"), "{theirs}");
    }

    #[test]
    fn no_error_passes_on_what_a_statement_was_bound_to() {
        for code in 1..=16 {
            for text in [
                "insert into t values (:secret): Duplicate entry 'hunter2' for key (errno 1062) bindvars {hunter2}",
                "GTIDSet Mismatch hunter2",
                "table x is not present in the database hunter2",
                "errno hunter2",
            ] {
                let error = classify(Code::from(code), text);
                assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
            }
        }
    }

    #[test]
    fn the_number_of_a_mysql_error_is_kept() {
        let error = classify(Code::UNKNOWN, "Lost connection (errno 2013) (sqlstate HY000)");
        assert_eq!(error.to_string(), "vtgate lost its tablet; vtgate answered UNKNOWN (MySQL error 2013): `errno 2013`");
    }
}
