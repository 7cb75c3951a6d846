//! Keys of every kind: what the source tells apart is told apart, and nothing else is.

use mysql::Conn;
use mysql::prelude::Queryable;
use planetscale_ingest::{Cancel, ErrorKind, IngestOptions, TableState, ZeroDates};

use super::fixture::{BOTH, Destination, Kind, binary_logs_stay, create_with};
use crate::support::proxy::{Fault, Proxy, Way};
use crate::support::servers::{Server, route, vitess};

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
        single("k varchar(20) character set gbk not null", Text, ["'a'", "'中'", "'中文'", "''", "'文'", "'b '", "'丂'", "'z'"]),
        single("k varbinary(20) not null", Bytes, ["0x00", "0x0000", "''", "0x6100", "0x61", "0xff00", "0xff", "0x20"]),
        single("k binary(4) not null", Bytes, ["0x00", "0x0001", "0x01", "0x6100", "0x6120", "0xffffffff", "0xff", "0x00000001"]),
        single("k decimal(20,4) not null", Plain, ["0", "-0.5", "0.5", "10", "9", "-10", "1234567890123456.7891", "1234567890123456.7890"]),
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

/// A table with the key in its middle, whose rows are addressed by another column.
struct Table {
    name: String,
    case: Case,
    /// The column that says on which shard a row is belongs to the key, since nothing else makes that unique.
    sharded: bool,
}

