//! Results of any size, one chunk at a time. Only strings and bytes are read: whoever asks casts everything else to them.

use std::mem::MaybeUninit;
use std::ptr;

use duckdb::ffi;

use super::{Connection, Failure, FailureKind, QueryResult, StringRef, c_string, message_at};

/// A statement that was prepared.
struct Prepared(ffi::duckdb_prepared_statement);

impl Drop for Prepared {
    fn drop(&mut self) {
        // SAFETY: the handle is valid or null, which is allowed, and is destroyed once.
        unsafe { ffi::duckdb_destroy_prepare(&mut self.0) };
    }
}

/// Rows that were fetched.
struct Fetched(ffi::duckdb_data_chunk);

impl Drop for Fetched {
    fn drop(&mut self) {
        // SAFETY: the handle is valid and is destroyed once.
        unsafe { ffi::duckdb_destroy_data_chunk(&mut self.0) };
    }
}

impl Connection {
    /// Passes on each row of a result whose `columns` columns are all strings or blobs. No more than a few chunks are in memory at a time.
    pub(in super::super) fn rows<E: From<Failure>>(
        &self,
        sql: &str,
        columns: usize,
        mut take: impl FnMut(&[Option<&[u8]>]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut result = self.stream(sql)?;
        // SAFETY: the result is valid until it is dropped.
        let found = unsafe { ffi::duckdb_column_count(&mut result.0) };
        let is_string = |column: u64| {
            // SAFETY: as above, and the column is one of the result.
            let kind = unsafe { ffi::duckdb_column_type(ptr::from_ref(&result.0).cast_mut(), column) };
            matches!(kind, ffi::DUCKDB_TYPE_DUCKDB_TYPE_VARCHAR | ffi::DUCKDB_TYPE_DUCKDB_TYPE_BLOB)
        };
        if found != columns as u64 || !(0..found).all(is_string) {
            return Err(Failure::new(FailureKind::Other, "a result has other columns than were asked for").into());
        }
        loop {
            // SAFETY: the result is valid and is being streamed; the chunk is ours and destroyed in `Drop`.
            let chunk = unsafe { ffi::duckdb_fetch_chunk(result.0) };
            if chunk.is_null() {
                break;
            }
            let chunk = Fetched(chunk);
            // SAFETY: the chunk is valid.
            let rows = usize::try_from(unsafe { ffi::duckdb_data_chunk_get_size(chunk.0) }).unwrap_or(0);
            if rows == 0 {
                break;
            }
            pass_on(&chunk, columns, rows, &mut take)?;
        }
        // SAFETY: the result is valid; null where there was no error.
        let (kind, message) = unsafe { (ffi::duckdb_result_error_type(&mut result.0), ffi::duckdb_result_error(&mut result.0)) };
        if message.is_null() { Ok(()) } else { Err(Failure::of(kind, message_at(message)).into()) }
    }

    fn stream(&self, sql: &str) -> Result<QueryResult, Failure> {
        let sql = c_string(sql)?;
        let mut prepared = Prepared(ptr::null_mut());
        // SAFETY: the connection is open, the statement ends with a NUL, the handle is written by the call and destroyed in `Drop` either way.
        let state = unsafe { ffi::duckdb_prepare(self.0.handle, sql.as_ptr(), &mut prepared.0) };
        if state != ffi::duckdb_state_DuckDBSuccess {
            // SAFETY: a statement that could not be prepared holds the reason until it is destroyed.
            return Err(Failure::new(FailureKind::Value, message_at(unsafe { ffi::duckdb_prepare_error(prepared.0) })));
        }
        // SAFETY: the struct is plain data, for which zeros are valid; the call fills it.
        let mut result = QueryResult(unsafe { MaybeUninit::zeroed().assume_init() });
        // SAFETY: the statement is valid, `result` is written by the call and destroyed in `Drop` either way.
        let state = unsafe { ffi::duckdb_execute_prepared_streaming(prepared.0, &mut result.0) };
        if state == ffi::duckdb_state_DuckDBSuccess {
            return Ok(result);
        }
        // SAFETY: a failed result holds type and message until it is destroyed.
        let (kind, message) = unsafe { (ffi::duckdb_result_error_type(&mut result.0), ffi::duckdb_result_error(&mut result.0)) };
        Err(Failure::of(kind, message_at(message)))
    }
}

/// Passes on the rows of a chunk whose columns are strings.
fn pass_on<E>(chunk: &Fetched, columns: usize, rows: usize, take: &mut impl FnMut(&[Option<&[u8]>]) -> Result<(), E>) -> Result<(), E> {
    let vectors: Vec<(&[StringRef], *mut u64)> = (0..columns as u64)
        .map(|column| {
            // SAFETY: the chunk is valid, has that many columns and rows, and all of them are strings, as was looked at before; it lives longer
            // than the slices. A null pointer stands for a column without NULLs.
            unsafe {
                let vector = ffi::duckdb_data_chunk_get_vector(chunk.0, column);
                let data = ffi::duckdb_vector_get_data(vector).cast::<StringRef>().cast_const();
                (std::slice::from_raw_parts(data, rows), ffi::duckdb_vector_get_validity(vector))
            }
        })
        .collect();
    let mut row: Vec<Option<&[u8]>> = Vec::with_capacity(columns);
    for index in 0..rows {
        row.clear();
        for (strings, validity) in &vectors {
            // SAFETY: a mask has a bit for each row.
            let is_valid = validity.is_null() || unsafe { *validity.add(index / 64) } & (1 << (index % 64)) != 0;
            // SAFETY: the value is valid, so its descriptor was written, and what it points to lives as long as the chunk.
            row.push(if is_valid { Some(unsafe { strings[index].bytes() }) } else { None });
        }
        take(&row)?;
    }
    Ok(())
}
