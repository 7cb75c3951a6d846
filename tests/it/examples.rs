//! The example programs, each run as a user would: what they print, how they fail, and what they leave behind.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tempfile::TempDir;

use crate::support::program;
#[cfg(feature = "duckdb")]
use crate::support::servers::vitess_secure;
use crate::support::servers::{Server, mysql};
use crate::vtgate::shop::Shop;

/// Long enough for a machine that does other work, too.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a program to its end.
fn run(name: &str, arguments: &[&str]) -> Run {
    Run::of(Command::new(program(name)).args(arguments).output().unwrap())
}

struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Run {
    fn of(output: Output) -> Self {
        let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        Self { code: output.status.code(), stdout, stderr }
    }

    #[track_caller]
    fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self.stdout
    }

    #[track_caller]
    fn failed_with(&self, fragment: &str) {
        assert_eq!(self.code, Some(1), "{}\n{}", self.stdout, self.stderr);
        assert!(self.stderr.contains(fragment), "{}", self.stderr);
    }
}

fn sqlite_uri(folder: &TempDir) -> (PathBuf, String) {
    let file = folder.path().join("shop.db");
    let uri = format!("sqlite://{}", file.display());
    (file, uri)
}

/// The rows of a query in SQLite, with their cells as text.
fn query(file: &Path, sql: &str) -> Vec<String> {
    let connection = Connection::open(file).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

#[test]
fn quickstart_shows_snapshot_stream_and_resume() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a shop%20?.db");
    let shown = run("quickstart", &[file.to_str().unwrap()]).succeeded();
    let lines: Vec<String> = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let has = |line: &str| assert!(lines.iter().any(|shown| shown == line), "{line}\n{shown}");
    for table in ["customers", "orders", "products"] {
        has(&format!("{table} 3 3 0 0 1-3 Complete"));
        has(&format!("{table} 0 0 0 0 1-7 Complete"));
    }
    has("orders 3 1 1 1 1-7 Complete");
    has("products 3 1 1 1 1-7 Complete");
    assert!(!shown.contains("secret"), "{shown}");
    assert_eq!(
        query(&file, "SELECT concat_ws(' ', id, sku, state, _cdc_deleted) FROM orders ORDER BY id"),
        ["1001 TEA-1 sent 0", "1002 POT-1 sent 0", "1003 TEA-2 new 1", "1004 TEA-1 new 0"]
    );
    assert_eq!(
        query(&file, "SELECT concat_ws(' ', sku, price, stock, _cdc_deleted) FROM products ORDER BY sku"),
        ["POT-1 29.00 12 1", "POT-100 29.00 12 0", "TEA-1 4.50 119 0", "TEA-2 3.90 80 0"]
    );

    run("quickstart", &[file.to_str().unwrap()]).failed_with("exists");
    run("quickstart", &["/no/such/folder/shop.db"]).failed_with("its folder does not exist");
    run("quickstart", &[]).succeeded();
}

#[test]
fn copy_table_replaces_a_table_or_leaves_it_as_it_was() {
    let (shop, folder) = (Shop::start(), tempfile::tempdir().unwrap());
    let (file, uri) = sqlite_uri(&folder);
    let shown = run("copy_table", &[&shop.uri(), &uri, "products"]).succeeded();
    assert!(shown.contains("price: decimal(8,2)") && shown.contains("3 rows, the first is POT-1, Teapot, 29.00, 12"), "{shown}");
    assert!(shown.ends_with("products: 3 rows\n"), "{shown}");

    shop.commit(|shop| shop.delete("products", "POT-1"));
    run("copy_table", &[&shop.uri(), &uri, "products"]).succeeded();
    let products = "SELECT concat_ws(' ', sku, price, stock) FROM products ORDER BY sku";
    assert_eq!(query(&file, products), ["TEA-1 4.50 120", "TEA-2 3.90 80"]);

    run("copy_table", &[&shop.uri(), &uri, "none"]).failed_with("the source has no base table `none`");
    drop(shop.server);
    assert_eq!(query(&file, products).len(), 2);
}

#[test]
fn options_need_no_uri() {
    let (shop, folder) = (Shop::start(), tempfile::tempdir().unwrap());
    let (file, _) = sqlite_uri(&folder);
    let ports = [shop.server.mysql_port, shop.server.grpc_port].map(|port| port.to_string());
    let next = |password: &str| {
        let arguments = ["127.0.0.1", &ports[0], &ports[1], "shop", "reader", file.to_str().unwrap()];
        Run::of(Command::new(program("options")).args(arguments).env("PASSWORD", password).output().unwrap())
    };
    next("wrong-word").failed_with("is PASSWORD set?");
    let shown = next("secret").succeeded();
    assert!(shown.contains("orders: 3 rows and changes, Complete"), "{shown}");
    shop.commit(|shop| shop.delete("orders", "1002"));
    let shown = next("secret").succeeded();
    assert!(shown.contains("orders: 1 rows and changes, Complete"), "{shown}");
    // Deletes are hard here.
    assert_eq!(query(&file, "SELECT concat(id) FROM orders ORDER BY id"), ["1001", "1003"]);
}

