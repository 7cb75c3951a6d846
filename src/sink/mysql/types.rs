//! How columns are declared, and what columns that are there hold.

use super::encode::{Bounds, literal};
use super::table::DestColumn;
use crate::schema::{Column, ColumnType, Table};
use crate::server::quoted;
use crate::{Error, ErrorKind};

/// What a table is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It is like that of the source.
    Load,
    /// Columns that the source drops are NULL in new rows, so that only the key is NOT NULL.
    Capture,
    /// Like that, and another run may make it at the same moment.
    Checkpoints,
}

/// As long as an index of InnoDB can be, in bytes.
const LONGEST_KEY: usize = 3072;
/// How long a text of another source than MySQL can be in a key.
const KEY_CHARS: u32 = 255;
/// Rows of more bytes than these have their texts elsewhere.
const LONGEST_ROW: usize = 60_000;

/// `CREATE TABLE` for rows of a table; `name` is quoted.
pub(super) fn create_table(name: &str, table: &Table, purpose: Purpose) -> String {
    let key = table.primary_key();
    let is_wide = table.columns().iter().map(derived_bytes).sum::<usize>() > LONGEST_ROW;
    let mut parts = Vec::with_capacity(table.columns().len() + 1);
    for (index, column) in table.columns().iter().enumerate() {
        let is_key = key.contains(&index);
        let is_nullable = !is_key && (column.is_nullable() || purpose != Purpose::Load);
        let null = if is_nullable { "NULL" } else { "NOT NULL" };
        parts.push(format!("{} {} {null}", quoted(column.name()), declared(column, is_key, is_wide)));
    }
    if !key.is_empty() {
        let columns: Vec<&Column> = key.iter().map(|&index| &table.columns()[index]).collect();
        parts.push(format!("PRIMARY KEY ({})", key_parts(&columns).join(", ")));
    }
    format!("CREATE TABLE {name} ({}) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4", parts.join(", "))
}

/// Refuses a table whose key MySQL could only be given of the beginnings of its values, where the source's own is of all of them.
///
/// # Errors
/// `Unsupported`, with the column.
pub(super) fn require_indexable_key(table: &Table) -> crate::Result<()> {
    for &index in table.primary_key() {
        let column = &table.columns()[index];
        if column.key_prefix().is_none() && is_prefixed(&declared(column, true, false)) {
            let message = format!(
                "column `{}` is {} in the key: MySQL could only have a key of the beginning of it, to which rows that are two at the source would be one",
                column.name(),
                column.column_type()
            );
            return Err(Error::new(ErrorKind::Unsupported, message).with_table(table.name()).with_column(column.name()));
        }
    }
    Ok(())
}

/// Whether a column so declared can be in a key with the beginnings of its values only.
fn is_prefixed(declared: &str) -> bool {
    let name = declared.split([' ', '(']).next().unwrap_or_default();
    name.ends_with("text") || name.ends_with("blob")
}

/// Columns of a key, those with the beginning of their values that cannot be indexed whole.
fn key_parts(columns: &[&Column]) -> Vec<String> {
    let declared: Vec<String> = columns.iter().map(|column| declared(column, true, false)).collect();
    let is_cut = |column: &Column, declared: &String| column.key_prefix().is_none() && is_prefixed(declared);
    let pairs = || columns.iter().zip(&declared);
    let cut = pairs().filter(|(column, declared)| is_cut(column, declared)).count();
    let others: usize = pairs().filter(|(column, declared)| !is_cut(column, declared)).map(|(column, _)| key_bytes(column)).sum();
    let part = |(column, declared): (&&Column, &String)| {
        let name = quoted(column.name());
        match column.key_prefix() {
            Some(prefix) => format!("{name}({prefix})"),
            None if is_prefixed(declared) => {
                let bytes = LONGEST_KEY.saturating_sub(others) / cut.max(1);
                format!("{name}({})", (bytes / widest_letter(column.collation())).max(1))
            }
            None => name,
        }
    };
    pairs().map(part).collect()
}

fn key_bytes(column: &Column) -> usize {
    match (column.column_type(), column.key_prefix()) {
        (ColumnType::Text { .. }, Some(prefix)) => prefix as usize * widest_letter(column.collation()),
        (_, Some(prefix)) => prefix as usize,
        (ColumnType::Text { length }, None) => {
            length.map_or(KEY_CHARS as usize, |length| length as usize) * widest_letter(column.collation())
        }
        (ColumnType::Binary { fixed }, None) => fixed.unwrap_or(KEY_CHARS) as usize,
        _ => 32,
    }
}

