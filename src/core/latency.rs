//! How long received bytes took to become durable.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest time that is told apart, in microseconds: a minute. What takes longer counts as that.
const LONGEST_US: u64 = 60_000_000;

/// A histogram of times in microseconds, with three significant digits. One value is one durable
/// write of a group of commits: from the arrival of its first byte to its end.
#[derive(Debug)]
pub struct Latency(Histogram<u64>);

impl Latency {
    /// Nothing measured yet; all memory that will be needed is allocated here.
    pub fn new() -> Latency {
        // The bounds are constants within what the histogram allows.
        Latency(Histogram::new_with_bounds(1, LONGEST_US, 3).expect("valid bounds"))
    }

    /// Counts one group.
    pub fn record(&mut self, waited: Duration) {
        let microseconds = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(microseconds.clamp(1, LONGEST_US));
    }

    /// The measured values, in microseconds.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }
}

impl Default for Latency {
    fn default() -> Latency {
        Latency::new()
    }
}
