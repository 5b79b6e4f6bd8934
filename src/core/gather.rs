//! Group commit: which commits share a flush.
//!
//! An acknowledgement releases a group of clients, and most of them commit again within a moment. A
//! write issued the instant the last one is durable catches the first of them, or only those who came
//! during the last flush; the others wait for a whole flush more. Two groups then take turns for ever.
//!
//! So the next write is held until as many commits have arrived as are in play: those of the last
//! group, who were just released, and those who came during its flush. It is held no longer than they
//! keep coming, and never longer than a third of a flush. Where released clients do not come back
//! (they think, or their commits come at a rate of their own), holding is given up for a while.

use std::time::Duration;

use super::recent::Recent;

/// A disk whose flushes usually take no longer than this is quick: its wake-ups cost as much.
pub const QUICK_FLUSH: Duration = Duration::from_millis(1);

/// A hold ends when nothing has arrived for this share of a flush...
const PAUSE: u32 = 8;

/// ... and when it has lasted for this share of a flush.
const LONGEST: u32 = 3;

/// After holds in vain, so many groups at most go without one.
const LONGEST_REST: u32 = 64;

/// What arrived: commits where they are seen, and in any case messages and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Arrived {
    transactions: u32,
    messages: u32,
    bytes: u64,
}

impl Arrived {
    fn and(self, other: Arrived) -> Arrived {
        Arrived {
            transactions: self.transactions + other.transactions,
            messages: self.messages + other.messages,
            bytes: self.bytes + other.bytes,
        }
    }

    /// Whether this is as much as `other`: as many transactions, or bytes where none were seen.
    fn reaches(self, other: Arrived) -> bool {
        match other.transactions {
            0 => self.bytes >= other.bytes,
            transactions => self.transactions >= transactions,
        }
    }

    /// Whether this is one client's: nobody else is to be waited for.
    fn is_one(self) -> bool {
        self.transactions == 1 || (self.transactions == 0 && self.messages <= 1)
    }
}

/// A write that waits for more.
#[derive(Debug, Clone, Copy)]
struct Hold {
    /// What had arrived when it was looked at last.
    seen: Arrived,
    /// It ends then, unless more arrives.
    until: Duration,
    /// It ends then.
    limit: Duration,
}

/// Decides how long a write is held.
#[derive(Debug, Default)]
pub struct Gather {
    /// Since the last group was issued.
    arrived: Arrived,
    /// The last group.
    released: Arrived,
    /// What had arrived when the last group became durable.
    before: Arrived,
    flushes: Recent,
    hold: Option<Hold>,
    /// Groups that are not held, and how many it will be the next time.
    rest: u32,
    next_rest: u32,
}

impl Gather {
    /// A WAL message with so many bytes arrived.
    pub fn message(&mut self, bytes: u64) {
        self.arrived.messages += 1;
        self.arrived.bytes += bytes;
    }

    /// A transaction was in it.
    pub fn transaction(&mut self) {
        self.arrived.transactions += 1;
    }

    /// The last group is durable; its write took this long.
    pub fn flushed(&mut self, took: Duration) {
        self.flushes.add(took);
        self.before = self.arrived;
    }

    /// Whether durable writes usually take so little that nothing is worth being done meanwhile.
    pub fn is_disk_quick(&self) -> bool {
        self.flushes.usual().is_some_and(|flush| flush <= QUICK_FLUSH)
    }

    /// Until when the write that could be issued now is to be held; `None`: issue it.
    pub fn hold(&mut self, now: Duration) -> Option<Duration> {
        let flush = self.flushes.usual()?;
        let in_play = self.released.and(self.before);
        if in_play.is_one() || self.rest > 0 || self.is_disk_quick() || self.arrived.reaches(in_play) {
            return None;
        }
        let pause = flush / PAUSE;
        let hold = self.hold.get_or_insert(Hold {
            seen: self.arrived,
            until: now + pause,
            limit: now + flush / LONGEST,
        });
        if hold.seen != self.arrived {
            hold.seen = self.arrived;
            hold.until = hold.limit.min(now + pause);
        }
        (now < hold.until).then_some(hold.until)
    }

    /// The group is issued; the next one begins.
    pub fn release(&mut self) {
        if self.rest > 0 {
            self.rest -= 1;
        } else if self.hold.is_some() {
            self.learn();
        }
        *self = Gather {
            released: self.arrived,
            arrived: Arrived::default(),
            before: Arrived::default(),
            hold: None,
            ..*self
        };
    }

