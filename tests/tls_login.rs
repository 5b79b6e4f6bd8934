//! A server that TLS itself has nothing against asks for more than it should be told, or for less: what is answered is
//! what libpq answers, and what is forbidden is not.
mod common;

use std::io;
use std::sync::{Arc, Mutex};

use common::Walsender;
use common::attempt::{Attempt, Client};
use common::terminator::{Manner, terminate};
use common::walsender::{Identity, Session, authentication, error, parameter, ready};
use common::words::said;

/// What came of an attempt.
#[derive(Debug, PartialEq, Eq)]
struct Login {
    connected: bool,
    said: Vec<String>,
    /// What was answered; of a proof only the beginning, since the rest is chance.
    answers: Vec<String>,
}

/// The client meets a server that says this after the startup message, through TLS with this certificate or without TLS,
/// and turns it away once it has answered.
fn log_in(client: &Client, settings: &str, tls: Option<&'static str>, question: &[u8]) -> Login {
    let answers = Arc::new(Mutex::new(Vec::new()));
    let (heard, question) = (Arc::clone(&answers), question.to_vec());
    let script = move |session: &mut Session| -> io::Result<()> {
        session.startup()?;
        session.send(&question)?;
        loop {
            let (tag, body) = session.hear()?;
            if tag == b'Q' {
                // It believes that it is in; that is all there is to know.
                heard.lock().expect("answers").push("a command".to_owned());
                return Ok(());
            }
            let text = String::from_utf8_lossy(&body).into_owned();
            let text = text.split("r=").next().unwrap_or_default().replace('\0', " ");
            heard
                .lock()
                .expect("answers")
                .push(format!("{}{text}", char::from(tag)));
            session.send(&refusal())?;
        }
    };
    let identity = Identity {
        system_identifier: "1".to_owned(),
        timeline: "1".to_owned(),
        flushed: "0/0".to_owned(),
        segment_size: "1MB".to_owned(),
    };
    let plain = Walsender::start(identity, script).port();
    let (port, mode) = match tls {
        Some(certificate) => {
            let manner = Manner {
                certificate,
                ..Manner::default()
            };
            (terminate(plain, manner), "require")
        }
        None => (plain, "disable"),
    };
    let attempt = Attempt::with(format!(
        "user=walring password=unspeakable sslmode={mode} connect_timeout=2 {settings}"
    ));
    let exit = client.meet(port, &attempt);
    let said = said(&exit.stderr).into_iter();
    let answers = answers.lock().expect("answers").clone();
    Login {
        connected: exit.code == Some(0),
        said: said.map(|line| line.replace(&port.to_string(), "PORT")).collect(),
        answers,
    }
}

/// The end of an attempt, in the words of a server.
fn refusal() -> Vec<u8> {
    error(
        "FATAL",
        "28P01",
        "password authentication failed for user \"walring\"",
    )
}

