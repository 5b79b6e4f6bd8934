//! The servers: WAL that grows, timelines that follow each other, and one connection that streams them.
//!
//! There is a primary, and after a failover perhaps a server that did not follow: the old primary, which has what the new
//! one lacks, or another standby of it. A connection leads to the one or the other.

use std::sync::Arc;
use std::time::Duration;

use walring::core::lsn::Lsn;
use walring::core::message::Status;

use super::history::History;
use super::log::Log;
use super::network::{Closed, Link};
use crate::model::{Rng, START, segment_size};

/// A server sends no more than this in one message.
const LARGEST_MESSAGE: u64 = 128 << 10;

/// A server that has so many unread bytes on their way waits.
const SEND_BUFFER: usize = 400 << 10;

/// What a server answers to START_REPLICATION.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// WAL follows.
    Streams,
    /// Nothing of this timeline is left to send; the next one, and where it begins.
    Ended(u32, Lsn),
    /// The position is none of this server's.
    Refused,
}

/// What a connection streams.
struct Sender {
    timeline: u32,
    sent: Lsn,
    /// How much was sent when it asked for an answer last.
    asked: Lsn,
    /// Its side of the COPY has ended.
    is_done: bool,
    next_keepalive: Duration,
}

/// How a server goes about its work.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// The longest pause between two changes of its log, in microseconds.
    pub pause_us: u64,
    /// Nobody commits before the last commit is acknowledged.
    pub is_synchronous: bool,
    /// The longest time between two keepalives, in milliseconds.
    pub keepalive_ms: u64,
    /// Messages are this long at most.
    pub message: u64,
    /// Changes are larger than a commit, so many times in a hundred.
    pub bulk: u64,
}

/// The server.
pub struct Primary {
    pub history: Arc<History>,
    pub habits: Habits,
    /// The timeline that it is on.
    pub timeline: u32,
    /// The end of the log that is durable there, and so may be sent.
    pub flushed: Lsn,
    /// Where it will have come when the next timeline begins.
    falls_at: Lsn,
    /// A server that did not follow: its timeline, and the end of its log.
    old: Option<(u32, Lsn)>,
    /// The connection leads there.
    is_old: bool,
    /// It does not answer before.
    pub down_until: Duration,
    /// The greatest position that it heard to be flushed, and the last it heard to be written.
    pub acknowledged: Lsn,
    pub written: Lsn,
    next_growth: Duration,
    is_shutting_down: bool,
    sender: Option<Sender>,
    rng: Rng,
}

impl Primary {
    /// A server that has some WAL already.
    pub fn new(history: Arc<History>, habits: Habits, seed: u64) -> Primary {
        let mut rng = Rng::new(seed ^ 0x5E7F);
        let first = history.timeline(1).left.bytes_since(START);
        let mut primary = Primary {
            flushed: START.advanced_by(rng.between(0, first / 2)),
            history,
            habits,
            timeline: 1,
            falls_at: Lsn(0),
            old: None,
            is_old: false,
            down_until: Duration::ZERO,
            acknowledged: Lsn(0),
            written: Lsn(0),
            next_growth: Duration::ZERO,
            is_shutting_down: false,
            sender: None,
            rng,
        };
        primary.falls_at = primary.any_fall();
        primary
    }

    /// Whether it has all the WAL it will ever have.
    pub fn is_complete(&self) -> bool {
        let last = self.history.timelines.last().expect("one at least");
        self.timeline == last.number && self.flushed == last.end
    }

    /// The server that the connection leads to: its timeline, and the end of its log.
    pub fn place(&self) -> (u32, Lsn) {
        let old = self.old.filter(|_| self.is_old);
        old.unwrap_or((self.timeline, self.flushed))
    }

    // ---- failovers ----

    /// Where the log will have come when the next timeline begins.
    fn any_fall(&mut self) -> Lsn {
        let timeline = self.history.timeline(self.timeline);
        let (left, end) = (timeline.left, timeline.end);
        if left == end {
            return end;
        }
        match self.rng.chance(40) {
            true => end,
            false => Lsn(left.0 + self.rng.between(0, end.bytes_since(left)) / 8 * 8),
        }
    }

    /// The next timeline begins, where this one is left. Without a loss the server is promoted under the stream; so it is
    /// now and then with one: a standby that had received more than it replayed. Else another server takes over.
    fn promote(&mut self, log: &mut Log, link: Option<&mut Link>) {
        let (timeline, flushed) = (self.timeline, self.flushed);
        let left = self.history.timeline(timeline).left;
        self.timeline += 1;
        self.flushed = left;
        self.acknowledged = self.acknowledged.min(left);
        self.falls_at = self.any_fall();
        if flushed == left || (!self.is_old && self.rng.chance(20)) {
            log.note("server: promoted to timeline", left, self.timeline.into());
            return;
        }
        log.note("server: is replaced, on timeline", left, self.timeline.into());
        self.die(log, link, Duration::ZERO);
        self.down_until = log.now + Duration::from_millis(self.rng.between(1, 3000));
        if self.old.is_none() || self.rng.chance(60) {
            let behind = self.history.timeline(timeline).begin;
            self.old = Some(match self.rng.chance(60) {
                true => (timeline, flushed),
                false => {
                    let most = flushed.bytes_since(behind);
                    (timeline, Lsn(behind.0 + self.rng.between(0, most) / 8 * 8))
                }
            });
        }
    }

