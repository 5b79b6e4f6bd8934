//! The open files of a stream and their names, as `ring::segment` and `ring::spare` have them.
//!
//! Mirrored, but for what only saves time there: that a spare is filled with zeros ahead.

use std::collections::VecDeque;
use std::time::Duration;

use walring::core::lsn::{Lsn, SegmentNumber, Timeline};
use walring::error::{Error, Result};

use super::disk::{Disk, FileId};
use super::world::{Event, NameOrder, World};
use crate::model::{content_end, segment_size};

/// Prefix of the names of files that are no segment's yet.
pub const PREFIX: &str = ".walring-spare-";

/// After a failure the next attempt waits so long.
const RETRY: Duration = Duration::from_secs(1);

struct OpenFile {
    segment: SegmentNumber,
    file: FileId,
    name: String,
    /// An earlier run left it.
    is_left: bool,
}

enum Spare {
    Idle { retry_at: Duration },
    Creating(String),
    Ready(FileId, String),
}

/// The open files, the oldest first.
pub struct Files {
    /// The stream's number.
    pub stream: u64,
    timeline: Timeline,
    open: VecDeque<OpenFile>,
    spare: Spare,
    count: u64,
    has_failed: bool,
}

/// The name of a complete segment.
pub fn final_name(timeline: u32, segment: SegmentNumber) -> String {
    segment.file_name(Timeline(timeline), segment_size())
}

/// The name of one that is not.
pub fn partial_name(timeline: u32, segment: SegmentNumber) -> String {
    final_name(timeline, segment) + ".partial"
}

impl Files {
    /// No file is open yet; spares that an earlier run left are removed.
    pub fn new(world: &mut World, stream: u64, timeline: u32) -> Result<Files> {
        let spares: Vec<String> = (world.disk.names())
            .filter(|name| name.starts_with(PREFIX))
            .map(str::to_owned)
            .collect();
        for name in spares {
            world
                .disk
                .remove(&name)
                .map_err(|_| Error::disk("could not open directory"))?;
        }
        Ok(Files {
            stream,
            timeline: Timeline(timeline),
            open: VecDeque::new(),
            spare: Spare::Idle {
                retry_at: Duration::ZERO,
            },
            count: 0,
            has_failed: false,
        })
    }

    /// Opens the partial that an earlier run left where the stream starts: the end of its content.
    pub fn resume(&mut self, world: &mut World, start: Lsn) -> Result<Option<Lsn>> {
        let segment = segment_size().segment_of(start);
        let Some(file) = self.open_left(world, segment)? else {
            return Ok(None);
        };
        let from = segment_size().offset_of(start) as usize;
        let content = world.disk.content(file);
        let end = content_end(content).max(from);
        world.log.note(
            "goes on in a partial with content to",
            segment_size().start_of(segment).advanced_by(end as u64),
            0,
        );
        Ok(Some(segment_size().start_of(segment).advanced_by(end as u64)))
    }

    /// Makes a partial of an earlier run as long as a segment, and durable, before it is built upon.
    fn open_left(&mut self, world: &mut World, segment: SegmentNumber) -> Result<Option<FileId>> {
        let name = partial_name(self.timeline.0, segment);
        let Some(file) = world.disk.find(&name) else {
            return Ok(None);
        };
        let failed = |_| Error::disk("could not open file");
        if world.disk.content(file).len() < segment_size().bytes() as usize {
            world
                .disk
                .resize(file, segment_size().bytes() as usize)
                .map_err(failed)?;
        }
        let sync = world.disk.begin_sync(file);
        let synced = world.disk.end_sync(sync);
        synced.map_err(|_| Error::disk_broken("could not fsync file"))?;
        self.open.push_back(OpenFile {
            segment,
            file,
            name,
            is_left: true,
        });
        Ok(Some(file))
    }

    /// Prepares the first segment before streaming begins.
    pub fn prepare_first(&mut self, world: &mut World) {
        self.begin_spare();
        self.created(world);
    }

