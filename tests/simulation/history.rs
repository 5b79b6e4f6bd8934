//! The primary's WAL: several timelines, each with its file of history.

use std::sync::{Arc, OnceLock};

use fastrand::Rng;
use walring::core::lsn::Lsn;

use crate::model::truth::Truth;
use crate::model::wal::resize;
use crate::model::wal::{Shape, Unit, Wal};
use crate::model::{START, segment_size};

/// The WAL of one timeline, with what it has of the timelines before it.
pub struct Timeline {
    /// Its number.
    pub number: u32,
    /// Where it begins: its first record's position.
    pub begin: Lsn,
    /// Where its log ends: a server on it had no more.
    pub end: Lsn,
    /// Where the next one begins: at its end, or before, where a standby was promoted that did not have the rest.
    pub left: Lsn,
    /// Where the first record ends that lies behind that.
    pub lost: Option<Lsn>,
    /// Its bytes from [`START`] on, in whole segments; zero behind the end.
    bytes: Vec<u8>,
    /// What belongs together in it.
    truth: Truth,
}

/// All timelines of a cluster, and how they follow each other.
pub struct History {
    /// In their order, from 1 on.
    pub timelines: Vec<Timeline>,
    /// What is in each segment's first page.
    pub system_identifier: u64,
}

const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;

/// Histories are made once and serve many lives.
const NUMBER: u64 = 24;

impl Timeline {
    /// The bytes between two positions; zero is what lies behind the end.
    pub fn bytes(&self, from: Lsn, to: Lsn) -> &[u8] {
        &self.bytes[from.bytes_since(START) as usize..to.bytes_since(START) as usize]
    }

    /// How far it is complete, if that is all there is: no record is divided there.
    pub fn right_to(&self, received: Lsn) -> Lsn {
        self.truth.right_to(received)
    }

    /// The file of its history, as the server sends it.
    fn file(&self, before: &[Timeline]) -> String {
        let line = |timeline: &Timeline| {
            format!(
                "{}\t{}\tno recovery target specified\n",
                timeline.number, timeline.left
            )
        };
        before.iter().map(line).collect()
    }
}

impl History {
    /// The timeline of this number.
    pub fn timeline(&self, number: u32) -> &Timeline {
        &self.timelines[number as usize - 1]
    }

    /// The content of a timeline's history file.
    pub fn file(&self, number: u32) -> String {
        self.timeline(number).file(&self.timelines[..number as usize - 1])
    }

    /// The timeline whose name the segment that begins there has in a directory that followed the server to
    /// `newest`.
    pub fn name_of(&self, segment_start: Lsn, newest: u32) -> u32 {
        let size = segment_size();
        let begun = |timeline: &&Timeline| size.floor(timeline.begin) <= segment_start;
        let timelines = &self.timelines[..newest as usize];
        timelines
            .iter()
            .rev()
            .find(begun)
            .map_or(1, |timeline| timeline.number)
    }

    /// One of the histories; in those that lose WAL a new primary may lack what the old one had.
    pub fn any(choice: u64, loses: bool) -> Arc<History> {
        static MADE: [OnceLock<Arc<History>>; 2 * NUMBER as usize] =
            [const { OnceLock::new() }; 2 * NUMBER as usize];
        let number = choice % NUMBER + u64::from(loses) * NUMBER;
        MADE[number as usize]
            .get_or_init(|| Arc::new(make(number, loses)))
            .clone()
    }
}

fn make(number: u64, loses: bool) -> History {
    let mut rng = Rng::with_seed(number);
    let (block, longest, deaths) = match number % 4 {
        0 => (8 * KIB, 64 * KIB, 2),
        1 => (8 * KIB, 5 * MIB / 2, 4),
        2 => (KIB, 9 * KIB, 25),
        _ => (64 * KIB, 200 * KIB, 10),
    };
    let shape = Shape {
        block,
        longest,
        deaths,
        switches: [0, 1, 4][rng.usize(0..3)],
        length: rng.u64(MIB / 2..if loses { MIB } else { 5 * MIB / 2 }),
        version: [12, 13, 15, 17, 18, 19][rng.usize(0..6)],
        ..Shape::default()
    };
    let system_identifier = shape.system_identifier;
    let count = if loses { [2, 3, 3, 4] } else { [1, 1, 2, 3] }[rng.usize(0..4)];
    let mut wal = Wal::new(number, shape);
    let mut timelines: Vec<Timeline> = Vec::new();
    for following in 2..=count {
        let begin = timelines.last().map_or(START, |before| before.left);
        let fork = match loses {
            true => fork_below(&mut wal, begin, &mut rng),
            false => fork(&mut wal, begin, &mut rng),
        };
        let end = if loses {
            wal.end().next_multiple_of(8)
        } else {
            fork
        };
        let next = wal.fork(fork, following);
        push(&mut timelines, &wal, end, fork);
        wal = next;
        let more = wal.end() + rng.u64(10..if loses { MIB } else { 3 * MIB / 2 });
        while wal.end() < more {
            wal.anything();
        }
        wal.commit();
    }
    let end = wal.end().next_multiple_of(8);
    push(&mut timelines, &wal, end, end);
    History {
        timelines,
        system_identifier,
    }
}

/// Where the next timeline begins: behind a record, now and then at a segment's end.
fn fork(wal: &mut Wal, begin: Lsn, rng: &mut Rng) -> u64 {
    if rng.u8(0..4) == 0 {
        wal.switch();
        return wal.end();
    }
    let own: Vec<_> = wal
        .records()
        .iter()
        .filter(|record| record.start >= begin.0)
        .collect();
    let last = own[rng.usize(own.len() * 2 / 3..own.len())];
    match wal.is_behind_switch(last.end) {
        true => last.end.next_multiple_of(MIB),
        false => last.end.next_multiple_of(8),
    }
}

/// Where the next timeline begins although this one goes on: where it began itself, behind a record, or at a segment's
/// end, be it a record's or an empty rest's.
fn fork_below(wal: &mut Wal, begin: Lsn, rng: &mut Rng) -> u64 {
    let at = match rng.u8(0..8) {
        0 if begin > START => begin.0,
        0 | 1 => wal.approach(Unit::Segment, 0).end.next_multiple_of(8),
        2 => {
            wal.switch();
            wal.end()
        }
        _ => fork(wal, begin, rng),
    };
    let more = [100, 20 * KIB, 400 * KIB, MIB, 9 * MIB / 4][rng.usize(0..5)];
    let until = at.max(wal.end()) + rng.u64(8..more);
    while wal.end() < until {
        wal.anything();
    }
    wal.commit();
    at
}

fn push(timelines: &mut Vec<Timeline>, wal: &Wal, end: u64, left: u64) {
    let begin = timelines.last().map_or(START, |before| before.left);
    let (end, left) = (Lsn(end), Lsn(left));
    let behind = wal.records().iter().find(|record| record.start >= left.0);
    let lost = behind
        .map(|record| Lsn(record.end))
        .filter(|&lost| left < end && lost <= end);
    let mut bytes = wal.all().to_vec();
    resize(&mut bytes, end.bytes_since(START) as usize);
    let whole = segment_size().bytes() as usize;
    let length = bytes.len().next_multiple_of(whole) + whole;
    resize(&mut bytes, length);
    timelines.push(Timeline {
        number: timelines.len() as u32 + 1,
        begin,
        end,
        left,
        lost,
        bytes,
        truth: Truth::of(wal),
    });
}
