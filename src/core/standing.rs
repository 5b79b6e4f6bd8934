//! Where a server stands, compared with what is stored: a pure decision.
//!
//! A server has the stored log when it is on the same timeline and has come at least as far, or when its
//! history says that the timeline was left behind the stored end. Anything else is told apart here,
//! because going on would put WAL of another log beside, or over, bytes that were acknowledged.

use super::history::History;
use super::lsn::{Lsn, Timeline};
use super::start::Position;

/// How the server stands to what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has at least as much; that it is the same log remains to be seen.
    Covers,
    /// It is on the same timeline, and its log ends before.
    Behind,
    /// Its history left the timeline before the stored end: the next timeline can be followed from there, and what is
    /// stored beyond is only here. ([`History::leaves_behind`] tells later starts.)
    Forked {
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

/// Compares the server's flush position and timeline, and the history of that timeline, with the end of what is stored: of
/// the last good record of the newest timeline.
pub fn standing(stored: Position, server: Position, history: &History) -> Standing {
    let Position { lsn: end, timeline } = stored;
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
        true => Standing::Forked { at, next },
        false => Standing::Covers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lsn: u64, timeline: u32) -> Position {
        let timeline = Timeline(timeline);
        Position {
            lsn: Lsn(lsn),
            timeline,
        }
    }

    /// How a server at this position stands, with a history of three timelines, to a log on the second.
    fn verdict(end: u64, server: Position) -> Standing {
        let text = "1\t0/250000\tx\n2\t0/380000\tx\n";
        let history = match server.timeline.0 {
            1 => History::without_ancestors(Timeline(1)),
            2 => History::parse(Timeline(2), &text[..13]).unwrap(),
            _ => History::parse(server.timeline, text).unwrap(),
        };
        standing(at(end, 2), server, &history)
    }

    #[test]
    fn a_server_on_the_same_timeline_must_have_come_as_far() {
        assert_eq!(verdict(0x30_0000, at(0x30_0000, 2)), Standing::Covers);
        assert_eq!(verdict(0x30_0001, at(0x30_0000, 2)), Standing::Behind);
        assert_eq!(verdict(0x30_0000, at(0x90_0000, 1)), Standing::Earlier);
    }

    #[test]
    fn a_later_timeline_begins_behind_the_end_or_is_followed_from_before() {
        let (fork, next) = (Lsn(0x38_0000), Timeline(3));
        assert_eq!(verdict(fork.0, at(0x40_0000, 3)), Standing::Covers);
        let forked = Standing::Forked { at: fork, next };
        assert_eq!(verdict(fork.0 + 8, at(0x40_0000, 3)), forked);
        assert_eq!(verdict(0x50_0000, at(0x40_0000, 3)), forked);
    }

    #[test]
    fn a_later_timeline_may_come_from_another_one() {
        let text = "1\t0/250000\tx\n";
        let history = History::parse(Timeline(3), text).unwrap();
        let verdict = standing(at(0x30_0000, 2), at(0x40_0000, 3), &history);
        assert_eq!(verdict, Standing::Unrelated);
    }
}
