//! Drives a `Receiver` as its contract says, in virtual time: what happens, in which order, and what
//! a test can ask and do. What the receiver orders is carried out in [`super::orders`].

use std::ops::Range;
use std::time::Duration;

use walring::core::lsn::{Lsn, SegmentNumber};
use walring::core::message::Status;
use walring::core::message::WAL_HEAD;
use walring::core::order::{Ending, Write};
use walring::core::receiver::Receiver;
use walring::core::spread::{HEADS_LENGTH, Spread};
use walring::core::writes::Slot;

use super::disk::{Dirty, Disk, Name};
pub use super::setup::{Operation, Setup};
use super::stream::{Message, Stream};
use super::verification::Inspected;
use super::{Rng, offset};

/// A write that the disk has not ended.
pub(super) struct Flight {
    pub(super) write: Write,
    /// The slot's bytes as they were when the write was issued.
    pub(super) bytes: Vec<u8>,
}

impl Flight {
    pub(super) fn sectors(&self) -> Range<u64> {
        self.write.position.0..self.write.position.0 + self.write.range.len() as u64
    }
}

/// What the disk will have done.
pub(super) enum Event {
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
    pub(super) receiver: Option<Receiver>,
    pub(super) rng: Rng,
    pub(super) slots: Vec<Vec<u8>>,
    pub(super) armed: Option<(Slot, Range<usize>)>,
    /// How the read that is armed is spread over the slot and the heads.
    pub(super) spread: Option<Spread>,
    /// Spread reads that were asked for.
    pub spread_reads: usize,
    pub(super) deliver_at: Option<Duration>,
    pub(super) cancel_at: Option<Duration>,
    pub(super) events: Vec<(Duration, Event)>,
    pub(super) flights: Vec<Flight>,
    pub(super) is_syncing: bool,
    pub(super) is_changing_names: bool,
    /// The end of the last byte for which a write was ordered.
    pub(super) ordered_end: usize,
    pub(super) counts: [usize; 3],
    pub(super) coming: std::vec::IntoIter<Message>,
    pub(super) next_message: Option<Message>,
    sent: Vec<Sent>,
    pub(super) raw: Vec<u8>,
    pub(super) delivered: usize,
    pub(super) is_closed: bool,
    pub(super) sent_end: Lsn,
    pub(super) is_traced: bool,
    /// Where the stream starts.
    pub start: Lsn,
    /// When bytes of WAL were delivered last.
    pub(super) last_wal: Duration,
    /// When a read ended last, and since when there has been one but for moments.
    pub(super) last_read: Duration,
    pub(super) listening: Duration,
    pub(super) is_stopped: bool,
    /// What a receiver that looks at the log was told, and what it measured.
    pub inspected: Inspected,
}

impl World {
    /// A receiver connected to a server that is about to say `stream`.
    pub fn new(setup: Setup, stream: &Stream) -> World {
        let mut coming = stream.messages.clone().into_iter();
        let length = setup.config.window + setup.config.block as usize;
        let start = setup.config.start;
        assert_eq!(stream.start, start, "the server sends what it is asked for");
        let looks_from = start.advanced_by(setup.config.stored.len() as u64);
        let truth = setup.truth.as_ref();
        let commits = truth.map_or(Vec::new(), |truth| {
            truth.commits(looks_from, setup.config.backlog_end)
        });
        let mut world = World {
            now: Duration::ZERO,
            disk: Disk::new(
                stream.content.clone(),
                start,
                setup.config.preserve_end,
                setup.config.named,
            ),
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
            spread: None,
            spread_reads: 0,
            deliver_at: None,
            cancel_at: None,
            events: Vec::new(),
            flights: Vec::new(),
            is_syncing: false,
            is_changing_names: false,
            ordered_end: 0,
            counts: [0; 3],
            next_message: coming.next(),
            coming,
            sent: Vec::new(),
            raw: Vec::new(),
            delivered: 0,
            is_closed: false,
            sent_end: start,
            is_traced: std::env::var_os("MODEL_SEED").is_some(),
            start,
            last_wal: Duration::ZERO,
            last_read: Duration::ZERO,
            listening: Duration::ZERO,
            is_stopped: false,
            inspected: Inspected {
                commits,
                ..Inspected::default()
            },
            setup,
        };
        world.load_prefix();
        world.settle();
        world
    }

