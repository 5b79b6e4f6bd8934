//! The baseline: how long a durable write takes on the standard path, as a file that travels from the
//! probe, which measures it, to the receiver, which compares with it.
//!
//! The file is a HdrHistogram interval log of format 1.3 with one compressed V2 histogram, which
//! HdrHistogram's own tools read. Its values are microseconds.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::ZlibDecoder;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{
    IntervalLogHistogram, IntervalLogIterator, IntervalLogWriterBuilder, LogEntry, LogIteratorError,
};
use hdrhistogram::serialization::{Deserializer, V2DeflateSerializer};

use crate::error::{Error, Result, system_text};

/// The lines that HdrHistogram's tools expect first, the time of the start between them.
const VERSION: &str = "[Histogram log format version 1.3]";
const LEGEND: &str = "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Histogram_Compressed\"\n";

/// A log longer than this, in bytes, is none of ours: an hour of intervals takes less.
const LONGEST_LOG: u64 = 64 << 20;

/// A histogram that unpacks to more than this, in bytes, is damaged: ten minutes in microseconds with
/// three digits take less than a hundredth.
const LONGEST_HISTOGRAM: u64 = 8 << 20;

/// Cookie, payload length: what an unpacked V2 histogram begins with, in bytes.
const V2_START: usize = 8;

/// Writes the histogram, whose values are microseconds, as a log of one interval that began at `began`
/// and took `elapsed`. `about` says in one line what was measured. The file appears under its name
/// only when it is complete.
pub fn write_baseline(
    path: &Path,
    histogram: &Histogram<u64>,
    began: SystemTime,
    elapsed: Duration,
    about: &str,
) -> Result<()> {
    let written = encode(histogram, began, elapsed, about).and_then(|log| replace(path, &log));
    written.map_err(|error| failed("write", path, &system_text(&error)))
}

/// Reads a log that [`write_baseline`] or a tool of HdrHistogram wrote: the sum of its intervals, in
/// microseconds. An error if there is no value in it.
pub fn read_baseline(path: &Path) -> Result<Histogram<u64>> {
    let log = read(path).map_err(|error| failed("read", path, &system_text(&error)))?;
    decode(&log).map_err(|reason| failed("read", path, &reason))
}

fn failed(verb: &str, path: &Path, reason: &str) -> Error {
    let message = format!("could not {verb} baseline \"{}\": {reason}", path.display());
    match verb {
        "read" => Error::usage(message)
            .with_hint("Make a new one with: walring probe DIRECTORY --baseline-out=FILE"),
        _ => Error::disk(message),
    }
}

fn encode(
    histogram: &Histogram<u64>,
    began: SystemTime,
    elapsed: Duration,
    about: &str,
) -> io::Result<Vec<u8>> {
    let since_epoch = began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut log = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    IntervalLogWriterBuilder::new()
        .add_comment(VERSION)
        .add_comment(&format!("[{about}; values are microseconds]"))
        .with_start_time(began)
        .begin_log_with(&mut log, &mut serializer)?;
    log.extend_from_slice(LEGEND.as_bytes());
    IntervalLogWriterBuilder::new()
        .begin_log_with(&mut log, &mut serializer)?
        .write_histogram(histogram, since_epoch, elapsed, None)
        .map_err(|error| io::Error::other(error.to_string()))?;
    Ok(log)
}

/// Writes a file under another name, and gives it its own when it is durable.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or(io::ErrorKind::IsADirectory)?);
    name.push(format!(".{}", std::process::id()));
    let unfinished = path.with_file_name(name);
    let done = write_durably(&unfinished, content).and_then(|()| std::fs::rename(&unfinished, path));
    if done.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    done
}

fn write_durably(path: &PathBuf, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// The file, its last line ended.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut log = Vec::new();
    File::open(path)?.take(LONGEST_LOG).read_to_end(&mut log)?;
    if !log.ends_with(b"\n") {
        log.push(b'\n');
    }
    Ok(log)
}

fn decode(log: &[u8]) -> std::result::Result<Histogram<u64>, String> {
    let mut sum = Histogram::new(3).map_err(|error| error.to_string())?;
    for entry in IntervalLogIterator::new(log) {
        match entry {
            Ok(LogEntry::Interval(interval)) => {
                let histogram = histogram_of(&interval)?;
                sum.add(histogram).map_err(|error| error.to_string())?;
            }
            Ok(LogEntry::StartTime(_) | LogEntry::BaseTime(_)) => {}
            Err(LogIteratorError::ParseError { offset }) => {
                let line = 1 + log[..offset].iter().filter(|&&byte| byte == b'\n').count();
                return Err(format!("line {line} is not one of a HdrHistogram interval log"));
            }
        }
    }
    match sum.is_empty() {
        true => Err("it holds no value".to_owned()),
        false => Ok(sum),
    }
}

