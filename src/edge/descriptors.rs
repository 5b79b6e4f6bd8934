//! The limit of open files: enough for the receiver itself, and for its HTTP clients what is left.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::{Error, Result};

/// Files that a receiver opens: about 20 with its runtimes, a few more for a moment while it connects, and some to
/// spare.
const OWN: u64 = 32;

/// Of these, so many may still be opened when HTTP clients are let in.
const STILL_TO_OPEN: u64 = 16;

/// Sees to it that there are descriptors for the receiver and a few HTTP clients before anything is opened. The
/// soft limit is raised if it is lower; the hard one is the operator's.
pub fn prepare() -> Result<()> {
    let needed = open() + OWN;
    let limit = getrlimit(Resource::Nofile);
    let is_enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= needed);
    if is_enough(limit.current) {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(needed),
        ..limit
    };
    if is_enough(limit.maximum) && setrlimit(Resource::Nofile, raised).is_ok() {
        return Ok(());
    }
    let allowed = limit.maximum.unwrap_or(needed).min(needed);
    let message = format!("too few open files are allowed: {allowed}, and {needed} are needed");
    Err(Error::unsupported(message).with_hint("Raise the limit: ulimit -n, systemd's LimitNOFILE."))
}

/// How many descriptors HTTP clients may have, at most `most`, so that the receiver keeps its own.
pub fn for_clients(most: usize) -> usize {
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return most;
    };
    let left = limit.saturating_sub(open() + STILL_TO_OPEN);
    usize::try_from(left).map_or(most, |left| left.clamp(1, most))
}

/// How many files are open now.
fn open() -> u64 {
    let usual = 3;
    // Reading the directory takes a descriptor, too.
    std::fs::read_dir("/proc/self/fd").map_or(usual, |files| (files.count() as u64).saturating_sub(1))
}
