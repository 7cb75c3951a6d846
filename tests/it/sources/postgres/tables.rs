//! Which tables there are, and what belongs to them.

use std::sync::Arc;

use planetscale_ingest::{ErrorKind, IngestOptions, Source, Strategy, Table};

use crate::sources::{moved, read, refused, uri};
use crate::support::files::sqlite_rows;
use crate::support::postgres::postgres;

fn names(tables: &[Table]) -> Vec<&str> {
    tables.iter().map(Table::name).collect()
}

#[test]
fn base_tables_are_listed_with_keys_and_generated_columns_and_read_once() {
    let server = postgres();
    server.fresh_schema("source_tables");
    server.exec(
        "set search_path = source_tables;
         create table \"Odd \"\"name\"\" ü.x\" (b int, \"K 2\" text, always int generated always as identity, twice int generated always as (b * 2) stored,
             primary key (\"K 2\", b));
         insert into \"Odd \"\"name\"\" ü.x\" (b, \"K 2\") values (1, 'x'), (2, 'y');
         create table plain (a int not null, gone int, c text default 'x'); alter table plain drop column gone; insert into plain values (1, 'one');
         create table child (more int) inherits (plain); insert into child values (2, 'two', 3);
         create table parts (id int primary key, v text) partition by range (id);
         create table parts_low partition of parts for values from (0) to (10); create table parts_high partition of parts for values from (10) to (20);
         insert into parts select i, 'row ' || i from generate_series(0, 19) i;
         create view looks as select * from plain; create materialized view stored as select * from plain;
         create temporary table passing (a int); create table none ();",
    );
    let source = Source::open(&server.uri("schema=source_tables")).unwrap();
    // A table without columns is one, and the error of whoever reads it.
    let tables = source.tables().unwrap();
    assert_eq!(names(&tables), ["Odd \"name\" ü.x", "child", "none", "parts", "plain"]);
    assert_eq!(source.rows("none").unwrap_err().kind(), ErrorKind::Schema);
    let odd = &tables[0];
    assert_eq!((odd.primary_key(), odd.schema()), (&[1, 0][..], Some("source_tables")));
    let generated: Vec<bool> = odd.columns().iter().map(|column| column.is_generated()).collect();
    assert_eq!(generated, [false, false, false, true]);
    let expected = server.printed(&["b", "\"K 2\"", "always", "twice"], "from source_tables.\"Odd \"\"name\"\" ü.x\"");
    assert_eq!(read(&source, "Odd \"name\" ü.x"), expected);

    // Rows of a table that inherits are those of that table alone, and those of a part are the parent's.
    assert_eq!(read(&source, "plain"), server.printed(&["a", "c"], "from only source_tables.plain"));
    assert_eq!(read(&source, "child").len(), 1);
    assert_eq!(read(&source, "parts"), server.printed(&["id", "v"], "from source_tables.parts"));
    assert!(!source.table("plain").unwrap().columns()[0].is_nullable());

    for name in ["looks", "stored", "parts_low", "passing", "PLAIN", "source_tables.looks", "nowhere.plain", "it's"] {
        let error = source.table(name).unwrap_err();
        assert_eq!((error.kind(), error.table()), (ErrorKind::Schema, Some(name)), "{error}");
    }
    // A table may change between the two.
    let table = Arc::new(source.table("plain").unwrap());
    server.exec("set client_min_messages = error; drop view source_tables.looks; drop materialized view source_tables.stored; alter table source_tables.plain alter c drop default, alter c type bytea using null");
    let error = source.rows_of(table).unwrap_err();
    assert_eq!((error.kind(), error.column()), (ErrorKind::Schema, Some("c")), "{error}");
    server.exec("set client_min_messages = error; drop schema source_tables cascade");
}

#[test]
fn columns_that_a_key_only_includes_are_none_of_it() {
    let server = postgres();
    server.fresh_schema("source_included");
    server.exec(
        "set search_path = source_included;
         create table t (note text not null, b int, a int, primary key (a, b) include (note));
         insert into t values ('old', 1, 1), ('old', 2, 1)",
    );
    let from = server.uri("schema=source_included");
    assert_eq!(Source::open(&from).unwrap().table("t").unwrap().primary_key(), [2, 1]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("copy.db");
    let options = IngestOptions::new().with_strategy(Strategy::Merge);
    moved(&from, &uri("sqlite", &file), &options);
    server.exec("update source_included.t set note = 'new' where b = 1");
    moved(&from, &uri("sqlite", &file), &options);
    let notes = sqlite_rows(&file, "select b || note from t order by 1");
    assert_eq!(notes, [[Some("1new".to_owned())], [Some("2old".to_owned())]]);
    server.exec("set client_min_messages = error; drop schema source_included cascade");
}

#[test]
fn names_are_looked_up_along_the_search_path() {
    let server = postgres();
    for schema in ["source_path_a", "source_path_b"] {
        server.fresh_schema(schema);
    }
    server.exec(
        "create table source_path_a.both (a int); create table source_path_b.both (b int); create table source_path_b.alone (b int);
         create table source_path_b.\"source_path_a.both\" (dotted int);",
    );
    let path = Source::open(&server.uri("options=-c%20search_path%3Dsource_path_a%2Csource_path_b")).unwrap();
    assert_eq!(names(&path.tables().unwrap()), ["alone", "both", "source_path_a.both"]);
    assert_eq!(path.table("both").unwrap().columns()[0].name(), "a");
    assert_eq!(path.table("source_path_b.both").unwrap().columns()[0].name(), "b");
    // The very name comes first.
    assert_eq!(path.table("source_path_a.both").unwrap().columns()[0].name(), "dotted");
    let other = Source::open(&server.uri("")).unwrap();
    assert_eq!(other.table("source_path_a.both").unwrap().columns()[0].name(), "a");
    assert_eq!(other.table("both").unwrap_err().kind(), ErrorKind::Schema);
    let missing = Source::open(&server.uri("schema=nowhere")).unwrap();
    assert_eq!(missing.tables().unwrap_err().kind(), ErrorKind::Schema);
    server.exec("set client_min_messages = error; drop schema source_path_a cascade; drop schema source_path_b cascade");
}

#[test]
fn rows_that_a_policy_hides_and_tables_that_may_not_be_read_are_errors() {
    let server = postgres();
    server.fresh_schema("source_rights");
    server.exec(&format!(
        "set search_path = source_rights;
         create table open (a int); create table closed (a int); create table hidden (a int); insert into hidden values (1), (2);
         alter table hidden enable row level security; create policy a_few on hidden using (a = 1);
         grant usage on schema source_rights to {reader}; grant select on open, hidden to {reader};",
        reader = server.reader
    ));
    let source = Source::open(&server.uri_of(&server.reader, server.port, "schema=source_rights")).unwrap();
    assert_eq!(read(&source, "open").len(), 0);
    let error = refused(&source, "closed");
    assert!(error.to_string().contains("the user may not read it"), "{error:#}");
    // Nothing is left out without a word.
    assert_eq!(refused(&source, "hidden").kind(), ErrorKind::Source);
    server.exec("set client_min_messages = error; drop schema source_rights cascade");
}

#[test]
fn intervals_are_those_of_all_other_sources() {
    let server = postgres();
    server.fresh_schema("source_intervals");
    server.exec(&format!(
        "create table source_intervals.t (id integer primary key, n bigint, c decimal(10,2), f float8, day date, moment timestamp, txt varchar);
         insert into source_intervals.t values {};
         insert into source_intervals.t values (6, 10, -7, -1, 'infinity', '0044-03-15 10:00:00 BC', 'ü')",
        crate::sources::ROWS
    ));
    let source = Source::open(&server.uri("schema=source_intervals")).unwrap();
    for (column, start, end, expected) in crate::sources::INTERVALS {
        let found = crate::sources::keys_between(&source, "t", column, *start, *end);
        assert_eq!(found, *expected, "{column} from {start:?} to {end:?}");
    }
    server.exec("set client_min_messages = error; drop schema source_intervals cascade");
}

#[test]
fn what_is_read_as_text_that_has_another_order_is_no_incremental_key() {
    let server = postgres();
    server.fresh_schema("source_printed");
    server.exec(
        "set search_path = source_printed; create domain amount as numeric;
         create table t (id int primary key, n numeric, m amount, wide numeric(80,2), i interval, a inet, v varchar(9), u uuid, day date, at timestamptz);
         insert into t values (1, 99, 99, 99, '9 days', '9.0.0.1', 'a', '00000000-0000-0000-0000-000000000001', '2024-01-01', '2024-01-01 00:00:00+00');",
    );
    let source = Source::open(&server.uri("schema=source_printed")).unwrap();
    let columns = [("n", "numeric"), ("m", "numeric"), ("wide", "numeric"), ("i", "interval"), ("a", "inet")];
    crate::sources::assert_no_keys(&source, "t", &columns, &["v", "u"], &["day", "at"]);
    server.exec("set client_min_messages = error; drop schema source_printed cascade");
}
