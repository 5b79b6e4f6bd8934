//! TLS records: what follows the handshake, for commands and for the stream alike.
//!
//! rustls shakes hands, checks who the server is and keeps the keys, and its ciphers seal and open every record. What
//! is here is the way of the bytes, which a general library cannot know: a record is opened where it was read to, and its
//! content is copied once, to where it belongs. (rustls's own connection would copy it into a vector of its own first.)
//!
//! Nothing is read or written here: [`super::link`] does that while WAL flows, `edge::wire` before and after.
//!
//! Source: RFC 8446 (TLS 1.3), sections 4.6, 5 and 6; RFC 5246 (TLS 1.2), section 6.2.

use std::io;
use std::ops::Range;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::crypto::cipher::{
    InboundOpaqueMessage, MessageDecrypter, MessageEncrypter, OutboundChunks, OutboundPlainMessage,
};
use rustls::kernel::KernelConnection;
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, HandshakeType, ProtocolVersion,
    SupportedCipherSuite,
};

use crate::error::{Error, Result};

/// Length of a record's type, version and length, in bytes.
const HEADER: usize = 5;

/// The longest record, behind its header, in bytes: 16 KiB and what sealing adds.
const LONGEST: usize = (16 << 10) + 256;

/// The longest content of a record, in bytes.
const LONGEST_CONTENT: usize = 16 << 10;

/// How much is read at once, in bytes. More would not stay in the processor's cache until it is opened.
const READ_SIZE: usize = 256 << 10;

/// The server's handshake messages may take so many bytes; those that follow a handshake are short.
const LONGEST_HANDSHAKE: usize = 32 << 10;

/// So many records in a row may have no content: an honest server sends none.
const MOST_WITHOUT_CONTENT: u32 = 32;

/// After so many cipher blocks new keys are taken: AES-GCM is sound for 2^24.5 full records of 2^10 blocks (RFC 8446, section 5.5).
const MOST_BLOCKS: u64 = 1 << 34;

/// Bytes of a cipher block.
const BLOCK: usize = 16;

/// Memory for what is read and not opened yet. It moves out of the session while the kernel reads into it.
pub struct Sealed {
    memory: Box<[u8]>,
    /// What was read and not opened.
    filled: Range<usize>,
}

impl Sealed {
    fn new() -> Sealed {
        Sealed {
            memory: vec![0; READ_SIZE + HEADER + LONGEST].into_boxed_slice(),
            filled: 0..0,
        }
    }

    /// Where to read to.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.memory[self.filled.end..]
    }

    /// So many bytes were read there.
    pub fn arrived(&mut self, count: usize) {
        self.filled.end += count;
    }

    /// The next record's place, if all of it is there. Fails if it is none.
    fn next_record(&self) -> Result<Option<Range<usize>>> {
        let Some(&[_, major, minor, high, low]) = self.memory[self.filled.clone()].first_chunk::<HEADER>()
        else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if (major, minor) != (3, 3) || length > LONGEST {
            return Err(broken("wrong version number"));
        }
        let end = self.filled.start + HEADER + length;
        Ok((end <= self.filled.end).then_some(self.filled.start..end))
    }

    /// Makes room behind what is there: the beginning of a record at most.
    fn make_room(&mut self) {
        if self.filled.start > 0 {
            self.memory.copy_within(self.filled.clone(), 0);
            self.filled = 0..self.filled.len();
        }
    }
}

/// One direction's cipher, and how many records it has seen.
struct Direction<C: ?Sized> {
    cipher: Box<C>,
    sequence: u64,
}

impl<C: ?Sized> Direction<C> {
    fn next(&mut self) -> Result<u64> {
        let number = self.sequence;
        self.sequence = number.checked_add(1).ok_or_else(|| broken("too many records"))?;
        Ok(number)
    }
}

