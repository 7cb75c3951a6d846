//! The scripted vtgate itself: whether its MySQL front satisfies the client that the library uses.

use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder, Value};

use crate::vtgate::mysql::{Answer, Column};
use crate::vtgate::{Ending, Script, Vtgate};

fn options(server: &Vtgate) -> OptsBuilder {
    OptsBuilder::new()
        .ip_or_hostname(Some("127.0.0.1"))
        .tcp_port(server.mysql_port)
        .user(Some("app"))
        .pass(Some("p@ss:w/rd"))
        .db_name(Some("shop"))
        .prefer_socket(false)
}

fn shop() -> Script {
    Script::new(|_, _| Ending::Ok).on_query(|statement| match statement {
        "select id, name from item" => {
            Answer::rows(&[Column::int("id"), Column::text("name")], &[&[Some("1"), Some("plum")], &[Some("-2"), None]])
        }
        "select id from item where name = 'it''s' and id > 7" => {
            Answer::rows(&[Column::unsigned("id")], &[&[Some("18446744073709551615")]])
        }
        "big" => Answer::value("big", &"x".repeat(20 << 20)),
        "insert" => Answer::Done { affected: 3 },
        "fail" => Answer::failed(1146, "42S02", "no such table"),
        _ => Answer::Unscripted,
    })
}

#[test]
fn text_and_binary_rows_arrive_alike() {
    let server = Vtgate::start(shop());
    let mut client = Conn::new(options(&server)).unwrap();
    let expected = vec![(1_i64, Some("plum".to_owned())), (-2, None)];
    assert_eq!(client.query::<(i64, Option<String>), _>("select id, name from item").unwrap(), expected);
    assert_eq!(client.exec::<(i64, Option<String>), _, _>("select id, name from item", ()).unwrap(), expected);
    let rows: Vec<u64> = client.exec("select id from item where name = ? and id > ?", ("it's", 7)).unwrap();
    assert_eq!(rows, [u64::MAX]);
    assert!(server.statements().contains(&"select id from item where name = 'it''s' and id > 7".to_owned()));
}

#[test]
fn a_row_larger_than_a_packet_arrives() {
    let server = Vtgate::start(shop());
    let mut client = Conn::new(options(&server).max_allowed_packet(Some(64 << 20))).unwrap();
    let big: String = client.query_first("big").unwrap().unwrap();
    assert_eq!(big.len(), 20 << 20);
}

#[test]
fn other_answers_of_a_mysql_server_are_there() {
    let server = Vtgate::start(shop());
    let mut client = Conn::new(options(&server)).unwrap();
    client.query_drop("insert").unwrap();
    assert_eq!(client.affected_rows(), 3);
    let error = client.query_drop("fail").unwrap_err();
    assert!(error.to_string().contains("1146"), "{error}");
    client.query_drop("set workload='olap'").unwrap();
    client.ping().unwrap();
    assert!(client.select_db("other").is_ok());
    let version: Value = client.query_first("select @@version").unwrap().unwrap();
    assert_eq!(version, Value::Bytes(b"8.4.6-Vitess".to_vec()));
    assert!(client.query_drop("nobody knows").unwrap_err().to_string().contains("unscripted statement"));
}

#[test]
fn a_wrong_password_is_refused() {
    let server = Vtgate::start(shop().credentials("app", "p@ss:w/rd"));
    assert!(Conn::new(options(&server)).is_ok());
    let error = Conn::new(options(&server).pass(Some("wrong"))).unwrap_err();
    assert!(error.to_string().contains("1045"), "{error}");
}

#[test]
fn dropping_the_server_ends_connections() {
    let server = Vtgate::start(shop());
    let mut client = Conn::new(options(&server)).unwrap();
    drop(server);
    assert!(client.ping().is_err());
}
