//! What came of a soak, as JSON and as Markdown.

use std::fmt::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::faults::Fault;
use super::watch::{Growth, Minute, shown};
use crate::observe::Footprint;
use crate::results::Machine;

/// Everything that is told of a soak.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// When it began.
    pub started: String,
    /// How long it took, seconds.
    pub lasted_s: f64,
    /// What all that is random came from.
    pub seed: u64,
    /// What ended or failed it.
    pub failure: Option<String>,
    /// Where it ran; missing if it did not get so far.
    pub machine: Option<Machine>,
    /// What the receivers stored on.
    pub disk: String,
    /// Commits a second that were asked for.
    pub rate: f64,
    /// Clients.
    pub clients: u32,
    /// Segments, MiB.
    pub segment_mib: u32,
    /// Commits that were acknowledged.
    pub commits: u64,
    /// Commits whose outcome the client never heard.
    pub unheard: u64,
    /// Bulk loads.
    pub loads: u64,
    /// WAL, bytes.
    pub wal_bytes: u64,
    /// How often it was looked whether what the receivers claim is stored.
    pub claims_checked: u64,
    /// The most files in the primary's `pg_wal`.
    pub most_pg_wal: u64,
    /// By fault.
    pub faults: Vec<Tally>,
    /// The synchronous one, then the witness.
    pub receivers: Vec<Held>,
    /// Median and 99th percentile of all commits, ms.
    pub latency_ms: Option<(f64, f64)>,
    /// Medians of the second and the last quarter, ms.
    pub drift_ms: Option<(f64, f64)>,
    /// Minute by minute.
    pub minutes: Vec<Minute>,
    /// Acknowledged commits that a restore has; missing if it was not made.
    pub restored: Option<u64>,
}

/// One kind of fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Which.
    pub fault: Fault,
    /// How often.
    pub count: u64,
    /// From the end of the fault until all was acknowledged again, ms: the median, and the most.
    pub recovery_ms: (f64, f64),
}

impl Tally {
    /// Of the recoveries from one kind of fault.
    pub fn of(fault: Fault, recoveries: &mut [Duration]) -> Tally {
        recoveries.sort_unstable();
        let ms = |at: Option<&Duration>| at.map_or(0.0, |time| time.as_secs_f64() * 1e3);
        Tally {
            fault,
            count: recoveries.len() as u64,
            recovery_ms: (ms(recoveries.get(recoveries.len() / 2)), ms(recoveries.last())),
        }
    }
}

/// What a receiver was and held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Its name.
    pub name: String,
    /// How often it was started.
    pub starts: u64,
    /// The longest life of one process, seconds.
    pub longest_s: f64,
    /// The first and the last sample.
    pub ends: Option<(Footprint, Footprint)>,
    /// Its longest life, early and late.
    pub growth: Option<Growth>,
    /// Finished segments that were compared with the primary's.
    pub segments: u64,
    /// The most files in its directory.
    pub most_files: u64,
    /// Lines that tell of a full disk.
    pub full_disks: u64,
}

impl Summary {
    /// The faults that were survived, without what every server does anyway.
    fn fault_count(&self) -> u64 {
        let faults = self.faults.iter().filter(|tally| !tally.fault.is_chore());
        faults.map(|tally| tally.count).sum()
    }

    /// The report.
    pub fn markdown(&self) -> String {
        let mut text = self.headline();
        text += "\n\n| | |\n| --- | --- |\n";
        for (what, value) in self.facts() {
            let _ = writeln!(text, "| {what} | {value} |");
        }
        text += "\n| process | memory at start → end | longest life | memory at 10–25 % of it | in the last 15 % | peak | descriptors | threads | starts | segments compared | most files |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
        self.receivers.iter().for_each(|held| text += &held.row());
        text += "\n| fault | times | until all was acknowledged again: median | longest |\n| --- | ---: | ---: | ---: |\n";
        for tally in &self.faults {
            let (median, most) = tally.recovery_ms;
            let _ = writeln!(
                text,
                "| `{}`: {} | {} | {median:.0} ms | {most:.0} ms |",
                tally.fault.name(),
                tally.fault.about(),
                tally.count
            );
        }
        text + &self.conditions()
    }

