//! What a stream is told, what it orders, and how it ends.

use std::ops::Range;
use std::time::Duration;

use bytes::BytesMut;

use super::demand::Durability;
use super::lsn::{Lsn, SegmentNumber, SegmentSize};
use super::measure::Measure;
use super::message::Status;
use super::spread::Spread;
use super::wal::decoder::Decoder;
use super::wal::fault::Fault;
use super::writes::Slot;
use crate::error::Error;

/// What a stream is to do.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes in a segment.
    pub segment_size: SegmentSize,
    /// Bytes in a block: what the disk takes as one; offsets and lengths of writes are multiples of it.
    pub block: u64,
    /// Number of slots.
    pub slots: usize,
    /// Bytes of WAL that a slot can hold; a multiple of `block`.
    pub window: usize,
    /// When received WAL is made durable.
    pub durability: Durability,
    /// Whether the server is told what is durable. False for a receiver that neither has a slot nor
    /// is synchronous: it must never be taken for a synchronous standby.
    pub claims_flush: bool,
    /// A status is sent at least so often.
    pub status_interval: Option<Duration>,
    /// A server that is silent for so long, although asked for an answer at half of it, is given up.
    pub receive_timeout: Option<Duration>,
    /// Stop once a message ends behind this position.
    pub end_position: Option<Lsn>,
    /// Where streaming starts. Within a segment, its file holds what lies before.
    pub start: Lsn,
    /// What the server had before the stream began ends here: nobody waits for that.
    pub backlog_end: Lsn,
    /// What the file holds from `start` on and the server is expected to send again: it is compared, and
    /// nothing is written or claimed before that is done. With a block more it fits into a slot, and it
    /// lies in one segment.
    pub stored: Vec<u8>,
    /// The stream is over once that was found the same: nothing is written or claimed.
    pub only_compares: bool,
    /// What looks at the received log, at the end of `stored`; `None`: nothing does.
    pub decoder: Option<Decoder>,
    /// Before this position the first segment's file already holds bytes that must not be lost.
    pub preserve_end: Lsn,
    /// The first segment's file already has its name, durably.
    pub named: bool,
}

/// A read of the socket that the core asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The slot to read into.
    pub slot: Slot,
    /// Where in the slot.
    pub range: Range<usize>,
    /// The server has said that it has as many bytes: a read may wait for all of them.
    pub certain: bool,
    /// The range is to be read to in pieces, each behind a head that goes elsewhere.
    pub spread: Option<Spread>,
}

/// An order to the driver.
#[derive(Debug)]
pub enum Output {
    /// Call [`super::receiver::Receiver::carry`] with both slots: receiving goes on in `to`.
    Carry {
        /// The slot that was received into; it will be written.
        from: Slot,
        /// The slot where receiving goes on.
        to: Slot,
    },
    /// Withdraw the read of the socket and report what became of it.
    CancelReceive,
    /// Write, and report with [`super::receiver::Receiver::written`].
    Write(Write),
    /// Sync the segment's file, and report with [`super::receiver::Receiver::synced`].
    Sync(SegmentNumber),
    /// Give the segment's file its name with `.partial`, sync the directory, and report with
    /// [`super::receiver::Receiver::named`].
    Name(SegmentNumber),
    /// The segment is complete: take `.partial` from its name; if `next`, give the next segment's
    /// file its name; sync the directory once, and report with [`super::receiver::Receiver::finished`].
    Finish {
        /// The complete segment.
        segment: SegmentNumber,
        /// Whether the next one has data already.
        next: bool,
    },
    /// The segment's file is not needed any more.
    Close(SegmentNumber),
    /// Send a status.
    Status(Status),
    /// Send the end of our side of the COPY.
    CopyDone,
    /// Something was measured.
    Measured(Measure),
    /// A transaction is durable whose commit has this time by the server's clock, in microseconds since
    /// 2000-01-01 UTC.
    Committed(i64),
    /// The server said something (a NoticeResponse without its head).
    Notice(BytesMut),
    /// Everything is done; see [`super::receiver::Receiver::into_ending`].
    End,
}

/// A write of a part of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The slot.
    pub slot: Slot,
    /// Bytes of the slot to write, whole blocks.
    pub range: Range<usize>,
    /// Position of the first byte written.
    pub position: Lsn,
    /// The write must be durable when it ends.
    pub durable: bool,
    /// The last block must keep what the file holds from this offset of the slot on.
    pub keep_from: Option<usize>,
}

/// Why a stream ended.
#[derive(Debug)]
pub enum Ending {
    /// The operator asked for it.
    Stopped,
    /// The end position was passed.
    EndPosition,
    /// The server ended its side of the COPY: the end of a timeline. Ours is ended too.
    CopyDone,
    /// The server left the COPY: a clean shutdown.
    EndOfCopy,
    /// An ErrorResponse, without its head.
    ServerError(BytesMut),
    /// What arrived is not what a server writes. Nothing from there on is acknowledged.
    Damaged(Fault),
    /// From here on the server's WAL is not what is stored: it is another log. Nothing was written or
    /// claimed.
    Diverged(Lsn),
    /// The server has what is stored, and no more was asked. Nothing was written or claimed.
    Same,
    /// The stream broke, or broke the protocol.
    Failed(Error),
}

impl Ending {
    /// Whether the server still listens to us.
    pub(super) fn is_orderly(&self) -> bool {
        matches!(
            self,
            Ending::Stopped
                | Ending::EndPosition
                | Ending::CopyDone
                | Ending::Damaged(_)
                | Ending::Diverged(_)
                | Ending::Same
        )
    }
}
