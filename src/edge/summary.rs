//! The summary for the eye: latencies, what flushes hold, and what they save.
//!
//! Standard error gets it at the end with `--latency-report`, and at any time on SIGUSR1.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::logging::LogFormat;
use super::progress_line::{self, as_time, in_units};
use crate::core::measure::{Distribution, Measures, QUANTILES, Sizes};
use crate::core::savings::{ESTIMATE, Savings};
use crate::core::telemetry::Telemetry;
use crate::error::{Error, Result, system_text};

/// The longest bar, in characters.
const BAR: f64 = 50.0;

/// What the asterisk says.
const TWO_CLOCKS: &str =
    "  (*) by two clocks: from the server's time of the commit, so that it depends on both clocks\n";

/// Prints summaries of what is measured. A clone prints the same.
#[derive(Debug, Clone)]
pub struct Summary {
    telemetry: Arc<Telemetry>,
    format: LogFormat,
    began: Instant,
}

impl Summary {
    /// Time counts from now on.
    pub fn new(telemetry: Arc<Telemetry>, format: LogFormat) -> Summary {
        Summary {
            telemetry,
            format,
            began: Instant::now(),
        }
    }

    /// Prints a summary to standard error; as a line of the log where that is JSON.
    pub fn print(&self) {
        let measures = self.telemetry.measures().clone();
        let text = text(&self.telemetry, &measures, self.began.elapsed());
        if self.format == LogFormat::Json {
            info!("{text}");
            return;
        }
        let mut terminal = io::stderr().lock();
        // There is nobody to tell that standard error is gone.
        let _ = progress_line::clear(&mut terminal).and_then(|()| terminal.write_all(text.as_bytes()));
    }

    /// Prints a summary at every SIGUSR1 from now on, on a thread of its own: a terminal that is held
    /// must not hold up the stream. What is asked for while one is being printed is not printed again.
    /// To be called within the runtime.
    pub fn print_on_signal(&self) -> Result<()> {
        let mut signals = signal(SignalKind::user_defined1()).map_err(|error| {
            Error::unsupported(format!("could not listen for SIGUSR1: {}", system_text(&error)))
        })?;
        let summary = self.clone();
        tokio_uring::spawn(async move {
            let mut printing: Option<JoinHandle<()>> = None;
            while signals.recv().await.is_some() {
                if printing.as_ref().is_none_or(JoinHandle::is_finished) {
                    printing = summary.clone().print_beside();
                }
            }
        });
        Ok(())
    }

    fn print_beside(self) -> Option<JoinHandle<()>> {
        let thread = thread::Builder::new().name("summary".to_owned());
        let spawned = thread.spawn(move || self.print());
        spawned
            .inspect_err(|error| warn!("could not print a summary: {}", system_text(error)))
            .ok()
    }
}

fn text(telemetry: &Telemetry, measures: &Measures, elapsed: Duration) -> String {
    let mut text = head(telemetry, elapsed);
    text.push_str(&columns("", "count"));
    for (name, times) in [
        ("received to durable", &measures.durable),
        ("received to acknowledged", &measures.acknowledged),
        ("commit to durable (*)", &measures.commit),
        ("plain write", &measures.write),
        ("durable write", &measures.durable_write),
        ("sync", &measures.sync),
        ("rollover", &measures.rollover),
    ] {
        text.push_str(&row(name, times.histogram()));
    }
    if !measures.commit.histogram().is_empty() {
        text.push_str(TWO_CLOCKS);
    }
    text.push_str(&flushes(measures));
    if let Some(savings) = &measures.savings {
        text.push_str(&saved(savings, measures.durable_write.histogram()));
    }
    text.push_str(&bars(measures.durable.histogram()));
    text
}

/// How much in how much time.
fn head(telemetry: &Telemetry, elapsed: Duration) -> String {
    let (transactions, bytes) = (telemetry.transactions.value(), telemetry.received_bytes.value());
    let seconds = elapsed.as_secs_f64();
    let rate = |count: u64| count as f64 / seconds.max(1e-3);
    let time = match elapsed.as_secs() {
        0..60 => format!("{seconds:.1} s"),
        whole => as_time(whole),
    };
    format!(
        "summary after {time}: {transactions} transactions ({:.1}/s), {} of WAL ({}/s)\n",
        rate(transactions),
        in_units(bytes),
        in_units(rate(bytes) as u64)
    )
}

fn columns(title: &str, count: &str) -> String {
    let names = QUANTILES.map(|(name, _)| name.to_owned());
    let names = ["mean".to_owned()]
        .into_iter()
        .chain(names)
        .chain(["max".to_owned()]);
    table_row(title, count, names)
}

