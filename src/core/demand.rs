//! What must get to the disk, and how soon: the durability policies.

use std::time::Duration;

use super::lsn::Lsn;

/// When received WAL is made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// `--synchronous`: as soon as the disk allows; somebody's commit waits for it.
    Synchronous,
    /// The default: at the end of a segment, when the stream goes quiet, with each status, and when
    /// the server asks.
    Deferred,
    /// `--no-sync`: nothing waits for the disk; finished segments are synced in the background.
    Background,
}

/// A stream that delivered nothing for so long has gone quiet, and what it left is made durable.
/// A commit does not wait for this: with `--synchronous` the server's own word that it has no more
/// to send is what counts.
pub const QUIET: Duration = Duration::from_millis(200);

/// A server that is so many bytes ahead is being caught up with: nobody waits for these bytes.
pub const CATCH_UP_LAG: u64 = 4 << 20;

/// Behind a server by less than that, so many bytes are one durable write.
const BULK_GROUP: u64 = 256 << 10;

/// In catch-up so many bytes are left to one sync, should segments be larger.
const CATCH_UP_GROUP: u64 = 16 << 20;

/// What the policy must know of the stream at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Situation {
    /// The end of what arrived.
    pub received: Lsn,
    /// The end of the bytes that are durable.
    pub durable: Lsn,
    /// How far the server could send when it spoke last.
    pub server_end: Lsn,
    /// A WAL payload has begun that is not complete.
    pub inside_payload: bool,
}

impl Situation {
    /// Bytes that the server has and we do not.
    pub fn lag(&self) -> u64 {
        self.server_end.bytes_since(self.received)
    }

    /// Nothing more is on its way, as far as the server has said.
    pub fn is_caught_up(&self) -> bool {
        self.lag() == 0 && !self.inside_payload
    }

    /// Somebody may be waiting for these very bytes.
    pub fn is_live(&self) -> bool {
        self.lag() <= CATCH_UP_LAG
    }
}

/// Two positions that must be reached: written, and durable.
#[derive(Debug, Clone, Copy)]
pub struct Demand {
    durability: Durability,
    /// Everything before must be written as soon as possible.
    pub written: Lsn,
    /// Everything before must be durable as soon as possible.
    pub durable: Lsn,
}

impl Demand {
    /// Nothing is demanded beyond `start`.
    pub fn new(durability: Durability, start: Lsn) -> Demand {
        Demand {
            durability,
            written: start,
            durable: start,
        }
    }

    /// The policy.
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// All of it, now: a status is due, the server asks, the stream went quiet or ends.
    pub fn everything(&mut self, received: Lsn) {
        self.written = received;
        if self.durability != Durability::Background {
            self.durable = received;
        }
    }

    /// Whether everything that arrived is demanded as far as the policy ever does.
    pub fn covers(&self, received: Lsn) -> bool {
        self.written >= received && (self.durability == Durability::Background || self.durable >= received)
    }

    /// A segment is complete up to `end`: that is made durable under every policy.
    pub fn segment(&mut self, end: Lsn) {
        self.written = self.written.max(end);
        self.durable = self.durable.max(end);
    }

    /// More arrived, or something became durable. The next group forms while the last one is on its
    /// way to the disk, so a demand is only raised when the one before is met.
    pub fn follow(&mut self, situation: &Situation) {
        if self.durability != Durability::Synchronous || self.durable > situation.durable {
            return;
        }
        let pending = situation.received.bytes_since(situation.durable);
        let enough = if situation.is_live() {
            BULK_GROUP
        } else {
            CATCH_UP_GROUP
        };
        if pending > 0 && (situation.is_caught_up() || pending >= enough) {
            self.everything(situation.received);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn situation(received: u64, durable: u64, server_end: u64) -> Situation {
        Situation {
            received: Lsn(received),
            durable: Lsn(durable),
            server_end: Lsn(server_end),
            inside_payload: false,
        }
    }

    #[test]
    fn a_commit_is_wanted_durable_as_soon_as_the_server_has_no_more() {
        let mut demand = Demand::new(Durability::Synchronous, Lsn(100));
        demand.follow(&situation(300, 100, 400));
        assert_eq!(demand.durable, Lsn(100));
        demand.follow(&situation(400, 100, 400));
        assert_eq!(demand.durable, Lsn(400));
    }

    #[test]
    fn the_next_group_forms_while_the_last_is_on_its_way() {
        let mut demand = Demand::new(Durability::Synchronous, Lsn(100));
        demand.follow(&situation(200, 100, 200));
        demand.follow(&situation(300, 100, 300));
        assert_eq!(demand.durable, Lsn(200));
        demand.follow(&situation(300, 200, 300));
        assert_eq!(demand.durable, Lsn(300));
    }

    #[test]
    fn a_stream_that_never_pauses_is_still_acknowledged() {
        let mut demand = Demand::new(Durability::Synchronous, Lsn(0));
        demand.follow(&situation(BULK_GROUP, 0, BULK_GROUP + 1));
        assert_eq!(demand.durable, Lsn(BULK_GROUP));
        let mut demand = Demand::new(Durability::Synchronous, Lsn(0));
        demand.follow(&situation(CATCH_UP_GROUP, 0, 1 << 40));
        assert_eq!(demand.durable, Lsn(CATCH_UP_GROUP));
    }

    #[test]
    fn without_sync_a_finished_segment_is_all_that_is_made_durable() {
        let mut demand = Demand::new(Durability::Background, Lsn(0));
        demand.everything(Lsn(500));
        assert_eq!((demand.written, demand.durable), (Lsn(500), Lsn(0)));
        demand.segment(Lsn(400));
        assert_eq!((demand.written, demand.durable), (Lsn(500), Lsn(400)));
    }
}
