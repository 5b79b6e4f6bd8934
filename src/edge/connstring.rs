//! Connection strings: lists of `keyword = value` and URIs, by libpq's rules and in its words.
//!
//! Source: PostgreSQL doc libpq.sgml, "Connection Strings". Messages about a URI do not repeat the
//! URI, as libpq's do: it may hold a password, and messages end up in logs.

use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

use crate::edge::settings;
use crate::error::{Error, Result};

/// What `-d` was given. `Debug` does not show it, for it may hold a password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ConnectionString(String);

impl ConnectionString {
    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a password is in it.
    pub fn holds_secret(&self) -> bool {
        parse(&self.0).is_ok_and(|pairs| has_secret(&pairs))
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

/// Settings in the order given; every keyword is known.
pub type Pairs = Vec<(String, String)>;

const URI_SCHEMES: [&str; 2] = ["postgresql://", "postgres://"];

/// Parses what `-d` was given: a URI, a keyword/value list, or (having neither scheme nor `=`) the
/// plain name of a database.
pub fn parse(text: &str) -> Result<Pairs> {
    if let Some(rest) = URI_SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)) {
        return parse_uri(rest);
    }
    if !text.contains('=') {
        return Ok(vec![("dbname".to_owned(), text.to_owned())]);
    }
    parse_keyword_list(text)
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
        check(&keyword, &pairs)?;
        skip_blanks(&mut rest);
        let value = if rest.next_if_eq(&'\'').is_some() {
            quoted_value(&mut rest)?
        } else {
            plain_value(&mut rest)
        };
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

/// Parses what follows the scheme: `[user[:password]@][host][:port][,...][/dbname][?name=value&...]`.
fn parse_uri(text: &str) -> Result<Pairs> {
    let (mut identity, mut pairs) = (Pairs::new(), Pairs::new());
    let mut rest = text;
    if let Some(end) = text.find(['@', '/']).filter(|end| text[*end..].starts_with('@')) {
        let (user, password) = text[..end].split_once(':').unwrap_or((&text[..end], ""));
        identity.push(("user".to_owned(), percent_decoded(user)?));
        identity.push(("password".to_owned(), percent_decoded(password)?));
        rest = &text[end + 1..];
    }

    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    loop {
        let (host, port, behind) = parse_uri_host(rest)?;
        check_uri_host(host, port, behind)?;
        hosts.push(percent_decoded(host)?);
        ports.push(percent_decoded(port)?);
        match behind.strip_prefix(',') {
            Some(next) => rest = next,
            None => {
                rest = behind;
                break;
            }
        }
    }
    pairs.push(("host".to_owned(), hosts.join(",")));
    pairs.push(("port".to_owned(), ports.join(",")));

    if let Some(path) = rest.strip_prefix('/') {
        let end = path.find('?').unwrap_or(path.len());
        pairs.push(("dbname".to_owned(), percent_decoded(&path[..end])?));
        rest = &path[end..];
    }
    if let Some(parameters) = rest.strip_prefix('?').filter(|text| !text.is_empty()) {
        for parameter in parameters.split('&') {
            pairs.push(parse_uri_parameter(parameter, &pairs)?);
        }
    }
    identity.append(&mut pairs);
    Ok(identity)
}

/// Splits off one host with its port: host, port (both still encoded), what follows.
fn parse_uri_host(text: &str) -> Result<(&str, &str, &str)> {
    let (host, behind) = if let Some(inner) = text.strip_prefix('[') {
        let (host, behind) = inner.split_once(']').ok_or_else(|| {
            Error::usage("end of string reached when looking for matching \"]\" in IPv6 host address in URI")
        })?;
        if host.is_empty() {
            return Err(Error::usage("IPv6 host address may not be empty in URI"));
        }
        if let Some(c) = behind.chars().next().filter(|c| !":/?,".contains(*c)) {
            return Err(Error::usage(format!(
                "unexpected character \"{c}\" behind the IPv6 host address in URI (expected \":\" or \"/\")"
            )));
        }
        (host, behind)
    } else {
        text.split_at(text.find([':', '/', '?', ',']).unwrap_or(text.len()))
    };
    let Some(port) = behind.strip_prefix(':') else {
        return Ok((host, "", behind));
    };
    let (port, behind) = port.split_at(port.find(['/', '?', ',']).unwrap_or(port.len()));
    Ok((host, port, behind))
}

/// What looks like a host may be the end of a password that was not encoded: it is not repeated.
fn check_uri_host(host: &str, port: &str, behind: &str) -> Result<()> {
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    if host.contains('@') || (!is_number && behind.contains('@')) {
        return Err(Error::usage("unexpected \"@\" in host or port of URI")
            .with_hint("In a password, \"@\" is written %40 and \"/\" %2F."));
    }
    Ok(())
}

fn parse_uri_parameter(text: &str, before: &[(String, String)]) -> Result<(String, String)> {
    let (keyword, value) = text.split_once('=').ok_or_else(|| {
        let text = shown(text, before);
        let message = format!("missing key/value separator \"=\" in URI query parameter: \"{text}\"");
        usage_behind(before, message)
    })?;
    if value.contains('=') {
        let keyword = shown(keyword, before);
        let message = format!("extra key/value separator \"=\" in URI query parameter: \"{keyword}\"");
        return Err(usage_behind(before, message));
    }
    let (keyword, value) = (percent_decoded(keyword)?, percent_decoded(value)?);
    // JDBC's way to say it, which libpq accepts.
    if keyword == "ssl" && value == "true" {
        return Ok(("sslmode".to_owned(), "require".to_owned()));
    }
    check(&keyword, before)?;
    Ok((keyword, value))
}

/// Strict, unlike what most crates do: a lone `%`, a NUL and invalid UTF-8 are errors.
fn percent_decoded(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |at: usize| (*behind.get(at)? as char).to_digit(16);
        match digit(0).zip(digit(1)).map(|(high, low)| (high * 16 + low) as u8) {
            None => return Err(Error::usage("invalid percent-encoded token in URI")),
            Some(0) => {
                return Err(Error::usage(
                    "forbidden value %00 in percent-encoded value in URI",
                ));
            }
            Some(decoded) => bytes.push(decoded),
        }
        rest = &behind[2..];
    }
    String::from_utf8(bytes).map_err(|_| Error::usage("percent-encoded value in URI is not valid UTF-8"))
}

