//! What a comparison finds, of tables that are the same and of some that somebody has changed.

use planetscale_ingest::{
    Cancel, ErrorKind, IngestOptions, MalformedText, OutOfRange, Sink, Source, Strategy, TableVerification, VerifyOptions, VerifyState,
    ZeroDates, ingest, verify,
};

use super::{Case, by};
use crate::support::servers::mysql;

const ALL: &str = "id int primary key, i8 tinyint, u64 bigint unsigned, y year, amount decimal(20,4), wide decimal(65,30), small float, large double, \
                   flag bit(1), bits bit(64), day date, at datetime(6), moment timestamp(3) null, length time(6), word char(9), \
                   name varchar(20) character set latin1, note text, fixed binary(4), bytes blob, choice enum('b','a'), choices set('x','y'), doc json, \
                   place point";

const ROWS: &str = "(1, -128, 18446744073709551615, 1901, -1.5, -123456789012345678901234567890.5, 3.99, 0.1, b'1', 0xffffffffffffffff, '0001-01-01', \
                    '2024-02-29 12:00:00.000001', '2024-02-29 12:00:00.001', '-838:59:59', 'a', 'ü', 'it''s', 'a', x'00ff', 'a', 'x,y', \
                    '{\"a\": [1, 2.50, null]}', st_geomfromtext('POINT(1 2)')), \
                    (2, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null), \
                    (3, 0, 0, 0, 0, 0, 16777216, -0e0, b'0', 0, '9999-12-31', '9999-12-31 23:59:59.999999', '1970-01-01 00:00:01', '00:00:00.5', '', '', '', \
                    '', x'', 'b', '', '[]', null), \
                    (4, 1, 9223372036854775808, 2155, 0.0001, 0.000000000000000000000000000001, -1e-38, 1e300, b'1', 1, '0000-01-01', '1000-01-01', null, \
                    '838:59:59', 'z', 'z', repeat('long ', 9000), 'z', repeat(x'ff', 70000), 'b', 'y', '\"text\"', null)";

fn compared(case: &Case, options: &IngestOptions) -> Vec<TableVerification> {
    let source = Source::open(&mysql().uri("commerce")).unwrap();
    let options = VerifyOptions::new(options.clone().with_tables([case.table]));
    let one = |uri: &String| verify(&source, &mut Sink::open(uri).unwrap(), &options).unwrap().tables.remove(0);
    case.files.uris().iter().map(one).collect()
}

fn keys(keys: &[Vec<String>]) -> Vec<String> {
    keys.iter().map(|key| key.join(",")).collect()
}

