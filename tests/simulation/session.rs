//! What a process does between streams, as `edge::session` does it: from finding out where to start to what the end of a
//! stream means.

use std::io::Cursor;

use walring::core::demand::Durability;
use walring::core::history::History;
use walring::core::lineage;
use walring::core::lsn::{Lsn, Timeline};
use walring::core::order::{Config, Ending};
use walring::core::resume::{self, Left, Resumed, Stored};
use walring::core::standing::{Standing, standing};
use walring::core::start::{self, Facts, Position, SegmentFile, Stage};
use walring::core::wal::Verify;
use walring::core::wal::decoder::{Decoder, Expected};
use walring::core::wal::fault::Fault;
use walring::error::{Error, Result};

use super::disk::{Disk, Durable};
use super::files::Files;
use super::life::Life;
use super::network::Link;
use super::primary::Answer;
use super::stream::{Ended, Stream};
use super::world::World;
use crate::model::segment_size;

/// So many connections of a hundred lead to a server that did not follow the last failover, if there is one.
const OLD_SERVERS: u64 = 30;

/// How a stream goes on.
struct Continuation {
    position: Position,
    /// What is stored from there on.
    stored: Vec<u8>,
    decoder: Decoder,
    /// The end of what is stored and right.
    right_to: Lsn,
    unproven: Option<Lsn>,
}

/// How far a stream is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// Until what is stored is found the same; then the segment's beginning, up to there, is received again.
    Same(Position, Lsn),
    /// Behind the segment's beginning.
    Rest(Lsn),
    /// As far as it goes.
    End,
}

/// The files of a directory, for those who read what is stored.
struct Directory<'a>(&'a Disk);

impl Stored for Directory<'_> {
    type Reader = Cursor<Vec<u8>>;

    fn open(&self, name: &str) -> Result<Self::Reader> {
        let file = self.0.find(name).ok_or_else(|| Error::disk("no such file"))?;
        Ok(Cursor::new(self.0.content(file).to_vec()))
    }

    fn failed_read(&self, name: &str, error: &std::io::Error) -> Error {
        Error::disk(format!("{name}: {error}"))
    }

    fn damaged(&self, name: &str, fault: &Fault) {
        panic!("{name} is complete and damaged: {fault}");
    }
}

impl Life {
    pub(super) fn start_streaming(&mut self) -> Result<Option<Stream>> {
        let world = &mut self.world;
        let leads_to_old =
            self.calm_since.is_none() && world.primary.has_old() && world.rng.chance(OLD_SERVERS);
        world.primary.turn_to_old(leads_to_old);
        let is_down = world.log.now < world.primary.down_until && !leads_to_old;
        if is_down || (self.calm_since.is_none() && world.rng.chance(5)) {
            return Err(Error::connection("connection refused"));
        }
        let seed = world.rng.next();
        world.link = Some(Link::new(self.plan.quality, seed));
        self.until = Until::End;
        let (files, from) = self.find_continuation()?;
        if let Some(end) = from.unproven {
            self.world.log.note("compares, for the rest to", end, 0);
            self.until = Until::Same(from.position, end);
        }
        self.go_on(&files, from)
    }

    /// What is stored, and how a stream goes on from there.
    fn find_continuation(&mut self) -> Result<(Vec<SegmentFile>, Continuation)> {
        self.sync_what_lies_here()?;
        let mut files = self.scan();
        self.check_system_identifier(&files);
        self.drop_left_behind(&mut files);
        let plan = self.find_start(&files)?;
        let world = &mut self.world;
        world.checks.begin(plan.lsn, files.is_empty());
        let left = self.left.take();
        let directory = Directory(&self.world.disk);
        let resumed = resume::go_on(&directory, left, &files, &plan, self.expected(plan.timeline))?;
        if !files.is_empty() {
            let stored = Position {
                lsn: resumed.end,
                timeline: plan.timeline,
            };
            let history = self.server_history();
            self.check_ancestors(plan.timeline, &history);
            match standing(stored, self.server(), &history) {
                Standing::Covers => {}
                Standing::Behind | Standing::Earlier => {
                    self.world.log.note(
                        "server: lacks what is stored",
                        stored.lsn,
                        stored.timeline.0.into(),
                    );
                    return Err(Error::lacking("the server does not have what is stored"));
                }
                Standing::Forked { at, next } => return Ok(self.follow_fork(files, stored, (at, next))),
                Standing::Unrelated => panic!("the server's timelines follow each other"),
            }
        }
        let from = self.overlap(&plan, resumed);
        Ok((files, from))
    }

