//! Ctrl-C in the command-line program, on real servers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use planetscale_ingest::IngestOptions;

use super::{Network, cut};
use crate::capture::fixture::{Destination, Kind, binary_logs_stay, create, insert, source_rows};
use crate::support::proxy::{Fault, Way};
use crate::support::servers::{Server, vitess, vitess_secure};

const LIMIT: Duration = Duration::from_secs(1);

/// The running program.
struct Ingest(Child);

impl Ingest {
    fn start(source: &str, destination: &Destination, table: &str) -> Self {
        let program = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples/ingest");
        let child = Command::new(program)
            .args(["--source-uri", source, "--dest-uri", &destination.uri(), "--source-table", table, "--progress", "off"])
            .args(["--report", "json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Self(child.expect("cargo builds the example with the tests"))
    }

    /// Waits until something is so, for as long as the program runs.
    #[track_caller]
    fn wait_until(&mut self, what: &str, reached: impl Fn() -> bool) {
        let until = Instant::now() + Duration::from_secs(60);
        while !reached() {
            if let Some(status) = self.0.try_wait().unwrap() {
                let mut said = String::new();
                self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("{what}: the program has ended ({status}): {said}");
            }
            assert!(Instant::now() < until, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Interrupts it; its exit status, what it printed as a report, and how long it took.
    fn interrupt(mut self) -> (i32, serde_json::Value, Duration) {
        assert!(self.0.try_wait().unwrap().is_none(), "it has ended by itself");
        let begun = Instant::now();
        assert!(Command::new("kill").args(["-INT", &self.0.id().to_string()]).status().unwrap().success());
        let status = self.0.wait().unwrap();
        let took = begun.elapsed();
        let mut report = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut report).unwrap();
        (status.code().unwrap(), serde_json::from_str(&report).unwrap(), took)
    }
}

/// How many VStreams of read-only tablets vtgate serves. No other test asks for those.
fn streams(server: &Server) -> i64 {
    let (host, port) = server.grpc.as_ref().unwrap();
    let mut http = TcpStream::connect((host.as_str(), port - 1)).unwrap();
    http.write_all(b"GET /debug/vars HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    http.read_to_string(&mut answer).unwrap();
    let vars: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let counts = vars["VStreamsCount"].as_object().unwrap();
    counts.iter().filter(|(name, _)| name.ends_with("commerce.0.RDONLY")).filter_map(|(_, count)| count.as_i64()).sum()
}

/// Rows of a table that is as old as the servers: read-only tablets take a minute to notice a new one.
fn insert_products(conn: &mut mysql::Conn, skus: std::ops::Range<u32>) {
    let rows: Vec<String> = skus.map(|sku| format!("('{}', 'product {sku}', {sku})", sku_of(sku))).collect();
    conn.query_drop(format!("insert into product (sku, description, price) values {}", rows.join(","))).unwrap();
}

/// Other processes may run the same test.
fn sku_of(number: u32) -> String {
    format!("int-{}-{number}", std::process::id())
}

#[test]
fn an_interrupted_stream_ends_within_a_second_keeps_what_is_committed_and_closes_its_call() {
    let _logs = binary_logs_stay();
    for server in [vitess(), vitess_secure()] {
        let mut conn = server.conn();
        conn.query_drop("use commerce").unwrap();
        insert_products(&mut conn, 0..100);
        let source = server.cdc_uri("commerce") + "&tablet_type=rdonly";
        let destination = Destination::quick(Kind::Sqlite);
        let before = streams(server);
        let mut ingest = Ingest::start(&format!("{source}&mode=stream"), &destination, "product");
        let stored = |sku: u32| destination.path.exists() && is_stored(&destination, "product", &format!("sku = x'{}'", hex(&sku_of(sku))));
        ingest.wait_until("the copy is stored", || stored(99));
        insert_products(&mut conn, 100..110);
        ingest.wait_until("the change is stored", || stored(109));
        // The copy's call may not have ended there yet.
        let until = Instant::now() + Duration::from_secs(10);
        while streams(server) != before + 1 {
            assert!(Instant::now() < until, "{}: {} calls, and {before} before", server.name, streams(server));
            std::thread::sleep(Duration::from_millis(20));
        }
        let (code, report, took) = ingest.interrupt();
        assert!(took < LIMIT, "{took:?}");
        // It had caught up with what was there when it began.
        assert_eq!((code, report["state"].as_str()), (0, Some("complete")), "{report}");
        let until = Instant::now() + Duration::from_secs(10);
        while streams(server) > before {
            assert!(Instant::now() < until, "vtgate still has the call");
            std::thread::sleep(Duration::from_millis(20));
        }
        insert_products(&mut conn, 110..120);
        let report = destination.capture_all(&source, &IngestOptions::new().with_tables(["product"]));
        assert!(report.tables[0].rows_read < 100, "{}", report.tables[0].rows_read);
        let mine = format!("sku like 'int-{}-%'", std::process::id());
        let expected: Vec<(String, i64)> =
            conn.query(format!("select concat(sku, ' ', description), price from product where {mine} order by price")).unwrap();
        let found = destination
            .query("select cast(sku as text) || ' ' || description, price from product where not _cdc_deleted order by price, sku")
            .into_iter()
            .map(|row| (row[0].clone().unwrap(), row[1].clone().unwrap().parse().unwrap()))
            .filter(|(text, _): &(String, i64)| text.starts_with(&format!("int-{}-", std::process::id())))
            .collect::<Vec<_>>();
        assert_eq!(found, expected);
        conn.query_drop(format!("delete from product where {mine}")).unwrap();
    }
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn is_stored(destination: &Destination, table: &str, condition: &str) -> bool {
    let connection = rusqlite::Connection::open(&destination.path).unwrap();
    connection.query_row(&format!("select 1 from {table} where {condition}"), [], |_| Ok(())).is_ok()
}

#[test]
fn an_interrupted_copy_is_partial_and_the_next_run_goes_on_from_there() {
    let _logs = binary_logs_stay();
    let (server, table) = (vitess_secure(), "net_int_copy");
    let mut conn = create(server, "commerce", table);
    insert(&mut conn, table, 0..30_000, 0);
    let network = Network::to(server);
    // Ever slower: what is stored is so by the end of the connection, and then the rest trickles.
    network.grpc().set(|number, _| match number {
        0 => cut(Way::FromServer, 1_500_000),
        _ => Fault::Trickle { bytes: 500, pause: Duration::from_millis(5) },
    });
    let source = network.through(&(server.cdc_uri("commerce") + "&mode=stream"));
    let destination = Destination::quick(Kind::Sqlite);
    let mut ingest = Ingest::start(&source, &destination, table);
    ingest.wait_until("a part is stored", || destination.path.exists() && is_stored(&destination, table, "id = 2000"));
    let (code, report, took) = ingest.interrupt();
    assert!(took < LIMIT, "{took:?}");
    assert_eq!((code, report["state"].as_str()), (1, Some("partial")), "{report}");
    let before: u64 = destination.cell(&format!("select count(*) from {table}")).unwrap().parse().unwrap();
    assert!(before > 2_000 && before < 30_000, "{before}");
    let report = destination.capture_all(&server.cdc_uri("commerce"), &IngestOptions::new().with_tables([table]));
    assert!(report.tables[0].rows_read <= 30_000 - before, "{} of {before}", report.tables[0].rows_read);
    destination.assert_equals(&mut conn, table);
}

#[test]
fn an_interrupted_whole_copy_leaves_the_old_table() {
    let (server, table) = (vitess_secure(), "net_int_whole");
    let mut conn = create(server, "commerce", table);
    insert(&mut conn, table, 0..10_000, 0);
    let network = Network::to(server);
    let source = network.through(&server.uri("commerce"));
    let destination = Destination::quick(Kind::Sqlite);
    let options = IngestOptions::new().with_tables([table]);
    assert!(destination.capture(&source, &options).unwrap().is_complete());
    let expected = source_rows(&mut conn, table);
    conn.query_drop(format!("delete from `{table}` where id < 100")).unwrap();
    network.mysql.set(|_, _| Fault::Trickle { bytes: 1_000, pause: Duration::from_millis(5) });
    let sent = network.mysql.server_bytes();
    let mut ingest = Ingest::start(&source, &destination, table);
    ingest.wait_until("rows come", || network.mysql.server_bytes() > sent + 100_000);
    let (code, report, took) = ingest.interrupt();
    assert!(took < LIMIT, "{took:?}");
    assert_eq!((code, report["state"].as_str()), (1, Some("partial")), "{report}");
    let found = destination.query(&format!("select id, name, cast(amount as varchar), note, happened from {table}"));
    assert_eq!(found.len(), expected.len());
    for mut row in found {
        let id: i64 = row.remove(0).unwrap().parse().unwrap();
        assert_eq!(row, expected[&id]);
    }
}

#[test]
fn an_interrupt_while_connecting_ends_the_program() {
    let server = vitess_secure();
    let network = Network::to(server);
    network.mysql.set(|_, _| Fault::Stall { way: Way::FromServer, after: 0 });
    let source = network.through(&server.cdc_uri("commerce"));
    let destination = Destination::quick(Kind::Sqlite);
    let ingest = Ingest::start(&source, &destination, "any");
    network.mysql.wait_for_faults(1);
    let (code, report, took) = ingest.interrupt();
    assert!(took < LIMIT, "{took:?}");
    assert_eq!((code, report["state"].as_str()), (1, Some("failed")), "{report}");
}
