//! A TCP relay in front of a server: a link that delivers in small pieces, late or slowly, is cut after so many bytes,
//! stalls, falls silent without being closed, or damages what it carries; or one that notes what the receiver acknowledges.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

use super::statuses::{Acknowledged, Statuses};

/// How often a link that carries nothing looks whether it may again.
const POLL: Duration = Duration::from_millis(1);

/// So many bytes are carried at a time.
const PIECE: usize = 8192;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the server to its client.
    Down,
    /// From the client to its server.
    Up,
}

/// Both.
pub const DIRECTIONS: [Direction; 2] = [Direction::Down, Direction::Up];

/// What a link does to the bytes of one direction. It can change at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weather {
    /// Each piece arrives so much later than it could.
    pub delay: Duration,
    /// No more than that passes in a second.
    pub bytes_per_second: u64,
    /// The most bytes that travel together.
    pub piece: usize,
    /// Behind so many bytes a connection is cut.
    pub cut_behind: u64,
    /// The cut is a reset, not an end in good order.
    pub reset: bool,
    /// Nothing passes for now.
    pub stalled: bool,
    /// In the byte behind so many of a connection a bit is flipped.
    pub flip_behind: Option<u64>,
}

impl Weather {
    /// Everything passes at once.
    pub const FAIR: Weather = Weather {
        delay: Duration::ZERO,
        bytes_per_second: u64::MAX,
        piece: PIECE,
        cut_behind: u64::MAX,
        reset: false,
        stalled: false,
        flip_behind: None,
    };
}

/// A listening relay. Its threads end with the connections, the last one with the test program.
pub struct Relay {
    port: u16,
    link: Arc<Link>,
}

/// What the threads of a relay share. The pairs are of the two directions.
struct Link {
    target: AtomicU16,
    weather: [Mutex<Weather>; 2],
    connections: AtomicU64,
    /// The connections up to this one, counted from one, carry nothing any more.
    silent: [AtomicU64; 2],
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

/// One of the two directions of a connection.
struct Lane {
    link: Arc<Link>,
    number: u64,
    direction: Direction,
    /// The connection is to be reset, not ended.
    reset: Arc<AtomicBool>,
}

impl Relay {
    /// Relays to a local port, at most `piece` bytes at a time from the server; each connection is cut behind this
    /// many bytes from the server.
    pub fn to(target: u16, piece: usize, bytes_per_connection: u64) -> Relay {
        let relay = Relay::plain(target);
        let weather = Weather {
            piece,
            cut_behind: bytes_per_connection,
            ..Weather::FAIR
        };
        relay.set(Direction::Down, weather);
        relay
    }

    /// Relays everything, until told otherwise.
    pub fn plain(target: u16) -> Relay {
        Relay::start(Link::to(target))
    }

    /// The same on an address of its own.
    pub fn plain_at(address: &str, target: u16) -> Relay {
        Relay::start_at(address, Link::to(target))
    }

    /// From now on connections lead to another local port; those that there are stay.
    pub fn turn_to(&self, target: u16) {
        self.link.target.store(target, Ordering::SeqCst);
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

    /// What becomes of the bytes of one direction from now on, on every connection.
    pub fn set(&self, direction: Direction, weather: Weather) {
        *self.link.weather[direction as usize].lock().expect("the weather") = weather;
    }

    /// The connections there are carry nothing any more, in neither direction, and are not closed; later ones are
    /// well.
    pub fn fall_silent(&self) {
        DIRECTIONS
            .into_iter()
            .for_each(|direction| self.swallow(direction));
    }

    /// The connections there are carry nothing any more in this direction, and are not closed; later ones are well.
    pub fn swallow(&self, direction: Direction) {
        self.link.silent[direction as usize].store(self.connections(), Ordering::SeqCst);
    }

    /// Waits for the trigger of [`Relay::silent_from`].
    pub fn wait_for_silence(&self) {
        super::wait::until("the link falls silent", || {
            (self.link.silent[0].load(Ordering::SeqCst) > 0).then_some(())
        });
    }

    fn start(link: Link) -> Relay {
        Relay::start_at("127.0.0.1:0", link)
    }

    fn start_at(address: &str, link: Link) -> Relay {
        let listener = TcpListener::bind(address).expect("bind a port");
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
            target: AtomicU16::new(target),
            weather: DIRECTIONS.map(|_| Mutex::new(Weather::FAIR)),
            connections: AtomicU64::new(0),
            silent: DIRECTIONS.map(|_| AtomicU64::new(0)),
            trigger: None,
            damaged: None,
            allowed: AtomicU64::new(u64::MAX / 2),
            statuses: None,
            ended: AtomicBool::new(false),
        }
    }

