//! The disk as a file: a FUSE file system with one file, which the loop driver opens.

use std::collections::BinaryHeap;
use std::ffi::OsStr;
use std::io;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, WriteFlags,
};

use super::Behaviour;
use super::image::{Image, Kind};

/// The file's inode; the root directory is 1.
const IMAGE: INodeNo = INodeNo(2);

/// Attributes never change.
const FOREVER: Duration = Duration::from_secs(1 << 30);

/// Mounts the image as the file `name` in `directory`. Dropping the session unmounts it.
pub fn mount(image: Arc<Image>, name: &str, directory: &Path) -> io::Result<BackgroundSession> {
    let (name, directory) = (name.to_string(), directory.to_path_buf());
    // The session's threads inherit what is set here, and the caller keeps what it has.
    let started = std::thread::spawn(move || {
        let imprecise = |error| io::Error::other(format!("timer slack: {error}"));
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1)).map_err(imprecise)?;
        go_first();
        // Needs Linux 5.6; before it, a lack of memory could make the disk wait for itself.
        let _ = rustix::process::configure_io_flusher_behavior(true);
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("walring-disk".into()),
            MountOption::NoExec,
            MountOption::NoAtime,
        ];
        config.n_threads = Some(2);
        fuser::spawn_mount(
            OneFile {
                image,
                name,
                replies: Arc::new(DelayedReplies::start()?),
            },
            &directory,
            &config,
        )
    });
    started
        .join()
        .map_err(|_| io::Error::other("the thread that starts the session panicked"))?
}

/// Puts this thread before all ordinary ones: a disk does not wait for a processor. Its work is short.
fn go_first() {
    let thread = rustix::thread::gettid().to_string();
    if super::programs::run("chrt", &[&"--fifo", &"--pid", &"1", &thread]).is_err() {
        // Where that is forbidden or missing; it shortens the wait behind a busy thread, and does not end it.
        let _ = rustix::process::setpriority_process(None, -20);
    }
}

/// Replies that are due later, given by a thread of their own, so that no request waits behind one.
struct DelayedReplies {
    shared: Arc<(Mutex<Queue>, Condvar)>,
}

#[derive(Default)]
struct Queue {
    pending: BinaryHeap<Delayed>,
    /// Counts those that came, to keep the order of those that are due together.
    arrivals: u64,
    ended: bool,
}

struct Delayed {
    due: Instant,
    arrival: u64,
    reply: Box<dyn FnOnce() + Send>,
}

impl Ord for Delayed {
    /// The earliest is the greatest, since a heap gives its greatest.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.due, other.arrival).cmp(&(self.due, self.arrival))
    }
}

impl PartialOrd for Delayed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Delayed {
    fn eq(&self, other: &Self) -> bool {
        self.arrival == other.arrival
    }
}

impl Eq for Delayed {}

impl DelayedReplies {
    fn start() -> io::Result<DelayedReplies> {
        let shared = Arc::new((Mutex::new(Queue::default()), Condvar::new()));
        let of_thread = shared.clone();
        std::thread::Builder::new()
            .name("disk-replies".into())
            .spawn(move || {
                while let Some(delayed) = DelayedReplies::next(&of_thread) {
                    (delayed.reply)()
                }
            })?;
        Ok(DelayedReplies { shared })
    }

    /// Waits for the next that is due; `None` at the end.
    fn next((queue, changed): &(Mutex<Queue>, Condvar)) -> Option<Delayed> {
        let mut queue = queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        loop {
            let wait = match queue.pending.peek() {
                _ if queue.ended => return None,
                None => Duration::from_secs(3600),
                Some(first) => match first.due.checked_duration_since(Instant::now()) {
                    None | Some(Duration::ZERO) => return queue.pending.pop(),
                    Some(wait) => wait,
                },
            };
            queue = changed
                .wait_timeout(queue, wait)
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .0;
        }
    }

