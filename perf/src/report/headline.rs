//! The answer in words: what a transaction saves, where the subject wins and where it loses.

use maud::{Markup, html};

use super::prepared::{Prepared, PreparedCase, PreparedDisk};
use super::words;
use crate::results::{BASELINE, Kind, Metric};
use crate::statistics::{Ratio, Verdict};

/// What one transaction saves at the median, with one number of clients.
pub struct Answer {
    /// With how many clients: `8 clients`.
    pub clients: String,
    /// What the rounds say.
    pub ratio: Ratio,
    /// What follows from it.
    pub verdict: Verdict,
}

impl Answer {
    /// What is saved, ms; below zero where it costs more.
    pub fn saved_ms(&self) -> f64 {
        self.ratio.baseline - self.ratio.receiver
    }

    /// `8.90 ms less`, `40.0 µs more`.
    pub fn amount(&self) -> String {
        let saved = self.saved_ms();
        let way = if saved < 0.0 { "more" } else { "less" };
        format!("{} {way}", words::milliseconds(saved.abs()))
    }

    /// `with 8 clients (72 %)`.
    fn place(&self) -> String {
        format!(
            "with {} ({})",
            self.clients,
            words::percent(1.0 - self.ratio.value)
        )
    }
}

/// The answers of a disk, one for each number of clients.
pub fn answers(disk: &PreparedDisk, subject: &str) -> Vec<Answer> {
    let answer = |case: &&PreparedCase| {
        let ratio = case.findings.find(subject, Metric::P50Ms)?.ratio?;
        Some(Answer {
            clients: words::case(case.case),
            ratio,
            verdict: ratio.verdict(false),
        })
    };
    disk.cases(Kind::Commit).iter().filter_map(answer).collect()
}

/// The answers as one sentence: `walring saves 8.90 ms per transaction at the median with 1 client (48 %), …`.
pub fn sentence(prepared: &Prepared, disk: &PreparedDisk) -> String {
    let answers = answers(disk, prepared.subject);
    let of = |verdict| {
        answers
            .iter()
            .filter(move |answer| answer.verdict == verdict)
            .collect::<Vec<_>>()
    };
    let amounts = |answers: &[&Answer]| {
        let amount = |answer: &&Answer| {
            format!(
                "{} {}",
                words::milliseconds(answer.saved_ms().abs()),
                answer.place()
            )
        };
        enumerated(&answers.iter().map(amount).collect::<Vec<_>>())
    };
    let mut parts = Vec::new();
    let (better, worse) = (of(Verdict::Better), of(Verdict::Worse));
    let (equal, unsure) = (of(Verdict::NoDifference), of(Verdict::TooFewRounds));
    if !better.is_empty() {
        parts.push(format!(
            "saves {} per transaction at the median",
            amounts(&better)
        ));
    }
    if !worse.is_empty() {
        parts.push(format!(
            "costs {} more per transaction at the median",
            amounts(&worse)
        ));
    }
    if !equal.is_empty() {
        let clients: Vec<String> = equal.iter().map(|answer| answer.clients.clone()).collect();
        parts.push(format!(
            "makes no difference at the median with {}",
            enumerated(&clients)
        ));
    }
    if !unsure.is_empty() {
        let amount = |answer: &&Answer| format!("{} {}", answer.amount(), answer.place());
        let amounts: Vec<String> = unsure.iter().map(amount).collect();
        let why = "in too few rounds to call it a difference";
        parts.push(format!(
            "took {} per transaction at the median, {why}",
            enumerated(&amounts)
        ));
    }
    if parts.is_empty() {
        return "No commits were compared on this disk.".to_owned();
    }
    let name = prepared.name(prepared.subject);
    format!(
        "Against {}, {name} {}.",
        prepared.name(BASELINE),
        parts.join("; it ")
    )
}

