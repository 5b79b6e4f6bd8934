//! A directory in which there is no room for the next segment: waiting until there is.

use std::path::Path;
use std::time::Duration;

use tracing::info;

use super::logging;
use super::progress_line::in_units;
use crate::core::lsn::SegmentSize;
use crate::core::telemetry::Telemetry;
use crate::error::{Error, Result, system_text};
use crate::ring::spare;
use crate::ring::stop::Stop;

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDiskFull {
    /// Wait, with the connection closed, until there is room.
    Wait,
    /// End with exit code 1.
    Exit,
}

/// How often it is looked whether there is room.
const LOOK: Duration = Duration::from_secs(1);

/// The size that is assumed while the server has not told it.
const USUAL_SEGMENT: u64 = 16 << 20;

/// Waits, at least so long, until there is room in the directory for a segment, after `error` said that there is
/// none; false if the operator wants the end.
pub async fn wait_for_room(
    directory: &Path,
    telemetry: &Telemetry,
    stop: &Stop,
    error: Error,
    least: Duration,
) -> Result<bool> {
    let needed = segment_bytes(telemetry);
    telemetry.set_missing_room(needed);
    let hint = format!(
        "{}; walring goes on by itself then.",
        make_room(directory, needed)
    );
    logging::report(&error.with_hint(hint));
    let mut wait = least.max(LOOK);
    loop {
        tokio::select! {
            biased;
            () = stop.requested() => return Ok(false),
            () = tokio::time::sleep(wait) => {}
        }
        wait = LOOK;
        match spare::has_room(directory, needed).await {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => {
                let error = cannot_look(directory, &error);
                // What may be over later, such as too many open files, is looked for again like room.
                if !error.is_retryable() {
                    return Err(error);
                }
            }
        }
    }
    telemetry.set_missing_room(0);
    info!("there is room in directory \"{}\" again", directory.display());
    Ok(true)
}

/// The error with which a receiver ends that is not to wait.
pub fn not_waited_for(directory: &Path, telemetry: &Telemetry, error: Error) -> Error {
    let room = make_room(directory, segment_bytes(telemetry));
    error.with_hint(format!(
        "{room}, and start again; without --on-disk-full=exit and --no-loop walring waits for that."
    ))
}

fn segment_bytes(telemetry: &Telemetry) -> u64 {
    let known = telemetry.upstream().segment_size;
    known.map_or(USUAL_SEGMENT, SegmentSize::bytes)
}

fn make_room(directory: &Path, needed: u64) -> String {
    let room = rustix::fs::statvfs(directory);
    let free = room.map_or_else(|_| "?".to_owned(), |room| in_units(room.f_bavail * room.f_frsize));
    let (path, needed) = (directory.display(), in_units(needed));
    format!("Make room for a segment of {needed} in \"{path}\", where {free} is free")
}

fn cannot_look(directory: &Path, error: &std::io::Error) -> Error {
    let (path, reason) = (directory.display(), system_text(error));
    let message = format!("could not look for room in directory \"{path}\": {reason}");
    Error::of_disk(message, error)
}
