//! The receiver and a server that says nothing, in virtual time.

mod model;

use std::time::Duration;

use model::stream::Stream;
use model::world::{Setup, World};
use walring::core::demand::Durability;
use walring::core::order::Ending;

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
