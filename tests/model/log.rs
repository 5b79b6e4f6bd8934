//! Logs that are made up, with what may be claimed of them.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use walring::core::lsn::Lsn;
use walring::core::wal::decoder::{Decoder, Depth};

use super::reading::expected;
use super::truth::Truth;
use super::wal::{Shape, Unit, Wal};
use super::{Rng, START, offset};

const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;

/// WAL and what may be claimed of it.
#[derive(Clone)]
pub struct Log {
    /// What is in it.
    pub wal: Arc<Wal>,
    /// Its bytes, in whole segments.
    pub bytes: Bytes,
    /// What may be claimed of it.
    pub truth: Arc<Truth>,
}

impl Log {
    /// The log that begins at [`START`].
    pub fn of(wal: Wal) -> Log {
        assert_eq!(wal.start(), START.0);
        let mut bytes = wal.all().to_vec();
        bytes.resize(bytes.len().next_multiple_of(MIB as usize), 0);
        Log {
            bytes: bytes.into(),
            truth: Arc::new(Truth::of(&wal)),
            wal: Arc::new(wal),
        }
    }

    /// Behind the last record and its padding; the rest of the file is empty.
    pub fn end(&self) -> Lsn {
        Lsn(self.wal.end().next_multiple_of(8))
    }

    /// A decoder that has seen what lies before `start`.
    pub fn decoder(&self, start: Lsn, keep: usize) -> Decoder {
        let mut decoder = Decoder::new(expected(self.wal.shape()), Depth::Records, START, keep);
        let mut seen = &self.bytes[..offset(start)];
        while decoder.next(&mut seen).expect("it is right so far").is_some() {}
        decoder
    }

    /// The same with a bit turned over.
    pub fn with_damage(&self, damage: Lsn, bit: u32) -> Log {
        let mut bytes = self.bytes.to_vec();
        bytes[offset(damage)] ^= 1 << bit;
        Log {
            wal: self.wal.clone(),
            bytes: bytes.into(),
            truth: Arc::new(self.truth.with_damage(damage)),
        }
    }
}

/// Kinds of logs; of each, there are a few.
const KINDS: u64 = 8;
const OF_EACH_KIND: u64 = 3;

/// One of the logs, which are made once.
pub fn any_log(rng: &mut Rng) -> Log {
    static LOGS: [OnceLock<Log>; (KINDS * OF_EACH_KIND) as usize] =
        [const { OnceLock::new() }; (KINDS * OF_EACH_KIND) as usize];
    let number = rng.between(0, KINDS * OF_EACH_KIND - 1);
    let made = LOGS[number as usize].get_or_init(|| Log::of(make(number % KINDS, number)));
    made.clone()
}

fn make(kind: u64, seed: u64) -> Wal {
    let usual = Shape {
        length: 5 * MIB / 2,
        ..Shape::default()
    };
    let (switches, deaths) = (6, 25);
    match kind {
        0 => Wal::new(seed, usual),
        1 => Wal::new(
            seed,
            Shape {
                longest: 2 * MIB,
                length: 4 * MIB,
                ..usual
            },
        ),
        2 => Wal::new(
            seed,
            Shape {
                block: KIB,
                switches,
                deaths,
                ..usual
            },
        ),
        3 => Wal::new(
            seed,
            Shape {
                block: 64 * KIB,
                deaths,
                version: 18,
                ..usual
            },
        ),
        4 => Wal::new(
            seed,
            Shape {
                timeline: 2,
                older_pages: 100,
                version: 19,
                longest: 300,
                ..usual
            },
        ),
        5 => with_records_of_many_segments(seed, usual),
        6 => with_crossed_boundaries(seed, usual),
        _ => {
            let first_segment = Shape::default().first_segment - 1;
            let shape = Shape {
                first_segment,
                deaths,
                longest: 3 * MIB,
                length: 7 * MIB / 2,
                ..usual
            };
            Wal::new(seed, shape).without_segments(1)
        }
    }
}

fn with_records_of_many_segments(seed: u64, shape: Shape) -> Wal {
    let mut rng = Rng::new(seed);
    let mut wal = Wal::empty(seed, shape);
    for segments in [rng.between(3, 5), rng.between(1, 4)] {
        for _ in 0..rng.between(1, 300) {
            wal.anything();
        }
        wal.record((segments * MIB + rng.between(0, MIB)) as usize);
        wal.commit();
    }
    wal
}

/// Something else at the end of each segment.
fn with_crossed_boundaries(seed: u64, shape: Shape) -> Wal {
    let mut rng = Rng::new(seed);
    let mut wal = Wal::empty(seed, shape);
    for _ in 0..5 {
        for _ in 0..rng.between(1, 50) {
            wal.anything();
        }
        wal.approach(Unit::Segment, rng.pick(&[0, 8, 16, 24, 32, 96]));
        match rng.between(0, 3) {
            0 => wal.switch(),
            1 => wal.die_within(rng.between(1, 3)),
            2 => wal.record(rng.between(100, 30_000) as usize),
            _ => wal.commit(),
        };
    }
    wal.commit();
    wal
}
