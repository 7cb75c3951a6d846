//! Connections that break while rows are written: what can be repeated is, and what cannot is an error that says how far it came.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use planetscale_ingest::{IngestOptions, Strategy, TableName, TableState};

use super::{ALL, GLOBAL_SETTINGS, PLAIN, Place, SHARDED, UNSHARDED, assert_same, content, load_all, refused, source, source_uri};
use crate::network::{Network, cut, once_after};
use crate::support::proxy::{Fault, Proxy, Way};
use crate::support::servers::mysql;

/// The place by way of a network that breaks connections from the third to the eighth, each after so many bytes.
fn through(place: Place, fault: impl Fn(u64) -> Fault + Send + Sync + 'static) -> (Proxy, String) {
    let server = (place.server)();
    let proxy = Proxy::start((&server.mysql_host, server.mysql_port), move |connection, _| match connection {
        2..8 => fault(20_000 * connection as u64),
        _ => Fault::None,
    });
    let uri = place.uri().replacen(&format!(":{}/", server.mysql_port), &format!(":{}/", proxy.port), 1);
    (proxy, uri.replacen("tls=true", "tls=skip-verify", 1).split("&tls_ca").next().unwrap().to_owned())
}

fn options(table: &str, strategy: Strategy) -> IngestOptions {
    IngestOptions::new().with_tables([table]).with_strategy(strategy)
}

#[test]
fn rows_that_may_be_written_twice_are_written_once_more() {
    let _settings = GLOBAL_SETTINGS.read().unwrap_or_else(PoisonError::into_inner);
    for place in ALL {
        let table = format!("into_lost_{}", place.database);
        let mut conn = source(&table, 0..20_000);
        // On MySQL a merge is one transaction, which is gone with its connection.
        let strategies = if place.database == PLAIN.database { vec![Strategy::Replace] } else { vec![Strategy::Replace, Strategy::Merge] };
        for strategy in strategies {
            place.drop_table(&table);
            let (proxy, uri) = through(place, |after| Fault::Reset { way: Way::FromClient, after: after * 10 });
            load_all(&source_uri(), &uri, &options(&table, strategy));
            assert_same(&content(&mut conn, &table), &content(&mut place.conn(), &table), &format!("{} {strategy:?}", place.name));
            assert!(proxy.faults() > 0, "{} {strategy:?}", place.name);
        }
        place.drop_table(&table);
    }
}

#[test]
fn a_transaction_that_breaks_leaves_the_table_as_it_was() {
    let _settings = GLOBAL_SETTINGS.read().unwrap_or_else(PoisonError::into_inner);
    let table = "into_lost_whole";
    let _source = source(table, 0..20_000);
    let mut there = PLAIN.make(table, super::COLUMNS);
    super::insert(&mut there, table, 50_000..50_010, 0);
    let before = content(&mut there, table);
    for strategy in [Strategy::Append, Strategy::Merge, Strategy::TruncateInsert] {
        let (_proxy, uri) = through(PLAIN, |after| Fault::Reset { way: Way::FromClient, after: after * 20 });
        let error = refused(&source_uri(), &uri, &options(table, strategy));
        assert!(error.contains("the connection broke"), "{error}");
        assert_same(&before, &content(&mut PLAIN.conn(), table), &format!("{strategy:?}"));
    }
    PLAIN.drop_table(table);
}

#[test]
fn rows_that_may_not_be_written_twice_are_looked_for() {
    let _settings = GLOBAL_SETTINGS.read().unwrap_or_else(PoisonError::into_inner);
    let table = "into_lost_append";
    let mut conn = source(table, 0..20_000);
    let there = "into_lost_append_there";
    UNSHARDED.drop_table(there);
    let (proxy, uri) = through(UNSHARDED, |after| Fault::Reset { way: Way::FromClient, after: after * 20 });
    let options = options(table, Strategy::Append).with_dest_table(TableName::new(there));
    load_all(&source_uri(), &uri, &options);
    assert!(proxy.faults() > 0);
    assert_same(&content(&mut conn, table), &content(&mut UNSHARDED.conn(), there), "with a key");
    UNSHARDED.drop_table(there);
}

