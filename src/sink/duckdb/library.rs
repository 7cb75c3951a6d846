//! DuckDB's C interface, as far as it is needed: statements with small results, and appending of data chunks.
//!
//! A safe wrapper exists, but appends by rows or by Arrow batches. Chunks that are filled in place, with strings that stay where they are,
//! measured a quarter to a half less CPU, so this module owns the unsafe code and nothing else does. Its rules:
//!
//! - A handle is owned by one value, which destroys it once, in `Drop`. A connection keeps its database alive, an appender its connection.
//! - A chunk's memory is written only through [`Chunk`], whose methods check type, column and row against what the chunk was made with.
//! - A string is lent to a chunk for the lifetime `'b`, which outlives the call that hands the chunk to DuckDB, and DuckDB copies before that
//!   call returns.

#![allow(unsafe_code)]

mod rows;

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;

use duckdb::ffi;

/// What DuckDB said about a failure.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    pub(super) message: String,
}

/// How much of DuckDB's message can be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureKind {
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
    // Closed after the connection.
    _database: Database,
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
pub(super) struct Connection(Arc<RawConnection>);

impl Connection {
    /// Opens a database with the given settings.
    pub(super) fn open(path: &str, settings: &[(&str, String)]) -> Result<Self, Failure> {
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
        let database = opened?;
        let mut handle: ffi::duckdb_connection = ptr::null_mut();
        // SAFETY: the database is open, and `handle` is written by the call.
        if unsafe { ffi::duckdb_connect(database.0, &mut handle) } != ffi::duckdb_state_DuckDBSuccess {
            return Err(Failure::new(FailureKind::Other, "no connection to the database can be made"));
        }
        Ok(Self(Arc::new(RawConnection { handle, _database: database })))
    }

    /// Runs statements; the number of rows that the last one changed.
    pub(super) fn execute(&self, sql: &str) -> Result<u64, Failure> {
        let mut result = self.query(sql)?;
        // SAFETY: the result is valid until it is dropped.
        Ok(unsafe { ffi::duckdb_rows_changed(&mut result.0) })
    }

