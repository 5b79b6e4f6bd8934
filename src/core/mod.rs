//! The core: decisions without I/O. No clock, no randomness, no files, no sockets, no `unsafe`.

pub mod lsn;
pub mod start;
