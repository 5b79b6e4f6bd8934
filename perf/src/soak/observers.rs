//! Two threads that look on: one at what is stored, one at what the receivers hold and how long commits take.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use postgres::{Client, NoTls};

use super::archive::Archive;
use super::scene::{RECEIVER, Scene, lock};
use super::traffic::Shared;
use super::watch::{Minute, Sample};
use crate::observe::footprint;

/// How often stored WAL is looked at.
const ARCHIVE_EVERY: Duration = Duration::from_millis(500);

/// How often processes are looked at.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);

/// How far both receivers say they have stored the WAL.
const CLAIMS: &str =
    "SELECT application_name, (flush_lsn - '0/0')::int8 FROM pg_stat_replication WHERE flush_lsn IS NOT NULL";

/// What was seen so far.
#[derive(Default)]
pub struct Seen {
    /// Of both receivers.
    pub samples: [Vec<Sample>; 2],
    /// Minute by minute, or shorter in a short run.
    pub minutes: Vec<Minute>,
    /// The latencies of all commits, µs.
    pub latencies_us: Option<Histogram<u64>>,
    /// The most files that were in the primary's `pg_wal`.
    pub most_pg_wal: u64,
    /// How often it was looked whether what receivers claim is stored.
    pub claims_checked: u64,
    /// What is wrong with what is stored.
    pub failure: Option<String>,
}

/// The threads; they end when this goes out of scope.
pub struct Observers {
    stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// What they saw.
    pub seen: Arc<Mutex<Seen>>,
}

impl Observers {
    /// Starts them. Latencies are summed up over `interval`.
    pub fn start(
        scene: &Scene,
        load: &Arc<Shared>,
        interval: Duration,
        faults: &Arc<AtomicU32>,
    ) -> Observers {
        let stopped = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let archiver = Archiver {
            config: format!(
                "{} options='-c synchronous_commit=local'",
                scene.primary.load_config()
            ),
            load: Arc::clone(load),
            archives: scene.archives.clone(),
            names: scene.receivers.each_ref().map(|receiver| receiver.name),
            claims: [0; 2],
            client: None,
            seen: Arc::clone(&seen),
        };
        let watcher = Watcher {
            begun: Instant::now(),
            interval,
            processes: scene
                .receivers
                .each_ref()
                .map(|receiver| Arc::clone(&receiver.process)),
            pg_wal: scene.primary.pg_wal(),
            load: Arc::clone(load),
            faults: Arc::clone(faults),
            seen: Arc::clone(&seen),
            position: 0,
        };
        let (first, second) = (Arc::clone(&stopped), Arc::clone(&stopped));
        let threads = vec![
            std::thread::spawn(move || archiver.run(&first)),
            std::thread::spawn(move || watcher.run(&second)),
        ];
        Observers {
            stopped,
            threads,
            seen,
        }
    }

    /// What is wrong with what is stored, if anything is.
    pub fn failure(&self) -> Option<String> {
        lock(&self.seen).failure.clone()
    }

    /// Ends them.
    pub fn stop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            // One that panicked has found something.
            if thread.join().is_err() {
                lock(&self.seen).failure = Some("an observer panicked".to_owned());
            }
        }
    }
}

impl Drop for Observers {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Compares what is stored, and lets the primary forget what was compared.
struct Archiver {
    config: String,
    load: Arc<Shared>,
    archives: [Arc<Mutex<Archive>>; 2],
    names: [&'static str; 2],
    /// How far each receiver ever said that it has stored the WAL.
    claims: [u64; 2],
    client: Option<Client>,
    seen: Arc<Mutex<Seen>>,
}

impl Archiver {
    fn run(mut self, stopped: &AtomicBool) {
        while !stopped.load(Ordering::SeqCst) {
            // The primary is away now and then.
            if self.ask().is_err() {
                self.client = None;
            }
            self.claims[RECEIVER] = self.claims[RECEIVER].max(self.load.position());
            for (archive, claim) in self.archives.iter().zip(self.claims) {
                if let Err(error) = lock(archive).look(claim) {
                    lock(&self.seen).failure = Some(format!("{error:#}"));
                    return;
                }
            }
            lock(&self.seen).claims_checked += 1;
            if self.forget().is_err() {
                self.client = None;
            }
            std::thread::sleep(ARCHIVE_EVERY);
        }
    }

