//! The operations of the data path.
//!
//! Each is a plain struct without an allocation, and owns what the kernel uses until it has ended:
//! the buffer and the file. Dropping one early leaks neither: the runtime keeps both until the
//! kernel is done.

use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::rc::Rc;
use std::time::Duration;

use super::tls::Sealed;
use crate::core::spread::{HEADS_LENGTH, MOST_HEADS, Spread};
use io_uring::{cqueue, opcode, squeue, types};
use rustix::io::ReadWriteFlags;
use tokio_uring::buf::IoBuf;
use tokio_uring::buf::fixed::FixedBuf;
use tokio_uring::fs::File;
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

/// An operation in flight that gives back what it owned.
pub type InFlight<D> = InFlightOneshot<D, GiveBack<D>>;

/// Turns a completion into its result and what the operation owned.
#[derive(Debug)]
pub struct GiveBack<D>(PhantomData<fn() -> D>);

impl<D: 'static> OneshotOutputTransform for GiveBack<D> {
    type Output = (io::Result<u32>, D);
    type StoredData = D;

    fn transform_oneshot_output(self, data: D, cqe: cqueue::Entry) -> Self::Output {
        let result = u32::try_from(cqe.result()).map_err(|_| io::Error::from_raw_os_error(-cqe.result()));
        (result, data)
    }
}

/// Queues an operation.
///
/// # Safety
/// What `entry` points to, `data` owns and nothing else uses until the operation has ended; it stays where it is when
/// `data` moves.
unsafe fn submit<D: 'static>(data: D, entry: squeue::Entry) -> InFlight<D> {
    UnsubmittedOneshot::new(data, GiveBack(PhantomData), entry).submit()
}

/// The file's descriptor, for calls that the ring does not offer.
pub fn descriptor(file: &File) -> BorrowedFd<'_> {
    // SAFETY: the file owns the descriptor and outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) }
}

/// What a read of the socket owns.
pub struct Reading {
    /// The slot that is read into, or that waits for what will be opened.
    pub buffer: FixedBuf,
    /// The heads of a spread read, and what describes it to the kernel.
    pub scratch: Box<Scratch>,
    /// What TLS records are read into instead of the slot.
    pub sealed: Option<Sealed>,
    /// Keeps the socket open.
    _socket: Rc<OwnedFd>,
}

impl Reading {
    fn of(socket: &Rc<OwnedFd>, buffer: FixedBuf, scratch: Box<Scratch>, sealed: Option<Sealed>) -> Reading {
        Reading {
            buffer,
            scratch,
            sealed,
            _socket: Rc::clone(socket),
        }
    }
}

/// A read of the socket.
pub type Receive = InFlight<Reading>;

/// The memory of a spread read beside the slot. It is used again for each.
pub struct Scratch {
    /// Where the heads are read to.
    pub heads: [u8; HEADS_LENGTH],
    pieces: [libc::iovec; 2 * MOST_HEADS + 1],
    message: libc::msghdr,
}

impl Scratch {
    /// Empty.
    pub fn new() -> Box<Scratch> {
        let piece = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        // SAFETY: all zeros is a valid message header: no name, no pieces, no control data.
        let message = unsafe { std::mem::zeroed() };
        Box::new(Scratch {
            heads: [0; HEADS_LENGTH],
            pieces: [piece; 2 * MOST_HEADS + 1],
            message,
        })
    }
}

/// Reads from the socket into a range of a slot; `wait`: until the range is full, or the read is
/// withdrawn, or the stream ends.
pub fn receive(
    socket: &Rc<OwnedFd>,
    mut buffer: FixedBuf,
    scratch: Box<Scratch>,
    range: Range<usize>,
    wait: bool,
) -> Receive {
    let index = buffer.buf_index();
    let target = &mut buffer[range];
    let (start, length) = (target.as_mut_ptr(), target.len() as u32);
    let fd = types::Fd(socket.as_raw_fd());
    let entry = if wait {
        opcode::Recv::new(fd, start, length)
            .flags(libc::MSG_WAITALL)
            .build()
    } else {
        opcode::ReadFixed::new(fd, start, length, index).build()
    };
    let reading = Reading::of(socket, buffer, scratch, None);
    // SAFETY: the range lies within the slot, which the operation owns and which never moves.
    unsafe { submit(reading, entry) }
}

/// As [`receive`], into the pieces of a slot and the heads between them.
pub fn receive_spread(
    socket: &Rc<OwnedFd>,
    mut buffer: FixedBuf,
    mut scratch: Box<Scratch>,
    spread: Spread,
    wait: bool,
) -> Receive {
    let mut used = 0;
    let Scratch {
        heads,
        pieces,
        message,
    } = &mut *scratch;
    let mut add = |target: &mut [u8]| {
        pieces[used] = libc::iovec {
            iov_base: target.as_mut_ptr().cast(),
            iov_len: target.len(),
        };
        used += 1;
    };
    for (number, piece) in spread.pieces().enumerate() {
        if number > 0 {
            add(&mut heads[Spread::head_before(number)]);
        }
        add(&mut buffer[piece]);
    }
    message.msg_iov = pieces.as_mut_ptr();
    message.msg_iovlen = used;
    let fd = types::Fd(socket.as_raw_fd());
    let flags = if wait { libc::MSG_WAITALL as u32 } else { 0 };
    let entry = opcode::RecvMsg::new(fd, message).flags(flags).build();
    let reading = Reading::of(socket, buffer, scratch, None);
    // SAFETY: the pieces lie within the slot and the heads, and the message within the scratch memory; the operation owns
    // both, the slot never moves, and the memory is boxed.
    unsafe { submit(reading, entry) }
}

