//! `walring probe`: what it measures, what it tells, and what it leaves behind: nothing.
mod common;

use std::fs::File;
use std::path::Path;
use std::process::Command;

use common::process::Exit;
use common::skip::skip;
use common::wait::until;
use common::{Archive, Process};
use hdrhistogram::Histogram;
use rustix::process::Signal;
use serde_json::Value;
use walring::edge::baseline::read_baseline;

/// As short as it can be: a few rounds are measured in any case.
const SHORT: &[&str] = &["--seconds=0.1", "--pause-ms=0"];

#[test]
fn the_table_has_a_row_for_each_method_and_ends_with_a_recommendation() {
    let directory = Archive::new();
    let exit = probe(directory.path(), SHORT).finish();
    exit.assert_success();
    let rows = |method: &str| {
        exit.stdout
            .lines()
            .filter(|line| line.starts_with(method))
            .count()
    };
    assert_eq!(rows("standard "), 1, "{exit:#?}");
    assert_eq!(rows("buffered "), 1, "{exit:#?}");
    assert!(
        rows("dsync ") >= 3 && rows("fdatasync ") == rows("dsync "),
        "{exit:#?}"
    );
    assert!(
        exit.stdout.contains("\nrecommended: --durable-method="),
        "{exit:#?}"
    );
    assert_eq!(hidden_files(directory.path()), [""; 0]);
}

#[test]
fn json_has_numbers_that_fit_together() {
    let directory = Archive::new();
    let report = json(&probe(directory.path(), &[SHORT, &["--json"]].concat()).finish());
    let methods = report["methods"].as_array().expect("methods");
    assert_eq!(methods[0]["method"], "standard");
    for method in methods {
        let number = |key: &str| {
            method[key]
                .as_f64()
                .unwrap_or_else(|| panic!("{key} in {method}"))
        };
        assert!(number("count") >= 5.0, "{method}");
        assert_eq!(method["count"], methods[0]["count"], "they take turns: {method}");
        let ordered = ["p50_us", "p90_us", "p99_us", "max_us"].map(number);
        assert!(ordered.is_sorted() && ordered[0] >= 1.0, "{method}");
        assert!(number("mean_us") <= number("max_us"), "{method}");
        assert!(number("min_bytes") <= number("max_bytes"), "{method}");
    }
    let recommended = report["recommendation"]["method"].as_str().expect("a method");
    let median = |name: &str| {
        let is_it = |method: &&Value| method["method"] == name && method["max_bytes"] != 512;
        methods.iter().find(is_it).expect("its times")["p50_us"]
            .as_f64()
            .unwrap()
    };
    let ratio = report["recommendation"]["ratio"].as_f64().expect("a ratio");
    let expected = median("standard") / median(recommended);
    assert!((ratio - expected).abs() < 1e-9, "{ratio} {expected}");
}

#[test]
fn json_tells_what_the_machine_allows() {
    let directory = Archive::new();
    let report = json(&probe(directory.path(), &[SHORT, &["--json"]].concat()).finish());
    let environment = &report["environment"];
    assert_eq!(environment["io_uring"]["available"], true);
    assert_eq!(
        environment["io_uring"]["missing_operations"],
        serde_json::json!([])
    );
    assert_eq!(environment["locked_memory"]["fits"], true);
    assert_eq!(environment["direct_io"]["supported"], true);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(environment["kernel"], release.trim());
    let mut findmnt = Command::new("findmnt");
    findmnt
        .args(["-n", "-o", "FSTYPE,TARGET", "-T"])
        .arg(directory.path());
    let known = String::from_utf8(findmnt.output().expect("run findmnt").stdout).unwrap();
    let known: Vec<&str> = known.split_whitespace().collect();
    let file_system = &environment["file_system"];
    assert_eq!(
        [&file_system["type"], &file_system["mount_point"]],
        [known[0], known[1]]
    );
    for key in ["name", "fua", "write_cache", "rotational"] {
        assert!(environment["device"].get(key).is_some(), "{key}: {environment}");
    }
}

#[test]
fn the_baseline_file_has_the_values_that_the_report_counts() {
    let (directory, other) = (Archive::new(), Archive::new());
    let path = other.file("standard.hlog");
    let option = format!("--baseline-out={}", path.display());
    let report = json(&probe(directory.path(), &[SHORT, &["--json", &option]].concat()).finish());
    let baseline: Histogram<u64> = read_baseline(&path).expect("a baseline");
    let standard = &report["methods"][0];
    assert_eq!(Some(baseline.len()), standard["count"].as_u64());
    assert_eq!(Some(baseline.max()), standard["max_us"].as_u64());
    assert_eq!(Some(baseline.value_at_quantile(0.5)), standard["p50_us"].as_u64());
    assert_eq!(other.names(), ["standard.hlog"]);
    assert_eq!(hidden_files(other.path()), [""; 0], "no unfinished file is left");
}

#[test]
fn a_baseline_that_cannot_be_written_is_told_in_one_line() {
    let directory = Archive::new();
    let exit = probe(
        directory.path(),
        &[SHORT, &["--baseline-out=/nowhere/b.hlog"]].concat(),
    )
    .finish();
    exit.assert_error(
        "walring: error: could not write baseline \"/nowhere/b.hlog\": No such file or directory",
    );
    assert_eq!(hidden_files(directory.path()), [""; 0]);
}

