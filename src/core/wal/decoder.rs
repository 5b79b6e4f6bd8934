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

mod resume;

use super::fault::{Fault, Flaw, Place};
use super::page::{LONG_HEADER, LongHeader, PageHeader, SHORT_HEADER, Version};
use super::record::{
    ALIGNMENT, CHECKED_HEADER, LONGEST_RECORD, RECORD_HEADER, Record, RecordHeader, ResourceManager,
};
use crate::core::lsn::{Lsn, SegmentSize, Timeline};

/// What is known of the log before its first byte is read.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// Bytes in a segment.
    pub segment_size: SegmentSize,
    /// The timeline of the files; pages before a switch carry that of an earlier one.
    pub timeline: Timeline,
    /// The server's system identifier; `None`: the first segment tells it.
    pub system_identifier: Option<u64>,
}

/// What a decoder looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The headers of pages.
    Pages,
    /// Pages and records.
    Records,
}

/// What was found.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A page begins there.
    Page(Lsn, PageHeader),
    /// A record is complete, and right.
    Record(Record<'a>),
    /// The half-written record that begins there has been replaced; `None`: it began before the first
    /// byte that was fed.
    Abandoned(Option<Lsn>),
}

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

/// Reads the log; see the module.
#[derive(Debug, Clone)]
pub struct Decoder {
    expected: Expected,
    depth: Depth,
    /// How many bytes of a record in parts are put together; at least its header.
    keep: usize,
    state: State,
    /// Position of the next byte.
    at: Lsn,
    /// Bytes in a page, a power of two; told by the first long header.
    block: u64,
    /// Whether a long header has told it.
    block_told: bool,
    magic: Option<u16>,
    /// The timeline of the last page.
    page_timeline: Timeline,
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
    /// bytes are put together, and no more memory than that is used.
    pub fn new(expected: Expected, depth: Depth, start: Lsn, keep: usize) -> Decoder {
        assert_eq!(
            expected.segment_size.offset_of(start),
            0,
            "decoding begins with a segment"
        );
        let keep = keep.max(RECORD_HEADER);
        Decoder {
            expected,
            depth,
            keep,
            state: if depth == Depth::Records {
                State::Between
            } else {
                State::Unseen
            },
            at: start,
            block: 8192,
            block_told: false,
            magic: None,
            page_timeline: Timeline(1),
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

    /// Position of the next byte.
    pub fn position(&self) -> Lsn {
        self.at
    }

    /// Everything before this has been found right: a record counts when it is complete.
    pub fn verified(&self) -> Lsn {
        match self.state {
            State::Inside { .. } => self.start,
            _ => Lsn(self.at.0 - self.page_taken as u64),
        }
    }

    /// Where the record begins that is not complete yet.
    pub fn unfinished(&self) -> Option<Lsn> {
        matches!(self.state, State::Inside { .. }).then_some(self.start)
    }

    /// Where the last complete record begins.
    pub fn previous(&self) -> Option<Lsn> {
        self.previous
    }

    /// Whether what follows belongs to a record whose beginning was not fed.
    pub fn is_in_rest(&self) -> bool {
        matches!(self.state, State::Rest { .. })
    }

    /// Whether only zeros may follow up to the segment's end.
    pub fn is_behind_switch(&self) -> bool {
        self.state == State::Zeros
    }

    /// Records that were complete and right.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The version of the server that wrote the log, once a page told it.
    pub fn version(&self) -> Option<Version> {
        self.magic.and_then(Version::of_magic)
    }

    /// The system identifier, once a page told it.
    pub fn system_identifier(&self) -> Option<u64> {
        self.expected.system_identifier
    }

    /// Goes back to [`Decoder::verified`]: what lies behind will be fed again, and may be different.
    /// After this the decoder can also go on after a fault.
    pub fn rewind(&mut self) {
        self.at = self.verified();
        self.page_taken = 0;
        if let State::Inside { .. } = self.state {
            self.state = State::Between;
        }
    }

    /// Takes from `input` up to the end of the next page header or record; `None` when all of it is
    /// taken. After a fault the decoder stays where it was, see [`Decoder::verified`].
    pub fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Result<Option<Event<'s>>, Fault> {
        while !input.is_empty() {
            if self.is_header_due() {
                if let Some(page) = self.take_page_header(input)? {
                    return Ok(Some(page));
                }
                continue;
            }
            let room = self.page_end().bytes_since(self.at);
            let available = usize::try_from(room).map_or(input.len(), |room| room.min(input.len()));
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

    // ---- pages ----

    fn page_end(&self) -> Lsn {
        Lsn((self.at.0 | (self.block - 1)) + 1)
    }

    fn is_header_due(&self) -> bool {
        let begins = self.at.0 & (self.block - 1) == 0;
        self.page_taken > 0 || (begins && self.state != State::Zeros)
    }

    /// Takes a page's header; `None` if it has not arrived in whole.
    fn take_page_header<'a>(&mut self, input: &mut &[u8]) -> Result<Option<Event<'a>>, Fault> {
        let page = Lsn(self.at.0 - self.page_taken as u64);
        let long = self.expected.segment_size.offset_of(page) == 0;
        let length = if long { LONG_HEADER } else { SHORT_HEADER };
        let count = input.len().min(length - self.page_taken);
        self.page_header[self.page_taken..self.page_taken + count].copy_from_slice(&input[..count]);
        if self.page_taken + count < length {
            self.page_taken += count;
            self.skip(input, count);
            return Ok(None);
        }
        let bytes = self.page_header;
        if self.depth == Depth::Pages && bytes[..length].iter().all(|&byte| byte == 0) && !long {
            self.state = State::Zeros;
            self.page_taken = 0;
            self.skip(input, count);
            return Ok(None);
        }
        let (short, rest) = bytes.split_first_chunk().expect("a long header is longer");
        let header = PageHeader::parse(short);
        let more = rest.first_chunk().filter(|_| long).map(LongHeader::parse);
        let check = self.check_page(page, &header, more.as_ref());
        check.map_err(|flaw| Fault {
            place: Place::Page(page),
            flaw,
        })?;
        self.magic = Some(header.magic);
        self.page_timeline = header.timeline;
        if let Some(more) = more {
            (self.block, self.block_told) = (u64::from(more.block_size), true);
            self.expected.system_identifier = Some(more.system_identifier);
        }
        self.page_taken = 0;
        self.skip(input, count);
        let abandoned = self.enter_page(&header);
        Ok(Some(match abandoned {
            Some(start) => Event::Abandoned(start),
            None => Event::Page(page, header),
        }))
    }

    /// In the order of PostgreSQL's XLogReaderValidatePageHeader, then what records demand.
    fn check_page(&self, page: Lsn, header: &PageHeader, more: Option<&LongHeader>) -> Result<(), Flaw> {
        let expected = self.magic.filter(|&magic| magic != header.magic);
        if header.version().is_none() || expected.is_some() {
            let found = header.magic;
            return Err(Flaw::Magic {
                expected: self.magic,
                found,
            });
        }
        if !header.has_valid_flags() {
            return Err(Flaw::Flags(header.info));
        }
        if header.is_long() != more.is_some() {
            return Err(Flaw::HeaderLength { long: more.is_some() });
        }
        if let Some(more) = more {
            self.check_long_header(more)?;
        }
        if header.address != page {
            return Err(Flaw::Address {
                expected: page,
                found: header.address,
            });
        }
        let expected = (self.page_timeline, self.expected.timeline);
        if header.timeline < expected.0 || header.timeline > expected.1 {
            let found = header.timeline;
            return Err(Flaw::PageTimeline { expected, found });
        }
        if header.padding != 0 {
            return Err(Flaw::Padding(header.padding));
        }
        self.check_continuation(page, header)
    }

    fn check_long_header(&self, more: &LongHeader) -> Result<(), Flaw> {
        let identifier = self.expected.system_identifier;
        if let Some(expected) = identifier.filter(|&known| known != more.system_identifier) {
            let found = more.system_identifier;
            return Err(Flaw::SystemIdentifier { expected, found });
        }
        let expected = self.expected.segment_size.bytes();
        if u64::from(more.segment_size) != expected {
            let found = more.segment_size;
            return Err(Flaw::SegmentSize { expected, found });
        }
        let valid = more.block_size.is_power_of_two() && (1 << 10..=1 << 16).contains(&more.block_size);
        let told = u32::try_from(self.block).ok().filter(|_| self.block_told);
        if !valid || told.is_some_and(|told| told != more.block_size) {
            let found = more.block_size;
            return Err(Flaw::BlockSize {
                expected: told,
                found,
            });
        }
        Ok(())
    }

    /// Whether the page goes on with what the page before left unfinished.
    fn check_continuation(&self, page: Lsn, header: &PageHeader) -> Result<(), Flaw> {
        let found = header.remaining;
        let consistent = header.begins_with_rest() == (found > 0)
            && !(header.begins_with_rest() && header.begins_with_overwrite());
        let known = match self.state {
            State::Inside { taken } => Some(self.header.total_length - taken),
            State::Rest { missing } => Some(missing),
            State::Between if self.previous.is_some() || page != self.start => Some(0),
            State::Between | State::Zeros | State::Unseen => None,
        };
        match known {
            None if consistent => Ok(()),
            Some(expected) if consistent && (found == expected || header.begins_with_overwrite()) => Ok(()),
            _ => {
                let expected = known.unwrap_or(0);
                let found = if header.begins_with_rest() || found == expected {
                    found.max(1)
                } else {
                    found
                };
                Err(Flaw::Continuation { expected, found })
            }
        }
    }

    /// Goes on with what the page begins with; gives the record that it abandons, if it does.
    fn enter_page(&mut self, header: &PageHeader) -> Option<Option<Lsn>> {
        if self.depth == Depth::Pages {
            return None;
        }
        if header.begins_with_overwrite() {
            let abandoned = self.unfinished();
            let known = self.state == State::Between;
            self.state = State::Between;
            self.overwrite = Some(abandoned);
            return (!known).then_some(abandoned);
        }
        if self.state == State::Between && header.remaining > 0 {
            self.state = State::Rest {
                missing: header.remaining,
            };
            self.rest.clear();
            self.rest_length = header.remaining;
        }
        None
    }

    // ---- records ----

    fn begin_record<'a>(&mut self, input: &mut &'a [u8], available: usize) -> Result<Begun<'a>, Fault> {
        self.start = self.at;
        let Some(bytes) = input[..available].first_chunk::<RECORD_HEADER>() else {
            return self.begin_parts(input, available);
        };
        let header = RecordHeader::parse(bytes);
        if header.total_length == 0 && self.is_rest_of_switch() {
            return Ok(Begun::Switched);
        }
        self.check_header(&header)?;
        let length = header.total_length as usize;
        self.header = header;
        if available < length {
            self.parts.clear();
            self.crc = 0;
            self.state = State::Inside { taken: 0 };
            return Ok(Begun::Parts);
        }
        let (record, rest) = input.split_at(length);
        self.check_crc(
            crc32c::crc32c(&record[RECORD_HEADER..]),
            &record[..CHECKED_HEADER],
        )?;
        self.check_overwrite(record)?;
        *input = rest;
        Ok(Begun::Whole(record))
    }

    /// Begins a record whose header does not lie here in whole: its length does, or will in a moment.
    fn begin_parts<'a>(&mut self, input: &[u8], available: usize) -> Result<Begun<'a>, Fault> {
        // The length may be cut by the portion, never by the page: then it is checked with the header.
        let length = input[..available]
            .first_chunk()
            .map(|bytes| u32::from_le_bytes(*bytes));
        if length == Some(0) && self.is_rest_of_switch() {
            return Ok(Begun::Switched);
        }
        if let Some(length) = length {
            self.check_length(length)?;
        }
        self.header.total_length = length.unwrap_or(0);
        self.parts.clear();
        self.crc = 0;
        self.state = State::Inside { taken: 0 };
        Ok(Begun::Parts)
    }

    /// Takes what is there of a record in parts; true once that is all of it.
    fn take_part(&mut self, input: &mut &[u8], available: usize, taken: u32) -> Result<bool, Fault> {
        if (taken as usize) < RECORD_HEADER {
            return self.take_header_part(input, available, taken);
        }
        let count = available.min((self.header.total_length - taken) as usize);
        let part = &input[..count];
        self.crc = crc32c::crc32c_append(self.crc, part);
        let kept = count.min(self.keep - self.parts.len().min(self.keep));
        self.parts.extend_from_slice(&part[..kept]);
        let taken = taken + count as u32;
        if taken < self.header.total_length {
            self.state = State::Inside { taken };
            self.skip(input, count);
            return Ok(false);
        }
        self.check_crc(self.crc, &self.parts[..CHECKED_HEADER])?;
        self.check_overwrite(&self.parts)?;
        self.skip(input, count);
        Ok(true)
    }

    /// Takes what is there of the header of a record in parts; true once the record is complete, which
    /// one without content is with its header.
    fn take_header_part(&mut self, input: &mut &[u8], available: usize, taken: u32) -> Result<bool, Fault> {
        let taken = taken as usize;
        self.parts.truncate(taken);
        let count = available.min(RECORD_HEADER - taken);
        self.parts.extend_from_slice(&input[..count]);
        if taken < 4
            && let Some(bytes) = self.parts.first_chunk()
        {
            let length = u32::from_le_bytes(*bytes);
            if length == 0 && self.is_rest_of_switch() {
                self.state = State::Zeros;
                return Ok(false);
            }
            self.check_length(length)?;
            self.header.total_length = length;
        }
        if let Some(bytes) = self.parts.first_chunk() {
            let header = RecordHeader::parse(bytes);
            self.check_header(&header)?;
            self.header = header;
            if header.total_length as usize == RECORD_HEADER {
                self.check_crc(0, &self.parts[..CHECKED_HEADER])?;
                self.check_overwrite(&self.parts)?;
                self.skip(input, count);
                return Ok(true);
            }
        }
        self.state = State::Inside {
            taken: (taken + count) as u32,
        };
        self.skip(input, count);
        Ok(false)
    }

    fn fault(&self, flaw: Flaw) -> Fault {
        Fault {
            place: Place::Record(self.start),
            flaw,
        }
    }

    fn check_length(&self, length: u32) -> Result<(), Fault> {
        match length {
            0 => Err(self.fault(Flaw::NoRecord)),
            _ if (length as usize) < RECORD_HEADER || length > LONGEST_RECORD => {
                Err(self.fault(Flaw::Length(length)))
            }
            _ => Ok(()),
        }
    }

    fn check_header(&self, header: &RecordHeader) -> Result<(), Fault> {
        self.check_length(header.total_length)?;
        if !self.knows(header.manager) {
            return Err(self.fault(Flaw::Manager(header.manager)));
        }
        let found = header.previous;
        match self.previous {
            Some(expected) if found != expected => Err(self.fault(Flaw::Previous { expected, found })),
            None if found >= self.start => {
                let expected = Lsn(self.start.0 - 1);
                Err(self.fault(Flaw::Previous { expected, found }))
            }
            _ => Ok(()),
        }
    }

    /// Whether the server's version has such a resource manager.
    fn knows(&self, manager: ResourceManager) -> bool {
        let version = self.version().map_or(0, Version::major);
        match manager.0 {
            0..=21 => true,
            22 => version >= 19,
            128..=255 => version >= 15,
            _ => false,
        }
    }

    /// Continues the CRC of a record's content with its header, and compares.
    fn check_crc(&self, content: u32, header: &[u8]) -> Result<(), Fault> {
        let found = crc32c::crc32c_append(content, header);
        let expected = self.header.crc;
        if found == expected {
            Ok(())
        } else {
            Err(self.fault(Flaw::Crc { expected, found }))
        }
    }

    /// Whether a record that must replace a half-written one does, and no other.
    fn check_overwrite(&self, record: &[u8]) -> Result<(), Fault> {
        let Some(abandoned) = self.overwrite else {
            return Ok(());
        };
        if !self.header.is_overwrite() {
            return Err(self.fault(Flaw::NoOverwrite));
        }
        // The record's only chunk: one byte of id, one of length, then the position.
        let found = record.get(RECORD_HEADER + 2..RECORD_HEADER + 10);
        let found = Lsn(found.map_or(0, |bytes| super::page::u64_at(bytes, 0)));
        match abandoned {
            Some(expected) if found != expected => Err(self.fault(Flaw::Overwritten { expected, found })),
            _ => Ok(()),
        }
    }

    fn whole_record<'a>(&mut self, bytes: &'a [u8]) -> Record<'a> {
        self.at = self.at.advanced_by(bytes.len() as u64);
        let header = self.complete_record();
        Record {
            start: self.start,
            end: self.at,
            header,
            bytes,
        }
    }

    fn joined_record(&mut self) -> Record<'_> {
        let header = self.complete_record();
        Record {
            start: self.start,
            end: self.at,
            header,
            bytes: &self.parts,
        }
    }

    fn complete_record(&mut self) -> RecordHeader {
        self.records += 1;
        self.previous = Some(self.start);
        self.overwrite = None;
        self.rest.clear();
        let at_segment_end = self.expected.segment_size.offset_of(self.at) == 0;
        self.state = if self.header.is_switch() && !at_segment_end {
            State::Zeros
        } else {
            State::Between
        };
        self.header
    }

    // ---- what is passed over ----

    fn skip(&mut self, input: &mut &[u8], count: usize) {
        *input = &input[count..];
        self.at = self.at.advanced_by(count as u64);
    }

    fn skip_padding(&mut self, input: &mut &[u8]) -> Result<(), Fault> {
        let padding = self.at.0.next_multiple_of(ALIGNMENT) - self.at.0;
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
        let room = size.end_of(size.segment_of(self.at)).bytes_since(self.at);
        let count = usize::try_from(room).map_or(input.len(), |room| room.min(input.len()));
        self.check_zeros(&input[..count])?;
        self.skip(input, count);
        if count as u64 == room {
            self.state = if self.depth == Depth::Records {
                State::Between
            } else {
                State::Unseen
            };
        }
        Ok(())
    }

    fn check_zeros(&self, bytes: &[u8]) -> Result<(), Fault> {
        // Without an early end the compiler can take many bytes at a time.
        let any = |chunk: &[u8]| chunk.iter().fold(0, |all, byte| all | byte) != 0;
        let Some(number) = bytes.chunks(4096).position(any) else {
            return Ok(());
        };
        let offset = bytes[number * 4096..]
            .iter()
            .position(|&byte| byte != 0)
            .unwrap_or(0)
            + number * 4096;
        let place = Place::Byte(self.at.advanced_by(offset as u64));
        Err(Fault {
            place,
            flaw: Flaw::NotZero(bytes[offset]),
        })
    }
}

/// What became of the beginning of a record.
enum Begun<'a> {
    /// It lies here in whole.
    Whole(&'a [u8]),
    /// It comes in parts.
    Parts,
    /// It is none: what was passed over was a switch.
    Switched,
}
