//! Drives a `Receiver` as its contract says, in virtual time, and checks every order.
//!
//! The checks use the server's bytes and the model disk only, never the core's own positions.

use std::ops::Range;
use std::time::Duration;

use walring::core::demand::Durability;
use walring::core::lsn::{Lsn, SegmentNumber};
use walring::core::message::Status;
use walring::core::order::{Config, Ending, Output, Write};
use walring::core::receiver::Receiver;
use walring::core::writes::Slot;

use super::disk::{Dirty, Disk, Name};
use super::stream::{Message, Stream, keepalive_body};
use super::{Rng, START, at, common_prefix, is_zero, offset, segment_size, wal};

/// What can be made to hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Writes.
    Write,
    /// Syncs.
    Sync,
    /// Changes of names.
    Names,
}

/// How the world around the receiver behaves.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where the randomness comes from.
    pub seed: u64,
    /// What the receiver is configured to.
    pub config: Config,
    /// Shortest and longest operation of the disk, in microseconds.
    pub disk_us: (u64, u64),
    /// Longest delay of the network in microseconds.
    pub network_us: u64,
    /// The most bytes one read returns.
    pub longest_read: usize,
    /// So many writes of a hundred are short.
    pub short_writes: u64,
    /// The server answers when asked to.
    pub answers: bool,
    /// Operations of this kind never end, after so many that did.
    pub hang: Option<(Operation, usize)>,
}

impl Setup {
    /// A quick disk, a quick network, windows of four blocks of 4 KiB.
    pub fn new(durability: Durability) -> Setup {
        Setup {
            seed: 0,
            config: Config {
                segment_size: segment_size(),
                block: 4096,
                slots: 4,
                window: 4 * 4096,
                durability,
                claims_flush: true,
                status_interval: Some(Duration::from_secs(10)),
                receive_timeout: None,
                end_position: None,
                start: START,
                preserve_end: START,
                named: false,
            },
            disk_us: (1000, 1000),
            network_us: 20,
            longest_read: usize::MAX,
            short_writes: 0,
            answers: true,
            hang: None,
        }
    }
}

/// A write that the disk has not ended.
struct Flight {
    write: Write,
    /// The slot's bytes as they were when the write was issued.
    bytes: Vec<u8>,
}

impl Flight {
    fn sectors(&self) -> Range<u64> {
        self.write.position.0..self.write.position.0 + self.write.range.len() as u64
    }
}

enum Event {
    Written(Slot),
    Synced(Vec<Dirty>),
    Named(SegmentNumber),
    Finished(SegmentNumber, bool),
}

/// A message that is on its way to us, or was delivered.
struct Sent {
    raw_end: usize,
    payload: usize,
    lsn_end: Lsn,
}

/// How a run ended.
#[derive(Debug)]
pub struct End {
    /// When.
    pub at: Duration,
    /// Why, as the receiver says.
    pub ending: Ending,
    /// What the receiver left unparsed.
    pub unparsed: Vec<u8>,
}

/// The receiver and everything around it.
pub struct World {
    /// The time.
    pub now: Duration,
    /// How the world behaves; may be changed between two runs.
    pub setup: Setup,
    /// The disk.
    pub disk: Disk,
    /// What the server was told, and when.
    pub statuses: Vec<(Duration, Status)>,
    /// When our side of the COPY was ended.
    pub copy_done: Option<Duration>,
    /// How it ended.
    pub end: Option<End>,
    /// Notices that came through.
    pub notices: usize,
    /// Orders so far.
    pub orders: usize,
    receiver: Option<Receiver>,
    rng: Rng,
    slots: Vec<Vec<u8>>,
    armed: Option<(Slot, Range<usize>)>,
    deliver_at: Option<Duration>,
    cancel_at: Option<Duration>,
    events: Vec<(Duration, Event)>,
    flights: Vec<Flight>,
    is_syncing: bool,
    is_changing_names: bool,
    counts: [usize; 3],
    coming: std::vec::IntoIter<Message>,
    next_message: Option<Message>,
    sent: Vec<Sent>,
    raw: Vec<u8>,
    delivered: usize,
    is_closed: bool,
    sent_end: Lsn,
    is_traced: bool,
}

