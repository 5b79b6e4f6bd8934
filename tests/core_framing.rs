//! Messages are found in the stream however the network splits it, and WAL lands in its place.

mod model;

use std::collections::VecDeque;

use model::stream::{Stream, keepalive_body};
use model::world::scatter;
use model::{Rng, START, Seed, at, offset, seeds, wal};
use walring::core::framing::{Frame, Framer};
use walring::core::lsn::Lsn;
use walring::core::message::WAL_HEAD;
use walring::core::spread::{HEADS_LENGTH, Spread};
use walring::error::Error;

/// What a stream turned out to hold, besides its WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Head(Lsn, Lsn, u64),
    Keepalive(Lsn, bool),
    Error(Vec<u8>),
    Notice(Vec<u8>),
    Ignored,
    CopyDone,
    EndOfCopy,
}

/// Sizes of the slots that a stream is framed into.
#[derive(Debug, Clone, Copy)]
struct Slots {
    block: usize,
    window: usize,
    segment: usize,
    /// The server says it has more than it sent.
    more_expected: bool,
    /// The server says it has so much more that several messages are read at once.
    spread: bool,
    /// So often in a hundred reads receiving goes on in another slot although this one is not full.
    early_carries: u64,
}

/// Small enough that short streams cross slots and segments.
const SMALL: Slots = Slots {
    block: 512,
    window: 1024,
    segment: 1536,
    more_expected: false,
    spread: false,
    early_carries: 0,
};

/// Receives as the receiver does, without a disk: what is in a slot that is left was in its place.
struct Reader {
    framer: Framer,
    slots: Slots,
    slot: Vec<u8>,
    /// Where the slot's first byte belongs.
    base: Lsn,
    received: Lsn,
    seen: Vec<Seen>,
    rng: Rng,
}

impl Reader {
    fn new(slots: Slots, seed: u64) -> Reader {
        Reader {
            framer: Framer::new(0),
            slots,
            slot: vec![0xAA; slots.window + slots.block],
            base: START,
            received: START,
            seen: Vec::new(),
            rng: Rng::new(seed),
        }
    }

    /// Whether a message has begun that is not complete.
    fn is_inside_message(&self) -> bool {
        self.framer.missing() > 0 || !self.framer.unparsed(&self.slot).is_empty()
    }

    fn limit(&self) -> usize {
        let rest = self.slots.segment - offset(self.base) % self.slots.segment;
        rest.min(self.slots.window)
    }

    /// Reads all of `raw`; no read goes beyond one of the `ends`.
    fn read(&mut self, raw: &[u8], ends: impl IntoIterator<Item = usize>) -> Result<(), Error> {
        let mut ends: VecDeque<usize> = ends.into_iter().chain([raw.len()]).collect();
        let mut from = 0;
        while from < raw.len() {
            if let Some(spread) = self.spread() {
                let pieces = spread.pieces().count();
                let asked = spread.wal_length() + (pieces - 1) * WAL_HEAD;
                while ends[0] <= from {
                    ends.pop_front();
                }
                let count = asked.min(ends[0].min(raw.len()) - from);
                let mut heads = [0xBB; HEADS_LENGTH];
                scatter(spread, &raw[from..from + count], &mut self.slot, &mut heads);
                from += count;
                self.framer.arrived_spread(spread, count, &heads);
                self.parse()?;
                if self.is_over() {
                    break;
                }
                continue;
            }
            let ask = self
                .framer
                .ask(self.limit(), self.slot.len(), self.slots.more_expected);
            assert!(!ask.is_empty() && ask.end <= self.slot.len(), "{ask:?}");
            while ends[0] <= from {
                ends.pop_front();
            }
            let count = ask.len().min(ends[0].min(raw.len()) - from);
            self.slot[ask.start..ask.start + count].copy_from_slice(&raw[from..from + count]);
            from += count;
            self.framer.arrived(count);
            self.parse()?;
            if self.is_over() {
                break;
            }
        }
        self.check_slot();
        Ok(())
    }

    fn spread(&self) -> Option<Spread> {
        let spread = self.framer.spread(self.limit(), self.slot.len());
        spread.filter(|_| self.slots.spread)
    }

