use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::ErrorKind;
use crate::place::IntervalType;

fn shop() -> SourceOptions {
    SourceOptions::new("h", "shop")
}

fn capture() -> CaptureOptions {
    CaptureOptions::new(15991)
}

#[test]
fn mysql_uris_set_what_they_say() {
    let cases = [
        ("mysql://h/shop", shop()),
        ("MySQL://h/shop", shop()),
        ("mysql://h:3307/shop", shop().with_port(3307)),
        ("mysql://h:65535/shop", shop().with_port(65535)),
        ("mysql://@h/shop", shop()),
        ("mysql://u@h/shop", shop().with_user("u")),
        ("mysql://u:@h/shop", shop().with_user("u")),
        ("mysql://u:p@h/shop", shop().with_user("u").with_password("p")),
        ("mysql://u:p:q@h/shop", shop().with_user("u").with_password("p:q")),
        ("mysql://u:p@q@h/shop", shop().with_user("u").with_password("p@q")),
        ("mysql://u%3Av%40:p%40ss%3Aw%2Frd@h/shop", shop().with_user("u:v@").with_password("p@ss:w/rd")),
        ("mysql://u:a+b%2bc%25@h/shop", shop().with_user("u").with_password("a+b+c%")),
        ("mysql://%C3%BC:p\u{fc}@h/shop", shop().with_user("\u{fc}").with_password("p\u{fc}")),
        ("mysql://db-1.example_x/shop", SourceOptions::new("db-1.example_x", "shop")),
        ("mysql://127.0.0.1/shop", SourceOptions::new("127.0.0.1", "shop")),
        ("mysql://[::1]/shop", SourceOptions::new("::1", "shop")),
        ("mysql://u@[2001:db8::7]:3307/shop", SourceOptions::new("2001:db8::7", "shop").with_port(3307).with_user("u")),
        ("mysql://h/shop%2F1", SourceOptions::new("h", "shop/1")),
        ("mysql://h/ks:-80%40replica", SourceOptions::new("h", "ks:-80@replica")),
        ("mysql://h/shop?tls=true", shop().with_tls(Tls::Verify)),
        ("mysql://h/shop?tls=verify", shop().with_tls(Tls::Verify)),
        ("mysql://h/shop?tls=skip-verify", shop().with_tls(Tls::DangerSkipVerify)),
        ("mysql://h/shop?tls=preferred", shop().with_tls(Tls::Preferred)),
        ("mysql://h/shop?tls=false", shop().with_tls(Tls::Off)),
        ("mysql://h/shop?tls_ca=/etc/ca%20%26%201.pem", shop().with_tls_ca("/etc/ca & 1.pem")),
        ("mysql://h/shop?tls_key=k&tls_cert=c", shop().with_client_certificate("c", "k")),
        ("mysql://h/shop?tls=skip-verify&tls_key=k&tls_cert=c", shop().with_tls(Tls::DangerSkipVerify).with_client_certificate("c", "k")),
        ("mysql://h/shop?connect_timeout=500ms", shop().with_connect_timeout(Duration::from_millis(500))),
        ("mysql://h/shop?connect_timeout=2m", shop().with_connect_timeout(Duration::from_secs(120))),
        ("mysql://h/shop?connect_timeout=24h", shop().with_connect_timeout(Duration::from_secs(86_400))),
        ("mysql://h/shop?read_timeout=30s", shop().with_read_timeout(Duration::from_secs(30))),
        ("mysql://h/shop?retry_timeout=1ms", shop().with_retry_timeout(Duration::from_millis(1))),
    ];
    for (uri, expected) in cases {
        assert_eq!(SourceOptions::from_uri(uri).unwrap_or_else(|error| panic!("{uri}: {error}")), expected, "{uri}");
    }
}

