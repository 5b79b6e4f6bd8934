//! `walring verify`: is the stored log sound?
//!
//! ```text
//!  stored: list files --> [stored: scan a segment] x cores --> chain: joins, gaps, timelines --> report
//! ```
//!
//! Every segment is decoded by itself ([`crate::core::wal::scan`]), several at once; what crosses their
//! borders is checked from both sides and compared afterwards.

mod chain;
mod finding;
mod report;

use self::chain::Chain;
pub use self::finding::{Finding, Kind};
use super::progress_line::ProgressLine;
use super::stored::{Buffer, Examined, Examiner, Index, Segment, Stored};
use crate::core::lsn::{Lsn, SegmentSize, Timeline};
use crate::core::wal::page::Version;
use crate::core::wal::scan::End;
use crate::error::{Error, Result};
use std::io::{self, IsTerminal, Write};
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What `verify` is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Directories and segment files.
    pub paths: Vec<PathBuf>,
    /// How many segments to look at at once; `None`: as many as there are cores.
    pub jobs: Option<usize>,
    /// The segment size, should no segment tell it.
    pub segment_size: Option<SegmentSize>,
    /// Leaves out the segments before this.
    pub start: Option<Lsn>,
    /// Leaves out what begins here or later.
    pub end: Option<Lsn>,
    /// Prints one JSON object.
    pub json: bool,
    /// Prints what is wrong, and nothing else.
    pub quiet: bool,
}

/// What was found.
#[derive(Debug)]
pub struct Verdict {
    /// What is wrong; empty: nothing.
    pub findings: Vec<Finding>,
    /// What is worth knowing and not wrong.
    pub notes: Vec<String>,
    /// What each timeline has.
    pub timelines: Vec<TimelineSum>,
    /// The version of the server, if a page tells it.
    pub version: Option<Version>,
    /// The server's system identifier.
    pub system_identifier: Option<u64>,
    /// Bytes in a segment.
    pub segment_size: SegmentSize,
    /// Bytes in a page.
    pub block_size: Option<u32>,
    /// Compressed segments, which were not looked at.
    pub compressed: usize,
    /// Files that have other names than segments and histories.
    pub ignored: usize,
    /// Files that were decoded.
    pub files: usize,
    /// Bytes in them.
    pub bytes: u64,
    /// How long it took.
    pub duration: Duration,
}

/// What the files of a timeline hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineSum {
    /// The timeline.
    pub timeline: Timeline,
    /// The name of its first segment.
    pub first: String,
    /// The name of its last segment.
    pub last: String,
    /// Segments, the partial ones included.
    pub segments: usize,
    /// Partial ones among them.
    pub partials: usize,
    /// Pages whose headers are right.
    pub pages: u64,
    /// Records that are right.
    pub records: u64,
    /// Committed transactions.
    pub transactions: u64,
    /// Up to where the last segment is complete and right; `None` behind damage.
    pub end: Option<Lsn>,
}

impl Verdict {
    /// 0: sound. 1: something is damaged or missing. 2: a file could not be read, and nothing else is wrong.
    pub fn exit_code(&self) -> u8 {
        let unreadable = |finding: &Finding| finding.kind == Kind::Unreadable;
        match self.findings.iter().all(unreadable) {
            true if self.findings.is_empty() => 0,
            true => 2,
            false => 1,
        }
    }
}

/// Looks at everything, prints the report, and gives the exit code.
pub fn run(options: &Options) -> Result<ExitCode> {
    let verdict = verify(options)?;
    let text = match options.json {
        true => report::json(&verdict),
        false => report::text(&verdict, options.quiet),
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::disk(format!(
            "could not write to standard output: {error}"
        ))),
        _ => Ok(ExitCode::from(verdict.exit_code())),
    }
}

/// Looks at everything.
pub fn verify(options: &Options) -> Result<Verdict> {
    let begun = Instant::now();
    let stored = Stored::list(&options.paths, options.segment_size)?;
    let counts = |segment: &Segment| is_in_range(&stored, segment, options);
    let chosen: Vec<usize> = (0..stored.segments.len())
        .filter(|&n| counts(&stored.segments[n]))
        .collect();
    if chosen.is_empty() {
        return Err(Error::usage("no segment lies between --start and --end"));
    }
    if !chosen.iter().any(|&number| stored.segments[number].is_plain()) {
        return Err(
            Error::directory("every segment is compressed, and compressed ones are not looked at")
                .with_hint("Decompress copies of them with gzip -d or lz4 -d, and verify these."),
        );
    }
    let index = Index::of(&stored, counts);
    let examiner = Examiner::new(&stored, &index, options.end);
    let examined = examine_all(&examiner, &stored, &chosen, options);
    let names = names(&stored, &options.paths);
    let chain = Chain {
        stored: &stored,
        index: &index,
        examined: &examined,
        names: &names,
    };
    let mut findings = chain.findings();
    findings.extend(misfits(&stored));
    let mut verdict = Verdict {
        findings,
        notes: Vec::new(),
        timelines: Vec::new(),
        version: stored.format.magic.and_then(Version::of_magic),
        system_identifier: stored.format.system_identifier,
        segment_size: stored.format.segment_size,
        block_size: stored.format.block_size,
        compressed: 0,
        ignored: stored.ignored,
        files: 0,
        bytes: 0,
        duration: Duration::ZERO,
    };
    verdict.count(&stored, &examined, &names);
    verdict.duration = begun.elapsed();
    Ok(verdict)
}