    /// Takes frames until more bytes are needed, and fresh slots as they are.
    fn parse(&mut self) -> Result<(), Error> {
        loop {
            let limit = self.limit();
            while let Some(frame) = self.framer.next(&mut self.slot, limit)? {
                self.accept(frame);
                if self.is_over() {
                    return Ok(());
                }
            }
            let is_full = self.framer.place() == limit;
            if !is_full && !self.rng.chance(self.slots.early_carries) {
                return Ok(());
            }
            self.carry();
        }
    }

    fn is_over(&self) -> bool {
        matches!(
            self.seen.last(),
            Some(Seen::EndOfCopy | Seen::CopyDone | Seen::Error(_))
        )
    }

    fn accept(&mut self, frame: Frame) {
        let seen = match frame {
            Frame::Wal(count) => return self.accept_wal(count),
            Frame::WalHead(head) => Seen::Head(head.start, head.server_end, head.payload),
            Frame::Keepalive(alive) => Seen::Keepalive(alive.server_end, alive.reply_requested),
            Frame::Error(body) => Seen::Error(body.to_vec()),
            Frame::Notice(body) => Seen::Notice(body.to_vec()),
            Frame::Ignored => Seen::Ignored,
            Frame::CopyDone => Seen::CopyDone,
            Frame::EndOfCopy => Seen::EndOfCopy,
        };
        self.seen.push(seen);
    }

    fn accept_wal(&mut self, count: usize) {
        self.received = self.received.advanced_by(count as u64);
        let place = self.framer.place();
        assert_eq!(self.base.advanced_by(place as u64), self.received, "out of place");
        let from = offset(self.received) - count;
        assert!(
            self.slot[place - count..place] == wal()[from..from + count],
            "other bytes"
        );
    }

    /// Goes on in a fresh slot, as `Receiver::carry` does.
    fn carry(&mut self) {
        self.check_slot();
        let place = self.framer.place();
        let kept = place % self.slots.block;
        let mut new = vec![0x55; self.slot.len()];
        new[..kept].copy_from_slice(&self.slot[place - kept..place]);
        self.framer.carry(&self.slot, &mut new, kept);
        self.slot = new;
        self.base = self.base.advanced_by((place - kept) as u64);
    }

    /// Nothing that arrived later has damaged what lies before.
    fn check_slot(&self) {
        let (from, place) = (offset(self.base), self.framer.place());
        assert!(
            self.slot[..place] == wal()[from..from + place],
            "damaged at {}",
            self.base
        );
    }
}

/// What a reader should see of a stream.
fn expected(stream: &Stream) -> Vec<Seen> {
    let mut reader = Reader::new(
        Slots {
            window: 4 << 20,
            segment: 8 << 20,
            ..SMALL
        },
        0,
    );
    reader.read(&stream.raw(), []).expect("a valid stream");
    assert_eq!(reader.received, stream.end);
    reader.seen
}

/// A bit of everything, in a few hundred bytes.
fn short_stream() -> Stream {
    let mut stream = Stream::new();
    stream
        .wal(0)
        .keepalive(false)
        .wal(1)
        .notice()
        .wal(30)
        .parameter()
        .wal(31);
    stream
        .keepalive(true)
        .wal(29)
        .message(b'A', b"\0\0\0\x01x\0\0")
        .wal(200);
    stream.message(b'd', b"s12345678").wal(5);
    stream
}

/// What a catch-up looks like, with all sizes of messages.
fn long_stream(rng: &mut Rng) -> Stream {
    let mut stream = Stream::new();
    stream.ahead(1 << 30);
    for _ in 0..rng.between(10, 40) {
        let sizes = [0, 1, 29, 30, 31, 300, 512, 8192, 128 << 10];
        stream.wal(rng.pick(&sizes));
        match rng.between(0, 9) {
            0 => stream.keepalive(rng.chance(50)),
            1 => stream.notice(),
            2 => stream.parameter(),
            _ => &mut stream,
        };
    }
    stream
}

fn check(stream: &Stream, seen: &[Seen], slots: Slots, seed: u64, ends: impl IntoIterator<Item = usize>) {
    let mut reader = Reader::new(slots, seed);
    reader.read(&stream.raw(), ends).expect("a valid stream");
    assert_eq!(reader.received, stream.end);
    assert_eq!(reader.seen, seen);
}

fn with_ends(build: impl Fn(&mut Stream)) -> Vec<Stream> {
    let finals: [fn(&mut Stream) -> &mut Stream; 4] = [
        |stream| stream,
        Stream::copy_done,
        Stream::command_complete,
        Stream::error,
    ];
    let finished = |end: &fn(&mut Stream) -> &mut Stream| {
        let mut stream = Stream::new();
        build(&mut stream);
        end(&mut stream);
        stream
    };
    finals.iter().map(finished).collect()
}

