//! Tests that need a process of their own: those that count threads, which other tests have too.

use std::process::Command;
use std::time::{Duration, Instant};

/// Set in the process that runs one test alone.
const ALONE: &str = "INGEST_TEST_ALONE";

/// Whether this process runs the test `name` and no other. Otherwise such a process is started, and its failure is that of this test.
///
/// `name` is the test's path, as `cargo test` prints it.
#[track_caller]
pub fn is_alone(name: &str) -> bool {
    if std::env::var_os(ALONE).is_some_and(|alone| alone == name) {
        return true;
    }
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program).args(["--exact", name, "--nocapture", "--test-threads", "1"]).env(ALONE, name).output().unwrap();
    let [said, complained] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{complained}");
    false
}

/// The names of this process's threads, as far as the system keeps them (15 bytes).
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    // A thread may end between the listing and the reading.
    let mut names: Vec<String> = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok()).collect();
    names.iter_mut().for_each(|name| *name = name.trim_end().to_owned());
    names.sort();
    names
}

/// How many threads there are.
pub fn thread_count() -> usize {
    threads().len()
}

/// Waits until none of the library's threads is left, and no more threads than `count`.
#[track_caller]
pub fn wait_for_threads_to_end(count: usize, limit: Duration) {
    let until = Instant::now() + limit;
    loop {
        let names = threads();
        if names.len() <= count && !names.iter().any(|name| name.starts_with("ingest")) {
            return;
        }
        assert!(Instant::now() < until, "{} threads were there before, and now: {names:?}", count);
        std::thread::sleep(Duration::from_millis(10));
    }
}
