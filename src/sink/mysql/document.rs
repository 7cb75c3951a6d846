//! JSON documents as MySQL keeps them, which is not always as other servers do.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::batch::{Batch, ColumnData};
use crate::schema::{Column, ColumnType};
use crate::value::ValueRef;
use crate::{Error, ErrorKind, Result};

/// MySQL's own limit is 100.
const DEEPEST: usize = 128;

/// What MySQL does not keep of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// Numbers are of 64 bits, or doubles.
    Digits,
    /// Of members of one name one is left.
    Members,
}

/// The document in a form in which two are the same if they are so to MySQL, and the first thing that MySQL would not keep of it. A text that is no
/// document is returned as it is.
pub(super) fn canonical(text: &str) -> (String, Option<Lost>) {
    let mut printer = Printer { out: String::with_capacity(text.len()), lost: None };
    match printer.value(text.trim(), 0) {
        Some(()) => (printer.out, printer.lost),
        None => (text.to_owned(), None),
    }
}

/// Whether a column holds documents as another server than MySQL prints them.
pub(super) fn is_of_other_source(column: &Column) -> bool {
    *column.column_type() == ColumnType::Json && column.declared().is_none()
}

/// Refuses documents of which MySQL would not keep everything.
///
/// # Errors
/// `Decode`, without the document.
pub(super) fn require_kept(batch: &Batch, index: usize) -> Result<()> {
    let column = batch.table().columns()[index].name();
    let mut scan = Scan::default();
    for row in batch.rows() {
        let ValueRef::Json(text) = row.value(index) else { continue };
        if scan.is_plain(text.as_bytes()) {
            continue;
        }
        let lost = match canonical(text).1 {
            None => continue,
            Some(Lost::Digits) => "has a number with more digits than MySQL keeps in one",
            Some(Lost::Members) => "has two members of one name, of which MySQL keeps one",
        };
        let message = format!("a document in column `{column}` {lost}: a column of text in the destination holds it as it is");
        return Err(Error::new(ErrorKind::Decode, message).with_column(column));
    }
    Ok(())
}

/// Rows with the documents of other servers in their canonical form, so that they can be compared with those that MySQL prints.
pub(super) fn canonical_batch(mut batch: Batch) -> Result<Batch> {
    for index in 0..batch.columns().len() {
        if !is_of_other_source(&batch.table().columns()[index]) {
            continue;
        }
        let mut forms = ColumnData::new(&ColumnType::Json);
        let mut places = BTreeMap::new();
        for (at, row) in batch.rows().enumerate() {
            let ValueRef::Json(text) = row.value(index) else { continue };
            places.insert(at, places.len());
            forms.push_text(&canonical(text).0)?;
        }
        if !places.is_empty() {
            batch.replace(index, &forms, &places)?;
        }
    }
    Ok(batch)
}

/// A quick look at documents, since there is one in each of millions of rows.
#[derive(Default)]
struct Scan {
    /// What is open: of an object, where its names begin among those of all.
    open: Vec<Option<usize>>,
    /// Where the names of open objects lie in the text.
    names: Vec<(usize, usize)>,
}

impl Scan {
    /// Doubles keep any number of so many digits.
    const DIGITS: usize = 15;
    /// Each name is compared with those before it.
    const NAMES: usize = 32;

