//! The segment files of a stream, and their names.
//!
//! A file gets its name with `.partial` only when the segment before it has lost its own: a receiver
//! that takes over looks for the newest name, and must not find one behind a gap. Until then it is
//! written under the name of a spare. Names are changed by the ring too, each change followed by one
//! sync of the directory; the core counts nothing as durable before that has ended.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::future::poll_fn;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;
use tokio::task::JoinHandle;
use tokio_uring::fs::{File, rename};

use super::buffer::Slots;
use super::durable::Failed;
use super::spare::{PREFIX, Prepared, Spare, Syncing};
use super::stop::Stop;
use super::{op, presence};
use crate::core::lsn::{Lsn, SegmentNumber, SegmentSize, Timeline};
use crate::core::telemetry::{Dialogue, Telemetry};
use crate::error::{Error, Result, system_text};

/// A first segment up to this size, in bytes, is zeroed before streaming begins.
const ZEROED_AT_START: u64 = 64 << 20;

/// Where and how the files of a stream are kept.
#[derive(Debug)]
pub struct Place {
    /// The target directory.
    pub directory: PathBuf,
    /// The timeline that is in the names.
    pub timeline: Timeline,
    /// Bytes in a segment.
    pub size: SegmentSize,
    /// Permissions of new files.
    pub mode: u32,
    /// Whether files are written past the page cache.
    pub direct: bool,
}

impl Place {
    /// The path of a file in the directory.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The name of a segment that is not complete.
    pub fn partial_name(&self, segment: SegmentNumber) -> String {
        format!("{}.partial", self.final_name(segment))
    }

    /// The name of a complete segment.
    pub fn final_name(&self, segment: SegmentNumber) -> String {
        segment.file_name(self.timeline, self.size)
    }

    /// An error that names the file.
    fn failed(&self, verb: &str, name: &str, error: &io::Error) -> Error {
        let (path, reason) = (self.path_of(name), system_text(error));
        let message = format!("could not {verb} file \"{}\": {reason}", path.display());
        Error::of_disk(message, error)
    }

    /// Removes spares that an earlier run left.
    fn remove_left_spares(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Opens the `.partial` that an earlier run left, if there is one, and makes it as long as a
    /// segment. Nothing that it holds is changed, and it is made durable before it is built upon.
    fn open_left_partial(&self, segment: SegmentNumber) -> Result<Option<Left>> {
        let name = self.partial_name(segment);
        let opened = self.open_in_full(&self.path_of(&name));
        let left = opened.map_err(|error| self.failed("open", &name, &error))?;
        if let Some(Left { reader, .. }) = &left {
            // A second sync would succeed and prove nothing.
            reader.sync_all().map_err(|error| {
                let (path, reason) = (self.path_of(&name), system_text(&error));
                Error::disk_broken(format!("could not fsync file \"{}\": {reason}", path.display()))
            })?;
        }
        Ok(left)
    }

    /// Opens a file, if there is one, and makes it as long as a segment.
    fn open_in_full(&self, path: &Path) -> io::Result<Option<Left>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let reader = match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        match rustix::fs::fallocate(&reader, FallocateFlags::empty(), 0, self.size.bytes()) {
            Err(Errno::OPNOTSUPP) => reader.set_len(self.size.bytes())?,
            other => other?,
        }
        if self.direct {
            options.custom_flags(libc::O_DIRECT);
        }
        let file = Rc::new(File::from_std(options.open(path)?));
        Ok(Some(Left { file, reader }))
    }
}

/// A partial that an earlier run left.
struct Left {
    file: Rc<File>,
    /// The same file through the page cache: what is not received yet is read from here.
    reader: std::fs::File,
}

