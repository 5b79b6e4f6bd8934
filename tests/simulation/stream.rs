//! Carries out what the core orders, as `ring::stream` does, on the model's disk and network.
//!
//! Mirrored, because the ring's own code is made of futures: in which order results are taken, that an order waits for
//! its file, that a durable write on a quick disk is waited for in place, what of the results of a stream that has
//! failed still counts, and that a change of names goes on whatever becomes of the stream.

use std::io;
use std::ops::Range;
use std::time::Duration;

use walring::core::lsn::{Lsn, SegmentNumber};
use walring::core::message::{Status, WAL_HEAD};
use walring::core::order::{Ask, Config, Ending, Output, Write};
use walring::core::receiver::Receiver;
use walring::core::spread::{HEADS_LENGTH, Spread};
use walring::core::wal::decoder::Decoder;
use walring::core::writes::Slot;
use walring::error::{Error, Result};

use super::disk::{Durable, WriteId};
use super::files::Files;
use super::network::Closed;
use super::world::{Event, NameOrder, World};
use crate::model::segment_size;
use crate::model::world::scatter;

/// A read of the socket.
struct Reading {
    slot: Slot,
    range: Range<usize>,
    spread: Option<Spread>,
    /// It ends once so many bytes are there.
    wanted: usize,
}

/// A write in flight.
struct Flight {
    slot: Slot,
    range: Range<usize>,
    id: WriteId,
    segment: SegmentNumber,
    /// The first byte's offset in the segment.
    offset: usize,
    durable: Durable,
    /// The slot's bytes as they were when the write was issued.
    bytes: Vec<u8>,
}

/// How a stream ended.
pub struct Ended {
    pub ending: Ending,
    pub received: Lsn,
    pub decoder: Option<Decoder>,
}

/// One stream.
pub struct Stream {
    /// Results of other streams' operations are not this one's.
    pub number: u64,
    pub timeline: u32,
    core: Receiver,
    block: u64,
    claims: bool,
    durable_method: Durable,
    slots: Vec<Vec<u8>>,
    files: Files,
    armed: Option<Reading>,
    cancel_at: Option<Duration>,
    postponed: Option<Output>,
    flights: Vec<Flight>,
    is_syncing: bool,
    is_naming: bool,
    has_ended: bool,
    failure: Option<Error>,
}

impl Stream {
    /// A stream that begins as configured; its files are those.
    pub fn new(
        world: &mut World,
        config: Config,
        timeline: u32,
        files: Files,
        durable_method: Durable,
    ) -> Stream {
        // Not zero: what the core does not clear itself would reach the disk.
        static SLOT: [u8; (256 << 10) + 4096] = [0xAA; (256 << 10) + 4096];
        let slot = &SLOT[..config.window + config.block as usize];
        let mut stream = Stream {
            number: files.stream,
            timeline,
            block: config.block,
            claims: config.claims_flush,
            durable_method,
            slots: vec![slot.to_vec(); config.slots],
            core: Receiver::new(config, world.log.now),
            files,
            armed: None,
            cancel_at: None,
            postponed: None,
            flights: Vec::new(),
            is_syncing: false,
            is_naming: false,
            has_ended: false,
            failure: None,
        };
        let (slot, base, length) = stream.core.prefix();
        let (segment, offset) = (segment_size().segment_of(base), offset_of(base));
        stream
            .files
            .keep(&world.disk, segment, &mut stream.slots[slot.0][..length], offset);
        stream
    }

    /// The operator wants an end.
    pub fn stop(&mut self, world: &mut World) {
        if self.failure.is_none() && !self.core.is_ending() {
            self.core.stop(world.log.now);
            self.turn(world);
        }
    }

