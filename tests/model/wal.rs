//! WAL as a server might have written it, made up from a seed, with a list of what is in it.
//!
//! Written from the format's description and sharing no code with the decoder, which is to be tested with
//! it. The program beside PostgreSQL that reads WAL, `pg_waldump`, reads this one too (`tests/decoder_servers.rs`).

use fastrand::Rng;

const LONG_HEADER: u64 = 40;
const SHORT_HEADER: u64 = 24;
const RECORD_HEADER: usize = 24;

const XLOG: u8 = 0;
const TRANSACTION: u8 = 1;
const NOOP: u8 = 0x20;
const SWITCH: u8 = 0x40;
const OVERWRITE: u8 = 0xD0;
const LOGICAL_MESSAGE: u8 = 21;

/// How the server was built and set up, and what it writes.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Major version of the server, 12 to 19.
    pub version: u16,
    /// Bytes in a page.
    pub block: u64,
    /// Bytes in a segment.
    pub segment: u64,
    /// The number of the first segment, 1 or greater.
    pub first_segment: u64,
    /// The timeline of the files.
    pub timeline: u32,
    /// So many pages at the beginning carry the timeline before it: they were copied at a promotion.
    pub older_pages: u64,
    /// The server's.
    pub system_identifier: u64,
    /// At least so many bytes are written.
    pub length: u64,
    /// The longest record, in bytes.
    pub longest: u64,
    /// Out of a thousand records, so many are switches.
    pub switches: u32,
    /// In the middle of so many records out of a thousand the server dies.
    pub deaths: u32,
}

impl Default for Shape {
    /// A server as it comes, but for its small segments.
    fn default() -> Shape {
        Shape {
            version: 15,
            block: 8192,
            segment: 1 << 20,
            first_segment: 3,
            timeline: 1,
            older_pages: 0,
            system_identifier: 0x6543_2100_1234_5678,
            length: 1 << 20,
            longest: 64 << 10,
            switches: 2,
            deaths: 2,
        }
    }
}

impl Shape {
    /// Any shape whose segments are small.
    pub fn random(rng: &mut Rng) -> Shape {
        let block = 1024 << rng.u32(0..=6);
        let timeline = rng.u32(1..=3);
        Shape {
            version: rng.u16(12..=19),
            block,
            first_segment: rng.u64(1..=5000),
            timeline,
            older_pages: if timeline > 1 && rng.bool() {
                rng.u64(1..40)
            } else {
                0
            },
            system_identifier: rng.u64(1..),
            length: rng.u64(1 << 18..1 << 20),
            longest: [300, 4096, 64 << 10, 3 << 20][rng.usize(0..4)],
            switches: [0, 1, 5][rng.usize(0..3)],
            deaths: [0, 2, 20][rng.usize(0..3)],
            ..Shape::default()
        }
    }
}

/// A complete record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Its first byte's position.
    pub start: u64,
    /// The position behind its last byte; padding is not part of it.
    pub end: u64,
    /// Where the record before begins.
    pub previous: u64,
    /// In bytes, without page headers.
    pub length: u32,
    /// The transaction's number.
    pub transaction: u32,
    /// The resource manager's number.
    pub manager: u8,
    /// What it is to its resource manager.
    pub info: u8,
    /// If it ends a transaction, when: microseconds since 2000-01-01 UTC.
    pub completed: Option<i64>,
}

impl Written {
    /// Whether it commits a transaction.
    pub fn is_commit(&self) -> bool {
        self.manager == TRANSACTION && matches!(self.info & 0x70, 0x00 | 0x30)
    }
}

/// What is written next is placed relative to the end of one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A page.
    Page,
    /// A segment.
    Segment,
}

/// The log: random, or written step by step.
#[derive(Debug, Clone)]
pub struct Wal {
    shape: Shape,
    rng: Rng,
    /// The position of the first byte.
    start: u64,
    bytes: Vec<u8>,
    records: Vec<Written>,
    abandoned: Vec<(u64, u64)>,
    /// Where the record ends that begins before the first byte; the first byte itself if none does.
    rest_end: u64,
    /// Behind switches: from where to where.
    emptied: Vec<(u64, u64)>,
    /// What is missing of the record that was left unfinished last.
    unfinished: Vec<u8>,
    previous: u64,
    clock: i64,
}

impl Wal {
    /// Random WAL; its last record is a commit.
    pub fn new(seed: u64, shape: Shape) -> Wal {
        let length = shape.length;
        let mut wal = Wal::empty(seed, shape);
        while (wal.bytes.len() as u64) < length {
            wal.anything();
        }
        wal.commit();
        wal
    }

