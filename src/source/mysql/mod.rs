//! Tables read over MySQL's own protocol, from MySQL and vtgate alike.

mod connect;
mod decode;
mod interval;
mod read;
mod schema;
#[cfg(unix)]
mod socket;

pub use connect::ServerKind;
pub(crate) use connect::{Connection, Interrupter};
#[cfg(any(feature = "_fuzzing", test))]
pub(crate) use decode::{TextForm, push};
pub use read::Rows;
#[cfg(feature = "vstream")]
pub(crate) use read::{quoted, read_some};
pub(crate) use schema::{table, tables};