    /// Goes on preparing the next segment.
    pub fn prepare(&mut self, world: &mut World) {
        if let Spare::Idle { retry_at } = self.spare
            && world.log.now >= retry_at
        {
            self.begin_spare();
            let stream = self.stream;
            world.after_disk(Event::Prepared { stream });
        }
    }

    fn begin_spare(&mut self) {
        self.spare = Spare::Creating(format!("{PREFIX}{}", self.count));
        self.count += 1;
    }

    /// The spare is there, or could not be made.
    pub fn created(&mut self, world: &mut World) {
        let Spare::Creating(name) = &self.spare else {
            return;
        };
        let name = name.clone();
        let size = segment_size().bytes() as usize;
        self.spare = match world.disk.create(&name, size) {
            Ok(file) => {
                self.has_failed = false;
                Spare::Ready(file, name)
            }
            Err(_) => {
                world.log.note("no room for the next segment", None, 0);
                self.has_failed = true;
                let _ = world.disk.remove(&name);
                Spare::Idle {
                    retry_at: world.log.now + RETRY,
                }
            }
        };
    }

    /// The file of a segment, opened now if need be; `Ok(None)`: it is not ready yet.
    pub fn file(&mut self, world: &mut World, segment: SegmentNumber) -> Result<Option<FileId>> {
        if let Some(open) = self.find(segment) {
            return Ok(Some(open.file));
        }
        if let Some(file) = self.open_left(world, segment)? {
            return Ok(Some(file));
        }
        if std::mem::take(&mut self.has_failed) {
            return Err(Error::disk("could not create file"));
        }
        let idle = Spare::Idle {
            retry_at: world.log.now,
        };
        match std::mem::replace(&mut self.spare, idle) {
            Spare::Ready(file, name) => {
                self.open.push_back(OpenFile {
                    segment,
                    file,
                    name,
                    is_left: false,
                });
                Ok(Some(file))
            }
            Spare::Idle { .. } => Ok(None),
            creating => {
                self.spare = creating;
                Ok(None)
            }
        }
    }

    /// Fills a block with what the file holds there, if an earlier run left it.
    pub fn keep(&self, disk: &Disk, segment: SegmentNumber, block: &mut [u8], offset: usize) {
        if let Some(open) = self.find(segment).filter(|open| open.is_left) {
            block.copy_from_slice(&disk.content(open.file)[offset..offset + block.len()]);
        }
    }

    /// The renames of a change of names; from now on the files are known by the new ones.
    pub fn rename(&mut self, order: NameOrder) -> VecDeque<(String, String)> {
        let timeline = self.timeline.0;
        let mut renames = VecDeque::new();
        match order {
            NameOrder::Name(segment) => {
                renames.extend(self.rename_to(segment, partial_name(timeline, segment)))
            }
            NameOrder::Finish(segment, next) => {
                renames.extend(self.rename_to(segment, final_name(timeline, segment)));
                if next {
                    let name = partial_name(timeline, segment.next());
                    renames.extend(self.rename_to(segment.next(), name));
                }
            }
        }
        renames
    }

    fn rename_to(&mut self, segment: SegmentNumber, name: String) -> Option<(String, String)> {
        let open = self.open.iter_mut().find(|open| open.segment == segment)?;
        let old = std::mem::replace(&mut open.name, name);
        (old != open.name).then(|| (old, open.name.clone()))
    }

    /// Closes the segment's file.
    pub fn close(&mut self, segment: SegmentNumber) {
        self.open.retain(|open| open.segment != segment);
    }

    /// Ends the stream: what has no name of a segment is removed.
    pub fn end(self, disk: &mut Disk) {
        let spare = match self.spare {
            Spare::Ready(_, name) => Some(name),
            Spare::Idle { .. } | Spare::Creating(_) => None,
        };
        let open = self.open.into_iter().map(|open| open.name);
        for name in open.filter(|name| name.starts_with(PREFIX)).chain(spare) {
            let _ = disk.remove(&name);
        }
    }

    fn find(&self, segment: SegmentNumber) -> Option<&OpenFile> {
        self.open.iter().find(|open| open.segment == segment)
    }
}
