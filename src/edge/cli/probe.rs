//! The command line of `walring probe`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use super::{Command, Invocation, shared};
use crate::error::{Error, Result};

/// Help on `probe`; `{name}` stands for all that has to be typed to get there.
const HELP: &str = "\
{name} measures how long durable writes take on a directory's disk.

Usage:
  {name} [OPTION]... DIR

A commit of PostgreSQL waits for one of them. Compared are the standard path, that of
pg_receivewal --synchronous, and the methods that walring has; each writes to a file of its
own, in turns. The report says what the kernel and the disk allow, and which method to use.
The files take about 60 MiB and are removed at the end. DIR may be in use by a receiver.

Options:
      --seconds=SECS     how long to measure, also as 0.5 (default: 5)
      --pause-ms=MS      the pause before each write (default: 1)
      --json             print the report as JSON
      --baseline-out=FILE
                         write the standard path's histogram to this file, for
                         \"receive --baseline\" and for HdrHistogram's tools
  -V, --version          output version information, then exit
  -?, --help             show this help, then exit
";

/// What to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeOptions {
    /// An existing directory on the disk.
    pub directory: PathBuf,
    /// How long to measure, without the preparation.
    pub duration: Duration,
    /// The pause before each write.
    pub pause: Duration,
    /// Print JSON instead of a table.
    pub json: bool,
    /// Where to write the standard path's histogram.
    pub baseline_out: Option<PathBuf>,
    /// The name this program was called by.
    pub program_name: String,
}

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
    #[arg(long, allow_hyphen_values = true, default_value = "5")]
    seconds: String,
    #[arg(long, allow_hyphen_values = true, default_value = "1")]
    pause_ms: String,
    #[arg(long)]
    json: bool,
    #[arg(long, allow_hyphen_values = true)]
    baseline_out: Option<OsString>,
    #[arg(short = 'V', long)]
    version: bool,
    #[arg(short = '?', long)]
    help: bool,
    directory: Option<OsString>,
}

/// Reads the arguments of `probe`.
pub(super) fn probe(called: &Invocation, args: &[OsString]) -> Result<Command> {
    let arguments: Arguments = shared::split(args).map_err(|message| called.misuse(message))?;
    if let Some(print) = shared::print(called, HELP, arguments.help, arguments.version) {
        return Ok(print);
    }
    let directory = arguments.directory.filter(|path| !path.is_empty());
    Ok(Command::Probe(ProbeOptions {
        directory: directory
            .ok_or_else(|| called.misuse("no directory specified"))?
            .into(),
        duration: number("--seconds", &arguments.seconds, 0.1, 3600.0).map(Duration::from_secs_f64)?,
        pause: number("--pause-ms", &arguments.pause_ms, 0.0, 10_000.0)
            .map(|milliseconds| Duration::from_secs_f64(milliseconds / 1000.0))?,
        json: arguments.json,
        baseline_out: arguments.baseline_out.map(PathBuf::from),
        program_name: called.program.clone(),
    }))
}

fn number(option: &str, text: &str, least: f64, most: f64) -> Result<f64> {
    let number: Option<f64> = text.trim().parse().ok();
    number
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| {
            Error::usage(format!("invalid value \"{text}\" for option {option}"))
                .with_hint(format!("Give a number from {least} to {most}."))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Command> {
        let called = Invocation::of_command("walring", "probe");
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        probe(&called, &args)
    }

    #[test]
    fn a_directory_is_enough() {
        let options = parsed(&["/srv"]).unwrap();
        let expected = ProbeOptions {
            directory: "/srv".into(),
            duration: Duration::from_secs(5),
            pause: Duration::from_millis(1),
            json: false,
            baseline_out: None,
            program_name: "walring".to_owned(),
        };
        assert_eq!(options, Command::Probe(expected));
    }

    #[test]
    fn options_may_stand_before_and_behind_it() {
        let options = parsed(&[
            "--seconds=0.5",
            "d",
            "--pause-ms",
            "0",
            "--json",
            "--baseline-out=f",
        ]);
        let Ok(Command::Probe(options)) = options else {
            panic!("{options:?}")
        };
        assert_eq!(
            (options.duration, options.pause),
            (Duration::from_millis(500), Duration::ZERO)
        );
        assert!(options.json);
        assert_eq!(options.baseline_out, Some("f".into()));
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (args, expected) in [
            (vec![], "no directory specified"),
            (vec![""], "no directory specified"),
            (vec!["a", "b"], "too many command-line arguments (first is \"b\")"),
            (vec!["--nonsense", "d"], "unrecognized option '--nonsense'"),
            (
                vec!["d", "--seconds=0"],
                "invalid value \"0\" for option --seconds",
            ),
            (
                vec!["d", "--pause-ms=NaN"],
                "invalid value \"NaN\" for option --pause-ms",
            ),
        ] {
            let error = parsed(&args).unwrap_err();
            assert_eq!(error.to_string(), expected);
            assert!(error.hint().is_some(), "{error:?}");
        }
    }

    #[test]
    fn help_and_version_are_printed() {
        assert!(
            matches!(parsed(&["-?"]), Ok(Command::Print(text)) if text.starts_with("walring probe measures"))
        );
        assert!(matches!(parsed(&["d", "-V"]), Ok(Command::Print(text)) if text.starts_with("walring ")));
        assert!(HELP.lines().all(|line| line.chars().count() <= 95));
    }
}
