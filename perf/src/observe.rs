//! What a process costs the machine, read from outside: processor time, context switches, memory, what
//! its disk did, its system calls.

mod device;
mod trace;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Duration;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use walring::error::{Error, Result, system_text};

pub use device::{Device, device};
pub use trace::{Trace, count_system_calls, trace};

/// What a process has used since it began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all its threads, also those that ended, and those of its io_uring workers.
    pub cpu: Duration,
    /// Context switches, voluntary or not, of the threads there are. The kernel does not tell those of
    /// threads that ended; see [`Usage::since`].
    pub switches: u64,
    /// The most memory that was ever resident, KiB.
    pub peak_kib: u64,
    /// The switches by thread.
    threads: BTreeMap<u32, u64>,
}

impl Usage {
    /// What was used since `before`, an earlier usage of the same process; the peak is that of its whole life.
    ///
    /// What a thread that ended in between did since `before` is missing from the switches, and nothing
    /// is subtracted for it. Workers of a ring end when they have been idle for some seconds, and one that
    /// is idle does not switch.
    pub fn since(&self, before: &Usage) -> Usage {
        let new = |(id, count): (&u32, &u64)| {
            let earlier = before.threads.get(id).copied().unwrap_or(0);
            // A thread that began anew under the same id has fewer.
            let count = if *count >= earlier {
                count - earlier
            } else {
                *count
            };
            (*id, count)
        };
        let threads: BTreeMap<u32, u64> = self.threads.iter().map(new).collect();
        Usage {
            cpu: self.cpu.saturating_sub(before.cpu),
            switches: threads.values().sum(),
            peak_kib: self.peak_kib,
            threads,
        }
    }
}

/// What a process, by the id of its main thread, has used since it began. Its children do not count.
///
/// Fails if there is no such process, or if it has ended and only waits to be looked after.
pub fn usage(pid: u32) -> Result<Usage> {
    let threads = threads(pid)?;
    let status = read(pid, &format!("/proc/{pid}/status"))?;
    let peak_kib = field(&status, "VmHWM").ok_or_else(|| gone(pid))?;
    Ok(Usage {
        cpu: cpu(pid)?,
        switches: threads.values().sum(),
        peak_kib,
        threads,
    })
}

/// What a process holds at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    /// Resident memory, KiB.
    pub resident_kib: u64,
    /// The most memory that was ever resident, KiB.
    pub peak_kib: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads, workers of its ring among them.
    pub threads: u64,
}

/// What a process, by the id of its main thread, holds now. Fails as [`usage`] does.
pub fn footprint(pid: u32) -> Result<Footprint> {
    let status = read(pid, &format!("/proc/{pid}/status"))?;
    let number = |name| field(&status, name).ok_or_else(|| gone(pid));
    let directory = format!("/proc/{pid}/fd");
    let open = fs::read_dir(&directory).map_err(|error| unreadable(pid, &directory, &error))?;
    Ok(Footprint {
        resident_kib: number("VmRSS")?,
        peak_kib: number("VmHWM")?,
        descriptors: open.count() as u64,
        threads: number("Threads")?,
    })
}

/// The process's CPU-time clock: exact to the nanosecond, where /proc counts in steps of 10 ms.
fn cpu(pid: u32) -> Result<Duration> {
    let id = i32::try_from(pid).map_err(|_| gone(pid))?;
    let clock = clock_getcpuclockid(Pid::from_raw(id)).map_err(|_| gone(pid))?;
    let time = clock_gettime(clock).map_err(|_| gone(pid))?;
    Ok(Duration::from(time))
}

/// Context switches by thread.
fn threads(pid: u32) -> Result<BTreeMap<u32, u64>> {
    let directory = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&directory).map_err(|error| unreadable(pid, &directory, &error))?;
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let switches = ids.filter_map(|id| {
        // A thread may end between the listing and the reading.
        let status = fs::read_to_string(format!("{directory}/{id}/status")).ok()?;
        let voluntary = field(&status, "voluntary_ctxt_switches")?;
        Some((id, voluntary + field(&status, "nonvoluntary_ctxt_switches")?))
    });
    Ok(switches.collect())
}

/// The number behind `name:` in a status file, without its unit.
fn field(status: &str, name: &str) -> Option<u64> {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned);
    let value = status.lines().find_map(value)?;
    value.split_whitespace().next()?.parse().ok()
}

fn read(pid: u32, path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|error| unreadable(pid, path, &error))
}

fn unreadable(pid: u32, path: &str, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => gone(pid),
        _ => Error::unsupported(format!("could not read \"{path}\": {}", system_text(error))),
    }
}

fn gone(pid: u32) -> Error {
    Error::unsupported(format!("process {pid} cannot be observed: it is not running"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};
    use std::thread;
    use std::time::Instant;

    /// A child that is killed when the test is over.
    struct Guard(Child);

    impl Drop for Guard {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn shell(script: &str) -> Guard {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null());
        Guard(command.spawn().expect("start a shell"))
    }

    /// Polls until the condition holds.
    fn until(mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !condition() {
            assert!(Instant::now() < deadline, "it never came");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_child_that_spins_uses_time_and_one_that_sleeps_does_not() {
        let (spinning, sleeping) = (shell("while :; do :; done"), shell("exec sleep 1000"));
        let of = |child: &Guard| usage(child.0.id()).expect("it runs");
        let before = of(&spinning);
        until(|| of(&spinning).since(&before).cpu > Duration::from_millis(200));
        let usage = of(&spinning);
        assert!(usage.peak_kib > 100 && usage.switches > 0, "{usage:?}");
        assert!(of(&sleeping).cpu < Duration::from_millis(100));
    }

    #[test]
    fn a_thread_that_ended_has_used_its_time_and_takes_no_switches_away() {
        let own = std::process::id();
        let before = usage(own).unwrap();
        let spin = || {
            let used = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            while (used().tv_sec, used().tv_nsec) < (0, 50_000_000) {}
        };
        thread::spawn(spin).join().unwrap();
        assert!(usage(own).unwrap().since(&before).cpu > Duration::from_millis(50));

        let thread = |id, count| Usage {
            cpu: Duration::ZERO,
            switches: count,
            peak_kib: 1,
            threads: BTreeMap::from([(1, 10), (id, count)]),
        };
        let later = Usage {
            threads: BTreeMap::from([(1, 13)]),
            ..thread(2, 0)
        };
        assert_eq!(later.since(&thread(2, 500)).switches, 3);
        assert_eq!(thread(2, 7).since(&thread(2, 500)).switches, 7);
        assert_eq!(thread(2, 7).since(&thread(3, 500)).switches, 7);
    }

    #[test]
    fn a_process_that_is_gone_is_said_to_be() {
        let mut child = shell("exit 0");
        child.0.wait().unwrap();
        let error = usage(child.0.id()).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("process {} cannot be observed: it is not running", child.0.id())
        );
    }
}
