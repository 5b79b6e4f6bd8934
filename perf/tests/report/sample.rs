//! Comparisons made up for the tests: with known medians, and one that looks like a real run.

use std::collections::BTreeMap;

use base64::Engine;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};
use walring_perf::results::*;

/// A comparison without disks.
pub fn empty() -> Comparison {
    let receivers = [
        (
            "pg_receivewal",
            "pg_receivewal",
            "The receiver that comes with PostgreSQL.",
            Some(89_000),
        ),
        ("walring", "walring", "With default settings.", Some(4_200_000)),
        (
            "walring-off",
            "walring, verification off",
            "The same with --verify=off.",
            Some(4_200_000),
        ),
        (
            "walring-spin",
            "walring, spinning",
            "The same with --spin-us=auto.",
            Some(4_200_000),
        ),
        (
            "standby",
            "PostgreSQL standby",
            "A standby’s walreceiver and start-up process.",
            None,
        ),
        (
            "floor",
            "floor",
            "Acknowledges without writing: what no receiver can undercut.",
            None,
        ),
    ];
    let receiver = |(key, name, about, binary_bytes): (&str, &str, &str, Option<u64>)| Receiver {
        key: key.to_owned(),
        name: name.to_owned(),
        about: about.to_owned(),
        command: format!(
            "{key} --directory=DIR --synchronous --dbname='host=127.0.0.1 application_name=receiver'"
        ),
        binary_bytes,
    };
    Comparison {
        format: FORMAT,
        started: "2026-01-02T03:04:05Z".to_owned(),
        took_s: 612.0,
        command: "walring-perf compare --disk given,emmc".to_owned(),
        rounds: 5,
        machine: Machine {
            cpu: "Example CPU 3.0 GHz".to_owned(),
            cores: 2,
            memory_mib: 8192,
            kernel: "Linux 6.12.0".to_owned(),
            os: "Example Linux 13".to_owned(),
            versions: BTreeMap::from([("postgres".to_owned(), "postgres (PostgreSQL) 15.18".to_owned())]),
            primary_filesystem: "tmpfs".to_owned(),
        },
        receivers: receivers.map(receiver).into(),
        disks: Vec::new(),
        skipped: vec!["hdd: not run, to save time".to_owned()],
    }
}

/// A disk without cases.
pub fn disk(key: &str, flush_ms: Option<f64>) -> Disk {
    Disk {
        key: key.to_owned(),
        about: "A disk of the tests.".to_owned(),
        filesystem: "ext4".to_owned(),
        device: flush_ms.map(|_| "/dev/loop0".to_owned()),
        set_flush_ms: flush_ms,
        durable_write_ms: flush_ms.unwrap_or(0.21),
        cases: Vec::new(),
    }
}

/// A case without runs.
pub fn case(kind: Kind, clients: Option<u32>) -> Case {
    let about = "Single-row inserts of 100 bytes, segments of 16 MiB, 5 s a run.".to_owned();
    Case {
        kind,
        clients,
        about,
        runs: Vec::new(),
    }
}

/// A run with these measures and nothing else.
pub fn run(receiver: &str, round: u32, measures: &[(Metric, f64)]) -> Run {
    Run {
        receiver: receiver.to_owned(),
        round,
        measures: measures.iter().copied().collect(),
        latencies: None,
        series: Vec::new(),
        rollovers_s: Vec::new(),
    }
}

