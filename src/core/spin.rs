//! Whether to wait for the next commit on the processor before sleeping, and how long.
//!
//! A thread that sleeps is woken some 5 to 50 µs after what it waited for: as long as a processor takes
//! to leave its idle state. Spinning saves that and costs a processor, so by itself it lasts only while it
//! pays: now and then a few waits are tried with it and without, and the shorter way is taken. On a
//! machine where others want the processor, spinning makes waits longer, and is left alone.

use std::time::Duration;

use super::recent::Recent;

/// The operator's wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SpinLimit {
    /// Never spin.
    #[default]
    Off,
    /// As long as it pays.
    Auto,
    /// Always, for so long.
    Fixed(Duration),
}

/// By itself a spin lasts no longer, and a wait that usually takes longer is not spun for.
const LONGEST: Duration = Duration::from_millis(1);

/// A wait of unknown length is spun for so long.
const FIRST: Duration = Duration::from_micros(200);

/// A trial is so many waits with a spin and as many without, a few of each in turn.
const TRIAL: usize = 64;

/// So many in a row.
const TURN: usize = 8;

/// What a trial finds is kept for so many waits.
const KEPT: u32 = 2000;

/// A spin pays if it shortens the median wait by a twentieth: it takes a processor for that.
const WORTH: f64 = 0.95;

/// Learns from the waits.
#[derive(Debug)]
pub struct Spin {
    limit: SpinLimit,
    waits: Recent,
    /// The waits of a trial, those without a spin first.
    trial: [Vec<Duration>; 2],
    /// What the last trial found, and for how many waits that is still kept.
    pays: bool,
    kept: u32,
}

impl Spin {
    /// Nothing is known yet.
    pub fn new(limit: SpinLimit) -> Spin {
        Spin {
            limit,
            waits: Recent::default(),
            trial: [Vec::with_capacity(TRIAL), Vec::with_capacity(TRIAL)],
            pays: false,
            kept: 0,
        }
    }

    /// How long to spin now, if at all.
    pub fn budget(&self) -> Option<Duration> {
        let usual = self.waits.usual().unwrap_or(FIRST);
        match self.limit {
            SpinLimit::Off => None,
            SpinLimit::Fixed(limit) => Some(limit),
            SpinLimit::Auto if usual > LONGEST => None,
            SpinLimit::Auto => self.is_wanted().then(|| (2 * usual).min(LONGEST)),
        }
    }

    fn is_wanted(&self) -> bool {
        if self.kept > 0 {
            return self.pays;
        }
        let waits: usize = self.trial.iter().map(Vec::len).sum();
        (waits / TURN) % 2 == 1
    }

    /// A wait ended after so long, with a spin or without.
    pub fn waited(&mut self, took: Duration, spun: bool) {
        self.waits.add(took);
        if self.kept > 0 {
            self.kept -= 1;
            return;
        }
        self.trial[usize::from(spun)].push(took);
        if self.trial.iter().map(Vec::len).sum::<usize>() >= 2 * TRIAL {
            let [without, with] = self.trial.each_mut().map(take_median);
            self.pays = with
                .zip(without)
                .is_some_and(|(with, without)| with < without.mul_f64(WORTH));
            self.kept = KEPT;
        }
    }
}

/// The median, and an empty list.
fn take_median(durations: &mut Vec<Duration>) -> Option<Duration> {
    durations.sort_unstable();
    let median = durations.get(durations.len() / 2).copied();
    durations.clear();
    median
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_micros(200);

    /// So many waits, which take `with` when spun for and `without` when not: how many were spun for.
    fn wait(spin: &mut Spin, count: u32, with: Duration, without: Duration) -> u32 {
        let mut spun = 0;
        for _ in 0..count {
            let spins = spin.budget().is_some();
            spin.waited(if spins { with } else { without }, spins);
            spun += u32::from(spins);
        }
        spun
    }

    #[test]
    fn by_default_nothing_spins_and_a_fixed_time_is_kept_whatever_happens() {
        assert_eq!(wait(&mut Spin::new(SpinLimit::default()), 10_000, WAIT, WAIT), 0);
        let mut fixed = Spin::new(SpinLimit::Fixed(WAIT));
        assert_eq!(wait(&mut fixed, 10_000, 10 * WAIT, WAIT), 10_000);
        assert_eq!(fixed.budget(), Some(WAIT));
    }

    #[test]
    fn it_spins_while_that_shortens_waits_and_finds_out_again_and_again() {
        let trial = 2 * TRIAL as u32;
        let mut spin = Spin::new(SpinLimit::Auto);
        assert_eq!(wait(&mut spin, trial, WAIT / 2, WAIT), trial / 2);
        assert_eq!(wait(&mut spin, KEPT, WAIT / 2, WAIT), KEPT);
        // Others want the processor now: waits become longer by spinning.
        assert_eq!(wait(&mut spin, trial, 2 * WAIT, WAIT), trial / 2);
        assert_eq!(wait(&mut spin, KEPT, 2 * WAIT, WAIT), 0);
        assert_eq!(wait(&mut spin, trial, WAIT, WAIT), trial / 2);
        assert_eq!(
            wait(&mut spin, KEPT, WAIT, WAIT),
            0,
            "no gain is not worth a processor"
        );
    }

    #[test]
    fn spins_last_twice_the_usual_wait_and_long_waits_are_not_spun_for() {
        let mut spin = Spin::new(SpinLimit::Auto);
        wait(&mut spin, 3 * TRIAL as u32, WAIT / 2, WAIT);
        assert_eq!(spin.budget(), Some(WAIT));
        wait(&mut spin, 8, 2 * LONGEST, 2 * LONGEST);
        assert_eq!(spin.budget(), None);
    }
}
