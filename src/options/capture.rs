//! What change capture is opened with.

use std::time::Duration;

use super::{check_host, check_text, check_timeout};
use crate::error::{Error, Result};
use crate::tls::Tls;

/// How changes are captured: where vtgate's gRPC port is, and what to ask it for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureOptions {
    grpc_port: u16,
    pub(super) grpc_host: Option<String>,
    pub(super) grpc_tls: Option<Tls>,
    grpc_credentials: GrpcCredentials,
    mode: CaptureMode,
    dest_schema: Option<String>,
    tablet_type: TabletType,
    cells: Vec<String>,
    shards: Vec<String>,
    workload: Workload,
    max_message_bytes: u64,
    no_progress_timeout: Duration,
}

/// When a capture ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum CaptureMode {
    /// When it has caught up with the position at which the source stood when the run began. In a URI: `batch`.
    #[default]
    Batch,
    /// When it is cancelled. In a URI: `stream`.
    Stream,
}

/// Which of a shard's tablets are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum TabletType {
    /// The one that takes writes: never behind. In a URI: `primary`.
    #[default]
    Primary,
    /// One that could become the primary. In a URI: `replica`.
    Replica,
    /// One that is kept for reading in bulk. In a URI: `rdonly`.
    Rdonly,
}

/// As what vtgate treats the queries of the MySQL connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Workload {
    /// Results stream, and no cap on rows applies. In a URI: `olap`.
    #[default]
    Olap,
    /// Results are collected first, up to vtgate's cap on rows. In a URI: `oltp`.
    Oltp,
}

/// Over which gRPC connections user and password are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum GrpcCredentials {
    /// Over TLS, and to this machine itself.
    #[default]
    Protected,
    /// Over any, so that everyone on the way can read them. In a URI: `plaintext`.
    DangerPlaintext,
}

/// A single packet of a copy is 250,000 bytes and more.
const MIN_MESSAGE_BYTES: u64 = 1 << 20;
/// What gRPC can count.
const MAX_MESSAGE_BYTES: u64 = 2_147_483_647;

impl CaptureOptions {
    /// By vtgate's gRPC port. It has no default, since it differs from the MySQL port and from one installation to the next.
    pub fn new(grpc_port: u16) -> Self {
        Self {
            grpc_port,
            grpc_host: None,
            grpc_tls: None,
            grpc_credentials: GrpcCredentials::default(),
            mode: CaptureMode::default(),
            dest_schema: None,
            tablet_type: TabletType::default(),
            cells: Vec::new(),
            shards: Vec::new(),
            workload: Workload::default(),
            max_message_bytes: 64 << 20,
            no_progress_timeout: Duration::from_secs(5 * 60),
        }
    }

    /// The host name or IP address of vtgate's gRPC port. Default: the host of the MySQL connection.
    #[must_use]
    pub fn with_grpc_host(mut self, host: impl Into<String>) -> Self {
        self.grpc_host = Some(host.into());
        self
    }

    /// How the gRPC connection is secured; [`Tls::Preferred`] is refused. Default: see [`SourceOptions::grpc_tls`](crate::SourceOptions::grpc_tls).
    #[must_use]
    pub fn with_grpc_tls(mut self, tls: Tls) -> Self {
        self.grpc_tls = Some(tls);
        self
    }

    /// Over which gRPC connections user and password are sent. Default: [`GrpcCredentials::Protected`].
    #[must_use]
    pub fn with_grpc_credentials(mut self, credentials: GrpcCredentials) -> Self {
        self.grpc_credentials = credentials;
        self
    }

    /// When the capture ends. Default: [`CaptureMode::Batch`].
    #[must_use]
    pub fn with_mode(mut self, mode: CaptureMode) -> Self {
        self.mode = mode;
        self
    }

    /// The schema of the destination in which several tables keep their names. Default: the destination's own default.
    #[must_use]
    pub fn with_dest_schema(mut self, schema: impl Into<String>) -> Self {
        self.dest_schema = Some(schema.into());
        self
    }

    /// Which of a shard's tablets are read. Default: [`TabletType::Primary`].
    #[must_use]
    pub fn with_tablet_type(mut self, tablet_type: TabletType) -> Self {
        self.tablet_type = tablet_type;
        self
    }

    /// The cells in which to look for tablets. Default, and with an empty list: vtgate's own.
    #[must_use]
    pub fn with_cells<S: Into<String>>(mut self, cells: impl IntoIterator<Item = S>) -> Self {
        self.cells = cells.into_iter().map(Into::into).collect();
        self
    }