    /// The new primary does not have all that is stored: it is followed from where it took over.
    fn follow_fork(
        &mut self,
        files: Vec<SegmentFile>,
        stored: Position,
        (at, next): (Lsn, Timeline),
    ) -> (Vec<SegmentFile>, Continuation) {
        let fork = Position {
            lsn: at,
            timeline: next,
        };
        let in_the_way = lineage::in_the_way(&files, fork, Stage::Partial, segment_size());
        assert_eq!(in_the_way, None, "the new timeline would come over it");
        self.tell_loss(stored, fork);
        let from = self.begin_timeline(fork);
        (files, from)
    }

    /// The server may have sent more than it went on from; without records nobody can tell.
    fn tell_fork(&mut self, ended: Position, next: Position) {
        let left = self.left.as_ref();
        let right_to = left.map_or(ended.lsn, |left| left.right_to);
        match self.options.verify {
            Verify::Records if right_to > next.lsn => {
                let stored = Position {
                    lsn: right_to,
                    ..ended
                };
                self.tell_loss(stored, next);
            }
            Verify::Records => {}
            Verify::Pages | Verify::Off => self.world.checks.hear_nothing(ended.timeline.0),
        }
    }

    /// The operator hears that WAL is stored which the server does not have.
    fn tell_loss(&mut self, stored: Position, fork: Position) {
        let World { log, checks, .. } = &mut self.world;
        log.note(
            "tells of WAL that is only here, from",
            fork.lsn,
            stored.timeline.0.into(),
        );
        checks.hear_of_loss(stored, fork);
    }

    /// As `edge::ancestry`: of the stored timelines the newest one goes on.
    fn drop_left_behind(&self, files: &mut Vec<SegmentFile>) {
        let Some(newest) = lineage::newest(files) else {
            return;
        };
        match self.kept(newest) {
            Some(history) => lineage::drop_left_behind(files, &history, segment_size()),
            None => assert!(
                !lineage::is_overtaken(files, newest),
                "of timeline {newest} there are segments, and no history"
            ),
        }
    }

    /// The history that is stored of a timeline.
    fn kept(&self, timeline: Timeline) -> Option<History> {
        let disk = &self.world.disk;
        let file = disk.find(&timeline.history_file_name())?;
        let text = std::str::from_utf8(disk.content(file)).expect("a text");
        Some(History::parse(timeline, text).expect("a history that is stored is whole"))
    }

    fn check_ancestors(&self, timeline: Timeline, theirs: &History) {
        let ancestors = lineage::ancestors(theirs, timeline);
        if let Some((ours, theirs)) = self.kept(timeline).zip(ancestors) {
            assert_eq!(ours.forks, theirs, "the server is taken for another one");
        }
    }

    fn server_history(&self) -> History {
        let (number, _) = self.world.primary.place();
        let timeline = Timeline(number);
        if timeline == Timeline(1) {
            return History::without_ancestors(timeline);
        }
        History::parse(timeline, &self.world.primary.history.file(number)).expect("a history")
    }

    /// As `edge::continuation`: the last stored bytes are received again and compared.
    fn overlap(&self, plan: &start::StartPlan, resumed: Resumed) -> Continuation {
        let start = resumed.compared_from(plan);
        let Resumed {
            decoder,
            end: right_to,
            unproven,
        } = resumed;
        let end = decoder.position();
        let name = segment_size()
            .segment_of(start)
            .file_name(plan.timeline, segment_size())
            + ".partial";
        let stored = match start < end {
            true => {
                let disk = &self.world.disk;
                let content = disk.content(disk.find(&name).expect("the partial that was read"));
                let offset = segment_size().offset_of(start) as usize;
                content[offset..offset + end.bytes_since(start) as usize].to_vec()
            }
            false => Vec::new(),
        };
        Continuation {
            position: Position {
                lsn: start,
                timeline: plan.timeline,
            },
            stored,
            decoder,
            right_to,
            unproven,
        }
    }

    fn sync_what_lies_here(&mut self) -> Result<()> {
        if self.is_claimed() && !self.is_synced {
            let result = self.world.disk.sync_file_system();
            result.map_err(|_| Error::disk_broken("could not sync the file system"))?;
        }
        self.is_synced = self.options.durability != Durability::Background;
        Ok(())
    }

    fn scan(&self) -> Vec<SegmentFile> {
        let disk = &self.world.disk;
        let measured = |name: &str| {
            let file = SegmentFile::from_name(name, segment_size())?;
            let bytes = disk.content(disk.find(name)?).len() as u64;
            Some(SegmentFile {
                wal_bytes: Some(bytes),
                ..file
            })
        };
        let mut files: Vec<_> = disk.names().filter_map(measured).collect();
        files.sort_by_key(SegmentFile::rank);
        files
    }

