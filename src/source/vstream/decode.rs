//! Row images into columns, by the FIELD event that came before them.
//!
//! Copy and stream send the same value in different forms (`0.50` and `.50`, `00000042` and `42`, `3.99` and `3.99E+00`): what is stored
//! depends on the declared type alone. Nothing is turned into NULL: a value that does not parse is an error.

use crate::batch::ColumnData;
use crate::change::bookkeeping_columns;
use crate::policy::MalformedText;
use crate::schema::{Column, ColumnType, Table};
use crate::source::charset::Charset;
use crate::source::vstream::event::{FieldColumn, FieldEvent, RowImage};
use crate::source::vstream::json::{self, Fidelity};
use crate::value::{DateTime, Time};
use crate::{Error, ErrorKind, Result};

/// How the rows of one table on one shard are to be read.
#[derive(Debug)]
pub(crate) struct FieldPlan {
    /// One for each field, in the order of the event.
    fields: Vec<PlannedField>,
    /// For each column of the table, the field that fills it; `None` where this shard does not have the column.
    sources: Vec<Option<usize>>,
    /// The fields of the primary key, in the key's order.
    key: Vec<usize>,
    malformed: MalformedText,
}

#[derive(Debug)]
struct PlannedField {
    name: String,
    column_type: ColumnType,
    charset: Charset,
    charset_unsaid: bool,
    /// ENUM and SET come as index and mask in the stream, and as strings in the copy.
    ordinals_in_stream: bool,
    is_key: bool,
}

/// What a FIELD event means for the table as it is known.
#[derive(Debug)]
pub(crate) struct FieldDifference {
    /// Columns that the table does not have yet.
    pub(crate) added: Vec<Column>,
    /// Columns whose declared type is another one now: index and new type.
    pub(crate) retyped: Vec<(usize, ColumnType)>,
}

/// Compares a FIELD event with the table; `declared` is the table as information_schema declared it when the run began.
pub(crate) fn compare(event: &FieldEvent, table: &Table, declared: Option<&Table>, malformed: MalformedText) -> Result<FieldDifference> {
    let mut difference = FieldDifference { added: Vec::new(), retyped: Vec::new() };
    for field in &event.fields {
        if is_made_up(&field.name) {
            let message = format!("the server lost track of the columns of `{}`: it names one `{}`", table.name(), field.name);
            return Err(Error::new(ErrorKind::SchemaChange, message).with_table(table.name()));
        }
        let known = table.column_index(&field.name);
        let known_type = known.map(|index| table.columns()[index].column_type());
        let column_type = declared_type(field, known_type).map_err(|error| error.with_table(table.name()).with_column(&field.name))?;
        match known {
            None if bookkeeping_columns().iter().any(|own| own.name().eq_ignore_ascii_case(&field.name)) => {
                let message = format!("table `{}` has a new column `{}`, which change capture needs for its own", table.name(), field.name);
                return Err(Error::new(ErrorKind::SchemaChange, message).with_table(table.name()).with_column(&field.name));
            }
            None => {
                let collation = declared_collation(declared, &field.name).map(str::to_owned);
                // Older servers leave it out, or say it in another form.
                let is_declared = ColumnType::parse(&field.column_type).is_ok_and(|declared| declared == column_type);
                let spelling = is_declared.then(|| field.column_type.to_string());
                let column = Column::new(&field.name, column_type, field.flags & NOT_NULL == 0).with_collation(collation);
                let column = column.with_declared(spelling);
                difference.added.push(if malformed == MalformedText::Bytes { column.into_bytes() } else { column });
            }
            // A shard whose table is not widened yet says so after another's has been.
            Some(index) => {
                let column_type = if malformed == MalformedText::Bytes { column_type.into_bytes() } else { column_type };
                if !table.columns()[index].column_type().holds(&column_type) {
                    difference.retyped.push((index, column_type));
                }
            }
        }
    }
    Ok(difference)
}

