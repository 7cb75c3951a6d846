//! Ending a run from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Error, ErrorKind, Result};

/// How long a wait lasts at most before cancellation is looked at. A flag cannot wake anybody up, and a signal handler can set nothing more
/// than a flag.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// A handle that ends a run: clones share one flag, so one can be kept by a signal handler or another thread.
///
/// A cancelled run ends within a second, whatever it waits for: a connection, a server's answer, the pause before the next attempt. What it has
/// written is committed as far as whole batches go, and the rest is rolled back. Two things are not interrupted: a batch that the destination is
/// writing (16 MB of row images, or 48 MB of a transaction that is larger) is written first, and committed; and a thread that waits for the
/// system to resolve a name or to connect goes on alone, for the connect time limit at most, and then ends.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    flag: Arc<AtomicBool>,
    /// Cancels this one too.
    parent: Option<Arc<AtomicBool>>,
}

impl Cancel {
    /// A handle that has not been used.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the run. Calling it again changes nothing.
    pub fn cancel(&self) {
        self.flag.store(true, Ordering::SeqCst);
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::SeqCst) || self.parent.as_ref().is_some_and(|parent| parent.load(Ordering::SeqCst))
    }

    /// A handle that can be used by itself, and is used whenever this one is.
    #[cfg(any(feature = "vstream", test))]
    pub(crate) fn child(&self) -> Self {
        Self { flag: Arc::default(), parent: Some(Arc::clone(&self.flag)) }
    }

    /// # Errors
    /// `Cancelled` after [`Cancel::cancel`].
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::new(ErrorKind::Cancelled, "the run was cancelled")) } else { Ok(()) }
    }

    /// Waits until then, or less if the run is cancelled.
    ///
    /// # Errors
    /// `Cancelled` after [`Cancel::cancel`].
    pub(crate) fn wait_until(&self, until: Instant) -> Result<()> {
        loop {
            self.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(TICK));
        }
    }

    /// Waits for what another thread sends, until `deadline` if there is one.
    ///
    /// # Errors
    /// `Cancelled` after [`Cancel::cancel`]; the inner error tells of the deadline, and of a thread that ended without sending.
    pub(crate) fn wait_for<T>(&self, answer: &Receiver<T>, deadline: Option<Instant>) -> Result<Result<T, RecvTimeoutError>> {
        loop {
            self.check()?;
            let left = deadline.map_or(TICK, |deadline| deadline.saturating_duration_since(Instant::now()).min(TICK));
            match answer.recv_timeout(left) {
                Err(RecvTimeoutError::Timeout) if deadline.is_none_or(|deadline| Instant::now() < deadline) => {}
                received => return Ok(received),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_child_is_cancelled_with_its_parent_and_not_the_other_way_round() {
        let parent = Cancel::new();
        let (one, other) = (parent.child(), parent.child());
        one.cancel();
        assert!(one.is_cancelled() && !parent.is_cancelled() && !other.is_cancelled());
        parent.cancel();
        assert!(other.is_cancelled());
    }

    #[test]
    fn waits_end_early_when_cancelled_from_another_thread() {
        let cancel = Cancel::new();
        let (sender, receiver) = channel::<()>();
        let long = Instant::now() + Duration::from_secs(60);
        let cancel = &cancel;
        thread::scope(|scope| {
            let paused = scope.spawn(|| cancel.wait_until(long).unwrap_err().kind());
            let listening = scope.spawn(move || cancel.wait_for(&receiver, Some(long)).unwrap_err().kind());
            cancel.cancel();
            assert_eq!(paused.join().unwrap(), ErrorKind::Cancelled);
            assert_eq!(listening.join().unwrap(), ErrorKind::Cancelled);
        });
        assert!(Instant::now() < long);
        drop(sender);
    }

    #[test]
    fn what_is_waited_for_comes_or_is_late_or_never_comes() {
        let cancel = Cancel::new();
        let (sender, receiver) = channel();
        sender.send(7).unwrap();
        assert_eq!(cancel.wait_for(&receiver, None).unwrap(), Ok(7));
        let passed = Some(Instant::now());
        assert_eq!(cancel.wait_for(&receiver, passed).unwrap(), Err(RecvTimeoutError::Timeout));
        drop(sender);
        assert_eq!(cancel.wait_for(&receiver, None).unwrap(), Err(RecvTimeoutError::Disconnected));
    }
}
