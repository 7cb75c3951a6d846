//! DuckDB files as sources.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use duckdb::Connection;
use planetscale_ingest::{ErrorKind, IngestOptions, Source, SourceOptions, ValueChange, ValueRef, ZeroDates};

use super::{Type, moved, read, refused, ty, types, uri};
use crate::support::files::duckdb_rows as printed;

fn file(folder: &Path, sql: &str) -> PathBuf {
    let path = folder.join("source.duckdb");
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    path
}

fn source(path: &Path) -> Source {
    Source::open(&uri("duckdb", path)).unwrap()
}

const PLAIN: &str = "cast(v as varchar)";
/// With all six digits of the fraction.
const MOMENT: &str = "strftime(v, '%Y-%m-%d %H:%M:%S.%f')";

/// Random values are of `h`, a 64-bit hash.
const TYPES: &[Type] = &[
    ty("boolean", "boolean", &["true", "false"], "h % 2 = 0", PLAIN),
    ty("tinyint", "tinyint", &["-128", "0", "127"], "(h % 256)::int - 128", PLAIN),
    ty("smallint", "smallint", &["-32768", "0", "32767"], "(h % 65536)::int - 32768", PLAIN),
    ty("integer", "int", &["-2147483648", "0", "2147483647"], "(h % 4294967296)::bigint - 2147483648", PLAIN),
    ty("bigint", "bigint", &["-9223372036854775808", "0", "9223372036854775807"], "(h >> 1)::bigint - 4611686018427387904", PLAIN),
    ty("utinyint", "tinyint unsigned", &["0", "255"], "h % 256", PLAIN),
    ty("usmallint", "smallint unsigned", &["0", "65535"], "h % 65536", PLAIN),
    ty("uinteger", "int unsigned", &["0", "4294967295"], "h % 4294967296", PLAIN),
    ty("ubigint", "bigint unsigned", &["0", "18446744073709551615"], "h", PLAIN),
    ty(
        "hugeint",
        "decimal(39,0)",
        &["'-170141183460469231731687303715884105728'", "-1", "0", "'170141183460469231731687303715884105727'"],
        "h::hugeint * (h >> 5)::hugeint - 4611686018427387904::hugeint * 4611686018427387904",
        PLAIN,
    ),
    ty("uhugeint", "decimal(39,0)", &["0", "'340282366920938463463374607431768211455'"], "h::uhugeint * (h >> 3)::uhugeint", PLAIN),
    ty("decimal(4,1)", "decimal(4,1)", &["-999.9", "0", "-0.1", "999.9"], "(h % 9999)::int / 10", PLAIN),
    ty(
        "decimal(9,9)",
        "decimal(9,9)",
        &["-0.999999999", "0", "0.000000001"],
        "(h % 999999999)::int / 1000000000.0",
        r"regexp_replace(v::varchar, '^(-?)[.]', '\10.')",
    ),
    ty("decimal(18,4)", "decimal(18,4)", &["-99999999999999.9999", "0", "0.0001"], "(h % 999999999999)::bigint / 10000.0", PLAIN),
    ty(
        "decimal(38,10)",
        "decimal(38,10)",
        &["-9999999999999999999999999999.9999999999", "0", "-0.0000000001"],
        "h::decimal(38,10) / 7",
        PLAIN,
    ),
    ty("decimal(38,31)", "text", &["-1.5", "9999999.9999999999999999999999999999999"], "(h % 999999)::decimal(38,31)", PLAIN),
    ty("float", "float", &["0", "0.1", "-3.4028234e38", "1e-45", "16777216"], "(h % 100000)::float / 7", "float"),
    ty("double", "double", &["0", "0.1", "-1.7976931348623157e308", "5e-324"], "h::double / 7", "double"),
    ty("date", "date", &["'0001-01-01'", "'1969-12-31'", "'2024-02-29'", "'9999-12-31'"], "date '1000-01-01' + (h % 3000000)::int", PLAIN),
    ty(
        "timestamp",
        "datetime(6)",
        &["'1000-01-01'", "'1969-12-31 23:59:59.999999'", "'9999-12-31 23:59:59.999999'"],
        "make_timestamp((h % 250000000000000000)::bigint)",
        MOMENT,
    ),
    ty(
        "timestamp_s",
        "datetime(0)",
        &["'1000-01-01'", "'1969-12-31 23:59:59'", "'9999-12-31 23:59:59'"],
        "make_timestamp((h % 250000000000000000)::bigint)",
        "strftime(v::timestamp, '%Y-%m-%d %H:%M:%S')",
    ),
    ty(
        "timestamp_ms",
        "datetime(3)",
        &["'1000-01-01'", "'1969-12-31 23:59:59.999'", "'9999-12-31 23:59:59.999'"],
        "make_timestamp((h % 250000000000000000)::bigint)",
        "strftime(v::timestamp, '%Y-%m-%d %H:%M:%S.%g')",
    ),
    ty(
        "timestamp_ns",
        "datetime(6)",
        &["'1677-09-22'", "'1969-12-31 23:59:59.999999'", "'2262-04-11 23:47:16.854775'"],
        "make_timestamp((h % 9000000000000000)::bigint)",
        "strftime(v::timestamp, '%Y-%m-%d %H:%M:%S.%f')",
    ),
    ty(
        "timestamptz",
        "timestamp(6)",
        &["'1969-12-31 23:59:59.999999+00'", "'9999-12-31 23:59:59.999999+00'"],
        "make_timestamp((h % 250000000000000000)::bigint)::varchar || '+00'",
        "strftime(v at time zone 'UTC', '%Y-%m-%d %H:%M:%S.%f')",
    ),
    ty(
        "time",
        "time(6)",
        &["'00:00:00'", "'23:59:59.999999'", "'24:00:00'"],
        "make_time((h % 24)::bigint, (h % 60)::bigint, (h % 59)::double + 0.5)",
        "case when length(v::varchar) > 8 then rpad(v::varchar, 15, '0') else v::varchar || '.000000' end",
    ),
    ty("timetz", "text", &["'00:00:00+15:59'", "'23:59:59.5-01'"], "'01:02:03.' || (h % 999999)", PLAIN),
    ty(
        "uuid",
        "varchar(36)",
        &["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"],
        "md5(h::varchar)::uuid",
        PLAIN,
    ),
    ty("blob", "blob", &["''", "'\\x00\\xFFa'"], "encode(repeat(h::varchar, (h % 5)::int))", "'0x' || lower(hex(v))"),
    ty("varchar", "text", &["''", "'exactly 12 b'", "'it''s ü and more than twelve'"], "repeat(h::varchar, (h % 4)::int)", PLAIN),
    ty("json", "json", &["'{\"a\": [1,  null]}'", "'7'"], "'[' || h || ']'", PLAIN),
    ty("bit", "bit(12)", &["'000000000001'", "'111111111111'"], "right((h % 4096)::bigint::bit::varchar, 12)", PLAIN),
    ty(
        "enum('sad', '', 'it''s, ok')",
        "enum of 3 members",
        &["'sad'", "''", "'it''s, ok'"],
        "case when h % 2 = 0 then 'sad' else 'it''s, ok' end",
        PLAIN,
    ),
    ty("integer[]", "json", &["[1, null, 3]", "[]"], "[h % 7, h % 9]", "to_json(v)::varchar"),
    ty("decimal(20,5)[2]", "json", &["[1.5, 123456789012345.12345]"], "[h % 7, 0.5]", "to_json(v)::varchar"),
    ty(
        "struct(a integer, \"b c\" varchar[])",
        "json",
        &["{'a': 1, 'b c': ['x', null]}", "{'a': null, 'b c': null}"],
        "{'a': h % 7, 'b c': [h::varchar]}",
        "to_json(v)::varchar",
    ),
    ty(
        "map(varchar, hugeint)",
        "json",
        &["map {'k': 170141183460469231731687303715884105727}"],
        "map {h::varchar: h}",
        "to_json(v)::varchar",
    ),
    ty(
        "union(n integer, s varchar)",
        "json",
        &["union_value(n := 3)", "union_value(s := 'x')"],
        "union_value(n := (h % 9)::int)",
        "to_json(v)::varchar",
    ),
    ty("bignum", "text", &["'-123456789012345678901234567890123456789012345678901234567890'"], "h::varchar", PLAIN),
];

