//! A decoder that is watched: what it finds, and that it keeps its promises on the way.

use walring::core::lsn::{Lsn, SegmentSize, Timeline};
use walring::core::wal::content::{Completion, completion_time};
use walring::core::wal::decoder::{Decoder, Depth, Event, Expected};
use walring::core::wal::fault::Fault;
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
        let start = Lsn(wal.start());
        Reader {
            decoder: Decoder::new(expected(wal.shape()), depth, start, keep),
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