#[test]
fn capture_changes_prints_each_change_once() {
    let (shop, folder) = (Shop::start(), tempfile::tempdir().unwrap());
    let file = folder.path().join("orders.position");
    let next = || run("capture_changes", &[&shop.cdc_uri(), "orders", file.to_str().unwrap()]);

    let first = next().succeeded();
    assert_eq!(
        first.lines().collect::<Vec<_>>(),
        [
            "Insert 1001, 1, TEA-1, 2, sent, 2026-01-05 09:30:00",
            "Insert 1002, 2, POT-1, 1, paid, 2026-01-05 11:12:13",
            "Insert 1003, 1, TEA-2, 5, new, 2026-01-06 18:00:00",
            "caught up"
        ]
    );
    assert_eq!(next().succeeded(), "caught up\n");

    shop.commit(|shop| shop.update("products", "TEA-1", "stock", "1"));
    shop.commit(|shop| {
        shop.update("orders", "1003", "state", "paid");
        shop.delete("orders", "1001");
    });
    let second = next().succeeded();
    assert_eq!(
        second.lines().collect::<Vec<_>>(),
        ["Update 1003, 1, TEA-2, 5, paid, 2026-01-06 18:00:00", "Delete 1001, 1, TEA-1, 2, sent, 2026-01-05 09:30:00", "caught up"]
    );

    std::fs::write(&file, "copied rubbish").unwrap();
    next().failed_with("the checkpoint of `orders` cannot be read");
    run("capture_changes", &[&shop.cdc_uri(), "none", file.to_str().unwrap()]).failed_with("`none`");
}

#[test]
fn resume_reads_nothing_twice() {
    let (shop, folder) = (Shop::start(), tempfile::tempdir().unwrap());
    let (file, uri) = sqlite_uri(&folder);
    let shown = run("resume", &[&shop.cdc_uri(), &uri]).succeeded();
    for table in ["customers", "orders", "products"] {
        assert_eq!(shown.matches(&format!("{table}: 3 rows and changes read")).count(), 1, "{shown}");
        assert_eq!(shown.matches(&format!("{table}: 0 rows and changes read")).count(), 1, "{shown}");
    }
    shop.commit(|shop| shop.update("customers", "2", "email", "grace@shop.example"));
    let shown = run("resume", &[&shop.cdc_uri(), &uri, "customers"]).succeeded();
    assert!(shown.contains("customers: 1 rows and changes read") && !shown.contains("orders"), "{shown}");
    assert_eq!(query(&file, "SELECT email FROM customers WHERE id = 2"), ["grace@shop.example"]);
}

#[cfg(feature = "duckdb")]
#[test]
fn resume_follows_real_vitess_over_tls_into_duckdb() {
    let server = vitess_secure();
    server.exec("create table if not exists commerce.q_resume (id bigint not null primary key, name varchar(40), price decimal(8,2))");
    server.exec("delete from commerce.q_resume");
    server.exec("insert into commerce.q_resume (id, name, price) values (1, 'Grün', 0.50), (2, null, 7.00), (3, 'blue', null)");
    let folder = tempfile::tempdir().unwrap();
    let uri = format!("duckdb://{}", folder.path().join("q.duckdb").display());
    let next = || run("resume", &[&server.cdc_uri("commerce"), &uri, "q_resume"]).succeeded();

    let shown = next();
    assert!(shown.contains("q_resume: 3 rows and changes read") && shown.contains("q_resume: 0 rows and changes read"), "{shown}");
    server.exec("update commerce.q_resume set price = 9.99 where id = 2");
    server.exec("delete from commerce.q_resume where id = 3");
    let shown = next();
    assert!(shown.contains("q_resume: 2 rows and changes read"), "{shown}");

    server.exec("drop table commerce.q_resume");
}