    /// A hold ended: it was in vain if less than half of the released came back.
    fn learn(&mut self) {
        let Arrived {
            transactions,
            bytes,
            messages,
        } = self.released;
        let half = Arrived {
            transactions: transactions.div_ceil(2),
            messages,
            bytes: bytes / 2,
        };
        if self.arrived.reaches(self.before.and(half)) {
            self.next_rest = 0;
        } else {
            self.next_rest = (2 * self.next_rest).clamp(1, LONGEST_REST);
            self.rest = self.next_rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn arrive(gather: &mut Gather, transactions: u32) {
        for _ in 0..transactions {
            gather.message(300);
            gather.transaction();
        }
    }

    /// A group was issued, `before` arrived during its flush of 24 ms.
    fn after_flush(group: u32, before: u32) -> Gather {
        let mut gather = Gather::default();
        arrive(&mut gather, group);
        gather.release();
        arrive(&mut gather, before);
        gather.flushed(ms(24));
        gather
    }

    #[test]
    fn a_lone_client_is_never_held() {
        let mut gather = after_flush(1, 0);
        arrive(&mut gather, 1);
        assert_eq!(gather.hold(ms(0)), None);
        let mut unseen = Gather::default();
        unseen.message(300);
        unseen.release();
        unseen.flushed(ms(24));
        unseen.message(200);
        assert_eq!(unseen.hold(ms(0)), None);
    }

    #[test]
    fn a_quick_flush_is_not_worth_a_hold() {
        let mut gather = after_flush(5, 2);
        for _ in 0..8 {
            gather.flushed(QUICK_FLUSH);
        }
        assert_eq!(gather.hold(ms(0)), None);
    }

    #[test]
    fn the_next_group_is_the_last_one_and_those_who_came_during_its_flush() {
        let mut gather = after_flush(5, 3);
        assert_eq!(gather.hold(ms(0)), Some(ms(3)));
        arrive(&mut gather, 4);
        assert_eq!(gather.hold(ms(1)), Some(ms(4)), "one of the five is missing");
        arrive(&mut gather, 1);
        assert_eq!(gather.hold(ms(2)), None, "all are here");
    }

    #[test]
    fn where_no_transactions_are_seen_bytes_count() {
        let mut gather = Gather::default();
        gather.message(300);
        gather.message(300);
        gather.release();
        gather.message(200);
        gather.flushed(ms(24));
        assert_eq!(gather.hold(ms(0)), Some(ms(3)));
        gather.message(600);
        assert_eq!(gather.hold(ms(1)), None);
    }

    #[test]
    fn a_hold_lasts_while_commits_come_and_at_most_a_third_of_a_flush() {
        let mut gather = after_flush(100, 1);
        assert_eq!(gather.hold(ms(0)), Some(ms(3)));
        for now in [2, 4] {
            arrive(&mut gather, 1);
            assert_eq!(gather.hold(ms(now)), Some(ms(now + 3)));
        }
        arrive(&mut gather, 1);
        assert_eq!(gather.hold(ms(6)), Some(ms(8)), "a third of 24 ms");
        arrive(&mut gather, 1);
        assert_eq!(gather.hold(ms(8)), None);
        let mut paused = after_flush(2, 1);
        assert_eq!(paused.hold(ms(0)), Some(ms(3)));
        assert_eq!(
            paused.hold(ms(3)),
            None,
            "nothing has come for an eighth of a flush"
        );
    }

    #[test]
    fn holds_in_vain_are_given_up_for_longer_and_longer_until_one_succeeds() {
        let mut gather = after_flush(2, 2);
        let mut held = Vec::new();
        for _ in 0..12 {
            held.push(gather.hold(ms(0)).is_some());
            gather.release();
            arrive(&mut gather, 2);
            gather.flushed(ms(24));
        }
        let expected = [1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0].map(|held| held == 1);
        assert_eq!(held, expected);
        while gather.hold(ms(0)).is_none() {
            gather.release();
            arrive(&mut gather, 2);
            gather.flushed(ms(24));
        }
        arrive(&mut gather, 1);
        gather.release();
        gather.flushed(ms(24));
        arrive(&mut gather, 1);
        assert!(gather.hold(ms(0)).is_some(), "half of them came back");
    }
}
