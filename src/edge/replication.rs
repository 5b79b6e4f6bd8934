//! The replication commands.
