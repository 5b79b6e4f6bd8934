//! What the headers of a few segments say about all of them.

use super::listing::Segment;
use crate::core::lsn::SegmentSize;
use crate::core::start::{Encoding, Stage};
use crate::core::wal::page::{LONG_HEADER, LongHeader, PageHeader, SHORT_HEADER};
use std::fs::File;
use std::hash::Hash;
use std::os::unix::fs::FileExt;

/// So many segments are asked, spread over all of them: reading every first page of a large archive would
/// take long on a cold disk.
const ASKED: usize = 16;

/// What the segments of one server have in common, as most of those that were asked say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Bytes in a segment.
    pub segment_size: SegmentSize,
    /// Bytes in a page, if one tells.
    pub block_size: Option<u32>,
    /// The magic number of the pages, if one tells.
    pub magic: Option<u16>,
    /// The server's system identifier, if one tells.
    pub system_identifier: Option<u64>,
}

impl Format {
    /// The format of the segments, which were found by name; `None` if not even the segment size can be told.
    pub(super) fn of(segments: &[Segment], segment_size: Option<SegmentSize>) -> Option<Format> {
        let plain: Vec<_> = segments
            .iter()
            .filter(|s| s.file.encoding == Encoding::Plain)
            .collect();
        let step = plain.len().div_ceil(ASKED).max(1);
        let mut votes = Votes::default();
        for segment in plain.iter().step_by(step) {
            votes.ask(segment);
        }
        // Where no header tells, finished files do by their size.
        let finished = plain
            .iter()
            .filter(|segment| segment.file.stage == Stage::Complete);
        let by_size: Vec<_> = finished
            .filter_map(|segment| SegmentSize::new(segment.bytes))
            .collect();
        Some(Format {
            segment_size: segment_size.or(most(&votes.segment_size)).or(most(&by_size))?,
            block_size: most(&votes.block_size),
            magic: most(&votes.magic),
            system_identifier: most(&votes.system_identifier),
        })
    }
}

/// What was said; each field is voted on by itself, for damage may be in any one.
#[derive(Default)]
struct Votes {
    segment_size: Vec<SegmentSize>,
    block_size: Vec<u32>,
    magic: Vec<u16>,
    system_identifier: Vec<u64>,
}

impl Votes {
    fn ask(&mut self, segment: &Segment) {
        let Some((header, more)) = File::open(&segment.path).ok().and_then(|file| long_header(&file)) else {
            return;
        };
        self.magic.push(header.magic);
        self.system_identifier.push(more.system_identifier);
        self.segment_size
            .extend(SegmentSize::new(more.segment_size.into()));
        let block =
            Some(more.block_size).filter(|size| size.is_power_of_two() && (1 << 10..=1 << 16).contains(size));
        self.block_size.extend(block);
        // The next pages tell the version as well: a single segment must not be judged by one header alone.
        for page in 1..=2 {
            let header = page_header(&segment.path, page * u64::from(block.unwrap_or(8192)));
            self.magic.extend(
                header
                    .filter(|header| header.version().is_some())
                    .map(|header| header.magic),
            );
        }
    }
}

/// The long header at a file's beginning, if there is anything like one.
fn long_header(file: &File) -> Option<(PageHeader, LongHeader)> {
    let mut bytes = [0; LONG_HEADER];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let (short, more) = bytes.split_first_chunk()?;
    let header = PageHeader::parse(short);
    let looks_right = header.version().is_some() && header.is_long();
    looks_right.then(|| Some((header, LongHeader::parse(more.first_chunk()?))))?
}

/// What stands where a page's header must be, at an offset in bytes.
pub fn page_header(path: &std::path::Path, offset: u64) -> Option<PageHeader> {
    let mut bytes = [0; SHORT_HEADER];
    File::open(path).ok()?.read_exact_at(&mut bytes, offset).ok()?;
    Some(PageHeader::parse(&bytes))
}

/// What was said most often; the first of those that were said equally often.
fn most<T: Copy + Eq + Hash>(said: &[T]) -> Option<T> {
    let count = |value: &T| said.iter().filter(|other| *other == value).count();
    said.iter().rev().max_by_key(|value| count(value)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_majority_wins_and_the_first_of_equals() {
        assert_eq!(most(&[1, 2, 2]), Some(2));
        assert_eq!(most(&[1, 2]), Some(1));
        assert_eq!(most::<u8>(&[]), None);
    }
}
