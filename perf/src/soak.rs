//! `walring-perf soak`: walring under load and faults for a long time.
//!
//! ```text
//!  load (remembers what was acknowledged) --> primary --> relay --> receiver: synchronous, ended and started again
//!                                                    \--> relay --> witness: asynchronous, lives all the time
//!  faults: one after the other, each followed by a wait until everything is acknowledged again
//!  observers: compare what is stored with the primary's, remove it as an archiver would; sample the processes
//!  at the end: a base backup and what was received must have every acknowledged commit
//! ```
//!
//! It fails, and ends at once, when a stored byte is wrong, when something acknowledged is not there, when a
//! receiver ends by itself, hangs or panics, and when nothing moves for a minute after a fault; and at the end
//! when a process that lived long holds more than it did early ([`watch`] has the bounds), or a commit is lost.

mod archive;
mod faults;
mod observers;
mod receivers;
mod relay;
mod restore;
mod scene;
mod summary;
mod traffic;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use fastrand::Rng;

use crate::{interrupt, machine};
use faults::{Deck, Fault};
use observers::Observers;
use scene::{Scene, lock, pause};
use summary::{Held, Tally};
use traffic::Traffic;
use watch::{Growth, drift};

pub use summary::Summary;

/// For so long faults end the receiver's process, for so long they do not, in turns.
const EPOCH: Duration = Duration::from_secs(300);

/// How old a base backup gets, and so how much WAL is kept.
const BACKUP_AGE: Duration = Duration::from_secs(900);

/// The command line.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How long, such as 90s, 65m, 24h; longer if not every fault has come by then
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = parse_time)]
    time: Duration,
    /// All that is random comes from here; how threads take turns does not
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Faults [default: all that are possible here]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    faults: Vec<Fault>,
    /// Commits a second at busy times, of all clients together
    #[arg(long, default_value_t = 300.0)]
    rate: f64,
    /// Clients
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    clients: u32,
    /// The pause between faults, on average
    #[arg(long, value_name = "TIME", default_value = "4s", value_parser = parse_time)]
    gap: Duration,
    /// The size of a segment, MiB
    #[arg(long, default_value_t = 2)]
    segment_mib: u32,
    /// The disk that is received to: nvme, ssd, emmc or hdd (emulated, in memory), or given (the one of --dir)
    #[arg(long, default_value = "nvme")]
    disk: String,
    /// A directory on a disk, for new directories with what is stored
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Where soak.json, soak.md and the receivers' logs are put
    #[arg(long, value_name = "DIR", default_value = "target/soak")]
    out: PathBuf,
    /// This walring, in place of $WALRING or the one built beside this program
    #[arg(long, value_name = "PATH")]
    receiver: Option<PathBuf>,
}

fn parse_time(text: &str) -> std::result::Result<Duration, String> {
    let time: jiff::SignedDuration = text.parse().map_err(|_| "not a time such as 65m".to_owned())?;
    match Duration::try_from(time) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("not a time that passes".to_owned()),
    }
}

/// Runs it, writes and prints what came of it; an error if anything was wrong.
pub fn run(options: &Options) -> Result<()> {
    interrupt::listen()?;
    let mut course = Course::begin(options)?;
    let outcome = course.run().and_then(|()| course.end());
    let summary = course.summary(outcome.as_ref().err());
    std::fs::write(
        options.out.join("soak.json"),
        serde_json::to_string_pretty(&summary)?,
    )
    .context("write soak.json")?;
    let markdown = summary.markdown();
    std::fs::write(options.out.join("soak.md"), &markdown).context("write soak.md")?;
    print!("{markdown}");
    outcome
}

/// A soak that is under way.
struct Course<'a> {
    options: &'a Options,
    begun: Instant,
    started: jiff::Timestamp,
    random: Rng,
    deck: Deck,
    recoveries: BTreeMap<Fault, Vec<Duration>>,
    faults: Arc<AtomicU32>,
    restored: Option<u64>,
    /// Before the scene, which ends the primary, and with it commits that would wait for ever.
    observers: Observers,
    scene: Scene,
    traffic: Traffic,
}

