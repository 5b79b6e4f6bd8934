//! walring receives the write-ahead log (WAL) of a PostgreSQL server and makes it durable on Linux:
//! one connection, one event loop on io_uring, one directory of segment files that every PostgreSQL
//! tool can read. It is a drop-in for `pg_receivewal`.
//!
//! ```text
//!  server --TCP--> [ring: read] --> core: frame in place --> slot = a window of the segment file
//!                                     |                        |
//!         status 'r' <-- progress <-- core: schedule  <-- [ring: O_DIRECT write, durable or synced]
//! ```
//!
//! # Three layers
//!
//! - [`core`]: decisions. Facts come in, orders go out; no clock, no files, no sockets, no `unsafe`.
//!   Its callers are the ring, the edge (where a stream starts, what is stored) and the tests' models.
//! - [`ring`]: the tokio-uring driver of one stream. The only place with `unsafe`, and the only one
//!   that touches the socket and the segment files while WAL flows.
//! - [`edge`]: command line, connection, authentication, directory, logs: ordinary Rust.
//!
//! The core imports neither of the others. Everything before START_REPLICATION may be ordinary code;
//! after it the data path goes through the ring, with these exceptions, each explained where it is made:
//!
//! - A status is sent with a call that does not block ([`ring::link`]), and a durable write and the next commit are waited
//!   for in place while the disk is quick ([`ring::stream`]); perf/README.md has the numbers.
//! - A partial that an earlier run left is opened, allocated and synced in place when the stream comes to it, and a block of
//!   it is read through the page cache ([`ring::segment`]).
//! - Every second it is looked whether directory and files are still there ([`ring::presence`]).
//!
//! The same decoder reads what is stored: a start goes on at the last good record of the partial
//! ([`core::resume`]), `walring verify` and `inspect` look at whole directories ([`edge::stored`]).
//!
//! A disk that hangs can hold up the loop; a thread of its own says so, and ends the program where the operator
//! wants that ([`edge::patience`]).
//!
//! Metrics, health and what systemd is told come from another thread ([`edge::observers`]), which reads
//! [`core::telemetry`]; the data path only writes there. That thread looks after the replication slot, too, over a
//! connection of its own ([`edge::slot_watch`]).
//!
//! # A byte's way
//!
//! The socket is read into a registered buffer slot, at the very offset where the byte belongs in a
//! window of its segment file ([`core::framing`]); the same memory is written to the file. Every WAL
//! message's head lands where the next payload will overwrite it, or, when many messages are read at
//! once, in a small buffer beside ([`core::spread`]). So a catch-up copies no payload byte in user
//! space; commits, which come behind a head that was not expected, are moved down by its 30 bytes.
//! Where the connection is encrypted, TLS records are read into memory of their own, opened in it, and copied from there to the
//! same place in the slot ([`ring::tls`]): one copy more. The handshake is the edge's ([`edge::tls`]).
//! In the slot it is looked at, too ([`core::inspection`]): the decoder ([`core::wal`]) checks pages and records
//! in place, and finds the commits, which are timed until they are durable and until they are
//! acknowledged ([`core::transactions`]). What is written when, and how it becomes durable, is decided in [`core::demand`]
//! (policies) and `core::receiver::schedule` (one durable write in flight when live, large plain writes and one
//! sync a segment in catch-up).
//!
//! # Invariants
//!
//! - `reported_flush <= flushed <= written <= received` and `flushed <= verified <= received`:
//!   [`core::progress`] owns them and checks them after every change. The server hears only what comes
//!   from there.
//! - A segment keeps its `.partial` until the record that crosses its end is right, for the next start
//!   believes a complete one (`completable` in `core::receiver::schedule`, with its exceptions).
//! - A byte counts as flushed when it is durable *and* so is the name of its file ([`ring::segment`]).
//! - A write or sync that failed is final: nothing is acknowledged any more, the stream is left.
//! - A file or directory that its name does not lead to any more ends the stream, for what is written to it
//!   would be acknowledged and nowhere ([`ring::presence`]).
//! - A slot has one owner: the core between two reads, the kernel while an operation is in flight
//!   ([`ring::buffer`]). Two writes of one block are never in flight together ([`core::writes`]).
//! - Bytes that an earlier run may have acknowledged are never truncated and never overwritten by
//!   anything but themselves (`preserve_end` in [`core::order::Config`]).
//! - Where a stream goes on within a partial, nothing is written or claimed before the server has sent once more what
//!   lies before ([`core::overlap`]): it may have been restored from its past.
//! - Of stored timelines the newest one goes on: an older one is not received from again, however far its files reach
//!   ([`edge::ancestry`]).
//! - Of what is stored, only what a CRC covers is believed at a start; the rest of a record whose beginning is not here
//!   is received again ([`edge::rest`]).
//! - No `Y.partial` lies beside `X.partial` of an earlier segment: a receiver that takes over starts
//!   at the newest name and must not leave a gap ([`ring::segment`]).
//!
//! # Deliberately absent
//!
//! Compression. No thread but the loop's touches WAL while it is received; no SQPOLL (it takes a core), no linked write and fsync (a short write breaks the
//! order), no retry of a failed sync (it would "succeed").

pub mod core;
pub mod edge;
pub mod error;
pub mod ring;
