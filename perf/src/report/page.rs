//! The page: its parts in order.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::prepared::{Prepared, PreparedCase, PreparedDisk, look};
use super::{figures, headline, tables, words};
use crate::results::{BASELINE, Disk, Kind, Metric};
use crate::statistics::FEWEST_ROUNDS;

const STYLE: &str = include_str!("style.css");

/// What a commit costs its client, and the receiver.
const COST: [Metric; 5] = [
    Metric::MeanMs,
    Metric::P50Ms,
    Metric::P99Ms,
    Metric::P999Ms,
    Metric::CpuUsPerCommit,
];

/// What is done for a commit.
const WORK: [Metric; 5] = [
    Metric::CommitsPerFlush,
    Metric::DiskBytesPerWalByte,
    Metric::SyscallsPerCommit,
    Metric::SwitchesPerCommit,
    Metric::CommitsPerSecond,
];

/// What the table of any other case shows first, of what it has.
const MAIN: [Metric; 9] = [
    Metric::P50Ms,
    Metric::P99Ms,
    Metric::P999Ms,
    Metric::CorrectedP99Ms,
    Metric::ElapsedMs,
    Metric::MibPerSecond,
    Metric::WallS,
    Metric::CpuUsPerCommit,
    Metric::CpuSPerGib,
];

/// All of it.
pub fn page(prepared: &Prepared) -> Markup {
    let title = format!(
        "{} against {}",
        prepared.name(prepared.subject),
        prepared.name(BASELINE)
    );
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (title) }
                    p.fine { (circumstances(prepared)) }
                }
                main {
                    (answer(prepared))
                    @for (index, disk) in prepared.disks.iter().enumerate() { (disk_section(prepared, disk, index)) }
                    (footprint(prepared))
                    (method(prepared))
                }
            }
        }
    }
}

/// One line: when, where, how long.
fn circumstances(prepared: &Prepared) -> String {
    let comparison = prepared.comparison;
    let rounds = comparison.rounds;
    format!(
        "{}, {}, {} cores, {}; {rounds} round{}",
        comparison.started,
        comparison.machine.cpu,
        comparison.machine.cores,
        comparison.machine.kernel,
        words::plural(rounds as usize)
    )
}

/// The headline of every disk.
fn answer(prepared: &Prepared) -> Markup {
    html! {
        section id="answer" {
            h2 { "What a transaction saves" }
            @if prepared.disks.is_empty() { p.lead { "No disk was measured." } }
            @for (index, disk) in prepared.disks.iter().enumerate() {
                h3 { a href=(format!("#disk{index}")) { (words::disk(disk.disk)) } }
                p.note { (disk.disk.about) " " (durable_write(disk.disk)) }
                (headline::markup(prepared, disk))
            }
            p.note {
                "A ratio divides the receiver’s median by " (prepared.name(BASELINE)) "’s. "
                "In brackets the interval that holds 95 % of what drawn rounds give; only where it excludes 1 "
                "is a measure called better or worse."
            }
        }
    }
}

fn durable_write(disk: &Disk) -> String {
    let write = format!(
        "A durable write of 4096 bytes takes {} ms.",
        words::number(disk.durable_write_ms)
    );
    match disk.set_flush_ms {
        Some(flush) => format!("{write} Its flush is set to {}.", words::milliseconds(flush)),
        None => write,
    }
}

fn disk_section(prepared: &Prepared, disk: &PreparedDisk, index: usize) -> Markup {
    html! {
        section id=(format!("disk{index}")) {
            h2 { (words::disk(disk.disk)) }
            @if disk.cases.is_empty() { p { "Nothing was measured on this disk." } }
            @for kind in words::KINDS {
                @let cases = disk.cases(kind);
                @let id = format!("d{index}-{kind:?}").to_lowercase();
                @if !cases.is_empty() {
                    h3 { (words::kind(kind)) }
                    @match kind {
                        Kind::Commit => (commits(prepared, &id, &cases)),
                        Kind::Rollover => (rollover(prepared, &id, &cases)),
                        Kind::CatchUp => (catch_up(prepared, &id, &cases)),
                        _ => (other(prepared, &id, &cases)),
                    }
                }
            }
        }
    }
}

const CURVES: &str =
    "Both axes are logarithmic: each nine of the percentile is equally wide. Lower is better.";
const SAVINGS: &str = "The baseline’s latency minus the receiver’s at the same percentile, logarithmic both ways from zero. \
    The line is the median of the rounds; the band reaches from the smallest to the largest round of";
const BARS: &str = "Medians; the thin line reaches from the smallest to the largest round.";

