//! The link between a receiver and the primary, which can be cut, held up, or fall silent without being closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How much is carried at once, bytes.
const PIECE: usize = 64 << 10;

/// A relay that listens on loopback, in a thread of its own. It ends, and its connections with it, when this goes out
/// of scope.
pub struct Relay {
    port: u16,
    begun: Arc<AtomicU64>,
    state: watch::Sender<State>,
}

/// Connections are counted from 1.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// Nothing passes for now.
    held: bool,
    /// Connections up to this one carry nothing any more, and their ends do not hear of each other.
    silent: u64,
    /// Connections up to this one are closed.
    cut: u64,
}

impl Relay {
    /// Relays to a local port.
    pub fn to(target: u16) -> Result<Relay> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("listen for a receiver")?;
        listener.set_nonblocking(true)?;
        let (state, seen) = watch::channel(State::default());
        let relay = Relay {
            port: listener.local_addr()?.port(),
            begun: Arc::default(),
            state,
        };
        let begun = Arc::clone(&relay.begun);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::spawn(move || {
            runtime.block_on(async {
                let mut ended = seen.clone();
                tokio::select! {
                    _ = accept(listener, target, &begun, seen) => {}
                    // The sender is gone.
                    _ = ended.wait_for(|_| false) => {}
                }
            })
        });
        Ok(relay)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes the connections there are.
    pub fn cut(&self) {
        let begun = self.begun.load(Ordering::SeqCst);
        self.state.send_modify(|state| state.cut = begun);
    }

    /// The connections there are carry nothing any more, and are not closed. Later ones are well.
    pub fn fall_silent(&self) {
        let begun = self.begun.load(Ordering::SeqCst);
        self.state.send_modify(|state| state.silent = begun);
    }

    /// Lets nothing pass, or everything again, what was held up too.
    pub fn hold(&self, held: bool) {
        self.state.send_modify(|state| state.held = held);
    }
}

async fn accept(
    listener: std::net::TcpListener,
    target: u16,
    begun: &AtomicU64,
    state: watch::Receiver<State>,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (client, _) = listener.accept().await?;
        let number = begun.fetch_add(1, Ordering::SeqCst) + 1;
        tokio::spawn(connect(number, client, target, state.clone()));
    }
}

/// One connection, until either end closes it or it is cut. A primary that does not listen closes it at once.
async fn connect(number: u64, mut client: TcpStream, target: u16, mut state: watch::Receiver<State>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await else {
        return;
    };
    if client.set_nodelay(true).is_err() || server.set_nodelay(true).is_err() {
        return;
    }
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::select! {
        () = carry(number, from_client, to_server, state.clone()) => {}
        () = carry(number, from_server, to_client, state.clone()) => {}
        _ = state.wait_for(|state| number <= state.cut) => {}
    }
}

/// Carries until the end of `from`; on a silent connection for ever.
async fn carry(
    number: u64,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
) {
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece).await;
        let passes = |state: &State| !state.held && number > state.silent;
        if state.wait_for(passes).await.is_err() {
            return;
        }
        let Ok(count @ 1..) = read else { return };
        if to.write_all(&piece[..count]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};
    use std::time::Duration;

    /// Both ends of a connection through the relay.
    fn connection(relay: &Relay, listener: &std::net::TcpListener) -> [std::net::TcpStream; 2] {
        let client = std::net::TcpStream::connect(("127.0.0.1", relay.port())).unwrap();
        let (server, _) = listener.accept().unwrap();
        for end in [&client, &server] {
            end.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        }
        [client, server]
    }

    fn carries([from, to]: &mut [std::net::TcpStream; 2]) {
        from.write_all(b"x").unwrap();
        to.read_exact(&mut [0]).unwrap();
    }

    fn nothing_comes(end: &mut std::net::TcpStream) {
        end.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert_eq!(end.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        end.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    }

    #[test]
    fn a_link_is_held_up_falls_silent_and_is_cut() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay::to(listener.local_addr().unwrap().port()).unwrap();
        let mut first = connection(&relay, &listener);
        carries(&mut first);
        relay.hold(true);
        first[0].write_all(b"x").unwrap();
        nothing_comes(&mut first[1]);
        relay.hold(false);
        first[1].read_exact(&mut [0]).unwrap();

        relay.fall_silent();
        first[0].write_all(b"x").unwrap();
        nothing_comes(&mut first[1]);
        let mut second = connection(&relay, &listener);
        carries(&mut second);
        first[0].shutdown(std::net::Shutdown::Both).unwrap();
        nothing_comes(&mut first[1]);

        relay.cut();
        assert!(matches!(first[1].read(&mut [0]), Ok(0) | Err(_)));
        assert!(matches!(second[0].read(&mut [0]), Ok(0) | Err(_)));
        carries(&mut connection(&relay, &listener));
    }
}
