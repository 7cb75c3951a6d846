//! Rows that are merged by keys of each type, and by columns that are no key.

use planetscale_ingest::{IngestOptions, Sink, Source, Strategy, ingest};

use super::{Case, by, counts};
use crate::support::servers::mysql;

#[test]
fn rows_are_found_again_by_keys_of_each_type() {
    for (name, key, values) in [
        ("u", "bigint unsigned", ["1", "9223372036854775808", "18446744073709551615"]),
        ("dec", "decimal(30,3)", ["-1.5", "0", "99999999999999999999.125"]),
        ("wide", "decimal(65,1)", ["-1.5", "0", "123456789012345678901234567890123456789012.5"]),
        ("date", "date", ["'1000-01-01'", "'2024-02-29'", "'9999-12-31'"]),
        ("dt", "datetime(6)", ["'2024-02-29 12:00:00.000001'", "'2024-02-29 12:00:00'", "'1000-01-01'"]),
        ("ts", "timestamp(3)", ["'2024-02-29 12:00:00.001'", "'2024-02-29 12:00:00'", "'1970-01-02'"]),
        ("time", "time(1)", ["'-838:59:59.0'", "'00:00:00.1'", "'838:59:59'"]),
        ("text", "varchar(20)", ["'a'", "'it''s'", "''"]),
        ("bin", "varbinary(20)", ["x'00'", "x''", "x'ff00'"]),
        ("enum", "enum('b','a','')", ["'a'", "'b'", "''"]),
        ("set", "set('b','a')", ["'a,b'", "'b'", "''"]),
        ("bit", "bit(64)", ["b'1'", "0xffffffffffffffff", "0"]),
        ("double", "double", ["-0.3", "0.30000000000000004", "1e300"]),
    ] {
        let table: &'static str = format!("st_pk_{name}").leak();
        let mut case = Case::new(table, &format!("k {key}, note varchar(9), n int, primary key (k, n)"));
        case.sql(&format!("insert into {table} values ({}, 'old', 1), ({}, 'old', 2)", values[0], values[1]));
        for report in case.run(&by(Strategy::Merge)) {
            assert_eq!(counts(&report), (2, 0, 0), "{name}");
        }
        case.sql(&format!("update {table} set note = 'new'"));
        case.sql(&format!("insert into {table} values ({}, 'old', 3)", values[2]));
        for report in case.run(&by(Strategy::Merge)) {
            assert_eq!(counts(&report), (1, 2, 0), "{name}");
        }
        let sql = format!("select n, note from {table} order by n");
        case.check(&sql, &sql);
    }
}

#[test]
fn members_of_enums_are_keys_as_enums_too() {
    let mut case = Case::new("st_pk_enum_type", "k enum('b','a') primary key, note varchar(9)");
    case.sql("insert into st_pk_enum_type values ('a', 'old'), ('b', 'old')");
    let source = Source::open(&mysql().uri("commerce")).unwrap();
    let uri = format!("duckdb://{}?enum_type=enum", case.files.duckdb().display());
    let run = || {
        let options = by(Strategy::Merge).with_tables(["st_pk_enum_type"]);
        super::complete(ingest(&source, &mut Sink::open(&uri).unwrap(), &options).unwrap())
    };
    run();
    case.sql("update st_pk_enum_type set note = 'new' where k = 'a'");
    assert_eq!(counts(&run()), (0, 2, 0));
    let sql = "select cast(k as char), note from st_pk_enum_type order by 1";
    let expected = crate::support::files::printed(&mut case.conn, sql);
    assert_eq!(
        crate::support::files::duckdb_rows(&case.files.duckdb(), "select cast(k as varchar), note from st_pk_enum_type order by 1"),
        expected
    );
}

