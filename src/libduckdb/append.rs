//! Appending data chunks to a table.

use std::collections::HashMap;
use std::ffi::{CStr, c_void};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;

use duckdb::ffi;

use super::{Connection, Failure, FailureKind, Fixed, Inlined, Pointed, RawConnection, StringRef, c_string, message_at};

impl Connection {
    /// Prepares to append to the named columns of a table.
    pub(crate) fn appender(
        &self,
        database: Option<&str>,
        schema: Option<&str>,
        table: &str,
        columns: &[&str],
    ) -> Result<Appender, Failure> {
        let database = database.map(c_string).transpose()?;
        let schema = schema.map(c_string).transpose()?;
        let table = c_string(table)?;
        let mut handle: ffi::duckdb_appender = ptr::null_mut();
        // SAFETY: the connection is open, the strings end with a NUL, `handle` is written by the call. No database and no schema are null pointers.
        let state = unsafe {
            ffi::duckdb_appender_create_ext(
                self.0.handle,
                database.as_ref().map_or(ptr::null(), |database| database.as_ptr()),
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

/// How a column's values lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
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
pub(crate) struct Appender {
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
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Appends `rows` rows, at most [`Appender::capacity`], whose columns `fill` writes. A value that `fill` leaves out is undefined, so
    /// `fill` has to write every row of every column that it does not mark as NULL.
    ///
    /// # Errors
    /// That of `fill`, and DuckDB's.
    pub(crate) fn append<'b, E: From<Failure>>(
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
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        // SAFETY: the appender is valid.
        let state = unsafe { ffi::duckdb_appender_flush(self.handle) };
        self.check(state)
    }

    /// Forgets what was appended and not flushed, so that dropping the appender writes nothing.
    pub(crate) fn discard(self) {
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

/// The rows that are being filled. Strings are borrowed for `'b`.
pub(crate) struct Chunk<'a, 'b> {
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
    pub(crate) fn fixed<T: Fixed>(&mut self, column: usize) -> &mut [MaybeUninit<T>] {
        let vector = self.vector(column, Storage::Fixed(size_of::<T>()));
        // SAFETY: the vector's memory holds `capacity` values of this size, aligned as malloc does, and `rows` is not more. Nothing else refers
        // to it while the chunk is borrowed. It may hold anything, hence `MaybeUninit`.
        unsafe { std::slice::from_raw_parts_mut(ffi::duckdb_vector_get_data(vector).cast::<MaybeUninit<T>>(), self.rows) }
    }

    /// Whether the column is an ENUM.
    pub(crate) fn is_enum(&self, column: usize) -> bool {
        matches!(self.storage[column], Storage::Enum(_))
    }

    /// Writes a column of members of an ENUM; `values` yields one for each row, `None` for those that are NULL.
    ///
    /// # Panics
    /// If the column is no ENUM.
    pub(crate) fn members<'v>(&mut self, column: usize, values: impl Iterator<Item = Option<&'v [u8]>>) -> Result<(), Failure> {
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
    pub(crate) fn strings(&mut self, column: usize, values: impl ExactSizeIterator<Item = &'b [u8]>) -> Result<(), Failure> {
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
    pub(crate) fn validity(&mut self, column: usize) -> &mut [u64] {
        let vector = self.vector(column, self.storage[column]);
        // SAFETY: the mask is made for the whole capacity, with all bits set, so these words exist and are initialised; nothing else refers to
        // them while the chunk is borrowed.
        unsafe {
            ffi::duckdb_vector_ensure_validity_writable(vector);
            std::slice::from_raw_parts_mut(ffi::duckdb_vector_get_validity(vector), self.rows.div_ceil(64))
        }
    }
}
