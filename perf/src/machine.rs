//! Where a comparison runs: the processor, the kernel, the programs' versions.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

use crate::primary::{Primary, clean_command};
use crate::receiver::Programs;
use crate::results::Machine;
use crate::site::mount_of;

/// Describes this machine, and the file system with the primary's data.
pub fn describe(programs: &Programs, primary: &Primary) -> Result<Machine> {
    let installation = &programs.installation;
    let versions = [
        ("postgres", version(&installation.path("postgres"))),
        ("pg_receivewal", version(&installation.path("pg_receivewal"))),
        ("walring", version(&programs.walring)),
    ];
    let kernel = rustix::system::uname();
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    Ok(Machine {
        cpu: field("/proc/cpuinfo", "model name", ':').unwrap_or_else(|| "unknown".to_owned()),
        cores: u32::try_from(cores)?,
        memory_mib: memory_mib(),
        kernel: format!(
            "{} {}",
            kernel.sysname().to_string_lossy(),
            kernel.release().to_string_lossy()
        ),
        os: field("/etc/os-release", "PRETTY_NAME", '=').unwrap_or_else(|| "unknown".to_owned()),
        versions: BTreeMap::from(versions.map(|(program, version)| (program.to_owned(), version))),
        primary_filesystem: mount_of(primary.home())?.0,
    })
}

fn memory_mib() -> u64 {
    let total = field("/proc/meminfo", "MemTotal", ':').unwrap_or_default();
    let kib: u64 = total
        .split(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0);
    kib / 1024
}

/// What `--version` says.
fn version(program: &Path) -> String {
    let output = clean_command(program).arg("--version").output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    said.unwrap_or_else(|error| format!("unknown: {error}"))
}

/// The first value of a key in a file of keys and values.
fn field(file: &str, key: &str, separator: char) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let mut pairs = text.lines().filter_map(|line| line.split_once(separator));
    let (_, value) = pairs.find(|(found, _)| found.trim() == key)?;
    Some(value.trim().trim_matches('"').to_owned())
}
