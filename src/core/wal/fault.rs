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
            Flaw::NoRecord => f.write_str("length 0: the log ends here"),
            Flaw::Length(found) => write!(f, "length {found}, which no record has"),
            Flaw::Manager(found) => write!(f, "resource manager {}, which does not exist", found.0),
            Flaw::NoOverwrite => f.write_str("does not replace the half-written one, as its page says"),
            Flaw::NotZero(found) => write!(f, "is {found:02X}, expected zero"),
            _ => self.fmt_of_page(f),
        }
    }
}

impl Flaw {
    /// Those of pages.
    fn fmt_of_page(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |what: &str, expected: &dyn fmt::Display, found: &dyn fmt::Display| {
            format!("{what} {found}, expected {expected}")
        };
        let hex = |number: u16| format!("{number:04X}");
        let text = match *self {
            Flaw::Magic {
                expected: Some(expected),
                found,
            } => of("magic number", &hex(expected), &hex(found)),
            Flaw::Magic { found, .. } => {
                format!("magic number {found:04X}, which no supported server writes")
            }
            Flaw::Flags(found) => format!("unknown flags {found:04X}"),
            Flaw::HeaderLength { long: true } => "short header on a segment's first page".into(),
            Flaw::HeaderLength { .. } => "long header on a page that is not its segment's first".into(),
            Flaw::Address { expected, found } => of("page address", &expected, &found),
            Flaw::PageTimeline {
                expected: (least, most),
                found,
            } if least == most => of("timeline", &most, &found),
            Flaw::PageTimeline {
                expected: (least, most),
                found,
            } => of("timeline", &format!("{least} to {most}"), &found),
            Flaw::SystemIdentifier { expected, found } => of("system identifier", &expected, &found),
            Flaw::SegmentSize { expected, found } => of("segment size in bytes", &expected, &found),
            Flaw::BlockSize {
                expected: Some(expected),
                found,
            } => of("page size in bytes", &expected, &found),
            Flaw::BlockSize { found, .. } => format!("page size of {found} bytes, which no server has"),
            Flaw::Continuation { expected: 0, found } => {
                format!("goes on with {found} bytes of a record, expected none")
            }
            Flaw::Continuation { expected, found: 0 } => {
                format!("does not go on with a record, expected {expected} bytes of one")
            }
            Flaw::Continuation { expected, found } => {
                format!("goes on with {found} bytes of a record, expected {expected}")
            }
            Flaw::Padding(found) => format!("header padding {found:08X}, expected zero"),
            _ => return fmt::Debug::fmt(self, f),
        };
        f.write_str(&text)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.flaw)
    }
}