    /// All rows of a small result, as text.
    pub(super) fn query_text(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, Failure> {
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

    /// Prepares to append to the named columns of a table.
    pub(super) fn appender(&self, schema: Option<&str>, table: &str, columns: &[&str]) -> Result<Appender, Failure> {
        let schema = schema.map(c_string).transpose()?;
        let table = c_string(table)?;
        let mut handle: ffi::duckdb_appender = ptr::null_mut();
        // SAFETY: the connection is open, the strings end with a NUL, `handle` is written by the call. No schema is a null pointer.
        let state = unsafe {
            ffi::duckdb_appender_create_ext(
                self.0.handle,
                ptr::null(),
                schema.as_ref().map_or(ptr::null(), |schema| schema.as_ptr()),
                table.as_ptr(),
                &mut handle,
            )
        };
        // From here on dropping it destroys the handle, which has to be done after a failure too.
        let mut appender = Appender {
            handle,
            types: Vec::new(),
            ids: Vec::new(),
            members: Vec::new(),
            chunk: ptr::null_mut(),
            capacity: 0,
            _connection: Arc::clone(&self.0),
        };
        appender.check(state)?;
        for column in columns {
            let column = c_string(column)?;
            // SAFETY: the appender is valid, the string ends with a NUL.
            let state = unsafe { ffi::duckdb_appender_add_column(appender.handle, column.as_ptr()) };
            appender.check(state)?;
        }
        for index in 0..columns.len() as u64 {
            // SAFETY: the appender is valid and has that many columns; the type is destroyed in `Drop`.
            let logical = unsafe { ffi::duckdb_appender_column_type(appender.handle, index) };
            if logical.is_null() {
                return Err(Failure::new(FailureKind::Other, "a column has no type"));
            }
            appender.types.push(logical);
            // SAFETY: the type is valid.
            let storage = unsafe { storage_of(logical) };
            appender.members.push(match storage {
                // SAFETY: the type is valid, and an ENUM.
                Storage::Enum(_) => unsafe { members_of(logical) },
                _ => Members::new(),
            });
            appender.ids.push(storage);
        }
        // SAFETY: the types are valid and as many as said; the chunk is destroyed in `Drop`.
        appender.chunk = unsafe { ffi::duckdb_create_data_chunk(appender.types.as_mut_ptr(), appender.types.len() as u64) };
        if appender.chunk.is_null() {
            return Err(Failure::new(FailureKind::Other, "no chunk can be made for the table's types"));
        }
        // SAFETY: a constant of the library.
        appender.capacity = usize::try_from(unsafe { ffi::duckdb_vector_size() }).unwrap_or(0);
        Ok(appender)
    }
}

struct QueryResult(ffi::duckdb_result);

impl Drop for QueryResult {
    fn drop(&mut self) {
        // SAFETY: filled by `duckdb_query`, destroyed once.
        unsafe { ffi::duckdb_destroy_result(&mut self.0) };
    }
}

/// How a column's values lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Storage {
    /// A value of this many bytes.
    Fixed(usize),
    /// The index of a member, of this many bytes.
    Enum(usize),
    /// A string or a blob: DuckDB's 16-byte descriptor, which points to the bytes or holds them.
    String,
    /// Nothing that is written here.
    Other,
}

/// # Safety
/// The type must be valid.
unsafe fn storage_of(logical: ffi::duckdb_logical_type) -> Storage {
    use ffi::*;
    #[allow(non_upper_case_globals)]
    let size_of = |id: DUCKDB_TYPE| match id {
        DUCKDB_TYPE_DUCKDB_TYPE_BOOLEAN | DUCKDB_TYPE_DUCKDB_TYPE_TINYINT | DUCKDB_TYPE_DUCKDB_TYPE_UTINYINT => Storage::Fixed(1),
        DUCKDB_TYPE_DUCKDB_TYPE_SMALLINT | DUCKDB_TYPE_DUCKDB_TYPE_USMALLINT => Storage::Fixed(2),
        DUCKDB_TYPE_DUCKDB_TYPE_INTEGER
        | DUCKDB_TYPE_DUCKDB_TYPE_UINTEGER
        | DUCKDB_TYPE_DUCKDB_TYPE_FLOAT
        | DUCKDB_TYPE_DUCKDB_TYPE_DATE => Storage::Fixed(4),
        DUCKDB_TYPE_DUCKDB_TYPE_BIGINT
        | DUCKDB_TYPE_DUCKDB_TYPE_UBIGINT
        | DUCKDB_TYPE_DUCKDB_TYPE_DOUBLE
        | DUCKDB_TYPE_DUCKDB_TYPE_TIMESTAMP
        | DUCKDB_TYPE_DUCKDB_TYPE_TIMESTAMP_TZ => Storage::Fixed(8),
        DUCKDB_TYPE_DUCKDB_TYPE_HUGEINT | DUCKDB_TYPE_DUCKDB_TYPE_INTERVAL => Storage::Fixed(16),
        DUCKDB_TYPE_DUCKDB_TYPE_VARCHAR | DUCKDB_TYPE_DUCKDB_TYPE_BLOB | DUCKDB_TYPE_DUCKDB_TYPE_BIT => Storage::String,
        _ => Storage::Other,
    };
    // SAFETY: the caller's.
    let id = unsafe { duckdb_get_type_id(logical) };
    if id == DUCKDB_TYPE_DUCKDB_TYPE_ENUM {
        // SAFETY: the caller's, and it is an ENUM.
        #[allow(non_upper_case_globals)]
        return match unsafe { duckdb_enum_internal_type(logical) } {
            DUCKDB_TYPE_DUCKDB_TYPE_UTINYINT => Storage::Enum(1),
            DUCKDB_TYPE_DUCKDB_TYPE_USMALLINT => Storage::Enum(2),
            DUCKDB_TYPE_DUCKDB_TYPE_UINTEGER => Storage::Enum(4),
            _ => Storage::Other,
        };
    }
    if id == DUCKDB_TYPE_DUCKDB_TYPE_DECIMAL {
        // SAFETY: the caller's, and it is a decimal.
        return size_of(unsafe { duckdb_decimal_internal_type(logical) });
    }
    size_of(id)
}

/// The members of an ENUM with their indexes.
type Members = HashMap<Vec<u8>, u32>;

/// # Safety
/// The type must be a valid ENUM.
unsafe fn members_of(logical: ffi::duckdb_logical_type) -> Members {
    // SAFETY: the caller's.
    let size = unsafe { ffi::duckdb_enum_dictionary_size(logical) };
    let mut members = Members::with_capacity(size as usize);
    for index in 0..size {
        // SAFETY: the caller's, and the index is one of the dictionary; the text is copied, then freed once, as its owner is told to.
        let member = unsafe {
            let text = ffi::duckdb_enum_dictionary_value(logical, index.into());
            let member = (!text.is_null()).then(|| CStr::from_ptr(text).to_bytes().to_vec());
            ffi::duckdb_free(text.cast::<c_void>());
            member
        };
        if let Some(member) = member {
            members.insert(member, index);
        }
    }
    members
}

/// Appends rows to one table.
pub(super) struct Appender {
    handle: ffi::duckdb_appender,
    types: Vec<ffi::duckdb_logical_type>,
    ids: Vec<Storage>,
    /// By column; empty for those that are no ENUM.
    members: Vec<Members>,
    chunk: ffi::duckdb_data_chunk,
    capacity: usize,
    _connection: Arc<RawConnection>,
}

// SAFETY: its handles belong to it alone, and none is bound to a thread.
unsafe impl Send for Appender {}

impl Appender {
    /// The most rows that one chunk holds.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Appends `rows` rows, at most [`Appender::capacity`], whose columns `fill` writes. A value that `fill` leaves out is undefined, so
    /// `fill` has to write every row of every column that it does not mark as NULL.
    ///
    /// # Errors
    /// That of `fill`, and DuckDB's.
    pub(super) fn append<'b, E: From<Failure>>(
        &mut self,
        rows: usize,
        fill: impl FnOnce(&mut Chunk<'_, 'b>) -> Result<(), E>,
    ) -> Result<(), E> {
        assert!(rows <= self.capacity, "{rows} rows for a chunk of {}", self.capacity);
        // SAFETY: the chunk is valid. The reset gives its columns new memory, so pointers are fetched after it.
        unsafe { ffi::duckdb_data_chunk_reset(self.chunk) };
        let mut chunk = Chunk { raw: self.chunk, storage: &self.ids, members: &self.members, rows, strings: PhantomData };
        fill(&mut chunk)?;
        // SAFETY: the chunk is valid and holds that many rows; strings that it points to live for `'b`, which is longer than this call, and
        // DuckDB copies them before it returns.
        let state = unsafe {
            ffi::duckdb_data_chunk_set_size(self.chunk, rows as u64);
            ffi::duckdb_append_data_chunk(self.handle, self.chunk)
        };
        self.check(state)?;
        Ok(())
    }

