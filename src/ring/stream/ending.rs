//! The end of a stream: what was said last leaves, the kernel gives back what it has, and so does the stream.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;

use super::Stream;
use crate::core::writes::Slot;
use crate::error::Result;
use crate::ring::contract::Ended;

impl Stream<'_> {
    /// Waits until all that was said has left, at most until then: a server may read nothing more.
    pub(super) fn say_last(&mut self, cx: &mut Context<'_>, latest: Duration) -> Poll<()> {
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
    pub(super) fn land(&mut self, cx: &mut Context<'_>) -> Poll<()> {
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

    pub(super) fn conclude(self) -> Result<Ended> {
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
