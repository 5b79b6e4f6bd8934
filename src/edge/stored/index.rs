//! Which file holds which segment, and which follows which, also across timelines.

use super::{Segment, Stored};
use crate::core::lsn::{Lsn, SegmentNumber, Timeline};
use std::collections::BTreeMap;

/// For each segment the best file: decodable before compressed, complete before partial.
#[derive(Debug)]
pub struct Index {
    best: BTreeMap<(Timeline, SegmentNumber), usize>,
}

impl Index {
    /// The files of `stored` by segment, those for which `counts` holds.
    pub fn of(stored: &Stored, counts: impl Fn(&Segment) -> bool) -> Index {
        let mut best: BTreeMap<_, usize> = BTreeMap::new();
        let rank = |segment: &Segment| (segment.is_complete(), segment.is_plain());
        for (number, segment) in stored.segments.iter().enumerate().filter(|(_, s)| counts(s)) {
            let key = (segment.file.timeline, segment.file.segment);
            let known = best.entry(key).or_insert(number);
            if rank(segment) > rank(&stored.segments[*known]) {
                *known = number;
            }
        }
        Index { best }
    }

    /// The file of a segment.
    pub fn file(&self, timeline: Timeline, segment: SegmentNumber) -> Option<usize> {
        self.best.get(&(timeline, segment)).copied()
    }

    /// The timelines that have segments.
    pub fn timelines(&self) -> Vec<Timeline> {
        let mut timelines: Vec<_> = self.best.keys().map(|key| key.0).collect();
        timelines.dedup();
        timelines
    }

    /// The numbers of a timeline's segments, ascending.
    pub fn numbers(&self, timeline: Timeline) -> Vec<SegmentNumber> {
        let all = (timeline, SegmentNumber(0))..=(timeline, SegmentNumber(u64::MAX));
        self.best.range(all).map(|(key, _)| key.1).collect()
    }

    /// The file in which the log goes on behind a segment: that of the same timeline, or the copy with
    /// which a later one begins.
    pub fn successor(&self, stored: &Stored, timeline: Timeline, segment: SegmentNumber) -> Option<usize> {
        let size = stored.format.segment_size;
        let own = self.file(timeline, segment.next());
        if own.is_some_and(|number| stored.segments[number].is_complete()) {
            return own;
        }
        let child = stored.histories.values().find_map(|history| {
            let fork = history.origin().filter(|fork| fork.timeline == timeline)?;
            let begins_there = size.segment_of(fork.end) == segment.next();
            self.file(history.timeline, segment.next())
                .filter(|_| begins_there)
        });
        child.or(own)
    }

    /// The file that holds what lies before a segment's first byte.
    pub fn predecessor(&self, stored: &Stored, timeline: Timeline, segment: SegmentNumber) -> Option<usize> {
        let before = SegmentNumber(segment.0.checked_sub(1)?);
        let history = stored.history(timeline);
        let last_byte = Lsn(stored.format.segment_size.start_of(segment).0 - 1);
        let owner = history.map_or(timeline, |history| history.owner_of(last_byte));
        self.file(owner, before)
    }
}
