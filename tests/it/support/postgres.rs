//! The PostgreSQL server that `tests/servers/up --only postgres` has started, and SQL on it.

use std::path::PathBuf;
use std::sync::OnceLock;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::servers::cluster;

pub struct Postgres {
    pub host: String,
    pub port: u16,
    pub user: String,
    /// Has the same password, and may only read what it is granted.
    pub reader: String,
    pub password: String,
    pub ca: PathBuf,
    /// An authority that has signed nothing here.
    pub other_ca: PathBuf,
    pub client_cert: PathBuf,
    pub client_key: PathBuf,
}

pub fn postgres() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    SERVER.get_or_init(|| {
        let said = cluster(&["env", "postgres", "--json"])
            .unwrap_or_else(|error| panic!("no PostgreSQL server; `tests/servers/up --only postgres` starts it: {error}"));
        let found: Value = serde_json::from_str(&said).unwrap();
        let text = |name: &str| found[name].as_str().unwrap().to_owned();
        Postgres {
            host: text("postgres_host"),
            port: u16::try_from(found["postgres_port"].as_u64().unwrap()).unwrap(),
            user: text("postgres_user"),
            reader: text("postgres_reader"),
            password: text("postgres_password"),
            ca: text("ca").into(),
            other_ca: text("other_ca").into(),
            client_cert: text("client_cert").into(),
            client_key: text("client_key").into(),
        }
    })
}

pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

impl Postgres {
    /// Of the database `commerce`, by the user that may do everything.
    pub fn uri(&self, parameters: &str) -> String {
        self.uri_of(&self.user, self.port, parameters)
    }

    pub fn uri_of(&self, user: &str, port: u16, parameters: &str) -> String {
        let parameters = if parameters.is_empty() { "sslmode=prefer" } else { parameters };
        format!("postgresql://{}:{}@{}:{port}/commerce?{parameters}", encoded(user), encoded(&self.password), self.host)
    }

    /// Runs statements in one transaction.
    #[track_caller]
    pub fn exec(&self, sql: &str) -> String {
        cluster(&["sql", "postgres", sql]).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// A schema that is empty.
    #[track_caller]
    pub fn fresh_schema(&self, name: &str) {
        self.exec(&format!("set client_min_messages = error; drop schema if exists {name} cascade; create schema {name}"));
    }

    /// Rows of expressions, as the server prints them.
    #[track_caller]
    pub fn printed(&self, expressions: &[&str], rest: &str) -> Vec<Vec<Option<String>>> {
        // In hexadecimal, as tabs and line feeds divide cells and rows.
        let hex = |expression: &&str| format!("coalesce(encode(convert_to(({expression})::text, 'UTF8'), 'hex'), 'NULL')");
        let expressions: Vec<String> = expressions.iter().map(hex).collect();
        let printed = self.exec(&format!(
            "set timezone = 'UTC'; set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres'; select {} {rest}",
            expressions.join(", ")
        ));
        let cell = |cell: &str| {
            let digits = |at: usize| u8::from_str_radix(&cell[at..at + 2], 16).unwrap();
            (cell != "NULL").then(|| String::from_utf8((0..cell.len()).step_by(2).map(digits).collect()).unwrap())
        };
        printed.lines().map(|line| line.split('\t').map(cell).collect()).collect()
    }
}
