//! The destinations of a test, and what is in them beside what a server prints.

use std::path::{Path, PathBuf};

use mysql::prelude::Queryable;

use super::servers::Server;

/// The destinations of a test, in a folder of their own.
pub struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn sqlite(&self) -> PathBuf {
        self.folder.path().join("copy.db")
    }

    #[cfg(feature = "duckdb")]
    pub fn duckdb(&self) -> PathBuf {
        self.folder.path().join("copy.duckdb")
    }

    pub fn uris(&self) -> Vec<String> {
        vec![
            format!("sqlite://{}", self.sqlite().display()),
            #[cfg(feature = "duckdb")]
            format!("duckdb://{}", self.duckdb().display()),
        ]
    }

    /// What a query returns from each destination, as text.
    pub fn each(&self, sql: &str) -> Vec<Vec<Vec<Option<String>>>> {
        vec![
            sqlite_rows(&self.sqlite(), sql),
            #[cfg(feature = "duckdb")]
            duckdb_rows(&self.duckdb(), sql),
        ]
    }

    pub fn tables(&self) -> Vec<Vec<String>> {
        let names = |rows: Vec<Vec<Option<String>>>| rows.into_iter().map(|row| row[0].clone().unwrap()).collect();
        vec![
            names(sqlite_rows(&self.sqlite(), "select name from sqlite_schema where type = 'table' order by 1")),
            #[cfg(feature = "duckdb")]
            names(duckdb_rows(&self.duckdb(), "select table_name from duckdb_tables() order by 1")),
        ]
    }
}

pub fn sqlite_rows(file: &Path, sql: &str) -> Vec<Vec<Option<String>>> {
    use rusqlite::types::ValueRef;
    let connection = rusqlite::Connection::open(file).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| {
        (0..columns)
            .map(|column| {
                Ok(match row.get_ref(column)? {
                    ValueRef::Null => None,
                    ValueRef::Integer(number) => Some(number.to_string()),
                    ValueRef::Real(number) => Some(format!("{number:?}")),
                    ValueRef::Text(text) => Some(String::from_utf8(text.to_vec()).unwrap()),
                    ValueRef::Blob(bytes) => Some(hex(bytes)),
                })
            })
            .collect()
    });
    rows.unwrap().map(Result::unwrap).collect()
}

#[cfg(feature = "duckdb")]
pub fn duckdb_rows(file: &Path, sql: &str) -> Vec<Vec<Option<String>>> {
    let connection = duckdb::Connection::open(file).unwrap();
    let mut statement = connection.prepare(&format!("select cast(columns(*) as varchar) from ({sql})")).unwrap();
    let mut rows = statement.query([]).unwrap();
    let mut found = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let columns = row.as_ref().column_count();
        found.push((0..columns).map(|column| row.get::<_, Option<String>>(column).unwrap()).collect());
    }
    found
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// What MySQL prints.
#[track_caller]
pub fn printed(conn: &mut mysql::Conn, sql: &str) -> Vec<Vec<Option<String>>> {
    let rows: Vec<mysql::Row> = conn.query(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    rows.into_iter()
        .map(|row| {
            let cells = row.unwrap().into_iter();
            cells
                .map(|cell| match cell {
                    mysql::Value::NULL => None,
                    mysql::Value::Bytes(bytes) => Some(String::from_utf8(bytes).unwrap()),
                    other => panic!("{other:?} in the text protocol"),
                })
                .collect()
        })
        .collect()
}

/// A connection in UTC whose database is chosen.
pub fn connected(server: &Server, database: &str) -> mysql::Conn {
    let mut conn = server.conn();
    for statement in
        [format!("use `{database}`"), "set names utf8mb4".into(), "set time_zone = '+00:00'".into(), "set sql_mode = ''".into()]
    {
        conn.query_drop(statement).unwrap();
    }
    conn
}