/// The records of one connection.
pub struct Session {
    keys: KernelConnection<ClientConnectionData>,
    opening: Direction<dyn MessageDecrypter>,
    sealing: Direction<dyn MessageEncrypter>,
    /// Cipher blocks sealed with these keys.
    blocks: u64,
    sealed: Option<Sealed>,
    /// What of an opened record was not taken yet: its place in the memory.
    plain: Range<usize>,
    /// A handshake message that has not come in whole.
    handshake: Vec<u8>,
    /// Records that the server is owed, sealed.
    replies: Vec<u8>,
    /// Records in a row that had no content.
    without_content: u32,
    closed: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session(_)")
    }
}

impl Session {
    /// Goes on where a handshake ended; `unread` was read behind it.
    pub fn new(connection: UnbufferedClientConnection, unread: &[u8]) -> Result<Box<Session>> {
        let (secrets, keys) = connection.dangerous_into_kernel_connection().map_err(refused)?;
        let suite = keys.negotiated_cipher_suite();
        let mut sealed = Sealed::new();
        let space = sealed.space().get_mut(..unread.len());
        space
            .ok_or_else(|| broken("too much data behind the handshake"))?
            .copy_from_slice(unread);
        sealed.arrived(unread.len());
        Ok(Box::new(Session {
            opening: Direction {
                cipher: decrypter(suite, secrets.rx.1),
                sequence: secrets.rx.0,
            },
            sealing: Direction {
                cipher: encrypter(suite, secrets.tx.1),
                sequence: secrets.tx.0,
            },
            keys,
            blocks: 0,
            sealed: Some(sealed),
            plain: 0..0,
            handshake: Vec::new(),
            replies: Vec::new(),
            without_content: 0,
            closed: false,
        }))
    }

    // ---- in ----

    /// Takes the memory for a read. Until it is back, nothing can be opened.
    ///
    /// # Panics
    /// If a read has it: then two were about to share it.
    pub fn lend_memory(&mut self) -> Sealed {
        let mut sealed = self.sealed.take().expect("the memory has one owner");
        debug_assert!(
            self.plain.is_empty(),
            "what was opened is taken before more is read"
        );
        sealed.make_room();
        sealed
    }

    /// Takes the memory back, with what was read.
    pub fn return_memory(&mut self, sealed: Sealed) {
        self.sealed = Some(sealed);
    }

    /// Whether something can be opened without reading more. The end counts, and a broken record: opening them tells.
    pub fn has_more(&self) -> bool {
        let whole = |sealed: &Sealed| sealed.next_record().map_or(true, |record| record.is_some());
        !self.plain.is_empty() || self.closed || self.sealed.as_ref().is_some_and(whole)
    }

    /// Whether the server has ended its side, properly.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Copies content to `target`, as much as was read and fits; zero: nothing is there (see [`Session::is_closed`]).
    ///
    /// Fails for what the server did not seal, and for what does not belong behind a handshake.
    pub fn take(&mut self, target: &mut [u8]) -> Result<usize> {
        let mut taken = 0;
        while taken < target.len() {
            if self.plain.is_empty() && !self.open_next()? {
                break;
            }
            let sealed = self.sealed.as_ref().expect("the memory is here");
            let count = self.plain.len().min(target.len() - taken);
            let content = &sealed.memory[self.plain.start..self.plain.start + count];
            target[taken..taken + count].copy_from_slice(content);
            self.plain.start += count;
            taken += count;
        }
        Ok(taken)
    }

    /// Opens records up to the next that has content; false: there is none.
    fn open_next(&mut self) -> Result<bool> {
        while !self.closed {
            let sealed = self.sealed.as_mut().expect("the memory is here");
            let Some(record) = sealed.next_record()? else {
                return Ok(false);
            };
            sealed.filled.start = record.end;
            if sealed.filled.is_empty() {
                sealed.filled = 0..0;
            }
            // In TLS 1.3 the outer type is always this one. rustls takes it for granted.
            let is_opaque = sealed.memory[record.start] == u8::from(ContentType::ApplicationData);
            if self.keys.protocol_version() == ProtocolVersion::TLSv1_3 && !is_opaque {
                return Err(broken("unexpected message"));
            }
            let (kind, content) = open(&mut self.opening, &mut sealed.memory, record)?;
            match kind {
                ContentType::ApplicationData if !content.is_empty() => {
                    self.without_content = 0;
                    self.plain = content;
                    return Ok(true);
                }
                ContentType::ApplicationData => {}
                ContentType::Alert => {
                    let alert = sealed.memory[content].to_vec();
                    self.heed(&alert)?;
                }
                ContentType::Handshake => {
                    let part = sealed.memory[content].to_vec();
                    self.shake_hands(&part)?;
                }
                _ => return Err(broken("unexpected message")),
            }
            self.without_content += 1;
            if self.without_content > MOST_WITHOUT_CONTENT {
                return Err(broken("too many records without content"));
            }
        }
        Ok(false)
    }

