//! A walsender that is none: it speaks the protocol on loopback as a test's script has it, well or badly.
//!
//! A script talks through a [`Session`], which knows how to let a client in, answer its questions and send WAL as a
//! server does; whatever else a script wants to say it sends as bytes. What the client claims to have is written down.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A client that has not hung up after so long never will.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of WAL in a message, as servers send them when they have much.
const PAYLOAD: usize = 128 << 10;

/// Stands where the protocol's version does in a startup message.
const SSL_REQUEST: u32 = 80_877_103;

/// The parameters a server reports, as far as a receiver cares.
const PARAMETERS: [(&str, &str); 2] = [("server_version", "15.18"), ("integer_datetimes", "on")];

/// Who the server says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub system_identifier: String,
    pub timeline: String,
    /// How far it says its log is flushed.
    pub flushed: String,
    /// As SHOW prints it.
    pub segment_size: String,
}

/// A listening server.
pub struct Walsender {
    port: u16,
    heard: Arc<Heard>,
}

/// What clients said.
#[derive(Debug, Default)]
struct Heard {
    connections: AtomicU64,
    statuses: AtomicU64,
    flushed: AtomicU64,
}

/// A client's connection.
pub struct Session {
    socket: TcpStream,
    identity: Identity,
    heard: Arc<Heard>,
    /// Which connection it is, counted from one.
    pub number: u64,
    /// Hears what the client says, once that is wanted: nobody else reads then.
    ear: Option<JoinHandle<()>>,
}

impl Walsender {
    /// Plays `script` for each client, in a thread of its own. A script that fails has lost its client; that is not
    /// its fault.
    pub fn start<S>(identity: Identity, script: S) -> Walsender
    where
        S: Fn(&mut Session) -> io::Result<()> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port");
        let port = listener.local_addr().expect("a bound port").port();
        let (heard, script) = (Arc::new(Heard::default()), Arc::new(script));
        let shared = Arc::clone(&heard);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let socket = socket.expect("accept a connection");
                let mut session = Session::new(socket, &identity, &shared);
                let script = Arc::clone(&script);
                std::thread::spawn(move || {
                    let _ = script(&mut session);
                    let _ = session.socket.shutdown(Shutdown::Both);
                });
            }
        });
        Walsender { port, heard }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections there have been.
    pub fn connections(&self) -> u64 {
        self.heard.connections.load(Ordering::SeqCst)
    }

    /// How many statuses clients have sent.
    pub fn statuses(&self) -> u64 {
        self.heard.statuses.load(Ordering::SeqCst)
    }

    /// The greatest position that a client ever called flushed; zero if none did.
    pub fn flushed(&self) -> u64 {
        self.heard.flushed.load(Ordering::SeqCst)
    }
}

