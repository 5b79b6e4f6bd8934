//! What a client says first of all when TLS begins: its hello, which anybody on the way can read.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::channel;

use super::attempt::{Attempt, Client};
use super::process::Exit;

/// A client that asks for TLS before it begins says this.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// The first message of TLS, without the head of its record.
pub struct Hello {
    bytes: Vec<u8>,
    /// Whether it came without a question before it.
    pub at_once: bool,
}

/// What a client says to a server that would speak TLS, and then hangs up; and how the client ended. `None` if it
/// wanted no TLS.
pub fn hello_of(client: &Client, attempt: &Attempt) -> (Option<Hello>, Exit) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port");
    let port = listener.local_addr().expect("a bound port").port();
    let (send, first) = channel();
    std::thread::spawn(move || {
        // Nobody waits any more once the client has ended.
        let _ = send.send(listen(&listener));
        // Whoever comes again, for want of TLS, is turned away.
        listener.incoming().for_each(drop);
    });
    let exit = client.meet(port, attempt);
    (first.recv().expect("the client came"), exit)
}

fn listen(listener: &TcpListener) -> Option<Hello> {
    let (mut socket, _) = listener.accept().ok()?;
    let mut start = [0; 8];
    socket.read_exact(&mut start).ok()?;
    let at_once = start != SSL_REQUEST;
    if at_once && start[..2] != [22, 3] {
        return None;
    }
    let mut record = if at_once { start.to_vec() } else { Vec::new() };
    if !at_once {
        socket.write_all(b"S").ok()?;
    }
    let mut block = [0; 4096];
    while record.len() < 5 || record.len() < 5 + length(&record[3..5]) {
        match socket.read(&mut block).ok()? {
            0 => return None,
            count => record.extend(&block[..count]),
        }
    }
    Some(Hello {
        bytes: record.split_off(5),
        at_once,
    })
}

impl Hello {
    /// The name of the server asked for.
    pub fn server_name(&self) -> Option<String> {
        // The list's length, the kind, the name's length, the name.
        self.extension(0).map(|body| text(&body[5..]))
    }

    /// The protocols offered to be spoken inside.
    pub fn protocols(&self) -> Vec<String> {
        let Some(body) = self.extension(16) else {
            return Vec::new();
        };
        let mut rest = &body[2..];
        let mut found = Vec::new();
        while let [length, tail @ ..] = rest {
            let (name, tail) = tail.split_at(usize::from(*length));
            found.push(text(name));
            rest = tail;
        }
        found
    }

    fn extension(&self, wanted: u16) -> Option<&[u8]> {
        // Kind, length, version and random, then three lists; behind them the extensions.
        let mut at = 4 + 2 + 32;
        at += 1 + usize::from(self.bytes[at]);
        at += 2 + length(&self.bytes[at..]);
        at += 1 + usize::from(self.bytes[at]);
        let mut rest = &self.bytes[at + 2..];
        while rest.len() >= 4 {
            let (kind, end) = (length(rest), 4 + length(&rest[2..]));
            if kind == usize::from(wanted) {
                return Some(&rest[4..end]);
            }
            rest = &rest[end..];
        }
        None
    }
}

fn length(bytes: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
