//! Short ways to write events.

use super::proto::{
    Field, FieldEvent, Journal, KeyspaceShard, QueryResult, Row, RowChange, RowEvent, ShardGtid, TableLastPK, VEvent, VGtid,
    row_change::Bitmap,
};

// binlogdata.VEventType.
pub const BEGIN: i32 = 2;
pub const COMMIT: i32 = 3;
pub const DDL: i32 = 5;
pub const OTHER: i32 = 11;
pub const ROW: i32 = 12;
pub const FIELD: i32 = 13;
pub const HEARTBEAT: i32 = 14;
pub const VGTID: i32 = 15;
pub const JOURNAL: i32 = 16;
pub const COPY_COMPLETED: i32 = 20;

/// vtgate's own heartbeat: no shard, no position.
pub fn heartbeat() -> VEvent {
    VEvent { type_: HEARTBEAT, ..Default::default() }
}

/// The event that ends the copy of all shards.
pub fn all_copied() -> VEvent {
    VEvent { type_: COPY_COMPLETED, ..Default::default() }
}

/// A column of a FIELD event. `column_type` as MySQL writes it, for example `varchar(20)` or `bigint unsigned`.
pub fn column(name: &str, column_type: &str) -> Field {
    let word = column_type.split(['(', ' ']).next().unwrap_or_default();
    let unsigned = column_type.contains("unsigned");
    // query.Type, and a collation: 63 is binary, which numbers and times have too.
    let (type_, charset) = match word {
        "tinyint" => (if unsigned { 770 } else { 257 }, 63),
        "smallint" => (if unsigned { 772 } else { 259 }, 63),
        "mediumint" => (if unsigned { 774 } else { 261 }, 63),
        "int" => (if unsigned { 776 } else { 263 }, 63),
        "bigint" => (if unsigned { 778 } else { 265 }, 63),
        "float" => (1035, 63),
        "double" => (1036, 63),
        "decimal" => (18, 63),
        "year" => (785, 63),
        "timestamp" => (2061, 63),
        "date" => (2062, 63),
        "time" => (2063, 63),
        "datetime" => (2064, 63),
        "bit" => (2073, 63),
        "char" => (6167, 255),
        "varchar" => (6165, 255),
        "text" | "tinytext" | "mediumtext" | "longtext" => (6163, 255),
        "binary" => (10264, 63),
        "varbinary" => (10262, 63),
        "blob" | "tinyblob" | "mediumblob" | "longblob" => (10260, 63),
        "enum" => (2074, 255),
        "set" => (2075, 255),
        "json" => (2078, 63),
        "geometry" | "point" => (2077, 63),
        other => panic!("no such column type here: {other}"),
    };
    let flags = if unsigned { 32 } else { 0 } | if charset == 63 { 128 } else { 0 };
    Field { name: name.into(), type_, charset, flags, column_type: column_type.into(), ..Default::default() }
}

/// A column of the primary key.
pub fn key(name: &str, column_type: &str) -> Field {
    let mut field = column(name, column_type);
    // NOT_NULL and PRI_KEY.
    field.flags |= 1 | 2;
    field
}

/// A row from texts; `None` is NULL.
pub fn row(cells: &[Option<&str>]) -> Row {
    row_of_bytes(&cells.iter().map(|cell| cell.map(str::as_bytes)).collect::<Vec<_>>())
}

pub fn row_of_bytes(cells: &[Option<&[u8]>]) -> Row {
    Row {
        lengths: cells.iter().map(|cell| cell.map_or(-1, |cell| i64::try_from(cell.len()).unwrap())).collect(),
        values: cells.iter().flatten().flat_map(|cell| cell.iter().copied()).collect(),
        ..Default::default()
    }
}

/// The bitmap that says which columns are present.
pub fn bitmap(present: &[bool]) -> Bitmap {
    let mut cols = vec![0; present.len().div_ceil(8)];
    for (i, _) in present.iter().enumerate().filter(|(_, present)| **present) {
        cols[i / 8] |= 1 << (i % 8);
    }
    Bitmap { count: i64::try_from(present.len()).unwrap(), cols, ..Default::default() }
}

/// Where events come from: a shard of a keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    pub keyspace: String,
    pub shard: String,
}

