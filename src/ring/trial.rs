//! Trying out on the very disk how long a durable write takes.
//!
//! Each trial has a file of its own with zeros really written, as the spare segment has them, and
//! writes to it with the operations of the data path. A trial's file is locked while it is used, so
//! that one that a killed process left can be told from one in use.

use std::fs::{File as StdFile, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;
use tokio_uring::buf::fixed::FixedBuf;
use tokio_uring::fs::File;

use super::buffer::Slots;
use super::durable::{self, Method};
use super::op;
use super::stop::Stop;
use crate::core::gather::QUICK_FLUSH;

/// Prefix of a trial's file name: no tool takes it for a segment.
pub const PREFIX: &str = ".walring-probe-";

/// A way to have bytes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As `pg_receivewal --synchronous`: a write through the page cache, then fsync.
    Standard,
    /// As walring: past the page cache.
    Direct(Method),
    /// As walring with `--buffered`: one durable write through the page cache.
    Buffered,
}

/// A file that durable writes are tried out on; removed when it goes out of scope.
pub struct Trial {
    way: Way,
    file: Rc<File>,
    /// Holds the lock. Not the ring's file: that the kernel lets go of only some time after a process was killed.
    _lock: StdFile,
    path: PathBuf,
    /// Bytes in the file.
    size: u64,
    /// Where the next write goes.
    position: u64,
    /// Whether the last write was quick: then the data path waits for the next one in place.
    quick: bool,
}

impl Trial {
    /// Creates a file of `size` bytes in the directory, writes zeros to all of it and makes it
    /// durable. `Ok(None)`: the operator wants the end.
    pub async fn prepare(
        directory: &Path,
        way: Way,
        size: u64,
        slots: &mut Slots,
        stop: &Stop,
    ) -> io::Result<Option<Trial>> {
        // Processes of two containers may have the same number.
        let name = format!("{PREFIX}{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = directory.join(name);
        let created = create(&path, way, size).inspect_err(|error| {
            // Without direct I/O the kernel creates the file before it finds that out.
            if error.kind() != io::ErrorKind::AlreadyExists {
                let _ = std::fs::remove_file(&path);
            }
        });
        let (file, lock) = created?;
        let trial = Trial {
            way,
            file: Rc::new(File::from_std(file)),
            _lock: lock,
            path,
            size,
            position: 0,
            quick: false,
        };
        let finished = trial.zero(slots, stop).await?;
        Ok(finished.then_some(trial))
    }

    /// How it writes.
    pub fn way(&self) -> Way {
        self.way
    }

    /// Writes the first `length` bytes of the buffer durably behind those written last, from the
    /// file's start again when they do not fit. How long it took, and the buffer.
    pub async fn write(&mut self, buffer: FixedBuf, length: usize) -> (io::Result<Duration>, FixedBuf) {
        if self.position + length as u64 > self.size {
            self.position = 0;
        }
        let offset = self.position;
        self.position += length as u64;
        let method = match self.way {
            Way::Direct(method) => method,
            Way::Standard | Way::Buffered => Method::Dsync,
        };
        let began = Instant::now();
        let (result, buffer) = if self.way == Way::Standard {
            (write_standard(&self.file, &buffer[..length], offset), buffer)
        } else if self.quick {
            let result = durable::write_in_place(&self.file, &buffer[..length], offset, method);
            (result.map_err(|failed| failed.error), buffer)
        } else {
            let write = durable::write(&self.file, buffer, 0..length, offset, Some(method));
            let (result, (buffer, _)) = write.await;
            (result.map_err(|failed| failed.error), buffer)
        };
        let took = began.elapsed();
        self.quick = took <= QUICK_FLUSH;
        let whole = result.and_then(|count| match count as usize == length {
            true => Ok(took),
            false => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        });
        (whole, buffer)
    }

    /// True when all is zero and durable; false if the operator wants the end.
    async fn zero(&self, slots: &mut Slots, stop: &Stop) -> io::Result<bool> {
        let mut zeroed = 0;
        while zeroed < self.size {
            if stop.is_requested() {
                return Ok(false);
            }
            let Some(zeros) = slots.take_zeros() else {
                return Err(io::ErrorKind::ResourceBusy.into());
            };
            let step = (self.size - zeroed).min(Slots::ZEROS as u64) as usize;
            let (result, (zeros, _)) = op::write(&self.file, zeros, 0..step, zeroed, false).await;
            slots.put_zeros(zeros);
            match result? {
                0 => return Err(io::Error::from_raw_os_error(libc::ENOSPC)),
                count => zeroed += u64::from(count),
            }
        }
        self.file.sync_all().await?;
        Ok(true)
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // If it stays, the next trial removes it.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Creates the file, allocated in full, and opens it once more for its lock.
fn create(path: &Path, way: Way, size: u64) -> io::Result<(StdFile, StdFile)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    if matches!(way, Way::Direct(_)) {
        options.custom_flags(libc::O_DIRECT);
    }
    let file = options.open(path)?;
    // File systems without locks lose nothing but the leftovers' removal.
    let lock = StdFile::open(path)?;
    let _ = lock.try_lock();
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size) {
        Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(size)?,
        other => other?,
    }
    Ok((file, lock))
}

/// One call to write and one to sync, in place as pg_receivewal makes them.
fn write_standard(file: &File, bytes: &[u8], offset: u64) -> io::Result<u32> {
    let count = op::write_in_place(file, bytes, offset, false)?;
    rustix::fs::fsync(op::descriptor(file))?;
    Ok(count)
}

/// Removes the files of trials that a killed process left in the directory.
pub fn remove_leftovers(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) || !entry.file_type()?.is_file() {
            continue;
        }
        let Ok(file) = StdFile::open(entry.path()) else {
            continue;
        };
        if !matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            // It may be gone by now, or belong to somebody else: that is no reason to stop.
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_uses_is_left_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let used = path(".walring-probe-1-0");
        let file = StdFile::create(&used).unwrap();
        file.lock().unwrap();
        for name in [
            ".walring-probe-2-0",
            ".walring-spare-0",
            "000000010000000000000001",
        ] {
            StdFile::create(path(name)).unwrap();
        }
        remove_leftovers(directory.path()).unwrap();
        let names = || std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(names(), 3);
        assert!(used.exists() && !path(".walring-probe-2-0").exists());
        drop(file);
        remove_leftovers(directory.path()).unwrap();
        assert_eq!(names(), 2);
    }
}
