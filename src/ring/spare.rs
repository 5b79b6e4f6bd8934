//! The segment file that is prepared ahead, so that no commit waits for it at the boundary.
//!
//! It is allocated in full at once, which is where a full disk shows: a whole segment early. While
//! the stream is live it is then zeroed, in small steps at the pace of the stream, because a write
//! that overwrites needs no change of metadata to be durable. It may be taken at any time: what is
//! not zeroed yet is allocated, and reads as zeros all the same. What cannot be prepared is told once and
//! tried again while the stream goes on, and once more when the file is needed: only then it is an error.

use std::future::Future;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_uring::fs::{File, OpenOptions};

use super::buffer::Slots;
use super::op;
use super::segment::Place;
use crate::error::system_text;

/// After a failure the next attempt waits so long.
const RETRY: Duration = Duration::from_secs(1);

/// Prefix of a prepared file's name: no tool takes it for a segment.
pub const PREFIX: &str = ".walring-spare-";

/// A prepared file under a name that no tool takes for a segment's.
#[derive(Debug)]
pub struct Prepared {
    /// The file, of a segment's size, empty or zero.
    pub file: Rc<File>,
    /// Its name in the directory.
    pub name: String,
    /// The sync that is still in flight. The kernel tells a failure once, to who waits here: if it fails, nothing in the
    /// file is durable, whatever a later sync says.
    pub sync: Option<Syncing>,
}

/// A sync of a prepared file.
pub type Syncing = JoinHandle<io::Result<()>>;

enum State {
    Idle {
        retry_at: Duration,
    },
    Creating(JoinHandle<io::Result<File>>, String),
    /// Zeroed so far, the write that zeroes more, if one is in flight.
    Zeroing(Prepared, u64, Option<op::Write>),
    /// Zeroed in full; its metadata is being made durable.
    Syncing(Prepared, Syncing),
    Ready(Prepared),
}

/// The spare of a stream.
pub struct Spare {
    place: Rc<Place>,
    state: State,
    count: u64,
    /// Whether a file has been taken: then a failure is of one that is not needed yet.
    taken: bool,
    /// Whether the file is needed now: then a failure is told by who needs it.
    needed: bool,
    /// Why there is no file, after the last attempt.
    failure: Option<io::Error>,
}

impl Spare {
    /// No spare yet.
    pub fn new(place: Rc<Place>) -> Spare {
        Spare {
            place,
            state: State::Idle {
                retry_at: Duration::ZERO,
            },
            count: 0,
            taken: false,
            needed: false,
            failure: None,
        }
    }

    /// Goes on preparing: `allowance` bytes may be zero by now. True if something has changed.
    pub fn poll(&mut self, cx: &mut Context<'_>, now: Duration, slots: &mut Slots, allowance: u64) -> bool {
        let state = std::mem::replace(&mut self.state, State::Idle { retry_at: now });
        let (state, changed) = match state {
            State::Idle { retry_at } if now >= retry_at => (self.create(), true),
            State::Creating(mut task, name) => match Pin::new(&mut task).poll(cx) {
                Poll::Ready(result) => (self.created(result, name, now), true),
                Poll::Pending => (State::Creating(task, name), false),
            },
            State::Zeroing(prepared, zeroed, write) => {
                self.zero(cx, slots, allowance, (prepared, zeroed, write))
            }
            State::Syncing(prepared, mut task) => match Pin::new(&mut task).poll(cx) {
                Poll::Ready(result) => match result.map_err(io::Error::other).flatten() {
                    Ok(()) => (State::Ready(prepared), true),
                    Err(error) => (self.failed(error, &prepared.name, now), true),
                },
                Poll::Pending => (State::Syncing(prepared, task), false),
            },
            other => (other, false),
        };
        self.state = state;
        changed
    }

    /// The prepared file, as far as it is; `Ok(None)` while it is being created or written to, an
    /// error if it could not be created now that it is needed.
    pub fn take(&mut self, now: Duration) -> io::Result<Option<Prepared>> {
        let idle = State::Idle { retry_at: now };
        match std::mem::replace(&mut self.state, idle) {
            State::Zeroing(prepared, _, None) | State::Ready(prepared) => Ok(Some(self.hand_over(prepared))),
            State::Syncing(prepared, sync) => {
                let sync = Some(sync);
                Ok(Some(self.hand_over(Prepared { sync, ..prepared })))
            }
            State::Idle { .. } => {
                self.state = State::Idle {
                    retry_at: Duration::ZERO,
                };
                // A failure from before it was needed may be over: an attempt of now decides.
                let failure = self.failure.take().filter(|_| self.needed);
                self.needed = failure.is_none();
                failure.map_or(Ok(None), Err)
            }
            busy => {
                self.state = busy;
                Ok(None)
            }
        }
    }

    fn hand_over(&mut self, prepared: Prepared) -> Prepared {
        (self.taken, self.needed) = (true, false);
        prepared
    }

    /// Whether there is no room for it, after the last attempt.
    pub fn lacks_room(&self) -> bool {
        self.failure.as_ref().is_some_and(is_full)
    }

    /// Whether it is being prepared, and is not as good as it gets.
    pub fn is_busy(&self) -> bool {
        !matches!(self.state, State::Ready(_) | State::Idle { .. })
    }

