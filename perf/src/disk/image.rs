//! The disk itself: its content in memory, its latencies, its counters.
//!
//! Every write, flush and discard of the disk passes through [`Image`], in the order in which it takes effect.
//! They are recorded here, if that is wanted ([`Log`]), and fail or hang here ([`Faults`]).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, MemfdFlags};

use super::log::Log;
use super::{Behaviour, Counters, Faults};

/// How long things take; see the [model](super).
#[derive(Debug, Clone, Copy, Default)]
pub struct Latencies {
    pub write: Duration,
    pub flush: Duration,
    /// One turn; zero where nothing rotates.
    pub rotation: Duration,
}

/// A disk's content and behaviour.
pub struct Image {
    /// An anonymous file in memory; what was never written is a hole.
    content: File,
    size: u64,
    state: Mutex<State>,
    held: Mutex<Vec<Held>>,
}

/// A command that hangs: it is carried out when the disk does something else again.
pub type Held = Box<dyn FnOnce() + Send>;

/// What is to be done with a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Write,
    Flush,
}

/// A flush that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flush {
    /// When it is complete; at once with `None`.
    pub due: Option<Instant>,
    number: u64,
}

struct State {
    latencies: Latencies,
    counters: Counters,
    faults: Faults,
    log: Option<Log>,
    /// When the last of the flushes that were begun ends.
    flushed_at: Instant,
    /// Where the disk's platter is when a flush needs it.
    turns: fastrand::Rng,
}

impl Image {
    /// A disk of zeros, without delays until [`Image::set_latencies`], whose writes and flushes go into the log.
    pub fn new(size: u64, log: Option<Log>) -> io::Result<Image> {
        let content = File::from(rustix::fs::memfd_create("walring-disk", MemfdFlags::CLOEXEC)?);
        content.set_len(size)?;
        let state = State {
            latencies: Latencies::default(),
            counters: Counters::default(),
            faults: Faults::default(),
            log,
            flushed_at: Instant::now(),
            turns: fastrand::Rng::with_seed(1),
        };
        Ok(Image {
            content,
            size,
            state: Mutex::new(state),
            held: Mutex::default(),
        })
    }

    /// What fails or hangs from now on. What hung until now is carried out, or fails, as is right for it now.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
        let held = std::mem::take(&mut *self.held());
        held.into_iter().for_each(|command| command());
    }

    /// What becomes of such a command now.
    pub fn behaviour(&self, kind: Kind) -> Behaviour {
        let faults = self.state().faults;
        match kind {
            Kind::Write => faults.write,
            Kind::Flush => faults.flush,
        }
    }

    /// Keeps a command that hangs.
    pub fn hold(&self, command: Held) {
        self.held().push(command);
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
        let mut state = self.state();
        self.content.write_all_at(data, offset)?;
        state.counters.writes += 1;
        state.counters.bytes_written += data.len() as u64;
        let takes = state.latencies.write;
        if let Some(log) = &mut state.log {
            log.write(data, offset, takes)?;
        }
        Ok((!takes.is_zero()).then(|| arrived + takes))
    }

    /// Begins a flush, behind those begun before. Whoever waits for it says [`Image::flushed`] before he answers.
    pub fn flush(&self) -> io::Result<Flush> {
        let mut state = self.state();
        state.counters.flushes += 1;
        let number = state.counters.flushes;
        if let Some(log) = &mut state.log {
            log.flush_began(number)?;
        }
        if state.latencies.flush.is_zero() && state.latencies.rotation.is_zero() {
            return Ok(Flush { due: None, number });
        }
        let turn = state.latencies.rotation.mul_f64(state.turns.f64());
        let takes = state.latencies.flush + turn;
        let due = state.flushed_at.max(Instant::now()) + takes;
        state.flushed_at = due;
        Ok(Flush {
            due: Some(due),
            number,
        })
    }

    /// The flush has ended: what was complete when it began is durable.
    pub fn flushed(&self, flush: Flush) -> io::Result<()> {
        match &mut self.state().log {
            Some(log) => log.flush_ended(flush.number),
            None => Ok(()),
        }
    }

    /// Forgets a range: it reads as zeros, and its memory is free.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.reaches(offset, len)?;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let mut state = self.state();
        rustix::fs::fallocate(&self.content, punch, offset, len)?;
        state.counters.bytes_discarded += len;
        match &mut state.log {
            Some(log) => log.zeros(offset, len, Duration::ZERO),
            None => Ok(()),
        }
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

    fn held(&self) -> std::sync::MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
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
        let image = Image::new(1 << 20, None).expect("an image");
        image.set_latencies(latencies);
        image
    }

    /// When a flush is due that begins now.
    fn flush(image: &Image) -> Option<Instant> {
        image.flush().expect("a flush").due
    }

    #[test]
    fn a_second_flush_begins_when_the_first_has_ended() {
        let image = image(0, 1000, 0);
        let first = flush(&image).expect("a flush that takes time");
        assert_eq!(flush(&image), Some(first + Duration::from_secs(1)));
    }

    #[test]
    fn a_write_does_not_wait_for_a_flush() {
        let image = image(1000, 60_000, 0);
        let flushed = flush(&image).expect("a flush that takes time");
        let written = image
            .write(&[1; 512], 0)
            .expect("a write")
            .expect("a write that takes time");
        assert!(written < flushed);
    }

    #[test]
    fn every_disk_rotates_alike() {
        let turns = |image: Image| {
            let first = flush(&image).expect("a flush that takes time");
            let rest: Vec<Duration> = (0..100)
                .scan(first, |last, _| {
                    let due = flush(&image)?;
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

    #[test]
    fn what_hangs_is_carried_out_once_the_disk_works_again() {
        let image = std::sync::Arc::new(image(0, 0, 0));
        let hangs = Faults {
            write: Behaviour::Hangs,
            ..Faults::default()
        };
        image.set_faults(hangs);
        assert_eq!(image.behaviour(Kind::Write), Behaviour::Hangs);
        assert_eq!(image.behaviour(Kind::Flush), Behaviour::Works);
        let held = std::sync::Arc::clone(&image);
        image.hold(Box::new(move || {
            held.write(&[7; 512], 0).expect("a write");
        }));
        assert_eq!(image.counters().writes, 0);
        image.set_faults(Faults::default());
        assert_eq!(image.counters().writes, 1);
    }
}
