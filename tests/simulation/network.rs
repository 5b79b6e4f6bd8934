//! A connection: bytes come in order, split anywhere, late, or not at all. Nothing comes twice.

use std::collections::VecDeque;
use std::time::Duration;

use walring::core::message::Status;

use crate::model::Rng;

/// How a link behaves.
#[derive(Debug, Clone, Copy)]
pub struct Quality {
    /// Longest delay in microseconds.
    pub delay_us: u64,
    /// A message arrives in at most so many parts.
    pub parts: u64,
    /// Out of a thousand messages, so many are followed by a silence.
    pub stalls: u64,
    /// The longest silence in milliseconds.
    pub stall_ms: u64,
}

/// How a link ended, as the reader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The peer has closed it.
    Orderly,
    /// It broke.
    Reset,
}

/// One connection, as long as both sides know of it.
pub struct Link {
    quality: Quality,
    /// What the server sent and nobody has read.
    bytes: Vec<u8>,
    /// How many of them will have arrived when.
    arrivals: VecDeque<(Duration, usize)>,
    /// Nothing arrives before.
    silent_until: Duration,
    closed: Option<Closed>,
    /// Nothing arrives any more, on either side, and neither knows.
    is_dead: bool,
    /// Statuses on their way to the server.
    up: VecDeque<(Duration, Status)>,
    rng: Rng,
}

impl Link {
    /// A fresh connection.
    pub fn new(quality: Quality, seed: u64) -> Link {
        Link {
            quality,
            bytes: Vec::new(),
            arrivals: VecDeque::new(),
            silent_until: Duration::ZERO,
            closed: None,
            is_dead: false,
            up: VecDeque::new(),
            rng: Rng::new(seed),
        }
    }

    fn delay(&mut self) -> Duration {
        Duration::from_micros(self.rng.between(1, self.quality.delay_us))
    }

    /// Bytes that were sent and not read: a server stops sending when there are many.
    pub fn backlog(&self) -> usize {
        self.bytes.len()
    }

    /// The server sends. True if a silence follows.
    pub fn send(&mut self, now: Duration, message: &[u8]) -> bool {
        if self.closed.is_some() || self.is_dead {
            return false;
        }
        let before = self.bytes.len();
        self.bytes.extend_from_slice(message);
        let parts = self.rng.between(1, self.quality.parts).min(message.len() as u64);
        let mut cuts: Vec<usize> = (1..parts)
            .map(|_| before + self.rng.between(1, message.len() as u64 - 1) as usize)
            .collect();
        cuts.push(self.bytes.len());
        cuts.sort_unstable();
        let earliest = now.max(self.silent_until);
        let mut at = self
            .arrivals
            .back()
            .map_or(earliest, |(last, _)| earliest.max(*last));
        for total in cuts {
            at = at.max(earliest + self.delay());
            self.arrivals.push_back((at, total));
        }
        let stalls = self.rng.between(0, 999) < self.quality.stalls;
        if stalls {
            let silence = self.rng.between(1, self.quality.stall_ms);
            self.silent_until = at + Duration::from_millis(silence);
        }
        stalls
    }

    /// No bytes come, and no end, until one side gives up.
    pub fn die(&mut self, now: Duration) {
        self.is_dead = true;
        self.arrivals.retain(|(at, _)| *at <= now);
        let arrived = self.arrivals.back().map_or(0, |(_, total)| *total);
        self.bytes.truncate(arrived);
        self.up.clear();
    }

    /// The connection ends; of what is on its way a part arrives.
    pub fn close(&mut self, closed: Closed) {
        if self.is_dead {
            return;
        }
        if closed == Closed::Reset {
            let left = self.rng.between(0, self.bytes.len() as u64) as usize;
            self.bytes.truncate(left);
            let left = self.rng.between(0, self.up.len() as u64) as usize;
            self.up.truncate(left);
        }
        self.arrivals.retain(|(_, total)| *total < self.bytes.len());
        let at = self.arrivals.back().map_or(Duration::ZERO, |(at, _)| *at);
        if !self.bytes.is_empty() {
            self.arrivals.push_back((at, self.bytes.len()));
        }
        self.closed.get_or_insert(closed);
    }

    /// When so many bytes, or the end, will be there for the reader.
    pub fn readable_at(&self, wanted: usize) -> Option<Duration> {
        let enough = self.arrivals.iter().find(|(_, total)| *total >= wanted);
        let end = || {
            let last = self.arrivals.back().map_or(Duration::ZERO, |(at, _)| *at);
            self.closed.map(|_| last)
        };
        enough.map(|(at, _)| *at).or_else(end)
    }

    /// Reads what has arrived, at most so much; nothing at the end, and then how it ended.
    pub fn read(&mut self, now: Duration, most: usize) -> (Vec<u8>, Option<Closed>) {
        let arrived = self.arrivals.iter().rev().find(|(at, _)| *at <= now);
        let count = arrived.map_or(0, |(_, total)| *total).min(most);
        let bytes = self.bytes[..count].to_vec();
        self.bytes.drain(..count);
        self.arrivals.retain(|(_, total)| *total > count);
        for (_, total) in &mut self.arrivals {
            *total -= count;
        }
        let ended = self.closed.filter(|_| count == 0 && self.bytes.is_empty());
        (bytes, ended)
    }

    /// The receiver tells how far it is.
    pub fn tell(&mut self, now: Duration, status: Status) {
        let at = self.up.back().map_or(now, |(at, _)| now.max(*at)) + self.delay();
        if self.closed.is_none() && !self.is_dead {
            self.up.push_back((at, status));
        }
    }

    /// When the server hears next.
    pub fn heard_at(&self) -> Option<Duration> {
        self.up.front().map(|(at, _)| *at)
    }

    /// What the server hears.
    pub fn hear(&mut self) -> Option<Status> {
        self.up.pop_front().map(|(_, status)| status)
    }
}
