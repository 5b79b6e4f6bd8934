//! What systemd is told: that WAL streams, what is going on, that the event loop is alive, the end.
//!
//! The protocol is that of sd_notify(3); a socket in the abstract namespace is not supported. Nothing
//! here fails: who does not listen misses it.

use std::convert::Infallible;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::Notify;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::observation::Observation;
use crate::core::telemetry::{Activity, Telemetry};

/// The status line is renewed at most so often.
const STATUS_PAUSE: Duration = Duration::from_secs(3);

/// How often it is looked whether the status line has changed.
const LOOK: Duration = Duration::from_secs(1);

/// A second is soon enough for a look at the health.
const SLOWEST_BEAT: Duration = Duration::from_secs(1);

/// Whether a service manager wants to be told.
pub fn is_present() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// The longest silence that the service manager bears (`WatchdogSec=`), if it watches at all.
fn watchdog() -> Option<Duration> {
    let wanted = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
    wanted.filter(|_| is_present())
}

/// Counts beats, at least four to the longest silence that is allowed, for as long as it is polled. It
/// has to be polled by the task that receives, and after the receiver: then a beat means that the
/// event loop came back from a turn, and that it would come back for the next event.
pub async fn beat(telemetry: &Telemetry) -> Infallible {
    let period = watchdog().map_or(SLOWEST_BEAT, |limit| SLOWEST_BEAT.min(limit / 4));
    let mut pulse = interval(period);
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pulse.tick().await;
        telemetry.beats.increment();
    }
}

/// Tells the service manager what there is to tell, for ever; `news` wakes it up early.
pub async fn tell(observation: &Observation, news: &Notify) {
    if !is_present() {
        return std::future::pending().await;
    }
    let mut look = interval(LOOK);
    let mut ping = watchdog().map(|limit| interval(limit / 2));
    let mut teller = Teller::default();
    loop {
        tokio::select! {
            () = news.notified() => {}
            _ = look.tick() => {}
            () = tick(&mut ping) => {
                teller.ping(observation.telemetry().beats.value());
                continue;
            }
        }
        teller.tell(observation);
    }
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// The service is about to end.
pub fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// What was told already.
#[derive(Default)]
struct Teller {
    is_ready: bool,
    status: String,
    told: Option<Instant>,
    beats: u64,
}

impl Teller {
    /// Passes on that the event loop is alive, if it is.
    fn ping(&mut self, beats: u64) {
        if beats != self.beats {
            self.beats = beats;
            send(&[NotifyState::Watchdog]);
        }
    }

    fn tell(&mut self, observation: &Observation) {
        let streams = observation.telemetry().activity() == Activity::Streaming;
        let becomes_ready = streams && !self.is_ready;
        let rested = self.told.is_none_or(|told| told.elapsed() >= STATUS_PAUSE);
        if !becomes_ready && !rested {
            return;
        }
        let status = match observation.ailment() {
            Some(ailment) => ailment,
            None => observation.words(),
        };
        if becomes_ready {
            self.is_ready = true;
            send(&[NotifyState::Ready, NotifyState::Status(&status)]);
        } else if status != self.status {
            send(&[NotifyState::Status(&status)]);
        } else {
            return;
        }
        (self.status, self.told) = (status, Some(Instant::now()));
    }
}

fn send(states: &[NotifyState]) {
    // There is nobody to tell that nobody listens.
    let _ = sd_notify::notify(states);
}
