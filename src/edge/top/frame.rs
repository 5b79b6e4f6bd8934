//! What is shown: a pure function from what was told to lines.
//!
//! At 80x24 everything has its place; on fewer rows the histogram goes first, then the empty lines, then what stands
//! last.

use super::histogram;
use super::history::{History, mean_rate};
use super::line::{Line, Style};
use crate::edge::progress_line::{as_time, in_units};
use crate::edge::status::{Distribution, Latencies, Positions, Savings, Status};
use crate::edge::table::grouped;

/// The longest sparkline, in columns: one for each second.
const LONGEST_SPARKLINE: usize = 60;

/// A height in eighths of a character.
pub(super) const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The room there is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Its width.
    pub columns: usize,
    /// Its height.
    pub rows: usize,
}

/// What is known at one moment.
#[derive(Debug, Default)]
pub struct View {
    /// What the receiver told.
    pub history: History,
    /// Why it tells nothing more.
    pub problem: Option<String>,
}

/// The lines to show. They may be wider than the room, which cuts them; they are not more than its rows.
pub fn frame(view: &View, size: Size) -> Vec<Line> {
    let mut lines: Vec<Line> = view
        .problem
        .iter()
        .map(|problem| Line::of(Style::Bad, problem))
        .collect();
    let Some(status) = view.history.latest() else {
        return lines;
    };
    let health = match &view.problem {
        None => health(status),
        Some(_) => Line::of(Style::Bad, format!("last seen {}", status.status)),
    };
    lines.extend(heading(status, health, size.columns));
    lines.push(Line::default());
    lines.extend(positions(&status.positions));
    lines.push(lag(status));
    lines.push(rate(&view.history, status, size.columns));
    lines.push(totals(status));
    lines.push(Line::default());
    lines.extend(latencies(&status.latency));
    lines.extend(status.savings.as_ref().map(savings));
    let left = size.rows.saturating_sub(lines.len() + 1);
    let bars = histogram::bars(&status.latency.durable.doublings, size.columns, left);
    if !bars.is_empty() {
        lines.push(Line::default());
        lines.extend(bars);
    }
    if lines.len() > size.rows {
        lines.retain(|line| line.width() > 0);
        lines.truncate(size.rows);
    }
    lines
}

fn health(status: &Status) -> Line {
    match (status.healthy, status.reason.as_deref()) {
        (true, _) => Line::of(Style::Good, format!("{}, healthy", status.status)),
        (false, None) => Line::of(Style::Bad, format!("{}, not healthy", status.status)),
        (false, Some(reason)) => Line::of(Style::Bad, format!("{}, not healthy: {reason}", status.status)),
    }
}

/// Who receives from whom, how it goes, and what is written.
fn heading(status: &Status, health: Line, columns: usize) -> [Line; 3] {
    let server = format!("{}:{}", status.upstream_host, status.upstream_port);
    // Packagers add their own version behind a blank.
    let release = status.server_version.as_deref();
    let release = release.and_then(|release| release.split_whitespace().next());
    let release = release
        .map(|release| format!(" (PostgreSQL {release})"))
        .unwrap_or_default();
    let uptime = as_time(status.uptime_seconds as u64);
    let time = format!("  up {uptime}, {} UTC", time_of_day(status.time_unix_seconds));
    let first = Line::of(Style::Strong, format!("walring {}", status.version))
        .with(Style::Plain, " from ")
        .with(Style::Strong, server)
        .with(Style::Plain, release);
    let first = first
        .padded(columns.saturating_sub(time.len()))
        .with(Style::Plain, time);

    let mut facts = String::new();
    if let Some(slot) = &status.slot {
        facts += &format!(", slot {slot}");
    }
    if let Some(timeline) = status.timeline {
        facts += &format!(", timeline {timeline}");
    }
    if status.synchronous {
        facts += ", synchronous";
    }
    facts += &format!(", verify {}", status.verify);

    let file = status.segment.as_deref().unwrap_or("no file yet");
    let mut third = Line::of(
        Style::Plain,
        format!("{}/{file}", status.directory.trim_end_matches('/')),
    );
    if let Some(free) = status.free_bytes {
        third = third.with(Style::Plain, format!(", {} free", in_units(free)));
    }
    [first, health.with(Style::Plain, facts), third]
}

fn positions(positions: &Positions) -> [Line; 2] {
    let row = |values: [(&str, &Option<String>); 3]| {
        let mut line = Line::default();
        for (column, (name, value)) in values.into_iter().enumerate() {
            line = line
                .padded(27 * column)
                .with(Style::Name, format!("{name:<10} "))
                .with(Style::Plain, value.as_deref().unwrap_or("-"));
        }
        line
    };
    [
        row([
            ("received", &positions.received),
            ("verified", &positions.verified),
            ("written", &positions.written),
        ]),
        row([
            ("flushed", &positions.flushed),
            ("reported", &positions.reported),
            ("server end", &positions.server_end),
        ]),
    ]
}

