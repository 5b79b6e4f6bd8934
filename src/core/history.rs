//! The history of a timeline: which of its ancestors owns which part of the log.
//!
//! Source of the format: PostgreSQL `src/backend/access/transam/timeline.c`.

use super::lsn::{Lsn, SegmentSize, Timeline};
use super::start::SegmentFile;

/// Where an ancestor was left for the next timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork {
    /// The ancestor.
    pub timeline: Timeline,
    /// Its first byte that is not part of the history: the switch point.
    pub end: Lsn,
}

/// A timeline and its ancestors, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The timeline whose history it is.
    pub timeline: Timeline,
    /// Its ancestors; empty for the first timeline.
    pub forks: Vec<Fork>,
}

/// A history file holds something else; the number of the first such line, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidLine(pub usize);

impl History {
    /// The history of a timeline without ancestors.
    pub fn without_ancestors(timeline: Timeline) -> History {
        History {
            timeline,
            forks: Vec::new(),
        }
    }

    /// Reads a history file: `timeline <tab> switch point <tab> reason` a line, comments begin with `#`.
    pub fn parse(timeline: Timeline, text: &str) -> Result<History, InvalidLine> {
        let mut forks: Vec<Fork> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fork = parse_fork(line).ok_or(InvalidLine(index + 1))?;
            let last = forks.last();
            let ascends = last.is_none_or(|last| last.timeline < fork.timeline && last.end <= fork.end);
            if !ascends || fork.timeline >= timeline {
                return Err(InvalidLine(index + 1));
            }
            forks.push(fork);
        }
        match forks.is_empty() {
            true => Err(InvalidLine(1)),
            false => Ok(History { timeline, forks }),
        }
    }

    /// Which timeline owns the byte at `lsn`.
    pub fn owner_of(&self, lsn: Lsn) -> Timeline {
        let fork = self.forks.iter().find(|fork| lsn < fork.end);
        fork.map_or(self.timeline, |fork| fork.timeline)
    }

    /// Whether the segment lies behind the one in which its timeline was left for the next: none of its bytes is part of
    /// the history. (Nor is the end of that one, but there the next timeline's file of the same segment is the newer.)
    pub fn leaves_behind(&self, file: &SegmentFile, size: SegmentSize) -> bool {
        let left = self.forks.iter().find(|fork| fork.timeline == file.timeline);
        left.is_some_and(|fork| size.segment_of(fork.end) < file.segment)
    }

    /// The fork at which the timeline itself began; `None` for the first one.
    pub fn origin(&self) -> Option<Fork> {
        self.forks.last().copied()
    }
}

fn parse_fork(line: &str) -> Option<Fork> {
    let mut fields = line.split_ascii_whitespace();
    let timeline = fields.next()?.parse().ok().filter(|&number| number > 0)?;
    let end = fields.next()?.parse().ok()?;
    Some(Fork {
        timeline: Timeline(timeline),
        end,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_tells_who_owns_a_position() {
        let text = "1\t0/3000158\tno recovery target specified\n\n# comment\n2\t0/5000000\tbefore 2026\n";
        let history = History::parse(Timeline(4), text).unwrap();
        let owner = |lsn| history.owner_of(Lsn(lsn)).0;
        assert_eq!([0, 0x300_0157, 0x300_0158].map(owner), [1, 1, 2]);
        assert_eq!([0x4FF_FFFF, 0x500_0000].map(owner), [2, 4]);
        let origin = history.origin().unwrap();
        assert_eq!((origin.timeline.0, origin.end), (2, Lsn(0x500_0000)));
        assert_eq!(History::without_ancestors(Timeline(1)).owner_of(Lsn(9)).0, 1);
    }

    #[test]
    fn segments_behind_a_fork_are_left_behind() {
        let history = History::parse(Timeline(3), "1\t0/300000\tx\n2\t0/480000\tx\n").unwrap();
        let size = SegmentSize::new(1 << 20).unwrap();
        let left = |name: &str| {
            let file = SegmentFile::from_name(name, size).unwrap();
            history.leaves_behind(&file, size)
        };
        for (name, expected) in [
            ("000000010000000000000003", false),
            ("000000010000000000000004.partial", true),
            ("000000020000000000000004.partial", false),
            ("000000020000000000000005", true),
            ("000000030000000000000009", false),
            ("000000040000000000000009", false),
        ] {
            assert_eq!(left(name), expected, "{name}");
        }
    }

    #[test]
    fn what_is_no_history_is_refused_with_its_line() {
        for (text, line) in [
            ("", 1),
            ("1\t0/1\n2\tx\n", 2),
            ("2\t0/1\n1\t0/2\n", 2),
            ("1\t0/1\n1\t0/2\n", 2),
            ("1\t0/2\n2\t0/1\n", 2),
            ("3\t0/1\n", 1),
            ("0\t0/1\n", 1),
            ("1\n", 1),
        ] {
            assert_eq!(
                History::parse(Timeline(3), text),
                Err(InvalidLine(line)),
                "{text:?}"
            );
        }
    }
}
