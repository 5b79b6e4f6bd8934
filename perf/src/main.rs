//! `walring-perf`: see the library.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use walring::error::Result;
use walring_perf::floor;
use walring_perf::load::{Load, Pace};
use walring_perf::observe::usage;

/// What walring saves against pg_receivewal, on this disk.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Time commits from their clients' side, and print what was measured.
    Load(LoadOptions),
    /// Receive WAL, acknowledge it at once and throw it away. Never use it for anything but measuring.
    #[command(hide = true)]
    Floor(floor::Options),
}

#[derive(Args)]
struct LoadOptions {
    /// The connection string: keywords and values, or a URI
    #[arg(long, value_name = "CONNSTR")]
    config: String,
    /// Clients
    #[arg(long, default_value_t = 1)]
    clients: u32,
    /// How long
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// How long before, not counted
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    warm_up: f64,
    /// Open loop: commits a second, of all clients together [default: closed loop]
    #[arg(long)]
    rate: Option<f64>,
    /// What is committed; $1 is the client's number
    #[arg(
        long,
        default_value = "select pg_logical_emit_message(true, 'load', repeat('x', 100))"
    )]
    statement: String,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Load(options) => load(&options),
        Command::Floor(options) => floor::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("walring-perf: error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn load(options: &LoadOptions) -> Result<()> {
    let pace = options
        .rate
        .map_or(Pace::Closed, |per_second| Pace::Open { per_second });
    let mut load = Load::connect(&options.config, options.clients, &options.statement)?;
    let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
    load.run(pace, seconds(options.warm_up))?;
    let before = usage(std::process::id())?;
    let timed = load.run(pace, seconds(options.seconds))?;
    let used = usage(std::process::id())?.since(&before);
    for (metric, value) in timed.measures() {
        println!("{metric:?} {value:.3}");
    }
    let commits = timed.samples.len().max(1) as f64;
    println!("LoadCpuUsPerCommit {:.1}", used.cpu.as_secs_f64() * 1e6 / commits);
    println!("LoadSwitchesPerCommit {:.2}", used.switches as f64 / commits);
    Ok(())
}
