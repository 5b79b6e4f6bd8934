//! The report says what the data say, and shows it in any browser.

#[path = "report/sample.rs"]
mod sample;

use walring_perf::report;

#[test]
fn look() {
    let page = report::html(&sample::realistic());
    let dir = env!("CARGO_TARGET_TMPDIR");
    std::fs::write(format!("{dir}/report.html"), page).unwrap();
    std::fs::write(format!("{dir}/report.md"), report::markdown(&sample::realistic())).unwrap();
}
