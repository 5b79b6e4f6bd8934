//! The receiver against a model of server, network and disk: what it claims is true, and all that
//! arrives is claimed in the end.

mod model;

use std::time::Duration;

use model::stream::Stream;
use model::world::{Operation, Setup, World};
use model::{Rng, START, Seed, at, seeds};
use walring::core::demand::{Durability, QUIET};
use walring::core::lsn::Lsn;
use walring::core::order::Ending;

const MIB: u64 = 1 << 20;
const POLICIES: [Durability; 3] = [
    Durability::Synchronous,
    Durability::Deferred,
    Durability::Background,
];

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
    Garbage,
    EndPosition,
}

const FINALES: [Finale; 8] = [
    Finale::Silence,
    Finale::StopEarly,
    Finale::CopyDone,
    Finale::EndOfCopy,
    Finale::ServerError,
    Finale::Disconnect,
    Finale::Garbage,
    Finale::EndPosition,
];

/// Commits, bulk, pauses and other messages in any mixture; boundaries are hit exactly, often.
fn random_stream(rng: &mut Rng, finale: Finale) -> Stream {
    let mut stream = Stream::new();
    let target = at(rng.between(MIB / 2, 3 * MIB));
    let mut spoken = 0;
    while stream.end < target && spoken < 3000 {
        spoken += 1;
        let to_boundary = (MIB - stream.end.0 % MIB) as usize;
        match rng.between(0, 99) {
            0..40 => stream.wal(rng.between(1, 900) as usize),
            40..50 if to_boundary < 100_000 => stream.wal(to_boundary),
            40..60 => stream.wal(rng.between(1, 9000) as usize),
            60..66 => stream.ahead(rng.between(0, 8 * MIB)).wal(128 << 10),
            66..70 => catch_up_burst(&mut stream, rng),
            70..75 => stream.wal(rng.pick(&[0, 29, 30, 31, 8192])),
            75..80 => stream.keepalive(rng.chance(50)),
            80..82 => stream.notice(),
            82..84 => stream.parameter(),
            84 => stream.wait(Duration::from_millis(rng.between(1, 400))),
            _ => stream.wait(Duration::from_micros(rng.between(1, 3000))),
        };
    }
    match finale {
        Finale::CopyDone => stream.copy_done(),
        Finale::EndOfCopy => stream.command_complete(),
        Finale::ServerError => stream.error(),
        Finale::Disconnect => stream.close(),
        Finale::Garbage => stream.bytes(b"HTTP/1.1 400".to_vec()),
        _ => &mut stream,
    };
    stream
}

/// Messages of one size from a server that is far ahead, sometimes with another among them.
fn catch_up_burst<'s>(stream: &'s mut Stream, rng: &mut Rng) -> &'s mut Stream {
    let size = rng.pick(&[300, 900, 8192]);
    for _ in 0..rng.between(2, 12) {
        stream.ahead(8 * MIB).wal(size);
        match rng.between(0, 9) {
            0 => stream.ahead(8 * MIB).wal(rng.between(0, 900) as usize),
            1 => stream.keepalive(rng.chance(50)),
            _ => stream,
        };
    }
    stream
}

fn random_setup(rng: &mut Rng, seed: u64, durability: Durability) -> Setup {
    let mut setup = Setup::new(durability);
    setup.seed = seed;
    setup.config.block = rng.pick(&[512, 4096]);
    let blocks = rng.pick(&[2, 3, 4, 16]);
    setup.config.window = blocks * setup.config.block as usize;
    if rng.chance(15) {
        setup.config.window = 256 << 10;
    }
    setup.config.slots = rng.between(2, 6) as usize;
    setup.config.named = rng.chance(30);
    setup.config.status_interval = rng.pick(&[None, Some(ms(50)), Some(ms(1000)), Some(ms(10_000))]);
    setup.config.receive_timeout = rng.pick(&[None, Some(ms(150)), Some(ms(60_000))]);
    setup.config.claims_flush = rng.chance(85);
    setup.disk_us = rng.pick(&[(10, 50), (10, 3000), (1000, 9000)]);
    setup.network_us = rng.pick(&[1, 20, 500]);
    setup.longest_read = rng.pick(&[400, 3000, 40_000, usize::MAX]);
    setup.short_writes = rng.pick(&[0, 0, 30]);
    setup
}

/// Sum of what a few operations one after the other may take in any setup.
const SETTLING: Duration = Duration::from_millis(500);

