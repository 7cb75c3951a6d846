//! Moves tables and their changes out of PlanetScale, Vitess and MySQL into DuckDB and SQLite, from inside a program.

mod error;
mod source;
mod tls;

pub use error::{Error, ErrorKind, PositionFault, Result};
pub use tls::Tls;
