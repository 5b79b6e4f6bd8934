//! Which segments there are.

use super::format::Format;
use super::{Reader, failed};
use crate::core::history::History;
use crate::core::lsn::{Lsn, SegmentNumber, SegmentSize, Timeline};
use crate::core::start::{Encoding, SegmentFile, Stage};
use crate::edge::directory::cannot_open;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// A segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where it is.
    pub path: PathBuf,
    /// What its name says.
    pub file: SegmentFile,
    /// Its size in bytes, when it was listed.
    pub bytes: u64,
}

impl Segment {
    /// Its name alone.
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Opens it for reading. A partial that has become complete since it was listed is taken under its
    /// new name; `None`: it has been removed.
    pub fn open(&self, size: SegmentSize) -> io::Result<Option<Reader>> {
        let start = size.start_of(self.file.segment);
        let complete = self.path.with_extension("");
        for path in [&self.path, &complete, &self.path] {
            match Reader::open(path, start) {
                Ok(reader) => return Ok(Some(reader)),
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// Whether its bytes can be decoded.
    pub fn is_plain(&self) -> bool {
        self.file.encoding == Encoding::Plain
    }

    /// Whether it was complete when it was listed.
    pub fn is_complete(&self) -> bool {
        self.file.stage == Stage::Complete
    }
}

/// Something that has a segment's name, nearly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// All that was found.
#[derive(Debug)]
pub struct Stored {
    /// The segments by timeline, number and stage.
    pub segments: Vec<Segment>,
    /// What they have in common.
    pub format: Format,
    /// The histories of timelines, as far as their files are there and good.
    pub histories: BTreeMap<Timeline, History>,
    /// Files that are not what their names say.
    pub misfits: Vec<Misfit>,
    /// Files whose names mean nothing here.
    pub ignored: usize,
    /// Whether whole directories were looked at: only then a segment can be missing.
    pub is_whole: bool,
}

impl Stored {
    /// Lists directories and files. The segment size is told by the segments, unless it is given.
    pub fn list(paths: &[PathBuf], segment_size: Option<SegmentSize>) -> Result<Stored> {
        let mut found = Found::default();
        let mut is_whole = true;
        for path in paths {
            let metadata = std::fs::metadata(path).map_err(|error| failed("open", path, &error))?;
            if metadata.is_dir() {
                found.list_directory(path)?;
            } else {
                is_whole = false;
                found.name_file(path, metadata.len())?;
            }
        }
        if found.segments.is_empty() {
            let names: Vec<_> = paths
                .iter()
                .map(|path| format!("\"{}\"", path.display()))
                .collect();
            return Err(Error::directory(format!(
                "no WAL segment in {}",
                names.join(", ")
            )));
        }
        let plain = found.segments.iter().filter(|segment| segment.is_plain()).count();
        let format = Format::of(&found.segments, segment_size).ok_or_else(|| match plain {
            0 => Error::directory("every WAL segment is compressed, and compressed ones are not looked at")
                .with_hint("Decompress them with gzip -d or lz4 -d, in a copy of the directory."),
            _ => Error::directory("the segment size cannot be told: no file has a WAL page header")
                .with_hint("Give it with --segment-size."),
        })?;
        Ok(found.into_stored(format, is_whole))
    }

    /// The history of a timeline; the first one has no ancestors and no file.
    pub fn history(&self, timeline: Timeline) -> Option<History> {
        match self.histories.get(&timeline) {
            None if timeline == Timeline(1) => Some(History::without_ancestors(timeline)),
            known => known.cloned(),
        }
    }

    /// The position of a segment's first byte.
    pub fn start_of(&self, segment: &Segment) -> Lsn {
        self.format.segment_size.start_of(segment.file.segment)
    }
}

/// What a first look finds, while the segment size is not known.
#[derive(Default)]
struct Found {
    segments: Vec<Segment>,
    histories: BTreeMap<Timeline, History>,
    misfits: Vec<Misfit>,
    ignored: usize,
}

impl Found {
    fn list_directory(&mut self, path: &Path) -> Result<()> {
        let entries = std::fs::read_dir(path).map_err(|error| cannot_open(path, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| failed("read", path, &error))?;
            let path = entry.path();
            // What has been removed meanwhile is not there.
            let Ok(metadata) = std::fs::metadata(&path) else {
                continue;
            };
            if metadata.is_file() && !self.take(&path, metadata.len()) {
                self.ignored += 1;
            }
        }
        Ok(())
    }

    /// A file that was named must be a segment, or a history.
    fn name_file(&mut self, path: &Path, bytes: u64) -> Result<()> {
        if !self.take(path, bytes) {
            let path = path.display();
            return Err(
                Error::usage(format!("file \"{path}\" does not have the name of a WAL segment"))
                    .with_hint("Name segments, as 00000001000000000000000A, or a directory of them."),
            );
        }
        // The histories beside it tell what belongs to which timeline.
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Ok(entries) = std::fs::read_dir(parent.unwrap_or(Path::new("."))) {
            for entry in entries.flatten() {
                let name = entry.file_name();
                if let Some(timeline) = name.to_str().and_then(history_of) {
                    self.take_history(&entry.path(), timeline);
                }
            }
        }
        Ok(())
    }

    /// Takes a segment or a history; false if the name is that of neither.
    fn take(&mut self, path: &Path, bytes: u64) -> bool {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return false;
        };
        if let Some(timeline) = history_of(name) {
            self.take_history(path, timeline);
            return true;
        }
        // The smallest segments have the most names.
        let smallest = SegmentSize::new(1 << 20).expect("the least size");
        let Some(file) = SegmentFile::from_name(name, smallest) else {
            return false;
        };
        self.segments.push(Segment {
            path: path.to_owned(),
            file,
            bytes,
        });
        true
    }

    fn take_history(&mut self, path: &Path, timeline: Timeline) {
        let read = std::fs::read_to_string(path);
        let parsed = read
            .map_err(|error| format!("cannot be read: {error}"))
            .and_then(|text| {
                History::parse(timeline, &text)
                    .map_err(|line| format!("line {} is not one of a history", line.0))
            });
        match parsed {
            Ok(history) => {
                self.histories.insert(timeline, history);
            }
            Err(reason) => {
                let path = path.to_owned();
                if !self.misfits.iter().any(|misfit| misfit.path == path) {
                    self.misfits.push(Misfit { path, reason });
                }
            }
        }
    }

    fn into_stored(mut self, format: Format, is_whole: bool) -> Stored {
        let size = format.segment_size;
        let mut segments = Vec::with_capacity(self.segments.len());
        for segment in self.segments {
            match SegmentFile::from_name(&segment.name(), size) {
                Some(file) if size_allows(file.segment, size) => segments.push(Segment { file, ..segment }),
                _ => {
                    let bytes = size.bytes();
                    let reason = format!("no segment of {bytes} bytes has that name");
                    let path = segment.path;
                    self.misfits.push(Misfit { path, reason });
                }
            }
        }
        segments.sort_by(|a, b| {
            let key = |s: &Segment| (s.file.timeline, s.file.segment, s.file.stage);
            key(a).cmp(&key(b)).then_with(|| a.path.cmp(&b.path))
        });
        segments.dedup_by(|a, b| a.path == b.path);
        Stored {
            segments,
            format,
            histories: self.histories,
            misfits: self.misfits,
            ignored: self.ignored,
            is_whole,
        }
    }
}

/// Behind the last number that fits there is no position.
fn size_allows(segment: SegmentNumber, size: SegmentSize) -> bool {
    segment.0 < u64::MAX / size.bytes()
}

/// The timeline whose history file has this name.
fn history_of(name: &str) -> Option<Timeline> {
    let digits = name.strip_suffix(".history")?;
    let valid = digits.len() == 8 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    let timeline = Timeline(u32::from_str_radix(digits, 16).ok().filter(|_| valid)?);
    (timeline > Timeline(1)).then_some(timeline)
}
