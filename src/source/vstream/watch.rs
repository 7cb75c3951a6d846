//! Whether a stream moves: a new position, a row, a sign of life, or nothing at all.

use std::time::Duration;

use crate::position::Vgtid;

/// How often the position is looked at. It lists every shard with all its GTIDs, so not at each message.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A connection that brings less than this within its time limit, and no message, is dead or as good as that. Answers to the pings of both ends
/// are a few hundred bytes.
const SIGN_OF_LIFE: u64 = 1 << 10;

/// The account of one machine's stream. Only time that was spent waiting for the server is put down, not that of the destination.
#[derive(Debug)]
pub(super) struct Watch {
    /// Where the stream stood when it was last looked at.
    position: Vgtid,
    /// Time without a new position or a row, over all connections.
    still: Duration,
    /// Time without a message over the connection that is open.
    silent: Duration,
    /// Bytes that had come over it when the silence began.
    heard: u64,
    since_look: Duration,
    throttled: bool,
}

/// What a wait brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Brought {
    Rows,
    /// Events without rows. Some of them are a new position.
    Message,
    Nothing,
}

impl Watch {
    pub(super) fn new(position: Vgtid) -> Self {
        Self { position, still: Duration::ZERO, silent: Duration::ZERO, heard: 0, since_look: Duration::ZERO, throttled: false }
    }

    /// There is a new connection: it is listened to anew, but a position it has yet to bring.
    pub(super) fn connected(&mut self) {
        (self.silent, self.heard) = (Duration::ZERO, 0);
    }

    /// Takes in a wait; `received` is how many bytes have come over this connection.
    pub(super) fn waited(&mut self, time: Duration, brought: Brought, received: u64) {
        self.since_look += time;
        self.still += time;
        self.silent += time;
        if brought != Brought::Nothing || received.saturating_sub(self.heard) >= SIGN_OF_LIFE {
            (self.silent, self.heard) = (Duration::ZERO, received);
        }
        if brought == Brought::Rows {
            self.still = Duration::ZERO;
        }
    }

    /// Whether it is time to [`look`](Self::look).
    pub(super) fn is_due(&self) -> bool {
        self.since_look >= LOOK_INTERVAL
    }

    /// Compares the position; whether it moved.
    pub(super) fn look(&mut self, position: Vgtid) -> bool {
        self.since_look = Duration::ZERO;
        if position == self.position {
            return false;
        }
        self.position = position;
        self.still = Duration::ZERO;
        self.throttled = false;
        true
    }

    /// The server lets the stream go on for as long again: it has nothing more to send.
    pub(super) fn is_idle(&mut self) {
        self.still = Duration::ZERO;
    }

    /// The server says of itself that it holds the stream back.
    pub(super) fn note_throttled(&mut self) {
        self.throttled = true;
    }

    pub(super) fn was_throttled(&self) -> bool {
        self.throttled
    }

    pub(super) fn still(&self) -> Duration {
        self.still
    }

    pub(super) fn silent(&self) -> Duration {
        self.silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::ShardGtid;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(gtid: &str) -> Vgtid {
        Vgtid::new(vec![ShardGtid::new("ks", "0", gtid)])
    }

    #[test]
    fn heartbeats_end_the_silence_and_only_positions_and_rows_end_the_standstill() {
        let mut watch = Watch::new(at("a:1"));
        watch.waited(SECOND * 5, Brought::Message, 100);
        assert_eq!((watch.silent(), watch.still()), (Duration::ZERO, SECOND * 5));
        watch.waited(SECOND * 2, Brought::Nothing, 100);
        assert_eq!((watch.silent(), watch.still()), (SECOND * 2, SECOND * 7));
        assert!(watch.is_due());
        assert!(!watch.look(at("a:1")) && !watch.is_due());
        assert_eq!(watch.still(), SECOND * 7);
        assert!(watch.look(at("a:1-2")));
        assert_eq!(watch.still(), Duration::ZERO);
        watch.waited(SECOND, Brought::Message, 200);
        watch.waited(SECOND, Brought::Rows, 300);
        assert_eq!(watch.still(), Duration::ZERO);
    }

    #[test]
    fn a_large_message_on_its_way_is_a_sign_of_life_and_the_answer_to_a_ping_is_none() {
        let mut watch = Watch::new(at("a:1"));
        watch.waited(SECOND * 20, Brought::Nothing, 17);
        watch.waited(SECOND * 5, Brought::Nothing, 700);
        assert_eq!(watch.silent(), SECOND * 25);
        watch.waited(SECOND, Brought::Nothing, 1_100);
        assert_eq!(watch.silent(), Duration::ZERO);
        watch.waited(SECOND * 3, Brought::Nothing, 1_500);
        assert_eq!(watch.silent(), SECOND * 3);
        watch.connected();
        assert_eq!((watch.silent(), watch.still()), (Duration::ZERO, SECOND * 29));
        watch.waited(SECOND, Brought::Nothing, 40);
        assert_eq!(watch.silent(), SECOND);
    }
}
