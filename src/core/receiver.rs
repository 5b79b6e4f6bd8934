//! The state machine of one stream: facts come in, orders go out.
//!
//! The contract with the driver (the ring, or a simulator): after each call of an input method, take
//! orders with [`Receiver::poll`] until there are none, carry them out in their order, ask
//! [`Receiver::arm`] whether the socket is to be read, and come back at [`Receiver::deadline`] at the
//! latest. Time is an argument everywhere: a monotonic duration since any fixed moment.
//!
//! Slots change hands: the one that is received into belongs to the core between two reads, a slot
//! in an order belongs to the driver until it reports the order's end.
//!
//! Here are the state and the inputs. `receiving` has what a message that arrived changes; `schedule` has what is
//! ordered next, after each input.

mod receiving;
mod schedule;

use std::collections::VecDeque;
use std::time::Duration;

use super::demand::{Demand, Durability, QUIET, Situation};
use super::framing::Framer;
use super::gather::Gather;
use super::inspection::Inspection;
use super::lsn::{Lsn, SegmentNumber};
use super::measure::Measure;
use super::order::{Ask, Config, Ending, Output};
use super::overlap::Overlap;
use super::progress::Progress;
use super::spread::{HEADS_LENGTH, Spread};
use super::transactions::Transactions;
use super::wal::decoder::Decoder;
use super::writes::{Slot, Writes};
use crate::error::Error;

/// A link on which reads take longer than this is slow: there every byte is taken as it comes.
const BRISK: Duration = Duration::from_millis(20);

/// How libpq calls it, too, also where the connection was reset: then something of ours was unread.
pub const HUNG_UP: &str = "could not receive data from WAL stream: server closed the connection unexpectedly";

/// The slot that is received into.
#[derive(Debug, Clone, Copy)]
struct Window {
    slot: Slot,
    /// Position of the slot's first byte, at a block's start.
    base: Lsn,
    /// Bytes of WAL that may lie in the slot: it never holds those of two segments.
    limit: usize,
    /// The first position that no sealed extent covers.
    from: Lsn,
    /// When the first byte from there on arrived.
    arrived: Option<Duration>,
}

/// A sync in flight.
#[derive(Debug, Clone, Copy)]
struct Sync {
    /// What it covers.
    end: Lsn,
    issued: Duration,
}

/// One stream, from START_REPLICATION to its end.
#[derive(Debug)]
pub struct Receiver {
    config: Config,
    framer: Framer,
    overlap: Overlap,
    progress: Progress,
    demand: Demand,
    gather: Gather,
    inspection: Inspection,
    transactions: Transactions,
    messages: u64,
    writes: Writes,
    window: Window,
    free: VecDeque<Slot>,
    outputs: VecDeque<Output>,
    /// How far the server could send when it spoke last.
    server_end: Lsn,
    /// When the server spoke last, by its clock, in microseconds since 2000-01-01 UTC; zero: not yet.
    server_sent_us: i64,
    /// Payload bytes of the WAL message that is being received.
    payload: u64,
    /// The end of the bytes that are durable; their name may not be.
    durable: Lsn,
    /// The end of the bytes for which a write was ordered.
    ordered: Lsn,
    /// What the sync in flight covers.
    sync: Option<Sync>,
    files: Files,
    timers: Timers,
    armed: bool,
    /// How the read that is armed is spread.
    spread: Option<Spread>,
    cancelling: bool,
    /// The window has moved, its bytes have not yet.
    carrying: bool,
    hold: Option<Duration>,
    ending: Option<Ending>,
    concluded: bool,
}

/// Which segments' files are open and have their names.
#[derive(Debug)]
struct Files {
    /// The first segment that is not finished.
    unfinished: SegmentNumber,
    /// The first segment whose file is not closed.
    unclosed: SegmentNumber,
    /// The unfinished segment's file has its name, durably.
    named: bool,
    /// A change of names is in flight.
    changing: bool,
}

#[derive(Debug)]
struct Timers {
    last_status: Option<Duration>,
    /// When WAL arrived last: keepalives do not make a quiet stream busy.
    last_arrival: Duration,
    /// When the server was last heard, or listening to it began or ended.
    heard: Duration,
    /// Since when it has been listened to without a rest worth mentioning.
    listening: Duration,
    /// How long the last read took.
    waited: Duration,
    pinged: bool,
    status_due: bool,
}

impl Timers {
    fn begin(now: Duration, status_due: bool) -> Timers {
        Timers {
            last_status: None,
            last_arrival: now,
            heard: now,
            listening: now,
            waited: Duration::ZERO,
            pinged: false,
            status_due,
        }
    }
}