/// Whether a value is not to be shown.
fn has_secret(pairs: &[(String, String)]) -> bool {
    let secrets = ["password", "sslpassword", "oauth_client_secret"];
    pairs
        .iter()
        .any(|(keyword, value)| secrets.contains(&keyword.as_str()) && !value.is_empty())
}

/// A piece of the text for a message; behind a password that was not written as it should be it may be a part of that.
fn shown<'a>(piece: &'a str, before: &[(String, String)]) -> &'a str {
    if has_secret(before) { "..." } else { piece }
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
    if keyword.contains('@') {
        // It may hold a password, too.
        let error = Error::usage(settings::unknown("..."));
        return Err(error.with_hint("A URI begins with \"postgresql://\"."));
    }
    let keyword = shown(keyword, before);
    Err(usage_behind(before, settings::unknown(keyword)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> String {
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
            ("", "dbname="),
            ("mydb", "dbname=mydb"),
            ("host=a port=1", "host=a|port=1"),
            (" host = a\tport =1\n", "host=a|port=1"),
            ("host=a host=b", "host=a|host=b"),
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
            let expected = if expected == "dbname=" { "" } else { expected };
            assert_eq!(given(text), expected, "{text:?}");
        }
    }

    #[test]
    fn uris_are_read_as_libpq_reads_them() {
        for (text, expected) in [
            ("postgresql://", ""),
            ("postgres://h", "host=h"),
            (
                "postgresql://u:p@h:1/d?application_name=x&sslmode=disable",
                "user=u|password=p|host=h|port=1|dbname=d|application_name=x|sslmode=disable",
            ),
            ("postgresql://u%40x:p%3Aq@/d", "user=u@x|password=p:q|dbname=d"),
            ("postgresql://%2Ftmp%2Fs:5433/", "host=/tmp/s|port=5433"),
            ("postgresql:///?host=/tmp&port=2", "host=/tmp|port=2"),
            (
                "postgresql://[::1]:1,[fe80::1],c:3/d",
                "host=::1,fe80::1,c|port=1,,3|dbname=d",
            ),
            (
                "postgresql://a,b:2?connect_timeout=3",
                "host=a,b|port=,2|connect_timeout=3",
            ),
            ("postgresql://h?ssl=true", "host=h|sslmode=require"),
            ("postgresql://h/a@b", "host=h|dbname=a@b"),
            (
                "postgresql://[::1",
                "error: end of string reached when looking for matching \"]\" in IPv6 host address in URI",
            ),
            (
                "postgresql://[]/",
                "error: IPv6 host address may not be empty in URI",
            ),
            (
                "postgresql://[::1]x",
                "error: unexpected character \"x\" behind the IPv6 host address in URI (expected \":\" or \"/\")",
            ),
            (
                "postgresql://h?x",
                "error: missing key/value separator \"=\" in URI query parameter: \"x\"",
            ),
            (
                "postgresql://h?x=a=b",
                "error: extra key/value separator \"=\" in URI query parameter: \"x\"",
            ),
            ("postgresql://h%zz", "error: invalid percent-encoded token in URI"),
            ("postgresql://h%4", "error: invalid percent-encoded token in URI"),
            (
                "postgresql://h%00",
                "error: forbidden value %00 in percent-encoded value in URI",
            ),
            (
                "postgresql://%FF",
                "error: percent-encoded value in URI is not valid UTF-8",
            ),
        ] {
            assert_eq!(given(text), expected, "{text:?}");
        }
    }

    #[test]
    fn no_message_about_a_uri_shows_its_password() {
        for text in [
            "postgresql://u:secret@[::1",
            "postgresql://u:secret%@h",
            "postgres://u:secret@[]",
            "postgresql://u:my/secret@h",
            "postgresql://u:secret/my@h",
            "postgresql://u:my@secret@h",
            "postgresql://h?password=my&secret",
            "postgresql://h?password=my&secret=1",
            "postgresql://h?password=my&a=secret=1",
        ] {
            let error = parse(text).unwrap_err();
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
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
    }
}
