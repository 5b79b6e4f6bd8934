//! The arguments of `verify`.

use super::{Command, Invocation, help, position, stored};
use crate::edge::verify::Options;
use crate::error::{Error, Result};
use clap::Parser;
use std::ffi::OsString;
use std::path::PathBuf;

/// The arguments as they stand.
#[derive(Parser)]
#[command(
    no_binary_name = true,
    disable_help_flag = true,
    disable_version_flag = true,
    infer_long_args = true,
    args_override_self = true
)]
struct Arguments {
    #[arg(long)]
    json: bool,
    #[arg(short, long, allow_hyphen_values = true)]
    jobs: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    segment_size: Option<String>,
    #[arg(short, long, allow_hyphen_values = true)]
    start: Option<String>,
    #[arg(short, long, allow_hyphen_values = true)]
    end: Option<String>,
    #[arg(short, long)]
    quiet: bool,
    #[arg(short = '?', long)]
    help: bool,
    #[arg(short = 'V', long)]
    version: bool,
    paths: Vec<PathBuf>,
}

/// Reads the arguments of `verify`.
pub(super) fn verify(called: &Invocation, args: &[OsString]) -> Result<Command> {
    let arguments: Arguments = stored::split(args).map_err(|message| called.misuse(message))?;
    if let Some(print) = stored::print(called, help::VERIFY, arguments.help, arguments.version) {
        return Ok(print);
    }
    if arguments.paths.is_empty() {
        return Err(called.misuse("no directory and no segment file specified"));
    }
    let jobs = |text: &str| {
        let jobs = text.parse().ok().filter(|jobs| (1..=1024).contains(jobs));
        jobs.ok_or_else(|| Error::usage(format!("invalid value \"{text}\" for option -j/--jobs")))
    };
    Ok(Command::Verify(Options {
        paths: arguments.paths,
        jobs: arguments.jobs.as_deref().map(jobs).transpose()?,
        segment_size: arguments
            .segment_size
            .as_deref()
            .map(stored::segment_size)
            .transpose()?,
        start: position("start", arguments.start.as_deref())?,
        end: position("end", arguments.end.as_deref())?,
        json: arguments.json,
        quiet: arguments.quiet,
    }))
}
