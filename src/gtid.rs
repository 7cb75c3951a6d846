//! GTID sets: which transactions a server has executed, or a position contains.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, PositionFault, Result};

/// A set of MySQL GTIDs: per server UUID (and tag, which MySQL 8.3 brought) the transaction numbers, as intervals.
///
/// Always normalised: intervals are sorted, and those that touch or overlap are joined, so two sets are equal exactly if they hold the same
/// transactions. Numbers go from 1 to 2^63-1. `Display` prints what MySQL prints, on one line: UUIDs in the order of their bytes and in
/// lower case, then the intervals without a tag, then each tag with its own: `uuid:1-5:7:tag:1-3,uuid:9`. The empty set prints as nothing.
///
/// ```
/// use planetscale_ingest::GtidSet;
///
/// let executed = GtidSet::parse("MySQL56/8bc65c84-3fe4-11ed-a912-257f0fcdd6c9:1-3:4-9")?;
/// let stored = GtidSet::parse("8BC65C84-3FE4-11ED-A912-257F0FCDD6C9:1-5")?;
/// assert!(executed.contains(&stored));
/// assert_eq!(executed.subtract(&stored).to_string(), "8bc65c84-3fe4-11ed-a912-257f0fcdd6c9:6-9");
/// # Ok::<(), planetscale_ingest::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct GtidSet {
    /// Never with an empty list.
    intervals: BTreeMap<Source, Vec<Interval>>,
}

/// The UUID by which a MySQL server signs its transactions (`server_uuid`). Prints in lower case with hyphens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerUuid([u8; 16]);

/// What numbers transactions on its own: a server, or one tag on it. Ordered as MySQL prints: no tag, which is empty here, comes first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Source {
    server: ServerUuid,
    tag: Box<str>,
}

/// Both ends belong to it, and `last` is below 2^63, so that one more always fits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Interval {
    first: u64,
    last: u64,
}

/// The flavour by which Vitess marks MySQL's GTID sets, since 5.6 had them first.
pub(crate) const FLAVOUR: &str = "MySQL56/";

