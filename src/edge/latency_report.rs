//! The latency histogram for the eye.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use hdrhistogram::Histogram;

use crate::core::measure::Measures;

/// The longest bar, in characters.
const BAR: f64 = 50.0;

/// Prints the histogram to standard error.
pub fn print(measures: &Measures) {
    // There is nobody to tell that standard error is gone.
    let _ = io::stderr().write_all(format(measures.durable.histogram()).as_bytes());
}

/// The percentiles, then a row for each doubling of the time.
fn format(histogram: &Histogram<u64>) -> String {
    let mut text = String::from("received to durable, each group of commits written together:\n");
    if histogram.is_empty() {
        text.push_str("  nothing was written durably while the stream was live\n");
        return text;
    }
    let _ = writeln!(
        text,
        "  groups {}, mean {:.0} µs",
        histogram.len(),
        histogram.mean()
    );
    for (name, quantile) in [
        ("p50", 0.5),
        ("p90", 0.9),
        ("p99", 0.99),
        ("p99.9", 0.999),
        ("p99.99", 0.9999),
    ] {
        let _ = writeln!(
            text,
            "  {name:<7}{:>10} µs",
            histogram.value_at_quantile(quantile)
        );
    }
    let _ = writeln!(text, "  {:<7}{:>10} µs\n", "max", histogram.max());
    let rows: Vec<_> = rows(histogram).collect();
    let most = rows.iter().map(|&(.., count)| count).max().unwrap_or(1);
    for (from, to, count) in rows {
        let bar = "#".repeat((BAR * count as f64 / most as f64).ceil() as usize);
        let _ = writeln!(text, "  {from:>9} - {to:>9} µs {count:>10} {bar}");
    }
    text
}

/// From the first doubling that holds a value to the last: its bounds and how many it holds.
fn rows(histogram: &Histogram<u64>) -> impl Iterator<Item = (u64, u64, u64)> {
    let first = histogram.min().max(1).ilog2();
    let last = histogram.max().max(1).ilog2();
    (first..=last).map(|power| {
        let (from, to) = (1 << power, 1 << (power + 1));
        (from, to, histogram.count_between(from, to - 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::measure::Times;
    use std::time::Duration;

    #[test]
    fn every_value_is_in_a_row() {
        let mut latency = Times::new();
        for microseconds in [3, 90, 100, 127, 128, 5000] {
            latency.record(Duration::from_micros(microseconds));
        }
        let histogram = latency.histogram();
        assert_eq!(rows(histogram).map(|(.., count)| count).sum::<u64>(), 6);
        let text = format(histogram);
        assert!(text.contains("       64 -       128 µs          3 #"), "{text}");
        assert!(text.contains("groups 6"));
    }

    #[test]
    fn nothing_measured_is_said_so() {
        assert!(format(Times::new().histogram()).contains("nothing was written"));
    }
}
