//! The life of a directory: processes that receive into it, one after the other, and what happens to them.
//!
//! When a process connects again and when it ends mirrors `edge::receive`; what it does between is in [`super::session`].

use std::time::Duration;

use walring::core::demand::Durability;
use walring::core::lsn::Lsn;
use walring::core::resume::Left;
use walring::error::Error;

use super::network::{Closed, Link, Quality};
use super::plan::{Accident, AccidentKind, Options, Plan};
use super::session::Until;
use super::stream::Stream;
use super::world::{News, World};
use crate::model::segment_size;

/// The waits before connecting again, as `edge::receive` has them.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// When nothing goes wrong any more and the server has said all, everything is acknowledged within this time.
const PATIENCE: Duration = Duration::from_secs(120);

/// Longer than any life is.
const LONGEST_LIFE: Duration = Duration::from_secs(20_000);

/// What the process is at.
enum State {
    /// There is none.
    Down {
        until: Duration,
    },
    /// It waits before it connects, or for the connection.
    Connecting {
        until: Duration,
    },
    Streaming(Box<Stream>),
}

/// A directory's life.
pub struct Life {
    pub world: World,
    pub(super) plan: Plan,
    pub(super) options: Options,
    state: State,
    pub(super) streams: u64,
    // What outlives a connection.
    pub(super) is_synced: bool,
    pub(super) left: Option<Left>,
    /// Where the stream began, the end of what was stored and right.
    pub(super) right_to: Lsn,
    wait: Duration,
    pub(super) has_received: bool,
    pub(super) until: Until,
    accident: Option<Accident>,
    next_mishap: Option<Duration>,
    /// Since when nothing goes wrong any more.
    pub(super) calm_since: Option<Duration>,
    complete_since: Option<Duration>,
    pub(super) is_stopping: bool,
}

impl Life {
    /// Nothing has happened yet.
    pub fn new(mut world: World, mut plan: Plan) -> Life {
        let options = plan.options(&mut world.rng);
        world.checks.history = Some(world.primary.history.clone());
        world.disk.faults = plan.faults;
        Life {
            options,
            state: State::Down {
                until: Duration::ZERO,
            },
            streams: 0,
            is_synced: false,
            left: None,
            right_to: Lsn(0),
            wait: Duration::ZERO,
            has_received: false,
            until: Until::End,
            accident: None,
            next_mishap: Some(plan.first_mishap),
            calm_since: None,
            complete_since: None,
            is_stopping: false,
            world,
            plan,
        }
    }

    /// Lives until everything that the server has is acknowledged, and then ends.
    pub fn live(&mut self) {
        while !self.is_fulfilled() {
            let Some(next) = self.next_time() else {
                panic!("nothing will ever happen again");
            };
            self.world.log.now = next.max(self.world.log.now);
            assert!(self.world.log.now < LONGEST_LIFE, "a life without end");
            self.step();
            if self.has_accident() {
                self.happen();
            }
            self.check_patience();
        }
        self.finish();
    }

    pub(super) fn is_claimed(&self) -> bool {
        self.options.claims()
    }

    /// Whether the server was told that all it has is safe.
    fn is_fulfilled(&self) -> bool {
        let primary = &self.world.primary;
        if !primary.is_complete() || self.calm_since.is_none() {
            return false;
        }
        let wanted = match self.options.durability {
            Durability::Background => segment_size().floor(primary.flushed),
            _ => primary.flushed,
        };
        match self.is_claimed() {
            true => primary.acknowledged >= wanted,
            false => primary.written >= wanted,
        }
    }

    fn check_patience(&mut self) {
        let now = self.world.log.now;
        if self.world.primary.is_complete() {
            self.complete_since.get_or_insert(now);
        }
        if let (Some(calm), Some(complete)) = (self.calm_since, self.complete_since) {
            let limit = calm.max(complete) + PATIENCE;
            let primary = &self.world.primary;
            assert!(
                now < limit,
                "nothing goes wrong any more, and yet of {} only {} is acknowledged",
                primary.flushed,
                primary.acknowledged
            );
        }
    }

    // ---- time ----

