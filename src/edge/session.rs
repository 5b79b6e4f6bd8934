//! One connection: from finding out where to start to the end of the stream, over as many timelines
//! as it takes.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::advice::STREAM_ENDED;
use super::ancestry::check_unwritten;
use super::connection::Connection;
use super::continuation::Continuation;
use super::directory::Directory;
use super::display::Display;
use super::durable_method;
use super::hosts::Host;
use super::observers::Observers;
use super::options::ReceiveOptions;
use super::patience::Patience;
use super::replication::{StartAnswer, StreamEnd, SystemIdentity};
use super::report::parse_error_response;
use crate::core::demand::Durability;
use crate::core::lsn::{Lsn, SegmentSize, Timeline};
use crate::core::order::{Config, Ending};
use crate::core::resume::{Left, next_timeline, preserve_end};
use crate::core::start::{self, Facts, Position, SegmentFile, Stage, StartPlan};
use crate::core::telemetry::{Activity, Telemetry, Upstream};
use crate::core::wal::Verify;
use crate::core::wal::decoder::Expected;
use crate::core::wal::fault::Fault;
use crate::error::{Error, Result};
use crate::ring::buffer::Slots;
use crate::ring::contract::{Ended, Shared};
use crate::ring::durable;
use crate::ring::presence;
use crate::ring::segment::{Place, Segments};
use crate::ring::setup::{SLOTS, WINDOW};
use crate::ring::stop::Stop;
use crate::ring::stream;

/// Once our side has ended, so long the server may take to end its own.
const FAREWELL: Duration = Duration::from_millis(300);

/// What outlives a connection.
pub struct Receiving<'a> {
    /// The command line.
    pub options: &'a ReceiveOptions,
    /// The target directory, locked.
    pub directory: Directory,
    /// The unit of writes, in bytes.
    pub block: u64,
    /// The buffer slots.
    pub slots: Slots,
    /// How a durable write is made, once that is decided.
    pub durable_method: Option<durable::Method>,
    /// What other threads see.
    pub telemetry: Arc<Telemetry>,
    /// Those who look at it.
    pub observers: Observers,
    /// What watches the disk.
    pub patience: Patience,
    /// The operator's wish.
    pub stop: Stop,
    /// Where the last connection led.
    pub host: Option<Host>,
    /// By which of its addresses.
    pub address: Option<SocketAddr>,
    /// The server of the first connection: another one under the same address is refused.
    pub system_identifier: Option<u64>,
    /// Where a new primary went on without all that is stored, once that was said.
    pub told_fork: Option<Position>,
    /// Whether everything in the directory that a status may claim is durable.
    pub synced: bool,
    /// Where the stream before was left.
    pub left: Option<Left>,
    /// Bytes received by this process, ever.
    pub received_bytes: u64,
}

/// How far a stream is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// Until what is stored is found the same: nothing is written.
    Same,
    /// Behind this position.
    Position(Lsn),
    /// As far as the operator wants.
    End,
}

/// What follows a stream.
pub(super) enum Next {
    /// The timeline that begins there.
    Timeline(Position),
    /// Any command: the stream went as far as it should.
    Command,
    /// The end.
    Nothing,
}

/// What the server said before streaming began.
pub(super) struct Server {
    pub(super) identity: SystemIdentity,
    pub(super) segment_size: SegmentSize,
}

impl Server {
    /// How far its log is flushed, and its timeline.
    pub(super) fn position(&self) -> Position {
        Position {
            lsn: self.identity.flushed,
            timeline: self.identity.timeline,
        }
    }

    /// What its log must look like.
    pub(super) fn expected(&self, timeline: Timeline) -> Expected {
        Expected {
            segment_size: self.segment_size,
            timeline,
            system_identifier: Some(self.identity.system_identifier),
        }
    }
}

