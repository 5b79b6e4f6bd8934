//! The receiver looks at the log while it receives it: against the model of server, network and disk, with
//! WAL that is made up. What it claims is complete and right, and all that is gets claimed.

mod model;

use std::time::Duration;

use model::disk::Name;
use model::log::{Log, any_log};
use model::stream::Stream;
use model::wal::{Shape, Unit, Wal};
use model::world::{Setup, World};
use model::{Rng, START, Seed, at, offset, seeds};
use walring::core::demand::{Durability, QUIET};
use walring::core::lsn::Lsn;
use walring::core::order::Ending;

const MIB: u64 = 1 << 20;

/// Longest message of a server, in bytes of WAL.
const LONGEST_MESSAGE: u64 = 128 << 10;

const POLICIES: [Durability; 3] = [
    Durability::Synchronous,
    Durability::Deferred,
    Durability::Background,
];

/// Sum of what a few operations one after the other may take in any setup.
const SETTLING: Duration = Duration::from_millis(500);

/// More than any stream takes.
const LONG: Duration = Duration::from_secs(600);

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

// ---- random runs ----

/// How a random stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finale {
    Silence,
    StopEarly,
    CopyDone,
    EndOfCopy,
    ServerError,
    Disconnect,
    EndPosition,
}

const FINALES: [Finale; 8] = [
    Finale::Silence,
    Finale::Silence,
    Finale::StopEarly,
    Finale::CopyDone,
    Finale::EndOfCopy,
    Finale::ServerError,
    Finale::Disconnect,
    Finale::EndPosition,
];

/// What a server sends of a log: to ends of records, of segments, or anywhere; little, or as much as it can.
struct Sender<'l> {
    log: &'l Log,
    stream: Stream,
    /// Of a hundred messages, so many come from a server that is far ahead.
    bulk: u64,
    /// Whether keepalives ask for answers.
    asks: bool,
}

impl Sender<'_> {
    fn send_to(&mut self, rng: &mut Rng, target: Lsn) {
        while self.stream.end < target {
            let left = target.bytes_since(self.stream.end);
            let (ahead, bytes) = self.anything(rng, left);
            self.stream.ahead(if ahead { left } else { 0 });
            if let Some(bytes) = bytes {
                self.stream.wal(bytes.min(left).min(LONGEST_MESSAGE) as usize);
            }
        }
    }

    /// Says whether the server is ahead, and how much WAL it sends; or has said something else.
    fn anything(&mut self, rng: &mut Rng, left: u64) -> (bool, Option<u64>) {
        if rng.chance(self.bulk) {
            return (true, Some(rng.pick(&[8192, LONGEST_MESSAGE, LONGEST_MESSAGE])));
        }
        let from = self.stream.end;
        let to_boundary = MIB - from.0 % MIB;
        let bytes = match rng.between(0, 99) {
            0..45 => {
                let records = rng.between(0, 4) as usize;
                let end = self.log.truth.ends(from).nth(records);
                end.map_or(left, |end| end.bytes_since(from))
            }
            45..55 => rng.between(1, 900),
            55..62 => rng.between(1, 9000),
            62..68 if to_boundary < LONGEST_MESSAGE => to_boundary,
            68..72 => rng.pick(&[0, 23, 24, 30, 31, 8192]),
            72..80 => {
                self.stream.keepalive(self.asks && rng.chance(50));
                return (false, None);
            }
            80..82 => {
                self.stream.wait(ms(rng.between(1, 400)));
                if rng.chance(50) {
                    self.stream.keepalive(self.asks);
                }
                return (false, None);
            }
            _ => {
                self.stream.wait(Duration::from_micros(rng.between(1, 3000)));
                return (false, None);
            }
        };
        (false, Some(bytes))
    }
}

