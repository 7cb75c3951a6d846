//! A channel between a thread that reads and one that writes, bounded by the bytes that wait in it.
//!
//! The two take turns at being the faster one: DuckDB compresses a group of rows at once and then takes the next ones quickly. A queue that holds
//! about one such group keeps both busy, and only a bound in bytes does so for rows of every size.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// What waits, and whether anybody will take it.
#[derive(Debug, Default)]
struct Waiting {
    bytes: usize,
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Gate {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Gate {
    fn change(&self, change: impl FnOnce(&mut Waiting)) {
        // Nothing that holds the lock can panic between two halves of a change.
        change(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }
}

/// The end that is filled.
pub(crate) struct Sender<T> {
    items: mpsc::Sender<(usize, T)>,
    gate: Arc<Gate>,
    limit: usize,
}

/// The end that is emptied.
pub(crate) struct Receiver<T> {
    items: mpsc::Receiver<(usize, T)>,
    gate: Arc<Gate>,
}

/// The receiver is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

/// Makes a channel in which items of `limit` bytes may wait, or one item that is larger.
pub(crate) fn bounded<T>(limit: usize) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::channel();
    let gate = Arc::new(Gate::default());
    (Sender { items: sender, gate: Arc::clone(&gate), limit }, Receiver { items: receiver, gate })
}

impl<T> Sender<T> {
    /// Puts an item in, once there is room for its bytes.
    pub(crate) fn send(&self, item: T, bytes: usize) -> Result<(), Closed> {
        let is_full = |waiting: &mut Waiting| !waiting.is_closed && waiting.bytes > 0 && waiting.bytes.saturating_add(bytes) > self.limit;
        let waiting = self.gate.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = self.gate.changed.wait_while(waiting, is_full).unwrap_or_else(PoisonError::into_inner);
        if waiting.is_closed {
            return Err(Closed);
        }
        waiting.bytes = waiting.bytes.saturating_add(bytes);
        drop(waiting);
        self.items.send((bytes, item)).map_err(|_| Closed)
    }
}

impl<T> Receiver<T> {
    /// Takes the next item; `None` once the sender is gone and everything was taken.
    pub(crate) fn recv(&self) -> Option<T> {
        self.items.recv().ok().map(|item| self.taken(item))
    }

    /// Takes the next item, or waits for it no longer than `limit`.
    pub(crate) fn recv_timeout(&self, limit: Duration) -> Result<T, RecvTimeoutError> {
        self.items.recv_timeout(limit).map(|item| self.taken(item))
    }

    fn taken(&self, (bytes, item): (usize, T)) -> T {
        self.gate.change(|waiting| waiting.bytes -= bytes);
        item
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.gate.change(|waiting| waiting.is_closed = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn never_more_waits_than_the_limit_but_for_one_large_item() {
        let (sender, receiver) = bounded(100);
        let sent = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let sent = &sent;
            scope.spawn(move || {
                for bytes in [40, 60, 1, 500, 500, 30] {
                    assert_eq!(sender.send(bytes, bytes), Ok(()));
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            });
            // What may be there before the first, second, … is taken.
            for most in [2, 3, 3, 4, 5, 6] {
                std::thread::sleep(Duration::from_millis(20));
                assert!(sent.load(Ordering::SeqCst) <= most, "{} items were sent", sent.load(Ordering::SeqCst));
                assert!(receiver.recv().is_some());
            }
            assert_eq!(receiver.recv(), None);
        });
    }

    #[test]
    fn a_sender_that_waits_for_room_learns_that_nobody_takes_anything_any_more() {
        let (sender, receiver) = bounded(1);
        std::thread::scope(|scope| {
            let (first, has_sent) = std::sync::mpsc::channel();
            let waiting = scope.spawn(move || {
                let sent = sender.send((), 1);
                let _ = first.send(());
                (sent, sender.send((), 1), sender.send((), 1))
            });
            assert!(has_sent.recv().is_ok());
            std::thread::sleep(Duration::from_millis(20));
            drop(receiver);
            assert_eq!(waiting.join().ok(), Some((Ok(()), Err(Closed), Err(Closed))));
        });
    }
}
