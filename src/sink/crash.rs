//! Every step of a commit is one at which a run may end. Here it does: at each of them in turn, by an error, by an error after the step was done
//! after all, by a connection that is dead from then on, and by SIGKILL. Whatever was the case, the destination then holds what it held
//! before or what it was to hold afterwards, row by row and with the positions that go with them; and the same work done once more leads
//! to the latter. What that is, a replay of the changes into a [`Model`](model::Model) says.

mod faulty;
mod model;
mod script;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use self::faulty::{AT_THE_STEP, Fault};
use self::model::{Model, State, Stored, StoredRow, look};
use self::script::{Script, delete, history, refreshed, row, shape};
use super::{Deletes, Merge, Sink};
use crate::batch::Batch;
use crate::change::{Change, ChangeBatch, Checkpoint, DELETED_COLUMN, LSN_COLUMN, Op};
use crate::schema::{Table, TableName};
use crate::{ErrorKind, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    #[cfg(feature = "sqlite")]
    Sqlite,
    #[cfg(feature = "duckdb")]
    DuckDb,
}

impl Kind {
    fn open(self, path: &Path) -> Result<Sink> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite => Sink::open(&format!("sqlite://{}", path.display())),
            #[cfg(feature = "duckdb")]
            Self::DuckDb => Sink::open(&format!("duckdb://{}?threads=1", path.display())),
        }
    }

    /// To open a DuckDB database takes dozens of milliseconds.
    fn is_quick(self) -> bool {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite => true,
            #[cfg(feature = "duckdb")]
            Self::DuckDb => false,
        }
    }
}

/// Work on a destination that can be done again after any failure.
#[derive(Debug, Clone, Copy)]
enum Work {
    /// Writes the batch of the history with this number.
    Batch(usize, Deletes),
    /// Builds both tables anew.
    Refresh(Deletes),
    /// Replaces table `a` by rows of a generation.
    Replace(i64),
    /// Adds rows of a generation to table `a`.
    Append(i64),
}

impl Work {
    fn perform(self, sink: &mut Sink) -> Result<()> {
        match self {
            Self::Batch(number, deletes) => write_batch(sink, &history(), number, deletes),
            Self::Refresh(deletes) => refresh(sink, deletes),
            Self::Replace(generation) | Self::Append(generation) => {
                let table = loaded_table();
                let mut load = match self {
                    Self::Replace(_) => sink.replace(&TableName::new("a"), &table)?,
                    _ => sink.append(&TableName::new("a"), &table)?,
                };
                let ids: Vec<i64> = loaded(generation).into_keys().collect();
                for ids in ids.chunks(3) {
                    let mut batch = Batch::new(Arc::clone(&table));
                    for &id in ids {
                        batch.push_row(|columns| {
                            columns[0].push_int(id)?;
                            columns[1].push_text("loaded")?;
                            columns[2].push_null();
                            columns[3].push_text("lsn")?;
                            columns[4].push_text("f")
                        })?;
                    }
                    load.write(&batch)?;
                }
                load.commit().map(drop)
            }
        }
    }
}

/// A table that looks like a captured one.
fn loaded_table() -> Arc<Table> {
    shape("a", false, &[LSN_COLUMN, DELETED_COLUMN])
}

fn loaded(generation: i64) -> BTreeMap<i64, StoredRow> {
    let row = StoredRow { values: vec![Some("loaded".into()), None], deleted: false, lsn: "lsn".into() };
    (0..13).map(|id| (generation * 100 + id, row.clone())).collect()
}

/// The tables as the source declares them in the end.
fn declared(name: &str) -> Table {
    let table = if name == "a" { shape("a", false, &["c", "e", "g"]) } else { shape("b", true, &["c"]) };
    Table::clone(&table)
}

