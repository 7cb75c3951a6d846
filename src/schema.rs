//! Tables as the source declares them.
//!
//! | MySQL | [`ColumnType`] |
//! | --- | --- |
//! | `TINYINT` to `BIGINT`, `BOOLEAN` (a `TINYINT(1)`) | `Int` |
//! | `YEAR` | `Year` |
//! | `DECIMAL(p,s)` | `Decimal` |
//! | `FLOAT`, `DOUBLE` | `Float`, `Double` |
//! | `BIT(n)` | `Bit` |
//! | `DATE`, `DATETIME(f)`, `TIMESTAMP(f)`, `TIME(f)` | the same names |
//! | `CHAR`, `VARCHAR`, `TINYTEXT` to `LONGTEXT` | `Text` |
//! | `BINARY`, `VARBINARY`, `TINYBLOB` to `LONGBLOB` | `Binary` |
//! | `ENUM`, `SET` | the same names |
//! | `JSON` | `Json` |
//! | `GEOMETRY`, `POINT` and its other kinds | `Geometry` |
//! | `VECTOR(n)` | `Vector` |

use std::fmt;

use crate::batch::ColumnData;
use crate::{Error, ErrorKind, Result};

/// The name of a table at a destination, with the schema it lies in where the destination has schemas.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// The database that the schema is in, where a destination has to say so.
    database: Option<String>,
    schema: Option<String>,
    name: String,
}

impl TableName {
    /// A table in the destination's default schema. The name is taken as it is: dots in it do not separate.
    pub fn new(name: impl Into<String>) -> Self {
        Self { database: None, schema: None, name: name.into() }
    }

