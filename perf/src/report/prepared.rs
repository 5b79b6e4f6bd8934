//! A comparison with its medians, ratios and histograms worked out, for all parts of the report.

use std::collections::BTreeMap;

use super::chart::LOOKS;
use super::words;
use crate::results::{BASELINE, Case, Comparison, Disk, Kind, Metric};
use crate::statistics::{Findings, Latencies};

/// All of it.
pub struct Prepared<'a> {
    /// What it was made from.
    pub comparison: &'a Comparison,
    /// Its disks.
    pub disks: Vec<PreparedDisk<'a>>,
    /// The receiver that the headline is about.
    pub subject: &'a str,
    /// What could not be read: one sentence each.
    pub unreadable: Vec<String>,
}

/// A disk and its cases.
pub struct PreparedDisk<'a> {
    /// The disk.
    pub disk: &'a Disk,
    /// Its cases, in the order of the report.
    pub cases: Vec<PreparedCase<'a>>,
}

/// A case and what its rounds say.
pub struct PreparedCase<'a> {
    /// The case.
    pub case: &'a Case,
    /// Its measures.
    pub findings: Findings,
    /// Its latencies, by receiver.
    pub latencies: BTreeMap<&'a str, Latencies>,
    /// The keys of the receivers that ran, in the order of the report.
    pub receivers: Vec<&'a str>,
}

impl<'a> Prepared<'a> {
    /// Works it out.
    pub fn of(comparison: &'a Comparison) -> Prepared<'a> {
        let mut unreadable = Vec::new();
        let disks = comparison.disks.iter().map(|disk| {
            let mut cases: Vec<&Case> = disk.cases.iter().filter(|case| !case.runs.is_empty()).collect();
            let place = |kind: Kind| words::KINDS.iter().position(|other| *other == kind);
            cases.sort_by_key(|case| (place(case.kind), case.clients));
            let prepare = |case| PreparedCase::of(comparison, disk, case, &mut unreadable);
            PreparedDisk {
                disk,
                cases: cases.into_iter().map(prepare).collect(),
            }
        });
        Prepared {
            comparison,
            disks: disks.collect(),
            subject: subject(comparison),
            unreadable,
        }
    }

    /// A receiver's name.
    pub fn name(&self, key: &'a str) -> &'a str {
        words::receiver(self.comparison, key)
    }
}

impl<'a> PreparedDisk<'a> {
    /// The cases of one kind.
    pub fn cases(&self, kind: Kind) -> Vec<&PreparedCase<'a>> {
        self.cases.iter().filter(|case| case.case.kind == kind).collect()
    }
}

impl<'a> PreparedCase<'a> {
    fn of(comparison: &'a Comparison, disk: &Disk, case: &'a Case, unreadable: &mut Vec<String>) -> Self {
        let ran = |key: &str| case.runs.iter().any(|run| run.receiver == key);
        let mut receivers: Vec<&str> = comparison
            .receivers
            .iter()
            .map(|receiver| receiver.key.as_str())
            .collect();
        receivers.retain(|key| ran(key));
        for run in &case.runs {
            if !receivers.contains(&run.receiver.as_str()) {
                receivers.push(&run.receiver);
            }
        }
        let mut latencies = BTreeMap::new();
        for &key in &receivers {
            match Latencies::of(case, key) {
                Ok(Some(some)) => drop(latencies.insert(key, some)),
                Ok(None) => {}
                Err(error) => unreadable.push(format!(
                    "{}, {}: {error}",
                    words::disk(disk),
                    words::full_case(case)
                )),
            }
        }
        PreparedCase {
            case,
            findings: Findings::of(case),
            latencies,
            receivers,
        }
    }

    /// The baseline's latencies.
    pub fn baseline(&self) -> Option<&Latencies> {
        self.latencies.get(BASELINE)
    }

    /// Whether any receiver has this measure.
    pub fn has(&self, metric: Metric) -> bool {
        self.findings.has(metric)
    }
}

/// The receiver that the headline is about: `walring`, or the first that is not the baseline.
fn subject(comparison: &Comparison) -> &str {
    let keys = || comparison.receivers.iter().map(|receiver| receiver.key.as_str());
    keys()
        .find(|key| *key == "walring")
        .or_else(|| keys().find(|key| key.starts_with("walring")))
        .or_else(|| keys().find(|key| *key != BASELINE))
        .unwrap_or("walring")
}

/// Which colour, dashes and marker a receiver has, in all charts of all reports.
pub fn look(key: &str) -> usize {
    const KNOWN: [&str; LOOKS] = [
        BASELINE,
        "walring",
        "walring-off",
        "walring-spin",
        "standby",
        "floor",
        "walring-dsync",
        "walring-fdatasync",
    ];
    let unknown = || {
        key.bytes()
            .fold(0, |sum: usize, byte| sum.wrapping_add(byte.into()))
            % 6
            + 2
    };
    KNOWN
        .iter()
        .position(|known| *known == key)
        .unwrap_or_else(unknown)
}
