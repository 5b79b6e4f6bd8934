//! What is on its way from the slots to the disk.

use std::collections::VecDeque;
use std::time::Duration;

use super::lsn::Lsn;

/// The index of a buffer slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub usize);

/// A slot's content that is to be written: the file's bytes from `base` to `to`, which lie at the
/// slot's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The slot that holds the bytes.
    pub slot: Slot,
    /// Position of the slot's first byte, at a block's start.
    pub base: Lsn,
    /// The first position that an earlier write does not cover: the bytes before it fill the block.
    pub from: Lsn,
    /// The end of the bytes.
    pub to: Lsn,
    /// When the first of the bytes from `from` on arrived.
    pub arrived: Duration,
}

/// An extent that the kernel has.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    extent: Extent,
    durable: bool,
    issued: Duration,
    /// Bytes of the slot that the kernel has taken.
    taken: u64,
    /// It has taken all of them, up to the end of the last block: a sync follows only then.
    is_done: bool,
}

impl Extent {
    /// Bytes of content in the slot.
    pub fn length(&self) -> u64 {
        self.to.bytes_since(self.base)
    }
}

/// A write that has ended, and with it all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completed {
    /// What was written.
    pub extent: Extent,
    /// Whether it was durable when it ended.
    pub durable: bool,
    /// When it was issued.
    pub issued: Duration,
}

/// Extents in the order of the log: first those in flight, then those that wait.
///
/// Writes end in any order; they count in the order of the log only, so that "written up to" never
/// hides a gap. Two writes of the same block are never in flight together.
#[derive(Debug, Default)]
pub struct Writes {
    flight: VecDeque<InFlight>,
    queue: VecDeque<Extent>,
}

impl Writes {
    /// Adds an extent behind all others.
    pub fn enqueue(&mut self, extent: Extent) {
        self.queue.push_back(extent);
    }

    /// Whether nothing is in flight and nothing waits.
    pub fn is_idle(&self) -> bool {
        self.flight.is_empty() && self.queue.is_empty()
    }

    /// Whether nothing is in flight.
    pub fn is_landed(&self) -> bool {
        self.flight.is_empty()
    }

    /// Whether a durable write is in flight.
    pub fn is_durable_in_flight(&self) -> bool {
        self.flight.iter().any(|write| write.durable && !write.is_done)
    }

    /// Extents that wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The extent that may be issued next, if one waits and no write in flight touches its first block.
    pub fn issuable(&self) -> Option<&Extent> {
        let next = self.queue.front()?;
        let overlaps = self.flight.back().is_some_and(|last| last.extent.to > next.base);
        (!overlaps).then_some(next)
    }

    /// Notes that the next waiting extent was issued.
    pub fn issue(&mut self, durable: bool, now: Duration) -> Option<Extent> {
        let extent = self.queue.pop_front()?;
        self.flight.push_back(InFlight {
            extent,
            durable,
            issued: now,
            taken: 0,
            is_done: false,
        });
        Some(extent)
    }

    /// Notes that the kernel took `count` more bytes of `slot`. A short write is no write yet: then
    /// how many bytes of it, in whole blocks, are written by now, whether the write is a durable one,
    /// and the extent.
    pub fn complete(&mut self, slot: Slot, count: u64, block: u64) -> Option<(u64, bool, Extent)> {
        let write = self
            .flight
            .iter_mut()
            .find(|write| write.extent.slot == slot && !write.is_done)?;
        write.taken += count;
        write.is_done = write.taken >= write.extent.length().next_multiple_of(block);
        if write.is_done {
            return None;
        }
        write.taken -= write.taken % block;
        Some((write.taken, write.durable, write.extent))
    }

    /// The next write, in the order of the log, that has ended.
    pub fn retire(&mut self) -> Option<Completed> {
        let write = *self.flight.front().filter(|write| write.is_done)?;
        self.flight.pop_front();
        Some(Completed {
            extent: write.extent,
            durable: write.durable,
            issued: write.issued,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(slot: usize, from: u64, to: u64) -> Extent {
        let base = Lsn(from / 4096 * 4096);
        Extent {
            slot: Slot(slot),
            base,
            from: Lsn(from),
            to: Lsn(to),
            arrived: Duration::ZERO,
        }
    }

    #[test]
    fn writes_count_in_the_order_of_the_log() {
        let mut writes = Writes::default();
        writes.enqueue(extent(0, 0, 4096));
        writes.enqueue(extent(1, 4096, 8192));
        writes.issue(false, Duration::ZERO);
        writes.issue(false, Duration::ZERO);
        writes.complete(Slot(1), 4096, 512);
        assert_eq!(writes.retire(), None);
        assert_eq!(
            writes.complete(Slot(0), 600, 512).map(|(taken, ..)| taken),
            Some(512)
        );
        assert_eq!(writes.retire(), None, "a short write is no write yet");
        writes.complete(Slot(0), 4096 - 512, 512);
        assert_eq!(writes.retire().map(|done| done.extent.to), Some(Lsn(4096)));
        assert_eq!(writes.retire().map(|done| done.extent.to), Some(Lsn(8192)));
        assert!(writes.is_idle());
    }

    #[test]
    fn a_write_without_the_zeros_of_its_last_block_is_short() {
        let mut writes = Writes::default();
        writes.enqueue(extent(0, 0, 5000));
        writes.issue(true, Duration::ZERO);
        let rest = writes.complete(Slot(0), 5120, 4096).map(|(taken, ..)| taken);
        assert_eq!(rest, Some(4096), "no sync has followed it");
        assert_eq!(writes.retire(), None);
        assert_eq!(writes.complete(Slot(0), 4096, 4096), None);
        assert!(writes.retire().is_some());
    }

    #[test]
    fn two_writes_of_one_block_are_never_in_flight_together() {
        let mut writes = Writes::default();
        writes.enqueue(extent(0, 0, 5000));
        writes.issue(true, Duration::ZERO);
        writes.enqueue(extent(1, 5000, 9000));
        assert_eq!(writes.issuable(), None);
        writes.complete(Slot(0), 8192, 512);
        writes.retire();
        assert!(writes.issuable().is_some());
    }
}
