//! Finding the messages in the byte stream, in place.
//!
//! The socket is read into the very place of a buffer slot where the next WAL byte belongs. A slot
//! then looks like this:
//!
//! ```text
//!            WAL, as the segment holds it       heads and messages, not parsed yet
//!   |-----------------------------------------|-------------------------------|
//!   0                                       place = where `raw` is read to    raw.end
//! ```
//!
//! Inside a payload the socket is asked for what is missing plus the next head: that head lands
//! right behind the payload, is parsed there, and the next payload overwrites it. So no payload
//! byte is moved as long as the server has more to send. When nothing is on its way, more is asked
//! at once, and the few hundred bytes of a commit are moved down by the length of their head.

use std::ops::Range;

use bytes::BytesMut;

use super::message::{FRAME_HEAD, Keepalive, WAL_HEAD, WalHead};
use super::spread::{Arrival, HEADS_LENGTH, Spread};
use crate::error::{Error, Result};

/// Bytes asked for when an unknown message is awaited: room for a commit or a few.
const IDLE_READ: usize = 16 << 10;

/// Longest WAL payload accepted: PostgreSQL sends 16 pages at most, and pages have 64 KiB at most.
const LONGEST_PAYLOAD: u64 = 16 * (64 << 10);

/// Longest other message accepted. Errors and notices are far shorter; what is longer is no
/// PostgreSQL, and memory for it is not given.
const LONGEST_MESSAGE: usize = 64 << 10;

/// What the stream holds next.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// A WAL message begins; its payload follows as [`Frame::Wal`].
    WalHead(WalHead),
    /// So many bytes of WAL now lie in the slot, ending at [`Framer::place`].
    Wal(usize),
    /// The server is alive, and perhaps wants a status.
    Keepalive(Keepalive),
    /// An ErrorResponse, without its head.
    Error(BytesMut),
    /// A NoticeResponse, without its head.
    Notice(BytesMut),
    /// A message that says nothing to a receiver: a changed parameter, a notification.
    Ignored,
    /// The server ended its side of the COPY.
    CopyDone,
    /// A message that ends the COPY and belongs to whoever runs commands; it stays unparsed.
    EndOfCopy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The head of a message is awaited.
    Head,
    /// So many bytes of a WAL payload are missing.
    Payload(u64),
    /// The body of another message: its tag and how many bytes of it are missing.
    Body(u8, usize),
}

/// Splits the stream into frames; see the module's picture.
#[derive(Debug)]
pub struct Framer {
    state: State,
    /// Offset in the slot where the next WAL byte belongs.
    place: usize,
    /// What was received and is not parsed yet; never starts before `place`.
    raw: Range<usize>,
    /// Messages behind `raw` that a spread read has brought.
    arrival: Option<Arrival>,
    /// Bytes of the last WAL payload: in catch-up the next ones have as many.
    usual: u64,
    /// The body that is being collected.
    body: BytesMut,
    /// Payload bytes that had to be moved, ever.
    moved: u64,
}

impl Framer {
    /// A framer at the start of a COPY, whose first WAL byte belongs at `place` of the slot.
    pub fn new(place: usize) -> Framer {
        let body = BytesMut::with_capacity(1 << 10);
        Framer {
            state: State::Head,
            place,
            raw: place..place,
            arrival: None,
            usual: 0,
            body,
            moved: 0,
        }
    }

    /// Where in the slot the next WAL byte belongs.
    pub fn place(&self) -> usize {
        self.place
    }

    /// Payload bytes moved within slots since the start.
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether a WAL payload has begun that is not complete.
    pub fn is_inside_payload(&self) -> bool {
        matches!(self.state, State::Payload(missing) if missing > 0)
    }

    /// Where the socket is to be read to in a slot of `length` bytes whose WAL may reach up to
    /// `limit`; `more_expected` says that the server has more WAL than it sent.
    pub fn ask(&self, limit: usize, length: usize, more_expected: bool) -> Range<usize> {
        let held = self.raw.len();
        let wanted = match self.state {
            State::Payload(missing) if missing > (limit - self.place) as u64 => limit - self.place,
            State::Payload(missing) => missing as usize + WAL_HEAD,
            State::Head if more_expected => WAL_HEAD - held.min(WAL_HEAD - 1),
            State::Head => IDLE_READ,
            State::Body(_, missing) => missing.min(IDLE_READ),
        };
        self.raw.end..length.min(self.raw.end + wanted)
    }

