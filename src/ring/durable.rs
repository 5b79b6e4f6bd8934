//! A durable write, by either of two methods.
//!
//! Which of them is quicker depends on the disk. One write that is durable when it ends (RWF_DSYNC)
//! lets the kernel use FUA, where the disk has it; on some disks FUA is slower than a write and a
//! flush. A sync behind a write is issued when the write has ended, never linked to it: a short write
//! would be followed by a sync that covers too little, and be taken for durable.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio_uring::buf::fixed::FixedBuf;
use tokio_uring::fs::File;

use super::op;

/// What failed, as a verb for messages, and why. Where a write is durable by itself, its flush is part of it.
#[derive(Debug)]
pub struct Failed {
    /// What stands between "could not" and "WAL file".
    pub verb: &'static str,
    /// The system's word.
    pub error: io::Error,
}

impl Failed {
    /// A write.
    pub fn write(error: io::Error) -> Failed {
        Failed { verb: "write", error }
    }

    /// A sync of a file.
    pub fn sync(error: io::Error) -> Failed {
        Failed { verb: "fsync", error }
    }

    /// A change of names.
    pub fn rename(error: io::Error) -> Failed {
        Failed {
            verb: "rename",
            error,
        }
    }

    /// The sync of a directory that makes a change of names durable.
    pub fn sync_of_directory(error: io::Error) -> Failed {
        Failed {
            verb: "fsync the directory of",
            error,
        }
    }
}

/// How a durable write is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// One write that is durable when it ends (RWF_DSYNC).
    Dsync,
    /// A write, then a sync of the file's data.
    Fdatasync,
}

/// A write of a part of a slot, durable when it ends if it is to be. It owns what the kernel uses.
pub struct Write {
    step: Step,
    /// Bytes to write.
    length: usize,
    /// Whether the write is to be followed by a sync.
    then_sync: bool,
}

enum Step {
    Writing(op::Write),
    /// All is written; the buffer waits for the file to be synced.
    Syncing(op::Sync, FixedBuf),
    Ended,
}

/// Writes a range of a buffer at `offset` of the file; with a method, durably.
pub fn write(
    file: &Rc<File>,
    buffer: FixedBuf,
    range: Range<usize>,
    offset: u64,
    method: Option<Method>,
) -> Write {
    let length = range.len();
    let write = op::write(file, buffer, range, offset, method == Some(Method::Dsync));
    Write {
        step: Step::Writing(write),
        length,
        then_sync: method == Some(Method::Fdatasync),
    }
}

/// Writes durably without the ring, and waits for it: the number of bytes written. As with [`Write`],
/// fewer than asked for are not durable yet.
pub fn write_in_place(file: &File, bytes: &[u8], offset: u64, method: Method) -> Result<u32, Failed> {
    let written = op::write_in_place(file, bytes, offset, method == Method::Dsync);
    let count = written.map_err(Failed::write)?;
    if method == Method::Fdatasync && count as usize == bytes.len() {
        let synced = rustix::fs::fdatasync(op::descriptor(file));
        synced.map_err(|error| Failed::sync(error.into()))?;
    }
    Ok(count)
}

/// The number of bytes written, and what the write owned. Fewer than asked for are not durable yet,
/// whatever the method: the rest must be written durably to the same file.
impl Future for Write {
    type Output = (Result<u32, Failed>, (FixedBuf, Rc<File>));

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let write = &mut *self;
        loop {
            match std::mem::replace(&mut write.step, Step::Ended) {
                Step::Writing(mut running) => {
                    let Poll::Ready((result, (buffer, file))) = Pin::new(&mut running).poll(cx) else {
                        write.step = Step::Writing(running);
                        return Poll::Pending;
                    };
                    let is_complete = matches!(result, Ok(count) if count as usize == write.length);
                    if !(write.then_sync && is_complete) {
                        return Poll::Ready((result.map_err(Failed::write), (buffer, file)));
                    }
                    write.step = Step::Syncing(op::sync_data(&file), buffer);
                }
                Step::Syncing(mut running, buffer) => {
                    let Poll::Ready((result, file)) = Pin::new(&mut running).poll(cx) else {
                        write.step = Step::Syncing(running, buffer);
                        return Poll::Pending;
                    };
                    let result = result.map(|_| write.length as u32).map_err(Failed::sync);
                    return Poll::Ready((result, (buffer, file)));
                }
                Step::Ended => panic!("a write that has ended was polled again"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::writes::Slot;
    use crate::ring::buffer::Slots;
    use crate::ring::setup;
    use rustix::pipe::PipeFlags;
    use std::fs::OpenOptions;

    /// What the write of the whole slot to the file gives, each way.
    fn written(file: impl Fn() -> std::fs::File, length: usize, method: Method) -> [Result<u32, Failed>; 2] {
        setup::start().unwrap().block_on(async {
            let mut slots = Slots::register(1, length).unwrap();
            let buffer = slots.take(Slot(0));
            let target = Rc::new(File::from_std(file()));
            let (by_ring, (buffer, _)) = write(&target, buffer, 0..length, 0, Some(method)).await;
            let target = File::from_std(file());
            let in_place = write_in_place(&target, &buffer[..length], 0, method);
            slots.put(Slot(0), buffer);
            [by_ring, in_place]
        })
    }

    /// Takes all that is written, and cannot be synced.
    fn not_to_be_synced() -> std::fs::File {
        OpenOptions::new().write(true).open("/dev/null").unwrap()
    }

    #[test]
    fn a_complete_write_is_followed_by_a_sync_whose_failure_is_the_writes() {
        for result in written(not_to_be_synced, 4096, Method::Dsync) {
            assert_eq!(result.unwrap(), 4096);
        }
        for result in written(not_to_be_synced, 4096, Method::Fdatasync) {
            let failed = result.unwrap_err();
            assert_eq!(failed.verb, "fsync");
            assert_eq!(failed.error.raw_os_error(), Some(libc::EINVAL));
        }
    }

    #[test]
    fn a_short_write_is_reported_without_a_sync() {
        let (_reader, writer) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK).unwrap();
        let writer = std::fs::File::from(writer);
        let pipe = || writer.try_clone().unwrap();
        // Larger than a pipe; its sync would fail.
        let [by_ring, _] = written(pipe, 1 << 20, Method::Fdatasync);
        let count = by_ring.unwrap();
        assert!(count > 0 && count < 1 << 20, "{count}");
    }

    #[test]
    fn both_methods_write_the_same_bytes() {
        let directory = tempfile::tempdir().unwrap();
        for method in [Method::Dsync, Method::Fdatasync] {
            let path = directory.path().join("file");
            std::fs::write(&path, [1; 3 * 4096]).unwrap();
            let file = || OpenOptions::new().write(true).open(&path).unwrap();
            for result in written(file, 2 * 4096, method) {
                assert_eq!(result.unwrap(), 2 * 4096);
            }
            let content = std::fs::read(&path).unwrap();
            assert!(content[..2 * 4096].iter().all(|&byte| byte == 0));
            assert_eq!(content[2 * 4096..], [1; 4096]);
        }
    }
}
