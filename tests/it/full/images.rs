//! Row images that do not hold whole rows, as sessions of a writer may choose to log them.

use planetscale_ingest::{ErrorKind, IngestOptions, TableState};

use crate::capture::fixture::{BOTH, Destination, Kind, create_with};
use crate::support::cluster::{Keyspace, in_peace};
use crate::support::servers::{Server, vitess_full};

const COLUMNS: &str = "id bigint not null primary key, a varchar(20), b text, n int not null default 5, j json, t text default ('made up'), g blob, \
     v varchar(10) default 'literal'";
const DOCUMENT: &str = r#"{"x": 1, "y": [1, 2, 3], "z": "long enough that a part of it is worth less than the whole"}"#;

/// A captured table, and what has to be said on the tablet to change it.
struct Captured {
    server: &'static Server,
    keyspace: &'static str,
    tablet: String,
    uri: String,
    table: String,
    options: IngestOptions,
    destination: Destination,
}

impl Captured {
    fn new(name: &str, kind: Kind) -> Self {
        Self::new_in("commerce", name, kind)
    }

    fn new_in(keyspace: &'static str, name: &str, kind: Kind) -> Self {
        let server = vitess_full();
        let uri = server.cdc_uri(keyspace);
        let table = format!("images_{name}_{kind:?}").to_lowercase();
        create_with(server, keyspace, &table, COLUMNS);
        let captured = Self {
            server,
            keyspace,
            tablet: server.primary_of(keyspace, "0"),
            uri,
            options: IngestOptions::new().with_tables([&table]),
            table,
            destination: Destination::new(kind),
        };
        let row = |id: u32| format!("({id}, 'a{id}', 'b{id}', {id}, '{DOCUMENT}', 'g{id}')");
        let rows: Vec<String> = (1..8).map(row).collect();
        captured.change("", &format!("insert into {{}} (id, a, b, n, j, g) values {}", rows.join(", ")));
        captured.destination.capture_all(&captured.uri, &captured.options);
        captured
    }

    /// In a session of its own, past Vitess.
    fn change(&self, setting: &str, statements: &str) {
        self.server.on_tablet(&self.tablet, &format!("use vt_{}; {setting}; {}", self.keyspace, statements.replace("{}", &self.table)));
    }

    fn source(&self) -> Vec<Vec<String>> {
        let sql = format!("use vt_{}; select id, a, b, n, j, t, g, v from {} order by id", self.keyspace, self.table);
        let printed = self.server.on_tablet(&self.tablet, &sql);
        printed.lines().skip(1).map(|line| line.split('\t').map(str::to_owned).collect()).collect()
    }

    fn assert_equals(&self) {
        let blob = if self.destination.kind == Kind::Sqlite { "cast(g as text)" } else { "decode(g)" };
        let sql = format!("select id, a, b, n, j, t, {blob}, v from {} where not _cdc_deleted order by id", self.table);
        let found = self.destination.query(&sql);
        let found: Vec<Vec<String>> =
            found.into_iter().map(|row| row.into_iter().map(|cell| cell.unwrap_or_else(|| "NULL".to_owned())).collect()).collect();
        assert_eq!(found, self.source(), "{:?}", self.destination.kind);
    }

    /// The run fails by an error that says which setting is wrong; the destination stays, and a full refresh mends it.
    fn assert_refused(&self, words: &[&str]) {
        let content = || self.destination.query(&format!("select * from {} order by id", self.table));
        let before = content();
        // What was committed before the change is handed out first, so that the run has a report.
        let said = match self.destination.capture(&self.uri, &self.options) {
            Ok(report) => match &report.tables[0].state {
                TableState::Failed { error } => error.clone(),
                other => panic!("{other:?}"),
            },
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
                format!("{error:#}")
            }
        };
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        assert_eq!(content(), before);
        self.destination.capture_all(&self.uri, &self.options.clone().with_full_refresh(true));
        self.assert_equals();
    }
}

#[test]
fn noblob_images_leave_the_stored_values_and_new_rows_get_null() {
    let _peace = in_peace("commerce");
    for kind in BOTH {
        let captured = Captured::new("noblob", kind);
        let noblob = "set session binlog_row_image = 'noblob'";
        captured.change(
            noblob,
            "update {} set n = 80 where id = 1; update {} set b = 'new', n = 81 where id = 2; update {} set g = null where id = 3",
        );
        captured.change(noblob, "insert into {} (id, a) values (20, 'x'); insert into {} (id, b, t) values (21, 'b21', 't21')");
        captured.change(noblob, "update {} set a = 'xx' where id = 20; delete from {} where id = 4; update {} set id = 30, b = 'b', t = 't', g = 'g' where id = 5");
        captured.change(noblob, "insert into {} (id) values (6) on duplicate key update a = 'a6'; replace into {} (id, n) values (7, 7)");
        let report = captured.destination.capture_all(&captured.uri, &captured.options);
        assert!(report.tables[0].notes.is_empty(), "{report:?}");
        captured.assert_equals();
        // What is deleted keeps all its values, though the image had few.
        let deleted = captured.destination.query(&format!("select b, t from {} where _cdc_deleted and id = 4", captured.table));
        assert_eq!(deleted, [[Some("b4".to_owned()), Some("made up".to_owned())]]);
    }
}

