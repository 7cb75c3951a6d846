//! Sources that are not MySQL: which options they have of their own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::options::{SourceOptions, check_path, check_text, check_timeout};
use crate::{Error, Result};

/// What kind of source it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourcePlace {
    MySql,
    Postgres,
    Sqlite,
    DuckDb,
}

/// How the columns of an SQLite file are typed. SQLite itself lets every column hold values of every type, unless its table is STRICT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SqliteTypes {
    /// By what is declared: `DATETIME` is a date and time, `DECIMAL(10,2)` a decimal. A value that is none of the declared type is an error that names
    /// table and column. In a URI: `declared`.
    #[default]
    Declared,
    /// As text, but for columns that are declared as `BLOB`: every value that is no blob has a place, numbers in their shortest form. In a URI: `text`.
    Text,
}

/// How intervals are read, of which MySQL has no type: its `TIME` goes from -838:59:59 to 838:59:59.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IntervalType {
    /// As a `TIME`, which is what this crate stores as an interval. One with months or days, or a longer one, is an error. In a URI: `time`; DuckDB's
    /// default.
    Time,
    /// As the text that the source prints. In a URI: `text`; PostgreSQL's default.
    Text,
}

/// The options that only some sources have; `None` for their default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Special {
    pub(crate) path: Option<PathBuf>,
    pub(crate) schema: Option<String>,
    pub(crate) busy_timeout: Option<Duration>,
    pub(crate) sqlite_types: Option<SqliteTypes>,
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) interval_type: Option<IntervalType>,
    pub(crate) application_name: Option<String>,
    pub(crate) session_options: Option<String>,
}

/// Options of sources that are not MySQL.
impl SourceOptions {
    /// A PostgreSQL database on a host name or IP address; its port is 5432 unless another is set. TLS is set as for MySQL.
    pub fn postgres(host: impl Into<String>, database: impl Into<String>) -> Self {
        let mut options = Self::new(host, database).with_port(5432);
        options.place = SourcePlace::Postgres;
        options
    }

