//! What a receiver measures: how long each transaction took to become durable, and what that took.
//!
//! Histograms of hdrhistogram: all memory is allocated when they are made, and recording is a few
//! instructions.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::savings::Savings;

/// Longest time that is told apart, in microseconds: ten minutes. What takes longer counts as that.
const LONGEST_US: u64 = 600_000_000;

/// Largest number that is told apart: bytes and transactions of one write.
const LARGEST: u64 = 1 << 30;

/// The percentiles that are shown, with their names.
pub const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
];

/// A histogram in short, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distribution {
    /// How many values.
    pub count: u64,
    /// Their mean.
    pub mean_us: f64,
    /// Their percentiles, in the order of [`QUANTILES`].
    pub quantiles_us: [u64; QUANTILES.len()],
    /// The greatest.
    pub max_us: u64,
}

impl Distribution {
    /// Of a histogram whose values are microseconds.
    pub fn of(histogram: &Histogram<u64>) -> Distribution {
        Distribution {
            count: histogram.len(),
            mean_us: histogram.mean(),
            quantiles_us: QUANTILES.map(|(_, quantile)| histogram.value_at_quantile(quantile)),
            max_us: histogram.max(),
        }
    }
}

/// Times in microseconds, with three significant digits.
#[derive(Debug, Clone)]
pub struct Times(Histogram<u64>);

impl Times {
    /// Nothing measured yet; all memory that will be needed is allocated here.
    pub fn new() -> Times {
        // The bounds are constants within what the histogram allows.
        Times(Histogram::new_with_bounds(1, LONGEST_US, 3).expect("valid bounds"))
    }

    /// Counts one time; less than a microsecond counts as one.
    pub fn record(&mut self, time: Duration) {
        let microseconds = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(microseconds.clamp(1, LONGEST_US));
    }

    /// The measured values, in microseconds.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }

    /// Holds what `other` holds; one copy of memory, no allocation.
    pub fn copy_from(&mut self, other: &Times) {
        // Both have the same bounds, so nothing can be missing.
        let _ = self.0.set_to(&other.0);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.reset();
    }
}

impl Default for Times {
    fn default() -> Times {
        Times::new()
    }
}

/// Numbers of things, with two significant digits.
#[derive(Debug, Clone)]
pub struct Sizes(Histogram<u64>);

impl Sizes {
    /// Nothing measured yet; all memory that will be needed is allocated here.
    pub fn new() -> Sizes {
        Sizes(Histogram::new_with_bounds(1, LARGEST, 2).expect("valid bounds"))
    }

    /// Counts one number, zero included.
    pub fn record(&mut self, number: u64) {
        self.0.saturating_record(number.min(LARGEST));
    }

    /// The measured values.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.reset();
    }
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes::new()
    }
}

/// Everything that is measured. A transaction is a COMMIT or COMMIT PREPARED record in the stream;
/// those that arrive in a catch-up, where nobody waits for them, are counted but not timed.
#[derive(Debug, Clone, Default)]
pub struct Measures {
    /// From the arrival of a transaction's last byte to its being durable.
    pub durable: Times,
    /// From the arrival of a transaction's last byte to the status that acknowledges it.
    pub acknowledged: Times,
    /// From the server's time of the commit to its being durable here: by two clocks.
    pub commit: Times,
    /// Writes that are not durable when they end.
    pub write: Times,
    /// Durable writes.
    pub durable_write: Times,
    /// Syncs of a file's data.
    pub sync: Times,
    /// Changes of segments: from the order to rename to the directory being synced.
    pub rollover: Times,
    /// Transactions that one durable write, or one sync, made durable.
    pub transactions_per_flush: Sizes,
    /// Bytes that one durable write, or one sync, made durable.
    pub bytes_per_flush: Sizes,
    /// What the flushes saved, if there is a baseline to compare with.
    pub savings: Option<Savings>,
}

/// One measured value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// See [`Measures::durable`].
    Durable(Duration),
    /// See [`Measures::acknowledged`].
    Acknowledged(Duration),
    /// See [`Measures::commit`].
    Commit(Duration),
    /// See [`Measures::write`].
    Write(Duration),
    /// See [`Measures::durable_write`].
    DurableWrite(Duration),
    /// See [`Measures::sync`].
    Sync(Duration),
    /// See [`Measures::rollover`].
    Rollover(Duration),
    /// So many transactions and bytes became durable together.
    Flush {
        /// See [`Measures::transactions_per_flush`].
        transactions: u64,
        /// See [`Measures::bytes_per_flush`].
        bytes: u64,
        /// How long the write or sync took that did it.
        took: Duration,
    },
}

impl Measures {
    /// Counts one value.
    pub fn record(&mut self, measure: Measure) {
        match measure {
            Measure::Durable(time) => self.durable.record(time),
            Measure::Acknowledged(time) => self.acknowledged.record(time),
            Measure::Commit(time) => self.commit.record(time),
            Measure::Write(time) => self.write.record(time),
            Measure::DurableWrite(time) => self.durable_write.record(time),
            Measure::Sync(time) => self.sync.record(time),
            Measure::Rollover(time) => self.rollover.record(time),
            Measure::Flush {
                transactions,
                bytes,
                took,
            } => {
                self.transactions_per_flush.record(transactions);
                self.bytes_per_flush.record(bytes);
                if let Some(savings) = &mut self.savings {
                    savings.credit(transactions, took);
                }
            }
        }
    }
}
