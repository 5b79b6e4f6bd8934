//! The socket of a stream: reads through the ring, sends at once. Where the connection is encrypted, TLS records are read
//! into memory of their own and opened from there into the slot.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use tokio_uring::buf::fixed::FixedBuf;

use super::contract::Channel;
use super::op;
use super::setup;
use super::tls::{self, Session};
use crate::core::message::Status;
use crate::core::order::Ask;
use crate::error::{Error, Result, system_text};

/// In catch-up the kernel wakes us for so many bytes, not for each packet.
const BULK_LOW_WATER: i32 = 1 << 20;

/// Where fewer bytes of TLS come in a second, a read that waits for [`BULK_LOW_WATER`] is withdrawn before they are there,
/// and what it has brought is made durable in small pieces.
const BULK_RATE: f64 = 12e6;

/// The rate is that of so many bytes: what had to wait for the processor comes all at once.
const RATED: u64 = 256 << 10;

/// No more than that waits for a server that does not read, in bytes.
const MOST_UNSENT: usize = 64 * Status::LENGTH;

/// A connected socket in blocking mode.
pub struct Link {
    socket: Rc<OwnedFd>,
    tls: Option<Box<Session>>,
    /// Where in the slot that waits the next bytes belong, once they are opened.
    target: Range<usize>,
    send: Option<op::Send>,
    /// Bytes that wait until the socket takes those before them. They are sealed only then.
    unsent: Vec<u8>,
    /// Why nothing can be sent any more.
    failed: Option<Error>,
    /// How many bytes wake a read: many in catch-up, any when live.
    low_water: i32,
    /// How fast TLS records come.
    pace: Pace,
    /// Whether a read may wait until all bytes are there.
    may_wait: bool,
    /// The memory of a spread read, unless a read has it.
    scratch: Option<Box<op::Scratch>>,
}

/// How fast bytes come.
struct Pace {
    since: Instant,
    bytes: u64,
    is_bulk: bool,
}

impl Pace {
    fn unknown() -> Pace {
        Pace {
            since: Instant::now(),
            bytes: 0,
            is_bulk: false,
        }
    }

    /// So many more were read; none: a read was withdrawn.
    fn arrived(&mut self, count: u64) {
        self.bytes += count;
        if count == 0 || self.bytes >= RATED {
            let is_bulk = count > 0 && self.bytes as f64 >= BULK_RATE * self.since.elapsed().as_secs_f64();
            *self = Pace {
                is_bulk,
                ..Pace::unknown()
            };
        }
    }
}

impl Link {
    /// Takes over the socket, and the records on it.
    pub fn new(socket: OwnedFd, tls: Option<Box<Session>>) -> Link {
        let socket = Rc::new(socket);
        let may_wait = setup::may_wait_for_all();
        Link {
            socket,
            tls,
            target: 0..0,
            send: None,
            unsent: Vec::new(),
            failed: None,
            low_water: 1,
            pace: Pace::unknown(),
            may_wait,
            scratch: None,
        }
    }

