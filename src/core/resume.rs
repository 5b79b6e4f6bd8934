//! Going on within a partial segment: at its last good record, not at its beginning.
//!
//! The stored log is read up to where it stops being right, and the server is asked from there. What
//! lies behind may be a record that was cut, bytes of an earlier use of the file, or garbage: it is
//! received again. So is a record that the server left half-written when it died, and replaced: nothing in the log tells
//! whether its bytes are all there. The segment before is read, too, so that the record that crosses into the partial
//! is checked like any other. Where that segment was moved away, or never was here, no CRC tells whether a crash left
//! all of the rest of such a record: it is received again, once the server is known to have the same log. Until then nothing
//! is written over, for the server may have been restored from its past.

use std::io::{self, Read};

use super::lsn::{Lsn, SegmentNumber, SegmentSize, Timeline};
use super::start::{Case, Encoding, Position, SegmentFile, Stage, StartPlan};
use super::wal::decoder::{Decoder, Depth, Event, Expected};
use super::wal::fault::Fault;
use crate::error::{Error, Result};

/// Bytes of a record in parts that are kept: enough to tell a commit and its time.
pub const KEEP: usize = 512;

/// So many bytes before the end of what is stored are received again and compared. They hold a commit
/// with its time, or a checkpoint with its own, in all but strange logs.
const OVERLAP: u64 = 8 << 10;

/// Bytes read at once.
const PORTION: usize = 128 << 10;

/// Where the stored log is read: the target directory, or a model of one.
pub trait Stored {
    /// An open file.
    type Reader: Read;
    /// Opens a file at its beginning.
    fn open(&self, name: &str) -> Result<Self::Reader>;
    /// The error of a read that failed.
    fn failed_read(&self, name: &str, error: &io::Error) -> Error;
    /// A complete segment turned out to be damaged: worth a warning, streaming goes on behind it.
    fn damaged(&self, name: &str, fault: &Fault);
}

/// The decoder of the stream before, which the next one goes on with.
pub struct Left {
    /// The timeline that was streamed.
    pub timeline: Timeline,
    /// What looked at its log, at the end of what it found right.
    pub decoder: Decoder,
    /// The end of what is stored and right. It lies further where the stream was cut while it received something again.
    pub right_to: Lsn,
}

impl Left {
    /// Whether it knew what lies before the stream's start, and found nothing right behind it.
    pub fn does_not_join(&self, start: Lsn) -> bool {
        self.decoder.previous().is_some() && self.decoder.position() <= start
    }

    /// Whether a start as planned can go on here.
    fn serves(&self, plan: &StartPlan, size: SegmentSize) -> bool {
        self.timeline == plan.timeline
            && plan.case == Case::AtPartial
            && size.floor(self.decoder.position()) == plan.lsn
    }
}

/// Where streaming goes on: at the end of what the stream before left, or of what the files tell.
pub fn go_on(
    stored: &impl Stored,
    left: Option<Left>,
    files: &[SegmentFile],
    plan: &StartPlan,
    expected: Expected,
) -> Result<Resumed> {
    match left.filter(|left| left.serves(plan, expected.segment_size)) {
        Some(Left {
            decoder, right_to, ..
        }) => Ok(Resumed {
            end: right_to.max(decoder.position()),
            unproven: None,
            decoder,
        }),
        None => resume(stored, files, plan, expected),
    }
}

/// Up to where the files of this timeline hold bytes that an earlier run may have acknowledged. In
/// the segment that streaming starts in that is the end of its content, `left`; of later partials, which a
/// start below a damaged segment can meet, nothing is known, and all is kept.
pub fn preserve_end(size: SegmentSize, position: Position, left: Option<Lsn>, files: &[SegmentFile]) -> Lsn {
    let content_end = left.unwrap_or(position.lsn);
    let later = files.iter().filter(|file| {
        file.timeline == position.timeline
            && file.segment > size.segment_of(position.lsn)
            && (file.encoding, file.stage) == (Encoding::Plain, Stage::Partial)
    });
    later
        .map(|file| size.end_of(file.segment))
        .fold(content_end, Lsn::max)
}

/// Where the next timeline begins, if the server's word makes sense: it has ended the stream that began at
/// `position` and came to `received`.
pub fn next_timeline(position: Position, next: Timeline, switch: Lsn, received: Lsn) -> Result<Position> {
    let current = position.timeline;
    if next <= current {
        let message =
            format!("server reported unexpected next timeline {next}, following timeline {current}");
        return Err(Error::protocol(message));
    }
    if switch > received {
        let message = format!(
            "server stopped streaming timeline {current} at {received}, but reported next timeline {next} to begin at {switch}"
        );
        return Err(Error::protocol(message));
    }
    Ok(Position {
        lsn: switch,
        timeline: next,
    })
}

/// A decoder at a segment's start, of which nothing is known.
pub fn fresh(expected: Expected, start: Lsn) -> Decoder {
    Decoder::new(expected, Depth::Records, start, KEEP)
}

/// Where a stream goes on.
pub struct Resumed {
    /// What looks at the log, behind the last record that need not be received again.
    pub decoder: Decoder,
    /// The end of what is stored and right: the server must have all of it, or has lost some. What lies between the
    /// decoder and this is received again although it may have been acknowledged.
    pub end: Lsn,
    /// The partial begins with the rest of a record whose beginning is not here, and its first record begins there:
    /// what lies before is to be received again.
    pub unproven: Option<Lsn>,
}

