//! What happened in a life: for whoever replays it, and as one number for whoever compares two.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use walring::core::lsn::Lsn;

/// So many of the last events are shown when a life fails.
const SHOWN: usize = 30;

/// One thing that happened.
#[derive(Clone, Copy)]
struct Event {
    at: Duration,
    what: &'static str,
    position: u64,
    number: u64,
}

/// All that happened.
pub struct Log {
    seed: u64,
    /// Every event is printed at once.
    is_full: bool,
    last: VecDeque<Event>,
    counts: BTreeMap<&'static str, u64>,
    hash: u64,
    /// The life's time.
    pub now: Duration,
}

impl Log {
    /// Of the life of a seed.
    pub fn new(seed: u64, is_full: bool) -> Log {
        Log {
            seed,
            is_full,
            last: VecDeque::with_capacity(SHOWN + 1),
            counts: BTreeMap::new(),
            hash: 0xCBF2_9CE4_8422_2325,
            now: Duration::ZERO,
        }
    }

    /// Something happened, at a position of the log and with a number: bytes, a timeline, or whatever the words say.
    pub fn note(&mut self, what: &'static str, position: impl Into<Option<Lsn>>, number: u64) {
        let event = Event {
            at: self.now,
            what,
            position: position.into().map_or(0, |lsn| lsn.0),
            number,
        };
        let parts = [
            event.at.as_nanos() as u64,
            what.len() as u64,
            event.position,
            event.number,
        ];
        for part in parts {
            self.hash = (self.hash ^ part)
                .wrapping_mul(0x0000_0100_0000_01B3)
                .rotate_left(23);
        }
        *self.counts.entry(what).or_default() += 1;
        if self.is_full {
            eprintln!("{}", event.line());
        }
        if self.last.len() == SHOWN {
            self.last.pop_front();
        }
        self.last.push_back(event);
    }

    /// A number that two lives share only if the same happened in both.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How often what happened.
    pub fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }
}

impl Event {
    fn line(&self) -> String {
        let seconds = self.at.as_secs_f64();
        format!(
            "{seconds:13.6} s  {:<44} {:>10} {:>9}",
            self.what,
            Lsn(self.position).to_string(),
            self.number
        )
    }
}

/// A life that fails tells how to see it again.
impl Drop for Log {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        if !self.is_full {
            let lines: Vec<_> = self.last.iter().map(Event::line).collect();
            eprintln!("the last events:\n{}", lines.join("\n"));
        }
        let seed = self.seed;
        eprintln!(
            "seed {seed} failed; see all of it with: SEED={seed} cargo test --test simulation any_life"
        );
    }
}
