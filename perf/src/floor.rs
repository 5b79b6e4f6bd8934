//! The floor: a receiver without a disk. It acknowledges what arrives at once, and throws it away.
//!
//! No receiver that writes can beat it with this server on this machine. It says it has flushed and
//! applied what it has not: **never** use it for anything but measuring.
//!
//! One thread, one blocking read, one write: the fewest wake-ups there can be. While the server is known
//! to have more than a buffer's worth, a read waits for the whole buffer.

use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use clap::Args;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use tokio::runtime::{Builder, Runtime};
use walring::core::lsn::{InvalidLsn, Lsn};
use walring::core::message::{FRAME_HEAD, Keepalive, Status, WAL_HEAD, WalHead};
use walring::edge::connection::Connection;
use walring::edge::conninfo::{Conninfo, Explicit};
use walring::edge::password::{PasswordPrompt, PromptMode};
use walring::edge::replication::StartAnswer;
use walring::edge::report::parse_error_response;
use walring::error::{Error, Result};
use walring::ring::contract::Channel;
use walring::ring::op::set_low_water;

/// The read buffer, bytes.
const READ: usize = 1 << 20;

/// How much must have arrived, bytes, before a read that waits for a whole buffer is woken.
const LOW_WATER: i32 = 512 << 10;

/// The longest message taken that is no WAL, bytes: an error.
const LONGEST_MESSAGE: usize = 64 << 10;

/// From the Unix epoch to the server's, 2000-01-01 UTC.
const SERVER_EPOCH: Duration = Duration::from_secs(946_684_800);

/// What to receive, and from where.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The connection string: keywords and values, or a URI; its application_name is what the server sees
    #[arg(long, short, value_name = "CONNSTR")]
    pub dbname: String,
    /// The replication slot to use
    #[arg(long, short = 'S', value_name = "SLOT")]
    pub slot: Option<String>,
    /// Where to begin [default: how far the server has flushed]
    #[arg(long, value_name = "LSN", value_parser = parse_lsn)]
    pub startpos: Option<Lsn>,
    /// Exit once everything up to here has arrived
    #[arg(long, value_name = "LSN", value_parser = parse_lsn)]
    pub endpos: Option<Lsn>,
}

fn parse_lsn(text: &str) -> std::result::Result<Lsn, InvalidLsn> {
    text.parse()
}

/// Receives until the end position, the end of the stream, or SIGINT or SIGTERM, which end the process
/// with exit code 0.
///
/// Fails if the server cannot be reached or refuses, or if the stream breaks or ends before the end position.
pub fn run(options: &Options) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Error::unsupported(format!("could not set up the floor: {error}")))?;
    end_on_signals()?;
    let (socket, unread, begin) = start(&runtime, options)?;
    let mut stream = Stream::new(begin.0, begin.1);
    stream.take(&unread)?;
    receive(&socket, stream, options.endpos)
}

/// Connects and begins to stream: the socket, what came after the answer, and the positions from which
/// the stream begins and up to which the server had WAL.
fn start(runtime: &Runtime, options: &Options) -> Result<(OwnedFd, Vec<u8>, (Lsn, Lsn))> {
    let explicit = Explicit {
        dbname: Some(options.dbname.clone().into()),
        program_name: "walring-floor".to_owned(),
        ..Explicit::default()
    };
    let info = Conninfo::resolve(&explicit, &|name| std::env::var(name).ok())?;
    runtime.block_on(async {
        let mut connection = Connection::open(&info, &mut PasswordPrompt::new(PromptMode::Never)).await?;
        let server = connection.identify_system().await?;
        let begin = options.startpos.unwrap_or(server.flushed);
        let slot = options.slot.as_deref();
        match connection.start_replication(slot, begin, server.timeline).await? {
            StartAnswer::Streaming => {}
            StartAnswer::EndOfTimeline { .. } => {
                return Err(Error::protocol(format!(
                    "timeline {} ends at {begin}",
                    server.timeline
                )));
            }
        }
        let Channel { socket, unread, .. } = connection.detach()?;
        Ok((socket, unread.to_vec(), (begin, server.flushed)))
    })
}

/// Another thread waits for the signals, so that the reading one is never woken but by WAL.
fn end_on_signals() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error: std::io::Error| Error::unsupported(format!("could not wait for signals: {error}"));
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let (mut interrupt, mut terminate) = {
        let _guard = runtime.enter();
        (
            signal(SignalKind::interrupt()).map_err(failed)?,
            signal(SignalKind::terminate()).map_err(failed)?,
        )
    };
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        std::process::exit(0);
    };
    let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(wait);
    thread.map(drop).map_err(failed)
}

