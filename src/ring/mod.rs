//! The ring: the tokio-uring driver of one stream, and the only place with `unsafe`.
//!
//! [`setup`] starts the ring or says why it cannot, [`buffer`] owns the memory, [`op`] the
//! operations that the data path issues, [`link`] the socket, [`segment`] the segment files and their names, [`spare`]
//! the segment that is prepared ahead, [`stream`] the loop that joins them to the core.
//! [`checksum`] is here for its `unsafe` only.

#[allow(unsafe_code)]
pub mod buffer;
#[allow(unsafe_code)]
pub mod checksum;
pub mod link;
#[allow(unsafe_code)]
pub mod op;
pub mod segment;
pub mod setup;
pub mod spare;
pub mod stop;
pub mod stream;
mod timer;
