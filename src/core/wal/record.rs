//! The header of a WAL record (PostgreSQL `XLogRecord`), and the record as the decoder gives it.

use super::page::{u32_at, u64_at};
use crate::core::lsn::Lsn;

/// Bytes of a record's header.
pub const RECORD_HEADER: usize = 24;

/// Bytes of the header that the CRC covers: all but itself.
pub const CHECKED_HEADER: usize = 20;

/// Records begin at multiples of so many bytes.
pub const ALIGNMENT: u64 = 8;

/// The longest record that is believed: PostgreSQL 16 and later refuse to write longer ones.
pub const LONGEST_RECORD: u32 = 1020 << 20;

/// A resource manager's number: which part of the server wrote a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceManager(pub u8);

impl ResourceManager {
    /// Of the log itself: checkpoints, switches.
    pub const XLOG: ResourceManager = ResourceManager(0);
    /// Of transactions: commits and the like.
    pub const TRANSACTION: ResourceManager = ResourceManager(1);
    /// The last of those that every supported version has.
    pub const LAST_OF_ALL: ResourceManager = ResourceManager(21);
}

/// A record's header, as it stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// Bytes of the record, this header included, page headers between its parts not.
    pub total_length: u32,
    /// The transaction that wrote it, zero for none.
    pub transaction: u32,
    /// Where the record before begins.
    pub previous: Lsn,
    /// What the record is, as its resource manager defines.
    pub info: u8,
    /// Which resource manager wrote it.
    pub manager: ResourceManager,
    /// CRC-32C of the record.
    pub crc: u32,
}

impl RecordHeader {
    /// The header in these bytes.
    pub fn parse(bytes: &[u8; RECORD_HEADER]) -> RecordHeader {
        RecordHeader {
            total_length: u32_at(bytes, 0),
            transaction: u32_at(bytes, 4),
            previous: Lsn(u64_at(bytes, 8)),
            info: bytes[16],
            manager: ResourceManager(bytes[17]),
            crc: u32_at(bytes, 20),
        }
    }

    /// Whether the rest of the segment behind the record is empty (XLOG_SWITCH).
    pub fn is_switch(&self) -> bool {
        self.manager == ResourceManager::XLOG && self.info & 0xF0 == 0x40
    }

    /// Whether the record replaces a half-written one (XLOG_OVERWRITE_CONTRECORD).
    pub fn is_overwrite(&self) -> bool {
        self.manager == ResourceManager::XLOG && self.info & 0xF0 == 0xD0
    }
}

/// A record whose CRC is right.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Where it begins.
    pub start: Lsn,
    /// Where it ends: behind its last byte, before the padding. Behind a page header, if its last byte is
    /// the page's last, is not yet part of it. This is what a client sees as a commit's LSN, but for padding.
    pub end: Lsn,
    /// Its header.
    pub header: RecordHeader,
    /// Its bytes from its header's first on, page headers left out: all of them, or as many as the
    /// decoder was told to keep.
    pub bytes: &'a [u8],
}
