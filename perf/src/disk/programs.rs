//! The system's programs that make file systems, loop devices and mounts.
//!
//! Programs and not system calls: while one waits for the disk, the server's own threads do not, so the server
//! can be ended at any time.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where they are looked for besides `PATH`, which may lack the administrator's directories.
const ALSO: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// Where a program is; `None` where it is missing.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(ALSO.iter().map(PathBuf::from));
    directories
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())
}

/// Runs a program to its end and gives what it printed, trimmed; the error is one line with what it said.
pub fn run(name: &str, arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Result<String, String> {
    let program = find(name).ok_or_else(|| format!("{name} is not installed"))?;
    let output = Command::new(program)
        .args(arguments.iter().map(|argument| argument.as_ref()))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("could not run {name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_string());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(", ");
    Err(if said.is_empty() {
        format!("{name} failed: {}", output.status)
    } else {
        format!("{name} failed: {said}")
    })
}

/// The file behind each loop device: (`/dev/loopN`, its path as the kernel says it).
pub fn loop_devices() -> io::Result<Vec<(PathBuf, String)>> {
    let mut devices = Vec::new();
    for entry in std::fs::read_dir("/sys/block")? {
        let entry = entry?;
        if let Ok(file) = std::fs::read_to_string(entry.path().join("loop/backing_file")) {
            devices.push((
                Path::new("/dev").join(entry.file_name()),
                file.trim_end().to_string(),
            ));
        }
    }
    Ok(devices)
}

/// All mount points of this mount namespace, in the order in which they were mounted.
pub fn mount_points() -> io::Result<Vec<PathBuf>> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .collect())
}
