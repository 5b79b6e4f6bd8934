//! The disk itself: its content in memory, its latencies, its counters.
//!
//! Every write, flush and discard of the disk passes through [`Image`], in the order in which it takes effect.
//! Whoever wants to record them, to keep apart what is durable, or to let them fail, does it here.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, MemfdFlags};

use super::Counters;

/// How long things take; see the [model](super).
#[derive(Debug, Clone, Copy, Default)]
pub struct Latencies {
    pub write: Duration,
    pub flush: Duration,
    /// One turn; zero where nothing rotates.
    pub rotation: Duration,
}

/// A disk's content and behaviour.
#[derive(Debug)]
pub struct Image {
    /// An anonymous file in memory; what was never written is a hole.
    content: File,
    size: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    latencies: Latencies,
    counters: Counters,
    /// When the last of the flushes that were begun ends.
    flushed_at: Instant,
    /// Where the disk's platter is when a flush needs it.
    turns: fastrand::Rng,
}

impl Image {
    /// A disk of zeros, without delays until [`Image::set_latencies`].
    pub fn new(size: u64) -> io::Result<Image> {
        let content = File::from(rustix::fs::memfd_create("walring-disk", MemfdFlags::CLOEXEC)?);
        content.set_len(size)?;
        let state = State {
            latencies: Latencies::default(),
            counters: Counters::default(),
            flushed_at: Instant::now(),
            turns: fastrand::Rng::with_seed(1),
        };
        Ok(Image {
            content,
            size,
            state: Mutex::new(state),
        })
    }

    /// How long things take from now on. Making and taking away a disk need no delays.
    pub fn set_latencies(&self, latencies: Latencies) {
        self.state().latencies = latencies;
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Since the disk was made.
    pub fn counters(&self) -> Counters {
        self.state().counters
    }

    /// Fills the buffer as far as the disk reaches.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let within = self.size.saturating_sub(offset).min(buffer.len() as u64) as usize;
        self.content.read_exact_at(&mut buffer[..within], offset)?;
        Ok(within)
    }

    /// Takes a write into the cache; it is complete at the instant returned, at once with `None`.
    pub fn write(&self, data: &[u8], offset: u64) -> io::Result<Option<Instant>> {
        self.reaches(offset, data.len() as u64)?;
        let arrived = Instant::now();
        self.content.write_all_at(data, offset)?;
        let mut state = self.state();
        state.counters.writes += 1;
        state.counters.bytes_written += data.len() as u64;
        let takes = state.latencies.write;
        Ok((!takes.is_zero()).then(|| arrived + takes))
    }

    /// Begins a flush, behind those begun before; it is complete at the instant returned, at once with `None`.
    pub fn flush(&self) -> Option<Instant> {
        let mut state = self.state();
        state.counters.flushes += 1;
        if state.latencies.flush.is_zero() && state.latencies.rotation.is_zero() {
            return None;
        }
        let turn = state.latencies.rotation.mul_f64(state.turns.f64());
        let takes = state.latencies.flush + turn;
        let due = state.flushed_at.max(Instant::now()) + takes;
        state.flushed_at = due;
        Some(due)
    }

    /// Forgets a range: it reads as zeros, and its memory is free.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.reaches(offset, len)?;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.content, punch, offset, len)?;
        self.state().counters.bytes_discarded += len;
        Ok(())
    }

    fn reaches(&self, offset: u64, len: u64) -> io::Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(write_ms: u64, flush_ms: u64, rotation_ms: u64) -> Image {
        let ms = Duration::from_millis;
        let latencies = Latencies {
            write: ms(write_ms),
            flush: ms(flush_ms),
            rotation: ms(rotation_ms),
        };
        let image = Image::new(1 << 20).expect("an image");
        image.set_latencies(latencies);
        image
    }

    #[test]
    fn a_second_flush_begins_when_the_first_has_ended() {
        let image = image(0, 1000, 0);
        let first = image.flush().expect("a flush that takes time");
        assert_eq!(image.flush(), Some(first + Duration::from_secs(1)));
    }

    #[test]
    fn a_write_does_not_wait_for_a_flush() {
        let image = image(1000, 60_000, 0);
        let flushed = image.flush().expect("a flush that takes time");
        let written = image
            .write(&[1; 512], 0)
            .expect("a write")
            .expect("a write that takes time");
        assert!(written < flushed);
    }

    #[test]
    fn every_disk_rotates_alike() {
        let turns = |image: Image| {
            let first = image.flush().expect("a flush that takes time");
            let rest: Vec<Duration> = (0..100)
                .scan(first, |last, _| {
                    let due = image.flush()?;
                    let took = due - *last;
                    *last = due;
                    Some(took)
                })
                .collect();
            rest
        };
        let flushes = turns(image(0, 1000, 100));
        assert!(
            flushes
                .iter()
                .all(|took| (1000..1100).contains(&took.as_millis())),
            "{flushes:?}"
        );
        assert!(
            flushes.iter().any(|took| took.as_millis() < 1020)
                && flushes.iter().any(|took| took.as_millis() > 1080)
        );
        assert_eq!(flushes, turns(image(0, 1000, 100)));
    }

    #[test]
    fn what_was_written_is_read_and_what_was_discarded_is_zero() {
        let image = image(0, 0, 0);
        image.write(&[7; 8192], 4096).expect("a write");
        image.discard(8192, 4096).expect("a discard");
        let mut read = vec![1; 12288];
        assert_eq!(image.read(&mut read, 0).expect("a read"), 12288);
        assert_eq!(read, [vec![0; 4096], vec![7; 4096], vec![0; 4096]].concat());
        assert_eq!(
            image.counters(),
            Counters {
                writes: 1,
                bytes_written: 8192,
                flushes: 0,
                bytes_discarded: 4096
            }
        );
    }

    #[test]
    fn nothing_reaches_beyond_the_end() {
        let image = image(0, 0, 0);
        image
            .write(&[7; 512], (1 << 20) - 256)
            .expect_err("a write across the end");
        image.discard(u64::MAX, 2).expect_err("a discard that wraps");
        assert_eq!(image.read(&mut [0; 512], (1 << 20) - 256).expect("a read"), 256);
        assert_eq!(image.read(&mut [0; 512], u64::MAX).expect("a read"), 0);
        assert_eq!(image.counters(), Counters::default());
    }
}
