//! Reading the write-ahead log: pages, and the records in them.
//!
//! [`decoder`] takes the log's bytes in any portions and gives pages and records, each checked;
//! [`page`] and [`record`] are their headers, [`content`] what a record's body says, [`fault`] what can
//! be wrong; [`scan`] goes over one stored segment, [`manager`] names resource managers. Source of the format: PostgreSQL `src/include/access/xlog_internal.h`, `xlogrecord.h`,
//! and the reader `src/backend/access/transam/xlogreader.c`.
//!
//! The log is read in this machine's byte order, little endian, which is the order of every server
//! that runs on little endian machines.

pub mod content;
pub mod decoder;
mod event;
mod facts;
pub mod fault;
pub mod manager;
pub mod page;
pub mod record;
pub mod scan;

/// What of the received log is checked before it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Nothing; transactions are not seen either.
    Off,
    /// The headers of pages.
    Pages,
    /// Pages, the chain of records, and the CRC of each record.
    Records,
}
