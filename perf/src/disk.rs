//! An emulated edge disk: a block device with set latencies and ext4 on it, on which receivers are compared.
//!
//! # The model
//!
//! A disk with a volatile write cache. A **write** is taken into the cache and is complete after
//! [`Profile::write`]; writes do not wait for each other. A **flush** makes durable what was written before; it
//! takes [`Profile::flush`], whether there is much to flush, little or nothing. On a rotating disk the flush also
//! waits for the place to come round: a share of [`Profile::rotation`], evenly distributed, from a generator with
//! a fixed seed, so that every disk pays the same sequence. Only the flush pays for the rotation, since a write
//! ends in the cache. The disk makes **one flush at a time**: a second one begins when the first has ended. The
//! disk accepts writes during a flush and does not delay them. Reads and discards take no time. There is no limit of
//! bandwidth. All this is in [`image`], and only there.
//!
//! # How it is made
//!
//! ```text
//!  receiver --> ext4 --> /dev/loopN (direct I/O) --> FUSE file --> walring-perf disk-server --> memory
//! ```
//!
//! The loop driver turns each block it writes into one FUSE write and each flush into one FUSE fsync. It has no
//! forced unit access, so a durable write is a write and a flush, as on most edge disks.
//!
//! **What the way to the disk adds**: the disk accepts writes during a flush, but they do not reach it. The
//! loop driver's one worker waits for a flush before it hands over the next command, and FUSE holds the file's
//! lock during an fsync (a write that was sent 2 ms after a flush of 17 ms took 15 ms). So on the block device
//! what is sent behind a flush begins when the flush has ended. SATA and eMMC disks do the same, since their
//! flush is not a queued command; NVMe disks do not. Whoever writes ahead during a flush gains less here than on
//! an NVMe disk.
//!
//! **What the emulator costs**, medians on 2 cores that other programs used too: a durable write of 4096 bytes
//! takes 0.2 to 0.4 ms on `nvme`, 1.2 to 1.3 ms on `ssd` and 8.4 to 8.6 ms on `emmc`; a reply comes 0.05 to 0.1 ms
//! late, most of it the wake-up. The loop driver's worker is an ordinary thread: where both cores are always
//! busy, it waits for one, some milliseconds now and then.
//!
//! **`sync` waits for all disks**: sync(2) flushes every file system, this one too, and waits for ever while the
//! server is stopped (SIGSTOP). Sync one directory's file system with syncfs(2), and let the server run.
//!
//! # Why a process of its own
//!
//! The file system's server is a child process, `walring-perf disk-server`. It makes the disk and takes it away:
//! when it is told to, or when the pipe to the process that owns the disk closes. So whatever way the owner ends,
//! nothing is left, and no thread that waits for the disk can keep its server from ending. The server calls
//! `mkfs`, `losetup`, `mount` and `umount` as programs and waits for nothing on the disk itself. Its threads are
//! marked as I/O flushers, so that a lack of memory does not make them wait for the disk that they serve.
//! A disk whose server was killed is taken away by the next one ([`leftovers`]).

pub mod cli;
pub mod crash;
mod fuse;
mod image;
mod leftovers;
mod log;
mod programs;
mod server;

use std::ffi::OsStr;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How slow a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// What it is called: `nvme`, `ssd`, `emmc`, `hdd`, or a caller's own.
    pub key: &'static str,
    /// One sentence: what it stands for.
    pub about: &'static str,
    /// What a write takes until it is in the disk's cache.
    pub write: Duration,
    /// What a flush takes.
    pub flush: Duration,
    /// One turn of a rotating disk; a flush waits for a share of it.
    pub rotation: Option<Duration>,
}

/// The profiles, from the fastest to the slowest.
pub const PROFILES: [Profile; 4] = [
    Profile {
        key: "nvme",
        about: "an emulated disk without any delay: what the emulator itself costs",
        write: Duration::ZERO,
        flush: Duration::ZERO,
        rotation: None,
    },
    Profile {
        key: "ssd",
        about: "an emulated SATA SSD without power-loss protection: a flush takes 1 ms",
        write: Duration::ZERO,
        flush: Duration::from_millis(1),
        rotation: None,
    },
    Profile {
        key: "emmc",
        about: "an emulated eMMC or SD card, as in an edge server: a flush takes 8 ms",
        write: Duration::ZERO,
        flush: Duration::from_millis(8),
        rotation: None,
    },
    Profile {
        key: "hdd",
        about: "an emulated rotating disk: a flush takes 12 ms and a share of a turn of 8.3 ms",
        write: Duration::ZERO,
        flush: Duration::from_millis(12),
        rotation: Some(Duration::from_micros(8333)),
    },
];