fn receive(socket: &OwnedFd, mut stream: Stream, end: Option<Lsn>) -> Result<()> {
    let mut buffer = vec![0; READ];
    let mut waits_for_all = false;
    let mut acknowledged = Lsn::INVALID;
    loop {
        if stream.received > acknowledged || stream.reply_requested {
            acknowledge(socket, stream.received)?;
            acknowledged = stream.received;
            stream.reply_requested = false;
        }
        if end.is_some_and(|end| stream.received >= end) {
            return Ok(());
        }
        if stream.ended {
            return ended(&stream, end);
        }
        // Beyond the read there must be enough to reach the low water, or the kernel would not wake us for its
        // last bytes. A commit waits for no such thing.
        let enough = (READ + LOW_WATER as usize) as u64;
        let all = end.is_some_and(|end| end.min(stream.server_end).bytes_since(stream.received) >= enough);
        if all != waits_for_all {
            set_low_water(socket, if all { LOW_WATER } else { 1 });
            waits_for_all = all;
        }
        let flags = if all {
            RecvFlags::WAITALL
        } else {
            RecvFlags::empty()
        };
        let count = match rustix::net::recv(socket, &mut buffer[..], flags) {
            Ok((count, _)) => count,
            Err(Errno::INTR) => continue,
            Err(error) => {
                return Err(Error::connection(format!(
                    "could not receive data from server: {error}"
                )));
            }
        };
        if count == 0 {
            return ended(&stream, end);
        }
        stream.take(&buffer[..count])?;
    }
}

/// The end of the stream is right if the server said so and no end position was asked for.
fn ended(stream: &Stream, end: Option<Lsn>) -> Result<()> {
    match end {
        None if stream.ended => Ok(()),
        _ => Err(Error::connection(format!(
            "server ended the stream at {}",
            stream.received
        ))),
    }
}

/// Claims everything up to `position` as written, flushed and applied.
fn acknowledge(socket: &OwnedFd, position: Lsn) -> Result<()> {
    let status = Status {
        written: position,
        flushed: position,
        reply_requested: false,
    };
    let clock = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let clock = clock.saturating_sub(SERVER_EPOCH).as_micros();
    let mut bytes = status.encode(clock as i64);
    // walring never applies, so its status has no such position: it lies behind tag, length, type and the two others.
    bytes[22..30].copy_from_slice(&position.0.to_be_bytes());
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        match rustix::net::send(socket, rest, SendFlags::NOSIGNAL) {
            Ok(sent) => rest = &rest[sent..],
            Err(Errno::INTR) => {}
            Err(error) => {
                return Err(Error::connection(format!(
                    "could not send data to server: {error}"
                )));
            }
        }
    }
    Ok(())
}

/// Where the stream stands; payloads are counted, other messages are collected whole.
struct Stream {
    received: Lsn,
    /// How far the server is known to have WAL.
    server_end: Lsn,
    reply_requested: bool,
    ended: bool,
    /// Bytes of a WAL payload that are missing.
    missing: u64,
    /// A message, or the head of a WAL message, as far as it is there.
    message: Vec<u8>,
}

impl Stream {
    fn new(begin: Lsn, server_end: Lsn) -> Stream {
        Stream {
            received: begin,
            server_end,
            reply_requested: false,
            ended: false,
            missing: 0,
            message: Vec::with_capacity(WAL_HEAD),
        }
    }

