//! Going over one stored segment: what it holds, and every place where it is damaged.
//!
//! ```text
//!  segment                              next segment
//! |rest| first ... x~~~| good ... last ---|---| first of the next ...
//!                  ^ damage       ^ last      ^ handover: where the next one's first must begin
//!                    until: the next good record
//! ```
//!
//! A scan ends where the record ends that began last in its segment: it is fed the next segment's bytes,
//! too, as long as it asks for them. So segments can be scanned at the same time and joined afterwards.
//!
//! After a fault the scan goes on with the next page, whose header tells where the first record begins.
//! What is wrong before the next good record is taken for the same damage.

use super::content::Completion;
use super::decoder::{Decoder, Depth, Event, Expected};
use super::fault::{Fault, Flaw, Place};
use super::page::{LONG_HEADER, PageHeader, SHORT_HEADER};
use super::record::{ALIGNMENT, RECORD_HEADER, Record, RecordHeader};
use crate::core::history::History;
use crate::core::lsn::{Lsn, SegmentSize};

/// Enough of a record to know a transaction's end and what a replacing record replaces.
pub const LEAST_KEEP: usize = 64;

/// So many damages of one segment are kept; the others are counted.
pub const MOST_DAMAGES: usize = 100;

/// A record whose last bytes are there has arrived in whole; so many bytes are looked at.
const LAST_BYTES: u64 = 8;

/// What is known of a segment before it is read.
#[derive(Debug, Clone)]
pub struct Known {
    /// What every segment of the directory has in common.
    pub expected: Expected,
    /// The pages' magic number.
    pub magic: Option<u16>,
    /// Bytes in a page.
    pub block_size: Option<u32>,
    /// The history of the file's timeline, if it is there.
    pub history: Option<History>,
}

/// Something is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// What and where.
    pub fault: Fault,
    /// The record inside which it was met.
    pub within: Option<Lsn>,
    /// Where the next good record begins: nothing between is known to be right. `None`: behind the segment.
    pub until: Option<Lsn>,
}

/// A record and what it says about the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Where it begins.
    pub start: Lsn,
    /// Where it says that the one before it begins.
    pub previous: Lsn,
}

/// Where the next segment's first record must begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handover {
    /// Its position.
    pub at: Lsn,
    /// What it must say about the one before it, if that is known.
    pub previous: Option<Lsn>,
    /// Whether the scan itself went beyond its segment to find out, and has looked at all that lies before.
    pub crossed: bool,
}

/// How a segment's log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It goes on in the next segment.
    Next,
    /// With the bytes, or with zeros behind them.
    Log {
        /// Behind the last complete record.
        at: Lsn,
        /// The record that begins there and is not complete.
        unfinished: Option<Lsn>,
    },
    /// In damage.
    Lost,
}

/// What a segment holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Good pages.
    pub pages: u64,
    /// Good records that begin here.
    pub records: u64,
    /// Transactions that were committed by them.
    pub commits: u64,
    /// The first record that begins here, unless damage lies before it.
    pub first: Option<Link>,
    /// The good record that begins last.
    pub last: Option<Lsn>,
    /// Where what follows begins; `None` if damage hides it.
    pub handover: Option<Handover>,
    /// What is wrong, in order.
    pub damages: Vec<Damage>,
    /// Damages beyond [`MOST_DAMAGES`].
    pub more_damages: u64,
    /// How it ends.
    pub end: End,
}

/// What a scan wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The bytes at [`Scan::position`].
    More,
    /// Nothing.
    Done,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Scan {
    decoder: Decoder,
    size: SegmentSize,
    history: Option<History>,
    end: Lsn,
    content_end: Option<Lsn>,
    outcome: Outcome,
    ended: bool,
    /// Behind a fault, and no good record since.
    lost: bool,
    /// The page at which decoding went on although it was at fault itself.
    retried: Option<Lsn>,
    last_page: Option<Lsn>,
}

impl Scan {
    /// A scan of the segment that begins at `start`; of records that cross pages `keep` bytes are put together.
    pub fn new(known: Known, start: Lsn, keep: usize) -> Scan {
        let size = known.expected.segment_size;
        let mut decoder = Decoder::new(known.expected, Depth::Records, start, keep.max(LEAST_KEEP));
        decoder.expect_pages(known.magic, known.block_size);
        let outcome = Outcome {
            pages: 0,
            records: 0,
            commits: 0,
            first: None,
            last: None,
            handover: None,
            damages: Vec::new(),
            more_damages: 0,
            end: End::Next,
        };
        Scan {
            decoder,
            size,
            history: known.history,
            end: size.end_of(size.segment_of(start)),
            content_end: None,
            outcome,
            ended: false,
            lost: false,
            retried: None,
            last_page: None,
        }
    }