    /// How a read of many messages is spread, if all of them are as long as the last one.
    pub fn spread(&self, limit: usize, length: usize) -> Option<Spread> {
        let State::Payload(missing) = self.state else {
            return None;
        };
        let (first, payload) = (usize::try_from(missing).ok()?, usize::try_from(self.usual).ok()?);
        let usable = first > 0 && self.raw.is_empty();
        usable.then(|| Spread::new(self.place, first, payload, limit, length))?
    }

    /// Takes note of `count` bytes that arrived where `spread` said.
    pub fn arrived_spread(&mut self, spread: Spread, count: usize, heads: &[u8; HEADS_LENGTH]) {
        self.arrival = Arrival::behind_first(spread, heads, count);
        let first = spread.pieces().next().map_or(0, |piece| piece.len());
        self.raw.end += count.min(first);
    }

    /// Takes note of `count` bytes that arrived where [`Framer::ask`] said.
    pub fn arrived(&mut self, count: usize) {
        self.raw.end += count;
    }

    /// The next frame in `slot`, whose WAL may reach up to `limit`; `None` when more bytes, or a
    /// slot with more room, are needed.
    pub fn next(&mut self, slot: &mut [u8], limit: usize) -> Result<Option<Frame>> {
        let frame = match self.state {
            State::Payload(0) => {
                self.state = State::Head;
                match self.next_of_arrival(slot) {
                    Some(frame) => Ok(Some(frame)),
                    None => self.next_head(slot),
                }
            }
            State::Payload(missing) => Ok(self.next_payload(slot, limit, missing)),
            State::Head => self.next_head(slot),
            State::Body(tag, missing) => self.next_body(slot, tag, missing),
        }?;
        if frame.is_none() {
            self.settle(slot);
        }
        Ok(frame)
    }

    /// Moves what is not parsed yet to a fresh slot whose next WAL byte belongs at `place`.
    pub fn carry(&mut self, old: &[u8], new: &mut [u8], place: usize) {
        match self.arrival {
            // A stream that has ended leaves messages unparsed.
            Some(_) => self.carry_bytes(&self.unparsed(old), new, place),
            None => self.carry_bytes(&old[self.raw.clone()], new, place),
        }
    }

    fn carry_bytes(&mut self, bytes: &[u8], new: &mut [u8], place: usize) {
        new[place..place + bytes.len()].copy_from_slice(bytes);
        self.place = place;
        self.raw = place..place + bytes.len();
        self.arrival = None;
    }

    /// So many bytes of a message that has begun are still to be parsed or to come.
    pub fn missing(&self) -> u64 {
        match self.state {
            State::Payload(missing) => missing,
            State::Body(_, missing) => missing as u64,
            State::Head => 0,
        }
    }

    /// The received bytes that belong to whoever runs commands after the COPY.
    pub fn unparsed(&self, slot: &[u8]) -> Vec<u8> {
        let mut bytes = slot[self.raw.clone()].to_vec();
        bytes.extend(self.arrival.iter().flat_map(|arrival| arrival.as_it_came(slot)));
        bytes
    }

    /// The next head of a spread read. If it is not the one that was expected, what arrived is put
    /// together again, to be parsed like anything else.
    fn next_of_arrival(&mut self, slot: &mut [u8]) -> Option<Frame> {
        let mut arrival = self.arrival.take()?;
        match arrival.next_piece() {
            Some((head, piece)) => {
                self.raw = piece;
                self.state = State::Payload(head.payload);
                self.arrival = Some(arrival).filter(|arrival| !arrival.is_done());
                Some(Frame::WalHead(head))
            }
            None => {
                let bytes = arrival.as_it_came(slot);
                self.raw = self.place..self.place + bytes.len();
                slot[self.raw.clone()].copy_from_slice(&bytes);
                self.moved += bytes.len() as u64;
                None
            }
        }
    }

