//! Files that cannot be written to: each is an error that names the file and the reason, before anything is read from the source.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use planetscale_ingest::{ErrorKind, IngestOptions, Sink, Source, SqliteOptions, ingest as run_here};

use super::{content, error_of, ingest, report, run};
use crate::capture::fixture::{BOTH, Destination, Kind, binary_logs_stay, create, insert};
use crate::support::servers::vitess;

/// The files of a folder with what they hold.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap_or_default()))
        .collect();
    files.sort();
    files
}

#[test]
fn paths_without_a_database_are_refused_with_the_reason() {
    for kind in BOTH {
        let other = Destination::new(if kind == Kind::Sqlite { Kind::DuckDb } else { Kind::Sqlite });
        other.execute("create table t (i int); insert into t values (1)");
        let destination = Destination::new(kind);
        let folder = destination.path.parent().unwrap();
        let scheme = destination.uri().split("://").next().unwrap().to_owned();
        let name = if kind == Kind::Sqlite { "an SQLite database" } else { "a DuckDB database" };
        fs::create_dir(folder.join("folder")).unwrap();
        fs::write(folder.join("text"), "what is this? ".repeat(1_000)).unwrap();
        fs::copy(&other.path, folder.join("other")).unwrap();
        let before = files(folder);
        for (file, reason) in [
            ("missing/a.db", "its folder does not exist".to_owned()),
            ("folder", "it is a folder".to_owned()),
            ("text", format!("it is not {name}")),
            ("other", format!("it is not {name}")),
        ] {
            let path = folder.join(file);
            let error = Sink::open(&format!("{scheme}://{}", path.display())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Sink, "{error:?}");
            let sentence = error.to_string();
            assert!(sentence.contains(&format!("`{}`", path.display())) && sentence.contains(&reason), "{kind:?} {file}: {error:?}");
            assert_eq!(files(folder), before, "{kind:?} {file}");
        }
    }
}

/// Runs as somebody to whom permissions apply: root is allowed everything, and so gives that up.
fn without_privileges(command: Vec<String>) -> Vec<String> {
    let is_root = fs::metadata("/proc/self").map(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata)).unwrap() == 0;
    let given_up = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner", "--inh-caps", "-all"].map(str::to_owned);
    if is_root { [&given_up[..], &command].concat() } else { command }
}

#[test]
fn read_only_files_and_folders_are_refused_with_the_reason() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for kind in BOTH {
        let table = format!("read_only_{kind:?}").to_lowercase();
        let mut conn = create(server, "commerce", &table);
        insert(&mut conn, &table, 0..10, 0);
        let destination = Destination::new(kind);
        let folder = destination.path.parent().unwrap().to_owned();
        destination.capture_all(&server.cdc_uri("commerce"), &IngestOptions::new().with_tables([&table]));
        let before = files(&folder);
        for (what, path, mode) in [("file", &destination.path, 0o444), ("folder", &folder, 0o555)] {
            let usual = fs::metadata(path).unwrap().permissions();
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
            let output = run(&without_privileges(ingest(&server.cdc_uri("commerce"), &destination, &table)));
            fs::set_permissions(path, usual).unwrap();
            let failed = report(&output.stdout);
            let error = error_of(&failed);
            let reason = match (what, kind) {
                ("file", Kind::Sqlite) => "the file is read-only",
                ("file", Kind::DuckDb) => "it may not be written to",
                _ => "nothing may be written there",
            };
            assert!(error.contains(destination.path.to_str().unwrap()) && error.contains(reason), "{kind:?} {what}: {error}");
            assert_eq!(output.status.code(), Some(1));
            assert_eq!(files(&folder), before, "{kind:?} {what}");
        }
    }
}

/// Tells a child which database to hold open.
const HOLD: &str = "INGEST_TEST_HOLD";

#[test]
fn a_duckdb_file_that_another_process_has_open_is_refused() {
    if let Some(path) = std::env::var_os(HOLD) {
        let _connection = duckdb::Connection::open(path).unwrap();
        println!("\nopen");
        let _ = std::io::stdin().read_line(&mut String::new());
        return;
    }
    let destination = Destination::new(Kind::DuckDb);
    destination.execute("create table t (i int)");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "destination::refused::a_duckdb_file_that_another_process_has_open_is_refused", "--nocapture"])
        .env(HOLD, &destination.path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "open"));
    let error = Sink::open(&destination.uri()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Sink, "{error:?}");
    let expected = format!("the DuckDB file `{}` cannot be opened: another process holds it open", destination.path.display());
    assert_eq!(error.to_string(), expected, "{error:?}");
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    child.wait().unwrap();
    drop(Sink::open(&destination.uri()).unwrap());
}