    fn next_time(&self) -> Option<Duration> {
        let world = &self.world;
        let state = match &self.state {
            State::Down { until } | State::Connecting { until } => Some(*until),
            State::Streaming(stream) => stream.next_time(world),
        };
        let accident = self.accident.as_ref().and_then(|accident| accident.at);
        let heard = world.link.as_ref().and_then(Link::heard_at);
        let calm = self.calm_since.is_none().then_some(self.plan.trouble);
        [
            state,
            accident,
            heard,
            calm,
            self.next_mishap,
            world.next_time(),
            world.primary.next_time(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// One thing happens.
    fn step(&mut self) {
        let now = self.world.log.now;
        let due = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        if self.calm_since.is_none() && self.plan.trouble <= now {
            self.calm();
        } else if due(self.next_mishap) {
            self.mishap();
        } else if due(self.world.next_time()) {
            self.hear_of_disk();
        } else if due(self.world.link.as_ref().and_then(Link::heard_at)) {
            self.world.hear();
        } else if due(self.world.primary.next_time()) {
            let World {
                primary, log, link, ..
            } = &mut self.world;
            primary.advance(log, link.as_mut());
        } else {
            self.advance();
        }
        self.end_stream();
    }

    fn hear_of_disk(&mut self) {
        let news = self.world.happen();
        let State::Streaming(stream) = &mut self.state else {
            return;
        };
        let world = &mut self.world;
        match news {
            News::Written(number, id) if number == stream.number => stream.written(world, id),
            News::Synced(number, result) if number == stream.number => stream.synced(world, result),
            News::Named(number, order, result) if number == stream.number => {
                stream.named(world, order, result)
            }
            News::Prepared(number) if number == stream.number => stream.prepared(world),
            _ => {}
        }
    }

    /// The process goes on.
    fn advance(&mut self) {
        let now = self.world.log.now;
        match &mut self.state {
            State::Down { until } if *until <= now => self.start_process(),
            State::Connecting { until } if *until <= now => self.connect(),
            State::Streaming(stream) if stream.next_time(&self.world).is_some_and(|at| at <= now) => {
                stream.advance(&mut self.world);
            }
            _ => {}
        }
    }

    // ---- what goes wrong ----

    /// From now on nothing goes wrong.
    fn calm(&mut self) {
        let world = &mut self.world;
        world.log.note("from now on nothing goes wrong", None, 0);
        self.calm_since = Some(world.log.now);
        world.disk.faults = Default::default();
        world.disk.countdown = None;
        (self.accident, self.next_mishap) = (None, None);
        world.primary.forget_old(world.link.as_mut());
        self.plan.quality = Quality {
            stalls: 0,
            ..self.plan.quality
        };
    }

    /// The network or the server has an accident.
    fn mishap(&mut self) {
        let world = &mut self.world;
        let now = world.log.now;
        self.next_mishap = Some(now + self.plan.mishap_pause(&mut world.rng));
        let down_for = Duration::from_millis(world.rng.between(1, 10_000));
        let World {
            primary,
            log,
            link,
            rng,
            ..
        } = world;
        match rng.between(0, 9) {
            0..4 => {
                log.note("network: cut", None, 0);
                if let Some(link) = link {
                    link.close(Closed::Reset);
                }
                primary.hang_up();
            }
            4..6 => {
                log.note("network: closed", None, 0);
                if let Some(link) = link {
                    link.close(Closed::Orderly);
                }
                primary.hang_up();
            }
            6 => {
                log.note("network: dead", None, 0);
                if let Some(link) = link {
                    link.die(now);
                }
            }
            7..9 => primary.die(log, link.as_mut(), down_for),
            _ => primary.shut_down(log, link.as_mut(), down_for),
        }
    }

    fn has_accident(&self) -> bool {
        let due = |accident: &Accident| accident.at.is_some_and(|at| at <= self.world.log.now);
        self.world.disk.is_time_up() || self.accident.as_ref().is_some_and(due)
    }

    /// The process or the machine has an accident.
    fn happen(&mut self) {
        let Some(accident) = self.accident.take() else {
            return;
        };
        self.world.disk.countdown = None;
        match (accident.kind, &mut self.state) {
            (AccidentKind::Stop, State::Streaming(stream)) => {
                self.world.log.note("accident: SIGTERM", None, 0);
                self.is_stopping = true;
                stream.stop(&mut self.world);
                self.end_stream();
            }
            (AccidentKind::Crash, _) => {
                self.world.log.note("accident: the machine stops", None, 0);
                self.world.disk.crash();
                self.leave();
                let history = self.world.primary.history.clone();
                self.world
                    .checks
                    .survives(&self.world.disk, &history, "after a crash");
            }
            (AccidentKind::Kill | AccidentKind::Stop, _) => {
                self.world.log.note("accident: SIGKILL", None, 0);
                self.leave();
            }
        }
    }

    /// The process is gone; it comes back after a while, perhaps with other options.
    fn leave(&mut self) {
        let world = &mut self.world;
        world.disk.kill();
        world.forget_events();
        if world.rng.chance(self.plan.moves) {
            world.move_away();
        }
        if world.link.is_some() {
            while world.rng.chance(50) && world.link.as_ref().is_some_and(|link| link.heard_at().is_some()) {
                world.hear();
            }
        }
        world.link = None;
        world.primary.hang_up();
        let pause = Duration::from_millis(world.rng.between(1, 3000));
        self.state = State::Down {
            until: world.log.now + pause,
        };
    }

    // ---- the process ----

    fn start_process(&mut self) {
        let world = &mut self.world;
        if world.rng.chance(30) {
            self.options = self.plan.options(&mut world.rng);
        }
        (self.is_synced, self.left, self.wait, self.is_stopping) = (false, None, Duration::ZERO, false);
        self.has_received = false;
        if self.calm_since.is_none() {
            self.accident = self.plan.accident(&mut world.rng, world.log.now);
            world.disk.countdown = self.accident.as_ref().and_then(|accident| accident.countdown);
        }
        world.log.note("a process starts", None, self.options.number());
        self.begin_to_connect(Duration::ZERO);
    }

    fn begin_to_connect(&mut self, wait: Duration) {
        let world = &mut self.world;
        let delay = Duration::from_micros(world.rng.between(10, 20_000));
        self.state = State::Connecting {
            until: world.log.now + wait + delay,
        };
    }

    /// One connection, up to where the stream begins.
    fn connect(&mut self) {
        let result = self.start_streaming();
        match result {
            Ok(Some(stream)) => self.enter(stream),
            Ok(None) => self.leave(),
            Err(error) => self.disconnected(&error),
        }
    }

    fn enter(&mut self, stream: Stream) {
        self.state = State::Streaming(Box::new(stream));
        if let State::Streaming(stream) = &mut self.state {
            stream.turn(&mut self.world);
        }
        self.world.pump();
    }

    /// As `edge::receive` does it: an error may end the process, or it tries again.
    fn disconnected(&mut self, error: &Error) {
        let world = &mut self.world;
        world.link = None;
        world.primary.hang_up();
        if world.disk.is_time_up() {
            return;
        }
        if error.is_of_disk() {
            self.is_synced = false;
        }
        if !error.is_retryable() || self.is_stopping {
            world.log.note("the process ends with an error", None, 0);
            return self.leave();
        }
        if std::mem::take(&mut self.has_received) {
            self.wait = Duration::ZERO;
        }
        let wait = self.wait.mul_f64(0.75 + world.rng.between(0, 50) as f64 / 100.0);
        self.wait = (self.wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
        world.log.note(
            "connects again, after milliseconds",
            None,
            wait.as_millis() as u64,
        );
        self.begin_to_connect(wait);
    }

    fn end_stream(&mut self) {
        let is_over = matches!(&self.state, State::Streaming(stream) if stream.is_over());
        if !is_over || self.world.disk.is_time_up() {
            return;
        }
        let until = self.world.log.now;
        let State::Streaming(stream) = std::mem::replace(&mut self.state, State::Down { until }) else {
            return;
        };
        let timeline = stream.timeline;
        let followed = match stream.conclude(&mut self.world) {
            Ok(ended) => self.follow(timeline, ended),
            Err(error) => Err(error),
        };
        match followed {
            Ok(Some(stream)) => self.enter(stream),
            Ok(None) => self.leave(),
            Err(error) => self.disconnected(&error),
        }
    }

    // ---- the end ----

    /// All is acknowledged: it is there, in order, and stays.
    fn finish(&mut self) {
        let end = self.world.primary.flushed;
        let timeline = self.world.primary.timeline;
        self.world.log.note("all is acknowledged", end, timeline.into());
        if self.world.rng.chance(50) {
            self.stop_at_last();
        }
        self.world.disk.crash();
        let history = self.world.primary.history.clone();
        let checks = &self.world.checks;
        checks.survives(&self.world.disk, &history, "after the end");
    }

    /// The operator ends the process, and it ends.
    fn stop_at_last(&mut self) {
        let limit = self.world.log.now + PATIENCE;
        self.is_stopping = true;
        if let State::Streaming(stream) = &mut self.state {
            stream.stop(&mut self.world);
        }
        self.end_stream();
        while matches!(self.state, State::Streaming(_)) {
            let next = self.next_time().expect("a stream that ends");
            self.world.log.now = next.max(self.world.log.now);
            assert!(self.world.log.now < limit, "told to stop, and goes on");
            self.step();
        }
    }
}
