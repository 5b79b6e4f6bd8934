//! What the options of `receive` must be, beyond each value by itself. `config check` holds a configuration against
//! the same rules.

use std::path::Path;

use super::Invocation;
use super::arguments::Arguments;
use crate::edge::directory;
use crate::error::{Error, Result};

/// Which options need one another, and which exclude one another.
pub(super) fn check_combinations(called: &Invocation, arguments: &Arguments) -> Result<()> {
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
pub(super) fn check_compression(specification: &str) -> Result<()> {
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

/// Whether the directory can be read, where one is needed.
pub(super) fn check_directory(arguments: &Arguments) -> Result<()> {
    let path = arguments.directory.as_deref().map(Path::new);
    match path.filter(|_| !arguments.is_slot_action()) {
        None => Ok(()),
        Some(path) => match std::fs::read_dir(path) {
            Ok(_) => Ok(()),
            Err(error) => Err(directory::cannot_open(path, error)),
        },
    }
}