    /// The next connection leads to the server that did not follow, if there is one.
    pub fn turn_to_old(&mut self, wanted: bool) {
        self.is_old = wanted && self.old.is_some();
    }

    /// Whether there is a server that did not follow.
    pub fn has_old(&self) -> bool {
        self.old.is_some()
    }

    /// The server that did not follow is gone for good.
    pub fn forget_old(&mut self, link: Option<&mut Link>) {
        self.old = None;
        if std::mem::take(&mut self.is_old) {
            if let Some(link) = link {
                link.close(Closed::Reset);
            }
            self.hang_up();
        }
    }

    // ---- commands ----

    /// START_REPLICATION.
    pub fn start(&mut self, log: &mut Log, timeline: u32, start: Lsn) -> Answer {
        let (newest, _) = self.place();
        if timeline > newest {
            return Answer::Refused;
        }
        let limit = self.limit(timeline);
        if start > limit {
            return Answer::Refused;
        }
        if timeline < newest && start == limit {
            return self.end_of(timeline);
        }
        log.note("server: streams from, of timeline", start, timeline.into());
        let next_keepalive = log.now + self.keepalive_pause();
        self.sender = Some(Sender {
            timeline,
            sent: start,
            asked: Lsn(0),
            is_done: false,
            next_keepalive,
        });
        Answer::Streams
    }

    /// What follows a timeline that was streamed to its end.
    pub fn end_of(&self, timeline: u32) -> Answer {
        Answer::Ended(timeline + 1, self.history.timeline(timeline).left)
    }

    /// How far a timeline may be sent.
    fn limit(&self, timeline: u32) -> Lsn {
        let (newest, flushed) = self.place();
        match timeline == newest {
            true => flushed,
            false => self.history.timeline(timeline).left,
        }
    }

    /// How much of the log was sent on the last connection.
    pub fn sent(&self) -> Lsn {
        self.sender.as_ref().map_or(Lsn(0), |sender| sender.sent)
    }

    /// How much was when it asked for an answer last.
    pub fn asked(&self) -> Lsn {
        self.sender.as_ref().map_or(Lsn(0), |sender| sender.asked)
    }

    /// The connection is gone.
    pub fn hang_up(&mut self) {
        if let Some(sender) = &mut self.sender {
            sender.is_done = true;
        }
    }

    // ---- time ----

    /// When something happens here by itself.
    pub fn next_time(&self) -> Option<Duration> {
        let growth = (!self.is_complete()).then_some(self.next_growth.max(self.down_until));
        let sender = self.sender.as_ref().filter(|sender| !sender.is_done);
        [growth, sender.map(|sender| sender.next_keepalive)]
            .into_iter()
            .flatten()
            .min()
    }

    fn keepalive_pause(&mut self) -> Duration {
        Duration::from_millis(self.rng.between(1, self.habits.keepalive_ms))
    }

    /// Something is due.
    pub fn advance(&mut self, log: &mut Log, mut link: Option<&mut Link>) {
        if self.is_shutting_down && log.now >= self.down_until {
            self.is_shutting_down = false;
        }
        if !self.is_complete() && log.now >= self.next_growth.max(self.down_until) {
            self.grow(log, link.as_deref_mut());
        }
        let Some(link) = link else { return };
        if let Some(sender) = &mut self.sender
            && log.now >= sender.next_keepalive
        {
            let asks = self.rng.chance(40);
            sender.next_keepalive =
                log.now + Duration::from_millis(self.rng.between(1, self.habits.keepalive_ms));
            if !sender.is_done {
                self.keepalive(log, link, asks);
            }
        }
        self.pump(log, link);
    }

    /// More WAL, or the next timeline.
    fn grow(&mut self, log: &mut Log, link: Option<&mut Link>) {
        self.next_growth = log.now + Duration::from_micros(self.rng.between(1, self.habits.pause_us));
        if self.rng.chance(3) {
            self.next_growth += Duration::from_millis(self.rng.between(1, 3000));
        }
        if self.habits.is_synchronous && self.acknowledged < self.flushed && self.rng.chance(80) {
            return;
        }
        if self.flushed == self.falls_at {
            return self.promote(log, link);
        }
        let most = match self.rng.chance(self.habits.bulk) {
            true => self.rng.pick(&[20_000, 100_000, 600_000]),
            false => 1500,
        };
        let to = self.flushed.advanced_by(self.rng.between(8, most));
        // Now and then it stops at a page, as where a server died.
        let to = match self.rng.chance(10) {
            true => Lsn(to.0.next_multiple_of(8192)),
            false => Lsn(to.0.next_multiple_of(8)),
        };
        self.flushed = to.min(self.falls_at);
        if let Some((timeline, flushed)) = self.old.filter(|_| self.is_old) {
            let to = flushed.advanced_by(self.rng.between(0, most) / 8 * 8);
            self.old = Some((timeline, to.min(self.history.timeline(timeline).end)));
        }
    }