    /// Falls silent if this is the text to do it at.
    fn notice(&self, bytes: &[u8]) {
        let Some(text) = self.trigger else { return };
        if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
            self.silent
                .iter()
                .for_each(|silent| silent.store(1, Ordering::SeqCst));
        }
    }

    /// Flips a bit if this is where to do it. The text must not be cut, so it is sent in one small message.
    fn damage(&self, bytes: &mut [u8]) {
        let Some(text) = self.damaged else { return };
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

    /// Waits for the condition; false if the relay has ended meanwhile.
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

impl Lane {
    fn weather(&self) -> Weather {
        let weather = &self.link.weather[self.direction as usize];
        weather.lock().expect("the weather").clone()
    }

    /// Carries bytes until either side ends or the connection is to be cut.
    fn carry(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; PIECE];
        let mut statuses = Statuses::of(self.number);
        let mut carried = 0;
        loop {
            let weather = self.weather();
            let rest = weather.cut_behind.saturating_sub(carried);
            if rest == 0 {
                self.reset.fetch_or(weather.reset, Ordering::SeqCst);
                break;
            }
            let most = (weather.piece.min(PIECE) as u64).min(rest) as usize;
            let Ok(count @ 1..) = from.read(&mut buffer[..most]) else {
                break;
            };
            let bytes = &mut buffer[..count];
            if self.direction == Direction::Up {
                self.link.note(&mut statuses, bytes);
            }
            if !self.may_pass(carried, bytes) || to.write_all(bytes).is_err() {
                break;
            }
            carried += count as u64;
        }
        self.end(&from, &to);
    }

    /// Does to the bytes what the weather does, and waits until they may pass; false if that never comes.
    fn may_pass(&self, carried: u64, bytes: &mut [u8]) -> bool {
        let link = &self.link;
        match self.direction {
            Direction::Up if self.number == 1 => link.notice(bytes),
            Direction::Down if self.number == 1 => link.damage(bytes),
            _ => {}
        }
        let weather = self.weather();
        let flipped = weather.flip_behind.and_then(|at| at.checked_sub(carried));
        if let Some(byte) = flipped.and_then(|at| bytes.get_mut(at as usize)) {
            *byte ^= 0x10;
        }
        let count = bytes.len() as u64;
        std::thread::sleep(
            weather.delay + Duration::from_secs(count).div_f64(weather.bytes_per_second as f64),
        );
        let silent = &link.silent[self.direction as usize];
        let heard = link.wait(|| self.number > silent.load(Ordering::SeqCst) && !self.weather().stalled);
        heard && (self.direction == Direction::Up || self.wait_until_allowed(count))
    }

    fn wait_until_allowed(&self, bytes: u64) -> bool {
        let allowed = &self.link.allowed;
        self.link.wait(|| allowed.load(Ordering::SeqCst) >= bytes) && {
            allowed.fetch_sub(bytes, Ordering::SeqCst);
            true
        }
    }

    /// Ends both directions. A reset is what closing brings once the other lane, which notices, has closed, too.
    fn end(&self, from: &TcpStream, to: &TcpStream) {
        let reset = self.reset.load(Ordering::SeqCst);
        for socket in [from, to] {
            if reset {
                let _ = set_socket_linger(socket, Some(Duration::ZERO));
            }
            let how = if reset { Shutdown::Read } else { Shutdown::Both };
            let _ = socket.shutdown(how);
        }
    }
}

fn connect(link: &Arc<Link>, number: u64, client: TcpStream) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", link.target.load(Ordering::SeqCst))) else {
        return;
    };
    for socket in [&client, &server] {
        socket.set_nodelay(true).expect("set an option");
    }
    let (to_server, from_client) = (clone(&server), clone(&client));
    let reset = Arc::new(AtomicBool::new(false));
    let lane = |direction| Lane {
        link: Arc::clone(link),
        number,
        direction,
        reset: Arc::clone(&reset),
    };
    let (up, down) = (lane(Direction::Up), lane(Direction::Down));
    std::thread::spawn(move || up.carry(from_client, to_server));
    down.carry(server, client);
}

fn clone(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("share a connection")
}
