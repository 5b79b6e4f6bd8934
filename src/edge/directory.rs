//! The target directory: what lies in it, and the lock on it.