#[test]
fn postgres_uris_set_what_they_say() {
    let shop = || SourceOptions::postgres("h", "shop").with_user("u");
    let cases = [
        ("postgresql://u@h/shop", shop()),
        ("POSTGRES://u@h:5433/shop", shop().with_port(5433)),
        ("postgresql://u:p%40ss%3Aw%2Frd@h/shop?sslmode=disable", shop().with_password("p@ss:w/rd").with_tls(Tls::Off)),
        ("postgresql://u@h/shop?sslmode=prefer", shop().with_tls(Tls::Preferred)),
        ("postgresql://u@h/shop?sslmode=require", shop().with_tls(Tls::DangerSkipVerify)),
        ("postgresql://u@h/shop?sslmode=require&sslrootcert=ca.pem", shop().with_tls(Tls::VerifyIssuer).with_tls_ca("ca.pem")),
        ("postgresql://u@h/shop?sslmode=verify-ca&sslrootcert=ca.pem", shop().with_tls(Tls::VerifyIssuer).with_tls_ca("ca.pem")),
        ("postgresql://u@h/shop?sslmode=verify-full&sslcert=c&sslkey=k", shop().with_tls(Tls::Verify).with_client_certificate("c", "k")),
        ("postgresql://u@h/shop?schema=a&interval_type=time", shop().with_schema("a").with_interval_type(IntervalType::Time)),
        (
            "postgresql://u@h/shop?application_name=x&options=-c%20search_path%3Da,b",
            shop().with_application_name("x").with_session_options("-c search_path=a,b"),
        ),
        ("postgresql://u@h/shop?connect_timeout=3s", shop().with_connect_timeout(Duration::from_secs(3))),
    ];
    for (uri, expected) in cases {
        assert_eq!(SourceOptions::from_uri(uri).unwrap_or_else(|error| panic!("{uri}: {error}")), expected, "{uri}");
    }
    let default = SourceOptions::from_uri("postgresql://u@h/shop?sslrootcert=ca.pem").unwrap();
    assert_eq!(default.tls(), Tls::Verify);
    assert_eq!(SinkOptions::from_uri("postgres://u@h/shop").unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn file_uris_set_what_they_say() {
    let cases = [
        ("sqlite:///data/shop.db", SourceOptions::sqlite("/data/shop.db")),
        ("SQLite://shop%3F.db", SourceOptions::sqlite("shop?.db")),
        (
            "sqlite://shop.db?busy_timeout=1m&types=text",
            SourceOptions::sqlite("shop.db").with_busy_timeout(Duration::from_secs(60)).with_sqlite_types(SqliteTypes::Text),
        ),
        ("duckdb:///data/shop.duckdb", SourceOptions::duckdb("/data/shop.duckdb")),
        (
            "duckdb://x?schema=a%20b&memory_limit=1GiB&interval_type=text",
            SourceOptions::duckdb("x").with_schema("a b").with_memory_limit_bytes(1 << 30).with_interval_type(IntervalType::Text),
        ),
    ];
    for (uri, expected) in cases {
        assert_eq!(SourceOptions::from_uri(uri).unwrap_or_else(|error| panic!("{uri}: {error}")), expected, "{uri}");
    }
    let wrong = SourceOptions::sqlite("x").with_schema("main").check().unwrap_err();
    assert!(wrong.to_string().contains("`schema` is set for a source that does not have it"), "{wrong}");
}

#[test]
fn capture_uris_set_what_they_say() {
    let cases = [
        ("", capture()),
        ("&grpc_host=g.example", capture().with_grpc_host("g.example")),
        ("&grpc_host=[::1]", capture().with_grpc_host("::1")),
        ("&grpc_host=::1", capture().with_grpc_host("::1")),
        ("&grpc_tls=true", capture().with_grpc_tls(Tls::Verify)),
        ("&grpc_tls=skip-verify", capture().with_grpc_tls(Tls::DangerSkipVerify)),
        ("&grpc_tls=false", capture().with_grpc_tls(Tls::Off)),
        (
            "&grpc_tls=false&grpc_credentials=plaintext",
            capture().with_grpc_tls(Tls::Off).with_grpc_credentials(GrpcCredentials::DangerPlaintext),
        ),
        ("&grpc_credentials=protected", capture()),
        ("&mode=batch", capture()),
        ("&mode=stream", capture().with_mode(CaptureMode::Stream)),
        ("&dest_schema=raw%20shop", capture().with_dest_schema("raw shop")),
        ("&tablet_type=primary", capture()),
        ("&tablet_type=replica", capture().with_tablet_type(TabletType::Replica)),
        ("&tablet_type=rdonly", capture().with_tablet_type(TabletType::Rdonly)),
        ("&cells=zone1", capture().with_cells(["zone1"])),
        ("&cells=zone1,zone2", capture().with_cells(["zone1", "zone2"])),
        ("&shards=-80,80-", capture().with_shards(["-80", "80-"])),
        ("&workload=olap", capture()),
        ("&workload=oltp", capture().with_workload(Workload::Oltp)),
        ("&max_message_bytes=2000000", capture().with_max_message_bytes(2_000_000)),
        ("&max_message_bytes=1024KiB", capture().with_max_message_bytes(1 << 20)),
        ("&max_message_bytes=16MiB", capture().with_max_message_bytes(16 << 20)),
        ("&max_message_bytes=1GiB", capture().with_max_message_bytes(1 << 30)),
        ("&max_message_bytes=2147483647", capture().with_max_message_bytes(2_147_483_647)),
        ("&no_progress_timeout=90s", capture().with_no_progress_timeout(Duration::from_secs(90))),
    ];
    for (parameters, expected) in cases {
        let uri = format!("mysql+cdc://h/shop?grpc_port=15991{parameters}");
        let options = SourceOptions::from_uri(&uri).unwrap_or_else(|error| panic!("{uri}: {error}"));
        assert_eq!(options, shop().with_capture(expected), "{uri}");
    }
}

#[test]
fn getters_return_what_was_set_and_the_documented_defaults() {
    let options = SourceOptions::from_uri("mysql+cdc://u:p@h/shop?grpc_port=15991").unwrap();
    assert_eq!((options.host(), options.port(), options.database()), ("h", 3306, "shop"));
    assert_eq!((options.user(), options.password()), (Some("u"), Some("p")));
    assert_eq!((options.tls(), options.grpc_tls(), options.grpc_host()), (Tls::Preferred, Some(Tls::Verify), Some("h")));
    assert_eq!((options.tls_ca(), options.tls_cert(), options.tls_key()), (None, None, None));
    assert_eq!(options.connect_timeout(), Duration::from_secs(10));
    assert_eq!((options.read_timeout(), options.retry_timeout()), (Duration::from_secs(300), Duration::from_secs(120)));
    let capture = options.capture().unwrap();
    assert_eq!((capture.grpc_port(), capture.grpc_credentials()), (15991, GrpcCredentials::Protected));
    assert_eq!((capture.mode(), capture.tablet_type(), capture.workload()), (CaptureMode::Batch, TabletType::Primary, Workload::Olap));
    assert_eq!((capture.dest_schema(), capture.cells().len(), capture.shards().len()), (None, 0, 0));
    assert_eq!((capture.max_message_bytes(), capture.no_progress_timeout()), (64 << 20, Duration::from_secs(300)));

    let tables = SourceOptions::from_uri("mysql://h/shop?tls_ca=a&tls_cert=b&tls_key=c").unwrap();
    assert_eq!((tables.tls_ca(), tables.tls_cert(), tables.tls_key()), (Some(Path::new("a")), Some(Path::new("b")), Some(Path::new("c"))));
    assert_eq!((tables.tls(), tables.grpc_tls(), tables.grpc_host(), tables.capture()), (Tls::Verify, None, None, None));
}

#[test]
fn grpc_is_secured_as_the_mysql_connection_unless_told_otherwise() {
    use Tls::{DangerSkipVerify, Off, Preferred, Verify};
    let cases = [
        ("h", "", Preferred, Verify),
        ("localhost", "", Preferred, Off),
        ("LocalHost", "", Preferred, Off),
        ("127.0.0.1", "", Preferred, Off),
        ("127.8.9.10", "", Preferred, Off),
        ("[::1]", "", Preferred, Off),
        ("[::ffff:127.0.0.1]", "", Preferred, Off),
        ("localhost.example", "", Preferred, Verify),
        ("128.0.0.1", "", Preferred, Verify),
        ("h", "&tls=preferred", Preferred, Verify),
        ("localhost", "&tls=preferred", Preferred, Off),
        ("localhost", "&tls=true", Verify, Verify),
        ("localhost", "&tls_ca=ca.pem", Verify, Verify),
        ("localhost", "&tls_cert=c&tls_key=k", Verify, Verify),
        ("h", "&tls=skip-verify", DangerSkipVerify, DangerSkipVerify),
        ("localhost", "&tls=false", Off, Off),
        ("h", "&tls=false&grpc_credentials=plaintext", Off, Off),
        ("h", "&tls=false&grpc_tls=true&tls_ca=ca.pem", Off, Verify),
        ("h", "&tls=preferred&tls_ca=ca.pem", Preferred, Verify),
        ("localhost", "&tls=true&grpc_tls=false&tls_ca=ca.pem", Verify, Off),
        // The host that counts is the one of the gRPC port.
        ("localhost", "&grpc_host=g.example", Preferred, Verify),
        ("h", "&grpc_host=127.0.0.1", Preferred, Off),
    ];
    for (host, parameters, tls, grpc_tls) in cases {
        let uri = format!("mysql+cdc://u:p@{host}/shop?grpc_port=15991{parameters}");
        let options = SourceOptions::from_uri(&uri).unwrap_or_else(|error| panic!("{uri}: {error}"));
        assert_eq!((options.tls(), options.grpc_tls()), (tls, Some(grpc_tls)), "{uri}");
    }
}

#[test]
fn source_uris_that_are_wrong_say_what_is_wrong() {
    let cases = [
        ("", "not a URI"),
        ("h/shop", "not a URI: it has to begin with `mysql://`, `mysql+cdc://`, `postgresql://`, `sqlite://` or `duckdb://`"),
        ("mysql:/h/shop", "not a URI"),
        ("://h/shop", "scheme is unknown: expected `mysql://`, `mysql+cdc://`, `postgresql://`, `sqlite://` or `duckdb://`"),
        ("postgresq://h/shop", "scheme is unknown"),
        ("postgres://h/shop", "the user is missing"),
        ("postgresql://u@h", "the database is missing"),
        ("postgresql://u@h/shop?sslmode=allow", "`sslmode` must be `disable`, `prefer`, `require`, `verify-ca` or `verify-full`"),
        ("postgresql://u@h/shop?sslmode=prefer&sslrootcert=ca.pem", "`sslrootcert` contradicts `sslmode`"),
        ("postgresql://u@h/shop?sslmode=disable&sslcert=c&sslkey=k", "contradict `sslmode=disable`"),
        ("postgresql://u@h/shop?sslcert=c", "`sslcert` needs `sslkey`"),
        (
            "postgresql://u@h/shop?tls=true",
            "`tls` is a parameter of `mysql://` and `mysql+cdc://`, not of `postgresql://`; `postgresql://` knows",
        ),
        ("postgresql://u@h/shop?target_session_attrs=any", "unknown parameter `target_session_attrs`"),
        ("postgresql://u@h/shop?grpc_port=1", "`grpc_port` is a parameter of `mysql+cdc://`"),
        ("postgresql://u:p/w@h/shop", "`@` after its host"),
        ("mysql+cdcx://h/shop", "scheme is unknown"),
        ("duckdb://", "the source's path is missing"),
        ("duckdb:///folder/", "must name a file"),
        ("sqlite://:memory:", "`:memory:` is empty"),
        ("sqlite:///x.db?threads=1", "unknown parameter `threads`; `sqlite://` knows `busy_timeout` and `types`"),
        ("sqlite:///x.db?types=strict", "`types` must be `declared` or `text`"),
        ("sqlite:///x.db?busy_timeout=25h", "`busy_timeout` must be from 1ms to 24h"),
        ("sqlite:///x.db?schema=main", "`schema` is a parameter of `postgresql://` and `duckdb://`, not of `sqlite://`"),
        ("duckdb:///x.duckdb?memory_limit=1KiB", "`memory_limit` must be at least 1MiB"),
        ("duckdb:///x.duckdb?interval_type=varchar", "`interval_type` must be `time` or `text`"),
        ("mysql://", "host is missing"),
        ("mysql:///shop", "host is missing"),
        ("mysql://:3306/shop", "host is missing"),
        ("mysql://u:p@/shop", "host is missing"),
        ("mysql://h", "database is missing"),
        ("mysql://h/", "database is missing"),
        ("mysql://h?tls=true", "database is missing"),
        ("mysql://h/shop/", "must not contain a `/`"),
        ("mysql://h/shop/orders", "must not contain a `/`"),
        ("mysql://h/shop%00", "must not contain a NUL"),
        ("mysql://u%00@h/shop", "must not contain a NUL"),
        ("mysql://h/sh%op", "the database has a `%`"),
        ("mysql://u%:p@h/shop", "the user has a `%`"),
        ("mysql://u:p%4@h/shop", "the password has a `%`"),
        ("mysql://u:p%zz@h/shop", "the password has a `%`"),
        ("mysql://u:p%ff@h/shop", "the password is not UTF-8"),
        ("mysql://:p@h/shop", "a password, but no user"),
        ("mysql://h:/shop", "port must be"),
        ("mysql://h:0/shop", "port must be"),
        ("mysql://h:70000/shop", "port must be a number from 1 to 65535"),
        ("mysql://h:+1/shop", "port must be"),
        ("mysql://h:mysql/shop", "port must be"),
        ("mysql://2001:db8::7/shop", "port must be"),
        ("mysql://[::1/shop", "IPv6"),
        ("mysql://[h]/shop", "IPv6"),
        ("mysql://[::1]x/shop", "has to be a `:`"),
        ("mysql://[::1]:x/shop", "port must be"),
        ("mysql://h h/shop", "host name or an IP address"),
        ("mysql://-h/shop", "host name or an IP address"),
        ("mysql://h%41/shop", "host name or an IP address"),
        ("mysql://h\u{fc}/shop", "host name or an IP address"),
        ("mysql://h/shop#x", "has a `#`"),
        ("mysql://u:p/w@h/shop", "`@` after its host"),
        ("mysql://h/ks@replica", "`@` after its host"),
        ("mysql://h/shop?", "parameter without a name"),
        ("mysql://h/shop?tls=true&", "parameter without a name"),
        ("mysql://h/shop?=true", "parameter without a name"),
        ("mysql://h/shop?tls", "`tls` has no value"),
        ("mysql://h/shop?tls=", "`tls` has no value"),
        ("mysql://h/shop?tls_ca=%", "`tls_ca` has a `%`"),
        ("mysql://h/shop?tls=true&tls=true", "`tls` is given twice"),
        ("mysql://h/shop?tls=yes", "`tls` must be `true`, `skip-verify`, `preferred` or `false`"),
        ("mysql://h/shop?TLS=true", "it is called `tls` here"),
        ("mysql://h/shop?sslmode=require", "unknown parameter `sslmode`: it is called `tls` here"),
        ("mysql://h/shop?ssl-mode=REQUIRED", "unknown parameter `ssl-mode`: it is called `tls` here"),
        ("mysql://h/shop?useSSL=true", "unknown parameter `useSSL`: it is called `tls` here"),
        ("mysql://h/shop?sslrootcert=x", "it is called `tls_ca` here"),
        ("mysql://h/shop?ssl_ca=x", "it is called `tls_ca` here"),
        ("mysql://h/shop?connectTimeout=10", "it is called `connect_timeout` here"),
        ("mysql://h/shop?shard=0", "unknown parameter `shard`; `mysql://` knows"),
        (
            "mysql://h/shop?colour=red",
            "unknown parameter `colour`; `mysql://` knows `tls`, `tls_ca`, `tls_cert`, `tls_key`, `connect_timeout`, `read_timeout` and \
             `retry_timeout`",
        ),
        ("mysql://h/shop?co%20lour=red", "an unknown parameter; "),
        ("mysql://h/shop?grpc_port=15991", "`grpc_port` is a parameter of `mysql+cdc://`, not of `mysql://`"),
        ("mysql://h/shop?mode=batch", "`mode` is a parameter of `mysql+cdc://`"),
        ("mysql://h/shop?threads=1", "unknown parameter `threads`"),
        ("mysql://h/shop?tls=false&tls_ca=x", "`tls_ca` contradicts `tls`"),
        ("mysql://h/shop?tls=preferred&tls_ca=x", "`tls_ca` contradicts `tls`"),
        ("mysql://h/shop?tls=skip-verify&tls_ca=x", "`tls_ca` contradicts `tls`"),
        ("mysql://h/shop?tls=false&tls_cert=x&tls_key=y", "contradict `tls=false`"),
        ("mysql://h/shop?tls_cert=x", "`tls_cert` needs `tls_key`"),
        ("mysql://h/shop?tls_key=x", "`tls_key` needs `tls_cert`"),
        ("mysql://h/shop?connect_timeout=10", "a number with a unit"),
        ("mysql://h/shop?connect_timeout=s", "a number with a unit"),
        ("mysql://h/shop?connect_timeout=-1s", "a number with a unit"),
        ("mysql://h/shop?connect_timeout=1.5s", "a number with a unit"),
        ("mysql://h/shop?connect_timeout=10sec", "a number with a unit"),
        ("mysql://h/shop?connect_timeout=99999999999999999999s", "a number with a unit"),
        ("mysql://h/shop?connect_timeout=18446744073709551615h", "a number with a unit"),
        ("mysql://h/shop?connect_timeout=0s", "from 1ms to 24h"),
        ("mysql://h/shop?connect_timeout=18446744073709551615s", "from 1ms to 24h"),
        ("mysql://h/shop?read_timeout=25h", "`read_timeout` must be from 1ms to 24h"),
        ("mysql://h/shop?retry_timeout=0s", "`retry_timeout` must be from 1ms to 24h"),
        ("mysql+cdc://h/shop", "grpc_port is missing: change capture needs vtgate's gRPC port, which differs from the MySQL port"),
        ("mysql+cdc://h/shop?mode=stream", "grpc_port is missing"),
    ];
    for (uri, fragment) in cases {
        let error = SourceOptions::from_uri(uri).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{uri}");
        assert!(error.to_string().contains(fragment), "{uri}: {error}");
    }
}

#[test]
fn capture_parameters_that_are_wrong_say_what_is_wrong() {
    let cases = [
        ("grpc_port=0", "`grpc_port` must be a number from 1 to 65535"),
        ("grpc_port=65536", "`grpc_port` must be"),
        ("grpc_port=x", "`grpc_port` must be"),
        ("grpc_port=1&grpc_port=1", "`grpc_port` is given twice"),
        ("grpc_port=1&grpc_host=a%20b", "`grpc_host` must be a host name"),
        ("grpc_port=1&grpc_host=[h]", "`grpc_host` must be a host name"),
        ("grpc_port=1&grpc_tls=preferred", "nothing can be preferred"),
        ("grpc_port=1&grpc_tls=on", "`grpc_tls` must be `true`, `skip-verify` or `false`"),
        ("grpc_port=1&grpc_credentials=none", "`grpc_credentials` must be `protected` or `plaintext`"),
        ("grpc_port=1&grpc_credentials=plaintext", "contradicts `grpc_tls`"),
        ("grpc_port=1&grpc_credentials=plaintext&grpc_tls=true", "contradicts `grpc_tls`"),
        ("grpc_port=1&grpc_tls=false", "would cross the network unencrypted"),
        ("grpc_port=1&tls=false", "would cross the network unencrypted"),
        ("grpc_port=1&mode=once", "`mode` must be `batch` or `stream`"),
        ("grpc_port=1&tablet_type=master", "`tablet_type` must be `primary`, `replica` or `rdonly`"),
        ("grpc_port=1&workload=dba", "`workload` must be `olap` or `oltp`"),
        ("grpc_port=1&shards=-80,,80-", "`shards` has an empty or malformed entry"),
        ("grpc_port=1&shards=,", "`shards` has an empty"),
        ("grpc_port=1&shards=0,0", "`shards` names one of its entries twice"),
        ("grpc_port=1&cells=a,", "`cells` has an empty"),
        ("grpc_port=1&dest_schema=%00", "`dest_schema` must not contain a NUL"),
        ("grpc_port=1&max_message_bytes=1", "`max_message_bytes` must be from 1MiB"),
        ("grpc_port=1&max_message_bytes=2GiB", "`max_message_bytes` must be from 1MiB to 2147483647"),
        ("grpc_port=1&max_message_bytes=64MB", "`KiB`, `MiB` or `GiB`"),
        ("grpc_port=1&max_message_bytes=18446744073709551615KiB", "`KiB`, `MiB` or `GiB`"),
        ("grpc_port=1&max_message_bytes=MiB", "`KiB`, `MiB` or `GiB`"),
        ("grpc_port=1&no_progress_timeout=25h", "`no_progress_timeout` must be from 1ms to 24h"),
        ("grpc_port=1&grpc-port=1", "it is called `grpc_port` here"),
        ("grpc_port=1&busy_timeout=1s", "`busy_timeout` is a parameter of `sqlite://`, not of `mysql+cdc://`"),
        ("grpc_port=1&tls=false&grpc_tls=skip-verify&tls_ca=x", "`tls_ca` contradicts"),
    ];
    for (parameters, fragment) in cases {
        let error = SourceOptions::from_uri(&format!("mysql+cdc://u:p@h/shop?{parameters}")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{parameters}");
        assert!(error.to_string().contains(fragment), "{parameters}: {error}");
    }
    for database in ["shop%40replica", "shop:-80", "shop%2F0"] {
        let error = SourceOptions::from_uri(&format!("mysql+cdc://h/{database}?grpc_port=1")).unwrap_err();
        assert!(error.to_string().contains("keyspace alone"), "{database}: {error}");
    }
}

#[test]
fn sink_uris_set_what_they_say() {
    let duckdb = |path| DuckDbOptions::new(path);
    let sqlite = |path| SqliteOptions::new(path);
    let cases: [(&str, SinkOptions); 13] = [
        ("duckdb:///data/shop.duckdb", duckdb("/data/shop.duckdb").into()),
        ("duckdb://shop.duckdb", duckdb("shop.duckdb").into()),
        ("DuckDB://data/shop.duckdb", duckdb("data/shop.duckdb").into()),
        ("duckdb://:memory:", DuckDbOptions::default().into()),
        ("duckdb:///a%20b%3Fc%23d%25", duckdb("/a b?c#d%").into()),
        ("duckdb:///a@b", duckdb("/a@b").into()),
        ("duckdb:///x?memory_limit=256MiB&threads=2", duckdb("/x").with_memory_limit_bytes(256 << 20).with_threads(2).into()),
        ("duckdb:///x?time_type=text&enum_type=enum", duckdb("/x").with_time_type(TimeType::Text).with_enum_type(EnumType::Enum).into()),
        ("duckdb:///x?time_type=interval&enum_type=varchar", duckdb("/x").into()),
        ("sqlite:///data/shop.db", sqlite("/data/shop.db").into()),
        ("sqlite://shop.db", sqlite("shop.db").into()),
        ("sqlite://:memory:", SqliteOptions::default().into()),
        ("sqlite:///x?busy_timeout=250ms", sqlite("/x").with_busy_timeout(Duration::from_millis(250)).into()),
    ];
    for (uri, expected) in cases {
        assert_eq!(SinkOptions::from_uri(uri).unwrap_or_else(|error| panic!("{uri}: {error}")), expected, "{uri}");
    }
    let defaults = (duckdb("x").memory_limit_bytes(), duckdb("x").threads(), sqlite("x").busy_timeout());
    assert_eq!(defaults, (None, None, Duration::from_secs(5)));
    assert_eq!((duckdb("x").path(), sqlite("y").path()), (Path::new("x"), Path::new("y")));
}

#[test]
fn sink_uris_that_are_wrong_say_what_is_wrong() {
    let cases = [
        ("", "not a URI: it has to begin with `duckdb://`, `sqlite://` or `mysql://`"),
        ("/data/shop.duckdb", "not a URI"),
        ("duckdb:/data/shop.duckdb", "not a URI"),
        ("file:///x", "scheme is unknown: expected `duckdb://`, `sqlite://` or `mysql://`"),
        ("mysql+cdc://h/shop?grpc_port=1", "`mysql+cdc://` is a source"),
        ("duckdb://", "path is missing"),
        ("duckdb://?threads=1", "path is missing"),
        ("duckdb:///", "must name a file"),
        ("sqlite://data/", "must name a file"),
        ("sqlite://a%00b", "NUL"),
        ("duckdb:///a%2", "path has a `%`"),
        ("duckdb:///a%ff", "not UTF-8"),
        ("duckdb:///a#b", "has a `#`"),
        ("duckdb:///x?threads=0", "`threads` must be a number from 1 to 1024"),
        ("duckdb:///x?threads=1025", "`threads` must be"),
        ("duckdb:///x?threads=99999", "`threads` must be"),
        ("duckdb:///x?threads=two", "`threads` must be"),
        ("duckdb:///x?time_type=TIME", "`time_type` must be `interval` or `text`"),
        ("duckdb:///x?enum_type=int", "`enum_type` must be `varchar` or `enum`"),
        ("duckdb:///x?memory_limit=1", "at least 1MiB"),
        ("duckdb:///x?memory_limit=1GB", "as in `64MiB`"),
        ("duckdb:///x?busy_timeout=1s", "`busy_timeout` is a parameter of `sqlite://`, not of `duckdb://`"),
        ("duckdb:///x?memory-limit=1GiB", "it is called `memory_limit` here"),
        (
            "duckdb:///x?access_mode=read",
            "unknown parameter `access_mode`; `duckdb://` knows `memory_limit`, `threads`, `time_type` and `enum_type`",
        ),
        ("sqlite:///x?threads=1", "`threads` is a parameter of `duckdb://`, not of `sqlite://`; `sqlite://` knows `busy_timeout`"),
        ("sqlite:///x?busy_timeout=0s", "`busy_timeout` must be from 1ms to 24h"),
        ("sqlite:///x?busy_timeout=1s&busy_timeout=1s", "`busy_timeout` is given twice"),
    ];
    for (uri, fragment) in cases {
        let error = SinkOptions::from_uri(uri).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{uri}");
        assert!(error.to_string().contains(fragment), "{uri}: {error}");
    }
}

#[test]
fn a_mysql_destination_takes_what_a_source_does_and_its_own() {
    let options = |uri: &str| SinkOptions::from_uri(uri);
    let expected = MySqlOptions::new("h", "shop").with_port(3307).with_user("u").with_password("p@").with_tls(Tls::Verify);
    assert_eq!(options("mysql://u:p%40@h:3307/shop?tls=true&connections=4").unwrap(), expected.with_connections(4).into());
    for (uri, fragment) in [
        ("mysql://h/shop?connections=0", "`connections` must be a number from 1 to 16"),
        ("mysql://h/shop?connections=17", "`connections` must be a number from 1 to 16"),
        ("mysql://h/shop?threads=1", "`threads` is a parameter of `duckdb://`, not of `mysql://`"),
        ("mysql://h/shop?grpc_port=1", "unknown parameter `grpc_port`"),
        ("mysql://h/", "the database is missing"),
        ("mysql://h:0/shop", "the port"),
    ] {
        let error = options(uri).unwrap_err();
        assert!(error.kind() == ErrorKind::Config && error.to_string().contains(fragment), "{uri}: {error}");
    }
    let error = SourceOptions::from_uri("mysql://h/shop?connections=2").unwrap_err();
    assert!(error.to_string().contains("unknown parameter `connections`"), "{error}");
}

/// Every character with a meaning in URIs, around words that stand in no message.
const PASSWORD: &str = "zqxa:zqxb/zqxc?zqxd#zqxe[zqxf]zqxg@zqxh!zqxi$zqxj&zqxk'zqxl(zqxm)zqxn*zqxo+zqxp,zqxq;zqxr=zqxs%zqxt zqxu";

fn assert_hidden(uri: &str) {
    let shown = match SourceOptions::from_uri(uri) {
        Ok(options) => format!("{options:?} {options:#?}"),
        Err(error) => format!("{error} {error:?} {error:#}"),
    };
    let shown = match SinkOptions::from_uri(uri) {
        Ok(options) => format!("{shown} {options:?}"),
        Err(error) => format!("{shown} {error} {error:?} {error:#}"),
    };
    assert!(!shown.contains("zqx"), "{uri}: {shown}");
}

fn encoded(password: &str) -> String {
    percent_encoding::utf8_percent_encode(password, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[test]
fn a_password_of_metacharacters_arrives_whole() {
    let uri = format!("mysql://u:{}@h/shop", encoded(PASSWORD));
    let options = SourceOptions::from_uri(&uri).unwrap();
    assert_eq!(options.password(), Some(PASSWORD));
    assert!(format!("{options:?}").contains("password: Some(_)"));
    assert_hidden(&uri);
}

#[test]
fn no_error_shows_a_password_however_it_breaks_the_uri() {
    let mut passwords = vec![PASSWORD.to_owned(), encoded(PASSWORD)];
    // Each character alone, in the middle and at the ends: each moves another piece of the password to another place.
    for c in ":/?#[]@!$&'()*+,;=% \"<>\\^`{|}~\0\n".chars() {
        for password in
            [format!("zqxa{c}zqxb"), format!("{c}zqxa"), format!("zqxa{c}"), format!("7{c}zqxa=zqxb{c}zqxc=1"), format!("1/x?zqxa{c}=1")]
        {
            passwords.push(password);
        }
    }
    for password in &passwords {
        for scheme in ["mysql", "mysql+cdc", "postgres", ""] {
            for tail in ["@h/shop", "@h:3306/shop?tls=true", "@h:bad/shop", "@h", "@h/shop?zq=1", "@/shop", "@h/shop?grpc_port=1&tls=false"]
            {
                assert_hidden(&format!("{scheme}://u:{password}{tail}"));
            }
            assert_hidden(&format!("{scheme}:u:{password}@h/shop"));
        }
    }
}

proptest! {
    #[test]
    fn no_text_panics(uri in "((mysql(\\+cdc)?|duckdb|sqlite)://)?\\PC{0,60}") {
        let _ = (SourceOptions::from_uri(&uri), SinkOptions::from_uri(&uri));
    }

    #[test]
    fn nothing_like_a_uri_panics(
        uri in "(mysql|mysql\\+cdc|duckdb|sqlite)://([a-z%:@]{0,6}@)?[a-z0-9:.\\[\\]]{0,8}(/[a-z%0-9]{0,4})?(\\?(tls|grpc_port|shards|mode|threads|connect_timeout|max_message_bytes|=|&|[0-9a-zA-Z%]){0,9})?"
    ) {
        let _ = (SourceOptions::from_uri(&uri), SinkOptions::from_uri(&uri));
    }

    #[test]
    fn passwords_are_never_shown(parts in prop::collection::vec("[:/?#@&=%\\[\\] +]{0,2}zqx[a-z]", 1..5), tail in "(@h(:[0-9x]{1,2})?(/shop)?(\\?tls=[a-z]{1,5})?)?") {
        let password = parts.concat();
        // Without an `@` there is no password, only an address.
        prop_assume!(tail.contains('@'));
        assert_hidden(&format!("mysql://u:{password}{tail}"));
        assert_hidden(&format!("mysql+cdc://u:{password}{tail}"));
        assert_hidden(&format!("mysql://u:{}{tail}", encoded(&password)));
    }

    #[test]
    fn any_login_arrives_whole(user in "[^\\x00]{1,12}", password in ".{1,12}", database in "[^\\x00]{1,12}") {
        let uri = format!("mysql://{}:{}@h/{}", encoded(&user), encoded(&password), encoded(&database));
        let options = SourceOptions::from_uri(&uri).unwrap();
        prop_assert_eq!(options, SourceOptions::new("h", database).with_user(user).with_password(password));
    }
}
