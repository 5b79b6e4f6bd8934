//! Whole protocol messages over a socket.

use std::io;
use std::mem;

use bytes::BytesMut;
use postgres_protocol::message::backend::{self, Message};

use crate::edge::report;
use crate::edge::socket::{Socket, Transport};
use crate::error::{Error, Result, system_text};
use crate::ring::contract::Channel;
use crate::ring::tls::{Sealed, Session};

/// Length of a message's tag and length, in bytes.
const HEADER: usize = 5;

/// Longest message accepted from a server that has not let us in yet, in bytes: it may be anything
/// that listens on this port. libpq allows 30000.
const LONGEST_BEFORE_LOGIN: usize = 32 << 10;

/// Longest message accepted after that, in bytes. Only a timeline history file gets long, some
/// hundred bytes for each timeline.
pub const LONGEST: usize = 16 << 20;

/// How much to make room for before each read, in bytes; answers to commands are short.
const READ_SIZE: usize = 8 << 10;

/// CopyBothResponse and NegotiateProtocolVersion, which postgres-protocol does not know.
const COPY_BOTH_TAG: u8 = b'W';
const NEGOTIATE_PROTOCOL_VERSION_TAG: u8 = b'v';

/// A message that the caller must act on.
pub enum Incoming {
    /// The server reports an error.
    Error(Error),
    /// Streaming begins: everything that follows is inside COPY.
    CopyBoth,
    /// Anything else.
    Other(Message),
}

/// A socket that speaks in messages, or the place of one that is lent out.
#[derive(Debug)]
pub struct Wire {
    link: Link,
    /// The records that carry the messages, where the connection is encrypted.
    tls: Option<Box<Session>>,
    /// Received and not consumed yet.
    unread: BytesMut,
    longest: usize,
}

#[derive(Debug)]
enum Link {
    Attached(Socket),
    Detached(Transport),
}

impl Wire {
    /// A wire to a server that has not let us in yet.
    pub fn new(socket: Socket, tls: Option<Box<Session>>) -> Wire {
        Wire {
            link: Link::Attached(socket),
            tls,
            unread: BytesMut::new(),
            longest: LONGEST_BEFORE_LOGIN,
        }
    }

    /// Login is over: the server may send long messages now.
    pub fn allow_long_messages(&mut self) {
        self.longest = LONGEST;
    }

    /// Sends encoded messages.
    pub async fn send(&mut self, messages: &[u8]) -> Result<()> {
        match &mut self.tls {
            None => self.write(messages).await,
            Some(tls) => {
                let records = tls.seal(messages)?;
                self.write(&records).await
            }
        }
    }

    /// Says that nothing more will be sent, where there is a way to say so.
    pub async fn end(&mut self) -> Result<()> {
        let records = self.tls.as_mut().map_or(Ok(Vec::new()), |tls| tls.seal_end())?;
        self.write(&records).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = self.socket()?.write_all(bytes).await;
        sent.map_err(|error| {
            Error::connection(format!("could not send data to server: {}", system_text(&error)))
        })
    }

    /// Waits for the next message; it is an error if the server hangs up instead.
    pub async fn receive(&mut self) -> Result<Incoming> {
        self.receive_or_end().await?.ok_or_else(hung_up)
    }

    /// Drops so many bytes.
    pub async fn skip(&mut self, mut bytes: u64) -> Result<()> {
        while bytes > 0 {
            if self.unread.is_empty() && !self.read_more().await? {
                return Err(hung_up());
            }
            let count = bytes.min(self.unread.len() as u64);
            bytes -= count;
            let _ = self.unread.split_to(count as usize);
        }
        Ok(())
    }

    /// Drops the next message if it belongs to a stream. False: it does not, or the server hangs up.
    pub async fn skip_copy_data(&mut self) -> Result<bool> {
        while !self.holds_whole_message()? {
            if !self.read_more().await? {
                return Ok(false);
            }
        }
        let is_of_stream = self.unread[0] == backend::COPY_DATA_TAG;
        if is_of_stream {
            let length = self.message_length().map_or(0, |length| length + 1);
            let _ = self.unread.split_to(length);
        }
        Ok(is_of_stream)
    }

    /// Waits for the next message; `None` if the server hangs up. Notices are logged here.
    pub async fn receive_or_end(&mut self) -> Result<Option<Incoming>> {
        loop {
            if self.holds_whole_message()? {
                if let Some(incoming) = self.take_message()? {
                    return Ok(Some(incoming));
                }
            } else if !self.read_more().await? {
                return Ok(None);
            }
        }
    }

