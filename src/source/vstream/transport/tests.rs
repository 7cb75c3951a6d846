//! Against a vtgate in this process, over real sockets.

use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc;

use super::*;
use crate::source::vstream::scripted::events::{Shard, heartbeat};
use crate::source::vstream::scripted::tls::{Authority, Identity};
use crate::source::vstream::scripted::{Ending, Request, Responder, Script, Vtgate};

fn endpoint(host: &str) -> Endpoint {
    Endpoint {
        host: host.into(),
        port: 15991,
        tls: Tls::Off,
        tls_files: TlsFiles::default(),
        user: Some("app".into()),
        password: Some("p@ss:w/rd".into()),
        connect_timeout: Duration::from_secs(5),
        max_message_bytes: 64 << 20,
        plaintext_credentials: false,
        proven: false,
    }
}

#[test]
fn debug_does_not_show_the_password() {
    let shown = format!("{:?}", endpoint("db.example"));
    assert!(shown.contains("db.example:15991") && !shown.contains("w/rd"), "{shown}");
}

#[test]
fn the_authority_of_an_ipv6_address_has_brackets_once() {
    assert_eq!(endpoint("::1").server(), "[::1]:15991");
    assert_eq!(endpoint("[::1]").server(), "[::1]:15991");
    assert_eq!(endpoint("[::1]").bare_host(), "::1");
}

#[test]
fn a_password_goes_in_plain_text_to_this_machine_only() {
    // An address of the range for documentation: were it dialled, this would take the whole time limit and be another error.
    let error = Channel::connect(&endpoint("192.0.2.1"), &Cancel::new()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        "the password would go to `192.0.2.1:15991` in plain text: set `grpc_tls=true`, or allow it with `grpc_credentials=plaintext`"
    );
}