    /// Hands what was appended to the open transaction.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        // SAFETY: the appender is valid.
        let state = unsafe { ffi::duckdb_appender_flush(self.handle) };
        self.check(state)
    }

    /// Forgets what was appended and not flushed, so that dropping the appender writes nothing.
    pub(super) fn discard(self) {
        // SAFETY: the appender is valid. An error means that there was nothing to forget.
        let _ = unsafe { ffi::duckdb_appender_clear(self.handle) };
    }

    fn check(&self, state: ffi::duckdb_state) -> Result<(), Failure> {
        if state == ffi::duckdb_state_DuckDBSuccess {
            return Ok(());
        }
        if self.handle.is_null() {
            return Err(Failure::new(FailureKind::Other, "no appender can be made"));
        }
        // SAFETY: the appender is valid; its error data is destroyed below, after type and message were copied.
        let mut data = unsafe { ffi::duckdb_appender_error_data(self.handle) };
        // SAFETY: as above.
        let failure = unsafe { Failure::of(ffi::duckdb_error_data_error_type(data), message_at(ffi::duckdb_error_data_message(data))) };
        // SAFETY: as above.
        unsafe { ffi::duckdb_destroy_error_data(&mut data) };
        Err(failure)
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        // SAFETY: each handle is valid or null, which is allowed, and is destroyed once. Destroying an appender flushes it; whoever cares
        // about the outcome has called `flush` before.
        unsafe {
            ffi::duckdb_destroy_data_chunk(&mut self.chunk);
            for logical in &mut self.types {
                ffi::duckdb_destroy_logical_type(logical);
            }
            ffi::duckdb_appender_destroy(&mut self.handle);
        }
    }
}

/// Types of which every bit pattern is a value and which DuckDB stores as they are.
pub(super) trait Fixed: Copy {}

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
pub(super) struct HugeInt {
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

impl Fixed for HugeInt {}

/// A span of time; only microseconds are used, since MySQL's TIME has no days.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Interval {
    months: i32,
    days: i32,
    micros: i64,
}

impl Interval {
    pub(super) fn from_micros(micros: i64) -> Self {
        Self { months: 0, days: 0, micros }
    }
}

impl Fixed for Interval {}

/// DuckDB's descriptor of a string: up to twelve bytes lie in it, of longer ones the first four and a pointer.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) union StringRef {
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

impl StringRef {
    /// The bytes of the string.
    ///
    /// # Safety
    /// The descriptor must have been written, and what it points to must live as long as the reference to it.
    unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: both forms begin with the length; which one it is follows from that, and the rest is the caller's.
        unsafe {
            let length = self.inlined.length as usize;
            if length <= 12 {
                std::slice::from_raw_parts(ptr::from_ref(&self.inlined.bytes).cast::<u8>(), length)
            } else {
                std::slice::from_raw_parts(self.pointed.pointer, length)
            }
        }
    }
}

const _: () = assert!(size_of::<StringRef>() == 16 && size_of::<ffi::duckdb_string_t>() == 16);

/// The rows that are being filled. Strings are borrowed for `'b`.
pub(super) struct Chunk<'a, 'b> {
    raw: ffi::duckdb_data_chunk,
    storage: &'a [Storage],
    members: &'a [Members],
    rows: usize,
    strings: PhantomData<&'b [u8]>,
}

