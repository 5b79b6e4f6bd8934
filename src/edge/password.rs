//! The password prompt.
