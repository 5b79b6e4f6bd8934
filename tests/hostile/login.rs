//! What a server says while it lets a client in, and what is said of a server.

use super::*;

use common::wait::until;
use rustix::process::{Pid, Signal};

/// The client's first message is answered with this.
fn greeted(greeting: Vec<u8>) -> Meeting {
    meet(source(), &[IMPATIENT], move |session| {
        session.startup()?;
        session.send(&greeting)?;
        session.hear_out()
    })
}

#[test]
fn greetings_that_no_server_gives_are_refused() {
    let ok = authentication(0, b"");
    let cases: [(&str, Vec<u8>); 16] = [
        ("a row", data_row(&["1"])),
        ("ready", ready()),
        ("a parameter", parameter("server_version", "15.18")),
        ("a stream", copy_both()),
        ("WAL", wal_message(at(0), at(100), wal(0, 100))),
        ("another protocol", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        (
            "another protocol's noise",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        ),
        ("an unknown request", authentication(99, b"")),
        ("a negative request", authentication(u32::MAX, b"")),
        ("a request without a code", message(b'R', b"")),
        ("a salt that is short", authentication(5, b"abc")),
        ("a request of a gigabyte", announced(b'R', 1 << 30, b"\0\0\0\x0a")),
        (
            "a key of two bytes",
            [ok.clone(), message(b'K', b"12"), ready()].concat(),
        ),
        (
            "a key of a hundred bytes",
            [ok.clone(), message(b'K', &[7; 100]), ready()].concat(),
        ),
        ("no parameters", [ok.clone(), ready()].concat()),
        (
            "another version",
            [ok, parameter("server_version", "9.0"), ready()].concat(),
        ),
    ];
    for (what, greeting) in cases {
        greeted(greeting).assert_refused(what, &["connection to server at \"127.0.0.1\", port"]);
    }
}

#[test]
fn who_greets_as_no_server_to_receive_from_is_left_for_another_attempt() {
    let ok = authentication(0, b"");
    let greetings = [
        [ok.clone(), parameter("server_version", "9.0"), ready()].concat(),
        [ok, parameter("server_version", "15.18"), ready()].concat(),
        authentication(7, b""),
        authentication(10, b"SCRAM-SHA-1\0\0"),
    ];
    let archive = Archive::new();
    let server = Walsender::start(source().identity.clone(), move |session| {
        if let Some(greeting) = greetings.get(session.number as usize - 1) {
            session.startup()?;
            session.send(greeting)?;
            return session.hear_out();
        }
        let start = session.stream()?;
        session.send_wal(start, wal(0, 10_000))?;
        session.hear_out()
    });
    let exit = receiver(&server, &archive, &["--endpos", &Lsn(at(500)).to_string()]).finish();
    exit.assert_success();
    assert_eq!(server.connections(), 5, "{exit:#?}");
}

#[test]
fn talk_about_protocol_versions_is_passed_over_however_odd() {
    for body in [
        &b""[..],
        b"\0\0\0\0",
        b"\0\x03\0\0\0\0\0\0",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        &[b'_'; 20_000],
    ] {
        let body = body.to_vec();
        let meeting = meet(
            source(),
            &["--endpos", &Lsn(at(500)).to_string()],
            move |session| {
                session.startup()?;
                session.send(&[message(b'v', &body), authentication(0, b"")].concat())?;
                session.welcome()?;
                let start = session.stream_saying(|_| None)?;
                session.send_wal(start, wal(0, 10_000))?;
                session.hear_out()
            },
        );
        meeting.assert_content("version talk");
    }
}

#[test]
fn a_plain_password_goes_to_who_asks_unless_that_is_forbidden() {
    let script = |session: &mut Session| {
        session.startup()?;
        session.send(&authentication(3, b""))?;
        let (tag, password) = session.hear()?;
        assert_eq!((tag, &password[..]), (b'p', &b"secret\0"[..]));
        session.send(&authentication(0, b""))?;
        session.welcome()?;
        let start = session.stream_saying(|_| None)?;
        session.send_wal(start, wal(0, 10_000))?;
        session.hear_out()
    };
    let end = Lsn(at(500)).to_string();
    meet(source(), &["-d", "password=secret", "--endpos", &end], script)
        .assert_content("asked for a password");
    let forbidden = meet(
        source(),
        &["-d", "password=secret require_auth=scram-sha-256"],
        script,
    );
    forbidden.assert_refused("asked for a password", &["server requested a cleartext password"]);
}

/// The server asks for SCRAM and answers the client's first message by this, made from the client's nonce.
fn challenged(challenge: impl Fn(&str) -> String + Send + Sync + 'static) -> Meeting {
    meet(source(), &["-d", "password=secret"], move |session| {
        session.startup()?;
        session.send(&authentication(10, b"SCRAM-SHA-256\0\0"))?;
        let (_, first) = session.hear()?;
        let first = String::from_utf8_lossy(&first).into_owned();
        let nonce = first.rsplit("r=").next().unwrap_or_default();
        session.send(&authentication(11, challenge(nonce).as_bytes()))?;
        session.hear()?;
        session.send(&authentication(
            12,
            b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        ))?;
        session.send(&authentication(0, b""))?;
        session.welcome()?;
        session.hear_out()
    })
}

#[test]
fn a_proof_that_is_none_is_refused() {
    let cases: [(&str, &str); 11] = [
        ("the right form", "r=NONCEx,s=c2FsdA==,i=4096"),
        ("four billion rounds", "r=NONCEx,s=c2FsdA==,i=4294967295"),
        ("no rounds", "r=NONCEx,s=c2FsdA==,i=0"),
        ("negative rounds", "r=NONCEx,s=c2FsdA==,i=-1"),
        (
            "more rounds than there are numbers",
            "r=NONCEx,s=c2FsdA==,i=99999999999",
        ),
        ("no salt", "r=NONCEx,s=,i=4096"),
        ("a salt that is none", "r=NONCEx,s=???,i=4096"),
        ("another nonce", "r=other,s=c2FsdA==,i=4096"),
        ("no nonce", "r=,s=c2FsdA==,i=4096"),
        ("nothing", ""),
        ("an escape", "r=NONCEx,\u{1b}[2J=,i=4096"),
    ];
    for (what, challenge) in cases {
        let meeting = challenged(move |nonce| challenge.replace("NONCE", nonce));
        meeting.assert_refused(what, &["connection to server at"]);
    }
}

/// The server asks for so many rounds that they take minutes, and is not to be waited for.
fn demanding() -> Walsender {
    Walsender::start(source().identity.clone(), |session| {
        session.startup()?;
        session.send(&authentication(10, b"SCRAM-SHA-256\0\0"))?;
        let (_, first) = session.hear()?;
        let first = String::from_utf8_lossy(&first).into_owned();
        let nonce = first.rsplit("r=").next().unwrap_or_default();
        let challenge = format!("r={nonce}x,s=c2FsdA==,i=2147483647");
        session.send(&authentication(11, challenge.as_bytes()))?;
        session.hear_out()
    })
}

#[test]
fn more_work_than_there_is_time_for_is_given_up_like_silence() {
    for limits in [
        &["-d", "password=secret", IMPATIENT][..],
        &["-d", "password=secret connect_timeout=2"],
    ] {
        let (server, archive) = (demanding(), Archive::new());
        let exit = receiver(&server, &archive, &[&["-n"], limits].concat()).finish();
        assert!(exit.has_line_with(&["error: ", "timeout expired"]), "{exit:#?}");
    }
}

#[test]
fn a_signal_ends_the_work_that_a_server_asks_for() {
    for signal in [Signal::INT, Signal::TERM] {
        let (server, archive) = (demanding(), Archive::new());
        let receiver = receiver(&server, &archive, &["-d", "password=secret connect_timeout=0"]);
        until("it works", || (server.connections() == 1).then_some(()));
        let used = || cpu_ticks(receiver.pid());
        let before = used();
        until("it goes on working", || (used() > before + 20).then_some(()));
        receiver.end_by(signal).assert_success();
    }
}

/// The processor's time that a process has used, in hundredths of a second.
fn cpu_ticks(pid: Pid) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    let stat = stat.expect("read what a process uses");
    let fields = stat.rsplit(')').next().unwrap_or_default();
    fields
        .split_whitespace()
        .nth(11)
        .and_then(|ticks| ticks.parse().ok())
        .expect("a number")
}

