//! What a page begins with: its header, and how that goes on with the page before.

use super::{Decoder, Depth, Event, State};
use crate::core::lsn::Lsn;
use crate::core::wal::fault::{Fault, Flaw, Place};
use crate::core::wal::page::{LONG_HEADER, LongHeader, PageHeader, SHORT_HEADER};

impl Decoder {
    pub(super) fn is_header_due(&self) -> bool {
        let begins = self.at.0 & (self.facts.block - 1) == 0;
        self.page_taken > 0 || (begins && self.state != State::Zeros)
    }

    /// Takes a page's header; `None` if it has not arrived in whole.
    pub(super) fn take_page_header<'a>(&mut self, input: &mut &[u8]) -> Result<Option<Event<'a>>, Fault> {
        let page = Lsn(self.at.0 - self.page_taken as u64);
        let long = self.expected.segment_size.offset_of(page) == 0;
        let length = if long { LONG_HEADER } else { SHORT_HEADER };
        let count = input.len().min(length - self.page_taken);
        self.page_header[self.page_taken..self.page_taken + count].copy_from_slice(&input[..count]);
        if self.page_taken + count < length {
            self.page_taken += count;
            self.skip(input, count);
            return Ok(None);
        }
        let bytes = self.page_header;
        if self.depth == Depth::Pages && bytes[..length].iter().all(|&byte| byte == 0) && !long {
            self.state = State::Zeros;
            (self.back, self.facts_back) = (page, self.facts);
            self.page_taken = 0;
            self.skip(input, count);
            return Ok(None);
        }
        let (short, rest) = bytes.split_first_chunk().expect("a long header is longer");
        let header = PageHeader::parse(short);
        let more = rest.first_chunk().filter(|_| long).map(LongHeader::parse);
        let place = Place::Page(page);
        self.facts
            .check(&self.expected, page, &header, more.as_ref())
            .and_then(|()| self.check_continuation(page, &header))
            .map_err(|flaw| Fault { place, flaw })?;
        if !matches!(self.state, State::Inside { .. } | State::Rest { .. }) {
            self.facts_back = self.facts;
        }
        self.facts.learn(&header, more.as_ref());
        self.page_taken = 0;
        self.skip(input, count);
        let abandoned = self.enter_page(page, &header);
        Ok(Some(match abandoned {
            Some(start) => Event::Abandoned(start),
            None => Event::Page(page, header),
        }))
    }

    /// Whether the page goes on with what the page before left unfinished.
    fn check_continuation(&self, page: Lsn, header: &PageHeader) -> Result<(), Flaw> {
        let found = header.remaining;
        if header.begins_with_rest() != (found > 0)
            || (header.begins_with_rest() && header.begins_with_overwrite())
        {
            let flags = header.info;
            return Err(Flaw::Contradiction {
                flags,
                remaining: found,
            });
        }
        let expected = match self.state {
            State::Inside { taken } => self.header.total_length - taken,
            State::Rest { missing } => missing,
            State::Between if !self.is_first(page) => 0,
            State::Between | State::Zeros | State::Unseen => return Ok(()),
        };
        match header.begins_with_overwrite() {
            true if expected == 0 => Err(Flaw::Replacement { flagged: true }),
            false if expected != found => Err(Flaw::Continuation { expected, found }),
            _ => Ok(()),
        }
    }

    /// Whether nothing is known of what lies before the page.
    fn is_first(&self, page: Lsn) -> bool {
        page == self.origin && self.previous.is_none()
    }

    /// Goes on with what the page begins with; gives the record that it abandons, if it does.
    fn enter_page(&mut self, page: Lsn, header: &PageHeader) -> Option<Option<Lsn>> {
        if self.depth == Depth::Pages {
            return None;
        }
        if header.begins_with_overwrite() {
            let abandoned = self.unfinished();
            match self.state {
                State::Inside { .. } if self.overwrite.is_none() => self.back = self.start,
                State::Between => self.back = page,
                _ => {}
            }
            self.state = State::Between;
            self.rest.clear();
            self.overwrite = Some(abandoned);
            return Some(abandoned);
        }
        if self.state == State::Between && header.remaining > 0 {
            self.state = State::Rest {
                missing: header.remaining,
            };
            self.back = page;
            self.rest.clear();
            self.rest_length = header.remaining;
        }
        None
    }
}
