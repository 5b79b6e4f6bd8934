//! What is usual: the median of the last few durations. One that was late changes nothing.

use std::time::Duration;

/// How many durations are remembered.
const COUNT: usize = 8;

/// The last few durations.
#[derive(Debug, Clone, Copy, Default)]
pub struct Recent {
    last: [Duration; COUNT],
    /// All that were ever added.
    added: usize,
}

impl Recent {
    /// Adds one, and forgets the oldest.
    pub fn add(&mut self, took: Duration) {
        self.last[self.added % COUNT] = took;
        self.added += 1;
    }

    /// The median of those that are remembered, the smaller one of two; `None` before the first.
    pub fn usual(&self) -> Option<Duration> {
        let mut sorted = self.last;
        let known = &mut sorted[..self.added.min(COUNT)];
        known.sort_unstable();
        known.get(known.len().saturating_sub(1) / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_is_the_median_of_the_last_eight() {
        let ms = Duration::from_millis;
        let mut recent = Recent::default();
        assert_eq!(recent.usual(), None);
        recent.add(ms(9));
        assert_eq!(recent.usual(), Some(ms(9)));
        for took in [1, 2, 3] {
            recent.add(ms(took));
        }
        assert_eq!(recent.usual(), Some(ms(2)));
        recent.add(ms(1000));
        assert_eq!(recent.usual(), Some(ms(3)));
        for _ in 0..8 {
            recent.add(ms(5));
        }
        assert_eq!(recent.usual(), Some(ms(5)));
    }
}
