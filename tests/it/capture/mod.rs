//! Change capture from real Vitess into real files.

mod changes;
pub mod crash;
mod ddl;
pub mod fixture;
mod keys;
pub mod positions;
mod refused;
mod values;