/// Latencies in ms, as a run holds them.
pub fn latencies(milliseconds: impl Iterator<Item = f64>) -> String {
    let mut histogram: Histogram<u64> = Histogram::new(3).unwrap();
    milliseconds.for_each(|ms| histogram.record((ms * 1e6) as u64).unwrap());
    let mut bytes = Vec::new();
    V2DeflateSerializer::new()
        .serialize(&histogram, &mut bytes)
        .unwrap();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Two disks, all cases: a slow disk that is won, a fast one that is partly lost.
pub fn realistic() -> Comparison {
    let mut random = fastrand::Rng::with_seed(7);
    let mut comparison = empty();
    comparison.disks = vec![
        full_disk("emmc", Some(8.0), &mut random),
        full_disk("given", None, &mut random),
    ];
    comparison
}

/// How a receiver does against the baseline on a disk: the factor of its latencies.
fn factor(receiver: &str, slow: bool, clients: u32) -> f64 {
    match (receiver, slow) {
        ("walring", true) if clients > 1 => 0.29,
        ("walring", true) => 0.52,
        ("walring", false) if clients == 64 => 1.12,
        ("walring", false) if clients == 1 => 0.995,
        ("walring", false) => 0.9,
        ("walring-off", _) => factor("walring", slow, clients) * 0.985,
        ("walring-spin", true) => factor("walring", slow, clients) * 0.99,
        ("walring-spin", false) => 0.8,
        ("standby", true) => 0.75,
        ("standby", false) => 1.3,
        ("floor", true) => 0.02,
        ("floor", false) => 0.45,
        _ => 1.0,
    }
}

const RECEIVERS: [&str; 6] = [
    "pg_receivewal",
    "walring",
    "walring-off",
    "walring-spin",
    "standby",
    "floor",
];

fn full_disk(key: &str, flush_ms: Option<f64>, random: &mut fastrand::Rng) -> Disk {
    let slow = flush_ms.is_some();
    let mut disk = disk(key, flush_ms);
    let mut all: Vec<(Kind, Option<u32>)> =
        [1, 4, 16, 64].map(|clients| (Kind::Commit, Some(clients))).into();
    all.extend([
        (Kind::OpenLoop, Some(16)),
        (Kind::Rollover, Some(4)),
        (Kind::Bulk, Some(4)),
    ]);
    if !slow {
        all.extend([Kind::Boundary, Kind::CatchUp, Kind::Reconnect, Kind::StartUp].map(|kind| (kind, None)));
    }
    for (kind, clients) in all {
        let mut filled = case(kind, clients);
        for round in 1..=5 {
            for receiver in RECEIVERS {
                filled.runs.push(made_run(
                    kind,
                    clients.unwrap_or(1),
                    receiver,
                    round,
                    slow,
                    random,
                ));
            }
        }
        disk.cases.push(filled);
    }
    disk
}

fn made_run(
    kind: Kind,
    clients: u32,
    receiver: &str,
    round: u32,
    slow: bool,
    random: &mut fastrand::Rng,
) -> Run {
    let noise = 1.0 + 0.06 * (random.f64() - 0.5);
    let factor = factor(receiver, slow, clients) * noise;
    let mut made = run(receiver, round, &[]);
    match kind {
        Kind::CatchUp => {
            let wall_s = 4.5 * factor * if receiver == "walring" { 0.25 } else { 1.0 };
            made.measures = [
                (Metric::WallS, wall_s),
                (Metric::MibPerSecond, 1024.0 / wall_s),
                (Metric::CpuSPerGib, 2.1 * factor * factor * 0.5),
                (Metric::PeakMib, 11.0 * noise),
            ]
            .into();
        }
        Kind::Boundary | Kind::Reconnect | Kind::StartUp => {
            let usual = if kind == Kind::Boundary && receiver == "pg_receivewal" {
                9000.0
            } else {
                35.0
            };
            made.measures = [(Metric::ElapsedMs, usual * factor)].into();
        }
        _ => commits(
            &mut made,
            kind,
            clients,
            (if slow { 18.7 } else { 0.44 }) * factor,
            slow,
            random,
        ),
    }
    made
}

/// Latencies around `typical` ms with a long tail, and what follows from them.
fn commits(made: &mut Run, kind: Kind, clients: u32, typical: f64, slow: bool, random: &mut fastrand::Rng) {
    let typical = typical * (1.0 + f64::from(clients).log2() * 0.17);
    let tail = if made.receiver == "pg_receivewal" {
        5.0
    } else {
        2.5
    };
    let mut all: Vec<f64> = (0..if slow { 2000 } else { 4000 })
        .map(|_| {
            let unusual = random.f64();
            let slower = if unusual > 0.998 {
                tail * 4.0
            } else if unusual > 0.985 {
                tail
            } else {
                1.0
            };
            typical * slower * (0.85 + 0.3 * random.f64() * random.f64() + 0.1 * random.f64())
        })
        .collect();
    made.latencies = Some(latencies(all.iter().copied()));
    let count = all.len();
    if kind == Kind::Rollover {
        made.series = all
            .chunks(count / 200)
            .zip(0..)
            .map(|(span, index)| Point {
                at_s: f64::from(index) * 0.05,
                commits: span.len() as u32,
                p50_ms: span[span.len() / 2],
                max_ms: span.iter().copied().fold(0.0, f64::max),
            })
            .collect();
        made.rollovers_s = (1..10).map(|index| f64::from(index) * 0.97).collect();
        made.measures.insert(Metric::Rollovers, 9.0);
    }
    all.sort_by(f64::total_cmp);
    let at = |share: f64| all[((count as f64 * share) as usize).min(count - 1)];
    let cpu = if made.receiver == "floor" {
        9.0
    } else {
        100.0 / (1.0 + f64::from(clients).log2())
    };
    made.measures.extend([
        (Metric::Commits, count as f64),
        (Metric::CommitsPerSecond, f64::from(clients) * 1000.0 / typical),
        (Metric::MeanMs, all.iter().sum::<f64>() / count as f64),
        (Metric::P50Ms, at(0.5)),
        (Metric::P90Ms, at(0.9)),
        (Metric::P99Ms, at(0.99)),
        (Metric::P999Ms, at(0.999)),
        (Metric::MaxMs, at(1.0)),
        (Metric::CpuUsPerCommit, cpu * (0.9 + 0.2 * random.f64())),
        (Metric::SwitchesPerCommit, 2.1 + 0.1 * random.f64()),
        (Metric::CommitsPerFlush, 0.5 * f64::from(clients).sqrt()),
        (Metric::DiskBytesPerWalByte, 9.4 + random.f64()),
        (Metric::PeakMib, 10.0 + random.f64()),
    ]);
    if kind == Kind::OpenLoop {
        made.measures.insert(Metric::CorrectedP99Ms, at(0.99) * 1.4);
    }
    if made.round == 1 {
        made.measures
            .insert(Metric::SyscallsPerCommit, 5.0 + random.f64());
    }
}
