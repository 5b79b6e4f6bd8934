//! The report, for people and for programs.

use super::finding::{Finding, Kind};
use super::{TimelineSum, Verdict};
use crate::edge::progress_line::in_units;
use crate::edge::table::{Align, Table, grouped};
use serde_json::{Value, json};
use std::fmt::Write;

/// So many findings are printed for people.
const MOST_LINES: usize = 200;

/// For people; only what is wrong if `quiet`.
pub fn text(verdict: &Verdict, quiet: bool) -> String {
    let mut text = String::new();
    if !quiet {
        text += &timelines(verdict);
    }
    // Writing to a string does not fail.
    for finding in verdict.findings.iter().take(MOST_LINES) {
        let _ = writeln!(text, "{finding}");
    }
    if let Some(more) = verdict
        .findings
        .len()
        .checked_sub(MOST_LINES)
        .filter(|&more| more > 0)
    {
        let _ = writeln!(text, "... and {more} more");
    }
    if !quiet {
        for note in &verdict.notes {
            let _ = writeln!(text, "{note}");
        }
        let _ = writeln!(text, "{}", last_line(verdict));
    }
    text
}

fn timelines(verdict: &Verdict) -> String {
    let mut table = Table::new(&[
        ("timeline", Align::Right),
        ("first segment", Align::Left),
        ("last segment", Align::Left),
        ("segments", Align::Right),
        ("pages", Align::Right),
        ("records", Align::Right),
        ("transactions", Align::Right),
        ("ends at", Align::Left),
    ]);
    for sum in &verdict.timelines {
        let TimelineSum { first, last, .. } = sum;
        table.row(vec![
            sum.timeline.to_string(),
            first.clone(),
            last.clone(),
            grouped(sum.segments as u64),
            grouped(sum.pages),
            grouped(sum.records),
            grouped(sum.transactions),
            sum.end.map_or("damage".to_owned(), |end| end.to_string()),
        ]);
    }
    format!("{table}\n")
}

/// The verdict, and how fast it came about.
fn last_line(verdict: &Verdict) -> String {
    let count = |kind: Kind| {
        verdict
            .findings
            .iter()
            .filter(|finding| finding.kind == kind)
            .count()
    };
    let missing = count(Kind::Missing) + count(Kind::History);
    let unreadable = count(Kind::Unreadable);
    let damaged = verdict.findings.len() - missing - unreadable;
    let parts = [
        (damaged, "damaged"),
        (missing, "missing"),
        (unreadable, "unreadable"),
    ];
    let parts: Vec<_> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let mut line = match parts.is_empty() {
        true => "sound".to_owned(),
        false => format!("NOT SOUND: {}", parts.join(", ")),
    };
    let seconds = verdict.duration.as_secs_f64();
    let rate = verdict.bytes as f64 / 1e6 / seconds.max(1e-6);
    let _ = write!(
        line,
        "; {} files, {} in {seconds:.2} s ({rate:.0} MB/s)",
        verdict.files,
        in_units(verdict.bytes)
    );
    for (count, what) in [
        (verdict.compressed, "compressed, not looked at"),
        (verdict.ignored, "with other names, ignored"),
    ] {
        if count > 0 {
            let _ = write!(line, "; {count} {what}");
        }
    }
    line
}

/// For programs: one object. Its keys are documented in the README and do not change.
pub fn json(verdict: &Verdict) -> String {
    let seconds = verdict.duration.as_secs_f64();
    let word = match verdict.exit_code() {
        0 => "sound",
        1 => "damaged",
        _ => "unreadable",
    };
    let object = json!({
        "verdict": word,
        "system_identifier": verdict.system_identifier.map(|identifier| identifier.to_string()),
        "version": verdict.version.map(|version| version.major()),
        "segment_size": verdict.segment_size.bytes(),
        "page_size": verdict.block_size,
        "timelines": verdict.timelines.iter().map(timeline).collect::<Vec<Value>>(),
        "findings": verdict.findings.iter().map(finding).collect::<Vec<Value>>(),
        "notes": verdict.notes,
        "files": verdict.files,
        "compressed": verdict.compressed,
        "ignored": verdict.ignored,
        "bytes": verdict.bytes,
        "seconds": seconds,
    });
    format!("{object}\n")
}

fn timeline(sum: &TimelineSum) -> Value {
    json!({
        "timeline": sum.timeline.0,
        "first_segment": sum.first,
        "last_segment": sum.last,
        "segments": sum.segments,
        "partials": sum.partials,
        "pages": sum.pages,
        "records": sum.records,
        "transactions": sum.transactions,
        "end": sum.end.map(|end| end.to_string()),
    })
}

fn finding(finding: &Finding) -> Value {
    serde_json::to_value(finding).unwrap_or_default()
}
