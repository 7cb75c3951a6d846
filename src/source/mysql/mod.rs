//! Tables read over MySQL's own protocol, from MySQL and vtgate alike.

mod decode;
mod read;
mod schema;

pub use crate::server::ServerKind;
#[cfg(feature = "vstream")]
pub(crate) use crate::server::quoted;
pub(crate) use crate::server::{Connection, Interrupter};
#[cfg(any(feature = "_fuzzing", test))]
pub(crate) use decode::{TextForm, push};
pub use read::Rows;
#[cfg(feature = "vstream")]
pub(crate) use read::read_some;
pub(crate) use read::read_stored;
pub(crate) use schema::{table, tables};
