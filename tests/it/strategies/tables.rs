//! Each strategy, run again and again.

use planetscale_ingest::{Cancel, IngestOptions, Sink, Source, Strategy, TableState, ingest};

use super::{Case, by, counts};
use crate::support::files::{connected, duckdb_rows, printed, sqlite_rows};
use crate::support::servers::{mysql, vitess};

const COLUMNS: &str = "id bigint primary key, changed datetime(6) not null, amount decimal(30,4), big bigint unsigned, note varchar(200), \
                       day date, seen timestamp(3) null, bits bit(9), part double";

/// As MySQL, SQLite and DuckDB are made to print a row alike.
const AT_SOURCE: &str = "id, changed, amount, big, note, day, seen, bits + 0, part";
const IN_SQLITE: &str = "id, changed, amount, big, note, day, seen, bits, case when part is not null then printf('%g', part) end";
const IN_DUCKDB: &str = "id, strftime(changed, '%Y-%m-%d %H:%M:%S.%f'), amount, big, note, day, \
                         left(strftime(make_timestamp(epoch_us(seen)), '%Y-%m-%d %H:%M:%S.%f'), 23), cast(bits as bigint), printf('%g', part)";

/// Rows from `first` to `last`, with NULLs and the ends of the types among them.
fn insert(case: &mut Case, first: u64, last: u64) {
    let rows: Vec<String> = (first..=last)
        .map(|id| {
            let null = |value: String| if id % 7 == 0 { "null".to_owned() } else { value };
            format!(
                "({id}, '2024-01-01' + interval {id} second, {}, {}, {}, {}, {}, b'{:b}', {})",
                null(format!("-{id}.5")),
                u64::MAX - id,
                null(format!("'row ''{id}'' ü'")),
                null(format!("'2024-01-01' + interval {} day", id % 300)),
                null(format!("'2024-02-29 10:00:00.125' + interval {id} minute")),
                id % 512,
                null(format!("{id}.25"))
            )
        })
        .collect();
    for part in rows.chunks(5_000) {
        let sql = format!("insert into {} values {}", case.table, part.join(","));
        case.sql(&sql);
    }
}

fn check(case: &mut Case) {
    check_where(case, "true");
}

fn check_where(case: &mut Case, condition: &str) {
    let table = case.table;
    let expected = printed(&mut case.conn, &format!("select {AT_SOURCE} from {table} where {condition} order by id"));
    super::assert_same("SQLite", &expected, &sqlite_rows(&case.files.sqlite(), &format!("select {IN_SQLITE} from {table} order by id")));
    super::assert_same("DuckDB", &expected, &duckdb_rows(&case.files.duckdb(), &format!("select {IN_DUCKDB} from {table} order by id")));
}

/// Inserts, changes and deletes rows; what is new or changed has a greater `changed` than all before.
fn change(case: &mut Case) {
    insert(case, 5_001, 6_000);
    let table = case.table;
    case.sql(&format!("update {table} set note = concat('now ', id), amount = id, changed = '2024-02-01' where id in (3, 7, 4000)"));
    case.sql(&format!("update {table} set note = null, changed = '2024-02-01' where id = 11"));
}

#[test]
fn merge_brings_new_rows_and_new_values_and_counts_them_apart() {
    let mut case = Case::new("st_merge", COLUMNS);
    insert(&mut case, 1, 5_000);
    for report in case.run(&by(Strategy::Merge)) {
        assert_eq!(counts(&report), (5_000, 0, 0));
    }
    check(&mut case);
    for report in case.run(&by(Strategy::Merge)) {
        assert_eq!(counts(&report), (0, 5_000, 0));
    }
    check(&mut case);
    change(&mut case);
    case.sql("delete from st_merge where id = 9");
    for report in case.run(&by(Strategy::Merge)) {
        assert_eq!(counts(&report), (1_000, 4_999, 0));
    }
    // A merge does not know of rows that are gone.
    case.sql("insert into st_merge (id, changed) values (9, '2024-01-01')");
    case.run(&by(Strategy::Merge));
    check(&mut case);
}

