//! SQLite files as sources.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use planetscale_ingest::{
    Cancel, ErrorKind, IngestOptions, MalformedText, Sink, Source, SourceOptions, TableState, ValueChange, ValueRef, ZeroDates, ingest,
};
use rusqlite::Connection;

use super::{moved, read, refused, types, uri};

fn file(folder: &Path, sql: &str) -> std::path::PathBuf {
    let path = folder.join("source.db");
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    path
}

fn source(path: &Path) -> Source {
    Source::open(&uri("sqlite", path)).unwrap()
}

/// What SQLite itself prints of a table, but floating-point numbers, which it rounds.
fn printed(path: &Path, sql: &str) -> Vec<Vec<Option<String>>> {
    let connection = Connection::open(path).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| {
        (0..columns)
            .map(|column| {
                Ok(match row.get_ref(column)? {
                    rusqlite::types::ValueRef::Null => None,
                    rusqlite::types::ValueRef::Integer(number) => Some(number.to_string()),
                    rusqlite::types::ValueRef::Real(number) => Some(number.to_string()),
                    rusqlite::types::ValueRef::Text(text) => Some(String::from_utf8(text.to_vec()).unwrap()),
                    rusqlite::types::ValueRef::Blob(bytes) => {
                        Some(format!("0x{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
                    }
                })
            })
            .collect()
    });
    rows.unwrap().map(Result::unwrap).collect()
}

#[test]
fn every_declared_type_gives_the_values_that_sqlite_prints() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(
        folder.path(),
        "create table t (id integer primary key, i int, big unsigned big int, r real, d double, t text, v varchar(3), b blob, j json,
             dec decimal(20,4), day date, at datetime, ts timestamp(3), clock time, flag boolean, untyped, num numeric,
             half as (i / 2) virtual, twice as (r * 2) stored, \"odd \"\"name\" text not null);
         insert into t (id, i, big, r, d, t, v, b, j, dec, day, at, ts, clock, flag, untyped, num, \"odd \"\"name\") values
             (1, -9223372036854775808, 9223372036854775807, 0.1, -1e308, 'ü', 'longer', x'00ff', '{\"a\": [1, null]}', 1.5, '2024-02-29',
              '2024-02-29 01:02:03.000004', '9999-12-31 23:59:59.999', '-838:59:59', 1, 'text', 7, ''),
             (2, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, 'x'),
             (-5, 0, -1, 3.0, 5e-324, '', '', x'', '[]', 9999999999999999, '0001-01-01', '2024-02-29', '1000-01-01 00:00:00', '00:00:00', 0, 12, 1.25, ' ');
         insert into t (id, i, \"odd \"\"name\")
             select value, (value * 7919) % 65537 - 32768, 'row ' || value from (with recursive c(value) as (select 10 union all select value + 1 from c where value < 3000) select value from c);",
    );
    let source = source(&path);
    let table = source.table("t").unwrap();
    assert_eq!(table.primary_key(), [0]);
    let nullable: Vec<&str> = table.columns().iter().filter(|column| !column.is_nullable()).map(|column| column.name()).collect();
    assert_eq!(nullable, ["id", "odd \"name"]);
    let generated: Vec<&str> = table.columns().iter().filter(|column| column.is_generated()).map(|column| column.name()).collect();
    assert_eq!(generated, ["half", "twice"]);
    let types = types(&source, "t");
    for (column, expected) in [
        ("id", "bigint"),
        ("big", "bigint"),
        ("r", "double"),
        ("v", "text"),
        ("b", "blob"),
        ("j", "json"),
        ("dec", "decimal(20,4)"),
        ("day", "date"),
        ("at", "datetime(6)"),
        ("ts", "datetime(6)"),
        ("clock", "time(6)"),
        ("flag", "boolean"),
        ("untyped", "text"),
        ("num", "text"),
        ("half", "text"),
    ] {
        assert_eq!(types[column], expected, "{column}");
    }
    let expected = printed(
        &path,
        "select id, i, big, r, d, t, v, b, j, case typeof(dec) when 'integer' then dec || '.0000' when 'real' then printf('%.4f', dec) end, day,
             case length(at) when 10 then at || ' 00:00:00.000000' else at end, substr(ts || case length(ts) when 19 then '.' else '' end || '000000', 1, 26),
             clock || '.000000', case flag when 1 then 'true' when 0 then 'false' end, untyped, case when num = 1.25 then '1.25' else cast(num as text) end,
             half, case when twice = 0.2 then '0.2' else cast(twice as text) end, \"odd \"\"name\" from t",
    );
    assert_eq!((expected.len(), read(&source, "t").len()), (2994, 2994));
    for (found, expected) in read(&source, "t").into_iter().zip(expected) {
        assert_eq!(found, expected);
    }
}

#[test]
fn strict_tables_and_those_that_hold_nothing_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(
        folder.path(),
        "create table s (a int, b integer, c real, d text, e blob, f any, primary key (d, a)) strict, without rowid;
         insert into s values (1, 2, 3, 'four', x'05', 6), (1, null, null, 'none', null, 'any'), (2, 1, 1e300, 'x', x'', 0.5);
         create table seq (id integer primary key autoincrement); insert into seq default values;
         create view v as select * from s;
         create virtual table words using fts5(word);
         create table _ingest_checkpoint (x);",
    );
    let source = source(&path);
    let names: Vec<String> = source.tables().unwrap().iter().map(|table| table.name().to_owned()).collect();
    assert_eq!(names, ["s", "seq"]);
    let table = source.table("s").unwrap();
    assert_eq!(table.primary_key(), [3, 0]);
    assert_eq!(read(&source, "s"), printed(&path, "select a, b, c, d, e, case f when 6 then '6' when 0.5 then '0.5' else f end from s"));
    for name in ["v", "words", "S", "sqlite_sequence", "main.s", ""] {
        let error = source.table(name).unwrap_err();
        assert_eq!((error.kind(), error.table()), (ErrorKind::Schema, Some(name)));
    }
}

#[test]
fn values_that_are_none_of_their_type_are_refused_by_table_and_column() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(
        folder.path(),
        "create table i (v integer); insert into i values (1), ('secret');
         create table d (v datetime); insert into d values (1700000000);
         create table z (v datetime); insert into z values ('2024-01-01T00:00:00+02:00');
         create table j (v json); insert into j values ('[1]'), ('secret');
         create table b (v boolean); insert into b values (2);
         create table n (v decimal(4,2)); insert into n values (1.125);
         create table t (v text); insert into t values (x'00');
         create table f (v real); insert into f values (9e999);
         create table u (v text); insert into u values (cast(x'61ff' as text));",
    );
    let plain = source(&path);
    for table in ["i", "d", "z", "j", "b", "n", "t", "f", "u"] {
        let error = refused(&plain, table);
        assert_eq!((error.kind(), error.table(), error.column()), (ErrorKind::Decode, Some(table), Some("v")), "{error}");
        assert!(!format!("{error:#}").contains("secret"), "{error:#}");
    }
    let text = Source::open(&format!("{}?types=text", uri("sqlite", &path))).unwrap();
    for (table, expected) in [("i", "secret"), ("d", "1700000000"), ("z", "2024-01-01T00:00:00+02:00"), ("b", "2"), ("n", "1.125")] {
        assert_eq!(read(&text, table).pop().unwrap(), [Some(expected.to_owned())]);
    }
    let table = Arc::new(plain.table("u").unwrap());
    let only = |policy: MalformedText| plain.rows_with(Arc::clone(&table), policy).unwrap().next().unwrap().unwrap();
    assert_eq!(only(MalformedText::Replace).value(0, 0), ValueRef::Text("a\u{fffd}"));
    assert_eq!(only(MalformedText::Bytes).value(0, 0), ValueRef::Bytes(&[0x61, 0xff]));
}