/// How many bytes a letter takes at most in the character set of a collation.
fn widest_letter(collation: Option<&str>) -> usize {
    match collation.and_then(|collation| collation.split('_').next()) {
        None => 1,
        Some("utf8mb4" | "utf16" | "utf16le" | "utf32" | "gb18030") => 4,
        Some("utf8" | "utf8mb3" | "ujis" | "eucjpms") => 3,
        Some("ucs2" | "big5" | "gbk" | "gb2312" | "sjis" | "cp932" | "euckr") => 2,
        Some(_) => 1,
    }
}

/// What a column adds to its row where nothing but its own type says how it is declared.
fn derived_bytes(column: &Column) -> usize {
    match (column.declared(), column.column_type()) {
        (None, ColumnType::Text { length: Some(length) }) => *length as usize * 4,
        _ => 0,
    }
}

/// The type of a column, with its collation.
pub(super) fn declared(column: &Column, is_key: bool, is_wide: bool) -> String {
    let name = match column.declared() {
        // MySQL shows a question mark for each character of a member beyond U+FFFF, so what the member is cannot be known.
        Some(declared) if is_unsure(column.column_type()) => {
            format!("varchar({})", longest_member(column.column_type()).max(declared.len().min(255)))
        }
        Some(declared) => declared.to_owned(),
        None => derived(column.column_type(), is_key, is_wide),
    };
    let is_text = matches!(column.column_type(), ColumnType::Text { .. } | ColumnType::Enum { .. } | ColumnType::Set { .. });
    match column.collation().filter(|_| is_text) {
        Some(collation) => format!("{name} COLLATE {collation}"),
        // Keys of other sources are told apart by their bytes, and so are members: no two may be the same.
        None if is_text && (is_key || !matches!(column.column_type(), ColumnType::Text { .. })) => {
            format!("{name} COLLATE utf8mb4_0900_bin")
        }
        None if is_text => format!("{name} CHARACTER SET utf8mb4"),
        None => name,
    }
}

fn is_unsure(column_type: &ColumnType) -> bool {
    matches!(column_type, ColumnType::Enum { members } | ColumnType::Set { members } if members.iter().any(|member| member.contains('?')))
}

/// How many characters a value of an ENUM or SET has at most.
fn longest_member(column_type: &ColumnType) -> usize {
    match column_type {
        ColumnType::Enum { members } => members.iter().map(|member| member.chars().count()).max().unwrap_or(0),
        ColumnType::Set { members } => members.iter().map(|member| member.chars().count() + 1).sum(),
        _ => 0,
    }
}

