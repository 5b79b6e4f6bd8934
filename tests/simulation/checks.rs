//! What must be true of a directory, whatever happened. Nothing here is computed by the core: the server's bytes, the
//! disk's names and PostgreSQL's rules are all it looks at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use walring::core::lsn::{Lsn, SegmentNumber};
use walring::core::message::Status;
use walring::core::start::Position;

use super::disk::Disk;
use super::files::{final_name, partial_name};
use super::history::{History, Timeline};
use crate::model::{START, common_prefix, is_zero, segment_size};

const SECTOR: usize = 512;

/// Behind what was proved, so much is looked at again with each claim: what was durable must stay so.
const AGAIN: u64 = 64 << 10;

/// What was promised, and to whom.
#[derive(Default)]
pub struct Checks {
    pub history: Option<Arc<History>>,
    /// Where the directory begins: what was before is nobody's business.
    pub origin: Option<Lsn>,
    /// The greatest position that was claimed as flushed, of each timeline.
    claimed: BTreeMap<u32, Lsn>,
    /// Up to where the last claims were proved.
    proved: Option<(u32, Lsn)>,
    /// Whether the stream looks at records.
    pub looks_at_records: bool,
    /// Of each timeline, as much of that as was claimed by a stream that looks at records.
    claimed_records: BTreeMap<u32, Lsn>,
    /// The timelines of which the operator was told that not all of what is stored goes on, or cannot be.
    told: BTreeSet<u32>,
}

/// A directory as a program sees it that knows nothing of how it was made.
struct Listing<'a> {
    files: BTreeMap<&'a str, &'a [u8]>,
}

/// A segment's file by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    segment: u64,
    timeline: u32,
    is_complete: bool,
}

impl Name {
    fn parse(name: &str) -> Option<Name> {
        let (stem, suffix) = name.split_at_checked(24)?;
        let part = |range: std::ops::Range<usize>| u64::from_str_radix(&stem[range], 16).ok();
        let per_file = (1u64 << 32) / segment_size().bytes();
        let is_complete = match suffix {
            "" => true,
            ".partial" => false,
            _ => return None,
        };
        Some(Name {
            segment: part(8..16)? * per_file + part(16..24)?,
            timeline: part(0..8)? as u32,
            is_complete,
        })
    }
}

impl Listing<'_> {
    fn names(&self) -> impl Iterator<Item = Name> {
        self.files.keys().filter_map(|name| Name::parse(name))
    }

    /// The file of a segment, complete or not.
    fn file(&self, timeline: u32, segment: SegmentNumber) -> Option<&[u8]> {
        let complete = self.files.get(final_name(timeline, segment).as_str());
        complete
            .or_else(|| self.files.get(partial_name(timeline, segment).as_str()))
            .copied()
    }
}

impl Checks {
    /// A stream is about to start: the directory begins there, if it holds no segment yet.
    pub fn begin(&mut self, start: Lsn, is_empty: bool) {
        if is_empty {
            let claimed = self.claimed.values().max();
            let origin = self.origin.unwrap_or(start);
            assert!(
                claimed.is_none_or(|&claimed| claimed <= origin),
                "the directory is empty, but {claimed:?} was acknowledged"
            );
            self.origin = Some(start);
            self.claimed.clear();
        }
        self.proved = None;
    }

    /// The start of the lowest segment that an operator leaves here: a partial, or the newest one.
    pub fn first_that_stays(&self, disk: &Disk) -> Option<Lsn> {
        let names = || disk.names().filter_map(Name::parse);
        let partials = names().filter(|name| !name.is_complete);
        let newest = names().max_by_key(|name| (name.timeline, name.segment))?;
        let first = partials.map(|name| name.segment).fold(newest.segment, u64::min);
        Some(segment_size().start_of(SegmentNumber(first)))
    }

    /// The finished segments that end there or before.
    pub fn finished_before(&self, disk: &Disk, position: Lsn) -> Vec<String> {
        let limit = segment_size().segment_of(position).0;
        let is_before =
            |name: &&str| Name::parse(name).is_some_and(|name| name.is_complete && name.segment < limit);
        disk.names().filter(is_before).map(str::to_owned).collect()
    }

    /// What lies before has been moved away.
    pub fn begins_at(&mut self, position: Lsn) {
        self.origin = self.origin.map(|origin| origin.max(position));
        self.proved = None;
    }

    /// The operator is told that what is stored goes further than the place where the next timeline begins.
    pub fn hear_of_loss(&mut self, stored: Position, fork: Position) {
        let history = self.history.as_ref().expect("a history");
        let timeline = history.timeline(stored.timeline.0);
        assert_eq!(
            fork.timeline.0,
            timeline.number + 1,
            "the wrong timeline is followed"
        );
        assert_eq!(fork.lsn, timeline.left, "the next timeline does not begin there");
        assert!(
            fork.lsn < stored.lsn && stored.lsn <= timeline.end,
            "nothing was lost"
        );
        self.told.insert(timeline.number);
    }

