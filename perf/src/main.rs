//! `walring-perf`: see the library.

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use walring_perf::{compare, disk, floor, load, soak};

/// The comparison suite of walring: what it saves against pg_receivewal, on this disk; and its soak
#[derive(Parser)]
#[command(name = "walring-perf", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run receivers in turn and report what each commit costs
    Compare(compare::Options),
    /// Make HTML and Markdown again from a comparison's JSON file, beside it
    Report {
        /// What `compare` wrote
        file: PathBuf,
    },
    /// Let walring receive under load and faults for a long time, and watch what it stores and what it holds
    Soak(soak::Options),
    /// Time commits from their clients' side, and print what was measured
    Load(load::cli::Options),
    Disk(disk::cli::DiskArgs),
    #[command(hide = true)]
    DiskServer(disk::cli::ServerArgs),
    /// Receive WAL, acknowledge it at once and throw it away; never use it for anything but measuring
    #[command(hide = true)]
    Floor(floor::Options),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Compare(options) => exit_code(compare::run(&options)),
        Command::Report { file } => exit_code(compare::report_again(&file)),
        Command::Soak(options) => exit_code(soak::run(&options)),
        Command::Load(options) => exit_code(load::cli::run(&options)),
        Command::Disk(args) => disk::cli::run(&args).into(),
        Command::DiskServer(args) => {
            disk::cli::run_server(&args);
            ExitCode::SUCCESS
        }
        Command::Floor(options) => exit_code(floor::run(&options)),
    }
}

/// An error is one line, with what led to it.
fn exit_code<E: Display>(done: Result<(), E>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("walring-perf: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