#[test]
fn preferred_is_refused() {
    let error = Channel::connect(&Endpoint { tls: Tls::Preferred, ..endpoint("127.0.0.1") }, &Cancel::new()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[test]
fn credentials_are_sent_in_both_forms() {
    let metadata = credentials(&endpoint("db")).unwrap().unwrap();
    let sent: Vec<_> = metadata.iter().map(|(key, value)| (key.to_owned(), String::from_utf8_lossy(value).into_owned())).collect();
    let expected = [("authorization", "Basic YXBwOnBAc3M6dy9yZA=="), ("username", "app"), ("password", "p@ss:w/rd")]
        .map(|(k, v)| (k.into(), v.into()));
    assert_eq!(sent, expected);

    let umlaut = Endpoint { password: Some("pässword".into()), ..endpoint("db") };
    assert_eq!(credentials(&umlaut).unwrap().unwrap().len(), 1);
    assert!(credentials(&Endpoint { user: None, ..endpoint("db") }).unwrap().is_none());
}

#[test]
fn a_message_that_is_not_protobuf_is_a_protocol_error() {
    assert_eq!(decode(&[0x0a, 0xff]).unwrap_err().kind(), ErrorKind::Protocol);
    assert!(decode(&[]).unwrap().events.is_empty());
}

fn local(server: &Vtgate) -> Endpoint {
    Endpoint { port: server.grpc_port, user: None, password: None, ..endpoint("127.0.0.1") }
}

fn open(endpoint: &Endpoint) -> Stream {
    Channel::connect(endpoint, &Cancel::new()).unwrap().vstream(&VStreamRequest::default()).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn message(stream: &mut Stream) -> Vec<u8> {
    match stream.receive(soon()).unwrap() {
        Received::Message(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

/// The error of connecting, or else of the first message.
fn failure(endpoint: &Endpoint) -> Error {
    let begun = Instant::now();
    let error = match Channel::connect(endpoint, &Cancel::new()) {
        Ok(channel) => channel.vstream(&VStreamRequest::default()).unwrap().receive(soon()).unwrap_err(),
        Err(error) => error,
    };
    assert!(begun.elapsed() < endpoint.connect_timeout + Duration::from_secs(1), "{:?}", begun.elapsed());
    error
}

fn file(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn one_heartbeat(_: &Request, responder: &mut Responder) -> Ending {
    // A client that left does not matter to the script.
    let _ = responder.send([heartbeat()]);
    Ending::Ok
}

#[test]
fn messages_arrive_in_order_then_the_end_then_nothing() {
    let server = Vtgate::start(Script::new(|_, responder| {
        let shard = Shard::new("shop", "0");
        let _ = responder.send([shard.begin(), shard.row_insert("item", &[Some("1"), None])]);
        let _ = responder.send([shard.vgtid("MySQL56/u:1-2"), shard.commit()]);
        Ending::Ok
    }));
    let channel = Channel::connect(&local(&server), &Cancel::new()).unwrap();
    let request = VStreamRequest { tablet_type: 2, ..Default::default() };
    let mut stream = channel.vstream(&request).unwrap();
    let first = decode(&message(&mut stream)).unwrap();
    assert_eq!(first.events.iter().map(|event| event.type_).collect::<Vec<_>>(), [2, 12]);
    assert_eq!(first.events[1].row_event.row_changes[0].after.lengths, [1, -1]);
    let second = decode(&message(&mut stream)).unwrap();
    assert_eq!(second.events[0].vgtid.shard_gtids[0].gtid, "MySQL56/u:1-2");
    assert!(matches!(stream.receive(soon()).unwrap(), Received::Ended));
    assert!(matches!(stream.receive(soon()).unwrap(), Received::Ended));
    assert_eq!(server.requests()[0].tablet_type, 2);
}

#[test]
fn credentials_reach_the_server_and_wrong_ones_are_refused() {
    let (sender, metadata) = mpsc::channel();
    let script = Script::new(move |request, responder| {
        sender.send(request.metadata.clone()).unwrap();
        one_heartbeat(request, responder)
    });
    let server = Vtgate::start(script.credentials("app", "p@ss:w/rd"));
    let good = Endpoint { user: Some("app".into()), password: Some("p@ss:w/rd".into()), ..local(&server) };
    message(&mut open(&good));
    let metadata = metadata.recv().unwrap();
    assert_eq!(metadata["authorization"], "Basic YXBwOnBAc3M6dy9yZA==");
    assert!(metadata["user-agent"].starts_with("planetscale-ingest/"), "{metadata:?}");

    let wrong = failure(&Endpoint { password: Some("wrong".into()), ..good.clone() });
    assert_eq!(wrong.kind(), ErrorKind::Auth);
    assert!(wrong.to_string().starts_with("the server refuses the user or the password;"), "{wrong}");
    let none = failure(&Endpoint { user: None, ..good });
    assert_eq!(none.kind(), ErrorKind::Auth);
    assert!(none.to_string().starts_with("the server asks for a user and a password;"), "{none}");
}

#[test]
fn tls_verifies_issuer_name_and_dates_unless_told_not_to() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new("one"), Authority::new("another"));
    let ca = file(folder.path(), "ca.pem", &authority.pem);
    let other_ca = file(folder.path(), "other.pem", &other.pem);
    let serve = |identity: Identity| Vtgate::start(Script::new(one_heartbeat).tls(identity));
    let trusting = |server: &Vtgate, ca: &Path| Endpoint {
        tls: Tls::Verify,
        tls_files: TlsFiles { ca: Some(ca.to_owned()), ..TlsFiles::default() },
        ..local(server)
    };

    let server = serve(authority.issue(&["localhost", "127.0.0.1"]));
    message(&mut open(&trusting(&server, &ca)));
    message(&mut open(&Endpoint { host: "localhost".into(), ..trusting(&server, &ca) }));
    message(&mut open(&Endpoint { tls: Tls::DangerSkipVerify, ..local(&server) }));
    let unknown = failure(&trusting(&server, &other_ca));
    assert_eq!(unknown.kind(), ErrorKind::Tls);
    assert!(unknown.to_string().contains("from an issuer that is not trusted"), "{unknown}");

    let elsewhere = serve(authority.issue(&["db.example"]));
    let name = failure(&trusting(&elsewhere, &ca));
    assert_eq!(name.kind(), ErrorKind::Tls);
    assert!(name.to_string().contains("is for another host name"), "{name}");

    let old = serve(authority.issue_expired(&["127.0.0.1"]));
    let expired = failure(&trusting(&old, &ca));
    assert_eq!(expired.kind(), ErrorKind::Tls);
    assert!(expired.to_string().contains("has expired"), "{expired}");
}

#[test]
fn a_client_certificate_is_shown_where_it_is_demanded() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("one");
    let server = Vtgate::start(Script::new(one_heartbeat).tls(authority.issue(&["127.0.0.1"]).demanding_client_of(&authority)));
    let mut endpoint = local(&server);
    endpoint.tls = Tls::Verify;
    endpoint.tls_files.ca = Some(file(folder.path(), "ca.pem", &authority.pem));
    let without = failure(&endpoint);
    assert_eq!(without.kind(), ErrorKind::Auth);
    assert!(without.to_string().contains("requires a client certificate"), "{without}");

    let mine = authority.issue(&["a client"]);
    endpoint.tls_files.cert = Some(file(folder.path(), "cert.pem", &mine.certificate));
    endpoint.tls_files.key = Some(file(folder.path(), "key.pem", &mine.key));
    message(&mut open(&endpoint));

    let stranger = Authority::new("another").issue(&["a stranger"]);
    endpoint.tls_files.cert = Some(file(folder.path(), "cert.pem", &stranger.certificate));
    let mismatch = failure(&endpoint);
    assert_eq!(mismatch.kind(), ErrorKind::Config);
    assert!(mismatch.to_string().contains("`tls_key` is not the key of the certificate"), "{mismatch}");
    endpoint.tls_files.key = Some(file(folder.path(), "key.pem", &stranger.key));
    let refused = failure(&endpoint);
    assert_eq!(refused.kind(), ErrorKind::Auth);
    assert!(refused.to_string().contains("refused the client certificate"), "{refused}");
}

#[test]
fn tls_and_plain_text_that_meet_are_told_apart_from_a_port_that_is_not_grpc() {
    let plain = Vtgate::start(Script::new(one_heartbeat));
    let secure = Vtgate::start(Script::new(one_heartbeat).tls(Authority::new("one").issue(&["127.0.0.1"])));

    let tls_to_plain = failure(&Endpoint { tls: Tls::DangerSkipVerify, ..local(&plain) });
    assert_eq!(tls_to_plain.kind(), ErrorKind::Tls);
    assert!(tls_to_plain.to_string().contains("`grpc_tls=false`"), "{tls_to_plain}");
    let plain_to_tls = failure(&local(&secure));
    assert_eq!(plain_to_tls.kind(), ErrorKind::Tls);
    assert!(plain_to_tls.to_string().contains("`grpc_tls=true`"), "{plain_to_tls}");

    let mysql = failure(&Endpoint { port: plain.mysql_port, ..local(&plain) });
    assert_eq!(mysql.kind(), ErrorKind::Config);
    assert!(mysql.to_string().contains("answers as a MySQL server"), "{mysql}");
}

#[test]
fn a_port_that_refuses_and_one_that_never_answers_fail_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for (tls, sentence) in [(Tls::Off, "sent nothing"), (Tls::DangerSkipVerify, "the TLS handshake")] {
        let silent = failure(&Endpoint { port, tls, user: None, connect_timeout: Duration::from_secs(2), ..endpoint("127.0.0.1") });
        assert_eq!(silent.kind(), ErrorKind::Timeout);
        assert!(silent.to_string().contains(sentence), "{silent}");
    }
    drop(listener);
    let refused = failure(&Endpoint { port, user: None, ..endpoint("127.0.0.1") });
    assert_eq!(refused.kind(), ErrorKind::Connect);
    assert!(refused.to_string().contains("refuses the connection"), "{refused}");
    assert!(refused.is_transient());
}

#[test]
fn a_stream_that_timed_out_goes_on() {
    let (go, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    let server = Vtgate::start(Script::new(move |request, responder| {
        wait.lock().unwrap().recv_timeout(Duration::from_secs(10)).unwrap();
        one_heartbeat(request, responder)
    }));
    let mut stream = open(&local(&server));
    for _ in 0..3 {
        assert!(matches!(stream.receive(Instant::now() + Duration::from_millis(20)).unwrap(), Received::TimedOut));
    }
    go.send(()).unwrap();
    message(&mut stream);
    // What is already there comes even when the deadline is over.
    assert!(matches!(stream.receive(soon()).unwrap(), Received::Ended));
}

#[test]
fn connecting_ends_within_a_second_when_cancelled_whatever_it_waits_for() {
    // Connections wait in the backlog, and nobody answers them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    for tls in [Tls::Off, Tls::DangerSkipVerify] {
        let endpoint = Endpoint { port, tls, user: None, connect_timeout: Duration::from_secs(60), ..endpoint("127.0.0.1") };
        let cancel = Cancel::new();
        std::thread::scope(|scope| {
            let connecting = scope.spawn(|| Channel::connect(&endpoint, &cancel).err().unwrap());
            // Its first bytes have come: the handshake, or the wait for the answer, has begun.
            let (mut accepted, _) = silent.accept().unwrap();
            io::Read::read_exact(&mut accepted, &mut [0; 1]).unwrap();
            let cancelled = Instant::now();
            cancel.cancel();
            assert_eq!(connecting.join().unwrap().kind(), ErrorKind::Cancelled);
            assert!(cancelled.elapsed() < Duration::from_secs(1), "{:?}", cancelled.elapsed());
        });
    }
}

#[test]
fn a_server_that_has_answered_before_and_now_closes_is_one_that_may_come_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        for answer in [&b""[..], b"", b"HTTP/1.1 503 Service Unavailable\r\n\r\n"] {
            let (mut connection, _) = listener.accept().unwrap();
            io::Read::read_exact(&mut connection, &mut [0; 1]).unwrap();
            io::Write::write_all(&mut connection, answer).unwrap();
        }
    });
    for tls in [Tls::Off, Tls::DangerSkipVerify, Tls::Off] {
        let error = failure(&Endpoint { port, tls, proven: true, user: None, ..endpoint("127.0.0.1") });
        assert_eq!(error.kind(), ErrorKind::Connect, "{error:?}");
    }
    server.join().unwrap();
}