#[test]
fn files_that_are_none_are_refused_and_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.db");
    let error = Source::open(&uri("sqlite", &missing)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Source);
    assert!(error.to_string().contains("it is not there"), "{error}");
    assert!(!missing.exists());
    let text = folder.path().join("text.db");
    std::fs::write(&text, "not a database, but long enough to look like one ".repeat(100)).unwrap();
    let error = Source::open(&uri("sqlite", &text)).unwrap_err();
    assert!(error.to_string().contains("it is not an SQLite database"), "{error}");
    let error = Source::open(&uri("sqlite", folder.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Source, "{error}");
}

#[test]
fn a_locked_file_is_waited_for_and_the_wait_can_be_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "create table t (a integer primary key); insert into t values (1)");
    let options = SourceOptions::sqlite(&path).with_busy_timeout(Duration::from_millis(100));
    let open = Source::open_with(&options).unwrap();
    let writer = Connection::open(&path).unwrap();
    writer.execute_batch("begin exclusive; insert into t values (2)").unwrap();
    let error = open.table("t").unwrap_err();
    assert!(error.to_string().contains("another connection holds it locked"), "{error}");

    let cancel = Cancel::new();
    let patient = options.clone().with_busy_timeout(Duration::from_secs(3600));
    let began = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| Source::open_unless(&patient, &cancel).map(drop));
        std::thread::sleep(Duration::from_millis(50));
        cancel.cancel();
        let began = Instant::now();
        assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        began
    });
    assert!(began.elapsed() < Duration::from_secs(1));

    let rows = std::thread::scope(|scope| {
        let reading = scope.spawn(|| Source::open_with(&patient).map(|source| read(&source, "t")));
        std::thread::sleep(Duration::from_millis(50));
        writer.execute_batch("commit").unwrap();
        reading.join().unwrap().unwrap()
    });
    assert_eq!(rows.len(), 2);
}

