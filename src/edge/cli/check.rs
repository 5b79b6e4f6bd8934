//! The command line of `walring config check`, and what it finds: everything that is wrong with a configuration, or
//! what counts in the end, each value with where it comes from.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory};
use rustix::fs::{Access, access};

use super::arguments::Arguments;
use super::layers::Layers;
use super::rules::{check_combinations, check_compression, check_directory};
use super::values::Values;
use super::{Command, Invocation, connection, shared};
use crate::edge::config::is_settable;
use crate::edge::conninfo::{self, Conninfo};
use crate::edge::connstring::{ConnectionString, Pairs};
use crate::edge::hosts::Target;
use crate::edge::settings::{self, Settings};
use crate::edge::tls::files;
use crate::edge::tls::settings::SslMode;
use crate::edge::{overlay, savings, slot_watch};
use crate::error::{Error, Result, printable, system_text};

/// Help on `config`; `{name}` stands for all that has to be typed to get there.
const HELP: &str = "\
{name} looks for mistakes in a configuration, and shows what counts.

Usage:
  {name} check [--config=FILE] [OPTION]...

Options:
      --config=FILE      the file that \"receive --config\" is to read
  every option of \"receive\", for what the command line is to override
  -V, --version          output version information, then exit
  -?, --help             show this help, then exit

Looked at are the file, the environment, the options here, the directory, certificates and keys;
nothing is connected to or changed. What counts is printed as such a file, each value with where it comes from;
passwords are not shown.

Exit codes: 0 nothing is wrong, 1 something is, a line each on standard error.
";

/// What only a connection can tell.
const UNKNOWN: &str = "
# Known only once connected: whether a server answers and is the right one, whether it lets the user in
# (pg_hba.conf, password, certificates) and allows replication, whether the slot exists and has the WAL that is
# next, whether the directory's WAL is that server's. Known only at the start: whether the listening address is
# free, whether the directory's file system has direct I/O.
";

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    program: String,
    /// A line each.
    problems: Vec<String>,
    /// What counts; empty if something is wrong.
    effective: String,
}

impl Checked {
    /// Prints it; with the code returned the process is to exit.
    pub fn report(&self) -> ExitCode {
        for problem in &self.problems {
            // There is nobody to tell that standard error is gone.
            let _ = writeln!(io::stderr(), "{}: error: {problem}", self.program);
        }
        let printed = io::stdout().write_all(self.effective.as_bytes());
        match self.problems.is_empty() && printed.is_ok() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }
}

/// Reads the arguments of `config`, and does what they ask for.
pub(super) fn config(called: &Invocation, args: &[OsString]) -> Result<Command> {
    match args.first().and_then(|arg| arg.to_str()) {
        Some("check") => check(called, &args[1..]),
        Some("-?" | "--help") => Ok(Command::Print(HELP.replace("{name}", &called.command))),
        Some(other) => Err(called.misuse(format!("unrecognized command \"config {other}\""))),
        None => Err(called.misuse("no command specified: there is \"config check\"")),
    }
}

fn check(called: &Invocation, args: &[OsString]) -> Result<Command> {
    let arguments = Arguments::split(args).map_err(|message| called.misuse(message))?;
    if let Some(print) = shared::print(called, HELP, arguments.help, arguments.version) {
        return Ok(print);
    }
    let (layers, mut problems) = match Layers::with_problems(called, args, arguments) {
        Ok(read) => read,
        Err(error) => return Ok(Command::Check(Checked::failed(called, vec![error]))),
    };
    let env = |name: &str| std::env::var(name).ok();
    if layers.says_anything() || problems.is_empty() {
        problems.extend(mistakes(called, &layers, &env));
    }
    if !problems.is_empty() {
        return Ok(Command::Check(Checked::failed(called, problems)));
    }
    Ok(Command::Check(Checked {
        program: called.program.clone(),
        problems: Vec::new(),
        effective: effective(called, args, &layers, &env)?,
    }))
}

