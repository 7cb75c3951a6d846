//! What several test modules use.

#![allow(dead_code, reason = "which helpers are used depends on the features")]

pub mod alone;
pub mod cluster;
pub mod proxy;
pub mod servers;
