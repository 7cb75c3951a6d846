//! Text in MySQL's character sets.
//!
//! VStream converts nothing: a column's bytes come as they are stored, with the id of their collation. A query converts, and silently puts a question
//! mark in the place of what it cannot; so where that can happen the bytes are asked for, and converted here. They become the Unicode text that a
//! server makes of them, so that a value is the same whichever way it comes. What becomes of codes that MySQL knows no character for, and of malformed
//! ones, is up to [`MalformedText`].

mod measured;

use encoding_rs::{BIG5, EUC_JP, EUC_KR, Encoding, GB18030, GBK, SHIFT_JIS};

use crate::policy::MalformedText;
use crate::{Error, ErrorKind, Result};

/// How the bytes of a text column are to be read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Charset {
    Utf8,
    /// Nobody says which: only ASCII can be read, which all but a few have in common.
    Unsaid,
    /// ASCII, and a table of the bytes from 0x80 on.
    Single(&'static [u16; 128]),
    /// A table of the bytes below 0x80, and nothing above.
    Seven(&'static [u16; 128]),
    Multi(&'static Multi),
    Utf16Be,
    Utf16Le,
    Utf32Be,
}

/// A character set of one to four bytes for each character.
#[derive(Debug, PartialEq)]
pub(crate) struct Multi {
    /// What most codes are.
    standard: &'static Encoding,
    /// Those that are something else, in order.
    others: &'static [(u32, char)],
    /// Runs of codes that are nothing in MySQL, in order.
    unassigned: &'static [(u32, u32)],
    /// Whether 0x8f begins three bytes, and rows from 0xf5 on are for private use: EUC-JP.
    is_euc_jp: bool,
    /// Whether a digit as the second byte stands for two more.
    has_four: bool,
    /// Whether a byte from 0xa1 to 0xdf is a character of its own, and 0xa0 and 0xfd to 0xff are none.
    has_kana: bool,
    /// Whether a byte of ASCII from 0x40 on can be the second of a code.
    has_ascii_seconds: bool,
}

const PLAIN: Multi =
    Multi { standard: GBK, others: &[], unassigned: &[], is_euc_jp: false, has_four: false, has_kana: false, has_ascii_seconds: true };
static BIG5_SET: Multi = Multi { standard: BIG5, others: &measured::BIG5, unassigned: &measured::NOT_IN_BIG5, ..PLAIN };
static CP932_SET: Multi = Multi { standard: SHIFT_JIS, has_kana: true, ..PLAIN };
static SJIS_SET: Multi =
    Multi { standard: SHIFT_JIS, others: &measured::SJIS, unassigned: &measured::NOT_IN_SJIS, has_kana: true, ..PLAIN };
static EUCKR_SET: Multi = Multi { standard: EUC_KR, ..PLAIN };
static GB2312_SET: Multi = Multi { others: &measured::GB2312, unassigned: &measured::NOT_IN_GB2312, has_ascii_seconds: false, ..PLAIN };
static GBK_SET: Multi = Multi { unassigned: &measured::NOT_IN_GBK, ..PLAIN };
static GB18030_SET: Multi = Multi { standard: GB18030, others: &measured::GB18030, has_four: true, ..PLAIN };
static UJIS_SET: Multi = Multi {
    standard: EUC_JP,
    others: &measured::UJIS,
    unassigned: &measured::NOT_IN_UJIS,
    is_euc_jp: true,
    has_ascii_seconds: false,
    ..PLAIN
};
static EUCJPMS_SET: Multi = Multi { standard: EUC_JP, others: &measured::EUCJPMS, is_euc_jp: true, has_ascii_seconds: false, ..PLAIN };

/// Character sets as collations name them, each with the id of one of its collations.
const NAMES: [(&str, u64); 41] = [
    ("armscii8", 32),
    ("ascii", 11),
    ("big5", 1),
    ("cp1250", 26),
    ("cp1251", 51),
    ("cp1256", 57),
    ("cp1257", 59),
    ("cp850", 4),
    ("cp852", 40),
    ("cp866", 36),
    ("cp932", 95),
    ("dec8", 3),
    ("eucjpms", 97),
    ("euckr", 19),
    ("gb18030", 248),
    ("gb2312", 24),
    ("gbk", 28),
    ("geostd8", 92),
    ("greek", 25),
    ("hebrew", 16),
    ("hp8", 6),
    ("keybcs2", 37),
    ("koi8r", 7),
    ("koi8u", 22),
    ("latin1", 8),
    ("latin2", 9),
    ("latin5", 30),
    ("latin7", 41),
    ("macce", 38),
    ("macroman", 39),
    ("sjis", 13),
    ("swe7", 10),
    ("tis620", 18),
    ("ucs2", 35),
    ("ujis", 12),
    ("utf16", 54),
    ("utf16le", 56),
    ("utf32", 60),
    ("utf8", 33),
    ("utf8mb3", 33),
    ("utf8mb4", 45),
];

impl Charset {
    /// By collation id (`information_schema.collations`).
    ///
    /// # Errors
    /// `Unsupported` for an id that MySQL 9.7 does not have.
    pub(crate) fn of(collation: u64) -> Result<Self> {
        Ok(match collation {
            // ascii, utf8mb3, utf8mb4.
            11 | 65 | 33 | 83 | 76 | 192..=215 | 223 | 45 | 46 | 224..=247 | 255..=323 => Self::Utf8,
            // ucs2 and utf16; utf16le; utf32.
            35 | 90 | 128..=151 | 159 | 54 | 55 | 101..=124 => Self::Utf16Be,
            56 | 62 => Self::Utf16Le,
            60 | 61 | 160..=183 => Self::Utf32Be,
            1 | 84 => Self::Multi(&BIG5_SET),
            95 | 96 => Self::Multi(&CP932_SET),
            13 | 88 => Self::Multi(&SJIS_SET),
            19 | 85 => Self::Multi(&EUCKR_SET),
            24 | 86 => Self::Multi(&GB2312_SET),
            28 | 87 => Self::Multi(&GBK_SET),
            248..=250 => Self::Multi(&GB18030_SET),
            12 | 91 => Self::Multi(&UJIS_SET),
            97 | 98 => Self::Multi(&EUCJPMS_SET),
            10 | 82 => Self::Seven(&measured::SWE7),
            32 | 64 => Self::Single(&measured::ARMSCII8),
            26 | 34 | 44 | 66 | 99 => Self::Single(&measured::CP1250),
            14 | 23 | 50..=52 => Self::Single(&measured::CP1251),
            57 | 67 => Self::Single(&measured::CP1256),
            29 | 58 | 59 => Self::Single(&measured::CP1257),
            4 | 80 => Self::Single(&measured::CP850),
            40 | 81 => Self::Single(&measured::CP852),
            36 | 68 => Self::Single(&measured::CP866),
            3 | 69 => Self::Single(&measured::DEC8),
            92 | 93 => Self::Single(&measured::GEOSTD8),
            25 | 70 => Self::Single(&measured::GREEK),
            16 | 71 => Self::Single(&measured::HEBREW),
            6 | 72 => Self::Single(&measured::HP8),
            37 | 73 => Self::Single(&measured::KEYBCS2),
            7 | 74 => Self::Single(&measured::KOI8R),
            22 | 75 => Self::Single(&measured::KOI8U),
            5 | 8 | 15 | 31 | 47 | 48 | 49 | 94 => Self::Single(&measured::LATIN1),
            2 | 9 | 21 | 27 | 77 => Self::Single(&measured::LATIN2),
            30 | 78 => Self::Single(&measured::LATIN5),
            20 | 41 | 42 | 79 => Self::Single(&measured::LATIN7),
            38 | 43 => Self::Single(&measured::MACCE),
            39 | 53 => Self::Single(&measured::MACROMAN),
            18 | 89 => Self::Single(&measured::TIS620),
            other => {
                let message = format!("text of the character set with collation id {other} cannot be read");
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        })
    }

    /// By the name of a collation, which begins with that of the character set.
    ///
    /// # Errors
    /// `Unsupported` for a name that MySQL 9.7 does not have.
    pub(crate) fn named(collation: &str) -> Result<Self> {
        let name = collation.split('_').next().unwrap_or_default();
        let Some((_, id)) = NAMES.iter().find(|(known, _)| *known == name) else {
            let message = format!("text with collation `{collation}` cannot be read");
            return Err(Error::new(ErrorKind::Unsupported, message));
        };
        Self::of(*id)
    }

    /// Whether a server that converts to utf8mb4 says exactly what [`Charset::read`] says, whatever the bytes are.
    pub(crate) fn is_converted_exactly(self) -> bool {
        match self {
            // Nothing is converted.
            Self::Utf8 => true,
            Self::Single(table) => !table.contains(&0),
            _ => false,
        }
    }

    /// Whether ASCII text has the bytes of ASCII.
    pub(crate) fn holds_ascii(self) -> bool {
        matches!(self, Self::Utf8 | Self::Single(_) | Self::Multi(_))
    }

    /// The text that the bytes are, and whether a part of it was replaced, which [`MalformedText::Replace`] does.
    ///
    /// # Errors
    /// `Decode` if they are none, without the value.
    pub(crate) fn read<'a>(self, value: &'a [u8], malformed: MalformedText, scratch: &'a mut String) -> Result<(&'a str, bool)> {
        scratch.clear();
        if let Self::Utf8 = self
            && let Ok(text) = std::str::from_utf8(value)
        {
            return Ok((text, false));
        }
        if let Self::Unsaid = self {
            let ascii = std::str::from_utf8(value).ok().filter(|text| text.is_ascii() && !text.contains('\0'));
            let unsaid = || Error::decode("the server does not say in which character set this is; the next run can ask for it");
            return ascii.map(|text| (text, false)).ok_or_else(unsaid);
        }
        if self.convert(value, scratch, || None).is_some() {
            return Ok((scratch, false));
        }
        if malformed == MalformedText::Replace {
            scratch.clear();
            self.convert(value, scratch, || Some(char::REPLACEMENT_CHARACTER));
            return Ok((scratch, true));
        }
        Err(Error::decode("the server sent text that is not valid in its character set (`malformed_text` says what becomes of it)"))
    }

    /// The text that the bytes are.
    ///
    /// # Errors
    /// `Decode` if they are none, without the value.
    pub(crate) fn decode<'a>(self, value: &'a [u8], scratch: &'a mut String) -> Result<&'a str> {
        self.read(value, MalformedText::Error, scratch).map(|(text, _)| text)
    }

    /// Appends the text that the bytes are, and for each part that is none what `other` gives; `None` where that gives nothing.
    fn convert(self, value: &[u8], into: &mut String, other: fn() -> Option<char>) -> Option<()> {
        match self {
            Self::Utf8 | Self::Unsaid => {
                for chunk in value.utf8_chunks() {
                    into.push_str(chunk.valid());
                    if !chunk.invalid().is_empty() {
                        into.push(other()?);
                    }
                }
                Some(())
            }
            Self::Single(table) => value.iter().try_for_each(|&byte| {
                into.push(if byte < 0x80 { char::from(byte) } else { entry(table, byte - 0x80).or_else(other)? });
                Some(())
            }),
            Self::Seven(table) => value.iter().try_for_each(|&byte| {
                into.push(if byte == 0 { '\0' } else { entry(table, byte).or_else(other)? });
                Some(())
            }),
            Self::Multi(multi) => multi.convert(value, into, other),
            Self::Utf16Be => utf16(value, u16::from_be_bytes, into, other),
            Self::Utf16Le => utf16(value, u16::from_le_bytes, into, other),
            Self::Utf32Be => utf32(value, into, other),
        }
    }
}

fn entry(table: &[u16; 128], index: u8) -> Option<char> {
    let code = *table.get(usize::from(index))?;
    if code == 0 { None } else { char::from_u32(code.into()) }
}

fn utf16(value: &[u8], unit: fn([u8; 2]) -> u16, into: &mut String, other: fn() -> Option<char>) -> Option<()> {
    let (units, rest) = value.as_chunks::<2>();
    for decoded in char::decode_utf16(units.iter().map(|&pair| unit(pair))) {
        into.push(decoded.ok().or_else(other)?);
    }
    if !rest.is_empty() {
        into.push(other()?);
    }
    Some(())
}

fn utf32(value: &[u8], into: &mut String, other: fn() -> Option<char>) -> Option<()> {
    let (units, rest) = value.as_chunks::<4>();
    for &unit in units {
        into.push(char::from_u32(u32::from_be_bytes(unit)).or_else(other)?);
    }
    if !rest.is_empty() {
        into.push(other()?);
    }
    Some(())
}

impl Multi {
    fn convert(&self, mut value: &[u8], into: &mut String, other: fn() -> Option<char>) -> Option<()> {
        while !value.is_empty() {
            let ascii = Encoding::ascii_valid_up_to(value);
            let (head, tail) = value.split_at_checked(ascii)?;
            into.push_str(std::str::from_utf8(head).ok()?);
            value = tail;
            if value.is_empty() {
                break;
            }
            let code = value.split_at_checked(self.length(value));
            if let Some((character, rest)) = code.and_then(|(code, rest)| Some((self.character(code)?, rest))) {
                into.push(character);
                value = rest;
                continue;
            }
            into.push(other()?);
            let (_, rest) = value.split_at_checked(self.length_of_none(value))?;
            value = rest;
        }
        Some(())
    }

    /// How many bytes make up what is no character: a whole code if it is formed like one, else a single byte, so that nothing after it is lost.
    fn length_of_none(&self, value: &[u8]) -> usize {
        let length = self.length(value);
        let is_code = match value.get(..length) {
            Some([0x80 | 0xa0 | 0xfd..=0xff, ..]) if self.has_kana => false,
            Some([0x80 | 0xff, ..]) => false,
            Some([_, second]) => *second >= 0x80 || self.has_ascii_seconds && matches!(second, 0x40..=0x7e),
            Some([_, 0xa1..=0xfe, 0xa1..=0xfe]) => true,
            Some([_, _, third, fourth]) => *third >= 0x81 && fourth.is_ascii_digit(),
            _ => false,
        };
        if is_code { length } else { 1 }
    }

    /// How many bytes the character takes that a byte from 0x80 on begins.
    fn length(&self, value: &[u8]) -> usize {
        match value {
            [0xa1..=0xdf, ..] if self.has_kana => 1,
            [0x8f, ..] if self.is_euc_jp => 3,
            [_, b'0'..=b'9', ..] if self.has_four => 4,
            _ => 2,
        }
    }

    fn character(&self, code: &[u8]) -> Option<char> {
        let number = code.iter().fold(0, |number, &byte| number << 8 | u32::from(byte));
        if let Ok(at) = self.others.binary_search_by_key(&number, |&(code, _)| code) {
            return self.others.get(at).map(|&(_, character)| character);
        }
        let after = self.unassigned.partition_point(|&(_, last)| last < number);
        if self.unassigned.get(after).is_some_and(|&(first, _)| first <= number) {
            return None;
        }
        if self.is_euc_jp
            && let [front @ .., row @ 0xf5..=0xfe, cell @ 0xa1..=0xfe] = code
        {
            // Ten rows of 94, and ten more after 0x8f.
            let start = if front.is_empty() { 0xe000 } else { 0xe3ac };
            return char::from_u32(start + u32::from(row - 0xf5) * 94 + u32::from(cell - 0xa1));
        }
        let text = self.standard.decode_without_bom_handling_and_without_replacement(code)?;
        let mut characters = text.chars();
        characters.next().filter(|_| characters.next().is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(collation: u64, bytes: &[u8]) -> Option<String> {
        let mut scratch = String::new();
        Charset::of(collation).unwrap().decode(bytes, &mut scratch).ok().map(str::to_owned)
    }

    #[test]
    fn text_of_each_kind_of_character_set_is_read() {
        for (collation, bytes, expected) in [
            (8, &b"\x80 \xfc\x81"[..], "€ ü\u{81}"),
            (51, b"\xcf\xf0\xe8\xe2\xe5\xf2", "Привет"),
            (10, b"sm|rg}s", "smörgås"),
            (28, b"a\xc4\xe3b", "a你b"),
            (1, b"\xa7A\xa6n\\", "你好\\"),
            (13, b"\x83e\xb1\x81_", "テｱ\\"),
            (95, b"\x81_", "＼"),
            (12, b"\xa4\xa2\x8e\xb1\x8f\xb0\xa1\xf5\xa1\x8f\xf5\xa1", "あｱ丂\u{e000}\u{e3ac}"),
            (19, b"\xb0\xa1\xb3\xaa", "가나"),
            (248, b"\x81\x30\x84\x36\x95\x32\x82\x36\xc4\xe3", "¥𠀀你"),
            (35, b"\x00a\x20\xac", "a€"),
            (56, b"a\x00\x3d\xd8\x00\xde", "a😀"),
            (60, b"\x00\x01\xf6\x00", "😀"),
            (45, "😀".as_bytes(), "😀"),
        ] {
            assert_eq!(decoded(collation, bytes).as_deref(), Some(expected), "{collation}");
        }
    }

    #[test]
    fn what_is_no_text_is_an_error() {
        for (collation, bytes) in [
            (26, &b"\x81"[..]),
            (10, b"\x80"),
            (28, b"a\xc4"),
            (28, b"\x80"),
            (95, b"\x80"),
            (12, b"\x8f\xb0"),
            (248, b"\x81\x30\x84"),
            (19, b"\xff\xff"),
            (35, b"\x00"),
            (54, b"\xd8\x3d"),
            (60, b"\x00\x11\x00\x00"),
            (45, b"\xff"),
        ] {
            assert_eq!(decoded(collation, bytes), None, "{collation}");
        }
        assert!(Charset::of(2048).is_err());
    }

    #[test]
    fn each_part_that_is_no_text_is_replaced_and_nothing_else() {
        for (collation, bytes, expected) in [
            (45, &b"a\xffb\xe2\x82c"[..], "a\u{fffd}b\u{fffd}c"),
            (26, b"a\x81b", "a\u{fffd}b"),
            (10, b"a\x80", "a\u{fffd}"),
            // A code that is not assigned is one part; what only begins like a code takes nothing with it.
            (28, b"a\xa2\xa0b", "a\u{fffd}b"),
            (28, b"\xa2@b", "\u{fffd}b"),
            (28, b"a\x80b\xff\xc4\xe3\xc4", "a\u{fffd}b\u{fffd}你\u{fffd}"),
            (28, b"\xa2\n\xa2", "\u{fffd}\n\u{fffd}"),
            (13, b"\x81\xadb\xa0\x80c", "\u{fffd}b\u{fffd}\u{fffd}c"),
            (12, b"\x8f\xa1\xa1a\x8f\xb0b", "\u{fffd}a\u{fffd}\u{fffd}b"),
            (248, b"\x84\x31\xa5\x30a\x81\x30b", "\u{fffd}a\u{fffd}0b"),
            (35, b"\x00a\xd8\x00\x00b\x00", "a\u{fffd}b\u{fffd}"),
            (60, b"\x00\x11\x00\x00\x00\x00\x00a\x00", "\u{fffd}a\u{fffd}"),
        ] {
            let mut scratch = String::new();
            let charset = Charset::of(collation).unwrap();
            assert!(charset.read(bytes, MalformedText::Error, &mut scratch).is_err(), "{collation} {expected}");
            assert_eq!(charset.read(bytes, MalformedText::Replace, &mut scratch).unwrap(), (expected, true), "{collation}");
        }
        let mut scratch = String::new();
        assert_eq!(Charset::of(28).unwrap().read(b"a\xc4\xe3", MalformedText::Replace, &mut scratch).unwrap(), ("a你", false));
        assert!(Charset::Unsaid.read(b"\xff", MalformedText::Replace, &mut scratch).is_err());
    }

    #[test]
    fn tables_are_in_the_order_in_which_they_are_searched() {
        for set in [&BIG5_SET, &SJIS_SET, &GB2312_SET, &GB18030_SET, &UJIS_SET, &EUCJPMS_SET] {
            assert!(set.others.is_sorted_by_key(|&(code, _)| code), "{set:?}");
        }
        for set in [&BIG5_SET, &SJIS_SET, &GB2312_SET, &GBK_SET, &UJIS_SET] {
            assert!(set.unassigned.is_sorted() && set.unassigned.iter().all(|(first, last)| first <= last), "{set:?}");
        }
    }
}
