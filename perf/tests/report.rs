//! The report says what the data say, plainly, and any browser shows it.

#[path = "report/browser.rs"]
mod browser;
#[path = "report/sample.rs"]
mod sample;

/// What cannot be tested here is said at the end.
#[path = "../../tests/common/skip.rs"]
mod skip;

use std::sync::LazyLock;

use sample::{case, disk, empty, latencies, realistic, run};
use scraper::{ElementRef, Html, Selector};
use skip::skip;
use walring_perf::report;
use walring_perf::results::{Comparison, Kind, Metric};

static REALISTIC: LazyLock<(Comparison, String)> = LazyLock::new(|| {
    let comparison = realistic();
    let page = report::html(&comparison);
    (comparison, page)
});

/// Five rounds of both receivers at 8 clients.
fn one_case(baseline: &[f64], walring: &[f64]) -> Comparison {
    let mut comparison = empty();
    let mut disk = disk("given", None);
    let mut commits = case(Kind::Commit, Some(8));
    for (round, value) in (1..).zip(baseline) {
        commits
            .runs
            .push(run("pg_receivewal", round, &[(Metric::P50Ms, *value)]));
    }
    for (round, value) in (1..).zip(walring) {
        commits
            .runs
            .push(run("walring", round, &[(Metric::P50Ms, *value)]));
    }
    disk.cases.push(commits);
    comparison.rounds = baseline.len() as u32;
    comparison.disks.push(disk);
    comparison
}

fn selected<'a>(page: &'a Html, selector: &str) -> Vec<ElementRef<'a>> {
    let parsed = Selector::parse(selector).unwrap();
    page.select(&parsed).collect()
}