/// Resumes both tables and writes what is missing up to the batch with this number, as a run does.
fn write_batch(sink: &mut Sink, history: &[Vec<ChangeBatch>], number: usize, deletes: Deletes) -> Result<()> {
    let concerned: BTreeSet<&str> = history[..=number]
        .iter()
        .flatten()
        .flat_map(|batch| batch.checkpoints().iter().map(Checkpoint::table).collect::<Vec<_>>())
        .collect();
    let mut resumed = Vec::new();
    let mut reached = 0;
    for name in concerned {
        let stored = sink.position(&TableName::new(name), name)?;
        reached = reached.max(stored.as_ref().map_or(0, |stored| stored.checkpoint().ordinal));
        let table = match stored.and_then(|stored| stored.columns) {
            Some(columns) => declared(name).restricted_to(&columns),
            None => Table::clone(&shape(name, false, &[])),
        };
        resumed.push(table);
    }
    let mut merge = sink.merge(deletes)?;
    for table in &resumed {
        merge.add_table(table, &TableName::new(table.name()), false)?;
    }
    for batches in &history[..=number] {
        if batches.iter().any(|batch| batch.checkpoints().iter().any(|checkpoint| checkpoint.ordinal <= reached)) {
            continue;
        }
        let mut batches = batches.clone();
        // Where the first rows come in an older form than the server declares, the machine says so first.
        for table in &resumed {
            let first = batches.iter().flat_map(ChangeBatch::changes).find(|change| change.table().name() == table.name());
            if let Some(Change::Rows(rows)) = first
                && **rows.table() != *table
            {
                let change = Change::Columns { table: Arc::clone(rows.table()), added: Vec::new() };
                batches[0].changes.insert(0, change);
            }
        }
        for batch in &batches {
            merge.write(batch)?;
        }
        break;
    }
    Ok(())
}

fn refresh(sink: &mut Sink, deletes: Deletes) -> Result<()> {
    let mut merge = sink.merge(deletes)?;
    for table in [shape("a", false, &["c"]), shape("b", false, &[])] {
        merge.add_table(&table, &TableName::new(table.name()), true)?;
    }
    for batch in refreshed().iter().flatten() {
        merge.write(batch)?;
    }
    merge.finish_rebuild()
}

fn faulty(kind: Kind, path: &Path, at: Option<usize>, fault: Fault) -> (Sink, Arc<AtomicUsize>) {
    // Opening a DuckDB database takes too long to fail at reads, too, and a process that is killed there has written nothing.
    let reads_are_steps = kind.is_quick() && fault != Fault::Killed;
    faulty::faulty(kind.open(path).unwrap(), at, fault, reads_are_steps)
}

/// A folder in memory where there is one: what is tested here is not the disk.
fn folder() -> TempDir {
    match Path::new("/dev/shm") {
        shm if shm.is_dir() => tempfile::tempdir_in(shm).or_else(|_| tempfile::tempdir()).unwrap(),
        _ => tempfile::tempdir().unwrap(),
    }
}

/// A destination's files.
struct Files {
    folder: TempDir,
}

impl Files {
    fn empty() -> Self {
        Self { folder: folder() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("d")
    }

    fn copy(&self) -> Self {
        let copy = Self::empty();
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.folder.path().join(entry.file_name())).unwrap();
        }
        copy
    }
}

/// Ends the work at each of its steps, and does it once more afterwards. Returns what the work leaves.
fn explore(kind: Kind, base: &Files, work: Work, before: &State, after: &State, faults: &[Fault]) -> Files {
    let done = base.copy();
    let (mut sink, steps) = faulty(kind, &done.path(), None, *faults.first().unwrap_or(&Fault::Refused));
    work.perform(&mut sink).unwrap_or_else(|error| panic!("{kind:?} {work:?}: {error:?}"));
    drop(sink);
    assert_state(&mut kind.open(&done.path()).unwrap(), after, &|| format!("{kind:?} {work:?}"));
    for at in 0..steps.load(Ordering::SeqCst) {
        for fault in faults_at(kind, faults, at) {
            let context = || format!("{kind:?} {work:?}, step {at}, {fault:?}");
            let files = base.copy();
            let mut sink = match fault {
                Fault::Killed => {
                    kill(kind, &files, work, at);
                    None
                }
                _ => {
                    let (mut sink, _) = faulty(kind, &files.path(), Some(at), fault);
                    assert!(work.perform(&mut sink).is_err(), "{}: the failure was not reported", context());
                    // One that lives goes on; whatever the other had open ends with it.
                    Some(sink).filter(|_| fault != Fault::Dead)
                }
            };
            let sink = sink.get_or_insert_with(|| kind.open(&files.path()).unwrap_or_else(|error| panic!("{}: {error:?}", context())));
            let found = look(sink);
            assert!(found == *before || found == *after, "{}: halfway\n{found:#?}\nbefore {before:#?}\nafter {after:#?}", context());
            // Rows that were added are there, whatever was reported.
            if !(matches!(work, Work::Append(_)) && found == *after) {
                work.perform(sink).unwrap_or_else(|error| panic!("{}, and once more: {error:?}", context()));
            }
            assert_state(sink, after, &context);
        }
    }
    done
}

