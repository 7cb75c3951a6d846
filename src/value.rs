//! Values as MySQL holds them.
//!
//! Nothing here rounds, clamps or forgets: dates may have a month or a day of zero, times go to 838 hours, decimals keep their digits as
//! text. Sinks turn these into what they can hold, by the policies of [`crate::policy`].

use std::fmt;

/// A date, or a date and a time of day, in MySQL's own range: `0000-00-00 00:00:00.000000` to `9999-12-31 23:59:59.999999`.
///
/// Month and day may be zero, and a day may lie past the end of its month, as far as the server's `sql_mode` lets such values in.
/// One word wide; the order is that of the calendar.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct DateTime(u64);

impl DateTime {
    /// Builds a value from its parts; `None` if one of them is outside MySQL's range.
    pub fn new(year: u16, month: u8, day: u8, hour: u8, minute: u8, second: u8, micros: u32) -> Option<Self> {
        let in_range = year <= 9999 && month <= 12 && day <= 31 && hour <= 23 && minute <= 59 && second <= 59 && micros <= 999_999;
        in_range.then_some(Self(
            u64::from(year) << 46
                | u64::from(month) << 42
                | u64::from(day) << 37
                | u64::from(hour) << 32
                | u64::from(minute) << 26
                | u64::from(second) << 20
                | u64::from(micros),
        ))
    }

    /// A date at midnight; `None` if a part is outside MySQL's range.
    pub fn from_date(year: u16, month: u8, day: u8) -> Option<Self> {
        Self::new(year, month, day, 0, 0, 0, 0)
    }

    /// The moment that lies `micros` microseconds after 1970-01-01 00:00:00 UTC; `None` outside the years 0 to 9999.
    pub fn from_unix_micros(micros: i64) -> Option<Self> {
        let days = micros.div_euclid(86_400_000_000);
        let of_day = u64::try_from(micros.rem_euclid(86_400_000_000)).ok()?;
        let (year, month, day) = civil_from_days(days);
        Self::new(
            u16::try_from(year).ok()?,
            u8::try_from(month).ok()?,
            u8::try_from(day).ok()?,
            u8::try_from(of_day / 3_600_000_000).ok()?,
            u8::try_from(of_day / 60_000_000 % 60).ok()?,
            u8::try_from(of_day / 1_000_000 % 60).ok()?,
            u32::try_from(of_day % 1_000_000).ok()?,
        )
    }

    fn bits(self, shift: u32, width: u32) -> u32 {
        // The widest part has 20 bits, so this never cuts anything off.
        #[allow(clippy::cast_possible_truncation)]
        {
            (self.0 >> shift) as u32 & ((1 << width) - 1)
        }
    }

    /// 0 to 9999.
    pub fn year(self) -> u32 {
        self.bits(46, 14)
    }

    /// 0 to 12.
    pub fn month(self) -> u32 {
        self.bits(42, 4)
    }

    /// 0 to 31.
    pub fn day(self) -> u32 {
        self.bits(37, 5)
    }

    /// 0 to 23.
    pub fn hour(self) -> u32 {
        self.bits(32, 5)
    }

    /// 0 to 59.
    pub fn minute(self) -> u32 {
        self.bits(26, 6)
    }

    /// 0 to 59.
    pub fn second(self) -> u32 {
        self.bits(20, 6)
    }

    /// 0 to 999,999.
    pub fn micros(self) -> u32 {
        self.bits(0, 20)
    }

    /// Midnight of the same day.
    pub(crate) fn truncated_to_day(self) -> Self {
        Self(self.0 >> 37 << 37)
    }

    /// The same moment with only `fraction` digits (0 to 6) after the second.
    pub(crate) fn truncated(self, fraction: u8) -> Self {
        let step = 10_u64.pow(6 - u32::from(fraction.min(6)));
        Self(self.0 - u64::from(self.micros()) % step)
    }

