//! Bytes that no server lets into a column of text, played: files of an older server hold them, and what writes to them behind MySQL's back.

use planetscale_ingest::{IngestOptions, MalformedText, Report, Sink, Source, ValueChange, ingest};

use super::stage::{Destination, KEYSPACE, Stage, copied, error_of, gtid, is_copy, shard, uri};
use crate::vtgate::events::{column, key, row_of_bytes};
use crate::vtgate::mysql::{self, Answer};
use crate::vtgate::proto::{Field, RowChange, VEvent};
use crate::vtgate::{Ending, Vtgate};

const COLUMNS: [(&str, &str); 4] = [("id", "bigint"), ("name", "varchar(20)"), ("wide", "varchar(20)"), ("doc", "json")];

fn all_fields() -> Vec<Field> {
    let mut wide = column("wide", "varchar(20)");
    // utf16_general_ci.
    wide.charset = 54;
    vec![key("id", "bigint"), column("name", "varchar(20)"), wide, column("doc", "json")]
}

type Cells = [&'static [u8]; 4];

const BAD: Cells = [b"1", b"a\xff\xe2\x82b\xc3", b"\x00a\xd8\x00\x00b\x01", b"{}"];
const REPLACED: &str = "a\u{fffd}\u{fffd}b\u{fffd} a\u{fffd}b\u{fffd}";
const BYTES: &str = "61FFE28262C3 0061D800006201";

fn insert(cells: Cells) -> VEvent {
    let row = row_of_bytes(&cells.map(Some));
    shard().rows("t", vec![RowChange { after: Some(row).into(), ..Default::default() }])
}

/// Copies one row and streams another.
fn serving(copy: Cells, stream: Cells) -> (Stage, Vtgate) {
    let stage = Stage::new(2).table("t", &COLUMNS);
    let server = stage.start(move |request, responder| {
        let shard = shard();
        if is_copy(&request.message) {
            responder.send(copied([shard.begin(), shard.field("t", &all_fields()), shard.vgtid(&gtid(1))]))?;
            let last = shard.gtid_copying(&gtid(1), "t", &all_fields()[..1], &[Some("1")]);
            responder.send(copied([insert(copy), shard.vgtid_of(vec![last]), shard.commit()]))?;
            responder.send(copied([shard.begin(), shard.vgtid(&gtid(1)), shard.commit(), shard.copy_completed()]))?;
            return Ok(Ending::Ok);
        }
        let [before, after] = [copy, stream].map(|cells| Some(row_of_bytes(&cells.map(Some))).into());
        let change = RowChange { before, after, ..Default::default() };
        let rows = shard.rows("t", vec![change]);
        responder.send([shard.begin(), shard.field("t", &all_fields()), rows, shard.vgtid(&gtid(2)), shard.commit()])?;
        responder.stall();
        Ok(Ending::Ok)
    });
    (stage, server)
}

fn run(destination: &Destination, source: &str, policy: MalformedText) -> Result<Report, planetscale_ingest::Error> {
    let source = Source::open(source)?;
    let mut sink = Sink::open(&destination.uri())?;
    ingest(&source, &mut sink, &IngestOptions::new().with_malformed_text(policy))
}

fn counts(report: &Report) -> Vec<(&str, ValueChange, u64)> {
    report.tables[0].changed_values.iter().map(|changed| (changed.column.as_str(), changed.change, changed.values)).collect()
}

#[test]
fn malformed_text_of_copy_and_stream_is_refused_replaced_or_kept_as_bytes() {
    let good: Cells = [b"1", b"x", b"\x00x", b"{}"];
    for (copy, stream, in_copy) in [(BAD, good, true), (good, BAD, false)] {
        let (_stage, server) = serving(copy, stream);
        let destination = Destination::new();
        let error = error_of(run(&destination, &uri(&server, ""), MalformedText::Error), "t");
        assert!(error.contains("column `name`") && error.contains("malformed_text"), "{error}");

        let destination = Destination::new();
        let report = run(&destination, &uri(&server, ""), MalformedText::Replace).unwrap();
        assert_eq!(counts(&report), ["name", "wide"].map(|column| (column, ValueChange::TextReplaced, 1)));
        assert_eq!(destination.query("SELECT name, wide FROM t"), [if in_copy { "x x" } else { REPLACED }]);

        let destination = Destination::new();
        let report = run(&destination, &uri(&server, ""), MalformedText::Bytes).unwrap();
        assert_eq!(counts(&report), []);
        let found = destination.query("SELECT hex(name), hex(wide) FROM t");
        assert_eq!(found, [if in_copy { "78 0078" } else { BYTES }]);
        assert_eq!(destination.query("SELECT group_concat(typeof(doc)) FROM t"), ["text"]);
    }
}

#[test]
fn a_document_or_a_member_that_is_no_text_is_an_error_whatever_the_policy() {
    let bad: Cells = [b"1", b"x", b"\x00x", b"\"\xff\""];
    for policy in [MalformedText::Error, MalformedText::Replace, MalformedText::Bytes] {
        let (_stage, server) = serving(bad, bad);
        let error = error_of(run(&Destination::new(), &uri(&server, ""), policy), "t");
        assert!(error.contains("column `doc`"), "{error}");
    }
}

#[test]
fn malformed_text_of_a_whole_copy_is_refused_replaced_or_kept_as_bytes() {
    fn rows(statement: &str) -> Answer {
        // What is asked for as bytes comes as bytes; text in utf8mb4 is not converted, so it does as well.
        if !statement.starts_with("SELECT ") || !statement.ends_with(" FROM `t`") {
            return Answer::Unscripted;
        }
        let columns = ["id", "name"].map(mysql::Column::text).to_vec();
        let row = |id: &str, name: &[u8]| vec![Some(id.as_bytes().to_vec()), Some(name.to_vec())];
        Answer::Rows { columns, rows: vec![row("1", b"a\xff\xe2\x82b\xc3"), row("2", b"fine")] }
    }
    let stage = Stage::new(1).answering(rows);
    let server = stage.start(|_, _| Ok(Ending::Ok));
    let source = format!("mysql://127.0.0.1:{}/{KEYSPACE}?tls=false", server.mysql_port);
    let destination = Destination::new();
    let error = error_of(run(&destination, &source, MalformedText::Error), "t");
    assert!(error.contains("column `name`") && error.contains("malformed_text"), "{error}");
    let report = run(&destination, &source, MalformedText::Replace).unwrap();
    assert_eq!(counts(&report), [("name", ValueChange::TextReplaced, 1)]);
    assert_eq!(destination.query("SELECT name FROM t ORDER BY id"), ["a\u{fffd}\u{fffd}b\u{fffd}", "fine"]);
    let report = run(&destination, &source, MalformedText::Bytes).unwrap();
    assert_eq!(counts(&report), []);
    assert_eq!(destination.query("SELECT hex(name) FROM t ORDER BY id"), ["61FFE28262C3", "66696E65"]);
}