    /// Lends out the socket, in blocking mode, with what was received and not consumed.
    ///
    /// Fails if it is lent out already, or if the system refuses.
    pub fn detach(&mut self) -> Result<Channel> {
        let transport = self.socket()?.transport();
        let Link::Attached(socket) = mem::replace(&mut self.link, Link::Detached(transport)) else {
            return Err(lent_out());
        };
        Ok(Channel {
            socket: socket.into_blocking().map_err(handover_failed)?,
            tls: self.tls.take(),
            unread: mem::take(&mut self.unread),
        })
    }

    /// Takes the socket back, with what was received and not consumed meanwhile.
    pub fn attach(&mut self, channel: Channel) -> Result<()> {
        let transport = match &self.link {
            Link::Attached(socket) => socket.transport(),
            Link::Detached(transport) => *transport,
        };
        let socket = Socket::from_blocking(channel.socket, transport).map_err(handover_failed)?;
        self.link = Link::Attached(socket);
        self.tls = channel.tls;
        self.unread = channel.unread;
        Ok(())
    }

    fn socket(&mut self) -> Result<&mut Socket> {
        match &mut self.link {
            Link::Attached(socket) => Ok(socket),
            Link::Detached(_) => Err(lent_out()),
        }
    }

    /// Reads what there is; false if the server hung up.
    async fn read_more(&mut self) -> Result<bool> {
        let Link::Attached(socket) = &mut self.link else {
            return Err(lent_out());
        };
        let read = match &mut self.tls {
            None => {
                self.unread.reserve(READ_SIZE);
                socket.read_into(&mut self.unread).await
            }
            Some(tls) => return read_sealed(socket, tls, &mut self.unread).await,
        };
        Ok(any(read)? > 0)
    }

    fn message_length(&self) -> Option<usize> {
        let length = self.unread.get(1..HEADER)?.try_into().ok()?;
        Some(u32::from_be_bytes(length) as usize)
    }

    fn holds_whole_message(&self) -> Result<bool> {
        let Some(length) = self.message_length() else {
            return Ok(false);
        };
        if !(4..=self.longest).contains(&length) {
            return Err(Error::protocol(format!(
                "lost synchronization with server: got message type \"{}\", length {length}",
                self.unread[0].escape_ascii()
            )));
        }
        Ok(self.unread.len() > length)
    }

    /// Takes the whole message that is there; `None` if there is nothing to do about it.
    fn take_message(&mut self) -> Result<Option<Incoming>> {
        let length = self.message_length().map_or(0, |length| length + 1);
        let tag = self.unread[0];
        if !matches!(
            tag,
            backend::ERROR_RESPONSE_TAG
                | backend::NOTICE_RESPONSE_TAG
                | COPY_BOTH_TAG
                | NEGOTIATE_PROTOCOL_VERSION_TAG
        ) {
            return self.take_other_message();
        }
        let message = self.unread.split_to(length);
        let body = &message[HEADER..];
        Ok(match tag {
            backend::ERROR_RESPONSE_TAG => Some(Incoming::Error(report::parse_error_response(body))),
            COPY_BOTH_TAG => Some(Incoming::CopyBoth),
            backend::NOTICE_RESPONSE_TAG => {
                report::log_notice(body);
                None
            }
            // 3.0 is the oldest version and no extension was asked for, so there is nothing to give up.
            _ => None,
        })
    }

    fn take_other_message(&mut self) -> Result<Option<Incoming>> {
        match Message::parse(&mut self.unread) {
            Ok(Some(Message::NotificationResponse(_)) | None) => Ok(None),
            Ok(Some(message)) => Ok(Some(Incoming::Other(message))),
            Err(error) => Err(Error::protocol(format!("could not understand server: {error}"))),
        }
    }
}

/// What was read, or nothing at the end.
fn any(read: io::Result<usize>) -> Result<usize> {
    match read {
        Ok(count) => Ok(count),
        // What a server does that hangs up with something of ours unread.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
        Err(error) => Err(Error::connection(format!(
            "could not receive data from server: {error}"
        ))),
    }
}