    /// The same table in `schema`.
    #[must_use]
    pub fn in_schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = Some(schema.into());
        self
    }

    /// Reads `table` or `schema.table`. A name that itself holds a dot has to be built by [`TableName::new`].
    ///
    /// # Errors
    /// `Config` if a part is empty or there are more than two.
    pub fn parse(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('.').collect();
        match parts.as_slice() {
            [name] if !name.is_empty() => Ok(Self::new(*name)),
            [schema, name] if !schema.is_empty() && !name.is_empty() => Ok(Self::new(*name).in_schema(*schema)),
            _ => Err(Error::config(format!("`{text}` is not a table name; expected `table` or `schema.table`"))),
        }
    }

    /// The table's own name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The schema, where one was given.
    pub fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// The same table, with the name of the database that its schema is in; none of the words that others read have it.
    #[must_use]
    pub(crate) fn in_database(mut self, database: Option<&str>) -> Self {
        self.database = database.map(str::to_owned);
        self
    }

    pub(crate) fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }

    /// Another table in the same schema.
    pub(crate) fn sibling(&self, name: impl Into<String>) -> Self {
        Self { database: self.database.clone(), schema: self.schema.clone(), name: name.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A table of the source: its columns in their order, and which of them form the primary key.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    name: String,
    /// Where the source has schemas, and the table is not in the default one.
    schema: Option<String>,
    columns: Vec<Column>,
    primary_key: Vec<usize>,
}

impl Table {
    pub(crate) fn new(name: impl Into<String>, columns: Vec<Column>) -> Self {
        Self { name: name.into(), schema: None, columns, primary_key: Vec::new() }
    }

    /// The same table, in a schema of the source.
    #[must_use]
    pub(crate) fn in_schema(mut self, schema: Option<String>) -> Self {
        self.schema = schema;
        self
    }

    /// The source's schema that it lies in, where it was named with one.
    pub fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// The same table, keyed by the named columns.
    ///
    /// # Errors
    /// `Schema` if a column does not exist or is named twice.
    pub fn with_primary_key<S: AsRef<str>>(mut self, names: &[S]) -> Result<Self> {
        let mut key = Vec::with_capacity(names.len());
        for name in names {
            let name = name.as_ref();
            let index = self.column_index(name).ok_or_else(|| {
                Error::new(ErrorKind::Schema, format!("table `{}` has no column `{name}` to be its primary key", self.name))
                    .with_table(&self.name)
                    .with_column(name)
            })?;
            if key.contains(&index) {
                return Err(Error::config(format!("the primary key names column `{name}` twice")));
            }
            key.push(index);
        }
        // Of another key nobody says that the beginnings of its values tell rows apart.
        if !self.primary_key.iter().all(|column| key.contains(column)) {
            self.columns.iter_mut().for_each(|column| column.key_prefix = None);
        }
        self.primary_key = key;
        Ok(self)
    }

    /// The name, without keyspace or schema.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The columns in the table's order.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Indexes into [`Table::columns`] in the key's order; empty where there is no primary key.
    pub fn primary_key(&self) -> &[usize] {
        &self.primary_key
    }

    /// Finds a column by its name; MySQL does not regard case in column names.
    pub fn column_index(&self, name: &str) -> Option<usize> {
        self.columns
            .iter()
            .position(|column| column.name == name)
            .or_else(|| self.columns.iter().position(|column| column.name.to_lowercase() == name.to_lowercase()))
    }

    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.column_index(name).map(|index| &self.columns[index])
    }

    /// The same table without the columns that are not among `names`. Columns of the key stay.
    #[must_use]
    pub(crate) fn restricted_to(&self, names: &[String]) -> Self {
        let is_kept = |index: usize| {
            let name = self.columns[index].name.to_lowercase();
            self.primary_key.contains(&index) || names.iter().any(|kept| kept.to_lowercase() == name)
        };
        let kept: Vec<usize> = (0..self.columns.len()).filter(|&index| is_kept(index)).collect();
        Self {
            name: self.name.clone(),
            schema: self.schema.clone(),
            columns: kept.iter().map(|&index| self.columns[index].clone()).collect(),
            primary_key: self.primary_key.iter().filter_map(|key| kept.iter().position(|index| index == key)).collect(),
        }
    }

    /// The table of some of the columns, in the given order, which begins with those of the key.
    pub(crate) fn with_columns_at(&self, columns: &[usize]) -> Self {
        Self {
            name: self.name.clone(),
            schema: self.schema.clone(),
            columns: columns.iter().filter_map(|&column| self.columns.get(column).cloned()).collect(),
            primary_key: (0..self.primary_key.len()).collect(),
        }
    }

    /// The same table with another type for one column.
    #[must_use]
    pub(crate) fn with_column_type(mut self, index: usize, column_type: ColumnType) -> Self {
        if let Some(column) = self.columns.get_mut(index) {
            column.column_type = column_type;
            column.declared = None;
        }
        self
    }

    /// The same table, with columns of bytes in place of those of text.
    #[must_use]
    pub(crate) fn with_text_as_bytes(mut self) -> Self {
        self.columns = self.columns.into_iter().map(Column::into_bytes).collect();
        self
    }

    /// The same table with more columns at its end.
    #[must_use]
    pub(crate) fn with_columns(mut self, columns: impl IntoIterator<Item = Column>) -> Self {
        self.columns.extend(columns);
        self
    }
}

/// A column as the source declares it.
#[derive(Debug, Clone)]
pub struct Column {
    name: String,
    column_type: ColumnType,
    nullable: bool,
    generated: bool,
    collation: Option<String>,
    /// It is text at the source, whose bytes are read as they are.
    text_as_bytes: bool,
    /// MySQL's `COLUMN_TYPE`, where the source is MySQL.
    declared: Option<String>,
    /// Of how many of its characters, or bytes, the source's primary key is; `None`: of all of them.
    key_prefix: Option<u32>,
    /// The type at the source, where its values are no text, but are read as the text that stands for them.
    printed: Option<String>,
}

