//! Every type of MySQL, its values and how each side is made to say what it holds.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// What two sides have to agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Whole numbers and years: digits.
    Int,
    /// Digits, with a point.
    Decimal,
    Float,
    Double,
    /// Zeros and ones, as many as the column is wide.
    Bit(u8),
    Date,
    /// With as many digits of the fraction of a second.
    DateTime(u8),
    Timestamp(u8),
    Time(u8),
    /// Characters, in hexadecimal UTF-8.
    Text,
    Json,
    /// Bytes, in hexadecimal.
    Bytes,
}

/// A type as MySQL declares it, and values as SQL writes them.
pub struct Type {
    pub declared: String,
    pub kind: Kind,
    pub values: Vec<String>,
}

impl Kind {
    /// An expression that makes MySQL print a value of the column `v`.
    pub fn oracle(self) -> &'static str {
        match self {
            // A sum has no zeros in front.
            Self::Int => "cast(v + 0 as char)",
            Self::Decimal => "cast(v + 0 as char)",
            // All digits of the 64-bit number that the 32-bit one is.
            Self::Float => "cast(v * 1e0 as char)",
            Self::Double | Self::Date | Self::DateTime(_) | Self::Timestamp(_) | Self::Time(_) => "cast(v as char)",
            Self::Bit(_) => "bin(v + 0)",
            Self::Text => "hex(convert(v using utf8mb4))",
            Self::Json => "cast(v as char)",
            Self::Bytes => "hex(v)",
        }
    }

    /// An expression that makes DuckDB print it.
    pub fn duckdb(self) -> String {
        match self {
            Self::DateTime(_) => "strftime(v, '%Y-%m-%d %H:%M:%S.%f')".into(),
            Self::Timestamp(_) => "strftime(make_timestamp(epoch_us(v)), '%Y-%m-%d %H:%M:%S.%f')".into(),
            Self::Time(_) => "cast(epoch_us(v) as varchar)".into(),
            Self::Text | Self::Bytes => "hex(v)".into(),
            _ => "cast(v as varchar)".into(),
        }
    }
}

/// A source of values that a seed repeats.
struct Random(TestRunner);

impl Random {
    fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self(TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)))
    }

    fn one<T: std::fmt::Debug>(&mut self, strategy: &impl Strategy<Value = T>) -> T {
        strategy.new_tree(&mut self.0).unwrap().current()
    }
}

/// All types, each with its edges and then random values up to `rows` in all.
pub fn all(rows: usize, seed: u64) -> Vec<Type> {
    let mut random = Random::new(seed);
    let mut types = Vec::new();
    let mut add = |declared: String, kind: Kind, edges: Vec<String>, more: BoxedStrategy<String>| {
        let mut values = edges;
        while values.len() < rows {
            values.push(random.one(&more));
        }
        types.push(Type { declared, kind, values });
    };
    numbers(&mut add);
    times(&mut add);
    texts(&mut add);
    bytes(&mut add);
    types
}

type Add<'a> = dyn FnMut(String, Kind, Vec<String>, BoxedStrategy<String>) + 'a;

fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn numbers(add: &mut Add<'_>) {
    for (name, bits) in [("tinyint", 8_u32), ("smallint", 16), ("mediumint", 24), ("int", 32), ("bigint", 64)] {
        let (least, greatest) = (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1);
        let signed: Vec<String> = [least, least + 1, -1, 0, 1, greatest - 1, greatest].iter().map(i128::to_string).collect();
        add(name.to_owned(), Kind::Int, signed, (least..=greatest).prop_map(|number| number.to_string()).boxed());
        let greatest = (1_i128 << bits) - 1;
        let unsigned: Vec<String> = [0, 1, greatest / 2, greatest / 2 + 1, greatest - 1, greatest].iter().map(i128::to_string).collect();
        let more = (0..=greatest).prop_map(|number| number.to_string()).boxed();
        add(format!("{name} unsigned"), Kind::Int, unsigned.clone(), more.clone());
        add(format!("{name} zerofill"), Kind::Int, unsigned, more);
    }
    add("boolean".into(), Kind::Int, strings(&["true", "false", "-128", "127"]), (-128..=127).prop_map(|n: i32| n.to_string()).boxed());
    add("year".into(), Kind::Int, strings(&["0", "1901", "2155"]), (1901..=2155).prop_map(|year: i32| year.to_string()).boxed());
    for (precision, scale) in [(1_usize, 0_usize), (4, 2), (5, 5), (9, 3), (10, 0), (18, 4), (19, 19), (38, 10), (39, 0), (65, 0), (65, 30)]
    {
        let nines = format!("{}.{}", "9".repeat(precision - scale), "9".repeat(scale));
        let nines = nines.trim_end_matches('.').to_owned();
        let least = if scale == 0 { "1".to_owned() } else { format!("0.{}1", "0".repeat(scale - 1)) };
        let edges = vec!["0".into(), nines.clone(), format!("-{nines}"), least.clone(), format!("-{least}")];
        let digits = prop::collection::vec(0..10_u8, precision);
        // Some digits in front are zero, so that shorter numbers come as well.
        let more = (any::<bool>(), digits, 0..=precision).prop_map(move |(negative, digits, zeros)| {
            let text: String =
                digits.iter().enumerate().map(|(at, digit)| if at < zeros { '0' } else { char::from(b'0' + digit) }).collect();
            let (whole, fraction) = text.split_at(precision - scale);
            format!("{}{whole}{}{fraction}", if negative { "-" } else { "" }, if scale > 0 { "." } else { "" })
        });
        add(format!("decimal({precision},{scale})"), Kind::Decimal, edges, more.boxed());
    }
    let zerofill = (0..=99_999_999_i64).prop_map(|cents| format!("{}.{:02}", cents / 100, cents % 100));
    add("decimal(8,2) zerofill".into(), Kind::Decimal, strings(&["0", "0.5", "999999.99"]), zerofill.boxed());
    let floats = ["0e0", "-1e0 * 0", "1.17549435e-38", "3.40282347e38", "-3.40282347e38", "16777216", "16777215", "0.1", "3.99", "1e-45"];
    let finite = any::<u32>().prop_map(f32::from_bits).prop_filter("finite", |number| number.is_finite());
    add("float".into(), Kind::Float, strings(&floats), finite.prop_map(|number| format!("{number:e}")).boxed());
    let cents = (-1_000_000..1_000_000_i32).prop_map(|cents| format!("{:e}", f64::from(cents) / 100.0));
    add("float(9,2)".into(), Kind::Float, strings(&["0e0", "9999999.99"]), cents.boxed());
    let doubles = [
        "0e0",
        "-1e0 * 0",
        "2.2250738585072014e-308",
        "1.7976931348623157e308",
        "-1.7976931348623157e308",
        "0.1",
        "9007199254740993",
        "5e-324",
    ];
    let finite = any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |number| number.is_finite());
    add("double".into(), Kind::Double, strings(&doubles), finite.prop_map(|number| format!("{number:e}")).boxed());
    for width in [1_u8, 7, 8, 9, 24, 63, 64] {
        let greatest = u64::MAX >> (64 - width);
        let edges = vec!["0".into(), "1".into(), greatest.to_string(), (greatest / 2 + 1).to_string()];
        add(format!("bit({width})"), Kind::Bit(width), edges, (0..=greatest).prop_map(|bits| bits.to_string()).boxed());
    }
}