// ---- splits ----

#[test]
fn every_message_is_recognized() {
    let mut stream = Stream::new();
    stream
        .wal(3)
        .ahead(100)
        .wal(0)
        .keepalive(true)
        .notice()
        .parameter()
        .copy_done();
    let (end, ahead) = (at(3), at(103));
    let seen = [
        Seen::Head(START, end, 3),
        Seen::Head(end, ahead, 0),
        Seen::Keepalive(ahead, true),
        Seen::Notice(b"SNOTICE\0Mhello\0\0".to_vec()),
        Seen::Ignored,
        Seen::CopyDone,
    ];
    assert_eq!(expected(&stream), seen);
}

#[test]
fn every_split_in_two_gives_the_same() {
    let build = |stream: &mut Stream| *stream = short_stream();
    for stream in with_ends(build) {
        let seen = expected(&stream);
        for end in 0..stream.raw().len() {
            for more_expected in [false, true] {
                check(
                    &stream,
                    &seen,
                    Slots {
                        more_expected,
                        ..SMALL
                    },
                    0,
                    [end],
                );
            }
        }
    }
}

#[test]
fn reading_several_messages_at_once_gives_the_same_whatever_they_are() {
    let usual = |stream: &mut Stream| {
        for _ in 0..6 {
            stream.wal(300);
        }
    };
    let other_size = |stream: &mut Stream| {
        stream.wal(200).wal(200).wal(31).wal(200).wal(200).wal(0).wal(900);
    };
    let others_between = |stream: &mut Stream| {
        stream
            .wal(250)
            .wal(250)
            .keepalive(true)
            .wal(250)
            .notice()
            .wal(250);
    };
    let builds: [&dyn Fn(&mut Stream); 3] = [&usual, &other_size, &others_between];
    for stream in builds.into_iter().flat_map(with_ends) {
        let seen = expected(&stream);
        for end in 0..stream.raw().len() {
            let slots = Slots {
                more_expected: true,
                spread: true,
                ..SMALL
            };
            check(&stream, &seen, slots, 0, [end]);
        }
    }
}

#[test]
fn every_split_in_three_gives_the_same() {
    let build = |stream: &mut Stream| {
        stream.wal(1).keepalive(true).wal(31).notice().wal(0).wal(40);
    };
    for stream in with_ends(build) {
        let seen = expected(&stream);
        let length = stream.raw().len();
        for first in 0..length {
            for second in first..length {
                let more_expected = (first + second) % 2 == 0;
                check(
                    &stream,
                    &seen,
                    Slots {
                        more_expected,
                        ..SMALL
                    },
                    0,
                    [first, second],
                );
            }
        }
    }
}

#[test]
fn byte_by_byte_gives_the_same_across_slots_and_segments() {
    let mut stream = short_stream();
    stream
        .wal(1200)
        .keepalive(false)
        .wal(3000)
        .notice()
        .wal(512)
        .wal(30)
        .wal(1)
        .error();
    let seen = expected(&stream);
    for early_carries in [0, 3, 100] {
        let slots = Slots {
            early_carries: early_carries / 2,
            ..SMALL
        };
        check(&stream, &seen, slots, early_carries, 0..stream.raw().len());
    }
}

#[test]
fn a_message_that_ends_exactly_at_a_slots_or_segments_end_is_no_special_case() {
    for size in [1024, 1536, 2560, 3072] {
        for around in [-31i64, -30, -1, 0, 1, 30, 31] {
            let mut stream = Stream::new();
            stream
                .wal((size + around) as usize)
                .wal(40)
                .keepalive(true)
                .wal(700)
                .copy_done();
            let seen = expected(&stream);
            for more_expected in [false, true] {
                check(
                    &stream,
                    &seen,
                    Slots {
                        more_expected,
                        ..SMALL
                    },
                    0,
                    [],
                );
            }
        }
    }
}

