//! A distribution as upright bars, one for each doubling of the time.

use super::frame::BARS;
use super::line::{Line, Style};

/// Columns before the bars, where the axes are named.
const MARGIN: usize = 11;

/// The widest a bar is with the blank behind it; a label fits below each.
const WIDEST: usize = 6;

/// More rows than these tell nothing more.
const TALLEST: usize = 6;

/// Two hours and more are one doubling: nothing that long is told apart, and its label fits.
const POWERS: usize = 34;

/// Bars over their lower bounds, from the first doubling that holds a value to the last, in at most `rows` lines; none
/// where there is no value or no room. The highest bar is the fullest doubling, and any value makes a bar.
pub(super) fn bars(doublings: &[(u64, u64)], columns: usize, rows: usize) -> Vec<Line> {
    let mut counts = filled(doublings);
    let height = rows.saturating_sub(1).min(TALLEST);
    let room = columns.saturating_sub(MARGIN);
    if counts.is_empty() || height == 0 || room < 2 {
        return Vec::new();
    }
    // The slowest are told in any case.
    counts.drain(..counts.len().saturating_sub(room / 2));
    let width = (room / counts.len()).clamp(2, WIDEST);
    let most = counts.iter().map(|&(_, count)| count).max().unwrap_or(1).max(1);
    let levels: Vec<usize> = counts
        .iter()
        .map(|&(_, count)| level(count, most, height * 8))
        .collect();
    let names = ["received", "→ durable"];
    let mut lines: Vec<Line> = (0..height)
        .map(|row| {
            let below = (height - 1 - row) * 8;
            let bars = levels.iter().map(|&level| {
                let bar = BARS[level.saturating_sub(below).min(8)];
                format!("{} ", bar.to_string().repeat(width - 1))
            });
            let name = names.get(row).copied().unwrap_or_default();
            Line::of(Style::Name, format!("{name:<MARGIN$}")).with(Style::Plain, bars.collect::<String>())
        })
        .collect();
    lines.push(axis(&counts, width));
    lines
}

/// The height of a bar in eighths of a row: none for nothing, at least one for something.
fn level(count: u64, most: u64, highest: usize) -> usize {
    let level = (u128::from(count) * highest as u128).div_ceil(u128::from(most));
    usize::try_from(level).unwrap_or(highest)
}

/// The lower bounds, as many as fit.
fn axis(counts: &[(u32, u64)], width: usize) -> Line {
    let every = WIDEST.div_ceil(width);
    let labels = counts.chunks(every).map(|chunk| {
        let room = every * width;
        format!("{:<room$}", label(chunk[0].0))
    });
    Line::of(Style::Name, " ".repeat(MARGIN)).with(Style::Name, labels.collect::<String>())
}

/// Five characters at most: which power of two is easily told from its beginning.
fn label(power: u32) -> String {
    match 1_u64 << power {
        us @ ..1000 => format!("{us}µs"),
        us @ ..1_000_000 => format!("{}ms", us / 1000),
        us => format!("{}s", us / 1_000_000),
    }
}

/// Powers of two and their counts, without holes.
fn filled(doublings: &[(u64, u64)]) -> Vec<(u32, u64)> {
    let mut counts = [0_u64; POWERS];
    for &(bound, count) in doublings {
        let power = bound.max(1).ilog2() as usize;
        let power = power.min(POWERS - 1);
        counts[power] = counts[power].saturating_add(count);
    }
    let holding = |&power: &usize| counts[power] > 0;
    let first = (0..POWERS).find(holding).unwrap_or(POWERS);
    let last = (0..POWERS).rfind(holding).unwrap_or(0);
    (first..=last)
        .map(|power| (power as u32, counts[power]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(doublings: &[(u64, u64)], columns: usize, rows: usize) -> Vec<String> {
        bars(doublings, columns, rows).iter().map(Line::plain).collect()
    }

    #[test]
    fn each_doubling_has_a_bar_over_its_bound() {
        assert_eq!(
            text(&[(64, 8), (128, 16), (512, 1)], 80, 3),
            [
                "received         █████",
                "→ durable  █████ █████       ▁▁▁▁▁",
                "           64µs  128µs 256µs 512µs"
            ]
        );
    }

    #[test]
    fn where_there_is_little_room_there_are_fewer_labels() {
        let doublings: Vec<_> = (0..30).map(|power| (1 << power, 1)).collect();
        let lines = text(&doublings, 80, 2);
        assert!(lines[0].ends_with(&"█ ".repeat(30).trim_end()), "{lines:?}");
        assert!(
            lines[1].contains(" 1µs   8µs   64µs  512µs 4ms   32ms "),
            "{lines:?}"
        );
        assert!(lines.iter().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn without_values_or_room_there_is_nothing() {
        assert!(text(&[], 80, 5).is_empty());
        assert!(text(&[(1, 0)], 80, 5).is_empty());
        assert!(text(&[(1, 1)], 80, 1).is_empty());
        assert!(text(&[(1, 1)], 12, 5).is_empty());
    }

    #[test]
    fn odd_numbers_are_survived() {
        let lines = text(&[(0, u64::MAX), (u64::MAX, u64::MAX), (u64::MAX, 1)], 80, 4);
        assert_eq!(lines.len(), 4);
    }
}