/// SQLite, which is quick to open, ends in each way at every step. DuckDB ends in one way after the other, and is killed, which takes a process
/// more, at every other step: what was done within a transaction is the same to it.
fn faults_at(kind: Kind, faults: &[Fault], at: usize) -> Vec<Fault> {
    let is_slow = !kind.is_quick();
    match faults {
        [Fault::Killed] if is_slow => faults.iter().copied().filter(|_| at.is_multiple_of(2)).collect(),
        _ if is_slow => faults.iter().copied().cycle().skip(at).take(1).collect(),
        _ => faults.to_vec(),
    }
}

fn assert_state(sink: &mut Sink, expected: &State, context: &dyn Fn() -> String) {
    let found = look(sink);
    assert!(found == *expected, "{}: found {found:#?}\nexpected {expected:#?}", context());
    // What the checkpoints say of the tables is so, or resuming is refused.
    for (name, stored) in expected.iter().filter(|(_, stored)| !stored.position.is_empty()) {
        let position = sink.position(&TableName::new(name), name).unwrap_or_else(|error| panic!("{}: {error:?}", context()));
        assert_eq!(position.map(|position| position.checkpoint().to_string()).as_ref(), Some(&stored.position), "{}", context());
    }
}

/// What tells a child what to do: a process of the same tests, in which the test that started it ends elsewhere.
const TOLD: &str = "INGEST_CRASH";

fn kill(kind: Kind, files: &Files, work: Work, at: usize) {
    let told = format!("{kind:?}|{work:?}|{at}|{}", files.path().display());
    let test = format!("sink::crash::{}::sigkill_at_any_step_leaves_what_was_or_what_is_to_be", format!("{kind:?}").to_lowercase());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([&test, "--exact", "--nocapture", "--test-threads=1"])
        .env(TOLD, told)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reached = lines.map_while(std::result::Result::ok).any(|line| line == AT_THE_STEP);
    // By SIGKILL, while it stands at the step.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(reached, "{kind:?} {work:?}: the child ended before step {at}");
}

/// Works until it is killed, in a child; `false` elsewhere.
fn is_killed() -> bool {
    let Ok(told) = std::env::var(TOLD) else { return false };
    let [kind, work, at, path] = told.splitn(4, '|').collect::<Vec<_>>().try_into().unwrap();
    let kind = KINDS.into_iter().find(|known| format!("{known:?}") == kind).unwrap();
    let works = (0..history().len()).map(|number| Work::Batch(number, Deletes::Soft));
    let mut works = works.chain([Work::Refresh(Deletes::Soft), Work::Replace(1), Work::Append(1)]);
    let work = works.find(|known| format!("{known:?}") == work).unwrap();
    let (mut sink, _) = faulty(kind, Path::new(path), Some(at.parse().unwrap()), Fault::Killed);
    work.perform(&mut sink).unwrap();
    true
}

const KINDS: [Kind; cfg!(feature = "sqlite") as usize + cfg!(feature = "duckdb") as usize] = [
    #[cfg(feature = "sqlite")]
    Kind::Sqlite,
    #[cfg(feature = "duckdb")]
    Kind::DuckDb,
];

