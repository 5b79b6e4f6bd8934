//! The thread that loses its patience with the disk: it says that the disk does not answer, and ends the
//! program when the operator does not want to wait for it any longer.
//!
//! A disk that hangs can hold up the receiver's thread (a durable write that is waited for in place), so signals come
//! to this one. The first one is the receiver's: it makes durable what was received. If the disk
//! does not answer, this thread ends the program: `GRACE` after that signal and the disk's last answer, or at once
//! when a second signal comes. Nothing is lost by that, for what is not durable was not acknowledged.
//!
//! The kernel lets go of a process only when the disk has answered or the device is gone; that is the same for SIGKILL.
//! So this thread also closes the connection: the server need not wait for its timeout to know that nobody receives.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use nix::sys::signal::Signal::{SIGINT, SIGTERM};
use rustix::net::Shutdown;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::logging;
use crate::core::telemetry::Telemetry;
use crate::error::{Error, Result, system_text};

/// How long the disk may take to answer before that is said; and, once asked to stop, before the program ends.
const GRACE: Duration = Duration::from_secs(10);

/// How often the disk's answers are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// The thread; it ends with this value.
#[derive(Debug)]
pub struct Patience {
    line: Line,
    _end: oneshot::Sender<()>,
}

/// The socket of the stream that there is.
type Line = Arc<Mutex<Option<OwnedFd>>>;

/// While there is this, its stream's connection is closed with the program.
#[derive(Debug)]
pub struct Holding {
    line: Line,
}

impl Drop for Holding {
    fn drop(&mut self) {
        set(&self.line, None);
    }
}

fn set(line: &Line, socket: Option<OwnedFd>) {
    *line.lock().unwrap_or_else(PoisonError::into_inner) = socket;
}

impl Patience {
    /// Begins to watch.
    pub fn start(telemetry: Arc<Telemetry>) -> Result<Patience> {
        let failed = |error: io::Error| {
            let reason = system_text(&error);
            Error::unsupported(format!(
                "could not start the thread that watches the disk: {reason}"
            ))
        };
        let (end, ended) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let signals = {
            let _entered = runtime.enter();
            Signals::listen().map_err(failed)?
        };
        let line = Line::default();
        let of_thread = Arc::clone(&line);
        let work = move || {
            runtime.block_on(async {
                tokio::select! {
                    impatience = watch(&telemetry, signals) => end_now(&impatience, &of_thread),
                    _ = ended => {}
                }
            });
        };
        let thread = thread::Builder::new().name("walring-patience".to_owned());
        thread.spawn(work).map_err(failed)?;
        // The kernel gives a signal to one thread, this one for preference, and here it would wait for the disk.
        let blocked = SigSet::from_iter([SIGINT, SIGTERM]).thread_block();
        blocked.map_err(|error| failed(error.into()))?;
        Ok(Patience { line, _end: end })
    }

    /// The stream that begins goes over this socket.
    pub fn hold(&self, socket: &OwnedFd) -> Holding {
        // Without a second descriptor the server notices by itself, later.
        set(&self.line, socket.try_clone().ok());
        Holding {
            line: Arc::clone(&self.line),
        }
    }
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Watches until it is time to end, and why.
async fn watch(telemetry: &Telemetry, mut signals: Signals) -> Error {
    let mut silence = Silence::default();
    let mut asked_to_stop: Option<Instant> = None;
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = signals.next() => {
                if asked_to_stop.is_some() {
                    return impatience("stopped by a second signal, without waiting for the disk");
                }
                asked_to_stop = Some(Instant::now());
            }
            _ = look.tick() => {
                silence.look(telemetry.disk.open(), Instant::now());
                let patient = asked_to_stop.is_none_or(|asked| asked.elapsed() < GRACE);
                if !patient && silence.lasts(Instant::now()) >= GRACE {
                    let seconds = GRACE.as_secs();
                    return impatience(&format!("stopped; the disk has not answered for {seconds} seconds"));
                }
            }
        }
    }
}

fn impatience(message: &str) -> Error {
    Error::disk_broken(message).with_detail(
        "What was received and is not durable was not acknowledged; the next start receives it again.",
    )
}

fn end_now(error: &Error, line: &Line) {
    logging::report(error);
    if let Some(socket) = &*line.lock().unwrap_or_else(PoisonError::into_inner) {
        let _ = rustix::net::shutdown(socket, Shutdown::Both);
    }
    std::process::exit(1);
}

/// For how long the disk has owed an answer.
#[derive(Debug, Default)]
struct Silence {
    /// How many answers there were, and since when.
    since: Option<(u64, Instant)>,
    is_told: bool,
}

impl Silence {
    /// `open`: how often the disk has answered, if it owes an answer.
    fn look(&mut self, open: Option<u64>, now: Instant) {
        let goes_on = open.is_some() && open == self.since.map(|(answers, _)| answers);
        if goes_on {
            if !self.is_told && self.lasts(now) >= GRACE {
                self.is_told = true;
                let seconds = self.lasts(now).as_secs();
                warn!(
                    "the disk has not answered for {seconds} seconds; what waits for it is not acknowledged"
                );
            }
            return;
        }
        if self.is_told {
            let seconds = self.lasts(now).as_secs();
            info!("the disk answers again, after {seconds} seconds");
        }
        *self = Silence {
            since: open.map(|answers| (answers, now)),
            is_told: false,
        };
    }

    /// Zero: it owes nothing.
    fn lasts(&self, now: Instant) -> Duration {
        self.since
            .map_or(Duration::ZERO, |(_, since)| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_lasts_from_one_answer_to_the_next() {
        let (mut silence, begin) = (Silence::default(), Instant::now());
        let after = |seconds: u64| begin + Duration::from_secs(seconds);
        silence.look(Some(3), begin);
        silence.look(Some(3), after(12));
        assert!(silence.is_told);
        assert_eq!(silence.lasts(after(12)), Duration::from_secs(12));
        silence.look(Some(4), after(13));
        assert!(!silence.is_told);
        assert_eq!(silence.lasts(after(15)), Duration::from_secs(2));
        silence.look(None, after(16));
        assert_eq!(silence.lasts(after(60)), Duration::ZERO);
    }
}
