//! The model's disk: what reading returns, what a crash leaves, and the directory's names.
//!
//! All segments lie in one address space from [`START`] on. A crash keeps exactly what a durable
//! write or a sync that *ended* covers, and the names whose directory sync ended: the least that
//! the kernel promises, so that nothing passes by luck.

use std::ops::Range;

use bytes::Bytes;
use walring::core::lsn::{Lsn, SegmentNumber};

use super::{common_prefix, offset, segment_size};

const SECTOR: usize = 512;

/// The name of a segment's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// A spare, which no tool takes for a segment.
    None,
    /// With `.partial`.
    Partial,
    /// The segment's own.
    Final,
}

/// Bytes that were written and not made durable.
#[derive(Debug, Clone)]
pub struct Dirty {
    from: usize,
    bytes: Vec<u8>,
    version: u64,
}

/// Files and their names.
#[derive(Debug)]
pub struct Disk {
    /// What it is compared with: the server's bytes.
    wal: Bytes,
    content: Vec<u8>,
    durable: Vec<u8>,
    /// The write that gave each sector its durable content.
    durable_versions: Vec<u64>,
    dirty: Vec<Dirty>,
    version: u64,
    /// The names that a crash leaves.
    names: Vec<Name>,
    written_end: usize,
    durable_end: usize,
}

impl Disk {
    /// A disk that holds the WAL before `preserve_end` and zeros behind. The segments before that of `start`
    /// are finished; if `named`, its file has its name.
    pub fn new(wal: Bytes, start: Lsn, preserve_end: Lsn, named: bool) -> Disk {
        let size = segment_size().bytes() as usize;
        let segments = wal.len().div_ceil(size);
        let mut content = vec![0; segments * size];
        let held = offset(preserve_end.max(start));
        content[..held].copy_from_slice(&wal[..held]);
        let first = offset(start) / size;
        let mut names = vec![Name::None; segments];
        names[..first].fill(Name::Final);
        if named {
            names[first] = Name::Partial;
        }
        Disk {
            durable: content.clone(),
            durable_versions: vec![0; content.len() / SECTOR],
            content,
            wal,
            dirty: Vec::new(),
            version: 0,
            names,
            written_end: 0,
            durable_end: 0,
        }
    }

    /// The server's bytes.
    pub fn wal(&self) -> &[u8] {
        &self.wal
    }

    /// What reading a range returns.
    pub fn content(&self, range: Range<usize>) -> &[u8] {
        &self.content[range]
    }

    /// A write took effect.
    pub fn write(&mut self, from: usize, bytes: &[u8], durable: bool) {
        self.version += 1;
        self.content[from..from + bytes.len()].copy_from_slice(bytes);
        let dirty = Dirty {
            from,
            bytes: bytes.to_vec(),
            version: self.version,
        };
        if durable {
            self.end_sync(&[dirty]);
        } else {
            self.dirty.push(dirty);
        }
    }

    /// A sync of a segment begins: what it will have made durable when it ends.
    pub fn begin_sync(&mut self, segment: SegmentNumber) -> Vec<Dirty> {
        let range = self.range_of(segment);
        let (covered, rest) = self
            .dirty
            .drain(..)
            .partition(|dirty| range.contains(&dirty.from));
        self.dirty = rest;
        covered
    }

    /// A sync ended. What a later write made durable meanwhile stays.
    pub fn end_sync(&mut self, covered: &[Dirty]) {
        for dirty in covered {
            for (index, sector) in dirty.bytes.chunks(SECTOR).enumerate() {
                let from = dirty.from + index * SECTOR;
                if self.durable_versions[from / SECTOR] < dirty.version {
                    self.durable_versions[from / SECTOR] = dirty.version;
                    self.durable[from..from + sector.len()].copy_from_slice(sector);
                }
            }
        }
    }

    /// The directory sync behind a change of names ended.
    pub fn set_name(&mut self, segment: SegmentNumber, name: Name) {
        let index = self.index_of(segment);
        self.names[index] = name;
    }

    /// The name that a crash leaves.
    pub fn name(&self, segment: SegmentNumber) -> Name {
        self.names[self.index_of(segment)]
    }

    /// The names of all segments, from the first on.
    pub fn names(&self) -> &[Name] {
        &self.names
    }

    /// How far the files hold the server's bytes without a gap.
    pub fn written_end(&mut self) -> Lsn {
        let from = self.written_end;
        self.written_end += common_prefix(&self.content[from..], &self.wal[from..]);
        super::at(self.written_end as u64)
    }

    /// How far a crash leaves the server's bytes without a gap, whatever the files are called.
    pub fn durable_bytes_end(&mut self) -> Lsn {
        let from = self.durable_end;
        self.durable_end += common_prefix(&self.durable[from..], &self.wal[from..]);
        super::at(self.durable_end as u64)
    }

    /// How far a crash leaves the server's bytes in files that can be found.
    pub fn durable_end(&mut self) -> Lsn {
        let bytes = self.durable_bytes_end();
        let named = self.names.iter().take_while(|&&name| name != Name::None).count();
        bytes.min(super::at(named as u64 * segment_size().bytes()))
    }

    /// Whether a segment's bytes are all durable.
    pub fn is_segment_durable(&mut self, segment: SegmentNumber) -> bool {
        let range = self.range_of(segment);
        self.durable[range.clone()] == self.wal[range]
    }

    /// Where a segment lies.
    pub fn range_of(&self, segment: SegmentNumber) -> Range<usize> {
        offset(segment_size().start_of(segment))..offset(segment_size().end_of(segment))
    }

    fn index_of(&self, segment: SegmentNumber) -> usize {
        offset(segment_size().start_of(segment)) / segment_size().bytes() as usize
    }
}
