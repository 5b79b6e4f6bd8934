//! Carrying out what the core orders.

use std::rc::Rc;
use std::time::Duration;

use tokio_uring::fs::File;

use super::Stream;
use crate::core::lsn::SegmentNumber;
use crate::core::measure::Measure;
use crate::core::message::{COPY_DONE, Status};
use crate::core::order::{Output, Write};
use crate::core::writes::Slot;
use crate::error::Result;
use crate::ring::flight::{NameOrder, Naming, Syncing, Writing};
use crate::ring::segment::NameChange;
use crate::ring::shown::{POSTGRES_EPOCH_US, unix_us};
use crate::ring::{durable, op};

impl Stream<'_> {
    /// Carries out an order; false if it has to wait for a file to be prepared.
    pub(super) fn carry_out(&mut self, order: Output) -> Result<bool> {
        match order {
            Output::Write(write) => return self.order_write(write),
            Output::Carry { from, to } => self.carry(from, to),
            Output::CancelReceive => self.flight.cancel = Some(self.link.cancel()),
            Output::Sync(segment) => return self.order_sync(segment),
            Output::Name(segment) => {
                let change = self.segments.name(segment);
                self.change_names(NameOrder::Name(segment), change);
            }
            Output::Finish { segment, next } => {
                let change = self.segments.finish(segment, next);
                self.change_names(NameOrder::Finish(segment, next), change);
            }
            Output::Close(segment) => self.segments.close(segment),
            Output::Status(status) => self.send_status(&status),
            Output::CopyDone => self.link.send(&COPY_DONE),
            Output::Measured(measure) => self.measure(measure),
            Output::Committed(committed_us) => self.committed(committed_us),
            Output::Notice(body) => self.shared.watch.notice(&body),
            Output::End => self.ended = true,
        }
        Ok(true)
    }

    fn change_names(&mut self, order: NameOrder, change: NameChange) {
        self.shared.telemetry.disk.asked();
        self.flight.names = Some(Naming {
            order,
            issued: self.now(),
            change,
        });
    }

    fn carry(&mut self, from: Slot, to: Slot) {
        let slots = &mut *self.shared.slots;
        let (mut old, mut new) = (slots.take(from), slots.take(to));
        self.core.carry(self.began.elapsed(), &mut old, &mut new);
        slots.put(from, old);
        slots.put(to, new);
    }

    fn order_write(&mut self, order: Write) -> Result<bool> {
        let segment = self.size.segment_of(order.position);
        let Some(file) = self.file(segment)? else {
            self.postponed = Some(Output::Write(order));
            return Ok(false);
        };
        let offset = self.size.offset_of(order.position);
        let Write {
            slot,
            range,
            durable,
            keep_from,
            ..
        } = order;
        let mut buffer = self.shared.slots.take(slot);
        if let Some(from) = keep_from {
            let kept = self.segments.keep(
                segment,
                &mut buffer[from..range.end],
                offset + (from - range.start) as u64,
            );
            if let Err(error) = kept {
                self.shared.slots.put(slot, buffer);
                return Err(error);
            }
        }
        let issued = self.now();
        let method = self.shared.durable_method;
        self.shared.telemetry.disk.asked();
        if durable && self.core.is_disk_quick() {
            let result = durable::write_in_place(&file, &buffer[range], offset, method);
            self.shared.telemetry.disk.answered();
            self.measure_write(durable, self.now() - issued);
            self.written(slot, buffer, segment, result)?;
            return Ok(true);
        }
        let write = durable::write(&file, buffer, range, offset, durable.then_some(method));
        self.flight.writes[slot.0] = Some(Writing {
            segment,
            durable,
            issued,
            write,
        });
        Ok(true)
    }

    fn order_sync(&mut self, segment: SegmentNumber) -> Result<bool> {
        let Some(file) = self.file(segment)? else {
            self.postponed = Some(Output::Sync(segment));
            return Ok(false);
        };
        self.shared.telemetry.disk.asked();
        self.flight.sync = Some(Syncing {
            segment,
            issued: self.now(),
            sync: op::sync_data(&file),
        });
        Ok(true)
    }

    fn file(&mut self, segment: SegmentNumber) -> Result<Option<Rc<File>>> {
        self.segments.file(segment, self.began.elapsed())
    }

    fn send_status(&mut self, status: &Status) {
        self.link
            .send_status(&status.encode(unix_us() - POSTGRES_EPOCH_US));
        // Readers must not see more reported than flushed.
        self.shared.telemetry.flushed.set(self.core.progress().flushed());
        self.shared.telemetry.reported.set(status.flushed);
    }

    /// A transaction is durable that the server committed then, by its clock, which may say anything.
    fn committed(&mut self, committed_us: i64) {
        let committed = committed_us.saturating_add(POSTGRES_EPOCH_US);
        let took = unix_us().saturating_sub(committed);
        let took = Duration::from_micros(u64::try_from(took).unwrap_or(0));
        self.shared.telemetry.last_commit.set(committed);
        self.measure(Measure::Commit(took));
    }
}