impl PartialEq for Column {
    /// Without the declaration: FIELD events and versions of MySQL spell one and the same type differently, as in `int` and `int(11)`.
    fn eq(&self, other: &Self) -> bool {
        let parts = |column: &Self| (column.nullable, column.generated, column.text_as_bytes);
        (&self.name, &self.column_type, &self.collation) == (&other.name, &other.column_type, &other.collation)
            && parts(self) == parts(other)
    }
}

impl Column {
    pub(crate) fn new(name: impl Into<String>, column_type: ColumnType, nullable: bool) -> Self {
        Self {
            name: name.into(),
            column_type,
            nullable,
            generated: false,
            collation: None,
            text_as_bytes: false,
            declared: None,
            key_prefix: None,
            printed: None,
        }
    }

    #[must_use]
    pub(crate) fn with_collation(mut self, collation: Option<String>) -> Self {
        self.collation = collation;
        self
    }

    /// The same column, of whose values the source's primary key is of the beginnings only.
    #[must_use]
    pub(crate) fn with_key_prefix(mut self, prefix: Option<u32>) -> Self {
        self.key_prefix = prefix;
        self
    }

    pub(crate) fn key_prefix(&self) -> Option<u32> {
        // A letter has four bytes at most, so that these tell apart what the letters do.
        self.key_prefix.map(|letters| if self.text_as_bytes { letters.saturating_mul(4) } else { letters })
    }

    /// The type as MySQL declares it, which tells more than [`ColumnType`] does: `CHAR` from `VARCHAR`, `TEXT` from `LONGTEXT`.
    #[must_use]
    pub(crate) fn with_declared(mut self, declared: Option<String>) -> Self {
        self.declared = declared;
        self
    }

    pub(crate) fn declared(&self) -> Option<&str> {
        self.declared.as_deref()
    }

    /// Says of a column that is read as text that it is of another type at the source, whose values have another order than the text: `9` and `10`.
    #[must_use]
    pub(crate) fn printed_of(mut self, source_type: Option<String>) -> Self {
        self.printed = source_type;
        self
    }

    /// The type at the source of values that are read as text though they are none.
    pub(crate) fn printed(&self) -> Option<&str> {
        self.printed.as_deref()
    }

    #[must_use]
    pub(crate) fn generated(mut self, generated: bool) -> Self {
        self.generated = generated;
        self
    }

    /// The same column, read as bytes if it is text.
    #[must_use]
    pub(crate) fn into_bytes(mut self) -> Self {
        if matches!(self.column_type, ColumnType::Text { .. }) {
            self.column_type = ColumnType::Binary { fixed: None };
            self.text_as_bytes = true;
            self.declared = None;
        }
        self
    }

    /// The name as the source spells it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type.
    pub fn column_type(&self) -> &ColumnType {
        &self.column_type
    }

    /// Whether the column can hold NULL.
    pub fn is_nullable(&self) -> bool {
        self.nullable
    }

    /// Whether the source computes the column. Such columns are read like any other.
    pub fn is_generated(&self) -> bool {
        self.generated
    }

    /// Whether this is a column of text whose bytes are read as they are, by [`MalformedText::Bytes`](crate::MalformedText::Bytes).
    pub fn is_text_as_bytes(&self) -> bool {
        self.text_as_bytes
    }

    /// The collation of text, `ENUM` and `SET` (`utf8mb4_0900_ai_ci`), whose name begins with that of its character set; `None` for other types, and
    /// where the source does not say.
    pub fn collation(&self) -> Option<&str> {
        self.collation.as_deref()
    }
}

