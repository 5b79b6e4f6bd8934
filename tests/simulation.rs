//! Whatever happens to a directory, what was acknowledged is in it, and in the end all is acknowledged.
//!
//! Each seed is a life: a server, a network, a disk and a succession of processes, made up by chance, with everything going
//! wrong that may. `SEED=n` replays one and prints all that happens, `SEEDS=n` lives so many, `SIMULATE_FOR=n` goes on
//! for n seconds, from the seed `SEED_FROM` or one of the clock.

#[path = "simulation/mod.rs"]
mod lives;
mod model;
#[path = "common/skip.rs"]
mod skip;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lives::{Lived, live};

/// So many lives are lived by a test run.
const SEEDS: u64 = 2000;

/// So many lives are enough for everything to happen.
const MANY: u64 = 1000;

/// What has to happen in many lives, or nothing is shown.
const HAPPENS: [&str; 25] = [
    "a rename fails",
    "a sync fails",
    "a sync of the directory fails",
    "a write fails",
    "a write is short",
    "accident: SIGKILL",
    "accident: SIGTERM",
    "accident: the machine stops",
    "compares, for the rest to",
    "connects again, after milliseconds",
    "finishes segment",
    "finishes segment and names the next",
    "follows to timeline",
    "goes on in a partial with content to",
    "network: dead",
    "network: silence",
    "no room for the next segment",
    "operator: moves away",
    "server: has shut down",
    "server: is replaced, on timeline",
    "server: lacks what is stored",
    "tells of WAL that is only here, from",
    "the process ends with an error",
    "writes",
    "writes durably",
];

/// Lives are lived by so many threads.
const THREADS: usize = 2;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value} is no number")),
    )
}

/// The seeds to live: how many, from which on, and for how long at most.
struct Seeds {
    next: AtomicU64,
    end: u64,
    until: Option<Instant>,
}

impl Seeds {
    fn chosen() -> Seeds {
        let clock = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs());
        match number("SIMULATE_FOR") {
            Some(seconds) => Seeds {
                next: AtomicU64::new(number("SEED_FROM").unwrap_or(clock * 1_000_000)),
                end: u64::MAX,
                until: Some(Instant::now() + Duration::from_secs(seconds)),
            },
            None => {
                let from = number("SEED_FROM").unwrap_or(0);
                Seeds {
                    next: AtomicU64::new(from),
                    end: from + number("SEEDS").unwrap_or(SEEDS),
                    until: None,
                }
            }
        }
    }

    fn next(&self) -> Option<u64> {
        let is_late = self.until.is_some_and(|until| Instant::now() >= until);
        let seed = self.next.fetch_add(1, Ordering::Relaxed);
        (seed < self.end && !is_late).then_some(seed)
    }
}

#[test]
fn any_life_keeps_what_was_acknowledged_and_ends_with_all_of_it() {
    if let Some(seed) = number("SEED") {
        let Lived { hash, seconds, .. } = live(seed, true);
        eprintln!("seed {seed}: {seconds:.3} s, hash {hash:016x}");
        return;
    }
    let seeds = Seeds::chosen();
    let has_failed = AtomicBool::new(false);
    let totals: Mutex<(u64, f64, BTreeMap<&'static str, u64>)> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(seed) = seeds.next() {
                    if has_failed.load(Ordering::Relaxed) {
                        return;
                    }
                    let failed = Failing(&has_failed);
                    let lived = live(seed, false);
                    drop(failed);
                    let mut totals = totals.lock().expect("no other panics with it");
                    totals.0 += 1;
                    totals.1 += lived.seconds;
                    for (what, count) in lived.counts {
                        *totals.2.entry(what).or_default() += count;
                    }
                }
            });
        }
    });
    let (lives, seconds, counts) = totals.into_inner().expect("no panic");
    eprintln!("{lives} lives, {seconds:.0} s of virtual time");
    for (what, count) in &counts {
        eprintln!("{count:>10} {what}");
    }
    let missing: Vec<_> = HAPPENS
        .iter()
        .filter(|what| !counts.contains_key(**what))
        .collect();
    assert!(lives < MANY || missing.is_empty(), "never happened: {missing:?}");
}

/// Stops the other threads when this one panics.
struct Failing<'a>(&'a AtomicBool);

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_seed_is_the_same_life_again() {
    for seed in 0..10 {
        let (first, second) = (live(seed, false), live(seed, false));
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.counts, second.counts, "seed {seed}");
    }
}

#[test]
fn the_bugs_that_the_simulation_finds_can_still_be_put_in() {
    let root = env!("CARGO_MANIFEST_DIR");
    if Command::new("git").arg("--version").output().is_err() {
        return skip::skip("whether the patches in tests/bugs apply: git is missing");
    }
    let entries = std::fs::read_dir(format!("{root}/tests/bugs")).expect("bugs");
    let patches: Vec<_> = entries.map(|entry| entry.expect("a patch").path()).collect();
    assert!(patches.len() >= 7, "{patches:?}");
    for patch in patches {
        let text = std::fs::read_to_string(&patch).expect("a patch");
        assert!(
            text.contains("\nSeeds: "),
            "{} does not say how many lives it needs",
            patch.display()
        );
        let check = Command::new("git")
            .args(["apply", "--check"])
            .arg(&patch)
            .current_dir(root)
            .output();
        let output = check.expect("git runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {error}", patch.display());
    }
}
