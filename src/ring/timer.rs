//! The timer of the loop: fine for what is near, lazy for what is far.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::op;

/// What is nearer than this is timed by the ring to the microsecond; tokio counts milliseconds.
const NEAR: Duration = Duration::from_millis(5);

/// At most one timer of each kind is armed. A deadline that moves away costs nothing: the timer goes
/// off early, finds nothing due and is armed anew.
#[derive(Default)]
pub struct Timer {
    near: Option<(Duration, op::Timeout)>,
    far: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl Timer {
    /// True once `deadline` has passed; otherwise the task is woken when it does.
    pub fn poll(&mut self, cx: &mut Context<'_>, now: Duration, deadline: Option<Duration>) -> bool {
        self.reap(cx);
        let Some(deadline) = deadline else { return false };
        let Some(wait) = deadline.checked_sub(now).filter(|wait| !wait.is_zero()) else {
            return true;
        };
        if wait < NEAR {
            if self.near.as_ref().is_none_or(|(at, _)| *at > deadline) {
                let mut timeout = op::timeout(wait);
                let _ = Pin::new(&mut timeout).poll(cx);
                self.near = Some((deadline, timeout));
            }
        } else if self.far.as_ref().is_none_or(|(at, _)| *at > deadline) {
            let mut sleep = Box::pin(sleep_until(Instant::now() + wait));
            let _ = sleep.as_mut().poll(cx);
            self.far = Some((deadline, sleep));
        }
        false
    }

    fn reap(&mut self, cx: &mut Context<'_>) {
        if let Some((_, timeout)) = &mut self.near
            && matches!(Pin::new(timeout).poll(cx), Poll::Ready(_))
        {
            self.near = None;
        }
        if let Some((_, sleep)) = &mut self.far
            && sleep.as_mut().poll(cx).is_ready()
        {
            self.far = None;
        }
    }
}