#[test]
fn named_columns_identify_rows_where_the_source_has_no_key() {
    let mut case = Case::new("st_named", "a int, b varchar(9), note varchar(9)");
    case.sql("insert into st_named values (1, 'x', 'old'), (1, 'y', 'old')");
    let options = by(Strategy::Merge).with_primary_key(["A", "b"]);
    case.run(&options);
    case.sql("update st_named set note = 'new' where b = 'y'");
    case.sql("insert into st_named values (2, 'x', 'new')");
    for report in case.run(&options) {
        assert_eq!(counts(&report), (1, 2, 0));
    }
    case.check_all("a, b, note");
}

/// The first run makes the table, the second finds it.
#[test]
fn keys_that_do_not_identify_rows_are_refused_by_name_and_change_nothing() {
    let mut case = Case::new("st_no_key", "a int, b int, day date, note varchar(9)");
    let options = by(Strategy::Merge).with_primary_key(["a", "b"]);
    for is_there in [false, true] {
        if is_there {
            case.sql("delete from st_no_key");
            case.sql("insert into st_no_key values (1, 1, '2024-01-01', 'x')");
            case.run(&options);
        }
        case.sql("insert into st_no_key values (7, 1, '2024-01-01', 'x'), (7, 1, '2024-01-02', 'y')");
        for error in case.errors(&options) {
            assert!(error.contains("table `st_no_key` has rows with the same values in `a`, `b`"), "{error}");
        }
        case.sql("update st_no_key set b = null where note = 'y'");
        for error in case.errors(&options) {
            assert!(error.contains("table `st_no_key` has NULL in `b`, so rows cannot be merged by `a`, `b`"), "{error}");
        }
        case.sql("delete from st_no_key where a = 7");
        if is_there {
            case.check_all("a, b, note");
        }
        let tables = if is_there { vec!["st_no_key"] } else { vec![] };
        assert_eq!(case.files.tables(), [tables.clone(), tables]);
    }
    // DuckDB has NULL for a date that no calendar has.
    case.sql("update st_no_key set day = '0000-00-00'");
    let source = Source::open(&mysql().uri("commerce")).unwrap();
    let options = by(Strategy::Merge).with_primary_key(["day"]).with_tables(["st_no_key"]);
    let report = ingest(&source, &mut Sink::open(&format!("duckdb://{}", case.files.duckdb().display())).unwrap(), &options).unwrap();
    assert!(format!("{report:?}").contains("has values that are stored as NULL, so rows cannot be merged by `day`"), "{report:?}");
}

#[test]
fn several_stored_rows_with_one_key_are_not_merged_into() {
    let mut case = Case::new("st_doubled", "id int primary key, note varchar(9)");
    case.sql("insert into st_doubled values (1, 'x'), (2, 'y')");
    case.run(&by(Strategy::Append));
    case.run(&by(Strategy::Append));
    for error in case.errors(&by(Strategy::Merge)) {
        assert!(error.contains("`st_doubled` in the destination has several rows with the same values in `id`"), "{error}");
    }
    for found in case.files.each("select count(*) from st_doubled") {
        assert_eq!(found, [[Some("4".to_owned())]]);
    }
    case.run(&by(Strategy::Merge).with_full_refresh(true));
    case.check_all("id, note");
}

/// What MySQL's collation finds equal are two keys for a destination, in a copy as in change capture; the stale one stays until the table is replaced.
#[test]
fn a_key_that_changes_its_case_only_is_another_key() {
    let mut case = Case::new("st_case", "k varchar(9) primary key, note varchar(9)");
    case.sql("insert into st_case values ('a', 'old')");
    case.run(&by(Strategy::Merge));
    case.sql("update st_case set k = 'A', note = 'new'");
    for report in case.run(&by(Strategy::Merge)) {
        assert_eq!(counts(&report), (1, 0, 0));
    }
    for found in case.files.each("select k, note from st_case order by k") {
        assert_eq!(found, [[Some("A".to_owned()), Some("new".to_owned())], [Some("a".to_owned()), Some("old".to_owned())]]);
    }
    case.run(&IngestOptions::new());
    case.check_all("k, note");
}