#[test]
fn a_key_that_changes_in_a_noblob_image_is_refused() {
    let _peace = in_peace("commerce");
    for kind in BOTH {
        let captured = Captured::new("noblob_key", kind);
        captured.change("set session binlog_row_image = 'noblob'", "update {} set id = 30 where id = 1");
        captured.assert_refused(&["binlog_row_image", &captured.table]);
    }
}

#[test]
fn parts_of_json_documents_are_refused_and_never_stored() {
    let _peace = in_peace("commerce");
    for kind in BOTH {
        for change in [
            "update {} set j = json_set(j, '$.x', 2) where id = 3",
            "update {} set j = json_remove(j, '$.y[1]') where id = 3",
            // The document stays as it is, and comes as nothing.
            "update {} set a = 'other' where id = 3",
        ] {
            let captured = Captured::new("partial_json", kind);
            captured.change("set session binlog_row_value_options = 'PARTIAL_JSON'", change);
            captured.assert_refused(&["binlog_row_value_options", &captured.table]);
        }
    }
}

/// Vitess looks at the setting of the server when a stream begins. What a session chooses, it streams.
#[test]
fn minimal_images_of_a_session_are_refused() {
    let _peace = in_peace("commerce");
    for kind in BOTH {
        for change in [
            "update {} set n = 9 where id = 3",
            "insert into {} (id) values (11)",
            "insert into {} (id, a, b, n, j, t, g) values (11, 'a', 'b', 1, '[]', 't', 'g')",
            // The insert alone could be taken.
            "begin; insert into {} (id, a, b, n, j, t, v) values (11, 'a', 'b', 1, '[]', 't', 'v'); update {} set id = 12 where id = 11; commit",
        ] {
            let captured = Captured::new("minimal", kind);
            captured.change("set session binlog_row_image = 'minimal'", change);
            captured.assert_refused(&["binlog_row_image", &captured.table]);
        }
        // A delete needs its key only, and of a new row the values that an expression gives are there.
        let captured = Captured::new("minimal", kind);
        captured.change("set session binlog_row_image = 'minimal'", "delete from {} where id = 3");
        captured.change("set session binlog_row_image = 'minimal'", "insert into {} (id, a, n, j, v) values (11, 'a', 1, '[]', 'v')");
        captured.destination.capture_all(&captured.uri, &captured.options);
        captured.assert_equals();
    }
}

#[test]
fn statements_in_place_of_rows_are_refused() {
    // Of whatever table they are, so that no other may share the keyspace.
    let _peace = in_peace("statements");
    let _keyspace = Keyspace::new("statements", "0", 1);
    for kind in BOTH {
        for change in [
            "update {} set n = 10 where id = 3",
            "insert into {} (id) values (12)",
            "delete from {} where id = 3",
            "replace into {} (id) values (3)",
        ] {
            let captured = Captured::new_in("statements", "statement", kind);
            captured.change("set session binlog_format = 'statement'", change);
            captured.assert_refused(&["binlog_format"]);
        }
    }
}

#[test]
fn a_server_that_logs_minimal_images_is_refused_at_once() {
    let _peace = in_peace("images");
    let keyspace = Keyspace::new("images", "0", 1);
    let destination = Destination::new(Kind::Sqlite);
    let options = IngestOptions::new().with_tables(["t"]);
    create_with(keyspace.server, keyspace.name, "t", COLUMNS);
    keyspace.server.on_tablet(&keyspace.tablets[0], "insert into vt_images.t (id) values (1)");
    destination.capture_all(&keyspace.uri(), &options);
    keyspace.server.on_tablet(&keyspace.tablets[0], "set global binlog_row_image = 'minimal'; insert into vt_images.t (id) values (2)");
    // What vttablet has open keeps the setting that it began with.
    keyspace.server.restart(&format!("vttablet-{}", keyspace.tablets[0]));
    let error = destination.capture(&keyspace.uri(), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.to_string().contains("binlog_row_image"), "{error}");
    let error = Destination::new(Kind::Sqlite).capture(&keyspace.uri(), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
}
