//! Tables that somebody else has made at the destination, or altered there, in ways that a run has to follow or to refuse.

use planetscale_ingest::{IngestOptions, Sink, Source, Strategy, TableReport, TableState, ingest};

use super::{Rows, by, counts};
use crate::support::files::{Files, sqlite_rows};

/// A file of SQLite as the source, and the destinations that its tables go to.
struct Copy {
    files: Files,
    source: rusqlite::Connection,
}

impl Copy {
    fn new(sql: &str) -> Self {
        let files = Files::new();
        let source = rusqlite::Connection::open(files.folder().join("from.db")).unwrap();
        source.execute_batch(sql).unwrap();
        Self { files, source }
    }

    fn report(&self, uri: &str, options: &IngestOptions) -> TableReport {
        let source = Source::open(&format!("sqlite://{}", self.files.folder().join("from.db").display())).unwrap();
        ingest(&source, &mut Sink::open(uri).unwrap(), options).unwrap().tables.remove(0)
    }

    /// A run for each destination.
    fn run(&self, options: &IngestOptions) -> Vec<TableReport> {
        let reports: Vec<TableReport> = self.files.uris().iter().map(|uri| self.report(uri, options)).collect();
        reports.iter().for_each(|report| assert_eq!(report.state, TableState::Complete));
        reports
    }

    fn in_sqlite(&self, sql: &str) {
        rusqlite::Connection::open(self.files.sqlite()).unwrap().execute_batch(sql).unwrap();
    }

    fn in_duckdb(&self, sql: &str) {
        duckdb::Connection::open(self.files.duckdb()).unwrap().execute_batch(sql).unwrap();
    }
}

fn rows(rows: &[&[&str]]) -> Rows {
    rows.iter().map(|row| row.iter().map(|cell| Some((*cell).to_owned())).collect()).collect()
}

#[test]
fn rows_that_a_table_ignores_or_replaces_are_an_error() {
    let copy = Copy::new("create table t (id integer primary key, note text); insert into t values (1, 'x'), (2, 'same'), (3, 'same')");
    let strategies = [Strategy::Append, Strategy::Merge, Strategy::DeleteInsert, Strategy::TruncateInsert];
    for (table, expected) in [
        ("create table t (id INTEGER, note TEXT unique on conflict ignore)", Some("ignores rows")),
        ("create table t (id INTEGER, note TEXT unique on/**/conflict -- or not\n Replace)", Some("replaces rows")),
        ("create table t (id INTEGER, note TEXT, unique (note) ON CONFLICT REPLACE)", Some("replaces rows")),
        (
            "create table t (id INTEGER, note TEXT);
             create trigger keeps before insert on t when new.note = 'same' begin select raise(ignore); end",
            Some("ignores rows"),
        ),
        ("create table t (id INTEGER, note TEXT default 'on conflict replace', [on conflict replace] TEXT) -- on conflict replace", None),
    ] {
        copy.in_sqlite(&format!("drop table if exists t; {table}; insert into t (id, note) values (9, 'there')"));
        for strategy in strategies {
            let options = match strategy {
                Strategy::DeleteInsert => by(strategy).with_incremental_key("id").with_interval_start("1").with_interval_end("3"),
                _ => by(strategy),
            };
            let report = copy.report(&copy.files.uris()[0], &options);
            match (expected, &report.state) {
                (None, TableState::Complete) => {}
                (Some(expected), TableState::Failed { error }) => {
                    assert!(error.contains("`t`") && error.contains(expected) && !error.contains("same"), "{strategy}: {error}");
                    assert_eq!(sqlite_rows(&copy.files.sqlite(), "select id, note from t"), rows(&[&["9", "there"]]), "{strategy}");
                }
                (_, state) => panic!("{table}: {strategy}: {state:?}"),
            }
        }
    }
}

#[test]
fn text_is_compared_by_its_bytes_whatever_collation_somebody_has_declared() {
    for collation in ["nocase", "rtrim"] {
        // A letter of the other case, or a blank at the end, makes another text.
        let other = |text: &str| if collation == "nocase" { text.to_uppercase() } else { format!("{text} ") };
        let (a, b) = (other("a"), other("b"));
        let copy = Copy::new(&format!(
            "create table one (k text primary key, note text); insert into one values ('a', 'new');
             create table two (n integer, k text, note text, primary key (k, n)); insert into two values (1, 'a', 'new');
             create table top (k text, note text); insert into top values ('a', 'new'), ('{a}', 'new'), ('{b}', 'new'), ('b', 'new')"
        ));
        let stored = [
            format!("one values ('{a}', 'old', 'own'), ('a', 'old', 'mine'), ('{b}', 'old', 'own'), ('c', 'old', 'own')"),
            format!("two values (1, '{a}', 'old'), (1, 'a', 'old'), (2, 'a', 'old')"),
            format!("top values ('a', 'old'), ('{}', 'old')", if collation == "nocase" { "B" } else { "A " }),
        ];
        let make = |integer: &str, text: &str, collation: &str| {
            let tables = ["one", "two", "top"].map(|table| format!("drop table if exists {table};")).concat();
            let inserts: Vec<String> = stored.iter().map(|stored| format!("insert into {stored};")).collect();
            format!(
                "{tables} create table one (k {text} collate {collation}, note {text}, extra {text});
                 create table two (n {integer}, k {text} collate {collation}, note {text});
                 create table top (k {text} collate {collation}, note {text}); {}",
                inserts.concat()
            )
        };
        let begin = || {
            copy.in_sqlite(&make("INTEGER", "TEXT", collation));
            // DuckDB has none that leaves blanks out of account.
            copy.in_duckdb(&make("BIGINT", "VARCHAR", "nocase"));
        };
        let check = |sql: &str, expected: &[&[&str]]| {
            let mut expected = rows(expected);
            expected.sort();
            for mut found in copy.files.each(sql) {
                found.sort();
                assert_eq!(found, expected, "{collation}: {sql}");
            }
        };
        begin();
        for report in copy.run(&by(Strategy::Merge).with_tables(["one"])) {
            assert_eq!(counts(&report), (0, 1, 0), "{collation}");
        }
        check("select k, note, extra from one", &[&[&a, "old", "own"], &["a", "new", "mine"], &[&b, "old", "own"], &["c", "old", "own"]]);
        for report in copy.run(&by(Strategy::Merge).with_tables(["two"])) {
            assert_eq!(counts(&report), (0, 1, 0), "{collation}");
        }
        check("select n, k, note from two", &[&["1", &a, "old"], &["1", "a", "new"], &["2", "a", "old"]]);

        begin();
        let options = by(Strategy::DeleteInsert).with_tables(["one"]).with_incremental_key("k");
        for report in copy.run(&options.clone().with_interval_start("a").with_interval_end("a")) {
            assert_eq!(counts(&report), (1, 0, 1), "{collation}");
        }
        check("select k, note from one", &[&[&a, "old"], &["a", "new"], &[&b, "old"], &["c", "old"]]);

        if collation == "nocase" {
            // The greatest is `a`, and only `b` lies behind it.
            for report in copy.run(&by(Strategy::Append).with_tables(["top"]).with_incremental_key("k")) {
                assert_eq!(counts(&report), (1, 0, 0), "{collation}");
            }
            check("select k, note from top", &[&["a", "old"], &["B", "old"], &["b", "new"]]);
        }
    }
}

