//! A server, or somebody on the way, that means no good while TLS is agreed upon: nothing is believed, shown or told
//! that libpq would not, and what is said is what libpq says.
mod common;

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use common::at_once;
use common::attempt::{Attempt, Client};
use common::certificates::file;
use common::tls::server_with_tls;
use common::trickster::{Peer, Tricked, trick};
use common::walsender::{authentication, error, parameter, ready};

/// What nobody may be shown: it comes from before TLS.
const FORGED: &str = "visit http://evil.test for your refund";

/// A client that wants TLS first asks for it so.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Both make the attempt and meet the same script. What the hello of TLS says is each library's own affair.
fn trick_both(
    settings: &str,
    script: impl Fn(&mut Peer) -> io::Result<()> + Send + Sync + Clone + 'static,
) -> [Tricked; 2] {
    let attempt = Attempt::with(format!("user=walring password=unspeakable {settings}"));
    [Client::newest_libpq(), Client::Walring].map(|client| trick(&client, &attempt, script.clone()))
}

/// What a client has said, up to the hello of TLS.
fn openings(tricked: &Tricked) -> Vec<String> {
    tricked.heard.iter().map(|heard| opening(heard)).collect()
}

fn opening(heard: &[u8]) -> String {
    match heard.strip_prefix(&SSL_REQUEST) {
        Some([22, ..]) => "request, hello".to_owned(),
        Some(rest) => format!("request, {}", opening(rest)),
        None if heard.is_empty() => String::new(),
        None => "startup".to_owned(),
    }
}

#[track_caller]
fn assert_same(what: &str, [theirs, ours]: &[Tricked; 2]) {
    assert_eq!(
        openings(ours),
        openings(theirs),
        "{what}: what was said; {theirs:?} {ours:?}"
    );
    assert_eq!(ours.said, theirs.said, "{what}");
    assert_eq!(ours.connected, theirs.connected, "{what}");
    for tricked in [theirs, ours] {
        assert!(
            !tricked.said.concat().contains("evil.test"),
            "{what}: {tricked:?}"
        );
        let told = tricked.heard.concat();
        assert!(
            !told.windows(11).any(|window| window == b"unspeakable"),
            "{what}: the password"
        );
    }
}

fn fatal() -> Vec<u8> {
    error("FATAL", "28000", FORGED)
}

/// The end of a login without a question.
fn welcome() -> Vec<u8> {
    let version = parameter("server_version", "15.18");
    [
        authentication(0, b""),
        version,
        parameter("integer_datetimes", "on"),
        ready(),
    ]
    .concat()
}

/// Modes in which TLS is asked for first.
fn modes() -> [String; 4] {
    let root = file("root.crt");
    [
        "sslmode=prefer".to_owned(),
        "sslmode=require".to_owned(),
        format!("sslmode=verify-ca sslrootcert={root}"),
        format!("sslmode=verify-full sslrootcert={root}"),
    ]
}

/// A script that answers the first message of each connection so, and then listens.
fn answering(answer: Vec<u8>) -> impl Fn(&mut Peer) -> io::Result<()> + Send + Sync + Clone + 'static {
    move |peer| {
        peer.request()?;
        peer.send(&answer)
    }
}

/// The same, but then it hangs up.
fn leaving_behind(answer: Vec<u8>) -> impl Fn(&mut Peer) -> io::Result<()> + Send + Sync + Clone + 'static {
    move |peer| {
        peer.request()?;
        peer.send(&answer)?;
        peer.hang_up()
    }
}

/// The client is let in to TLS, says hello, and is answered so.
fn greeting(answer: Vec<u8>) -> impl Fn(&mut Peer) -> io::Result<()> + Send + Sync + Clone + 'static {
    move |peer| {
        if peer.request()? != SSL_REQUEST[4..] {
            // Without TLS nothing is to be had here.
            return peer.hang_up();
        }
        peer.send(b"S")?;
        peer.record()?;
        peer.send(&answer)?;
        peer.hang_up()
    }
}

/// Somebody on the way to this port who puts bytes of his own behind the server's answer to the request, and carries
/// everything else. Gives his port.
fn injecting(target: u16, injected: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port");
    let port = listener.local_addr().expect("a bound port").port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("accept a connection");
            let server = TcpStream::connect(("127.0.0.1", target)).expect("reach the server");
            let _ = inject(client, server, &injected);
        }
    });
    port
}