#[test]
fn every_type_gives_the_values_that_duckdb_prints() {
    let folder = tempfile::tempdir().unwrap();
    let mut sql = String::new();
    for (index, ty) in TYPES.iter().enumerate() {
        sql.push_str(&format!("create table t{index} (id integer primary key, v {});", ty.declared));
        for (row, edge) in ty.edges.iter().enumerate() {
            sql.push_str(&format!("insert into t{index} values ({row}, {edge});"));
        }
        // Beyond a chunk, and with NULLs.
        sql.push_str(&format!(
            "insert into t{index} select 100 + i, case when i % 17 <> 0 then {} end from (select i, hash(i * 7919) as h from range(5000) r(i));",
            ty.random
        ));
    }
    let path = file(folder.path(), &sql);
    let source = source(&path);
    for (index, ty) in TYPES.iter().enumerate() {
        let table = format!("t{index}");
        assert_eq!(types(&source, &table)["v"], ty.column_type, "{}", ty.declared);
        let found = read(&source, &table);
        let printing = if matches!(ty.printed, "float" | "double") { PLAIN } else { ty.printed };
        let expected = printed(&path, &format!("select id::varchar, {printing} from {table} order by id"));
        assert_eq!(found.len(), expected.len(), "{}", ty.declared);
        for (found, expected) in found.iter().zip(&expected) {
            match ty.printed {
                // Both print the shortest text, but with a point or an exponent in other places.
                "float" => assert_eq!(number::<f32>(&found[1]), number(&expected[1]), "{}", ty.declared),
                "double" => assert_eq!(number::<f64>(&found[1]), number(&expected[1]), "{}", ty.declared),
                _ => assert_eq!(found, expected, "{}", ty.declared),
            }
        }
    }
}

