//! walring: a PostgreSQL WAL receiver on io_uring.
pub mod core;
pub mod edge;
pub mod error;
pub mod ring;