impl Checked {
    fn failed(called: &Invocation, problems: Vec<Error>) -> Checked {
        let line = |error: &Error| {
            let advice = error.hint().filter(|hint| !hint.starts_with("Try \""));
            let advice = advice.map_or(String::new(), |hint| format!(" ({})", hint.trim_end_matches('.')));
            format!("{error}{advice}").replace('\n', "; ")
        };
        Checked {
            program: called.program.clone(),
            problems: problems.iter().map(line).collect(),
            effective: String::new(),
        }
    }
}

type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What is wrong beyond the file itself.
fn mistakes(called: &Invocation, layers: &Layers, env: Environment<'_>) -> Vec<Error> {
    let arguments = &layers.arguments;
    let options = connection(layers, called);
    let watched = arguments.slot_watch.clone().map(ConnectionString::from);
    let checks = [
        // A value of the file that is wrong was found before.
        Values::of(&layers.on_the_command_line).map(drop),
        check_combinations(called, arguments),
        check_compression(&layers.on_the_command_line.compress),
        check_directory(arguments).and_then(|()| check_writable(arguments)),
        check_baseline(arguments),
        settings::check_environment(std::env::vars_os()),
        Conninfo::resolve(&options.explicit(), env).and_then(|info| check_certificates(&info)),
        watched.map_or(Ok(()), |text| {
            slot_watch::settings(&text, &options, env).map(drop)
        }),
    ];
    checks.into_iter().filter_map(Result::err).collect()
}

/// Whether who runs this may write to the directory.
fn check_writable(arguments: &Arguments) -> Result<()> {
    let Some(path) = arguments.directory.as_deref().map(Path::new) else {
        return Ok(());
    };
    let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    access(path, all).map_err(|error| {
        let reason = system_text(&error.into());
        Error::usage(format!(
            "could not write to directory \"{}\": {reason}",
            path.display()
        ))
    })
}

/// Whether the files for TLS can be read, where it may be used; with `prefer` a mistake in them would lead to plain text.
fn check_certificates(info: &Conninfo) -> Result<()> {
    let is_remote = info.hosts.iter().any(|host| host.target != Target::Socket);
    match is_remote && info.tls.mode != SslMode::Disable {
        true => files::check(&info.tls),
        false => Ok(()),
    }
}

fn check_baseline(arguments: &Arguments) -> Result<()> {
    match &arguments.baseline {
        Some(path) => savings::against(Path::new(path)).map(drop),
        None => Ok(()),
    }
}

/// What counts, as a configuration file.
fn effective(
    called: &Invocation,
    args: &[OsString],
    layers: &Layers,
    env: Environment<'_>,
) -> Result<String> {
    let mut text = format!(
        "# What counts for \"{} receive\", and where each value comes from.\n\n",
        called.program
    );
    text += &options(called, args, layers)?;
    text += "\n[connection]\n";
    text += &settings_of_connection(called, layers, env)?;
    text += UNKNOWN;
    Ok(text)
}

fn options(called: &Invocation, args: &[OsString], layers: &Layers) -> Result<String> {
    let matches = |args| Arguments::matches(args).map_err(|message| called.misuse(message));
    let (alone, all) = (matches(args)?, matches(&layers.line)?);
    let command = Arguments::command();
    let mut text = String::new();
    for argument in command.get_arguments() {
        let (Some(name), id) = (argument.get_long(), argument.get_id().as_str()) else {
            continue;
        };
        if !is_settable(name) {
            continue;
        }
        let source = match () {
            () if is_given(&alone, id) => "command line".to_owned(),
            () if is_given(&all, id) => layers.place(name),
            () => "default".to_owned(),
        };
        text += &match argument.get_action().takes_values() {
            false => format!("{name} = {}  # {source}\n", is_given(&all, id)),
            true => match all.get_raw(id).and_then(Iterator::last) {
                Some(value) => line(
                    name,
                    &value.to_string_lossy(),
                    is_secret(name, value.to_str()),
                    &source,
                ),
                None => continue,
            },
        };
    }
    Ok(text)
}

