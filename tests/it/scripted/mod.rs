//! Servers that do what real ones cannot be made to do, played over real gRPC by a vtgate in this process.

mod cancel;
mod faults;
#[cfg(feature = "duckdb")]
mod forms;
mod large;
mod malformed;
mod older;
mod places;
mod planetscale;
mod server;
pub mod stage;
mod standstill;
mod tables;
