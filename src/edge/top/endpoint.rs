//! Where a receiver answers over HTTP, and asking it.

use std::convert::Infallible;
use std::error::Error as _;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::edge::status::Status;
use crate::error::{Error, Result, system_text};

/// How long connecting and answering may take together. A receiver answers from memory, in milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// More than any status has, in bytes: what is longer is something else.
const LONGEST_ANSWER: usize = 1 << 20;

/// Where the status is, below the receiver's own address.
const STATUS_PATH: &str = "/v1/status";

/// A receiver's HTTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address, IPv6 without brackets.
    host: String,
    port: u16,
    /// What is asked for, beginning with a slash.
    path: String,
}

/// As `host:port`, IPv6 addresses in brackets.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Reads `ADDR`, `ADDR:PORT`, `PORT`, `:PORT` or `http://ADDR[:PORT][/PATH]`. The port is 7070 unless given, in a URL
/// 80. A path is taken for what a proxy has before the receiver's own paths.
impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Endpoint> {
        let invalid = || {
            Error::usage(format!("invalid address \"{text}\"")).with_hint(
                "Give an address and a port, as 127.0.0.1:7070 or [::1]:7070, or a URL, as http://db1:7070.",
            )
        };
        let (authority, prefix, default_port) = match text.split_once("://") {
            None => (text, "", 7070),
            Some(("http", rest)) => {
                let end = rest.find('/').unwrap_or(rest.len());
                (&rest[..end], &rest[end..], 80)
            }
            Some((scheme, _)) => return Err(unknown_scheme(scheme)),
        };
        let (host, port) = host_and_port(authority, default_port).ok_or_else(invalid)?;
        // What is neither printable nor ASCII has no place in a request line.
        if !authority
            .bytes()
            .chain(prefix.bytes())
            .all(|byte| byte.is_ascii_graphic())
        {
            return Err(invalid());
        }
        let prefix = prefix.trim_end_matches('/');
        let prefix = prefix.strip_suffix(STATUS_PATH).unwrap_or(prefix);
        Ok(Endpoint {
            host,
            port,
            path: format!("{prefix}{STATUS_PATH}"),
        })
    }
}

fn unknown_scheme(scheme: &str) -> Error {
    Error::usage(format!("a URL that begins with \"{scheme}://\" is not supported"))
        .with_hint("A receiver answers over http:// only.")
}

fn host_and_port(authority: &str, default_port: u16) -> Option<(String, u16)> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        let port = match rest {
            "" => None,
            _ => Some(rest.strip_prefix(':')?),
        };
        (host, port)
    } else if authority.bytes().all(|byte| byte.is_ascii_digit()) {
        ("127.0.0.1", Some(authority))
    } else {
        match authority.rsplit_once(':') {
            Some(("", port)) => ("127.0.0.1", Some(port)),
            Some((host, port)) if !host.contains(':') => (host, Some(port)),
            Some(_) => (authority, None),
            None => (authority, None),
        }
    };
    let port = match port {
        Some(port) => port.parse().ok().filter(|&port| port != 0)?,
        None => default_port,
    };
    let is_plain = !host.is_empty() && !host.contains(['@', '[', ']', '?', '#', '/', '\\', '"']);
    is_plain.then(|| (host.to_owned(), port))
}

/// Asks for the receiver's status, once. Fails with one line that begins with the endpoint.
pub async fn fetch(endpoint: &Endpoint) -> Result<Status> {
    let answer = timeout(PATIENCE, exchange(endpoint)).await;
    let body = answer.unwrap_or_else(|_| Err(silent()));
    let status = body.and_then(|body| status(&body));
    status.map_err(|error| error.in_context(&endpoint.to_string()))
}

fn silent() -> Error {
    Error::connection(format!(
        "not reachable: no answer within {} s",
        PATIENCE.as_secs()
    ))
}

/// One connection, one request, the body of the answer.
async fn exchange(endpoint: &Endpoint) -> Result<Bytes> {
    let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await;
    let stream =
        stream.map_err(|error| Error::connection(format!("not reachable: {}", system_text(&error))))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = Request::get(&endpoint.path)
        .header(header::HOST, endpoint.to_string())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new());
    // Every part was looked at when the endpoint was read.
    let request = request.map_err(|error| Error::usage(format!("invalid address: {error}")))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        if !response.status().is_success() {
            let message = format!("no status of a receiver: HTTP status {}", response.status());
            return Err(Error::protocol(message));
        }
        let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
        body.map(|body| body.to_bytes())
            .map_err(|error| Error::protocol(format!("no status of a receiver: {error}")))
    };
    // The connection moves the bytes; how it ended is seen by the answer.
    let transport = async {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        answer = answer => answer,
        never = transport => match never {},
    }
}

fn broken(error: hyper::Error) -> Error {
    let cause = error
        .source()
        .map(|cause| format!(": {cause}"))
        .unwrap_or_default();
    Error::connection(format!("not reachable: {error}{cause}"))
}

fn status(body: &[u8]) -> Result<Status> {
    serde_json::from_slice(body).map_err(|error| Error::protocol(format!("no status of a receiver: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> (String, String) {
        let endpoint: Endpoint = text.parse().unwrap();
        (endpoint.to_string(), endpoint.path)
    }

    #[test]
    fn addresses_ports_and_urls_are_understood() {
        for (text, shown, path) in [
            ("127.0.0.1:7171", "127.0.0.1:7171", "/v1/status"),
            ("7171", "127.0.0.1:7171", "/v1/status"),
            (":7171", "127.0.0.1:7171", "/v1/status"),
            ("db1", "db1:7070", "/v1/status"),
            ("[::1]:7171", "[::1]:7171", "/v1/status"),
            ("::1", "[::1]:7070", "/v1/status"),
            ("http://db1", "db1:80", "/v1/status"),
            ("http://db1:7171/", "db1:7171", "/v1/status"),
            ("http://db1:7171/v1/status", "db1:7171", "/v1/status"),
            ("http://proxy/wal/", "proxy:80", "/wal/v1/status"),
        ] {
            assert_eq!(endpoint(text), (shown.to_owned(), path.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            ":",
            "db1:",
            "db1:0",
            "db1:70000",
            "db1:x",
            "[::1",
            "[::1]7",
            "db 1:7",
            "http://",
            "http://u@h:1",
            "http://db1:7/\u{e4}",
            "https://db1",
            "db1/x",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_status_is_named() {
        let error = status(b"<html>").unwrap_err();
        assert_eq!(
            error.to_string(),
            "no status of a receiver: expected value at line 1 column 1"
        );
    }
}
