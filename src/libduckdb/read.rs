//! Large results, a chunk at a time.

use std::ffi::{CStr, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;

use duckdb::ffi;

use super::{Connection, Failure, FailureKind, Fixed, QueryResult, RawConnection, StringRef, c_string, message_at};

/// The type of a result's column, as far as it says how values lie in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Logical {
    Boolean,
    Int {
        bits: u8,
        unsigned: bool,
    },
    HugeInt,
    UHugeInt,
    Float,
    Double,
    /// A number of 16, 32, 64 or 128 bits.
    Decimal {
        width: u8,
        scale: u8,
        bits: u8,
    },
    /// Days since 1970.
    Date,
    /// Microseconds since midnight.
    Time,
    /// Microseconds since 1970.
    Timestamp,
    TimestampSeconds,
    TimestampMillis,
    TimestampNanos,
    TimestampTz,
    Interval,
    Uuid,
    Varchar,
    /// Text that is JSON.
    Json,
    Blob,
    /// A byte that counts the unused bits at the front, then the bits.
    Bit,
    /// The index of a member, of this many bits.
    Enum {
        members: Vec<String>,
        bits: u8,
    },
    /// A list, an array, a struct, a map, a union or a variant.
    Nested,
    /// Nothing that is read here.
    Other,
}

/// A statement's rows. It keeps the connection alive.
pub(crate) struct Stream {
    result: QueryResult,
    columns: Vec<Logical>,
    _connection: Arc<RawConnection>,
}

// SAFETY: its handles belong to it alone, and none is bound to a thread.
unsafe impl Send for Stream {}

impl Connection {
    /// The rows of a query, which are computed as they are fetched.
    pub(crate) fn stream(&self, sql: &str) -> Result<Stream, Failure> {
        let sql = c_string(sql)?;
        let mut statement = Statement(ptr::null_mut());
        // SAFETY: the connection is open, the statement ends with a NUL; the handle is written by the call, also after a failure.
        if unsafe { ffi::duckdb_prepare(self.0.handle, sql.as_ptr(), &mut statement.0) } != ffi::duckdb_state_DuckDBSuccess {
            // SAFETY: the handle is valid or null; its message lives until it is destroyed.
            return Err(Failure::new(FailureKind::Value, message_at(unsafe { ffi::duckdb_prepare_error(statement.0) })));
        }
        let mut pending = Pending(ptr::null_mut());
        // SAFETY: the statement is valid; the handle is written by the call, also after a failure.
        if unsafe { ffi::duckdb_pending_prepared_streaming(statement.0, &mut pending.0) } != ffi::duckdb_state_DuckDBSuccess {
            // SAFETY: as for the statement.
            return Err(Failure::new(FailureKind::Value, message_at(unsafe { ffi::duckdb_pending_error(pending.0) })));
        }
        // SAFETY: the struct is plain data, for which zeros are valid; the call fills it.
        let mut result = QueryResult(unsafe { MaybeUninit::zeroed().assume_init() });
        // SAFETY: the pending result is valid, `result` is written by the call and destroyed in `Drop` either way.
        if unsafe { ffi::duckdb_execute_pending(pending.0, &mut result.0) } != ffi::duckdb_state_DuckDBSuccess {
            return Err(failure_of(&mut result));
        }
        // SAFETY: the result is valid.
        let count = unsafe { ffi::duckdb_column_count(&mut result.0) };
        let columns = (0..count).map(|column| logical_at(&mut result, column)).collect();
        Ok(Stream { result, columns, _connection: Arc::clone(&self.0) })
    }
}

impl Connection {
    /// Passes on each row of a result whose `columns` columns are all strings or blobs. No more than a few chunks are in memory at a time.
    pub(crate) fn rows<E: From<Failure>>(
        &self,
        sql: &str,
        columns: usize,
        mut take: impl FnMut(&[Option<&[u8]>]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut stream = self.stream(sql)?;
        let is_string = |logical: &Logical| matches!(logical, Logical::Varchar | Logical::Json | Logical::Blob);
        if stream.columns().len() != columns || !stream.columns().iter().all(is_string) {
            return Err(Failure::new(FailureKind::Other, "a result has other columns than were asked for").into());
        }
        while let Some(chunk) = stream.next()? {
            let mut row: Vec<Option<&[u8]>> = Vec::with_capacity(columns);
            let mut values: Vec<_> = (0..columns).map(|column| chunk.strings(column)).collect();
            for _ in 0..chunk.rows() {
                row.clear();
                row.extend(values.iter_mut().map(|values| values.next().flatten()));
                take(&row)?;
            }
        }
        Ok(())
    }
}

/// The error that a result holds.
fn failure_of(result: &mut QueryResult) -> Failure {
    // SAFETY: a failed result holds type and message until it is destroyed.
    let (kind, message) = unsafe { (ffi::duckdb_result_error_type(&mut result.0), ffi::duckdb_result_error(&mut result.0)) };
    Failure::of(kind, message_at(message))
}

impl Stream {
    /// The types of the columns.
    pub(crate) fn columns(&self) -> &[Logical] {
        &self.columns
    }

