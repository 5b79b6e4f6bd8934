//! The last minute of a receiver, and what has changed in it.

use std::collections::VecDeque;

use crate::edge::status::Status;

/// How far back it goes, in seconds.
pub const SPAN_SECONDS: f64 = 60.0;

/// What was told, the oldest first. Time is the receiver's own uptime: no clock of ours, none that is set.
#[derive(Debug, Default)]
pub struct History {
    points: VecDeque<Point>,
    latest: Option<Status>,
}

/// How much had been received when.
#[derive(Debug, Clone, Copy)]
struct Point {
    uptime: f64,
    bytes: u64,
    transactions: u64,
}

/// What is received in a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Bytes of WAL.
    pub bytes: f64,
    /// Transactions.
    pub transactions: f64,
}

impl History {
    /// One more status. An uptime or a total that went back is another process: what was before it is forgotten.
    pub fn push(&mut self, status: Status) {
        let point = Point::of(&status);
        if self.points.back().is_some_and(|last| !last.precedes(point)) {
            self.points.clear();
        }
        self.points.push_back(point);
        // One point beyond the span is kept: the rate at its beginning needs it.
        while self.points.len() > 2 && self.points[1].uptime < point.uptime - SPAN_SECONDS {
            self.points.pop_front();
        }
        self.latest = Some(status);
    }

    /// What was told last.
    pub fn latest(&self) -> Option<&Status> {
        self.latest.as_ref()
    }

    /// The rate between the last two statuses.
    pub fn rate(&self) -> Option<Rate> {
        let from = self.points.len().checked_sub(2)?;
        Point::rate(self.points[from], self.points[from + 1])
    }

    /// The bytes in a second over the last minute, in so many equal parts, the latest at the end. A part before the
    /// first status has none.
    pub fn rates(&self, parts: usize) -> Vec<Option<f64>> {
        let end = self.points.back().map_or(0.0, |point| point.uptime);
        (0..parts)
            .map(|part| {
                let back = (parts - part) as f64 - 0.5;
                self.rate_at(end - back * SPAN_SECONDS / parts as f64)
            })
            .collect()
    }

    fn rate_at(&self, uptime: f64) -> Option<f64> {
        let after = self.points.iter().position(|point| point.uptime >= uptime)?;
        let before = after.checked_sub(1)?;
        Some(Point::rate(self.points[before], self.points[after])?.bytes)
    }
}

impl Point {
    fn of(status: &Status) -> Point {
        Point {
            uptime: status.uptime_seconds,
            bytes: status.totals.bytes,
            transactions: status.totals.transactions,
        }
    }

    fn precedes(self, later: Point) -> bool {
        self.uptime <= later.uptime && self.bytes <= later.bytes && self.transactions <= later.transactions
    }

    fn rate(self, later: Point) -> Option<Rate> {
        let seconds = later.uptime - self.uptime;
        (seconds > 0.0).then(|| Rate {
            bytes: later.bytes.saturating_sub(self.bytes) as f64 / seconds,
            transactions: later.transactions.saturating_sub(self.transactions) as f64 / seconds,
        })
    }
}

/// The mean rate since the process began; it is all that a single status can tell.
pub fn mean_rate(status: &Status) -> Option<Rate> {
    let beginning = Point {
        uptime: 0.0,
        bytes: 0,
        transactions: 0,
    };
    beginning.rate(Point::of(status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::top::frame::tests::status;

    fn at(uptime: f64, bytes: u64, transactions: u64) -> Status {
        let mut status = status();
        status.uptime_seconds = uptime;
        (status.totals.bytes, status.totals.transactions) = (bytes, transactions);
        status
    }

    fn history(points: &[(f64, u64, u64)]) -> History {
        let mut history = History::default();
        for &(uptime, bytes, transactions) in points {
            history.push(at(uptime, bytes, transactions));
        }
        history
    }

    #[test]
    fn a_rate_is_the_difference_of_two_statuses_by_the_receivers_time() {
        let rate = history(&[(10.0, 0, 0), (12.0, 1000, 10), (14.5, 6000, 15)]).rate();
        assert_eq!(
            rate,
            Some(Rate {
                bytes: 2000.0,
                transactions: 2.0
            })
        );
    }

    #[test]
    fn one_status_or_the_same_twice_has_no_rate() {
        assert_eq!(history(&[(10.0, 5, 5)]).rate(), None);
        assert_eq!(history(&[(10.0, 5, 5), (10.0, 5, 5)]).rate(), None);
        assert_eq!(mean_rate(&at(0.0, 5, 5)), None);
        assert_eq!(mean_rate(&at(2.0, 5, 5)).map(|rate| rate.bytes), Some(2.5));
    }

    #[test]
    fn a_new_process_begins_anew() {
        let mut history = history(&[(10.0, 500, 5), (11.0, 600, 6)]);
        history.push(at(1.0, 700, 7));
        assert_eq!(history.rate(), None);
        // It was slow to come up, but its totals tell.
        history.push(at(50.0, 10, 1));
        assert_eq!(history.rate(), None);
    }

    #[test]
    fn the_last_minute_is_kept_and_no_more() {
        let mut history = History::default();
        for second in 0..1000 {
            history.push(at(f64::from(second), u64::from(second as u32) * 7, 0));
        }
        assert_eq!(history.points.len(), 62);
        assert_eq!(history.rates(4), vec![Some(7.0); 4]);
    }

    #[test]
    fn the_parts_of_a_minute_begin_with_the_first_status() {
        let rates = history(&[(100.0, 0, 0), (115.0, 150, 0), (130.0, 150, 0)]).rates(4);
        assert_eq!(rates, [None, None, Some(10.0), Some(0.0)]);
    }
}
