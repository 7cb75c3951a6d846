//! Keys of every kind: what the source tells apart is told apart, and nothing else is.

use mysql::Conn;
use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, TableState};

use super::fixture::{Destination, Kind, binary_logs_stay};
use crate::support::servers::{Server, vitess};

/// How a column of a key is printed, so that both sides can be compared as text.
#[derive(Debug, Clone, Copy)]
enum Print {
    Text,
    Bytes,
    Plain,
    DateTime,
    Time,
    /// As a number: MySQL prints the year 0 as four zeros.
    Year,
    Bit,
    Double,
}

impl Print {
    fn at_source(self, column: &str) -> String {
        match self {
            Self::Text => format!("hex(convert({column} using utf8mb4))"),
            Self::Bytes => format!("hex({column})"),
            Self::Plain | Self::DateTime | Self::Time => format!("cast({column} as char)"),
            Self::Year | Self::Bit => format!("cast({column} + 0 as char)"),
            Self::Double => column.to_owned(),
        }
    }

    fn at_destination(self, kind: Kind, column: &str) -> String {
        match (self, kind) {
            (Self::Text | Self::Bytes, _) => format!("hex({column})"),
            (_, Kind::Sqlite) => column.to_owned(),
            (Self::Plain | Self::Year | Self::Double, _) => format!("cast({column} as varchar)"),
            (Self::DateTime, _) => format!("strftime({column}, '%Y-%m-%d %H:%M:%S.%f')"),
            (Self::Time, _) => format!(
                "case when epoch_us({column}) < 0 then '-' else '' end || format('{{:02d}}:{{:02d}}:{{:02d}}.{{:06d}}', \
                 abs(epoch_us({column})) // 3600000000, abs(epoch_us({column})) // 60000000 % 60, \
                 abs(epoch_us({column})) // 1000000 % 60, abs(epoch_us({column})) % 1000000)"
            ),
            (Self::Bit, _) => format!("cast(cast({column} as ubigint) as varchar)"),
        }
    }

    /// One form for what may be written in several.
    fn canonical(self, printed: String) -> String {
        match self {
            Self::Double => format!("{:e}", printed.parse::<f64>().unwrap() + 0.0),
            _ => printed,
        }
    }
}