/// The whole history, batch by batch, then a full refresh, a whole copy, and rows added to it.
fn end_everywhere(kind: Kind, deletes: Deletes, faults: &[Fault]) {
    let mut files = Files::empty();
    let mut model = Model::new(deletes);
    for (number, batches) in history().iter().enumerate() {
        let before = model.state.clone();
        model.write(batches);
        files = explore(kind, &files, Work::Batch(number, deletes), &before, &model.state, faults);
    }
    let before = model.state;
    let mut model = Model::new(deletes);
    refreshed().iter().for_each(|batches| model.write(batches));
    explore(kind, &files, Work::Refresh(deletes), &before, &model.state, faults);
}

/// The same by SIGKILL.
fn kill_everywhere(kind: Kind) {
    if !is_killed() {
        end_everywhere(kind, Deletes::Soft, &[Fault::Killed]);
    }
}

/// A whole copy that takes the place of another, and one that is added to it.
fn end_loads(kind: Kind) {
    let state = |rows| State::from([("a".to_owned(), Stored { columns: vec!["v".into(), "n".into()], rows, position: String::new() })]);
    let both: BTreeMap<_, _> = loaded(0).into_iter().chain(loaded(1)).collect();
    let base = explore(kind, &Files::empty(), Work::Replace(0), &State::new(), &state(loaded(0)), &[]);
    for faults in [&IN_PROCESS[..], &[Fault::Killed]] {
        explore(kind, &base, Work::Replace(1), &state(loaded(0)), &state(loaded(1)), faults);
        explore(kind, &base, Work::Append(1), &state(loaded(0)), &state(both.clone()), faults);
    }
}

/// SplitMix64: small, and good for every seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).unwrap()
    }
}

/// Some changes to a table, which is altered now and then.
fn change_at_random(script: &mut Script, random: &mut Random, table: &mut Arc<Table>, stored: &Stored) {
    let numbers = ["-", "0", "7", "2147483647"];
    let width = table.columns().len() - 1;
    match random.below(12) {
        0 => script.truncate(table),
        1 => {
            let before = script.ordinal.saturating_sub(random.below(3) as u64);
            script.sweep(table, before);
        }
        2 if width < 5 => {
            let names = ["c", "e", "g"];
            let is_wide = random.below(2) == 0 || table.columns()[2].column_type() == shape("a", true, &[]).columns()[2].column_type();
            let grown = shape(table.name(), is_wide, &names[..width - 1]);
            let default = [None, Some("it's"), Some("")][random.below(3)];
            script.columns(&grown, &[(names[width - 2], default)]);
            *table = grown;
        }
        // A row that came in part is there.
        3 if !stored.rows.is_empty() => {
            let id = *stored.rows.keys().nth(random.below(stored.rows.len())).unwrap();
            script.rows_without(table, &[1], [row(Op::Update, id, &["-", numbers[random.below(4)], "p", "p", "p"][..width])]);
        }
        _ => {
            let rows: Vec<_> = (0..1 + random.below(7))
                .map(|_| match (i64::try_from(random.below(12)).unwrap(), random.below(5)) {
                    (id, 0 | 1) => delete(id),
                    (id, op) => {
                        let text = format!("{}", random.below(1_000));
                        let values = [text.as_str(), numbers[random.below(4)], "x", "-", text.as_str()];
                        row([Op::Insert, Op::Update][op % 2], id, &values[..width])
                    }
                })
                .collect();
            script.rows(table, rows);
        }
    }
}

