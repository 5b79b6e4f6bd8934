//! What can be told about the receiver at any moment, from outside its thread: is it well, what is it
//! doing, all its numbers.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;

use super::options::ReceiveOptions;
use super::past::{Past, Sample};
use super::progress_line::in_units;
use super::savings;
use super::slot_state::SlotState;
use super::status::{Distribution, Latencies, Positions, Savings, SlotWatchStatus, Status, Totals};
use crate::core::lsn::Lsn;
use crate::core::measure::{Measures, Times};
use crate::core::telemetry::{Activity, Telemetry};
use crate::core::wal::Verify;

/// How much later than it should WAL may become durable before the disk counts as stalled.
const DISK_PATIENCE: Duration = Duration::from_secs(10);

/// A turn of the event loop that takes so long will not end. The disk can do that to it, too.
const LOOP_PATIENCE: Duration = Duration::from_secs(10);

/// How much longer than the receive timeout the server may be silent before it counts as stalled.
const SERVER_PATIENCE: Duration = Duration::from_secs(5);

/// A lag of so many bytes is worth mentioning.
const WORTH_MENTIONING: u64 = 16 << 20;

/// One receiver as its observers see it.
#[derive(Debug)]
pub struct Observation {
    telemetry: Arc<Telemetry>,
    about: About,
    began: Instant,
    past: Mutex<Past>,
    /// The replication slot when it was last looked after; `None` if that failed.
    slot_state: Mutex<Option<SlotState>>,
    /// Where a histogram is copied to, so that the receiver can go on with its own.
    copy: Mutex<Times>,
}

/// What the command line says of it.
#[derive(Debug)]
struct About {
    directory: PathBuf,
    slot: Option<String>,
    watches_slot: bool,
    synchronous: bool,
    no_sync: bool,
    verify: Verify,
    status_interval: Option<Duration>,
    receive_timeout: Option<Duration>,
}

/// How long something has lasted.
#[derive(Debug, Clone, Copy, Default)]
struct Lasting {
    /// The event loop has not come back.
    standstill: Duration,
    /// The server has said nothing.
    silence: Duration,
    /// WAL is here and not durable.
    unflushed: Duration,
}

impl About {
    /// What has stalled, if anything has.
    fn stall(&self, lasting: Lasting) -> Option<String> {
        let silent = self.receive_timeout.map(|limit| limit + SERVER_PATIENCE);
        let written = self.status_interval.filter(|_| !self.no_sync);
        let written = written.map(|interval| interval + DISK_PATIENCE);
        let exceeds = |time: Duration, limit: Option<Duration>| limit.is_some_and(|limit| time > limit);
        let (what, time) = if lasting.standstill > LOOP_PATIENCE {
            ("the event loop has been standing still", lasting.standstill)
        } else if exceeds(lasting.unflushed, written) {
            ("received WAL has been waiting for the disk", lasting.unflushed)
        } else if exceeds(lasting.silence, silent) {
            ("the server has said nothing", lasting.silence)
        } else {
            return None;
        };
        Some(format!("{what} for {} seconds", time.as_secs()))
    }
}

impl Observation {
    /// Of a receiver that begins now.
    pub fn new(options: &ReceiveOptions, telemetry: Arc<Telemetry>) -> Observation {
        Observation {
            telemetry,
            about: About {
                directory: options.directory.clone(),
                slot: options.slot.clone(),
                watches_slot: options.slot_watch.is_some(),
                synchronous: options.synchronous,
                no_sync: options.no_sync,
                verify: options.verify,
                status_interval: options.status_interval,
                receive_timeout: options.receive_timeout,
            },
            began: Instant::now(),
            past: Mutex::default(),
            slot_state: Mutex::default(),
            copy: Mutex::default(),
        }
    }

    /// The numbers themselves.
    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// The replication slot; empty if there is none.
    pub fn slot_name(&self) -> &str {
        self.about.slot.as_deref().unwrap_or_default()
    }

    /// The slot was looked after, and this was found; `None` if nothing could be found out.
    pub fn set_slot(&self, state: Option<SlotState>) {
        *locked(&self.slot_state) = state;
    }

    /// Whether the slot is looked after.
    pub fn watches_slot(&self) -> bool {
        self.about.watches_slot
    }

    /// The slot when it was last looked after; `None` if nothing could be found out.
    pub fn slot_state(&self) -> Option<SlotState> {
        locked(&self.slot_state).clone()
    }

