//! What several test modules use.

#![allow(dead_code, reason = "which helpers are used depends on the features")]

pub mod alone;
pub mod cluster;
#[cfg(feature = "sqlite")]
pub mod files;
pub mod names;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod proxy;
pub mod servers;

/// An example program's file; cargo builds the examples with the tests, beside them.
pub fn program(name: &str) -> std::path::PathBuf {
    let tests = std::env::current_exe().unwrap();
    let file = tests.parent().and_then(std::path::Path::parent).unwrap().join("examples").join(name);
    assert!(file.exists(), "{} is not there: `cargo build --examples` makes it", file.display());
    file
}
