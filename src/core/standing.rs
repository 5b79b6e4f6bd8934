//! Where a server stands, compared with what is stored: a pure decision.
//!
//! A server has the stored log when it is on the same timeline and has come at least as far, or when its
//! history says that the timeline was left behind the stored end. Anything else is told apart here,
//! because going on would put WAL of another log beside, or over, bytes that were acknowledged.

use super::history::History;
use super::lsn::{Lsn, SegmentNumber, SegmentSize, Timeline};
use super::start::Position;

/// What is stored, of the newest timeline.
#[derive(Debug, Clone, Copy)]
pub struct Stored {
    /// The end of the last good record, and its timeline.
    pub end: Position,
    /// The segment of the newest file.
    pub newest: SegmentNumber,
}

/// How the server stands to what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has at least as much; that it is the same log remains to be seen.
    Covers,
    /// It is on the same timeline, and its log ends before.
    Behind,
    /// Its history left the timeline before the stored end, within the newest segment: the next
    /// timeline can be followed from there, and its files become the newest.
    Forked {
        /// Where.
        at: Lsn,
        /// The timeline that goes on there.
        next: Timeline,
    },
    /// The same in an earlier segment: a later start would find the files of the old timeline first.
    ForkedEarlier {
        /// Where.
        at: Lsn,
        /// The timeline that goes on there.
        next: Timeline,
    },
    /// It is on an earlier timeline.
    Earlier,
    /// It is on a later timeline that does not come from this one.
    Unrelated,
}

/// Compares the server's flush position and timeline, and the history of that timeline, with what is
/// stored.
pub fn standing(stored: &Stored, size: SegmentSize, server: Position, history: &History) -> Standing {
    let Position { lsn: end, timeline } = stored.end;
    if server.timeline < timeline {
        return Standing::Earlier;
    }
    if server.timeline == timeline {
        return match server.lsn < end {
            true => Standing::Behind,
            false => Standing::Covers,
        };
    }
    let Some(index) = history.forks.iter().position(|fork| fork.timeline == timeline) else {
        return Standing::Unrelated;
    };
    let at = history.forks[index].end;
    let later = history.forks.get(index + 1);
    let next = later.map_or(history.timeline, |fork| fork.timeline);
    match at < end {
        true if size.segment_of(at) >= stored.newest => Standing::Forked { at, next },
        true => Standing::ForkedEarlier { at, next },
        false => Standing::Covers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(lsn: u64, timeline: u32) -> Position {
        let timeline = Timeline(timeline);
        Position {
            lsn: Lsn(lsn),
            timeline,
        }
    }

    /// How a server at this position stands, with a history of three timelines, to a log on the second.
    fn verdict(end: u64, newest: u64, server: Position) -> Standing {
        let text = "1\t0/250000\tx\n2\t0/380000\tx\n";
        let history = match server.timeline.0 {
            1 => History::without_ancestors(Timeline(1)),
            2 => History::parse(Timeline(2), &text[..13]).unwrap(),
            _ => History::parse(server.timeline, text).unwrap(),
        };
        let stored = Stored {
            end: at(end, 2),
            newest: SegmentNumber(newest),
        };
        standing(&stored, SegmentSize::new(MIB).unwrap(), server, &history)
    }

    #[test]
    fn a_server_on_the_same_timeline_must_have_come_as_far() {
        assert_eq!(verdict(0x30_0000, 2, at(0x30_0000, 2)), Standing::Covers);
        assert_eq!(verdict(0x30_0001, 3, at(0x30_0000, 2)), Standing::Behind);
        assert_eq!(verdict(0x30_0000, 2, at(0x90_0000, 1)), Standing::Earlier);
    }

    #[test]
    fn a_later_timeline_must_have_begun_behind_the_end() {
        let (fork, next) = (Lsn(0x38_0000), Timeline(3));
        assert_eq!(verdict(fork.0, 3, at(0x40_0000, 3)), Standing::Covers);
        let within = Standing::Forked { at: fork, next };
        assert_eq!(verdict(fork.0 + 8, 3, at(0x40_0000, 3)), within);
        // The segment may have been completed on the old timeline.
        assert_eq!(verdict(0x40_0000, 3, at(0x40_0000, 3)), within);
        let earlier = Standing::ForkedEarlier { at: fork, next };
        assert_eq!(verdict(0x40_0008, 4, at(0x50_0000, 3)), earlier);
    }

    #[test]
    fn a_later_timeline_may_come_from_another_one() {
        let text = "1\t0/250000\tx\n";
        let history = History::parse(Timeline(3), text).unwrap();
        let stored = Stored {
            end: at(0x30_0000, 2),
            newest: SegmentNumber(2),
        };
        let size = SegmentSize::new(MIB).unwrap();
        let verdict = standing(&stored, size, at(0x40_0000, 3), &history);
        assert_eq!(verdict, Standing::Unrelated);
    }
}
