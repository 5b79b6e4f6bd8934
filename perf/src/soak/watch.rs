//! What the receivers' processes hold in the course of time, and whether it grows.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::observe::Footprint;

/// Memory may grow by this share of what it was early in the run, and this many KiB.
const SHARE: f64 = 0.10;
const SLACK_KIB: u64 = 2048;

/// Descriptors may grow by so many.
const SLACK_DESCRIPTORS: u64 = 4;

/// What one process held at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since the run began.
    pub at_s: f64,
    /// The process.
    pub pid: u32,
    /// What it held.
    pub footprint: Footprint,
}

/// A process that lived long, early and late: medians of the samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Growth {
    /// How long it was watched, seconds.
    pub watched_s: f64,
    /// From 10 % to 25 % of its life.
    pub early: Footprint,
    /// The last 15 %.
    pub late: Footprint,
}

impl Growth {
    /// What the process with the most samples held, early and late; `None` with fewer than 12.
    pub fn of(samples: &[Sample]) -> Option<Growth> {
        let count = |pid: u32| samples.iter().filter(|sample| sample.pid == pid).count();
        let pid = samples
            .iter()
            .map(|sample| sample.pid)
            .max_by_key(|pid| count(*pid))?;
        let life: Vec<Sample> = samples
            .iter()
            .filter(|sample| sample.pid == pid)
            .copied()
            .collect();
        let (first, last) = (life.first()?, life.last()?);
        let part = |from: usize, to: usize| &life[life.len() * from / 100..life.len() * to / 100];
        (life.len() >= 12).then(|| Growth {
            watched_s: last.at_s - first.at_s,
            early: medians(part(10, 25)),
            late: medians(part(85, 100)),
        })
    }

    /// What has grown beyond its bound.
    pub fn excess(&self) -> Option<String> {
        let (early, late) = (self.early, self.late);
        let bound_kib = early.resident_kib + (early.resident_kib as f64 * SHARE) as u64 + SLACK_KIB;
        if late.resident_kib > bound_kib {
            return Some(format!(
                "memory grew from {} to {} KiB; {bound_kib} KiB would pass (10 % and {SLACK_KIB} KiB)",
                early.resident_kib, late.resident_kib
            ));
        }
        if late.descriptors > early.descriptors + SLACK_DESCRIPTORS {
            return Some(format!(
                "descriptors grew from {} to {}; {SLACK_DESCRIPTORS} more would pass",
                early.descriptors, late.descriptors
            ));
        }
        None
    }
}

fn medians(samples: &[Sample]) -> Footprint {
    let median = |of: fn(&Footprint) -> u64| {
        let mut values: Vec<u64> = samples.iter().map(|sample| of(&sample.footprint)).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or(0)
    };
    Footprint {
        resident_kib: median(|footprint| footprint.resident_kib),
        peak_kib: median(|footprint| footprint.peak_kib),
        descriptors: median(|footprint| footprint.descriptors),
        threads: median(|footprint| footprint.threads),
    }
}

/// Latencies of one minute.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Minute {
    /// Commits acknowledged in it.
    pub commits: u64,
    /// Their median, ms.
    pub p50_ms: f64,
    /// Their 99th percentile, ms.
    pub p99_ms: f64,
}

/// The median of the minutes' medians in the second quarter of a run and in the last, ms; `None` with fewer than
/// four minutes in which anything was committed.
pub fn drift(minutes: &[Minute]) -> Option<(f64, f64)> {
    let busy: Vec<f64> = minutes
        .iter()
        .filter(|minute| minute.commits > 0)
        .map(|minute| minute.p50_ms)
        .collect();
    let median = |quarter: usize| {
        let mut part = busy[busy.len() * (quarter - 1) / 4..busy.len() * quarter / 4].to_vec();
        part.sort_by(f64::total_cmp);
        part[part.len() / 2]
    };
    (busy.len() >= 4).then(|| (median(2), median(4)))
}

/// A time as the report writes it.
pub fn shown(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that is watched each second, and holds what `at` says.
    fn life(pid: u32, seconds: u32, at: impl Fn(u32) -> (u64, u64)) -> Vec<Sample> {
        let sample = |second| {
            let (resident_kib, descriptors) = at(second);
            let footprint = Footprint {
                resident_kib,
                peak_kib: resident_kib,
                descriptors,
                threads: 2,
            };
            Sample {
                at_s: second.into(),
                pid,
                footprint,
            }
        };
        (0..seconds).map(sample).collect()
    }

    fn excess(samples: &[Sample]) -> Option<String> {
        Growth::of(samples).expect("enough samples").excess()
    }

    #[test]
    fn what_grows_at_the_start_and_stays_passes() {
        let samples = life(1, 600, |at| (10_000 + u64::from(at.min(50)) * 100, 12));
        assert_eq!(excess(&samples), None);
    }

    #[test]
    fn memory_and_descriptors_that_leak_are_found() {
        let memory = excess(&life(1, 600, |at| (10_000 + u64::from(at) * 8, 12)));
        assert!(memory.unwrap().starts_with("memory grew from 10"));
        let descriptors = excess(&life(1, 600, |at| (10_000, 12 + u64::from(at) / 60)));
        assert!(descriptors.unwrap().starts_with("descriptors grew from 13 to 21"));
    }

    #[test]
    fn the_process_that_lived_longest_counts() {
        let samples = [life(1, 20, |_| (90_000, 50)), life(2, 100, |_| (10_000, 12))].concat();
        let growth = Growth::of(&samples).unwrap();
        assert_eq!((growth.early.resident_kib, growth.watched_s), (10_000, 99.0));
        assert!(Growth::of(&life(1, 11, |_| (1, 1))).is_none());
    }

    #[test]
    fn the_last_quarter_is_compared_with_the_second() {
        let minute = |p50_ms| Minute {
            commits: 1,
            p50_ms,
            p99_ms: 9.0,
        };
        let minutes = [9.0, 9.0, 1.0, 1.0, 9.0, 9.0, 2.0, 2.0].map(minute);
        assert_eq!(drift(&minutes), Some((1.0, 2.0)));
        assert_eq!(drift(&minutes[..3]), None);
    }
}
