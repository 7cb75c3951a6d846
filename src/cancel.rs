//! Ending a run from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, ErrorKind, Result};

/// A handle that ends a run: clones share one flag, so one can be kept by a signal handler or another thread.
///
/// A cancelled run ends within about a second with an error of kind [`ErrorKind::Cancelled`]; what it had not committed is rolled back.
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
    #[cfg(feature = "vstream")]
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
    #[cfg(feature = "vstream")]
    pub(crate) fn wait_until(&self, until: std::time::Instant) -> Result<()> {
        loop {
            self.check()?;
            let left = until.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            // A flag cannot wake anybody up, and a signal handler can set nothing more than a flag.
            std::thread::sleep(left.min(std::time::Duration::from_millis(50)));
        }
    }
}
