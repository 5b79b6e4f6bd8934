//! The core: decisions without I/O. No clock, no randomness, no files, no sockets, no `unsafe`.
//!
//! In reading order: [`lsn`] positions and names, [`message`] the protocol's messages, [`framing`]
//! finding them in the stream, [`spread`] many of them at once, [`progress`] what may be claimed, [`writes`] what is on its way to
//! the disk, [`demand`] what must get there and when, [`gather`] which commits share a flush,
//! [`spin`] whether waiting is worth a processor, [`recent`] what is usual, [`order`] what the driver is asked to do,
//! [`overlap`] what is compared first, [`receiver`] the state machine that joins them, [`start`] where a stream begins, [`resume`] where
//! within a segment, [`standing`] whether the server has what is stored,
//! [`wal`] what the received bytes are, [`history`] which timeline owns them, [`lineage`] which goes on, [`timestamp`] the server's
//! clock, [`inspection`] whether they are right, [`transactions`] the commits among them, [`measure`] what
//! is measured, [`savings`] what that saves, [`telemetry`] how other threads see it.

pub mod demand;
pub mod framing;
pub mod gather;
pub mod history;
pub mod inspection;
pub mod lineage;
pub mod lsn;
pub mod measure;
pub mod message;
pub mod order;
pub mod overlap;
pub mod progress;
pub mod receiver;
pub mod recent;
pub mod resume;
pub mod savings;
pub mod spin;
pub mod spread;
pub mod standing;
pub mod start;
pub mod telemetry;
pub mod timestamp;
pub mod transactions;
pub mod wal;
pub mod writes;
