//! A disk without space fails the run and harms nothing: the next one, with space, completes it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{content, error_of, ingest, report, run};
use crate::capture::fixture::{BOTH, Destination, Kind, binary_logs_stay, create, insert_large, source_rows};
use crate::support::servers::vitess;

/// A run under `limit` fails, leaves the destination as it was, and is completed by the next one.
fn assert_survived(kind: Kind, source: &str, table: &str, limit: &str, expected: &str, destination: &Destination) {
    let context = format!("{kind:?} {table}, {limit}");
    let before = content(destination);
    // A signal that is ignored leaves an error in its place.
    let limited = ["bash", "-c", &format!("trap '' XFSZ; {limit}; exec \"$@\""), "bash"].map(str::to_owned);
    let output = run(&[&limited[..], &ingest(source, destination, table)].concat());
    let failed = report(&output.stdout);
    assert_eq!((output.status.code(), failed["state"].as_str()), (Some(1), Some("failed")), "{context}: {failed}");
    let error = error_of(&failed);
    assert!(error.contains(expected) && error.contains(destination.path.to_str().unwrap()), "{context}: {error}");
    assert_eq!(content(destination), before, "{context}");
}

#[test]
fn a_limit_on_the_size_of_files_fails_the_run_and_the_next_one_completes_it() {
    let _logs = binary_logs_stay();
    let server = vitess();
    for kind in BOTH {
        for (what, source) in [("followed", server.cdc_uri("commerce")), ("copied", server.uri("commerce"))] {
            let table = format!("limited_{what}_{kind:?}").to_lowercase();
            let mut conn = create(server, "commerce", &table);
            insert_large(&mut conn, &table, 0..50);
            let destination = Destination::new(kind);
            assert!(run(&ingest(&source, &destination, &table)).status.success());
            insert_large(&mut conn, &table, 50..1_000);
            // In KiB: more than there is, less than the new rows take.
            for limit in [400, 1_500, 3_000] {
                let expected = "a limit on the size of files was reached";
                assert_survived(kind, &source, &table, &format!("ulimit -f {limit}"), expected, &destination);
            }
            let output = run(&ingest(&source, &destination, &table));
            assert_eq!(report(&output.stdout)["state"], "complete");
            match what {
                "followed" => destination.assert_equals(&mut conn, &table),
                _ => assert_copied(&destination, &mut conn, &table),
            }
        }
    }
}

/// Compares a table that was copied whole, and so has no columns of ours.
fn assert_copied(destination: &Destination, conn: &mut mysql::Conn, table: &str) {
    let rows = destination.query(&format!("select id, note from {table}"));
    let found: std::collections::BTreeMap<i64, Option<String>> =
        rows.into_iter().map(|mut row| (row[0].as_deref().unwrap().parse().unwrap(), row.remove(1))).collect();
    let expected: std::collections::BTreeMap<_, _> =
        source_rows(conn, table).into_iter().map(|(id, mut values)| (id, values.remove(2))).collect();
    assert!(found == expected, "{:?} {table}: {} rows, {} expected", destination.kind, found.len(), expected.len());
}

/// A file system of 64 MiB of one's own: what a shell does in it. After the first run it waits for a line. Then it leaves so many KiB of the disk,
/// runs, keeps what that leaves, and runs once more with the whole disk.
const ON_A_SMALL_DISK: &str = r#"
set -u
disk=$1 kept=$2 free=$3; shift 3
mount -t tmpfs -o size=64m none "$disk" || exit
"$@" >/dev/null; echo "first $?"
read -r _
mkdir "$kept/before" "$kept/after" "$kept/again"
cp "$disk"/* "$kept/before"
dd if=/dev/zero of="$disk/filler" bs=64k 2>/dev/null
truncate -s "-${free}K" "$disk/filler"
"$@"; echo "full $?"
rm "$disk/filler"
cp "$disk"/* "$kept/after"
"$@" >/dev/null; echo "again $?"
cp "$disk"/* "$kept/again"
"#;

#[test]
fn a_full_disk_fails_the_run_and_the_next_one_with_space_completes_it() {
    let _logs = binary_logs_stay();
    let server = vitess();
    // A mount of one's own takes a namespace of one's own, and so either the right to have one or to be root.
    let is_allowed = |how: &&str| Command::new("unshare").args([how, "true"]).output().is_ok_and(|output| output.status.success());
    let how = ["-Urm", "-m"].into_iter().find(is_allowed).expect("neither user namespaces nor root: no file system of 64 MiB can be made");
    for kind in BOTH {
        for (what, source) in [("followed", server.cdc_uri("commerce")), ("copied", server.uri("commerce"))] {
            for free in [0, 100, 1_500] {
                let table = format!("full_{what}_{free}_{kind:?}").to_lowercase();
                let mut conn = create(server, "commerce", &table);
                insert_large(&mut conn, &table, 0..50);
                let kept = tempfile::tempdir().unwrap();
                let disk = Destination::new(kind);
                let mut child = Command::new("unshare")
                    .args([how, "bash", "-c", ON_A_SMALL_DISK, "bash"])
                    .args([disk.path.parent().unwrap(), kept.path(), Path::new(&free.to_string())])
                    .args(ingest(&source, &disk, &table))
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
                let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
                let mut next = || lines.next().unwrap_or_else(|| panic!("{kind:?} {what} {free}: the shell has ended"));
                assert_eq!(next(), "first 0");
                insert_large(&mut conn, &table, 50..1_000);
                child.stdin.take().unwrap().write_all(b"\n").unwrap();
                let failed = report(next().as_bytes());
                let context = format!("{kind:?} {what} {free}: {failed}");
                assert_eq!((next().as_str(), failed["state"].as_str()), ("full 1", Some("failed")), "{context}");
                let error = error_of(&failed);
                assert!(error.contains("the disk is full") && error.contains(disk.path.to_str().unwrap()), "{context}");
                assert_eq!(next(), "again 0", "{context}");
                assert!(child.wait().unwrap().success());
                let [before, after, again] = ["before", "after", "again"].map(|folder| {
                    let copy = Destination::new(kind);
                    for entry in std::fs::read_dir(kept.path().join(folder)).unwrap() {
                        let entry = entry.unwrap();
                        std::fs::copy(entry.path(), copy.path.with_file_name(entry.file_name())).unwrap();
                    }
                    copy
                });
                assert_eq!(content(&before), content(&after), "{context}");
                match what {
                    "followed" => again.assert_equals(&mut conn, &table),
                    _ => assert_copied(&again, &mut conn, &table),
                }
            }
        }
    }
}