fn number<T: std::str::FromStr>(text: &Option<String>) -> Option<T> {
    text.as_ref().and_then(|text| text.parse().ok())
}

#[test]
fn values_that_mysql_does_not_have_follow_the_policy() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(
        folder.path(),
        "create table d (id integer, day date, moment timestamp, tz timestamptz);
         insert into d values (1, '2024-01-02', '2024-01-02 03:04:05', '2024-01-02 03:04:05+00'),
             (2, 'infinity', '-infinity', 'infinity'), (3, '0044-03-15 (BC)', '0044-03-15 (BC) 10:00:00', '0044-03-15 (BC) 10:00:00+00'),
             (4, '12345-01-01', '12345-01-01', '12345-01-01 00:00:00+00'), (5, null, null, null);
         create table f (v double); insert into f values ('nan');
         create table g (v float); insert into g values ('-infinity');
         create table i (v interval); insert into i values (interval 3 hours), (interval 1 month);
         create table n (v timestamp_ns); insert into n values ('2024-01-01 00:00:00.000000001');
         create table b (v bit); insert into b values ('01'), ('1');
         create table long (v bit); insert into long values ('0101010101010101010101010101010101010101010101010101010101010101010101');
         create table none (v bit);",
    );
    let plain = source(&path);
    let dates = read(&plain, "d");
    assert_eq!(
        dates[0].iter().map(|cell| cell.as_deref().unwrap()).collect::<Vec<_>>(),
        ["1", "2024-01-02", "2024-01-02 03:04:05.000000", "2024-01-02 03:04:05.000000"]
    );
    assert!(dates[1..].iter().all(|row| row[1..].iter().all(Option::is_none)));
    let copy = folder.path().join("copy.duckdb");
    let only = |tables: &[&str]| IngestOptions::new().with_tables(tables.iter().copied());
    let report = moved(&uri("duckdb", &path), &uri("duckdb", &copy), &only(&["d"]));
    let changed: Vec<_> =
        report.tables[0].changed_values.iter().map(|changed| (changed.column.as_str(), changed.change, changed.values)).collect();
    assert_eq!(changed, ["day", "moment", "tz"].map(|column| (column, ValueChange::DateOutOfRangeToNull, 3)));

    moved(&uri("duckdb", &path), &uri("duckdb", &copy), &only(&["d"]).with_zero_dates(ZeroDates::Text));
    let as_text = printed(&copy, "select day, moment, tz from d order by id");
    assert_eq!(
        as_text,
        printed(
            &path,
            "select day::varchar, moment::varchar, (tz at time zone 'UTC')::varchar || case when isfinite(tz) then '+00' else '' end from d order by id"
        )
    );

    let mut sink = planetscale_ingest::Sink::open(&uri("duckdb", &copy)).unwrap();
    let report = planetscale_ingest::ingest(&plain, &mut sink, &only(&["d"]).with_zero_dates(ZeroDates::Error)).unwrap();
    let planetscale_ingest::TableState::Failed { error } = &report.tables[0].state else { panic!("{report:?}") };
    assert!(error.contains("`day`") && error.contains("`d`"), "{error}");

    for table in ["f", "g", "i", "n"] {
        let error = refused(&plain, table);
        assert_eq!((error.kind(), error.table(), error.column()), (ErrorKind::Decode, Some(table), Some("v")), "{error}");
    }
    let text = Source::open(&format!("{}?interval_type=text", uri("duckdb", &path))).unwrap();
    assert_eq!(read(&text, "i"), printed(&path, "select v::varchar from i"));
    for table in ["b", "long"] {
        assert_eq!(types(&plain, table)["v"], "text");
        assert_eq!(read(&plain, table), printed(&path, &format!("select v::varchar from {table}")));
    }
    assert_eq!(types(&plain, "none")["v"], "text");
}

