//! Looking at one segment file.

use super::{Buffer, CHUNK, Index, Reader, Segment, Stored, page_header};
use crate::core::lsn::{Lsn, SegmentNumber, SegmentSize, Timeline};
use crate::core::start::{Encoding, Stage};
use crate::core::wal::decoder::Expected;
use crate::core::wal::page::{LONG_HEADER, LongHeader, PageHeader};
use crate::core::wal::record::Record;
use crate::core::wal::scan::{End, Known, LEAST_KEEP, Outcome, Scan, Step};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// A partial that is being written is looked at again so often before it is called damaged.
const ATTEMPTS: usize = 4;

/// What became of looking at a file.
#[derive(Debug)]
pub enum Examined {
    /// It was decoded.
    Decoded(Decoded),
    /// It is compressed.
    Compressed,
    /// It has been removed since it was listed.
    Gone,
    /// It could not be read.
    Unreadable(io::Error),
    /// It is the segment of a server with this system identifier.
    Foreign(u64),
}

/// What a file holds.
#[derive(Debug)]
pub struct Decoded {
    /// What was found in it.
    pub outcome: Outcome,
    /// The other files that its last record was followed into.
    pub followed: Vec<usize>,
    /// Bytes in the file.
    pub bytes: u64,
    /// The file is this segment, whatever its name says.
    pub true_name: Option<(Timeline, SegmentNumber)>,
}

/// What the first bytes of a file say about all of it.
enum Head {
    Fine,
    Foreign(u64),
    /// It is another segment: the timeline of its first page, and its number.
    Other(Timeline, SegmentNumber),
}

/// Looks at segments, from any thread.
#[derive(Debug)]
pub struct Examiner<'a> {
    stored: &'a Stored,
    index: &'a Index,
    /// Bytes that were read.
    pub progress: AtomicU64,
    /// Nothing is looked at from there on.
    end: Option<Lsn>,
}

