//! The replication slot of a stream: where it begins, and making it where it is missing.

use tracing::{info, warn};

use super::connection::Connection;
use super::options::SlotMode;
use super::replication::{StartAnswer, is_missing_slot};
use super::session::{Receiving, Server};
use crate::core::start::{Position, SegmentFile};
use crate::error::{Error, Result};

/// Servers from here on tell where a replication slot starts.
const TELLS_SLOT_POSITION: u32 = 150_000;

impl Receiving<'_> {
    /// The slot's restart position, which counts only where the directory does not tell.
    pub(super) async fn slot_position(
        &self,
        connection: &mut Connection,
        server: &Server,
        files: &[SegmentFile],
    ) -> Result<Option<Position>> {
        let asked = self.options.slot.as_deref().filter(|_| files.is_empty());
        let Some(name) = asked.filter(|_| connection.server_version_num() >= TELLS_SLOT_POSITION) else {
            return Ok(None);
        };
        let slot = match self.answer(connection.read_replication_slot(name)).await {
            Err(error) if self.creates_slot(&error) => {
                self.create_slot(connection, name, files).await?;
                self.answer(connection.read_replication_slot(name)).await?
            }
            read => read?,
        };
        let timeline = slot.restart_timeline.unwrap_or(server.identity.timeline);
        Ok(slot.restart_lsn.map(|lsn| Position { lsn, timeline }))
    }

    /// Begins to stream, from the slot if there is one.
    pub(super) async fn start_replication(
        &self,
        connection: &mut Connection,
        files: &[SegmentFile],
        Position { lsn, timeline }: Position,
    ) -> Result<StartAnswer> {
        let slot = self.options.slot.as_deref();
        let answer = self
            .answer(connection.start_replication(slot, lsn, timeline))
            .await;
        match (answer, slot) {
            (Err(error), Some(name)) if self.creates_slot(&error) => {
                self.create_slot(connection, name, files).await?;
                self.answer(connection.start_replication(slot, lsn, timeline))
                    .await
            }
            (answer, _) => answer,
        }
    }

    /// Whether a missing slot is what made a command fail, and is to be created.
    fn creates_slot(&self, error: &Error) -> bool {
        self.options.slot_mode == SlotMode::Create && is_missing_slot(error)
    }

    /// Creates the slot. Where something is stored already, the server may have removed what comes next: it will say
    /// so when that is asked for, and no later stream leaves it out.
    async fn create_slot(
        &self,
        connection: &mut Connection,
        name: &str,
        files: &[SegmentFile],
    ) -> Result<()> {
        let host = connection
            .host()
            .map(|host| format!(" on {} port {}", host.name, host.port));
        let host = host.unwrap_or_default();
        let is_new = self.answer(connection.create_reserving_slot(name)).await?;
        match (is_new, files.is_empty()) {
            (false, _) => {}
            (true, true) => info!("created replication slot \"{name}\"{host}"),
            (true, false) => warn!(
                hint = "If the server has removed that, streaming cannot begin, and says so.",
                "replication slot \"{name}\" did not exist{host} and was created: WAL that is next and older than the \
                 server's last checkpoint is not guaranteed"
            ),
        }
        Ok(())
    }
}
