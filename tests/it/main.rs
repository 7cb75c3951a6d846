//! Tests on real servers (`tests/servers/up` starts them), one program so that they are linked once.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test program has no callers, and a panic is how it fails")]

mod batch;
mod servers;
mod support;
