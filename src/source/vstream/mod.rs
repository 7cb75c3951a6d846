//! Change capture: vtgate's VStream.

#[cfg(not(unix))]
compile_error!("feature `vstream` needs Unix sockets: build with `default-features = false` on this system");

mod handover;
mod pump;
mod status;
pub(crate) mod transport;

/// The messages of the protocol, generated from `proto/vtgate.proto`.
#[allow(missing_docs, unreachable_pub, dead_code, clippy::all, clippy::pedantic, clippy::unwrap_used)]
pub(crate) mod proto {
    include!(concat!(env!("OUT_DIR"), "/proto/mod.rs"));
    pub use vtgate::*;
}

#[cfg(test)]
#[path = "../../../tests/vtgate/mod.rs"]
mod scripted;
