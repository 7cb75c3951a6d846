//! Moves tables and their changes out of PlanetScale, Vitess and MySQL into DuckDB and SQLite, from inside a program.

mod batch;
mod change;
mod error;
#[cfg(any(test, feature = "_fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod gtid;
mod options;
mod position;
mod schema;
mod source;
mod tls;
mod uri;
mod value;
mod wire;

pub use batch::{Batch, ColumnData, Row, Values, VarLen};
pub use change::{Change, ChangeBatch, Checkpoint, Op, TableChanges};
pub use error::{Error, ErrorKind, PositionFault, Result};
pub use gtid::{GtidSet, ServerUuid};
pub use options::{
    CaptureMode, CaptureOptions, DuckDbOptions, GrpcCredentials, SinkOptions, SourceOptions, SqliteOptions, TabletType, Workload,
};
pub use position::{LastPk, Lsn, ShardGtid, Vgtid};
pub use schema::{Column, ColumnType, Table, TableName};
pub use tls::Tls;
pub use value::{DateTime, Time, ValueRef, ZeroDates};
