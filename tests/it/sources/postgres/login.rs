//! Ways to log in, and to be refused.

use std::io::{Read, Write};
use std::net::TcpListener;

use planetscale_ingest::{ErrorKind, ServerKind, Source};

use crate::support::postgres::{encoded, postgres};

fn file(name: &str, path: &std::path::Path) -> String {
    format!("{name}={}", encoded(&path.to_string_lossy()))
}

#[track_caller]
fn refused(uri: &str) -> planetscale_ingest::Error {
    let error = Source::open(uri).expect_err("the login succeeds, though it should not");
    let password = &postgres().password;
    assert!(!format!("{error:#} {error:?}").contains(password), "{error:#}");
    error
}

#[test]
fn tls_is_as_the_mode_says() {
    let server = postgres();
    let (ca, other) = (file("sslrootcert", &server.ca), file("sslrootcert", &server.other_ca));
    let modes = [
        "sslmode=disable".to_owned(),
        "sslmode=prefer".to_owned(),
        "sslmode=require".to_owned(),
        format!("sslmode=require&{ca}"),
        format!("sslmode=verify-ca&{ca}"),
        format!("sslmode=verify-full&{ca}"),
        ca.clone(),
    ];
    for mode in &modes {
        let source = Source::open(&server.uri(mode)).unwrap_or_else(|error| panic!("{mode}: {error:#}"));
        assert!(matches!(source.server(), ServerKind::Postgres { version } if version.starts_with(|digit: char| digit.is_ascii_digit())));
    }
    for mode in ["require", "verify-ca", "verify-full"] {
        let error = refused(&server.uri(&format!("sslmode={mode}&{other}")));
        assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
        assert!(error.to_string().contains("`sslrootcert`"), "{error}");
    }
    // The certificate is for 127.0.0.1, and not for other ways to write that.
    let elsewhere =
        |mode: &str| Source::open(&server.uri(&format!("{mode}&{ca}")).replace(&format!("@{}:", server.host), "@[::ffff:127.0.0.1]:"));
    assert_eq!(elsewhere("sslmode=verify-full").unwrap_err().kind(), ErrorKind::Tls);
    assert!(elsewhere("sslmode=verify-ca").is_ok());
    // Only over TLS.
    let secure = |mode: &str| server.uri_of("secure", server.port, mode);
    assert!(Source::open(&secure("sslmode=prefer")).is_ok());
    assert_eq!(refused(&secure("sslmode=disable")).kind(), ErrorKind::Auth);
}

#[test]
fn every_way_to_log_in_works_and_wrong_ones_are_refused() {
    let server = postgres();
    for user in ["legacy", "clear", server.reader.as_str()] {
        Source::open(&server.uri_of(user, server.port, "")).unwrap_or_else(|error| panic!("{user}: {error:#}"));
        let wrong = server.uri_of(user, server.port, "").replace(&encoded(&server.password), "wrong");
        let error = refused(&wrong);
        assert_eq!(error.kind(), ErrorKind::Auth, "{error:#}");
    }
    let certified = format!("postgresql://certified@{}:{}/commerce?sslmode=require", server.host, server.port);
    let pair = format!("{}&{}", file("sslcert", &server.client_cert), file("sslkey", &server.client_key));
    Source::open(&format!("{certified}&{pair}")).unwrap();
    assert_eq!(refused(&certified).kind(), ErrorKind::Auth);
    let without = server.uri("").replace(&format!(":{}@", encoded(&server.password)), "@");
    let error = refused(&without);
    assert!(error.kind() == ErrorKind::Auth && error.to_string().contains("wants a password"), "{error}");
    let database = refused(&server.uri("").replace("/commerce?", "/nowhere?"));
    assert_eq!(database.kind(), ErrorKind::Schema, "{database:#}");
    let option = refused(&server.uri("options=-c%20colour%3Dred"));
    assert!(format!("{option:#}").contains("colour"), "{option:#}");
}

#[test]
fn a_server_that_is_something_else_is_an_error() {
    // It answers whatever is said with this, and closes the connection.
    for (answer, mode) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "sslmode=disable"),
        (b"HTTP/1.1", "sslmode=require"),
        (b"", "sslmode=prefer"),
        (b"N", "sslmode=require"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut heard = [0; 1024];
            let _ = client.read(&mut heard);
            let _ = client.write_all(answer);
        });
        let error = refused(&postgres().uri_of("app", port, mode));
        assert!(matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Connect | ErrorKind::Tls), "{error:#}");
        assert!(error.to_string().contains(&port.to_string()), "{error}");
        thread.join().unwrap();
    }
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert_eq!(refused(&postgres().uri_of("app", free, "")).kind(), ErrorKind::Connect);
}