#[test]
fn an_sqlite_file_that_another_writes_to_is_refused_after_the_busy_timeout() {
    let destination = Destination::new(Kind::Sqlite);
    destination.execute("create table t (i int)");
    let other = rusqlite::Connection::open(&destination.path).unwrap();
    for lock in ["begin immediate", "begin exclusive"] {
        other.execute_batch(lock).unwrap();
        let begun = Instant::now();
        let options = SqliteOptions::new(&destination.path).with_busy_timeout(Duration::from_millis(200));
        let error = Sink::open_with(&options.into()).unwrap_err();
        assert!((Duration::from_millis(150)..Duration::from_secs(5)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        assert_eq!(error.kind(), ErrorKind::Sink, "{error:?}");
        let sentence = format!("the SQLite file `{}` cannot be opened: another connection holds it locked", destination.path.display());
        assert_eq!(error.to_string(), sentence, "{error:?}");
        other.execute_batch("rollback").unwrap();
        drop(Sink::open(&destination.uri()).unwrap());
    }
}

#[test]
fn a_reader_delays_a_commit_and_one_that_stays_fails_it_whole() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for journal in ["delete", "wal"] {
        let table = format!("read_{journal}");
        let mut conn = create(server, "commerce", &table);
        insert(&mut conn, &table, 0..50, 0);
        let destination = Destination::new(Kind::Sqlite);
        destination.query(&format!("pragma journal_mode = {journal}"));
        let source = server.cdc_uri("commerce");
        let options = IngestOptions::new().with_tables([&table]);
        destination.capture_all(&source, &options);
        insert(&mut conn, &table, 50..100, 0);
        conn.query_drop(format!("delete from {table} where id < 10")).unwrap();
        let before = content(&destination);

        let reader = rusqlite::Connection::open(&destination.path).unwrap();
        let read = |reader: &rusqlite::Connection| {
            reader.query_row(&format!("select count(*) from {table} where not _cdc_deleted"), [], |row| row.get::<_, i64>(0)).unwrap()
        };
        reader.execute_batch("begin").unwrap();
        assert_eq!(read(&reader), 50);
        let run = |busy_timeout: u64| {
            let options = SqliteOptions::new(&destination.path).with_busy_timeout(Duration::from_millis(busy_timeout));
            let mut sink = Sink::open_with(&options.into())?;
            run_here(&Source::open(&source)?, &mut sink, &IngestOptions::new().with_tables([&table]))
        };
        if journal == "delete" {
            let error = run(200).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Sink, "{error:?}");
            let sentence =
                format!("`{}`: the transaction cannot be committed: another connection holds it locked", destination.path.display());
            assert_eq!(error.to_string(), sentence, "{error:?}");
            assert_eq!(content(&destination), before);
            // One that ends in time is waited for.
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| run(20_000).unwrap());
                // The commit waits from when nobody new may begin to read.
                let newcomer = rusqlite::Connection::open(&destination.path).unwrap();
                newcomer.busy_timeout(Duration::ZERO).unwrap();
                let begun = Instant::now();
                while newcomer.query_row("select count(*) from sqlite_schema", [], |_| Ok(())).is_ok() {
                    assert!(begun.elapsed() < Duration::from_secs(20) && !waiting.is_finished(), "nothing was to be committed");
                    std::thread::sleep(Duration::from_millis(1));
                }
                reader.execute_batch("rollback").unwrap();
                assert!(waiting.join().unwrap().is_complete());
            });
        } else {
            // With a write-ahead log nobody waits, and who reads goes on to see what was there.
            assert!(run(200).unwrap().is_complete());
            assert_eq!(read(&reader), 50);
            reader.execute_batch("rollback").unwrap();
        }
        assert_eq!(read(&reader), 90);
        destination.assert_equals(&mut conn, &table);
    }
}
