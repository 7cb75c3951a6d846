//! Servers that speak MySQL's protocol, as sources and as destinations: MySQL itself and Vitess's vtgate.

mod connect;
mod interval;
#[cfg(unix)]
mod socket;

pub(crate) use connect::{Connection, is_tablet_away, kind_of, query_error};
pub(crate) use interval::condition;

/// A name as MySQL's statements take it, whatever it holds.
pub(crate) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}
