//! Change capture through a network that fails.

use std::path::Path;
use std::time::{Duration, Instant};

use mysql::Conn;
use planetscale_ingest::{ErrorKind, IngestOptions};

use super::{Network, cut, flip, once_after, reset};
use crate::capture::fixture::{Destination, Kind, Random, binary_logs_stay, change, create, insert};
use crate::scripted::stage::Stage;
use crate::support::proxy::{Fault, Way};
use crate::support::servers::{Server, vitess, vitess_secure};

/// Where a conversation is broken: at so many places, evenly spread over it.
const POINTS: u64 = 30;
const ROWS: u64 = 3_000;
const CHANGES: u64 = 60;

/// A table with rows, a destination that has them, and changes that it has yet to get.
struct Case {
    server: &'static Server,
    keyspace: &'static str,
    table: String,
    options: IngestOptions,
    conn: Conn,
}

impl Case {
    fn new(server: &'static Server, keyspace: &'static str, table: &str) -> Self {
        let mut conn = create(server, keyspace, table);
        insert(&mut conn, table, 0..ROWS, 0);
        // What is measured is not to hold attempts that came before a tablet had noticed the table.
        Destination::new(Kind::Sqlite).capture_all(&server.cdc_uri(keyspace), &IngestOptions::new().with_tables([table]));
        Self { server, keyspace, table: table.to_owned(), options: IngestOptions::new().with_tables([table]), conn }
    }

    fn uri(&self) -> String {
        self.server.cdc_uri(self.keyspace)
    }

    fn change(&mut self, generations: std::ops::Range<u64>) {
        let mut random = Random::new(generations.start + 1);
        for generation in generations {
            change(&mut self.conn, &self.table, &mut random, generation, self.keyspace == "commerce");
        }
    }

    /// A copy of a destination as it is.
    fn copy_of(&self, destination: &Destination) -> Destination {
        let copy = Destination::new(destination.kind);
        std::fs::copy(&destination.path, &copy.path).unwrap();
        copy
    }

    fn verify(&mut self, destination: &Destination) {
        destination.assert_equals(&mut self.conn, &self.table);
    }
}

/// Places of a conversation of so many bytes: some where the first connection is made, and others that are evenly spread over all of it, none of them near
/// the end: a conversation is not always of the same length.
fn places(length: u64, even: u64) -> impl Iterator<Item = u64> {
    let first = [1, 2, 30, 80, 200, 700, 1_300, 2_000].into_iter().filter(move |place| *place < length / 10);
    first.chain((1..=even).map(move |place| length * (2 * place - 1) / (2 * even)))
}

/// Breaks the conversation of a copy, and that of a stream, at many places; within one run each is resumed, and everything is there.
fn survives_at_every_place(server: &'static Server, keyspace: &'static str, table: &str) {
    let _logs = binary_logs_stay();
    let mut case = Case::new(server, keyspace, table);
    let network = Network::to(server);
    let source = network.through(&case.uri());

    // Without a fault, to measure.
    let copied = Destination::new(Kind::Sqlite);
    copied.capture_all(&source, &case.options);
    let length = network.grpc().server_bytes();
    assert!(length > 100_000, "{length}");
    for (point, after) in places(length, POINTS / 2).enumerate() {
        let destination = Destination::new(Kind::Sqlite);
        let (sent, faults) = (network.grpc().server_bytes(), network.grpc().faults());
        network.grpc().set(once_after(sent, after, if point % 2 == 0 { cut } else { reset }));
        let report = destination.capture_all(&source, &case.options);
        assert_eq!(network.grpc().faults(), faults + 1, "{after} of {length}");
        assert_eq!(report.tables[0].notes, [""; 0]);
        case.verify(&destination);
    }

    case.change(1..CHANGES);
    network.grpc().set(|_, _| Fault::None);
    let sent = network.grpc().server_bytes();
    let streamed = case.copy_of(&copied);
    streamed.capture_all(&source, &case.options);
    case.verify(&streamed);
    let length = network.grpc().server_bytes() - sent;
    assert!(length > 10_000, "{length}");
    for (point, after) in places(length, POINTS / 2).enumerate() {
        let destination = case.copy_of(&copied);
        let (sent, faults) = (network.grpc().server_bytes(), network.grpc().faults());
        network.grpc().set(once_after(sent, after, if point % 2 == 0 { cut } else { reset }));
        destination.capture_all(&source, &case.options);
        assert_eq!(network.grpc().faults(), faults + 1, "{after} of {length}");
        case.verify(&destination);
    }
}

