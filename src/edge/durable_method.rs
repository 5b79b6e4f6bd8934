//! Which method makes a durable write here: the operator's, or the one that is quicker on this disk.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio_uring::buf::fixed::FixedBuf;
use tracing::{debug, info};

use super::options::ReceiveOptions;
use crate::core::measure::Times;
use crate::core::writes::Slot;
use crate::error::system_text;
use crate::ring::buffer::Slots;
use crate::ring::durable::Method;
use crate::ring::stop::Stop;
use crate::ring::trial::{Trial, Way, remove_leftovers};

/// How a durable write is made in live mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DurableMethod {
    /// What a short measurement at start finds to be quicker on this disk.
    Auto,
    /// One write that is durable when it ends (RWF_DSYNC).
    Dsync,
    /// A write, then a sync of the file's data.
    Fdatasync,
}

/// So many writes of each method are enough.
const MOST_ROUNDS: u64 = 32;

/// In fewer rounds even one that wins all may do so by chance.
const LEAST_ROUNDS: u64 = 4;

/// The measurement ends after this time at the latest.
const LONGEST: Duration = Duration::from_millis(200);

/// Bytes in the file of each method.
const FILE: u64 = 256 << 10;

const METHODS: [Method; 2] = [Method::Dsync, Method::Fdatasync];

/// Medians of so few writes that are closer to each other than this are equal.
const NOISE: f64 = 0.10;

/// Both methods measured in turns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Duel {
    /// dsync's median, in any unit.
    pub dsync: f64,
    /// fdatasync's median, in the same unit.
    pub fdatasync: f64,
    /// Rounds, in each of which both wrote once.
    pub rounds: u64,
    /// Rounds in which fdatasync was quicker.
    pub fdatasync_won: u64,
}

impl Duel {
    /// The method that is clearly quicker, or `None` if they are even: closer to each other than the
    /// part `noise` of the slower one's median, or so that chance would give as many rounds to the
    /// quicker one (two standard deviations from half of them).
    pub fn winner(&self, noise: f64) -> Option<Method> {
        let rounds = self.rounds as f64;
        let (method, quicker, slower, won) = match self.fdatasync < self.dsync {
            true => (Method::Fdatasync, self.fdatasync, self.dsync, self.fdatasync_won),
            false => (
                Method::Dsync,
                self.dsync,
                self.fdatasync,
                self.rounds.saturating_sub(self.fdatasync_won),
            ),
        };
        let is_clear = quicker < slower * (1.0 - noise) && won as f64 >= rounds / 2.0 + rounds.sqrt();
        is_clear.then_some(method)
    }
}

/// The method for this process: the operator's, or for commits that wait the one that a short
/// measurement in the directory finds to be quicker. `block` is what a commit writes, in bytes. Must not
/// be called while a stream has the slots.
pub async fn decide(
    options: &ReceiveOptions,
    directory: &Path,
    block: u64,
    slots: &mut Slots,
    stop: &Stop,
) -> Method {
    match options.durable_method {
        DurableMethod::Dsync => return Method::Dsync,
        DurableMethod::Fdatasync => return Method::Fdatasync,
        DurableMethod::Auto => {}
    }
    if !options.synchronous || options.buffered {
        return Method::Dsync;
    }
    match measure(directory, block, slots, stop).await {
        Ok(Some(duel)) => choose(&duel),
        Ok(None) => Method::Dsync,
        Err(error) => {
            let reason = system_text(&error);
            debug!("durable writes use dsync: the disk could not be measured: {reason}");
            Method::Dsync
        }
    }
}

fn choose(duel: &Duel) -> Method {
    if duel.rounds < LEAST_ROUNDS {
        debug!("durable writes use dsync: the disk is too slow to be measured at start");
        return Method::Dsync;
    }
    let measured = format!(
        "medians of {} writes each: dsync {:.3} ms, fdatasync {:.3} ms",
        duel.rounds,
        duel.dsync / 1000.0,
        duel.fdatasync / 1000.0
    );
    match duel.winner(NOISE) {
        Some(Method::Fdatasync) => {
            info!("durable writes use fdatasync ({measured})");
            Method::Fdatasync
        }
        Some(Method::Dsync) | None => {
            debug!("durable writes use dsync ({measured})");
            Method::Dsync
        }
    }
}

