//! Tables read over MySQL's own protocol, from MySQL and vtgate alike.

mod connect;
mod decode;
mod read;
mod schema;
#[cfg(unix)]
mod socket;

pub(crate) use connect::Connection;
pub use connect::ServerKind;
pub use read::Rows;
pub(crate) use schema::{table, tables};