#[test]
fn every_status_has_its_kind_and_none_passes_on_what_the_server_quotes() {
    use ErrorKind::{Auth, Connect, Limit, Protocol, Source, Timeout, Unsupported};
    let kinds = [
        Connect,
        Source,
        Source,
        Timeout,
        Connect,
        Protocol,
        Auth,
        Limit,
        Connect,
        Connect,
        Protocol,
        Unsupported,
        Source,
        Connect,
        Protocol,
        Auth,
    ];
    let server = Vtgate::start(Script::new(|request, _| {
        Ending::status(request.message.tablet_type, "Duplicate entry 'hunter2' for key 'PRIMARY' (errno 1062)")
    }));
    let channel = Channel::connect(&local(&server), &Cancel::new()).unwrap();
    for (code, kind) in (1..).zip(kinds) {
        let mut stream = channel.vstream(&VStreamRequest { tablet_type: code, ..Default::default() }).unwrap();
        let error = stream.receive(soon()).unwrap_err();
        assert_eq!(error.kind(), kind, "{code}: {error}");
        let shown = format!("{error:?}");
        assert!(shown.contains("(MySQL error 1062)") && !shown.contains("hunter2"), "{shown}");
        assert!(matches!(stream.receive(soon()).unwrap(), Received::Ended));
    }
}