    /// The next rows; `None` after the last.
    pub(crate) fn next(&mut self) -> Result<Option<DataChunk<'_>>, Failure> {
        // SAFETY: the result is valid; the call takes the struct by value and leaves its contents where they are.
        let raw = unsafe { ffi::duckdb_fetch_chunk(self.result.0) };
        if raw.is_null() {
            // SAFETY: the result is valid. Without an error there is no message.
            let is_failed = unsafe { !ffi::duckdb_result_error(&mut self.result.0).is_null() };
            return if is_failed { Err(failure_of(&mut self.result)) } else { Ok(None) };
        }
        // SAFETY: the chunk is valid, and destroyed in `Drop`.
        let rows = usize::try_from(unsafe { ffi::duckdb_data_chunk_get_size(raw) }).unwrap_or(0);
        let chunk = DataChunk { raw, rows, columns: &self.columns };
        // SAFETY: the chunk is valid.
        let width = unsafe { ffi::duckdb_data_chunk_get_column_count(raw) };
        if width != self.columns.len() as u64 {
            return Err(Failure::new(FailureKind::Other, "a chunk has other columns than its result"));
        }
        Ok((rows > 0).then_some(chunk))
    }
}

struct Statement(ffi::duckdb_prepared_statement);

impl Drop for Statement {
    fn drop(&mut self) {
        // SAFETY: the handle is valid or null, which is allowed, and is destroyed once.
        unsafe { ffi::duckdb_destroy_prepare(&mut self.0) };
    }
}

struct Pending(ffi::duckdb_pending_result);

impl Drop for Pending {
    fn drop(&mut self) {
        // SAFETY: the handle is valid or null, which is allowed, and is destroyed once.
        unsafe { ffi::duckdb_destroy_pending(&mut self.0) };
    }
}

fn logical_at(result: &mut QueryResult, column: u64) -> Logical {
    // SAFETY: the result is valid and has that column; the type is destroyed below.
    let mut logical = unsafe { ffi::duckdb_column_logical_type(&mut result.0, column) };
    if logical.is_null() {
        return Logical::Other;
    }
    // SAFETY: the type is valid.
    let found = unsafe { logical_of(logical) };
    // SAFETY: made above, destroyed once.
    unsafe { ffi::duckdb_destroy_logical_type(&mut logical) };
    found
}

