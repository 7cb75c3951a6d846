//! What cannot be written is an error that names it, before rows are written where that can be known.

use mysql::prelude::Queryable;
use planetscale_ingest::{ErrorKind, IngestOptions, Sink, Source, Strategy, TableName};

use super::{ALL, COLUMNS, PLAIN, SHARDED, UNSHARDED, assert_same, content, insert, load_all, refused, run, source, source_uri};
use crate::support::files::{Files, connected, printed};
use crate::support::servers::{Own, claim, mysql};

fn options(table: &str, strategy: Strategy) -> IngestOptions {
    IngestOptions::new().with_tables([table]).with_strategy(strategy)
}

#[test]
fn tables_that_cannot_take_the_rows_are_refused_before_anything_is_written() {
    for place in ALL {
        let table = format!("into_unfit_{}", place.database);
        let _source = source(&table, 0..10);
        let rest = "amount decimal(12,2), note text, happened datetime(6), bits bit(9)";
        let key = "id bigint not null primary key";
        for (columns, fragment) in [
            (format!("{key}, {rest}"), "has no column `name`, which is varchar(200) at the source"),
            (format!("{key}, name int, {rest}"), ".name` is int in the destination"),
            (
                format!("{key}, name varchar(200), amount decimal(12,1), note text, happened datetime(6), bits bit(9)"),
                ".amount` is decimal(12,1)",
            ),
            (
                format!("{key}, name varchar(200), amount decimal(12,2), note text, happened datetime, bits bit(9)"),
                ".happened` is datetime",
            ),
            (format!("{key}, name char(200), {rest}, extra int not null"), ".extra` in the destination is NOT NULL and has no default"),
        ] {
            let mut there = place.make(&table, &columns);
            run(
                &mut there,
                &format!(
                    "insert into {table} (id{}) values (77{})",
                    if columns.contains("extra") { ", extra" } else { "" },
                    if columns.contains("extra") { ", 1" } else { "" }
                ),
            );
            for strategy in [Strategy::Append, Strategy::Merge, Strategy::TruncateInsert] {
                let error = refused(&source_uri(), &place.uri(), &options(&table, strategy));
                assert!(error.contains(fragment), "{} {strategy:?}: {error}", place.name);
                assert_eq!(there.query_first::<u64, _>(format!("select count(*) from {table}")).unwrap(), Some(1));
            }
        }
        // One that is to be merged by a key that it has not.
        let keyless = format!("{COLUMNS}, key (name)").replace("not null primary key", "not null");
        if !place.is_sharded() {
            place.make(&table, &keyless);
            let error = refused(&source_uri(), &place.uri(), &options(&table, Strategy::Merge));
            assert!(error.contains("no primary or unique key of the columns `id`"), "{error}");
        }
        place.drop_table(&table);
    }
}

#[test]
fn a_table_is_not_copied_into_itself() {
    for place in ALL {
        let table = format!("into_itself_{}", place.database);
        let mut there = place.make(&table, COLUMNS);
        insert(&mut there, &table, 0..50, 0);
        let before = content(&mut there, &table);
        let (uri, schema) = (place.uri(), place.database);
        // The server has two names.
        let other = uri.replacen("127.0.0.1:", "localhost:", 1);
        assert_ne!(other, uri);
        for strategy in [Strategy::Replace, Strategy::Append, Strategy::Merge, Strategy::TruncateInsert] {
            for (source, name) in
                [(&uri, TableName::new(&table)), (&other, TableName::new(&table)), (&uri, TableName::new(&table).in_schema(schema))]
            {
                let error = refused(source, &uri, &options(&table, strategy).with_dest_table(name));
                assert!(error.contains("would be its own destination") && error.contains(&table), "{} {strategy:?}: {error}", place.name);
            }
        }
        assert_same(&before, &content(&mut there, &table), place.name);
        // By another name it is copied.
        let copy = format!("{table}_too");
        place.drop_table(&copy);
        load_all(&other, &uri, &options(&table, Strategy::Merge).with_dest_table(TableName::new(&copy)));
        assert_same(&before, &content(&mut there, &copy), place.name);
        place.drop_table(&copy);
        place.drop_table(&table);
    }
}