#[test]
fn schemas_keys_and_what_is_no_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(
        folder.path(),
        "create table \"a.b\" (k1 integer, \"K \"\"2\" varchar, v integer, primary key (\"K \"\"2\", k1));
         create schema a; create table a.b (x integer not null); insert into a.b values (7);
         create schema \"odd.schema\"; create table a.c (x integer); create view w as select 1; create table _ingest_lease (x integer);",
    );
    let plain = source(&path);
    let names: Vec<String> = plain.tables().unwrap().iter().map(|table| table.name().to_owned()).collect();
    assert_eq!(names, ["a.b"]);
    let table = plain.table("a.b").unwrap();
    assert_eq!((table.schema(), table.primary_key()), (None, &[1, 0][..]));
    let other = plain.table("a.c").unwrap();
    assert_eq!((other.schema(), other.name()), (Some("a"), "c"));
    assert_eq!(plain.table("main.a.b").unwrap().schema(), Some("main"));
    let within = Source::open_with(&SourceOptions::duckdb(&path).with_schema("a")).unwrap();
    assert_eq!(within.tables().unwrap().len(), 2);
    assert_eq!(read(&within, "b"), [[Some("7".to_owned())]]);
    assert!(!within.table("b").unwrap().columns()[0].is_nullable());
    for name in ["w", "A.B", "b", "nowhere.b"] {
        let error = plain.table(name).unwrap_err();
        assert_eq!((error.kind(), error.table()), (ErrorKind::Schema, Some(name)));
    }
    let error = Source::open_with(&SourceOptions::duckdb(&path).with_schema("nowhere")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
}

#[test]
fn files_that_are_none_are_refused_and_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.duckdb");
    let error = Source::open(&uri("duckdb", &missing)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Source);
    assert!(error.to_string().contains("it is not there"), "{error}");
    assert!(!missing.exists());
    let text = folder.path().join("text.duckdb");
    std::fs::write(&text, "not a database, but long enough to look like one ".repeat(1000)).unwrap();
    let error = Source::open(&uri("duckdb", &text)).unwrap_err();
    assert!(error.to_string().contains("it is not a DuckDB database"), "{error}");
    let sqlite = folder.path().join("sqlite.duckdb");
    rusqlite::Connection::open(&sqlite).unwrap().execute_batch("create table t (a)").unwrap();
    let error = Source::open(&uri("duckdb", &sqlite)).unwrap_err();
    assert!(error.to_string().contains("it is not a DuckDB database"), "{error}");
}

