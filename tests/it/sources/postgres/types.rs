//! Every type against what the server prints.

use planetscale_ingest::{ErrorKind, IngestOptions, Source, TableState, ValueChange, ZeroDates, ingest};

use crate::sources::{Type, common, moved, read, refused, ty, types, uri};
use crate::support::postgres::postgres;

const PLAIN: &str = "v";
const MOMENT: &str = "to_char(v, 'YYYY-MM-DD HH24:MI:SS.US')";
const JSON: &str = "to_json(v)";

/// Random bits of a row, and random bytes in hexadecimal.
const BITS: &str = "('x' || substr(md5(i::text), 1, 16))::bit(64)";

/// Random values are of `i`, the row's number.
const TYPES: &[Type] = &[
    ty("boolean", "boolean", &["true", "false"], "i % 2 = 0", PLAIN),
    ty("smallint", "smallint", &["-32768", "0", "32767"], "(i * 7919) % 65536 - 32768", PLAIN),
    ty("integer", "int", &["-2147483648", "0", "2147483647"], "BITS::bit(32)::int", PLAIN),
    ty("bigint", "bigint", &["-9223372036854775808", "0", "9223372036854775807"], "BITS::bigint", PLAIN),
    ty("oid", "int unsigned", &["0", "4294967295"], "(BITS::bigint & 4294967295)::oid", PLAIN),
    ty("numeric(1,0)", "decimal(1,0)", &["-9", "0", "9"], "i % 10", PLAIN),
    ty(
        "numeric(18,4)",
        "decimal(18,4)",
        &["-99999999999999.9999", "0", "-0.0001", "0.0001", "10000", "99999999.9999"],
        "BITS::bigint / 1000000.0",
        PLAIN,
    ),
    ty(
        "numeric(65,30)",
        "decimal(65,30)",
        &["-99999999999999999999999999999999999.999999999999999999999999999999", "0.000000000000000000000000000001", "1e20"],
        "BITS::bigint::numeric * BITS::bigint / 1e30",
        PLAIN,
    ),
    ty("numeric(3,-2)", "decimal(5,0)", &["-99900", "0", "12300"], "(i % 1000) * 100", PLAIN),
    ty("numeric(2,5)", "decimal(5,5)", &["-0.00099", "0", "0.00001"], "(i % 100) / 100000.0", PLAIN),
    ty("numeric(80,40)", "text", &["-1", "1e-40", "9e39"], "BITS::bigint / 7.0", PLAIN),
    ty("numeric", "text", &["0", "-1e-50", "1e100", "1.50", "100000000", "0.00010000"], "BITS::bigint / 10000.0", PLAIN),
    ty("money", "decimal(19,2)", &["'-92233720368547758.08'", "0", "92233720368547758.07"], "(i * 7919)::money", "v::numeric"),
    ty("real", "float", &["0", "0.1", "-3.4028235e38", "1e-45", "16777216"], "BITS::bigint::real / 7e12", "float"),
    ty("double precision", "double", &["0", "0.1", "-1.7976931348623157e308", "5e-324"], "BITS::bigint::float8 / 7", "double"),
    ty("char(5)", "varchar(5)", &["''", "'  a'", "'ab  '", "'üüüüü'"], "left(md5(i::text), i % 6)", PLAIN),
    ty("varchar(40)", "varchar(40)", &["''", "'ab  '", "repeat('ü', 40)"], "md5(i::text) || ' '", PLAIN),
    ty("text", "text", &["''", "E'tab\\t line\\n \\\\'", "'☃😀'", "repeat('long', 100000)"], "repeat(md5(i::text), i % 9)", PLAIN),
    ty("name", "varchar(63)", &["''", "repeat('n', 63)"], "md5(i::text)", PLAIN),
    ty("\"char\"", "text", &["'a'", "''"], "chr(65 + i % 26)", PLAIN),
    ty("bytea", "blob", &["''", "'\\x00ff5c'"], "decode(repeat(md5(i::text), i % 5), 'hex')", "'0x' || encode(v, 'hex')"),
    ty(
        "date",
        "date",
        &["'0001-01-01'", "'1999-12-31'", "'2000-02-29'", "'9999-12-31'"],
        "date '0500-01-01' + (i * 7919) % 3000000",
        PLAIN,
    ),
    ty(
        "timestamp",
        "datetime(6)",
        &["'0001-01-01'", "'1999-12-31 23:59:59.999999'", "'9999-12-31 23:59:59.999999'"],
        "timestamp '1000-01-01' + i * interval '1000003.000007 s'",
        MOMENT,
    ),
    ty(
        "timestamp(3)",
        "datetime(3)",
        &["'0001-01-01'", "'9999-12-31 23:59:59.999'"],
        "timestamp '1000-01-01' + i * interval '1000003.0007 s'",
        "to_char(v, 'YYYY-MM-DD HH24:MI:SS.MS')",
    ),
    ty(
        "timestamptz(0)",
        "timestamp(0)",
        &["'1000-01-01 00:00:00+00'", "'2024-06-01 02:00:00+02'"],
        "timestamptz '1000-01-01 00:00:00+00' + i * interval '1000003 s'",
        "to_char(v at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS')",
    ),
    ty(
        "timestamptz",
        "timestamp(6)",
        &["'0001-01-01 00:00:00+00'", "'9999-12-31 23:59:59.999999+00'"],
        "timestamptz '1000-01-01 00:00:00+00' + i * interval '1000003.000007 s'",
        "to_char(v at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')",
    ),
    ty(
        "time",
        "time(6)",
        &["'00:00'", "'24:00'", "'23:59:59.999999'"],
        "time '00:00' + i * interval '17.000003 s'",
        "case when v = '24:00' then '24:00:00.000000' else to_char(v, 'HH24:MI:SS.US') end",
    ),
    ty("time(0)", "time(0)", &["'00:00'", "'23:59:59'"], "time '00:00' + i * interval '17 s'", PLAIN),
    ty("timetz", "text", &["'00:00:00+15:59'", "'23:59:59.5-01'"], "time '00:00' + i * interval '17.3 s'", PLAIN),
    ty("interval", "text", &["'1 mon -3 days 04:05:06.7'", "'0'", "'-838:59:59'"], "i * interval '1 day 1000003.000007 s'", PLAIN),
    ty(
        "uuid",
        "varchar(36)",
        &["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"],
        "md5(i::text)::uuid",
        PLAIN,
    ),
    ty("json", "json", &["'{\"a\":  [1, null], \"a\": 2}'", "'null'"], "json_build_object('i', i)", PLAIN),
    ty("jsonb", "json", &["'{\"a\":  [1, null], \"b\": 1e400}'", "'null'", "'\"x\"'"], "jsonb_build_object('i', i)", PLAIN),
    ty("xml", "text", &["'<a b=\"c\">ü</a>'", "''"], "('<i>' || i || '</i>')::xml", PLAIN),
    ty("inet", "text", &["'10.0.0.1'", "'10.0.0.0/8'", "'::1'", "'fe80::/10'"], "inet '10.0.0.0' + i", "abbrev(v)"),
    ty("cidr", "text", &["'10.0.0.0/8'", "'::/0'"], "set_masklen(inet '10.0.0.0' + i, 32)::cidr", PLAIN),
    ty("macaddr", "text", &["'08:00:2b:01:02:03'"], "substr(md5(i::text), 1, 12)::macaddr", PLAIN),
    ty("macaddr8", "text", &["'08:00:2b:01:02:03:04:05'"], "substr(md5(i::text), 1, 16)::macaddr8", PLAIN),
    ty("bit(1)", "bit(1)", &["B'0'", "B'1'"], "(i % 2)::bit(1)", PLAIN),
    ty("bit(11)", "bit(11)", &["B'00000000001'", "B'10000000000'"], "(i % 2048)::bit(11)", PLAIN),
    ty("bit(64)", "bit(64)", &["(-1)::bigint::bit(64)", "0::bigint::bit(64)"], "BITS", PLAIN),
    ty("bit(70)", "text", &["repeat('10', 35)::bit(70)"], "BITS::text::bit(70)", PLAIN),
    ty("varbit", "text", &["B''", "B'101'"], "substr(BITS::text, 1, i % 64)::varbit", PLAIN),
    ty("mood", "enum of 3 members", &["'sad'", "''", "'it''s, ok'"], "case when i % 2 = 0 then 'sad' else 'it''s, ok' end::mood", PLAIN),
    ty("positive", "decimal(10,2)", &["0.01", "99999999.99"], "i / 100.0 + 1", PLAIN),
    ty("short_positive", "decimal(10,2)", &["0.01", "99.99"], "i / 1000.0 + 1", PLAIN),
    ty("integer[]", "json", &["'{}'", "'{1,NULL,3}'", "'{{1,2},{3,4}}'"], "array[i, i * 2]", JSON),
    ty("numeric(20,5)[]", "json", &["'{1.5,123456789012345.12345}'"], "array[i / 7.0]", JSON),
    ty("text[]", "json", &[r#"array['a,b', 'it''s "\', null]"#], "array[md5(i::text)]", JSON),
    ty("timestamp[]", "json", &["'{2024-01-01,infinity}'"], "array[timestamp '2024-01-01' + i * interval '1.5 s']", JSON),
    ty("pair", "json", &["row(1, 'x')::pair", "row(null, 'ü\"')::pair"], "row(i, md5(i::text))::pair", JSON),
    ty("int4range", "text", &["'empty'", "'[1,5)'", "'(,)'"], "int4range(i, i + 3)", PLAIN),
    ty("tstzrange", "text", &["'[2024-01-01 00:00:00+00,)'"], "tstzrange(timestamptz '2024-01-01 00:00:00+00', null)", PLAIN),
    ty("int4multirange", "text", &["'{[1,3),[7,9)}'"], "int4multirange(int4range(i, i + 3))", PLAIN),
    ty("point", "text", &["'(1.5,-2)'"], "point(i, 0.1)", PLAIN),
    ty("polygon", "text", &["'((0,0),(1,1),(2,0))'"], "polygon(box(point(0, 0), point(i, i)))", PLAIN),
    ty("circle", "text", &["'<(0,0),1>'"], "circle(point(i, i), 2)", PLAIN),
    ty("tsvector", "text", &["'a fat cat'"], "to_tsvector('simple', md5(i::text))", PLAIN),
    ty("pg_lsn", "text", &["'16/B374D848'"], "'0/0'::pg_lsn + i", PLAIN),
    ty("citext_like", "text", &["'Ab'"], "md5(i::text)", PLAIN),
];

/// Makes a table for each type.
fn create(schema: &str) {
    let server = postgres();
    server.fresh_schema(schema);
    let mut sql = format!(
        "set search_path = {schema}; create type mood as enum ('sad', '', 'it''s, ok'); create domain positive as numeric(10,2) check (value > 0);
         create domain short_positive as positive check (value < 100000); create domain citext_like as text not null;
         create type pair as (n int, t text);"
    );
    for (index, ty) in TYPES.iter().enumerate() {
        let random = ty.random.replace("BITS", BITS);
        sql.push_str(&format!("create table t{index} (id integer primary key, v {});", ty.declared));
        for (row, edge) in ty.edges.iter().enumerate() {
            sql.push_str(&format!("insert into t{index} values ({row}, {edge});"));
        }
        let nulls = if ty.declared == "citext_like" { "0" } else { "17" };
        sql.push_str(&format!(
            "insert into t{index} select 100 + i, case when {nulls} = 0 or i % 17 <> 0 then {random} end from generate_series(1, 500) i;"
        ));
    }
    server.exec(&sql);
}

fn number<T: std::str::FromStr>(text: &Option<String>) -> Option<T> {
    text.as_ref().and_then(|text| text.parse().ok())
}

#[test]
fn every_type_gives_the_values_that_the_server_prints() {
    const SCHEMA: &str = "source_types";
    create(SCHEMA);
    let server = postgres();
    let source = Source::open(&server.uri(&format!("schema={SCHEMA}"))).unwrap();
    for (index, ty) in TYPES.iter().enumerate() {
        let table = format!("t{index}");
        assert_eq!(types(&source, &table)["v"], ty.column_type, "{}", ty.declared);
        let printing = if matches!(ty.printed, "float" | "double") { PLAIN } else { ty.printed };
        let expected = server.printed(&["id", printing], &format!("from {SCHEMA}.{table} order by id"));
        let mut found = read(&source, &table);
        found.sort_by_key(|row| row[0].as_ref().unwrap().parse::<i64>().unwrap());
        assert_eq!((found.len(), found.len()), (expected.len(), 500 + ty.edges.len()), "{}", ty.declared);
        for (found, expected) in found.iter().zip(&expected) {
            match ty.printed {
                // Both print the shortest text, but with a point or an exponent in other places.
                "float" => assert_eq!(number::<f32>(&found[1]), number(&expected[1]), "{}", ty.declared),
                "double" => assert_eq!(number::<f64>(&found[1]), number(&expected[1]), "{}", ty.declared),
                _ => assert_eq!(found, expected, "{}", ty.declared),
            }
        }
    }
    server.exec(&format!("set client_min_messages = error; drop schema {SCHEMA} cascade"));
}

#[test]
fn every_type_arrives_in_files_and_comes_back_from_them() {
    const SCHEMA: &str = "source_types_moved";
    create(SCHEMA);
    let server = postgres();
    let folder = tempfile::tempdir().unwrap();
    let from = server.uri(&format!("schema={SCHEMA}"));
    let source = Source::open(&from).unwrap();
    for scheme in ["duckdb", "sqlite"] {
        let file = uri(scheme, &folder.path().join(scheme));
        let report = moved(&from, &file, &IngestOptions::new());
        assert_eq!(report.tables.len(), TYPES.len());
        let copy = Source::open(&file).unwrap();
        for (index, ty) in TYPES.iter().enumerate() {
            let table = format!("t{index}");
            let [mut expected, mut found] = [&source, &copy].map(|source| read(source, &table));
            for rows in [&mut expected, &mut found] {
                rows.sort_by_key(|row| row[0].as_ref().unwrap().parse::<i64>().unwrap());
            }
            assert_eq!(expected.len(), found.len());
            for (expected, found) in expected.iter().zip(&found) {
                let [expected, found] = [expected, found].map(|row| common(&row[1], ty.column_type));
                assert_eq!(found, expected, "{} in {scheme}", ty.declared);
            }
        }
    }
    server.exec(&format!("set client_min_messages = error; drop schema {SCHEMA} cascade"));
}

#[test]
fn values_that_mysql_does_not_have_follow_the_policy() {
    const SCHEMA: &str = "source_beyond";
    let server = postgres();
    server.fresh_schema(SCHEMA);
    server.exec(&format!(
        "set search_path = {SCHEMA};
         create table d (id int primary key, day date, moment timestamp, tz timestamptz);
         insert into d values (1, '2024-01-02', '2024-01-02 03:04:05', '2024-01-02 03:04:05+00'), (2, 'infinity', '-infinity', 'infinity'),
             (3, '0001-12-31 BC', '0044-03-15 10:00:00 BC', '4713-01-01 00:00:00+00 BC'), (4, '12345-01-01', '12345-01-01', '12345-01-01 00:00:00+00'),
             (5, null, null, null);
         create table f (v float8); insert into f values (1), ('nan');
         create table g (v real); insert into g values ('-infinity');
         create table n (v numeric(5,2)); insert into n values ('nan');
         create table u (v numeric); insert into u values ('infinity');
         create table i (v interval); insert into i values ('-838:59:59.5'), ('1 day');"
    ));
    let from = server.uri(&format!("schema={SCHEMA}"));
    let source = Source::open(&from).unwrap();
    for table in ["f", "g", "n", "u"] {
        let error = refused(&source, table);
        assert_eq!((error.kind(), error.table(), error.column()), (ErrorKind::Decode, Some(table), Some("v")), "{error}");
    }
    let as_time = Source::open(&format!("{from}&interval_type=time")).unwrap();
    let error = refused(&as_time, "i");
    assert!(error.to_string().contains("`interval_type=text`"), "{error}");
    assert_eq!(read(&source, "i"), [[Some("-838:59:59.5".to_owned())], [Some("1 day".to_owned())]]);
    server.exec(&format!("delete from {SCHEMA}.i where v = '1 day'"));
    assert_eq!(read(&as_time, "i"), [[Some("-838:59:59.500000".to_owned())]]);

    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.db");
    let only = || IngestOptions::new().with_tables(["d"]);
    let report = moved(&from, &uri("sqlite", &copy), &only());
    let changed: Vec<_> =
        report.tables[0].changed_values.iter().map(|changed| (changed.column.as_str(), changed.change, changed.values)).collect();
    assert_eq!(changed, ["day", "moment", "tz"].map(|column| (column, ValueChange::DateOutOfRangeToNull, 3)));
    let rows = read(&Source::open(&uri("sqlite", &copy)).unwrap(), "d");
    assert!(rows[1..].iter().all(|row| row[1..].iter().all(Option::is_none)), "{rows:?}");
    assert_eq!(rows[0][3].as_deref(), Some("2024-01-02 03:04:05.000000"));

    moved(&from, &uri("sqlite", &copy), &only().with_zero_dates(ZeroDates::Text));
    let rows = read(&Source::open(&uri("sqlite", &copy)).unwrap(), "d");
    assert_eq!(rows, server.printed(&["id", "day", "moment", "tz"], &format!("from {SCHEMA}.d order by id")));

    let mut sink = planetscale_ingest::Sink::open(&uri("sqlite", &copy)).unwrap();
    let report = ingest(&source, &mut sink, &only().with_zero_dates(ZeroDates::Error)).unwrap();
    let TableState::Failed { error } = &report.tables[0].state else { panic!("{report:?}") };
    assert!(error.contains("`day`") && error.contains("`d`"), "{error}");
    server.exec(&format!("set client_min_messages = error; drop schema {SCHEMA} cascade"));
}
