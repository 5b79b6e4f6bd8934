//! What the tests share: servers to stream from, receivers to watch, directories to compare.
//!
//! Everything here looks at walring from outside, as its user does: its command line, its files, its exit codes, and
//! what the server thinks of it. The names of segments and positions are computed here once more on purpose.
#![allow(dead_code, unused_imports)] // every test program uses a part of it

pub mod archive;
pub mod at_once;
pub mod attempt;
pub mod certificates;
pub mod clients;
pub mod hello;
pub mod http;
pub mod libpq;
pub mod login;
pub mod lsn;
pub mod meeting;
pub mod postgres;
pub mod process;
pub mod program;
pub mod receiver;
pub mod relay;
pub mod restore;
pub mod scratch;
pub mod server;
pub mod session;
pub mod skip;
pub mod small_disk;
pub mod statuses;
pub mod stored;
pub mod terminal;
pub mod terminator;
pub mod tls;
pub mod trickster;
pub mod wait;
pub mod walsender;
pub mod words;

pub use archive::Archive;
pub use at_once::at_once;
pub use http::Http;
pub use lsn::Lsn;
pub use postgres::Installation;
pub use process::Process;
pub use receiver::{pg_receivewal, walring};
pub use server::{Server, ServerOptions};
pub use session::Session;
pub use small_disk::SmallDisk;
pub use walsender::Walsender;
