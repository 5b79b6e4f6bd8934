//! What a disk was asked for, in a file: every write and discard with its content, every flush with its begin and end.
//!
//! Times are those of CLOCK_MONOTONIC in nanoseconds, so that other processes can compare theirs. What the disk
//! confirms is in the file before it is confirmed.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Five numbers of eight bytes, little-endian: what it is, when it came, when it was or will be complete, and
/// two that depend on what it is.
pub const HEAD: usize = 40;

/// The content follows; the numbers are its offset and length.
pub const WRITE: u64 = 1;

/// The same of zeros, and no content follows.
pub const ZEROS: u64 = 2;

/// The first number is that of the flush.
pub const FLUSH_BEGAN: u64 = 3;

/// Likewise.
pub const FLUSH_ENDED: u64 = 4;

/// Writes the file.
#[derive(Debug)]
pub struct Log(File);

impl Log {
    /// An empty one; the file must not be there yet.
    pub fn create(path: &Path) -> io::Result<Log> {
        File::create_new(path).map(Log)
    }

    /// A write that is complete after `takes`.
    pub fn write(&mut self, data: &[u8], offset: u64, takes: Duration) -> io::Result<()> {
        if data.iter().all(|&byte| byte == 0) {
            return self.zeros(offset, data.len() as u64, takes);
        }
        self.head(WRITE, takes, offset, data.len() as u64)?;
        self.0.write_all(data)
    }

    /// A write of zeros, or a discard.
    pub fn zeros(&mut self, offset: u64, length: u64, takes: Duration) -> io::Result<()> {
        self.head(ZEROS, takes, offset, length)
    }

    /// A flush begins.
    pub fn flush_began(&mut self, number: u64) -> io::Result<()> {
        self.head(FLUSH_BEGAN, Duration::ZERO, number, 0)
    }

    /// A flush has ended.
    pub fn flush_ended(&mut self, number: u64) -> io::Result<()> {
        self.head(FLUSH_ENDED, Duration::ZERO, number, 0)
    }

    fn head(&mut self, what: u64, takes: Duration, first: u64, second: u64) -> io::Result<()> {
        let now = now_ns();
        let complete = now + takes.as_nanos() as u64;
        let numbers = [what, now, complete, first, second];
        self.0.write_all(&numbers.map(u64::to_le_bytes).concat())
    }
}

/// CLOCK_MONOTONIC.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
