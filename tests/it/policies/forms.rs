//! Types for which DuckDB has more than one form: TIME and ENUM.

use mysql::Conn;
use mysql::prelude::Queryable;
use planetscale_ingest::{Error, IngestOptions, Report, Sink, Source, Strategy, TableState, ingest};

use super::declared;
use crate::capture::fixture::{Destination, Kind, binary_logs_stay, create_with};
use crate::support::servers::{Server, mysql, vitess, wait_for_column};

fn run(destination: &Destination, parameters: &str, source: &str, options: &IngestOptions) -> Result<Report, Error> {
    let source = Source::open(source)?;
    let mut sink = Sink::open(format!("{}?{parameters}", destination.uri()).trim_end_matches('?'))?;
    ingest(&source, &mut sink, options)
}

fn run_all(destination: &Destination, parameters: &str, source: &str, options: &IngestOptions) {
    let report = run(destination, parameters, source, options).unwrap();
    assert_eq!(report.tables[0].state, TableState::Complete, "{parameters}");
}

fn error_of(destination: &Destination, parameters: &str, source: &str, options: &IngestOptions) -> String {
    match run(destination, parameters, source, options) {
        Err(error) => format!("{error:#}"),
        Ok(report) => match &report.tables[0].state {
            TableState::Failed { error } => error.clone(),
            state => panic!("{parameters}: {state:?}"),
        },
    }
}

fn printed(conn: &mut Conn, sql: &str) -> Vec<Vec<Option<String>>> {
    let rows: Vec<mysql::Row> = conn.query(sql).unwrap();
    let cells = |row: mysql::Row| row.unwrap().into_iter().map(mysql::from_value).collect();
    rows.into_iter().map(cells).collect()
}

fn type_of(destination: &Destination, table: &str, column: &str) -> String {
    declared(destination, table).into_iter().find(|(name, _)| name == column).unwrap().1
}

const TIMES: &str = "(1, '00:00:00', '-00:00:00.000001'), (2, '838:59:59', '838:59:59'), (3, '-838:59:59', '-838:59:58.9'), (4, null, null), \
                     (5, '24:00:00', '-12:34:56.789012')";

fn make_times(server: &Server, table: &str) -> Conn {
    let mut conn = create_with(server, "commerce", table, "id int primary key, t time, f time(6)");
    conn.query_drop(format!("insert into {table} (id, t, f) values {TIMES}")).unwrap();
    conn
}

#[test]
fn times_as_text_are_what_mysql_prints_in_whole_copies() {
    for server in [mysql(), vitess()] {
        let table = "times_whole";
        let mut conn = make_times(server, table);
        let destination = Destination::new(Kind::DuckDb);
        let options = IngestOptions::new().with_tables([table]);
        let all = format!("select id, t, f from {table} order by id");
        let expected = printed(&mut conn, &format!("select cast(id as char), cast(t as char), cast(f as char) from {table} order by id"));
        run_all(&destination, "time_type=text", &server.uri("commerce"), &options);
        assert_eq!(type_of(&destination, table, "t"), "VARCHAR");
        assert_eq!(destination.query(&all), expected);
        let append = options.clone().with_strategy(Strategy::Append);
        let error = error_of(&destination, "", &server.uri("commerce"), &append);
        assert!(error.contains("`times_whole.t` is VARCHAR in the destination") && error.contains("INTERVAL"), "{error}");
        run_all(&destination, "time_type=interval", &server.uri("commerce"), &options);
        assert_eq!(type_of(&destination, table, "t"), "INTERVAL");
        assert_eq!(destination.cell(&format!("select epoch_us(f) from {table} where id = 3")).as_deref(), Some("-3020398900000"));
        conn.query_drop(format!("drop table {table}")).unwrap();
    }
}

