//! Where an error came about: what it names, and that it quotes no value.

use planetscale_ingest::{Cancel, CaptureRequest, Error, ErrorKind, Source, StoredPosition};

use super::stage::{
    Destination, Stage, begin_copy, copied, copy, copy_rows, end_copy, error_of, fields, gtid, is_copy, shard, transaction, uri,
};
use crate::vtgate::Ending;
use crate::vtgate::events::{column, key};
use crate::vtgate::mysql::{self, Answer};
use crate::vtgate::proto::{Field, VEvent};

const SECRET: &str = "hunter2";

/// Values that are none of their column's type.
const WRONG: [(&str, &str); 8] = [
    ("bigint", SECRET),
    ("decimal(5,2)", SECRET),
    ("double", SECRET),
    ("date", SECRET),
    ("datetime(6)", SECRET),
    ("time", SECRET),
    ("bit(8)", SECRET),
    ("bigint unsigned", "-7777777"),
];

/// The GTID set of the first transaction, as the stream's position is printed.
fn first() -> String {
    gtid(1).replace(":1-1", ":1")
}

#[track_caller]
fn check_text(error: &str, parts: &[&str]) {
    assert!(parts.iter().all(|part| error.contains(&format!("`{part}`"))), "{error}");
    assert!(!error.contains(SECRET) && !error.contains("777777") && !error.contains("4711"), "{error}");
}

fn stage(declared: &'static str) -> (Stage, Vec<Field>) {
    let stage = Stage::new(1).table("t", &[("id", "bigint"), ("odd", declared)]);
    (stage, vec![key("id", "bigint"), column("odd", declared)])
}

#[test]
fn a_value_that_cannot_be_read_is_an_error_that_names_its_place_and_does_not_quote_it() {
    for (declared, wrong) in WRONG {
        for of_copy in [true, false] {
            let (stage, fields) = stage(declared);
            let server = stage.start(move |request, responder| {
                let shard = shard();
                let row = shard.row_insert("t", &[Some("4711"), Some(wrong)]);
                if is_copy(&request.message) {
                    responder.send(copied([shard.begin(), shard.field("t", &fields), shard.vgtid(&gtid(1))]))?;
                    if of_copy {
                        responder.send(copied([row, shard.vgtid(&gtid(1)), shard.commit()]))?;
                    }
                    responder.send(end_copy(&shard, 1))?;
                    return Ok(Ending::Ok);
                }
                responder.send([shard.begin(), shard.field("t", &fields), row, shard.vgtid(&gtid(2)), shard.commit()])?;
                Ok(Ending::Ok)
            });
            let destination = Destination::new();
            let at = first();
            // In the copy no GTID is committed when the first row comes.
            let parts: &[&str] = if of_copy { &["t", "odd", "0"] } else { &["t", "odd", "0", &at] };
            if of_copy {
                check_text(&error_of(destination.capture(&uri(&server, "")), "t"), parts);
            } else {
                destination.capture_all(&uri(&server, ""));
                stage.history.lock().unwrap().0 = 2;
                check_text(&error_of(destination.capture(&uri(&server, "")), "t"), parts);
            }
        }
    }
}

