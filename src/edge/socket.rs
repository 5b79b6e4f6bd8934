//! A socket to the server, TCP or Unix, and its way out of tokio and back.

use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use bytes::BytesMut;
use rustix::net::sockopt;
use rustix::process::Uid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

/// What is asked of a TCP socket; `None` leaves the system's value.
#[derive(Debug, Clone, Default)]
pub struct TcpOptions {
    /// Whether to send keepalives at all.
    pub keepalives: bool,
    /// How long to be idle before the first keepalive.
    pub keepalives_idle: Option<Duration>,
    /// How long to wait between keepalives.
    pub keepalives_interval: Option<Duration>,
    /// How many keepalives may stay unanswered.
    pub keepalives_count: Option<u32>,
    /// How long sent data may stay unacknowledged, in milliseconds.
    pub user_timeout_ms: Option<u32>,
}

/// An address to connect to.
#[derive(Debug, Clone)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// The path of a Unix socket; with an `@` in front, a name in the abstract namespace.
    Unix(String),
}

/// Which kind of socket it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// A Unix socket.
    Unix,
}

/// A connected socket that tokio watches.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

impl Socket {
    /// Connects, with Nagle's algorithm off: what is sent is small and waited for.
    pub async fn connect(address: &Address, options: &TcpOptions) -> io::Result<Socket> {
        match address {
            Address::Tcp(address) => connect_tcp(*address, options).await.map(Socket::Tcp),
            Address::Unix(path) => {
                // The kernel marks the abstract namespace by a NUL.
                let path = path
                    .strip_prefix('@')
                    .map_or(path.clone(), |name| format!("\0{name}"));
                UnixStream::connect(path).await.map(Socket::Unix)
            }
        }
    }

    /// Reads what there is into `buffer`; zero bytes is the end.
    pub async fn read_into(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read_buf(buffer).await,
            Socket::Unix(stream) => stream.read_buf(buffer).await,
        }
    }

    /// Reads what there is into `target`; zero bytes is the end.
    pub async fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(target).await,
            Socket::Unix(stream) => stream.read(target).await,
        }
    }

    /// Writes all of `bytes`.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.write_all(bytes).await,
            Socket::Unix(stream) => stream.write_all(bytes).await,
        }
    }

    /// The user whose process is at the other end of a Unix socket.
    pub fn peer_user(&self) -> io::Result<Uid> {
        match self {
            Socket::Tcp(_) => Err(io::ErrorKind::Unsupported.into()),
            Socket::Unix(stream) => Ok(sockopt::socket_peercred(stream)?.uid),
        }
    }

    /// Which kind of socket this is.
    pub fn transport(&self) -> Transport {
        match self {
            Socket::Tcp(_) => Transport::Tcp,
            Socket::Unix(_) => Transport::Unix,
        }
    }

    /// Takes the socket from tokio and makes it blocking, as io_uring wants it: the ring hands
    /// EAGAIN through where a socket is non-blocking, instead of waiting.
    pub fn into_blocking(self) -> io::Result<OwnedFd> {
        match self {
            Socket::Tcp(stream) => {
                let stream = stream.into_std()?;
                stream.set_nonblocking(false)?;
                Ok(stream.into())
            }
            Socket::Unix(stream) => {
                let stream = stream.into_std()?;
                stream.set_nonblocking(false)?;
                Ok(stream.into())
            }
        }
    }

    /// Gives a socket of the named kind to tokio: the reverse of [`Socket::into_blocking`].
    pub fn from_blocking(fd: OwnedFd, transport: Transport) -> io::Result<Socket> {
        match transport {
            Transport::Tcp => {
                let stream = StdTcpStream::from(fd);
                stream.set_nonblocking(true)?;
                TcpStream::from_std(stream).map(Socket::Tcp)
            }
            Transport::Unix => {
                let stream = StdUnixStream::from(fd);
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream).map(Socket::Unix)
            }
        }
    }
}

async fn connect_tcp(address: SocketAddr, options: &TcpOptions) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_nodelay(true)?;
    if options.keepalives {
        sockopt::set_socket_keepalive(&socket, true)?;
        if let Some(idle) = options.keepalives_idle {
            sockopt::set_tcp_keepidle(&socket, idle)?;
        }
        if let Some(interval) = options.keepalives_interval {
            sockopt::set_tcp_keepintvl(&socket, interval)?;
        }
        if let Some(count) = options.keepalives_count {
            sockopt::set_tcp_keepcnt(&socket, count)?;
        }
    }
    // Set before connecting, so that it bounds the handshake too.
    if let Some(timeout_ms) = options.user_timeout_ms {
        sockopt::set_tcp_user_timeout(&socket, timeout_ms)?;
    }
    socket.connect(address).await
}