    fn next_payload(&mut self, slot: &mut [u8], limit: usize, missing: u64) -> Option<Frame> {
        let room = limit - self.place;
        let count = self
            .raw
            .len()
            .min(room)
            .min(usize::try_from(missing).unwrap_or(usize::MAX));
        if count == 0 {
            return None;
        }
        if self.raw.start != self.place {
            slot.copy_within(self.raw.start..self.raw.start + count, self.place);
            self.moved += count as u64;
        }
        self.place += count;
        self.raw.start += count;
        self.state = State::Payload(missing - count as u64);
        Some(Frame::Wal(count))
    }

    fn next_head(&mut self, slot: &[u8]) -> Result<Option<Frame>> {
        let raw = &slot[self.raw.clone()];
        let Some((&tag, rest)) = raw.split_first() else {
            return Ok(None);
        };
        let Some(length) = rest.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes)) else {
            return Ok(None);
        };
        if length < 4 {
            return Err(Error::protocol(format!(
                "message {} has the impossible length {length}",
                shown(tag)
            )));
        }
        match tag {
            b'd' => self.next_copy_data(slot, length),
            b'c' if length == 4 => {
                self.raw.start += FRAME_HEAD;
                Ok(Some(Frame::CopyDone))
            }
            b'E' | b'N' | b'S' | b'A' => self.begin_body(slot, tag, length),
            b'C' | b'T' | b'D' | b'Z' => Ok(Some(Frame::EndOfCopy)),
            other => Err(Error::protocol(format!(
                "unexpected message {} in the WAL stream",
                shown(other)
            ))),
        }
    }

    fn next_copy_data(&mut self, slot: &[u8], length: u32) -> Result<Option<Frame>> {
        let raw = &slot[self.raw.clone()];
        match raw.get(FRAME_HEAD) {
            None if length > 4 => Ok(None),
            Some(b'w') if length >= 4 + 25 => {
                let Some(head) = raw.first_chunk::<WAL_HEAD>() else {
                    return Ok(None);
                };
                let head = WalHead::parse(head, length);
                if head.payload > LONGEST_PAYLOAD {
                    let payload = head.payload;
                    return Err(Error::protocol(format!(
                        "WAL message with {payload} bytes: no server sends that"
                    )));
                }
                self.raw.start += WAL_HEAD;
                self.state = State::Payload(head.payload);
                self.usual = head.payload;
                Ok(Some(Frame::WalHead(head)))
            }
            // 's' is the primary's status of PostgreSQL 19, sent on request only: harmless.
            Some(b'k' | b's') if length > 4 => self.begin_body(slot, b'd', length),
            other => {
                let kind = other.map_or("nothing".into(), |&tag| shown(tag));
                Err(Error::protocol(format!(
                    "unrecognized streaming header: {kind} with {length} bytes"
                )))
            }
        }
    }

    fn begin_body(&mut self, slot: &[u8], tag: u8, length: u32) -> Result<Option<Frame>> {
        let length = length as usize - 4;
        if length > LONGEST_MESSAGE {
            let tag = shown(tag);
            return Err(Error::protocol(format!(
                "message {tag} announces {length} bytes: no server sends that"
            )));
        }
        self.raw.start += FRAME_HEAD;
        self.body.clear();
        self.next_body(slot, tag, length)
    }

    fn next_body(&mut self, slot: &[u8], tag: u8, missing: usize) -> Result<Option<Frame>> {
        let count = self.raw.len().min(missing);
        self.body
            .extend_from_slice(&slot[self.raw.start..self.raw.start + count]);
        self.raw.start += count;
        self.state = State::Body(tag, missing - count);
        if count < missing {
            return Ok(None);
        }
        self.state = State::Head;
        match tag {
            b'E' => Ok(Some(Frame::Error(self.body.split()))),
            b'N' => Ok(Some(Frame::Notice(self.body.split()))),
            b'd' if self.body.first() == Some(&b'k') => match Keepalive::parse(&self.body) {
                Some(keepalive) => Ok(Some(Frame::Keepalive(keepalive))),
                None => Err(Error::protocol(format!(
                    "keepalive with {} bytes instead of 18",
                    self.body.len()
                ))),
            },
            _ => Ok(Some(Frame::Ignored)),
        }
    }

    /// Puts what is not parsed yet where the next WAL byte belongs, so that the socket goes on
    /// right behind it. Moves a part of a head at most, or nothing.
    fn settle(&mut self, slot: &mut [u8]) {
        let waits_for_room = self.is_inside_payload() && !self.raw.is_empty();
        if self.raw.start > self.place && !waits_for_room {
            slot.copy_within(self.raw.clone(), self.place);
            self.raw = self.place..self.place + self.raw.len();
        }
    }
}

