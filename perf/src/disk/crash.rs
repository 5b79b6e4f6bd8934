//! What a crash can leave of a recorded disk: images of it at any point of the recording.
//!
//! # The model
//!
//! The disk has a volatile cache. A crash keeps what was complete when a flush began that has ended since. Of
//! everything else that was written until then, each write may be there, or not, or in part: the disk tears
//! writes at 512 bytes, so of a torn one each sector may be there or not. Of several writes of one sector any may have been the
//! last that got there. A command that failed has done nothing; a flush that failed has kept nothing.
//!
//! That is harder than ext4 can bear in one place: its superblock, of two sectors with one checksum, is read before the journal
//! that would mend it. One that was torn must be mended by `e2fsck`, as by any operator ([`mend`]).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use super::log::{FLUSH_BEGAN, FLUSH_ENDED, HEAD, WRITE, ZEROS};
use super::programs::run;
use super::{Error, Filesystem};

pub use super::log::now_ns;

/// What a disk writes in one piece.
const SECTOR: u64 = 512;

/// Where ext4's superblock is: two sectors.
const SUPERBLOCK: Range<u64> = 1024..2048;

/// A disk's log, read.
#[derive(Debug)]
pub struct Recording {
    bytes: Vec<u8>,
    events: Vec<Event>,
}

#[derive(Debug, Clone, Copy)]
struct Event {
    /// When it came, CLOCK_MONOTONIC in nanoseconds.
    at: u64,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Write(Write),
    FlushBegan(u64),
    FlushEnded(u64),
}

#[derive(Debug, Clone, Copy)]
struct Write {
    complete: u64,
    offset: u64,
    length: u64,
    /// Where its content is in the log; `None`: it is zeros.
    content: Option<usize>,
}

impl Write {
    /// How many bytes of a place on the disk a part of this write changes.
    fn reach(&self, begin: u64, end: u64, place: &Range<u64>) -> u64 {
        let (begin, end) = (self.offset + begin, self.offset + end);
        end.min(place.end).saturating_sub(begin.max(place.start))
    }
}

impl Recording {
    /// Reads a disk's log. What is being appended to it is left out.
    pub fn read(path: &Path) -> io::Result<Recording> {
        let bytes = std::fs::read(path)?;
        let mut events = Vec::new();
        let mut place = 0;
        while let Some(head) = bytes.get(place..place + HEAD) {
            let number = |index: usize| {
                let eight = head[8 * index..8 * index + 8].try_into();
                u64::from_le_bytes(eight.unwrap_or_default())
            };
            let (at, complete, first, second) = (number(1), number(2), number(3), number(4));
            place += HEAD;
            let write = |content| {
                What::Write(Write {
                    complete,
                    offset: first,
                    length: second,
                    content,
                })
            };
            let what = match number(0) {
                WRITE if bytes.len() < place + second as usize => break,
                WRITE => write(Some(place)),
                ZEROS => write(None),
                FLUSH_BEGAN => What::FlushBegan(first),
                FLUSH_ENDED => What::FlushEnded(first),
                other => return Err(io::Error::other(format!("no disk's log: an event {other}"))),
            };
            if number(0) == WRITE {
                place += second as usize;
            }
            events.push(Event { at, what });
        }
        Ok(Recording { bytes, events })
    }

    /// How many events there are. Point `n` is the crash behind the first `n` of them.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether the disk was asked for nothing.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The last instant at which nothing but the first `point` events has happened: what was promised until
    /// then must be in every image of that point.
    pub fn until(&self, point: usize) -> u64 {
        self.events.get(point).map_or(u64::MAX, |event| event.at - 1)
    }

    /// The first point behind everything that happened before that time.
    pub fn point_at(&self, time: u64) -> usize {
        self.events.partition_point(|event| event.at <= time)
    }

    /// The points at which a flush is about to end: at no others is there more to lose.
    pub fn before_flushes_end(&self) -> Vec<usize> {
        let ends = |(_, event): &(usize, &Event)| matches!(event.what, What::FlushEnded(_));
        let found = self.events.iter().enumerate().filter(ends);
        found.map(|(point, _)| point).collect()
    }

    fn content(&self, write: &Write) -> Option<&[u8]> {
        write
            .content
            .map(|start| &self.bytes[start..start + write.length as usize])
    }
}

/// What becomes of writes that no flush has made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// None is there.
    Lost,
    /// All are there.
    Kept,
    /// Chance decides, from this seed.
    Chance(u64),
}

/// The disk as a crash leaves it, at one point after the other.
#[derive(Debug)]
pub struct Crash<'a> {
    recording: &'a Recording,
    /// What is durable.
    durable: File,
    durable_path: PathBuf,
    point: usize,
    /// Writes that are not durable, in the order in which they came.
    pending: Vec<(usize, Write)>,
    /// Flushes that have begun: number, event, time.
    flushes: Vec<(u64, usize, u64)>,
}

