//! `walring-perf`: see the library.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use walring_perf::disk;

/// The comparison suite of walring
#[derive(Debug, Parser)]
#[command(name = "walring-perf", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Disk(disk::cli::DiskArgs),
    #[command(hide = true)]
    DiskServer(disk::cli::ServerArgs),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Disk(args) => disk::cli::run(&args).into(),
        Command::DiskServer(args) => {
            disk::cli::run_server(&args);
            ExitCode::SUCCESS
        }
    }
}
