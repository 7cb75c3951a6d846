//! Times change capture from a real vtgate, beside a bare client that only receives the same stream:
//!
//! ```text
//! cargo run --release --features duckdb --example time_capture -- mysql+cdc://user@host:port/keyspace?grpc_port=… [runs] [folder]
//! ```
//!
//! The keyspace must be unsharded, and vtgate's gRPC port plain, since the bare client speaks no TLS. A table of 15 columns and 300,000 rows is
//! made there if it is not there, and 200,000 of its rows are changed in transactions of 100. Measured, each in a process of its own: the copy
//! into a new file, the changes into that file, and a run with nothing to do.

mod timing;

use std::env;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

use futures_core::Stream as _;
use grpcio::{CallOption, ChannelBuilder, Client, EnvBuilder, Marshaller, Method, MethodType};
use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, Sink, Source, SourceOptions, ingest};
use protobuf::{Message as _, MessageField};
use timing::{
    COLUMNS, Measured, Outcome, PART, connect, cpu_seconds, in_child, insert_rows, peak_mib, print_heads, print_line, print_ratio,
};

#[allow(dead_code, unused_imports, unreachable_pub, missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/proto/mod.rs"));
    pub use vtgate::*;
}

const TABLE: &str = "time_capture";
const ROWS: u64 = 300_000;
const CHANGES: u64 = 200_000;
const PER_TRANSACTION: u64 = 100;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [uri, rest @ ..] = arguments.as_slice() else { return Err("usage: time_capture URI [runs] [folder]".into()) };
    if let [what, file, gtid, child] = rest
        && child == "--child"
    {
        measure(uri, what, file, gtid)?.print();
        return Ok(());
    }
    let runs: usize = rest.first().map_or(Ok(3), |text| text.parse())?;
    let folder = rest.get(1).map_or_else(env::temp_dir, Into::into);
    make_table(uri)?;
    let version: Option<String> = connect(uri)?.query_first("SELECT @@version")?;
    println!(
        "{ROWS} rows copied, {CHANGES} changed by {PER_TRANSACTION}, {runs} runs, {}, median (least to most)",
        version.unwrap_or_default()
    );
    print_heads();
    let mut all: [Vec<Measured>; 8] = Default::default();
    for run in 0..runs {
        let file = |kind: &str| format!("{kind}://{}", folder.join(format!("time_capture_{}_{run}.{kind}", std::process::id())).display());
        let (duckdb, sqlite) = (file("duckdb"), file("sqlite"));
        let mut note = |index: usize, arguments: [&str; 3]| -> Outcome<()> {
            all[index].push(in_child(&[uri, arguments[0], arguments[1], arguments[2], "--child"])?);
            Ok(())
        };
        note(0, ["drain copy", "", ""])?;
        note(1, ["capture", &duckdb, ""])?;
        note(2, ["capture", &sqlite, ""])?;
        let before = executed(uri)?;
        change_rows(uri, run as u64)?;
        note(3, ["drain stream", "", &before])?;
        note(4, ["capture", &duckdb, ""])?;
        note(5, ["capture", &sqlite, ""])?;
        note(6, ["capture", &duckdb, ""])?;
        note(7, ["capture", &sqlite, ""])?;
        for uri in [&duckdb, &sqlite] {
            let _ = std::fs::remove_file(uri.split_once("://").map_or("", |(_, path)| path));
        }
    }
    for (name, rows, index) in [
        ("copy, bare client", ROWS, 0),
        ("copy into DuckDB", ROWS, 1),
        ("copy into SQLite", ROWS, 2),
        ("changes, bare client", CHANGES, 3),
        ("changes into DuckDB", CHANGES, 4),
        ("changes into SQLite", CHANGES, 5),
    ] {
        print_line(name, rows, &all[index]);
    }
    for (name, index) in [("nothing to do, DuckDB", 6), ("nothing to do, SQLite", 7)] {
        let (least, median, most) = timing::spread(&all[index], |run| run.seconds);
        println!("{name}: {median:.3} s ({least:.3} to {most:.3})");
    }
    for (name, whole, part) in [
        ("copy into DuckDB / bare client", 1, 0),
        ("copy into SQLite / bare client", 2, 0),
        ("changes into DuckDB / bare client", 4, 3),
        ("changes into SQLite / bare client", 5, 3),
    ] {
        print_ratio(name, &all[whole], &all[part]);
    }
    Ok(())
}