    /// Replies at the instant given, at once with `None`.
    fn at(&self, due: Option<Instant>, reply: impl FnOnce() + Send + 'static) {
        let Some(due) = due else { return reply() };
        let (queue, changed) = &*self.shared;
        let mut queue = queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        queue.arrivals += 1;
        let arrival = queue.arrivals;
        queue.pending.push(Delayed {
            due,
            arrival,
            reply: Box::new(reply),
        });
        changed.notify_one();
    }
}

impl Drop for DelayedReplies {
    fn drop(&mut self) {
        let (queue, changed) = &*self.shared;
        queue
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .ended = true;
        changed.notify_one();
    }
}

struct OneFile {
    image: Arc<Image>,
    name: String,
    replies: Arc<DelayedReplies>,
}

impl OneFile {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let file = inode == IMAGE;
        FileAttr {
            ino: inode,
            size: if file { self.image.size() } else { 0 },
            blocks: if file { self.image.size() / 512 } else { 0 },
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind: if file {
                FileType::RegularFile
            } else {
                FileType::Directory
            },
            perm: if file { 0o600 } else { 0o700 },
            nlink: if file { 1 } else { 2 },
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

/// A command, to be told by the disk whether it works.
type Command = Box<dyn FnOnce(&Arc<Image>, bool) + Send>;

impl OneFile {
    /// Carries out a command that may fail, or hang first.
    fn carry_out(&self, kind: Kind, command: impl FnOnce(&Arc<Image>, bool) + Send + 'static) {
        carry_out(&self.image, kind, Box::new(command));
    }
}

/// What hangs is carried out later, and may hang once more.
fn carry_out(image: &Arc<Image>, kind: Kind, command: Command) {
    match image.behaviour(kind) {
        Behaviour::Works => command(image, true),
        Behaviour::Fails => command(image, false),
        Behaviour::Hangs => {
            let later = Arc::clone(image);
            image.hold(Box::new(move || carry_out(&later, kind, command)));
        }
    }
}

fn write(image: &Image, replies: &DelayedReplies, data: &[u8], offset: u64, reply: ReplyWrite) {
    let len = data.len() as u32;
    match image.write(data, offset) {
        Ok(due) => replies.at(due, move || reply.written(len)),
        Err(error) => reply.error(error.into()),
    }
}

fn flush(image: &Arc<Image>, replies: &DelayedReplies, reply: ReplyEmpty) {
    let flush = match image.flush() {
        Ok(flush) => flush,
        Err(error) => return reply.error(error.into()),
    };
    let image = Arc::clone(image);
    replies.at(flush.due, move || match image.flushed(flush) {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error.into()),
    });
}

impl fuser::Filesystem for OneFile {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Many writes in flight; without it the loop driver would wait for each.
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        let _ = config.set_max_write(1 << 20);
        let _ = config.set_max_background(256);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == OsStr::new(&self.name) {
            reply.entry(&FOREVER, &self.attributes(IMAGE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes(inode));
    }

    fn open(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_DIRECT_IO
            | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
            | FopenFlags::FOPEN_NOFLUSH;
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut buffer = vec![0; size as usize];
        match self.image.read(&mut buffer, offset) {
            Ok(len) => reply.data(&buffer[..len]),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if self.image.behaviour(Kind::Write) == Behaviour::Works {
            return write(&self.image, &self.replies, data, offset, reply);
        }
        let (data, replies) = (data.to_vec(), Arc::clone(&self.replies));
        self.carry_out(Kind::Write, move |image, works| match works {
            true => write(image, &replies, &data, offset, reply),
            false => reply.error(Errno::EIO),
        });
    }

    fn fsync(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let replies = Arc::clone(&self.replies);
        self.carry_out(Kind::Flush, move |image, works| match works {
            true => flush(image, &replies, reply),
            false => reply.error(Errno::EIO),
        });
    }

    fn fallocate(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        // The loop driver's discards punch holes, its "write zeros" may ask for either.
        let hole = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::ZERO_RANGE;
        if !hole.intersects(rustix::fs::FallocateFlags::from_bits_retain(mode as u32)) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        match self.image.discard(offset, length) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error.into()),
        }
    }
}