/// # Safety
/// The type must be valid.
#[allow(non_upper_case_globals)]
unsafe fn logical_of(logical: ffi::duckdb_logical_type) -> Logical {
    use ffi::*;
    let int = |bits: u8, unsigned: bool| Logical::Int { bits, unsigned };
    // SAFETY: the caller's.
    match unsafe { duckdb_get_type_id(logical) } {
        DUCKDB_TYPE_DUCKDB_TYPE_BOOLEAN => Logical::Boolean,
        DUCKDB_TYPE_DUCKDB_TYPE_TINYINT => int(8, false),
        DUCKDB_TYPE_DUCKDB_TYPE_SMALLINT => int(16, false),
        DUCKDB_TYPE_DUCKDB_TYPE_INTEGER => int(32, false),
        DUCKDB_TYPE_DUCKDB_TYPE_BIGINT => int(64, false),
        DUCKDB_TYPE_DUCKDB_TYPE_UTINYINT => int(8, true),
        DUCKDB_TYPE_DUCKDB_TYPE_USMALLINT => int(16, true),
        DUCKDB_TYPE_DUCKDB_TYPE_UINTEGER => int(32, true),
        DUCKDB_TYPE_DUCKDB_TYPE_UBIGINT => int(64, true),
        DUCKDB_TYPE_DUCKDB_TYPE_HUGEINT => Logical::HugeInt,
        DUCKDB_TYPE_DUCKDB_TYPE_UHUGEINT => Logical::UHugeInt,
        DUCKDB_TYPE_DUCKDB_TYPE_FLOAT => Logical::Float,
        DUCKDB_TYPE_DUCKDB_TYPE_DOUBLE => Logical::Double,
        DUCKDB_TYPE_DUCKDB_TYPE_DECIMAL => {
            // SAFETY: the caller's, and it is a decimal.
            let (width, scale, stored) =
                unsafe { (duckdb_decimal_width(logical), duckdb_decimal_scale(logical), duckdb_decimal_internal_type(logical)) };
            let bits = match stored {
                DUCKDB_TYPE_DUCKDB_TYPE_SMALLINT => 16,
                DUCKDB_TYPE_DUCKDB_TYPE_INTEGER => 32,
                DUCKDB_TYPE_DUCKDB_TYPE_BIGINT => 64,
                _ => 128,
            };
            Logical::Decimal { width, scale, bits }
        }
        DUCKDB_TYPE_DUCKDB_TYPE_DATE => Logical::Date,
        DUCKDB_TYPE_DUCKDB_TYPE_TIME => Logical::Time,
        DUCKDB_TYPE_DUCKDB_TYPE_TIMESTAMP => Logical::Timestamp,
        DUCKDB_TYPE_DUCKDB_TYPE_TIMESTAMP_S => Logical::TimestampSeconds,
        DUCKDB_TYPE_DUCKDB_TYPE_TIMESTAMP_MS => Logical::TimestampMillis,
        DUCKDB_TYPE_DUCKDB_TYPE_TIMESTAMP_NS => Logical::TimestampNanos,
        DUCKDB_TYPE_DUCKDB_TYPE_TIMESTAMP_TZ => Logical::TimestampTz,
        DUCKDB_TYPE_DUCKDB_TYPE_INTERVAL => Logical::Interval,
        DUCKDB_TYPE_DUCKDB_TYPE_UUID => Logical::Uuid,
        DUCKDB_TYPE_DUCKDB_TYPE_VARCHAR => {
            // SAFETY: the caller's; the text is copied, then freed once, as its owner is told to.
            let alias = unsafe {
                let text = duckdb_logical_type_get_alias(logical);
                let alias = message_at(text);
                duckdb_free(text.cast::<c_void>());
                alias
            };
            if alias == "JSON" { Logical::Json } else { Logical::Varchar }
        }
        DUCKDB_TYPE_DUCKDB_TYPE_BLOB => Logical::Blob,
        DUCKDB_TYPE_DUCKDB_TYPE_BIT => Logical::Bit,
        DUCKDB_TYPE_DUCKDB_TYPE_ENUM => {
            // SAFETY: the caller's, and it is an ENUM.
            let bits = match unsafe { duckdb_enum_internal_type(logical) } {
                DUCKDB_TYPE_DUCKDB_TYPE_UTINYINT => 8,
                DUCKDB_TYPE_DUCKDB_TYPE_USMALLINT => 16,
                _ => 32,
            };
            // SAFETY: as above.
            unsafe { Logical::Enum { members: members_of(logical), bits } }
        }
        DUCKDB_TYPE_DUCKDB_TYPE_LIST
        | DUCKDB_TYPE_DUCKDB_TYPE_ARRAY
        | DUCKDB_TYPE_DUCKDB_TYPE_STRUCT
        | DUCKDB_TYPE_DUCKDB_TYPE_MAP
        | DUCKDB_TYPE_DUCKDB_TYPE_UNION
        | DUCKDB_TYPE_DUCKDB_TYPE_VARIANT => Logical::Nested,
        _ => Logical::Other,
    }
}

/// # Safety
/// The type must be a valid ENUM.
unsafe fn members_of(logical: ffi::duckdb_logical_type) -> Vec<String> {
    // SAFETY: the caller's.
    let size = unsafe { ffi::duckdb_enum_dictionary_size(logical) };
    let member = |index: u32| {
        // SAFETY: the caller's, and the index is one of the dictionary; the text is copied, then freed once, as its owner is told to.
        unsafe {
            let text = ffi::duckdb_enum_dictionary_value(logical, index.into());
            let member = if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() };
            ffi::duckdb_free(text.cast::<c_void>());
            member
        }
    };
    (0..size).map(member).collect()
}

