//! A first look, without any server: `cargo run --example quickstart [FILE.db]`.
//!
//! A vtgate inside this process serves a small shop's database, over real gRPC and MySQL's protocol. The program captures it into an SQLite
//! file: first a snapshot, then, in a second run, what has changed since. A third run finds nothing to do.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use planetscale_ingest::{IngestOptions, Lsn, Report, Sink, Source, ingest};
use rusqlite::Connection;
use rusqlite::types::Value;

#[path = "../tests/vtgate/mod.rs"]
mod vtgate;
use vtgate::shop::Shop;

/// This is all that a program has to do. It does not matter whether it runs for the first time.
fn capture(source_uri: &str, dest_uri: &str) -> planetscale_ingest::Result<Report> {
    let source = Source::open(source_uri)?;
    let mut sink = Sink::open(dest_uri)?;
    ingest(&source, &mut sink, &IngestOptions::new())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let given = std::env::args_os().nth(1).map(PathBuf::from);
    let file = given.clone().unwrap_or_else(|| folder.path().join("shop.db"));
    if given.is_some() && file.exists() {
        return Err(format!("`{}` exists: each start serves a new shop, whose history is not that of an older file", file.display()).into());
    }
    let shop = Shop::start();
    let (source_uri, dest_uri) = (shop.cdc_uri(), format!("sqlite://{}", encoded(&file)?));

    println!("A vtgate in this process serves keyspace `shop` with the tables customers, orders and products.");
    println!("The program opens both ends and calls `ingest`:\n");
    println!("    let source = Source::open({:?})?;", source_uri.replace("secret", "…"));
    println!("    let mut sink = Sink::open({dest_uri:?})?;");
    println!("    let report = ingest(&source, &mut sink, &IngestOptions::new())?;");

    title("First run: a snapshot of every table");
    print_report(&capture(&source_uri, &dest_uri)?);
    println!("\nEach row carries three columns more: the position of its last change, whether it was deleted, and when it changed.");
    println!("Positions are shortened here: a number that orders commits, the row within the commit, and on its last row the VGTID.");
    let destination = Connection::open(&file)?;
    print_tables(&destination)?;

    title("The shop goes on: four transactions at the source");
    shop.commit(|shop| {
        let order = [("id", "1004"), ("customer_id", "3"), ("sku", "TEA-1"), ("quantity", "1"), ("state", "new")];
        shop.insert("orders", order);
        shop.update("products", "TEA-1", "stock", "119");
    });
    shop.commit(|shop| shop.update("orders", "1002", "state", "sent"));
    shop.commit(|shop| shop.delete("orders", "1003"));
    shop.commit(|shop| shop.update("products", "POT-1", "sku", "POT-100"));
    println!("  1. INSERT INTO orders: order 1004; UPDATE products: one TEA-1 less in stock");
    println!("  2. UPDATE orders: 1002 is sent");
    println!("  3. DELETE FROM orders: 1003");
    println!("  4. UPDATE products: POT-1 is called POT-100 now, which changes its primary key");

    title("Second run: it resumes from the stored position and reads only what is new");
    print_report(&capture(&source_uri, &dest_uri)?);
    println!("\nThe deleted order is marked, not removed (`with_hard_delete` removes). A changed key is a delete and an insert:");
    println!("POT-1 is marked, POT-100 is there. Rows that nobody touched keep the positions they had.");
    print_tables(&destination)?;

    title("Third run: nothing to do");
    print_report(&capture(&source_uri, &dest_uri)?);

    println!("\nWhere the next run resumes is stored beside the tables, in the same transactions as the rows:\n");
    print_rows(&destination, "SELECT dest_table, position FROM _ingest_checkpoint ORDER BY dest_table")?;
    if given.is_some() {
        println!("\nThe copy is in {}.", file.display());
    }
    Ok(())
}

fn title(text: &str) {
    println!("\n── {text} ──\n");
}

fn print_report(report: &Report) {
    let mut rows = Vec::new();
    for table in &report.tables {
        let counts = [table.rows_read, table.rows_inserted, table.rows_updated, table.rows_deleted];
        let mut row = vec![table.source.clone()];
        row.extend(counts.map(|count| count.to_string()));
        row.push(table.position.as_deref().map(transactions).unwrap_or_default());
        row.push(format!("{:?}", table.state));
        rows.push(row);
    }
    print_columns(&["table", "read", "inserted", "updated", "deleted", "holds transactions", "state"].map(str::to_owned), &rows);
    println!("in {} ms", report.elapsed.as_millis());
}

/// The GTIDs of a position, without the server's UUID.
fn transactions(position: &str) -> String {
    let Ok(lsn) = position.parse::<Lsn>() else { return position.to_owned() };
    let gtids = lsn.payload().into_iter().flat_map(|vgtid| vgtid.shards());
    gtids.map(|shard| shard.gtid().rsplit(':').next().unwrap_or_default()).collect::<Vec<_>>().join(", ")
}

fn print_tables(destination: &Connection) -> rusqlite::Result<()> {
    for table in ["customers", "orders", "products"] {
        println!("\n{table}");
        print_rows(destination, &format!("SELECT * FROM {table} ORDER BY 1"))?;
    }
    Ok(())
}

fn print_rows(destination: &Connection, query: &str) -> rusqlite::Result<()> {
    let mut statement = destination.prepare(query)?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let rows = statement.query_map([], |row| (0..names.len()).map(|at| Ok(shown(row.get(at)?))).collect())?;
    print_columns(&names, &rows.collect::<rusqlite::Result<Vec<_>>>()?);
    Ok(())
}

fn shown(value: Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        // A checkpoint has a word before its position.
        Value::Text(text) => match text.rsplit_once(' ') {
            Some((word, position)) if position.parse::<Lsn>().is_ok() => format!("{word} {}", shortened(position)),
            _ if text.parse::<Lsn>().is_ok() => shortened(&text),
            _ => text,
        },
        Value::Blob(bytes) => format!("{} bytes", bytes.len()),
    }
}

/// A position without its leading zeros, and with the beginning of its VGTID only.
fn shortened(position: &str) -> String {
    let (number, vgtid) = position.rsplit_once(':').unwrap_or((position, ""));
    let number = number.trim_start_matches('0');
    if vgtid.len() > 4 { format!("…{number}:{}…", &vgtid[..4]) } else { format!("…{number}:{vgtid}") }
}

fn print_columns(names: &[String], rows: &[Vec<String>]) {
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).chain([names[at].chars().count()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    for row in [names].into_iter().chain(rows.iter().map(Vec::as_slice)) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("  {}", cells.join("  ").trim_end());
    }
}

/// A path as a URI takes it.
fn encoded(file: &std::path::Path) -> Result<String, Box<dyn Error>> {
    let path = file.to_str().ok_or("the path has to be UTF-8")?;
    Ok(path.replace('%', "%25").replace('?', "%3F").replace('#', "%23"))
}
