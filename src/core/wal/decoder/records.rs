//! Records step by step, also those that come in parts: their headers, their bodies, and what must be right of them.
//!
//! The usual record is taken in one step before (`take_usual`); what that leaves alone comes here.

use super::{Decoder, State};
use crate::core::lsn::Lsn;
use crate::core::wal::fault::{Fault, Flaw, Place};
use crate::core::wal::page::u64_at;
use crate::core::wal::record::{CHECKED_HEADER, LONGEST_RECORD, RECORD_HEADER, Record, RecordHeader};

/// What became of the beginning of a record.
pub(super) enum Begun<'a> {
    /// It lies here in whole.
    Whole(&'a [u8]),
    /// It comes in parts.
    Parts,
    /// It is none: what was passed over was a switch.
    Switched,
}

impl Decoder {
    pub(super) fn begin_record<'a>(
        &mut self,
        input: &mut &'a [u8],
        available: usize,
    ) -> Result<Begun<'a>, Fault> {
        self.start = self.at;
        let Some(bytes) = input[..available].first_chunk::<RECORD_HEADER>() else {
            return self.begin_parts(input, available);
        };
        let header = RecordHeader::parse(bytes);
        if header.total_length == 0 && self.is_rest_of_switch() {
            return Ok(Begun::Switched);
        }
        self.check_header(&header)?;
        let length = header.total_length as usize;
        self.header = header;
        if available < length {
            self.enter_record();
            return Ok(Begun::Parts);
        }
        let (record, rest) = input.split_at(length);
        self.check_crc(
            crc32c::crc32c(&record[RECORD_HEADER..]),
            &record[..CHECKED_HEADER],
        )?;
        self.check_overwrite(record)?;
        *input = rest;
        Ok(Begun::Whole(record))
    }

    /// Begins a record whose header does not lie here in whole: its length does, or will in a moment.
    fn begin_parts<'a>(&mut self, input: &[u8], available: usize) -> Result<Begun<'a>, Fault> {
        // The length may be cut by the portion, never by the page: then it is checked with the header.
        let length = input[..available]
            .first_chunk()
            .map(|bytes| u32::from_le_bytes(*bytes));
        if length == Some(0) && self.is_rest_of_switch() {
            return Ok(Begun::Switched);
        }
        if let Some(length) = length {
            self.check_length(length)?;
        }
        self.header.total_length = length.unwrap_or(0);
        self.enter_record();
        Ok(Begun::Parts)
    }

    fn enter_record(&mut self) {
        self.parts.clear();
        self.crc = 0;
        self.state = State::Inside { taken: 0 };
        if self.overwrite.is_none() {
            self.facts_back = self.facts;
        }
    }

    /// Takes what is there of a record in parts; true once that is all of it.
    pub(super) fn take_part(
        &mut self,
        input: &mut &[u8],
        available: usize,
        taken: u32,
    ) -> Result<bool, Fault> {
        if (taken as usize) < RECORD_HEADER {
            return self.take_header_part(input, available, taken);
        }
        let count = available.min((self.header.total_length - taken) as usize);
        let part = &input[..count];
        let crc = crc32c::crc32c_append(self.crc, part);
        let taken = taken + count as u32;
        let kept = self.parts.len();
        self.keep_part(part);
        if taken == self.header.total_length
            && let Err(fault) = self.check_joined(crc)
        {
            self.parts.truncate(kept);
            return Err(fault);
        }
        self.crc = crc;
        self.state = State::Inside { taken };
        self.skip(input, count);
        Ok(taken == self.header.total_length)
    }

    /// Keeps as much of the part as there is room for.
    fn keep_part(&mut self, part: &[u8]) {
        let kept = part.len().min(self.keep - self.parts.len());
        let needed = self.parts.len() + kept;
        if needed > self.parts.capacity() {
            let capacity = (2 * self.parts.capacity()).clamp(needed, self.keep);
            self.parts.reserve_exact(capacity - self.parts.len());
        }
        self.parts.extend_from_slice(&part[..kept]);
    }

    fn check_joined(&self, content: u32) -> Result<(), Fault> {
        self.check_crc(content, &self.parts[..CHECKED_HEADER])?;
        self.check_overwrite(&self.parts)
    }

    /// Takes what is there of the header of a record in parts; true once the record is complete, which
    /// one without content is with its header.
    fn take_header_part(&mut self, input: &mut &[u8], available: usize, taken: u32) -> Result<bool, Fault> {
        let taken = taken as usize;
        self.parts.truncate(taken);
        let count = available.min(RECORD_HEADER - taken);
        self.parts.extend_from_slice(&input[..count]);
        if taken < 4
            && let Some(bytes) = self.parts.first_chunk()
        {
            let length = u32::from_le_bytes(*bytes);
            if length == 0 && self.is_rest_of_switch() {
                self.state = State::Zeros;
                return Ok(false);
            }
            self.check_length(length)?;
            self.header.total_length = length;
        }
        if let Some(bytes) = self.parts.first_chunk() {
            let header = RecordHeader::parse(bytes);
            self.check_header(&header)?;
            self.header = header;
            if header.total_length as usize == RECORD_HEADER {
                self.check_joined(0)?;
                self.skip(input, count);
                return Ok(true);
            }
        }
        self.state = State::Inside {
            taken: (taken + count) as u32,
        };
        self.skip(input, count);
        Ok(false)
    }

    fn fault(&self, flaw: Flaw) -> Fault {
        Fault {
            place: Place::Record(self.start),
            flaw,
        }
    }

    fn check_length(&self, length: u32) -> Result<(), Fault> {
        match length {
            0 => Err(self.fault(Flaw::NoRecord)),
            _ if (length as usize) < RECORD_HEADER || length > LONGEST_RECORD => {
                Err(self.fault(Flaw::Length(length)))
            }
            _ => Ok(()),
        }
    }

    fn check_header(&self, header: &RecordHeader) -> Result<(), Fault> {
        self.check_length(header.total_length)?;
        if !self.facts.knows(header.manager) {
            return Err(self.fault(Flaw::Manager(header.manager)));
        }
        let found = header.previous;
        match self.previous {
            Some(expected) if found != expected => Err(self.fault(Flaw::Previous { expected, found })),
            None if found >= self.start => {
                let expected = Lsn(self.start.0 - 1);
                Err(self.fault(Flaw::Previous { expected, found }))
            }
            _ => Ok(()),
        }
    }

    /// Continues the CRC of a record's content with its header, and compares.
    fn check_crc(&self, content: u32, header: &[u8]) -> Result<(), Fault> {
        let found = crc32c::crc32c_append(content, header);
        let expected = self.header.crc;
        if found == expected {
            Ok(())
        } else {
            Err(self.fault(Flaw::Crc { expected, found }))
        }
    }

    /// Whether a record that must replace a half-written one does, and no other.
    fn check_overwrite(&self, record: &[u8]) -> Result<(), Fault> {
        let is_overwrite = self.header.is_overwrite();
        let Some(abandoned) = self.overwrite else {
            return match is_overwrite {
                true => Err(self.fault(Flaw::Replacement { flagged: false })),
                false => Ok(()),
            };
        };
        if !is_overwrite {
            return Err(self.fault(Flaw::NoOverwrite));
        }
        // The record's only chunk: one byte of id, one of length, then the position.
        let found = record.get(RECORD_HEADER + 2..RECORD_HEADER + 10);
        let found = Lsn(found.map_or(0, |bytes| u64_at(bytes, 0)));
        match abandoned {
            Some(expected) if found != expected => Err(self.fault(Flaw::Overwritten { expected, found })),
            _ => Ok(()),
        }
    }

    pub(super) fn whole_record<'a>(&mut self, bytes: &'a [u8]) -> Record<'a> {
        self.advance(bytes.len());
        let header = self.complete_record();
        Record {
            start: self.start,
            end: self.at,
            header,
            bytes,
        }
    }

    pub(super) fn joined_record(&mut self) -> Record<'_> {
        let header = self.complete_record();
        Record {
            start: self.start,
            end: self.at,
            header,
            bytes: &self.parts,
        }
    }

    fn complete_record(&mut self) -> RecordHeader {
        let header = self.header;
        self.count_record(&header);
        header
    }
}