#[cfg(unix)]
#[test]
fn until_cancelled_keeps_what_is_committed_and_ends_within_a_second() {
    let (shop, folder) = (Shop::start(), tempfile::tempdir().unwrap());
    let (file, uri) = sqlite_uri(&folder);
    let mut child = Command::new(program("until_cancelled"))
        .args([&format!("{}&mode=stream", shop.cdc_uri()), &uri])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, lines) = mpsc::channel();
    let output = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        output.lines().map_while(Result::ok).for_each(|line| {
            let _ = sender.send(line);
        });
    });
    let wait_for = |wanted: &str| {
        let until = Instant::now() + PATIENCE;
        while lines.recv_timeout(until.saturating_duration_since(Instant::now())).expect(wanted) != wanted {}
    };
    wait_for("products: 3 rows and changes stored");
    shop.commit(|shop| {
        shop.insert("orders", [("id", "1004"), ("sku", "TEA-1"), ("quantity", "7")]);
        shop.delete("orders", "1001");
    });
    wait_for("orders: 5 rows and changes stored");

    let interrupted = Instant::now();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let status = child.wait().unwrap();
    assert!(interrupted.elapsed() < Duration::from_secs(1), "it took {:?}", interrupted.elapsed());
    reader.join().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(lines.iter().any(|line| line == "orders: Complete"));
    let orders = "SELECT concat_ws(' ', id, quantity, _cdc_deleted) FROM orders ORDER BY id";
    assert_eq!(query(&file, orders), ["1001 2 1", "1002 1 0", "1003 5 0", "1004 7 0"]);

    let next = run("resume", &[&shop.cdc_uri(), &uri]).succeeded();
    assert!(!next.contains("3 rows") && next.contains("orders: 0 rows and changes read"), "{next}");
}

#[test]
fn ingest_says_what_its_policies_have_changed() {
    let server: &Server = mysql();
    server.exec("drop table if exists commerce.q_policies");
    server.exec("create table commerce.q_policies (id int primary key, g varchar(9) character set gbk, n bigint unsigned)");
    server.exec("insert into commerce.q_policies values (1, _gbk 0xA2A0, 18446744073709551615), (2, _gbk 0x61FEFE, 1), (3, 'a', null)");
    let folder = tempfile::tempdir().unwrap();
    let (file, dest) = sqlite_uri(&folder);
    let source = server.uri("commerce");
    let arguments = ["--source-uri", &source, "--dest-uri", &dest, "--source-table", "q_policies", "--progress", "plain"];
    let next = |more: &[&str]| run("ingest", &[&arguments[..], more].concat());

    next(&[]).failed_with("column `g`");
    let shown = next(&["--malformed-text", "replace"]);
    let lines: Vec<&str> = shown.stderr.lines().filter(|line| line.starts_with("q_policies.")).collect();
    assert_eq!(
        lines,
        [
            "q_policies.g: 2 texts had bytes that are none of their character set, which became U+FFFD",
            "q_policies.n: 1 numbers beyond SQLite's became text"
        ]
    );
    assert_eq!(query(&file, "SELECT g FROM q_policies ORDER BY id"), ["\u{fffd}", "a\u{fffd}", "a"]);

    let shown = next(&["--malformed-text", "replace", "--out-of-range", "text", "--report", "json"]).succeeded();
    let report: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(report["tables"][0]["changed_values"], serde_json::json!([{"column": "g", "change": "text_replaced", "values": 2}]));

    let shown = next(&["--malformed-text", "bytes", "--out-of-range", "mixed", "--report", "json"]).succeeded();
    let report: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(report["tables"][0]["changed_values"], serde_json::json!([{"column": "n", "change": "number_as_text", "values": 1}]));
    assert_eq!(query(&file, "SELECT hex(g) FROM q_policies ORDER BY id"), ["A2A0", "61FEFE", "61"]);
    next(&["--out-of-range", "error", "--malformed-text", "bytes"]).failed_with("column `n`");
    assert_eq!(next(&["--malformed-text", "guess"]).code, Some(2));
    server.exec("drop table commerce.q_policies");
}

#[test]
fn programs_say_how_they_are_called() {
    for name in PROGRAMS {
        for arguments in [&[] as &[&str], &["only-one"]] {
            let run = run(name, arguments);
            assert_eq!(run.code, Some(2), "{name}: {}", run.stderr);
            assert!(run.stderr.contains(&format!("usage: {name} ")), "{name}: {}", run.stderr);
        }
    }
}

