//! The arguments of `verify`.

use super::values::position;
use super::{Command, Invocation, shared};
use crate::edge::verify::Options;
use crate::error::{Error, Result};
use clap::Parser;
use std::ffi::OsString;
use std::path::PathBuf;

/// Help on `verify`; `{name}` stands for all that has to be typed to get there.
const HELP: &str = "\
{name} checks stored write-ahead log: every page, every record, and that nothing is missing.

Usage:
  {name} [OPTION]... DIR|FILE...

Options:
  -j, --jobs=N           look at so many segments at once (default: as many as cores)
      --json             print one JSON object
  -q, --quiet            print only what is wrong
  -s, --start=LSN        leave out the segments before this position
  -e, --end=LSN          leave out what begins at this position or later
      --segment-size=MB  size of segments, should no file tell it
  -V, --version          output version information, then exit
  -?, --help             show this help, then exit

Files are only read; a receiver may be writing to the directory. Segments that are missing are
looked for in directories only. Compressed segments are counted and not looked at.

Exit codes: 0 sound, 1 something is damaged or missing, 2 could not look.
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
    let arguments: Arguments = shared::split(args).map_err(|message| called.misuse(message))?;
    if let Some(print) = shared::print(called, HELP, arguments.help, arguments.version) {
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
            .map(shared::segment_size)
            .transpose()?,
        start: position("start", arguments.start.as_deref())?,
        end: position("end", arguments.end.as_deref())?,
        json: arguments.json,
        quiet: arguments.quiet,
    }))
}
