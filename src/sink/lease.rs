//! One run at a time for a destination: a lock on a file beside the database, `shop.db-ingest` for `shop.db`.
//!
//! The operating system releases the lock when the process that holds it ends, however that comes about, so a crashed run leaves a file but
//! no lease. The file names the process that holds the lock; it is removed when the lease is given back. Readers take no notice of it.
//!
//! The database file itself is never locked or even opened here: SQLite and DuckDB lock it by means of POSIX, by which a process loses all
//! its locks on a file as soon as it closes any descriptor of it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use crate::{Error, ErrorKind, Result};

/// What the lease of a database file is called beside it.
const SUFFIX: &str = "-ingest";
/// How often a lease may be given back between the opening of its file and the locking.
const ATTEMPTS: usize = 1_000;
/// How many links a path may lead over, as on Linux.
const LINKS: usize = 40;

/// The right to write to a database file, until it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    /// The lock ends with it.
    file: File,
    path: PathBuf,
}

impl Lease {
    /// Takes the lease of a database, which may yet have to be made. `database` is what [`resolve`] returned.
    ///
    /// # Errors
    /// `Conflict` if another run holds it, in this process or elsewhere; `Sink` if the folder may not be written to.
    pub(super) fn take(database: &Path) -> Result<Self> {
        let mut name = database.file_name().unwrap_or_default().to_owned();
        name.push(SUFFIX);
        let path = database.with_file_name(name);
        for _ in 0..ATTEMPTS {
            let cannot = |cause: io::Error| {
                let reason = match cause.kind() {
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ": nothing may be written there",
                    io::ErrorKind::StorageFull => ": the disk is full",
                    _ => "",
                };
                let message = format!("`{}` cannot be written: no lock can be taken on `{}`{reason}", database.display(), path.display());
                Error::new(ErrorKind::Sink, message).with_cause(cause)
            };
            let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(cannot)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(is_held(database, &mut file)),
                // A file system without locks. What the checkpoints say is compared before each commit nevertheless.
                Err(TryLockError::Error(cause)) if cause.kind() == io::ErrorKind::Unsupported => {
                    log::warn!("`{}` cannot be locked, so nothing keeps two runs from writing at once: {cause}", path.display());
                }
                Err(TryLockError::Error(cause)) => return Err(cannot(cause)),
            }
            // Who held the lease may have removed the file after it was opened here: the next one would make another and not see this lock.
            if !is_at(&file, &path) {
                continue;
            }
            file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(cannot)?;
            return Ok(Self { file, path });
        }
        let message = format!("`{}` cannot be locked: the file is another one each time that it is looked at", path.display());
        Err(Error::new(ErrorKind::Conflict, message))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // While the lock is still held: nobody else can hold one on this file then. If somebody has removed it, what is there now is another's.
        if cfg!(unix)
            && is_at(&self.file, &self.path)
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::debug!("`{}` could not be removed: {error}", self.path.display());
        }
    }
}

fn is_held(database: &Path, file: &mut File) -> Error {
    let holder = match read_holder(file) {
        Some(id) if id == std::process::id() => " in this process".to_owned(),
        Some(id) => format!(" (process {id})"),
        None => String::new(),
    };
    let message =
        format!("`{}` is in use by another run{holder}: one can write at a time, so wait for its end, or end it", database.display());
    Error::new(ErrorKind::Conflict, message)
}

fn read_holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(20).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Whether a path still leads to the file that was opened. Elsewhere than on Unix a file that is open cannot be removed.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((file.metadata().map(identity), fs::metadata(path).map(identity)), (Ok(one), Ok(other)) if one == other)
}

#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

/// The file that a path leads to over all links, whether it is there yet or not: whatever way a run takes to a database, it has to come to the
/// same lease, and DuckDB has to come to the same write-ahead log.
///
/// # Errors
/// `Sink` if the folder does not exist, or the path leads to a folder; `kind` is what the file is, as in `SQLite`.
pub(super) fn resolve(kind: &str, path: &Path) -> Result<PathBuf> {
    let cannot = |reason: &str| Error::new(ErrorKind::Sink, format!("the {kind} file `{}` cannot be opened{reason}", path.display()));
    let mut at = path.to_owned();
    for _ in 0..LINKS {
        match fs::canonicalize(&at) {
            Ok(file) if file.is_dir() => return Err(cannot(": it is a folder")),
            Ok(file) => return Ok(file),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(cannot("").with_cause(cause)),
        }
        // Either the last part of the path is missing, or it is a link to something that is; or a folder before it is missing.
        let folder = at.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        match fs::read_link(&at) {
            Ok(target) => at = folder.join(target),
            Err(_) => {
                let name = at.file_name().ok_or_else(|| cannot(": it names no file"))?;
                let folder = fs::canonicalize(&folder).map_err(|cause| cannot(": its folder does not exist").with_cause(cause))?;
                return Ok(folder.join(name));
            }
        }
    }
    Err(cannot(": it leads over too many links"))
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn held(database: &Path) -> Error {
        let error = Lease::take(database).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
        error
    }

    #[test]
    fn every_way_to_a_file_leads_to_one_lease() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        symlink(at("real.db"), at("link.db")).unwrap();
        symlink("../link.db", at("sub/relative.db")).unwrap();
        symlink(at("sub"), at("folder")).unwrap();
        // The file is not there yet, so that all but the first are links to nothing.
        let ways = ["real.db", "link.db", "sub/relative.db", "folder/relative.db", "sub/../real.db", "./real.db"];
        for exists in [false, true] {
            if exists {
                fs::write(at("real.db"), "").unwrap();
            }
            let lease = Lease::take(&resolve("SQLite", &at("real.db")).unwrap()).unwrap();
            for way in ways {
                held(&resolve("SQLite", &at(way)).unwrap());
            }
            drop(lease);
            for way in ways {
                drop(Lease::take(&resolve("SQLite", &at(way)).unwrap()).unwrap());
            }
        }
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_str().unwrap().ends_with(SUFFIX)), "{left:?}");
    }

    #[test]
    fn paths_that_lead_to_no_file_are_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        symlink(at("round.db"), at("round.db")).unwrap();
        symlink(at("missing/a.db"), at("away.db")).unwrap();
        let cases = [("", "it is a folder"), ("missing/a.db", "its folder does not exist"), ("away.db", "its folder does not exist")];
        for (path, reason) in cases {
            let error = resolve("DuckDB", &at(path)).unwrap_err();
            assert!(error.kind() == ErrorKind::Sink && error.to_string().contains(reason), "{error:?}");
            assert!(error.to_string().contains(at(path).to_str().unwrap()), "{error:?}");
        }
        assert!(resolve("DuckDB", &at("round.db")).is_err());
    }

    #[test]
    fn a_lease_whose_file_was_removed_by_hand_does_not_take_the_next_ones_away() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("a.db");
        let first = Lease::take(&database).unwrap();
        fs::remove_file(folder.path().join("a.db-ingest")).unwrap();
        let second = Lease::take(&database).unwrap();
        drop(first);
        assert!(held(&database).to_string().contains("in this process"));
        drop(second);
        assert!(!folder.path().join("a.db-ingest").exists());
    }

    #[test]
    fn threads_that_compete_hold_it_one_at_a_time() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("a.db");
        let (holders, takes) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while takes.load(Ordering::SeqCst) < 400 {
                        if let Ok(lease) = Lease::take(&database) {
                            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                            takes.fetch_add(1, Ordering::SeqCst);
                            holders.fetch_sub(1, Ordering::SeqCst);
                            drop(lease);
                        }
                    }
                });
            }
        });
    }
}
