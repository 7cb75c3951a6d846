//! A destination that fails at one of its steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::batch::Batch;
use crate::policy::{Changed, ZeroDates};
use crate::schema::{Column, ColumnType, Table, TableName};
use crate::sink::file::File;
use crate::sink::{Destination, Sink, StoredColumn};
use crate::value::DateTime;
use crate::{Error, ErrorKind, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The step fails, and is not done.
    Refused,
    /// The step is done, and reported as failed.
    AnswerLost,
    /// Neither this step nor any other is done.
    Dead,
    /// The process ends before the step.
    Killed,
}

/// Counts the steps of a destination, and fails at one of them.
struct Faulty {
    /// With its lease.
    inner: Sink,
    /// Steps until the fault; `None` for a fault that never comes.
    left: Option<usize>,
    fault: Fault,
    is_dead: bool,
    /// Opening a DuckDB database takes too long to fail at those, too.
    reads_are_steps: bool,
    steps: Arc<AtomicUsize>,
}

/// Wraps a destination so that it fails at the step with this number, or at none; counts the steps.
pub(super) fn faulty(inner: Sink, at: Option<usize>, fault: Fault, reads_are_steps: bool) -> (Sink, Arc<AtomicUsize>) {
    let steps = Arc::default();
    let faulty = Faulty { inner, left: at, fault, is_dead: false, reads_are_steps, steps: Arc::clone(&steps) };
    (Sink { store: Box::new(File::around(Box::new(faulty))) }, steps)
}

impl Faulty {
    fn step<T>(&mut self, work: impl FnOnce(&mut dyn Destination) -> Result<T>) -> Result<T> {
        let failure = || Error::new(ErrorKind::Sink, "this step fails");
        if self.is_dead {
            return Err(failure());
        }
        self.steps.fetch_add(1, Ordering::SeqCst);
        match &mut self.left {
            Some(0) => {}
            Some(left) => {
                *left -= 1;
                return work(self.inner.destination_for_tests());
            }
            None => return work(self.inner.destination_for_tests()),
        }
        self.left = None;
        match self.fault {
            Fault::Refused => {}
            Fault::AnswerLost => drop(work(self.inner.destination_for_tests())?),
            Fault::Dead => self.is_dead = true,
            Fault::Killed => {
                println!("\n{AT_THE_STEP}");
                loop {
                    std::thread::park();
                }
            }
        }
        Err(failure())
    }

    /// A step that changes nothing.
    fn reading<T>(&mut self, work: impl FnOnce(&mut dyn Destination) -> Result<T>) -> Result<T> {
        match self.reads_are_steps || self.is_dead {
            true => self.step(work),
            false => work(self.inner.destination_for_tests()),
        }
    }
}

/// What a child prints once it is to be killed.
pub(super) const AT_THE_STEP: &str = "at the step";

impl Destination for Faulty {
    fn begin(&mut self) -> Result<()> {
        self.step(|inner| inner.begin())
    }

    fn commit(&mut self) -> Result<()> {
        self.step(|inner| inner.commit())
    }

    fn rollback(&mut self) -> Result<()> {
        self.step(|inner| inner.rollback())
    }

    fn execute(&mut self, sql: &str) -> Result<u64> {
        self.step(|inner| inner.execute(sql))
    }

    fn execute_over(&mut self, rows: u64, sql: &str) -> Result<u64> {
        self.step(|inner| inner.execute_over(rows, sql))
    }

    fn query_text(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.reading(|inner| inner.query_text(sql))
    }

    fn append(&mut self, table: &TableName, batch: &Batch) -> Result<Changed> {
        self.step(|inner| inner.append(table, batch))
    }

    fn stored_columns(&mut self, table: &TableName) -> Result<Option<Vec<StoredColumn>>> {
        self.reading(|inner| inner.stored_columns(table))
    }

    fn read(
        &mut self,
        name: &TableName,
        table: &Arc<Table>,
        stored: &[StoredColumn],
        rest: &str,
        take: &mut dyn FnMut(Batch) -> Result<()>,
    ) -> Result<()> {
        self.reading(|inner| inner.read(name, table, stored, rest, take))
    }

    fn declared(&self, column_type: &ColumnType) -> String {
        self.inner.stored_in().declared(column_type)
    }

    fn table_suffix(&self) -> &'static str {
        self.inner.stored_in().table_suffix()
    }

    fn create_schema(&mut self, table: &TableName) -> Result<()> {
        self.reading(|inner| inner.create_schema(table))
    }

    fn set_zero_dates(&mut self, policy: ZeroDates) {
        self.inner.destination_for_tests().set_zero_dates(policy);
    }

    fn rows_per_part(&self) -> Option<usize> {
        // A few, so that a whole copy has parts.
        self.inner.stored_in().rows_per_part().map(|_| 4)
    }

    fn rows_per_commit(&self) -> Option<usize> {
        self.inner.stored_in().rows_per_commit().map(|_| 4)
    }

    fn wants_key(&self) -> bool {
        self.inner.stored_in().wants_key()
    }

    fn timestamp_literal(&self, at: DateTime) -> String {
        self.inner.stored_in().timestamp_literal(at)
    }

    fn default_literal(&self, column_type: &ColumnType, text: &str) -> Result<String> {
        self.inner.stored_in().default_literal(column_type, text)
    }

    fn takes(&self, stored: &str, declared: &str) -> bool {
        self.inner.stored_in().takes(stored, declared)
    }

    fn widens(&self, stored: &str, declared: &str) -> bool {
        self.inner.stored_in().widens(stored, declared)
    }

    fn change_type(&mut self, name: &TableName, column: &Column) -> Result<()> {
        self.step(|inner| inner.change_type(name, column))
    }

    fn take_up(&mut self, name: &TableName, column: &str) -> Result<()> {
        self.reading(|inner| inner.take_up(name, column))
    }

    fn alters_written_tables(&self) -> bool {
        self.inner.stored_in().alters_written_tables()
    }

    fn add_column(&mut self, name: &TableName, column: &Column, default: Option<&str>) -> Result<()> {
        self.step(|inner| inner.add_column(name, column, default))
    }
}
