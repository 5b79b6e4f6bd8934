//! Looking at the log while it is received: what is not right is never acknowledged.

use super::lsn::Lsn;
use super::wal::content::{self, Completion};
use super::wal::decoder::{Decoder, Event};
use super::wal::fault::Fault;
use super::wal::record::ALIGNMENT;

/// The decoder of a stream, if there is one, and what it has found.
#[derive(Debug)]
pub struct Inspection {
    decoder: Option<Decoder>,
}

impl Inspection {
    /// Looks with this decoder from `start` on, where it is; with none all is believed.
    pub fn new(decoder: Option<Decoder>, start: Lsn) -> Inspection {
        if let Some(decoder) = &decoder {
            assert_eq!(
                decoder.position(),
                start,
                "the decoder is where it starts to look"
            );
        }
        Inspection { decoder }
    }

    /// Takes the bytes that follow, and tells each commit: the end of its record and its time in
    /// microseconds since 2000-01-01 UTC.
    pub fn take(&mut self, mut bytes: &[u8], mut committed: impl FnMut(Lsn, i64)) -> Result<(), Fault> {
        let Some(decoder) = &mut self.decoder else {
            return Ok(());
        };
        while let Some(event) = decoder.next(&mut bytes)? {
            if let Event::Record(record) = event
                && Completion::of(&record).is_some_and(Completion::is_commit)
            {
                let end = Lsn(record.end.0.next_multiple_of(ALIGNMENT));
                committed(end, content::completion_time(&record).unwrap_or(0));
            }
        }
        Ok(())
    }

    /// Up to where what arrived, `received`, may be acknowledged.
    pub fn verified(&self, received: Lsn) -> Lsn {
        let verified = self.decoder.as_ref().map_or(received, Decoder::verified);
        verified.min(received)
    }

    /// Records found right.
    pub fn records(&self) -> u64 {
        self.decoder.as_ref().map_or(0, Decoder::records)
    }

    /// The decoder, back where everything before is right: another stream can go on there.
    pub fn into_decoder(self) -> Option<Decoder> {
        let mut decoder = self.decoder?;
        decoder.rewind();
        Some(decoder)
    }
}