#[test]
fn a_signal_ends_it_and_nothing_is_left() {
    for signal in [Signal::TERM, Signal::INT] {
        for measuring in [false, true] {
            let directory = Archive::new();
            let probe = endless(directory.path());
            match measuring {
                true => drop(probe.wait_for_line("measuring")),
                false => until("the first file", || {
                    hidden_files(directory.path()).pop().map(drop)
                }),
            }
            let exit = probe.end_by(signal);
            exit.assert_error("walring: error: interrupted by a signal");
            assert_eq!(exit.stdout, "");
            assert_eq!(hidden_files(directory.path()), [""; 0]);
        }
    }
}

#[test]
fn what_a_killed_one_left_is_removed_and_what_a_running_one_uses_is_not() {
    let directory = Archive::new();
    let killed = endless(directory.path());
    until("files", || {
        (hidden_files(directory.path()).len() > 3).then_some(())
    });
    killed.kill();
    let left = hidden_files(directory.path());
    assert!(left.len() > 3, "{left:?}");
    let running = endless(directory.path());
    // As many as there are methods.
    let files = until("only its own files", || {
        let files = hidden_files(directory.path());
        let own = files.iter().all(|name| !left.contains(name));
        (own && files.len() >= 8).then_some(files)
    });
    probe(directory.path(), SHORT).finish().assert_success();
    let kept = hidden_files(directory.path());
    assert!(files.iter().all(|name| kept.contains(name)), "{files:?} {kept:?}");
    assert_eq!(running.end_by(Signal::TERM).code, Some(1));
    assert_eq!(hidden_files(directory.path()), [""; 0]);
}

#[test]
fn a_directory_in_use_is_measured_with_a_warning_and_stays_the_receivers() {
    let directory = Archive::new();
    let lock = File::open(directory.path()).expect("open the directory");
    lock.lock().expect("lock the directory");
    let exit = probe(directory.path(), &[SHORT, &["--json"]].concat()).finish();
    assert_eq!(json(&exit)["in_use"], true);
    assert!(exit.has_line_with(&["warning: ", "is in use"]), "{exit:#?}");
    lock.unlock().expect("unlock the directory");
    let running = endless(directory.path());
    running.wait_for_line("measuring");
    lock.try_lock()
        .expect("a receiver can start while it is measured");
}

#[test]
fn without_direct_io_it_tells_of_buffered() {
    let Some(memory) = Ramfs::mount() else { return };
    let exit = probe(memory.path(), SHORT).finish();
    exit.assert_success();
    assert!(exit.stdout.contains("use --buffered"), "{exit:#?}");
    assert!(exit.stdout.contains("\nrecommended: --buffered"), "{exit:#?}");
    assert!(
        !exit.stdout.lines().any(|line| line.starts_with("dsync ")),
        "{exit:#?}"
    );
    assert_eq!(hidden_files(memory.path()), [""; 0]);
}

#[test]
fn a_tmpfs_is_measured_and_called_memory() {
    let directory = Archive::below(Path::new("/dev/shm"));
    let exit = probe(directory.path(), SHORT).finish();
    exit.assert_success();
    assert!(exit.stdout.contains("it is memory"), "{exit:#?}");
    assert!(exit.stdout.contains("recommended: "), "{exit:#?}");
}

#[test]
fn a_directory_that_is_none_is_told_in_one_line() {
    let exit = probe(Path::new("/nowhere"), SHORT).finish();
    exit.assert_error("walring: error: could not open directory \"/nowhere\": No such file or directory");
    assert_eq!(exit.stderr.len(), 1, "{exit:#?}");
    let exit = probe(Path::new(env!("CARGO_BIN_EXE_walring")), SHORT).finish();
    assert_eq!((exit.code, exit.stderr.len()), (Some(1), 1), "{exit:#?}");
    assert!(exit.has_line_with(&["could not open directory", "Not a directory"]));
}

#[test]
fn help_and_version_go_to_stdout_and_misuse_to_stderr() {
    let exit = run(&["-?"]);
    exit.assert_success();
    assert!(exit.stdout.contains("--baseline-out"), "{exit:#?}");
    assert!(run(&["-V"]).stdout.starts_with("walring "));
    let exit = run(&[]);
    exit.assert_error("walring: error: no directory specified");
    assert!(
        exit.has_line_with(&["hint: Try \"walring probe --help\""]),
        "{exit:#?}"
    );
}

fn probe(directory: &Path, arguments: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walring"));
    command.arg("probe").arg(directory).args(arguments);
    Process::spawn(command)
}

fn endless(directory: &Path) -> Process {
    probe(directory, &["--seconds=3600"])
}

fn run(arguments: &[&str]) -> Exit {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walring"));
    command.arg("probe").args(arguments);
    Process::spawn(command).finish()
}

#[track_caller]
fn json(exit: &Exit) -> Value {
    exit.assert_success();
    serde_json::from_str(&exit.stdout).unwrap_or_else(|error| panic!("{error}: {}", exit.stdout))
}

/// The names that begin with a dot.
fn hidden_files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("list the directory");
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().expect("a name in text"));
    names.filter(|name| name.starts_with('.')).collect()
}

/// A file system without direct I/O; unmounted when it goes out of scope.
struct Ramfs {
    home: tempfile::TempDir,
}

impl Ramfs {
    /// `None`, and reported as skipped, where it cannot be mounted.
    fn mount() -> Option<Ramfs> {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("create a directory");
        let output = Command::new("mount")
            .args(["-t", "ramfs", "ramfs"])
            .arg(home.path())
            .output();
        if output.is_ok_and(|output| output.status.success()) {
            return Some(Ramfs { home });
        }
        skip("a file system without direct I/O: no ramfs can be mounted here");
        None
    }

    fn path(&self) -> &Path {
        self.home.path()
    }
}

impl Drop for Ramfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}