    /// Takes note of the next bytes of the stream.
    fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.missing > 0 {
                let count = self.missing.min(bytes.len() as u64);
                self.missing -= count;
                self.received = self.received.advanced_by(count);
                bytes = &bytes[count as usize..];
                continue;
            }
            let wanted = self.wanted()?;
            let count = (wanted - self.message.len()).min(bytes.len());
            self.message.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.message.len() == self.wanted()? {
                self.understand()?;
                self.message.clear();
            }
        }
        Ok(())
    }

    /// How many bytes of the message that has begun to collect, as far as it can be told.
    fn wanted(&self) -> Result<usize> {
        let Some(head) = self.message.first_chunk::<FRAME_HEAD>() else {
            return Ok(FRAME_HEAD);
        };
        let whole = 1 + length_of(head) as usize;
        match (head[0], self.message.get(FRAME_HEAD)) {
            (b'd', None) if whole > FRAME_HEAD => Ok(FRAME_HEAD + 1),
            (b'd', Some(b'w')) if whole >= WAL_HEAD => Ok(WAL_HEAD),
            _ if (FRAME_HEAD..=LONGEST_MESSAGE).contains(&whole) => Ok(whole),
            (tag, _) => Err(Error::protocol(format!(
                "lost synchronization with server: got message type \"{}\", length {}",
                tag.escape_ascii(),
                whole - 1
            ))),
        }
    }

    /// Acts on the message, or the head of a WAL message, that is complete.
    fn understand(&mut self) -> Result<()> {
        let (head, content) = self.message.split_at(FRAME_HEAD);
        match (head[0], content.first()) {
            (b'd', Some(b'w')) => {
                let Some(bytes) = self.message.first_chunk::<WAL_HEAD>() else {
                    return Err(Error::protocol("server sent a WAL message that is too short"));
                };
                let head = WalHead::parse(bytes, length_of(head));
                if head.start != self.received {
                    return Err(Error::protocol(format!(
                        "got WAL of {}, expected {}",
                        head.start, self.received
                    )));
                }
                self.missing = head.payload;
                self.server_end = self.server_end.max(head.server_end);
            }
            (b'd', _) => {
                let keepalive = Keepalive::parse(content);
                self.reply_requested |= keepalive.is_some_and(|keepalive| keepalive.reply_requested);
            }
            (b'E', _) => return Err(parse_error_response(content)),
            (b'c' | b'C', _) => self.ended = true,
            _ => {}
        }
        Ok(())
    }
}

/// The length in a frame's head, which counts itself but not the tag.
fn length_of(head: &[u8]) -> u32 {
    head[1..FRAME_HEAD]
        .iter()
        .fold(0, |length, &byte| length << 8 | u32::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(content: &[u8]) -> Vec<u8> {
        let length = (4 + content.len() as u32).to_be_bytes();
        [&b"d"[..], &length, content].concat()
    }

    fn wal(start: u64, server_end: u64, payload: usize) -> Vec<u8> {
        let head = [
            &b"w"[..],
            &start.to_be_bytes(),
            &server_end.to_be_bytes(),
            &[0; 8],
        ]
        .concat();
        frame(&[head, vec![7; payload]].concat())
    }

    fn keepalive() -> Vec<u8> {
        frame(&[&b"k"[..], &[0; 16], &[1]].concat())
    }

    #[test]
    fn every_way_to_cut_the_stream_counts_the_same() {
        let bytes = [
            wal(100, 900, 50),
            keepalive(),
            wal(150, 901, 0),
            wal(150, 902, 300),
        ]
        .concat();
        for size in 1..=bytes.len() {
            let mut stream = Stream::new(Lsn(100), Lsn(0));
            for part in bytes.chunks(size) {
                stream.take(part).unwrap();
            }
            assert_eq!(
                (stream.received, stream.server_end),
                (Lsn(450), Lsn(902)),
                "{size}"
            );
            assert!(stream.reply_requested && stream.missing == 0 && stream.message.is_empty());
        }
    }

    #[test]
    fn what_is_received_counts_before_its_message_is_complete() {
        let mut stream = Stream::new(Lsn(100), Lsn(0));
        stream.take(&wal(100, 900, 50)[..WAL_HEAD + 20]).unwrap();
        assert_eq!(stream.received, Lsn(120));
    }

    #[test]
    fn a_stream_that_is_none_is_refused() {
        let refused = |bytes: &[u8]| Stream::new(Lsn(100), Lsn(0)).take(bytes).unwrap_err().to_string();
        assert_eq!(refused(&wal(101, 900, 5)), "got WAL of 0/65, expected 0/64");
        assert!(refused(b"d\0\0\0\x03").starts_with("lost synchronization"));
        assert!(refused(b"HTTP/1.1 400").starts_with("lost synchronization"));
        assert!(!refused(b"E\0\0\0\x12SERROR\0Mnone\0\0").is_empty());
        // Too short for a WAL message's head.
        assert!(refused(&frame(b"w123")).contains("too short"));
    }

    #[test]
    fn the_end_is_noticed() {
        let mut stream = Stream::new(Lsn(100), Lsn(0));
        stream.take(b"c\0\0\0\x04").unwrap();
        assert!(stream.ended);
    }
}