    fn heed(&mut self, alert: &[u8]) -> Result<()> {
        let &[_, description] = alert else {
            return Err(broken("bad length of an alert"));
        };
        match AlertDescription::from(description) {
            AlertDescription::CloseNotify => {
                self.closed = true;
                Ok(())
            }
            // A server that wants no more of this session; it will say so, or close.
            AlertDescription::UserCanceled => Ok(()),
            other => Err(alerted(other)),
        }
    }

    /// Handshake messages behind the handshake: tickets, which are not used, and new keys.
    fn shake_hands(&mut self, part: &[u8]) -> Result<()> {
        self.handshake.extend_from_slice(part);
        while let Some(&[kind, a, b, c]) = self.handshake.first_chunk::<4>() {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if length > LONGEST_HANDSHAKE {
                return Err(broken("excessive message size"));
            }
            if self.handshake.len() < 4 + length {
                break;
            }
            let message: Vec<u8> = self.handshake.drain(..4 + length).collect();
            match (HandshakeType::from(kind), self.keys.protocol_version()) {
                (HandshakeType::NewSessionTicket, ProtocolVersion::TLSv1_3) => {}
                // A question that may be ignored (RFC 5246, section 7.4.1.1); PostgreSQL never asks it.
                (HandshakeType::HelloRequest, ProtocolVersion::TLSv1_2) => {}
                (HandshakeType::KeyUpdate, ProtocolVersion::TLSv1_3) if self.handshake.is_empty() => {
                    self.change_keys(&message[4..])?;
                }
                _ => return Err(broken("unexpected message")),
            }
        }
        Ok(())
    }

    /// The server seals with new keys from here on, and perhaps wants us to do so, too.
    fn change_keys(&mut self, request: &[u8]) -> Result<()> {
        let wants_ours = match request {
            [0] => false,
            [1] => true,
            _ => return Err(broken("bad key update")),
        };
        let (sequence, secrets) = self.keys.update_rx_secret().map_err(refused)?;
        self.opening = Direction {
            cipher: decrypter(self.keys.negotiated_cipher_suite(), secrets),
            sequence,
        };
        // One answer to any number of requests that wait for one.
        if wants_ours && self.replies.is_empty() {
            self.replies = self.renew()?;
        }
        Ok(())
    }

    // ---- out ----

    /// Records that have to be sent before anything else is sealed.
    pub fn take_replies(&mut self) -> Option<Vec<u8>> {
        Some(std::mem::take(&mut self.replies)).filter(|replies| !replies.is_empty())
    }

    /// Seals bytes to be sent.
    pub fn seal(&mut self, plain: &[u8]) -> Result<Vec<u8>> {
        let mut records = std::mem::take(&mut self.replies);
        if self.blocks >= MOST_BLOCKS {
            records.extend(self.renew()?);
        }
        for content in plain.chunks(LONGEST_CONTENT) {
            self.seal_record(ContentType::ApplicationData, content, &mut records)?;
        }
        Ok(records)
    }

    /// As if as much had been sealed as one key is good for.
    #[cfg(test)]
    pub fn wear_out(&mut self) {
        self.blocks = MOST_BLOCKS;
    }

    /// Says that nothing more will be sent.
    pub fn seal_end(&mut self) -> Result<Vec<u8>> {
        let mut records = Vec::new();
        self.seal_record(ContentType::Alert, &[1, 0], &mut records)?;
        Ok(records)
    }

