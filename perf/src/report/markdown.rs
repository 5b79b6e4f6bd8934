//! The tables that a README includes.

use super::headline::{self, Balance, Entry};
use super::page::facts;
use super::prepared::{Prepared, PreparedCase, PreparedDisk};
use super::words;
use crate::results::{Kind, Metric};
use crate::statistics::Verdict;

/// The columns about commits.
const COST: [Metric; 4] = [
    Metric::P50Ms,
    Metric::P99Ms,
    Metric::P999Ms,
    Metric::CpuUsPerCommit,
];

/// The measures of the other cases, the first ones that a case has.
const OTHER: [Metric; 8] = [
    Metric::ElapsedMs,
    Metric::MibPerSecond,
    Metric::P50Ms,
    Metric::P99Ms,
    Metric::P999Ms,
    Metric::CpuSPerGib,
    Metric::CorrectedP99Ms,
    Metric::PeakMib,
];

/// All tables, and the facts below them.
pub fn tables(prepared: &Prepared) -> String {
    let mut text = String::new();
    for disk in &prepared.disks {
        let balance = Balance::of(disk, prepared.subject);
        let answer = format!("{} {}", headline::sentence(prepared, disk), balance.sentence());
        let heading = escaped(&words::disk(disk.disk));
        text.push_str(&format!(
            "**{heading}.** {}{}\n\n",
            escaped(&answer),
            losses(&balance.losses)
        ));
        text.push_str(&commits(prepared, disk));
        text.push_str(&others(prepared, disk));
    }
    text.push_str(
        "Medians over the rounds; × is the ratio to `pg_receivewal` with its 95 % interval over the rounds. A difference \
         counts only where the interval excludes 1.\n\n",
    );
    for (name, value) in facts(prepared) {
        text.push_str(&format!("- {}: {}\n", escaped(&name), escaped(&value)));
    }
    for reason in prepared.comparison.skipped.iter().chain(&prepared.unreadable) {
        text.push_str(&format!("- not run, not read: {}\n", escaped(reason)));
    }
    text
}

/// ` Worse: …`, or nothing.
fn losses(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return String::new();
    }
    let measures = |entry: &Entry| {
        let measures = entry.measures.iter();
        measures
            .map(|(metric, ratio)| format!("{} × {}", words::metric(*metric), words::ratio(ratio)))
            .collect::<Vec<_>>()
    };
    let entry = |entry: &Entry| format!("{}: {}", entry.case, measures(entry).join(", "));
    format!(
        " Worse: {}.",
        entries.iter().map(entry).collect::<Vec<_>>().join("; ")
    )
}

fn commits(prepared: &Prepared, disk: &PreparedDisk) -> String {
    let cases = disk.cases(Kind::Commit);
    if cases.is_empty() {
        return String::new();
    }
    let mut text = "| clients | receiver |".to_owned();
    for metric in COST {
        text.push_str(&format!(" {} |", words::heading(metric)));
    }
    text.push_str(&format!("\n| ---: | --- |{}\n", " ---: |".repeat(COST.len())));
    for case in cases {
        for (index, key) in case.receivers.iter().enumerate() {
            let clients = if index == 0 {
                case.case
                    .clients
                    .map_or(String::new(), |clients| clients.to_string())
            } else {
                String::new()
            };
            text.push_str(&format!("| {clients} | {} |", escaped(prepared.name(key))));
            for metric in COST {
                text.push_str(&format!(" {} |", cell(case, key, metric)));
            }
            text.push('\n');
        }
    }
    text.push('\n');
    text
}

fn others(prepared: &Prepared, disk: &PreparedDisk) -> String {
    let mut rows = String::new();
    for case in disk.cases.iter().filter(|case| case.case.kind != Kind::Commit) {
        for (index, key) in case.receivers.iter().enumerate() {
            let name = if index == 0 {
                words::full_case(case.case)
            } else {
                String::new()
            };
            let measures: Vec<String> = OTHER
                .into_iter()
                .filter(|metric| case.has(*metric))
                .map(|metric| measure(case, key, metric))
                .collect();
            rows.push_str(&format!(
                "| {name} | {} | {} |\n",
                escaped(prepared.name(key)),
                measures.join("; ")
            ));
        }
    }
    match rows.as_str() {
        "" => rows,
        _ => format!("| case | receiver | measured |\n| --- | --- | --- |\n{rows}\n"),
    }
}

/// `p50 1.23 ms × 0.33 (0.31–0.35) better`.
fn measure(case: &PreparedCase, key: &str, metric: Metric) -> String {
    let unit = words::unit(metric);
    match case.findings.find(key, metric) {
        None => format!("{} –", words::metric(metric)),
        Some(finding) => {
            let value = words::with_unit(finding.summary.median, unit);
            format!("{} {value}{}", words::metric(metric), compared(case, key, metric))
        }
    }
}

fn cell(case: &PreparedCase, key: &str, metric: Metric) -> String {
    match case.findings.find(key, metric) {
        None => "–".to_owned(),
        Some(finding) => format!(
            "{}{}",
            words::number(finding.summary.median),
            compared(case, key, metric)
        ),
    }
}

/// ` × 0.33 (0.31–0.35) better`, or nothing where there is nothing to compare with.
fn compared(case: &PreparedCase, key: &str, metric: Metric) -> String {
    let ratio = case.findings.find(key, metric).and_then(|finding| finding.ratio);
    ratio
        .filter(|_| words::is_judged(metric))
        .map_or(String::new(), |ratio| {
            let verdict = match ratio.verdict(metric.higher_is_better()) {
                Verdict::TooFewRounds => "(no interval)",
                other => words::verdict(other, ratio.rounds),
            };
            format!(" × {} {verdict}", words::ratio(&ratio))
        })
}

/// Text that cannot end a table's cell or begin markup.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' | '\r' => escaped.push(' '),
            '<' => escaped.push_str("&lt;"),
            '|' | '`' | '*' | '[' | ']' | '\\' => escaped.extend(['\\', letter]),
            _ => escaped.push(letter),
        }
    }
    escaped
}
