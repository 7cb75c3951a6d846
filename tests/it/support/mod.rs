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

/// A folder in memory where there is such a place: to write a disk's cache out takes as long as others are writing.
#[cfg(feature = "vstream")]
pub fn quick_folder() -> tempfile::TempDir {
    match std::path::Path::new("/dev/shm") {
        shm if shm.is_dir() => tempfile::tempdir_in(shm).or_else(|_| tempfile::tempdir()).unwrap(),
        _ => tempfile::tempdir().unwrap(),
    }
}
