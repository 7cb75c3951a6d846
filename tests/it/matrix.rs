//! Each strategy into each destination from each source, with a source that changes between the runs.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use mysql::prelude::Queryable;
use planetscale_ingest::{IngestOptions, Sink, Source, Strategy, TableName, TableReport, ingest};

use crate::into_mysql::{ALL, PLAIN, Place, SHARDED, UNSHARDED};
use crate::support::files::{Files, duckdb_rows, printed, sqlite_rows};
#[cfg(feature = "postgres")]
use crate::support::postgres::postgres;

const COLUMNS: &str = "id bigint not null primary key, name varchar(80), amount decimal(12,2), happened datetime(6), seen int";
/// The same as SQLite declares them, where a table with stricter ones is refused.
const LOOSE_COLUMNS: &str = "id bigint not null primary key, name longtext, amount longtext, happened longtext, seen bigint";
const NAMES: &str = "id, name, amount, happened, seen";
const STRATEGIES: [Strategy; 5] = [Strategy::Replace, Strategy::Append, Strategy::Merge, Strategy::DeleteInsert, Strategy::TruncateInsert];
/// What the second run of `delete+insert` is about.
const INTERVAL: RangeInclusive<i64> = 30..=60;

/// Rows by their keys.
type Rows = BTreeMap<i64, Row>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    name: Option<String>,
    amount: String,
    happened: String,
    seen: i64,
}

impl Row {
    /// A row that differs with each version.
    fn new(id: i64, seen: i64, version: i64) -> Self {
        let name = format!("it's {id} \\ \"{version}\" — ünï 🦆");
        Self {
            name: (id % 7 != 0).then_some(name),
            amount: format!("{}.{:02}", id * 13 - version, (id + version) % 100),
            happened: format!("2024-02-{:02} 23:59:{:02}.{:06}", 1 + id % 28, id % 60, id * 100 + version),
            seen,
        }
    }
}

/// The first state: keys 1 to 50, last seen at their keys.
fn before() -> Rows {
    (1..=50).map(|id| (id, Row::new(id, id, 0))).collect()
}

/// The second: some rows are gone, others have changed and were seen later, more are new.
fn after() -> Rows {
    let mut rows = before();
    rows.retain(|id, _| id % 9 != 0);
    for (id, row) in &mut rows {
        if id % 5 == 0 {
            *row = Row::new(*id, 50 + id / 5, 1);
        }
    }
    rows.extend((51..=70).map(|id| (id, Row::new(id, id, 0))));
    rows
}

/// The second state as the strategy can follow it: `append` sees rows that are added only, and `delete+insert` none that leave or enter its interval.
fn after_for(strategy: Strategy) -> Rows {
    match strategy {
        Strategy::Append => (1..=70).map(|id| (id, Row::new(id, id, 0))).collect(),
        Strategy::DeleteInsert => after().into_iter().map(|(id, row)| (id, Row { seen: id, ..row })).collect(),
        _ => after(),
    }
}

/// What a destination holds after a run over each state.
fn expected(strategy: Strategy) -> Rows {
    let (mut rows, new) = (before(), after_for(strategy));
    match strategy {
        Strategy::Replace | Strategy::TruncateInsert | Strategy::Append => return new,
        // Without an interval it begins at the greatest value that is there.
        Strategy::Merge => rows.extend(new.into_iter().filter(|(_, row)| row.seen >= 50)),
        _ => {
            rows.retain(|_, row| !INTERVAL.contains(&row.seen));
            rows.extend(new.into_iter().filter(|(_, row)| INTERVAL.contains(&row.seen)));
        }
    }
    rows
}

#[derive(Clone, Copy)]
enum From {
    Server(Place),
    Sqlite,
    DuckDb,
    #[cfg(feature = "postgres")]
    Postgres,
}

/// A source with one table.
struct Origin {
    from: From,
    table: String,
    files: Files,
}

