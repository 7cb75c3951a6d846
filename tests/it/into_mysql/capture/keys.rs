//! Keys and vindexes: a row is there once, whatever becomes of what says which it is and where it lies.

use super::*;
use crate::capture::fixture::binary_logs_stay;
use crate::support::servers::route;

fn compare(captured: &mut Captured, columns: &str) {
    let (table, copy) = (captured.table.clone(), captured.copy.clone());
    let mut expected = printed(&mut captured.at_source, &format!("select {columns} from `{table}`"));
    let mut found = printed(&mut captured.there, &format!("select {columns} from `{copy}` where not _cdc_deleted"));
    expected.sort();
    found.sort();
    assert_eq!(found, expected, "{}", captured.place.name);
}

#[test]
fn keys_that_differ_by_case_accents_or_spaces_are_one_row_that_is_spelled_anew() {
    let _logs = binary_logs_stay();
    for place in ALL {
        for hard in [false, true] {
            let columns = "k varchar(40) collate utf8mb4_0900_ai_ci not null primary key, v int";
            let mut captured = Captured::new_with(place, &format!("case_{hard}"), columns).hard(hard);
            captured.at_source("insert into {t} values ('a', 1), ('b', 2), ('ü', 3), ('c', 4), ('d', 5), ('e', 6)");
            captured.run_all();
            compare(&mut captured, "hex(k), v");
            captured.at_source("update {t} set k = 'A' where k = 'a'; update {t} set k = 'U' where k = 'ü'");
            captured.at_source("delete from {t} where k = 'b'; insert into {t} values ('B', 20); update {t} set v = 21 where k = 'B'");
            // Back and forth within one run.
            captured.at_source(
                "update {t} set k = 'C' where k = 'c'; update {t} set k = 'c' where k = 'C'; update {t} set k = 'Ç' where k = 'c'",
            );
            captured.at_source("delete from {t} where k = 'd'; insert into {t} values ('D', 50); delete from {t} where k = 'D'");
            captured.at_source("delete from {t} where k = 'e'; insert into {t} values ('E', 60); delete from {t} where k = 'E'; insert into {t} values ('e', 61)");
            captured.run_all();
            compare(&mut captured, "hex(k), v");
            captured.run_all();
            let twice = captured.cell("select count(*) from {t} where not _cdc_deleted");
            assert_eq!(twice.as_deref(), Some("5"), "{}", place.name);
        }
    }
}

#[test]
fn changed_keys_move_their_rows_between_shards() {
    let _logs = binary_logs_stay();
    for place in ALL {
        for hard in [false, true] {
            let mut captured = Captured::new(place, &format!("moved_{hard}"), 0..100).hard(hard);
            captured.run_all();
            captured.at_source("update {t} set id = id + 1000 where id < 50");
            captured.at_source("update {t} set id = 5 where id = 1007; update {t} set name = 'moved' where id = 5");
            captured.run_all();
            captured.assert_equals();
            captured.run_all();
        }
    }
}

#[test]
fn a_row_whose_vindex_column_changes_moves_to_its_shard() {
    let _logs = binary_logs_stay();
    for hard in [false, true] {
        let columns = "id bigint not null primary key, owner bigint not null, v varchar(20)";
        let mut captured = Captured::new_with(SHARDED, &format!("owner_{hard}"), columns).hard(hard);
        let copy = captured.copy.clone();
        run(
            &mut captured.there,
            &format!(
                "create table `{copy}` (id bigint not null primary key, owner bigint not null, v varchar(20), _cdc_lsn mediumtext collate ascii_bin, \
                 _cdc_deleted tinyint(1), _cdc_synced_at datetime(6))"
            ),
        );
        route(&mut captured.there, "customer", &copy, "by_hash(owner)");
        once_known("the table", || {
            mysql::prelude::Queryable::query_drop(&mut captured.there, format!("select owner from `{copy}` limit 1"))
        });
        let rows: Vec<String> = (0..40).map(|id| format!("({id}, {}, 'v{id}')", id % 4)).collect();
        captured.at_source(&format!("insert into {{t}} values {}", rows.join(", ")));
        captured.run_all();
        compare(&mut captured, "id, owner, v");
        captured.at_source("update {t} set owner = owner + 10 where id < 30; update {t} set v = 'again' where id < 10");
        captured.run_all();
        compare(&mut captured, "id, owner, v");
        assert_eq!(captured.cell("select count(*) from {t}").as_deref(), Some("40"));
        captured.at_source("delete from {t} where id < 3");
        captured.run_all();
        compare(&mut captured, "id, owner, v");
        captured.run_all();
    }
}

#[test]
fn keys_of_several_columns_are_merged() {
    let _logs = binary_logs_stay();
    for place in ALL {
        for hard in [false, true] {
            let columns = "a int not null, b varchar(20) not null, d date not null, v int, primary key (b, a, d)";
            let mut captured = Captured::new_with(place, &format!("composite_{hard}"), columns).hard(hard);
            let rows: Vec<String> =
                (0..60).map(|id| format!("({}, 'k''{}', '2024-01-{:02}', {id})", id % 5, id % 7, id % 28 + 1)).collect();
            captured.at_source(&format!("insert ignore into {{t}} values {}", rows.join(", ")));
            captured.run_all();
            compare(&mut captured, "a, b, d, v");
            captured.at_source("delete from {t} where a = 3; update {t} set v = v + 1 where a = 1; update {t} set a = 9 where a = 4");
            captured.run_all();
            compare(&mut captured, "a, b, d, v");
            captured.run_all();
        }
    }
}