impl<'a> Examiner<'a> {
    /// Looks at the segments of `stored`, up to `end`.
    pub fn new(stored: &'a Stored, index: &'a Index, end: Option<Lsn>) -> Examiner<'a> {
        Examiner {
            stored,
            index,
            progress: AtomicU64::new(0),
            end,
        }
    }

    /// Looks at one of them; `buffer` is used again and again. A partial that is written meanwhile is looked at
    /// again before it is called damaged.
    pub fn examine(&self, number: usize, buffer: &mut Buffer) -> Examined {
        let look = |reader: &Reader, segment: &Segment, true_name, buffer: &mut Buffer| {
            for _ in 1..ATTEMPTS {
                let before = reader.state()?;
                let mut walk = Walk::new(self, segment, reader, true_name, LEAST_KEEP, buffer)?;
                walk.run(|_| {})?;
                let decoded = walk.finish(before.0);
                let is_final = segment.is_complete() || decoded.outcome.damages.is_empty();
                if is_final || reader.state()? == before {
                    return Ok(decoded);
                }
            }
            self.walk(reader, segment, true_name, LEAST_KEEP, buffer, |_| {})
        };
        self.open_and(number, buffer, look)
    }

    /// Looks at one of them, showing each record that begins in it, of those that cross pages `keep` bytes at least.
    pub fn examine_records(
        &self,
        number: usize,
        keep: usize,
        buffer: &mut Buffer,
        see: impl FnMut(&Record),
    ) -> Examined {
        self.open_and(number, buffer, |reader, segment, true_name, buffer| {
            self.walk(reader, segment, true_name, keep, buffer, see)
        })
    }

    fn walk(
        &self,
        reader: &Reader,
        segment: &Segment,
        true_name: Option<(Timeline, SegmentNumber)>,
        keep: usize,
        buffer: &mut Buffer,
        see: impl FnMut(&Record),
    ) -> io::Result<Decoded> {
        let bytes = reader.state()?.0;
        let mut walk = Walk::new(self, segment, reader, true_name, keep, buffer)?;
        walk.run(see)?;
        Ok(walk.finish(bytes))
    }

    /// Opens a file and looks at its head before all of it is looked at.
    fn open_and(
        &self,
        number: usize,
        buffer: &mut Buffer,
        look: impl FnOnce(
            &Reader,
            &Segment,
            Option<(Timeline, SegmentNumber)>,
            &mut Buffer,
        ) -> io::Result<Decoded>,
    ) -> Examined {
        let segment = &self.stored.segments[number];
        if segment.file.encoding != Encoding::Plain {
            return Examined::Compressed;
        }
        let examined = || -> io::Result<Examined> {
            let Some(reader) = segment.open(self.stored.format.segment_size)? else {
                return Ok(Examined::Gone);
            };
            let true_name = match self.head(segment, &reader, buffer)? {
                Head::Foreign(identifier) => return Ok(Examined::Foreign(identifier)),
                Head::Other(timeline, number) => Some((timeline, number)),
                Head::Fine => None,
            };
            Ok(Examined::Decoded(look(&reader, segment, true_name, buffer)?))
        };
        examined().unwrap_or_else(Examined::Unreadable)
    }

    /// Where a later timeline leaves this one in that segment: what a partial holds behind is nobody's.
    fn fork_in(&self, timeline: Timeline, segment: SegmentNumber) -> Option<Lsn> {
        let size = self.stored.format.segment_size;
        let forks = self.stored.histories.values().flat_map(|history| &history.forks);
        let here = forks.filter(|fork| fork.timeline == timeline && size.segment_of(fork.end) == segment);
        here.map(|fork| fork.end).min()
    }

    /// Whether the file is the segment that its name says: not one bit of its header is believed alone.
    fn head(&self, segment: &Segment, reader: &Reader, buffer: &mut Buffer) -> io::Result<Head> {
        let format = &self.stored.format;
        let start = self.stored.start_of(segment);
        reader.read(start, LONG_HEADER, buffer)?;
        let Some((short, more)) = buffer.split_first_chunk() else {
            return Ok(Head::Fine);
        };
        let header = PageHeader::parse(short);
        let Some(more) = more.first_chunk().map(LongHeader::parse) else {
            return Ok(Head::Fine);
        };
        // The sizes come last: without them the header has not arrived in whole.
        let whole = SegmentSize::new(more.segment_size.into()).is_some() && more.block_size != 0;
        if header.version().is_none() || !header.is_long() || !whole {
            return Ok(Head::Fine);
        }
        let known = format.system_identifier.unwrap_or(more.system_identifier);
        if (known ^ more.system_identifier).count_ones() > 1 {
            return Ok(Head::Foreign(more.system_identifier));
        }
        let size = format.segment_size;
        let block = u64::from(format.block_size.unwrap_or(8192));
        let next = page_header(reader.path(), block);
        let agrees = next.is_some_and(|next| next.address.0 == header.address.0.wrapping_add(block));
        if header.address != start && size.offset_of(header.address) == 0 && agrees {
            return Ok(Head::Other(header.timeline, size.segment_of(header.address)));
        }
        Ok(Head::Fine)
    }
}

/// One pass over a segment, and over the beginning of what follows if a record reaches there.
struct Walk<'w> {
    examiner: &'w Examiner<'w>,
    segment: &'w Segment,
    own: &'w Reader,
    /// The segment that is read after the own one.
    next: Option<(SegmentNumber, Reader)>,
    followed: Vec<usize>,
    number: SegmentNumber,
    scan: Scan,
    buffer: &'w mut Buffer,
    true_name: Option<(Timeline, SegmentNumber)>,
    /// Added to a position in the log to get one that the reader knows.
    shift: u64,
}