fn run(seed: u64, durability: Durability, preserve_end: Lsn) {
    let _named_on_failure = Seed(seed);
    let mut rng = Rng::new(seed);
    let finale = rng.pick(&FINALES);
    let stream = random_stream(&mut rng, finale);
    let mut setup = random_setup(&mut rng, seed, durability);
    if preserve_end > START {
        (setup.config.preserve_end, setup.config.named) = (preserve_end, true);
        setup.config.stored = some_stored(&mut rng, &setup, &stream);
    }
    if finale == Finale::EndPosition {
        setup.config.end_position = Some(at(stream.end.bytes_since(START) / 2));
    }
    let mut world = World::new(setup, &stream);
    match finale {
        Finale::Silence => run_to_silence(&mut world, &stream),
        Finale::StopEarly => {
            let stop_at = stream.clock.as_micros() as u64;
            world.run_for(Duration::from_micros(rng.between(0, stop_at)));
            stop(&mut world);
        }
        _ => world.run_to_end(stream.clock + Duration::from_secs(600)),
    }
    check_finale(&world, finale, &stream);
}

/// What the file holds where the stream starts, as much of it as can be compared, or less.
fn some_stored(rng: &mut Rng, setup: &Setup, stream: &Stream) -> Vec<u8> {
    let config = &setup.config;
    let held = config.preserve_end.bytes_since(START);
    let longest = held.min(config.window as u64 - config.block);
    stream.content[..rng.between(0, longest) as usize].to_vec()
}

/// A server that falls silent: everything is acknowledged soon, then the operator ends it.
fn run_to_silence(world: &mut World, stream: &Stream) {
    let long = stream.clock + Duration::from_secs(600);
    world.run_until(long, "all delivered", World::is_delivered);
    let config = world.setup.config.clone();
    if config.claims_flush && config.durability != Durability::Background {
        world.run_until_acknowledged(QUIET + SETTLING, stream.end);
    } else {
        world.run_for(QUIET + SETTLING);
        assert_eq!(
            world.disk.written_end().max(config.preserve_end),
            stream.end.max(config.preserve_end)
        );
    }
    stop(world);
}

/// The operator wants an end; it comes within a second whatever the server does.
fn stop(world: &mut World) {
    world.stop();
    world.run_to_end(Duration::from_secs(1));
}

fn check_finale(world: &World, finale: Finale, stream: &Stream) {
    let end = world.end.as_ref().expect("ended");
    let expected = match finale {
        Finale::Silence | Finale::StopEarly => matches!(end.ending, Ending::Stopped),
        Finale::CopyDone => matches!(end.ending, Ending::CopyDone),
        Finale::EndOfCopy => matches!(end.ending, Ending::EndOfCopy) && end.unparsed[0] == b'C',
        Finale::ServerError => matches!(end.ending, Ending::ServerError(_)),
        Finale::Disconnect | Finale::Garbage => matches!(end.ending, Ending::Failed(_)),
        Finale::EndPosition => matches!(end.ending, Ending::EndPosition),
    };
    assert!(expected, "{finale:?}: {:?}", end.ending);
    let orderly = matches!(
        end.ending,
        Ending::Stopped | Ending::CopyDone | Ending::EndPosition
    );
    assert_eq!(
        world.copy_done.is_some(),
        orderly,
        "only a server that listens gets CopyDone"
    );
    let config = &world.setup.config;
    if !matches!(finale, Finale::StopEarly | Finale::EndPosition) {
        assert_eq!(world.delivered_end(), stream.end);
        if config.claims_flush && config.durability != Durability::Background && orderly {
            assert_eq!(
                world.status().flushed,
                stream.end,
                "the last status is the whole truth"
            );
        }
    }
    if finale == Finale::EndPosition {
        assert!(world.status().written > config.end_position.expect("set"));
    }
}

#[test]
fn whatever_happens_a_synchronous_receiver_claims_only_what_is_durable() {
    seeds(120).for_each(|seed| run(seed, Durability::Synchronous, START));
}

#[test]
fn whatever_happens_a_deferred_receiver_claims_only_what_is_durable() {
    seeds(120).for_each(|seed| run(seed, Durability::Deferred, START));
}

#[test]
fn whatever_happens_a_background_receiver_claims_only_what_is_durable() {
    seeds(120).for_each(|seed| run(seed, Durability::Background, START));
}

#[test]
fn streaming_again_over_a_partial_segment_never_changes_what_it_holds() {
    for seed in seeds(90) {
        let mut rng = Rng::new(seed + 1000);
        let preserve_end = at(rng.between(1, MIB));
        run(seed, POLICIES[seed as usize % 3], preserve_end);
    }
}

