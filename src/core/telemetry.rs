//! What a running receiver shows of itself to other threads: metrics, health, summaries.
//!
//! The data path never waits for a reader: gauges are atomics, and measured values go through a
//! buffer that is emptied when the histograms are free.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::lsn::{Lsn, SegmentSize, Timeline};
use super::measure::{Measure, Measures};

/// What the receiver is doing; the numbers are postgres_exporter's for `pg_stat_wal_receiver_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Activity {
    /// Not running, or about to exit.
    Stopped = 0,
    /// Connecting, asking the server, looking into the directory.
    Starting = 1,
    /// WAL flows, or would.
    Streaming = 2,
    /// Waiting before the next attempt to connect.
    Waiting = 3,
    /// Connecting again after a lost connection.
    Restarting = 4,
}

impl Activity {
    /// The state as a word, as `pg_stat_wal_receiver.status` has it.
    pub fn word(self) -> &'static str {
        match self {
            Activity::Stopped => "stopped",
            Activity::Starting => "starting",
            Activity::Streaming => "streaming",
            Activity::Waiting => "waiting",
            Activity::Restarting => "restarting",
        }
    }

    fn from_code(code: u8) -> Activity {
        match code {
            1 => Activity::Starting,
            2 => Activity::Streaming,
            3 => Activity::Waiting,
            4 => Activity::Restarting,
            _ => Activity::Stopped,
        }
    }
}

/// A number that grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// How many so far.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A position.
#[derive(Debug, Default)]
pub struct Position(AtomicU64);

impl Position {
    /// It is there now.
    pub fn set(&self, lsn: Lsn) {
        self.0.store(lsn.0, Relaxed);
    }

    /// Where it is; `0/0` before anything is known.
    pub fn value(&self) -> Lsn {
        Lsn(self.0.load(Relaxed))
    }
}

/// A moment in microseconds since 1970 UTC; zero: never yet.
#[derive(Debug, Default)]
pub struct Moment(AtomicI64);

impl Moment {
    /// It was then.
    pub fn set(&self, unix_us: i64) {
        self.0.store(unix_us, Relaxed);
    }

    /// When it was, in microseconds since 1970 UTC.
    pub fn value(&self) -> Option<i64> {
        Some(self.0.load(Relaxed)).filter(|&at| at != 0)
    }
}

/// What the disk was asked for and what it has answered.
#[derive(Debug, Default)]
pub struct Dialogue {
    asked: Counter,
    answered: Counter,
}

impl Dialogue {
    /// The disk is to do something.
    pub fn asked(&self) {
        self.asked.increment();
    }

    /// It has done that, or failed.
    pub fn answered(&self) {
        self.answered.increment();
    }

    /// The disk does something that is waited for in place. While it owes something else, that is its silence: what it
    /// has in memory it may go on answering.
    pub fn ask<T>(&self, work: impl FnOnce() -> T) -> T {
        if self.open().is_some() {
            return work();
        }
        self.asked();
        let answer = work();
        self.answered();
        answer
    }

    /// Nothing that was asked is waited for any more.
    pub fn close(&self) {
        self.answered.0.store(self.asked.value(), Relaxed);
    }

    /// How often it has answered, if it has not answered everything.
    pub fn open(&self) -> Option<u64> {
        let answered = self.answered.value();
        (self.asked.value() > answered).then_some(answered)
    }
}

/// Words that change with the connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upstream {
    /// The server's host: a name, an address or a socket directory.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The address and port that it was reached by; a socket has none.
    pub address: Option<String>,
    /// Its `server_version`.
    pub server_version: String,
    /// Its system identifier; zero before it is known.
    pub system_identifier: u64,
    /// The size of its segments; `None` before it is known.
    pub segment_size: Option<SegmentSize>,
}

/// All of it. One for the process, shared by reference or `Arc`.
#[derive(Debug, Default)]
pub struct Telemetry {
    activity: AtomicU8,
    timeline: AtomicU32,
    /// Where streaming started on this connection.
    pub start: Position,
    /// The end of what arrived.
    pub received: Position,
    /// The end of what was written.
    pub written: Position,
    /// The end of what is durable.
    pub flushed: Position,
    /// The flush position that the server was told last; `0/0` if it is never told.
    pub reported: Position,
    /// The end of what was verified.
    pub verified: Position,
    /// How far the server could send when it spoke last.
    pub server_end: Position,
    /// WAL bytes received, ever.
    pub received_bytes: Counter,
    /// WAL messages received, ever.
    pub messages: Counter,
    /// Transactions received, ever.
    pub transactions: Counter,
    /// Records verified, ever.
    pub records: Counter,
    /// Segments completed, ever.
    pub segments: Counter,
    /// Connections begun after the first.
    pub reconnects: Counter,
    /// Questions to the disk, and its answers.
    pub disk: Dialogue,
    /// Operations of the disk that failed.
    pub disk_errors: Counter,
    /// Pages or records that failed verification.
    pub verification_failures: Counter,
    /// When the server last sent anything, by our clock.
    pub last_receipt: Moment,
    /// When the server sent that, by its clock.
    pub last_send: Moment,
    /// When everything that the server was known to have was last durable here, by our clock.
    pub last_caught_up: Moment,
    /// The server's time of the last commit that is durable here.
    pub last_commit: Moment,
    /// Turns of the event loop, counted now and then while somebody watches: it is alive.
    pub beats: Counter,
    missing_room: AtomicU64,
    trouble: Mutex<String>,
    upstream: Mutex<Upstream>,
    measures: Mutex<Measures>,
}

