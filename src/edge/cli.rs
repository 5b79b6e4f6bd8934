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
mod shared;
mod top;
mod verify;

use self::arguments::Arguments;
pub use self::check::Checked;
use self::layers::Layers;
pub use self::probe::ProbeOptions;
pub use self::top::TopOptions;
use super::conninfo::Explicit;
use super::connstring::ConnectionString;
use super::directory;
use super::full_disk::OnDiskFull;
use super::logging::LogFormat;
use super::password::PromptMode;
use crate::core::demand::DurableMethod;
use crate::core::lsn::Lsn;
use crate::core::spin::SpinLimit;
use crate::core::wal::Verify;
use crate::error::{Error, Result};
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

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

/// How to receive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiveOptions {
    /// An existing directory for the segment files.
    pub directory: PathBuf,
    /// Exit once WAL beyond this position is received.
    pub endpos: Option<Lsn>,
    /// Where to start if the directory holds no segment, not yet rounded to a segment.
    pub start_lsn: Option<Lsn>,
    /// Exit when the connection is lost.
    pub no_loop: bool,
    /// The longest time between two status messages; `None`: only when there is something to tell.
    pub status_interval: Option<Duration>,
    /// How long the server may be silent although pinged; `None`: for ever.
    pub receive_timeout: Option<Duration>,
    /// The replication slot to stream from.
    pub slot: Option<String>,
    /// What to do if there is no such slot.
    pub slot_mode: SlotMode,
    /// How to connect to ask about the slot: a connection string, or `same`.
    pub slot_watch: Option<ConnectionString>,
    /// Make WAL durable as soon as it arrives.
    pub synchronous: bool,
    /// Do not make files durable at all.
    pub no_sync: bool,
    /// Write through the page cache, not O_DIRECT.
    pub buffered: bool,
    /// What to do while there is no room in the directory.
    pub on_disk_full: OnDiskFull,
    /// Print a summary of latencies at exit.
    pub latency_report: bool,
    /// What of the received WAL is checked before it is acknowledged.
    pub verify: Verify,
    /// How WAL is made durable in live mode.
    pub durable_method: DurableMethod,
    /// Whether to wait for the next commit on the processor.
    pub spin: SpinLimit,
    /// A file to log histograms to.
    pub histogram_log: Option<PathBuf>,
    /// The histogram of the standard path that transactions are compared with.
    pub baseline: Option<PathBuf>,
    /// Where to serve metrics and health.
    pub listen: Option<SocketAddr>,
    /// How much and how to log.
    pub log: LogOptions,
    /// How to connect.
    pub connection: ConnectionOptions,
}

/// What to do if the replication slot does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotMode {
    /// It is an error: WAL may be missing that nobody knows of.
    Require,
    /// Create it, and say so.
    Create,
}

/// Which replication slot to create or drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotOptions {
    /// Its name.
    pub slot: String,
    /// A slot that exists already is no error when it is to be created.
    pub if_not_exists: bool,
    /// How much and how to log.
    pub log: LogOptions,
    /// How to connect.
    pub connection: ConnectionOptions,
}

/// How much and how to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// Log each step, not only what needs attention.
    pub verbose: bool,
    /// Text or JSON.
    pub format: LogFormat,
}

/// What the command line says about the connection. Each option overrides the same keyword of `dbname`, as with
/// pg_receivewal (its documentation claims the reverse).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// What the configuration file says, as far as the rest does not replace it.
    pub file: Option<ConnectionString>,
    /// A connection string: keywords and values, or a URI.
    pub dbname: Option<ConnectionString>,
    /// Host name or socket directory.
    pub host: Option<String>,
    /// Port, not validated here.
    pub port: Option<String>,
    /// User name.
    pub username: Option<String>,
    /// Whether to ask for a password.
    pub password: PromptMode,
    /// The name this program was called by: the default `application_name`, which `synchronous_standby_names` may list.
    pub program_name: String,
}