impl Receiver {
    /// A stream that begins at `config.start`. If that is not a block's start, the first slot must hold
    /// what the file holds of the block before it, see [`Receiver::prefix`].
    pub fn new(mut config: Config, now: Duration) -> Receiver {
        assert!(
            config.slots >= 2,
            "receiving goes on in one slot while another is written"
        );
        assert!(
            config.window.is_multiple_of(config.block as usize),
            "a window is whole blocks"
        );
        let overlap = Overlap::new(std::mem::take(&mut config.stored));
        assert!(
            overlap.length() + config.block <= config.window as u64,
            "what is compared fits into a slot"
        );
        let start = config.start;
        let segment = config.segment_size.segment_of(start);
        assert!(
            overlap.is_open() || !config.only_compares,
            "there is something to compare"
        );
        // What is compared first comes at once, and then there is something to say.
        let timers = Timers::begin(now, !overlap.is_open());
        let base = Lsn(start.0 / config.block * config.block);
        let looks_from = start.advanced_by(overlap.length());
        let inspection = Inspection::new(config.decoder.take(), looks_from);
        let mut receiver = Receiver {
            framer: Framer::new(start.bytes_since(base) as usize),
            overlap,
            progress: Progress::new(start, inspection.verified(start)),
            demand: Demand::new(config.durability, start),
            gather: Gather::default(),
            inspection,
            transactions: Transactions::new(config.backlog_end),
            messages: 0,
            writes: Writes::default(),
            window: Window {
                slot: Slot(0),
                base,
                limit: 0,
                from: start,
                arrived: None,
            },
            free: (1..config.slots).map(Slot).collect(),
            outputs: VecDeque::with_capacity(32),
            server_end: start,
            server_sent_us: 0,
            payload: 0,
            durable: start,
            ordered: start,
            sync: None,
            files: Files {
                unfinished: segment,
                unclosed: segment,
                named: config.named,
                changing: false,
            },
            timers,
            armed: false,
            spread: None,
            cancelling: false,
            carrying: false,
            hold: None,
            ending: None,
            concluded: false,
            config,
        };
        receiver.window.limit = receiver.limit_from(base);
        receiver.advance(now);
        receiver
    }

    /// Where the first slot's bytes before the start belong, and how many there are.
    pub fn prefix(&self) -> (Slot, Lsn, usize) {
        let Window { slot, base, .. } = self.window;
        (slot, base, self.config.start.bytes_since(base) as usize)
    }

    /// How far the stream has come.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// How far the server could send when it spoke last.
    pub fn server_end(&self) -> Lsn {
        self.server_end
    }

    /// When the server spoke last, by its clock, in microseconds since 2000-01-01 UTC; zero: not yet.
    pub fn server_sent_us(&self) -> i64 {
        self.server_sent_us
    }

    /// Payload bytes moved within slots: commits', never those of a catch-up.
    pub fn moved(&self) -> u64 {
        self.framer.moved()
    }

    /// WAL messages received.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Transactions received.
    pub fn transactions(&self) -> u64 {
        self.transactions.received()
    }

    /// Records verified.
    pub fn records(&self) -> u64 {
        self.inspection.records()
    }

    /// Whether the server is so close that commits may be waiting for us.
    pub fn is_live(&self) -> bool {
        self.situation().is_live()
    }

    /// How many bytes of the segment after the current one may have been zeroed by now. Zeros pay
    /// for durable writes only, and are spread over the current segment: a quarter faster than it fills.
    pub fn zeroing_allowance(&self) -> u64 {
        let offset = self.config.segment_size.offset_of(self.progress.received());
        let live = self.config.durability == Durability::Synchronous && self.is_live();
        if live { offset + offset / 4 } else { 0 }
    }

    /// How the socket is to be read now. The caller owns the slot until it reports
    /// [`Receiver::received`] or [`Receiver::receive_cancelled`].
    pub fn arm(&mut self, now: Duration) -> Option<Ask> {
        self.arm_as(now, true)
    }

    /// As [`Receiver::arm`], for bytes that were read already: these lie in one piece.
    pub fn arm_for_early(&mut self, now: Duration) -> Option<Ask> {
        self.arm_as(now, false)
    }