/// Texts that begin alike would be one row.
#[test]
fn rows_are_not_merged_by_the_beginnings_of_their_keys() {
    for place in [PLAIN, UNSHARDED] {
        let of_source = format!("into_cut_{}", place.database);
        claim(mysql(), "commerce", &of_source);
        let mut conn = connected(mysql(), "commerce");
        let mut source_with = |columns: &str| {
            run(&mut conn, &format!("drop table if exists {of_source}"));
            run(&mut conn, &format!("create table {of_source} ({columns})"));
            run(&mut conn, &format!("insert into {of_source} values ('http://a.example/1', 1), ('http://a.example/2', 2)"));
        };
        let rows = |there: &mut mysql::Conn| printed(there, &format!("select url, v from {of_source} order by url"));
        let two = [("http://a.example/1", "1"), ("http://a.example/2", "2")].map(|(url, v)| vec![Some(url.to_owned()), Some(v.to_owned())]);
        source_with("url varchar(500) collate utf8mb4_0900_bin not null primary key, v int");
        for (key, cut) in [
            ("primary key (url(10))", Some("PRIMARY")),
            ("unique key short (url(10)), unique key shorter (url(9))", Some("short")),
            ("primary key (url), unique key short (url(10), v)", None),
            ("primary key (url)", None),
        ] {
            let mut there = place.make(&of_source, &format!("url varchar(500) collate utf8mb4_0900_bin not null, v int, {key}"));
            match cut {
                Some(cut) => {
                    let error = refused(&source_uri(), &place.uri(), &options(&of_source, Strategy::Merge));
                    let said = format!("the key `{cut}` of `{of_source}` in the destination is of the beginning of `url` only");
                    assert!(error.contains(&said), "{} {key}: {error}", place.name);
                    assert!(rows(&mut there).is_empty());
                }
                None if key.contains("short") => {
                    let error = refused(&source_uri(), &place.uri(), &options(&of_source, Strategy::Merge));
                    assert!(error.contains("another unique key, `short`"), "{} {key}: {error}", place.name);
                }
                None => {
                    load_all(&source_uri(), &place.uri(), &options(&of_source, Strategy::Merge));
                    assert_eq!(rows(&mut there), two, "{} {key}", place.name);
                }
            }
        }
        // As the source has it, it tells apart what that does. A table that is made has the same key.
        source_with("url text not null, v int, primary key (url(30))");
        for columns in
            [None, Some("url text not null, v int, primary key (url(30))"), Some("url text not null, v int, primary key (url(40))")]
        {
            place.drop_table(&of_source);
            columns.iter().for_each(|columns| drop(place.make(&of_source, columns)));
            for _ in 0..2 {
                load_all(&source_uri(), &place.uri(), &options(&of_source, Strategy::Merge));
                assert_eq!(rows(&mut place.conn()), two, "{} {columns:?}", place.name);
            }
        }
        place.make(&of_source, "url text not null, v int, primary key (url(29))");
        let error = refused(&source_uri(), &place.uri(), &options(&of_source, Strategy::Merge));
        assert!(error.contains("is of the beginning of `url` only"), "{}: {error}", place.name);
        // Of a key that somebody names nobody says that.
        source_with("url text not null, v int");
        place.drop_table(&of_source);
        let error = refused(&source_uri(), &place.uri(), &options(&of_source, Strategy::Merge).with_primary_key(["url"]));
        assert!(error.contains("could only have a key of the beginning of it"), "{}: {error}", place.name);
        assert!(!place.tables().contains(&of_source));
        place.drop_table(&of_source);
    }
}

