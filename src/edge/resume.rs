//! Going on within a partial segment: at its last good record, not at its beginning.
//!
//! The stored log is read up to where it stops being right, and the server is asked from there. What
//! lies behind may be a record that was cut, bytes of an earlier use of the file, or garbage: it is
//! received again. The segment before is read, too, so that the record that crosses into the partial
//! is checked like any other.

use std::fs::File;
use std::io::{self, Read};

use tracing::warn;

use super::directory::Directory;
use crate::core::lsn::{Lsn, SegmentNumber};
use crate::core::start::{Case, Encoding, SegmentFile, Stage, StartPlan};
use crate::core::wal::decoder::{Decoder, Depth, Expected};
use crate::core::wal::fault::Fault;
use crate::error::Result;

/// Bytes of a record in parts that are kept: enough to tell a commit and its time.
pub const KEEP: usize = 512;

/// Bytes read at once.
const PORTION: usize = 128 << 10;

/// A decoder at a segment's start, of which nothing is known.
pub fn fresh(expected: Expected, start: Lsn) -> Decoder {
    Decoder::new(expected, Depth::Records, start, KEEP)
}

/// Where a stream goes on.
pub struct Resumed {
    /// What looks at the log, behind the last record that need not be received again.
    pub decoder: Decoder,
    /// The end of what is stored and right.
    pub end: Lsn,
}

/// How a stream goes on. `plan` is about the directory's newest file.
pub fn resume(
    directory: &Directory,
    files: &[SegmentFile],
    plan: &StartPlan,
    expected: Expected,
) -> Result<Resumed> {
    let size = expected.segment_size;
    let segment = size.segment_of(plan.lsn);
    let at_start = before(directory, files, segment, expected)?;
    let from_start = |decoder| Resumed {
        decoder,
        end: plan.lsn,
    };
    if plan.case != Case::AtPartial {
        return Ok(from_start(at_start));
    }
    let partial = files.iter().find(|file| {
        let is_plain_partial = (file.encoding, file.stage) == (Encoding::Plain, Stage::Partial);
        is_plain_partial && (file.segment, file.timeline) == (segment, expected.timeline)
    });
    let Some(partial) = partial else {
        return Ok(from_start(at_start));
    };
    let name = partial.name(size);
    let failed = |error: io::Error| directory.failed("read", &name, &error);
    let mut decoder = at_start.clone();
    walk(&mut decoder, directory.open_file(&name)?, size.end_of(segment)).map_err(failed)?;
    let end = decoder.verified();
    if decoder.position() >= size.end_of(segment)
        && let Some(last) = decoder.previous().filter(|&last| last >= plan.lsn)
    {
        // Complete, but for its name: the last record is received again, and the name is changed then.
        decoder = at_start.clone();
        walk(&mut decoder, directory.open_file(&name)?, last).map_err(failed)?;
    }
    decoder.rewind();
    let within = plan.lsn..size.end_of(segment);
    let goes_on = decoder.records() > at_start.records() && within.contains(&decoder.position());
    Ok(match goes_on {
        true => Resumed { decoder, end },
        false => from_start(at_start),
    })
}

/// A decoder at the start of `segment` that knows the record which crosses into it, if the segments are
/// there from the one on in which that record begins.
fn before(
    directory: &Directory,
    files: &[SegmentFile],
    segment: SegmentNumber,
    expected: Expected,
) -> Result<Decoder> {
    let size = expected.segment_size;
    let start = size.start_of(segment);
    let mut earlier: Vec<SegmentFile> = Vec::new();
    // A long record may fill whole segments; mostly the one before is enough.
    while let Some(file) = complete_before(
        files,
        earlier.last().map_or(segment, |file| file.segment),
        expected,
    ) {
        earlier.push(*file);
        let mut decoder = fresh(expected, size.start_of(file.segment));
        let name = file.name(size);
        let walked = walk(
            &mut decoder,
            directory.open_file(&name)?,
            size.end_of(file.segment),
        );
        let fault = walked.map_err(|error| directory.failed("read", &name, &error))?;
        if let Some(fault) = fault {
            let path = directory.path_of(&name);
            warn!("segment file \"{path}\" is damaged: {fault}");
            return Ok(fresh(expected, start));
        }
        if !decoder.is_in_rest() {
            return join(directory, decoder, &earlier, start);
        }
    }
    Ok(fresh(expected, start))
}

/// Goes on from the last of the files, which the decoder has read, through those before it in the list,
/// the newest of which comes first.
fn join(directory: &Directory, mut decoder: Decoder, files: &[SegmentFile], start: Lsn) -> Result<Decoder> {
    let expected = decoder.expected();
    let size = expected.segment_size;
    for file in files.iter().rev().skip(1) {
        let name = file.name(size);
        let walked = walk(
            &mut decoder,
            directory.open_file(&name)?,
            size.end_of(file.segment),
        );
        walked.map_err(|error| directory.failed("read", &name, &error))?;
    }
    // A file that was cut short meanwhile tells nothing.
    Ok(Some(decoder)
        .filter(|decoder| decoder.position() == start)
        .unwrap_or_else(|| fresh(expected, start)))
}

/// The complete file of the segment before this one, if it is there and as long as it must be.
fn complete_before(
    files: &[SegmentFile],
    segment: SegmentNumber,
    expected: Expected,
) -> Option<&SegmentFile> {
    files.iter().find(|file| {
        (file.encoding, file.stage) == (Encoding::Plain, Stage::Complete)
            && (file.segment.next(), file.timeline) == (segment, expected.timeline)
            && file.wal_bytes == Some(expected.segment_size.bytes())
    })
}

/// Feeds the decoder from the file of its segment up to `end`, a fault, or the end of the file. After a
/// fault the decoder is where everything before is right.
fn walk(decoder: &mut Decoder, mut file: File, end: Lsn) -> io::Result<Option<Fault>> {
    let mut buffer = vec![0; PORTION];
    while decoder.position() < end {
        let wanted = end.bytes_since(decoder.position());
        let wanted = usize::try_from(wanted).map_or(PORTION, |wanted| wanted.min(PORTION));
        let count = file.read(&mut buffer[..wanted])?;
        if count == 0 {
            break;
        }
        if let Err(fault) = feed(decoder, &buffer[..count]) {
            decoder.rewind();
            return Ok(Some(fault));
        }
    }
    Ok(None)
}

fn feed(decoder: &mut Decoder, mut bytes: &[u8]) -> std::result::Result<(), Fault> {
    while decoder.next(&mut bytes)?.is_some() {}
    Ok(())
}