    /// Whether MySQL surely keeps all of a document, if it is one. `false` says nothing: that needs a closer look.
    fn is_plain(&mut self, text: &[u8]) -> bool {
        self.open.clear();
        self.names.clear();
        let mut at = 0;
        let mut is_name = false;
        while let Some(&byte) = text.get(at) {
            match byte {
                b'{' => {
                    self.open.push(Some(self.names.len()));
                    is_name = true;
                }
                b'[' => {
                    self.open.push(None);
                    is_name = false;
                }
                b'}' | b']' => match self.open.pop() {
                    Some(Some(names)) => self.names.truncate(names),
                    Some(None) => {}
                    None => return false,
                },
                b',' => is_name = matches!(self.open.last(), Some(Some(_))),
                b':' => is_name = false,
                b'"' => {
                    let begin = at + 1;
                    let Some(length) = text[begin..].iter().position(|byte| matches!(byte, b'"' | b'\\')) else { return false };
                    at = begin + length;
                    if is_name && !self.is_new_name(text, (begin, at)) {
                        return false;
                    }
                    // What is escaped does not matter, but for the end of the string.
                    while text.get(at) == Some(&b'\\') {
                        at += 2;
                        let Some(length) = text.get(at..).and_then(|rest| rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))) else {
                            return false;
                        };
                        at += length;
                    }
                }
                b'-' | b'0'..=b'9' => {
                    let is_digit = |byte: &&u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
                    let length = text[at..].iter().take_while(is_digit).count();
                    if length > Self::DIGITS || text[at..at + length].iter().any(|byte| matches!(byte, b'e' | b'E')) {
                        return false;
                    }
                    at += length - 1;
                }
                _ => {}
            }
            at += 1;
        }
        true
    }

    fn is_new_name(&mut self, text: &[u8], (begin, end): (usize, usize)) -> bool {
        let Some(Some(first)) = self.open.last() else { return false };
        let own = &self.names[*first..];
        let name = &text[begin..end];
        // One with an escape may be the same as one without.
        if text.get(end) != Some(&b'"') || own.len() >= Self::NAMES || own.iter().any(|&(begin, end)| text[begin..end] == *name) {
            return false;
        }
        self.names.push((begin, end));
        true
    }
}

struct Printer {
    out: String,
    lost: Option<Lost>,
}

impl Printer {
    /// `None` if it cannot be read.
    fn value(&mut self, text: &str, depth: usize) -> Option<()> {
        if depth > DEEPEST {
            return None;
        }
        match text.as_bytes().first()? {
            b'{' => {
                let mut members = members(text)?;
                // Stable, so that the last one of a name stays the last one.
                members.sort_by(|(one, _), (other, _)| one.cmp(other));
                let mut left: Vec<(String, &RawValue)> = Vec::with_capacity(members.len());
                for member in members {
                    if left.last().is_some_and(|(name, _)| *name == member.0) {
                        self.lost.get_or_insert(Lost::Members);
                        left.pop();
                    }
                    left.push(member);
                }
                self.out.push('{');
                for (name, value) in left {
                    self.string(&name)?;
                    self.out.push(':');
                    self.value(value.get(), depth + 1)?;
                    self.out.push(',');
                }
                self.out.push('}');
            }
            b'[' => {
                let elements: Vec<&RawValue> = serde_json::from_str(text).ok()?;
                self.out.push('[');
                for element in elements {
                    self.value(element.get(), depth + 1)?;
                    self.out.push(',');
                }
                self.out.push(']');
            }
            b'"' => {
                let string: String = serde_json::from_str(text).ok()?;
                self.string(&string)?;
            }
            b't' | b'f' | b'n' => {
                serde_json::from_str::<IgnoredAny>(text).ok()?;
                self.out.push_str(text);
            }
            _ => {
                serde_json::from_str::<IgnoredAny>(text).ok()?;
                self.number(text);
            }
        }
        Some(())
    }

    fn string(&mut self, text: &str) -> Option<()> {
        self.out.push_str(&serde_json::to_string(text).ok()?);
        Some(())
    }

    fn number(&mut self, text: &str) {
        if let Ok(number) = text.parse::<i64>() {
            return self.out.push_str(&number.to_string());
        }
        if let Ok(number) = text.parse::<u64>() {
            return self.out.push_str(&number.to_string());
        }
        // MySQL prints the shortest text that is the same double.
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() && digits(&format!("{number:e}")) == digits(text) => self.out.push_str(&format!("{number:e}")),
            _ => {
                self.lost.get_or_insert(Lost::Digits);
                self.out.push_str(text);
            }
        }
    }
}

/// The digits of a number and the power of ten of the last one, without zeros at either end.
fn digits(text: &str) -> (bool, String, i64) {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (is_negative, mantissa) = mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let exponent = exponent.parse::<i64>().unwrap_or(i64::MAX).saturating_sub(i64::try_from(fraction.len()).unwrap_or(i64::MAX));
    let significant = all.trim_start_matches('0');
    let trimmed = significant.trim_end_matches('0');
    let zeros = i64::try_from(significant.len() - trimmed.len()).unwrap_or(i64::MAX);
    let exponent = if trimmed.is_empty() { 0 } else { exponent.saturating_add(zeros) };
    (is_negative, trimmed.to_owned(), exponent)
}

