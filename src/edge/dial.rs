//! Opening a connection: every host in turn, every address of it.
//!
//! An address that cannot be reached, or that is silent for too long, leads to the next one; a
//! server that answers with a refusal ends the search, unless it says that it is not ready. One that is not ready, or is not
//! what `target_session_attrs` wants, leads to the next host. Source: PQconnectPoll of PostgreSQL's libpq.

use std::io;
use std::path::PathBuf;

use nix::unistd::{Uid, User};
use tokio::time::timeout;

use crate::edge::authentication::Outcome;
use crate::edge::connection::Connection;
use crate::edge::conninfo::Conninfo;
use crate::edge::encryption::{self, Begun, Encryption};
use crate::edge::hosts::{self, Host, Target};
use crate::edge::password::{Password, PasswordPrompt};
use crate::edge::socket::{Address, Socket};
use crate::edge::target_session::TargetSession;
use crate::error::{Error, Result, system_text};

/// SQLSTATE invalid_password.
const INVALID_PASSWORD: &str = "28P01";

/// SQLSTATE cannot_connect_now: the server is starting up or shutting down, another may serve.
const CANNOT_CONNECT_NOW: &str = "57P03";

/// How an attempt to connect ended, short of an error.
enum Attempt {
    Open(Connection),
    /// The error to report if no password can be had.
    PasswordNeeded(Error),
}

/// Why an attempt failed, and what may do better.
enum Failure {
    /// Another address.
    TryNext(Error),
    /// Another host.
    NextHost(Error),
    /// The same address with or without encryption, whichever was not tried yet.
    TryOtherwise(Error),
    /// Nothing.
    Stop(Error),
}

/// The result of an attempt.
type Attempted<T> = std::result::Result<T, Failure>;

impl Connection {
    /// Connects and logs in to the first host that lets us, asking for a password if need be.
    ///
    /// Fails with one line for each address that was tried, worded as libpq does.
    pub async fn open(info: &Conninfo, prompt: &mut PasswordPrompt) -> Result<Connection> {
        prompt.before_connecting().await?;
        let mut attempt = try_hosts(info, prompt.answer().as_ref()).await?;
        if let Attempt::PasswordNeeded(error) = attempt {
            if !prompt.when_demanded().await? {
                return Err(error);
            }
            attempt = try_hosts(info, prompt.answer().as_ref()).await?;
        }
        match attempt {
            Attempt::Open(connection) => Ok(connection),
            Attempt::PasswordNeeded(error) => Err(error),
        }
    }
}

/// Looks through all hosts, a second time where a server of another kind will do, too; `typed` is the password that was
/// typed in.
async fn try_hosts(info: &Conninfo, typed: Option<&Password>) -> Result<Attempt> {
    let mut hosts = info.hosts.clone();
    if info.load_balance {
        fastrand::shuffle(&mut hosts);
    }
    let mut failed = Vec::new();
    for wanted in info.target_session.passes() {
        for host in &hosts {
            match try_host(info, host, wanted, typed, &mut failed).await? {
                Some(attempt) => return Ok(attempt),
                None => continue,
            }
        }
    }
    Err(in_one(failed))
}

/// Tries every address of a host, up to one that answers; `None` if the next host is to be tried. An error ends the
/// search.
async fn try_host(
    info: &Conninfo,
    host: &Host,
    wanted: TargetSession,
    typed: Option<&Password>,
    failed: &mut Vec<Error>,
) -> Result<Option<Attempt>> {
    let mut addresses = match addresses_of(host).await {
        Ok(addresses) => addresses,
        Err(error) => {
            failed.push(error);
            return Ok(None);
        }
    };
    if info.load_balance {
        fastrand::shuffle(&mut addresses);
    }
    info.lacking.put_last(&mut addresses);
    for address in &addresses {
        match try_address(info, host, address, wanted, typed).await {
            Ok(attempt) => return Ok(Some(attempt)),
            // A server that is not ready is that on all its addresses.
            Err(Failure::TryNext(error)) if error.sqlstate() != Some(CANNOT_CONNECT_NOW) => {
                failed.push(error);
            }
            Err(Failure::TryNext(error) | Failure::NextHost(error)) => {
                failed.push(error);
                return Ok(None);
            }
            Err(Failure::Stop(error) | Failure::TryOtherwise(error)) => {
                failed.push(error);
                return Err(in_one(std::mem::take(failed)));
            }
        }
    }
    Ok(None)
}

