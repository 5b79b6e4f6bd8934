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

mod ending;
mod orders;
mod reading;
mod results;

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::contract::{Channel, Ended, Shared};
use super::flight::Flight;
use super::link::Link;
use super::segment::Segments;
use super::shown::Shown;
use super::timer::Timer;
use crate::core::lsn::SegmentSize;
use crate::core::order::{Config, Output};
use crate::core::receiver::Receiver;
use crate::core::spin::Spin;
use crate::core::telemetry::Recorder;
use crate::error::{Error, Result};

/// The next commit is waited for in place so long; a stream with longer pauses waits through the ring.
const LINGER: Duration = Duration::from_millis(10);

/// Signals and background tasks are looked after at least so often while the thread does not sleep.
const LONGEST_UNPARKED: Duration = Duration::from_millis(20);

/// So long the server may take to read what was said last.
const FAREWELL: Duration = Duration::from_millis(300);

/// Receives one stream until it ends. An error is one of the disk's, after which nothing more may be
/// acknowledged.
pub async fn run(config: Config, segments: Segments, channel: Channel, shared: Shared<'_>) -> Result<Ended> {
    let mut stream = Stream::new(config, segments, channel, shared);
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
        Err(error) => Err(stream.fail(error)),
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
    /// What failed after the stream.
    late: Option<Error>,
    shared: Shared<'a>,
}

impl<'a> Stream<'a> {
    fn new(config: Config, segments: Segments, channel: Channel, shared: Shared<'a>) -> Stream<'a> {
        let size = config.segment_size;
        let core = Receiver::new(config, Duration::ZERO);
        Stream {
            shown: Shown::new(&core),
            core,
            flight: Flight::new(shared.slots),
            link: Link::new(channel.socket, channel.tls),
            segments,
            size,
            early: channel.unread,
            postponed: None,
            timer: Timer::default(),
            began: Instant::now(),
            lingers: false,
            armed: Duration::ZERO,
            parked: Duration::ZERO,
            ended: false,
            spin: Spin::new(shared.spin),
            recorder: Recorder::new(),
            late: None,
            shared,
        }
    }
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
        let done = self.poll_disk(cx)?;
        let sent = self.link.poll_send(cx);
        let prepared = self.poll_segments(cx);
        Ok(received | done | sent | prepared)
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
}