#[test]
fn merge_from_the_greatest_stored_value_on_brings_what_changed_since() {
    let mut case = Case::new("st_merge_from", COLUMNS);
    insert(&mut case, 1, 5_000);
    let options = by(Strategy::Merge).with_incremental_key("changed");
    case.run(&options);
    for report in case.run(&options) {
        assert_eq!((report.rows_read, counts(&report)), (1, (0, 1, 0)));
    }
    change(&mut case);
    // Late, and with a value that has been seen.
    case.sql("update st_merge_from set changed = '2024-01-01' + interval 5000 second, note = 'late' where id = 20");
    for report in case.run(&options) {
        assert_eq!((report.rows_read, counts(&report)), (1_006, (1_000, 6, 0)));
    }
    check(&mut case);
}

#[test]
fn delete_and_insert_replaces_the_rows_of_its_interval_and_no_others() {
    let mut case = Case::new("st_delete", COLUMNS);
    insert(&mut case, 1, 5_000);
    let options = by(Strategy::DeleteInsert).with_incremental_key("id");
    for report in case.run(&options) {
        assert_eq!(counts(&report), (5_000, 0, 0));
    }
    change(&mut case);
    case.sql("delete from st_delete where id between 3990 and 3999");
    // From the greatest id on.
    for report in case.run(&options) {
        assert_eq!(counts(&report), (1_001, 0, 1));
    }
    for report in case.run(&options.clone().with_interval_start("3000").with_interval_end("4500")) {
        assert_eq!(counts(&report), (1_491, 0, 1_501));
    }
    for report in case.run(&options.clone().with_interval_end("100")) {
        // The start is the greatest id, so this is nothing.
        assert_eq!(counts(&report), (0, 0, 0));
    }
    case.run(&options.clone().with_interval_start("0").with_interval_end("100"));
    check(&mut case);
}

#[test]
fn append_goes_on_after_the_greatest_stored_value() {
    let mut case = Case::new("st_append", COLUMNS);
    insert(&mut case, 1, 5_000);
    let options = by(Strategy::Append).with_incremental_key("id");
    case.run(&options);
    for report in case.run(&options) {
        assert_eq!((report.rows_read, counts(&report)), (0, (0, 0, 0)));
    }
    insert(&mut case, 5_001, 6_000);
    for report in case.run(&options) {
        assert_eq!(counts(&report), (1_000, 0, 0));
    }
    check(&mut case);
}

#[test]
fn truncate_and_insert_keeps_the_table_and_replaces_its_rows() {
    let mut case = Case::new("st_truncate", COLUMNS);
    insert(&mut case, 1, 5_000);
    for report in case.run(&by(Strategy::TruncateInsert)) {
        assert_eq!(counts(&report), (5_000, 0, 0));
    }
    for connection in [true, false] {
        let sql = "create unique index st_truncate_index on st_truncate (id)";
        match connection {
            true => rusqlite::Connection::open(case.files.sqlite()).unwrap().execute_batch(sql).unwrap(),
            false => duckdb::Connection::open(case.files.duckdb()).unwrap().execute_batch(sql).unwrap(),
        }
    }
    change(&mut case);
    case.sql("delete from st_truncate where id < 100");
    for report in case.run(&by(Strategy::TruncateInsert)) {
        assert_eq!(counts(&report), (5_901, 0, 5_000));
    }
    check(&mut case);
    let indexes = [
        sqlite_rows(&case.files.sqlite(), "select name from sqlite_schema where type = 'index'"),
        duckdb_rows(&case.files.duckdb(), "select index_name from duckdb_indexes()"),
    ];
    for index in indexes {
        assert_eq!(index, [[Some("st_truncate_index".to_owned())]]);
    }
}

#[test]
fn replace_takes_an_interval_and_a_full_refresh_forgets_what_was_there() {
    let mut case = Case::new("st_replace", COLUMNS);
    insert(&mut case, 1, 3_000);
    let options = by(Strategy::Replace).with_incremental_key("id").with_interval_start("100").with_interval_end("200");
    for report in case.run(&options) {
        assert_eq!(counts(&report), (101, 0, 0));
    }
    check_where(&mut case, "id between 100 and 200");
    case.run(&by(Strategy::TruncateInsert).with_incremental_key("id").with_interval_start("150"));
    check_where(&mut case, "id >= 150");
    for strategy in [Strategy::Append, Strategy::Merge, Strategy::DeleteInsert] {
        for report in case.run(&by(strategy).with_incremental_key("id").with_full_refresh(true)) {
            assert_eq!(counts(&report), (3_000, 0, 0));
        }
        check(&mut case);
    }
}

