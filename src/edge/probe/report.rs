//! What the probe found, for people and for programs.
//!
//! The JSON has one object with the fields of [`Report`]; fields may be added, but none is renamed or
//! taken away. Times are microseconds.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::environment::{Environment, LockedMemory};
use super::mount::Device;
use super::recommendation::Recommendation;

/// The whole report.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// walring's version.
    pub version: &'static str,
    /// The directory that was measured in.
    pub directory: String,
    /// Whether a receiver was at work there meanwhile, as far as the kernel tells.
    pub in_use: bool,
    /// What the kernel, its limits and the file system allow.
    pub environment: Environment,
    /// How long was measured, in seconds.
    pub seconds: f64,
    /// The pause before each write, in milliseconds.
    pub pause_ms: f64,
    /// The times, the standard path first; empty where there is no ring to measure with.
    pub methods: Vec<Measured>,
    /// Which method to use; null where there is no ring to measure with.
    pub recommendation: Option<Recommendation>,
}

/// The times of one method, in microseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// `standard`, `dsync`, `fdatasync` or `buffered`.
    pub method: &'static str,
    /// Fewest bytes of a write.
    pub min_bytes: usize,
    /// Most bytes of a write.
    pub max_bytes: usize,
    /// Number of writes.
    pub count: u64,
    /// Their mean.
    pub mean_us: f64,
    /// The median.
    pub p50_us: u64,
    /// Nine of ten took no longer.
    pub p90_us: u64,
    /// 99 of 100 took no longer.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

impl Measured {
    /// Of times in microseconds.
    pub fn new(method: &'static str, bytes: (usize, usize), times: &Histogram<u64>) -> Measured {
        Measured {
            method,
            min_bytes: bytes.0,
            max_bytes: bytes.1,
            count: times.len(),
            mean_us: times.mean(),
            p50_us: times.value_at_quantile(0.5),
            p90_us: times.value_at_quantile(0.9),
            p99_us: times.value_at_quantile(0.99),
            max_us: times.max(),
        }
    }

    fn bytes(&self) -> String {
        match self.min_bytes == self.max_bytes {
            true => self.max_bytes.to_string(),
            false => format!("{}-{}", self.min_bytes, self.max_bytes),
        }
    }
}

impl Report {
    /// One JSON object, with a line for each field.
    pub fn json(&self) -> String {
        // Only maps with keys that are no texts could fail.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Lines for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, value) in self.facts() {
            let _ = writeln!(text, "{name:<15}{value}");
        }
        if !self.methods.is_empty() {
            text += &self.table();
        }
        if let Some(Recommendation {
            option,
            ratio,
            reason,
            ..
        }) = &self.recommendation
        {
            let _ = writeln!(text, "\nrecommended: {option}: {reason}");
            let _ = writeln!(
                text,
                "A commit-sized write takes {} of the standard path's time (medians).",
                percent(1.0 / ratio)
            );
        }
        text
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let Environment {
            kernel,
            io_uring,
            locked_memory,
            direct_io,
            file_system,
            device,
        } = &self.environment;
        let ring = match (&io_uring.problem, io_uring.missing_operations.as_deref()) {
            (Some(problem), _) => problem.clone(),
            (None, None | Some([])) => "available".to_owned(),
            (None, Some(missing)) => format!("available, but it lacks {}", missing.join(", ")),
        };
        let direct = match (
            direct_io.supported,
            direct_io.memory_alignment,
            direct_io.offset_alignment,
        ) {
            (false, ..) => "not supported here: use --buffered".to_owned(),
            (true, Some(memory), Some(offset)) => {
                format!(
                    "blocks of {} bytes; possible: memory {memory}, writes {offset}",
                    direct_io.block
                )
            }
            (true, ..) => "supported; the kernel tells no alignment".to_owned(),
        };
        let known = |fact: &Option<String>| fact.clone().unwrap_or_else(unknown);
        let mount = format!(
            "{} on {}, {}",
            known(&file_system.kind),
            known(&file_system.mount_point),
            known(&file_system.options)
        );
        let volatile = match file_system.kind.as_deref() {
            Some("tmpfs" | "ramfs") => "; it is memory: nothing survives a restart of the machine",
            _ => "",
        };
        let free = file_system.free_bytes.map_or_else(unknown, mebibytes);
        vec![
            ("directory", self.directory.clone()),
            ("kernel", kernel.clone()),
            ("io_uring", ring),
            ("locked memory", memory(locked_memory)),
            ("direct I/O", direct),
            ("file system", mount + volatile),
            ("free space", free),
            ("disk", disk(device)),
        ]
    }

    fn table(&self) -> String {
        let mut table = format!(
            "\n{:<12}{:>10}{:>8}{:>10}{:>10}{:>10}{:>10}{:>10}\n",
            "ms", "bytes", "writes", "mean", "p50", "p90", "p99", "max"
        );
        let ms = |microseconds: u64| format!("{:.3}", microseconds as f64 / 1000.0);
        for measured in &self.methods {
            let _ = writeln!(
                table,
                "{:<12}{:>10}{:>8}{:>10.3}{:>10}{:>10}{:>10}{:>10}",
                measured.method,
                measured.bytes(),
                measured.count,
                measured.mean_us / 1000.0,
                ms(measured.p50_us),
                ms(measured.p90_us),
                ms(measured.p99_us),
                ms(measured.max_us)
            );
        }
        table
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

fn memory(memory: &LockedMemory) -> String {
    let limit = memory
        .limit_bytes
        .map_or_else(|| "unlimited".to_owned(), mebibytes);
    let fits = match memory.fits {
        Some(true) => ", could be locked",
        Some(false) => ", could not be locked",
        None => "",
    };
    format!("limit {limit}, needed {}{fits}", mebibytes(memory.needed_bytes))
}

fn disk(device: &Device) -> String {
    let Some(name) = &device.name else {
        return unknown();
    };
    let flag = |flag: Option<bool>| match flag {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    };
    let cache = device.write_cache.as_deref().unwrap_or("unknown");
    format!(
        "{name}: FUA {}, cache {cache}, rotational {}",
        flag(device.fua),
        flag(device.rotational)
    )
}
