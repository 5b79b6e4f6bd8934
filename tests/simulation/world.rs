//! Everything around a stream: time, disk, server, network, and who checks them.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use walring::core::lsn::SegmentNumber;
use walring::core::message::Status;

use super::checks::Checks;
use super::disk::{Disk, SyncId, WriteId};
use super::log::Log;
use super::network::Link;
use super::primary::Primary;
use crate::model::Rng;

/// A change of names that the core ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameOrder {
    /// The segment's file gets its name with `.partial`.
    Name(SegmentNumber),
    /// The segment loses its `.partial`, and if so, the next one's file gets its name.
    Finish(SegmentNumber, bool),
}

impl NameOrder {
    /// The segment.
    pub fn segment(self) -> SegmentNumber {
        let (NameOrder::Name(segment) | NameOrder::Finish(segment, _)) = self;
        segment
    }

    /// For the log.
    pub fn text(self) -> &'static str {
        match self {
            NameOrder::Name(_) => "names segment",
            NameOrder::Finish(_, false) => "finishes segment",
            NameOrder::Finish(_, true) => "finishes segment and names the next",
        }
    }
}

/// What the disk will have done.
pub enum Event {
    Written {
        stream: u64,
        id: WriteId,
    },
    Synced {
        stream: u64,
        sync: SyncId,
    },
    /// The next of these renames; behind the last one the directory is synced.
    Renamed {
        stream: u64,
        order: NameOrder,
        renames: VecDeque<(String, String)>,
    },
    /// The sync of the directory that covers so many changes.
    DirectorySynced {
        stream: u64,
        order: NameOrder,
        covers: usize,
    },
    Prepared {
        stream: u64,
    },
}

/// What the disk has to say about an event to the stream.
pub enum News {
    Written(u64, WriteId),
    Synced(u64, io::Result<()>),
    Named(u64, NameOrder, io::Result<()>),
    Prepared(u64),
    None,
}

/// Everything around a stream.
pub struct World {
    pub log: Log,
    pub rng: Rng,
    pub disk: Disk,
    pub primary: Primary,
    pub link: Option<Link>,
    pub checks: Checks,
    /// Shortest and longest operation of the disk in microseconds.
    pub disk_us: (u64, u64),
    events: Vec<(Duration, Event)>,
}

impl World {
    /// Nothing is connected yet.
    pub fn new(log: Log, rng: Rng, disk: Disk, primary: Primary, disk_us: (u64, u64)) -> World {
        World {
            log,
            rng,
            disk,
            primary,
            link: None,
            checks: Checks::default(),
            disk_us,
            events: Vec::new(),
        }
    }

    /// The operator moves finished segments away, as many as lie below every partial; the newest stays. From now on the
    /// directory begins behind them.
    pub fn move_away(&mut self) {
        let Some(first) = self.checks.first_that_stays(&self.disk) else {
            return;
        };
        for name in self.checks.finished_before(&self.disk, first) {
            self.log.note("operator: moves away", first, 0);
            if self.disk.remove(&name).is_err() {
                return;
            }
        }
        self.checks.begins_at(first);
    }

    /// How long an operation of the disk takes.
    pub fn disk_latency(&mut self) -> Duration {
        Duration::from_micros(self.rng.between(self.disk_us.0, self.disk_us.1))
    }

    /// This happens once the disk has done something.
    pub fn after_disk(&mut self, event: Event) {
        let at = self.log.now + self.disk_latency();
        self.events.push((at, event));
    }

    /// When the disk has done the next thing.
    pub fn next_time(&self) -> Option<Duration> {
        self.events.iter().map(|(at, _)| *at).min()
    }

    /// The disk has done something.
    pub fn happen(&mut self) -> News {
        let earliest = self.events.iter().enumerate().min_by_key(|(_, (at, _))| *at);
        let index = earliest.map(|(index, _)| index).expect("something is to happen");
        match self.events.remove(index).1 {
            Event::Written { stream, id } => News::Written(stream, id),
            Event::Synced { stream, sync } => {
                let result = self.disk.end_sync(sync);
                self.note_failure("a sync fails", &result);
                News::Synced(stream, result)
            }
            Event::Prepared { stream } => News::Prepared(stream),
            Event::Renamed {
                stream,
                order,
                mut renames,
            } => {
                if let Some((from, to)) = renames.pop_front() {
                    let result = self.disk.rename(&from, &to);
                    self.note_failure("a rename fails", &result);
                    if result.is_err() {
                        return News::Named(stream, order, result);
                    }
                    self.checks.renamed(&self.disk, &to);
                }
                let next = match renames.is_empty() {
                    false => Event::Renamed {
                        stream,
                        order,
                        renames,
                    },
                    true => {
                        let covers = self.disk.begin_directory_sync();
                        Event::DirectorySynced {
                            stream,
                            order,
                            covers,
                        }
                    }
                };
                self.after_disk(next);
                News::None
            }
            Event::DirectorySynced {
                stream,
                order,
                covers,
            } => {
                let result = self.disk.end_directory_sync(covers);
                self.note_failure("a sync of the directory fails", &result);
                News::Named(stream, order, result)
            }
        }
    }

    fn note_failure(&mut self, what: &'static str, result: &io::Result<()>) {
        if result.is_err() {
            self.log.note(what, None, 0);
        }
    }

    /// The process is gone, and what it waited for.
    pub fn forget_events(&mut self) {
        self.events.clear();
    }

    /// A status goes to the server; what it says must be true on the disk.
    pub fn tell(&mut self, timeline: u32, claims: bool, status: Status) {
        let history = &self.primary.history;
        self.checks.claim(
            &self.disk,
            history,
            timeline,
            claims,
            status,
            (self.primary.sent(), self.primary.asked()),
        );
        if let Some(link) = &mut self.link {
            link.tell(self.log.now, status);
        }
    }

    /// The server sends more if the connection takes it.
    pub fn pump(&mut self) {
        if let Some(link) = &mut self.link {
            self.primary.pump(&mut self.log, link);
        }
    }

    /// The server hears the next status.
    pub fn hear(&mut self) {
        if let Some(link) = &mut self.link
            && let Some(status) = link.hear()
        {
            self.primary.hear(&mut self.log, link, status);
        }
    }
}