#[test]
fn copy_and_stream_survive_a_break_at_any_place() {
    survives_at_every_place(vitess(), "commerce", "net_plain");
}

#[test]
fn copy_and_stream_survive_a_break_at_any_place_over_tls() {
    survives_at_every_place(vitess_secure(), "commerce", "net_tls");
}

#[test]
fn copy_and_stream_of_two_shards_survive_a_break_at_any_place() {
    survives_at_every_place(vitess_secure(), "customer", "net_shards");
}

/// A bit that arrives as another is found by TLS, ends the connection, and nothing of it is stored.
#[test]
fn copy_and_stream_over_tls_survive_a_bit_that_flips() {
    let _logs = binary_logs_stay();
    let mut case = Case::new(vitess_secure(), "commerce", "net_flip");
    let network = Network::to(case.server);
    let source = network.through(&case.uri());
    let copied = Destination::new(Kind::Sqlite);
    copied.capture_all(&source, &case.options);
    let copy = network.grpc().server_bytes();
    case.change(1..CHANGES);
    let sent = network.grpc().server_bytes();
    case.copy_of(&copied).capture_all(&source, &case.options);
    let stream = network.grpc().server_bytes() - sent;
    for (length, streams) in [(copy, false), (stream, true)] {
        for after in places(length, 8) {
            let destination = if streams { case.copy_of(&copied) } else { Destination::new(Kind::Sqlite) };
            let (sent, faults) = (network.grpc().server_bytes(), network.grpc().faults());
            network.grpc().set(once_after(sent, after, flip));
            destination.capture_all(&source, &case.options);
            assert_eq!(network.grpc().faults(), faults + 1, "{after} of {length}");
            case.verify(&destination);
        }
    }
}

/// Every connection breaks after so many bytes, for ever: as long as each brings something new, the run goes on.
#[test]
fn a_run_whose_connections_all_break_ends_complete_if_each_brings_something() {
    let _logs = binary_logs_stay();
    for (server, table) in [(vitess(), "net_all_plain"), (vitess_secure(), "net_all_tls")] {
        let mut case = Case::new(server, "commerce", table);
        let network = Network::to(server);
        let source = network.through(&(case.uri() + "&retry_timeout=60s"));
        let destination = Destination::new(Kind::DuckDb);
        // A packet of the copy is 250 kB, or more where it goes well.
        network.grpc().set(|_, _| cut(Way::FromServer, 1_000_000));
        insert(&mut case.conn, table, ROWS..10 * ROWS, 0);
        destination.capture_all(&source, &case.options);
        assert!(network.grpc().faults() > 3, "{}", network.grpc().faults());
        case.verify(&destination);
        case.change(1..4 * CHANGES);
        let faults = network.grpc().faults();
        // A transaction of these is 13 kB at most.
        network.grpc().set(|_, _| cut(Way::FromServer, 40_000));
        destination.capture_all(&source, &case.options);
        assert!(network.grpc().faults() > faults + 2, "{}", network.grpc().faults() - faults);
        case.verify(&destination);
    }
}

