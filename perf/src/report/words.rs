//! How the report names things and writes numbers.

use crate::results::{Case, Comparison, Disk, Kind, Metric};
use crate::statistics::{Ratio, Verdict};

/// The sections of a disk, in the order of the report.
pub const KINDS: [Kind; 8] = [
    Kind::Commit,
    Kind::Rollover,
    Kind::Bulk,
    Kind::Boundary,
    Kind::Reconnect,
    Kind::StartUp,
    Kind::CatchUp,
    Kind::OpenLoop,
];

/// All measures, in the order of the report.
pub const METRICS: [Metric; 21] = [
    Metric::MeanMs,
    Metric::P50Ms,
    Metric::P90Ms,
    Metric::P99Ms,
    Metric::P999Ms,
    Metric::WholeP999Ms,
    Metric::MaxMs,
    Metric::CorrectedP99Ms,
    Metric::ElapsedMs,
    Metric::MibPerSecond,
    Metric::WallS,
    Metric::CommitsPerSecond,
    Metric::CpuUsPerCommit,
    Metric::CpuSPerGib,
    Metric::SyscallsPerCommit,
    Metric::SwitchesPerCommit,
    Metric::CommitsPerFlush,
    Metric::DiskBytesPerWalByte,
    Metric::PeakMib,
    Metric::Commits,
    Metric::Rollovers,
];

/// A section's heading.
pub fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Commit => "Commits",
        Kind::OpenLoop => "Open loop: commits at a set rate",
        Kind::Rollover => "Changes of segment",
        Kind::Bulk => "Small commits beside a bulk load",
        Kind::Boundary => "A commit that ends on a segment’s end",
        Kind::CatchUp => "Catch-up",
        Kind::Reconnect => "Reconnect",
        Kind::StartUp => "Start-up",
    }
}

/// A measure's name, without its unit.
pub fn metric(metric: Metric) -> &'static str {
    match metric {
        Metric::Commits => "commits counted",
        Metric::CommitsPerSecond => "commits a second",
        Metric::MeanMs => "mean",
        Metric::P50Ms => "p50",
        Metric::P90Ms => "p90",
        Metric::P99Ms => "p99",
        Metric::P999Ms => "p99.9",
        Metric::MaxMs => "max",
        Metric::CorrectedP99Ms => "p99 corrected",
        Metric::CpuUsPerCommit => "CPU a commit",
        Metric::CpuSPerGib => "CPU a GiB",
        Metric::SyscallsPerCommit => "system calls a commit",
        Metric::SwitchesPerCommit => "context switches a commit",
        Metric::CommitsPerFlush => "commits a flush",
        Metric::DiskBytesPerWalByte => "disk bytes a WAL byte",
        Metric::PeakMib => "peak memory",
        Metric::WallS => "wall time",
        Metric::MibPerSecond => "throughput",
        Metric::ElapsedMs => "time",
        Metric::Rollovers => "changes of segment",
        Metric::WholeP999Ms => "p99.9 of all commits",
    }
}

/// A measure's unit; empty for a plain number.
pub fn unit(metric: Metric) -> &'static str {
    match metric {
        Metric::MeanMs | Metric::P50Ms | Metric::P90Ms | Metric::P99Ms | Metric::P999Ms => "ms",
        Metric::MaxMs | Metric::CorrectedP99Ms | Metric::ElapsedMs | Metric::WholeP999Ms => "ms",
        Metric::CpuUsPerCommit => "µs",
        Metric::CpuSPerGib | Metric::WallS => "s",
        Metric::PeakMib => "MiB",
        Metric::MibPerSecond => "MiB/s",
        Metric::SyscallsPerCommit | Metric::SwitchesPerCommit | Metric::CommitsPerFlush => "",
        Metric::DiskBytesPerWalByte | Metric::Commits | Metric::Rollovers | Metric::CommitsPerSecond => "",
    }
}

/// A measure's name with its unit: `p50 ms`.
pub fn heading(of: Metric) -> String {
    format!("{} {}", metric(of), unit(of)).trim_end().to_owned()
}

/// Whether more or less of it is better at all: a count of what happened is not.
pub fn is_judged(metric: Metric) -> bool {
    !matches!(metric, Metric::Commits | Metric::Rollovers)
}

/// A verdict, as the report says it next to a number.
pub fn verdict(of: Verdict, rounds: usize) -> &'static str {
    match of {
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::NoDifference => "no difference",
        Verdict::TooFewRounds if rounds == 1 => "one round, no interval",
        Verdict::TooFewRounds => "two rounds, no interval",
    }
}

/// `0.33 (0.31–0.35)`, or the ratio alone where there is no interval.
pub fn ratio(of: &Ratio) -> String {
    format!("{} {}", factor(of.value), interval(of))
        .trim_end()
        .to_owned()
}

/// `(0.31–0.35)`; empty where there is no interval.
pub fn interval(of: &Ratio) -> String {
    let excludes_1 = |low: f64, high: f64| low > 1.0 || high < 1.0;
    match of.interval {
        Some((low, high)) if excludes_1(low, high) => format!("({}–{})", end(low), end(high)),
        Some((low, high)) => format!("({}–{})", factor(low), factor(high)),
        None => String::new(),
    }
}

/// A ratio by itself: two digits behind the point while small.
pub fn factor(value: f64) -> String {
    if (0.0..0.095).contains(&value) || value >= 9.995 {
        number(value)
    } else {
        format!("{value:.2}")
    }
}