fn inject(mut client: TcpStream, mut server: TcpStream, injected: &[u8]) -> io::Result<()> {
    let (mut request, mut answer) = ([0; 8], [0]);
    client.read_exact(&mut request)?;
    server.write_all(&request)?;
    if request == SSL_REQUEST {
        server.read_exact(&mut answer)?;
        client.write_all(&[&answer, injected].concat())?;
    }
    let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
    let down = std::thread::spawn(move || {
        let _ = io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    });
    let _ = io::copy(&mut client, &mut server);
    let _ = server.shutdown(Shutdown::Both);
    down.join().expect("bytes are carried");
    Ok(())
}

#[test]
fn plain_bytes_behind_the_answer_are_not_taken_for_what_was_encrypted() {
    let server = server_with_tls();
    for mode in modes() {
        for injected in [fatal(), welcome(), b"x".to_vec()] {
            let port = injecting(server.port(), injected);
            let attempt = Attempt::with(format!("user=encrypted {mode}"));
            for client in [Client::newest_libpq(), Client::Walring] {
                let exit = client.meet(port, &attempt);
                let said = exit.stderr.concat();
                assert_eq!(exit.code, Some(1), "{mode}: {client:?}: {exit:#?}");
                assert!(
                    said.contains("received unencrypted data after SSL response"),
                    "{mode}: {client:?}: {exit:#?}"
                );
                assert!(!said.contains("evil.test"), "{mode}: {client:?}: {exit:#?}");
            }
        }
    }
    // The same way with nothing put in is open.
    let port = injecting(server.port(), Vec::new());
    let exit = Client::Walring.meet(port, &Attempt::with("user=encrypted sslmode=require"));
    exit.assert_success();
}

#[test]
fn a_server_that_answers_and_goes_on_in_plain_is_not_waited_for() {
    for mode in modes() {
        let attempt = Attempt::with(format!("user=walring password=unspeakable {mode}"));
        let ours = trick(
            &Client::Walring,
            &attempt,
            answering([&b"S"[..], &fatal()].concat()),
        );
        assert!(!ours.connected, "{ours:?}");
        assert!(
            ours.said
                .concat()
                .contains("received unencrypted data after SSL response"),
            "{ours:?}"
        );
        assert_eq!(openings(&ours), ["request, "], "{ours:?}");
    }
}

#[test]
fn an_error_from_before_tls_is_not_shown() {
    for mode in modes() {
        for answer in [
            fatal(),
            b"E".to_vec(),
            b"E\0\0\0\x04".to_vec(),
            b"EFATAL:  visit evil.test\n\0".to_vec(),
        ] {
            assert_same(&mode, &trick_both(&mode, leaving_behind(answer)));
        }
    }
}

#[test]
fn answers_that_are_none_are_refused() {
    for mode in modes() {
        for answer in [&b"X"[..], b"G", b"s", b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
            assert_same(&mode, &trick_both(&mode, answering(answer.to_vec())));
        }
        assert_same(&mode, &trick_both(&mode, leaving_behind(Vec::new())));
        // libpq says these as they are.
        for answer in [&b"\0"[..], b"\xff", b"\n", b"\x1b[2J"] {
            let attempt = Attempt::with(format!("user=walring {mode}"));
            let ours = trick(&Client::Walring, &attempt, answering(answer.to_vec()));
            let said = ours.said.concat();
            assert!(
                said.contains("received invalid response to SSL negotiation"),
                "{ours:?}"
            );
            assert!(!said.contains(char::is_control), "{ours:?}");
        }
    }
}

#[test]
fn who_will_not_be_encrypted_is_talked_to_in_plain_only_if_that_is_allowed() {
    for mode in modes() {
        let script = |peer: &mut Peer| {
            peer.request()?;
            peer.send(b"N")?;
            peer.request()?;
            peer.send(&error("FATAL", "28000", "no"))
        };
        let both = trick_both(&mode, script);
        assert_same(&mode, &both);
        let plain = openings(&both[1])
            .iter()
            .any(|opening| opening.contains("startup"));
        assert_eq!(plain, mode == "sslmode=prefer", "{mode}");
    }
}

