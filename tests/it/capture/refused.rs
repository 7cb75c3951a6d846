//! What is refused before anything is captured, and how it is said.

use mysql::prelude::Queryable;
use planetscale_ingest::{Error, ErrorKind, IngestOptions, Sink, Source, TableState, ingest};

use super::fixture::{BOTH, Destination, Kind, binary_logs_stay, create, insert};
use crate::support::servers::{mysql, vitess, vitess_secure};

fn error_of(uri: &str) -> Error {
    let destination = Destination::new(Kind::Sqlite);
    let options = IngestOptions::new().with_tables(["product"]);
    let error = destination.capture(uri, &options).unwrap_err();
    let shown = format!("{error} {error:#} {error:?}");
    assert!(!shown.contains("p@ss") && !shown.contains("p%40ss"), "{shown}");
    error
}

#[test]
fn capture_needs_vitess_and_its_grpc_port() {
    let vitess_uri = vitess().cdc_uri("commerce");
    let without = vitess_uri.replace(&format!("grpc_port={}&", vitess().grpc.as_ref().unwrap().1), "");
    let error = error_of(&without);
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("grpc_port is missing"), "{error}");

    let plain = mysql().cdc_uri("commerce") + "&grpc_port=1";
    let error = error_of(&plain);
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.to_string().contains("MySQL"), "{error}");
}