impl Origin {
    fn new(from: From, table: &str) -> Self {
        let origin = Self { from, table: table.to_owned(), files: Files::new() };
        // Types that hold what the others' do, exactly.
        let elsewhere = |text: &str, decimal: &str, moment: &str| {
            format!("id bigint not null primary key, name {text}, amount {decimal}, happened {moment}, seen int")
        };
        match from {
            From::Server(place) => drop(place.make(table, COLUMNS)),
            From::Sqlite => {
                origin.exec(&format!("create table {table} ({}) strict", elsewhere("text", "text", "text").replace("bigint", "integer")))
            }
            From::DuckDb => origin.exec(&format!("create table {table} ({})", elsewhere("varchar", "decimal(12,2)", "timestamp"))),
            #[cfg(feature = "postgres")]
            From::Postgres => {
                origin.exec(&format!("drop table if exists {table}"));
                origin.exec(&format!("create table {table} ({})", elsewhere("varchar(80)", "numeric(12,2)", "timestamp")));
            }
        }
        origin
    }

    fn uri(&self) -> String {
        match self.from {
            From::Server(place) => place.uri(),
            From::Sqlite => format!("sqlite://{}", self.files.sqlite().display()),
            From::DuckDb => format!("duckdb://{}", self.files.duckdb().display()),
            #[cfg(feature = "postgres")]
            From::Postgres => postgres().uri("sslmode=disable"),
        }
    }

    fn exec(&self, sql: &str) {
        match self.from {
            From::Server(place) => place.conn().query_drop(sql).unwrap_or_else(|error| panic!("{sql}: {error}")),
            From::Sqlite => rusqlite::Connection::open(self.files.sqlite()).unwrap().execute_batch(sql).unwrap(),
            From::DuckDb => duckdb::Connection::open(self.files.duckdb()).unwrap().execute_batch(sql).unwrap(),
            #[cfg(feature = "postgres")]
            From::Postgres => drop(postgres().exec(sql)),
        }
    }

    fn set(&self, rows: &Rows) {
        let quoted = |text: &str| {
            // Only MySQL takes a backslash for more than itself.
            let text = if matches!(self.from, From::Server(_)) { text.replace('\\', "\\\\") } else { text.to_owned() };
            format!("'{}'", text.replace('\'', "''"))
        };
        let amount = |row: &Row| if matches!(self.from, From::Sqlite) { quoted(&row.amount) } else { row.amount.clone() };
        let values: Vec<String> = rows
            .iter()
            .map(|(id, row)| {
                let name = row.name.as_deref().map_or_else(|| "null".to_owned(), quoted);
                format!("({id}, {name}, {}, {}, {})", amount(row), quoted(&row.happened), row.seen)
            })
            .collect();
        self.exec(&format!("delete from {}", self.table));
        self.exec(&format!("insert into {} ({NAMES}) values {}", self.table, values.join(", ")));
    }
}

#[derive(Clone, Copy)]
enum To {
    Server(Place),
    Sqlite,
    DuckDb,
}

impl To {
    fn all() -> Vec<Self> {
        let mut all: Vec<Self> = ALL.into_iter().map(Self::Server).collect();
        all.extend([Self::Sqlite, Self::DuckDb]);
        all
    }

    fn name(self) -> &'static str {
        match self {
            Self::Server(place) => place.name,
            Self::Sqlite => "SQLite",
            Self::DuckDb => "DuckDB",
        }
    }

    fn uri(self, files: &Files) -> String {
        match self {
            Self::Server(place) => place.uri(),
            Self::Sqlite => format!("sqlite://{}", files.sqlite().display()),
            Self::DuckDb => format!("duckdb://{}", files.duckdb().display()),
        }
    }

    /// What the table holds. Places are what all print alike: without the zeros that end a fraction of a second.
    fn rows(self, files: &Files, table: &str) -> Rows {
        let sql = format!("select {NAMES} from {table} order by id");
        let rows = match self {
            Self::Server(place) => printed(&mut place.conn(), &sql),
            Self::Sqlite => sqlite_rows(&files.sqlite(), &sql),
            Self::DuckDb => duckdb_rows(&files.duckdb(), &sql),
        };
        let count = rows.len();
        let found: Rows = rows
            .into_iter()
            .map(|row| {
                let [id, name, amount, happened, seen] = row.try_into().unwrap();
                let [id, seen] = [id, seen].map(|number| number.unwrap().parse().unwrap());
                (id, Row { name, amount: amount.unwrap(), happened: with_six_digits(&happened.unwrap()), seen })
            })
            .collect();
        assert_eq!(found.len(), count, "a key is there twice");
        found
    }
}