fn lag(status: &Status) -> Line {
    Line::of(Style::Name, "lag        ").with(
        Style::Plain,
        format!(
            "{}, {}",
            in_units(status.lag_bytes),
            microseconds(status.lag_seconds * 1e6)
        ),
    )
}

/// The rates over the last interval, and the last minute as a line of bars.
fn rate(history: &History, status: &Status, columns: usize) -> Line {
    let latest = history.rate();
    let name = Line::of(Style::Name, "rate       ");
    let Some(rate) = latest.or_else(|| mean_rate(status)) else {
        return name.with(Style::Plain, "-");
    };
    let line = name.with(
        Style::Plain,
        format!(
            "{}/s, {} transactions/s",
            in_units(rate.bytes as u64),
            per_second(rate.transactions)
        ),
    );
    if latest.is_none() {
        return line.with(Style::Name, "  (mean since it started)");
    }
    // Numbers of up to this width leave the line of bars where it is.
    let line = line.padded(47).with(Style::Plain, " ");
    let room = columns.saturating_sub(line.width());
    line.with(
        Style::Plain,
        sparkline(&history.rates(room.min(LONGEST_SPARKLINE))),
    )
}

fn sparkline(rates: &[Option<f64>]) -> String {
    let most = rates
        .iter()
        .flatten()
        .fold(0.0, |most: f64, rate| most.max(*rate));
    let bar = |rate: &Option<f64>| match rate {
        None => BARS[0],
        // The lowest bar for nothing shows where the line is.
        Some(rate) if most > 0.0 => BARS[1 + (rate / most * 7.0).round() as usize],
        Some(_) => BARS[1],
    };
    rates.iter().map(bar).collect()
}

/// What happened since it started; first what should not have.
fn totals(status: &Status) -> Line {
    let totals = &status.totals;
    let troubles = [
        (totals.disk_errors, "disk error", Style::Bad),
        (totals.verification_failures, "verification failure", Style::Bad),
        (totals.reconnects, "reconnect", Style::Plain),
    ];
    let troubles = troubles.into_iter().filter(|&(count, ..)| count > 0);
    let line = troubles.fold(
        Line::of(Style::Name, "total      "),
        |line, (count, noun, style)| line.with(style, counted(count, noun)).with(Style::Plain, ", "),
    );
    line.with(
        Style::Plain,
        format!(
            "{}, {}, {}",
            in_units(totals.bytes),
            counted(totals.segments, "segment"),
            counted(totals.transactions, "transaction"),
        ),
    )
}

fn latencies(latencies: &Latencies) -> Vec<Line> {
    let mut lines = vec![Line::of(
        Style::Name,
        row(
            "latency",
            ["count", "p50", "p99", "p99.9", "max"].map(str::to_owned),
        ),
    )];
    let rows = [
        ("received → durable", &latencies.durable),
        ("received → acknowledged", &latencies.acknowledged),
        ("commit → durable (two clocks)", &latencies.commit),
        ("write", &latencies.write),
        ("durable write", &latencies.durable_write),
        ("sync", &latencies.sync),
        ("rollover", &latencies.rollover),
    ];
    lines.extend(rows.map(|(name, times)| Line::of(Style::Plain, row(name, cells(times)))));
    lines
}

fn cells(times: &Distribution) -> [String; 5] {
    let time = |us: u64| match times.count {
        0 => "-".to_owned(),
        _ => microseconds(us as f64),
    };
    [
        grouped(times.count),
        time(times.p50_us),
        time(times.p99_us),
        time(times.p999_us),
        time(times.max_us),
    ]
}

fn row(name: &str, [count, p50, p99, p999, max]: [String; 5]) -> String {
    format!("{name:<29} {count:>13} {p50:>8} {p99:>8} {p999:>8} {max:>8}")
}

fn savings(savings: &Savings) -> Line {
    let verb = if savings.per_transaction_us < 0.0 {
        "lost"
    } else {
        "saved"
    };
    let (each, mean) = (savings.per_transaction_us.abs(), savings.baseline_mean_us);
    let (each, mean) = (microseconds(each), microseconds(mean));
    Line::of(Style::Name, format!("{verb:<10} ")).with(
        Style::Plain,
        format!(
            "about {each} of {mean} per transaction, {:.1} s in {}",
            savings.total_seconds.abs(),
            grouped(savings.transactions)
        ),
    )
}

/// Three or four digits and a unit.
fn microseconds(us: f64) -> String {
    let (value, unit) = match us {
        ..1e3 => return format!("{us:.0} µs"),
        ..1e6 => (us / 1e3, "ms"),
        _ => (us / 1e6, "s"),
    };
    let decimals = match value {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

fn per_second(rate: f64) -> String {
    match rate {
        ..10.0 => format!("{rate:.1}"),
        _ => grouped(rate as u64),
    }
}

fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(count))
}

/// Hours, minutes and seconds of a time since 1970.
fn time_of_day(unix_seconds: f64) -> String {
    let seconds = unix_seconds as u64 % 86_400;
    format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
pub(super) mod tests;
