//! What other threads see of a stream.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::core::lsn::Lsn;
use crate::core::receiver::Receiver;
use crate::core::telemetry::Telemetry;

/// PostgreSQL's epoch, 2000-01-01 UTC, in microseconds since 1970.
pub(super) const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// What was shown last: totals go on over all streams of the process.
#[derive(Debug)]
pub(super) struct Shown {
    received: Lsn,
    messages: u64,
    transactions: u64,
    records: u64,
    server_sent_us: i64,
}

impl Shown {
    /// A stream that begins.
    pub(super) fn new(core: &Receiver) -> Shown {
        Shown {
            received: core.progress().received(),
            messages: core.messages(),
            transactions: core.transactions(),
            records: core.records(),
            server_sent_us: 0,
        }
    }

    /// Shows how far the stream is.
    pub(super) fn update(&mut self, core: &Receiver, telemetry: &Telemetry) {
        let progress = core.progress();
        telemetry.received.set(progress.received());
        telemetry.verified.set(progress.verified());
        telemetry.written.set(progress.written());
        telemetry.flushed.set(progress.flushed());
        telemetry.server_end.set(core.server_end());
        let bytes = progress.received().bytes_since(self.received);
        telemetry.received_bytes.add(bytes);
        telemetry.messages.add(core.messages() - self.messages);
        telemetry
            .transactions
            .add(core.transactions() - self.transactions);
        telemetry.records.add(core.records() - self.records);
        let heard = core.server_sent_us() != self.server_sent_us;
        let caught_up = progress.flushed() >= core.server_end();
        if heard || caught_up {
            let now = unix_us();
            if heard {
                telemetry.last_receipt.set(now);
                let sent = core.server_sent_us().saturating_add(POSTGRES_EPOCH_US);
                telemetry.last_send.set(sent);
            }
            if caught_up {
                telemetry.last_caught_up.set(now);
            }
        }
        *self = Shown {
            server_sent_us: core.server_sent_us(),
            ..Shown::new(core)
        };
    }
}

/// The clock, in microseconds since 1970 UTC.
pub(super) fn unix_us() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since_1970.as_micros() as i64
}
