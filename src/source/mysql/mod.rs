//! Tables read over MySQL's own protocol, from MySQL and vtgate alike.

mod decode;
mod origin;
mod read;
mod schema;

#[cfg(any(feature = "_fuzzing", test))]
pub(crate) use decode::{TextForm, push};
pub(crate) use origin::MySql;
#[cfg(feature = "vstream")]
pub(crate) use read::read_some;
pub(crate) use read::read_stored;

pub(crate) use crate::server::Connection;
#[cfg(feature = "vstream")]
pub(crate) use crate::server::quoted;
