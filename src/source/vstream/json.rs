//! JSON documents of the stream, in MySQL's own rendering.
//!
//! The copy has documents as MySQL prints them. For the stream, Vitess renders what the binary log holds by itself. Seen on v0.23.3:
//!
//! - the keys of an object come in the order of their bytes; MySQL's is that of their length first;
//! - a DECIMAL comes without its leading zero (`.50`), or with too many (`000000005`);
//! - a DOUBLE of 17 digits from 1e15 to 1e16 comes with an exponent;
//! - of a TIME, the sign and all but five bits of the hours are lost: a negative one is `""`, 838 hours are 6;
//! - binary data within an array or an object loses all that was rendered before it, so what comes is no document.
//!
//! The former three are undone here. The latter two can only be suspected: see [`super::exact`].

use std::ops::Range;

/// Deeper than MySQL lets documents be, which is 100.
const MAX_DEPTH: usize = 128;

/// What can be made of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fidelity {
    Exact,
    /// It may have held a TIME that is lost.
    Doubtful,
    /// It is no document.
    Broken,
}

/// Appends the document as MySQL prints it; of one that is broken, anything.
pub(super) fn as_mysql_prints(text: &str, out: &mut String) -> Fidelity {
    let mut parser = Parser { text, at: 0, doubtful: false };
    match parser.value(out, 0) {
        Some(()) if parser.at == text.len() && parser.doubtful => Fidelity::Doubtful,
        Some(()) if parser.at == text.len() => Fidelity::Exact,
        _ => Fidelity::Broken,
    }
}

#[cfg(any(feature = "vstream", test))]
/// Whether `streamed`, as [`as_mysql_prints`] has it, is what becomes of `printed` on its way through the stream.
pub(super) fn is_streamed_from(streamed: &str, printed: &str) -> bool {
    let (mut streamed, mut printed) = (Pieces(streamed), Pieces(printed));
    loop {
        match (streamed.next(), printed.next()) {
            (None, None) => return true,
            (Some(streamed), Some(printed)) if streamed == printed => {}
            (Some(streamed), Some(printed)) if printed.starts_with('"') && streamed == worn(printed) => {}
            _ => return false,
        }
    }
}

#[cfg(any(feature = "vstream", test))]
/// What becomes of a string, quotes included, on its way through the stream, if it is a TIME.
fn worn(string: &str) -> String {
    let inner = string.trim_matches('"');
    let Some((hours, rest)) = time(inner) else { return string.to_owned() };
    match inner.starts_with('-') {
        true => "\"\"".to_owned(),
        false => format!("\"{:02}{rest}\"", hours % 32),
    }
}

/// The hours of a string in the form of a TIME, and what follows them.
fn time(text: &str) -> Option<(u32, &str)> {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (hours, rest) = text.split_once(':').map(|(hours, rest)| (hours, &text[text.len() - rest.len() - 1..]))?;
    let is_time = (2..=3).contains(&hours.len())
        && rest.len() == 13
        && rest.bytes().zip(":00:00.000000".bytes()).all(|(byte, shape)| if shape == b'0' { byte.is_ascii_digit() } else { byte == shape });
    if is_time { hours.parse().ok().map(|hours| (hours, rest)) } else { None }
}

#[cfg(any(feature = "vstream", test))]
/// A document as its strings and what stands between them.
struct Pieces<'a>(&'a str);

#[cfg(any(feature = "vstream", test))]
impl<'a> Iterator for Pieces<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.0.is_empty() {
            return None;
        }
        let end = if self.0.starts_with('"') { end_of_string(self.0, 0)? } else { self.0.find('"').unwrap_or(self.0.len()) };
        let (piece, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(piece)
    }
}

