//! Where streaming starts: a pure decision from facts about the directory.
//!
//! The rules are those of pg_receivewal (`FindStreamingStart`), so that either tool can continue a directory of the
//! other. The highest segment wins, then the highest timeline, then a complete file over a partial one: behind a
//! complete segment streaming continues, a partial one is gone on with, where within it [`super::resume`] decides. A directory
//! without segments starts where the operator, the replication slot or the server says. Three things differ:
//!
//! - A complete segment of the wrong size is skipped with pg_receivewal's warning, but streaming never starts past it
//!   unless a good complete segment lies above: pg_receivewal would leave a gap, after nothing but a warning.
//! - The size in a gzip trailer is unsigned: pg_receivewal takes segments of 8 MiB for damaged ones.
//! - A partial of an odd size needs no repair by hand. A short one is a place to start like any other. One longer than
//!   a segment is to be renamed out of the way: it cannot be ours, and truncating it could destroy acknowledged bytes.

use super::lsn::{Lsn, SegmentNumber, SegmentSize, Timeline};
use std::fmt;

/// Whether a segment file may still grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Named `.partial`: being received when its writer stopped.
    Partial,
    /// Received to its end. Greater than `Partial`: it is worth more.
    Complete,
}

/// How a segment file holds its WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// The segment's own bytes.
    Plain,
    /// Written by `pg_receivewal --compress=gzip`.
    Gzip,
    /// Written by `pg_receivewal --compress=lz4`.
    Lz4,
}

/// A segment file in the directory: what its name says, and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentFile {
    /// Which segment it is.
    pub segment: SegmentNumber,
    /// The timeline it was written on.
    pub timeline: Timeline,
    /// Complete or partial.
    pub stage: Stage,
    /// Plain or compressed.
    pub encoding: Encoding,
    /// How many bytes of WAL it holds, where that can be told cheaply: the size of a plain file, the length in the
    /// trailer of a complete gzip file. An lz4 file would have to be decompressed, as pg_receivewal does with the whole
    /// archive at every connect; its name is trusted instead, which can go once walring writes lz4 itself.
    pub wal_bytes: Option<u64>,
}

/// Suffixes of segment files. pg_receivewal ignores every other name, and so do we.
const SUFFIXES: [(&str, Encoding, Stage); 6] = [
    ("", Encoding::Plain, Stage::Complete),
    (".gz", Encoding::Gzip, Stage::Complete),
    (".lz4", Encoding::Lz4, Stage::Complete),
    (".partial", Encoding::Plain, Stage::Partial),
    (".gz.partial", Encoding::Gzip, Stage::Partial),
    (".lz4.partial", Encoding::Lz4, Stage::Partial),
];

impl SegmentFile {
    /// The segment that `name` stands for, its size not yet known; `None` if that is no name of a segment.
    pub fn from_name(name: &str, size: SegmentSize) -> Option<SegmentFile> {
        let (stem, suffix) = name.split_at_checked(24)?;
        let &(_, encoding, stage) = SUFFIXES.iter().find(|(known, ..)| *known == suffix)?;
        let (timeline, segment) = SegmentNumber::parse_file_name(stem, size)?;
        Some(SegmentFile {
            segment,
            timeline,
            stage,
            encoding,
            wal_bytes: None,
        })
    }

    /// The file's name.
    pub fn name(&self, size: SegmentSize) -> String {
        let suffix = SUFFIXES
            .iter()
            .find(|(_, encoding, stage)| (*encoding, *stage) == (self.encoding, self.stage))
            .map_or("", |(suffix, ..)| suffix);
        self.segment.file_name(self.timeline, size) + suffix
    }

    /// The order in which files tell where streaming starts: the greatest decides.
    pub fn rank(&self) -> (SegmentNumber, Timeline, Stage) {
        (self.segment, self.timeline, self.stage)
    }

    /// Segment 0 exists on no server, and behind the last number that fits there is no position to start at.
    fn counts(&self, size: SegmentSize) -> bool {
        (1..u64::MAX / size.bytes()).contains(&self.segment.0)
    }

    fn is_damaged(&self, size: SegmentSize) -> bool {
        self.stage == Stage::Complete && self.wal_bytes.is_some_and(|bytes| bytes != size.bytes())
    }

    fn is_oversize_partial(&self, size: SegmentSize) -> bool {
        let plain_partial = (self.encoding, self.stage) == (Encoding::Plain, Stage::Partial);
        plain_partial && self.wal_bytes.is_some_and(|bytes| bytes > size.bytes())
    }
}

/// A position on a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Where.
    pub lsn: Lsn,
    /// On which timeline.
    pub timeline: Timeline,
}