impl Shard {
    pub fn new(keyspace: &str, shard: &str) -> Self {
        Self { keyspace: keyspace.into(), shard: shard.into() }
    }

    fn event(&self, type_: i32) -> VEvent {
        VEvent { type_, keyspace: self.keyspace.clone(), shard: self.shard.clone(), timestamp: 1_700_000_000, ..Default::default() }
    }

    /// A table's name as vtgate sends it: with its keyspace.
    fn table(&self, table: &str) -> String {
        format!("{}.{table}", self.keyspace)
    }

    pub fn begin(&self) -> VEvent {
        self.event(BEGIN)
    }

    pub fn commit(&self) -> VEvent {
        self.event(COMMIT)
    }

    pub fn other(&self) -> VEvent {
        self.event(OTHER)
    }

    pub fn copy_completed(&self) -> VEvent {
        self.event(COPY_COMPLETED)
    }

    pub fn ddl(&self, statement: &str) -> VEvent {
        VEvent { statement: statement.into(), ..self.event(DDL) }
    }

    pub fn field(&self, table: &str, columns: &[Field]) -> VEvent {
        let field = FieldEvent {
            table_name: self.table(table),
            fields: columns.to_vec(),
            keyspace: self.keyspace.clone(),
            shard: self.shard.clone(),
            enum_set_string_values: true,
            ..Default::default()
        };
        VEvent { field_event: Some(field).into(), ..self.event(FIELD) }
    }

    /// Any row changes of a table.
    pub fn rows(&self, table: &str, row_changes: Vec<RowChange>) -> VEvent {
        let rows = RowEvent {
            table_name: self.table(table),
            row_changes,
            keyspace: self.keyspace.clone(),
            shard: self.shard.clone(),
            ..Default::default()
        };
        VEvent { row_event: Some(rows).into(), ..self.event(ROW) }
    }

    pub fn row_insert(&self, table: &str, after: &[Option<&str>]) -> VEvent {
        self.rows(table, vec![RowChange { after: Some(row(after)).into(), ..Default::default() }])
    }

    pub fn row_update(&self, table: &str, before: &[Option<&str>], after: &[Option<&str>]) -> VEvent {
        self.rows(table, vec![RowChange { before: Some(row(before)).into(), after: Some(row(after)).into(), ..Default::default() }])
    }

    pub fn row_delete(&self, table: &str, before: &[Option<&str>]) -> VEvent {
        self.rows(table, vec![RowChange { before: Some(row(before)).into(), ..Default::default() }])
    }

    /// This shard's part of a VGTID.
    pub fn gtid(&self, gtid: &str) -> ShardGtid {
        ShardGtid { keyspace: self.keyspace.clone(), shard: self.shard.clone(), gtid: gtid.into(), ..Default::default() }
    }

    /// The same while `table` is being copied, and `last` is the key of the last row.
    pub fn gtid_copying(&self, gtid: &str, table: &str, key: &[Field], last: &[Option<&str>]) -> ShardGtid {
        let lastpk = QueryResult { fields: key.to_vec(), rows: vec![row(last)], ..Default::default() };
        let table_last_pk = TableLastPK { table_name: table.into(), lastpk: Some(lastpk).into(), ..Default::default() };
        ShardGtid { table_p_ks: vec![table_last_pk], ..self.gtid(gtid) }
    }

    /// A VGTID of a keyspace with this shard alone.
    pub fn vgtid(&self, gtid: &str) -> VEvent {
        self.vgtid_of(vec![self.gtid(gtid)])
    }

    /// A VGTID of all shards, sent because this one moved.
    pub fn vgtid_of(&self, shard_gtids: Vec<ShardGtid>) -> VEvent {
        VEvent { vgtid: Some(VGtid { shard_gtids, ..Default::default() }).into(), ..self.event(VGTID) }
    }

    /// The journal of a split or merge.
    pub fn journal(&self, participants: &[Shard], shard_gtids: Vec<ShardGtid>) -> VEvent {
        let participant = |of: &Shard| KeyspaceShard { keyspace: of.keyspace.clone(), shard: of.shard.clone(), ..Default::default() };
        let journal = Journal {
            id: 1,
            migration_type: 1,
            shard_gtids,
            participants: participants.iter().map(participant).collect(),
            ..Default::default()
        };
        VEvent { journal: Some(journal).into(), ..self.event(JOURNAL) }
    }
}
