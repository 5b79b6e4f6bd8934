//! The command line.
//!
//! `walring receive` takes what pg_receivewal takes, and under the name pg_receivewal the whole command line is that of
//! `receive`: options, defaults, the order of checks and the words of refusals are pg_receivewal's, as scripts know them.
//! clap splits the arguments; everything a user reads is written here.

mod arguments;
mod check;
mod help;
mod inspect;
mod layers;
mod probe;
mod rules;
mod shared;
mod top;
mod values;
mod verify;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use self::arguments::Arguments;
pub use self::check::Checked;
use self::layers::Layers;
pub use self::probe::ProbeOptions;
use self::rules::{check_combinations, check_compression, check_directory};
pub use self::top::TopOptions;
use self::values::Values;
use super::connstring::ConnectionString;
use super::options::{ConnectionOptions, LogOptions, ReceiveOptions, SlotOptions};
use super::password::PromptMode;
use crate::error::{Error, Result};

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Receive WAL.
    Receive(Box<ReceiveOptions>),
    /// Create a replication slot and exit.
    CreateSlot(SlotOptions),
    /// Drop a replication slot and exit.
    DropSlot(SlotOptions),
    /// Check stored segments.
    Verify(super::verify::Options),
    /// Tell what is in stored segments.
    Inspect(super::inspect::Options),
    /// Measure a disk.
    Probe(ProbeOptions),
    /// Show a running receiver.
    Top(TopOptions),
    /// Tell what a configuration says, and what is wrong with it.
    Check(Checked),
    /// Print this to standard output and exit.
    Print(String),
}

/// A refused command line: what to print to standard error before exiting with code 1, or 2 where 1 has another
/// meaning.
#[derive(Debug)]
pub struct Exit {
    lines: String,
    code: u8,
}

impl Exit {
    fn new(program: &str, error: &Error, code: u8) -> Exit {
        let mut lines = format!("{program}: error: {error}");
        if let Some(hint) = error.hint() {
            lines += &format!("\n{program}: hint: {hint}");
        }
        Exit { lines, code }
    }

    /// Prints the refusal; with the code returned the process is to exit.
    pub fn report(&self) -> ExitCode {
        // There is nobody to tell that standard error is gone.
        let _ = writeln!(io::stderr(), "{self}");
        ExitCode::from(self.code)
    }
}

/// The lines, the last one without its end.
impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines)
    }
}

/// A command of this program.
struct Named {
    name: &'static str,
    read: fn(&Invocation, &[OsString]) -> Result<Command>,
    /// The exit code of a refusal.
    refused: u8,
}

const COMMANDS: [Named; 6] = [
    Named::new("receive", receive, 1),
    Named::new("config", check::config, 1),
    Named::new("probe", probe::probe, 1),
    Named::new("top", top::top, 1),
    // Of these two, 1 says that there is damage.
    Named::new("verify", verify::verify, 2),
    Named::new("inspect", inspect::inspect, 2),
];

impl Named {
    const fn new(
        name: &'static str,
        read: fn(&Invocation, &[OsString]) -> Result<Command>,
        refused: u8,
    ) -> Named {
        Named { name, read, refused }
    }
}

/// Reads the command line: the program's name, then its arguments.
pub fn parse(mut args: impl Iterator<Item = OsString>) -> std::result::Result<Command, Exit> {
    let name = args.next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or("walring".as_ref());
    let program = name.to_string_lossy().into_owned();
    let args: Vec<OsString> = args.collect();
    let first = args.first().and_then(|arg| arg.to_str());
    let named = COMMANDS.iter().find(|named| Some(named.name) == first);
    let (command, code) = match named {
        _ if program == "pg_receivewal" => (receive(&Invocation::new(&program), &args), 1),
        Some(named) => {
            let called = Invocation::of_command(&program, named.name);
            ((named.read)(&called, &args[1..]), named.refused)
        }
        None => (without_command(&Invocation::new(&program), &args), 1),
    };
    command.map_err(|error| Exit::new(&program, &error, code))
}

/// Reads arguments that do not begin with a command.
fn without_command(called: &Invocation, args: &[OsString]) -> Result<Command> {
    let Some(first) = args.first() else {
        return Err(called.misuse("no command specified"));
    };
    match first.to_str() {
        Some("-?" | "--help" | "help") => {
            Ok(Command::Print(help::PROGRAM.replace("{name}", &called.program)))
        }
        Some("-V" | "--version") => Ok(Command::Print(version(&called.program))),
        _ => Err(called.misuse(format!("unrecognized command \"{}\"", first.display()))),
    }
}

