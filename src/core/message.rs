//! The messages of the streaming protocol that travel inside COPY.
//!
//! Source: PostgreSQL `src/backend/replication/walsender.c` and the documentation's chapter
//! "Streaming Replication Protocol". All integers are big-endian; lengths count themselves.

use super::lsn::Lsn;

/// Bytes of every frame's head: one tag, four of length.
pub const FRAME_HEAD: usize = 5;

/// Bytes before the payload of a WAL message: the frame's head, then type, start, end and send time.
pub const WAL_HEAD: usize = FRAME_HEAD + 25;

/// The head of a WAL message (`w`, XLogData).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalHead {
    /// The position of the payload's first byte.
    pub start: Lsn,
    /// How far the server could send when it sent this.
    pub server_end: Lsn,
    /// When the server sent this, in microseconds since 2000-01-01 UTC.
    pub sent_us: i64,
    /// Bytes of WAL that follow.
    pub payload: u64,
}

impl WalHead {
    /// Reads the head of a WAL message whose frame announces `frame_length` bytes.
    pub fn parse(head: &[u8; WAL_HEAD], frame_length: u32) -> WalHead {
        let at = |offset: usize| Lsn(be_u64(&head[FRAME_HEAD + offset..]));
        let payload = u64::from(frame_length).saturating_sub(4 + 25);
        WalHead {
            start: at(1),
            server_end: at(9),
            sent_us: at(17).0.cast_signed(),
            payload,
        }
    }
}

/// A keepalive of the server (`k`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// How far the server has sent.
    pub server_end: Lsn,
    /// When the server sent this, in microseconds since 2000-01-01 UTC.
    pub sent_us: i64,
    /// The server wants a status now.
    pub reply_requested: bool,
}

impl Keepalive {
    /// Reads a keepalive from the content of its CopyData; `None` if it has another length.
    pub fn parse(content: &[u8]) -> Option<Keepalive> {
        let valid = content.len() == 18 && content[0] == b'k';
        valid.then(|| Keepalive {
            server_end: Lsn(be_u64(&content[1..])),
            sent_us: be_u64(&content[9..]).cast_signed(),
            reply_requested: content[17] != 0,
        })
    }
}

/// What the server is told about our progress (`r`). A position is the last byte's plus one; zero
/// claims nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Handed to the operating system.
    pub written: Lsn,
    /// Durable.
    pub flushed: Lsn,
    /// Ask the server to answer at once.
    pub reply_requested: bool,
}

impl Status {
    /// Bytes of an encoded status, frame included.
    pub const LENGTH: usize = FRAME_HEAD + 34;

    /// The status as CopyData; `clock` is the time in microseconds since 2000-01-01 UTC. Nothing is
    /// ever applied here, so that position is always zero.
    pub fn encode(&self, clock: i64) -> [u8; Status::LENGTH] {
        let mut bytes = [0; Status::LENGTH];
        bytes[0] = b'd';
        bytes[1..5].copy_from_slice(&(4 + 34u32).to_be_bytes());
        bytes[5] = b'r';
        bytes[6..14].copy_from_slice(&self.written.0.to_be_bytes());
        bytes[14..22].copy_from_slice(&self.flushed.0.to_be_bytes());
        bytes[22..30].copy_from_slice(&Lsn::INVALID.0.to_be_bytes());
        bytes[30..38].copy_from_slice(&clock.to_be_bytes());
        bytes[38] = u8::from(self.reply_requested);
        bytes
    }
}

/// The end of our side of the COPY.
pub const COPY_DONE: [u8; FRAME_HEAD] = [b'c', 0, 0, 0, 4];

/// The big-endian number in the first eight bytes.
fn be_u64(bytes: &[u8]) -> u64 {
    bytes[..8]
        .iter()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_its_positions_where_the_server_looks_for_them() {
        let status = Status {
            written: Lsn(0x0102),
            flushed: Lsn(0x0101),
            reply_requested: true,
        };
        let bytes = status.encode(-2);
        assert_eq!(&bytes[..6], b"d\0\0\0\x26r");
        assert_eq!(be_u64(&bytes[6..]), 0x0102);
        assert_eq!(be_u64(&bytes[14..]), 0x0101);
        assert_eq!(be_u64(&bytes[22..]), 0);
        assert_eq!(be_u64(&bytes[30..]) as i64, -2);
        assert_eq!(bytes[38..], [1]);
    }

    #[test]
    fn a_keepalive_of_another_length_is_not_taken_for_one() {
        let mut content = [0; 18];
        content[0] = b'k';
        content[8] = 7;
        content[17] = 1;
        let expected = Keepalive {
            server_end: Lsn(7),
            sent_us: 0,
            reply_requested: true,
        };
        assert_eq!(Keepalive::parse(&content), Some(expected));
        assert_eq!(Keepalive::parse(&content[..17]), None);
    }
}
