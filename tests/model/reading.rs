//! A decoder that is watched: what it finds, and that it keeps its promises on the way.

use fastrand::Rng;
use walring::core::lsn::{Lsn, SegmentSize, Timeline};
use walring::core::wal::content::{Completion, completion_time};
use walring::core::wal::decoder::{Decoder, Depth, Event, Expected};
use walring::core::wal::fault::{Fault, Place};
use walring::core::wal::record::Record;

use super::wal::{Shape, Wal, Written};

/// What a decoder found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A page.
    Page(u64),
    /// A record and its bytes.
    Record(Written, Vec<u8>),
    /// A page that does not go on with the record that began there.
    Abandoned(Option<u64>),
}

/// A decoder and what it has found.
pub struct Reader {
    /// The decoder.
    pub decoder: Decoder,
    /// What it has found.
    pub seen: Vec<Seen>,
    verified: Lsn,
}

/// What is known of the log before it is read: all of it.
pub fn expected(shape: &Shape) -> Expected {
    Expected {
        segment_size: SegmentSize::new(shape.segment).expect("a valid size"),
        timeline: Timeline(shape.timeline),
        system_identifier: Some(shape.system_identifier),
    }
}

impl Reader {
    /// Begins with the first byte of the log.
    pub fn new(wal: &Wal, depth: Depth, keep: usize) -> Reader {
        Reader::expecting(expected(wal.shape()), depth, Lsn(wal.start()), keep)
    }

    /// Begins anywhere.
    pub fn expecting(expected: Expected, depth: Depth, start: Lsn, keep: usize) -> Reader {
        Reader {
            decoder: Decoder::new(expected, depth, start, keep),
            seen: Vec::new(),
            verified: start,
        }
    }

    /// Pages and records, the latter whole.
    pub fn of(wal: &Wal) -> Reader {
        Reader::new(wal, Depth::Records, 8 << 20)
    }

    /// Feeds one portion.
    pub fn feed(&mut self, portion: &[u8]) -> Result<(), Fault> {
        let mut input = portion;
        let end = self.decoder.position().0 + portion.len() as u64;
        loop {
            let seen = match self.decoder.next(&mut input) {
                Ok(None) => break,
                Ok(Some(event)) => see(&event),
                Err(fault) => {
                    self.check();
                    return Err(fault);
                }
            };
            self.seen.push(seen);
            self.check();
        }
        assert!(input.is_empty(), "taken in whole");
        assert_eq!(self.decoder.position(), Lsn(end));
        self.check();
        Ok(())
    }

    /// Feeds bytes in portions of random sizes, the smaller the fewer bytes there are.
    pub fn feed_in_portions(&mut self, bytes: &[u8], rng: &mut Rng) -> Result<(), Fault> {
        let order = [2, 10, 100, 1000][rng.usize(0..4)] * (1 + bytes.len() / 10_000);
        let mut rest = bytes;
        while !rest.is_empty() {
            let most = if rng.u8(0..10) == 0 { 20 * order } else { order };
            let (portion, more) = rest.split_at(rng.usize(1..=most).min(rest.len()));
            self.feed(portion)?;
            rest = more;
        }
        Ok(())
    }

    /// Goes back to what is verified.
    pub fn rewind(&mut self) {
        self.decoder.rewind();
        assert_eq!(self.decoder.position(), self.verified, "rewind goes there");
        assert_eq!(
            self.decoder.verified(),
            self.verified,
            "what is verified stays so"
        );
    }

    /// The records that were found.
    pub fn records(&self) -> Vec<Written> {
        let records = self.seen.iter().filter_map(|seen| match seen {
            Seen::Record(record, _) => Some(*record),
            _ => None,
        });
        records.collect()
    }

    fn check(&mut self) {
        let verified = self.decoder.verified();
        assert!(verified <= self.decoder.position(), "nothing unseen is verified");
        assert!(verified >= self.verified, "{verified} after {}", self.verified);
        self.verified = verified;
    }
}

/// The whole of a log.
pub fn read(wal: &Wal) -> Result<Reader, Fault> {
    let mut reader = Reader::of(wal);
    reader.feed(wal.all())?;
    Ok(reader)
}

fn see(event: &Event) -> Seen {
    match event {
        Event::Page(page, header) => {
            assert_eq!(*page, header.address);
            Seen::Page(page.0)
        }
        Event::Record(record) => Seen::Record(written(record), record.bytes.to_vec()),
        Event::Abandoned(start) => Seen::Abandoned(start.map(|start| start.0)),
    }
}

fn written(record: &Record) -> Written {
    let completion = Completion::of(record);
    let written = Written {
        start: record.start.0,
        end: record.end.0,
        previous: record.header.previous.0,
        length: record.header.total_length,
        transaction: record.header.transaction,
        manager: record.header.manager.0,
        info: record.header.info,
        completed: completion.and_then(|_| completion_time(record)),
    };
    assert_eq!(completion.is_some_and(Completion::is_commit), written.is_commit());
    written
}

/// Lets a decoder read any bytes, as chance has it, and checks that it keeps its promises: the portions do not
/// matter, nor going back, and what it takes for a record is one.
pub fn try_anything(bytes: &[u8], rng: &mut Rng) {
    let expected = Expected {
        segment_size: SegmentSize::new(1 << 20).expect("a valid size"),
        timeline: Timeline(rng.u32(1..=3)),
        system_identifier: rng.bool().then(|| Shape::default().system_identifier),
    };
    let depth = if rng.u8(0..8) == 0 {
        Depth::Pages
    } else {
        Depth::Records
    };
    let keep = [0, 100, 1 << 20][rng.usize(0..3)];
    let start = Lsn(Shape::default().first_segment << 20);
    let mut whole = Reader::expecting(expected, depth, start, keep);
    let fault = whole.feed(bytes);
    let mut portions = Reader::expecting(expected, depth, start, 1 << 20);
    assert_eq!(portions.feed_in_portions(bytes, rng), fault);
    // Of zeros, those before a wrong byte are verified or not, depending on the portion.
    if !fault.is_err_and(|fault| matches!(fault.place, Place::Byte(_))) {
        assert_eq!(portions.decoder.verified(), whole.decoder.verified());
    }
    assert_same(&portions.seen, &whole.seen);
    for seen in &portions.seen {
        if let Seen::Record(record, bytes) = seen {
            assert_eq!(bytes.len(), record.length as usize);
            let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[24..]), &bytes[..20]);
            assert_eq!(bytes[20..24], crc.to_le_bytes());
        }
    }
    whole.rewind();
    let from = whole.decoder.position().bytes_since(start) as usize;
    assert_eq!(whole.feed_in_portions(&bytes[from..], rng), fault);
    assert_eq!(whole.records().len(), portions.records().len());
}

/// The same but for the bytes of records, of which few may be kept, and what they say.
fn assert_same(left: &[Seen], right: &[Seen]) {
    assert_eq!(left.len(), right.len());
    for pair in left.iter().zip(right) {
        match pair {
            (Seen::Record(a, _), Seen::Record(b, _)) => {
                assert_eq!(
                    Written {
                        completed: None,
                        ..*a
                    },
                    Written {
                        completed: None,
                        ..*b
                    }
                );
            }
            (left, right) => assert_eq!(left, right),
        }
    }
}