fn commits(prepared: &Prepared, id: &str, cases: &[&PreparedCase]) -> Markup {
    let bars = figures::bars(&format!("{id}-cpu"), prepared, cases, Metric::CpuUsPerCommit);
    html! {
        (tables::cases(prepared, "What a commit costs", cases, &COST))
        (latencies(prepared, id, cases))
        (figures::group("The receiver’s CPU time for each commit", BARS, None, &bars))
        h4 { "What is done for a commit" }
        (tables::cases(prepared, "What is done for a commit", cases, &WORK))
        (rest(prepared, cases, &[&COST[..], &WORK].concat()))
    }
}

fn latencies(prepared: &Prepared, id: &str, cases: &[&PreparedCase]) -> Markup {
    let curves = figures::percentiles(id, cases);
    let savings = figures::savings(id, prepared, cases);
    let legend = |savings| Some(figures::legend(prepared, cases, savings));
    let note = format!("{SAVINGS} {}.", prepared.name(prepared.subject));
    if let ([curve], [saving]) = (&curves[..], &savings[..]) {
        let note = format!("Latency: {CURVES} Saved: {note}");
        return figures::group(
            "By percentile",
            &note,
            legend(false),
            &[curve.clone(), saving.clone()],
        );
    }
    html! {
        (figures::group("Latency by percentile", CURVES, legend(false), &curves))
        (figures::group("Saved per transaction by percentile", &note, legend(true), &savings))
    }
}

fn rollover(prepared: &Prepared, id: &str, cases: &[&PreparedCase]) -> Markup {
    const NOTE: &str =
        "The line is the median of each span, a dot its longest commit, a dashed line a change of segment.";
    html! {
        (other(prepared, id, cases))
        @for (index, case) in cases.iter().enumerate() {
            @let heading = format!("Over time: {}", words::case(case.case));
            @let charts = figures::series(&format!("{id}-{index}"), prepared, case);
            (figures::group(&heading, NOTE, None, &charts))
        }
    }
}

fn catch_up(prepared: &Prepared, id: &str, cases: &[&PreparedCase]) -> Markup {
    let throughput = figures::bars(&format!("{id}-mib"), prepared, cases, Metric::MibPerSecond);
    let cpu = figures::bars(&format!("{id}-cpu"), prepared, cases, Metric::CpuSPerGib);
    html! {
        (other(prepared, id, cases))
        (figures::group("Throughput (more is better)", BARS, None, &throughput))
        (figures::group("The receiver’s CPU time for each GiB", BARS, None, &cpu))
    }
}

fn other(prepared: &Prepared, id: &str, cases: &[&PreparedCase]) -> Markup {
    let kind = cases.first().map_or("", |case| words::kind(case.case.kind));
    html! {
        (tables::cases(prepared, kind, cases, &MAIN))
        (rest(prepared, cases, &MAIN))
        (latencies(prepared, id, cases))
    }
}

/// The measures that were not shown, folded away.
fn rest(prepared: &Prepared, cases: &[&PreparedCase], shown: &[Metric]) -> Markup {
    let left = |metric: &Metric| !shown.contains(metric) && cases.iter().any(|case| case.has(*metric));
    let rest: Vec<Metric> = words::METRICS.into_iter().filter(left).collect();
    html! {
        @if !rest.is_empty() {
            details {
                summary { "Also measured: " (rest.iter().map(|metric| words::metric(*metric)).collect::<Vec<_>>().join(", ")) }
                (tables::cases(prepared, "Also measured", cases, &rest))
            }
        }
    }
}

