//! The command line of `walring top`.

use std::ffi::OsString;
use std::time::Duration;

use clap::Parser;

use super::{Command, Invocation, shared};
use crate::edge::top::endpoint::Endpoint;
use crate::error::{Error, Result};

/// Help on `top`; `{name}` stands for all that has to be typed to get there.
const HELP: &str = "\
{name} shows what a running receiver does.

Usage:
  {name} [OPTION]... [ADDR:PORT | URL]

The receiver is one that was started with --listen (default: 127.0.0.1:7070). A port alone
is one on 127.0.0.1.

Options:
      --interval=SECS    time between two looks at it, also as 0.5 (default: 1)
      --once             print one frame, then exit; 1 if the receiver cannot be reached
  -V, --version          output version information, then exit
  -?, --help             show this help, then exit

The view ends with q, or with SIGINT or SIGTERM, and redraws itself in place. Where standard
output is no terminal, each frame follows the last one as plain text. NO_COLOR is respected.
";

/// What `top` is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopOptions {
    /// The receiver to ask.
    pub endpoint: Endpoint,
    /// The time between two questions.
    pub interval: Duration,
    /// Print one frame and exit.
    pub once: bool,
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
    #[arg(long, allow_hyphen_values = true, default_value = "1")]
    interval: String,
    #[arg(long)]
    once: bool,
    #[arg(short = 'V', long)]
    version: bool,
    #[arg(short = '?', long)]
    help: bool,
    endpoint: Option<String>,
}

/// Reads the arguments of `top`.
pub(super) fn top(called: &Invocation, args: &[OsString]) -> Result<Command> {
    let arguments: Arguments = shared::split(args).map_err(|message| called.misuse(message))?;
    if let Some(print) = shared::print(called, HELP, arguments.help, arguments.version) {
        return Ok(print);
    }
    Ok(Command::Top(TopOptions {
        endpoint: arguments
            .endpoint
            .as_deref()
            .unwrap_or("127.0.0.1:7070")
            .parse()?,
        interval: interval(&arguments.interval)?,
        once: arguments.once,
        program_name: called.program.clone(),
    }))
}

/// Seconds with or without a fraction, from a tenth to an hour.
fn interval(text: &str) -> Result<Duration> {
    let seconds: Option<f64> = text.trim().parse().ok();
    match seconds.filter(|seconds| (0.1..=3600.0).contains(seconds)) {
        Some(seconds) => Ok(Duration::from_secs_f64(seconds)),
        None => Err(
            Error::usage(format!("invalid value \"{text}\" for option --interval"))
                .with_hint("Give a number of seconds from 0.1 to 3600."),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Command> {
        let called = Invocation::of_command("walring", "top");
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        top(&called, &args)
    }

    fn options(args: &[&str]) -> TopOptions {
        match parsed(args) {
            Ok(Command::Top(options)) => options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_arguments_the_receiver_on_loopback_is_shown_every_second() {
        let options = options(&[]);
        assert_eq!(options.endpoint, "127.0.0.1:7070".parse().unwrap());
        assert_eq!(options.interval, Duration::from_secs(1));
        assert!(!options.once);
    }

    #[test]
    fn an_address_an_interval_and_once_are_taken() {
        let options = options(&["--once", "db1:7171", "--interval=0.5"]);
        assert_eq!(options.endpoint, "db1:7171".parse().unwrap());
        assert_eq!(options.interval, Duration::from_millis(500));
        assert!(options.once);
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (args, expected) in [
            (vec!["--nonsense"], "unrecognized option '--nonsense'"),
            (
                vec!["a:1", "b:2"],
                "too many command-line arguments (first is \"b:2\")",
            ),
            (vec!["--interval=0"], "invalid value \"0\" for option --interval"),
            (
                vec!["--interval=NaN"],
                "invalid value \"NaN\" for option --interval",
            ),
            (
                vec!["--interval=-1"],
                "invalid value \"-1\" for option --interval",
            ),
            (vec!["a:b"], "invalid address \"a:b\""),
        ] {
            let error = parsed(&args).unwrap_err();
            assert_eq!(error.to_string(), expected);
            assert!(error.hint().is_some(), "{error:?}");
        }
    }

    #[test]
    fn help_and_version_are_printed() {
        assert!(matches!(parsed(&["-?"]), Ok(Command::Print(text)) if text.starts_with("walring top shows")));
        assert!(matches!(parsed(&["--version"]), Ok(Command::Print(text)) if text.starts_with("walring ")));
        assert!(HELP.lines().all(|line| line.chars().count() <= 95));
    }
}
