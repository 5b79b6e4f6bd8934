//! The end of a stream: what was said last leaves, the kernel gives back what it has, and so does the stream.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;

use super::Stream;
use crate::error::{Error, Result};
use crate::ring::contract::Ended;

impl Stream<'_> {
    /// Waits until all that was said has left, at most until then: a server may read nothing more. Then the rest is
    /// given up, for what is said next would come into the middle of it.
    pub(super) fn say_last(&mut self, cx: &mut Context<'_>, latest: Duration) -> Poll<()> {
        loop {
            while self.link.poll_send(cx) {}
            if !self.link.is_sending() {
                return Poll::Ready(());
            }
            let now = self.now();
            if now >= latest {
                self.link.give_up();
                return Poll::Ready(());
            }
            if !self.timer.poll(cx, now, Some(latest)) {
                return Poll::Pending;
            }
        }
    }

    /// Waits until the kernel has given back every slot and the socket, and neither syncs nor renames anything any
    /// more: the next stream must find what it will build upon. A failure that shows only now is kept.
    pub(super) fn land(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.link.poll_send(cx) {}
        if self.flight.receive.is_some() && self.flight.cancel.is_none() {
            self.flight.cancel = Some(self.link.cancel());
        }
        self.poll_cancel(cx);
        if let Some((slot, receive)) = &mut self.flight.receive
            && let Poll::Ready((result, reading)) = Pin::new(receive).poll(cx)
        {
            let mut buffer = reading.buffer;
            let _ = self.link.received(result, &mut buffer, reading.sealed);
            self.shared.slots.put(*slot, buffer);
            self.flight.receive = None;
        }
        loop {
            match self.poll_disk(cx) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => drop(self.late.get_or_insert(error)),
            }
        }
        if self.segments.is_zeroing() {
            self.segments.poll(cx, self.began.elapsed(), self.shared.slots, 0);
        }
        let landed = self.flight.is_empty() && !self.link.is_sending() && !self.segments.is_zeroing();
        if landed { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The stream failed with this. A write or sync that has failed for good since then must not be forgotten for an error
    /// that would be tried again: the next sync would succeed.
    pub(super) fn fail(mut self, error: Error) -> Error {
        self.segments.end();
        let worse = self.late.take().filter(|late| !late.is_retryable());
        worse.filter(|_| error.is_retryable()).unwrap_or(error)
    }

    pub(super) fn conclude(self) -> Result<Ended> {
        let received = self.core.progress().received();
        let slot = self.core.receiving_slot();
        let buffer = self.shared.slots.take(slot);
        let missing = self.core.missing();
        let (ending, mut unread, decoder) = self.core.into_ending(&buffer);
        unread.extend_from_slice(&self.early);
        self.shared.slots.put(slot, buffer);
        Ok(Ended {
            ending,
            received,
            channel: self.link.into_channel(BytesMut::from(&unread[..]))?,
            missing,
            partial: self.segments.end(),
            decoder,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::demand::Durability;
    use crate::core::lsn::{Lsn, SegmentSize, Timeline};
    use crate::core::message::{COPY_DONE, Status};
    use crate::core::order::{Config, Ending};
    use crate::core::spin::SpinLimit;
    use crate::core::telemetry::Telemetry;
    use crate::ring::buffer::Slots;
    use crate::ring::contract::{Channel, Shared, Watch};
    use crate::ring::durable::{Failed, Method};
    use crate::ring::flight::{NameOrder, Naming};
    use crate::ring::segment::{Place, Segments};
    use crate::ring::setup::{self, SLOTS, WINDOW};
    use crate::ring::stop::Stop;
    use crate::ring::stream::{FAREWELL, run};
    use rustix::event::{PollFd, PollFlags};
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::io::{self, Read, Write};
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::time::Instant;

    const BLOCK: usize = 4096;

    struct Blind;

    impl Watch for Blind {
        fn progress(&mut self, _: Duration, _: Lsn, _: Lsn) {}
        fn finished(&mut self, _: Lsn) {}
        fn notice(&mut self, _: &[u8]) {}
    }

    fn config() -> Config {
        let start = Lsn(5 << 20);
        Config {
            segment_size: SegmentSize::new(1 << 20).unwrap(),
            block: BLOCK as u64,
            slots: SLOTS,
            window: WINDOW,
            durability: Durability::Synchronous,
            claims_flush: true,
            status_interval: None,
            receive_timeout: None,
            end_position: None,
            start,
            backlog_end: start,
            stored: Vec::new(),
            only_compares: false,
            decoder: None,
            preserve_end: start,
            named: false,
        }
    }

    /// What a stream is made of that receives over this socket, into a directory that is gone with the answer.
    struct Parts {
        home: tempfile::TempDir,
        slots: Slots,
        telemetry: Arc<Telemetry>,
        stop: Stop,
        watch: Blind,
    }

    impl Parts {
        fn new() -> Parts {
            Parts {
                home: tempfile::tempdir().unwrap(),
                slots: setup::register_slots(BLOCK).unwrap(),
                telemetry: Arc::default(),
                stop: Stop::default(),
                watch: Blind,
            }
        }

        fn segments(&self) -> Segments {
            let place = Place {
                directory: self.home.path().to_owned(),
                timeline: Timeline(1),
                size: config().segment_size,
                mode: 0o600,
                direct: false,
            };
            let directory = std::fs::File::open(self.home.path()).unwrap();
            Segments::new(place, directory, Arc::clone(&self.telemetry)).unwrap()
        }

        fn shared(&mut self) -> Shared<'_> {
            Shared {
                slots: &mut self.slots,
                telemetry: &self.telemetry,
                stop: &self.stop,
                durable_method: Method::Dsync,
                spin: SpinLimit::default(),
                watch: &mut self.watch,
            }
        }
    }

    fn channel(socket: UnixStream) -> Channel {
        Channel {
            socket: socket.into(),
            tls: None,
            unread: BytesMut::new(),
        }
    }

    /// Two ends of a connection that takes nothing more: ours first.
    fn full_connection() -> (UnixStream, UnixStream) {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        while ours.write(&[0; 1000]).is_ok() {}
        ours.set_nonblocking(false).unwrap();
        (ours, theirs)
    }

    /// Adds what has arrived there.
    fn hear(mut socket: &UnixStream, heard: &mut Vec<u8>) {
        let end = socket.read_to_end(heard);
        assert!(end.is_ok() || end.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
    }

    #[test]
    fn what_is_said_last_has_left_before_the_socket_is_given_back() {
        setup::start().unwrap().block_on(async {
            let (mut parts, (ours, theirs)) = (Parts::new(), full_connection());
            let theirs = Rc::new(theirs);
            parts.stop.request();
            // Runs when the stream has nothing more to do than to wait.
            let ears = Rc::clone(&theirs);
            let listening = tokio_uring::spawn(async move {
                let mut heard = Vec::new();
                while !heard.windows(COPY_DONE.len()).any(|bytes| bytes == COPY_DONE) {
                    hear(&ears, &mut heard);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                heard
            });
            let (segments, began) = (parts.segments(), Instant::now());
            let ended = run(config(), segments, channel(ours), parts.shared())
                .await
                .unwrap();
            assert!(matches!(ended.ending, Ending::Stopped));
            // A machine that is busy elsewhere may need longer than a server is given.
            if began.elapsed() < FAREWELL {
                UnixStream::from(ended.channel.socket).write_all(b"next").unwrap();
                let mut heard = listening.await.unwrap();
                hear(&theirs, &mut heard);
                let told = heard.strip_suffix(b"next").expect("in order");
                let status = told.strip_suffix(&COPY_DONE).expect("in order");
                let head = status.len() - Status::LENGTH;
                assert_eq!(status[head..head + 6], *b"d\0\0\0\x26r", "the last status");
            }
        });
    }

    #[test]
    fn what_a_server_does_not_read_holds_no_socket_when_the_stream_is_over() {
        setup::start().unwrap().block_on(async {
            let (mut parts, (ours, theirs)) = (Parts::new(), full_connection());
            parts.stop.request();
            let segments = parts.segments();
            let run = run(config(), segments, channel(ours), parts.shared());
            let ended = tokio::time::timeout(Duration::from_secs(20), run).await;
            drop(ended.expect("an end"));
            let mut ends = [PollFd::new(&theirs, PollFlags::RDHUP)];
            let hung_up = rustix::event::poll(&mut ends, Some(&rustix::event::Timespec::default()));
            assert_eq!(hung_up.unwrap(), 1, "the connection is open");
        });
    }

    #[test]
    fn a_change_of_names_has_ended_before_a_stream_that_failed_and_its_failure_is_the_last_word() {
        setup::start().unwrap().block_on(async {
            let (mut parts, (ours, _theirs)) = (Parts::new(), UnixStream::pair().unwrap());
            let segments = parts.segments();
            let mut stream = Stream::new(config(), segments, channel(ours), parts.shared());
            let renamed = Rc::new(Cell::new(false));
            let is_renamed = Rc::clone(&renamed);
            let order = NameOrder::Name(stream.size.segment_of(config().start));
            let change = tokio_uring::spawn(async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                is_renamed.set(true);
                Err(Failed::sync_of_directory(io::Error::from_raw_os_error(libc::EIO)))
            });
            stream.flight.names = Some(Naming {
                order,
                issued: Duration::ZERO,
                change,
            });
            poll_fn(|cx| stream.land(cx)).await;
            assert!(renamed.get(), "the next stream would have begun before");
            let error = stream.fail(Error::disk("could not open: Too many open files"));
            assert!(!error.is_retryable(), "{error}");
            assert!(
                error.to_string().contains("could not fsync the directory"),
                "{error}"
            );
        });
    }
}
