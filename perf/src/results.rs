//! What a comparison found: the data between the measurement and the report, and the JSON file's shape.
//!
//! A comparison holds the disks it ran on; a disk holds cases (what was done); a case holds runs (one
//! receiver, one round). Nothing here is a median or a ratio: those are the report's, and can be made again
//! from the file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The JSON file's version; a reader refuses others.
pub const FORMAT: u32 = 1;

/// The receiver that the others are compared with.
pub const BASELINE: &str = "pg_receivewal";

/// One run of `walring-perf compare`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// [`FORMAT`].
    pub format: u32,
    /// When it began, RFC 3339, UTC.
    pub started: String,
    /// How long it took.
    pub took_s: f64,
    /// The command line.
    pub command: String,
    /// How often each receiver ran in each case.
    pub rounds: u32,
    /// Where it ran.
    pub machine: Machine,
    /// What was compared, in the order of the report; the baseline is among them.
    pub receivers: Vec<Receiver>,
    /// On which disks.
    pub disks: Vec<Disk>,
    /// What was not run, and why: one sentence each.
    pub skipped: Vec<String>,
}

/// The machine and the programs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Processors that can be used.
    pub cores: u32,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// `uname -sr`.
    pub kernel: String,
    /// The distribution's name.
    pub os: String,
    /// What `--version` says, by program.
    pub versions: BTreeMap<String, String>,
    /// Where the primary's data were, for example `tmpfs`.
    pub primary_filesystem: String,
}

/// A program that receives, with its options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receiver {
    /// How runs name it: `pg_receivewal`, `walring`, `walring-off`, `walring-spin`, `standby`, `floor`.
    pub key: String,
    /// How the report names it.
    pub name: String,
    /// One sentence: what it is.
    pub about: String,
    /// Its command line; directories and ports vary between runs.
    pub command: String,
    /// The size of its program file, stripped, bytes.
    pub binary_bytes: Option<u64>,
}

/// A disk, and what was measured on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    /// `given`, or the profile of an emulated one: `nvme`, `ssd`, `emmc`, `hdd`.
    pub key: String,
    /// One sentence: what it is.
    pub about: String,
    /// The file system's type.
    pub filesystem: String,
    /// The block device, where there is one.
    pub device: Option<String>,
    /// What the device's flush is set to take, on an emulated one.
    pub set_flush_ms: Option<f64>,
    /// What a durable write of 4096 bytes into written space took (median), ms.
    pub durable_write_ms: f64,
    /// What was done on it.
    pub cases: Vec<Case>,
}

/// What a case does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Commits of one row, each client the next as soon as the last is done.
    Commit,
    /// Commits at a set rate, timed from when they were due.
    OpenLoop,
    /// Commits across changes of segment; latencies are those within 100 ms of one.
    Rollover,
    /// Small commits beside a bulk load; latencies are those of the small ones.
    Bulk,
    /// A commit whose record ends exactly on a segment's end.
    Boundary,
    /// Finished segments are received.
    CatchUp,
    /// The connection is cut; until the next acknowledgement.
    Reconnect,
    /// From the start of the process to the first acknowledgement.
    StartUp,
}

/// One thing done, by all receivers in turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// What.
    pub kind: Kind,
    /// By how many clients, where there are any.
    pub clients: Option<u32>,
    /// One sentence: what exactly, with sizes and durations.
    pub about: String,
    /// All runs, in the order they were made.
    pub runs: Vec<Run>,
}

/// One receiver in one round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`Receiver::key`].
    pub receiver: String,
    /// From 1.
    pub round: u32,
    /// What was measured.
    pub measures: BTreeMap<Metric, f64>,
    /// The latencies, in nanoseconds: an HdrHistogram, V2 with DEFLATE, in base64.
    pub latencies: Option<String>,
    /// The latencies over time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub series: Vec<Point>,
    /// When the primary changed its segment, seconds from the run's start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rollovers_s: Vec<f64>,
}

/// The commits of a short span of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// When the span began, seconds from the run's start.
    pub at_s: f64,
    /// Commits in it.
    pub commits: u32,
    /// Their median latency, ms.
    pub p50_ms: f64,
    /// The longest, ms.
    pub max_ms: f64,
}

/// What a run measures. Less is better in all but [`Metric::higher_is_better`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Commits counted.
    Commits,
    /// Commits a second.
    CommitsPerSecond,
    /// Latency: arithmetic mean, ms.
    MeanMs,
    /// Latency: median, ms.
    P50Ms,
    /// Latency: 90th percentile, ms.
    P90Ms,
    /// Latency: 99th percentile, ms.
    P99Ms,
    /// Latency: 99.9th percentile, ms.
    P999Ms,
    /// Latency: the longest, ms.
    MaxMs,
    /// Latency: 99th percentile, corrected for coordinated omission, ms.
    CorrectedP99Ms,
    /// The receiver's CPU time (user, system, all threads) for each commit, µs.
    CpuUsPerCommit,
    /// The receiver's CPU time, s for each GiB of WAL.
    CpuSPerGib,
    /// The receiver's system calls for each commit.
    SyscallsPerCommit,
    /// The receiver's context switches for each commit.
    SwitchesPerCommit,
    /// Commits for each flush of the device.
    CommitsPerFlush,
    /// Bytes written to the device for each byte of WAL.
    DiskBytesPerWalByte,
    /// Peak resident memory of the receiver, MiB.
    PeakMib,
    /// Wall time, s.
    WallS,
    /// WAL received a second, MiB.
    MibPerSecond,
    /// The time until something was there, ms.
    ElapsedMs,
    /// Changes of segment in the run.
    Rollovers,
    /// Latency: 99.9th percentile of all commits, where the other latencies are those of a part, ms.
    WholeP999Ms,
}

impl Metric {
    /// Whether more is better.
    pub fn higher_is_better(self) -> bool {
        matches!(
            self,
            Metric::Commits | Metric::CommitsPerSecond | Metric::CommitsPerFlush | Metric::MibPerSecond
        )
    }
}
