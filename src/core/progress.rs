//! All progress is a few positions with one inequality; this type owns them.
//!
//! ```text
//! reported_flush <= flushed <= written <= received
//!                   flushed <= verified <= received
//! ```

use super::lsn::Lsn;
use super::message::Status;

/// How far a stream has come. Every change is checked against the inequality, in release builds too:
/// a receiver that claims too much must stop rather than go on.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    received: Lsn,
    verified: Lsn,
    written: Lsn,
    flushed: Lsn,
    reported_flush: Lsn,
}

impl Progress {
    /// The stream begins at `start`; what lies before it is not this stream's to claim or to lose, but
    /// for a record that crosses into it: then `verified` is where that begins.
    pub fn new(start: Lsn, verified: Lsn) -> Progress {
        let verified = verified.min(start);
        Progress {
            received: start,
            verified,
            written: start,
            flushed: verified,
            reported_flush: verified,
        }
    }

    /// The end of what arrived.
    pub fn received(&self) -> Lsn {
        self.received
    }

    /// The end of what was found right, or is taken on trust.
    pub fn verified(&self) -> Lsn {
        self.verified
    }

    /// The end of what the operating system took without a gap.
    pub fn written(&self) -> Lsn {
        self.written
    }

    /// The end of what is durable without a gap: bytes and name.
    pub fn flushed(&self) -> Lsn {
        self.flushed
    }

    /// The flush position that the server was told last.
    pub fn reported_flush(&self) -> Lsn {
        self.reported_flush
    }

    /// More WAL arrived, up to `end`.
    pub fn receive(&mut self, end: Lsn) {
        self.received = self.received.max(end);
        self.check();
    }

    /// Everything up to `end` has been found right.
    pub fn verify(&mut self, end: Lsn) {
        self.verified = self.verified.max(end);
        self.check();
    }

    /// Everything up to `end` has been written.
    pub fn write(&mut self, end: Lsn) {
        self.written = self.written.max(end);
        self.check();
    }

    /// Everything up to `end` is durable.
    pub fn flush(&mut self, end: Lsn) {
        self.flushed = self.flushed.max(end);
        self.check();
    }

    /// The status to send now. `claims_flush` is false for a receiver that must never be taken for
    /// a synchronous standby; then zero is sent, which claims nothing.
    pub fn report(&mut self, claims_flush: bool, reply_requested: bool) -> Status {
        self.reported_flush = self.flushed;
        self.check();
        let flushed = if claims_flush { self.flushed } else { Lsn::INVALID };
        Status {
            written: self.written,
            flushed,
            reply_requested,
        }
    }

    fn check(&self) {
        let ordered = self.reported_flush <= self.flushed
            && self.flushed <= self.written
            && self.written <= self.received
            && self.flushed <= self.verified
            && self.verified <= self.received;
        assert!(ordered, "positions out of order: {self:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_claims_what_is_durable_and_nothing_else() {
        let mut progress = Progress::new(Lsn(100), Lsn(100));
        progress.receive(Lsn(300));
        progress.verify(Lsn(300));
        progress.write(Lsn(200));
        progress.flush(Lsn(150));
        let status = progress.report(true, false);
        assert_eq!((status.written, status.flushed), (Lsn(200), Lsn(150)));
        assert_eq!(progress.report(false, false).flushed, Lsn::INVALID);
    }

    #[test]
    fn a_record_that_crosses_into_the_stream_is_not_claimed() {
        let mut progress = Progress::new(Lsn(100), Lsn(70));
        assert_eq!(progress.report(true, false).flushed, Lsn(70));
        progress.verify(Lsn(90));
        progress.flush(Lsn(90));
        assert_eq!(progress.report(true, false).flushed, Lsn(90));
    }

    #[test]
    fn positions_never_go_back() {
        let mut progress = Progress::new(Lsn(100), Lsn(100));
        progress.receive(Lsn(300));
        progress.verify(Lsn(300));
        progress.write(Lsn(300));
        progress.flush(Lsn(300));
        progress.flush(Lsn(200));
        assert_eq!(progress.flushed(), Lsn(300));
    }

    #[test]
    #[should_panic(expected = "positions out of order")]
    fn what_was_not_written_cannot_be_durable() {
        let mut progress = Progress::new(Lsn(100), Lsn(100));
        progress.receive(Lsn(300));
        progress.verify(Lsn(300));
        progress.flush(Lsn(200));
    }

    #[test]
    #[should_panic(expected = "positions out of order")]
    fn what_was_not_verified_cannot_be_acknowledged() {
        let mut progress = Progress::new(Lsn(100), Lsn(100));
        progress.receive(Lsn(300));
        progress.write(Lsn(300));
        progress.flush(Lsn(200));
    }
}
