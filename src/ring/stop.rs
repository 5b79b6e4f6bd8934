//! The operator's wish to stop, seen by every loop of the thread.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Raised once, by a signal; never lowered. Each clone is woken on its own.
#[derive(Debug, Default)]
pub struct Stop {
    shared: Rc<Shared>,
    /// Where the waker of this one is kept, once it has one.
    place: Cell<Option<usize>>,
}

#[derive(Debug, Default)]
struct Shared {
    requested: Cell<bool>,
    /// `None`: the one that waited there is gone.
    waiting: RefCell<Vec<Option<Waker>>>,
}

impl Stop {
    /// Asks everything that watches to stop.
    pub fn request(&self) {
        self.shared.requested.set(true);
        let waiting = self.shared.waiting.borrow().clone();
        waiting.into_iter().flatten().for_each(Waker::wake);
    }

    /// Whether a stop was asked for.
    pub fn is_requested(&self) -> bool {
        self.shared.requested.get()
    }

    /// Whether a stop was asked for; if not, the task is woken once it is. Only the task that asked last
    /// is, so each needs a clone of its own.
    pub fn poll_requested(&self, context: &mut Context<'_>) -> bool {
        if !self.is_requested() {
            let waiting = &mut *self.shared.waiting.borrow_mut();
            match self.place.get().map(|place| &mut waiting[place]) {
                Some(Some(waker)) => waker.clone_from(context.waker()),
                _ => self.begin_waiting(waiting, context.waker().clone()),
            }
        }
        self.is_requested()
    }

    fn begin_waiting(&self, waiting: &mut Vec<Option<Waker>>, waker: Waker) {
        let free = waiting.iter().position(Option::is_none);
        let place = free.unwrap_or(waiting.len());
        match free {
            Some(place) => waiting[place] = Some(waker),
            None => waiting.push(Some(waker)),
        }
        self.place.set(Some(place));
    }

    /// Waits until a stop is asked for.
    pub async fn requested(&self) {
        let own = self.clone();
        poll_fn(|context| {
            if own.poll_requested(context) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

impl Clone for Stop {
    fn clone(&self) -> Stop {
        Stop {
            shared: Rc::clone(&self.shared),
            place: Cell::new(None),
        }
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        if let Some(place) = self.place.get() {
            self.shared.waiting.borrow_mut()[place] = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::Wake;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Wakes>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn each_clone_keeps_one_waker_the_last_and_none_when_it_is_gone() {
        let (stop, wakes) = (Stop::default(), [(); 3].map(|()| Arc::<Wakes>::default()));
        let polled = |stop: &Stop, wakes: &Arc<Wakes>| {
            let waker = Waker::from(Arc::clone(wakes));
            stop.poll_requested(&mut Context::from_waker(&waker))
        };
        let (other, gone) = (stop.clone(), stop.clone());
        for wakes in [&wakes[0], &wakes[1], &wakes[1]] {
            assert!(!polled(&stop, wakes) && !polled(&other, wakes) && !polled(&gone, wakes));
        }
        drop(gone);
        assert!(!polled(&other, &wakes[2]));
        assert!(!polled(&stop.clone(), &wakes[0]));
        assert_eq!(stop.shared.waiting.borrow().len(), 3, "a place is used again");
        other.request();
        let counts = wakes.map(|wakes| wakes.0.load(Relaxed));
        assert_eq!(counts, [0, 1, 1]);
        assert!(stop.is_requested() && polled(&stop.clone(), &Arc::default()));
    }
}
