//! A connection to the server outside of streaming.
