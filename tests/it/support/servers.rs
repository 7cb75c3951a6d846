//! The servers that `tests/servers/up` has started, and SQL on them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder, Row, SslOpts};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use planetscale_ingest::{Error, Report, TableState};
use serde_json::Value;

/// One of the servers: plain MySQL, or vtgate with its two listeners.
pub struct Server {
    /// What `tests/servers/cluster` knows it by.
    pub name: String,
    pub mysql_host: String,
    pub mysql_port: u16,
    pub user: String,
    pub password: String,
    /// vtgate's gRPC listener; plain MySQL has none.
    pub grpc: Option<(String, u16)>,
    /// Where the server speaks TLS.
    pub tls: Option<Certificates>,
    /// The server's folder: logs, pids, data.
    pub dir: PathBuf,
}

/// Files of a private certificate authority.
pub struct Certificates {
    pub ca: PathBuf,
    /// A certificate authority that has signed nothing here.
    pub other_ca: PathBuf,
    pub client_cert: PathBuf,
    pub client_key: PathBuf,
}

/// A version of Vitess such as `v0.24.0`: the tests then use the servers that `tests/servers/up --beside` has started.
const BESIDE: &str = "SERVERS_BESIDE";

/// Plain MySQL, TLS offered; the user may do everything.
pub fn mysql() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::find("mysql".to_owned()))
}

/// Vitess: unsharded keyspace `commerce`, two-shard keyspace `customer`; no TLS, no password.
pub fn vitess() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::find(of_vitess("test")))
}

/// The same behind TLS, with user and password, on both listeners.
pub fn vitess_secure() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::find(of_vitess("secure")))
}

/// Vitess as processes of its own, with a mysqld for each tablet: see [`cluster`](super::cluster) for what can be done to it.
pub fn vitess_full() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::find(of_vitess("full")))
}

fn of_vitess(group: &str) -> String {
    match std::env::var(BESIDE) {
        Ok(version) => format!("{group}-{version}"),
        Err(_) => group.to_owned(),
    }
}

