//! What a stream does next: the write policy, the changes of names, statuses and the end.

use std::time::Duration;

use super::{Files, Receiver, Sync, Window};
use crate::core::demand::{Durability, QUIET};
use crate::core::lsn::Lsn;
use crate::core::message::Status;
use crate::core::order::{Ending, Output, Write};
use crate::core::writes::Extent;
use crate::error::Error;

/// Segments whose files may be open at once: in catch-up the next ones fill while the first is synced.
const OPEN_SEGMENTS: u64 = 4;

impl Receiver {
    pub(super) fn advance(&mut self, now: Duration) {
        self.raise_demand(now);
        if self.is_window_full() {
            self.seal();
        }
        self.issue_writes(now);
        self.seal_tail(now);
        self.issue_writes(now);
        self.issue_sync(now);
        self.change_names();
        self.raise_flushed(now);
        self.close_files();
        self.check_silence(now);
        self.report(now);
        self.conclude(now);
    }

    fn raise_demand(&mut self, now: Duration) {
        let received = self.progress.received();
        let complete = self.config.segment_size.floor(received);
        if complete > self.config.start {
            self.demand.segment(complete);
        }
        self.demand.follow(&self.situation());
        let status = self.config.status_interval.zip(self.timers.last_status);
        if status.is_some_and(|(every, at)| now >= at + every) {
            self.timers.status_due = true;
            self.demand.everything(received);
        }
        if !self.demand.covers(received) && now >= self.timers.last_arrival + QUIET {
            self.demand.everything(received);
        }
    }

    /// Hands the window's content over for writing and goes on in a free slot, if there is one.
    fn seal(&mut self) {
        if self.carrying || self.armed {
            return;
        }
        let Some(slot) = self.free.pop_front() else { return };
        let Window {
            slot: old,
            base,
            from,
            arrived,
            ..
        } = self.window;
        let to = self.progress.received();
        let arrived = arrived.unwrap_or(self.timers.last_arrival);
        self.writes.enqueue(Extent {
            slot: old,
            base,
            from,
            to,
            arrived,
        });
        let base = Lsn(to.0 / self.config.block * self.config.block);
        self.window = Window {
            slot,
            base,
            limit: self.limit_from(base),
            from: to,
            arrived: None,
        };
        self.carrying = true;
        self.outputs.push_back(Output::Carry { from: old, to: slot });
    }

    /// Seals a window that is not full, if what it holds is wanted on the disk and the disk is free:
    /// one durable write in flight, and what arrives meanwhile becomes the next.
    fn seal_tail(&mut self, now: Duration) {
        self.hold = None;
        let wanted = self.demand.written.max(self.demand.durable);
        let pending = self.progress.received() > self.window.from && wanted > self.window.from;
        let durable = self.demand.durable > self.window.from;
        let disk_is_free = self.writes.is_idle() && !(durable && self.sync.is_some());
        if !pending || self.carrying || !disk_is_free {
            return;
        }
        if durable && self.ending.is_none() && self.demand.durability() == Durability::Synchronous {
            self.hold = self.gather.hold(now);
            if self.hold.is_some() {
                return;
            }
        }
        if self.armed {
            self.cancel_receive();
            return;
        }
        self.gather.release();
        if durable {
            self.demand.everything(self.progress.received());
        }
        self.seal();
    }

    fn cancel_receive(&mut self) {
        if !self.cancelling {
            self.cancelling = true;
            self.outputs.push_back(Output::CancelReceive);
        }
    }

    fn issue_writes(&mut self, now: Duration) {
        while let Some(extent) = self.writes.issuable().copied() {
            let segment = self.config.segment_size.segment_of(extent.base);
            if segment.0 >= self.files.unclosed.0 + OPEN_SEGMENTS {
                return;
            }
            let durable = self.demand.durability() != Durability::Background
                && self.demand.durable >= extent.to
                && self.durable == extent.from
                && self.sync.is_none()
                && self.writes.is_landed()
                && self.writes.waiting() == 1;
            self.writes.issue(durable, now);
            self.ordered = extent.to;
            self.order_write(&extent, 0, durable);
        }
    }

    /// Orders what is missing of an extent's write, from `taken` bytes on.
    pub(super) fn order_write(&mut self, extent: &Extent, taken: u64, durable: bool) {
        let length = extent.length() as usize;
        let range = taken as usize..length.next_multiple_of(self.config.block as usize);
        let keep = extent.to < self.config.preserve_end && range.end > length;
        self.outputs.push_back(Output::Write(Write {
            slot: extent.slot,
            range,
            position: extent.base.advanced_by(taken),
            durable,
            keep_from: keep.then_some(length),
        }));
    }

    /// Syncs the first segment that is not durable, once all that is wanted of it is written.
    fn issue_sync(&mut self, now: Duration) {
        let wanted = self.demand.durable;
        if self.sync.is_some() || wanted <= self.durable || self.writes.is_durable_in_flight() {
            return;
        }
        let segment = self.config.segment_size.segment_of(self.durable);
        let end = self.config.segment_size.end_of(segment);
        let covered = self.progress.written().min(end);
        if covered >= wanted.min(end) && covered > self.durable {
            self.sync = Some(Sync {
                end: covered,
                issued: now,
            });
            self.outputs.push_back(Output::Sync(segment));
        }
    }

