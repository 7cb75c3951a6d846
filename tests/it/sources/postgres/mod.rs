//! PostgreSQL as a source, on a real server.

mod login;
mod network;
mod tables;
mod types;