fn random_stream(rng: &mut Rng, log: &Log, start: Lsn, target: Lsn, asks: bool) -> Stream {
    let long = offset(target) - offset(start) > 1 << 20;
    let mut sender = Sender {
        log,
        stream: Stream::from(log.bytes.clone(), start),
        bulk: if long { 60 } else { rng.pick(&[0, 5, 50]) },
        asks,
    };
    sender.send_to(rng, target);
    sender.stream
}

fn random_setup(rng: &mut Rng, seed: u64, durability: Durability, log: &Log) -> Setup {
    let mut setup = Setup::new(durability);
    setup.seed = seed;
    let config = &mut setup.config;
    config.block = rng.pick(&[512, 4096]);
    config.window = rng.pick(&[2, 4, 16]) * config.block as usize;
    if rng.chance(40) {
        config.window = 256 << 10;
    }
    config.slots = rng.between(2, 6) as usize;
    config.named = rng.chance(30);
    config.status_interval = rng.pick(&[None, Some(ms(50)), Some(ms(1000)), Some(ms(10_000))]);
    config.claims_flush = rng.chance(85);
    if rng.chance(30) {
        config.backlog_end = at(rng.between(0, offset(log.end()) as u64));
    }
    config.decoder = Some(log.decoder(START, rng.pick(&[0, 100, 1 << 20])));
    setup.disk_us = rng.pick(&[(10, 50), (10, 3000), (1000, 9000)]);
    setup.sync_more_us = rng.pick(&[0, 0, 30_000]);
    setup.network_us = rng.pick(&[1, 20, 500]);
    setup.longest_read = rng.pick(&[3000, 40_000, usize::MAX, usize::MAX]);
    setup.short_writes = rng.pick(&[0, 0, 30]);
    setup.truth = Some(log.truth.clone());
    setup
}

/// The stream starts anywhere: the file holds what lies before, and perhaps more.
fn start_at(rng: &mut Rng, setup: &mut Setup, log: &Log, start: Lsn) {
    let config = &mut setup.config;
    config.decoder = Some(log.decoder(start, 1 << 20));
    (config.start, config.preserve_end) = (start, start);
    config.named |= !start.0.is_multiple_of(MIB);
    if config.named && rng.chance(50) {
        let segment_end = Lsn((start.0 + 1).next_multiple_of(MIB)).min(log.end());
        config.preserve_end = start.advanced_by(rng.between(0, segment_end.bytes_since(start)));
    }
    if config.named && rng.chance(50) {
        // A little of what is stored is received again.
        let longest = (start.0 % MIB).min(config.window as u64 - config.block);
        let again = rng.between(0, longest);
        config.start = Lsn(start.0 - again);
        config.stored = log.bytes[offset(config.start)..offset(start)].to_vec();
    }
}

fn run(seed: u64, durability: Durability, anywhere: bool) {
    let _named_on_failure = Seed(seed);
    let mut rng = Rng::new(seed);
    let finale = rng.pick(&FINALES);
    let log = any_log(&mut rng);
    let mut setup = random_setup(&mut rng, seed, durability, &log);
    let length = offset(log.end()) as u64;
    if anywhere {
        let start = at(rng.between(0, length * 9 / 10));
        start_at(&mut rng, &mut setup, &log, start);
    }
    let start = setup.config.start;
    let target = match rng.chance(50) {
        true => log.end(),
        false => at(rng.between(offset(start) as u64, length)),
    };
    let mut stream = random_stream(&mut rng, &log, start, target, true);
    match finale {
        Finale::CopyDone => stream.copy_done(),
        Finale::EndOfCopy => stream.command_complete(),
        Finale::ServerError => stream.error(),
        Finale::Disconnect => stream.close(),
        _ => &mut stream,
    };
    if finale == Finale::EndPosition && stream.end > start {
        setup.config.end_position = Some(start.advanced_by(stream.end.bytes_since(start) / 2));
    }
    let mut world = World::new(setup, &stream);
    match finale {
        Finale::StopEarly => {
            let stop_at = stream.clock.as_micros() as u64;
            world.run_for(Duration::from_micros(rng.between(0, stop_at)));
        }
        Finale::Silence => run_to_silence(&mut world, &stream),
        Finale::EndPosition if stream.end == start => {}
        _ => world.run_to_end(stream.clock + LONG),
    }
    if world.end.is_none() {
        world.stop();
        world.run_to_end(Duration::from_secs(1));
    }
    check_end(&mut world, &stream);
}