impl<'w> Walk<'w> {
    fn new(
        examiner: &'w Examiner<'w>,
        segment: &'w Segment,
        own: &'w Reader,
        true_name: Option<(Timeline, SegmentNumber)>,
        keep: usize,
        buffer: &'w mut Buffer,
    ) -> io::Result<Walk<'w>> {
        let format = &examiner.stored.format;
        let size = format.segment_size;
        let named = size.start_of(segment.file.segment);
        let (timeline, number) = true_name.unwrap_or((segment.file.timeline, segment.file.segment));
        let start = size.start_of(number);
        let known = Known {
            expected: Expected {
                segment_size: size,
                timeline: timeline.max(segment.file.timeline),
                system_identifier: format.system_identifier,
            },
            magic: format.magic,
            block_size: format.block_size,
            history: examiner.stored.history(timeline).filter(|_| true_name.is_none()),
        };
        let shift = named.0.wrapping_sub(start.0);
        let mut scan = Scan::new(known, start, keep);
        let mut ends = examiner.end;
        if segment.file.stage == Stage::Partial {
            let content = own.content_end(size.bytes(), buffer)?;
            let content = Lsn(content.0.wrapping_sub(shift));
            let content = examiner
                .fork_in(timeline, number)
                .map_or(content, |fork| fork.min(content));
            ends = Some(ends.map_or(content, |end| end.min(content)));
        }
        if let Some(end) = ends {
            scan.may_end_at(end);
        }
        Ok(Walk {
            examiner,
            segment,
            own,
            next: None,
            followed: Vec::new(),
            number,
            scan,
            buffer,
            true_name,
            shift,
        })
    }

    fn run(&mut self, mut see: impl FnMut(&Record)) -> io::Result<()> {
        let size = self.examiner.stored.format.segment_size;
        let own = self.number;
        // What the buffer holds: it is used again when the scan goes back a little.
        let (mut from, mut to) = (Lsn(0), Lsn(0));
        loop {
            let at = self.scan.position();
            let number = size.segment_of(at);
            if number != self.number || at < from || at >= to {
                if number != own && !self.follow(number)? {
                    return Ok(());
                }
                self.number = number;
                let left = size.end_of(number).bytes_since(at);
                self.read(own, at, left)?;
                (from, to) = (at, at.advanced_by(self.buffer.len() as u64));
                if self.buffer.is_empty() {
                    return Ok(());
                }
            }
            let offset = at.bytes_since(from) as usize;
            if self.scan.feed(&self.buffer[offset..], &mut see) == Step::Done {
                return Ok(());
            }
        }
    }

    fn read(&mut self, own: SegmentNumber, at: Lsn, left: u64) -> io::Result<()> {
        let limit = |most: usize| usize::try_from(left).map_or(most, |left| left.min(most));
        match &self.next {
            // Most records reach no further than a page.
            Some((_, next)) if self.number != own => next.read(at, limit(CHUNK / 8), self.buffer),
            _ => {
                let at = Lsn(at.0.wrapping_add(self.shift));
                self.own.read(at, limit(CHUNK), self.buffer)?;
                let progress = &self.examiner.progress;
                progress.fetch_add(self.buffer.len() as u64, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// Opens the segment that the record goes on in; false if there is none that can be read.
    fn follow(&mut self, number: SegmentNumber) -> io::Result<bool> {
        if self.next.as_ref().is_some_and(|(open, _)| *open == number) {
            return Ok(true);
        }
        let stored = self.examiner.stored;
        let timeline = self.segment.file.timeline;
        let before = SegmentNumber(number.0 - 1);
        let successor = self.examiner.index.successor(stored, timeline, before);
        let Some(successor) = successor.filter(|_| self.true_name.is_none()) else {
            return Ok(false);
        };
        let segment = &stored.segments[successor];
        if !segment.is_plain() {
            return Ok(false);
        }
        let size = stored.format.segment_size;
        // What is wrong with that file itself is said when it is looked at.
        let Some(reader) = segment.open(size).ok().flatten() else {
            return Ok(false);
        };
        if !matches!(self.examiner.head(segment, &reader, self.buffer)?, Head::Fine) {
            return Ok(false);
        }
        if segment.file.stage == Stage::Partial {
            let end = reader.content_end(size.bytes(), self.buffer)?;
            self.scan
                .may_end_at(self.examiner.end.map_or(end, |limit| limit.min(end)));
        }
        self.next = Some((number, reader));
        self.followed.push(successor);
        Ok(true)
    }

    fn finish(self, bytes: u64) -> Decoded {
        let mut outcome = self.scan.finish();
        if self.true_name.is_some() && outcome.end == End::Next {
            outcome.handover = None;
        }
        Decoded {
            outcome,
            followed: self.followed,
            bytes,
            true_name: self.true_name,
        }
    }
}