    fn check_system_identifier(&self, files: &[SegmentFile]) {
        let disk = &self.world.disk;
        for file in files.iter().rev() {
            let content = disk
                .find(&file.name(segment_size()))
                .map(|file| disk.content(file));
            let Some(page) = content.and_then(|content| content.get(..40)) else {
                continue;
            };
            let is_cut_off = file.stage == Stage::Partial && page[36..] == [0; 4];
            if !is_cut_off && page.iter().any(|&byte| byte != 0) {
                let expected = self.world.primary.history.system_identifier.to_le_bytes();
                assert!(
                    page[24..32] == expected,
                    "the newest segment looks like another server's"
                );
                return;
            }
        }
    }

    fn server(&self) -> Position {
        let (timeline, lsn) = self.world.primary.place();
        Position {
            lsn,
            timeline: Timeline(timeline),
        }
    }

    fn expected(&self, timeline: Timeline) -> Expected {
        Expected {
            segment_size: segment_size(),
            timeline,
            system_identifier: Some(self.world.primary.history.system_identifier),
        }
    }

    fn find_start(&mut self, files: &[SegmentFile]) -> Result<start::StartPlan> {
        let lsn = self.world.primary.slot_position();
        // Who did not follow has not the slot either, or has it further behind.
        let has_slot = self.options.has_slot && lsn <= self.server().lsn;
        let slot = (has_slot && files.is_empty()).then(|| Position {
            lsn,
            timeline: self.server_history().owner_of(lsn),
        });
        let plan = start::plan(&Facts {
            files,
            segment_size: segment_size(),
            requested: None,
            slot,
            server: self.server(),
        });
        assert!(
            plan.set_aside.is_empty() && plan.warnings.is_empty(),
            "{:?}",
            plan.warnings
        );
        let world = &mut self.world;
        world
            .log
            .note("starts as planned, on timeline", plan.lsn, plan.timeline.0.into());
        let covers = world.disk.begin_directory_sync();
        let synced = world.disk.end_directory_sync(covers);
        synced.map_err(|_| Error::disk_broken("could not fsync directory"))?;
        Ok(plan)
    }

    /// Over timelines that hold nothing for us, to a stream.
    fn go_on(&mut self, files: &[SegmentFile], mut from: Continuation) -> Result<Option<Stream>> {
        loop {
            let position = from.position;
            self.fetch_history(position.timeline.0)?;
            let World { primary, log, .. } = &mut self.world;
            match primary.start(log, position.timeline.0, position.lsn) {
                Answer::Streams => return self.run_stream(files, from).map(Some),
                Answer::Ended(..) | Answer::Refused if self.until != Until::End => return Err(shortened()),
                Answer::Refused => panic!("asks for {position:?}, which the server does not have"),
                Answer::Ended(next, switch) => {
                    let next = resume::next_timeline(position, Timeline(next), switch, position.lsn)?;
                    self.check_way(files, next);
                    from = self.begin_timeline(next);
                }
            }
        }
    }

    fn check_way(&self, files: &[SegmentFile], next: Position) {
        let in_the_way = lineage::in_the_way(files, next, Stage::Complete, segment_size());
        assert_eq!(in_the_way, None, "the next timeline would come over it");
    }

    fn begin_timeline(&mut self, next: Position) -> Continuation {
        self.world
            .log
            .note("follows to timeline", next.lsn, next.timeline.0.into());
        let lsn = segment_size().floor(next.lsn);
        Continuation {
            position: Position { lsn, ..next },
            stored: Vec::new(),
            decoder: resume::fresh(self.expected(next.timeline), lsn),
            right_to: lsn,
            unproven: None,
        }
    }

    /// As `edge::history`: content first, then the name, each made durable.
    fn fetch_history(&mut self, timeline: u32) -> Result<()> {
        let name = Timeline(timeline).history_file_name();
        if timeline == 1 {
            return Ok(());
        }
        let content = self.world.primary.history.file(timeline);
        if let Some(ours) = self.kept(Timeline(timeline)) {
            let theirs = History::parse(Timeline(timeline), &content).expect("a history");
            assert_eq!(ours, theirs, "another timeline's history is stored");
            return Ok(());
        }
        let world = &mut self.world;
        let temporary = format!("{name}.tmp");
        let failed = |_| Error::disk("could not store the timeline's history");
        world.disk.store(&temporary, content.as_bytes()).map_err(failed)?;
        world.disk.rename(&temporary, &name).map_err(failed)?;
        let covers = world.disk.begin_directory_sync();
        let synced = world.disk.end_directory_sync(covers);
        synced.map_err(|_| Error::disk_broken("could not fsync directory"))
    }

