//! What concerns one table alone.

use super::stage::{
    Destination, KEYSPACE, Stage, begin_copy, copy, copy_rows, end_copy, gtid, is_copy, last_pk, renamed, shard, transaction, uri,
};
use crate::vtgate::Ending;
use crate::vtgate::mysql::{Answer, Column};

#[test]
fn a_table_that_is_dropped_while_it_is_copied_ends_alone_and_keeps_its_place() {
    let mut stage = Stage::new(3);
    stage.tables.push(("u", stage.tables[0].1.clone()));
    let server = stage.start(|request, responder| {
        let table = request.message.filter.rules[0].match_.clone();
        if !is_copy(&request.message) {
            responder.send(renamed(transaction(&shard(), &[], 3), &format!("{KEYSPACE}.u")))?;
            responder.stall();
            return Ok(Ending::Ok);
        }
        if table == "u" {
            let named = |events| renamed(events, &format!("{KEYSPACE}.u"));
            responder.send(named(begin_copy(&shard(), 2)))?;
            responder.send(named(copy_rows(&shard(), &[(1, "one")], 2)))?;
            responder.send(named(end_copy(&shard(), 2)))?;
            Ok(Ending::Ok)
        } else {
            responder.send(begin_copy(&shard(), 2))?;
            responder.send(copy_rows(&shard(), &[(1, "one"), (2, "two")], 2))?;
            responder.send([shard().vgtid(&gtid(3)), shard().ddl("drop table t")])?;
            responder.stall();
            Ok(Ending::Ok)
        }
    });
    let destination = Destination::new();
    let report = destination.capture(&uri(&server, "")).unwrap();
    let states: Vec<String> = report.tables.iter().map(|table| format!("{} {:?}", table.source, table.state)).collect();
    assert!(states[0].starts_with("t Failed") && states[0].contains("`t` was dropped at the source by `drop table t`"), "{states:?}");
    assert_eq!(states[1], "u Complete");
    assert_eq!(destination.query("select id, name from t"), ["1 one", "2 two"]);
    assert_eq!(destination.query("select id, name from u"), ["1 one"]);
    // The next run would go on behind the last key, and not take the copy for complete.
    assert!(!destination.capture(&uri(&server, "")).unwrap().is_complete());
    let asked: Vec<Option<i64>> =
        server.requests().iter().filter(|request| is_copy(request)).map(|request| last_pk(request, "0")).collect();
    assert_eq!(asked, [None, None, Some(2)]);
}

#[test]
fn a_foreign_key_whose_changes_are_not_logged_is_told_of() {
    fn answer(statement: &str, variable: Option<&str>) -> Answer {
        let columns = ["a", "b", "c", "d"].map(Column::text);
        if statement.contains("referential_constraints") {
            Answer::rows(
                &columns,
                &[
                    &[Some("t"), Some("up"), Some("SET NULL"), Some("NO ACTION")],
                    &[Some("other"), Some("o"), Some("CASCADE"), Some("CASCADE")],
                ],
            )
        } else if statement.contains("innodb_native_foreign_keys") {
            match variable {
                None => Answer::rows(&columns[..2], &[]),
                value => Answer::rows(&columns[..2], &[&[Some("innodb_native_foreign_keys"), value]]),
            }
        } else {
            Answer::Unscripted
        }
    }
    type Answering = fn(&str) -> Answer;
    let cases: [(Answering, bool); 3] = [
        (|statement| answer(statement, None), true),
        (|statement| answer(statement, Some("ON")), true),
        (|statement| answer(statement, Some("OFF")), false),
    ];
    for (answering, is_told) in cases {
        let server = Stage::new(2).answering(answering).start(|request, responder| {
            if is_copy(&request.message) {
                copy(responder, &[(1, "one")], 2)?;
            }
            responder.stall();
            Ok(Ending::Ok)
        });
        let report = Destination::new().capture_all(&uri(&server, ""));
        let told = report.tables[0].notes.iter().any(|note| note.contains("foreign key `up`") && note.contains("does not log"));
        assert_eq!(told, is_told, "{:?}", report.tables[0].notes);
    }
}