    /// The stream did not look at records, and ended behind where the next timeline begins.
    pub fn hear_nothing(&mut self, timeline: u32) {
        self.told.insert(timeline);
    }

    /// A stream begins: of whatever was acknowledged of the timelines before, and is lost to the server, the operator
    /// has heard.
    pub fn follow(&self, start: Position) {
        let history = self.history.as_ref().expect("a history");
        for (&number, &claimed) in self.claimed_records.range(..start.timeline.0) {
            let lost = history.timeline(number).lost.filter(|&lost| lost <= claimed);
            assert!(
                lost.is_none() || self.told.contains(&number),
                "of timeline {number} {claimed} was acknowledged and the record up to {lost:?} is lost, and nobody is told"
            );
        }
    }

    /// Bytes that are to be written: the server's or zeros, and nothing that the file has of the server's is lost.
    pub fn write(&self, timeline: u32, position: Lsn, bytes: &[u8], held: &[u8]) {
        let history = self.history.as_ref().expect("a history");
        let end = position.advanced_by(bytes.len() as u64);
        let truth = history.timeline(timeline).bytes(position, end);
        if truth == bytes {
            return;
        }
        let sectors = bytes
            .chunks(SECTOR)
            .zip(held.chunks(SECTOR))
            .zip(truth.chunks(SECTOR));
        for (index, ((bytes, held), truth)) in sectors.enumerate() {
            let right = common_prefix(bytes, truth);
            let at = position.advanced_by((index * SECTOR + right) as u64);
            assert!(
                is_zero(&bytes[right..]),
                "neither WAL nor zeros are written at {at}"
            );
            assert!(
                right >= common_prefix(held, truth),
                "bytes of the file are written over at {at}"
            );
        }
    }

    /// A status is sent: if the machine stopped now, and the disk kept no more than it must, all that is claimed would
    /// be there. The server has sent so much, and when it asked for an answer last, so much.
    pub fn claim(
        &mut self,
        disk: &Disk,
        history: &Arc<History>,
        timeline: u32,
        claims: bool,
        status: Status,
        (sent, asked): (Lsn, Lsn),
    ) {
        let Status { written, flushed, .. } = status;
        assert!(
            written <= sent || sent == Lsn(0),
            "{written} is called written, {sent} was sent"
        );
        assert!(
            flushed <= written,
            "{flushed} is called flushed, {written} written"
        );
        if !claims {
            assert_eq!(flushed, Lsn::INVALID, "a claim that nobody may rely on");
            return;
        }
        // What is behind a segment's start is this stream's; before, it may know less of than others did.
        let is_start = segment_size().offset_of(flushed) == 0;
        let right = history.timeline(timeline).right_to(sent).max(asked);
        assert!(
            flushed <= right || is_start || !self.looks_at_records,
            "{flushed} is claimed; of what was sent only {right} is complete"
        );
        let note = |claims: &mut BTreeMap<u32, Lsn>| {
            let claimed = claims.entry(timeline).or_insert(Lsn(0));
            *claimed = (*claimed).max(flushed);
        };
        note(&mut self.claimed);
        if self.looks_at_records {
            note(&mut self.claimed_records);
        }
        let listing = || Listing {
            files: disk.durable().collect(),
        };
        let proved = self.proved.filter(|(of, _)| *of == timeline);
        match proved {
            Some((_, proved)) if flushed <= proved => {}
            Some((_, proved)) => {
                let from = Lsn(proved.0.saturating_sub(AGAIN)).max(self.origin.unwrap_or(START));
                self.holds(&listing(), history, timeline, from, flushed, "a claim");
                self.proved = Some((timeline, flushed));
            }
            None => {
                let from = self.origin.unwrap_or(START);
                self.holds(&listing(), history, timeline, from, flushed, "the first claim");
                self.proved = Some((timeline, flushed));
            }
        }
    }