fn times(add: &mut Add<'_>) {
    let date = || (1..=9999_u32, 1..=12_u32, 1..=28_u32).prop_map(|(year, month, day)| format!("{year:04}-{month:02}-{day:02}"));
    let clock = || (0..24_u32, 0..60_u32, 0..60_u32).prop_map(|(hour, minute, second)| format!("{hour:02}:{minute:02}:{second:02}"));
    let dates =
        ["'0000-00-00'", "'2016-00-00'", "'2016-07-00'", "'0000-01-01'", "'0001-01-01'", "'1000-01-01'", "'9999-12-31'", "'2024-02-29'"];
    add("date".into(), Kind::Date, strings(&dates), date().prop_map(|date| format!("'{date}'")).boxed());
    for fraction in [0_u8, 1, 3, 6] {
        let fractions = move || {
            (0..10_u32.pow(u32::from(fraction))).prop_map(move |part| match fraction {
                0 => String::new(),
                digits => format!(".{part:0digits$}", digits = usize::from(digits)),
            })
        };
        let most = if fraction == 0 { String::new() } else { format!(".{}", "9".repeat(usize::from(fraction))) };
        let edges = vec![
            "'0000-00-00 00:00:00'".to_owned(),
            "'2016-07-00 12:00:00'".into(),
            "'0001-01-01 00:00:00'".into(),
            format!("'9999-12-31 23:59:59{most}'"),
            format!("'2024-02-29 12:34:56{most}'"),
        ];
        let more = (date(), clock(), fractions()).prop_map(|(date, clock, fraction)| format!("'{date} {clock}{fraction}'"));
        add(format!("datetime({fraction})"), Kind::DateTime(fraction), edges, more.boxed());
        let edges = vec![
            "'0000-00-00 00:00:00'".to_owned(),
            "'1970-01-01 00:00:01'".into(),
            format!("'2038-01-19 03:14:07{most}'"),
            format!("'2024-10-27 01:30:00{most}'"),
        ];
        let date = (1971..=2037_u32, 1..=12_u32, 1..=28_u32).prop_map(|(year, month, day)| format!("{year:04}-{month:02}-{day:02}"));
        let more = (date, clock(), fractions()).prop_map(|(date, clock, fraction)| format!("'{date} {clock}{fraction}'"));
        add(format!("timestamp({fraction}) null"), Kind::Timestamp(fraction), edges, more.boxed());
        let edges = vec![
            "'00:00:00'".to_owned(),
            "'838:59:59'".into(),
            "'-838:59:59'".into(),
            "'-00:00:01'".into(),
            "'24:00:00'".into(),
            format!("'-00:00:00{most}'"),
        ];
        let hours = (any::<bool>(), 0..=837_u32, 0..60_u32, 0..60_u32, fractions());
        let more = hours.prop_map(|(negative, hour, minute, second, fraction)| {
            format!("'{}{hour}:{minute:02}:{second:02}{fraction}'", if negative { "-" } else { "" })
        });
        add(format!("time({fraction})"), Kind::Time(fraction), edges, more.boxed());
    }
}