/// Whether the tablet made names of columns up. It does so for changes that are older than an ALTER TABLE when it does not track schemas.
pub(crate) fn has_lost_track(event: &FieldEvent) -> bool {
    event.fields.iter().any(|field| is_made_up(&field.name))
}

/// The tablet calls columns `@1`, `@2` and so on when the binary log and its schema disagree: any other label would be a guess.
fn is_made_up(name: &str) -> bool {
    name.strip_prefix('@').is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

const NOT_NULL: u64 = 1;
/// Ids of collations that say nothing of a column of text: none, and that of bytes.
const UNSAID: [u64; 2] = [0, 63];

fn declared_collation<'a>(declared: Option<&'a Table>, column: &str) -> Option<&'a str> {
    declared?.column(column)?.collation()
}

/// The character set by what the server says, or else by what was declared when the run began. vtgate v0.23.3 and v0.24.0 have no id for the collations of
/// big5, gbk, gb18030 and tis620, and say 0.
fn charset_of(field: &FieldColumn, before: Option<&PlannedField>, declared: Option<&str>) -> Result<Charset> {
    if !UNSAID.contains(&field.charset) {
        return Charset::of(field.charset);
    }
    let Some(collation) = declared else { return Ok(Charset::Unsaid) };
    let charset = Charset::named(collation)?;
    if before.is_some_and(|before| before.charset == charset && !before.charset_unsaid) {
        // It was said until now, so it is another one since, and the declaration is that of before.
        return Ok(Charset::Unsaid);
    }
    Ok(charset)
}

/// The type by what the server says, or else by what is known. A tablet asks its MySQL as late as for the FIELD event, and says nothing of a table that is
/// gone by then: seen on v0.23.3 with changes just before a DROP TABLE.
fn declared_type(field: &FieldColumn, known: Option<&ColumnType>) -> Result<ColumnType> {
    match known {
        Some(known) if field.column_type.is_empty() => Ok(known.clone()),
        None if field.column_type.is_empty() => {
            let message = format!("the server does not say what type column `{}` was declared with", field.name);
            Err(Error::new(ErrorKind::Unsupported, message))
        }
        _ => ColumnType::parse(&field.column_type),
    }
}

impl FieldPlan {
    /// Plans for a table that has all columns of the event; `before` is the last plan for the same shard, `declared` the table as
    /// information_schema declared it when the run began.
    pub(crate) fn new(
        event: &FieldEvent,
        table: &Table,
        before: Option<&Self>,
        declared: Option<&Table>,
        malformed: MalformedText,
    ) -> Result<Self> {
        let mut fields = Vec::with_capacity(event.fields.len());
        let mut sources = vec![None; table.columns().len()];
        for (index, field) in event.fields.iter().enumerate() {
            let named = |error: Error| error.with_table(table.name()).with_column(&field.name);
            let known = table.column_index(&field.name);
            let column_type = declared_type(field, known.map(|index| table.columns()[index].column_type())).map_err(named)?;
            let column_type = if malformed == MalformedText::Bytes { column_type.into_bytes() } else { column_type };
            let planned = before.and_then(|before| before.fields.iter().find(|planned| planned.name == field.name));
            let charset = match column_type {
                // Where the type is missing, so is the collation.
                _ if field.column_type.is_empty()
                    && let Some(planned) = planned =>
                {
                    planned.charset
                }
                ColumnType::Text { .. } | ColumnType::Enum { .. } | ColumnType::Set { .. } => {
                    charset_of(field, planned, declared_collation(declared, &field.name)).map_err(named)?
                }
                _ => Charset::Utf8,
            };
            let slot = known.and_then(|column| sources.get_mut(column));
            match slot {
                Some(slot @ None) => *slot = Some(index),
                Some(Some(_)) => {
                    return Err(Error::protocol(format!("a FIELD event names column `{}` twice", field.name)).with_table(table.name()));
                }
                None => return Err(Error::protocol(format!("column `{}` was not planned", field.name)).with_table(table.name())),
            }
            let charset_unsaid = UNSAID.contains(&field.charset);
            let ordinals_in_stream = !event.enum_set_string_values;
            let is_key = known.is_some_and(|index| table.primary_key().contains(&index));
            fields.push(PlannedField { name: field.name.clone(), column_type, charset, charset_unsaid, ordinals_in_stream, is_key });
        }
        let mut key = Vec::with_capacity(table.primary_key().len());
        for &column in table.primary_key() {
            key.push(sources[column].ok_or_else(|| {
                let name = table.columns()[column].name();
                let message =
                    format!("key column `{name}` of `{}` is gone at the source: rebuild the table with full_refresh", table.name());
                Error::new(ErrorKind::SchemaChange, message).with_table(table.name()).with_column(name)
            })?);
        }
        Ok(Self { fields, sources, key, malformed })
    }