    /// How long the process has been running.
    pub fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    /// Looks at the positions, so that later it is known how long they have been where they are. To be
    /// called about once a second; every answer given does it, too.
    pub fn look(&self) {
        drop(self.past());
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        let telemetry = &self.telemetry;
        let sample = Sample {
            streaming: telemetry.activity() == Activity::Streaming,
            start: telemetry.start.value(),
            received: telemetry.received.value(),
            flushed: telemetry.flushed.value(),
            server_end: telemetry.server_end.value(),
            heard: telemetry.last_receipt.value(),
            beats: telemetry.beats.value(),
        };
        let mut past = locked(&self.past);
        past.note(self.uptime(), &sample);
        past
    }

    /// WAL that the server is known to have and that is not durable here, in bytes.
    pub fn lag_bytes(&self) -> u64 {
        let telemetry = &self.telemetry;
        telemetry
            .server_end
            .value()
            .bytes_since(telemetry.flushed.value())
    }

    /// How long there has been such WAL. While there is no stream: at least since it ended.
    pub fn lag(&self) -> Duration {
        let past = self.past();
        past.lag(self.uptime())
    }

    /// Bytes free for an unprivileged user on the directory's file system.
    pub fn free_bytes(&self) -> Option<u64> {
        let room = rustix::fs::statvfs(&self.about.directory).ok()?;
        Some(room.f_bavail.saturating_mul(room.f_frsize))
    }

    /// Why the receiver is not well, in one line; `None` while it is.
    ///
    /// It is well while it streams and nothing has stalled: its event loop came back from a turn within
    /// 10 s; the server has said something within the receive timeout and 5 s; and what arrived became
    /// durable within 10 s after it had to, which is at once for what a commit waits for, and the status
    /// interval at the latest.
    pub fn ailment(&self) -> Option<String> {
        if self.telemetry.activity() != Activity::Streaming {
            return Some(self.words());
        }
        let past = self.past();
        let now = self.uptime();
        let lasting = Lasting {
            standstill: past.standstill(now),
            silence: past.silence(now),
            unflushed: past.unflushed(now),
        };
        self.about.stall(lasting)
    }

    /// What the receiver is doing, in one line.
    pub fn words(&self) -> String {
        let telemetry = &self.telemetry;
        let upstream = telemetry.upstream();
        let server = format!("{} port {}", upstream.host, upstream.port);
        let trouble = telemetry.trouble().replace('\n', "; ");
        let because = match trouble.as_str() {
            "" => String::new(),
            trouble => format!(": {trouble}"),
        };
        match telemetry.activity() {
            Activity::Stopped => "stopped".to_owned(),
            Activity::Waiting if telemetry.missing_room() > 0 => {
                let (path, needed) = (self.about.directory.display(), in_units(telemetry.missing_room()));
                format!("waiting for {needed} of room in \"{path}\"{because}")
            }
            Activity::Starting => format!("connecting to {server}{because}"),
            Activity::Waiting => format!("waiting to connect to {server} again{because}"),
            Activity::Restarting => format!("connecting to {server} again{because}"),
            Activity::Streaming => {
                let (end, lag) = (telemetry.flushed.value(), self.lag_bytes());
                let timeline = telemetry.timeline().map_or(0, |timeline| timeline.0);
                let behind = match lag {
                    WORTH_MENTIONING.. => format!(", {} MiB behind", lag >> 20),
                    _ => String::new(),
                };
                format!("streaming at {end} on timeline {timeline}{behind}")
            }
        }
    }

    /// Looks at one of the histograms of times, in microseconds, while the receiver goes on.
    pub fn times<T>(
        &self,
        which: impl FnOnce(&Measures) -> &Times,
        look: impl FnOnce(&Histogram<u64>) -> T,
    ) -> T {
        let mut copy = locked(&self.copy);
        copy.copy_from(which(&self.telemetry.measures()));
        look(copy.histogram())
    }

