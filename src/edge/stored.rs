//! Stored segments, as `verify` and `inspect` find them: in directories or named one by one, and read only.
//!
//! The directory is not locked and may belong to a running receiver: a file that has just got its final
//! name is looked up under that, see [`Segment::open`].

mod examine;
mod format;
mod index;
mod listing;

pub use self::examine::{Decoded, Examined, Examiner};
pub use self::format::{Format, page_header};
pub use self::index::Index;
pub use self::listing::{Misfit, Segment, Stored};

use crate::core::lsn::Lsn;
use crate::error::{Error, system_text};
use rustix::fs::Advice;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How much is read at once: it stays in the processor's cache until it is decoded.
pub const CHUNK: usize = 128 << 10;

/// What was read. It begins with a page of memory: the kernel copies twice as fast to there as to just
/// anywhere.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    /// Bytes before the first page.
    skew: usize,
    filled: usize,
}

impl Buffer {
    const ALIGNMENT: usize = 4096;

    /// An empty buffer.
    pub fn new() -> Buffer {
        let bytes = vec![0; CHUNK + Buffer::ALIGNMENT];
        let skew = bytes
            .as_ptr()
            .align_offset(Buffer::ALIGNMENT)
            .min(Buffer::ALIGNMENT);
        Buffer {
            bytes,
            skew,
            filled: 0,
        }
    }
}

impl Default for Buffer {
    fn default() -> Buffer {
        Buffer::new()
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.skew..][..self.filled]
    }
}

/// An open segment file.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: File,
    /// Position of the file's first byte.
    start: Lsn,
}

impl Reader {
    /// Opens a file whose first byte is at `start` in the log, for reading from there on.
    fn open(path: &Path, start: Lsn) -> io::Result<Reader> {
        let file = File::open(path)?;
        // Only advice: reading goes well without.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        Ok(Reader {
            path: path.to_owned(),
            file,
            start,
        })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads up to `limit` bytes at `lsn` into the buffer, but no more than [`CHUNK`]: nothing at the end of the file.
    pub fn read(&self, lsn: Lsn, limit: usize, buffer: &mut Buffer) -> io::Result<()> {
        let limit = limit.min(CHUNK);
        buffer.filled = 0;
        while buffer.filled < limit {
            let offset = lsn.bytes_since(self.start) + buffer.filled as u64;
            let room = &mut buffer.bytes[buffer.skew..][buffer.filled..limit];
            match self.file.read_at(room, offset) {
                Ok(0) => break,
                Ok(count) => buffer.filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Bytes in the file now, and when it was changed last.
    pub fn state(&self) -> io::Result<(u64, i64, i64)> {
        use std::os::unix::fs::MetadataExt;
        let metadata = self.file.metadata()?;
        Ok((metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
    }

    /// The first position behind the last byte that is not zero, within `size` bytes.
    pub fn content_end(&self, size: u64, buffer: &mut Buffer) -> io::Result<Lsn> {
        let mut end = self.state()?.0.min(size);
        while end > 0 {
            let from = end.saturating_sub(CHUNK as u64);
            self.read(self.start.advanced_by(from), (end - from) as usize, buffer)?;
            if let Some(last) = last_content(buffer) {
                return Ok(self.start.advanced_by(from + last as u64 + 1));
            }
            end = from;
        }
        Ok(self.start)
    }
}

/// Where the last byte lies that is not zero.
fn last_content(bytes: &[u8]) -> Option<usize> {
    const PIECE: usize = 512;
    let zeros = bytes
        .rchunks(PIECE)
        .take_while(|piece| **piece == [0; PIECE][..piece.len()]);
    let rest = bytes.len() - zeros.map(<[u8]>::len).sum::<usize>();
    bytes[..rest].iter().rposition(|&byte| byte != 0)
}

/// `could not VERB file "PATH": REASON`.
pub fn failed(verb: &str, path: &Path, error: &io::Error) -> Error {
    let (path, reason) = (path.display(), system_text(error));
    Error::disk(format!("could not {verb} file \"{path}\": {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_content_is_found_at_every_place() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("x");
        let start = Lsn(1 << 24);
        let size = 2 * CHUNK + 100;
        for end in [
            0,
            1,
            511,
            512,
            513,
            CHUNK,
            CHUNK + 99,
            CHUNK + 100,
            CHUNK + 101,
            size,
        ] {
            let mut content = vec![0; size];
            if end > 0 {
                content[end - 1] = 7;
            }
            std::fs::write(&path, &content).unwrap();
            let reader = Reader::open(&path, start).unwrap();
            let found = reader.content_end(size as u64, &mut Buffer::new()).unwrap();
            assert_eq!(found.bytes_since(start), end as u64);
        }
    }
}
