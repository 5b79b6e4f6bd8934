//! The ring: the tokio-uring driver of one stream, and the only place with `unsafe`.
//!
//! [`setup`] starts the ring or says why it cannot, [`buffer`] owns the memory, [`op`] the
//! operations that the data path issues, [`durable`] the ways to make a write durable, [`link`] the socket, [`tls`] the records on it, [`segment`] the segment files and their names, [`spare`]
//! the segment that is prepared ahead, [`stream`] the loop that joins them to the core, [`contract`] what it is given and leaves.
//! [`presence`] looks whether the files are still where they were opened.
//! [`features`] and [`trial`] find out what the kernel and the disk can do.

#[allow(unsafe_code)]
pub mod buffer;
pub mod contract;
pub mod durable;
pub mod features;
mod flight;
pub mod link;
#[allow(unsafe_code)]
pub mod op;
pub mod presence;
pub mod segment;
pub mod setup;
mod shown;
pub mod spare;
pub mod stop;
pub mod stream;
mod timer;
pub mod tls;
pub mod trial;