/// Nothing was written or claimed, and the server hears that it is over.
fn assert_untouched(world: &World) {
    let touched = [Operation::Write, Operation::Sync, Operation::Names].map(|kind| world.count(kind));
    assert_eq!(touched, [0, 0, 0]);
    let mut claims = world
        .statuses
        .iter()
        .map(|(_, status)| (status.flushed, status.written));
    assert!(claims.all(|claim| claim == (Lsn::INVALID, Lsn::INVALID)));
    assert!(world.copy_done.is_some(), "the server hears that it is over");
}

#[test]
fn wal_that_is_not_what_is_stored_is_neither_written_nor_acknowledged() {
    for seed in seeds(60) {
        let _named_on_failure = Seed(seed);
        let mut rng = Rng::new(seed + 2000);
        let stream = random_stream(&mut rng, Finale::Silence);
        let mut setup = random_setup(&mut rng, seed, POLICIES[seed as usize % 3]);
        (setup.config.preserve_end, setup.config.named) = (at(rng.between(1, MIB)), true);
        let mut stored = some_stored(&mut rng, &setup, &stream);
        stored.push(stream.content[stored.len()]);
        let differs = rng.between(0, stored.len() as u64 - 1);
        stored[differs as usize] ^= 1 << rng.between(0, 7);
        setup.config.stored = stored;
        setup.config.window += 2 * setup.config.block as usize;
        let mut world = World::new(setup, &stream);
        world.run_to_end(stream.clock + Duration::from_secs(600));
        let end = world.end.as_ref().expect("ended");
        let found = matches!(end.ending, Ending::Diverged(found) if found == at(differs));
        assert!(found, "{:?}, expected {}", end.ending, at(differs));
        assert_untouched(&world);
    }
}

#[test]
fn a_server_that_has_no_more_than_what_is_stored_is_told_so_without_a_write() {
    let mut stream = Stream::new();
    stream.wait(ms(5)).wal(5000).keepalive(true);
    let mut setup = Setup::new(Durability::Synchronous);
    (setup.config.preserve_end, setup.config.named) = (stream.end, true);
    setup.config.stored = stream.content[..5000].to_vec();
    let mut world = World::new(setup, &stream);
    world.run_for(ms(6));
    assert_eq!(world.status().flushed, stream.end);
    assert_eq!(world.count(Operation::Write), 0);
}

#[test]
fn a_stream_that_only_compares_ends_there_and_neither_writes_nor_claims() {
    for seed in seeds(60) {
        let _named_on_failure = Seed(seed);
        let mut rng = Rng::new(seed + 3000);
        let stream = random_stream(&mut rng, Finale::Silence);
        let mut setup = random_setup(&mut rng, seed, POLICIES[seed as usize % 3]);
        (setup.config.preserve_end, setup.config.named) = (at(rng.between(1, MIB)), true);
        let mut stored = some_stored(&mut rng, &setup, &stream);
        stored.push(stream.content[stored.len()]);
        setup.config.stored = stored;
        setup.config.only_compares = true;
        setup.config.window += 2 * setup.config.block as usize;
        let mut world = World::new(setup, &stream);
        world.run_to_end(stream.clock + Duration::from_secs(600));
        let end = world.end.as_ref().expect("ended");
        assert!(matches!(end.ending, Ending::Same), "{:?}", end.ending);
        assert_untouched(&world);
    }
}

// ---- acknowledging ----

/// One commit a moment after the start.
fn one_commit(bytes: usize) -> Stream {
    let mut stream = Stream::new();
    stream.wait(ms(5)).wal(bytes);
    stream
}

#[test]
fn a_commit_is_acknowledged_after_one_write_and_the_name() {
    let stream = one_commit(300);
    let mut world = World::new(Setup::new(Durability::Synchronous), &stream);
    world.run_until_acknowledged(ms(5 + 3), stream.end);
    let counts = [Operation::Write, Operation::Sync, Operation::Names].map(|kind| world.count(kind));
    assert_eq!(counts, [1, 0, 1]);
}

#[test]
fn a_deferred_commit_is_acknowledged_once_the_stream_is_quiet() {
    let stream = one_commit(300);
    let mut world = World::new(Setup::new(Durability::Deferred), &stream);
    world.run_for(QUIET);
    assert_eq!(
        (world.status().flushed, world.count(Operation::Write)),
        (START, 0)
    );
    world.run_until_acknowledged(ms(5 + 3), stream.end);
}

