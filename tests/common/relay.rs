//! A TCP relay in front of a server: a link that delivers in small pieces, or is cut after so many bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A listening relay. Its threads end with the connections, the last one with the test program.
pub struct Relay {
    port: u16,
    connections: Arc<AtomicU64>,
}

impl Relay {
    /// Relays to a local port, at most `piece` bytes at a time from the server; each connection is cut behind this
    /// many bytes from the server.
    pub fn to(target: u16, piece: usize, bytes_per_connection: u64) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port");
        let port = listener.local_addr().expect("a bound port").port();
        let connections = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&connections);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("accept a connection");
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || connect(client, target, piece, bytes_per_connection));
            }
        });
        Relay { port, connections }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections there have been.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

fn connect(client: TcpStream, target: u16, piece: usize, limit: u64) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else {
        return;
    };
    client.set_nodelay(true).expect("set an option");
    let (to_server, from_client) = (clone(&server), clone(&client));
    std::thread::spawn(move || carry(from_client, to_server, 8192, u64::MAX));
    carry(server, client, piece, limit);
}

fn carry(mut from: TcpStream, mut to: TcpStream, piece: usize, mut limit: u64) {
    let mut buffer = vec![0; piece];
    while limit > 0 {
        let most = piece.min(usize::try_from(limit).unwrap_or(piece));
        let Ok(count @ 1..) = from.read(&mut buffer[..most]) else {
            break;
        };
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
        limit -= count as u64;
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

fn clone(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("share a connection")
}
