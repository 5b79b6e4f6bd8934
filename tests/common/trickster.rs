//! A server that has its own idea of how a connection begins, and keeps everything that its clients say.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::attempt::{Attempt, Client};
use super::words::said;

/// A client that has said nothing for so long has nothing more to say.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client's connection, seen by the trickster.
pub struct Peer {
    socket: TcpStream,
    /// Which connection it is, counted from one.
    pub number: usize,
    heard: Vec<u8>,
}

/// What came of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub struct Tricked {
    pub connected: bool,
    /// What the program says, without its name and the words of the TLS library.
    pub said: Vec<String>,
    /// All that the client said, connection by connection.
    pub heard: Vec<Vec<u8>>,
}

/// One client makes an attempt on a server that plays the script on each connection, and then hears it out.
pub fn trick(
    client: &Client,
    attempt: &Attempt,
    script: impl Fn(&mut Peer) -> io::Result<()> + Send + Sync + 'static,
) -> Tricked {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port");
    let port = listener.local_addr().expect("a bound port").port();
    let heard = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
    let shared = Arc::clone(&heard);
    std::thread::spawn(move || {
        // One client makes one connection after the other.
        for (index, socket) in listener.incoming().enumerate() {
            shared.lock().expect("what was heard").push(Vec::new());
            let mut peer = Peer::new(socket.expect("accept a connection"), index + 1);
            // A script that fails has lost its client, and the rest is silence, too.
            let _ = script(&mut peer).and_then(|()| peer.hear_out());
            shared.lock().expect("what was heard")[index] = peer.heard;
        }
    });
    let exit = client.meet(port, attempt);
    // The last connection's end may be noticed a moment later.
    let mut last = Vec::new();
    super::wait::until("all is heard", || {
        let now = heard.lock().expect("what was heard").clone();
        let settled = now == last && now.iter().all(|heard| !heard.is_empty());
        last = now;
        std::thread::sleep(Duration::from_millis(20));
        settled.then_some(())
    });
    Tricked {
        connected: exit.code == Some(0),
        said: said(&exit.stderr)
            .into_iter()
            .map(|line| line.replace(&port.to_string(), "PORT"))
            .collect(),
        heard: last,
    }
}

impl Peer {
    fn new(socket: TcpStream, number: usize) -> Peer {
        socket.set_nodelay(true).expect("set an option");
        socket.set_read_timeout(Some(PATIENCE)).expect("set an option");
        Peer {
            socket,
            number,
            heard: Vec::new(),
        }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Hears a message without a tag, such as a request for TLS: its body.
    pub fn request(&mut self) -> io::Result<Vec<u8>> {
        let length = self.hear(4)?;
        let length = u32::from_be_bytes(length.try_into().expect("four bytes"));
        self.hear(length.saturating_sub(4) as usize)
    }

    /// Hears one record of TLS.
    pub fn record(&mut self) -> io::Result<Vec<u8>> {
        let head = self.hear(5)?;
        self.hear(usize::from(u16::from_be_bytes([head[3], head[4]])))
    }

    /// Hears so many bytes.
    pub fn hear(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.socket.read_exact(&mut bytes)?;
        self.heard.extend(&bytes);
        Ok(bytes)
    }

    /// Says nothing more, and hears everything up to the end.
    pub fn hear_out(&mut self) -> io::Result<()> {
        self.socket.read_to_end(&mut self.heard).map(drop)
    }

    /// Hangs up; what the client says then is not heard.
    pub fn hang_up(&mut self) -> io::Result<()> {
        self.socket.shutdown(std::net::Shutdown::Both)
    }
}