/// A server that falls silent: everything that is complete is acknowledged soon.
fn run_to_silence(world: &mut World, stream: &Stream) {
    world.run_until(stream.clock + LONG, "all delivered", World::is_delivered);
    let config = world.setup.config.clone();
    let all = world.claimable();
    if config.durability == Durability::Background {
        world.run_for(QUIET + SETTLING);
        assert!(world.disk.written_end() >= stream.end);
    } else if config.claims_flush {
        world.run_until_acknowledged(QUIET + SETTLING, all);
        world.check_commits(all);
    } else {
        world.run_for(QUIET + SETTLING);
        world.check_commits(all);
    }
}

fn check_end(world: &mut World, stream: &Stream) {
    let config = world.setup.config.clone();
    let end = world.end.as_ref().expect("ended");
    let in_order = matches!(
        end.ending,
        Ending::Stopped | Ending::CopyDone | Ending::EndPosition
    );
    assert!(!matches!(end.ending, Ending::Damaged(_)), "{:?}", end.ending);
    let told = world.status().flushed;
    if config.claims_flush {
        world.check_commits(told);
    }
    if in_order && config.claims_flush && config.durability != Durability::Background && world.is_delivered()
    {
        assert!(matches!(end.ending, Ending::EndPosition) || told == world.claimable());
    }
    let received = stream.end.min(world.delivered_end()).max(config.start);
    if !matches!(end.ending, Ending::Stopped | Ending::EndPosition) {
        assert_eq!(received, stream.end);
        assert!(world.disk.written_end() >= stream.end, "the files hold all of it");
    }
}

#[test]
fn whatever_happens_a_synchronous_receiver_claims_only_what_is_complete() {
    seeds(50).for_each(|seed| run(seed, Durability::Synchronous, false));
}

#[test]
fn whatever_happens_a_deferred_receiver_claims_only_what_is_complete() {
    seeds(50).for_each(|seed| run(seed, Durability::Deferred, false));
}

#[test]
fn whatever_happens_a_background_receiver_claims_only_what_is_complete() {
    seeds(50).for_each(|seed| run(seed, Durability::Background, false));
}

#[test]
fn a_stream_that_starts_within_a_block_goes_on_with_what_the_file_holds() {
    seeds(50).for_each(|seed| run(seed, POLICIES[seed as usize % 3], true));
}

// ---- damage ----

/// A byte and a bit of it whose change has to be noticed before the log ends.
fn damage(rng: &mut Rng, log: &Log) -> (Lsn, u32) {
    loop {
        let mut at = at(rng.between(64, offset(log.end()) as u64));
        if rng.chance(50) {
            // What crosses the end of a segment, or lies there.
            let boundary = Lsn(at.0.next_multiple_of(MIB));
            at = Lsn(boundary.0 + rng.between(0, 400) - 200);
        }
        let bit = rng.between(0, 7) as u32;
        if at > START.advanced_by(64) && is_noticed(log, at, bit) {
            return (at, bit);
        }
    }
}

/// Some bits do not matter, some are never looked at again, and some are noticed on the next page only.
fn is_noticed(log: &Log, at: Lsn, bit: u32) -> bool {
    let (wal, block) = (&log.wal, log.wal.shape().block);
    let is_in_rest = at.0 < wal.rest_end();
    let mut replaced = wal.abandoned().iter();
    let is_replaced = replaced.any(|&(start, page)| (start..page).contains(&at.0));
    // That a page was backed up may be told there, in versions that do so.
    let is_hint = at.0 % block == 2 && bit == 2 && !wal.is_behind_switch(at.0);
    let noticed_by = log.truth.unit_end(at).advanced_by(block + 64);
    !is_in_rest && !is_replaced && !is_hint && noticed_by <= log.end()
}

