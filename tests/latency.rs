//! What is measured: the summary, the histogram log, and the estimate of what is saved.
mod common;

use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use common::receiver::wait_for_streaming;
use common::{Archive, Lsn, Process, Server, walring};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use rustix::process::Signal;
use walring::core::measure::Times;
use walring::edge::baseline::write_baseline;

/// A time so long that no flush of a test takes it.
const SLOW: Duration = Duration::from_secs(100);

#[test]
fn the_latency_report_is_printed_at_the_end_and_changes_nothing_else() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = walring(&server, &archive, &["--synchronous", "--latency-report"]);
    let end = commit(&server, 3);
    let exit = receiver.end_by(Signal::TERM);
    exit.assert_success();
    assert!(durable(&exit.stderr) > 0, "{exit:#?}");
    assert!(exit.has_line_with(&["each flush"]), "{exit:#?}");
    assert!(exit.has_line_with(&[" µs ", "#"]), "{exit:#?}");
    archive.assert_holds(&server, 1, end);
}

#[test]
fn a_signal_prints_a_summary_while_wal_is_received() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = walring(&server, &archive, &["--synchronous"]);
    commit(&server, 3);
    let first = durable(&summary(&receiver, 1));
    let end = commit(&server, 3);
    let second = durable(&summary(&receiver, 2));
    assert!(0 < first && first < second, "{first} {second}");
    let exit = receiver.end_by(Signal::TERM);
    exit.assert_success();
    assert_eq!(summaries(&exit.stderr), 2, "only when it is asked for: {exit:#?}");
    archive.assert_holds(&server, 1, end);
}

#[test]
fn a_signal_before_there_is_a_server_prints_that_nothing_is_measured() {
    let archive = Archive::new();
    let mut command = common::program::receive();
    command.arg("-D").arg(archive.path());
    command.args(["-h", "/nowhere", "-U", "postgres", "-w"]);
    let receiver = Process::spawn(command);
    receiver.wait_for_line("trying again");
    let said = summary(&receiver, 1);
    let row = said.iter().find(|line| line.contains("received to durable "));
    assert!(
        row.is_some_and(|row| row.ends_with("nothing measured")),
        "{said:#?}"
    );
}

#[test]
fn in_a_json_log_the_summary_is_a_line_too() {
    let (server, archive) = (Server::start(), Archive::new());
    let arguments = ["--synchronous", "--log-format=json", "--latency-report"];
    let receiver = walring(&server, &archive, &arguments);
    commit(&server, 1);
    receiver.signal(Signal::USR1);
    receiver.wait_for_lines("summary after", 1);
    let exit = receiver.stop();
    assert_eq!(summaries(&exit.stderr), 2, "{exit:#?}");
    for line in &exit.stderr {
        serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON");
    }
}

#[test]
fn the_histogram_log_holds_what_the_summary_says() {
    let (server, archive, files) = (Server::start(), Archive::new(), Archive::new());
    let option = format!("--histogram-log={}", files.file("log").display());
    let receiver = walring(&server, &archive, &["--synchronous", "--latency-report", &option]);
    commit(&server, 5);
    common::wait::until("an interval is in the log", || {
        (!logged(&files.read("log"), "durable").is_empty()).then_some(())
    });
    let end = commit(&server, 5);
    let exit = receiver.end_by(Signal::TERM);
    exit.assert_success();
    let durable_times = logged(&files.read("log"), "durable");
    assert_eq!(durable_times.len(), durable(&exit.stderr), "{exit:#?}");
    archive.assert_holds(&server, 1, end);
}

#[test]
fn a_second_receiver_that_is_refused_leaves_the_log_alone() {
    let (server, archive, files) = (Server::start(), Archive::new(), Archive::new());
    let option = format!("--histogram-log={}", files.file("log").display());
    let arguments = ["--synchronous", "--latency-report", &option];
    let first = walring(&server, &archive, &arguments);
    commit(&server, 1);
    common::wait::until("an interval is in the log", || {
        (!logged(&files.read("log"), "durable").is_empty()).then_some(())
    });
    let second = walring(&server, &archive, &arguments).finish();
    assert_eq!(second.code, Some(1), "{second:#?}");
    commit(&server, 1);
    let exit = first.stop();
    assert_eq!(
        logged(&files.read("log"), "durable").len(),
        durable(&exit.stderr),
        "{exit:#?}"
    );
}

#[test]
fn a_log_that_cannot_be_written_stops_and_wal_is_received_on() {
    let (server, archive) = (Server::start(), Archive::new());
    let arguments = ["--synchronous", "--histogram-log=/dev/full"];
    let receiver = walring(&server, &archive, &arguments);
    let warning = receiver.wait_for_line("warning: ");
    assert!(
        warning.contains("/dev/full") && warning.contains("No space left"),
        "{warning}"
    );
    let end = commit(&server, 3);
    let exit = receiver.stop();
    assert_eq!(
        exit.stderr.iter().filter(|line| line.contains("warning")).count(),
        1,
        "{exit:#?}"
    );
    archive.assert_holds(&server, 1, end);
}