    fn arm_as(&mut self, now: Duration, may_spread: bool) -> Option<Ask> {
        if self.armed || self.carrying || self.ending.is_some() || self.waits_for_durable_write() {
            return None;
        }
        if self.is_window_full() {
            return None;
        }
        let ask = self.ask(may_spread);
        self.armed = !ask.range.is_empty();
        self.spread = ask.spread;
        if now > self.timers.heard + BRISK {
            self.timers.listening = now;
        }
        self.timers.heard = now;
        self.armed.then_some(ask)
    }

    fn ask(&self, may_spread: bool) -> Ask {
        let (slot, limit, length) = (self.window.slot, self.window.limit, self.slot_length());
        let lag = self.situation().lag();
        let spread = self
            .framer
            .spread(limit, length)
            .filter(|_| may_spread && self.is_bulk());
        if let Some(spread) = spread.filter(|spread| spread.wal_length() as u64 <= lag) {
            let start = self.framer.place();
            return Ask {
                slot,
                range: start..start + spread.wal_length(),
                certain: true,
                spread: Some(spread),
            };
        }
        let range = self.framer.ask(limit, length, lag > 0);
        Ask {
            slot,
            certain: range.len() as u64 <= lag && !self.timers.pinged,
            range,
            spread: None,
        }
    }

    /// Whether the server has so much more, and answers so well, that waking up for little is waste.
    pub fn is_bulk(&self) -> bool {
        !self.is_live() && !self.timers.pinged && self.timers.waited <= BRISK
    }

    /// The next order.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Receiver::tick`] at the latest.
    pub fn deadline(&self) -> Option<Duration> {
        let status = self
            .config
            .status_interval
            .zip(self.timers.last_status)
            .map(|(every, at)| at + every);
        let quiet = (!self.demand.covers(self.progress.received())).then(|| self.timers.last_arrival + QUIET);
        let listens = self.armed && self.ending.is_none();
        let timeout = self
            .config
            .receive_timeout
            .filter(|_| listens && !self.cancelling);
        let silence = timeout.map(|timeout| self.timers.heard + timeout / 2);
        [status, quiet, silence, self.hold].into_iter().flatten().min()
    }

    /// Why the stream ended, the received bytes that belong to whoever runs commands next, and what
    /// looked at the log, where another stream can go on. To be called after [`Output::End`], with the slot that was received into.
    pub fn into_ending(self, slot: &[u8]) -> (Ending, Vec<u8>, Option<Decoder>) {
        let unparsed = self.framer.unparsed(slot);
        let unfinished = || Ending::Failed(Error::protocol("the stream was left before its end"));
        let decoder = self.inspection.into_decoder();
        (self.ending.unwrap_or_else(unfinished), unparsed, decoder)
    }

    /// So many bytes of the last message are still to come, the unparsed ones among them.
    pub fn missing(&self) -> u64 {
        self.framer.missing()
    }

    /// Whether the read that is armed is being withdrawn.
    pub fn is_cancelling(&self) -> bool {
        self.cancelling
    }

    /// Whether the stream is about to end.
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// The slot that is received into.
    pub fn receiving_slot(&self) -> Slot {
        self.window.slot
    }

    // ---- inputs ----

    /// `count` bytes arrived where [`Receiver::arm`] said, those of a spread read in `heads` too; zero:
    /// the server closed the connection.
    pub fn received(&mut self, now: Duration, count: usize, slot: &mut [u8], heads: &[u8; HEADS_LENGTH]) {
        self.timers.waited = now.saturating_sub(self.timers.heard);
        self.take(now, count, slot, heads);
    }

    /// As [`Receiver::received`], for bytes that were read already: that they came at once says nothing of the link.
    pub fn received_early(&mut self, now: Duration, count: usize, slot: &mut [u8]) {
        self.take(now, count, slot, &[0; HEADS_LENGTH]);
    }

    fn take(&mut self, now: Duration, count: usize, slot: &mut [u8], heads: &[u8; HEADS_LENGTH]) {
        (self.armed, self.cancelling) = (false, false);
        if count == 0 {
            self.end(Ending::Failed(Error::connection(HUNG_UP)));
        } else {
            (self.timers.heard, self.timers.pinged) = (now, false);
            match self.spread.take() {
                Some(spread) => self.framer.arrived_spread(spread, count, heads),
                None => self.framer.arrived(count),
            }
            self.frame(now, slot);
        }
        self.advance(now);
    }

    /// The read was withdrawn; nothing arrived.
    pub fn receive_cancelled(&mut self, now: Duration) {
        (self.armed, self.cancelling) = (false, false);
        self.timers.heard = now;
        self.advance(now);
    }

