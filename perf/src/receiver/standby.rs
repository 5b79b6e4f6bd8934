//! A PostgreSQL standby as a receiver.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::Programs;
use crate::primary::{Installation, Primary, free_port, run};

/// Makes `directory` a standby of the primary, to be started next.
pub fn take_base_backup(programs: &Programs, primary: &Primary, directory: &Path) -> Result<()> {
    copy_primary(&programs.installation, primary, directory)?;
    let settings = format!(
        "port = {}\nlisten_addresses = ''\nprimary_conninfo = '{} password={}'\n",
        free_port()?,
        primary.receiver_conninfo(),
        primary.password()
    );
    let mut file = File::options()
        .append(true)
        .open(directory.join("postgresql.auto.conf"))?;
    file.write_all(settings.as_bytes())?;
    let signal = directory.join("standby.signal");
    File::create(&signal)?;
    programs.installation.give(&signal)
}

/// A base backup without WAL.
pub fn copy_primary(installation: &Installation, primary: &Primary, directory: &Path) -> Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    installation.give(directory)?;
    let mut backup = installation.as_server("pg_basebackup");
    backup.env("PGPASSWORD", primary.password());
    backup.args([
        "--wal-method=none",
        "--checkpoint=fast",
        "--no-sync",
        "--no-password",
        "--no-manifest",
    ]);
    backup
        .arg("-d")
        .arg(primary.receiver_conninfo())
        .arg("-D")
        .arg(directory);
    run(&mut backup).context("base backup")
}

/// The process that receives, among the children of a postmaster.
pub fn walreceiver(postmaster: u32) -> Result<u32> {
    let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"))?;
    let is_walreceiver = |pid: &u32| {
        let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&title).contains("walreceiver")
    };
    let mut pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.find(is_walreceiver)
        .context("the standby has no walreceiver")
}
