//! The loop: carries out what the core orders, and reports what became of it.
//!
//! One task, one future, no allocation per message. Each turn polls what is in flight, hands results
//! to the core, carries out its orders, and arms the socket; submissions go out together when the
//! thread parks.
//!
//! Three calls go past the ring, because each saves wake-ups or turns of the runtime, which cost more
//! than the call (perf/README.md has the numbers):
//!
//! - A status is sent with a call that does not block: a send through the ring brings a completion
//!   that nobody waits for.
//! - While the disk is quick, a durable write in live mode is waited for in place. Nothing else would
//!   happen meanwhile: one durable write is in flight at a time and the socket rests. Through the
//!   ring a kernel worker would wait for the flush and then wake us.
//! - While commits come within 10 ms of each other on such a disk, the next one is waited for in place,
//!   too: one call where the runtime needs six.

mod reading;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio_uring::buf::fixed::FixedBuf;
use tokio_uring::fs::File;

use super::contract::{Channel, Ended, Shared};
use super::durable::{self, Failed};
use super::flight::{Flight, NameOrder, Naming, Syncing, Writing};
use super::link::Link;
use super::op;
use super::segment::{NameChange, Segments};
use super::shown::{POSTGRES_EPOCH_US, Shown, unix_us};
use super::timer::Timer;
use crate::core::lsn::{SegmentNumber, SegmentSize};
use crate::core::measure::Measure;
use crate::core::message::{COPY_DONE, Status};
use crate::core::order::{Config, Output, Write};
use crate::core::receiver::Receiver;
use crate::core::spin::Spin;
use crate::core::telemetry::Recorder;
use crate::core::writes::Slot;
use crate::error::{Error, Result, system_text};

/// The next commit is waited for in place so long; a stream with longer pauses waits through the ring.
const LINGER: Duration = Duration::from_millis(10);

/// Signals and background tasks are looked after at least so often while the thread does not sleep.
const LONGEST_UNPARKED: Duration = Duration::from_millis(20);

/// So long the server may take to read what was said last.
const FAREWELL: Duration = Duration::from_millis(300);

/// Receives one stream until it ends. An error is one of the disk's, after which nothing more may be
/// acknowledged.
pub async fn run(config: Config, segments: Segments, channel: Channel, shared: Shared<'_>) -> Result<Ended> {
    let size = config.segment_size;
    let core = Receiver::new(config, Duration::ZERO);
    let mut stream = Stream {
        shown: Shown::new(&core),
        core,
        flight: Flight::new(shared.slots),
        link: Link::new(channel.socket, channel.tls),
        segments,
        size,
        early: channel.unread,
        postponed: None,
        awaits_file: false,
        timer: Timer::default(),
        began: Instant::now(),
        lingers: false,
        armed: Duration::ZERO,
        parked: Duration::ZERO,
        ended: false,
        spin: Spin::new(shared.spin),
        recorder: Recorder::new(),
        shared,
    };
    stream.load_prefix()?;
    let result = poll_fn(|cx| stream.turn(cx)).await;
    let latest = stream.now() + FAREWELL;
    poll_fn(|cx| stream.say_last(cx, latest)).await;
    poll_fn(|cx| stream.land(cx)).await;
    stream.shared.telemetry.disk.close();
    stream.publish();
    stream.recorder.finish(stream.shared.telemetry);
    match result {
        Ok(()) => stream.conclude(),
        Err(error) => {
            stream.segments.end();
            Err(error)
        }
    }
}

struct Stream<'a> {
    core: Receiver,
    flight: Flight,
    link: Link,
    segments: Segments,
    size: SegmentSize,
    /// What was read before the stream began and is not handed to the core yet.
    early: BytesMut,
    /// An order that waits for its segment's file to be prepared.
    postponed: Option<Output>,
    /// The disk has been asked for the file that it waits for.
    awaits_file: bool,
    timer: Timer,
    began: Instant,
    /// Whether the last bytes came soon after they were waited for.
    lingers: bool,
    /// When the socket was last read through the ring.
    armed: Duration,
    /// When the thread last went to sleep.
    parked: Duration,
    ended: bool,
    spin: Spin,
    recorder: Recorder,
    shown: Shown,
    shared: Shared<'a>,
}