#[test]
fn keepalives_and_notices_do_not_keep_a_quiet_stream_from_being_acknowledged() {
    let mut stream = one_commit(300);
    let end = stream.end;
    for _ in 0..100 {
        stream.wait(ms(50)).keepalive(false).notice();
    }
    let mut world = World::new(Setup::new(Durability::Deferred), &stream);
    world.run_until_acknowledged(QUIET + ms(60), end);
}

#[test]
fn a_stream_that_never_pauses_is_acknowledged_with_each_status() {
    let mut stream = Stream::new();
    for _ in 0..200 {
        stream.wait(ms(10)).wal(300);
    }
    let mut setup = Setup::new(Durability::Deferred);
    setup.config.status_interval = Some(ms(500));
    let mut world = World::new(setup, &stream);
    world.run_until_acknowledged(ms(530), at(30 * 300));
    world.run_until_acknowledged(ms(530), at(90 * 300));
}

#[test]
fn wal_that_ends_on_a_segment_boundary_is_acknowledged_at_once() {
    for durability in [Durability::Synchronous, Durability::Deferred] {
        let mut stream = Stream::new();
        stream.wal(MIB as usize - 400).wait(ms(2000)).wal(400);
        let mut world = World::new(Setup::new(durability), &stream);
        world.run_for(ms(1999));
        world.run_until_acknowledged(ms(1 + 5), at(MIB));
        world.run_for(ms(5));
        assert_eq!(world.count(Operation::Names), 2, "named and finished");
    }
}

#[test]
fn a_commit_across_a_segment_boundary_is_acknowledged_without_waiting_for_quiet() {
    let mut stream = Stream::new();
    stream.wal(MIB as usize - 400).wait(ms(1000)).wal(900);
    let mut world = World::new(Setup::new(Durability::Synchronous), &stream);
    world.run_for(ms(999));
    world.run_until_acknowledged(ms(1 + 7), stream.end);
}

#[test]
fn a_server_that_asks_gets_a_status_at_once_and_another_when_all_is_durable() {
    for durability in [Durability::Synchronous, Durability::Deferred] {
        let mut stream = Stream::new();
        stream.wait(ms(50)).wal(300).keepalive(true);
        let mut world = World::new(Setup::new(durability), &stream);
        world.run_for(ms(51));
        assert_eq!(world.statuses.len(), 2, "the first, and the answer");
        assert_eq!(world.status().flushed, START);
        world.run_until_acknowledged(ms(5), stream.end);
        assert_eq!(world.statuses.len(), 3);
    }
}

#[test]
fn a_receiver_that_claims_nothing_sends_no_flush_position_and_still_reports() {
    let mut stream = Stream::new();
    stream.wal(300).wait(ms(50)).keepalive(true);
    let mut setup = Setup::new(Durability::Deferred);
    setup.config.claims_flush = false;
    setup.config.status_interval = Some(ms(100));
    let mut world = World::new(setup, &stream);
    world.run_for(ms(1000));
    assert!(world.statuses.len() >= 10);
    assert_eq!(world.status().written, stream.end);
}

#[test]
fn statuses_are_sent_at_the_interval_while_nothing_happens() {
    let mut setup = Setup::new(Durability::Synchronous);
    setup.config.status_interval = Some(ms(100));
    let mut world = World::new(setup, &Stream::new());
    world.run_for(ms(1000));
    let times: Vec<_> = world.statuses.iter().map(|(at, _)| *at).collect();
    assert_eq!(times, (0..=10).map(|n| ms(100 * n)).collect::<Vec<_>>());
}

#[test]
fn what_never_ends_is_never_claimed() {
    for durability in POLICIES {
        for operation in [Operation::Write, Operation::Sync, Operation::Names] {
            for after in 0..4 {
                let mut stream = Stream::new();
                for _ in 0..60 {
                    stream.wal(40_000).wait(ms(5)).wal(300).keepalive(true);
                }
                let mut setup = Setup::new(durability);
                setup.hang = Some((operation, after));
                let mut world = World::new(setup, &stream);
                world.run_for(ms(3000));
                world.stop();
                world.run_for(ms(3000));
                let hangs = world.count(operation) > after;
                assert!(
                    !hangs || world.end.is_none(),
                    "an end although {operation:?} hangs"
                );
            }
        }
    }
}