/// Reads and opens records until there is something; false if the server hung up.
async fn read_sealed(socket: &mut Socket, tls: &mut Session, unread: &mut BytesMut) -> Result<bool> {
    loop {
        let start = unread.len();
        unread.resize(start + READ_SIZE, 0);
        let taken = tls.take(&mut unread[start..]);
        unread.truncate(start + *taken.as_ref().unwrap_or(&0));
        if let Some(replies) = tls.take_replies() {
            // A server that is gone shows when it is read.
            let _ = socket.write_all(&replies).await;
        }
        if taken? > 0 {
            return Ok(true);
        }
        // Its word that nothing follows is enough: the socket may stay open.
        if tls.is_closed() {
            return Ok(false);
        }
        if any(Lent::by(tls).read(socket).await)? == 0 {
            return Ok(false);
        }
    }
}

/// Memory that a session has lent for a read. It gets it back also where the wait is given up: then nothing was read.
struct Lent<'a> {
    sealed: Option<Sealed>,
    by: &'a mut Session,
}

impl Lent<'_> {
    fn by(session: &mut Session) -> Lent<'_> {
        Lent {
            sealed: Some(session.lend_memory()),
            by: session,
        }
    }

    async fn read(mut self, socket: &mut Socket) -> io::Result<usize> {
        let Some(sealed) = &mut self.sealed else {
            return Ok(0);
        };
        let count = socket.read(sealed.space()).await?;
        sealed.arrived(count);
        Ok(count)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(sealed) = self.sealed.take() {
            self.by.return_memory(sealed);
        }
    }
}

/// The server is gone where it should have gone on.
pub(crate) fn hung_up() -> Error {
    Error::connection("server closed the connection unexpectedly").with_hint(
        "This probably means the server terminated abnormally before or while processing the request.",
    )
}

fn lent_out() -> Error {
    Error::protocol("the connection is in use for streaming")
}

fn handover_failed(error: io::Error) -> Error {
    Error::connection(format!("could not hand over the socket: {}", system_text(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    /// Runs `check` with a wire on whose other end `sent` was written and the socket closed.
    fn with_wire<F: Future>(sent: &[u8], check: impl FnOnce(Wire) -> F) -> F::Output {
        let (mut server, client) = UnixStream::pair().unwrap();
        server.write_all(sent).unwrap();
        drop(server);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let socket = Socket::from_blocking(client.into(), Transport::Unix).unwrap();
            check(Wire::new(socket, None)).await
        })
    }

    fn first_error(sent: &[u8]) -> String {
        with_wire(sent, |mut wire| async move {
            match wire.receive().await {
                Ok(_) => "a message".to_owned(),
                Err(error) => error.to_string(),
            }
        })
    }

    #[test]
    fn notices_and_version_talk_are_passed_over() {
        let mut sent = b"N\0\0\0\x0cSINFO\0M\0".to_vec();
        sent[4] = (sent.len() - 1) as u8;
        sent.extend(b"v\0\0\0\x0c\0\0\0\0\0\0\0\0");
        sent.extend(b"W\0\0\0\x07\0\0\0");
        assert!(with_wire(&sent, |mut wire| async move {
            matches!(wire.receive().await, Ok(Incoming::CopyBoth))
        }));
    }

    #[test]
    fn a_peer_that_is_no_postgresql_is_noticed_without_reading_much() {
        assert_eq!(
            first_error(b"HTTP/1.1 400 Bad Request"),
            "lost synchronization with server: got message type \"H\", length 1414811695"
        );
        assert!(first_error(b"Z\0\0\0\x03").starts_with("lost synchronization"));
        assert!(first_error(b"Z\xff\xff\xff\xff").starts_with("lost synchronization"));
        assert!(first_error(b"?\0\0\0\x04").starts_with("could not understand server"));
    }

    #[test]
    fn the_end_in_the_middle_of_a_message_is_an_end() {
        for sent in [&b""[..], b"Z", b"Z\0\0\0\x05"] {
            assert_eq!(first_error(sent), "server closed the connection unexpectedly");
        }
    }

    #[test]
    fn a_detached_wire_gives_the_rest_and_takes_it_back() {
        let sent = b"W\0\0\0\x07\0\0\0Z\0\0\0\x05I";
        with_wire(sent, |mut wire| async move {
            assert!(matches!(wire.receive().await, Ok(Incoming::CopyBoth)));
            let channel = wire.detach().unwrap();
            assert_eq!(&channel.unread[..], b"Z\0\0\0\x05I");
            let flags = rustix::fs::fcntl_getfl(&channel.socket).unwrap();
            assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
            assert!(wire.receive().await.is_err() && wire.detach().is_err());

            wire.attach(channel).unwrap();
            let message = wire.receive().await;
            assert!(matches!(message, Ok(Incoming::Other(Message::ReadyForQuery(_)))));
        });
    }
}
