//! Tables read over MySQL's own protocol, from MySQL and vtgate alike.

mod connect;
mod decode;
mod interval;
mod origin;
mod read;
mod schema;
#[cfg(unix)]
mod socket;

pub(crate) use connect::Connection;
#[cfg(any(feature = "_fuzzing", test))]
pub(crate) use decode::{TextForm, push};
pub(crate) use origin::MySql;
#[cfg(feature = "vstream")]
pub(crate) use read::{quoted, read_some};
