//! Any text: the connection string is read or refused, in one line that shows nothing of a password.

#![no_main]

use libfuzzer_sys::fuzz_target;
use walring::edge::connstring;

/// No other words of libpq's or walring's have it in them.
const SECRET: &str = "zqzq";

// As it is, and as what goes on behind a password.
fuzz_target!(|text: &str| {
    let _ = connstring::parse(text);
    if text.contains(SECRET) {
        return;
    }
    for begin in [
        format!("password='{SECRET}' "),
        format!("password={SECRET} "),
        format!("postgresql://u:{SECRET}@"),
        format!("postgresql://u:{SECRET}"),
        format!("postgresql://h?password={SECRET}"),
    ] {
        if let Err(error) = connstring::parse(&(begin.clone() + text)) {
            let said = format!("{error:?}");
            // Without the "@" it is a port, and without an encoded one behind it nothing tells that it is none.
            let is_port = begin.ends_with(SECRET) && begin.contains("u:") && !text.contains('@');
            assert!(is_port || !said.contains(SECRET), "{said}");
            assert!(!said.contains('\n'), "{said}");
        }
    }
});
