//! Going on with what is stored: from where, and whether this server has that log at all.
//!
//! A server may have lost what was received from it: it was restored from an earlier state, or another one
//! has taken its place. Then nothing here is touched: its WAL may be different from some position on,
//! and what was acknowledged exists nowhere else. Whether trying again can help is decided by whether the
//! server can still come to have this log: a standby can, a primary cannot.

use std::os::unix::fs::FileExt;

use tracing::{debug, warn};

use super::ancestry::{check_ancestors, check_unwritten, earlier};
use super::connection::Connection;
use super::history;
use super::session::{Receiving, Server};
use super::target_session::is_in_recovery;
use crate::core::history::History;
use crate::core::lsn::{Lsn, Timeline};
use crate::core::resume::{self, Resumed};
use crate::core::standing::{Standing, standing};
use crate::core::start::{Case, Position, SegmentFile, Stage, StartPlan};
use crate::core::wal::decoder::Decoder;
use crate::error::{Error, Result};

/// How a stream goes on.
pub struct Continuation {
    /// Where to ask from.
    pub position: Position,
    /// What is stored from there on.
    pub stored: Vec<u8>,
    /// What looks at the log, at the end of that.
    pub decoder: Decoder,
    /// The end of what is stored and right, some of which may be received again; see [`Resumed::end`].
    pub right_to: Lsn,
    /// The segment's beginning, up to here, is to be received again first; see [`Resumed::unproven`].
    pub unproven: Option<Lsn>,
}

impl Continuation {
    /// Where the first byte belongs that is not stored.
    pub fn end(&self) -> Lsn {
        self.position.lsn.advanced_by(self.stored.len() as u64)
    }

    /// From a segment's start on, with nothing stored of it.
    pub(super) fn fresh(server: &Server, position: Position) -> Continuation {
        let position = Position {
            lsn: server.segment_size.floor(position.lsn),
            ..position
        };
        Continuation {
            position,
            stored: Vec::new(),
            decoder: resume::fresh(server.expected(position.timeline), position.lsn),
            right_to: position.lsn,
            unproven: None,
        }
    }
}

