//! What a server says: messages with the time of their sending.

use std::time::Duration;

use bytes::Bytes;
use walring::core::lsn::Lsn;

use super::{START, offset, wal};

/// One message on its way.
#[derive(Debug, Clone)]
pub struct Message {
    /// When it is sent.
    pub sent: Duration,
    /// Its bytes; none: the server closes the connection.
    pub raw: Vec<u8>,
    /// How many bytes at its end are WAL.
    pub payload: usize,
}

/// A server's side of a stream, built message by message.
#[derive(Debug, Clone)]
pub struct Stream {
    /// All the WAL there is, from [`START`] on.
    pub content: Bytes,
    /// Where the WAL sent begins.
    pub start: Lsn,
    /// The messages in their order.
    pub messages: Vec<Message>,
    /// The end of the WAL sent.
    pub end: Lsn,
    /// How far the server says it could send, unless it has sent more.
    pub server_end: Lsn,
    /// When the next message is sent.
    pub clock: Duration,
}

impl Stream {
    /// A silent server.
    pub fn new() -> Stream {
        Stream::from(Bytes::from_static(wal()), START)
    }

    /// A silent server with this WAL, which is to be sent from `start` on.
    pub fn from(content: Bytes, start: Lsn) -> Stream {
        Stream {
            content,
            start,
            messages: Vec::new(),
            end: start,
            server_end: start,
            clock: Duration::ZERO,
        }
    }

    /// All bytes in one piece.
    pub fn raw(&self) -> Vec<u8> {
        self.messages
            .iter()
            .flat_map(|message| message.raw.clone())
            .collect()
    }

    /// The next message is sent so much later.
    pub fn wait(&mut self, time: Duration) -> &mut Stream {
        self.clock += time;
        self
    }

    /// WAL messages say from now on that the server is `bytes` ahead of what was sent till now.
    pub fn ahead(&mut self, bytes: u64) -> &mut Stream {
        self.server_end = self.end.advanced_by(bytes);
        self
    }

    /// The next `bytes` of WAL in one message.
    pub fn wal(&mut self, bytes: usize) -> &mut Stream {
        let from = offset(self.end);
        let start = self.end;
        self.end = self.end.advanced_by(bytes as u64);
        let server_end = self.server_end.max(self.end);
        let payload = self.content.slice(from..from + bytes);
        self.wal_message(start, server_end, &payload)
    }

    /// A WAL message with any content. The server's clock began with the stream.
    pub fn wal_message(&mut self, start: Lsn, server_end: Lsn, payload: &[u8]) -> &mut Stream {
        let mut body = vec![b'w'];
        body.extend(start.0.to_be_bytes());
        body.extend(server_end.0.to_be_bytes());
        body.extend((self.clock.as_micros() as u64).to_be_bytes());
        body.extend(payload);
        self.message(b'd', &body);
        self.messages.last_mut().expect("just added").payload = payload.len();
        self
    }

    /// A keepalive that says how far the server could send.
    pub fn keepalive(&mut self, reply_requested: bool) -> &mut Stream {
        let body = keepalive_body(self.server_end.max(self.end), reply_requested);
        self.message(b'd', &body)
    }

    /// A NoticeResponse.
    pub fn notice(&mut self) -> &mut Stream {
        self.message(b'N', b"SNOTICE\0Mhello\0\0")
    }

    /// A ParameterStatus.
    pub fn parameter(&mut self) -> &mut Stream {
        self.message(b'S', b"TimeZone\0UTC\0")
    }

    /// An ErrorResponse.
    pub fn error(&mut self) -> &mut Stream {
        self.message(b'E', b"SFATAL\0C57P01\0\0")
    }

    /// The end of the server's side of the COPY.
    pub fn copy_done(&mut self) -> &mut Stream {
        self.message(b'c', b"")
    }

    /// The end of the command: the server shuts down.
    pub fn command_complete(&mut self) -> &mut Stream {
        self.message(b'C', b"COPY 0\0")
    }

    /// The server closes the connection.
    pub fn close(&mut self) -> &mut Stream {
        self.bytes(Vec::new())
    }

    /// Any message.
    pub fn message(&mut self, tag: u8, body: &[u8]) -> &mut Stream {
        let mut raw = vec![tag];
        raw.extend((4 + body.len() as u32).to_be_bytes());
        raw.extend(body);
        self.bytes(raw)
    }

    /// Any bytes.
    pub fn bytes(&mut self, raw: Vec<u8>) -> &mut Stream {
        self.messages.push(Message {
            sent: self.clock,
            raw,
            payload: 0,
        });
        self
    }
}

/// The content of a keepalive's CopyData.
pub fn keepalive_body(server_end: Lsn, reply_requested: bool) -> Vec<u8> {
    let mut body = vec![b'k'];
    body.extend(server_end.0.to_be_bytes());
    body.extend(0u64.to_be_bytes());
    body.push(u8::from(reply_requested));
    body
}