/// The members of an object in their order, those of one name too.
fn members(text: &str) -> Option<Vec<(String, &RawValue)>> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(String, &'de RawValue)>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = map.next_entry()? {
                members.push(member);
            }
            Ok(members)
        }
    }
    serde_json::Deserializer::from_str(text).deserialize_map(Members).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_that_are_one_to_mysql_have_one_form() {
        for (one, other) in [
            ("[1,2]", "[1, 2]"),
            (r#"{"b":1,"a":[ true , null ]}"#, r#"{"a": [true, null], "b": 1}"#),
            (r#""\u00fc\/""#, "\"ü/\""),
            ("1.50", "1.5"),
            ("0.1e1", "1.0"),
            ("1e20", "100000000000000000000"),
            ("18446744073709551615", "18446744073709551615"),
            (" {} ", "{}"),
        ] {
            let (form, lost) = canonical(one);
            assert_eq!((form.as_str(), lost), (canonical(other).0.as_str(), None), "{one} {other}");
        }
        for (one, other) in
            [("[1,2]", "[2,1]"), ("1", "\"1\""), ("null", "\"null\""), ("[]", "{}"), (r#"{"a":1}"#, r#"{"A":1}"#), ("1.5", "-1.5")]
        {
            assert_ne!(canonical(one).0, canonical(other).0, "{one} {other}");
        }
    }

    #[test]
    fn what_mysql_does_not_keep_is_told() {
        for text in ["12345678901234567890.5", "0.1234567890123456789", "1e999", "[[36893488147419103233]]"] {
            assert_eq!(canonical(text).1, Some(Lost::Digits), "{text}");
        }
        assert_eq!(canonical(r#"{"a":1,"b":{"c":1,"c":2}}"#).1, Some(Lost::Members));
        for text in ["-0.5", "1e300", "123456789.125", "-9223372036854775808", "5e-324", "0.0", "-0.0"] {
            assert_eq!(canonical(text).1, None, "{text}");
        }
    }

    #[test]
    fn a_quick_look_passes_only_what_mysql_keeps() {
        let mut scan = Scan::default();
        for text in [
            "{}",
            "[]",
            " [ 1 , -2.5, 999999999999999 ] ",
            "null",
            r#""a \" , \\""#,
            r#"{"a": {"a": 1, "b": {"a": 2}}, "b": [{"a": 1}, {"a": 2}, "a", "a"], "c": "a"}"#,
            r#"{"long": "12345678901234567890.5 1e999", "e": "{\"a\":1,\"a\":2}", "ü": true}"#,
        ] {
            assert!(scan.is_plain(text.as_bytes()) && canonical(text).1.is_none(), "{text}");
        }
        for text in [
            "12345678901234567890.5",
            "[1, 1e999]",
            r#"{"a":1,"a":2}"#,
            r#"{"b":[],"a":{},"c":{"x":1},"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"[{"a":[{"b":1,"b":1}]}]"#,
            "\"a",
            "\"\\",
            "]",
        ] {
            assert!(!scan.is_plain(text.as_bytes()), "{text}");
        }
        let many: Vec<String> = (0..40).map(|n| format!("\"n{n}\":{n}")).collect();
        assert!(!scan.is_plain(format!("{{{}}}", many.join(",")).as_bytes()));
    }

    proptest::proptest! {
        #[test]
        fn a_quick_look_never_passes_what_a_closer_one_refuses(text in r#"([\[\]{},:" ]|"[ab\\\\u]{0,3}":?|-?[0-9]{1,20}(\.[0-9]{1,4})?(e[0-9])?){0,24}"#) {
            if Scan::default().is_plain(text.as_bytes()) {
                proptest::prop_assert_eq!(canonical(&text).1, None);
            }
        }
    }

    #[test]
    fn what_is_no_document_stays_as_it_is() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for text in ["", "{", "nul", "[1", "{\"a\"}", "1 2", "'a'", &deep] {
            assert_eq!(canonical(text), (text.to_owned(), None));
        }
    }
}
