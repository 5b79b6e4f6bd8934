//! One line on the terminal that tells how far catching up has come, rewritten in place.
//!
//! The line and the log share standard error. Both write under its lock and keep `SHOWN` true exactly while the
//! cursor stands in an unfinished line, so that a log line can clear it first.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// At most four times a second: fast enough to look alive, too rare to cost anything.
const INTERVAL: Duration = Duration::from_millis(250);

/// Back to the first column, and nothing left behind the cursor.
const CLEAR: &str = "\r\x1b[K";

/// Whether an unfinished line is on the terminal. Changed only under standard error's lock.
static SHOWN: AtomicBool = AtomicBool::new(false);

/// The line. Dropping it finishes it.
#[derive(Debug)]
pub struct ProgressLine {
    enabled: bool,
    what: &'static str,
    first: Option<Sample>,
    drawn: Option<Duration>,
}

/// How much had been received when.
#[derive(Debug, Clone, Copy)]
struct Sample {
    now: Duration,
    received: u64,
}

impl ProgressLine {
    /// A line that is shown if `enabled`: where standard error is a terminal and the log is text.
    pub fn new(enabled: bool) -> ProgressLine {
        ProgressLine::of("catching up", enabled)
    }

    /// The same about something else that takes its time.
    pub fn of(what: &'static str, enabled: bool) -> ProgressLine {
        ProgressLine {
            enabled,
            what,
            first: None,
            drawn: None,
        }
    }

    /// Shows that `received` of `target` bytes are there, unless the line is too fresh. `now` is counted from any
    /// beginning; the rate is that since the first call.
    pub fn update(&mut self, now: Duration, received: u64, target: u64) {
        let first = *self.first.get_or_insert(Sample { now, received });
        if !self.enabled || !is_due(self.drawn, now) {
            return;
        }
        self.drawn = Some(now);
        let line = line(self.what, first, Sample { now, received }, target);
        let mut terminal = io::stderr().lock();
        // A terminal that is gone must not stop the receiver.
        let _ = write!(terminal, "{CLEAR}{line}").and_then(|()| terminal.flush());
        SHOWN.store(true, Ordering::Relaxed);
    }

    /// Ends catching up: the line disappears, and the next update starts a new one.
    pub fn finish(&mut self) {
        (self.first, self.drawn) = (None, None);
        let _ = clear(&mut io::stderr().lock());
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Takes an unfinished line off the terminal. `terminal` is locked standard error.
pub(super) fn clear(terminal: &mut impl Write) -> io::Result<()> {
    match SHOWN.swap(false, Ordering::Relaxed) {
        true => terminal.write_all(CLEAR.as_bytes()),
        false => Ok(()),
    }
}

fn is_due(drawn: Option<Duration>, now: Duration) -> bool {
    drawn.is_none_or(|drawn| now.saturating_sub(drawn) >= INTERVAL)
}

/// The text of the line. It leaves out the rate until there is one, and the time left while nothing moves.
fn line(what: &str, first: Sample, latest: Sample, target: u64) -> String {
    // The server may have sent more than was known when catching up began.
    let target = target.max(latest.received);
    let percent = (u128::from(latest.received) * 100)
        .checked_div(target.into())
        .unwrap_or(100);
    let (received, total) = (in_units(latest.received), in_units(target));
    let mut line = format!("{what}: {received} of {total}  ({percent} %)");
    let elapsed = latest.now.saturating_sub(first.now).as_millis();
    let gained = u128::from(latest.received.saturating_sub(first.received));
    if let Some(rate) = (gained * 1000).checked_div(elapsed) {
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        line += &format!("  {}/s", in_units(rate));
        if rate > 0 {
            let left = (target - latest.received).div_ceil(rate);
            line += &format!("  {} left", as_time(left));
        }
    }
    line
}

/// Bytes in three or four digits and a binary unit.
pub(super) fn in_units(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let exponent = ((bytes.ilog2() / 10) as usize).min(UNITS.len());
    // Tenths, cut off: a line about progress had better not round up to the target.
    let tenths = (u128::from(bytes) * 10) >> (10 * exponent);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[exponent - 1])
}

/// Hours, minutes and seconds, the two greatest.
pub(super) fn as_time(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(ms: u64, received: u64) -> Sample {
        Sample {
            now: Duration::from_millis(ms),
            received,
        }
    }

    #[test]
    fn the_line_tells_amount_share_rate_and_time_left() {
        assert_eq!(
            line(
                "catching up",
                at(5_000, 100 * MIB),
                at(6_000, 512 * MIB),
                1946 * MIB
            ),
            "catching up: 512.0 MiB of 1.9 GiB  (26 %)  412.0 MiB/s  4 s left"
        );
    }

    #[test]
    fn the_line_has_no_rate_at_first_and_no_end_while_nothing_moves() {
        assert_eq!(
            line("catching up", at(0, 0), at(0, 0), MIB),
            "catching up: 0 B of 1.0 MiB  (0 %)"
        );
        assert_eq!(
            line("catching up", at(0, 5), at(9_000, 5), MIB),
            "catching up: 5 B of 1.0 MiB  (0 %)  0 B/s"
        );
    }

    #[test]
    fn the_line_survives_odd_numbers() {
        assert_eq!(
            line("catching up", at(0, 0), at(0, 0), 0),
            "catching up: 0 B of 0 B  (100 %)"
        );
        assert_eq!(
            line("catching up", at(9, 7), at(3, 5), 4),
            "catching up: 5 B of 5 B  (100 %)"
        );
        let most = line("catching up", at(0, 0), at(1, u64::MAX), u64::MAX);
        assert_eq!(
            most,
            "catching up: 16383.9 PiB of 16383.9 PiB  (100 %)  16383.9 PiB/s  0 s left"
        );
    }

    #[test]
    fn bytes_and_times_have_units() {
        let bytes = [1023, 1024, MIB - 1, 10 * MIB + MIB / 2, 1 << 40].map(in_units);
        assert_eq!(bytes, ["1023 B", "1.0 KiB", "1023.9 KiB", "10.5 MiB", "1.0 TiB"]);
        assert_eq!([59, 61, 7322].map(as_time), ["59 s", "1 min 1 s", "2 h 2 min"]);
    }

    #[test]
    fn the_line_is_rewritten_at_most_four_times_a_second() {
        let ms = Duration::from_millis;
        assert!(is_due(None, ms(0)));
        assert!(!is_due(Some(ms(100)), ms(349)));
        assert!(is_due(Some(ms(100)), ms(350)));
        assert!(!is_due(Some(ms(100)), ms(99)));
    }

    #[test]
    fn a_line_is_cleared_once() {
        SHOWN.store(true, Ordering::Relaxed);
        let mut terminal = Vec::new();
        clear(&mut terminal).unwrap();
        clear(&mut terminal).unwrap();
        assert_eq!(terminal, CLEAR.as_bytes());
    }
}
