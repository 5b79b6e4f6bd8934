//! Any text: the connection string is read or refused, in one line that shows nothing of a password.

#![no_main]

#[path = "../../model/connection_string.rs"]
mod connection_string;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| connection_string::try_any_text(text));