/// The type of a column, with everything that its values need to be exact.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ColumnType {
    /// A truth value. MySQL has none: this is the type of `_cdc_deleted`.
    Boolean,
    /// A whole number of 8, 16, 24, 32 or 64 bits.
    Int {
        /// Width in bits.
        bits: u8,
        /// Whether the range starts at zero.
        unsigned: bool,
    },
    /// 0, or 1901 to 2155.
    Year,
    /// An exact number of up to 65 digits, `scale` of them (at most 30) after the point.
    Decimal {
        /// Digits in all.
        precision: u8,
        /// Digits after the point.
        scale: u8,
    },
    /// IEEE 754, 32 bits.
    Float,
    /// IEEE 754, 64 bits.
    Double,
    /// 1 to 64 bits.
    Bit {
        /// Number of bits.
        width: u8,
    },
    /// `0000-00-00` to `9999-12-31`, days and months of zero included.
    Date,
    /// A date and a time of day without a zone.
    DateTime {
        /// Digits of the fraction of a second, 0 to 6.
        fraction: u8,
    },
    /// A moment in UTC, 1970 to 2038.
    Timestamp {
        /// Digits of the fraction of a second, 0 to 6.
        fraction: u8,
    },
    /// -838:59:59.000000 to 838:59:59.000000.
    Time {
        /// Digits of the fraction of a second, 0 to 6.
        fraction: u8,
    },
    /// Characters. `length` counts characters where it was declared (`CHAR`, `VARCHAR`).
    Text {
        /// The declared length in characters.
        length: Option<u32>,
    },
    /// Bytes. `fixed` is the length of a `BINARY(n)`, whose values are padded with zero bytes to it.
    Binary {
        /// The length that every value has.
        fixed: Option<u32>,
    },
    /// One of the members, as text.
    Enum {
        /// The members in their order; the first has index 1.
        members: Vec<String>,
    },
    /// Some of the members, as text joined by commas.
    Set {
        /// The members in their order; the first has bit 0.
        members: Vec<String>,
    },
    /// A JSON document, in MySQL's own rendering.
    Json,
    /// A 4-byte little-endian SRID followed by WKB.
    Geometry,
    /// 32-bit floats, little-endian, one after the other.
    Vector,
}

impl ColumnType {
    /// Whether every value of another type is one of this, in the same form.
    pub(crate) fn holds(&self, narrower: &Self) -> bool {
        match (self, narrower) {
            (Self::Int { bits, unsigned }, Self::Int { bits: other, unsigned: same }) => bits >= other && unsigned == same,
            (Self::Decimal { precision, scale }, Self::Decimal { precision: other, scale: same }) => precision >= other && scale == same,
            (Self::Text { length }, Self::Text { length: other }) => length.is_none_or(|length| other.is_some_and(|other| length >= other)),
            _ => self == narrower,
        }
    }

    /// The type of bytes in place of that of text; others stay.
    #[must_use]
    pub(crate) fn into_bytes(self) -> Self {
        match self {
            Self::Text { .. } => Self::Binary { fixed: None },
            other => other,
        }
    }

    /// Whether values of both types lie in the same kind of memory, so that a column can go on after its declaration has changed.
    pub(crate) fn is_stored_like(&self, other: &Self) -> bool {
        std::mem::discriminant(ColumnData::new(self).values()) == std::mem::discriminant(ColumnData::new(other).values())
    }