/// Some rows of a result.
pub(crate) struct DataChunk<'a> {
    raw: ffi::duckdb_data_chunk,
    rows: usize,
    columns: &'a [Logical],
}

impl DataChunk<'_> {
    /// How many there are.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    fn vector(&self, column: usize) -> ffi::duckdb_vector {
        assert!(column < self.columns.len(), "column {column}");
        // SAFETY: the chunk is valid and, by the line above, has that column.
        unsafe { ffi::duckdb_data_chunk_get_vector(self.raw, column as u64) }
    }

    /// The mask of values that are not NULL; a null pointer if all are.
    fn validity(vector: ffi::duckdb_vector) -> *const u64 {
        // SAFETY: the vector is one of a valid chunk.
        unsafe { ffi::duckdb_vector_get_validity(vector) }
    }

    /// # Safety
    /// The mask must be null, or one of a vector that has that row.
    unsafe fn is_valid(mask: *const u64, row: usize) -> bool {
        // SAFETY: the caller's.
        mask.is_null() || unsafe { *mask.add(row / 64) } >> (row % 64) & 1 == 1
    }

    /// The values of a column of fixed-size ones, `None` for NULL.
    ///
    /// # Panics
    /// If the column's values have another size.
    pub(crate) fn fixed<T: Fixed>(&self, column: usize) -> impl Iterator<Item = Option<T>> + '_ {
        assert_eq!(size_of_values(&self.columns[column]), Some(size_of::<T>()), "column {column}");
        let vector = self.vector(column);
        // SAFETY: the vector is one of a valid chunk.
        let (data, mask) = (unsafe { ffi::duckdb_vector_get_data(vector) }.cast::<T>(), Self::validity(vector));
        (0..self.rows).map(move |row| {
            // SAFETY: DuckDB hands out flat vectors with a value of this size for each row, initialised where it is not NULL, and `T` takes every bit
            // pattern. The chunk lives as long as the iterator.
            unsafe { Self::is_valid(mask, row).then(|| data.add(row).read()) }
        })
    }

    /// The values of a column of strings, blobs or bits, `None` for NULL.
    ///
    /// # Panics
    /// If the column holds none.
    pub(crate) fn strings(&self, column: usize) -> impl Iterator<Item = Option<&[u8]>> + '_ {
        let is_string = matches!(self.columns[column], Logical::Varchar | Logical::Json | Logical::Blob | Logical::Bit);
        assert!(is_string, "column {column}");
        let vector = self.vector(column);
        // SAFETY: the vector is one of a valid chunk.
        let (data, mask) = (unsafe { ffi::duckdb_vector_get_data(vector) }.cast::<StringRef>(), Self::validity(vector));
        (0..self.rows).map(move |row| {
            // SAFETY: as in `fixed`; a descriptor that is not NULL holds its bytes or points to them, and both live as long as the chunk.
            unsafe {
                Self::is_valid(mask, row).then(|| {
                    let place = data.add(row);
                    let length = (*place).inlined.length as usize;
                    let bytes = if length <= 12 { (&raw const (*place).inlined.bytes).cast::<u8>() } else { (*place).pointed.pointer };
                    std::slice::from_raw_parts(bytes, length)
                })
            }
        })
    }
}

/// The bytes of each value of a type; `None` where they vary.
fn size_of_values(logical: &Logical) -> Option<usize> {
    Some(match logical {
        Logical::Boolean => 1,
        Logical::Int { bits, .. } | Logical::Decimal { bits, .. } | Logical::Enum { bits, .. } => usize::from(bits / 8),
        Logical::Float | Logical::Date => 4,
        Logical::Double
        | Logical::Time
        | Logical::Timestamp
        | Logical::TimestampSeconds
        | Logical::TimestampMillis
        | Logical::TimestampNanos
        | Logical::TimestampTz => 8,
        Logical::HugeInt | Logical::UHugeInt | Logical::Interval | Logical::Uuid => 16,
        Logical::Varchar | Logical::Json | Logical::Blob | Logical::Bit | Logical::Nested | Logical::Other => return None,
    })
}

impl Drop for DataChunk<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is valid and destroyed once.
        unsafe { ffi::duckdb_destroy_data_chunk(&mut self.raw) };
    }
}