    /// Whether the kernel works for it.
    pub fn is_in_flight(&self) -> bool {
        match &self.state {
            State::Creating(..) | State::Syncing(..) => true,
            State::Zeroing(_, _, write) => write.is_some(),
            State::Idle { .. } | State::Ready(_) => false,
        }
    }

    /// Whether a write of zeros is in flight.
    pub fn is_writing(&self) -> bool {
        matches!(self.state, State::Zeroing(_, _, Some(_)))
    }

    /// Removes the file that was not needed.
    pub fn discard(self) {
        let name = match &self.state {
            State::Idle { .. } => return,
            State::Creating(_, name) => name,
            State::Zeroing(prepared, ..) | State::Syncing(prepared, _) | State::Ready(prepared) => {
                &prepared.name
            }
        };
        // If it stays, the next start removes it.
        let _ = std::fs::remove_file(self.place.path_of(name));
    }

    fn create(&mut self) -> State {
        let name = format!("{PREFIX}{}", self.count);
        self.count += 1;
        let path = self.place.path_of(&name);
        let task = tokio_uring::spawn(create(
            path,
            self.place.size.bytes(),
            self.place.mode,
            self.place.direct,
        ));
        State::Creating(task, name)
    }

    fn created(
        &mut self,
        result: Result<io::Result<File>, tokio::task::JoinError>,
        name: String,
        now: Duration,
    ) -> State {
        match result.map_err(io::Error::other).flatten() {
            Ok(file) => {
                if self.failure.take().is_some() && self.taken {
                    tracing::info!("could prepare the next segment now");
                }
                State::Zeroing(
                    Prepared {
                        file: Rc::new(file),
                        name,
                        sync: None,
                    },
                    0,
                    None,
                )
            }
            Err(error) => self.failed(error, &name, now),
        }
    }

    /// What failed once is not built upon: the file goes, and the next attempt makes another.
    fn failed(&mut self, error: io::Error, name: &str, now: Duration) -> State {
        // Without a segment to go on with, the error itself will tell.
        if self.failure.is_none() && self.taken && !self.needed {
            let (path, reason) = (self.place.directory.display(), system_text(&error));
            let hint = is_full(&error).then(|| {
                let bytes = self.place.size.bytes();
                format!("The stream goes on until the segment is full; {bytes} bytes are needed then.")
            });
            tracing::warn!(hint, "could not prepare the next segment in \"{path}\": {reason}");
        }
        self.failure = Some(error);
        let _ = std::fs::remove_file(self.place.path_of(name));
        State::Idle {
            retry_at: now + RETRY,
        }
    }

    fn zero(
        &self,
        cx: &mut Context<'_>,
        slots: &mut Slots,
        allowance: u64,
        (prepared, mut zeroed, mut write): (Prepared, u64, Option<op::Write>),
    ) -> (State, bool) {
        let size = self.place.size.bytes();
        if let Some(running) = &mut write {
            let Poll::Ready((result, (buffer, _))) = Pin::new(running).poll(cx) else {
                return (State::Zeroing(prepared, zeroed, write), false);
            };
            slots.put_zeros(buffer);
            // Zeros only save work later: if they cannot be written, the file serves without.
            zeroed = result.map_or(size, |count| zeroed + u64::from(count));
            return (State::Zeroing(prepared, zeroed, None), true);
        }
        if zeroed >= size {
            let file = Rc::clone(&prepared.file);
            let task = tokio_uring::spawn(async move { file.sync_all().await });
            return (State::Syncing(prepared, task), true);
        }
        let step = (size - zeroed).min(Slots::ZEROS as u64);
        if zeroed + step > allowance.min(size) {
            return (State::Zeroing(prepared, zeroed, None), false);
        }
        let Some(zeros) = slots.take_zeros() else {
            return (State::Zeroing(prepared, zeroed, None), false);
        };
        let running = op::write(&prepared.file, zeros, 0..step as usize, zeroed, false);
        (State::Zeroing(prepared, zeroed, Some(running)), true)
    }
}

/// Whether the error says that there is no room, or a quota allows no more.
fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// Whether a file of so many bytes could be made in the directory: by making one, for neither quotas nor
/// reserves show in a file system's numbers. It is removed again.
pub async fn has_room(directory: &Path, bytes: u64) -> io::Result<bool> {
    let room = rustix::fs::statvfs(directory)?;
    // Not tried in vain: while it lasts, the attempt takes what others may need.
    if room.f_bfree.saturating_mul(room.f_frsize) < bytes {
        return Ok(false);
    }
    let path = directory.join(format!("{PREFIX}room"));
    // One that an attempt before this left, should it have been interrupted.
    let _ = std::fs::remove_file(&path);
    let made = create(path.clone(), bytes, 0o600, false).await;
    let removed = std::fs::remove_file(&path);
    match made {
        Err(error) if is_full(&error) => Ok(false),
        Err(error) => Err(error),
        Ok(file) => {
            // The room is free again when this has ended.
            file.close().await?;
            removed.map(|()| true)
        }
    }
}

/// Creates a file and allocates it in full.
async fn create(path: PathBuf, size: u64, mode: u32, direct: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(mode);
    if direct {
        options.custom_flags(libc::O_DIRECT);
    }
    let file = options.open(path).await?;
    match file.fallocate(0, size, 0).await {
        // File systems without allocation get a sparse file: a full disk then shows later.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            rustix::fs::ftruncate(op::descriptor(&file), size)?;
        }
        other => other?,
    }
    Ok(file)
}
