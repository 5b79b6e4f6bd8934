//! The state of a running receiver as JSON: what `/v1/status` answers and `walring top` reads.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::slot_state::SlotState;

/// Everything at one moment. Positions are texts as the server prints them, `16/B374D848`; null where
/// nothing is known yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// walring's version.
    pub version: String,
    /// `stopped`, `starting`, `streaming`, `waiting` or `restarting`.
    pub status: String,
    /// Streaming, and neither the server nor the disk has stalled.
    pub healthy: bool,
    /// Why not, in a few words.
    pub reason: Option<String>,
    /// Seconds since the process began.
    pub uptime_seconds: f64,
    /// When this was told, in seconds since 1970 UTC.
    pub time_unix_seconds: f64,
    /// The target directory.
    pub directory: String,
    /// The replication slot, if there is one.
    pub slot: Option<String>,
    /// What the server says of it, if it is looked after (`--slot-watch`).
    pub slot_watch: Option<SlotWatchStatus>,
    /// Whether WAL is made durable as soon as it arrives (`--synchronous`).
    pub synchronous: bool,
    /// `records`, `pages` or `off`.
    pub verify: String,
    /// The server's host.
    pub upstream_host: String,
    /// The server's port.
    pub upstream_port: u16,
    /// The server's version.
    pub server_version: Option<String>,
    /// The server's system identifier, as a text: it does not fit a JSON number.
    pub system_identifier: Option<String>,
    /// The timeline that is received.
    pub timeline: Option<u32>,
    /// The file that is being written.
    pub segment: Option<String>,
    /// Positions.
    pub positions: Positions,
    /// WAL that the server has and that is not durable here, in bytes.
    pub lag_bytes: u64,
    /// How long there has been such WAL, in seconds.
    pub lag_seconds: f64,
    /// Numbers since the process began.
    pub totals: Totals,
    /// Bytes free for an unprivileged user on the directory's file system.
    pub free_bytes: Option<u64>,
    /// Latencies since the process began.
    pub latency: Latencies,
    /// The estimated saving, if there is a baseline to compare with.
    pub savings: Option<Savings>,
}

/// What the server says of the replication slot; null where it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SlotWatchStatus {
    /// Whether the last question was answered.
    pub up: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// How much more WAL can be written before the slot is lost, in bytes.
    pub safe_wal_size_bytes: Option<i64>,
    /// The oldest position that is kept.
    pub restart_lsn: Option<String>,
    /// Whether somebody streams from it.
    pub active: Option<bool>,
    /// Why the server has given it up.
    pub invalidation_reason: Option<String>,
}

impl SlotWatchStatus {
    /// Of a slot; `None` if nothing could be found out.
    pub fn of(state: Option<&SlotState>) -> SlotWatchStatus {
        let Some(state) = state else {
            return SlotWatchStatus::default();
        };
        SlotWatchStatus {
            up: true,
            wal_status: state.wal_status.map(|status| status.word().to_owned()),
            safe_wal_size_bytes: state.safe_wal_bytes,
            restart_lsn: state.restart_lsn.map(|lsn| lsn.to_string()),
            active: Some(state.active),
            invalidation_reason: state.invalidation_reason.clone(),
        }
    }
}

/// How far the stream is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Positions {
    /// Where streaming began on this connection.
    pub start: Option<String>,
    /// The end of what arrived.
    pub received: Option<String>,
    /// The end of what was verified.
    pub verified: Option<String>,
    /// The end of what was written.
    pub written: Option<String>,
    /// The end of what is durable.
    pub flushed: Option<String>,
    /// The flush position that the server was told last.
    pub reported: Option<String>,
    /// How far the server could send when it spoke last.
    pub server_end: Option<String>,
}

/// Numbers since the process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// WAL received, in bytes.
    pub bytes: u64,
    /// Transactions: COMMIT and COMMIT PREPARED records.
    pub transactions: u64,
    /// Records verified.
    pub records: u64,
    /// Segments completed.
    pub segments: u64,
    /// Connections after the first.
    pub reconnects: u64,
    /// Operations of the disk that failed.
    pub disk_errors: u64,
    /// Pages or records that failed verification.
    pub verification_failures: u64,
}

/// Latencies, see [`crate::core::measure::Measures`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    /// Received to durable.
    pub durable: Distribution,
    /// Received to acknowledged.
    pub acknowledged: Distribution,
    /// The server's commit time to durable: depends on two clocks.
    pub commit: Distribution,
    /// Plain writes.
    pub write: Distribution,
    /// Durable writes.
    pub durable_write: Distribution,
    /// Syncs.
    pub sync: Distribution,
    /// Changes of segments.
    pub rollover: Distribution,
}

/// A histogram in short. Times in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// How many values.
    pub count: u64,
    /// Their mean.
    pub mean_us: f64,
    /// Percentiles.
    pub p50_us: u64,
    /// See `p50_us`.
    pub p90_us: u64,
    /// See `p50_us`.
    pub p99_us: u64,
    /// See `p50_us`.
    pub p999_us: u64,
    /// See `p50_us`.
    pub p9999_us: u64,
    /// The greatest value.
    pub max_us: u64,
    /// For each doubling that holds a value: its lower bound in microseconds, and how many it holds.
    pub doublings: Vec<(u64, u64)>,
}

impl Distribution {
    /// What a histogram of microseconds holds.
    pub fn of(histogram: &Histogram<u64>) -> Distribution {
        if histogram.is_empty() {
            return Distribution::default();
        }
        let mut doublings: Vec<(u64, u64)> = Vec::new();
        for step in histogram.iter_recorded() {
            let from = 1 << step.value_iterated_to().max(1).ilog2();
            match doublings.last_mut() {
                Some((last, count)) if *last == from => *count += step.count_at_value(),
                _ => doublings.push((from, step.count_at_value())),
            }
        }
        Distribution {
            count: histogram.len(),
            mean_us: histogram.mean(),
            p50_us: histogram.value_at_quantile(0.5),
            p90_us: histogram.value_at_quantile(0.9),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            p9999_us: histogram.value_at_quantile(0.9999),
            max_us: histogram.max(),
            doublings,
        }
    }
}

/// An estimate of what was saved against the standard path on this disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Savings {
    /// Transactions that were compared.
    pub transactions: u64,
    /// The baseline's mean, in microseconds.
    pub baseline_mean_us: f64,
    /// Saved per transaction, in microseconds; negative: lost.
    pub per_transaction_us: f64,
    /// Saved altogether, in seconds.
    pub total_seconds: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_counts_every_value_in_one_doubling() {
        let mut histogram = Histogram::new_with_bounds(1, 600_000_000, 3).unwrap();
        for value in [1, 2, 3, 4, 1023, 1024, 1_000_000] {
            histogram.record(value).unwrap();
        }
        let distribution = Distribution::of(&histogram);
        let expected = [(1, 1), (2, 2), (4, 1), (512, 1), (1024, 1), (1 << 19, 1)];
        assert_eq!(distribution.doublings, expected);
        assert_eq!(distribution.count, 7);
        assert_eq!(distribution.p50_us, 4);
    }
}