#[test]
fn columns_of_any_type_that_only_the_destination_has_keep_their_values_in_a_merge() {
    let copy = Copy::new("create table t (id integer primary key, note text); insert into t values (1, 'x'), (2, 'y')");
    copy.run(&by(Strategy::Merge));
    copy.in_sqlite("drop table t; create table t (id INTEGER, note TEXT, made DATETIME, name VARCHAR(9), n DECIMAL(9, 2), anything)");
    copy.in_sqlite("insert into t values (1, 'old', '2024-01-01', 7, '1.50', x'00'), (3, 'old', 5, 'ü', 2, 1.5)");
    copy.in_duckdb("alter table t add column made timestamp; update t set made = '2024-01-01' where id = 1");
    copy.source.execute_batch("update t set note = 'new'").unwrap();
    let of_old = "select id, note, made, name, typeof(name), n, typeof(n), hex(anything), typeof(anything) from t order by id";
    copy.run(&by(Strategy::Merge));
    let found = sqlite_rows(&copy.files.sqlite(), of_old);
    assert_eq!(
        [&found[0], &found[2]].map(|row| row.iter().map(|cell| cell.as_deref().unwrap_or("NULL")).collect::<Vec<_>>()),
        [
            vec!["1", "new", "2024-01-01", "7", "text", "1.5", "real", "00", "blob"],
            vec!["3", "old", "5", "ü", "text", "2", "integer", "312E35", "real"]
        ]
    );
    assert_eq!(found[1][1..4], [Some("new".to_owned()), None, None]);
}

#[cfg(feature = "vstream")]
#[test]
fn capture_tells_keys_apart_by_their_bytes_whatever_collation_somebody_has_declared() {
    use crate::vtgate::shop::Shop;
    for hard in [false, true] {
        let (shop, files) = (Shop::start(), Files::new());
        let options = IngestOptions::new().with_tables(["products"]).with_hard_delete(hard);
        for uri in files.uris() {
            let source = Source::open(&shop.cdc_uri()).unwrap();
            super::complete(ingest(&source, &mut Sink::open(&uri).unwrap(), &options).unwrap());
        }
        let again = |declared: &str| {
            format!(
                "create table before as select * from products; drop table products; create table products ({declared});
                 insert into products select * from before; drop table before"
            )
        };
        let sqlite =
            "sku TEXT COLLATE NOCASE, name TEXT, price TEXT, stock INTEGER, _cdc_lsn TEXT, _cdc_deleted INTEGER, _cdc_synced_at TEXT";
        rusqlite::Connection::open(files.sqlite()).unwrap().execute_batch(&again(sqlite)).unwrap();
        let duckdb = "sku varchar collate nocase, name varchar, price decimal(8,2), stock integer, _cdc_lsn varchar, _cdc_deleted boolean, \
                      _cdc_synced_at timestamp with time zone";
        duckdb::Connection::open(files.duckdb()).unwrap().execute_batch(&again(duckdb)).unwrap();
        for (key, other) in [("TEA-1", "tea-1"), ("POT-1", "pot-1")] {
            shop.commit(|shop| shop.insert("products", [("sku", other), ("price", "1.00"), ("stock", "1")]));
            shop.commit(|shop| shop.update("products", key, "stock", "77"));
        }
        shop.commit(|shop| shop.delete("products", "tea-1"));
        let next = || {
            for uri in files.uris() {
                let source = Source::open(&shop.cdc_uri()).unwrap();
                super::complete(ingest(&source, &mut Sink::open(&uri).unwrap(), &options).unwrap());
            }
        };
        next();
        // It lies behind all others by its bytes, and before them as a word.
        shop.commit(|shop| shop.update("products", "pot-1", "stock", "2"));
        next();
        for mut found in files.each("select sku || ' ' || stock from products where not _cdc_deleted") {
            found.sort();
            assert_eq!(found, rows(&[&["POT-1 77"], &["TEA-1 77"], &["TEA-2 80"], &["pot-1 2"]]), "{hard}");
        }
    }
}
