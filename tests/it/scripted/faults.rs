//! Servers that fail, repeat themselves, mix things up and lie.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use planetscale_ingest::{ErrorKind, Source};

use super::stage::{
    Change, Destination, KEYSPACE, Stage, asked, begin_copy, copied, copy, copy_rows, end_copy, error_of, failure_of, fields, gtid,
    is_copy, last_pk, renamed, shard, transaction, transaction_of, uri,
};
use crate::support::proxy::{Fault, Proxy, Way};
use crate::vtgate::events::{Shard, all_copied, column, heartbeat};
use crate::vtgate::mysql::{self, Answer};
use crate::vtgate::proto::{ShardGtid, VEvent};
use crate::vtgate::{Ending, Gone, Request, Responder, Vtgate};

const ROWS: [(i64, &str); 3] = [(1, "one"), (2, "two"), (3, "three")];

/// Which transaction a request comes after.
fn after(request: &Request) -> u32 {
    let text = &asked(&request.message, "0").gtid;
    text.rsplit(['-', ':']).next().unwrap().parse().unwrap()
}

/// Shortens the time for which is tried again.
fn briefly(server: &Vtgate) -> String {
    uri(server, "&retry_timeout=2s")
}

#[test]
fn a_stream_that_ends_after_each_transaction_is_followed_to_its_end() {
    const LAST: u32 = 30;
    let stage = Stage::new(1);
    let server = stage.start(|request, responder| {
        if is_copy(&request.message) {
            copy(responder, &ROWS, 1)?;
            return Ok(Ending::Ok);
        }
        let number = after(request) + 1;
        let name = format!("new {number}");
        responder.send(transaction(&shard(), &[(None, Some((i64::from(number), &name)))], number))?;
        Ok(Ending::Ok)
    });
    let destination = Destination::new();
    destination.capture_all(&briefly(&server));
    stage.history.lock().unwrap().0 = LAST;
    let begun = server.requests().len();
    // Far more ends than would be borne without progress, and pauses that do not grow.
    destination.capture_all(&briefly(&server));
    let rows: Vec<String> = (2..=LAST).map(|id| format!("{id} new {id}")).collect();
    assert_eq!(destination.rows()[1..], rows);
    assert_eq!(server.requests().len() - begun, LAST as usize - 1);
}

#[test]
fn a_stream_that_never_brings_a_new_position_is_given_up_in_time_and_what_is_committed_stays() {
    let stage = Stage::new(1);
    let broken = Arc::new(Mutex::new(true));
    let is_broken = Arc::clone(&broken);
    let server = stage.start(move |request, responder| {
        if is_copy(&request.message) {
            copy(responder, &ROWS, 1)?;
            return Ok(Ending::Ok);
        }
        match after(request) {
            1 => responder.send(transaction(&shard(), &[(Some((1, "one")), Some((1, "1")))], 2))?,
            _ => {
                let mut events = transaction(&shard(), &[(Some((2, "two")), Some((2, "2")))], 3);
                if *is_broken.lock().unwrap() {
                    // Rows come, and their commit never does.
                    events.truncate(3);
                }
                responder.send(events)?;
            }
        }
        Ok(Ending::Ok)
    });
    let destination = Destination::new();
    destination.capture_all(&briefly(&server));
    stage.history.lock().unwrap().0 = 3;
    let begun = Instant::now();
    let report = destination.capture(&briefly(&server)).unwrap();
    let took = begun.elapsed();
    let error = failure_of(&report, "t");
    assert!(error.contains("without a new position, for 2s (`retry_timeout`)"), "{error}");
    assert!(error.contains("vtgate ended the stream before the stop position was reached"), "{error}");
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(5), "{took:?}");
    // More than a few: the pauses begin short.
    assert!(server.requests().len() > 6, "{}", server.requests().len());
    assert_eq!(destination.rows(), ["1 1", "2 two", "3 three"]);

    *broken.lock().unwrap() = false;
    let before = server.requests().len();
    destination.capture_all(&briefly(&server));
    assert_eq!(asked(&server.requests()[before], "0").gtid, gtid(2));
    assert_eq!(destination.rows(), ["1 1", "2 2", "3 three"]);
}