/// A row whose name is that of another row would take its place.
#[test]
fn rows_are_merged_by_no_key_beside_which_another_one_tells_rows_apart() {
    for place in [PLAIN, UNSHARDED] {
        let table = format!("into_other_key_{}", place.database);
        let mut conn = source(&table, 0..10);
        for (more, expected) in [
            ("unique key by_name (name)", Some("has another unique key, `by_name`")),
            ("unique key by_lower ((lower(name)))", Some("has another unique key, `by_lower`")),
            (
                "folded varchar(200) generated always as (lower(name)) stored, unique key by_folded (folded)",
                Some("has another unique key, `by_folded`"),
            ),
            ("unique key by_both (name, id)", None),
            ("own bigint not null auto_increment unique key", None),
            ("tenant int not null default 1, unique key by_tenant (tenant, name)", Some("has another unique key, `by_tenant`")),
            ("made datetime not null default current_timestamp, unique key by_made (made)", Some("has another unique key, `by_made`")),
            ("tenant int null default 7, unique key by_tenant (tenant)", Some("has another unique key, `by_tenant`")),
            ("tenant int null, unique key by_tenant (tenant, name)", None),
            ("token varchar(40) not null default (uuid()), unique key by_token (token)", None),
        ] {
            let mut there = place.make(&table, &format!("{COLUMNS}, {more}"));
            run(&mut there, &format!("insert into {table} (id, name) values (77, 'name 1 0')"));
            match expected {
                Some(expected) => {
                    let error = refused(&source_uri(), &place.uri(), &options(&table, Strategy::Merge));
                    assert!(error.contains(expected), "{}: {error}", place.name);
                    assert_eq!(content(&mut there, &table).len(), 1);
                }
                None => {
                    load_all(&source_uri(), &place.uri(), &options(&table, Strategy::Merge));
                    run(&mut there, &format!("delete from {table} where id = 77"));
                    assert_same(&content(&mut conn, &table), &content(&mut there, &table), more);
                }
            }
        }
        // A key of a column and an expression is none of the column.
        let columns = COLUMNS.replace(" primary key", "");
        place.make(&table, &format!("{columns}, unique key by_part (id, (lower(name)))"));
        let error = refused(&source_uri(), &place.uri(), &options(&table, Strategy::Merge));
        assert!(error.contains("no primary or unique key of the columns `id`"), "{}: {error}", place.name);
        place.drop_table(&table);
    }
}

/// Other sources than MySQL tell keys apart by their bytes, to which most collations are not as strict.
#[test]
fn rows_are_merged_by_no_text_that_the_destination_takes_for_that_of_another_row() {
    let (files, table) = (Files::new(), "into_loose_key");
    let statements = [
        format!("create table {table} (k varchar(20) primary key, note varchar(20))"),
        format!("insert into {table} values ('a', 'one'), ('A', 'two'), ('a ', 'three'), ('\u{e4}', 'four')"),
    ];
    let at_source = statements.join("; ");
    rusqlite::Connection::open(files.sqlite()).unwrap().execute_batch(&at_source).unwrap();
    duckdb::Connection::open(files.duckdb()).unwrap().execute_batch(&at_source).unwrap();
    let mut sources = files.uris();
    #[cfg(feature = "postgres")]
    {
        use crate::support::postgres::postgres;
        postgres().exec(&format!("drop table if exists {table}"));
        statements.iter().for_each(|sql| drop(postgres().exec(sql)));
        sources.push(postgres().uri("sslmode=disable"));
    }
    let stored = |conn: &mut mysql::Conn| printed(conn, &format!("select hex(k), note from {table} order by 1"));
    let expected = [("41", "two"), ("61", "one"), ("6120", "three"), ("C3A4", "four")];
    let expected: super::Rows = expected.map(|(key, note)| vec![Some(key.to_owned()), Some(note.to_owned())]).to_vec();
    for source in &sources {
        for collation in ["utf8mb4_0900_ai_ci", "utf8mb4_0900_as_cs", "utf8mb4_bin"] {
            let mut there = PLAIN.make(table, &format!("k varchar(20) collate {collation} not null primary key, note varchar(20)"));
            run(&mut there, &format!("insert into {table} values ('A', 'as it was')"));
            let error = refused(source, &PLAIN.uri(), &options(table, Strategy::Merge));
            let told = format!("column `{table}.k` is varchar(20) COLLATE {collation} in the destination, to which keys may be the same");
            assert!(error.contains(&told), "{source}: {error}");
            assert_eq!(stored(&mut there), [[Some("41".to_owned()), Some("as it was".to_owned())]]);
        }
        PLAIN.make(table, "k varchar(20) collate utf8mb4_0900_bin not null primary key, note varchar(20)");
        load_all(source, &PLAIN.uri(), &options(table, Strategy::Merge));
        assert_same(&expected, &stored(&mut PLAIN.conn()), source);
        // One that a run has made.
        PLAIN.drop_table(table);
        for _ in 0..2 {
            load_all(source, &PLAIN.uri(), &options(table, Strategy::Merge));
            assert_same(&expected, &stored(&mut PLAIN.conn()), source);
        }
    }
    PLAIN.drop_table(table);
}