/// Does the same in both destinations.
fn at_destinations(case: &Case, sql: &str) {
    rusqlite::Connection::open(case.files.sqlite()).unwrap().execute_batch(sql).unwrap();
    duckdb::Connection::open(case.files.duckdb()).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn a_copy_of_all_types_is_the_same() {
    let mut case = Case::new("st_verify_types", ALL);
    case.sql(&format!("insert into st_verify_types values {ROWS}"));
    for options in [
        IngestOptions::new(),
        IngestOptions::new().with_zero_dates(ZeroDates::Text).with_out_of_range(OutOfRange::Text),
        IngestOptions::new().with_malformed_text(MalformedText::Bytes),
        by(Strategy::Merge).with_full_refresh(true),
    ] {
        case.run(&options);
        for table in compared(&case, &options) {
            assert_eq!((table.source_rows, table.destination_rows), (4, 4));
            assert_eq!(table.state, VerifyState::Equal, "{table:?}");
        }
    }
    // In the other forms too.
    let uri = format!("duckdb://{}?time_type=text&enum_type=enum", case.files.folder().join("forms.duckdb").display());
    let source = Source::open(&mysql().uri("commerce")).unwrap();
    let options = IngestOptions::new().with_tables([case.table]);
    let mut sink = Sink::open(&uri).unwrap();
    ingest(&source, &mut sink, &options).unwrap();
    assert!(verify(&source, &mut sink, &VerifyOptions::new(options)).unwrap().is_equal());
}

#[test]
fn each_value_that_somebody_changes_is_found() {
    let mut case = Case::new("st_verify_each", ALL);
    case.sql(&format!("insert into st_verify_each values {ROWS}"));
    let columns: Vec<String> = ALL.split(", ").skip(1).map(|column| column.split_whitespace().next().unwrap().to_owned()).collect();
    let columns: Vec<&str> = columns.iter().map(String::as_str).filter(|name| !name.starts_with('\'') && !name.contains('(')).collect();
    assert!(columns.len() > 20, "{columns:?}");
    for column in columns {
        case.run(&IngestOptions::new());
        at_destinations(&case, &format!("update st_verify_each set \"{column}\" = null where id = 1"));
        for table in compared(&case, &IngestOptions::new()) {
            assert_eq!((keys(&table.different), table.state), (vec!["1".to_owned()], VerifyState::Different), "{column}");
            assert!(table.missing.is_empty() && table.extra.is_empty() && !table.has_more, "{column}");
        }
    }
}

#[test]
fn missing_extra_and_different_rows_are_listed_by_their_keys() {
    let mut case = Case::new("st_verify_keys", "a int, b varchar(9), day date, note varchar(20), primary key (a, b)");
    let rows: Vec<String> = (0..20_000).map(|n| format!("({n}, 'b{}', '2024-01-01', 'note {n}')", n % 7)).collect();
    for part in rows.chunks(5_000) {
        case.sql(&format!("insert into st_verify_keys values {}", part.join(",")));
    }
    // NULL in DuckDB, which is no difference.
    case.sql("update st_verify_keys set day = '0000-00-00' where a < 100");
    case.run(&IngestOptions::new());
    at_destinations(
        &case,
        "delete from st_verify_keys where a in (7, 19999); update st_verify_keys set note = 'other' where a = 70; \
         update st_verify_keys set day = '2024-01-02' where a = 50; update st_verify_keys set b = 'B1' where a = 1; \
         insert into st_verify_keys values (-1, 'x', null, null), (14, 'b0', '2024-01-01', 'note 14');",
    );
    for table in compared(&case, &IngestOptions::new()) {
        assert_eq!((table.source_rows, table.destination_rows), (20_000, 20_000));
        assert_eq!(keys(&table.missing), ["1,b1", "19999,b0", "7,b0"]);
        // The second row of key 14 is one too many; which of the two that is cannot be said.
        assert_eq!(keys(&table.extra), ["-1,x", "1,B1", "14,b0"]);
        assert_eq!(keys(&table.different).iter().filter(|key| *key != "14,b0").collect::<Vec<_>>(), ["50,b1", "70,b0"]);
        assert_eq!((table.has_more, table.state), (false, VerifyState::Different));
    }
    // Of many only some are listed.
    at_destinations(&case, "update st_verify_keys set note = 'all' where a >= 10000");
    let source = Source::open(&mysql().uri("commerce")).unwrap();
    let options = VerifyOptions::new(IngestOptions::new().with_tables([case.table])).with_max_keys(10);
    for uri in case.files.uris() {
        let table = verify(&source, &mut Sink::open(&uri).unwrap(), &options).unwrap().tables.remove(0);
        assert_eq!((table.different.len(), table.has_more), (10, true));
    }
    case.run(&by(Strategy::Merge).with_full_refresh(true));
    assert!(compared(&case, &IngestOptions::new()).iter().all(|table| table.state == VerifyState::Equal));
}

#[test]
fn only_the_interval_is_compared_where_one_is_given() {
    let mut case = Case::new("st_verify_interval", "id int primary key, amount decimal(9,2), note varchar(9)");
    case.sql("insert into st_verify_interval values (1, -10.5, 'x'), (2, 9.5, 'x'), (3, 10.25, 'x'), (4, null, 'x')");
    case.run(&IngestOptions::new());
    case.sql("update st_verify_interval set note = 'new' where id in (1, 4)");
    let within = IngestOptions::new().with_incremental_key("amount").with_interval_start("9").with_interval_end("11");
    for table in compared(&case, &within) {
        assert_eq!((table.source_rows, table.destination_rows, table.state), (2, 2, VerifyState::Equal));
    }
    for table in compared(&case, &by(Strategy::Merge).with_incremental_key("amount")) {
        assert_eq!(keys(&table.different), ["1", "4"]);
    }
}

#[test]
fn a_table_without_a_key_is_compared_by_its_sum() {
    let mut case = Case::new("st_verify_keyless", "a int, note varchar(9)");
    case.sql("insert into st_verify_keyless values (1, 'x'), (1, 'x'), (2, null)");
    case.run(&IngestOptions::new());
    assert!(compared(&case, &IngestOptions::new()).iter().all(|table| table.state == VerifyState::Equal));
    case.sql("insert into st_verify_keyless values (1, 'x')");
    case.sql("delete from st_verify_keyless where a = 2");
    for table in compared(&case, &IngestOptions::new()) {
        assert_eq!((table.source_rows, table.destination_rows), (3, 3));
        assert_eq!((table.state, table.has_more), (VerifyState::Different, true));
        assert!(table.notes[0].contains("without a primary key"));
    }
    // Named columns are a key as good as any.
    case.sql("delete from st_verify_keyless");
    case.sql("insert into st_verify_keyless values (1, 'y')");
    for table in compared(&case, &IngestOptions::new().with_primary_key(["a"])) {
        assert_eq!((keys(&table.different), keys(&table.extra)), (vec!["1".to_owned()], vec!["1".to_owned(), "2".to_owned()]));
    }
}

#[test]
fn tables_that_cannot_be_compared_say_why() {
    let mut case = Case::new("st_verify_none", "id int primary key, note varchar(9)");
    for table in compared(&case, &IngestOptions::new()) {
        let VerifyState::Failed { error } = table.state else { panic!("{table:?}") };
        assert!(error.contains("there is no table `st_verify_none` in the destination"), "{error}");
    }
    case.run(&IngestOptions::new());
    case.sql("alter table st_verify_none add column more int");
    for table in compared(&case, &IngestOptions::new()) {
        let VerifyState::Failed { error } = table.state else { panic!("{table:?}") };
        assert!(error.contains("`st_verify_none` in the destination has no column `more`"), "{error}");
    }
    let source = Source::open(&mysql().uri("commerce")).unwrap();
    let cancel = Cancel::new();
    cancel.cancel();
    let options = VerifyOptions::new(IngestOptions::new().with_tables([case.table]).with_cancel(cancel));
    let error = verify(&source, &mut Sink::open(&case.files.uris()[0]).unwrap(), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[cfg(feature = "vstream")]
#[test]
fn a_captured_table_is_caught_up_with_before_it_is_called_different() {
    use mysql::prelude::Queryable;

    use crate::capture::fixture::binary_logs_stay;
    use crate::support::files::{Files, connected};
    use crate::support::servers::vitess;

    let _logs = binary_logs_stay();
    let mut conn = connected(vitess(), "commerce");
    conn.query_drop("drop table if exists st_verify_capture").unwrap();
    conn.query_drop("create table st_verify_capture (id bigint not null primary key, small float, note varchar(20), choice enum('b','a'))")
        .unwrap();
    for id in 1..=50 {
        conn.query_drop(format!("insert into st_verify_capture (id, small, note, choice) values ({id}, {id}.3, 'note {id}', 'a')"))
            .unwrap();
    }
    let source = Source::open(&vitess().cdc_uri("commerce")).unwrap();
    let files = Files::new();
    let options = IngestOptions::new().with_tables(["st_verify_capture"]);
    let verification = VerifyOptions::new(options.clone());
    for uri in files.uris() {
        let mut sink = Sink::open(&uri).unwrap();
        assert!(ingest(&source, &mut sink, &options).unwrap().is_complete());
        // Deleted softly, and so still there.
        conn.query_drop("delete from st_verify_capture where id = 3").unwrap();
        assert!(ingest(&source, &mut sink, &options).unwrap().is_complete());
        // Not captured yet.
        conn.query_drop("update st_verify_capture set note = 'later' where id = 4").unwrap();
        conn.query_drop("insert into st_verify_capture (id, small) values (3, 1)").unwrap();
        let table = verify(&source, &mut sink, &verification).unwrap().tables.remove(0);
        assert_eq!((table.state.clone(), table.source_rows, table.destination_rows), (VerifyState::Equal, 50, 50), "{table:?}");
        assert!(table.position.is_some());
    }
    at_both(&files, "update st_verify_capture set note = 'by hand' where id = 7");
    for uri in files.uris() {
        let mut sink = Sink::open(&uri).unwrap();
        // A change that is caught up with meanwhile is none.
        conn.query_drop("update st_verify_capture set note = concat(note, '.') where id = 9").unwrap();
        let table = verify(&source, &mut sink, &verification).unwrap().tables.remove(0);
        assert_eq!((table.state.clone(), keys(&table.different)), (VerifyState::Different, vec!["7".to_owned()]), "{table:?}");
        assert_eq!(table.notes, [""; 0]);
    }
    // A table that lacks rows is not captured any further, but compared all the same.
    at_both(&files, "delete from st_verify_capture where id = 8");
    for uri in files.uris() {
        let table = verify(&source, &mut Sink::open(&uri).unwrap(), &verification).unwrap().tables.remove(0);
        assert!(keys(&table.different).contains(&"7".to_owned()), "{table:?}");
        assert_eq!(keys(&table.missing), ["8"], "{table:?}");
        assert!(table.notes[0].contains("somebody else has changed it"), "{table:?}");
    }
    conn.query_drop("drop table st_verify_capture").unwrap();
}

#[cfg(feature = "vstream")]
fn at_both(files: &crate::support::files::Files, sql: &str) {
    rusqlite::Connection::open(files.sqlite()).unwrap().execute_batch(sql).unwrap();
    duckdb::Connection::open(files.duckdb()).unwrap().execute_batch(sql).unwrap();
}

/// Somebody changes the source all the time, at random and a few rows again and again; what is found is what was done to the destination.
#[cfg(feature = "vstream")]
#[test]
fn a_source_in_use_is_compared_at_one_position() {
    use std::sync::atomic::{AtomicBool, Ordering};

    use mysql::prelude::Queryable;

    use crate::capture::fixture::{Writer, binary_logs_stay, create, insert};
    use crate::into_mysql::PLAIN;
    use crate::support::files::{Files, connected};
    use crate::support::servers::{once_tablets_know, vitess};

    /// Rows that only the test itself changes.
    const KEPT: u64 = 50_000;

    let _logs = binary_logs_stay();
    for keyspace in ["commerce", "customer"] {
        let table = format!("st_verify_live_{keyspace}");
        let mut conn = create(vitess(), keyspace, &table);
        insert(&mut conn, &table, 0..2_000, 0);
        insert(&mut conn, &table, KEPT..KEPT + 500, 0);
        let uri = vitess().cdc_uri(keyspace);
        let source = Source::open(&uri).unwrap();
        let options = IngestOptions::new().with_tables([&table]).with_hard_delete(true);
        let verification = VerifyOptions::new(options.clone());
        let files = Files::new();
        PLAIN.drop_table(&table);
        let uris: Vec<String> = files.uris().into_iter().chain([PLAIN.uri()]).collect();
        let ingested = |to: &str| {
            let report = once_tablets_know(&uri, || ingest(&source, &mut Sink::open(to).unwrap(), &options)).unwrap();
            assert!(report.is_complete(), "{report:?}");
        };
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writer = Writer::start(vitess(), keyspace, vec![table.clone()], 11);
            scope.spawn(|| {
                let mut conn = connected(vitess(), keyspace);
                while !is_over.load(Ordering::SeqCst) {
                    let sql = format!("update {table} set name = concat('hot ', now(6)) where id = {}", KEPT + 499);
                    conn.query_drop(sql).unwrap();
                }
            });
            // However it ends.
            let _over = Over(&is_over);
            for to in &uris {
                ingested(to);
                for _ in 0..3 {
                    let found = verify(&source, &mut Sink::open(to).unwrap(), &verification).unwrap().tables.remove(0);
                    assert_eq!(found.state, VerifyState::Equal, "{to}: {found:?}");
                    assert!(found.position.is_some() && found.source_rows.abs_diff(found.destination_rows) <= 1, "{to}: {found:?}");
                }
            }
            // As many rows as before, so that the run sees nothing of it.
            let [changed, lost, added] = [KEPT + 3, KEPT + 4, 90_000].map(|id| id.to_string());
            let statements = [
                format!("update {table} set note = 'by hand' where id = {changed}"),
                format!("update {table} set id = {added} where id = {lost}"),
            ];
            at_both(&files, &statements.join(";"));
            let mut there = PLAIN.conn();
            statements.iter().for_each(|sql| there.query_drop(sql).unwrap());
            for to in &uris {
                let found = verify(&source, &mut Sink::open(to).unwrap(), &verification).unwrap().tables.remove(0);
                let listed = [keys(&found.different), keys(&found.missing), keys(&found.extra)];
                assert_eq!(listed, [vec![changed.clone()], vec![lost.clone()], vec![added.clone()]], "{to}: {found:?}");
                assert!(found.state == VerifyState::Different && !found.has_more, "{to}: {found:?}");
            }
            drop(writer);
        });
        PLAIN.drop_table(&table);
    }
}

/// Says so when it goes.
#[cfg(feature = "vstream")]
struct Over<'a>(&'a std::sync::atomic::AtomicBool);

#[cfg(feature = "vstream")]
impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}
