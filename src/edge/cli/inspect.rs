//! The arguments of `inspect`.

use super::values::position;
use super::{Command, Invocation, shared};
use crate::edge::inspect::Options;
use crate::error::Result;
use clap::Parser;
use std::ffi::OsString;
use std::path::PathBuf;

/// Help on `inspect`; `{name}` stands for all that has to be typed to get there.
const HELP: &str = "\
{name} tells what is in a segment of stored write-ahead log, or in all of the newest timeline.

Usage:
  {name} [OPTION]... FILE|DIR

Options:
      --commits          list the ends of transactions: position, time, number
      --records          list records
      --stats            add up the records of each resource manager
  -s, --start=LSN        leave out what begins before this position
  -e, --end=LSN          leave out what begins at this position or later
      --json             print one JSON object
      --segment-size=MB  size of segments, should no file tell it
  -V, --version          output version information, then exit
  -?, --help             show this help, then exit

Exit codes: 0, 1 if what is there is damaged, 2 could not look.
";

/// The arguments as they stand; later ones override earlier ones.
#[derive(Parser)]
#[command(
    no_binary_name = true,
    disable_help_flag = true,
    disable_version_flag = true,
    infer_long_args = true,
    args_override_self = true
)]
struct Arguments {
    #[arg(short, long, allow_hyphen_values = true)]
    start: Option<String>,
    #[arg(short, long, allow_hyphen_values = true)]
    end: Option<String>,
    #[arg(long)]
    stats: bool,
    #[arg(long)]
    commits: bool,
    #[arg(long)]
    records: bool,
    #[arg(long)]
    json: bool,
    #[arg(long, allow_hyphen_values = true)]
    segment_size: Option<String>,
    #[arg(short = '?', long)]
    help: bool,
    #[arg(short = 'V', long)]
    version: bool,
    paths: Vec<PathBuf>,
}

/// Reads the arguments of `inspect`.
pub(super) fn inspect(called: &Invocation, args: &[OsString]) -> Result<Command> {
    let mut arguments: Arguments = shared::split(args).map_err(|message| called.misuse(message))?;
    if let Some(print) = shared::print(called, HELP, arguments.help, arguments.version) {
        return Ok(print);
    }
    if let Some(second) = arguments.paths.get(1) {
        let second = second.display();
        return Err(called.misuse(format!("too many command-line arguments (first is \"{second}\")")));
    }
    let Some(path) = arguments.paths.pop() else {
        return Err(called.misuse("no segment file and no directory specified"));
    };
    Ok(Command::Inspect(Options {
        path,
        start: position("start", arguments.start.as_deref())?,
        end: position("end", arguments.end.as_deref())?,
        stats: arguments.stats,
        commits: arguments.commits,
        records: arguments.records,
        json: arguments.json,
        segment_size: arguments
            .segment_size
            .as_deref()
            .map(shared::segment_size)
            .transpose()?,
    }))
}
