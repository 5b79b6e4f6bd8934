//! Any bytes in any portions: the decoder does not panic, the portions do not matter, nor does going back.

#![no_main]

#[allow(dead_code)]
#[path = "../../model/reading.rs"]
mod reading;
#[allow(dead_code)]
#[path = "../../model/wal.rs"]
mod wal;

use libfuzzer_sys::fuzz_target;

// The first bytes decide about the portions, the others are the log.
fuzz_target!(|bytes: &[u8]| {
    if let Some((seed, log)) = bytes.split_first_chunk() {
        let mut rng = fastrand::Rng::with_seed(u64::from_le_bytes(*seed));
        reading::try_anything(log, &mut rng);
    }
});