    fn ask(&mut self) -> Result<(), postgres::Error> {
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert(Client::connect(&self.config, NoTls)?),
        };
        for row in client.query(CLAIMS, &[])? {
            let (name, flushed): (String, i64) = (row.get(0), row.get(1));
            if let Some(index) = self.names.iter().position(|known| *known == name) {
                self.claims[index] = self.claims[index].max(flushed.unsigned_abs());
            }
        }
        Ok(())
    }

    /// A slot keeps the primary's WAL until it was compared with both receivers'.
    fn forget(&mut self) -> Result<(), postgres::Error> {
        let compared = self.archives.iter().map(|archive| lock(archive).compared());
        let (Some(first), Some(client)) = (compared.min(), &mut self.client) else {
            return Ok(());
        };
        client.batch_execute(&format!(
            "SELECT pg_replication_slot_advance(slot_name, '0/0'::pg_lsn + {first}) FROM pg_replication_slots \
             WHERE slot_name = 'keep' AND restart_lsn - '0/0' < {first}"
        ))
    }
}

/// Watches the processes, and tells each minute how it goes.
struct Watcher {
    begun: Instant,
    interval: Duration,
    processes: [Arc<AtomicU32>; 2],
    pg_wal: PathBuf,
    load: Arc<Shared>,
    faults: Arc<AtomicU32>,
    seen: Arc<Mutex<Seen>>,
    position: u64,
}

impl Watcher {
    fn run(mut self, stopped: &AtomicBool) {
        let mut minute = self.begun + self.interval;
        let mut sample = self.begun;
        while !stopped.load(Ordering::SeqCst) {
            if Instant::now() >= sample {
                sample += SAMPLE_EVERY;
                self.sample();
            }
            if Instant::now() >= minute {
                minute += self.interval;
                self.tell();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.tell();
    }

    fn sample(&self) {
        let files = std::fs::read_dir(&self.pg_wal).map_or(0, |entries| entries.count() as u64);
        let mut seen = lock(&self.seen);
        seen.most_pg_wal = seen.most_pg_wal.max(files);
        for (process, samples) in self.processes.iter().zip(&mut seen.samples) {
            let pid = process.load(Ordering::SeqCst);
            // It may just have ended.
            if let Some(footprint) = Some(pid)
                .filter(|pid| *pid > 0)
                .and_then(|pid| footprint(pid).ok())
            {
                let at_s = self.begun.elapsed().as_secs_f64();
                samples.push(Sample { at_s, pid, footprint });
            }
        }
    }

    fn tell(&mut self) {
        let latencies = self.load.take_latencies();
        let ms = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
        let minute = Minute {
            commits: latencies.len(),
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
        };
        let position = self.load.position();
        let mut seen = lock(&self.seen);
        seen.minutes.push(minute);
        match &mut seen.latencies_us {
            Some(all) => all.add(&latencies).expect("the same bounds"),
            none => *none = Some(latencies),
        }
        let held = |samples: &Vec<Sample>| {
            samples.last().map_or_else(String::new, |last| {
                let held = last.footprint;
                format!(
                    "{:.1} MiB, {} fds",
                    held.resident_kib as f64 / 1024.0,
                    held.descriptors
                )
            })
        };
        eprintln!(
            "{:>6.1} min  {:>6} commits  p50 {:>7.2} ms  p99 {:>8.1} ms  {:>6.1} MiB WAL  {:>4} faults  receiver {}  witness {}",
            self.begun.elapsed().as_secs_f64() / 60.0,
            minute.commits,
            minute.p50_ms,
            minute.p99_ms,
            position.saturating_sub(self.position) as f64 / f64::from(1 << 20),
            self.faults.load(Ordering::SeqCst),
            held(&seen.samples[0]),
            held(&seen.samples[1]),
        );
        self.position = position;
    }
}
