//! DuckDB's C interface, as far as it is needed: statements with small results, appending of data chunks, and large results chunk by chunk.
//!
//! A safe wrapper exists, but appends by rows or by Arrow batches. Chunks that are filled in place, with strings that stay where they are,
//! measured a quarter to a half less CPU, so this module owns the unsafe code and nothing else does. Its rules:
//!
//! - A handle is owned by one value, which destroys it once, in `Drop`. A connection keeps its database alive, an appender and a stream their
//!   connection.
//! - A chunk's memory is written only through [`append::Chunk`], whose methods check type, column and row against what the chunk was made with,
//!   and read only through [`read::DataChunk`], whose methods check them against the result that it came from.
//! - A string is lent to a chunk for the lifetime `'b`, which outlives the call that hands the chunk to DuckDB, and DuckDB copies before that
//!   call returns.

#![allow(unsafe_code)]

pub(crate) mod append;
pub(crate) mod read;

use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;

use duckdb::ffi;

/// What DuckDB said about a failure.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) message: String,
}

/// How much of DuckDB's message can be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The file or the disk.
    File,
    /// Memory.
    Memory,
    /// A conversion, or whatever else may quote a value in its message.
    Value,
    /// A constraint of the table: the message quotes a value.
    Constraint,
    /// A string that is no member of an ENUM; the message is ours.
    Member,
    /// A name that stands for nothing.
    Missing,
    /// Anything else.
    Other,
}

impl Failure {
    fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    fn of(error_type: ffi::duckdb_error_type, message: String) -> Self {
        use ffi::*;
        #[allow(non_upper_case_globals)]
        let kind = match error_type {
            duckdb_error_type_DUCKDB_ERROR_IO | duckdb_error_type_DUCKDB_ERROR_PERMISSION => FailureKind::File,
            // The database refuses everything from then on. What brought that about is the disk, or a defect.
            duckdb_error_type_DUCKDB_ERROR_FATAL | duckdb_error_type_DUCKDB_ERROR_INTERNAL => FailureKind::Other,
            duckdb_error_type_DUCKDB_ERROR_OUT_OF_MEMORY => FailureKind::Memory,
            duckdb_error_type_DUCKDB_ERROR_CONSTRAINT => FailureKind::Constraint,
            duckdb_error_type_DUCKDB_ERROR_CATALOG => FailureKind::Missing,
            duckdb_error_type_DUCKDB_ERROR_PARSER
            | duckdb_error_type_DUCKDB_ERROR_TRANSACTION
            | duckdb_error_type_DUCKDB_ERROR_CONNECTION
            | duckdb_error_type_DUCKDB_ERROR_INTERRUPT => FailureKind::Other,
            _ => FailureKind::Value,
        };
        Self::new(kind, message)
    }
}

/// The message behind a pointer that DuckDB owns.
fn message_at(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: DuckDB's messages end with a NUL and live as long as the object that they were asked of, which every caller still holds.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn c_string(text: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| Failure::new(FailureKind::Other, "a NUL stands where DuckDB takes none"))
}

struct Database(ffi::duckdb_database);

// SAFETY: DuckDB's databases may be used from any thread.
unsafe impl Send for Database {}
// SAFETY: as above, and nothing here gives access to one but to open connections, before it is shared.
unsafe impl Sync for Database {}

impl Drop for Database {
    fn drop(&mut self) {
        // SAFETY: the handle was opened and is closed once; connections hold the database, so none is left.
        unsafe { ffi::duckdb_close(&mut self.0) };
    }
}

struct RawConnection {
    handle: ffi::duckdb_connection,
    // Closed after the last of its connections.
    database: Arc<Database>,
}

// SAFETY: DuckDB locks a connection for each call, so any thread may use it.
unsafe impl Send for RawConnection {}
// SAFETY: as above.
unsafe impl Sync for RawConnection {}

impl Drop for RawConnection {
    fn drop(&mut self) {
        // SAFETY: the handle was opened and is closed once; appenders hold the connection, so none is left.
        unsafe { ffi::duckdb_disconnect(&mut self.handle) };
    }
}

/// A connection to a database of its own.
pub(crate) struct Connection(Arc<RawConnection>);

