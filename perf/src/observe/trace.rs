//! Counting the system calls of a running process, with strace.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use walring::error::{Error, Result, system_text};

/// What came of counting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trace {
    /// So many system calls, of all threads.
    Calls(u64),
    /// Nothing was run, for this reason: one sentence without its full stop.
    Refused(String),
}

/// Counts the system calls that a process makes while `while_running` runs; `None`, without running it, where
/// strace is missing or not allowed. The reason is then printed to stderr; see [`trace`].
pub fn count_system_calls(pid: u32, while_running: impl FnOnce() -> Result<()>) -> Result<Option<u64>> {
    match trace(pid, while_running)? {
        Trace::Calls(calls) => Ok(Some(calls)),
        Trace::Refused(reason) => {
            eprintln!("skipped: system calls: {reason}");
            Ok(None)
        }
    }
}

/// Counts the system calls that a process makes while `while_running` runs: `strace -c -f -p`. The process is
/// slower meanwhile, so nothing else is to be measured. Workers of a ring make no calls of their own.
///
/// Fails if `while_running` does, or if strace's answer cannot be understood.
pub fn trace(pid: u32, while_running: impl FnOnce() -> Result<()>) -> Result<Trace> {
    let mut strace = match attach(pid) {
        Ok(strace) => strace,
        Err(reason) => return Ok(Trace::Refused(reason)),
    };
    let outcome = while_running();
    let table = strace.detach()?;
    outcome?;
    // No table at all: there was no call.
    let calls = if table.trim().is_empty() {
        Some(0)
    } else {
        count(&table)
    };
    match calls {
        Some(calls) => Ok(Trace::Calls(calls)),
        None => Err(Error::unsupported(format!(
            "could not understand what strace says: {table}"
        ))),
    }
}

/// A running strace; killed when it is dropped, which lets the process run on.
struct Strace {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

/// Attaches to all threads, or tells why that is not possible.
fn attach(pid: u32) -> std::result::Result<Strace, String> {
    let mut command = Command::new("strace");
    command
        .args(["-c", "-f", "-p", &pid.to_string()])
        .env("LC_ALL", "C");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| format!("strace cannot be started: {}", system_text(&error)))?;
    let stderr = child.stderr.take().ok_or("strace has no stderr")?;
    let mut strace = Strace {
        child,
        stderr: BufReader::new(stderr),
    };
    // It says "Process 1 attached", with or without the number of threads, once all are.
    let mut line = String::new();
    loop {
        line.clear();
        let read = strace.stderr.read_line(&mut line);
        if line.contains("attached") {
            return Ok(strace);
        }
        let refused = line.contains(&format!("({pid})")) || line.contains(&format!(", {pid})"));
        if refused || !matches!(read, Ok(1..)) {
            let said = line.trim_end();
            let said = if said.is_empty() { "it ended" } else { said };
            return Err(format!("strace cannot trace the receiver ({said})"));
        }
    }
}

impl Strace {
    /// Lets the process run on untraced; the table of calls.
    fn detach(&mut self) -> Result<String> {
        let failed =
            |error: &dyn std::fmt::Display| Error::unsupported(format!("could not stop strace: {error}"));
        kill_process(Pid::from_child(&self.child), Signal::INT).map_err(|error| failed(&error))?;
        let mut said = String::new();
        self.stderr
            .read_to_string(&mut said)
            .map_err(|error| failed(&error))?;
        self.child.wait().map_err(|error| failed(&error))?;
        let is_table = |line: &&str| !line.starts_with("strace: ");
        Ok(said
            .lines()
            .filter(is_table)
            .flat_map(|line| [line, "\n"])
            .collect())
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The sum of the column `calls`: `% time, seconds, usecs/call, calls, errors, syscall`.
fn count(table: &str) -> Option<u64> {
    let mut lines = table.lines().skip_while(|line| !line.starts_with("% time"));
    lines.next()?;
    let rows =
        lines.filter(|line| !line.starts_with('-') && line.split_whitespace().next_back() != Some("total"));
    rows.filter(|line| !line.trim().is_empty())
        .map(|row| row.split_whitespace().nth(3)?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::Duration;

    #[test]
    fn the_table_is_summed() {
        let table = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000123           1        45         3 read
 40.00    0.000100           1         5           write
------ ----------- ----------- --------- --------- ----------------
100.00    0.000223           1        50         3 total
";
        assert_eq!(count(table), Some(50));
        assert_eq!(count("strace: something else"), None);
    }

    /// `cat` reads, writes, and reads again: two calls for each line that it is handed and that comes back.
    #[test]
    fn the_calls_of_a_child_are_counted() {
        let mut cat = Command::new("cat");
        let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = cat.stdin.take().unwrap();
        let mut output = BufReader::new(cat.stdout.take().unwrap());
        let mut echo = || {
            input.write_all(b"line\n").unwrap();
            output.read_line(&mut String::new()).unwrap();
        };
        echo();
        let counted = trace(cat.id(), || {
            for _ in 0..100 {
                echo();
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        cat.kill().unwrap();
        cat.wait().unwrap();
        match counted.unwrap() {
            // The read that was waiting when strace came or went may count, may not, or be made twice.
            Trace::Calls(calls) => assert!((198..=204).contains(&calls), "{calls}"),
            Trace::Refused(reason) => eprintln!("skipped: counting system calls: {reason}"),
        }
    }

    #[test]
    fn a_process_that_cannot_be_traced_is_a_reason_and_nothing_is_run() {
        let traced = trace(u32::MAX >> 1, || panic!("must not run"));
        assert!(matches!(traced, Ok(Trace::Refused(_))), "{traced:?}");
    }

    #[test]
    fn what_fails_meanwhile_fails_the_counting() {
        let mut sleeping = Command::new("sleep").arg("1000").spawn().unwrap();
        let traced = trace(sleeping.id(), || Err(Error::usage("no")));
        let is_running = sleeping.try_wait().unwrap().is_none();
        sleeping.kill().unwrap();
        sleeping.wait().unwrap();
        assert!(is_running, "strace takes the process down");
        match traced {
            Ok(Trace::Refused(reason)) => eprintln!("skipped: counting system calls: {reason}"),
            other => assert_eq!(other.unwrap_err().to_string(), "no"),
        }
    }
}