impl ConnectionOptions {
    /// The same, for who resolves it.
    pub fn explicit(&self) -> Explicit {
        Explicit {
            file: self.file.clone(),
            dbname: self.dbname.clone(),
            host: self.host.clone(),
            port: self.port.clone(),
            username: self.username.clone(),
            program_name: self.program_name.clone(),
        }
    }
}

/// A refused command line: what to print to standard error before exiting with code 1, or 2 where 1 has another
/// meaning.
#[derive(Debug)]
pub struct Exit {
    lines: String,
    code: u8,
}

impl Exit {
    fn new(program: &str, error: &Error) -> Exit {
        let mut lines = format!("{program}: error: {error}");
        if let Some(hint) = error.hint() {
            lines += &format!("\n{program}: hint: {hint}");
        }
        Exit { lines, code: 1 }
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

/// Reads the command line: the program's name, then its arguments.
pub fn parse(mut args: impl Iterator<Item = OsString>) -> std::result::Result<Command, Exit> {
    let name = args.next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or("walring".as_ref());
    let program = name.to_string_lossy().into_owned();
    let args: Vec<OsString> = args.collect();
    let command = if program == "pg_receivewal" {
        receive(&Invocation::new(&program, &program), &args)
    } else {
        dispatch(&program, &args)
    };
    let looks = matches!(
        args.first().and_then(|arg| arg.to_str()),
        Some("verify" | "inspect")
    );
    let code = if looks && program != "pg_receivewal" { 2 } else { 1 };
    command.map_err(|error| Exit {
        code,
        ..Exit::new(&program, &error)
    })
}

/// Finds the command of a command line that begins with one.
fn dispatch(program: &str, args: &[OsString]) -> Result<Command> {
    let top = Invocation::new(program, program);
    let Some(first) = args.first() else {
        return Err(top.misuse("no command specified"));
    };
    match first.to_str() {
        Some("receive") => receive(
            &Invocation::new(program, &format!("{program} receive")),
            &args[1..],
        ),
        Some("verify") => verify::verify(
            &Invocation::new(program, &format!("{program} verify")),
            &args[1..],
        ),
        Some("inspect") => inspect::inspect(
            &Invocation::new(program, &format!("{program} inspect")),
            &args[1..],
        ),
        Some("config") => check::config(
            &Invocation::new(program, &format!("{program} config")),
            &args[1..],
        ),
        Some("probe") => probe::probe(&Invocation::new(program, &format!("{program} probe")), &args[1..]),
        Some("top") => top::top(&Invocation::new(program, &format!("{program} top")), &args[1..]),
        Some("-?" | "--help" | "help") => Ok(Command::Print(help::PROGRAM.replace("{name}", program))),
        Some("-V" | "--version") => Ok(Command::Print(version(program))),
        _ => Err(top.misuse(format!("unrecognized command \"{}\"", first.display()))),
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
    fn new(program: &str, command: &str) -> Invocation {
        Invocation {
            program: program.to_owned(),
            command: command.to_owned(),
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
    if let Some(print) = print(called, help_first, version_first) {
        return Ok(print);
    }
    let arguments = Arguments::split(args).map_err(|message| called.misuse(message))?;
    if let Some(print) = print(called, arguments.help, arguments.version) {
        return Ok(print);
    }
    let layers = Layers::of(called, args, arguments)?;
    let values = Values::of(&layers.arguments)?;
    check_combinations(called, &layers.arguments)?;
    check_compression(&layers.arguments.compress)?;
    check_directory(&layers.arguments)?;
    Ok(command(layers, values, called))
}

fn check_directory(arguments: &Arguments) -> Result<()> {
    let path = arguments.directory.as_deref().map(Path::new);
    match path.filter(|_| !arguments.is_slot_action()) {
        None => Ok(()),
        Some(path) => match std::fs::read_dir(path) {
            Ok(_) => Ok(()),
            Err(error) => Err(directory::cannot_open(path, error)),
        },
    }
}

fn print(called: &Invocation, help: bool, version_line: bool) -> Option<Command> {
    match (help, version_line) {
        (true, _) => Some(Command::Print(help::RECEIVE.replace("{name}", &called.command))),
        (_, true) => Some(Command::Print(version(&called.program))),
        _ => None,
    }
}

/// The values that need parsing.
struct Values {
    endpos: Option<Lsn>,
    start_lsn: Option<Lsn>,
    status_interval: Option<Duration>,
    receive_timeout: Option<Duration>,
    log_format: LogFormat,
    on_disk_full: OnDiskFull,
    slot_mode: SlotMode,
    verify: Verify,
    durable_method: DurableMethod,
    spin: SpinLimit,
    listen: Option<SocketAddr>,
}

impl Values {
    fn of(arguments: &Arguments) -> Result<Values> {
        let endpos = position("end", arguments.endpos.as_deref())?;
        Ok(Values {
            endpos: endpos.filter(|&lsn| lsn != Lsn::INVALID),
            start_lsn: position("start", arguments.start_lsn.as_deref())?,
            status_interval: seconds("-s/--status-interval", &arguments.status_interval)?,
            receive_timeout: seconds("--receive-timeout", &arguments.receive_timeout)?,
            log_format: choice("--log-format", &arguments.log_format, &LOG_FORMATS)?,
            on_disk_full: choice("--on-disk-full", &arguments.on_disk_full, &ON_DISK_FULL)?,
            slot_mode: choice("--slot-mode", &arguments.slot_mode, &SLOT_MODES)?,
            verify: choice("--verify", &arguments.verify, &VERIFY_LEVELS)?,
            durable_method: choice("--durable-method", &arguments.durable_method, &DURABLE_METHODS)?,
            spin: spin_limit(&arguments.spin_us)?,
            listen: arguments.listen.as_deref().map(listen_address).transpose()?,
        })
    }
}

const LOG_FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];

const ON_DISK_FULL: [(&str, OnDiskFull); 2] = [("wait", OnDiskFull::Wait), ("exit", OnDiskFull::Exit)];

const SLOT_MODES: [(&str, SlotMode); 2] = [("require", SlotMode::Require), ("create", SlotMode::Create)];

const VERIFY_LEVELS: [(&str, Verify); 3] = [
    ("records", Verify::Records),
    ("pages", Verify::Pages),
    ("off", Verify::Off),
];

const DURABLE_METHODS: [(&str, DurableMethod); 3] = [
    ("auto", DurableMethod::Auto),
    ("dsync", DurableMethod::Dsync),
    ("fdatasync", DurableMethod::Fdatasync),
];

/// One of a few words.
fn choice<T: Copy>(option: &str, value: &str, choices: &[(&str, T)]) -> Result<T> {
    let found = choices.iter().find(|(word, _)| *word == value);
    found.map(|&(_, chosen)| chosen).ok_or_else(|| {
        let words: Vec<_> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let (last, others) = words.split_last().expect("there is a choice");
        Error::usage(format!("invalid value \"{value}\" for option {option}"))
            .with_hint(format!("Valid values are {} and {last}.", others.join(", ")))
    })
}

/// An address and a port; a port alone is one on loopback.
fn listen_address(text: &str) -> Result<SocketAddr> {
    let port: Option<u16> = text.strip_prefix(':').unwrap_or(text).parse().ok();
    let loopback = port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    loopback.or_else(|| text.parse().ok()).ok_or_else(|| {
        Error::usage(format!("invalid value \"{text}\" for option --listen")).with_hint(
            "Give an IP address and a port, as 127.0.0.1:7070 or [::1]:7070, or a port on 127.0.0.1 alone.",
        )
    })
}

fn position(which: &str, text: Option<&str>) -> Result<Option<Lsn>> {
    text.map(str::parse).transpose().map_err(|_| {
        let text = text.unwrap_or_default();
        Error::usage(format!("could not parse {which} position \"{text}\""))
    })
}

/// Whole seconds, zero for never. The limit is pg_receivewal's: as milliseconds they fit its `int`.
fn seconds(option: &str, text: &str) -> Result<Option<Duration>> {
    const MOST: u64 = i32::MAX as u64 / 1000;
    let digits = text.trim();
    let digits = digits.strip_prefix(['+', '-']).unwrap_or(digits);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Error::usage(format!(
            "invalid value \"{text}\" for option {option}"
        )));
    }
    match text.trim().parse::<u64>() {
        Ok(0) => Ok(None),
        Ok(seconds) if seconds <= MOST => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(Error::usage(format!("{option} must be in range 0..{MOST}"))),
    }
}

/// How long to wait without sleeping: microseconds, 0 for never, or `auto`.
fn spin_limit(text: &str) -> Result<SpinLimit> {
    const MOST: u64 = 1_000_000;
    let option = "--spin-us";
    match (text, text.parse::<u64>()) {
        ("auto", _) => Ok(SpinLimit::Auto),
        (_, Ok(0)) => Ok(SpinLimit::Off),
        (_, Ok(limit)) if limit <= MOST => Ok(SpinLimit::Fixed(Duration::from_micros(limit))),
        (_, Ok(_)) => Err(Error::usage(format!("{option} must be in range 0..{MOST}"))),
        _ => {
            let message = format!("invalid value \"{text}\" for option {option}");
            Err(Error::usage(message).with_hint("Give microseconds, or \"auto\"."))
        }
    }
}

fn check_combinations(called: &Invocation, arguments: &Arguments) -> Result<()> {
    if let Some(first) = arguments.extra.first() {
        let first = first.display();
        return Err(called.misuse(format!("too many command-line arguments (first is \"{first}\")")));
    }
    if arguments.create_slot && arguments.drop_slot {
        return Err(called.misuse("cannot use --create-slot together with --drop-slot"));
    }
    if arguments.is_slot_action() && arguments.slot.is_none() {
        let action = if arguments.create_slot {
            "--create-slot"
        } else {
            "--drop-slot"
        };
        return Err(called.misuse(format!("{action} needs a slot to be specified using --slot")));
    }
    let wants_slot = [
        ("--slot-mode=create", arguments.slot_mode == "create"),
        ("--slot-watch", arguments.slot_watch.is_some()),
    ];
    if let Some((option, _)) = wants_slot
        .iter()
        .find(|(_, wants)| *wants && arguments.slot.is_none())
    {
        return Err(called.misuse(format!("{option} needs a slot to be specified using --slot")));
    }
    if arguments.synchronous && arguments.no_sync {
        return Err(called.misuse("cannot use --synchronous together with --no-sync"));
    }
    if arguments.directory.is_none() && !arguments.is_slot_action() {
        return Err(called.misuse("no target directory specified"));
    }
    Ok(())
}

/// Accepts what means no compression. A bare number is a gzip level, and level 0 is none.
fn check_compression(specification: &str) -> Result<()> {
    let (method, detail) = match (specification.parse::<i32>(), specification.split_once(':')) {
        (Ok(0), _) => ("none", None),
        (Ok(_), _) => ("gzip", None),
        (Err(_), Some((method, detail))) => (method, Some(detail)),
        (Err(_), None) => (specification, None),
    };
    let message = match (method, detail) {
        ("none" | "", None) => return Ok(()),
        ("none", Some(_)) => "invalid compression specification: \
            compression algorithm \"none\" does not accept a compression level"
            .to_owned(),
        ("gzip" | "lz4" | "zstd", _) => format!("compression with {method} is not supported yet"),
        _ => format!("unrecognized compression algorithm: \"{method}\""),
    };
    Err(Error::usage(message))
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