    /// Whether what is read has to be opened.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether something can be opened without reading more.
    pub fn has_more(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_more())
    }

    /// Reads into a slot as the core asks.
    pub fn receive(&mut self, buffer: FixedBuf, ask: Ask) -> op::Receive {
        let scratch = self.scratch.take().unwrap_or_else(op::Scratch::new);
        if let Some(tls) = &mut self.tls {
            self.target = ask.range;
            return op::receive_sealed(&self.socket, buffer, scratch, tls.lend_memory());
        }
        let wait = ask.certain && self.may_wait;
        match ask.spread {
            Some(spread) => op::receive_spread(&self.socket, buffer, scratch, spread, wait),
            None => op::receive(&self.socket, buffer, scratch, ask.range, wait),
        }
    }

    /// Takes back what a read has used, and opens what it brought: how many bytes are in the slot then. `None`: nothing
    /// could be opened yet, so more has to be read.
    pub fn received(
        &mut self,
        result: io::Result<u32>,
        buffer: &mut FixedBuf,
        sealed: Option<tls::Sealed>,
    ) -> io::Result<Option<usize>> {
        let (Some(tls), Some(mut sealed)) = (&mut self.tls, sealed) else {
            return result.map(|count| Some(count as usize));
        };
        let count = result.as_ref().map_or(0, |count| *count);
        self.pace.arrived(u64::from(count));
        sealed.arrived(count as usize);
        tls.return_memory(sealed);
        match result? {
            0 => self
                .failed
                .take()
                .map_or(Ok(Some(0)), |error| Err(tls::as_io(error))),
            _ => self.open(&mut buffer[self.target.clone()]),
        }
    }

    /// Opens what was read.
    pub fn open(&mut self, target: &mut [u8]) -> io::Result<Option<usize>> {
        let tls = self.tls.as_mut().expect("only what is encrypted is opened");
        let count = tls.take(target).map_err(tls::as_io)?;
        let closed = tls.is_closed();
        // While a send is in flight they wait: they are sealed before whatever comes next.
        if self.send.is_none()
            && let Some(replies) = tls.take_replies()
        {
            self.send_now(&replies);
        }
        Ok(Some(count).filter(|&count| count > 0 || closed))
    }

    /// Reads once more where the read before brought nothing that could be opened.
    pub fn receive_again(&mut self, buffer: FixedBuf, scratch: Box<op::Scratch>) -> op::Receive {
        let tls = self.tls.as_mut().expect("only what is encrypted comes in parts");
        op::receive_sealed(&self.socket, buffer, scratch, tls.lend_memory())
    }

    /// Takes back the memory of a spread read.
    pub fn put_back(&mut self, scratch: Box<op::Scratch>) {
        self.scratch = Some(scratch);
    }

    /// Withdraws the read in flight.
    pub fn cancel(&self) -> op::InFlight<Rc<OwnedFd>> {
        op::cancel(&self.socket)
    }

    /// Says whether far more is coming than a read asks for: then waking up for little is waste.
    pub fn expect(&mut self, bulk: bool) {
        let waits = bulk && (self.tls.is_none() || self.pace.is_bulk);
        let low_water = if waits { BULK_LOW_WATER } else { 1 };
        if low_water != self.low_water {
            self.low_water = low_water;
            op::set_low_water(&self.socket, low_water);
        }
    }

    /// Sends a status. A server that reads none gets fewer: each says all that those before it said.
    pub fn send_status(&mut self, status: &[u8; Status::LENGTH]) {
        if self.unsent.len() >= MOST_UNSENT {
            self.unsent.clear();
        }
        self.send(status);
    }

    /// Sends at once what the socket takes at once, and the rest through the ring, in order. An error
    /// shows when the socket is read: a broken connection ends the stream there.
    pub fn send(&mut self, bytes: &[u8]) {
        if self.send.is_some() {
            self.unsent.extend(bytes);
            return;
        }
        match &mut self.tls {
            None => self.send_now(bytes),
            Some(_) => {
                let records = self.seal(bytes);
                self.send_now(&records);
            }
        }
    }

    /// Seals bytes where the connection is encrypted. What cannot be sealed is not sent: the stream ends.
    fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        let Some(tls) = &mut self.tls else {
            return bytes.to_vec();
        };
        tls.seal(bytes).unwrap_or_else(|error| {
            self.failed = Some(error);
            // Wakes the read that shows it.
            let _ = rustix::net::shutdown(self.socket.as_fd(), Shutdown::Read);
            Vec::new()
        })
    }

    fn send_now(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = rustix::net::send(self.socket.as_fd(), bytes, flags).unwrap_or(0);
        if sent < bytes.len() {
            self.send = Some(op::send(&self.socket, bytes[sent..].to_vec()));
        }
    }

    /// Waits in place until there is something to read, at most so long; true if there is.
    pub fn wait(&self, limit: Duration) -> bool {
        let limit = Timespec {
            tv_sec: 0,
            tv_nsec: limit.as_nanos().min(999_999_999) as i64,
        };
        let mut sockets = [PollFd::new(&self.socket, PollFlags::IN)];
        rustix::event::poll(&mut sockets, Some(&limit)).is_ok_and(|ready| ready > 0)
    }

    /// Waits in place without sleeping, at most so long, and lets every other thread go first; true if there
    /// is something to read.
    pub fn spin(&self, limit: Duration) -> bool {
        let began = Instant::now();
        while !self.wait(Duration::ZERO) {
            if began.elapsed() > limit {
                return false;
            }
            // Comes back at once if nobody else wants this processor.
            thread::yield_now();
        }
        true
    }

    /// Reads what is there, without waiting. An error that is an interruption says: nothing.
    pub fn receive_now(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            let (count, _) = rustix::net::recv(self.socket.as_fd(), target, RecvFlags::DONTWAIT)?;
            return Ok(count);
        };
        if !tls.has_more() {
            let mut sealed = tls.lend_memory();
            let read = rustix::net::recv(self.socket.as_fd(), sealed.space(), RecvFlags::DONTWAIT);
            sealed.arrived(read.map_or(0, |(count, _)| count));
            tls.return_memory(sealed);
            if read?.0 == 0 {
                return self.failed.take().map_or(Ok(0), |error| Err(tls::as_io(error)));
            }
        }
        self.open(target)?.ok_or_else(op::nothing_yet)
    }

    /// Whether bytes wait to be sent.
    pub fn is_sending(&self) -> bool {
        self.send.is_some()
    }

    /// Goes on sending; true if something has changed.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(send) = &mut self.send else { return false };
        let Poll::Ready((result, (mut bytes, _))) = Pin::new(send).poll(cx) else {
            return false;
        };
        self.send = None;
        match result {
            Ok(count) => drop(bytes.drain(..count as usize)),
            // The server has heard the beginning of a message.
            Err(error) if op::is_interruption(&error) => {}
            Err(_) => bytes.clear(),
        }
        let unsent = std::mem::take(&mut self.unsent);
        bytes.append(&mut self.seal(&unsent));
        if !bytes.is_empty() {
            self.send = Some(op::send(&self.socket, bytes));
        }
        true
    }

    /// Ends the connection: what the server does not read would hold the socket as long as TCP has patience.
    pub fn give_up(&self) {
        let _ = rustix::net::shutdown(self.socket.as_fd(), Shutdown::Both);
    }

    /// Gives the way to the server back, as it was; `unread` is what was read and not used.
    pub fn into_channel(mut self, unread: BytesMut) -> Result<Channel> {
        self.expect(false);
        drop(self.send);
        let socket = Rc::try_unwrap(self.socket).or_else(|shared| shared.try_clone());
        let socket = socket.map_err(|error| {
            Error::connection(format!("could not keep the socket: {}", system_text(&error)))
        })?;
        Ok(Channel {
            socket,
            tls: self.tls,
            unread,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::writes::Slot;
    use crate::ring::setup;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn statuses_for_a_server_that_does_not_read_do_not_pile_up() {
        tokio_uring::start(async {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut link = Link::new(ours.into(), None);
            for number in 0..100_000u32 {
                let mut status = [0; Status::LENGTH];
                status[..4].copy_from_slice(&number.to_be_bytes());
                link.send_status(&status);
                assert!(link.unsent.len() <= MOST_UNSENT, "{} bytes", link.unsent.len());
            }
            assert!(link.is_sending(), "the socket is full");
            link.send(b"end");
            // What does arrive is whole, in order, and has the newest status.
            let mut bytes = heard(link, theirs).await;
            assert_eq!(bytes.split_off(bytes.len() - 3), b"end");
            let (statuses, rest) = bytes.as_chunks::<{ Status::LENGTH }>();
            let numbers = statuses
                .iter()
                .map(|status| u32::from_be_bytes(status[..4].try_into().unwrap()));
            assert!(rest.is_empty() && numbers.clone().is_sorted());
            assert_eq!(numbers.max(), Some(99_999));
        });
    }

    /// What arrives at the other end in all.
    async fn heard(mut link: Link, mut theirs: UnixStream) -> Vec<u8> {
        let reader = thread::spawn(move || {
            let mut bytes = Vec::new();
            theirs.read_to_end(&mut bytes).map(|_| bytes).unwrap()
        });
        std::future::poll_fn(|cx| {
            while link.poll_send(cx) {}
            if link.is_sending() {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
        drop(link);
        reader.join().unwrap()
    }

    #[test]
    fn a_read_is_withdrawn_although_a_send_waits_before_it() {
        tokio_uring::start(async {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut link = Link::new(ours.into(), None);
            let mut slots = setup::register_slots(4096).unwrap();
            let message = vec![7; 4 << 20];
            link.send(&message);
            assert!(link.is_sending(), "the socket is full");
            // Both wait in the kernel.
            let ask = Ask {
                slot: Slot(0),
                range: 0..100,
                certain: false,
                spread: None,
            };
            let read = link.receive(slots.take(ask.slot), ask);
            link.cancel().await.0.expect("something to withdraw");
            let (result, _) = tokio::time::timeout(Duration::from_secs(120), read)
                .await
                .expect("an answer");
            assert!(op::is_interruption(&result.unwrap_err()));
            assert!(heard(link, theirs).await == message);
        });
    }

    #[test]
    fn a_message_of_which_a_part_was_sent_is_sent_in_whole_although_it_was_withdrawn() {
        tokio_uring::start(async {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut link = Link::new(ours.into(), None);
            let message: Vec<u8> = (0..4 << 20).map(|byte| (byte % 251) as u8).collect();
            link.send(&message);
            assert!(link.is_sending(), "the socket is full");
            // Nothing else is in flight, so this hits the send.
            link.cancel().await.0.expect("something to withdraw");
            assert!(heard(link, theirs).await == message);
        });
    }
}
