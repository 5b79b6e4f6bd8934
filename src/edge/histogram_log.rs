//! The histogram log: every second's latencies, for HdrHistogram's tools.
//!
//! A HdrHistogram interval log of format 1.3 with compressed V2 histograms. Each line is what was
//! measured in one interval, under the tag of its kind; values and the column of maxima are
//! microseconds. Where nothing was measured there is no line. Timestamps are seconds since the
//! `BaseTime` in the head.
//!
//! The log has a thread of its own, so that the data path waits neither for the packing nor for the
//! file. A log that cannot be written ends with a warning, and WAL is received on.

use std::fs::{File, OpenOptions};
use std::io::{self, LineWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{
    IntervalLogWriter, IntervalLogWriterBuilder, IntervalLogWriterError, Tag,
};
use tracing::warn;

use crate::core::measure::{Measures, Times};
use crate::core::telemetry::Telemetry;
use crate::error::{Error, Result, system_text};

/// The length of an interval.
const INTERVAL: Duration = Duration::from_secs(1);

/// At the end, so long the last interval may take: a file system that hangs must not hold up the exit.
const FAREWELL: Duration = Duration::from_millis(500);

/// A line of the log, in bytes: mostly far less, and then written with one call.
const LINE: usize = 64 << 10;

/// The first lines. A file that begins otherwise, a baseline for one, is not overwritten.
const FIRST_LINES: [&str; 2] = [
    "[Histogram log format version 1.3]",
    "[Latencies of walring; values and maxima are microseconds]",
];

/// What the columns are, as HdrHistogram's own writers say it.
const LEGEND: &str =
    "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n";

/// A running log. Dropping it writes the last interval.
#[derive(Debug)]
pub struct HistogramLog {
    path: PathBuf,
    /// Dropped to ask for the end.
    wish: Option<Sender<()>>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl HistogramLog {
    /// Begins a new log, in place of an older one in the file. An error if the file cannot be opened
    /// or holds something else.
    pub fn start(path: &Path, telemetry: &Arc<Telemetry>) -> Result<HistogramLog> {
        let file = open(path)?;
        let (wish, wished) = mpsc::channel();
        let (ending, ended) = mpsc::channel();
        let log = Log {
            path: path.to_owned(),
            telemetry: Arc::clone(telemetry),
        };
        let thread = thread::Builder::new().name("histogram-log".to_owned());
        let spawned = thread.spawn(move || {
            log.run(file, &wished);
            drop(ending);
        });
        spawned.map_err(|error| refusal(path, &system_text(&error)))?;
        Ok(HistogramLog {
            path: path.to_owned(),
            wish: Some(wish),
            ended,
        })
    }
}

impl Drop for HistogramLog {
    fn drop(&mut self) {
        self.wish = None;
        if self.ended.recv_timeout(FAREWELL) == Err(RecvTimeoutError::Timeout) {
            warn!(
                "the last interval of histogram log \"{}\" is missing: the file is not written in time",
                self.path.display()
            );
        }
    }
}

/// What the thread has.
struct Log {
    path: PathBuf,
    telemetry: Arc<Telemetry>,
}

impl Log {
    fn run(&self, file: File, wished: &Receiver<()>) {
        if let Err(error) = self.write(LineWriter::with_capacity(LINE, file), wished) {
            warn!(
                "could not write histogram log \"{}\": {}; logging histograms stops here",
                self.path.display(),
                system_text(&error)
            );
        }
    }

    /// Writes an interval a second until the end is wished, and the last one then.
    fn write(&self, mut output: impl Write, wished: &Receiver<()>) -> io::Result<()> {
        let (base, began) = (SystemTime::now(), Instant::now());
        let mut serializer = V2DeflateSerializer::new();
        IntervalLogWriterBuilder::new()
            .add_comment(FIRST_LINES[0])
            .add_comment(FIRST_LINES[1])
            .with_start_time(base)
            .with_base_time(base)
            .begin_log_with(&mut output, &mut serializer)?;
        output.write_all(LEGEND.as_bytes())?;
        let mut writer = IntervalLogWriterBuilder::new().begin_log_with(&mut output, &mut serializer)?;
        let mut intervals = Intervals::new();
        let mut from = Duration::ZERO;
        loop {
            let last = wished.recv_timeout((from + INTERVAL).saturating_sub(began.elapsed()))
                != Err(RecvTimeoutError::Timeout);
            let to = began.elapsed();
            intervals.take(&self.telemetry)?;
            intervals.write(&mut writer, from, to)?;
            if last {
                return Ok(());
            }
            from = to;
        }
    }
}

/// What is logged, with its tag.
fn kinds(measures: &Measures) -> [(&'static str, &Times); 7] {
    [
        ("durable", &measures.durable),
        ("acknowledged", &measures.acknowledged),
        ("commit", &measures.commit),
        ("write", &measures.write),
        ("durable_write", &measures.durable_write),
        ("sync", &measures.sync),
        ("rollover", &measures.rollover),
    ]
}

/// What is already written, and what is not, in the order of [`kinds`].
struct Intervals(Vec<Kind>);

struct Kind {
    tag: &'static str,
    /// Everything up to the last interval.
    written: Histogram<u64>,
    /// Empty between two intervals.
    new: Histogram<u64>,
}

impl Intervals {
    /// Nothing is written yet; all memory that will be needed is allocated here.
    fn new() -> Intervals {
        let measures = Measures::default();
        let kinds = kinds(&measures).map(|(tag, times)| Kind {
            tag,
            written: Histogram::new_from(times.histogram()),
            new: Histogram::new_from(times.histogram()),
        });
        Intervals(kinds.into())
    }

    /// Takes what is new. The histograms are held for no longer than it takes to copy those that
    /// have changed.
    fn take(&mut self, telemetry: &Telemetry) -> io::Result<()> {
        let measures = telemetry.measures();
        for (kind, (_, times)) in self.0.iter_mut().zip(kinds(&measures)) {
            let times = times.histogram();
            if times.len() != kind.written.len() {
                kind.new.add(times).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    fn write<W: Write>(
        &mut self,
        writer: &mut IntervalLogWriter<'_, '_, W, V2DeflateSerializer>,
        from: Duration,
        to: Duration,
    ) -> io::Result<()> {
        for kind in self.0.iter_mut().filter(|kind| !kind.new.is_empty()) {
            kind.new.subtract(&kind.written).map_err(io::Error::other)?;
            kind.written.add(&kind.new).map_err(io::Error::other)?;
            writer
                .write_histogram(&kind.new, from, to - from, Tag::new(kind.tag))
                .map_err(|error| match error {
                    IntervalLogWriterError::IoError(error) => error,
                    IntervalLogWriterError::SerializeError(error) => io::Error::other(error),
                })?;
            kind.new.reset();
        }
        Ok(())
    }
}

/// Opens the file and empties it, unless it holds something else.
fn open(path: &Path) -> Result<File> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .and_then(empty);
    match opened {
        Ok(Some(file)) => Ok(file),
        Ok(None) => {
            let hint = "Name a new file, or an older histogram log, which is overwritten.";
            Err(refusal(path, "it is there already and holds something else").with_hint(hint))
        }
        Err(error) => Err(refusal(path, &system_text(&error))),
    }
}

/// The file without content; `None` if it holds something else than a log. Devices have no content.
fn empty(mut file: File) -> io::Result<Option<File>> {
    if !file.metadata()?.is_file() {
        return Ok(Some(file));
    }
    let head = FIRST_LINES.map(|line| format!("#{line}\n")).concat();
    let mut found = Vec::new();
    (&mut file).take(head.len() as u64).read_to_end(&mut found)?;
    // One whose disk was full from the start holds less.
    if !head.as_bytes().starts_with(&found) {
        return Ok(None);
    }
    file.set_len(0)?;
    file.rewind()?;
    Ok(Some(file))
}

fn refusal(path: &Path, reason: &str) -> Error {
    Error::usage(format!(
        "could not open histogram log \"{}\": {reason}",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::measure::Measure;
    use base64::Engine as _;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    fn record(telemetry: &Telemetry, microseconds: &[u64]) {
        for &count in microseconds {
            let time = Duration::from_micros(count);
            telemetry.measures().record(Measure::Durable(time));
        }
    }

    /// Tag, maximum and histogram of every interval.
    fn intervals(log: &[u8]) -> Vec<(String, f64, Histogram<u64>)> {
        let entries = IntervalLogIterator::new(log).map(|entry| entry.expect("a line of a log"));
        let intervals = entries.filter_map(|entry| match entry {
            LogEntry::Interval(interval) => Some(interval),
            LogEntry::StartTime(_) | LogEntry::BaseTime(_) => None,
        });
        intervals
            .map(|interval| {
                let packed = base64::engine::general_purpose::STANDARD
                    .decode(interval.encoded_histogram())
                    .unwrap();
                let histogram = Deserializer::new().deserialize(&mut &packed[..]).unwrap();
                (interval.tag().unwrap().to_string(), interval.max(), histogram)
            })
            .collect()
    }

    #[test]
    fn an_interval_holds_what_is_new_and_is_left_out_if_nothing_is() {
        let telemetry = Telemetry::default();
        let (mut output, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
        let mut writer = IntervalLogWriterBuilder::new()
            .begin_log_with(&mut output, &mut serializer)
            .unwrap();
        let mut written = Intervals::new();
        for new in [&[100, 7000][..], &[], &[30, 30]] {
            record(&telemetry, new);
            written.take(&telemetry).unwrap();
            written
                .write(&mut writer, Duration::ZERO, Duration::from_secs(1))
                .unwrap();
        }
        let sync = Measure::Sync(Duration::from_micros(5));
        telemetry.measures().record(sync);
        written.take(&telemetry).unwrap();
        written
            .write(&mut writer, Duration::ZERO, Duration::from_secs(1))
            .unwrap();
        let found = intervals(&output);
        let counts: Vec<_> = found
            .iter()
            .map(|(tag, max, histogram)| (&tag[..], *max as u64, histogram.len(), histogram.min()))
            .collect();
        let expected = [
            ("durable", 7003, 2, 100),
            ("durable", 30, 2, 30),
            ("sync", 5, 1, 5),
        ];
        assert_eq!(counts, expected);
    }

    #[test]
    fn the_end_writes_what_the_last_interval_has_and_a_new_log_replaces_an_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("latencies.hlog");
        for _ in 0..2 {
            let telemetry = Arc::new(Telemetry::default());
            let log = HistogramLog::start(&path, &telemetry).unwrap();
            record(&telemetry, &[9]);
            drop(log);
            let written = std::fs::read(&path).unwrap();
            let lines: Vec<_> = std::str::from_utf8(&written).unwrap().lines().collect();
            assert!(lines[2].starts_with("#[StartTime: ") && lines[3].starts_with("#[BaseTime: "));
            assert_eq!(format!("{}\n", lines[4]), LEGEND);
            assert!(lines[5].starts_with("Tag=durable,0.0"), "{}", lines[5]);
            assert_eq!(intervals(&written).len(), 1);
        }
    }

    #[test]
    fn a_file_that_is_no_log_is_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("precious");
        let baseline = "#[Histogram log format version 1.3]\n#[a baseline]\n";
        for content in ["precious", baseline] {
            std::fs::write(&path, content).unwrap();
            let error = HistogramLog::start(&path, &Arc::default()).unwrap_err();
            assert!(error.to_string().ends_with("holds something else"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        let error = HistogramLog::start(directory.path(), &Arc::default()).unwrap_err();
        assert!(error.to_string().ends_with("Is a directory"), "{error}");
    }

    #[test]
    fn a_failing_write_ends_the_log_only() {
        let (wish, wished) = mpsc::channel();
        let log = Log {
            path: PathBuf::from("/dev/full"),
            telemetry: Arc::default(),
        };
        let error = log.write(open(&log.path).unwrap(), &wished).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        drop(wish);
    }
}
