//! Tables that somebody else has changed since a run wrote to them: a position speaks of rows and columns that have to be there.

use std::fs;

use mysql::Conn;
use mysql::prelude::Queryable;
use planetscale_ingest::{Error, ErrorKind, IngestOptions, Report, TableState};

use super::{content, ingest, report, run};
use crate::capture::fixture::{BOTH, Destination, Kind, binary_logs_stay, create, insert};
use crate::support::servers::{Server, once_known, vitess};

/// A captured table, with changes at the source that the next run is to bring.
struct Captured {
    server: &'static Server,
    destination: Destination,
    conn: Conn,
    table: String,
    options: IngestOptions,
}

impl Captured {
    fn new(kind: Kind, name: &str, hard: bool) -> Self {
        let server = vitess();
        let table = format!("altered_{name}_{kind:?}").to_lowercase();
        let mut conn = create(server, "commerce", &table);
        insert(&mut conn, &table, 0..20, 0);
        let destination = Destination::new(kind);
        let options = IngestOptions::new().with_tables([&table]).with_hard_delete(hard);
        let mut captured = Self { server, destination, conn, table, options };
        captured.run().unwrap();
        // A run of changes: the table has rows of the copy, rows of the stream, and rows that are deleted.
        captured.at_source("delete from {t} where id in (3, 4); update {t} set note = 'changed' where id = 7");
        captured.run().unwrap();
        captured.at_source("delete from {t} where id = 5; update {t} set note = 'again' where id in (8, 9)");
        insert(&mut captured.conn, &captured.table, 20..25, 0);
        captured
    }

    fn at_source(&mut self, statements: &str) {
        for statement in statements.split("; ") {
            let sql = statement.replace("{t}", &self.table);
            once_known(&sql, || self.conn.query_drop(&sql));
        }
    }

    fn at_destination(&self, statements: &str) {
        self.destination.execute(&statements.replace("{t}", &self.table));
    }

    fn run(&self) -> Result<Report, Error> {
        self.destination.capture(&self.server.cdc_uri("commerce"), &self.options)
    }

    fn run_with_full_refresh(&self) -> Result<Report, Error> {
        self.destination.capture(&self.server.cdc_uri("commerce"), &self.options.clone().with_full_refresh(true))
    }

    /// The run completes, and the table equals the source; what its report notes.
    #[track_caller]
    fn assert_completed(&mut self) -> Vec<String> {
        let report = self.run().unwrap_or_else(|error| panic!("{:?} {}: {error:?}", self.destination.kind, self.table));
        assert_eq!(report.tables[0].state, TableState::Complete, "{:?} {}", self.destination.kind, self.table);
        self.destination.assert_equals(&mut self.conn, &self.table);
        report.tables[0].notes.clone()
    }

    /// The run is refused and names what is wrong; the destination is as it was; a full refresh is the way out.
    #[track_caller]
    fn assert_refused(&mut self, expected: &str) {
        let context = format!("{:?} {}", self.destination.kind, self.table);
        let before = content(&self.destination);
        let error = self.run().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{context}: {error:?}");
        let expected = expected.replace("{t}", &self.table);
        assert!(error.to_string().contains(&expected), "{context}: {error:?}");
        assert!(error.to_string().contains("rebuild it with full_refresh"), "{context}: {error:?}");
        assert_eq!(content(&self.destination), before, "{context}");
        assert!(self.run_with_full_refresh().unwrap().is_complete(), "{context}");
        self.destination.assert_equals(&mut self.conn, &self.table);
        assert_eq!(self.assert_completed(), [""; 0], "{context}");
    }
}

#[test]
fn a_table_that_lacks_rows_or_has_others_is_refused() {
    let _logs = binary_logs_stay();
    for kind in BOTH {
        for hard in [false, true] {
            for (name, statements, expected) in [
                ("emptied", "delete from {t}", "`{t}` holds 0 rows, but held 18 when its position was stored"),
                ("lost", "delete from {t} where id = 11", "`{t}` holds 17 rows, but held 18"),
                ("gained", "insert into {t} (id, name) values (900, 'by hand')", "`{t}` holds 19 rows, but held 18"),
                (
                    "exchanged",
                    "update {t} set _cdc_lsn = substr(_cdc_lsn, 1, 28) || '-' where id = 7; \
                    update {t} set _cdc_lsn = '00000000000000000001:000001:-' where _cdc_lsn = (select max(_cdc_lsn) from {t} where _cdc_deleted is not true)",
                    "the last change in `{t}` is ",
                ),
            ] {
                let mut captured = Captured::new(kind, &format!("{name}_{hard}"), hard);
                captured.at_destination(statements);
                captured.assert_refused(expected);
            }
        }
    }
}

