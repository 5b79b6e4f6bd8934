//! Which of the stored timelines go on, and whether the server's are the same.

use super::advice::is_missing_file;
use super::connection::Connection;
use super::directory::Directory;
use super::history::{self, Kept};
use super::session::{Receiving, Server};
use crate::core::history::{Fork, History};
use crate::core::lineage;
use crate::core::lsn::{SegmentSize, Timeline};
use crate::core::start::{Position, SegmentFile, Stage};
use crate::error::{Error, Result};

impl Receiving<'_> {
    /// Takes segments off the list that do not tell where streaming goes on: a receiver was ahead of the standby that
    /// became the new primary, and what it had beyond stayed behind when it followed. The newest timeline that has a
    /// segment decides: whoever has received from it does not go back.
    pub(super) async fn drop_left_behind(
        &self,
        connection: &mut Connection,
        server: &Server,
        files: &mut Vec<SegmentFile>,
    ) -> Result<()> {
        let Some(newest) = lineage::newest(files) else {
            return Ok(());
        };
        let history = match history::kept(&self.directory, newest)? {
            Kept::History(history) => history,
            // Then it makes no difference.
            _ if !lineage::is_overtaken(files, newest) => return Ok(()),
            Kept::Damaged => return Err(damaged(&self.directory, newest)),
            Kept::Nothing if server.identity.timeline < newest => return Err(earlier(server, newest)),
            Kept::Nothing => self.missing_history(connection, newest, files, server).await?,
        };
        lineage::drop_left_behind(files, &history, server.segment_size);
        Ok(())
    }

    /// The server's word where our own file is missing that would tell which of the timelines goes on.
    async fn missing_history(
        &self,
        connection: &mut Connection,
        timeline: Timeline,
        files: &[SegmentFile],
        server: &Server,
    ) -> Result<History> {
        let told = self.answer(connection.timeline_history(timeline)).await;
        let told = told.map_err(|error| match is_missing_file(&error) {
            true => unknown(&self.directory, timeline, &error),
            false => error,
        })?;
        let history = history::parse_answer(timeline, &told.content)?;
        check_beginning(&self.directory, &history, files, server.segment_size)?;
        Ok(history)
    }

    /// Sees to it that the history of a timeline is stored before its first segment is, and that it is the server's.
    pub(super) async fn fetch_history(
        &self,
        connection: &mut Connection,
        server: &Server,
        files: &[SegmentFile],
        timeline: Timeline,
    ) -> Result<()> {
        if timeline == Timeline(1) {
            return Ok(());
        }
        let kept = history::kept(&self.directory, timeline)?;
        let told = match self.answer(connection.timeline_history(timeline)).await {
            // It has the history of its own timeline at least.
            Err(error) if is_missing_file(&error) && matches!(kept, Kept::History(_)) => {
                let theirs = self.server_history(connection, server).await?;
                return check_ancestors(&self.directory, timeline, &theirs);
            }
            told => told?,
        };
        let theirs = history::parse_answer(timeline, &told.content)?;
        let is_stored = files.iter().any(|file| file.timeline == timeline);
        match kept {
            Kept::History(ours) if ours == theirs => return Ok(()),
            Kept::History(ours) if is_stored => return Err(another(&self.directory, &ours, &theirs.forks)),
            Kept::Damaged if is_stored => return Err(damaged(&self.directory, timeline)),
            Kept::History(_) | Kept::Damaged => history::set_aside(&self.directory, timeline)?,
            Kept::Nothing => check_beginning(&self.directory, &theirs, files, server.segment_size)?,
        }
        let store = || history::store(&self.directory, timeline, &told.file_name, &told.content);
        self.telemetry.disk.ask(store)
    }
}