/// Unpacks a histogram here, where its length is limited, so that a damaged one cannot ask for memory
/// without end.
fn histogram_of(interval: &IntervalLogHistogram<'_>) -> std::result::Result<Histogram<u64>, String> {
    let damaged = |reason: &str| format!("a histogram in it is damaged: {reason}");
    let bytes = STANDARD
        .decode(interval.encoded_histogram())
        .map_err(|error| damaged(&error.to_string()))?;
    let packed = bytes.get(V2_START..).ok_or_else(|| damaged("it is too short"))?;
    let mut unpacked = Vec::new();
    ZlibDecoder::new(packed)
        .take(LONGEST_HISTOGRAM)
        .read_to_end(&mut unpacked)
        .map_err(|error| damaged(&error.to_string()))?;
    let length = unpacked.get(4..V2_START).and_then(|bytes| bytes.try_into().ok());
    let length = length.map_or(usize::MAX, |bytes| u32::from_be_bytes(bytes) as usize);
    if length > unpacked.len() {
        return Err(damaged("it is too short"));
    }
    Deserializer::new()
        .deserialize(&mut &unpacked[..])
        .map_err(|error| damaged(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::measure::Times;
    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    fn times() -> Times {
        let mut times = Times::new();
        for microseconds in [1, 90, 90, 8000, 700_000] {
            times.record(Duration::from_micros(microseconds));
        }
        times
    }

    fn log() -> String {
        let log = encode(
            times().histogram(),
            SystemTime::now(),
            Duration::from_secs(5),
            "a test",
        );
        String::from_utf8(log.unwrap()).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("baseline.hlog");
        std::fs::write(&path, "old").unwrap();
        write_baseline(
            &path,
            times().histogram(),
            SystemTime::now(),
            Duration::from_secs(5),
            "t",
        )
        .unwrap();
        assert_eq!(&read_baseline(&path).unwrap(), times().histogram());
        assert_eq!(
            std::fs::read_dir(directory.path()).unwrap().count(),
            1,
            "nothing else is left"
        );
    }

    #[test]
    fn the_lines_are_those_of_the_format() {
        let log = log();
        let lines: Vec<_> = log.lines().collect();
        assert_eq!(lines[0], "#[Histogram log format version 1.3]");
        assert_eq!(lines[1], "#[a test; values are microseconds]");
        assert!(lines[2].starts_with("#[StartTime: ") && lines[2].ends_with(" (seconds since epoch)]"));
        assert_eq!(format!("{}\n", lines[3]), LEGEND);
        let fields: Vec<_> = lines[4].split(',').collect();
        assert_eq!(fields[1], "5.000");
        // V2, compressed, in base 64.
        assert!(fields[3].starts_with("HISTFAAA"), "{}", fields[3]);
        assert_eq!(lines.len(), 5);
    }

    #[test]
    fn intervals_are_summed() {
        let log = log();
        let twice = format!("{log}Tag=x,{}\n", log.lines().last().unwrap());
        assert_eq!(decode(twice.as_bytes()).unwrap().len(), 10);
    }

    #[test]
    fn no_damage_of_a_histogram_panics() {
        let log = log();
        let (head, packed) = log.trim_end().rsplit_once(',').unwrap();
        let packed = STANDARD.decode(packed).unwrap();
        let mut unpacked = Vec::new();
        ZlibDecoder::new(&packed[V2_START..])
            .read_to_end(&mut unpacked)
            .unwrap();
        for index in 0..unpacked.len() {
            for mask in [0x01, 0x80, 0xff] {
                let mut damaged = unpacked.clone();
                damaged[index] ^= mask;
                let mut packer = ZlibEncoder::new(packed[..V2_START].to_vec(), Compression::fast());
                packer.write_all(&damaged).unwrap();
                let encoded = STANDARD.encode(packer.finish().unwrap());
                // Some damage only changes values.
                let _ = decode(format!("{head},{encoded}\n").as_bytes());
            }
        }
    }

    #[test]
    fn what_is_no_log_is_said_in_one_line() {
        let (log, empty) = (log(), Times::new());
        let empty = encode(empty.histogram(), SystemTime::now(), Duration::ZERO, "x").unwrap();
        let (head, packed) = log.rsplit_once(',').unwrap();
        let cases = [
            (b"".to_vec(), "it holds no value"),
            (empty, "it holds no value"),
            (b"#c\nnonsense\n".to_vec(), "line 2 is not one of"),
            (
                format!("{head},!!!\n").into_bytes(),
                "a histogram in it is damaged",
            ),
            (
                format!("{head},\n").into_bytes(),
                "a histogram in it is damaged: it is too short",
            ),
            (
                format!("{head},{}\n", &packed[..40]).into_bytes(),
                "a histogram in it is damaged",
            ),
        ];
        for (log, expected) in cases {
            let reason = decode(&log).unwrap_err();
            assert!(reason.starts_with(expected), "{reason}");
            assert!(!reason.contains('\n'));
        }
        let error = read_baseline(Path::new("/nowhere/b.hlog")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "could not read baseline \"/nowhere/b.hlog\": No such file or directory"
        );
    }
}