    /// Takes note that the table has grown to `columns`: this shard does not send the new ones yet.
    pub(crate) fn widen(&mut self, columns: usize) {
        self.sources.resize(columns, None);
    }

    /// Whether rows do not carry a column of the table.
    pub(crate) fn lacks(&self, column: usize) -> bool {
        self.sources.get(column).is_none_or(Option::is_none)
    }

    /// The number of values in a row.
    pub(crate) fn width(&self) -> usize {
        self.fields.len()
    }

    /// Whether two images have the same key, byte by byte. Both come from the same event, so equal values have equal bytes.
    pub(crate) fn same_key(&self, before: (&RowImage, &[u8]), after: (&RowImage, &[u8])) -> bool {
        self.key.iter().all(|&field| before.0.get(before.1, field) == after.0.get(after.1, field))
    }

    /// Refuses an image without a key: nothing could be found by it.
    pub(crate) fn check_key(&self, image: &RowImage, values: &[u8]) -> Result<()> {
        match self.key.iter().find(|&&field| image.get(values, field).is_none()) {
            None => Ok(()),
            Some(&field) => {
                let name = &self.fields[field].name;
                let message = format!(
                    "the key column `{name}` of a row is NULL, or its image lacks it: a column that identifies rows needs a value in each"
                );
                Err(Error::decode(message).with_column(name))
            }
        }
    }

    /// Columns of the table that an after image leaves out; `present` tells by the field's number.
    pub(crate) fn absent(&self, present: impl Fn(usize) -> bool) -> Vec<usize> {
        let is_absent = |&(_, source): &(usize, &Option<usize>)| source.is_some_and(|field| !present(field));
        self.sources.iter().enumerate().filter(is_absent).map(|(column, _)| column).collect()
    }

