//! `walring-perf load`: a load by hand.

use std::time::Duration;

use clap::Args;
use walring::error::Result;

use super::{Load, Pace};
use crate::observe::usage;

/// The command line.
#[derive(Debug, Clone, Args)]
pub struct Options {
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

/// Commits for so long and prints the measures, a line each.
pub fn run(options: &Options) -> Result<()> {
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