#[test]
fn a_network_that_never_lets_enough_through_ends_the_run_in_time_and_the_next_one_resumes() {
    let _logs = binary_logs_stay();
    for (server, table) in [(vitess(), "net_never_plain"), (vitess_secure(), "net_never_tls")] {
        let mut case = Case::new(server, "commerce", table);
        let network = Network::to(server);
        let source = network.through(&(case.uri() + "&retry_timeout=3s"));
        let destination = Destination::new(Kind::Sqlite);
        // The handshake passes, and never a packet.
        network.grpc().set(|_, _| cut(Way::FromServer, 5_000));
        let begun = Instant::now();
        let error = destination.capture(&source, &case.options).unwrap_err();
        let took = begun.elapsed();
        assert_eq!(error.kind(), ErrorKind::Connect, "{error:?}");
        assert!(error.to_string().contains("without a new position, for 3s (`retry_timeout`)"), "{error}");
        assert!(took < Duration::from_secs(10), "{took:?}");

        network.grpc().set(|_, _| Fault::None);
        destination.capture_all(&source, &case.options);
        case.verify(&destination);
        case.change(1..CHANGES);
        network.grpc().set(|_, _| cut(Way::FromServer, 1_500));
        let before = destination.cell("SELECT position FROM _ingest_checkpoint");
        let failed = destination.capture(&source, &case.options);
        assert!(!failed.is_ok_and(|report| report.is_complete()));
        let after = destination.cell("SELECT position FROM _ingest_checkpoint");
        assert!(before <= after, "the position went back from {before:?} to {after:?}");
        network.grpc().set(|_, _| Fault::None);
        destination.capture_all(&source, &case.options);
        case.verify(&destination);
    }
}

#[test]
fn breaks_of_what_the_client_sends_are_survived_too() {
    let _logs = binary_logs_stay();
    let mut case = Case::new(vitess(), "commerce", "net_up");
    let network = Network::to(vitess());
    let source = network.through(&case.uri());
    let copied = Destination::new(Kind::Sqlite);
    copied.capture_all(&source, &case.options);
    case.change(1..CHANGES);
    // The preface, within the request, and after it.
    for after in [60, 150, 300, 400, 500] {
        let destination = case.copy_of(&copied);
        let first = network.grpc().connections();
        let faults = network.grpc().faults();
        // The first connection is let through, and broken: the second one's client is the one that is cut off.
        network.grpc().set(move |number, _| match number - first {
            0 => cut(Way::FromServer, 1_000),
            1 => cut(Way::FromClient, after),
            2 => reset(Way::FromClient, after),
            _ => Fault::None,
        });
        destination.capture_all(&source, &case.options);
        assert!(network.grpc().faults() >= faults + 2, "{}", network.grpc().faults() - faults);
        case.verify(&destination);
    }
}

#[test]
fn a_slow_and_trickling_network_changes_nothing_but_the_time() {
    let _logs = binary_logs_stay();
    for (server, table) in [(vitess(), "net_slow_plain"), (vitess_secure(), "net_slow_tls")] {
        let mut case = Case::new(server, "commerce", table);
        let network = Network::to(server);
        let source = network.through(&case.uri());
        let destination = Destination::new(Kind::Sqlite);
        network.grpc().set(|_, _| Fault::Trickle { bytes: 997, pause: Duration::from_millis(1) });
        network.mysql.set(|_, _| Fault::Trickle { bytes: 13, pause: Duration::from_millis(1) });
        destination.capture_all(&source, &case.options);
        case.verify(&destination);
        case.change(1..CHANGES);
        network.grpc().set(|_, _| Fault::Trickle { bytes: 7, pause: Duration::from_micros(100) });
        destination.capture_all(&source, &case.options);
        case.verify(&destination);
        assert_eq!(network.grpc().faults(), 0);
    }
}

/// Takes half a minute for each server, at the same time: as long as a connection may be silent.
#[test]
fn a_connection_that_stalls_is_noticed_and_made_anew() {
    let _logs = binary_logs_stay();
    std::thread::scope(|scope| {
        for (server, table) in [(vitess(), "net_stall_plain"), (vitess_secure(), "net_stall_tls")] {
            scope.spawn(move || {
                let mut case = Case::new(server, "commerce", table);
                let network = Network::to(server);
                let source = network.through(&case.uri());
                let destination = Destination::new(Kind::Sqlite);
                let first = network.grpc().connections();
                let stall = Fault::Stall { way: Way::FromServer, after: 100_000 };
                network.grpc().set(move |number, _| if number == first { stall } else { Fault::None });
                let begun = Instant::now();
                destination.capture_all(&source, &case.options);
                let took = begun.elapsed();
                assert_eq!(network.grpc().faults(), 1);
                assert!(took > Duration::from_secs(29) && took < Duration::from_secs(50), "{took:?}");
                case.verify(&destination);
            });
        }
    });
}