    /// The log may end before `lsn`, behind which nothing but zeros is known of: from there on, and in a
    /// record that reaches beyond, a fault is the end.
    pub fn may_end_at(&mut self, lsn: Lsn) {
        self.content_end = Some(lsn);
    }

    /// Position of the next byte to feed. After a fault it may lie before or behind.
    pub fn position(&self) -> Lsn {
        self.decoder.position()
    }

    /// Whether the bytes behind the segment are of interest: a record reaches there.
    pub fn crosses(&self) -> bool {
        !self.ended && !self.lost && self.decoder.unfinished().is_some()
    }

    /// Takes the bytes at [`Scan::position`], showing every good record that begins in the segment.
    pub fn feed(&mut self, bytes: &[u8], mut see: impl FnMut(&Record)) -> Step {
        let mut input = bytes;
        while !self.ended {
            let seen = match self.decoder.next(&mut input) {
                Ok(None) => break,
                Ok(Some(Event::Page(lsn, header))) => Seen::Page(lsn, header),
                Ok(Some(Event::Abandoned(_))) => Seen::Replacement,
                Ok(Some(Event::Record(record))) => {
                    if record.start < self.end {
                        see(&record);
                    }
                    let commits = Completion::of(&record).is_some_and(Completion::is_commit);
                    Seen::Record(record.start, record.end, record.header, commits)
                }
                Err(fault) => {
                    self.meet(fault);
                    break;
                }
            };
            match seen {
                Seen::Page(lsn, header) => self.enter_page(lsn, Some(header)),
                Seen::Replacement => self.enter_page(self.page_of(self.position()), None),
                Seen::Record(start, end, header, commits) => self.count(start, end, &header, commits),
            }
        }
        if self.position() >= self.end && !self.crosses() && !self.is_awaited() {
            self.ended = true;
        }
        match self.ended {
            true => Step::Done,
            false => Step::More,
        }
    }

    /// What was found; to be asked when no more is wanted, or there is no more.
    pub fn finish(mut self) -> Outcome {
        let outcome = &mut self.outcome;
        if self.lost {
            outcome.end = End::Lost;
        } else if outcome.handover.is_none() && outcome.end == End::Next {
            let unfinished = self.decoder.unfinished();
            let at = self.decoder.verified();
            if self.decoder.position() < self.end || unfinished.is_some() {
                outcome.end = End::Log { at, unfinished };
            } else if !self.decoder.is_in_rest() {
                let at = next_record(self.end, self.size, self.decoder.block_size());
                let previous = outcome.last;
                outcome.handover = Some(Handover {
                    at,
                    previous,
                    crossed: false,
                });
            }
        }
        self.outcome
    }

    /// Whether the damage began here and the next good record is looked for in the next segment.
    fn is_awaited(&self) -> bool {
        let beyond = |damage: &Damage| damage.fault.place.lsn() >= self.end;
        let within = self.position() < self.size.end_of(self.size.segment_of(self.end));
        self.lost && within && self.outcome.damages.last().is_some_and(beyond)
    }

    fn enter_page(&mut self, page: Lsn, header: Option<PageHeader>) {
        if page >= self.end || self.last_page.is_some_and(|last| page <= last) {
            return;
        }
        self.last_page = Some(page);
        self.outcome.pages += 1;
        let owner = self.history.as_ref().map(|history| history.owner_of(page));
        if let (Some(expected), Some(header)) = (owner, header)
            && header.timeline != expected
        {
            let (expected, found) = ((expected, expected), header.timeline);
            let flaw = Flaw::PageTimeline { expected, found };
            let place = Place::Page(page);
            self.note(Fault { place, flaw }, Some(self.position()));
        }
    }