#[test]
fn rows_of_an_older_copy_of_the_table_are_refused() {
    let _logs = binary_logs_stay();
    for kind in BOTH {
        for hard in [false, true] {
            let mut captured = Captured::new(kind, &format!("older_{hard}"), hard);
            captured.at_destination("create table kept as select * from {t}");
            // As many rows come as go.
            captured.at_source("delete from {t} where id = 20; update {t} set note = 'newer' where id = 0");
            captured.run().unwrap();
            captured.at_source("update {t} set note = 'newest' where id = 1");
            captured.at_destination("delete from {t}; insert into {t} select * from kept; drop table kept");
            captured.assert_refused("`{t}` holds 18 rows, but held 21");
            captured.at_destination("create table kept as select * from {t}");
            captured.at_source("update {t} set note = 'only updates' where id < 3");
            captured.run().unwrap();
            captured.at_destination("delete from {t}; insert into {t} select * from kept; drop table kept");
            captured.assert_refused("the last change in `{t}` is ");
        }
    }
}

#[test]
fn an_older_copy_of_the_whole_file_is_resumed_from() {
    let _logs = binary_logs_stay();
    for kind in BOTH {
        let mut captured = Captured::new(kind, "restored", false);
        let kept = captured.destination.path.with_file_name("kept");
        fs::copy(&captured.destination.path, &kept).unwrap();
        captured.run().unwrap();
        captured.at_source("delete from {t} where id < 2");
        fs::rename(&kept, &captured.destination.path).unwrap();
        captured.assert_completed();
    }
}

#[test]
fn a_table_that_was_dropped_is_copied_anew_and_the_report_says_so() {
    let _logs = binary_logs_stay();
    for kind in BOTH {
        let mut captured = Captured::new(kind, "dropped", false);
        captured.at_destination("drop table {t}");
        let notes = captured.assert_completed();
        assert_eq!(notes, ["copied anew: the destination had a checkpoint of the table, but not the table"]);
        assert_eq!(captured.assert_completed(), [""; 0]);
    }
}

#[test]
fn columns_that_are_gone_or_have_another_type_are_refused() {
    let _logs = binary_logs_stay();
    for kind in BOTH {
        for column in ["note", "_cdc_lsn", "_cdc_deleted", "_cdc_synced_at"] {
            let mut captured = Captured::new(kind, &format!("without_{column}"), false);
            captured.at_destination(&format!("alter table {{t}} drop column {column}"));
            captured.assert_refused(&format!("column `{{t}}.{column}` is gone from the destination"));
        }
        let mut captured = Captured::new(kind, "renamed", false);
        captured.at_destination("alter table {t} rename column name to title");
        captured.assert_refused("column `{t}.name` is gone from the destination");
        let mut captured = Captured::new(kind, "retyped", false);
        let expected = match kind {
            Kind::DuckDb => {
                captured.at_destination("alter table {t} alter column amount type decimal(14,4)");
                "column `{t}.amount` was DECIMAL(12,2) when it was last written, and is DECIMAL(14,4) now"
            }
            // Without a type of columns that can be changed, the table is made once more.
            Kind::Sqlite => {
                captured.at_destination("alter table {t} rename to kept; create table {t} as select * from kept; drop table kept");
                "column `{t}.id` was INTEGER when it was last written, and is INT now"
            }
        };
        captured.assert_refused(expected);
    }
}

#[test]
fn columns_that_somebody_adds_stay_and_break_nothing() {
    let _logs = binary_logs_stay();
    for kind in BOTH {
        let mut captured = Captured::new(kind, "grown", false);
        captured.at_destination("alter table {t} add column remark text default 'by hand'; alter table {t} add column plain integer");
        captured.at_destination("update {t} set plain = id");
        captured.assert_completed();
        // A row that was not written since keeps what it has in them.
        let sql = format!("select remark, plain from {} where id = 11", captured.table);
        assert_eq!(captured.destination.query(&sql), [[Some("by hand".to_owned()), Some("11".to_owned())]]);
        captured.at_destination("alter table {t} drop column plain");
        captured.at_source("update {t} set note = 'later' where id = 11");
        assert_eq!(captured.assert_completed(), [""; 0]);
    }
}

