//! The target directory: what lies in it, and the lock on it.
//!
//! The directory is opened once, and what is done here reaches everything from that descriptor, even if somebody renames
//! the path meanwhile. A stream gets the same descriptor; it opens and renames segments by their paths, and checks
//! that these still lead there ([`crate::ring::presence`]). The lock is a `flock` on the directory itself: it leaves no
//! file behind, and the kernel drops it with the process, however that ends.

use crate::core::lsn::SegmentSize;
use crate::core::resume::Stored;
use crate::core::start::{Encoding, SegmentFile, Stage};
use crate::core::wal::fault::Fault;
use crate::error::{Error, Result, system_text};
use crate::ring::presence;
use rustix::fs::{Advice, AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tracing::warn;

/// The alignment for direct I/O where the kernel tells none, and the least that is used where it does: smaller blocks
/// are allowed by many disks and slow on most of them.
const LEAST_ALIGNMENT: u32 = 4096;

/// Dot-prefixed, as no tool takes such a name for WAL.
const PROBE_NAME: &str = ".walring-probe";

/// A directory of segment files, locked for this process.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    fd: OwnedFd,
    file_mode: Mode,
}

impl Directory {
    /// Opens and locks the directory. A second receiver is refused: both would write the same partial file.
    pub fn open(path: &Path) -> Result<Directory> {
        let directory = Directory::open_unlocked(path)?;
        lock(path, &directory.fd)?;
        Ok(directory)
    }

