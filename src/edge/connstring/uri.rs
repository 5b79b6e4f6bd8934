//! Connection strings that are URIs. What a message may show of one is decided here, too: a password that was not encoded
//! may lie anywhere in it.

use super::{Pairs, shown, usage_behind};
use crate::edge::settings;
use crate::error::{Error, Result, printable};

/// What to do about a URI that seems to have a password in the wrong places.
const ENCODE: &str = "In a password, \"@\" is written %40, \"/\" %2F and \"?\" %3F.";

const SCHEMES: [&str; 2] = ["postgresql://", "postgres://"];

/// Everything that a URI gives, in the order given; `None` for a text that is none.
pub(super) fn parse(text: &str) -> Option<Result<Pairs>> {
    let behind = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme))?;
    Some(parse_behind_scheme(behind, Uri::new(text)))
}

/// A URI, for messages about it.
#[derive(Clone, Copy)]
struct Uri<'a> {
    text: &'a str,
    /// Whether nothing in it can be a secret.
    is_public: bool,
}

impl<'a> Uri<'a> {
    fn new(text: &'a str) -> Uri<'a> {
        let plain = String::from_utf8_lossy(&leniently_decoded(text)).into_owned();
        // A password that was not encoded may end anywhere, but there is an "@" behind it.
        let signs = ["@", "password", "secret", "scram_"];
        Uri {
            text,
            is_public: !signs.iter().any(|sign| plain.contains(sign)),
        }
    }

    /// The piece that a message ends with, if it may be shown.
    fn quoted(self, piece: &str) -> String {
        match self.is_public {
            true => format!(": \"{}\"", printable(piece)),
            false => String::new(),
        }
    }

    /// An error in the URI as a whole.
    fn error(self, message: &str) -> Error {
        Error::usage(format!("{message}{}", self.quoted(self.text)))
    }

    /// Decodes a piece of the URI strictly, unlike what most crates do: a lone `%`, a NUL, spaces within and invalid
    /// UTF-8 are errors. Spaces around it are not a part of it, as since PostgreSQL 18.
    fn decoded(self, piece: &str) -> Result<String> {
        let begun = piece.trim_start_matches(' ');
        let (word, behind) = begun.split_at(begun.find(' ').unwrap_or(begun.len()));
        let mut bytes = Vec::with_capacity(word.len());
        let mut rest = word.as_bytes();
        while let Some((&byte, next)) = rest.split_first() {
            rest = next;
            if byte != b'%' {
                bytes.push(byte);
                continue;
            }
            let message = match percent_encoded(next) {
                None => "invalid percent-encoded token",
                Some(0) => "forbidden value %00 in percent-encoded value",
                Some(decoded) => {
                    bytes.push(decoded);
                    rest = &next[2..];
                    continue;
                }
            };
            return Err(Error::usage(format!("{message}{}", self.quoted(piece))));
        }
        if !behind.trim_start_matches(' ').is_empty() {
            let shown = if self.is_public {
                printable(piece)
            } else {
                "...".to_owned()
            };
            return Err(Error::usage(format!(
                "unexpected spaces found in \"{shown}\", use percent-encoded spaces (%20) instead"
            )));
        }
        String::from_utf8(bytes).map_err(|_| Error::usage("percent-encoded value in URI is not valid UTF-8"))
    }
}

/// The byte that two hexadecimal digits at the beginning of `text` stand for.
fn percent_encoded(text: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*text.get(at)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

/// With what is no token left as it is.
fn leniently_decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let token = (byte == b'%').then(|| percent_encoded(behind)).flatten();
        bytes.push(token.unwrap_or(byte));
        rest = if token.is_some() { &behind[2..] } else { behind };
    }
    bytes
}

/// Parses what follows the scheme: `[user[:password]@][host][:port][,...][/dbname][?name=value&...]`.
fn parse_behind_scheme(text: &str, uri: Uri<'_>) -> Result<Pairs> {
    let (mut identity, mut pairs) = (Pairs::new(), Pairs::new());
    // What is empty here says nothing, not even in place of something earlier.
    let add = |pairs: &mut Pairs, keyword: &str, value: &str| -> Result<()> {
        if !value.is_empty() {
            pairs.push((keyword.to_owned(), uri.decoded(value)?));
        }
        Ok(())
    };
    let mut rest = text;
    if let Some(end) = text.find(['@', '/']).filter(|end| text[*end..].starts_with('@')) {
        let (user, password) = text[..end].split_once(':').unwrap_or((&text[..end], ""));
        add(&mut identity, "user", user)?;
        add(&mut identity, "password", password)?;
        rest = &text[end + 1..];
    }

    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    loop {
        let (host, port, behind) = host_and_port(rest, uri)?;
        check_host(host, port, behind)?;
        hosts.push(host);
        ports.push(port);
        match behind.strip_prefix(',') {
            Some(next) => rest = next,
            None => {
                rest = behind;
                break;
            }
        }
    }
    add(&mut pairs, "host", &hosts.join(","))?;
    add(&mut pairs, "port", &ports.join(","))?;

    if let Some(path) = rest.strip_prefix('/') {
        let end = path.find('?').unwrap_or(path.len());
        add(&mut pairs, "dbname", &path[..end])?;
        rest = &path[end..];
    }
    let parameters = Parameters {
        text: rest.strip_prefix('?').unwrap_or(""),
        // Behind an "@" that was not encoded is a host, and before it the rest of a password; so is what is behind it
        // where the parameters have begun before.
        may_be_password: rest.contains('@') || text[..text.len() - rest.len()].contains('?'),
    };
    parse_parameters(parameters, uri, &mut pairs)?;
    identity.append(&mut pairs);
    Ok(identity)
}