impl Course<'_> {
    fn begin(options: &Options) -> Result<Course<'_>> {
        let mut scene = Scene::set(options)?;
        let traffic = Traffic::start(traffic::Settings {
            config: scene.primary.load_config(),
            clients: options.clients,
            rate: options.rate,
            phase: (options.time / 6).min(Duration::from_secs(40)),
            seed: options.seed,
        });
        scene.load = Some(traffic.shared());
        let interval = (options.time / 6).clamp(Duration::from_secs(5), Duration::from_secs(60));
        let faults = Arc::default();
        let mut random = Rng::with_seed(options.seed);
        Ok(Course {
            options,
            begun: Instant::now(),
            started: jiff::Timestamp::now(),
            deck: Deck::new(possible(options, &scene)?, random.fork()),
            random,
            recoveries: BTreeMap::new(),
            observers: Observers::start(&scene, &traffic.shared(), interval, &faults),
            faults,
            restored: None,
            scene,
            traffic,
        })
    }

    /// Faults, until the time is over.
    fn run(&mut self) -> Result<()> {
        let mut backup_due = self.begun + BACKUP_AGE;
        while self.begun.elapsed() < self.options.time || !self.deck.was_complete() {
            let gap = self.options.gap.mul_f64(0.5 + self.random.f64());
            self.wait(gap)?;
            if Instant::now() >= backup_due {
                backup_due += BACKUP_AGE;
                self.scene.back_up()?;
            }
            let epochs = self.begun.elapsed().as_secs() / EPOCH.as_secs();
            let calm = self.options.time > 2 * EPOCH && epochs % 2 == 1;
            let Some(fault) = self.deck.draw(calm) else {
                continue;
            };
            let recovered = self.survive(fault);
            let recovered = recovered.with_context(|| format!("after the fault {}", fault.name()));
            self.recoveries.entry(fault).or_default().push(recovered?);
            if !fault.is_chore() {
                self.faults.fetch_add(1, Ordering::SeqCst);
            }
        }
        Ok(())
    }

    /// One fault, until everything is acknowledged again. Returns how long that took.
    fn survive(&mut self, fault: Fault) -> Result<Duration> {
        self.scene.apply(fault, &mut self.random)?;
        let recovered = self.scene.wait_until_streaming()?;
        self.check()?;
        Ok(recovered)
    }

    fn wait(&mut self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            self.check()?;
            pause(Duration::from_millis(200).min(end.saturating_duration_since(Instant::now())))?;
        }
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        self.scene.check_receivers()?;
        self.observers.failure().map_or(Ok(()), |failure| bail!(failure))
    }

    /// Everything is looked at a last time.
    fn end(&mut self) -> Result<()> {
        if !self.traffic.stop() {
            bail!("commits did not return within a minute");
        }
        self.scene.load = None;
        // What the server writes by itself after this may not have been received when the receivers end.
        let end = self.scene.primary.flushed()?;
        self.scene.wait_until_streaming()?;
        self.observers.stop();
        self.check()?;
        self.scene.end_receivers(end)?;
        self.restored = Some(self.restore()?);
        let seen = lock(&self.observers.seen);
        for (receiver, samples) in self.scene.receivers.iter().zip(&seen.samples) {
            if let Some(excess) = Growth::of(samples).and_then(|growth| growth.excess()) {
                bail!("the {}: {excess}", receiver.name);
            }
        }
        Ok(())
    }

    fn restore(&mut self) -> Result<u64> {
        let scene = &mut self.scene;
        let copies = scene.copies.path();
        lock(&scene.archives[scene::RECEIVER]).copy_rest(copies)?;
        let backup = scene
            .backup
            .take()
            .ok_or_else(|| anyhow!("there is no base backup"))?;
        let mut restored = backup.restore(&scene.programs.installation, copies, &scene.primary)?;
        restore::check_commits(&mut restored, &self.traffic.shared())
    }

    fn summary(&mut self, failure: Option<&anyhow::Error>) -> Summary {
        self.observers.stop();
        let load = self.traffic.shared();
        let seen = lock(&self.observers.seen);
        let ms = |quantile| {
            let latencies = seen.latencies_us.as_ref();
            latencies.map(|latencies| latencies.value_at_quantile(quantile) as f64 / 1e3)
        };
        let scene = &self.scene;
        let tally = |(fault, recoveries): (&Fault, &mut Vec<Duration>)| Tally::of(*fault, recoveries);
        Summary {
            started: self.started.strftime("%F %H:%M UTC").to_string(),
            lasted_s: self.begun.elapsed().as_secs_f64(),
            seed: self.options.seed,
            failure: failure.map(|error| format!("{error:#}")),
            machine: machine::describe(&scene.programs, &scene.primary).ok(),
            disk: scene.disk_about.clone(),
            rate: self.options.rate,
            clients: self.options.clients,
            segment_mib: self.options.segment_mib,
            commits: load.commits(),
            unheard: load.failed(),
            loads: load.loads(),
            wal_bytes: load.position().saturating_sub(scene.first),
            claims_checked: seen.claims_checked,
            most_pg_wal: seen.most_pg_wal,
            faults: self.recoveries.iter_mut().map(tally).collect(),
            receivers: (0..2).map(|index| held(scene, &seen, index)).collect(),
            latency_ms: ms(0.5).zip(ms(0.99)),
            drift_ms: drift(&seen.minutes),
            minutes: seen.minutes.clone(),
            restored: self.restored,
        }
    }
}

fn held(scene: &Scene, seen: &observers::Seen, index: usize) -> Held {
    let (receiver, samples) = (&scene.receivers[index], &seen.samples[index]);
    let archive = lock(&scene.archives[index]);
    Held {
        name: receiver.name.to_owned(),
        starts: receiver.starts,
        longest_s: receiver.longest.as_secs_f64(),
        ends: samples
            .first()
            .zip(samples.last())
            .map(|(first, last)| (first.footprint, last.footprint)),
        growth: Growth::of(samples),
        segments: archive.segments,
        most_files: archive.most_files,
        full_disks: receiver.full_disks,
    }
}

/// The faults that were asked for; by default all that are possible.
fn possible(options: &Options, scene: &Scene) -> Result<Vec<Fault>> {
    let can_fill = scene.disk.is_some();
    if !options.faults.is_empty() {
        if options.faults.contains(&Fault::FullDisk) && !can_fill {
            bail!(
                "the fault full-disk needs an emulated disk; here is {}",
                scene.disk_about
            );
        }
        return Ok(options.faults.clone());
    }
    if !can_fill {
        eprintln!("the fault full-disk is left out: {}", scene.disk_about);
    }
    let all = Fault::value_variants().iter().copied();
    Ok(all
        .filter(|fault| can_fill || *fault != Fault::FullDisk)
        .collect())
}
