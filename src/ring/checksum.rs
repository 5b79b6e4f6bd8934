//! The CRC of records with the processor's own instruction.
//!
//! The crate that computes it otherwise is made for long inputs: for a record of 100 bytes it takes more than twice the
//! time. Records of pages are left to it, for it goes through them in three places at once.

use crate::core::wal::record::{CHECKED_HEADER, Checksum};

/// The fastest way that this processor has.
pub fn fastest() -> Checksum {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("sse4.2") {
        return Checksum(short::checksum);
    }
    Checksum::default()
}

#[cfg(target_arch = "x86_64")]
mod short {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u16, _mm_crc32_u32, _mm_crc32_u64};

    use super::CHECKED_HEADER;

    /// From so many bytes on the crate is faster.
    const LONG: usize = 768;

    /// Only [`super::fastest`] hands this out.
    pub fn checksum(content: &[u8], header: &[u8; CHECKED_HEADER]) -> u32 {
        let long = content.len() >= LONG;
        let (content, crc) = if long {
            (&[][..], crc32c::crc32c(content))
        } else {
            (content, 0)
        };
        // SAFETY: the processor has the instruction; `fastest` asked it.
        unsafe { append(crc, content, header) }
    }

    #[target_feature(enable = "sse4.2")]
    fn append(crc: u32, content: &[u8], header: &[u8; CHECKED_HEADER]) -> u32 {
        let (words, rest) = content.as_chunks::<8>();
        let mut crc = u64::from(!crc);
        for word in words {
            crc = _mm_crc32_u64(crc, u64::from_le_bytes(*word));
        }
        let crc = tail(crc as u32, rest);
        let (words, rest) = header.as_chunks::<8>();
        let mut crc = u64::from(crc);
        for word in words {
            crc = _mm_crc32_u64(crc, u64::from_le_bytes(*word));
        }
        !tail(crc as u32, rest)
    }

    /// Fewer than 8 bytes.
    #[target_feature(enable = "sse4.2")]
    fn tail(mut crc: u32, mut rest: &[u8]) -> u32 {
        if let Some((bytes, more)) = rest.split_first_chunk() {
            (crc, rest) = (_mm_crc32_u32(crc, u32::from_le_bytes(*bytes)), more);
        }
        if let Some((bytes, more)) = rest.split_first_chunk() {
            (crc, rest) = (_mm_crc32_u16(crc, u16::from_le_bytes(*bytes)), more);
        }
        rest.first().map_or(crc, |&byte| _mm_crc32_u8(crc, byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_way_gives_what_the_usual_one_gives() {
        let mut bytes = [0; 3000];
        fastrand::Rng::with_seed(1).fill(&mut bytes);
        let header = bytes.first_chunk().expect("long enough");
        for length in (0..900).chain([2047, 2048, 3000]) {
            for from in [0, 1].into_iter().filter(|from| *from <= length) {
                let content = &bytes[from..length];
                let usual = crc32c::crc32c_append(crc32c::crc32c(content), header);
                assert_eq!(
                    (fastest().0)(content, header),
                    usual,
                    "{length} bytes from {from}"
                );
                assert_eq!((Checksum::default().0)(content, header), usual);
            }
        }
    }
}