#[test]
fn each_way_to_fail_on_tls_and_passwords_has_its_own_sentence() {
    let server = vitess_secure();
    let tls = server.tls.as_ref().unwrap();
    let good = server.cdc_uri("commerce");
    let encode = |path: &std::path::Path| {
        percent_encoding::utf8_percent_encode(&path.to_string_lossy(), percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let (ca, other) = (encode(&tls.ca), encode(&tls.other_ca));
    let grpc = server.grpc.as_ref().unwrap().1;

    let wrong_password = good.replacen(":p%40ss%3Aw%2Frd@", ":wrong@", 1);
    assert_ne!(wrong_password, good);
    assert_eq!(error_of(&wrong_password).kind(), ErrorKind::Auth);

    let error = error_of(&good.replace(&ca, &other));
    assert_eq!(error.kind(), ErrorKind::Tls, "{error:?}");

    // MySQL in order, gRPC plain to a TLS port, and the reverse.
    let error = error_of(&format!("{good}&grpc_tls=false"));
    assert_eq!(error.kind(), ErrorKind::Tls, "{error:?}");
    assert!(error.to_string().contains("grpc_tls=true"), "{error}");
    let plain = vitess().cdc_uri("commerce");
    let error = error_of(&format!("{plain}&grpc_tls=skip-verify"));
    assert_eq!(error.kind(), ErrorKind::Tls, "{error:?}");
    assert!(error.to_string().contains("grpc_tls=false"), "{error}");

    // A port that is not gRPC's.
    let error = error_of(&good.replace(&format!("grpc_port={grpc}"), &format!("grpc_port={}", server.mysql_port)));
    assert!(matches!(error.kind(), ErrorKind::Config | ErrorKind::Tls), "{error:?}");
    let error = error_of(&good.replace(&format!("grpc_port={grpc}"), "grpc_port=1"));
    assert_eq!(error.kind(), ErrorKind::Connect, "{error:?}");

    // And all in order, without verification.
    let destination = Destination::new(Kind::Sqlite);
    let skipping = good.replace("tls=true", "tls=skip-verify").replace(&format!("&tls_ca={ca}"), "");
    destination.capture_all(&skipping, &IngestOptions::new().with_tables(["product"]));
}

/// Of three tables, the destination cannot take the second one as it is.
#[test]
fn a_table_that_does_not_fit_its_destination_ends_alone() {
    let _logs = binary_logs_stay();
    for kind in BOTH {
        let names = ["a", "b", "c"].map(|name| format!("unfit_{kind:?}_{name}").to_lowercase());
        let mut conns = names.each_ref().map(|name| create(vitess(), "commerce", name));
        for (conn, name) in conns.iter_mut().zip(&names) {
            insert(conn, name, 0..200, 0);
        }
        let destination = Destination::new(kind);
        let unfit = &names[1];
        let declared = if kind == Kind::Sqlite { "id text primary key not null" } else { "id date primary key" };
        destination.execute(&format!("create table {unfit} ({declared})"));
        let options = IngestOptions::new().with_tables(&names);
        for round in 0..3 {
            if round == 1 {
                // Everything is built anew, and the old one does not matter.
                destination.capture_all(&vitess().cdc_uri("commerce"), &options.clone().with_full_refresh(true));
                names.iter().zip(&mut conns).for_each(|(name, conn)| destination.assert_equals(conn, name));
                destination.execute(&format!("drop table {unfit}"));
                destination.execute(&format!("create table {unfit} ({declared})"));
                continue;
            }
            conns[0].query_drop(format!("update {} set name = 'changed' where id % 2 = 0", names[0])).unwrap();
            let is_dropped = round == 2;
            if is_dropped {
                destination.execute(&format!("drop table {}", names[0]));
            }
            let report = destination.capture(&vitess().cdc_uri("commerce"), &options).unwrap();
            for (index, entry) in report.tables.iter().enumerate() {
                match (&entry.state, index) {
                    (TableState::Failed { error }, 1) => assert!(error.contains(unfit.as_str()), "{kind:?}: {error}"),
                    (TableState::Complete, 0 | 2) => {
                        destination.assert_equals(&mut conns[index], &names[index]);
                        // It was found out before the other table ended, and is said all the same.
                        let is_said = entry.notes.iter().any(|note| note.starts_with("copied anew"));
                        assert_eq!(is_said, is_dropped && index == 0, "{kind:?}: {:?}", entry.notes);
                    }
                    (state, _) => panic!("{kind:?}: {}: {state:?}", names[index]),
                }
            }
            assert!(destination.query(&format!("select * from {unfit}")).is_empty());
        }
    }
}

#[test]
fn a_table_without_a_key_needs_one_to_be_named() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for kind in BOTH {
        let table = format!("keyless_{kind:?}").to_lowercase();
        let mut conn = create(server, "commerce", &table);
        conn.query_drop(format!("alter table {table} drop primary key")).unwrap();
        insert(&mut conn, &table, 0..10, 0);
        let destination = Destination::new(kind);
        let options = IngestOptions::new().with_tables([&table]);
        let error = destination.capture(&server.cdc_uri("commerce"), &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema);
        assert!(error.to_string().contains("--primary-key") && error.to_string().contains(&table), "{error}");
        let keyed = options.clone().with_primary_key(["id"]);
        destination.capture_all(&server.cdc_uri("commerce"), &keyed);
        conn.query_drop(format!("delete from {table} where id = 3")).unwrap();
        conn.query_drop(format!("update {table} set id = 300 where id = 4")).unwrap();
        destination.capture_all(&server.cdc_uri("commerce"), &keyed);
        destination.assert_equals(&mut conn, &table);
        let error = destination.capture(&server.cdc_uri("commerce"), &options.with_primary_key(["nope"])).unwrap_err();
        assert!(error.to_string().contains("nope"), "{error}");
    }
}

#[test]
fn unknown_tables_and_keyspaces_are_named() {
    let server = vitess();
    let source = Source::open(&server.cdc_uri("commerce")).unwrap();
    let destination = Destination::new(Kind::Sqlite);
    let mut sink = Sink::open(&destination.uri()).unwrap();
    let error = ingest(&source, &mut sink, &IngestOptions::new().with_tables(["no_such_table"])).unwrap_err();
    assert_eq!((error.kind(), error.table()), (ErrorKind::Schema, Some("no_such_table")));
    let error = error_of(&server.cdc_uri("no_such_keyspace"));
    assert!(error.to_string().contains("no_such_keyspace"), "{error:?}");
}
