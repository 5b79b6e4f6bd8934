//! What holds for any text as a connection string.

use walring::edge::connstring;

/// No word of libpq's or walring's has it in it.
const SECRET: &str = "zqzq";

/// It is read or refused, as it is and behind the beginning of a password. That is one line, without what may be the rest
/// of the password: in a list and in parameters all that follows, in a URI what is before an "@".
pub fn try_any_text(text: &str) {
    let _ = connstring::parse(text);
    let middle = (text.len() / 2..=text.len()).find(|at| text.is_char_boundary(*at));
    let (before, behind) = text.split_at(middle.unwrap_or(0));
    if text.contains(SECRET) {
        return;
    }
    for begin in [
        "password=my",
        "password='my",
        "postgresql://u:my",
        "postgresql://h?password=my",
    ] {
        for text in [
            format!("{begin}{SECRET}{text}"),
            format!("{begin}{before}{SECRET}{behind}"),
        ] {
            let Err(error) = connstring::parse(&text) else {
                continue;
            };
            let said = format!("{error:?}");
            let is_behind = text
                .split_once(SECRET)
                .is_some_and(|(_, behind)| behind.contains('@'));
            let is_secret = begin != "postgresql://u:my" || is_behind;
            assert!(!is_secret || !said.contains(SECRET), "{text}: {said}");
            assert!(!said.contains('\n'), "{text}: {said}");
        }
    }
}
