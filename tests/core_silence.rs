//! The receiver and a server that says nothing, or little, in virtual time.

mod model;

use std::time::Duration;

use model::stream::Stream;
use model::world::{Setup, World};
use walring::core::demand::Durability;
use walring::core::order::Ending;
use walring::core::receiver::Receiver;
use walring::core::spread::HEADS_LENGTH;

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

/// One commit a moment after the start.
fn one_commit(bytes: usize) -> Stream {
    let mut stream = Stream::new();
    stream.wait(ms(5)).wal(bytes);
    stream
}

fn with_timeout(timeout: Duration) -> Setup {
    let mut setup = Setup::new(Durability::Synchronous);
    setup.config.receive_timeout = Some(timeout);
    setup.config.status_interval = None;
    setup
}

#[test]
fn a_silent_server_is_asked_at_half_the_timeout_and_given_up_at_the_whole() {
    let mut setup = with_timeout(ms(1000));
    (setup.answers, setup.network_us) = (false, 500);
    let mut world = World::new(setup, &one_commit(300));
    world.run_to_end(ms(1100));
    let (asked_at, asked) = *world.statuses.last().expect("sent");
    assert!(asked.reply_requested);
    assert!((ms(505)..ms(512)).contains(&asked_at), "{asked_at:?}");
    let end = world.end.as_ref().expect("ended");
    assert!(matches!(end.ending, Ending::Failed(_)));
    assert!((ms(1005)..ms(1012)).contains(&end.at), "{:?}", end.at);
}

#[test]
fn a_server_that_answers_is_not_given_up() {
    let mut world = World::new(with_timeout(ms(1000)), &one_commit(300));
    world.run_for(ms(20_000));
    assert!(world.end.is_none());
    let asked = world
        .statuses
        .iter()
        .filter(|(_, status)| status.reply_requested)
        .count();
    assert!((38..=40).contains(&asked), "{asked}");
}

#[test]
fn a_slow_disk_is_not_taken_for_a_silent_server() {
    let stream = one_commit(300);
    let mut setup = with_timeout(ms(1000));
    setup.disk_us = (5_000_000, 5_000_000);
    let mut world = World::new(setup, &stream);
    world.run_until_acknowledged(ms(11_000), stream.end);
}

/// A far server sends a long message slowly. What was read and waited to be handed on comes at once, and the link is as
/// slow as before.
#[test]
fn what_was_read_already_does_not_make_a_slow_link_quick() {
    let config = Setup::new(Durability::Synchronous).config;
    let (start, length) = (config.start.0, config.window + config.block as usize);
    let head = [
        &b"d"[..],
        &(4 + 25 + 9000u32).to_be_bytes(),
        b"w",
        &start.to_be_bytes(),
        &(start + (64 << 20)).to_be_bytes(),
        &[0; 8],
    ];
    let (mut slot, mut core) = (vec![0; length], Receiver::new(config, ms(0)));
    let ask = core.arm_for_early(ms(0)).expect("a wish");
    let head = head.concat();
    slot[ask.range.start..][..head.len()].copy_from_slice(&head);
    core.received(ms(100), head.len(), &mut slot, &[0; HEADS_LENGTH]);
    assert!(!core.is_live() && !core.is_bulk());
    core.arm_for_early(ms(100)).expect("a wish");
    core.received_early(ms(100), 100, &mut slot);
    assert!(!core.is_live() && !core.is_bulk());
    core.arm_for_early(ms(100)).expect("a wish");
    core.received(ms(101), 100, &mut slot, &[0; HEADS_LENGTH]);
    assert!(core.is_bulk(), "it is quick now");
}
