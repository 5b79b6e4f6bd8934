//! Handshake and records against a server of rustls: whatever is sealed at one end opens at the other, and nothing else.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ServerConfig, ServerConnection, SupportedProtocolVersion};

use super::handshake::{Peer, shake_hands};
use super::settings::TlsSettings;
use crate::edge::hosts::{Host, Target};
use crate::edge::settings::Settings;
use crate::edge::socket::{Socket, Transport};
use crate::edge::wire::Wire;
use crate::error::Result;
use crate::ring::tls::Session;

/// The server's end of an encrypted connection.
struct Server {
    tls: ServerConnection,
    socket: UnixStream,
}

impl Server {
    /// Sends bytes in records.
    fn send(&mut self, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).unwrap();
        self.flush();
    }

    fn flush(&mut self) {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket).unwrap();
        }
    }

    /// Reads so many bytes.
    fn receive(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        rustls::Stream::new(&mut self.tls, &mut self.socket)
            .read_exact(&mut bytes)
            .unwrap();
        bytes
    }
}

/// A certificate that signed itself, for `localhost`, and its key.
pub(super) fn certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    (made.cert.der().clone(), key)
}

pub(super) fn settings(pairs: &[(&str, &str)]) -> TlsSettings {
    let mut settings = Settings::default();
    for (keyword, value) in pairs {
        settings.set(keyword, value).unwrap();
    }
    TlsSettings::of(&settings, None).unwrap()
}

fn host() -> Host {
    Host {
        name: "localhost".to_owned(),
        is_named: true,
        target: Target::Address("127.0.0.1".to_owned()),
        port: 5432,
    }
}

/// Serves one handshake.
fn serve(
    version: &'static SupportedProtocolVersion,
    suite: Option<CipherSuite>,
    mut socket: UnixStream,
) -> JoinHandle<Server> {
    thread::spawn(move || {
        let mut provider = rustls::crypto::ring::default_provider();
        provider
            .cipher_suites
            .retain(|it| suite.is_none_or(|suite| it.suite() == suite));
        let (certificate, key) = certificate();
        let builder = ServerConfig::builder_with_provider(Arc::new(provider));
        let mut config = builder
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        let mut tls = ServerConnection::new(Arc::new(config)).unwrap();
        while tls.is_handshaking() {
            let _ = tls.complete_io(&mut socket);
        }
        let mut server = Server { tls, socket };
        server.flush();
        server
    })
}

fn connected(
    version: &'static SupportedProtocolVersion,
    suite: Option<CipherSuite>,
) -> (Box<Session>, Peer, Socketed, Server) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = serve(version, suite, theirs);
    let kept = ours.try_clone().unwrap();
    let (session, peer) = in_runtime(handshake(ours, &settings(&[("sslmode", "require")]))).unwrap();
    (session, peer, Socketed(kept), server.join().unwrap())
}

pub(super) async fn handshake(ours: UnixStream, tls: &TlsSettings) -> Result<(Box<Session>, Peer)> {
    let mut socket = Socket::from_blocking(ours.into(), Transport::Unix).unwrap();
    let shaken = shake_hands(&mut socket, tls, &host(), None).await;
    shaken.map_err(|failure| failure.error)
}

pub(super) fn in_runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work)
}

/// Our end of the socket, read in blocking calls.
struct Socketed(UnixStream);

impl Socketed {
    /// Reads once, at most so many bytes; false at the end.
    fn read(&mut self, session: &mut Session, most: usize) -> bool {
        self.0.set_nonblocking(false).unwrap();
        let mut sealed = session.lend_memory();
        let space = sealed.space();
        let most = most.min(space.len());
        let count = self.0.read(&mut space[..most]).unwrap();
        sealed.arrived(count);
        session.return_memory(sealed);
        count > 0
    }

    /// What comes, until it is so much, read in portions of `most` bytes and taken in portions of `piece`.
    fn receive(&mut self, session: &mut Session, count: usize, most: usize, piece: usize) -> Result<Vec<u8>> {
        let mut received = Vec::new();
        while received.len() < count {
            let mut target = vec![0; piece];
            let taken = session.take(&mut target)?;
            received.extend_from_slice(&target[..taken]);
            if taken == 0 {
                assert!(self.read(session, most), "the server hung up");
            }
            if let Some(replies) = session.take_replies() {
                self.send_sealed(&replies);
            }
        }
        Ok(received)
    }

