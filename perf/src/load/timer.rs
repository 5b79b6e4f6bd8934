//! Sleeping to the microsecond: the runtime's own timers are as coarse as a millisecond.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use walring::error::{Error, Result, system_text};

/// A timerfd that the runtime watches.
pub struct Timer {
    fd: AsyncFd<OwnedFd>,
}

impl Timer {
    /// A timer that is not set.
    pub fn new() -> Result<Timer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags);
        // Its successor is unsafe, for the sake of types that may change their descriptor under way.
        #[expect(
            deprecated,
            reason = "an owned descriptor stays the same, so it is sound here"
        )]
        let watch = |fd| AsyncFd::with_interest(fd, Interest::READABLE);
        let watched = fd.map_err(io::Error::from).and_then(watch);
        Ok(Timer {
            fd: watched.map_err(|error| failed(&error))?,
        })
    }

    /// Waits for so long; not at all for zero.
    pub async fn sleep(&self, duration: Duration) -> Result<()> {
        if duration.is_zero() {
            return Ok(());
        }
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let value = Itimerspec {
            it_interval: zero,
            it_value: Timespec {
                tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: duration.subsec_nanos().into(),
            },
        };
        let set = rustix::time::timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &value);
        set.map_err(|error| failed(&error.into()))?;
        let mut expirations = [0; 8];
        let read = |fd: &OwnedFd| rustix::io::read(fd, &mut expirations).map_err(io::Error::from);
        let read = self.fd.async_io(Interest::READABLE, read).await;
        read.map(drop).map_err(|error| failed(&error))
    }
}

fn failed(error: &io::Error) -> Error {
    Error::unsupported(format!(
        "could not use a timer for the load: {}",
        system_text(error)
    ))
}