fn run_into_damage(seed: u64, durability: Durability) {
    let _named_on_failure = Seed(seed);
    let mut rng = Rng::new(seed + 5000);
    let log = any_log(&mut rng);
    let (place, bit) = damage(&mut rng, &log);
    let setup = random_setup(&mut rng, seed, durability, &log);
    let damaged = log.with_damage(place, bit);
    let setup = Setup {
        truth: Some(damaged.truth.clone()),
        ..setup
    };
    let stream = random_stream(&mut rng, &damaged, START, log.end(), false);
    let mut world = World::new(setup, &stream);
    world.run_to_end(stream.clock + LONG);
    let end = world.end.as_ref().expect("ended");
    assert!(matches!(end.ending, Ending::Damaged(_)), "{:?}", end.ending);
    assert!(world.copy_done.is_some(), "the server hears that it is over");
    let right_to = damaged.truth.surely_right_to(log.end());
    let config = world.setup.config.clone();
    if durability != Durability::Background {
        assert!(world.disk.durable_end() >= right_to);
        if config.claims_flush {
            assert!(world.status().flushed >= right_to, "all that is right is claimed");
            world.check_commits(world.status().flushed);
        }
    }
    assert!(world.disk.written_end() >= right_to);
}

#[test]
fn damage_ends_the_stream_and_what_is_right_before_it_is_claimed_and_nothing_else() {
    for seed in seeds(75) {
        run_into_damage(seed, POLICIES[seed as usize % 3]);
    }
}

/// A record of so many segments, and what a server adds that is not in a hurry.
fn long_record(segments: u64) -> Log {
    let mut wal = Wal::empty(1, Shape::default());
    wal.commit();
    wal.record((segments * MIB) as usize);
    for _ in 0..200 {
        wal.commit();
    }
    Log::of(wal)
}

/// The whole log at once, to a receiver with room for more than a segment.
fn catch_up(log: &Log, durability: Durability) -> (Setup, Stream) {
    let mut setup = Setup::new(durability);
    (setup.config.window, setup.config.slots) = (256 << 10, 6);
    setup.config.decoder = Some(log.decoder(START, 100));
    setup.truth = Some(log.truth.clone());
    let mut stream = Stream::from(log.bytes.clone(), START);
    while stream.end < log.end() {
        let left = log.end().bytes_since(stream.end);
        stream.ahead(left).wal(left.min(LONGEST_MESSAGE) as usize);
    }
    (setup, stream)
}

#[test]
fn damage_in_a_record_of_many_segments_ends_the_stream_also_when_syncs_are_slow() {
    for durability in POLICIES {
        for segments in 1..=6 {
            let log = long_record(segments);
            let damaged = log.with_damage(at(segments * MIB), 3);
            let (mut setup, stream) = catch_up(&damaged, durability);
            setup.sync_more_us = 60_000;
            let mut world = World::new(setup, &stream);
            world.run_to_end(LONG);
            let end = world.end.as_ref().expect("ended");
            assert!(matches!(end.ending, Ending::Damaged(_)), "{:?}", end.ending);
        }
    }
}

// ---- long records ----

#[test]
fn records_of_many_segments_never_hold_up_the_stream() {
    for durability in POLICIES {
        for slots in [2, 6] {
            let log = long_record(7);
            let (mut setup, stream) = catch_up(&log, durability);
            (setup.config.slots, setup.config.window) = (slots, 64 << 10);
            setup.sync_more_us = 60_000;
            let mut world = World::new(setup, &stream);
            world.run_until(LONG, "all delivered", World::is_delivered);
            if durability == Durability::Background {
                world.run_for(QUIET + SETTLING);
                assert!(world.status().flushed >= at(7 * MIB));
            } else {
                world.run_until_acknowledged(QUIET + SETTLING, log.end());
                world.check_commits(log.end());
            }
            assert!(world.inspected.finished_early >= 4);
        }
    }
}

