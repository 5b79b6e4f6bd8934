//! Where the receiver ends a stream that has an end position, on a model of server, network and disk.

mod model;

use std::time::Duration;

use model::at;
use model::stream::Stream;
use model::world::{Setup, World};
use walring::core::demand::Durability;
use walring::core::order::Ending;

#[test]
fn the_end_position_ends_the_stream_behind_the_message_that_passes_it() {
    let mut stream = Stream::new();
    stream.wal(500).wal(500).wal(500);
    for (position, end) in [(999, 1000), (1000, 1500)] {
        let mut setup = Setup::new(Durability::Synchronous);
        setup.config.end_position = Some(at(position));
        let mut world = World::new(setup, &stream);
        world.run_to_end(Duration::from_millis(20));
        assert!(matches!(
            world.end.as_ref().expect("ended").ending,
            Ending::EndPosition
        ));
        assert_eq!(world.status().flushed, at(end));
    }
}

#[test]
fn the_message_that_passes_the_end_position_is_kept_in_whole_however_it_arrives() {
    let mut stream = Stream::new();
    stream.wal(50_000).wal(500);
    let mut setup = Setup::new(Durability::Synchronous);
    setup.longest_read = 1000;
    setup.config.end_position = Some(at(700));
    let mut world = World::new(setup, &stream);
    world.run_to_end(Duration::from_secs(1));
    let end = world.end.as_ref().expect("ended");
    assert!(matches!(end.ending, Ending::EndPosition), "{:?}", end.ending);
    assert_eq!(world.status().flushed, at(50_000));
}