/// All that the decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The segment files of the directory, in any order.
    pub files: &'a [SegmentFile],
    /// The server's segment size.
    pub segment_size: SegmentSize,
    /// What `--start-lsn` asks for, on the server's timeline.
    pub requested: Option<Lsn>,
    /// The replication slot's restart position, if there is a slot and it reserves WAL.
    pub slot: Option<Position>,
    /// The server's flush position and timeline, as IDENTIFY_SYSTEM tells them.
    pub server: Position,
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartPlan {
    /// Which rule decided.
    pub case: Case,
    /// The position to start at, always the first of a segment.
    pub lsn: Lsn,
    /// The timeline to ask for.
    pub timeline: Timeline,
    /// Names of files to be renamed out of the way before streaming starts.
    pub set_aside: Vec<String>,
    /// What the operator should know.
    pub warnings: Vec<Warning>,
}

/// The rules, one row of `TABLE` each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// A damaged complete segment lies below where streaming would start otherwise: start at it.
    RefetchDamaged,
    /// The newest file is a complete segment: start behind it.
    AfterComplete,
    /// The newest file is a partial segment: start at its beginning.
    AtPartial,
    /// No segment, but `--start-lsn` was given.
    Requested,
    /// No segment, but a replication slot that reserves WAL.
    AtSlot,
    /// Nothing is known but where the server is.
    AtServer,
}

/// The facts as far as they tell the cases apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Conditions {
    /// The stage of the newest undamaged file.
    newest: Option<Stage>,
    damage_in_the_way: bool,
    requested: bool,
    slot: bool,
}

/// One row: what must hold for its case. `None` means that either will do.
struct Row {
    damage_in_the_way: bool,
    newest: Option<Option<Stage>>,
    requested: Option<bool>,
    slot: Option<bool>,
    case: Case,
}

impl Row {
    #[rustfmt::skip]
    const fn new(
        damage_in_the_way: bool, newest: Option<Option<Stage>>, requested: Option<bool>, slot: Option<bool>, case: Case,
    ) -> Row {
        Row { damage_in_the_way, newest, requested, slot, case }
    }

    fn matches(&self, facts: Conditions) -> bool {
        self.damage_in_the_way == facts.damage_in_the_way
            && self.newest.is_none_or(|newest| newest == facts.newest)
            && self
                .requested
                .is_none_or(|requested| requested == facts.requested)
            && self.slot.is_none_or(|slot| slot == facts.slot)
    }
}

/// Every combination of conditions meets exactly one row, so their order means nothing.
#[rustfmt::skip]
const TABLE: [Row; 6] = [
    //       damage  newest file                 --start-lsn  slot
    Row::new(true,   None,                        None,        None,        Case::RefetchDamaged),
    Row::new(false,  Some(Some(Stage::Complete)), None,        None,        Case::AfterComplete),
    Row::new(false,  Some(Some(Stage::Partial)),  None,        None,        Case::AtPartial),
    Row::new(false,  Some(None),                  Some(true),  None,        Case::Requested),
    Row::new(false,  Some(None),                  Some(false), Some(true),  Case::AtSlot),
    Row::new(false,  Some(None),                  Some(false), Some(false), Case::AtServer),
];

fn case_of(conditions: Conditions) -> Case {
    let row = TABLE.iter().find(|row| row.matches(conditions));
    row.expect("every combination meets a row").case
}

/// Decides where streaming starts.
pub fn plan(facts: &Facts) -> StartPlan {
    let survey = Survey::of(facts);
    let conditions = Conditions {
        newest: survey.newest.map(|file| file.stage),
        damage_in_the_way: false,
        requested: facts.requested.is_some(),
        slot: facts.slot.is_some(),
    };
    let without_damage = position(case_of(conditions), facts, &survey);
    let case = case_of(Conditions {
        damage_in_the_way: survey
            .damaged
            .is_some_and(|file| facts.segment_size.start_of(file.segment) < without_damage.lsn),
        ..conditions
    });
    let start = position(case, facts, &survey);
    let oversize = oversize_partials_ahead(facts, start);
    StartPlan {
        case,
        lsn: start.lsn,
        timeline: start.timeline,
        set_aside: oversize
            .iter()
            .map(|file| file.name(facts.segment_size))
            .collect(),
        warnings: warnings(facts, &survey, case, &oversize),
    }
}

/// The files that matter.
struct Survey {
    /// The newest file that is not damaged.
    newest: Option<SegmentFile>,
    /// The oldest damaged segment above the newest good complete one. Damage further down is the business of whoever
    /// looks after the archive: streaming everything above it again could fail for ever.
    damaged: Option<SegmentFile>,
}

