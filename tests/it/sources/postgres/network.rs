//! Reading through a network that fails, and ending it from outside.

use std::time::{Duration, Instant};

use planetscale_ingest::{Cancel, ErrorKind, IngestOptions, Sink, Source, TableState, ingest};

use crate::sources::{read, uri};
use crate::support::alone;
use crate::support::postgres::postgres;
use crate::support::proxy::{Fault, Proxy, Way};

/// More than is read ahead.
const ROWS: usize = 40_000;

fn table(schema: &str) {
    let server = postgres();
    server.fresh_schema(schema);
    server.exec(&format!(
        "create table {schema}.t (id int primary key, note text); insert into {schema}.t select i, repeat(md5(i::text), 100) from generate_series(1, {ROWS}) i"
    ));
}

fn proxy(plan: impl Fn(usize, u64) -> Fault + Send + Sync + 'static) -> Proxy {
    Proxy::start((&postgres().host, postgres().port), plan)
}

fn through(proxy: &Proxy, schema: &str, more: &str) -> String {
    postgres().uri_of(&postgres().user, proxy.port, &format!("schema={schema}&sslmode=disable{more}"))
}

#[test]
fn a_connection_that_breaks_is_an_error_and_a_copy_begins_anew() {
    const SCHEMA: &str = "source_breaks";
    table(SCHEMA);
    let after = |bytes: u64| {
        move |connection: usize, _: u64| match connection {
            // The first is for questions, the second for rows.
            1 => Fault::Reset { way: Way::FromServer, after: bytes },
            _ => Fault::None,
        }
    };
    let broken = proxy(after(20_000_000));
    let source = Source::open(&through(&broken, SCHEMA, "")).unwrap();
    let mut rows = source.rows("t").unwrap();
    let error = rows.by_ref().find_map(Result::err).unwrap();
    assert_eq!((error.kind(), error.table()), (ErrorKind::Connect, Some("t")), "{error:#}");
    assert!(rows.next().is_none());

    let broken = proxy(after(20_000_000));
    let source = Source::open(&through(&broken, SCHEMA, "")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = uri("sqlite", &folder.path().join("copy.db"));
    let mut sink = Sink::open(&file).unwrap();
    let report = ingest(&source, &mut sink, &IngestOptions::new()).unwrap();
    assert_eq!((&report.tables[0].state, report.tables[0].rows_inserted), (&TableState::Complete, ROWS as u64));
    assert_eq!(report.tables[0].notes.len(), 1);
    drop(sink);
    assert_eq!(read(&Source::open(&file).unwrap(), "t"), postgres().printed(&["id", "note"], &format!("from {SCHEMA}.t order by id")));
    postgres().exec(&format!("set client_min_messages = error; drop schema {SCHEMA} cascade"));
}

#[test]
fn a_server_that_is_silent_is_given_up_and_one_that_is_ended_is_an_error() {
    const SCHEMA: &str = "source_silent";
    table(SCHEMA);
    let stalled = proxy(|connection, _| match connection {
        0 => Fault::None,
        _ => Fault::Stall { way: Way::FromServer, after: 5_000_000 },
    });
    let source = Source::open(&through(&stalled, SCHEMA, "&read_timeout=2s")).unwrap();
    let error = source.rows("t").unwrap().find_map(Result::err).unwrap();
    assert_eq!((error.kind(), error.table()), (ErrorKind::Timeout, Some("t")), "{error:#}");
    // The server hears of nothing as long as it stands, and so keeps the table locked.
    drop((source, stalled));

    let source = Source::open(&postgres().uri(&format!("schema={SCHEMA}&application_name=to%20be%20ended"))).unwrap();
    let mut rows = source.rows("t").unwrap();
    assert!(rows.next().unwrap().is_ok());
    postgres().exec("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'to be ended' and state = 'active'");
    let error = rows.find_map(Result::err).unwrap();
    assert_eq!(error.kind(), ErrorKind::Connect, "{error:#}");
    // The connection that was kept may be gone too; it is made anew.
    postgres().exec("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'to be ended'");
    assert_eq!(source.tables().unwrap().len(), 1);
    // Whoever still sends to nobody keeps a lock on the table until it notices that.
    postgres().exec(
        "select pg_terminate_backend(pid) from pg_locks join pg_class on pg_class.oid = relation join pg_namespace on pg_namespace.oid = relnamespace \
         where nspname = 'source_silent' and pid <> pg_backend_pid()",
    );
    postgres().exec(&format!("set client_min_messages = error; drop schema {SCHEMA} cascade"));
}

#[test]
fn whatever_it_waits_for_a_cancelled_run_ends_within_a_second() {
    const NAME: &str = "sources::postgres::network::whatever_it_waits_for_a_cancelled_run_ends_within_a_second";
    if !alone::is_alone(NAME) {
        return;
    }
    const SCHEMA: &str = "source_cancelled";
    table(SCHEMA);
    let login = {
        let proxy = proxy(|_, _| Fault::None);
        Source::open(&through(&proxy, SCHEMA, "")).map(|_| proxy.server_bytes()).unwrap()
    };
    // Nothing comes of the first connection, of its first question, of that for rows, and of rows.
    for (stalls, after) in [(0, 0), (0, login + 1), (1, login + 1), (1, 10_000_000)] {
        let stalled = proxy(move |connection, _| match connection {
            connection if connection == stalls => Fault::Stall { way: Way::FromServer, after },
            _ => Fault::None,
        });
        let threads = alone::thread_count();
        let cancel = Cancel::new();
        let from = through(&stalled, SCHEMA, "&connect_timeout=1m");
        std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                let options = planetscale_ingest::SourceOptions::from_uri(&from).unwrap();
                let source = Source::open_unless(&options, &cancel)?;
                let folder = tempfile::tempdir().unwrap();
                let mut sink = Sink::open(&uri("sqlite", &folder.path().join("copy.db")))?;
                ingest(&source, &mut sink, &IngestOptions::new().with_cancel(cancel.clone()))
            });
            stalled.wait_for_faults(1);
            cancel.cancel();
            let began = Instant::now();
            match run.join().unwrap() {
                Ok(report) => assert_eq!(report.tables[0].state, TableState::Partial),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled, "{error:#}"),
            }
            assert!(began.elapsed() < Duration::from_secs(1), "{:?} for {stalls}, {after}", began.elapsed());
        });
        drop(stalled);
        // That which connects may be left behind, and ends with its connection.
        alone::wait_for_threads_to_end(threads, Duration::from_secs(5));
    }
    let threads = alone::thread_count();
    let source = Source::open(&postgres().uri(&format!("schema={SCHEMA}"))).unwrap();
    let mut rows = source.rows("t").unwrap();
    assert!(rows.next().unwrap().is_ok());
    drop(rows);
    alone::wait_for_threads_to_end(threads, Duration::from_secs(1));
    // A server process may still be about to notice that nobody reads what it writes, and holds its table locked until then.
    postgres()
        .exec(&format!("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and query like '%{SCHEMA}%'"));
    postgres().exec(&format!("set client_min_messages = error; drop schema {SCHEMA} cascade"));
}