impl World {
    /// A receiver connected to a server that is about to say `stream`.
    pub fn new(setup: Setup, stream: &Stream) -> World {
        let mut coming = stream.messages.clone().into_iter();
        let length = setup.config.window + setup.config.block as usize;
        let mut world = World {
            now: Duration::ZERO,
            disk: Disk::new(setup.config.preserve_end, setup.config.named),
            statuses: Vec::new(),
            copy_done: None,
            end: None,
            notices: 0,
            orders: 0,
            receiver: Some(Receiver::new(setup.config.clone(), Duration::ZERO)),
            rng: Rng::new(setup.seed),
            // Not zero: what the core does not clear itself would reach the disk.
            slots: vec![vec![0xAA; length]; setup.config.slots],
            armed: None,
            deliver_at: None,
            cancel_at: None,
            events: Vec::new(),
            flights: Vec::new(),
            is_syncing: false,
            is_changing_names: false,
            counts: [0; 3],
            next_message: coming.next(),
            coming,
            sent: Vec::new(),
            raw: Vec::new(),
            delivered: 0,
            is_closed: false,
            sent_end: START,
            is_traced: std::env::var_os("MODEL_SEED").is_some(),
            setup,
        };
        world.settle();
        world
    }

    // ---- what a test asks and does ----

    /// The receiver; gone after its end.
    pub fn receiver(&self) -> &Receiver {
        self.receiver.as_ref().expect("the stream has ended")
    }

    /// The last status.
    pub fn status(&self) -> Status {
        self.statuses.last().expect("the first status is sent at once").1
    }

    /// The end of the WAL that was handed to the receiver, be it parsed or not.
    pub fn delivered_end(&self) -> Lsn {
        let index = self.sent.partition_point(|sent| sent.raw_end <= self.delivered);
        let whole = index.checked_sub(1).map_or(START, |last| self.sent[last].lsn_end);
        let part = self.sent.get(index).map_or(0, |sent| {
            (self.delivered + sent.payload).saturating_sub(sent.raw_end)
        });
        whole.advanced_by(part as u64)
    }

    /// Bytes of the stream from the first that was not parsed: what the core must have left.
    pub fn tail_of_delivered(&self, length: usize) -> &[u8] {
        &self.raw[self.delivered - length..self.delivered]
    }

