//! What a receiver acknowledges, read from the bytes it sends: independent of walring, and of the server.

use rustix::time::{ClockId, clock_gettime};

use super::lsn::Lsn;

/// Stands where the protocol's version does in a startup message. The server has no TLS, so the messages go on in plain.
const SSL_REQUEST: [u8; 4] = [4, 210, 22, 47];

/// A flush position that the receiver has sent.
#[derive(Debug, Clone, Copy)]
pub struct Acknowledged {
    /// Over which connection of the relay, counted from one.
    pub connection: u64,
    /// When it arrived, CLOCK_MONOTONIC in nanoseconds.
    pub at_ns: u64,
    pub flushed: Lsn,
}

/// Reads one connection's messages, in whatever pieces they come.
#[derive(Debug)]
pub struct Statuses {
    connection: u64,
    /// The startup message has no type, unlike all that follow; nor has a request for encryption before it.
    started: bool,
    unread: Vec<u8>,
}

impl Statuses {
    /// Of a connection that begins.
    pub fn of(connection: u64) -> Statuses {
        Statuses {
            connection,
            started: false,
            unread: Vec::new(),
        }
    }

    /// Reads more bytes of the client, and notes the flush positions that are complete with them.
    pub fn read(&mut self, bytes: &[u8], noted: &mut Vec<Acknowledged>) {
        self.unread.extend(bytes);
        loop {
            let head = usize::from(self.started);
            let Some(length) = self.unread.get(head..head + 4) else {
                return;
            };
            let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
            if self.unread.len() < head + length {
                return;
            }
            let message: Vec<u8> = self.unread.drain(..head + length).collect();
            if self.started {
                noted.extend(self.flush_position(&message));
            }
            self.started |= message[4..] != SSL_REQUEST;
        }
    }

    /// Of a standby status update in CopyData: `d`, length, `r`, written, flushed, applied, time, whether to reply.
    /// A flush position of zero claims nothing.
    fn flush_position(&self, message: &[u8]) -> Option<Acknowledged> {
        let is_status = message.len() == 39 && message[0] == b'd' && message[5] == b'r';
        let flushed = is_status.then(|| u64::from_be_bytes(message[14..22].try_into().unwrap()));
        let now = clock_gettime(ClockId::Monotonic);
        Some(Acknowledged {
            connection: self.connection,
            at_ns: now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64,
            flushed: Lsn(flushed.filter(|&position| position > 0)?),
        })
    }
}