/// Splits off one host with its port: host, port (both still encoded), what follows.
fn host_and_port<'a>(text: &'a str, uri: Uri<'_>) -> Result<(&'a str, &'a str, &'a str)> {
    let (host, behind) = if let Some(inner) = text.strip_prefix('[') {
        let (host, behind) = inner.split_once(']').ok_or_else(|| {
            uri.error("end of string reached when looking for matching \"]\" in IPv6 host address in URI")
        })?;
        if host.is_empty() {
            return Err(uri.error("IPv6 host address may not be empty in URI"));
        }
        if let Some(c) = behind.chars().next().filter(|c| !":/?,".contains(*c)) {
            let position = uri.text.len() - behind.len() + 1;
            return Err(uri.error(&format!(
                "unexpected character \"{}\" at position {position} in URI (expected \":\" or \"/\")",
                printable(c.encode_utf8(&mut [0; 4]))
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
fn check_host(host: &str, port: &str, behind: &str) -> Result<()> {
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    if host.contains('@') || (!is_number && behind.contains('@')) {
        return Err(Error::usage("unexpected \"@\" in host or port of URI").with_hint(ENCODE));
    }
    Ok(())
}

/// What follows the "?" of a URI.
struct Parameters<'a> {
    text: &'a str,
    may_be_password: bool,
}

/// Parses `name=value&...` and adds it to `pairs`.
fn parse_parameters(parameters: Parameters<'_>, uri: Uri<'_>, pairs: &mut Pairs) -> Result<()> {
    let mut rest = parameters.text;
    while !rest.is_empty() {
        let (parameter, behind) = rest.split_once('&').unwrap_or((rest, ""));
        rest = behind;
        let pair = parse_parameter(parameter, uri, |message, piece| {
            if parameters.may_be_password {
                return Error::usage(format!("{message}: \"...\"")).with_hint(ENCODE);
            }
            usage_behind(pairs, format!("{message}: \"{}\"", shown(piece, pairs)))
        })?;
        pairs.push(pair);
    }
    Ok(())
}

/// Parses one parameter; `wrong` makes an error of a message and the piece it is about.
fn parse_parameter(
    text: &str,
    uri: Uri<'_>,
    wrong: impl Fn(&str, &str) -> Error,
) -> Result<(String, String)> {
    let (keyword, value) = text
        .split_once('=')
        .ok_or_else(|| wrong("missing key/value separator \"=\" in URI query parameter", text))?;
    if value.contains('=') {
        return Err(wrong(
            "extra key/value separator \"=\" in URI query parameter",
            keyword,
        ));
    }
    let (keyword, value) = (uri.decoded(keyword)?, uri.decoded(value)?);
    // JDBC's way to say it, which libpq accepts.
    if keyword == "ssl" && value == "true" {
        return Ok(("sslmode".to_owned(), "require".to_owned()));
    }
    if !settings::is_known(&keyword) {
        return Err(wrong("invalid URI query parameter", &keyword));
    }
    Ok((keyword, value))
}

#[cfg(test)]
mod tests {
    use crate::edge::connstring::parse;
    use crate::edge::connstring::tests::given;

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
                "error: end of string reached when looking for matching \"]\" in IPv6 host address in URI: \"postgresql://[::1\"",
            ),
            (
                "postgresql://[]/",
                "error: IPv6 host address may not be empty in URI: \"postgresql://[]/\"",
            ),
            (
                "postgresql://[::1]x",
                "error: unexpected character \"x\" at position 19 in URI (expected \":\" or \"/\"): \"postgresql://[::1]x\"",
            ),
            (
                "postgresql://h?x",
                "error: missing key/value separator \"=\" in URI query parameter: \"x\"",
            ),
            (
                "postgresql://h?x=a=b",
                "error: extra key/value separator \"=\" in URI query parameter: \"x\"",
            ),
            ("postgresql://h?a=b", "error: invalid URI query parameter: \"a\""),
            ("postgresql://h?port=1&", "host=h|port=1"),
            (
                "postgresql://h%zz",
                "error: invalid percent-encoded token: \"h%zz\"",
            ),
            ("postgresql://u@h%4", "error: invalid percent-encoded token"),
            (
                "postgresql://h%00",
                "error: forbidden value %00 in percent-encoded value: \"h%00\"",
            ),
            (
                "postgresql://h/a b",
                "error: unexpected spaces found in \"a b\", use percent-encoded spaces (%20) instead",
            ),
            ("postgresql:// h /d", "host=h|dbname=d"),
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
            "postgresql://h?p%61ssword=secret%",
            "postgresql://h?password=my secret",
            "postgresql://u:my/secret%zz@h",
            "postgresql://u:my/?secret@h",
            "postgresql://u:my/?my&secret&my@h",
            "postgresql://h?password=my@my?secret",
        ] {
            let error = parse(text).unwrap_err();
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }
}