    // ---- sending ----

    /// Sends what there is, as far as the connection takes it.
    pub fn pump(&mut self, log: &mut Log, link: &mut Link) {
        while let Some(sender) = &self.sender {
            let (timeline, sent) = (sender.timeline, sender.sent);
            let limit = self.limit(timeline);
            if sender.is_done || link.backlog() >= SEND_BUFFER {
                return;
            }
            // A standby may have sent more than it replayed until it was promoted.
            if sent >= limit {
                if timeline < self.place().0 {
                    self.end_copy(log, link);
                }
                return;
            }
            let most = self
                .rng
                .pick(&[self.habits.message, LARGEST_MESSAGE])
                .min(LARGEST_MESSAGE);
            let to = sent.advanced_by(self.rng.between(1, most)).min(limit);
            self.send_wal(log, link, to, limit);
        }
    }

    fn send_wal(&mut self, log: &mut Log, link: &mut Link, to: Lsn, limit: Lsn) {
        let Some(sender) = &mut self.sender else { return };
        let payload = self.history.timeline(sender.timeline).bytes(sender.sent, to);
        let mut body = Vec::with_capacity(30 + payload.len());
        body.push(b'w');
        body.extend(sender.sent.0.to_be_bytes());
        body.extend(limit.0.to_be_bytes());
        body.extend(0u64.to_be_bytes());
        body.extend(payload);
        log.note("server: sends WAL from, bytes", sender.sent, payload.len() as u64);
        sender.sent = to;
        send(log, link, b'd', &body);
    }

    fn end_copy(&mut self, log: &mut Log, link: &mut Link) {
        let Some(sender) = &mut self.sender else { return };
        sender.is_done = true;
        log.note("server: ends the timeline", sender.sent, sender.timeline.into());
        send(log, link, b'c', b"");
    }

    fn keepalive(&mut self, log: &mut Log, link: &mut Link, asks: bool) {
        let Some(sender) = &mut self.sender else { return };
        if asks {
            sender.asked = sender.sent;
        }
        let mut body = vec![b'k'];
        body.extend(sender.sent.0.to_be_bytes());
        body.extend(0u64.to_be_bytes());
        body.push(u8::from(asks));
        log.note("server: keepalive, asks", sender.sent, asks.into());
        send(log, link, b'd', &body);
    }

    // ---- hearing ----

    /// A status arrived.
    pub fn hear(&mut self, log: &mut Log, link: &mut Link, status: Status) {
        log.note("server: hears flushed", status.flushed, status.written.0);
        let Some(sender) = &self.sender else { return };
        if !self.is_old {
            let limit = self.limit(sender.timeline);
            self.acknowledged = self.acknowledged.max(status.flushed.min(limit));
            self.written = status.written.min(limit);
        }
        let heard = if status.flushed == Lsn::INVALID {
            status.written
        } else {
            status.flushed
        };
        let is_over =
            self.is_shutting_down && heard == sender.sent && sender.sent == self.limit(sender.timeline);
        if is_over && !sender.is_done {
            log.note("server: has shut down", heard, 0);
            send(log, link, b'C', b"COPY 0\0");
            self.hang_up();
            link.close(Closed::Orderly);
        } else if status.reply_requested && !sender.is_done {
            self.keepalive(log, link, false);
        }
    }

    /// A shutdown in good order: what there is gets sent and must be acknowledged; then it is down for a while.
    pub fn shut_down(&mut self, log: &mut Log, link: Option<&mut Link>, down_for: Duration) {
        self.is_shutting_down = true;
        self.down_until = log.now + down_for;
        log.note("server: shuts down", self.flushed, 0);
        if let Some(link) = link {
            self.pump(log, link);
            if self.sender.as_ref().is_some_and(|sender| !sender.is_done) {
                self.keepalive(log, link, true);
            }
        }
    }

    /// The server dies, or its machine.
    pub fn die(&mut self, log: &mut Log, link: Option<&mut Link>, down_for: Duration) {
        self.down_until = log.now + down_for;
        log.note("server: dies", self.flushed, 0);
        if let Some(link) = link {
            link.close(Closed::Reset);
        }
        self.hang_up();
    }

    /// Where a replication slot holds the log back.
    pub fn slot_position(&self) -> Lsn {
        segment_size().floor(self.acknowledged.max(START))
    }
}

fn send(log: &mut Log, link: &mut Link, tag: u8, body: &[u8]) {
    let mut raw = Vec::with_capacity(5 + body.len());
    raw.push(tag);
    raw.extend((4 + body.len() as u32).to_be_bytes());
    raw.extend(body);
    if link.send(log.now, &raw) {
        log.note("network: silence", None, 0);
    }
}
