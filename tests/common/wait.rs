//! Waiting for a condition, with a limit that only a hang reaches.

use std::time::{Duration, Instant};

/// No test asserts how fast something is; waiting longer than this means that it will never happen.
pub const HANG: Duration = Duration::from_secs(120);

const POLL: Duration = Duration::from_millis(10);

/// Polls until the condition gives a value; fails the test, saying what was awaited, when it never does.
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(HANG, condition).unwrap_or_else(|| panic!("waited {HANG:?} in vain: {what}"))
}

/// Polls until the condition gives a value or the limit is over.
pub fn within<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(POLL);
    }
}
