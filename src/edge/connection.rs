//! A connection to the server outside of streaming: logged in, asked and lent out.
//!
//! [`Connection::open`] is in the module `dial`, the replication commands are in `replication`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;
use tokio::time::timeout;

use crate::edge::authentication::{Credentials, Outcome, authenticate};
use crate::edge::conninfo::Conninfo;
use crate::edge::hosts::Host;
use crate::edge::password::Password;
use crate::edge::socket::{Address, Socket};
use crate::edge::tls::handshake::Peer;
use crate::edge::wire::{Incoming, LONGEST, Wire, hung_up};
use crate::error::{Error, Result, printable};
use crate::ring::contract::Channel;
use crate::ring::tls::Session;

/// The oldest server whose answers walring knows, as `server_version_num`. Newer ones than it was
/// tested with are welcome: the streaming protocol has only ever grown.
const OLDEST_VERSION: u32 = 120_000;

/// More rows than any replication command answers with.
const MOST_ROWS: usize = 1000;

/// More than any replication command answers with, in bytes: the longest answer is a timeline history file.
const MOST_ROW_BYTES: usize = LONGEST;

/// More parameters than any server reports; later ones are not kept.
const MOST_PARAMETERS: usize = 64;

/// Parameters whose values are longer, in bytes, are not kept.
const LONGEST_PARAMETER: usize = 1000;

/// How long the farewell may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// One row of an answer: a value in text format for each column, `None` for NULL.
pub type Row = Vec<Option<Bytes>>;

/// How the server answered a command.
pub(crate) enum Answer {
    /// It is done, and these are the rows.
    Rows(Vec<Row>),
    /// Streaming began.
    CopyBoth,
    /// It is done, and the server hung up: so does one that shuts down while it streams.
    HungUp,
}

/// A replication connection that is logged in.
#[derive(Debug)]
pub struct Connection {
    wire: Wire,
    parameters: HashMap<String, String>,
    version: u32,
    host: Option<Host>,
    address: Option<SocketAddr>,
}

impl Connection {
    /// A connection over a fresh socket, good for nothing but [`Connection::authenticate`].
    pub(crate) fn new(socket: Socket, tls: Option<Box<Session>>) -> Connection {
        Connection {
            wire: Wire::new(socket, tls),
            parameters: HashMap::new(),
            version: 0,
            host: None,
            address: None,
        }
    }

    /// The same connection, which leads to `host`, by this address of it.
    pub(crate) fn leading_to(self, host: Host, address: &Address) -> Connection {
        Connection {
            host: Some(host),
            address: match address {
                Address::Tcp(address) => Some(*address),
                Address::Unix(_) => None,
            },
            ..self
        }
    }

    /// Which of the hosts it leads to.
    pub fn host(&self) -> Option<&Host> {
        self.host.as_ref()
    }

    /// By which of that host's addresses; a socket has none.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The server's version as a number, 150018 for 15.18.
    pub fn server_version_num(&self) -> u32 {
        self.version
    }

    /// A parameter the server reported by itself, such as `server_version`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Runs a command and collects its rows.
    ///
    /// Fails with the server's error (the connection can go on after that, unless it is lost), or
    /// if the command begins to stream.
    pub async fn query(&mut self, command: &str) -> Result<Vec<Row>> {
        match self.execute(command).await? {
            Answer::Rows(rows) => Ok(rows),
            Answer::HungUp => Err(hung_up()),
            Answer::CopyBoth => Err(Error::protocol(format!(
                "server began to stream in answer to \"{command}\""
            ))),
        }
    }

    /// Runs a command that may begin to stream.
    pub(crate) async fn execute(&mut self, command: &str) -> Result<Answer> {
        let mut message = BytesMut::new();
        frontend::query(command, &mut message)
            .map_err(|error| Error::usage(format!("command cannot be sent: {error}")))?;
        self.wire.send(&message).await?;
        self.answer().await
    }

    /// Waits for the rest of an answer: up to ReadyForQuery, or to the beginning of a stream.
    /// Stream data that is still under way is dropped.
    pub(crate) async fn answer(&mut self) -> Result<Answer> {
        let mut rows = Vec::new();
        let mut row_bytes = 0;
        let mut failed = None;
        let mut completed = false;
        loop {
            match self.receive().await? {
                Some(Incoming::Error(error)) => failed = Some(error),
                Some(Incoming::CopyBoth) => return Ok(Answer::CopyBoth),
                Some(Incoming::Other(Message::DataRow(row))) => {
                    row_bytes += row.buffer().len();
                    if rows.len() == MOST_ROWS || row_bytes > MOST_ROW_BYTES {
                        return Err(Error::protocol("server sent more than any command answers with"));
                    }
                    rows.push(columns(&row)?);
                }
                Some(Incoming::Other(Message::ReadyForQuery(_))) => {
                    return failed.map_or(Ok(Answer::Rows(rows)), Err);
                }
                Some(Incoming::Other(Message::CommandComplete(_))) => completed = true,
                Some(Incoming::Other(_)) => {}
                // A FATAL error is followed by the end of the connection, not by ReadyForQuery.
                None => {
                    return match failed {
                        Some(error) => Err(error),
                        None if completed => Ok(Answer::HungUp),
                        None => Err(hung_up()),
                    };
                }
            }
        }
    }

