//! Moves tables and their changes out of PlanetScale, Vitess and MySQL into DuckDB and SQLite, from inside a program.

mod batch;
mod cancel;
// Without change capture nobody makes changes, but their types stay, so that a feature only adds.
#[cfg_attr(not(feature = "vstream"), allow(dead_code))]
mod change;
mod error;
#[cfg(any(test, feature = "_fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod gtid;
mod ingest;
mod options;
#[cfg_attr(not(feature = "vstream"), allow(dead_code))]
mod position;
mod report;
mod schema;
mod sink;
mod source;
mod tls;
mod uri;
mod value;
#[cfg_attr(not(feature = "vstream"), allow(dead_code))]
mod wire;

pub use batch::{Batch, ColumnData, Row, Values, VarLen};
pub use cancel::Cancel;
pub use change::{Change, ChangeBatch, Checkpoint, Op, TableChanges};
pub use error::{Error, ErrorKind, PositionFault, Result};
pub use gtid::{GtidSet, ServerUuid};
pub use ingest::{IngestOptions, Progress, Strategy, ingest};
pub use options::{
    CaptureMode, CaptureOptions, DuckDbOptions, GrpcCredentials, SinkOptions, SourceOptions, SqliteOptions, TabletType, Workload,
};
pub use position::{LastPk, Lsn, ShardGtid, Vgtid};
pub use report::{Report, TableReport, TableState};
pub use schema::{Column, ColumnType, Table, TableName};
pub use sink::checkpoint::StoredPosition;
pub use sink::{Deletes, Load, Merge, Sink, Written};
pub use source::Source;
pub use source::mysql::{Rows, ServerKind};
#[cfg(feature = "vstream")]
pub use source::vstream::run::{CaptureRequest, Changes};
pub use tls::Tls;
pub use value::{DateTime, Time, ValueRef, ZeroDates};