    /// Opens the directory as it is, in use or not, for those who write no segment there.
    pub fn open_unlocked(path: &Path) -> Result<Directory> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|error| cannot_open(path, error.into()))?;
        Ok(Directory {
            path: path.to_owned(),
            fd,
            file_mode: Mode::RUSR | Mode::WUSR,
        })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open directory, once more.
    pub fn descriptor(&self) -> Result<OwnedFd> {
        self.fd
            .try_clone()
            .map_err(|error| cannot_open(&self.path, error))
    }

    /// Checks that the path still leads to it: files are created and renamed by their paths.
    pub fn check_presence(&self) -> Result<()> {
        presence::check_directory(&self.path, &self.fd)
    }

    /// The permissions for new files: 0600, or 0640 after [`Directory::allow_group_access`].
    pub fn file_mode(&self) -> Mode {
        self.file_mode
    }

    /// Lets the group read new files, as it may read the server's data directory. Sets the process's umask, as all
    /// PostgreSQL tools do here, or the caller's could take that permission away again.
    pub fn allow_group_access(&mut self) {
        self.file_mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
        rustix::process::umask(Mode::WGRP | Mode::RWXO);
    }

    /// Makes names durable: what was created, renamed or removed here survives a crash from now on. If that fails, a
    /// second sync would succeed and prove nothing.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.fd).map_err(|error| {
            let (path, error) = (self.path.display(), io::Error::from(error));
            let reason = system_text(&error);
            Error::disk_broken(format!("could not fsync directory \"{path}\": {reason}"))
        })
    }

    /// Makes everything durable that the file system of the directory holds. What an earlier run left here may never
    /// have been synced (`--no-sync`), and the first status already claims what lies before the stream.
    pub async fn sync_file_system(&self) -> Result<()> {
        let failed = |error: io::Error| {
            let (path, reason) = (self.path.display(), system_text(&error));
            Error::disk_broken(format!(
                "could not sync the file system of directory \"{path}\": {reason}"
            ))
        };
        // This can take long where much is unwritten; meanwhile the thread stays answerable.
        let fd = self.fd.try_clone().map_err(failed)?;
        let sync = tokio::task::spawn_blocking(move || rustix::fs::syncfs(fd));
        let result = sync.await.map_err(io::Error::other);
        result
            .and_then(|done| done.map_err(io::Error::from))
            .map_err(failed)
    }

    /// All segment files, in the order in which they decide where streaming starts, the newest last.
    pub fn scan(&self, segment_size: SegmentSize) -> Result<Vec<SegmentFile>> {
        let entries = Dir::read_from(&self.fd).map_err(|error| self.cannot_read(error))?;
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| self.cannot_read(error))?;
            let segment = (entry.file_name().to_str().ok())
                .and_then(|name| Some((name, SegmentFile::from_name(name, segment_size)?)));
            if let Some((name, file)) = segment {
                files.extend(self.measure(name, file)?);
            }
        }
        files.sort_by_key(SegmentFile::rank);
        Ok(files)
    }

    /// Adds how much WAL `file` holds. `None` if it is no file, or has just been removed: archives are cleaned up while
    /// they are received into.
    fn measure(&self, name: &str, file: SegmentFile) -> Result<Option<SegmentFile>> {
        let failed = |error: io::Error| self.failed("stat", name, &error);
        let stat = match rustix::fs::statat(&self.fd, name, AtFlags::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(|error| failed(error.into()))?,
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        let wal_bytes = match (file.encoding, file.stage) {
            (Encoding::Plain, _) => Some(bytes),
            (Encoding::Gzip, Stage::Complete) => Some(self.gzip_wal_bytes(name, bytes)?),
            (Encoding::Gzip, Stage::Partial) | (Encoding::Lz4, _) => None,
        };
        Ok(Some(SegmentFile { wal_bytes, ..file }))
    }

    /// The uncompressed size modulo 2^32 that ends a gzip file (RFC 1952, ISIZE: unsigned, little endian). A file too
    /// short for one holds nothing.
    fn gzip_wal_bytes(&self, name: &str, file_bytes: u64) -> Result<u64> {
        let Some(offset) = file_bytes.checked_sub(4) else {
            return Ok(0);
        };
        let mut trailer = [0; 4];
        (self.open_file(name)?.read_exact_at(&mut trailer, offset))
            .map_err(|error| self.failed("read", name, &error))?;
        Ok(u64::from(u32::from_le_bytes(trailer)))
    }

    /// Checks that the WAL here is the server's, before anything is written next to it: the newest segment that tells
    /// must carry the server's system identifier and segment size. `files` are those of [`Directory::scan`].
    pub fn check_system_identifier(
        &self,
        files: &[SegmentFile],
        expected: u64,
        segment_size: SegmentSize,
    ) -> Result<()> {
        for file in files.iter().rev().filter(|file| file.encoding == Encoding::Plain) {
            let name = file.name(segment_size);
            let mut page = [0; LongHeader::BYTES];
            // A file too short for a header is as silent as a fresh one, which is all zeros.
            match self.open_file(&name)?.read_exact_at(&mut page, 0) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                other => other.map_err(|error| self.failed("read", &name, &error))?,
            }
            // So is one that was cut off: the server was lost within it, and its last field is never zero.
            let is_cut_off = file.stage == Stage::Partial && page[LongHeader::BLOCK_SIZE] == [0; 4];
            if !is_cut_off && page.iter().any(|&byte| byte != 0) {
                return LongHeader::parse(&page)
                    .ok_or_else(|| self.foreign(&name, "its first page has no WAL page header".to_owned()))
                    .and_then(|header| self.check_header(&name, &header, expected, segment_size));
            }
        }
        Ok(())
    }

    fn check_header(&self, name: &str, header: &LongHeader, expected: u64, size: SegmentSize) -> Result<()> {
        if header.system_identifier != expected {
            let found = header.system_identifier;
            let detail = format!("its system identifier is {found}, the server's is {expected}");
            return Err(self.foreign(name, detail));
        }
        if u64::from(header.segment_size) != size.bytes() {
            let (found, expected) = (header.segment_size, size.bytes());
            let detail = format!("its segment size is {found} bytes, the server's is {expected}");
            return Err(self.foreign(name, detail));
        }
        Ok(())
    }

    fn foreign(&self, name: &str, detail: String) -> Error {
        Error::directory(format!(
            "segment file \"{}\" does not belong to this server",
            self.path_of(name)
        ))
        .with_detail(detail)
        .with_hint("Receive from the server that this directory belongs to, or into another directory.")
    }

    /// Renames a file to a name that no tool takes for WAL, which says `why`, never over another file, and returns that
    /// name.
    pub fn set_aside(&self, name: &str, why: &str) -> Result<String> {
        let mut aside = format!("{name}.{why}");
        // Looking first and renaming then is safe under the lock: nobody else makes such names.
        for number in 2.. {
            if !self.holds(&aside)? {
                break;
            }
            aside = format!("{name}.{why}.{number}");
        }
        self.rename(name, &aside)?;
        self.sync()?;
        Ok(aside)
    }

    /// Whether there is anything of that name.
    pub fn holds(&self, name: &str) -> Result<bool> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(self.failed("stat", name, &error.into())),
        }
    }

    /// Creates an empty file for writing, or empties the one that is there.
    pub fn create(&self, name: &str) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, self.file_mode)
            .map(File::from)
            .map_err(|error| self.failed("create", name, &error.into()))
    }

    /// Renames a file within the directory; [`Directory::sync`] makes it durable.
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        rustix::fs::renameat(&self.fd, from, &self.fd, to).map_err(|error| {
            let (from, to, error) = (self.path_of(from), self.path_of(to), io::Error::from(error));
            let reason = system_text(&error);
            Error::of_disk(
                format!("could not rename file \"{from}\" to \"{to}\": {reason}"),
                &error,
            )
        })
    }

    /// Whether somebody has locked it, as far as the kernel tells. Trying to lock it would tell for sure, and refuse a
    /// receiver that starts at that moment.
    pub fn is_in_use(&self) -> bool {
        let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
        rustix::fs::fstat(&self.fd).is_ok_and(|stat| {
            let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
            is_locked(&locks, &format!("{major:02x}:{minor:02x}:{}", stat.st_ino))
        })
    }

    /// The alignment in bytes that direct I/O needs here, for memory, offsets and lengths alike.
    pub fn direct_io_alignment(&self) -> Result<u32> {
        let direct_io = self.direct_io()?.ok_or_else(|| {
            let path = self.path.display();
            Error::unsupported(format!(
                "the file system of directory \"{path}\" does not support direct I/O"
            ))
            .with_hint("Use --buffered to write through the page cache.")
        })?;
        Ok(direct_io.block())
    }

    /// What direct I/O needs here; `None` if there is none.
    pub fn direct_io(&self) -> Result<Option<DirectIo>> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::DIRECT;
        let file = rustix::fs::openat(&self.fd, PROBE_NAME, flags, self.file_mode);
        let statx =
            file.and_then(|file| rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN));
        // The kernel creates the file before it finds that it cannot be opened so.
        let _ = rustix::fs::unlinkat(&self.fd, PROBE_NAME, AtFlags::empty());
        match statx {
            Err(Errno::INVAL) => Ok(None),
            other => {
                let statx = other.map_err(|error| self.failed("create", PROBE_NAME, &error.into()))?;
                Ok(DirectIo::from_statx(&statx))
            }
        }
    }

    /// The path of a file, for messages.
    pub fn path_of(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// A failed operation on one file, `could not VERB file "PATH": REASON`.
    pub fn failed(&self, verb: &str, name: &str, error: &io::Error) -> Error {
        let (path, reason) = (self.path_of(name), system_text(error));
        Error::of_disk(format!("could not {verb} file \"{path}\": {reason}"), error)
    }

    /// Opens a file for reading.
    pub fn open_file(&self, name: &str) -> Result<File> {
        rustix::fs::openat(&self.fd, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map(File::from)
            .map_err(|error| self.failed("open", name, &error.into()))
    }

    fn cannot_read(&self, error: Errno) -> Error {
        let (path, error) = (self.path.display(), io::Error::from(error));
        let reason = system_text(&error);
        Error::of_disk(format!("could not read directory \"{path}\": {reason}"), &error)
    }
}

impl Stored for Directory {
    type Reader = File;

    /// What an earlier run could not write, through the page cache, may still lie there, and not on the disk: a sync that
    /// failed left it behind as if it were written, and the next one would succeed. So the disk is read.
    fn open(&self, name: &str) -> Result<File> {
        let file = self.open_file(name)?;
        // A file system that cannot forget has nothing to forget.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        Ok(file)
    }

    fn failed_read(&self, name: &str, error: &io::Error) -> Error {
        self.failed("read", name, error)
    }

    fn damaged(&self, name: &str, fault: &Fault) {
        let path = self.path_of(name);
        warn!("segment file \"{path}\" is damaged: {fault}");
    }
}

/// For operations on files in it.
impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn lock(path: &Path, fd: &OwnedFd) -> Result<()> {
    let path = path.display();
    rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
        Errno::WOULDBLOCK => Error::directory(format!("directory \"{path}\" is in use by another walring"))
            .with_hint("Stop the other one, or receive into another directory."),
        other => {
            let reason = system_text(&other.into());
            Error::directory(format!("could not lock directory \"{path}\": {reason}"))
        }
    })
}

