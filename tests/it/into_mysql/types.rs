//! Every type of MySQL, back into MySQL: the server's own checksum over the rows is the same.

use std::sync::PoisonError;

use mysql::prelude::Queryable;
use planetscale_ingest::IngestOptions;

use super::{GLOBAL_SETTINGS, PLAIN, load_all, printed, source_uri};
use crate::support::files::Files;
use crate::support::servers::mysql;
use crate::values::{Kind, Tables};

/// Statements that have loaded rows like a file, of all sessions.
fn loads() -> u64 {
    let (_, count): (String, u64) = mysql().conn().query_first("show global status like 'Com_load'").unwrap().unwrap();
    count
}

/// Other tests go either way while this one runs; else the server takes files.
#[test]
fn every_type_comes_into_mysql_with_the_same_checksum() {
    let _own = GLOBAL_SETTINGS.write().unwrap_or_else(PoisonError::into_inner);
    for local_infile in [0, 1] {
        mysql().exec(&format!("set global local_infile = {local_infile}"));
        let before = loads();
        let tables = every_type_is_the_same();
        assert!(local_infile == 0 || loads() - before >= tables, "{} of {tables} tables were loaded like a file", loads() - before);
    }
}

/// The number of tables.
fn every_type_is_the_same() -> u64 {
    let mut tables = Tables::create(mysql(), "commerce", "into_mysql_values");
    for (table, of) in &tables.types {
        // A strict session takes no error value of ENUM, and JSON as text has no dates, decimals and bytes.
        let lossy = match of.kind {
            Kind::Text if of.declared.starts_with("enum") => "v + 0 = 0",
            Kind::Json => "json_contains_path(v, 'one', '$.date', '$.decimal', '$.bytes')",
            _ => continue,
        };
        tables.conn.query_drop(format!("delete from {table} where {lossy}")).unwrap();
    }
    load_all(&source_uri(), &PLAIN.uri(), &IngestOptions::new().with_tables(tables.names()));
    let mut wrong = Vec::new();
    for (table, of) in &tables.types {
        // MySQL does not say what members beyond U+FFFF are, so that the column is no ENUM or SET there.
        let is_unsure = ["enum", "set"].iter().any(|name| of.declared.starts_with(name)) && of.declared.contains('🎉');
        if is_unsure {
            let sql = |database: &str| format!("select id, hex(convert(v using utf8mb4)) from {database}.{table} order by id");
            let [there, here]: [Vec<(u64, Option<String>)>; 2] =
                ["commerce", PLAIN.database].map(|database| tables.conn.query(sql(database)).unwrap());
            if there != here {
                wrong.push(format!("{}: the texts differ", of.declared));
            }
            tables.conn.query_drop(format!("drop table {}.{table}", PLAIN.database)).unwrap();
            continue;
        }
        let sums: Vec<(String, Option<u64>)> =
            tables.conn.query(format!("checksum table commerce.{table}, {}.{table}", PLAIN.database)).unwrap();
        if sums[0].1.is_none() || sums[0].1 != sums[1].1 {
            wrong.push(format!("{}: {sums:?}", of.declared));
        }
        let declared: Vec<(String, String)> = tables
            .conn
            .query(format!(
                "select concat_ws(' ', column_type, is_nullable, collation_name), table_schema from information_schema.columns \
                 where table_name = '{table}' and column_name = 'v' and table_schema in ('commerce', '{}') order by table_schema",
                PLAIN.database
            ))
            .unwrap();
        if declared.len() != 2 || declared[0].0 != declared[1].0 {
            wrong.push(format!("{}: {declared:?}", of.declared));
        }
        tables.conn.query_drop(format!("drop table {}.{table}", PLAIN.database)).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let count = tables.types.len() as u64;
    tables.drop();
    count
}

#[test]
fn members_of_other_sources_are_told_apart_by_their_bytes() {
    let (files, table) = (Files::new(), "into_members");
    let statements = [
        "create type into_members_letter as enum ('a', 'A', 'ä')".to_owned(),
        format!("create table {table} (id int primary key, v into_members_letter)"),
        format!("insert into {table} values (1, 'a'), (2, 'A'), (3, 'ä'), (4, null)"),
    ];
    duckdb::Connection::open(files.duckdb()).unwrap().execute_batch(&statements.join("; ")).unwrap();
    let mut sources = vec![format!("duckdb://{}", files.duckdb().display())];
    #[cfg(feature = "postgres")]
    {
        use crate::support::postgres::postgres;
        postgres().exec(&format!("drop table if exists {table}"));
        postgres().exec("drop type if exists into_members_letter");
        statements.iter().for_each(|sql| drop(postgres().exec(sql)));
        sources.push(postgres().uri("sslmode=disable"));
    }
    let expected: super::Rows = [Some("61"), Some("41"), Some("C3A4"), None]
        .iter()
        .enumerate()
        .map(|(at, member)| vec![Some((at + 1).to_string()), member.map(str::to_owned)])
        .collect();
    for source in &sources {
        PLAIN.drop_table(table);
        load_all(source, &PLAIN.uri(), &IngestOptions::new().with_tables([table]));
        let mut there = PLAIN.conn();
        assert_eq!(printed(&mut there, &format!("select id, hex(v) from {table} order by id")), expected, "{source}");
        let declared = "select column_type from information_schema.columns where table_name = 'into_members' and column_name = 'v'";
        assert_eq!(printed(&mut there, declared), [[Some("enum('a','A','ä')".to_owned())]], "{source}");
    }
    PLAIN.drop_table(table);
}
