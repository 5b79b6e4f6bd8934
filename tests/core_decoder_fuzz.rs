//! The decoder is given what no server would send, and keeps its promises.
//!
//! `FUZZ_SEED=n` replays one input, `FUZZ_SEEDS=n` sets how many there are. `tests/fuzz` does the same without an end.

mod model;

use fastrand::Rng;
use model::reading::try_anything;
use model::wal::{Shape, Wal};

/// Enough for each kind of damage to meet each kind of record, and done within seconds.
const INPUTS: u64 = 100_000;

/// Names the seed of an input when it fails.
struct Input(u64);

impl Drop for Input {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with seed {0}; repeat it alone with FUZZ_SEED={0}", self.0);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn any_bytes_are_read_without_panic_and_the_same_in_any_portions() {
    let seeds = match number("FUZZ_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FUZZ_SEEDS").unwrap_or(INPUTS),
    };
    let logs: Vec<Wal> = (0..200).map(small_log).collect();
    for seed in seeds {
        let _input = Input(seed);
        let mut rng = Rng::with_seed(seed);
        let wal = &logs[rng.usize(0..logs.len())];
        let mut bytes = wal.all().to_vec();
        for _ in 0..rng.u32(1..4) {
            damage(wal, &mut bytes, &mut rng);
        }
        try_anything(&bytes, &mut rng);
    }
}

/// A few short records on a few small pages.
fn small_log(seed: u64) -> Wal {
    let mut rng = Rng::with_seed(seed);
    let shape = Shape {
        version: rng.u16(12..=19),
        block: 1024,
        deaths: 50,
        longest: 1500,
        ..Shape::default()
    };
    let mut wal = Wal::empty(seed, Shape { switches: 0, ..shape });
    let length = rng.usize(200..2500);
    while wal.all().len() < length {
        wal.anything();
    }
    if rng.u8(0..4) == 0 {
        // The beginning of what is behind a switch.
        let switch = wal.switch();
        wal.cut(switch.end + rng.u64(0..300));
    }
    wal
}

/// One thing goes wrong; it may be one that has a right CRC.
fn damage(wal: &Wal, bytes: &mut Vec<u8>, rng: &mut Rng) {
    if bytes.len() < 64 {
        return;
    }
    let at = rng.usize(0..bytes.len() - 16);
    match rng.u8(0..10) {
        0 => bytes[at] ^= 1 << rng.u8(0..8),
        1 => bytes[at] = rng.u8(..),
        2 | 3 => {
            let lengths = [
                0,
                1,
                23,
                24,
                25,
                1000,
                1020 << 20,
                (1020 << 20) + 1,
                u32::MAX,
                rng.u32(..),
            ];
            let value = lengths[rng.usize(0..lengths.len())];
            bytes[at / 4 * 4..][..4].copy_from_slice(&value.to_le_bytes());
        }
        4 => bytes.truncate(at),
        5 => {
            let from = rng.usize(0..bytes.len() - 16);
            let count = rng.usize(0..bytes.len() - from.max(at));
            bytes.copy_within(from..from + count, at);
        }
        6 => drop(bytes.drain(at / 8 * 8..at / 8 * 8 + 8)),
        7 => {
            // Flags and rests, in the header of a page.
            let page = at / 1024 * 1024;
            bytes[page + 2] ^= 1 << rng.u8(0..5);
            bytes[page + 16] = rng.u8(..);
        }
        _ => forge(wal, bytes, rng),
    }
}

/// Changes a record that lies in one page, and makes its CRC right.
fn forge(wal: &Wal, bytes: &mut [u8], rng: &mut Rng) {
    let record = wal.records()[rng.usize(0..wal.records().len())];
    let (from, to) = (
        (record.start - wal.start()) as usize,
        (record.end - wal.start()) as usize,
    );
    if from / 1024 != (to - 1) / 1024 || to > bytes.len() {
        return;
    }
    let record = &mut bytes[from..to];
    match rng.u8(0..4) {
        0 => record[16] = [0x40, 0xD0, 0x00, 0x30][rng.usize(0..4)],
        1 => record[17] = rng.u8(..),
        2 => record[rng.usize(0..20)] ^= 1 << rng.u8(0..8),
        _ => record[rng.usize(4..20)] = rng.u8(..),
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&record[24..]), &record[..20]);
    record[20..24].copy_from_slice(&crc.to_le_bytes());
}