impl Profile {
    /// The one of [`PROFILES`] with this key.
    pub fn named(key: &str) -> Option<Profile> {
        PROFILES.into_iter().find(|profile| profile.key == key)
    }
}

/// The file system on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Filesystem {
    /// With a journal, and nothing left to be initialized later.
    Ext4,
    /// Where `mkfs.xfs` is there.
    Xfs,
}

impl Filesystem {
    /// As `mount` and `mkfs` call it.
    pub fn key(self) -> &'static str {
        match self {
            Filesystem::Ext4 => "ext4",
            Filesystem::Xfs => "xfs",
        }
    }
}

/// What a disk is to be like.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How slow.
    pub profile: Profile,
    /// Its size, MiB. Only pages that were written take memory.
    pub size_mib: u64,
    /// What is on it.
    pub filesystem: Filesystem,
    /// Where to record every write and flush, for [`crash`]; a new file.
    pub record: Option<PathBuf>,
    /// The `walring-perf` program, which serves the disk; `None` is the running one.
    pub program: Option<PathBuf>,
}

impl Settings {
    /// A disk of 4 GiB with ext4.
    pub fn new(profile: Profile) -> Settings {
        Settings {
            profile,
            size_mib: 4096,
            filesystem: Filesystem::Ext4,
            record: None,
            program: None,
        }
    }
}

/// What becomes of a command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Behaviour {
    /// It succeeds.
    #[default]
    Works,
    /// It ends with an input/output error, and nothing is done.
    Fails,
    /// It does not end, until the disk behaves otherwise.
    Hangs,
}

/// What is wrong with a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// Writes; discards always work.
    pub write: Behaviour,
    /// Flushes.
    pub flush: Behaviour,
}

/// What the disk was asked for since it was ready. Exact: what has completed is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Commands that wrote.
    pub writes: u64,
    /// What they wrote, bytes.
    pub bytes_written: u64,
    /// Flushes.
    pub flushes: u64,
    /// Bytes discarded or zeroed without being sent.
    pub bytes_discarded: u64,
}

impl Counters {
    /// What came since an earlier reading.
    pub fn since(self, earlier: Counters) -> Counters {
        Counters {
            writes: self.writes - earlier.writes,
            bytes_written: self.bytes_written - earlier.bytes_written,
            flushes: self.flushes - earlier.flushes,
            bytes_discarded: self.bytes_discarded - earlier.bytes_discarded,
        }
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counters {
            writes,
            bytes_written,
            flushes,
            bytes_discarded,
        } = self;
        write!(
            f,
            "{writes} writes, {bytes_written} bytes written, {flushes} flushes, {bytes_discarded} bytes discarded"
        )
    }
}

/// Why there is no disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Error {
    /// This machine or this user cannot have one; other things can go on.
    Unavailable(String),
    /// Something failed that should not.
    Failed(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unavailable(why) => write!(f, "no emulated disk here: {why}"),
            Error::Failed(why) => write!(f, "the emulated disk failed: {why}"),
        }
    }
}

impl std::error::Error for Error {}

/// What the server is asked, a line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    Counters,
    Faults(Faults),
}

/// What the server answers, a line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    Ready { path: PathBuf, device: PathBuf },
    NoDisk(Error),
    Counters(Counters),
    Done,
    Closed { problems: Vec<String> },
}

/// An emulated disk, mounted. Dropping it takes it away; so does the end of this process, whatever way it ends.
#[derive(Debug)]
pub struct EdgeDisk {
    profile: Profile,
    path: PathBuf,
    device: PathBuf,
    server: Mutex<Server>,
}

#[derive(Debug)]
struct Server {
    process: Child,
    /// `None` once the disk is to go.
    requests: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

impl EdgeDisk {
    /// A disk of 4 GiB with ext4, served by this program: only in `walring-perf` itself.
    pub fn new(profile: Profile) -> Result<EdgeDisk, Error> {
        EdgeDisk::with(&Settings::new(profile))
    }