impl Connection {
    /// Opens a database with the given settings.
    pub(crate) fn open(path: &str, settings: &[(&str, String)]) -> Result<Self, Failure> {
        let path = c_string(path)?;
        let mut config: ffi::duckdb_config = ptr::null_mut();
        // SAFETY: `config` is written by the call, and destroyed below whatever happens.
        let created = unsafe { ffi::duckdb_create_config(&mut config) };
        let mut result = if created == ffi::duckdb_state_DuckDBSuccess {
            Ok(())
        } else {
            Err(Failure::new(FailureKind::Memory, "no settings can be made"))
        };
        for (name, value) in settings {
            if result.is_err() {
                break;
            }
            result = c_string(name).and_then(|name| Ok((name, c_string(value)?))).and_then(|(name, value)| {
                // SAFETY: `config` is valid, and both strings end with a NUL and outlive the call.
                let state = unsafe { ffi::duckdb_set_config(config, name.as_ptr(), value.as_ptr()) };
                if state == ffi::duckdb_state_DuckDBSuccess {
                    Ok(())
                } else {
                    Err(Failure::new(FailureKind::Other, format!("DuckDB has no setting {}", name.to_string_lossy())))
                }
            });
        }
        let mut database: ffi::duckdb_database = ptr::null_mut();
        let opened = result.and_then(|()| {
            let mut error: *mut c_char = ptr::null_mut();
            // SAFETY: the path ends with a NUL; `config` is valid; both results are written by the call.
            let state = unsafe { ffi::duckdb_open_ext(path.as_ptr(), &mut database, config, &mut error) };
            if state == ffi::duckdb_state_DuckDBSuccess {
                return Ok(Database(database));
            }
            let message = message_at(error);
            // SAFETY: DuckDB allocated the message and hands it over; null is allowed.
            unsafe { ffi::duckdb_free(error.cast::<c_void>()) };
            Err(Failure::new(FailureKind::File, message))
        });
        // SAFETY: made above, destroyed once; null is allowed.
        unsafe { ffi::duckdb_destroy_config(&mut config) };
        Self::to(Arc::new(opened?))
    }

    /// Another connection to the same database.
    pub(crate) fn another(&self) -> Result<Self, Failure> {
        Self::to(Arc::clone(&self.0.database))
    }

    fn to(database: Arc<Database>) -> Result<Self, Failure> {
        let mut handle: ffi::duckdb_connection = ptr::null_mut();
        // SAFETY: the database is open, and `handle` is written by the call.
        if unsafe { ffi::duckdb_connect(database.0, &mut handle) } != ffi::duckdb_state_DuckDBSuccess {
            return Err(Failure::new(FailureKind::Other, "no connection to the database can be made"));
        }
        Ok(Self(Arc::new(RawConnection { handle, database })))
    }

    /// Opens a database that is only read.
    pub(crate) fn open_to_read(path: &str, settings: &[(&str, String)]) -> Result<Self, Failure> {
        let mut settings = settings.to_vec();
        settings.push(("access_mode", "READ_ONLY".to_owned()));
        Self::open(path, &settings)
    }

    /// Ends what the connection is doing, from another thread.
    pub(crate) fn interrupter(&self) -> Interrupter {
        Interrupter(Arc::clone(&self.0))
    }

    /// Runs statements; the number of rows that the last one changed.
    pub(crate) fn execute(&self, sql: &str) -> Result<u64, Failure> {
        let mut result = self.query(sql)?;
        // SAFETY: the result is valid until it is dropped.
        Ok(unsafe { ffi::duckdb_rows_changed(&mut result.0) })
    }

