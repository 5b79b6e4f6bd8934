//! What the commands beside `receive` have in common on the command line.

use super::{Command, Invocation, version};
use crate::core::lsn::SegmentSize;
use crate::error::{Error, Result};
use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::ffi::OsString;

/// The arguments in `args`, or what is wrong with them.
pub(super) fn split<T: Parser>(args: &[OsString]) -> std::result::Result<T, String> {
    T::try_parse_from(args).map_err(|error| {
        let argument = match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(text)) => text.as_str(),
            _ => "",
        };
        let option = argument.split([' ', '=', '.']).next().unwrap_or_default();
        match error.kind() {
            ErrorKind::UnknownArgument if !argument.starts_with('-') => {
                format!("too many command-line arguments (first is \"{argument}\")")
            }
            ErrorKind::UnknownArgument => format!("unrecognized option '{option}'"),
            ErrorKind::TooManyValues => format!("option '{option}' doesn't allow an argument"),
            ErrorKind::InvalidValue => format!("option '{option}' requires an argument"),
            kind => kind.to_string(),
        }
    })
}

/// What is to be printed in place of doing anything.
pub(super) fn print(called: &Invocation, text: &str, help: bool, version_line: bool) -> Option<Command> {
    match (help, version_line) {
        (true, _) => Some(Command::Print(text.replace("{name}", &called.command))),
        (_, true) => Some(Command::Print(version(&called.program))),
        _ => None,
    }
}

/// Whole megabytes, as `initdb --wal-segsize` takes them.
pub(super) fn segment_size(text: &str) -> Result<SegmentSize> {
    let megabytes = text.parse().ok().filter(|&megabytes: &u64| megabytes <= 1024);
    megabytes
        .and_then(|megabytes| SegmentSize::new(megabytes << 20))
        .ok_or_else(|| {
            Error::usage(format!("invalid value \"{text}\" for option --segment-size"))
                .with_hint("Give it in megabytes, a power of two from 1 to 1024.")
        })
}
