//! Forms of storage, and what only a played server does: shards whose ENUMs differ, and rows that come in part.

use planetscale_ingest::{IngestOptions, Report, Sink, Source, TableState, ingest};

use super::stage::{KEYSPACE, Stage, copied, gtid, is_copy, uri};
use crate::capture::fixture::{Destination, Kind};
use crate::vtgate::Ending;
use crate::vtgate::events::{Shard, all_copied, bitmap, column, key, row};
use crate::vtgate::proto::{Field, RowChange, VEvent};

fn run(destination: &Destination, parameters: &str, source: &str) -> Report {
    let mut sink = Sink::open(&format!("{}{parameters}", destination.uri())).unwrap();
    let report = ingest(&Source::open(source).unwrap(), &mut sink, &IngestOptions::new()).unwrap();
    assert_eq!(report.tables[0].state, TableState::Complete);
    report
}

fn changes_of(shard: &Shard, fields: &[Field], rows: &[&[Option<&str>]]) -> Vec<VEvent> {
    let mut events = vec![shard.begin(), shard.field("t", fields)];
    events.extend(rows.iter().map(|row| shard.row_insert("t", row)));
    events
}

/// One shard has a member that the other has not yet, and the other one that is gone from the first.
#[test]
fn shards_whose_members_differ_go_into_one_enum() {
    let stage = Stage::new(1).shards(&["-80", "80-"]).table("t", &[("id", "bigint"), ("e", "enum('a','b')")]);
    let history = std::sync::Arc::clone(&stage.history);
    let server = stage.start(move |request, responder| {
        let shards = ["-80", "80-"].map(|shard| Shard::new(KEYSPACE, shard));
        let executed = history.lock().unwrap().0;
        let fields = |members: &str| vec![key("id", "bigint"), column("e", members)];
        // Sent by the shard that moves.
        let vgtid = |shard: &Shard, one: u32, other: u32| {
            let at = |number: u32| if number == 0 { String::new() } else { gtid(number) };
            shard.vgtid_of(vec![shards[0].gtid(&at(one)), shards[1].gtid(&at(other))])
        };
        let [one, other] = &shards;
        if is_copy(&request.message) {
            for (shard, at) in [(one, (1, 0)), (other, (1, 1))] {
                let at = vgtid(shard, at.0, at.1);
                responder.send(copied([shard.begin(), shard.field("t", &fields("enum('a','b')")), at.clone(), shard.commit()]))?;
                responder.send(copied([shard.begin(), at, shard.commit(), shard.copy_completed()]))?;
            }
            responder.send(copied([all_copied()]))?;
            return Ok(Ending::Ok);
        }
        if executed > 1 {
            // The first has got its new member, and then once more without another FIELD event, after the second has sent its own.
            let mut events = changes_of(one, &fields("enum('a','new','b')"), &[&[Some("1"), Some("new")], &[Some("2"), Some("b")]]);
            events.extend([vgtid(one, 2, 1), one.commit()]);
            responder.send(events)?;
            let mut events = changes_of(other, &fields("enum('a','b')"), &[&[Some("3"), Some("b")], &[Some("4"), Some("")]]);
            events.extend([vgtid(other, 2, 4), other.commit()]);
            responder.send(events)?;
            responder.send([one.begin(), one.row_insert("t", &[Some("5"), Some("new")]), vgtid(one, 4, 4), one.commit()])?;
        }
        responder.stall();
        Ok(Ending::Ok)
    });
    let destination = Destination::new(Kind::DuckDb);
    run(&destination, "?enum_type=enum", &uri(&server, ""));
    stage.history.lock().unwrap().0 = 4;
    run(&destination, "?enum_type=enum", &uri(&server, ""));
    let found = destination.query("select id, e from t order by e, id");
    let expected = [("4", ""), ("1", "new"), ("5", "new"), ("2", "b"), ("3", "b")];
    assert_eq!(found, expected.map(|(id, e)| [Some(id.to_owned()), Some(e.to_owned())]));
    let of = destination.cell("select data_type from duckdb_columns() where table_name = 't' and column_name = 'e'");
    assert_eq!(of.as_deref(), Some("ENUM('', 'a', 'new', 'b')"));
}

const WIDE: &str = "18446744073709551615";
const ODD: &str = "18446744073709551613";

/// A row of which the text is left out, since it stays as it was.
#[test]
fn rows_that_come_in_part_keep_large_numbers_members_and_times() {
    const COLUMNS: [(&str, &str); 5] =
        [("id", "bigint unsigned"), ("n", "bigint unsigned"), ("e", "enum('a','b')"), ("span", "time(3)"), ("note", "text")];
    let fields =
        || COLUMNS.iter().enumerate().map(|(at, (name, of))| if at == 0 { key(name, of) } else { column(name, of) }).collect::<Vec<_>>();
    for (kind, parameters) in [(Kind::Sqlite, ""), (Kind::DuckDb, "?enum_type=enum&time_type=text"), (Kind::DuckDb, "")] {
        let stage = Stage::new(2).table("t", &COLUMNS);
        let server = stage.start(move |request, responder| {
            let shard = Shard::new(KEYSPACE, "0");
            let old = [Some(WIDE), Some("1"), Some("a"), Some("10:00:00.000"), Some("long")];
            let near = [Some("18446744073709551614"), Some("1"), Some("a"), Some("10:00:00.000"), Some("other")];
            if is_copy(&request.message) {
                responder.send(copied([shard.begin(), shard.field("t", &fields()), shard.vgtid(&gtid(1))]))?;
                let last = shard.gtid_copying(&gtid(1), "t", &fields()[..1], &[Some(WIDE)]);
                let rows = [shard.row_insert("t", &near), shard.row_insert("t", &old), shard.vgtid_of(vec![last]), shard.commit()];
                responder.send(copied(rows))?;
                responder.send(copied([shard.begin(), shard.vgtid(&gtid(1)), shard.commit(), shard.copy_completed()]))?;
                return Ok(Ending::Ok);
            }
            let new = [Some(WIDE), Some(ODD), Some("b"), Some("-100:00:00.500"), None];
            let change = RowChange {
                before: Some(row(&[old[0], old[1], old[2], old[3], None])).into(),
                after: Some(row(&new)).into(),
                data_columns: Some(bitmap(&[true, true, true, true, false])).into(),
                ..Default::default()
            };
            responder.send([
                shard.begin(),
                shard.field("t", &fields()),
                shard.rows("t", vec![change]),
                shard.vgtid(&gtid(2)),
                shard.commit(),
            ])?;
            responder.stall();
            Ok(Ending::Ok)
        });
        let destination = Destination::new(kind);
        let report = run(&destination, parameters, &uri(&server, ""));
        let counted: Vec<(&str, u64)> =
            report.tables[0].changed_values.iter().map(|changed| (changed.column.as_str(), changed.values)).collect();
        // The two rows of the copy, and of the part what it has beside the key.
        assert_eq!(counted, if kind == Kind::Sqlite { vec![("id", 2), ("n", 1)] } else { Vec::new() });
        let found = destination.query("select id, n, e, span, note from t order by note");
        let time = if kind == Kind::DuckDb && parameters.is_empty() { "-100:00:00.5" } else { "-100:00:00.500" };
        assert_eq!(found[0], [WIDE, ODD, "b", time, "long"].map(|cell| Some(cell.to_owned())), "{kind:?} {parameters}");
        assert_eq!(found[1][..2], ["18446744073709551614", "1"].map(|cell| Some(cell.to_owned())), "{kind:?} {parameters}");
    }
}
