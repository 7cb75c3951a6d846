//! Tables that somebody else has made at the destination, or altered there, in ways that a run has to follow or to refuse.

use planetscale_ingest::{IngestOptions, Sink, Source, Strategy, TableReport, TableState, ingest};

use super::{Rows, by};
use crate::support::files::{Files, sqlite_rows};

/// A file of SQLite as the source, and the destinations that its tables go to.
struct Copy {
    files: Files,
}

impl Copy {
    fn new(sql: &str) -> Self {
        let files = Files::new();
        let source = rusqlite::Connection::open(files.folder().join("from.db")).unwrap();
        source.execute_batch(sql).unwrap();
        Self { files }
    }

    fn report(&self, uri: &str, options: &IngestOptions) -> TableReport {
        let source = Source::open(&format!("sqlite://{}", self.files.folder().join("from.db").display())).unwrap();
        ingest(&source, &mut Sink::open(uri).unwrap(), options).unwrap().tables.remove(0)
    }

    fn in_sqlite(&self, sql: &str) {
        rusqlite::Connection::open(self.files.sqlite()).unwrap().execute_batch(sql).unwrap();
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
