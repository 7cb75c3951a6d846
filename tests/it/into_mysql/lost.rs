//! Connections that break while rows are written: what can be repeated is, and what cannot is an error that says how far it came.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use planetscale_ingest::{IngestOptions, Strategy, TableName};

use super::{ALL, PLAIN, Place, SHARDED, UNSHARDED, assert_same, content, load_all, refused, source, source_uri};
use crate::support::proxy::{Fault, Proxy, Way};

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
    for place in ALL {
        let table = format!("into_lost_{}", place.database);
        let mut conn = source(&table, 0..20_000);
        // On MySQL a merge is one transaction, which is gone with its connection.
        let strategies = if place.database == PLAIN.database { vec![Strategy::Replace] } else { vec![Strategy::Replace, Strategy::Merge] };
        for strategy in strategies {
            place.drop_table(&table);
            let (proxy, uri) = through(place, |after| Fault::Reset { way: Way::FromClient, after: after * 20 });
            load_all(&source_uri(), &uri, &options(&table, strategy));
            assert_same(&content(&mut conn, &table), &content(&mut place.conn(), &table), &format!("{} {strategy:?}", place.name));
            assert!(proxy.faults() > 0, "{} {strategy:?}", place.name);
        }
        place.drop_table(&table);
    }
}

#[test]
fn a_transaction_that_breaks_leaves_the_table_as_it_was() {
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

#[test]
fn an_answer_that_is_lost_doubles_no_rows() {
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