/// How values of other sources are declared, and those of MySQL whose declaration is not known.
fn derived(column_type: &ColumnType, is_key: bool, is_wide: bool) -> String {
    match column_type {
        ColumnType::Boolean => "tinyint(1)".to_owned(),
        ColumnType::Text { length: Some(length) } if is_key || (!is_wide && *length <= 16_000) => {
            format!("varchar({})", if is_key { (*length).min(768) } else { *length })
        }
        ColumnType::Text { .. } if is_key => format!("varchar({KEY_CHARS})"),
        ColumnType::Text { .. } => "longtext".to_owned(),
        ColumnType::Binary { fixed: Some(length) } if *length <= 255 => format!("binary({length})"),
        ColumnType::Binary { .. } if is_key => format!("varbinary({KEY_CHARS})"),
        ColumnType::Binary { .. } | ColumnType::Vector => "longblob".to_owned(),
        // MySQL's own ends in 2038.
        ColumnType::Timestamp { fraction } => format!("datetime({fraction})"),
        ColumnType::Enum { members } => format!("enum({})", members.iter().map(|member| literal(member)).collect::<Vec<_>>().join(",")),
        ColumnType::Set { members } => format!("set({})", members.iter().map(|member| literal(member)).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

/// What rows of the source may be more than a stored column holds.
///
/// # Errors
/// Why it does not hold them.
pub(super) fn holds(stored: &DestColumn, column: &Column, is_key: bool) -> Result<Bounds, String> {
    use ColumnType as T;
    let bounds = Bounds { is_key, ..Bounds::default() };
    let Some(found) = &stored.column_type else { return Err("of a type that is not known".to_owned()) };
    let declares_alike = column.declared().is_some_and(|declared| declared == stored.declared);
    let is_rounded = stored.declared.contains(',') && matches!(found, T::Float | T::Double);
    if is_rounded && !declares_alike {
        return Err("which rounds".to_owned());
    }
    let wrong = || Err(String::new());
    let ok = |is_held: bool| if is_held { Ok(bounds) } else { Err(String::new()) };
    if is_key
        && let (Some(own), Some(other)) = (&stored.collation, column.collation())
        && own != other
        && !own.ends_with("_bin")
    {
        return Err(format!("with the collation {own}, to which keys may be the same that are two at the source ({other})"));
    }
    match (found, column.column_type()) {
        (T::Int { bits, unsigned }, from @ (T::Int { .. } | T::Boolean | T::Year | T::Bit { .. })) => {
            let ((least, most), (from_least, from_most)) = (range(*bits, *unsigned), range_of(from));
            ok(least <= from_least && from_most <= most)
        }
        (T::Year, T::Year) | (T::Date, T::Date) | (T::Double, T::Double | T::Float) | (T::Json, T::Json) => Ok(bounds),
        (T::Float, T::Float) => Ok(Bounds { most: most_of_float(&stored.declared), ..bounds }),
        (T::Double, T::Int { bits, .. }) => ok(*bits <= 32),
        (T::Decimal { precision, scale }, T::Decimal { precision: from, scale: from_scale }) => {
            ok(scale >= from_scale && precision - scale >= from - from_scale)
        }
        (T::Decimal { precision, scale }, from @ (T::Int { .. } | T::Boolean)) => {
            let (least, most) = range_of(from);
            let digits = least.unsigned_abs().max(most.unsigned_abs()).to_string().len();
            ok(usize::from(precision - scale) >= digits)
        }
        (T::Bit { width }, T::Bit { width: from }) => ok(width >= from),
        (T::Bit { .. }, T::Boolean) => Ok(bounds),
        (T::DateTime { .. }, T::Date) => Ok(bounds),
        (T::DateTime { fraction }, T::DateTime { fraction: from } | T::Timestamp { fraction: from })
        | (T::Timestamp { fraction }, T::Timestamp { fraction: from })
        | (T::Time { fraction }, T::Time { fraction: from }) => ok(fraction >= from),
        (T::Text { .. }, T::Text { .. } | T::Enum { .. } | T::Set { .. } | T::Json) => text(stored, column, bounds),
        (T::Enum { members }, T::Enum { members: from }) | (T::Set { members }, T::Set { members: from }) => {
            match from.iter().find(|member| !members.contains(member)) {
                None => Ok(bounds),
                Some(_) => Err("which lacks one of the members".to_owned()),
            }
        }
        (T::Binary { fixed: Some(length) }, T::Binary { fixed: Some(from) }) => ok(length == from),
        (T::Binary { fixed: Some(_) }, _) => wrong(),
        (T::Binary { fixed: None }, T::Binary { .. } | T::Geometry | T::Vector) => {
            Ok(Bounds { bytes: byte_capacity(&stored.declared), ..bounds })
        }
        (T::Geometry, T::Geometry) => ok(declares_alike || stored.declared == "geometry"),
        (T::Vector, T::Vector) => {
            let length = |declared: &str| argument(declared).unwrap_or(2048);
            ok(column.declared().is_none_or(|declared| length(&stored.declared) >= length(declared)))
        }
        _ => wrong(),
    }
}

/// Whether texts that are two keys at the source can be one to a stored column. A source that names no collation tells them apart by their bytes.
pub(super) fn confuses(stored: &DestColumn, column: &Column) -> bool {
    let Some(own) = stored.collation.as_deref().filter(|_| matches!(stored.column_type, Some(ColumnType::Text { .. }))) else {
        return false;
    };
    let regards_spaces = |collation: &str| collation.contains("_0900_") || collation == "binary";
    let is_char = column.declared().is_some_and(|declared| declared.starts_with("char"));
    match column.collation() {
        _ if own == "utf8mb4_0900_bin" || own == "binary" => false,
        None => true,
        Some(other) if own == other => false,
        // To the others `a` is the same with and without spaces at its end.
        Some(other) if own.ends_with("_bin") => regards_spaces(other) && !is_char,
        Some(_) => true,
    }
}

fn text(stored: &DestColumn, column: &Column, bounds: Bounds) -> Result<Bounds, String> {
    let of_source = column.declared().unwrap_or_default();
    if stored.declared == of_source {
        return Ok(bounds);
    }
    let trims = stored.declared.starts_with("char") && !of_source.starts_with("char");
    let longest = match column.column_type() {
        ColumnType::Text { length } => *length,
        from @ (ColumnType::Enum { .. } | ColumnType::Set { .. }) => u32::try_from(longest_member(from)).ok(),
        _ => None,
    };
    let chars = match stored.declared.contains("char") {
        true => argument(&stored.declared).filter(|most| longest.is_none_or(|longest| longest > *most)),
        false => None,
    };
    let is_utf8 = stored.collation.as_ref().is_some_and(|collation| collation.starts_with("utf8"));
    let bytes = byte_capacity(&stored.declared).filter(|most| is_utf8 && longest.is_none_or(|longest| u64::from(longest) * 4 > *most));
    Ok(Bounds { chars, bytes, trims, ..bounds })
}

/// How many bytes a column of texts or bytes without a length in characters holds; `None` for 4 GiB.
fn byte_capacity(declared: &str) -> Option<u64> {
    let name = declared.split([' ', '(']).next().unwrap_or_default();
    match name {
        "tinytext" | "tinyblob" => Some(255),
        "text" | "blob" => Some(65_535),
        "mediumtext" | "mediumblob" => Some(16_777_215),
        "varbinary" => argument(declared).map(u64::from),
        _ => None,
    }
}

/// The greatest number of a `FLOAT(9,2)`.
fn most_of_float(declared: &str) -> Option<f64> {
    let (precision, scale) = declared.split_once('(')?.1.split_once(')')?.0.split_once(',')?;
    let (precision, scale): (i32, i32) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    let digits = "9".repeat(usize::try_from(precision).ok()?);
    digits.parse::<f64>().ok().map(|number| number / 10_f64.powi(scale))
}

/// The number in a type's parentheses.
fn argument(declared: &str) -> Option<u32> {
    let (_, rest) = declared.split_once('(')?;
    rest.split([')', ',']).next()?.trim().parse().ok()
}

fn range(bits: u8, unsigned: bool) -> (i128, i128) {
    match unsigned {
        true => (0, (1 << bits) - 1),
        false => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
    }
}

fn range_of(column_type: &ColumnType) -> (i128, i128) {
    match column_type {
        ColumnType::Int { bits, unsigned } => range(*bits, *unsigned),
        ColumnType::Bit { width } => range(*width, true),
        ColumnType::Year => (0, 2155),
        _ => (0, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(declared: &str, collation: Option<&str>) -> Column {
        let column = Column::new("c", ColumnType::parse(declared).unwrap(), true).with_declared(Some(declared.to_owned()));
        column.with_collation(collation.map(str::to_owned))
    }

    fn stored(declared: &str, collation: Option<&str>) -> DestColumn {
        DestColumn::new("c", declared, collation.map(str::to_owned))
    }

    #[test]
    fn columns_are_declared_as_at_the_source() {
        for (declared_there, collation, expected) in [
            ("tinyint(1)", None, "tinyint(1)"),
            ("int(8) unsigned zerofill", None, "int(8) unsigned zerofill"),
            ("char(9)", Some("latin1_swedish_ci"), "char(9) COLLATE latin1_swedish_ci"),
            ("mediumtext", Some("utf8mb4_bin"), "mediumtext COLLATE utf8mb4_bin"),
            ("enum('a','b')", Some("utf8mb4_0900_ai_ci"), "enum('a','b') COLLATE utf8mb4_0900_ai_ci"),
            ("varbinary(7)", None, "varbinary(7)"),
            ("vector(3)", None, "vector(3)"),
        ] {
            assert_eq!(declared(&column(declared_there, collation), false, false), expected);
        }
    }

    #[test]
    fn columns_of_other_sources_get_types_that_hold_them_and_keys_bounded_ones() {
        let text = ColumnType::Text { length: None };
        let of = |column_type: &ColumnType, is_key| declared(&Column::new("c", column_type.clone(), true), is_key, false);
        assert_eq!(of(&text, false), "longtext CHARACTER SET utf8mb4");
        assert_eq!(of(&text, true), "varchar(255) COLLATE utf8mb4_0900_bin");
        assert_eq!(of(&ColumnType::Binary { fixed: None }, true), "varbinary(255)");
        assert_eq!(of(&ColumnType::Timestamp { fraction: 6 }, false), "datetime(6)");
        assert_eq!(of(&ColumnType::Enum { members: vec!["it's".into()] }, false), r"enum('it\'s') COLLATE utf8mb4_0900_bin");
    }

    #[test]
    fn texts_in_a_key_are_indexed_by_their_beginning() {
        let columns = vec![column("int", None), column("text", Some("utf8mb4_bin"))];
        let table = Table::new("t", columns).with_primary_key(&["c"]).unwrap();
        assert!(create_table("`t`", &table, Purpose::Load).ends_with("PRIMARY KEY (`c`)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"));
        let table = Table::new("t", vec![column("text", Some("utf8mb4_bin"))]).with_primary_key(&["c"]).unwrap();
        assert!(create_table("`t`", &table, Purpose::Load).contains("PRIMARY KEY (`c`(768))"));
    }

    #[test]
    fn a_stored_column_tells_apart_what_the_source_does() {
        let of_file = Column::new("c", ColumnType::Text { length: None }, false);
        for (collation, is_confused) in
            [("utf8mb4_0900_bin", false), ("utf8mb4_bin", true), ("utf8mb4_0900_ai_ci", true), ("latin1_bin", true)]
        {
            assert_eq!(confuses(&stored("varchar(9)", Some(collation)), &of_file), is_confused, "{collation}");
        }
        for (declared, there, here, is_confused) in [
            ("varchar(9)", "utf8mb4_0900_ai_ci", "utf8mb4_0900_ai_ci", false),
            ("varchar(9)", "utf8mb4_0900_ai_ci", "utf8mb4_0900_bin", false),
            ("varchar(9)", "utf8mb4_0900_ai_ci", "utf8mb4_bin", true),
            ("char(9)", "utf8mb4_0900_ai_ci", "utf8mb4_bin", false),
            ("varchar(9)", "latin1_swedish_ci", "utf8mb4_bin", false),
            ("varchar(9)", "utf8mb4_bin", "utf8mb4_bin", false),
        ] {
            assert_eq!(confuses(&stored("varchar(9)", Some(here)), &column(declared, Some(there))), is_confused, "{there} into {here}");
        }
        assert!(!confuses(&stored("bigint", None), &column("bigint", None)));
    }

    #[test]
    fn a_stored_column_holds_what_it_can_hold_exactly() {
        for (there, here, is_held) in [
            ("int", "int", true),
            ("int", "bigint", true),
            ("int unsigned", "int", false),
            ("int unsigned", "bigint", true),
            ("bigint unsigned", "decimal(20,0)", true),
            ("bigint unsigned", "decimal(21,2)", false),
            ("decimal(10,2)", "decimal(12,4)", true),
            ("decimal(10,2)", "decimal(11,4)", false),
            ("float", "double", true),
            ("double", "float", false),
            ("float", "float(9,2)", false),
            ("datetime(3)", "datetime", false),
            ("timestamp(3)", "datetime(6)", true),
            ("datetime", "timestamp", false),
            ("date", "datetime", true),
            ("varchar(9)", "int", false),
            ("binary(4)", "binary(5)", false),
            ("binary(4)", "varbinary(5)", true),
            ("enum('a','b')", "enum('b','a','c')", true),
            ("enum('a','b')", "enum('b')", false),
            ("bit(9)", "smallint unsigned", true),
            ("json", "longtext", true),
            ("varchar(9)", "json", false),
            ("point", "geometry", true),
            ("geometry", "point", false),
            ("vector(3)", "vector(2)", false),
            ("float(9,2)", "float(9,2)", true),
        ] {
            assert_eq!(holds(&stored(here, None), &column(there, None), false).is_ok(), is_held, "{there} into {here}");
        }
        let utf8 = Some("utf8mb4_0900_ai_ci");
        let bounds = |there: &str, here: &str| holds(&stored(here, utf8), &column(there, utf8), false).unwrap();
        assert_eq!(bounds("varchar(9)", "varchar(8)").chars, Some(8));
        assert_eq!(bounds("varchar(9)", "varchar(10)"), Bounds::default());
        assert_eq!(bounds("longtext", "text").bytes, Some(65_535));
        assert_eq!(most_of_float("float(9,2)"), Some(9_999_999.99));
        assert!(bounds("varchar(9)", "char(9)").trims);
        assert!(
            holds(&stored("varchar(9)", utf8), &column("varchar(9)", Some("utf8mb4_bin")), true).is_err(),
            "another collation in a key"
        );
    }
}
