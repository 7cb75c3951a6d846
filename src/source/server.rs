//! What a source is.

/// What a server says it is, or of what kind a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerKind {
    /// MySQL, or something that speaks like it.
    MySql {
        /// What `@@version` says.
        version: String,
    },
    /// Vitess's vtgate; PlanetScale is one.
    Vitess {
        /// What `@@version` says: the MySQL version that vtgate presents.
        version: String,
        /// What `@@version_comment` says, where vtgate names its own version.
        comment: String,
    },
    /// An SQLite file.
    Sqlite {
        /// The version of the library that reads it.
        version: String,
    },
    /// A DuckDB file.
    DuckDb {
        /// The version of the library that reads it.
        version: String,
    },
    /// PostgreSQL, or something that speaks like it.
    Postgres {
        /// What `server_version` says.
        version: String,
    },
}

impl ServerKind {
    /// What the server says its version is; of a file, the version of the library that reads it.
    pub fn version(&self) -> &str {
        match self {
            Self::MySql { version }
            | Self::Vitess { version, .. }
            | Self::Sqlite { version }
            | Self::DuckDb { version }
            | Self::Postgres { version } => version,
        }
    }

    /// Whether this is vtgate.
    pub fn is_vitess(&self) -> bool {
        matches!(self, Self::Vitess { .. })
    }

    /// The name of what it is.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::MySql { .. } => "MySQL",
            Self::Vitess { .. } => "Vitess",
            Self::Sqlite { .. } => "SQLite",
            Self::DuckDb { .. } => "DuckDB",
            Self::Postgres { .. } => "PostgreSQL",
        }
    }
}