#[test]
fn times_as_text_are_what_mysql_prints_in_copy_and_stream() {
    let _stay = binary_logs_stay();
    let source = vitess().cdc_uri("commerce");
    let table = "times_captured";
    let mut conn = make_times(vitess(), table);
    let destination = Destination::new(Kind::DuckDb);
    let options = IngestOptions::new().with_tables([table]);
    let check = |conn: &mut Conn, columns: &[&str]| {
        let casts: Vec<String> = columns.iter().map(|column| format!("cast({column} as char)")).collect();
        let expected = printed(conn, &format!("select {} from {table} order by id", casts.join(", ")));
        let found = destination.query(&format!("select {} from {table} where not _cdc_deleted order by id", columns.join(", ")));
        assert_eq!(found, expected);
    };
    run_all(&destination, "time_type=text", &source, &options);
    check(&mut conn, &["id", "t", "f"]);
    conn.query_drop(format!("insert into {table} (id, t, f) select id + 10, f, t from {table}")).unwrap();
    conn.query_drop(format!("update {table} set t = '-01:02:03', f = '-01:02:03.4' where id = 1")).unwrap();
    conn.query_drop(format!("alter table {table} add column n time(3) not null default '-12:34:56.789'")).unwrap();
    wait_for_column(&mut conn, table, "n");
    conn.query_drop(format!("insert into {table} (id, t) values (30, '100:00:00')")).unwrap();
    run_all(&destination, "time_type=text", &source, &options);
    check(&mut conn, &["id", "t", "f", "n"]);

    let error = error_of(&destination, "", &source, &options);
    assert!(error.contains("`times_captured.t` is VARCHAR in the destination") && error.contains("full_refresh"), "{error}");
    run_all(&destination, "", &source, &options.clone().with_full_refresh(true));
    assert_eq!(type_of(&destination, table, "n"), "INTERVAL");
    let error = error_of(&destination, "time_type=text", &source, &options);
    assert!(error.contains("`times_captured.t` is INTERVAL in the destination") && error.contains("full_refresh"), "{error}");
    run_all(&destination, "time_type=text", &source, &options.with_full_refresh(true));
    check(&mut conn, &["id", "t", "f", "n"]);
    conn.query_drop(format!("drop table {table}")).unwrap();
}

const MEMBERS: &str = "enum('new', 'it''s', 'b, \"c', 'ü', 'a')";
const AS_ENUM: &str = "ENUM('', 'new', 'it''s', 'b, \"c', 'ü', 'a')";

fn make_members(server: &Server, table: &str) -> Conn {
    let mut conn = create_with(server, "commerce", table, &format!("id int primary key, e {MEMBERS}, s set('y', 'x')"));
    conn.query_drop("set sql_mode = ''").unwrap();
    conn.query_drop("set names utf8mb4").unwrap();
    conn.query_drop(format!(
        "insert into {table} (id, e, s) values (1, 1, 'x,y'), (2, 2, ''), (3, 3, null), (4, 4, 'y'), (5, 5, 'x'), (6, null, 'x'), (7, 0, 'x')"
    ))
    .unwrap();
    conn
}

/// In the order of the members, which is MySQL's own for the type.
fn check_members(conn: &mut Conn, destination: &Destination, table: &str, condition: &str) {
    let expected = printed(
        conn,
        &format!("select cast(id as char), cast(e as char), cast(s as char) from {table} where e is not null order by e, id"),
    );
    let found = destination.query(&format!("select id, e, s from {table} where e is not null {condition} order by e, id"));
    assert_eq!(found, expected);
}

#[test]
fn enums_sort_as_in_mysql_in_whole_copies() {
    for server in [mysql(), vitess()] {
        let table = "enums_whole";
        let mut conn = make_members(server, table);
        let destination = Destination::new(Kind::DuckDb);
        let options = IngestOptions::new().with_tables([table]);
        run_all(&destination, "enum_type=enum", &server.uri("commerce"), &options);
        assert_eq!(type_of(&destination, table, "e"), AS_ENUM);
        assert_eq!(type_of(&destination, table, "s"), "VARCHAR");
        check_members(&mut conn, &destination, table, "");
        assert_eq!(destination.cell(&format!("select count(*) from {table} where e is null")).as_deref(), Some("1"));
        let append = options.clone().with_strategy(Strategy::Append);
        run_all(&destination, "enum_type=enum", &server.uri("commerce"), &append);
        assert_eq!(destination.cell(&format!("select count(*) from {table} where e = 'it''s'")).as_deref(), Some("2"));
        let error = error_of(&destination, "", &server.uri("commerce"), &append);
        assert!(error.contains("`enums_whole.e` is ENUM("), "{error}");
        run_all(&destination, "enum_type=varchar", &server.uri("commerce"), &options);
        assert_eq!(type_of(&destination, table, "e"), "VARCHAR");
        conn.query_drop(format!("drop table {table}")).unwrap();
    }
}