fn row(name: &str, histogram: &Histogram<u64>) -> String {
    if histogram.is_empty() {
        return nothing(name);
    }
    let times = Distribution::of(histogram);
    let quantiles = times.quantiles_us.map(|us| us as f64);
    distribution_row(
        name,
        &times.count.to_string(),
        times.mean_us,
        quantiles,
        times.max_us as f64,
    )
}

fn distribution_row(
    name: &str,
    count: &str,
    mean_us: f64,
    quantiles_us: [f64; QUANTILES.len()],
    max_us: f64,
) -> String {
    let cells = [mean_us].into_iter().chain(quantiles_us).chain([max_us]);
    table_row(&format!("  {name}"), count, cells.map(time))
}

fn table_row(title: &str, count: &str, cells: impl Iterator<Item = String>) -> String {
    let mut row = format!("{title:<26}{count:>9}");
    for cell in cells {
        let _ = write!(row, " {cell:>8}");
    }
    row.push('\n');
    row
}

fn nothing(name: &str) -> String {
    format!("  {name:<26}nothing measured\n")
}

/// Three digits and a unit, with sign.
fn time(us: f64) -> String {
    let magnitude = us.abs();
    let (scaled, unit) = match magnitude {
        ..999.5 => (us, "µs"),
        ..999_500.0 => (us / 1e3, "ms"),
        _ => (us / 1e6, "s"),
    };
    let whole_microseconds = unit == "µs" && scaled.fract() == 0.0;
    let decimals = match scaled.abs() {
        _ if whole_microseconds => 0,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.decimals$} {unit}")
}

/// What a flush makes durable.
fn flushes(measures: &Measures) -> String {
    let names = ["mean", "p50", "max"].map(str::to_owned);
    let mut text = table_row("each flush", "count", names.into_iter());
    text += &sizes_row("transactions", &measures.transactions_per_flush, number);
    text += &sizes_row("WAL", &measures.bytes_per_flush, |bytes| in_units(bytes as u64));
    text
}

fn sizes_row(name: &str, sizes: &Sizes, shown: fn(f64) -> String) -> String {
    let sizes = sizes.histogram();
    if sizes.is_empty() {
        return nothing(name);
    }
    let median = sizes.value_at_quantile(0.5);
    let cells = [sizes.mean(), median as f64, sizes.max() as f64].map(shown);
    table_row(&format!("  {name}"), &sizes.len().to_string(), cells.into_iter())
}

/// A number of things, or their mean.
fn number(value: f64) -> String {
    let decimals = usize::from(value.fract() != 0.0);
    format!("{value:.decimals$}")
}

/// What the flushes saved.
fn saved(savings: &Savings, durable_write: &Histogram<u64>) -> String {
    let count = savings.transactions();
    let title = match count {
        0 => "estimated saving: no transaction is durable yet\n".to_owned(),
        _ => format!(
            "estimated saving: {} per transaction, {} in {count} transactions\n",
            time(savings.per_transaction_us()),
            time(savings.saved_us() as f64)
        ),
    };
    let baseline = savings.baseline();
    let quantiles = baseline.quantiles_us.map(|us| us as f64);
    let (mean, max) = (baseline.mean_us, baseline.max_us as f64);
    let mut text = title + &columns("", "count");
    text += &distribution_row("baseline", &baseline.count.to_string(), mean, quantiles, max);
    text += &row("durable write", durable_write);
    if !durable_write.is_empty() {
        let ours = Distribution::of(durable_write);
        let quantiles = savings.by_quantile_us(&ours).map(|us| us as f64);
        let (mean, max) = (mean - ours.mean_us, max - ours.max_us as f64);
        text += &distribution_row("difference", "", mean, quantiles, max);
    }
    let _ = writeln!(text, "  {ESTIMATE}");
    text
}