/// A text as SQL writes it whatever is in it.
fn literal(text: &str) -> String {
    if text.is_empty() { "''".into() } else { format!("_utf8mb4 0x{}", hex(text.as_bytes())) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

const ODD: [&str; 14] =
    ["", " ", "a", "A", "trailing  ", "it's", "say \"so\"", "back\\slash", "tab\there", "line\nfeed\r", "nul\0byte", "☃", "🎉", "NULL"];

fn texts(add: &mut Add<'_>) {
    let odd = || ODD.map(literal).to_vec();
    let characters =
        |most: usize| prop::collection::vec(any::<char>(), 0..=most).prop_map(|text| literal(&text.into_iter().collect::<String>()));
    for declared in ["char(40)", "varchar(100)", "varchar(100) collate utf8mb4_bin", "tinytext", "text", "mediumtext", "longtext"] {
        let mut edges = odd();
        if declared == "longtext" {
            edges.push("repeat('long ', 30000)".into());
        }
        add(declared.to_owned(), Kind::Text, edges, characters(40).boxed());
    }
    for charset in ["utf16", "utf16le", "utf32"] {
        add(format!("varchar(100) character set {charset}"), Kind::Text, odd(), characters(40).boxed());
    }
    let basic = || {
        let range = any::<u16>().prop_filter_map("a character", |code| char::from_u32(u32::from(code)));
        prop::collection::vec(range, 0..=40).prop_map(|text| literal(&text.into_iter().collect::<String>())).boxed()
    };
    let odd_basic: Vec<String> = ODD.iter().filter(|text| **text != "🎉").map(|text| literal(text)).collect();
    for charset in ["utf8mb3", "ucs2"] {
        add(format!("varchar(100) character set {charset}"), Kind::Text, odd_basic.clone(), basic());
    }
    // Letters that the character set has, with those of ASCII.
    for (charset, letters) in [
        ("ascii", "abcXYZ~"),
        ("latin1", "äöüß€ŽÿÀ"),
        ("latin2", "ąłžß°"),
        ("cp1251", "Жиъ№"),
        ("greek", "αβΩώ"),
        ("koi8r", "Жиъ─"),
        ("big5", "漢字中文，"),
        ("gbk", "汉字中文，漢"),
        ("gb2312", "汉字中文，"),
        ("gb18030", "汉字漢🎉ü"),
        ("sjis", "漢字かなカナｶﾅ"),
        ("cp932", "漢字かなカナｶﾅ①"),
        ("ujis", "漢字かなカナｶﾅ"),
        ("eucjpms", "漢字かなカナ①"),
        ("euckr", "한국어漢"),
        ("tis620", "ไทย"),
        ("swe7", "ÅÄÖ"),
    ] {
        let letters: Vec<char> = if charset == "swe7" {
            letters.chars().chain("xyz ".chars()).collect()
        } else {
            letters.chars().chain("xyz ,'\\".chars()).collect()
        };
        let text = prop::collection::vec(prop::sample::select(letters), 0..=30);
        let more = text.prop_map(|text| literal(&text.into_iter().collect::<String>()));
        add(format!("varchar(60) character set {charset}"), Kind::Text, vec!["''".into()], more.boxed());
    }
    members(add);
    json(add);
}

fn members(add: &mut Add<'_>) {
    let quoted = |members: &[&str]| {
        members.iter().map(|member| format!("'{}'", member.replace('\\', "\\\\").replace('\'', "''"))).collect::<Vec<_>>()
    };
    let enums: [(&str, &[&str]); 6] = [
        ("utf8mb4", &["a", "b,c", "it's", "", "(x)", "back\\slash", "\"q\"", "ü☃", "?", "A B", "🎉", "🎈"]),
        ("latin1", &["ä", "ö,ü", "€", "plain"]),
        ("utf16", &["ä", "漢", "plain"]),
        ("gbk", &["汉", "字,中", "plain"]),
        ("sjis", &["表", "かな", "plain"]),
        ("tis620", &["ไ", "plain"]),
    ];
    for (charset, members) in enums {
        let names = quoted(members);
        let indexes = (1..=members.len()).prop_map(|index| index.to_string());
        add(format!("enum({}) character set {charset}", names.join(",")), Kind::Text, vec!["0".into()], indexes.boxed());
    }
    let many: Vec<String> = (1..=64).map(|at| format!("m{at}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let sets: [(&str, &[&str]); 5] = [
        ("utf8mb4", &many),
        ("utf8mb4", &["x", "it's", "(y)", "back\\slash", "ü☃", "🎉", "🎈"]),
        ("latin1", &["ä", "ö", "plain"]),
        ("utf16", &["ä", "漢", "plain"]),
        ("gbk", &["汉", "字", "plain"]),
    ];
    for (charset, members) in sets {
        let names = quoted(members);
        let all = u64::MAX >> (64 - members.len());
        let edges = vec!["0".into(), "1".into(), all.to_string(), (all / 2 + 1).to_string()];
        add(
            format!("set({}) character set {charset}", names.join(",")),
            Kind::Text,
            edges,
            (0..=all).prop_map(|mask| mask.to_string()).boxed(),
        );
    }
}

fn json(add: &mut Add<'_>) {
    let edges = [
        "'null'",
        "'true'",
        "'[]'",
        "'{}'",
        "'\"text\"'",
        "'18446744073709551615'",
        "'-9223372036854775808'",
        "'1e100'",
        "'1.0'",
        "'0.1'",
        "'{\"b\": [1, null, \"ü☃🎉\"], \"a\": 1.5, \"\": {\"k\\\\\"ey\": \"va\\\\nlue\"}}'",
        "json_object('date', cast('2024-02-29' as date), 'time', cast('-12:34:56.789' as time(3)), 'at', cast('2024-02-29 12:34:56.789012' as datetime(6)))",
        "json_object('decimal', cast('123456789012345678901234567890.50' as decimal(40,2)), 'small', cast('0.5' as decimal(3,1)))",
        "json_object('bytes', cast(0x00ff41 as binary(3)))",
        "json_object('long', repeat('x', 70000))",
    ];
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<u64>().prop_map(serde_json::Value::from),
        any::<f64>().prop_filter_map("finite", |number| number.is_finite().then(|| serde_json::Value::from(number))),
        prop::collection::vec(any::<char>(), 0..12).prop_map(|text| serde_json::Value::from(text.into_iter().collect::<String>())),
    ];
    // No key is empty: where an object that ends a document has no other, as in `{"": null}`, the vttablet of v0.23.3 panics ("unable to decode
    // object elements").
    let tree = leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
            prop::collection::btree_map(
                prop::collection::vec(any::<char>(), 1..8).prop_map(|key| key.into_iter().collect::<String>()),
                inner,
                0..6
            )
            .prop_map(|entries| serde_json::Value::Object(entries.into_iter().collect())),
        ]
    });
    add("json".into(), Kind::Json, strings(&edges), tree.prop_map(|tree| literal(&tree.to_string())).boxed());
}