/// The end of an interval that excludes 1: with more digits where it would look like 1.
fn end(value: f64) -> String {
    let near = (value - 1.0).abs();
    if (0.000_05..0.005).contains(&near) {
        format!("{value:.4}")
    } else {
        factor(value)
    }
}

/// What a case is, in a few words: `8 clients`, or for one without clients its kind.
pub fn case(case: &Case) -> String {
    match case.clients {
        Some(1) => "1 client".to_owned(),
        Some(clients) => format!("{clients} clients"),
        None => "no clients".to_owned(),
    }
}

/// A case with its kind: `Commits, 8 clients`.
pub fn full_case(of: &Case) -> String {
    match of.clients {
        Some(_) => format!("{}, {}", kind(of.kind), case(of)),
        None => kind(of.kind).to_owned(),
    }
}

/// A disk, in a heading.
pub fn disk(disk: &Disk) -> String {
    match disk.key.as_str() {
        "given" => format!("The given disk ({})", disk.filesystem),
        profile => format!("An emulated disk: {profile} ({})", disk.filesystem),
    }
}

/// A receiver's name; its key where it is not described.
pub fn receiver<'a>(comparison: &'a Comparison, key: &'a str) -> &'a str {
    comparison
        .receivers
        .iter()
        .find(|receiver| receiver.key == key)
        .map_or(key, |receiver| &receiver.name)
}

/// Three digits that count, thousands parted: `0.0123`, `1.23`, `12.3`, `1,230`.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let size = value.abs();
    let places = match size {
        0.0 => return "0".to_owned(),
        _ if size < 0.00005 => return if value < 0.0 { ">−0.0001" } else { "<0.0001" }.to_owned(),
        _ if size < 0.001 => 4,
        _ => (2 - (size * 1.0005).log10().floor() as i32).max(0) as usize,
    };
    let text = format!("{size:.places$}");
    let (whole, fraction) = text
        .split_once('.')
        .map_or((text.as_str(), None), |(a, b)| (a, Some(b)));
    let sign = if value < 0.0 { "−" } else { "" };
    match fraction {
        Some(fraction) => format!("{sign}{whole}.{fraction}"),
        None => format!("{sign}{}", parted(whole)),
    }
}

/// The value of an axis: as short as possible.
pub fn short(value: f64) -> String {
    let text = format!("{value:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    match text {
        "" | "-0" => "0".to_owned(),
        _ if value.abs() >= 10_000.0 => number(value / 1000.0).trim_end_matches(".0").to_owned() + "k",
        text => text.replace('-', "−"),
    }
}

/// `1234567` as `1,234,567`.
fn parted(digits: &str) -> String {
    let mut parted = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            parted.push(',');
        }
        parted.push(digit);
    }
    parted
}

/// A number with its unit: `1.23 ms`.
pub fn with_unit(value: f64, unit: &str) -> String {
    format!("{} {unit}", number(value)).trim_end().to_owned()
}

/// A duration from milliseconds, in the unit that suits it: `1.23 ms`, `41.0 µs`.
pub fn milliseconds(value: f64) -> String {
    if value.abs() < 0.0995 {
        with_unit(value * 1000.0, "µs")
    } else {
        with_unit(value, "ms")
    }
}

/// A share as a percentage: `47 %`, `3.2 %`.
pub fn percent(share: f64) -> String {
    let percent = share.abs() * 100.0;
    match percent {
        _ if !percent.is_finite() => "– %".to_owned(),
        _ if percent >= 9.95 => format!("{} %", parted(&format!("{percent:.0}"))),
        _ => format!("{percent:.1} %"),
    }
}

/// `s` behind a count other than one.
pub fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// A duration for people: `48 s`, `12 min 30 s`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match (whole / 60, whole % 60) {
        (0, seconds) => format!("{seconds} s"),
        (minutes, 0) => format!("{minutes} min"),
        (minutes, seconds) => format!("{minutes} min {seconds} s"),
    }
}

/// A size for people, from bytes: `1.23 MiB`.
pub fn bytes(bytes: u64) -> String {
    match bytes as f64 {
        small if small < 1024.0 => format!("{bytes} B"),
        some if some < 1024.0 * 1024.0 => with_unit(some / 1024.0, "KiB"),
        many if many < 1024.0 * 1024.0 * 1024.0 => with_unit(many / 1024.0 / 1024.0, "MiB"),
        huge => with_unit(huge / 1024.0 / 1024.0 / 1024.0, "GiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_count() {
        let written = [
            (0.0, "0"),
            (0.01234, "0.0123"),
            (1.2345, "1.23"),
            (9.999, "10.0"),
            (12.345, "12.3"),
            (999.9, "1,000"),
            (1234.5, "1,234"),
            (1234567.0, "1,234,567"),
            (-0.5, "−0.500"),
            (0.00012, "0.0001"),
            (1e-9, "<0.0001"),
            (f64::NAN, "–"),
        ];
        for (value, text) in written {
            assert_eq!(number(value), text, "{value}");
        }
    }

    #[test]
    fn ratios_and_shares_are_short() {
        assert_eq!(
            [factor(0.333), factor(0.0123), factor(4.5), factor(17.11)],
            ["0.33", "0.0123", "4.50", "17.1"]
        );
        assert_eq!(
            [percent(0.474), percent(-0.0321), percent(12.0)],
            ["47 %", "3.2 %", "1,200 %"]
        );
        assert_eq!(
            [duration(48.2), duration(750.0), duration(60.0)],
            ["48 s", "12 min 30 s", "1 min"]
        );
        assert_eq!(
            [bytes(100), bytes(2048), bytes(3 << 20)],
            ["100 B", "2.00 KiB", "3.00 MiB"]
        );
    }
}