#[test]
fn a_segment_keeps_its_partial_until_the_record_across_its_end_is_complete() {
    let log = crossing_record(30_000);
    let record = log.wal.records()[1];
    let mut stream = Stream::from(log.bytes.clone(), START);
    send_to(&mut stream, Lsn(record.end - 1)).wait(ms(1000)).wal(1);
    let mut world = World::new(watched(&log, Durability::Synchronous), &stream);
    world.run_for(ms(999));
    assert_eq!(world.status().flushed, Lsn(record.start));
    assert_eq!(world.disk.names()[0], Name::Partial);
    world.run_until_acknowledged(ms(1 + 5), Lsn(record.end));
    assert_eq!(world.disk.names()[..2], [Name::Final, Name::Partial]);
}

/// A record that ends so far behind the end of the first segment, and a commit.
fn crossing_record(behind: usize) -> Log {
    let mut wal = Wal::empty(1, Shape::default());
    wal.approach(Unit::Segment, 1000);
    wal.record(1000 + behind);
    wal.commit();
    Log::of(wal)
}

/// What is missing up to there, at once.
fn send_to(stream: &mut Stream, target: Lsn) -> &mut Stream {
    while stream.end < target {
        let left = target.bytes_since(stream.end);
        stream.wal(left.min(LONGEST_MESSAGE) as usize);
    }
    stream
}

/// A receiver that looks at a log.
fn watched(log: &Log, durability: Durability) -> Setup {
    let mut setup = Setup::new(durability);
    setup.config.decoder = Some(log.decoder(START, 100));
    setup.truth = Some(log.truth.clone());
    setup
}

// ---- commits ----

#[test]
fn every_commit_is_measured_also_by_a_receiver_that_tells_nobody() {
    let mut wal = Wal::empty(1, Shape::default());
    for _ in 0..20_000 {
        wal.commit();
    }
    let log = Log::of(wal);
    for claims_flush in [true, false] {
        let mut setup = watched(&log, Durability::Synchronous);
        setup.config.claims_flush = claims_flush;
        let mut stream = Stream::from(log.bytes.clone(), START);
        while stream.end < log.end() {
            let left = log.end().bytes_since(stream.end);
            stream.wal(left.min(9000) as usize).wait(ms(5));
        }
        let mut world = World::new(setup, &stream);
        world.run_for(stream.clock + ms(500));
        world.check_commits(log.end());
        assert_eq!(world.receiver().transactions(), 20_000);
    }
}

#[test]
fn what_is_told_of_a_stream_is_what_arrived() {
    let mut wal = Wal::empty(1, Shape::default());
    for _ in 0..20 {
        wal.commit();
    }
    wal.record(100);
    let log = Log::of(wal);
    let mut stream = Stream::from(log.bytes.clone(), START);
    stream.wait(ms(3)).wal(700).wait(ms(4));
    let rest = log.end().bytes_since(stream.end) as usize;
    stream.ahead(9000).wal(rest);
    let mut setup = watched(&log, Durability::Synchronous);
    setup.longest_read = 250;
    let mut world = World::new(setup, &stream);
    world.run_for(ms(100));
    let told = world.receiver();
    assert_eq!(
        (told.messages(), told.transactions(), told.records()),
        (2, 20, 21)
    );
    assert_eq!((told.server_end(), told.server_sent_us()), (at(700 + 9000), 7000));
    assert!(
        told.moved() > 1,
        "of {} bytes {} were moved",
        log.end(),
        told.moved()
    );
}

// ---- a tail on trust ----

