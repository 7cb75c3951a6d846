//! Change capture from real Vitess into real files.

mod changes;
pub mod crash;
mod ddl;
pub mod fixture;
mod keys;
mod names;
pub mod positions;
mod refused;
mod values;