    /// When something happens here that no event of the disk brings.
    pub fn next_time(&self, world: &World) -> Option<Duration> {
        if self.has_ended || self.failure.is_some() {
            return None;
        }
        let read = self
            .armed
            .as_ref()
            .zip(world.link.as_ref())
            .and_then(|(reading, link)| link.readable_at(reading.wanted));
        [read, self.cancel_at, self.core.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Something of that is due.
    pub fn advance(&mut self, world: &mut World) {
        let now = world.log.now;
        let readable = |reading: &Reading| {
            let link = world.link.as_ref();
            link.and_then(|link| link.readable_at(reading.wanted))
                .is_some_and(|at| at <= now)
        };
        let is_readable = self.armed.as_ref().is_some_and(readable);
        let is_cancelled = self.cancel_at.is_some_and(|at| at <= now);
        if is_cancelled && (!is_readable || world.rng.chance(50)) {
            self.cancel(world);
        } else if is_readable {
            self.deliver(world);
        } else {
            self.core.tick(now);
            let deadline = self.core.deadline();
            assert!(
                self.core.is_ending() || deadline.is_none_or(|at| at > now),
                "a deadline that has passed makes the driver spin"
            );
        }
        self.turn(world);
    }

    /// Whether the kernel has given back what it had: only then does the stream end.
    pub fn is_over(&self) -> bool {
        (self.has_ended || self.failure.is_some()) && self.flights.is_empty()
    }

    /// How it ended; spares and files without a name go.
    pub fn conclude(self, world: &mut World) -> Result<Ended> {
        self.files.end(&mut world.disk);
        if let Some(error) = self.failure {
            return Err(error);
        }
        assert!(!self.is_syncing && !self.is_naming, "an end before its disk's");
        let received = self.core.progress().received();
        let slot = self.core.receiving_slot();
        let (ending, _, decoder) = self.core.into_ending(&self.slots[slot.0]);
        Ok(Ended {
            ending,
            received,
            decoder,
        })
    }

    // ---- orders ----

    /// Carries out orders until there are none, then reads the socket if it is to be read.
    pub fn turn(&mut self, world: &mut World) {
        loop {
            self.files.prepare(world);
            if self.failure.is_some() || self.has_ended {
                return;
            }
            let Some(order) = self.postponed.take().or_else(|| self.core.poll()) else {
                break;
            };
            match self.carry_out(world, order) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => self.fail(world, error),
            }
        }
        self.arm(world);
    }

    /// A result or an order brought an error of the disk: from here on nothing is told any more.
    fn fail(&mut self, world: &mut World, error: Error) {
        world
            .log
            .note("stream: leaves with an error of the disk", None, 0);
        self.armed = None;
        self.failure.get_or_insert(error);
    }

    fn carry_out(&mut self, world: &mut World, order: Output) -> Result<bool> {
        match order {
            Output::Write(write) => return self.write(world, write),
            Output::Carry { from, to } => self.carry(world, from, to),
            Output::CancelReceive => {
                assert!(
                    self.armed.is_some() && self.cancel_at.is_none(),
                    "nothing to withdraw"
                );
                self.cancel_at = Some(world.log.now + Duration::from_micros(world.rng.between(1, 50)));
            }
            Output::Sync(segment) => return self.sync(world, segment),
            Output::Name(segment) => self.change_names(world, NameOrder::Name(segment)),
            Output::Finish { segment, next } => self.change_names(world, NameOrder::Finish(segment, next)),
            Output::Close(segment) => self.files.close(segment),
            Output::Status(status) => self.tell(world, status),
            Output::End => self.has_ended = true,
            Output::CopyDone | Output::Measured(_) | Output::Committed(_) | Output::Notice(_) => {}
        }
        Ok(true)
    }

    fn carry(&mut self, world: &World, from: Slot, to: Slot) {
        assert!(self.armed.is_none(), "the kernel still reads into the slot");
        self.assert_not_in_flight(from);
        self.assert_not_in_flight(to);
        let mut old = std::mem::take(&mut self.slots[from.0]);
        let mut new = std::mem::take(&mut self.slots[to.0]);
        self.core.carry(world.log.now, &mut old, &mut new);
        (self.slots[from.0], self.slots[to.0]) = (old, new);
    }

    fn assert_not_in_flight(&self, slot: Slot) {
        let is_used = self.flights.iter().any(|flight| flight.slot == slot);
        assert!(!is_used, "{slot:?} is used while the kernel has it");
    }

    fn assert_alone(&self, segment: SegmentNumber, range: Range<usize>) {
        let overlaps = |other: &Flight| {
            let end = other.offset + other.bytes.len();
            other.segment == segment && other.offset < range.end && range.start < end
        };
        assert!(
            !self.flights.iter().any(overlaps),
            "two writes of one block are in flight"
        );
    }

    /// Writes; false if the file is not there yet.
    fn write(&mut self, world: &mut World, order: Write) -> Result<bool> {
        let segment = segment_size().segment_of(order.position);
        let Some(file) = self.files.file(world, segment)? else {
            self.postponed = Some(Output::Write(order));
            return Ok(false);
        };
        let Write {
            slot,
            range,
            position,
            durable,
            keep_from,
        } = order;
        let is_aligned = [position.0, range.start as u64, range.len() as u64]
            .iter()
            .all(|number| number.is_multiple_of(self.block));
        assert!(is_aligned && !range.is_empty(), "a write that direct I/O refuses");
        assert!(self.armed.as_ref().is_none_or(|reading| reading.slot != slot));
        self.assert_not_in_flight(slot);
        let offset = offset_of(position);
        if let Some(from) = keep_from {
            let block = &mut self.slots[slot.0][from..range.end];
            self.files
                .keep(&world.disk, segment, block, offset + (from - range.start));
        }
        let bytes = self.slots[slot.0][range.clone()].to_vec();
        self.assert_alone(segment, offset..offset + bytes.len());
        world.checks.write(
            self.timeline,
            position,
            &bytes,
            &world.disk.content(file)[offset..offset + bytes.len()],
        );
        let durable = if durable { self.durable_method } else { Durable::No };
        world.log.note(
            if durable == Durable::No {
                "writes"
            } else {
                "writes durably"
            },
            position,
            bytes.len() as u64,
        );
        let id = world.disk.begin_write(file, offset, bytes.clone());
        self.flights.push(Flight {
            slot,
            range,
            id,
            segment,
            offset,
            durable,
            bytes,
        });
        if durable != Durable::No && self.core.is_disk_quick() {
            let latency = world.disk_latency();
            world.log.now += latency;
            self.end_write(world, id)?;
        } else {
            let stream = self.number;
            world.after_disk(Event::Written { stream, id });
        }
        Ok(true)
    }

    fn sync(&mut self, world: &mut World, segment: SegmentNumber) -> Result<bool> {
        let Some(file) = self.files.file(world, segment)? else {
            self.postponed = Some(Output::Sync(segment));
            return Ok(false);
        };
        assert!(!self.is_syncing, "one sync at a time");
        self.is_syncing = true;
        world
            .log
            .note("syncs segment", segment_size().start_of(segment), segment.0);
        let sync = world.disk.begin_sync(file);
        let stream = self.number;
        world.after_disk(Event::Synced { stream, sync });
        Ok(true)
    }

    fn change_names(&mut self, world: &mut World, order: NameOrder) {
        assert!(!self.is_naming, "one change of names at a time");
        self.is_naming = true;
        world.log.note(
            order.text(),
            segment_size().start_of(order.segment()),
            order.segment().0,
        );
        let renames = self.files.rename(order);
        let stream = self.number;
        world.after_disk(Event::Renamed {
            stream,
            order,
            renames,
        });
    }

    fn tell(&mut self, world: &mut World, status: Status) {
        world
            .log
            .note("tells flushed, written", status.flushed, status.written.0);
        world.tell(self.timeline, self.claims, status);
    }

    // ---- results ----

    /// A write ended.
    pub fn written(&mut self, world: &mut World, id: WriteId) {
        if self.failure.is_some() {
            // It landed; what became of it is of no interest any more.
            let index = self.flights.iter().position(|flight| flight.id == id);
            let flight = self.flights.swap_remove(index.expect("in flight"));
            let _ = world.disk.end_write(id, flight.durable);
            return;
        }
        match self.end_write(world, id) {
            Ok(()) => self.turn(world),
            Err(error) => self.fail(world, error),
        }
    }

    fn end_write(&mut self, world: &mut World, id: WriteId) -> Result<()> {
        let index = self.flights.iter().position(|flight| flight.id == id);
        let flight = self.flights.swap_remove(index.expect("in flight"));
        assert!(
            self.slots[flight.slot.0][flight.range] == flight.bytes,
            "{:?} was touched while the kernel had it",
            flight.slot
        );
        let result = world.disk.end_write(id, flight.durable);
        let position = segment_size()
            .start_of(flight.segment)
            .advanced_by(flight.offset as u64);
        let count = result.map_err(|error| {
            world.log.note("a write fails", position, 0);
            disk_error(&error)
        })?;
        if count < flight.bytes.len() {
            world.log.note("a write is short", position, count as u64);
        }
        self.core.written(world.log.now, flight.slot, count as u64);
        Ok(())
    }

    /// A sync ended.
    pub fn synced(&mut self, world: &mut World, result: io::Result<()>) {
        self.is_syncing = false;
        if self.failure.is_some() {
            return;
        }
        match result {
            Ok(()) => {
                self.core.synced(world.log.now);
                self.turn(world);
            }
            Err(error) => self.fail(world, disk_error(&error)),
        }
    }

    /// A change of names ended.
    pub fn named(&mut self, world: &mut World, order: NameOrder, result: io::Result<()>) {
        self.is_naming = false;
        if self.failure.is_some() {
            return;
        }
        match (result, order) {
            (Err(error), _) => return self.fail(world, disk_error(&error)),
            (Ok(()), NameOrder::Name(_)) => self.core.named(world.log.now),
            (Ok(()), NameOrder::Finish(_, next)) => self.core.finished(world.log.now, next),
        }
        self.turn(world);
    }

    /// The spare is there, or could not be made.
    pub fn prepared(&mut self, world: &mut World) {
        self.files.created(world);
        if self.failure.is_none() {
            self.turn(world);
        }
    }

    // ---- the socket ----

    fn arm(&mut self, world: &mut World) {
        if self.cancel_at.is_some() {
            return;
        }
        let Some(ask) = self.core.arm(world.log.now) else {
            return;
        };
        let Ask {
            slot,
            range,
            certain,
            spread,
        } = ask;
        assert!(self.armed.is_none(), "one read at a time");
        assert!(!range.is_empty() && range.end <= self.slots[slot.0].len());
        self.assert_not_in_flight(slot);
        let wanted = match certain && world.rng.chance(70) {
            true => range.len() + heads_of(spread),
            false => 1,
        };
        self.armed = Some(Reading {
            slot,
            range,
            spread,
            wanted,
        });
    }

    fn deliver(&mut self, world: &mut World) {
        let Some(Reading {
            slot,
            range,
            spread,
            wanted,
        }) = self.armed.take()
        else {
            return;
        };
        self.cancel_at = None;
        let now = world.log.now;
        let whole = range.len() + heads_of(spread);
        let most = match wanted > 1 || world.rng.chance(50) {
            true => whole,
            false => world.rng.between(1, whole as u64) as usize,
        };
        let Some((bytes, closed)) = world.link.as_mut().map(|link| link.read(now, most)) else {
            return;
        };
        world.log.note("reads", None, bytes.len() as u64);
        let mut heads = [0xBB; HEADS_LENGTH];
        match spread {
            Some(spread) => scatter(spread, &bytes, &mut self.slots[slot.0], &mut heads),
            None => self.slots[slot.0][range.start..range.start + bytes.len()].copy_from_slice(&bytes),
        }
        if closed == Some(Closed::Reset) {
            let error = Error::connection("could not receive data from WAL stream: Connection reset by peer");
            self.core.receive_failed(now, error);
        } else {
            let mut slot_bytes = std::mem::take(&mut self.slots[slot.0]);
            self.core.received(now, bytes.len(), &mut slot_bytes, &heads);
            self.slots[slot.0] = slot_bytes;
        }
        world.pump();
    }

    /// The read is withdrawn; one that waits for all has taken what was there.
    fn cancel(&mut self, world: &mut World) {
        let now = world.log.now;
        let is_there = world
            .link
            .as_ref()
            .and_then(|link| link.readable_at(1))
            .is_some_and(|at| at <= now);
        if let Some(reading) = &self.armed
            && reading.wanted > 1
            && is_there
        {
            return self.deliver(world);
        }
        (self.armed, self.cancel_at) = (None, None);
        self.core.receive_cancelled(now);
    }
}

/// Bytes of heads in a spread read.
fn heads_of(spread: Option<Spread>) -> usize {
    spread.map_or(0, |spread| (spread.pieces().count() - 1) * WAL_HEAD)
}

fn offset_of(lsn: Lsn) -> usize {
    segment_size().offset_of(lsn) as usize
}

/// As the ring does: a full disk may have room again, after anything else nothing can be trusted.
fn disk_error(error: &io::Error) -> Error {
    match error.raw_os_error() {
        Some(28) => Error::disk("no space left"),
        _ => Error::disk_broken("the disk failed"),
    }
}
