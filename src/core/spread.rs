//! Reading many messages at once, each payload in its place.
//!
//! In catch-up the server sends message after message of one size. So one read can be spread over the
//! slot and a small buffer for the heads between:
//!
//! ```text
//!   slot:   | rest of a payload | payload        | payload        | payload, as far as it fits |
//!   heads:                   | head |         | head |         | head |
//! ```
//!
//! Each head is checked when its turn comes. If one is not what was expected, what arrived is put
//! together again as it came, and is parsed byte for byte.

use std::ops::Range;

use super::message::{WAL_HEAD, WalHead};

/// Most heads of one read.
pub const MOST_HEADS: usize = 8;

/// Room for the heads of one read, in bytes.
pub const HEADS_LENGTH: usize = MOST_HEADS * WAL_HEAD;

/// How a read is spread. All offsets are the slot's, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// Where the read begins: inside a payload.
    start: usize,
    /// Bytes missing of that payload.
    first: usize,
    /// Bytes expected of each payload behind it.
    payload: usize,
    /// Where the read ends.
    end: usize,
}

impl Spread {
    /// A read from `start` to at most `limit` of a slot of `length` bytes; `None` if it would hold no
    /// head, or the slot no heads behind the limit, where they go should the guess be wrong.
    pub fn new(start: usize, first: usize, payload: usize, limit: usize, length: usize) -> Option<Spread> {
        if payload == 0 || start + first >= limit || limit + HEADS_LENGTH > length {
            return None;
        }
        let end = limit.min(start + first + MOST_HEADS * payload);
        Some(Spread {
            start,
            first,
            payload,
            end,
        })
    }

    /// Bytes of WAL that are read.
    pub fn wal_length(&self) -> usize {
        self.end - self.start
    }

    /// The parts of the slot that are read to, in order; a head comes between each two.
    pub fn pieces(self) -> impl Iterator<Item = Range<usize>> {
        let Spread {
            start,
            first,
            payload,
            end,
        } = self;
        let rest = (start + first..end)
            .step_by(payload)
            .map(move |from| from..end.min(from + payload));
        std::iter::once(start..start + first).chain(rest)
    }

    /// The part of the heads' buffer that the head before the piece of that number is read to.
    pub fn head_before(piece: usize) -> Range<usize> {
        (piece - 1) * WAL_HEAD..piece * WAL_HEAD
    }
}

/// What a spread read has brought and is not parsed yet: it begins with the head before a piece.
#[derive(Debug)]
pub struct Arrival {
    spread: Spread,
    heads: [u8; HEADS_LENGTH],
    /// The number of the next piece.
    piece: usize,
    /// Bytes from its head on.
    bytes: usize,
}

impl Arrival {
    /// What lies behind the first piece of a read that brought `count` bytes.
    pub fn behind_first(spread: Spread, heads: &[u8; HEADS_LENGTH], count: usize) -> Option<Arrival> {
        let bytes = count.checked_sub(spread.first).filter(|&bytes| bytes > 0)?;
        Some(Arrival {
            spread,
            heads: *heads,
            piece: 1,
            bytes,
        })
    }

    /// The next head and the bytes of its payload that lie in place, if the guess was right.
    pub fn next_piece(&mut self) -> Option<(WalHead, Range<usize>)> {
        let head = self.heads[Spread::head_before(self.piece)].first_chunk::<WAL_HEAD>()?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let is_wal = self.bytes >= WAL_HEAD && (head[0], head[5]) == (b'd', b'w');
        let head = WalHead::parse(head, length);
        if !is_wal || length < 4 + 25 || head.payload != self.spread.payload as u64 {
            return None;
        }
        let piece = self.spread.pieces().nth(self.piece)?;
        let arrived = piece.len().min(self.bytes - WAL_HEAD);
        self.bytes -= WAL_HEAD + arrived;
        self.piece += 1;
        Some((head, piece.start..piece.start + arrived))
    }

    /// Whether everything has been parsed.
    pub fn is_done(&self) -> bool {
        self.bytes == 0
    }

    /// Heads and pieces, as far as they are not parsed, in the order in which they came.
    pub fn as_it_came(&self, slot: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.bytes + self.spread.payload);
        for (number, piece) in self.spread.pieces().enumerate().skip(self.piece) {
            bytes.extend_from_slice(&self.heads[Spread::head_before(number)]);
            bytes.extend_from_slice(&slot[piece]);
        }
        bytes.truncate(self.bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_fill_the_slot_up_to_the_limit() {
        let spread = Spread::new(100, 50, 300, 1000, 2000).unwrap();
        let pieces: Vec<_> = spread.pieces().collect();
        assert_eq!(pieces, [100..150, 150..450, 450..750, 750..1000]);
        assert_eq!(spread.wal_length(), 900);
    }

    #[test]
    fn a_read_has_no_more_heads_than_there_is_room_for() {
        let spread = Spread::new(0, 10, 10, 10_000, 20_000).unwrap();
        assert_eq!(spread.pieces().count(), 1 + MOST_HEADS);
        assert_eq!(Spread::new(0, 10, 10, 10_000, 10_000 + HEADS_LENGTH - 1), None);
        assert_eq!(
            Spread::new(0, 100, 10, 100, 20_000),
            None,
            "no head would be read"
        );
    }

    #[test]
    fn a_wrong_guess_is_given_back_as_it_came_wherever_the_read_ends() {
        let spread = Spread::new(0, 10, 100, 260, 1000).unwrap();
        let stream: Vec<u8> = (0..=255)
            .cycle()
            .take(10 + 30 + 100 + 30 + 100 + 30 + 50)
            .collect();
        for count in 11..=stream.len() {
            let (mut slot, mut heads) = (vec![0; 1000], [0; HEADS_LENGTH]);
            let mut left = &stream[..count];
            for (number, piece) in spread.pieces().enumerate() {
                if number > 0 {
                    let (head, rest) = left.split_at(left.len().min(WAL_HEAD));
                    heads[Spread::head_before(number)][..head.len()].copy_from_slice(head);
                    left = rest;
                }
                let (body, rest) = left.split_at(left.len().min(piece.len()));
                slot[piece.start..piece.start + body.len()].copy_from_slice(body);
                left = rest;
            }
            let mut arrival = Arrival::behind_first(spread, &heads, count).unwrap();
            assert_eq!(arrival.next_piece(), None, "no head in there");
            assert!(arrival.as_it_came(&slot) == stream[10..count], "{count}");
        }
    }
}