/// Runs `tests/servers/cluster` and returns what it prints.
pub fn cluster(arguments: &[&str]) -> Result<String, String> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/cluster");
    let output = Command::new(&program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{} cannot be run: {error}", program.display()));
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// Asks until vtgate knows of a new column, which it does a moment after that is there.
pub fn once_known<T>(sql: &str, mut ask: impl FnMut() -> mysql::Result<T>) -> T {
    let begun = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) => {
                assert!(error.to_string().contains("not found in table") && begun.elapsed() < Duration::from_secs(60), "{sql}: {error}");
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Tells vtgate how the rows of a table are spread over the shards. Two that change one vschema at once can undo or refuse each other, so it is said until
/// it is known.
pub fn route(conn: &mut Conn, keyspace: &str, table: &str, vindex: &str) {
    static VSCHEMA: Mutex<()> = Mutex::new(());
    let begun = Instant::now();
    loop {
        let said = {
            let _alone = VSCHEMA.lock().unwrap_or_else(PoisonError::into_inner);
            // Refused where an earlier run has left it behind.
            conn.query_drop(format!("alter vschema on `{keyspace}`.`{table}` add vindex {vindex}"))
        };
        let known: Result<Vec<mysql::Row>, _> = conn.query(format!("show vschema vindexes on `{keyspace}`.`{table}`"));
        let reads = conn.query_drop(format!("select 1 from `{table}` limit 1"));
        if known.as_ref().is_ok_and(|rows| !rows.is_empty()) && reads.is_ok() {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "`{table}` cannot be spread over shards: {said:?} {known:?} {reads:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Takes something out of a vschema.
pub fn unroute(conn: &mut Conn, statement: &str) {
    let begun = Instant::now();
    while let Err(error) = conn.query_drop(statement) {
        let stale = error.to_string().contains("version was stale");
        assert!(stale && begun.elapsed() < Duration::from_secs(60), "{statement}: {error}");
    }
}

/// Captures until tablets know of the tables. On a busy machine they take a moment to notice one that a test has just made.
pub fn once_tablets_know(source: &str, mut capture: impl FnMut() -> Result<Report, Error>) -> Result<Report, Error> {
    let begun = Instant::now();
    loop {
        let result = capture();
        let is_new = |said: &str| said.contains("the tablet knows no such table");
        let is_early = match &result {
            Ok(report) => report.tables.iter().any(|table| matches!(&table.state, TableState::Failed { error } if is_new(error))),
            Err(error) => is_new(&format!("{error:#}")),
        };
        if !is_early || begun.elapsed() > Duration::from_secs(60) {
            return result;
        }
        // A tablet reads its schema anew after each change of a table. Where that failed, as another was dropped meanwhile, it waits for the next.
        if source.contains(&format!(":{}/commerce", vitess().mysql_port)) {
            let mut conn = vitess().conn();
            conn.query_drop("use commerce").unwrap();
            conn.query_drop("create table if not exists for_notice (id int primary key)").unwrap();
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Tests run side by side on the same servers: a table belongs to the first test that makes or drops it, and another's attempt fails at once.
pub fn claim(server: &Server, database: &str, table: &str) {
    static TABLES: Mutex<BTreeMap<(u16, String, String), String>> = Mutex::new(BTreeMap::new());
    // Threads that a test starts have no name.
    let Some(test) = std::thread::current().name().map(str::to_owned) else { return };
    let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
    let owner = tables.entry((server.mysql_port, database.to_owned(), table.to_owned())).or_insert_with(|| test.clone()).clone();
    drop(tables);
    assert_eq!(owner, test, "both tests use table `{database}`.`{table}` of server {}", server.name);
}

/// Waits until vtgate knows of a new column.
pub fn wait_for_column(conn: &mut Conn, table: &str, column: &str) {
    let sql = format!("select `{column}` from `{table}` limit 1");
    once_known(&sql, || conn.query_drop(&sql));
}

/// A MySQL server of a test's own, that ends with the test.
pub struct Own(pub Server);

impl Own {
    /// Its ports begin so far behind the first of all.
    pub fn start(name: &str, offset: u16) -> Self {
        let base = (mysql().mysql_port - 3 + offset).to_string();
        cluster(&["ensure", name, "--topology", "mysql", "--base-port", &base]).unwrap_or_else(|error| panic!("{error}"));
        Self(Server::find(name.to_owned()))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Err(error) = cluster(&["down", &self.0.name]) {
            eprintln!("{} stays behind: {error}", self.0.name);
        }
    }
}

impl Server {
    /// One that is up, by the name that `tests/servers/cluster` knows it by.
    pub fn find(name: String) -> Self {
        let said = cluster(&["env", &name, "--json"]);
        let said = said.unwrap_or_else(|error| panic!("the servers are not up: run tests/servers/up ({error})"));
        let values: Value = serde_json::from_str(&said).expect("`cluster env --json` prints JSON");
        let text = |key: &str| values[key].as_str().map(str::to_owned);
        let port = |key: &str| values[key].as_u64().and_then(|port| u16::try_from(port).ok());
        let must = |key: &str| text(key).unwrap_or_else(|| panic!("`cluster env {name} --json` lacks `{key}`"));

        let server = Self {
            name: name.clone(),
            mysql_host: must("mysql_host"),
            mysql_port: port("mysql_port").expect("a port"),
            user: must("mysql_user"),
            password: must("mysql_password"),
            grpc: text("grpc_host").zip(port("grpc_port")),
            tls: text("other_ca").map(|other_ca| Certificates {
                ca: must("ca").into(),
                other_ca: other_ca.into(),
                client_cert: must("client_cert").into(),
                client_key: must("client_key").into(),
            }),
            dir: must("dir").into(),
        };
        // Its folder outlives a server that was killed.
        if let Err(error) = server.connect() {
            panic!("the servers are not up: run tests/servers/up ({name}: {error})");
        }
        server
    }

    /// A new connection, or why there is none.
    pub fn connect(&self) -> mysql::Result<Conn> {
        let tls = self.tls.as_ref().map(|files| SslOpts::default().with_root_cert_path(Some(files.ca.clone())));
        Conn::new(
            OptsBuilder::new()
                .ip_or_hostname(Some(&self.mysql_host))
                .tcp_port(self.mysql_port)
                .user(Some(&self.user))
                .pass((!self.password.is_empty()).then_some(&self.password))
                // Else the client moves on to the socket file that the server names: behind vtgate, that of some mysqld.
                .prefer_socket(false)
                .tcp_connect_timeout(Some(Duration::from_secs(10)))
                .read_timeout(Some(Duration::from_secs(120)))
                .ssl_opts(tls),
        )
    }

    /// A new connection, over TLS where the server speaks it, without a database.
    pub fn conn(&self) -> Conn {
        self.connect().unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// Runs `tests/servers/cluster VERB` on it and returns what that prints.
    pub fn control(&self, verb: &str, arguments: &[&str]) -> String {
        let all: Vec<&str> = [verb, &self.name].iter().chain(arguments).copied().collect();
        cluster(&all).unwrap_or_else(|error| panic!("cluster {}: {error}", all.join(" ")))
    }

    /// Runs one statement on a connection of its own and returns its rows.
    pub fn exec(&self, sql: &str) -> Vec<Row> {
        self.conn().query(sql).unwrap_or_else(|error| panic!("{}: {sql}: {error}", self.name))
    }

    /// The URI of a database or keyspace for batch reads and for destinations.
    pub fn uri(&self, database: &str) -> String {
        self.address("mysql", database, &[])
    }

    /// The URI of a keyspace for change capture. Plain MySQL's lacks `grpc_port`.
    pub fn cdc_uri(&self, keyspace: &str) -> String {
        let port = self.grpc.as_ref().map(|(_, port)| format!("grpc_port={port}"));
        self.address("mysql+cdc", keyspace, port.as_slice())
    }

    fn address(&self, scheme: &str, database: &str, first: &[String]) -> String {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let mut parameters = first.to_vec();
        match &self.tls {
            Some(files) => parameters.push(format!("tls=true&tls_ca={}", encoded(&files.ca.to_string_lossy()))),
            None => parameters.push("tls=false".into()),
        }
        let Self { mysql_host, mysql_port, .. } = self;
        let password = if self.password.is_empty() { String::new() } else { format!(":{}", encoded(&self.password)) };
        format!("{scheme}://{}{password}@{mysql_host}:{mysql_port}/{database}?{}", encoded(&self.user), parameters.join("&"))
    }
}
