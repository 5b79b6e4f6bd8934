//! Asking walring over HTTP, in plain bytes.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::process::Process;
use super::wait;

/// Where a walring started with `--listen=127.0.0.1:0` listens.
pub struct Http {
    address: SocketAddr,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub head: String,
    pub body: String,
}

impl Http {
    /// Of a receiver, once it has said where.
    pub fn of(receiver: &Process) -> Http {
        let line = receiver.wait_for_line("listening on http://");
        let address = line
            .split("http://")
            .nth(1)
            .and_then(|rest| rest.split('/').next());
        let address = address.and_then(|text| text.parse().ok());
        Http {
            address: address.unwrap_or_else(|| panic!("no address in {line:?}")),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A connection on which nothing is asked yet.
    pub fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).expect("connect");
        socket.set_read_timeout(Some(wait::HANG)).expect("set a timeout");
        socket
    }

    /// The answer to a whole request, up to the end of the connection.
    pub fn ask(&self, request: &str) -> Answer {
        let mut socket = self.connect();
        socket.write_all(request.as_bytes()).expect("send a request");
        let mut text = String::new();
        socket.read_to_string(&mut text).expect("read an answer");
        let (head, body) = text
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no head in {text:?}"));
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Answer {
            code: code.unwrap_or_else(|| panic!("no code in {head:?}")),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    /// The answer to GET.
    pub fn get(&self, path: &str) -> Answer {
        self.ask(&format!(
            "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
        ))
    }

    /// The values of all metrics that have no labels but those of the stream, and of counters.
    pub fn metrics(&self) -> HashMap<String, f64> {
        let answer = self.get("/metrics");
        assert_eq!(answer.code, 200, "{answer:?}");
        let lines = answer.body.lines().filter(|line| !line.starts_with('#'));
        lines
            .filter_map(|line| {
                let (name, value) = line.rsplit_once(' ')?;
                let name = name.split('{').next()?;
                Some((name.to_owned(), value.parse().ok()?))
            })
            .collect()
    }

    /// One of [`Http::metrics`].
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let metrics = self.metrics();
        *metrics
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {metrics:#?}"))
    }

    /// Waits until a metric has a value.
    #[track_caller]
    pub fn wait_metric(&self, name: &str, is_right: impl Fn(f64) -> bool) {
        wait::until(name, || {
            self.metrics().get(name).copied().filter(|&value| is_right(value))
        });
    }

    /// Waits until `/healthz` answers with a code; what it says then.
    #[track_caller]
    pub fn wait_health(&self, code: u16) -> String {
        wait::until("the health", || {
            let answer = self.get("/healthz");
            (answer.code == code).then_some(answer.body)
        })
    }
}