/// How many bytes of the file there are up to the last that is not zero; those before `from` are there.
/// What was never written is passed over: most of a large segment.
fn content_length(file: &std::fs::File, from: u64) -> io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let zeros = vec![0; buffer.len()];
    let (mut offset, mut end) = (from, from);
    loop {
        offset = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
            Err(Errno::NXIO) => return Ok(end),
            // A file system that cannot tell has data everywhere.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => offset,
            found => found?,
        };
        let count = file.read_at(&mut buffer, offset)?;
        if count == 0 {
            return Ok(end);
        }
        let read = &buffer[..count];
        if read != &zeros[..count]
            && let Some(last) = read.iter().rposition(|&byte| byte != 0)
        {
            end = offset + last as u64 + 1;
        }
        offset += count as u64;
    }
}

/// An open segment file.
struct SegmentFile {
    segment: SegmentNumber,
    file: Rc<File>,
    name: String,
    /// For a partial that an earlier run left.
    reader: Option<std::fs::File>,
    /// For one that was prepared: what makes it as durable as it is.
    sync: Option<Syncing>,
}

/// The open segment files of a stream, oldest first, and the spare.
pub struct Segments {
    place: Rc<Place>,
    directory: Rc<File>,
    open: VecDeque<SegmentFile>,
    spare: Spare,
    /// Where it is noted what the disk is asked for.
    telemetry: Arc<Telemetry>,
    /// When it is looked next whether they are still there.
    next_look: Duration,
}

/// A change of names that is in flight.
pub type NameChange = JoinHandle<std::result::Result<(), Failed>>;

impl Segments {
    /// No file is open yet; spares that an earlier run left are removed. `directory` is the one that was opened when
    /// the receiver started: another that came to the same name since is not written to.
    pub fn new(
        place: Place,
        directory: impl Into<std::fs::File>,
        telemetry: Arc<Telemetry>,
    ) -> Result<Segments> {
        let directory = directory.into();
        presence::check_directory(&place.directory, &directory)?;
        place.remove_left_spares().map_err(|error| {
            // It may have gone just now, which is worth more than what that broke.
            presence::check_directory(&place.directory, &directory)
                .err()
                .unwrap_or_else(|| {
                    let (path, reason) = (place.directory.display(), system_text(&error));
                    Error::of_disk(format!("could not open directory \"{path}\": {reason}"), &error)
                })
        })?;
        let place = Rc::new(place);
        let spare = Spare::new(Rc::clone(&place));
        let directory = Rc::new(File::from_std(directory));
        Ok(Segments {
            place,
            directory,
            open: VecDeque::new(),
            spare,
            telemetry,
            next_look: Duration::ZERO,
        })
    }

    /// Opens the partial that an earlier run left of the segment where the stream starts. Gives the
    /// end of its content, or `start`, whichever is further; `None`: there is no such file.
    pub fn resume(&mut self, start: Lsn) -> Result<Option<Lsn>> {
        let telemetry = Arc::clone(&self.telemetry);
        telemetry.disk.ask(|| self.open_first(start))
    }

    fn open_first(&mut self, start: Lsn) -> Result<Option<Lsn>> {
        let segment = self.place.size.segment_of(start);
        let offset = self.place.size.offset_of(start);
        let name = self.place.partial_name(segment);
        let Some(Left { file, reader }) = self.place.open_left_partial(segment)? else {
            return Ok(None);
        };
        let length = content_length(&reader, offset);
        let length = length.map_err(|error| self.place.failed("read", &name, &error))?;
        self.open.push_back(SegmentFile {
            segment,
            file,
            name,
            reader: Some(reader),
            sync: None,
        });
        Ok(Some(self.place.size.start_of(segment).advanced_by(length)))
    }