    fn count(&mut self, start: Lsn, end: Lsn, header: &RecordHeader, commits: bool) {
        let was_lost = std::mem::take(&mut self.lost);
        if was_lost && let Some(damage) = self.outcome.damages.last_mut() {
            damage.until = Some(start);
        }
        let known = self.outcome.last;
        if start < self.end {
            let outcome = &mut self.outcome;
            outcome.records += 1;
            outcome.commits += u64::from(commits);
            if outcome.last.is_none() && !was_lost {
                let previous = header.previous;
                outcome.first = Some(Link { start, previous });
            }
            outcome.last = Some(start);
            if end <= self.end {
                return;
            }
        }
        let behind_switch = header.is_switch() && self.size.offset_of(end) != 0;
        let at = match (start >= self.end, behind_switch) {
            (true, _) => start,
            (false, true) => self.behind(self.size.end_of(self.size.segment_of(end))),
            (false, false) => self.behind(end),
        };
        let previous = match start >= self.end {
            true => known.filter(|_| !was_lost),
            false => Some(start),
        };
        self.outcome.handover = Some(Handover {
            at,
            previous,
            crossed: false,
        });
        self.ended = true;
    }

    fn page_of(&self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0 & !(self.decoder.block_size() - 1))
    }

    fn behind(&self, end: Lsn) -> Lsn {
        next_record(end, self.size, self.decoder.block_size())
    }

    /// Decides what a fault means, and where to go on.
    fn meet(&mut self, fault: Fault) {
        if self.is_end(&fault) {
            self.ended = true;
            if !self.lost {
                let at = self.decoder.verified();
                let unfinished = self.decoder.unfinished().or(match fault {
                    Fault {
                        flaw: Flaw::NoRecord, ..
                    } => None,
                    Fault {
                        place: Place::Record(start),
                        ..
                    } if Some(start) < self.content_end => Some(start),
                    _ => None,
                });
                self.outcome.end = End::Log { at, unfinished };
            }
            return;
        }
        if !self.lost {
            self.lost = true;
            self.note(fault, None);
        }
        let block = self.decoder.block_size();
        let page = self.page_of(fault.place.lsn());
        let continuation = matches!(
            (fault.place, fault.flaw),
            (Place::Page(_), Flaw::Continuation { .. })
        );
        let next = if continuation && self.retried != Some(page) {
            self.retried = Some(page);
            page
        } else {
            page.advanced_by(block)
        };
        self.decoder.skip_to(next);
    }

    fn note(&mut self, fault: Fault, until: Option<Lsn>) {
        if self.outcome.damages.len() == MOST_DAMAGES {
            self.outcome.more_damages += 1;
            return;
        }
        let within = self.decoder.unfinished();
        let within = within.filter(|&start| start != fault.place.lsn());
        self.outcome.damages.push(Damage { fault, within, until });
    }

    /// Whether the log may simply end there.
    fn is_end(&self, fault: &Fault) -> bool {
        let Some(content_end) = self.content_end else {
            return false;
        };
        let place = fault.place.lsn();
        if place >= content_end {
            return true;
        }
        match (fault.place, fault.flaw) {
            (Place::Page(page), _) => {
                let long = self.size.offset_of(page) == 0;
                let header = if long { LONG_HEADER } else { SHORT_HEADER };
                content_end < page.advanced_by(header as u64)
            }
            (Place::Record(start), Flaw::Crc { .. }) => {
                let length = u64::from(self.decoder.record_length());
                let end = self.end_of_record(start, length);
                content_end.advanced_by(LAST_BYTES) <= end
            }
            (Place::Record(start), _) => content_end < self.end_of_record(start, RECORD_HEADER as u64),
            (Place::Byte(_), _) => false,
        }
    }

    /// The first position behind a record's last byte, the headers of the pages it crosses counted.
    fn end_of_record(&self, start: Lsn, length: u64) -> Lsn {
        let block = self.decoder.block_size();
        let (mut at, mut left) = (start, length);
        loop {
            let room = block - (at.0 & (block - 1));
            if left <= room {
                return at.advanced_by(left);
            }
            left -= room;
            let page = at.advanced_by(room);
            at = next_record(page, self.size, block);
        }
    }
}

/// What the decoder gave, without what it lent.
enum Seen {
    Page(Lsn, PageHeader),
    /// A page that begins with what replaces a half-written record; its header has just been passed.
    Replacement,
    Record(Lsn, Lsn, RecordHeader, bool),
}

/// Where the record behind one that ends at `end` begins: aligned, and not in a page's header.
fn next_record(end: Lsn, size: SegmentSize, block: u64) -> Lsn {
    let at = Lsn(end.0.next_multiple_of(ALIGNMENT));
    if size.offset_of(at) == 0 {
        at.advanced_by(LONG_HEADER as u64)
    } else if at.0 & (block - 1) == 0 {
        at.advanced_by(SHORT_HEADER as u64)
    } else {
        at
    }
}
