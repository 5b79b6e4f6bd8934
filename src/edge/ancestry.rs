//! Which of the stored timelines go on, and whether the server's are the same.

use super::directory::Directory;
use crate::core::history::{Fork, History};
use crate::core::lsn::{SegmentSize, Timeline};
use crate::core::start::SegmentFile;
use crate::error::{Error, Result};

/// The history of a timeline as its file tells it; `None` for the first one, without a file, and where the content is no
/// history.
fn stored_history(directory: &Directory, timeline: Timeline) -> Result<Option<History>> {
    let name = timeline.history_file_name();
    if timeline == Timeline(1) || !directory.holds(&name)? {
        return Ok(None);
    }
    let mut content = Vec::new();
    let read = std::io::Read::read_to_end(&mut directory.open_file(&name)?, &mut content);
    read.map_err(|error| directory.failed("read", &name, &error))?;
    Ok(parse_history(timeline, &content))
}

/// The history in a file's content, if it is one.
pub(super) fn parse_history(timeline: Timeline, content: &[u8]) -> Option<History> {
    History::parse(timeline, std::str::from_utf8(content).ok()?).ok()
}

/// Takes segments off the list that do not tell where streaming goes on: a receiver was ahead of the standby that became
/// the new primary, and what it had beyond stayed behind when it followed. The newest timeline that has a segment decides:
/// whoever has received from it does not go back.
pub(super) fn drop_left_behind(
    directory: &Directory,
    files: &mut Vec<SegmentFile>,
    size: SegmentSize,
) -> Result<()> {
    let Some(newest) = files.iter().map(|file| file.timeline).max() else {
        return Ok(());
    };
    if let Some(history) = stored_history(directory, newest)? {
        files.retain(|file| !history.leaves_behind(file, size));
    }
    Ok(())
}

/// Two servers that were promoted from the same one have different timelines of the same number. `history`
/// is that of the server's timeline.
pub(super) fn check_ancestors(directory: &Directory, timeline: Timeline, history: &History) -> Result<()> {
    if history.timeline < timeline {
        return Ok(());
    }
    let Some(ours) = stored_history(directory, timeline)? else {
        return Ok(());
    };
    let theirs: Vec<_> = history
        .forks
        .iter()
        .filter(|fork| fork.timeline < timeline)
        .collect();
    if ours.forks.iter().eq(theirs.iter().copied()) {
        return Ok(());
    }
    Err(Error::directory(format!(
        "timeline {timeline} of the server is not the timeline {timeline} that is stored"
    ))
    .with_detail(format!(
        "By \"{}\" it began at {}, by the server at {}. Nothing was changed.",
        directory.path_of(&timeline.history_file_name()),
        origin(&ours.forks),
        theirs
            .last()
            .map_or("another place".to_owned(), |fork| fork.end.to_string()),
    ))
    .with_hint("Receive from this server into another directory."))
}

fn origin(forks: &[Fork]) -> String {
    forks.last().map_or(String::new(), |fork| fork.end.to_string())
}