/// Batches of random changes into a database in memory, each by a run of its own, compared with the model after each.
fn write_at_random(kind: Kind, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let mut random = Random(seed);
        let deletes = [Deletes::Soft, Deletes::Hard][random.below(2)];
        let mut sink = kind.open(Path::new(":memory:")).unwrap();
        let mut model = Model::new(deletes);
        let mut tables = ["a", "b"].map(|name| shape(name, false, &[]));
        for name in ["a", "b"] {
            model.state.insert(name.into(), Stored { columns: vec!["v".into(), "n".into()], ..Stored::default() });
        }
        let mut script = Script::new();
        for _ in 0..12 {
            let mut merge = {
                for table in &tables {
                    let context = |error| panic!("{kind:?} seed {seed}, batch {}: {error:?}", script.batches.len());
                    sink.position(&TableName::new(table.name()), table.name()).unwrap_or_else(context);
                }
                sink.merge(deletes).unwrap()
            };
            for table in &tables {
                merge.add_table(table, &TableName::new(table.name()), false).unwrap();
            }
            // Several batches for one commit, which falls due by itself in some places and is asked for in the end.
            for _ in 0..1 + random.below(3) {
                // What a row that comes in part finds is what the model has come to within the batch.
                let mut ahead = model.clone();
                for _ in 0..1 + random.below(5) {
                    let table = &mut tables[random.below(2)];
                    let stored = ahead.state.get(table.name()).cloned().unwrap_or_default();
                    let before = script.changes.len();
                    change_at_random(&mut script, &mut random, table, &stored);
                    ahead.apply(&script.changes[before..]);
                    if random.below(4) == 0 {
                        script.piece();
                    }
                }
                script.commit(&["a", "b"]);
                let number = script.batches.len() - 2;
                for batch in &script.batches[number] {
                    merge.hold(batch).unwrap_or_else(|error| panic!("{kind:?} seed {seed}, batch {number}: {error:?}"));
                }
                model.write(&script.batches[number]);
            }
            let number = script.batches.len() - 2;
            merge.release().unwrap_or_else(|error| panic!("{kind:?} seed {seed}, batch {number}: {error:?}"));
            assert!(!merge.is_holding());
            drop(merge);
            let found = look(&mut sink);
            assert!(found == model.state, "{kind:?} seed {seed}, batch {number}: found {found:#?}\nexpected {:#?}", model.state);
            for (name, stored) in &model.state {
                let sql = format!("SELECT deleted_rows FROM _ingest_checkpoint WHERE dest_table = '{name}'");
                let counted = sink.destination_for_tests().query_text(&sql).unwrap().remove(0).remove(0);
                let deleted = stored.rows.values().filter(|row| row.deleted).count();
                assert_eq!(counted, Some(deleted.to_string()), "{kind:?} seed {seed}, batch {number}");
            }
        }
    }
}

/// A merge into the tables `a` and `b`, which are made if they are not there.
fn merge_of(sink: &mut Sink) -> Merge<'_> {
    let mut merge = sink.merge(Deletes::Soft).unwrap();
    for name in ["a", "b"] {
        merge.add_table(&shape(name, false, &[]), &TableName::new(name), false).unwrap();
    }
    merge
}

/// The destination holds the rows of these batches.
fn assert_rows(sink: &mut Sink, batches: &[Vec<ChangeBatch>], context: &str) {
    let mut model = Model::new(Deletes::Soft);
    batches.iter().for_each(|batches| model.write(batches));
    let rows = |state: State| state.into_iter().map(|(name, stored)| (name, stored.rows)).collect::<Vec<_>>();
    assert_eq!(rows(look(sink)), rows(model.state), "{context}");
}

/// What was written and not committed yet is gone with what fails after it, and with the run. A destination that gathers nothing has it at once.
fn hold_back(kind: Kind) {
    for fails in [true, false] {
        let files = Files::empty();
        let history = history();
        let mut sink = kind.open(&files.path()).unwrap();
        let gathers = sink.destination_for_tests().rows_per_commit().is_some();
        let mut merge = merge_of(&mut sink);
        history[0].iter().for_each(|batch| merge.write(batch).unwrap());
        let held = &history[1][0];
        assert!(held.is_complete());
        assert_eq!((merge.hold(held).unwrap(), merge.is_holding()), (!gathers, gathers), "{kind:?}");
        if fails {
            let mut strange = Script::new();
            strange.rows(&shape("elsewhere", false, &[]), [delete(1)]);
            strange.commit(&["a"]);
            assert!(merge.hold(&strange.batches[0][0]).is_err());
            assert!(merge.release().is_ok(), "there is nothing left to release");
            assert!(merge.hold(held).is_err(), "a run that failed goes on");
        }
        drop(merge);
        assert_rows(&mut sink, &history[..if gathers { 1 } else { 2 }], &format!("{kind:?} {fails}"));
    }
}