impl Table {
    fn create(conn: &mut Conn, name: String, case: Case) -> Self {
        conn.query_drop(format!("drop table if exists {name}")).unwrap();
        let sql = format!("create table {name} (v int not null, {}, note mediumtext, primary key ({}))", case.declared, case.key);
        conn.query_drop(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        Self { name, case, sharded: false }
    }

    fn create_sharded(conn: &mut Conn, name: String, case: Case) -> Self {
        conn.query_drop(format!("drop table if exists {name}")).unwrap();
        let sql = format!("create table {name} (v int not null, {}, note mediumtext, primary key ({}, v))", case.declared, case.key);
        conn.query_drop(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        route(conn, "customer", &name, "by_hash(v)");
        Self { name, case, sharded: true }
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
        let key_of = |row: Vec<String>| if self.sharded { [&row[..1], &row[2..]].concat() } else { row[2..].to_vec() };
        let mut keys: Vec<Vec<String>> = self.at(destination, "true").into_iter().map(key_of).collect();
        let rows = keys.len();
        keys.sort();
        keys.dedup();
        let wrong = live != expected || keys.len() != rows || hard && rows != live.len();
        let shown = |rows: &[Vec<String>]| format!("{rows:?}").chars().take(400).collect::<String>();
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

/// What is done to each table between two runs.
type Step<'a> = &'a dyn Fn(&Table, &mut Conn);

/// Changes the tables step by step; after each, all destinations hold what the source does.
fn follow(server: &Server, keyspace: &str, conn: &mut Conn, tables: &[Table], steps: &[Step<'_>]) {
    let options = IngestOptions::new().with_tables(tables.iter().map(|table| &table.name));
    let destinations = destinations();
    let mut wrong = Vec::new();
    for (step, change) in steps.iter().enumerate() {
        tables.iter().for_each(|table| change(table, conn));
        capture(&server.cdc_uri(keyspace), &destinations, &options);
        for table in tables {
            let expected = table.at_source(conn);
            let differences = destinations.iter().filter_map(|(destination, hard)| table.difference(&expected, destination, *hard));
            wrong.extend(differences.map(|difference| format!("step {step}, {difference}")));
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    for table in tables {
        conn.query_drop(format!("drop table {}", table.name)).unwrap();
    }
}

const STEPS: [Step<'static>; 7] = [
    &|table, conn| table.change(conn, 0),
    &|table, conn| table.change(conn, 1),
    &|table, conn| table.change(conn, 2),
    &|table, conn| table.change(conn, 3),
    &|table, conn| table.change(conn, 4),
    &|table, conn| table.change(conn, 5),
    &|table, conn| table.change(conn, 6),
];

#[test]
fn rows_are_found_by_keys_of_every_kind() {
    let _logs = binary_logs_stay();
    let server = vitess();
    let mut conn = connected(server, "commerce");
    let tables: Vec<Table> =
        cases().into_iter().enumerate().map(|(at, case)| Table::create(&mut conn, format!("keys_{at}"), case)).collect();
    follow(server, "commerce", &mut conn, &tables, &STEPS);
}

#[test]
fn rows_of_two_shards_are_found_by_keys_of_every_kind() {
    let _logs = binary_logs_stay();
    let server = vitess();
    let mut conn = connected(server, "customer");
    // MySQL has 3,072 bytes for a key, so the longest have no room for another column.
    let shorter = cases().into_iter().filter(|case| !case.declared.contains("(768)") && !case.declared.contains("(3072)"));
    let tables: Vec<Table> =
        shorter.enumerate().map(|(at, case)| Table::create_sharded(&mut conn, format!("shard_keys_{at}"), case)).collect();
    follow(server, "customer", &mut conn, &tables, &STEPS);
}

/// Keys that the source finds equal but does not print alike: of each four there is one row at a time.
#[test]
fn a_key_that_changes_into_an_equal_one_leaves_one_live_row() {
    let _logs = binary_logs_stay();
    let server = vitess();
    let mut conn = connected(server, "commerce");
    let equal = [
        ("varchar(20) collate utf8mb4_0900_ai_ci", Print::Text, ["'a'", "'A'", "'á'", "'Á'"]),
        ("char(20) collate utf8mb4_0900_ai_ci", Print::Text, ["'a'", "'A'", "'á'", "'Á'"]),
        ("varchar(20) collate utf8mb4_general_ci", Print::Text, ["'a'", "'A '", "'á'", "'a  '"]),
        ("varchar(20) collate utf8mb4_bin", Print::Text, ["'a'", "'a '", "'a  '", "'a   '"]),
        ("varchar(20) character set latin1", Print::Text, ["'a'", "'A'", "'a '", "'à'"]),
        ("double", Print::Double, ["0", "-0e0", "0", "-0e0"]),
    ];
    let mut tables = Vec::new();
    for (at, (declared, print, keys)) in equal.into_iter().enumerate() {
        let keys = keys.iter().chain(&keys).map(|key| format!("k = {key}")).collect();
        let declared = &*format!("k {declared} not null").leak();
        let table = Table::create(&mut conn, format!("equal_keys_{at}"), Case { declared, key: "k", print: vec![("k", print)], keys });
        table.insert(&mut conn, 99, 0);
        for key in 1..4 {
            let again = format!("insert into {} set v = 0, {}", table.name, table.case.keys[key]);
            let refusal = conn.query_drop(again).unwrap_err();
            assert!(refusal.to_string().contains("Duplicate entry"), "{declared}: {refusal}");
        }
        table.delete(&mut conn, 99);
        tables.push(table);
    }
    let steps: [Step<'_>; 9] = [
        &|table, conn| table.insert(conn, 0, 0),
        &|table, conn| table.rekey(conn, 0, 1),
        &|table, conn| {
            table.rekey(conn, 0, 2);
            table.rekey(conn, 0, 3);
        },
        &|table, conn| {
            table.delete(conn, 0);
            table.insert(conn, 1, 0);
        },
        &|table, conn| table.delete(conn, 1),
        &|table, conn| table.insert(conn, 2, 1),
        &|table, conn| {
            table.run(conn, "begin".into());
            table.delete(conn, 2);
            table.insert(conn, 3, 2);
            table.rekey(conn, 3, 1);
            table.run(conn, "commit".into());
        },
        &|table, conn| {
            // There and back, and what is deleted in between was never stored.
            table.rekey(conn, 3, 0);
            table.rekey(conn, 3, 1);
            table.rekey(conn, 3, 0);
        },
        &|table, conn| {
            table.delete(conn, 3);
            table.insert(conn, 4, 0);
            table.rekey(conn, 4, 1);
            table.update(conn, 4, "of a new key");
        },
    ];
    follow(server, "commerce", &mut conn, &tables, &steps);
}

/// Sixty rows of 60 kB, so that the copy comes in several packets, with keys that follow from a number.
struct Numbered {
    declared: &'static str,
    print: Print,
    key: fn(u64) -> String,
}

const NUMBERED: [Numbered; 20] = [
    Numbered { declared: "varchar(20) collate utf8mb4_0900_ai_ci", print: Print::Text, key: |n| format!("'{}{n:03}'", letter(n)) },
    Numbered { declared: "varchar(20) collate utf8mb4_bin", print: Print::Text, key: |n| format!("'{}{n:03}'", letter(n)) },
    Numbered { declared: "varchar(20) collate utf8mb4_general_ci", print: Print::Text, key: |n| format!("'{} {n:03} '", letter(n)) },
    Numbered { declared: "char(20) character set latin1", print: Print::Text, key: |n| format!("'ü{}{n:03}'", letter(n)) },
    Numbered { declared: "varbinary(20)", print: Print::Bytes, key: |n| format!("0x{:02x}00", n * 2 % 251) },
    Numbered { declared: "binary(4)", print: Print::Bytes, key: |n| format!("0x{:02x}", n * 2 % 251) },
    Numbered { declared: "decimal(30,10)", print: Print::Plain, key: |n| format!("{}.5", i64::try_from(n).unwrap() - 60) },
    Numbered { declared: "date", print: Print::Plain, key: |n| format!("date_add('1969-12-01', interval {n} day)") },
    Numbered { declared: "datetime(6)", print: Print::DateTime, key: |n| format!("'2024-01-01 00:00:00.{n:06}'") },
    Numbered { declared: "time(6)", print: Print::Time, key: |n| format!("{}'{:02}:00:00.5'", if n < 60 { "-" } else { "" }, n) },
    Numbered { declared: "bigint unsigned", print: Print::Plain, key: |n| format!("{}", u64::MAX - 200 + n) },
    Numbered { declared: "bit(64)", print: Print::Bit, key: |n| format!("{}", u64::MAX - 200 + n) },
    Numbered { declared: "bit(64)", print: Print::Bit, key: |n| format!("{n}") },
    Numbered { declared: "bit(9)", print: Print::Bit, key: |n| format!("{}", n * 3) },
    Numbered { declared: MEMBERS, print: Print::Text, key: |n| format!("{}", n + 1) },
    Numbered { declared: "set('z','a','y','b','x','c','w')", print: Print::Text, key: |n| format!("{n}") },
    Numbered { declared: "varchar(20) character set gbk", print: Print::Text, key: |n| format!("'中{}{n:03}'", letter(n)) },
    Numbered { declared: "timestamp(6)", print: Print::DateTime, key: |n| format!("'2024-01-01 00:00:00.{n:06}'") },
    Numbered { declared: "year", print: Print::Year, key: |n| format!("{}", n + 1950) },
    Numbered { declared: "double", print: Print::Double, key: |n| format!("{}.1e-5", n + 1) },
];

/// More than a hundred members, whose order is not that of their letters.
const MEMBERS: &str = "enum(MEMBERS)";

/// Upper case and lower case in turn, which a collation and bytes put into different orders.
fn letter(number: u64) -> char {
    ['a', 'B', 'c', 'D', 'é', 'F'][usize::try_from(number % 6).unwrap()]
}

#[test]
fn a_copy_that_is_interrupted_goes_on_after_a_key_of_every_kind() {
    let _logs = binary_logs_stay();
    let server = vitess();
    let (host, port) = server.grpc.as_ref().unwrap();
    let wrong = std::thread::scope(|scope| {
        let run = |at: usize, numbered: &'static Numbered, kind: Kind| {
            let mut conn = connected(server, "commerce");
            let Numbered { declared, print, key } = numbered;
            let keys = (0..128).map(|n| format!("k = {}", key(n))).collect();
            let members: Vec<String> = (0..128).map(|n| format!("'{} {n}'", letter(n))).collect();
            let declared = &*format!("k {} not null", declared.replace("MEMBERS", &members.join(","))).leak();
            let name = format!("long_keys_{at}_{kind:?}").to_lowercase();
            let table = Table::create(&mut conn, name, Case { declared, key: "k", print: vec![("k", *print)], keys });
            for n in 0..60 {
                let key = &table.case.keys[2 * n];
                table.run(&mut conn, format!("insert into {} set v = {n}, {key}, note = repeat('{}', 60000)", table.name, n % 10));
            }
            let destination = Destination::new(kind);
            // What has come until then is stored within a second, and ends the run, on a slow machine before the connection stalls.
            let proxy = Proxy::start((host.as_str(), *port), |_, _| Fault::Stall { way: Way::FromServer, after: 2_000_000 });
            let direct = server.cdc_uri("commerce");
            let through = direct.replace(&format!("grpc_port={port}"), &format!("grpc_port={}", proxy.port)) + "&mode=stream";
            let options = IngestOptions::new().with_tables([&table.name]);
            let cancel = Cancel::new();
            let end = cancel.clone();
            let until_rows = options.clone().with_cancel(cancel).with_progress(move |progress| {
                if progress.rows > 0 {
                    end.cancel();
                }
            });
            destination.capture(&through, &until_rows).unwrap();
            let copied = table.at(&destination, "true").len();
            assert!((1..60).contains(&copied), "{declared}: {copied} rows");
            // On both sides of where the copy stands, and across it, in both directions.
            for v in [0, 1, 29, 30, 58, 59] {
                table.update(&mut conn, v, "updated");
            }
            for v in [3, 31, 57] {
                table.delete(&mut conn, v);
            }
            for (v, key) in [(100, 1), (101, 63), (102, 117)] {
                table.insert(&mut conn, v, key);
            }
            for (v, key) in [(5, 115), (55, 11), (6, 119), (56, 13)] {
                table.rekey(&mut conn, v, key);
            }
            table.rekey(&mut conn, 7, 121);
            table.rekey(&mut conn, 54, 14);
            table.rekey(&mut conn, 7, 108);
            let report = destination.capture(&direct, &options).unwrap();
            assert!(report.is_complete(), "{declared}: {report:?}");
            // Where the server would leave rows out after the last key, the copy begins anew.
            let is_anew = ["bit(", "enum(", "set("].iter().any(|of| declared.contains(of));
            assert_eq!(report.tables[0].notes.len(), usize::from(is_anew), "{declared}: {:?}", report.tables[0].notes);
            let expected = table.at_source(&mut conn);
            let live = table.at(&destination, "not _cdc_deleted");
            conn.query_drop(format!("drop table {}", table.name)).unwrap();
            let brief = |row: &Vec<String>| (row[0].clone(), row[1].chars().take(10).collect::<String>(), row[2].clone());
            let lost: Vec<_> = expected.iter().filter(|row| !live.contains(row)).map(brief).collect();
            let odd: Vec<_> = live.iter().filter(|row| !expected.contains(row)).map(brief).collect();
            let is_same = live.len() == expected.len() && lost.is_empty();
            (!is_same).then(|| {
                let declared = declared.chars().take(60).collect::<String>();
                format!(
                    "{kind:?}, {declared}, interrupted after {copied}: {} lost {:?}, {} odd {:?}",
                    lost.len(),
                    lost.iter().take(3),
                    odd.len(),
                    odd.iter().take(3)
                )
            })
        };
        let mut wrong = Vec::new();
        for (at, numbered) in NUMBERED.iter().enumerate() {
            let both = [Kind::Sqlite, Kind::DuckDb].map(|kind| scope.spawn(move || run(at, numbered, kind)));
            wrong.extend(both.into_iter().filter_map(|run| run.join().unwrap()));
        }
        wrong
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_float_as_key_is_refused_and_another_key_of_the_table_is_taken() {
    let _logs = binary_logs_stay();
    let server = vitess();
    let mut conn = connected(server, "commerce");
    for sql in [
        "drop table if exists float_key, float_beside",
        "create table float_key (k float not null primary key, v int not null, note varchar(20))",
        "insert into float_key values (16777216, 1, 'a'), (16777215, 2, 'b'), (0.1, 3, 'c')",
        "create table float_beside (id int primary key)",
        "insert into float_beside values (1)",
    ] {
        conn.query_drop(sql).unwrap();
    }
    for kind in BOTH {
        let destination = Destination::new(kind);
        let uri = server.cdc_uri("commerce");
        let error = destination.capture(&uri, &IngestOptions::new().with_tables(["float_key"])).unwrap_err();
        assert_eq!((error.kind(), error.table(), error.column()), (ErrorKind::Unsupported, Some("float_key"), Some("k")), "{error:?}");
        // Others go on.
        let report = destination.capture(&uri, &IngestOptions::new().with_tables(["float_key", "float_beside"])).unwrap();
        assert!(matches!(&report.tables[0].state, TableState::Failed { error } if error.contains("FLOAT")), "{report:?}");
        assert_eq!(report.tables[1].state, TableState::Complete);

        let keyed = IngestOptions::new().with_tables(["float_key"]).with_primary_key(["v"]);
        destination.capture_all(&uri, &keyed);
        conn.query_drop("update float_key set k = 16777214 where v = 2").unwrap();
        conn.query_drop("update float_key set k = k + 1 where v = 3").unwrap();
        destination.capture_all(&uri, &keyed);
        let found = destination.query("select v, cast(k as double), note from float_key where not _cdc_deleted order by v");
        let found: Vec<(String, f64)> =
            found.iter().map(|row| (row[0].clone().unwrap(), row[1].as_ref().unwrap().parse().unwrap())).collect();
        let expected: Vec<(String, f64)> = conn.query("select cast(v as char), k * 1e0 from float_key order by v").unwrap();
        #[allow(clippy::cast_possible_truncation, reason = "the comparison is that of 32-bit numbers")]
        let narrow = |rows: &[(String, f64)]| rows.iter().map(|(v, k)| format!("{v} {:e}", *k as f32)).collect::<Vec<_>>();
        assert_eq!(narrow(&found), narrow(&expected));
        conn.query_drop("update float_key set k = 16777215 where v = 2").unwrap();
        conn.query_drop("update float_key set k = 0.1 where v = 3").unwrap();
    }
    conn.query_drop("drop table float_key, float_beside").unwrap();
}

/// Keys that the source does not know of: of a table without one, and of one with another.
#[test]
fn rows_are_found_by_keys_that_are_named() {
    let _logs = binary_logs_stay();
    let server = vitess();
    let mut conn = connected(server, "commerce");
    for (table, more) in [("named_keys", ""), ("named_beside", ", primary key (v), unique key (k, a)")] {
        conn.query_drop(format!("drop table if exists {table}")).unwrap();
        let columns = "v int not null, k varchar(20) collate utf8mb4_0900_ai_ci not null, note varchar(40), a bigint unsigned not null";
        conn.query_drop(format!("create table {table} ({columns}{more})")).unwrap();
        let table = Table {
            name: table.to_owned(),
            case: composite(
                "",
                "",
                &[("k", Print::Text), ("a", Print::Plain)],
                [
                    "k = 'x', a = 18446744073709551615",
                    "k = 'x', a = 18446744073709551614",
                    "k = 'Y', a = 1",
                    "k = '', a = 11",
                    "k = '1', a = 1",
                    "k = '11', a = 0",
                    "k = 'y ', a = 9223372036854775808",
                    "k = 'y', a = 9223372036854775809",
                ],
            ),
            sharded: false,
        };
        let options = IngestOptions::new().with_tables([&table.name]).with_primary_key(["K", "a"]);
        let destinations = destinations();
        for step in 0..7 {
            table.change(&mut conn, step);
            capture(&server.cdc_uri("commerce"), &destinations, &options);
            let expected = table.at_source(&mut conn);
            for (destination, hard) in &destinations {
                assert_eq!(table.difference(&expected, destination, *hard), None, "{}, step {step}", table.name);
            }
        }
        conn.query_drop(format!("drop table {}", table.name)).unwrap();
    }
    conn.query_drop("drop table if exists null_keys").unwrap();
    conn.query_drop("create table null_keys (id int primary key, k int)").unwrap();
    conn.query_drop("insert into null_keys values (1, 1), (2, null)").unwrap();
    for kind in BOTH {
        let options = IngestOptions::new().with_tables(["null_keys"]).with_primary_key(["k"]);
        let error = Destination::new(kind).capture(&server.cdc_uri("commerce"), &options).unwrap_err();
        assert_eq!((error.table(), error.column()), (Some("null_keys"), Some("k")), "{error:?}");
        assert!(error.to_string().contains("is NULL"), "{error:?}");
    }
    conn.query_drop("drop table null_keys").unwrap();
}

/// A statement that gives a key other digits or another length, of which no row tells: between two runs, and within one.
#[test]
fn rows_are_found_after_their_key_was_declared_anew() {
    let _logs = binary_logs_stay();
    let server = vitess();
    let mut conn = connected(server, "commerce");
    let moments =
        ["'2024-01-01'", "'2024-01-02'", "'2024-01-03'", "'2024-01-04'", "'2024-01-05'", "'2024-01-06'", "'2024-01-07'", "'2024-01-08'"];
    let times = ["'01:00:00'", "'-02:00:00'", "'03:00:00'", "'04:00:00'", "'05:00:00'", "'06:00:00'", "'07:00:00'", "'08:00:00'"];
    let bytes = ["0x01", "0x02", "0x0100ff", "0x04", "0x05", "0x06", "0x07", "0x08"];
    let numbers = ["1", "-1", "2.5", "3", "4", "5", "6", "7"];
    for within in [false, true] {
        let cases = [
            ("decimal(20,2)", "decimal(24,4)", Print::Plain, numbers),
            ("datetime", "datetime(6)", Print::DateTime, moments),
            ("timestamp", "timestamp(6)", Print::DateTime, moments),
            ("time", "time(6)", Print::Time, times),
            ("binary(4)", "binary(6)", Print::Bytes, bytes),
            ("bit(8)", "bit(16)", Print::Bit, ["1", "0", "2", "3", "4", "5", "6", "255"]),
        ];
        let tables: Vec<(Table, &str)> = cases
            .into_iter()
            .map(|(before, after, print, keys)| {
                let declared = &*format!("k {before} not null").leak();
                let name = format!("anew_{}_{within}", before.split('(').next().unwrap());
                (Table::create(&mut conn, name, single(declared, print, keys)), after)
            })
            .collect();
        let options = IngestOptions::new().with_tables(tables.iter().map(|(table, _)| &table.name));
        let destinations = destinations();
        tables.iter().for_each(|(table, _)| table.change(&mut conn, 0));
        capture(&server.cdc_uri("commerce"), &destinations, &options);
        for (table, after) in &tables {
            if within {
                table.change(&mut conn, 1);
            }
            table.run(&mut conn, format!("alter table {} modify k {after} not null", table.name));
            if !within {
                table.change(&mut conn, 1);
            }
            table.change(&mut conn, 2);
        }
        capture(&server.cdc_uri("commerce"), &destinations, &options);
        tables.iter().for_each(|(table, _)| table.change(&mut conn, 3));
        capture(&server.cdc_uri("commerce"), &destinations, &options);
        let mut wrong = Vec::new();
        for (table, _) in &tables {
            let expected = table.at_source(&mut conn);
            for (destination, hard) in &destinations {
                // To DuckDB bits of another length are another key: with soft deletes the row of the old one stays, marked as deleted.
                match destination.kind == Kind::DuckDb && !hard && table.name.starts_with("anew_bit") {
                    true => assert_eq!(table.at(destination, "not _cdc_deleted"), expected, "{}", table.name),
                    false => wrong.extend(table.difference(&expected, destination, *hard)),
                }
            }
            conn.query_drop(format!("drop table {}", table.name)).unwrap();
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

/// SQLite stores both as text, in which a day has no time; DuckDB has another type for each, and refuses to go on.
#[test]
fn a_day_that_becomes_a_moment_is_stored_as_one_in_all_rows() {
    let _logs = binary_logs_stay();
    let server = vitess();
    let mut conn = create_with(server, "commerce", "anew_day", "id int not null, k date not null, v int, primary key (k, id)");
    conn.query_drop("insert into anew_day values (1, '2024-01-01', 1), (2, '2024-01-02', 1), (3, '2024-01-03', 1)").unwrap();
    let options = IngestOptions::new().with_tables(["anew_day"]);
    let uri = server.cdc_uri("commerce");
    let (sqlite, duckdb) = (Destination::new(Kind::Sqlite), Destination::new(Kind::DuckDb));
    for destination in [&sqlite, &duckdb] {
        destination.capture_all(&uri, &options);
    }
    conn.query_drop("update anew_day set v = 2 where id = 1").unwrap();
    conn.query_drop("alter table anew_day modify k datetime not null").unwrap();
    conn.query_drop("update anew_day set v = 3 where id = 2").unwrap();
    conn.query_drop("delete from anew_day where id = 3").unwrap();
    let report = sqlite.capture_all(&uri, &options);
    assert!(report.tables[0].notes.iter().any(|note| note.starts_with("copied anew")), "{report:?}");
    let rows = sqlite.query("select id || ' ' || k || ' ' || v from anew_day where not _cdc_deleted order by id");
    assert_eq!(rows, [[Some("1 2024-01-01 00:00:00 2".to_owned())], [Some("2 2024-01-02 00:00:00 3".to_owned())]]);
    let error = duckdb.capture(&uri, &options).unwrap_err().to_string();
    assert!(error.contains("`anew_day.k` is DATE in the destination") && error.contains("full_refresh"), "{error}");
    conn.query_drop("drop table anew_day").unwrap();
}

/// DuckDB has no place for such a date, and by a NULL no row is found again.
#[test]
fn a_date_in_a_key_that_would_become_null_is_refused_before_anything_is_stored() {
    let _logs = binary_logs_stay();
    let server = vitess();
    let mut conn = create_with(server, "commerce", "zero_key", "id bigint not null, until date not null, v int, primary key (id, until)");
    conn.query_drop("set sql_mode = ''").unwrap();
    let options = IngestOptions::new().with_tables(["zero_key"]);
    let uri = server.cdc_uri("commerce");
    let refused = |destination: &Destination| {
        let error = destination.capture(&uri, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema, "{error:?}");
        let said = error.to_string();
        assert!(said.contains("key column `until` of table `zero_key`") && said.contains("zero_dates=text"), "{said}");
    };
    // In the copy, and in the stream.
    conn.query_drop("insert into zero_key values (1, '2024-02-29', 1)").unwrap();
    let streamed = Destination::new(Kind::DuckDb);
    streamed.capture_all(&uri, &options);
    conn.query_drop("insert into zero_key values (2, '0000-00-00', 1), (2, '2016-07-00', 2), (3, '2024-03-01', 3)").unwrap();
    refused(&streamed);
    assert_eq!(streamed.cell("select count(*) from zero_key").as_deref(), Some("1"));
    conn.query_drop("delete from zero_key where id = 2").unwrap();
    refused(&streamed);
    conn.query_drop("insert into zero_key values (2, '0000-00-00', 1), (2, '2016-07-00', 2)").unwrap();
    refused(&Destination::new(Kind::DuckDb));
    // As text they are keys like others.
    let [text, sqlite] = [Kind::DuckDb, Kind::Sqlite].map(Destination::new);
    for change in ["set @nothing = 1", "update zero_key set v = v + 10", "delete from zero_key where id = 2 and v = 11"] {
        conn.query_drop(change).unwrap();
        for destination in [&text, &sqlite] {
            destination.capture_all(&uri, &options.clone().with_zero_dates(ZeroDates::Text));
            let found = destination.query("select id, until, v from zero_key where not _cdc_deleted order by id, until");
            let expected: Vec<(i64, String, i64)> =
                conn.query("select id, cast(until as char), v from zero_key order by id, until").unwrap();
            let expected: Vec<Vec<Option<String>>> =
                expected.into_iter().map(|(id, until, v)| vec![Some(id.to_string()), Some(until), Some(v.to_string())]).collect();
            assert_eq!(found, expected, "{:?} {change}", destination.kind);
        }
    }
}