fn is_given(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::CommandLine)
}

fn is_secret(option: &str, value: Option<&str>) -> bool {
    let text = value.filter(|_| option == "slot-watch");
    text.is_some_and(|text| ConnectionString::from(text.to_owned()).holds_secret())
}

/// One setting; a secret as a comment, so that what is printed can be read as a file again.
fn line(name: &str, value: &str, is_secret: bool, source: &str) -> String {
    if is_secret {
        return format!("# {name}: set, and not shown  # {source}\n");
    }
    let number = value
        .parse::<i64>()
        .ok()
        .filter(|number| number.to_string() == value);
    let value = match number {
        Some(number) => toml::Value::Integer(number),
        None => toml::Value::String(value.to_owned()),
    };
    format!("{name} = {value}  # {source}\n")
}

fn settings_of_connection(called: &Invocation, layers: &Layers, env: Environment<'_>) -> Result<String> {
    let explicit = connection(layers, called).explicit();
    let settings = conninfo::gather(&explicit, env)?;
    let (file, command_line) = (layers.connection_pairs(), layers.explicit_pairs());
    let defaults = defaults(&Conninfo::resolve(&explicit, env)?, &settings);
    let mut text = String::new();
    // What kind of connection it is, and what it is called if nothing else is said, is not for the operator to set.
    let keywords =
        settings::keywords().filter(|name| !["replication", "fallback_application_name"].contains(name));
    for keyword in keywords {
        let Some(value) = settings.value(keyword) else {
            let found = defaults.iter().find(|(name, _)| *name == keyword);
            text += &found.map_or(String::new(), |(_, value)| line(keyword, value, false, "default"));
            continue;
        };
        let source = match () {
            () if sets(&command_line, keyword) => "command line".to_owned(),
            () if sets(&file, keyword) => layers.place_of_setting(keyword),
            () => elsewhere(keyword, value, &settings, env),
        };
        text += &line(keyword, value, settings::is_secret(keyword), &source);
    }
    Ok(text)
}

fn sets(pairs: &Pairs, keyword: &str) -> bool {
    pairs
        .iter()
        .any(|(name, value)| overlay::is_named(name, keyword) && !value.is_empty())
}

/// Where a value comes from that nobody gave explicitly.
fn elsewhere(keyword: &str, value: &str, settings: &Settings, env: Environment<'_>) -> String {
    let variable = settings::variable(keyword).filter(|variable| env(variable).as_deref() == Some(value));
    match (variable, settings.value("service")) {
        (Some(variable), _) => format!("environment {variable}"),
        // No variable stands for it: a physical stream has no database.
        (None, _) if keyword == "dbname" => "default".to_owned(),
        (None, Some(service)) => format!("service {}", printable(service)),
        (None, None) if keyword == "sslmode" => "environment PGREQUIRESSL".to_owned(),
        (None, None) => "default".to_owned(),
    }
}

/// What counts where nothing is said.
fn defaults(info: &Conninfo, settings: &Settings) -> Vec<(&'static str, String)> {
    let startup = |name: &str| {
        let found = info.startup.iter().find(|(parameter, _)| *parameter == name);
        found.map(|(_, value)| value.clone())
    };
    let host = info
        .hosts
        .first()
        .filter(|_| settings.value("hostaddr").is_none());
    let values = [
        ("application_name", startup("application_name")),
        ("dbname", startup("database")),
        ("host", host.map(|host| host.name.clone())),
        ("port", info.hosts.first().map(|host| host.port.to_string())),
        ("user", Some(info.user.clone())),
    ];
    let known = values
        .into_iter()
        .filter_map(|(keyword, value)| Some((keyword, value?)));
    known.collect()
}
