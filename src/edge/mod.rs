//! The edge: command line, connection, directory, signals, logs: ordinary Rust on well-kept crates.

pub mod authentication;
pub mod cli;
pub mod connection;
pub mod conninfo;
pub mod directory;
pub mod history;
pub mod logging;
pub mod password;
pub mod progress_line;
pub mod replication;
