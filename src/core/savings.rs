//! What is saved against the standard path, a write and an fsync: arithmetic on a baseline.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::measure::{Distribution, QUANTILES};

/// What the numbers compare. They are shown with this sentence only.
pub const ESTIMATE: &str = "This is an estimate: for each transaction, the mean of the baseline (write + fsync, measured \
     beforehand) less the time of the flush that made it durable.";

/// What the transactions so far have saved, or lost. See [`ESTIMATE`].
#[derive(Debug, Clone)]
pub struct Savings {
    baseline: Distribution,
    baseline_mean_ns: i64,
    transactions: u64,
    saved_ns: i64,
}

impl Savings {
    /// Nothing saved yet. `baseline`: how long the standard path takes on this disk, in microseconds;
    /// it must hold a value to mean anything.
    pub fn against(baseline: &Histogram<u64>) -> Savings {
        let baseline = Distribution::of(baseline);
        Savings {
            baseline,
            baseline_mean_ns: (baseline.mean_us * 1e3).round() as i64,
            transactions: 0,
            saved_ns: 0,
        }
    }

    /// So many transactions became durable by a flush that took so long.
    pub fn credit(&mut self, transactions: u64, took: Duration) {
        let took_ns = i64::try_from(took.as_nanos()).unwrap_or(i64::MAX);
        let each_ns = self.baseline_mean_ns.saturating_sub(took_ns);
        let count = i64::try_from(transactions).unwrap_or(i64::MAX);
        self.saved_ns = self.saved_ns.saturating_add(each_ns.saturating_mul(count));
        self.transactions = self.transactions.saturating_add(transactions);
    }

    /// What is compared with.
    pub fn baseline(&self) -> &Distribution {
        &self.baseline
    }

    /// Transactions that were compared.
    pub fn transactions(&self) -> u64 {
        self.transactions
    }

    /// Saved altogether, in microseconds; negative: lost.
    pub fn saved_us(&self) -> i64 {
        self.saved_ns / 1000
    }

    /// Saved per transaction, in microseconds; zero while there is none.
    pub fn per_transaction_us(&self) -> f64 {
        match self.transactions {
            0 => 0.0,
            count => self.saved_ns as f64 / 1e3 / count as f64,
        }
    }

    /// By how much each percentile of the baseline, in the order of [`QUANTILES`], is above that of
    /// `ours`, in microseconds. This compares distributions, not transactions.
    pub fn by_quantile_us(&self, ours: &Distribution) -> [i64; QUANTILES.len()] {
        std::array::from_fn(|index| {
            difference_us(self.baseline.quantiles_us[index], ours.quantiles_us[index])
        })
    }
}

/// The first less the second, which is negative where the second is greater.
fn difference_us(from_us: u64, less_us: u64) -> i64 {
    let wide = i128::from(from_us) - i128::from(less_us);
    wide.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(values: &[u64]) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1, 600_000_000, 3).unwrap();
        for &value in values {
            histogram.record(value).unwrap();
        }
        histogram
    }

    fn us(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    #[test]
    fn each_transaction_is_credited_what_its_flush_took_less_than_the_mean() {
        let mut savings = Savings::against(&histogram(&[100, 200, 600]));
        assert_eq!((savings.transactions(), savings.per_transaction_us()), (0, 0.0));
        savings.credit(3, us(200));
        savings.credit(0, us(1));
        assert_eq!((savings.transactions(), savings.saved_us()), (3, 300));
        savings.credit(1, us(800));
        assert_eq!((savings.transactions(), savings.saved_us()), (4, -200));
        assert_eq!(savings.per_transaction_us(), -50.0);
    }

    #[test]
    fn parts_of_microseconds_add_up() {
        let mut savings = Savings::against(&histogram(&[100, 101]));
        for _ in 0..1000 {
            savings.credit(1, Duration::from_nanos(100_000));
        }
        assert_eq!(savings.saved_us(), 500);
    }

    #[test]
    fn percentiles_are_compared_with_sign() {
        let savings = Savings::against(&histogram(&[100, 100, 100, 900]));
        let ours = Distribution::of(&histogram(&[40, 40, 40, 1900]));
        assert_eq!(savings.by_quantile_us(&ours), [60, -1000, -1000, -1000, -1000]);
        assert_eq!(savings.baseline().count, 4);
    }

    #[test]
    fn no_number_is_too_large() {
        let mut savings = Savings::against(&histogram(&[100]));
        savings.credit(u64::MAX, Duration::MAX);
        savings.credit(u64::MAX, Duration::MAX);
        assert_eq!(savings.transactions(), u64::MAX);
        assert_eq!(savings.saved_us(), i64::MIN / 1000);
        assert_eq!(difference_us(0, u64::MAX), i64::MIN);
    }
}
