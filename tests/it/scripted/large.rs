//! A keyspace so large that each VGTID takes 100 kB.

use std::process::Command;

use super::stage::{Destination, KEYSPACE, Stage, copied, fields, is_copy, transaction_of, uri};
use crate::support::program;
use crate::vtgate::events::{Shard, all_copied};
use crate::vtgate::mysql::{self, Answer};
use crate::vtgate::proto::ShardGtid;
use crate::vtgate::{Ending, Gone, Responder};

const SHARDS: u16 = 128;
/// Transactions of each shard after its copy.
const LAST: u32 = 33;
/// What a run may take, however large a VGTID is.
const MEMORY: u64 = 500 << 20;

/// The GTID set of a shard that has had many primaries: 800 bytes.
fn history(count: u32) -> String {
    let primaries: Vec<String> =
        (0..18).map(|primary| format!("5a0b0c0d-{primary:04x}-11ef-8a2b-0242ac120002:1-{}", 10_000 + primary)).collect();
    format!("{},ffffffff-1111-11ef-8a2b-0242ac120002:1-{count}", primaries.join(","))
}

/// A shard's place among equal ranges of keys.
fn shard(number: u16) -> Shard {
    let bound = |number: u16| if number == 0 || number == SHARDS { String::new() } else { format!("{:02x}", number * (256 / SHARDS)) };
    Shard::new(KEYSPACE, &format!("{}-{}", bound(number), bound(number + 1)))
}

fn positions(counts: &[u32]) -> Vec<ShardGtid> {
    (0..).zip(counts).map(|(number, count)| shard(number).gtid(&format!("MySQL56/{}", history(*count)))).collect()
}

fn stream(responder: &mut Responder) -> Result<Ending, Gone> {
    let mut counts = vec![1; usize::from(SHARDS)];
    for round in 2..=LAST {
        for number in 0..SHARDS {
            let of = shard(number);
            counts[usize::from(number)] = round;
            let id = i64::from(number);
            let (before, after) = (format!("name {}", round - 1), format!("name {round}"));
            let change = (Some((id, before.as_str())), Some((id, after.as_str())));
            responder.send(transaction_of(&of, &[change], of.vgtid_of(positions(&counts))))?;
        }
    }
    responder.stall();
    Ok(Ending::Ok)
}

fn copy(responder: &mut Responder) -> Result<Ending, Gone> {
    let counts = vec![1; usize::from(SHARDS)];
    for number in 0..SHARDS {
        let of = shard(number);
        let row = of.row_insert("t", &[Some(&number.to_string()), Some("name 1")]);
        let vgtid = || of.vgtid_of(positions(&counts));
        responder.send(copied([of.begin(), of.field("t", &fields()), vgtid(), row, vgtid(), of.commit(), of.copy_completed()]))?;
    }
    responder.send([all_copied()])?;
    Ok(Ending::Ok)
}

#[test]
fn a_vgtid_of_100_kb_in_each_of_4000_transactions_is_followed_within_the_memory_for_a_run() {
    let size =
        positions(&vec![LAST; usize::from(SHARDS)]).iter().map(|at| at.gtid.len() + at.shard.len() + at.keyspace.len()).sum::<usize>();
    assert!(size > 100_000, "{size}");
    let names: Vec<&'static str> = (0..SHARDS).map(|number| &*shard(number).shard.leak()).collect();
    let stage = Stage::new(1).shards(&names).answering(|statement| match statement {
        "SELECT @@global.gtid_executed, @@global.gtid_purged" => Answer::Rows {
            columns: vec![mysql::Column::text("executed"), mysql::Column::text("purged")],
            rows: vec![vec![Some(history(LAST).into_bytes()), Some(Vec::new())]],
        },
        _ => Answer::Unscripted,
    });
    let server = stage.start(|request, responder| if is_copy(&request.message) { copy(responder) } else { stream(responder) });
    let destination = Destination::new();
    let output = Command::new(program("ingest"))
        .args(["--source-uri", &uri(&server, ""), "--dest-uri", &destination.uri(), "--progress", "off", "--report", "json"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected: Vec<String> = (0..SHARDS).map(|id| format!("{id} name {LAST}")).collect();
    assert_eq!(destination.rows(), expected);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["tables"][0]["rows_updated"], u32::from(SHARDS) * (LAST - 1));
    let peak = report["peak_memory_bytes"].as_u64().unwrap();
    assert!(peak < MEMORY, "{} MiB", peak >> 20);
}
