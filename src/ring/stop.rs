//! The operator's wish to stop, seen by every loop of the thread.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Raised once, by a signal; never lowered.
#[derive(Debug, Clone, Default)]
pub struct Stop(Rc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    requested: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Stop {
    /// Asks everything that watches to stop.
    pub fn request(&self) {
        self.0.requested.set(true);
        self.0.waiting.take().into_iter().for_each(Waker::wake);
    }

    /// Whether a stop was asked for.
    pub fn is_requested(&self) -> bool {
        self.0.requested.get()
    }

    /// Whether a stop was asked for; if not, the task is woken once it is.
    pub fn poll_requested(&self, context: &mut Context<'_>) -> bool {
        let waker = context.waker();
        let mut waiting = self.0.waiting.borrow_mut();
        if !self.is_requested() && !waiting.iter().any(|known| known.will_wake(waker)) {
            waiting.push(waker.clone());
        }
        self.is_requested()
    }

    /// Waits until a stop is asked for.
    pub async fn requested(&self) {
        poll_fn(|context| {
            if self.poll_requested(context) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}