    /// Days since 1970-01-01; `None` if the calendar has no such day (a zero date, a partial date, 30 February).
    pub fn unix_days(self) -> Option<i32> {
        let (year, month, day) = (self.year(), self.month(), self.day());
        if month == 0 || day == 0 || day > days_in_month(year, month) {
            return None;
        }
        Some(days_from_civil(year, month, day))
    }

    /// Microseconds since 1970-01-01 00:00:00; `None` if the calendar has no such day.
    pub fn unix_micros(self) -> Option<i64> {
        let seconds = i64::from(self.hour() * 3600 + self.minute() * 60 + self.second());
        Some(i64::from(self.unix_days()?) * 86_400_000_000 + seconds * 1_000_000 + i64::from(self.micros()))
    }

    /// Prints the date part, as MySQL does.
    pub fn date_text(self) -> String {
        format!("{:04}-{:02}-{:02}", self.year(), self.month(), self.day())
    }

    /// Prints date and time with `fraction` digits (0 to 6) after the second, as MySQL does.
    pub fn text(self, fraction: u8) -> String {
        let mut text = format!("{} {:02}:{:02}:{:02}", self.date_text(), self.hour(), self.minute(), self.second());
        push_fraction(&mut text, self.micros(), fraction);
        text
    }

    /// Reads `YYYY-MM-DD`, alone or followed by ` hh:mm:ss` and a fraction of up to six digits.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (date, time) = if text.len() > 10 { (&text[..10], Some(&text[10..])) } else { (text, None) };
        let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *date else { return None };
        let year = digits(&[y1, y2, y3, y4])?;
        let (month, day) = (digits(&[m1, m2])?, digits(&[d1, d2])?);
        let (mut hour, mut minute, mut second, mut micros) = (0, 0, 0, 0);
        if let Some(time) = time {
            let (whole, fraction) = if time.len() > 9 { time.split_at(9) } else { (time, &[][..]) };
            let [b' ' | b'T', h1, h2, b':', i1, i2, b':', s1, s2] = *whole else { return None };
            (hour, minute, second) = (digits(&[h1, h2])?, digits(&[i1, i2])?, digits(&[s1, s2])?);
            micros = parse_fraction(fraction)?;
        }
        Self::new(
            u16::try_from(year).ok()?,
            u8::try_from(month).ok()?,
            u8::try_from(day).ok()?,
            u8::try_from(hour).ok()?,
            u8::try_from(minute).ok()?,
            u8::try_from(second).ok()?,
            micros,
        )
    }
}

impl fmt::Debug for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(6))
    }
}

/// A span of time in microseconds: -838:59:59.000000 to 838:59:59.000000.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Time(i64);

impl Time {
    const LIMIT: i64 = (838 * 3600 + 59 * 60 + 59) * 1_000_000 + 999_999;

    /// Builds a span; `None` outside MySQL's range.
    pub fn from_micros(micros: i64) -> Option<Self> {
        (micros.abs() <= Self::LIMIT).then_some(Self(micros))
    }

    /// The span in microseconds.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// The same span with only `fraction` digits (0 to 6) after the second, so nearer to zero where it has more.
    pub(crate) fn truncated(self, fraction: u8) -> Self {
        let step = 10_i64.pow(6 - u32::from(fraction.min(6)));
        Self(self.0 - self.0 % step)
    }