// ---- what is said of it ----

#[test]
fn what_a_server_says_cannot_forge_a_line_or_steer_a_terminal() {
    let evil = "x\nwalring: error: all is well\r\x1b[2J\x1b]0;title\x07\u{9b}31m\u{202e}\0";
    let honest = &source().identity;
    let identity: [&str; 3] = [evil, "1", &honest.flushed];
    let startup_error = greeted(error("FATAL", "28000", evil));
    let meetings = [
        ("an error at the beginning", startup_error),
        (
            "an error in answer",
            answered("SHOW", [error(evil, "\x1b[2J", evil), ready()].concat()),
        ),
        ("an error in the stream", streamed(error("ERROR", "XX000", evil))),
        ("a value", answered("IDENTIFY_SYSTEM", rows(&[&identity]))),
        ("a size", answered("SHOW wal_segment_size", rows(&[&[evil]]))),
        ("a mode", answered("SHOW data_directory_mode", rows(&[&[evil]]))),
        ("mechanisms", greeted(authentication(10, b"\x1b[2J\nX\0\0"))),
        ("a tag", greeted(announced(0x1b, 1 << 30, b""))),
        (
            "a version",
            greeted([authentication(0, b""), parameter("server_version", evil), ready()].concat()),
        ),
        (
            "a notice",
            streamed(
                [
                    notice("WARNING", evil),
                    notice(evil, evil),
                    error("ERROR", "XX000", "end"),
                ]
                .concat(),
            ),
        ),
    ];
    for (what, meeting) in meetings {
        meeting.assert_refused(what, &[]);
        let forged =
            |line: &String| line.starts_with("walring: error: all is well") || line.contains('\u{202e}');
        assert!(
            !meeting.exit.stderr.iter().any(forged),
            "{what}: {:#?}",
            meeting.exit
        );
    }
}

#[test]
fn an_error_that_is_no_text_is_still_an_error() {
    for body in [
        &b""[..],
        b"\0",
        b"SERROR",
        b"MSG\0",
        b"SFATAL\0M\xff\xfe\xc3\0\0",
        b"M",
        &[0xff; 1000],
        &[b'M'; 60_000],
    ] {
        streamed(message(b'E', body)).assert_refused("in the stream", &["unexpected termination", ":  "]);
        answered("IDENTIFY", [message(b'E', body), ready()].concat()).assert_refused("in answer", &[]);
    }
}
