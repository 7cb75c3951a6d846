//! Change capture: vtgate's VStream.

#[cfg(all(feature = "vstream", not(unix)))]
compile_error!("feature `vstream` needs Unix sockets: build with `default-features = false` on this system");

#[cfg(any(feature = "vstream", test))]
pub(crate) mod agenda;
pub(crate) mod ddl;
pub(crate) mod decode;
pub(crate) mod event;
#[cfg(feature = "vstream")]
mod exact;
#[cfg(feature = "vstream")]
mod handover;
mod json;
pub(crate) mod machine;
#[cfg(test)]
mod model;
#[cfg(feature = "vstream")]
mod pump;
#[cfg(feature = "vstream")]
pub(crate) mod run;
#[cfg(feature = "vstream")]
mod server;
#[cfg(feature = "vstream")]
mod serving;
pub(crate) mod shape;
#[cfg(feature = "vstream")]
mod status;
#[cfg(feature = "vstream")]
pub(crate) mod transport;
#[cfg(feature = "vstream")]
mod watch;

/// The messages of the protocol, generated from `proto/vtgate.proto`.
#[cfg(feature = "vstream")]
#[allow(missing_docs, unreachable_pub, dead_code, clippy::all, clippy::pedantic, clippy::unwrap_used)]
pub(crate) mod proto {
    include!(concat!(env!("OUT_DIR"), "/proto/mod.rs"));
    pub use vtgate::*;
}

#[cfg(all(test, feature = "vstream"))]
#[path = "../../../tests/vtgate/mod.rs"]
mod scripted;
