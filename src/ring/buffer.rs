//! Page-aligned memory, registered with the ring once: the slots.

use std::io;
use std::ptr::{self, NonNull};
use std::rc::Rc;

use tokio_uring::buf::fixed::{FixedBuf, FixedBufRegistry};
use tokio_uring::buf::{IoBuf, IoBufMut};

use crate::core::writes::Slot;

/// Bytes of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// Zeroed memory that never moves, from a huge page's start on. As far as it fills huge pages the kernel is asked
/// for those: a write of one MiB is then one piece for the disk, where it would be 256 pages in two requests.
/// The rest is in small pages, so that no more memory is locked than is used.
#[derive(Debug)]
struct Region {
    start: NonNull<u8>,
    /// The mapping, which begins less than a huge page before the start.
    mapping: NonNull<u8>,
    mapped: usize,
}

impl Region {
    fn new(length: usize) -> io::Result<Region> {
        let mapped = length + HUGE_PAGE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, of no file, wherever the kernel puts it.
        let mapping = unsafe { libc::mmap(ptr::null_mut(), mapped, protection, flags, -1, 0) };
        let mapping = NonNull::new(mapping.cast::<u8>()).filter(|_| mapping != libc::MAP_FAILED);
        let mapping = mapping.ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the mapping is longer than needed by a huge page, and the padding is less than that.
        let start = unsafe { mapping.add(mapping.align_offset(HUGE_PAGE)) };
        let huge = length / HUGE_PAGE * HUGE_PAGE;
        // SAFETY: both ranges lie within the mapping and begin with a page. A kernel without huge pages refuses,
        // and then all pages are small.
        unsafe {
            libc::madvise(start.as_ptr().cast(), huge, libc::MADV_HUGEPAGE);
            libc::madvise(
                start.add(huge).as_ptr().cast(),
                length - huge,
                libc::MADV_NOHUGEPAGE,
            );
        }
        Ok(Region {
            start,
            mapping,
            mapped,
        })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new`, and whoever uses it holds this region.
        unsafe { libc::munmap(self.mapping.as_ptr().cast(), self.mapped) };
    }
}

/// A part of a region that nothing else uses.
#[derive(Debug)]
struct Part {
    region: Rc<Region>,
    offset: usize,
    length: usize,
}

// SAFETY: the memory stays mapped as long as the part is there, does not move, is used by no other part, and is
// initialised in full from the beginning.
unsafe impl IoBuf for Part {
    fn stable_ptr(&self) -> *const u8 {
        // SAFETY: the part lies within the region.
        unsafe { self.region.start.as_ptr().add(self.offset) }
    }

    fn bytes_init(&self) -> usize {
        self.length
    }

    fn bytes_total(&self) -> usize {
        self.length
    }
}

// SAFETY: as above; nothing is ever uninitialised, so there is nothing to note.
unsafe impl IoBufMut for Part {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.stable_ptr().cast_mut()
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

    /// Allocates `count` slots of `length` bytes, a multiple of the disk's block, to which they are then aligned,
    /// and registers them with the ring of this thread.
    pub fn register(count: usize, length: usize) -> io::Result<Slots> {
        let region = Rc::new(Region::new(count * length + Slots::ZEROS)?);
        let lengths = std::iter::repeat_n(length, count).chain([Slots::ZEROS]);
        let buffers = lengths.enumerate().map(|(index, part)| Part {
            region: Rc::clone(&region),
            offset: index * length,
            length: part,
        });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::setup;

    #[test]
    fn slots_are_zero_aligned_to_their_blocks_and_apart() {
        let block = 4096;
        for length in [block, (1 << 20) + block] {
            setup::start().unwrap().block_on(async {
                let mut slots = Slots::register(6, length).unwrap();
                let mut taken: Vec<FixedBuf> = (0..6).map(|slot| slots.take(Slot(slot))).collect();
                taken.push(slots.take_zeros().unwrap());
                for (number, buffer) in taken.iter_mut().enumerate() {
                    assert!(buffer.as_ptr().addr().is_multiple_of(block));
                    assert!(
                        buffer.iter().all(|&byte| byte == 0),
                        "{number} is not zero or not apart"
                    );
                    buffer.fill(1 + number as u8);
                }
                assert_eq!(taken[6].len(), Slots::ZEROS);
                let whole = |(number, buffer): (usize, &FixedBuf)| {
                    buffer.iter().all(|&byte| usize::from(byte) == 1 + number)
                };
                assert!(taken.iter().enumerate().all(whole));
            });
        }
    }
}