fn footprint(prepared: &Prepared) -> Markup {
    let comparison = prepared.comparison;
    html! {
        section id="footprint" {
            h2 { "Footprint" }
            div.scroll tabindex="0" role="region" aria-label="Footprint" {
                table {
                    thead { tr {
                        th scope="col" { "receiver" }
                        th scope="col" { "program file" }
                        th scope="col" { "peak resident memory, the largest median of any case" }
                    } }
                    tbody {
                        @for receiver in &comparison.receivers {
                            tr {
                                th scope="row" {
                                    span class=(format!("swatch r{}", look(&receiver.key))) {} (receiver.name)
                                }
                                td { (receiver.binary_bytes.map_or("not measured".to_owned(), words::bytes)) }
                                td { (peak(prepared, &receiver.key)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The largest median of a receiver's peak memory.
fn peak(prepared: &Prepared, key: &str) -> String {
    let cases = prepared.disks.iter().flat_map(|disk| &disk.cases);
    let peaks = cases.filter_map(|case| Some(case.findings.find(key, Metric::PeakMib)?.summary.median));
    let largest = peaks.fold(None, |largest: Option<f64>, peak| {
        Some(largest.unwrap_or(peak).max(peak))
    });
    largest.map_or("not measured".to_owned(), |peak| words::with_unit(peak, "MiB"))
}

fn method(prepared: &Prepared) -> Markup {
    let comparison = prepared.comparison;
    html! {
        section id="method" {
            h2 { "How it was measured" }
            dl { @for (name, value) in facts(prepared) { dt { (name) } dd { (value) } } }
            h3 { "Receivers" }
            dl.receivers {
                @for receiver in &comparison.receivers {
                    dt { span class=(format!("swatch r{}", look(&receiver.key))) {} (receiver.name) }
                    dd { (receiver.about) code { (receiver.command) } }
                }
            }
            h3 { "How results are called" }
            @for text in calling(comparison.rounds as usize) { p { (text) } }
            (noise(prepared))
            h3 { "Not run, not read" }
            @if comparison.skipped.is_empty() && prepared.unreadable.is_empty() { p { "Everything ran." } } @else {
                ul { @for reason in comparison.skipped.iter().chain(&prepared.unreadable) { li { (reason) } } }
            }
        }
    }
}

/// The machine, the programs and the run, as name and value.
pub fn facts(prepared: &Prepared) -> Vec<(String, String)> {
    let comparison = prepared.comparison;
    let machine = &comparison.machine;
    let fact = |name: &str, value: String| (name.to_owned(), value);
    let memory = format!(
        "{} memory",
        words::bytes(machine.memory_mib.saturating_mul(1 << 20))
    );
    let mut facts = vec![
        fact(
            "machine",
            format!("{}, {} cores, {memory}", machine.cpu, machine.cores),
        ),
        fact("system", format!("{}, {}", machine.os, machine.kernel)),
        fact("primary’s data on", machine.primary_filesystem.clone()),
    ];
    for disk in &comparison.disks {
        let device = disk
            .device
            .as_ref()
            .map_or(String::new(), |device| format!(" on {device}"));
        let about = disk.about.trim_end_matches('.');
        let filesystem = match about.contains(&disk.filesystem) {
            true => String::new(),
            false => format!(", {}{device}", disk.filesystem),
        };
        let about = format!("{about}{filesystem}. {}", durable_write(disk));
        facts.push((format!("disk {}", disk.key), about));
    }
    for (program, version) in &machine.versions {
        facts.push((program.clone(), version.clone()));
    }
    facts.push(fact("command", comparison.command.clone()));
    facts.push(fact("rounds", comparison.rounds.to_string()));
    facts.push(fact("began", comparison.started.clone()));
    facts.push(fact("took", words::duration(comparison.took_s)));
    facts
}

/// What the words of the report mean.
fn calling(rounds: usize) -> Vec<String> {
    let mut texts = vec![
        "In a round every receiver runs once, one after the other, on the same disk; every second round runs in the \
         opposite order. A number is the median over the rounds, beside it the smallest and the largest."
            .to_owned(),
        format!(
            "A ratio divides the receiver’s median by that of {BASELINE} in the same rounds. Its interval is a bootstrap: \
             rounds are drawn with replacement, and 95 % of the ratios so drawn lie in it. A difference counts only where \
             the interval excludes 1; with fewer than {FEWEST_ROUNDS} rounds there is no interval and nothing counts."
        ),
    ];
    if (FEWEST_ROUNDS..=6).contains(&rounds) {
        texts.push(format!(
            "With {rounds} rounds the interval is about as wide as the rounds’ own range. Two equal receivers then differ \
             by chance in about {} of the measures: one ratio near 1 proves little, many on the same side do.",
            words::percent(2f64.powi(1 - rounds as i32))
        ));
    }
    texts
}

/// How much the baseline varied between the rounds.
fn noise(prepared: &Prepared) -> Markup {
    const METRICS: [Metric; 6] = [
        Metric::P50Ms,
        Metric::P99Ms,
        Metric::P999Ms,
        Metric::CpuUsPerCommit,
        Metric::ElapsedMs,
        Metric::MibPerSecond,
    ];
    let cases: Vec<(&PreparedDisk, &PreparedCase)> = prepared
        .disks
        .iter()
        .flat_map(|disk| disk.cases.iter().map(move |case| (disk, case)))
        .collect();
    let share = |share: Option<f64>| share.map_or("–".to_owned(), words::percent);
    html! {
        h3 { "Noise" }
        p.note {
            "How far " (prepared.name(BASELINE)) " was from itself between the rounds: largest minus smallest, divided by the median."
        }
        div.scroll tabindex="0" role="region" aria-label="Noise" {
            table {
                thead { tr { th scope="col" { "case" } @for metric in METRICS { th scope="col" { (words::metric(metric)) } } } }
                tbody {
                    @for (disk, case) in cases {
                        tr {
                            th scope="row" { (disk.disk.key) ": " (words::full_case(case.case)) }
                            @for metric in METRICS { td { (share(case.findings.noise(metric))) } }
                        }
                    }
                }
            }
        }
    }
}