    /// Prints `[-]hh[h]:mm:ss` with `fraction` digits (0 to 6) after the second, as MySQL does.
    pub fn text(self, fraction: u8) -> String {
        let micros = self.0.unsigned_abs();
        let seconds = micros / 1_000_000;
        let sign = if self.0 < 0 { "-" } else { "" };
        let mut text = format!("{sign}{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        push_fraction(&mut text, u32::try_from(micros % 1_000_000).unwrap_or(0), fraction);
        text
    }

    /// Reads `[-]h:mm:ss` with up to three digits of hours and up to six digits of a fraction.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (negative, text) = match text.strip_prefix(b"-") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let colon = text.iter().position(|&byte| byte == b':').filter(|at| (1..=3).contains(at))?;
        let (hours, rest) = text.split_at(colon);
        let (whole, fraction) = if rest.len() > 6 { rest.split_at(6) } else { (rest, &[][..]) };
        let [b':', i1, i2, b':', s1, s2] = *whole else { return None };
        let (minute, second) = (digits(&[i1, i2])?, digits(&[s1, s2])?);
        if minute > 59 || second > 59 {
            return None;
        }
        let seconds = i64::from(digits(hours)?) * 3600 + i64::from(minute * 60 + second);
        let micros = seconds * 1_000_000 + i64::from(parse_fraction(fraction)?);
        Self::from_micros(if negative { -micros } else { micros })
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(6))
    }
}