/// Both methods in turns, in microseconds; `None` if the operator wants the end.
async fn measure(directory: &Path, block: u64, slots: &mut Slots, stop: &Stop) -> io::Result<Option<Duel>> {
    remove_leftovers(directory)?;
    let mut trials = Vec::new();
    for method in METHODS {
        match Trial::prepare(directory, Way::Direct(method), FILE, slots, stop).await? {
            Some(trial) => trials.push(trial),
            None => return Ok(None),
        }
    }
    let mut buffer = slots.take(Slot(0));
    // Disks may treat zeros specially.
    buffer.fill(0x55);
    let (result, mut buffer) = take_turns(&mut trials, buffer, block as usize, stop).await;
    buffer.fill(0);
    slots.put(Slot(0), buffer);
    result.map(Some)
}

/// One write of each method a round, each round in the other order. The first round does not count.
async fn take_turns(
    trials: &mut [Trial],
    mut buffer: FixedBuf,
    length: usize,
    stop: &Stop,
) -> (io::Result<Duel>, FixedBuf) {
    let (mut times, mut fdatasync_won, mut rounds) = ([Times::new(), Times::new()], 0, 0);
    let began = Instant::now();
    while rounds < MOST_ROUNDS + 1 && began.elapsed() < LONGEST && !stop.is_requested() {
        let mut took = [Duration::ZERO; 2];
        for turn in 0..2 {
            let index = (turn + rounds as usize) % 2;
            let (result, returned) = trials[index].write(buffer, length).await;
            buffer = returned;
            match result {
                Ok(time) => took[index] = time,
                Err(error) => return (Err(error), buffer),
            }
        }
        if rounds > 0 {
            times[0].record(took[0]);
            times[1].record(took[1]);
            fdatasync_won += u64::from(took[1] < took[0]);
        }
        rounds += 1;
    }
    let [dsync, fdatasync] = times.map(|times| times.histogram().value_at_quantile(0.5) as f64);
    let duel = Duel {
        dsync,
        fdatasync,
        rounds: rounds.saturating_sub(1),
        fdatasync_won,
    };
    (Ok(duel), buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duel(dsync: f64, fdatasync: f64, rounds: u64, fdatasync_won: u64) -> Duel {
        Duel {
            dsync,
            fdatasync,
            rounds,
            fdatasync_won,
        }
    }

    #[test]
    fn only_what_is_clearly_quicker_wins() {
        for (dsync, fdatasync, fdatasync_won, expected) in [
            (100.0, 100.0, 50, None),
            (100.0, 96.0, 90, None),
            (100.0, 94.0, 90, Some(Method::Fdatasync)),
            (100.0, 94.0, 60, Some(Method::Fdatasync)),
            (100.0, 94.0, 59, None),
            (100.0, 50.0, 55, None),
            (94.0, 100.0, 40, Some(Method::Dsync)),
            (94.0, 100.0, 41, None),
            (0.0, 0.0, 0, None),
        ] {
            let duel = duel(dsync, fdatasync, 100, fdatasync_won);
            assert_eq!(duel.winner(0.05), expected, "{duel:?}");
        }
    }

    #[test]
    fn few_rounds_decide_nothing() {
        assert_eq!(choose(&duel(900.0, 300.0, 32, 32)), Method::Fdatasync);
        assert_eq!(choose(&duel(900.0, 300.0, 32, 20)), Method::Dsync);
        assert_eq!(choose(&duel(900.0, 850.0, 32, 32)), Method::Dsync);
        assert_eq!(
            choose(&duel(900.0, 300.0, LEAST_ROUNDS, LEAST_ROUNDS)),
            Method::Fdatasync
        );
        assert_eq!(choose(&duel(900.0, 300.0, 3, 3)), Method::Dsync);
        assert_eq!(choose(&duel(0.0, 0.0, 0, 0)), Method::Dsync);
    }
}
