//! What a decoder is told, and what it tells.

use super::page::PageHeader;
use super::record::Record;
use crate::core::lsn::{Lsn, SegmentSize, Timeline};

/// What is known of the log before its first byte is read.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// Bytes in a segment.
    pub segment_size: SegmentSize,
    /// The timeline of the files; pages before a switch carry that of an earlier one.
    pub timeline: Timeline,
    /// The server's system identifier; `None`: the first segment tells it.
    pub system_identifier: Option<u64>,
}

/// What a decoder looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The headers of pages.
    Pages,
    /// Pages and records.
    Records,
}

/// What was found.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A page begins there.
    Page(Lsn, PageHeader),
    /// A record is complete, and right.
    Record(Record<'a>),
    /// A page begins at whose place the half-written record that begins there should go on: it will be
    /// replaced. `None`: it began before the first byte that was fed.
    Abandoned(Option<Lsn>),
}