fn with_six_digits(moment: &str) -> String {
    let (second, fraction) = moment.split_once('.').unwrap_or((moment, ""));
    format!("{second}.{fraction:0<6}")
}

/// Every strategy from one source into every destination, each twice.
fn check(from: From, name: &str) {
    let (at_source, table) = (format!("matrix_{name}"), format!("matrix_{name}_copy"));
    let origin = Origin::new(from, &at_source);
    for to in To::all() {
        for strategy in STRATEGIES {
            let what = format!("{name} to {} by {strategy:?}", to.name());
            let files = Files::new();
            if let To::Server(place) = to {
                // The server's own rules for a new table of a sharded keyspace are another test's matter.
                place.make(&table, if matches!(from, From::Sqlite) { LOOSE_COLUMNS } else { COLUMNS });
                if !place.is_sharded() {
                    place.drop_table(&table);
                }
            }
            let run = |options: IngestOptions| -> TableReport {
                let source = Source::open(&origin.uri()).unwrap();
                let options = options.with_tables([&at_source]).with_dest_table(TableName::new(&table)).with_strategy(strategy);
                let mut report = ingest(&source, &mut Sink::open(&to.uri(&files)).unwrap(), &options)
                    .unwrap_or_else(|error| panic!("{what}: {error:#}"));
                assert!(report.is_complete(), "{what}: {report:?}");
                report.tables.remove(0)
            };
            let keyed = || match strategy {
                Strategy::Append | Strategy::Merge | Strategy::DeleteInsert => IngestOptions::new().with_incremental_key("seen"),
                _ => IngestOptions::new(),
            };
            origin.set(&before());
            let first = run(keyed());
            assert_eq!((first.rows_read, first.rows_inserted), (50, 50), "{what}: {first:?}");
            assert_eq!(to.rows(&files, &table), before(), "{what}");
            origin.set(&after_for(strategy));
            let second = match strategy {
                Strategy::DeleteInsert => {
                    run(keyed().with_interval_start(INTERVAL.start().to_string()).with_interval_end(INTERVAL.end().to_string()))
                }
                _ => run(keyed()),
            };
            let (found, wanted) = (to.rows(&files, &table), expected(strategy));
            for (id, row) in &wanted {
                assert_eq!(found.get(id), Some(row), "{what}: row {id} after {second:?}");
            }
            assert_eq!(found.len(), wanted.len(), "{what}: {second:?}");
        }
        if let To::Server(place) = to {
            place.drop_table(&table);
        }
    }
    match from {
        From::Server(place) => place.drop_table(&at_source),
        #[cfg(feature = "postgres")]
        From::Postgres => origin.exec(&format!("drop table {at_source}")),
        _ => {}
    }
}

#[test]
fn mysql_to_every_destination_by_every_strategy() {
    check(From::Server(PLAIN), "mysql");
}

#[test]
fn an_unsharded_keyspace_to_every_destination_by_every_strategy() {
    check(From::Server(UNSHARDED), "unsharded");
}

#[test]
fn a_sharded_keyspace_to_every_destination_by_every_strategy() {
    check(From::Server(SHARDED), "sharded");
}

#[test]
fn sqlite_to_every_destination_by_every_strategy() {
    check(From::Sqlite, "sqlite");
}

#[test]
fn duckdb_to_every_destination_by_every_strategy() {
    check(From::DuckDb, "duckdb");
}

#[cfg(feature = "postgres")]
#[test]
fn postgresql_to_every_destination_by_every_strategy() {
    check(From::Postgres, "postgresql");
}
