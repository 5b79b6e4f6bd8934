//! Positions in the WAL and the names of the files that hold them.

use std::fmt;
use std::str::FromStr;

/// A byte position in the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The position's offset in its segment.
    pub fn offset(self, segment_bytes: u64) -> usize {
        (self.0 % segment_bytes) as usize
    }

    /// The start of the segment that holds the position.
    pub fn segment_start(self, segment_bytes: u64) -> Lsn {
        Lsn(self.0 - self.0 % segment_bytes)
    }

    /// The name of the segment that holds the byte at the position.
    pub fn segment_name(self, timeline: u32, segment_bytes: u64) -> String {
        let segment = self.0 / segment_bytes;
        let per_id = (1 << 32) / segment_bytes;
        format!("{timeline:08X}{:08X}{:08X}", segment / per_id, segment % per_id)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = String;

    fn from_str(text: &str) -> Result<Lsn, String> {
        let parse = |part: &str| u64::from_str_radix(part, 16).map_err(|e| format!("{text}: {e}"));
        let (high, low) = text
            .split_once('/')
            .ok_or_else(|| format!("not an LSN: {text}"))?;
        Ok(Lsn(parse(high)? << 32 | parse(low)?))
    }
}
