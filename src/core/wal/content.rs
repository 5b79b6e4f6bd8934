//! What records say.

use super::page::u64_at;
use super::record::{RECORD_HEADER, Record, ResourceManager};

const ID_ORIGIN: u8 = 253;
const ID_TOPLEVEL_TRANSACTION: u8 = 252;
const ID_DATA_SHORT: u8 = 255;
const ID_DATA_LONG: u8 = 254;

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// COMMIT.
    Commit,
    /// COMMIT PREPARED.
    CommitPrepared,
    /// ABORT.
    Abort,
    /// ROLLBACK PREPARED.
    AbortPrepared,
}

impl Completion {
    /// How this record ends a transaction, if it does.
    pub fn of(record: &Record) -> Option<Completion> {
        if record.header.manager != ResourceManager::TRANSACTION {
            return None;
        }
        match record.header.info & 0x70 {
            0x00 => Some(Completion::Commit),
            0x20 => Some(Completion::Abort),
            0x30 => Some(Completion::CommitPrepared),
            0x40 => Some(Completion::AbortPrepared),
            _ => None,
        }
    }

    /// Whether the transaction's work counts.
    pub fn is_commit(self) -> bool {
        matches!(self, Completion::Commit | Completion::CommitPrepared)
    }
}

/// The main data of a record that refers to no blocks, as those of transactions do not: as much of it as
/// was kept.
pub fn main_data<'a>(record: &Record<'a>) -> Option<&'a [u8]> {
    let mut chunk = record.bytes.get(RECORD_HEADER..)?;
    loop {
        let (&id, rest) = chunk.split_first()?;
        chunk = match id {
            ID_ORIGIN => rest.get(2..)?,
            ID_TOPLEVEL_TRANSACTION => rest.get(4..)?,
            ID_DATA_SHORT => return rest.get(1..),
            ID_DATA_LONG => return rest.get(4..),
            _ => return None,
        };
    }
}

/// When the transaction ended, by the server's clock: microseconds since 2000-01-01 UTC.
pub fn completion_time(record: &Record) -> Option<i64> {
    let data = main_data(record)?;
    (data.len() >= 8).then(|| u64_at(data, 0).cast_signed())
}
