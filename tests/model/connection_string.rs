//! What holds for any text as a connection string.

use walring::edge::connstring;

/// No word of libpq's or walring's has it in it.
const SECRET: &str = "zqzq";

/// It is read or refused, as it is and behind a password, in one line that shows nothing of the password.
pub fn try_any_text(text: &str) {
    let _ = connstring::parse(text);
    if text.contains(SECRET) {
        return;
    }
    for begin in [
        format!("password='{SECRET}' "),
        format!("password={SECRET} "),
        format!("password={SECRET}"),
        format!("postgresql://u:{SECRET}@"),
        format!("postgresql://u:{SECRET}"),
        format!("postgresql://h?password={SECRET}"),
    ] {
        let Err(error) = connstring::parse(&(begin.clone() + text)) else {
            continue;
        };
        let said = format!("{error:?}");
        // Without an "@" behind it, it is a port.
        let is_port = begin.starts_with("postgresql://u:") && !begin.ends_with('@') && !text.contains('@');
        assert!(is_port || !said.contains(SECRET), "{begin}{text}: {said}");
        assert!(!said.contains('\n'), "{begin}{text}: {said}");
    }
}
