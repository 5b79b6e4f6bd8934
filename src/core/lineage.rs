//! Which of the stored timelines goes on, and what the server's history means for what is stored: pure decisions.
//!
//! A receiver may have been ahead of the standby that became the new primary. What it had beyond stays behind, in files of
//! the old timeline whose segments may be higher than those of the new one.

use super::history::{Fork, History};
use super::lsn::{SegmentSize, Timeline};
use super::start::{Position, SegmentFile, Stage};

/// The newest timeline that has a segment: whoever has received from it does not go back.
pub fn newest(files: &[SegmentFile]) -> Option<Timeline> {
    files.iter().map(|file| file.timeline).max()
}

/// Whether segments of an earlier timeline reach further than the newest one's begin: only its history tells which of
/// them goes on.
pub fn is_overtaken(files: &[SegmentFile], newest: Timeline) -> bool {
    let of_newest = files.iter().filter(|file| file.timeline == newest);
    let first = of_newest.map(|file| file.segment).min();
    files
        .iter()
        .any(|file| file.timeline < newest && Some(file.segment) > first)
}

/// Takes segments off the list that do not tell where streaming goes on, by the history of the newest timeline.
pub fn drop_left_behind(files: &mut Vec<SegmentFile>, history: &History, size: SegmentSize) {
    files.retain(|file| !history.leaves_behind(file, size));
}

/// The ancestors of a timeline that is `theirs`, or one of theirs; `None` if theirs is an earlier one.
pub fn ancestors(theirs: &History, timeline: Timeline) -> Option<Vec<Fork>> {
    let forks = theirs.forks.iter().copied();
    (theirs.timeline >= timeline).then(|| forks.filter(|fork| fork.timeline < timeline).collect())
}

/// A segment of the history's timeline from before it began: then it is another timeline of the same number.
pub fn before_beginning<'a>(
    files: &'a [SegmentFile],
    history: &History,
    size: SegmentSize,
) -> Option<&'a SegmentFile> {
    let begins = history.origin().map(|fork| size.segment_of(fork.end));
    let mut of_timeline = files.iter().filter(|file| file.timeline == history.timeline);
    of_timeline.find(|file| Some(file.segment) < begins)
}

/// What a stream would come over that begins at a segment's start, and so compares nothing.
pub fn in_the_way(
    files: &[SegmentFile],
    start: Position,
    least: Stage,
    size: SegmentSize,
) -> Option<&SegmentFile> {
    let first = size.segment_of(start.lsn);
    let mut ahead = files
        .iter()
        .filter(|file| file.timeline == start.timeline && file.segment >= first);
    ahead.find(|file| file.stage >= least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::lsn::Lsn;

    const SIZE: u64 = 1 << 20;

    fn size() -> SegmentSize {
        SegmentSize::new(SIZE).unwrap()
    }

    fn files(names: &[&str]) -> Vec<SegmentFile> {
        let file = |name: &&str| SegmentFile::from_name(name, size()).unwrap();
        names.iter().map(file).collect()
    }

    #[test]
    fn the_newest_timeline_is_overtaken_by_segments_behind_its_first() {
        for (names, expected) in [
            (
                &["000000010000000000000005", "000000020000000000000005"][..],
                false,
            ),
            (&["000000010000000000000006", "000000020000000000000005"], true),
            (&["000000020000000000000009", "000000020000000000000005"], false),
            (
                &[
                    "000000010000000000000006.partial",
                    "000000020000000000000005",
                    "000000020000000000000007",
                ],
                true,
            ),
        ] {
            let files = files(names);
            assert_eq!(newest(&files), Some(Timeline(2)));
            assert_eq!(is_overtaken(&files, Timeline(2)), expected, "{names:?}");
        }
    }

    #[test]
    fn what_a_stream_would_come_over_is_found() {
        let files = files(&[
            "000000010000000000000009",
            "000000020000000000000005",
            "000000020000000000000006.partial",
        ]);
        let is_free = |segment: u64, timeline: u32, least: Stage| {
            let start = Position {
                lsn: Lsn(segment * SIZE),
                timeline: Timeline(timeline),
            };
            in_the_way(&files, start, least, size()).is_none()
        };
        for (segment, timeline, least, expected) in [
            (4, 2, Stage::Complete, false),
            (5, 2, Stage::Complete, false),
            (6, 2, Stage::Complete, true),
            (6, 2, Stage::Partial, false),
            (7, 2, Stage::Partial, true),
            (5, 3, Stage::Partial, true),
        ] {
            assert_eq!(
                is_free(segment, timeline, least),
                expected,
                "{segment} {timeline} {least:?}"
            );
        }
    }

    #[test]
    fn a_timeline_has_no_segment_from_before_it_began() {
        let history = History::parse(Timeline(2), "1\t0/580000\tx\n").unwrap();
        let before = |names: &[&str]| {
            let files = files(names);
            before_beginning(&files, &history, size()).map(|file| file.segment.0)
        };
        assert_eq!(
            before(&["000000010000000000000004", "000000020000000000000005"]),
            None
        );
        assert_eq!(
            before(&["000000020000000000000005", "000000020000000000000004"]),
            Some(4)
        );
    }

    #[test]
    fn of_a_later_history_a_timeline_has_the_part_before_it() {
        let history = History::parse(Timeline(4), "1\t0/2\tx\n2\t0/3\tx\n").unwrap();
        let numbers = |timeline| {
            let forks = ancestors(&history, Timeline(timeline));
            forks.map(|forks| forks.iter().map(|fork| fork.timeline.0).collect::<Vec<_>>())
        };
        assert_eq!(numbers(2), Some(vec![1]));
        assert_eq!(numbers(4), Some(vec![1, 2]));
        assert_eq!(numbers(5), None);
    }
}