/// The error itself, as those get it who read changes without a destination.
#[test]
fn errors_of_the_stream_carry_table_column_shard_and_position() {
    type Script = fn() -> Vec<VEvent>;
    let cases: [(Script, ErrorKind, Option<&str>, &str); 5] = [
        (|| transaction_of(shard().row_insert("t", &[None, Some("a")])), ErrorKind::Decode, Some("id"), "NULL"),
        (|| transaction_of(shard().row_insert("t", &[Some("4711")])), ErrorKind::Protocol, None, "values"),
        (|| transaction_of(shard().rows("t", vec![Default::default()])), ErrorKind::Protocol, None, "neither"),
        (|| transaction_of(shard().row_update("t", &[Some("4711"), None], &[Some(SECRET), None])), ErrorKind::Decode, Some("id"), "number"),
        (|| transaction_of(shard().row_delete("t", &[Some(SECRET), None])), ErrorKind::Decode, Some("id"), "number"),
    ];
    for (events, kind, column, says) in cases {
        let stage = Stage::new(1);
        let server = stage.start(move |request, responder| {
            match is_copy(&request.message) {
                true => copy(responder, &[(1, "one")], 1)?,
                false => responder.send(events())?,
            }
            Ok(Ending::Ok)
        });
        let source = Source::open(&uri(&server, "")).unwrap();
        stage.history.lock().unwrap().0 = 2;
        let request = CaptureRequest::new().with_table(source.table("t").unwrap(), None::<StoredPosition>);
        let error: Error = source.changes(request, Cancel::new()).unwrap().find_map(Result::err).unwrap();
        assert_eq!(
            (error.kind(), error.table(), error.column(), error.shard(), error.position()),
            (kind, Some("t"), column, Some("0"), Some(&*first())),
            "{error:?}"
        );
        assert!(error.to_string().contains(says), "{error}");
        check_text(&format!("{error:?}"), &[]);
    }
}

/// A transaction of `t` around one event.
fn transaction_of(event: VEvent) -> Vec<VEvent> {
    let shard = shard();
    vec![shard.begin(), shard.field("t", &fields()), event, shard.vgtid(&gtid(2)), shard.commit()]
}

#[test]
fn the_position_of_an_error_within_a_copy_holds_no_key() {
    let stage = Stage::new(1);
    let server = stage.start(|_, responder| {
        responder.send(begin_copy(&shard(), 1))?;
        responder.send(copy_rows(&shard(), &[(4711, "one")], 1))?;
        responder.send(copied([shard().row_insert("t", &[Some(SECRET), Some("x")])]))?;
        Ok(Ending::Ok)
    });
    let error = error_of(Destination::new().capture(&uri(&server, "")), "t");
    check_text(&error, &["t", "id", "0", &gtid(1)]);
}

#[test]
fn a_dropped_table_ends_with_an_error_that_names_the_shard_and_the_position_before() {
    let stage = Stage::new(1);
    let server = stage.start(|request, responder| {
        match is_copy(&request.message) {
            true => copy(responder, &[(1, "one")], 1)?,
            false => {
                responder.send(transaction(&shard(), &[(None, Some((2, "two")))], 2))?;
                responder.send([shard().vgtid(&gtid(3)), shard().ddl("drop table t")])?;
            }
        }
        Ok(Ending::Ok)
    });
    let destination = Destination::new();
    destination.capture_all(&uri(&server, ""));
    stage.history.lock().unwrap().0 = 3;
    check_text(&error_of(destination.capture(&uri(&server, "")), "t"), &["t", "0", &gtid(2)]);
}

#[test]
fn a_value_of_a_whole_copy_that_cannot_be_read_is_an_error_that_names_table_and_column() {
    for (declared, wrong) in WRONG {
        if declared == "bit(8)" {
            continue;
        }
        let stage = Stage::new(1).table("t", &[("id", "bigint"), ("odd", declared)]);
        let script = stage.script(|_, _| Ok(Ending::Ok)).before_query(move |statement| {
            statement.starts_with("SELECT `id`, `odd` FROM `t`").then(|| Answer::Rows {
                columns: vec![mysql::Column::text("id"), mysql::Column::text("odd")],
                rows: vec![vec![Some(b"4711".to_vec()), Some(wrong.as_bytes().to_vec())]],
            })
        });
        let server = crate::vtgate::Vtgate::start(script);
        let source = Source::open(&format!("mysql://127.0.0.1:{}/shop?tls=false", server.mysql_port)).unwrap();
        let error = source.rows("t").unwrap().find_map(Result::err).unwrap();
        assert_eq!((error.kind(), error.table(), error.column()), (ErrorKind::Decode, Some("t"), Some("odd")), "{error:?}");
        check_text(&format!("{error:?}"), &["t", "odd"]);
    }
}