    /// A disk as it is wanted.
    pub fn with(settings: &Settings) -> Result<EdgeDisk, Error> {
        let mut server = Server::start(settings)?;
        match server.reply() {
            Ok(Reply::Ready { path, device }) => Ok(EdgeDisk {
                profile: settings.profile,
                path,
                device,
                server: Mutex::new(server),
            }),
            Ok(Reply::NoDisk(error)) => Err(error),
            Ok(other) => Err(Error::Failed(format!(
                "its server answered {other:?} in place of ready"
            ))),
            Err(why) => Err(why),
        }
    }

    /// How slow it is.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// The directory on it: the root of its file system, which belongs to root.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its block device, `/dev/loopN`.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// What was asked of it since it was ready.
    pub fn counters(&self) -> Result<Counters, Error> {
        match self.ask(&Ask::Counters)? {
            Reply::Counters(counters) => Ok(counters),
            other => Err(Error::Failed(format!(
                "its server answered {other:?} in place of counters"
            ))),
        }
    }

    /// Lets commands fail or hang from now on, or work again; what hung until now goes on.
    pub fn set_faults(&self, faults: Faults) -> Result<(), Error> {
        match self.ask(&Ask::Faults(faults))? {
            Reply::Done => Ok(()),
            other => Err(Error::Failed(format!(
                "its server answered {other:?} when it was given faults"
            ))),
        }
    }

    fn ask(&self, what: &Ask) -> Result<Reply, Error> {
        let mut server = self
            .server
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        server.request(what)?;
        server.reply()
    }

    /// The process that serves the disk.
    pub fn server_pid(&self) -> u32 {
        self.server
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .process
            .id()
    }

    /// Takes the disk away, and says what could not be.
    pub fn close(self) -> Result<(), Error> {
        self.server
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .end()
    }
}

impl Server {
    fn start(settings: &Settings) -> Result<Server, Error> {
        let program = match &settings.program {
            Some(program) => program.clone(),
            None => std::env::current_exe()
                .map_err(|error| Error::Failed(format!("could not find the running program: {error}")))?,
        };
        let micros = |duration: Duration| duration.as_micros().to_string();
        let record = settings
            .record
            .iter()
            .flat_map(|path| [OsStr::new("--record"), path.as_os_str()]);
        let mut process = Command::new(&program)
            .arg("disk-server")
            .args(record)
            .args(["--size-mib", &settings.size_mib.to_string()])
            .args(["--filesystem", settings.filesystem.key()])
            .args(["--write-us", &micros(settings.profile.write)])
            .args(["--flush-us", &micros(settings.profile.flush)])
            .args([
                "--rotation-us",
                &micros(settings.profile.rotation.unwrap_or_default()),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A terminal's Ctrl-C is the owner's: the disk goes when the owner has ended.
            .process_group(0)
            .spawn()
            .map_err(|error| Error::Failed(format!("could not start {}: {error}", program.display())))?;
        let (Some(requests), Some(replies)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(Error::Failed("its server has no pipes".into()));
        };
        Ok(Server {
            process,
            requests: Some(requests),
            replies: BufReader::new(replies),
        })
    }

    fn request(&mut self, what: &Ask) -> Result<(), Error> {
        let Some(requests) = &mut self.requests else {
            return Err(Error::Failed("it was closed".into()));
        };
        let line = serde_json::to_string(what)
            .map_err(|error| Error::Failed(format!("could not ask its server: {error}")))?;
        writeln!(requests, "{line}")
            .map_err(|error| Error::Failed(format!("its server does not listen: {error}")))
    }

    fn reply(&mut self) -> Result<Reply, Error> {
        let mut line = String::new();
        match self.replies.read_line(&mut line) {
            Ok(0) => Err(Error::Failed("its server ended".into())),
            Ok(_) => serde_json::from_str(&line).map_err(|error| {
                Error::Failed(format!("its server answered {:?}: {error}", line.trim_end()))
            }),
            Err(error) => Err(Error::Failed(format!("its server does not answer: {error}"))),
        }
    }

    /// Has the disk taken away and waits for that.
    fn end(&mut self) -> Result<(), Error> {
        if self.requests.take().is_none() {
            return Ok(());
        }
        let last = self.reply();
        let waited = self.process.wait();
        match last? {
            Reply::Closed { problems } if problems.is_empty() => {}
            Reply::Closed { problems } => return Err(Error::Failed(problems.join("; "))),
            other => return Err(Error::Failed(format!("its server answered {other:?} at its end"))),
        }
        waited
            .map(|_| ())
            .map_err(|error| Error::Failed(format!("could not wait for its server: {error}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whoever wants to know what could not be taken away calls `close`.
        let _ = self.end();
    }
}
