//! A connection to the server outside of streaming: how it is opened, asked and lent out.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;
use tokio::time::timeout;

use crate::edge::authentication::{Credentials, Outcome, authenticate};
use crate::edge::conninfo::Conninfo;
use crate::edge::hosts::{Host, Target};
use crate::edge::password::{Password, PasswordPrompt};
use crate::edge::report::{in_context, reworded};
use crate::edge::socket::{Address, Socket};
use crate::edge::wire::{Incoming, Wire};
use crate::error::{Error, Result};

/// The oldest server whose answers walring knows, as `server_version_num`. Newer ones than it was
/// tested with are welcome: the streaming protocol has only ever grown.
const OLDEST_VERSION: u32 = 120_000;

/// SQLSTATE cannot_connect_now: the server is starting up or shutting down, another may serve.
const CANNOT_CONNECT_NOW: &str = "57P03";

/// SQLSTATE invalid_password.
const INVALID_PASSWORD: &str = "28P01";

/// More rows than any replication command answers with.
const MOST_ROWS: usize = 1000;

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
}

/// How an attempt to connect ended, short of an error.
enum Attempt {
    Open(Connection),
    /// The error to report if no password can be had.
    PasswordNeeded(Error),
}

/// Why an attempt failed, and whether the next address may do better.
enum Failure {
    TryNext(Error),
    Stop(Error),
}

impl Connection {
    /// Connects and logs in to the first host that lets us, asking for a password if need be.
    ///
    /// Fails with one line for each address that was tried, worded as libpq does.
    pub async fn open(info: &Conninfo, prompt: &mut PasswordPrompt) -> Result<Connection> {
        prompt.before_connecting()?;
        let mut attempt = try_hosts(info, prompt.answer()).await?;
        if let Attempt::PasswordNeeded(error) = attempt {
            if !prompt.when_demanded()? {
                return Err(error);
            }
            attempt = try_hosts(info, prompt.answer()).await?;
        }
        match attempt {
            Attempt::Open(connection) => Ok(connection),
            Attempt::PasswordNeeded(error) => Err(error),
        }
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
        let mut failed = None;
        let mut completed = false;
        loop {
            match self.receive().await {
                Ok(Incoming::Error(error)) => failed = Some(error),
                Ok(Incoming::CopyBoth) => return Ok(Answer::CopyBoth),
                Ok(Incoming::Other(Message::DataRow(_))) if rows.len() == MOST_ROWS => {
                    return Err(Error::protocol("server sent more rows than any command has"));
                }
                Ok(Incoming::Other(Message::DataRow(row))) => rows.push(columns(&row)?),
                Ok(Incoming::Other(Message::ReadyForQuery(_))) => {
                    return failed.map_or(Ok(Answer::Rows(rows)), Err);
                }
                Ok(Incoming::Other(Message::CommandComplete(_))) => completed = true,
                Ok(Incoming::Other(_)) => {}
                // A FATAL error is followed by the end of the connection, not by ReadyForQuery.
                Err(_) if completed && failed.is_none() => return Ok(Answer::HungUp),
                Err(lost) => return Err(failed.unwrap_or(lost)),
            }
        }
    }

    /// The next message; the parameters the server reports are kept here.
    pub(crate) async fn receive(&mut self) -> Result<Incoming> {
        loop {
            match self.wire.receive().await? {
                Incoming::Other(Message::ParameterStatus(body)) => {
                    // One that is no UTF-8 is none of those that matter.
                    if let (Ok(name), Ok(value)) = (body.name(), body.value()) {
                        self.parameters.insert(name.to_owned(), value.to_owned());
                    }
                }
                incoming => return Ok(incoming),
            }
        }
    }

    /// Lends the socket out for streaming: it is in blocking mode and tokio does not watch it any
    /// more. The bytes were received already and come before anything read from the socket.
    ///
    /// Until [`Connection::attach`] every other method fails.
    pub fn detach(&mut self) -> Result<(OwnedFd, BytesMut)> {
        self.wire.detach()
    }

    /// Takes the socket back, and what was received from it but not consumed.
    pub fn attach(&mut self, fd: OwnedFd, unread: BytesMut) -> Result<()> {
        self.wire.attach(fd, unread)
    }

    /// Says goodbye. Whether the server hears it does not matter: it notices the end in any case.
    pub async fn close(mut self) {
        let mut message = BytesMut::new();
        frontend::terminate(&mut message);
        let _ = timeout(CLOSE_TIMEOUT, self.wire.send(&message)).await;
    }

    /// Logs in on a fresh socket.
    async fn log_in(&mut self, info: &Conninfo, password: Option<&Password>) -> Result<Outcome> {
        let mut message = BytesMut::new();
        let parameters = info.startup.iter().map(|(name, value)| (*name, value.as_str()));
        frontend::startup_message(parameters, &mut message)
            .map_err(|error| Error::usage(format!("connection option cannot be sent: {error}")))?;
        self.wire.send(&message).await?;
        let credentials = Credentials {
            user: &info.user,
            password,
            require: &info.require_auth,
        };
        if authenticate(&mut self.wire, &credentials).await? == Outcome::PasswordNeeded {
            return Ok(Outcome::PasswordNeeded);
        }
        self.wire.allow_long_messages();
        // The parameters, then ReadyForQuery; or an error such as too many connections.
        self.answer().await?;
        self.check_server()?;
        Ok(Outcome::Accepted)
    }