#[test]
fn values_that_do_not_fit_are_named_by_their_column_and_not_shown() {
    for place in ALL {
        let table = format!("into_values_{}", place.database);
        let mut conn = source(&table, 0..10);
        run(&mut conn, &format!("update {table} set name = 'secret long value' where id = 5"));
        let mut there = place.make(&table, &COLUMNS.replace("varchar(200)", "varchar(12)"));
        let error = refused(&source_uri(), &place.uri(), &options(&table, Strategy::Append));
        assert!(error.contains("column `name`: a text is too long"), "{error}");
        assert!(!error.contains("secret"), "{error}");
        if place.database == PLAIN.database {
            assert!(content(&mut there, &table).is_empty());
        }
        // What only the server finds out.
        let mut there = place.make(&table, &format!("{COLUMNS}, check (name <> 'secret long value')"));
        let error = refused(&source_uri(), &place.uri(), &options(&table, Strategy::Append));
        assert!(error.contains("a check constraint of the table is violated") && !error.contains("secret"), "{error}");
        assert!(content(&mut there, &table).is_empty(), "a statement is carried out as a whole: {}", place.name);
        place.drop_table(&table);
    }
}

/// A server stores the time of day for some of them, and a number of its own for others.
#[test]
fn null_is_refused_where_the_column_is_never_null() {
    let table = "into_null";
    let mut conn = source(table, 0..10);
    run(&mut conn, &format!("alter table {table} modify happened timestamp(6) null, add own bigint null"));
    run(&mut conn, &format!("update {table} set own = id"));
    let columns = COLUMNS.replace("datetime(6)", "timestamp(6)");
    for (column, never_null) in [
        ("happened", columns.replace("timestamp(6)", "timestamp(6) not null default current_timestamp(6)") + ", own bigint"),
        ("own", format!("{columns}, own bigint not null auto_increment unique key")),
        ("name", columns.replace("varchar(200)", "varchar(200) not null") + ", own bigint"),
    ] {
        run(&mut conn, &format!("update {table} set {column} = null where id = 7"));
        for strategy in [Strategy::Append, Strategy::TruncateInsert, Strategy::Merge] {
            let mut there = PLAIN.make(table, &never_null);
            // A key of its own would be in the way of a merge.
            if strategy == Strategy::Merge && column == "own" {
                continue;
            }
            let error = refused(&source_uri(), &PLAIN.uri(), &options(table, strategy));
            let expected = format!("column `{column}`: NULL, but the column is NOT NULL in the destination");
            assert!(error.contains(&expected), "{strategy:?}: {error}");
            assert!(content(&mut there, table).is_empty());
        }
        run(&mut conn, &format!("update {table} set {column} = if('{column}' = 'own', id, '2024-02-29 12:00:00') where id = 7"));
        let mut there = PLAIN.make(table, &never_null);
        load_all(&source_uri(), &PLAIN.uri(), &options(table, Strategy::Append));
        assert_same(&content(&mut conn, table), &content(&mut there, table), column);
    }
    PLAIN.drop_table(table);
}

#[test]
fn a_key_that_is_there_already_is_an_error_without_its_value() {
    for place in ALL {
        let table = format!("into_twice_{}", place.database);
        let _source = source(&table, 0..10);
        let mut there = place.make(&table, COLUMNS);
        run(&mut there, &format!("insert into {table} (id) values (7)"));
        let error = refused(&source_uri(), &place.uri(), &options(&table, Strategy::Append));
        assert!(error.contains("two rows have the same key (key `PRIMARY`)") && !error.contains('7'), "{error}");
        place.drop_table(&table);
    }
}

#[test]
fn a_key_that_the_source_does_not_keep_is_an_error() {
    let table = "into_false_key";
    let mut conn = source(table, 0..10);
    run(&mut conn, &format!("update {table} set name = 'same' where id in (3, 4)"));
    for place in [PLAIN, UNSHARDED, SHARDED] {
        let there = TableName::new(format!("{table}_{}", place.database));
        place.drop_table(there.name());
        let by_name = |strategy| options(table, strategy).with_primary_key(["name"]).with_dest_table(there.clone());
        let error = refused(&source_uri(), &place.uri(), &by_name(Strategy::Replace));
        assert!(error.contains("two rows have the same key (key `PRIMARY`)") && !error.contains("same'"), "{error}");
        run(&mut conn, &format!("update {table} set name = null where id = 3"));
        let error = refused(&source_uri(), &place.uri(), &by_name(Strategy::Replace));
        assert!(error.contains("NULL in the key") && error.contains("`name`"), "{error}");
        run(&mut conn, &format!("update {table} set name = 'same' where id = 3"));
        place.drop_table(there.name());
    }
}

