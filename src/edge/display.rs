//! What the operator sees of a stream while it runs: a line that shows progress, and the log.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

use tracing::debug;

use super::logging::LogFormat;
use super::options::ReceiveOptions;
use super::progress_line::ProgressLine;
use super::report::log_notice;
use crate::core::lsn::{Lsn, Timeline};
use crate::core::start::Position;
use crate::core::telemetry::Telemetry;
use crate::ring::contract::Watch;

/// A server so far ahead is worth a progress line, in bytes.
const WORTH_SHOWING: u64 = 16 << 20;

/// What the operator sees of a stream.
pub(super) struct Display {
    line: ProgressLine,
    timeline: Timeline,
    start: Lsn,
    shown: bool,
    telemetry: Arc<Telemetry>,
}

impl Display {
    pub(super) fn new(options: &ReceiveOptions, position: Position, telemetry: Arc<Telemetry>) -> Display {
        let terminal = options.log.format == LogFormat::Text && io::stderr().is_terminal();
        let Position { lsn, timeline } = position;
        Display {
            line: ProgressLine::new(terminal),
            timeline,
            start: lsn,
            shown: false,
            telemetry,
        }
    }
}

impl Watch for Display {
    fn progress(&mut self, elapsed: Duration, received: Lsn, server_end: Lsn) {
        if server_end.bytes_since(received) > WORTH_SHOWING {
            self.shown = true;
            self.line.update(
                elapsed,
                received.bytes_since(self.start),
                server_end.bytes_since(self.start),
            );
        } else if self.shown {
            self.shown = false;
            self.line.finish();
        }
    }

    fn finished(&mut self, end: Lsn) {
        self.telemetry.segments.increment();
        debug!("finished segment at {end} (timeline {})", self.timeline);
    }

    fn notice(&mut self, body: &[u8]) {
        log_notice(body);
    }
}
