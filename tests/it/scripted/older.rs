//! What servers of other versions do, played from the protocol: values in other forms, positions that lack something, errors of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::stage::{
    Destination, KEYSPACE, Stage, asked, begin_copy, copied, copy_rows, end_copy, error_of, fields, gtid, is_copy, last_pk, renamed, shard,
    transaction, uri,
};
use crate::vtgate::events::{Shard, column, key};
use crate::vtgate::proto::{Field, VEvent};
use crate::vtgate::{Ending, Gone, Responder};

const ENUMS: [(&str, &str); 3] = [("id", "bigint"), ("state", "enum('new','paid','1','it''s')"), ("tags", "set('a','b','3','d')")];

fn enum_fields() -> Vec<Field> {
    ENUMS.iter().enumerate().map(|(at, (name, declared))| if at == 0 { key(name, declared) } else { column(name, declared) }).collect()
}

/// A FIELD event that says in which form ENUM and SET follow.
fn enum_field(strings: bool) -> VEvent {
    let mut event = shard().field("t", &enum_fields());
    event.field_event.as_mut().unwrap().enum_set_string_values = strings;
    event
}

/// The rows as MySQL prints them, and as index and mask.
const AS_STRINGS: [[Option<&str>; 3]; 5] = [
    [Some("1"), Some("new"), Some("a")],
    [Some("2"), Some("1"), Some("b,3")],
    [Some("3"), Some("it's"), Some("a,b,3,d")],
    [Some("4"), Some(""), Some("")],
    [Some("5"), None, None],
];
const AS_NUMBERS: [[Option<&str>; 3]; 5] = [
    [Some("1"), Some("1"), Some("1")],
    [Some("2"), Some("3"), Some("6")],
    [Some("3"), Some("4"), Some("15")],
    [Some("4"), Some("0"), Some("0")],
    [Some("5"), None, None],
];

/// Copies the rows, and then streams inserts of the same rows under new keys; both as the flags of their FIELD events say.
#[test]
fn enum_and_set_are_stored_alike_whatever_form_copy_and_stream_send() {
    // The copy sends strings, whatever the flag says: it asks MySQL for text.
    for (copy_flag, stream_flag) in [(false, false), (true, false), (true, true), (false, true)] {
        let stage = Stage::new(1).table("t", &ENUMS);
        let server = stage.start(move |request, responder| {
            let shard = shard();
            if is_copy(&request.message) {
                responder.send(copied([shard.begin(), enum_field(copy_flag), shard.vgtid(&gtid(1))]))?;
                let rows = AS_STRINGS.iter().map(|row| shard.row_insert("t", row));
                let last = shard.gtid_copying(&gtid(1), "t", &enum_fields()[..1], &[Some("5")]);
                responder.send(copied(rows.chain([shard.vgtid_of(vec![last]), shard.commit()])))?;
                responder.send(copied([shard.begin(), shard.vgtid(&gtid(1)), shard.commit(), shard.copy_completed()]))?;
                return Ok(Ending::Ok);
            }
            let rows = if stream_flag { AS_STRINGS } else { AS_NUMBERS };
            let mut events = vec![shard.begin(), enum_field(stream_flag)];
            for [id, state, tags] in rows {
                let id = id.map(|id| format!("1{id}"));
                events.push(shard.row_insert("t", &[id.as_deref(), state, tags]));
            }
            // And an update and a delete, whose before images have the same form.
            events.push(shard.row_update("t", &rows[0], &[Some("1"), rows[1][1], rows[1][2]]));
            events.push(shard.row_delete("t", &rows[4]));
            events.extend([shard.vgtid(&gtid(2)), shard.commit()]);
            responder.send(events)?;
            responder.stall();
            Ok(Ending::Ok)
        });
        let destination = Destination::new();
        destination.capture_all(&uri(&server, ""));
        let all = "SELECT id, state, tags FROM t WHERE NOT _cdc_deleted ORDER BY id";
        let before = destination.query(all);
        assert_eq!(before, ["1 new a", "2 1 b,3", "3 it's a,b,3,d", "4  ", "5 NULL NULL"], "{copy_flag} {stream_flag}");
        stage.history.lock().unwrap().0 = 2;
        destination.capture_all(&uri(&server, ""));
        let expected = ["1 1 b,3", "2 1 b,3", "3 it's a,b,3,d", "4  ", "11 new a", "12 1 b,3", "13 it's a,b,3,d", "14  ", "15 NULL NULL"];
        assert_eq!(destination.query(all), expected, "{copy_flag} {stream_flag}");
    }
}