#[test]
fn dates_beyond_mysql_follow_the_policy_and_a_changed_table_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path =
        file(folder.path(), "create table t (id integer primary key, day date, old text); insert into t values (1, '2024-02-30', 'x')");
    let destination = uri("sqlite", &folder.path().join("copy.db"));
    // Only as text something that is no date has a place.
    let report = moved(&uri("sqlite", &path), &destination, &IngestOptions::new().with_zero_dates(ZeroDates::Text));
    assert!(report.tables[0].changed_values.is_empty());
    assert_eq!(printed(&folder.path().join("copy.db"), "select day from t"), [[Some("2024-02-30".to_owned())]]);

    let duckdb = uri("duckdb", &folder.path().join("copy.duckdb"));
    let report = moved(&uri("sqlite", &path), &duckdb, &IngestOptions::new());
    assert_eq!(report.tables[0].changed_values[0].change, ValueChange::ZeroDateToNull);

    let source = source(&path);
    let table = Arc::new(source.table("t").unwrap());
    Connection::open(&path).unwrap().execute_batch("alter table t drop column old").unwrap();
    let error = source.rows_of(table).unwrap_err();
    assert_eq!((error.kind(), error.column()), (ErrorKind::Schema, Some("old")), "{error}");
}

#[test]
fn a_copy_that_is_cancelled_or_dropped_ends_its_thread() {
    const NAME: &str = "sources::sqlite::a_copy_that_is_cancelled_or_dropped_ends_its_thread";
    if !crate::support::alone::is_alone(NAME) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = file(
        folder.path(),
        "create table t (a text);
         with recursive c(v) as (select 1 union all select v + 1 from c where v < 40000) insert into t select printf('%3000d', v) from c;",
    );
    let threads = crate::support::alone::thread_count();
    let source = source(&path);
    let mut rows = source.rows("t").unwrap();
    assert!(rows.next().unwrap().is_ok());
    drop(rows);
    crate::support::alone::wait_for_threads_to_end(threads, Duration::from_secs(1));

    let cancel = Cancel::new();
    let stop = cancel.clone();
    let options = IngestOptions::new().with_cancel(cancel).with_progress(move |_| stop.cancel());
    let mut sink = Sink::open(&uri("sqlite", &folder.path().join("copy.db"))).unwrap();
    let report = ingest(&source, &mut sink, &options).unwrap();
    assert_eq!(report.tables[0].state, TableState::Partial);
    crate::support::alone::wait_for_threads_to_end(threads, Duration::from_secs(1));
}
