//! A peer that means no good, up to the end of the handshake: whatever it says, in whatever pieces, comes to an error,
//! and the program goes on.

use std::cell::Cell;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use fastrand::Rng;
use rustix::io::ioctl_fionread;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::yield_now;

use super::settings::TlsSettings;
use super::tests::{certificate, handshake, in_runtime, settings};
use crate::error::Result;
use crate::ring::tls::Session;

/// Handshakes that chance damages.
const SEEDS: u64 = 2000;

/// Length of a record's type, version and length, in bytes.
const HEADER: usize = 5;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

/// A record in plain.
fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap();
    [&[kind, 3, 3][..], &length.to_be_bytes(), content].concat()
}

/// Goes through a handshake with somebody who answers our hello so and then hears us out. Each piece of the answer is read by
/// itself. Also what was said to him behind the hello.
fn meet(tls: &TlsSettings, answer: impl FnOnce(&[u8]) -> Vec<Vec<u8>>) -> (Result<Box<Session>>, Vec<u8>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let kept = ours.try_clone().unwrap();
    let has_ended = Cell::new(false);
    in_runtime(async {
        let client = async {
            let result = handshake(ours, tls).await;
            has_ended.set(true);
            kept.shutdown(Shutdown::Both).unwrap();
            result.map(|(session, _)| session)
        };
        let peer = async {
            let mut theirs = tokio::net::UnixStream::from_std(theirs).unwrap();
            let mut hello = vec![0; 16 << 10];
            let length = theirs.read(&mut hello).await.unwrap();
            for piece in answer(&hello[..length]) {
                // Who has heard enough has gone.
                let _ = theirs.write_all(&piece).await;
                while !has_ended.get() && ioctl_fionread(&kept).unwrap() > 0 {
                    yield_now().await;
                }
            }
            let _ = theirs.shutdown().await;
            let mut heard = Vec::new();
            let _ = theirs.read_to_end(&mut heard).await;
            heard
        };
        tokio::join!(client, peer)
    })
}

fn errors(answer: &[&[u8]]) -> String {
    let pieces = answer.iter().map(|piece| piece.to_vec()).collect();
    let (result, _) = meet(&settings(&[("sslmode", "require")]), |_| pieces);
    result.map(drop).unwrap_err().to_string()
}

/// Settings by which a certificate of [`certificate`] is refused; the file has to stay.
fn distrustful() -> (TlsSettings, tempfile::NamedTempFile) {
    let (other, _) = certificate();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &other);
    let text = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
    file.write_all(text.as_bytes()).unwrap();
    let path = file.path().display().to_string();
    let tls = settings(&[("sslmode", "verify-ca"), ("sslrootcert", &path)]);
    (tls, file)
}

/// A real server, and what it answers to a hello.
fn answered(config: &Arc<ServerConfig>, mut hello: &[u8]) -> (ServerConnection, Vec<u8>) {
    let mut server = ServerConnection::new(Arc::clone(config)).unwrap();
    server.read_tls(&mut hello).unwrap();
    server.process_new_packets().unwrap();
    server.writer().write_all(b"too early").unwrap();
    let mut flight = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut flight).unwrap();
    }
    (server, flight)
}

/// In each version.
fn configurations() -> [ServerConfig; 2] {
    let (certificate, key) = certificate();
    [&TLS12, &TLS13].map(|version: &'static SupportedProtocolVersion| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        let mut config = builder
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.clone_key())
            .unwrap();
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        // Content right behind the last word of the handshake, which no PostgreSQL sends.
        config.send_half_rtt_data = true;
        config
    })
}

#[test]
fn a_record_between_the_parts_of_a_message_is_refused() {
    let begun = record(HANDSHAKE, &[2, 0, 0, 80]);
    let error = errors(&[&begun, &record(ALERT, &[2, 40])]);
    assert!(error.starts_with("SSL error: "), "{error}");
    let error = errors(&[&begun, &record(99, &[0])]);
    assert!(error.starts_with("SSL error: "), "{error}");
    let error = errors(&[&begun, &record(HANDSHAKE, &[7; 10]), b"HTTP/1.1 400 Bad Request"]);
    assert!(error.starts_with("SSL error: "), "{error}");
}

#[test]
fn a_server_that_is_refused_in_the_middle_of_its_flight_is_told_why() {
    let (tls, _file) = distrustful();
    for config in configurations() {
        let (config, mut server) = (Arc::new(config), None);
        let (result, heard) = meet(&tls, |hello| {
            let (answering, flight) = answered(&config, hello);
            server = Some(answering);
            vec![flight]
        });
        let error = result.map(drop).unwrap_err().to_string();
        assert!(error.contains("certificate verify failed"), "{error}");
        let mut server = server.unwrap();
        server.read_tls(&mut &heard[..]).unwrap();
        let told = server.process_new_packets();
        assert!(
            matches!(told, Err(rustls::Error::AlertReceived(_))),
            "{told:?} {heard:?}"
        );
    }
}

