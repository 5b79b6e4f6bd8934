//! Opening a connection: every host in turn, every address of it.
//!
//! An address that cannot be reached, or that is silent for too long, leads to the next one; a
//! server that answers with a refusal ends the search, unless it says that it is not ready. Source:
//! PQconnectPoll of PostgreSQL's libpq.

use std::io;
use std::net::SocketAddr;

use tokio::time::timeout;

use crate::edge::authentication::Outcome;
use crate::edge::connection::Connection;
use crate::edge::conninfo::Conninfo;
use crate::edge::hosts::{Host, Target};
use crate::edge::password::{Password, PasswordPrompt};
use crate::edge::socket::{Address, Socket};
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
fn in_one(mut failed: Vec<Error>) -> Error {
    let lines: Vec<String> = failed.iter().map(Error::to_string).collect();
    match failed.pop() {
        Some(last) => last.reworded(lines.join("\n")),
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
    let attempt = match info.connect_timeout.or(info.patience) {
        None => attempt.await,
        Some(limit) => timeout(limit, attempt)
            .await
            .unwrap_or_else(|_| Err(Failure::TryNext(Error::connection("timeout expired")))),
    };
    match attempt {
        Ok(Attempt::PasswordNeeded(error)) => Ok(Attempt::PasswordNeeded(error.in_context(&place))),
        Ok(open) => Ok(open),
        Err(Failure::TryNext(error)) => Err(Failure::TryNext(error.in_context(&place))),
        Err(Failure::Stop(error)) => Err(Failure::Stop(error.in_context(&place))),
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
    let mut connection = Connection::new(socket);
    let (password, passfile) = match typed {
        Some(password) => (Some(password.clone()), None),
        None => info.password_for(host).unzip(),
    };
    match connection.log_in(info, password.as_ref()).await {
        Ok(Outcome::Accepted) => Ok(Attempt::Open(connection.leading_to(host.clone()))),
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

fn unreachable(error: &io::Error, address: &Address) -> Error {
    let hint = match address {
        Address::Tcp(_) => "Is the server running on that host and accepting TCP/IP connections?",
        Address::Unix(_) => "Is the server running locally and accepting connections on that socket?",
    };
    Error::connection(system_text(error)).with_hint(hint)
}
