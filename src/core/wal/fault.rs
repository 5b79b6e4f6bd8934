//! What can be wrong with a page or a record.

use std::fmt;

use super::record::ResourceManager;
use crate::core::lsn::{Lsn, Timeline};

/// Something is not as it must be: where, what was expected, what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The page or record that is wrong.
    pub place: Place,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// Where a fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The page that begins there.
    Page(Lsn),
    /// The record that begins there.
    Record(Lsn),
    /// The byte there, which belongs to no page and no record.
    Byte(Lsn),
}

impl Place {
    /// The position itself.
    pub fn lsn(self) -> Lsn {
        match self {
            Place::Page(lsn) | Place::Record(lsn) | Place::Byte(lsn) => lsn,
        }
    }
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// The page's magic number is none that is known, or not that of the pages before.
    Magic {
        /// That of the pages before, if there were any.
        expected: Option<u16>,
        /// What stands there.
        found: u16,
    },
    /// The page's flags hold something unknown.
    Flags(u16),
    /// The page's header must be long, for it is its segment's first, or short, for it is not.
    HeaderLength {
        /// Whether it must be long.
        long: bool,
    },
    /// The page says that it belongs elsewhere: it is of an earlier use of the file.
    Address {
        /// Where it is.
        expected: Lsn,
        /// Where it says it is.
        found: Lsn,
    },
    /// The page's timeline is greater than that of the file, or less than that of the page before.
    PageTimeline {
        /// The least and the greatest that it may be.
        expected: (Timeline, Timeline),
        /// What stands there.
        found: Timeline,
    },
    /// The segment was written by another server.
    SystemIdentifier {
        /// The server's.
        expected: u64,
        /// What stands there.
        found: u64,
    },
    /// The header tells another segment size.
    SegmentSize {
        /// In bytes.
        expected: u64,
        /// In bytes.
        found: u32,
    },
    /// The header tells a page size that is none, or not that of the pages before.
    BlockSize {
        /// In bytes, if it is known.
        expected: Option<u32>,
        /// In bytes.
        found: u32,
    },
    /// The page goes on with a record although none has begun, or does not although one has.
    Continuation {
        /// Bytes missing of the record.
        expected: u32,
        /// What the header tells; zero: it tells of none.
        found: u32,
    },
    /// The page's flags and the number of bytes missing of a record cannot both be right.
    Contradiction {
        /// The flags.
        flags: u16,
        /// Bytes missing of the record.
        remaining: u32,
    },
    /// A part of the page's header that must be zero is not.
    Padding(u32),
    /// There is no record: the log ends here.
    NoRecord,
    /// The record's length cannot be.
    Length(u32),
    /// The record tells another one as the one before it.
    Previous {
        /// Where the record before begins.
        expected: Lsn,
        /// What stands there.
        found: Lsn,
    },
    /// No resource manager has that number.
    Manager(ResourceManager),
    /// The record's content is not what the server wrote.
    Crc {
        /// What stands in the header.
        expected: u32,
        /// What the bytes have.
        found: u32,
    },
    /// The page is flagged to begin with a record that replaces a half-written one, and does not.
    NoOverwrite,
    /// The record replaces another one than the one that was half-written.
    Overwritten {
        /// Where the half-written one begins.
        expected: Lsn,
        /// What the record tells.
        found: Lsn,
    },
    /// There is a page that is flagged to replace a half-written record, or a record that replaces one, but
    /// no such record or no such flag.
    Replacement {
        /// Whether it is the page.
        flagged: bool,
    },
    /// Behind a switch to the next segment, or between records, there must be nothing but zeros.
    NotZero(u8),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Page(lsn) => write!(f, "page at {lsn}"),
            Place::Record(lsn) => write!(f, "record at {lsn}"),
            Place::Byte(lsn) => write!(f, "byte at {lsn}"),
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Flaw::Magic { expected, found } => magic(f, expected, found),
            Flaw::Flags(found) => write!(f, "unknown flags {found:04X}"),
            Flaw::HeaderLength { long: true } => f.write_str("short header on a segment's first page"),
            Flaw::HeaderLength { long: false } => {
                f.write_str("long header on a page that is not its segment's first")
            }
            Flaw::Address { expected, found } => write!(f, "page address {found}, expected {expected}"),
            Flaw::PageTimeline { expected, found } => timeline(f, expected, found),
            Flaw::SystemIdentifier { expected, found } => {
                write!(f, "system identifier {found}, expected {expected}")
            }
            Flaw::SegmentSize { expected, found } => {
                write!(f, "segment size of {found} bytes, expected {expected}")
            }
            Flaw::BlockSize { expected, found } => block_size(f, expected, found),
            Flaw::Continuation { expected, found } => continuation(f, expected, found),
            Flaw::Contradiction { flags, remaining } => {
                write!(f, "flags {flags:04X} contradict a rest of {remaining} bytes")
            }
            Flaw::Padding(found) => write!(f, "header padding {found:08X}, expected zero"),
            Flaw::NoRecord => f.write_str("length 0: the log ends here"),
            Flaw::Length(found) => write!(f, "length {found}, which no record has"),
            Flaw::Previous { expected, found } => {
                write!(f, "previous record at {found}, expected {expected}")
            }
            Flaw::Crc { expected, found } => {
                write!(f, "CRC of the content {found:08X}, expected {expected:08X}")
            }
            Flaw::Overwritten { expected, found } => {
                write!(
                    f,
                    "replaces the half-written record at {found}, expected {expected}"
                )
            }
            Flaw::Replacement { flagged: true } => {
                f.write_str("flagged to replace a half-written record, and there is none")
            }
            Flaw::Replacement { flagged: false } => {
                f.write_str("replaces a half-written record on a page that is not flagged so")
            }
            Flaw::Manager(found) => write!(f, "resource manager {}, which does not exist", found.0),
            Flaw::NoOverwrite => {
                f.write_str("flagged to replace a half-written record, which its first record does not")
            }
            Flaw::NotZero(found) => write!(f, "is {found:02X}, expected zero"),
        }
    }
}

fn magic(f: &mut fmt::Formatter<'_>, expected: Option<u16>, found: u16) -> fmt::Result {
    match expected {
        Some(expected) => write!(f, "magic number {found:04X}, expected {expected:04X}"),
        None => write!(f, "magic number {found:04X}, which no supported server writes"),
    }
}

fn timeline(f: &mut fmt::Formatter<'_>, expected: (Timeline, Timeline), found: Timeline) -> fmt::Result {
    match expected {
        (least, most) if least == most => write!(f, "timeline {found}, expected {most}"),
        (least, most) => write!(f, "timeline {found}, expected {least} to {most}"),
    }
}

fn block_size(f: &mut fmt::Formatter<'_>, expected: Option<u32>, found: u32) -> fmt::Result {
    match expected {
        Some(expected) => write!(f, "page size of {found} bytes, expected {expected}"),
        None => write!(f, "page size of {found} bytes, which no server has"),
    }
}

fn continuation(f: &mut fmt::Formatter<'_>, expected: u32, found: u32) -> fmt::Result {
    match (expected, found) {
        (0, found) => write!(f, "goes on with {found} bytes of a record, expected none"),
        (expected, 0) => write!(
            f,
            "does not go on with a record, expected {expected} bytes of one"
        ),
        _ => write!(f, "goes on with {found} bytes of a record, expected {expected}"),
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.flaw)
    }
}