#[test]
fn a_source_that_is_dropped_or_cancelled_ends_its_thread() {
    const NAME: &str = "sources::duckdb::a_source_that_is_dropped_or_cancelled_ends_its_thread";
    if !crate::support::alone::is_alone(NAME) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "create table t as select repeat('x', 3000) || i as a from range(60000) r(i)");
    let source = source(&path);
    let threads = crate::support::alone::thread_count();
    let mut rows = source.rows("t").unwrap();
    let first = rows.next().unwrap().unwrap();
    assert!(matches!(first.value(0, 0), ValueRef::Text(_)));
    drop(rows);
    crate::support::alone::wait_for_threads_to_end(threads, Duration::from_secs(1));
    // Two at a time, over one file.
    let table = Arc::new(source.table("t").unwrap());
    let (mut one, two) = (source.rows_of(Arc::clone(&table)).unwrap(), source.rows_of(table).unwrap());
    assert!(one.next().unwrap().is_ok());
    assert_eq!(two.map(|batch| batch.unwrap().len()).sum::<usize>(), 60_000);
    drop(one);
    crate::support::alone::wait_for_threads_to_end(threads, Duration::from_secs(1));
}

#[test]
fn a_schema_may_be_called_like_the_file() {
    use planetscale_ingest::{Sink, Strategy, TableName, VerifyOptions, verify};
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("Sales.duckdb"), folder.path().join("shop.duckdb"));
    let other = Connection::open(&from).unwrap();
    other
        .execute_batch(
            "create schema sales; create table Sales.sales.orders (id integer primary key, note varchar, bits bit);
             insert into Sales.sales.orders values (1, 'x', '101'), (2, 'y', '010')",
        )
        .unwrap();
    drop(other);
    let orders = [["1", "x"], ["2", "y"]].map(|row| row.map(|cell| Some(cell.to_owned())).to_vec());
    for more in ["?schema=sales", ""] {
        let name = if more.is_empty() { "sales.orders" } else { "orders" };
        let from = uri("duckdb", &from) + more;
        for schema in ["shop", "SHOP"] {
            let options = IngestOptions::new().with_tables([name]).with_dest_table(TableName::new("orders").in_schema(schema));
            for strategy in [Strategy::Replace, Strategy::Append, Strategy::Merge, Strategy::DeleteInsert, Strategy::TruncateInsert] {
                let options = match strategy {
                    Strategy::DeleteInsert => options.clone().with_incremental_key("id"),
                    _ => options.clone(),
                };
                moved(&from, &uri("duckdb", &to), &options.with_strategy(strategy));
                if strategy == Strategy::Append {
                    Connection::open(&to).unwrap().execute_batch("delete from shop.shop.orders where rowid > 1").unwrap();
                }
                assert_eq!(printed(&to, "select id, note from shop.shop.orders order by id"), orders, "{strategy} {more} {schema}");
            }
            let mut sink = Sink::open(&uri("duckdb", &to)).unwrap();
            assert!(verify(&Source::open(&from).unwrap(), &mut sink, &VerifyOptions::new(options)).unwrap().is_equal());
        }
    }
    #[cfg(feature = "vstream")]
    {
        let shop = crate::vtgate::shop::Shop::start();
        let captured = shop.cdc_uri() + "&dest_schema=shop";
        let options = IngestOptions::new().with_tables(["products"]);
        moved(&captured, &uri("duckdb", &to), &options);
        shop.commit(|shop| shop.update("products", "TEA-1", "stock", "7"));
        moved(&captured, &uri("duckdb", &to), &options);
        moved(&captured, &uri("duckdb", &to), &options.with_full_refresh(true));
        assert_eq!(printed(&to, "select stock from shop.shop.products where sku = 'TEA-1'"), [[Some("7".to_owned())]]);
    }
}
