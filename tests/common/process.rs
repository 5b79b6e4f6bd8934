//! A running program: its messages, the signals it gets, its end.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};

use super::wait;

/// A started program; killed when it goes out of scope.
pub struct Process {
    child: Child,
    command: String,
    lines: Arc<Mutex<Vec<String>>>,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<()>>,
}

/// How a program ended, and everything it said.
#[derive(Debug)]
pub struct Exit {
    /// `None`: ended by a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: Vec<String>,
}

/// One command as the argument of another.
pub fn wrap(mut outer: Command, arguments: &[&str], inner: &Command) -> Command {
    outer
        .args(arguments)
        .arg(inner.get_program())
        .args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

/// Whether a command can be run and succeeds.
pub fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// Runs a command to its end, which must be a success.
#[track_caller]
pub fn run(mut command: Command) {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("start {command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Process {
    /// Starts a command and collects what it says.
    pub fn spawn(mut command: Command) -> Process {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("start {command:?}: {e}"));
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let collected = Arc::clone(&lines);
        Process {
            child,
            command: format!("{command:?}"),
            lines,
            stdout: Some(std::thread::spawn(|| read_all(stdout))),
            stderr: Some(std::thread::spawn(move || collect_lines(stderr, &collected))),
        }
    }

    /// Everything said on stderr so far.
    pub fn stderr(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The first line that contains the text, once it comes.
    pub fn wait_for_line(&self, text: &str) -> String {
        self.wait_for_lines(text, 1).remove(0)
    }

    /// The lines that contain the text, once there are this many.
    pub fn wait_for_lines(&self, text: &str, count: usize) -> Vec<String> {
        let matching = || -> Vec<String> {
            self.stderr()
                .into_iter()
                .filter(|line| line.contains(text))
                .collect()
        };
        wait::within(wait::HANG, || {
            Some(matching()).filter(|found| found.len() >= count)
        })
        .unwrap_or_else(|| panic!("no {count} lines with {text:?} in {:#?}", self.stderr()))
    }

    /// The process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("send a signal");
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("look after a program").is_none()
    }

    /// Waits for its own end.
    pub fn finish(mut self) -> Exit {
        let child = &mut self.child;
        let ended = wait::within(wait::HANG, || child.try_wait().expect("wait for a program"));
        let status =
            ended.unwrap_or_else(|| panic!("{} did not end; it said {:#?}", self.command, self.stderr()));
        self.exit(status)
    }

    /// Ends it with a signal and waits.
    pub fn end_by(self, signal: Signal) -> Exit {
        self.signal(signal);
        self.finish()
    }

    /// Ends it as an operator does: a clean stop, which must succeed. (Before 16, `pg_receivewal` did not know SIGTERM.)
    pub fn stop(self) -> Exit {
        let exit = self.end_by(Signal::INT);
        assert_eq!(exit.code, Some(0), "{exit:#?}");
        exit
    }

    /// Ends it without a chance to finish anything.
    pub fn kill(self) {
        let exit = self.end_by(Signal::KILL);
        assert_eq!(exit.code, None, "{exit:#?}");
    }

    fn exit(&mut self, status: ExitStatus) -> Exit {
        let stdout = self
            .stdout
            .take()
            .expect("ends once")
            .join()
            .expect("read stdout");
        self.stderr
            .take()
            .expect("ends once")
            .join()
            .expect("read stderr");
        Exit {
            code: status.code(),
            stdout,
            stderr: self.stderr(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{} said {:#?}", self.command, self.stderr());
        }
    }
}

impl Exit {
    /// Asserts a failure whose messages include this line.
    #[track_caller]
    pub fn assert_error(&self, line: &str) {
        assert_eq!(self.code, Some(1), "{self:#?}");
        assert!(
            self.stderr.iter().any(|said| said == line),
            "no line {line:?}: {self:#?}"
        );
    }

    /// Asserts success.
    #[track_caller]
    pub fn assert_success(&self) {
        assert_eq!(self.code, Some(0), "{self:#?}");
    }

    /// Whether one line of stderr contains all the words.
    pub fn has_line_with(&self, words: &[&str]) -> bool {
        self.stderr
            .iter()
            .any(|line| words.iter().all(|word| line.contains(word)))
    }
}

/// Processes that are stopped; continued when it goes out of scope, so that their server can end.
pub struct Stopped(Vec<Pid>);

impl Stopped {
    /// Stops them.
    pub fn processes(pids: &[Pid]) -> Stopped {
        for &pid in pids {
            kill_process(pid, Signal::STOP).expect("stop a process");
        }
        Stopped(pids.to_vec())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for &pid in &self.0 {
            let _ = kill_process(pid, Signal::CONT);
        }
    }
}

fn read_all(mut stdout: impl Read) -> String {
    let mut text = String::new();
    stdout.read_to_string(&mut text).expect("stdout is text");
    text
}

fn collect_lines(stderr: impl Read, lines: &Mutex<Vec<String>>) {
    for line in BufReader::new(stderr).lines() {
        lines.lock().unwrap().push(line.expect("stderr is text"));
    }
}