/// The server stops sending within a record across the end of a segment, and asks so much later.
fn unfinished(log: &Log, pause: Duration) -> Stream {
    let mut stream = Stream::from(log.bytes.clone(), START);
    send_to(&mut stream, at(MIB + 10_000)).wait(pause).keepalive(true);
    stream
}

#[test]
fn a_quiet_server_that_asks_gets_the_tail_acknowledged_although_its_record_is_not_complete() {
    for durability in [Durability::Synchronous, Durability::Deferred] {
        let log = crossing_record(30_000);
        let stream = unfinished(&log, ms(250));
        let mut world = World::new(watched(&log, durability), &stream);
        world.run_for(ms(249));
        let start = Lsn(log.wal.records()[1].start);
        assert_eq!(world.status().flushed, start, "nobody has asked");
        world.run_until_acknowledged(ms(1 + 10), stream.end);
        assert_eq!(world.disk.names()[..2], [Name::Final, Name::Partial]);
        assert_eq!(world.inspected.vouched, Some(stream.end));
    }
}

#[test]
fn a_server_that_asks_although_it_is_not_quiet_gets_nothing_on_trust() {
    let log = crossing_record(30_000);
    let start = Lsn(log.wal.records()[1].start);
    let mut pauses = Vec::new();
    for durability in POLICIES {
        for pause in [0, 1, 100, 190] {
            let mut world = World::new(watched(&log, durability), &unfinished(&log, ms(pause)));
            world.run_for(ms(3000));
            assert!(world.status().flushed <= start);
            assert_eq!(world.disk.names()[0], Name::Partial);
            pauses.push(world.inspected.vouched);
        }
    }
    assert!(pauses.iter().all(Option::is_none));
}

#[test]
fn a_quiet_server_that_has_more_gets_nothing_on_trust() {
    let log = crossing_record(30_000);
    let mut stream = Stream::from(log.bytes.clone(), START);
    send_to(&mut stream, at(MIB + 10_000))
        .wait(ms(300))
        .ahead(8)
        .keepalive(true);
    let mut world = World::new(watched(&log, Durability::Synchronous), &stream);
    world.run_for(ms(3000));
    assert_eq!(world.status().flushed, Lsn(log.wal.records()[1].start));
}

#[test]
fn what_follows_a_tail_on_trust_is_looked_at_again() {
    let log = crossing_record(30_000);
    let damaged = log.with_damage(at(MIB + 20_000), 0);
    let mut stream = unfinished(&damaged, ms(250));
    let vouched = stream.end;
    send_to(stream.wait(ms(1000)), log.end());
    let mut setup = watched(&damaged, Durability::Synchronous);
    setup.truth = Some(damaged.truth.clone());
    let mut world = World::new(setup, &stream);
    world.run_to_end(ms(2000));
    assert!(matches!(
        world.end.as_ref().expect("ended").ending,
        Ending::Damaged(_)
    ));
    assert_eq!(world.status().flushed, vouched);
}

#[test]
fn a_server_that_was_not_listened_to_while_the_disk_was_slow_is_not_quiet() {
    let mut wal = Wal::empty(1, Shape::default());
    wal.commit();
    wal.record(60_000);
    wal.commit();
    let log = Log::of(wal);
    let mut setup = watched(&log, Durability::Synchronous);
    (setup.config.named, setup.config.slots, setup.disk_us) = (true, 2, (400_000, 400_000));
    // Both slots are full, so nothing is read until the first is written; what comes meanwhile waits.
    let mut stream = Stream::from(log.bytes.clone(), START);
    send_to(&mut stream, at(2 * setup.config.window as u64))
        .wait(ms(100))
        .keepalive(true)
        .wait(ms(1));
    let asked = stream.end;
    stream.wal(1000);
    let mut world = World::new(setup, &stream);
    world.run_for(ms(5000));
    assert!(world.is_delivered());
    assert_eq!(
        world.status().flushed,
        Lsn(log.wal.records()[1].start),
        "not {asked}"
    );
}