    /// One change of names at a time: the first data of a segment wants a name, a complete segment
    /// loses its `.partial`.
    fn change_names(&mut self) {
        let segment = self.files.unfinished;
        let start = self.config.segment_size.start_of(segment);
        let end = self.config.segment_size.end_of(segment);
        if self.files.changing || self.ordered <= start {
            return;
        }
        if !self.files.named {
            self.files.changing = true;
            self.outputs.push_back(Output::Name(segment));
        } else if self.durable.min(self.completable()) >= end {
            self.files.changing = true;
            self.outputs.push_back(Output::Finish {
                segment,
                next: self.ordered > end,
            });
        }
    }

    /// Up to where segments may lose their `.partial`. The next start believes a segment without it, so
    /// the record that crosses its end must be right; but a record longer than two segments does not
    /// hold up the files, nor does one that is not complete when the stream ends in good order. The former
    /// holds for a damaged one, too: only so many files may be open, and what was received is to be written.
    fn completable(&self) -> Lsn {
        let (received, verified) = (self.progress.received(), self.progress.verified());
        match &self.ending {
            Some(ending) if ending.is_orderly() && !matches!(ending, Ending::Damaged(_)) => received,
            _ => {
                let size = self.config.segment_size;
                verified.max(Lsn(size.floor(received).0.saturating_sub(2 * size.bytes())))
            }
        }
    }

    /// Bytes count as flushed once their segment's name is durable, too.
    fn raise_flushed(&mut self, now: Duration) {
        let Files {
            unfinished, named, ..
        } = self.files;
        let size = self.config.segment_size;
        let named_to = if named {
            size.end_of(unfinished)
        } else {
            size.start_of(unfinished)
        };
        let named_to = named_to.max(self.config.start);
        let known = self.progress.written().min(self.progress.verified());
        self.progress.flush(self.durable.min(named_to).min(known));
        let flushed = self.progress.flushed();
        self.transactions.flushed(flushed, now, &mut self.outputs);
        if !self.config.claims_flush {
            self.transactions.forget_durable();
        }
    }

    fn close_files(&mut self) {
        let size = self.config.segment_size;
        while self.files.unclosed < self.files.unfinished && self.durable >= size.end_of(self.files.unclosed)
        {
            let segment = self.files.unclosed;
            self.files.unclosed = segment.next();
            self.outputs.push_back(Output::Close(segment));
        }
    }

    /// After half the timeout the server is asked for a sign of life, and the read is withdrawn: one that waits for
    /// a whole message may hold bytes that have come over a slow link meanwhile. The next one takes any byte, and
    /// has the other half.
    fn check_silence(&mut self, now: Duration) {
        let Some(timeout) = self
            .config
            .receive_timeout
            .filter(|_| self.armed && self.ending.is_none())
        else {
            return;
        };
        if now.saturating_sub(self.timers.heard) < timeout / 2 || self.cancelling {
            return;
        }
        if self.timers.pinged {
            let seconds = timeout.as_secs_f64();
            let message = format!(
                "the server has sent nothing within the receive timeout of {seconds} seconds, although asked to"
            );
            self.end(Ending::Failed(Error::connection(message)));
        } else {
            self.timers.pinged = true;
            self.send_status(now, true);
        }
        self.cancel_receive();
    }

    fn report(&mut self, now: Duration) {
        let news = self.progress.flushed() > self.progress.reported_flush();
        if self.timers.status_due || (news && self.config.claims_flush) {
            self.send_status(now, false);
        }
    }

    fn send_status(&mut self, now: Duration, reply_requested: bool) {
        if self.concluded {
            return;
        }
        self.timers.status_due = false;
        self.timers.last_status = Some(now);
        self.report_now(now, reply_requested);
    }

    fn report_now(&mut self, now: Duration, reply_requested: bool) {
        if self.overlap.is_open() || self.config.only_compares {
            // Perhaps it is another log, or not all of it is stored: this stream claims nothing of it.
            self.outputs.push_back(Output::Status(Status {
                written: Lsn::INVALID,
                flushed: Lsn::INVALID,
                reply_requested,
            }));
            return;
        }
        let status = self.progress.report(self.config.claims_flush, reply_requested);
        self.outputs.push_back(Output::Status(status));
        if self.config.claims_flush {
            self.transactions
                .acknowledged(status.flushed, now, &mut self.outputs);
        }
    }

    /// Ends the stream once everything received is where it belongs.
    fn conclude(&mut self, now: Duration) {
        let Some(ending) = self.ending.as_ref().filter(|_| !self.concluded) else {
            return;
        };
        let orderly = ending.is_orderly();
        if self.armed {
            self.cancel_receive();
            return;
        }
        if !self.is_settled() {
            return;
        }
        if orderly {
            self.report_now(now, false);
            self.outputs.push_back(Output::CopyDone);
        }
        self.concluded = true;
        self.outputs.push_back(Output::End);
    }

    fn is_settled(&self) -> bool {
        let received = self.progress.received();
        let background = self.demand.durability() == Durability::Background;
        let unfinished = self.config.segment_size.start_of(self.files.unfinished);
        !self.carrying
            && self.writes.is_idle()
            && self.sync.is_none()
            && !self.files.changing
            && self.progress.written() == received
            && (background || self.durable == received)
            && unfinished >= self.config.segment_size.floor(received.min(self.completable()))
    }
}
