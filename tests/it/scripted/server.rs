//! Rows that come in part, into a server.

use std::sync::Arc;

use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, Result, Sink, Source, TableState, ingest};

use super::stage::{KEYSPACE, Stage, copied, gtid, is_copy, uri};
use crate::support::servers::mysql;
use crate::vtgate::Ending;
use crate::vtgate::events::{Shard, bitmap, column, key, row};
use crate::vtgate::proto::{Field, RowChange, VEvent};

const COLUMNS: [(&str, &str); 3] = [("id", "bigint"), ("name", "varchar(20)"), ("note", "text")];

fn fields() -> Vec<Field> {
    COLUMNS.iter().enumerate().map(|(at, (name, of))| if at == 0 { key(name, of) } else { column(name, of) }).collect()
}

/// A row whose text is left out, since it stays as it was.
fn part(shard: &Shard, id: &str, name: &str) -> VEvent {
    let image = Some(row(&[Some(id), Some(name), None]));
    let change = RowChange {
        before: image.clone().into(),
        after: image.into(),
        data_columns: Some(bitmap(&[true, true, false])).into(),
        ..Default::default()
    };
    shard.rows("t", vec![change])
}

fn gone(shard: &Shard, id: &str) -> VEvent {
    shard.rows("t", vec![RowChange { before: Some(row(&[Some(id), Some("gone"), None])).into(), ..Default::default() }])
}

/// Rows 1 to 3 are copied; then rows come in part, and row 2 is deleted if `deletes` says so. Between the two runs `meanwhile` is said to the destination.
fn capture(database: &str, deletes: bool, meanwhile: &[&str]) -> (Result<TableState>, Vec<(i64, String, String)>) {
    let stage = Stage::new(1).table("t", &COLUMNS);
    let history = Arc::clone(&stage.history);
    let server = stage.start(move |request, responder| {
        let shard = Shard::new(KEYSPACE, "0");
        if is_copy(&request.message) {
            responder.send(copied([shard.begin(), shard.field("t", &fields()), shard.vgtid(&gtid(1))]))?;
            let last = shard.gtid_copying(&gtid(1), "t", &fields()[..1], &[Some("3")]);
            let rows = ["1", "2", "3"].map(|id| shard.row_insert("t", &[Some(id), Some("old"), Some("long")]));
            responder.send(copied(rows.into_iter().chain([shard.vgtid_of(vec![last]), shard.commit()])))?;
            responder.send(copied([shard.begin(), shard.vgtid(&gtid(1)), shard.commit(), shard.copy_completed()]))?;
            return Ok(Ending::Ok);
        }
        if history.lock().unwrap().0 > 1 {
            let mut events = vec![shard.begin(), shard.field("t", &fields()), part(&shard, "1", "new"), part(&shard, "2", "new")];
            events.extend(deletes.then(|| gone(&shard, "2")));
            events.extend([part(&shard, "1", "newer"), shard.vgtid(&gtid(2)), shard.commit()]);
            responder.send(events)?;
        }
        responder.stall();
        Ok(Ending::Ok)
    });
    let mut conn = mysql().conn();
    for sql in ["drop database if exists {}", "create database {}", "use {}"] {
        conn.query_drop(sql.replace("{}", database)).unwrap();
    }
    let options = IngestOptions::new().with_hard_delete(true);
    let run = || {
        let mut sink = Sink::open(&mysql().uri(database)).unwrap();
        ingest(&Source::open(&uri(&server, "")).unwrap(), &mut sink, &options).map(|report| report.tables[0].state.clone())
    };
    assert_eq!(run().unwrap(), TableState::Complete);
    for sql in meanwhile {
        conn.query_drop(sql).unwrap();
    }
    stage.history.lock().unwrap().0 = 2;
    let state = run();
    let rows = conn.query("select id, name, note from t order by id").unwrap();
    conn.query_drop(format!("drop database {database}")).unwrap();
    (state, rows)
}

fn three(names: [&str; 3]) -> Vec<(i64, String, String)> {
    (1..).zip(names).filter(|(_, name)| !name.is_empty()).map(|(id, name)| (id, name.to_owned(), "long".to_owned())).collect()
}

#[test]
fn rows_that_come_in_part_keep_what_a_server_holds() {
    let (state, rows) = capture("into_parts", true, &[]);
    assert_eq!((state.unwrap(), rows), (TableState::Complete, three(["newer", "", "old"])));
    let (state, rows) = capture("into_parts", false, &[]);
    assert_eq!((state.unwrap(), rows), (TableState::Complete, three(["newer", "new", "old"])));
}

/// A run that ended amid what it wrote beyond the position has deleted the row that changes in part when that comes once more.
#[test]
fn a_row_that_comes_in_part_may_be_gone_only_if_it_was_deleted_before_the_same_comes_again() {
    let ended = ["delete from t where id = 2", "update _ingest_checkpoint set live_rows = null"];
    let (state, rows) = capture("into_parts_again", true, &ended);
    assert_eq!((state.unwrap(), rows), (TableState::Complete, three(["newer", "", "old"])));
    let said = |state: Result<TableState>| match state {
        Err(error) => error.to_string(),
        Ok(TableState::Failed { error }) => error,
        Ok(other) => panic!("{other:?}"),
    };
    let (state, _) = capture("into_parts_again", false, &ended);
    let error = said(state);
    assert!(error.contains("changed in part, but is not in the destination"), "{error}");
    // As it is said of a table that somebody has changed, if the numbers of rows do not tell before.
    let (state, _) = capture("into_parts_again", true, &["update t set id = 9 where id = 2"]);
    let error = said(state);
    assert!(error.contains("changed in part, but is not in the destination"), "{error}");
}
