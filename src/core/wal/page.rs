//! The header of a WAL page (PostgreSQL `XLogPageHeaderData`, `XLogLongPageHeaderData`).

use crate::core::lsn::{Lsn, Timeline};

/// Bytes of the header of most pages.
pub const SHORT_HEADER: usize = 24;

/// Bytes of the header of a segment's first page.
pub const LONG_HEADER: usize = 40;

const FIRST_IS_CONTRECORD: u16 = 0x1;
const LONG: u16 = 0x2;

/// A server's major version, as its pages tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u16);

/// The magic number of each major version. That of 19 has changed while it was in beta.
#[rustfmt::skip]
const MAGICS: [(u16, u16); 9] = [
    (0xD101, 12), (0xD106, 13), (0xD10D, 14), (0xD110, 15), (0xD113, 16), (0xD116, 17), (0xD118, 18), (0xD120, 19), (0xD121, 19),
];

impl Version {
    /// The version whose pages carry this magic number.
    pub fn of_magic(magic: u16) -> Option<Version> {
        let known = MAGICS.iter().find(|(known, _)| *known == magic);
        known.map(|&(_, version)| Version(version))
    }

    /// The major version, 12 or greater.
    pub fn major(self) -> u16 {
        self.0
    }

    /// The flag of a page that begins with the record that replaces a half-written one.
    fn overwrite_flag(self) -> u16 {
        if self.0 >= 19 { 0x4 } else { 0x8 }
    }

    fn all_flags(self) -> u16 {
        if self.0 >= 19 { 0x7 } else { 0xF }
    }
}

/// A page's header, as it stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// Tells the version, see [`Version::of_magic`].
    pub magic: u16,
    /// Flags, whose meaning depends on the version.
    pub info: u16,
    /// The timeline on which the page was begun.
    pub timeline: Timeline,
    /// The page's own position.
    pub address: Lsn,
    /// Bytes that are missing of the record that began on an earlier page.
    pub remaining: u32,
    /// Zero on every server.
    pub padding: u32,
}

impl PageHeader {
    /// The header in these bytes.
    pub fn parse(bytes: &[u8; SHORT_HEADER]) -> PageHeader {
        PageHeader {
            magic: u16_at(bytes, 0),
            info: u16_at(bytes, 2),
            timeline: Timeline(u32_at(bytes, 4)),
            address: Lsn(u64_at(bytes, 8)),
            remaining: u32_at(bytes, 16),
            padding: u32_at(bytes, 20),
        }
    }

    /// The version of the server that wrote the page.
    pub fn version(&self) -> Option<Version> {
        Version::of_magic(self.magic)
    }

    /// Whether the flags hold nothing unknown.
    pub fn has_valid_flags(&self) -> bool {
        self.version()
            .is_some_and(|version| self.info & !version.all_flags() == 0)
    }

    /// Whether the page begins with the rest of a record.
    pub fn begins_with_rest(&self) -> bool {
        self.info & FIRST_IS_CONTRECORD != 0
    }

    /// Whether the header is a long one.
    pub fn is_long(&self) -> bool {
        self.info & LONG != 0
    }

    /// Whether the page begins with the record that replaces a half-written one: the server died in
    /// the middle of that.
    pub fn begins_with_overwrite(&self) -> bool {
        self.version()
            .is_some_and(|version| self.info & version.overwrite_flag() != 0)
    }

    /// The header's length in bytes.
    pub fn length(&self) -> usize {
        if self.is_long() { LONG_HEADER } else { SHORT_HEADER }
    }
}

/// What a long header says beyond a short one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongHeader {
    /// The server's system identifier.
    pub system_identifier: u64,
    /// Bytes in a segment.
    pub segment_size: u32,
    /// Bytes in a page.
    pub block_size: u32,
}

impl LongHeader {
    /// What the last 16 bytes of a long header say.
    pub fn parse(bytes: &[u8; LONG_HEADER - SHORT_HEADER]) -> LongHeader {
        LongHeader {
            system_identifier: u64_at(bytes, 0),
            segment_size: u32_at(bytes, 8),
            block_size: u32_at(bytes, 12),
        }
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Where the first byte is that is not zero.
pub(super) fn first_not_zero(bytes: &[u8]) -> Option<usize> {
    // Without an early end the compiler can take many bytes at a time.
    let any = |chunk: &[u8]| chunk.iter().fold(0, |all, byte| all | byte) != 0;
    let chunk = bytes.chunks(4096).position(any)? * 4096;
    let offset = bytes[chunk..].iter().position(|&byte| byte != 0)?;
    Some(chunk + offset)
}