#[test]
fn without_sync_writing_goes_on_while_a_sync_hangs() {
    let mut stream = Stream::new();
    stream.ahead(8 * MIB);
    for _ in 0..32 {
        stream.wal(100_000);
    }
    let mut setup = Setup::new(Durability::Background);
    setup.hang = Some((Operation::Sync, 0));
    let mut world = World::new(setup, &stream);
    world.run_for(ms(5000));
    assert_eq!(world.status().flushed, START);
    assert_eq!(world.disk.written_end(), stream.end, "more than three segments");
}

#[test]
fn the_next_segment_may_be_zeroed_a_quarter_faster_than_this_one_fills_while_commits_wait() {
    let allowance = |durability, ahead| {
        let mut stream = Stream::new();
        stream.wal(MIB as usize).ahead(ahead).wal(4000);
        let mut world = World::new(Setup::new(durability), &stream);
        world.run_for(ms(100));
        world.receiver().zeroing_allowance()
    };
    assert_eq!(allowance(Durability::Synchronous, 8000), 5000);
    assert_eq!(allowance(Durability::Deferred, 8000), 0);
    assert_eq!(allowance(Durability::Synchronous, 8 * MIB), 0);
}

// ---- groups ----

#[test]
fn a_lone_commit_behind_a_group_is_held_a_tenth_of_a_flush_at_most() {
    let mut stream = Stream::new();
    for _ in 0..20 {
        for _ in 0..8 {
            stream.wal(300);
        }
        stream.wait(ms(40)).wal(300).wait(ms(40));
    }
    let mut setup = Setup::new(Durability::Synchronous);
    setup.config.named = true;
    setup.disk_us = (10_000, 10_000);
    let mut world = World::new(setup, &stream);
    for group in 1..=20u64 {
        world.run_until_acknowledged(ms(10 + 1), at(group * 2700 - 300));
        world.run_for(ms(40 * (2 * group - 1)) - world.now);
        world.run_until_acknowledged(ms(10 + 1 + 1), at(group * 2700));
        world.run_for(ms(80 * group) - world.now);
    }
}

#[test]
fn commits_that_arrive_during_a_flush_share_the_next_one() {
    let mut stream = Stream::new();
    stream.wal(300);
    for _ in 0..8 {
        stream.wait(ms(1)).wal(300);
    }
    let mut setup = Setup::new(Durability::Synchronous);
    setup.config.named = true;
    setup.disk_us = (10_000, 10_000);
    let mut world = World::new(setup, &stream);
    world.run_until_acknowledged(ms(10 + 10 + 2), stream.end);
    assert_eq!(world.count(Operation::Write), 2);
}

#[test]
fn what_a_server_asks_for_while_a_write_is_in_flight_shares_the_next_one() {
    let mut stream = Stream::new();
    stream.wal(300);
    for _ in 0..8 {
        stream.wait(ms(1)).wal(300).keepalive(true);
    }
    for durability in [Durability::Synchronous, Durability::Deferred] {
        let mut setup = Setup::new(durability);
        setup.config.named = true;
        setup.disk_us = (10_000, 10_000);
        let mut world = World::new(setup, &stream);
        world.run_until_acknowledged(ms(10 + 10 + 2), stream.end);
        assert_eq!(world.count(Operation::Write), 2);
    }
}

#[test]
fn the_next_write_waits_a_moment_for_the_group_that_was_released() {
    let mut stream = Stream::new();
    let us = Duration::from_micros;
    // One commit; seven during its flush, and the first again right behind it; then all eight again.
    let groups = [(0, 1), (1000, 7), (10_500, 1), (21_500, 8)];
    for (start, commits) in groups {
        stream.clock = us(start);
        for _ in 0..commits {
            stream.wal(300).wait(us(100));
        }
    }
    let mut setup = Setup::new(Durability::Synchronous);
    setup.config.named = true;
    setup.disk_us = (10_000, 10_000);
    let mut world = World::new(setup, &stream);
    world.run_for(ms(60));
    assert_eq!(
        (world.status().flushed, world.count(Operation::Write)),
        (stream.end, 3)
    );
}

#[test]
fn the_socket_rests_while_a_quick_durable_write_of_all_that_was_sent_is_in_flight() {
    let (mut world, end) = two_commits(900);
    world.run_for(Duration::from_micros(5_500));
    assert!(world.is_armed(), "nothing is known of the disk yet");
    world.run_for(ms(5));
    assert!(!world.is_armed());
    world.run_until_acknowledged(ms(1), end);
}