/// Somebody else writes between two batches of a run.
fn interfere(kind: Kind) {
    for statement in [
        "UPDATE _ingest_checkpoint SET written_by = 'another' WHERE dest_table = 'b'",
        "UPDATE _ingest_checkpoint SET position = 'copied elsewhere' WHERE dest_table = 'b'",
        "DELETE FROM _ingest_checkpoint WHERE dest_table = 'b'",
    ] {
        let files = Files::empty();
        let history = history();
        let mut sink = kind.open(&files.path()).unwrap();
        let mut merge = merge_of(&mut sink);
        history[..4].iter().flatten().for_each(|batch| merge.write(batch).unwrap());
        merge.destination_for_tests().execute(statement).unwrap();
        // In the middle of a transaction that comes in pieces, too.
        let error = merge.write(&history[4][0]).unwrap_err();
        assert_eq!((error.kind(), error.table()), (ErrorKind::Conflict, Some("b")), "{error:?}");
        assert!(merge.write(&history[4][1]).is_err(), "a run that was refused goes on");
        drop(merge);
        assert_rows(&mut sink, &history[..4], statement);
    }
    // Between the reading of a position and the first batch.
    let files = Files::empty();
    write_batch(&mut kind.open(&files.path()).unwrap(), &history(), 0, Deletes::Soft).unwrap();
    let mut sink = kind.open(&files.path()).unwrap();
    assert!(sink.position(&TableName::new("a"), "a").unwrap().is_some());
    sink.destination_for_tests().execute("UPDATE _ingest_checkpoint SET written_by = 'another'").unwrap();
    let mut merge = sink.merge(Deletes::Soft).unwrap();
    let error = merge.add_table(&shape("a", false, &[]), &TableName::new("a"), false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    drop(merge);
    // While tables are built anew.
    let mut merge = sink.merge(Deletes::Soft).unwrap();
    for table in [shape("a", false, &["c"]), shape("b", false, &[])] {
        merge.add_table(&table, &TableName::new(table.name()), true).unwrap();
    }
    refreshed().iter().flatten().for_each(|batch| merge.write(batch).unwrap());
    merge
        .destination_for_tests()
        .execute("UPDATE _ingest_checkpoint SET written_by = 'another' WHERE dest_table = '_ingest_new_b'")
        .unwrap();
    assert_eq!(merge.finish_rebuild().unwrap_err().kind(), ErrorKind::Conflict);
    drop(merge);
    let mut model = Model::new(Deletes::Soft);
    model.write(&history()[0]);
    assert_eq!(look(&mut sink), model.state);
}

/// A column that was dropped at the source stays with its values; one of that name that is added later is another, whose default all rows get.
fn add_again(kind: Kind) {
    for dropped_for_a_run in [false, true] {
        let files = Files::empty();
        let mut script = Script::new();
        let (with, without) = (shape("a", false, &["c"]), shape("a", false, &[]));
        script.rows(&with, (1..4).map(|id| row(Op::Insert, id, &["v", "1", "old"])));
        script.commit(&["a"]);
        script.rows(&without, [row(Op::Update, 2, &["dropped", "1"])]);
        if dropped_for_a_run {
            script.commit(&["a"]);
        }
        script.rows(&without, [row(Op::Update, 3, &["before", "1"])]);
        script.columns(&with, &[("c", Some("new"))]);
        script.rows(&with, [row(Op::Insert, 5, &["after", "1", "own"])]);
        script.commit(&["a"]);
        script.batches.pop();
        for (batches, table) in script.batches.iter().zip([&with, &without, &without]) {
            let mut sink = kind.open(&files.path()).unwrap();
            let position = sink.position(&TableName::new("a"), "a").unwrap();
            let columns = position.and_then(|position| position.columns);
            let table = match batches[0].changes() {
                // The source declares the column, and the destination has one of that name, which is not it.
                [_, Change::Columns { .. }, ..] if dropped_for_a_run => {
                    let table = with.restricted_to(&columns.unwrap());
                    assert_eq!(table, *without);
                    table
                }
                _ => Table::clone(table),
            };
            let mut merge = sink.merge(Deletes::Soft).unwrap();
            merge.add_table(&table, &TableName::new("a"), false).unwrap();
            batches.iter().for_each(|batch| merge.write(batch).unwrap());
        }
        let found = look(&mut kind.open(&files.path()).unwrap());
        let values: Vec<_> = found["a"].rows.values().map(|row| row.values.last().cloned().flatten().unwrap_or_default()).collect();
        assert_eq!(values, ["new", "new", "new", "own"], "{kind:?}, dropped for a run: {dropped_for_a_run}");
    }
}

const IN_PROCESS: [Fault; 3] = [Fault::Refused, Fault::AnswerLost, Fault::Dead];

#[cfg(feature = "sqlite")]
mod sqlite {
    use super::*;

    #[test]
    fn a_failure_at_any_step_leaves_what_was_or_what_is_to_be_with_soft_deletes() {
        end_everywhere(Kind::Sqlite, Deletes::Soft, &IN_PROCESS);
    }

    #[test]
    fn a_failure_at_any_step_leaves_what_was_or_what_is_to_be_with_hard_deletes() {
        end_everywhere(Kind::Sqlite, Deletes::Hard, &IN_PROCESS);
    }

    #[test]
    fn sigkill_at_any_step_leaves_what_was_or_what_is_to_be() {
        kill_everywhere(Kind::Sqlite);
    }

    #[test]
    fn a_whole_copy_that_ends_at_any_step_leaves_the_table_as_it_was() {
        end_loads(Kind::Sqlite);
    }

    #[test]
    fn a_run_stops_before_it_writes_when_a_checkpoint_is_another_than_it_knows() {
        interfere(Kind::Sqlite);
    }

    #[test]
    fn what_is_held_back_is_gone_with_what_fails_after_it() {
        hold_back(Kind::Sqlite);
    }

    #[test]
    fn a_column_that_is_dropped_and_added_again_is_a_new_one() {
        add_again(Kind::Sqlite);
    }

    #[test]
    fn random_batches_leave_what_a_replay_leaves() {
        write_at_random(Kind::Sqlite, 0..100);
    }
}

#[cfg(feature = "duckdb")]
mod duckdb {
    use super::*;

    #[test]
    fn a_failure_at_any_step_leaves_what_was_or_what_is_to_be_with_soft_deletes() {
        end_everywhere(Kind::DuckDb, Deletes::Soft, &IN_PROCESS);
    }

    #[test]
    fn a_failure_at_any_step_leaves_what_was_or_what_is_to_be_with_hard_deletes() {
        end_everywhere(Kind::DuckDb, Deletes::Hard, &[Fault::AnswerLost, Fault::Dead, Fault::Refused]);
    }

    #[test]
    fn sigkill_at_any_step_leaves_what_was_or_what_is_to_be() {
        kill_everywhere(Kind::DuckDb);
    }

    #[test]
    fn a_whole_copy_that_ends_at_any_step_leaves_the_table_as_it_was() {
        end_loads(Kind::DuckDb);
    }

    #[test]
    fn a_run_stops_before_it_writes_when_a_checkpoint_is_another_than_it_knows() {
        interfere(Kind::DuckDb);
    }

    #[test]
    fn what_is_held_back_is_gone_with_what_fails_after_it() {
        hold_back(Kind::DuckDb);
    }

    #[test]
    fn a_column_that_is_dropped_and_added_again_is_a_new_one() {
        add_again(Kind::DuckDb);
    }

    #[test]
    fn random_batches_leave_what_a_replay_leaves() {
        write_at_random(Kind::DuckDb, 0..8);
    }
}