/// A bar for each doubling of the time.
fn bars(histogram: &Histogram<u64>) -> String {
    let mut text = String::from("received to durable:\n");
    if histogram.is_empty() {
        return text + "  nothing became durable while the stream was live\n";
    }
    let rows: Vec<_> = doublings(histogram).collect();
    let most = rows.iter().map(|&(.., count)| count).max().unwrap_or(1);
    for (from, to, count) in rows {
        let bar = "#".repeat((BAR * count as f64 / most as f64).ceil() as usize);
        let line = format!("  {from:>9} - {to:>9} µs {count:>10} {bar}");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// From the first doubling that holds a value to the last: its bounds and how many it holds.
fn doublings(histogram: &Histogram<u64>) -> impl Iterator<Item = (u64, u64, u64)> {
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
    use crate::core::measure::{Measure, Times};

    fn us(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    /// As they are printed after two seconds.
    fn printed(measures: &Measures) -> String {
        let telemetry = Telemetry::default();
        telemetry.transactions.add(5);
        telemetry.received_bytes.add(3 << 20);
        text(&telemetry, measures, Duration::from_secs(2))
    }

    #[test]
    fn the_summary_has_a_row_for_each_kind_and_says_what_is_empty() {
        let mut measures = Measures::default();
        for microseconds in [100, 100, 100, 5000] {
            measures.record(Measure::Durable(us(microseconds)));
        }
        measures.record(Measure::Commit(us(2_000_000)));
        measures.record(Measure::Flush {
            transactions: 2,
            bytes: 4096,
            took: us(90),
        });
        measures.record(Measure::Flush {
            transactions: 1,
            bytes: 100,
            took: us(90),
        });
        let text = printed(&measures);
        let expected = "\
summary after 2.0 s: 5 transactions (2.5/s), 3.0 MiB of WAL (1.5 MiB/s)
                              count     mean      p50      p90      p99    p99.9   p99.99      max
  received to durable             4  1.33 ms   100 µs  5.00 ms  5.00 ms  5.00 ms  5.00 ms  5.00 ms
  received to acknowledged  nothing measured
  commit to durable (*)           1   2.00 s   2.00 s   2.00 s   2.00 s   2.00 s   2.00 s   2.00 s
  plain write               nothing measured
  durable write             nothing measured
  sync                      nothing measured
  rollover                  nothing measured
  (*) by two clocks: from the server's time of the commit, so that it depends on both clocks
each flush                    count     mean      p50      max
  transactions                    2      1.5        1        2
  WAL                             2  2.0 KiB    100 B  4.0 KiB
received to durable:
         64 -       128 µs          3 ##################################################
        128 -       256 µs          0
        256 -       512 µs          0
        512 -      1024 µs          0
       1024 -      2048 µs          0
       2048 -      4096 µs          0
       4096 -      8192 µs          1 #################
";
        assert_eq!(text, expected, "{text}");
    }

    #[test]
    fn nothing_measured_is_said_so() {
        let text = printed(&Measures::default());
        assert!(text.contains("nothing became durable") && !text.contains("two clocks"));
        assert_eq!(text.matches("nothing measured\n").count(), 9, "{text}");
        assert!(!text.contains("saving"));
    }

    #[test]
    fn the_saving_is_shown_with_what_it_compares() {
        let mut baseline = Times::new();
        baseline.record(us(500));
        baseline.record(us(700));
        let mut measures = Measures {
            savings: Some(Savings::against(baseline.histogram())),
            ..Measures::default()
        };
        assert!(printed(&measures).contains("estimated saving: no transaction is durable yet\n"));
        measures.record(Measure::DurableWrite(us(800)));
        measures.record(Measure::Flush {
            transactions: 10,
            bytes: 1,
            took: us(800),
        });
        let text = printed(&measures);
        let expected = "\
estimated saving: -200 µs per transaction, -2.00 ms in 10 transactions
                              count     mean      p50      p90      p99    p99.9   p99.99      max
  baseline                        2   600 µs   500 µs   700 µs   700 µs   700 µs   700 µs   700 µs
  durable write                   1   800 µs   800 µs   800 µs   800 µs   800 µs   800 µs   800 µs
  difference                         -200 µs  -300 µs  -100 µs  -100 µs  -100 µs  -100 µs  -100 µs
";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains(ESTIMATE));
    }

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let shown = [
            0.0, 7.0, 7.25, 312.4, 999.4, 999.6, 9_994.0, 99_960.0, 999_600.0, 6e8,
        ]
        .map(time);
        let expected = [
            "0 µs", "7 µs", "7.25 µs", "312 µs", "999 µs", "1.00 ms", "9.99 ms", "100 ms", "1.00 s", "600 s",
        ];
        assert_eq!(shown, expected);
        assert_eq!(
            [-12.0, -1500.0, -3e6].map(time),
            ["-12 µs", "-1.50 ms", "-3.00 s"]
        );
    }

    #[test]
    fn every_value_is_in_a_row() {
        let mut latency = Times::new();
        for microseconds in [3, 90, 100, 127, 128, 5000] {
            latency.record(us(microseconds));
        }
        let histogram = latency.histogram();
        assert_eq!(doublings(histogram).map(|(.., count)| count).sum::<u64>(), 6);
        assert!(bars(histogram).contains("       64 -       128 µs          3 #"));
    }
}