#[test]
fn handshakes_damaged_at_random_end_well() {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let seeds = match number("HOSTILE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HOSTILE_SEEDS").unwrap_or(SEEDS),
    };
    let configurations = configurations();
    let (distrustful, _file) = distrustful();
    let trusting = settings(&[("sslmode", "require")]);
    let mut completed = 0;
    for seed in seeds.clone() {
        let mut rng = Rng::with_seed(seed);
        let mut config = rng.choice(&configurations).unwrap().clone();
        config.max_fragment_size = rng.bool().then(|| rng.usize(32..2000));
        let config = Arc::new(config);
        let is_trusted = rng.u8(..4) == 0;
        let tls = if is_trusted { &trusting } else { &distrustful };
        let result = panic::catch_unwind(AssertUnwindSafe(|| {
            let (result, _) = meet(tls, |hello| damaged(answered(&config, hello).1, &mut rng));
            result.map(|mut session| session.take(&mut [0; 1000]))
        }));
        let result = result.unwrap_or_else(|_| panic!("HOSTILE_SEED={seed}"));
        assert!(is_trusted || result.is_err(), "HOSTILE_SEED={seed}");
        completed += u64::from(result.is_ok());
    }
    // Otherwise this would test the first record only.
    assert!(seeds.count() < 100 || completed > 10, "{completed}");
}

/// What is left of a server's flight, in the pieces in which it comes.
fn damaged(flight: Vec<u8>, rng: &mut Rng) -> Vec<Vec<u8>> {
    let mut records = records(&flight);
    for _ in 0..rng.u8(..4) {
        damage(&mut records, rng);
    }
    match rng.u8(..3) {
        0 => records,
        1 => vec![records.concat()],
        _ => cut(&records.concat(), rng),
    }
}

fn records(mut flight: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while let Some(header) = flight.first_chunk::<HEADER>() {
        let length = HEADER + usize::from(u16::from_be_bytes([header[3], header[4]]));
        let (record, rest) = flight.split_at(length);
        records.push(record.to_vec());
        flight = rest;
    }
    records
}

/// In pieces of any size, most of them small.
fn cut(bytes: &[u8], rng: &mut Rng) -> Vec<Vec<u8>> {
    let longest = *rng.choice(&[1, 9, 100, 4000]).unwrap();
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, others) = rest.split_at(rng.usize(1..=longest).min(rest.len()));
        pieces.push(piece.to_vec());
        rest = others;
    }
    pieces
}

fn damage(records: &mut Vec<Vec<u8>>, rng: &mut Rng) {
    let at = rng.usize(..=records.len());
    if at == records.len() {
        records.push(invented(rng));
        return;
    }
    match rng.u8(..7) {
        0 => records.insert(at, invented(rng)),
        1 => drop(records.remove(at)),
        2 => records.insert(at, records[rng.usize(..records.len())].clone()),
        3 => records.truncate(at),
        4 => {
            let length = rng.usize(..records[at].len());
            records[at].truncate(length);
        }
        5 => {
            let position = rng.usize(..records[at].len());
            records[at][position] ^= 1 << rng.u8(..8);
        }
        _ => split(records, at, rng),
    }
}

/// Makes several records of one, if it is in plain: its messages go on from record to record.
fn split(records: &mut Vec<Vec<u8>>, at: usize, rng: &mut Rng) {
    let Some((&[HANDSHAKE, ..], content)) = records[at].split_at_checked(HEADER) else {
        return;
    };
    let parts = cut(content, rng);
    let parts = parts.into_iter().map(|part| record(HANDSHAKE, &part));
    let parts: Vec<_> = parts.collect();
    records.splice(at..=at, parts);
}

/// A record that nobody needs, or none.
fn invented(rng: &mut Rng) -> Vec<u8> {
    let mut content = vec![0; rng.usize(..40)];
    rng.fill(&mut content);
    match rng.u8(..8) {
        0 => record(ALERT, &[rng.u8(1..=2), rng.u8(..120)]),
        // The change of ciphers, which means nothing in TLS 1.3.
        1 => record(20, &[1]),
        // A message that has not come in whole.
        2 => record(HANDSHAKE, &[&[2, 0, 0, 200][..], &content].concat()),
        3 => record(HANDSHAKE, &[]),
        4 => record(23, &content),
        5 => record(rng.u8(..), &content),
        6 => record(HANDSHAKE, &[&[rng.u8(..), 255, 255, 255][..], &content].concat()),
        _ => content,
    }
}