/// Whether `/proc/locks` has a flock on the file, given as `MAJOR:MINOR:INODE`.
fn is_locked(locks: &str, file: &str) -> bool {
    locks.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some("FLOCK") && fields.any(|field| field == file)
    })
}

/// The alignments in bytes that direct I/O needs; `None` where the kernel does not tell: Linux before 6.1, and some
/// file systems since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectIo {
    /// Of memory.
    pub memory: Option<u32>,
    /// Of offsets and lengths.
    pub offset: Option<u32>,
}

impl DirectIo {
    /// `None` if the kernel says that there is no direct I/O on this file.
    fn from_statx(statx: &Statx) -> Option<DirectIo> {
        if !StatxFlags::from_bits_retain(statx.stx_mask).contains(StatxFlags::DIOALIGN) {
            return Some(DirectIo {
                memory: None,
                offset: None,
            });
        }
        let (memory, offset) = (statx.stx_dio_mem_align, statx.stx_dio_offset_align);
        (memory.max(offset) != 0).then_some(DirectIo {
            memory: Some(memory),
            offset: Some(offset),
        })
    }

    /// The unit of writes: good for both, and not smaller than what disks like.
    pub fn block(self) -> u32 {
        let needed = self.memory.max(self.offset).unwrap_or(0);
        needed.max(LEAST_ALIGNMENT)
    }
}

/// `could not open directory`, as pg_receivewal words it.
pub fn cannot_open(path: &Path, error: io::Error) -> Error {
    let (path, reason) = (path.display(), system_text(&error));
    Error::directory(format!("could not open directory \"{path}\": {reason}"))
}

/// What the long header of a segment's first page says (PostgreSQL `XLogLongPageHeaderData`), in this machine's byte
/// order, which is the order of every server that runs on little endian machines.
struct LongHeader {
    system_identifier: u64,
    segment_size: u32,
}

impl LongHeader {
    const BYTES: usize = 40;
    const BLOCK_SIZE: Range<usize> = 36..40;
    const LONG_HEADER_FLAG: u16 = 0x0002;

    fn parse(page: &[u8; LongHeader::BYTES]) -> Option<LongHeader> {
        let info = u16::from_le_bytes(page[2..4].try_into().ok()?);
        let header = LongHeader {
            system_identifier: u64::from_le_bytes(page[24..32].try_into().ok()?),
            segment_size: u32::from_le_bytes(page[32..36].try_into().ok()?),
        };
        (info & LongHeader::LONG_HEADER_FLAG != 0).then_some(header)
    }
}

#[cfg(test)]
mod tests;
