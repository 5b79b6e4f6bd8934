//! How the world around the receiver behaves in a run.

use std::sync::Arc;
use std::time::Duration;

use walring::core::demand::Durability;
use walring::core::order::Config;

use super::truth::Truth;
use super::{START, segment_size};

/// What can be made to hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Writes.
    Write,
    /// Syncs.
    Sync,
    /// Changes of names.
    Names,
}

/// How the world around the receiver behaves.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where the randomness comes from.
    pub seed: u64,
    /// What the receiver is configured to.
    pub config: Config,
    /// Shortest and longest operation of the disk, in microseconds.
    pub disk_us: (u64, u64),
    /// So much longer does a sync take, in microseconds.
    pub sync_more_us: u64,
    /// Longest delay of the network in microseconds.
    pub network_us: u64,
    /// The most bytes one read returns.
    pub longest_read: usize,
    /// So many writes of a hundred are short.
    pub short_writes: u64,
    /// The server answers when asked to.
    pub answers: bool,
    /// Operations of this kind never end, after so many that did.
    pub hang: Option<(Operation, usize)>,
    /// What may be claimed, if the receiver looks at what it receives.
    pub truth: Option<Arc<Truth>>,
}

impl Setup {
    /// A quick disk, a quick network, windows of four blocks of 4 KiB.
    pub fn new(durability: Durability) -> Setup {
        Setup {
            seed: 0,
            config: Config {
                segment_size: segment_size(),
                block: 4096,
                slots: 4,
                window: 4 * 4096,
                durability,
                claims_flush: true,
                status_interval: Some(Duration::from_secs(10)),
                receive_timeout: None,
                end_position: None,
                start: START,
                backlog_end: START,
                stored: Vec::new(),
                only_compares: false,
                decoder: None,
                preserve_end: START,
                named: false,
            },
            disk_us: (1000, 1000),
            sync_more_us: 0,
            network_us: 20,
            longest_read: usize::MAX,
            short_writes: 0,
            answers: true,
            hang: None,
            truth: None,
        }
    }
}