#[test]
fn enums_of_many_members_are_stored_by_wider_indexes() {
    let table = "enums_many";
    let members: Vec<String> = (1..=300).map(|at| format!("'m{at}'")).collect();
    let mut conn = create_with(
        mysql(),
        "commerce",
        table,
        &format!("id int primary key, e enum({}), q enum('?', 'a'), o enum('', 'a')", members.join(",")),
    );
    let rows: Vec<String> = (1..=300).map(|at| format!("({at}, {at}, 1, 1)")).collect();
    conn.query_drop(format!("insert into {table} values {}", rows.join(","))).unwrap();
    let destination = Destination::new(Kind::DuckDb);
    run_all(&destination, "enum_type=enum", &mysql().uri("commerce"), &IngestOptions::new().with_tables([table]));
    assert_eq!(
        destination.cell(&format!("select count(*) from {table} where e = 'm' || id and q = '?' and o = ''")).as_deref(),
        Some("300")
    );
    // What a question mark stands for is not known.
    assert_eq!(type_of(&destination, table, "q"), "VARCHAR");
    assert_eq!(type_of(&destination, table, "o"), "ENUM('', 'a')");
    conn.query_drop(format!("drop table {table}")).unwrap();
}

#[test]
fn enums_follow_their_members_through_the_stream() {
    let _stay = binary_logs_stay();
    let source = vitess().cdc_uri("commerce");
    let table = "enums_captured";
    let mut conn = make_members(vitess(), table);
    let destination = Destination::new(Kind::DuckDb);
    let options = IngestOptions::new().with_tables([table]);
    let live = "and not _cdc_deleted";
    run_all(&destination, "enum_type=enum", &source, &options);
    assert_eq!(type_of(&destination, table, "e"), AS_ENUM);
    check_members(&mut conn, &destination, table, live);

    conn.query_drop(format!("update {table} set e = 'a' where id = 1")).unwrap();
    conn.query_drop(format!("update {table} set e = 0 where id = 2")).unwrap();
    conn.query_drop(format!("insert into {table} (id, e) values (20, 'ü')")).unwrap();
    conn.query_drop(format!("delete from {table} where id = 5")).unwrap();
    run_all(&destination, "enum_type=enum", &source, &options);
    check_members(&mut conn, &destination, table, live);

    // New members, at the end and between, with changes before and after in one run.
    for (members, statement) in [
        ("enum('new', 'it''s', 'b, \"c', 'ü', 'a', 'last')", "insert into {} (id, e) values (30, 'last')"),
        ("enum('zero', 'new', 'it''s', 'b, \"c', 'ü', 'a', 'last')", "update {} set e = 'zero' where id = 3"),
        ("enum('a', 'new', 'it''s', 'b, \"c', 'ü', 'last', 'zero')", "insert into {} (id, e) values (31, 'a')"),
    ] {
        conn.query_drop(format!("update {table} set s = 'y' where id = 4")).unwrap();
        conn.query_drop(format!("alter table {table} modify e {members}")).unwrap();
        conn.query_drop(statement.replace("{}", table)).unwrap();
        run_all(&destination, "enum_type=enum", &source, &options);
        check_members(&mut conn, &destination, table, live);
    }
    assert_eq!(type_of(&destination, table, "e"), "ENUM('', 'a', 'new', 'it''s', 'b, \"c', 'ü', 'last', 'zero')");

    // One that the source drops and another instead: the deleted row still has the first.
    conn.query_drop(format!("delete from {table} where e = 'ü'")).unwrap();
    conn.query_drop(format!("alter table {table} modify e enum('a', 'new', 'it''s', 'b, \"c', 'other', 'last', 'zero')")).unwrap();
    conn.query_drop(format!("insert into {table} (id, e) values (40, 'other')")).unwrap();
    run_all(&destination, "enum_type=enum", &source, &options);
    check_members(&mut conn, &destination, table, live);
    assert_eq!(destination.cell(&format!("select e from {table} where id = 4 and _cdc_deleted")).as_deref(), Some("ü"));
    // And a run in which nothing has changed.
    run_all(&destination, "enum_type=enum", &source, &options);

    // A new column with a default.
    conn.query_drop(format!("alter table {table} add column n enum('p', 'q') not null default 'q'")).unwrap();
    wait_for_column(&mut conn, table, "n");
    conn.query_drop(format!("insert into {table} (id, n) values (50, 'p')")).unwrap();
    run_all(&destination, "enum_type=enum", &source, &options);
    assert_eq!(type_of(&destination, table, "n"), "ENUM('', 'p', 'q')");
    assert_eq!(
        destination.cell(&format!("select count(*) from {table} where n = 'q' and id < 50")),
        destination.cell(&format!("select count(*) from {table} where id < 50"))
    );

    // The other choice and back: an ENUM becomes VARCHAR, and stays so.
    conn.query_drop(format!("update {table} set e = 'new' where id = 40")).unwrap();
    run_all(&destination, "", &source, &options);
    assert_eq!(type_of(&destination, table, "e"), "VARCHAR");
    conn.query_drop(format!("update {table} set e = 'last' where id = 40")).unwrap();
    conn.query_drop(format!("alter table {table} modify e enum('a', 'new', 'it''s', 'b, \"c', 'other', 'last', 'zero', 'newest')"))
        .unwrap();
    conn.query_drop(format!("insert into {table} (id, e) values (60, 'newest')")).unwrap();
    run_all(&destination, "enum_type=enum", &source, &options);
    assert_eq!(type_of(&destination, table, "e"), "VARCHAR");
    let as_text = printed(&mut conn, &format!("select cast(id as char), cast(e as char) from {table} order by id"));
    assert_eq!(destination.query(&format!("select id, e from {table} where not _cdc_deleted order by id")), as_text);
    run_all(&destination, "enum_type=enum", &source, &options.with_full_refresh(true));
    assert!(type_of(&destination, table, "e").starts_with("ENUM("));
    check_members(&mut conn, &destination, table, live);
    conn.query_drop(format!("drop table {table}")).unwrap();
}

