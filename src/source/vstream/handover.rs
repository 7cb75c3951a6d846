//! The two calls that need file descriptors: giving a socket to grpc core, and waiting for two sockets at once.
//!
//! All `unsafe` of this crate's gRPC transport is here.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use grpcio::{Channel, ChannelBuilder};

/// Builds a channel on one end of a socket pair. `target` must not hold a NUL; it only describes the connection.
pub(super) fn channel(builder: ChannelBuilder, target: &str, socket: UnixStream) -> Channel {
    let fd = socket.into_raw_fd();
    // SAFETY: `connect_from_fd` demands a connected stream socket that no other code reads, writes or closes from then on. A `UnixStream` of
    // `UnixStream::pair` is connected, and `into_raw_fd` has just given its ownership away: this number is the only handle to it, is used once,
    // and grpc core closes it.
    unsafe { builder.connect_from_fd(target, fd) }
}

/// What to wait for on a socket, and what has come.
#[derive(Clone, Copy, Default)]
pub(super) struct Readiness {
    pub(super) read: bool,
    pub(super) write: bool,
}

/// Waits until one of the wanted things can be done, or the time is over (then nothing is ready). A broken or closed socket counts as ready for
/// what was wanted of it, so that the next read or write tells. A socket of which nothing is wanted is not looked at.
pub(super) fn wait(sockets: [(BorrowedFd<'_>, Readiness); 2], timeout: Option<Duration>) -> io::Result<[Readiness; 2]> {
    let mut polled = sockets.map(|(socket, wanted)| libc::pollfd {
        // A negative number makes poll(2) skip the entry; without that a socket that has hung up would report so for ever.
        fd: if wanted.read || wanted.write { socket.as_raw_fd() } else { -1 },
        events: if wanted.read { libc::POLLIN } else { 0 } | if wanted.write { libc::POLLOUT } else { 0 },
        revents: 0,
    });
    // Rounded up: with 0 ms the last fraction of a millisecond would be spent spinning.
    let timeout = timeout.map_or(-1, |timeout| i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
    // SAFETY: the pointer and the count describe `polled`, an initialised array that lives on this stack frame and that nothing else touches
    // during the call. The numbers in it are open for that long, because `sockets` borrows their owners.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), 2, timeout) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        return Ok([Readiness::default(); 2]);
    }
    let gone = libc::POLLHUP | libc::POLLERR | libc::POLLNVAL;
    Ok([0, 1].map(|i| Readiness {
        read: sockets[i].1.read && polled[i].revents & (libc::POLLIN | gone) != 0,
        write: sockets[i].1.write && polled[i].revents & (libc::POLLOUT | gone) != 0,
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn waiting_tells_which_socket_is_ready_and_ends_in_time() {
        let (a, mut b) = UnixStream::pair().unwrap();
        let read = Readiness { read: true, write: false };
        let nothing = wait([(a.as_fd(), read), (b.as_fd(), Readiness::default())], Some(Duration::from_millis(1))).unwrap();
        assert!(!nothing[0].read && !nothing[1].read);
        b.write_all(b"x").unwrap();
        let ready = wait([(a.as_fd(), read), (b.as_fd(), read)], None).unwrap();
        assert!(ready[0].read && !ready[0].write && !ready[1].read);
    }

    #[test]
    fn a_closed_socket_is_ready_only_if_something_is_wanted_of_it() {
        let (a, b) = UnixStream::pair().unwrap();
        drop(a);
        let (c, _d) = UnixStream::pair().unwrap();
        let read = Readiness { read: true, write: false };
        assert!(wait([(b.as_fd(), read), (c.as_fd(), read)], None).unwrap()[0].read);
        let unwanted = wait([(b.as_fd(), Readiness::default()), (c.as_fd(), read)], Some(Duration::from_millis(1))).unwrap();
        assert!(!unwanted[0].read && !unwanted[1].read);
    }
}
