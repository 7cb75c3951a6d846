//! PostgreSQL's types, and what they are read as.
//!
//! | PostgreSQL | [`ColumnType`] |
//! | --- | --- |
//! | `boolean` | `Boolean` |
//! | `smallint`, `integer`, `bigint`, `oid` | `Int` |
//! | `numeric(p,s)` that MySQL has too | `Decimal` |
//! | `numeric` of any other kind | `Text`, its digits |
//! | `money` | `Decimal`, as many digits after the point as the server's locale has |
//! | `real`, `double precision` | `Float`, `Double` |
//! | `date` | `Date` |
//! | `timestamp(p)` | `DateTime` |
//! | `timestamp(p) with time zone` | `Timestamp` |
//! | `time(p)` | `Time` |
//! | `interval` | `Text`, or `Time` by [`IntervalType`] |
//! | `char(n)`, `varchar(n)`, `text`, `name`, `"char"`, `uuid` | `Text` |
//! | `bytea` | `Binary` |
//! | `bit(n)` up to 64 | `Bit` |
//! | enums | `Enum` |
//! | `json`, `jsonb` | `Json` |
//! | arrays and composites | `Json`, as `to_json` writes them |
//! | domains | as their base type |
//! | all others (`inet`, ranges, geometric types, `xml`, `time with time zone`, longer bits, …) | `Text`, as the server prints them |

use crate::place::IntervalType;
use crate::schema::ColumnType;
use crate::source::quoted;

/// A type of the server, behind all domains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PgType {
    pub(super) oid: u32,
    /// What stands in parentheses behind its name, in a form of its own; -1 is nothing.
    pub(super) modifier: i32,
    pub(super) class: Class,
}

/// What kind of type it is, as far as that decides how it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Class {
    Base,
    /// With its labels in their order.
    Enum(Vec<String>),
    /// An array or a composite.
    Nested,
}

/// How the bytes of a value are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Boolean,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    /// A number of so many digits, that many of them after the point.
    Numeric {
        precision: u8,
        scale: u8,
    },
    /// A number, as text.
    Digits,
    Text,
    /// Text without the blanks at its end.
    Padded,
    Bytes,
    Date,
    Moment,
    Time,
    Interval,
    Uuid,
    /// A byte that says which version it is, then text.
    Jsonb,
    Bit {
        width: u8,
    },
}

/// How a column is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    AsItIs,
    AsText,
    /// Without a length of the network where that is the whole address.
    Abbreviated,
    AsJson,
    AsNumeric,
}

impl Asked {
    /// What stands in the SELECT.
    pub(super) fn expression(self, column: &str) -> String {
        let name = quoted(column);
        match self {
            Self::AsItIs => name,
            Self::AsText => format!("{name}::pg_catalog.text"),
            Self::Abbreviated => format!("pg_catalog.abbrev({name})"),
            Self::AsJson => format!("pg_catalog.to_json({name})"),
            Self::AsNumeric => format!("{name}::pg_catalog.numeric"),
        }
    }
}

