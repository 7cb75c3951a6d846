//! Change capture from Vitess as it is run in earnest: processes of its own, which die, move and change while runs go on.

mod failover;
mod images;
mod interrupted;
mod moved;
mod positions;
mod reshard;
mod run;
mod schema;
mod size;
