//! What became of what the kernel was asked to do on the disk. An error ends the stream: nothing may be acknowledged
//! after it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio_uring::buf::fixed::FixedBuf;

use super::Stream;
use crate::core::lsn::SegmentNumber;
use crate::core::measure::Measure;
use crate::core::writes::Slot;
use crate::error::{Error, Result, system_text};
use crate::ring::durable::Failed;
use crate::ring::flight::{NameOrder, Naming, Syncing, Writing};

impl Stream<'_> {
    /// Takes what the disk has answered; true if it has.
    pub(super) fn poll_disk(&mut self, cx: &mut Context<'_>) -> Result<bool> {
        let written = self.poll_writes(cx)?;
        let synced = self.poll_sync(cx)?;
        let named = self.poll_names(cx)?;
        Ok(written | synced | named)
    }

    fn poll_writes(&mut self, cx: &mut Context<'_>) -> Result<bool> {
        let mut changed = false;
        for index in 0..self.flight.writes.len() {
            let Some(running) = &mut self.flight.writes[index] else {
                continue;
            };
            let Poll::Ready((result, (buffer, _))) = Pin::new(&mut running.write).poll(cx) else {
                continue;
            };
            let Writing {
                segment,
                durable,
                issued,
                ..
            } = *running;
            self.flight.writes[index] = None;
            self.shared.telemetry.disk.answered();
            self.measure_write(durable, self.now() - issued);
            self.written(Slot(index), buffer, segment, result)?;
            changed = true;
        }
        Ok(changed)
    }

    pub(super) fn measure_write(&mut self, durable: bool, took: Duration) {
        if durable {
            self.measure(Measure::DurableWrite(took));
        } else {
            self.measure(Measure::Write(took));
        }
    }

    pub(super) fn measure(&mut self, measure: Measure) {
        self.recorder.record(self.shared.telemetry, measure);
    }

    pub(super) fn written(
        &mut self,
        slot: Slot,
        buffer: FixedBuf,
        segment: SegmentNumber,
        result: std::result::Result<u32, Failed>,
    ) -> Result<()> {
        self.shared.slots.put(slot, buffer);
        let count = result.and_then(none_is_full);
        let count = count.map_err(|failed| self.disk_error(segment, &failed))?;
        self.core.written(self.now(), slot, u64::from(count));
        Ok(())
    }

    fn poll_sync(&mut self, cx: &mut Context<'_>) -> Result<bool> {
        let Some(Syncing {
            segment,
            issued,
            sync,
        }) = &mut self.flight.sync
        else {
            return Ok(false);
        };
        let (segment, issued) = (*segment, *issued);
        let Poll::Ready((result, _)) = Pin::new(sync).poll(cx) else {
            return Ok(false);
        };
        self.flight.sync = None;
        self.shared.telemetry.disk.answered();
        result.map_err(|error| self.disk_error(segment, &Failed::sync(error)))?;
        self.measure(Measure::Sync(self.now() - issued));
        self.core.synced(self.now());
        Ok(true)
    }

    fn poll_names(&mut self, cx: &mut Context<'_>) -> Result<bool> {
        let Some(Naming {
            order,
            issued,
            change,
        }) = &mut self.flight.names
        else {
            return Ok(false);
        };
        let (order, issued) = (*order, *issued);
        let Poll::Ready(result) = Pin::new(change).poll(cx) else {
            return Ok(false);
        };
        self.flight.names = None;
        self.shared.telemetry.disk.answered();
        let (NameOrder::Name(segment) | NameOrder::Finish(segment, _)) = order;
        let result = result.map_err(|error| Failed::rename(io::Error::other(error)));
        result
            .flatten()
            .map_err(|failed| self.disk_error(segment, &failed))?;
        match order {
            NameOrder::Name(_) => self.core.named(self.now()),
            NameOrder::Finish(segment, next) => {
                self.measure(Measure::Rollover(self.now() - issued));
                self.core.finished(self.now(), next);
                self.shared.watch.finished(self.size.end_of(segment));
            }
        }
        Ok(true)
    }

    fn disk_error(&self, segment: SegmentNumber, Failed { verb, error }: &Failed) -> Error {
        let name = self.segments.name_of(segment);
        let message = format!("could not {verb} WAL file \"{name}\": {}", system_text(error));
        match *verb {
            // What a failed sync left undone, the next one would not do either, and succeed.
            "fsync" => Error::disk_broken(message),
            // Nothing was half done: once there is room, the segment is received again.
            _ => Error::of_disk(message, error),
        }
    }
}

/// A write that takes nothing is one on a full disk.
fn none_is_full(count: u32) -> std::result::Result<u32, Failed> {
    if count == 0 {
        Err(Failed::write(io::Error::from_raw_os_error(libc::ENOSPC)))
    } else {
        Ok(count)
    }
}