    fn check_server(&mut self) -> Result<()> {
        let version = self.parameter("server_version").unwrap_or("unknown");
        let number = parse_version(version).unwrap_or(0);
        if number < OLDEST_VERSION {
            return Err(Error::unsupported(format!(
                "incompatible server version {version}; client does not support streaming from server versions older than {}",
                OLDEST_VERSION / 10_000
            )));
        }
        match self.parameter("integer_datetimes") {
            Some("on") => {}
            Some(_) => {
                let message = "integer_datetimes compile flag does not match server";
                return Err(Error::unsupported(message));
            }
            None => {
                let message = "could not determine server setting for integer_datetimes";
                return Err(Error::unsupported(message));
            }
        }
        self.version = number;
        Ok(())
    }
}

/// The server is gone where it should have gone on.
pub(crate) fn hung_up() -> Error {
    Error::connection("server closed the connection unexpectedly")
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

/// Tries every address of every host; `typed` is the password that was typed in.
async fn try_hosts(info: &Conninfo, typed: Option<&Password>) -> Result<Attempt> {
    let mut failed = Vec::new();
    for host in &info.hosts {
        let addresses = match addresses_of(host).await {
            Ok(addresses) => addresses,
            Err(error) => {
                failed.push(error);
                continue;
            }
        };
        for address in &addresses {
            match try_address(info, host, address, typed).await {
                Ok(attempt) => return Ok(attempt),
                Err(Failure::TryNext(error)) => failed.push(error),
                Err(Failure::Stop(error)) => {
                    failed.push(error);
                    return Err(in_one(failed));
                }
            }
        }
    }
    Err(in_one(failed))
}

/// One error for all that failed: the last one, with the messages of all, a line each.
fn in_one(failed: Vec<Error>) -> Error {
    let lines: Vec<String> = failed.iter().map(Error::to_string).collect();
    match failed.last() {
        Some(last) => reworded(lines.join("\n"), last),
        None => Error::connection("no host to connect to"),
    }
}

async fn addresses_of(host: &Host) -> Result<Vec<Address>> {
    match host.target {
        Target::Socket => Ok(vec![Address::Unix(host.socket_path())]),
        Target::Address(ip) => Ok(vec![Address::Tcp(SocketAddr::new(ip, host.port))]),
        Target::Name => {
            let found = tokio::net::lookup_host((host.name.as_str(), host.port)).await;
            let found = found.map_err(|error| {
                let reason = error.to_string();
                let reason = reason.rsplit(": ").next().unwrap_or_default();
                Error::connection(format!(
                    "could not translate host name \"{}\" to address: {reason}",
                    host.name
                ))
            })?;
            Ok(found.map(Address::Tcp).collect())
        }
    }
}

/// Connects to one address and logs in, within the time that one address may take.
async fn try_address(
    info: &Conninfo,
    host: &Host,
    address: &Address,
    typed: Option<&Password>,
) -> std::result::Result<Attempt, Failure> {
    let place = format!("{} failed", describe(host, address));
    let attempt = connect(info, host, address, typed);
    let attempt = match info.connect_timeout {
        None => attempt.await,
        Some(limit) => timeout(limit, attempt)
            .await
            .unwrap_or_else(|_| Err(Failure::TryNext(Error::connection("timeout expired")))),
    };
    match attempt {
        Ok(Attempt::PasswordNeeded(error)) => Ok(Attempt::PasswordNeeded(in_context(&place, error))),
        Ok(open) => Ok(open),
        Err(Failure::TryNext(error)) => Err(Failure::TryNext(in_context(&place, error))),
        Err(Failure::Stop(error)) => Err(Failure::Stop(in_context(&place, error))),
    }
}

async fn connect(
    info: &Conninfo,
    host: &Host,
    address: &Address,
    typed: Option<&Password>,
) -> std::result::Result<Attempt, Failure> {
    let socket = Socket::connect(address, &info.tcp)
        .await
        .map_err(|error| Failure::TryNext(unreachable(&error, address)))?;
    let mut connection = Connection {
        wire: Wire::new(socket),
        parameters: HashMap::new(),
        version: 0,
    };
    let (password, passfile) = match typed {
        Some(password) => (Some(password.clone()), None),
        None => info.password_for(host).unzip(),
    };
    match connection.log_in(info, password.as_ref()).await {
        Ok(Outcome::Accepted) => Ok(Attempt::Open(connection)),
        Ok(Outcome::PasswordNeeded) => {
            let error = Error::connection("fe_sendauth: no password supplied");
            Ok(Attempt::PasswordNeeded(error))
        }
        Err(error) if error.sqlstate() == Some(CANNOT_CONNECT_NOW) => Err(Failure::TryNext(error)),
        Err(error) => match passfile.flatten() {
            Some(path) if error.sqlstate() == Some(INVALID_PASSWORD) => {
                let detail = format!("password retrieved from file \"{}\"", path.display());
                Err(Failure::Stop(error.with_detail(detail)))
            }
            _ => Err(Failure::Stop(error)),
        },
    }
}

/// Where a connection goes, as libpq describes it.
fn describe(host: &Host, address: &Address) -> String {
    match address {
        Address::Unix(path) => format!("connection to server on socket \"{path}\""),
        Address::Tcp(address) => {
            let ip = address.ip().to_string();
            let name = match host.target {
                Target::Address(_) => &ip,
                Target::Socket | Target::Name => &host.name,
            };
            let resolved = if *name == ip {
                String::new()
            } else {
                format!(" ({ip})")
            };
            format!("connection to server at \"{name}\"{resolved}, port {}", host.port)
        }
    }
}

fn unreachable(error: &std::io::Error, address: &Address) -> Error {
    let hint = match address {
        Address::Tcp(_) => "Is the server running on that host and accepting TCP/IP connections?",
        Address::Unix(_) => "Is the server running locally and accepting connections on that socket?",
    };
    // Without " (os error 111)".
    let text = error.to_string();
    let reason = text.split(" (os error").next().unwrap_or(&text);
    Error::connection(reason).with_hint(hint)
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
