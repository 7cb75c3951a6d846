//! The tests that go through the public API: one binary, so that heavy libraries are linked once.
#![allow(clippy::unwrap_used)]

#[cfg(feature = "vstream")]
#[path = "../vtgate/mod.rs"]
mod vtgate;

#[cfg(feature = "vstream")]
mod scripted_vtgate;
