//! What may be claimed of made-up WAL: computed from the list of what is in it, with no code of the core.

use walring::core::lsn::Lsn;

use super::wal::Wal;

/// Records begin and end, for the server, at multiples of so many bytes.
const ALIGNMENT: u64 = 8;

/// A commit that is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Where its record ends.
    pub end: Lsn,
    /// Where its padding ends: what its client waits for.
    pub padded_end: Lsn,
    /// Microseconds since 2000-01-01 UTC, by the server's clock.
    pub committed_us: i64,
}

/// What belongs together in a log, and where it is damaged.
#[derive(Debug, Clone)]
pub struct Truth {
    /// From where to where something goes that is worth nothing until it is complete: a record, the header of a
    /// page, a record that was never finished together with the one that replaces it.
    units: Vec<(Lsn, Lsn)>,
    commits: Vec<Commit>,
    /// The byte that was damaged.
    damage: Option<Lsn>,
}

impl Truth {
    /// Of a log without damage.
    pub fn of(wal: &Wal) -> Truth {
        let records = wal.records().iter().map(|record| (record.start, record.end));
        let replacement = |page: u64| records.clone().find(|&(start, _)| start >= page);
        let replaced = wal.abandoned().iter().map(|&(start, page)| {
            let (_, end) = replacement(page).expect("what dies is replaced");
            (start.max(wal.start()), end)
        });
        let rest = (wal.rest_end() > wal.start()).then_some((wal.start(), wal.rest_end()));
        let mut parts: Vec<_> = records.clone().chain(replaced).chain(rest).collect();
        parts.sort_unstable();
        let mut units: Vec<(u64, u64)> = Vec::new();
        for (start, end) in parts {
            match units.last_mut() {
                Some(last) if start < last.1 => last.1 = last.1.max(end),
                _ => units.push((start, end)),
            }
        }
        let pages = (wal.start()..wal.end()).step_by(wal.shape().block as usize);
        let headers: Vec<_> = pages
            .filter(|&page| !is_within(&units, page) && !wal.is_behind_switch(page))
            .map(|page| (page, page + wal.header_length(page)))
            .collect();
        units.extend(headers);
        units.sort_unstable();
        let commits = wal.records().iter().filter(|record| record.is_commit());
        Truth {
            units: units.iter().map(|&(start, end)| (Lsn(start), Lsn(end))).collect(),
            commits: commits
                .map(|record| Commit {
                    end: Lsn(record.end),
                    padded_end: Lsn(record.end.next_multiple_of(ALIGNMENT)),
                    committed_us: record.completed.expect("a commit has a time"),
                })
                .collect(),
            damage: None,
        }
    }

    /// The same, but for a byte that was damaged.
    pub fn with_damage(&self, damage: Lsn) -> Truth {
        Truth {
            damage: Some(damage),
            ..self.clone()
        }
    }

    /// How far the log is complete and right, if `received` is all there is.
    pub fn right_to(&self, received: Lsn) -> Lsn {
        let complete = self.unit_around(received).map_or(received, |(start, _)| start);
        match self.damage {
            Some(damage) if damage < received => complete.min(self.wrong_from(damage)),
            _ => complete,
        }
    }

    /// The same, but at least: of zeros before a wrong byte it does not matter whether they are believed.
    pub fn surely_right_to(&self, received: Lsn) -> Lsn {
        let right = self.right_to(received);
        if self.damage != Some(right) {
            return right;
        }
        let index = self.units.partition_point(|&(_, end)| end <= right);
        self.units[index - 1].1
    }

    /// Where the unit ends in which the byte lies; the byte itself if it is in none.
    pub fn unit_end(&self, at: Lsn) -> Lsn {
        self.unit_with(at).map_or(at, |(_, end)| end)
    }

    /// The commits that are told to whoever receives the log from `start` on, those only that end behind
    /// `backlog_end`.
    pub fn commits(&self, start: Lsn, backlog_end: Lsn) -> Vec<Commit> {
        let timed = |commit: &&Commit| commit.end > start && commit.padded_end > backlog_end;
        self.commits.iter().filter(timed).copied().collect()
    }

    /// The ends of records from `from` on, padding included.
    pub fn ends(&self, from: Lsn) -> impl Iterator<Item = Lsn> {
        let index = self.units.partition_point(|&(_, end)| end <= from);
        self.units[index..]
            .iter()
            .map(|(_, end)| Lsn(end.0.next_multiple_of(ALIGNMENT)))
    }

    fn wrong_from(&self, damage: Lsn) -> Lsn {
        self.unit_with(damage).map_or(damage, |(start, _)| start)
    }

    /// The unit whose byte this is.
    fn unit_with(&self, at: Lsn) -> Option<(Lsn, Lsn)> {
        let index = self.units.partition_point(|&(_, end)| end <= at);
        self.units.get(index).copied().filter(|&(start, _)| start <= at)
    }

    /// The unit that is divided at this position.
    fn unit_around(&self, at: Lsn) -> Option<(Lsn, Lsn)> {
        self.unit_with(at).filter(|&(start, _)| start < at)
    }
}

fn is_within(units: &[(u64, u64)], at: u64) -> bool {
    let index = units.partition_point(|&(_, end)| end <= at);
    units.get(index).is_some_and(|&(start, _)| start <= at)
}
