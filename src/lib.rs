//! Moves tables and their changes out of PlanetScale, Vitess and MySQL into DuckDB and SQLite, from inside a program.

mod batch;
mod change;
mod error;
mod gtid;
mod position;
mod schema;
mod source;
mod value;
mod wire;

pub use batch::{Batch, ColumnData, Row, Values, VarLen};
pub use change::{Change, ChangeBatch, Checkpoint, Op, TableChanges};
pub use error::{Error, ErrorKind, PositionFault, Result};
pub use gtid::{GtidSet, ServerUuid};
pub use position::{LastPk, Lsn, ShardGtid, Vgtid};
pub use schema::{Column, ColumnType, Table, TableName};
pub use value::{DateTime, Time, ValueRef, ZeroDates};