    /// Reads MySQL's `COLUMN_TYPE`, as it stands in `information_schema.columns` and in VStream's FIELD event. Unlike VStream's wire type,
    /// which is that of bytes for text with a `_bin` collation, it always tells text from bytes.
    pub(crate) fn parse(declared: &str) -> Result<Self> {
        let mut lexer = Lexer { rest: declared.trim() };
        let name = lexer.word().to_ascii_lowercase();
        let arguments = lexer.arguments()?;
        let modifiers = lexer.rest.to_ascii_lowercase();
        let unsigned = modifiers.split_whitespace().any(|word| word == "unsigned" || word == "zerofill");
        let bad = || Error::new(ErrorKind::Schema, format!("column type `{declared}` cannot be read"));
        let number = |index: usize| -> Result<Option<u32>> {
            match arguments.get(index) {
                None => Ok(None),
                Some(text) => text.trim().parse().map(Some).map_err(|_| bad()),
            }
        };
        let small = |index: usize, default: u8| -> Result<u8> {
            number(index)?.map_or(Ok(default), |found| u8::try_from(found).map_err(|_| bad()))
        };
        let fraction = || small(0, 0).and_then(|digits| if digits <= 6 { Ok(digits) } else { Err(bad()) });
        Ok(match name.as_str() {
            "tinyint" | "bool" | "boolean" => Self::Int { bits: 8, unsigned },
            "smallint" => Self::Int { bits: 16, unsigned },
            "mediumint" => Self::Int { bits: 24, unsigned },
            "int" | "integer" => Self::Int { bits: 32, unsigned },
            "bigint" => Self::Int { bits: 64, unsigned },
            "year" => Self::Year,
            "decimal" | "numeric" | "dec" | "fixed" => {
                let (precision, scale) = (small(0, 10)?, small(1, 0)?);
                if precision == 0 || precision > 65 || scale > 30 || scale > precision {
                    return Err(bad());
                }
                Self::Decimal { precision, scale }
            }
            "float" => match (number(0)?, arguments.len()) {
                (Some(bits), 1) if bits > 24 => Self::Double,
                _ => Self::Float,
            },
            "double" | "real" => Self::Double,
            "bit" => {
                let width = small(0, 1)?;
                if width == 0 || width > 64 {
                    return Err(bad());
                }
                Self::Bit { width }
            }
            "date" => Self::Date,
            "datetime" => Self::DateTime { fraction: fraction()? },
            "timestamp" => Self::Timestamp { fraction: fraction()? },
            "time" => Self::Time { fraction: fraction()? },
            "char" | "varchar" | "character" | "nchar" | "nvarchar" => Self::Text { length: Some(number(0)?.unwrap_or(1)) },
            "tinytext" | "text" | "mediumtext" | "longtext" => Self::Text { length: None },
            "binary" => Self::Binary { fixed: Some(number(0)?.unwrap_or(1)) },
            "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => Self::Binary { fixed: None },
            "enum" => Self::Enum { members: arguments },
            "set" => Self::Set { members: arguments },
            "json" => Self::Json,
            "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring" | "multipolygon" | "geomcollection"
            | "geometrycollection" => Self::Geometry,
            "vector" => Self::Vector,
            _ => return Err(Error::new(ErrorKind::Unsupported, format!("column type `{declared}` is not known"))),
        })
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = |unsigned: &bool| if *unsigned { " unsigned" } else { "" };
        match self {
            Self::Boolean => f.write_str("boolean"),
            Self::Int { bits, unsigned } => {
                let name = match bits {
                    8 => "tinyint",
                    16 => "smallint",
                    24 => "mediumint",
                    32 => "int",
                    _ => "bigint",
                };
                write!(f, "{name}{}", sign(unsigned))
            }
            Self::Year => f.write_str("year"),
            Self::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            Self::Float => f.write_str("float"),
            Self::Double => f.write_str("double"),
            Self::Bit { width } => write!(f, "bit({width})"),
            Self::Date => f.write_str("date"),
            Self::DateTime { fraction } => write!(f, "datetime({fraction})"),
            Self::Timestamp { fraction } => write!(f, "timestamp({fraction})"),
            Self::Time { fraction } => write!(f, "time({fraction})"),
            Self::Text { length: Some(length) } => write!(f, "varchar({length})"),
            Self::Text { length: None } => f.write_str("text"),
            Self::Binary { fixed: Some(length) } => write!(f, "binary({length})"),
            Self::Binary { fixed: None } => f.write_str("blob"),
            Self::Enum { members } => write!(f, "enum of {} members", members.len()),
            Self::Set { members } => write!(f, "set of {} members", members.len()),
            Self::Json => f.write_str("json"),
            Self::Geometry => f.write_str("geometry"),
            Self::Vector => f.write_str("vector"),
        }
    }
}

