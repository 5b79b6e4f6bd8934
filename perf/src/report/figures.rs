//! The charts of the page, made from the cases; each with its numbers in a table.

use maud::{Markup, html};

use super::chart::{self, Bar, Frame, Line, marker};
use super::prepared::{Prepared, PreparedCase, look};
use super::scale::{Axis, LAST_SHARE};
use super::{tables, words};
use crate::results::{BASELINE, Metric, Point, Run};
use crate::statistics::{Latencies, Summary};

/// Where the curves have markers, and the rows of their tables.
const SHARES: [f64; 8] = [0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999];

/// Points of a curve.
const STEPS: usize = 96;

/// At most so many spans of a time series are drawn.
const MOST_SPANS: usize = 150;

/// Several charts beside each other.
pub fn group(heading: &str, note: &str, legend: Option<Markup>, charts: &[Markup]) -> Markup {
    let shape = if matches!(charts.len(), 2 | 4) {
        "charts pairs"
    } else {
        "charts"
    };
    html! {
        @if !charts.is_empty() {
            h4 { (heading) }
            p.note { (note) }
            @if let Some(legend) = legend { (legend) }
            div class=(shape) { @for chart in charts { (chart) } }
        }
    }
}

/// The looks of the receivers that have latencies; of all but the baseline for `savings`.
pub fn legend(prepared: &Prepared, cases: &[&PreparedCase], savings: bool) -> Markup {
    let drawn = |key: &&str| {
        cases.iter().any(|case| case.latencies.contains_key(key)) && !(savings && *key == BASELINE)
    };
    let keys = cases
        .iter()
        .flat_map(|case| &case.receivers)
        .copied()
        .filter(drawn);
    let mut once: Vec<&str> = Vec::new();
    keys.for_each(|key| {
        if !once.contains(&key) {
            once.push(key)
        }
    });
    html! {
        ul.legend {
            @for key in once {
                li {
                    svg.sample viewBox="0 0 34 12" aria-hidden="true" {
                        path class=(format!("line r{}", look(key))) d="M1 6H33" {}
                        (marker(look(key), 17.0, 6.0))
                    }
                    (prepared.name(key))
                }
            }
        }
    }
}

fn figure(heading: &str, chart: Markup, heads: &[String], rows: &[Vec<String>]) -> Markup {
    html! { figure { figcaption { (heading) } (chart) (tables::data(heads, rows)) } }
}

/// The last share that so many commits say something about.
fn last_share(latencies: &Latencies) -> f64 {
    (1.0 - 1.0 / latencies.commits().max(2) as f64).min(LAST_SHARE)
}

