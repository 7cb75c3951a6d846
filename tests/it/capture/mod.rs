//! Change capture from real Vitess into real files.

mod changes;
mod crash;
mod ddl;
mod fixture;
mod positions;
mod refused;
