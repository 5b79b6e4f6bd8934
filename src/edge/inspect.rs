//! `walring inspect`: what is in this segment?
//!
//! The segments are read one after another, as [`super::verify`] reads them; every record is shown to a
//! `Survey`, which counts, and prints what is asked for as it comes.

mod report;
mod survey;

use self::survey::Survey;
use super::stored::{Buffer, Decoded, Examined, Examiner, Index, Stored};
use crate::core::lsn::{Lsn, SegmentSize, Timeline};
use crate::core::wal::scan::End;
use crate::error::{Error, Result, system_text};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Enough of a record for the numbers of some hundred thousand subtransactions.
const KEEP: usize = 2 << 20;

/// What `inspect` is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// A segment file, or a directory of them.
    pub path: PathBuf,
    /// Leaves out what begins before this.
    pub start: Option<Lsn>,
    /// Leaves out what begins here or later.
    pub end: Option<Lsn>,
    /// Adds up the records by resource manager.
    pub stats: bool,
    /// Lists the ends of transactions.
    pub commits: bool,
    /// Lists records.
    pub records: bool,
    /// Prints one JSON object.
    pub json: bool,
    /// The segment size, should no segment tell it.
    pub segment_size: Option<SegmentSize>,
}

/// Prints what is asked for. The exit code is 0, or 1 if what is there is damaged.
pub fn run(options: &Options) -> Result<ExitCode> {
    let stored = Stored::list(std::slice::from_ref(&options.path), options.segment_size)?;
    let timeline = newest_timeline(&stored)?;
    let index = Index::of(&stored, |_| true);
    let chosen = choose(&stored, &index, timeline, options)?;
    let examiner = Examiner::new(&stored, &index, options.end);
    let mut out = BufWriter::new(io::stdout().lock());
    let mut survey = Survey::new(options, stored.format.magic);
    let mut buffer = Buffer::new();
    let mut looked = Vec::new();
    for number in chosen {
        let examined =
            examiner.examine_records(number, KEEP, &mut buffer, |record| survey.see(record, &mut out));
        let name = stored.segments[number].name();
        let decoded = decoded(&name, examined, &stored)?;
        let ends = decoded.outcome.end != End::Next;
        looked.push((number, decoded));
        // What lies behind the end does not follow from what lies before.
        if ends || survey.is_deaf() {
            break;
        }
    }
    let report = report::Report {
        stored: &stored,
        timeline,
        looked: &looked,
        survey: &survey,
    };
    let text = match options.json {
        true => report.json(),
        false => report.text(options),
    };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let reason = system_text(&error);
            Err(Error::disk(format!(
                "could not write to standard output: {reason}"
            )))
        }
        _ => Ok(ExitCode::from(u8::from(report.is_damaged()))),
    }
}

fn newest_timeline(stored: &Stored) -> Result<Timeline> {
    let plain = stored.segments.iter().filter(|segment| segment.is_plain());
    let newest = plain.map(|segment| segment.file.timeline).max();
    newest.ok_or_else(|| {
        Error::directory("the segments are compressed, and compressed ones are not looked at")
            .with_hint("Decompress a copy with gzip -d or lz4 -d, and inspect that.")
    })
}

/// The segments of the newest timeline in order; between positions, those of its ancestors as well.
fn choose(stored: &Stored, index: &Index, timeline: Timeline, options: &Options) -> Result<Vec<usize>> {
    let size = stored.format.segment_size;
    let history = stored.history(timeline);
    let ranged = options.start.is_some() || options.end.is_some();
    let chosen: Vec<usize> = (0..stored.segments.len())
        .filter(|&number| {
            let file = stored.segments[number].file;
            let (start, end) = (size.start_of(file.segment), size.end_of(file.segment));
            let owner = history.as_ref().map(|history| history.owner_of(Lsn(end.0 - 1)));
            let owned = file.timeline == timeline || (ranged && owner == Some(file.timeline));
            let within =
                options.start.is_none_or(|from| from < end) && options.end.is_none_or(|to| start < to);
            owned && within && index.file(file.timeline, file.segment) == Some(number)
        })
        .collect();
    if chosen.is_empty() {
        return Err(Error::usage(format!(
            "no segment of timeline {timeline} lies between --start and --end"
        )));
    }
    Ok(in_order(stored, chosen))
}

fn in_order(stored: &Stored, mut chosen: Vec<usize>) -> Vec<usize> {
    chosen.sort_by_key(|&number| stored.segments[number].file.segment);
    chosen
}

fn decoded(name: &str, examined: Examined, stored: &Stored) -> Result<Decoded> {
    match examined {
        Examined::Decoded(decoded) => Ok(decoded),
        Examined::Compressed => Err(Error::directory(format!("segment \"{name}\" is compressed"))),
        Examined::Gone => Err(Error::directory(format!(
            "segment \"{name}\" has been removed meanwhile"
        ))),
        Examined::Unreadable(error) => Err(Error::disk(format!(
            "could not read segment \"{name}\": {}",
            system_text(&error)
        ))),
        Examined::Foreign(found) => {
            let expected = stored.format.system_identifier.unwrap_or(0);
            Err(Error::directory(format!(
                "segment \"{name}\" is of another server: system identifier {found}, expected {expected}"
            )))
        }
    }
}