/// How a column is read. `money_scale` is asked for where there is money.
pub(super) fn plan(pg: &PgType, money_scale: u8, interval_type: IntervalType) -> (ColumnType, Form, Asked) {
    let text = |length: Option<u32>| ColumnType::Text { length };
    let as_it_is = |column_type: ColumnType, form: Form| (column_type, form, Asked::AsItIs);
    let int = |bits: u8| ColumnType::Int { bits, unsigned: false };
    match &pg.class {
        Class::Enum(labels) => return as_it_is(ColumnType::Enum { members: labels.clone() }, Form::Text),
        Class::Nested => return (ColumnType::Json, Form::Text, Asked::AsJson),
        Class::Base => {}
    }
    // Lengths are stored with the four bytes of a header.
    let length = || u32::try_from(pg.modifier - 4).ok().filter(|&length| length > 0);
    let fraction = u8::try_from(pg.modifier).ok().filter(|&fraction| fraction <= 6).unwrap_or(6);
    match pg.oid {
        16 => as_it_is(ColumnType::Boolean, Form::Boolean),
        17 => as_it_is(ColumnType::Binary { fixed: None }, Form::Bytes),
        20 => as_it_is(int(64), Form::Int8),
        21 => as_it_is(int(16), Form::Int2),
        23 => as_it_is(int(32), Form::Int4),
        26 => as_it_is(ColumnType::Int { bits: 32, unsigned: true }, Form::Oid),
        25 => as_it_is(text(None), Form::Text),
        19 => as_it_is(text(Some(63)), Form::Text),
        1042 if pg.modifier >= 0 => as_it_is(text(length()), Form::Padded),
        1043 => as_it_is(text(length()), Form::Text),
        114 => as_it_is(ColumnType::Json, Form::Text),
        3802 => as_it_is(ColumnType::Json, Form::Jsonb),
        700 => as_it_is(ColumnType::Float, Form::Float4),
        701 => as_it_is(ColumnType::Double, Form::Float8),
        790 => (
            ColumnType::Decimal { precision: 19, scale: money_scale },
            Form::Numeric { precision: 19, scale: money_scale },
            Asked::AsNumeric,
        ),
        1700 => match digits(pg.modifier) {
            Some((precision, scale)) => as_it_is(ColumnType::Decimal { precision, scale }, Form::Numeric { precision, scale }),
            None => as_it_is(text(None), Form::Digits),
        },
        1082 => as_it_is(ColumnType::Date, Form::Date),
        1083 => as_it_is(ColumnType::Time { fraction }, Form::Time),
        1114 => as_it_is(ColumnType::DateTime { fraction }, Form::Moment),
        1184 => as_it_is(ColumnType::Timestamp { fraction }, Form::Moment),
        1186 if interval_type == IntervalType::Time => as_it_is(ColumnType::Time { fraction: 6 }, Form::Interval),
        1560 if (1..=64).contains(&pg.modifier) => {
            let width = u8::try_from(pg.modifier).unwrap_or(64);
            as_it_is(ColumnType::Bit { width }, Form::Bit { width })
        }
        2950 => as_it_is(text(Some(36)), Form::Uuid),
        869 => (text(None), Form::Text, Asked::Abbreviated),
        _ => (text(None), Form::Text, Asked::AsText),
    }
}

/// Digits in all and after the point of a `numeric` that MySQL has too.
fn digits(modifier: i32) -> Option<(u8, u8)> {
    let packed = modifier.checked_sub(4).filter(|&packed| packed >= 0)?;
    let precision = packed >> 16 & 0xffff;
    // Eleven bits with a sign: since PostgreSQL 15 the point may lie outside of the digits.
    let scale = ((packed & 0x7ff) ^ 1024) - 1024;
    let (precision, scale) = (precision.max(scale).max(precision - scale), scale.max(0));
    let (precision, scale) = (u8::try_from(precision).ok()?, u8::try_from(scale).ok()?);
    (precision <= 65 && scale <= 30).then_some((precision, scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modifiers_of_numbers_are_unpacked() {
        let modifier = |precision: i32, scale: i32| (precision << 16 | scale & 0x7ff) + 4;
        for (precision, scale, expected) in [
            (10, 2, Some((10, 2))),
            (1, 0, Some((1, 0))),
            (65, 30, Some((65, 30))),
            (65, 31, None),
            (66, 0, None),
            // 123000 to 999000, and 0.00012.
            (3, -3, Some((6, 0))),
            (2, 5, Some((5, 5))),
            (1000, -1000, None),
        ] {
            assert_eq!(digits(modifier(precision, scale)), expected, "{precision},{scale}");
        }
        assert_eq!(digits(-1), None);
    }

    #[test]
    fn what_mysql_has_no_type_for_is_text() {
        let base = |oid: u32, modifier: i32| plan(&PgType { oid, modifier, class: Class::Base }, 2, IntervalType::Text);
        let text = ColumnType::Text { length: None };
        assert_eq!(base(869, -1), (text.clone(), Form::Text, Asked::Abbreviated));
        for (oid, modifier) in [(1186, -1), (1266, -1), (1560, 65), (1562, -1), (142, -1), (600, -1), (999_999, -1)] {
            assert_eq!(base(oid, modifier), (text.clone(), Form::Text, Asked::AsText), "{oid}");
        }
        assert_eq!(base(1043, 24), (ColumnType::Text { length: Some(20) }, Form::Text, Asked::AsItIs));
        assert_eq!(base(1560, 64).0, ColumnType::Bit { width: 64 });
        assert_eq!(base(1114, 3).0, ColumnType::DateTime { fraction: 3 });
        assert_eq!(base(790, -1).0, ColumnType::Decimal { precision: 19, scale: 2 });
    }
}
