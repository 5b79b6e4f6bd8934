//! Connection strings mean what they mean to libpq: libpq itself is asked, with strings that chance makes.
//!
//! `SEED=n` makes others, `COUNT=n` more of them.

mod common;
#[path = "model/connection_string.rs"]
mod connection_string;

use std::collections::BTreeMap;

use common::libpq::Libpq;
use fastrand::Rng;
use walring::edge::connstring;
use walring::edge::settings;
use walring::error::printable;

const COUNT: u64 = 3_000;

#[test]
fn a_list_of_keywords_means_what_it_means_to_libpq() {
    compare(|rng, keywords| {
        let text = keyword_list(rng, keywords);
        mutated(text, " ='\\\t", rng)
    });
}

#[test]
fn a_uri_means_what_it_means_to_libpq() {
    compare(|rng, keywords| {
        let text = uri(rng, keywords);
        mutated(text, "%@:/?&=[],", rng)
    });
}

#[test]
fn any_characters_are_refused_or_read_and_nothing_is_said_of_a_password() {
    let alphabet: Vec<char> = " \t\n'\\=%@:/?&[],.-_+#\u{0}\u{7f}é\u{2028}\u{10ffff}aAfF0129zZ"
        .chars()
        .collect();
    for seed in seeds(50_000) {
        let mut rng = Rng::with_seed(seed);
        let begin = ["", "postgresql://", "postgres://", "host=", "host=h password='"][rng.usize(0..5)];
        let length = rng.usize(0..40);
        let text = (0..length).map(|_| alphabet[rng.usize(0..alphabet.len())]);
        let text = begin.chars().chain(text).collect::<String>();
        let tried = std::panic::catch_unwind(|| connection_string::try_any_text(&text));
        assert!(tried.is_ok(), "SEED={seed}: {text:?}");
    }
}

/// As many seeds as are wanted, or the first of them.
fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let first = number("SEED").unwrap_or(0);
    first..first + number("COUNT").unwrap_or(count)
}

fn compare(make: impl Fn(&mut Rng, &[&str]) -> String) {
    for mut libpq in Libpq::all() {
        let keywords: Vec<String> = libpq.keywords().into_iter().map(str::to_owned).collect();
        let keywords: Vec<&str> = keywords.iter().map(String::as_str).collect();
        let (mut accepted, mut refused) = (0, 0);
        for seed in seeds(COUNT) {
            let text = make(&mut Rng::with_seed(seed), &keywords);
            if libpq.version() < 180_000 && text.contains("://") && text.contains(' ') {
                // Spaces in a URI are read as PostgreSQL 18 does.
                continue;
            }
            let theirs = libpq.parse(&text);
            let ours = connstring::parse(&text).map_err(|error| error.to_string());
            let verdict = agree(&text, ours.map(|pairs| pairs.into_iter().collect()), &theirs);
            if let Err(reason) = verdict {
                panic!("SEED={seed}, libpq {}: {text:?}\n{reason}", libpq.version());
            }
            *(if theirs.is_ok() {
                &mut accepted
            } else {
                &mut refused
            }) += 1;
        }
        // Otherwise nothing was compared that matters.
        assert!(
            accepted > refused / 4 && refused > accepted / 4,
            "{accepted} {refused}"
        );
    }
}

type Parsed = Result<BTreeMap<String, String>, String>;

/// Where walring says something else than libpq, it is for one of the reasons here.
fn agree(text: &str, ours: Parsed, theirs: &Parsed) -> Result<(), String> {
    match (&ours, theirs) {
        (Ok(ours), Ok(theirs)) if ours == theirs => return Ok(()),
        (Err(ours), Err(theirs)) if says_the_same(text, ours, theirs) => return Ok(()),
        // A host with an "@" is the rest of a password that was not encoded. It is not looked up in the DNS.
        (Err(ours), _) if ours == "unexpected \"@\" in host or port of URI" && text.contains('@') => {
            return Ok(());
        }
        // Only UTF-8 is read; libpq may find fault with something behind it.
        (Err(ours), _) if ours.ends_with("is not valid UTF-8") && text.contains('%') => return Ok(()),
        // An option of a later libpq.
        (_, Err(theirs)) if theirs.starts_with("invalid ") => {
            let keyword = theirs.split('"').nth(1).unwrap_or_default();
            if settings::is_known(keyword) {
                return Ok(());
            }
        }
        _ => (),
    }
    Err(format!("ours:   {ours:?}\nlibpq's: {theirs:?}"))
}

