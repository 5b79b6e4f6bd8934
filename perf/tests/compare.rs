//! The comparison, run for real and short.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use walring_perf::plan::name_of;
use walring_perf::results::{BASELINE, Case, Comparison, FORMAT, Kind, Metric};

/// What the tests of the program share.
mod suite;

use suite::{children, names, program, stderr, wait_for, walring_beside};

/// A comparison in directories of its own, on the disk with the build.
struct Trial {
    home: tempfile::TempDir,
    command: Command,
}

impl Trial {
    fn new(program: &Path, arguments: &[&str]) -> Trial {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711)).expect("open it to a standby");
        let mut command = Command::new(program);
        command
            .args(["compare", "--quick", "--dir"])
            .arg(home.path().join("disk"));
        command
            .arg("--output")
            .arg(home.path().join("output"))
            .args(arguments);
        command
            .env("WALRING", walring_beside(program))
            .env("TMPDIR", home.path());
        Trial { home, command }
    }

    fn output(&mut self) -> Output {
        self.command.output().expect("run it")
    }

    /// What is left besides the results.
    fn left(&self) -> Vec<String> {
        let mut left = names(self.home.path());
        left.extend(names(&self.home.path().join("disk")));
        left.retain(|name| !["disk", "output", "wrong"].contains(&name.as_str()));
        left
    }

    fn comparison(&self) -> Comparison {
        let text = fs::read_to_string(self.home.path().join("output/comparison.json")).expect("the results");
        serde_json::from_str(&text).expect("results as they should be")
    }
}

