//! The edge: command line, connection, directory, signals, logs: ordinary Rust on well-kept crates.

pub mod authentication;
pub mod cli;
pub mod connection;
pub mod conninfo;
pub mod connstring;
pub mod dial;
pub mod directory;
pub mod history;
pub mod hosts;
pub mod latency_report;
pub mod logging;
pub mod passfile;
pub mod password;
pub mod progress_line;
pub mod receive;
pub mod refusals;
pub mod replication;
pub mod report;
pub mod require_auth;
pub mod session;
pub mod settings;
pub mod socket;
pub mod status;
pub mod top;
pub mod wire;
