//! From bytes to pages and records.
//!
//! The log's bytes are fed in order, in any portions; [`Decoder::next`] takes from the portion and gives
//! the next page or record. Nothing is copied as long as a record lies in one page and one portion;
//! the parts of others are put together in a buffer.
//!
//! ```text
//!  page            page            page
//! |H rec rec re...|H ...cord rec  |H rec switch 0 0 0 0 ...  to the segment's end
//!                    ^ rest: the header tells how much
//! ```
//!
//! A decoder that begins at a segment's start does not know the record whose rest lies there: it
//! passes over it, and takes the first record's word for what was before.
//!
//! What only a page's header tells is not believed before something with a CRC confirms it: a record in
//! parts by its end, a replaced record by the one that replaces it. Until then [`Decoder::verified`] stays
//! in front of it, so that [`Decoder::rewind`] can take back all of it.
//!
//! Here are the state, the way from one page or record to the next, the usual record and what is passed over; `pages`
//! takes headers of pages, `records` what is not the usual record, `detour` goes on elsewhere.

mod detour;
mod pages;
mod records;

use self::records::Begun;
pub use super::event::{Depth, Event, Expected};
use super::facts::Facts;
use super::fault::{Fault, Flaw, Place};
use super::page::{LONG_HEADER, Version, first_not_zero};
use super::record::{ALIGNMENT, CHECKED_HEADER, RECORD_HEADER, Record, RecordHeader, ResourceManager};
use crate::core::lsn::Lsn;

/// Where in the log's structure the next byte lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Behind a record and its padding, or within the padding.
    Between,
    /// Within a record, so many of whose bytes have been taken.
    Inside { taken: u32 },
    /// Within the rest of a record whose beginning is unknown.
    Rest { missing: u32 },
    /// Behind a switch: zeros to the segment's end.
    Zeros,
    /// Anywhere in a page whose records are not looked at.
    Unseen,
}

impl State {
    /// The state in which nothing has begun.
    fn outside(depth: Depth) -> State {
        match depth {
            Depth::Pages => State::Unseen,
            Depth::Records => State::Between,
        }
    }
}

/// As much as the record that replaces a half-written one needs.
const LEAST_KEPT: usize = 48;

/// Reads the log; see the module.
#[derive(Debug, Clone)]
pub struct Decoder {
    expected: Expected,
    depth: Depth,
    /// How many bytes of a record in parts are put together; at least its header.
    keep: usize,
    state: State,
    /// Position of the first byte that was fed.
    origin: Lsn,
    /// Position of the next byte.
    at: Lsn,
    /// What the pages have told.
    facts: Facts,
    /// Where to go back to from a rest, a replacement or a page of zeros.
    back: Lsn,
    /// What the pages had told there, and at the beginning of a record in parts.
    facts_back: Facts,
    /// A header that has arrived in part.
    page_header: [u8; LONG_HEADER],
    page_taken: usize,
    /// The last complete record; `None`: none was seen.
    previous: Option<Lsn>,
    /// The record inside which the next byte lies.
    start: Lsn,
    header: RecordHeader,
    /// The CRC so far of what follows its header.
    crc: u32,
    parts: Vec<u8>,
    /// The next record must replace a half-written one: the one that began there, if that is known.
    overwrite: Option<Option<Lsn>>,
    /// The last rest, if it was shorter than a record's header.
    rest: Vec<u8>,
    /// Bytes of the last rest.
    rest_length: u32,
    records: u64,
}

impl Decoder {
    /// A decoder whose first byte is a segment's first. Of records that come in parts at most `keep`
    /// bytes (not less than 48) are put together, and no more memory than that is used.
    pub fn new(expected: Expected, depth: Depth, start: Lsn, keep: usize) -> Decoder {
        assert_eq!(
            expected.segment_size.offset_of(start),
            0,
            "decoding begins with a segment"
        );
        let keep = keep.max(LEAST_KEPT);
        let facts = Facts::new(expected.system_identifier);
        Decoder {
            expected,
            depth,
            keep,
            state: State::outside(depth),
            origin: start,
            at: start,
            facts,
            back: start,
            facts_back: facts,
            page_header: [0; LONG_HEADER],
            page_taken: 0,
            previous: None,
            start,
            header: RecordHeader::parse(&[0; RECORD_HEADER]),
            crc: 0,
            parts: Vec::with_capacity(keep.min(8 << 10)),
            overwrite: None,
            rest: Vec::with_capacity(RECORD_HEADER),
            rest_length: 0,
            records: 0,
        }
    }

