//! Going on otherwise than with the next byte: over what is damaged, or looking at less.

use super::{Decoder, Depth, Expected, State};
use crate::core::lsn::Lsn;

impl Decoder {
    /// Tells beforehand what every page must say, so that the first one cannot mislead.
    pub fn expect_pages(&mut self, magic: Option<u16>, block_size: Option<u32>) {
        self.facts.expect(magic, block_size);
        self.facts_back = self.facts;
    }

    /// Goes on at the beginning of a page, before or behind, as if nothing were known of what lies before
    /// it: after a fault that is not to be repaired.
    pub fn skip_to(&mut self, page: Lsn) {
        assert_eq!(page.0 & (self.facts.block - 1), 0, "decoding goes on with a page");
        (self.at, self.start, self.origin) = (page, page, page);
        (self.back, self.facts_back) = (page, self.facts);
        self.page_taken = 0;
        self.previous = None;
        self.overwrite = None;
        self.rest.clear();
        self.state = State::outside(self.depth);
    }

    /// What was known beforehand.
    pub fn expected(&self) -> Expected {
        self.expected
    }

    /// Bytes of the record that was begun last, as its header tells them.
    pub fn record_length(&self) -> u32 {
        self.header.total_length
    }

    /// Bytes in a page.
    pub fn block_size(&self) -> u64 {
        self.facts.block
    }

    /// The same position, but from here on only the headers of pages are looked at.
    pub fn into_pages(mut self) -> Decoder {
        self.depth = Depth::Pages;
        (self.back, self.facts_back) = (self.at, self.facts);
        self.overwrite = None;
        if self.state != State::Zeros {
            self.state = State::Unseen;
        }
        self
    }
}