#[test]
fn a_copy_that_breaks_goes_on_from_its_last_primary_key() {
    let stage = Stage::new(1);
    let server = stage.start(|request, responder| {
        let shard = shard();
        match last_pk(&request.message, "0") {
            None => {
                responder.send(begin_copy(&shard, 1))?;
                responder.send(copy_rows(&shard, &ROWS[..1], 1))?;
            }
            Some(1) => {
                responder.send(begin_copy(&shard, 1))?;
                // Half a packet, then the end.
                responder.send(copied([shard.row_insert("t", &[Some("2"), Some("lost")])]))?;
                return Ok(if request.number == 1 { Ending::Ok } else { send_rest(responder)? });
            }
            Some(other) => panic!("{other} was not committed"),
        }
        Ok(Ending::Ok)
    });
    fn send_rest(responder: &mut Responder) -> Result<Ending, Gone> {
        responder.send(begin_copy(&shard(), 1))?;
        responder.send(copy_rows(&shard(), &ROWS[1..], 1))?;
        responder.send(end_copy(&shard(), 1))?;
        Ok(Ending::Ok)
    }
    let destination = Destination::new();
    let report = destination.capture_all(&briefly(&server));
    assert_eq!(destination.rows(), ["1 one", "2 two", "3 three"]);
    assert_eq!(report.tables[0].rows_read, 3);
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn an_error_that_nobody_knows_is_tried_again_a_few_times_only() {
    let stage = Stage::new(1);
    let server = stage.start(|request, responder| {
        if is_copy(&request.message) {
            copy(responder, &ROWS, 1)?;
            return Ok(Ending::Ok);
        }
        Ok(Ending::status(2, "Duplicate entry 'hunter2' in something new"))
    });
    let destination = Destination::new();
    destination.capture_all(&uri(&server, ""));
    stage.history.lock().unwrap().0 = 2;
    let begun = server.requests().len();
    let error = error_of(destination.capture(&uri(&server, "")), "t");
    assert!(error.contains("the stream broke 4 times without a new position: the server ended the stream with an error"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    assert_eq!(server.requests().len() - begun, 4);
}

#[test]
fn errors_that_waiting_does_not_cure_are_not_tried_again() {
    let cases = [
        (7, "auth failure: caller \"x\" provided invalid credentials", "refuses the user or the password"),
        (13, "minimal binlog_row_image is not supported by Vitess VReplication", "leaves out columns"),
        (8, "grpc: trying to send message larger than max (17000000 vs. 16777216)", "--grpc-max-message-size"),
        (12, "unknown service vtgateservice.Vitess", "--service-map"),
        // As versions up to 22 answer a position that is purged; later ones are silent.
        (2, "Cannot replicate because the source purged required binary logs (errno 1236) (sqlstate HY000)", "no longer hold"),
    ];
    for (code, text, expected) in cases {
        let stage = Stage::new(1);
        let server = stage.start(move |request, responder| {
            if is_copy(&request.message) {
                copy(responder, &ROWS, 1)?;
                return Ok(Ending::Ok);
            }
            Ok(Ending::status(code, text))
        });
        let destination = Destination::new();
        destination.capture_all(&uri(&server, ""));
        stage.history.lock().unwrap().0 = 2;
        let begun = server.requests().len();
        let error = error_of(destination.capture(&uri(&server, "")), "t");
        assert!(error.contains(expected), "{error}");
        assert_eq!(server.requests().len() - begun, 1, "{text}");
        assert_eq!(destination.rows().len(), 3);
    }
}

/// A tablet reads its schema now and then, a replica every half hour.
#[test]
fn a_table_that_its_tablet_has_not_noticed_yet_is_waited_for() {
    let server = Stage::new(1).start(|request, responder| {
        if request.number < 3 {
            return Ok(Ending::status(2, "table t is not present in the database"));
        }
        copy(responder, &ROWS, 1)?;
        Ok(Ending::Ok)
    });
    let destination = Destination::new();
    destination.capture_all(&uri(&server, ""));
    assert_eq!((server.requests().len(), destination.rows().len()), (4, 3));

    let server = Stage::new(1).start(|_, _| Ok(Ending::status(2, "table t is not present in the database")));
    let error = Destination::new().capture(&uri(&server, "&retry_timeout=2s")).unwrap_err();
    let said = format!("{error:#}");
    assert!(said.contains("for 2s (`retry_timeout`)") && said.contains("knows no such table"), "{said}");
    assert!(server.requests().len() > 1, "{}", server.requests().len());
}

#[test]
fn transactions_that_come_twice_count_once() {
    let stage = Stage::new(1);
    let changes: [&[Change<'static>]; 3] = [
        &[(Some((1, "one")), None), (None, Some((4, "four")))],
        &[(Some((4, "four")), Some((5, "five")))],
        &[(None, Some((1, "one again")))],
    ];
    let server = stage.start(move |request, responder| {
        if is_copy(&request.message) {
            copy(responder, &ROWS, 1)?;
            return Ok(Ending::Ok);
        }
        let all = (2..).zip(changes).map(|(number, changes)| transaction(&shard(), changes, number));
        // Each twice, then those before it once more, as after a change of tablets.
        let mut sent: Vec<Vec<VEvent>> = Vec::new();
        for transaction in all {
            responder.send(transaction.clone())?;
            responder.send(transaction.clone())?;
            sent.push(transaction);
            if request.number < 3 {
                return Ok(Ending::Ok);
            }
            for again in &sent {
                responder.send(again.clone())?;
            }
        }
        responder.stall();
        Ok(Ending::Ok)
    });
    let destination = Destination::new();
    destination.capture_all(&briefly(&server));
    stage.history.lock().unwrap().0 = 4;
    destination.capture_all(&briefly(&server));
    assert_eq!(destination.rows(), ["1 one again", "2 two", "3 three", "5 five"]);
    assert_eq!(destination.query("SELECT count(*) FROM t WHERE _cdc_deleted"), ["1"]);
}

#[test]
fn the_order_among_shards_does_not_matter() {
    let shards = ["-80", "80-"].map(|name| Shard::new(KEYSPACE, name));
    for order in [[0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1]] {
        let stage = Stage::new(1).shards(&["-80", "80-"]);
        let ours = shards.clone();
        let position = move |one: u32, other: u32| vec![ours[0].gtid(&gtid(one)), ours[1].gtid(&gtid(other))];
        let ours = shards.clone();
        let server = stage.start(move |request, responder| {
            if is_copy(&request.message) {
                // The second shard copies and completes first.
                for (number, shard) in ours.iter().enumerate().rev() {
                    let done = number == 0;
                    let id = number.to_string();
                    let at = |last: Vec<ShardGtid>| copied([shard.vgtid_of(last)]);
                    let other = if done { ours[1].gtid(&gtid(1)) } else { ours[0].gtid("") };
                    let both = |mine| if done { vec![mine, other.clone()] } else { vec![other.clone(), mine] };
                    responder.send(copied([shard.begin(), shard.field("t", &fields())]))?;
                    responder.send(at(both(shard.gtid(&gtid(1)))))?;
                    let copying = shard.gtid_copying(&gtid(1), "t", &fields()[..1], &[Some(&id)]);
                    responder.send(copied([shard.row_insert("t", &[Some(&id), Some("old")])]))?;
                    responder.send(copied([shard.vgtid_of(both(copying)), shard.commit()]))?;
                    let end = shard.vgtid_of(both(shard.gtid(&gtid(1))));
                    responder.send(copied([shard.begin(), end, shard.commit(), shard.copy_completed()]))?;
                }
                responder.send(copied([all_copied()]))?;
                return Ok(Ending::Ok);
            }
            let mut reached = [1_u32, 1];
            for number in order {
                reached[number] += 1;
                let name = format!("v{}", reached[number]);
                let id = i64::try_from(number).unwrap();
                let vgtid = ours[number].vgtid_of(position(reached[0], reached[1]));
                responder.send([heartbeat()])?;
                responder.send(transaction_of(&ours[number], &[(Some((id, "old")), Some((id, &name)))], vgtid))?;
            }
            responder.stall();
            Ok(Ending::Ok)
        });
        let destination = Destination::new();
        destination.capture_all(&briefly(&server));
        assert_eq!(destination.rows(), ["0 old", "1 old"]);
        stage.history.lock().unwrap().0 = 3;
        destination.capture_all(&briefly(&server));
        assert_eq!(destination.rows(), ["0 v3", "1 v3"], "{order:?}");
    }
}

#[test]
fn answers_that_come_late_are_waited_for() {
    let stage = Stage::new(2);
    let server = stage.start(|request, responder| {
        // Longer than a heartbeat's distance would be a test of its own; here it is the order that counts.
        let late = |responder: &mut Responder, events: Vec<VEvent>| {
            for _ in 0..3 {
                std::thread::sleep(Duration::from_millis(100));
                responder.send([heartbeat()])?;
            }
            responder.send(events)
        };
        if is_copy(&request.message) {
            late(responder, begin_copy(&shard(), 1))?;
            late(responder, copy_rows(&shard(), &ROWS, 1))?;
            late(responder, end_copy(&shard(), 1))?;
            return Ok(Ending::Ok);
        }
        late(responder, transaction(&shard(), &[(Some((3, "three")), None)], 2))?;
        Ok(Ending::Ok)
    });
    let destination = Destination::new();
    destination.capture_all(&briefly(&server));
    assert_eq!(destination.rows(), ["1 one", "2 two"]);
}

/// The error of a run whose copy, or whose stream, brings these events.
fn violation(shards: &[&'static str], in_copy: bool, events: Vec<VEvent>) -> String {
    let stage = Stage::new(1).shards(shards);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let server = stage.start(move |request, responder| {
        if !in_copy && is_copy(&request.message) {
            copy(responder, &ROWS, 1)?;
            return Ok(Ending::Ok);
        }
        counted.fetch_add(1, Ordering::SeqCst);
        responder.send(events.clone())?;
        responder.stall();
        Ok(Ending::Ok)
    });
    let destination = Destination::new();
    let rows = if in_copy { 0 } else { 3 };
    if !in_copy {
        destination.capture_all(&uri(&server, ""));
        stage.history.lock().unwrap().0 = 2;
    }
    let error = error_of(destination.capture(&uri(&server, "")), "t");
    // A server that breaks the protocol once would do so again.
    assert_eq!(calls.load(Ordering::SeqCst), 1, "{error}");
    if rows > 0 {
        assert_eq!(destination.rows().len(), rows);
    }
    error
}

#[test]
fn lies_about_a_completed_copy_are_errors_that_say_where() {
    let zero = shard();
    let (low, high) = (Shard::new(KEYSPACE, "-80"), Shard::new(KEYSPACE, "80-"));
    let two: &[&str] = &["-80", "80-"];

    let error = violation(&["0"], true, vec![all_copied()]);
    assert!(error.contains("COPY_COMPLETED came in the copy phase, and that of shard `0` has not come"), "{error}");
    let error = violation(
        two,
        true,
        [vec![low.begin(), low.vgtid_of(vec![low.gtid(&gtid(1)), high.gtid("")]), low.commit()], vec![low.copy_completed(), all_copied()]]
            .concat(),
    );
    assert!(error.contains("COPY_COMPLETED came in the copy phase, and that of shard `80-` has not come"), "{error}");
    let error = violation(&["0"], true, vec![zero.copy_completed()]);
    assert!(error.contains("COPY_COMPLETED came in the copy phase, and no GTID of shard `0` came before it"), "{error}");
    let error = violation(&["0"], true, vec![high.copy_completed()]);
    assert!(error.contains("there is no such shard in the request (keyspace `shop`, shard `80-`)"), "{error}");
    let error = violation(&["0"], false, vec![zero.copy_completed()]);
    assert!(
        error
            .contains("COPY_COMPLETED came in the stream, between transactions, and nothing was to be copied (keyspace `shop`, shard `0`)"),
        "{error}"
    );
}

#[test]
fn broken_rules_of_the_protocol_are_errors_that_name_state_event_keyspace_and_shard() {
    let zero = shard();
    let rows = |table: &str| zero.row_insert(table, &[Some("9"), Some("nine")]);
    let cases: [(Vec<VEvent>, &str); 8] = [
        (vec![zero.commit()], "COMMIT came in the stream, between transactions, and no transaction is open (keyspace `shop`, shard `0`)"),
        (vec![rows("t")], "ROW came in the stream, between transactions, and no transaction is open (keyspace `shop`, shard `0`)"),
        (
            vec![zero.begin(), rows("t")],
            "ROW came in a transaction of the stream, and table `t` had no FIELD event before it (keyspace `shop`, shard `0`)",
        ),
        (
            vec![zero.begin(), zero.field("u", &fields())],
            "FIELD came in a transaction of the stream, and table `u` was not asked for (keyspace `shop`, shard `0`)",
        ),
        (
            vec![Shard::new("other", "0").begin()],
            "BEGIN came in the stream, between transactions, and it is of another keyspace (keyspace `other`, shard `0`)",
        ),
        (
            vec![zero.vgtid_of(vec![Shard::new("other", "0").gtid(&gtid(2))])],
            "VGTID came in the stream, between transactions, and it is of keyspace `other` (keyspace `shop`, shard `0`)",
        ),
        (
            vec![zero.begin(), zero.ddl("truncate table t")],
            "DDL came in a transaction of the stream, and a transaction is open (keyspace `shop`, shard `0`)",
        ),
        (
            vec![VEvent { type_: 99, ..zero.begin() }],
            "an unknown event came in the stream, between transactions, and its type is 99 (keyspace `shop`, shard `0`)",
        ),
    ];
    for (events, expected) in cases {
        let error = violation(&["0"], false, events);
        assert!(error.contains(expected), "{error}");
    }
    // A row of another width.
    let narrow = zero.row_insert("t", &[Some("9")]);
    let error = violation(&["0"], false, vec![zero.begin(), zero.field("t", &fields()), narrow]);
    assert!(error.contains("a row has 1 values where its FIELD event has 2 columns") && error.contains("shard `0`"), "{error}");
}

#[test]
fn a_message_that_is_no_response_ends_the_run_and_names_the_protocol() {
    let server = Stage::new(1).start(|_, responder| {
        responder.send_bytes(vec![0x0a, 0xff, 0xff])?;
        responder.stall();
        Ok(Ending::Ok)
    });
    let error = Destination::new().capture(&uri(&server, "")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn the_first_connection_to_the_grpc_port_has_three_attempts_in_all() {
    let server = Stage::new(1).start(|_, responder| {
        copy(responder, &ROWS, 1)?;
        Ok(Ending::Ok)
    });
    let proxy = Proxy::start(("127.0.0.1", server.grpc_port), |_, _| Fault::Refuse);
    let source = uri(&server, "").replace(&format!("grpc_port={}", server.grpc_port), &format!("grpc_port={}", proxy.port));
    let begun = Instant::now();
    let error = Destination::new().capture(&source).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Connect | ErrorKind::Tls), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(proxy.connections(), 3);
}

#[test]
fn a_vtgate_that_is_away_between_two_tables_and_within_the_stream_is_waited_for() {
    const AWAY: usize = 6;
    let mut stage = Stage::new(2);
    stage.tables.push(("u", stage.tables[0].1.clone()));
    let server = stage.start(|request, responder| {
        let table = &request.message.filter.rules[0].match_;
        if is_copy(&request.message) {
            let named = |events| renamed(events, &format!("{KEYSPACE}.{table}"));
            responder.send(named(begin_copy(&shard(), 1)))?;
            responder.send(named(end_copy(&shard(), 1)))?;
            return Ok(Ending::Ok);
        }
        responder.send(transaction(&shard(), &[(None, Some((7, "seven")))], 2))?;
        responder.stall();
        Ok(Ending::Ok)
    });
    // The first call passes; after it there is nobody for some time, and so again after the second.
    let proxy = Proxy::start(("127.0.0.1", server.grpc_port), |number, _| match number {
        0 => Fault::None,
        number if number % (AWAY + 1) == 0 => Fault::None,
        _ => Fault::Refuse,
    });
    let source =
        uri(&server, "&retry_timeout=30s").replace(&format!("grpc_port={}", server.grpc_port), &format!("grpc_port={}", proxy.port));
    let destination = Destination::new();
    destination.capture_all(&source);
    assert_eq!(destination.rows(), ["7 seven"]);
    assert_eq!((proxy.faults(), server.requests().len()), (2 * AWAY, 3));
}

#[test]
fn a_mysql_port_that_is_away_in_the_middle_of_a_run_is_waited_for() {
    let stage = Stage::new(3).answering(|statement| match statement.contains("column_default, extra") {
        true => Answer::rows(&[mysql::Column::text("column_default"), mysql::Column::text("extra")], &[&[Some("old"), Some("")]]),
        false => Answer::Unscripted,
    });
    let (sender, reached) = std::sync::mpsc::channel();
    let sender = Mutex::new(sender);
    let (go, wait) = std::sync::mpsc::channel();
    let wait = Mutex::new(wait);
    let server = stage.start(move |request, responder| {
        if is_copy(&request.message) {
            copy(responder, &ROWS, 1)?;
            return Ok(Ending::Ok);
        }
        sender.lock().unwrap().send(()).unwrap();
        wait.lock().unwrap().recv().unwrap();
        // A column has come in between: what older rows hold in it is asked over MySQL.
        let mut wider = fields();
        wider.push(column("state", "varchar(9)"));
        let row = shard().row_insert("t", &[Some("4"), Some("four"), Some("new")]);
        responder.send([shard().vgtid(&gtid(2)), shard().ddl("alter table t add column state varchar(9) default 'old'")])?;
        responder.send([shard().begin(), shard().field("t", &wider), row, shard().vgtid(&gtid(3)), shard().commit()])?;
        responder.stall();
        Ok(Ending::Ok)
    });
    let proxy = Proxy::start(("127.0.0.1", server.mysql_port), |_, _| Fault::None);
    let source = uri(&server, "&retry_timeout=30s").replace(&format!(":{}/", server.mysql_port), &format!(":{}/", proxy.port));
    let destination = Destination::new();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| destination.capture_all(&source));
        reached.recv().unwrap();
        let before = proxy.connections();
        proxy.set(move |number, _| if number < before + 4 { Fault::Refuse } else { Fault::None });
        proxy.close();
        go.send(()).unwrap();
        run.join().unwrap();
        assert_eq!(proxy.connections(), before + 5);
    });
    assert_eq!(destination.query("SELECT id, name, state FROM t ORDER BY id"), ["1 one old", "2 two old", "3 three old", "4 four new"]);
}

#[test]
fn a_mysql_port_that_is_gone_for_good_ends_the_run_in_time() {
    let stage = Stage::new(1);
    let server = stage.start(|_, _| Ok(Ending::Ok));
    let proxy = Proxy::start(("127.0.0.1", server.mysql_port), |_, _| Fault::None);
    let source = uri(&server, "&retry_timeout=1s").replace(&format!(":{}/", server.mysql_port), &format!(":{}/", proxy.port));
    let source = Source::open(&source).unwrap();
    proxy.set(|_, _| Fault::Cut { way: Way::FromServer, after: 20 });
    proxy.close();
    let begun = Instant::now();
    let error = source.tables().unwrap_err();
    assert!(error.to_string().contains("the MySQL server could not be asked") && error.to_string().contains("`retry_timeout`"), "{error}");
    assert!(error.is_transient(), "{error:?}");
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(4), "{took:?}");
    // The time is not given again for each question.
    let begun = Instant::now();
    source.table("t").unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    // Once it is back, it is as if nothing had been.
    proxy.set(|_, _| Fault::None);
    assert_eq!(source.tables().unwrap().len(), 1);
}