#[test]
fn programs_name_what_is_wrong_with_a_uri() {
    let (shop, folder) = (Shop::start(), tempfile::tempdir().unwrap());
    let (_, dest) = sqlite_uri(&folder);
    let cases = [
        (shop.cdc_uri().replace("grpc_port", "grpcport"), "it is called `grpc_port` here"),
        (shop.uri().replace("mysql:", "mysql+cdc:"), "grpc_port is missing"),
        (shop.cdc_uri().replace("mysql+cdc:", "oracle:"), "the URI's scheme is unknown"),
        (shop.cdc_uri().replace("secret", "wrong-word"), "wrong user or password"),
        ("mysql+cdc://u:wrong-word@127.0.0.1:1/shop?grpc_port=1&tls=false".into(), "refuses connections"),
    ];
    for (source, expected) in &cases {
        for (name, last) in [("resume", "orders"), ("until_cancelled", "orders")] {
            let run = run(name, &[source, &dest, last]);
            run.failed_with(expected);
            assert!(!run.stderr.contains("secret") && !run.stderr.contains("wrong-word"), "{}", run.stderr);
        }
        run("capture_changes", &[source, "orders", folder.path().join("position").to_str().unwrap()]).failed_with(expected);
    }
    run("resume", &[&shop.cdc_uri(), "duck:///x"]).failed_with("expected `duckdb://`, `sqlite://` or `mysql://`");
}

#[test]
fn incremental_brings_what_changed_and_says_what_it_cannot_know() {
    let server: &Server = mysql();
    let folder = tempfile::tempdir().unwrap();
    let (file, uri) = sqlite_uri(&folder);
    server.exec("drop table if exists commerce.ex_incremental");
    server.exec("create table commerce.ex_incremental (id int primary key, note varchar(9), changed datetime(6) not null)");
    server.exec("insert into commerce.ex_incremental values (1, 'a', '2024-01-01'), (2, 'b', '2024-01-02'), (3, 'c', '2024-01-03')");
    let source = server.uri("commerce");
    let arguments = [source.as_str(), uri.as_str(), "ex_incremental", "changed"];
    let shown = run("incremental", &arguments).succeeded();
    assert_eq!(shown, "ex_incremental: 3 rows are new, 0 have changed, Complete\nex_incremental: 3 rows here, 3 there, Equal\n");
    server.exec("update commerce.ex_incremental set note = 'new', changed = '2024-01-04' where id = 1");
    server.exec("insert into commerce.ex_incremental values (4, 'd', '2024-01-05')");
    let shown = run("incremental", &arguments).succeeded();
    assert!(shown.starts_with("ex_incremental: 1 rows are new, 2 have changed, Complete\n"), "{shown}");
    assert_eq!(query(&file, "select id || note from ex_incremental order by id"), ["1new", "2b", "3c", "4d"]);
    server.exec("delete from commerce.ex_incremental where id = 2");
    server.exec("update commerce.ex_incremental set note = 'unseen' where id = 3");
    let ended = run("incremental", &arguments);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stdout.ends_with("ex_incremental: 3 rows here, 4 there, Different\nextra: 2\ndifferent: 3\n"), "{}", ended.stdout);
    // The command line compares too, and says so in its status.
    let ingest =
        |more: &[&str]| run("ingest", &[&["--source-uri", &source, "--dest-uri", &uri, "--source-table", "ex_incremental"], more].concat());
    let ended = ingest(&["--verify-only", "--report", "json"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stdout.contains("\"extra\":[[\"2\"]]") && ended.stdout.contains("\"state\":\"different\""), "{}", ended.stdout);
    let state = |ended: &Run| serde_json::from_str::<serde_json::Value>(&ended.stdout).unwrap()["state"].clone();
    assert_eq!(state(&ended), "failed");
    assert!(ended.stderr.contains("  extra: 2\n  different: 3\n"), "{}", ended.stderr);
    // What a merge does not hear of is a difference, though the run is complete.
    let ended = ingest(&["--incremental-strategy", "merge", "--verify", "--report", "json"]);
    assert_eq!((ended.code, state(&ended)), (Some(1), "failed".into()), "{}", ended.stderr);
    let ended = ingest(&["--incremental-strategy", "truncate+insert", "--verify"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("ex_incremental = ex_incremental: 3 rows at the source, 3 at the destination"), "{}", ended.stderr);
    let ended = ingest(&["--verify-only", "--report", "json"]);
    assert_eq!((ended.code, state(&ended)), (Some(0), "complete".into()), "{}", ended.stderr);
    server.exec("drop table commerce.ex_incremental");
}

#[test]
fn change_capture_from_mysql_says_what_the_server_is() {
    let server: &Server = mysql();
    let source = format!("{}&grpc_port=1", server.cdc_uri("commerce"));
    let folder = tempfile::tempdir().unwrap();
    server.exec("create table if not exists commerce.q_plain (id int not null primary key)");
    run("resume", &[&source, &sqlite_uri(&folder).1, "q_plain"]).failed_with("the server is MySQL");
    server.exec("drop table commerce.q_plain");
}

/// Those that take arguments.
const PROGRAMS: [&str; 7] = ["capture_changes", "copy_table", "incremental", "ingest", "options", "resume", "until_cancelled"];