    /// Pushes one image; `from_copy` says whether it comes from the copy phase. Columns whose value is not what the source holds are added to
    /// `inexact`.
    pub(crate) fn push(
        &self,
        columns: &mut [ColumnData],
        image: &RowImage,
        values: &[u8],
        from_copy: bool,
        scratch: &mut String,
        inexact: &mut Vec<usize>,
    ) -> Result<()> {
        for (index, (column, source)) in columns.iter_mut().zip(&self.sources).enumerate() {
            let Some(field) = *source else {
                column.push_null();
                continue;
            };
            let planned = &self.fields[field];
            match image.get(values, field) {
                None => column.push_null(),
                Some(value) => {
                    let is_exact = push_value(column, planned, value, from_copy, self.malformed, scratch)
                        .map_err(|error| error.with_column(&planned.name))?;
                    if !is_exact {
                        inexact.push(index);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Returns whether the value is what the source holds, as far as one can tell: see [`super::exact`].
fn push_value(
    column: &mut ColumnData,
    field: &PlannedField,
    value: &[u8],
    from_copy: bool,
    malformed_text: MalformedText,
    scratch: &mut String,
) -> Result<bool> {
    let mut is_exact = true;
    let ordinals = field.ordinals_in_stream && !from_copy;
    match &field.column_type {
        ColumnType::Int { unsigned: true, .. } => column.push_uint(parse_u64(value).ok_or_else(|| malformed("an unsigned number"))?),
        ColumnType::Int { .. } | ColumnType::Year | ColumnType::Boolean => {
            column.push_int(parse_i64(value).ok_or_else(|| malformed("a whole number"))?)
        }
        ColumnType::Decimal { scale, .. } => {
            scratch.clear();
            if !push_decimal(scratch, value, usize::from(*scale)) {
                return Err(malformed("a decimal number"));
            }
            column.push_text(scratch)
        }
        ColumnType::Float => {
            let number = parse_number(value).filter(|number: &f32| number.is_finite()).ok_or_else(|| malformed("a 32-bit number"))?;
            is_exact = !from_copy || number == 0.0;
            column.push_float(number)
        }
        ColumnType::Double => {
            column.push_double(parse_number(value).filter(|number: &f64| number.is_finite()).ok_or_else(|| malformed("a number"))?)
        }
        ColumnType::Bit { width } => {
            let size = usize::from(*width).div_ceil(8);
            // Leading zero bytes may be missing or too many.
            let significant = value.iter().position(|&byte| byte != 0).map_or(&[][..], |start| &value[start..]);
            if significant.len() > size {
                return Err(malformed("so many bits"));
            }
            let mut bits = [0_u8; 8];
            bits[size - significant.len()..size].copy_from_slice(significant);
            column.push_bytes(&bits[..size])
        }
        ColumnType::Date => column.push_datetime(DateTime::parse(value).filter(|_| value.len() == 10).ok_or_else(|| malformed("a date"))?),
        ColumnType::DateTime { .. } | ColumnType::Timestamp { .. } => {
            column.push_datetime(DateTime::parse(value).ok_or_else(|| malformed("a date and time"))?)
        }
        ColumnType::Time { .. } => column.push_time(Time::parse(value).ok_or_else(|| malformed("a time"))?),
        ColumnType::Enum { members } if ordinals => {
            let index = parse_u64(value).and_then(|index| usize::try_from(index).ok()).ok_or_else(|| malformed("an ENUM index"))?;
            match index.checked_sub(1) {
                // MySQL's own mark of a value that was not a member.
                None => column.push_text(""),
                Some(index) => column.push_text(members.get(index).ok_or_else(|| malformed("an ENUM index within its members"))?),
            }
        }
        ColumnType::Set { members } if ordinals => {
            let mask = parse_u64(value).ok_or_else(|| malformed("a SET mask"))?;
            if u64::from(64 - mask.leading_zeros()) > members.len() as u64 {
                return Err(malformed("a SET mask within its members"));
            }
            scratch.clear();
            for (bit, member) in members.iter().enumerate() {
                if mask >> bit & 1 == 1 {
                    if !scratch.is_empty() {
                        scratch.push(',');
                    }
                    scratch.push_str(member);
                }
            }
            column.push_text(scratch)
        }
        ColumnType::Enum { members } => {
            let text = member_text(field, value, from_copy, scratch, |text| members.iter().any(|member| member == text))?;
            is_exact = from_copy || !is_inexact_member(members, text, false);
            column.push_text(text)
        }
        ColumnType::Set { members } => {
            let is_known = |text: &str| text.split(',').all(|part| members.iter().any(|member| member == part));
            let text = member_text(field, value, from_copy, scratch, is_known)?;
            is_exact = from_copy || !is_inexact_member(members, text, true);
            column.push_text(text)
        }
        ColumnType::Json if !from_copy => {
            scratch.clear();
            let document = std::str::from_utf8(value).map_err(|_| malformed("UTF-8"))?;
            let fidelity = json::as_mysql_prints(document, scratch);
            is_exact = fidelity == Fidelity::Exact;
            column.push_text(if fidelity == Fidelity::Broken { document } else { scratch })
        }
        ColumnType::Text { .. } => {
            let (text, is_replaced) = field.charset.read(value, malformed_text, scratch)?;
            if is_replaced && field.is_key {
                return Err(Error::decode(
                    "a key has bytes that are none of its character set; replaced, it could become that of another row",
                ));
            }
            if is_replaced { column.push_replaced_text(text) } else { column.push_text(text) }
        }
        ColumnType::Json => column.push_text(field.charset.decode(value, scratch)?),
        ColumnType::Binary { fixed: Some(length) } if value.len() < *length as usize => {
            let mut padded = value.to_vec();
            padded.resize(*length as usize, 0);
            column.push_bytes(&padded)
        }
        ColumnType::Binary { .. } | ColumnType::Geometry | ColumnType::Vector => column.push_bytes(value),
    }?;
    Ok(is_exact)
}

/// The string of an ENUM or SET. The copy has it in the column's character set, as it has text; the stream takes it from the declared type, which is UTF-8
/// (seen with latin1 and utf16 on v0.23.3). A server that does it otherwise shows by what the members are.
fn member_text<'a>(
    field: &PlannedField,
    value: &'a [u8],
    from_copy: bool,
    scratch: &'a mut String,
    is_known: impl Fn(&str) -> bool,
) -> Result<&'a str> {
    let [likely, other] = if from_copy { [field.charset, Charset::Utf8] } else { [Charset::Utf8, field.charset] };
    let mut known = |charset: Charset| charset.decode(value, scratch).is_ok_and(|text| text.is_empty() || is_known(text));
    // Where neither gives a member, the declaration is older than the value, or does not show it: MySQL's shows what utf8mb3 lacks as a question mark.
    let charset = if !known(likely) && known(other) { other } else { likely };
    charset.decode(value, scratch)
}

/// The greatest number of members of a SET.
pub(super) const SET_MEMBERS: usize = 64;

/// Whether the string of an ENUM or SET may lack something in the stream: see [`super::exact`].
fn is_inexact_member(members: &[String], text: &str, is_set: bool) -> bool {
    let last_is_there = || text.rsplit(',').next() == members.last().map(String::as_str);
    is_set && members.len() == SET_MEMBERS && !last_is_there() || text.contains('?')
}

/// The error does not quote the value: rows stay out of logs.
fn malformed(expected: &str) -> Error {
    Error::decode(format!("the server sent a value that is not {expected}"))
}

fn parse_u64(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 255 {
        return None;
    }
    value.iter().try_fold(0_u64, |number, &byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 { None } else { number.checked_mul(10)?.checked_add(u64::from(digit)) }
    })
}

fn parse_i64(value: &[u8]) -> Option<i64> {
    match value.strip_prefix(b"-") {
        Some(digits) => 0_i64.checked_sub_unsigned(parse_u64(digits)?),
        None => i64::try_from(parse_u64(value)?).ok(),
    }
}

fn parse_number<N: std::str::FromStr>(value: &[u8]) -> Option<N> {
    // Rust would also read `inf` and `nan`, which MySQL does not have.
    let is_number = value.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'+' | b'e' | b'E'));
    if is_number { std::str::from_utf8(value).ok()?.parse().ok() } else { None }
}

/// Appends a decimal as MySQL prints it: one digit at least before the point, `scale` digits after it. `false` if it is not one, or has
/// more digits than the scale allows.
pub(crate) fn push_decimal(text: &mut String, value: &[u8], scale: usize) -> bool {
    let (negative, digits) = match value {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (whole, fraction) = match digits.iter().position(|&byte| byte == b'.') {
        Some(point) => (&digits[..point], &digits[point + 1..]),
        None => (digits, &[][..]),
    };
    let all_digits = whole.iter().chain(fraction).all(u8::is_ascii_digit);
    if !all_digits || whole.len() + fraction.len() == 0 || fraction.len() > scale {
        return false;
    }
    let zeros = whole.iter().take_while(|&&byte| byte == b'0').count();
    let whole = &whole[zeros..];
    if negative && (!whole.is_empty() || fraction.iter().any(|&byte| byte != b'0')) {
        text.push('-');
    }
    if whole.is_empty() {
        text.push('0');
    }
    text.extend(whole.iter().map(|&byte| char::from(byte)));
    if scale > 0 {
        text.push('.');
        text.extend(fraction.iter().map(|&byte| char::from(byte)));
        text.extend(std::iter::repeat_n('0', scale - fraction.len()));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Batch;
    use crate::source::vstream::event::encode;
    use crate::value::ValueRef;
    use std::sync::Arc;

    fn field(column_type: &str, charset: u64) -> FieldColumn {
        FieldColumn { name: "c".into(), charset, column_type: column_type.into(), ..FieldColumn::default() }
    }

    /// Decodes one value and prints it.
    fn decoded(column_type: &str, charset: u64, value: &[u8], strings: bool, from_copy: bool) -> Result<String> {
        let event = FieldEvent {
            table: "t".into(),
            fields: vec![field(column_type, charset)],
            enum_set_string_values: strings,
            ..FieldEvent::default()
        };
        let table = Table::new("t", vec![Column::new("c", ColumnType::parse(column_type)?, true)]);
        let plan = FieldPlan::new(&event, &table, None, None, MalformedText::Error)?;
        let message = encode::image(&[Some(value)]);
        let mut image = RowImage::default();
        let values = image.read(&message, 1)?;
        let mut batch = Batch::new(Arc::new(table));
        batch.push_row(|columns| plan.push(columns, &image, values, from_copy, &mut String::new(), &mut Vec::new()))?;
        Ok(match batch.value(0, 0) {
            ValueRef::Text(text) | ValueRef::Json(text) | ValueRef::Decimal(text) => text.to_owned(),
            ValueRef::Float(number) => format!("{number:?}"),
            ValueRef::Double(number) => format!("{number:?}"),
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn copy_and_stream_forms_of_one_value_are_stored_alike() {
        for (column_type, copy, stream) in [
            ("int(8) unsigned zerofill", "00000042", "42"),
            ("decimal(10,2)", "0.50", ".50"),
            ("decimal(10,2)", "-0.50", "-.50"),
            ("decimal(9,0)", "5", "000000005"),
            ("decimal(10,2)", "0.00", "-.00"),
            ("float", "3.99", "3.99E+00"),
            ("double", "1e100", "1E+100"),
        ] {
            let copied = decoded(column_type, 63, copy.as_bytes(), true, true).unwrap();
            let streamed = decoded(column_type, 63, stream.as_bytes(), true, false).unwrap();
            assert_eq!(copied, streamed, "{column_type}");
        }
    }

    #[test]
    fn a_set_may_lack_its_last_member_and_a_question_mark_be_another_character() {
        let members: Vec<String> = (1..=64).map(|at| format!("m{at}")).collect();
        assert!(is_inexact_member(&members, "m1", true));
        assert!(!is_inexact_member(&members, "m1,m64", true));
        assert!(!is_inexact_member(&members[..63], "m1", true));
        assert!(is_inexact_member(&members[..3], "?", false));
    }

    #[test]
    fn enum_and_set_of_old_servers_are_an_index_and_a_mask_in_the_stream_only() {
        let e = "enum('a','it''s','1')";
        assert_eq!(decoded(e, 255, b"2", false, false).unwrap(), "it's");
        assert_eq!(decoded(e, 255, b"1", false, true).unwrap(), "1");
        assert_eq!(decoded(e, 255, b"1", true, false).unwrap(), "1");
        assert_eq!(decoded(e, 255, b"0", false, false).unwrap(), "");
        assert!(decoded(e, 255, b"4", false, false).is_err());
        assert_eq!(decoded("set('a','b','c')", 255, b"5", false, false).unwrap(), "a,c");
        assert!(decoded("set('a','b','c')", 255, b"8", false, false).is_err());
    }

    #[test]
    fn text_is_read_by_its_collation() {
        assert_eq!(decoded("varchar(20)", 8, b"\xfc\x80", true, true).unwrap(), "ü€");
        assert_eq!(decoded("varchar(20)", 46, "ü".as_bytes(), true, true).unwrap(), "ü");
        assert_eq!(decoded("varchar(20)", 54, b"\x00\xfc", true, true).unwrap(), "ü");
        assert!(decoded("varchar(20)", 255, b"\xfc", true, true).is_err());
    }

    #[test]
    fn a_new_column_with_a_name_of_our_own_is_refused() {
        let event = FieldEvent {
            table: "t".into(),
            fields: vec![field("varchar(20)", 255), FieldColumn { name: "_CDC_lsn".into(), ..field("varchar(20)", 255) }],
            ..FieldEvent::default()
        };
        let table = Table::new("t", vec![Column::new("c", ColumnType::Text { length: Some(20) }, true)]);
        let error = compare(&event, &table, None, MalformedText::Error).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SchemaChange);
        assert!(error.to_string().contains("table `t` has a new column `_CDC_lsn`"), "{error}");
    }

    #[test]
    fn what_a_server_does_not_say_of_a_known_column_is_as_it_was() {
        let event = |column_type: &str, charset| FieldEvent {
            table: "t".into(),
            fields: vec![field(column_type, charset)],
            enum_set_string_values: true,
            ..FieldEvent::default()
        };
        let table = Table::new("t", vec![Column::new("c", ColumnType::Text { length: Some(20) }, true)]);
        let before = FieldPlan::new(&event("varchar(20)", 8), &table, None, None, MalformedText::Error).unwrap();
        let untyped = event("", 0);
        assert!(compare(&untyped, &table, None, MalformedText::Error).unwrap().retyped.is_empty());
        let plan = FieldPlan::new(&untyped, &table, Some(&before), None, MalformedText::Error).unwrap();
        let message = encode::image(&[Some(b"\xfc")]);
        let mut image = RowImage::default();
        let values = image.read(&message, 1).unwrap();
        let mut batch = Batch::new(Arc::new(table));
        batch.push_row(|columns| plan.push(columns, &image, values, false, &mut String::new(), &mut Vec::new())).unwrap();
        assert_eq!(batch.value(0, 0), ValueRef::Text("ü"));
        assert!(compare(&untyped, &Table::new("t", Vec::new()), None, MalformedText::Error).is_err(), "a new column has no known type");
    }

    #[test]
    fn values_that_do_not_parse_are_errors_without_the_value() {
        for (column_type, value) in [
            ("int", "12x"),
            ("int", ""),
            ("bigint unsigned", "18446744073709551616"),
            ("bigint", "9223372036854775808"),
            ("decimal(10,2)", "1.234"),
            ("decimal(10,2)", "."),
            ("double", "inf"),
            ("date", "2024-01-01 00:00:00"),
            ("datetime", "secret"),
            ("time", "839:00:00"),
            ("bit(1)", "\u{1}\u{1}"),
        ] {
            let error = decoded(column_type, 63, value.as_bytes(), true, true).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Decode, "{column_type} {value}");
            assert_eq!(error.column(), Some("c"));
            assert!(!format!("{error:#}").contains("secret"));
        }
        assert_eq!(decoded("bigint", 63, b"-9223372036854775808", true, true).unwrap(), "Int(-9223372036854775808)");
    }

    #[test]
    fn bits_take_as_many_bytes_as_the_column_needs() {
        assert_eq!(decoded("bit(12)", 63, &[1], true, true).unwrap(), "Bit([0, 1])");
        assert_eq!(decoded("bit(64)", 63, &[255; 8], true, true).unwrap(), format!("Bit({:?})", [255; 8]));
    }
}
