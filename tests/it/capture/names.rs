//! Names of tables and columns, whatever MySQL allows in them.

use mysql::Conn;
use mysql::prelude::Queryable;
use planetscale_ingest::{ErrorKind, IngestOptions, TableName, TableState};

use super::fixture::{BOTH, Destination, Kind, binary_logs_stay};
use crate::support::names::{NAMES, at_source, columns, create, in_commerce, in_mysql, in_sql};
use crate::support::servers::vitess;

fn at(destination: &Destination, table: &str) -> Vec<Vec<String>> {
    let columns: Vec<String> = columns(table).into_iter().map(in_sql).collect();
    let sql = format!("select {} from {} where not _cdc_deleted order by 1", columns.join(", "), in_sql(table));
    destination.query(&sql).into_iter().map(|row| row.into_iter().map(Option::unwrap).collect()).collect()
}

fn connected() -> Conn {
    let mut conn = vitess().conn();
    conn.query_drop("use commerce").unwrap();
    conn
}

/// The tables that a destination has.
fn tables(destination: &Destination) -> Vec<String> {
    let sql = match destination.kind {
        Kind::Sqlite => "select name from sqlite_schema where type = 'table' order by 1",
        Kind::DuckDb => "select table_name from duckdb_tables() order by 1",
    };
    destination.query(sql).into_iter().flatten().map(Option::unwrap).collect()
}

