//! What observers have to remember in order to tell how long something has lasted: samples of the
//! stream's positions, taken about once a second.

use std::collections::VecDeque;
use std::time::Duration;

use crate::core::lsn::Lsn;

/// More marks than that are thinned out: of a backlog of hours the minute is enough.
const MOST_MARKS: usize = 64;

/// A new stream in which the server says nothing for so long has nothing to say.
const PATIENCE: Duration = Duration::from_secs(3);

/// The stream at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Whether there is a stream.
    pub streaming: bool,
    /// Where it began.
    pub start: Lsn,
    /// The end of what arrived.
    pub received: Lsn,
    /// The end of what is durable.
    pub flushed: Lsn,
    /// How far the server could send when it spoke last.
    pub server_end: Lsn,
    /// When the server last sent anything, as [`crate::core::telemetry::Moment`] has it.
    pub heard: Option<i64>,
    /// Turns of the event loop, as [`crate::core::telemetry::Telemetry::beats`] has them.
    pub beats: u64,
}

/// What was seen up to now. Times are durations since any fixed moment.
#[derive(Debug, Default)]
pub struct Past {
    /// Ends of WAL that the server had, until they are durable here.
    behind: Backlog,
    /// Ends of WAL that had arrived, until they are durable here.
    unwritten: Backlog,
    /// Since when there is no stream whose server has spoken.
    lost: Option<Duration>,
    streaming_since: Option<Duration>,
    /// What was heard last, and when that was noticed.
    heard: Option<(i64, Duration)>,
    /// The beats counted last, and when they were first seen.
    beats: Option<(u64, Duration)>,
}

impl Past {
    /// Adds what is seen now.
    pub fn note(&mut self, now: Duration, sample: &Sample) {
        if self.beats.is_none_or(|(known, _)| known != sample.beats) {
            self.beats = Some((sample.beats, now));
        }
        if !sample.streaming {
            self.lost.get_or_insert(now);
            self.unwritten = Backlog::default();
            (self.streaming_since, self.heard) = (None, None);
            return;
        }
        let streams_since = *self.streaming_since.get_or_insert(now);
        // What a server has that was out of reach, it may have had since it was lost.
        let has_spoken = sample.server_end > sample.start || now.saturating_sub(streams_since) >= PATIENCE;
        let since = match self.lost {
            Some(lost) if has_spoken => lost,
            _ => now,
        };
        if has_spoken {
            self.lost = None;
        }
        self.behind.note(since, sample.server_end, sample.flushed);
        self.unwritten.note(now, sample.received, sample.flushed);
        if let Some(at) = sample.heard
            && self.heard.is_none_or(|(known, _)| known != at)
        {
            self.heard = Some((at, now));
        }
    }

    /// How long the server has had, or may have had, WAL that is not durable here.
    pub fn lag(&self, now: Duration) -> Duration {
        let unreachable = self.lost.map_or(Duration::ZERO, |lost| now.saturating_sub(lost));
        unreachable.max(self.behind.age(now))
    }

    /// How long WAL has been here without being durable.
    pub fn unflushed(&self, now: Duration) -> Duration {
        self.unwritten.age(now)
    }

    /// How long the server has said nothing; zero if that is not known.
    pub fn silence(&self, now: Duration) -> Duration {
        self.heard
            .map_or(Duration::ZERO, |(_, at)| now.saturating_sub(at))
    }

    /// How long the event loop has not come back from a turn.
    pub fn standstill(&self, now: Duration) -> Duration {
        self.beats
            .map_or(Duration::ZERO, |(_, at)| now.saturating_sub(at))
    }
}

/// Ends that were seen, each with the moment when it was seen first, until they are reached.
#[derive(Debug, Default)]
struct Backlog {
    /// In ascending order of both.
    marks: VecDeque<(Duration, Lsn)>,
}

impl Backlog {
    fn note(&mut self, at: Duration, end: Lsn, reached: Lsn) {
        while self.marks.front().is_some_and(|&(_, mark)| mark <= reached) {
            self.marks.pop_front();
        }
        if end <= reached {
            return;
        }
        // An end that lies before one seen earlier is another server's: that one will not come.
        let mut since = at;
        while let Some(&(earlier, mark)) = self.marks.back()
            && mark >= end
        {
            since = since.min(earlier);
            self.marks.pop_back();
        }
        self.marks.push_back((since, end));
        if self.marks.len() > MOST_MARKS {
            self.thin_out();
        }
    }