/// `99.9`, from 0.999.
fn percentile(share: f64) -> String {
    let text = format!("{:.2}", share * 100.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn names(keys: &[&str]) -> String {
    keys.join(", ")
}

/// `8 clients: latency`, or `latency` where there are no clients.
fn captioned(case: &PreparedCase, what: &str) -> String {
    case.case
        .clients
        .map_or(what.to_owned(), |_| format!("{}: {what}", words::case(case.case)))
}

/// Latency by percentile: a chart for each case.
pub fn percentiles(id: &str, cases: &[&PreparedCase]) -> Vec<Markup> {
    let with_data = cases.iter().filter(|case| !case.latencies.is_empty());
    with_data
        .enumerate()
        .map(|(index, case)| percentile_chart(format!("{id}-p{index}"), case))
        .collect()
}

fn percentile_chart(id: String, case: &PreparedCase) -> Markup {
    let keys: Vec<&str> = case
        .receivers
        .iter()
        .copied()
        .filter(|key| case.latencies.contains_key(key))
        .collect();
    let last = case.latencies.values().map(last_share).fold(0.9, f64::max);
    let x = Axis::nines(last);
    let line = |key: &&str| {
        let latencies = &case.latencies[*key];
        let own_last = last_share(latencies);
        let at = |share: f64| (share, latencies.quantile_ms(share));
        let within = |share: &f64| *share <= own_last;
        Line {
            look: look(key),
            name: (*key).to_owned(),
            points: x.even(STEPS).into_iter().filter(within).map(at).collect(),
            markers: SHARES[2..].iter().copied().filter(within).map(at).collect(),
            ..Line::default()
        }
    };
    let lines: Vec<Line> = keys.iter().map(line).collect();
    let frame = Frame {
        id,
        title: format!("Latency by percentile, {}", words::full_case(case.case)),
        description: format!(
            "One rising line for each of {}; the numbers are in the table below.",
            names(&keys)
        ),
        x,
        x_text: percentile,
        x_label: "percentile of commits",
        y: Axis::log(
            lines
                .iter()
                .flat_map(|line| line.points.iter().map(|point| point.1)),
        ),
        y_label: "latency, ms",
        marks: &[],
        zero: false,
    };
    let heads = percentile_heads(&keys, "ms");
    let rows = percentile_rows(&keys, last, |key, share| {
        words::number(case.latencies[key].quantile_ms(share))
    });
    figure(
        &captioned(case, "latency"),
        chart::lines(&frame, &lines),
        &heads,
        &rows,
    )
}

/// What a transaction saves against the baseline, by percentile: a chart for each case.
pub fn savings(id: &str, prepared: &Prepared, cases: &[&PreparedCase]) -> Vec<Markup> {
    let chart = |(index, case): (usize, &&PreparedCase)| {
        savings_chart(format!("{id}-s{index}"), prepared.subject, case)
    };
    cases.iter().enumerate().filter_map(chart).collect()
}

fn savings_chart(id: String, subject: &str, case: &PreparedCase) -> Option<Markup> {
    let baseline = case.baseline()?;
    let others = case.receivers.iter().copied().filter(|key| *key != BASELINE);
    let keys: Vec<&str> = others.filter(|key| case.latencies.contains_key(key)).collect();
    if keys.is_empty() {
        return None;
    }
    let last = last_share(baseline).min(0.999);
    let x = Axis::nines(last);
    let line = |key: &&str| savings_line(key, &case.latencies[*key], baseline, x, *key == subject);
    let lines: Vec<Line> = keys.iter().map(line).collect();
    let medians = || {
        lines
            .iter()
            .flat_map(|line| line.points.iter().map(|point| point.1))
    };
    let bands = lines
        .iter()
        .flat_map(|line| &line.band)
        .flat_map(|(_, low, high)| [*low, *high]);
    let frame = Frame {
        id,
        title: format!(
            "Milliseconds saved per transaction by percentile, {}",
            words::full_case(case.case)
        ),
        description: format!(
            "One line for each of {}; above zero it is faster than {BASELINE}, below zero slower.",
            names(&keys)
        ),
        x,
        x_text: percentile,
        x_label: "percentile of commits",
        y: Axis::signed(medians().chain(bands)),
        y_label: "ms saved (above 0: faster)",
        marks: &[],
        zero: true,
    };
    let heads = percentile_heads(&keys, "ms saved");
    let rows = percentile_rows(&keys, last, |key, share| {
        case.latencies[key]
            .saved_ms(baseline, share)
            .map_or_else(|| "–".to_owned(), |saved| spread(&saved))
    });
    Some(figure(
        &captioned(case, "saved per transaction"),
        chart::lines(&frame, &lines),
        &heads,
        &rows,
    ))
}

/// What a receiver saves against the baseline, with the rounds' band where it is wanted.
fn savings_line(key: &str, own: &Latencies, baseline: &Latencies, x: Axis, banded: bool) -> Line {
    let within = last_share(baseline).min(last_share(own)).min(0.999);
    let at = |share: f64| Some((share, own.saved_ms(baseline, share)?));
    let shares = x
        .even(STEPS)
        .into_iter()
        .filter(|share| (0.01..=within).contains(share));
    let all: Vec<(f64, Summary)> = shares.filter_map(at).collect();
    let marked = SHARES.into_iter().filter(|share| *share <= within);
    let edges = |(share, saved): &(f64, Summary)| (*share, saved.smallest, saved.largest);
    Line {
        look: look(key),
        name: key.to_owned(),
        points: all.iter().map(|(share, saved)| (*share, saved.median)).collect(),
        markers: marked
            .filter_map(at)
            .map(|(share, saved)| (share, saved.median))
            .collect(),
        band: all.iter().filter(|_| banded).map(edges).collect(),
        ..Line::default()
    }
}

/// The heads of a table by percentile, a column for each receiver.
fn percentile_heads(keys: &[&str], unit: &str) -> Vec<String> {
    let columns = keys.iter().map(|key| format!("{key} {unit}"));
    std::iter::once("percentile".to_owned()).chain(columns).collect()
}

/// Its rows.
fn percentile_rows(keys: &[&str], last: f64, value: impl Fn(&str, f64) -> String) -> Vec<Vec<String>> {
    let row = |share: f64| {
        std::iter::once(percentile(share))
            .chain(keys.iter().map(|key| value(key, share)))
            .collect()
    };
    SHARES
        .into_iter()
        .filter(|share| *share <= last)
        .map(row)
        .collect()
}

/// `1.23 (1.10 to 1.40)`.
fn spread(summary: &Summary) -> String {
    let [median, low, high] = [summary.median, summary.smallest, summary.largest].map(words::number);
    if summary.rounds > 1 {
        format!("{median} ({low} to {high})")
    } else {
        median
    }
}

/// A measure as bars: a chart for each case that has it.
pub fn bars(id: &str, prepared: &Prepared, cases: &[&PreparedCase], metric: Metric) -> Vec<Markup> {
    let with_data = cases.iter().filter(|case| case.has(metric)).enumerate();
    with_data
        .map(|(index, case)| bar_chart(&format!("{id}-{index}"), prepared, case, metric))
        .collect()
}

fn bar_chart(id: &str, prepared: &Prepared, case: &PreparedCase, metric: Metric) -> Markup {
    let found = |key| Some((key, case.findings.find(key, metric)?.summary));
    let found: Vec<(&str, Summary)> = case.receivers.iter().copied().filter_map(found).collect();
    let bar = |(key, summary): &(&str, Summary)| Bar {
        look: look(key),
        name: (*key).to_owned(),
        value: summary.median,
        range: (summary.smallest, summary.largest),
        text: words::with_unit(summary.median, words::unit(metric)),
    };
    let title = format!("{}, {}", words::metric(metric), words::full_case(case.case));
    let says = |(key, summary): &(&str, Summary)| {
        format!(
            "{} {}",
            prepared.name(key),
            words::with_unit(summary.median, words::unit(metric))
        )
    };
    let description = found.iter().map(says).collect::<Vec<_>>().join("; ");
    let heads = ["receiver", "median", "smallest", "largest", "rounds"].map(str::to_owned);
    let row = |(key, summary): &(&str, Summary)| {
        let [median, low, high] = [summary.median, summary.smallest, summary.largest].map(words::number);
        vec![
            prepared.name(key).to_owned(),
            median,
            low,
            high,
            summary.rounds.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = found.iter().map(row).collect();
    let bars: Vec<Bar> = found.iter().map(bar).collect();
    let heading = captioned(case, &words::heading(metric));
    figure(
        &heading,
        chart::bars(id, &title, &description, &bars),
        &heads,
        &rows,
    )
}

/// Latency over time with the changes of segment: a chart for each receiver, all with the same axes.
pub fn series(id: &str, prepared: &Prepared, case: &PreparedCase) -> Vec<Markup> {
    let first = |key: &&str| {
        case.case
            .runs
            .iter()
            .find(|run| run.receiver == *key && !run.series.is_empty())
    };
    let runs: Vec<(&Run, Vec<Point>)> = case
        .receivers
        .iter()
        .filter_map(first)
        .map(|run| (run, spans(&run.series)))
        .collect();
    let points = || runs.iter().flat_map(|(_, points)| points);
    let x = Axis::exactly(0.0, points().map(|point| point.at_s).fold(0.0, f64::max));
    let y = Axis::log(points().flat_map(|point| [point.p50_ms, point.max_ms]));
    let chart = |(index, (run, points)): (usize, &(&Run, Vec<Point>))| {
        series_chart(
            format!("{id}-t{index}"),
            prepared.name(&run.receiver),
            run,
            points,
            (x, y),
        )
    };
    runs.iter().enumerate().map(chart).collect()
}

fn series_chart(id: String, name: &str, run: &Run, points: &[Point], (x, y): (Axis, Axis)) -> Markup {
    let line = Line {
        look: look(&run.receiver),
        points: points.iter().map(|point| (point.at_s, point.p50_ms)).collect(),
        dots: points.iter().map(|point| (point.at_s, point.max_ms)).collect(),
        ..Line::default()
    };
    let changes = run.rollovers_s.len();
    let frame = Frame {
        id,
        title: format!("Latency over time, {name}, round {}", run.round),
        description: format!(
            "A line for the median and a dot for the longest commit of each span; {changes} dashed vertical line{} \
             where the primary changed its segment.",
            words::plural(changes)
        ),
        x,
        x_text: words::short,
        x_label: "seconds; dashed: change of segment",
        y,
        y_label: "latency, ms",
        marks: &run.rollovers_s,
        zero: false,
    };
    let heads = ["from s", "commits", "p50 ms", "max ms"].map(str::to_owned);
    let row = |point: &Point| {
        let [at, p50, max] = [point.at_s, point.p50_ms, point.max_ms].map(words::number);
        vec![at, point.commits.to_string(), p50, max]
    };
    let rows: Vec<Vec<String>> = points.iter().map(row).collect();
    figure(
        &format!("{name}, round {}", run.round),
        chart::lines(&frame, &[line]),
        &heads,
        &rows,
    )
}

/// At most [`MOST_SPANS`] points: neighbours become one, with the median of their medians and the longest of all.
fn spans(points: &[Point]) -> Vec<Point> {
    let together = points.len().div_ceil(MOST_SPANS).max(1);
    let one = |points: &[Point]| {
        let medians: Vec<f64> = points.iter().map(|point| point.p50_ms).collect();
        Some(Point {
            at_s: points.first()?.at_s,
            commits: points
                .iter()
                .fold(0, |sum: u32, point| sum.saturating_add(point.commits)),
            p50_ms: Summary::of(&medians)?.median,
            max_ms: points.iter().map(|point| point.max_ms).fold(0.0, f64::max),
        })
    };
    points.chunks(together).filter_map(one).collect()
}
