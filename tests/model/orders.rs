//! Carries out the receiver's orders, and checks each one.
//!
//! The checks use the server's bytes and the model disk only, never the core's own positions.

use std::time::Duration;

use walring::core::demand::Durability;
use walring::core::lsn::{Lsn, SegmentNumber};
use walring::core::message::Status;
use walring::core::order::{Ask, Ending, Output, Write};
use walring::core::receiver::Receiver;
use walring::core::writes::Slot;

use super::disk::Name;
use super::setup::Operation;
use super::stream::keepalive_body;
use super::world::{End, Event, Flight, World};
use super::{START, at, common_prefix, is_zero, offset, segment_size};

/// For so long the socket may rest without anything important waiting there.
const SHORT_REST: Duration = Duration::from_millis(20);

impl World {
    /// Takes orders until there are none, then reads the socket if it is to be read.
    pub(super) fn settle(&mut self) {
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
        let ask = self.receiver.as_mut().and_then(|receiver| receiver.arm(now));
        let Some(Ask {
            slot,
            range,
            certain,
            spread,
        }) = ask
        else {
            return;
        };
        let announced = self.running().server_end().bytes_since(self.delivered_end());
        assert!(
            !certain || range.len() as u64 <= announced,
            "waits for {range:?}, the server has told of {announced} bytes"
        );
        assert!(self.armed.is_none(), "one read at a time");
        assert!(!self.receiver().is_ending(), "nothing is read behind the end");
        assert!(
            !certain || range.len() as u64 <= self.lag(),
            "a read waits for {range:?}, the server told of {} bytes",
            self.lag()
        );
        assert!(
            !range.is_empty() && range.end <= self.slots[slot.0].len(),
            "{range:?}"
        );
        self.assert_not_in_flight(slot);
        if now > self.last_read + SHORT_REST {
            self.listening = now;
        }
        self.armed = Some((slot, range));
        self.spread = spread;
        self.expect_delivery();
    }

    /// Bytes of WAL that the server has told of and that have not arrived.
    fn lag(&self) -> u64 {
        let receiver = self.receiver();
        receiver.server_end().bytes_since(receiver.progress().received())
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
            Output::Measured(measure) => self.measured(measure),
            Output::Committed(time) => self.committed(time),
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
        self.ordered_end = self.ordered_end.max(from + bytes.len());
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
        let valid = common_prefix(bytes, &self.disk.wal()[range.clone()]);
        assert!(
            valid >= common_prefix(held, &self.disk.wal()[range]),
            "bytes of the file would be lost at {}",
            at((from + valid) as u64)
        );
        assert!(
            is_zero(&bytes[valid..]),
            "neither WAL nor zero at {}",
            at((from + valid) as u64)
        );
        let known = self.delivered_end().max(self.setup.config.preserve_end);
        // Zeros at the end may be those of the WAL, or those of a file that holds nothing yet.
        let last = bytes[..valid].iter().rposition(|&byte| byte != 0);
        let sure = last.map_or(0, |last| from + last + 1);
        assert!(offset(known) >= sure, "WAL out of nothing");
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
        assert!(self.has_data(segment), "a name for an empty file");
        self.schedule(Operation::Names, Event::Named(segment));
    }

    fn finish(&mut self, segment: SegmentNumber, next: bool) {
        self.begin_change_of_names(segment);
        assert_eq!(self.disk.name(segment), Name::Partial);
        assert!(
            self.disk.is_segment_durable(segment),
            "segment {segment:?} is finished before its bytes are there"
        );
        self.check_completion(segment);
        let has_data = !next || self.has_data(segment.next());
        assert!(has_data, "a name for an empty file");
        self.schedule(Operation::Names, Event::Finished(segment, next));
    }

    fn has_data(&self, segment: SegmentNumber) -> bool {
        self.ordered_end > self.disk.range_of(segment).start
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
            self.check_claim(flushed);
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
        let verified = receiver.progress().verified();
        let (ending, unparsed, decoder) = receiver.into_ending(&self.slots[slot.0]);
        assert_eq!(decoder.is_some(), self.setup.config.decoder.is_some());
        let position = decoder.map_or(verified, |decoder| decoder.position());
        assert!(position <= verified, "the next stream would begin at {position}");
        assert!(
            unparsed == self.tail_of_delivered(unparsed.len()),
            "unparsed bytes are others"
        );
        self.check_end(received, &ending);
        self.end = Some(End {
            at: self.now,
            ending,
            unparsed,
        });
    }

    /// What was received is where the policy wants it before the end, and behind it there is nothing.
    fn check_end(&mut self, received: Lsn, ending: &Ending) {
        let complete = segment_size().floor(received);
        let first = segment_size().segment_of(START);
        let mut named = START;
        for (index, &name) in self.disk.names().iter().enumerate() {
            let segment = SegmentNumber(first.0 + index as u64);
            let expected = name == Name::Final || !self.must_be_finished(segment, received, ending);
            assert!(expected, "segment {index} is not finished: {name:?}");
            if name != Name::None {
                named = segment_size().end_of(segment);
            }
        }
        let durable_to = if self.setup.config.durability == Durability::Background {
            assert!(self.disk.written_end() >= received);
            complete
        } else {
            received
        };
        assert!(
            self.disk.durable_bytes_end() >= durable_to,
            "the end came before the disk"
        );
        assert!(self.disk.durable_end() >= durable_to.min(named));
        let end = offset(received.max(self.setup.config.preserve_end));
        let rest = self
            .disk
            .content(end..end.next_multiple_of(segment_size().bytes() as usize));
        assert!(is_zero(rest), "the tail is not zero");
    }
}
