//! Going on otherwise than with the next byte: over what is damaged, or looking at less.

use super::{Decoder, Depth, State};
use crate::core::lsn::Lsn;

impl Decoder {
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