    /// Nothing yet: a place to write at.
    pub fn empty(seed: u64, shape: Shape) -> Wal {
        let start = shape.first_segment * shape.segment;
        Wal {
            rng: Rng::with_seed(seed),
            start,
            bytes: Vec::new(),
            records: Vec::new(),
            abandoned: Vec::new(),
            rest_end: start,
            emptied: Vec::new(),
            unfinished: Vec::new(),
            previous: start - 0x58,
            clock: 700_000_000_000_000,
            shape,
        }
    }

    /// How it was made.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The position of the first byte: the beginning of a segment.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The position behind the last byte.
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// The bytes between two positions.
    pub fn bytes(&self, from: u64, to: u64) -> &[u8] {
        &self.bytes[(from - self.start) as usize..(to - self.start) as usize]
    }

    /// All bytes.
    pub fn all(&self) -> &[u8] {
        &self.bytes
    }

    /// The complete records that begin in it, in their order.
    pub fn records(&self) -> &[Written] {
        &self.records
    }

    /// The records in the middle of which the server died: where each begins, and the page that does not
    /// go on with it.
    pub fn abandoned(&self) -> &[(u64, u64)] {
        &self.abandoned
    }

    /// Where the record ends that begins before the first byte; the first byte's position if none does.
    pub fn rest_end(&self) -> u64 {
        self.rest_end
    }

    /// The bytes of a record without the headers of the pages in it.
    pub fn content(&self, record: &Written) -> Vec<u8> {
        let mut content = Vec::with_capacity(record.length as usize);
        let mut at = record.start;
        while at < record.end {
            if at.is_multiple_of(self.shape.block) {
                at += self.header_length(at);
            }
            let to = record.end.min((at + 1).next_multiple_of(self.shape.block));
            content.extend_from_slice(self.bytes(at, to));
            at = to;
        }
        content
    }

    /// Bytes of the header of the page that begins there.
    pub fn header_length(&self, page: u64) -> u64 {
        match page.is_multiple_of(self.shape.segment) {
            true => LONG_HEADER,
            false => SHORT_HEADER,
        }
    }

    /// Whether the position lies in the empty rest of a segment.
    pub fn is_behind_switch(&self, at: u64) -> bool {
        let index = self.emptied.partition_point(|&(_, to)| to <= at);
        self.emptied.get(index).is_some_and(|&(from, _)| from <= at)
    }

    /// The same log without what lies before a segment: it may begin with the rest of a record.
    pub fn without_segments(&self, segments: u64) -> Wal {
        let mut wal = self.clone();
        wal.start += segments * wal.shape.segment;
        let before = self.records.iter().take_while(|record| record.start < wal.start);
        wal.rest_end = before.last().map_or(0, |record| record.end).max(wal.start);
        wal.bytes.drain(..(wal.start - self.start) as usize);
        wal.records.retain(|record| record.start >= wal.start);
        wal.abandoned.retain(|&(_, page)| page >= wal.start);
        wal
    }

    /// The log of a server that was promoted there, at the end of a record or of a segment: it goes on from here, on
    /// another timeline.
    pub fn fork(&self, at: u64, timeline: u32) -> Wal {
        let mut wal = self.clone();
        resize(&mut wal.bytes, (at - self.start) as usize);
        wal.records.retain(|record| record.end <= at);
        wal.abandoned.retain(|&(_, page)| page < at);
        wal.emptied.retain(|&(_, to)| to <= at);
        wal.previous = wal.records.last().map_or(self.previous, |record| record.start);
        (wal.shape.timeline, wal.shape.older_pages) = (timeline, 0);
        wal
    }

    /// A byte to damage.
    pub fn byte_mut(&mut self, at: u64) -> &mut u8 {
        &mut self.bytes[(at - self.start) as usize]
    }

    // ---- records ----

    /// Whatever the shape allows.
    pub fn anything(&mut self) -> Written {
        let thousandth = self.rng.u32(0..1000);
        let (switches, deaths) = (self.shape.switches, self.shape.deaths);
        if thousandth < switches {
            return self.any_switch();
        }
        if thousandth < switches + deaths {
            let pages = self.rng.u64(1..4);
            return self.die_within(pages);
        }
        match self.rng.u32(0..100) {
            0..3 => {
                let left = [8, 16, 24, 32][self.rng.usize(0..4)];
                self.approach(Unit::Page, left)
            }
            3..5 => self.approach(Unit::Page, 0),
            5..20 => self.commit(),
            20..22 => self.completion(0x20, &[]),
            22..24 => self.prepared(0x30),
            24..25 => self.prepared(0x40),
            25..27 => self.record(RECORD_HEADER),
            27..90 => {
                let length = self.rng.usize(26..220);
                self.record(length)
            }
            90..99 => {
                let length = self.rng.usize(26..self.shape.longest.min(9000) as usize);
                self.record(length)
            }
            _ => {
                let length = self.rng.usize(26..self.shape.longest as usize);
                self.record(length)
            }
        }
    }