impl Resumed {
    /// Where the bytes begin that are received once more and compared: a little before the end, but within the partial
    /// of the plan, and behind what is not proven.
    pub fn compared_from(&self, plan: &StartPlan) -> Lsn {
        let little = Lsn(self.decoder.position().0.saturating_sub(OVERLAP));
        little.max(self.unproven.unwrap_or(plan.lsn))
    }
}

/// How a stream goes on by what the files tell. `plan` is about the directory's newest file.
fn resume(
    stored: &impl Stored,
    files: &[SegmentFile],
    plan: &StartPlan,
    expected: Expected,
) -> Result<Resumed> {
    let size = expected.segment_size;
    let segment = size.segment_of(plan.lsn);
    let at_start = before(stored, files, segment, expected)?;
    let from_start = |decoder| Resumed {
        decoder,
        end: plan.lsn,
        unproven: None,
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
    let failed = |error: io::Error| stored.failed_read(&name, &error);
    let mut decoder = at_start.clone();
    let walked = walk(&mut decoder, stored.open(&name)?, size.end_of(segment)).map_err(failed)?;
    let unproven = walked
        .first_record
        .filter(|_| walked.begins_with_rest && at_start.unfinished().is_none());
    let end = decoder.verified();
    // Complete, but for its name: the last record is received again, and the name is changed then.
    let is_complete = decoder.position() >= size.end_of(segment);
    let last = decoder.previous().filter(|&last| is_complete && last >= plan.lsn);
    if let Some(limit) = [walked.abandoned, last].into_iter().flatten().min() {
        decoder = at_start.clone();
        walk(&mut decoder, stored.open(&name)?, limit).map_err(failed)?;
    }
    decoder.rewind();
    let within = plan.lsn..size.end_of(segment);
    let goes_on = decoder.records() > at_start.records() && within.contains(&decoder.position());
    Ok(match goes_on {
        true => Resumed {
            decoder,
            end,
            unproven,
        },
        // Of a single record, which is received again, the server must have all the same.
        false => Resumed {
            end: end.max(plan.lsn),
            ..from_start(at_start)
        },
    })
}

/// A decoder at the start of `segment` that knows the record which crosses into it, if the segments are
/// there from the one on in which that record begins.
fn before(
    stored: &impl Stored,
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
        let walked = walk(&mut decoder, stored.open(&name)?, size.end_of(file.segment));
        let walked = walked.map_err(|error| stored.failed_read(&name, &error))?;
        if let Some(fault) = walked.fault {
            stored.damaged(&name, &fault);
            return Ok(fresh(expected, start));
        }
        if !decoder.is_in_rest() {
            return join(stored, decoder, &earlier, start);
        }
    }
    Ok(fresh(expected, start))
}

/// Goes on from the last of the files, which the decoder has read, through those before it in the list,
/// the newest of which comes first.
fn join(stored: &impl Stored, mut decoder: Decoder, files: &[SegmentFile], start: Lsn) -> Result<Decoder> {
    let expected = decoder.expected();
    let size = expected.segment_size;
    for file in files.iter().rev().skip(1) {
        let name = file.name(size);
        let walked = walk(&mut decoder, stored.open(&name)?, size.end_of(file.segment));
        walked.map_err(|error| stored.failed_read(&name, &error))?;
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

/// What a walk through a file found.
#[derive(Default)]
struct Walked {
    fault: Option<Fault>,
    /// Where the first record begins that was left half-written and replaced: of its bytes no CRC tells whether they
    /// are all there. Zero if it began before the first byte that was fed.
    abandoned: Option<Lsn>,
    /// The file's first page begins with the rest of a record.
    begins_with_rest: bool,
    /// Where the first record begins of those that end here.
    first_record: Option<Lsn>,
}

/// Feeds the decoder from the file of its segment up to `end`, a fault, or the end of the file. After a
/// fault the decoder is where everything before is right.
fn walk(decoder: &mut Decoder, mut file: impl Read, end: Lsn) -> io::Result<Walked> {
    let mut buffer = vec![0; PORTION];
    let mut walked = Walked::default();
    while decoder.position() < end {
        let wanted = end.bytes_since(decoder.position());
        let wanted = usize::try_from(wanted).map_or(PORTION, |wanted| wanted.min(PORTION));
        let count = file.read(&mut buffer[..wanted])?;
        if count == 0 {
            break;
        }
        if let Err(fault) = feed(decoder, &buffer[..count], &mut walked) {
            decoder.rewind();
            walked.fault = Some(fault);
            break;
        }
    }
    Ok(walked)
}

fn feed(decoder: &mut Decoder, mut bytes: &[u8], walked: &mut Walked) -> std::result::Result<(), Fault> {
    let size = decoder.expected().segment_size;
    while let Some(event) = decoder.next(&mut bytes)? {
        match event {
            Event::Abandoned(start) => {
                walked.abandoned.get_or_insert(start.unwrap_or(Lsn(0)));
            }
            Event::Page(page, header) if size.offset_of(page) == 0 => {
                walked.begins_with_rest = header.begins_with_rest();
            }
            Event::Page(..) => {}
            Event::Record(record) => {
                walked.first_record.get_or_insert(record.start);
            }
        }
    }
    Ok(())
}