#[test]
fn columns_that_only_the_destination_has_keep_their_values() {
    let mut case = Case::new("st_extra", "id int, part varchar(9), note text, primary key (id, part)");
    case.sql("insert into st_extra values (1, 'a', 'one'), (1, 'b', 'two'), (2, 'a', 'three')");
    case.run(&by(Strategy::Merge));
    let alter = "alter table st_extra add column mine bigint; update st_extra set mine = id * 10 where part = 'a';";
    rusqlite::Connection::open(case.files.sqlite()).unwrap().execute_batch(&alter.replace("bigint", "any")).unwrap();
    duckdb::Connection::open(case.files.duckdb()).unwrap().execute_batch(alter).unwrap();
    rusqlite::Connection::open(case.files.sqlite())
        .unwrap()
        .execute("update st_extra set mine = '18446744073709551615' where id = 2", [])
        .unwrap();
    case.sql("update st_extra set note = 'changed' where part = 'a'");
    case.sql("insert into st_extra values (3, 'c', 'new')");
    for report in case.run(&by(Strategy::Merge)) {
        assert_eq!(counts(&report), (1, 3, 0));
    }
    case.check_all("id, part, note");
    let [sqlite, duckdb] = <[_; 2]>::try_from(case.files.each("select mine from st_extra order by id, part")).unwrap();
    let cells = |values: [Option<&str>; 4]| values.map(|value| vec![value.map(str::to_owned)]).to_vec();
    assert_eq!(sqlite, cells([Some("10"), None, Some("18446744073709551615"), None]));
    assert_eq!(duckdb, cells([Some("10"), None, Some("20"), None]));
    // Other strategies leave them NULL in new rows.
    case.run(&by(Strategy::TruncateInsert));
    case.check_all("id, part, note");
}

#[test]
fn a_table_with_unique_indexes_is_merged_into() {
    let mut case = Case::new("st_unique", COLUMNS);
    insert(&mut case, 1, 3_000);
    case.run(&by(Strategy::Replace));
    let sql = "create unique index st_unique_index on st_unique (id)";
    rusqlite::Connection::open(case.files.sqlite()).unwrap().execute_batch(sql).unwrap();
    duckdb::Connection::open(case.files.duckdb()).unwrap().execute_batch(sql).unwrap();
    case.sql("update st_unique set note = 'changed' where id < 50");
    insert(&mut case, 3_001, 3_100);
    for report in case.run(&by(Strategy::Merge)) {
        assert_eq!(counts(&report), (100, 3_000, 0));
    }
    check(&mut case);
    case.run(&by(Strategy::DeleteInsert).with_incremental_key("id").with_interval_start("10"));
    check(&mut case);
}

