//! What is done to the many-process cluster: its processes are killed, its keyspaces resharded, its binary logs purged.

use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::servers::{Server, vitess_full};

/// vtgate, which all use. Whoever needs a keyspace too takes that after it.
static GATE: RwLock<()> = RwLock::new(());
/// The processes of `commerce` and of `customer`.
static TABLETS: [RwLock<()>; 2] = [RwLock::new(()), RwLock::new(())];

/// What a test has for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alone {
    /// The tablets of a keyspace.
    In(&'static str),
    /// All of the cluster.
    Everywhere,
}

/// As long as it lives, nobody breaks what its owner uses.
pub struct Peace {
    _gate: Result<RwLockReadGuard<'static, ()>, RwLockWriteGuard<'static, ()>>,
    _tablets: Option<Result<RwLockReadGuard<'static, ()>, RwLockWriteGuard<'static, ()>>>,
}

fn read(lock: &'static RwLock<()>) -> RwLockReadGuard<'static, ()> {
    lock.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn write(lock: &'static RwLock<()>) -> RwLockWriteGuard<'static, ()> {
    lock.write().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn tablets(keyspace: &str) -> Option<&'static RwLock<()>> {
    ["commerce", "customer"].iter().position(|name| *name == keyspace).map(|index| &TABLETS[index])
}

/// Uses a keyspace together with others; one of its own needs vtgate only.
pub fn in_peace(keyspace: &str) -> Peace {
    Peace { _gate: Ok(read(&GATE)), _tablets: tablets(keyspace).map(|lock| Ok(read(lock))) }
}

/// Nobody else uses what the owner breaks.
pub fn alone(what: Alone) -> Peace {
    match what {
        Alone::In(keyspace) => Peace { _gate: Ok(read(&GATE)), _tablets: tablets(keyspace).map(|lock| Err(write(lock))) },
        Alone::Everywhere => Peace { _gate: Err(write(&GATE)), _tablets: None },
    }
}

/// How far a reshard goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reshard {
    /// The new shards have all rows and follow the old ones.
    Create,
    /// The new shards serve; the old ones are still there.
    Switch,
    /// The old shards and their tablets are gone.
    Complete,
}

impl Server {
    /// Ends a process at once: `vtgate`, `vttablet-100`, `mysqld-100`.
    pub fn kill(&self, process: &str) {
        self.control("kill", &[process]);
    }

    /// Ends a process in order.
    pub fn stop(&self, process: &str) {
        self.control("kill", &[process, "--signal", "TERM"]);
    }

    /// Starts a process anew, ending it in order before if it lives, and waits until vtgate reaches what it serves.
    pub fn restart(&self, process: &str) {
        self.control("restart", &[process]);
    }

    /// Runs statements on a tablet's own mysqld, past Vitess, in one session: each row a line, cells with tabs between.
    pub fn on_tablet(&self, tablet: &str, sql: &str) -> String {
        self.control("sql", &["--tablet", tablet, sql])
    }

    /// Which tablet is the primary of a shard.
    pub fn primary_of(&self, keyspace: &str, shard: &str) -> String {
        let said = self.control("vtctl", &["GetShard", &format!("{keyspace}/{shard}")]);
        let shard: serde_json::Value = serde_json::from_str(&said).expect("GetShard prints JSON");
        shard["shard"]["primary_alias"]["uid"].as_u64().expect("a shard has a primary").to_string()
    }
}

/// A keyspace with tablets of its own, for a test that leaves them unusable. They end with it.
pub struct Keyspace {
    pub server: &'static Server,
    pub name: &'static str,
    /// The tablets in the order of the shards.
    pub tablets: Vec<String>,
}

impl Keyspace {
    /// A new keyspace; what an earlier run of the tests left under the name goes.
    pub fn new(name: &'static str, shards: &str, tablets_of_each: usize) -> Self {
        let server = vitess_full();
        let said = server.control("keyspace", &[name, &format!("--shards={shards}"), &format!("--tablets={tablets_of_each}")]);
        let tablets = said.lines().filter_map(|line| line.split_once(':').map(|(tablet, _)| tablet.to_owned())).collect();
        Self { server, name, tablets }
    }

    pub fn reshard(&self, source: &str, target: &str, until: Reshard) {
        let (source, target) = (format!("--source={source}"), format!("--target={target}"));
        let until = match until {
            Reshard::Create => "create",
            Reshard::Switch => "switch",
            Reshard::Complete => "complete",
        };
        self.server.control("reshard", &["--keyspace", self.name, &source, &target, "--until", until]);
    }

    pub fn uri(&self) -> String {
        self.server.cdc_uri(self.name)
    }
}

impl Drop for Keyspace {
    fn drop(&mut self) {
        // Not worth a second panic: the next test of the name clears it away.
        let _ = super::servers::cluster(&["drop-keyspace", &self.server.name, self.name]);
    }
}