/// What a server may ask for.
fn questions() -> Vec<(&'static str, Vec<u8>)> {
    let scram = |mechanisms: &[u8]| authentication(10, mechanisms);
    let version = parameter("server_version", "15.18");
    let welcome = [
        authentication(0, b""),
        version,
        parameter("integer_datetimes", "on"),
        ready(),
    ]
    .concat();
    vec![
        ("nothing", welcome),
        ("the password", authentication(3, b"")),
        ("the password hashed", authentication(5, b"salt")),
        ("a proof", scram(b"SCRAM-SHA-256\0\0")),
        ("a bound proof", scram(b"SCRAM-SHA-256-PLUS\0\0")),
        ("either proof", scram(b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")),
        (
            "either proof, the other way round",
            scram(b"SCRAM-SHA-256\0SCRAM-SHA-256-PLUS\0\0"),
        ),
        ("another proof", scram(b"SCRAM-SHA-1\0\0")),
        ("no proof", scram(b"\0")),
        ("the end of a proof", authentication(12, b"v=AAAA")),
        (
            "the middle of a proof",
            authentication(11, b"r=x,s=c2FsdA==,i=4096"),
        ),
    ]
}

/// Questions that a server of PostgreSQL asks, before it lets somebody in.
const HONEST: [&str; 5] = [
    "the password",
    "the password hashed",
    "a proof",
    "either proof",
    "either proof, the other way round",
];

/// With TLS and without.
const WAYS: [Option<&str>; 2] = [Some("server-localhost"), None];

/// libpq and walring answer the same to every question.
fn compare(settings: &str) {
    let mut differences = Vec::new();
    for tls in WAYS {
        for (what, question) in questions() {
            let theirs = log_in(&Client::newest_libpq(), settings, tls, &question);
            let ours = log_in(&Client::Walring, settings, tls, &question);
            // Of what no server asks for walring says more, or that it was not to be expected.
            let is_honest = HONEST.contains(&what);
            let same_words = !is_honest || theirs.said == ours.said;
            if theirs.connected != ours.connected || theirs.answers != ours.answers || !same_words {
                differences.push(format!(
                    "{what}, TLS {tls:?}\n  libpq:   {theirs:?}\n  walring: {ours:?}"
                ));
            }
        }
    }
    assert!(
        differences.is_empty(),
        "with {settings}:\n{}",
        differences.join("\n")
    );
}

#[test]
fn whatever_is_asked_is_answered_as_libpq_answers() {
    compare("");
}

#[test]
fn a_channel_that_has_to_be_bound_is() {
    compare("channel_binding=require");
}

#[test]
fn a_channel_that_may_not_be_bound_is_not() {
    compare("channel_binding=disable");
}

#[test]
fn what_is_required_is_required() {
    if !Client::newest_libpq().is_new() {
        return;
    }
    compare("require_auth=scram-sha-256");
    compare("require_auth=!password,!md5,!none");
    compare("require_auth=scram-sha-256 channel_binding=require");
}

#[test]
fn who_asks_for_too_little_or_too_much_is_told_nothing() {
    for settings in ["channel_binding=require", "require_auth=scram-sha-256"] {
        for tls in WAYS {
            for (what, question) in &questions()[..3] {
                let login = log_in(&Client::Walring, settings, tls, question);
                assert!(!login.connected, "{what}: {login:?}");
                let told = |answer: &String| answer.starts_with('p');
                assert!(!login.answers.iter().any(told), "{what}: {login:?}");
            }
        }
    }
}

#[test]
fn without_a_hash_to_bind_to_nobody_can_take_the_offer_away_unnoticed() {
    // Ed25519 names none: whoever shows such a certificate in the server's place would have a proof without a channel.
    let tls = Some("server-self-ed25519");
    let root = common::certificates::file("server-self-ed25519.crt");
    let verified = format!("sslmode=verify-full sslrootcert={root}");
    let questions = questions();
    let question = |what| {
        &questions
            .iter()
            .find(|(it, _)| *it == what)
            .expect("a question")
            .1
    };
    // What was not offered may have been taken away: the server hears that we know how to bind.
    for settings in ["", &verified, "channel_binding=disable"] {
        let theirs = log_in(&Client::Libpq(None), settings, tls, question("a proof"));
        let ours = log_in(&Client::Walring, settings, tls, question("a proof"));
        assert_eq!(ours.answers, theirs.answers, "{settings}");
    }
    // libpq begins and then fails. A server that is known may do without.
    let required = format!("{verified} channel_binding=require");
    for settings in ["", "channel_binding=require", &required] {
        let ours = log_in(&Client::Walring, settings, tls, question("either proof"));
        let reason = "could not determine server certificate signature algorithm";
        assert!(ours.answers.is_empty(), "{settings}: {ours:?}");
        assert!(
            ours.said.iter().any(|line| line.contains(reason)),
            "{settings}: {ours:?}"
        );
    }
    let ours = log_in(&Client::Walring, &verified, tls, question("either proof"));
    assert_eq!(ours.answers.len(), 1, "{ours:?}");
    assert!(ours.answers[0].contains("n,,"), "{ours:?}");
}