#[test]
fn the_saving_is_estimated_against_the_baseline() {
    let (server, archive, files) = (Server::start(), Archive::new(), Archive::new());
    let path = files.file("baseline.hlog");
    slow_baseline(&path);
    let option = format!("--baseline={}", path.display());
    let receiver = walring(&server, &archive, &["--synchronous", "--latency-report", &option]);
    let line = receiver.wait_for_line("against the baseline");
    assert!(
        line.contains("baseline.hlog") && line.contains("2 times"),
        "{line}"
    );
    commit(&server, 3);
    let exit = receiver.stop();
    assert!(exit.has_line_with(&["estimated saving: "]), "{exit:#?}");
    assert!(exit.has_line_with(&["  baseline ", " 2 ", " 100 s"]), "{exit:#?}");
    assert!(
        exit.has_line_with(&["This is an estimate", "baseline"]),
        "{exit:#?}"
    );
}

#[test]
fn files_that_cannot_be_used_are_refused_in_one_line() {
    let (server, files) = (Server::start(), Archive::new());
    files.write("precious", b"precious");
    let file = |name: &str| files.file(name).display().to_string();
    let cases = [
        (
            "--baseline",
            file("missing"),
            "could not read baseline",
            "No such file or directory",
        ),
        (
            "--baseline",
            file("precious"),
            "could not read baseline",
            "line 1",
        ),
        (
            "--histogram-log",
            file("missing/log"),
            "could not open histogram log",
            "No such file or directory",
        ),
        (
            "--histogram-log",
            file("precious"),
            "could not open histogram log",
            "it is there already",
        ),
    ];
    for (option, path, message, reason) in cases {
        let archive = Archive::new();
        let exit = walring(&server, &archive, &[&format!("{option}={path}")]).finish();
        assert_eq!(exit.code, Some(1), "{exit:#?}");
        let errors: Vec<_> = exit
            .stderr
            .iter()
            .filter(|line| !line.contains("hint: "))
            .collect();
        assert_eq!(errors.len(), 1, "{exit:#?}");
        assert!(
            errors[0].contains(message) && errors[0].contains(&path) && errors[0].contains(reason),
            "{exit:#?}"
        );
        assert!(archive.names().is_empty(), "nothing was received");
    }
    assert_eq!(files.read("precious"), b"precious");
}

/// So many transactions, each durable at the receiver before the next; where they end.
fn commit(server: &Server, count: usize) -> Lsn {
    wait_for_streaming(server);
    let mut end = server.flush_lsn();
    for _ in 0..count {
        end = server.write_wal(10);
        server.wait_flushed(end);
    }
    end
}

/// Asks for a summary, the `count`th, and gives everything that was said when it was printed.
fn summary(receiver: &Process, count: usize) -> Vec<String> {
    receiver.signal(Signal::USR1);
    receiver.wait_for_lines("received to durable:", count);
    receiver.stderr()
}

fn summaries(said: &[String]) -> usize {
    said.iter().filter(|line| line.contains("summary after")).count()
}

/// The count of the row `received to durable` in the last summary.
#[track_caller]
fn durable(said: &[String]) -> u64 {
    let row = said
        .iter()
        .rfind(|line| line.starts_with("  received to durable "));
    let row = row.unwrap_or_else(|| panic!("no such row in {said:#?}"));
    let count = row.split_whitespace().nth(3);
    count
        .and_then(|count| count.parse().ok())
        .unwrap_or_else(|| panic!("no count in {row:?}"))
}

/// Everything that the log holds under a tag. Its last line may be on its way.
fn logged(log: &[u8], tag: &str) -> Histogram<u64> {
    let end = log.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let mut sum = Times::new().histogram().clone();
    for entry in IntervalLogIterator::new(&log[..end]) {
        let LogEntry::Interval(interval) = entry.expect("a line of a log") else {
            continue;
        };
        if interval.tag().is_some_and(|found| found.as_str() == tag) {
            let packed = base64::engine::general_purpose::STANDARD
                .decode(interval.encoded_histogram())
                .expect("base 64");
            let histogram: Histogram<u64> = Deserializer::new()
                .deserialize(&mut &packed[..])
                .expect("a histogram");
            assert_eq!(histogram.max() as f64, interval.max());
            sum.add(histogram).expect("equal bounds");
        }
    }
    sum
}

fn slow_baseline(path: &Path) {
    let mut times = Times::new();
    times.record(SLOW);
    times.record(SLOW);
    write_baseline(path, times.histogram(), SystemTime::now(), SLOW, "a test").expect("write a baseline");
}
