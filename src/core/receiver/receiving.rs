//! What arrives: each message's effect on the stream, in the order in which they lie in the slot.

use std::time::Duration;

use super::Receiver;
use crate::core::demand::QUIET;
use crate::core::framing::Frame;
use crate::core::lsn::Lsn;
use crate::core::message::{Keepalive, WalHead};
use crate::core::order::{Ending, Output};
use crate::error::Error;

impl Receiver {
    pub(super) fn frame(&mut self, now: Duration, slot: &mut [u8]) {
        while self.ending.is_none() {
            match self.framer.next(slot, self.window.limit) {
                Ok(Some(Frame::Wal(count))) => {
                    let place = self.framer.place();
                    self.accept_wal(now, &slot[place - count..place]);
                }
                Ok(Some(frame)) => self.accept(now, frame),
                Ok(None) => break,
                Err(error) => self.end(Ending::Failed(error)),
            }
        }
    }

    fn accept(&mut self, now: Duration, frame: Frame) {
        match frame {
            Frame::WalHead(head) => self.accept_head(head),
            Frame::Keepalive(keepalive) => self.accept_keepalive(now, keepalive),
            Frame::Notice(body) => self.outputs.push_back(Output::Notice(body)),
            Frame::Wal(_) | Frame::Ignored => {}
            Frame::Error(body) => self.end(Ending::ServerError(body)),
            Frame::CopyDone => self.end(Ending::CopyDone),
            Frame::EndOfCopy => self.end(Ending::EndOfCopy),
        }
    }

    fn accept_head(&mut self, head: WalHead) {
        let expected = self.progress.received().advanced_by(self.overlap.received());
        if head.start != expected {
            let message = format!("got WAL data at {}, expected it at {expected}", head.start);
            self.end(Ending::Failed(Error::protocol(message)));
            return;
        }
        self.payload = head.payload;
        self.server_end = head.server_end;
        self.server_sent_us = head.sent_us;
    }

    fn accept_wal(&mut self, now: Duration, wal: &[u8]) {
        let end = self.window.base.advanced_by(self.framer.place() as u64);
        self.timers.last_arrival = now;
        let Some(wal) = self.compare(wal) else { return };
        self.progress.receive(end);
        self.window.arrived.get_or_insert(now);
        let message_ends = !self.framer.is_inside_payload();
        if message_ends {
            self.messages += 1;
            self.gather.message(self.payload);
        }
        self.inspect(now, wal);
        // As pg_receivewal does: what belongs to a message is kept, but no segment is begun behind the end.
        let segment_ends = self.config.segment_size.offset_of(end) == 0;
        let passed = self.config.end_position.is_some_and(|position| position < end);
        if passed && (message_ends || segment_ends) {
            self.end(Ending::EndPosition);
        }
    }

    /// Compares what arrived with what is stored. What follows that; `None`: nothing does yet.
    fn compare<'w>(&mut self, wal: &'w [u8]) -> Option<&'w [u8]> {
        if !self.overlap.is_open() {
            return Some(wal);
        }
        match self.overlap.take(wal) {
            Err(same) => {
                let position = self.config.start.advanced_by(same);
                self.end(Ending::Diverged(position));
            }
            Ok(_) if self.overlap.is_open() => {}
            Ok(_) if self.config.only_compares => self.end(Ending::Same),
            Ok(count) => {
                self.go_on_behind(self.config.start.advanced_by(self.overlap.length()));
                return Some(&wal[count..]);
            }
        }
        None
    }

    /// It is the same log: what is stored counts as if it had been received and written here. The file is
    /// synced before a stream goes on in it.
    fn go_on_behind(&mut self, stored_end: Lsn) {
        self.progress.receive(stored_end);
        self.progress.verify(self.inspection.verified(stored_end));
        self.progress.write(stored_end);
        (self.durable, self.ordered, self.window.from) = (stored_end, stored_end, stored_end);
        self.timers.status_due = true;
    }

    /// Looks at what arrived; only what is right may be acknowledged.
    fn inspect(&mut self, now: Duration, wal: &[u8]) {
        let (transactions, gather) = (&mut self.transactions, &mut self.gather);
        let found = self.inspection.take(wal, |end, committed_us| {
            transactions.arrived(end, now, committed_us);
            gather.transaction();
        });
        let received = self.progress.received();
        self.progress.verify(self.inspection.verified(received));
        if let Err(fault) = found {
            self.end(Ending::Damaged(fault));
        }
    }

    fn accept_keepalive(&mut self, now: Duration, keepalive: Keepalive) {
        self.server_end = self.server_end.max(keepalive.server_end);
        self.server_sent_us = keepalive.sent_us;
        if keepalive.reply_requested {
            self.timers.status_due = true;
            self.demand.everything(self.progress.received());
            self.vouch_for_tail(now);
        }
    }

    /// A standby that shuts down waits until all it has sent is acknowledged, and that may end within a
    /// record: the rest is still with its own server. So when it asks, has no more and has been quiet
    /// for a while, the tail is taken on trust: nothing in it is wrong so far. While the socket rests, more may
    /// be waiting there: that is no quiet.
    fn vouch_for_tail(&mut self, now: Duration) {
        let received = self.progress.received();
        let quiet = now >= self.timers.last_arrival.max(self.timers.listening) + QUIET;
        if quiet && self.situation().is_caught_up() && self.ending.is_none() {
            self.progress.verify(received);
        }
    }
}