    /// The directory holds the log of a timeline from one position to another.
    fn holds(&self, listing: &Listing, history: &History, timeline: u32, from: Lsn, to: Lsn, when: &str) {
        let size = segment_size();
        let mut at = from;
        while at < to {
            let segment = size.segment_of(at);
            let end = size.end_of(segment).min(to);
            let owner = history.name_of(size.start_of(segment), timeline);
            let truth = history.timeline(owner).bytes(at, end);
            let range = size.offset_of(at) as usize..size.offset_of(at) as usize + truth.len();
            let file = listing.file(owner, segment);
            let held = file.map_or(&[][..], |file| {
                &file[range.start.min(file.len())..range.end.min(file.len())]
            });
            if held != truth {
                let right = at.advanced_by(common_prefix(held, truth) as u64);
                let name = final_name(owner, segment);
                let state = if file.is_some() {
                    "is not what the server sent"
                } else {
                    "has no name"
                };
                panic!(
                    "{when} of {to} on timeline {timeline} is not durable: {name} {state} from {right} on"
                );
            }
            at = end;
        }
    }

    /// What a crash has left, or would leave.
    pub fn survives(&self, disk: &Disk, history: &Arc<History>, when: &str) {
        let listing = Listing {
            files: disk.durable().collect(),
        };
        let origin = self.origin.unwrap_or(START);
        for (&timeline, &claimed) in &self.claimed {
            self.holds(&listing, history, timeline, origin, claimed, when);
            if claimed > origin && timeline > 1 {
                let name = format!("{timeline:08X}.history");
                let file = listing.files.get(name.as_str());
                let expected = history.file(timeline);
                assert!(file == Some(&expected.as_bytes()), "{when}: {name} is not there");
            }
        }
        for name in listing.names() {
            self.check_file(&listing, history.timeline(name.timeline), name, when);
        }
        self.check_successor(&listing, history, origin, when);
    }

    /// A complete file is the server's; one that is not lies on top of its timeline, and holds the server's bytes or
    /// zeros.
    fn check_file(&self, listing: &Listing, timeline: &Timeline, name: Name, when: &str) {
        let segment = SegmentNumber(name.segment);
        let start = segment_size().start_of(segment);
        let (text, file) = match name.is_complete {
            true => (
                final_name(name.timeline, segment),
                listing.files[final_name(name.timeline, segment).as_str()],
            ),
            false => {
                let text = partial_name(name.timeline, segment);
                let file = listing.files[text.as_str()];
                (text, file)
            }
        };
        assert!(
            segment_size().floor(timeline.begin) <= start,
            "{when}: {text} lies before its timeline"
        );
        let truth = timeline.bytes(start, segment_size().end_of(segment));
        if name.is_complete {
            assert!(file == truth, "{when}: {text} is not the server's");
            assert!(
                segment_size().end_of(segment) <= timeline.end,
                "{when}: {text} is not complete"
            );
            return;
        }
        let above = listing
            .names()
            .find(|other| other.timeline == name.timeline && other.segment > name.segment);
        assert!(above.is_none(), "{when}: {text} lies below {above:?}");
        for (index, (sector, truth)) in file.chunks(SECTOR).zip(truth.chunks(SECTOR)).enumerate() {
            if sector != truth {
                let right = common_prefix(sector, truth);
                let at = start.advanced_by((index * SECTOR + right) as u64);
                assert!(
                    is_zero(&sector[right..]),
                    "{when}: {text} holds neither WAL nor zeros at {at}"
                );
            }
        }
    }

    /// A name was changed: were the process killed now, whoever takes over would find no gap; and a segment that lost its
    /// `.partial` is complete and durable.
    pub fn renamed(&self, disk: &Disk, to: &str) {
        let history = self.history.as_ref().expect("a history");
        let name = Name::parse(to).filter(|name| name.is_complete);
        if let Some((name, file)) = name.zip(disk.find(to)) {
            let start = segment_size().start_of(SegmentNumber(name.segment));
            let timeline = history.timeline(name.timeline);
            let truth = timeline.bytes(start, start.advanced_by(segment_size().bytes()));
            assert!(
                disk.content(file) == truth,
                "{to} is finished and not the server's"
            );
            assert!(
                disk.durable_content(file) == truth,
                "{to} is finished and not durable"
            );
        }
        let files = disk.names().map(|name| (name, &[][..])).collect();
        self.check_successor(
            &Listing { files },
            history,
            self.origin.unwrap_or(START),
            "after a rename",
        );
    }

    /// A pg_receivewal that takes over (`FindStreamingStart`) starts behind the newest complete segment or at the newest
    /// partial: everything before must be there, complete.
    fn check_successor(&self, listing: &Listing, history: &History, origin: Lsn, when: &str) {
        let Some(newest) = listing.names().max() else {
            return;
        };
        let size = segment_size();
        for number in size.segment_of(origin).0..newest.segment {
            let segment = SegmentNumber(number);
            let owner = history.name_of(size.start_of(segment), newest.timeline);
            let name = final_name(owner, segment);
            assert!(
                listing.files.contains_key(name.as_str()),
                "{when}: a successor would start at {newest:?}, but {name} is missing"
            );
        }
    }
}
