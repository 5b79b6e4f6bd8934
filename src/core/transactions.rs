//! Transactions on their way: received, durable, acknowledged.

use std::collections::VecDeque;
use std::time::Duration;

use super::lsn::Lsn;
use super::measure::Measure;
use super::order::Output;

/// Most transactions that are followed at once. What comes beyond is counted, not timed: so much is
/// pending only where nobody waits for a commit.
const CAPACITY: usize = 16 << 10;

/// A transaction's commit record.
#[derive(Debug, Clone, Copy)]
struct Commit {
    /// The record's end, padding included: what the server waits for.
    end: Lsn,
    received: Duration,
    /// Microseconds since 2000-01-01 UTC, by the server's clock.
    committed_us: i64,
}

/// The commits that are not yet acknowledged, in the order of the log.
#[derive(Debug)]
pub struct Transactions {
    pending: VecDeque<Commit>,
    /// How many of those are durable.
    durable: usize,
    received: u64,
    /// Nobody waits for what the server had before the stream began: it is counted only.
    backlog_end: Lsn,
}

impl Transactions {
    /// None has arrived; those that end at or before `backlog_end` will be counted, not timed. No memory
    /// is allocated after this.
    pub fn new(backlog_end: Lsn) -> Transactions {
        Transactions {
            pending: VecDeque::with_capacity(CAPACITY),
            durable: 0,
            received: 0,
            backlog_end,
        }
    }

    /// Transactions received, ever.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Whether a commit that ends there is timed.
    pub fn are_timed_at(&self, end: Lsn) -> bool {
        end > self.backlog_end
    }

    /// A commit arrived whose record ends at `end`.
    pub fn arrived(&mut self, end: Lsn, received: Duration, committed_us: i64) {
        self.received += 1;
        if self.are_timed_at(end) && self.pending.len() < CAPACITY {
            self.pending.push_back(Commit {
                end,
                received,
                committed_us,
            });
        }
    }

    /// Everything up to `end` is durable.
    pub fn flushed(&mut self, end: Lsn, now: Duration, outputs: &mut VecDeque<Output>) {
        let news = self.pending.iter().skip(self.durable);
        for commit in news.take_while(|commit| commit.end <= end) {
            self.durable += 1;
            outputs.push_back(Output::Measured(Measure::Durable(now - commit.received)));
            outputs.push_back(Output::Committed(commit.committed_us));
        }
    }

    /// Everything up to `end` that is durable has been acknowledged.
    pub fn acknowledged(&mut self, end: Lsn, now: Duration, outputs: &mut VecDeque<Output>) {
        let told = self.pending.partition_point(|commit| commit.end <= end);
        let told = told.min(self.durable);
        for commit in self.pending.drain(..told) {
            outputs.push_back(Output::Measured(Measure::Acknowledged(now - commit.received)));
        }
        self.durable -= told;
    }

    /// Nobody is told what is durable: what is, has reached its end.
    pub fn forget_durable(&mut self) {
        self.pending.drain(..self.durable);
        self.durable = 0;
    }

    /// How many commits that are followed end behind `from` and not behind `to`.
    pub fn between(&self, from: Lsn, to: Lsn) -> u64 {
        let first = self.pending.partition_point(|commit| commit.end <= from);
        let last = self.pending.partition_point(|commit| commit.end <= to);
        (last - first) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn measured(outputs: &VecDeque<Output>) -> Vec<Measure> {
        let measure = |output: &Output| match output {
            Output::Measured(measure) => Some(*measure),
            _ => None,
        };
        outputs.iter().filter_map(measure).collect()
    }

    #[test]
    fn each_commit_is_measured_once_when_durable_and_once_when_acknowledged() {
        let (mut transactions, mut outputs) = (Transactions::new(Lsn(0)), VecDeque::new());
        transactions.arrived(Lsn(100), MS(1), 0);
        transactions.arrived(Lsn(200), MS(2), 0);
        assert_eq!(transactions.between(Lsn(0), Lsn(150)), 1);
        transactions.flushed(Lsn(199), MS(5), &mut outputs);
        transactions.acknowledged(Lsn(200), MS(6), &mut outputs);
        transactions.flushed(Lsn(200), MS(9), &mut outputs);
        transactions.acknowledged(Lsn(200), MS(9), &mut outputs);
        let expected = [
            Measure::Durable(MS(4)),
            Measure::Acknowledged(MS(5)),
            Measure::Durable(MS(7)),
            Measure::Acknowledged(MS(7)),
        ];
        assert_eq!(measured(&outputs), expected);
        assert_eq!(transactions.received(), 2);
    }

    #[test]
    fn what_the_server_had_before_is_counted_only() {
        let (mut transactions, mut outputs) = (Transactions::new(Lsn(100)), VecDeque::new());
        transactions.arrived(Lsn(100), MS(1), 0);
        transactions.flushed(Lsn(100), MS(5), &mut outputs);
        assert_eq!(measured(&outputs), []);
        assert_eq!(transactions.received(), 1);
    }
}
