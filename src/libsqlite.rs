//! SQLite's library, as source and destination use it.

/// What SQLite says of a failure. Its own messages name tables and columns, but quote no values; the statement, which could, is left out.
pub(crate) fn said(cause: rusqlite::Error) -> String {
    match cause {
        rusqlite::Error::SqliteFailure(code, message) => message.unwrap_or_else(|| code.to_string()),
        rusqlite::Error::SqlInputError { error, msg, .. } => format!("{msg} ({error})"),
        other => other.to_string(),
    }
}