#[test]
fn random_splits_of_long_streams_give_the_same() {
    for seed in seeds(60) {
        let _named_on_failure = Seed(seed);
        let mut rng = Rng::new(seed);
        let mut stream = long_stream(&mut rng);
        stream.copy_done();
        let seen = expected(&stream);
        let block = rng.pick(&[512, 4096]);
        let slots = Slots {
            block,
            window: block * rng.pick(&[1, 2, 3, 16]),
            segment: 128 << 10,
            more_expected: rng.chance(50),
            spread: rng.chance(50),
            early_carries: rng.pick(&[0, 0, 10]),
        };
        let longest = rng.pick(&[100, 5000, 200_000]);
        let mut end = 0;
        let ends = std::iter::from_fn(|| {
            end += rng.between(1, longest) as usize;
            (end < 8 << 20).then_some(end)
        });
        let ends: Vec<usize> = ends.collect();
        check(&stream, &seen, slots, seed, ends);
    }
}

// ---- in place ----

#[test]
fn in_catch_up_no_payload_byte_is_moved() {
    for seed in seeds(20) {
        let _named_on_failure = Seed(seed);
        let stream = long_stream(&mut Rng::new(seed));
        let slots = Slots {
            block: 4096,
            window: 256 << 10,
            segment: 1 << 20,
            more_expected: true,
            spread: false,
            early_carries: 0,
        };
        let mut reader = Reader::new(slots, seed);
        reader.read(&stream.raw(), []).expect("valid");
        assert_eq!(reader.received, stream.end);
        assert_eq!(reader.framer.moved(), 0);
    }
}

#[test]
fn a_commit_that_came_with_its_head_is_moved_once() {
    let mut stream = Stream::new();
    stream.wal(300);
    let mut reader = Reader::new(SMALL, 0);
    reader.read(&stream.raw(), []).expect("valid");
    assert_eq!(reader.framer.moved(), 300);
    assert!(!reader.is_inside_message());
}

#[test]
fn what_follows_the_end_of_the_copy_stays_unparsed() {
    let mut stream = Stream::new();
    stream.wal(10).command_complete().message(b'Z', b"I");
    let mut reader = Reader::new(SMALL, 0);
    reader.read(&stream.raw(), []).expect("valid");
    let unparsed = reader.framer.unparsed(&reader.slot);
    assert_eq!(unparsed, b"C\0\0\0\x0bCOPY 0\0Z\0\0\0\x05I");
}

#[test]
fn what_follows_a_copy_done_stays_unparsed() {
    let mut stream = Stream::new();
    stream.wal(10).copy_done().message(b'Z', b"I");
    let mut reader = Reader::new(SMALL, 0);
    reader.read(&stream.raw(), []).expect("valid");
    assert_eq!(reader.framer.unparsed(&reader.slot), b"Z\0\0\0\x05I");
}

#[test]
fn the_longest_message_is_taken() {
    for tag in *b"ENSA" {
        let mut reader = Reader::new(SMALL, 0);
        let head = message(tag, (64 << 10) + 4, &[]);
        reader.read(&head, []).expect("nothing wrong so far");
        assert_eq!(reader.framer.missing(), 64 << 10);
    }
}

// ---- hostile input ----

/// Reads some bytes whole and byte by byte; both must be refused.
fn refusal(raw: &[u8]) -> String {
    let mut whole = Reader::new(SMALL, 0);
    let mut bytewise = Reader::new(SMALL, 0);
    let message = whole.read(raw, []).expect_err("whole").to_string();
    bytewise.read(raw, 0..raw.len()).expect_err("byte by byte");
    message
}

fn message(tag: u8, length: u32, body: &[u8]) -> Vec<u8> {
    let mut raw = vec![tag];
    raw.extend(length.to_be_bytes());
    raw.extend(body);
    raw
}

#[test]
fn lengths_that_cannot_be_are_refused_before_memory_is_given() {
    for tag in *b"dcENSACTDZ" {
        for length in 0..4 {
            assert!(refusal(&message(tag, length, &[])).contains("impossible length"));
        }
    }
    for length in [(64 << 10) + 5, i32::MAX as u32, u32::MAX] {
        for tag in *b"ENSA" {
            assert!(refusal(&message(tag, length, &[])).contains("no server sends that"));
        }
        assert!(refusal(&message(b'd', length, b"k")).contains("no server sends that"));
    }
    for length in [(1 << 20) + 30, u32::MAX] {
        let head = [b'w'; 25];
        assert!(refusal(&message(b'd', length, &head)).contains("no server sends that"));
    }
}