/// While a table is copied, catch-up sends changes of it as the stream does: with a time, and with index and mask from older servers.
#[test]
fn enum_and_set_of_changes_within_the_copy_have_the_form_of_the_stream() {
    let stage = Stage::new(2).table("t", &ENUMS);
    let server = stage.start(|_, responder| {
        let shard = shard();
        let copying = |at: u32, last: &str| shard.vgtid_of(vec![shard.gtid_copying(&gtid(at), "t", &enum_fields()[..1], &[Some(last)])]);
        responder.send(copied([shard.begin(), enum_field(false), shard.vgtid(&gtid(1))]))?;
        responder.send(copied([shard.row_insert("t", &AS_STRINGS[0]), copying(1, "1"), shard.commit()]))?;
        let changed = shard.row_update("t", &AS_NUMBERS[0], &[Some("1"), Some("2"), Some("8")]);
        responder.send([shard.begin(), enum_field(false), changed, copying(2, "1"), shard.commit()])?;
        responder.send(copied([shard.begin(), shard.row_insert("t", &AS_STRINGS[1]), copying(2, "2"), shard.commit()]))?;
        responder.send(copied([shard.begin(), shard.vgtid(&gtid(2)), shard.commit(), shard.copy_completed()]))?;
        Ok(Ending::Ok)
    });
    let destination = Destination::new();
    destination.capture_all(&uri(&server, ""));
    assert_eq!(destination.query("SELECT id, state, tags FROM t ORDER BY id"), ["1 paid d", "2 1 b,3"]);
}

#[test]
fn an_index_beyond_the_members_is_an_error_that_names_the_column() {
    let stage = Stage::new(1).table("t", &ENUMS);
    for (row, column) in [([Some("1"), Some("5"), Some("1")], "state"), ([Some("1"), Some("1"), Some("16")], "tags")] {
        let server = stage.start(move |request, responder| {
            let shard = shard();
            if is_copy(&request.message) {
                responder.send(copied([shard.begin(), enum_field(true), shard.vgtid(&gtid(1)), shard.commit(), shard.copy_completed()]))?;
                return Ok(Ending::Ok);
            }
            responder.send([shard.begin(), enum_field(false), shard.row_insert("t", &row), shard.vgtid(&gtid(2)), shard.commit()])?;
            Ok(Ending::Ok)
        });
        let destination = Destination::new();
        destination.capture_all(&uri(&server, ""));
        stage.history.lock().unwrap().0 = 2;
        let error = error_of(destination.capture(&uri(&server, "")), "t");
        assert!(error.contains(&format!("column `{column}`")) && error.contains("within its members"), "{error}");
        stage.history.lock().unwrap().0 = 1;
    }
}

/// Rows up to a commit whose last PK has no fields.
fn rows_without_fields(rows: &[(i64, &str)]) -> Vec<VEvent> {
    let mut events = copy_rows(&shard(), rows, 1);
    for event in &mut events {
        for last in event.vgtid.as_mut().into_iter().flat_map(|vgtid| &mut vgtid.shard_gtids).flat_map(|at| &mut at.table_p_ks) {
            last.lastpk.as_mut().unwrap().fields.clear();
        }
    }
    events
}

/// Sends a copy whose last PKs have no fields; `breaks` says whether it breaks after its first rows.
fn copy_without_fields(responder: &mut Responder, breaks: bool, rows: &[(i64, &str)]) -> Result<Ending, Gone> {
    responder.send(begin_copy(&shard(), 1))?;
    responder.send(rows_without_fields(&rows[..2]))?;
    if breaks {
        return Ok(Ending::Ok);
    }
    responder.send(rows_without_fields(&rows[2..]))?;
    responder.send(end_copy(&shard(), 1))?;
    Ok(Ending::Ok)
}

#[test]
fn a_last_primary_key_without_fields_is_never_sent_and_the_copy_begins_anew_with_a_note() {
    let stage = Stage::new(1);
    let server = stage.start(|request, responder| {
        for at in &request.message.vgtid.shard_gtids {
            assert!(at.table_p_ks.is_empty(), "a last PK was sent");
        }
        // Row 1 is deleted at the source between the two copies, and nobody tells.
        match request.number {
            0 => copy_without_fields(responder, true, &[(1, "one"), (2, "two")]),
            _ => copy_without_fields(responder, false, &[(2, "two"), (3, "three"), (4, "four")]),
        }
    });
    let destination = Destination::new();
    let report = destination.capture_all(&uri(&server, ""));
    assert_eq!(server.requests().len(), 2);
    assert_eq!(asked(&server.requests()[1], "0").gtid, "");
    assert_eq!(destination.rows(), ["2 two", "3 three", "4 four"]);
    let notes = &report.tables[0].notes;
    assert!(notes.iter().any(|note| note.starts_with("copied anew: ") && note.contains("without their fields")), "{notes:?}");
}

