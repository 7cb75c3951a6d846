//! Change capture from real Vitess into real files.

mod changes;
mod crash;
mod ddl;
pub mod fixture;
mod positions;
mod refused;
