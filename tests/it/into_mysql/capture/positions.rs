//! What the next run finds: positions that cannot be read, rows without one, tables that somebody has changed, and other runs.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use planetscale_ingest::ErrorKind;

use super::*;
use crate::capture::fixture::binary_logs_stay;
use crate::support::program;
use crate::support::servers::mysql;

/// A captured table, with changes at the source that the next run is to bring.
fn captured(place: Place, name: &str) -> Captured {
    let mut captured = Captured::new(place, name, 0..20);
    captured.run_all();
    captured.at_source("delete from {t} where id in (3, 4); update {t} set note = 'changed' where id = 7");
    captured.run_all();
    captured.at_source("delete from {t} where id = 5; update {t} set note = 'again' where id in (8, 9)");
    captured
}

/// The run is refused and says why; the destination is as it was, and a full refresh is the way out.
#[track_caller]
fn assert_refused(captured: &mut Captured, expected: &str) {
    let before = captured.content();
    let error = captured.run().unwrap_err();
    let expected = expected.replace("{t}", &captured.copy);
    assert!(matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Position(_)), "{error:?}");
    assert!(error.to_string().contains(&expected), "{}: {error}", captured.place.name);
    assert_eq!(captured.content(), before, "{}", captured.place.name);
    captured.refresh();
    captured.assert_equals();
    captured.run_all();
}

#[test]
fn a_table_that_somebody_has_changed_is_refused() {
    let _logs = binary_logs_stay();
    for place in ALL {
        for (name, statements, expected) in [
            ("emptied", "delete from {t}", "`{t}` holds 0 rows, but held 18 when its position was stored"),
            ("lost", "delete from {t} where id = 11", "`{t}` holds 17 rows, but held 18"),
            ("gained", "insert into {t} (id, name) values (900, 'by hand')", "`{t}` holds 19 rows, but held 18"),
            ("dropped", "alter table {t} drop column note", "column `{t}.note` is gone from the destination"),
            ("retyped", "alter table {t} modify column name varchar(300)", "column `{t}.name` was varchar(200)"),
            ("damaged", "update _ingest_checkpoint set position = concat('x', position) where dest_table = '{t}'", "cannot be read"),
            ("another", "update _ingest_checkpoint set source_table = 'other' where dest_table = '{t}'", "was filled from table `other`"),
        ] {
            let mut captured = captured(place, name);
            captured.there(statements);
            assert_refused(&mut captured, expected);
        }
    }
}

#[test]
fn rows_without_a_position_are_refused_and_rows_with_one_resumed_from() {
    let _logs = binary_logs_stay();
    for place in ALL {
        let mut captured = captured(place, "unplaced");
        captured.there("delete from _ingest_checkpoint where dest_table = '{t}'");
        let report = captured.run_all();
        assert!(report.tables[0].notes[0].starts_with("resumed from the positions of its rows"), "{:?}", report.tables[0].notes);
        captured.assert_equals();
        captured
            .there("delete from _ingest_checkpoint where dest_table = '{t}'; update {t} set _cdc_lsn = concat(left(_cdc_lsn, 28), '-')");
        assert_refused(&mut captured, "`{t}` has rows, but no position to resume from");
    }
}

#[test]
fn a_table_that_is_gone_is_copied_anew_with_a_note() {
    let _logs = binary_logs_stay();
    for place in ALL {
        let mut captured = captured(place, "gone");
        captured.there("drop table {t}");
        let report = captured.run_all();
        assert!(report.tables[0].notes[0].starts_with("copied anew"), "{:?}", report.tables[0].notes);
        captured.assert_equals();
    }
}

#[test]
fn a_second_run_into_a_table_is_refused_as_long_as_the_first_lives() {
    let _logs = binary_logs_stay();
    for place in ALL {
        let mut captured = Captured::new(place, "second", 0..10);
        let source = format!("{}&mode=stream", vitess().cdc_uri("commerce"));
        let first = Command::new(program("ingest"))
            .args(["--source-uri", &source, "--dest-uri", &place.uri(), "--source-table", &captured.table])
            .args(["--dest-table", &captured.copy, "--progress", "off"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut first = Running(first.unwrap());
        let until = Instant::now() + Duration::from_secs(60);
        let copy = captured.copy.clone();
        let position = format!("select live_rows from _ingest_checkpoint where dest_table = '{copy}' and position like 'copied%'");
        // The run may be the first that makes the table of checkpoints.
        while captured.there.query_first::<Option<u64>, _>(&position).ok().flatten().flatten() != Some(10) {
            assert!(Instant::now() < until && first.0.try_wait().unwrap().is_none(), "{}", place.name);
            std::thread::sleep(Duration::from_millis(50));
        }
        let before = captured.content();
        let error = captured.run().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
        assert_eq!(captured.content()[0], before[0]);
    }
}

/// A program that ends with the test, whatever comes of that.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_table_with_another_unique_key_or_without_the_sources_is_refused() {
    let _logs = binary_logs_stay();
    let ours = "_cdc_lsn mediumtext collate ascii_bin, _cdc_deleted tinyint(1), _cdc_synced_at datetime(6)";
    for (name, key, expected) in [
        ("no_key", "key (id)", "no primary or unique key of the columns `id`"),
        ("other_key", "primary key (id), unique key by_name (name)", "another unique key, `by_name`"),
    ] {
        let mut captured = Captured::new(PLAIN, name, 0..5);
        let columns = COLUMNS.replace(" primary key", "");
        captured.there(&format!("create table {{t}} ({columns}, {ours}, {key})"));
        let error = captured.run().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn runs_that_begin_at_once_where_nothing_was_captured_make_the_table_of_checkpoints_once() {
    const DATABASE: &str = "into_mysql_first";
    let _logs = binary_logs_stay();
    let mut conn = mysql().conn();
    let names = ["one", "two", "three", "four"].map(|name| format!("into_first_{name}"));
    for name in &names {
        let mut conn = create_with(vitess(), "commerce", name, COLUMNS);
        insert(&mut conn, name, 0..10, 0);
    }
    // Whether two of them meet is a matter of chance.
    for _ in 0..10 {
        run(&mut conn, &format!("drop database if exists {DATABASE}"));
        run(&mut conn, &format!("create database {DATABASE}"));
        std::thread::scope(|scope| {
            let run = |name| {
                let options = IngestOptions::new().with_tables([name]);
                complete(capture(&mysql().uri(DATABASE), &options), PLAIN);
            };
            for name in &names {
                scope.spawn(move || run(name));
            }
        });
        let found = printed(&mut conn, &format!("select dest_table from {DATABASE}._ingest_checkpoint order by 1"));
        assert_eq!(found.len(), names.len(), "{found:?}");
    }
    run(&mut conn, &format!("drop database {DATABASE}"));
}
