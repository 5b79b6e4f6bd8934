//! The edge: command line, connection, directory, signals, logs: ordinary Rust on well-kept crates.