#[test]
fn an_interrupted_copy_without_fields_begins_anew_in_the_next_run_and_drops_what_is_gone() {
    let stage = Stage::new(1);
    let again = Arc::new(AtomicBool::new(false));
    let is_again = Arc::clone(&again);
    let server = stage.start(move |request, responder| {
        for at in &request.message.vgtid.shard_gtids {
            assert!(at.table_p_ks.is_empty(), "a last PK was sent");
        }
        if is_again.load(Ordering::SeqCst) {
            return copy_without_fields(responder, false, &[(2, "two"), (3, "three"), (4, "four")]);
        }
        copy_without_fields(responder, true, &[(1, "one"), (2, "two")])
    });
    let destination = Destination::new();
    // Each copy of the first run breaks; it is given up, and what has come stays.
    let error = error_of(destination.capture(&uri(&server, "&retry_timeout=1s")), "t");
    assert!(error.contains("without a new position"), "{error}");
    assert_eq!(destination.rows(), ["1 one", "2 two"]);
    again.store(true, Ordering::SeqCst);
    destination.capture_all(&uri(&server, ""));
    assert_eq!(destination.rows(), ["2 two", "3 three", "4 four"]);
    assert_eq!(destination.query("SELECT id FROM t WHERE _cdc_deleted"), ["1"]);
}

#[test]
fn a_copy_cycle_that_is_over_goes_on_from_its_last_primary_key() {
    const ROWS: [(i64, &str); 4] = [(1, "one"), (2, "two"), (3, "three"), (4, "four")];
    // Up to v21 the end of a cycle, an hour by default, is an error of the call.
    let over = "vttablet: rpc error: code = Unknown desc = stream (at source tablet) error @ : Query execution was interrupted, maximum \
                statement execution time exceeded (errno 3024) (sqlstate HY000)";
    let stage = Stage::new(1);
    let server = stage.start(move |request, responder| {
        let from = usize::try_from(last_pk(&request.message, "0").unwrap_or(0)).unwrap();
        responder.send(begin_copy(&shard(), 1))?;
        responder.send(copy_rows(&shard(), &ROWS[from..=from], 1))?;
        if from + 1 == ROWS.len() {
            responder.send(end_copy(&shard(), 1))?;
            return Ok(Ending::Ok);
        }
        // The client has to have taken the rows: an error makes its library drop what it has not handed over yet.
        std::thread::sleep(std::time::Duration::from_secs(2));
        Ok(Ending::status(2, over))
    });
    let destination = Destination::new();
    let report = destination.capture_all(&uri(&server, ""));
    assert_eq!(destination.rows(), ["1 one", "2 two", "3 three", "4 four"]);
    assert_eq!((server.requests().len(), report.tables[0].rows_read), (4, 4));
    assert!(report.tables[0].notes.is_empty(), "{:?}", report.tables[0].notes);
}

#[test]
fn a_copy_is_complete_when_every_shard_says_so_without_a_word_for_all() {
    let shards = ["-80", "80-"].map(|name| Shard::new(KEYSPACE, name));
    let stage = Stage::new(1).shards(&["-80", "80-"]);
    let ours = shards.clone();
    let server = stage.start(move |_, responder| {
        for (number, shard) in ours.iter().enumerate() {
            let id = number.to_string();
            let other = if number == 0 { ours[1].gtid("") } else { ours[0].gtid(&gtid(1)) };
            let copying = shard.gtid_copying(&gtid(1), "t", &fields()[..1], &[Some(&id)]);
            responder.send(copied([shard.begin(), shard.field("t", &fields()), shard.row_insert("t", &[Some(&id), Some("x")])]))?;
            responder.send(copied([shard.vgtid_of(vec![copying, other.clone()]), shard.commit()]))?;
            let end = shard.vgtid_of(vec![shard.gtid(&gtid(1)), other]);
            // Up to v15 a COMMIT of the last shard's alone ended it; the per-shard event is what there is since.
            responder.send(copied([shard.begin(), end, shard.commit(), shard.copy_completed()]))?;
        }
        responder.stall();
        Ok(Ending::Ok)
    });
    let destination = Destination::new();
    destination.capture_all(&uri(&server, ""));
    assert_eq!(destination.rows(), ["0 x", "1 x"]);
}

#[test]
fn the_copy_of_a_large_table_may_leave_begin_out_and_names_may_lack_the_keyspace() {
    let stage = Stage::new(2);
    let server = stage.start(|request, responder| {
        let bare = |events| renamed(events, "t");
        if is_copy(&request.message) {
            responder.send(bare(begin_copy(&shard(), 1)))?;
            responder.send(bare(copy_rows(&shard(), &[(1, "one")], 1)))?;
            responder.send(bare(copy_rows(&shard(), &[(2, "two")], 1)))?;
            responder.send(end_copy(&shard(), 1))?;
            return Ok(Ending::Ok);
        }
        responder.send(bare(transaction(&shard(), &[(Some((1, "one")), None)], 2)))?;
        responder.stall();
        Ok(Ending::Ok)
    });
    let destination = Destination::new();
    destination.capture_all(&uri(&server, ""));
    assert_eq!(destination.rows(), ["2 two"]);
}
