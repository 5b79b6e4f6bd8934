//! The soak, run for real and short.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use walring_perf::soak::Summary;

/// What the tests of the program share.
mod suite;

use suite::{children, names, program, skip, stderr, wait_for, walring_beside};

/// A soak in directories of its own, on the disk with the build.
struct Trial {
    home: tempfile::TempDir,
    command: Command,
}

impl Trial {
    fn new(program: &Path, arguments: &[&str]) -> Trial {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let mut command = Command::new(program);
        command
            .args(["soak", "--rate=100", "--gap=200ms", "--segment-mib=1", "--dir"])
            .arg(home.path().join("disk"))
            .arg("--out")
            .arg(home.path().join("output"))
            .args(arguments);
        command
            .env("WALRING", walring_beside(program))
            .env("TMPDIR", home.path());
        Trial { home, command }
    }

    /// With a script in place of walring; `$walring` and `$perf` are in it.
    fn with_receiver(program: &Path, script: &str, arguments: &[&str]) -> Trial {
        let mut trial = Trial::new(program, arguments);
        let path = trial.home.path().join("receiver");
        let walring = walring_beside(program);
        let head = format!(
            "#!/bin/bash\nwalring='{}'\nperf='{}'\narguments=(\"$@\")\n\
             while (($#)); do\ncase $1 in -D) directory=$2 ;; -d) conninfo=$2 ;; esac\nshift\ndone\n",
            walring.display(),
            program.display()
        );
        fs::write(&path, head + script).expect("the script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the script");
        trial.command.arg("--receiver").arg(path);
        trial
    }

    fn output(&mut self) -> Output {
        self.command.output().expect("run it")
    }

    fn results(&self) -> PathBuf {
        self.home.path().join("output")
    }

    fn summary(&self) -> Summary {
        let text = fs::read_to_string(self.results().join("soak.json")).expect("the results");
        serde_json::from_str(&text).expect("results as they should be")
    }

    /// It failed, and said this; nothing is left but the results.
    fn assert_fails(&mut self, expected: &str) {
        let output = self.output();
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        let failure = self.summary().failure.expect("a failure");
        assert!(failure.contains(expected), "{failure}");
        let markdown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(markdown.starts_with("**Failed** after"), "{markdown}");
        self.assert_nothing_is_left();
    }

    fn assert_nothing_is_left(&self) {
        assert_eq!(names(&self.home.path().join("disk")), Vec::<String>::new());
    }
}

#[test]
fn every_fault_is_survived_and_a_restore_has_every_acknowledged_commit() {
    let Some(program) = program() else { return };
    let mut trial = Trial::new(program, &["--for=20s"]);
    let output = trial.output();
    assert!(output.status.success(), "{}", stderr(&output));
    trial.assert_nothing_is_left();
    let summary = trial.summary();
    assert_eq!(summary.failure, None);
    assert!(summary.commits > 0 && summary.wal_bytes > 0, "{summary:?}");
    assert_eq!(summary.restored, Some(summary.commits), "{summary:?}");
    assert!(summary.faults.len() >= 14, "{summary:?}");
    assert!(
        summary.receivers.iter().all(|held| held.segments > 0),
        "{summary:?}"
    );
    assert_eq!(summary.receivers[1].starts, 1, "the witness was started again");
    assert!(summary.receivers[0].starts > 2, "{summary:?}");
    if stderr(&output).contains("full-disk is left out") {
        skip("a soak with a full disk: no emulated disk here");
    } else {
        let told: u64 = summary.receivers.iter().map(|held| held.full_disks).sum();
        assert!(
            told > 0,
            "no receiver noticed that its disk was full: {summary:?}"
        );
    }
    let markdown = fs::read_to_string(trial.results().join("soak.md")).expect("the Markdown");
    assert_eq!(String::from_utf8_lossy(&output.stdout), markdown);
    assert!(markdown.starts_with("**Passed**"), "{markdown}");
}

/// Changes a byte that was stored a second ago, in each file that is not finished.
const SPOILER: &str = r#"
spoil() {
    for _ in {1..300}; do
        sleep 1
        [[ -d $directory ]] || return
        printf x | dd of="$old" bs=1 seek=40 conv=notrunc,nocreat status=none
        old=$(echo "$directory"/0*.partial)
    done
} 2>/dev/null
[[ -n $directory ]] && spoil &
exec "$walring" "${arguments[@]}"
"#;

#[test]
fn one_wrong_byte_fails_it() {
    let Some(program) = program() else { return };
    let mut trial = Trial::with_receiver(program, SPOILER, &["--for=60s", "--faults=checkpoint"]);
    trial.assert_fails("differs from the primary's at byte 40");
}

#[test]
fn a_receiver_that_acknowledges_what_it_does_not_store_fails_it() {
    let Some(program) = program() else { return };
    let script = r#"exec "$perf" floor -d "$conninfo""#;
    let mut trial = Trial::with_receiver(program, script, &["--for=60s", "--faults=checkpoint"]);
    trial.assert_fails("No such file or directory");
}

#[test]
fn a_receiver_that_ends_by_itself_fails_it() {
    let Some(program) = program() else { return };
    let script = r#"exec "$walring" "${arguments[@]}" --no-loop"#;
    let mut trial = Trial::with_receiver(program, script, &["--for=60s", "--faults=cut"]);
    trial.assert_fails("ended by itself");
}

#[test]
fn ctrl_c_leaves_the_results_so_far_and_nothing_else() {
    let Some(program) = program() else { return };
    let mut trial = Trial::new(program, &["--for=10m"]);
    trial
        .command
        .stderr(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0);
    let child = trial.command.spawn().expect("start it");
    wait_for(|| trial.results().join("receiver.log").exists());
    wait_for(|| children(&child).len() >= 3);
    std::thread::sleep(std::time::Duration::from_secs(3));
    let before = children(&child);
    let pid = Pid::from_raw(child.id().cast_signed()).expect("its id");
    kill_process(pid, Signal::INT).expect("interrupt it");
    let output = child.wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(1));
    for pid in before {
        assert!(
            !Path::new(&format!("/proc/{pid}")).exists(),
            "process {pid} still runs"
        );
    }
    trial.assert_nothing_is_left();
    assert!(String::from_utf8_lossy(&output.stdout).contains("interrupted"));
}
