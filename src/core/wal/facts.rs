//! What the pages of the log have told about it.

use super::event::Expected;
use super::fault::Flaw;
use super::page::{LongHeader, PageHeader, Version};
use super::record::ResourceManager;
use crate::core::lsn::{Lsn, SegmentSize, Timeline};

/// What the pages so far have told, and what the next must agree with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    /// Bytes in a page, a power of two; told by the first long header.
    pub(super) block: u64,
    /// Whether a long header has told it.
    block_told: bool,
    magic: Option<u16>,
    /// The timeline of the last page.
    timeline: Timeline,
    pub(super) system_identifier: Option<u64>,
}

impl Facts {
    /// Nothing was told, but perhaps the server's system identifier is known.
    pub(super) fn new(system_identifier: Option<u64>) -> Facts {
        Facts {
            block: 8192,
            block_told: false,
            magic: None,
            timeline: Timeline(1),
            system_identifier,
        }
    }

    /// Takes for told what is known otherwise.
    pub(super) fn expect(&mut self, magic: Option<u16>, block_size: Option<u32>) {
        self.magic = magic.or(self.magic);
        if let Some(block_size) = block_size {
            (self.block, self.block_told) = (u64::from(block_size), true);
        }
    }

    /// The version of the server that wrote the pages, once one told it.
    pub(super) fn version(&self) -> Option<Version> {
        self.magic.and_then(Version::of_magic)
    }

    /// Whether the server's version has such a resource manager.
    pub(super) fn knows(&self, manager: ResourceManager) -> bool {
        let version = self.version().map_or(0, Version::major);
        match manager.0 {
            0..=21 => true,
            22 => version >= 19,
            128..=255 => version >= 15,
            _ => false,
        }
    }

    /// Believes a header that was checked.
    pub(super) fn learn(&mut self, header: &PageHeader, more: Option<&LongHeader>) {
        self.magic = Some(header.magic);
        self.timeline = header.timeline;
        if let Some(more) = more {
            (self.block, self.block_told) = (u64::from(more.block_size), true);
            self.system_identifier = Some(more.system_identifier);
        }
    }

    /// Whether the header of the page at `page` agrees, `more` being what a long one has more. In the
    /// order of PostgreSQL's XLogReaderValidatePageHeader.
    pub(super) fn check(
        &self,
        expected: &Expected,
        page: Lsn,
        header: &PageHeader,
        more: Option<&LongHeader>,
    ) -> Result<(), Flaw> {
        let differs = self.magic.filter(|&magic| magic != header.magic);
        if header.version().is_none() || differs.is_some() {
            let found = header.magic;
            return Err(Flaw::Magic {
                expected: self.magic,
                found,
            });
        }
        if !header.has_valid_flags() {
            return Err(Flaw::Flags(header.info));
        }
        if header.is_long() != more.is_some() {
            return Err(Flaw::HeaderLength { long: more.is_some() });
        }
        if let Some(more) = more {
            self.check_long(expected.segment_size, more)?;
        }
        if header.address != page {
            return Err(Flaw::Address {
                expected: page,
                found: header.address,
            });
        }
        let expected = (self.timeline, expected.timeline);
        if header.timeline < expected.0 || header.timeline > expected.1 {
            let found = header.timeline;
            return Err(Flaw::PageTimeline { expected, found });
        }
        if header.padding != 0 {
            return Err(Flaw::Padding(header.padding));
        }
        Ok(())
    }

    fn check_long(&self, segment_size: SegmentSize, more: &LongHeader) -> Result<(), Flaw> {
        let identifier = self.system_identifier;
        if let Some(expected) = identifier.filter(|&known| known != more.system_identifier) {
            let found = more.system_identifier;
            return Err(Flaw::SystemIdentifier { expected, found });
        }
        let expected = segment_size.bytes();
        if u64::from(more.segment_size) != expected {
            let found = more.segment_size;
            return Err(Flaw::SegmentSize { expected, found });
        }
        let valid = more.block_size.is_power_of_two() && (1 << 10..=1 << 16).contains(&more.block_size);
        let told = u32::try_from(self.block).ok().filter(|_| self.block_told);
        if !valid || told.is_some_and(|told| told != more.block_size) {
            let found = more.block_size;
            return Err(Flaw::BlockSize {
                expected: told,
                found,
            });
        }
        Ok(())
    }
}
