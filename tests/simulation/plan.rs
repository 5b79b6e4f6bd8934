//! What a life is like: drawn once from its seed.

use std::time::Duration;

use walring::core::demand::Durability;
use walring::core::wal::Verify;

use super::disk::Faults;
use super::network::Quality;
use super::primary::Habits;
use crate::model::Rng;

/// How a process is started.
#[derive(Debug, Clone)]
pub struct Options {
    pub durability: Durability,
    pub has_slot: bool,
    pub verify: Verify,
    pub status_interval: Option<Duration>,
    pub receive_timeout: Duration,
    pub is_dsync: bool,
    pub block: u64,
    pub slots: usize,
    pub window: usize,
}

impl Options {
    /// Whether the server is told what is durable.
    pub fn claims(&self) -> bool {
        self.has_slot || self.durability == Durability::Synchronous
    }

    /// For the log.
    pub fn number(&self) -> u64 {
        let flags = [self.has_slot, self.is_dsync, self.verify == Verify::Records];
        flags.iter().fold(self.durability as u64, |number, &flag| {
            number * 2 + u64::from(flag)
        })
    }
}

/// What happens to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccidentKind {
    /// The machine stops.
    Crash,
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Stop,
}

/// When it happens: at a time, or when the disk has begun or ended so many operations.
#[derive(Debug, Clone)]
pub struct Accident {
    pub kind: AccidentKind,
    pub at: Option<Duration>,
    pub countdown: Option<u64>,
}

/// What a life is like.
pub struct Plan {
    pub faults: Faults,
    pub quality: Quality,
    pub habits: Habits,
    pub disk_us: (u64, u64),
    /// Until when things go wrong.
    pub trouble: Duration,
    pub first_mishap: Duration,
    mishap_ms: u64,
    durability: Durability,
    accidents: u64,
    /// How often somebody moves finished segments away between two processes, in a hundred.
    pub moves: u64,
}

impl Plan {
    /// A life's plan.
    pub fn new(rng: &mut Rng) -> Plan {
        let durability = rng.pick(&[
            Durability::Synchronous,
            Durability::Synchronous,
            Durability::Synchronous,
            Durability::Deferred,
            Durability::Background,
        ]);
        let pause_us = rng.pick(&[300, 5000, 100_000]);
        let bulk = rng.pick(&[5, 20, 60]);
        let mishap_ms = rng.pick(&[100, 1000, 20_000]);
        Plan {
            faults: faults(rng),
            quality: Quality {
                delay_us: rng.pick(&[20, 300, 20_000]),
                parts: rng.pick(&[1, 2, 5]),
                stalls: rng.pick(&[0, 0, 5, 20]),
                stall_ms: rng.pick(&[50, 3000, 40_000]),
            },
            habits: Habits {
                pause_us,
                is_synchronous: durability == Durability::Synchronous && rng.chance(30),
                keepalive_ms: rng.pick(&[50, 1000, 10_000]),
                message: rng.pick(&[2000, 50_000, 131_072]),
                bulk,
            },
            disk_us: rng.pick(&[(1, 30), (50, 300), (500, 20_000), (8000, 9000)]),
            trouble: Duration::from_millis(rng.between(0, 8000)),
            first_mishap: Duration::from_millis(rng.between(1, mishap_ms)),
            mishap_ms,
            durability,
            accidents: rng.pick(&[0, 50, 90]),
            moves: rng.pick(&[0, 0, 60]),
        }
    }

    /// How the next process is started.
    pub fn options(&mut self, rng: &mut Rng) -> Options {
        let durability = match rng.chance(85) {
            true => self.durability,
            false => rng.pick(&[
                Durability::Synchronous,
                Durability::Deferred,
                Durability::Background,
            ]),
        };
        let block = rng.pick(&[512, 4096, 4096]);
        Options {
            durability,
            has_slot: rng.chance(70),
            verify: rng.pick(&[
                Verify::Records,
                Verify::Records,
                Verify::Records,
                Verify::Pages,
                Verify::Off,
            ]),
            status_interval: rng.pick(&[Some(1), Some(10), Some(10)]).map(Duration::from_secs),
            receive_timeout: Duration::from_secs(rng.pick(&[2, 5, 20])),
            is_dsync: rng.chance(60),
            block,
            slots: rng.between(2, 6) as usize,
            window: rng.pick(&[16 << 10, 64 << 10, 256 << 10]),
        }
    }

    /// What will happen to the next process, if anything.
    pub fn accident(&mut self, rng: &mut Rng, now: Duration) -> Option<Accident> {
        if !rng.chance(self.accidents) {
            return None;
        }
        let kind = rng.pick(&[
            AccidentKind::Crash,
            AccidentKind::Crash,
            AccidentKind::Crash,
            AccidentKind::Kill,
            AccidentKind::Stop,
        ]);
        let by_operation = rng.chance(60);
        let most = rng.pick(&[20, 100, 500]);
        let (at, countdown) = match by_operation {
            true => (None, Some(rng.between(1, most))),
            false => (Some(now + Duration::from_millis(rng.between(1, 3000))), None),
        };
        Some(Accident { kind, at, countdown })
    }

    /// How long until the network or the server has its next accident.
    pub fn mishap_pause(&self, rng: &mut Rng) -> Duration {
        Duration::from_millis(rng.between(1, 2 * self.mishap_ms))
    }
}

fn faults(rng: &mut Rng) -> Faults {
    if rng.chance(30) {
        return Faults::default();
    }
    Faults {
        write: rng.pick(&[0, 0, 5]),
        sync: rng.pick(&[0, 0, 10, 50]),
        rename: rng.pick(&[0, 0, 20]),
        full: rng.pick(&[0, 0, 100, 500]),
        write_full: rng.pick(&[0, 0, 5]),
        short: rng.pick(&[0, 20, 200]),
    }
}