/// A message's tag for the eye.
fn shown(tag: u8) -> String {
    format!("\"{}\"", tag.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 4096;
    const LENGTH: usize = LIMIT + 512;

    fn wal_head(payload: u32) -> [u8; WAL_HEAD] {
        let mut head = [0; WAL_HEAD];
        head[0] = b'd';
        head[1..5].copy_from_slice(&(4 + 25 + payload).to_be_bytes());
        head[5] = b'w';
        head
    }

    /// A framer that has just parsed the head of a message with so much payload.
    fn inside(payload: u32, slot: &mut [u8]) -> Framer {
        let mut framer = Framer::new(0);
        slot[..WAL_HEAD].copy_from_slice(&wal_head(payload));
        framer.arrived(WAL_HEAD);
        assert!(matches!(framer.next(slot, LIMIT), Ok(Some(Frame::WalHead(_)))));
        assert!(matches!(framer.next(slot, LIMIT), Ok(None)));
        framer
    }

    #[test]
    fn a_busy_server_is_asked_for_one_head_and_a_quiet_one_for_whatever_comes() {
        let framer = Framer::new(100);
        assert_eq!(framer.ask(LIMIT, LENGTH, true), 100..100 + WAL_HEAD);
        assert_eq!(
            framer.ask(LIMIT, LENGTH, false),
            100..LENGTH,
            "but not behind the slot"
        );
    }

    #[test]
    fn inside_a_payload_the_next_head_is_asked_for_too() {
        let mut slot = [0; LENGTH];
        for payload in [1, 300, LIMIT] {
            let framer = inside(payload as u32, &mut slot);
            assert_eq!(framer.ask(LIMIT, LENGTH, true), 0..payload + WAL_HEAD);
        }
    }

    #[test]
    fn a_payload_that_the_slot_cannot_hold_is_asked_for_up_to_the_limit() {
        let mut slot = [0; LENGTH];
        let framer = inside(LIMIT as u32 + 1, &mut slot);
        assert_eq!(framer.ask(LIMIT, LENGTH, true), 0..LIMIT);
    }

    #[test]
    fn behind_other_wal_the_limit_is_as_near_as_that_has_come() {
        let mut slot = [0; LENGTH];
        let mut framer = inside(100 + LIMIT as u32, &mut slot);
        framer.arrived(100);
        assert_eq!(
            framer.next(&mut slot, LIMIT).ok().flatten(),
            Some(Frame::Wal(100))
        );
        assert!(framer.is_inside_payload());
        assert_eq!(framer.ask(LIMIT, LENGTH, true), 100..LIMIT);
    }

    #[test]
    fn of_a_head_that_has_begun_the_rest_is_asked_for() {
        let mut slot = [0; LENGTH];
        let mut framer = Framer::new(10);
        slot[10..22].copy_from_slice(&wal_head(300)[..12]);
        framer.arrived(12);
        assert!(matches!(framer.next(&mut slot, LIMIT), Ok(None)));
        assert_eq!(framer.ask(LIMIT, LENGTH, true), 22..10 + WAL_HEAD);
    }

    #[test]
    fn payload_overwrites_the_head_before_it() {
        let mut slot = [0; LENGTH];
        let mut framer = inside(3, &mut slot);
        slot[..3].copy_from_slice(b"WAL");
        framer.arrived(3);
        assert_eq!(framer.next(&mut slot, LIMIT).ok().flatten(), Some(Frame::Wal(3)));
        assert_eq!((framer.place(), framer.moved()), (3, 0));
    }
}