    /// Lets so much time pass.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.end.is_none() && self.next_time().is_some_and(|next| next <= until) {
            self.step();
        }
        self.now = until;
    }

    /// Runs until the condition holds; panics if it does not within the given time.
    pub fn run_until(&mut self, limit: Duration, what: &str, condition: impl Fn(&World) -> bool) {
        let until = self.now + limit;
        while !condition(self) {
            let next = self.next_time().filter(|&next| next <= until);
            assert!(next.is_some(), "not within {limit:?}: {what}");
            self.step();
        }
    }

    /// Runs until everything the server says was delivered and acknowledged as flushed.
    pub fn run_until_acknowledged(&mut self, limit: Duration, end: Lsn) {
        self.run_until(limit, "acknowledged", |world| world.status().flushed >= end);
    }

    /// Runs to the end of the stream.
    pub fn run_to_end(&mut self, limit: Duration) {
        self.run_until(limit, "the end", |world| world.end.is_some());
    }

    /// The operator wants an end.
    pub fn stop(&mut self) {
        let now = self.now;
        self.receiver.as_mut().expect("running").stop(now);
        self.settle();
    }

    /// The read that is armed fails, as with a reset connection.
    pub fn fail_receive(&mut self) {
        self.armed.take().expect("armed");
        (self.deliver_at, self.cancel_at) = (None, None);
        let error = walring::error::Error::connection("connection reset by peer");
        let now = self.now;
        self.receiver
            .as_mut()
            .expect("running")
            .receive_failed(now, error);
        self.settle();
    }

    /// Whether the socket is being read.
    pub fn is_armed(&self) -> bool {
        self.armed.is_some()
    }

    /// Whether everything sent so far was delivered.
    pub fn is_delivered(&self) -> bool {
        self.next_message.is_none() && self.delivered == self.raw.len()
    }

    /// Operations of a kind so far.
    pub fn count(&self, operation: Operation) -> usize {
        self.counts[operation as usize]
    }

    // ---- time ----

    fn next_time(&self) -> Option<Duration> {
        let event = self.events.iter().map(|(at, _)| *at).min();
        let server = self.next_message.as_ref().map(|message| message.sent);
        let deadline = self.receiver.as_ref().and_then(Receiver::deadline);
        [event, server, deadline, self.deliver_at, self.cancel_at]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.max(self.now))
    }

    /// One thing happens: the earliest.
    fn step(&mut self) {
        self.now = self.next_time().expect("something is to happen");
        let now = self.now;
        let due = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        if due(self.next_message.as_ref().map(|message| message.sent)) {
            self.send_next();
        } else if let Some(index) = self.events.iter().position(|(at, _)| *at <= now) {
            let (_, event) = self.events.swap_remove(index);
            self.happen(event);
        } else if due(self.deliver_at) {
            self.deliver();
        } else if due(self.cancel_at) {
            self.cancel();
        } else {
            self.receiver.as_mut().expect("only it has a deadline").tick(now);
            self.settle();
            let deadline = self.receiver.as_ref().and_then(Receiver::deadline);
            assert!(
                deadline.is_none_or(|at| at > now),
                "a deadline that has passed makes the driver spin"
            );
        }
    }

    /// Something of the disk ends after a while, or never.
    fn schedule(&mut self, operation: Operation, event: Event) {
        let count = &mut self.counts[operation as usize];
        *count += 1;
        if self
            .setup
            .hang
            .is_some_and(|(which, after)| which == operation && *count > after)
        {
            return;
        }
        let (low, high) = self.setup.disk_us;
        let time = Duration::from_micros(self.rng.between(low, high));
        self.events.push((self.now + time, event));
    }

    fn network_delay(&mut self) -> Duration {
        Duration::from_micros(self.rng.between(1, self.setup.network_us))
    }

    // ---- the network ----

    fn send_next(&mut self) {
        let message = self.next_message.take().expect("due");
        self.next_message = self.coming.next();
        self.is_closed |= message.raw.is_empty();
        self.send(&message.raw, message.payload);
    }

    fn send(&mut self, raw: &[u8], payload: usize) {
        self.raw.extend_from_slice(raw);
        self.sent_end = self.sent_end.advanced_by(payload as u64);
        self.sent.push(Sent {
            raw_end: self.raw.len(),
            payload,
            lsn_end: self.sent_end,
        });
        self.expect_delivery();
    }

    fn expect_delivery(&mut self) {
        let available = self.delivered < self.raw.len() || self.is_closed;
        if self.armed.is_some() && available && self.deliver_at.is_none() {
            self.deliver_at = Some(self.now + self.network_delay());
        }
    }

    fn deliver(&mut self) {
        let (slot, range) = self.armed.take().expect("armed");
        (self.deliver_at, self.cancel_at) = (None, None);
        let most = range
            .len()
            .min(self.setup.longest_read)
            .min(self.raw.len() - self.delivered);
        let full = self.setup.longest_read == usize::MAX || self.rng.chance(30);
        let count = match most {
            0 => 0,
            _ if full => most,
            _ => self.rng.between(1, most as u64) as usize,
        };
        let from = self.delivered;
        self.delivered += count;
        self.slots[slot.0][range.start..range.start + count].copy_from_slice(&self.raw[from..from + count]);
        let mut bytes = std::mem::take(&mut self.slots[slot.0]);
        let now = self.now;
        self.receiver
            .as_mut()
            .expect("running")
            .received(now, count, &mut bytes);
        self.slots[slot.0] = bytes;
        self.settle();
    }

    /// The read is withdrawn, unless bytes win the race.
    fn cancel(&mut self) {
        let available = self.delivered < self.raw.len() || self.is_closed;
        if available && self.rng.chance(50) {
            return self.deliver();
        }
        self.armed.take().expect("a read is withdrawn only once");
        (self.deliver_at, self.cancel_at) = (None, None);
        let now = self.now;
        self.receiver.as_mut().expect("running").receive_cancelled(now);
        self.settle();
    }

    // ---- the disk ----

    fn happen(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Written(slot) => self.end_write(slot),
            Event::Synced(dirty) => {
                self.is_syncing = false;
                self.disk.end_sync(&dirty);
                self.running().synced(now);
            }
            Event::Named(segment) => {
                self.is_changing_names = false;
                self.disk.set_name(segment, Name::Partial);
                self.running().named(now);
            }
            Event::Finished(segment, next) => {
                self.is_changing_names = false;
                self.disk.set_name(segment, Name::Final);
                if next {
                    self.disk.set_name(segment.next(), Name::Partial);
                }
                self.running().finished(now, next);
            }
        }
        self.settle();
    }

    fn running(&mut self) -> &mut Receiver {
        self.receiver
            .as_mut()
            .expect("nothing is in flight after the end")
    }

    fn end_write(&mut self, slot: Slot) {
        let index = self.flights.iter().position(|flight| flight.write.slot == slot);
        let flight = self.flights.swap_remove(index.expect("in flight"));
        let range = flight.write.range.clone();
        assert!(
            self.slots[slot.0][range] == flight.bytes,
            "slot {slot:?} was touched while the kernel had it"
        );
        let sectors = flight.bytes.len() as u64 / 512;
        let short = sectors > 1 && self.rng.chance(self.setup.short_writes);
        let taken = if short {
            self.rng.between(1, sectors - 1)
        } else {
            sectors
        };
        let count = taken as usize * 512;
        let from = offset(flight.write.position);
        self.disk
            .write(from, &flight.bytes[..count], flight.write.durable);
        let now = self.now;
        self.running().written(now, slot, count as u64);
    }

    // ---- orders ----

    fn settle(&mut self) {
        while let Some(output) = self.receiver.as_mut().and_then(Receiver::poll) {
            if self.is_traced {
                let received = self
                    .receiver
                    .as_ref()
                    .map(|receiver| receiver.progress().received());
                eprintln!("{:?} {output:?} received {received:?}", self.now);
            }
            self.orders += 1;
            self.carry_out(output);
        }
        self.arm();
    }

    fn arm(&mut self) {
        let now = self.now;
        let Some((slot, range)) = self.receiver.as_mut().and_then(|receiver| receiver.arm(now)) else {
            return;
        };
        assert!(self.armed.is_none(), "one read at a time");
        assert!(
            !range.is_empty() && range.end <= self.slots[slot.0].len(),
            "{range:?}"
        );
        self.assert_not_in_flight(slot);
        self.armed = Some((slot, range));
        self.expect_delivery();
    }

    fn carry_out(&mut self, output: Output) {
        assert!(self.end.is_none(), "an order behind the end");
        match output {
            Output::Carry { from, to } => self.carry(from, to),
            Output::CancelReceive => {
                assert!(
                    self.armed.is_some() && self.cancel_at.is_none(),
                    "nothing to withdraw"
                );
                self.cancel_at = Some(self.now + self.network_delay());
            }
            Output::Write(write) => self.write(write),
            Output::Sync(segment) => self.sync(segment),
            Output::Name(segment) => self.name(segment),
            Output::Finish { segment, next } => self.finish(segment, next),
            Output::Close(segment) => self.close(segment),
            Output::Status(status) => self.tell(status),
            Output::CopyDone => self.copy_done = Some(self.now),
            Output::Notice(_) => self.notices += 1,
            Output::Waited(_) => {}
            Output::End => self.finish_stream(),
        }
    }

    fn carry(&mut self, from: Slot, to: Slot) {
        assert!(self.armed.is_none(), "the kernel still reads into the slot");
        self.assert_not_in_flight(from);
        self.assert_not_in_flight(to);
        let mut old = std::mem::take(&mut self.slots[from.0]);
        let mut new = std::mem::take(&mut self.slots[to.0]);
        let now = self.now;
        self.running().carry(now, &mut old, &mut new);
        (self.slots[from.0], self.slots[to.0]) = (old, new);
    }

    fn assert_not_in_flight(&self, slot: Slot) {
        let used = self.flights.iter().any(|flight| flight.write.slot == slot);
        assert!(!used, "{slot:?} is the kernel's");
    }

    fn write(&mut self, write: Write) {
        let block = self.setup.config.block;
        let aligned = write.position.0.is_multiple_of(block)
            && (write.range.start as u64).is_multiple_of(block)
            && (write.range.len() as u64).is_multiple_of(block);
        assert!(aligned && !write.range.is_empty(), "{write:?}");
        assert!(self.armed.as_ref().is_none_or(|(slot, _)| *slot != write.slot));
        self.assert_not_in_flight(write.slot);
        let from = offset(write.position);
        if let Some(keep) = write.keep_from {
            let kept = from + keep - write.range.start..from + write.range.len();
            assert!(kept.len() < block as usize, "{write:?}");
            self.slots[write.slot.0][keep..write.range.end].copy_from_slice(self.disk.content(kept));
        }
        let bytes = self.slots[write.slot.0][write.range.clone()].to_vec();
        self.check_content(from, &bytes);
        let flight = Flight { write, bytes };
        let sectors = flight.sectors();
        let overlaps =
            |other: &Flight| other.sectors().start < sectors.end && sectors.start < other.sectors().end;
        assert!(
            !self.flights.iter().any(overlaps),
            "two writes of one block in flight"
        );
        self.schedule(Operation::Write, Event::Written(flight.write.slot));
        self.flights.push(flight);
    }

    /// What is written is the server's, then zeros or what the file held; and no byte that the file
    /// has ever becomes another.
    fn check_content(&self, from: usize, bytes: &[u8]) {
        let range = from..from + bytes.len();
        let size = segment_size().bytes() as usize;
        assert_eq!(
            range.start / size,
            (range.end - 1) / size,
            "a write belongs to one segment"
        );
        let held = self.disk.content(range.clone());
        let valid = common_prefix(bytes, &wal()[range.clone()]);
        assert!(
            valid >= common_prefix(held, &wal()[range]),
            "bytes of the file would be lost at {}",
            at((from + valid) as u64)
        );
        assert!(
            is_zero(&bytes[valid..]),
            "neither WAL nor zero at {}",
            at((from + valid) as u64)
        );
        let known = self.delivered_end().max(self.setup.config.preserve_end);
        assert!(offset(known) >= from + valid, "WAL out of nothing");
    }

    fn sync(&mut self, segment: SegmentNumber) {
        assert!(!self.is_syncing, "one sync at a time");
        self.is_syncing = true;
        let covered = self.disk.begin_sync(segment);
        self.schedule(Operation::Sync, Event::Synced(covered));
    }

    fn name(&mut self, segment: SegmentNumber) {
        self.begin_change_of_names(segment);
        assert_eq!(self.disk.name(segment), Name::None);
        self.schedule(Operation::Names, Event::Named(segment));
    }

    fn finish(&mut self, segment: SegmentNumber, next: bool) {
        self.begin_change_of_names(segment);
        assert_eq!(self.disk.name(segment), Name::Partial);
        let is_complete = if self.setup.config.durability == Durability::Background {
            self.disk.written_end() >= segment_size().end_of(segment)
        } else {
            self.disk.is_segment_durable(segment)
        };
        assert!(
            is_complete,
            "segment {segment:?} is finished before its bytes are there"
        );
        self.schedule(Operation::Names, Event::Finished(segment, next));
    }

    /// A segment's name is touched only when all before are finished: no tool may find a gap.
    fn begin_change_of_names(&mut self, segment: SegmentNumber) {
        assert!(!self.is_changing_names, "one change of names at a time");
        self.is_changing_names = true;
        let first = segment_size().segment_of(START);
        let before = (segment.0 - first.0) as usize;
        let finished = self.disk.names()[..before]
            .iter()
            .all(|&name| name == Name::Final);
        assert!(finished, "{segment:?} before its predecessor");
    }

    fn close(&mut self, segment: SegmentNumber) {
        assert_eq!(self.disk.name(segment), Name::Final);
        assert!(
            self.disk.is_segment_durable(segment),
            "closed before it was durable"
        );
        let range = self.disk.range_of(segment);
        let busy = |flight: &Flight| range.contains(&offset(flight.write.position));
        assert!(!self.flights.iter().any(busy), "closed under a write");
    }

    /// The heart of it: what the server is told must be true on the disk at this very moment.
    fn tell(&mut self, status: Status) {
        assert!(self.copy_done.is_none(), "a status behind our CopyDone");
        let (durable, written) = (self.disk.durable_end(), self.disk.written_end());
        if self.setup.config.claims_flush {
            let flushed = status.flushed;
            assert!(
                flushed <= durable,
                "claims {flushed} as flushed, a crash leaves {durable}"
            );
        } else {
            assert_eq!(status.flushed, Lsn::INVALID, "must claim nothing");
        }
        assert!(
            status.written <= written,
            "claims {} of {written} as written",
            status.written
        );
        assert!(status.flushed <= status.written && status.written <= self.delivered_end());
        if let Some((_, last)) = self.statuses.last() {
            assert!(
                last.flushed <= status.flushed && last.written <= status.written,
                "went back"
            );
        }
        self.statuses.push((self.now, status));
        if status.reply_requested && self.setup.answers && !self.is_closed {
            let body = keepalive_body(self.sent_end, false);
            let mut raw = vec![b'd', 0, 0, 0, 4 + body.len() as u8];
            raw.extend(body);
            self.send(&raw, 0);
        }
    }

    fn finish_stream(&mut self) {
        assert!(self.armed.is_none(), "the kernel still reads into a slot");
        assert!(self.flights.is_empty() && !self.is_syncing && !self.is_changing_names);
        let receiver = self.receiver.take().expect("ends once");
        let received = receiver.progress().received();
        let slot = receiver.receiving_slot();
        let (ending, unparsed) = receiver.into_ending(&self.slots[slot.0]);
        assert!(
            unparsed == self.tail_of_delivered(unparsed.len()),
            "unparsed bytes are others"
        );
        self.check_end(received);
        self.end = Some(End {
            at: self.now,
            ending: ending.expect("an end has a reason"),
            unparsed,
        });
    }

    /// What was received is where the policy wants it before the end, and behind it there is nothing.
    fn check_end(&mut self, received: Lsn) {
        if self.setup.config.durability == Durability::Background {
            assert!(self.disk.written_end() >= received);
            let complete = segment_size().floor(received);
            assert!(
                self.disk.durable_end() >= complete,
                "a finished segment is not durable"
            );
        } else {
            assert!(
                self.disk.durable_end() >= received,
                "the end came before the disk"
            );
        }
        let end = offset(received.max(self.setup.config.preserve_end));
        let rest = self
            .disk
            .content(end..end.next_multiple_of(segment_size().bytes() as usize));
        assert!(is_zero(rest), "the tail is not zero");
        let first = segment_size().segment_of(START);
        let complete = segment_size().segment_of(received).0 - first.0;
        for (index, &name) in self.disk.names().iter().enumerate() {
            let expected = index as u64 >= complete || name == Name::Final;
            assert!(expected, "segment {index} is not finished: {name:?}");
        }
    }
}