/// `a`, `a and b`, `a, b and c`.
fn enumerated(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// The subject's measures on a disk, by verdict.
#[derive(Default)]
pub struct Balance {
    /// Where it is better.
    pub wins: Vec<Entry>,
    /// Where it is worse.
    pub losses: Vec<Entry>,
    /// Where the interval holds 1.
    pub equal: Vec<Entry>,
    /// Where there are too few rounds.
    pub undecided: Vec<Entry>,
}

/// The measures of one case with one verdict.
pub struct Entry {
    /// The case.
    pub case: String,
    /// The measures, with their ratios.
    pub measures: Vec<(Metric, Ratio)>,
}

impl Balance {
    /// Of all the disk's cases.
    pub fn of(disk: &PreparedDisk, subject: &str) -> Balance {
        let mut balance = Balance::default();
        for case in &disk.cases {
            for metric in words::METRICS
                .into_iter()
                .filter(|metric| words::is_judged(*metric))
            {
                let Some(finding) = case.findings.find(subject, metric) else {
                    continue;
                };
                let Some(ratio) = finding.ratio else { continue };
                let entries = match ratio.verdict(metric.higher_is_better()) {
                    Verdict::Better => &mut balance.wins,
                    Verdict::Worse => &mut balance.losses,
                    Verdict::NoDifference => &mut balance.equal,
                    Verdict::TooFewRounds => &mut balance.undecided,
                };
                let name = words::full_case(case.case);
                match entries.last_mut().filter(|entry| entry.case == name) {
                    Some(entry) => entry.measures.push((metric, ratio)),
                    None => entries.push(Entry {
                        case: name,
                        measures: vec![(metric, ratio)],
                    }),
                }
            }
        }
        balance
    }

    /// `Of 48 measures it is better in 40, worse in 3 and no different in 5.`
    pub fn sentence(&self) -> String {
        let [wins, losses, equal, undecided] =
            [&self.wins, &self.losses, &self.equal, &self.undecided].map(|entries| count(entries));
        let all = wins + losses + equal + undecided;
        if all == 0 {
            return "Nothing was compared.".to_owned();
        }
        let s = words::plural(all);
        if undecided == all {
            return format!("Of {all} measure{s} all had too few rounds to tell.");
        }
        let some = |count: usize| {
            if count == 0 {
                "none".to_owned()
            } else {
                count.to_string()
            }
        };
        let few = match undecided {
            0 => String::new(),
            some => format!("; {some} had too few rounds to tell"),
        };
        let [wins, losses, equal] = [wins, losses, equal].map(some);
        format!(
            "Of {all} measure{s} it is better in {wins}, worse in {losses}, and no different in {equal}{few}."
        )
    }
}

/// How many measures.
pub fn count(entries: &[Entry]) -> usize {
    entries.iter().map(|entry| entry.measures.len()).sum()
}

/// The disk's answer: a sentence, a card for each number of clients, and the balance.
pub fn markup(prepared: &Prepared, disk: &PreparedDisk) -> Markup {
    let balance = Balance::of(disk, prepared.subject);
    let name = prepared.name(prepared.subject);
    html! {
        p.lead { (sentence(prepared, disk)) " " (balance.sentence()) }
        div.cards {
            @for answer in answers(disk, prepared.subject) { (card(prepared, &answer)) }
        }
        div.balance {
            (entries(&format!("Where {name} is better"), "better", &balance.wins, &balance.undecided))
            (entries(&format!("Where {name} is worse"), "worse", &balance.losses, &balance.undecided))
        }
        @if !balance.equal.is_empty() {
            details { summary { "No difference: " (measures(&balance.equal)) } (list(&balance.equal)) }
        }
        @if !balance.undecided.is_empty() {
            details { summary { "Too few rounds to tell: " (measures(&balance.undecided)) } (list(&balance.undecided)) }
        }
    }
}

fn measures(entries: &[Entry]) -> String {
    format!("{} measure{}", count(entries), words::plural(count(entries)))
}

fn card(prepared: &Prepared, answer: &Answer) -> Markup {
    let (big, class) = match answer.verdict {
        Verdict::Better => (answer.amount(), "better"),
        Verdict::Worse => (answer.amount(), "worse"),
        Verdict::NoDifference => ("no difference".to_owned(), "equal"),
        Verdict::TooFewRounds => (answer.amount(), "equal"),
    };
    let way = if answer.saved_ms() < 0.0 { "more" } else { "less" };
    let share = words::percent(1.0 - answer.ratio.value);
    html! {
        div class=(format!("card {class}")) {
            div.clients { (answer.clients) }
            div.amount { (big) }
            div {
                b { (words::verdict(answer.verdict, answer.ratio.rounds)) } ", "
                (share) " " (way) " than " (prepared.name(BASELINE))
            }
            div.fine {
                (words::number(answer.ratio.receiver)) " against " (words::number(answer.ratio.baseline))
                " ms, ratio " (words::ratio(&answer.ratio))
            }
        }
    }
}

fn entries(heading: &str, class: &str, entries: &[Entry], undecided: &[Entry]) -> Markup {
    let nowhere = match undecided {
        [] => "Nowhere.".to_owned(),
        some => format!("Nowhere, but {} had too few rounds to tell.", measures(some)),
    };
    html! {
        div class=(class) {
            h4 { (heading) ": " (measures(entries)) }
            @if entries.is_empty() { p { (nowhere) } } @else { (list(entries)) }
        }
    }
}

fn list(entries: &[Entry]) -> Markup {
    html! {
        ul.entries {
            @for entry in entries {
                li {
                    b { (entry.case) } ": "
                    @for (index, (metric, ratio)) in entry.measures.iter().enumerate() {
                        @if index > 0 { ", " }
                        span.measure { (words::metric(*metric)) " " b { (words::factor(ratio.value)) } }
                    }
                }
            }
        }
    }
}