    /// Tells beforehand what every page must say, so that the first one cannot mislead.
    pub fn expect_pages(&mut self, magic: Option<u16>, block_size: Option<u32>) {
        self.facts.expect(magic, block_size);
        self.facts_back = self.facts;
    }

    /// What was known beforehand.
    pub fn expected(&self) -> Expected {
        self.expected
    }

    /// Position of the next byte.
    pub fn position(&self) -> Lsn {
        self.at
    }

    /// Everything before this has been found right: a record counts when it is complete, and so does the
    /// rest of one whose beginning is unknown. It never goes back.
    pub fn verified(&self) -> Lsn {
        if self.overwrite.is_some() {
            return self.back;
        }
        match self.state {
            State::Inside { .. } => self.start,
            State::Rest { .. } => self.back,
            State::Zeros if self.depth == Depth::Pages => self.back,
            State::Between | State::Zeros | State::Unseen => Lsn(self.at.0 - self.page_taken as u64),
        }
    }

    /// Where the record begins that is not complete yet.
    pub fn unfinished(&self) -> Option<Lsn> {
        matches!(self.state, State::Inside { .. }).then_some(self.start)
    }

    /// Bytes of the record that was begun last, as its header tells them.
    pub fn record_length(&self) -> u32 {
        self.header.total_length
    }

    /// Where the last complete record begins.
    pub fn previous(&self) -> Option<Lsn> {
        self.previous
    }

    /// Whether what follows belongs to a record whose beginning was not fed.
    pub fn is_in_rest(&self) -> bool {
        matches!(self.state, State::Rest { .. })
    }

    /// Records that were complete and right.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The version of the server that wrote the log, once a page told it.
    pub fn version(&self) -> Option<Version> {
        self.facts.version()
    }

    /// Bytes in a page.
    pub fn block_size(&self) -> u64 {
        self.facts.block
    }

    /// The system identifier, once a page told it.
    pub fn system_identifier(&self) -> Option<u64> {
        self.facts.system_identifier
    }

    /// Goes back to [`Decoder::verified`]: what lies behind will be fed again, and may be different.
    /// After this the decoder can also go on after a fault.
    pub fn rewind(&mut self) {
        self.at = self.verified();
        self.page_taken = 0;
        let is_unproven = match self.state {
            State::Inside { .. } | State::Rest { .. } => true,
            State::Zeros => self.depth == Depth::Pages,
            State::Between | State::Unseen => self.overwrite.is_some(),
        };
        if is_unproven {
            self.state = State::outside(self.depth);
            self.facts = self.facts_back;
            self.overwrite = None;
        }
    }

