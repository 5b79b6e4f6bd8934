//! Positions in the write-ahead log and the names that are made of them.
//!
//! One newtype for each quantity that could be mistaken for another; all arithmetic lives here.
//! Source of the naming rules: PostgreSQL `src/include/access/xlog_internal.h`.

use std::fmt;
use std::str::FromStr;

/// A log sequence number: a byte position in the write-ahead log. As PostgreSQL does, a position
/// that ends something points one past its last byte.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// PostgreSQL's InvalidXLogRecPtr, `0/0`: on the wire it claims nothing.
    pub const INVALID: Lsn = Lsn(0);

    /// The distance in bytes from `earlier` to `self`; zero if `self` lies before it.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The position `bytes` further on.
    pub fn advanced_by(self, bytes: u64) -> Lsn {
        Lsn(self.0 + bytes)
    }
}

/// As PostgreSQL up to 18 writes it, `16/B374D848`.
impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text was no LSN: two hexadecimal numbers of one to eight digits with a slash between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidLsn;

impl fmt::Display for InvalidLsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected two hexadecimal numbers with a slash between, as 16/B374D848")
    }
}

impl std::error::Error for InvalidLsn {}

/// Strict, as `pg_parse_lsn` of PostgreSQL 20: one to eight hexadecimal digits on each side.
impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Lsn, InvalidLsn> {
        let (high, low) = text.split_once('/').ok_or(InvalidLsn)?;
        let half = |digits: &str| {
            let valid = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            valid
                .then(|| u64::from_str_radix(digits, 16).ok())
                .flatten()
                .ok_or(InvalidLsn)
        };
        Ok(Lsn(half(high)? << 32 | half(low)?))
    }
}

/// A timeline ID, one or greater on any server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeline(pub u32);

impl Timeline {
    /// The name of the timeline's history file, `0000000A.history`.
    pub fn history_file_name(self) -> String {
        format!("{:08X}.history", self.0)
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The size of a WAL segment in bytes: a power of two from 1 MiB to 1 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentSize(u64);

impl SegmentSize {
    /// The size, if PostgreSQL allows it.
    pub fn new(bytes: u64) -> Option<SegmentSize> {
        let valid = bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes);
        valid.then_some(SegmentSize(bytes))
    }

    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// The segment that holds the byte at `lsn`.
    pub fn segment_of(self, lsn: Lsn) -> SegmentNumber {
        SegmentNumber(lsn.0 / self.0)
    }

    /// Where in its segment the byte at `lsn` lies, in bytes.
    pub fn offset_of(self, lsn: Lsn) -> u64 {
        lsn.0 % self.0
    }

    /// The first position of a segment.
    pub fn start_of(self, segment: SegmentNumber) -> Lsn {
        Lsn(segment.0 * self.0)
    }

    /// The first position behind a segment.
    pub fn end_of(self, segment: SegmentNumber) -> Lsn {
        Lsn((segment.0 + 1) * self.0)
    }

    /// `lsn` rounded down to the start of its segment.
    pub fn floor(self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0 - self.offset_of(lsn))
    }

    /// How many segments share the middle eight digits of a name.
    fn segments_per_xlog_id(self) -> u64 {
        (1 << 32) / self.0
    }
}

/// The number of a segment, counted from the beginning of the log (not from the timeline's).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNumber(pub u64);

impl SegmentNumber {
    /// The segment behind this one.
    pub fn next(self) -> SegmentNumber {
        SegmentNumber(self.0 + 1)
    }

    /// The file name of the finished segment: 24 upper-case hexadecimal digits.
    pub fn file_name(self, timeline: Timeline, size: SegmentSize) -> String {
        let per_id = size.segments_per_xlog_id();
        format!("{:08X}{:08X}{:08X}", timeline.0, self.0 / per_id, self.0 % per_id)
    }

    /// Timeline and number from a name of 24 upper-case hexadecimal digits; `None` for any other
    /// text, and for a low part that no segment of this size can have.
    pub fn parse_file_name(name: &str, size: SegmentSize) -> Option<(Timeline, SegmentNumber)> {
        let digits = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
        if name.len() != 24 || !name.bytes().all(digits) {
            return None;
        }
        let part = |range| u32::from_str_radix(&name[range], 16).ok();
        let (timeline, high, low) = (part(0..8)?, part(8..16)?, part(16..24)?);
        let per_id = size.segments_per_xlog_id();
        let number = u64::from(high) * per_id + u64::from(low);
        (u64::from(low) < per_id).then_some((Timeline(timeline), SegmentNumber(number)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_is_parsed_strictly_and_printed_as_the_server_does() {
        assert_eq!("16/B374D848".parse(), Ok(Lsn(0x16_B374_D848)));
        assert_eq!("0/0".parse(), Ok(Lsn::INVALID));
        assert_eq!(Lsn(0x1_0000_000A).to_string(), "1/A");
        for bad in [
            "",
            "/",
            "1",
            "1/",
            "/1",
            "123456789/0",
            "1/2/3",
            " 1/2",
            "0x1/2",
            "+1/2",
            "1/2 ",
        ] {
            assert_eq!(bad.parse::<Lsn>(), Err(InvalidLsn), "{bad:?}");
        }
    }

    #[test]
    fn segment_names_carry_over_at_every_size() {
        let tli = Timeline(10);
        for shift in 20..=30 {
            let size = SegmentSize::new(1 << shift).unwrap();
            let last = size.segment_of(Lsn(0x0000_0002_FFFF_FFFF));
            let low = (1u64 << 32 >> shift) - 1;
            assert_eq!(last.file_name(tli, size), format!("0000000A00000002{low:08X}"));
            assert_eq!(last.next().file_name(tli, size), "0000000A0000000300000000");
            for segment in [last, last.next()] {
                let name = segment.file_name(tli, size);
                assert_eq!(SegmentNumber::parse_file_name(&name, size), Some((tli, segment)));
            }
        }
    }

    #[test]
    fn a_timelines_history_has_its_number() {
        assert_eq!(Timeline(0x2A).history_file_name(), "0000002A.history");
    }

    #[test]
    fn names_that_no_segment_can_have_are_refused() {
        let size = SegmentSize::new(16 << 20).unwrap();
        for bad in [
            "",
            "00000001000000000000000g",
            "0000000100000000000000ab",
            "000000010000000000000100",
        ] {
            assert_eq!(SegmentNumber::parse_file_name(bad, size), None, "{bad}");
        }
    }

    #[test]
    fn only_powers_of_two_from_one_mebibyte_to_one_gibibyte_are_segment_sizes() {
        assert!(SegmentSize::new(1 << 20).is_some() && SegmentSize::new(1 << 30).is_some());
        for bad in [0, 1 << 19, 1 << 31, 3 << 20] {
            assert!(SegmentSize::new(bad).is_none());
        }
    }
}
