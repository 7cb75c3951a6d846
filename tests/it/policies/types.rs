//! The README's table of types, line by line on real servers, and what it says of order and spatial values.

use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, MalformedText, OutOfRange, Sink, Source, ZeroDates, ingest};

use super::declared;
use crate::capture::fixture::{BOTH, Destination, Kind, binary_logs_stay, create_with};
use crate::support::servers::{mysql, vitess};

/// A line of the table: types of MySQL, ours, and the choices of each destination.
struct Line {
    mysql: Vec<String>,
    column_type: String,
    duckdb: Vec<String>,
    sqlite: Vec<String>,
}

/// What stands in backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn lines() -> Vec<Line> {
    let readme = include_str!("../../../README.md");
    let table = readme.split("| MySQL | `ColumnType` |").nth(1).unwrap().split("\n\n").next().unwrap();
    let lines = table.lines().skip(2).map(|line| {
        let cells: Vec<&str> = line.split(" | ").collect();
        let [mysql, duckdb, sqlite] = [0, 2, 3].map(|index| quoted(cells[index]));
        Line { mysql, column_type: quoted(cells[1]).remove(0), duckdb, sqlite }
    });
    lines.collect()
}

/// A column of each type, in the order of the lines.
fn columns(lines: &[Line], is_mysql_9: bool) -> Vec<(String, String, usize)> {
    let types = lines.iter().enumerate().flat_map(|(line, of)| of.mysql.iter().map(move |declared| (declared, line)));
    let known = types.filter(|(declared, _)| is_mysql_9 || !declared.starts_with("VECTOR"));
    known.enumerate().map(|(index, (declared, line))| (format!("c{index}"), declared.clone(), line)).collect()
}

#[test]
fn the_readme_says_what_destinations_declare() {
    let _stay = binary_logs_stay();
    let lines = lines();
    assert_eq!(lines.len(), 26, "the table has other lines");
    for (server, source) in
        [(mysql(), mysql().uri("commerce")), (vitess(), vitess().uri("commerce")), (vitess(), vitess().cdc_uri("commerce"))]
    {
        let table = "types_of_readme";
        let columns = columns(&lines, true);
        // TIMESTAMP is not null by default.
        let made: Vec<String> = columns.iter().map(|(name, declared, _)| format!("{name} {declared} null")).collect();
        let mut conn = create_with(server, "commerce", table, &format!("id int primary key, {}", made.join(", ")));
        conn.query_drop(format!("insert into {table} (id) values (1)")).unwrap();
        let known = Source::open(&source).unwrap().table(table).unwrap();
        for ((name, declared, line), column) in columns.iter().zip(&known.columns()[1..]) {
            let shown = format!("{:?}", column.column_type());
            assert!(shown.split([' ', '{']).next() == Some(&lines[*line].column_type), "{declared} ({name}) is {shown}");
        }
        for kind in BOTH {
            // The first choices, then those of every option.
            let options = IngestOptions::new().with_tables([table]);
            let text = options
                .clone()
                .with_zero_dates(ZeroDates::Text)
                .with_malformed_text(MalformedText::Bytes)
                .with_out_of_range(OutOfRange::Text);
            let error = options.clone().with_out_of_range(OutOfRange::Error);
            for (options, parameters, choice) in [(options, "", 0), (text, "?time_type=text&enum_type=enum", usize::MAX), (error, "", 1)] {
                let destination = Destination::new(kind);
                let parameters = if kind == Kind::DuckDb { parameters } else { "" };
                let mut sink = Sink::open(&format!("{}{parameters}", destination.uri())).unwrap();
                let report = ingest(&Source::open(&source).unwrap(), &mut sink, &options).unwrap();
                assert!(report.is_complete(), "{report:?}");
                drop(sink);
                let found = declared_by_name(&destination, table);
                for (name, of, line) in &columns {
                    let choices = if kind == Kind::DuckDb { &lines[*line].duckdb } else { &lines[*line].sqlite };
                    let expected = match choice {
                        1 if choices.len() < 3 => &choices[0],
                        choice => &choices[choice.min(choices.len() - 1)],
                    };
                    assert_eq!(&found[name], expected, "{of} in {kind:?}, choice {choice}");
                }
            }
        }
        conn.query_drop(format!("drop table {table}")).unwrap();
    }
}