    /// All of it.
    pub fn status(&self) -> Status {
        let telemetry = &self.telemetry;
        let upstream = telemetry.upstream();
        let reason = self.ailment();
        let known_number = Some(upstream.system_identifier).filter(|&number| number != 0);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            status: telemetry.activity().word().to_owned(),
            healthy: reason.is_none(),
            reason,
            uptime_seconds: self.uptime().as_secs_f64(),
            time_unix_seconds: since_1970().as_secs_f64(),
            directory: self.about.directory.display().to_string(),
            slot: self.about.slot.clone(),
            slot_watch: self
                .watches_slot()
                .then(|| SlotWatchStatus::of(self.slot_state().as_ref())),
            synchronous: self.about.synchronous,
            verify: verify_word(self.about.verify).to_owned(),
            segment: self.segment_name(),
            upstream_host: upstream.host,
            upstream_port: upstream.port,
            server_version: Some(upstream.server_version).filter(|version| !version.is_empty()),
            system_identifier: known_number.map(|number| number.to_string()),
            timeline: telemetry.timeline().map(|timeline| timeline.0),
            positions: self.positions(),
            lag_bytes: self.lag_bytes(),
            lag_seconds: self.lag().as_secs_f64(),
            totals: self.totals(),
            free_bytes: self.free_bytes(),
            latency: self.latencies(),
            savings: self.savings(),
        }
    }

    /// The estimated saving, if there is a baseline to compare with.
    pub fn savings(&self) -> Option<Savings> {
        savings::shown(&self.telemetry.measures())
    }

    /// The file that is being written.
    fn segment_name(&self) -> Option<String> {
        let size = self.telemetry.upstream().segment_size?;
        let received = known(self.telemetry.received.value())?;
        let name = size
            .segment_of(received)
            .file_name(self.telemetry.timeline()?, size);
        Some(format!("{name}.partial"))
    }

    fn positions(&self) -> Positions {
        let text = |lsn: Lsn| known(lsn).map(|lsn| lsn.to_string());
        let telemetry = &self.telemetry;
        Positions {
            start: text(telemetry.start.value()),
            received: text(telemetry.received.value()),
            verified: text(telemetry.verified.value()),
            written: text(telemetry.written.value()),
            flushed: text(telemetry.flushed.value()),
            reported: text(telemetry.reported.value()),
            server_end: text(telemetry.server_end.value()),
        }
    }

    fn totals(&self) -> Totals {
        let telemetry = &self.telemetry;
        Totals {
            bytes: telemetry.received_bytes.value(),
            transactions: telemetry.transactions.value(),
            records: telemetry.records.value(),
            segments: telemetry.segments.value(),
            reconnects: telemetry.reconnects.value(),
            disk_errors: telemetry.disk_errors.value(),
            verification_failures: telemetry.verification_failures.value(),
        }
    }

    fn latencies(&self) -> Latencies {
        let of = |which: fn(&Measures) -> &Times| self.times(which, Distribution::of);
        Latencies {
            durable: of(|measures| &measures.durable),
            acknowledged: of(|measures| &measures.acknowledged),
            commit: of(|measures| &measures.commit),
            write: of(|measures| &measures.write),
            durable_write: of(|measures| &measures.durable_write),
            sync: of(|measures| &measures.sync),
            rollover: of(|measures| &measures.rollover),
        }
    }
}

/// A position, unless nothing is known yet.
pub fn known(lsn: Lsn) -> Option<Lsn> {
    Some(lsn).filter(|&lsn| lsn != Lsn::INVALID)
}

fn verify_word(verify: Verify) -> &'static str {
    match verify {
        Verify::Records => "records",
        Verify::Pages => "pages",
        Verify::Off => "off",
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// An observer that died half-way left numbers behind, which are still numbers.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        About {
            directory: PathBuf::new(),
            slot: None,
            watches_slot: false,
            synchronous: false,
            no_sync: false,
            verify: Verify::Records,
            status_interval: Some(Duration::from_secs(10)),
            receive_timeout: Some(Duration::from_secs(60)),
        }
    }

    fn lasting(standstill: u64, silence: u64, unflushed: u64) -> Lasting {
        Lasting {
            standstill: Duration::from_secs(standstill),
            silence: Duration::from_secs(silence),
            unflushed: Duration::from_secs(unflushed),
        }
    }

    #[test]
    fn what_takes_longer_than_it_may_has_stalled() {
        assert_eq!(about().stall(lasting(10, 65, 20)), None);
        let stall = |lasting| about().stall(lasting).unwrap();
        assert!(stall(lasting(11, 0, 0)).contains("the event loop"));
        assert!(stall(lasting(0, 66, 0)).contains("the server has said nothing for 66 seconds"));
        assert!(stall(lasting(0, 0, 21)).contains("waiting for the disk for 21 seconds"));
    }

    #[test]
    fn what_has_no_limit_does_not_stall() {
        let patient = About {
            status_interval: None,
            receive_timeout: None,
            ..about()
        };
        let never_syncs = About {
            no_sync: true,
            ..about()
        };
        assert_eq!(patient.stall(lasting(0, 1000, 1000)), None);
        assert_eq!(never_syncs.stall(lasting(0, 0, 1000)), None);
    }
}