#[test]
fn a_server_that_is_read_only_says_so_and_takes_the_rows_afterwards() {
    let (table, options) = ("into_read_only", |strategy| options("into_read_only", strategy));
    let _source = source(table, 0..10);
    let server = Own::start("read-only", 180);
    let there = server.0.uri("commerce");
    let mut conn = connected(&server.0, "commerce");
    run(&mut conn, &format!("create table {table} ({COLUMNS})"));
    run(&mut conn, &format!("insert into {table} (id, name) values (3, 'as it was')"));
    let before = content(&mut conn, table);
    run(&mut conn, "set global super_read_only = on");
    for strategy in [Strategy::Replace, Strategy::Append, Strategy::Merge, Strategy::TruncateInsert] {
        let error = refused(&source_uri(), &there, &options(strategy));
        assert!(error.contains("the server is read-only"), "{strategy:?}: {error}");
        assert_same(&before, &content(&mut conn, table), "read-only");
    }
    run(&mut conn, "set global read_only = off");
    load_all(&source_uri(), &there, &options(Strategy::Merge));
    assert_same(&content(&mut connected(mysql(), "commerce"), table), &content(&mut conn, table), "once it is not");
}

#[test]
fn users_without_rights_are_named() {
    let table = "into_rights";
    let _source = source(table, 0..10);
    let mut there = PLAIN.make(table, COLUMNS);
    let reader = mysql().uri(PLAIN.database).replacen("app:", "reader:", 1);
    let error = refused(&source_uri(), &reader, &options(table, Strategy::Append));
    assert!(error.contains("lacks a privilege"), "{error}");
    // Without a table, what to deploy.
    let error = refused(&source_uri(), &reader, &options(table, Strategy::Append).with_dest_table(TableName::new("into_none")));
    assert!(error.contains("deploy it by: CREATE TABLE `into_none` (`id` bigint NOT NULL, "), "{error}");
    assert!(content(&mut there, table).is_empty());
    PLAIN.drop_table(table);
}

#[test]
fn two_runs_do_not_write_to_one_table() {
    for place in ALL {
        let table = format!("into_lease_{}", place.database);
        let mut conn = source(&table, 0..10);
        place.drop_table(&table);
        let described = std::sync::Arc::new(Source::open(&source_uri()).unwrap().table(&table).unwrap());
        let mut first = Sink::open(&place.uri()).unwrap();
        let load = first.append(&TableName::new(&table), &described).unwrap();
        let error = Sink::open(&place.uri()).unwrap().append(&TableName::new(&table), &described).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
        assert!(error.to_string().contains(&format!("`{table}` is in use by another run")), "{error}");
        drop(load);
        drop(first);
        load_all(&source_uri(), &place.uri(), &options(&table, Strategy::Append));
        assert_same(&content(&mut conn, &table), &content(&mut place.conn(), &table), place.name);
        place.drop_table(&table);
    }
}

#[test]
fn names_that_mysql_does_not_take_are_refused() {
    let table = "into_names";
    let _source = source(table, 0..1);
    for name in ["_ingest_x", &"n".repeat(65), "x ", "x🎉"] {
        let options = options(table, Strategy::Replace).with_dest_table(TableName::new(name));
        let error = refused(&source_uri(), &PLAIN.uri(), &options);
        assert!(error.contains("MySQL has no table that is called"), "{error}");
    }
}

#[test]
fn a_view_is_no_destination() {
    let table = "into_view";
    let _source = source(table, 0..1);
    let mut there = PLAIN.conn();
    run(&mut there, "drop view if exists into_view");
    run(&mut there, "create view into_view as select 1 as id");
    let error = refused(&source_uri(), &PLAIN.uri(), &options(table, Strategy::Append));
    assert!(error.contains("is no table, but a view"), "{error}");
    run(&mut there, "drop view into_view");
}
