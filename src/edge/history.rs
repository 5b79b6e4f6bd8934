//! Timeline history files.
//!
//! A restore needs the history of a timeline before any of its segments, so the file is durable before the timeline
//! is streamed, and a failure to write it is an error. (pg_receivewal ignores it, and compresses the file
//! with the segments, so that a restore does not find it.)

use super::directory::Directory;
use crate::core::lsn::Timeline;
use crate::error::{Error, Result};
use std::io::Write;

/// Whether the server need not be asked for the history of `timeline`. The first timeline has none.
pub fn is_known(directory: &Directory, timeline: Timeline) -> Result<bool> {
    Ok(timeline == Timeline(1) || directory.holds(&timeline.history_file_name())?)
}

/// Stores what the server answered to TIMELINE_HISTORY: `name` as the server calls the file, and its content.
/// A file that is already there is left alone.
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
        assert!(!is_known(&directory, TIMELINE).unwrap());
        fs::write(
            temporary.path().join("0000000A.history.tmp"),
            "much left by a crash",
        )
        .unwrap();
        store(&directory, TIMELINE, NAME, b"9\t0/5000000\tnote\n").unwrap();
        assert!(is_known(&directory, TIMELINE).unwrap());
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
    fn the_first_timeline_has_no_history() {
        let (_temporary, directory) = fresh();
        assert!(is_known(&directory, Timeline(1)).unwrap());
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
        assert!(!is_known(&directory, TIMELINE).unwrap());
    }
}