#[test]
fn unknown_messages_are_refused() {
    let known = b"dcENSACTDZ";
    for tag in (0..=255).filter(|tag| !known.contains(tag)) {
        assert!(refusal(&message(tag, 4, &[])).contains("unexpected message"));
    }
    assert!(refusal(&message(b'x', 4, &[])).contains("unexpected message \"x\""));
    for kind in (0..=255).filter(|kind| !b"wks".contains(kind)) {
        assert!(refusal(&message(b'd', 100, &[kind])).contains("unrecognized streaming header"));
    }
}

#[test]
fn heads_too_short_for_their_kind_are_refused() {
    refusal(&message(b'd', 4, &[]));
    for next in *b"wksdN" {
        let mut raw = message(b'd', 4, &[]);
        raw.push(next);
        assert!(
            refusal(&raw).contains("unrecognized streaming header"),
            "followed by {next}"
        );
    }
    for length in 5..29 {
        refusal(&message(b'd', length, &[b'w'; 25][..length as usize - 4]));
    }
    assert!(refusal(&message(b'c', 5, b"x")).contains("unexpected message"));
    for length in (0..40).filter(|&length| length != 18) {
        let mut body = keepalive_body(START, true);
        body.resize(length.max(1), 0);
        assert!(refusal(&message(b'd', 4 + body.len() as u32, &body)).contains("instead of 18"));
    }
}

#[test]
fn a_truncated_message_is_waited_for() {
    for stream in with_ends(|stream| {
        stream.wal(0).keepalive(true).wal(50).notice();
    }) {
        let raw = stream.raw();
        for length in 1..raw.len() {
            let mut reader = Reader::new(SMALL, 0);
            reader.read(&raw[..length], []).expect("nothing wrong so far");
            let boundary = stream.messages.iter().scan(0, |end, message| {
                *end += message.raw.len();
                Some(*end)
            });
            let is_whole = boundary.into_iter().any(|end| end == length);
            assert!(is_whole || reader.is_inside_message() || reader.is_over());
            assert_eq!(
                reader.framer.missing(),
                missing(&stream, length),
                "after {length}"
            );
        }
    }
}

/// What must still come of the message of which a part came with the first `length` bytes, if its head did.
fn missing(stream: &Stream, length: usize) -> u64 {
    let mut begin = 0;
    for message in &stream.messages {
        let end = begin + message.raw.len();
        let head = match (message.raw[0], message.raw.get(5)) {
            (b'd', Some(b'w')) => 30,
            (b'd', Some(b'k')) => 6,
            (b'E' | b'N' | b'S' | b'A', _) => 5,
            _ => message.raw.len(),
        };
        if (begin + head..end).contains(&length) {
            return (end - length) as u64;
        }
        begin = end;
    }
    0
}

#[test]
fn damaged_streams_are_refused_or_read_but_never_a_panic() {
    for seed in seeds(400) {
        let _named_on_failure = Seed(seed);
        let mut rng = Rng::new(seed);
        let mut raw = short_stream().raw();
        for _ in 0..rng.between(1, 4) {
            let index = rng.between(0, raw.len() as u64 - 1) as usize;
            raw[index] = rng.next() as u8;
        }
        let longest = rng.pick(&[1, 10, 1000]);
        let mut end = 0;
        let ends: Vec<usize> = (0..raw.len())
            .map(|_| {
                end += rng.between(1, longest) as usize;
                end
            })
            .collect();
        survive(&raw, &ends);
    }
}

/// As [`Reader::read`] without a look at the bytes, which may be any now.
fn survive(raw: &[u8], ends: &[usize]) {
    let (limit, mut slot) = (SMALL.window, vec![0; SMALL.window + SMALL.block]);
    let mut framer = Framer::new(0);
    let (mut from, mut frames) = (0, 0);
    while from < raw.len() {
        let ask = framer.ask(limit, slot.len(), SMALL.more_expected);
        let next = ends.iter().copied().find(|&end| end > from).unwrap_or(raw.len());
        let count = ask.len().min(next.min(raw.len()) - from);
        slot[ask.start..ask.start + count].copy_from_slice(&raw[from..from + count]);
        from += count;
        framer.arrived(count);
        loop {
            match framer.next(&mut slot, limit) {
                Err(_) | Ok(Some(Frame::EndOfCopy)) => return,
                Ok(Some(_)) => frames += 1,
                Ok(None) => break,
            }
            assert!(frames <= 2 * raw.len(), "more frames than bytes");
        }
        if framer.place() == limit {
            let old = slot.clone();
            framer.carry(&old, &mut slot, 0);
        }
    }
}
