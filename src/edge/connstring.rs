//! Connection strings: lists of `keyword = value` and URIs, by libpq's rules and in its words.
//!
//! Source: PostgreSQL doc libpq.sgml, "Connection Strings"; libpq's fe-connect.c. Messages repeat what libpq's do,
//! but for what may be a part of a password: they end up in logs.
//!
//! The text is UTF-8, and so is what its percent-encoding stands for. A password that is not has its place in the
//! password file, which is read as bytes.

mod uri;

use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

use crate::edge::settings;
use crate::error::{Error, Result, printable};

/// What `-d` was given. `Debug` does not show it, for it may hold a password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ConnectionString(String);

impl ConnectionString {
    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a password is in it, be it one that a later one replaces.
    pub fn holds_secret(&self) -> bool {
        parse_all(&self.0).is_ok_and(|pairs| has_secret(&pairs))
    }
}

impl From<String> for ConnectionString {
    fn from(text: String) -> ConnectionString {
        ConnectionString(text)
    }
}

impl fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectionString(_)")
    }
}

/// Options with their values; every keyword is one of libpq's.
pub type Pairs = Vec<(String, String)>;

/// Parses what `-d` was given: a URI or a list of keywords with values.
///
/// Each option is there once, with its last value, which may be empty.
pub fn parse(text: &str) -> Result<Pairs> {
    let mut pairs = Pairs::new();
    for (keyword, value) in parse_all(text)? {
        let (keyword, value) = settings::in_todays_words(&keyword, &value);
        pairs.retain(|(earlier, _)| earlier != keyword);
        pairs.push((keyword.to_owned(), value.to_owned()));
    }
    Ok(pairs)
}

/// Everything that is given, in the order given.
fn parse_all(text: &str) -> Result<Pairs> {
    uri::parse(text).unwrap_or_else(|| parse_keyword_list(text))
}

fn parse_keyword_list(text: &str) -> Result<Pairs> {
    let mut pairs = Pairs::new();
    let mut rest = text.chars().peekable();
    loop {
        skip_blanks(&mut rest);
        if rest.peek().is_none() {
            return Ok(pairs);
        }
        let mut keyword = String::new();
        while let Some(c) = rest.next_if(|c| *c != '=' && !is_blank(*c)) {
            keyword.push(c);
        }
        skip_blanks(&mut rest);
        if rest.next_if_eq(&'=').is_none() {
            let keyword = shown(&keyword, &pairs);
            return Err(usage_behind(
                &pairs,
                format!("missing \"=\" after \"{keyword}\" in connection info string"),
            ));
        }
        skip_blanks(&mut rest);
        let value = if rest.next_if_eq(&'\'').is_some() {
            quoted_value(&mut rest)?
        } else {
            plain_value(&mut rest)
        };
        check(&keyword, &pairs)?;
        pairs.push((keyword, value));
    }
}

fn plain_value(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut value = String::new();
    while let Some(c) = rest.next_if(|c| !is_blank(*c)) {
        // A backslash takes the next character as it is; a last one on its own stands for nothing.
        value.extend(if c == '\\' { rest.next() } else { Some(c) });
    }
    value
}

fn quoted_value(rest: &mut Peekable<Chars<'_>>) -> Result<String> {
    let mut value = String::new();
    loop {
        match rest.next() {
            Some('\'') => return Ok(value),
            Some('\\') => value.extend(rest.next()),
            Some(c) => value.push(c),
            None => {
                let message = "unterminated quoted string in connection info string";
                return Err(Error::usage(message));
            }
        }
    }
}

fn skip_blanks(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|c| is_blank(*c)).is_some() {}
}

/// What C's isspace() accepts.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// Whether a value is not to be shown.
fn has_secret(pairs: &[(String, String)]) -> bool {
    pairs
        .iter()
        .any(|(keyword, value)| settings::is_secret(keyword) && !value.is_empty())
}

/// A piece of the text for a message; behind a password that was not written as it should be it may be a part of that,
/// and so may what has an "@".
fn shown(piece: &str, before: &[(String, String)]) -> String {
    if has_secret(before) || piece.contains('@') {
        return "...".to_owned();
    }
    printable(piece)
}

/// An error in the text, with a hint where the password before it may be the reason.
fn usage_behind(before: &[(String, String)], message: String) -> Error {
    let error = Error::usage(message);
    if !has_secret(before) {
        return error;
    }
    error.with_hint(
        "What follows the password is not shown. One with blanks is written in quotes, in a URI with %20.",
    )
}

/// Whether there is such an option.
fn check(keyword: &str, before: &[(String, String)]) -> Result<()> {
    if settings::is_known(keyword) {
        return Ok(());
    }
    let error = usage_behind(before, settings::unknown(&shown(keyword, before)));
    if keyword.contains('@') {
        return Err(error.with_hint("A URI begins with \"postgresql://\"."));
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a text gives, as one line.
    pub(super) fn given(text: &str) -> String {
        let show = |(keyword, value): &(String, String)| format!("{keyword}={value}");
        match parse(text) {
            Ok(pairs) => {
                let given = pairs.iter().filter(|(_, value)| !value.is_empty());
                given.map(show).collect::<Vec<_>>().join("|")
            }
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn keyword_lists_are_read_as_libpq_reads_them() {
        for (text, expected) in [
            ("", ""),
            (
                "mydb",
                "error: missing \"=\" after \"mydb\" in connection info string",
            ),
            (
                "u:pw@h",
                "error: missing \"=\" after \"...\" in connection info string",
            ),
            ("host=a port=1", "host=a|port=1"),
            (" host = a\tport =1\n", "host=a|port=1"),
            ("host=a user=u host=b", "user=u|host=b"),
            ("host=a host=", ""),
            ("requiressl=1", "sslmode=require"),
            ("password='it\\'s \\\\ x' user=u", "password=it's \\ x|user=u"),
            ("password=a\\ b\\'c user=u", "password=a b'c|user=u"),
            ("user=''", ""),
            ("host=", ""),
            ("options='-c a=b'", "options=-c a=b"),
            (
                "host=a foo",
                "error: missing \"=\" after \"foo\" in connection info string",
            ),
            (
                "foo bar=1",
                "error: missing \"=\" after \"foo\" in connection info string",
            ),
            (
                "user='a",
                "error: unterminated quoted string in connection info string",
            ),
            (
                "user='a\\'",
                "error: unterminated quoted string in connection info string",
            ),
        ] {
            assert_eq!(given(text), expected, "{text:?}");
        }
    }

    #[test]
    fn no_message_about_a_list_shows_what_may_be_a_part_of_its_password() {
        for text in [
            "password=my secret",
            "host=h password=my secret=1",
            "password=my host=h secret host=h",
            "password='my secret",
            "u:secret@h?sslmode=disable",
            "u:secret@h",
        ] {
            let error = parse(text).unwrap_err();
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
        let error = parse("hots=h password=secret").unwrap_err();
        assert_eq!(error.to_string(), "invalid connection option \"hots\"");
    }

    #[test]
    fn a_connection_string_is_not_shown() {
        let text = |text: &str| ConnectionString::from(text.to_owned());
        assert!(!format!("{:?}", text("password=secret")).contains("secret"));
        assert!(text("password=secret").holds_secret());
        assert!(text("postgresql://u:secret@h").holds_secret());
        assert!(!text("postgresql://u@h").holds_secret());
        assert!(!text("host=h password=''").holds_secret());
        assert!(text("password=secret password=").holds_secret());
    }
}
