//! The tests that go through the public API: one binary, so that heavy libraries are linked once. Most need real servers, which
//! `tests/servers/up` starts.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test program has no callers, and a panic is how it fails")]

#[cfg(feature = "sqlite")]
mod batch;
#[cfg(all(feature = "vstream", feature = "sqlite", feature = "duckdb"))]
mod capture;
#[cfg(all(unix, feature = "vstream", feature = "sqlite", feature = "duckdb"))]
mod destination;
#[cfg(all(feature = "vstream", feature = "sqlite"))]
mod examples;
#[cfg(all(feature = "vstream", feature = "sqlite", feature = "duckdb"))]
mod full;
#[cfg(all(feature = "vstream", feature = "sqlite", feature = "duckdb"))]
mod into_mysql;
#[cfg(all(feature = "vstream", feature = "sqlite", feature = "duckdb"))]
mod large;
#[cfg(all(feature = "vstream", feature = "sqlite", feature = "duckdb"))]
mod matrix;
#[cfg(all(feature = "vstream", feature = "sqlite", feature = "duckdb"))]
mod network;
#[cfg(all(feature = "vstream", feature = "sqlite", feature = "duckdb"))]
mod policies;
#[cfg(all(feature = "vstream", feature = "sqlite"))]
mod scripted;
#[cfg(feature = "vstream")]
mod scripted_vtgate;
mod servers;
#[cfg(all(feature = "sqlite", feature = "duckdb"))]
mod sources;
#[cfg(all(feature = "sqlite", feature = "duckdb"))]
mod strategies;
mod support;
#[cfg(all(feature = "vstream", feature = "sqlite", feature = "duckdb"))]
mod values;
#[cfg(feature = "vstream")]
#[path = "../vtgate/mod.rs"]
mod vtgate;