    /// The next message, `None` at the end; the parameters the server reports are kept here.
    async fn receive(&mut self) -> Result<Option<Incoming>> {
        loop {
            match self.wire.receive_or_end().await? {
                Some(Incoming::Other(Message::ParameterStatus(body))) => {
                    // One that is no UTF-8 is none of those that matter.
                    if let (Ok(name), Ok(value)) = (body.name(), body.value()) {
                        self.keep_parameter(name, value);
                    }
                }
                incoming => return Ok(incoming),
            }
        }
    }

    fn keep_parameter(&mut self, name: &str, value: &str) {
        let short = name.len().max(value.len()) <= LONGEST_PARAMETER;
        if short && (self.parameters.len() < MOST_PARAMETERS || self.parameters.contains_key(name)) {
            self.parameters.insert(name.to_owned(), printable(value));
        }
    }

    /// Lends the socket out for streaming: it is in blocking mode and tokio does not watch it any
    /// more. The bytes were received already and come before anything read from the socket.
    ///
    /// Until [`Connection::attach`] every other method fails.
    pub fn detach(&mut self) -> Result<Channel> {
        self.wire.detach()
    }

    /// Takes the socket back, and what was received from it but not consumed.
    pub fn attach(&mut self, channel: Channel) -> Result<()> {
        self.wire.attach(channel)
    }

    /// Drops the rest of a message that was begun elsewhere, in bytes.
    pub(crate) async fn skip(&mut self, bytes: u64) -> Result<()> {
        self.wire.skip(bytes).await
    }

    /// Drops the next message of a stream; false if something else comes.
    pub(crate) async fn skip_copy_data(&mut self) -> Result<bool> {
        self.wire.skip_copy_data().await
    }

    /// Says goodbye. Whether the server hears it does not matter: it notices the end in any case.
    pub async fn close(mut self) {
        let mut message = BytesMut::new();
        frontend::terminate(&mut message);
        let farewell = async {
            self.wire.send(&message).await?;
            self.wire.end().await
        };
        let _ = timeout(CLOSE_TIMEOUT, farewell).await;
    }

    /// Says on a fresh socket who we are, and proves it as the server asks.
    pub(crate) async fn authenticate(
        &mut self,
        info: &Conninfo,
        password: Option<&Password>,
        peer: Option<&Peer>,
    ) -> Result<Outcome> {
        let mut message = BytesMut::new();
        let parameters = info.startup.iter().map(|(name, value)| (*name, value.as_str()));
        frontend::startup_message(parameters, &mut message)
            .map_err(|error| Error::usage(format!("connection option cannot be sent: {error}")))?;
        self.wire.send(&message).await?;
        let credentials = Credentials {
            user: &info.user,
            password,
            require: &info.require_auth,
            binding: info.tls.channel_binding,
            cert_mode: info.tls.cert_mode,
            peer,
        };
        authenticate(&mut self.wire, &credentials).await
    }

    /// Waits until the server that has let us in is ready.
    pub(crate) async fn begin(&mut self) -> Result<()> {
        self.wire.allow_long_messages();
        // The parameters, then ReadyForQuery; or an error such as a missing privilege.
        self.answer().await?;
        self.check_server()
    }

    fn check_server(&mut self) -> Result<()> {
        let version = self.parameter("server_version").unwrap_or("unknown");
        let number = parse_version(version).unwrap_or(0);
        if number < OLDEST_VERSION {
            return Err(Error::connection(format!(
                "incompatible server version {version}; client does not support streaming from server versions older than {}",
                OLDEST_VERSION / 10_000
            )));
        }
        match self.parameter("integer_datetimes") {
            Some("on") => {}
            Some(_) => {
                let message = "integer_datetimes compile flag does not match server";
                return Err(Error::connection(message));
            }
            None => {
                let message = "could not determine server setting for integer_datetimes";
                return Err(Error::connection(message));
            }
        }
        self.version = number;
        Ok(())
    }
}

fn columns(row: &DataRowBody) -> Result<Row> {
    row.ranges()
        .map(|range| Ok(range.map(|range| row.buffer_bytes().slice(range))))
        .collect()
        .map_err(|error| Error::protocol(format!("malformed row: {error}")))
}

/// The number of a version as `server_version` names it: `15.18 (Debian 15.18-1)`, `18beta1`,
/// `9.6.24`. `None` if it does not begin with a number.
fn parse_version(text: &str) -> Option<u32> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let mut numbers = text[..end].split('.').map(|number| number.parse::<u32>().ok());
    let major = numbers.next()??;
    let mut next = || numbers.next().flatten().unwrap_or(0);
    let (second, third) = (next(), next());
    Some(if major >= 10 {
        major * 10_000 + second
    } else {
        major * 10_000 + second * 100 + third
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_version_is_read() {
        for (text, expected) in [
            ("15.18", Some(150_018)),
            ("15.18 (Debian 15.18-0+deb12u1)", Some(150_018)),
            ("18beta1", Some(180_000)),
            ("19devel", Some(190_000)),
            ("12.0", Some(120_000)),
            ("9.6.24", Some(90_624)),
            ("unknown", None),
            ("", None),
        ] {
            assert_eq!(parse_version(text), expected, "{text}");
        }
    }
}