fn measure(uri: &str, what: &str, file: &str, gtid: &str) -> Outcome<Measured> {
    let (begun, cpu) = (Instant::now(), cpu_seconds()?);
    match what {
        "drain copy" => drain(uri, "", |message| {
            // The end comes in a small message; the large ones are rows.
            message.len() < 1024
                && proto::VStreamResponse::parse_from_bytes(message).is_ok_and(|found| found.events.iter().any(|event| event.type_ == 20))
        })?,
        "drain stream" => {
            let stop = executed(uri)?;
            // The VGTID stands just before a transaction's end.
            drain(uri, gtid, |message| {
                let tail = &message[message.len().saturating_sub(400)..];
                tail.windows(stop.len()).any(|found| found == stop.as_bytes())
            })?;
        }
        _ => {
            let source = Source::open(uri)?;
            let mut sink = Sink::open(file)?;
            let report = ingest(&source, &mut sink, &IngestOptions::new().with_tables([TABLE]))?;
            if !report.is_complete() {
                return Err(format!("{report:?}").into());
            }
        }
    }
    Ok(Measured { seconds: begun.elapsed().as_secs_f64(), cpu_seconds: cpu_seconds()? - cpu, peak_mib: peak_mib()? })
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Receives the table's copy or its changes since `gtid`, and looks at nothing but the end.
fn drain(uri: &str, gtid: &str, is_end: impl Fn(&[u8]) -> bool) -> Outcome<()> {
    let options = SourceOptions::from_uri(uri)?;
    let port = options.capture().ok_or("the URI has no grpc_port")?.grpc_port();
    let mut request = proto::VStreamRequest { tablet_type: 1, ..Default::default() };
    let mut shard = proto::ShardGtid { keyspace: options.database().to_owned(), shard: "0".to_owned(), ..Default::default() };
    if !gtid.is_empty() {
        shard.gtid = format!("MySQL56/{gtid}");
    }
    request.vgtid = MessageField::some(proto::VGtid { shard_gtids: vec![shard], ..Default::default() });
    let rule = proto::Rule { match_: TABLE.to_owned(), filter: format!("select * from {TABLE}"), ..Default::default() };
    request.filter = MessageField::some(proto::Filter { rules: vec![rule], ..Default::default() });
    let method: Method<proto::VStreamRequest, Vec<u8>> = Method {
        ty: MethodType::ServerStreaming,
        name: "/vtgateservice.Vitess/VStream",
        req_mar: Marshaller { ser: grpcio::pb_ser, de: grpcio::pb_de },
        resp_mar: Marshaller {
            ser: |_, _| Ok(()),
            de: |mut reader| {
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut reader, &mut bytes).map_err(|error| grpcio::Error::Codec(error.into()))?;
                Ok(bytes)
            },
        },
    };
    let environment = Arc::new(EnvBuilder::new().cq_count(1).build());
    let channel = ChannelBuilder::new(environment).max_receive_message_len(-1).connect(&format!("{}:{port}", options.host()));
    // The stream does not keep its client alive.
    let client = Client::new(channel);
    let mut stream = client.server_streaming(&method, &request, CallOption::default())?;
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match std::pin::Pin::new(&mut stream).poll_next(&mut Context::from_waker(&waker)) {
            Poll::Ready(Some(message)) => {
                if is_end(&message?) {
                    stream.cancel();
                    return Ok(());
                }
            }
            Poll::Ready(None) => return Err("the stream ended".into()),
            Poll::Pending => std::thread::park(),
        }
    }
}

fn executed(uri: &str) -> Outcome<String> {
    let set: Option<String> = connect(uri)?.query_first("SELECT @@global.gtid_executed")?;
    Ok(set.unwrap_or_default().replace('\n', ""))
}

fn make_table(uri: &str) -> Outcome<()> {
    let mut conn = connect(uri)?;
    conn.query_drop(format!("CREATE TABLE IF NOT EXISTS {TABLE} ({COLUMNS})"))?;
    let there: u64 = conn.query_first(format!("SELECT COUNT(*) FROM {TABLE}"))?.unwrap_or(0);
    for count in (there..ROWS).step_by(PART) {
        conn.query_drop(insert_rows(TABLE, count))?;
    }
    Ok(())
}

/// Changes rows in transactions of 100, spread over the table.
fn change_rows(uri: &str, round: u64) -> Outcome<()> {
    let mut conn = connect(uri)?;
    for transaction in 0..CHANGES / PER_TRANSACTION {
        let start = (transaction * 7919 + round * 131) % (ROWS / PER_TRANSACTION) * PER_TRANSACTION + 1;
        conn.query_drop(format!(
            "UPDATE {TABLE} SET small_str = 'round {round} {transaction}', big_int = big_int + 1 WHERE id BETWEEN {start} AND {}",
            start + PER_TRANSACTION - 1
        ))?;
    }
    Ok(())
}