impl<'a> Crash<'a> {
    /// Of a disk of this size that was recorded from its making on; keeps what is durable in `directory`.
    pub fn new(recording: &'a Recording, size_mib: u64, directory: &Path) -> io::Result<Crash<'a>> {
        let durable_path = directory.join("durable");
        let durable = File::create_new(&durable_path)?;
        durable.set_len(size_mib << 20)?;
        Ok(Crash {
            recording,
            durable,
            durable_path,
            point: 0,
            pending: Vec::new(),
            flushes: Vec::new(),
        })
    }

    /// Goes on to a later point. Gives how many writes are not durable there.
    pub fn advance(&mut self, point: usize) -> io::Result<usize> {
        let recording = self.recording;
        while self.point < point.min(recording.len()) {
            let event = recording.events[self.point];
            match event.what {
                What::Write(write) => self.pending.push((self.point, write)),
                What::FlushBegan(number) => self.flushes.push((number, self.point, event.at)),
                What::FlushEnded(number) => self.flush_ended(number)?,
            }
            self.point += 1;
        }
        Ok(self.pending.len())
    }

    fn flush_ended(&mut self, number: u64) -> io::Result<()> {
        let Some(index) = self.flushes.iter().position(|flush| flush.0 == number) else {
            return Err(io::Error::other(format!("flush {number} ended and never began")));
        };
        let (_, began, at) = self.flushes.remove(index);
        let is_covered = |(event, write): &(usize, Write)| *event < began && write.complete <= at;
        let (covered, pending) = self.pending.iter().partition(|pending| is_covered(pending));
        self.pending = pending;
        let covered: Vec<(usize, Write)> = covered;
        for (_, write) in covered {
            apply(&self.durable, self.recording, &write, 0, write.length)?;
        }
        Ok(())
    }

    /// Writes an image of this point to a new file. Gives whether that tore what ext4 must find whole, its superblock.
    pub fn image(&self, fate: Fate, path: &Path) -> Result<bool, Error> {
        // By the program, which keeps the holes.
        run("cp", &[&"--sparse=always", &self.durable_path, &path]).map_err(Error::Failed)?;
        let failed = |error: io::Error| Error::Failed(format!("could not make an image: {error}"));
        let image = File::options().write(true).open(path).map_err(failed)?;
        self.apply_pending(fate, &image).map_err(failed)
    }

    fn apply_pending(&self, fate: Fate, image: &File) -> io::Result<bool> {
        let (mut chance, keep) = match fate {
            Fate::Lost => return Ok(false),
            Fate::Kept => (fastrand::Rng::new(), 1.0),
            Fate::Chance(seed) => {
                let mut chance = fastrand::Rng::with_seed(seed);
                let keep = [0.1, 0.3, 0.5, 0.7, 0.9][chance.usize(..5)];
                (chance, keep)
            }
        };
        let mut torn = false;
        for (_, write) in &self.pending {
            let reached = |begin, end| write.reach(begin, end, &SUPERBLOCK);
            if matches!(fate, Fate::Chance(_)) && chance.u8(..4) == 0 {
                let (mut kept, all) = (0, reached(0, write.length));
                let sectors = (0..write.length).step_by(SECTOR as usize);
                for begin in sectors.filter(|_| chance.bool()) {
                    let end = (begin + SECTOR).min(write.length);
                    apply(image, self.recording, write, begin, end)?;
                    kept += reached(begin, end);
                }
                torn = if kept == 0 { torn } else { kept < all };
            } else if keep >= 1.0 || chance.f64() < keep {
                apply(image, self.recording, write, 0, write.length)?;
                torn &= reached(0, write.length) == 0;
            }
        }
        Ok(torn)
    }
}

/// Writes a part of a write.
fn apply(image: &File, recording: &Recording, write: &Write, begin: u64, end: u64) -> io::Result<()> {
    match recording.content(write) {
        Some(content) => image.write_all_at(&content[begin as usize..end as usize], write.offset + begin),
        None => {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            Ok(rustix::fs::fallocate(
                image,
                punch,
                write.offset + begin,
                end - begin,
            )?)
        }
    }
}

/// Mends an ext4 whose superblock was torn, from a copy and the journal. Whether that worked, mounting tells:
/// `e2fsck` fails also when it has mended all that was wrong.
pub fn mend(image: &Path) {
    let _ = run("e2fsck", &[&"-f", &"-y", &image]);
}

/// An image, mounted as after a crash: the file system recovers. Unmounted when it goes out of scope.
#[derive(Debug)]
pub struct Mounted {
    path: PathBuf,
}

impl Mounted {
    /// Mounts an image at a new directory.
    pub fn mount(image: &Path, filesystem: Filesystem, path: PathBuf) -> Result<Mounted, Error> {
        let failed = |error: io::Error| Error::Failed(format!("could not make {}: {error}", path.display()));
        std::fs::create_dir(&path).map_err(failed)?;
        let options = match filesystem {
            Filesystem::Ext4 => "loop,nodev,nosuid",
            // The disk that it is an image of may be mounted, too.
            Filesystem::Xfs => "loop,nodev,nosuid,nouuid",
        };
        match run(
            "mount",
            &[&"-t", &filesystem.key(), &"-o", &options, &image, &path],
        ) {
            Ok(_) => Ok(Mounted { path }),
            Err(why) => {
                let _ = std::fs::remove_dir(&path);
                Err(Error::Failed(format!("an image could not be mounted: {why}")))
            }
        }
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if run("umount", &[&self.path]).is_err() {
            let _ = run("umount", &[&"--lazy", &self.path]);
        }
        let _ = std::fs::remove_dir(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::super::image::Image;
    use super::super::log::Log;
    use super::*;

    const SIZE: usize = 1 << 20;

    /// The first sectors' bytes, one for each, of the image at the point behind everything.
    fn sectors(record: impl FnOnce(&Image), fate: Fate) -> Vec<u8> {
        left(record, fate).0
    }

    /// The same, and whether the superblock was torn.
    fn left(record: impl FnOnce(&Image), fate: Fate) -> (Vec<u8>, bool) {
        let home = tempfile::tempdir().expect("a directory");
        let log = home.path().join("log");
        let image = Image::new(SIZE as u64, Some(Log::create(&log).expect("a log"))).expect("a disk");
        record(&image);
        let recording = Recording::read(&log).expect("a recording");
        let mut crash = Crash::new(&recording, 1, home.path()).expect("a crash");
        crash.advance(recording.len()).expect("its end");
        let path = home.path().join("image");
        let torn = crash.image(fate, &path).expect("an image");
        let content = std::fs::read(path).expect("the image");
        assert_eq!(content.len(), SIZE);
        ((0..8).map(|sector| content[sector * 512]).collect(), torn)
    }

    fn write(image: &Image, byte: u8, sector: u64, sectors: usize) {
        image
            .write(&vec![byte; sectors * 512], sector * 512)
            .expect("a write");
    }

    fn flush(image: &Image) {
        let flush = image.flush().expect("a flush");
        image.flushed(flush).expect("its end");
    }

    #[test]
    fn what_was_flushed_is_in_every_image_and_the_rest_by_chance() {
        let record = |image: &Image| {
            write(image, 1, 0, 2);
            flush(image);
            write(image, 2, 1, 2);
        };
        assert_eq!(sectors(record, Fate::Lost)[..4], [1, 1, 0, 0]);
        assert_eq!(sectors(record, Fate::Kept)[..4], [1, 2, 2, 0]);
        let images: Vec<Vec<u8>> = (0..64).map(|seed| sectors(record, Fate::Chance(seed))).collect();
        for expected in [[1, 1, 0, 0], [1, 2, 2, 0], [1, 2, 0, 0], [1, 1, 2, 0]] {
            assert!(images.iter().any(|image| image[..4] == expected), "{expected:?}");
        }
        assert!(images.iter().all(|image| image[0] == 1 && image[3] == 0));
    }

    #[test]
    fn a_flush_that_has_not_ended_or_began_before_the_write_keeps_nothing() {
        let open = |image: &Image| {
            write(image, 1, 0, 1);
            image.flush().expect("a flush");
        };
        assert_eq!(sectors(open, Fate::Lost)[0], 0);
        let too_early = |image: &Image| {
            let flush = image.flush().expect("a flush");
            write(image, 1, 0, 1);
            image.flushed(flush).expect("its end");
        };
        assert_eq!(sectors(too_early, Fate::Lost)[0], 0);
    }

    #[test]
    fn a_torn_superblock_is_told_and_only_that() {
        let record = |image: &Image| {
            write(image, 1, 0, 8);
            flush(image);
            write(image, 2, 0, 8);
            write(image, 3, 1, 3);
            write(image, 4, 4, 2);
        };
        let mut seen = [0; 2];
        for seed in 0..256 {
            let (sectors, torn) = left(record, Fate::Chance(seed));
            assert_eq!(torn, sectors[2] != sectors[3], "seed {seed}: {sectors:?}");
            seen[usize::from(torn)] += 1;
        }
        assert!(seen.iter().all(|&times| times > 10), "{seen:?}");
        assert!(!left(record, Fate::Kept).1 && !left(record, Fate::Lost).1);
    }

    #[test]
    fn what_was_discarded_is_zero() {
        let record = |image: &Image| {
            write(image, 1, 0, 8);
            image.discard(512, 512).expect("a discard");
            flush(image);
        };
        assert_eq!(sectors(record, Fate::Lost)[..3], [1, 0, 1]);
    }
}