fn text(element: ElementRef) -> String {
    element
        .text()
        .collect::<Vec<_>>()
        .join(" ")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn first(page: &str, selector: &str) -> String {
    let page = Html::parse_document(page);
    selected(&page, selector)
        .first()
        .map(|found| text(*found))
        .unwrap_or_default()
}

#[test]
fn a_win_is_said_with_its_median_ratio_and_interval() {
    let page = report::html(&one_case(
        &[10.0, 12.0, 11.0, 10.5, 30.0],
        &[5.0, 6.0, 5.5, 5.25, 15.0],
    ));
    assert_eq!(
        first(&page, ".card"),
        "8 clients 5.50 ms less better , 50 % less than pg_receivewal 5.50 against 11.0 ms, ratio 0.50 (0.50–0.50)"
    );
    let lead = first(&page, ".lead");
    assert!(
        lead.contains("walring saves 5.50 ms with 8 clients (50 %) per transaction at the median"),
        "{lead}"
    );
    assert!(
        lead.contains("Of 1 measure it is better in 1, worse in none, and no different in none."),
        "{lead}"
    );
    let row = first(&page, "table.cases tbody tr:nth-child(3)");
    assert_eq!(row, "walring 5.50 5.00–15.0 × 0.50 (0.50–0.50) better");
    let row = first(&page, "table.cases tbody tr:nth-child(2)");
    assert_eq!(row, "pg_receivewal 11.0 10.0–30.0 baseline");
}

#[test]
fn a_loss_is_said_at_the_same_place_in_the_same_words() {
    let page = report::html(&one_case(
        &[5.0, 6.0, 5.5, 5.25, 15.0],
        &[10.0, 12.0, 11.0, 10.5, 30.0],
    ));
    assert_eq!(
        first(&page, ".card"),
        "8 clients 5.50 ms more worse , 100 % more than pg_receivewal 11.0 against 5.50 ms, ratio 2.00 (2.00–2.00)"
    );
    let lead = first(&page, ".lead");
    assert!(
        lead.contains("walring costs 5.50 ms with 8 clients (100 %) more per transaction"),
        "{lead}"
    );
    assert_eq!(
        first(&page, ".balance .worse"),
        "Where walring is worse: 1 measure Commits, 8 clients : p50 2.00"
    );
    assert_eq!(
        first(&page, ".balance .better"),
        "Where walring is better: 0 measures Nowhere."
    );
    let text = report::markdown(&one_case(&[1.0, 1.0, 1.0], &[2.0, 2.0, 2.0]));
    assert!(
        text.contains("Worse: Commits, 8 clients: p50 × 2.00 (2.00–2.00)."),
        "{text}"
    );
}

#[test]
fn more_of_what_should_be_more_is_better() {
    let mut comparison = empty();
    let mut given = disk("given", None);
    let mut catch_up = case(Kind::CatchUp, None);
    for round in 1..=3 {
        catch_up
            .runs
            .push(run("pg_receivewal", round, &[(Metric::MibPerSecond, 100.0)]));
        catch_up
            .runs
            .push(run("walring", round, &[(Metric::MibPerSecond, 450.0)]));
    }
    given.cases.push(catch_up);
    comparison.disks.push(given);
    let page = report::html(&comparison);
    assert_eq!(
        first(&page, ".balance .better"),
        "Where walring is better: 1 measure Catch-up : throughput 4.50"
    );
}

#[test]
fn what_the_rounds_do_not_prove_is_no_difference() {
    let page = report::html(&one_case(
        &[10.0, 12.0, 11.0, 10.5, 9.0],
        &[9.5, 12.5, 10.0, 11.0, 9.2],
    ));
    assert!(
        first(&page, ".card").contains("no difference"),
        "{}",
        first(&page, ".card")
    );
    let lead = first(&page, ".lead");
    assert!(
        lead.contains("makes no difference at the median with 8 clients"),
        "{lead}"
    );
    assert_eq!(
        selected(&Html::parse_document(&page), "td .verdict.better").len(),
        0
    );
}

#[test]
fn one_round_proves_nothing_and_says_so() {
    let page = report::html(&one_case(&[10.0], &[1.0]));
    assert!(
        first(&page, ".card").contains("one round, no interval"),
        "{}",
        first(&page, ".card")
    );
    assert!(first(&page, ".lead").contains("in too few rounds to call it a difference"));
    assert_eq!(
        first(&page, ".balance .better"),
        "Where walring is better: 0 measures Nowhere, but 1 measure had too few rounds to tell."
    );
    assert!(report::markdown(&one_case(&[10.0], &[1.0])).contains("1.00 × 0.10 (no interval)"));
}

#[test]
fn rounds_are_merged_into_one_curve_and_savings_are_paired() {
    let mut comparison = empty();
    let mut given = disk("given", None);
    let mut commits = case(Kind::Commit, Some(1));
    for (round, base) in (1..).zip([10.0, 20.0, 40.0]) {
        for (receiver, factor) in [("pg_receivewal", 1.0), ("walring", 0.5)] {
            let mut made = run(receiver, round, &[]);
            made.latencies = Some(latencies((0..2000).map(|_| base * factor)));
            commits.runs.push(made);
        }
    }
    given.cases.push(commits);
    comparison.disks.push(given);
    let page = report::html(&comparison);
    let page = Html::parse_document(&page);
    let tables: Vec<Vec<String>> = selected(&page, "#disk0 details.data table")
        .into_iter()
        .map(|table| {
            table
                .select(&Selector::parse("tbody tr").unwrap())
                .map(text)
                .collect()
        })
        .collect();
    // All rounds together: a third at 10 ms, a third at 20, a third at 40; three digits in the histogram.
    assert_eq!(tables[0][1..4], ["25 10.0 5.00", "50 20.0 10.0", "90 40.0 20.0"]);
    // Saved in the rounds: 5, 10 and 20 ms.
    assert_eq!(tables[1][2], "50 10.0 (5.00 to 20.0)");
}

#[test]
fn nothing_and_nonsense_still_make_a_page() {
    let mut nonsense = one_case(
        &[f64::NAN, f64::INFINITY, 0.0, -1.0],
        &[1.0, f64::NEG_INFINITY, 1.0, 1e308],
    );
    let commits = &mut nonsense.disks[0].cases[0];
    commits.runs[4].latencies = Some("not base64 at all".to_owned());
    commits.runs[5].latencies = Some("AAAA".to_owned());
    commits
        .runs
        .push(run("unheard-of", 9, &[(Metric::P50Ms, f64::MAX)]));
    commits
        .runs
        .push(run("unheard-of", 9, &[(Metric::DiskBytesPerWalByte, 1e-300)]));
    nonsense.disks[0].durable_write_ms = f64::NAN;
    nonsense.took_s = -1.0;
    let page = report::html(&nonsense);
    assert!(
        page.contains("latencies of walring, round 1, cannot be read"),
        "the unreadable is not told"
    );
    assert!(
        !page.contains("NaN") && !page.contains("inf "),
        "a number that is none is shown"
    );
    report::markdown(&nonsense);

    let mut nothing = empty();
    nothing.receivers.clear();
    assert!(report::html(&nothing).contains("No disk was measured."));
    report::markdown(&nothing);
    nothing.disks.push(disk("given", None));
    assert!(report::html(&nothing).contains("Nothing was measured on this disk."));
    let alone = report::html(&one_case(&[], &[1.0, 2.0, 3.0]));
    assert!(
        first(&alone, ".lead").contains("No commits were compared"),
        "{}",
        first(&alone, ".lead")
    );
}

#[test]
fn all_text_is_escaped() {
    let mut comparison = one_case(&[1.0], &[1.0]);
    let evil = "<script>alert('x')</script>|&\"";
    comparison.command = evil.to_owned();
    comparison.skipped = vec![evil.to_owned()];
    comparison.machine.cpu = evil.to_owned();
    comparison.disks[0].about = evil.to_owned();
    comparison.disks[0].cases[0].about = evil.to_owned();
    comparison.receivers[1].name = evil.to_owned();
    comparison.disks[0].cases[0]
        .runs
        .push(run(evil, 1, &[(Metric::P50Ms, 1.0)]));
    assert!(!report::html(&comparison).contains("<script"));
    let text = report::markdown(&comparison);
    assert!(!text.contains("<script"));
    let pipes = |line: &str| line.replace("\\|", "").matches('|').count();
    let table: Vec<usize> = text
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(pipes)
        .collect();
    assert!(
        table.windows(2).all(|pair| pair[0] == pair[1]),
        "a cell was ended by its text: {text}"
    );
}

#[test]
fn the_page_is_well_formed_and_refers_to_nothing_outside() {
    let (comparison, page) = &*REALISTIC;
    let parsed = Html::parse_document(page);
    assert_eq!(parsed.errors, Vec::<std::borrow::Cow<str>>::new());
    for word in [
        "http:", "https:", "//", "url(", "@import", "<script", "src=", "<link", "<img",
    ] {
        assert!(!page.contains(word), "the page holds {word}");
    }
    let mut ids: Vec<&str> = selected(&parsed, "[id]")
        .iter()
        .filter_map(|found| found.value().id())
        .collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "an id is there twice");
    for chart in selected(&parsed, "svg.chart") {
        let labels = chart.attr("aria-labelledby").unwrap_or_default();
        assert_eq!(
            labels.split(' ').filter(|label| ids.contains(label)).count(),
            2,
            "{labels}"
        );
        assert!(!chart.html().contains("NaN"), "{}", chart.html());
    }
    let figures = selected(&parsed, "figure").len();
    assert_eq!(figures, selected(&parsed, "figure svg.chart").len());
    assert_eq!(
        figures,
        selected(&parsed, "figure details table").len(),
        "a chart without its numbers"
    );
    // Two disks: 4 commit, open loop, rollover, bulk as curves and savings, CPU of 4, a series for 6 receivers.
    // One disk: catch-up twice.
    assert_eq!(figures, 2 * (7 + 7 + 4 + 6) + 2);
    for reason in comparison
        .skipped
        .iter()
        .chain(comparison.receivers.iter().map(|receiver| &receiver.command))
    {
        assert!(first(page, "#method").contains(reason), "{reason}");
    }
}

