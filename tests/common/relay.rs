//! A TCP relay in front of a server: a link that delivers in small pieces, is cut after so many bytes, is slow, or
//! falls silent without being closed, or damages what it carries; or one that notes what the receiver acknowledges.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::statuses::{Acknowledged, Statuses};

/// How often a link that carries nothing looks whether it may again.
const POLL: Duration = Duration::from_millis(1);

/// A listening relay. Its threads end with the connections, the last one with the test program.
pub struct Relay {
    port: u16,
    link: Arc<Link>,
}

/// What the threads of a relay share.
struct Link {
    target: u16,
    piece: usize,
    bytes_per_connection: u64,
    connections: AtomicU64,
    /// The connections up to this one, counted from one, carry nothing any more.
    silent: AtomicU64,
    /// The first connection is silent from this text of the client on.
    trigger: Option<&'static str>,
    /// The first connection carries the bytes behind this text of the server with a bit flipped.
    damaged: Option<&'static str>,
    /// So many bytes from the server may still pass.
    allowed: AtomicU64,
    /// What the receiver has acknowledged, if that is noted.
    statuses: Option<Mutex<Vec<Acknowledged>>>,
    ended: AtomicBool,
}

impl Relay {
    /// Relays to a local port, at most `piece` bytes at a time from the server; each connection is cut behind this
    /// many bytes from the server.
    pub fn to(target: u16, piece: usize, bytes_per_connection: u64) -> Relay {
        Relay::start(Link {
            piece,
            bytes_per_connection,
            ..Link::to(target)
        })
    }

    /// Relays everything, until [`Relay::fall_silent`].
    pub fn plain(target: u16) -> Relay {
        Relay::start(Link::to(target))
    }

    /// The first connection falls silent in both directions when the client sends this text, which the server never
    /// gets.
    pub fn silent_from(target: u16, text: &'static str) -> Relay {
        Relay::start(Link {
            trigger: Some(text),
            ..Link::to(target)
        })
    }

    /// So many bytes from the server pass, and as many more as [`Relay::allow`] says.
    pub fn metered(target: u16, bytes: u64) -> Relay {
        Relay::start(Link {
            allowed: AtomicU64::new(bytes),
            ..Link::to(target)
        })
    }

    /// On the first connection one bit of the byte behind this text of the server is flipped.
    pub fn damaging_behind(target: u16, text: &'static str) -> Relay {
        Relay::start(Link {
            damaged: Some(text),
            ..Link::to(target)
        })
    }

    /// Relays everything, and notes what the receiver acknowledges when it arrives here.
    pub fn noting(target: u16) -> Relay {
        Relay::start(Link {
            statuses: Some(Mutex::default()),
            ..Link::to(target)
        })
    }

    /// What the receivers have acknowledged through [`Relay::noting`], the latest last.
    pub fn acknowledged(&self) -> Vec<Acknowledged> {
        let noted = self.link.statuses.as_ref().expect("a relay that notes");
        noted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections there have been.
    pub fn connections(&self) -> u64 {
        self.link.connections.load(Ordering::SeqCst)
    }

    /// Lets so many more bytes from the server pass.
    pub fn allow(&self, bytes: u64) {
        self.link.allowed.fetch_add(bytes, Ordering::SeqCst);
    }

    /// The connections there are carry nothing any more, in neither direction, and are not closed; later ones are
    /// well.
    pub fn fall_silent(&self) {
        self.link.silent.store(self.connections(), Ordering::SeqCst);
    }

    /// Waits for the trigger of [`Relay::silent_from`].
    pub fn wait_for_silence(&self) {
        super::wait::until("the link falls silent", || {
            (self.link.silent.load(Ordering::SeqCst) > 0).then_some(())
        });
    }

    fn start(link: Link) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port");
        let port = listener.local_addr().expect("a bound port").port();
        let link = Arc::new(link);
        let shared = Arc::clone(&link);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("accept a connection");
                let number = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
                let link = Arc::clone(&shared);
                std::thread::spawn(move || connect(&link, number, client));
            }
        });
        Relay { port, link }
    }
}