impl Receiving<'_> {
    /// How the stream goes on from what is stored. An error if this server does not have it.
    pub(super) async fn go_on(
        &mut self,
        connection: &mut Connection,
        server: &Server,
        files: &[SegmentFile],
        plan: &StartPlan,
    ) -> Result<Continuation> {
        let (left, expected) = (self.left.take(), server.expected(plan.timeline));
        let resumed = resume::go_on(&self.directory, left, files, plan, expected)?;
        if plan.rests_on_files() {
            let stored = Position {
                lsn: resumed.end,
                timeline: plan.timeline,
            };
            let history = self.server_history(connection, server).await?;
            check_ancestors(&self.directory, plan.timeline, &history)?;
            let position = server.position();
            match standing(stored, position, &history) {
                Standing::Covers => {}
                Standing::Forked { at, next } => {
                    let fork = Position {
                        lsn: at,
                        timeline: next,
                    };
                    check_unwritten(&self.directory, files, fork, Stage::Partial, server.segment_size)?;
                    self.warn_of_fork(stored, fork);
                    debug!("switched to timeline {next} at {at}");
                    return Ok(Continuation::fresh(server, fork));
                }
                Standing::Behind => return Err(self.behind(connection, server, resumed.end).await?),
                Standing::Earlier => return Err(earlier(server, plan.timeline)),
                Standing::Unrelated => return Err(unrelated(server, plan.timeline)),
            }
        }
        self.overlap(server, plan, resumed)
    }

    /// Goes back a little within the partial, to what is compared first.
    fn overlap(&self, server: &Server, plan: &StartPlan, resumed: Resumed) -> Result<Continuation> {
        let start = resumed.compared_from(plan);
        let Resumed {
            decoder,
            end: right_to,
            unproven,
        } = resumed;
        let (size, end) = (server.segment_size, decoder.position());
        let mut stored = vec![0; end.bytes_since(start) as usize];
        if !stored.is_empty() {
            let name = size.segment_of(start).file_name(plan.timeline, size) + ".partial";
            let file = self.directory.open_file(&name)?;
            let read = file.read_exact_at(&mut stored, size.offset_of(start));
            read.map_err(|error| self.directory.failed("read", &name, &error))?;
        }
        Ok(Continuation {
            position: Position {
                lsn: start,
                timeline: plan.timeline,
            },
            stored,
            decoder,
            right_to,
            unproven,
        })
    }

    pub(super) async fn server_history(
        &self,
        connection: &mut Connection,
        server: &Server,
    ) -> Result<History> {
        let timeline = server.identity.timeline;
        if timeline == Timeline(1) {
            return Ok(History::without_ancestors(timeline));
        }
        let history = self.answer(connection.timeline_history(timeline)).await?;
        history::parse_answer(timeline, &history.content)
    }

    /// The server is on the same timeline and has less than is stored.
    async fn behind(&self, connection: &mut Connection, server: &Server, end: Lsn) -> Result<Error> {
        let message = format!(
            "the server is behind what is stored: its WAL ends at {}, that in directory \"{}\" at {end}",
            server.identity.flushed,
            self.directory.path().display()
        );
        if self.answer(is_in_recovery(connection)).await? {
            return Ok(Error::lacking(message).with_detail(
                "It is a standby and may catch up. Until then nothing is received or changed.",
            ));
        }
        // It may have been a standby when it was asked for its position; recovery ends with a new timeline.
        let now = self.answer(connection.identify_system()).await?;
        if now.timeline != server.identity.timeline {
            return Ok(Error::lacking(message).with_detail(format!(
                "It has been promoted to timeline {} since then. Nothing was changed.",
                now.timeline
            )));
        }
        Ok(Error::directory(message)
            .with_detail("It is a primary, so it has lost what was received from it. Nothing was changed.")
            .with_hint("If it was restored from an earlier state, receive from it into another directory."))
    }

    /// The next timeline began before the end of what is stored: the standby that became the primary had not received, or
    /// not replayed, all that was received here. It is said once, not with each attempt to follow.
    pub(super) fn warn_of_fork(&mut self, stored: Position, fork: Position) {
        let Position { lsn: end, timeline } = stored;
        if fork.lsn >= end || self.told_fork.replace(fork) == Some(fork) {
            return;
        }
        warn!(
            detail = %format!(
                "What lies between, {} bytes, was received and perhaps acknowledged, and this server does not have \
                 it. It stays where it is, in the files of timeline {timeline}.",
                end.bytes_since(fork.lsn)
            ),
            "the server went on with timeline {} at {}, before the end of what is stored at {end}",
            fork.timeline,
            fork.lsn
        );
    }

    /// The stream showed that the server has another log.
    pub(super) fn diverged(&self, server: &Server, timeline: Timeline, at: Lsn) -> Error {
        let size = server.segment_size;
        let name = size.segment_of(at).file_name(timeline, size) + ".partial";
        Error::directory(format!("the server's WAL is not what is stored, from {at} on"))
            .with_detail(format!(
                "\"{}\" holds other WAL of the same system and timeline at offset {}. Nothing was changed, and nothing \
                 acknowledged.",
                self.directory.path_of(&name),
                size.offset_of(at)
            ))
            .with_hint("If the server was restored from an earlier state, receive from it into another directory.")
    }
}

impl StartPlan {
    /// Whether files decided where streaming starts.
    fn rests_on_files(&self) -> bool {
        matches!(
            self.case,
            Case::AtPartial | Case::AfterComplete | Case::RefetchDamaged
        )
    }
}

fn unrelated(server: &Server, timeline: Timeline) -> Error {
    let theirs = server.identity.timeline;
    Error::directory(format!(
        "timeline {timeline}, which is stored, is not in the history of the server's timeline {theirs}"
    ))
    .with_detail("What is stored went on where the server's history did not. Nothing was changed.")
    .with_hint("Connect to a server that has it, or receive from this one into another directory.")
}