    fn send(&mut self, session: &mut Session, bytes: &[u8]) {
        let records = session.seal(bytes).unwrap();
        self.send_sealed(&records);
    }

    fn send_sealed(&mut self, records: &[u8]) {
        self.0.set_nonblocking(false).unwrap();
        self.0.write_all(records).unwrap();
    }
}

fn numbers(count: usize) -> Vec<u8> {
    (0..count).map(|number| (number * 7 % 251) as u8).collect()
}

#[test]
fn both_ends_understand_each_other_with_every_version_and_cipher() {
    use CipherSuite as Suite;
    for (version, suite) in [
        (&TLS13, Suite::TLS13_AES_256_GCM_SHA384),
        (&TLS13, Suite::TLS13_AES_128_GCM_SHA256),
        (&TLS13, Suite::TLS13_CHACHA20_POLY1305_SHA256),
        (&TLS12, Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
        (&TLS12, Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
        (&TLS12, Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ] {
        let (mut session, _, mut socket, mut server) = connected(version, Some(suite));
        let message = numbers(100_000);
        let expected = message.clone();
        let sender = thread::spawn(move || {
            for part in message.chunks(7001) {
                server.send(part);
            }
            server
        });
        let received = socket
            .receive(&mut session, expected.len(), usize::MAX, 9000)
            .unwrap();
        assert!(received == expected, "{suite:?}");
        let mut server = sender.join().unwrap();
        for part in expected[..40_000].chunks(20_000) {
            socket.send(&mut session, part);
            assert!(server.receive(part.len()) == part, "{suite:?}");
        }
    }
}

#[test]
fn records_are_opened_however_they_are_cut() {
    for (most, piece) in [(1, 1), (1, 4096), (3, 50_000), (5, 1), (777, 13), (usize::MAX, 1)] {
        let (mut session, _, mut socket, mut server) = connected(&TLS13, None);
        let message = numbers(20_000);
        server.send(&message);
        let received = socket.receive(&mut session, message.len(), most, piece).unwrap();
        assert!(received == message, "{most} {piece}");
        assert!(!session.has_more());
    }
}

#[test]
fn new_keys_of_the_server_are_followed_and_answered() {
    let (mut session, _, mut socket, mut server) = connected(&TLS13, None);
    for round in 0..5 {
        server.tls.refresh_traffic_keys().unwrap();
        server.send(&[round; 1000]);
        let received = socket.receive(&mut session, 1000, 100, 1000).unwrap();
        assert_eq!(received, [round; 1000]);
        // Sealed with the new keys of ours that the server has asked for.
        socket.send(&mut session, &[round; 10]);
        assert_eq!(server.receive(10), [round; 10]);
    }
}

#[test]
fn keys_are_renewed_before_they_are_worn_out() {
    let (mut session, _, mut socket, mut server) = connected(&TLS13, None);
    for round in 0..3 {
        session.wear_out();
        socket.send(&mut session, &[round; 10]);
        socket.send(&mut session, &[round + 10; 10]);
        assert_eq!(server.receive(20), [[round; 10], [round + 10; 10]].concat());
    }
    // TLS 1.2 has no way to do so: the connection has to end.
    let (mut session, ..) = connected(&TLS12, None);
    session.wear_out();
    let error = session.seal(b"x").unwrap_err();
    assert!(error.to_string().contains("connecting anew") && error.is_retryable());
}

#[test]
fn a_changed_bit_is_found_wherever_it_is() {
    for version in [&TLS12, &TLS13] {
        for bit in [0, 2, 8, 13, 17, 24, 35, 40, 47, 100, 200, 216] {
            let (mut session, _, mut socket, mut server) = connected(version, None);
            server.send(b"first");
            assert_eq!(socket.receive(&mut session, 5, 4096, 5).unwrap(), b"first");
            server.send(b"second");
            let mut sealed = session.lend_memory();
            let count = socket.0.read(sealed.space()).unwrap();
            sealed.space()[bit / 8] ^= 1 << (bit % 8);
            sealed.arrived(count);
            session.return_memory(sealed);
            let mut target = [0; 100];
            let taken = session.take(&mut target);
            // A longer record has not come in whole; no other one is opened.
            let is_longer = (24..40).contains(&bit) && matches!(taken, Ok(0));
            assert!(taken.is_err() || is_longer, "bit {bit}: {taken:?}");
        }
    }
}

#[test]
fn the_server_ends_its_side_with_a_word_or_without() {
    let (mut session, _, mut socket, mut server) = connected(&TLS13, None);
    server.send(b"x");
    server.tls.send_close_notify();
    server.flush();
    drop(server);
    assert_eq!(socket.receive(&mut session, 1, 4096, 10).unwrap(), b"x");
    while !session.is_closed() {
        assert_eq!(session.take(&mut [0; 10]).unwrap(), 0);
        if !session.is_closed() {
            assert!(socket.read(&mut session, 4096));
        }
    }
    assert!(session.has_more(), "the end is there to be told");
    assert_eq!(session.take(&mut [0; 10]).unwrap(), 0);
}

#[test]
fn the_servers_word_is_its_end_although_the_socket_stays_open() {
    let (session, _, socket, mut server) = connected(&TLS13, None);
    server.send(b"Z\0\0\0\x05I");
    server.tls.send_close_notify();
    server.flush();
    in_runtime(async {
        let socket = Socket::from_blocking(socket.0.into(), Transport::Unix).unwrap();
        let mut wire = Wire::new(socket, Some(session));
        assert!(wire.receive().await.is_ok());
        assert!(wire.receive_or_end().await.unwrap().is_none());
    });
    drop(server);
}

#[test]
fn a_wait_for_a_message_can_be_given_up() {
    let (session, _, socket, mut server) = connected(&TLS13, None);
    in_runtime(async {
        let socket = Socket::from_blocking(socket.0.into(), Transport::Unix).unwrap();
        let mut wire = Wire::new(socket, Some(session));
        for _ in 0..3 {
            tokio::select! {
                biased;
                _ = wire.receive() => panic!("nothing was sent"),
                () = tokio::task::yield_now() => {}
            }
        }
        server.send(b"Z\0\0\0\x05I");
        assert!(wire.receive().await.is_ok());
    });
}

#[test]
fn our_end_is_understood() {
    let (mut session, _, mut socket, mut server) = connected(&TLS13, None);
    let end = session.seal_end().unwrap();
    socket.send_sealed(&end);
    server.tls.read_tls(&mut server.socket).unwrap();
    assert!(server.tls.process_new_packets().unwrap().peer_has_closed());
}

#[test]
fn records_without_content_are_not_read_for_ever() {
    let (mut session, _, mut socket, mut server) = connected(&TLS13, None);
    for _ in 0..40 {
        server.tls.refresh_traffic_keys().unwrap();
    }
    server.flush();
    let error = socket.receive(&mut session, 1, 65_536, 1).unwrap_err();
    assert_eq!(error.to_string(), "SSL error: too many records without content");
}

#[test]
fn the_password_is_bound_to_the_certificate() {
    let (_, peer, ..) = connected(&TLS13, None);
    assert_eq!(peer.end_point.map(|hash| hash.len()), Some(32));
    assert!(!peer.asked_for_certificate && !peer.got_certificate);
}

#[test]
fn a_handshake_that_ends_in_the_middle_is_an_error() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let server = thread::spawn(move || {
        let mut hello = [0; 64];
        theirs.read_exact(&mut hello).unwrap();
        theirs.write_all(&[22, 3, 3, 0, 100, 2]).unwrap();
    });
    let error = in_runtime(handshake(ours, &settings(&[("sslmode", "require")]))).unwrap_err();
    assert_eq!(error.to_string(), "SSL SYSCALL error: EOF detected");
    server.join().unwrap();
}

#[test]
fn what_is_no_tls_is_no_handshake() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let server = thread::spawn(move || {
        theirs
            .write_all(b"EFATAL: injected text that is long enough")
            .unwrap();
        let mut rest = Vec::new();
        let _ = theirs.read_to_end(&mut rest);
    });
    let error = in_runtime(handshake(ours, &settings(&[("sslmode", "require")]))).unwrap_err();
    assert!(error.to_string().starts_with("SSL error: "), "{error}");
    assert!(!error.to_string().contains("injected"), "{error}");
    server.join().unwrap();
}
