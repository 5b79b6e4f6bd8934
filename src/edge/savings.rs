//! The estimate of what is saved against a baseline: where that comes from, and how it is shown to
//! programs. The arithmetic is in [`crate::core::savings`].

use std::path::Path;

use tracing::info;

use super::baseline::read_baseline;
use super::status;
use crate::core::measure::Measures;
use crate::core::savings::Savings;
use crate::error::Result;

/// Begins to compare with the baseline in a file, and logs which that is.
pub fn against(path: &Path) -> Result<Savings> {
    let savings = Savings::against(&read_baseline(path)?);
    let baseline = savings.baseline();
    info!(
        "estimating what is saved against the baseline \"{}\": {} times of write + fsync, mean {:.0} µs",
        path.display(),
        baseline.count,
        baseline.mean_us
    );
    Ok(savings)
}

/// The estimate for metrics and status; `None` without a baseline.
pub fn shown(measures: &Measures) -> Option<status::Savings> {
    measures.savings.as_ref().map(|savings| status::Savings {
        transactions: savings.transactions(),
        baseline_mean_us: savings.baseline().mean_us,
        per_transaction_us: savings.per_transaction_us(),
        total_seconds: savings.saved_us() as f64 / 1e6,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::measure::{Measure, Times};
    use std::time::Duration;

    #[test]
    fn flushes_are_credited_and_shown_once_there_is_a_baseline() {
        let flush = Measure::Flush {
            transactions: 2,
            bytes: 100,
            took: Duration::from_micros(1500),
        };
        let mut measures = Measures::default();
        measures.record(flush);
        assert_eq!(shown(&measures), None);
        let mut baseline = Times::new();
        baseline.record(Duration::from_micros(1000));
        measures.savings = Some(Savings::against(baseline.histogram()));
        measures.record(flush);
        let expected = status::Savings {
            transactions: 2,
            baseline_mean_us: 1000.0,
            per_transaction_us: -500.0,
            total_seconds: -0.001,
        };
        assert_eq!(shown(&measures), Some(expected));
    }
}