    fn headline(&self) -> String {
        let lasted = shown(Duration::from_secs_f64(self.lasted_s));
        let (commits, faults) = (grouped(self.commits), self.fault_count());
        match &self.failure {
            Some(failure) => format!(
                "**Failed** after {lasted}, {commits} acknowledged commits and {faults} faults: {failure}."
            ),
            None => format!(
                "**Passed**: {lasted}, {commits} acknowledged commits, {faults} faults; not a byte wrong, no commit lost."
            ),
        }
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let restored = match self.restored {
            Some(count) => format!("{} of {}", grouped(count), grouped(self.commits)),
            None => "not made".to_owned(),
        };
        let mut facts = vec![
            ("commits acknowledged", grouped(self.commits)),
            (
                "commits whose outcome the client never heard",
                grouped(self.unheard),
            ),
            ("bulk loads of 2 MiB", grouped(self.loads)),
            (
                "WAL",
                format!("{:.0} MiB", self.wal_bytes as f64 / f64::from(1 << 20)),
            ),
            (
                "looks at whether what was claimed is stored",
                grouped(self.claims_checked),
            ),
            ("acknowledged commits that a restore has", restored),
            ("most files in the primary's `pg_wal`", grouped(self.most_pg_wal)),
            (
                "times a receiver told of a full disk",
                grouped(self.receivers.iter().map(|held| held.full_disks).sum()),
            ),
        ];
        if let Some((p50, p99)) = self.latency_ms {
            facts.push((
                "commit, p50 and p99, faults included",
                format!("{p50:.2} and {p99:.0} ms"),
            ));
        }
        if let Some((early, late)) = self.drift_ms {
            facts.push((
                "p50 in the second and in the last quarter",
                format!(
                    "{early:.2} and {late:.2} ms ({:+.0} %)",
                    (late / early - 1.0) * 100.0
                ),
            ));
        }
        facts
    }

    fn conditions(&self) -> String {
        let mut text = format!(
            "\nSeed {}, {} clients, {} commits a second asked for, segments of {} MiB; stored on {}.",
            self.seed, self.clients, self.rate, self.segment_mib, self.disk
        );
        if let Some(machine) = &self.machine {
            let version = |program: &str| machine.versions.get(program).cloned().unwrap_or_default();
            let _ = write!(
                text,
                " {}, {}, {} cores; {}; {}; began {}.",
                machine.kernel,
                machine.cpu,
                machine.cores,
                version("postgres"),
                version("walring"),
                self.started
            );
        }
        text + "\n"
    }
}

impl Held {
    fn row(&self) -> String {
        let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
        let ends = |(first, last): (Footprint, Footprint)| {
            format!("{} → {}", mib(first.resident_kib), mib(last.resident_kib))
        };
        let mut cells = vec![self.name.clone(), self.ends.map(ends).unwrap_or_default()];
        match &self.growth {
            Some(growth) => cells.extend([
                shown(Duration::from_secs_f64(growth.watched_s)),
                mib(growth.early.resident_kib),
                mib(growth.late.resident_kib),
                mib(growth.late.peak_kib),
                format!("{} → {}", growth.early.descriptors, growth.late.descriptors),
                format!("{} → {}", growth.early.threads, growth.late.threads),
            ]),
            None => {
                cells.push(shown(Duration::from_secs_f64(self.longest_s)));
                cells.extend(["", "", "", "", ""].map(str::to_owned));
            }
        }
        cells.extend([self.starts, self.segments, self.most_files].map(grouped));
        format!("| {} |\n", cells.join(" | "))
    }
}

/// A number with a comma behind thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
