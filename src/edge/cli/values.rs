//! Values that need parsing: words, positions, seconds and addresses.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::arguments::Arguments;
use crate::core::lsn::Lsn;
use crate::core::spin::SpinLimit;
use crate::core::wal::Verify;
use crate::edge::durable_method::DurableMethod;
use crate::edge::full_disk::OnDiskFull;
use crate::edge::logging::LogFormat;
use crate::edge::options::SlotMode;
use crate::error::{Error, Result};

/// The values of the options of `receive`.
pub(super) struct Values {
    pub(super) endpos: Option<Lsn>,
    pub(super) start_lsn: Option<Lsn>,
    pub(super) status_interval: Option<Duration>,
    pub(super) receive_timeout: Option<Duration>,
    pub(super) log_format: LogFormat,
    pub(super) on_disk_full: OnDiskFull,
    pub(super) slot_mode: SlotMode,
    pub(super) verify: Verify,
    pub(super) durable_method: DurableMethod,
    pub(super) spin: SpinLimit,
    pub(super) listen: Option<SocketAddr>,
}

impl Values {
    /// Parses them all; the first that is wrong is an error.
    pub(super) fn of(arguments: &Arguments) -> Result<Values> {
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

/// A position in the log; `which` one it is, for messages.
pub(super) fn position(which: &str, text: Option<&str>) -> Result<Option<Lsn>> {
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