#[test]
fn indexes_that_somebody_adds_break_nothing_unless_they_refuse_a_row() {
    let _logs = binary_logs_stay();
    for kind in BOTH {
        let mut captured = Captured::new(kind, "indexed", false);
        captured.at_destination("create index by_note on {t} (note); create unique index by_name on {t} (name)");
        captured.assert_completed();
        captured.at_source("update {t} set name = 'the same' where id in (6, 7)");
        let before = content(&captured.destination);
        let error = captured.run().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Sink, "{error:?}");
        assert!(error.to_string().contains("a constraint or an index of the table refuses a row"), "{error:?}");
        assert!(!format!("{error:#}").contains("the same"), "{error:?}");
        assert_eq!(content(&captured.destination), before);
        captured.at_destination("drop index by_name");
        captured.assert_completed();
        captured.at_source("alter table {t} add column grade int not null default 7; update {t} set grade = 8 where id = 10");
        captured.assert_completed();
    }
}

#[test]
fn a_new_column_at_the_source_does_not_take_over_one_that_somebody_has_added() {
    let _logs = binary_logs_stay();
    for kind in BOTH {
        let mut captured = Captured::new(kind, "both", false);
        captured.at_destination("alter table {t} add column grade integer; update {t} set grade = 1");
        captured.assert_completed();
        captured.at_source("alter table {t} add column grade int not null default 7; update {t} set grade = 9 where id = 1");
        let before = content(&captured.destination);
        let outcome = captured.run();
        let text = match &outcome {
            Ok(report) => match &report.tables[0].state {
                TableState::Failed { error } => error.clone(),
                state => panic!("{kind:?}: {state:?}"),
            },
            Err(error) => error.to_string(),
        };
        assert!(text.contains("has a new column `grade` at the source, but somebody else has added one of that name"), "{text}");
        let rows = |content: Vec<(String, Vec<Vec<Option<String>>>)>| content.into_iter().find(|(table, _)| *table == captured.table);
        assert_eq!(rows(content(&captured.destination)), rows(before));
        captured.at_destination("alter table {t} rename column grade to own_grade");
        captured.assert_completed();
        let sql = format!("select grade, own_grade from {} where id = 11", captured.table);
        assert_eq!(captured.destination.query(&sql), [[Some("7".to_owned()), Some("1".to_owned())]]);
    }
}

#[test]
fn a_column_that_the_source_drops_and_adds_again_is_a_new_one() {
    let _logs = binary_logs_stay();
    for kind in BOTH {
        let mut captured = Captured::new(kind, "readded", false);
        captured.at_source("alter table {t} add column grade int not null default 1; update {t} set grade = 5 where id < 3");
        captured.assert_completed();
        // A run sees the table without it.
        captured.at_source("alter table {t} drop column grade; update {t} set note = 'without' where id = 9");
        captured.assert_completed();
        captured.at_source("alter table {t} add column grade int not null default 7; update {t} set grade = 8 where id = 10");
        captured.assert_completed();
        let sql = format!("select id, grade from {} order by id", captured.table);
        let expected: Vec<(i64, Option<i64>)> = captured.conn.query(&sql).unwrap();
        let number = |cell: &Option<String>| cell.as_deref().map(|cell| cell.parse::<i64>().unwrap());
        let found = captured.destination.query(&sql.replace("order", "where not _cdc_deleted order"));
        let found: Vec<(i64, Option<i64>)> = found.iter().map(|row| (number(&row[0]).unwrap(), number(&row[1]))).collect();
        assert_eq!(found, expected, "{kind:?}");
    }
}

#[test]
fn rows_that_are_marked_as_deleted_may_be_removed() {
    let _logs = binary_logs_stay();
    for kind in BOTH {
        let mut captured = Captured::new(kind, "purged", false);
        captured.at_destination("delete from {t} where _cdc_deleted");
        captured.assert_completed();
        // A key that was deleted and removed comes back; one that was deleted comes back; one that came back goes.
        captured.at_source("insert into {t} (id, name) values (3, 'back'), (5, 'back')");
        captured.assert_completed();
        captured.at_source("delete from {t} where id in (3, 5, 6)");
        captured.assert_completed();
        captured.at_destination("delete from {t} where _cdc_deleted and id = 3");
        assert_eq!(captured.assert_completed(), [""; 0]);
    }
}