/// Two servers that were promoted from the same one have different timelines of the same number. `history`
/// is that of the server's timeline.
pub(super) fn check_ancestors(directory: &Directory, timeline: Timeline, history: &History) -> Result<()> {
    let Some(theirs) = lineage::ancestors(history, timeline) else {
        return Ok(());
    };
    let Kept::History(ours) = history::kept(directory, timeline)? else {
        return Ok(());
    };
    match ours.forks == theirs {
        true => Ok(()),
        false => Err(another(directory, &ours, &theirs)),
    }
}

/// Where no history is stored, segments before the timeline's beginning tell that it is another one.
fn check_beginning(
    directory: &Directory,
    theirs: &History,
    files: &[SegmentFile],
    size: SegmentSize,
) -> Result<()> {
    let Some(before) = lineage::before_beginning(files, theirs, size) else {
        return Ok(());
    };
    Err(not_the_same(theirs.timeline)
        .with_detail(format!(
            "\"{}\" lies before {}, where it began by the server. Nothing was changed.",
            directory.path_of(&before.name(size)),
            origin(&theirs.forks)
        ))
        .with_hint("Receive from this server into another directory."))
}

/// A stream that begins at a segment's start compares nothing, so it must not come over what is stored of its timeline. A
/// partial may be left where an older segment was damaged and is received again: it is kept up to its end.
pub(super) fn check_unwritten(
    directory: &Directory,
    files: &[SegmentFile],
    start: Position,
    least: Stage,
    size: SegmentSize,
) -> Result<()> {
    match lineage::in_the_way(files, start, least, size) {
        None => Ok(()),
        Some(file) => Err(Error::directory(format!(
            "streaming timeline {} from {} on would come over \"{}\"",
            start.timeline,
            start.lsn,
            directory.path_of(&file.name(size))
        ))
        .with_detail("Nothing was changed.")
        .with_hint(
            "Move segments of earlier timelines that lie behind it out of the directory, or receive into another one.",
        )),
    }
}

/// The server is on a timeline that others have left for the stored one.
pub(super) fn earlier(server: &Server, timeline: Timeline) -> Error {
    let theirs = server.identity.timeline;
    Error::lacking(format!(
        "starting timeline {timeline} is not present in the server"
    ))
    .with_detail(format!(
        "The server is on timeline {theirs}, which others have left for timeline {timeline}."
    ))
    .with_hint("Connect to a server that followed, or let this one follow.")
}

fn another(directory: &Directory, ours: &History, theirs: &[Fork]) -> Error {
    not_the_same(ours.timeline)
        .with_detail(format!(
            "By \"{}\" it began at {}, by the server at {}. Nothing was changed.",
            directory.path_of(&ours.timeline.history_file_name()),
            origin(&ours.forks),
            origin(theirs),
        ))
        .with_hint("Receive from this server into another directory.")
}

fn not_the_same(timeline: Timeline) -> Error {
    Error::directory(format!(
        "timeline {timeline} of the server is not the timeline {timeline} that is stored"
    ))
}

fn damaged(directory: &Directory, timeline: Timeline) -> Error {
    Error::directory(format!(
        "\"{}\" is damaged: it is not the history of timeline {timeline}",
        directory.path_of(&timeline.history_file_name())
    ))
    .with_detail(
        "Segments of that timeline are stored, and a restore needs its history. Nothing was changed.",
    )
    .with_hint("Move the file away, and it is received from the server again; or copy it from an archive.")
}

fn unknown(directory: &Directory, timeline: Timeline, error: &Error) -> Error {
    Error::directory(format!(
        "\"{}\" is missing, and the server does not have it: {error}",
        directory.path_of(&timeline.history_file_name())
    ))
    .with_detail(
        "Segments of an earlier timeline lie beside later ones: only that file tells which of them goes on. Nothing was \
         changed.",
    )
    .with_hint("Copy the file, uncompressed, from an archive or another server.")
}

fn origin(forks: &[Fork]) -> String {
    forks
        .last()
        .map_or("another place".to_owned(), |fork| fork.end.to_string())
}