    /// A record of this length in bytes, 24 or at least 26, that says nothing.
    pub fn record(&mut self, length: usize) -> Written {
        let (manager, info) = (XLOG, NOOP);
        let content = length - RECORD_HEADER;
        let mut body = match content {
            0 => Vec::new(),
            1 => vec![0],
            2..=257 => vec![255, (content - 2) as u8],
            258..=300 => return self.message(length),
            _ => [&[254], &(content as u32 - 5).to_le_bytes()[..]].concat(),
        };
        let filled = body.len();
        body.resize(content, 0);
        self.rng.fill(&mut body[filled..]);
        self.put(manager, info, &body, None)
    }

    /// A logical message: a record whose content has a form.
    fn message(&mut self, length: usize) -> Written {
        let text = length - RECORD_HEADER - 5 - 26;
        let mut body = vec![254];
        body.extend((text as u32 + 26).to_le_bytes());
        body.extend(5u32.to_le_bytes());
        body.extend(1u32.to_le_bytes());
        body.extend(2u64.to_le_bytes());
        body.extend((text as u64).to_le_bytes());
        body.extend(b"w\0");
        body.extend((0..text).map(|_| self.rng.u8(b'a'..=b'z')));
        self.put(LOGICAL_MESSAGE, 0, &body, None)
    }

    /// The commit of a transaction.
    pub fn commit(&mut self) -> Written {
        self.completion(0x00, &[])
    }

    /// The end of a prepared transaction.
    fn prepared(&mut self, operation: u8) -> Written {
        let transaction = self.rng.u32(3..);
        let more = [&(1u32 << 4).to_le_bytes()[..], &transaction.to_le_bytes()].concat();
        self.completion(operation | 0x80, &more)
    }

    fn completion(&mut self, info: u8, more: &[u8]) -> Written {
        self.clock += self.rng.i64(1..1_000_000);
        let mut body = Vec::new();
        if self.rng.u8(0..4) == 0 {
            body.push(253);
            body.extend(self.rng.u16(1..).to_le_bytes());
        }
        if self.shape.version >= 14 && self.rng.u8(0..4) == 0 {
            body.push(252);
            body.extend(self.rng.u32(3..).to_le_bytes());
        }
        body.extend([255, 8 + more.len() as u8]);
        body.extend(self.clock.to_le_bytes());
        body.extend(more);
        self.put(TRANSACTION, info, &body, Some(self.clock))
    }

    /// The rest of the segment in which the record ends stays empty.
    pub fn switch(&mut self) -> Written {
        let record = self.put(XLOG, SWITCH, &[], None);
        let end = self.end().next_multiple_of(self.shape.segment);
        self.emptied.push((self.end(), end));
        resize(&mut self.bytes, (end - self.start) as usize);
        record
    }

    fn any_switch(&mut self) -> Written {
        if self.rng.bool() {
            let unit = [Unit::Page, Unit::Segment][self.rng.usize(0..2)];
            let left = [8, 16, 24][self.rng.usize(0..3)];
            self.approach(unit, left);
        }
        self.switch()
    }

    /// A record after which `left` bytes, a multiple of 8, are left in the page or segment.
    pub fn approach(&mut self, unit: Unit, left: u64) -> Written {
        self.begin_record();
        let size = match unit {
            Unit::Page => self.shape.block,
            Unit::Segment => self.shape.segment,
        };
        let mut target = (self.end() + 1).next_multiple_of(size) - left;
        if target < self.end() + 64 {
            target += size;
        }
        // What lies between and is not the record: headers of pages.
        let at = |position: u64| position / self.shape.block;
        let pages = at(target - 1) - at(self.end());
        let segments = (target - 1) / self.shape.segment - self.end() / self.shape.segment;
        let headers = pages * SHORT_HEADER + segments * (LONG_HEADER - SHORT_HEADER);
        let length = target - self.end() - headers - self.rng.u64(0..8);
        let longest = 1 << 28;
        let record = self.record(length.min(longest) as usize);
        debug_assert_eq!(self.end().next_multiple_of(8), target);
        record
    }

    /// Dies so many pages after the one in which a record begins; the next life replaces the record.
    pub fn die_within(&mut self, pages: u64) -> Written {
        let (start, page) = self.half_record(pages);
        self.replace(start, page)
    }

    /// A record that ends with a page although it is not complete: begins there, and the page's end.
    pub fn half_record(&mut self, pages: u64) -> (u64, u64) {
        self.begin_record();
        let length = (pages + 2) * self.shape.block;
        let mut body = vec![0; length as usize];
        self.rng.fill(&mut body);
        let record = self.make(XLOG, NOOP, &body);
        let start = self.end();
        let mut rest = &record[..];
        for piece in 0..pages {
            let room = (self.shape.block - self.end() % self.shape.block) as usize;
            self.bytes.extend_from_slice(&rest[..room]);
            rest = &rest[room..];
            if piece + 1 < pages {
                self.page(rest.len() as u32, false);
            }
        }
        self.unfinished = rest.to_vec();
        (start, self.end())
    }