#[test]
fn breaks_of_the_mysql_connection_of_a_capture_are_survived() {
    let _logs = binary_logs_stay();
    for (server, table) in [(vitess(), "net_sql_plain"), (vitess_secure(), "net_sql_tls")] {
        let mut case = Case::new(server, "commerce", table);
        let network = Network::to(server);
        let source = network.through(&case.uri());
        let copied = Destination::new(Kind::Sqlite);
        copied.capture_all(&source, &case.options);
        let length = network.mysql.server_bytes();
        case.change(1..20);
        for (point, after) in places(length, 10).enumerate() {
            let destination = case.copy_of(&copied);
            let (sent, faults) = (network.mysql.server_bytes(), network.mysql.faults());
            network.mysql.set(once_after(sent, after, if point % 2 == 0 { cut } else { reset }));
            destination.capture_all(&source, &case.options);
            assert_eq!(network.mysql.faults(), faults + 1, "{after} of {length}");
            case.verify(&destination);
        }
    }
}

#[test]
fn an_outage_of_both_ports_is_waited_for_in_copy_and_in_stream() {
    let _logs = binary_logs_stay();
    let mut case = Case::new(vitess_secure(), "commerce", "net_outage");
    let network = Network::to(vitess_secure());
    let source = network.through(&case.uri());
    let copied = Destination::new(Kind::Sqlite);
    let away = |network: &Network, after: u64| {
        // The connection breaks, and for five seconds nobody is there.
        let begun = network.grpc().connections();
        let until = Instant::now() + Duration::from_secs(5);
        network.grpc().set(move |number, _| match number {
            number if number == begun => cut(Way::FromServer, after),
            _ if Instant::now() < until => Fault::Refuse,
            _ => Fault::None,
        });
        network.mysql.set(move |_, _| Fault::None);
    };
    away(&network, 200_000);
    copied.capture_all(&source, &case.options);
    case.verify(&copied);
    assert!(network.grpc().faults() > 3, "{}", network.grpc().faults());
    case.change(1..CHANGES);
    let faults = network.grpc().faults();
    away(&network, 3_000);
    copied.capture_all(&source, &case.options);
    case.verify(&copied);
    assert!(network.grpc().faults() > faults + 3, "{}", network.grpc().faults());
    assert!(Path::new(&copied.path).exists());
}

/// The MySQL side is a front that refuses Vitess's statements; shards and stop position come from a stream of the real vtgate.
#[test]
fn a_real_vtgate_behind_a_front_that_refuses_statements_is_captured() {
    let _logs = binary_logs_stay();
    for (keyspace, table) in [("commerce", "net_front_one"), ("customer", "net_front_two")] {
        let mut case = Case::new(vitess(), keyspace, table);
        let columns =
            [("id", "bigint"), ("name", "varchar(200)"), ("amount", "decimal(12,2)"), ("note", "text"), ("happened", "datetime(6)")];
        let stage = Stage::new(0).table(table, &columns).refusing(&["SHOW VITESS", "SELECT @@global", "USE"]);
        let front = stage.start(|_, _| panic!("the stream is another server's"));
        let (host, port) = vitess().grpc.as_ref().unwrap();
        let source =
            format!("mysql+cdc://127.0.0.1:{}/{keyspace}?tls=false&grpc_host={host}&grpc_port={port}&grpc_tls=false", front.mysql_port);
        let destination = Destination::new(Kind::Sqlite);
        destination.capture_all(&source, &case.options);
        case.verify(&destination);
        case.change(1..CHANGES);
        let report = destination.capture_all(&source, &case.options);
        case.verify(&destination);
        assert!(report.tables[0].notes[0].contains("could not be checked"), "{:?}", report.tables[0].notes);
    }
}
