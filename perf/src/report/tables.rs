//! The tables of the page.

use maud::{Markup, html};

use super::prepared::{Prepared, PreparedCase, look};
use super::words;
use crate::results::{BASELINE, Metric};
use crate::statistics::{Finding, Verdict};

/// A table of these cases: a row for each receiver, a column for each measure that any of them has.
pub fn cases(prepared: &Prepared, caption: &str, cases: &[&PreparedCase], metrics: &[Metric]) -> Markup {
    let has = |metric: &&Metric| cases.iter().any(|case| case.has(**metric));
    let metrics: Vec<Metric> = metrics.iter().filter(has).copied().collect();
    html! {
        @if !metrics.is_empty() {
            div.scroll tabindex="0" role="region" aria-label=(caption) {
                table.cases {
                    caption { (caption) }
                    thead {
                        tr {
                            th scope="col" { "receiver" }
                            @for metric in &metrics {
                                th scope="col" {
                                    (words::metric(*metric)) " " span.unit { (words::unit(*metric)) }
                                    @if metric.higher_is_better() { span.way { "more is better" } }
                                }
                            }
                        }
                    }
                    @for case in cases { (rows(prepared, case, &metrics)) }
                }
            }
        }
    }
}

/// A case's rows, under a row that says what it is.
fn rows(prepared: &Prepared, case: &PreparedCase, metrics: &[Metric]) -> Markup {
    let has_any = |key: &&&str| {
        metrics
            .iter()
            .any(|metric| case.findings.find(key, *metric).is_some())
    };
    html! {
        tbody {
            tr.group {
                th scope="rowgroup" colspan=(metrics.len() + 1) {
                    span.stay {
                        @if case.case.clients.is_some() { (words::case(case.case)) ". " }
                        span.about { (case.case.about) }
                    }
                }
            }
            @for key in case.receivers.iter().filter(has_any) {
                tr {
                    th scope="row" {
                        span class=(format!("swatch r{}", look(key))) {}
                        (prepared.name(key))
                    }
                    @for metric in metrics { (cell(case.findings.find(key, *metric), *metric, key)) }
                }
            }
        }
    }
}

/// A measure: the median, the rounds' range, and the comparison in numbers and words.
fn cell(finding: Option<&Finding>, metric: Metric, receiver: &str) -> Markup {
    let Some(Finding { summary, ratio }) = finding else {
        return html! { td.none { "not measured" } };
    };
    html! {
        td {
            span.median { (words::number(summary.median)) }
            @if summary.rounds > 1 {
                span.range { (words::number(summary.smallest)) "–" (words::number(summary.largest)) }
            }
            @match ratio {
                Some(ratio) if words::is_judged(metric) => {
                    @let verdict = ratio.verdict(metric.higher_is_better());
                    span.ratio { "× " (words::factor(ratio.value)) " " span.interval { (words::interval(ratio)) } }
                    span class=(format!("verdict {}", class(verdict))) { (words::verdict(verdict, ratio.rounds)) }
                }
                _ if receiver == BASELINE && words::is_judged(metric) => { span.ratio { "baseline" } }
                _ => {}
            }
        }
    }
}

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::NoDifference | Verdict::TooFewRounds => "equal",
    }
}

/// A plain table of a chart's data, folded away.
pub fn data(heads: &[String], rows: &[Vec<String>]) -> Markup {
    html! {
        details.data {
            summary { "the numbers" }
            div.scroll tabindex="0" role="region" aria-label="the numbers" {
                table {
                    thead { tr { @for head in heads { th scope="col" { (head) } } } }
                    tbody {
                        @for row in rows {
                            tr {
                                @for (index, value) in row.iter().enumerate() {
                                    @if index == 0 { th scope="row" { (value) } } @else { td { (value) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
