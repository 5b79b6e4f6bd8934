//! The ring: the tokio-uring driver, the only place with `unsafe`, streaming sockets and segment I/O.
