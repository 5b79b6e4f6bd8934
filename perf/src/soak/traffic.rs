//! The load of a soak: clients that commit at a set rate and remember what was acknowledged, and come back whatever
//! happens to the primary.
//!
//! Commits are due at random moments and timed from there. What was due while a client had no connection is dropped; a
//! commit that waits, because the receiver is away or held up, is timed to its end, and those behind it too.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastrand::Rng;
use hdrhistogram::Histogram;
use postgres::{Client, NoTls};

use super::scene::lock;

/// Rows that are updated, so that there is something to vacuum.
const ACCOUNTS: i32 = 10_000;

/// What there must be before the load starts.
pub const SCHEMA: &str = "CREATE TABLE ledger (client int, number int8, PRIMARY KEY (client, number));
    CREATE TABLE accounts (id int PRIMARY KEY, balance int8) WITH (fillfactor = 50);
    INSERT INTO accounts SELECT id, 0 FROM generate_series(0, 9999) AS id;
    CREATE TABLE bulk (id int, content text)";

/// One commit. The position it returns is one before the commit's own record.
const COMMIT: &str = "WITH updated AS (UPDATE accounts SET balance = balance + 1 WHERE id = $3)
    INSERT INTO ledger VALUES ($1, $2) RETURNING (pg_current_wal_insert_lsn() - '0/0')::int8";

/// A bulk load of about 2 MiB.
const LOAD: &str =
    "INSERT INTO bulk SELECT id, repeat(md5(id::text), 32) FROM generate_series(1, 2000) AS id";

/// Whether commits wait for a receiver.
const SYNCHRONOUS: &str =
    "SELECT count(*) > 0 FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'sync'";

/// The longest a client sleeps before it looks whether anything changed.
const NAP: Duration = Duration::from_millis(50);

/// What is going on, in turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// Commits at the full rate.
    Commits,
    /// Half of them, and a bulk load each second.
    Bulk,
    /// Two a second.
    Idle,
}

impl Phase {
    const ALL: [Phase; 3] = [Phase::Commits, Phase::Bulk, Phase::Idle];

    /// Commits a second, of all clients together.
    fn rate(self, full: f64) -> f64 {
        match self {
            Phase::Commits => full,
            Phase::Bulk => full / 2.0,
            Phase::Idle => full.min(2.0),
        }
    }
}

/// How much there is to do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where clients connect.
    pub config: String,
    /// So many.
    pub clients: u32,
    /// Commits a second, of all together.
    pub rate: f64,
    /// A phase takes between half of this and this.
    pub phase: Duration,
    /// All that is random comes from here.
    pub seed: u64,
}

/// The load, running. [`Traffic::stop`] ends it.
pub struct Traffic {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
}

/// What the clients' threads share.
pub struct Shared {
    settings: Settings,
    stopped: AtomicBool,
    phase: AtomicU8,
    commits: AtomicU64,
    failed: AtomicU64,
    loads: AtomicU64,
    position: AtomicU64,
    latencies_us: Mutex<Histogram<u64>>,
    acknowledged: Vec<Mutex<Vec<Range<i64>>>>,
}