/// One error for all that failed: the last one, with the messages of all, a line each. What a second pass found as the
/// first one did is said once.
fn in_one(mut failed: Vec<Error>) -> Error {
    let mut lines: Vec<String> = Vec::new();
    for error in &failed {
        let line = error.to_string();
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    match failed.pop() {
        Some(last) => last.reworded(lines.join("\n")),
        None => Error::connection("no host to connect to"),
    }
}

async fn addresses_of(host: &Host) -> Result<Vec<Address>> {
    match &host.target {
        Target::Socket => Ok(vec![Address::Unix(host.socket_path()?)]),
        Target::Address(text) => Ok(vec![Address::Tcp(hosts::numeric_address(text, host.port)?)]),
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

/// Connects to one address, logs in and looks whether it is what is wanted, within the time that one address may take.
async fn try_address(
    info: &Conninfo,
    host: &Host,
    address: &Address,
    wanted: TargetSession,
    typed: Option<&Password>,
) -> Attempted<Attempt> {
    let attempt = async {
        match connect(info, host, address, typed).await? {
            Attempt::Open(connection) => qualified(connection, wanted, &place(host, address)).await,
            needed => Ok(needed),
        }
    };
    match info.connect_timeout.or(info.patience) {
        None => attempt.await,
        Some(limit) => timeout(limit, attempt).await.unwrap_or_else(|_| {
            let error = Error::connection("timeout expired").in_context(&place(host, address));
            Err(Failure::TryNext(error))
        }),
    }
}

/// The connection, if it leads to what is wanted; otherwise it is closed.
async fn qualified(mut connection: Connection, wanted: TargetSession, place: &str) -> Attempted<Attempt> {
    match wanted.check(&mut connection).await {
        Ok(()) => Ok(Attempt::Open(connection)),
        Err(error) => {
            connection.close().await;
            Err(Failure::NextHost(error.in_context(place)))
        }
    }
}

/// Connects to one address and logs in, with encryption and without as far as both are allowed.
async fn connect(
    info: &Conninfo,
    host: &Host,
    address: &Address,
    typed: Option<&Password>,
) -> Attempted<Attempt> {
    let place = place(host, address);
    let mut failed = Vec::new();
    let in_all = |error: Error, so_far: &mut Vec<Error>| {
        so_far.push(error.in_context(&place));
        in_one(std::mem::take(so_far))
    };
    for encryption in Encryption::allowed(&info.tls, address) {
        match connect_with(info, host, address, typed, encryption).await {
            Ok(Attempt::Open(connection)) => {
                if encryption == Encryption::Plain && !failed.is_empty() {
                    encryption::tell_of_plain_text(&in_one(failed));
                }
                return Ok(Attempt::Open(connection));
            }
            Ok(Attempt::PasswordNeeded(error)) => {
                return Ok(Attempt::PasswordNeeded(in_all(error, &mut failed)));
            }
            Err(Failure::TryNext(error)) => return Err(Failure::TryNext(in_all(error, &mut failed))),
            Err(Failure::NextHost(error)) => return Err(Failure::NextHost(in_all(error, &mut failed))),
            Err(Failure::Stop(error)) => return Err(Failure::Stop(in_all(error, &mut failed))),
            Err(Failure::TryOtherwise(error)) => failed.push(error.in_context(&place)),
        }
    }
    Err(Failure::Stop(in_one(failed)))
}

async fn connect_with(
    info: &Conninfo,
    host: &Host,
    address: &Address,
    typed: Option<&Password>,
    encryption: Encryption,
) -> Attempted<Attempt> {
    let mut socket = Socket::connect(address, &info.tcp)
        .await
        .map_err(|error| Failure::TryNext(unreachable(&error, address)))?;
    if let (Some(required), Address::Unix(_)) = (&info.require_peer, address) {
        check_peer(&socket, required).map_err(Failure::Stop)?;
    }
    let begun = encryption.begin(&mut socket, &info.tls, host).await;
    let (tls, peer) = match begun.map_err(Failure::Stop)? {
        Begun::As(encrypted) => encrypted.unzip(),
        Begun::Refused(error) => return Err(Failure::TryOtherwise(error)),
    };
    // In plain after all: there is no other way to try.
    let refused = match (encryption, &tls) {
        (Encryption::IfOffered, None) => Failure::Stop,
        _ => Failure::TryOtherwise,
    };
    let mut connection = Connection::new(socket, tls);
    let (password, passfile) = match typed {
        Some(password) => (Some(password.clone()), None),
        None => info.password_for(host).unzip(),
    };
    match connection
        .authenticate(info, password.as_ref(), peer.as_ref())
        .await
    {
        Ok(Outcome::Accepted) => {}
        Ok(Outcome::PasswordNeeded) => {
            let error = Error::connection("fe_sendauth: no password supplied");
            return Ok(Attempt::PasswordNeeded(error));
        }
        Err(error) => return Err(refusal(error, passfile.flatten(), refused)),
    }
    match connection.begin().await {
        Ok(()) => Ok(Attempt::Open(connection.leading_to(host.clone(), address))),
        Err(error) => Err(refusal(error, None, Failure::Stop)),
    }
}

/// What follows from a refusal; `refused` is what follows from one of the server's.
fn refusal(error: Error, passfile: Option<PathBuf>, refused: fn(Error) -> Failure) -> Failure {
    match (error.sqlstate(), passfile) {
        (Some(CANNOT_CONNECT_NOW), _) => Failure::TryNext(error),
        (Some(INVALID_PASSWORD), Some(path)) => {
            let detail = format!("password retrieved from file \"{}\"", path.display());
            refused(error.with_detail(detail))
        }
        (Some(_), _) => refused(error),
        (None, _) => Failure::Stop(error),
    }
}

/// Whether the process at the other end of a Unix socket is the right user's.
fn check_peer(socket: &Socket, required: &str) -> Result<()> {
    let uid = socket.peer_user().map_err(|error| {
        Error::connection(format!("could not get peer credentials: {}", system_text(&error)))
    })?;
    let uid = Uid::from_raw(uid.as_raw());
    let Some(user) = User::from_uid(uid).ok().flatten() else {
        return Err(Error::connection(format!(
            "local user with ID {uid} does not exist"
        )));
    };
    if user.name == required {
        return Ok(());
    }
    Err(Error::connection(format!(
        "requirepeer specifies \"{required}\", but actual peer user name is \"{}\"",
        user.name
    )))
}

/// What was attempted, as libpq says it.
fn place(host: &Host, address: &Address) -> String {
    format!("{} failed", describe(host, address))
}

/// Where a connection goes, as libpq describes it.
fn describe(host: &Host, address: &Address) -> String {
    match address {
        Address::Unix(path) => format!("connection to server on socket \"{path}\""),
        Address::Tcp(address) => {
            let ip = address.ip().to_string();
            let (name, resolved) = match &host.target {
                Target::Address(text) => (text, String::new()),
                _ if host.name == ip => (&host.name, String::new()),
                _ => (&host.name, format!(" ({ip})")),
            };
            format!("connection to server at \"{name}\"{resolved}, port {}", host.port)
        }
    }
}

fn unreachable(error: &io::Error, address: &Address) -> Error {
    let hint = match address {
        Address::Tcp(_) => "Is the server running on that host and accepting TCP/IP connections?",
        Address::Unix(_) => "Is the server running locally and accepting connections on that socket?",
    };
    Error::connection(system_text(error)).with_hint(hint)
}