impl GtidSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a set as MySQL prints it (`SELECT @@global.gtid_executed`), or as Vitess does, with `MySQL56/` before it.
    ///
    /// White space and line ends may stand around every part, UUIDs may repeat and be in upper case, and intervals may come in any order,
    /// touch and overlap. Empty text is the empty set. The time is that of sorting the text's parts, whatever its length.
    ///
    /// Some things that MySQL would take are refused, because no server prints them, so that in a stored text they are damage: an
    /// interval that runs backwards, a UUID or tag without an interval, a comma with nothing after it.
    ///
    /// # Errors
    /// [`Position`](crate::ErrorKind::Position) with [`Unreadable`](PositionFault::Unreadable), also for other flavours: `MariaDB/` and
    /// `FilePos/` are no GTID sets of MySQL.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim_ascii();
        let text = match text.split_once('/') {
            None => text,
            Some(("MySQL56", set)) => set.trim_ascii(),
            Some((flavour @ ("MariaDB" | "FilePos"), _)) => {
                return Err(unreadable(format!(
                    "a position of the flavour `{flavour}` cannot be read: only MySQL's GTID sets can (`MySQL56/…`)"
                )));
            }
            Some(_) => return Err(unreadable("the GTID set has an unknown flavour before the `/`: expected `MySQL56/`")),
        };
        let mut set = Self::default();
        if text.is_empty() {
            return Ok(set);
        }
        for (at, entry) in text.split(',').enumerate() {
            set.parse_entry(entry.trim_ascii())
                .map_err(|fault| unreadable(format!("the GTID set cannot be read: {fault} in entry {}", at + 1)))?;
        }
        set.intervals.values_mut().for_each(normalise);
        Ok(set)
    }

    /// Whether every transaction of `other` is in this set.
    pub fn contains(&self, other: &Self) -> bool {
        other.intervals.iter().all(|(source, theirs)| self.intervals.get(source).is_some_and(|ours| list_contains(ours, theirs)))
    }

    /// Adds every transaction of `other`.
    pub fn union(&mut self, other: &Self) {
        for (source, theirs) in &other.intervals {
            match self.intervals.entry(source.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert(theirs.clone());
                }
                // A growing set mostly contains what it is given already.
                Entry::Occupied(mut entry) if !list_contains(entry.get(), theirs) => {
                    let ours = entry.get_mut();
                    ours.extend_from_slice(theirs);
                    normalise(ours);
                }
                Entry::Occupied(_) => {}
            }
        }
    }

    /// The transactions of this set that `other` does not hold.
    #[must_use]
    pub fn subtract(&self, other: &Self) -> Self {
        let intervals = self
            .intervals
            .iter()
            .map(|(source, ours)| {
                let rest = other.intervals.get(source).map_or_else(|| ours.clone(), |theirs| list_subtract(ours, theirs));
                (source.clone(), rest)
            })
            .filter(|(_, rest)| !rest.is_empty())
            .collect();
        Self { intervals }
    }

    /// Whether the set holds no transaction.
    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }

    /// The servers whose transactions the set holds, each once, in the order of their bytes.
    pub fn sources(&self) -> impl Iterator<Item = ServerUuid> {
        let mut before = None;
        self.intervals.keys().filter_map(move |source| (before.replace(source.server) != Some(source.server)).then_some(source.server))
    }

    /// The set as Vitess writes it into a VGTID: `MySQL56/` and then what `Display` prints.
    pub fn to_vitess(&self) -> String {
        format!("{FLAVOUR}{self}")
    }

    /// The part whose servers are not in `known` at all.
    pub(crate) fn of_servers_unknown_to(&self, known: &Self) -> Self {
        let intervals = self
            .intervals
            .iter()
            // Tags are sorted after their server, so the first key at or after the bare server tells.
            .filter(|(source, _)| {
                let server = Source { server: source.server, tag: Box::default() };
                known.intervals.range(server..).next().is_none_or(|(found, _)| found.server != source.server)
            })
            .map(|(source, intervals)| (source.clone(), intervals.clone()))
            .collect();
        Self { intervals }
    }

    /// For error messages: a set can be megabytes, a sentence shows its beginning and counts the rest.
    pub(crate) fn abbreviated(&self) -> String {
        const SHOWN: usize = 4;
        let total: usize = self.intervals.values().map(Vec::len).sum();
        let mut room = SHOWN;
        let shown = self
            .intervals
            .iter()
            .map_while(|(source, intervals)| {
                let kept: Vec<_> = intervals.iter().take(room).copied().collect();
                room -= kept.len();
                (!kept.is_empty()).then(|| (source.clone(), kept))
            })
            .collect();
        let shown = Self { intervals: shown };
        match total.saturating_sub(SHOWN) {
            0 => format!("`{shown}`"),
            1 => format!("`{shown}` and 1 more interval"),
            hidden => format!("`{shown}` and {hidden} more intervals"),
        }
    }

    /// One UUID with all that follows it up to the next comma. Leaves the lists as they came; the caller sorts each once at the end.
    fn parse_entry(&mut self, entry: &str) -> Result<(), &'static str> {
        let mut parts = entry.split(':').map(str::trim_ascii);
        let server = match parts.next() {
            None | Some("") => return Err("nothing between commas"),
            Some(uuid) => ServerUuid::from_text(uuid).ok_or("a malformed server UUID")?,
        };
        let mut tag = Box::default();
        let mut intervals = Vec::new();
        for (at, part) in parts.enumerate() {
            if part.starts_with(|c: char| c.is_ascii_digit()) {
                intervals.push(Interval::from_text(part)?);
                continue;
            }
            let next = parse_tag(part)?;
            // Directly after the UUID a tag may stand: such a set has nothing without a tag.
            if at > 0 {
                self.add(Source { server, tag }, &mut intervals)?;
            }
            tag = next;
        }
        self.add(Source { server, tag }, &mut intervals)
    }

    fn add(&mut self, source: Source, intervals: &mut Vec<Interval>) -> Result<(), &'static str> {
        if intervals.is_empty() {
            return Err("a server UUID or tag without an interval");
        }
        self.intervals.entry(source).or_default().append(intervals);
        Ok(())
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = None;
        for (source, intervals) in &self.intervals {
            if before != Some(source.server) {
                let comma = if before.is_some() { "," } else { "" };
                write!(f, "{comma}{}", source.server)?;
                before = Some(source.server);
            }
            if !source.tag.is_empty() {
                write!(f, ":{}", source.tag)?;
            }
            for Interval { first, last } in intervals {
                write!(f, ":{first}")?;
                if last > first {
                    write!(f, "-{last}")?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GtidSet({self})")
    }
}

impl FromStr for GtidSet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl ServerUuid {
    /// The 16 bytes, as MySQL writes them into the binary log.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// `8-4-4-4-12` hexadecimal digits in either case; nothing else, though MySQL would also take braces and no hyphens.
    fn from_text(text: &str) -> Option<Self> {
        let text: &[u8; 36] = text.as_bytes().try_into().ok()?;
        let mut bytes = [0; 16];
        let mut digits = text.iter().enumerate();
        for byte in &mut bytes {
            let (at, digit) = digits.next()?;
            let high = match (at, digit) {
                (8 | 13 | 18 | 23, b'-') => digits.next().and_then(|(_, digit)| hex(*digit))?,
                (8 | 13 | 18 | 23, _) => return None,
                (_, digit) => hex(*digit)?,
            };
            let (_, digit) = digits.next()?;
            *byte = high << 4 | hex(*digit)?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for ServerUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let hyphen = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{hyphen}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ServerUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerUuid({self})")
    }
}

impl Interval {
    fn from_text(text: &str) -> Result<Self, &'static str> {
        let (first, last) = match text.split_once('-') {
            None => (text, text),
            Some((first, last)) => (first.trim_ascii_end(), last.trim_ascii_start()),
        };
        let (first, last) = (parse_number(first)?, parse_number(last)?);
        if first > last { Err("an interval that runs backwards") } else { Ok(Self { first, last }) }
    }
}

fn unreadable(message: impl Into<String>) -> Error {
    Error::position_fault_of(PositionFault::Unreadable, message)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn parse_number(text: &str) -> Result<u64, &'static str> {
    // `str::parse` alone would take a leading plus sign.
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("a malformed interval");
    }
    match text.parse() {
        Ok(number) if (1..=i64::MAX.unsigned_abs()).contains(&number) => Ok(number),
        _ => Err("a transaction number outside 1 to 2^63-1"),
    }
}

