//! The ring: the tokio-uring driver of one stream, and the only place with `unsafe`.
//!
//! [`setup`] starts the ring or says why it cannot, [`buffer`] owns the memory, [`op`] the
//! operations that the data path issues, [`link`] the socket, [`segment`] the segment files and their names, [`spare`]
//! the segment that is prepared ahead, [`stream`] the loop that joins them to the core.

#[allow(unsafe_code)]
pub mod buffer;
mod flight;
pub mod link;
#[allow(unsafe_code)]
pub mod op;
pub mod segment;
pub mod setup;
mod shown;
pub mod spare;
pub mod stop;
pub mod stream;
mod timer;