#[test]
fn a_message_of_ten_megabytes_passes_and_one_above_the_limit_names_the_setting() {
    let server = Vtgate::start(Script::new(|request, responder| {
        let size = usize::try_from(request.message.tablet_type).unwrap();
        let _ = responder.send_bytes(vec![7; size]);
        Ending::Ok
    }));
    let channel = Channel::connect(&Endpoint { max_message_bytes: 10 << 20, ..local(&server) }, &Cancel::new()).unwrap();
    let receive = |size: i32| channel.vstream(&VStreamRequest { tablet_type: size, ..Default::default() }).unwrap().receive(soon());
    match receive(10 << 20).unwrap() {
        Received::Message(bytes) => assert!(bytes.len() == 10 << 20 && bytes.iter().all(|byte| *byte == 7)),
        other => panic!("{other:?}"),
    }
    let error = receive((10 << 20) + 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert!(error.to_string().contains("raise `max_message_bytes`"), "{error}");
}

#[test]
fn forty_megabytes_arrive_unchanged_over_tls_though_the_reader_is_slow_to_begin() {
    const COUNT: usize = 40;
    // Each message is the pattern begun at another place.
    let pattern: Vec<u8> = (0..1_000_003_u32).map(|i| (i / 3).to_le_bytes()[0].wrapping_mul(31) ^ i.to_le_bytes()[1]).collect();
    let message_of = |pattern: &[u8], number: usize| [&pattern[number..], &pattern[..number]].concat();
    let (sent, all_sent) = mpsc::channel();
    let copy = pattern.clone();
    let script = Script::new(move |_, responder| {
        for number in 0..COUNT {
            if responder.send_bytes(message_of(&copy, number)).is_err() {
                break;
            }
            let _ = sent.send(number);
        }
        Ending::Ok
    });
    let server = Vtgate::start(script.tls(Authority::new("one").issue(&["127.0.0.1"])));
    let mut stream = open(&Endpoint { tls: Tls::DangerSkipVerify, ..local(&server) });
    // The first message is on its way, the others wait for the reader: nothing in between takes them all in.
    assert_eq!(all_sent.recv().unwrap(), 0);
    assert!(all_sent.try_iter().count() < COUNT - 1);
    for number in 0..COUNT {
        assert!(message(&mut stream) == message_of(&pattern, number), "message {number}");
    }
    assert!(matches!(stream.receive(soon()).unwrap(), Received::Ended));
}

#[test]
fn dropping_an_open_stream_ends_the_call_and_its_threads_within_a_second() {
    let authority = Authority::new("one");
    for identity in [None, Some(authority.issue(&["127.0.0.1"]))] {
        let tls = if identity.is_some() { Tls::DangerSkipVerify } else { Tls::Off };
        let mut script = Script::new(|_, responder| {
            let _ = responder.send([heartbeat()]);
            responder.stall();
            Ending::Ok
        });
        if let Some(identity) = identity {
            script = script.tls(identity);
        }
        let server = Vtgate::start(script);
        let mut stream = open(&Endpoint { tls, ..local(&server) });
        message(&mut stream);
        let begun = Instant::now();
        // Dropping waits for the pump.
        drop(stream);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        assert!(server.wait_for_ended_calls(1));
    }
}

#[test]
fn a_server_that_goes_away_is_a_broken_connection_that_may_come_back() {
    for identity in [None, Some(Authority::new("one").issue(&["127.0.0.1"]))] {
        let tls = if identity.is_some() { Tls::DangerSkipVerify } else { Tls::Off };
        let mut script = Script::new(|_, responder| {
            let _ = responder.send([heartbeat()]);
            responder.stall();
            Ending::status(14, "")
        });
        if let Some(identity) = identity {
            script = script.tls(identity);
        }
        let server = Vtgate::start(script);
        let mut stream = open(&Endpoint { tls, ..local(&server) });
        message(&mut stream);
        drop(server);
        let error = stream.receive(soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connect, "{error:?}");
        assert!(error.is_transient());
    }
}

#[test]
fn streams_of_one_channel_are_independent() {
    let server = Vtgate::start(Script::new(|request, responder| {
        let _ = responder.send([heartbeat()]);
        if request.number == 0 {
            responder.stall();
        }
        Ending::Ok
    }));
    let channel = Channel::connect(&local(&server), &Cancel::new()).unwrap();
    let mut first = channel.vstream(&VStreamRequest::default()).unwrap();
    message(&mut first);
    let mut second = channel.vstream(&VStreamRequest::default()).unwrap();
    drop(channel);
    message(&mut second);
    assert!(matches!(second.receive(soon()).unwrap(), Received::Ended));
    drop(second);
    assert!(matches!(first.receive(Instant::now() + Duration::from_millis(20)).unwrap(), Received::TimedOut));
}