    /// Of two neighbours the earlier moment and the later end stay: a backlog is never made younger.
    fn thin_out(&mut self) {
        let pairs = self.marks.make_contiguous().chunks(2);
        self.marks = pairs.map(|pair| (pair[0].0, pair[pair.len() - 1].1)).collect();
    }

    /// How long the oldest end has been waited for.
    fn age(&self, now: Duration) -> Duration {
        let oldest = self.marks.front();
        oldest.map_or(Duration::ZERO, |&(since, _)| now.saturating_sub(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A stream from 100 on.
    fn sample(received: u64, flushed: u64, server_end: u64) -> Sample {
        Sample {
            streaming: true,
            start: Lsn(100),
            received: Lsn(received),
            flushed: Lsn(flushed),
            server_end: Lsn(server_end),
            heard: None,
            beats: 0,
        }
    }

    fn no_stream() -> Sample {
        Sample {
            streaming: false,
            ..sample(0, 0, 0)
        }
    }

    #[test]
    fn a_stream_that_is_always_a_little_behind_has_no_lag_to_speak_of() {
        let mut past = Past::default();
        for second in 0..1000 {
            let end = 200 + second * 100;
            past.note(seconds(second), &sample(end, end - 50, end));
        }
        assert_eq!(past.lag(seconds(1000)), seconds(1));
        assert_eq!(past.unflushed(seconds(1000)), seconds(1));
    }

    #[test]
    fn the_oldest_wal_that_is_not_durable_tells_the_lag() {
        let mut past = Past::default();
        for second in 0..200 {
            past.note(seconds(second), &sample(150, 100, 1000 + second));
        }
        assert_eq!(past.lag(seconds(200)), seconds(200));
        assert!(past.behind.marks.len() <= MOST_MARKS);
        past.note(seconds(200), &sample(1100, 1100, 1200));
        let lag = past.lag(seconds(200)).as_secs();
        assert!((99..=110).contains(&lag), "{lag}");
        past.note(seconds(201), &sample(1200, 1200, 1200));
        assert_eq!(past.lag(seconds(300)), seconds(0));
    }

    #[test]
    fn without_a_connection_the_lag_grows_and_goes_on_until_the_server_is_caught_up_with() {
        let mut past = Past::default();
        past.note(seconds(1), &sample(200, 200, 200));
        past.note(seconds(2), &no_stream());
        assert_eq!(past.lag(seconds(62)), seconds(60));
        past.note(seconds(62), &sample(100, 100, 100));
        assert_eq!(past.lag(seconds(62)), seconds(60), "the server has not spoken");
        past.note(seconds(63), &sample(150, 100, 5000));
        assert_eq!(past.lag(seconds(63)), seconds(61));
        past.note(seconds(64), &sample(5000, 5000, 5000));
        assert_eq!(past.lag(seconds(64)), seconds(0));
    }

    #[test]
    fn a_server_that_has_nothing_more_ends_the_lag() {
        let mut past = Past::default();
        past.note(seconds(1), &no_stream());
        past.note(seconds(60), &sample(100, 100, 100));
        past.note(seconds(64), &sample(100, 100, 100));
        assert_eq!(past.lag(seconds(65)), seconds(0));
    }

    #[test]
    fn a_server_that_has_less_than_the_one_before_does_not_lag_for_ever() {
        let mut past = Past::default();
        past.note(seconds(1), &sample(200, 150, 9000));
        past.note(seconds(2), &sample(200, 150, 300));
        assert_eq!(past.lag(seconds(3)), seconds(2));
        past.note(seconds(4), &sample(300, 300, 300));
        assert_eq!(past.lag(seconds(5)), seconds(0));
    }

    #[test]
    fn silence_is_counted_from_what_was_heard_last_in_this_stream() {
        let mut past = Past::default();
        let heard = |at| Sample {
            heard: Some(at),
            ..sample(200, 200, 200)
        };
        past.note(seconds(1), &heard(7));
        past.note(seconds(5), &heard(7));
        assert_eq!(past.silence(seconds(6)), seconds(5));
        past.note(seconds(6), &no_stream());
        past.note(seconds(100), &heard(7));
        assert_eq!(past.silence(seconds(101)), seconds(1));
    }

    #[test]
    fn a_loop_stands_still_from_its_last_beat_on() {
        let mut past = Past::default();
        for second in 1..=20 {
            let beats = second.min(10);
            past.note(seconds(second), &Sample { beats, ..no_stream() });
        }
        assert_eq!(past.standstill(seconds(21)), seconds(11));
    }
}