    /// Prepares the first segment before streaming begins: a receiver that is nearly caught up gets it
    /// zeroed, as long as that takes no time worth mentioning, and nobody wants the end. What fails here shows, or has
    /// passed, when the file is needed.
    pub async fn prepare(&mut self, slots: &mut Slots, lag: u64, stop: &Stop) {
        let size = self.place.size.bytes();
        if lag > size || size > ZEROED_AT_START {
            return;
        }
        poll_fn(|cx| {
            loop {
                // While zeros are written the kernel has them: they must come back first.
                if stop.poll_requested(cx) && !self.is_zeroing() {
                    return Poll::Ready(());
                }
                if !self.poll(cx, Duration::ZERO, slots, size) {
                    break;
                }
            }
            match self.spare.is_busy() {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        })
        .await;
    }

    /// Goes on preparing the next segment; true if something has changed.
    pub fn poll(&mut self, cx: &mut Context<'_>, now: Duration, slots: &mut Slots, allowance: u64) -> bool {
        self.use_spare(|spare| spare.poll(cx, now, slots, allowance))
    }

    /// What the spare wants of the disk is noted like all else.
    fn use_spare<T>(&mut self, work: impl FnOnce(&mut Spare) -> T) -> T {
        let before = self.spare.is_in_flight();
        let done = work(&mut self.spare);
        match (before, self.spare.is_in_flight()) {
            (false, true) => self.disk().asked(),
            (true, false) => self.disk().answered(),
            _ => {}
        }
        done
    }

    fn disk(&self) -> &Dialogue {
        &self.telemetry.disk
    }

    /// Bytes for which there is no room: those of the next segment, or none.
    pub fn missing_room(&self) -> u64 {
        match self.spare.lacks_room() {
            true => self.place.size.bytes(),
            false => 0,
        }
    }

    /// Whether the kernel works for the spare.
    pub fn is_preparing(&self) -> bool {
        self.spare.is_in_flight()
    }

    /// Whether the spare is being written to.
    pub fn is_zeroing(&self) -> bool {
        self.spare.is_writing()
    }

    /// The file of a segment; opened now if need be. `Ok(None)`: it is not ready yet, try again when
    /// [`Segments::poll`] has changed something.
    pub fn file(&mut self, segment: SegmentNumber, now: Duration) -> Result<Option<Rc<File>>> {
        if let Some(open) = self.find(segment) {
            return Ok(Some(Rc::clone(&open.file)));
        }
        let name = self.place.partial_name(segment);
        let opened = match self.disk().ask(|| self.place.open_left_partial(segment))? {
            Some(Left { file, reader }) => SegmentFile {
                segment,
                file,
                name,
                reader: Some(reader),
                sync: None,
            },
            None => {
                let taken = self.use_spare(|spare| spare.take(now));
                let taken = taken.map_err(|error| self.place.failed("create", &name, &error))?;
                let Some(Prepared { file, name, sync }) = taken else {
                    return Ok(None);
                };
                SegmentFile {
                    segment,
                    file,
                    name,
                    reader: None,
                    sync,
                }
            }
        };
        let file = Rc::clone(&opened.file);
        self.open.push_back(opened);
        Ok(Some(file))
    }

    /// [`Segments::check_presence`] now and then.
    pub fn look(&mut self, now: Duration, have_names: bool) -> Result<()> {
        if now < self.next_look {
            return Ok(());
        }
        self.next_look = now + presence::ROUND;
        self.check_presence(have_names)
    }

    /// When to [look](Segments::look) again.
    pub fn next_look(&self) -> Duration {
        self.next_look
    }

    /// Checks that the directory, and the partials if they `have_names`, are still what is written to. A
    /// spare has nothing that was acknowledged, and a finished segment is its owner's.
    pub fn check_presence(&self, have_names: bool) -> Result<()> {
        presence::check_directory(&self.place.directory, op::descriptor(&self.directory))?;
        let partials = self
            .open
            .iter()
            .filter(|open| have_names && open.name.ends_with(".partial"));
        for open in partials {
            let (path, bytes) = (self.place.path_of(&open.name), self.place.size.bytes());
            presence::check_file(&path, op::descriptor(&open.file), bytes)?;
        }
        Ok(())
    }

    /// The name under which the segment's file is known now, for messages.
    pub fn name_of(&self, segment: SegmentNumber) -> String {
        self.find(segment)
            .map_or_else(|| self.place.partial_name(segment), |open| open.name.clone())
    }

    /// Fills `block`, which belongs at `offset` of the segment, with what the file holds there, if an
    /// earlier run left it; otherwise the block stays as it is.
    pub fn keep(&self, segment: SegmentNumber, block: &mut [u8], offset: u64) -> Result<()> {
        let Some(SegmentFile {
            reader: Some(reader),
            name,
            ..
        }) = self.find(segment)
        else {
            return Ok(());
        };
        self.disk()
            .ask(|| reader.read_exact_at(block, offset))
            .map_err(|error| self.place.failed("read", name, &error))
    }

    /// Gives the segment's file its name with `.partial`, durably.
    pub fn name(&mut self, segment: SegmentNumber) -> NameChange {
        let renames = self.rename_to(segment, self.place.partial_name(segment));
        self.change(renames.into_iter().collect())
    }

    /// Takes `.partial` from the segment's name and, if `next`, gives the next one's file its name:
    /// two renames, one sync of the directory.
    pub fn finish(&mut self, segment: SegmentNumber, next: bool) -> NameChange {
        let finished = self.rename_to(segment, self.place.final_name(segment));
        let begun = if next {
            self.rename_to(segment.next(), self.place.partial_name(segment.next()))
        } else {
            None
        };
        self.change(finished.into_iter().chain(begun).collect())
    }

    /// Closes the segment's file.
    pub fn close(&mut self, segment: SegmentNumber) {
        self.open.retain(|open| open.segment != segment);
    }

    /// Ends the stream: what has no name of a segment is removed. Gives the name of the partial that
    /// stays, if one does.
    pub fn end(self) -> Option<String> {
        let telemetry = Arc::clone(&self.telemetry);
        telemetry.disk.ask(|| self.tidy_up())
    }

    fn tidy_up(self) -> Option<String> {
        self.spare.discard();
        let (spares, named): (Vec<_>, Vec<_>) = self
            .open
            .into_iter()
            .partition(|open| open.name.starts_with(PREFIX));
        for spare in spares {
            // If it stays, the next start removes it.
            let _ = std::fs::remove_file(self.place.path_of(&spare.name));
        }
        named
            .into_iter()
            .map(|open| open.name)
            .find(|name| name.ends_with(".partial"))
    }

    fn find(&self, segment: SegmentNumber) -> Option<&SegmentFile> {
        self.open.iter().find(|open| open.segment == segment)
    }

    /// Notes a file's new name; what has to be done for it, unless it has the name already.
    fn rename_to(&mut self, segment: SegmentNumber, name: String) -> Option<Rename> {
        let open = self.open.iter_mut().find(|open| open.segment == segment)?;
        let old = std::mem::replace(&mut open.name, name);
        (old != open.name).then(|| Rename {
            from: self.place.path_of(&old),
            to: self.place.path_of(&open.name),
            sync: open.sync.take(),
        })
    }

    fn change(&self, renames: Vec<Rename>) -> NameChange {
        let directory = Rc::clone(&self.directory);
        tokio_uring::spawn(async move {
            let mut syncs = Vec::new();
            let mut ways = Vec::new();
            for Rename { from, to, sync } in renames {
                syncs.extend(sync);
                ways.push((from, to));
            }
            let named = give_names(ways, &directory).await;
            // They began before; a name counts when none has failed. Nobody else will hear of it if one has.
            let mut synced = Ok(());
            for sync in syncs {
                let result = sync.await.map_err(io::Error::other).flatten();
                synced = synced.and(result.map_err(Failed::sync));
            }
            synced.and(named)
        })
    }
}

/// Renames files, and makes the names durable.
async fn give_names(ways: Vec<(PathBuf, PathBuf)>, directory: &File) -> std::result::Result<(), Failed> {
    for (from, to) in ways {
        rename(from, to).await.map_err(Failed::rename)?;
    }
    directory.sync_all().await.map_err(Failed::sync_of_directory)
}

/// A file's change of name.
struct Rename {
    from: PathBuf,
    to: PathBuf,
    sync: Option<Syncing>,
}

#[cfg(test)]
mod tests;
