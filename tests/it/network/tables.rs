//! Whole tables over MySQL's protocol, through a network that fails.

use std::time::{Duration, Instant};

use mysql::Conn;
use mysql::prelude::Queryable;
use planetscale_ingest::{Cancel, ErrorKind, IngestOptions, Report, Sink, Source, Strategy, TableState, ingest};
use tempfile::TempDir;

use super::{Network, cut, flip, once_after, reset};
use crate::support::proxy::{Fault, Way};
use crate::support::servers::{Server, claim, mysql, vitess, vitess_secure};

const ROWS: usize = 20_000;

/// A table, and an SQLite file for it.
struct Case {
    table: &'static str,
    network: Network,
    uri: String,
    conn: Conn,
    folder: TempDir,
}

impl Case {
    fn new(server: &'static Server, table: &'static str) -> Self {
        claim(server, "commerce", table);
        let mut conn = server.conn();
        conn.query_drop("use commerce").unwrap();
        conn.query_drop(format!("drop table if exists {table}")).unwrap();
        conn.query_drop(format!("create table {table} (id bigint not null primary key, note varchar(200))")).unwrap();
        let rows: Vec<String> = (0..ROWS).map(|id| format!("({id}, repeat('x{id} ', 1 + {id} % 9))")).collect();
        for part in rows.chunks(5_000) {
            conn.query_drop(format!("insert into {table} (id, note) values {}", part.join(","))).unwrap();
        }
        let network = Network::to(server);
        let uri = network.through(&server.uri("commerce"));
        Self { table, network, uri, conn, folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("a.db")
    }

    fn run(&self, more: &str, options: IngestOptions) -> planetscale_ingest::Result<Report> {
        let source = Source::open(&format!("{}{more}", self.uri))?;
        let mut sink = Sink::open(&format!("sqlite://{}", self.file().display()))?;
        ingest(&source, &mut sink, &options.with_tables([self.table]))
    }

    fn stored(&self) -> Vec<(i64, String)> {
        let connection = rusqlite::Connection::open(self.file()).unwrap();
        let mut statement = connection.prepare(&format!("select id, note from {} order by id", self.table)).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    }

    fn expected(&mut self) -> Vec<(i64, String)> {
        self.conn.query_drop("set workload = 'olap'").ok();
        self.conn.query(format!("select id, note from {} order by id", self.table)).unwrap()
    }

    /// Bytes of the server from the opening of the source to the end of the copy, and those of the opening.
    fn lengths(&self) -> (u64, u64) {
        let sent = self.network.mysql.server_bytes();
        drop(Source::open(&self.uri).unwrap());
        let opening = self.network.mysql.server_bytes() - sent;
        let sent = self.network.mysql.server_bytes();
        assert!(self.run("", IngestOptions::new()).unwrap().is_complete());
        (self.network.mysql.server_bytes() - sent, opening)
    }
}

#[test]
fn a_copy_that_breaks_at_any_place_is_begun_anew_and_is_whole() {
    for (server, table) in [(mysql(), "net_t_mysql"), (vitess(), "net_t_plain"), (vitess_secure(), "net_t_tls")] {
        let mut case = Case::new(server, table);
        let expected = case.expected();
        let (length, opening) = case.lengths();
        assert!(length > 500_000, "{length}");
        for point in 0..10 {
            // Two tables' worth: the second attempt finds the file as the first one left it.
            let strategy = if point % 3 == 2 { Strategy::Append } else { Strategy::Replace };
            std::fs::remove_file(case.file()).unwrap();
            let (sent, faults) = (case.network.mysql.server_bytes(), case.network.mysql.faults());
            // A TLS handshake differs by some bytes from one to the next: the first connection of all is not to break.
            let after = opening + 300 + (length - opening - 500) * point / 10;
            case.network.mysql.set(once_after(sent, after, if point % 2 == 0 { cut } else { reset }));
            let report = case.run("", IngestOptions::new().with_strategy(strategy)).unwrap();
            let entry = &report.tables[0];
            assert_eq!(entry.state, TableState::Complete, "{table} at {after} of {length}");
            assert_eq!(case.network.mysql.faults(), faults + 1);
            assert_eq!((entry.rows_read, entry.rows_inserted), (ROWS as u64, ROWS as u64));
            assert_eq!(case.stored(), expected, "{table} at {after} of {length}");
            if point > 2 {
                assert!(entry.notes.iter().any(|note| note.starts_with("begun anew after ")), "{:?}", entry.notes);
            }
        }
    }
}

#[test]
fn a_first_connection_that_breaks_is_made_anew_and_one_that_always_breaks_ends_the_run_at_once() {
    for (server, table) in [(mysql(), "net_o_mysql"), (vitess(), "net_o_plain"), (vitess_secure(), "net_o_tls")] {
        let mut case = Case::new(server, table);
        let expected = case.expected();
        let (_, opening) = case.lengths();
        // Before the greeting, within it, in the TLS handshake where there is one, in the login, in the set-up of the session.
        for after in [0, 1, 20, opening / 4, opening / 2, opening - 20, opening - 5] {
            for fault in [cut, reset] {
                std::fs::remove_file(case.file()).unwrap();
                let (sent, faults) = (case.network.mysql.server_bytes(), case.network.mysql.faults());
                case.network.mysql.set(once_after(sent, after + 1, fault));
                let report = case.run("", IngestOptions::new()).unwrap();
                assert_eq!(report.tables[0].state, TableState::Complete, "{table} at {after} of {opening}");
                assert_eq!(report.tables[0].notes, [""; 0]);
                assert_eq!(case.network.mysql.faults(), faults + 1);
                assert_eq!(case.stored(), expected);

                let connections = case.network.mysql.connections();
                case.network.mysql.set(move |_, _| fault(Way::FromServer, after));
                let begun = Instant::now();
                let error = Source::open(&case.uri).unwrap_err();
                assert!(matches!(error.kind(), ErrorKind::Connect | ErrorKind::Tls), "{table} at {after} of {opening}: {error:?}");
                assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
                assert_eq!(case.network.mysql.connections(), connections + 3, "{table} at {after} of {opening}");
            }
        }
    }
}

/// A bit that arrives as another is found by TLS, and the copy is begun anew.
#[test]
fn a_copy_over_tls_with_a_bit_that_flips_is_begun_anew_and_is_whole() {
    let mut case = Case::new(vitess_secure(), "net_f_tls");
    let expected = case.expected();
    let (length, opening) = case.lengths();
    for point in 0..6 {
        std::fs::remove_file(case.file()).unwrap();
        let (sent, faults) = (case.network.mysql.server_bytes(), case.network.mysql.faults());
        let after = opening + 300 + (length - opening - 500) * point / 6;
        case.network.mysql.set(once_after(sent, after, flip));
        let report = case.run("", IngestOptions::new()).unwrap();
        assert_eq!(report.tables[0].state, TableState::Complete, "at {after} of {length}");
        assert_eq!(case.network.mysql.faults(), faults + 1);
        assert_eq!(case.stored(), expected, "at {after} of {length}");
    }
}

#[test]
fn a_copy_that_always_breaks_ends_after_three_attempts_and_leaves_the_old_table() {
    for (server, table) in [(mysql(), "net_n_mysql"), (vitess_secure(), "net_n_tls")] {
        let mut case = Case::new(server, table);
        let expected = case.expected();
        let (length, _) = case.lengths();
        case.conn.query_drop(format!("delete from {table} where id = 7")).unwrap();
        for strategy in [Strategy::Replace, Strategy::Append] {
            let faults = case.network.mysql.faults();
            case.network.mysql.set(move |_, _| reset(Way::FromServer, length / 2));
            let report = case.run("", IngestOptions::new().with_strategy(strategy)).unwrap();
            let TableState::Failed { error } = &report.tables[0].state else { panic!("{:?}", report.tables[0].state) };
            assert!(error.contains(&format!("table `{table}` broke off in each of 3 attempts; `{table}` is as it was")), "{error}");
            assert!(error.contains("the connection broke"), "{error}");
            assert_eq!(case.network.mysql.faults(), faults + 3);
            assert_eq!(case.stored(), expected);
        }
        case.network.mysql.set(|_, _| Fault::None);
        assert!(case.run("", IngestOptions::new()).unwrap().is_complete());
        assert_eq!(case.stored(), case.expected());
    }
}

#[test]
fn a_server_that_stalls_is_given_up_after_the_read_time_limit() {
    for (server, table) in [(mysql(), "net_s_mysql"), (vitess(), "net_s_plain"), (vitess_secure(), "net_s_tls")] {
        let mut case = Case::new(server, table);
        let expected = case.expected();
        let (length, opening) = case.lengths();
        case.conn.query_drop(format!("delete from {table} where id = 7")).unwrap();
        // Within the schema, and within the rows.
        for after in [opening + 500, length / 2] {
            case.network.mysql.set(move |_, _| Fault::Stall { way: Way::FromServer, after });
            let begun = Instant::now();
            let result = case.run("&read_timeout=1s&retry_timeout=1s", IngestOptions::new());
            let took = begun.elapsed();
            assert!(took > Duration::from_secs(1) && took < Duration::from_secs(8), "{took:?}");
            let error = match result {
                Err(error) => format!("{error:#}"),
                Ok(report) => match &report.tables[0].state {
                    TableState::Failed { error } => error.clone(),
                    other => panic!("{other:?}"),
                },
            };
            assert!(error.contains("the server sent nothing within the limit of `read_timeout`"), "{error}");
            assert_eq!(case.stored(), expected);
        }
    }
}

#[test]
fn a_server_that_stalls_in_handshake_or_login_is_given_up_after_the_connect_time_limit() {
    for server in [mysql(), vitess(), vitess_secure()] {
        let network = Network::to(server);
        let uri = network.through(&server.uri("commerce"));
        let sent = network.mysql.server_bytes();
        drop(Source::open(&uri).unwrap());
        let opening = network.mysql.server_bytes() - sent;
        // Before the greeting, within it, in the TLS handshake where there is one, in the login, in the set-up of the session.
        for after in [0, 20, opening / 4, opening / 2, opening - 5] {
            network.mysql.set(move |_, _| Fault::Stall { way: Way::FromServer, after });
            let begun = Instant::now();
            let error = Source::open(&format!("{uri}&connect_timeout=700ms")).unwrap_err();
            let took = begun.elapsed();
            assert_eq!(error.kind(), ErrorKind::Timeout, "{}: {after} of {opening}: {error:?}", server.name);
            assert!(took > Duration::from_millis(600) && took < Duration::from_secs(2), "{took:?}");
        }
    }
}

#[test]
fn cancellation_ends_a_copy_whose_server_stalls_within_a_second() {
    for (server, table) in [(mysql(), "net_c_mysql"), (vitess_secure(), "net_c_tls")] {
        let mut case = Case::new(server, table);
        let expected = case.expected();
        let (length, opening) = case.lengths();
        for after in [opening + 500, length / 2] {
            let faults = case.network.mysql.faults();
            case.network.mysql.set(move |_, _| Fault::Stall { way: Way::FromServer, after });
            let cancel = Cancel::new();
            let options = IngestOptions::new().with_cancel(cancel.clone());
            let (result, took) = std::thread::scope(|scope| {
                let case = &case;
                let run = scope.spawn({
                    let (file, uri) = (case.file(), case.uri.clone());
                    let options = options.with_tables([table]);
                    move || {
                        let source = Source::open(&uri).unwrap();
                        let mut sink = Sink::open(&format!("sqlite://{}", file.display())).unwrap();
                        (ingest(&source, &mut sink, &options), Instant::now())
                    }
                });
                case.network.mysql.wait_for_faults(faults + 1);
                assert!(!run.is_finished());
                let cancelled = Instant::now();
                cancel.cancel();
                let (result, ended) = run.join().unwrap();
                (result, ended.saturating_duration_since(cancelled))
            });
            assert!(took < Duration::from_secs(1), "{took:?}");
            match result {
                Ok(report) => assert_eq!(report.tables[0].state, TableState::Partial),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled, "{error:?}"),
            }
            assert_eq!(case.stored(), expected);
        }
    }
}

#[test]
fn a_trickling_network_changes_nothing_but_the_time() {
    for (server, table) in [(mysql(), "net_w_mysql"), (vitess_secure(), "net_w_tls")] {
        let mut case = Case::new(server, table);
        case.network.mysql.set(|_, _| Fault::Trickle { bytes: 1_009, pause: Duration::from_micros(200) });
        assert!(case.run("&read_timeout=5s", IngestOptions::new()).unwrap().is_complete());
        assert_eq!(case.stored(), case.expected());
    }
}
