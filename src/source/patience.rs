//! Asking a server again, and not waiting for it longer than anybody wants.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::rows::Interrupt;
use crate::cancel::Cancel;
use crate::retry::Retry;
use crate::{Error, ErrorKind, Result};

/// How long a server is asked again.
pub(crate) struct Patience {
    /// What kind of server it is.
    server: &'static str,
    /// One for all calls, so that a server that is gone for good costs the time limit once, and not once for each table.
    retry: Mutex<Retry>,
}

impl Patience {
    pub(crate) fn new(server: &'static str, limit: Duration) -> Self {
        Self { server, retry: Mutex::new(Retry::new(limit)) }
    }

    /// Makes an attempt, and others while that may help.
    pub(crate) fn persist<T>(&self, cancel: &Cancel, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        loop {
            let began = Instant::now();
            let error = match attempt() {
                Err(error) if error.is_transient() => error,
                result => {
                    if !matches!(&result, Err(error) if error.kind() == ErrorKind::Cancelled) {
                        self.lock().succeeded();
                    }
                    return result;
                }
            };
            let mut retry = self.lock();
            let Some(until) = retry.failed(began, Instant::now()) else {
                return Err(if retry.failures() > 1 { self.given_up(&retry, error) } else { error });
            };
            log::warn!("the {} server is asked again (attempt {}): {error:#}", self.server, retry.failures() + 1);
            drop(retry);
            cancel.wait_until(until)?;
        }
    }

    fn given_up(&self, retry: &Retry, last: Error) -> Error {
        let (server, failures, limit) = (self.server, retry.failures(), retry.limit());
        let message = format!("the {server} server could not be asked, in {failures} attempts within {limit:?} (`retry_timeout`)");
        Error::new(last.kind(), message).with_cause(last)
    }

    fn lock(&self) -> MutexGuard<'_, Retry> {
        self.retry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects to a place within a limit. A client library that panics, as those do that index into packets, is an error that says `broken`.
pub(crate) fn connect_within<T: Send + 'static>(
    (limit, cancel): (Duration, &Cancel),
    (place, broken): (&str, &str),
    attempt: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    // Name resolution cannot be interrupted, so the attempt runs on a thread of its own that is left behind when time is up, or the run
    // cancelled. It ends by itself: each of its later steps has the same limit.
    let (answer, result) = sync_channel(1);
    thread::Builder::new()
        .name("ingest-connect".to_owned())
        .spawn(move || {
            // Nobody listens any more once the time is up.
            let _ = answer.send(attempt());
        })
        .map_err(|cause| Error::new(ErrorKind::Connect, "no thread can be started to connect on").with_cause(cause))?;
    match cancel.wait_for(&result, Some(Instant::now() + limit))? {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => {
            Err(Error::new(ErrorKind::Timeout, format!("no connection to {place} within {} s", limit.as_secs_f32())))
        }
        Err(RecvTimeoutError::Disconnected) => Err(Error::protocol(broken)),
    }
}

/// Does what waits for a server, on a thread of its own, so that the wait can be cancelled: the connection is closed then, which ends the
/// thread. `broken` is said of a thread that died of a panic.
pub(crate) fn unless<T: Send>(
    cancel: &Cancel,
    interrupt: Option<Interrupt>,
    broken: &'static str,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    thread::scope(|scope| {
        let (sender, answer) = sync_channel(1);
        let thread = thread::Builder::new().name("ingest-ask".to_owned()).spawn_scoped(scope, move || {
            // Nobody listens any more after a cancellation.
            let _ = sender.send(work());
        });
        let thread =
            thread.map_err(|cause| Error::new(ErrorKind::Source, "no thread can be started to ask the server on").with_cause(cause))?;
        let awaited = cancel.wait_for(&answer, None);
        if let (Err(_), Some(interrupt)) = (&awaited, interrupt) {
            interrupt();
        }
        // A thread that died of a panic has sent nothing.
        let _ = thread.join();
        awaited?.unwrap_or_else(|_| Err(Error::protocol(broken)))
    })
}