    /// A record that announces new keys; what is sealed behind it is sealed with them.
    fn renew(&mut self) -> Result<Vec<u8>> {
        if self.keys.protocol_version() != ProtocolVersion::TLSv1_3 {
            return Err(Error::connection(
                "as much was sent as TLS 1.2 can keep secret with one key; connecting anew",
            ));
        }
        let mut record = Vec::new();
        self.seal_record(ContentType::Handshake, &[24, 0, 0, 1, 0], &mut record)?;
        let (sequence, secrets) = self.keys.update_tx_secret().map_err(refused)?;
        self.sealing = Direction {
            cipher: encrypter(self.keys.negotiated_cipher_suite(), secrets),
            sequence,
        };
        self.blocks = 0;
        Ok(record)
    }

    fn seal_record(&mut self, typ: ContentType, content: &[u8], records: &mut Vec<u8>) -> Result<()> {
        self.blocks += (content.len() / BLOCK + 2) as u64;
        let message = OutboundPlainMessage {
            typ,
            version: ProtocolVersion::TLSv1_2,
            payload: OutboundChunks::Single(content),
        };
        let number = self.sealing.next()?;
        let record = self.sealing.cipher.encrypt(message, number).map_err(refused)?;
        records.extend(record.encode());
        Ok(())
    }
}

/// Opens a record in place: what it is, and where its content lies.
fn open(
    opening: &mut Direction<dyn MessageDecrypter>,
    memory: &mut [u8],
    record: Range<usize>,
) -> Result<(ContentType, Range<usize>)> {
    let typ = ContentType::from(memory[record.start]);
    let base = memory.as_ptr().addr();
    let body = &mut memory[record.start + HEADER..record.end];
    let message = InboundOpaqueMessage::new(typ, ProtocolVersion::TLSv1_2, body);
    let opened = opening.cipher.decrypt(message, opening.sequence);
    let opened = opened.map_err(|_| broken("decryption failed or bad record mac"))?;
    let start = opened.payload.as_ptr().addr() - base;
    let (typ, content) = (opened.typ, start..start + opened.payload.len());
    opening.next()?;
    Ok((typ, content))
}

fn decrypter(suite: SupportedCipherSuite, secrets: ConnectionTrafficSecrets) -> Box<dyn MessageDecrypter> {
    let (key, iv, fixed) = parts(secrets);
    match suite {
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.decrypter(key, iv),
        SupportedCipherSuite::Tls12(suite) => suite.aead_alg.decrypter(key, &iv.as_ref()[..fixed]),
    }
}

fn encrypter(suite: SupportedCipherSuite, secrets: ConnectionTrafficSecrets) -> Box<dyn MessageEncrypter> {
    let (key, iv, fixed) = parts(secrets);
    match suite {
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
        SupportedCipherSuite::Tls12(suite) => {
            let (fixed, explicit) = iv.as_ref().split_at(fixed);
            suite.aead_alg.encrypter(key, fixed, explicit)
        }
    }
}

/// Key, nonce, and how many bytes of that are fixed in TLS 1.2: there GCM sends the others along.
fn parts(
    secrets: ConnectionTrafficSecrets,
) -> (rustls::crypto::cipher::AeadKey, rustls::crypto::cipher::Iv, usize) {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } | ConnectionTrafficSecrets::Aes256Gcm { key, iv } => {
            (key, iv, 4)
        }
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
            let length = iv.as_ref().len();
            (key, iv, length)
        }
        _ => unreachable!("rustls has no other ciphers"),
    }
}

fn broken(reason: &str) -> Error {
    Error::connection(format!("SSL error: {reason}"))
}

fn refused(error: rustls::Error) -> Error {
    broken(&error.to_string())
}

/// The server ends the session, and says why.
pub fn alerted(alert: AlertDescription) -> Error {
    let name = alert.as_str().unwrap_or("unknown").replace('_', " ");
    broken(&format!("the server sent the alert \"{name}\""))
}

/// An error of a session, for calls that are about sockets.
pub fn as_io(error: Error) -> io::Error {
    io::Error::other(error.to_string())
}
