//! How a stream reads its socket: what was read already comes first, the next commit is waited for in place where that
//! is quicker, and everything else goes through the ring.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::{LINGER, LONGEST_UNPARKED, Stream};
use crate::core::order::Ask;
use crate::core::receiver::HUNG_UP;
use crate::core::spread::HEADS_LENGTH;
use crate::error::{Error, Result, system_text};
use crate::ring::op;

impl Stream<'_> {
    /// A stream that begins within a block goes on with what the file holds of it.
    pub(super) fn load_prefix(&mut self) -> Result<()> {
        let (slot, base, length) = self.core.prefix();
        let (segment, offset) = (self.size.segment_of(base), self.size.offset_of(base));
        let mut buffer = self.shared.slots.take(slot);
        let loaded = self.segments.keep(segment, &mut buffer[..length], offset);
        self.shared.slots.put(slot, buffer);
        loaded
    }

    /// Hands the core some of what was read before, as if it arrived now; false if there is no room for it yet.
    fn feed(&mut self) -> bool {
        let Some(Ask { slot, range, .. }) = self.core.arm_for_early(self.now()) else {
            return false;
        };
        let mut buffer = self.shared.slots.take(slot);
        match self.take_early(&mut buffer[range]) {
            Ok(count) => self.core.received_early(self.now(), count, &mut buffer),
            Err(error) => self.receive_failed(&error),
        }
        self.shared.slots.put(slot, buffer);
        true
    }

    /// Some of what was read before: how many bytes.
    fn take_early(&mut self, target: &mut [u8]) -> io::Result<usize> {
        if self.early.is_empty() {
            return self.link.open(target)?.ok_or_else(op::nothing_yet);
        }
        let count = target.len().min(self.early.len());
        target[..count].copy_from_slice(&self.early.split_to(count));
        Ok(count)
    }

    /// How the core wants the socket to be read. What has to be opened lies in one piece.
    fn ask(&mut self) -> Option<Ask> {
        let now = self.now();
        match self.link.is_encrypted() {
            true => self.core.arm_for_early(now),
            false => self.core.arm(now),
        }
    }

    /// While commits follow each other closely and the disk is quick, waits for the next one in place.
    /// True if something arrived. The thread still parks now and then, for signals and the like.
    pub(super) fn linger(&mut self) -> bool {
        let now = self.now();
        if !self.lingers
            || !self.core.is_disk_quick()
            || !self.is_at_rest()
            || now - self.parked > LONGEST_UNPARKED
        {
            return false;
        }
        let due = self
            .core
            .deadline()
            .map_or(LINGER, |deadline| deadline.saturating_sub(now));
        let spin = self.spin.budget();
        let came = spin.is_some_and(|limit| self.link.spin(limit.min(due)));
        self.lingers = came || self.link.wait(LINGER.min(due));
        self.spin.waited(self.now() - now, spin.is_some());
        if !self.lingers {
            return false;
        }
        let Some(Ask {
            slot,
            range,
            spread: None,
            ..
        }) = self.ask()
        else {
            return false;
        };
        let mut buffer = self.shared.slots.take(slot);
        match self.link.receive_now(&mut buffer[range]) {
            Ok(count) => self
                .core
                .received(self.now(), count, &mut buffer, &[0; HEADS_LENGTH]),
            Err(error) => self.receive_failed(&error),
        }
        self.shared.slots.put(slot, buffer);
        true
    }

    /// Whether nothing but the socket can bring news.
    fn is_at_rest(&self) -> bool {
        self.flight.is_empty()
            && self.postponed.is_none()
            && !self.link.is_sending()
            && !self.link.has_more()
            && !self.segments.is_preparing()
            && self.core.is_live()
            && !self.core.is_ending()
    }

    pub(super) fn arm(&mut self) -> bool {
        if self.flight.cancel.is_some() {
            return false;
        }
        if !self.early.is_empty() || self.link.has_more() {
            return self.feed();
        }
        self.link.expect(self.core.is_bulk());
        let Some(ask) = self.ask() else {
            return false;
        };
        let slot = ask.slot;
        self.armed = self.now();
        let buffer = self.shared.slots.take(slot);
        let receive = self.link.receive(buffer, ask);
        self.flight.receive = Some((slot, receive));
        true
    }

    pub(super) fn poll_cancel(&mut self, cx: &mut Context<'_>) {
        if let Some(cancel) = &mut self.flight.cancel
            && Pin::new(cancel).poll(cx).is_ready()
        {
            self.flight.cancel = None;
        }
    }

    pub(super) fn poll_receive(&mut self, cx: &mut Context<'_>) -> bool {
        self.poll_cancel(cx);
        let Some((slot, receive)) = &mut self.flight.receive else {
            return false;
        };
        let slot = *slot;
        let Poll::Ready((result, reading)) = Pin::new(receive).poll(cx) else {
            return false;
        };
        self.flight.receive = None;
        let op::Reading {
            mut buffer,
            scratch,
            sealed,
            ..
        } = reading;
        let now = self.now();
        match self.link.received(result, &mut buffer, sealed) {
            // Whoever has withdrawn the read waits for its end, and withdraws no other.
            Ok(None) if self.flight.cancel.is_some() || self.core.is_cancelling() => {
                self.core.receive_cancelled(now);
            }
            Ok(None) => {
                let receive = self.link.receive_again(buffer, scratch);
                self.flight.receive = Some((slot, receive));
                return true;
            }
            Ok(Some(count)) => {
                self.lingers = now - self.armed <= LINGER;
                self.core.received(now, count, &mut buffer, &scratch.heads);
                self.shared
                    .watch
                    .progress(now, self.core.progress().received(), self.core.server_end());
            }
            Err(error) => self.receive_failed(&error),
        }
        self.shared.slots.put(slot, buffer);
        self.link.put_back(scratch);
        true
    }

    fn receive_failed(&mut self, error: &io::Error) {
        let now = self.now();
        if op::is_interruption(error) {
            self.core.receive_cancelled(now);
        } else {
            let message = match error.kind() {
                io::ErrorKind::ConnectionReset => HUNG_UP.to_owned(),
                _ => format!("could not receive data from WAL stream: {}", system_text(error)),
            };
            self.core.receive_failed(now, Error::connection(message));
        }
    }
}