impl Session {
    fn new(socket: TcpStream, identity: &Identity, heard: &Arc<Heard>) -> Session {
        socket.set_nodelay(true).expect("set an option");
        for limit in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
            limit(&socket, Some(PATIENCE)).expect("set an option");
        }
        Session {
            socket,
            identity: identity.clone(),
            number: heard.connections.fetch_add(1, Ordering::SeqCst) + 1,
            heard: Arc::clone(heard),
            ear: None,
        }
    }

    /// Who the server says it is.
    pub fn system_identifier(&self) -> String {
        self.identity.system_identifier.clone()
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Sends the same bytes again and again: until the client hangs up, or there are so many of them.
    pub fn flood(&mut self, bytes: &[u8], most: usize) -> io::Result<()> {
        let block = bytes.repeat((64 << 10) / bytes.len() + 1);
        for _ in 0..most / block.len() + 1 {
            self.send(&block)?;
        }
        Ok(())
    }

    /// Reads the startup message; a client that asks for encryption first is told that there is none.
    pub fn startup(&mut self) -> io::Result<()> {
        loop {
            let length = self.number_of_bytes()?;
            if self.body(length)? != SSL_REQUEST.to_be_bytes() {
                return Ok(());
            }
            self.send(b"N")?;
        }
    }

    /// Reads the startup message and lets the client in without a question.
    pub fn let_in(&mut self) -> io::Result<()> {
        self.startup()?;
        self.send(&authentication(0, b""))?;
        self.welcome()
    }

    /// What follows a successful authentication.
    pub fn welcome(&mut self) -> io::Result<()> {
        for (name, value) in PARAMETERS {
            self.send(&parameter(name, value))?;
        }
        self.send(&[message(b'K', &[7; 8]), ready()].concat())
    }

    /// The next message of the client: its tag and body.
    pub fn hear(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut tag = [0];
        self.socket.read_exact(&mut tag)?;
        let length = self.number_of_bytes()?;
        Ok((tag[0], self.body(length)?))
    }

    /// The client's next command; an error if it takes its leave instead.
    pub fn command(&mut self) -> io::Result<String> {
        match self.hear()? {
            (b'Q', body) => Ok(String::from_utf8_lossy(&body).trim_end_matches('\0').to_owned()),
            _ => Err(ErrorKind::ConnectionAborted.into()),
        }
    }

    /// What an honest server answers to a command, START_REPLICATION among them.
    pub fn usual_answer(&self, command: &str) -> Vec<u8> {
        let identity = &self.identity;
        match command.split_whitespace().next_back() {
            _ if command.starts_with("START_REPLICATION") => copy_both(),
            Some("wal_segment_size") => rows(&[&[&identity.segment_size]]),
            Some("data_directory_mode") => rows(&[&["0700"]]),
            Some("IDENTIFY_SYSTEM") => {
                rows(&[&[&identity.system_identifier, &identity.timeline, &identity.flushed]])
            }
            _ => [error("ERROR", "42601", "syntax error"), ready()].concat(),
        }
    }

    /// Lets the client in and answers honestly up to the beginning of the stream: from where it is to go.
    pub fn stream(&mut self) -> io::Result<u64> {
        self.let_in()?;
        self.stream_saying(|_| None)
    }

    /// Answers up to the beginning of the stream, as `special` has it or else honestly; where it is to begin.
    pub fn stream_saying(&mut self, special: impl Fn(&str) -> Option<Vec<u8>>) -> io::Result<u64> {
        loop {
            let command = self.command()?;
            let answer = special(&command);
            let streams = command.starts_with("START_REPLICATION") && answer.is_none();
            self.send(&answer.unwrap_or_else(|| self.usual_answer(&command)))?;
            if streams {
                return Ok(asked_position(&command));
            }
        }
    }

    /// From now on what the client says inside the stream is read and written down, in another thread.
    pub fn listen(&mut self) {
        let mut ear = Session {
            socket: self.socket.try_clone().expect("share a connection"),
            identity: self.identity.clone(),
            heard: Arc::clone(&self.heard),
            number: self.number,
            ear: None,
        };
        self.ear = Some(std::thread::spawn(move || while ear.hear_status().is_ok() {}));
    }

    fn hear_status(&mut self) -> io::Result<()> {
        let (tag, body) = self.hear()?;
        if tag == b'd' && body.len() == 34 && body[0] == b'r' {
            let flushed = u64::from_be_bytes(body[9..17].try_into().expect("eight bytes"));
            self.heard.statuses.fetch_add(1, Ordering::SeqCst);
            self.heard.flushed.fetch_max(flushed, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Sends WAL that begins there, in messages as long as servers make them.
    pub fn send_wal(&mut self, start: u64, wal: &[u8]) -> io::Result<()> {
        let end = start + wal.len() as u64;
        let mut at = start;
        for payload in wal.chunks(PAYLOAD) {
            self.send(&wal_message(at, end, payload))?;
            at += payload.len() as u64;
        }
        Ok(())
    }

    /// Waits until the client claims to have flushed so much; false if that does not come.
    pub fn wait_flushed(&self, position: u64) -> bool {
        let began = Instant::now();
        while self.heard.flushed.load(Ordering::SeqCst) < position {
            if began.elapsed() > PATIENCE {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Waits until the client has sent nothing for a moment: what it had to say about the last bytes it has said.
    pub fn rest(&mut self) -> io::Result<()> {
        let statuses = || self.heard.statuses.load(Ordering::SeqCst);
        let mut seen = u64::MAX;
        for _ in 0..20 {
            if std::mem::replace(&mut seen, statuses()) == statuses() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Says nothing more, and waits until the client hangs up.
    pub fn hear_out(&mut self) -> io::Result<()> {
        if let Some(ear) = self.ear.take() {
            ear.join().expect("what a client says is understood");
            return Ok(());
        }
        let mut unheard = [0; 4096];
        while self.socket.read(&mut unheard)? > 0 {}
        Ok(())
    }

    /// Says nothing more and reads nothing, and waits until the client hangs up.
    pub fn ignore(&mut self) -> io::Result<()> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let mut pending = [0];
            if self.socket.peek(&mut pending)? == 0 {
                break;
            }
            if self.socket.take_error()?.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn number_of_bytes(&mut self) -> io::Result<usize> {
        let mut length = [0; 4];
        self.socket.read_exact(&mut length)?;
        Ok((u32::from_be_bytes(length) as usize).saturating_sub(4))
    }

    fn body(&mut self, length: usize) -> io::Result<Vec<u8>> {
        assert!(length < 1 << 20, "a client's message of {length} bytes");
        let mut body = vec![0; length];
        self.socket.read_exact(&mut body)?;
        Ok(body)
    }
}

/// The position that START_REPLICATION asks for.
pub fn asked_position(command: &str) -> u64 {
    let mut words = command.split_whitespace();
    let lsn = words.find(|word| word.contains('/')).expect("a position");
    lsn.parse::<super::Lsn>().expect("a position").0
}

// ---- messages ----

/// A message of this kind.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    announced(tag, body.len() as u32 + 4, body)
}

/// The beginning of a message that says of itself to be so long.
pub fn announced(tag: u8, length: u32, body: &[u8]) -> Vec<u8> {
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

/// An authentication request.
pub fn authentication(code: u32, data: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes(), data].concat())
}

/// A parameter the server reports.
pub fn parameter(name: &str, value: &str) -> Vec<u8> {
    message(b'S', format!("{name}\0{value}\0").as_bytes())
}

/// The server waits for a command.
pub fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

/// An error.
pub fn error(severity: &str, sqlstate: &str, text: &str) -> Vec<u8> {
    report(b'E', severity, sqlstate, text)
}

/// A notice.
pub fn notice(severity: &str, text: &str) -> Vec<u8> {
    report(b'N', severity, "00000", text)
}

fn report(tag: u8, severity: &str, sqlstate: &str, text: &str) -> Vec<u8> {
    let body = format!("S{severity}\0V{severity}\0C{sqlstate}\0M{text}\0\0");
    message(tag, body.as_bytes())
}

/// The whole answer to a command: its rows.
pub fn rows(rows: &[&[&str]]) -> Vec<u8> {
    let mut answer = Vec::new();
    for row in rows {
        answer.extend(data_row(row));
    }
    [answer, message(b'C', b"SELECT 1\0"), ready()].concat()
}

/// One row.
pub fn data_row(columns: &[&str]) -> Vec<u8> {
    let mut body = (columns.len() as u16).to_be_bytes().to_vec();
    for column in columns {
        body.extend((column.len() as u32).to_be_bytes());
        body.extend(column.as_bytes());
    }
    message(b'D', &body)
}

/// Streaming begins.
pub fn copy_both() -> Vec<u8> {
    message(b'W', &[0, 0, 0])
}

/// Inside the stream.
pub fn copy_data(body: &[u8]) -> Vec<u8> {
    message(b'd', body)
}

/// WAL that begins there; the server has it up to `server_end`.
pub fn wal_message(start: u64, server_end: u64, payload: &[u8]) -> Vec<u8> {
    copy_data(&[&wal_head(start, server_end), payload].concat())
}

/// What stands before the WAL in its message.
pub fn wal_head(start: u64, server_end: u64) -> Vec<u8> {
    let time = [0; 8];
    [&b"w"[..], &start.to_be_bytes(), &server_end.to_be_bytes(), &time].concat()
}

/// The server is alive.
pub fn keepalive(server_end: u64, reply: bool) -> Vec<u8> {
    let time = [0; 8];
    copy_data(&[&b"k"[..], &server_end.to_be_bytes(), &time, &[u8::from(reply)]].concat())
}