/// Rows go into a table of MySQL in one transaction; whether that was carried out is found out by its last rows, if they can tell.
#[test]
fn an_answer_to_a_commit_that_is_lost_is_found_out() {
    let _settings = GLOBAL_SETTINGS.read().unwrap_or_else(PoisonError::into_inner);
    // The answer to COMMIT has eleven bytes, COMMIT itself has eleven, and the client's farewell five.
    const ANSWERED: u64 = 5;
    const SENT: u64 = 5 + 5;
    let table = "into_commit";
    let mut conn = source(table, 0..3_000);
    let there = TableName::new("into_commit_there");
    let server = (PLAIN.server)();
    let keyless = super::COLUMNS.replace(" primary key", "");
    for (strategy, columns, kept, is_carried_out, expected) in [
        (Strategy::Append, super::COLUMNS, 0..0, true, None),
        (Strategy::Append, super::COLUMNS, 0..0, false, Some("none of them is stored")),
        (Strategy::Append, keyless.as_str(), 0..0, true, Some("either all 3000 are stored or none")),
        (Strategy::Merge, super::COLUMNS, 0..2_500, true, None),
        (Strategy::Merge, super::COLUMNS, 0..2_500, false, Some("none of them is stored")),
        (Strategy::Merge, super::COLUMNS, 0..3_000, true, Some("either all 3000 are stored or none")),
        (Strategy::TruncateInsert, super::COLUMNS, 0..0, true, None),
        (Strategy::TruncateInsert, super::COLUMNS, 5_000..5_001, false, Some("none of them is stored")),
        (Strategy::TruncateInsert, super::COLUMNS, 0..3_000, false, Some("either all 3000 are stored or none")),
    ] {
        let what = format!("{strategy:?} {kept:?} {is_carried_out}");
        let options = options(table, strategy).with_dest_table(there.clone()).with_primary_key(["id"]);
        let options = if columns == keyless { options.with_primary_key([""; 0]) } else { options };
        let run = |fault: Fault| {
            let mut conn = PLAIN.make(there.name(), columns);
            if !kept.is_empty() {
                super::insert(&mut conn, there.name(), kept.clone(), 1);
            }
            // Connections are for the lock, for tables, and for rows.
            let proxy = Proxy::start((&server.mysql_host, server.mysql_port), move |connection, _| match connection {
                2 => fault,
                _ => Fault::None,
            });
            let uri = PLAIN.uri().replacen(&format!(":{}/", server.mysql_port), &format!(":{}/", proxy.port), 1);
            let uri = uri.split("tls=").next().unwrap().to_owned() + "tls=false&connections=1";
            let report = super::load(&source_uri(), &uri, &options).unwrap().tables.remove(0);
            (report, [Way::FromServer, Way::FromClient].map(|way| proxy.bytes_of(2, way)), proxy.faults())
        };
        let (whole, [answers, statements], _) = run(Fault::None);
        assert_eq!(whole.state, TableState::Complete, "{what}");
        let fault = match is_carried_out {
            true => Fault::Cut { way: Way::FromServer, after: answers - ANSWERED },
            false => Fault::Cut { way: Way::FromClient, after: statements - SENT },
        };
        let (report, _, faults) = run(fault);
        assert_eq!(faults, 1, "{what}");
        match (&report.state, expected) {
            (TableState::Complete, None) => {
                assert_eq!((report.rows_inserted, report.rows_updated), (whole.rows_inserted, whole.rows_updated))
            }
            (TableState::Failed { error }, Some(expected)) => assert!(error.contains(expected), "{what}: {error}"),
            (state, _) => panic!("{what}: {state:?}"),
        }
        let stored = content(&mut PLAIN.conn(), there.name());
        match is_carried_out {
            true => assert_same(&content(&mut conn, table), &stored, &what),
            false => assert_eq!(stored.len() as u64, kept.end - kept.start, "{what}"),
        }
    }
    PLAIN.drop_table(there.name());
}

