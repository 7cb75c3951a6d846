//! Moves tables and their changes out of PlanetScale, Vitess and MySQL into DuckDB and SQLite, from inside a program.

mod batch;
mod error;
mod schema;
mod value;

pub use batch::{Batch, ColumnData, Row, Values, VarLen};
pub use error::{Error, ErrorKind, PositionFault, Result};
pub use schema::{Column, ColumnType, Table, TableName};
pub use value::{DateTime, Time, ValueRef, ZeroDates};
