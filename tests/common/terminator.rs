//! A server's front of TLS that is not OpenSSL's: it ends TLS with rustls and carries the content to a port in plain,
//! as proxies do. It seals in its own way, takes new keys, and does harm to records when it is told to.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, poll};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion};

use super::certificates;

/// No more content than this waits to be carried on.
const WAITING: usize = 64 << 10;

/// How it speaks.
#[derive(Clone)]
pub struct Manner {
    pub certificate: &'static str,
    /// The version and the cipher suite, by the beginning of its name; any if that is empty.
    pub version: &'static SupportedProtocolVersion,
    pub suite: &'static str,
    /// The longest record, in bytes of content; `None` is as long as there are.
    pub record: Option<usize>,
    /// Tickets for another session, sent once the handshake is over.
    pub tickets: usize,
    /// It takes new keys, and asks for new keys, behind so many bytes of content, again and again.
    pub rekeys_behind: u64,
    /// On the first connection, to the record behind so many bytes of content, this happens.
    pub harm: Option<(u64, Harm)>,
}

/// What is done to a record on its way to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// A bit of its content is flipped.
    Flip,
    /// A bit of what proves that it is whole is flipped.
    FlipProof,
    /// It comes twice.
    Repeat,
    /// It never comes.
    Lose,
    /// It comes behind the next one.
    Swap,
    /// It says to be of this kind.
    Kind(u8),
    /// It says to be longer than a record may be.
    TooLong,
    /// It is cut off, and so is the connection.
    Truncate,
    /// The connection ends before it, without a farewell.
    Cut,
    /// A farewell comes instead, and then nothing.
    Farewell,
    /// Before it comes a record in plain that says this kind and these bytes.
    Plain(u8, &'static [u8]),
}

impl Default for Manner {
    fn default() -> Manner {
        Manner {
            certificate: "server-localhost",
            version: &rustls::version::TLS13,
            suite: "",
            record: None,
            tickets: 0,
            rekeys_behind: u64::MAX,
            harm: None,
        }
    }
}

/// Listens on a port of its own; gives the port. Its threads end with the connections.
pub fn terminate(target: u16, manner: Manner) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port");
    let port = listener.local_addr().expect("a bound port").port();
    let config = Arc::new(config(&manner));
    let connections = AtomicU64::new(0);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("accept a connection");
            let mut manner = manner.clone();
            if connections.fetch_add(1, Ordering::SeqCst) > 0 {
                manner.harm = None;
            }
            let config = Arc::clone(&config);
            // A connection that fails is over; that is all there is to it.
            std::thread::spawn(move || serve(client, target, config, manner));
        }
    });
    port
}

fn config(manner: &Manner) -> ServerConfig {
    let usual = ring::default_provider();
    let wanted = usual.cipher_suites.iter().copied();
    let cipher_suites: Vec<_> = wanted
        .filter(|suite| format!("{:?}", suite.suite()).starts_with(manner.suite))
        .collect();
    let provider = CryptoProvider {
        cipher_suites,
        ..usual
    };
    let file = |extension| certificates::path(&format!("{}.{extension}", manner.certificate));
    let chain = CertificateDer::pem_file_iter(file("crt")).expect("read a certificate");
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(file("key")).expect("read a key");
    let builder = ServerConfig::builder_with_provider(Arc::new(provider));
    let builder = builder
        .with_protocol_versions(&[manner.version])
        .expect("a version with ciphers");
    let mut config = builder
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a certificate with its key");
    config.max_fragment_size = manner.record;
    config.send_tls13_tickets = manner.tickets;
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    config
}

/// One connection.
struct Front {
    tls: ServerConnection,
    client: TcpStream,
    server: TcpStream,
    manner: Manner,
    /// Bytes of content sealed so far, and since the keys were taken.
    sealed: u64,
    under_these_keys: u64,
    /// Records on their way to the client, and content on its way to the server.
    down: VecDeque<u8>,
    up: VecDeque<u8>,
    /// A record that is to follow the next one.
    held: Vec<u8>,
}

fn serve(mut client: TcpStream, target: u16, config: Arc<ServerConfig>, manner: Manner) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut first = [0; 8];
    client.peek(&mut first)?;
    if first[0] == 0 {
        client.read_exact(&mut first)?;
        client.write_all(b"S")?;
    }
    let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut client)?;
    }
    let server = TcpStream::connect(("127.0.0.1", target))?;
    server.set_nodelay(true)?;
    client.set_nonblocking(true)?;
    server.set_nonblocking(true)?;
    let mut front = Front {
        tls,
        client,
        server,
        manner,
        sealed: 0,
        under_these_keys: 0,
        down: VecDeque::new(),
        up: VecDeque::new(),
        held: Vec::new(),
    };
    let result = front.carry();
    let _ = front.server.shutdown(Shutdown::Both);
    let _ = front.client.shutdown(Shutdown::Both);
    result
}