    /// Takes from `input` up to the end of the next page header or record; `None` when all of it is
    /// taken. After a fault the decoder stays where it was, see [`Decoder::verified`].
    pub fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Result<Option<Event<'s>>, Fault> {
        while !input.is_empty() {
            if let Some(record) = self.take_usual(input) {
                return Ok(Some(Event::Record(record)));
            }
            if self.is_header_due() {
                if let Some(page) = self.take_page_header(input)? {
                    return Ok(Some(page));
                }
                continue;
            }
            let room = self.facts.block - (self.at.0 & (self.facts.block - 1));
            let available = input.len().min(room as usize);
            match self.state {
                State::Between if !self.at.0.is_multiple_of(ALIGNMENT) => self.skip_padding(input)?,
                State::Between => match self.begin_record(input, available)? {
                    // The bytes are borrowed from the portion, not from here.
                    Begun::Whole(bytes) => return Ok(Some(Event::Record(self.whole_record(bytes)))),
                    Begun::Parts => {}
                    Begun::Switched => self.state = State::Zeros,
                },
                State::Inside { taken } => {
                    if self.take_part(input, available, taken)? {
                        return Ok(Some(Event::Record(self.joined_record())));
                    }
                }
                State::Rest { missing } => self.skip_rest(input, available, missing),
                State::Zeros => self.skip_zeros(input)?,
                State::Unseen => self.skip(input, available),
            }
        }
        Ok(None)
    }

    /// Takes the usual record in one step: it lies in this page and in this portion, and is right. `None`:
    /// something is unusual, and nothing was taken.
    #[inline]
    fn take_usual<'i>(&mut self, input: &mut &'i [u8]) -> Option<Record<'i>> {
        if self.state != State::Between || self.page_taken > 0 || self.overwrite.is_some() {
            return None;
        }
        let padding = self.at.0.wrapping_neg() % ALIGNMENT;
        let start = Lsn(self.at.0.wrapping_add(padding));
        let in_page = start.0 & (self.facts.block - 1);
        let bytes = input.get(padding as usize..)?;
        let header = RecordHeader::parse(bytes.first_chunk()?);
        let length = header.total_length as usize;
        let room = (self.facts.block - in_page) as usize;
        let is_usual = in_page > 0
            && (RECORD_HEADER..=room).contains(&length)
            && self.previous == Some(header.previous)
            && (header.manager <= ResourceManager::LAST_OF_ALL || self.facts.knows(header.manager))
            && !header.is_overwrite()
            && input[..padding as usize].iter().all(|&byte| byte == 0);
        let record = bytes.get(..length).filter(|_| is_usual)?;
        let content = crc32c::crc32c(&record[RECORD_HEADER..]);
        let crc = crc32c::crc32c_append(content, &record[..CHECKED_HEADER]);
        if crc != header.crc {
            return None;
        }
        *input = &bytes[length..];
        self.start = start;
        self.at = Lsn(start.0.wrapping_add(length as u64));
        self.count_record(&header);
        Some(Record {
            start,
            end: self.at,
            header,
            bytes: record,
        })
    }

    /// The record that begins at `start` ends here.
    #[inline]
    fn count_record(&mut self, header: &RecordHeader) {
        self.records += 1;
        self.previous = Some(self.start);
        self.overwrite = None;
        self.rest.clear();
        let empties = header.is_switch() && self.expected.segment_size.offset_of(self.at) != 0;
        self.state = if empties { State::Zeros } else { State::Between };
    }

    // ---- what is passed over ----

    fn skip(&mut self, input: &mut &[u8], count: usize) {
        *input = &input[count..];
        self.advance(count);
    }

    /// A file can bear the name of the very last segment, behind whose end there is no position.
    fn advance(&mut self, count: usize) {
        self.at = Lsn(self.at.0.wrapping_add(count as u64));
    }

    fn skip_padding(&mut self, input: &mut &[u8]) -> Result<(), Fault> {
        let padding = self.at.0.wrapping_neg() % ALIGNMENT;
        let count = input.len().min(padding as usize);
        self.check_zeros(&input[..count])?;
        self.skip(input, count);
        Ok(())
    }

    fn skip_rest(&mut self, input: &mut &[u8], available: usize, missing: u32) {
        let count = available.min(missing as usize);
        if (self.rest_length as usize) < RECORD_HEADER {
            self.rest.extend_from_slice(&input[..count]);
        }
        let missing = missing - count as u32;
        self.state = if missing == 0 {
            State::Between
        } else {
            State::Rest { missing }
        };
        self.skip(input, count);
    }

    /// Whether the rest of a record that was passed over last was that of a switch.
    fn is_rest_of_switch(&self) -> bool {
        // At least the header's first 8 bytes lie on the page before.
        let from = RECORD_HEADER - self.rest.len();
        let at = |offset: usize| self.rest[offset - from];
        matches!(self.rest.len(), 8 | 16) && at(17) == ResourceManager::XLOG.0 && at(16) & 0xF0 == 0x40
    }

    fn skip_zeros(&mut self, input: &mut &[u8]) -> Result<(), Fault> {
        let size = self.expected.segment_size;
        let room = size.bytes() - size.offset_of(self.at);
        let count = usize::try_from(room).map_or(input.len(), |room| room.min(input.len()));
        self.check_zeros(&input[..count])?;
        self.skip(input, count);
        if count as u64 == room {
            self.state = State::outside(self.depth);
        }
        Ok(())
    }

    fn check_zeros(&self, bytes: &[u8]) -> Result<(), Fault> {
        first_not_zero(bytes).map_or(Ok(()), |offset| {
            Err(Fault {
                place: Place::Byte(self.at.advanced_by(offset as u64)),
                flaw: Flaw::NotZero(bytes[offset]),
            })
        })
    }
}