#[test]
fn an_answer_that_is_lost_doubles_no_rows() {
    let _settings = GLOBAL_SETTINGS.read().unwrap_or_else(PoisonError::into_inner);
    for place in [UNSHARDED, SHARDED] {
        let table = format!("into_answer_{}", place.database);
        let mut conn = source(&table, 0..40_000);
        let there = TableName::new(format!("{table}_there"));
        let server = (place.server)();
        for strategy in [Strategy::Replace, Strategy::Append, Strategy::Merge] {
            let options = options(&table, strategy).with_dest_table(there.clone());
            // Connections are for the lock, for tables, and for rows. What the server sends on the first until it is ready, it sends on the last too.
            let ready = Arc::new(AtomicU64::new(0));
            let noted = Arc::clone(&ready);
            let proxy = Proxy::start((&server.mysql_host, server.mysql_port), move |connection, bytes| match connection {
                1 => {
                    noted.store(bytes, Ordering::SeqCst);
                    Fault::None
                }
                // In the midst of the answers to statements that were carried out.
                2 => Fault::Cut { way: Way::FromServer, after: noted.load(Ordering::SeqCst) + 100 },
                _ => Fault::None,
            });
            let uri = place.uri().replacen(&format!(":{}/", server.mysql_port), &format!(":{}/", proxy.port), 1) + "&connections=1";
            place.drop_table(there.name());
            load_all(&source_uri(), &uri, &options);
            assert_eq!(proxy.faults(), 1, "{} {strategy:?}: {} connections", place.name, proxy.connections());
            assert_same(&content(&mut conn, &table), &content(&mut place.conn(), there.name()), &format!("{} {strategy:?}", place.name));
        }
        place.drop_table(there.name());
    }
}

/// A source whose connection breaks is read anew, unless rows of it are stored that would then be there twice.
#[test]
fn a_source_that_breaks_off_doubles_no_rows() {
    let _settings = GLOBAL_SETTINGS.read().unwrap_or_else(PoisonError::into_inner);
    const ROWS: u64 = 60_000;
    let table = "into_broken_source";
    let mut conn = source(table, 0..ROWS);
    let expected = content(&mut conn, table);
    let keyless = super::COLUMNS.replace(" primary key", "");
    let network = Network::to(mysql());
    let uri = network.through(&source_uri());
    for (place, strategy, columns, is_begun_anew) in [
        (UNSHARDED, Strategy::Append, keyless.as_str(), false),
        (UNSHARDED, Strategy::Append, super::COLUMNS, false),
        (UNSHARDED, Strategy::Merge, super::COLUMNS, true),
        (SHARDED, Strategy::Append, super::COLUMNS, false),
        (PLAIN, Strategy::Append, keyless.as_str(), true),
        (PLAIN, Strategy::TruncateInsert, super::COLUMNS, true),
    ] {
        let what = format!("{} {strategy:?} {columns}", place.name);
        let there = TableName::new(format!("{table}_{}", place.database));
        let mut at_destination = place.make(there.name(), columns);
        let (sent, faults) = (network.mysql.server_bytes(), network.mysql.faults());
        network.mysql.set(once_after(sent, 5_000_000, cut));
        let report = super::load(&uri, &place.uri(), &options(table, strategy).with_dest_table(there.clone())).unwrap().tables.remove(0);
        assert_eq!(network.mysql.faults(), faults + 1, "{what}");
        if is_begun_anew {
            assert_eq!((report.state, report.notes.len()), (TableState::Complete, 1), "{what}");
            assert_same(&expected, &content(&mut at_destination, there.name()), &what);
        } else {
            let TableState::Failed { error } = report.state else { panic!("{what}: {report:?}") };
            let stored = content(&mut at_destination, there.name()).len();
            let told = format!("`{there}` is not as it was: {stored} rows of the source are stored");
            assert!(error.contains(&told) && error.contains("the connection broke"), "{what}: {told}: {error}");
            assert!(stored > 0 && (stored as u64) < ROWS && report.notes.is_empty(), "{what}: {stored}");
        }
        place.drop_table(there.name());
    }
}
