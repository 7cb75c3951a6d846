//! A second handle of the socket below a connection.
//!
//! The `mysql` crate lends the descriptor of its socket only as a number, and has no way to change a time-out or to end a read from
//! another thread. Both are what this handle is for.

#![allow(unsafe_code)]

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Another descriptor of the same socket, so that closing one does not close the other.
pub(super) fn duplicate(conn: &mysql::Conn) -> io::Result<TcpStream> {
    // SAFETY: `conn` owns the descriptor and is borrowed until this function returns, so it is open and belongs to nobody else while
    // `borrowed` lives. What leaves the function is a descriptor of its own.
    let borrowed = unsafe { BorrowedFd::borrow_raw(conn.as_raw_fd()) };
    Ok(TcpStream::from(borrowed.try_clone_to_owned()?))
}