/// Reads TLS records from the socket into memory of their own; the slot only waits.
pub fn receive_sealed(
    socket: &Rc<OwnedFd>,
    buffer: FixedBuf,
    scratch: Box<Scratch>,
    mut sealed: Sealed,
) -> Receive {
    let space = sealed.space();
    let (start, length) = (space.as_mut_ptr(), space.len() as u32);
    let fd = types::Fd(socket.as_raw_fd());
    let entry = opcode::Recv::new(fd, start, length).build();
    let reading = Reading::of(socket, buffer, scratch, Some(sealed));
    // SAFETY: the space lies within the memory for records, which the operation owns and which is boxed.
    unsafe { submit(reading, entry) }
}

/// Sets how many bytes must have arrived before a waiting read is woken (SO_RCVLOWAT). A socket that
/// does not take it wakes for less, which is slower and nothing else.
pub fn set_low_water(socket: &OwnedFd, bytes: libc::c_int) {
    let length = size_of_val(&bytes) as libc::socklen_t;
    // SAFETY: the value is an int, as the option wants, and lives across the call.
    unsafe {
        let value = std::ptr::from_ref(&bytes).cast();
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            value,
            length,
        );
    }
}

/// Asks the kernel to withdraw what is in flight on the socket: the read, and a send that waits there, too. By the
/// socket alone it would take one of them, and not say which. They report what became of them.
pub fn cancel(socket: &Rc<OwnedFd>) -> InFlight<Rc<OwnedFd>> {
    let builder = types::CancelBuilder::fd(types::Fd(socket.as_raw_fd())).all();
    let entry = opcode::AsyncCancel2::new(builder).build();
    // SAFETY: it points to nothing; the socket stays open.
    unsafe { submit(Rc::clone(socket), entry) }
}

/// What a read says that brought nothing, and is not at an end.
pub fn nothing_yet() -> io::Error {
    io::Error::from_raw_os_error(libc::EAGAIN)
}

/// Whether an operation of the socket was withdrawn, brought nothing yet, or was interrupted by a signal: nothing is wrong.
pub fn is_interruption(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECANCELED | libc::EINTR | libc::EAGAIN)
    )
}

/// A write of a part of a slot.
pub type Write = InFlight<(FixedBuf, Rc<File>)>;

/// Writes a range of a buffer at `offset` of the file; if `durable`, it is when the write ends.
pub fn write(file: &Rc<File>, buffer: FixedBuf, range: Range<usize>, offset: u64, durable: bool) -> Write {
    assert!(range.start <= range.end && range.end <= buffer.bytes_total());
    // SAFETY: the range lies within the buffer, as asserted.
    let start = unsafe { buffer.stable_ptr().add(range.start) };
    let fd = types::Fd(file.as_raw_fd());
    let flags = if durable { libc::RWF_DSYNC } else { 0 };
    let entry = opcode::WriteFixed::new(fd, start, range.len() as u32, buffer.buf_index())
        .offset(offset)
        .rw_flags(flags)
        .build();
    // SAFETY: as asserted, and the operation owns the buffer, whose memory never moves.
    unsafe { submit((buffer, Rc::clone(file)), entry) }
}

/// Writes without the ring, and waits for it: the number of bytes written. If `durable`, they are.
pub fn write_in_place(file: &File, bytes: &[u8], offset: u64, durable: bool) -> io::Result<u32> {
    let flags = match durable {
        true => ReadWriteFlags::DSYNC,
        false => ReadWriteFlags::empty(),
    };
    let count = rustix::io::pwritev2(descriptor(file), &[IoSlice::new(bytes)], offset, flags)?;
    u32::try_from(count).map_err(io::Error::other)
}

/// A sync of a file's data, and of the metadata without which the data cannot be read.
pub type Sync = InFlight<Rc<File>>;

/// Makes durable what was written to the file.
pub fn sync_data(file: &Rc<File>) -> Sync {
    let fd = types::Fd(file.as_raw_fd());
    let entry = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build();
    // SAFETY: it points to nothing; the file stays open.
    unsafe { submit(Rc::clone(file), entry) }
}

/// A send of bytes that the socket did not take at once.
pub type Send = InFlight<(Vec<u8>, Rc<OwnedFd>)>;

/// Sends bytes.
pub fn send(socket: &Rc<OwnedFd>, bytes: Vec<u8>) -> Send {
    let fd = types::Fd(socket.as_raw_fd());
    let entry = opcode::Send::new(fd, bytes.as_ptr(), bytes.len() as u32).build();
    // SAFETY: the operation owns the vector, whose bytes stay where they are when it moves.
    unsafe { submit((bytes, Rc::clone(socket)), entry) }
}

/// A timer.
pub type Timeout = InFlight<Box<types::Timespec>>;

/// Ends after `delay`, with the resolution of the kernel's high-resolution timers.
pub fn timeout(delay: Duration) -> Timeout {
    let delay = Box::new(
        types::Timespec::new()
            .sec(delay.as_secs())
            .nsec(delay.subsec_nanos()),
    );
    let entry = opcode::Timeout::new(std::ptr::from_ref(&*delay)).build();
    // SAFETY: the operation owns the box, whose content stays where it is when it moves.
    unsafe { submit(delay, entry) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::writes::Slot;
    use crate::ring::setup;

    #[test]
    #[should_panic(expected = "range.start <= range.end")]
    fn nothing_is_written_from_outside_of_a_slot() {
        let file = std::fs::File::open("/dev/null").unwrap();
        setup::start().unwrap().block_on(async {
            let mut slots = setup::register_slots(4096).unwrap();
            let backwards = Range {
                start: usize::MAX,
                end: 0,
            };
            drop(write(
                &Rc::new(File::from_std(file)),
                slots.take(Slot(0)),
                backwards,
                0,
                false,
            ));
        });
    }
}