/// Under the name of another program the version line says whose version it is.
fn version(program: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    match program {
        "pg_receivewal" => format!("pg_receivewal (walring) {version}\n"),
        _ => format!("walring {version}\n"),
    }
}

/// How this program was called.
struct Invocation {
    program: String,
    /// The program, and the command if one was named: what `--help` is asked from.
    command: String,
}

impl Invocation {
    fn new(program: &str) -> Invocation {
        Invocation {
            program: program.to_owned(),
            command: program.to_owned(),
        }
    }

    fn of_command(program: &str, command: &str) -> Invocation {
        Invocation {
            program: program.to_owned(),
            command: format!("{program} {command}"),
        }
    }

    /// A refusal that points to the help.
    fn misuse(&self, message: impl Into<String>) -> Error {
        let hint = format!("Try \"{} --help\" for more information.", self.command);
        Error::usage(message).with_hint(hint)
    }
}

/// Reads the arguments of `receive`, checking them in pg_receivewal's order.
fn receive(called: &Invocation, args: &[OsString]) -> Result<Command> {
    // As the first argument, these two win over whatever follows, be it wrong.
    let first = args.first().and_then(|arg| arg.to_str());
    let help_first = matches!(first, Some("-?" | "--help"));
    let version_first = matches!(first, Some("-V" | "--version"));
    if let Some(print) = shared::print(called, help::RECEIVE, help_first, version_first) {
        return Ok(print);
    }
    let arguments = Arguments::split(args).map_err(|message| called.misuse(message))?;
    if let Some(print) = shared::print(called, help::RECEIVE, arguments.help, arguments.version) {
        return Ok(print);
    }
    let layers = Layers::of(called, args, arguments)?;
    let values = Values::of(&layers.arguments)?;
    check_combinations(called, &layers.arguments)?;
    check_compression(&layers.arguments.compress)?;
    check_directory(&layers.arguments)?;
    Ok(command(layers, values, called))
}

/// What the arguments ask for, now that they are found to be good.
fn command(layers: Layers, values: Values, called: &Invocation) -> Command {
    let connection = connection(&layers, called);
    let arguments = layers.arguments;
    let log = LogOptions {
        verbose: arguments.verbose > 0,
        format: values.log_format,
    };
    if arguments.is_slot_action() {
        let slot = arguments.slot.unwrap_or_default();
        let options = SlotOptions {
            slot,
            if_not_exists: arguments.if_not_exists,
            log,
            connection,
        };
        return match arguments.create_slot {
            true => Command::CreateSlot(options),
            false => Command::DropSlot(options),
        };
    }
    let options = ReceiveOptions {
        directory: arguments.directory.unwrap_or_default().into(),
        endpos: values.endpos,
        start_lsn: values.start_lsn,
        no_loop: arguments.no_loop,
        status_interval: values.status_interval,
        receive_timeout: values.receive_timeout,
        slot: arguments.slot,
        slot_mode: values.slot_mode,
        slot_watch: arguments.slot_watch.map(ConnectionString::from),
        synchronous: arguments.synchronous,
        no_sync: arguments.no_sync,
        buffered: arguments.buffered,
        on_disk_full: values.on_disk_full,
        latency_report: arguments.latency_report,
        verify: values.verify,
        durable_method: values.durable_method,
        spin: values.spin,
        histogram_log: arguments.histogram_log.map(PathBuf::from),
        baseline: arguments.baseline.map(PathBuf::from),
        listen: values.listen,
        log,
        connection,
    };
    Command::Receive(Box::new(options))
}

fn connection(layers: &Layers, called: &Invocation) -> ConnectionOptions {
    let arguments = &layers.arguments;
    ConnectionOptions {
        file: layers.connection(),
        dbname: arguments.dbname.clone().map(ConnectionString::from),
        host: arguments.host.clone(),
        port: arguments.port.clone(),
        username: arguments.username.clone(),
        password: match (arguments.no_password, arguments.password) {
            (true, _) => PromptMode::Never,
            (_, true) => PromptMode::Always,
            _ => PromptMode::WhenAsked,
        },
        program_name: called.program.clone(),
    }
}

#[cfg(test)]
mod tests;