/// A value that borrows from the batch it lies in.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum ValueRef<'a> {
    /// SQL NULL; JSON's `null` is a [`ValueRef::Json`].
    Null,
    /// The truth value of `_cdc_deleted`.
    Boolean(bool),
    /// Signed numbers, unsigned ones of up to 32 bits, and years.
    Int(i64),
    /// `BIGINT UNSIGNED`.
    UInt(u64),
    /// `FLOAT`.
    Float(f32),
    /// `DOUBLE`.
    Double(f64),
    /// `DECIMAL`: an optional minus, at least one digit, and as many digits after the point as the column has.
    Decimal(&'a str),
    /// `DATE`; the time of day is midnight.
    Date(DateTime),
    /// `DATETIME`.
    DateTime(DateTime),
    /// `TIMESTAMP`, in UTC.
    Timestamp(DateTime),
    /// `TIME`.
    Time(Time),
    /// Text, the string of an `ENUM`, the joined strings of a `SET`.
    Text(&'a str),
    /// A JSON document.
    Json(&'a str),
    /// Bytes; also spatial values (SRID, then WKB) and vectors.
    Bytes(&'a [u8]),
    /// Bits, big endian, in as few bytes as hold the column's width.
    Bit(&'a [u8]),
}

impl fmt::Display for ValueRef<'_> {
    /// Prints the value for people: text without quotes, bytes and bits in hexadecimal as `0x…`, NULL as `NULL`, the fraction of a second with
    /// six digits where there is one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fraction = |micros: i64| if micros % 1_000_000 == 0 { 0 } else { 6 };
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Boolean(value) => value.fmt(f),
            Self::Int(number) => number.fmt(f),
            Self::UInt(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
            Self::Double(number) => number.fmt(f),
            Self::Decimal(text) | Self::Text(text) | Self::Json(text) => f.write_str(text),
            Self::Date(date) => f.write_str(&date.date_text()),
            Self::DateTime(at) | Self::Timestamp(at) => f.write_str(&at.text(fraction(i64::from(at.micros())))),
            Self::Time(time) => f.write_str(&time.text(fraction(time.micros()))),
            Self::Bytes(bytes) | Self::Bit(bytes) => {
                f.write_str("0x")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

fn push_fraction(text: &mut String, micros: u32, fraction: u8) {
    if fraction > 0 {
        let digits = format!("{micros:06}");
        text.push('.');
        text.push_str(&digits[..usize::from(fraction.min(6))]);
    }
}

fn digits(text: &[u8]) -> Option<u32> {
    let mut number = 0_u32;
    for &byte in text {
        if !byte.is_ascii_digit() {
            return None;
        }
        number = number * 10 + u32::from(byte - b'0');
    }
    Some(number)
}

/// `.d` to `.dddddd` in microseconds; nothing is zero.
fn parse_fraction(text: &[u8]) -> Option<u32> {
    match text {
        [] => Some(0),
        [b'.', rest @ ..] if (1..=6).contains(&rest.len()) => {
            let missing = u32::try_from(6 - rest.len()).ok()?;
            Some(digits(rest)? * 10_u32.pow(missing))
        }
        _ => None,
    }
}

fn days_in_month(year: u32, month: u32) -> u32 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days between 1970-01-01 and a day of the proleptic Gregorian calendar. Years are counted from March, so that the leap day is the last.
fn days_from_civil(year: u32, month: u32, day: u32) -> i32 {
    // All parts are far below i32's range.
    let [year, month, day] = [year, month, day].map(|part| i32::try_from(part).unwrap_or(i32::MAX));
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_print_for_people() {
        let at = |text: &str| DateTime::parse(text.as_bytes()).unwrap();
        for (value, expected) in [
            (ValueRef::Null, "NULL"),
            (ValueRef::UInt(u64::MAX), "18446744073709551615"),
            (ValueRef::Float(3.99), "3.99"),
            (ValueRef::Decimal("-0.50"), "-0.50"),
            (ValueRef::Date(at("2016-07-00")), "2016-07-00"),
            (ValueRef::DateTime(at("2024-01-02 03:04:05")), "2024-01-02 03:04:05"),
            (ValueRef::Timestamp(at("2024-01-02 03:04:05.5")), "2024-01-02 03:04:05.500000"),
            (ValueRef::Time(Time::parse(b"-838:59:58.900001").unwrap()), "-838:59:58.900001"),
            (ValueRef::Text("it's"), "it's"),
            (ValueRef::Bytes(&[0, 255]), "0x00ff"),
        ] {
            assert_eq!(value.to_string(), expected);
        }
    }

    #[test]
    fn dates_print_as_they_were_read() {
        for text in ["0000-00-00", "2016-07-00", "9999-12-31", "2024-02-29"] {
            assert_eq!(DateTime::parse(text.as_bytes()).unwrap().date_text(), text);
        }
        assert_eq!(DateTime::parse(b"2024-01-02 03:04:05.006").unwrap().text(6), "2024-01-02 03:04:05.006000");
        assert_eq!(DateTime::parse(b"0000-00-00 00:00:00").unwrap().text(0), "0000-00-00 00:00:00");
        for text in ["2024-13-01", "2024-1-1", "2024-01-01 24:00:00", "2024-01-01 00:00:00.", "2024-01-01 00:00:00.1234567", ""] {
            assert_eq!(DateTime::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn days_that_no_calendar_has_are_not_moments() {
        for text in ["0000-00-00", "2016-07-00", "2016-00-07", "2023-02-29", "2024-04-31"] {
            assert_eq!(DateTime::parse(text.as_bytes()).unwrap().unix_micros(), None, "{text}");
        }
    }

    #[test]
    fn every_day_survives_the_way_to_unix_days_and_back() {
        let mut expected = DateTime::parse(b"0000-01-01").unwrap().unix_days().unwrap();
        for year in 0..=9999_u16 {
            for month in 1..=12_u8 {
                for day in 1..=days_in_month(u32::from(year), u32::from(month)) {
                    let date = DateTime::from_date(year, month, u8::try_from(day).unwrap()).unwrap();
                    assert_eq!(date.unix_days(), Some(expected));
                    assert_eq!(DateTime::from_unix_micros(i64::from(expected) * 86_400_000_000), Some(date));
                    expected += 1;
                }
            }
        }
        assert_eq!(DateTime::parse(b"1970-01-01").unwrap().unix_days(), Some(0));
    }

    #[test]
    fn times_keep_sign_hours_and_fraction() {
        for text in ["-838:59:59.000001", "838:59:59.000000", "00:00:00.000000", "-00:00:01.500000"] {
            assert_eq!(Time::parse(text.as_bytes()).unwrap().text(6), text);
        }
        for text in ["839:00:00", "1:60:00", "1:2:3", "", ":00:00", "1234:00:00"] {
            assert_eq!(Time::parse(text.as_bytes()), None, "{text}");
        }
    }
}
