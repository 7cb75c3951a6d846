//! A MySQL or Vitess server as the origin of rows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{read, schema};
use crate::cancel::Cancel;
use crate::options::SourceOptions;
use crate::retry::first_connection;
use crate::schema::Table;
use crate::server::Connection;
use crate::source::patience::{Patience, unless};
use crate::source::rows::{Interrupt, Rows};
use crate::source::server::ServerKind;
use crate::source::{Origin, Reading};
use crate::{Error, ErrorKind, Result};

/// A server, with one connection that is kept between calls; each reading of a table has its own.
pub(crate) struct MySql {
    options: SourceOptions,
    server: ServerKind,
    idle: Mutex<Option<Connection>>,
    patience: Patience,
}

impl Origin for MySql {
    fn server(&self) -> &ServerKind {
        &self.server
    }

    fn tables(&self, cancel: &Cancel) -> Result<Vec<Table>> {
        self.with_connection(cancel, schema::tables)
    }

    fn table(&self, name: &str, cancel: &Cancel) -> Result<Table> {
        self.with_connection(cancel, |connection| schema::table(connection, name))
    }

    fn rows(&self, table: Arc<Table>, reading: &Reading, cancel: &Cancel) -> Result<Rows> {
        let connection = self.patience.persist(cancel, || {
            let connection = match self.take_idle() {
                Some(connection) => unless(cancel, interrupt_of(&connection), BROKEN, || Ok(connection.if_alive()))?,
                None => None,
            };
            connection.map_or_else(|| Connection::open(&self.options, cancel), Ok)
        })?;
        read::rows(connection, table, reading)
    }
}

impl MySql {
    pub(crate) fn open(options: &SourceOptions, cancel: &Cancel) -> Result<Self> {
        let connection = first_connection(cancel, || Connection::open(options, cancel))?;
        let server = connection.server().clone();
        let patience = Patience::new("MySQL", options.retry_timeout());
        Ok(Self { options: options.clone(), server, idle: Mutex::new(Some(connection)), patience })
    }

    /// Asks the server something, and asks again where the connection fails or breaks.
    pub(crate) fn with_connection<T: Send>(&self, cancel: &Cancel, work: impl Fn(&mut Connection) -> Result<T> + Sync) -> Result<T> {
        self.patience.persist(cancel, || {
            if let Some(connection) = self.take_idle() {
                match self.ask(cancel, connection, &work) {
                    // Servers close connections that were idle for long.
                    Err(error) if error.kind() == ErrorKind::Connect => {}
                    result => return result,
                }
            }
            self.ask(cancel, Connection::open(&self.options, cancel)?, &work)
        })
    }

    fn ask<T: Send>(&self, cancel: &Cancel, connection: Connection, work: &(impl Fn(&mut Connection) -> Result<T> + Sync)) -> Result<T> {
        let (answer, connection) = unless(cancel, interrupt_of(&connection), BROKEN, || {
            let broke = || Error::new(ErrorKind::Connect, "the server closed an idle connection");
            let mut connection = connection.if_alive().ok_or_else(broke)?;
            Ok((work(&mut connection)?, connection))
        })?;
        // Only from here on: one on which something failed may be set to another target than this database.
        *self.lock_idle() = Some(connection);
        Ok(answer)
    }

    fn take_idle(&self) -> Option<Connection> {
        self.lock_idle().take()
    }

    fn lock_idle(&self) -> MutexGuard<'_, Option<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is said of a thread that died of a panic: the client library indexes into packets.
pub(super) const BROKEN: &str = "the server broke MySQL's protocol";

pub(super) fn interrupt_of(connection: &Connection) -> Option<Interrupt> {
    connection.interrupter().map(|interrupter| -> Interrupt { Box::new(move || interrupter.interrupt()) })
}
