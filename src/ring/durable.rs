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
pub fn write_in_place(file: &File, bytes: &[u8], offset: u64, method: Method) -> io::Result<u32> {
    let count = op::write_in_place(file, bytes, offset, method == Method::Dsync)?;
    if method == Method::Fdatasync && count as usize == bytes.len() {
        rustix::fs::fdatasync(op::descriptor(file))?;
    }
    Ok(count)
}

/// The number of bytes written, and what the write owned. Fewer than asked for are not durable yet,
/// whatever the method: the rest must be written durably to the same file.
impl Future for Write {
    type Output = (io::Result<u32>, (FixedBuf, Rc<File>));

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
                        return Poll::Ready((result, (buffer, file)));
                    }
                    write.step = Step::Syncing(op::sync_data(&file), buffer);
                }
                Step::Syncing(mut running, buffer) => {
                    let Poll::Ready((result, file)) = Pin::new(&mut running).poll(cx) else {
                        write.step = Step::Syncing(running, buffer);
                        return Poll::Pending;
                    };
                    let result = result.map(|_| write.length as u32);
                    return Poll::Ready((result, (buffer, file)));
                }
                Step::Ended => panic!("a write that has ended was polled again"),
            }
        }
    }
}