    /// The shards to read, as in `-80`. Default, and with an empty list: all that serve.
    #[must_use]
    pub fn with_shards<S: Into<String>>(mut self, shards: impl IntoIterator<Item = S>) -> Self {
        self.shards = shards.into_iter().map(Into::into).collect();
        self
    }

    /// As what vtgate treats the queries of the MySQL connection. Default: [`Workload::Olap`].
    #[must_use]
    pub fn with_workload(mut self, workload: Workload) -> Self {
        self.workload = workload;
        self
    }

    /// The largest message to take from vtgate, from 1 MiB to 2,147,483,647 bytes; a larger one is an error. Default: 64 MiB.
    #[must_use]
    pub fn with_max_message_bytes(mut self, bytes: u64) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// How long a stream may stand still, with neither a new position nor a row, while the server has more to send; up to 24 hours. Then
    /// that is an error, which tells a throttled server from a stalled one. Default: 5 minutes: a tablet that restarts is silent for half a
    /// minute, and vtgate looks for another one for 90 s.
    ///
    /// A stream that is idle since nothing happens goes on. One that does not even bring vtgate's heartbeats for half a minute is taken for a
    /// dead connection and made anew, see [`SourceOptions::with_retry_timeout`](crate::SourceOptions::with_retry_timeout).
    #[must_use]
    pub fn with_no_progress_timeout(mut self, timeout: Duration) -> Self {
        self.no_progress_timeout = timeout;
        self
    }

    /// vtgate's gRPC port.
    pub fn grpc_port(&self) -> u16 {
        self.grpc_port
    }

    /// Over which gRPC connections user and password are sent.
    pub fn grpc_credentials(&self) -> GrpcCredentials {
        self.grpc_credentials
    }

    /// When the capture ends.
    pub fn mode(&self) -> CaptureMode {
        self.mode
    }

    /// The destination's schema for tables that keep their names, `None` for its default.
    pub fn dest_schema(&self) -> Option<&str> {
        self.dest_schema.as_deref()
    }

    /// Which of a shard's tablets are read.
    pub fn tablet_type(&self) -> TabletType {
        self.tablet_type
    }

    /// The cells in which to look for tablets; empty for vtgate's own.
    pub fn cells(&self) -> &[String] {
        &self.cells
    }

    /// The shards to read; empty for all that serve.
    pub fn shards(&self) -> &[String] {
        &self.shards
    }

    /// As what vtgate treats the queries of the MySQL connection.
    pub fn workload(&self) -> Workload {
        self.workload
    }

    /// The largest message to take from vtgate.
    pub fn max_message_bytes(&self) -> u64 {
        self.max_message_bytes
    }

    /// Refuses what is out of range.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config), naming the URI's parameter.
    pub(super) fn check(&self) -> Result<()> {
        if self.grpc_port == 0 {
            return Err(Error::config("`grpc_port` must be a number from 1 to 65535"));
        }
        if let Some(host) = &self.grpc_host {
            check_host("`grpc_host`", host)?;
        }
        if self.grpc_tls == Some(Tls::Preferred) {
            return Err(Error::config(
                "`grpc_tls` must be `true`, `skip-verify` or `false`: gRPC cannot negotiate, so nothing can be preferred",
            ));
        }
        if let Some(schema) = &self.dest_schema {
            check_text("`dest_schema`", schema)?;
        }
        for (name, list) in [("cells", &self.cells), ("shards", &self.shards)] {
            check_list(name, list)?;
        }
        if !(MIN_MESSAGE_BYTES..=MAX_MESSAGE_BYTES).contains(&self.max_message_bytes) {
            return Err(Error::config("`max_message_bytes` must be from 1MiB to 2147483647"));
        }
        check_timeout("no_progress_timeout", self.no_progress_timeout)
    }

    /// How long a stream may stand still.
    pub fn no_progress_timeout(&self) -> Duration {
        self.no_progress_timeout
    }
}

fn check_list(name: &str, list: &[String]) -> Result<()> {
    let mut sorted: Vec<_> = list.iter().collect();
    sorted.sort_unstable();
    // vtgate takes the cells as one text with commas.
    if list.iter().any(|entry| entry.is_empty() || entry.contains([',', '\0'])) {
        return Err(Error::config(format!("`{name}` has an empty or malformed entry")));
    }
    if sorted.windows(2).any(|pair| pair.first() == pair.last()) {
        return Err(Error::config(format!("`{name}` names one of its entries twice")));
    }
    Ok(())
}