    /// All rows of a small result, as text.
    pub(crate) fn query_text(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, Failure> {
        let mut result = self.query(sql)?;
        // SAFETY: the result is valid until it is dropped.
        let (columns, rows) = unsafe { (ffi::duckdb_column_count(&mut result.0), ffi::duckdb_row_count(&mut result.0)) };
        let mut table = Vec::new();
        for row in 0..rows {
            let mut cells = Vec::new();
            for column in 0..columns {
                // SAFETY: the result is valid, row and column are in range; the text is copied, then freed once, as its owner is told to.
                let cell = unsafe {
                    let text = ffi::duckdb_value_varchar(&mut result.0, column, row);
                    let cell = (!text.is_null()).then(|| message_at(text));
                    ffi::duckdb_free(text.cast::<c_void>());
                    cell
                };
                cells.push(cell);
            }
            table.push(cells);
        }
        Ok(table)
    }

    fn query(&self, sql: &str) -> Result<QueryResult, Failure> {
        let sql = c_string(sql)?;
        // SAFETY: the struct is plain data, for which zeros are valid; the call fills it.
        let mut result = QueryResult(unsafe { MaybeUninit::zeroed().assume_init() });
        // SAFETY: the connection is open, the statement ends with a NUL, `result` is written by the call and destroyed in `Drop` either way.
        let state = unsafe { ffi::duckdb_query(self.0.handle, sql.as_ptr(), &mut result.0) };
        if state == ffi::duckdb_state_DuckDBSuccess {
            return Ok(result);
        }
        // SAFETY: a failed result holds type and message until it is destroyed.
        let (kind, message) = unsafe { (ffi::duckdb_result_error_type(&mut result.0), ffi::duckdb_result_error(&mut result.0)) };
        Err(Failure::of(kind, message_at(message)))
    }
}

/// Ends what a connection is doing. It keeps the connection alive.
pub(crate) struct Interrupter(Arc<RawConnection>);

impl Interrupter {
    pub(crate) fn interrupt(&self) {
        // SAFETY: the connection is open, and DuckDB allows this from any thread.
        unsafe { ffi::duckdb_interrupt(self.0.handle) };
    }
}

/// The library's version, as in `v1.5.6`.
pub(crate) fn version() -> String {
    // SAFETY: a constant of the library, which ends with a NUL.
    message_at(unsafe { ffi::duckdb_library_version() })
}

struct QueryResult(ffi::duckdb_result);

impl Drop for QueryResult {
    fn drop(&mut self) {
        // SAFETY: filled by `duckdb_query`, destroyed once.
        unsafe { ffi::duckdb_destroy_result(&mut self.0) };
    }
}

/// Types of which every bit pattern is a value and which DuckDB stores as they are.
pub(crate) trait Fixed: Copy + 'static {}

impl Fixed for u8 {}
impl Fixed for i8 {}
impl Fixed for u16 {}
impl Fixed for i16 {}
impl Fixed for u32 {}
impl Fixed for i32 {}
impl Fixed for u64 {}
impl Fixed for i64 {}
impl Fixed for f32 {}
impl Fixed for f64 {}

/// 128 bits in two words, the lower first.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct HugeInt {
    lower: u64,
    upper: u64,
}

impl From<i128> for HugeInt {
    fn from(number: i128) -> Self {
        // Splits the two's complement; each half is masked or shifted to its 64 bits.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Self { lower: number as u64, upper: (number >> 64) as u64 }
    }
}

impl HugeInt {
    /// As a number without a sign.
    pub(crate) fn unsigned(self) -> u128 {
        u128::from(self.upper) << 64 | u128::from(self.lower)
    }

    /// As a number in two's complement.
    pub(crate) fn signed(self) -> i128 {
        // The same bits.
        #[allow(clippy::cast_possible_wrap)]
        {
            self.unsigned() as i128
        }
    }
}

impl Fixed for HugeInt {}

/// A span of time. Only microseconds are written, since MySQL's TIME has no days.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Interval {
    months: i32,
    days: i32,
    micros: i64,
}

impl Interval {
    pub(crate) fn from_micros(micros: i64) -> Self {
        Self { months: 0, days: 0, micros }
    }

    /// The span, if it has neither months nor days, whose lengths vary.
    pub(crate) fn as_micros(self) -> Option<i64> {
        (self.months == 0 && self.days == 0).then_some(self.micros)
    }
}

impl Fixed for Interval {}

/// DuckDB's descriptor of a string: up to twelve bytes lie in it, of longer ones the first four and a pointer.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) union StringRef {
    inlined: Inlined,
    pointed: Pointed,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Inlined {
    length: u32,
    bytes: [u8; 12],
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Pointed {
    length: u32,
    prefix: [u8; 4],
    pointer: *const u8,
}

const _: () = assert!(size_of::<StringRef>() == 16 && size_of::<ffi::duckdb_string_t>() == 16);