#[test]
fn a_table_without_its_checkpoint_is_resumed_from_its_rows_and_the_report_says_so() {
    let _logs = binary_logs_stay();
    for kind in BOTH {
        for statement in ["delete from _ingest_checkpoint", "drop table _ingest_checkpoint"] {
            let mut captured = Captured::new(kind, &format!("without_{}", &statement[..4]), false);
            captured.at_destination(statement);
            let notes = captured.assert_completed();
            assert_eq!(notes, ["resumed from the positions of its rows: the destination has no checkpoint of it"]);
            assert_eq!(captured.assert_completed(), [""; 0]);
            // What the table holds is known again.
            captured.at_destination("delete from {t} where id = 11");
            captured.assert_refused("`{t}` holds ");
        }
    }
}

#[test]
fn a_table_that_was_emptied_and_lost_its_checkpoint_is_copied() {
    let _logs = binary_logs_stay();
    for kind in BOTH {
        let mut captured = Captured::new(kind, "forgotten", false);
        captured.at_destination("delete from {t}; delete from _ingest_checkpoint");
        captured.assert_completed();
    }
}

#[test]
fn a_table_that_is_empty_at_the_source_is_resumed() {
    let _logs = binary_logs_stay();
    for kind in BOTH {
        for hard in [false, true] {
            let mut captured = Captured::new(kind, &format!("empty_{hard}"), hard);
            captured.at_source("delete from {t}");
            captured.assert_completed();
            assert_eq!(captured.assert_completed(), [""; 0]);
            insert(&mut captured.conn, &captured.table, 0..3, 5);
            assert_eq!(captured.assert_completed(), [""; 0]);
        }
    }
}

#[test]
fn a_table_of_checkpoints_that_was_altered_is_refused_or_completed() {
    let _logs = binary_logs_stay();
    for kind in BOTH {
        for column in ["dest_table", "source_table", "position", "updated_at"] {
            let mut captured = Captured::new(kind, &format!("lacks_{column}"), false);
            captured.at_destination(&format!("alter table _ingest_checkpoint drop column {column}"));
            let before = content_of_table(&captured);
            let error = captured.run().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
            let expected = format!("the table `_ingest_checkpoint` in the destination has no column `{column}`");
            assert!(error.to_string().contains(&expected), "{error:?}");
            assert_eq!(content_of_table(&captured), before);
            // The way out that the error names.
            captured.at_destination("drop table _ingest_checkpoint");
            captured.assert_completed();
        }
        let mut captured = Captured::new(kind, "twice", false);
        captured.at_destination("insert into _ingest_checkpoint select * from _ingest_checkpoint");
        let error = captured.run().unwrap_err();
        assert!(error.to_string().contains("`_ingest_checkpoint` has several rows for"), "{error:?}");
        assert!(captured.run_with_full_refresh().unwrap().is_complete());
        captured.assert_completed();
        // As an earlier version made it.
        let mut captured = Captured::new(kind, "earlier", false);
        for column in ["live_rows", "deleted_rows", "last_lsn", "stored_columns", "written_by"] {
            captured.at_destination(&format!("alter table _ingest_checkpoint drop column {column}"));
        }
        assert_eq!(captured.assert_completed(), [""; 0]);
        captured.at_destination("delete from {t} where id = 11");
        captured.assert_refused("`{t}` holds ");
    }
}

fn content_of_table(captured: &Captured) -> Vec<Vec<Option<String>>> {
    captured.destination.query(&format!("select * from {} order by id", captured.table))
}

#[test]
fn what_is_wrong_with_one_table_does_not_keep_the_others_from_being_captured() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for kind in BOTH {
        let tables = ["sound", "broken"].map(|name| format!("altered_{name}_{kind:?}").to_lowercase());
        let mut conns = tables.each_ref().map(|table| create(server, "commerce", table));
        for (conn, table) in conns.iter_mut().zip(&tables) {
            insert(conn, table, 0..20, 0);
        }
        let destination = Destination::new(kind);
        let source = server.cdc_uri("commerce");
        assert!(run(&ingest(&source, &destination, &tables.join(","))).status.success());
        destination.execute(&format!("delete from {}", tables[1]));
        insert(&mut conns[0], &tables[0], 20..30, 0);
        let output = run(&ingest(&source, &destination, &tables.join(",")));
        let report = report(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{report}");
        assert_eq!(report["state"], "failed");
        assert_eq!(report["tables"][0]["state"], "complete");
        assert_eq!(report["tables"][1]["state"], "failed");
        assert!(report["tables"][1]["error"].as_str().unwrap().contains("holds 0 rows, but held 20"), "{report}");
        destination.assert_equals(&mut conns[0], &tables[0]);
        assert_eq!(destination.rows(&tables[1]).len(), 0);
    }
}
