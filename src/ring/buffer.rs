//! Page-aligned memory, registered with the ring once: the slots.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;

use tokio_uring::buf::fixed::{FixedBuf, FixedBufRegistry};
use tokio_uring::buf::{IoBuf, IoBufMut};

use crate::core::writes::Slot;

/// Zeroed memory at an aligned address that never moves.
#[derive(Debug)]
struct AlignedBuffer {
    start: NonNull<u8>,
    layout: Layout,
}

impl AlignedBuffer {
    /// `alignment` is a power of two.
    fn new(length: usize, alignment: usize) -> io::Result<AlignedBuffer> {
        let layout = Layout::from_size_align(length.max(alignment), alignment).map_err(io::Error::other)?;
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) });
        let start = start.unwrap_or_else(|| handle_alloc_error(layout));
        Ok(AlignedBuffer { start, layout })
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc_zeroed` with this layout and is freed here only.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

// SAFETY: the memory is owned, does not move, and is initialised in full from the beginning.
unsafe impl IoBuf for AlignedBuffer {
    fn stable_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.layout.size()
    }

    fn bytes_total(&self) -> usize {
        self.layout.size()
    }
}

// SAFETY: as above; nothing is ever uninitialised, so there is nothing to note.
unsafe impl IoBufMut for AlignedBuffer {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    unsafe fn set_init(&mut self, _: usize) {}
}

/// The slots, for socket and disk alike, and one small buffer of zeros. A slot is here while it
/// belongs to the core, and away while an operation has it.
#[derive(Debug)]
pub struct Slots {
    slots: Vec<Option<FixedBuf>>,
    zeros: Option<FixedBuf>,
}

impl Slots {
    /// Bytes that one write of zeros takes.
    pub const ZEROS: usize = 128 << 10;

    /// Allocates `count` slots of `length` bytes at multiples of `alignment`, which is the disk's, and
    /// registers them with the ring of this thread.
    pub fn register(count: usize, length: usize, alignment: usize) -> io::Result<Slots> {
        let lengths = std::iter::repeat_n(length, count).chain([Slots::ZEROS]);
        let buffers = lengths.map(|length| AlignedBuffer::new(length, alignment));
        let buffers = buffers.collect::<io::Result<Vec<_>>>()?;
        let registry = FixedBufRegistry::new(buffers);
        registry.register()?;
        let slots = (0..count).map(|index| registry.check_out(index)).collect();
        Ok(Slots {
            slots,
            zeros: registry.check_out(count),
        })
    }

    /// Number of slots.
    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// Takes a slot for an operation.
    ///
    /// # Panics
    /// If an operation has it: then two owners were about to share it.
    pub fn take(&mut self, slot: Slot) -> FixedBuf {
        self.slots[slot.0].take().expect("a slot has one owner")
    }

    /// Puts a slot back that an operation has returned.
    pub fn put(&mut self, slot: Slot, buffer: FixedBuf) {
        self.slots[slot.0] = Some(buffer);
    }

    /// Takes the zeros, unless a write has them.
    pub fn take_zeros(&mut self) -> Option<FixedBuf> {
        self.zeros.take()
    }

    /// Puts the zeros back.
    pub fn put_zeros(&mut self, buffer: FixedBuf) {
        self.zeros = Some(buffer);
    }
}