/// A message is libpq's, with control characters shown, and without what may be a part of a secret.
fn says_the_same(text: &str, ours: &str, theirs: &str) -> bool {
    if ours == printable(theirs) {
        return true;
    }
    // libpq shows the first byte of a character.
    if ours.starts_with("unexpected character") && !text.is_ascii() {
        return theirs.starts_with("unexpected character");
    }
    let signs = ["@", "password", "secret", "scram_", "%"];
    if !signs.iter().any(|sign| text.contains(sign)) {
        return false;
    }
    match ours.split_once("\"...\"") {
        Some((before, behind)) => {
            theirs.starts_with(&format!("{before}\"")) && theirs.ends_with(&format!("\"{behind}"))
        }
        None => theirs.starts_with(&format!("{ours}: \"")),
    }
}

// ---- strings that chance makes ----

fn one<'a>(rng: &mut Rng, of: &[&'a str]) -> &'a str {
    of[rng.usize(0..of.len())]
}

fn keyword<'a>(rng: &mut Rng, known: &[&'a str]) -> &'a str {
    match rng.u8(0..12) {
        0 => one(rng, &["requiressl", "hots", "ssl", "Host", "", "é"]),
        1..6 => one(rng, &["host", "port", "user", "password", "dbname"]),
        _ => one(rng, known),
    }
}

fn keyword_list(rng: &mut Rng, known: &[&str]) -> String {
    let mut text = String::new();
    for _ in 0..rng.usize(0..6) {
        let blank = |rng: &mut Rng| one(rng, &["", "", "", " ", "\t", " \n", "\u{b}", "\r\n"]);
        let value = match rng.u8(0..4) {
            0 => one(
                rng,
                &[
                    "''",
                    "'a b'",
                    "'it\\'s'",
                    "'\\\\'",
                    "'x\\y'",
                    "'a=b'",
                    "'\u{e9} \u{2028}'",
                ],
            ),
            _ => one(
                rng,
                &[
                    "", "1", "a", "/tmp", "a,b", "a\\ b", "\\'", "a'b", "x\\", "\u{fc}", "a\\\\", "0",
                ],
            ),
        };
        text += &[
            blank(rng),
            keyword(rng, known),
            blank(rng),
            "=",
            blank(rng),
            value,
        ]
        .concat();
        text += one(rng, &[" ", " ", " ", "  ", "\n", "\u{c}"]);
    }
    text
}

fn uri(rng: &mut Rng, known: &[&str]) -> String {
    let piece = |rng: &mut Rng| {
        let rare = [
            "%ff", "a b", "%00", "%4", "%2C", "'", "%40", " a", "\ta", "a ", "@",
        ];
        let pieces = [
            "", "a", "a.b", "u", "%41", "%2F", "%2f%3A", "%25lo", "é", "%C3%A9", "a+b", "1",
        ];
        let piece = match rng.u8(0..16) {
            0 => one(rng, &rare),
            _ => one(rng, &pieces),
        };
        piece.to_owned() + one(rng, &["", "", "x", "-1"])
    };
    let mut text = one(rng, &["postgresql://", "postgresql://", "postgres://"]).to_owned();
    match rng.u8(0..6) {
        0 => text += &format!("{}@", piece(rng)),
        1 => text += &format!("{}:{}@", piece(rng), piece(rng)),
        _ => (),
    }
    for at in 0..rng.usize(1..4) {
        text += if at > 0 { "," } else { "" };
        text += &match rng.u8(0..4) {
            0 => one(rng, &["[::1]", "[fe80::1%25lo]", "[]", "[a]x", "[::1"]).to_owned(),
            _ => piece(rng),
        };
        text += one(rng, &["", "", ":", ":1", ":5432", ":x", ":1:2"]);
    }
    if rng.u8(0..2) == 0 {
        text += &format!("/{}", piece(rng));
    }
    for at in 0..rng.usize(0..4) {
        text += if at > 0 { "&" } else { "?" };
        text += &match rng.u8(0..8) {
            0 => one(
                rng,
                &[
                    "ssl=true",
                    "ssl=false",
                    "ssl=",
                    "",
                    "a",
                    "requiressl=1",
                    "h%6fst=a",
                    "=1",
                ],
            )
            .to_owned(),
            _ => format!("{}={}", keyword(rng, known), piece(rng)),
        };
    }
    text
}

/// One time in three a few characters are changed.
fn mutated(text: String, special: &str, rng: &mut Rng) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    let special: Vec<char> = special.chars().collect();
    let changes = if rng.u8(0..3) == 0 { rng.usize(1..4) } else { 0 };
    for _ in 0..changes {
        let at = rng.usize(0..=characters.len());
        match rng.u8(0..4) {
            0 if at < characters.len() => drop(characters.remove(at)),
            1 if at < characters.len() => characters[at] = special[rng.usize(0..special.len())],
            2 => characters.truncate(at),
            _ => characters.insert(at, special[rng.usize(0..special.len())]),
        }
    }
    characters.into_iter().collect()
}