#[test]
fn every_case_is_measured_with_every_receiver() {
    let Some(program) = program() else { return };
    let mut trial = Trial::new(program, &[]);
    let output = trial.output();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(trial.left(), Vec::<String>::new());

    let comparison = trial.comparison();
    assert_eq!((comparison.format, comparison.rounds), (FORMAT, 1));
    assert_eq!(comparison.receivers[0].key, BASELINE);
    assert!(
        comparison
            .receivers
            .iter()
            .all(|receiver| !receiver.command.is_empty())
    );
    let disk = &comparison.disks[0];
    assert!(disk.durable_write_ms > 0.0 && disk.durable_write_ms < 10_000.0);
    let kinds: Vec<&str> = disk.cases.iter().map(|case| name_of(case.kind)).collect();
    let expected = [
        "commit",
        "commit",
        "open_loop",
        "rollover",
        "bulk",
        "boundary",
        "reconnect",
        "start_up",
        "catch_up",
    ];
    assert_eq!(kinds, expected);
    for case in &disk.cases {
        check_case(case, &comparison);
    }

    let page = fs::read_to_string(trial.home.path().join("output/comparison.html")).expect("the page");
    let markdown = fs::read_to_string(trial.home.path().join("output/comparison.md")).expect("the Markdown");
    assert!(page.contains("<svg") && page.contains("pg_receivewal"), "{page}");
    assert!(markdown.contains("pg_receivewal"), "{markdown}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), markdown);
}

/// Every receiver that takes part has run, and what was measured is plausible.
fn check_case(case: &Case, comparison: &Comparison) {
    let name = name_of(case.kind);
    let has = |key: &str| case.runs.iter().any(|run| run.receiver == key);
    assert!(has(BASELINE) && has("walring"), "{name}");
    let is_there = |key: &str| comparison.receivers.iter().any(|receiver| receiver.key == key);
    if matches!(
        case.kind,
        Kind::Commit | Kind::OpenLoop | Kind::Rollover | Kind::Bulk
    ) {
        let others: &[&str] = match case.kind {
            Kind::OpenLoop => &["floor"],
            _ => &["standby", "floor"],
        };
        assert!(others.iter().all(|key| has(key) || !is_there(key)), "{name}");
    }
    for run in &case.runs {
        let what = format!("{name}, {}: {:?}", run.receiver, run.measures);
        let of = |metric: Metric| {
            *run.measures
                .get(&metric)
                .unwrap_or_else(|| panic!("no {metric:?}: {what}"))
        };
        match case.kind {
            Kind::CatchUp => assert!(
                of(Metric::WallS) > 0.0 && of(Metric::MibPerSecond) > 0.0,
                "{what}"
            ),
            Kind::Boundary | Kind::Reconnect | Kind::StartUp => {
                assert!(of(Metric::ElapsedMs) > 0.0, "{what}")
            }
            // The trial is so short that there may be no change of segment.
            Kind::Rollover if of(Metric::Rollovers) == 0.0 => {}
            _ => {
                let percentiles = [Metric::P50Ms, Metric::P90Ms, Metric::P99Ms, Metric::P999Ms].map(of);
                assert!(percentiles[0] > 0.0 && percentiles.is_sorted(), "{what}");
                assert!(of(Metric::Commits) > 0.0 && of(Metric::PeakMib) > 1.0, "{what}");
                assert!(run.latencies.is_some() && !run.series.is_empty(), "{what}");
            }
        }
        if matches!(case.kind, Kind::Commit | Kind::OpenLoop | Kind::Rollover) {
            assert!(
                of(Metric::CpuUsPerCommit) > 0.0 && of(Metric::SwitchesPerCommit) > 0.0,
                "{what}"
            );
        }
        if case.kind == Kind::Rollover {
            assert_eq!(of(Metric::Rollovers), run.rollovers_s.len() as f64, "{what}");
            assert!(of(Metric::WholeP999Ms) > 0.0, "{what}");
        }
    }
}

/// A walring that changes one acknowledged byte of what it has stored.
fn wrong_walring(home: &Path, walring: &Path) -> PathBuf {
    let script = format!(
        r#"#!/bin/bash
case "$*" in *--help*|*--version*) exec '{walring}' "$@" ;; esac
'{walring}' "$@" &
pid=$!
trap 'kill -INT $pid' INT TERM
wait $pid; wait $pid; status=$?
while (($#)); do [[ $1 == -D ]] && directory=$2; shift; done
for file in "$directory"/0*; do printf x | dd of="$file" bs=1 seek=40 conv=notrunc status=none; break; done
exit $status
"#,
        walring = walring.display()
    );
    let path = home.join("wrong");
    let mut file = fs::File::create(&path).expect("the script");
    file.write_all(script.as_bytes()).expect("the script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the script");
    path
}

#[test]
fn a_receiver_that_writes_one_wrong_byte_fails_the_comparison() {
    let Some(program) = program() else { return };
    let mut trial = Trial::new(
        program,
        &["--cases", "commit", "--receivers", "walring", "--clients", "1"],
    );
    let wrong = wrong_walring(trial.home.path(), &walring_beside(program));
    trial.command.env("WALRING", wrong);
    let output = trial.output();
    assert!(!output.status.success());
    assert!(
        stderr(&output).contains("differs from the primary's at byte 40"),
        "{}",
        stderr(&output)
    );
    let results = trial.comparison();
    assert!(
        results.disks.iter().all(|disk| disk.cases.is_empty()),
        "{results:?}"
    );
    assert!(
        results.skipped.iter().any(|why| why.contains("ended early")),
        "{results:?}"
    );
    assert_eq!(trial.left(), Vec::<String>::new());
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    let Some(program) = program() else { return };
    let mut trial = Trial::new(
        program,
        &["--cases", "commit", "--receivers", "walring", "--seconds", "2"],
    );
    trial.command.stderr(Stdio::piped()).process_group(0);
    let mut child = trial.command.spawn().expect("start it");
    wait_for(|| !names(&trial.home.path().join("disk")).is_empty());
    wait_for(|| children(&child).len() >= 2);
    let before = children(&child);
    kill_process(
        Pid::from_raw(child.id().cast_signed()).expect("its id"),
        Signal::INT,
    )
    .expect("interrupt it");
    let status = child.wait().expect("its end");
    assert!(!status.success());
    for pid in before {
        assert!(
            !Path::new(&format!("/proc/{pid}")).exists(),
            "process {pid} still runs"
        );
    }
    assert_eq!(trial.left(), Vec::<String>::new());
}

#[test]
fn an_option_that_cannot_be_used_is_said_to_be() {
    let Some(program) = program() else { return };
    for (arguments, expected) in [
        (["--receivers", "no_such"], "no \"no_such\" here"),
        (["--disk", "floppy"], "no \"floppy\"; there are given, nvme"),
        (["--cases", "nothing"], "there are commit, open_loop"),
        (["--seconds", "0"], "between 0.1 and 600"),
        (["--dir", "/dev/shm"], "is in memory"),
    ] {
        let output = Command::new(program)
            .arg("compare")
            .args(arguments)
            .env("WALRING", walring_beside(program))
            .output();
        let output = output.expect("run it");
        assert!(!output.status.success(), "{arguments:?}");
        assert!(
            stderr(&output).contains(expected),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
}