/// Splits a declared type into its name, its arguments and the rest.
struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    fn word(&mut self) -> &'a str {
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        word
    }

    /// Arguments in parentheses: numbers, or quoted strings in which a quote is doubled and a backslash escapes. MySQL 9.7 prints a backslash as two,
    /// a line feed as `\n`, a carriage return as `\r` and a zero byte as `\0`.
    fn arguments(&mut self) -> Result<Vec<String>> {
        let mut arguments = Vec::new();
        let Some(inner) = self.rest.strip_prefix('(') else { return Ok(arguments) };
        let unclosed = || Error::new(ErrorKind::Schema, "a column type has an argument list that does not end");
        let mut rest = inner;
        loop {
            rest = rest.trim_start();
            if let Some(quoted) = rest.strip_prefix('\'') {
                let mut member = String::new();
                let mut characters = quoted.chars();
                loop {
                    match characters.next().ok_or_else(unclosed)? {
                        '\'' => match characters.as_str().strip_prefix('\'') {
                            Some(after) => {
                                member.push('\'');
                                characters = after.chars();
                            }
                            None => break,
                        },
                        '\\' => member.push(match characters.next().ok_or_else(unclosed)? {
                            'n' => '\n',
                            'r' => '\r',
                            '0' => '\0',
                            other => other,
                        }),
                        other => member.push(other),
                    }
                }
                let at = characters.as_str();
                arguments.push(member);
                rest = at.trim_start();
            } else {
                let end = rest.find([',', ')']).ok_or_else(unclosed)?;
                arguments.push(rest[..end].trim().to_owned());
                rest = &rest[end..];
            }
            match rest.chars().next() {
                Some(',') => rest = &rest[1..],
                Some(')') => {
                    self.rest = rest[1..].trim_start();
                    return Ok(arguments);
                }
                _ => return Err(unclosed()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(declared: &str) -> ColumnType {
        ColumnType::parse(declared).unwrap()
    }

    #[test]
    fn declared_types_are_read_as_information_schema_spells_them() {
        assert_eq!(parsed("int"), ColumnType::Int { bits: 32, unsigned: false });
        assert_eq!(parsed("int(8) unsigned zerofill"), ColumnType::Int { bits: 32, unsigned: true });
        assert_eq!(parsed("tinyint(1)"), ColumnType::Int { bits: 8, unsigned: false });
        assert_eq!(parsed("decimal(65,30)"), ColumnType::Decimal { precision: 65, scale: 30 });
        assert_eq!(parsed("decimal(10,0) unsigned"), ColumnType::Decimal { precision: 10, scale: 0 });
        assert_eq!(parsed("float(7,3)"), ColumnType::Float);
        assert_eq!(parsed("datetime(6)"), ColumnType::DateTime { fraction: 6 });
        assert_eq!(parsed("timestamp"), ColumnType::Timestamp { fraction: 0 });
        assert_eq!(parsed("bit(64)"), ColumnType::Bit { width: 64 });
        assert_eq!(parsed("varchar(20)"), ColumnType::Text { length: Some(20) });
        assert_eq!(parsed("binary(4)"), ColumnType::Binary { fixed: Some(4) });
        assert_eq!(parsed("geomcollection"), ColumnType::Geometry);
        assert_eq!(parsed("vector(3)"), ColumnType::Vector);
    }

    #[test]
    fn enum_members_keep_commas_quotes_parentheses_and_backslashes() {
        let ColumnType::Enum { members } = parsed(r"enum('a,b','it''s','(x)','','back\\slash','line\nfeed','\r\0')") else { panic!() };
        assert_eq!(members, ["a,b", "it's", "(x)", "", r"back\slash", "line\nfeed", "\r\0"]);
    }

    #[test]
    fn nonsense_is_an_error() {
        for declared in ["", "enum('a", "decimal(66,2)", "decimal(5,6)", "bit(65)", "datetime(7)", "hologram", "varchar(x)"] {
            assert!(ColumnType::parse(declared).is_err(), "{declared}");
        }
    }
}