/// A kind of key: its columns as declared, how they are printed, and eight keys as assignments.
struct Case {
    declared: &'static str,
    key: &'static str,
    print: Vec<(&'static str, Print)>,
    keys: Vec<String>,
}

fn single(declared: &'static str, print: Print, values: [&str; 8]) -> Case {
    Case { declared, key: "k", print: vec![("k", print)], keys: values.iter().map(|value| format!("k = {value}")).collect() }
}

fn composite(declared: &'static str, key: &'static str, print: &[(&'static str, Print)], keys: [&str; 8]) -> Case {
    Case { declared, key, print: print.to_vec(), keys: keys.map(str::to_owned).to_vec() }
}

/// Two that end in blanks, two of which the first eight bytes are the same, and what SQL has a meaning for.
const WORDS: [&str; 8] = ["'a'", "'B'", "'c '", "''", "'Ünï'", "'prefix of 8 a'", "'prefix of 8 b'", r#"'z''"`\\%\0_'"#];

/// Every kind of column that MySQL takes into a primary key, but for FLOAT.
fn cases() -> Vec<Case> {
    use Print::{Bit, Bytes, DateTime, Double, Plain, Text, Time, Year};
    vec![
        composite(
            "a int not null, k varchar(20) not null",
            "k, a",
            &[("k", Text), ("a", Plain)],
            [
                "k = 'x', a = 1",
                "k = 'x', a = 2",
                "k = 'y', a = 1",
                "k = '', a = 11",
                "k = '1', a = 1",
                "k = '11', a = 0",
                "k = 'y', a = -1",
                "k = 'y', a = -2",
            ],
        ),
        composite(
            "k bigint unsigned not null, e enum('b','a','') not null, d datetime(6) not null",
            "k, e, d",
            &[("k", Plain), ("e", Text), ("d", DateTime)],
            [
                "k = 18446744073709551615, e = 'a', d = '2024-01-01'",
                "k = 18446744073709551615, e = 'b', d = '2024-01-01'",
                "k = 18446744073709551615, e = 'a', d = '2024-01-01 00:00:00.000001'",
                "k = 18446744073709551614, e = 'a', d = '2024-01-01'",
                "k = 0, e = '', d = '9999-12-31 23:59:59.999999'",
                "k = 9223372036854775807, e = 'a', d = '2024-01-01'",
                "k = 9223372036854775808, e = 'a', d = '2024-01-01'",
                "k = 9223372036854775809, e = 'a', d = '2024-01-01'",
            ],
        ),
        single("k varchar(20) collate utf8mb4_0900_ai_ci not null", Text, WORDS),
        single("k varchar(20) collate utf8mb4_bin not null", Text, WORDS),
        single("k varchar(20) collate utf8mb4_general_ci not null", Text, WORDS),
        single("k char(20) collate utf8mb4_bin not null", Text, WORDS),
        single("k char(20) collate utf8mb4_0900_ai_ci not null", Text, WORDS),
        single("k varchar(20) character set latin1 not null", Text, WORDS),
        single(
            "k varchar(20) character set gbk not null",
            Text,
            ["'a'", "'中'", "'中文'", "''", "'文'", "'b '", "'丂'", "'z'"],
        ),
        single(
            "k varbinary(20) not null",
            Bytes,
            ["0x00", "0x0000", "''", "0x6100", "0x61", "0xff00", "0xff", "0x20"],
        ),
        single(
            "k binary(4) not null",
            Bytes,
            ["0x00", "0x0001", "0x01", "0x6100", "0x6120", "0xffffffff", "0xff", "0x00000001"],
        ),
        single(
            "k decimal(20,4) not null",
            Plain,
            ["0", "-0.5", "0.5", "10", "9", "-10", "1234567890123456.7891", "1234567890123456.7890"],
        ),
        single(
            "k decimal(60,10) not null",
            Plain,
            ["0", "-0.5", "0.5", "10", "9", "-10", "12345678901234567890123456789012345678901234567890", "0.0000000001"],
        ),
        single(
            "k date not null",
            Plain,
            [
                "'2024-02-29'",
                "'1000-01-01'",
                "'9999-12-31'",
                "'1969-12-31'",
                "'1970-01-01'",
                "'2024-03-01'",
                "'2024-02-28'",
                "'2000-01-01'",
            ],
        ),
        single(
            "k datetime(6) not null",
            DateTime,
            [
                "'2024-02-29 00:00:00'",
                "'2024-02-29 00:00:00.000001'",
                "'9999-12-31 23:59:59.999999'",
                "'1969-12-31 23:59:59.999999'",
                "'1970-01-01'",
                "'2024-03-01 12:00:00.5'",
                "'1000-01-01'",
                "'2000-01-01'",
            ],
        ),
        single(
            "k timestamp(6) not null",
            DateTime,
            [
                "'2024-02-29 00:00:00'",
                "'2024-02-29 00:00:00.000001'",
                "'2038-01-19 03:14:07.999999'",
                "'1970-01-01 00:00:01'",
                "'1970-01-01 00:00:02'",
                "'2024-03-01 12:00:00.5'",
                "'2024-03-01 12:00:00.4'",
                "'2000-01-01'",
            ],
        ),
        single(
            "k time(6) not null",
            Time,
            [
                "'00:00:00'",
                "'-00:00:01'",
                "'838:59:59'",
                "'-838:59:59'",
                "'24:00:00'",
                "'23:59:59.999999'",
                "'-00:00:00.000001'",
                "'12:00:00'",
            ],
        ),
        single("k year not null", Year, ["1901", "2155", "0", "2000", "1999", "2024", "2023", "1970"]),
        single("k enum('h','g','f','e','d','c','b','a') not null", Text, ["'a'", "'b'", "'c'", "'d'", "'e'", "'f'", "'g'", "'h'"]),
        single("k set('c','b','a') not null", Text, ["''", "'a'", "'b'", "'c'", "'a,b'", "'a,c'", "'b,c'", "'a,b,c'"]),
        single(
            "k bigint unsigned not null",
            Plain,
            [
                "18446744073709551615",
                "18446744073709551614",
                "9223372036854775808",
                "9223372036854775807",
                "0",
                "9223372036854775809",
                "18446744073709551613",
                "10",
            ],
        ),
        single(
            "k bigint not null",
            Plain,
            ["9223372036854775807", "-9223372036854775808", "0", "-1", "10", "9", "9223372036854775806", "-9223372036854775807"],
        ),
        single(
            "k bit(64) not null",
            Bit,
            [
                "18446744073709551615",
                "18446744073709551614",
                "9223372036854775808",
                "9223372036854775807",
                "0",
                "9223372036854775809",
                "18446744073709551613",
                "10",
            ],
        ),
        single("k bit(9) not null", Bit, ["0", "1", "256", "257", "511", "255", "2", "128"]),
        single(
            "k varchar(768) collate utf8mb4_0900_ai_ci not null",
            Text,
            [
                "concat(repeat('🎉', 767), 'a')",
                "concat(repeat('🎉', 767), 'b')",
                "repeat('🎉', 767)",
                "repeat('a', 768)",
                "repeat('a', 767)",
                "concat(repeat('🎉', 767), 'c')",
                "concat('🎊', repeat('🎉', 767))",
                "'🎉'",
            ],
        ),
        single(
            "k varbinary(3072) not null",
            Bytes,
            [
                "concat(repeat(0x00, 3071), 0x00)",
                "concat(repeat(0x00, 3071), 0x01)",
                "repeat(0x00, 3071)",
                "repeat(0xff, 3072)",
                "repeat(0xff, 3071)",
                "concat(repeat(0x00, 3071), 0xff)",
                "concat(0x01, repeat(0x00, 3071))",
                "0x00",
            ],
        ),
        single("k double not null", Double, ["0", "0.1", "1e100", "-1e100", "16777217", "16777216", "0.1000000000000001", "5e-324"]),
    ]
}

/// A table with the key in its middle, two rows that have other values than the others, and how to change it.
struct Table {
    name: String,
    case: Case,
}

impl Table {
    fn create(conn: &mut Conn, name: String, case: Case) -> Self {
        conn.query_drop(format!("drop table if exists {name}")).unwrap();
        let sql = format!("create table {name} (v int not null, {}, note varchar(40), primary key ({}))", case.declared, case.key);
        conn.query_drop(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        Self { name, case }
    }

    fn run(&self, conn: &mut Conn, sql: String) {
        conn.query_drop(&sql).unwrap_or_else(|error| panic!("{}: {sql}: {error}", self.case.declared));
    }

    fn insert(&self, conn: &mut Conn, v: u32, key: usize) {
        self.run(conn, format!("insert into {} set v = {v}, {}, note = 'inserted {v}'", self.name, self.case.keys[key]));
    }

    fn update(&self, conn: &mut Conn, v: u32, note: &str) {
        self.run(conn, format!("update {} set note = '{note}' where v = {v}", self.name));
    }

    fn rekey(&self, conn: &mut Conn, v: u32, key: usize) {
        self.run(conn, format!("update {} set {} where v = {v}", self.name, self.case.keys[key]));
    }

    fn delete(&self, conn: &mut Conn, v: u32) {
        self.run(conn, format!("delete from {} where v = {v}", self.name));
    }

    /// What is done to each table between runs.
    fn change(&self, conn: &mut Conn, step: usize) {
        match step {
            0 => (0..4).for_each(|at| self.insert(conn, at, at as usize)),
            // Another row, other columns, a row that goes.
            1 => {
                self.insert(conn, 4, 4);
                self.update(conn, 0, "updated");
                self.delete(conn, 1);
            }
            // Keys that were deleted: in a run before, and within a transaction.
            2 => {
                self.insert(conn, 11, 1);
                self.run(conn, "begin".into());
                self.delete(conn, 2);
                self.insert(conn, 12, 2);
                self.run(conn, "commit".into());
            }
            // Another key.
            3 => self.rekey(conn, 3, 5),
            // Two rows swap their keys.
            4 => {
                self.run(conn, "begin".into());
                self.rekey(conn, 0, 7);
                self.rekey(conn, 4, 0);
                self.rekey(conn, 0, 4);
                self.run(conn, "commit".into());
            }
            // Everything within one batch, of keys that are stored and of new ones.
            5 => {
                self.insert(conn, 6, 6);
                self.update(conn, 6, "updated at once");
                self.rekey(conn, 6, 7);
                self.insert(conn, 16, 6);
                self.rekey(conn, 3, 3);
                self.delete(conn, 3);
                self.insert(conn, 13, 5);
                self.insert(conn, 23, 3);
                self.rekey(conn, 23, 3);
                self.delete(conn, 11);
            }
            // What was swapped and revived is found once more.
            6 => {
                self.update(conn, 0, "again");
                self.update(conn, 4, "again");
                self.update(conn, 12, "again");
                self.delete(conn, 13);
                self.delete(conn, 6);
            }
            _ => unreachable!(),
        }
    }

    fn at_source(&self, conn: &mut Conn) -> Vec<Vec<String>> {
        let keys: Vec<String> = self.case.print.iter().map(|(column, print)| print.at_source(column)).collect();
        let rows: Vec<mysql::Row> = conn.query(format!("select v, note, {} from {}", keys.join(", "), self.name)).unwrap();
        let text = |value: mysql::Value| match value {
            mysql::Value::Bytes(bytes) => String::from_utf8(bytes).unwrap(),
            other => panic!("{other:?}"),
        };
        self.canonical(rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect()).collect())
    }

    fn at(&self, destination: &Destination, condition: &str) -> Vec<Vec<String>> {
        let keys: Vec<String> = self.case.print.iter().map(|(column, print)| print.at_destination(destination.kind, column)).collect();
        let rows = destination.query(&format!("select v, note, {} from {} where {condition}", keys.join(", "), self.name));
        self.canonical(rows.into_iter().map(|row| row.into_iter().map(Option::unwrap).collect()).collect())
    }

    fn canonical(&self, mut rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
        for row in &mut rows {
            for (cell, (_, print)) in row[2..].iter_mut().zip(&self.case.print) {
                *cell = print.canonical(std::mem::take(cell));
            }
        }
        rows.sort();
        rows
    }

    /// What is wrong with the destination, if anything is.
    fn difference(&self, expected: &[Vec<String>], destination: &Destination, hard: bool) -> Option<String> {
        let live = self.at(destination, "not _cdc_deleted");
        let mut keys: Vec<Vec<String>> = self.at(destination, "true").into_iter().map(|row| row[2..].to_vec()).collect();
        let rows = keys.len();
        keys.sort();
        keys.dedup();
        let wrong = live != expected || keys.len() != rows || hard && rows != live.len();
        let shown = |rows: &[Vec<String>]| format!("{rows:?}").chars().take(1500).collect::<String>();
        wrong.then(|| {
            format!(
                "{:?}, {}, {}: {} is not {} ({rows} rows, {} keys)",
                destination.kind,
                if hard { "hard" } else { "soft" },
                self.case.declared,
                shown(&live),
                shown(expected),
                keys.len()
            )
        })
    }
}

fn connected(server: &Server, keyspace: &str) -> Conn {
    let mut conn = server.conn();
    for statement in [&format!("use `{keyspace}`"), "set names utf8mb4", "set time_zone = '+00:00'", "set sql_mode = ''"] {
        conn.query_drop(statement).unwrap();
    }
    conn
}

/// Both kinds of destination, with soft and with hard deletes.
fn destinations() -> Vec<(Destination, bool)> {
    [(Kind::Sqlite, false), (Kind::Sqlite, true), (Kind::DuckDb, false), (Kind::DuckDb, true)]
        .map(|(kind, hard)| (Destination::new(kind), hard))
        .into()
}

/// Captures into all of them at the same time.
fn capture(uri: &str, destinations: &[(Destination, bool)], options: &IngestOptions) {
    std::thread::scope(|scope| {
        for (destination, hard) in destinations {
            let options = options.clone().with_hard_delete(*hard);
            scope.spawn(move || {
                let report = destination.capture(uri, &options).unwrap_or_else(|error| panic!("{:?}: {error:?}", destination.kind));
                let failed: Vec<_> = report.tables.iter().filter(|table| table.state != TableState::Complete).collect();
                assert!(failed.is_empty(), "{:?}: {failed:#?}", destination.kind);
            });
        }
    });
}

#[test]
fn rows_are_found_by_keys_of_every_kind() {
    let _logs = binary_logs_stay();
    let server = vitess();
    let mut conn = connected(server, "commerce");
    let tables: Vec<Table> =
        cases().into_iter().enumerate().map(|(at, case)| Table::create(&mut conn, format!("keys_{at}"), case)).collect();
    let options = IngestOptions::new().with_tables(tables.iter().map(|table| &table.name));
    let destinations = destinations();
    let mut wrong = Vec::new();
    for step in 0..7 {
        tables.iter().for_each(|table| table.change(&mut conn, step));
        capture(&server.cdc_uri("commerce"), &destinations, &options);
        for table in &tables {
            let expected = table.at_source(&mut conn);
            let differences = destinations.iter().filter_map(|(destination, hard)| table.difference(&expected, destination, *hard));
            wrong.extend(differences.map(|difference| format!("step {step}, {difference}")));
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    for table in tables {
        conn.query_drop(format!("drop table {}", table.name)).unwrap();
    }
}