/// One to 32 letters, digits and underscores, not beginning with a digit; MySQL keeps them in lower case.
fn parse_tag(text: &str) -> Result<Box<str>, &'static str> {
    let is_tag = (1..=32).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !text.starts_with(|c: char| c.is_ascii_digit());
    if is_tag { Ok(text.to_ascii_lowercase().into()) } else { Err("a malformed interval or tag") }
}

/// Sorts the intervals and joins those that touch or overlap.
fn normalise(intervals: &mut Vec<Interval>) {
    if !intervals.is_sorted() {
        intervals.sort_unstable();
    }
    intervals.dedup_by(|next, kept| {
        let joins = next.first <= kept.last + 1;
        if joins {
            kept.last = kept.last.max(next.last);
        }
        joins
    });
}

/// Both lists are normalised, so an interval of `theirs` can only be inside a single one of `ours`.
fn list_contains(ours: &[Interval], theirs: &[Interval]) -> bool {
    let mut ours = ours.iter().peekable();
    theirs.iter().all(|their| {
        while ours.next_if(|our| our.last < their.first).is_some() {}
        ours.peek().is_some_and(|our| our.first <= their.first && their.last <= our.last)
    })
}

fn list_subtract(ours: &[Interval], theirs: &[Interval]) -> Vec<Interval> {
    let mut rest = Vec::new();
    let mut theirs = theirs.iter().peekable();
    for our in ours {
        let mut first = our.first;
        while theirs.next_if(|their| their.last < first).is_some() {}
        // One of theirs may reach into several of ours, so it is only looked at; one that ends inside ours is done with.
        while let Some(their) = theirs.peek().filter(|their| their.first <= our.last) {
            if first < their.first {
                rest.push(Interval { first, last: their.first - 1 });
            }
            first = their.last + 1;
            if first > our.last {
                break;
            }
            theirs.next();
        }
        if first <= our.last {
            rest.push(Interval { first, last: our.last });
        }
    }
    rest
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const A: &str = "0a000000-0000-0000-0000-000000000001";
    const B: &str = "b0000000-0000-0000-0000-000000000002";

    pub(crate) fn set(text: &str) -> GtidSet {
        let text = text.replace('A', A).replace('B', B);
        GtidSet::parse(&text).unwrap()
    }

    #[test]
    fn sets_print_in_one_form_however_they_were_written() {
        let upper = A.to_uppercase();
        let cases = [
            (String::new(), String::new()),
            ("  \n".into(), String::new()),
            ("MySQL56/".into(), String::new()),
            (format!("{A}:1-5"), format!("{A}:1-5")),
            (format!("MySQL56/{A}:1-5"), format!("{A}:1-5")),
            (format!(" MySQL56/ {A} : 1 - 5 : 7 \n"), format!("{A}:1-5:7")),
            (format!("{upper}:1-5"), format!("{A}:1-5")),
            (format!("{B}:1,\n{A}:2"), format!("{A}:2,{B}:1")),
            (format!("{A}:1,{B}:3,{A}:2"), format!("{A}:1-2,{B}:3")),
            (format!("{A}:7:1-2:3-4:4-5:2"), format!("{A}:1-5:7")),
            (format!("{A}:1-9:3-4"), format!("{A}:1-9")),
            (format!("{A}:5-5"), format!("{A}:5")),
            (format!("{A}:9223372036854775806-9223372036854775807"), format!("{A}:9223372036854775806-9223372036854775807")),
            (format!("{A}:9223372036854775807:9223372036854775807"), format!("{A}:9223372036854775807")),
            (format!("{A}:1-2:blue:4:3:GREEN:1"), format!("{A}:1-2:blue:3-4:green:1")),
            (format!("{A}:green:1,{A}:blue:2,{A}:3,{B}:_b2:1"), format!("{A}:3:blue:2:green:1,{B}:_b2:1")),
        ];
        for (text, canonical) in cases {
            let set = GtidSet::parse(&text).unwrap();
            assert_eq!(set.to_string(), canonical, "{text:?}");
            assert_eq!(set.to_vitess(), format!("MySQL56/{canonical}"));
        }
    }

    #[test]
    fn damaged_sets_are_refused_by_name() {
        let long_tag = "a".repeat(33);
        let cases = [
            ("MariaDB/0-1-270".into(), "flavour `MariaDB`"),
            ("FilePos/binlog.000001:4".into(), "flavour `FilePos`"),
            (format!("mysql56/{A}:1"), "unknown flavour"),
            (format!("/{A}:1"), "unknown flavour"),
            (format!("MySQL56/MySQL56/{A}:1"), "malformed server UUID in entry 1"),
            ("current".into(), "malformed server UUID in entry 1"),
            ("0-1-270".into(), "malformed server UUID in entry 1"),
            (format!("{}:1", &A[..35]), "malformed server UUID"),
            (format!("{A}0:1"), "malformed server UUID"),
            (format!("{}:1", A.replace('-', "0")), "malformed server UUID"),
            (format!("{}:1", A.replacen('0', "g", 1)), "malformed server UUID"),
            (format!("{A}:1,"), "nothing between commas in entry 2"),
            (format!(",{A}:1"), "nothing between commas in entry 1"),
            (format!("{A}:1,,{B}:1"), "nothing between commas in entry 2"),
            (A.into(), "without an interval in entry 1"),
            (format!("{B}:1,{A}"), "without an interval in entry 2"),
            (format!("{A}:blue"), "without an interval"),
            (format!("{A}:blue:green:1"), "without an interval"),
            (format!("{A}:1:blue"), "without an interval"),
            (format!("{A}:"), "malformed interval or tag"),
            (format!("{A}::1"), "malformed interval or tag"),
            (format!("{A}:-1"), "malformed interval or tag"),
            (format!("{A}:+1"), "malformed interval or tag"),
            (format!("{A}:{long_tag}:1"), "malformed interval or tag"),
            (format!("{A}:bl-ue:1"), "malformed interval or tag"),
            (format!("{A}:1-"), "malformed interval in"),
            (format!("{A}:1-+2"), "malformed interval in"),
            (format!("{A}:1-2-3"), "malformed interval in"),
            (format!("{A}:1a"), "malformed interval in"),
            (format!("{A}:5-3"), "backwards"),
            (format!("{A}:0"), "outside 1 to 2^63-1"),
            (format!("{A}:1-9223372036854775808"), "outside 1 to 2^63-1"),
            (format!("{A}:99999999999999999999999"), "outside 1 to 2^63-1"),
        ];
        for (text, fragment) in cases {
            let error = GtidSet::parse(&text).unwrap_err();
            assert_eq!(error.position_fault(), Some(PositionFault::Unreadable), "{text:?}");
            assert!(error.to_string().contains(fragment), "{text:?}: {error}");
            assert!(!error.to_string().contains(A), "{text:?}: {error}");
        }
    }

    #[test]
    fn tags_number_transactions_apart() {
        assert!(!set("A:1-5").contains(&set("A:blue:1")));
        assert!(!set("A:blue:1-5").contains(&set("A:1")));
        assert_eq!(set("A:1-5:blue:1-5").subtract(&set("A:blue:2-9")), set("A:1-5:blue:1"));
    }

    #[test]
    fn sources_name_each_server_once() {
        let set = set("B:1,A:1:blue:1:green:1");
        assert_eq!(set.sources().map(|server| server.to_string()).collect::<Vec<_>>(), [A, B]);
        assert_eq!(set.sources().next().unwrap().as_bytes()[0], 0x0a);
    }

    #[test]
    fn a_server_is_known_by_any_of_its_tags() {
        assert_eq!(set("A:9:blue:7,B:1:green:1").of_servers_unknown_to(&set("A:red:1")), set("B:1:green:1"));
        assert!(set("A:9:blue:7").of_servers_unknown_to(&set("A:1")).is_empty());
        assert_eq!(set("A:blue:7").of_servers_unknown_to(&set("B:1")), set("A:blue:7"));
    }

    #[test]
    fn abbreviated_sets_count_what_they_hide() {
        assert_eq!(set("A:1-5").abbreviated(), format!("`{A}:1-5`"));
        assert_eq!(set("A:1:3:5,B:1:3").abbreviated(), format!("`{A}:1:3:5,{B}:1` and 1 more interval"));
        assert_eq!(set("A:1:3:5:7:9:11,B:1:3").abbreviated(), format!("`{A}:1:3:5:7` and 4 more intervals"));
    }

    #[test]
    fn a_set_of_megabytes_in_the_worst_order_is_read() {
        use std::fmt::Write;
        // Every second number, backwards, each with its UUID again: nothing joins, and everything has to be sorted.
        let mut text = String::new();
        for number in (1..100_000).rev() {
            writeln!(text, "{A}:{},", number * 2).unwrap();
        }
        text.push_str(A);
        text.push_str(":1-2");
        let set = GtidSet::parse(&text).unwrap();
        assert_eq!(set.intervals.values().map(Vec::len).sum::<usize>(), 99_999);
    }

    type Model = BTreeSet<(u8, u8, u64)>;

    /// Small numbers, so that intervals touch, overlap and repeat.
    fn entries() -> impl Strategy<Value = Vec<(u8, u8, u64, u64)>> {
        prop::collection::vec((0..3u8, 0..3u8, 1..30u64, 0..6u64), 0..12)
    }

    fn build(entries: &[(u8, u8, u64, u64)]) -> (GtidSet, Model) {
        let text: Vec<_> = entries
            .iter()
            .map(|(server, tag, first, more)| {
                let tag = ["", "a:", "b_1:"][usize::from(*tag)];
                format!("0000000{server}-0000-0000-0000-000000000000:{tag}{first}-{}", first + more)
            })
            .collect();
        let model =
            entries.iter().flat_map(|(server, tag, first, more)| (*first..=first + more).map(|number| (*server, *tag, number))).collect();
        (GtidSet::parse(&text.join(",")).unwrap(), model)
    }

    fn model_of(set: &GtidSet) -> Model {
        set.intervals
            .iter()
            .flat_map(|(source, intervals)| {
                let tag = ["", "a", "b_1"].iter().position(|tag| **tag == *source.tag).unwrap().try_into().unwrap();
                intervals.iter().flat_map(move |interval| (interval.first..=interval.last).map(move |n| (source.server.0[3], tag, n)))
            })
            .collect()
    }

    fn is_normalised(set: &GtidSet) -> bool {
        set.intervals.values().all(|list| {
            !list.is_empty() && list.iter().all(|i| i.first <= i.last) && list.windows(2).all(|pair| pair[0].last + 1 < pair[1].first)
        })
    }

    proptest! {
        #[test]
        fn sets_behave_as_the_model(left in entries(), right in entries()) {
            let ((left, left_model), (right, right_model)) = (build(&left), build(&right));
            prop_assert_eq!(&model_of(&left), &left_model);
            prop_assert_eq!(left.contains(&right), left_model.is_superset(&right_model));
            prop_assert_eq!(left == right, left_model == right_model);

            let rest = left.subtract(&right);
            prop_assert_eq!(model_of(&rest), left_model.difference(&right_model).copied().collect::<Model>());

            let mut both = left.clone();
            both.union(&right);
            prop_assert_eq!(model_of(&both), left_model.union(&right_model).copied().collect::<Model>());

            for set in [&left, &right, &rest, &both] {
                prop_assert!(is_normalised(set));
                prop_assert_eq!(&GtidSet::parse(&set.to_string()).unwrap(), set);
                prop_assert_eq!(&GtidSet::parse(&set.to_vitess()).unwrap(), set);
                prop_assert_eq!(set.is_empty(), set.sources().next().is_none());
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(MySQL56/)?[0-9a-f:,\\- ]{0,60}|\\PC{0,60}") {
            if let Ok(set) = GtidSet::parse(&text) {
                prop_assert!(is_normalised(&set));
                prop_assert_eq!(GtidSet::parse(&set.to_string()).unwrap(), set);
            }
        }
    }
}
