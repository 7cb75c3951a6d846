//! The servers are what the other tests take them for.

use mysql::prelude::Queryable;
use url::Url;

use crate::support::servers::{Server, mysql, route, unroute, vitess, vitess_secure};

/// One more than vtgate's cap on the rows of an answer.
const ABOVE_THE_CAP: usize = 10_001;

#[test]
fn mysql_logs_whole_rows_and_speaks_tls() {
    let server = mysql();
    let mut conn = server.conn();
    let (version, format, image): (String, String, String) =
        conn.query_first("select @@version, @@global.binlog_format, @@global.binlog_row_image").unwrap().unwrap();
    assert!(version.starts_with("9."), "{version}");
    assert_eq!((format.as_str(), image.as_str()), ("ROW", "FULL"));
    let (_, cipher): (String, String) = conn.query_first("show status like 'Ssl_cipher'").unwrap().unwrap();
    assert_ne!(cipher, "");
    assert!(server.grpc.is_none());
    check_uri(server, &server.uri("commerce"), "mysql", "commerce");
}

#[test]
fn vitess_caps_the_rows_of_an_answer_except_for_olap() {
    let server = vitess();
    let mut conn = server.conn();
    conn.query_drop("use commerce").unwrap();
    conn.query_drop("create table if not exists capped (id bigint not null primary key)").unwrap();
    conn.query_drop("delete from capped").unwrap();
    let ids: Vec<String> = (0..ABOVE_THE_CAP).map(|id| format!("({id})")).collect();
    for part in ids.chunks(5_000) {
        conn.query_drop(format!("insert into capped (id) values {}", part.join(","))).unwrap();
    }

    let refused = conn.query::<i64, _>("select id from capped").unwrap_err();
    assert!(refused.to_string().contains("Row count exceeded 10000"), "{refused}");
    conn.query_drop("set workload = 'olap'").unwrap();
    assert_eq!(conn.query::<i64, _>("select id from capped").unwrap().len(), ABOVE_THE_CAP);

    server.exec("drop table commerce.capped");
    check_uri(server, &server.cdc_uri("commerce"), "mysql+cdc", "commerce");
}

#[test]
fn a_new_table_of_the_sharded_keyspace_spreads_over_both_shards() {
    let mut conn = vitess().conn();
    conn.query_drop("use customer").unwrap();
    conn.query_drop("create table if not exists spread (id bigint not null primary key)").unwrap();
    route(&mut conn, "customer", "spread", "by_hash(id)");
    conn.query_drop("delete from spread").unwrap();
    let ids: Vec<String> = (0..100).map(|id| format!("({id})")).collect();
    conn.query_drop(format!("insert into spread (id) values {}", ids.join(","))).unwrap();

    let shards = ["-80", "80-"].map(|shard| {
        conn.query_drop(format!("use `customer:{shard}`")).unwrap();
        conn.query_first::<usize, _>("select count(*) from spread").unwrap().unwrap()
    });
    assert!(shards.iter().all(|rows| *rows > 0), "{shards:?}");
    assert_eq!(shards.iter().sum::<usize>(), 100);

    conn.query_drop("use customer").unwrap();
    unroute(&mut conn, "alter vschema drop table customer.spread");
    conn.query_drop("drop table spread").unwrap();
}

#[test]
fn secure_vitess_answers_with_tls_and_password_only() {
    let server = vitess_secure();
    let one: Option<u8> = server.conn().query_first("select 1").unwrap();
    assert_eq!(one, Some(1));

    let plain = mysql::OptsBuilder::new()
        .ip_or_hostname(Some(&server.mysql_host))
        .tcp_port(server.mysql_port)
        .user(Some(&server.user))
        .pass(Some(&server.password));
    let Err(refused) = mysql::Conn::new(plain) else { panic!("a plain connection was accepted") };
    assert!(refused.to_string().contains("insecure connections"), "{refused}");
    check_uri(server, &server.cdc_uri("customer"), "mysql+cdc", "customer");
}

fn check_uri(server: &Server, uri: &str, scheme: &str, database: &str) {
    let url = Url::parse(uri).unwrap();
    assert_eq!(url.scheme(), scheme);
    assert_eq!(url.path(), format!("/{database}"));
    assert_eq!(url.port(), Some(server.mysql_port));
    let parameter = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    let port = server.grpc.as_ref().filter(|_| scheme == "mysql+cdc").map(|(_, port)| port.to_string());
    assert_eq!(parameter("grpc_port"), port);
    assert_eq!(parameter("tls_ca").map(std::path::PathBuf::from), server.tls.as_ref().map(|files| files.ca.clone()));
    assert!(!uri.contains("p@ss"), "the password is percent-encoded");
}
