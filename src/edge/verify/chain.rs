//! What can be wrong between segments: joins, gaps, timelines.

use super::finding::{Finding, Kind};
use crate::core::history::History;
use crate::core::lsn::{Lsn, SegmentNumber, Timeline};
use crate::core::wal::scan::{Damage, End, Handover, MOST_DAMAGES};
use crate::edge::stored::{Buffer, CHUNK, Decoded, Examined, Index, Segment, Stored};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// The stored segments, and what was found in each.
#[derive(Debug)]
pub struct Chain<'a> {
    /// The segments.
    pub stored: &'a Stored,
    /// Those that count, by number.
    pub index: &'a Index,
    /// What became of each, in the order of `stored`; `None` for those that do not count.
    pub examined: &'a [Option<Examined>],
    /// How files are called in messages.
    pub names: &'a [String],
}

impl Chain<'_> {
    /// Everything that is wrong, segment by segment.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for number in 0..self.stored.segments.len() {
            self.about_file(number, &mut findings);
            if let Some(decoded) = self.decoded(number) {
                self.about_damages(number, decoded, &mut findings);
                findings.extend(self.about_join(number, decoded));
            }
        }
        for history in self.stored.histories.values() {
            findings.extend(self.about_copy(history));
        }
        if self.stored.is_whole {
            self.about_gaps(&mut findings);
            self.about_partials(&mut findings);
            findings.extend(self.timelines_without_history());
        }
        findings
    }

    fn decoded(&self, number: usize) -> Option<&Decoded> {
        match self.examined.get(number)? {
            Some(Examined::Decoded(decoded)) => Some(decoded),
            _ => None,
        }
    }

    fn about_file(&self, number: usize, findings: &mut Vec<Finding>) {
        let segment = &self.stored.segments[number];
        let name = || self.names[number].clone();
        let size = self.stored.format.segment_size;
        match &self.examined[number] {
            Some(Examined::Unreadable(error)) => {
                let message = format!("cannot be read: {}", crate::error::system_text(error));
                findings.push(Finding::of_file(Kind::Unreadable, name(), message));
            }
            Some(Examined::Foreign(found)) => {
                let expected = self.stored.format.system_identifier.unwrap_or(0);
                let message = format!("is of another server: system identifier {found}, expected {expected}");
                let finding = Finding::of_file(Kind::Foreign, name(), message).with_values(expected, found);
                findings.push(finding.at(24, self.stored.start_of(segment)));
            }
            Some(Examined::Decoded(decoded)) => {
                if let Some((timeline, is)) = decoded.true_name {
                    let right = is.file_name(timeline, size);
                    let message = format!("holds segment {right}, and should have that name");
                    let named = segment.file.segment.file_name(segment.file.timeline, size);
                    let finding = Finding::of_file(Kind::Name, name(), message).with_values(named, right);
                    findings.push(finding.at(8, self.stored.start_of(segment)));
                }
                let (bytes, whole) = (decoded.bytes, size.bytes());
                if bytes > whole || (bytes < whole && segment.is_complete()) {
                    let message = format!("has {bytes} bytes, expected {whole}");
                    findings.push(Finding::of_file(Kind::Size, name(), message).with_values(whole, bytes));
                }
            }
            _ => {}
        }
    }

    /// What is damaged within a segment, but for what the scan of the one before has told already.
    fn about_damages(&self, number: usize, decoded: &Decoded, findings: &mut Vec<Finding>) {
        let told = self.told_by_predecessor(number);
        let outcome = &decoded.outcome;
        for damage in &outcome.damages {
            if damage.fault.place.lsn() < told {
                continue;
            }
            let finding = self.describe(number, decoded, damage);
            // Two scans may end in the same place.
            if !findings
                .iter()
                .rev()
                .take(2 * MOST_DAMAGES)
                .any(|known| *known == finding)
            {
                findings.push(finding);
            }
        }
        if outcome.more_damages > 0 {
            let message = format!("and {} more like these", outcome.more_damages);
            findings.push(Finding::of_file(
                Kind::Record,
                self.names[number].clone(),
                message,
            ));
        }
    }

    /// Up to where the scan of the segment before has looked at this one.
    fn told_by_predecessor(&self, number: usize) -> Lsn {
        let mut told = Lsn::INVALID;
        let mut segment = &self.stored.segments[number];
        // A record can span many segments.
        while let Some(before) = self.before(segment) {
            let Some(decoded) = self.decoded(before) else {
                break;
            };
            let follows = decoded.followed.contains(&number);
            if let Some(handover) = decoded.outcome.handover.filter(|h| h.crossed && follows) {
                told = handover.at;
            }
            if follows || decoded.outcome.last.is_some() {
                break;
            }
            segment = &self.stored.segments[before];
        }
        told
    }

    fn before(&self, segment: &Segment) -> Option<usize> {
        self.index
            .predecessor(self.stored, segment.file.timeline, segment.file.segment)
    }

    fn describe(&self, number: usize, decoded: &Decoded, damage: &Damage) -> Finding {
        let size = self.stored.format.segment_size;
        let lsn = damage.fault.place.lsn();
        let segment = size.segment_of(lsn);
        let holds = |&&other: &&usize| self.stored.segments[other].file.segment == segment;
        let file = decoded.followed.iter().find(holds).copied().unwrap_or(number);
        Finding::of_damage(damage, self.names[file].clone(), size.offset_of(lsn))
    }

    /// Whether the segment begins with what must follow the one before.
    fn about_join(&self, number: usize, decoded: &Decoded) -> Option<Finding> {
        let first = decoded.outcome.first.filter(|_| decoded.true_name.is_none())?;
        let handover = self.handover_to(number)?;
        let size = self.stored.format.segment_size;
        let name = self.names[number].clone();
        let at = |finding: Finding| Some(finding.at(size.offset_of(first.start), first.start));
        if first.start != handover.at {
            let (expected, found) = (handover.at, first.start);
            let message = format!(
                "the first record begins at {found}, but the segment before ends with one at {expected}"
            );
            return at(Finding::of_file(Kind::Join, name, message).with_values(expected, found));
        }
        match handover.previous {
            Some(expected) if expected != first.previous => {
                let found = first.previous;
                let message = format!(
                    "record at {}: previous record at {found}, expected {expected}",
                    first.start
                );
                at(Finding::of_file(Kind::Join, name, message).with_values(expected, found))
            }
            _ => None,
        }
    }

    fn handover_to(&self, number: usize) -> Option<Handover> {
        let segment = &self.stored.segments[number];
        let start = self.stored.start_of(segment);
        let mut before = self.before(segment)?;
        loop {
            let outcome = &self
                .decoded(before)
                .filter(|decoded| decoded.true_name.is_none())?
                .outcome;
            match outcome.handover {
                Some(handover) => return Some(handover).filter(|handover| handover.at >= start),
                // All of it was the middle of one record.
                None if outcome.last.is_none() && outcome.damages.is_empty() && outcome.end == End::Next => {
                    before = self.before(&self.stored.segments[before])?;
                }
                None => return None,
            }
        }
    }

    /// Whether the first segment of a timeline is the copy of its parent's up to the switch point.
    fn about_copy(&self, history: &History) -> Option<Finding> {
        let fork = history.origin()?;
        let size = self.stored.format.segment_size;
        let number = size.segment_of(fork.end);
        let (old, new) = (
            self.index.file(fork.timeline, number)?,
            self.index.file(history.timeline, number)?,
        );
        let (before, after) = (self.decoded(old)?, self.decoded(new)?);
        let mut end = fork.end;
        if let End::Log { at, .. } = before.outcome.end {
            end = end.min(at);
        }
        let (at, expected, found) = self.first_difference(old, new, end)?;
        let covers = |damage: &Damage| {
            let from = Lsn(damage.fault.place.lsn().0 & !0x1FFF);
            from <= at && damage.until.is_none_or(|until| at < until)
        };
        if [before, after]
            .iter()
            .any(|decoded| decoded.outcome.damages.iter().any(covers))
        {
            return None;
        }
        let (expected, found) = (format!("{expected:02X}"), format!("{found:02X}"));
        let message = format!(
            "byte at {at} is {found}, but {expected} in {}, whose copy it is up to {}",
            self.names[old], fork.end
        );
        let finding = Finding::of_file(Kind::Copy, self.names[new].clone(), message);
        Some(finding.with_values(expected, found).at(size.offset_of(at), at))
    }

    /// The first byte in which two files of the same segment differ before `end`.
    fn first_difference(&self, old: usize, new: usize, end: Lsn) -> Option<(Lsn, u8, u8)> {
        let size = self.stored.format.segment_size;
        let open = |number: usize| self.stored.segments[number].open(size).ok().flatten();
        let (old_file, new_file) = (open(old)?, open(new)?);
        let mut at = self.stored.start_of(&self.stored.segments[old]);
        let (mut a, mut b) = (Buffer::new(), Buffer::new());
        while at < end {
            let limit = CHUNK.min(end.bytes_since(at) as usize);
            old_file.read(at, limit, &mut a).ok()?;
            new_file.read(at, limit, &mut b).ok()?;
            if a[..] != b[..] {
                let offset = a.iter().zip(&b[..]).position(|(a, b)| a != b)?;
                return Some((at.advanced_by(offset as u64), a[offset], b[offset]));
            }
            if a.len() < limit {
                return None;
            }
            at = at.advanced_by(limit as u64);
        }
        None
    }

    /// Segments that should be there: between those of a timeline, and where one timeline follows another.
    fn about_gaps(&self, findings: &mut Vec<Finding>) {
        let mut missing = BTreeSet::new();
        for timeline in self.index.timelines() {
            for pair in self.index.numbers(timeline).windows(2) {
                note_gap(timeline, pair[0].next(), pair[1], &mut missing);
            }
            if let Some(history) = self.stored.histories.get(&timeline) {
                self.note_gaps_between(history, &mut missing);
            }
        }
        let size = self.stored.format.segment_size;
        for (timeline, first, behind) in missing {
            let name = first.file_name(timeline, size);
            let message = match behind.0 - first.0 {
                1 => "is missing".to_owned(),
                count => {
                    let last = SegmentNumber(behind.0 - 1).file_name(timeline, size);
                    format!("is missing, and all up to {last}: {count} segments")
                }
            };
            let finding = Finding::of_file(Kind::Missing, name, message);
            let lsn = size.start_of(first).to_string();
            findings.push(Finding {
                lsn: Some(lsn),
                ..finding
            });
        }
    }

    /// Where a timeline begins it must be reached by its parent, and its own first segment be there.
    fn note_gaps_between(&self, history: &History, missing: &mut BTreeSet<Gap>) {
        let Some(fork) = history.origin() else { return };
        let begins = self.stored.format.segment_size.segment_of(fork.end);
        let parents = self.index.numbers(fork.timeline);
        let parents = parents.into_iter().filter(|&number| number <= begins);
        let (Some(last), Some(&first)) = (parents.max(), self.index.numbers(history.timeline).first()) else {
            return;
        };
        note_gap(fork.timeline, last.next(), begins, missing);
        note_gap(history.timeline, begins, first, missing);
    }

    /// A partial segment is the last of its timeline.
    fn about_partials(&self, findings: &mut Vec<Finding>) {
        for timeline in self.index.timelines() {
            let numbers = self.index.numbers(timeline);
            for pair in numbers.windows(2) {
                let file = self
                    .index
                    .file(timeline, pair[0])
                    .map(|file| (file, &self.stored.segments[file]));
                if let Some((file, segment)) = file
                    && !segment.is_complete()
                    && self
                        .decoded(file)
                        .is_some_and(|decoded| decoded.outcome.end != End::Next)
                {
                    let size = self.stored.format.segment_size;
                    let next = pair[1].file_name(timeline, size);
                    let message = format!("is not complete, although segment {next} is there");
                    findings.push(Finding::of_file(Kind::Partial, self.names[file].clone(), message));
                }
            }
        }
    }

    fn timelines_without_history(&self) -> impl Iterator<Item = Finding> {
        let timelines = self.index.timelines().into_iter();
        let named = |timeline: Timeline| timeline.history_file_name();
        let misfits: Vec<&PathBuf> = self.stored.misfits.iter().map(|misfit| &misfit.path).collect();
        let unknown = timelines.filter(move |&timeline| {
            let spoilt = misfits.iter().any(|path| path.ends_with(named(timeline)));
            timeline > Timeline(1) && !self.stored.histories.contains_key(&timeline) && !spoilt
        });
        unknown.map(move |timeline| {
            let message = format!("is missing: a restore cannot follow timeline {timeline}");
            Finding::of_file(Kind::History, named(timeline), message)
        })
    }
}

/// Missing segments of a timeline: the first, and the one behind the last.
type Gap = (Timeline, SegmentNumber, SegmentNumber);

fn note_gap(timeline: Timeline, from: SegmentNumber, to: SegmentNumber, missing: &mut BTreeSet<Gap>) {
    if from < to {
        missing.insert((timeline, from, to));
    }
}