/// Silent links would otherwise be kept for ever, and the server's side with them.
impl Drop for Relay {
    fn drop(&mut self) {
        self.link.ended.store(true, Ordering::SeqCst);
    }
}

impl Link {
    fn to(target: u16) -> Link {
        Link {
            target,
            piece: 8192,
            bytes_per_connection: u64::MAX,
            connections: AtomicU64::new(0),
            silent: AtomicU64::new(0),
            trigger: None,
            damaged: None,
            allowed: AtomicU64::new(u64::MAX / 2),
            statuses: None,
            ended: AtomicBool::new(false),
        }
    }

    /// Falls silent if this is the text to do it at.
    fn notice(&self, number: u64, bytes: &[u8]) {
        let Some(text) = self.trigger.filter(|_| number == 1) else {
            return;
        };
        if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
            self.silent.store(1, Ordering::SeqCst);
        }
    }

    /// Flips a bit if this is where to do it. The text must not be cut, so it is sent in one small message.
    fn damage(&self, number: u64, bytes: &mut [u8]) {
        let Some(text) = self.damaged.filter(|_| number == 1) else {
            return;
        };
        let found = bytes
            .windows(text.len())
            .position(|window| window == text.as_bytes());
        if let Some(byte) = found.and_then(|at| bytes.get_mut(at + text.len())) {
            *byte ^= 0x10;
        }
    }

    /// Notes what is acknowledged in these bytes of the client.
    fn note(&self, statuses: &mut Statuses, bytes: &[u8]) {
        if let Some(noted) = &self.statuses {
            let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
            statuses.read(bytes, &mut noted);
        }
    }

    /// Waits while the connection is silent; false if the relay has ended meanwhile.
    fn wait_until_heard(&self, number: u64) -> bool {
        self.wait(|| number > self.silent.load(Ordering::SeqCst))
    }

    /// Waits until these bytes from the server may pass.
    fn wait_until_allowed(&self, bytes: u64) -> bool {
        self.wait(|| self.allowed.load(Ordering::SeqCst) >= bytes) && {
            self.allowed.fetch_sub(bytes, Ordering::SeqCst);
            true
        }
    }

    fn wait(&self, condition: impl Fn() -> bool) -> bool {
        while !condition() {
            if self.ended.load(Ordering::SeqCst) {
                return false;
            }
            std::thread::sleep(POLL);
        }
        true
    }
}

fn connect(link: &Arc<Link>, number: u64, client: TcpStream) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", link.target)) else {
        return;
    };
    client.set_nodelay(true).expect("set an option");
    let (to_server, from_client) = (clone(&server), clone(&client));
    let upward = Arc::clone(link);
    std::thread::spawn(move || {
        let mut statuses = Statuses::of(number);
        carry(from_client, to_server, 8192, u64::MAX, |bytes| {
            upward.note(&mut statuses, bytes);
            upward.notice(number, bytes);
            upward.wait_until_heard(number)
        });
    });
    carry(server, client, link.piece, link.bytes_per_connection, |bytes| {
        link.damage(number, bytes);
        link.wait_until_heard(number) && link.wait_until_allowed(bytes.len() as u64)
    });
}

/// Carries bytes until either side ends, `limit` is reached or `may_pass` says no.
fn carry(
    mut from: TcpStream,
    mut to: TcpStream,
    piece: usize,
    mut limit: u64,
    mut may_pass: impl FnMut(&mut [u8]) -> bool,
) {
    let mut buffer = vec![0; piece];
    while limit > 0 {
        let most = piece.min(usize::try_from(limit).unwrap_or(piece));
        let Ok(count @ 1..) = from.read(&mut buffer[..most]) else {
            break;
        };
        if !may_pass(&mut buffer[..count]) || to.write_all(&buffer[..count]).is_err() {
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
