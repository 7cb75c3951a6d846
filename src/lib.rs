//! Moves tables and their changes out of, into and between PlanetScale, Vitess and MySQL, from inside a program.
//!
//! ```no_run
//! use planetscale_ingest::{IngestOptions, Sink, Source, ingest};
//!
//! let source = Source::open("mysql+cdc://reader:secret@db.example/shop?grpc_port=15991&tls=true")?;
//! let mut sink = Sink::open("sqlite:///data/shop.db")?;
//! let report = ingest(&source, &mut sink, &IngestOptions::new().with_tables(["orders"]))?;
//! assert!(report.is_complete());
//! # Ok::<(), planetscale_ingest::Error>(())
//! ```
//!
//! The first run copies the table and catches up with what changed meanwhile. Every later one resumes from where the destination stands. With
//! `mysql://` in place of `mysql+cdc://`, whole tables are copied.
//!
//! # Where to look
//!
//! | To | See |
//! | --- | --- |
//! | move tables in one call | [`ingest`], [`IngestOptions`], [`Report`] |
//! | write a URI | [`SourceOptions::from_uri`], [`SinkOptions::from_uri`] |
//! | do without URIs | [`SourceOptions`], [`CaptureOptions`], [`DuckDbOptions`], [`SqliteOptions`] |
//! | read rows oneself | [`Source::rows`], [`Batch`], [`ValueRef`] |
//! | read changes oneself | `Source::changes`, [`ChangeBatch`], [`Checkpoint`] |
//! | write oneself | [`Sink::replace`], [`Sink::append`], [`Sink::merge`] |
//! | choose what becomes of values that do not fit | [`MalformedText`], [`OutOfRange`], [`ZeroDates`], [`TimeType`], [`EnumType`] |
//! | compare a destination with its source | [`verify`], [`VerifyOptions`], [`VerifyReport`] |
//! | end a run from outside | [`Cancel`] |
//! | know what went wrong | [`Error::kind`], [`ErrorKind`], [`PositionFault`] |
//!
//! The README has the table of types, how deletes and changes of tables are treated, how positions work, and what is guaranteed. The programs in
//! `examples` are there to start from; `cargo run --example quickstart` needs no server.
//!
//! # Blocking and threads
//!
//! Every call blocks, and each that waits for a server has a time limit. Reading has a thread of its own, so that it goes on while the
//! destination writes; it ends with the iterator. Memory is bounded by bytes, whatever the size of a table or a transaction.
//!
//! # Features
//!
//! `vstream` (change capture, by default), `sqlite` (by default), `duckdb` (linked to the library in `DUCKDB_LIB_DIR`), `bundled` (DuckDB
//! compiled in), and `postgres` (PostgreSQL as a source). They only add.

// What change capture or a destination alone needs is dead without them. Builds with all features find what nobody needs.
#![cfg_attr(not(all(feature = "vstream", feature = "sqlite", feature = "duckdb", feature = "postgres")), allow(dead_code))]

mod batch;
mod cancel;
mod change;
mod error;
#[cfg(any(test, feature = "_fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod gtid;
mod ingest;
mod interval;
mod keyrange;
#[cfg(feature = "duckdb")]
mod libduckdb;
#[cfg(feature = "sqlite")]
mod libsqlite;
mod options;
mod place;
mod policy;
mod position;
mod queue;
mod report;
mod retry;
mod schema;
mod server;
mod sink;
mod source;
mod tls;
mod uri;
mod value;
mod verify;
mod wire;

pub use batch::{Batch, ColumnData, Row, Values, VarLen};
pub use cancel::Cancel;
pub use change::{Change, ChangeBatch, Checkpoint, Op, TableChanges};
pub use error::{Error, ErrorKind, PositionFault, Result};
pub use gtid::{GtidSet, ServerUuid};
pub use ingest::{IngestOptions, Progress, Strategy, ingest};
pub use options::{
    CaptureMode, CaptureOptions, DuckDbOptions, EnumType, GrpcCredentials, MySqlOptions, SinkOptions, SourceOptions, SqliteOptions,
    TabletType, TimeType, Workload,
};
pub use place::{IntervalType, SqliteTypes};
pub use policy::{ChangedValues, MalformedText, OutOfRange, ValueChange, ZeroDates};
pub use position::{LastPk, Lsn, ShardGtid, Vgtid};
pub use report::{Report, TableReport, TableState};
pub use schema::{Column, ColumnType, Table, TableName};
pub use sink::checkpoint::StoredPosition;
pub use sink::{Deletes, Load, Merge, Sink, Written};
pub use source::Source;
pub use source::rows::Rows;
pub use source::server::ServerKind;
#[cfg(feature = "vstream")]
pub use source::vstream::run::{CaptureRequest, Changes};
pub use tls::Tls;
pub use value::{DateTime, Time, ValueRef};
pub use verify::{TableVerification, VerifyOptions, VerifyReport, VerifyState, verify};

/// Compiles the programs in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