    /// Puts into the first slot what the file holds of the block in which the stream starts.
    fn load_prefix(&mut self) {
        let (slot, base, count) = self.receiver().prefix();
        let from = offset(base);
        self.slots[slot.0][..count].copy_from_slice(self.disk.content(from..from + count));
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
        let whole = index
            .checked_sub(1)
            .map_or(self.start, |last| self.sent[last].lsn_end);
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
        self.is_stopped = true;
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
    pub(super) fn schedule(&mut self, operation: Operation, event: Event) {
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
        let more = match operation {
            Operation::Sync => self.setup.sync_more_us,
            _ => 0,
        };
        let time = Duration::from_micros(self.rng.between(low, high) + more);
        self.events.push((self.now + time, event));
    }

    pub(super) fn network_delay(&mut self) -> Duration {
        Duration::from_micros(self.rng.between(1, self.setup.network_us))
    }

    // ---- the network ----

    fn send_next(&mut self) {
        let message = self.next_message.take().expect("due");
        self.next_message = self.coming.next();
        self.is_closed |= message.raw.is_empty();
        self.send(&message.raw, message.payload);
    }

    pub(super) fn send(&mut self, raw: &[u8], payload: usize) {
        self.raw.extend_from_slice(raw);
        self.sent_end = self.sent_end.advanced_by(payload as u64);
        self.sent.push(Sent {
            raw_end: self.raw.len(),
            payload,
            lsn_end: self.sent_end,
        });
        self.expect_delivery();
    }

    pub(super) fn expect_delivery(&mut self) {
        let available = self.delivered < self.raw.len() || self.is_closed;
        if self.armed.is_some() && available && self.deliver_at.is_none() {
            self.deliver_at = Some(self.now + self.network_delay());
        }
    }

    fn deliver(&mut self) {
        let (slot, range) = self.armed.take().expect("armed");
        (self.deliver_at, self.cancel_at) = (None, None);
        let spread = self.spread.take();
        let heads_asked = spread.map_or(0, |spread| (spread.pieces().count() - 1) * WAL_HEAD);
        let most = (range.len() + heads_asked)
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
        self.note_delivery(from);
        self.last_read = self.now;
        let arrived = &self.raw[from..from + count];
        let mut heads = [0xBB; HEADS_LENGTH];
        match spread {
            Some(spread) => scatter(spread, arrived, &mut self.slots[slot.0], &mut heads),
            None => self.slots[slot.0][range.start..range.start + count].copy_from_slice(arrived),
        }
        self.spread_reads += usize::from(spread.is_some());
        let mut bytes = std::mem::take(&mut self.slots[slot.0]);
        let now = self.now;
        self.receiver
            .as_mut()
            .expect("running")
            .received(now, count, &mut bytes, &heads);
        self.slots[slot.0] = bytes;
        self.settle();
    }

    /// What of the messages has arrived since `from` of all bytes.
    fn note_delivery(&mut self, from: usize) {
        let mut index = self.sent.partition_point(|sent| sent.raw_end <= from);
        while let Some(&Sent {
            raw_end,
            payload,
            lsn_end,
        }) = self.sent.get(index)
        {
            let start = index.checked_sub(1).map_or(0, |before| self.sent[before].raw_end);
            if self.delivered <= start {
                break;
            }
            if payload > 0 {
                self.last_wal = self.now;
            }
            if raw_end <= self.delivered {
                let raw = self.raw[start..raw_end].to_vec();
                self.delivered_in_whole(&raw, payload, lsn_end);
            }
            index += 1;
        }
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
        self.last_read = now;
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

    pub(super) fn running(&mut self) -> &mut Receiver {
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
}

/// Puts what arrived where a spread read wants it, as the kernel does.
pub fn scatter(spread: Spread, mut arrived: &[u8], slot: &mut [u8], heads: &mut [u8; HEADS_LENGTH]) {
    let mut fill = |target: &mut [u8]| {
        let count = arrived.len().min(target.len());
        target[..count].copy_from_slice(&arrived[..count]);
        arrived = &arrived[count..];
    };
    for (number, piece) in spread.pieces().enumerate() {
        if number > 0 {
            fill(&mut heads[Spread::head_before(number)]);
        }
        fill(&mut slot[piece]);
    }
}
