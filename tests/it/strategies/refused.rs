//! Options, tables and runs that are refused or broken off.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use planetscale_ingest::{ErrorKind, IngestOptions, Sink, Source, Strategy, TableState, ingest};

use super::{Case, by};
use crate::support::files::printed;
use crate::support::program;
use crate::support::servers::mysql;

#[test]
fn options_that_contradict_each_other_are_refused_by_name() {
    let case = Case::new("st_options", "id int primary key, j json, note varchar(9)");
    let source = Source::open(&mysql().uri("commerce")).unwrap();
    for (options, expected) in [
        (IngestOptions::new().with_interval_start("1"), "`interval_start` needs an `incremental_key`"),
        (by(Strategy::Append).with_interval_end("1"), "`interval_end` needs an `incremental_key`"),
        (by(Strategy::DeleteInsert), "`delete+insert` needs an `incremental_key`"),
        (IngestOptions::new().with_incremental_key("id"), "`incremental_key` makes no difference to the strategy `replace`"),
        (by(Strategy::TruncateInsert).with_incremental_key("id"), "no difference to the strategy `truncate+insert`"),
        (by(Strategy::Append).with_hard_delete(true), "`hard_delete` is for change capture"),
    ] {
        for uri in case.files.uris() {
            let error = ingest(&source, &mut Sink::open(&uri).unwrap(), &options.clone().with_tables(["st_options"])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
    for (options, expected) in [
        (by(Strategy::Append).with_incremental_key("nothing"), "table `st_options` has no column `nothing`"),
        (by(Strategy::Append).with_incremental_key("j"), "column `j` is json, whose values have no order"),
        (by(Strategy::Append).with_incremental_key("id").with_interval_start("yesterday"), "`yesterday` is not a whole number"),
        (by(Strategy::Append).with_incremental_key("id").with_interval_end("1.5"), "`interval_end` cannot be taken"),
        (
            by(Strategy::Append).with_incremental_key("id").with_interval_start("2").with_interval_end("1"),
            "`interval_start` lies after `interval_end`",
        ),
    ] {
        for error in case.errors(&options) {
            assert!(error.contains(expected), "{error}");
        }
    }
    assert_eq!(case.files.tables(), [[""; 0], [""; 0]]);
}

#[test]
fn a_table_without_a_key_is_not_merged() {
    let case = Case::new("st_keyless", "a int");
    for error in case.errors(&by(Strategy::Merge)) {
        assert!(error.contains("table `st_keyless` has no primary key to merge by"), "{error}");
    }
}

#[cfg(feature = "vstream")]
#[test]
fn change_capture_takes_none_of_it() {
    let case = Case::new("st_capture", "id int primary key");
    let source = Source::open(&(mysql().cdc_uri("commerce") + "&grpc_port=1")).unwrap();
    for (options, expected) in [
        (IngestOptions::new().with_incremental_key("id"), "`incremental_key` is for whole tables"),
        (IngestOptions::new().with_interval_start("1"), "`interval_start` is for whole tables"),
        (IngestOptions::new().with_interval_end("1"), "`interval_end` is for whole tables"),
        (by(Strategy::DeleteInsert), "the strategy `delete+insert` is for whole tables"),
        (by(Strategy::TruncateInsert), "the strategy `truncate+insert` is for whole tables"),
    ] {
        for uri in case.files.uris() {
            let error = ingest(&source, &mut Sink::open(&uri).unwrap(), &options.clone().with_tables(["st_capture"])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}

#[test]
fn tables_that_differ_are_refused_by_column_and_stay_as_they_were() {
    let mut case = Case::new("st_differs", "id int primary key, note varchar(9)");
    case.sql("insert into st_differs values (1, 'x'), (2, 'y')");
    case.run(&by(Strategy::Replace));
    let before = printed(&mut case.conn, "select id, note from st_differs order by id");
    for (alter, expected) in [
        ("add column more int", "`st_differs` in the destination has no column `more`, which is int at the source"),
        ("drop column more, modify note int unsigned", "column `st_differs.note` is "),
    ] {
        case.sql("delete from st_differs");
        case.sql(&format!("alter table st_differs {alter}"));
        for strategy in [Strategy::Merge, Strategy::DeleteInsert, Strategy::TruncateInsert, Strategy::Append] {
            let options = match strategy {
                Strategy::DeleteInsert => by(strategy).with_incremental_key("id").with_interval_start("0"),
                _ => by(strategy),
            };
            for error in case.errors(&options) {
                assert!(error.contains(expected), "{strategy}: {error}");
            }
            for found in case.files.each("select id, note from st_differs order by id") {
                super::assert_same(strategy.name(), &before, &found);
            }
        }
    }
    // The key itself is of another type there.
    case.sql("alter table st_differs modify id varchar(9), modify note varchar(9)");
    for error in case.errors(&by(Strategy::DeleteInsert).with_incremental_key("id")) {
        assert!(error.contains("column `st_differs.id` is "), "{error}");
    }
}

#[test]
fn values_that_would_be_stored_in_two_forms_are_refused_by_column() {
    let mut case = Case::new("st_forms_differ", "k datetime primary key, d decimal(10,2), seen timestamp null, t time, wide decimal(65,2)");
    let begin = "alter table st_forms_differ modify k datetime, modify d decimal(10,2), modify seen timestamp null, modify t time, modify wide decimal(65,2)";
    case.sql("insert into st_forms_differ values ('2024-01-01', 1.5, '2024-01-01', '01:00:00', 1), ('2024-01-02', null, null, null, null)");
    for (column, other, in_both) in [
        ("k", "datetime(3)", false),
        ("d", "decimal(10,4)", true),
        ("seen", "timestamp(6) null", false),
        ("t", "time(2)", false),
        ("wide", "decimal(65,0)", true),
    ] {
        case.sql(begin);
        case.run(&by(Strategy::Replace));
        case.sql(&format!("alter table st_forms_differ modify {column} {other}"));
        for strategy in [Strategy::Merge, Strategy::DeleteInsert, Strategy::Append] {
            let options = by(strategy).with_incremental_key("k");
            let before = case.files.each("select k, d, seen, t, wide from st_forms_differ order by k");
            let reports = case.reports(&options);
            assert_eq!(case.files.each("select k, d, seen, t, wide from st_forms_differ order by k"), before, "{column} {strategy}");
            for (index, mut report) in reports.into_iter().enumerate() {
                match report.tables.remove(0).state {
                    TableState::Failed { error } => {
                        assert!(index == 0 || in_both, "{column} {strategy}: {error}");
                        assert!(error.contains(&format!("column `st_forms_differ.{column}` ")), "{column} {strategy}: {error}");
                    }
                    state => assert!(index == 1 && !in_both && state == TableState::Complete, "{column} {strategy}: {state:?}"),
                }
            }
        }
        // Nothing of the old form is left then.
        let report = &case.reports(&by(Strategy::TruncateInsert))[0];
        assert!(report.is_complete(), "{column}: {report:?}");
    }
}

#[test]
fn a_value_that_is_refused_undoes_the_run() {
    let mut case = Case::new("st_undone", "id int primary key, day date, u bigint unsigned");
    case.sql("insert into st_undone values (1, '2024-01-01', 1), (2, '2024-01-02', 2)");
    let options =
        IngestOptions::new().with_zero_dates(planetscale_ingest::ZeroDates::Error).with_out_of_range(planetscale_ingest::OutOfRange::Error);
    case.run(&options);
    let before = printed(&mut case.conn, "select id, day, u from st_undone order by id");
    case.sql("insert into st_undone values (3, '0000-00-00', 3)");
    for strategy in [Strategy::Merge, Strategy::DeleteInsert, Strategy::TruncateInsert, Strategy::Append] {
        let options = match strategy {
            Strategy::DeleteInsert => options.clone().with_incremental_key("id").with_interval_start("0"),
            _ => options.clone(),
        };
        for error in case.errors(&options.with_strategy(strategy)) {
            assert!(error.contains("a date has a month or a day that no calendar has"), "{error}");
        }
        for found in case.files.each("select id, day, u from st_undone order by id") {
            super::assert_same(strategy.name(), &before, &found);
        }
    }
}

/// Whatever it has read by then, and even if it has just ended: what is there is the old content or the new one.
#[test]
fn a_killed_run_leaves_the_old_rows_and_the_next_one_brings_the_new() {
    let mut case = Case::new("st_killed", "id bigint primary key, filling varchar(1000), note varchar(9)");
    for start in (0..30_000).step_by(2_000) {
        let rows: Vec<String> = (start..start + 2_000).map(|id| format!("({id}, repeat('x{id}', 100), 'old')")).collect();
        case.sql(&format!("insert into st_killed values {}", rows.join(",")));
    }
    case.run(&by(Strategy::Replace));
    case.sql("update st_killed set note = 'new'");
    let program = program("ingest");
    for strategy in [Strategy::Merge, Strategy::DeleteInsert, Strategy::TruncateInsert] {
        for uri in case.files.uris() {
            let mut arguments = vec!["--source-uri".to_owned(), mysql().uri("commerce"), "--dest-uri".to_owned(), uri];
            arguments.extend(
                ["--source-table", "st_killed", "--progress", "json", "--incremental-strategy", strategy.name()].map(str::to_owned),
            );
            if strategy == Strategy::DeleteInsert {
                arguments.extend(["--incremental-key", "id", "--interval-start", "0"].map(str::to_owned));
            }
            let mut child = Command::new(&program).args(arguments).stderr(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
            assert!(line.contains("\"rows\""), "{line}");
            child.kill().unwrap();
            child.wait().unwrap();
        }
        for found in case.files.each("select count(*), count(distinct note), count(distinct id) from st_killed") {
            assert_eq!(found, [[Some("30000".to_owned()), Some("1".to_owned()), Some("30000".to_owned())]], "{strategy}");
        }
        let options = by(strategy);
        case.run(&if strategy == Strategy::DeleteInsert { options.with_incremental_key("id").with_interval_start("0") } else { options });
        case.check_all("id, note, filling");
        assert_eq!(case.files.tables(), [["st_killed"], ["st_killed"]], "{strategy}");
        case.sql("update st_killed set note = concat('new', ascii(note))");
    }
    assert!(matches!(case.reports(&IngestOptions::new())[0].tables[0].state, TableState::Complete));
}
