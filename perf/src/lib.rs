//! What walring saves against `pg_receivewal`, on this disk: the comparison suite. And what it survives: the
//! [`soak`].
//!
//! A crate of its own, so that its dependencies stay out of the receiver.
//!
//! ```text
//!  compare --> scenarios --> primary (its data in memory)
//!                        --> receivers, one after the other, round by round, on the same disk
//!                        --> load (times every commit from the client's side)
//!                        --> observe (CPU, calls, memory, the device's counters)
//!          --> results (JSON) --> report (HTML, Markdown)
//!  disk: a directory, or an emulated edge disk (FUSE file under a loop device)
//! ```

pub mod compare;
pub mod disk;
pub mod floor;
pub mod interrupt;
pub mod load;
pub mod machine;
pub mod observe;
pub mod plan;
pub mod primary;
pub mod receiver;
pub mod report;
pub mod results;
pub mod scenario;
pub mod site;
pub mod soak;
pub mod statistics;
pub mod stored;