#[test]
fn enums_within_keys_are_found_again() {
    let _stay = binary_logs_stay();
    let source = vitess().cdc_uri("commerce");
    let table = "enums_within_keys";
    let mut conn = create_with(vitess(), "commerce", table, "id int, k enum('z', 'm', 'a'), at time(1), v int, primary key (id, k, at)");
    conn.query_drop(format!(
        "insert into {table} (id, k, at, v) values (1, 'z', '1:00', 1), (1, 'a', '1:00', 2), (1, 'a', '-1:00', 3), (2, 'm', 0, 4)"
    ))
    .unwrap();
    for parameters in ["enum_type=enum&time_type=text", "enum_type=enum"] {
        let destination = Destination::new(Kind::DuckDb);
        let options = IngestOptions::new().with_tables([table]);
        run_all(&destination, parameters, &source, &options);
        conn.query_drop(format!("update {table} set v = v + 10 where k = 'a' and at < 0")).unwrap();
        conn.query_drop(format!("update {table} set k = 'm' where k = 'z'")).unwrap();
        conn.query_drop(format!("delete from {table} where id = 2")).unwrap();
        run_all(&destination, parameters, &source, &options);
        let expected = printed(&mut conn, &format!("select cast(id as char), cast(k as char), cast(v as char) from {table} order by v"));
        assert_eq!(destination.query(&format!("select id, k, v from {table} where not _cdc_deleted order by v")), expected);
        let deleted = destination.query(&format!("select id, k from {table} where _cdc_deleted order by id"));
        assert_eq!(deleted, [["1", "z"], ["2", "m"]].map(|row| row.map(|cell| Some(cell.to_owned()))), "{parameters}");
        conn.query_drop(format!("update {table} set k = 'z' where k = 'm'")).unwrap();
        conn.query_drop(format!("insert into {table} (id, k, at, v) values (2, 'm', 0, 4)")).unwrap();
    }
    conn.query_drop(format!("drop table {table}")).unwrap();
}

#[test]
fn enums_as_keys_are_found_again_in_whatever_order_their_members_are() {
    let _stay = binary_logs_stay();
    let source = vitess().cdc_uri("commerce");
    let table = "enums_as_keys";
    let mut conn = create_with(vitess(), "commerce", table, "k enum('z', 'm', 'a', 'q') primary key, id int");
    conn.query_drop(format!("insert into {table} (k, id) values ('z', 1), ('a', 2)")).unwrap();
    let destination = Destination::new(Kind::DuckDb);
    let options = IngestOptions::new().with_tables([table]);
    run_all(&destination, "enum_type=enum", &source, &options);
    // By bytes `z` is the greatest, by the members `a`: a new run asks the table for it.
    conn.query_drop(format!("update {table} set id = 10 where k = 'z'")).unwrap();
    conn.query_drop(format!("insert into {table} (k, id) values ('m', 3)")).unwrap();
    run_all(&destination, "enum_type=enum", &source, &options);
    conn.query_drop(format!("delete from {table} where k = 'a'")).unwrap();
    conn.query_drop(format!("update {table} set k = 'q' where k = 'm'")).unwrap();
    run_all(&destination, "enum_type=enum", &source, &options);
    let found = destination.query(&format!("select k, id from {table} where not _cdc_deleted order by k"));
    assert_eq!(found, printed(&mut conn, &format!("select cast(k as char), cast(id as char) from {table} order by {table}.k")));
    conn.query_drop(format!("drop table {table}")).unwrap();
}