impl Survey {
    fn of(facts: &Facts) -> Survey {
        let size = facts.segment_size;
        let counting = || facts.files.iter().copied().filter(|file| file.counts(size));
        let good = || counting().filter(|file| !file.is_damaged(size));
        let complete = good().filter(|file| file.stage == Stage::Complete);
        let newest_complete = complete.map(|file| file.rank()).max();
        Survey {
            newest: good().max_by_key(SegmentFile::rank),
            damaged: counting()
                .filter(|file| file.is_damaged(size))
                .filter(|file| newest_complete.is_none_or(|newest| file.rank() > newest))
                .min_by_key(SegmentFile::rank),
        }
    }
}

/// Where `case` starts. The file or position that it starts from is there, or the case would be another.
fn position(case: Case, facts: &Facts, survey: &Survey) -> Position {
    let size = facts.segment_size;
    let at = |file: Option<SegmentFile>, start: fn(SegmentNumber) -> SegmentNumber| {
        file.map(|file| Position {
            lsn: size.start_of(start(file.segment)),
            timeline: file.timeline,
        })
    };
    let chosen = match case {
        Case::RefetchDamaged => at(survey.damaged, |segment| segment),
        Case::AfterComplete => at(survey.newest, SegmentNumber::next),
        Case::AtPartial => at(survey.newest, |segment| segment),
        Case::Requested => facts.requested.map(|lsn| Position { lsn, ..facts.server }),
        Case::AtSlot => facts.slot,
        Case::AtServer => Some(facts.server),
    };
    let chosen = chosen.expect("a case is met only by facts that have what it starts from");
    Position {
        lsn: size.floor(chosen.lsn),
        ..chosen
    }
}

/// The partials that streaming from `start` would come to write and that are too long to be written.
fn oversize_partials_ahead(facts: &Facts, start: Position) -> Vec<SegmentFile> {
    let first = (facts.segment_size.segment_of(start.lsn), start.timeline);
    let mut files: Vec<_> = (facts.files.iter().copied())
        .filter(|file| file.is_oversize_partial(facts.segment_size))
        .filter(|file| file.segment >= first.0 && file.timeline >= first.1)
        .collect();
    files.sort_by_key(SegmentFile::rank);
    files
}

/// Something about the directory that the operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// A complete plain segment has not the size of a segment.
    IncorrectSize {
        /// The file.
        name: String,
        /// Its size in bytes.
        bytes: u64,
    },
    /// A complete gzip segment does not hold a segment.
    IncorrectUncompressedSize {
        /// The file.
        name: String,
        /// How many bytes it holds.
        bytes: u64,
    },
    /// Streaming starts at a damaged segment.
    Refetched {
        /// The damaged file.
        name: String,
    },
    /// A partial segment is longer than a segment.
    OversizePartial {
        /// The file.
        name: String,
        /// Its size in bytes.
        bytes: u64,
    },
}

/// The first two as pg_receivewal words them.
impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::IncorrectSize { name, bytes } => {
                write!(f, "segment file \"{name}\" has incorrect size {bytes}, skipping")
            }
            Warning::IncorrectUncompressedSize { name, bytes } => write!(
                f,
                "compressed segment file \"{name}\" has incorrect uncompressed size {bytes}, skipping"
            ),
            Warning::Refetched { name } => {
                write!(
                    f,
                    "streaming starts at the segment of damaged file \"{name}\", to receive it again"
                )
            }
            Warning::OversizePartial { name, bytes } => write!(
                f,
                "partial segment file \"{name}\" has {bytes} bytes, which is more than a segment, setting it aside"
            ),
        }
    }
}

fn warnings(facts: &Facts, survey: &Survey, case: Case, oversize: &[SegmentFile]) -> Vec<Warning> {
    let size = facts.segment_size;
    let mut damaged: Vec<_> = facts.files.iter().filter(|file| file.is_damaged(size)).collect();
    damaged.sort_by_key(|file| file.rank());
    let incorrect = damaged.into_iter().map(|file| {
        let (name, bytes) = (file.name(size), file.wal_bytes.unwrap_or(0));
        match file.encoding {
            Encoding::Plain => Warning::IncorrectSize { name, bytes },
            Encoding::Gzip | Encoding::Lz4 => Warning::IncorrectUncompressedSize { name, bytes },
        }
    });
    let refetched = survey.damaged.filter(|_| case == Case::RefetchDamaged);
    let oversize = oversize.iter().map(|file| Warning::OversizePartial {
        name: file.name(size),
        bytes: file.wal_bytes.unwrap_or(0),
    });
    incorrect
        .chain(refetched.map(|file| Warning::Refetched {
            name: file.name(size),
        }))
        .chain(oversize)
        .collect()
}

#[cfg(test)]
mod tests;
