//! What a receiver that looks at the log may do, checked against [`super::truth`] and what was delivered.

use walring::core::demand::QUIET;
use walring::core::lsn::{Lsn, SegmentNumber};
use walring::core::measure::Measure;
use walring::core::message::FRAME_HEAD;
use walring::core::order::Ending;

use super::segment_size;
use super::truth::{Commit, Truth};
use super::world::World;

/// What a receiver that looks at the log was told, and what it measured.
#[derive(Debug, Default)]
pub struct Inspected {
    /// The commits that it will tell, in their order.
    pub commits: Vec<Commit>,
    /// How many of them were measured as durable, named by their time, and measured as acknowledged.
    pub durable: usize,
    pub named: usize,
    pub acknowledged: usize,
    /// Taken on trust: all that was there when a quiet server asked.
    pub vouched: Option<Lsn>,
    /// Segments that lost their `.partial` while the record across their end was not complete.
    pub finished_early: usize,
}

impl World {
    fn truth(&self) -> Option<&Truth> {
        self.setup.truth.as_deref()
    }

    /// How far the log may be claimed now; all that was delivered, if nobody looks at it.
    pub fn claimable(&self) -> Lsn {
        let delivered = self.delivered_end();
        let right = self.truth().map_or(delivered, |truth| truth.right_to(delivered));
        self.inspected
            .vouched
            .map_or(right, |vouched| vouched.max(right))
            .max(self.start)
    }

    /// A message was delivered in whole. One that asks a quiet server's receiver for an answer makes it trust
    /// what there is.
    pub(super) fn delivered_in_whole(&mut self, raw: &[u8], payload: usize, lsn_end: Lsn) {
        let is_keepalive = raw.len() == FRAME_HEAD + 18 && raw[0] == b'd' && raw[FRAME_HEAD] == b'k';
        if payload > 0 || !is_keepalive {
            return;
        }
        let server_end = raw[FRAME_HEAD + 1..]
            .first_chunk()
            .map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let asks = raw[raw.len() - 1] == 1;
        let is_quiet = self.now >= self.last_wal.max(self.listening) + QUIET;
        if asks && server_end <= lsn_end.0 && is_quiet {
            self.inspected.vouched = Some(lsn_end);
        }
    }

    /// A segment may lose its `.partial` once the record across its end is right; or is longer than two
    /// segments; or the stream ends in good order.
    pub(super) fn check_completion(&mut self, segment: SegmentNumber) {
        let end = segment_size().end_of(segment);
        let delivered = self.delivered_end();
        if self.claimable() >= end {
            return;
        }
        self.inspected.finished_early += 1;
        let size = segment_size().bytes();
        let is_long = segment_size().floor(delivered).0 >= end.0 + 2 * size;
        assert!(
            is_long || self.ends_in_order(),
            "segment {segment:?} is finished, but what crosses its end is not: {delivered} was delivered, {} is right",
            self.claimable()
        );
    }

    /// The receiver was stopped, has passed its end position, or the server has ended its side of the COPY.
    fn ends_in_order(&self) -> bool {
        let delivered = self.delivered_end();
        let passed = self
            .setup
            .config
            .end_position
            .is_some_and(|position| position < delivered);
        self.is_stopped || passed || self.raw[..self.delivered].ends_with(b"c\0\0\0\x04")
    }

    /// Whether a segment has to have its own name when a stream that received so much has ended so.
    pub(super) fn must_be_finished(&self, segment: SegmentNumber, received: Lsn, ending: &Ending) -> bool {
        let (end, size) = (segment_size().end_of(segment), segment_size().bytes());
        let Some(truth) = self.truth() else {
            return end <= received;
        };
        let right = end <= truth.surely_right_to(received);
        match ending {
            Ending::Stopped | Ending::EndPosition | Ending::CopyDone => end <= received,
            _ => right || end.0 + 2 * size <= segment_size().floor(received).0,
        }
    }

    /// Nothing is claimed that is not complete and right.
    pub(super) fn check_claim(&self, flushed: Lsn) {
        let claimable = self.claimable();
        assert!(
            flushed <= claimable,
            "claims {flushed}, of what was delivered {claimable} is complete and right"
        );
    }

    /// Each commit is measured once when it is durable, and once when the server was told.
    pub(super) fn measured(&mut self, measure: Measure) {
        if self.setup.truth.is_none() {
            return;
        }
        match measure {
            Measure::Durable(_) => {
                let commit = self.inspected.commits.get(self.inspected.durable);
                let end = commit.expect("a commit that is there").padded_end;
                assert!(
                    self.disk.durable_end() >= end,
                    "a commit is called durable before it is"
                );
                self.inspected.durable += 1;
            }
            Measure::Acknowledged(_) => {
                let commit = self.inspected.commits.get(self.inspected.acknowledged);
                let end = commit.expect("a commit that is there").padded_end;
                assert!(
                    self.status().flushed >= end,
                    "called acknowledged before the server was told"
                );
                self.inspected.acknowledged += 1;
            }
            _ => {}
        }
    }

    /// A commit that is durable is told with its time.
    pub(super) fn committed(&mut self, committed_us: i64) {
        if self.setup.truth.is_some() {
            let commit = self.inspected.commits[self.inspected.named];
            assert_eq!(commit.committed_us, committed_us);
            self.inspected.named += 1;
        }
    }

    /// The commits up to there have been measured, and no others.
    pub fn check_commits(&self, end: Lsn) {
        let Inspected {
            commits,
            durable,
            named,
            acknowledged,
            ..
        } = &self.inspected;
        let expected = commits.iter().filter(|commit| commit.padded_end <= end).count();
        let told = if self.setup.config.claims_flush {
            expected
        } else {
            0
        };
        assert_eq!((*durable, *named, *acknowledged), (expected, expected, told));
    }
}