    fn run_stream(&mut self, files: &[SegmentFile], from: Continuation) -> Result<Stream> {
        let Continuation {
            position,
            stored,
            decoder,
            right_to,
            ..
        } = from;
        self.streams += 1;
        self.right_to = right_to;
        let options = &self.options;
        let world = &mut self.world;
        let mut open = Files::new(world, self.streams, position.timeline.0)?;
        let left = open.resume(world, position.lsn)?;
        if options.durability == Durability::Synchronous && left.is_none() && world.rng.chance(70) {
            open.prepare_first(world);
        }
        let decoder = match options.verify {
            Verify::Records => Some(decoder),
            Verify::Pages => Some(decoder.into_pages()),
            Verify::Off => None,
        };
        world.checks.follow(position);
        world.checks.looks_at_records = options.verify == Verify::Records;
        let config = Config {
            segment_size: segment_size(),
            block: options.block,
            slots: options.slots,
            window: options.window,
            durability: options.durability,
            claims_flush: options.claims(),
            status_interval: options.status_interval,
            receive_timeout: Some(options.receive_timeout),
            end_position: match self.until {
                Until::Rest(end) => Some(end),
                Until::Same(..) | Until::End => None,
            },
            start: position.lsn,
            backlog_end: world.primary.place().1,
            stored,
            only_compares: matches!(self.until, Until::Same(..)),
            decoder,
            preserve_end: resume::preserve_end(segment_size(), position, left, files),
            named: left.is_some(),
        };
        let method = match options.is_dsync {
            true => Durable::Range,
            false => Durable::File,
        };
        world.log.note(
            "a stream begins, on timeline",
            position.lsn,
            position.timeline.0.into(),
        );
        Ok(Stream::new(world, config, position.timeline.0, open, method))
    }

    /// A part was received that was wanted first.
    fn next_part(&mut self) -> Result<Option<Stream>> {
        let seed = self.world.rng.next();
        self.world.link = Some(Link::new(self.plan.quality, seed));
        match self.until {
            Until::Same(position, end) => {
                self.until = Until::Rest(end);
                let from = self.begin_timeline(position);
                let files = self.scan();
                self.go_on(&files, from)
            }
            Until::Rest(_) => {
                self.until = Until::End;
                let (files, from) = self.find_continuation()?;
                self.go_on(&files, from)
            }
            Until::End => panic!("a stream without an end position came to one"),
        }
    }

    /// What the end of a stream means; the next stream, if there is one.
    pub(super) fn follow(&mut self, timeline: u32, ended: Ended) -> Result<Option<Stream>> {
        let Ended {
            ending,
            received,
            decoder,
        } = ended;
        self.world.log.note("a stream ends", received, timeline.into());
        let decoder = decoder.filter(|_| self.until == Until::End);
        self.left = decoder.map(|decoder| Left {
            timeline: Timeline(timeline),
            right_to: self.right_to.max(decoder.position()),
            decoder,
        });
        self.has_received = true;
        match ending {
            Ending::Same | Ending::EndPosition if !self.is_stopping => self.next_part(),
            Ending::Same | Ending::Stopped | Ending::EndPosition => Ok(None),
            Ending::Damaged(fault) => panic!("what the server sent is called damaged: {fault}"),
            Ending::Diverged(at) => panic!("what the server sent again at {at} is not what is stored"),
            Ending::ServerError(_) => panic!("the server sent no error"),
            Ending::Failed(error) => Err(error),
            Ending::EndOfCopy => Err(Error::connection(
                "replication stream was terminated before stop point",
            )),
            Ending::CopyDone if self.is_stopping => Ok(None),
            Ending::CopyDone if self.until != Until::End => Err(shortened()),
            Ending::CopyDone => {
                let Answer::Ended(next, switch) = self.world.primary.end_of(timeline) else {
                    return Err(Error::connection("no next timeline"));
                };
                let position = Position {
                    lsn: received,
                    timeline: Timeline(timeline),
                };
                let next = resume::next_timeline(position, Timeline(next), switch, received)?;
                self.tell_fork(position, next);
                let files = self.scan();
                self.check_way(&files, next);
                let from = self.begin_timeline(next);
                self.go_on(&files, from)
            }
        }
    }
}

/// As `edge::rest`: the server ended the timeline before what it was found to have.
fn shortened() -> Error {
    Error::protocol("server ended a timeline before what it was found to have")
}