    /// An SQLite file, which is only read.
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        Self::file(SourcePlace::Sqlite, path.into())
    }

    /// A DuckDB file, which is only read. DuckDB lets no process write to it meanwhile.
    pub fn duckdb(path: impl Into<PathBuf>) -> Self {
        Self::file(SourcePlace::DuckDb, path.into())
    }

    fn file(place: SourcePlace, path: PathBuf) -> Self {
        let mut options = Self::new("", "");
        options.place = place;
        options.special.path = Some(path);
        options
    }

    /// The schema whose tables are listed, and in which a table without one is looked up. Default: DuckDB's `main`; those of PostgreSQL's
    /// `search_path`.
    #[must_use]
    pub fn with_schema(mut self, schema: impl Into<String>) -> Self {
        self.special.schema = Some(schema.into());
        self
    }

    /// How long to wait for a lock that another connection holds on an SQLite file; up to 24 hours. Default: 5 s.
    #[must_use]
    pub fn with_busy_timeout(mut self, timeout: Duration) -> Self {
        self.special.busy_timeout = Some(timeout);
        self
    }

    /// How the columns of an SQLite file are typed. Default: [`SqliteTypes::Declared`].
    #[must_use]
    pub fn with_sqlite_types(mut self, types: SqliteTypes) -> Self {
        self.special.sqlite_types = Some(types);
        self
    }

    /// How much memory DuckDB may use to read, 1 MiB or more. Default: 128 MiB.
    #[must_use]
    pub fn with_memory_limit_bytes(mut self, bytes: u64) -> Self {
        self.special.memory_limit_bytes = Some(bytes);
        self
    }

    /// How intervals are read. Default: DuckDB's as [`IntervalType::Time`], PostgreSQL's as [`IntervalType::Text`].
    #[must_use]
    pub fn with_interval_type(mut self, interval_type: IntervalType) -> Self {
        self.special.interval_type = Some(interval_type);
        self
    }

    /// What PostgreSQL shows as the program of its session. Default: `planetscale-ingest`.
    #[must_use]
    pub fn with_application_name(mut self, name: impl Into<String>) -> Self {
        self.special.application_name = Some(name.into());
        self
    }

    /// Settings of PostgreSQL's session, as on its command line: `-c search_path=sales`. Default: none.
    #[must_use]
    pub fn with_session_options(mut self, options: impl Into<String>) -> Self {
        self.special.session_options = Some(options.into());
        self
    }

    /// The file, of a source that is one.
    pub fn path(&self) -> Option<&Path> {
        self.special.path.as_deref()
    }

    /// The schema whose tables are listed, `None` for the source's default.
    pub fn schema(&self) -> Option<&str> {
        self.special.schema.as_deref()
    }

    /// How long to wait for a lock on an SQLite file.
    pub fn busy_timeout(&self) -> Duration {
        self.special.busy_timeout.unwrap_or(Duration::from_secs(5))
    }

    /// How the columns of an SQLite file are typed.
    pub fn sqlite_types(&self) -> SqliteTypes {
        self.special.sqlite_types.unwrap_or_default()
    }

    /// How much memory DuckDB may use to read.
    pub fn memory_limit_bytes(&self) -> u64 {
        self.special.memory_limit_bytes.unwrap_or(128 << 20)
    }

    /// How intervals are read.
    pub fn interval_type(&self) -> IntervalType {
        let default = if self.place == SourcePlace::Postgres { IntervalType::Text } else { IntervalType::Time };
        self.special.interval_type.unwrap_or(default)
    }

    /// What PostgreSQL shows as the program of its session.
    pub fn application_name(&self) -> &str {
        self.special.application_name.as_deref().unwrap_or("planetscale-ingest")
    }

    /// Settings of PostgreSQL's session.
    pub fn session_options(&self) -> Option<&str> {
        self.special.session_options.as_deref()
    }

    pub(crate) fn place(&self) -> SourcePlace {
        self.place
    }

    /// Whether it is a file, and not a server.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.place, SourcePlace::Sqlite | SourcePlace::DuckDb)
    }

    /// What errors call the database: its name, or its file.
    pub(crate) fn shown_database(&self) -> String {
        self.special.path.as_ref().map_or_else(|| self.database().to_owned(), |path| path.display().to_string())
    }

    /// Refuses what another source has.
    pub(crate) fn check_special(&self) -> Result<()> {
        let special = &self.special;
        let (is_sqlite, is_duckdb) = (self.place == SourcePlace::Sqlite, self.place == SourcePlace::DuckDb);
        let is_postgres = self.place == SourcePlace::Postgres;
        for (name, is_set, is_known) in [
            ("schema", special.schema.is_some(), is_duckdb || is_postgres),
            ("busy_timeout", special.busy_timeout.is_some(), is_sqlite),
            ("types", special.sqlite_types.is_some(), is_sqlite),
            ("memory_limit", special.memory_limit_bytes.is_some(), is_duckdb),
            ("interval_type", special.interval_type.is_some(), is_duckdb || is_postgres),
            ("application_name", special.application_name.is_some(), is_postgres),
            ("options", special.session_options.is_some(), is_postgres),
        ] {
            if is_set && !is_known {
                return Err(Error::config(format!("`{name}` is set for a source that does not have it")));
            }
        }
        if let Some(schema) = &special.schema {
            check_text("`schema`", schema)?;
        }
        for (name, text) in [("`application_name`", &special.application_name), ("`options`", &special.session_options)] {
            if let Some(text) = text {
                check_text(name, text)?;
            }
        }
        if is_postgres && self.user().is_none() {
            return Err(Error::config("the user is missing: PostgreSQL has no anonymous one"));
        }
        if is_postgres && self.capture().is_some() {
            return Err(Error::config("change capture needs Vitess or PlanetScale, not PostgreSQL"));
        }
        if !is_postgres && self.tls() == crate::Tls::VerifyIssuer {
            return Err(Error::config("only PostgreSQL has `sslmode=verify-ca`: set `tls=true`"));
        }
        if let Some(timeout) = special.busy_timeout {
            check_timeout("busy_timeout", timeout)?;
        }
        if special.memory_limit_bytes.is_some_and(|bytes| bytes < 1 << 20) {
            return Err(Error::config("`memory_limit` must be at least 1MiB"));
        }
        if let Some(path) = &special.path {
            check_path("the source's path", path)?;
            if path.as_os_str() == ":memory:" {
                return Err(Error::config("a source has to be a file: `:memory:` is empty"));
            }
        }
        Ok(())
    }
}