fn bytes(add: &mut Add<'_>) {
    let blob = |most: usize| {
        prop::collection::vec(any::<u8>(), 0..=most)
            .prop_map(|bytes| if bytes.is_empty() { "''".to_owned() } else { format!("0x{}", hex(&bytes)) })
    };
    let edges = ["''", "0x00", "0xff", "0x0000000000", "0x2000", "0x5c27", "0xFFFE"];
    for declared in ["binary(20)", "varbinary(40)", "tinyblob", "blob", "mediumblob", "longblob"] {
        let mut edges = strings(&edges);
        if declared == "longblob" {
            edges.push("repeat(0x00fe, 50000)".into());
        }
        let most = if declared == "binary(20)" { 20 } else { 40 };
        add(declared.to_owned(), Kind::Bytes, edges, blob(most).boxed());
    }
    let floats = prop::collection::vec(any::<f32>().prop_filter("finite", |number| number.is_finite()), 1..=5);
    let vector = floats.prop_map(|floats| format!("0x{}", hex(&floats.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<_>>())));
    let vectors = ["string_to_vector('[0]')", "string_to_vector('[1,-2.5,3.4e38]')", "0x00000080"];
    add("vector(5)".into(), Kind::Bytes, strings(&vectors), vector.boxed());
    let number = || (-1_000_000..1_000_000_i32).prop_map(|number| f64::from(number) / 1000.0);
    let point = move || (number(), number()).prop_map(|(x, y)| format!("{x} {y}"));
    let points = move || prop::collection::vec(point(), 2..6).prop_map(|points| points.join(","));
    let of_text = |text: String| format!("st_geomfromtext('{text}')");
    let with_srid = ["st_geomfromtext('POINT(1 2)', 4326)", "st_geomfromtext('POINT(1 2)', 3857)"];
    add("point".into(), Kind::Bytes, strings(&with_srid), point().prop_map(move |at| of_text(format!("POINT({at})"))).boxed());
    add("linestring".into(), Kind::Bytes, Vec::new(), points().prop_map(move |at| of_text(format!("LINESTRING({at})"))).boxed());
    add("multipoint".into(), Kind::Bytes, Vec::new(), points().prop_map(move |at| of_text(format!("MULTIPOINT({at})"))).boxed());
    let square = (number(), number()).prop_map(move |(x, y)| {
        let (right, top) = (x + 1.0, y + 1.0);
        of_text(format!("POLYGON(({x} {y},{right} {y},{right} {top},{x} {y}))"))
    });
    add("polygon".into(), Kind::Bytes, Vec::new(), square.boxed());
    let kinds = [
        "st_geomfromtext('POINT(1 2)', 4326)",
        "st_geomfromtext('MULTILINESTRING((1 1,2 2,3 3),(4 4,5 5))')",
        "st_geomfromtext('MULTIPOLYGON(((0 0,0 3,3 3,0 0)))')",
        "st_geomfromtext('GEOMETRYCOLLECTION(POINT(1 2),LINESTRING(0 0,1 1))')",
        "st_geomfromtext('GEOMETRYCOLLECTION EMPTY')",
    ];
    add("geometry".into(), Kind::Bytes, strings(&kinds), point().prop_map(move |at| of_text(format!("POINT({at})"))).boxed());
}