    /// The next page replaces the record that was left unfinished.
    pub fn replace(&mut self, start: u64, page: u64) -> Written {
        assert_eq!(page, self.end(), "a page begins there");
        self.abandoned.push((start, page));
        self.page(0, true);
        self.overwrite(start)
    }

    /// The record that tells which one is replaced.
    pub fn overwrite(&mut self, start: u64) -> Written {
        let mut body = vec![255, 16];
        body.extend(start.to_le_bytes());
        body.extend(self.clock.to_le_bytes());
        self.put(XLOG, OVERWRITE, &body, None)
    }

    /// Forgets the bytes from a position on.
    pub fn cut(&mut self, to: u64) {
        self.bytes.truncate((to - self.start) as usize);
    }

    // ---- bytes ----

    /// The record that was left unfinished goes on for so many bytes, less than a page.
    pub fn go_on(&mut self, count: usize) {
        let rest = std::mem::take(&mut self.unfinished);
        self.page(rest.len() as u32, false);
        self.bytes.extend_from_slice(&rest[..count]);
    }

    /// What a file holds that was not written to yet.
    pub fn zeros(&mut self, count: usize) {
        self.bytes.resize(self.bytes.len() + count, 0);
    }

    /// Any record, complete and right.
    pub fn put(&mut self, manager: u8, info: u8, body: &[u8], completed: Option<i64>) -> Written {
        self.begin_record();
        let record = self.make(manager, info, body);
        let start = self.end();
        let mut rest = &record[..];
        loop {
            let room = (self.shape.block - self.end() % self.shape.block) as usize;
            let count = room.min(rest.len());
            self.bytes.extend_from_slice(&rest[..count]);
            rest = &rest[count..];
            if rest.is_empty() {
                break;
            }
            self.page(rest.len() as u32, false);
        }
        let number = |from: usize| u32::from_le_bytes(record[from..from + 4].try_into().unwrap());
        let written = Written {
            start,
            end: self.end(),
            previous: self.previous,
            length: record.len() as u32,
            transaction: number(4),
            manager,
            info,
            completed,
        };
        self.previous = start;
        self.records.push(written);
        written
    }

    fn make(&mut self, manager: u8, info: u8, body: &[u8]) -> Vec<u8> {
        let mut record = Vec::with_capacity(RECORD_HEADER + body.len());
        record.extend((RECORD_HEADER as u32 + body.len() as u32).to_le_bytes());
        record.extend(self.rng.u32(3..).to_le_bytes());
        record.extend(self.previous.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(body), &record);
        record.extend(crc.to_le_bytes());
        record.extend(body);
        record
    }

    /// Padding, and a page's header if one is due.
    fn begin_record(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        if self.end().is_multiple_of(self.shape.block) {
            self.page(0, false);
        }
    }

    /// A page's header.
    pub fn page(&mut self, remaining: u32, overwrite: bool) {
        let shape = &self.shape;
        let address = self.start + self.bytes.len() as u64;
        let new = shape.version >= 19;
        let long = address.is_multiple_of(shape.segment);
        let mut info = u16::from(remaining > 0) | u16::from(long) << 1;
        info |= u16::from(overwrite) << if new { 2 } else { 3 };
        info |= u16::from(!new && self.rng.bool()) << 2;
        let page = (address - shape.first_segment * shape.segment) / shape.block;
        let timeline = shape.timeline - u32::from(page < shape.older_pages);
        self.bytes.extend(magic(shape.version).to_le_bytes());
        self.bytes.extend(info.to_le_bytes());
        self.bytes.extend(timeline.to_le_bytes());
        self.bytes.extend(address.to_le_bytes());
        self.bytes.extend(remaining.to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(shape.system_identifier.to_le_bytes());
            self.bytes.extend((shape.segment as u32).to_le_bytes());
            self.bytes.extend((shape.block as u32).to_le_bytes());
        }
    }
}

/// The number at the head of each page.
pub fn magic(version: u16) -> u16 {
    match version {
        12 => 0xD101,
        13 => 0xD106,
        14 => 0xD10D,
        15 => 0xD110,
        16 => 0xD113,
        17 => 0xD116,
        18 => 0xD118,
        _ => 0xD121,
    }
}

/// Makes it so long, with zeros; in chunks, for the same reason.
pub fn resize(bytes: &mut Vec<u8>, length: usize) {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.truncate(length);
    while bytes.len() < length {
        bytes.extend_from_slice(&ZEROS[..ZEROS.len().min(length - bytes.len())]);
    }
}