impl Stream<'_> {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// One turn: everything that can be done without waiting.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            let mut changed = self.poll_flight(cx)?;
            self.segments
                .look(self.began.elapsed(), self.flight.names.is_none())?;
            if self.shared.stop.poll_requested(cx) {
                changed |= self.stop_once();
            }
            while let Some(order) = self.next_order() {
                let done = self.carry_out(order)?;
                self.await_file(!done);
                if !done {
                    changed |= self.poll_segments(cx);
                    break;
                }
                changed = true;
            }
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            if self.linger() {
                self.publish();
                continue;
            }
            changed |= self.arm();
            if !changed && !self.poll_timer(cx) {
                self.parked = self.now();
                self.publish();
                return Poll::Pending;
            }
        }
    }

    /// Shows other threads how far the stream is.
    fn publish(&mut self) {
        let telemetry = self.shared.telemetry;
        self.shown.update(&self.core, telemetry);
        self.recorder.settle(telemetry);
    }

    fn poll_flight(&mut self, cx: &mut Context<'_>) -> Result<bool> {
        let received = self.poll_receive(cx);
        let written = self.poll_writes(cx)?;
        let synced = self.poll_sync(cx)?;
        let named = self.poll_names(cx)?;
        let sent = self.link.poll_send(cx);
        let prepared = self.poll_segments(cx);
        Ok(received | written | synced | named | sent | prepared)
    }

    fn poll_segments(&mut self, cx: &mut Context<'_>) -> bool {
        let allowance = self.core.zeroing_allowance();
        let (now, slots) = (self.began.elapsed(), &mut *self.shared.slots);
        let changed = self.segments.poll(cx, now, slots, allowance);
        if changed {
            self.shared
                .telemetry
                .set_missing_room(self.segments.missing_room());
        }
        changed
    }

    /// Whether an order waits for the disk to prepare a file.
    fn await_file(&mut self, waits: bool) {
        match (self.awaits_file, waits) {
            (false, true) => self.shared.telemetry.disk.asked(),
            (true, false) => self.shared.telemetry.disk.answered(),
            _ => {}
        }
        self.awaits_file = waits;
    }

    fn next_order(&mut self) -> Option<Output> {
        self.postponed.take().or_else(|| self.core.poll())
    }

    fn stop_once(&mut self) -> bool {
        let first = !self.core.is_ending();
        if first {
            self.core.stop(self.now());
        }
        first
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let (now, deadline) = (self.now(), self.core.deadline());
        let look = self.segments.next_look();
        let next = deadline.map_or(look, |deadline| deadline.min(look));
        let fired = self.timer.poll(cx, now, Some(next));
        if deadline.is_some_and(|deadline| deadline <= now) {
            self.core.tick(now);
        }
        fired
    }

    // ---- results ----

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

    fn measure_write(&mut self, durable: bool, took: Duration) {
        if durable {
            self.measure(Measure::DurableWrite(took));
        } else {
            self.measure(Measure::Write(took));
        }
    }

    fn measure(&mut self, measure: Measure) {
        self.recorder.record(self.shared.telemetry, measure);
    }

    fn written(
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

    // ---- orders ----

    /// Carries out an order; false if it has to wait for a file to be prepared.
    fn carry_out(&mut self, order: Output) -> Result<bool> {
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

    // ---- the end ----

    /// Waits until all that was said has left, at most until then: a server may read nothing more.
    fn say_last(&mut self, cx: &mut Context<'_>, latest: Duration) -> Poll<()> {
        loop {
            while self.link.poll_send(cx) {}
            if !self.link.is_sending() || self.now() >= latest {
                return Poll::Ready(());
            }
            let now = self.now();
            if !self.timer.poll(cx, now, Some(latest)) {
                return Poll::Pending;
            }
        }
    }

    /// Waits until the kernel has given back every slot.
    fn land(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_cancel(cx);
        if self.flight.receive.is_some() && self.flight.cancel.is_none() {
            self.flight.cancel = Some(self.link.cancel());
        }
        if let Some((slot, receive)) = &mut self.flight.receive
            && let Poll::Ready((result, reading)) = Pin::new(receive).poll(cx)
        {
            let mut buffer = reading.buffer;
            let _ = self.link.received(result, &mut buffer, reading.sealed);
            self.shared.slots.put(*slot, buffer);
            self.flight.receive = None;
        }
        // The results of a stream that has failed do not count; those of one that has ended are in.
        for index in 0..self.flight.writes.len() {
            if let Some(running) = &mut self.flight.writes[index]
                && let Poll::Ready((_, (buffer, _))) = Pin::new(&mut running.write).poll(cx)
            {
                self.shared.slots.put(Slot(index), buffer);
                self.shared.telemetry.disk.answered();
                self.flight.writes[index] = None;
            }
        }
        if self.segments.is_zeroing() {
            self.segments.poll(cx, self.began.elapsed(), self.shared.slots, 0);
        }
        let landed = self.flight.receive.is_none()
            && self.flight.writes.iter().all(Option::is_none)
            && !self.segments.is_zeroing();
        if landed { Poll::Ready(()) } else { Poll::Pending }
    }

    fn conclude(self) -> Result<Ended> {
        let received = self.core.progress().received();
        let slot = self.core.receiving_slot();
        let buffer = self.shared.slots.take(slot);
        let missing = self.core.missing();
        let (ending, mut unread, decoder) = self.core.into_ending(&buffer);
        unread.extend_from_slice(&self.early);
        self.shared.slots.put(slot, buffer);
        Ok(Ended {
            ending,
            received,
            channel: self.link.into_channel(BytesMut::from(&unread[..]))?,
            missing,
            partial: self.segments.end(),
            decoder,
        })
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
