//! The subcommands `disk` (for people) and `disk-server` (for [`EdgeDisk`]).

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::image::Latencies;
use super::server::{Order, serve};
use super::{EdgeDisk, Filesystem, PROFILES, Profile, Settings};

/// Runs a command with an emulated edge disk, or keeps the disk until Ctrl-C.
#[derive(Debug, Args)]
pub struct DiskArgs {
    /// How slow the disk is
    #[arg(long, default_value = "emmc", value_parser = PROFILES.map(|profile| profile.key))]
    profile: String,
    /// The disk's size, MiB; only what is written takes memory
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u64).range(64..=1 << 20))]
    size_mib: u64,
    /// The file system on it
    #[arg(long, default_value = "ext4")]
    filesystem: Filesystem,
    /// The command; it finds the disk's directory in the environment variable EDGE_DISK
    #[arg(last = true)]
    command: Vec<String>,
}

/// Serves one disk to the process at the other end of its standard input and output.
#[derive(Debug, Args)]
pub struct ServerArgs {
    #[arg(long)]
    size_mib: u64,
    #[arg(long)]
    filesystem: Filesystem,
    #[arg(long)]
    write_us: u64,
    #[arg(long)]
    flush_us: u64,
    #[arg(long)]
    rotation_us: u64,
    #[arg(long)]
    record: Option<PathBuf>,
}

/// `walring-perf disk`. Gives the exit code: the command's, 1 when there is no disk.
pub fn run(args: &DiskArgs) -> u8 {
    match with_disk(args) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("walring-perf: error: {why}");
            1
        }
    }
}

/// `walring-perf disk-server`.
pub fn run_server(args: &ServerArgs) {
    let micros = Duration::from_micros;
    let latencies = Latencies {
        write: micros(args.write_us),
        flush: micros(args.flush_us),
        rotation: micros(args.rotation_us),
    };
    serve(&Order {
        size_mib: args.size_mib,
        filesystem: args.filesystem,
        latencies,
        record: args.record.clone(),
    });
}

fn with_disk(args: &DiskArgs) -> Result<u8, String> {
    let profile =
        Profile::named(&args.profile).ok_or_else(|| format!("there is no profile {}", args.profile))?;
    // Set up first: from here on a Ctrl-C ends the command and this waits for it, so that the disk can go.
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])
        .map_err(|error| format!("could not handle signals: {error}"))?;
    let settings = Settings {
        size_mib: args.size_mib,
        filesystem: args.filesystem,
        ..Settings::new(profile)
    };
    let disk = EdgeDisk::with(&settings).map_err(|error| error.to_string())?;
    let code = match args.command.split_first() {
        None => {
            println!("{}", disk.path().display());
            eprintln!(
                "{}, on {}; Ctrl-C takes it away",
                profile.about,
                disk.device().display()
            );
            signals.forever().next();
            0
        }
        Some((program, arguments)) => run_command(program, arguments, disk.path().to_path_buf())?,
    };
    let counters = disk.counters().map_err(|error| error.to_string())?;
    eprintln!("{counters}");
    disk.close().map_err(|error| error.to_string())?;
    Ok(code)
}

fn run_command(program: &str, arguments: &[String], directory: PathBuf) -> Result<u8, String> {
    let status = Command::new(program)
        .args(arguments)
        .env("EDGE_DISK", directory)
        .status()
        .map_err(|error| format!("could not run {program}: {error}"))?;
    // A command that a signal ended: as a shell says it.
    let signal = std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal);
    Ok(status
        .code()
        .or(signal)
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1))
}
