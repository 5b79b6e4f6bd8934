//! The whole life of a directory, in virtual time, from one number: its seed.
//!
//! ```text
//!   primary --network--> stream: the core's Receiver --orders--> files --> disk
//!      ^                    |                                              |
//!      +----- statuses -----+------------------ checks --------------------+
//! ```
//!
//! [`history`] is the WAL of all timelines, [`primary`] the server that streams it, or one that did not follow it, [`network`] what lies between, [`disk`]
//! what survives, [`files`] and [`stream`] mirror the driver, [`session`] and [`life`] the process and what happens to it, as
//! [`plan`] has drawn it; where a start goes on is decided by the core's own `start` and `resume`; [`checks`] is what must be true whatever happens, and [`log`] what did.

mod checks;
mod disk;
mod files;
mod history;
mod life;
mod log;
mod network;
mod plan;
mod primary;
mod session;
mod stream;
mod world;

use std::collections::BTreeMap;

use self::disk::Disk;
use self::history::History;
use self::life::Life;
use self::log::Log;
use self::plan::Plan;
use self::primary::Primary;
use self::world::World;
use crate::model::Rng;

/// What a life was.
pub struct Lived {
    /// The same for the same events.
    pub hash: u64,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// How long it was, in virtual seconds.
    pub seconds: f64,
}

/// Lives the life of a seed; panics if a promise was broken.
pub fn live(seed: u64, is_shown: bool) -> Lived {
    let mut rng = Rng::new(seed);
    // In every fourth life WAL is lost.
    let history = History::any(rng.next(), seed % 4 == 3);
    let plan = Plan::new(&mut rng);
    let primary = Primary::new(history, plan.habits, seed);
    let log = Log::new(seed, is_shown);
    let disk_us = plan.disk_us;
    let world = World::new(log, rng, Disk::new(seed), primary, disk_us);
    let mut life = Life::new(world, plan);
    life.live();
    let log = &life.world.log;
    Lived {
        hash: log.hash(),
        counts: log.counts().clone(),
        seconds: log.now.as_secs_f64(),
    }
}