impl<'b> Chunk<'_, 'b> {
    fn vector(&self, column: usize, expected: Storage) -> ffi::duckdb_vector {
        assert_eq!(self.storage[column], expected, "column {column}");
        // SAFETY: the chunk is valid and, by the line above, has that column.
        unsafe { ffi::duckdb_data_chunk_get_vector(self.raw, column as u64) }
    }

    /// The places of a column of fixed-size values.
    ///
    /// # Panics
    /// If the column's values have another size.
    pub(super) fn fixed<T: Fixed>(&mut self, column: usize) -> &mut [MaybeUninit<T>] {
        let vector = self.vector(column, Storage::Fixed(size_of::<T>()));
        // SAFETY: the vector's memory holds `capacity` values of this size, aligned as malloc does, and `rows` is not more. Nothing else refers
        // to it while the chunk is borrowed. It may hold anything, hence `MaybeUninit`.
        unsafe { std::slice::from_raw_parts_mut(ffi::duckdb_vector_get_data(vector).cast::<MaybeUninit<T>>(), self.rows) }
    }

    /// Whether the column is an ENUM.
    pub(super) fn is_enum(&self, column: usize) -> bool {
        matches!(self.storage[column], Storage::Enum(_))
    }

    /// Writes a column of members of an ENUM; `values` yields one for each row, `None` for those that are NULL.
    ///
    /// # Panics
    /// If the column is no ENUM.
    pub(super) fn members<'v>(&mut self, column: usize, values: impl Iterator<Item = Option<&'v [u8]>>) -> Result<(), Failure> {
        let members = &self.members[column];
        let indexes = values.map(|value| match value {
            None => Ok(0),
            Some(value) => {
                let no_member = || Failure::new(FailureKind::Member, "a value is no member of the column's ENUM");
                members.get(value).copied().ok_or_else(no_member)
            }
        });
        match self.storage[column] {
            Storage::Enum(1) => self.indexes::<u8>(column, indexes),
            Storage::Enum(2) => self.indexes::<u16>(column, indexes),
            _ => self.indexes::<u32>(column, indexes),
        }
    }

    fn indexes<T: Fixed + TryFrom<u32>>(
        &mut self,
        column: usize,
        indexes: impl Iterator<Item = Result<u32, Failure>>,
    ) -> Result<(), Failure> {
        let vector = self.vector(column, Storage::Enum(size_of::<T>()));
        // SAFETY: as in `fixed`: the storage of an ENUM says how large an index is.
        let places = unsafe { std::slice::from_raw_parts_mut(ffi::duckdb_vector_get_data(vector).cast::<MaybeUninit<T>>(), self.rows) };
        for (place, index) in places.iter_mut().zip(indexes) {
            let index =
                T::try_from(index?).map_err(|_| Failure::new(FailureKind::Member, "an ENUM has more members than its type holds"))?;
            place.write(index);
        }
        Ok(())
    }

    /// Writes a column of strings that the chunk borrows; `values` yields one for each row.
    ///
    /// # Panics
    /// If the column does not hold strings, or there are not as many values as rows.
    pub(super) fn strings(&mut self, column: usize, values: impl ExactSizeIterator<Item = &'b [u8]>) -> Result<(), Failure> {
        assert_eq!(values.len(), self.rows, "values of column {column}");
        let vector = self.vector(column, Storage::String);
        // SAFETY: as in `fixed`; the size of a descriptor is asserted above.
        let places =
            unsafe { std::slice::from_raw_parts_mut(ffi::duckdb_vector_get_data(vector).cast::<MaybeUninit<StringRef>>(), self.rows) };
        for (place, value) in places.iter_mut().zip(values) {
            let length = u32::try_from(value.len()).map_err(|_| Failure::new(FailureKind::Value, "a string has four gibibytes or more"))?;
            place.write(if value.len() <= 12 {
                let mut bytes = [0; 12];
                bytes[..value.len()].copy_from_slice(value);
                StringRef { inlined: Inlined { length, bytes } }
            } else {
                StringRef { pointed: Pointed { length, prefix: [value[0], value[1], value[2], value[3]], pointer: value.as_ptr() } }
            });
        }
        Ok(())
    }

    /// One bit for each row, least significant first; those that are cleared become NULL. All are set at first.
    pub(super) fn validity(&mut self, column: usize) -> &mut [u64] {
        let vector = self.vector(column, self.storage[column]);
        // SAFETY: the mask is made for the whole capacity, with all bits set, so these words exist and are initialised; nothing else refers to
        // them while the chunk is borrowed.
        unsafe {
            ffi::duckdb_vector_ensure_validity_writable(vector);
            std::slice::from_raw_parts_mut(ffi::duckdb_vector_get_validity(vector), self.rows.div_ceil(64))
        }
    }
}
