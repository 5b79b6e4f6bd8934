//! Receiving the beginning of a partial once more, where nothing here tells whether it is all there: it is the rest of a
//! record whose beginning was moved away with the segment before, or never was here.
//!
//! Of such a rest no CRC can be computed, and a crash in the middle of a catch-up may have left holes in it. The server is
//! asked for it, in two streams before the real one: the first only compares what is proven behind the rest, for a server
//! that was restored from its past must not write over what was acknowledged; the second receives the rest.

use tracing::debug;

use super::connection::Connection;
use super::continuation::Continuation;
use super::replication::StreamEnd;
use super::session::{Next, Receiving, Server, Until, terminated};
use crate::core::lsn::Lsn;
use crate::core::start::SegmentFile;
use crate::error::{Error, Result};
use crate::ring::contract::Ended;

impl Receiving<'_> {
    /// Receives the partial's beginning again, up to `end`, if the server has what is stored behind it. False: the
    /// operator wants the end.
    pub(super) async fn receive_rest(
        &mut self,
        connection: &mut Connection,
        server: &Server,
        files: &[SegmentFile],
        from: Continuation,
        end: Lsn,
    ) -> Result<bool> {
        let timeline = from.position.timeline;
        let rest = Continuation::fresh(server, from.position);
        debug!(
            "receiving the WAL from {} to {end} (timeline {timeline}) again: the segment before is not here to check it",
            rest.position.lsn
        );
        self.fetch_history(connection, server, files, timeline).await?;
        for (from, until) in [(from, Until::Same), (rest, Until::Position(end))] {
            match self.stream(connection, server, files, from, until).await? {
                Next::Command => {}
                Next::Nothing => return Ok(false),
                Next::Timeline(next) => {
                    return Err(Error::protocol(format!(
                        "server ended timeline {timeline} at {}, before what it was found to have",
                        next.lsn
                    )));
                }
            }
        }
        Ok(true)
    }

    /// The part that was wanted has come: the next command follows on the same connection.
    pub(super) async fn end_part(&self, connection: &mut Connection, ended: Ended) -> Result<Next> {
        connection.attach(ended.channel)?;
        // What is under way on a slow link may take longer than the receive timeout, one message may not.
        self.answer(connection.skip(ended.missing)).await?;
        while self.answer(connection.skip_copy_data()).await? {}
        match self.answer(connection.finish_streaming()).await? {
            StreamEnd::Stopped | StreamEnd::EndOfTimeline { .. } => Ok(Next::Command),
            StreamEnd::Shutdown => Err(terminated()),
        }
    }
}
