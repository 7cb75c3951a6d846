//! Every code of every character set, in batch, copy and stream.

use std::collections::BTreeMap;
use std::path::Path;

use mysql::Conn;
use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, Sink, Source, TableState, ingest};

use crate::support::servers::{Server, vitess};

/// Character sets of one byte for a character.
const SINGLE: [&str; 25] = [
    "armscii8", "ascii", "cp1250", "cp1251", "cp1256", "cp1257", "cp850", "cp852", "cp866", "dec8", "geostd8", "greek", "hebrew", "hp8",
    "keybcs2", "koi8r", "koi8u", "latin1", "latin2", "latin5", "latin7", "macce", "macroman", "swe7", "tis620",
];
/// And of several, with whether 0x8f begins three.
const MULTI: [(&str, bool); 9] = [
    ("big5", false),
    ("cp932", false),
    ("euckr", false),
    ("gb18030", false),
    ("gb2312", false),
    ("gbk", false),
    ("sjis", false),
    ("ujis", true),
    ("eucjpms", true),
];

/// Codes that may be characters.
fn codes(charset: &str) -> Vec<Vec<u8>> {
    let mut codes: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    if let Some((_, has_three)) = MULTI.iter().find(|(name, _)| *name == charset) {
        for lead in 0x80..=255 {
            codes.extend((0x30..=255).map(|trail| vec![lead, trail]));
            if *has_three {
                codes.extend((0xa0..=255).map(|trail| vec![0x8f, lead, trail]));
            }
        }
    }
    if charset == "gb18030" {
        // Those of four bytes follow from their number but for a few; the first and last of each hundred are tried, and all at the ends.
        for number in 0..39_420_u32 + 16 * 12_600 {
            let number = if number < 39_420 { number } else { number - 39_420 + 15 * 12_600 };
            if number % 100 == 0 || number % 100 == 99 || number < 3000 {
                let byte = |value: u32| u8::try_from(value).unwrap();
                codes.push(vec![
                    byte(0x81 + number / 12_600),
                    byte(0x30 + number / 1260 % 10),
                    byte(0x81 + number / 10 % 126),
                    byte(0x30 + number % 10),
                ]);
            }
        }
    }
    codes
}

/// A table of the codes that MySQL has characters for.
fn make(conn: &mut Conn, charset: &str, table: &str) -> u64 {
    conn.query_drop(format!("drop table if exists {table}")).unwrap();
    conn.query_drop(format!("create table {table} (id bigint primary key, code varbinary(4) not null, v varbinary(4) not null)")).unwrap();
    let rows: Vec<String> = codes(charset)
        .iter()
        .enumerate()
        .map(|(at, code)| {
            let hex: String = code.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("({},0x{hex},0x{hex})", at + 1)
        })
        .collect();
    for part in rows.chunks(5_000) {
        conn.query_drop(format!("insert into {table} (id, code, v) values {}", part.join(","))).unwrap();
    }
    // Bytes become text of the character set as they are, or something else where they are none.
    conn.query_drop(format!("alter table {table} modify v varchar(4) character set {charset}")).unwrap();
    for condition in ["v is null", "hex(v) <> hex(code)", "hex(convert(v using utf8mb4)) = '3F' and code <> 0x3f", "char_length(v) <> 1"] {
        conn.query_drop(format!("delete from {table} where {condition} limit 10000")).unwrap();
        while conn.affected_rows() > 0 {
            conn.query_drop(format!("delete from {table} where {condition} limit 10000")).unwrap();
        }
    }
    conn.query_first(format!("select count(*) from {table}")).unwrap().unwrap()
}

fn said(conn: &mut Conn, table: &str) -> BTreeMap<i64, String> {
    let rows: Vec<(i64, String)> = conn.query(format!("select id, hex(convert(v using utf8mb4)) from {table}")).unwrap();
    rows.into_iter().collect()
}

fn held(file: &Path, table: &str) -> BTreeMap<i64, String> {
    let connection = rusqlite::Connection::open(file).unwrap();
    let mut statement = connection.prepare(&format!("select id, hex(v) from {table}")).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

fn compare(conn: &mut Conn, file: &Path, tables: &[(String, &str)], phase: &str) {
    let mut wrong = Vec::new();
    for (table, charset) in tables {
        let (said, held) = (said(conn, table), held(file, table));
        if said.len() != held.len() {
            wrong.push(format!("{phase}, {charset}: {} rows, expected {}", held.len(), said.len()));
        }
        let differ = said.iter().filter(|(id, text)| held.get(id) != Some(text)).take(5);
        wrong.extend(differ.map(|(id, text)| format!("{phase}, {charset}: row {id} is {:?}, MySQL says {text}", held.get(id))));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn run(uri: &str, file: &Path, options: &IngestOptions) {
    let source = Source::open(uri).unwrap();
    let report = ingest(&source, &mut Sink::open(&format!("sqlite://{}", file.display())).unwrap(), options).unwrap();
    for table in report.tables {
        assert_eq!(table.state, TableState::Complete, "{}", table.source);
    }
}

fn check(server: &Server, keyspace: &str) {
    let mut conn = server.conn();
    for statement in [&format!("use `{keyspace}`"), "set names utf8mb4", "set sql_mode = ''", "set workload = 'olap'"] {
        conn.query_drop(statement).unwrap();
    }
    let mut tables = Vec::new();
    for charset in SINGLE.into_iter().chain(MULTI.map(|(name, _)| name)) {
        let table = format!("charset_{charset}");
        conn.query_drop("set workload = 'oltp'").unwrap();
        let rows = make(&mut conn, charset, &table);
        conn.query_drop("set workload = 'olap'").unwrap();
        let least = if charset == "gb18030" {
            20_000
        } else if SINGLE.contains(&charset) {
            120
        } else {
            6_000
        };
        assert!(rows >= least, "{charset} has {rows} characters");
        tables.push((table, charset));
    }
    let folder = tempfile::tempdir().unwrap();
    let [whole, captured] = ["whole.db", "captured.db"].map(|name| folder.path().join(name));
    let options = IngestOptions::new().with_tables(tables.iter().map(|(table, _)| table.clone()));
    run(&server.uri(keyspace), &whole, &options);
    compare(&mut conn, &whole, &tables, "batch");
    run(&server.cdc_uri(keyspace), &captured, &options);
    compare(&mut conn, &captured, &tables, "copy");
    conn.query_drop("set workload = 'oltp'").unwrap();
    for (table, _) in &tables {
        let last: i64 = conn.query_first(format!("select max(id) from {table}")).unwrap().unwrap();
        for from in (0..last).step_by(5_000) {
            conn.query_drop(format!(
                "insert into {table} (id, code, v) select id + 1000000, code, v from {table} where id between {} and {}",
                from + 1,
                from + 5_000
            ))
            .unwrap();
        }
    }
    conn.query_drop("set workload = 'olap'").unwrap();
    run(&server.cdc_uri(keyspace), &captured, &options);
    compare(&mut conn, &captured, &tables, "stream");
    conn.query_drop("set workload = 'oltp'").unwrap();
    for (table, _) in &tables {
        conn.query_drop(format!("drop table {table}")).unwrap();
    }
}

#[test]
fn every_code_of_every_character_set_is_what_mysql_says() {
    check(vitess(), "commerce");
}