fn declared_by_name(destination: &Destination, table: &str) -> std::collections::BTreeMap<String, String> {
    declared(destination, table).into_iter().collect()
}

/// As the README writes it.
fn by_value(column: &str) -> String {
    let readme = include_str!("../../../README.md");
    let order = readme.lines().find(|line| line.starts_with("ORDER BY c NOT LIKE")).unwrap();
    order
        .replace("c NOT", &format!("{column} NOT"))
        .replace(" c ", &format!(" {column} "))
        .replace("(c)", &format!("({column})"))
        .replace(", c", &format!(", {column}"))
}

#[test]
fn numbers_and_times_that_are_text_sort_by_value_as_the_readme_says() {
    let table = "order_of_text";
    let mut conn = create_with(mysql(), "commerce", table, "id int primary key, d decimal(20,3), w decimal(65,30), t time(3)");
    let rows =
        ["-99999999999999999.999", "-10", "-9.5", "-9.125", "-0.001", "0", "0.001", "1", "9.999", "10", "10.001", "99999999999999999.999"];
    let times = [
        "-838:59:59",
        "-100:00:00",
        "-99:59:59",
        "-24:00:00",
        "-00:00:00.001",
        "0",
        "00:00:00.001",
        "09:00:00",
        "10:00:00",
        "99:59:59",
        "100:00:00",
        "838:59:59",
    ];
    let values: Vec<String> =
        rows.iter().zip(times).enumerate().map(|(at, (number, time))| format!("({}, {number}, {number}, '{time}')", at * 7 % 12)).collect();
    conn.query_drop(format!("insert into {table} values {}", values.join(", "))).unwrap();
    for kind in BOTH {
        let destination = Destination::new(kind);
        let parameters = if kind == Kind::DuckDb { "?time_type=text" } else { "" };
        let mut sink = Sink::open(&format!("{}{parameters}", destination.uri())).unwrap();
        let options = IngestOptions::new().with_tables([table]);
        assert!(ingest(&Source::open(&mysql().uri("commerce")).unwrap(), &mut sink, &options).unwrap().is_complete());
        drop(sink);
        for column in ["d", "w", "t"] {
            if kind == Kind::DuckDb && column == "d" {
                continue;
            }
            let expected: Vec<i64> = conn.query(format!("select id from {table} order by {column}")).unwrap();
            let found = destination.query(&format!("select id from {table} {}", by_value(column)));
            let found: Vec<i64> = found.into_iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect();
            assert_eq!(found, expected, "{kind:?} {column}");
        }
    }
    conn.query_drop(format!("drop table {table}")).unwrap();
}

#[test]
fn spatial_values_are_srid_and_wkb() {
    let _stay = binary_logs_stay();
    let table = "spatial_bytes";
    let mut conn = create_with(vitess(), "commerce", table, "id int primary key, g geometry");
    // In 4326 the text has latitude first.
    conn.query_drop(format!(
        "insert into {table} (id, g) values (1, st_geomfromtext('POINT(1 2)')), (2, st_geomfromtext('POINT(1 2)', 4326))"
    ))
    .unwrap();
    let (one, two) = ("000000000000F03F", "0000000000000040");
    let expected = [format!("00000000 0101000000{one}{two}"), format!("E6100000 0101000000{two}{one}")];
    for kind in BOTH {
        let destination = Destination::new(kind);
        let options = IngestOptions::new().with_tables([table]);
        destination.capture_all(&vitess().cdc_uri("commerce"), &options);
        let (srid, wkb) = if kind == Kind::Sqlite { ("substr(g, 1, 4)", "substr(g, 5)") } else { ("g[:4]", "g[5:]") };
        let found = destination.query(&format!("select hex({srid}) || ' ' || hex({wkb}) from {table} order by id"));
        assert_eq!(found, expected.clone().map(|value| [Some(value)]), "{kind:?}");
    }
    conn.query_drop(format!("drop table {table}")).unwrap();
}