#[test]
fn the_socket_is_read_while_a_slow_durable_write_is_in_flight() {
    let (mut world, end) = two_commits(10_000);
    world.run_for(ms(12));
    assert!(world.is_armed() && world.is_delivered());
    world.run_until_acknowledged(ms(5 + 10 + 2), end);
}

/// A commit after 5 ms and one after 10, on a disk whose writes take so many microseconds.
fn two_commits(disk_us: u64) -> (World, Lsn) {
    let mut stream = Stream::new();
    stream.wait(ms(5)).wal(300).wait(ms(5)).wal(300);
    let mut setup = Setup::new(Durability::Synchronous);
    setup.config.named = true;
    setup.disk_us = (disk_us, disk_us);
    (World::new(setup, &stream), stream.end)
}

// ---- catching up ----

#[test]
fn in_catch_up_no_payload_byte_is_moved_and_one_sync_serves_a_segment() {
    let mut stream = Stream::new();
    stream.ahead(9 * MIB).keepalive(false);
    stream.wait(ms(1));
    for sent in 1..=32 {
        stream.ahead(if sent < 32 { 9 * MIB } else { 0 }).wal(128 << 10);
    }
    let mut setup = Setup::new(Durability::Synchronous);
    setup.config.window = 512 << 10;
    let mut world = World::new(setup, &stream);
    world.run_until(ms(2000), "all delivered", World::is_delivered);
    assert_eq!(world.receiver().moved(), 0);
    assert!(
        world.spread_reads >= 4,
        "{} reads brought several messages",
        world.spread_reads
    );
    world.run_until_acknowledged(ms(10), stream.end);
    let syncs = world.count(Operation::Sync);
    assert!(syncs <= 4, "{syncs} syncs for four segments");
}

// ---- ending ----

#[test]
fn stopping_under_a_server_that_never_pauses_ends_soon_with_everything_durable() {
    for durability in POLICIES {
        let mut stream = Stream::new();
        for _ in 0..4000 {
            stream.wal(1000).wait(Duration::from_micros(500));
        }
        let mut setup = Setup::new(durability);
        setup.disk_us = (8000, 8000);
        let mut world = World::new(setup, &stream);
        world.run_for(ms(1203));
        world.stop();
        world.run_to_end(ms(100));
        let end = world.end.as_ref().expect("ended");
        assert!(matches!(end.ending, Ending::Stopped));
        assert_eq!(world.copy_done, Some(end.at));
        assert_eq!(world.statuses.last().expect("sent").0, end.at, "a final status");
        if durability != Durability::Background {
            assert!(world.status().flushed > at(2_000_000));
        }
        assert_eq!(world.status().written, world.disk.written_end());
    }
}

#[test]
fn a_server_that_shuts_down_is_answered_at_once() {
    let mut stream = Stream::new();
    stream
        .wal(300)
        .wait(ms(20))
        .keepalive(true)
        .wait(ms(20))
        .command_complete();
    let mut world = World::new(Setup::new(Durability::Deferred), &stream);
    world.run_until_acknowledged(ms(25), stream.end);
    world.run_to_end(ms(41));
    let end = world.end.as_ref().expect("ended");
    assert!(matches!(end.ending, Ending::EndOfCopy));
    assert_eq!(end.unparsed, b"C\0\0\0\x0bCOPY 0\0");
    assert_eq!(world.copy_done, None);
}

#[test]
fn wal_from_the_wrong_position_is_refused_and_what_came_before_is_kept() {
    for wrong in [at(299), at(301), Lsn::INVALID, Lsn(u64::MAX)] {
        let mut stream = Stream::new();
        stream.wal(300).wal_message(wrong, wrong, b"never to be seen");
        let mut world = World::new(Setup::new(Durability::Deferred), &stream);
        world.run_to_end(ms(20));
        let end = world.end.as_ref().expect("ended");
        let Ending::Failed(error) = &end.ending else {
            panic!("{:?}", end.ending)
        };
        assert!(
            error.to_string().contains("0/30012C"),
            "names what it expected: {error}"
        );
        assert_eq!(world.disk.durable_end(), at(300));
    }
}

#[test]
fn a_failed_read_ends_the_stream_and_keeps_what_came() {
    let stream = one_commit(300);
    let mut world = World::new(Setup::new(Durability::Deferred), &stream);
    world.run_for(ms(6));
    world.fail_receive();
    world.run_to_end(ms(5));
    assert_eq!(world.disk.durable_end(), stream.end);
}
