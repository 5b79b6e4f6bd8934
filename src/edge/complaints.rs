//! What was complained about already: an error that every attempt brings is said once, and again every
//! few minutes, not with each attempt.

use std::time::{Duration, Instant};

use crate::error::Error;

/// After so long the same error is worth a line again.
const REMINDER: Duration = Duration::from_secs(300);

/// More different errors than that are not remembered.
const MOST: usize = 16;

/// The errors since WAL was last received, and when each was said.
#[derive(Debug, Default)]
pub struct Complaints {
    said: Vec<(String, Instant)>,
}

impl Complaints {
    /// Whether this error is to be said now.
    pub fn is_news(&mut self, error: &Error, now: Instant) -> bool {
        let text = key(&error.to_string());
        let is_full = self.said.len() == MOST;
        match self.said.iter_mut().find(|(known, _)| *known == text) {
            Some((_, at)) if now.duration_since(*at) < REMINDER => return false,
            Some((_, at)) => *at = now,
            None if is_full => {}
            None => self.said.push((text, now)),
        }
        true
    }

    /// WAL was received: whatever comes now is new.
    pub fn forget(&mut self) {
        self.said.clear();
    }
}

/// What makes it the same error. Positions and process ids change from attempt to attempt; so does the order of hosts, of
/// which each has a line.
fn key(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    let all = lines.join("\n");
    all.chars().filter(|c| !c.is_ascii_hexdigit()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_error_is_said_once_until_it_is_old_or_wal_came() {
        let mut complaints = Complaints::default();
        let mut now = Instant::now();
        let active = |pid| Error::connection(format!("slot is active for PID {pid}"));
        assert!(complaints.is_news(&active(1234), now));
        assert!(!complaints.is_news(&active(99), now));
        assert!(complaints.is_news(&Error::connection("refused"), now));
        assert!(
            !complaints.is_news(&active(1234), now),
            "two in turn are known both"
        );
        now += REMINDER;
        assert!(complaints.is_news(&active(1), now));
        assert!(!complaints.is_news(&active(1), now));
        complaints.forget();
        assert!(complaints.is_news(&active(1), now));
        assert!(complaints.is_news(&Error::connection("one refused\ntwo refused"), now));
        assert!(!complaints.is_news(&Error::connection("two refused\none refused"), now));
    }
}
