//! A small world for the core: a server's bytes, a network that splits them, slots and a disk.
//!
//! No I/O, no clock: time is virtual, chance comes from a seed, and the same seed gives the same run.
//! [`stream`] is what a server says, [`disk`] what would survive a crash, [`world`] drives a
//! `Receiver` as its contract says and checks each order against the other two. [`wal`] is WAL in its own
//! format, [`truth`] what may be claimed of it, [`log`] both together, and [`reading`] a decoder that is
//! watched while it reads it.

// Each test binary uses a part of the model.
#![allow(dead_code)]

pub mod disk;
pub mod log;
mod orders;
pub mod reading;
mod setup;
pub mod stream;
pub mod truth;
mod verification;
pub mod wal;
pub mod world;

use std::sync::OnceLock;

use walring::core::lsn::{Lsn, SegmentSize};

/// Where every stream of the model starts: the beginning of a segment.
pub const START: Lsn = Lsn(3 << 20);

/// Bytes of WAL the model's server has.
const WAL_LENGTH: usize = 6 << 20;

/// The smallest segments, so that short runs cross many boundaries.
pub fn segment_size() -> SegmentSize {
    SegmentSize::new(1 << 20).expect("a valid size")
}

/// The server's WAL from [`START`] on. No byte is zero, so that a zero always is a byte never received.
pub fn wal() -> &'static [u8] {
    static WAL: OnceLock<Vec<u8>> = OnceLock::new();
    WAL.get_or_init(|| {
        let mut rng = Rng::new(1);
        let mut bytes = Vec::with_capacity(WAL_LENGTH);
        while bytes.len() < WAL_LENGTH {
            bytes.extend((rng.next() | 0x0101_0101_0101_0101).to_le_bytes());
        }
        bytes
    })
}

/// The distance of a position from [`START`] in bytes.
pub fn offset(lsn: Lsn) -> usize {
    lsn.bytes_since(START) as usize
}

/// The position so many bytes behind [`START`].
pub fn at(bytes: u64) -> Lsn {
    START.advanced_by(bytes)
}

/// How many leading bytes two slices share.
pub fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let mut equal = 0;
    for (left, right) in a.chunks(1024).zip(b.chunks(1024)) {
        if left != right {
            return equal + left.iter().zip(right).take_while(|(x, y)| x == y).count();
        }
        equal += left.len();
    }
    equal
}

/// Whether all bytes are zero; compared in chunks, for tests are not optimized.
pub fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes
        .chunks(ZEROS.len())
        .all(|chunk| chunk == &ZEROS[..chunk.len()])
}

/// The end of the last byte that is not zero.
pub fn content_end(bytes: &[u8]) -> usize {
    let mut end = bytes.len();
    for chunk in bytes.rchunks(4096).take_while(|chunk| is_zero(chunk)) {
        end -= chunk.len();
    }
    bytes[..end]
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1)
}

/// A pseudo-random sequence (xorshift64*), the same for the same seed everywhere.
#[derive(Debug)]
pub struct Rng(u64);

impl Rng {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Rng {
        Rng((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + (self.next() >> 11) % (high - low + 1)
    }

    /// True so many times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.between(0, 99) < percent
    }

    /// One of the choices.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.between(0, choices.len() as u64 - 1) as usize]
    }
}

/// Names the seed when a test fails, so that the run can be repeated.
pub struct Seed(pub u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "failed with seed {0}; repeat it alone with MODEL_SEED={0}",
                self.0
            );
        }
    }
}

/// The seeds to run: so many from zero on, or as many as `MODEL_SEEDS` says, or the one of `MODEL_SEED`.
pub fn seeds(count: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    match number("MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MODEL_SEEDS").unwrap_or(count),
    }
}
