//! What the timing programs share: the table of 15 columns, processes that measure themselves, and the spread of what they say.

#![allow(unreachable_pub, dead_code, reason = "a module of two programs, which do not use all of it alike")]

use std::env;
use std::process::Command;

use planetscale_ingest::SourceOptions;

pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// About 590 bytes a row.
pub const COLUMNS: &str = "id INT PRIMARY KEY, small_str VARCHAR(20), medium_str VARCHAR(100), large_str VARCHAR(500), tiny_int SMALLINT, \
    regular_int INT, big_int BIGINT, float_val DOUBLE, decimal_val DECIMAL(18,4), bool_val BOOLEAN, date_val DATE, ts_val DATETIME(6), \
    ts_tz_val DATETIME(6), json_val JSON, extra_text TEXT";

/// One row for each number `n`; three columns are NULL in every seventeenth.
pub const ROW: &str = "n, CONCAT('name ', n % 5000), CONCAT('user', n, '@example-', n % 977, '.com ', LEFT(SHA2(n, 224), 32)), \
    CONCAT('Order ', n, ' of customer ', n * 7 % 100003, ' goes to ', LEFT(SHA2(n + 1, 224), 32), ' by way of ', \
        SUBSTRING('the old harbour, where ships wait for the tide and the clerks count barrels, sacks and crates until the evening bell rings \
over the roofs; nobody there hurries, since what is counted twice is right, and what is right is paid for at the end of the month', \
        1 + n % 40, 150)), \
    n % 30000, n * 3 % 1000000007, n * 1000003, n / 7.0, (n % 100000000) / 100 + 0.0001, n % 2, \
    IF(n % 17 = 0, NULL, '2015-01-01' + INTERVAL n % 3650 DAY), IF(n % 17 = 0, NULL, '2015-01-01' + INTERVAL n * 61 SECOND + INTERVAL n % 1000000 MICROSECOND), \
    '2020-02-02' + INTERVAL n * 37 SECOND, JSON_OBJECT('id', n, 'tags', JSON_ARRAY('a', n % 10), 'score', n % 1000 / 10), \
    IF(n % 17 = 0, NULL, CONCAT('note ', LEFT(SHA2(n * 3, 224), 32), ' ', REPEAT('x', n % 20)))";

/// Rows that [`insert_rows`] adds.
pub const PART: usize = 5_000;

/// A statement that adds the rows after the first `count` of them. vtgate takes no recursive query in an INSERT, and at most 10,000 rows at once:
/// digits make the numbers.
pub fn insert_rows(table: &str, count: u64) -> String {
    let digit = "(SELECT 0 d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 \
                 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)";
    format!(
        "INSERT INTO {table} (id, small_str, medium_str, large_str, tiny_int, regular_int, big_int, float_val, decimal_val, bool_val, date_val, \
         ts_val, ts_tz_val, json_val, extra_text) SELECT {ROW} FROM (SELECT {count} + 1 + a.d + 10 * b.d + 100 * c.d + 1000 * e.d AS n FROM \
         {digit} a, {digit} b, {digit} c, (SELECT 0 d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4) e) AS s"
    )
}

/// A connection as bare as can be, over TCP like the crate's, without TLS.
pub fn connect(uri: &str) -> Outcome<mysql::Conn> {
    let options = SourceOptions::from_uri(uri)?;
    let options = mysql::OptsBuilder::new()
        .ip_or_hostname(Some(options.host()))
        .tcp_port(options.port())
        .user(options.user())
        .pass(options.password())
        .db_name(Some(options.database()))
        .prefer_socket(false);
    Ok(mysql::Conn::new(options)?)
}

/// What one measured process says of itself.
#[derive(Clone, Copy)]
pub struct Measured {
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub peak_mib: f64,
}

impl Measured {
    /// Prints itself for [`in_child`].
    pub fn print(self) {
        println!("{} {} {}", self.seconds, self.cpu_seconds, self.peak_mib);
    }
}

/// Runs this program again with other arguments, so that each measurement has its own CPU time and peak memory.
pub fn in_child(arguments: &[&str]) -> Outcome<Measured> {
    let output = Command::new(env::current_exe()?).args(arguments).output()?;
    if !output.status.success() {
        return Err(format!("{}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)).into());
    }
    let text = String::from_utf8(output.stdout)?;
    let numbers: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [seconds, cpu_seconds, peak_mib] = numbers[..] else { return Err("a measured process printed something else".into()) };
    Ok(Measured { seconds, cpu_seconds, peak_mib })
}

/// Least, median and most.
pub fn spread<T>(measured: &[T], value: impl Fn(&T) -> f64) -> (f64, f64, f64) {
    let mut values: Vec<f64> = measured.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    (values[0], values[values.len() / 2], values[values.len() - 1])
}

/// Prints a line of rows a second, CPU seconds per million rows, and the greatest peak.
pub fn print_line(name: &str, rows: u64, measured: &[Measured]) {
    let rate = spread(measured, |run| rows as f64 / run.seconds);
    let cpu = spread(measured, |run| run.cpu_seconds * 1e6 / rows as f64);
    let peak = spread(measured, |run| run.peak_mib);
    let rate_text = format!("{:.0} ({:.0} to {:.0})", rate.1, rate.0, rate.2);
    let cpu_text = format!("{:.2} ({:.2} to {:.2})", cpu.1, cpu.0, cpu.2);
    println!("{name:<26}{rate_text:>28}{cpu_text:>26}{:>12.0}", peak.2);
}

/// The heads of the lines.
pub fn print_heads() {
    println!("{:<26}{:>28}{:>26}{:>12}", "", "rows/s", "CPU s per million", "peak MiB");
}

/// Prints how fast one was against the other, run by run.
pub fn print_ratio(name: &str, whole: &[Measured], part: &[Measured]) {
    let ratios: Vec<f64> = whole.iter().zip(part).map(|(whole, part)| part.seconds / whole.seconds).collect();
    let (least, median, most) = spread(&ratios, |ratio| *ratio);
    println!("{name}: {median:.2} ({least:.2} to {most:.2})");
}

/// User and system time of all threads of this process.
pub fn cpu_seconds() -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field can hold blanks, but ends with the last parenthesis.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = [11, 12].iter().filter_map(|&at| fields.get(at)?.parse::<f64>().ok()).sum();
    Ok(ticks / 100.0)
}

/// The most memory that this process has had resident.
pub fn peak_mib() -> Outcome<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("the system does not tell the peak memory")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<f64>()? / 1024.0)
}
