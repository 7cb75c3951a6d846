//! Moves tables and their changes out of PlanetScale, Vitess and MySQL into DuckDB and SQLite, from inside a program.

mod error;
#[doc(hidden)]
#[cfg(any(test, feature = "_fuzzing"))]
pub mod fuzzing;
mod gtid;
mod options;
mod position;
mod tls;
mod uri;
// The event decoder of the feature `vstream` reads what positions do not need: packed numbers, other wire types.
#[allow(dead_code)]
mod wire;

pub use error::{Error, ErrorKind, PositionFault, Result};
pub use gtid::{GtidSet, ServerUuid};
pub use options::{
    CaptureMode, CaptureOptions, DuckDbOptions, GrpcCredentials, SinkOptions, SourceOptions, SqliteOptions, TabletType, Workload,
};
pub use position::{LastPk, Lsn, ShardGtid, Vgtid};
pub use tls::Tls;
