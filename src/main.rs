//! The `walring` program.
fn main() {}