    /// The read failed.
    pub fn receive_failed(&mut self, now: Duration, error: Error) {
        (self.armed, self.cancelling) = (false, false);
        self.end(Ending::Failed(error));
        self.advance(now);
    }

    /// Moves to `new` what must go on there: the started block and what is not parsed yet. The rest
    /// of the started block in `old` becomes zero, for heads may lie there.
    pub fn carry(&mut self, now: Duration, old: &mut [u8], new: &mut [u8]) {
        let place = self.framer.place();
        let kept = self.progress.received().bytes_since(self.window.base) as usize;
        new[..kept].copy_from_slice(&old[place - kept..place]);
        self.framer.carry(old, new, kept);
        let block = self.config.block as usize;
        old[place..place.next_multiple_of(block)].fill(0);
        self.carrying = false;
        self.frame(now, new);
        self.advance(now);
    }

    /// The kernel wrote `count` bytes of the write ordered from `slot`.
    pub fn written(&mut self, now: Duration, slot: Slot, count: u64) {
        if let Some((taken, durable, extent)) = self.writes.complete(slot, count, self.config.block) {
            self.order_write(&extent, taken, durable);
        }
        while let Some(done) = self.writes.retire() {
            self.progress.write(done.extent.to);
            self.free.push_back(done.extent.slot);
            if done.durable && self.durable == done.extent.from {
                self.gather.flushed(now - done.issued);
                self.became_durable(done.extent.to, now - done.issued);
            }
        }
        self.advance(now);
    }

    /// The sync ordered last ended.
    pub fn synced(&mut self, now: Duration) {
        if let Some(Sync { end, issued }) = self.sync.take()
            && end > self.durable
        {
            self.became_durable(end, now - issued);
        }
        self.advance(now);
    }

    /// The unfinished segment's file has its name, durably.
    pub fn named(&mut self, now: Duration) {
        (self.files.named, self.files.changing) = (true, false);
        self.advance(now);
    }

    /// The unfinished segment is finished, durably; `next` as it was in the order.
    pub fn finished(&mut self, now: Duration, next: bool) {
        self.files.unfinished = self.files.unfinished.next();
        (self.files.named, self.files.changing) = (next, false);
        self.advance(now);
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) {
        self.advance(now);
    }

    /// The operator wants an end: what was received becomes durable first.
    pub fn stop(&mut self, now: Duration) {
        self.end(Ending::Stopped);
        self.advance(now);
    }

    /// All bytes up to `end` are durable, by an operation of the disk that took so long.
    fn became_durable(&mut self, end: Lsn, took: Duration) {
        if self.transactions.are_timed_at(end) {
            let (transactions, bytes) = (
                self.transactions.between(self.durable, end),
                end.bytes_since(self.durable),
            );
            let flush = Measure::Flush {
                transactions,
                bytes,
                took,
            };
            self.outputs.push_back(Output::Measured(flush));
        }
        self.durable = end;
    }

    fn end(&mut self, ending: Ending) {
        self.demand.everything(self.progress.received());
        self.ending.get_or_insert(ending);
    }

    /// In live mode the socket rests while a durable write is in flight on a quick disk: what comes meanwhile
    /// is the next group, and picking it up in one go saves wake-ups. On a slow one it is worth knowing how
    /// many commits came meanwhile.
    fn waits_for_durable_write(&self) -> bool {
        self.writes.is_durable_in_flight() && self.situation().is_caught_up() && self.is_disk_quick()
    }

    /// Whether durable writes usually take so little that nothing is worth being done meanwhile.
    pub fn is_disk_quick(&self) -> bool {
        self.gather.is_disk_quick()
    }

    fn situation(&self) -> Situation {
        Situation {
            received: self.progress.received().advanced_by(self.overlap.received()),
            durable: self.durable,
            server_end: self.server_end,
            inside_payload: self.framer.is_inside_payload(),
        }
    }

    /// A window full of another log is not, nor one that was only compared: it goes nowhere.
    fn is_window_full(&self) -> bool {
        let is_written = !self.overlap.is_open() && !self.config.only_compares;
        !self.carrying && is_written && self.framer.place() == self.window.limit
    }

    fn slot_length(&self) -> usize {
        self.config.window + self.config.block as usize
    }

    /// Bytes of WAL that a slot may hold from `base` on.
    fn limit_from(&self, base: Lsn) -> usize {
        let size = self.config.segment_size;
        let rest = size.bytes() - size.offset_of(base);
        usize::try_from(rest).map_or(self.config.window, |rest| rest.min(self.config.window))
    }
}
