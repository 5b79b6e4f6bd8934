//! Timeline history files.
//!
//! A restore needs the history of a timeline before any of its segments, so the file is durable before the timeline
//! is streamed, and a failure to write it is an error. (pg_receivewal ignores it, and compresses the file
//! with the segments, so that a restore does not find it.)

use std::io::{Read, Write};

use tracing::warn;

use super::directory::Directory;
use crate::core::history::History;
use crate::core::lsn::Timeline;
use crate::error::{Error, Result};

/// What a history file is renamed to that is another one than the server's.
const OTHER: &str = "other";

/// What the directory has of the history of a timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// No file. The first timeline has none anywhere.
    Nothing,
    /// A file that is no history of that timeline.
    Damaged,
    /// The history.
    History(History),
}

/// The history of a timeline as its file tells it.
pub fn kept(directory: &Directory, timeline: Timeline) -> Result<Kept> {
    let name = timeline.history_file_name();
    if timeline == Timeline(1) || !directory.holds(&name)? {
        return Ok(Kept::Nothing);
    }
    let mut content = Vec::new();
    let read = directory.open_file(&name)?.read_to_end(&mut content);
    read.map_err(|error| directory.failed("read", &name, &error))?;
    Ok(parse(timeline, &content).map_or(Kept::Damaged, Kept::History))
}

/// The history in a file's content, if it is one.
fn parse(timeline: Timeline, content: &[u8]) -> Option<History> {
    History::parse(timeline, std::str::from_utf8(content).ok()?).ok()
}

/// The history that the server answered with.
pub fn parse_answer(timeline: Timeline, content: &[u8]) -> Result<History> {
    parse(timeline, content)
        .ok_or_else(|| Error::protocol(format!("server sent an invalid history of timeline {timeline}")))
}

/// Stores what the server answered to TIMELINE_HISTORY, `name` as the server calls the file, where there is none. A
/// server that sends what is none is told apart first, by [`parse_answer`].
pub fn store(directory: &Directory, timeline: Timeline, name: &str, content: &[u8]) -> Result<()> {
    let expected = timeline.history_file_name();
    if name != expected {
        let message = format!("server reported unexpected history file name for timeline {timeline}: {name}");
        return Err(Error::protocol(message));
    }
    if directory.holds(&expected)? {
        return Ok(());
    }
    write_durably(directory, &expected, content)
}

/// Makes room for the server's file: another server had a timeline of that number, and nothing of that was received.
pub fn set_aside(directory: &Directory, timeline: Timeline) -> Result<()> {
    let name = timeline.history_file_name();
    let aside = directory.set_aside(&name, OTHER)?;
    warn!(
        detail = "No segment of that timeline is stored, so that nothing rests on the file.",
        "\"{name}\" is not the history of the server's timeline {timeline} and was renamed to \"{aside}\""
    );
    Ok(())
}

/// Under its own name there is never less than the whole file: content first, then the name, each made durable. A
/// temporary file that a crash leaves behind is emptied by the next attempt.
fn write_durably(directory: &Directory, name: &str, content: &[u8]) -> Result<()> {
    let temporary = format!("{name}.tmp");
    let mut file = directory.create(&temporary)?;
    (file.write_all(content)).map_err(|error| directory.failed("write", &temporary, &error))?;
    (file.sync_all()).map_err(|error| directory.failed("fsync", &temporary, &error))?;
    directory.rename(&temporary, name)?;
    directory.sync()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tempfile::TempDir;

    const NAME: &str = "0000000A.history";
    const TIMELINE: Timeline = Timeline(10);

    fn fresh() -> (TempDir, Directory) {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::open(temporary.path()).unwrap();
        (temporary, directory)
    }

    fn names(temporary: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(temporary.path()).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_history_file_is_stored_whole_and_alone() {
        let (temporary, directory) = fresh();
        assert_eq!(kept(&directory, TIMELINE).unwrap(), Kept::Nothing);
        fs::write(
            temporary.path().join("0000000A.history.tmp"),
            "much left by a crash",
        )
        .unwrap();
        store(&directory, TIMELINE, NAME, b"9\t0/5000000\tnote\n").unwrap();
        let history = parse(TIMELINE, b"9\t0/5000000\tnote\n").unwrap();
        assert_eq!(kept(&directory, TIMELINE).unwrap(), Kept::History(history));
        assert_eq!(names(&temporary), [NAME]);
        assert_eq!(
            fs::read(temporary.path().join(NAME)).unwrap(),
            b"9\t0/5000000\tnote\n"
        );
    }

    #[test]
    fn an_existing_history_file_is_left_alone() {
        let (temporary, directory) = fresh();
        fs::write(temporary.path().join(NAME), "old").unwrap();
        store(&directory, TIMELINE, NAME, b"new").unwrap();
        assert_eq!(fs::read_to_string(temporary.path().join(NAME)).unwrap(), "old");
        assert_eq!(names(&temporary), [NAME]);
    }

    #[test]
    fn a_file_that_is_no_history_is_damaged() {
        let (temporary, directory) = fresh();
        for content in ["", "\0\0\0\0", "9\t0/50", "10\t0/5000000\tnote\n", "\u{ff}\n"] {
            fs::write(temporary.path().join(NAME), content).unwrap();
            let expected = match content {
                // Cut within the position, which nobody can see.
                "9\t0/50" => Kept::History(parse(TIMELINE, content.as_bytes()).unwrap()),
                _ => Kept::Damaged,
            };
            assert_eq!(kept(&directory, TIMELINE).unwrap(), expected, "{content:?}");
            assert_eq!(
                parse_answer(TIMELINE, content.as_bytes()).is_err(),
                expected == Kept::Damaged
            );
        }
    }

    #[test]
    fn a_history_that_is_set_aside_makes_room() {
        let (temporary, directory) = fresh();
        fs::write(temporary.path().join(NAME), "old").unwrap();
        set_aside(&directory, TIMELINE).unwrap();
        store(&directory, TIMELINE, NAME, b"new").unwrap();
        let read = |name: &str| fs::read_to_string(temporary.path().join(name)).unwrap();
        assert_eq!(
            (read(NAME).as_str(), read("0000000A.history.other").as_str()),
            ("new", "old")
        );
    }

    #[test]
    fn the_first_timeline_has_no_history() {
        let (_temporary, directory) = fresh();
        assert_eq!(kept(&directory, Timeline(1)).unwrap(), Kept::Nothing);
    }

    #[test]
    fn a_name_of_another_timeline_is_refused() {
        let (temporary, directory) = fresh();
        let error = store(&directory, TIMELINE, "0000000B.history", b"x").unwrap_err();
        assert_eq!(
            error.to_string(),
            "server reported unexpected history file name for timeline 10: 0000000B.history"
        );
        assert!(names(&temporary).is_empty());
    }

    #[test]
    fn a_history_file_that_cannot_be_written_is_an_error() {
        let (temporary, directory) = fresh();
        let path = temporary.path().join("0000000A.history.tmp");
        fs::create_dir(&path).unwrap();
        let error = store(&directory, TIMELINE, NAME, b"x").unwrap_err();
        let expected = format!("could not create file \"{}\": Is a directory", path.display());
        assert_eq!(error.to_string(), expected);
        assert_eq!(kept(&directory, TIMELINE).unwrap(), Kept::Nothing);
    }
}