impl Telemetry {
    /// What the receiver is doing.
    pub fn activity(&self) -> Activity {
        Activity::from_code(self.activity.load(Relaxed))
    }

    /// It is doing this now.
    pub fn set_activity(&self, activity: Activity) {
        self.activity.store(activity as u8, Relaxed);
    }

    /// The timeline that is received; `None` before that is known.
    pub fn timeline(&self) -> Option<Timeline> {
        Some(Timeline(self.timeline.load(Relaxed))).filter(|timeline| timeline.0 != 0)
    }

    /// This timeline is received now.
    pub fn set_timeline(&self, timeline: Timeline) {
        self.timeline.store(timeline.0, Relaxed);
    }

    /// Bytes for which there is no room in the directory: those of the next segment. Zero: there is room.
    pub fn missing_room(&self) -> u64 {
        self.missing_room.load(Relaxed)
    }

    /// There is no room for so many bytes, or there is again.
    pub fn set_missing_room(&self, bytes: u64) {
        self.missing_room.store(bytes, Relaxed);
    }

    /// The server.
    pub fn upstream(&self) -> Upstream {
        locked(&self.upstream).clone()
    }

    /// Another server, or the same again.
    pub fn set_upstream(&self, upstream: Upstream) {
        *locked(&self.upstream) = upstream;
    }

    /// Why there was no stream last; empty if there has always been one.
    pub fn trouble(&self) -> String {
        locked(&self.trouble).clone()
    }

    /// This ended the stream, or kept it from beginning.
    pub fn set_trouble(&self, trouble: String) {
        *locked(&self.trouble) = trouble;
    }

    /// The histograms. Hold them no longer than it takes to copy what is needed.
    pub fn measures(&self) -> MutexGuard<'_, Measures> {
        locked(&self.measures)
    }
}

/// A thread that died while it read or recorded left numbers behind, which are still numbers.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Measured values on their way to the histograms: they wait here while somebody reads those.
#[derive(Debug)]
pub struct Recorder {
    pending: Vec<Measure>,
}

impl Recorder {
    const CAPACITY: usize = 4096;

    /// Nothing is pending; no memory is allocated after this.
    pub fn new() -> Recorder {
        Recorder {
            pending: Vec::with_capacity(Recorder::CAPACITY),
        }
    }

    /// Counts one value, now or soon.
    pub fn record(&mut self, telemetry: &Telemetry, measure: Measure) {
        if self.pending.len() == Recorder::CAPACITY {
            self.empty_into(&mut telemetry.measures());
        }
        self.pending.push(measure);
    }

    /// Brings what is pending to the histograms unless somebody is reading them.
    pub fn settle(&mut self, telemetry: &Telemetry) {
        if self.pending.is_empty() {
            return;
        }
        if let Ok(mut measures) = telemetry.measures.try_lock() {
            self.empty_into(&mut measures);
        }
    }

    /// Brings what is pending to the histograms, waiting for them if need be.
    pub fn finish(&mut self, telemetry: &Telemetry) {
        self.empty_into(&mut telemetry.measures());
    }

    fn empty_into(&mut self, measures: &mut Measures) {
        for measure in self.pending.drain(..) {
            measures.record(measure);
        }
    }
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_answered_at_once_does_not_pass_for_the_answer_that_is_owed() {
        let disk = Dialogue::default();
        disk.ask(|| assert_eq!(disk.open(), Some(0)));
        assert_eq!(disk.open(), None);
        disk.asked();
        let owed = disk.open();
        disk.ask(|| ());
        assert_eq!((disk.open(), owed), (owed, Some(1)));
        disk.answered();
        assert_eq!(disk.open(), None);
    }

    #[test]
    fn nothing_measured_is_lost_while_somebody_reads() {
        let telemetry = Telemetry::default();
        let mut recorder = Recorder::new();
        let reader = telemetry.measures();
        recorder.record(&telemetry, Measure::Durable(Duration::from_micros(7)));
        recorder.settle(&telemetry);
        assert_eq!(reader.durable.histogram().len(), 0);
        drop(reader);
        recorder.settle(&telemetry);
        assert_eq!(telemetry.measures().durable.histogram().max(), 7);
    }
}