#[test]
fn tables_and_columns_may_be_called_whatever_the_source_allows() {
    let (_logs, _names) = (binary_logs_stay(), in_commerce());
    let mut conn = connected();
    NAMES.iter().for_each(|name| create(&mut conn, name));
    let destinations = BOTH.map(Destination::new);
    let options = IngestOptions::new().with_tables(NAMES);
    let compare = |conn: &mut Conn, destinations: &[Destination; 2]| {
        std::thread::scope(|scope| {
            for destination in destinations {
                scope.spawn(|| destination.capture_all(&vitess().cdc_uri("commerce"), &options));
            }
        });
        for name in NAMES {
            let expected = at_source(conn, name);
            for destination in destinations {
                assert_eq!(at(destination, name), expected, "{:?} {name:?}", destination.kind);
            }
        }
    };
    compare(&mut conn, &destinations);
    for name in NAMES {
        let (table, columns) = (in_mysql(name), columns(name));
        let [key, other] = [columns[0], columns[1]].map(in_mysql);
        for sql in [
            format!("update {table} set {other} = 77 where {key} = 10"),
            format!("update {table} set {key} = 30 where {key} = 20"),
            format!("insert into {table} select {} from {table} where {key} = 10", {
                let others: Vec<String> = columns[1..].iter().map(|column| in_mysql(column)).collect();
                format!("40, {}", others.join(", "))
            }),
        ] {
            conn.query_drop(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }
    compare(&mut conn, &destinations);
    for name in NAMES {
        conn.query_drop(format!("delete from {} where {} = 40", in_mysql(name), in_mysql(columns(name)[0]))).unwrap();
    }
    compare(&mut conn, &destinations);
    // Statements, too, are known by the name.
    for name in NAMES {
        conn.query_drop(format!("truncate table {}", in_mysql(name))).unwrap();
    }
    compare(&mut conn, &destinations);
    for name in NAMES {
        conn.query_drop(format!("drop table {}", in_mysql(name))).unwrap();
    }
}

#[test]
fn a_table_whose_name_cannot_be_taken_fails_alone_before_anything_is_written() {
    let (_logs, _names) = (binary_logs_stay(), in_commerce());
    let mut conn = connected();
    let refused = ["back`tick", "/slash", "_ingest_keys", "_INGEST_new_plain_name", "sqlite_x", "SQLite_y"];
    let names: Vec<&str> = refused.into_iter().chain(["plain_name"]).collect();
    names.iter().for_each(|name| create(&mut conn, name));
    for kind in BOTH {
        let destination = Destination::new(kind);
        let uri = vitess().cdc_uri("commerce");
        let report = destination.capture(&uri, &IngestOptions::new().with_tables(names.clone())).unwrap();
        for table in &report.tables {
            let is_taken = table.source == "plain_name" || kind == Kind::DuckDb && table.source.to_lowercase().starts_with("sqlite");
            let said = matches!(&table.state, TableState::Failed { error } if error.contains(&table.source));
            assert_eq!((table.state == TableState::Complete, said), (is_taken, !is_taken), "{kind:?} {table:?}");
        }
        assert!(!tables(&destination).iter().any(|table| refused[..4].contains(&table.as_str())), "{:?}", tables(&destination));
        // Under another name those go that only the destination would not take.
        for name in refused.into_iter().skip(2) {
            let options = IngestOptions::new().with_tables([name]).with_dest_table(TableName::new(format!("other {name}")));
            destination.capture_all(&uri, &options);
            let found = destination.cell(&format!("select count(*) from \"other {name}\""));
            assert_eq!(found.as_deref(), Some("2"));
        }
        let error = destination.capture(&uri, &IngestOptions::new().with_tables(["_ingest_keys"])).unwrap_err();
        assert_eq!((error.kind(), error.table()), (ErrorKind::Unsupported, Some("_ingest_keys")));
    }
    names.iter().for_each(|name| conn.query_drop(format!("drop table {}", in_mysql(name))).unwrap());
}

#[test]
fn tables_whose_names_a_destination_does_not_tell_apart_are_refused_by_both_names() {
    let _logs = binary_logs_stay();
    let mut conn = connected();
    let names = ["Case_Name", "case_name"];
    names.iter().for_each(|name| create(&mut conn, name));
    conn.query_drop("delete from case_name where rowid = 11").unwrap();
    for kind in BOTH {
        let destination = Destination::new(kind);
        for uri in [vitess().cdc_uri("commerce"), vitess().uri("commerce")] {
            let error = destination.capture(&uri, &IngestOptions::new().with_tables(names)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
            assert!(names.iter().all(|name| error.to_string().contains(&format!("`{name}`"))), "{error}");
        }
        assert_eq!(tables(&destination), [""; 0]);
        for (name, rows) in [("Case_Name", "2"), ("case_name", "1")] {
            let options = IngestOptions::new().with_tables([name]).with_dest_table(TableName::new(format!("one_{rows}")));
            destination.capture_all(&vitess().cdc_uri("commerce"), &options);
            assert_eq!(destination.cell(&format!("select count(*) from one_{rows}")).as_deref(), Some(rows), "{name}");
        }
    }
    conn.query_drop("drop table Case_Name, case_name").unwrap();
}

#[test]
fn a_dot_in_a_name_is_not_a_schema() {
    let _logs = binary_logs_stay();
    let mut conn = connected();
    let names = ["dot.ted", "ted"];
    names.iter().for_each(|name| create(&mut conn, name));
    let destination = Destination::new(Kind::DuckDb);
    let uri = vitess().cdc_uri("commerce");
    for step in 0..3 {
        for (name, schema) in [("dot.ted", None), ("ted", Some("dot"))] {
            conn.query_drop(format!("update {} set rowid = rowid + 100", in_mysql(name))).unwrap();
            let options = IngestOptions::new().with_tables([name]);
            let options = schema.map_or(options.clone(), |schema| options.with_dest_schema(schema));
            let report = destination.capture_all(&uri, &options);
            assert_eq!((report.tables[0].rows_read, &*report.tables[0].notes), (2, &[][..]), "step {step} {name}");
        }
        let sum = |sql: &str| destination.cell(sql);
        assert_eq!(sum("select sum(rowid) from \"dot.ted\""), sum("select sum(rowid) from dot.ted"));
    }
    conn.query_drop("drop table `dot.ted`, ted").unwrap();
}