impl Receiving<'_> {
    /// From now on it does this.
    pub fn enter(&self, activity: Activity) {
        self.telemetry.set_activity(activity);
        self.observers.notice();
    }

    /// Streams until the end position, the operator or an error ends it.
    pub async fn run(&mut self, connection: &mut Connection) -> Result<()> {
        self.directory.check_presence()?;
        self.sync_what_lies_here().await?;
        let mut server = self.ask_server(connection).await?;
        let (mut files, mut from) = self.find_continuation(connection, &server).await?;
        if let Some(end) = from.unproven {
            if !self.receive_rest(connection, &server, &files, from, end).await? {
                return Ok(());
            }
            self.sync_what_lies_here().await?;
            // It may have sent more than it had when it was asked first.
            server = self.ask_server(connection).await?;
            (files, from) = self.find_continuation(connection, &server).await?;
        }
        let timeline = from.position.timeline;
        debug!("starting log streaming at {} (timeline {timeline})", from.end());
        loop {
            let timeline = from.position.timeline;
            self.fetch_history(connection, &server, &files, timeline).await?;
            if self.options.endpos.is_some_and(|endpos| endpos < from.end()) {
                debug!("stopped log streaming at {} (timeline {timeline})", from.end());
                return Ok(());
            }
            let next = match self.stream(connection, &server, &files, from, Until::End).await? {
                Next::Timeline(next) => next,
                Next::Command | Next::Nothing => return Ok(()),
            };
            debug!("switched to timeline {} at {}", next.timeline, next.lsn);
            check_unwritten(
                &self.directory,
                &files,
                next,
                Stage::Complete,
                server.segment_size,
            )?;
            // It has another timeline now, with another history, and more WAL.
            server.identity = self.identify(connection).await?;
            from = Continuation::fresh(&server, next);
        }
    }

    /// The first status claims what lies before the stream, and nobody may have synced that: an earlier
    /// run with --no-sync, or this one with it, or before its disk was full. What this run made durable
    /// itself needs no second sync: others may have much to write on the same file system.
    async fn sync_what_lies_here(&mut self) -> Result<()> {
        if self.claims_flush() && !self.synced {
            self.telemetry.disk.asked();
            let synced = self.directory.sync_file_system().await;
            self.telemetry.disk.answered();
            synced?;
        }
        self.synced = !self.options.no_sync;
        Ok(())
    }

    /// The server's answer to a command, unless the operator wants the end or the server is silent
    /// for longer than the receive timeout.
    pub(super) async fn answer<T>(&self, command: impl Future<Output = Result<T>>) -> Result<T> {
        let patient = async {
            match self.options.receive_timeout {
                None => command.await,
                Some(limit) => timeout(limit, command)
                    .await
                    .unwrap_or_else(|_| Err(unanswered(limit))),
            }
        };
        tokio::select! {
            answer = patient => answer,
            () = self.stop.requested() => Err(Error::interrupted()),
        }
    }

    /// Whether the server is told what is durable: as pg_receivewal, only with a slot or synchronously.
    fn claims_flush(&self) -> bool {
        self.options.synchronous || self.options.slot.is_some()
    }

    async fn ask_server(&mut self, connection: &mut Connection) -> Result<Server> {
        // Group access to the data directory means group access to what is received from it.
        if self.answer(connection.data_directory_mode()).await? & 0o050 == 0o050 {
            self.directory.allow_group_access();
        }
        let identity = self.identify(connection).await?;
        let segment_size = self.answer(connection.wal_segment_size()).await?;
        self.telemetry.set_upstream(Upstream {
            system_identifier: identity.system_identifier,
            segment_size: Some(segment_size),
            ..self.telemetry.upstream()
        });
        Ok(Server {
            identity,
            segment_size,
        })
    }

    /// Who the server is, and how far: the same one as ever.
    async fn identify(&mut self, connection: &mut Connection) -> Result<SystemIdentity> {
        let identity = self.answer(connection.identify_system()).await?;
        let first = *self.system_identifier.get_or_insert(identity.system_identifier);
        if first != identity.system_identifier {
            let found = identity.system_identifier;
            let message =
                format!("the server is another one: its system identifier is {found}, it was {first}");
            return Err(
                Error::directory(message).with_hint("Connect to the server that streaming began with.")
            );
        }
        Ok(identity)
    }

    /// What is stored, and how a stream goes on from there.
    async fn find_continuation(
        &mut self,
        connection: &mut Connection,
        server: &Server,
    ) -> Result<(Vec<SegmentFile>, Continuation)> {
        let mut files = self.directory.scan(server.segment_size)?;
        self.directory.check_system_identifier(
            &files,
            server.identity.system_identifier,
            server.segment_size,
        )?;
        self.drop_left_behind(connection, server, &mut files).await?;
        let plan = self.find_start(connection, server, &files).await?;
        files.retain(|file| !plan.set_aside.contains(&file.name(server.segment_size)));
        let from = self.go_on(connection, server, &files, &plan).await?;
        Ok((files, from))
    }

    async fn find_start(
        &self,
        connection: &mut Connection,
        server: &Server,
        files: &[SegmentFile],
    ) -> Result<StartPlan> {
        let plan = start::plan(&Facts {
            files,
            segment_size: server.segment_size,
            requested: self.options.start_lsn,
            slot: self.slot_position(connection, server, files).await?,
            server: server.position(),
        });
        for warning in &plan.warnings {
            warn!("{warning}");
        }
        for name in &plan.set_aside {
            let aside = self
                .telemetry
                .disk
                .ask(|| self.directory.set_aside(name, "oversize"))?;
            warn!("\"{name}\" is longer than a segment and was renamed to \"{aside}\"");
        }
        self.telemetry.disk.ask(|| self.directory.sync())?;
        Ok(plan)
    }

    /// Streams one timeline, or a part of it.
    pub(super) async fn stream(
        &mut self,
        connection: &mut Connection,
        server: &Server,
        files: &[SegmentFile],
        from: Continuation,
        until: Until,
    ) -> Result<Next> {
        let (position, end, right_to) = (from.position, from.end(), from.right_to);
        let durable_method = self.durable_method().await;
        let answer = self.start_replication(connection, files, position).await?;
        if let StartAnswer::EndOfTimeline { next, switch } = answer {
            return next_timeline(position, next, switch, position.lsn).map(Next::Timeline);
        }
        let mut ended = self
            .run_stream(connection, server, files, from, durable_method, until)
            .await?;
        // A part that came first does not know all that is stored.
        let decoder = ended.decoder.take().filter(|_| until == Until::End);
        self.left = decoder.map(|decoder| Left {
            timeline: position.timeline,
            right_to: right_to.max(decoder.position()),
            decoder,
        });
        if until == Until::End {
            self.received_bytes += ended.received.bytes_since(end);
        }
        if until != Until::End && matches!(ended.ending, Ending::Same | Ending::EndPosition) {
            return self.end_part(connection, ended).await;
        }
        if let Some(name) = &ended.partial {
            info!("not renaming \"{name}\", segment is not complete");
        }
        let next = self.follow(connection, server, position, ended).await?;
        if let Next::Timeline(fork) = next {
            self.tell_fork(position.timeline, fork);
        }
        Ok(next)
    }

    /// The server may have sent more of the old timeline than it went on from: a standby does that which has not
    /// replayed all it has. A record that was cut is none, and no loss; without records nobody can tell.
    fn tell_fork(&mut self, timeline: Timeline, fork: Position) {
        let left = self.left.as_ref();
        if let Some(left) = left.filter(|_| self.options.verify == Verify::Records) {
            let lsn = left.right_to;
            self.warn_of_fork(Position { lsn, timeline }, fork);
        }
    }

    /// Decided before the first stream, not while commits wait for one.
    async fn durable_method(&mut self) -> durable::Method {
        if let Some(method) = self.durable_method {
            return method;
        }
        let (path, slots) = (self.directory.path(), &mut self.slots);
        let method = durable_method::decide(self.options, path, self.block, slots, &self.stop).await;
        *self.durable_method.insert(method)
    }

    async fn run_stream(
        &mut self,
        connection: &mut Connection,
        server: &Server,
        files: &[SegmentFile],
        from: Continuation,
        durable_method: durable::Method,
        until: Until,
    ) -> Result<Ended> {
        let position = from.position;
        let place = Place {
            directory: self.directory.path().to_owned(),
            timeline: position.timeline,
            size: server.segment_size,
            mode: self.directory.file_mode().bits(),
            direct: !self.options.buffered,
        };
        let telemetry = Arc::clone(&self.telemetry);
        let mut segments = Segments::new(place, self.directory.descriptor()?, telemetry)?;
        let left = segments.resume(position.lsn)?;
        if left.is_none() && !from.stored.is_empty() {
            let name = server
                .segment_size
                .segment_of(position.lsn)
                .file_name(position.timeline, server.segment_size);
            return Err(presence::removed(&self.directory.path_of(&(name + ".partial"))));
        }
        if self.options.synchronous && left.is_none() {
            let lag = server.identity.flushed.bytes_since(position.lsn);
            segments.prepare(&mut self.slots, lag, &self.stop).await;
        }
        let config = self.config(server, files, from, left, until);
        let mut display = Display::new(self.options, position, Arc::clone(&self.telemetry));
        let channel = connection.detach()?;
        let _held = self.patience.hold(&channel.socket);
        self.telemetry.set_timeline(position.timeline);
        self.telemetry.start.set(position.lsn);
        self.enter(Activity::Streaming);
        let shared = Shared {
            slots: &mut self.slots,
            telemetry: &self.telemetry,
            stop: &self.stop,
            watch: &mut display,
            durable_method,
            spin: self.options.spin,
        };
        stream::run(config, segments, channel, shared).await
    }

    /// What a stream must know that goes on so, in a partial that holds something up to `left` if there is one.
    fn config(
        &self,
        server: &Server,
        files: &[SegmentFile],
        from: Continuation,
        left: Option<Lsn>,
        until: Until,
    ) -> Config {
        let Continuation {
            position,
            stored,
            decoder,
            right_to: _,
            unproven: _,
        } = from;
        let options = self.options;
        Config {
            segment_size: server.segment_size,
            block: self.block,
            slots: SLOTS,
            window: WINDOW,
            durability: match (options.synchronous, options.no_sync) {
                (true, _) => Durability::Synchronous,
                (false, true) => Durability::Background,
                (false, false) => Durability::Deferred,
            },
            claims_flush: self.claims_flush(),
            status_interval: options.status_interval,
            receive_timeout: options.receive_timeout,
            end_position: match until {
                Until::Position(end) => Some(end),
                Until::Same | Until::End => options.endpos,
            },
            start: position.lsn,
            backlog_end: server.identity.flushed,
            stored,
            only_compares: until == Until::Same,
            decoder: match options.verify {
                Verify::Records => Some(decoder),
                Verify::Pages => Some(decoder.into_pages()),
                Verify::Off => None,
            },
            preserve_end: preserve_end(server.segment_size, position, left, files),
            named: left.is_some(),
        }
    }

    /// The received log is not what a server writes.
    fn damaged(&self, position: Position, server: &Server, fault: &Fault) -> Error {
        let (at, size) = (fault.place.lsn(), server.segment_size);
        let mut name = size.segment_of(at).file_name(position.timeline, size);
        // A record may begin in a segment that an earlier run completed.
        let complete = self.directory.holds(&name).unwrap_or(false);
        let hint = if complete {
            "Move it and those behind it away to receive them again, unless the server was restored from an earlier state."
        } else if self
            .left
            .as_ref()
            .is_some_and(|left| left.does_not_join(position.lsn))
        {
            name += ".partial";
            "Start again to receive it once more; if it is the same, the server was perhaps restored from an earlier state."
        } else {
            name += ".partial";
            "Start again to receive it once more; if it is the same, check the server with pg_waldump."
        };
        let (path, offset) = (self.directory.path_of(&name), size.offset_of(at));
        Error::directory(format!("received WAL is damaged: {fault}"))
            .with_detail(format!(
                "Nothing from {at} on was acknowledged. It stands in \"{path}\" as it came, at offset {offset}."
            ))
            .with_hint(hint)
    }

    /// What the end of a stream means.
    async fn follow(
        &self,
        connection: &mut Connection,
        server: &Server,
        position: Position,
        ended: Ended,
    ) -> Result<Next> {
        let Ended {
            ending,
            received,
            channel,
            missing,
            ..
        } = ended;
        match ending {
            Ending::Stopped | Ending::EndPosition | Ending::Same => {
                connection.attach(channel)?;
                // All is safe and reported; hearing the server out only spares it a broken connection.
                let farewell = async {
                    connection.skip(missing).await?;
                    connection.finish_streaming().await
                };
                let _ = timeout(FAREWELL, farewell).await;
                debug!(
                    "stopped log streaming at {received} (timeline {})",
                    position.timeline
                );
                Ok(Next::Nothing)
            }
            Ending::CopyDone | Ending::EndOfCopy => {
                connection.attach(channel)?;
                match self.answer(connection.finish_streaming()).await? {
                    StreamEnd::EndOfTimeline { next, switch } => {
                        next_timeline(position, next, switch, received).map(Next::Timeline)
                    }
                    StreamEnd::Stopped | StreamEnd::Shutdown => Err(terminated()),
                }
            }
            Ending::ServerError(body) => Err(parse_error_response(&body).in_context(STREAM_ENDED)),
            Ending::Damaged(fault) => {
                self.telemetry.verification_failures.increment();
                Err(self.damaged(position, server, &fault))
            }
            Ending::Diverged(at) => Err(self.diverged(server, position.timeline, at)),
            Ending::Failed(error) => Err(error),
        }
    }
}

pub(super) fn terminated() -> Error {
    Error::connection("replication stream was terminated before stop point")
}

fn unanswered(limit: Duration) -> Error {
    let seconds = limit.as_secs_f64();
    Error::connection(format!(
        "the server did not answer a command within the receive timeout of {seconds} seconds"
    ))
}