/// Where the string ends whose quote stands at `start`; `None` if it does not.
fn end_of_string(text: &str, start: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = start + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    doubtful: bool,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        self.skip_blanks();
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn value(&mut self, out: &mut String, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.skip_blanks();
        match self.peek()? {
            b'{' => self.object(out, depth),
            b'[' => self.array(out, depth),
            b'"' => {
                let string = self.string(out)?;
                let inner = self.text.get(string.start + 1..string.end - 1)?;
                self.doubtful |= inner.is_empty() || time(inner).is_some_and(|(hours, _)| hours < 32 && !inner.starts_with('-'));
                Some(())
            }
            b't' => self.word("true", out),
            b'f' => self.word("false", out),
            b'n' => self.word("null", out),
            _ => self.number(out),
        }
    }

    fn word(&mut self, word: &str, out: &mut String) -> Option<()> {
        self.text.get(self.at..)?.starts_with(word).then(|| {
            self.at += word.len();
            out.push_str(word);
        })
    }

    fn string(&mut self, out: &mut String) -> Option<Range<usize>> {
        self.skip_blanks();
        if self.peek() != Some(b'"') {
            return None;
        }
        let string = self.at..end_of_string(self.text, self.at)?;
        out.push_str(self.text.get(string.clone())?);
        self.at = string.end;
        Some(string)
    }

    fn number(&mut self, out: &mut String) -> Option<()> {
        let rest = self.text.get(self.at..)?;
        let end = rest.find(|c: char| !(c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E'))).unwrap_or(rest.len());
        let number = rest.get(..end)?;
        self.at += end;
        let (sign, digits) = number.strip_prefix('-').map_or(("", number), |digits| ("-", digits));
        let whole = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let (whole, rest) = digits.split_at(whole);
        if whole.is_empty() && !rest.starts_with('.') || number.parse::<f64>().is_err() {
            return None;
        }
        let whole = whole.trim_start_matches('0');
        let is_zero = whole.is_empty() && rest.bytes().all(|byte| matches!(byte, b'.' | b'0'));
        // A DECIMAL has no negative zero; a DOUBLE is printed as `-0.0`.
        if !is_zero || digits == "0.0" {
            out.push_str(sign);
        }
        out.push_str(if whole.is_empty() { "0" } else { whole });
        match sixteen_and_one(whole, rest) {
            Some((before, after)) => out.extend([before, ".", after]),
            None => out.push_str(rest),
        }
        Some(())
    }

    fn array(&mut self, out: &mut String, depth: usize) -> Option<()> {
        self.at += 1;
        out.push('[');
        if !self.take(b']') {
            loop {
                self.value(out, depth + 1)?;
                if self.take(b']') {
                    break;
                }
                if !self.take(b',') {
                    return None;
                }
                out.push_str(", ");
            }
        }
        out.push(']');
        Some(())
    }

    fn object(&mut self, out: &mut String, depth: usize) -> Option<()> {
        self.at += 1;
        out.push('{');
        let start = out.len();
        // The key of each entry, and where the entry lies in what is written.
        let mut entries: Vec<(String, Range<usize>)> = Vec::new();
        if !self.take(b'}') {
            loop {
                let begin = out.len();
                let key = self.string(out)?;
                let key = unescaped(self.text.get(key.start + 1..key.end - 1)?)?;
                if !self.take(b':') {
                    return None;
                }
                out.push_str(": ");
                self.value(out, depth + 1)?;
                entries.push((key, begin..out.len()));
                if self.take(b'}') {
                    break;
                }
                if !self.take(b',') {
                    return None;
                }
                out.push_str(", ");
            }
        }
        let before = |a: &str, b: &str| (a.len(), a) <= (b.len(), b);
        if !entries.is_sorted_by(|(a, _), (b, _)| before(a, b)) {
            entries.sort_by(|(a, _), (b, _)| (a.len(), a).cmp(&(b.len(), b)));
            let sorted: Vec<&str> = entries.iter().filter_map(|(_, entry)| out.get(entry.clone())).collect();
            let sorted = sorted.join(", ");
            out.truncate(start);
            out.push_str(&sorted);
        }
        out.push('}');
        Some(())
    }
}

/// Of a DOUBLE with an exponent, the digits that MySQL writes after the first one: those before the point and the one behind it. MySQL writes numbers from
/// 1e15 on with an exponent, but for those below 1e16 that have a digit after the point; Vitess writes these with one as well.
fn sixteen_and_one<'a>(whole: &str, rest: &'a str) -> Option<(&'a str, &'a str)> {
    let fraction = rest.strip_suffix("e15")?.strip_prefix('.')?;
    if whole.len() == 1 && fraction.len() == 16 { fraction.split_at_checked(15) } else { None }
}

/// A key without its escapes.
fn unescaped(raw: &str) -> Option<String> {
    let mut key = String::with_capacity(raw.len());
    let mut characters = raw.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            key.push(character);
            continue;
        }
        match characters.next()? {
            'b' => key.push('\u{8}'),
            'f' => key.push('\u{c}'),
            'n' => key.push('\n'),
            'r' => key.push('\r'),
            't' => key.push('\t'),
            'u' => {
                let code = u32::from_str_radix(characters.as_str().get(..4)?, 16).ok()?;
                characters = characters.as_str().get(4..)?.chars();
                // Neither MySQL nor Vitess writes surrogates.
                key.push(char::from_u32(code)?);
            }
            other => key.push(other),
        }
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(text: &str) -> (String, Fidelity) {
        let mut out = String::new();
        let fidelity = as_mysql_prints(text, &mut out);
        (out, fidelity)
    }

    // Both forms as v0.23.3 and MySQL 9.7.4 gave them.
    #[test]
    fn keys_are_sorted_by_length_and_decimals_have_one_form() {
        for (streamed, expected) in [
            (r#"{"a": 1, "bb": 2, "c": [{"zz": 1, "y": 2}]}"#, r#"{"a": 1, "c": [{"y": 2, "zz": 1}], "bb": 2}"#),
            (r#"{"\n\n": 1, "ü": 2, "z": 3, "é": {}}"#, r#"{"z": 3, "\n\n": 1, "é": {}, "ü": 2}"#),
            ("[1.50, -.50, .00, 000000005]", "[1.50, -0.50, 0.00, 5]"),
            ("[-.00, -0.0, 0.0, 1e16, 1.2345678901234568e20, -5]", "[0.00, -0.0, 0.0, 1e16, 1.2345678901234568e20, -5]"),
            (
                "[1.1530683875815542e15, -2.1639326579461392e15, 2.452786056127357e15, 3.0873798445090028e16]",
                "[1153068387581554.2, -2163932657946139.2, 2.452786056127357e15, 3.0873798445090028e16]",
            ),
            (r#""say \"so\"""#, r#""say \"so\"""#),
            ("null", "null"),
            ("[]", "[]"),
        ] {
            assert_eq!(printed(streamed), (expected.to_owned(), Fidelity::Exact), "{streamed}");
        }
    }

    #[test]
    fn what_may_have_been_a_time_is_in_doubt_and_what_is_no_document_is_broken() {
        for text in [r#"[""]"#, r#"{"at": "06:59:59.000000"}"#] {
            assert_eq!(printed(text), (text.to_owned(), Fidelity::Doubtful));
        }
        for text in [r#"{"": 1}"#, r#"["40:00:00.000000"]"#, r#"["06:59:59"]"#] {
            assert_eq!(printed(text), (text.to_owned(), Fidelity::Exact));
        }
        let deep = "[".repeat(300);
        for text in [r#""base64:type15:AP9B", 2]"#, "", "{", r#"{"a" 1}"#, "[1 2]", "tru", "1.2.3", "-", r#""\"#, "[1]]", &deep] {
            assert_eq!(printed(text).1, Fidelity::Broken, "{text}");
        }
    }

    #[test]
    fn a_document_is_known_by_what_the_stream_makes_of_it() {
        let document = r#"["838:59:59.000000", "", "-00:00:00.500000", "12:34:56.000000", {"k": "100:00:00.000001"}]"#;
        let streamed = r#"["06:59:59.000000", "", "", "12:34:56.000000", {"k": "04:00:00.000001"}]"#;
        assert!(is_streamed_from(streamed, document));
        assert!(is_streamed_from(document, document), "they may have been strings");
        assert!(!is_streamed_from(streamed, &document.replace("838", "837")));
        assert!(!is_streamed_from(streamed, r#"["06:59:59.000000"]"#));
    }
}