#[test]
fn a_run_that_is_cancelled_midway_leaves_the_table_as_it_was() {
    let mut case = Case::new("st_cancelled", "id bigint primary key, filling varchar(1000)");
    let fill = |case: &mut Case, first: u64, last: u64, letter: char| {
        for start in (first..=last).step_by(2_000) {
            let rows: Vec<String> = (start..start + 2_000).map(|id| format!("({id}, '{}')", letter.to_string().repeat(900))).collect();
            case.sql(&format!("replace into st_cancelled values {}", rows.join(",")));
        }
    };
    fill(&mut case, 1, 4_000, 'a');
    case.run(&by(Strategy::Replace));
    let sql = "select id, filling from st_cancelled order by id";
    let before = printed(&mut case.conn, sql);
    // More than one batch.
    fill(&mut case, 1, 20_000, 'b');
    let source = Source::open(&mysql().uri("commerce")).unwrap();
    for strategy in [Strategy::Merge, Strategy::DeleteInsert, Strategy::TruncateInsert, Strategy::Append, Strategy::Replace] {
        for uri in case.files.uris() {
            let cancel = Cancel::new();
            let at_first_batch = cancel.clone();
            let mut options = by(strategy).with_tables(["st_cancelled"]).with_cancel(cancel);
            if strategy == Strategy::DeleteInsert {
                options = options.with_incremental_key("id").with_interval_start("1");
            }
            let options = options.with_progress(move |_| at_first_batch.cancel());
            let report = ingest(&source, &mut Sink::open(&uri).unwrap(), &options).unwrap();
            assert_eq!(report.tables[0].state, TableState::Partial, "{strategy} {uri}");
            assert!(report.tables[0].rows_read > 0, "{strategy} {uri}");
        }
        for found in case.files.each(sql) {
            super::assert_same(strategy.name(), &before, &found);
        }
        assert_eq!(case.files.tables(), [["st_cancelled"], ["st_cancelled"]], "{strategy}");
    }
    case.run(&by(Strategy::Merge));
    case.check_all("id, filling");
}

#[test]
fn vitess_is_read_by_intervals_too() {
    let mut conn = connected(vitess(), "commerce");
    use mysql::prelude::Queryable;
    let columns = "id bigint not null primary key, u bigint unsigned, amount decimal(20,4), day date, at datetime(6), ts timestamp(3) null, \
                   length time(3), name varchar(40), bytes varbinary(20), small float, large double";
    conn.query_drop("drop table if exists st_vitess").unwrap();
    conn.query_drop(format!("create table st_vitess ({columns})")).unwrap();
    let rows: Vec<String> = (1..=40_u64)
        .map(|id| {
            format!(
                "({id}, {}, -{id}.5, '2024-01-01' + interval {id} day, '2024-01-01 00:00:00.000001' + interval {id} hour, \
                 '2024-01-01 00:00:00.5' + interval {id} minute, '-0{}:30:00.25', 'N{:02}', 'b{:02}', {id}.1, {id}.7)",
                u64::MAX - 40 + id,
                id % 10,
                id,
                id
            )
        })
        .collect();
    conn.query_drop(format!(
        "insert into st_vitess (id, u, amount, day, at, ts, length, name, bytes, small, large) values {}",
        rows.join(",")
    ))
    .unwrap();
    let source = Source::open(&vitess().uri("commerce")).unwrap();
    let files = crate::support::files::Files::new();
    for (key, start, end) in [
        ("u", "18446744073709551590", "18446744073709551600"),
        ("amount", "-20.5", "-10.5"),
        ("day", "2024-01-10", "2024-01-20"),
        ("at", "2024-01-01T10:00:00.000001Z", "2024-01-01 20:00:00.000001"),
        ("ts", "2024-01-01 00:10:00.5", "2024-01-01 00:20:00.500"),
        ("length", "-05:30:00.25", "-02:30:00.25"),
        ("name", "N10", "N20"),
        ("bytes", "b10", "b20"),
        ("small", "10.1", "20.1"),
        ("large", "10.7", "20.7"),
    ] {
        let options = by(Strategy::DeleteInsert).with_incremental_key(key).with_interval_start(start).with_interval_end(end);
        let options = options.with_tables(["st_vitess"]);
        for uri in files.uris() {
            // Without the interval's rows, and then again with all of them there.
            for _ in 0..2 {
                let report = ingest(&source, &mut Sink::open(&uri).unwrap(), &options).unwrap();
                assert!(report.is_complete(), "{key}: {report:?}");
                assert!(report.tables[0].rows_read >= 11, "{key}: {report:?}");
            }
            let all = IngestOptions::new().with_tables(["st_vitess"]).with_strategy(Strategy::Replace);
            ingest(&source, &mut Sink::open(&uri).unwrap(), &all).unwrap();
            ingest(&source, &mut Sink::open(&uri).unwrap(), &options).unwrap();
        }
        let expected = printed(&mut conn, "select id, name from st_vitess order by id");
        for found in files.each("select id, name from st_vitess order by id") {
            super::assert_same(key, &expected, &found);
        }
    }
    conn.query_drop("drop table st_vitess").unwrap();
}