impl Traffic {
    /// Starts it.
    pub fn start(settings: Settings) -> Traffic {
        let acknowledged = (0..settings.clients).map(|_| Mutex::default()).collect();
        let shared = Arc::new(Shared {
            settings,
            stopped: AtomicBool::new(false),
            phase: AtomicU8::new(Phase::Commits as u8),
            commits: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            loads: AtomicU64::new(0),
            position: AtomicU64::new(0),
            latencies_us: Mutex::new(new_histogram()),
            acknowledged,
        });
        let spawn = |work: fn(&Shared, u32), number: u32| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || work(&shared, number))
        };
        let clients = (0..shared.settings.clients).map(|number| spawn(Shared::commit, number));
        Traffic {
            clients: clients.collect(),
            others: vec![spawn(Shared::change_phases, 0), spawn(Shared::load, 0)],
            shared,
        }
    }

    /// For those who want to know how it goes.
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// No further commit begins; waits for those under way. False if they did not end within a minute: then they do
    /// when the primary does.
    pub fn stop(&mut self) -> bool {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let end = Instant::now() + Duration::from_secs(60);
        let mut threads = self.clients.iter().chain(&self.others);
        while !threads.clone().all(JoinHandle::is_finished) {
            if Instant::now() > end {
                return threads.all(JoinHandle::is_finished);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

impl Shared {
    /// Commits that were acknowledged.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::SeqCst)
    }

    /// Commits whose outcome their client never heard.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::SeqCst)
    }

    /// Bulk loads that were acknowledged.
    pub fn loads(&self) -> u64 {
        self.loads.load(Ordering::SeqCst)
    }

    /// The WAL up to here was acknowledged to a client.
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::SeqCst)
    }

    /// How long commits took since the last call, µs.
    pub fn take_latencies(&self) -> Histogram<u64> {
        std::mem::replace(&mut *lock(&self.latencies_us), new_histogram())
    }

    /// The numbers that were acknowledged, by client.
    pub fn acknowledged(&self) -> Vec<Vec<Range<i64>>> {
        self.acknowledged
            .iter()
            .map(|ranges| lock(ranges).clone())
            .collect()
    }

    fn goes_on(&self) -> bool {
        !self.stopped.load(Ordering::SeqCst)
    }

    fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Ordering::SeqCst))]
    }

    /// Sleeps until `due`, and no longer than all goes on and the phase stays. Whether it is due.
    fn sleep_until(&self, due: Instant) -> bool {
        let phase = self.phase();
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.goes_on() || self.phase() != phase {
                return left.is_zero() && self.goes_on();
            }
            std::thread::sleep(left.min(NAP));
        }
    }

    /// One connection, once commits wait for the receiver.
    ///
    /// A server that has just started may not know yet that commits wait, so that one could return at once: no receiver
    /// is to be blamed for that.
    fn connect(&self) -> Option<Client> {
        let mut client = Client::connect(&self.settings.config, NoTls).ok()?;
        while self.goes_on() {
            if client.query_one(SYNCHRONOUS, &[]).ok()?.get(0) {
                return Some(client);
            }
            std::thread::sleep(NAP);
        }
        None
    }

    /// A client: commits, and connects again, until the end.
    fn commit(&self, number: u32) {
        let mut random = Rng::with_seed(self.settings.seed ^ u64::from(number) << 32);
        let mut next = 0;
        while self.goes_on() {
            match self.connect() {
                Some(mut connection) => next = self.commit_on(&mut connection, number, next, &mut random),
                None => std::thread::sleep(NAP),
            }
        }
    }

    /// Commits until the connection ends. Returns the next number.
    fn commit_on(&self, connection: &mut Client, client: u32, first: i64, random: &mut Rng) -> i64 {
        let Ok(statement) = connection.prepare(COMMIT) else {
            return first;
        };
        lock(&self.acknowledged[client as usize]).push(first..first);
        let (mut number, mut due) = (first, Instant::now());
        while self.goes_on() {
            let share = self.phase().rate(self.settings.rate) / f64::from(self.settings.clients);
            // 1 - [0, 1) is never zero. Where the phase changes before it is due, another moment is chosen.
            let next = due + Duration::from_secs_f64(-(1.0 - random.f64()).ln() / share);
            if !self.sleep_until(next) {
                due = due.max(Instant::now());
                continue;
            }
            due = next;
            let account = random.i32(0..ACCOUNTS);
            number += 1;
            match connection.query_one(&statement, &[&client.cast_signed(), &(number - 1), &account]) {
                Ok(row) => self.note(client, number, row.get(0), due.elapsed()),
                Err(_) => {
                    self.failed.fetch_add(1, Ordering::SeqCst);
                    return number;
                }
            }
        }
        number
    }

    /// A commit was acknowledged; `next` is the number behind its own.
    fn note(&self, client: u32, next: i64, position: i64, took: Duration) {
        if let Some(range) = lock(&self.acknowledged[client as usize]).last_mut() {
            range.end = next;
        }
        self.position.fetch_max(position.unsigned_abs(), Ordering::SeqCst);
        self.commits.fetch_add(1, Ordering::SeqCst);
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        lock(&self.latencies_us).saturating_record(took_us);
    }

    fn change_phases(&self, _: u32) {
        let mut random = Rng::with_seed(self.settings.seed ^ 1);
        while self.goes_on() {
            let end = Instant::now() + self.settings.phase.mul_f64(0.5 + random.f64() / 2.0);
            self.sleep_until(end);
            // Another one than the last.
            let phase = (self.phase() as u8 + random.u8(1..3)) % 3;
            self.phase.store(phase, Ordering::SeqCst);
        }
    }

    /// Loads a table during [`Phase::Bulk`], and empties it now and then.
    fn load(&self, _: u32) {
        while self.goes_on() {
            let mut connection = None;
            while self.goes_on() && self.phase() == Phase::Bulk {
                connection = connection.or_else(|| self.connect());
                let empties = self.loads() % 16 == 15;
                let done = match &mut connection {
                    Some(client) if empties => client.batch_execute("TRUNCATE bulk"),
                    Some(client) => client.batch_execute(LOAD),
                    None => break,
                };
                match done {
                    Ok(()) => self.loads.fetch_add(1, Ordering::SeqCst),
                    Err(_) => break,
                };
                self.sleep_until(Instant::now() + Duration::from_secs(1));
            }
            std::thread::sleep(NAP);
        }
    }
}

/// 1 µs to ten minutes, to three digits.
fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("bounds that are right")
}