#[test]
fn whatever_the_server_wants_to_be_told_in_plain_is_not_told_where_tls_is_required() {
    // It denies TLS, and goes on as if it had not been asked: with a question for the password.
    for mode in &modes()[1..] {
        let question = [&b"N"[..], &authentication(3, b"")].concat();
        for tricked in trick_both(mode, answering(question)) {
            assert!(!tricked.connected, "{mode}: {tricked:?}");
            assert_eq!(tricked.heard, [SSL_REQUEST], "{mode}: {tricked:?}");
        }
    }
}

/// A fatal alert, as the whole answer to our first words.
fn alert(description: u8) -> Vec<u8> {
    vec![21, 3, 3, 0, 2, 2, description]
}

#[test]
fn a_server_that_is_too_old_for_walring_alone_gets_no_plain_text() {
    // What libpq does depends on how its OpenSSL is configured.
    let settings = "sslmode=prefer ssl_min_protocol_version=TLSv1";
    let [_, ours] = trick_both(settings, greeting(alert(70)));
    assert_eq!(openings(&ours), ["request, hello"], "{ours:?}");
    assert!(ours.said.concat().contains("no common version"), "{ours:?}");
}

#[test]
fn a_handshake_that_ends_too_early_or_is_none_is_the_end() {
    let cut_hello = [&[22, 3, 3, 0, 122, 2, 0, 0, 118, 3, 3][..], &[7; 20]].concat();
    for mode in modes() {
        for answer in [
            Vec::new(),
            alert(40),
            alert(80),
            alert(70),
            cut_hello.clone(),
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            vec![23, 3, 3, 0, 4, 1, 2, 3, 4],
            vec![22, 3, 3, 255, 255],
            vec![20, 3, 3, 0, 1, 1],
            fatal(),
        ] {
            let both = trick_both(&mode, greeting(answer.clone()));
            let what = format!("{mode}: {answer:?}");
            let [theirs, ours] = &both;
            if (&*mode, &answer) == ("sslmode=prefer", &alert(40)) {
                // Nothing in common: libpq, which has more, may be encrypted by whoever says so to walring.
                assert!(!ours.connected && !theirs.connected, "{what}: {both:?}");
                assert_eq!(openings(ours), ["request, hello"], "{what}: {both:?}");
                continue;
            }
            // What exactly is wrong with it the libraries say in their own words.
            assert!(!ours.connected && !theirs.connected, "{what}: {both:?}");
            assert_eq!(openings(ours), openings(theirs), "{what}: {both:?}");
            assert_eq!(ours.said.len(), theirs.said.len(), "{what}: {both:?}");
            assert!(!ours.said.concat().contains("evil.test"), "{what}: {both:?}");
        }
    }
}

#[test]
fn a_handshake_that_never_ends_is_given_up_in_time() {
    let silent_at = |step: u32| {
        move |peer: &mut Peer| {
            if peer.request()? != SSL_REQUEST[4..] {
                return peer.hang_up();
            }
            if step > 0 {
                peer.send(b"S")?;
            }
            if step > 1 {
                peer.record()?;
                peer.send(&[22, 3, 3, 0, 122, 2, 0, 0])?;
            }
            Ok(())
        }
    };
    let cases = (0..3).flat_map(|step| [(step, "prefer"), (step, "require")]);
    at_once(cases, |(step, mode)| {
        let settings = format!("sslmode={mode} connect_timeout=2");
        assert_same(
            &format!("{mode}, {step}"),
            &trick_both(&settings, silent_at(step)),
        );
    });
}

#[test]
fn tls_that_is_to_begin_at_once_is_not_asked_for() {
    if !Client::newest_libpq().is_new() {
        return;
    }
    for answer in [
        &b"S"[..],
        b"N",
        b"E\0\0\0\x04",
        b"",
        b"\x15\x03\x03\0\x02\x02\x28",
    ] {
        let settings = "sslmode=require sslnegotiation=direct";
        let both = trick_both(settings, move |peer| {
            peer.record()?;
            peer.send(answer)?;
            peer.hang_up()
        });
        for tricked in &both {
            assert!(!tricked.connected, "{both:?}");
            assert_eq!(tricked.heard.len(), 1, "{both:?}");
            assert_eq!(tricked.heard[0][0], 22, "a hello: {both:?}");
        }
    }
}