fn is_in_range(stored: &Stored, segment: &Segment, options: &Options) -> bool {
    let size = stored.format.segment_size;
    let (start, end) = (stored.start_of(segment), size.end_of(segment.file.segment));
    options.start.is_none_or(|from| from < end) && options.end.is_none_or(|to| start < to)
}

/// Without their directory where only one is looked at.
fn names(stored: &Stored, paths: &[PathBuf]) -> Vec<String> {
    let one = paths.len() == 1;
    let name = |segment: &Segment| match one {
        true => segment.name(),
        false => segment.path.display().to_string(),
    };
    stored.segments.iter().map(name).collect()
}

fn misfits(stored: &Stored) -> impl Iterator<Item = Finding> {
    stored.misfits.iter().map(|misfit| {
        let is_history = misfit
            .path
            .extension()
            .is_some_and(|extension| extension == "history");
        let kind = if is_history { Kind::History } else { Kind::Name };
        let name = misfit
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Finding::of_file(kind, name, misfit.reason.clone())
    })
}

/// Looks at the chosen files on several threads, each taking the next one.
fn examine_all(
    examiner: &Examiner,
    stored: &Stored,
    chosen: &[usize],
    options: &Options,
) -> Vec<Option<Examined>> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let jobs = options.jobs.unwrap_or(cores).clamp(1, chosen.len());
    let results: Vec<Mutex<Option<Examined>>> = stored.segments.iter().map(|_| Mutex::new(None)).collect();
    let (taken, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        let mut buffer = Buffer::new();
        while let Some(&number) = chosen.get(taken.fetch_add(1, Ordering::Relaxed)) {
            let examined = examiner.examine(number, &mut buffer);
            *results[number].lock().expect("no thread panics") = Some(examined);
        }
    };
    let target = chosen.iter().map(|&number| stored.segments[number].bytes).sum();
    let shown = io::stderr().is_terminal() && !options.quiet && !options.json;
    std::thread::scope(|scope| {
        let watcher = shown.then(|| scope.spawn(|| show_progress(examiner, target, &done)));
        let workers: Vec<_> = (1..jobs).map(|_| scope.spawn(work)).collect();
        work();
        for worker in workers {
            worker.join().expect("no thread panics");
        }
        done.store(true, Ordering::Release);
        if let Some(watcher) = watcher {
            watcher.thread().unpark();
        }
    });
    let inner = |result: Mutex<_>| result.into_inner().expect("no thread panics");
    results.into_iter().map(inner).collect()
}

/// Draws the progress line until everything is done.
fn show_progress(examiner: &Examiner, target: u64, done: &AtomicBool) {
    const INTERVAL: Duration = Duration::from_millis(250);
    let begun = Instant::now();
    let mut line = ProgressLine::of("verifying", true);
    while !done.load(Ordering::Acquire) {
        line.update(begun.elapsed(), examiner.progress.load(Ordering::Relaxed), target);
        std::thread::park_timeout(INTERVAL);
    }
}

impl Verdict {
    fn count(&mut self, stored: &Stored, examined: &[Option<Examined>], names: &[String]) {
        for (number, examined) in examined.iter().enumerate() {
            let Some(examined) = examined else { continue };
            let segment = &stored.segments[number];
            let name = &names[number];
            let size = stored.format.segment_size;
            self.count_segment(segment, size);
            match examined {
                Examined::Compressed => self.compressed += 1,
                Examined::Gone => self.notes.push(format!("{name}: was removed meanwhile")),
                Examined::Unreadable(_) | Examined::Foreign(_) => {}
                Examined::Decoded(decoded) => {
                    let outcome = &decoded.outcome;
                    let sum = self.timelines.last_mut().expect("just counted");
                    sum.pages += outcome.pages;
                    sum.records += outcome.records;
                    sum.transactions += outcome.commits;
                    sum.end = match outcome.end {
                        End::Next => Some(size.end_of(segment.file.segment)),
                        End::Log { at, .. } => Some(at),
                        End::Lost => None,
                    };
                    self.files += 1;
                    self.bytes += decoded.bytes;
                    self.notes.extend(note_on_end(name, segment, outcome.end));
                }
            }
        }
    }

    /// Counts a segment for its timeline; files come timeline by timeline, in order.
    fn count_segment(&mut self, segment: &Segment, size: SegmentSize) {
        let timeline = segment.file.timeline;
        let name = segment.file.segment.file_name(timeline, size);
        if self.timelines.last().is_none_or(|last| last.timeline != timeline) {
            self.timelines.push(TimelineSum {
                timeline,
                first: name.clone(),
                last: String::new(),
                segments: 0,
                partials: 0,
                pages: 0,
                records: 0,
                transactions: 0,
                end: None,
            });
        }
        let sum = self.timelines.last_mut().expect("just pushed");
        sum.segments += 1;
        sum.partials += usize::from(!segment.is_complete());
        sum.last = name;
    }
}

/// Where the log ends and in what.
fn note_on_end(name: &str, segment: &Segment, end: End) -> Option<String> {
    let End::Log { at, unfinished } = end else {
        return None;
    };
    match (unfinished, segment.is_complete()) {
        (Some(start), true) => Some(format!(
            "{name}: its last record, at {start}, goes on in a segment that is not here"
        )),
        (Some(start), false) => Some(format!(
            "{name}: ends at {at}, in a record that is not complete ({start})"
        )),
        (None, _) => Some(format!("{name}: ends at {at}")),
    }
}
