//! Splitting the arguments of `receive` into options and values, as getopt_long would.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, ArgMatches, CommandFactory, Parser};
use std::ffi::OsString;

use crate::edge::config::OptionKind;

/// The arguments as they stand. Later ones override earlier ones, and a value may begin with a dash, as with getopt.
#[derive(Parser)]
#[command(
    no_binary_name = true,
    disable_help_flag = true,
    disable_version_flag = true,
    infer_long_args = true,
    args_override_self = true
)]
pub(super) struct Arguments {
    #[arg(short = 'D', long, allow_hyphen_values = true)]
    pub(super) directory: Option<OsString>,
    #[arg(short = 'E', long, allow_hyphen_values = true)]
    pub(super) endpos: Option<String>,
    #[arg(long)]
    pub(super) if_not_exists: bool,
    #[arg(short, long)]
    pub(super) no_loop: bool,
    #[arg(long)]
    pub(super) no_sync: bool,
    // These abbreviations are unique among pg_receivewal's options, but not next to --start-lsn.
    #[arg(short, long, aliases = ["st", "sta"], allow_hyphen_values = true, default_value = "10")]
    pub(super) status_interval: String,
    // So are these, but not next to --slot-mode and --slot-watch.
    #[arg(short = 'S', long, aliases = ["sl", "slo"], allow_hyphen_values = true)]
    pub(super) slot: Option<String>,
    #[arg(long)]
    pub(super) synchronous: bool,
    #[arg(short, long, action = ArgAction::Count)]
    pub(super) verbose: u8,
    #[arg(short = 'V', long)]
    pub(super) version: bool,
    // And this one, but not next to --config.
    #[arg(short = 'Z', long, aliases = ["co"], allow_hyphen_values = true, default_value = "none")]
    pub(super) compress: String,
    #[arg(short = '?', long)]
    pub(super) help: bool,
    #[arg(short, long, allow_hyphen_values = true)]
    pub(super) dbname: Option<String>,
    #[arg(short, long, allow_hyphen_values = true)]
    pub(super) host: Option<String>,
    #[arg(short, long, allow_hyphen_values = true)]
    pub(super) port: Option<String>,
    #[arg(short = 'U', long, allow_hyphen_values = true)]
    pub(super) username: Option<String>,
    #[arg(short = 'w', long, overrides_with = "password")]
    pub(super) no_password: bool,
    #[arg(short = 'W', long, overrides_with = "no_password")]
    pub(super) password: bool,
    #[arg(long)]
    pub(super) create_slot: bool,
    #[arg(long)]
    pub(super) drop_slot: bool,
    #[arg(long, allow_hyphen_values = true)]
    pub(super) start_lsn: Option<String>,
    #[arg(long, allow_hyphen_values = true, default_value = "60")]
    pub(super) receive_timeout: String,
    #[arg(long, allow_hyphen_values = true, default_value = "text")]
    pub(super) log_format: String,
    #[arg(long)]
    pub(super) buffered: bool,
    #[arg(long, allow_hyphen_values = true, default_value = "wait")]
    pub(super) on_disk_full: String,
    #[arg(long)]
    pub(super) latency_report: bool,
    #[arg(long, allow_hyphen_values = true, default_value = "records")]
    pub(super) verify: String,
    #[arg(long, allow_hyphen_values = true, default_value = "auto")]
    pub(super) durable_method: String,
    #[arg(long, allow_hyphen_values = true, default_value = "0")]
    pub(super) spin_us: String,
    #[arg(long, allow_hyphen_values = true)]
    pub(super) histogram_log: Option<OsString>,
    #[arg(long, allow_hyphen_values = true)]
    pub(super) baseline: Option<OsString>,
    #[arg(long, allow_hyphen_values = true)]
    pub(super) listen: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    pub(super) config: Option<OsString>,
    #[arg(long, allow_hyphen_values = true, default_value = "require")]
    pub(super) slot_mode: String,
    #[arg(long, allow_hyphen_values = true)]
    pub(super) slot_watch: Option<String>,
    pub(super) extra: Vec<OsString>,
}

impl Arguments {
    /// The options and values in `args`, or what is wrong with them.
    pub(super) fn split(args: &[OsString]) -> Result<Arguments, String> {
        Arguments::try_parse_from(args).map_err(|error| in_words_of_getopt(&error))
    }

    /// The same, for who wants to know which options were given.
    pub(super) fn matches(args: &[OsString]) -> Result<ArgMatches, String> {
        let matches = Arguments::command().try_get_matches_from(args);
        matches.map_err(|error| in_words_of_getopt(&error))
    }

    /// The long form of every option, `--directory` and so on.
    pub(super) fn options() -> impl Iterator<Item = String> {
        let command = Arguments::command();
        let long = |argument: &clap::Arg| Some(format!("--{}", argument.get_long()?));
        let options: Vec<_> = command.get_arguments().filter_map(long).collect();
        options.into_iter()
    }

    /// The same, as the configuration file sees them.
    pub(super) fn kinds() -> Vec<OptionKind> {
        let command = Arguments::command();
        let kind = |argument: &clap::Arg| {
            Some(OptionKind {
                name: argument.get_long()?.to_owned(),
                is_switch: !argument.get_action().takes_values(),
            })
        };
        command.get_arguments().filter_map(kind).collect()
    }

    pub(super) fn is_slot_action(&self) -> bool {
        self.create_slot || self.drop_slot
    }
}

/// Why clap could not split the arguments, as getopt_long would tell it.
fn in_words_of_getopt(error: &clap::Error) -> String {
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    // clap names options as usage lines do: "--directory <DIRECTORY>", "--verbose...".
    let option = argument.split([' ', '=', '.']).next().unwrap_or_default();
    let short = option.strip_prefix('-').filter(|rest| !rest.starts_with('-'));
    match (error.kind(), short) {
        (ErrorKind::UnknownArgument, Some(letter)) => format!("invalid option -- '{letter}'"),
        (ErrorKind::UnknownArgument, None) => unknown_long(option),
        (ErrorKind::TooManyValues, _) => format!("option '{option}' doesn't allow an argument"),
        (ErrorKind::InvalidValue, _) => format!("option '{option}' requires an argument"),
        (ErrorKind::InvalidUtf8, _) => "command-line argument is not valid UTF-8".to_owned(),
        _ => error.kind().to_string(),
    }
}

/// clap takes an abbreviation that fits more than one option for an unknown one.
fn unknown_long(option: &str) -> String {
    let possible: Vec<_> = Arguments::options()
        .filter(|name| name.starts_with(option))
        .map(|name| format!("'{name}'"))
        .collect();
    match possible.is_empty() {
        true => format!("unrecognized option '{option}'"),
        false => format!(
            "option '{option}' is ambiguous; possibilities: {}",
            possible.join(" ")
        ),
    }
}