impl Front {
    fn carry(&mut self) -> io::Result<()> {
        // What came together with the end of the handshake.
        self.open()?;
        loop {
            flush(&mut self.up, &mut self.server)?;
            self.wait()?;
            self.hear_client()?;
            self.hear_server()?;
            flush(&mut self.down, &mut self.client)?;
        }
    }

    fn wait(&self) -> io::Result<()> {
        let wanted = |reads: bool, writes: bool| {
            let reads = if reads { PollFlags::IN } else { PollFlags::empty() };
            reads
                | if writes {
                    PollFlags::OUT
                } else {
                    PollFlags::empty()
                }
        };
        let (up, down) = (self.up.len(), self.down.len());
        let client = PollFd::new(&self.client, wanted(up < WAITING, down > 0));
        let server = PollFd::new(&self.server, wanted(down < WAITING, up > 0));
        poll(&mut [client, server], None)?;
        Ok(())
    }

    fn hear_client(&mut self) -> io::Result<()> {
        if self.up.len() >= WAITING {
            return Ok(());
        }
        match self.tls.read_tls(&mut self.client) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        self.open()
    }

    /// Opens what has arrived from the client.
    fn open(&mut self) -> io::Result<()> {
        let state = self.tls.process_new_packets().map_err(io::Error::other)?;
        let mut content = vec![0; state.plaintext_bytes_to_read()];
        self.tls.reader().read_exact(&mut content)?;
        self.up.extend(content);
        // An answer to new keys may be due.
        self.seal(&[])?;
        match state.peer_has_closed() {
            true => Err(ErrorKind::UnexpectedEof.into()),
            false => Ok(()),
        }
    }

    fn hear_server(&mut self) -> io::Result<()> {
        let mut content = [0; 16 << 10];
        if self.down.len() >= WAITING {
            return Ok(());
        }
        match self.server.read(&mut content) {
            Ok(0) => {
                self.tls.send_close_notify();
                self.seal(&[])?;
                self.client.set_nonblocking(false)?;
                flush(&mut self.down, &mut self.client)?;
                Err(ErrorKind::UnexpectedEof.into())
            }
            Ok(count) => self.seal(&content[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Seals content, and whatever TLS itself has to say; harm is done here.
    fn seal(&mut self, content: &[u8]) -> io::Result<()> {
        if self.under_these_keys >= self.manner.rekeys_behind {
            self.tls.refresh_traffic_keys().map_err(io::Error::other)?;
            self.under_these_keys = 0;
        }
        self.tls.writer().write_all(content)?;
        let mut sealed = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut sealed)?;
        }
        self.sealed += content.len() as u64;
        self.under_these_keys += content.len() as u64;
        let mut rest = &sealed[..];
        while !rest.is_empty() {
            let (record, tail) = rest.split_at(5 + usize::from(u16::from_be_bytes([rest[3], rest[4]])));
            self.send(record)?;
            rest = tail;
        }
        Ok(())
    }

    fn send(&mut self, record: &[u8]) -> io::Result<()> {
        let mut record = record.to_vec();
        let due = |(behind, _): &(u64, Harm)| self.sealed > *behind;
        let Some((_, harm)) = self.manner.harm.take_if(|harm| due(harm)) else {
            self.down.extend(record);
            self.down.extend(self.held.drain(..));
            return Ok(());
        };
        let end = record.len() - 1;
        match harm {
            Harm::Flip => record[5 + 10] ^= 1,
            Harm::FlipProof => record[end] ^= 1,
            Harm::Repeat => record.extend_from_within(..),
            Harm::Lose => record.clear(),
            Harm::Swap => self.held = std::mem::take(&mut record),
            Harm::Kind(kind) => record[0] = kind,
            Harm::TooLong => record[3..5].copy_from_slice(&[0xff, 0xff]),
            Harm::Plain(kind, bytes) => {
                let head = [kind, 3, 3, 0, bytes.len() as u8];
                record = [&head, bytes, &record].concat();
            }
            Harm::Truncate => record.truncate(end / 2),
            Harm::Cut => record.clear(),
            Harm::Farewell => {
                record.clear();
                self.tls.send_close_notify();
                self.tls.write_tls(&mut record)?;
            }
        }
        self.down.extend(record);
        match harm {
            Harm::Truncate | Harm::Cut | Harm::Farewell => {
                self.client.set_nonblocking(false)?;
                flush(&mut self.down, &mut self.client)?;
                Err(ErrorKind::ConnectionAborted.into())
            }
            _ => Ok(()),
        }
    }
}

fn flush(waiting: &mut VecDeque<u8>, to: &mut TcpStream) -> io::Result<()> {
    while !waiting.is_empty() {
        match to.write(waiting.as_slices().0) {
            Ok(count) => drop(waiting.drain(..count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
