//! `walring-perf`: see the library.

fn main() {}
