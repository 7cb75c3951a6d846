//! Text in MySQL's character sets.
//!
//! VStream converts nothing: a column's bytes come as they are stored, with the id of their collation. They become the Unicode text that a server
//! makes of them, so that a value is the same whichever way it comes. Where MySQL knows no character, there is an error, as for malformed text.

mod measured;

use encoding_rs::{BIG5, EUC_JP, EUC_KR, Encoding, GB18030, GBK, SHIFT_JIS};

use crate::{Error, ErrorKind, Result};

/// How the bytes of a text column are to be read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Charset {
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
pub(super) struct Multi {
    /// What most codes are.
    standard: &'static Encoding,
    /// Those that are something else, in order.
    others: &'static [(u32, char)],
    /// Whether 0x8f begins three bytes, and rows from 0xf5 on are for private use: EUC-JP.
    is_euc_jp: bool,
    /// Whether a digit as the second byte stands for two more.
    has_four: bool,
    /// Whether a byte from 0xa1 to 0xdf is a character of its own, and 0xa0 and 0xfd to 0xff are none.
    has_kana: bool,
}

const PLAIN: Multi = Multi { standard: GBK, others: &[], is_euc_jp: false, has_four: false, has_kana: false };
static BIG5_SET: Multi = Multi { standard: BIG5, others: &measured::BIG5, ..PLAIN };
static CP932_SET: Multi = Multi { standard: SHIFT_JIS, has_kana: true, ..PLAIN };
static SJIS_SET: Multi = Multi { standard: SHIFT_JIS, others: &measured::SJIS, has_kana: true, ..PLAIN };
static EUCKR_SET: Multi = Multi { standard: EUC_KR, ..PLAIN };
static GB2312_SET: Multi = Multi { others: &measured::GB2312, ..PLAIN };
static GBK_SET: Multi = PLAIN;
static GB18030_SET: Multi = Multi { standard: GB18030, others: &measured::GB18030, has_four: true, ..PLAIN };
static UJIS_SET: Multi = Multi { standard: EUC_JP, others: &measured::UJIS, is_euc_jp: true, ..PLAIN };
static EUCJPMS_SET: Multi = Multi { standard: EUC_JP, others: &measured::EUCJPMS, is_euc_jp: true, ..PLAIN };

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
    pub(super) fn of(collation: u64) -> Result<Self> {
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
    pub(super) fn named(collation: &str) -> Result<Self> {
        let name = collation.split('_').next().unwrap_or_default();
        let Some((_, id)) = NAMES.iter().find(|(known, _)| *known == name) else {
            let message = format!("text with collation `{collation}` cannot be read");
            return Err(Error::new(ErrorKind::Unsupported, message));
        };
        Self::of(*id)
    }

    /// The text that the bytes are.
    ///
    /// # Errors
    /// `Decode` if they are none, without the value.
    pub(super) fn decode<'a>(self, value: &'a [u8], scratch: &'a mut String) -> Result<&'a str> {
        let invalid = || Error::decode("the server sent text that is not valid in its character set");
        scratch.clear();
        let decoded = match self {
            Self::Utf8 => return std::str::from_utf8(value).map_err(|_| invalid()),
            Self::Unsaid => {
                let ascii = std::str::from_utf8(value).ok().filter(|text| text.is_ascii() && !text.contains('\0'));
                return ascii
                    .ok_or_else(|| Error::decode("the server does not say in which character set this is; the next run can ask for it"));
            }
            Self::Single(table) => value.iter().try_for_each(|&byte| {
                scratch.push(if byte < 0x80 { char::from(byte) } else { entry(table, byte - 0x80)? });
                Some(())
            }),
            Self::Seven(table) => value.iter().try_for_each(|&byte| {
                scratch.push(if byte == 0 { '\0' } else { entry(table, byte)? });
                Some(())
            }),
            Self::Multi(multi) => multi.decode(value, scratch),
            Self::Utf16Be => utf16(value, u16::from_be_bytes, scratch),
            Self::Utf16Le => utf16(value, u16::from_le_bytes, scratch),
            Self::Utf32Be => utf32(value, scratch),
        };
        decoded.map(|()| &**scratch).ok_or_else(invalid)
    }
}

fn entry(table: &[u16; 128], index: u8) -> Option<char> {
    let code = *table.get(usize::from(index))?;
    if code == 0 { None } else { char::from_u32(code.into()) }
}

fn utf16(value: &[u8], unit: fn([u8; 2]) -> u16, into: &mut String) -> Option<()> {
    let (units, rest) = value.as_chunks::<2>();
    for decoded in char::decode_utf16(units.iter().map(|&pair| unit(pair))) {
        into.push(decoded.ok()?);
    }
    rest.is_empty().then_some(())
}

fn utf32(value: &[u8], into: &mut String) -> Option<()> {
    let (units, rest) = value.as_chunks::<4>();
    for &unit in units {
        into.push(char::from_u32(u32::from_be_bytes(unit))?);
    }
    rest.is_empty().then_some(())
}

impl Multi {
    fn decode(&self, mut value: &[u8], into: &mut String) -> Option<()> {
        while !value.is_empty() {
            let ascii = Encoding::ascii_valid_up_to(value);
            let (head, tail) = value.split_at_checked(ascii)?;
            into.push_str(std::str::from_utf8(head).ok()?);
            value = tail;
            if value.is_empty() {
                break;
            }
            let (code, rest) = value.split_at_checked(self.length(value))?;
            into.push(self.character(code)?);
            value = rest;
        }
        Some(())
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
    fn tables_are_in_the_order_in_which_they_are_searched() {
        for set in [&BIG5_SET, &SJIS_SET, &GB2312_SET, &GB18030_SET, &UJIS_SET, &EUCJPMS_SET] {
            assert!(set.others.is_sorted_by_key(|&(code, _)| code), "{set:?}");
        }
    }
}