#[test]
fn the_markdown_has_rows_for_all_receivers_and_equal_columns() {
    let text = report::markdown(&REALISTIC.0);
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let columns: Vec<usize> = rows.map(|line| line.matches('|').count()).collect();
    // Per disk 4 cases of 6 receivers with head and rule; then the others, 3 cases here and 7 there.
    assert_eq!(
        columns.iter().filter(|count| **count == 7).count(),
        2 * (4 * 6 + 2)
    );
    assert_eq!(
        columns.iter().filter(|count| **count == 4).count(),
        (3 + 7) * 6 + 2 * 2
    );
    assert_eq!(columns.len(), 2 * (4 * 6 + 2) + 10 * 6 + 4);
}

#[test]
fn a_browser_shows_it_without_errors_requests_or_overflow() {
    let page = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("report.html");
    std::fs::write(&page, &REALISTIC.1).unwrap();
    println!("the page looked at: {}", page.display());
    let Some(browser) = browser::find() else {
        return skip("the report in a browser: no chromium in PATH");
    };
    for (width, dark) in [(360, false), (390, true), (1280, false)] {
        let seen = browser.open(&REALISTIC.1, width, dark);
        assert_eq!(seen.errors, Vec::<String>::new(), "at {width} px");
        assert_eq!(seen.width, width, "the frame is not as wide as asked for");
        assert_eq!(seen.requests, 0, "at {width} px");
        assert_eq!(seen.dark, dark, "at {width} px");
        assert_eq!(seen.overflowing, "", "wider than {width} px");
    }
}
