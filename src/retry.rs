//! How long something that fails is tried again, and with what pauses.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::{ErrorKind, Result};

/// The pause after the first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// A server that is away for long is asked this often.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How often a first connection is tried.
const FIRST_ATTEMPTS: u32 = 3;

/// Makes a connection of a kind that was not made before. What is wrong with such a one is seldom cured by waiting; but a network may break it as it may
/// any other, so one that is refused or breaks is tried twice more, within less than half a second. A server that says why it refuses, or that stays silent
/// until the connect time limit, is not asked again.
///
/// # Errors
/// That of the last attempt; `Cancelled`.
pub(crate) fn first_connection<T>(cancel: &Cancel, mut connect: impl FnMut() -> Result<T>) -> Result<T> {
    let mut attempt = 1;
    loop {
        match connect() {
            Err(error) if attempt < FIRST_ATTEMPTS && matches!(error.kind(), ErrorKind::Connect | ErrorKind::Tls) => {
                log::warn!("a first connection is tried again (attempt {}): {error:#}", attempt + 1);
                cancel.wait_until(Instant::now() + jittered(FIRST_PAUSE * attempt))?;
                attempt += 1;
            }
            result => return result,
        }
    }
}

/// An account of failures in a row. It bounds their time and not their number: a server that restarts refuses a hundred connections in a
/// second, or a single one for ten.
#[derive(Debug)]
pub(crate) struct Retry {
    limit: Duration,
    /// When the first of the failures in a row began.
    since: Option<Instant>,
    failures: u32,
}

impl Retry {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, since: None, failures: 0 }
    }

    /// Ends the row. To be called for what is worth something by itself only: a connection that is made and brings nothing is none.
    pub(crate) fn succeeded(&mut self) {
        (self.since, self.failures) = (None, 0);
    }

    /// Takes in a failure of what began at `began`: when to try again, or `None` once the time limit is over. The last attempt is made
    /// at the limit.
    pub(crate) fn failed(&mut self, began: Instant, now: Instant) -> Option<Instant> {
        let since = *self.since.get_or_insert(began);
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        let left = self.limit.checked_sub(now.saturating_duration_since(since)).filter(|left| !left.is_zero())?;
        Some(now + jittered(pause).min(left))
    }

    /// Takes in a failure of what began at `began`, and waits until it may be tried again; `false`, at once, when the time limit is over.
    ///
    /// # Errors
    /// `Cancelled`.
    pub(crate) fn pause(&mut self, began: Instant, cancel: &Cancel) -> Result<bool> {
        match self.failed(began, Instant::now()) {
            Some(until) => cancel.wait_until(until).map(|()| true),
            None => Ok(false),
        }
    }

    /// How many failures there were in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }
}

/// Between half the pause and all of it, so that clients which a server has thrown out together do not come back together.
fn jittered(pause: Duration) -> Duration {
    // Each `RandomState` has other keys, so hashing anything with a new one gives a random number.
    let random = u32::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or_default();
    pause / 2 + (pause / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn pauses_grow_up_to_the_longest_and_end_at_the_limit() {
        let mut retry = Retry::new(Duration::from_secs(60));
        let began = Instant::now();
        let (mut now, mut pauses) = (began, Vec::new());
        while let Some(at) = retry.failed(now, now) {
            pauses.push(at - now);
            now = at;
        }
        assert_eq!(now - began, Duration::from_secs(60));
        let (last, others) = pauses.split_last().unwrap();
        for (number, pause) in others.iter().enumerate() {
            let whole = FIRST_PAUSE.saturating_mul(1 << number.min(10)).min(LONGEST_PAUSE);
            assert!(whole / 2 <= *pause && *pause <= whole, "{number}: {pause:?}");
        }
        assert!(*last <= LONGEST_PAUSE);
        assert_eq!(retry.failures() as usize, pauses.len() + 1);
        // It stays over: what is tried next is tried once.
        assert!(retry.failed(now, now).is_none());
    }

    #[test]
    fn a_success_gives_the_whole_time_again() {
        let mut retry = Retry::new(Duration::from_secs(1));
        let began = Instant::now();
        assert!(retry.failed(began, began).is_some());
        assert!(retry.failed(began, began + Duration::from_secs(1)).is_none());
        retry.succeeded();
        assert!(retry.failed(began + Duration::from_secs(1), began + Duration::from_secs(1)).is_some());
    }

    #[test]
    fn the_time_that_a_failure_took_counts() {
        let mut retry = Retry::new(Duration::from_secs(10));
        let began = Instant::now();
        assert!(retry.failed(began, began + Duration::from_secs(11)).is_none());
    }

    #[test]
    fn a_first_connection_is_tried_thrice_where_it_breaks_and_once_where_the_server_says_why() {
        let attempts = |kind, good: u32| {
            let mut made = 0;
            let result = first_connection(&Cancel::new(), || {
                made += 1;
                if made == good { Ok(made) } else { Err(Error::new(kind, "no connection")) }
            });
            (made, result.map_err(|error| error.kind()))
        };
        for kind in [ErrorKind::Connect, ErrorKind::Tls] {
            assert_eq!(attempts(kind, 1), (1, Ok(1)));
            assert_eq!(attempts(kind, 3), (3, Ok(3)));
            assert_eq!(attempts(kind, 4), (3, Err(kind)));
        }
        for kind in [ErrorKind::Auth, ErrorKind::Timeout, ErrorKind::Config, ErrorKind::Schema] {
            assert_eq!(attempts(kind, 2), (1, Err(kind)));
        }
        let cancel = Cancel::new();
        let result = first_connection(&cancel, || {
            cancel.cancel();
            Err::<(), _>(Error::new(ErrorKind::Connect, "no connection"))
        });
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);
    }

    #[test]
    fn pauses_are_not_all_the_same() {
        let pauses: std::collections::BTreeSet<Duration> = (0..20).map(|_| jittered(LONGEST_PAUSE)).collect();
        assert!(pauses.len() > 1);
    }
}
