//! What a stream is given, what it shows, and what it leaves.

use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::BytesMut;

use super::buffer::Slots;
use super::durable;
use super::stop::Stop;
use super::tls::Session;
use crate::core::lsn::Lsn;
use crate::core::order::Ending;
use crate::core::spin::SpinLimit;
use crate::core::telemetry::Telemetry;
use crate::core::wal::decoder::Decoder;

/// What a stream shows while it runs.
pub trait Watch {
    /// So much arrived, and so far the server is; `elapsed` since the stream began.
    fn progress(&mut self, elapsed: Duration, received: Lsn, server_end: Lsn);
    /// A segment is complete up to `end`.
    fn finished(&mut self, end: Lsn);
    /// The server sent a notice (a NoticeResponse without its head).
    fn notice(&mut self, body: &[u8]);
}

/// A connection's way to the server, while a stream has it.
pub struct Channel {
    /// The socket, in blocking mode.
    pub socket: OwnedFd,
    /// The records on it, where the connection is encrypted.
    pub tls: Option<Box<Session>>,
    /// What was read (and opened) already and not used.
    pub unread: BytesMut,
}

/// What outlives a stream.
pub struct Shared<'a> {
    /// The memory.
    pub slots: &'a mut Slots,
    /// What other threads see.
    pub telemetry: &'a Telemetry,
    /// The operator's wish.
    pub stop: &'a Stop,
    /// How a durable write is made.
    pub durable_method: durable::Method,
    /// Whether waiting for the next commit is worth a processor.
    pub spin: SpinLimit,
    /// What the operator sees.
    pub watch: &'a mut dyn Watch,
}

/// How a stream ended.
pub struct Ended {
    /// Why.
    pub ending: Ending,
    /// Where.
    pub received: Lsn,
    /// The way to the server, still open. What was read from it belongs to whoever runs commands next.
    pub channel: Channel,
    /// So many bytes of these and those to come are the rest of a message.
    pub missing: u64,
    /// The partial that stays.
    pub partial: Option<String>,
    /// What looked at the log, where the next stream can go on.
    pub decoder: Option<Decoder>,
}
